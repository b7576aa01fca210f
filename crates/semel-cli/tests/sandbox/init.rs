//! `semel init` on the sandbox's own documents: it finds what the presets say, and what it writes protects.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use expect_test::{ExpectFile, expect, expect_file};
use semel_core::{
    key::{Grammar, KeyRule, Presence},
    policy::{Policy, Preset},
};
use serde_json::json;

use crate::harness::{Kind, Process, Sandbox, json, post, send};

/// Runs `semel` in a folder, with this on its standard input.
async fn semel(folder: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
    command.args(args).current_dir(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_vec();
    let run = move || {
        let mut child = command.spawn().expect("semel starts");
        // One that does not read its input may be gone by now.
        let _ = child.stdin.take().expect("it is piped").write_all(&input);
        child.wait_with_output().expect("it ends")
    };
    tokio::task::spawn_blocking(run).await.expect("it does not panic")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn document(sandbox: &Sandbox, vendor: &str) -> Vec<u8> {
    let response = sandbox.control("GET", &format!("/_sandbox/openapi/{vendor}.json"), None).await;
    assert_eq!(response.status, 200, "{response:?}");
    response.body
}

/// The text with its proposals taken: what looks like a setting in a comment.
fn taken(text: &str) -> String {
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b"_.-".contains(&b));
    let line = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if rest.split_once(" = ").is_some_and(|(name, _)| is_name(name)) => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|text| line(text) + "\n").collect()
}

async fn check(preset: Preset, expected: &ExpectFile) {
    let vendor = preset.name();
    let sandbox = Sandbox::start(Kind::sqlite, vendor).await;
    let input = document(&sandbox, vendor).await;
    let output = semel(sandbox.folder(), &["init", "-", "--output", "-"], &input).await;
    assert!(output.status.success(), "{}", told(&output));
    let text = String::from_utf8(output.stdout).expect("text");
    expected.assert_eq(&text.replace(env!("CARGO_PKG_VERSION"), "(version)"));
    let all = taken(&text);
    for (name, text) in [("as-written.toml", &text), ("taken.toml", &all)] {
        std::fs::write(sandbox.folder().join(name), text).expect("the file is written");
        let checked = semel(sandbox.folder(), &["config", "check", name], b"").await;
        assert!(checked.status.success(), "{}", told(&checked));
    }
    agrees(preset, &all);
}

