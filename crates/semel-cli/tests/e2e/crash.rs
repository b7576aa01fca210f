//! Crashes of the gateway and failures of its disk and its origin: K1 to K6, K11 to K13, K17, K18.
//!
//! K10 (a barrier that fails) is covered at every single write by the embedded store's own simulated disk; here the
//! same refusal is reached through writes that fail.

use tokio::net::{TcpListener, TcpSocket};

use crate::harness::{
    Act, Conn, Cut, Gate, Gateway, Origin, PATIENCE, Part, Reply, assert_problem, assert_replay, gateway, get, post,
    send, until,
};

/// What a retry after a crash may get.
const WAYS: [&str; 3] = ["refuse", "reexecute", "forward-key"];

fn on_unknown(way: &str) -> String {
    format!("[[route]]\non_unknown = \"{way}\"\n")
}

async fn plain() -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).start().await;
    (origin, gateway)
}

#[tokio::test]
async fn k01_killed_before_the_claim_the_retry_executes() {
    let (origin, gateway) = plain().await;
    let mut conn = Conn::open(gateway.addr).await;
    conn.write("POST /orders HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Length: 12\r\n\r\n{\"amo").await;
    let gateway = gateway.restart().await;
    assert_eq!(conn.rest().await, b"", "nobody answers for the dead");
    let answer = gateway.send(&post("/orders").key("k")).await;
    assert_eq!((answer.status, answer.header("idempotent-replayed"), origin.effects()), (201, None, 1));
}

/// An address where connecting neither succeeds nor fails.
async fn stuck_listener() -> (TcpListener, Vec<tokio::net::TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut held = Vec::new();
    // The queue takes a few; then the kernel drops what comes.
    loop {
        let connecting = tokio::net::TcpStream::connect(addr);
        match tokio::time::timeout(std::time::Duration::from_millis(300), connecting).await {
            Ok(stream) => held.push(stream.unwrap()),
            Err(_) => return (listener, held),
        }
    }
}

#[tokio::test]
async fn k02_killed_between_claim_and_send_nobody_can_know() {
    for way in WAYS {
        let origin = Origin::start().await;
        let (stuck, _held) = stuck_listener().await;
        let setup = gateway(&origin).config(&on_unknown(way)).origin_at(stuck.local_addr().unwrap());
        let gateway = setup.start().await;
        // Two of one request: whichever claims it hangs, so the answer of the other proves that it is claimed.
        let mut twins = [Conn::open(gateway.addr).await, Conn::open(gateway.addr).await];
        for twin in &mut twins {
            twin.send(&post("/orders").key("k")).await;
        }
        let [one, other] = &mut twins;
        let answer = tokio::select! {
            answer = one.response() => answer,
            answer = other.response() => answer,
        };
        assert_problem(&answer, 409, "in-flight");
        let gateway = gateway.restart_with(|setup| setup.origin(&origin)).await;
        let retry = gateway.send(&post("/orders").key("k")).await;
        if way == "refuse" {
            assert_problem(&retry, 409, "outcome-unknown");
            assert_eq!(origin.seen().len(), 0);
        } else {
            assert_eq!((retry.status, origin.effects()), (201, 1), "{way}");
        }
    }
}

#[tokio::test]
async fn k03_killed_while_the_origin_works_the_outcome_is_unknown_at_once() {
    for way in WAYS {
        let origin = Origin::start().await;
        let gateway = gateway(&origin).config(&on_unknown(way)).start().await;
        let gate = Gate::new();
        origin.next(Act::execute().held(&gate));
        let mut conn = Conn::open(gateway.addr).await;
        conn.send(&post("/orders").key("k")).await;
        origin.arrived(1).await;
        let gateway = gateway.restart().await;
        gate.open();
        // No lease is waited for: the dead gateway held the folder, and does not any more.
        let retry = gateway.send(&post("/orders").key("k")).await;
        assert_problem(&gateway.send(&post("/orders").key("k").body("{}")).await, 422, "key-reused");
        if way == "refuse" {
            assert_problem(&retry, 409, "outcome-unknown");
            let gateway = gateway.restart().await;
            assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "outcome-unknown");
            assert_eq!(origin.effects(), 1);
        } else {
            assert_eq!((retry.status, retry.header("idempotent-replayed")), (201, None), "{way}");
            assert_replay(&retry, &gateway.send(&post("/orders").key("k")).await);
            let keys: Vec<String> = origin.seen().iter().map(|seen| seen.key().to_owned()).collect();
            assert_eq!(keys, ["k", "k"], "the origin can tell by the key");
        }
    }
}

