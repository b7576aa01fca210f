//! The published policy: H42.

use serde_json::Value;

use crate::harness::{Act, Gateway, Origin, Reply, Response, gateway, get, post, send};

const TOML: &str = r#"
documentation = "https://docs.example/idempotency"
[[route]]
path = "/strict/{id}"
key_presence = "required"
key_grammar = "uuid"
replay_for = "48h"
marker = "X-Replayed"
[route.problems]
key-missing = { status = 428 }
key-reused = { status = 409 }
[[route]]
path = "/orders"
"#;

async fn start(toml: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).config(toml).start().await;
    (origin, gateway)
}

/// The route of the document with that path.
fn route<'a>(document: &'a Value, path: &str) -> &'a Value {
    let routes = document["routes"].as_array().expect("routes");
    routes.iter().find(|route| route["path"] == path).unwrap_or_else(|| panic!("{path} in {document:#}"))
}

#[tokio::test]
async fn h42_the_policy_is_published_and_is_what_happens() {
    let (origin, gateway) = start(TOML).await;
    let answer = send(gateway.admin, &get("/.well-known/idempotency")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{answer:?}");
    let document = answer.json();
    let strict = route(&document, "/strict/{id}");
    let text = strict.to_string();
    for expected in ["POST", "uuid", "required", "X-Replayed", "raw", "Idempotency-Key"] {
        assert!(text.to_ascii_lowercase().contains(&expected.to_ascii_lowercase()), "{expected} in {strict:#}");
    }
    // What it says of statuses is what is answered.
    let missing = gateway.send(&post("/strict/1")).await;
    assert_eq!((missing.status, missing.code().as_str()), (428, "key-missing"));
    let key = "2f4f4b9e-0000-4000-8000-000000000001";
    gateway.send(&post("/strict/1").key(key)).await;
    let replay = gateway.send(&post("/strict/1").key(key)).await;
    assert_eq!(replay.header("x-replayed"), Some("true"));
    let reused = gateway.send(&post("/strict/1").key(key).body("{}")).await;
    assert_eq!((reused.status, reused.code().as_str()), (409, "key-reused"));
    for (code, status) in [("key-missing", 428), ("key-reused", 409)] {
        assert!(mentions(strict, code, status), "{code} {status} in {strict:#}");
    }
    let links = |answer: &Response| answer.all("link").join(", ");
    assert!(links(&missing).contains("https://docs.example/idempotency"), "{missing:?}");
    // Only operators see it unless the configuration says otherwise.
    origin.next(Act::refuse(Reply::new(404)));
    assert_eq!(gateway.send(&get("/.well-known/idempotency")).await.status, 404);
}

#[tokio::test]
async fn h42_the_policy_can_be_public() {
    let (origin, gateway) = start("[gateway]\npublish_policy = \"public\"\n").await;
    let public = gateway.send(&get("/.well-known/idempotency")).await;
    let admin = send(gateway.admin, &get("/.well-known/idempotency")).await;
    assert_eq!((public.status, public.json()), (200, admin.json()));
    assert_eq!(origin.seen().len(), 0);
}

/// S2 leaves open how long keys are remembered, and asks callers not to share them.
#[tokio::test]
async fn e20_q17_q26_credicorps_window_is_published_and_users_can_be_kept_apart() {
    let (origin, gateway) = start("preset = \"credicorp\"\nprincipal = [\"Authorization\"]\n").await;
    let document = send(gateway.admin, &get("/.well-known/idempotency")).await.json();
    for path in ["/public/v1/enquiries", "/public/v1/consent"] {
        let times = &route(&document, path)["times_seconds"];
        assert_eq!((&times["replay_for"], &times["remember_for"]), (&86_400.into(), &86_400.into()), "{times:#}");
    }
    let of = |user: &str| post("/public/v1/enquiries").key("shared").header("Authorization", user);
    for user in ["a", "b", "a", "b"] {
        gateway.send(&of(user)).await;
    }
    assert_eq!(origin.seen().len(), 2);
}

/// Whether somewhere in the document this code stands beside this status.
fn mentions(value: &Value, code: &str, status: u16) -> bool {
    match value {
        Value::Object(members) => {
            members.get(code).is_some_and(|found| *found == status)
                || members.values().any(|value| value == code) && members.values().any(|value| *value == status)
                || members.values().any(|value| mentions(value, code, status))
        }
        Value::Array(items) => items.iter().any(|value| mentions(value, code, status)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
