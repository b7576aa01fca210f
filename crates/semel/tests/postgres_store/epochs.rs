//! Epochs: opened, emptied and dropped, while a key has one record throughout.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use semel::{
    store::{
        PhaseKind, Record, Store as _, Swapped,
        postgres::{Options, PostgresStore},
    },
    testkit::sample::{RETENTION, completed, in_flight, key, put, remove, stamp},
};
use tokio::task::JoinSet;

use super::world::{World, claim_and_settle};

const DAY: Duration = Duration::from_hours(24);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn e24_x09_however_often_the_epoch_changes_of_many_claims_of_a_key_one_is_done() {
    const ROUNDS: u64 = 300;
    let world = World::with(|options| Options { period: Duration::ZERO, ..options }).await;
    let handles = [world.open().await, world.open().await];
    let over = Arc::new(AtomicBool::new(false));
    // Each sweep opens the next epoch.
    let sweeper = tokio::spawn({
        let (store, over) = (handles[0].clone(), over.clone());
        async move {
            while !over.load(Ordering::SeqCst) {
                store.sweep(100).await.unwrap();
            }
        }
    });
    let mut claims = JoinSet::new();
    for round in 0..ROUNDS {
        for n in 0..4 {
            let store = handles[usize::try_from(n % 2).unwrap()].clone();
            let mine = stamp(round * 10 + n, 1);
            claims.spawn(async move { (round, store.swap(&key(round), &put(None, mine, in_flight(n))).await) });
        }
    }
    let mut won = vec![0; usize::try_from(ROUNDS).unwrap()];
    while let Some(claim) = claims.join_next().await {
        let (round, answer) = claim.unwrap();
        match answer.unwrap() {
            Swapped::Done => won[usize::try_from(round).unwrap()] += 1,
            Swapped::Found(_) => {}
            Swapped::Absent => panic!("a claim expects nothing and cannot miss it"),
        }
    }
    over.store(true, Ordering::SeqCst);
    sweeper.await.unwrap();
    assert_eq!(won, vec![1; usize::try_from(ROUNDS).unwrap()]);
    assert_eq!(
        world.sql("SELECT count(*) FROM (SELECT key FROM semel_records GROUP BY key HAVING count(*) > 1) t"),
        "0"
    );
    assert_ne!(world.sql("SELECT epoch FROM semel_meta"), "1", "the epoch did change");
}

#[tokio::test]
async fn an_epoch_is_dropped_once_all_in_it_is_past_and_not_before() {
    let (world, clock) = World::at_rest().await;
    let store = world.open().await;
    for n in 0..1_000 {
        let record = Record { retention: 3 * DAY, ..in_flight(n) };
        assert_eq!(store.swap(&key(n), &put(None, stamp(n, 1), record)).await, Ok(Swapped::Done));
    }
    let partitions = async || store.stats().await.unwrap().partitions;
    for (days, expected) in [(0, 1), (6, 1)] {
        clock.advance(days * DAY);
        store.sweep(100).await.unwrap();
        assert_eq!(partitions().await, expected, "after {days} days");
    }
    clock.advance(DAY);
    store.sweep(100).await.unwrap();
    assert_eq!(partitions().await, 2, "a week old: the next epoch is open");
    store.sweep(100).await.unwrap();
    assert_eq!(partitions().await, 1, "and the first, in which all is past, is gone");
    assert_eq!(world.sql("SELECT count(*) FROM semel_epochs"), "1");
    claim_and_settle(&store, 1).await;
}

