//! The Redis store on real servers that crash, are full, are set up badly, fail over and move their keys.

#![cfg(feature = "redis-store")]

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use semel::store::{
    RecordKey, Store as _, StoreError, Swap, Swapped,
    redis::{Options, RedisStore},
    shared::OpenError,
};
use semel_servers::{PrivateRedis, RedisOptions};

mod cluster;
mod durability;
mod expiry;
mod refusals;
mod server;

/// How long anything may take that a test waits for.
const PATIENCE: Duration = Duration::from_mins(1);

fn start(options: RedisOptions) -> PrivateRedis {
    PrivateRedis::start_with(options).unwrap_or_else(|error| panic!("{error}"))
}

/// The options of a store of one's own on a server that others use too.
fn options(server: &PrivateRedis) -> Options {
    static PREFIXES: AtomicU64 = AtomicU64::new(0);
    Options { prefix: format!("test{}:", PREFIXES.fetch_add(1, Ordering::Relaxed)), ..Options::new(server.url()) }
}

async fn open(options: &Options) -> RedisStore {
    RedisStore::open(options.clone()).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn refusal(options: Options) -> OpenError {
    match RedisStore::open(options).await {
        Ok(_) => panic!("it opens"),
        Err(error) => error,
    }
}

/// The key in Redis of a record, by the documented form.
fn in_redis(options: &Options, key: &RecordKey) -> String {
    key.as_bytes().iter().fold(options.prefix.clone(), |text, byte| format!("{text}{byte:02x}"))
}

async fn is_done(store: &RedisStore, key: RecordKey, swap: &Swap) {
    assert_eq!(store.swap(&key, swap).await, Ok(Swapped::Done));
}

/// Asks until the store is there again; what it says meanwhile must be that it is not.
async fn until_answered(store: &RedisStore, key: RecordKey, swap: &Swap) -> Swapped {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match store.swap(&key, swap).await {
            Ok(answer) => return answer,
            Err(StoreError::Unavailable(_) | StoreError::TimedOut(_)) if Instant::now() < deadline => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Runs what blocks, as private servers do, beside the tests.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.expect("it does not panic")
}

/// Waits for something that happens by itself.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "it did not happen within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
