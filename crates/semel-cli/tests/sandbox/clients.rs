//! Clients in the shape that each vendor's own page shows, run with Node.js, under every fault. Whatever happens on the
//! wire, one operation leaves one record.

use std::{
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::{
    harness::{Kind, Sandbox, within},
    skeleton::balanced,
};

/// Every kind of fault, and how many attempts in a row meet it: as many as a client that tries three times survives, but
/// only one where it waits for its time-out.
const FAULTS: [(&str, u64); 7] = [
    ("none", 0),
    ("drop_before", 2),
    ("drop_after", 2),
    ("status_before:503", 2),
    ("status_after:500", 2),
    ("delay", 1),
    ("stall", 1),
];
/// Those after which the effect is there.
const LANDED: [&str; 4] = ["drop_after", "status_after:500", "delay", "stall"];
/// How long a client waits where it waits for nothing. Far over what a loaded machine needs, and no more than a test may
/// take.
const TIMEOUT_MS: u64 = 3_000;
/// Longer than that.
const DELAY_MS: u64 = 60_000;

/// Makes a test of each database.
macro_rules! on_both {
    ($vendor:literal => async fn $name:ident($sandbox:ident) $body:block) => {
        mod $name {
            #[allow(unused_imports, reason = "a body may need none of it")]
            use super::*;

            async fn test($sandbox: Sandbox) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                test(Sandbox::start(Kind::sqlite, $vendor).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                test(Sandbox::start(Kind::postgres, $vendor).await).await;
            }
        }
    };
}

/// Sets what a client needs besides its own settings, which win.
fn start(sandbox: &Sandbox, client: &str, own: &Value) -> Child {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/sandbox/clients/{client}.mjs"));
    let mut settings = json!({
        "base": format!("http://{}", sandbox.addr), "timeout_ms": TIMEOUT_MS, "pause_ms": 20, "attempts": 6,
    });
    settings.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    let mut command = Command::new("node");
    command.arg(file).arg(settings.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("this test needs node: run `cargo xtask test`, which installs it")
}

/// Runs a client to its end: what it reports, and what it logged.
async fn run(sandbox: &Sandbox, client: &str, own: &Value) -> (Value, String) {
    let child = start(sandbox, client, own);
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output());
    let Output { stdout, stderr, .. } = within("the client ends", waiting).await.expect("no panic").expect("it ran");
    let log = String::from_utf8_lossy(&stderr).into_owned();
    let report = serde_json::from_slice(&stdout);
    (report.unwrap_or_else(|error| panic!("{error}: {}{log}", String::from_utf8_lossy(&stdout))), log)
}

/// Sets the fault up, if it is one.
async fn prepare(sandbox: &Sandbox, op: &str, (kind, times): (&str, u64)) {
    sandbox.reset().await;
    match kind {
        "none" => {}
        "delay" => {
            for _ in 0..times {
                sandbox.delay(op, DELAY_MS).await;
            }
        }
        kind => sandbox.fault(op, kind, times).await,
    }
}

/// The attempts that a client reports.
fn attempts(report: &Value) -> &[Value] {
    report["attempts"].as_array().expect("a list")
}

fn state_file(sandbox: &Sandbox, name: &str) -> String {
    sandbox.folder().join(name).display().to_string()
}

async fn only_record(sandbox: &Sandbox, about: &str) -> Value {
    let ledger = sandbox.ledger().await;
    let records = ledger["records"].as_array().expect("a list");
    assert_eq!(records.len(), 1, "{about}: {ledger:#}");
    records[0].clone()
}

// --- Etherfuse

const RAMP_ORDER: &str = "POST /ramp/order";

async fn etherfuse(sandbox: &Sandbox, state: &str) -> Value {
    let fixtures = sandbox.fixtures().await;
    json!({
        "api_key": fixtures["api_key"], "customer_id": fixtures["customer_id"],
        "bank_account_id": fixtures["bank_account_ids"][0], "public_key": fixtures["public_key"], "amount": "100",
        "quote_assets": { "type": "onramp", "sourceAsset": "MXN", "targetAsset": "USDC" },
        "state_file": state_file(sandbox, state),
    })
}

/// Orders, without the quotes that they are made from.
async fn orders(sandbox: &Sandbox) -> Vec<Value> {
    sandbox.records().await.into_iter().filter(|record| record["kind"] == "order").collect()
}

on_both!("etherfuse" => async fn e4_e6_e7_e8_e9_the_documented_create_makes_one_order_under_every_fault(sandbox) {
    for (nth, fault) in FAULTS.into_iter().enumerate() {
        prepare(&sandbox, RAMP_ORDER, fault).await;
        let own = etherfuse(&sandbox, &format!("state{nth}")).await;
        let (report, _) = run(&sandbox, "etherfuse", &own).await;
        assert!(report["returned"]["orderId"].is_string(), "{fault:?}: {report:#}");
        assert_eq!(report["returned"]["orderId"], report["returned"]["wanted"], "{fault:?}: {report:#}");
        assert!(attempts(&report).len() as u64 > fault.1, "{fault:?}: {report:#}");
        let orders = orders(&sandbox).await;
        assert_eq!(orders.len(), 1, "{fault:?}: {orders:#?}");
        assert_eq!(orders[0]["id"], report["returned"]["wanted"], "{fault:?}");
        let last = &attempts(&report).last().unwrap()["status"];
        assert!(*last == 409 || !LANDED.contains(&fault.0), "what landed is told as a conflict: {fault:?}: {report:#}");
    }
});

on_both!("etherfuse" => async fn e5_an_id_that_was_written_down_survives_the_client(sandbox) {
    sandbox.fault(RAMP_ORDER, "stall", 1).await;
    let mut own = etherfuse(&sandbox, "state").await;
    own["timeout_ms"] = json!(600_000);
    let mut first = start(&sandbox, "etherfuse", &own);
    within("the order is there", async { while orders(&sandbox).await.is_empty() {} }).await;
    first.kill().expect("it runs");
    first.wait().expect("it ends");
    own["timeout_ms"] = json!(TIMEOUT_MS);
    let (report, _) = run(&sandbox, "etherfuse", &own).await;
    assert_eq!(report["returned"]["orderId"], report["returned"]["wanted"], "{report:#}");
    assert_eq!(orders(&sandbox).await.len(), 1);
});

// --- Credicorp

on_both!("credicorp" => async fn e14_e15_e16_e18_e19_the_documented_retry_makes_one_enquiry_under_every_fault(sandbox) {
    let fields = json!({ "name": "Jo", "email": "jo@example.com", "consent": "yes" });
    for fault in FAULTS {
        prepare(&sandbox, "POST /public/v1/enquiries", fault).await;
        let own = json!({ "enquiry": { "form": "contact-us", "fields": fields } });
        let (report, _) = run(&sandbox, "credicorp", &own).await;
        let record = only_record(&sandbox, fault.0).await;
        assert_eq!(report["returned"]["id"], record["id"], "{fault:?}: {report:#}");
        assert!(attempts(&report).len() as u64 > fault.1, "{fault:?}: {report:#}");
        assert!(attempts(&report).iter().all(|attempt| attempt["key"] == record["key"]), "{fault:?}: {report:#}");
    }
});

// --- Yonne

const CREATE_ORDER: &str = "POST /api/v1/external/create-order";

async fn yonne(sandbox: &Sandbox) -> Value {
    json!({
        "api_key": sandbox.fixtures().await["live_key"], "internal_order_id": "WEB-100245", "attempts": 3,
        "order": {
            "delivery_fee": 7350, "delivery_lat": -13.9831, "delivery_lng": 33.7812, "weight_estimate": "0-5kg",
            "merchant_reference_id": "WEB-100245",
        },
    })
}

on_both!("yonne" => async fn q1_q4_e24_e28_e33_the_documented_loop_makes_one_order_under_every_fault(sandbox) {
    for fault in FAULTS {
        prepare(&sandbox, CREATE_ORDER, fault).await;
        let own = yonne(&sandbox).await;
        let (report, _) = run(&sandbox, "yonne", &own).await;
        let record = only_record(&sandbox, fault.0).await;
        assert_eq!(report["returned"]["order_id"], record["id"], "{fault:?}: {report:#}");
        let keys: Vec<&Value> = attempts(&report).iter().map(|attempt| &attempt["key"]).collect();
        assert!(keys.len() as u64 > fault.1, "{fault:?}: {report:#}");
        let wanted: Vec<String> = (1..=keys.len()).map(|nth| format!("order-WEB-100245-attempt-{nth}")).collect();
        assert_eq!(keys, wanted.iter().collect::<Vec<_>>(), "{fault:?}: the sample's keys differ");
        balanced(&sandbox.ledger().await);
    }
});

on_both!("yonne" => async fn q1_read_literally_the_documented_loop_makes_an_order_of_every_lost_reply(sandbox) {
    sandbox.set(json!({ "attempt_suffix": "literal" })).await;
    sandbox.fault(CREATE_ORDER, "drop_after", 2).await;
    let own = yonne(&sandbox).await;
    let (report, _) = run(&sandbox, "yonne", &own).await;
    assert_eq!(report["returned"]["success"], true, "{report:#}");
    assert_eq!(sandbox.records().await.len(), 3, "this is what the default prevents");
});

on_both!("yonne" => async fn q2_e31_a_refusal_that_the_documented_loop_retries_is_never_an_order(sandbox) {
    sandbox.set(json!({ "balance": 1_500 })).await;
    let own = yonne(&sandbox).await;
    let (report, _) = run(&sandbox, "yonne", &own).await;
    assert_eq!(report["threw"]["error"], "Insufficient Funds", "{report:#}");
    let statuses: Vec<&Value> = attempts(&report).iter().map(|attempt| &attempt["status"]).collect();
    assert_eq!(statuses, [402, 402, 402], "the sample's own try catches what it throws");
    assert_eq!(sandbox.records().await.len() + sandbox.debits().await.len(), 0);
    sandbox.set(json!({ "top_up": 10_000 })).await;
    let (report, _) = run(&sandbox, "yonne", &own).await;
    assert_eq!(report["returned"]["success"], true, "{report:#}");
    assert_eq!(report["returned"].get("idempotent_replay"), None, "errors are not kept");
    only_record(&sandbox, "after the top-up").await;
});

on_both!("yonne" => async fn q3_what_the_documented_loop_swallows_leaves_nothing_behind(sandbox) {
    let mut own = yonne(&sandbox).await;
    own["api_key"] = json!("yonne_live_nobody");
    let (report, log) = run(&sandbox, "yonne", &own).await;
    assert_eq!(report["nothing"], true, "the sample returns nothing after three refusals: {report:#}");
    assert!(attempts(&report).iter().all(|attempt| attempt["status"] == 401), "{report:#}");
    assert!(log.contains("Unauthorized"), "{log}");
    let mut own = yonne(&sandbox).await;
    sandbox.fault(CREATE_ORDER, "status_before:503", 3).await;
    let (report, _) = run(&sandbox, "yonne", &own).await;
    assert_eq!(report["nothing"], true, "{report:#}");
    assert_eq!(sandbox.records().await.len(), 0);
    own["attempts"] = json!(1);
    let (report, _) = run(&sandbox, "yonne", &own).await;
    assert_eq!(report["returned"]["success"], true, "{report:#}");
});

on_both!("yonne" => async fn e34_every_attempt_can_be_logged_with_what_support_asks_for(sandbox) {
    sandbox.fault(CREATE_ORDER, "status_before:503", 1).await;
    let own = yonne(&sandbox).await;
    let (_, log) = run(&sandbox, "yonne", &own).await;
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert_eq!((&lines[0]["status"], &lines[0]["error"]["success"]), (&json!(503), &json!(false)), "{log}");
    let record = only_record(&sandbox, "the second attempt").await;
    assert_eq!((&lines[1]["order_id"], &lines[1]["status"]), (&record["id"], &json!(200)), "{log}");
    assert!(lines[1]["tracking_id"].as_str().is_some_and(|id| id.starts_with("YON-TRK-")), "{log}");
    for line in lines {
        assert_eq!(line["merchant_reference_id"], "WEB-100245");
        assert!(line["key"].as_str().is_some_and(|key| key.starts_with("order-WEB-100245-attempt-")));
    }
});

// --- Nora

const ONRAMP: &str = "POST /v2/intents/onramp";

fn form(cents: u64) -> Value {
    let wallet = "So11111111111111111111111111111111111111112";
    json!({ "amountCents": cents, "destinationWallet": wallet, "chainId": "solana", "clientReference": "ord_123" })
}

async fn nora(sandbox: &Sandbox, state: &str, forms: Value) -> Value {
    json!({ "api_key": sandbox.fixtures().await["test_key"], "state_file": state_file(sandbox, state), "forms": forms })
}

on_both!("nora" => async fn e36_e42_e49_a_key_per_click_makes_one_intent_under_every_fault(sandbox) {
    for (nth, fault) in FAULTS.into_iter().enumerate() {
        prepare(&sandbox, ONRAMP, fault).await;
        let own = nora(&sandbox, &format!("state{nth}"), json!([form(10_000)])).await;
        let (report, _) = run(&sandbox, "nora", &own).await;
        let record = only_record(&sandbox, fault.0).await;
        let intent = &report["returned"][0];
        assert_eq!(intent["id"], record["id"], "{fault:?}: {report:#}");
        assert_eq!(intent["status"], 201, "the original status: {fault:?}: {report:#}");
        assert!(attempts(&report).len() as u64 > fault.1, "{fault:?}: {report:#}");
        assert!(attempts(&report).iter().all(|attempt| attempt["key"] == intent["key"]), "{fault:?}: {report:#}");
    }
});

on_both!("nora" => async fn e42_e47_an_edited_form_is_another_click_and_another_intent(sandbox) {
    let own = nora(&sandbox, "state", json!([form(10_000), form(10_000), form(20_000)])).await;
    let (report, _) = run(&sandbox, "nora", &own).await;
    let ids: Vec<&Value> = report["returned"].as_array().expect("intents").iter().map(|it| &it["id"]).collect();
    assert_eq!(ids[0], ids[1], "the same click: {report:#}");
    assert_ne!(ids[0], ids[2], "the edited form: {report:#}");
    assert_eq!(sandbox.records().await.len(), 2);
});

on_both!("nora" => async fn e43_a_client_that_crashed_finds_its_intent_or_makes_it(sandbox) {
    for (nth, fault) in ["stall", "drop_before"].into_iter().enumerate() {
        sandbox.reset().await;
        sandbox.fault(ONRAMP, fault, 1).await;
        let mut own = nora(&sandbox, &format!("state{nth}"), json!([form(10_000)])).await;
        // It dies while it waits: for the answer, or to try again.
        (own["timeout_ms"], own["pause_ms"]) = (json!(600_000), json!(600_000));
        let mut first = start(&sandbox, "nora", &own);
        match fault {
            "stall" => within("the intent is there", async { while sandbox.records().await.is_empty() {} }).await,
            _ => within("it was dropped", async { while !sandbox.log().contains("dropped, as asked for") {
                tokio::task::yield_now().await;
            } }).await,
        }
        first.kill().expect("it runs");
        first.wait().expect("it ends");
        let landed = sandbox.records().await;
        assert_eq!(landed.len(), usize::from(fault == "stall"));
        (own["timeout_ms"], own["pause_ms"]) = (json!(TIMEOUT_MS), json!(20));
        let (report, _) = run(&sandbox, "nora", &own).await;
        let record = only_record(&sandbox, fault).await;
        assert_eq!(report["returned"][0]["id"], record["id"], "{fault}: {report:#}");
        assert!(landed.iter().all(|before| before["id"] == record["id"]), "{fault}: {report:#}");
    }
});
