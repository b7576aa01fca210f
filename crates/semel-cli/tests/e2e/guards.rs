//! Guards, their releases and slots over the real gateway: E10, E11, E38, E44, Q7, Q9, Q13, Q18.

use std::{
    collections::HashMap,
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::harness::{
    Act, Conn, Cut, Gate, Gateway, Origin, Reply, Request, Response, Seen, Setup, gateway, get, post, request, send,
    until,
};

const BANK: &str = "11111111-1111-4111-8111-111111111111";

/// The n-th UUID.
fn id(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// The orders of an origin that has no rule of its own, and their statuses.
pub(crate) type Orders = Arc<Mutex<HashMap<String, String>>>;

pub(crate) fn ramp(seen: &Seen, orders: &Orders) -> Act {
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

pub(crate) fn quote(n: usize, amount: &str) -> Request {
    let assets = json!({ "type": "onramp", "sourceAsset": "MXN" });
    let content = json!({ "quoteId": id(n), "quoteAssets": assets, "sourceAmount": amount });
    post("/ramp/quote").header("Authorization", "api_sand:a").body(content.to_string())
}

pub(crate) fn order(n: usize, quote: usize) -> Request {
    let content = json!({ "orderId": id(n), "quoteId": id(quote), "bankAccountId": BANK });
    post("/ramp/order").header("Authorization", "api_sand:a").body(content.to_string())
}

pub(crate) fn look(n: usize) -> Request {
    get(&format!("/ramp/order/{}", id(n))).header("Authorization", "api_sand:a").header("Accept-Encoding", "gzip, br")
}

#[track_caller]
pub(crate) fn assert_held(answer: &Response, holder: usize) {
    let text = "A pending onramp order already exists for this bank account and amount";
    assert_eq!((answer.status, answer.text(), answer.header("content-type")), (409, text, Some("text/plain")));
    assert_eq!(answer.header("idempotency-problem"), Some("guard-held"));
    assert_eq!(answer.header("location"), Some(format!("/ramp/order/{}", id(holder)).as_str()));
}

/// Forty orders of one account and amount at once, over all `gateways`: one is made, and the guard names it.
pub(crate) async fn one_of_forty_orders_is_made(origin: &Origin, gateways: &[&Gateway], orders: &Orders) {
    // What the quotes said is known at all gateways, wherever they were made.
    for n in 0..40 {
        assert_eq!(gateways[0].send(&quote(n, if n % 2 == 0 { "100" } else { "100.00" })).await.status, 200);
    }
    let all: Vec<_> = (0..40)
        .map(|n| {
            let addr = gateways[n / 2 % gateways.len()].addr;
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
    for gateway in gateways {
        assert_held(&gateway.send(&order(99, 0)).await, made[0]);
    }
}

#[tokio::test]
async fn e10_of_many_orders_at_once_of_one_account_and_amount_one_is_made() {
    let (origin, gateway, orders) = etherfuse().await;
    one_of_forty_orders_is_made(&origin, &[&gateway], &orders).await;
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
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut first = Conn::open(gateway.addr).await;
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

#[tokio::test]
async fn q14_who_passes_a_guard_is_logged_with_the_reason_and_without_the_values() {
    let toml = r#"
        [[route]]
        path = "/orders"
        methods = ["POST"]
        key = "member"
        key_member = "/id"
        key_presence = "required"
        guard = { name = "one-per-account", values = ["/account"], override = true }
    "#;
    let origin = Origin::start().await;
    let gateway = gateway(&origin).config(toml).start().await;
    let order = |id: &str| post("/orders").body(json!({ "id": id, "account": "acct-4711" }).to_string());
    assert_eq!(gateway.send(&order("order-one")).await.status, 201);
    assert_eq!(gateway.send(&order("order-two")).await.code(), "guard-held");
    let reason = "asked for twice by the customer";
    assert_eq!(gateway.send(&order("order-two").header("Guard-Override", reason)).await.status, 201);
    // A retry of it executes nothing, and passes nothing.
    let retry = gateway.send(&order("order-two").header("Guard-Override", reason)).await;
    assert_eq!((retry.status, retry.header("idempotent-replayed")), (201, Some("true")));
    until("the log has it", async || gateway.log().contains(reason)).await;
    let log = gateway.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(reason)).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for expected in ["WARN", "semel::guard", "one-per-account", "exchange"] {
        assert!(lines[0].contains(expected), "{expected}: {}", lines[0]);
    }
    for secret in ["acct-4711", "order-one", "order-two"] {
        assert!(!log.contains(secret), "{secret}");
    }
}

/// What operators show.
pub(crate) const TOKEN: &str = "a-token-of-operators";

/// With operators who may act.
pub(crate) fn with_operators(setup: Setup, policy: &str) -> Setup {
    let token = setup.data().with_file_name("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    setup.config(&format!("{policy}\n[gateway]\nadmin_token_file = '{}'\n", token.display()))
}

/// What an operator asks for, of the n-th order.
fn asked(n: usize) -> Value {
    let headers = json!({ "Authorization": "api_sand:a" });
    json!({ "path": format!("/ramp/order/{}", id(n)), "headers": headers, "who": "Ana (on call)", "why": "ticket 17" })
}

async fn release(gateway: &Gateway, asked: &Value) -> Response {
    let request = post("/v1/release").header("Authorization", format!("Bearer {TOKEN}")).body(asked.to_string());
    send(gateway.admin, &request).await
}

async fn operated() -> (Origin, Gateway) {
    let (origin, orders) = (Origin::start().await, Orders::default());
    origin.always(move |seen| ramp(seen, &orders));
    let setup = with_operators(gateway(&origin), "preset = \"etherfuse\"");
    let gateway = setup.start().await;
    gateway.send(&quote(1, "4711")).await;
    (origin, gateway)
}

#[track_caller]
fn assert_told(answer: &Response, status: u16, words: &str) {
    let json = answer.json();
    let told = json["released"].as_str().or(json["detail"].as_str()).unwrap();
    assert!(answer.status == status && told.contains(words), "{status} {words}: {answer:?}");
}

#[tokio::test]
async fn e11_an_operator_releases_the_guard_of_an_order_that_nobody_will_look_at() {
    let (origin, gateway) = operated().await;
    assert_eq!(gateway.send(&order(1, 1)).await.status, 200);
    assert_held(&gateway.send(&order(2, 1)).await, 1);
    // The look of another caller, of another order or of another kind finds nothing to release.
    let mut other = asked(1);
    other["headers"]["Authorization"] = json!("api_sand:b");
    assert_told(&release(&gateway, &other).await, 404, "no such record");
    assert_told(&release(&gateway, &asked(9)).await, 404, "no such record");
    other = asked(1);
    other["path"] = json!("/ramp/quote");
    assert_told(&release(&gateway, &other).await, 404, "no route has a release");
    other = asked(1);
    other["method"] = json!("DELETE");
    assert_told(&release(&gateway, &other).await, 404, "no route has a release");
    assert_held(&gateway.send(&order(2, 1)).await, 1);
    // The origin still shows it as pending: that does not count.
    assert_told(&release(&gateway, &asked(1)).await, 200, "guard");
    assert_eq!(gateway.send(&order(2, 1)).await.status, 200);
    assert_eq!(gateway.send(&order(1, 1)).await.header("idempotency-problem"), Some("resource-exists"));
    // The first order has none any more, and takes none from the second.
    assert_told(&release(&gateway, &asked(1)).await, 404, "held by another");
    assert_held(&gateway.send(&order(3, 1)).await, 2);
    // A response to another request may show it, too.
    let mut cancel = asked(2);
    cancel["path"] = json!(format!("/ramp/order/{}/cancel", id(2)));
    cancel["method"] = json!("POST");
    assert_told(&release(&gateway, &cancel).await, 200, "guard");
    assert_told(&release(&gateway, &asked(2)).await, 404, "holds no guard");
    assert_eq!(origin.effects(), 2);
    until("the log has both", async || gateway.log().matches("stage=Done").count() == 2).await;
    let log = gateway.log();
    for line in log.lines().filter(|line| line.contains("stage=Done")) {
        for expected in ["semel::audit", "Ana (on call)", "ticket 17", "route=\"/ramp/order\"", "after=\"guard\""] {
            assert!(line.contains(expected), "{expected}: {line}");
        }
    }
    let audit = std::fs::read_to_string(gateway.setup.data().join("audit.log")).unwrap();
    for secret in ["api_sand", id(1).as_str(), id(2).as_str(), BANK, "4711", TOKEN] {
        assert!(!log.contains(secret) && !audit.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn e11_what_may_still_run_keeps_its_guard_and_what_a_crash_left_gives_it_up() {
    let (origin, mut gateway) = operated().await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut first = Conn::open(gateway.addr).await;
    first.send(&order(1, 1)).await;
    origin.arrived(2).await;
    assert_told(&release(&gateway, &asked(1)).await, 409, "may still run");
    assert_held(&gateway.send(&order(2, 1)).await, 1);
    gateway.kill9();
    gate.open();
    let gateway = gateway.restart().await;
    assert_held(&gateway.send(&order(2, 1)).await, 1);
    assert_told(&release(&gateway, &asked(1)).await, 200, "guard");
    assert_eq!(gateway.send(&order(2, 1)).await.status, 200);
    // What nobody knows is still not known, and not sent again.
    assert_eq!(gateway.send(&order(1, 1)).await.code(), "outcome-unknown");
    gateway.file_size_max("0");
    assert_told(&release(&gateway, &asked(2)).await, 503, "ask again");
    until("the log has it", async || gateway.log().contains("the audit log cannot be written")).await;
    let gateway = gateway.restart().await;
    assert_held(&gateway.send(&order(3, 1)).await, 2);
}

#[tokio::test]
async fn e11_q18_an_operator_empties_a_slot_before_its_time() {
    let origin = Origin::start().await;
    let policy = SLOT.replace("after = \"2s\"", "after = \"30d\"");
    let gateway = with_operators(gateway(&origin), &policy).start().await;
    let approve = |signature: &str| post("/intents/1/approve").body(json!({ "signature": signature }).to_string());
    assert_eq!(gateway.send(&approve("a")).await.status, 201);
    assert_eq!(gateway.send(&approve("b")).await.code(), "slot-taken");
    let asked = json!({ "path": "/intents/1", "who": "Ana", "why": "it expired" });
    assert_told(&release(&gateway, &asked).await, 200, "slot");
    assert_told(&release(&gateway, &asked).await, 404, "no such record");
    assert_eq!(gateway.send(&approve("b")).await.status, 201);
    assert_eq!(gateway.send(&approve("a")).await.code(), "slot-taken");
}

#[tokio::test]
async fn e11_only_an_operator_who_shows_the_token_and_says_who_and_why_releases() {
    let (_origin, gateway) = operated().await;
    assert_eq!(gateway.send(&order(1, 1)).await.status, 200);
    let plain = post("/v1/release").body(asked(1).to_string());
    for shown in [None, Some("Bearer a-token-of-operator"), Some("Bearer"), Some(TOKEN), Some("Basic YTpi")] {
        let request = shown.into_iter().fold(plain.clone(), |request, shown| request.header("Authorization", shown));
        let answer = send(gateway.admin, &request).await;
        assert_told(&answer, 401, "Authorization: Bearer");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{shown:?}");
    }
    let got = request("GET", "/v1/release").header("Authorization", format!("Bearer {TOKEN}"));
    let got = send(gateway.admin, &got).await;
    assert_eq!((got.status, got.header("allow")), (405, Some("POST")));
    let changed = |member: &str, value: Value| {
        let mut asked = asked(1);
        asked[member] = value;
        asked
    };
    let without = |member: &str| {
        let mut asked = asked(1);
        asked.as_object_mut().unwrap().remove(member);
        asked
    };
    let table = [
        (json!([]), "invalid length"),
        (changed("reason", json!("x")), "unknown field `reason`"),
        (without("path"), "missing field `path`"),
        (without("who"), "missing field `who`"),
        (without("why"), "missing field `why`"),
        (changed("who", json!("")), "who must have 1 to 200"),
        (changed("who", json!(" ")), "who must have 1 to 200"),
        (changed("why", json!("é".repeat(201))), "why must have 1 to 200"),
        (changed("why", json!("a\nb")), "no control characters"),
        (changed("path", json!("ramp/order/1")), "start with a slash"),
        (changed("path", json!("/ramp/order/1?x")), "no query"),
        (changed("method", json!("get")), "expected a method"),
        (changed("headers", json!({ "Authorisation": "a" })), "tell callers apart: authorization"),
        (changed("headers", json!({ "Authorization": "a", "authorization": "a" })), "there twice"),
        (changed("headers", json!({ "Authorization": "a\u{0}" })), "none that a header can have"),
    ];
    for (asked, words) in table {
        assert_told(&release(&gateway, &asked).await, 400, words);
    }
    assert_told(&release(&gateway, &changed("why", json!("x".repeat(70_000)))).await, 413, "at most 65536 bytes");
    assert_held(&gateway.send(&order(2, 1)).await, 1);
    assert_told(&release(&gateway, &changed("why", json!("é".repeat(200)))).await, 200, "guard");
    // The paths of operators are not those of clients, and without a token there is no release at all.
    let gateway = gateway.restart_with(|setup| setup.config("preset = \"etherfuse\"")).await;
    assert_told(&release(&gateway, &asked(1)).await, 403, "set gateway.admin_token_file");
}

#[tokio::test]
async fn e11_a_token_that_others_can_read_is_refused_at_the_start() {
    let origin = Origin::start().await;
    let setup = with_operators(gateway(&origin), "");
    let token = setup.data().with_file_name("token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = setup.try_start().await.expect_err("it must not start");
    assert!(said.contains("gateway.admin_token_file") && said.contains("mode 644 is open to others"), "{said}");
    assert!(!said.contains(TOKEN));
}
