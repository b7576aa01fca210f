//! Guards, their releases and slots, seen through the layer around an origin that has no such rule of its own.

#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, StreamBody};
use semel::{
    Body,
    core::policy::{Policy, PolicyDocument, Preset, RouteSettings},
    testkit::{Fault, FaultyStore},
};
use serde_json::{Value, json};
use tower::ServiceExt;
use world::{Seen, World};

mod world;

const BANK: &str = "11111111-1111-4111-8111-111111111111";
const OTHER_BANK: &str = "22222222-2222-4222-8222-222222222222";
const PENDING: &str = "A pending onramp order already exists for this bank account and amount";

/// The n-th UUID.
fn id(n: u64) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// An origin without any rule of its own: it keeps what it is sent, and shows it.
#[derive(Clone, Default)]
struct Origin(Arc<Mutex<HashMap<String, Value>>>);

impl Origin {
    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let content = body.collect().await.unwrap().to_bytes();
        let segments: Vec<&str> = parts.uri.path().split('/').skip(1).collect();
        let mut kept = self.0.lock().unwrap();
        match (parts.method.as_str(), segments.as_slice()) {
            ("POST", ["ramp", "quote"]) => json_reply(200, content),
            ("POST", ["ramp", "order"]) => {
                let order: Value = serde_json::from_slice(&content).unwrap();
                let id = order["orderId"].as_str().unwrap().to_owned();
                kept.insert(id.clone(), json!({ "orderId": id, "status": "created" }));
                reply(200, &json!({ "onramp": { "orderId": id } }))
            }
            ("POST", ["ramp", "order", id, "cancel"]) => {
                let order = kept.get_mut(*id).unwrap();
                order["status"] = json!("canceled");
                reply(200, order)
            }
            ("GET", ["ramp", "order", id]) => match kept.get(*id) {
                Some(order) => reply(200, order),
                None => reply(404, &json!({ "error": "Order not found" })),
            },
            (method, _) => panic!("{method} {}", parts.uri),
        }
    }

    fn set(&self, order: u64, status: &str) {
        self.0.lock().unwrap().get_mut(&id(order)).unwrap()["status"] = json!(status);
    }

    fn orders(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

fn reply(status: u16, content: &Value) -> Response<Body> {
    json_reply(status, content.to_string())
}

fn json_reply(status: u16, content: impl Into<Bytes>) -> Response<Body> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Body::full(content)).unwrap()
}

struct Api {
    world: World,
    origin: Origin,
}

impl Api {
    fn new() -> Api {
        Api { world: World::preset(Preset::Etherfuse), origin: Origin::default() }
    }

    fn with(policy: Policy) -> Api {
        Api { world: World::with(policy, |memory| memory), origin: Origin::default() }
    }

    async fn send_as(&self, caller: &str, request: http::request::Builder, content: &str) -> Seen {
        let request = request.header("authorization", caller).header("content-type", "application/json");
        let origin = self.origin.clone();
        let seen = self
            .world
            .send(request.body(Body::full(content.to_owned())).unwrap(), move |request| origin.clone().answer(request))
            .await;
        // What comes next is later, so that what it shows counts.
        self.world.clock.advance(Duration::from_secs(1));
        seen
    }

    async fn post(&self, path: &str, content: &Value) -> Seen {
        self.send_as("api_sand:a", Request::post(format!("http://h{path}")), &content.to_string()).await
    }

    async fn get(&self, order: u64) -> Seen {
        self.send_as("api_sand:a", Request::get(format!("http://h/ramp/order/{}", id(order))), "").await
    }

    /// A quote of an onramp, its amount as it is spelled.
    async fn quote(&self, n: u64, amount: &str, currency: &str) {
        let content = format!(
            r#"{{"quoteId":"{}","quoteAssets":{{"type":"onramp","sourceAsset":"{currency}"}},"sourceAmount":{amount}}}"#,
            id(n)
        );
        let seen = self.send_as("api_sand:a", Request::post("http://h/ramp/quote"), &content).await;
        assert_eq!(seen.status, 200);
    }

    async fn order(&self, n: u64, quote: u64, bank: &str) -> Seen {
        self.post("/ramp/order", &order(n, quote, bank)).await
    }
}

fn order(n: u64, quote: u64, bank: &str) -> Value {
    json!({ "orderId": id(n), "quoteId": id(quote), "bankAccountId": bank, "publicKey": "W" })
}

fn text(seen: &Seen) -> &str {
    std::str::from_utf8(&seen.content).unwrap()
}

