//! The gateway as a process of its own: started, watched, stopped, killed, started again on the same data.

use std::{
    fs::Permissions,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
};

use tempfile::TempDir;
use tokio::sync::watch;

use super::{Origin, Request, Response, send, until, within};

/// How a gateway is to be started.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    scheme: &'static str,
    origin: SocketAddr,
    folder: Arc<TempDir>,
    config: Option<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    clock: Option<String>,
}

/// The secret of all gateways that are started on a shared store: the tests play the operator who copies it.
const SECRET: [u8; 32] = *b"the secret of every test gateway";

/// A gateway in front of `origin`, without a config file, on a data folder of its own.
pub(crate) fn gateway(origin: &Origin) -> Setup {
    let folder = TempDir::with_prefix("semel-e2e-").expect("a temporary folder");
    Setup {
        scheme: "http",
        origin: origin.addr,
        folder: Arc::new(folder),
        config: None,
        args: Vec::new(),
        env: Vec::new(),
        clock: None,
    }
}

impl Setup {
    /// With this config file.
    pub(crate) fn config(self, toml: &str) -> Setup {
        Setup { config: Some(toml.to_owned()), ..self }
    }

    /// With one more argument.
    pub(crate) fn arg(mut self, arg: &str) -> Setup {
        self.args.push(arg.to_owned());
        self
    }

    /// With one more environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Setup {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// On a store, which is not prepared here (see [`migrate`](super::migrate)). Whoever is on the same shared store has
    /// the same secret, so that `gateway(&origin).on(url)` twice are two gateways of one service, on data folders of
    /// their own.
    pub(crate) fn on(self, store: &str) -> Setup {
        let file = self.folder.path().join("secret-of-all");
        std::fs::write(&file, SECRET).expect("the secret is written");
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("its mode is set");
        self.on_with_own_secret(store).arg("--secret-file").arg(&file.display().to_string())
    }

    /// The same, with the secret that is minted in its data folder.
    pub(crate) fn on_with_own_secret(self, store: &str) -> Setup {
        self.arg("--store").arg(store)
    }

    /// With the wall clock that far from the true one, such as `+24h`; in libfaketime's words.
    pub(crate) fn clock(self, offset: &str) -> Setup {
        Setup { clock: Some(offset.to_owned()), ..self }
    }

    /// With another origin.
    pub(crate) fn origin(self, origin: &Origin) -> Setup {
        Setup { origin: origin.addr, ..self }
    }

    /// With another address as its origin, where perhaps nobody listens.
    pub(crate) fn origin_at(self, origin: SocketAddr) -> Setup {
        Setup { origin, ..self }
    }

    /// With an origin that is reached by TLS.
    pub(crate) fn https(self) -> Setup {
        Setup { scheme: "https", ..self }
    }

