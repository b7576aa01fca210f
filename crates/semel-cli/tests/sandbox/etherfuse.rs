//! Etherfuse in the sandbox: every exchange of its description, and what its documents say of retries.
//!
//! `gateway` is the naive copy, which has no unique ids at all, behind `semel serve --preset etherfuse`.

#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use crate::harness::{Conn, Request, Response, Sandbox, for_each, get, json as content, post, request, together};

const VENDOR: &str = "etherfuse";

const QUOTE: &str = "/ramp/quote";
const ORDER: &str = "/ramp/order";
const ORGANIZATION: &str = "/ramp/organization";
const ONBOARDING: &str = "/ramp/onboarding-url";
const POST_ORDER: &str = "POST /ramp/order";

const ORDER_EXISTS: &str = "An order with this transaction ID already exists";
const PENDING_EXISTS: &str = "A pending onramp order already exists for this bank account and amount";

/// A sandbox and who asks it.
struct Api {
    sandbox: Sandbox,
    key: String,
    fixtures: Value,
}

impl Api {
    async fn of(sandbox: Sandbox) -> Api {
        let fixtures = sandbox.fixtures().await;
        Api { key: text(&fixtures["api_key"]), sandbox, fixtures }
    }

    fn fixture(&self, name: &str) -> String {
        text(&self.fixtures[name])
    }

    fn bank_account(&self, number: usize) -> String {
        text(&self.fixtures["bank_account_ids"][number])
    }

    fn posting(&self, path: &str, asked: &Value) -> Request {
        post(path).header("Authorization", &self.key).body(asked.to_string())
    }

    async fn post(&self, path: &str, asked: &Value) -> Response {
        self.sandbox.send(&self.posting(path, asked)).await
    }

    async fn get(&self, path: &str) -> Response {
        self.sandbox.send(&get(path).header("Authorization", &self.key)).await
    }

    fn quote(&self, amount: &str) -> Value {
        json!({
            "quoteId": id(),
            "customerId": self.fixture("customer_id"),
            "blockchain": "stellar",
            "quoteAssets": { "type": "onramp", "sourceAsset": "MXN", "targetAsset": "USDC:GBBD47IF" },
            "sourceAmount": amount,
        })
    }

    /// An order on a fresh quote, not yet sent.
    async fn order(&self, amount: &str) -> Value {
        let quote = self.quote(amount);
        let quoted = self.post(QUOTE, &quote).await;
        assert_eq!(quoted.status, 200, "{quoted:?}");
        json!({
            "orderId": id(),
            "quoteId": quote["quoteId"],
            "bankAccountId": self.bank_account(0),
            "publicKey": self.fixture("public_key"),
        })
    }

    async fn orders(&self) -> Vec<Value> {
        self.kind("order").await
    }

    async fn kind(&self, kind: &str) -> Vec<Value> {
        let mut records = self.sandbox.records().await;
        records.retain(|record| record["kind"] == kind);
        records
    }

    /// The client of the source (E9), with what its text says beside it (E5 to E8): the id is kept in a file before the
    /// first attempt, and every attempt reads it there.
    async fn create_order(&self, file: &Path, mut asked: Value) -> Result<Value, String> {
        if !file.exists() {
            std::fs::write(file, id()).expect("the file can be written");
        }
        let order_id = std::fs::read_to_string(file).expect("the file can be read");
        asked["orderId"] = Value::from(order_id.clone());
        let sent = self.sandbox.try_send(&self.posting(ORDER, &asked)).await.map_err(|error| error.to_string())?;
        match sent.status {
            409 => {
                let found = self.get(&address(&order_id)).await;
                if found.status == 200 { Ok(content(&found)) } else { Err(sent.text().to_owned()) }
            }
            200..=299 => Ok(content(&sent)),
            status => Err(format!("Create failed: {status}")),
        }
    }
}

/// A UUID of version 4 (E12).
fn id() -> String {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).expect("the operating system gives randomness");
    uuid::Builder::from_random_bytes(bits).into_uuid().to_string()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn address(order: impl AsRef<str>) -> String {
    format!("{ORDER}/{}", order.as_ref())
}

fn order_of(asked: &Value) -> String {
    address(text(&asked["orderId"]))
}

fn check_ok(response: &Response) -> Value {
    assert!([200, 201].contains(&response.status), "{response:?}");
    content(response)
}

/// A conflict in the API's exact words, with which one it is beside them.
fn check_conflict(response: &Response, words: &str, problem: &str) {
    assert_eq!((response.status, response.text()), (409, words), "{response:?}");
    assert!(response.header("content-type").is_some_and(|media| media.starts_with("text/plain")), "{response:?}");
    assert_eq!(response.header("idempotency-problem"), Some(problem), "{response:?}");
}

fn check_error(response: &Response, status: u16, error: &str) {
    assert_eq!((response.status, content(response)), (status, json!({ "error": error })), "{response:?}");
}

