//! What is between a gateway and its records: poolers, restarts.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use semel::{
    store::{
        Store as _, Swapped,
        postgres::{Options, PostgresStore},
    },
    testkit::sample::{completed, in_flight, key, put, stamp},
};
use semel_servers::{PgBouncer, PoolMode, PostgresOptions, PrivatePostgres};
use tokio::task::JoinSet;

use super::world::{claim_and_settle, until};

/// Keys are claimed by both handles at once and settled by the winner; one wins each.
async fn race(handles: &[PostgresStore; 2]) {
    let mut claims = JoinSet::new();
    for n in 0..200 {
        for (side, store) in (0..).zip(handles.clone()) {
            claims.spawn(async move {
                let mine = n * 2 + side;
                let answer = store.swap(&key(n), &put(None, stamp(mine, 1), in_flight(n))).await.unwrap();
                if answer != Swapped::Done {
                    return 0;
                }
                let settle = put(Some(stamp(mine, 1)), stamp(mine, 2), completed(n, "done"));
                assert_eq!(store.swap(&key(n), &settle).await, Ok(Swapped::Done));
                1
            });
        }
    }
    assert_eq!(claims.join_all().await.into_iter().sum::<u64>(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pooler_that_mixes_sessions_is_noticed_by_what_it_refuses() {
    let server = PrivatePostgres::shared_durable();
    let pooler = PgBouncer::start(server, PoolMode::Transaction).unwrap();
    let options = Options::new(pooler.url(&server.fresh_database()));
    PostgresStore::migrate(options.clone()).await.unwrap();
    let handles = [PostgresStore::open(options.clone()).await.unwrap(), PostgresStore::open(options).await.unwrap()];
    race(&handles).await;
    handles[0].sweep(10).await.unwrap();
    handles[0].probe().await.unwrap();
    pooler.crash();
    assert!(handles[0].probe().await.is_err());
    pooler.start_again().unwrap();
    until("it is back", async || handles[0].probe().await.is_ok() && handles[1].probe().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pooler_that_says_nothing_is_noticed_when_a_prepared_statement_is_not_there() {
    let server = PrivatePostgres::shared_durable();
    let pooler = PgBouncer::start(server, PoolMode::Transaction).unwrap();
    let file = pooler.folder().join("pgbouncer.ini");
    let silent = fs::read_to_string(&file).unwrap().replace("= extra_float_digits", "= extra_float_digits, options");
    fs::write(&file, silent).unwrap();
    pooler.crash();
    pooler.start_again().unwrap();
    let options = Options::new(pooler.url(&server.fresh_database()));
    PostgresStore::migrate(options.clone()).await.unwrap();
    let handles = [PostgresStore::open(options.clone()).await.unwrap(), PostgresStore::open(options).await.unwrap()];
    race(&handles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn e24_whatever_was_done_is_there_after_the_server_crashed_in_the_middle() {
    let server = PrivatePostgres::start_with(PostgresOptions { fsync: true, ..PostgresOptions::default() }).unwrap();
    let options = Options::new(server.url(&server.fresh_database()));
    PostgresStore::migrate(options.clone()).await.unwrap();
    let store = PostgresStore::open(options).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..16_u64 {
        let (store, over) = (store.clone(), over.clone());
        writers.spawn(async move {
            let mut done = Vec::new();
            let mut n = writer * 1_000_000;
            while !over.load(Ordering::SeqCst) {
                let settle = put(Some(stamp(n, 1)), stamp(n, 2), completed(n, "done"));
                for (write, swap) in [(1, put(None, stamp(n, 1), in_flight(n))), (2, settle)] {
                    match store.swap(&key(n), &swap).await {
                        Ok(Swapped::Done) => done.push((n, write)),
                        Ok(other) => panic!("{other:?}"),
                        // Nobody knows; the next key.
                        Err(_) => break,
                    }
                }
                n += 1;
            }
            done
        });
    }
    for crash in 0..3 {
        claim_and_settle(&store, 900_000_000 + crash).await;
        server.stop_immediately();
        server.start_again().unwrap();
        until("it is back", async || store.probe().await.is_ok()).await;
    }
    over.store(true, Ordering::SeqCst);
    let done = writers.join_all().await.concat();
    assert!(done.len() > 100, "{} were done", done.len());
    for (n, write) in done {
        let found = store.load(&key(n)).await.unwrap();
        let there = found.map(|found| found.stamp.write);
        assert!(there.is_some_and(|there| there >= write), "write {write} of key {n} was done, and there is {there:?}");
    }
}
