//! What a server may do to the store without losing anything: forget scripts, be full, hold damaged values, be slow.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use semel::{
    store::{
        RecordKey, SimulatedClock, Store as _, StoreError, Swap, Swapped,
        redis::{Options, RedisStore},
    },
    testkit::{
        START_MS,
        sample::{REPLAY_FOR, completed, in_flight, key, put, remove, stamp},
    },
};
use semel_servers::{PrivateRedis, RedisOptions};
use tokio::task::JoinSet;

use super::{in_redis, is_done, open, options, start, until};

#[tokio::test]
async fn scripts_that_a_server_forgot_are_brought_again() {
    let server = start(RedisOptions::default());
    let store = open(&options(&server)).await;
    is_done(&store, key(1), &put(None, stamp(1, 1), in_flight(1))).await;
    server.cli(&["SCRIPT", "FLUSH"]).unwrap();
    is_done(&store, key(1), &put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "done"))).await;
    server.cli(&["SCRIPT", "FLUSH"]).unwrap();
    assert_eq!(store.load(&key(1)).await.unwrap().map(|found| found.stamp), Some(stamp(1, 2)));
    assert_eq!(store.sweep(10).await, Ok(0));
}

/// What is under the key, as a digest.
fn digest(server: &PrivateRedis, key: &str) -> String {
    server.cli(&["EVAL", "return redis.sha1hex(redis.call('DUMP', KEYS[1]))", "1", key]).expect("it has the key")
}

/// Every question is answered "corrupt", and changes nothing.
async fn is_corrupt(server: &PrivateRedis, store: &RedisStore, options: &Options, damaged: RecordKey, what: &str) {
    let there = in_redis(options, &damaged);
    let before = digest(server, &there);
    let swaps = [
        put(None, stamp(2, 1), in_flight(2)),
        put(Some(stamp(9, 9)), stamp(9, 10), completed(1, "late")),
        Swap { expect: None, put: None },
        remove(stamp(9, 9)),
    ];
    for swap in &swaps {
        let answer = store.swap(&damaged, swap).await;
        assert!(matches!(answer, Err(StoreError::Corrupt(_))), "{what}: {swap:?} is answered {answer:?}");
    }
    let loaded = store.load(&damaged).await;
    assert!(matches!(loaded, Err(StoreError::Corrupt(_))), "{what}: {loaded:?}");
    store.sweep(10).await.expect("it goes on with others");
    assert_eq!(digest(server, &there), before, "{what}: it was changed");
}

/// Many are asked in one script, and what is wrong with one is nothing to the others.
#[tokio::test]
async fn peers_24_what_is_asked_together_is_answered_apart() {
    let server = PrivateRedis::shared();
    // One lane, so that all who come while it is out go together.
    let options = Options { connections: 1, ..options(server) };
    let store = open(&options).await;
    let (there, damaged, list) = (key(1), key(2), key(3));
    is_done(&store, there, &put(None, stamp(1, 1), completed(1, "done"))).await;
    server.cli(&["SET", &in_redis(&options, &damaged), "1"]).unwrap();
    server.cli(&["RPUSH", &in_redis(&options, &list), "1"]).unwrap();
    let claim = |n: u64| put(None, stamp(n, 1), in_flight(2));
    let mut asked = JoinSet::new();
    for n in 2..62 {
        let (store, swap) = (store.clone(), claim(n));
        let at = [there, damaged, list, key(100 + n)][usize::try_from(n).unwrap() % 4];
        asked.spawn(async move { (at, store.swap(&at, &swap).await) });
    }
    while let Some(answered) = asked.join_next().await {
        match answered.unwrap() {
            (at, Ok(Swapped::Found(found))) => assert_eq!((at, found.stamp), (there, stamp(1, 1))),
            (at, Err(StoreError::Corrupt(_))) => assert!(at == damaged || at == list, "{at:?}"),
            (at, answer) => {
                assert_eq!(answer, Ok(Swapped::Done), "{at:?}");
                assert!(![there, damaged, list].contains(&at), "{at:?}");
            }
        }
    }
    let batches = store.figures().batches.expect("lanes count them");
    assert!(batches.sum > batches.count(), "nothing was asked together: {batches:?}");
}

