//! Time where gateways have clocks of their own: the store's counts. X8 to X10, and bug 44 of peers.

use std::time::{Duration, Instant};

use super::{Store, at_once, for_each, lease, records, sent};
use crate::harness::{Act, Gate, Gateway, Origin, assert_problem, assert_replay, post, until};

for_each!(postgres, redis =>
/// Ten minutes between two gateways that share leases of seconds, and one that is two days ahead.
async fn x08_peers_44_gateways_whose_clocks_disagree_agree(store: Store) {
    const LEASE: Duration = Duration::from_secs(4);
    const SLOW: Duration = Duration::from_secs(3);
    let origin = Origin::start().await;
    let at = async |offset: &str| store.gateway(&origin, &lease(4_000)).clock(offset).start().await;
    let (behind, mut ahead, far) = (at("-5m").await, at("+5m").await, at("+2d").await);
    let request = post("/orders").key("k");
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut running = sent(&behind, &origin, &request).await;
    for gateway in [&behind, &ahead, &far] {
        assert_problem(&gateway.send(&request).await, 409, "in-flight");
    }
    gate.open();
    let first = running.response().await;
    assert_eq!((first.status, first.header("idempotency-status")), (201, None), "{first:?}");
    for gateway in [&behind, &ahead, &far] {
        assert_replay(&first, &gateway.send(&request).await);
    }
    // Who claims in the future and dies is not waited for until that future.
    let request = post("/orders").key("left");
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let _running = sent(&ahead, &origin, &request).await;
    let claimed = Instant::now();
    ahead.kill9();
    let mut answer = behind.send(&request).await;
    assert_problem(&answer, 409, "in-flight");
    until("the lease is over", async || {
        let asking = Instant::now();
        answer = behind.send(&request).await;
        let is_over = answer.code() != "in-flight";
        assert!(is_over || asking < claimed + LEASE + SLOW, "the lease is over for everybody");
        is_over
    })
    .await;
    for gateway in [&behind, &far] {
        assert_problem(&gateway.send(&request).await, 409, "outcome-unknown");
    }
    assert_eq!(origin.effects(), 2);
});

for_each!(postgres, redis =>
/// A clock that jumps while a claim runs and while a reply is kept.
async fn x08_a_gateways_clock_that_is_set_neither_expires_nor_revives(store: Store) {
    let origin = Origin::start().await;
    let [one, other]: [Gateway; 2] =
        [store.gateway(&origin, "").clock("+0").start().await, store.gateway(&origin, "").start().await];
    let done = one.send(&post("/orders").key("done")).await;
    for (n, jump) in ["-1h", "+2d", "+0"].into_iter().enumerate() {
        let request = post("/orders").key(&format!("k{n}"));
        let gate = Gate::new();
        origin.next(Act::execute().held(&gate));
        let mut running = sent(&one, &origin, &request).await;
        std::fs::write(one.setup.clock_file(), jump).unwrap();
        for gateway in [&one, &other] {
            assert_problem(&gateway.send(&request).await, 409, "in-flight");
            assert_replay(&done, &gateway.send(&post("/orders").key("done")).await);
        }
        gate.open();
        let first = running.response().await;
        for gateway in [&other, &one] {
            assert_replay(&first, &gateway.send(&request).await);
        }
    }
    assert_eq!(origin.effects(), 4);
});

