//! Waiting at one gateway for what another does (`wait_max`): the bugs 4, 21 and 28 of peers.

use std::time::{Duration, Instant};

use super::{Store, at_once, for_each, sent};
use crate::harness::{Act, Conn, Gate, Gateway, Origin, assert_problem, assert_replay, post, send, until};

const WAITING: &str = "[[route]]\nwait_max = \"20s\"\n";

for_each!(postgres, redis =>
/// Within 50 ms, measured beside a plain retry at the same gateway: polling that is four times as slow is seen.
async fn c03_a_settle_is_seen_by_who_waits_at_another_gateway(store: Store) {
    const ROUNDS: usize = 21;
    let origin = Origin::start().await;
    let [one, other] = store.gateways(&origin, WAITING).await;
    let (mut waits, mut plain) = (Vec::new(), Vec::new());
    for n in 0..ROUNDS {
        let request = post("/orders").key(&format!("k{n}"));
        let gate = Gate::new();
        origin.next(Act::execute().held(&gate));
        let mut running = sent(&one, &origin, &request).await;
        let mut waiting = Conn::open(other.addr).await;
        waiting.send(&request).await;
        // Not within a known part of a poll's period.
        let early = tokio::time::timeout(Duration::from_millis(20 + 7 * n as u64 % 60), waiting.head()).await;
        assert!(early.is_err(), "it waits: {early:?}");
        gate.open();
        let first = running.response().await;
        let settled = Instant::now();
        let told = waiting.response().await;
        waits.push(settled.elapsed());
        assert_replay(&first, &told);
        let asked = Instant::now();
        assert_replay(&first, &other.send(&request).await);
        plain.push(asked.elapsed());
    }
    waits.sort();
    plain.sort();
    let (wait, plain) = (waits[ROUNDS / 2], plain[ROUNDS / 2]);
    println!("from a settle to the answer elsewhere: {wait:?} (a plain retry: {plain:?})");
    assert!(wait < Duration::from_millis(50) + 2 * plain, "{wait:?} beside {plain:?}: {waits:?}");
    assert_eq!(origin.seen().len(), ROUNDS);
});

for_each!(postgres, redis =>
async fn peers_21_28_a_wait_that_is_over_takes_nothing_away(store: Store) {
    let origin = Origin::start().await;
    let one = store.gateway(&origin, "").start().await;
    let other = store.gateway(&origin, "[[route]]\nwait_max = \"300ms\"\n").start().await;
    let request = post("/orders").key("k");
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut running = sent(&one, &origin, &request).await;
    let began = Instant::now();
    assert_problem(&other.send(&request).await, 409, "in-flight");
    assert!(began.elapsed() >= Duration::from_millis(300), "it waited");
    // Another leaves before its time is up.
    let mut leaving = Conn::open(other.addr).await;
    leaving.send(&request).await;
    leaving.reset();
    assert_problem(&other.send(&request).await, 409, "in-flight");
    assert_problem(&one.send(&request).await, 409, "in-flight");
    gate.open();
    let first = running.response().await;
    assert_eq!((first.status, first.header("idempotency-status")), (201, None), "{first:?}");
    for gateway in [&one, &other] {
        assert_replay(&first, &gateway.send(&request).await);
    }
    assert_eq!(origin.seen().len(), 1);
});

for_each!(postgres, redis =>
/// Far more of them than the gateway has connections to the store.
async fn peers_04_a_crowd_that_waits_elsewhere_does_not_hold_up_the_settle(store: Store) {
    let origin = Origin::start().await;
    let store = store.with("connections = 1\n");
    let gateways: [Gateway; 2] = store.gateways(&origin, WAITING).await;
    let request = post("/orders").key("k");
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut running = sent(&gateways[0], &origin, &request).await;
    let crowd = tokio::spawn({
        let (addr, request) = (gateways[1].addr, request.clone());
        async move {
            let mut crowd = Vec::new();
            for _ in 0..200 {
                let request = request.clone();
                crowd.push(tokio::spawn(async move { send(addr, &request).await }));
            }
            let mut answers = Vec::new();
            for one in crowd {
                answers.push(one.await.expect("everybody is answered"));
            }
            answers
        }
    });
    // Others are served beside the crowd, at both gateways.
    for n in 0..20 {
        for gateway in &gateways {
            let answer = gateway.send(&post("/orders").key(&format!("{n}-{}", gateway.addr.port()))).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
    }
    until("the crowd waits", async || connections(&gateways[1]) >= 200).await;
    gate.open();
    let first = running.response().await;
    assert_eq!((first.status, first.header("idempotency-status")), (201, None), "the settle got through in time");
    for answer in crowd.await.expect("the crowd is answered") {
        assert_replay(&first, &answer);
    }
    assert_eq!(origin.effects(), 41);
    let again = at_once(&gateways, 20, &request).await;
    again.iter().for_each(|answer| assert_replay(&first, answer));
});

/// How many clients are connected to a gateway.
fn connections(gateway: &Gateway) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel lists connections");
    let local = format!(":{:04X}", gateway.addr.port());
    let is_of = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 3 && fields[1].ends_with(&local) && fields[3] == "01"
    };
    table.lines().filter(is_of).count()
}