#[tokio::test]
async fn peers_24_damage_is_told_and_never_written_over() {
    let server = PrivateRedis::shared();
    let clock = Arc::new(SimulatedClock::at(START_MS));
    let options = Options { clock: Some(clock.clone()), ..options(server) };
    let store = open(&options).await;
    let write = put(None, stamp(1, 1), completed(1, "done"));
    let others = [
        ("a list", vec!["RPUSH", "KEY", "1"]),
        ("a hash", vec!["HSET", "KEY", "stamp", "1"]),
        ("another text", vec!["SET", "KEY", "1"]),
        (
            "a text as long as a head",
            vec!["SET", "KEY", "s1.......................................................", "EX", "1000"],
        ),
    ];
    for (n, (what, command)) in (10..).zip(others) {
        let there = in_redis(&options, &key(n));
        let command: Vec<&str> = command.into_iter().map(|word| if word == "KEY" { &there } else { word }).collect();
        server.cli(&command).unwrap();
        is_corrupt(server, &store, &options, key(n), what).await;
    }
    // Every byte of it, one at a time: of the head, of the whole record, and of what will be left of it.
    is_done(&store, key(1), &write).await;
    let there = in_redis(&options, &key(1));
    let len: usize = server.cli(&["STRLEN", &there]).unwrap().trim().parse().unwrap();
    let flip_at = |at: usize| {
        let flip = "local byte = redis.call('GETRANGE', KEYS[1], ARGV[1], ARGV[1])
            redis.call('SETRANGE', KEYS[1], ARGV[1], string.char(bit.bxor(string.byte(byte), 1)))";
        server.cli(&["EVAL", flip, "1", &there, &at.to_string()]).unwrap();
    };
    let mut whole = BytesMut::new();
    completed(1, "done").encode(&mut whole);
    let (head, read) = (57, 57 + whole.len() + 4);
    assert!(read < len, "what will be left is there");
    for at in 0..len {
        flip_at(at);
        let mut swaps = vec![put(None, stamp(2, 1), in_flight(2)), Swap { expect: None, put: None }];
        // Whoever knows the stamp may write over a record, and over its damage.
        if at < head {
            swaps.extend([put(Some(stamp(1, 1)), stamp(1, 2), in_flight(1)), remove(stamp(1, 1))]);
        }
        // What will be left is read when it is all that is left.
        clock.advance(if at < read { Duration::ZERO } else { REPLAY_FOR });
        for swap in swaps {
            let answer = store.swap(&key(1), &swap).await;
            assert!(matches!(answer, Err(StoreError::Corrupt(_))), "at {at}: {swap:?} is answered {answer:?}");
        }
        let loaded = store.load(&key(1)).await;
        assert!(matches!(loaded, Err(StoreError::Corrupt(_))), "at {at}: {loaded:?}");
        clock.set(START_MS);
        flip_at(at);
    }
    is_done(&store, key(1), &put(Some(stamp(1, 1)), stamp(1, 2), in_flight(1))).await;
}

