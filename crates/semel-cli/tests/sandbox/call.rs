//! `semel call` against the sandbox, killed at every step under every fault: whoever resumes leaves one record.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus, Output, Stdio},
};

use serde_json::{Value, json};

use crate::{
    harness::{Sandbox, for_each, within},
    skeleton::balanced,
};

const VENDOR: &str = "yonne";
const CREATE: &str = "/api/v1/external/create-order";
const OP: &str = "POST /api/v1/external/create-order";
const STEPS: [&str; 4] = ["before-journal", "before-send", "after-reply", "after-journal"];
const FAULTS: [&str; 5] = ["none", "drop_before", "drop_after", "status_before:503", "status_after:500"];
const SIGKILL: i32 = 9;

/// A call of one operation, with a journal of its own.
async fn call(sandbox: &Sandbox, operation: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
    command.args(["call", "POST", &format!("http://{}{CREATE}", sandbox.addr), "--preset", VENDOR, "--id", operation]);
    command.args(["--json", r#"{"delivery_fee":7350,"delivery_lat":-13.9831,"delivery_lng":33.7812}"#]);
    let key = sandbox.fixtures().await["live_key"].as_str().expect("a text").to_owned();
    command.args(["--header", &format!("X-API-Key: {key}"), "--journal"]).arg(sandbox.folder().join(operation));
    command
}

async fn run(mut command: Command) -> (ExitStatus, Value, String) {
    let waiting = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output());
    let Output { status, stdout, stderr } = within("the call ends", waiting).await.expect("no panic").expect("it ran");
    (status, serde_json::from_slice(&stdout).unwrap_or_default(), String::from_utf8_lossy(&stderr).into_owned())
}

for_each!(sqlite, postgres => async fn l09_e5_e43_killed_at_every_step_under_every_fault_there_is_one_record(sandbox: Sandbox) {
    for fault in FAULTS {
        for step in STEPS {
            sandbox.reset().await;
            if fault != "none" {
                sandbox.fault(OP, fault, 1).await;
            }
            let operation = format!("{step}-{}", fault.replace(':', "-"));
            let mut killed = call(&sandbox, &operation).await;
            killed.args(["--stop-at", step]);
            let (status, _, log) = run(killed).await;
            assert_eq!(status.signal(), Some(SIGKILL), "{operation}: {log}");
            // The same action in hand again is the same operation.
            let (status, reply, log) = run(call(&sandbox, &operation).await).await;
            assert_eq!(status.code(), Some(0), "{operation}: {log}");
            let ledger = sandbox.ledger().await;
            assert_eq!(ledger["records"].as_array().map(Vec::len), Some(1), "{operation}: {ledger:#}");
            assert_eq!(ledger["records"][0]["id"], reply["order_id"], "{operation}");
            balanced(&ledger);
        }
    }
});

for_each!(sqlite, postgres => async fn l09_e43_killed_while_no_reply_comes_there_is_one_record(sandbox: Sandbox) {
    for fault in ["stall", "delay"] {
        sandbox.reset().await;
        sandbox.control("POST", "/_sandbox/faults", Some(json!({ "vendor": VENDOR, "op": OP, "kind": fault, "ms": 60_000 }))).await;
        let mut waits = call(&sandbox, fault).await;
        let mut waits = waits.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
        let committed = async {
            while sandbox.records().await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        within("the order is made", committed).await;
        waits.kill().expect("it still waits");
        waits.wait().expect("it is dead");
        let (status, reply, log) = run(call(&sandbox, fault).await).await;
        assert_eq!(status.code(), Some(0), "{fault}: {log}");
        assert_eq!(reply["idempotent_replay"], true, "{fault}: {log}");
        let ledger = sandbox.ledger().await;
        assert_eq!(ledger["records"].as_array().map(Vec::len), Some(1), "{fault}: {ledger:#}");
        balanced(&ledger);
    }
});
