//! Crashes, lost answers and copies: what is confirmed stays, and what is not is told as such.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use semel::{
    store::{Stamp, Store as _, StoreError, Swapped, redis::Options, shared::Url},
    testkit::sample::{completed, in_flight, key, put, stamp},
};
use semel_servers::{Mode, PrivateRedis, RedisOptions, TcpProxy, Trigger};
use tokio::task::JoinSet;

use super::{blocking, in_redis, open, options, start, until, until_answered};

/// A proxy has a runtime of its own, which cannot be started from within another.
async fn proxy(server: &PrivateRedis) -> TcpProxy {
    let port = server.port();
    blocking(move || TcpProxy::start(port)).await.expect("a port is free")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e24_k12_nothing_that_was_confirmed_is_lost_when_the_server_is_killed_under_load() {
    const KILLS: u64 = 3;
    let server = Arc::new(start(RedisOptions::default()));
    let options = options(&server);
    let store = open(&options).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers: JoinSet<BTreeMap<u64, Stamp>> = JoinSet::new();
    for writer in 0..16u64 {
        let (store, stop, done) = (store.clone(), stop.clone(), done.clone());
        writers.spawn(async move {
            let mut confirmed = BTreeMap::new();
            for n in (0..).map(|n| n * 16 + writer) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let swaps =
                    [put(None, stamp(n, 1), in_flight(n)), put(Some(stamp(n, 1)), stamp(n, 2), completed(n, "done"))];
                for write in swaps {
                    // Asked again until there is an answer, which its stamp makes harmless.
                    assert_eq!(until_answered(&store, key(n), &write).await, Swapped::Done);
                    confirmed.insert(n, write.put.expect("it puts").stamp);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
            confirmed
        });
    }
    for kill in 1..=KILLS {
        until(async || done.load(Ordering::Relaxed) > kill * 200).await;
        let server = server.clone();
        let again = move || {
            server.crash();
            server.start_again()
        };
        blocking(again).await.unwrap();
    }
    let before = done.load(Ordering::Relaxed);
    until(async || done.load(Ordering::Relaxed) > before + 200).await;
    stop.store(true, Ordering::Relaxed);
    let reader = open(&options).await;
    while let Some(confirmed) = writers.join_next().await {
        for (n, stamp) in confirmed.unwrap() {
            assert_eq!(reader.load(&key(n)).await.unwrap().map(|found| found.stamp), Some(stamp), "the {n}th");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e24_k14_a_lost_answer_is_known_again_by_its_stamp() {
    let server = PrivateRedis::shared();
    let proxy = proxy(server).await;
    let direct = options(server);
    let statement_max = Duration::from_millis(500);
    let through =
        Options { url: Url::new(format!("redis://127.0.0.1:{}", proxy.port())), statement_max, ..direct.clone() };
    let (store, other) = (open(&through).await, open(&direct).await);
    assert_eq!(store.probe().await, Ok(()));

    // The answer is swallowed: the caller asks again, in their own time.
    let claim = put(None, stamp(1, 1), in_flight(1));
    proxy.set(Mode::DropReplies);
    assert_eq!(store.swap(&key(1), &claim).await, Err(StoreError::TimedOut(statement_max)));
    proxy.set(Mode::Pass);
    assert_eq!(until_answered(&store, key(1), &claim).await, Swapped::Done);
    let stranger = other.swap(&key(1), &put(None, stamp(2, 1), in_flight(2))).await;
    assert!(matches!(stranger, Ok(Swapped::Found(found)) if found.stamp == stamp(1, 1)));

    // The connection breaks in place of the answer: the store asks again by itself, and meets its own claim.
    for n in 10..30 {
        let claim = put(None, stamp(n, 1), in_flight(n));
        let accepted = proxy.accepted();
        proxy.set_when(Trigger::Contains(in_redis(&direct, &key(n)).into_bytes()), Mode::CutAtReply);
        let asked = {
            let store = store.clone();
            tokio::spawn(async move { store.swap(&key(n), &claim).await })
        };
        // It has been cut once the store comes again.
        until(async || proxy.accepted() > accepted).await;
        proxy.set(Mode::Pass);
        assert_eq!(asked.await.unwrap(), Ok(Swapped::Done));
        let found = other.load(&key(n)).await.unwrap();
        assert_eq!(found.map(|found| found.stamp), Some(stamp(n, 1)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k12_a_server_that_is_gone_is_unavailable_and_nothing_is_concluded() {
    let server = PrivateRedis::shared();
    let proxy = proxy(server).await;
    let through = Options {
        url: Url::new(format!("redis://127.0.0.1:{}", proxy.port())),
        statement_max: Duration::from_millis(300),
        ..options(server)
    };
    let store = open(&through).await;
    proxy.set(Mode::Cut);
    let claim = put(None, stamp(1, 1), in_flight(1));
    for answer in
        [store.swap(&key(1), &claim).await.map(drop), store.load(&key(1)).await.map(drop), store.probe().await]
    {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
    proxy.set(Mode::Pass);
    assert_eq!(until_answered(&store, key(1), &claim).await, Swapped::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waits_for_a_replica_is_confirmed_with_it_or_not_at_all() {
    let primary = start(RedisOptions::default());
    let replica = start(RedisOptions { replica_of: Some(primary.port()), ..RedisOptions::default() });
    let wait = Options { replicas: 1, copies_wait_max: Duration::from_millis(200), ..options(&primary) };
    let store = open(&wait).await;
    let claim = |n| put(None, stamp(n, 1), in_flight(n));
    assert_eq!(until_answered(&store, key(1), &claim(1)).await, Swapped::Done);
    assert_eq!(replica.cli(&["EXISTS", &in_redis(&wait, &key(1))]).unwrap().trim(), "1");

    replica.pause();
    for _ in 0..2 {
        let answer = store.swap(&key(2), &claim(2)).await;
        assert!(matches!(&answer, Err(StoreError::Unavailable(why)) if why.contains("1 replicas")), "{answer:?}");
    }
    let settle = put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "done"));
    let answer = store.swap(&key(1), &settle).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    // What is read and what is found wait for nobody.
    assert!(store.load(&key(2)).await.unwrap().is_some());
    let stranger = store.swap(&key(2), &claim(3)).await;
    assert!(matches!(stranger, Ok(Swapped::Found(_))), "{stranger:?}");

    replica.resume();
    assert_eq!(until_answered(&store, key(2), &claim(2)).await, Swapped::Done);
    assert_eq!(until_answered(&store, key(1), &settle).await, Swapped::Done);
    assert_eq!(replica.cli(&["EXISTS", &in_redis(&wait, &key(2))]).unwrap().trim(), "1");
}
