//! A sandbox with its database, and perhaps a gateway in front of it.

use std::{net::SocketAddr, process::ExitStatus};

use semel_servers::PrivatePostgres;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Request, Response, client, get, post, process::Process};

/// How a sandbox is set up. Named like the tests that run in it; see `for_each!`.
#[allow(non_camel_case_types, reason = "they are the names of tests")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// On SQLite in a folder of its own.
    sqlite,
    /// On a PostgreSQL database of its own.
    postgres,
    /// The naive copy on SQLite, behind `semel serve` with the vendor's preset.
    gateway,
}

/// A running sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// What clients connect to: the gateway where there is one.
    pub(crate) addr: SocketAddr,
    /// The sandbox itself, for control requests.
    pub(crate) origin: SocketAddr,
    vendor: &'static str,
    args: Vec<String>,
    process: Process,
    gateway: Option<Process>,
    folder: TempDir,
}

#[allow(dead_code, reason = "every vendor's tests use some of it")]
impl Sandbox {
    /// Starts one that serves every vendor; `vendor` is whom control requests are about, and whose preset the gateway has.
    pub(crate) async fn start(kind: Kind, vendor: &'static str) -> Sandbox {
        Sandbox::start_with(kind, vendor, &[]).await
    }

    /// The same with further arguments for `semel sandbox`.
    pub(crate) async fn start_with(kind: Kind, vendor: &'static str, more: &[&str]) -> Sandbox {
        let folder = TempDir::with_prefix("semel-sandbox-").expect("a temporary folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let database = match kind {
            Kind::sqlite => vec!["--data".to_owned(), path("data")],
            Kind::gateway => vec!["--data".to_owned(), path("data"), "--naive".to_owned()],
            Kind::postgres => {
                // Starting a server takes its time, in which other tests go on.
                let fresh = tokio::task::spawn_blocking(|| {
                    let server = PrivatePostgres::shared();
                    server.url(&server.fresh_database())
                });
                vec!["--database".to_owned(), fresh.await.expect("there is a server")]
            }
        };
        let mut args: Vec<String> = ["sandbox", "--listen", "127.0.0.1:0"].map(str::to_owned).to_vec();
        args.extend(database);
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        let (process, origin) = Process::start(&args).await.unwrap_or_else(|said| panic!("it ended:\n{said}"));
        let mut sandbox = Sandbox { addr: origin, origin, vendor, args, process, gateway: None, folder };
        if kind == Kind::gateway {
            sandbox.start_gateway().await;
        }
        sandbox
    }

