//! Tests of what only this engine has; what every store must do is in the shared suite.
//!
//! They run writer and keeper by hand, in one thread, on a simulated disk and clock, and compare every answer with a
//! model: a map of what must be there.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use semel_core::record::{Kept, Sealed};

use super::{
    simulated::{Fault, SimulatedDisk, Survival},
    *,
};
use crate::store::SimulatedClock;

mod damage;
mod faults;
mod housekeeping;
mod opening;
mod random;

const FOLDER: &str = "/data";

/// A store run by hand, and what it must answer.
struct World {
    disk: SimulatedDisk,
    clock: Arc<SimulatedClock>,
    options: Options,
    parts: Option<Parts>,
    /// What may be at each key: one state, or two after an error.
    model: BTreeMap<u64, Vec<Option<Known>>>,
    session: u32,
    writes: u128,
}

struct Parts {
    log: Arc<Log>,
    writer: RefCell<Writer>,
    keeper: Keeper,
    jobs: mpsc::Receiver<Job>,
    recovery: Recovery,
    _lock: Box<dyn FolderLock>,
}

#[derive(Clone, PartialEq, Debug)]
struct Known {
    put: Put,
    written_ms: u64,
    session: u32,
}

impl World {
    /// Small segments, so that everything happens often.
    fn new() -> World {
        let disk = SimulatedDisk::new();
        let clock = Arc::new(SimulatedClock::at(1_000_000));
        let options = Options {
            segment_bytes: 16 << 10,
            spare_segments: 1,
            recycled_segments_max: 3,
            batch_bytes_max: 4 << 10,
            clock: clock.clone(),
            disk: Arc::new(disk.clone()),
            ..Options::default()
        };
        World { disk, clock, options, parts: None, model: BTreeMap::new(), session: 0, writes: 0 }
    }

    fn opened() -> World {
        let mut world = World::new();
        world.open().unwrap();
        world
    }

    fn open(&mut self) -> Result<(), OpenError> {
        self.parts = None;
        self.options.disk = Arc::new(self.disk.clone());
        let opened = Opened::open(&PathBuf::from(FOLDER), self.options.clone())?;
        self.session += 1;
        let keeper = Keeper { log: opened.log.clone(), closing: Arc::default() };
        keeper.prepare_spares();
        self.parts = Some(Parts {
            log: opened.log,
            writer: RefCell::new(opened.writer),
            keeper,
            jobs: opened.job_queue,
            recovery: opened.recovery,
            _lock: opened.lock,
        });
        Ok(())
    }

    /// As `Drop` does it.
    fn close(&mut self) {
        let parts = self.parts.take().unwrap();
        let mut writer = parts.writer.borrow_mut();
        let job = Job::Stop { number: writer.active_number(), hint: writer.hint() };
        parts.keeper.work(job, &|_| unreachable!("stopping asks nothing of the writer"));
    }

    /// Ends the session without closing, and opens what survives.
    fn crash(&mut self, survival: Survival) {
        self.parts = None;
        self.disk = self.disk.restart(survival);
        self.open().unwrap_or_else(|error| panic!("after {survival:?}: {error}"));
    }

    fn parts(&self) -> &Parts {
        self.parts.as_ref().expect("the world is open")
    }

    fn recovery(&self) -> &Recovery {
        &self.parts().recovery
    }

    fn now(&self) -> u64 {
        self.parts().log.now_ms()
    }

    fn keep_house(&self) {
        while let Ok(job) = self.parts().jobs.try_recv() {
            self.parts().keeper.work(job, &|requests| self.submit(requests));
        }
    }

    fn submit(&self, requests: Vec<Request>) {
        let mut queue = VecDeque::from(requests);
        while !queue.is_empty() {
            self.parts().writer.borrow_mut().commit(&mut queue);
        }
    }

    fn sweep(&self) -> Result<u32, StoreError> {
        let swept = self.parts().keeper.sweep(u32::MAX, &|requests| self.submit(requests));
        self.keep_house();
        swept
    }

    /// As `Store::swap` does it, each commit being one.
    fn ask(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        loop {
            self.parts().log.check_poison()?;
            if let Some(answer) = self.parts().log.answer_without_writing(key, swap)? {
                return Ok(answer);
            }
            let (request, answer) = request(key, swap);
            self.submit(vec![request]);
            self.keep_house();
            let verdict = answer.wait().unwrap()?;
            if let Some(answer) = self.parts().log.conclude(key, swap, verdict)? {
                return Ok(answer);
            }
        }
    }

    /// Swaps, and compares the answer with the model.
    fn swap(&mut self, n: u64, swap: &Swap) -> Result<Swapped, StoreError> {
        let answer = self.ask(&key(n), swap);
        self.learn(n, swap, &answer);
        answer
    }

    /// Swaps of different keys in one frame.
    fn batch(&mut self, swaps: &[(u64, Swap)]) {
        let (requests, answers): (Vec<_>, Vec<_>) = swaps.iter().map(|(n, swap)| request(&key(*n), swap)).unzip();
        self.submit(requests);
        let before = self.now();
        self.keep_house();
        assert_eq!(before, self.now(), "the clock is ours");
        for ((n, swap), answer) in swaps.iter().zip(answers) {
            let answer = answer.wait().unwrap().and_then(|verdict| {
                Ok(self
                    .parts()
                    .log
                    .conclude(&key(*n), swap, verdict)?
                    .expect("one writer, so nothing changes meanwhile"))
            });
            self.learn(*n, swap, &answer);
        }
    }