/// Whatever key the preset has for a route, the document hints at, where it is a header or the id of what is made.
fn agrees(preset: Preset, text: &str) {
    let file: toml::Table = text.parse().expect("TOML");
    let routes: Vec<&toml::Table> =
        file["route"].as_array().expect("a list").iter().filter_map(toml::Value::as_table).collect();
    let mut compared = 0;
    for route in Policy::preset(preset).routes() {
        let ours = routes.iter().find(|ours| ours["path"].as_str() == Some(route.path.as_str()));
        let ours = ours.unwrap_or_else(|| panic!("no route for {}", route.path.as_str()));
        assert_eq!(ours["methods"].as_array().expect("a list").len(), route.methods.len());
        assert_eq!(ours["methods"][0].as_str(), Some(route.methods[0].as_str()));
        let said = |name: &str| ours.get(name).and_then(toml::Value::as_str);
        let (grammar, presence) = match &route.key {
            KeyRule::Header { name, grammar, presence, .. } => {
                assert_eq!(said("key"), None);
                assert!(name.as_str().eq_ignore_ascii_case(said("key_header").unwrap_or("Idempotency-Key")));
                (grammar, presence)
            }
            KeyRule::Member { pointer, grammar, presence } if preset == Preset::Etherfuse => {
                assert_eq!((said("key"), said("key_member")), (Some("member"), Some(pointer.as_str())));
                assert_eq!(said("on_completed"), Some("conflict"));
                let resource = route.resource.as_ref().map(semel_core::policy::PathTemplate::as_str);
                assert!(said("resource").is_none_or(|ours| Some(ours) == resource), "{resource:?}");
                (grammar, presence)
            }
            // A tax number is no id that somebody chose, and a signature fills a slot: no document says so.
            KeyRule::Member { .. } | KeyRule::Operation => continue,
        };
        let grammar = match grammar {
            Grammar::Any => "any",
            Grammar::Uuid => "uuid",
            Grammar::UuidV4 => "uuid-v4",
            Grammar::UuidV7 => "uuid-v7",
        };
        assert_eq!(said("key_grammar").unwrap_or("any"), grammar, "{}", route.path.as_str());
        let presence = match presence {
            Presence::Optional => "optional",
            Presence::Required => "required",
        };
        assert_eq!(said("key_presence").unwrap_or("optional"), presence, "{}", route.path.as_str());
        compared += 1;
    }
    assert!(compared >= 1, "nothing was compared");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e1_e2_e8_e12_etherfuse_names_what_it_makes() {
    check(Preset::Etherfuse, &expect_file!["init/etherfuse.toml"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e14_e18_credicorp_takes_a_key_for_every_submission() {
    check(Preset::Credicorp, &expect_file!["init/credicorp.toml"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e25_yonne_takes_a_key_for_an_order() {
    check(Preset::Yonne, &expect_file!["init/yonne.toml"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e35_e37_nora_takes_a_uuid_for_an_intent() {
    check(Preset::Nora, &expect_file!["init/nora.toml"]).await;
}

/// A gateway with a file in front of a sandbox that knows no keys.
async fn serve(sandbox: &Sandbox, config: &Path) -> (Process, std::net::SocketAddr) {
    let path = |path: PathBuf| path.display().to_string();
    let args = [
        "serve".to_owned(),
        "--config".to_owned(),
        path(config.to_owned()),
        "--listen".to_owned(),
        "127.0.0.1:0".to_owned(),
        "--upstream".to_owned(),
        format!("http://{}", sandbox.origin),
        "--data".to_owned(),
        path(sandbox.folder().join("gateway")),
    ];
    Process::start(&args).await.unwrap_or_else(|said| panic!("the gateway ended:\n{said}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e26_what_it_writes_answers_a_retry_with_the_reply_to_the_first() {
    let sandbox = Sandbox::start_with(Kind::sqlite, "yonne", &["--naive"]).await;
    std::fs::write(sandbox.folder().join("yonne.json"), document(&sandbox, "yonne").await).expect("it is written");
    let output = semel(sandbox.folder(), &["init", "yonne.json"], b"").await;
    assert!(output.status.success(), "{}", told(&output));
    let (_gateway, addr) = serve(&sandbox, &sandbox.folder().join("semel.toml")).await;
    let order = |key: &str| {
        let content = json!({ "delivery_fee": 100, "delivery_lat": -13.98, "delivery_lng": 33.78 }).to_string();
        let request = post("/api/v1/external/create-order").header("X-API-Key", "yonne_live_sandbox_1");
        request.header("Idempotency-Key", key).body(content)
    };
    let first = send(addr, &order("order-1")).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (200, None), "{first:?}");
    let again = send(addr, &order("order-1")).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{again:?}");
    assert_eq!(again.body, first.body);
    assert_eq!(sandbox.records().await.len(), 1);
    // The sandbox by itself would have made two.
    assert_eq!(send(sandbox.origin, &order("order-1")).await.status, 200);
    assert_eq!(sandbox.records().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e1_e3_what_it_proposes_refuses_an_id_that_is_taken() {
    let sandbox = Sandbox::start_with(Kind::sqlite, "etherfuse", &["--naive"]).await;
    let input = document(&sandbox, "etherfuse").await;
    let output = semel(sandbox.folder(), &["init", "-", "--output", "-"], &input).await;
    let config = sandbox.folder().join("taken.toml");
    std::fs::write(&config, taken(&String::from_utf8(output.stdout).expect("text"))).expect("it is written");
    let (_gateway, addr) = serve(&sandbox, &config).await;
    let key = sandbox.fixtures().await["api_key"].as_str().expect("a key").to_owned();
    let content = json!({ "id": "8f14e45f-ceea-467f-a9d0-9a3c3f1b2c4d", "displayName": "Ana" }).to_string();
    let request = post("/ramp/organization").header("Authorization", &key).body(content);
    let before = sandbox.records().await.len();
    assert_eq!(send(addr, &request).await.status, 201);
    let again = send(addr, &request).await;
    assert_eq!((again.status, json(&again)["code"].as_str()), (409, Some("resource-exists")), "{again:?}");
    assert_eq!(sandbox.records().await.len(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_there_stays_unless_it_is_forced() {
    let folder = tempfile::TempDir::with_prefix("semel-init-").expect("a folder");
    let file = folder.path().join("semel.toml");
    let document = b"openapi: 3.0.0\npaths:\n  /orders:\n    post: {}\n";
    std::fs::write(folder.path().join("api.yaml"), document).expect("it is written");
    let init = async |args: &[&str]| {
        let output = semel(folder.path(), args, document).await;
        assert!(output.stdout.is_empty(), "what it says is no part of a file");
        (output.status.code(), told(&output))
    };

    let (code, said) = init(&["init", "api.yaml"]).await;
    assert_eq!(code, Some(0));
    expect![[r#"
        semel init: operations covered: 1; that take no key and deserve one: 0; to look at: 2
        api.yaml: gateway.upstream is the API itself, as the gateway reaches it; the document names no server
        api.yaml: the document does not say which header tells callers apart; unless set, these do
    "#]]
    .assert_eq(&said);
    let first = std::fs::read_to_string(&file).expect("it is there");
    std::fs::write(&file, "# mine\n").expect("it is written");
    let (code, said) = init(&["init", "api.yaml"]).await;
    assert_eq!(code, Some(2));
    expect![[r#"
        semel: semel.toml is there already: give --force, or another --output
    "#]]
    .assert_eq(&said);
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "# mine\n");
    assert_eq!(init(&["init", "--force", "api.yaml"]).await.0, Some(0));
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), first);

    // What cannot be used leaves no file behind, and takes none away.
    let (code, said) = init(&["init", "--force", "no-such.yaml"]).await;
    assert_eq!(code, Some(2));
    expect![[r#"
        semel: cannot read no-such.yaml: No such file or directory (os error 2)
    "#]]
    .assert_eq(&said);
    std::fs::write(folder.path().join("old.yaml"), "info: {}\nswagger: '2.0'\n").expect("it is written");
    let (code, said) = init(&["init", "old.yaml", "--output", "other.toml"]).await;
    assert_eq!(code, Some(2));
    expect![[r#"
        semel: old.yaml:2: this is a Swagger document: convert it to OpenAPI 3 first, for example with swagger2openapi
    "#]]
    .assert_eq(&said);
    assert!(!folder.path().join("other.toml").exists());
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), first);
}