for_each!(sqlite, postgres, gateway => async fn e1_exchange_1_a_quote_is_good_for_two_minutes(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.quote("100");
    let quote = check_ok(&api.post(QUOTE, &asked).await);
    for name in ["quoteId", "customerId", "blockchain", "quoteAssets", "sourceAmount"] {
        assert_eq!(quote[name], asked[name], "{quote}");
    }
    assert_eq!((&quote["feeBps"], &quote["feeAmount"]), (&json!("20"), &json!("0.20")), "{quote}");
    assert_eq!((&quote["exchangeRate"], &quote["destinationAmount"]), (&json!("17.12"), &json!("5.829439")), "{quote}");
    let time = |name: &str| humantime::parse_rfc3339(quote[name].as_str().unwrap()).unwrap();
    assert_eq!(time("expiresAt").duration_since(time("createdAt")).unwrap().as_secs(), 120, "{quote}");
    let again = api.post(QUOTE, &asked).await;
    check_conflict(&again, "A quote with this ID already exists", "resource-exists");
    assert_eq!(api.kind("quote").await.len(), 1);
});

for_each!(sqlite, postgres, gateway => async fn e1_e2_e3_e8_q9_exchange_2_3_a_repeated_create_is_a_conflict_and_get_tells(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.order("100").await;
    let created = check_ok(&api.post(ORDER, &asked).await);
    let deposit = json!({
        "orderId": asked["orderId"],
        "depositClabe": "646180157000000004",
        "depositAmount": "100",
        "depositBankName": "STP",
        "depositAccountHolder": "Etherfuse MX",
    });
    assert_eq!(created, json!({ "onramp": deposit }));
    // Its own pending order has the amount, and that is not what a retry is told (Q9).
    for _ in 0..2 {
        let again = api.post(ORDER, &asked).await;
        check_conflict(&again, ORDER_EXISTS, "resource-exists");
        assert_eq!(again.header("location"), Some(&*order_of(&asked)));
    }
    let told = check_ok(&api.get(&order_of(&asked)).await);
    for (name, value) in [("orderId", &asked["orderId"]), ("status", &json!("created")), ("orderType", &json!("onramp"))] {
        assert_eq!(&told[name], value, "{told}");
    }
    assert_eq!((&told["amountInFiat"], told.get("amountInTokens")), (&json!("100"), None), "{told}");
    assert_eq!(api.orders().await.len(), 1);
    assert_eq!(api.orders().await[0]["key"], asked["orderId"]);
});

for_each!(sqlite, postgres, gateway => async fn q8_q12_exchange_4_another_order_under_a_taken_id_changes_nothing_and_is_marked(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let first = api.order("100").await;
    check_ok(&api.post(ORDER, &first).await);
    let before = api.get(&order_of(&first)).await;
    // What a client does that mints its id once per program (Q12): another order of the customer under the old id.
    let mut second = api.order("120").await;
    second["orderId"] = first["orderId"].clone();
    second["bankAccountId"] = json!(api.bank_account(1));
    let refused = api.post(ORDER, &second).await;
    check_conflict(&refused, ORDER_EXISTS, "resource-id-reused");
    assert_eq!(api.get(&order_of(&first)).await.body, before.body);
    assert_eq!(api.orders().await.len(), 1);
});

for_each!(sqlite, postgres => async fn e4_e5_e6_exchange_5_a_create_that_never_landed_is_done_by_the_retry(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.order("120").await;
    api.sandbox.fault(POST_ORDER, "drop_before", 1).await;
    assert!(api.sandbox.try_send(&api.posting(ORDER, &asked)).await.is_err(), "the connection breaks");
    assert_eq!(api.get(&order_of(&asked)).await.status, 404);
    check_ok(&api.post(ORDER, &asked).await);
    assert_eq!(api.orders().await.len(), 1);
});

for_each!(sqlite, postgres => async fn e2_e4_e7_exchange_6_a_create_whose_reply_was_lost_is_told_as_existing(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.order("130").await;
    api.sandbox.fault(POST_ORDER, "drop_after", 1).await;
    assert!(api.sandbox.try_send(&api.posting(ORDER, &asked)).await.is_err(), "the connection breaks");
    check_conflict(&api.post(ORDER, &asked).await, ORDER_EXISTS, "resource-exists");
    assert_eq!(check_ok(&api.get(&order_of(&asked)).await)["amountInFiat"], "130");
    assert_eq!(api.orders().await.len(), 1);
});

for_each!(gateway => async fn e4_e7_exchange_5_6_a_client_that_left_early_finds_its_order(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.order("130").await;
    // Nothing but the head arrived: it never landed.
    let (head, _) = api.posting(ORDER, &asked).wire();
    let mut conn = Conn::open(api.sandbox.addr).await;
    conn.write(head).await;
    drop(conn);
    assert_eq!(api.orders().await.len(), 0);
    // All of it arrived, and the client left before the reply.
    api.sandbox.delay(POST_ORDER, 300).await;
    let (head, body) = api.posting(ORDER, &asked).wire();
    let mut conn = Conn::open(api.sandbox.addr).await;
    conn.write([head, body].concat()).await;
    while api.orders().await.is_empty() {
        tokio::task::yield_now().await;
    }
    drop(conn);
    check_conflict(&api.post(ORDER, &asked).await, ORDER_EXISTS, "resource-exists");
    assert_eq!(api.get(&order_of(&asked)).await.status, 200);
    assert_eq!(api.orders().await.len(), 1);
});

for_each!(gateway => async fn e3_q10_exchange_6_what_nobody_knows_is_not_told_as_existing(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.order("130").await;
    // Lost between the gateway and an origin that does not say what became of it.
    api.sandbox.fault(POST_ORDER, "drop_after", 1).await;
    let lost = api.post(ORDER, &asked).await;
    assert_eq!((lost.status, lost.code()), (502, "outcome-unknown".to_owned()), "{lost:?}");
    let again = api.post(ORDER, &asked).await;
    assert_eq!((again.status, again.code()), (503, "outcome-unknown".to_owned()), "{again:?}");
    assert_eq!(api.get(&order_of(&asked)).await.status, 200, "GET tells what became of it");
    assert_eq!(api.orders().await.len(), 1);
});

