//! What a script in a web page can read of an answer: SC16.

use crate::harness::{
    Act, Conn, Gate, Gateway, Origin, Reply, Response, assert_problem, assert_replay, gateway, get, post, request,
    semel,
};

const APP: &str = "https://app.example.com";
const OTHER: &str = "https://other.example.net";

async fn configured(toml: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).config(toml).start().await;
    (origin, gateway)
}

/// What a browser lets a page of `asking` see: nothing, or the names of the fields beyond the safelist.
#[track_caller]
fn readable(asking: &str, answer: &Response) -> Option<Vec<String>> {
    let allowed = answer.header("access-control-allow-origin")?;
    if allowed != "*" && allowed != asking {
        return None;
    }
    let names = answer.all("access-control-expose-headers").join(",").to_ascii_lowercase();
    let mut names: Vec<String> =
        names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    names.sort();
    Some(names)
}

fn for_app() -> Reply {
    Reply::json(201, "{}")
        .header("Access-Control-Allow-Origin", APP)
        .header("Access-Control-Allow-Credentials", "true")
        .header("Access-Control-Expose-Headers", "X-Total")
        .header("Vary", "Accept, origin")
        .header("Location", "/orders/1")
}

#[tokio::test]
async fn sc16_a_page_that_the_origin_lets_read_reads_the_markers() {
    let (origin, gateway) = configured("").await;
    let asks = post("/orders").key("k").header("Origin", APP);
    origin.next(Act::reply(for_app()));
    let first = gateway.send(&asks).await;
    assert_eq!(readable(APP, &first).unwrap(), ["location", "x-total"]);
    let again = gateway.send(&asks).await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(readable(APP, &again).unwrap(), ["idempotent-replayed", "location", "x-total"]);
    assert_eq!(again.header("access-control-allow-credentials"), Some("true"));

    origin.next(Act::reply(for_app()));
    let unprotected = gateway.send(&post("/orders").header("Origin", APP)).await;
    assert_eq!(readable(APP, &unprotected).unwrap(), ["idempotency-status", "location", "x-total"]);
    // Whoever is no page is told what the origin says, and no more.
    let (first, again) = (post("/orders").key("plain"), post("/orders").key("plain"));
    origin.next(Act::reply(for_app()));
    let first = gateway.send(&first).await;
    assert_eq!(first.all("access-control-expose-headers"), ["X-Total"]);
    assert_replay(&first, &gateway.send(&again).await);
    // And where the origin lets no page read, none can.
    let hidden = gateway.send(&post("/orders").key("hidden").header("Origin", APP)).await;
    assert_eq!((hidden.status, readable(APP, &hidden)), (201, None), "{hidden:?}");
    assert_eq!(hidden.header("access-control-expose-headers"), None);
}

#[tokio::test]
async fn sc16_a_marker_of_another_name_can_be_read_too() {
    let (origin, gateway) = configured("[[route]]\npath = \"/orders\"\nmarker = \"X-Replayed\"\n").await;
    origin.always(|_| Act::reply(Reply::json(201, "{}").header("Access-Control-Allow-Origin", "*")));
    let asks = post("/orders").key("k").header("Origin", APP);
    gateway.send(&asks).await;
    assert_eq!(readable(APP, &gateway.send(&asks).await).unwrap(), ["x-replayed"]);
}

#[tokio::test]
async fn sc16_the_gateways_own_problems_are_for_the_pages_that_are_listed() {
    let listed = format!("[cors]\norigins = [\"{APP}\"]\n[[route]]\npath = \"/*\"\nkey_presence = \"required\"\n");
    for (toml, credentials) in
        [(listed.clone(), None), (listed.replacen("[[", "credentials = true\n[[", 1), Some("true"))]
    {
        let (origin, gateway) = configured(&toml).await;
        let refused = gateway.send(&post("/orders").header("Origin", APP)).await;
        assert_problem(&refused, 400, "key-missing");
        assert_eq!(readable(APP, &refused).unwrap(), ["link"]);
        assert_eq!(
            (refused.header("access-control-allow-credentials"), refused.header("vary")),
            (credentials, Some("Origin"))
        );
        // One who has to wait reads for how long.
        let gate = Gate::new();
        origin.next(Act::execute().held(&gate));
        let running = post("/orders").key("k").header("Origin", APP);
        let mut first = Conn::open(gateway.addr).await;
        first.send(&running).await;
        origin.arrived(1).await;
        let second = gateway.send(&running).await;
        assert_problem(&second, 409, "in-flight");
        assert_eq!(readable(APP, &second).unwrap(), ["link", "retry-after"]);
        gate.open();
        assert_eq!(first.response().await.status, 201);
        // A page that is not listed, and one that is listed only in part, reads nothing.
        for stranger in [OTHER, "https://app.example.com.evil.example", "https://app.example.co", "null"] {
            let answer = gateway.send(&post("/orders").header("Origin", stranger)).await;
            assert_problem(&answer, 400, "key-missing");
            assert_eq!((readable(stranger, &answer), answer.header("vary")), (None, Some("Origin")), "{answer:?}");
        }
        // The origin's own answers are the origin's to open.
        origin.next(Act::refuse(Reply::json(200, "[]")));
        let answer = gateway.send(&get("/orders").header("Origin", APP)).await;
        assert_eq!((answer.status, readable(APP, &answer)), (200, None), "{answer:?}");
    }
    let (_origin, gateway) = configured("[[route]]\npath = \"/*\"\nkey_presence = \"required\"\n").await;
    let refused = gateway.send(&post("/orders").header("Origin", APP)).await;
    assert_eq!((refused.status, readable(APP, &refused)), (400, None), "nobody is listed by default: {refused:?}");
}

