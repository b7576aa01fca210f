//! What goes wrong in the database, and whom it may concern.

use std::time::{Duration, Instant};

use semel::{
    store::{
        PhaseKind, Store as _, StoreError, Swap, Swapped,
        postgres::{Options, PostgresStore},
    },
    testkit::sample::{completed, in_flight, key, put, remove, stamp},
};
use semel_servers::{Mode, Trigger};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use super::world::{SESSIONS, World, claim_and_settle, proxy, until};

/// Sessions that wait for somebody who holds a row.
const WAITS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";

fn claim(n: u64) -> Swap {
    put(None, stamp(n, 1), in_flight(n))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Asks all at once, so that they share statements, and says what each was answered.
async fn all_at_once(
    store: &PostgresStore,
    swaps: impl IntoIterator<Item = (u64, Swap)>,
) -> Vec<(u64, Result<Swapped, StoreError>)> {
    let mut tasks = JoinSet::new();
    for (n, swap) in swaps {
        let store = store.clone();
        tasks.spawn(async move { (n, store.swap(&key(n), &swap).await) });
    }
    tasks.join_all().await
}

/// A session of somebody else that has a row locked, until it is dropped.
async fn hold(world: &World, n: u64) -> tokio_postgres::Client {
    let (client, link) = tokio_postgres::connect(&world.server.url(&world.database), NoTls).await.unwrap();
    tokio::spawn(link);
    let lock = format!("BEGIN; SELECT FROM semel_records WHERE key = '\\x{}' FOR UPDATE", hex(key(n).as_bytes()));
    client.batch_execute(&lock).await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k14_e24_a_commit_whose_answer_is_lost_is_recognised() {
    let server = semel_servers::PrivatePostgres::shared_durable();
    let proxy = proxy(server);
    let database = server.fresh_database();
    let options = Options::new(format!("postgres://postgres@127.0.0.1:{}/{database}", proxy.port()));
    PostgresStore::migrate(options.clone()).await.unwrap();
    let store = PostgresStore::open(options).await.unwrap();
    let swaps =
        [(1, claim(1)), (2, put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "done"))), (0, remove(stamp(1, 2)))];
    for (write, swap) in swaps {
        proxy.set_when(Trigger::Contains(key(1).as_bytes().to_vec()), Mode::DropReplies);
        let asking = tokio::spawn({
            let (store, swap) = (store.clone(), swap.clone());
            async move { store.swap(&key(1), &swap).await }
        });
        let is_committed = || match write {
            0 => server.psql(&database, "SELECT count(*) FROM semel_records").unwrap().trim() == "0",
            write => {
                let stamp = stamp(1, write);
                let stamp = [&stamp.exchange.0.to_be_bytes()[..], &stamp.write.to_be_bytes()].concat();
                let sql = format!("SELECT count(*) FROM semel_records WHERE stamp = '\\x{}'", hex(&stamp));
                server.psql(&database, &sql).unwrap().trim() == "1"
            }
        };
        until("it is committed", async || is_committed()).await;
        assert!(!asking.is_finished(), "its answer is held back");
        proxy.set(Mode::Pass);
        let answer = match asking.await.unwrap() {
            // It was connecting anew when the proxy let go. Whoever asked asks again, as a driver does.
            Err(StoreError::Unavailable(_)) => store.swap(&key(1), &swap).await.unwrap(),
            answer => answer.unwrap(),
        };
        // A removal cannot be told from somebody else's, and need not.
        assert_eq!(answer, if write == 0 { Swapped::Absent } else { Swapped::Done });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k12_a_server_that_is_cut_off_is_unavailable_at_once_and_found_again() {
    let server = semel_servers::PrivatePostgres::shared_durable();
    let proxy = proxy(server);
    let database = server.fresh_database();
    let options = Options::new(format!("postgres://postgres@127.0.0.1:{}/{database}", proxy.port()));
    PostgresStore::migrate(options.clone()).await.unwrap();
    let store = PostgresStore::open(options).await.unwrap();
    claim_and_settle(&store, 1).await;
    proxy.set(Mode::Cut);
    let start = Instant::now();
    for n in 2..5 {
        assert!(matches!(store.swap(&key(n), &claim(n)).await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.load(&key(n)).await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.probe().await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.sweep(1).await, Err(StoreError::Unavailable(_))));
    }
    assert!(start.elapsed() < Duration::from_secs(4), "nobody waits for a server that refuses");
    proxy.set(Mode::Pass);
    until("it is found again", async || store.probe().await.is_ok()).await;
    claim_and_settle(&store, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_serialization_failures_are_retried_and_not_shown() {
    let world = World::new().await;
    world.sql(&format!("ALTER DATABASE {} SET default_transaction_isolation = 'serializable'", world.database));
    let handles = [world.open().await, world.open().await];
    for round in 0..10 {
        let mut claims = JoinSet::new();
        for n in 0..20 {
            let store = handles[usize::try_from(n % 2).unwrap()].clone();
            claims.spawn(async move {
                let mine = stamp(round * 100 + n, 1);
                store.swap(&key(round), &put(None, mine, in_flight(n))).await.unwrap()
            });
        }
        let answers = claims.join_all().await;
        assert_eq!(answers.iter().filter(|answer| **answer == Swapped::Done).count(), 1, "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_that_write_the_same_keys_the_other_way_round_do_not_lock_each_other_out() {
    let world = World::new().await;
    let handles = [world.open().await, world.open().await];
    for round in 0..20 {
        let keys = round * 100..round * 100 + 50;
        let (one, other) = tokio::join!(
            all_at_once(&handles[0], keys.clone().map(|n| (n, claim(n)))),
            all_at_once(&handles[1], keys.clone().rev().map(|n| (n, claim(n)))),
        );
        for (n, answer) in one.into_iter().chain(other) {
            assert_eq!(answer, Ok(Swapped::Done), "key {n}: both ask with the same stamp");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_somebody_holds_is_timed_out_and_delays_nobody_else_for_long() {
    let mut world = World::new().await;
    world.options.statement_max = Duration::from_secs(3);
    let store = world.open().await;
    all_at_once(&store, (0..50).map(|n| (n, claim(n)))).await;
    let holder = hold(&world, 7).await;
    let settle = |n| put(Some(stamp(n, 1)), stamp(n, 2), completed(n, "done"));
    let start = Instant::now();
    let answers = all_at_once(&store, (0..50).map(|n| (n, settle(n)))).await;
    for (n, answer) in answers {
        let expected = if n == 7 { Err(StoreError::TimedOut(Duration::from_secs(3))) } else { Ok(Swapped::Done) };
        assert_eq!(answer, expected, "key {n}");
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(store.load(&key(7)).await.unwrap().is_some(), "reading needs no lock");
    drop(holder);
    until("it is free again", async || store.swap(&key(7), &settle(7)).await == Ok(Swapped::Done)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k11_what_one_row_is_refused_for_is_told_to_that_row_alone() {
    let world = World::new().await;
    let store = world.open().await;
    // No room, as a full disk says it; damage; and what nobody has thought of.
    for (n, code) in [(3, "53100"), (5, "XX001"), (9, "22023")] {
        world.sql(&format!(
            "CREATE FUNCTION fail_{n}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE EXCEPTION 'planted' USING ERRCODE = '{code}'; END $$;
            CREATE TRIGGER fail_{n} BEFORE INSERT ON semel_records_1 FOR EACH ROW
                WHEN (NEW.key = '\\x{}') EXECUTE FUNCTION fail_{n}()",
            hex(key(n).as_bytes())
        ));
    }
    let answers = all_at_once(&store, (0..50).map(|n| (n, claim(n)))).await;
    for (n, answer) in answers {
        match n {
            3 => assert!(matches!(answer, Err(StoreError::Full(_))), "{answer:?}"),
            5 => assert!(matches!(answer, Err(StoreError::Corrupt(_))), "{answer:?}"),
            9 => assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}"),
            n => assert_eq!(answer, Ok(Swapped::Done), "key {n}"),
        }
    }
    assert_eq!(world.sql("SELECT count(*) FROM semel_records"), "47");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_bytes_are_corrupt_and_no_other_record_is_concerned() {
    let world = World::new().await;
    let store = world.open().await;
    all_at_once(&store, (0..20).map(|n| (n, claim(n)))).await;
    world.sql(&format!("UPDATE semel_records SET record = '\\x00' WHERE key = '\\x{}'", hex(key(3).as_bytes())));
    for (n, answer) in all_at_once(&store, (0..20).map(|n| (n, put(None, stamp(n, 9), in_flight(n))))).await {
        match n {
            3 => assert!(matches!(answer, Err(StoreError::Corrupt(_))), "{answer:?}"),
            n => assert!(matches!(&answer, Ok(Swapped::Found(found)) if found.stamp == stamp(n, 1)), "{answer:?}"),
        }
    }
    assert!(matches!(store.load(&key(3)).await, Err(StoreError::Corrupt(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_row_of_a_key_is_corrupt_and_not_chosen_from() {
    let world = World::new().await;
    let store = world.open().await;
    claim_and_settle(&store, 1).await;
    world.sql(
        "CREATE TABLE semel_records_2 PARTITION OF semel_records FOR VALUES IN (2);
        INSERT INTO semel_records SELECT key, 2, stamp, written_ms, expires_ms, phase, record FROM semel_records",
    );
    assert!(matches!(store.load(&key(1)).await, Err(StoreError::Corrupt(_))));
    assert!(matches!(store.swap(&key(1), &claim(1)).await, Err(StoreError::Corrupt(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_full_and_the_swap_was_not_applied() {
    let mut world = World::new().await;
    world.options =
        Options { queue_max: 10, connections: 1, statement_max: Duration::from_secs(2), ..world.options.clone() };
    let store = world.open().await;
    assert_eq!(store.swap(&key(0), &claim(0)).await, Ok(Swapped::Done));
    let holder = hold(&world, 0).await;
    let held = tokio::spawn({
        let store = store.clone();
        async move { store.swap(&key(0), &put(Some(stamp(0, 1)), stamp(0, 2), completed(0, "done"))).await }
    });
    // The one lane waits for the held row; of these ten find room, nine beside it and none after it has gone on.
    until("the lane waits", async || world.sql(WAITS) == "1").await;
    let answers = all_at_once(&store, (1..31).map(|n| (n, claim(n)))).await;
    let full = answers.iter().filter(|(_, answer)| matches!(answer, Err(StoreError::Full(_)))).count();
    assert!(full >= 21 - 9, "{answers:?}");
    assert!(matches!(held.await.unwrap(), Err(StoreError::TimedOut(_))));
    drop(holder);
    for (n, answer) in answers {
        let there = store.load(&key(n)).await.unwrap().is_some();
        assert!(!matches!(answer, Err(StoreError::Full(_))) || !there, "key {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_longer_than_a_batch_and_many_of_them_come_back() {
    let mut world = World::new().await;
    world.options.batch_bytes_max = 10_000;
    let store = world.open().await;
    let content = |n: u64| vec![u8::try_from(n % 251).unwrap(); if n.is_multiple_of(10) { 3 << 20 } else { 4_000 }];
    let swaps = (0..60).map(|n| (n, put(None, stamp(n, 1), completed(n, content(n)))));
    for (n, answer) in all_at_once(&store, swaps).await {
        assert_eq!(answer, Ok(Swapped::Done), "key {n}");
    }
    for n in 0..60 {
        let found = store.load(&key(n)).await.unwrap().unwrap();
        assert_eq!(found.record, completed(n, content(n)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_03_a_swap_that_is_dropped_anywhere_harms_nobody() {
    let world = World::new().await;
    let store = world.open().await;
    let mut dropped = JoinSet::new();
    for n in 0..400_u64 {
        let store = store.clone();
        dropped.spawn(async move {
            // At any moment from before it is asked to after it is answered.
            let patience = Duration::from_micros(n * 37 % 9_000);
            let _ =
                tokio::time::timeout(patience, store.swap(&key(n % 40), &put(None, stamp(n, 1), in_flight(n)))).await;
        });
    }
    dropped.join_all().await;
    for n in 0..40 {
        let found = match store.swap(&key(n), &put(None, stamp(1_000 + n, 1), in_flight(n))).await.unwrap() {
            Swapped::Done => stamp(1_000 + n, 1),
            Swapped::Found(found) => found.stamp,
            Swapped::Absent => panic!("a claim expects nothing and cannot miss it"),
        };
        assert_eq!(store.swap(&key(n), &remove(found)).await, Ok(Swapped::Done));
    }
    assert_eq!(store.scan(PhaseKind::InFlight, None, 100).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_that_claims_one_key_is_answered_by_few_statements() {
    let world = World::with(|options| Options { connections: 1, ..options }).await;
    let store = world.open().await;
    // The one lane is busy while the crowd gathers.
    assert_eq!(store.swap(&key(1), &claim(1)).await, Ok(Swapped::Done));
    let holder = hold(&world, 1).await;
    let held = tokio::spawn({
        let store = store.clone();
        async move { store.swap(&key(1), &remove(stamp(1, 1))).await }
    });
    until("the lane waits", async || world.sql(WAITS) == "1").await;
    let mut crowd: JoinSet<_> = (0..2_000)
        .map(|n| {
            let store = store.clone();
            async move { store.swap(&key(0), &put(None, stamp(n, 2), in_flight(n))).await.unwrap() }
        })
        .collect();
    // A load is answered by another lane, after all that were asked before it have had their turn.
    for _ in 0..100 {
        tokio::task::yield_now().await;
        store.load(&key(1)).await.unwrap();
    }
    drop(holder);
    assert_eq!(held.await.unwrap(), Ok(Swapped::Done));
    let (mut done, mut told) = (0, Vec::new());
    while let Some(answer) = crowd.join_next().await {
        match answer.unwrap() {
            Swapped::Done => done += 1,
            Swapped::Found(found) => told.push((found.stamp, found.record)),
            Swapped::Absent => panic!("a claim expects nothing and cannot miss it"),
        }
    }
    assert_eq!(done, 1);
    let winner = store.load(&key(0)).await.unwrap().unwrap();
    assert_eq!(told, vec![(winner.stamp, winner.record); 1_999]);

    drop(store);
    until("its sessions are over", async || world.sql(SESSIONS) == "0").await;
    let commits = world.sql(
        "SELECT pg_stat_clear_snapshot(); SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()",
    );
    assert!(commits.parse::<u64>().unwrap() < 700, "{commits} commits, and there are 2,000 claims");
}
