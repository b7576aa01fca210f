//! Ages by the server's own clock, and what the server's expiry has to do with them: nothing but memory.

use std::{sync::Arc, time::Duration};

use semel::{
    store::{PhaseKind, Record, SimulatedClock, Store as _, redis::Options},
    testkit::sample::{completed, in_flight, key, put, stamp, unknown},
};
use semel_core::record::{Kept, Phase};
use semel_servers::PrivateRedis;

use super::{in_redis, is_done, open, options, until};

const SHORT: Duration = Duration::from_millis(300);

fn living(retention: Duration, record: Record) -> Record {
    Record { retention, ..record }
}

#[tokio::test]
async fn x10_a_record_is_shown_until_its_retention_and_its_memory_goes_by_itself() {
    let server = PrivateRedis::shared();
    let options = options(server);
    let store = open(&options).await;
    is_done(&store, key(1), &put(None, stamp(1, 1), living(SHORT, in_flight(1)))).await;
    let mut shown = 0;
    until(async || match store.load(&key(1)).await.unwrap() {
        Some(found) => {
            assert!(found.age < SHORT, "shown at the age of {:?}", found.age);
            shown += 1;
            false
        }
        None => true,
    })
    .await;
    assert!(shown > 0, "it lived for a while");
    until(async || server.cli(&["EXISTS", &in_redis(&options, &key(1))]).unwrap().trim() == "0").await;
}

#[tokio::test]
async fn x10_presence_decides_nothing() {
    let server = PrivateRedis::shared();
    let options = options(server);
    let store = open(&options).await;
    for n in 1..=3 {
        is_done(&store, key(n), &put(None, stamp(n, 1), living(SHORT, unknown(n)))).await;
        // The server's expiry never comes.
        server.cli(&["PERSIST", &in_redis(&options, &key(n))]).unwrap();
    }
    until(async || store.load(&key(3)).await.unwrap().is_none()).await;
    for n in 1..=3 {
        assert_eq!(server.cli(&["EXISTS", &in_redis(&options, &key(n))]).unwrap().trim(), "1", "it is still there");
        assert_eq!(store.load(&key(n)).await, Ok(None));
    }
    assert_eq!(store.scan(PhaseKind::Unknown, None, 10).await, Ok(Vec::new()));
    is_done(&store, key(1), &put(None, stamp(4, 1), in_flight(4))).await;
    assert_eq!(store.sweep(10).await, Ok(2), "what lags is swept");
    assert_eq!(store.load(&key(1)).await.unwrap().map(|found| found.stamp), Some(stamp(4, 1)));
}

#[tokio::test]
async fn content_past_its_time_gives_its_memory_back_and_the_record_still_goes() {
    let server = PrivateRedis::shared();
    let options = options(server);
    let store = open(&options).await;
    let mut record = completed(1, vec![7; 100_000]);
    if let Phase::Completed { replay_for, .. } = &mut record.phase {
        *replay_for = SHORT;
    }
    is_done(&store, key(1), &put(None, stamp(1, 1), record)).await;
    let there = in_redis(&options, &key(1));
    let number = |command: &[&str]| server.cli(command).unwrap().trim().parse::<u64>().unwrap();
    until(async || {
        assert_eq!(store.sweep(10).await, Ok(0));
        number(&["STRLEN", &there]) < 200
    })
    .await;
    let found = store.load(&key(1)).await.unwrap().expect("the fact stays");
    assert!(found.age >= SHORT && found.stamp == stamp(1, 1));
    assert!(matches!(found.record.phase, Phase::Completed { kept: Kept::Omitted { status: 201 }, .. }));
    assert!(number(&["PTTL", &there]) > 1_000_000, "and goes when it would have gone");
}

#[tokio::test]
async fn x08_a_clock_that_goes_back_makes_records_young_and_never_revives_or_expires_them() {
    let clock = Arc::new(SimulatedClock::at(semel::testkit::START_MS));
    let options = Options { clock: Some(clock.clone()), ..options(PrivateRedis::shared()) };
    let store = open(&options).await;
    is_done(&store, key(1), &put(None, stamp(1, 1), living(SHORT, in_flight(1)))).await;
    clock.set(semel::testkit::START_MS - 3_600_000);
    assert_eq!(store.load(&key(1)).await.unwrap().map(|found| found.age), Some(Duration::ZERO));
    assert_eq!(store.sweep(10).await, Ok(0));
    clock.set(semel::testkit::START_MS + 300);
    assert_eq!(store.load(&key(1)).await, Ok(None));
}

#[tokio::test]
async fn x08_the_clock_of_a_gateway_does_not_count() {
    // Each write bears the server's time, whatever this process believes.
    let server = PrivateRedis::shared();
    let options = options(server);
    let store = open(&options).await;
    let time = || {
        let said = server.cli(&["TIME"]).unwrap();
        said.lines().next().unwrap().trim().parse::<u64>().unwrap()
    };
    let before = time();
    is_done(&store, key(1), &put(None, stamp(1, 1), in_flight(1))).await;
    let after = time();
    let written =
        "local _, ms = 0, struct.unpack('>I8', redis.call('GETRANGE', KEYS[1], 20, 27)) return math.floor(ms / 1000)";
    let written: u64 =
        server.cli(&["EVAL", written, "1", &in_redis(&options, &key(1))]).unwrap().trim().parse().unwrap();
    assert!((before..=after).contains(&written), "{written} is not between {before} and {after}");
}

#[tokio::test]
async fn stats_count_what_is_there() {
    let server = PrivateRedis::shared();
    let store = open(&options(server)).await;
    for n in 0..5 {
        is_done(&store, key(n), &put(None, stamp(n, 1), unknown(n))).await;
    }
    is_done(&store, key(7), &put(None, stamp(7, 1), completed(7, vec![0; 10_000]))).await;
    let stats = store.stats().await.unwrap();
    assert_eq!(stats.records, [(PhaseKind::Unknown, 5), (PhaseKind::Completed, 1)].into());
    assert!(stats.oldest_unknown.is_some() && stats.bytes > 10_000, "{stats:?}");
}
