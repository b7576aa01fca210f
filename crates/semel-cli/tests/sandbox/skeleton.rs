//! What is no vendor's: the control surface, faults on the wire, the clock, reset, restarts.
//!
//! Yonne stands for all four here: an order and its debit are two writes that must never part.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Conn, Kind, Request, Sandbox, for_each, get, json, post, request, together, within};

const VENDOR: &str = "yonne";
const CREATE: &str = "POST /api/v1/external/create-order";

/// The documented order, under a key.
pub(crate) fn order(key: &str) -> Request {
    let content = json!({
        "delivery_fee": 7350, "delivery_lat": -13.9831, "delivery_lng": 33.7812, "weight_estimate": "0-5kg",
        "receiver_name": "Chikondi", "item_name": "Shoes", "merchant_reference_id": "WEB-100245",
    });
    let order = post("/api/v1/external/create-order").header("X-API-Key", "yonne_live_sandbox_1");
    order.header("Idempotency-Key", key).body(content.to_string())
}

/// Enough for every order of a test.
async fn rich(sandbox: &Sandbox) {
    sandbox.set(json!({ "balance": 1_000_000_000 })).await;
}

/// Every record has its debit and every debit its record, and no key has two.
pub(crate) fn balanced(ledger: &Value) {
    let of = |list: &str, name: &str| -> Vec<String> {
        let entries = ledger[list].as_array().expect("a list").iter();
        let mut values: Vec<String> =
            entries.map(|entry| entry[name].as_str().unwrap_or_default().to_owned()).collect();
        values.sort();
        values
    };
    assert_eq!(of("records", "id"), of("debits", "record_id"), "{ledger:#}");
    let keys = of("records", "key");
    let mut unique = keys.clone();
    unique.dedup();
    assert_eq!(keys, unique, "a key has two records");
}

for_each!(sqlite, postgres, gateway => async fn starts_and_shows_nothing_that_did_not_happen(sandbox: Sandbox) {
    assert_eq!(sandbox.ledger().await, json!({ "records": [], "debits": [] }));
});