for_each!(sqlite, postgres => async fn e2_e4_an_id_outlives_a_crash_before_its_reply(sandbox: Sandbox) {
    let mut api = Api::of(sandbox).await;
    let asked = api.order("130").await;
    api.sandbox.fault(POST_ORDER, "stall", 1).await;
    let mut conn = Conn::open(api.sandbox.addr).await;
    conn.send(&api.posting(ORDER, &asked)).await;
    while api.orders().await.is_empty() {
        tokio::task::yield_now().await;
    }
    api.sandbox.kill9();
    api.sandbox.start_again().await;
    check_conflict(&api.post(ORDER, &asked).await, ORDER_EXISTS, "resource-exists");
    assert_eq!(check_ok(&api.get(&order_of(&asked)).await)["status"], "created");
    assert_eq!(api.orders().await.len(), 1);
});

for_each!(sqlite, postgres => async fn e4_q11_errors_of_the_machine_leave_nothing_or_everything(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.order("100").await;
    api.sandbox.fault(POST_ORDER, "status_before:503", 1).await;
    check_error(&api.post(ORDER, &asked).await, 503, "Service Unavailable");
    assert_eq!(api.orders().await.len(), 0);
    api.sandbox.fault(POST_ORDER, "status_after:500", 1).await;
    check_error(&api.post(ORDER, &asked).await, 500, "Internal Server Error");
    check_conflict(&api.post(ORDER, &asked).await, ORDER_EXISTS, "resource-exists");
    assert_eq!(api.orders().await.len(), 1);
});

for_each!(sqlite, postgres, gateway => async fn e2_e4_q10_exchange_7_of_fifty_creates_at_once_one_wins_and_nobody_is_told_too_early(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.order("100").await;
    let addr = api.sandbox.addr;
    let tasks = (0..50).map(|_| {
        let create = api.posting(ORDER, &asked);
        let look = get(&order_of(&asked)).header("Authorization", &api.key);
        tokio::spawn(async move {
            let created = crate::harness::send(addr, &create).await;
            let looked = crate::harness::send(addr, &look).await;
            (created, looked)
        })
    });
    let mut wins = 0;
    for task in tasks.collect::<Vec<_>>() {
        let (created, looked) = task.await.unwrap();
        if created.status == 200 {
            wins += 1;
        } else {
            check_conflict(&created, ORDER_EXISTS, "resource-exists");
        }
        assert_eq!(looked.status, 200, "who is told that it exists can see it: {looked:?}");
    }
    assert_eq!((wins, api.orders().await.len()), (1, 1));
});

for_each!(sqlite, postgres, gateway => async fn e1_e2_e12_fifty_twins_of_every_create_make_one_record(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let bank_account = format!("/ramp/customer/{}/bank-account", api.fixture("customer_id"));
    let creates = [
        (QUOTE, api.quote("100"), "quote", "A quote with this ID already exists"),
        (ORGANIZATION, json!({ "id": id(), "displayName": "Ana" }), "organization", "An organization with this ID already exists"),
        (&*bank_account, new_bank_account("XEXX010101000"), "bank-account", "A bank account with this ID already exists"),
    ];
    for (path, asked, kind, words) in creates {
        let answers = together(api.sandbox.addr, vec![api.posting(path, &asked); 50]).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status < 300);
        assert_eq!((won.len(), lost.len()), (1, 49), "{kind}: {lost:?}");
        lost.into_iter().for_each(|lost| check_conflict(lost, words, "resource-exists"));
        assert_eq!(api.kind(kind).await.len(), 1, "{kind}");
    }
});

for_each!(sqlite, postgres, gateway => async fn e10_q7_exchange_8_a_second_pending_order_of_one_amount_is_another_conflict(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let first = api.order("100").await;
    check_ok(&api.post(ORDER, &first).await);
    let second = api.order("100").await;
    let held = api.post(ORDER, &second).await;
    check_conflict(&held, PENDING_EXISTS, "guard-held");
    assert_eq!(held.header("location"), Some(&*order_of(&first)), "what is in the way, not what was asked for");
    check_error(&api.get(&order_of(&second)).await, 404, "Order not found");
    // The trap: whoever takes every 409 for "mine exists" gets that error for an order. The text and GET tell.
    let folder = tempfile::tempdir().unwrap();
    let told = api.create_order(&folder.path().join("order"), second).await;
    assert_eq!(told, Err(PENDING_EXISTS.to_owned()));
    assert_eq!(api.orders().await.len(), 1);
});

for_each!(sqlite, postgres, gateway => async fn e10_e11_q11_exchange_9_another_amount_or_account_is_free_and_the_refused_id_too(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let first = api.order("100").await;
    check_ok(&api.post(ORDER, &first).await);
    let mut refused = api.order("100").await;
    check_conflict(&api.post(ORDER, &refused).await, PENDING_EXISTS, "guard-held");
    let other_amount = api.order("101").await;
    refused["quoteId"] = other_amount["quoteId"].clone();
    assert_eq!(check_ok(&api.post(ORDER, &refused).await)["onramp"]["orderId"], refused["orderId"]);
    let mut other_account = api.order("100").await;
    other_account["bankAccountId"] = json!(api.bank_account(1));
    check_ok(&api.post(ORDER, &other_account).await);
    assert_eq!(api.orders().await.len(), 3);
});

