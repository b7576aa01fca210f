//! Nora: the exchanges of `dialects.md` section 4, by their numbers, and what its clients must be able to rely on.

use serde_json::{Value, json};

use crate::harness::{Conn, Request, Response, Sandbox, for_each, get, json, post, request, together};

const VENDOR: &str = "nora";
const ONRAMP: &str = "/v2/intents/onramp";
const OFFRAMP: &str = "/v2/intents/offramp";
const TEST: &str = "sk_test_a";
const U1: &str = "5f1e8a52-7c1d-4e67-9a4d-7e5a1f0c2b11";
const U2: &str = "5f1e8a52-7c1d-4e67-9a4d-7e5a1f0c2b12";
const U3: &str = "5f1e8a52-7c1d-4e67-9a4d-7e5a1f0c2b13";
const WALLET: &str = "So11111111111111111111111111111111111111112";
const UNKNOWN_ID: &str = "00000000-0000-4000-8000-000000000000";
const DAY_MS: u64 = 86_400_000;

/// R of the exchanges.
fn onramp() -> Value {
    json!({ "amountCents": 10000, "destinationWallet": WALLET, "chainId": "solana", "clientReference": "ord_123" })
}

fn offramp() -> Value {
    json!({ "amountCents": 10000, "destinationAddress": "user@example.com", "chainId": "solana" })
}

fn burn(signature: &str) -> Value {
    json!({ "txSignature": signature, "tokenHolder": "ATA" })
}

fn joao() -> Value {
    json!({ "cpf": "12345678901", "displayName": "João" })
}

fn posting(api_key: &str, path: &str, key: Option<&str>, content: &Value) -> Request {
    let request = post(path).header("X-API-Key", api_key).body(content.to_string());
    key.into_iter().fold(request, |request, key| request.header("idempotency-key", key))
}

fn patching(path: &str, content: &Value) -> Request {
    let request = request("PATCH", path).header("X-API-Key", TEST).header("Content-Type", "application/json");
    request.body(content.to_string())
}

async fn create(sandbox: &Sandbox, path: &str, key: Option<&str>, content: &Value) -> Response {
    sandbox.send(&posting(TEST, path, key, content)).await
}

async fn created(sandbox: &Sandbox, path: &str, key: Option<&str>, content: &Value) -> Value {
    let response = create(sandbox, path, key, content).await;
    assert_eq!(response.status, 201, "{response:?}");
    json(&response)
}

async fn fetch(sandbox: &Sandbox, path: &str) -> Response {
    sandbox.get(path, &[("X-API-Key", TEST)]).await
}

async fn intent(sandbox: &Sandbox, id: &str) -> Value {
    let response = fetch(sandbox, &format!("/v2/intents/{id}")).await;
    assert_eq!(response.status, 200, "{response:?}");
    json(&response)
}

fn id_of(resource: &Value) -> String {
    resource["id"].as_str().expect("an id").to_owned()
}

/// The ids of the records of a kind, in the order in which they were made.
async fn ids(sandbox: &Sandbox, kind: &str) -> Vec<String> {
    let records = sandbox.records().await;
    records.iter().filter(|record| record["kind"] == kind).map(id_of).collect()
}

#[track_caller]
fn assert_code(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    let content = json(response);
    assert_eq!(content["code"], code, "{response:?}");
    assert!(content["message"].is_string(), "{response:?}");
}

/// The same status, media type and bytes.
#[track_caller]
fn assert_replay(first: &Response, again: &Response) {
    assert_eq!(first.status, again.status, "{again:?}");
    assert_eq!(first.header("content-type"), again.header("content-type"), "{again:?}");
    assert_eq!(first.text(), again.text());
}

async fn advance_to(sandbox: &Sandbox, id: &str, status: &str) {
    sandbox.set(json!({ "advance": { "intent_id": id, "status": status } })).await;
}

