//! Credicorp: every exchange of `dialects.md` section 2 under its number, and what S2 says beside them.

#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

use std::io::ErrorKind;

use serde_json::{Value, json};

use crate::harness::{Request, Response, Sandbox, for_each, get, json, request, together};

const VENDOR: &str = "credicorp";
const ENQUIRIES: &str = "/public/v1/enquiries";
const CONSENT: &str = "/public/v1/consent";
/// The operations as faults name them.
const ENQUIRE: &str = "POST /public/v1/enquiries";
const E: &str = r#"{"form":"contact-us","fields":{"name":"Jo","email":"jo@example.com","consent":"yes"}}"#;
const E_OF_AL: &str = r#"{"form":"contact-us","fields":{"name":"Al","email":"jo@example.com","consent":"yes"}}"#;
const C: &str =
    r#"{"email":"jo@example.com","purposes":{"marketing_email":true,"marketing_sms":false},"source":"partner-widget"}"#;
const K1: &str = "8e03978e-40d5-43dd-bc93-6894a57f9324";
const K2: &str = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed";
const DAY_MS: u64 = 86_400_000;

fn post(path: &str, key: &str, content: &str) -> Request {
    bare(path, content).header("Idempotency-Key", key)
}

/// Without a key.
fn bare(path: &str, content: &str) -> Request {
    request("POST", path).header("Content-Type", "application/json").body(content)
}

async fn enquire(sandbox: &Sandbox, key: &str, content: &str) -> Response {
    sandbox.send(&post(ENQUIRIES, key, content)).await
}

/// A first result: the id that it made.
#[track_caller]
fn made(response: &Response) -> String {
    assert_eq!((response.status, response.header("idempotency-replayed")), (201, None), "{response:?}");
    json(response)["id"].as_str().expect("an id").to_owned()
}

/// The stored result: status, content and its type are those of the first, and it says what it is (Q15, Q20).
#[track_caller]
fn assert_repeats(repeat: &Response, first: &Response) {
    let kept = |response: &Response| {
        (response.status, response.header("content-type").map(str::to_owned), response.text().to_owned())
    };
    assert_eq!(kept(repeat), kept(first), "{repeat:?}");
    assert_eq!(repeat.header("idempotency-replayed"), Some("true"), "{repeat:?}");
}

/// An error in the API's shape: its status, code and the member that it is about.
#[track_caller]
fn error(response: &Response) -> (u16, String, Option<String>) {
    let content = json(response);
    let text = |name: &str| content["error"][name].as_str().map(str::to_owned);
    for member in ["type", "message"] {
        assert!(text(member).is_some_and(|text| !text.is_empty()), "{member}: {response:?}");
    }
    (response.status, text("code").unwrap_or_default(), text("param"))
}

#[track_caller]
fn assert_error(response: &Response, status: u16, code: &str) {
    let told = error(response);
    assert_eq!((told.0, told.1.as_str()), (status, code), "{response:?}");
}

/// How many records of each endpoint there are.
async fn counts(sandbox: &Sandbox) -> (usize, usize) {
    let records = sandbox.records().await;
    let of = |kind| records.iter().filter(|record| record["kind"] == kind).count();
    assert_eq!(of("enquiry") + of("consent"), records.len());
    (of("enquiry"), of("consent"))
}

for_each!(sqlite, postgres, gateway => async fn e14_e16_e19_q15_exchanges_1_2_3_a_repeat_gets_the_first_result(sandbox: Sandbox) {
    let first = enquire(&sandbox, K1, E).await;
    let id = made(&first);
    assert_eq!(json(&first), json!({ "id": id, "status": "new" }));
    assert_repeats(&enquire(&sandbox, K1, E).await, &first);
    let reordered = r#"{ "fields": {"consent":"yes", "email":"jo@example.com", "name":"Jo"}, "form":"contact\u002dus" }"#;
    assert_repeats(&enquire(&sandbox, K1, reordered).await, &first);
    let records = sandbox.records().await;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!((&records[0]["id"], &records[0]["key"]), (&json!(id), &json!(K1)));
    assert_eq!(records[0]["data"], serde_json::from_str::<Value>(E).unwrap());
    assert_eq!(sandbox.debits().await, [] as [Value; 0]);
});

