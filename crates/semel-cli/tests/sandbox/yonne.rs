//! Yonne: every numbered exchange of `dialects.md` section 3, and the rows E24 to E34, Q1 to Q6 and Q27.
//!
//! `gateway` is the naive copy behind `semel serve --preset yonne`: what does not need the sandbox's own switches or
//! clock is the same there.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Conn, Request, Response, Sandbox, for_each, get, json, post, together, within};

const VENDOR: &str = "yonne";
const LIVE: &str = "yonne_live_sandbox_1";
const LIVE_2: &str = "yonne_live_sandbox_2";
const TEST: &str = "yonne_test_sandbox_1";

const VALIDATE: &str = "/api/v1/external/validate";
const QUOTE: &str = "/api/v1/external/quote";
const CREATE: &str = "/api/v1/external/create-order";
const WALLET: &str = "/api/v1/external/wallet";
const SIMULATE: &str = "/api/v1/external/test/simulate-status";
const CREATE_OP: &str = "POST /api/v1/external/create-order";

const FEE: u64 = 7_350;
const BALANCE: u64 = 125_000;

/// The documented content (P).
fn payload() -> Value {
    json!({
        "delivery_fee": FEE,
        "delivery_lat": -13.9831,
        "delivery_lng": 33.7812,
        "delivery_address": "Area 18, Lilongwe",
        "receiver_name": "Chikondi Banda",
        "receiver_phone": "+265991234567",
        "item_name": "Shoes",
        "product_type": "Fashion",
        "weight_estimate": "0-5kg",
        "merchant_reference_id": "WEB-100245",
    })
}

/// P with other members, or other values of them.
fn payload_with(changed: Value) -> Value {
    let mut payload = payload();
    let Value::Object(changed) = changed else { panic!("an object, not {changed}") };
    for (name, value) in changed {
        payload[name] = value;
    }
    payload
}

fn create(key: &str, content: &Value) -> Request {
    as_caller(LIVE, post(CREATE)).header("Idempotency-Key", key).body(content.to_string())
}

fn as_caller(api_key: &str, request: Request) -> Request {
    request.header("X-API-Key", api_key)
}

/// `order-100245-attempt-n`.
fn attempt(n: u32) -> String {
    format!("order-100245-attempt-{n}")
}

async fn read(sandbox: &Sandbox, path: &str) -> Response {
    sandbox.send(&as_caller(LIVE, get(path))).await
}

async fn balance(sandbox: &Sandbox) -> u64 {
    json(&read(sandbox, WALLET).await)["balance"].as_u64().expect("a whole number")
}

/// That a response is the first one told again, and says so in both ways.
fn assert_replay(first: &Response, again: &Response) {
    assert_eq!(again.status, first.status, "{again:?}");
    assert_eq!(again.header("idempotent-replayed"), Some("true"), "{again:?}");
    let mut content = json(again);
    assert_eq!(content.as_object_mut().expect("an object").remove("idempotent_replay"), Some(json!(true)), "{again:?}");
    assert_eq!(content, json(first));
}

/// That a response is the creation itself.
fn assert_first(response: &Response) {
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("idempotent-replayed"), None, "{response:?}");
    assert_eq!(json(response).get("idempotent_replay"), None, "{response:?}");
    assert_eq!(json(response)["success"], json!(true), "{response:?}");
}