for_each!(sqlite, postgres, gateway => async fn q14_e10_an_amount_is_a_number_however_it_is_spelled(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    check_ok(&api.post(ORDER, &api.order("100").await).await);
    for amount in ["100.0", "100.00"] {
        check_conflict(&api.post(ORDER, &api.order(amount).await).await, PENDING_EXISTS, "guard-held");
    }
    check_ok(&api.post(ORDER, &api.order("100.01").await).await);
    assert_eq!(api.orders().await.len(), 2);
});

for_each!(sqlite, postgres, gateway => async fn e10_q9_of_fifty_orders_of_one_amount_at_once_one_is_created(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.order("100").await;
    let with_own_id = |_| {
        let mut asked = asked.clone();
        asked["orderId"] = json!(id());
        api.posting(ORDER, &asked)
    };
    let answers = together(api.sandbox.addr, (0..50).map(with_own_id).collect()).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!(won.len(), 1, "{won:?}");
    lost.into_iter().for_each(|lost| check_conflict(lost, PENDING_EXISTS, "guard-held"));
    assert_eq!(api.orders().await.len(), 1);
});

for_each!(sqlite, postgres, gateway => async fn e11_exchange_10_once_the_first_is_funded_its_amount_is_free(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let first = api.order("100").await;
    check_ok(&api.post(ORDER, &first).await);
    let received = json!({ "orderId": first["orderId"] });
    let funded = api.post("/ramp/order/fiat_received", &received).await;
    assert_eq!((funded.status, funded.body.len()), (200, 0), "{funded:?}");
    let told = check_ok(&api.get(&order_of(&first)).await);
    assert_eq!((&told["status"], &told["amountInTokens"]), (&json!("completed"), &json!("5.829439")), "{told}");
    assert!(told["completedAt"].is_string(), "{told}");
    let again = api.post("/ramp/order/fiat_received", &received).await;
    check_error(&again, 400, "Order is completed, not created");
    check_ok(&api.post(ORDER, &api.order("100").await).await);
    // A completed order's id stays taken.
    check_conflict(&api.post(ORDER, &first).await, ORDER_EXISTS, "resource-exists");
    let unknown = api.post("/ramp/order/fiat_received", &json!({ "orderId": id() })).await;
    check_error(&unknown, 404, "Order not found");
});

for_each!(sqlite, postgres => async fn e4_q9_exchange_11_an_id_is_looked_at_before_a_quote_that_went_stale(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.order("100").await;
    check_ok(&api.post(ORDER, &asked).await);
    api.sandbox.advance(180_000).await;
    check_conflict(&api.post(ORDER, &asked).await, ORDER_EXISTS, "resource-exists");
    // The quote is looked at before the amount, which the first order still holds.
    let mut other = asked.clone();
    other["orderId"] = json!(id());
    check_error(&api.post(ORDER, &other).await, 400, "Quote has expired");
    assert_eq!(api.orders().await.len(), 1);
});

for_each!(sqlite, postgres, gateway => async fn e4_q9_q11_exchange_11_a_stale_quote_hides_no_order_and_takes_no_id(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.order("100").await;
    check_ok(&api.post(ORDER, &asked).await);
    let late = api.order("110").await;
    api.sandbox.advance(180_000).await;
    check_conflict(&api.post(ORDER, &asked).await, ORDER_EXISTS, "resource-exists");
    check_error(&api.post(ORDER, &late).await, 400, "Quote has expired");
    let mut fresh = api.order("110").await;
    fresh["orderId"] = late["orderId"].clone();
    check_ok(&api.post(ORDER, &fresh).await);
    assert_eq!(api.orders().await.len(), 2);
});

for_each!(sqlite, postgres => async fn e9_exchange_12_the_key_is_sent_raw(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.order("100").await;
    let wrong = [format!("Bearer {}", api.key), format!("{} ", "api_sand:other:x"), String::new(), api.key.to_uppercase()];
    for key in wrong {
        let request = post(ORDER).header("Authorization", &key).body(asked.to_string());
        let refused = api.sandbox.send(&request).await;
        assert_eq!((refused.status, refused.text()), (401, "Unauthorized"), "{key}: {refused:?}");
    }
    let none = api.sandbox.send(&post(ORDER).body(asked.to_string())).await;
    assert_eq!((none.status, none.text()), (401, "Unauthorized"));
    let twice = api.posting(ORDER, &asked).header("Authorization", &api.key);
    assert_eq!(api.sandbox.send(&twice).await.status, 401);
    check_ok(&api.post(ORDER, &asked).await);
    // A replayed refusal would not look at the key; this one does.
    let foreign = post(ORDER).header("Authorization", "Bearer x").body(asked.to_string());
    assert_eq!(api.sandbox.send(&foreign).await.status, 401);
});

