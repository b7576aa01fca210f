//! The OpenAPI documents: valid, and true of what the sandbox answers. The judges are tools of others.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::harness::{Kind, Sandbox};

/// Where `cargo xtask test` installs what judges.
fn tool(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../venv/bin");
    let tool = folder.join(name);
    assert!(tool.is_file(), "this test needs {name}: run `cargo xtask test`, which installs it");
    tool
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().expect("it starts")).await.expect("it does not panic")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_document_is_valid_openapi_3_1() {
    let sandbox = Sandbox::start(Kind::sqlite, "yonne").await;
    for vendor in ["etherfuse", "credicorp", "yonne", "nora"] {
        let document = sandbox.control("GET", &format!("/_sandbox/openapi/{vendor}.json"), None).await;
        let file = sandbox.folder().join(format!("{vendor}.json"));
        std::fs::write(&file, &document.body).expect("the document is written");
        let mut command = Command::new(tool("openapi-spec-validator"));
        command.args(["--schema", "3.1"]).arg(&file);
        let output = run(command).await;
        assert!(output.status.success(), "{vendor}: {}", said(&output));
        let document: Value = serde_json::from_slice(&document.body).expect("JSON");
        assert!(!document["paths"].as_object().expect("paths").is_empty(), "{vendor} documents nothing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e13_there_is_an_index_of_documents_for_tools() {
    let sandbox = Sandbox::start(Kind::sqlite, "yonne").await;
    let index = sandbox.control("GET", "/llms.txt", None).await;
    let index = String::from_utf8(index.body).expect("text");
    let links: Vec<&str> = index.split("](").skip(1).map(|rest| rest.split_once(')').expect("a link ends").0).collect();
    assert_eq!(links.len(), 5, "{index}");
    for link in links {
        assert_eq!(sandbox.control("GET", link, None).await.status, 200, "{link}");
    }
}

/// Lets schemathesis ask everything that the vendor's document allows, and some that it does not.
async fn is_true(vendor: &'static str, set: Value, credential: impl FnOnce(&Value) -> Option<String>) {
    let sandbox = Sandbox::start(Kind::sqlite, vendor).await;
    if set.as_object().is_some_and(|set| !set.is_empty()) {
        sandbox.set(set).await;
    }
    let mut command = Command::new(tool("schemathesis"));
    command.arg("run").arg(format!("http://{}/_sandbox/openapi/{vendor}.json", sandbox.addr));
    command.args([
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
    ]);
    command.args(["--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--seed", "7"]);
    command.args(["--continue-on-failure", "--no-color", "--warnings", "off"]);
    if let Some(header) = credential(&sandbox.fixtures().await) {
        command.args(["--header", &header]);
    }
    // It leaves notes of its own where it runs.
    command.current_dir(sandbox.folder());
    let output = run(command).await;
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    let passed = said.lines().find_map(|line| line.trim().split_once(" generated, ")?.0.parse::<u32>().ok());
    assert!(passed.is_some_and(|cases| cases >= 100), "too few cases prove nothing: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etherfuse_answers_as_documented() {
    is_true("etherfuse", json!({}), |fixtures| Some(format!("Authorization: {}", fixtures["api_key"].as_str()?))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credicorp_answers_as_documented() {
    // Otherwise nearly every answer is 429.
    is_true("credicorp", json!({ "rate_limit": 1_000_000 }), |_| None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn yonne_answers_as_documented() {
    is_true("yonne", json!({}), |fixtures| Some(format!("X-API-Key: {}", fixtures["live_key"].as_str()?))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nora_answers_as_documented() {
    is_true("nora", json!({}), |fixtures| Some(format!("X-API-Key: {}", fixtures["test_key"].as_str()?))).await;
}