fn assert_error(response: &Response, status: u16, error: &str) {
    assert_eq!(response.status, status, "{response:?}");
    let content = json(response);
    assert_eq!((&content["success"], &content["error"]), (&json!(false), &json!(error)), "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    assert_eq!(response.header("idempotent-replayed"), None, "{response:?}");
}

/// That the books hold this many orders, and one debit for each.
async fn assert_orders(sandbox: &Sandbox, count: usize) {
    let ledger = sandbox.ledger().await;
    let ids = |list: &str, id: &str| -> Vec<String> {
        let of_all = ledger[list].as_array().expect("a list").iter();
        let mut ids: Vec<String> = of_all.map(|it| it[id].as_str().expect("an id").to_owned()).collect();
        ids.sort();
        ids
    };
    let orders = ids("records", "id");
    assert_eq!(orders.len(), count, "{ledger}");
    assert_eq!(orders, ids("debits", "record_id"), "{ledger}");
    assert!(ledger["debits"].as_array().expect("a list").iter().all(|debit| debit["amount"] == "7350"), "{ledger}");
}

// The numbered exchanges.

for_each!(sqlite, postgres => async fn e31_e32_exchange_1_validate_says_what_is_behind_a_key(sandbox: Sandbox) {
    let fixtures = json!({ "live_key": LIVE, "test_key": TEST, "live_key_2": LIVE_2 });
    assert_eq!(sandbox.fixtures().await, fixtures);
    let expected = json!({
        "success": true, "balance": BALANCE, "currency": "MWK", "hasPickup": true, "pickupAddress": "Area 3, Lilongwe",
        "pickupLatitude": -13.9626, "pickupLongitude": 33.7741, "environment": "live",
    });
    assert_eq!(json(&read(&sandbox, VALIDATE).await), expected);
    let bearer = get(VALIDATE).header("Authorization", format!("Bearer {LIVE}"));
    assert_eq!(json(&sandbox.send(&bearer).await), expected);
    let nobody = sandbox.send(&get(VALIDATE)).await;
    assert_error(&nobody, 401, "Unauthorized");
    let says = "API key required. Send X-API-Key header or Authorization: Bearer <key>.";
    assert_eq!(json(&nobody)["message"], says);
    for wrong in ["yonne_live_other", "", "ключ"] {
        assert_error(&sandbox.send(&as_caller(wrong, get(VALIDATE))).await, 401, "Unauthorized");
    }
    sandbox.set(json!({ "pickup": false })).await;
    let unset = json(&read(&sandbox, VALIDATE).await);
    assert_eq!((&unset["hasPickup"], &unset["pickupAddress"]), (&json!(false), &Value::Null));
});

for_each!(sqlite, postgres => async fn e32_exchange_2_a_quote_can_be_asked_for_in_both_ways_as_often_as_wanted(sandbox: Sandbox) {
    let expected = json!({
        "success": true, "price": FEE, "delivery_fee": FEE, "currency": "MWK", "eta": "24m", "eta_minutes": 24,
        "service_id": "bike_std", "suggested_vehicle_class": "BIKE", "required_weight_kg": 5, "distance_km": 3.9,
        "environment": "live",
    });
    for _ in 0..2 {
        let asked = sandbox.send(&as_caller(LIVE, post(QUOTE)).body(payload().to_string())).await;
        assert_eq!((asked.status, json(&asked)), (200, expected.clone()));
        let query = format!("{QUOTE}?delivery_lat=-13.9831&delivery_lng=33.7812&weight_estimate=0-5kg");
        assert_eq!(json(&read(&sandbox, &query).await), expected);
    }
    // The other quote of the pages: 95 kg at 3.5 km.
    let heavy = payload_with(json!({ "delivery_lat": -13.9807, "weight_estimate": "50kg+", "total_weight_kg": 95 }));
    let heavy = json(&sandbox.send(&as_caller(LIVE, post(QUOTE)).body(heavy.to_string())).await);
    let shown = (&heavy["price"], &heavy["suggested_vehicle_class"], &heavy["required_weight_kg"], &heavy["distance_km"]);
    assert_eq!(shown, (&json!(18_500), &json!("VAN"), &json!(95), &json!(3.5)), "{heavy}");
    sandbox.set(json!({ "pickup": false })).await;
    let unset = sandbox.send(&as_caller(LIVE, post(QUOTE)).body(payload().to_string())).await;
    assert_error(&unset, 400, "Pickup not set");
    assert_orders(&sandbox, 0).await;
    assert_eq!(balance(&sandbox).await, BALANCE);
});

for_each!(sqlite, postgres, gateway => async fn e24_e25_e34_exchange_3_an_order_has_all_that_a_log_line_needs(sandbox: Sandbox) {
    let metadata = json!({ "cart": [1, 2.5, "três", null] });
    let first = sandbox.send(&create(&attempt(1), &payload_with(json!({ "metadata": metadata })))).await;
    assert_first(&first);
    assert_eq!(json(&first), json!({
        "success": true, "order_id": "ORD-123456", "tracking_id": "YON-TRK-123456", "status": "searching",
        "tracking_link": "https://yonne.app/track/YON-TRK-123456", "delivery_fee": FEE, "wallet_balance": BALANCE - FEE,
        "currency": "MWK", "environment": "live", "merchant_reference_id": "WEB-100245", "metadata": metadata,
    }));
    let records = sandbox.records().await;
    let [record] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!((&record["kind"], &record["id"], &record["key"]), (&json!("order"), &json!("ORD-123456"), &json!(attempt(1))));
    let data = &record["data"];
    assert_eq!((&data["merchant_reference_id"], &data["vehicle_class"]), (&json!("WEB-100245"), &json!("BIKE")));
    assert_eq!(data["asked"]["receiver_name"], "Chikondi Banda");
    assert_eq!(sandbox.debits().await, [
        json!({ "vendor": "yonne", "account": "MER-1001/live", "amount": "7350", "record_id": "ORD-123456" }),
    ]);
});

for_each!(sqlite, postgres, gateway => async fn e24_e26_e27_q6_exchange_4_a_repeat_gets_the_original_success(sandbox: Sandbox) {
    let first = sandbox.send(&create(&attempt(1), &payload())).await;
    assert_first(&first);
    // The reply is of its time: what happens later does not show in it.
    sandbox.set(json!({ "top_up": 1 })).await;
    for _ in 0..3 {
        assert_replay(&first, &sandbox.send(&create(&attempt(1), &payload())).await);
    }
    assert_eq!(json(&first)["wallet_balance"], BALANCE - FEE);
    assert_eq!(balance(&sandbox).await, BALANCE - FEE + 1);
    assert_orders(&sandbox, 1).await;
    // The flag is about the reply, not about the order.
    assert_eq!(json(&read(&sandbox, "/api/v1/external/track/YON-TRK-123456").await).get("idempotent_replay"), None);
});

for_each!(sqlite, postgres, gateway => async fn e28_q1_exchange_5_keys_that_count_attempts_make_one_order(sandbox: Sandbox) {
    let first = sandbox.send(&create(&attempt(1), &payload())).await;
    assert_first(&first);
    assert_eq!(first.header("idempotency-warning"), Some("attempt-suffix"), "{first:?}");
    for n in [2, 3, 17] {
        assert_replay(&first, &sandbox.send(&create(&attempt(n), &payload())).await);
    }
    assert_orders(&sandbox, 1).await;
    assert_eq!(balance(&sandbox).await, BALANCE - FEE);
    // Another order of the same shop is another order.
    assert_first(&sandbox.send(&create("order-100246-attempt-1", &payload())).await);
    assert_orders(&sandbox, 2).await;
});

for_each!(sqlite, postgres => async fn e28_q1_exchange_5_taken_literally_the_next_attempt_is_the_duplicate_that_the_text_warns_of(sandbox: Sandbox) {
    sandbox.set(json!({ "attempt_suffix": "literal" })).await;
    let first = sandbox.send(&create(&attempt(1), &payload())).await;
    assert_first(&first);
    assert_eq!(first.header("idempotency-warning"), None, "{first:?}");
    let second = sandbox.send(&create(&attempt(2), &payload())).await;
    assert_first(&second);
    assert_eq!(json(&second)["order_id"], "ORD-123457");
    assert_eq!(balance(&sandbox).await, 110_300);
    assert_orders(&sandbox, 2).await;
});

for_each!(sqlite, postgres => async fn e24_e30_exchange_6_who_gave_up_waiting_finds_the_order_made(sandbox: Sandbox) {
    sandbox.delay(CREATE_OP, 11_000).await;
    let mut impatient = Conn::open(sandbox.addr).await;
    impatient.send(&create(&attempt(3), &payload())).await;
    until_ordered(&sandbox, 1).await;
    impatient.reset();
    let again = sandbox.send(&create(&attempt(3), &payload())).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{again:?}");
    assert_eq!(json(&again)["order_id"], "ORD-123456");
    assert_orders(&sandbox, 1).await;
});

for_each!(gateway => async fn e24_e30_q4_exchange_6_the_next_attempt_waits_for_the_one_that_runs(sandbox: Sandbox) {
    sandbox.delay(CREATE_OP, 2_000).await;
    let mut impatient = Conn::open(sandbox.addr).await;
    impatient.send(&create(&attempt(1), &payload())).await;
    until_ordered(&sandbox, 1).await;
    impatient.reset();
    // The gateway has no reply yet; it does not send the order a second time, it waits.
    let next = sandbox.send(&create(&attempt(2), &payload())).await;
    assert_eq!((next.status, next.header("idempotent-replayed")), (200, Some("true")), "{next:?}");
    assert_orders(&sandbox, 1).await;
});

async fn until_ordered(sandbox: &Sandbox, count: usize) {
    within("the order is made", async {
        while sandbox.records().await.len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

for_each!(sqlite, postgres, gateway => async fn e30_exchange_7_after_a_503_the_same_key_orders(sandbox: Sandbox) {
    sandbox.fault(CREATE_OP, "status_before:503", 1).await;
    let busy = sandbox.send(&create(&attempt(4), &payload())).await;
    assert_error(&busy, 503, "Service Unavailable");
    assert_eq!((busy.header("retry-after"), &json(&busy)["retry_after"]), (Some("1"), &json!(1)));
    assert_orders(&sandbox, 0).await;
    assert_first(&sandbox.send(&create(&attempt(4), &payload())).await);
    assert_orders(&sandbox, 1).await;
});

for_each!(sqlite, postgres, gateway => async fn e31_exchange_8_a_corrected_content_may_use_the_key(sandbox: Sandbox) {
    let mut content = payload();
    content.as_object_mut().expect("an object").remove("delivery_lat");
    let refused = sandbox.send(&create(&attempt(5), &content)).await;
    assert_error(&refused, 400, "Missing coordinates");
    assert_eq!(json(&refused)["message"], "delivery_lat and delivery_lng are required.");
    assert_first(&sandbox.send(&create(&attempt(5), &payload())).await);
    assert_orders(&sandbox, 1).await;
});

for_each!(sqlite, postgres, gateway => async fn e31_q2_exchange_9_after_a_top_up_the_same_key_orders(sandbox: Sandbox) {
    sandbox.set(json!({ "balance": 1_500 })).await;
    for _ in 0..2 {
        let refused = sandbox.send(&create(&attempt(6), &payload())).await;
        assert_error(&refused, 402, "Insufficient Funds");
        assert_eq!(json(&refused), json!({
            "success": false, "error": "Insufficient Funds", "balance": 1_500, "required": FEE,
            "message": "Wallet balance is insufficient for this delivery. Please top up.",
        }));
    }
    assert_eq!(balance(&sandbox).await, 1_500);
    assert_orders(&sandbox, 0).await;
    sandbox.set(json!({ "top_up": FEE })).await;
    assert_first(&sandbox.send(&create(&attempt(6), &payload())).await);
    assert_eq!(balance(&sandbox).await, 1_500);
    assert_orders(&sandbox, 1).await;
});

for_each!(sqlite, postgres, gateway => async fn e31_q2_q5_exchange_10_when_a_rider_is_there_the_same_key_orders(sandbox: Sandbox) {
    sandbox.set(json!({ "riders_online": ["BIKE"] })).await;
    let heavy = payload_with(json!({ "weight_estimate": "50kg+", "total_weight_kg": 95 }));
    let refused = sandbox.send(&create(&attempt(7), &heavy)).await;
    assert_error(&refused, 422, "ERR_NO_CAPACITY_AVAILABLE");
    assert_eq!(json(&refused)["required_weight_kg"], 95);
    assert_eq!(balance(&sandbox).await, BALANCE);
    assert_orders(&sandbox, 0).await;
    // Funds are looked at before riders.
    sandbox.set(json!({ "balance": 0 })).await;
    assert_error(&sandbox.send(&create(&attempt(7), &heavy)).await, 402, "Insufficient Funds");
    sandbox.set(json!({ "balance": BALANCE, "riders_online": ["BIKE", "VAN"] })).await;
    assert_first(&sandbox.send(&create(&attempt(7), &heavy)).await);
    assert_orders(&sandbox, 1).await;
});

for_each!(sqlite, postgres => async fn e26_exchange_11_after_24_hours_the_key_is_new(sandbox: Sandbox) {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let first = sandbox.send(&create(&attempt(1), &payload())).await;
    assert_first(&first);
    sandbox.advance(DAY_MS - 60_000).await;
    assert_replay(&first, &sandbox.send(&create(&attempt(1), &payload())).await);
    sandbox.advance(61_000).await;
    let later = sandbox.send(&create(&attempt(1), &payload())).await;
    assert_first(&later);
    assert_eq!(json(&later)["order_id"], "ORD-123457");
    assert_orders(&sandbox, 2).await;
    // The time is a setting, and shorter than any execution if one likes.
    sandbox.set(json!({ "ttl_ms": 5_000 })).await;
    assert_first(&sandbox.send(&create("order-1", &payload())).await);
    sandbox.advance(5_001).await;
    assert_first(&sandbox.send(&create("order-1", &payload())).await);
});

for_each!(sqlite, postgres => async fn e32_e34_exchange_12_tracking_is_always_safe(sandbox: Sandbox) {
    let order = json(&sandbox.send(&create(&attempt(1), &payload())).await);
    let first = read(&sandbox, "/api/v1/external/track/YON-TRK-123456").await;
    assert_eq!(first.status, 200, "{first:?}");
    let told = json(&first);
    for name in ["order_id", "tracking_id", "tracking_link", "delivery_fee", "merchant_reference_id"] {
        assert_eq!(told[name], order[name], "{name}");
    }
    assert_eq!((&told["status"], told.get("asked"), told.get("wallet_balance")), (&json!("Searching"), None, None));
    assert_eq!(json(&read(&sandbox, "/api/v1/external/track/YON-TRK-123456").await), told);
    for unknown in ["YON-TRK-1", "YON-TRK-", "ORD-123456", "%00", "%F0%9F%9A%B2", "YON-TRK-123456%20", "..%2F"] {
        let missing = read(&sandbox, &format!("/api/v1/external/track/{unknown}")).await;
        assert_eq!((missing.status, json(&missing)["success"].clone()), (404, json!(false)), "{unknown}: {missing:?}");
    }
    let missing = read(&sandbox, "/api/v1/external/track/YON-TRK-1").await;
    assert_eq!(json(&missing), json!({ "success": false, "error": "Order not found" }));
    assert_orders(&sandbox, 1).await;
});

for_each!(sqlite, postgres => async fn e32_exchange_13_a_simulated_status_shows_in_tracking(sandbox: Sandbox) {
    sandbox.send(&create(&attempt(1), &payload())).await;
    let simulate = async |content: Value| sandbox.send(&as_caller(LIVE, post(SIMULATE)).body(content.to_string())).await;
    // Both ways of writing it, and twice is once.
    for status in ["In Transit", "in_transit", "In Transit"] {
        let done = simulate(json!({ "order_id": "ORD-123456", "status": status })).await;
        assert_eq!((done.status, json(&done)), (200, json!({
            "success": true, "order_id": "ORD-123456", "status": "In Transit",
        })));
        let tracked = json(&read(&sandbox, "/api/v1/external/track/YON-TRK-123456").await);
        assert_eq!(tracked["status"], "In Transit");
    }
    for content in [json!({}), json!({ "order_id": "ORD-123456" }), json!({ "status": "Delivered" }), json!({
        "order_id": 123_456, "status": ["Delivered"],
    }), json!([]), json!(null)] {
        assert_error(&simulate(content).await, 400, "order_id and status are required");
    }
    assert_error(&simulate(json!({ "order_id": "ORD-1", "status": "Delivered" })).await, 404, "Order not found");
    assert_error(&simulate(json!({ "order_id": "ORD-123456", "status": "lost" })).await, 400, "Invalid status");
});

for_each!(sqlite, postgres, gateway => async fn e24_exchange_14_fifty_twins_make_one_order(sandbox: Sandbox) {
    let twins = (0..50).map(|_| create("order-100245-attempt-8", &payload())).collect();
    let responses = together(sandbox.addr, twins).await;
    let firsts: Vec<&Response> =
        responses.iter().filter(|response| response.header("idempotent-replayed").is_none()).collect();
    let [first] = firsts.as_slice() else { panic!("{} firsts: {firsts:?}", firsts.len()) };
    assert_first(first);
    for again in responses.iter().filter(|response| response.header("idempotent-replayed").is_some()) {
        assert_replay(first, again);
    }
    assert_orders(&sandbox, 1).await;
    assert_eq!(balance(&sandbox).await, BALANCE - FEE);
});

for_each!(sqlite, postgres, gateway => async fn e25_exchange_15_the_test_environment_has_its_own_keys_orders_and_wallet(sandbox: Sandbox) {
    let live = sandbox.send(&create(&attempt(1), &payload())).await;
    assert_first(&live);
    let request = create(&attempt(1), &payload()).without("X-API-Key");
    let test = sandbox.send(&as_caller(TEST, request)).await;
    assert_first(&test);
    assert_eq!((&json(&test)["environment"], &json(&test)["wallet_balance"]), (&json!("test"), &json!(BALANCE - FEE)));
    assert_orders(&sandbox, 2).await;
    let track = get("/api/v1/external/track/YON-TRK-123456");
    assert_error(&sandbox.send(&as_caller(TEST, track)).await, 404, "Order not found");
    let content = json!({ "order_id": "ORD-123456", "status": "Delivered" }).to_string();
    assert_error(&sandbox.send(&as_caller(TEST, post(SIMULATE)).body(content)).await, 404, "Order not found");
});

// The rows, beyond the exchanges.

for_each!(sqlite, postgres, gateway => async fn e24_q4_attempts_that_run_at_once_make_one_order(sandbox: Sandbox) {
    let attempts = (1..=30).map(|n| create(&attempt(n), &payload())).collect();
    let responses = together(sandbox.addr, attempts).await;
    assert!(responses.iter().all(|response| response.status == 200), "{responses:?}");
    assert!(responses.iter().all(|response| json(response)["order_id"] == "ORD-123456"), "{responses:?}");
    assert_orders(&sandbox, 1).await;
});

for_each!(sqlite, postgres => async fn e24_debit_and_order_are_one(sandbox: Sandbox) {
    // Money for seventeen, and forty who want it at once.
    let wanted = (0..40).map(|n| create(&format!("order-{n}"), &payload())).collect();
    let responses = together(sandbox.addr, wanted).await;
    let with_status = |status: u16| responses.iter().filter(|response| response.status == status).count();
    assert_eq!((with_status(200), with_status(402)), (17, 23), "{responses:?}");
    assert_orders(&sandbox, 17).await;
    assert_eq!(balance(&sandbox).await, BALANCE - 17 * FEE);
});

for_each!(sqlite, postgres, gateway => async fn e25_a_key_is_the_same_quoted_or_bare_and_belongs_to_this_one_call(sandbox: Sandbox) {
    let first = sandbox.send(&create("order-1", &payload())).await;
    assert_first(&first);
    assert_replay(&first, &sandbox.send(&create("\"order-1\"", &payload())).await);
    // A quote takes no key, and says that it looked at none.
    let quote = as_caller(LIVE, post(QUOTE)).header("Idempotency-Key", "order-1").body(payload().to_string());
    let quote = sandbox.send(&quote).await;
    assert_eq!((quote.status, quote.header("idempotency-status")), (200, Some("ignored")), "{quote:?}");
    let too_long = "k".repeat(256);
    for wrong in ["", "a b", "a,b", "\"open", too_long.as_str()] {
        assert_error(&sandbox.send(&create(wrong, &payload())).await, 400, "Invalid Idempotency-Key");
    }
    assert_orders(&sandbox, 1).await;
    // Nobody enforces the key, so an order without one is made, unprotected and marked so.
    let bare = sandbox.send(&create("", &payload()).without("Idempotency-Key")).await;
    assert_first(&bare);
    assert_eq!(bare.header("idempotency-status"), Some("absent"), "{bare:?}");
    assert_orders(&sandbox, 2).await;
});

for_each!(sqlite, postgres => async fn e25_strict_key_refuses_an_order_without_one(sandbox: Sandbox) {
    sandbox.set(json!({ "strict_key": true })).await;
    let refused = sandbox.send(&create("", &payload()).without("Idempotency-Key")).await;
    assert_error(&refused, 400, "Missing Idempotency-Key");
    assert_eq!(json(&refused)["code"], "key-missing");
    assert_orders(&sandbox, 0).await;
    assert_first(&sandbox.send(&create("order-1", &payload())).await);
});

for_each!(sqlite, postgres, gateway => async fn e28_q5_another_content_under_a_known_key_is_refused_in_words_of_its_own(sandbox: Sandbox) {
    let first = sandbox.send(&create(&attempt(1), &payload())).await;
    let other = payload_with(json!({ "receiver_name": "Somebody else" }));
    for n in [1, 2] {
        let refused = sandbox.send(&create(&attempt(n), &other)).await;
        // 422, as a lack of riders is: the error and the code tell them apart.
        assert_error(&refused, 422, "Idempotency key reused");
        assert_eq!(json(&refused)["code"], "key-reused");
        assert_eq!(refused.header("idempotency-problem"), Some("key-reused"), "{refused:?}");
    }
    assert_replay(&first, &sandbox.send(&create(&attempt(1), &payload())).await);
    assert_orders(&sandbox, 1).await;
});

for_each!(sqlite, postgres => async fn e26_mismatch_replay_tells_the_original_success(sandbox: Sandbox) {
    sandbox.set(json!({ "mismatch": "replay" })).await;
    let first = sandbox.send(&create(&attempt(1), &payload())).await;
    let other = payload_with(json!({ "receiver_name": "Somebody else" }));
    assert_replay(&first, &sandbox.send(&create(&attempt(1), &other)).await);
    assert_orders(&sandbox, 1).await;
});

for_each!(sqlite, postgres, gateway => async fn e29_a_new_random_key_per_retry_is_a_new_order_per_retry(sandbox: Sandbox) {
    for key in ["8d8ac610", "f4ac9b1e", "0c3d42aa"] {
        assert_first(&sandbox.send(&create(key, &payload())).await);
    }
    assert_orders(&sandbox, 3).await;
});

for_each!(sqlite, postgres => async fn e31_q23_after_a_401_the_corrected_api_key_orders_and_a_changed_one_replays(sandbox: Sandbox) {
    sandbox.set(json!({ "key_active": { "key": LIVE, "active": false } })).await;
    let refused = sandbox.send(&create(&attempt(1), &payload())).await;
    assert_error(&refused, 401, "Unauthorized");
    assert_orders(&sandbox, 0).await;
    let with = |api_key: &str| as_caller(api_key, create(&attempt(1), &payload()).without("X-API-Key"));
    let first = sandbox.send(&with(LIVE_2)).await;
    assert_first(&first);
    sandbox.set(json!({ "key_active": { "key": LIVE, "active": true } })).await;
    assert_replay(&first, &sandbox.send(&with(LIVE)).await);
    // The same key in the other header field is the same caller, whatever else the client says that it is.
    let bearer = create(&attempt(1), &payload()).without("X-API-Key").header("Authorization", format!("Bearer {LIVE}"));
    assert_replay(&first, &sandbox.send(&bearer.header("Sandbox-Account", "MER-1001/test")).await);
    assert_orders(&sandbox, 1).await;
    // Who may not ask is not told a reply either.
    sandbox.set(json!({ "key_active": { "key": LIVE, "active": false } })).await;
    assert_error(&sandbox.send(&with(LIVE)).await, 401, "Unauthorized");
});

for_each!(sqlite, postgres => async fn e24_e30_a_crash_after_the_commit_changes_nothing(mut sandbox: Sandbox) {
    sandbox.fault(CREATE_OP, "stall", 1).await;
    let mut conn = Conn::open(sandbox.addr).await;
    conn.send(&create(&attempt(1), &payload())).await;
    until_ordered(&sandbox, 1).await;
    sandbox.kill9();
    sandbox.start_again().await;
    let again = sandbox.send(&create(&attempt(2), &payload())).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{again:?}");
    assert_orders(&sandbox, 1).await;
    assert_eq!(balance(&sandbox).await, BALANCE - FEE);
});

// A client in the shape that Yonne's own page shows: three attempts, the number of the attempt in the key, `data.success`
// as the test of success, 402 and 422 thrown where its own `catch` takes them. The pauses are left out.

/// How the loop ended.
#[derive(Debug, PartialEq)]
enum Ended {
    Returned(Value),
    /// Nothing, silently: the loop ran out without a return.
    Undefined,
    Threw(String),
}

/// The loop, and the statuses that it saw on the way.
async fn page_sample(sandbox: &Sandbox, content: &Value, timeout: Duration) -> (Ended, Vec<Result<u16, &'static str>>) {
    const ATTEMPTS_MAX: u32 = 3;
    let mut seen = Vec::new();
    for n in 1..=ATTEMPTS_MAX {
        let request = create(&attempt(n), content);
        let thrown = match tokio::time::timeout(timeout, sandbox.try_send(&request)).await {
            Err(_elapsed) => {
                seen.push(Err("time-out"));
                "time-out".to_owned()
            }
            Ok(Err(_broken)) => {
                seen.push(Err("broken"));
                "broken".to_owned()
            }
            Ok(Ok(response)) => {
                seen.push(Ok(response.status));
                let data = json(&response);
                if data["success"] == json!(true) {
                    return (Ended::Returned(data), seen);
                }
                if response.status != 402 && response.status != 422 {
                    continue;
                }
                data["error"].as_str().expect("an error has a name").to_owned()
            }
        };
        if n == ATTEMPTS_MAX {
            return (Ended::Threw(thrown), seen);
        }
    }
    (Ended::Undefined, seen)
}

/// Far longer than an order takes, unless it is never answered.
const TIMEOUT: Duration = Duration::from_secs(10);

for_each!(sqlite, postgres => async fn e28_e33_q1_the_pages_own_sample_with_two_lost_replies_makes_one_order(sandbox: Sandbox) {
    sandbox.fault(CREATE_OP, "drop_after", 2).await;
    let (ended, seen) = page_sample(&sandbox, &payload(), TIMEOUT).await;
    assert_eq!(seen, [Err("broken"), Err("broken"), Ok(200)]);
    let Ended::Returned(data) = ended else { panic!("{ended:?}") };
    assert_eq!((&data["order_id"], &data["idempotent_replay"]), (&json!("ORD-123456"), &json!(true)));
    assert_orders(&sandbox, 1).await;
    // Taken literally, three.
    sandbox.reset().await;
    sandbox.set(json!({ "attempt_suffix": "literal" })).await;
    sandbox.fault(CREATE_OP, "drop_after", 2).await;
    page_sample(&sandbox, &payload(), TIMEOUT).await;
    assert_orders(&sandbox, 3).await;
});

for_each!(sqlite, postgres => async fn e30_e33_q4_the_pages_own_sample_with_an_answer_that_never_comes_makes_one_order(sandbox: Sandbox) {
    sandbox.fault(CREATE_OP, "stall", 1).await;
    let (ended, seen) = page_sample(&sandbox, &payload(), Duration::from_secs(3)).await;
    assert_eq!((seen.first(), seen.last()), (Some(&Err("time-out")), Some(&Ok(200))));
    assert!(matches!(ended, Ended::Returned(_)), "{ended:?}");
    assert_orders(&sandbox, 1).await;
});

for_each!(sqlite, postgres, gateway => async fn e33_q2_blind_retries_of_402_and_422_do_nothing(sandbox: Sandbox) {
    sandbox.set(json!({ "balance": 1_500 })).await;
    let (ended, seen) = page_sample(&sandbox, &payload(), TIMEOUT).await;
    assert_eq!((ended, seen.as_slice()), (Ended::Threw("Insufficient Funds".to_owned()), [Ok(402); 3].as_slice()));
    sandbox.set(json!({ "balance": BALANCE, "riders_online": [] })).await;
    let (ended, seen) = page_sample(&sandbox, &payload(), TIMEOUT).await;
    assert_eq!((ended, seen.as_slice()), (Ended::Threw("ERR_NO_CAPACITY_AVAILABLE".to_owned()), [Ok(422); 3].as_slice()));
    assert_orders(&sandbox, 0).await;
    assert_eq!(balance(&sandbox).await, BALANCE);
    sandbox.set(json!({ "riders_online": ["TRUCK"] })).await;
    let (ended, _) = page_sample(&sandbox, &payload(), TIMEOUT).await;
    assert!(matches!(ended, Ended::Returned(_)), "{ended:?}");
    assert_orders(&sandbox, 1).await;
});

for_each!(sqlite, postgres => async fn e33_q3_sends_without_a_pause_do_nothing_and_are_told_when_to_come_back(sandbox: Sandbox) {
    let content = payload_with(json!({ "delivery_lat": "north" }));
    assert_eq!(page_sample(&sandbox, &content, TIMEOUT).await, (Ended::Undefined, vec![Ok(400); 3]));
    sandbox.fault(CREATE_OP, "status_before:503", 3).await;
    assert_eq!(page_sample(&sandbox, &payload(), TIMEOUT).await, (Ended::Undefined, vec![Ok(503); 3]));
    assert_orders(&sandbox, 0).await;
    // With a limit, who does not pause is told to.
    sandbox.set(json!({ "rate_limit": 2 })).await;
    assert_eq!(page_sample(&sandbox, &content, TIMEOUT).await, (Ended::Undefined, vec![Ok(400), Ok(400), Ok(429)]));
    let refused = sandbox.send(&create(&attempt(1), &payload())).await;
    assert_error(&refused, 429, "Too Many Requests");
    let seconds: u64 = refused.header("retry-after").and_then(|seconds| seconds.parse().ok()).expect("seconds");
    assert!((1..=60).contains(&seconds), "{refused:?}");
    assert_eq!(json(&refused)["retry_after"], seconds);
    // Another key has its own limit, and time mends it.
    assert_eq!(sandbox.send(&as_caller(TEST, get(WALLET))).await.status, 200);
    sandbox.advance(seconds * 1000).await;
    assert_first(&sandbox.send(&create(&attempt(1), &payload())).await);
    assert_orders(&sandbox, 1).await;
});

for_each!(sqlite, postgres => async fn e24_e30_q27_whatever_breaks_there_is_at_most_one_order_and_the_answer_is_true(sandbox: Sandbox) {
    // Before the order is made: nothing is there. After: the order is. Then the retry tells the truth of either.
    let faults = [
        ("drop_before", 0),
        ("status_before:500", 0),
        ("status_before:503", 0),
        ("drop_after", 1),
        ("status_after:500", 1),
        ("status_after:503", 1),
    ];
    for (n, (kind, made)) in faults.into_iter().enumerate() {
        sandbox.reset().await;
        sandbox.fault(CREATE_OP, kind, 1).await;
        let key = format!("order-{n}");
        let broken = sandbox.try_send(&create(&key, &payload())).await;
        assert!(!broken.is_ok_and(|response| response.status == 200), "{kind}");
        assert_orders(&sandbox, made).await;
        let told = sandbox.send(&create(&key, &payload())).await;
        assert_eq!(told.status, 200, "{kind}: {told:?}");
        assert_eq!(told.header("idempotent-replayed").is_some(), made == 1, "{kind}: {told:?}");
        assert_eq!(json(&told)["order_id"], "ORD-123456", "{kind}");
        assert_orders(&sandbox, 1).await;
        assert_eq!(balance(&sandbox).await, BALANCE - FEE, "{kind}");
    }
});

for_each!(gateway => async fn e30_q27_an_outcome_that_nobody_knows_is_said_to_be_unknown(sandbox: Sandbox) {
    for (n, kind) in ["drop_after", "status_after:500"].into_iter().enumerate() {
        sandbox.fault(CREATE_OP, kind, 1).await;
        let key = |attempt: u32| format!("order-{n}-attempt-{attempt}");
        let first = sandbox.send(&create(&key(1), &payload())).await;
        assert_eq!(first.status / 100, 5, "{kind}: {first:?}");
        assert_orders(&sandbox, n + 1).await;
        // The naive origin made the order and its reply is lost: sending it again would make a second.
        let again = sandbox.send(&create(&key(2), &payload())).await;
        assert_error(&again, 409, "Outcome unknown");
        assert_eq!(json(&again)["code"], "outcome-unknown", "{kind}");
        assert_orders(&sandbox, n + 1).await;
    }
});

for_each!(sqlite, postgres => async fn e31_e33_bad_input_is_refused_with_its_reason_and_does_nothing(sandbox: Sandbox) {
    let long = "x".repeat(501);
    let large = json!({ "m": "x".repeat(17 << 10) });
    let table: Vec<(Value, &str)> = vec![
        (json!({}), "Missing coordinates"),
        (json!([]), "Missing coordinates"),
        (json!("text"), "Missing coordinates"),
        (json!(null), "Missing coordinates"),
        (payload_with(json!({ "delivery_lng": null })), "Missing coordinates"),
        (payload_with(json!({ "delivery_lat": "NaN" })), "Invalid coordinates"),
        (payload_with(json!({ "delivery_lat": "-13.98" })), "Invalid coordinates"),
        (payload_with(json!({ "delivery_lng": [33.7] })), "Invalid coordinates"),
        (payload_with(json!({ "delivery_lat": true })), "Invalid coordinates"),
        (payload_with(json!({ "pickup_lat": "x", "pickup_lng": 33.0 })), "Invalid coordinates"),
        (payload_with(json!({ "delivery_lat": 0, "delivery_lng": 0.0 })), "Invalid delivery"),
        (payload_with(json!({ "delivery_lat": 90.01 })), "Invalid delivery"),
        (payload_with(json!({ "delivery_lng": 1e308 })), "Invalid delivery"),
        (payload_with(json!({ "pickup_lat": 0, "pickup_lng": 0 })), "Invalid pickup"),
        (payload_with(json!({ "pickup_lat": 18_446_744_073_709_551_615_u64, "pickup_lng": 0 })), "Invalid pickup"),
        (payload_with(json!({ "pickup_lat": -13.9 })), "Invalid pickup"),
        (payload_with(json!({ "delivery_lat": -13.9626, "delivery_lng": 33.7741 })), "Invalid distance"),
        (payload_with(json!({ "weight_estimate": "5kg" })), "Invalid weight_estimate"),
        (payload_with(json!({ "weight_estimate": 5 })), "Invalid weight_estimate"),
        (payload_with(json!({ "total_weight_kg": -1 })), "Invalid total_weight_kg"),
        (payload_with(json!({ "total_weight_kg": 10_001 })), "Invalid total_weight_kg"),
        (payload_with(json!({ "total_weight_kg": "95" })), "Invalid total_weight_kg"),
        (payload_with(json!({ "delivery_fee": null })), "Missing delivery_fee"),
        (payload_with(json!({ "delivery_fee": 0 })), "Invalid delivery_fee"),
        (payload_with(json!({ "delivery_fee": -7350 })), "Invalid delivery_fee"),
        (payload_with(json!({ "delivery_fee": 7350.5 })), "Invalid delivery_fee"),
        (payload_with(json!({ "delivery_fee": 1e300 })), "Invalid delivery_fee"),
        (payload_with(json!({ "delivery_fee": "7350" })), "Invalid delivery_fee"),
        (payload_with(json!({ "receiver_name": 7 })), "Invalid receiver_name"),
        (payload_with(json!({ "item_name": long })), "Invalid item_name"),
        (payload_with(json!({ "merchant_reference_id": {} })), "Invalid merchant_reference_id"),
        (payload_with(json!({ "metadata": "text" })), "Invalid metadata"),
        (payload_with(json!({ "metadata": large })), "Invalid metadata"),
    ];
    for (content, error) in &table {
        let refused = sandbox.send(&create("order-1", content)).await;
        assert_error(&refused, 400, error);
        assert!(json(&refused)["message"].as_str().is_some_and(|message| message.ends_with('.')), "{refused:?}");
    }
    let raw: [&[u8]; 7] = [
        b"",
        b"{",
        b"{\"delivery_lat\":NaN,\"delivery_lng\":1}",
        b"{\"delivery_lat\":1e999,\"delivery_lng\":1}",
        b"{\"delivery_lat\":1}{}",
        b"\xff\xfe",
        b"\"\\ud800\"",
    ];
    for content in raw {
        assert_error(&sandbox.send(&create("order-1", &json!(null)).body(content)).await, 400, "Missing coordinates");
    }
    // What is not said to be JSON is not read.
    let form = create("order-1", &payload()).without("Content-Type");
    assert_error(&sandbox.send(&form).await, 400, "Missing coordinates");
    let form = form.header("Content-Type", "application/x-www-form-urlencoded");
    let refused = sandbox.send(&form).await;
    assert_error(&refused, 400, "Missing coordinates");
    assert!(json(&refused)["message"].as_str().expect("a text").contains("Content-Type: application/json"), "{refused:?}");
    let nested = format!("{{\"metadata\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert_error(&sandbox.send(&create("order-1", &json!(null)).body(nested)).await, 400, "Missing coordinates");
    for query in ["", "?delivery_lat=NaN&delivery_lng=1", "?delivery_lat=inf&delivery_lng=1", "?delivery_lat=%FF&delivery_lng"] {
        assert_eq!(read(&sandbox, &format!("{QUOTE}{query}")).await.status, 400, "{query}");
    }
    assert_orders(&sandbox, 0).await;
    // Odd, and yet right: it is all text.
    let odd = payload_with(json!({
        "receiver_name": "O'Brien \"🛵\" \u{0} \u{202e}", "metadata": { "\u{0}": ["'; DROP TABLE", 1e300, -0.0] },
        "delivery_fee": 7350.0, "total_weight_kg": 0.1,
    }));
    let first = sandbox.send(&create("order-1", &odd).without("Content-Type").header("Content-Type", "application/JSON; charset=utf-8")).await;
    assert_first(&first);
    assert_eq!(json(&first)["metadata"], odd["metadata"]);
    assert_eq!(json(&read(&sandbox, "/api/v1/external/track/YON-TRK-123456").await)["metadata"], odd["metadata"]);
    assert_orders(&sandbox, 1).await;
});

for_each!(sqlite => async fn what_can_be_set_is_checked(sandbox: Sandbox) {
    for wrong in [
        json!({ "balance": -1 }),
        json!({ "balance": 1.5 }),
        json!({ "balance": 1_000_000_000_000_001_u64 }),
        json!({ "top_up": "5" }),
        json!({ "riders_online": "BIKE" }),
        json!({ "riders_online": ["BOAT"] }),
        json!({ "pickup": 1 }),
        json!({ "key_active": { "key": "other", "active": true } }),
        json!({ "key_active": { "key": LIVE } }),
        json!({ "ttl_ms": 0 }),
        json!({ "mismatch": "conflict" }),
        json!({ "attempt_suffix": true }),
        json!({ "strict_key": "yes" }),
        json!({ "unheard_of": 1 }),
    ] {
        let refused = sandbox.control("POST", "/_sandbox/fixtures", Some(json!({ "vendor": VENDOR, "set": wrong }))).await;
        assert_eq!(refused.status, 400, "{wrong}: {refused:?}");
    }
    assert_eq!(balance(&sandbox).await, BALANCE);
});
