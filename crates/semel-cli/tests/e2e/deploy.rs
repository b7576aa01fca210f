//! What `deploy/` ships cannot rot: every configuration in it is read by the program, the unit by systemd.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{Origin, gateway, semel};

fn deploy(file: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy")).join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(deploy(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// How long a unit or a pod gives the gateway before it is killed has to be over its `drain_max`.
async fn drain_seconds(config: &Path) -> u64 {
    let said = semel(&["config", "show", "--config", config.to_str().unwrap()], &[]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let line = said.stdout.lines().find(|line| line.starts_with("drain_max")).unwrap();
    line.split('"').nth(1).unwrap().strip_suffix('s').unwrap().parse().unwrap()
}

fn number_after(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
    line.trim().trim_end_matches('s').parse().unwrap()
}

#[tokio::test]
async fn the_configurations_are_configurations() {
    let folder = tempfile::TempDir::with_prefix("semel-e2e-").unwrap();
    let map = text("kubernetes/config.yaml");
    let (_, block) = map.split_once("semel.toml: |\n").expect("the map has the file");
    let lines: Vec<&str> = block.lines().map(|line| line.strip_prefix("    ").unwrap_or(line)).collect();
    let in_kubernetes = folder.path().join("semel.toml");
    std::fs::write(&in_kubernetes, lines.join("\n")).unwrap();
    for config in [deploy("semel.toml"), in_kubernetes.clone()] {
        let said = semel(&["config", "check", config.to_str().unwrap()], &[]).await;
        assert_eq!(said.code, 0, "{}: {said:?}", config.display());
    }
    let drain = drain_seconds(&deploy("semel.toml")).await;
    assert!(number_after(&text("systemd/semel.service"), "TimeoutStopSec=") > drain);
    assert!(number_after(&text("compose.yaml"), "stop_grace_period:") > drain);
    let drain = drain_seconds(&in_kubernetes).await;
    assert!(number_after(&text("kubernetes/deployment.yaml"), "terminationGracePeriodSeconds:") > drain + 5);
}

/// The words between the first brackets of a line, in JSON or YAML.
fn words(line: &str) -> Vec<String> {
    let (_, list) = line.split_once('[').expect("a list");
    let list = list.trim_end().strip_suffix(']').expect("on one line");
    list.split(',').map(|word| word.trim().trim_matches('"').to_owned()).collect()
}

#[tokio::test]
async fn what_images_and_pods_run_are_commands() {
    let mut commands = Vec::new();
    for line in text("docker/Dockerfile").lines().filter(|line| line.contains("CMD [")) {
        commands.push(words(line).into_iter().filter(|word| word != "/usr/bin/semel").collect());
    }
    let pods = text("kubernetes/deployment.yaml");
    commands.extend(pods.lines().filter(|line| line.trim().starts_with("args: [")).map(words));
    let compose = text("compose.yaml");
    let (_, command) = compose.split_once("command: &serve\n").expect("the gateways' command");
    let items = command.lines().map_while(|line| line.trim().strip_prefix("- "));
    // What the caller of compose fills in.
    let item = |item: &str| item.split('$').next().unwrap_or_default().to_owned();
    commands.push(items.map(item).map(|item| item.replace("upstream=", "upstream=http://127.0.0.1:1")).collect());
    assert_eq!(commands.len(), 5, "{commands:?}");

    // Every flag is known, and the first thing that is wrong is the file.
    let folder = tempfile::TempDir::with_prefix("semel-e2e-").unwrap();
    let file = folder.path().join("semel.toml");
    std::fs::write(&file, "[[[").unwrap();
    for command in commands {
        let command: Vec<String> =
            command.iter().map(|word| word.replace("/etc/semel/semel.toml", file.to_str().unwrap())).collect();
        let said = semel(&command.iter().map(String::as_str).collect::<Vec<_>>(), &[]).await;
        assert!(said.code == 2 && said.stderr.contains("semel.toml:1:"), "{command:?}: {said:?}");
    }
}

#[test]
fn systemd_reads_the_unit_and_finds_it_closed() {
    // The program of the test stands where the package puts its own.
    let folder = tempfile::TempDir::with_prefix("semel-e2e-").unwrap();
    let unit = folder.path().join("semel.service");
    let written = text("systemd/semel.service");
    assert!(written.contains("ExecStart=/usr/bin/semel serve"));
    std::fs::write(&unit, written.replace("/usr/bin/semel", env!("CARGO_BIN_EXE_semel"))).unwrap();
    let said = |args: &[&str]| {
        let output = Command::new("systemd-analyze").args(args).arg(&unit).output();
        let output = output.expect("systemd-analyze is needed: install it, for example with `apt-get install systemd`");
        let all = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&all).into_owned())
    };
    let (fine, words) = said(&["verify"]);
    // An unknown setting is a warning to systemd.
    assert!(fine && words.trim().is_empty(), "{words}");
    // In tenths of systemd's exposure level.
    let (fine, words) = said(&["security", "--no-pager", "--offline=yes", "--threshold=15"]);
    assert!(fine, "{words}");
}

#[tokio::test]
async fn a_gateway_says_whether_it_is_ready() {
    let origin = Origin::start().await;
    let mut gateway = gateway(&origin).start().await;
    let admin = gateway.admin.to_string();
    let ready = semel(&["ready", "--admin", &admin], &[]).await;
    assert_eq!((ready.code, ready.stdout.as_str()), (0, "{\"status\":\"ready\"}\n"), "{ready:?}");
    // By its configuration, as in an image that listens everywhere.
    let folder = tempfile::TempDir::with_prefix("semel-e2e-").unwrap();
    let file = folder.path().join("semel.toml");
    std::fs::write(&file, format!("[gateway]\nadmin = \"0.0.0.0:{}\"\n", gateway.admin.port())).unwrap();
    let ready = semel(&["ready", "--config", file.to_str().unwrap()], &[]).await;
    assert_eq!(ready.code, 0, "{ready:?}");

    // A store that fails is no readiness; nor is a gateway that is gone.
    gateway.file_size_max("0");
    let broken = semel(&["ready", "--admin", &admin], &[]).await;
    assert!(broken.code == 1 && broken.stderr.contains("503"), "{broken:?}");
    gateway.kill9();
    let gone = semel(&["ready", "--admin", &admin], &[]).await;
    assert!(gone.code == 1 && gone.stderr.contains("nobody listens"), "{gone:?}");
    let nowhere = semel(&["ready"], &[]).await;
    assert!(nowhere.code == 2 && nowhere.stderr.contains("--admin"), "{nowhere:?}");
}
