//! Guards, their releases and slots over the real gateway: E10, E11, E38, E44, Q7, Q9, Q13, Q18.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::harness::{Act, Cut, Gateway, Origin, Reply, Request, Response, Seen, gateway, get, post, send, until};

const BANK: &str = "11111111-1111-4111-8111-111111111111";

/// The n-th UUID.
fn id(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// The orders of an origin that has no rule of its own, and their statuses.
type Orders = Arc<Mutex<HashMap<String, String>>>;

fn ramp(seen: &Seen, orders: &Orders) -> Act {
    let mut orders = orders.lock().unwrap();
    let content = || serde_json::from_slice::<Value>(&seen.body).unwrap();
    let segments: Vec<&str> = seen.target.split('/').skip(1).collect();
    match (seen.method.as_str(), segments.as_slice()) {
        ("POST", ["ramp", "quote"]) => Act::refuse(Reply::json(200, std::str::from_utf8(&seen.body).unwrap())),
        ("POST", ["ramp", "order"]) => {
            let id = content()["orderId"].as_str().unwrap().to_owned();
            orders.insert(id.clone(), "created".to_owned());
            Act::reply(Reply::json(200, &json!({ "onramp": { "orderId": id } }).to_string()))
        }
        ("GET", ["ramp", "order", id]) => Act::refuse(match orders.get(*id) {
            Some(status) => Reply::json(200, &format!("{{ \"status\" : \"{status}\" }}\n")),
            None => Reply::json(404, r#"{"error":"Order not found"}"#),
        }),
        (method, _) => panic!("{method} {}", seen.target),
    }
}

async fn etherfuse() -> (Origin, Gateway, Orders) {
    let (origin, orders) = (Origin::start().await, Orders::default());
    let kept = Arc::clone(&orders);
    origin.always(move |seen| ramp(seen, &kept));
    let gateway = gateway(&origin).config("preset = \"etherfuse\"\n").start().await;
    (origin, gateway, orders)
}

fn quote(n: usize, amount: &str) -> Request {
    let assets = json!({ "type": "onramp", "sourceAsset": "MXN" });
    let content = json!({ "quoteId": id(n), "quoteAssets": assets, "sourceAmount": amount });
    post("/ramp/quote").header("Authorization", "api_sand:a").body(content.to_string())
}

fn order(n: usize, quote: usize) -> Request {
    let content = json!({ "orderId": id(n), "quoteId": id(quote), "bankAccountId": BANK });
    post("/ramp/order").header("Authorization", "api_sand:a").body(content.to_string())
}

fn look(n: usize) -> Request {
    get(&format!("/ramp/order/{}", id(n))).header("Authorization", "api_sand:a").header("Accept-Encoding", "gzip, br")
}

#[track_caller]
fn assert_held(answer: &Response, holder: usize) {
    let text = "A pending onramp order already exists for this bank account and amount";
    assert_eq!((answer.status, answer.text(), answer.header("content-type")), (409, text, Some("text/plain")));
    assert_eq!(answer.header("idempotency-problem"), Some("guard-held"));
    assert_eq!(answer.header("location"), Some(format!("/ramp/order/{}", id(holder)).as_str()));
}

#[tokio::test]
async fn e10_of_many_orders_at_once_of_one_account_and_amount_one_is_made() {
    let (origin, gateway, orders) = etherfuse().await;
    for n in 0..40 {
        assert_eq!(gateway.send(&quote(n, if n % 2 == 0 { "100" } else { "100.00" })).await.status, 200);
    }
    let all: Vec<_> = (0..40)
        .map(|n| {
            let addr = gateway.addr;
            tokio::spawn(async move { send(addr, &order(n, n)).await })
        })
        .collect();
    let mut made = Vec::new();
    for (n, one) in all.into_iter().enumerate() {
        let answer = one.await.unwrap();
        match (answer.status, answer.header("idempotency-problem")) {
            (200, None) => made.push(n),
            (409, Some("guard-held")) => assert!(answer.header("location").is_some(), "{answer:?}"),
            // Whoever lost too many races for the guard.
            (503, None) if answer.code() == "in-flight" => {}
            _ => panic!("{answer:?}"),
        }
    }
    assert_eq!((made.len(), origin.effects(), orders.lock().unwrap().len()), (1, 1, 1), "{made:?}");
    // Whatever they raced for, the guard names the one that was made.
    assert_held(&gateway.send(&order(99, 0)).await, made[0]);
}

#[tokio::test]
async fn e10_e11_q7_q9_a_guard_outlives_the_gateway_and_ends_when_the_origin_says_so() {
    let (origin, gateway, orders) = etherfuse().await;
    gateway.send(&quote(1, "100")).await;
    assert_eq!(gateway.send(&order(1, 1)).await.status, 200);
    let gateway = gateway.restart().await;
    assert_held(&gateway.send(&order(2, 1)).await, 1);
    let mine = gateway.send(&order(1, 1)).await;
    assert_eq!((mine.status, mine.header("idempotency-problem")), (409, Some("resource-exists")));
    assert_eq!(mine.text(), "An order with this transaction ID already exists");
    let pending = gateway.send(&look(1)).await;
    assert_eq!((pending.status, pending.text()), (200, "{ \"status\" : \"created\" }\n"));
    assert_held(&gateway.send(&order(2, 1)).await, 1);
    orders.lock().unwrap().insert(id(1), "funded".to_owned());
    assert_held(&gateway.send(&order(2, 1)).await, 1);
    let funded = gateway.send(&look(1)).await;
    assert_eq!((funded.status, funded.text()), (200, "{ \"status\" : \"funded\" }\n"));
    assert_eq!(gateway.send(&order(2, 1)).await.status, 200);
    assert_held(&gateway.send(&order(3, 1)).await, 2);
    assert_eq!(origin.effects(), 2);
    // The origin was asked for what can be read.
    assert!(
        origin
            .seen()
            .iter()
            .filter(|seen| seen.method == "GET")
            .all(|seen| seen.header("accept-encoding") == Some("identity"))
    );
}

#[tokio::test]
async fn e10_a_guard_is_held_by_an_order_that_a_crash_left_unknown() {
    let (origin, mut gateway, orders) = etherfuse().await;
    gateway.send(&quote(1, "100")).await;
    let gate = crate::harness::Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut first = crate::harness::Conn::open(gateway.addr).await;
    first.send(&order(1, 1)).await;
    origin.arrived(2).await;
    gateway.kill9();
    gate.open();
    let gateway = gateway.restart().await;
    // Nobody knows whether it happened: its guard is held, and its retry told so.
    assert_held(&gateway.send(&order(2, 1)).await, 1);
    let retry = gateway.send(&order(1, 1)).await;
    assert_eq!((retry.status, retry.code().as_str()), (503, "outcome-unknown"));
    // It had happened, and is over.
    orders.lock().unwrap().insert(id(1), "completed".to_owned());
    gateway.send(&look(1)).await;
    assert_eq!(gateway.send(&order(2, 1)).await.status, 200);
}

#[tokio::test]
async fn e10_an_order_that_was_not_made_holds_nothing() {
    let (origin, gateway, orders) = etherfuse().await;
    gateway.send(&quote(1, "100")).await;
    origin.next(Act::refuse(Reply::json(424, r#"{"error":"FailedToGetQuote"}"#)));
    assert_eq!(gateway.send(&order(1, 1)).await.status, 424);
    assert_eq!(gateway.send(&order(2, 1)).await.status, 200);
    // Lost on the way: it may have been made, so it does.
    gateway.send(&quote(2, "7")).await;
    origin.next(Act::cut(Cut::AfterExecuting));
    assert_eq!(gateway.send(&order(3, 2)).await.status, 502);
    assert_held(&gateway.send(&order(4, 2)).await, 3);
    assert_eq!(orders.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn q13_q14_a_quote_that_is_not_known_here_executes_nothing() {
    let (origin, gateway, _) = etherfuse().await;
    gateway.send(&quote(1, "100")).await;
    // Another caller's quote looks like one that never was.
    for request in [order(1, 1).without("Authorization").header("Authorization", "api_sand:b"), order(1, 9)] {
        let answer = gateway.send(&request).await;
        assert_eq!((answer.status, answer.text()), (400, r#"{"error":"Quote not found"}"#));
        assert_eq!(answer.header("idempotency-problem"), Some("guard-incomplete"));
    }
    assert_eq!(origin.effects(), 0);
    assert_eq!(gateway.send(&order(1, 1)).await.status, 200);
}

const SLOT: &str = r#"
[[route]]
path = "/intents/{id}/approve"
methods = ["POST"]
key = "operation"
fingerprint = "members"
fingerprint_members = ["/signature"]
execution_max = "2s"
grace = "0s"
[[route.release]]
path = "/intents/{id}"
member = "/status"
dead_when = ["awaiting"]
after = "2s"
"#;

#[tokio::test]
async fn q18_e38_e44_a_slot_is_filled_anew_once_what_filled_it_is_dead() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).config(SLOT).start().await;
    let approve = |signature: &str| post("/intents/1/approve").body(json!({ "signature": signature }).to_string());
    let shows = |status: &str| origin.next(Act::refuse(Reply::json(200, &json!({ "status": status }).to_string())));
    assert_eq!(gateway.send(&approve("a")).await.status, 201);
    let taken = gateway.send(&approve("b")).await;
    assert_eq!((taken.status, taken.code().as_str()), (409, "slot-taken"));
    shows("approved");
    gateway.send(&get("/intents/1")).await;
    assert_eq!(gateway.send(&approve("b")).await.status, 409);
    until("the slot is empty", async || {
        shows("awaiting");
        gateway.send(&get("/intents/1")).await;
        gateway.send(&approve("b")).await.status == 201
    })
    .await;
    assert_eq!(gateway.send(&approve("a")).await.code(), "slot-taken");
    assert_eq!(gateway.send(&approve("b")).await.header("idempotent-replayed"), Some("true"));
    assert_eq!(origin.effects(), 2);
}