for_each!(sqlite, postgres, gateway => async fn e1_e12_exchange_13_a_customer_has_one_id(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = json!({ "id": id(), "displayName": "Ana" });
    let created = api.post(ORGANIZATION, &asked).await;
    assert_eq!(created.status, 201, "{created:?}");
    let expected = json!({ "organizationId": asked["id"], "displayName": "Ana", "accountType": "personal" });
    assert_eq!(content(&created), expected);
    for (asked, problem) in [(asked.clone(), "resource-exists"), (json!({ "id": asked["id"] }), "resource-id-reused")] {
        let again = api.post(ORGANIZATION, &asked).await;
        check_conflict(&again, "An organization with this ID already exists", problem);
    }
    let told = check_ok(&api.get(&format!("/ramp/customer/{}", text(&asked["id"]))).await);
    assert_eq!((&told["customerId"], &told["displayName"]), (&asked["id"], &json!("Ana")), "{told}");
    // Without an id the API mints one, and every create creates.
    for _ in 0..2 {
        check_ok(&api.post(ORGANIZATION, &json!({})).await);
    }
    assert_eq!(api.kind("organization").await.len(), 3);
});

fn new_bank_account(rfc: &str) -> Value {
    json!({
        "bankAccountId": id(),
        "account": {
            "transactionId": id(),
            "firstName": "Ana",
            "paternalLastName": "García",
            "maternalLastName": "López",
            "birthDate": "19900101",
            "birthCountryIsoCode": "MX",
            "curp": "GALA900101MDFRPN09",
            "rfc": rfc,
            "clabe": "646180157000000004",
        },
    })
}

for_each!(sqlite, postgres, gateway => async fn e1_e12_exchange_14_a_bank_account_has_one_id(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let path = format!("/ramp/customer/{}/bank-account", api.fixture("customer_id"));
    let asked = new_bank_account("XEXX010101000");
    let created = api.post(&path, &asked).await;
    assert_eq!((created.status, &content(&created)["status"]), (201, &json!("active")), "{created:?}");
    check_conflict(&api.post(&path, &asked).await, "A bank account with this ID already exists", "resource-exists");
    let told = check_ok(&api.get(&format!("/ramp/bank-account/{}", text(&asked["bankAccountId"]))).await);
    assert_eq!(told, content(&created));
    assert_eq!((&told["abbrClabe"], &told["compliant"]), (&json!("...0004"), &json!(true)));
    // It can be ordered with; one that is not approved cannot.
    let mut order = api.order("100").await;
    let waiting = new_bank_account("GALA900101AB1");
    assert_eq!(check_ok(&api.post(&path, &waiting).await)["status"], "pending");
    order["bankAccountId"] = waiting["bankAccountId"].clone();
    check_error(&api.post(ORDER, &order).await, 400, "Bank account is not active");
    order["bankAccountId"] = asked["bankAccountId"].clone();
    check_ok(&api.post(ORDER, &order).await);
    assert_eq!(api.kind("bank-account").await.len(), 2);
});

for_each!(sqlite, postgres, gateway => async fn e2_e12_a_bank_account_has_one_id_whichever_customer_it_is_for(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let other = id();
    check_ok(&api.post(ORGANIZATION, &json!({ "id": other })).await);
    let mut asked = new_bank_account("XEXX010101000");
    let path = |customer: &str| format!("/ramp/customer/{customer}/bank-account");
    check_ok(&api.post(&path(&api.fixture("customer_id")), &asked).await);
    for name in ["Ana", "Bea"] {
        asked["account"]["firstName"] = json!(name);
        let refused = api.post(&path(&other), &asked).await;
        check_conflict(&refused, "A bank account with this ID already exists", "resource-id-reused");
    }
    assert_eq!(api.kind("bank-account").await.len(), 1);
});

for_each!(sqlite, postgres, gateway => async fn q11_exchange_15_what_is_wrong_is_said_and_takes_no_id(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.order("100").await;
    let mut wrong = asked.clone();
    wrong["orderId"] = json!("not-a-uuid");
    check_error(&api.post(ORDER, &wrong).await, 400, "orderId: The key must be a UUID. Nothing was executed.");
    let wrongs = [
        ("bankAccountId", json!(id()), 404, "Bank account not found"),
        ("publicKey", json!("GNOBODY"), 404, "Proxy account not found"),
        ("quoteId", json!(id()), 400, "Quote not found"),
        ("publicKey", Value::Null, 400, "send one of publicKey and cryptoWalletId"),
        ("useAnchor", json!(true), 400, "useAnchor is for offramps on stellar"),
    ];
    for (name, value, status, error) in wrongs {
        let mut wrong = asked.clone();
        wrong[name] = value;
        check_error(&api.post(ORDER, &wrong).await, status, error);
    }
    let mut wrong = asked.clone();
    wrong["quoteId"] = json!("x");
    let refused = api.post(ORDER, &wrong).await;
    let says = content(&refused)["error"].to_string();
    assert!(refused.status == 400 && says.contains("quoteId") && says.contains("must be a UUID"), "{refused:?}");
    assert_eq!(api.orders().await.len(), 0);
    check_ok(&api.post(ORDER, &asked).await);
});

for_each!(sqlite, postgres, gateway => async fn q25_e12_a_uuid_is_one_id_however_it_is_spelled(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = api.order("100").await;
    check_ok(&api.post(ORDER, &asked).await);
    let plain = text(&asked["orderId"]);
    for spelling in [plain.to_uppercase(), format!("{{{plain}}}"), plain.replace('-', ""), format!("urn:uuid:{plain}")] {
        let mut again = asked.clone();
        again["orderId"] = json!(spelling);
        let refused = api.post(ORDER, &again).await;
        assert_eq!((refused.status, refused.text()), (409, ORDER_EXISTS), "{spelling}");
    }
    assert_eq!(check_ok(&api.get(&address(plain.to_uppercase())).await)["orderId"], plain);
    assert_eq!(api.orders().await.len(), 1);
});