#[tokio::test]
async fn k04_killed_amid_the_origins_answer_the_outcome_is_unknown() {
    let (origin, gateway) = plain().await;
    let gate = Gate::new();
    let halves = [Part::from("{\"id\""), Part::Wait(gate.clone()), Part::from(":1}")];
    origin.next(Act::reply(Reply::new(201).header("Content-Type", "application/json").chunked(halves)));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    let gateway = gateway.restart().await;
    gate.open();
    assert_eq!(conn.rest().await, b"", "half an answer is told to nobody before it is kept");
    assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "outcome-unknown");
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn k05_killed_when_the_reply_is_kept_the_retry_is_told_it() {
    let (origin, gateway) = plain().await;
    origin.next(Act::execute());
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("k")).await;
    until("the reply is kept", async || gateway.send(&post("/orders").key("k")).await.status == 201).await;
    let kept = gateway.send(&post("/orders").key("k")).await;
    // The first client has read nothing.
    let gateway = gateway.restart().await;
    let retry = gateway.send(&post("/orders").key("k")).await;
    assert_eq!((retry.header("idempotent-replayed"), &retry.body), (Some("true"), &kept.body));
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn k06_killed_amid_the_answer_to_the_client_the_retry_is_told_all_of_it() {
    let (origin, gateway) = plain().await;
    let content: Vec<u8> = (0..1 << 20).map(|n: u32| u8::try_from(n % 251).unwrap()).collect();
    origin.next(Act::reply(Reply::new(201).header("X-Own", "1").body(&content)));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("k")).await;
    conn.take(1000).await.expect("the answer begins");
    let gateway = gateway.restart().await;
    let retry = gateway.send(&post("/orders").key("k")).await;
    assert_eq!((retry.status, retry.header("x-own"), retry.body == content), (201, Some("1"), true));
    assert_eq!((retry.header("idempotent-replayed"), origin.seen().len()), (Some("true"), 1));
}

#[tokio::test]
async fn k11_a_full_disk_at_the_claim_refuses_and_the_origin_is_untouched() {
    let (origin, gateway) = plain().await;
    let first = gateway.send(&post("/orders").key("before")).await;
    gateway.file_size_max("0");
    for _ in 0..3 {
        assert_problem(&gateway.send(&post("/orders").key("k")).await, 503, "store-unavailable");
    }
    assert_eq!(origin.seen().len(), 1);
    // What needs no protection still passes, and the process says what is wrong with it.
    assert_eq!(gateway.send(&get("/orders")).await.status, 200);
    assert_eq!(send(gateway.admin, &get("/healthz")).await.status, 200);
    assert_eq!(send(gateway.admin, &get("/readyz")).await.status, 503);
    let gateway = gateway.restart().await;
    assert_eq!(send(gateway.admin, &get("/readyz")).await.status, 200);
    assert_replay(&first, &gateway.send(&post("/orders").key("before")).await);
    assert_eq!(gateway.send(&post("/orders").key("k")).await.status, 201);
    assert_eq!(origin.effects(), 2);
}

#[tokio::test]
async fn k11_a_full_disk_at_the_settle_tells_the_truth_and_never_executes_again() {
    let (origin, gateway) = plain().await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    gateway.file_size_max("0");
    gate.open();
    let answer = conn.response().await;
    assert_eq!((answer.status, answer.header("idempotency-status")), (201, Some("unkept")), "{answer:?}");
    let retry = gateway.send(&post("/orders").key("k")).await;
    assert!(
        matches!((retry.status, retry.code().as_str()), (503, "store-unavailable") | (409, "in-flight")),
        "{retry:?}"
    );
    let gateway = gateway.restart().await;
    assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "outcome-unknown");
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn k12_a_store_that_fails_fails_closed_until_it_is_opened_again() {
    let (origin, gateway) = plain().await;
    gateway.file_size_max("0");
    assert_problem(&gateway.send(&post("/orders").key("k")).await, 503, "store-unavailable");
    gateway.file_size_max("unlimited");
    // Whether the store recovers by itself is its own affair; what it must not do is to run something twice.
    let answer = gateway.send(&post("/orders").key("k")).await;
    match answer.status {
        503 => assert_problem(&answer, 503, "store-unavailable"),
        status => assert_eq!(status, 201),
    }
    let gateway = gateway.restart().await;
    assert_eq!(gateway.send(&post("/orders").key("k")).await.status, 201);
    assert_eq!(gateway.send(&post("/orders").key("k")).await.header("idempotent-replayed"), Some("true"));
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn k13_a_store_that_fails_while_the_origin_works_loses_the_reply_and_not_the_claim() {
    for (status, marked) in [(201, "unkept"), (400, "unkept"), (500, "unkept")] {
        let (origin, gateway) = plain().await;
        let gate = Gate::new();
        origin.next(Act::reply(Reply::json(status, "{}")).held(&gate));
        let mut conn = Conn::open(gateway.addr).await;
        conn.send(&post("/orders").key("k")).await;
        origin.arrived(1).await;
        gateway.file_size_max("0");
        gate.open();
        let answer = conn.response().await;
        assert_eq!((answer.status, answer.header("idempotency-status")), (status, Some(marked)), "{answer:?}");
        let gateway = gateway.restart().await;
        assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "outcome-unknown");
        assert_eq!(origin.seen().len(), 1);
    }
}

