//! What the presets of the source APIs promise, seen through the layer around a naive handler.

#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use semel::{Body, core::policy::Preset};
use world::{Seen, World};

mod world;

const YONNE: &str = "/api/v1/external/create-order";
const ORDER: &str = r#"{"delivery_lat":-13.98,"delivery_lng":33.78,"delivery_fee":7350}"#;

/// A naive origin that creates a record on every call and numbers it.
fn creates(numbers: &Arc<AtomicUsize>) -> impl Fn(Request<Body>) -> std::future::Ready<Response<Body>> + Clone + use<> {
    let numbers = Arc::clone(numbers);
    move |_| {
        let number = numbers.fetch_add(1, Ordering::SeqCst) + 1;
        let response = Response::builder().status(201).header("content-type", "application/json");
        std::future::ready(response.body(Body::full(format!("{{\"id\":{number}}}"))).unwrap())
    }
}

fn answers(status: u16, content: &'static str) -> impl Fn(Request<Body>) -> std::future::Ready<Response<Body>> + Clone {
    move |_| {
        let response = Response::builder().status(status).header("content-type", "application/json");
        std::future::ready(response.body(Body::full(content)).unwrap())
    }
}

struct Api {
    world: World,
    created: Arc<AtomicUsize>,
}

impl Api {
    fn new(preset: Preset) -> Api {
        Api { world: World::preset(preset), created: Arc::default() }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], content: &'static str) -> Seen {
        self.world.send(request("POST", path, headers, content), creates(&self.created)).await
    }

    fn created(&self) -> usize {
        self.created.load(Ordering::SeqCst)
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], content: &'static str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(format!("http://h{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::full(content)).unwrap()
}

fn text(seen: &Seen) -> &str {
    std::str::from_utf8(&seen.content).unwrap()
}