for_each!(sqlite, postgres => async fn e16_e19_exchange_4_a_retry_after_a_lost_reply_is_safe(sandbox: Sandbox) {
    let faults = [
        ("drop_after", 1, true), ("drop_before", 0, false), ("status_after:500", 1, true), ("status_before:503", 0, false),
    ];
    for (number, (kind, landed, is_replay)) in faults.into_iter().enumerate() {
        let key = format!("lost-{number}");
        let before = sandbox.records().await.len();
        sandbox.fault(ENQUIRE, kind, 1).await;
        match sandbox.try_send(&post(ENQUIRIES, &key, E)).await {
            Err(error) => {
                assert!(kind.starts_with("drop"), "{kind}: {error}");
                assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
            }
            Ok(response) => {
                assert!(kind.ends_with(&response.status.to_string()), "{kind}: {response:?}");
                error(&response);
            }
        }
        assert_eq!(sandbox.records().await.len() - before, landed, "{kind}");
        let retry = enquire(&sandbox, &key, E).await;
        assert_eq!((retry.status, retry.header("idempotency-replayed").is_some()), (201, is_replay), "{kind}: {retry:?}");
        let records = sandbox.records().await;
        assert_eq!(records.len() - before, 1, "{kind}");
        assert_eq!(json(&retry)["id"], records[before]["id"], "{kind}");
    }
});

for_each!(sqlite, postgres => async fn e19_exchange_4_a_retry_after_a_time_out_is_completely_safe(sandbox: Sandbox) {
    sandbox.fault(ENQUIRE, "stall", 1).await;
    let request = post(ENQUIRIES, K2, E);
    // The client gives up as soon as the enquiry is there, or else a real one's time would have to pass.
    let gives_up = async {
        while sandbox.records().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answered = sandbox.try_send(&request) => panic!("it stalls: {answered:?}"),
        () = gives_up => {}
    }
    let retry = sandbox.send(&request).await;
    assert_eq!((retry.status, retry.header("idempotency-replayed")), (201, Some("true")), "{retry:?}");
    assert_eq!(counts(&sandbox).await, (1, 0));
});

// Behind the gateway nobody knows what became of an enquiry whose connection broke, so it is not told as a conflict
// ("you already have it", E17), and not sent again.
for_each!(gateway => async fn e17_e19_exchange_4_what_may_be_lost_is_never_sent_twice(sandbox: Sandbox) {
    for (key, kind, landed) in [("a", "drop_after", 1), ("b", "drop_before", 1)] {
        sandbox.fault(ENQUIRE, kind, 1).await;
        sandbox.send(&post(ENQUIRIES, key, E)).await;
        for _ in 0..3 {
            assert_error(&enquire(&sandbox, key, E).await, 500, "outcome_unknown");
        }
        assert_eq!(counts(&sandbox).await, (landed, 0), "{kind}");
    }
    // Whereas a 503 of the origin says that nothing happened.
    sandbox.fault(ENQUIRE, "status_before:503", 1).await;
    assert_error(&enquire(&sandbox, "c", E).await, 503, "temporarily_unavailable");
    made(&enquire(&sandbox, "c", E).await);
});

for_each!(sqlite, postgres, gateway => async fn e17_e21_e23_q12_q15_q16_exchange_5_other_data_under_a_known_key_is_a_conflict(sandbox: Sandbox) {
    let first = enquire(&sandbox, K1, E).await;
    let id = made(&first);
    for _ in 0..5 {
        let other = enquire(&sandbox, K1, E_OF_AL).await;
        assert_error(&other, 409, "idempotency_key_reused");
        assert_eq!(json(&other)["error"]["type"], "invalid_request_error");
        assert_eq!(other.header("idempotency-replayed"), None);
    }
    // E17: a 409 is about something that exists, and the retry of the first request still gets it.
    let records = sandbox.records().await;
    assert_eq!((records.len(), &records[0]["id"], &records[0]["key"]), (1, &json!(id), &json!(K1)));
    assert_repeats(&enquire(&sandbox, K1, E).await, &first);
    // E21: a different submission with a key of its own.
    assert_ne!(made(&enquire(&sandbox, K2, E_OF_AL).await), id);
});

for_each!(sqlite, postgres => async fn e23_q16_exchange_5_or_the_original_where_that_is_switched_on(sandbox: Sandbox) {
    let first = enquire(&sandbox, K1, E).await;
    made(&first);
    sandbox.set(json!({ "mismatch": "original" })).await;
    for _ in 0..3 {
        assert_repeats(&enquire(&sandbox, K1, E_OF_AL).await, &first);
    }
    sandbox.set(json!({ "mismatch": "conflict" })).await;
    assert_error(&enquire(&sandbox, K1, E_OF_AL).await, 409, "idempotency_key_reused");
    assert_eq!(counts(&sandbox).await, (1, 0));
});