    /// A folder of its own, which is gone with it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where its config file is, if it has one.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.path().join("semel.toml")
    }

    /// Where it keeps its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The file that its wall clock is read from while it runs; see [`Setup::clock`].
    pub(crate) fn clock_file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// Starts it, and waits until it serves.
    pub(crate) async fn start(&self) -> Gateway {
        self.try_start().await.unwrap_or_else(|said| panic!("the gateway ended before it was ready:\n{said}"))
    }

    /// The same where it may refuse to start: then what it said.
    pub(crate) async fn try_start(&self) -> Result<Gateway, String> {
        let mut child = self.command().spawn().expect("the gateway starts");
        let log = Arc::new(Log { text: Mutex::new(String::new()), lines: watch::Sender::new(0) });
        let reading: Vec<std::thread::JoinHandle<()>> = [
            Box::new(child.stderr.take().expect("it is piped")) as Box<dyn std::io::Read + Send>,
            Box::new(child.stdout.take().expect("it is piped")),
        ]
        .into_iter()
        .map(|pipe| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    log.text.lock().unwrap().push_str(&(line + "\n"));
                    log.lines.send_modify(|lines| *lines += 1);
                }
                log.lines.send_modify(|lines| *lines += 1);
            })
        })
        .collect();
        let mut gateway = Gateway {
            setup: self.clone(),
            addr: SocketAddr::from(([0, 0, 0, 0], 0)),
            admin: SocketAddr::from(([0, 0, 0, 0], 0)),
            child,
            log,
            reading,
            end: None,
        };
        let mut lines = gateway.log.lines.subscribe();
        let addresses = within("the gateway is ready", async {
            loop {
                if let Some(addresses) = bound(&gateway.log()) {
                    return Some(addresses);
                }
                if let Ok(Some(status)) = gateway.child.try_wait() {
                    gateway.end = Some(status);
                    return None;
                }
                let _ = tokio::time::timeout(std::time::Duration::from_millis(50), lines.changed()).await;
            }
        })
        .await;
        let Some((addr, admin)) = addresses else {
            gateway.ended().await;
            return Err(gateway.log());
        };
        (gateway.addr, gateway.admin) = (addr, admin);
        Ok(gateway)
    }

    /// Runs it to its end, where it must not start.
    pub(crate) async fn run(&self) -> Said {
        said("semel serve", self.command().into()).await
    }

    /// Runs `semel store NAME` on the store that it is to be started on.
    pub(crate) async fn store_command(&self, name: &str, args: &[&str]) -> Said {
        let mut command = program();
        command.args(["store", name]).arg("--data").arg(self.data()).args(&self.args).args(args);
        said(name, command).await
    }

    fn command(&self) -> Command {
        // SIGXFSZ is ignored, so that a file size limit set on the running process is a failing write and not its death.
        let mut command = Command::new("sh");
        command.args(["-c", r#"trap '' XFSZ; exec "$0" "$@""#, env!("CARGO_BIN_EXE_semel")]);
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.arg("--upstream").arg(format!("{}://{}", self.scheme, self.origin));
        command.arg("--data").arg(self.data());
        if let Some(config) = &self.config {
            let file = self.config_file();
            std::fs::write(&file, config).expect("the config file is written");
            command.arg("--config").arg(file);
        }
        command.args(&self.args);
        if let Some(offset) = &self.clock {
            std::fs::write(self.clock_file(), offset).expect("the clock file is written");
            command.env("LD_PRELOAD", faketime());
            command.env("FAKETIME_TIMESTAMP_FILE", self.clock_file());
            command.env("FAKETIME_NO_CACHE", "1");
            // Durations stay true: what is tested is what a wrong or later wall clock does.
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            command.env("DONT_FAKE_MONOTONIC", "1");
        }
        for name in UNSET {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// What must not reach a process under test from outside.
const UNSET: [&str; 7] =
    ["RUST_LOG", "SEMEL_LOG", "SEMEL_STORE", "SEMEL_STORE_PASSWORD", "SEMEL_SECRET_FILE", "SEMEL_SECRET",
    "SEMEL_ADMIN_TOKEN_FILE"];

/// What a command of the program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its exit code; -1 if a signal ended it.
    pub(crate) code: i32,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
}

/// Runs the program with these arguments and environment variables to its end.
pub(crate) async fn semel(args: &[&str], env: &[(&str, &str)]) -> Said {
    let mut command = program();
    command.args(args).envs(env.iter().copied());
    said(&format!("semel {args:?}"), command).await
}

fn program() -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_semel"));
    for name in UNSET {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

async fn said(what: &str, mut command: tokio::process::Command) -> Said {
    let output = within(&format!("the end of {what}"), command.kill_on_drop(true).output()).await;
    let output = output.expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it speaks UTF-8");
    Said { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Prepares a PostgreSQL database for gateways, as an operator does.
pub(crate) async fn migrate(store: &str) {
    let said = semel(&["store", "migrate", "--store", store], &[]).await;
    assert_eq!(said.code, 0, "{said:?}");
}

/// The library that gives a process another wall clock. Its absence fails the test: a skipped test proves nothing.
fn faketime() -> PathBuf {
    let found = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"]
        .map(|folder| Path::new(folder).join("faketime/libfaketimeMT.so.1"))
        .into_iter()
        .find(|file| file.exists());
    found.expect("libfaketime is needed to test expiry: install it, for example with `apt-get install libfaketime`")
}

#[derive(Debug)]
struct Log {
    text: Mutex<String>,
    lines: watch::Sender<usize>,
}

/// A running gateway. It is killed when it is dropped, and its log shown when the test failed.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// How it was started.
    pub(crate) setup: Setup,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    /// Where its admin listener is.
    pub(crate) admin: SocketAddr,
    child: Child,
    log: Arc<Log>,
    reading: Vec<std::thread::JoinHandle<()>>,
    end: Option<ExitStatus>,
}

impl Gateway {
    /// Sends it a request on a connection of its own.
    pub(crate) async fn send(&self, request: &Request) -> Response {
        send(self.addr, request).await
    }

    /// Everything that it has printed.
    pub(crate) fn log(&self) -> String {
        self.log.text.lock().unwrap().clone()
    }

    /// Kills it as a power cut would, without a chance to tidy up.
    pub(crate) fn kill9(&mut self) {
        self.child.kill().expect("it can be killed");
        self.end = Some(self.child.wait().expect("it can be waited for"));
    }

    /// Kills it, and starts it again on the same data.
    pub(crate) async fn restart(mut self) -> Gateway {
        self.kill9();
        self.setup.clone().start().await
    }

    /// Kills it, and starts it again on the same data with another setup.
    pub(crate) async fn restart_with(mut self, change: impl FnOnce(Setup) -> Setup) -> Gateway {
        self.kill9();
        change(self.setup.clone()).start().await
    }

    /// Sends it a signal, such as `TERM`, `STOP` or `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        run(&format!("kill -{name} {}", self.child.id()));
    }

    /// Makes every write to a file fail from now on (`"0"`), or succeed again (`"unlimited"`).
    pub(crate) fn file_size_max(&self, bytes: &str) {
        run(&format!("prlimit --pid {} --fsize={bytes}:", self.child.id()));
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        until("the gateway ends", async || {
            self.end = self.end.or_else(|| self.child.try_wait().expect("it can be waited for"));
            self.end.is_some()
        })
        .await;
        for thread in self.reading.drain(..) {
            thread.join().expect("the log is read to its end");
        }
        self.end.expect("it has ended")
    }

    /// How much memory it has, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.end.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the gateway said\n{}---", self.log());
        }
    }
}

pub(super) fn run(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().expect("there is a shell");
    assert!(status.success(), "{command}: {status}");
}

/// The addresses of the two listeners, once it has told both.
fn bound(log: &str) -> Option<(SocketAddr, SocketAddr)> {
    let address = |what: &str| {
        let line = log.lines().find(|line| line.contains(what))?;
        let rest = &line[line.find(what)? + what.len()..];
        let at = rest.find("127.0.0.1:")?;
        let end = rest[at + 10..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |end| at + 10 + end);
        rest[at..end].parse().ok()
    };
    Some((address("listening on")?, address("operators")?))
}