for_each!(sqlite, postgres => async fn q13_what_belongs_to_another_is_unknown(sandbox: Sandbox) {
    let mut api = Api::of(sandbox).await;
    let asked = api.order("100").await;
    check_ok(&api.post(ORDER, &asked).await);
    let own_key = api.key.clone();
    "api_sand:test:0e7f3a52-6c1d-4b8e-9f20-5a1c7d3e4b02".clone_into(&mut api.key);
    let account = api.bank_account(0);
    let customer = api.fixture("customer_id");
    // To everything of another organisation the answer is the one to an id that nobody has.
    let same = [
        ("GET", order_of(&asked), address(id())),
        ("POST", order_of(&asked) + "/cancel", address(id()) + "/cancel"),
        ("GET", format!("/ramp/customer/{customer}"), format!("/ramp/customer/{}", id())),
        ("GET", format!("/ramp/bank-account/{account}"), format!("/ramp/bank-account/{}", id())),
    ];
    for (method, foreign, unknown) in same {
        let ask = async |path: &str| {
            let answer = api.sandbox.send(&request(method, path).header("Authorization", &api.key)).await;
            let headers: BTreeMap<_, _> = answer.headers.into_iter().filter(|(name, _)| name != "date").collect();
            (answer.status, headers, answer.body)
        };
        let told = ask(&foreign).await;
        assert_eq!((told.0, &told), (404, &ask(&unknown).await), "{foreign}");
    }
    let foreign = api.post("/ramp/order/fiat_received", &json!({ "orderId": asked["orderId"] })).await;
    check_error(&foreign, 404, "Order not found");
    check_error(&api.post(ORDER, &asked).await, 400, "Quote not found");
    check_error(&api.post(QUOTE, &api.quote("100")).await, 404, "Proxy account not found");
    // The same ids are free to it, and make resources of its own; the guard does not see across either.
    let onboarding = json!({
        "customerId": customer, "bankAccountId": id(), "publicKey": api.fixture("public_key"), "blockchain": "stellar",
    });
    check_ok(&api.post(ONBOARDING, &onboarding).await);
    let mut approved = new_bank_account("XEXX010101000");
    approved["bankAccountId"] = json!(account);
    check_ok(&api.post(&format!("/ramp/customer/{customer}/bank-account"), &approved).await);
    let mut own = api.order("100").await;
    own["orderId"] = asked["orderId"].clone();
    check_ok(&api.post(ORDER, &own).await);
    check_conflict(&api.post(ORDER, &own).await, ORDER_EXISTS, "resource-exists");
    let own_order = check_ok(&api.get(&order_of(&own)).await);
    api.key = own_key;
    assert_ne!(check_ok(&api.get(&order_of(&asked)).await)["walletId"], own_order["walletId"]);
    assert_eq!(api.orders().await.len(), 2);
});

for_each!(sqlite, postgres => async fn q13_two_keys_of_one_organisation_are_one_owner(sandbox: Sandbox) {
    let mut api = Api::of(sandbox).await;
    let asked = api.order("100").await;
    check_ok(&api.post(ORDER, &asked).await);
    "api_sand:test-rotated:0e7f3a52-6c1d-4b8e-9f20-5a1c7d3e4b01".clone_into(&mut api.key);
    check_conflict(&api.post(ORDER, &asked).await, ORDER_EXISTS, "resource-exists");
    let mut other = api.order("120").await;
    other["orderId"] = asked["orderId"].clone();
    check_conflict(&api.post(ORDER, &other).await, ORDER_EXISTS, "resource-id-reused");
    check_conflict(&api.post(ORDER, &api.order("100").await).await, PENDING_EXISTS, "guard-held");
    check_ok(&api.get(&order_of(&asked)).await);
    assert_eq!(api.orders().await.len(), 1);
});

for_each!(sqlite, postgres => async fn e4_e5_e6_e7_e8_e9_the_sample_with_its_text_makes_one_order_whatever_is_lost(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("order");
    let asked = api.order("100").await;
    for fault in ["drop_before", "drop_after", "drop_after", "status_before:503"] {
        api.sandbox.fault(POST_ORDER, fault, 1).await;
        let failed = api.create_order(&file, asked.clone()).await;
        assert!(failed.is_err(), "{fault}: {failed:?}");
    }
    assert!(api.create_order(&file, asked.clone()).await.is_ok_and(|order| order["status"] == "created"));
    let kept = std::fs::read_to_string(&file).unwrap();
    let orders = api.orders().await;
    assert_eq!((orders.len(), &orders[0]["key"]), (1, &json!(kept)));
    // E9: another refusal is an error with its status.
    let mut wrong = asked;
    wrong["bankAccountId"] = json!(id());
    let other = api.create_order(&folder.path().join("other"), wrong).await;
    assert_eq!(other, Err("Create failed: 404".to_owned()));
});