#[tokio::test]
async fn sc16_a_kept_reply_does_not_keep_the_page_that_asked_first() {
    let (origin, gateway) = configured(&format!("[cors]\norigins = [\"{OTHER}\"]\n")).await;
    let asks = |page: &str| post("/orders").key("k").header("Origin", page);
    origin.next(Act::reply(for_app()));
    gateway.send(&asks(APP)).await;
    // The origin's word on the first page counts; on the other one the operator's does, cookies included.
    assert!(readable(APP, &gateway.send(&asks(APP)).await).is_some());
    let other = gateway.send(&asks(OTHER)).await;
    assert_eq!(readable(OTHER, &other).unwrap(), ["idempotent-replayed", "location", "x-total"]);
    assert_eq!(other.header("access-control-allow-credentials"), None);
    assert_eq!(other.all("vary"), ["Accept, origin"]);
    let stranger = gateway.send(&asks("https://evil.example")).await;
    assert_eq!(stranger.header("idempotent-replayed"), Some("true"));
    assert_eq!(
        (stranger.header("access-control-allow-origin"), stranger.header("access-control-allow-credentials")),
        (None, None)
    );
    // What every page may read stays so, and what was first told to no page can be read by one that is listed.
    origin.next(Act::reply(Reply::json(201, "{}").header("Access-Control-Allow-Origin", "*")));
    let public = |page: &str| post("/public").key("k").header("Origin", page);
    for page in [APP, OTHER, "https://evil.example"] {
        assert!(readable(page, &gateway.send(&public(page)).await).is_some(), "{page}");
    }
    gateway.send(&post("/orders").key("no page")).await;
    let retry = |page: &str| post("/orders").key("no page").header("Origin", page);
    assert_eq!(readable(OTHER, &gateway.send(&retry(OTHER)).await).unwrap(), ["idempotent-replayed", "location"]);
    assert_eq!(readable(APP, &gateway.send(&retry(APP)).await), None);
    assert_eq!(origin.effects(), 3);
}

#[tokio::test]
async fn sc16_preflights_are_the_origins() {
    let (origin, gateway) = configured(&format!("[cors]\norigins = [\"{APP}\"]\n")).await;
    origin.next(Act::refuse(
        Reply::new(204)
            .header("Access-Control-Allow-Origin", APP)
            .header("Access-Control-Allow-Headers", "Content-Type, Idempotency-Key")
            .header("Access-Control-Max-Age", "600"),
    ));
    let asks = request("OPTIONS", "/orders")
        .header("Origin", APP)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "content-type,idempotency-key");
    let answer = gateway.send(&asks).await;
    assert_eq!(answer.header("access-control-allow-headers"), Some("Content-Type, Idempotency-Key"));
    assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
    let seen = origin.seen().pop().unwrap();
    assert_eq!((seen.header("origin"), seen.header("access-control-request-method")), (Some(APP), Some("POST")));
    // One that the origin refuses stays refused.
    origin.next(Act::refuse(Reply::new(403)));
    let answer = gateway.send(&asks).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None));
}

#[tokio::test]
async fn sc16_a_published_policy_is_for_the_pages_that_are_listed() {
    let toml = format!("[gateway]\npublish_policy = \"public\"\n[cors]\norigins = [\"{APP}\"]\n");
    let (_origin, gateway) = configured(&toml).await;
    let asks = |page: &str| get("/.well-known/idempotency").header("Origin", page);
    assert!(readable(APP, &gateway.send(&asks(APP)).await).is_some());
    assert!(readable(OTHER, &gateway.send(&asks(OTHER)).await).is_none());
}

#[tokio::test]
async fn sc16_a_page_is_named_as_a_browser_names_it() {
    let folder = tempfile::TempDir::with_prefix("semel-e2e-").unwrap();
    let file = folder.path().join("semel.toml");
    let rows = [
        ("https://app.example.com", ""),
        ("http://localhost:5173", ""),
        ("*", "each page is named"),
        ("null", "expected the origin of a page"),
        ("app.example.com", "expected the origin of a page"),
        ("https://app.example.com/", "a browser says"),
        ("https://app.example.com/shop", "a browser says"),
        ("https://App.example.com", "a browser says \"https://app.example.com\""),
        ("https://app.example.com:443", "a browser says \"https://app.example.com\""),
        ("https://user@app.example.com", "a browser says"),
    ];
    for (page, why) in rows {
        std::fs::write(&file, format!("[cors]\norigins = [\"{page}\"]\n")).unwrap();
        let said = semel(&["config", "check", &file.display().to_string()], &[]).await;
        assert_eq!(said.code, if why.is_empty() { 0 } else { 2 }, "{page}: {said:?}");
        assert!(said.stderr.contains(why), "{page}: {said:?}");
    }
}