for_each!(sqlite, postgres, gateway => async fn e14_e20_e22_exchange_6_a_key_counts_per_endpoint(sandbox: Sandbox) {
    let enquiry = made(&enquire(&sandbox, K1, E).await);
    let consent = sandbox.send(&post(CONSENT, K1, C)).await;
    let id = made(&consent);
    assert!(id.starts_with("con_") && enquiry.starts_with("enq_"), "{id} {enquiry}");
    let told = json(&consent);
    for (name, value) in serde_json::from_str::<Value>(C).unwrap().as_object().unwrap() {
        assert_eq!(&told[name], value);
    }
    assert!(told["recorded_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{told}");
    assert_repeats(&sandbox.send(&post(CONSENT, K1, C)).await, &consent);
    assert_eq!(counts(&sandbox).await, (1, 1));
});

for_each!(sqlite, postgres, gateway => async fn e15_e21_exchange_7_every_consent_with_a_key_of_its_own_is_kept(sandbox: Sandbox) {
    let first = made(&sandbox.send(&post(CONSENT, K1, C)).await);
    let withdrawn = C.replace("\"marketing_email\":true", "\"marketing_email\":false");
    let second = sandbox.send(&post(CONSENT, K2, &withdrawn)).await;
    assert_eq!(json(&second)["purposes"]["marketing_email"], false);
    let ids: Vec<Value> = sandbox.records().await.iter().map(|record| record["id"].clone()).collect();
    assert_eq!(ids, [json!(first), json!(made(&second))]);
});

for_each!(sqlite, postgres, gateway => async fn e22_exchange_8_without_a_key_every_request_is_a_new_one(sandbox: Sandbox) {
    let first = sandbox.send(&bare(ENQUIRIES, E)).await;
    let second = sandbox.send(&bare(ENQUIRIES, E)).await;
    assert_ne!(made(&first), made(&second));
    assert_eq!(first.header("idempotency-status"), Some("absent"), "the caller can see that a retry would execute");
    assert_eq!(counts(&sandbox).await, (2, 0));
});

for_each!(sqlite, postgres, gateway => async fn e21_q17_exchange_9_two_users_must_not_share_a_key(sandbox: Sandbox) {
    let first = enquire(&sandbox, K1, E).await;
    made(&first);
    // Nothing tells the second user from the first, not even credentials that the public ring does not ask for.
    let of_another = |content| post(ENQUIRIES, K1, content).header("Authorization", "Bearer somebody-else");
    assert_error(&sandbox.send(&of_another(E_OF_AL)).await, 409, "idempotency_key_reused");
    assert_repeats(&sandbox.send(&of_another(E)).await, &first);
    assert_eq!(counts(&sandbox).await, (1, 0));
});

for_each!(sqlite, postgres, gateway => async fn e19_exchange_10_a_refused_enquiry_leaves_its_key_free(sandbox: Sandbox) {
    let refused = enquire(&sandbox, "k5", r#"{"form":"contact-us","fields":{"name":"Jo"}}"#).await;
    assert_eq!(error(&refused), (422, "consent_required".to_owned(), Some("fields.consent".to_owned())));
    made(&enquire(&sandbox, "k5", E).await);
    assert_eq!(counts(&sandbox).await, (1, 0));
});

for_each!(sqlite, postgres => async fn e20_q26_exchange_11_a_key_is_remembered_for_a_day(sandbox: Sandbox) {
    let first = enquire(&sandbox, K1, E).await;
    made(&first);
    sandbox.advance(DAY_MS - 60_000).await;
    assert_repeats(&enquire(&sandbox, K1, E).await, &first);
    sandbox.advance(61_000).await;
    assert_ne!(made(&enquire(&sandbox, K1, E).await), json(&first)["id"].as_str().unwrap());
    assert_eq!(counts(&sandbox).await, (2, 0));
});

for_each!(sqlite, postgres => async fn e20_q26_the_window_is_a_setting(sandbox: Sandbox) {
    sandbox.set(json!({ "ttl_ms": 5_000 })).await;
    let first = enquire(&sandbox, K1, E).await;
    made(&first);
    assert_repeats(&enquire(&sandbox, K1, E).await, &first);
    sandbox.advance(5_001).await;
    made(&enquire(&sandbox, K1, E_OF_AL).await);
});

for_each!(sqlite, postgres, gateway => async fn e22_exchange_12_a_get_needs_no_key_and_ignores_one(sandbox: Sandbox) {
    let products = get("/public/v1/products").header("Idempotency-Key", K1);
    let told = json(&sandbox.send(&products).await);
    assert_eq!(told["data"].as_array().map(Vec::len), Some(2));
    for product in told["data"].as_array().unwrap() {
        let path = format!("/public/v1/products/{}", product["id"].as_str().unwrap());
        let one = sandbox.send(&get(&path).header("Idempotency-Key", K1)).await;
        assert_eq!((one.status, &json(&one)), (200, product));
        assert_eq!(one.header("idempotency-replayed"), None);
    }
    assert_error(&sandbox.send(&get("/public/v1/products/none")).await, 404, "resource_not_found");
    assert_error(&sandbox.send(&get("/public/v1/nothing")).await, 404, "route_not_found");
    made(&enquire(&sandbox, K1, E).await);
});

for_each!(sqlite, postgres => async fn exchange_13_too_many_requests_in_a_window(sandbox: Sandbox) {
    let first = enquire(&sandbox, K1, E).await;
    made(&first);
    for left in (0..59).rev() {
        let repeat = enquire(&sandbox, K1, E).await;
        assert_repeats(&repeat, &first);
        assert_eq!(repeat.header("ratelimit-remaining"), Some(left.to_string().as_str()), "replays count");
        assert_eq!(repeat.header("ratelimit-limit"), Some("60"));
    }
    let refused = enquire(&sandbox, K2, E).await;
    assert_error(&refused, 429, "rate_limited");
    let wait: u64 = refused.header("retry-after").expect("how long to wait").parse().unwrap();
    assert!((1..=60).contains(&wait), "{refused:?}");
    assert_eq!(refused.header("ratelimit-reset"), Some(wait.to_string().as_str()));
    assert_eq!(sandbox.send(&post(CONSENT, K1, C)).await.status, 201, "another route has a window of its own");
    // Whoever waits as told is served, and the refused key is free.
    sandbox.advance(wait * 1_000).await;
    made(&enquire(&sandbox, K2, E).await);
    sandbox.set(json!({ "rate_limit": 1 })).await;
    assert_error(&enquire(&sandbox, K2, E).await, 429, "rate_limited");
});

for_each!(sqlite, postgres, gateway => async fn e14_exchange_14_twins_at_once_make_one_record(sandbox: Sandbox) {
    for (path, content, twins, expected) in [(ENQUIRIES, E, 20, (1, 0)), (CONSENT, C, 50, (1, 1)), (ENQUIRIES, E_OF_AL, 40, (2, 1))] {
        let key = format!("k6-{}", content.len() * twins);
        let told = together(sandbox.addr, vec![post(path, &key, content); twins]).await;
        let firsts: Vec<&Response> =
            told.iter().filter(|told| told.header("idempotency-replayed").is_none()).collect();
        assert_eq!(firsts.len(), 1, "{firsts:?}");
        for repeat in told.iter().filter(|told| told.header("idempotency-replayed").is_some()) {
            assert_repeats(repeat, firsts[0]);
        }
        made(firsts[0]);
        assert_eq!(counts(&sandbox).await, expected);
    }
    assert_eq!(sandbox.debits().await, [] as [Value; 0]);
});

for_each!(sqlite, postgres => async fn e14_e19_e20_a_key_and_a_setting_outlive_the_process(mut sandbox: Sandbox) {
    let first = enquire(&sandbox, K1, E).await;
    made(&first);
    sandbox.set(json!({ "enquiry_mode": "lenient" })).await;
    sandbox.kill9();
    sandbox.start_again().await;
    assert_repeats(&enquire(&sandbox, K1, E).await, &first);
    made(&enquire(&sandbox, K2, r#"{"name":"Jo","consent":true}"#).await);
    sandbox.reset().await;
    assert_error(&enquire(&sandbox, K2, r#"{"name":"Jo","consent":true}"#).await, 400, "unknown_field");
    made(&enquire(&sandbox, K1, E_OF_AL).await);
    assert_eq!(counts(&sandbox).await, (1, 0));
});

for_each!(sqlite, postgres, gateway => async fn q20_a_replay_has_status_fields_and_content_and_an_honest_rest(sandbox: Sandbox) {
    let first = sandbox.send(&post(CONSENT, K1, C)).await;
    made(&first);
    sandbox.advance(30_000).await;
    let repeat = sandbox.send(&post(CONSENT, K1, C)).await;
    // The time of the record is that of the first: a replay is not made again.
    assert_repeats(&repeat, &first);
    assert!(repeat.header("credicorp-request-id").is_some_and(|id| id.starts_with("req_")), "{repeat:?}");
    let left = |response: &Response| response.header("ratelimit-remaining").map(str::to_owned);
    assert!(left(&first).is_some());
    assert_ne!(left(&repeat), left(&first), "that is no longer so");
});

for_each!(sqlite, postgres, gateway => async fn q25_one_uuid_is_one_key_however_it_is_spelt(sandbox: Sandbox) {
    let first = enquire(&sandbox, K1, E).await;
    made(&first);
    for spelling in [K1.to_uppercase(), format!("\"{K1}\""), format!("\"{}\"", K1.to_uppercase())] {
        assert_repeats(&enquire(&sandbox, &spelling, E).await, &first);
    }
    // A key that is no UUID is one as it stands.
    assert_ne!(made(&enquire(&sandbox, "enquiry-a", E).await), made(&enquire(&sandbox, "ENQUIRY-A", E).await));
    assert_eq!(counts(&sandbox).await, (3, 0));
});

/// The client of S2: one key per submission, made when the user commits, sent with every try of it.
async fn submit(sandbox: &Sandbox, key: &str, content: &str) -> Response {
    for _ in 0..5 {
        match sandbox.try_send(&post(ENQUIRIES, key, content)).await {
            Ok(response) if response.status < 500 => return response,
            Ok(_) | Err(_) => {}
        }
    }
    panic!("five tries were not enough");
}

for_each!(sqlite, postgres => async fn e15_e16_e18_e21_one_key_per_submission_however_often_it_is_sent(sandbox: Sandbox) {
    for kind in ["drop_after", "status_after:500", "drop_before", "status_before:503"] {
        sandbox.fault(ENQUIRE, kind, 1).await;
    }
    let first = submit(&sandbox, K1, E).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, Some("true")), "{first:?}");
    sandbox.fault(ENQUIRE, "drop_after", 2).await;
    let second = submit(&sandbox, K2, E_OF_AL).await;
    assert_eq!(second.status, 201);
    let records = sandbox.records().await;
    let keys: Vec<&Value> = records.iter().map(|record| &record["key"]).collect();
    assert_eq!(keys, [K1, K2]);
    assert_eq!((&json(&first)["id"], &json(&second)["id"]), (&records[0]["id"], &records[1]["id"]));
});

// Q12: the sample of S2 makes its key when the module is loaded. The second thing that such a page submits is not
// silently taken for the first: it is a conflict, and the client sees that nothing was recorded.
for_each!(sqlite, postgres, gateway => async fn e15_q12_a_key_made_once_per_page_is_found_out_at_the_second_submission(sandbox: Sandbox) {
    let key_of_the_page = K1;
    made(&submit(&sandbox, key_of_the_page, E).await);
    let second = submit(&sandbox, key_of_the_page, E_OF_AL).await;
    assert_error(&second, 409, "idempotency_key_reused");
    assert!(json(&second)["error"]["message"].as_str().is_some_and(|text| text.contains("fresh key")), "{second:?}");
    assert_eq!(counts(&sandbox).await, (1, 0));
});

for_each!(sqlite, postgres => async fn exchange_13_bad_input_is_told_precisely_and_records_nothing(sandbox: Sandbox) {
    sandbox.set(json!({ "rate_limit": 1_000_000 })).await;
    let deep = "[".repeat(100_000);
    let large = format!(r#"{{"form":"a","fields":{{"consent":"yes","m":"{}"}}}}"#, "m".repeat(20_000));
    let cases: [(&str, &[u8], u16, &str); 21] = [
        (ENQUIRIES, b"", 400, "invalid_json"),
        (ENQUIRIES, b"{", 400, "invalid_json"),
        (ENQUIRIES, b"null", 400, "invalid_json"),
        (ENQUIRIES, b"[]", 400, "invalid_json"),
        (ENQUIRIES, b"\"form\"", 400, "invalid_json"),
        (ENQUIRIES, b"{\"form\":NaN}", 400, "invalid_json"),
        (ENQUIRIES, b"{\"form\":Infinity}", 400, "invalid_json"),
        (ENQUIRIES, b"{\"form\":\"\xff\"}", 400, "invalid_json"),
        (ENQUIRIES, b"{\"form\":\"\\ud800\"}", 400, "invalid_json"),
        (ENQUIRIES, b"{\"form\":1e999}", 400, "invalid_json"),
        (ENQUIRIES, deep.as_bytes(), 400, "invalid_json"),
        (ENQUIRIES, b"{}", 422, "form_required"),
        (ENQUIRIES, b"{\"form\":1e30}", 422, "invalid_value_type"),
        (ENQUIRIES, b"{\"form\":\"\\u0000\"}", 422, "form_required"),
        (ENQUIRIES, b"{\"form\":\"a\",\"fields\":{\"consent\":\"yes\",\"email\":\"x\"}}", 422, "invalid_email"),
        (ENQUIRIES, b"{\"form\":\"a\",\"dept\":\"sales\",\"fields\":{\"consent\":\"yes\"}}", 422, "invalid_dept"),
        (ENQUIRIES, b"{\"form\":\"a\",\"\xf0\x9f\xa6\x80\":1}", 400, "unknown_field"),
        (ENQUIRIES, large.as_bytes(), 422, "payload_too_large"),
        (CONSENT, b"{}", 422, "invalid_email"),
        (CONSENT, b"{\"email\":\"a@b.c\",\"purposes\":{\"a\":18446744073709551616}}", 422, "invalid_value_type"),
        (CONSENT, b"{\"analytics\":\"NaN\",\"marketing\":true}", 422, "invalid_value_type"),
    ];
    for (path, content, status, code) in cases {
        let ask = request("POST", path).header("Content-Type", "application/json").header("Idempotency-Key", "bad");
        let told = sandbox.send(&ask.body(content)).await;
        assert_error(&told, status, code);
        assert_eq!(json(&told)["error"]["request_id"], told.header("credicorp-request-id").expect("on every reply"));
    }
    let of_type = |content_type: &str| request("POST", CONSENT).header("Content-Type", content_type).body(C);
    for content_type in ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "\u{e9}"] {
        assert_error(&sandbox.send(&of_type(content_type)).await, 400, "missing_content_type");
    }
    assert_error(&sandbox.send(&request("POST", CONSENT).body(C)).await, 400, "missing_content_type");
    for key in ["", " ", "\u{e9}", "a b", "a,b", "\"open", &"k".repeat(256)] {
        assert_error(&sandbox.send(&post(CONSENT, key, C)).await, 400, "invalid_idempotency_key");
    }
    let twice = post(CONSENT, "a", C).header("Idempotency-Key", "b");
    assert_error(&sandbox.send(&twice).await, 400, "invalid_idempotency_key");
    for path in ["/public/v1/products/%00", "/public/v1/products/%F0%9F%A6%80", "/public/v1/products/%27--"] {
        assert_error(&sandbox.send(&get(path)).await, 404, "resource_not_found");
    }
    assert_eq!(counts(&sandbox).await, (0, 0));
    // None of this took its key, and what is strange but allowed is kept as it is.
    let strange = r#"{"form":"a","fields":{"consent":"yes","":"\u0000é🦀","n":-0.0,"big":123456789012345678901234567890}}"#;
    let told = sandbox.send(&of_type("Application/JSON; charset=utf-8")).await;
    made(&told);
    made(&enquire(&sandbox, "bad", strange).await);
    let kept = &sandbox.records().await[1]["data"]["fields"];
    assert_eq!(kept[""], "\u{0}é🦀");
});

for_each!(sqlite, postgres, gateway => async fn every_reply_names_its_request(sandbox: Sandbox) {
    sandbox.fault(ENQUIRE, "status_before:500", 1).await;
    let asked = [
        post(ENQUIRIES, K1, E),
        bare(CONSENT, C),
        bare(CONSENT, "{"),
        get("/public/v1/products"),
        get("/public/v1/products/none"),
        request("DELETE", CONSENT),
    ];
    let mut seen = Vec::new();
    for ask in asked {
        let told = sandbox.send(&ask).await;
        let id = told.header("credicorp-request-id").unwrap_or_else(|| panic!("{told:?}")).to_owned();
        if told.status >= 400 {
            assert_eq!(json(&told)["error"]["request_id"], id, "{told:?}");
        }
        assert!(!seen.contains(&id), "{id} twice");
        seen.push(id);
    }
});
