//! The load of a store: claim and settle, as an exchange does them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use semel::store::{Record, RecordKey, Stamp, Store, Swap, Swapped};
use semel_core::{
    fingerprint::Fingerprint,
    record::{ExchangeId, Kept, Phase, Sealed},
    register::Put,
};
use tokio::runtime::Runtime;

use crate::stats::Latencies;

/// Retention of what the load writes.
pub(crate) const RETENTION: Duration = Duration::from_hours(24);

/// Content of each kept reply.
const CONTENT_BYTES: usize = 200;

/// What a run of the load did.
pub(crate) struct Done {
    /// Requests, each a claim and a settle.
    pub(crate) requests: u64,
    /// From the first claim to the last settle.
    pub(crate) elapsed: Duration,
    /// Of whole requests.
    pub(crate) latencies: Latencies,
}

/// Clients on one thread, so that the other is the store's: what `serve` gives a store on two cores, too.
pub(crate) fn clients() -> anyhow::Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build();
    runtime.context("cannot start the clients")
}

/// Makes requests under keys from `keys` on, `concurrency` at a time, until `duration` is over.
pub(crate) fn run_for(
    runtime: &Runtime,
    store: &Arc<dyn Store>,
    keys: &Arc<AtomicU64>,
    concurrency: usize,
    duration: Duration,
) -> anyhow::Result<Done> {
    run(runtime, store, keys, concurrency, &Arc::new(End::At(Instant::now() + duration)))
}

/// Fills the store with the records of the keys `0..count`.
pub(crate) fn fill(runtime: &Runtime, store: &Arc<dyn Store>, count: u64) -> anyhow::Result<Done> {
    run(runtime, store, &Arc::new(AtomicU64::new(0)), 1_024, &Arc::new(End::Key(count)))
}

/// Makes requests until `stop` says so.
pub(crate) fn run_until(
    runtime: &Runtime,
    store: &Arc<dyn Store>,
    keys: &Arc<AtomicU64>,
    concurrency: usize,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Done> {
    run(runtime, store, keys, concurrency, &Arc::new(End::Told(stop)))
}

/// The n-th key: spread over all of the space, as digests are.
pub(crate) fn key(n: u64) -> RecordKey {
    let mut bytes = [0; RecordKey::LEN];
    for (word, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&mix(n.wrapping_mul(4).wrapping_add(word as u64)).to_le_bytes());
    }
    RecordKey::from_bytes(bytes)
}

/// The claim of the n-th key.
pub(crate) fn claim(n: u64) -> Swap {
    let lease = Duration::from_secs(35);
    Swap { expect: None, put: Some(Put { stamp: stamp(n, 1), record: record(n, Phase::InFlight { lease }) }) }
}

/// The settle of the n-th key.
pub(crate) fn settle(n: u64) -> Swap {
    // Two header fields of 66 bytes in all, the lengths, and what a seal adds.
    let bytes = Bytes::from_static(&[b'x'; CONTENT_BYTES + 66 + 24 + 44]);
    let phase = Phase::Completed { kept: Kept::Sealed(Sealed { status: 201, bytes }), replay_for: RETENTION };
    Swap { expect: Some(stamp(n, 1)), put: Some(Put { stamp: stamp(n, 2), record: record(n, phase) }) }
}

/// What must reach the disk for one request at the very least: key, stamp and encoded record, twice.
pub(crate) fn logical_bytes() -> u64 {
    [claim(0), settle(0)]
        .iter()
        .filter_map(|swap| swap.put.as_ref())
        .map(|put| {
            let mut encoded = BytesMut::new();
            put.record.encode(&mut encoded);
            (RecordKey::LEN + STAMP_BYTES + encoded.len()) as u64
        })
        .sum()
}

/// A stamp as bytes: the exchange's 128 bits and the number of the write.
pub(crate) const STAMP_BYTES: usize = 18;

enum End {
    At(Instant),
    Key(u64),
    Told(Arc<AtomicBool>),
}

impl End {
    fn reached(&self, next: u64) -> bool {
        match self {
            End::At(time) => Instant::now() >= *time,
            End::Key(count) => next >= *count,
            End::Told(stop) => stop.load(Ordering::Relaxed),
        }
    }
}

fn run(
    runtime: &Runtime,
    store: &Arc<dyn Store>,
    keys: &Arc<AtomicU64>,
    concurrency: usize,
    end: &Arc<End>,
) -> anyhow::Result<Done> {
    let started = Instant::now();
    let tasks: Vec<_> = (0..concurrency)
        .map(|_| {
            let (store, keys, end) = (store.clone(), keys.clone(), end.clone());
            runtime.spawn(async move { client(&*store, &keys, &end).await })
        })
        .collect();
    let mut latencies = Latencies::new();
    for task in tasks {
        latencies.merge(&runtime.block_on(task).context("a client panicked")??);
    }
    Ok(Done { requests: latencies.count(), elapsed: started.elapsed(), latencies })
}

async fn client(store: &dyn Store, keys: &AtomicU64, end: &End) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new();
    loop {
        let n = keys.fetch_add(1, Ordering::Relaxed);
        if end.reached(n) {
            return Ok(latencies);
        }
        let key = key(n);
        let started = Instant::now();
        for swap in [claim(n), settle(n)] {
            match store.swap(&key, &swap).await? {
                Swapped::Done => {}
                lost @ (Swapped::Found(_) | Swapped::Absent) => bail!("key {n} is nobody else's, and still: {lost:?}"),
            }
        }
        latencies.record(started.elapsed());
    }
}

fn stamp(n: u64, write: u16) -> Stamp {
    Stamp { exchange: ExchangeId(u128::from(mix(n)) << 64 | u128::from(n)), write }
}

fn record(n: u64, phase: Phase) -> Record {
    let mut digest = [0; Fingerprint::LEN];
    digest[..8].copy_from_slice(&mix(!n).to_le_bytes());
    Record {
        fingerprint: Fingerprint::from_bytes(digest),
        attempt: 1,
        phase,
        retention: RETENTION,
        guard: None,
        about: None,
    }
}

/// `SplitMix64`: every input another output, spread evenly.
pub(crate) fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
