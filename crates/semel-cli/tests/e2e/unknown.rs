//! The ways out of an unknown outcome that ask the origin: `probe`, and `forward-key` with an origin that deduplicates.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use crate::harness::{
    Act, Conn, Cut, Gate, Gateway, Origin, Reply, Request, Response, Seen, assert_problem, assert_replay, gateway, get,
    post, until,
};

/// Short enough for a test to see the end of `after`: one lease.
const PROBE: &str = r#"
[[route]]
path = "/orders"
execution_max = "300ms"
grace = "0s"
on_unknown = "probe"
[route.probe]
path = "/orders/by-key/{key}"
status = 201
after = "300ms"
"#;

/// The orders that an origin has, by the key of the request that made each.
#[derive(Clone, Default)]
struct Orders(Arc<Mutex<HashMap<String, String>>>);

impl Orders {
    /// What the origin answers to a question for an order.
    fn found(&self, target: &str) -> Option<String> {
        self.0.lock().unwrap().get(&target.strip_prefix("/orders/by-key/")?.replace("%2F", "/")).cloned()
    }

    /// Makes the order, and says what it is.
    fn make(&self, seen: &Seen) -> String {
        let mut orders = self.0.lock().unwrap();
        let content = format!(r#"{{"order":{}}}"#, orders.len() + 1);
        orders.insert(seen.header("idempotency-key").unwrap_or_default().to_owned(), content.clone());
        content
    }

    /// Does with a `POST` as it is told, and answers questions truly.
    fn with(&self, posted: impl Fn(&Orders, &Seen) -> Act + Send + 'static) -> impl Fn(&Seen) -> Act + Send + 'static {
        let orders = self.clone();
        move |seen| match seen.method.as_str() {
            "GET" => Act::refuse(match orders.found(&seen.target) {
                Some(content) => Reply::json(200, &content),
                None => Reply::json(404, "{}"),
            }),
            _ => posted(&orders, seen),
        }
    }
}

/// Makes the order and loses the reply.
fn commits_and_resets(orders: &Orders, seen: &Seen) -> Act {
    orders.make(seen);
    Act::cut(Cut::AfterExecuting)
}

/// Makes the order and answers.
fn commits(orders: &Orders, seen: &Seen) -> Act {
    Act::reply(Reply::json(201, &orders.make(seen)))
}

async fn probed(posted: impl Fn(&Orders, &Seen) -> Act + Send + 'static) -> (Orders, Origin, Gateway) {
    let (orders, origin) = (Orders::default(), Origin::start().await);
    origin.always(orders.with(posted));
    let gateway = gateway(&origin).config(PROBE).start().await;
    (orders, origin, gateway)
}

fn order(key: &str) -> Request {
    post("/orders").key(key).header("Authorization", "Bearer me").header("X-Other", "1")
}

/// Unlike where nobody asks the origin, another try may fare better.
fn assert_unknown(answer: &Response, status: u16) {
    assert_eq!((answer.status, answer.code().as_str()), (status, "outcome-unknown"), "{answer:?}");
    assert_eq!(answer.json()["retryable"], true);
    assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
}

/// The requests that asked.
fn questions(origin: &Origin) -> Vec<Seen> {
    origin.seen().into_iter().filter(|seen| seen.method == "GET").collect()
}

fn executions(origin: &Origin) -> usize {
    origin.seen().len() - questions(origin).len()
}

#[tokio::test]
async fn k04_h25_what_the_origin_finds_is_replayed_for_ever_after() {
    let (_, origin, gateway) = probed(commits_and_resets).await;
    assert_unknown(&gateway.send(&order("a/b")).await, 502);
    let retry = gateway.send(&order("a/b")).await;
    assert_eq!((retry.status, retry.text()), (201, r#"{"order":1}"#), "{retry:?}");
    assert_eq!(retry.header("idempotent-replayed"), Some("true"));
    let again = gateway.send(&order("a/b")).await;
    assert_eq!((again.status, again.text()), (201, r#"{"order":1}"#));
    assert_eq!((origin.effects(), executions(&origin), questions(&origin).len()), (1, 1, 1));
}

#[tokio::test]
async fn k17_the_probe_is_by_the_same_caller_and_has_nothing_of_the_write() {
    let (_, origin, gateway) = probed(commits_and_resets).await;
    let mut request = order("k").header("Cookie", "session=me").header("Connection", "X-Hop").header("X-Hop", "1");
    for (name, value) in OF_THE_WRITE {
        request = request.header(name, value);
    }
    gateway.send(&request).await;
    gateway.send(&request).await;
    let [question] = &questions(&origin)[..] else { panic!("one question") };
    assert_eq!((question.target.as_str(), question.body.as_slice()), ("/orders/by-key/k", &b""[..]));
    assert_eq!(question.header("authorization"), Some("Bearer me"));
    assert_eq!(question.header("user-agent"), Some("semel-probe"));
    assert_eq!(question.header("host"), Some("api.example"));
    // What the origin knows its callers by is its own affair, whatever the policy's `principal` names.
    assert_eq!((question.header("cookie"), question.header("x-other")), (Some("session=me"), Some("1")));
    let gone = OF_THE_WRITE.iter().map(|(name, _)| *name);
    for absent in gone.chain(["x-hop", "idempotency-key", "content-type", "content-length"]) {
        assert_eq!(question.header(absent), None, "{absent}");
    }
}

/// Headers that would be wrong on a question, or make a write of it.
const OF_THE_WRITE: &[(&str, &str)] = &[
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-HTTP-Method", "DELETE"),
    ("X-Method-Override", "DELETE"),
    ("If-Match", "\"1\""),
    ("If-None-Match", "*"),
    ("Range", "bytes=0-1"),
    ("Prefer", "respond-async"),
    ("Content-Language", "en"),
    ("Repr-Digest", "sha-256=:AA==:"),
    ("Guard-Override", "a reason"),
    ("Repeatability-Request-ID", "1"),
];

/// An origin that knows its callers by a cookie and shows a stranger nothing: asked without it, it would deny what it did.
#[tokio::test]
async fn k03_an_origin_that_hides_from_strangers_is_asked_as_the_caller() {
    let (orders, origin, gateway) = probed(commits_and_resets).await;
    let truth = orders.with(commits_and_resets);
    origin.always(move |seen| match seen.header("cookie") {
        None => Act::refuse(Reply::json(404, "{}")),
        Some(_) => truth(seen),
    });
    let request = order("k").header("Cookie", "session=me");
    assert_unknown(&gateway.send(&request).await, 502);
    let retry = gateway.send(&request).await;
    assert_eq!((retry.status, retry.text()), (201, r#"{"order":1}"#), "{retry:?}");
    assert_eq!((origin.effects(), executions(&origin)), (1, 1));
}

#[tokio::test]
async fn k03_what_the_origin_has_not_is_executed_once_it_can_no_longer_arrive() {
    let (orders, origin, gateway) = probed(|_, _| Act::cut(Cut::AfterReading)).await;
    assert_unknown(&gateway.send(&order("k")).await, 502);
    origin.always(orders.with(commits));
    // Asked at once, the origin says the truth of that moment, and it is not believed.
    let early = gateway.send(&order("k")).await;
    assert_unknown(&early, 409);
    let mut told = early;
    until("absence is believed", async || {
        told = gateway.send(&order("k")).await;
        told.status != 409
    })
    .await;
    assert_eq!((told.status, told.header("idempotent-replayed"), told.text()), (201, None, r#"{"order":1}"#));
    assert_replay(&told, &gateway.send(&order("k")).await);
    assert_eq!((origin.effects(), executions(&origin)), (1, 2));
}

#[tokio::test]
async fn k03_a_request_that_is_late_has_its_effect_once() {
    // The origin takes its time over what the gateway has given up on.
    let (orders, origin, gateway) = probed(|_, _| Act::cut(Cut::AfterReading)).await;
    let (gate, late) = (Gate::new(), orders.clone());
    origin.next(Act::refuse(Reply::json(500, "{}")).held(&gate));
    assert_unknown(&gateway.send(&order("k")).await, 504);
    assert_unknown(&gateway.send(&order("k")).await, 409);
    // Now it has happened, and whoever asks next is told.
    late.0.lock().unwrap().insert("k".to_owned(), r#"{"order":"late"}"#.to_owned());
    gate.open();
    let told = gateway.send(&order("k")).await;
    assert_eq!((told.status, told.text()), (201, r#"{"order":"late"}"#), "{told:?}");
    assert_eq!(executions(&origin), 1);
}

#[tokio::test]
async fn k17_an_origin_that_does_not_say_leaves_it_unknown() {
    type Says = fn() -> Act;
    let says: [(&str, Says); 4] = [
        ("an error", || Act::refuse(Reply::json(500, "{}"))),
        ("another status", || Act::refuse(Reply::json(403, "{}"))),
        ("a lost connection", || Act::cut(Cut::AfterReading)),
        ("a broken content", || {
            Act::refuse(Reply::new(200).header("Content-Length", "9").raw([crate::harness::Part::from("{")]))
        }),
    ];
    for (what, says) in says {
        let origin = Origin::start().await;
        origin.always(move |seen| if seen.method == "GET" { says() } else { Act::cut(Cut::AfterExecuting) });
        let gateway = gateway(&origin).config(PROBE).start().await;
        gateway.send(&order("k")).await;
        let asked = || questions(&origin).len();
        // Past `after` as well, so that nothing but an answer counts.
        until("several were refused", async || {
            let refused = gateway.send(&order("k")).await;
            assert_unknown(&refused, 409);
            asked() >= 40
        })
        .await;
        assert_eq!(executions(&origin), 1, "{what}");
    }
}

#[tokio::test]
async fn k03_retries_that_ask_at_once_are_told_one_truth() {
    for has_happened in [true, false] {
        let (orders, origin, gateway) = probed(|_, _| Act::cut(Cut::AfterReading)).await;
        gateway.send(&order("k")).await;
        if has_happened {
            orders.0.lock().unwrap().insert("k".to_owned(), r#"{"order":1}"#.to_owned());
        }
        origin.always(orders.with(commits));
        let mut executed = 0;
        until("everybody has the reply", async || {
            let mut twins = Vec::new();
            for _ in 0..8 {
                let mut conn = Conn::open(gateway.addr).await;
                conn.send(&order("k")).await;
                twins.push(conn);
            }
            let mut replies = 0;
            for twin in &mut twins {
                let answer = twin.response().await;
                match answer.status {
                    201 => {
                        assert_eq!(answer.text(), r#"{"order":1}"#);
                        executed += usize::from(answer.header("idempotent-replayed").is_none());
                        replies += 1;
                    }
                    _ => assert_eq!(answer.status, 409, "{answer:?}"),
                }
            }
            replies == twins.len()
        })
        .await;
        assert_eq!(executed, usize::from(!has_happened));
        assert_eq!(orders.0.lock().unwrap().len(), 1);
        assert_eq!(executions(&origin), 1 + executed);
    }
}

#[tokio::test]
async fn k03_killed_while_it_asks_it_asks_again() {
    let (orders, origin, gateway) = probed(commits_and_resets).await;
    gateway.send(&order("k")).await;
    let gate = Gate::new();
    origin.next(Act::refuse(Reply::json(200, r#"{"order":1}"#)).held(&gate));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&order("k")).await;
    origin.arrived(2).await;
    let gateway = gateway.restart().await;
    gate.open();
    let retry = gateway.send(&order("k")).await;
    assert_eq!((retry.status, retry.text()), (201, r#"{"order":1}"#), "{retry:?}");
    assert_eq!((executions(&origin), questions(&origin).len(), orders.0.lock().unwrap().len()), (1, 2, 1));
}

#[tokio::test]
async fn k03_killed_while_the_origin_works_the_next_retry_asks() {
    let (_, origin, gateway) =
        probed(|orders, seen| Act::reply(Reply::json(201, &orders.make(seen))).held(&Gate::new())).await;
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&order("k")).await;
    origin.arrived(1).await;
    let gateway = gateway.restart().await;
    let retry = gateway.send(&order("k")).await;
    assert_eq!((retry.status, retry.header("idempotent-replayed")), (201, Some("true")), "{retry:?}");
    assert_problem(&gateway.send(&order("k").body("{}")).await, 422, "key-reused");
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn k04_an_address_that_answers_with_a_list_is_read_by_a_member() {
    let toml =
        PROBE.replace("/orders/by-key/{key}\"", "/orders?reference={key}\"\nmember = \"/items/0\"\nkeep = \"member\"");
    let origin = Origin::start().await;
    let items = Arc::new(Mutex::new(String::from("[]")));
    let listed = Arc::clone(&items);
    origin.always(move |seen| match seen.method.as_str() {
        "GET" => Act::refuse(Reply::json(200, &format!(r#"{{"items":{}}}"#, listed.lock().unwrap()))),
        _ => Act::cut(Cut::AfterReading),
    });
    let gateway = gateway(&origin).config(&toml).start().await;
    gateway.send(&order("a&b=c")).await;
    assert_unknown(&gateway.send(&order("a&b=c")).await, 409);
    *items.lock().unwrap() = r#"[ {"id":7, "amount":1.10} ]"#.to_owned();
    let told = gateway.send(&order("a&b=c")).await;
    assert_eq!((told.status, told.text()), (201, r#"{"id":7, "amount":1.10}"#));
    assert_eq!(questions(&origin)[0].target, "/orders?reference=a%26b%3Dc");
}

#[tokio::test]
async fn k03_an_origin_that_deduplicates_is_sent_one_spelling_of_the_key() {
    for (sent, expected) in [
        ("", "0190a1b2-0000-4000-8000-00000000000a"),
        ("key_sent = \"quoted\"\n", "\"0190a1b2-0000-4000-8000-00000000000a\""),
    ] {
        let (orders, origin) = (Orders::default(), Origin::start().await);
        let known = orders.clone();
        origin.always(move |seen| {
            let key = seen.header("idempotency-key").unwrap_or_default().to_owned();
            let before = known.0.lock().unwrap().get(&key).cloned();
            match before {
                Some(content) => Act::refuse(Reply::json(201, &content)),
                None => commits_and_resets(&known, seen),
            }
        });
        let toml = format!("[[route]]\nkey_grammar = \"uuid\"\non_unknown = \"forward-key\"\n{sent}");
        let gateway = gateway(&origin).config(&toml).start().await;
        let spelled = |key: &str| post("/orders").header("Idempotency-Key", key);
        let first = gateway.send(&spelled("0190A1B2-0000-4000-8000-00000000000A")).await;
        assert_problem(&first, 502, "outcome-unknown");
        let retry = gateway.send(&spelled("\"0190a1b2-0000-4000-8000-00000000000a\"")).await;
        assert_eq!((retry.status, retry.text()), (201, r#"{"order":1}"#), "{retry:?}");
        assert_replay(&retry, &gateway.send(&spelled("0190a1b2-0000-4000-8000-00000000000a")).await);
        let keys: Vec<String> =
            origin.seen().iter().map(|seen| seen.header("idempotency-key").unwrap().to_owned()).collect();
        assert_eq!(keys, [expected, expected]);
        assert_eq!(origin.effects(), 1);
    }
}

#[tokio::test]
async fn k03_a_key_that_no_path_can_hold_is_never_asked_about() {
    let (_, origin, gateway) = probed(commits_and_resets).await;
    gateway.send(&order("..")).await;
    assert_unknown(&gateway.send(&order("..")).await, 409);
    assert_eq!(questions(&origin).len(), 0);
    assert_eq!(gateway.send(&get("/orders/by-key/k")).await.status, 404, "others ask as ever");
}