for_each!(sqlite, postgres, gateway =>
async fn e35_e36_e49_q20_exchange_1_2_a_retry_gets_the_original_reply(sandbox: Sandbox) {
    let first = create(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    assert_eq!(first.status, 201, "{first:?}");
    let made = json(&first);
    assert_eq!(made["intentType"], "onramp");
    assert_eq!(made["status"], "awaiting_fiat_payment");
    assert_eq!((&made["pixInfo"]["keyType"], &made["pixInfo"]["amountCents"]), (&json!("cnpj"), &json!(10000)));
    assert_replay(&first, &create(&sandbox, ONRAMP, Some(U1), &onramp()).await);
    advance_to(&sandbox, &id_of(&made), "completed").await;
    assert_replay(&first, &create(&sandbox, ONRAMP, Some(U1), &onramp()).await);
    assert_eq!(intent(&sandbox, &id_of(&made)).await["status"], "completed");
    let records = sandbox.records().await;
    assert_eq!((records.len(), &records[0]["key"]), (1, &json!(U1)), "{records:?}");
});

for_each!(sqlite, postgres, gateway =>
async fn e35_e45_exchange_3_a_key_on_another_endpoint_is_another_key(sandbox: Sandbox) {
    let on = created(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    let off = created(&sandbox, OFFRAMP, Some(U1), &offramp()).await;
    assert_ne!(on["id"], off["id"]);
    assert_eq!((&off["intentType"], &off["status"]), (&json!("offramp"), &json!("awaiting_burn_approval")));
    assert_eq!((&off["expiresAt"], &off["pixInfo"]), (&Value::Null, &Value::Null));
    assert_eq!(created(&sandbox, OFFRAMP, Some(U1), &offramp()).await, off);
    assert_eq!(ids(&sandbox, "intent").await, [id_of(&on), id_of(&off)]);
});

for_each!(sqlite, postgres, gateway =>
async fn e42_q19_exchange_4_an_edited_form_under_the_old_key_is_a_conflict(sandbox: Sandbox) {
    let first = create(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    let mut edited = onramp();
    edited["amountCents"] = json!(20000);
    assert_code(&create(&sandbox, ONRAMP, Some(U1), &edited).await, 409, "idempotency_key_reused");
    // It poisons nothing, and the form under a key of its own is a new intent.
    assert_replay(&first, &create(&sandbox, ONRAMP, Some(U1), &onramp()).await);
    created(&sandbox, ONRAMP, Some(U2), &edited).await;
    assert_eq!(ids(&sandbox, "intent").await.len(), 2);
});

for_each!(sqlite, postgres =>
async fn e42_q19_exchange_4_or_replays_the_stale_response_when_told_to(sandbox: Sandbox) {
    sandbox.set(json!({ "mismatch": "replay" })).await;
    let first = create(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    let mut edited = onramp();
    edited["amountCents"] = json!(20000);
    assert_replay(&first, &create(&sandbox, ONRAMP, Some(U1), &edited).await);
    assert_eq!(ids(&sandbox, "intent").await.len(), 1);
    sandbox.set(json!({ "mismatch": "conflict" })).await;
    assert_code(&create(&sandbox, ONRAMP, Some(U1), &edited).await, 409, "idempotency_key_reused");
});

for_each!(sqlite, postgres, gateway =>
async fn e37_exchange_5_the_key_is_a_uuid(sandbox: Sandbox) {
    for path in [ONRAMP, OFFRAMP] {
        for key in
            ["abc", "", "123", "5f1e8a52-7c1d-4e67-9a4d-7e5a1f0c2b1", "5f1e8a52-7c1d-4e67-9a4d-7e5a1f0c2b11x", "\u{e9}"]
        {
            let response = create(&sandbox, path, Some(key), &onramp()).await;
            assert_code(&response, 400, "validation_error");
            let errors = json!([{ "field": "idempotency-key", "message": "must be a UUID" }]);
            assert_eq!(json(&response)["validationErrors"], errors, "{key:?}");
        }
    }
    let several = posting(TEST, ONRAMP, Some(U1), &onramp()).header("idempotency-key", U2);
    assert_code(&sandbox.send(&several).await, 400, "validation_error");
    assert!(sandbox.records().await.is_empty());
    // One UUID is one key, however it is spelled.
    let first = create(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    for spelling in [U1.to_uppercase(), format!("\"{U1}\""), U1.replace('-', "")] {
        assert_replay(&first, &create(&sandbox, ONRAMP, Some(&spelling), &onramp()).await);
    }
});

for_each!(sqlite, postgres, gateway =>
async fn e35_exchange_6_without_a_key_every_request_is_an_intent(sandbox: Sandbox) {
    let first = created(&sandbox, ONRAMP, None, &onramp()).await;
    let second = created(&sandbox, ONRAMP, None, &onramp()).await;
    assert_eq!(ids(&sandbox, "intent").await, [id_of(&first), id_of(&second)]);
});

for_each!(sqlite, postgres =>
async fn e36_e43_exchange_7_a_lost_reply_is_told_again_even_after_a_restart(mut sandbox: Sandbox) {
    sandbox.fault("POST /v2/intents/onramp", "drop_after", 1).await;
    assert!(sandbox.try_send(&posting(TEST, ONRAMP, Some(U2), &onramp())).await.is_err(), "the reply is lost");
    sandbox.kill9();
    sandbox.start_again().await;
    let original = created(&sandbox, ONRAMP, Some(U2), &onramp()).await;
    assert_eq!(ids(&sandbox, "intent").await, [id_of(&original)]);
    sandbox.fault("POST /v2/intents/onramp", "drop_before", 1).await;
    assert!(sandbox.try_send(&posting(TEST, ONRAMP, Some(U3), &onramp())).await.is_err(), "it never landed");
    assert_eq!(ids(&sandbox, "intent").await.len(), 1);
    let fresh = created(&sandbox, ONRAMP, Some(U3), &onramp()).await;
    assert_eq!(ids(&sandbox, "intent").await, [id_of(&original), id_of(&fresh)]);
});

// From outside nobody can tell the two apart, so that a gateway says "unknown" and never executes again.
for_each!(gateway =>
async fn e43_q21_exchange_7_a_gateway_does_not_guess_what_became_of_a_lost_reply(sandbox: Sandbox) {
    for (fault, key, effects) in [("drop_after", U2, 1), ("drop_before", U3, 1), ("status_after:500", U1, 2)] {
        sandbox.fault("POST /v2/intents/onramp", fault, 1).await;
        let lost = create(&sandbox, ONRAMP, Some(key), &onramp()).await;
        assert!(lost.status >= 500, "{lost:?}");
        let retry = create(&sandbox, ONRAMP, Some(key), &onramp()).await;
        assert_eq!((retry.status, retry.code().as_str()), (409, "outcome-unknown"), "{fault}: {retry:?}");
        assert_eq!(ids(&sandbox, "intent").await.len(), effects, "{fault}");
    }
});

for_each!(sqlite, postgres, gateway =>
async fn e36_exchange_8_a_503_is_not_kept(sandbox: Sandbox) {
    sandbox.fault("POST /v2/intents/onramp", "status_before:503", 1).await;
    assert_eq!(create(&sandbox, ONRAMP, Some(U1), &onramp()).await.status, 503);
    let made = created(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    assert_eq!(ids(&sandbox, "intent").await, [id_of(&made)]);
});

for_each!(sqlite, postgres =>
async fn e36_a_500_after_the_commit_is_not_what_a_retry_gets(sandbox: Sandbox) {
    sandbox.fault("POST /v2/intents/onramp", "status_after:500", 1).await;
    assert_eq!(create(&sandbox, ONRAMP, Some(U1), &onramp()).await.status, 500);
    let made = created(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    assert_eq!(ids(&sandbox, "intent").await, [id_of(&made)]);
});

for_each!(sqlite, postgres, gateway =>
async fn e46_q23_exchange_9_a_key_belongs_to_the_api_key(sandbox: Sandbox) {
    let first = created(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    let live = json(&sandbox.send(&posting("sk_live_a", ONRAMP, Some(U1), &onramp())).await);
    let rotated = json(&sandbox.send(&posting("sk_test_a2", ONRAMP, Some(U1), &onramp())).await);
    assert_eq!(ids(&sandbox, "intent").await, [id_of(&first), id_of(&live), id_of(&rotated)]);
    assert_eq!(first["instanceId"], rotated["instanceId"]);
    assert_ne!(first["instanceId"], live["instanceId"]);
});

for_each!(sqlite, postgres =>
async fn q23_a_retry_survives_a_rotated_api_key_where_keys_are_the_instance_s(sandbox: Sandbox) {
    sandbox.set(json!({ "key_scope": "instance" })).await;
    let first = create(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    assert_replay(&first, &sandbox.send(&posting("sk_test_a2", ONRAMP, Some(U1), &onramp())).await);
    // Another instance is another caller, whatever it says.
    let foreign = posting("sk_live_a", ONRAMP, Some(U1), &onramp());
    let instance = json(&first)["instanceId"].as_str().expect("an id").to_owned();
    let foreign = sandbox.send(&foreign.header("X-Sandbox-Instance", instance)).await;
    assert_eq!(foreign.status, 201, "{foreign:?}");
    assert_eq!(ids(&sandbox, "intent").await, [id_of(&json(&first)), id_of(&json(&foreign))]);
});

for_each!(sqlite, postgres =>
async fn e48_exchange_10_a_retry_past_the_window_is_a_fresh_operation(sandbox: Sandbox) {
    let first = create(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    sandbox.advance(DAY_MS - 60_000).await;
    assert_replay(&first, &create(&sandbox, ONRAMP, Some(U1), &onramp()).await);
    sandbox.advance(60_001).await;
    let fresh = created(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    assert_eq!(ids(&sandbox, "intent").await, [id_of(&json(&first)), id_of(&fresh)]);
    sandbox.set(json!({ "ttl_ms": 60_000 })).await;
    let short = create(&sandbox, ONRAMP, Some(U2), &onramp()).await;
    assert_replay(&short, &create(&sandbox, ONRAMP, Some(U2), &onramp()).await);
    sandbox.advance(60_001).await;
    assert_ne!(created(&sandbox, ONRAMP, Some(U2), &onramp()).await["id"], json(&short)["id"]);
});

for_each!(sqlite, postgres =>
async fn e43_q21_a_recovery_past_the_window_is_refused_when_told_to_be_strict(sandbox: Sandbox) {
    sandbox.set(json!({ "expiry": "refuse" })).await;
    created(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    sandbox.advance(30 * DAY_MS).await;
    let late = create(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    assert_eq!((late.status, late.code().as_str()), (409, "reply-gone"), "{late:?}");
    assert_eq!(ids(&sandbox, "intent").await.len(), 1);
});

for_each!(sqlite, postgres, gateway =>
async fn e38_exchange_11_the_signature_of_a_burn_is_its_key(sandbox: Sandbox) {
    let off = created(&sandbox, OFFRAMP, Some(U1), &offramp()).await;
    let approve = format!("/v2/intents/{}/approve-burn", id_of(&off));
    let first = create(&sandbox, &approve, None, &burn("sigA")).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(json(&first)["status"], "burn_approved");
    assert_replay(&first, &create(&sandbox, &approve, None, &burn("sigA")).await);
    // The header is not the key here.
    assert_replay(&first, &create(&sandbox, &approve, Some(U1), &burn("sigA")).await);
    for key in [None, Some(U1)] {
        assert_code(&create(&sandbox, &approve, key, &burn("sigB")).await, 409, "burn_signature_conflict");
    }
    assert_replay(&first, &create(&sandbox, &approve, None, &burn("sigA")).await);
    let burns: Vec<Value> = sandbox.records().await.into_iter().filter(|record| record["kind"] == "burn").collect();
    assert_eq!((burns.len(), &burns[0]["key"], &burns[0]["id"]), (1, &json!("sigA"), &off["id"]), "{burns:?}");
});

for_each!(sqlite, postgres =>
async fn e38_a_repeated_signature_is_told_how_the_intent_stands(sandbox: Sandbox) {
    let off = created(&sandbox, OFFRAMP, None, &offramp()).await;
    let approve = format!("/v2/intents/{}/approve-burn", id_of(&off));
    create(&sandbox, &approve, None, &burn("sigA")).await;
    advance_to(&sandbox, &id_of(&off), "paying_out").await;
    let again = create(&sandbox, &approve, None, &burn("sigA")).await;
    assert_eq!((again.status, &json(&again)["status"]), (200, &json!("paying_out")));
    assert_code(&create(&sandbox, &approve, None, &burn("sigB")).await, 409, "burn_signature_conflict");
});

for_each!(sqlite, postgres =>
async fn e44_q18_a_new_signature_counts_once_the_old_one_is_dead(sandbox: Sandbox) {
    let off = created(&sandbox, OFFRAMP, None, &offramp()).await;
    let id = id_of(&off);
    let approve = format!("/v2/intents/{id}/approve-burn");
    // A retry is the same signed bytes: the reply is lost, and they are sent again.
    sandbox.fault("POST /v2/intents/{id}/approve-burn", "drop_after", 1).await;
    assert!(sandbox.try_send(&posting(TEST, &approve, None, &burn("sigA"))).await.is_err());
    assert_eq!(create(&sandbox, &approve, None, &burn("sigA")).await.status, 200);
    // While the old one may yet land, no other is taken.
    assert_code(&create(&sandbox, &approve, None, &burn("sigB")).await, 409, "burn_signature_conflict");
    sandbox.set(json!({ "drop_signature": { "intent_id": id } })).await;
    assert_eq!(intent(&sandbox, &id).await["status"], "awaiting_burn_approval");
    // A late copy of the dead one neither wins nor is taken for a new one.
    assert_code(&create(&sandbox, &approve, None, &burn("sigA")).await, 409, "burn_signature_conflict");
    assert_eq!(json(&create(&sandbox, &approve, None, &burn("sigB")).await)["status"], "burn_approved");
    assert_code(&create(&sandbox, &approve, None, &burn("sigA")).await, 409, "burn_signature_conflict");
    assert_code(&create(&sandbox, &approve, None, &burn("sigC")).await, 409, "burn_signature_conflict");
    let records = sandbox.records().await;
    let burns = records.iter().filter(|record| record["kind"] == "burn");
    let dropped: Vec<_> = burns.map(|burn| (burn["key"].clone(), burn["data"]["dropped"].clone())).collect();
    assert_eq!(dropped, [(json!("sigA"), json!(true)), (json!("sigB"), json!(false))]);
    // What has landed is not dropped.
    advance_to(&sandbox, &id, "onchain_received").await;
    let ask = json!({ "vendor": VENDOR, "set": { "drop_signature": { "intent_id": id } } });
    assert_eq!(sandbox.control("POST", "/_sandbox/fixtures", Some(ask)).await.status, 400);
    assert_eq!(intent(&sandbox, &id).await["status"], "onchain_received");
});

for_each!(sqlite, postgres, gateway =>
async fn e38_exchange_12_only_an_offramp_that_exists_has_a_burn(sandbox: Sandbox) {
    let on = created(&sandbox, ONRAMP, None, &onramp()).await;
    let approve = |id: &str| format!("/v2/intents/{id}/approve-burn");
    assert_code(&create(&sandbox, &approve(&id_of(&on)), None, &burn("sigA")).await, 409, "invalid_state");
    for id in [UNKNOWN_ID, "abc", "%00", "%F0%9F%99%82"] {
        assert_code(&create(&sandbox, &approve(id), None, &burn("sigA")).await, 404, "not_found");
    }
    // Another instance's intent, and another spelling of an id, are none.
    let off = id_of(&created(&sandbox, OFFRAMP, None, &offramp()).await);
    let foreign = posting("sk_live_a", &approve(&off), None, &burn("sigA"));
    assert_code(&sandbox.send(&foreign).await, 404, "not_found");
    assert_code(&create(&sandbox, &approve(&off.to_uppercase()), None, &burn("sigA")).await, 404, "not_found");
    assert!(ids(&sandbox, "burn").await.is_empty());
    // An intent that is over awaits no burn; what was refused did not take the slot.
    sandbox.set(json!({ "advance": { "intent_id": off, "status": "canceled" } })).await;
    if sandbox.addr == sandbox.origin {
        assert_code(&create(&sandbox, &approve(&off), None, &burn("sigA")).await, 409, "invalid_state");
    }
});

for_each!(sqlite, postgres, gateway =>
async fn e39_q24_exchange_13_a_second_party_with_the_same_cpf_is_a_conflict(sandbox: Sandbox) {
    let first = create(&sandbox, "/v2/parties", None, &joao()).await;
    assert_eq!(first.status, 201, "{first:?}");
    let party = json(&first);
    assert_eq!((&party["status"], &party["profile"]["displayName"]), (&json!("pending"), &json!("João")));
    let mut other = joao();
    other["displayName"] = json!("Bia");
    for content in [joao(), other] {
        let again = create(&sandbox, "/v2/parties", None, &content).await;
        assert_eq!((again.status, again.text()), (409, r#"{"error":"Party with this cpf already exists"}"#));
        // Q24: whoever lost the first reply finds the party; a gateway does not know its id.
        let location = format!("/v2/parties/{}", id_of(&party));
        let expected = (sandbox.addr == sandbox.origin).then_some(location.as_str());
        assert_eq!(again.header("location"), expected);
    }
    let fetched = fetch(&sandbox, &format!("/v2/parties/{}", id_of(&party))).await;
    assert_eq!(json(&fetched), party);
    // Unique in its instance, and no further.
    let live = sandbox.send(&posting("sk_live_a", "/v2/parties", None, &joao())).await;
    assert_eq!(live.status, 201, "{live:?}");
    assert_eq!(ids(&sandbox, "party").await.len(), 2);
});

for_each!(sqlite, postgres =>
async fn e39_another_api_key_of_the_instance_meets_the_same_cpf(sandbox: Sandbox) {
    let party = created(&sandbox, "/v2/parties", None, &joao()).await;
    let again = sandbox.send(&posting("sk_test_a2", "/v2/parties", None, &joao())).await;
    assert_eq!((again.status, again.header("location")), (409, Some(&*format!("/v2/parties/{}", id_of(&party)))));
    assert_eq!(ids(&sandbox, "party").await.len(), 1);
});

// Whatever a process wrote or printed.
for_each!(sqlite, gateway =>
async fn q24_a_cpf_is_in_no_file_and_in_no_log(sandbox: Sandbox) {
    for _ in 0..2 {
        create(&sandbox, "/v2/parties", None, &joao()).await;
    }
    create(&sandbox, "/v2/parties", None, &json!({ "cpf": "12345678901x", "displayName": "João" })).await;
    let data = sandbox.args().iter().position(|arg| arg == "--data").expect("it has a folder");
    let folder =
        std::path::Path::new(&sandbox.args()[data + 1]).parent().expect("the sandbox is in a folder").to_owned();
    let mut folders = vec![folder];
    let mut seen = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                seen.push(path);
            }
        }
    }
    let mut found_name = false;
    for path in seen {
        let bytes = std::fs::read(&path).unwrap();
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!holds("12345678901"), "{}", path.display());
        found_name |= holds("456.789");
    }
    assert!(found_name, "the party is in some file, or this looked at the wrong ones");
    assert!(!sandbox.log().contains("12345678901"));
});

for_each!(sqlite, postgres, gateway =>
async fn e40_exchange_14_a_wallet_is_replaced_in_place(sandbox: Sandbox) {
    let party = created(&sandbox, "/v2/parties", None, &joao()).await;
    let path = format!("/v2/parties/{}/wallet", id_of(&party));
    let first = sandbox.send(&patching(&path, &json!({ "solanaWallet": WALLET }))).await;
    assert_eq!((first.status, &json(&first)["profile"]["solanaWallet"]), (200, &json!(WALLET)));
    sandbox.advance(1000).await;
    assert_replay(&first, &sandbox.send(&patching(&path, &json!({ "solanaWallet": WALLET }))).await);
    let other = sandbox.send(&patching(&path, &json!({ "solanaWallet": "other" }))).await;
    assert_eq!((other.status, &json(&other)["profile"]["solanaWallet"]), (200, &json!("other")));
    let missing =
        sandbox.send(&patching(&format!("/v2/parties/{UNKNOWN_ID}/wallet"), &json!({ "solanaWallet": "x" }))).await;
    assert_eq!((missing.status, &json(&missing)["code"]), (404, &json!("not_found")));
    assert_eq!(ids(&sandbox, "party").await.len(), 1);
});

for_each!(sqlite, postgres, gateway =>
async fn q22_if_match_keeps_a_late_retry_from_undoing_a_change(sandbox: Sandbox) {
    let made = create(&sandbox, "/v2/parties", None, &joao()).await;
    let path = format!("/v2/parties/{}/wallet", id_of(&json(&made)));
    let bind = |wallet: &str| patching(&path, &json!({ "solanaWallet": wallet }));
    let wallet =
        async || json(&fetch(&sandbox, path.trim_end_matches("/wallet")).await)["profile"]["solanaWallet"].clone();
    // As the source has it: A, B, a late A.
    for (name, bound) in [("A", "A"), ("B", "B"), ("A", "A")] {
        assert_eq!(sandbox.send(&bind(name)).await.status, 200);
        assert_eq!(wallet().await, bound);
    }
    // With what was seen as the condition.
    let seen =
        fetch(&sandbox, path.trim_end_matches("/wallet")).await.header("etag").expect("a party has one").to_owned();
    let late = bind("C").header("If-Match", &seen);
    assert_eq!(sandbox.send(&late).await.status, 200);
    assert_eq!(sandbox.send(&late).await.status, 200, "what has been done is no conflict");
    let now = sandbox.send(&bind("D")).await.header("etag").expect("a party has one").to_owned();
    let refused = sandbox.send(&late).await;
    assert_eq!((refused.status, &json(&refused)["code"]), (412, &json!("precondition_failed")), "{refused:?}");
    assert_eq!(wallet().await, "D");
    for broken in ["", "W/\"1\"", "1", "\"\"", "nonsense, more"] {
        assert_eq!(sandbox.send(&bind("E").header("If-Match", broken)).await.status, 412, "{broken:?}");
    }
    assert_eq!(sandbox.send(&bind("E").header("If-Match", format!("\"x\", {now}"))).await.status, 200);
    assert_eq!(sandbox.send(&bind("F").header("If-Match", "*")).await.status, 200);
});

for_each!(sqlite, postgres, gateway =>
async fn e42_exchange_15_a_corrected_form_may_use_its_key(sandbox: Sandbox) {
    let mut wrong = onramp();
    wrong["amountCents"] = json!(0);
    let refused = create(&sandbox, ONRAMP, Some(U1), &wrong).await;
    assert_code(&refused, 400, "validation_error");
    assert_eq!(json(&refused)["validationErrors"], json!([{ "field": "amountCents", "message": "must be > 0" }]));
    created(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    assert_eq!(ids(&sandbox, "intent").await.len(), 1);
});

for_each!(sqlite, postgres, gateway =>
async fn e46_exchange_16_nobody_sees_another_instance(sandbox: Sandbox) {
    let made = created(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    let path = format!("/v2/intents/{}", id_of(&made));
    assert_code(&sandbox.get(&path, &[("X-API-Key", "sk_live_a")]).await, 404, "not_found");
    assert_eq!(sandbox.get(&path, &[("X-API-Key", "sk_test_a2")]).await.status, 200);
    let party = sandbox.fixtures().await["party_id"].as_str().expect("an id").to_owned();
    let foreign = sandbox.get(&format!("/v2/parties/{party}"), &[("X-API-Key", "sk_live_a")]).await;
    assert_eq!((foreign.status, &json(&foreign)["code"]), (404, &json!("not_found")));
    let list = json(&sandbox.get("/v2/intents", &[("X-API-Key", "sk_live_a")]).await);
    assert_eq!(list, json!({ "items": [], "nextCursor": null }));
    // Nobody without a known key gets a kept reply either.
    for key in ["sk_test_b", "", "SK_TEST_A"] {
        let unknown = sandbox.send(&posting(key, ONRAMP, Some(U1), &onramp())).await;
        assert_code(&unknown, 401, "unauthorized");
    }
    assert_code(
        &sandbox.send(&post(ONRAMP).header("idempotency-key", U1).body(onramp().to_string())).await,
        401,
        "unauthorized",
    );
    let two = posting(TEST, ONRAMP, Some(U1), &onramp()).header("X-API-Key", "sk_live_a");
    assert_code(&sandbox.send(&two).await, 401, "unauthorized");
    let nobody = sandbox.get(&format!("/v2/parties/{party}"), &[]).await;
    assert_eq!(nobody.status, 401);
    assert!(json(&nobody)["error"].is_string(), "the shape of parties: {nobody:?}");
});

for_each!(sqlite, postgres, gateway =>
async fn e36_exchange_16_40_and_50_twins_make_one_intent(sandbox: Sandbox) {
    for (path, content, key, twins) in
        [(ONRAMP, onramp(), U1, 40), (OFFRAMP, offramp(), U2, 50), (ONRAMP, onramp(), U3, 50)]
    {
        let before = ids(&sandbox, "intent").await.len();
        let responses = together(sandbox.addr, vec![posting(TEST, path, Some(key), &content); twins]).await;
        for response in &responses {
            assert_eq!(response.status, 201, "{response:?}");
            assert_eq!(response.text(), responses[0].text());
        }
        assert_eq!(ids(&sandbox, "intent").await.len(), before + 1);
    }
});

for_each!(sqlite, postgres, gateway =>
async fn e38_50_twins_of_a_burn_approve_it_once(sandbox: Sandbox) {
    let off = id_of(&created(&sandbox, OFFRAMP, None, &offramp()).await);
    let approve = format!("/v2/intents/{off}/approve-burn");
    // Two signatures at once: one of them is taken, whichever came first.
    let mut twins = vec![posting(TEST, &approve, None, &burn("sigA")); 25];
    twins.extend(vec![posting(TEST, &approve, None, &burn("sigB")); 25]);
    let responses = together(sandbox.addr, twins).await;
    let taken: Vec<bool> = responses.iter().map(|response| response.status == 200).collect();
    for response in responses.iter().filter(|response| response.status != 200) {
        assert_code(response, 409, "burn_signature_conflict");
    }
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 25, "{responses:?}");
    assert!(taken[..25].iter().all(|is| *is == taken[0]), "one signature won: {taken:?}");
    assert_eq!(ids(&sandbox, "burn").await, [off]);
});

for_each!(sqlite, postgres, gateway =>
async fn e39_50_twins_of_a_party_make_one(sandbox: Sandbox) {
    let responses = together(sandbox.addr, vec![posting(TEST, "/v2/parties", None, &joao()); 50]).await;
    assert_eq!(responses.iter().filter(|response| response.status == 201).count(), 1);
    assert_eq!(responses.iter().filter(|response| response.status == 409).count(), 49, "{responses:?}");
    assert_eq!(ids(&sandbox, "party").await.len(), 1);
});

for_each!(sqlite, postgres, gateway =>
async fn e41_reads_need_no_key_and_are_never_replayed(sandbox: Sandbox) {
    let id = id_of(&created(&sandbox, ONRAMP, Some(U1), &onramp()).await);
    let read = get(&format!("/v2/intents/{id}")).header("X-API-Key", TEST).header("idempotency-key", U1);
    assert_eq!(json(&sandbox.send(&read).await)["status"], "awaiting_fiat_payment");
    advance_to(&sandbox, &id, "minting").await;
    assert_eq!(json(&sandbox.send(&read).await)["status"], "minting");
    let list = json(&fetch(&sandbox, "/v2/intents").await);
    assert_eq!((&list["items"][0]["status"], &list["nextCursor"]), (&json!("minting"), &Value::Null));
});

/// A client as the source wants it: the UUID is minted per click and goes with every retry of it.
async fn click(sandbox: &Sandbox, key: &str, content: &Value) -> Response {
    let request = posting(TEST, ONRAMP, Some(key), content);
    for _ in 0..5 {
        match sandbox.try_send(&request).await {
            Ok(response) if response.status < 500 => return response,
            Ok(_) | Err(_) => {}
        }
    }
    panic!("no answer in five tries");
}

for_each!(sqlite, postgres =>
async fn e42_one_key_per_click_is_one_intent_under_every_fault(sandbox: Sandbox) {
    let faults =
        ["drop_before", "drop_after", "status_before:503", "status_before:500", "status_after:500", "status_after:503"];
    for (number, fault) in faults.into_iter().enumerate() {
        sandbox.fault("POST /v2/intents/onramp", fault, 2).await;
        let key = format!("00000000-0000-4000-8000-00000000000{number}");
        assert_eq!(click(&sandbox, &key, &onramp()).await.status, 201, "{fault}");
        assert_eq!(ids(&sandbox, "intent").await.len(), number + 1, "{fault}");
    }
});

for_each!(sqlite, postgres, gateway =>
async fn e43_a_client_that_crashed_gets_the_original_with_the_key_that_it_kept(sandbox: Sandbox) {
    let kept = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kept.path(), U1).unwrap();
    let mut conn = Conn::open(sandbox.addr).await;
    conn.send(&posting(TEST, ONRAMP, Some(U1), &onramp())).await;
    drop(conn);
    let key = std::fs::read_to_string(kept.path()).unwrap();
    // The first may have landed, or be under way, or be lost: it is one intent in the end.
    let recovered = created(&sandbox, ONRAMP, Some(&key), &onramp()).await;
    assert_eq!(created(&sandbox, ONRAMP, Some(&key), &onramp()).await, recovered);
    assert_eq!(ids(&sandbox, "intent").await, [id_of(&recovered)]);
});

for_each!(sqlite, postgres, gateway =>
async fn e47_a_key_of_the_whole_process_makes_every_user_share_one_intent(sandbox: Sandbox) {
    const MINTED_AT_LOAD: &str = U1;
    let first = create(&sandbox, ONRAMP, Some(MINTED_AT_LOAD), &onramp()).await;
    let mut second_user = onramp();
    second_user["clientReference"] = json!("ord_124");
    // The second user is told, and does not get the first one's intent for theirs.
    assert_code(&create(&sandbox, ONRAMP, Some(MINTED_AT_LOAD), &second_user).await, 409, "idempotency_key_reused");
    // Whoever asks for the very same has that intent.
    assert_replay(&first, &create(&sandbox, ONRAMP, Some(MINTED_AT_LOAD), &onramp()).await);
    // Minted in the handler, each has their own.
    for (key, content) in [(U2, onramp()), (U3, second_user)] {
        created(&sandbox, ONRAMP, Some(key), &content).await;
    }
    assert_eq!(ids(&sandbox, "intent").await.len(), 3);
});

for_each!(sqlite, postgres =>
async fn e49_q20_a_refusal_of_the_operation_is_replayed_with_its_status(sandbox: Sandbox) {
    sandbox.set(json!({ "require_bound_wallet": true })).await;
    let mut unbound = onramp();
    unbound["destinationWallet"] = json!("unbound");
    let first = create(&sandbox, ONRAMP, Some(U1), &unbound).await;
    assert_code(&first, 422, "destination_wallet_not_authorized");
    let party = sandbox.fixtures().await["party_id"].as_str().expect("an id").to_owned();
    let bind = patching(&format!("/v2/parties/{party}/wallet"), &json!({ "solanaWallet": "unbound" }));
    assert_eq!(sandbox.send(&bind).await.status, 200);
    assert_replay(&first, &create(&sandbox, ONRAMP, Some(U1), &unbound).await);
    let made = created(&sandbox, ONRAMP, Some(U2), &unbound).await;
    assert_eq!((&made["partyId"], &made["party"]["id"]), (&json!(party), &json!(party)));
    assert_eq!(ids(&sandbox, "intent").await, [id_of(&made)]);
});

for_each!(sqlite, postgres =>
async fn e49_only_successes_are_kept_when_told_so(sandbox: Sandbox) {
    sandbox.set(json!({ "require_bound_wallet": true, "store": "2xx" })).await;
    let mut unbound = onramp();
    unbound["destinationWallet"] = json!("unbound");
    assert_eq!(create(&sandbox, ONRAMP, Some(U1), &unbound).await.status, 422);
    sandbox.set(json!({ "require_bound_wallet": false })).await;
    assert_eq!(created(&sandbox, ONRAMP, Some(U1), &unbound).await["partyId"], Value::Null);
});

for_each!(gateway =>
async fn e43_q21_a_twin_waits_for_the_first_and_no_longer_than_the_limit(sandbox: Sandbox) {
    sandbox.delay("POST /v2/intents/onramp", 1500).await;
    let twins = together(sandbox.addr, vec![posting(TEST, ONRAMP, Some(U1), &onramp()); 2]).await;
    assert_replay(&twins[0], &twins[1]);
    assert_eq!(twins[0].status, 201, "{twins:?}");
    sandbox.delay("POST /v2/intents/onramp", 14_000).await;
    let twins = together(sandbox.addr, vec![posting(TEST, ONRAMP, Some(U2), &onramp()); 2]).await;
    let (first, second) = if twins[0].status == 201 { (&twins[0], &twins[1]) } else { (&twins[1], &twins[0]) };
    assert_eq!((first.status, second.status, second.code().as_str()), (201, 409, "in-flight"), "{twins:?}");
    assert!(second.header("retry-after").is_some());
    assert_replay(first, &create(&sandbox, ONRAMP, Some(U2), &onramp()).await);
    assert_eq!(ids(&sandbox, "intent").await.len(), 2);
});

/// What any content of a create can be besides right.
const BROKEN: [&str; 12] = [
    "",
    " ",
    "null",
    "[]",
    "\"text\"",
    "17",
    "{",
    "{\"amountCents\":NaN}",
    "{\"amountCents\":1e400}",
    "{\"a\":\"\\ud800\"}",
    "{\"amountCents\":Infinity}",
    "{}{}",
];

for_each!(sqlite, postgres, gateway =>
async fn bad_contents_are_refused_in_the_api_s_own_shape(sandbox: Sandbox) {
    let off = id_of(&created(&sandbox, OFFRAMP, None, &offramp()).await);
    let party = sandbox.fixtures().await["party_id"].as_str().expect("an id").to_owned();
    let deep = "[".repeat(100_000);
    let broken =
        || BROKEN.iter().map(|text| text.as_bytes().to_vec()).chain([vec![0xff, 0xfe], deep.clone().into_bytes()]);
    let paths = [
        ("POST", ONRAMP.to_owned()),
        ("POST", OFFRAMP.to_owned()),
        ("POST", format!("/v2/intents/{off}/approve-burn")),
        ("POST", "/v2/parties".to_owned()),
        ("PATCH", format!("/v2/parties/{party}/wallet")),
    ];
    for (method, path) in &paths {
        for content in broken() {
            let bare = request(method, path).header("X-API-Key", TEST).body(&content);
            let typed = bare.clone().header("Content-Type", "application/json");
            let named = bare.clone().header("Content-Type", "text/plain").header("idempotency-key", U1);
            for request in [bare, typed, named] {
                let response = sandbox.send(&request).await;
                assert_eq!(
                    response.status,
                    400,
                    "{method} {path} {:?}: {response:?}",
                    String::from_utf8_lossy(&content)
                );
                assert_eq!(json(&response)["code"], "validation_error", "{response:?}");
                let text = if path.starts_with("/v2/parties") { "error" } else { "message" };
                assert!(json(&response)[text].is_string(), "{path}: {response:?}");
            }
        }
    }
    assert_eq!(sandbox.records().await.len(), 1);
    // Neither is a content without a media type worse than one with it.
    let bare = post(ONRAMP).without("Content-Type").header("X-API-Key", TEST).body(onramp().to_string());
    assert_eq!(sandbox.send(&bare).await.status, 201);
});

for_each!(sqlite, postgres =>
async fn bad_members_are_named(sandbox: Sandbox) {
    let off = id_of(&created(&sandbox, OFFRAMP, None, &offramp()).await);
    let long = "x".repeat(256);
    let on = |name: &str, value: Value| {
        let mut content = onramp();
        content[name] = value;
        (ONRAMP.to_owned(), content, name.to_owned())
    };
    let approve = |content: Value, field: &str| (format!("/v2/intents/{off}/approve-burn"), content, field.to_owned());
    let party = |name: &str, value: Value| {
        let mut content = joao();
        content[name] = value;
        ("/v2/parties".to_owned(), content, name.to_owned())
    };
    let cases = [
        on("amountCents", json!("10000")),
        on("amountCents", json!(-1)),
        on("amountCents", json!(0.1)),
        on("amountCents", json!(9_007_199_254_740_992_u64)),
        on("amountCents", json!(1e300)),
        on("amountCents", json!([])),
        on("amountCents", json!("NaN")),
        on("amountCents", Value::Null),
        on("destinationWallet", json!("")),
        on("destinationWallet", json!(long)),
        on("destinationWallet", json!(7)),
        on("destinationWallet", json!("a\u{0}b")),
        on("chainId", json!("bitcoin")),
        on("chainId", json!({})),
        on("clientReference", json!(long)),
        on("clientReference", json!(1)),
        (OFFRAMP.to_owned(), onramp(), "destinationAddress".to_owned()),
        approve(json!({ "tokenHolder": "ATA" }), "txSignature"),
        approve(json!({ "txSignature": "sig" }), "tokenHolder"),
        approve(json!({ "txSignature": "", "tokenHolder": "ATA" }), "txSignature"),
        approve(json!({ "txSignature": "sig A", "tokenHolder": "ATA" }), "txSignature"),
        approve(json!({ "txSignature": ["sig"], "tokenHolder": "ATA" }), "txSignature"),
        party("cpf", json!("1234567890")),
        party("cpf", json!("123456789012")),
        party("cpf", json!("1234567890a")),
        party("cpf", json!("١٢٣٤٥٦٧٨٩٠١")),
        party("cpf", json!(12_345_678_901_u64)),
        party("displayName", json!("J")),
        party("displayName", json!("J".repeat(101))),
        party("displayName", json!("  ")),
        party("email", json!(1)),
        party("phone", json!({})),
        party("partyType", json!("")),
        party("externalRef", json!(long)),
    ];
    for (path, content, field) in cases {
        let response = create(&sandbox, &path, None, &content).await;
        assert_eq!(response.status, 400, "{path} {content}: {response:?}");
        let told = json(&response);
        match told.get("validationErrors") {
            Some(errors) => assert_eq!(
                (errors[0]["field"].as_str(), errors.as_array().map(Vec::len)),
                (Some(&*field), Some(1)),
                "{content}: {told}"
            ),
            None => assert!(told["error"].as_str().is_some_and(|error| error.starts_with(&field)), "{content}: {told}"),
        }
    }
    assert_eq!(sandbox.records().await.len(), 1);
    let mut whole = onramp();
    whole["amountCents"] = json!(1e3);
    assert_eq!(created(&sandbox, ONRAMP, None, &whole).await["pixInfo"]["amountCents"], 1000);
    let company = json!({ "cpf": "12345678901234", "displayName": "Ação 🙂", "countryCode": null, "email": "a@b.c" });
    assert_eq!(created(&sandbox, "/v2/parties", None, &company).await["profile"]["documentType"], "cnpj");
});

for_each!(sqlite, postgres =>
async fn intents_go_on_and_end_as_told(sandbox: Sandbox) {
    let on = id_of(&created(&sandbox, ONRAMP, None, &onramp()).await);
    let told = async |set: Value| {
        let response =
            sandbox.control("POST", "/_sandbox/fixtures", Some(json!({ "vendor": VENDOR, "set": set }))).await;
        (response.status, response.text().to_owned())
    };
    let advance = |id: &str, status: &str| json!({ "advance": { "intent_id": id, "status": status } });
    for (wrong, word) in [
        (advance(UNKNOWN_ID, "completed"), "there is no intent"),
        (advance("\u{0}", "completed"), "there is no intent"),
        (advance(&on, "burning"), "fiat_received, minting, completed"),
        (json!({ "advance": { "intent_id": on } }), "missing field `status`"),
        (json!({ "advance": { "intent_id": on, "status": "minting", "more": 1 } }), "unknown field `more`"),
        (json!({ "drop_signature": { "intent_id": on } }), "has no signature"),
        (json!({ "expire": 7 }), "takes {"),
        (json!({ "nonsense": 7 }), "advance"),
        (json!({ "ttl_ms": 1 }), "60000"),
    ] {
        let (status, text) = told(wrong.clone()).await;
        assert!(status == 400 && text.replace("\\\"", "\"").contains(word), "{wrong}: {status} {text}");
    }
    assert_eq!(told(advance(&on, "minting")).await.0, 200);
    assert_eq!(told(advance(&on, "fiat_received")).await.0, 400, "not backwards");
    assert_eq!(told(json!({ "expire": { "intent_id": on } })).await.0, 200);
    assert_eq!(intent(&sandbox, &on).await["status"], "expired");
    assert_eq!(told(advance(&on, "completed")).await.0, 400, "it is over");
    // Nobody paid in time.
    let waits = id_of(&created(&sandbox, ONRAMP, None, &onramp()).await);
    sandbox.advance(30 * 60_000 - 1000).await;
    assert_eq!(intent(&sandbox, &waits).await["status"], "awaiting_fiat_payment");
    sandbox.advance(1000).await;
    let over = intent(&sandbox, &waits).await;
    assert_eq!((&over["status"], &over["updatedAt"]), (&json!("expired"), &over["expiresAt"]));
    assert_eq!(told(advance(&waits, "fiat_received")).await.0, 400);
});

for_each!(sqlite, postgres =>
async fn a_list_is_told_in_pages(sandbox: Sandbox) {
    let requests: Vec<Request> = (0..101).map(|_| posting(TEST, ONRAMP, None, &onramp())).collect();
    assert!(together(sandbox.addr, requests).await.iter().all(|response| response.status == 201));
    let first = json(&fetch(&sandbox, "/v2/intents").await);
    let cursor = first["nextCursor"].as_str().expect("there is more").to_owned();
    let second = json(&fetch(&sandbox, &format!("/v2/intents?limit=7&cursor={cursor}")).await);
    assert_eq!(second["nextCursor"], Value::Null);
    let told: Vec<String> =
        [&first, &second].iter().flat_map(|page| page["items"].as_array().expect("a list")).map(id_of).collect();
    let mut expected = ids(&sandbox, "intent").await;
    expected.reverse();
    assert_eq!(told, expected);
    for wrong in ["abc", "%00", UNKNOWN_ID, ""] {
        assert_code(&fetch(&sandbox, &format!("/v2/intents?cursor={wrong}")).await, 400, "validation_error");
    }
});

for_each!(sqlite, postgres =>
async fn a_replay_has_a_mark_only_when_told_to(sandbox: Sandbox) {
    create(&sandbox, ONRAMP, Some(U1), &onramp()).await;
    assert_eq!(create(&sandbox, ONRAMP, Some(U1), &onramp()).await.header("idempotent-replayed"), None);
    sandbox.set(json!({ "replay_marker": true })).await;
    assert_eq!(create(&sandbox, ONRAMP, Some(U1), &onramp()).await.header("idempotent-replayed"), Some("true"));
});