#[tokio::test]
async fn an_epoch_with_records_that_count_is_left_until_they_are_few_and_these_are_moved() {
    let (world, clock) = World::at_rest().await;
    let store = world.open().await;
    for n in 0..1_000 {
        // Ten live for a year.
        let retention = if n % 100 == 0 { 365 * DAY } else { 10 * DAY };
        let record = Record { retention, ..completed(n, "done") };
        assert_eq!(store.swap(&key(n), &put(None, stamp(n, 1), record)).await, Ok(Swapped::Done));
    }
    clock.advance(7 * DAY);
    for _ in 0..3 {
        store.sweep(100).await.unwrap();
    }
    assert_eq!(world.sql("SELECT count(*) FROM semel_records_1"), "1000", "most of them count");
    let look_ms = world.sql("SELECT look_ms FROM semel_epochs WHERE epoch = 1");
    store.sweep(100).await.unwrap();
    assert_eq!(world.sql("SELECT look_ms FROM semel_epochs WHERE epoch = 1"), look_ms, "not looked at again so soon");

    clock.advance(4 * DAY);
    store.sweep(100).await.unwrap();
    store.sweep(100).await.unwrap();
    assert_eq!(store.stats().await.unwrap().partitions, 1, "the first epoch is gone");
    for n in 0..1_000 {
        let found = store.load(&key(n)).await.unwrap();
        assert_eq!(found.as_ref().map(|found| found.stamp), (n % 100 == 0).then(|| stamp(n, 1)));
        assert!(found.is_none_or(|found| found.age == 11 * DAY), "moving is no write of its writer");
    }
    let settled = put(Some(stamp(100, 1)), stamp(100, 2), completed(100, "again"));
    assert_eq!(store.swap(&key(100), &settled).await, Ok(Swapped::Done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn e24_records_that_are_moved_while_they_are_settled_lose_nothing() {
    let (world, clock) = World::at_rest().await;
    let handles = [world.open().await, world.open().await];
    let count = 400;
    let long = Record { retention: 365 * DAY, ..in_flight(0) };
    for n in 0..count {
        let claim = put(None, stamp(n, 1), long.clone());
        assert_eq!(handles[0].swap(&key(n), &claim).await, Ok(Swapped::Done));
    }
    clock.advance(8 * DAY);
    let mut settles = JoinSet::new();
    for n in 0..count {
        let store = handles[usize::try_from(n % 2).unwrap()].clone();
        let end =
            if n % 3 == 0 { remove(stamp(n, 1)) } else { put(Some(stamp(n, 1)), stamp(n, 2), completed(n, "done")) };
        settles.spawn(async move { store.swap(&key(n), &end).await });
    }
    // Opens an epoch, moves all of the first, and drops it.
    let sweeps = async {
        while store_partitions(&handles[0]).await != (1, 2) {
            for store in &handles {
                store.sweep(100).await.unwrap();
            }
        }
    };
    tokio::join!(sweeps, async {
        while let Some(settle) = settles.join_next().await {
            assert_eq!(settle.unwrap(), Ok(Swapped::Done));
        }
    });
    let completed = handles[1].scan(PhaseKind::Completed, None, 1_000).await.unwrap();
    assert_eq!(completed.len() as u64, (0..count).filter(|n| n % 3 != 0).count() as u64);
    assert_eq!(handles[1].scan(PhaseKind::InFlight, None, 1_000).await.unwrap(), []);
}

async fn store_partitions(store: &PostgresStore) -> (u32, u32) {
    let stats = store.stats().await.unwrap();
    (stats.partitions, stats.epoch)
}

#[tokio::test]
async fn x10_a_record_that_is_past_in_an_old_epoch_is_claimed_anew_in_the_current_one() {
    let (world, clock) = World::at_rest().await;
    let store = world.open().await;
    let claim = |write, retention| put(None, stamp(1, write), Record { retention, ..in_flight(1) });
    assert_eq!(store.swap(&key(1), &claim(1, DAY)).await, Ok(Swapped::Done));
    clock.advance(DAY);
    assert_eq!(store.swap(&key(1), &claim(2, 7 * DAY)).await, Ok(Swapped::Done));
    let rows = || world.sql("SELECT epoch FROM semel_records");
    assert_eq!(rows(), "1", "in its own epoch in place");
    clock.advance(6 * DAY);
    store.sweep(1).await.unwrap();
    clock.advance(DAY);
    assert_eq!(store.swap(&key(1), &claim(3, RETENTION)).await, Ok(Swapped::Done));
    assert_eq!(rows(), "2");
    let late = put(Some(stamp(1, 2)), stamp(1, 9), completed(1, "late"));
    assert!(matches!(store.swap(&key(1), &late).await, Ok(Swapped::Found(found)) if found.stamp == stamp(1, 3)));
}

#[tokio::test]
async fn a_table_in_use_delays_housekeeping_and_no_request() {
    let (world, clock) = World::at_rest().await;
    let store = world.open().await;
    claim_and_settle(&store, 1).await;
    clock.advance(8 * DAY);
    let url = world.server.url(&world.database);
    let (reader, link) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let link = tokio::spawn(link);
    reader.batch_execute("BEGIN; SELECT * FROM semel_records").await.unwrap();
    store.sweep(1).await.expect("it tries again another time");
    assert_eq!(store_partitions(&store).await, (1, 1));
    claim_and_settle(&store, 2).await;
    reader.batch_execute("COMMIT").await.unwrap();
    link.abort();
    store.sweep(1).await.unwrap();
    assert_eq!(store_partitions(&store).await, (2, 2));
}
