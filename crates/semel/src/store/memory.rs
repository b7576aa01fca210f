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
            guard: None,
            about: None,
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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        store::SimulatedClock,
        testkit::{START_MS, sample},
    };

    /// All that a store was asked to do, and when: the whole state of the model, which answers by starting over.
    type Past = Vec<(u64, RecordKey, Swap)>;

    #[derive(Clone, Debug)]
    enum Act {
        Swap {
            key: u64,
            expect: Option<u16>,
            put: Option<(u16, Record)>,
        },
        /// The n-th last swap, once more.
        Again(usize),
        Advance(u64),
        Sweep(u32),
    }

    fn model_found(past: &[(u64, RecordKey, Swap)], key: &RecordKey, now_ms: u64) -> Option<Found> {
        let ((at_ms, at_key, swap), earlier) = past.split_last()?;
        if at_key == key && model_swap(earlier, key, swap, *at_ms) == Swapped::Done {
            let stamp_there = model_found(earlier, key, *at_ms).map(|found| found.stamp);
            let again = swap.put.as_ref().is_some_and(|put| Some(put.stamp) == stamp_there);
            if !again {
                let Put { stamp, record } = swap.put.clone()?;
                let age = Duration::from_millis(now_ms - at_ms);
                return Some(Found { stamp, age, abandoned: false, record: record.at_age(age)? });
            }
        }
        model_found(earlier, key, now_ms)
    }

    fn model_swap(past: &[(u64, RecordKey, Swap)], key: &RecordKey, swap: &Swap, now_ms: u64) -> Swapped {
        match (model_found(past, key, now_ms), &swap.put, swap.expect) {
            (Some(found), Some(put), _) if found.stamp == put.stamp => Swapped::Done,
            (Some(found), _, Some(expect)) if found.stamp == expect => Swapped::Done,
            (Some(found), _, _) => Swapped::Found(found),
            (None, _, None) => Swapped::Done,
            (None, _, Some(_)) => Swapped::Absent,
        }
    }

    fn records() -> impl Strategy<Value = Record> {
        let kinds = prop_oneof![
            Just(sample::in_flight(1)),
            Just(sample::unknown(1)),
            Just(sample::omitted(1)),
            Just(sample::completed(1, "done")),
        ];
        (kinds, 0..30u64, 0..30u64).prop_map(|(mut record, retention, trims)| {
            if let Phase::Completed { replay_for, .. } = &mut record.phase {
                *replay_for = Duration::from_millis(trims);
            }
            Record { retention: Duration::from_millis(retention), ..record }
        })
    }

    fn acts() -> impl Strategy<Value = Act> {
        let swap = (0..2u64, proptest::option::of(1..5u16), proptest::option::weighted(0.8, (1..5u16, records())));
        prop_oneof![
            6 => swap.prop_map(|(key, expect, put)| Act::Swap { key, expect, put }),
            1 => (0..3usize).prop_map(Act::Again),
            2 => (0..20u64).prop_map(Act::Advance),
            1 => (0..3u32).prop_map(Act::Sweep),
        ]
    }

    proptest! {
        // The model starts over for each answer, at a cost that doubles with each swap: short pasts, many of them.
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn it_answers_as_one_who_starts_over_each_time(acts in vec(acts(), 1..14)) {
            let clock = Arc::new(SimulatedClock::at(START_MS));
            let store = MemoryStore::with_clock(clock.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
            let mut past: Past = Vec::new();
            for act in acts {
                let asked = match act {
                    Act::Swap { key, expect, put } => {
                        let put = put.map(|(write, record)| Put { stamp: sample::stamp(1, write), record });
                        let expect = expect.map(|write| sample::stamp(1, write));
                        Some((sample::key(key), Swap { expect, put }))
                    }
                    Act::Again(back) => past.iter().rev().nth(back).map(|(_, key, swap)| (*key, swap.clone())),
                    Act::Advance(ms) => {
                        clock.advance(Duration::from_millis(ms));
                        None
                    }
                    Act::Sweep(limit) => {
                        let swept = runtime.block_on(store.sweep(limit)).expect("memory does not fail");
                        prop_assert!(swept <= limit);
                        None
                    }
                };
                let now_ms = clock.now_ms();
                if let Some((key, swap)) = asked {
                    let answer = runtime.block_on(store.swap(&key, &swap));
                    prop_assert_eq!(answer, Ok(model_swap(&past, &key, &swap, now_ms)));
                    past.push((now_ms, key, swap));
                }
                for key in [0, 1].map(sample::key) {
                    let found = runtime.block_on(store.load(&key));
                    prop_assert_eq!(found, Ok(model_found(&past, &key, now_ms)));
                }
            }
        }
    }

    fn claim(n: u64, retention: Duration) -> Swap {
        sample::put(None, sample::stamp(n, 1), Record { retention, ..sample::in_flight(n) })
    }

    #[tokio::test]
    async fn a_full_store_makes_room_of_what_is_past_and_refuses_only_new_keys() {
        let clock = Arc::new(SimulatedClock::at(START_MS));
        let store = MemoryStore::with_clock(clock.clone()).records_max(2);
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(100));
        assert_eq!(store.swap(&sample::key(1), &claim(1, short)).await, Ok(Swapped::Done));
        assert_eq!(store.swap(&sample::key(2), &claim(2, long)).await, Ok(Swapped::Done));
        assert!(matches!(store.swap(&sample::key(3), &claim(3, long)).await, Err(StoreError::Full(_))));
        assert!(matches!(store.probe().await, Err(StoreError::Full(_))), "a probe tells what a claim would meet");
        assert_eq!(store.load(&sample::key(3)).await, Ok(None), "what is refused is not applied");

        let settle = sample::put(Some(sample::stamp(2, 1)), sample::stamp(2, 2), sample::completed(2, "done"));
        assert_eq!(store.swap(&sample::key(2), &settle).await, Ok(Swapped::Done), "a settle needs no room");
        clock.advance(short);
        assert_eq!(store.swap(&sample::key(3), &claim(3, long)).await, Ok(Swapped::Done));
    }

    #[tokio::test]
    async fn a_sweep_gives_back_content_that_is_past_its_time() {
        let clock = Arc::new(SimulatedClock::at(START_MS));
        let store = MemoryStore::with_clock(clock.clone());
        let write = sample::put(None, sample::stamp(1, 1), sample::completed(1, vec![0; 1_000]));
        assert_eq!(store.swap(&sample::key(1), &write).await, Ok(Swapped::Done));
        clock.advance(sample::REPLAY_FOR);
        assert_eq!(store.sweep(1).await, Ok(0));
        let map = store.map.lock();
        assert_eq!(map.entries[&sample::key(1)].record.trims_at(), None, "there is no content left to trim");
        assert_eq!(map.due.len(), 1);
    }

    #[tokio::test]
    async fn a_clock_that_goes_back_makes_records_young_and_never_revives_or_expires_them() {
        let clock = Arc::new(SimulatedClock::at(START_MS));
        let store = MemoryStore::with_clock(clock.clone());
        assert_eq!(store.swap(&sample::key(1), &claim(1, Duration::from_secs(1))).await, Ok(Swapped::Done));
        clock.set(START_MS - 10_000);
        assert_eq!(store.sweep(10).await, Ok(0));
        let age = store.load(&sample::key(1)).await.unwrap().map(|found| found.age);
        assert_eq!(age, Some(Duration::ZERO));
    }
}
