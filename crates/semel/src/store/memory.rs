//! The reference store: a map under a mutex. It forgets everything with the process, so it is for tests and throw-away
//! servers; every other store must tell the same stories as this one ([`testkit`](crate::testkit)).

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use semel_core::{
    fingerprint::Fingerprint,
    record::{ExchangeId, Phase},
};

use super::{
    Clock, Found, PROBE_KEY, PhaseKind, Put, Record, RecordKey, Stamp, Store, StoreError, Swap, Swapped, SystemClock,
};

/// How many records a [`MemoryStore`] holds unless told otherwise: some 2 GiB of facts, without their content.
pub const RECORDS_MAX_DEFAULT: usize = 4_000_000;

/// Records in this process's memory, gone when it ends. "Durable" means here: until then.
#[derive(Debug)]
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    records_max: usize,
    map: Mutex<Map>,
}

impl MemoryStore {
    /// An empty store that measures ages with a [`SystemClock`] of its own.
    pub fn new() -> MemoryStore {
        MemoryStore::with_clock(Arc::new(SystemClock::new()))
    }

    /// An empty store that measures ages with `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> MemoryStore {
        MemoryStore { clock, records_max: RECORDS_MAX_DEFAULT, map: Mutex::default() }
    }

    /// Holds at most `records_max` records ([`RECORDS_MAX_DEFAULT`] unless told): a claim of one more is
    /// [`StoreError::Full`], after room was sought among those past their retention.
    #[must_use]
    pub fn records_max(self, records_max: usize) -> MemoryStore {
        MemoryStore { records_max, ..self }
    }
}

impl Default for MemoryStore {
    fn default() -> MemoryStore {
        MemoryStore::new()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        let mut map = self.map.lock();
        // Read under the mutex, so that the order of writes is also the order of their times.
        map.swap(key, swap, self.clock.now_ms(), self.records_max)
    }

    async fn load(&self, key: &RecordKey) -> Result<Option<Found>, StoreError> {
        let map = self.map.lock();
        Ok(map.found(key, self.clock.now_ms()))
    }

    async fn scan(
        &self,
        phase: PhaseKind,
        after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, StoreError> {
        let map = self.map.lock();
        let now_ms = self.clock.now_ms();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let page = map
            .entries
            .range((from, Bound::Unbounded))
            .filter(|(_, entry)| entry.record.kind() == phase)
            .filter_map(|(key, entry)| Some((*key, entry.found(now_ms)?)))
            .take(limit as usize)
            .collect();
        Ok(page)
    }

    async fn sweep(&self, limit: u32) -> Result<u32, StoreError> {
        Ok(self.map.lock().sweep(self.clock.now_ms(), limit))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let stamp = Stamp { exchange: ExchangeId(0), write: 1 };
        let record = Record {
            fingerprint: Fingerprint::from_bytes([0; Fingerprint::LEN]),
            attempt: 1,
            phase: Phase::Unknown,
            retention: Duration::from_secs(1),
        };
        let put = Swap { expect: None, put: Some(Put { stamp, record }) };
        let remove = Swap { expect: Some(stamp), put: None };
        // Both under one hold of the mutex, so that nobody sees the record in between.
        let mut map = self.map.lock();
        let now_ms = self.clock.now_ms();
        map.swap(&PROBE_KEY, &put, now_ms, self.records_max)?;
        map.swap(&PROBE_KEY, &remove, now_ms, self.records_max)?;
        Ok(())
    }
}

#[derive(Default, Debug)]
struct Map {
    /// Ordered by key, because that is the order of a scan.
    entries: BTreeMap<RecordKey, Entry>,
    /// Each entry once, at the time when there will next be less of it: so a sweep looks only at what is due.
    due: BTreeSet<(u64, RecordKey)>,
}

#[derive(Debug)]
struct Entry {
    stamp: Stamp,
    written_ms: u64,
    record: Record,
}

impl Map {
    fn swap(&mut self, key: &RecordKey, swap: &Swap, now_ms: u64, records_max: usize) -> Result<Swapped, StoreError> {
        let found = self.found(key, now_ms);
        let stamp = found.as_ref().map(|found| found.stamp);
        if let (Some(put), Some(stamp)) = (&swap.put, stamp)
            && put.stamp == stamp
        {
            return Ok(Swapped::Done);
        }
        if stamp != swap.expect {
            return Ok(found.map_or(Swapped::Absent, Swapped::Found));
        }
        if swap.put.is_some() && !self.entries.contains_key(key) && self.entries.len() >= records_max {
            self.sweep(now_ms, 1);
            if self.entries.len() >= records_max {
                return Err(StoreError::Full(format!("{records_max} records, none past its retention")));
            }
        }
        self.remove(key);
        if let Some(Put { stamp, record }) = &swap.put {
            self.insert(*key, Entry { stamp: *stamp, written_ms: now_ms, record: record.clone() });
        }
        Ok(Swapped::Done)
    }

    fn found(&self, key: &RecordKey, now_ms: u64) -> Option<Found> {
        self.entries.get(key)?.found(now_ms)
    }

    fn sweep(&mut self, now_ms: u64, limit: u32) -> u32 {
        let mut swept = 0;
        while swept < limit
            && let Some(&(due_ms, key)) = self.due.first()
            && due_ms <= now_ms
        {
            let Entry { stamp, written_ms, record } = self.remove(&key).expect("what is due is an entry");
            match record.at_age(Duration::from_millis(now_ms - written_ms)) {
                Some(record) => self.insert(key, Entry { stamp, written_ms, record }),
                None => swept += 1,
            }
        }
        swept
    }

    fn insert(&mut self, key: RecordKey, entry: Entry) {
        self.due.insert((entry.due_ms(), key));
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &RecordKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.due.remove(&(entry.due_ms(), *key));
        Some(entry)
    }
}

impl Entry {
    /// What is left of it at `now_ms`; a clock that went back makes it young, never old.
    fn found(&self, now_ms: u64) -> Option<Found> {
        let age = Duration::from_millis(now_ms.saturating_sub(self.written_ms));
        let record = self.record.clone().at_age(age)?;
        Some(Found { stamp: self.stamp, age, abandoned: false, record })
    }

    /// When there will be less of it: its content goes, or all of it.
    fn due_ms(&self) -> u64 {
        let due = self.record.trims_at().unwrap_or(self.record.retention);
        let due_ms = u64::try_from(due.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        self.written_ms.saturating_add(due_ms)
    }
}