for_each!(sqlite, postgres, gateway => async fn e24_fifty_twins_make_one_order(sandbox: Sandbox) {
    rich(&sandbox).await;
    let responses = together(sandbox.addr, vec![order("order-1-attempt-1"); 50]).await;
    let ids: std::collections::BTreeSet<String> =
        responses.iter().map(|response| json(response)["order_id"].to_string()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert!(responses.iter().all(|response| response.status == 200), "{responses:?}");
    assert_eq!(sandbox.records().await.len(), 1);
    assert_eq!(sandbox.debits().await.len(), 1);
});

for_each!(sqlite, postgres => async fn forty_keys_at_once_make_forty_orders(sandbox: Sandbox) {
    rich(&sandbox).await;
    let wanted = (0..40).map(|nth| order(&format!("key{nth}"))).collect();
    let responses = together(sandbox.addr, wanted).await;
    assert!(responses.iter().all(|response| response.status == 200), "{responses:?}");
    let ledger = sandbox.ledger().await;
    balanced(&ledger);
    assert_eq!(ledger["records"].as_array().unwrap().len(), 40);
    assert_eq!(sandbox.balance().await, 1_000_000_000 - 40 * 7_350, "no debit was lost under another");
});

for_each!(sqlite => async fn the_naive_copy_makes_an_order_of_every_request(first: Sandbox) {
    drop(first);
    let sandbox = Sandbox::start_with(Kind::sqlite, VENDOR, &["--naive"]).await;
    for _ in 0..2 {
        assert_eq!(sandbox.send(&order("order-1-attempt-1")).await.status, 200);
    }
    assert_eq!(sandbox.records().await.len(), 2);
});

for_each!(sqlite, postgres => async fn e30_faults_are_real_on_the_wire(sandbox: Sandbox) {
    // Before: nothing is done, and the key is as if it was never sent.
    sandbox.fault(CREATE, "drop_before", 1).await;
    assert_eq!(bytes_of_an_answer(&sandbox, &order("a")).await, b"", "not a byte");
    sandbox.fault(CREATE, "status_before:503", 2).await;
    for _ in 0..2 {
        assert_eq!(sandbox.send(&order("a")).await.status, 503);
    }
    assert_eq!(sandbox.records().await.len(), 0);
    assert_eq!(sandbox.send(&order("a")).await.status, 200, "the fault was for two");
    // After: it is done, whatever is said.
    sandbox.fault(CREATE, "drop_after", 1).await;
    assert_eq!(bytes_of_an_answer(&sandbox, &order("b")).await, b"", "not a byte");
    assert_eq!(sandbox.records().await.len(), 2);
    sandbox.fault(CREATE, "status_after:500", 1).await;
    assert_eq!(sandbox.send(&order("c")).await.status, 500);
    assert_eq!(sandbox.records().await.len(), 3);
    sandbox.delay(CREATE, 300).await;
    let sent = Instant::now();
    assert_eq!(sandbox.send(&order("d")).await.status, 200);
    assert!(sent.elapsed() >= Duration::from_millis(300), "{:?}", sent.elapsed());
    sandbox.fault(CREATE, "stall", 1).await;
    let mut silent = Conn::open(sandbox.addr).await;
    silent.send(&order("e")).await;
    within("the stalled order is there", async { while sandbox.records().await.len() < 5 {} }).await;
    let heard = tokio::time::timeout(Duration::from_millis(200), silent.take(1)).await;
    assert!(heard.is_err(), "the connection is open and silent, and it said {heard:?}");
    // A retry of each tells the truth.
    for (key, records) in [("b", 5), ("c", 5), ("d", 5), ("e", 5)] {
        let retry = sandbox.send(&order(key)).await;
        assert_eq!((retry.status, &json(&retry)["idempotent_replay"]), (200, &json!(true)), "{key}: {retry:?}");
        assert_eq!(sandbox.records().await.len(), records);
    }
    balanced(&sandbox.ledger().await);
});

/// Everything that comes back until the connection closes.
async fn bytes_of_an_answer(sandbox: &Sandbox, request: &Request) -> Vec<u8> {
    let (head, content) = request.wire();
    let mut stream = tokio::net::TcpStream::connect(sandbox.addr).await.expect("it listens");
    stream.write_all(&[head, content].concat()).await.expect("it reads");
    let mut bytes = Vec::new();
    within("the connection closes", stream.read_to_end(&mut bytes)).await.expect("it closes in order");
    bytes
}

for_each!(sqlite, postgres => async fn faults_wait_for_their_operation_and_can_be_forgotten(sandbox: Sandbox) {
    sandbox.fault(CREATE, "status_before:503", 3).await;
    let wallet = get("/api/v1/external/wallet").header("X-API-Key", "yonne_live_sandbox_1");
    assert_eq!(sandbox.send(&wallet).await.status, 200, "the fault is for another operation");
    assert_eq!(sandbox.send(&order("a")).await.status, 503);
    sandbox.clear_faults().await;
    assert_eq!(sandbox.send(&order("a")).await.status, 200);
});

for_each!(sqlite, postgres => async fn e26_the_clock_moves_for_records_and_keys_alike(sandbox: Sandbox) {
    let first = json(&sandbox.send(&order("a")).await);
    let created = |record: &Value| record["created_at"].as_str().unwrap().to_owned();
    sandbox.advance(24 * 3_600 * 1_000 - 60_000).await;
    let replay = json(&sandbox.send(&order("a")).await);
    assert_eq!(replay["order_id"], first["order_id"], "a minute is left of the day");
    sandbox.advance(60_001).await;
    let second = json(&sandbox.send(&order("a")).await);
    assert_ne!(second["order_id"], first["order_id"], "the day is over");
    let records = sandbox.records().await;
    let apart = humantime::parse_rfc3339(&created(&records[1])).unwrap()
        .duration_since(humantime::parse_rfc3339(&created(&records[0])).unwrap()).unwrap();
    assert!(apart >= Duration::from_hours(24), "{apart:?}");
});

for_each!(sqlite, postgres => async fn a_restart_changes_nothing_and_a_reset_everything(sandbox: Sandbox) {
    let mut sandbox = sandbox;
    let everything = async |sandbox: &Sandbox| {
        let mut config = json(&sandbox.control("GET", "/_sandbox/config", None).await);
        let now = config["sandbox"]["now"].take();
        let all = sandbox.control("GET", "/_sandbox/fixtures", None).await;
        let ledger = json(&sandbox.control("GET", "/_sandbox/ledger", None).await);
        (config, json(&all), ledger, sandbox.balance().await, now.as_str().unwrap().to_owned())
    };
    let at_first = everything(&sandbox).await;
    sandbox.set(json!({ "balance": 20_000, "attempt_suffix": "literal" })).await;
    let first = json(&sandbox.send(&order("a-attempt-1")).await);
    sandbox.advance(3_600_000).await;
    let changed = everything(&sandbox).await;
    assert_ne!(changed.0, at_first.0, "a setting was changed");
    assert_eq!(changed.3, 20_000 - 7_350);

    sandbox.kill9();
    sandbox.start_again().await;
    let restarted = everything(&sandbox).await;
    assert_eq!((&restarted.0, &restarted.1, &restarted.2, restarted.3), (&changed.0, &changed.1, &changed.2, changed.3));
    assert!(restarted.4 >= changed.4, "the clock went back");
    assert_eq!(json(&sandbox.send(&order("a-attempt-1")).await)["order_id"], first["order_id"], "the key is remembered");
    assert_eq!(sandbox.stop().await.code(), Some(0));
    sandbox.start_again().await;

    sandbox.fault(CREATE, "drop_before", 5).await;
    sandbox.reset().await;
    let reset = everything(&sandbox).await;
    assert_eq!((&reset.0, &reset.1, &reset.2, reset.3), (&at_first.0, &at_first.1, &at_first.2, at_first.3));
    assert!(reset.4 < changed.4, "the clock is at now again");
    let again = sandbox.send(&order("a-attempt-1")).await;
    assert_eq!(again.status, 200, "the faults are gone");
    assert_eq!(json(&again).get("idempotent_replay"), None, "the key is free again");
});

impl Sandbox {
    async fn balance(&self) -> u64 {
        let wallet = get("/api/v1/external/wallet").header("X-API-Key", "yonne_live_sandbox_1");
        json(&self.send(&wallet).await)["balance"].as_u64().expect("a balance")
    }
}

for_each!(sqlite => async fn wrong_control_requests_are_explained(sandbox: Sandbox) {
    let before = json(&sandbox.control("GET", "/_sandbox/config", None).await)["vendors"].take();
    let table = [
        ("POST", "/_sandbox/clock", json!({}), 400, "missing field `advance_ms`"),
        ("POST", "/_sandbox/clock", json!({ "advance_ms": -1 }), 400, "invalid value"),
        ("POST", "/_sandbox/clock", json!({ "advance_ms": 1.5 }), 400, "invalid type"),
        ("POST", "/_sandbox/clock", json!({ "advance_ms": u64::MAX }), 400, "at most"),
        ("POST", "/_sandbox/clock", json!({ "advance_ms": 1, "by": 2 }), 400, "unknown field `by`"),
        ("POST", "/_sandbox/clock", json!([]), 400, "the content is not what this takes"),
        ("POST", "/_sandbox/reset", json!({ "all": true }), 400, "unknown field `all`"),
        ("POST", "/_sandbox/faults", json!({ "vendor": "x", "op": CREATE, "kind": "stall" }), 400,
            "there is no vendor \"x\"; there are etherfuse, credicorp, yonne, nora"),
        ("POST", "/_sandbox/faults", json!({ "vendor": "yonne", "op": "POST /x", "kind": "stall" }), 400, CREATE),
        ("POST", "/_sandbox/faults", json!({ "vendor": "yonne", "op": CREATE, "kind": "x" }), 400, "drop_before, drop_after"),
        ("POST", "/_sandbox/faults", json!({ "vendor": "yonne", "op": CREATE, "kind": "delay" }), 400, "needs \"ms\""),
        ("POST", "/_sandbox/faults", json!({ "vendor": "yonne", "op": CREATE, "kind": "stall", "times": 0 }), 400,
            "whole number from 1"),
        ("POST", "/_sandbox/faults", json!({ "vendor": "yonne", "op": CREATE, "kind": "stall", "time": 1 }), 400,
            "unknown field `time`"),
        ("POST", "/_sandbox/fixtures", json!({ "vendor": "yonne", "set": { "nonsense": 1 } }), 400, "attempt_suffix"),
        ("POST", "/_sandbox/fixtures", json!({ "vendor": "yonne", "set": { "attempt_suffix": "both" } }), 400,
            "\"attempt_suffix\" is one of \"stem\", \"literal\""),
        ("POST", "/_sandbox/fixtures", json!({ "vendor": "yonne", "set": { "strict_key": true, "nonsense": 1 } }), 400,
            "nonsense"),
        ("GET", "/_sandbox/ledger?vendor=x", Value::Null, 400, "there is no vendor"),
        ("GET", "/_sandbox/ledger?of=yonne", Value::Null, 400, "?vendor=NAME"),
        ("GET", "/_sandbox/fixtures?vendor=yonne", Value::Null, 400, "takes no query"),
        ("GET", "/_sandbox/openapi/x.json", Value::Null, 400, "there is no vendor"),
        ("GET", "/_sandbox/nothing", Value::Null, 404, "POST /_sandbox/clock"),
        ("GET", "/_sandbox/clock", Value::Null, 405, "takes POST, not GET"),
        ("PUT", "/_sandbox/faults", json!({}), 405, "takes POST and DELETE, not PUT"),
    ];
    for (method, path, content, status, says) in table {
        let content = Some(content).filter(|content| !content.is_null());
        let response = sandbox.control(method, path, content.clone()).await;
        let error = json(&response)["error"].as_str().expect("an explanation").to_owned();
        assert_eq!(response.status, status, "{method} {path} {content:?}: {error}");
        assert!(error.contains(says), "{method} {path} {content:?}: {error}");
        assert_eq!(response.header("allow").is_some(), status == 405);
    }
    let after = json(&sandbox.control("GET", "/_sandbox/config", None).await)["vendors"].take();
    assert_eq!(before, after, "what was refused changed nothing, not even the half that was right");
    assert_eq!(sandbox.send(&order("a")).await.status, 200, "no fault waits");
});

for_each!(sqlite => async fn what_no_operation_answers_is_told_in_the_vendors_shape(sandbox: Sandbox) {
    let nowhere = sandbox.send(&get("/nowhere")).await;
    assert_eq!(nowhere.status, 404);
    assert_eq!(json(&nowhere)["vendors"]["yonne"], json!(["/api/v1/external"]));
    let unknown = sandbox.send(&get("/api/v1/external/nothing")).await;
    assert_eq!((unknown.status, &json(&unknown)["success"]), (404, &json!(false)));
    let method = sandbox.send(&request("DELETE", "/api/v1/external/create-order")).await;
    assert_eq!((method.status, method.header("allow")), (405, Some("POST")));
    assert_eq!(json(&method)["success"], json!(false));
    let method = sandbox.send(&post("/api/v1/external/wallet")).await;
    assert_eq!((method.status, method.header("allow")), (405, Some("GET, HEAD")));
    let large = sandbox.send(&order("a").body(vec![b' '; (1 << 20) + 1])).await;
    assert_eq!((large.status, &json(&large)["success"]), (413, &json!(false)));
    // Without a length it is only seen on the way.
    let streamed = sandbox.send(&order("a").body(vec![b' '; (1 << 20) + 1]).chunked(1 << 16)).await;
    assert_eq!(streamed.status, 413);
    let fits = sandbox.send(&order("a").body(vec![b' '; 1 << 20])).await;
    assert_eq!(fits.status, 400, "it is no order: {fits:?}");
    assert_eq!(sandbox.records().await.len(), 0);
});

for_each!(sqlite, postgres => async fn one_process_owns_the_books(sandbox: Sandbox) {
    let said = sandbox.try_twin().await.expect_err("the second must not start");
    assert!(said.contains("another sandbox") && said.contains("stop it"), "{said}");
});

for_each!(sqlite => async fn only_the_vendors_that_were_asked_for_are_there(first: Sandbox) {
    drop(first);
    let sandbox = Sandbox::start_with(Kind::sqlite, VENDOR, &["--vendor", "yonne", "--vendor", "nora"]).await;
    let fixtures = json(&sandbox.control("GET", "/_sandbox/fixtures", None).await);
    assert_eq!(fixtures.as_object().unwrap().keys().collect::<Vec<_>>(), ["nora", "yonne"]);
    let other = sandbox.send(&post("/ramp/order")).await;
    assert_eq!((other.status, json(&other)["vendors"].get("etherfuse")), (404, None));
});

for_each!(sqlite, postgres => async fn a_signal_cuts_waits_short_and_loses_nothing(sandbox: Sandbox) {
    let mut sandbox = sandbox;
    sandbox.delay(CREATE, 600_000).await;
    let mut late = Conn::open(sandbox.addr).await;
    late.send(&order("a")).await;
    sandbox.fault(CREATE, "stall", 1).await;
    within("the first has met its fault", async { while sandbox.records().await.is_empty() {} }).await;
    let mut silent = Conn::open(sandbox.addr).await;
    silent.send(&order("b")).await;
    within("both orders are there", async { while sandbox.records().await.len() < 2 {} }).await;
    assert_eq!(sandbox.stop().await.code(), Some(0));
    assert_eq!(late.response().await.status, 200);
    assert_eq!(silent.rest().await, b"", "who is never answered is not answered now");
    sandbox.start_again().await;
    balanced(&sandbox.ledger().await);
    assert_eq!(sandbox.records().await.len(), 2);
});

for_each!(sqlite => async fn the_page_shows_every_vendor_with_its_keys(sandbox: Sandbox) {
    let page = sandbox.index().await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let text = String::from_utf8(page.body).expect("UTF-8");
    for name in ["etherfuse", "credicorp", "yonne", "nora"] {
        assert!(text.contains(&format!("/_sandbox/openapi/{name}.json")), "{name}");
    }
    let fixtures = json(&sandbox.control("GET", "/_sandbox/fixtures", None).await);
    let keys: Vec<&Value> = fixtures.as_object().unwrap().values().flat_map(|it| it.as_object().unwrap().values()).collect();
    assert!(keys.len() > 5, "{fixtures}");
    for key in keys.iter().filter_map(|key| key.as_str()) {
        assert!(text.contains(key), "{key}");
    }
    assert!(text.contains(&format!("http://{}", sandbox.addr)) || text.contains("http://api.example"), "{text}");
    assert!(!text.contains("{base}"), "an address is missing");
});