/// What an order gets whose guard another one holds.
#[track_caller]
fn assert_held(seen: &Seen, holder: u64) {
    let told = (seen.status.as_u16(), text(seen), seen.header("content-type"));
    assert_eq!(told, (409, PENDING, Some("text/plain")), "{seen:?}");
    assert_eq!(seen.header("idempotency-problem"), Some("guard-held"));
    assert_eq!(seen.header("location"), Some(format!("/ramp/order/{}", id(holder)).as_str()));
}

#[tokio::test]
async fn e10_e11_a_second_pending_onramp_of_an_account_and_amount_is_refused_until_the_first_has_left_pending() {
    let api = Api::new();
    for n in [1, 2, 3] {
        api.quote(n, "\"100\"", "MXN").await;
    }
    api.quote(4, "\"101\"", "MXN").await;
    assert_eq!(api.order(1, 1, BANK).await.status, 200);
    assert_held(&api.order(2, 2, BANK).await, 1);
    // Looking at an order that is still pending frees nothing.
    assert_eq!(api.get(1).await.status, 200);
    assert_held(&api.order(2, 2, BANK).await, 1);
    // Another amount, another account.
    assert_eq!(api.order(3, 4, BANK).await.status, 200);
    assert_eq!(api.order(4, 3, OTHER_BANK).await.status, 200);
    api.origin.set(1, "funded");
    assert_held(&api.order(2, 2, BANK).await, 1);
    assert_eq!(text(&api.get(1).await), format!(r#"{{"orderId":"{}","status":"funded"}}"#, id(1)));
    assert_eq!(api.order(2, 2, BANK).await.status, 200);
    assert_held(&api.order(5, 3, BANK).await, 2);
    // The release of the first says nothing about the second.
    api.get(1).await;
    assert_held(&api.order(5, 3, BANK).await, 2);
    assert_eq!(api.origin.orders(), 4);
}

#[tokio::test]
async fn e11_a_cancelled_order_frees_its_guard_by_the_reply_that_says_so() {
    let api = Api::new();
    api.quote(1, "\"100\"", "MXN").await;
    api.order(1, 1, BANK).await;
    let cancel = format!("/ramp/order/{}/cancel", id(1));
    assert_eq!(api.post(&cancel, &Value::Null).await.status, 200);
    assert_eq!(api.order(2, 1, BANK).await.status, 200);
}

#[tokio::test]
async fn e10_an_offramp_and_an_order_that_failed_hold_nothing() {
    let api = Api::new();
    let quote =
        json!({ "quoteId": id(1), "quoteAssets": { "type": "offramp", "sourceAsset": "MXN" }, "sourceAmount": "100" });
    api.post("/ramp/quote", &quote).await;
    for n in [1, 2] {
        assert_eq!(api.order(n, 1, BANK).await.status, 200);
    }
    api.quote(2, "\"100\"", "MXN").await;
    for status in [400, 404, 424, 503] {
        let request = Request::post("http://h/ramp/order").header("authorization", "api_sand:a");
        let request = request.body(Body::full(order(3, 2, BANK).to_string())).unwrap();
        assert_eq!(api.world.send(request, world::status(status)).await.status.as_u16(), status);
    }
    assert_eq!(api.order(4, 2, BANK).await.status, 200);
}

#[tokio::test]
async fn e10_q2_an_order_whose_outcome_is_unknown_holds_its_guard() {
    let api = Api::new();
    api.quote(1, "\"100\"", "MXN").await;
    let request = Request::post("http://h/ramp/order").header("authorization", "api_sand:a");
    let request = request.body(Body::full(order(1, 1, BANK).to_string())).unwrap();
    assert_eq!(api.world.send(request, world::status(500)).await.status, 500);
    assert_held(&api.order(2, 1, BANK).await, 1);
    // It happened after all, and is over; the origin says so.
    api.world.clock.advance(Duration::from_secs(1));
    api.origin.0.lock().unwrap().insert(id(1), json!({ "status": "completed" }));
    api.get(1).await;
    assert_eq!(api.order(2, 1, BANK).await.status, 200);
}

#[tokio::test]
async fn q7_q8_q9_q10_two_conflicts_on_one_path_are_told_apart_and_a_retry_is_never_one_of_them() {
    let api = Api::new();
    for n in [1, 2, 3] {
        api.quote(n, "\"100\"", "MXN").await;
    }
    assert_eq!(api.order(1, 1, BANK).await.status, 200);
    // Q9: my own pending order is a conflict of its id, not of its guard, and names itself.
    let mine = api.order(1, 1, BANK).await;
    assert_eq!((mine.status.as_u16(), mine.header("idempotency-problem")), (409, Some("resource-exists")));
    assert_eq!(text(&mine), "An order with this transaction ID already exists");
    assert_eq!(mine.header("location"), Some(format!("/ramp/order/{}", id(1)).as_str()));
    // Q8: the same id with another content.
    let changed = api.order(1, 2, OTHER_BANK).await;
    assert_eq!((changed.status.as_u16(), changed.header("idempotency-problem")), (409, Some("resource-id-reused")));
    // Q7: another order names the holder, which can be looked at.
    let other = api.order(2, 2, BANK).await;
    assert_held(&other, 1);
    assert_eq!(api.get(1).await.status, 200);
    assert_eq!(api.get(2).await.status, 404);
    // The refusal took nothing: the id is free, for another amount too.
    api.quote(4, "\"7\"", "MXN").await;
    assert_eq!(api.order(2, 4, BANK).await.status, 200);
    // Q9 again: with the guard released and taken by another order, a retry is still a retry.
    api.origin.set(1, "completed");
    api.get(1).await;
    assert_eq!(api.order(3, 3, BANK).await.status, 200);
    assert_eq!(api.order(1, 1, BANK).await.header("idempotency-problem"), Some("resource-exists"));
    assert_eq!(api.origin.orders(), 3);
}

#[tokio::test]
async fn q7_a_problem_in_our_own_words_names_the_conflicting_resource() {
    let api = Api::with(policy(GUARDED));
    assert_eq!(api.post("/ramp/order", &json!({ "orderId": "a", "account": 1 })).await.status, 200);
    let held = api.post("/ramp/order", &json!({ "orderId": "b", "account": 1 })).await;
    held.assert_problem(409, "guard-held");
    let problem: Value = serde_json::from_slice(&held.content).unwrap();
    assert_eq!(problem["conflicting_resource"], "/ramp/order/a");
    assert_eq!(held.header("location"), Some("/ramp/order/a"));
}

#[tokio::test]
async fn q13_another_caller_is_neither_blocked_nor_told_anything() {
    let api = Api::new();
    api.quote(1, "\"100\"", "MXN").await;
    api.order(1, 1, BANK).await;
    // My quote is unknown to them, as an id that never was.
    let content = order(2, 1, BANK).to_string();
    let theirs = api.send_as("api_sand:b", Request::post("http://h/ramp/order"), &content).await;
    let unknown = api.order(3, 99, BANK).await;
    for seen in [&theirs, &unknown] {
        assert_eq!((seen.status.as_u16(), text(seen)), (400, r#"{"error":"Quote not found"}"#));
        assert_eq!(seen.header("idempotency-problem"), Some("guard-incomplete"));
    }
    let quote =
        json!({ "quoteId": id(1), "quoteAssets": { "type": "onramp", "sourceAsset": "MXN" }, "sourceAmount": "100" });
    api.send_as("api_sand:b", Request::post("http://h/ramp/quote"), &quote.to_string()).await;
    assert_eq!(api.send_as("api_sand:b", Request::post("http://h/ramp/order"), &content).await.status, 200);
    // What they look at releases nothing of mine.
    api.origin.set(1, "completed");
    let look = Request::get(format!("http://h/ramp/order/{}", id(1)));
    assert_eq!(api.send_as("api_sand:b", look, "").await.status, 200);
    assert_held(&api.order(4, 1, BANK).await, 1);
    assert_eq!(api.origin.orders(), 2);
}

#[tokio::test]
async fn q14_amounts_are_compared_as_numbers_and_currencies_by_name() {
    let api = Api::new();
    let spelled = ["100", "100.00", "\"100\"", "1e2", "\"100e0\"", "\"+0100.\""];
    for (n, amount) in (1..).zip(spelled) {
        api.quote(n, amount, "MXN").await;
    }
    assert_eq!(api.order(1, 1, BANK).await.status, 200);
    for n in 2..=6 {
        assert_held(&api.order(n, n, BANK).await, 1);
        assert_held(&api.order(n, n, &BANK.to_uppercase()).await, 1);
    }
    api.quote(10, "100", "USD").await;
    api.quote(11, "100.01", "MXN").await;
    for n in [10, 11] {
        assert_eq!(api.order(n, n, BANK).await.status, 200);
    }
}

#[tokio::test]
async fn q14_what_cannot_be_compared_executes_nothing() {
    let api = Api::new();
    api.quote(1, "\"100\"", "MXN").await;
    for amount in ["null", "[100]", "{}", "\" \"", "1e99999999999999999999"] {
        let n = 10 + api.world.effects() as u64;
        api.quote(n, amount, "MXN").await;
        let seen = api.order(n, n, BANK).await;
        assert_eq!(
            (seen.status.as_u16(), seen.header("idempotency-problem")),
            (400, Some("guard-incomplete")),
            "{amount}"
        );
        assert!(text(&seen).contains("does not say /sourceAmount"), "{seen:?}");
    }
    let strange = [
        json!({ "orderId": id(1), "quoteId": id(1) }),
        json!({ "orderId": id(1), "quoteId": id(1), "bankAccountId": null }),
        json!({ "orderId": id(1), "quoteId": id(1), "bankAccountId": [BANK] }),
        json!({ "orderId": id(1), "quoteId": "q", "bankAccountId": BANK }),
        json!({ "orderId": id(1), "bankAccountId": BANK }),
    ];
    for content in strange {
        let seen = api.post("/ramp/order", &content).await;
        assert_eq!(
            (seen.status.as_u16(), seen.header("idempotency-problem")),
            (400, Some("guard-incomplete")),
            "{content}"
        );
    }
    assert_eq!(api.origin.orders(), 0);
    assert_eq!(api.order(1, 1, BANK).await.status, 200, "and the id stayed free");
}

#[tokio::test]
async fn q14_a_guard_is_passed_with_a_reason_where_the_rule_allows_it_and_nowhere_else() {
    for (allowed, statuses) in [("override = true", [409, 200]), ("", [409, 409])] {
        let api = Api::with(policy(&GUARDED.replace("#override", allowed)));
        let order = |id: &str| json!({ "orderId": id, "account": 1 }).to_string();
        let post = || Request::post("http://h/ramp/order");
        assert_eq!(api.send_as("a", post(), &order("a")).await.status, 200);
        let reasons = ["", "the customer asked for two"];
        for (reason, status) in reasons.into_iter().zip(statuses) {
            let seen = api.send_as("a", post().header("guard-override", reason), &order("b")).await;
            assert_eq!(seen.status.as_u16(), status, "{allowed} {reason}");
        }
        // The guard is still the first one's: who passes does not take it.
        let third = api.send_as("a", post(), &order("c")).await;
        assert_eq!(third.header("location"), Some("/ramp/order/a"));
    }
}

#[tokio::test]
async fn e11_a_guard_ends_with_its_own_age() {
    let api = Api::new();
    api.quote(1, "\"100\"", "MXN").await;
    api.order(1, 1, BANK).await;
    api.world.clock.advance(Duration::from_hours(30 * 24) - Duration::from_secs(3));
    api.quote(2, "\"100\"", "MXN").await;
    assert_held(&api.order(2, 2, BANK).await, 1);
    assert_eq!(api.order(2, 2, BANK).await.status, 200);
    // The order itself is remembered for much longer.
    assert_eq!(api.order(1, 1, BANK).await.header("idempotency-problem"), Some("resource-exists"));
}

/// A response that does not show the whole resource, or not for certain, frees nothing.
#[tokio::test]
async fn e11_what_releases_nothing() {
    let json = [("content-type", "application/json")];
    let coded = |coding: &'static str| vec![json[0], ("content-encoding", coding)];
    let funded = r#"{"status":"funded"}"#;
    let cases = [
        ("still held", 200, json.to_vec(), r#"{"status":"created"}"#),
        ("no such member", 200, json.to_vec(), r#"{"state":"funded"}"#),
        ("no text", 200, json.to_vec(), r#"{"status":3}"#),
        ("null", 200, json.to_vec(), r#"{"status":null}"#),
        ("twice", 200, json.to_vec(), r#"{"status":"created","status":"funded"}"#),
        ("broken", 200, json.to_vec(), r#"{"status":"funded""#),
        ("an error", 404, json.to_vec(), funded),
        ("a server error", 500, json.to_vec(), funded),
        ("a part", 206, json.to_vec(), funded),
        ("not modified", 304, json.to_vec(), funded),
        ("compressed", 200, coded("gzip"), funded),
        ("not said to be JSON", 200, Vec::new(), funded),
        ("a page", 200, vec![("content-type", "text/html")], funded),
    ];
    let api = Api::new();
    api.quote(1, "\"100\"", "MXN").await;
    api.order(1, 1, BANK).await;
    let look = async |method: &str, path: &str, status: u16, headers: Vec<(&str, &str)>, content: &str| {
        let request = Request::builder().method(method).uri(format!("http://h{path}"));
        let request = request.header("authorization", "api_sand:a").body(Body::empty()).unwrap();
        let headers: Vec<(String, String)> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let content = content.to_owned();
        let seen = api
            .world
            .send(request, move |_| {
                let mut response = Response::builder().status(status);
                for (name, value) in &headers {
                    response = response.header(name, value);
                }
                std::future::ready(response.body(Body::full(content.clone())).unwrap())
            })
            .await;
        api.world.clock.advance(Duration::from_secs(1));
        seen
    };
    let path = format!("/ramp/order/{}", id(1));
    for (why, status, headers, content) in cases {
        let seen = look("GET", &path, status, headers, content).await;
        assert_eq!((seen.status.as_u16(), text(&seen)), (status, content), "{why}");
        assert_eq!(api.order(2, 1, BANK).await.status, 409, "{why}");
    }
    for (method, path) in [("HEAD", &*path), ("POST", &*path), ("GET", &*format!("{path}/x")), ("GET", "/ramp/order/1")]
    {
        look(method, path, 200, json.to_vec(), funded).await;
        assert_eq!(api.order(2, 1, BANK).await.status, 409, "{method} {path}");
    }
    // And the one that does, however its path is spelled.
    look("GET", &format!("//ramp/./order/{}/", id(1).to_uppercase()), 200, coded("identity"), funded).await;
    assert_eq!(api.order(2, 1, BANK).await.status, 200);
}

/// A request that began before the order was settled shows how things stood before it.
#[tokio::test]
async fn e11_a_response_that_is_older_than_the_order_releases_nothing() {
    let api = Api::new();
    api.quote(1, "\"100\"", "MXN").await;
    api.order(1, 1, BANK).await;
    // The clock of the store has not moved since an order was written anew.
    api.origin.set(1, "canceled");
    api.get(1).await;
    let request = Request::post("http://h/ramp/order").header("authorization", "api_sand:a");
    let request = request.body(Body::full(order(2, 1, BANK).to_string())).unwrap();
    let origin = api.origin.clone();
    api.world.send(request, move |request| origin.clone().answer(request)).await;
    api.origin.set(2, "canceled");
    api.get(2).await;
    assert_held(&api.order(3, 1, BANK).await, 2);
    api.get(2).await;
    assert_eq!(api.order(3, 1, BANK).await.status, 200);
}

#[tokio::test]
async fn e11_a_failing_store_changes_nothing_for_whoever_looks() {
    let mut faulty = None;
    let policy = Policy::preset(Preset::Etherfuse);
    let world = World::with(policy, |memory| {
        let store = Arc::new(FaultyStore::new(memory));
        faulty = Some(Arc::clone(&store));
        store
    });
    let api = Api { world, origin: Origin::default() };
    api.quote(1, "\"100\"", "MXN").await;
    api.order(1, 1, BANK).await;
    api.origin.set(1, "funded");
    for fault in [Fault::Refused, Fault::LostReply] {
        faulty.as_ref().unwrap().push([fault.clone()]);
        assert!(text(&api.get(1).await).contains("funded"));
        let expected = if fault == Fault::Refused { 409 } else { 200 };
        assert_eq!(api.order(2, 1, BANK).await.status.as_u16(), expected, "{fault:?}");
    }
}

type OneFrame = Result<http_body::Frame<Bytes>, semel::BoxError>;

#[allow(clippy::unnecessary_wraps, reason = "stands beside errors")]
fn frame(text: &'static str) -> OneFrame {
    Ok(http_body::Frame::data(Bytes::from_static(text.as_bytes())))
}

/// Byte for byte, trailers included, and an error stays one; with or without a content that can be read in time.
#[tokio::test(start_paused = true)]
async fn e11_a_watched_response_is_passed_on_as_it_is() {
    let api = Api::new();
    let get = || {
        let request = Request::get(format!("http://h/ramp/order/{}", id(1))).header("accept-encoding", "gzip");
        request.body(Body::empty()).unwrap()
    };
    let send = async |frames: fn() -> Vec<OneFrame>, pause: Duration| {
        let service = api.world.service(move |request: Request<Body>| async move {
            assert_eq!(request.headers()["accept-encoding"], "identity");
            let stream = futures_util::stream::unfold(frames().into_iter(), move |mut frames| async move {
                tokio::time::sleep(pause).await;
                Some((frames.next()?, frames))
            });
            let response = Response::builder().header("content-type", "application/json");
            response.body(Body::streaming(StreamBody::new(Box::pin(stream)))).unwrap()
        });
        service.oneshot(get()).await.unwrap().into_body()
    };
    for pause in [Duration::ZERO, Duration::from_secs(1), Duration::from_mins(1)] {
        let body = send(
            || {
                let mut trailers = http::HeaderMap::new();
                trailers.insert(header::ETAG, "\"1\"".parse().unwrap());
                vec![frame("{\"sta"), frame("tus\": \"created\" }\r\n"), Ok(http_body::Frame::trailers(trailers))]
            },
            pause,
        );
        let collected = body.await.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["etag"], "\"1\"");
        assert_eq!(collected.to_bytes(), "{\"status\": \"created\" }\r\n");
        let mut broken = send(|| vec![frame("{\"sta"), Err("broke off".into()), frame("never")], pause).await;
        let first = broken.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "{\"sta");
        assert_eq!(broken.frame().await.unwrap().unwrap_err().to_string(), "broke off");
    }
}

#[tokio::test]
async fn e11_a_content_over_the_limit_is_passed_on_and_releases_nothing() {
    let api = Api::with(policy(GUARDED));
    api.post("/ramp/order", &json!({ "orderId": "a", "account": 1 })).await;
    for (padding, status) in [(2000, 409), (10, 200)] {
        let content = json!({ "status": "funded", "padding": "x".repeat(padding) }).to_string();
        let request = Request::get("http://h/ramp/order/a").header("authorization", "api_sand:a");
        let whole = content.clone();
        let seen = api
            .world
            .send(request.body(Body::empty()).unwrap(), move |_| {
                let frames: Vec<_> = whole.as_bytes().chunks(100).map(Bytes::copy_from_slice).collect();
                let frames = frames.into_iter().map(|data| Ok::<_, semel::BoxError>(http_body::Frame::data(data)));
                let response = Response::builder().header("content-type", "application/json");
                let body = StreamBody::new(futures_util::stream::iter(frames));
                std::future::ready(response.body(Body::streaming(body)).unwrap())
            })
            .await;
        assert_eq!(text(&seen), content);
        assert_eq!(api.post("/ramp/order", &json!({ "orderId": "b", "account": 1 })).await.status.as_u16(), status);
    }
}

/// A route that shows a release may be covered itself: its own reply counts, a replay of it does not.
#[tokio::test]
async fn e11_a_covered_reply_releases_and_a_replay_of_it_does_not() {
    let api = Api::with(policy(GUARDED));
    let order = |id: &str| json!({ "orderId": id, "account": 1 });
    let cancel = || Request::post("http://h/ramp/order/a/cancel").header("idempotency-key", "k");
    let origin = api.origin.clone();
    api.post("/ramp/order", &order("a")).await;
    assert_eq!(api.send_as("api_sand:a", cancel(), "").await.status, 200);
    assert_eq!(api.post("/ramp/order", &order("b")).await.status, 200);
    origin.0.lock().unwrap().clear();
    // A new life of the id `a`, which is pending again.
    api.world.clock.advance(Duration::from_hours(24));
    api.post("/ramp/order", &order("a")).await;
    let replay = api.send_as("api_sand:a", cancel(), "").await;
    assert_eq!((replay.header("idempotent-replayed"), text(&replay).contains("canceled")), (Some("true"), true));
    assert_eq!(api.post("/ramp/order", &order("c")).await.status, 409);
}

/// An id is the resource's, and not the path's that it was sent to.
#[tokio::test]
async fn e2_e12_one_id_under_the_paths_of_two_customers_is_one_record() {
    let world = World::preset(Preset::Etherfuse);
    let create = async |caller: &str, customer: &str, name: &str| {
        let request = Request::post(format!("http://h/ramp/customer/{customer}/bank-account"))
            .header("authorization", caller)
            .header("content-type", "application/json");
        let content = json!({ "bankAccountId": BANK, "name": name }).to_string();
        world.send(request.body(Body::full(content)).unwrap(), world::status(201)).await
    };
    assert_eq!(create("a", "c1", "Ana").await.status, 201);
    let words = "A bank account with this ID already exists";
    for (customer, name, code) in
        [("c1", "Ana", "resource-exists"), ("c2", "Ana", "resource-id-reused"), ("c2", "Bea", "resource-id-reused")]
    {
        let taken = create("a", customer, name).await;
        assert_eq!((taken.status.as_u16(), text(&taken)), (409, words), "{taken:?}");
        assert_eq!(taken.header("idempotency-problem"), Some(code), "{customer} {name}");
        assert_eq!(taken.header("location"), Some(format!("/ramp/bank-account/{BANK}").as_str()));
    }
    assert_eq!(world.effects(), 1);
    assert_eq!(create("b", "c2", "Bea").await.status, 201, "another caller has ids of their own");
}

const SHOPS: &str = r#"
[[route]]
path = "/shops/{shop}/customers/{customer}/orders"
methods = ["POST"]
key = "member"
key_member = "/orderId"
key_presence = "required"
resource = "/shops/{shop}/orders/{key}"
[route.guard]
name = "one-per-amount"
values = [{ path = "/customers/any/quotes", key = "/quoteId", member = "/amount" }]
[[route.release]]
path = "/shops/{shop}/orders/{key}"
member = "/status"
held_while = ["created"]

[[route]]
path = "/shops/{shop}/orders"
methods = ["POST"]
key = "member"
key_member = "/orderId"
resource = "/shops/{shop}/orders/{key}"

[[route]]
path = "/customers/{customer}/quotes"
methods = ["POST"]
key = "member"
key_member = "/quoteId"
resource = "/quotes/{key}"
"#;

/// Whatever names a record by its id, a request, a reference of a guard or a release, means the same record.
#[tokio::test]
async fn e2_e10_e11_e12_requests_references_and_releases_agree_on_whose_id_it_is() {
    let world = World::with(policy(SHOPS), |memory| memory);
    let send = async |request: http::request::Builder, content: Value| {
        let request = request.header("content-type", "application/json").body(Body::full(content.to_string())).unwrap();
        let seen = world.send(request, move |_| std::future::ready(reply(200, &content))).await;
        world.clock.advance(Duration::from_secs(1));
        seen
    };
    let post = async |path: &str, content: Value| send(Request::post(format!("http://h{path}")), content).await;
    let quote = json!({ "quoteId": "q", "amount": 7 });
    assert_eq!(post("/customers/c1/quotes", quote.clone()).await.status, 200);
    post("/customers/c2/quotes", quote).await.assert_problem(409, "resource-id-reused");
    // The quote that was posted under one customer is known under another, and under the one in the guard.
    let order = |id: &str| json!({ "orderId": id, "quoteId": "q" });
    assert_eq!(post("/shops/s1/customers/c1/orders", order("a")).await.status, 200);
    // The same id under another customer, and by the other way to make an order, is taken; in another shop it is not.
    for path in ["/shops/s1/customers/c2/orders", "/shops/s1/orders"] {
        let taken = post(path, order("a")).await;
        taken.assert_problem(409, "resource-id-reused");
        assert_eq!(taken.header("location"), Some("/shops/s1/orders/a"), "{path}");
    }
    let held = post("/shops/s2/customers/c2/orders", order("a")).await;
    held.assert_problem(409, "guard-held");
    assert_eq!(held.header("location"), Some("/shops/s1/orders/a"));
    // A look that names the wrong shop shows nothing of this order.
    for (path, status) in [("/shops/s2/orders/a", 409), ("/shops/s1/orders/a", 200)] {
        send(Request::get(format!("http://h{path}")), json!({ "status": "funded" })).await;
        assert_eq!(post("/shops/s2/customers/c2/orders", order("a")).await.status.as_u16(), status, "{path}");
    }
}

const NORA: &str = "/v2/intents/i1/approve-burn";

struct Nora(World);

impl Nora {
    async fn approve(&self, signature: &str) -> Seen {
        let content = json!({ "txSignature": signature, "tokenHolder": "ATA" }).to_string();
        let request = Request::post(format!("http://h{NORA}")).header("x-api-key", "k");
        self.0
            .send(request.body(Body::full(content)).unwrap(), |_| async {
                reply(200, &json!({ "status": "burn_approved" }))
            })
            .await
    }

    async fn look(&self, caller: &str, status: &'static str) {
        let request = Request::get("http://h/v2/intents/i1").header("x-api-key", caller).body(Body::empty()).unwrap();
        let seen = self.0.send(request, move |_| async move { reply(200, &json!({ "status": status })) }).await;
        assert_eq!(text(&seen), json!({ "status": status }).to_string());
    }
}

#[tokio::test]
async fn q18_e38_e44_a_new_signature_is_accepted_only_once_the_old_one_is_dead() {
    let nora = Nora(World::preset(Preset::Nora));
    assert_eq!(nora.approve("sigA").await.status, 200);
    let taken = nora.approve("sigB").await;
    assert_eq!((taken.status.as_u16(), taken.header("idempotency-problem")), (409, Some("slot-taken")));
    // The same signature again is the same approval (E44: the same bytes).
    assert_eq!(nora.approve("sigA").await.header("idempotent-replayed"), Some("true"));
    // Too early: the blockhash of sigA still lives, and the origin may not have seen it yet.
    nora.0.clock.advance(Duration::from_mins(3) - Duration::from_millis(1));
    nora.look("k", "awaiting_burn_approval").await;
    assert_eq!(nora.approve("sigB").await.status, 409);
    nora.0.clock.advance(Duration::from_mins(1));
    for status in ["burn_approved", "completed", "failed", "unheard_of"] {
        nora.look("k", status).await;
        assert_eq!(nora.approve("sigB").await.status, 409, "{status}");
    }
    nora.look("another", "awaiting_burn_approval").await;
    assert_eq!(nora.approve("sigB").await.status, 409, "another caller's intent");
    nora.look("k", "awaiting_burn_approval").await;
    assert_eq!(nora.approve("sigB").await.status, 200);
    assert_eq!(nora.approve("sigA").await.header("idempotency-problem"), Some("slot-taken"), "the new one stands");
}

/// A signature that was sent and lost: neither it nor another is sent until it is known to be dead.
#[tokio::test]
async fn q18_e44_a_lost_signature_keeps_its_slot_until_it_is_dead() {
    let nora = Nora(World::preset(Preset::Nora));
    let content = json!({ "txSignature": "sigA", "tokenHolder": "ATA" }).to_string();
    let request = Request::post(format!("http://h{NORA}")).header("x-api-key", "k").body(Body::full(content)).unwrap();
    assert_eq!(nora.0.send(request, world::status(502)).await.status, 502);
    for (signature, code) in [("sigA", "outcome-unknown"), ("sigB", "slot-taken")] {
        nora.look("k", "awaiting_burn_approval").await;
        let refused = nora.approve(signature).await;
        assert_eq!(refused.status, 409, "{refused:?}");
        assert!(refused.header("idempotency-problem") == Some(code) || refused.code() == code, "{refused:?}");
    }
    nora.0.clock.advance(Duration::from_mins(4));
    nora.look("k", "awaiting_burn_approval").await;
    assert_eq!(nora.approve("sigB").await.status, 200);
    assert_eq!(nora.approve("sigA").await.header("idempotency-problem"), Some("slot-taken"));
}

/// The reply that a guard needs is kept for a while only; the order that it was for is known for much longer.
#[tokio::test]
async fn q9_q14_an_old_quote_makes_no_new_order_and_a_retry_needs_none() {
    let api = Api::new();
    api.quote(1, "\"100\"", "MXN").await;
    assert_eq!(api.order(1, 1, BANK).await.status, 200);
    api.world.clock.advance(Duration::from_hours(24));
    let late = api.order(2, 1, BANK).await;
    assert_eq!((late.status.as_u16(), text(&late)), (400, r#"{"error":"Quote not found"}"#));
    assert_eq!(api.order(1, 1, BANK).await.header("idempotency-problem"), Some("resource-exists"));
}

const GUARDED: &str = r#"
[[route]]
path = "/ramp/order"
methods = ["POST"]
key = "member"
key_member = "/orderId"
key_presence = "required"
resource = "/ramp/order/{key}"
remember_for = "24h"
reply_body_bytes_max = 1000
[route.guard]
name = "one-per-account"
values = ["/account"]
#override
[[route.release]]
path = "/ramp/order/{key}"
member = "/status"
held_while = ["created"]
[[route.release]]
path = "/ramp/order/{key}/cancel"
methods = ["POST"]
member = "/status"
held_while = ["created"]

[[route]]
path = "/*"
remember_for = "60d"
replay_for = "60d"
"#;

fn policy(text: &str) -> Policy {
    let mut document: HashMap<String, Vec<toml::Spanned<RouteSettings>>> = toml::from_str(text).unwrap();
    PolicyDocument { routes: document.remove("route").unwrap(), ..PolicyDocument::default() }
        .build()
        .unwrap_or_else(|error| panic!("{error}"))
}