for_each!(postgres, redis =>
/// Retries at both gateways at once, across the ends of a record's lives.
async fn x09_retries_that_race_a_records_end_are_told_the_truth(store: Store) {
    // Epochs of PostgreSQL are as short as the gateways' housekeeping sees, so that records are moved meanwhile.
    let store = if store.as_postgres().is_some() { store.with("period = \"1s\"\n") } else { store };
    let toml = "[[route]]\nexecution_max = \"1500ms\"\ngrace = \"0s\"\nreplay_for = \"500ms\"\n\
                remember_for = \"1500ms\"\nunknown_for = \"1500ms\"\n";
    let origin = Origin::start().await;
    let gateways: [Gateway; 2] = store.gateways(&origin, toml).await;
    let request = post("/orders").key("k");
    let (mut last, mut lives, mut gone, mut replayed) = (None, 0, 0, 0);
    while lives < 3 {
        let before = origin.effects();
        let answers = at_once(&gateways, 4, &request).await;
        let effects = origin.effects() - before;
        let is_fresh = |answer: &&crate::harness::Response| {
            answer.status == 201 && answer.header("idempotent-replayed").is_none()
        };
        assert_eq!(answers.iter().filter(is_fresh).count(), effects, "an answer without an effect: {answers:?}");
        assert!(effects <= 1, "{effects} effects of one key at once: {answers:?}");
        let before = last.clone();
        if let Some(fresh) = answers.iter().find(is_fresh) {
            last = Some(fresh.clone());
            lives += 1;
        }
        for answer in answers.iter().filter(|answer| !is_fresh(answer)) {
            match answer.status {
                201 => {
                    let is_last = last.as_ref().is_some_and(|last| last.body == answer.body);
                    let told = if is_last { &last } else { &before };
                    assert_replay(told.as_ref().expect("something was done"), answer);
                    replayed += 1;
                }
                _ if answer.code() == "in-flight" => assert_eq!(effects, 1, "nobody executes: {answer:?}"),
                _ => {
                    assert_problem(answer, 409, "reply-gone");
                    gone += 1;
                }
            }
        }
    }
    assert!(replayed > 0 && gone > 0, "{replayed} replays, {gone} refusals");
});

for_each!(postgres, redis =>
/// The server has not given the space back, or somebody told it never to.
async fn x10_what_is_past_its_time_is_past_though_it_is_there(store: Store) {
    const REPLAY_FOR: Duration = Duration::from_millis(1_500);
    const REMEMBER_FOR: Duration = Duration::from_secs(3);
    let toml = "[[route]]\nexecution_max = \"1500ms\"\ngrace = \"0s\"\nreplay_for = \"1500ms\"\n\
                remember_for = \"3s\"\nunknown_for = \"3s\"\n";
    let origin = Origin::start().await;
    let [one, other] = store.gateways(&origin, toml).await;
    let request = post("/orders").key("k");
    let asked = Instant::now();
    let first = one.send(&request).await;
    let kept = Instant::now();
    assert_eq!(first.status, 201, "{first:?}");
    // Redis gives space back as soon as it is time, and so does a gateway's sweep: a copy comes back when both have done so.
    let copied = store.as_redis().map(|(server, prefix)| {
        let keys = server.cli(&["--scan", "--pattern", &format!("{prefix}*")]).expect("it lists");
        let record = keys.lines().find(|key| key.len() == prefix.len() + 64).expect("the record is there").to_owned();
        let copy = format!("copy of {record}");
        assert_eq!(server.cli(&["COPY", &record, &copy]).expect("it copies"), "1");
        assert_eq!(server.cli(&["PERSIST", &copy]).expect("it persists"), "1");
        (server, record, copy)
    });
    until("the reply is past its time", async || {
        let asking = Instant::now();
        let answer = other.send(&request).await;
        let is_over = answer.status != 201;
        if is_over {
            assert_problem(&answer, 409, "reply-gone");
            assert!(asked.elapsed() >= REPLAY_FOR, "too early");
        } else {
            assert_replay(&first, &answer);
            assert!(asking < kept + REPLAY_FOR, "too late");
        }
        is_over
    })
    .await;
    // Nobody asks meanwhile; and the clock that counts is the server's, so that it cannot be simulated.
    tokio::time::sleep_until((kept + REMEMBER_FOR).into()).await;
    match copied {
        Some((server, record, copy)) => {
            assert_eq!(server.cli(&["COPY", &copy, &record, "REPLACE"]).expect("it copies"), "1");
        }
        None => assert_eq!(records(&store), 1, "it is still there"),
    }
    let again = other.send(&request).await;
    assert_eq!((again.status, again.header("idempotent-replayed"), origin.effects()), (201, None, 2), "{again:?}");
    assert_replay(&again, &one.send(&request).await);
    assert_eq!(records(&store), 1);
});