#[tokio::test]
async fn k17_a_connection_lost_after_the_request_left_is_unknown() {
    let (origin, gateway) = plain().await;
    let half = Reply::new(201).header("Content-Length", "10").raw([Part::from("{\"id\""), Part::Reset]);
    let chunk = Reply::new(201).chunked([Part::from("{\"id\""), Part::Reset]);
    let rows = [
        ("reset after executing", Act::cut(Cut::AfterExecuting), 1),
        ("reset after reading", Act::cut(Cut::AfterReading), 0),
        ("reset before reading", Act::cut(Cut::BeforeReading), 0),
        ("reset amid a counted answer", Act::reply(half), 1),
        ("reset amid a chunked answer", Act::reply(chunk), 1),
    ];
    for (what, act, effects) in rows {
        let before = origin.effects();
        origin.next(act);
        let request = post("/orders").key(&what.replace(' ', "-"));
        let first = gateway.send(&request).await;
        assert_problem(&first, 502, "outcome-unknown");
        for _ in 0..2 {
            assert_problem(&gateway.send(&request).await, 409, "outcome-unknown");
        }
        assert_eq!(origin.effects() - before, effects, "{what}");
    }
}

#[tokio::test]
async fn k17_a_time_out_is_unknown() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).config("[[route]]\nexecution_max = \"300ms\"\n").start().await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let first = gateway.send(&post("/orders").key("k")).await;
    assert_problem(&first, 504, "outcome-unknown");
    assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "outcome-unknown");
    gate.open();
    assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "outcome-unknown");
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn k18_a_refused_connection_frees_the_key() {
    // An address that no other test takes a port of.
    let nobody = TcpListener::bind("127.0.0.77:0").await.unwrap();
    let addr = nobody.local_addr().unwrap();
    drop(nobody);
    let elsewhere = Origin::start().await;
    let gateway = gateway(&elsewhere).origin_at(addr).start().await;
    for _ in 0..2 {
        let answer = gateway.send(&post("/orders").key("k")).await;
        assert_problem(&answer, 502, "origin-unavailable");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    let origin = Origin::start_at(addr).await;
    let answer = gateway.send(&post("/orders").key("k")).await;
    assert_eq!((answer.status, answer.header("idempotent-replayed"), origin.effects()), (201, None, 1));
}

#[tokio::test]
async fn a_pooled_connection_that_the_origin_closes_is_not_the_clients_trouble() {
    let (origin, gateway) = plain().await;
    kept_connections_that_end_do_no_harm(&origin, &gateway).await;
}

/// The origin closes after each answer without saying so; a pooled connection must not cost an unknown outcome more often
/// than the race between its end and the next request makes unavoidable.
pub(crate) async fn kept_connections_that_end_do_no_harm(origin: &Origin, gateway: &Gateway) {
    for n in 0..20 {
        origin.next(Act::reply(Reply::json(201, "{}").header("Content-Length", "2").raw([Part::from("{}")])));
        let request = post("/orders").key(&n.to_string());
        let answer = gateway.send(&request).await;
        assert!(answer.status == 201 || answer.code() == "outcome-unknown", "{answer:?}");
        let effects = origin.effects();
        gateway.send(&request).await;
        assert_eq!(origin.effects(), effects, "nothing was sent again");
    }
}

#[tokio::test]
async fn shutting_down_finishes_what_runs() {
    let (origin, mut gateway) = plain().await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    gateway.signal("TERM");
    until("nothing new is accepted", async || Conn::try_open(gateway.addr).await.is_err()).await;
    gate.open();
    let first = conn.response().await;
    assert_eq!(first.status, 201);
    let status = gateway.ended().await;
    assert!(status.success(), "{status}");
    let gateway = gateway.setup.clone().start().await;
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn shutting_down_finishes_what_runs_for_a_client_that_left() {
    let (origin, mut gateway) = plain().await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    conn.reset();
    gateway.signal("TERM");
    until("nothing new is accepted", async || Conn::try_open(gateway.addr).await.is_err()).await;
    gate.open();
    assert!(gateway.ended().await.success());
    let gateway = gateway.setup.clone().start().await;
    let retry = gateway.send(&post("/orders").key("k")).await;
    assert_eq!((retry.status, retry.header("idempotent-replayed")), (201, Some("true")));
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn a_process_that_was_stopped_past_its_lease_tells_no_lie() {
    let origin = Origin::start().await;
    let setup = gateway(&origin).config("[[route]]\nexecution_max = \"500ms\"\ngrace = \"100ms\"\n");
    let gateway = setup.start().await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    gateway.signal("STOP");
    gate.open();
    // Longer than the lease; the clock that counts is the kernel's, so this cannot be simulated.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    gateway.signal("CONT");
    let first = tokio::time::timeout(PATIENCE, conn.response()).await.expect("an answer after all");
    let retry = gateway.send(&post("/orders").key("k")).await;
    if first.status == 201 {
        assert_replay(&first, &retry);
    } else {
        assert_problem(&first, 504, "outcome-unknown");
        assert_problem(&retry, 409, "outcome-unknown");
    }
    assert_eq!(origin.seen().len(), 1);
}