#[tokio::test]
async fn k11_without_memory_new_claims_are_refused_and_all_else_goes_on() {
    let server = start(RedisOptions::default());
    let store = open(&options(&server)).await;
    let claim = |n| put(None, stamp(n, 1), in_flight(n));
    for n in 1..=4 {
        is_done(&store, key(n), &claim(n)).await;
    }
    server.cli(&["CONFIG", "SET", "maxmemory", "100kb"]).unwrap();
    for n in 5..=8 {
        let refused = store.swap(&key(n), &claim(n)).await;
        assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
        assert_eq!(store.load(&key(n)).await, Ok(None), "what is refused is not applied");
    }
    assert!(matches!(store.probe().await, Err(StoreError::Full(_))), "a probe tells what a claim would meet");
    is_done(&store, key(1), &claim(1)).await;
    let stranger = store.swap(&key(1), &claim(9)).await;
    assert!(matches!(&stranger, Ok(Swapped::Found(found)) if found.stamp == stamp(1, 1)), "{stranger:?}");
    is_done(&store, key(1), &put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "done"))).await;
    is_done(&store, key(2), &remove(stamp(2, 1))).await;
    assert_eq!(store.swap(&key(2), &remove(stamp(2, 1))).await, Ok(Swapped::Absent));

    server.cli(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    is_done(&store, key(5), &claim(5)).await;
    for (n, stamp) in [(1, stamp(1, 2)), (3, stamp(3, 1)), (4, stamp(4, 1))] {
        assert_eq!(store.load(&key(n)).await.unwrap().map(|found| found.stamp), Some(stamp));
    }
}

#[tokio::test]
async fn a_queue_that_is_full_refuses_and_nothing_of_it_happens() {
    let server = start(RedisOptions::default());
    let options = Options { connections: 1, queue_max: 2, batch_requests_max: 1, ..options(&server) };
    let store = open(&options).await;
    assert_eq!(store.probe().await, Ok(()));
    server.pause();
    let mut swaps = JoinSet::new();
    for n in 0..20 {
        let store = store.clone();
        swaps.spawn(async move { (n, store.swap(&key(n), &put(None, stamp(n, 1), in_flight(n))).await) });
    }
    // Two wait, and one may be on its way; the others are told at once, while the server still sleeps.
    let mut full = Vec::new();
    while full.len() < 17 {
        let (n, answer) = swaps.join_next().await.expect("the others are told").unwrap();
        assert!(matches!(answer, Err(StoreError::Full(_))), "{answer:?}");
        full.push(n);
    }
    server.resume();
    while let Some(swap) = swaps.join_next().await {
        let (n, answer) = swap.unwrap();
        match answer {
            Ok(Swapped::Done) => assert!(store.load(&key(n)).await.unwrap().is_some()),
            Err(StoreError::Full(_)) => full.push(n),
            answer => panic!("{answer:?}"),
        }
    }
    assert!(full.len() <= 18, "the two that waited are done");
    for n in full {
        assert_eq!(store.load(&key(n)).await, Ok(None));
    }
}

#[tokio::test]
async fn k14_what_timed_out_never_happens_later() {
    let server = start(RedisOptions::default());
    let statement_max = Duration::from_millis(300);
    let store = open(&Options { statement_max, ..options(&server) }).await;
    assert_eq!(store.probe().await, Ok(()));
    server.pause();
    let claim = put(None, stamp(1, 1), in_flight(1));
    assert_eq!(store.swap(&key(1), &claim).await, Err(StoreError::TimedOut(statement_max)));
    server.resume();
    // It reached the server, after its time: nothing comes of it, then or later.
    until(async || server.cli(&["INFO", "errorstats"]).unwrap().contains("errorstat_LATE:count=1")).await;
    // A slow disk may take longer than the little time that this store gives it.
    until(async || store.load(&key(1)).await == Ok(None)).await;
    until(async || store.swap(&key(1), &claim).await == Ok(Swapped::Done)).await;
}

#[tokio::test]
async fn peers_03_whoever_leaves_early_leaves_a_store_that_works() {
    let store = open(&options(PrivateRedis::shared())).await;
    let claim = |n| put(None, stamp(n, 1), in_flight(n));
    for n in 0..300 {
        let wait = Duration::from_micros(n * 7 % 1_500);
        let _ = tokio::time::timeout(wait, store.swap(&key(n), &claim(n))).await;
    }
    for n in 0..300 {
        is_done(&store, key(n), &claim(n)).await;
        is_done(&store, key(n), &remove(stamp(n, 1))).await;
    }
}
