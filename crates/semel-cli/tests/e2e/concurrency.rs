//! Concurrent requests: C1 to C5, C8, C9, C11.

use std::time::Duration;

use crate::harness::{
    Act, Conn, Gate, Gateway, Origin, Response, assert_problem, assert_replay, assert_same_reply, gateway, post, send,
    until, within,
};

async fn configured(toml: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).config(toml).start().await;
    (origin, gateway)
}

#[tokio::test]
async fn c01_a_concurrent_request_is_refused_at_once() {
    let (origin, gateway) = configured("").await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut first = Conn::open(gateway.addr).await;
    first.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    // The first is not answered before the gate opens, so whatever is answered now did not wait for it.
    let second = gateway.send(&post("/orders").key("k")).await;
    assert_problem(&second, 409, "in-flight");
    gate.open();
    let first = first.response().await;
    assert_eq!((first.status, origin.effects()), (201, 1));
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
}

#[tokio::test]
async fn c02_two_hundred_at_once_are_one_effect() {
    for toml in ["", "[[route]]\nwait_max = \"20s\"\n"] {
        let (origin, gateway) = configured(toml).await;
        let all: Vec<_> = (0..200)
            .map(|_| {
                let addr = gateway.addr;
                tokio::spawn(async move { send(addr, &post("/orders").key("k")).await })
            })
            .collect();
        let mut originals = Vec::new();
        for one in all {
            let answer = one.await.expect("every client is answered");
            match answer.status {
                201 => originals.push(answer),
                _ => assert_problem(&answer, 409, "in-flight"),
            }
        }
        assert_eq!((origin.effects(), origin.seen().len()), (1, 1));
        let is_own = |answer: &&Response| answer.header("idempotent-replayed").is_none();
        assert_eq!(originals.iter().filter(is_own).count(), 1, "only one is told as its own");
        originals.iter().for_each(|answer| assert_same_reply(&originals[0], answer));
        if !toml.is_empty() {
            assert_eq!(originals.len(), 200, "who waits is told the reply");
        }
    }
}

#[tokio::test]
async fn c03_a_request_waits_as_long_as_the_route_lets_it() {
    let (origin, gateway) = configured("[[route]]\nwait_max = \"20s\"\n").await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut first = Conn::open(gateway.addr).await;
    first.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    let mut waiting = Conn::open(gateway.addr).await;
    waiting.send(&post("/orders").key("k")).await;
    let early = tokio::time::timeout(Duration::from_millis(300), waiting.head()).await;
    assert!(early.is_err(), "it waits: {early:?}");
    gate.open();
    let first = first.response().await;
    assert_replay(&first, &waiting.response().await);
    assert_eq!(origin.effects(), 1);

    let (origin, gateway) = configured("[[route]]\nwait_max = \"200ms\"\n").await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut first = Conn::open(gateway.addr).await;
    first.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "in-flight");
    gate.open();
    let first = first.response().await;
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
}

#[tokio::test]
async fn c04_another_content_is_refused_while_the_first_runs() {
    for toml in ["", "[[route]]\nwait_max = \"20s\"\n"] {
        let (origin, gateway) = configured(toml).await;
        let gate = Gate::new();
        origin.next(Act::execute().held(&gate));
        let mut first = Conn::open(gateway.addr).await;
        first.send(&post("/orders").key("k")).await;
        origin.arrived(1).await;
        assert_problem(&gateway.send(&post("/orders").key("k").body("{}")).await, 422, "key-reused");
        gate.open();
        assert_eq!((first.response().await.status, origin.seen().len()), (201, 1));
    }
}

#[tokio::test]
async fn c05_different_keys_do_not_wait_for_each_other() {
    let (origin, gateway) = configured("").await;
    let gate = Gate::new();
    let mut held = Vec::new();
    for n in 0..100 {
        origin.next(Act::execute().held(&gate));
        let mut conn = Conn::open(gateway.addr).await;
        conn.send(&post("/orders").key(&format!("held-{n}"))).await;
        held.push(conn);
    }
    origin.arrived(100).await;
    for n in 0..20 {
        assert_eq!(gateway.send(&post("/orders").key(&format!("free-{n}"))).await.status, 201);
    }
    gate.open();
    for mut conn in held {
        assert_eq!(conn.response().await.status, 201);
    }
    assert_eq!(origin.effects(), 120);
}

#[tokio::test]
async fn c08_a_client_that_leaves_changes_nothing() {
    let (origin, gateway) = configured("").await;
    for key in ["closed", "reset"] {
        let gate = Gate::new();
        let before = origin.seen().len();
        origin.next(Act::execute().held(&gate));
        let mut conn = Conn::open(gateway.addr).await;
        conn.send(&post("/orders").key(key)).await;
        origin.arrived(before + 1).await;
        if key == "closed" {
            drop(conn);
        } else {
            conn.reset();
        }
        assert_problem(&gateway.send(&post("/orders").key(key)).await, 409, "in-flight");
        gate.open();
        until("the reply is kept", async || gateway.send(&post("/orders").key(key)).await.status == 201).await;
        let retry = gateway.send(&post("/orders").key(key)).await;
        assert_eq!(retry.header("idempotent-replayed"), Some("true"));
        assert_eq!(origin.seen().len(), before + 1, "{key}");
    }
}

#[tokio::test]
async fn c09_a_refusal_is_never_what_is_kept() {
    let (origin, gateway) = configured("").await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut first = Conn::open(gateway.addr).await;
    first.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    for _ in 0..3 {
        assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "in-flight");
        assert_problem(&gateway.send(&post("/orders").key("k").body("{}")).await, 422, "key-reused");
    }
    gate.open();
    let first = first.response().await;
    for _ in 0..3 {
        assert_problem(&gateway.send(&post("/orders").key("k").body("{}")).await, 422, "key-reused");
        assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
    }
}

#[tokio::test]
async fn c11_a_thousand_half_contents_claim_nothing_and_block_nobody() {
    crate::harness::raise_open_files_max();
    let (origin, gateway) = configured("").await;
    let mut slow = Vec::new();
    for n in 0..1_000 {
        let mut conn = Conn::open(gateway.addr).await;
        let key = n % 10;
        let head = format!("POST /orders HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k{key}\r\nContent-Length: 12\r\n");
        conn.write(head + "Content-Type: application/json\r\n\r\n{\"amo").await;
        slow.push(conn);
    }
    for key in 0..10 {
        let answer =
            within("an answer beside slow uploads", gateway.send(&post("/orders").key(&format!("k{key}")))).await;
        assert_eq!((answer.status, answer.header("idempotent-replayed")), (201, None), "key {key} was free");
    }
    // One of them completes after all: it is a retry by now.
    let mut late = slow.pop().unwrap();
    late.write("unt\":1}").await;
    assert_eq!(late.response().await.header("idempotent-replayed"), Some("true"));
    assert_eq!(origin.effects(), 10);
}

#[tokio::test]
async fn c11_a_content_that_stops_arriving_is_refused_in_time() {
    let (origin, gateway) = configured("[[route]]\nrequest_read_max = \"300ms\"\n").await;
    let mut conn = Conn::open(gateway.addr).await;
    conn.write("POST /orders HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Length: 12\r\n\r\n{\"amo").await;
    assert_problem(&conn.response().await, 408, "request-timeout");
    assert_eq!(origin.seen().len(), 0);
}