    async fn start_gateway(&mut self) {
        let args = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--preset",
            self.vendor,
            "--upstream",
            &format!("http://{}", self.origin),
            "--data",
            &self.folder.path().join("gateway").display().to_string(),
        ];
        let started = Process::start(&args.map(str::to_owned)).await;
        let (gateway, addr) = started.unwrap_or_else(|said| panic!("the gateway ended:\n{said}"));
        (self.gateway, self.addr) = (Some(gateway), addr);
    }

    /// Sends it a request on a connection of its own.
    pub(crate) async fn send(&self, request: &Request) -> Response {
        client::send(self.addr, request).await
    }

    /// The same where the connection may break.
    pub(crate) async fn try_send(&self, request: &Request) -> std::io::Result<Response> {
        client::try_send(self.addr, request).await
    }

    /// Sends a control request: `None` as content for a `GET`.
    pub(crate) async fn control(&self, method: &str, path: &str, content: Option<Value>) -> Response {
        let request = client::request(method, path);
        let request = match content {
            Some(content) => request.header("Content-Type", "application/json").body(content.to_string()),
            None => request,
        };
        client::send(self.origin, &request).await
    }

    async fn controlled(&self, method: &str, path: &str, content: Option<Value>) -> Value {
        let response = self.control(method, path, content).await;
        assert_eq!(response.status, 200, "{method} {path}: {response:?}");
        json(&response)
    }

    /// Makes everything as at first start.
    pub(crate) async fn reset(&self) {
        self.controlled("POST", "/_sandbox/reset", Some(json!({}))).await;
    }

    /// Moves the clock forward.
    pub(crate) async fn advance(&self, ms: u64) {
        self.controlled("POST", "/_sandbox/clock", Some(json!({ "advance_ms": ms }))).await;
    }

    /// The next `times` requests for `op` meet this fault.
    pub(crate) async fn fault(&self, op: &str, kind: &str, times: u64) {
        let ask = json!({ "vendor": self.vendor, "op": op, "kind": kind, "times": times });
        self.controlled("POST", "/_sandbox/faults", Some(ask)).await;
    }

    /// The next request for `op` is answered so much later.
    pub(crate) async fn delay(&self, op: &str, ms: u64) {
        let ask = json!({ "vendor": self.vendor, "op": op, "kind": "delay", "ms": ms });
        self.controlled("POST", "/_sandbox/faults", Some(ask)).await;
    }

    /// Forgets the faults that wait.
    pub(crate) async fn clear_faults(&self) {
        self.controlled("DELETE", "/_sandbox/faults", None).await;
    }

    /// Changes fixtures and settings of the vendor.
    pub(crate) async fn set(&self, wanted: Value) {
        let ask = json!({ "vendor": self.vendor, "set": wanted });
        self.controlled("POST", "/_sandbox/fixtures", Some(ask)).await;
    }

    /// The vendor's keys and ids.
    pub(crate) async fn fixtures(&self) -> Value {
        self.controlled("GET", "/_sandbox/fixtures", None).await[self.vendor].take()
    }

    /// What really exists at the vendor.
    pub(crate) async fn ledger(&self) -> Value {
        self.controlled("GET", &format!("/_sandbox/ledger?vendor={}", self.vendor), None).await
    }

    /// The records that really exist at the vendor.
    pub(crate) async fn records(&self) -> Vec<Value> {
        self.ledger().await["records"].as_array().expect("a list").clone()
    }

    /// The debits that really exist at the vendor.
    pub(crate) async fn debits(&self) -> Vec<Value> {
        self.ledger().await["debits"].as_array().expect("a list").clone()
    }

    /// Kills the sandbox, as a power cut would.
    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Asks the sandbox to end, and waits until it has.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.process.stop().await
    }

    /// Starts the sandbox again on the same data, where it listened before.
    pub(crate) async fn start_again(&mut self) {
        let mut args = self.args.clone();
        let listen = args.iter().position(|arg| arg == "--listen").expect("it was told where to listen");
        args[listen + 1] = self.origin.to_string();
        let (process, origin) = Process::start(&args).await.unwrap_or_else(|said| panic!("it ended:\n{said}"));
        assert_eq!(origin, self.origin);
        self.process = process;
    }

    /// How it was started.
    pub(crate) fn args(&self) -> &[String] {
        &self.args
    }

    /// What becomes of a second one on the same data.
    pub(crate) async fn try_twin(&self) -> Result<(), String> {
        Process::start(&self.args).await.map(drop)
    }

    /// Where the sandbox may keep files of a test.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Everything that it has printed.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// The page that people see first.
    pub(crate) async fn index(&self) -> Response {
        client::send(self.origin, &get("/")).await
    }

    /// A `POST` of JSON to the vendor.
    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], content: &Value) -> Response {
        let request = post(path).body(content.to_string());
        self.send(&headers.iter().fold(request, |request, (name, value)| request.header(name, value))).await
    }

    /// A `GET` from the vendor.
    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.send(&headers.iter().fold(get(path), |request, (name, value)| request.header(name, value))).await
    }
}

/// The content of a response, which is JSON.
#[allow(dead_code, reason = "every vendor's tests use some of it")]
pub(crate) fn json(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("no JSON ({error}): {response:?}"))
}

/// The responses to `requests`, all sent at once, in their order.
#[allow(dead_code, reason = "every vendor's tests use some of it")]
pub(crate) async fn together(addr: SocketAddr, requests: Vec<Request>) -> Vec<Response> {
    let sent = requests.into_iter().map(|request| tokio::spawn(async move { client::send(addr, &request).await }));
    let mut responses = Vec::new();
    for sending in sent.collect::<Vec<_>>() {
        responses.push(sending.await.expect("the client does not panic"));
    }
    responses
}
