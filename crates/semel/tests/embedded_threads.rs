//! The embedded store as its users have it, with its threads, on a disk that fails when told to.
#![cfg(feature = "embedded")]

use std::{path::Path, sync::Arc, time::Duration};

use semel::store::{
    Put, Record, RecordKey, Stamp, Store, StoreError, Swap, Swapped,
    embedded::{
        EmbeddedStore, OpenError, Options,
        simulated::{Fault, SimulatedDisk, Survival},
    },
};
use semel_core::{
    fingerprint::Fingerprint,
    record::{ExchangeId, Phase},
};

fn open(disk: &SimulatedDisk) -> Arc<EmbeddedStore> {
    open_with(disk, |_| {})
}

fn open_with(disk: &SimulatedDisk, change: impl FnOnce(&mut Options)) -> Arc<EmbeddedStore> {
    let mut options =
        Options { disk: Arc::new(disk.clone()), segment_bytes: 64 << 10, spare_segments: 0, ..Options::default() };
    change(&mut options);
    Arc::new(EmbeddedStore::open(Path::new("/data"), options).expect("the folder opens").0)
}

fn key(n: u8) -> RecordKey {
    RecordKey::from_bytes([n; RecordKey::LEN])
}

fn put(exchange: u128, write: u16) -> Put {
    let record = Record {
        fingerprint: Fingerprint::from_bytes([7; 32]),
        attempt: 1,
        phase: Phase::InFlight { lease: Duration::from_secs(35) },
        retention: Duration::from_hours(1),
        guard: None,
        about: None,
    };
    Put { stamp: Stamp { exchange: ExchangeId(exchange), write }, record }
}

fn claim(exchange: u128) -> Swap {
    Swap { expect: None, put: Some(put(exchange, 1)) }
}

#[tokio::test]
async fn k10_after_a_failed_barrier_everything_is_refused_until_it_is_opened_again() {
    let disk = SimulatedDisk::new();
    let store = open(&disk);
    assert_eq!(store.swap(&key(1), &claim(1)).await, Ok(Swapped::Done));
    // A frame is one write and one barrier.
    disk.plan(disk.operations() + 1, Fault::Io);
    let refused = |answer: &StoreError| matches!(answer, StoreError::Unavailable(why) if why.contains("restart"));
    assert!(refused(&store.swap(&key(2), &claim(2)).await.unwrap_err()));
    assert!(refused(&store.swap(&key(3), &claim(3)).await.unwrap_err()));
    assert!(refused(&store.swap(&key(1), &claim(1)).await.unwrap_err()));
    assert!(refused(&store.load(&key(1)).await.unwrap_err()));
    assert!(refused(&store.probe().await.unwrap_err()));
    assert!(refused(&store.sweep(1).await.unwrap_err()));
    drop(store);
    let store = open(&disk.restart(Survival::Cached));
    assert_eq!(store.swap(&key(1), &claim(1)).await, Ok(Swapped::Done));
    assert_eq!(store.swap(&key(3), &claim(3)).await, Ok(Swapped::Done));
    store.probe().await.unwrap();
}

#[tokio::test]
async fn a_full_disk_is_told_as_full_and_goes_on_when_there_is_room() {
    let disk = SimulatedDisk::new();
    let store = open(&disk);
    disk.plan(disk.operations(), Fault::Full);
    assert!(matches!(store.swap(&key(1), &claim(1)).await, Err(StoreError::Full(_))));
    assert_eq!(store.load(&key(1)).await, Ok(None));
    assert_eq!(store.swap(&key(1), &claim(2)).await, Ok(Swapped::Done));
}

#[tokio::test]
async fn a_queue_over_its_limit_is_full_and_nothing_of_it_was_done() {
    let disk = SimulatedDisk::new();
    let store = open_with(&disk, |options| options.queue_swaps_max = 0);
    assert!(matches!(store.swap(&key(1), &claim(1)).await, Err(StoreError::Full(why)) if why.contains("wait")));
    assert_eq!(store.load(&key(1)).await, Ok(None));
}

#[tokio::test]
async fn closing_finishes_what_was_asked_and_frees_the_folder() {
    let disk = SimulatedDisk::new();
    let store = open(&disk);
    let asked = tokio::spawn({
        let store = store.clone();
        async move { store.swap(&key(1), &claim(1)).await }
    });
    assert_eq!(asked.await.unwrap(), Ok(Swapped::Done));
    let options = Options { disk: Arc::new(disk.clone()), ..Options::default() };
    assert!(matches!(EmbeddedStore::open(Path::new("/data"), options), Err(OpenError::Locked { .. })));
    drop(Arc::into_inner(store).unwrap());
    let store = open(&disk);
    assert!(store.load(&key(1)).await.unwrap().unwrap().abandoned);
}

#[tokio::test]
async fn a_dropped_swap_is_done_or_not_and_the_store_goes_on() {
    let disk = SimulatedDisk::new();
    let store = open(&disk);
    for n in 0..50 {
        let swap = claim(u128::from(n));
        let key = key(n);
        let mut asked = Box::pin(store.swap(&key, &swap));
        assert!(futures_poll_once(asked.as_mut()).await.is_none_or(|answer| answer == Ok(Swapped::Done)));
        drop(asked);
        assert_eq!(store.swap(&key, &swap).await, Ok(Swapped::Done));
    }
}

async fn futures_poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

/// Many tasks count one register up by swaps, while others sweep and read: each swap that is done saw the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_swaps_of_one_key_form_one_chain() {
    const TASKS: u128 = 16;
    const EACH: u16 = 40;
    let disk = SimulatedDisk::new();
    let store = open_with(&disk, |options| {
        options.segment_bytes = 16 << 10;
        options.spare_segments = 2;
    });
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let mut expect = None;
                let mut write = 1;
                while write <= EACH {
                    let swap = Swap { expect, put: Some(put(task + 1, write)) };
                    match store.swap(&key(9), &swap).await.unwrap() {
                        Swapped::Done => {
                            seen.push((expect, Stamp { exchange: ExchangeId(task + 1), write }));
                            expect = Some(Stamp { exchange: ExchangeId(task + 1), write });
                            write += 1;
                            store.sweep(10).await.unwrap();
                        }
                        Swapped::Found(found) => expect = Some(found.stamp),
                        Swapped::Absent => expect = None,
                    }
                }
                seen
            })
        })
        .collect();
    let mut before = std::collections::HashMap::new();
    for task in tasks {
        for (expect, put) in task.await.unwrap() {
            assert_eq!(before.insert(expect, put), None, "two swaps replaced the same record");
        }
    }
    let mut at = None;
    let mut length = 0;
    while let Some(next) = before.get(&at) {
        at = Some(*next);
        length += 1;
    }
    assert_eq!(length, TASKS * u128::from(EACH));
    assert_eq!(store.load(&key(9)).await.unwrap().unwrap().stamp, at.unwrap());
}