for_each!(sqlite, postgres, gateway => async fn e12_onboarding_again_makes_nothing_more(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let asked = json!({
        "customerId": id(), "bankAccountId": id(), "publicKey": "GNEWWALLET", "blockchain": "solana",
        "userInfo": { "email": "ana@example.com", "displayName": "Ana" },
    });
    let first = check_ok(&api.post(ONBOARDING, &asked).await);
    let second = check_ok(&api.post(ONBOARDING, &asked).await);
    assert_ne!(first["presigned_url"], second["presigned_url"]);
    assert_eq!(api.sandbox.records().await.len(), 3, "a customer, a bank account and a wallet");
    let told = check_ok(&api.get(&format!("/ramp/customer/{}", text(&asked["customerId"]))).await);
    assert_eq!(told["displayName"], "Ana");
    let mut other = asked.clone();
    other["customerId"] = json!(id());
    let words = format!("This wallet belongs to another organization, see org: {}", text(&asked["customerId"]));
    check_conflict(&api.post(ONBOARDING, &other).await, &words, "resource-exists");
    other["publicKey"] = json!("GANOTHERWALLET");
    let refused = api.post(ONBOARDING, &other).await;
    check_conflict(&refused, "A bank account with this ID already exists", "resource-exists");
    assert_eq!(api.sandbox.records().await.len(), 3);
});

for_each!(sqlite, postgres => async fn e2_e12_what_another_call_made_has_its_id_too(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let onboarding = json!({
        "customerId": id(), "bankAccountId": id(), "publicKey": "GNEWWALLET", "blockchain": "solana",
    });
    check_ok(&api.post(ONBOARDING, &onboarding).await);
    for customer in [text(&onboarding["customerId"]), api.fixture("customer_id")] {
        let refused = api.post(ORGANIZATION, &json!({ "id": customer })).await;
        check_conflict(&refused, "An organization with this ID already exists", "resource-exists");
        let mut account = new_bank_account("XEXX010101000");
        account["bankAccountId"] = onboarding["bankAccountId"].clone();
        let refused = api.post(&format!("/ramp/customer/{customer}/bank-account"), &account).await;
        check_conflict(&refused, "A bank account with this ID already exists", "resource-exists");
    }
    assert_eq!(api.sandbox.records().await.len(), 3);
});

for_each!(sqlite, postgres => async fn e11_orders_go_where_orders_can_go(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let advance = async |order: &Value, status: &str| {
        let set = json!({ "advance": { "order_id": order["orderId"], "status": status } });
        let ask = json!({ "vendor": VENDOR, "set": set });
        let told = api.sandbox.control("POST", "/_sandbox/fixtures", Some(ask)).await;
        if told.status == 200 { Ok(()) } else { Err(text(&content(&told)["error"])) }
    };
    let status = async |order: &Value| text(&check_ok(&api.get(&order_of(order)).await)["status"]);
    let cancel = async |order: &Value| api.post(&(order_of(order) + "/cancel"), &json!({})).await;
    let onramp = api.order("100").await;
    check_ok(&api.post(ORDER, &onramp).await);
    for (to, may) in [("completed", false), ("finalized", false), ("funded", true), ("created", false)] {
        assert_eq!(advance(&onramp, to).await.is_ok(), may, "{to}");
    }
    assert_eq!(status(&onramp).await, "funded");
    check_error(&cancel(&onramp).await, 400, "Order is funded, not created");
    check_ok(&api.post(ORDER, &api.order("100").await).await);
    let impossible = advance(&onramp, "canceled").await.unwrap_err();
    assert!(impossible.contains("is funded and cannot become canceled: it can become completed"), "{impossible}");
    advance(&onramp, "completed").await.unwrap();
    let told = check_ok(&api.get(&order_of(&onramp)).await);
    assert_eq!((&told["status"], &told["amountInTokens"]), (&json!("completed"), &json!("5.829439")));
    for wrong in ["finalized", "sleeping"] {
        assert!(advance(&onramp, wrong).await.is_err());
    }
    let nobody = json!({ "orderId": id() });
    assert!(advance(&nobody, "funded").await.unwrap_err().contains("there is no order"));
    // Canceled: the amount is free, and the id is not.
    let canceled = api.order("200").await;
    check_ok(&api.post(ORDER, &canceled).await);
    assert_eq!(check_ok(&cancel(&canceled).await)["status"], "canceled");
    check_error(&cancel(&canceled).await, 400, "Order is canceled, not created");
    check_ok(&api.post(ORDER, &api.order("200").await).await);
    check_conflict(&api.post(ORDER, &canceled).await, ORDER_EXISTS, "resource-exists");
});

for_each!(sqlite, postgres => async fn e10_offramps_hold_no_amount_and_are_finalized(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let mut quote = api.quote("10");
    quote["quoteAssets"] = json!({ "type": "offramp", "sourceAsset": "USDC:GBBD47IF", "targetAsset": "MXN" });
    let quoted = check_ok(&api.post(QUOTE, &quote).await);
    assert_eq!((&quoted["feeAmount"], &quoted["destinationAmount"]), (&json!("0.34"), &json!("170.86")));
    let order = |uses_anchor: bool| {
        json!({
            "orderId": id(), "quoteId": quote["quoteId"], "bankAccountId": api.bank_account(0),
            "cryptoWalletId": "3a11e752-7b6c-4d5e-9f80-1c2d3e4f5a01", "useAnchor": uses_anchor, "memo": "hello",
        })
    };
    let (plain, anchored) = (order(false), order(true));
    assert_eq!(check_ok(&api.post(ORDER, &plain).await), json!({ "offramp": { "orderId": plain["orderId"] } }));
    let created = check_ok(&api.post(ORDER, &anchored).await);
    assert_eq!(created["offramp"]["withdrawMemoType"], "id");
    check_error(&api.post("/ramp/order/fiat_received", &json!({ "orderId": plain["orderId"] })).await, 400, "Order is not an onramp");
    for status in ["funded", "completed", "finalized"] {
        api.sandbox.set(json!({ "advance": { "order_id": plain["orderId"], "status": status } })).await;
    }
    let told = check_ok(&api.get(&order_of(&plain)).await);
    assert_eq!((&told["status"], &told["amountInTokens"], &told["memo"]), (&json!("finalized"), &json!("10"), &json!("hello")));
});

