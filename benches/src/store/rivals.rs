//! What the embedded store is compared with, behind one front: clients queue, one writer drains the queue into one
//! commit with one barrier, then everybody in it is answered.

use std::{
    collections::HashMap, fmt, fs::File, os::unix::fs::FileExt as _, path::Path, sync::Arc, thread, time::Duration,
};

use anyhow::Context;
use async_trait::async_trait;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use semel::store::{Found, PhaseKind, Record, RecordKey, Stamp, Store, StoreError, Swap, Swapped};
use semel_core::record::ExchangeId;
use tokio::sync::{mpsc, oneshot};

use super::load::STAMP_BYTES;
use crate::raw::prewritten;

/// The most swaps in one commit, and the most that wait for the next.
const BATCH_MAX: usize = 4_096;

/// A queue in front of an engine.
pub(crate) struct Grouped {
    queue: mpsc::Sender<Request>,
    name: &'static str,
}

/// The least that any durable store does: the bytes into blocks that were written before, and a barrier. No index, no
/// check of what is expected.
pub(crate) fn raw_log(folder: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let file = prewritten(&folder.join("log"), RAW_LOG_BYTES)?;
    Grouped::start("raw log", RawLog { file, at: 0, frame: BytesMut::new() })
}

/// The embedded database that came closest when engines were compared.
pub(crate) fn fjall(folder: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let database = Database::builder(folder.join("fjall")).open().context("cannot open fjall")?;
    let records = database.keyspace("records", KeyspaceCreateOptions::default).context("cannot open a keyspace")?;
    Grouped::start("fjall", Fjall { database, records })
}

struct Request {
    key: RecordKey,
    swap: Swap,
    answer: oneshot::Sender<Result<Swapped, StoreError>>,
}

trait Engine: Send + 'static {
    /// Applies the swaps in their order, makes them durable together, and answers each.
    fn commit(&mut self, requests: &[Request]) -> anyhow::Result<Vec<Swapped>>;
}

impl Grouped {
    fn start(name: &'static str, mut engine: impl Engine) -> anyhow::Result<Arc<dyn Store>> {
        let (queue, mut waiting) = mpsc::channel::<Request>(BATCH_MAX);
        let writer = move || {
            let mut requests = Vec::new();
            while waiting.blocking_recv_many(&mut requests, BATCH_MAX) > 0 {
                let swapped = engine.commit(&requests).map_err(|error| StoreError::Unavailable(error.to_string()));
                for (at, request) in requests.drain(..).enumerate() {
                    let answer = swapped.as_ref().map(|swapped| swapped[at].clone()).map_err(Clone::clone);
                    // A client that no longer waits needs no answer.
                    let _ = request.answer.send(answer);
                }
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(writer).context("cannot start a writer")?;
        Ok(Arc::new(Grouped { queue, name }))
    }
}

impl fmt::Debug for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[async_trait]
impl Store for Grouped {
    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { key: *key, swap: swap.clone(), answer };
        self.queue.send(request).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    async fn load(&self, _: &RecordKey) -> Result<Option<Found>, StoreError> {
        Err(not_measured())
    }

    async fn scan(&self, _: PhaseKind, _: Option<RecordKey>, _: u32) -> Result<Vec<(RecordKey, Found)>, StoreError> {
        Err(not_measured())
    }

    async fn sweep(&self, _: u32) -> Result<u32, StoreError> {
        Err(not_measured())
    }

    async fn probe(&self) -> Result<(), StoreError> {
        Err(not_measured())
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable("the writer has ended".to_owned())
}

fn not_measured() -> StoreError {
    StoreError::Unavailable("rivals are measured at swaps only".to_owned())
}

/// Much more than one run writes, and written before it: a log that recycles its segments is always in this state.
const RAW_LOG_BYTES: u64 = 256 * 1024 * 1024;

struct RawLog {
    file: File,
    at: u64,
    frame: BytesMut,
}

impl Engine for RawLog {
    fn commit(&mut self, requests: &[Request]) -> anyhow::Result<Vec<Swapped>> {
        self.frame.clear();
        for request in requests {
            self.frame.put_slice(request.key.as_bytes());
            put_value(&mut self.frame, &request.swap);
        }
        // Whole blocks: what a log does that never rewrites a block it has answered for.
        let padded = self.frame.len().next_multiple_of(4096);
        self.frame.resize(padded, 0);
        if self.at + padded as u64 > RAW_LOG_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(&self.frame, self.at)?;
        self.file.sync_data()?;
        self.at += padded as u64;
        Ok(vec![Swapped::Done; requests.len()])
    }
}

struct Fjall {
    database: Database,
    records: Keyspace,
}

impl Engine for Fjall {
    fn commit(&mut self, requests: &[Request]) -> anyhow::Result<Vec<Swapped>> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        // What this batch has put already, where the database does not show it yet.
        let mut pending: HashMap<RecordKey, Option<Bytes>> = HashMap::new();
        let mut swapped = Vec::with_capacity(requests.len());
        for Request { key, swap, .. } in requests {
            let there = match pending.get(key) {
                Some(there) => there.clone(),
                None => self.records.get(key.as_bytes())?.map(|value| Bytes::copy_from_slice(&value)),
            };
            let stamp = there.as_ref().map(|value| stamp_of(value.clone()));
            if stamp != swap.expect {
                swapped.push(match there {
                    Some(value) => Swapped::Found(found(value)?),
                    None => Swapped::Absent,
                });
                continue;
            }
            let mut value = BytesMut::new();
            put_value(&mut value, swap);
            let value = value.freeze();
            if swap.put.is_some() {
                batch.insert(&self.records, key.as_bytes(), value.as_ref());
            } else {
                batch.remove(&self.records, key.as_bytes());
            }
            pending.insert(*key, swap.put.is_some().then_some(value));
            swapped.push(Swapped::Done);
        }
        batch.commit()?;
        Ok(swapped)
    }
}

fn put_value(out: &mut BytesMut, swap: &Swap) {
    if let Some(put) = &swap.put {
        out.put_u128_le(put.stamp.exchange.0);
        out.put_u16_le(put.stamp.write);
        put.record.encode(out);
    }
}

fn stamp_of(mut value: Bytes) -> Stamp {
    Stamp { exchange: ExchangeId(value.get_u128_le()), write: value.get_u16_le() }
}

fn found(value: Bytes) -> anyhow::Result<Found> {
    let record = Record::decode(value.slice(STAMP_BYTES..))?;
    Ok(Found { stamp: stamp_of(value), age: Duration::ZERO, abandoned: false, record })
}