    fn learn(&mut self, n: u64, swap: &Swap, answer: &Result<Swapped, StoreError>) {
        let now = self.now();
        let after = swap.put.clone().map(|put| Known { put, written_ms: now, session: self.session });
        let states = self.model.entry(n).or_insert_with(|| vec![None]);
        match answer {
            Ok(answer) => {
                let [state] = states.as_mut_slice() else {
                    panic!("key {n}: answered {answer:?} after a failed write")
                };
                let live = state.clone().and_then(|known| found(&known, now, self.session));
                let expected = match &live {
                    Some(live) if bears_stamp_of(live, swap.put.as_ref()) => Swapped::Done,
                    None if swap.expect.is_some() => Swapped::Absent,
                    Some(live) if swap.expect != Some(live.stamp) => Swapped::Found(live.clone()),
                    None | Some(_) => {
                        *state = after;
                        Swapped::Done
                    }
                };
                assert_eq!(*answer, expected, "key {n}: {swap:?}");
            }
            Err(StoreError::Full(_)) => {}
            Err(StoreError::Unavailable(_)) => {
                let before = states[0].clone();
                if !states.contains(&after) && before.map(|known| known.put.stamp) == swap.expect {
                    states.push(after);
                }
            }
            Err(error) => panic!("key {n}: {error}"),
        }
    }

    /// Everything that was answered is there, and nothing else.
    fn verify(&mut self) {
        let (now, session) = (self.now(), self.session);
        let log = self.parts().log.clone();
        for (n, states) in &mut self.model {
            let is = log.read(&key(*n)).unwrap_or_else(|error| panic!("key {n}: {error}"));
            let may_be = |state: &Option<Known>| is == state.as_ref().and_then(|known| found(known, now, session));
            let state = states.iter().find(|state| may_be(state));
            let state = state.unwrap_or_else(|| panic!("key {n} at {now}: {is:?} is none of {states:?}")).clone();
            *states = vec![state];
        }
        assert_eq!(log.index.len(), {
            let mut records = 0;
            log.index
                .for_each(|at, _| records += usize::from(self.model.keys().any(|n| Fingerprint::of(&key(*n)) == at)));
            records
        });
    }

    /// A put nobody made before.
    fn put(&mut self, record: Record) -> Put {
        self.writes += 1;
        Put { stamp: Stamp { exchange: ExchangeId(self.writes), write: 1 }, record }
    }

    /// The stamp of what lives at the key.
    fn stamp(&self, n: u64) -> Option<Stamp> {
        let state = self.model.get(&n)?.first()?.as_ref()?;
        Some(found(state, self.now(), self.session)?.stamp)
    }

    fn claim(&mut self, n: u64) -> Result<Swapped, StoreError> {
        let put = self.put(in_flight(1000));
        self.swap(n, &Swap { expect: None, put: Some(put) })
    }

    /// Replaces what is there, if anything is.
    fn replace(&mut self, n: u64, record: Record) -> Result<Swapped, StoreError> {
        let put = self.put(record);
        self.swap(n, &Swap { expect: self.stamp(n), put: Some(put) })
    }

    fn release(&mut self, n: u64) -> Result<Swapped, StoreError> {
        let expect = self.stamp(n);
        self.swap(n, &Swap { expect, put: None })
    }

    fn segments(&self) -> usize {
        self.parts().log.stats().segments
    }

    /// The file that is written now.
    fn active_path(&self) -> PathBuf {
        let slot = self.parts().log.segments.read().list.back().unwrap().slot;
        self.parts().log.segment_path(slot)
    }
}

fn found(known: &Known, now: u64, session: u32) -> Option<Found> {
    let age = Duration::from_millis(now - known.written_ms);
    let record = known.put.record.clone().at_age(age)?;
    Some(Found { stamp: known.put.stamp, age, abandoned: known.session < session, record })
}

fn key(n: u64) -> RecordKey {
    let mut bytes = [0; RecordKey::LEN];
    for (i, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        let shift = 17 * u32::try_from(i).unwrap();
        chunk.copy_from_slice(&((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(shift) ^ n).to_le_bytes());
    }
    RecordKey::from_bytes(bytes)
}

fn in_flight(retention_s: u64) -> Record {
    record(Phase::InFlight { lease: Duration::from_secs(35) }, retention_s)
}

fn completed(content: usize, replay_s: u64, retention_s: u64) -> Record {
    let sealed = Sealed { status: 201, bytes: Bytes::from(vec![b'x'; content]) };
    let replay_for = Duration::from_secs(replay_s);
    record(Phase::Completed { kept: Kept::Sealed(sealed), replay_for }, retention_s)
}

fn record(phase: Phase, retention_s: u64) -> Record {
    Record {
        fingerprint: RequestFingerprint::from_bytes([7; 32]),
        attempt: 1,
        phase,
        retention: Duration::from_secs(retention_s),
        guard: None,
        about: None,
    }
}