#[tokio::test]
async fn e24_e26_e27_yonne_replays_a_success_within_24_hours_and_says_so_in_the_content() {
    let api = Api::new(Preset::Yonne);
    let headers = [("x-api-key", "yonne_live_1"), ("idempotency-key", "order-1")];
    assert_eq!(text(&api.post(YONNE, &headers, ORDER).await), r#"{"id":1}"#);
    let replay = api.post(YONNE, &headers, ORDER).await;
    assert_eq!((replay.status.as_u16(), text(&replay)), (201, r#"{"idempotent_replay":true,"id":1}"#));
    assert_eq!(replay.header("idempotent-replayed"), Some("true"));
    api.world.clock.advance(Duration::from_hours(24) - Duration::from_secs(1));
    assert_eq!(api.post(YONNE, &headers, ORDER).await.header("idempotent-replayed"), Some("true"));
    api.world.clock.advance(Duration::from_secs(1));
    assert_eq!(text(&api.post(YONNE, &headers, ORDER).await), r#"{"id":2}"#);
    // Another environment is another caller (dialects.md, Yonne 15).
    let test = [("x-api-key", "yonne_test_1"), ("idempotency-key", "order-1")];
    assert_eq!(text(&api.post(YONNE, &test, ORDER).await), r#"{"id":3}"#);
}

#[tokio::test]
async fn e28_q1_h38_h40_h41_keys_that_count_attempts_make_one_order() {
    let api = Api::new(Preset::Yonne);
    let attempt = |key: &'static str| [("x-api-key", "k"), ("idempotency-key", key)];
    let first = api.post(YONNE, &attempt("order-7-attempt-1"), ORDER).await;
    assert_eq!(first.header("idempotency-warning"), Some("attempt-suffix"));
    for key in ["order-7-attempt-2", "order-7-attempt-3", "order-7"] {
        assert_eq!(api.post(YONNE, &attempt(key), ORDER).await.header("idempotent-replayed"), Some("true"), "{key}");
    }
    let other = api.post(YONNE, &attempt("order-7-attempt-2"), r#"{"delivery_fee":1}"#).await;
    assert_eq!((other.status.as_u16(), other.header("idempotency-problem")), (422, Some("key-reused")));
    assert!(text(&other).starts_with(r#"{"success":false,"error":"Idempotency key reused","#), "{other:?}");
    assert_eq!(api.created(), 1);
    for key in ["order-8-attempt-1", "order-attempt-1-extra", "-attempt-1", "order-9-attempt-"] {
        api.post(YONNE, &attempt(key), ORDER).await;
    }
    assert_eq!(api.created(), 5);
}

#[tokio::test]
async fn e31_q2_h22_h23_what_did_nothing_can_be_tried_again_with_the_same_key() {
    let api = Api::new(Preset::Yonne);
    let headers = [("x-api-key", "k"), ("idempotency-key", "order-1-attempt-1")];
    let refusals = [
        (402, r#"{"success":false,"error":"Insufficient Funds"}"#),
        (422, r#"{"success":false,"error":"ERR_NO_CAPACITY_AVAILABLE"}"#),
        (400, r#"{"success":false,"error":"Missing coordinates"}"#),
        (401, r#"{"success":false,"error":"Unauthorized"}"#),
        (503, "{}"),
    ];
    for (status, content) in refusals {
        let seen = api.world.send(request("POST", YONNE, &headers, ORDER), answers(status, content)).await;
        assert_eq!((seen.status.as_u16(), text(&seen)), (status, content));
        assert_eq!(seen.header("idempotent-replayed"), None);
    }
    assert_eq!(text(&api.post(YONNE, &headers, ORDER).await), r#"{"id":1}"#);
}

#[tokio::test(start_paused = true)]
async fn q4_h39_the_next_attempt_waits_for_the_one_that_runs() {
    let api = Api::new(Preset::Yonne);
    let slow = |_| async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Response::new(Body::full("slow"))
    };
    let attempt = |key| request("POST", YONNE, &[("x-api-key", "k"), ("idempotency-key", key)], ORDER);
    let (first, second) = tokio::join!(
        api.world.send(attempt("order-1-attempt-1"), slow),
        api.world.send(attempt("order-1-attempt-2"), slow)
    );
    assert_eq!((text(&first), text(&second)), ("slow", "slow"));
    assert_eq!(api.world.effects(), 1);
}

#[tokio::test]
async fn e32_reads_need_no_key_and_are_never_kept() {
    let api = Api::new(Preset::Yonne);
    for _ in 0..2 {
        let quote = request("GET", "/api/v1/external/quote", &[("idempotency-key", "k")], "");
        assert_eq!(api.world.send(quote, creates(&api.created)).await.header("idempotency-status"), Some("ignored"));
    }
    assert_eq!(api.created(), 2);
}

#[tokio::test]
async fn e14_e19_e20_e23_credicorp_returns_the_original_per_endpoint_and_refuses_other_data() {
    let api = Api::new(Preset::Credicorp);
    let key = [("idempotency-key", "3f2c"), ("content-type", "application/json")];
    api.post("/public/v1/enquiries", &key, r#"{"name":"Jo","amount":100}"#).await;
    // Spacing and member order do not count.
    let replay = api.post("/public/v1/enquiries", &key, r#"{ "amount": 100.0, "name": "Jo" }"#).await;
    assert_eq!((replay.status.as_u16(), replay.header("idempotency-replayed")), (201, Some("true")));
    let other = api.post("/public/v1/enquiries", &key, r#"{"name":"Al","amount":100}"#).await;
    assert_eq!(other.status, 409);
    assert!(text(&other).contains(r#""code":"idempotency_key_reused""#), "{other:?}");
    assert_eq!(api.created(), 1);
    api.post("/public/v1/consent", &key, r#"{"name":"Jo","amount":100}"#).await;
    assert_eq!(api.created(), 2);
}

/// E17: readers take a 409 for "you already have it", so only what exists, or is about to, is told as one.
#[tokio::test(start_paused = true)]
async fn e17_q15_credicorp_says_409_only_of_what_exists_or_is_being_made() {
    let api = Api::new(Preset::Credicorp);
    let enquiry = |key| {
        let headers = [("idempotency-key", key), ("content-type", "application/json")];
        request("POST", "/public/v1/enquiries", &headers, r#"{"name":"Jo"}"#)
    };
    let slow = |_| async {
        tokio::time::sleep(Duration::from_secs(15)).await;
        Response::builder().status(201).body(Body::full("made")).unwrap()
    };
    // The retry waits its ten seconds, is told that the first still runs, and repeats.
    let retry = async {
        let told = api.world.send(enquiry("k"), slow).await;
        assert_eq!((told.status.as_u16(), told.header("idempotency-problem")), (409, Some("in-flight")));
        assert!(text(&told).contains(r#""code":"request_in_progress""#), "{told:?}");
        assert!(told.header("retry-after").is_some());
        api.world.send(enquiry("k"), slow).await
    };
    let (first, second) = tokio::join!(api.world.send(enquiry("k"), slow), retry);
    assert_eq!((second.status.as_u16(), text(&second)), (201, text(&first)));
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    // Nobody knows whether this one exists.
    api.world.send(enquiry("lost"), answers(500, "{}")).await;
    let told = api.world.send(enquiry("lost"), slow).await;
    assert_eq!((told.status.as_u16(), told.header("idempotency-problem")), (500, Some("outcome-unknown")));
    assert!(text(&told).contains(r#""code":"outcome_unknown""#), "{told:?}");
    assert_eq!(api.world.effects(), 2);
}

#[tokio::test]
async fn e35_e36_e43_e45_e49_nora_replays_per_endpoint_with_the_original_status() {
    let api = Api::new(Preset::Nora);
    let key = [("x-api-key", "sk_test_a"), ("idempotency-key", "5f1e8a52-7c1d-4e67-9a4d-7e5a1f0c2b11")];
    let upper = [("x-api-key", "sk_test_a"), ("idempotency-key", "5F1E8A52-7C1D-4E67-9A4D-7E5A1F0C2B11")];
    let onramp = r#"{"amountCents":10000}"#;
    api.post("/v2/intents/onramp", &key, onramp).await;
    let replay = api.post("/v2/intents/onramp", &upper, onramp).await;
    assert_eq!((replay.status.as_u16(), text(&replay)), (201, r#"{"id":1}"#));
    // E43: a client that writes the content anew after a crash still retries.
    assert_eq!(text(&api.post("/v2/intents/onramp", &key, r#"{ "amountCents": 1e4 }"#).await), r#"{"id":1}"#);
    assert_eq!(text(&api.post("/v2/intents/offramp", &key, onramp).await), r#"{"id":2}"#);
    let other_caller = [("x-api-key", "sk_live_a"), key[1]];
    assert_eq!(text(&api.post("/v2/intents/onramp", &other_caller, onramp).await), r#"{"id":3}"#);
    let edited = api.post("/v2/intents/onramp", &key, r#"{"amountCents":20000}"#).await;
    assert_eq!((edited.status.as_u16(), edited.header("idempotency-problem")), (409, Some("key-reused")));
    // A refusal that the operation gave is kept with its status; E35: without a key there is no promise.
    let refused = [key[0], ("idempotency-key", "00000000-0000-4000-8000-000000000001")];
    let declined = answers(422, r#"{"code":"destination_wallet_not_authorized"}"#);
    api.world.send(request("POST", "/v2/intents/onramp", &refused, onramp), declined).await;
    assert_eq!(api.post("/v2/intents/onramp", &refused, onramp).await.status, 422);
    for _ in 0..2 {
        api.post("/v2/intents/onramp", &[key[0]], onramp).await;
    }
    assert_eq!(api.created(), 5);
}

#[tokio::test]
async fn e37_nora_validates_that_the_key_is_a_uuid() {
    let api = Api::new(Preset::Nora);
    let seen = api.post("/v2/intents/onramp", &[("x-api-key", "k"), ("idempotency-key", "abc")], "{}").await;
    assert_eq!(seen.status, 400);
    assert!(text(&seen).contains(r#""field":"idempotency-key""#), "{seen:?}");
    assert_eq!(api.created(), 0);
}

#[tokio::test]
async fn e38_n1_n2_n7_a_burn_is_approved_by_one_signature() {
    let api = Api::new(Preset::Nora);
    let key = [("x-api-key", "k")];
    let approve = "/v2/intents/i1/approve-burn";
    api.post(approve, &key, r#"{"txSignature":"sigA","tokenHolder":"ATA"}"#).await;
    let again = api.post(approve, &key, r#"{"txSignature":"sigA","tokenHolder":"ATA"}"#).await;
    assert_eq!((again.status.as_u16(), text(&again)), (201, r#"{"id":1}"#));
    let other = api.post(approve, &key, r#"{"txSignature":"sigB","tokenHolder":"ATA"}"#).await;
    assert_eq!((other.status.as_u16(), other.header("idempotency-problem")), (409, Some("slot-taken")));
    assert!(text(&other).contains("burn_signature_conflict"));
    for content in [r"{}", r#"{"txSignature":""}"#, "not json"] {
        assert_eq!(api.post(approve, &key, content).await.status, 400, "{content}");
    }
    assert_eq!(api.created(), 1);
    api.post("/v2/intents/i2/approve-burn", &key, r#"{"txSignature":"sigA"}"#).await;
    assert_eq!(api.created(), 2);
}

#[tokio::test]
async fn e39_q24_n8_a_second_party_with_the_same_cpf_is_a_conflict() {
    let api = Api::new(Preset::Nora);
    let key = [("x-api-key", "k")];
    api.post("/v2/parties", &key, r#"{"cpf":"12345678901","displayName":"Ana"}"#).await;
    for content in [r#"{"cpf":"12345678901","displayName":"Ana"}"#, r#"{"cpf":"12345678901","displayName":"Bia"}"#] {
        let seen = api.post("/v2/parties", &key, content).await;
        assert_eq!((seen.status.as_u16(), text(&seen)), (409, r#"{"error":"Party with this cpf already exists"}"#));
    }
    // Errors of parties have a shape of their own.
    let seen = api.post("/v2/parties", &key, r#"{"cpf":12345678901,"displayName":"Ana"}"#).await;
    assert_eq!(seen.status, 400);
    assert!(text(&seen).starts_with(r#"{"error":"The member /cpf of the JSON content must be"#), "{seen:?}");
    assert_eq!(api.created(), 1);
}
