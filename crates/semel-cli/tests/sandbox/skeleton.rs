//! What is no vendor's: the control surface, faults on the wire, the clock, restarts.

use serde_json::json;

use crate::harness::{Sandbox, for_each, get, json};

const VENDOR: &str = "yonne";

for_each!(sqlite, postgres, gateway => async fn starts_and_shows_nothing_that_did_not_happen(sandbox: Sandbox) {
    assert_eq!(sandbox.ledger().await, json!({ "records": [], "debits": [] }));
    sandbox.reset().await;
    sandbox.advance(5).await;
    let nowhere = sandbox.send(&get("/nowhere")).await;
    assert_eq!(nowhere.status, 404, "{nowhere:?}");
    assert!(json(&nowhere)["vendors"].get("yonne").is_some(), "{nowhere:?}");
});