for_each!(sqlite, postgres => async fn exchange_1_what_can_be_quoted(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let limits = "sandbox onramps are limited to 500 MXN per quote";
    let amounts = [
        ("500", 200, ""),
        ("500.01", 400, limits),
        ("0.001", 400, "sourceAmount in MXN has at most two decimals"),
        ("0.01", 200, ""),
    ];
    for (amount, status, error) in amounts {
        let told = api.post(QUOTE, &api.quote(amount)).await;
        assert_eq!(told.status, status, "{amount}: {told:?}");
        if status != 200 {
            check_error(&told, status, error);
        }
    }
    for (name, value) in [("blockchain", json!("bitcoin")), ("quoteAssets", json!({ "type": "swap", "sourceAsset": "A", "targetAsset": "B" }))] {
        let mut quote = api.quote("100");
        quote[name] = value;
        assert_eq!(api.post(QUOTE, &quote).await.status, 422, "{name}");
    }
    api.sandbox.set(json!({ "onramp_max_mxn": 1000, "fee_bps": 50, "quote_valid_ms": 1000 })).await;
    let mut quote = api.quote("1000");
    quote["partnerFeeBps"] = json!(50);
    let told = check_ok(&api.post(QUOTE, &quote).await);
    assert_eq!((&told["feeBps"], &told["feeAmount"]), (&json!("100"), &json!("10.00")));
});

/// Whatever is sent, it is answered with a documented error, and nothing is made.
const HOSTILE: [&str; 13] = [
    "null",
    "true",
    "0",
    "-1",
    "1e400",
    "99999999999999999999999999999999",
    "\"\"",
    "\"NaN\"",
    "\"\\u0000\"",
    "\"\\ud83d\\ude00 \u{202e}x\"",
    "[]",
    "{}",
    "[[[[[[[[{}]]]]]]]]",
];

for_each!(sqlite, postgres, gateway => async fn q11_no_content_is_too_odd(sandbox: Sandbox) {
    let api = Api::of(sandbox).await;
    let account = format!("/ramp/customer/{}/bank-account", api.fixture("customer_id"));
    let onboarding = json!({ "customerId": id(), "bankAccountId": id(), "publicKey": "G", "blockchain": "base" });
    let whole = [
        (QUOTE, api.quote("100")),
        (ORDER, api.order("100").await),
        (ORGANIZATION, json!({ "id": id(), "accountType": "personal", "displayName": "A", "country": "MX" })),
        (ONBOARDING, onboarding),
        (&account, new_bank_account("XEXX010101000")),
        ("/ramp/order/fiat_received", json!({ "orderId": id() })),
    ];
    let before = api.sandbox.records().await;
    for (path, good) in &whole {
        for media in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("")] {
            let sent = api.posting(path, good).without("Content-Type");
            let told = api.sandbox.send(&media.into_iter().fold(sent, |sent, media| sent.header("Content-Type", media))).await;
            assert_eq!(told.status, 400, "{path} as {media:?}: {told:?}");
            assert_eq!(told.json()["error"], "Content-Type must be application/json");
        }
        let mut contents: Vec<Vec<u8>> = HOSTILE.iter().map(|odd| odd.as_bytes().to_vec()).collect();
        contents.extend([b"".to_vec(), b"{".to_vec(), vec![0xff, 0xfe], b"{\"a\":1}{}".to_vec(), vec![b'['; 5000]]);
        let members = good.as_object().unwrap();
        for name in members.keys() {
            for odd in HOSTILE {
                // `raw` keeps numbers that no `Value` holds.
                let members = members.iter().map(|(member, value)| {
                    let value = if member == name { odd.to_owned() } else { value.to_string() };
                    format!("{}:{value}", json!(member))
                });
                contents.push(format!("{{{}}}", members.collect::<Vec<_>>().join(",")).into_bytes());
            }
        }
        for content in contents {
            let sent = post(path).header("Authorization", &api.key).body(&content);
            let told = api.sandbox.send(&sent).await;
            let shown = String::from_utf8_lossy(&content);
            assert!([200, 201, 400, 404, 409, 422].contains(&told.status), "{path} {shown}: {told:?}");
            if [400, 404, 422].contains(&told.status) {
                assert!(told.json()["error"].is_string(), "{path} {shown}: {told:?}");
            }
        }
        // Not a quote and not an order of these is one that a client could mean. Names can be anything.
        let mut made = api.sandbox.records().await;
        made.retain(|record| !before.contains(record) && (record["kind"] == "order" || record["kind"] == "quote"));
        assert_eq!(made, [] as [Value; 0], "{path}");
    }
    for odd in ["%00", "%2e%2e", "%f0%9f%98%80", "x".repeat(3000).as_str(), "%22"] {
        assert_eq!(api.get(&address(odd)).await.status, 404, "{odd}");
    }
});
