//! A small store with one mistake at a time, each of which somebody has made or could make. The suite must catch every
//! one, in the case that is about it; and every case must catch at least one, or it claims nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use semel::{
    store::{Clock, Found, PhaseKind, Put, Record, RecordKey, SimulatedClock, Stamp, Store, StoreError, Swap, Swapped},
    testkit::{
        Harness, Keeps, START_MS, Subject, Sweeps, sample,
        suite::{self, Verdict},
    },
};
use semel_core::record::{ExchangeId, Kept, Phase, Sealed};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bug {
    /// Says that it is done, and writes later, or never.
    WritesNothing,
    /// Says that it is done, and leaves the record.
    ReleasesNothing,
    /// Takes an unknown outcome for the last word.
    UnknownIsFinal,
    /// The last writer wins.
    IgnoresExpect,
    /// Another claim than the last is refused, but releases are not fenced (`peers.md` #7, #11, #21).
    ReleasesAnyones,
    /// Settles are not fenced (`peers.md` #11).
    SettlesAnyones,
    /// A claim replaces what is there (`peers.md` #8, in its plainest form).
    ClaimsWhatIsTaken,
    /// A writer who lost the answer meets itself as a stranger (`peers.md` #10).
    NoSameStamp,
    /// Every stamp that was ever written is done, also after it was replaced.
    RemembersAllStamps,
    /// The same stamp again writes again, and the age starts again.
    SameStampWrites,
    /// Any write of the same exchange is the same stamp.
    ComparesExchangesOnly,
    /// Keeps 64 bits of the exchange.
    HalvesExchanges,
    /// Looks at the first 8 bytes of a key.
    QuartersKeys,
    /// Looks at the first 16 bytes of a key.
    HalvesKeys,
    /// Expecting a stamp where nothing lives writes.
    PutsWhereNothingLives,
    /// A release where nothing lives is done.
    AbsentReleaseIsDone,
    /// A read that decides claims.
    DecidingReadClaims,
    /// Looks, yields, and then writes (`peers.md` #8, #19).
    CheckThenSet,
    /// Answers from what it read before it waited.
    AnswersFromBefore,
    /// Loads are answered by a replica that is one write behind.
    LoadsLag,
    /// Of a guard only who holds it is kept, and of records not which guard they have.
    ForgetsGuards,
    /// A handle has a cache of its own (`peers.md` #22).
    CachesReads,
    /// Never forgets.
    KeepsForever,
    /// Forgets a millisecond late.
    ForgetsLate,
    /// Reads hide what is past its retention, and a claim still meets it (`peers.md` #26).
    SwapMeetsExpired,
    /// Operators see what is past its retention.
    ScanShowsExpired,
    /// The lease is taken for the retention (`peers.md` #15).
    FreesPastLease,
    /// Replies are shown for ever.
    NeverTrims,
    /// Replies are trimmed in what a swap finds, and not in scans.
    ScanNeverTrims,
    /// Trimming is a write, and starts the age again.
    SweepRestartsAge,
    /// A settle keeps the age of the claim.
    AgeSinceClaim,
    /// A load is a write, and starts the age again.
    LoadRestartsAge,
    /// Seconds are precise enough.
    AgesInSeconds,
    /// Retentions are 32 bits of milliseconds.
    ShortRetentions,
    /// Removes at the first time that it noted for a key, whatever was written since.
    SweepsByFirstWrite,
    /// Removes what lives.
    SweepsAll,
    /// Sweeps all that is past, whatever the limit.
    SweepIgnoresLimit,
    /// Counts what it looked at.
    SweepCountsVisited,
    /// Sweeps one less than it finds, and says that it swept all.
    SweepForgetsOne,
    /// Decides what to remove, yields, and then removes whatever is there.
    SweepsBlindly,
    /// A page begins with the last of the page before.
    PagesOverlap,
    /// A page begins one too late.
    PagesSkip,
    /// In the order of writing.
    Unordered,
    /// Knows records by their first phase.
    ScanByFirstPhase,
    /// The update drops the fingerprint (`peers.md` #16).
    SettleDropsFingerprint,
    /// A column that nobody reads.
    ForgetsAbout,
    /// Text (`peers.md` #12, #18).
    SealedIsText,
    /// No content is no reply.
    EmptyIsOmitted,
    /// 65,535 bytes.
    CutsSealed,
    /// Sixteen bits of attempts.
    CutsAttempts,
    /// A probe can be asked once.
    ProbeOnce,
    /// A probe leaves its record.
    ProbeLeavesRecord,
    /// Durable at the next write.
    LosesLastWrite,
    /// A removal is not written down.
    LosesRemovals,
    /// The first write of a key is the one that is found again.
    RecoversFirstWrite,
    /// The stamp is not written down whole.
    RecoversWithoutWrite,
    /// Ages begin when the store is opened.
    RecoversYoung,
    /// What was swept is found again.
    RecoversSwept,
    /// Concurrent writers overwrite one another's place in the file.
    LosesEveryHundredth,
    /// Nobody is ever known to be dead.
    NeverAbandoned,
    /// Claims made since are taken for dead ones.
    AbandonsTheLiving,
}

/// Each bug, and cases that catch it.
const CATALOGUE: &[(Bug, &[&str])] = {
    use Bug::*;
    &[
        (WritesNothing, &["a claim on nothing is done"]),
        (ReleasesNothing, &["a release frees the key"]),
        (UnknownIsFinal, &["each phase replaces the one whose stamp it expects"]),
        (IgnoresExpect, &["a second claim is told of the first and changes nothing"]),
        (ReleasesAnyones, &["a writer whose stamp is gone changes nothing"]),
        (SettlesAnyones, &["a writer whose stamp is gone changes nothing"]),
        (ClaimsWhatIsTaken, &["of 64 claims that start together, one wins and all others are told of it"]),
        (NoSameStamp, &["the same stamp again is done, and writes nothing"]),
        (NoSameStamp, &["a claim asked several times at once by its writer is done every time"]),
        (RemembersAllStamps, &["a claim asked again after it was replaced is told what replaced it"]),
        (SameStampWrites, &["the same stamp again is done, and writes nothing"]),
        (ComparesExchangesOnly, &["stamps are told apart by every part of them"]),
        (HalvesExchanges, &["stamps are told apart by every part of them"]),
        (QuartersKeys, &["keys are told apart by every one of their first 128 bits"]),
        (HalvesKeys, &["keys that share their first 128 bits are told apart, or refused as corrupt"]),
        (PutsWhereNothingLives, &["expecting a stamp where nothing lives is absent, and writes nothing"]),
        (AbsentReleaseIsDone, &["a release asked twice finds nothing or the next claim, and leaves both"]),
        (DecidingReadClaims, &["expecting nothing and putting nothing reads and changes nothing"]),
        (
            CheckThenSet,
            &[
                "of 64 claims that start together, one wins and all others are told of it",
                "racing swaps form one chain per key, in an order that time allows",
                "racing swaps and releases form one chain per key",
            ],
        ),
        (AnswersFromBefore, &["racing swaps form one chain per key, in an order that time allows"]),
        (CachesReads, &["what one handle did, another sees at once"]),
        (CachesReads, &["a load sees the last swap that was confirmed to anybody before it was asked"]),
        (LoadsLag, &["a load sees the last swap that was confirmed to anybody before it was asked"]),
        (ForgetsGuards, &["every field of every phase comes back"]),
        (KeepsForever, &["a record lives until its retention, and not a millisecond longer"]),
        (ForgetsLate, &["a record lives until its retention, and not a millisecond longer"]),
        (SwapMeetsExpired, &["past its retention a record is absent to every question"]),
        (ScanShowsExpired, &["a scan shows what lives in its phase now"]),
        (FreesPastLease, &["an in-flight record outlives its lease"]),
        (NeverTrims, &["content goes at replay_for, and the fact stays"]),
        (NeverTrims, &["content that may never be replayed is never shown"]),
        (ScanNeverTrims, &["content goes at replay_for, and the fact stays"]),
        (SweepRestartsAge, &["a sweep that trims content leaves stamp, age and retention"]),
        (AgeSinceClaim, &["every write starts the age and the retention again"]),
        (LoadRestartsAge, &["a load never changes anything"]),
        (AgesInSeconds, &["an age is the time since the write, by the store's clock"]),
        (ShortRetentions, &["a retention of a century is kept"]),
        (SweepsByFirstWrite, &["a sweep leaves what replaced a record that would be past"]),
        (SweepsAll, &["a sweep removes what is past and nothing else"]),
        (SweepIgnoresLimit, &["a sweep removes at most its limit, and all when called until it answers less"]),
        (SweepCountsVisited, &["a sweep removes what is past and nothing else"]),
        (SweepForgetsOne, &["a sweep removes what is past and nothing else"]),
        (SweepsBlindly, &["a sweep that races with claims removes none of them"]),
        (PagesOverlap, &["pages of a scan are in ascending order, complete, and without repetition"]),
        (PagesSkip, &["pages of a scan are in ascending order, complete, and without repetition"]),
        (Unordered, &["pages of a scan are in ascending order, complete, and without repetition"]),
        (ScanByFirstPhase, &["a scan shows what lives in its phase now"]),
        (SettleDropsFingerprint, &["the fingerprint survives claim, settle and replay"]),
        (ForgetsAbout, &["every field of every phase comes back"]),
        (SealedIsText, &["empty and binary content come back byte for byte"]),
        (EmptyIsOmitted, &["empty and binary content come back byte for byte"]),
        (CutsSealed, &["content of a mebibyte comes back"]),
        (CutsAttempts, &["every field of every phase comes back"]),
        (ProbeOnce, &["a probe succeeds however often it is asked"]),
        (ProbeLeavesRecord, &["a probe leaves nothing behind"]),
        (LosesLastWrite, &["opened again, it has every record that was done, in every field"]),
        (LosesRemovals, &["opened again, it has the last of several writes, and not what was released"]),
        (RecoversFirstWrite, &["opened again, it has the last of several writes, and not what was released"]),
        (RecoversWithoutWrite, &["opened again, the same stamp again is done and a stale writer changes nothing"]),
        (RecoversYoung, &["opened again, ages and retentions go on from the write"]),
        (RecoversSwept, &["opened again, what was swept or trimmed does not come back"]),
        (LosesEveryHundredth, &["opened again after many writes and much content, nothing is missing"]),
        (NeverAbandoned, &["opened again by its one owner, what was in flight is abandoned, and new claims are not"]),
        (
            AbandonsTheLiving,
            &["opened again by its one owner, what was in flight is abandoned, and new claims are not"],
        ),
        // What else would notice: cases that follow from the rest, and are there for what they say when they fail.
        (PutsWhereNothingLives, &["every history is told as the reference tells it"]),
        (RecoversYoung, &["a history is told the same by a store that is opened again in between"]),
        (NoSameStamp, &["opened again, the same stamp again is done and a stale writer changes nothing"]),
    ]
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_bug_the_small_store_passes_everything() {
    let outcomes = suite::run(&Planted::without_bugs()).await;
    suite::assert_all_pass(&outcomes);
    for outcome in outcomes {
        assert_eq!(outcome.verdict, Verdict::Passed, "{} applies to it", outcome.name);
    }
}

/// Nobody counts what such a store deletes; what it may delete is the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_gives_space_back_in_bulk_passes_all_that_does_not_count() {
    let harness = |bug| Planted { bug, sweeps: Sweeps::InBulk };
    let outcomes = suite::run(&harness(None)).await;
    suite::assert_all_pass(&outcomes);
    super::does_not_apply(
        &outcomes,
        &expect_test::expect![[r"
            a sweep removes at most its limit, and all when called until it answers less
        "]],
    );
    for bug in [Bug::SweepsAll, Bug::SweepsByFirstWrite, Bug::SweepCountsVisited, Bug::SweepRestartsAge] {
        let outcomes = suite::run(&harness(Some(bug))).await;
        assert!(outcomes.iter().any(|outcome| matches!(outcome.verdict, Verdict::Failed(_))), "{bug:?} is not caught");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_planted_bug_is_caught_by_the_case_about_it() {
    let cases = suite::cases();
    let mut missed = Vec::new();
    for (bug, catchers) in CATALOGUE {
        for name in *catchers {
            let case = cases.iter().find(|case| case.name == *name).expect("the catalogue names a case of the suite");
            match case.outcome(&Planted { bug: Some(*bug), ..Planted::without_bugs() }).await.verdict {
                Verdict::Failed(failure) => println!("{bug:?}: caught by: {name}\n    {failure}"),
                Verdict::Passed | Verdict::DoesNotApply => missed.push((bug, name)),
            }
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

/// Rules out a case that cannot fail.
#[test]
fn every_case_catches_a_planted_bug() {
    let catching: BTreeSet<&str> = CATALOGUE.iter().flat_map(|(_, cases)| *cases).copied().collect();
    let idle: Vec<&str> = suite::cases().iter().map(|case| case.name).filter(|name| !catching.contains(name)).collect();
    assert_eq!(idle, Vec::<&str>::new(), "plant a bug for each of these");
}

/// A store with a "disk" that outlives it: enough for every case of the suite.
#[derive(Debug)]
struct Planted {
    bug: Option<Bug>,
    sweeps: Sweeps,
}

impl Planted {
    fn without_bugs() -> Planted {
        Planted { bug: None, sweeps: Sweeps::Each }
    }
}

struct PlantedSubject {
    clock: Arc<SimulatedClock>,
    disk: Arc<Mutex<Disk>>,
    handles: [Arc<PlantedStore>; 2],
}

#[derive(Debug)]
struct PlantedStore {
    bug: Option<Bug>,
    sweeps: Sweeps,
    clock: Arc<SimulatedClock>,
    disk: Arc<Mutex<Disk>>,
    /// For [`Bug::CachesReads`].
    seen: Mutex<BTreeMap<RecordKey, Live>>,
}

#[derive(Default, Debug)]
struct Disk {
    live: BTreeMap<RecordKey, Live>,
    opened: u32,
    writes: u64,
    // What bugs need to know.
    ever: HashSet<Stamp>,
    first: BTreeMap<RecordKey, Live>,
    before_last_write: BTreeMap<RecordKey, Live>,
    removed: BTreeMap<RecordKey, Live>,
    swept: BTreeMap<RecordKey, Live>,
    probed: u32,
}

#[derive(Clone, Debug)]
struct Live {
    stamp: Stamp,
    written_ms: u64,
    opened: u32,
    order: u64,
    record: Record,
}

#[async_trait]
impl Harness for Planted {
    fn keeps(&self) -> Keeps {
        Keeps::RecordsOfOneOwner
    }

    fn sweeps(&self) -> Sweeps {
        self.sweeps
    }

    async fn fresh(&self) -> Box<dyn Subject> {
        let clock = Arc::new(SimulatedClock::at(START_MS));
        let disk = Arc::new(Mutex::new(Disk::default()));
        let handle = || {
            let (bug, sweeps, clock, disk) = (self.bug, self.sweeps, clock.clone(), disk.clone());
            Arc::new(PlantedStore { bug, sweeps, clock, disk, seen: Mutex::default() })
        };
        Box::new(PlantedSubject { handles: [handle(), handle()], clock, disk })
    }
}

#[async_trait]
impl Subject for PlantedSubject {
    fn store(&self) -> Arc<dyn Store> {
        self.handles[0].clone()
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn another(&self) -> Option<Arc<dyn Store>> {
        Some(self.handles[1].clone())
    }

    async fn reopen(&mut self) {
        self.disk.lock().recover(self.handles[0].bug, self.clock.now_ms());
    }
}

impl Disk {
    fn recover(&mut self, bug: Option<Bug>, now_ms: u64) {
        self.opened += 1;
        match bug {
            Some(Bug::LosesLastWrite) => self.live = self.before_last_write.clone(),
            Some(Bug::LosesRemovals) => self.live.append(&mut self.removed),
            Some(Bug::RecoversFirstWrite) => {
                let first = |key: &RecordKey| (*key, self.first[key].clone());
                self.live = self.live.keys().map(first).collect();
            }
            Some(Bug::RecoversWithoutWrite) => self.live.values_mut().for_each(|live| live.stamp.write = 0),
            Some(Bug::RecoversYoung) => self.live.values_mut().for_each(|live| live.written_ms = now_ms),
            Some(Bug::RecoversSwept) => {
                self.swept.values_mut().for_each(|live| live.written_ms = now_ms);
                self.live.append(&mut self.swept);
            }
            Some(Bug::LosesEveryHundredth) => self.live.retain(|_, live| live.order % 100 != 99),
            _ => {}
        }
    }
}

impl PlantedStore {
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Gives others the time to do what this bug does not expect, so that it shows on any machine; but not for ever.
    async fn until(&self, yields_max: u32, happened: impl Fn(&Disk) -> bool) {
        for _ in 0..yields_max {
            if happened(&self.disk.lock()) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn key(&self, key: &RecordKey) -> RecordKey {
        let len = match self.bug {
            Some(Bug::QuartersKeys) => 8,
            Some(Bug::HalvesKeys) => 16,
            _ => RecordKey::LEN,
        };
        let mut bytes = [0; RecordKey::LEN];
        bytes[..len].copy_from_slice(&key.as_bytes()[..len]);
        RecordKey::from_bytes(bytes)
    }

    fn equal(&self, one: Stamp, other: Stamp) -> bool {
        match self.bug {
            Some(Bug::ComparesExchangesOnly) => one.exchange == other.exchange,
            Some(Bug::HalvesExchanges) => {
                let low = |stamp: Stamp| (stamp.exchange.0 & u128::from(u64::MAX), stamp.write);
                low(one) == low(other)
            }
            _ => one == other,
        }
    }

    fn found(&self, live: &Live, opened: u32) -> Option<Found> {
        let age_ms = self.clock.now_ms().saturating_sub(live.written_ms);
        let mut age = Duration::from_millis(age_ms);
        let record = live.record.clone();
        let retention = record.retention;
        let record = match (self.bug, &record.phase) {
            (Some(Bug::KeepsForever), _) => Some(Record { retention: Duration::MAX, ..record })
                .and_then(|record| record.at_age(age))
                .map(|record| Record { retention, ..record }),
            (Some(Bug::ForgetsLate), _) if age == retention => Some(record),
            (Some(Bug::ShortRetentions), _) => {
                let ms = retention.as_millis() & u128::from(u32::MAX);
                record.at_age(age).filter(|_| u128::from(age_ms) < ms)
            }
            (Some(Bug::FreesPastLease), Phase::InFlight { lease }) if age > *lease => None,
            (Some(Bug::NeverTrims), _) => Some(record).filter(|_| age < retention),
            _ => record.at_age(age),
        }?;
        if self.has(Bug::AgesInSeconds) {
            age = Duration::from_secs(age.as_secs());
        }
        let in_flight = record.kind() == PhaseKind::InFlight;
        let abandoned = match self.bug {
            Some(Bug::NeverAbandoned) => false,
            Some(Bug::AbandonsTheLiving) => in_flight && opened > 0,
            _ => in_flight && live.opened < opened,
        };
        Some(Found { stamp: live.stamp, age, abandoned, record })
    }

    /// As it would come back from wherever this store writes it.
    fn stored(&self, mut record: Record, replaces: Option<&Live>) -> Record {
        match self.bug {
            Some(Bug::SettleDropsFingerprint) if replaces.is_some() => {
                record.fingerprint = sample::fingerprint(0);
            }
            Some(Bug::ForgetsGuards) => record.guard = None,
            Some(Bug::ForgetsAbout) => record.about = None,
            Some(Bug::CutsAttempts) => record.attempt &= 0xffff,
            _ => {}
        }
        let Phase::Completed { kept: Kept::Sealed(Sealed { bytes, .. }), .. } = &mut record.phase else {
            return record;
        };
        match self.bug {
            Some(Bug::SealedIsText) => *bytes = String::from_utf8_lossy(bytes).into_owned().into(),
            Some(Bug::CutsSealed) => bytes.truncate(0xffff),
            Some(Bug::EmptyIsOmitted) if bytes.is_empty() => {
                return record.at_age(sample::REPLAY_FOR).expect("it lives longer");
            }
            _ => {}
        }
        record
    }

    /// The contract, but for the bug.
    fn swap_at(&self, disk: &mut Disk, key: &RecordKey, swap: &Swap, found: Option<Found>) -> Swapped {
        let stamp = found.as_ref().map(|found| found.stamp);
        if let Some(put) = &swap.put {
            let again = stamp.is_some_and(|stamp| self.equal(stamp, put.stamp)) && !self.has(Bug::NoSameStamp);
            let remembered = self.has(Bug::RemembersAllStamps) && disk.ever.contains(&put.stamp);
            if again || remembered {
                if self.has(Bug::SameStampWrites) {
                    disk.live.entry(*key).and_modify(|live| live.written_ms = self.clock.now_ms());
                }
                return Swapped::Done;
            }
        }
        let expected = match (swap.expect, stamp) {
            (Some(expect), Some(stamp)) => self.equal(expect, stamp),
            (None, None) => true,
            (Some(_), None) => match &swap.put {
                Some(_) => self.has(Bug::PutsWhereNothingLives),
                None => self.has(Bug::AbsentReleaseIsDone),
            },
            (None, Some(_)) => false,
        };
        let blind = match (self.bug, swap.expect, &swap.put) {
            (Some(Bug::IgnoresExpect), ..) => true,
            (Some(Bug::ReleasesAnyones), _, None) => swap.expect.is_some(),
            (Some(Bug::SettlesAnyones), Some(_), Some(_)) => stamp.is_some(),
            (Some(Bug::ClaimsWhatIsTaken), None, Some(_)) => true,
            _ => false,
        };
        let is_final = found.as_ref().is_some_and(|found| found.record.kind() == PhaseKind::Unknown);
        if (!expected && !blind) || (self.has(Bug::UnknownIsFinal) && is_final) {
            return found.map_or(Swapped::Absent, Swapped::Found);
        }
        let nothing = match self.bug {
            Some(Bug::WritesNothing) => swap.put.is_some(),
            Some(Bug::ReleasesNothing) => swap.put.is_none(),
            _ => false,
        };
        if nothing {
            return Swapped::Done;
        }
        if self.has(Bug::LosesLastWrite) || self.has(Bug::LoadsLag) {
            disk.before_last_write = disk.live.clone();
        }
        let replaced = disk.live.remove(key);
        match &swap.put {
            Some(Put { stamp, record }) => {
                let written_ms = match &replaced {
                    Some(live) if self.has(Bug::AgeSinceClaim) && swap.expect.is_some() => live.written_ms,
                    _ => self.clock.now_ms(),
                };
                let record = self.stored(record.clone(), replaced.as_ref());
                let live = Live { stamp: *stamp, written_ms, opened: disk.opened, order: disk.writes, record };
                disk.writes += 1;
                disk.ever.insert(*stamp);
                disk.first.entry(*key).or_insert_with(|| live.clone());
                disk.live.insert(*key, live);
            }
            None if self.has(Bug::DecidingReadClaims) && swap.expect.is_none() => {
                let stamp = Stamp { exchange: ExchangeId(0), write: 0 };
                let (written_ms, opened) = (self.clock.now_ms(), disk.opened);
                disk.live.insert(*key, Live { stamp, written_ms, opened, order: 0, record: sample::unknown(0) });
            }
            None => disk.removed.extend(replaced.map(|live| (*key, live))),
        }
        Swapped::Done
    }
}

#[async_trait]
impl Store for PlantedStore {
    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        let key = self.key(key);
        let look = |disk: &Disk| {
            let live = disk.live.get(&key);
            match live {
                Some(live) if self.has(Bug::SwapMeetsExpired) => self.found(live, disk.opened).or_else(|| {
                    let age = live.record.retention;
                    Some(Found { stamp: live.stamp, age, abandoned: false, record: live.record.clone() })
                }),
                live => self.found(live?, disk.opened),
            }
        };
        let before = look(&self.disk.lock());
        match self.bug {
            Some(Bug::CheckThenSet) => {
                self.until(100, |disk| look(disk) != before).await;
                Ok(self.swap_at(&mut self.disk.lock(), &key, swap, before))
            }
            Some(Bug::AnswersFromBefore) => {
                self.until(100, |disk| look(disk) != before).await;
                let mut disk = self.disk.lock();
                let now = look(&disk);
                let answer = self.swap_at(&mut disk, &key, swap, now);
                Ok(match (answer, before) {
                    (Swapped::Found(_), Some(before)) => Swapped::Found(before),
                    (answer, _) => answer,
                })
            }
            _ => {
                let mut disk = self.disk.lock();
                let now = look(&disk);
                Ok(self.swap_at(&mut disk, &key, swap, now))
            }
        }
    }

    async fn load(&self, key: &RecordKey) -> Result<Option<Found>, StoreError> {
        let key = self.key(key);
        let mut disk = self.disk.lock();
        let opened = disk.opened;
        if self.has(Bug::LoadsLag) {
            return Ok(disk.before_last_write.get(&key).and_then(|live| self.found(live, opened)));
        }
        let Some(live) = disk.live.get_mut(&key) else { return Ok(None) };
        if self.has(Bug::CachesReads) {
            let mut seen = self.seen.lock();
            return Ok(self.found(seen.entry(key).or_insert_with(|| live.clone()), opened));
        }
        let found = self.found(live, opened);
        if self.has(Bug::LoadRestartsAge) {
            live.written_ms = self.clock.now_ms();
        }
        Ok(found)
    }

    async fn scan(
        &self,
        phase: PhaseKind,
        after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, StoreError> {
        let disk = self.disk.lock();
        let mut listed = Vec::new();
        for (key, live) in &disk.live {
            let found = match self.bug {
                Some(Bug::ScanShowsExpired) => {
                    let record = live.record.clone();
                    Some(Found { stamp: live.stamp, age: Duration::ZERO, abandoned: false, record })
                }
                Some(Bug::ScanNeverTrims) => {
                    self.found(live, disk.opened).map(|found| Found { record: live.record.clone(), ..found })
                }
                _ => self.found(live, disk.opened),
            };
            let kind = if self.has(Bug::ScanByFirstPhase) { disk.first[key].record.kind() } else { live.record.kind() };
            let Some(found) = found.filter(|_| kind == phase) else { continue };
            listed.push((live.order, *key, found));
        }
        if self.has(Bug::Unordered) {
            listed.sort_by_key(|(order, ..)| *order);
        }
        let further = |key: &RecordKey| match self.bug {
            Some(Bug::PagesOverlap) => Some(*key) >= after,
            _ => Some(*key) > after,
        };
        let skipped = usize::from(self.has(Bug::PagesSkip) && after.is_some());
        let rest = listed.into_iter().map(|(_, key, found)| (key, found)).filter(|(key, _)| further(key));
        Ok(rest.skip(skipped).take(limit as usize).collect())
    }

    async fn sweep(&self, limit: u32) -> Result<u32, StoreError> {
        let is_limited = self.sweeps == Sweeps::Each && !self.has(Bug::SweepIgnoresLimit);
        let limit = if is_limited { limit as usize } else { usize::MAX };
        let past: Vec<RecordKey> = {
            let mut disk = self.disk.lock();
            let opened = disk.opened;
            if self.has(Bug::SweepRestartsAge) {
                let now_ms = self.clock.now_ms();
                for live in disk.live.values_mut() {
                    if let Some(found) = self.found(live, opened).filter(|found| found.record != live.record) {
                        (live.record, live.written_ms) = (found.record, now_ms);
                    }
                }
            }
            let is_past = |(key, live): &(&RecordKey, &Live)| match self.bug {
                Some(Bug::SweepsAll) => true,
                Some(Bug::SweepsByFirstWrite) => self.found(&disk.first[*key], opened).is_none(),
                _ => self.found(live, opened).is_none(),
            };
            disk.live.iter().filter(is_past).map(|(key, _)| *key).take(limit).collect()
        };
        if self.has(Bug::SweepsBlindly) && !past.is_empty() {
            self.until(1_000_000, |disk| {
                past.iter().any(|key| disk.live.get(key).is_none_or(|live| self.found(live, disk.opened).is_some()))
            })
            .await;
        }
        let mut disk = self.disk.lock();
        if self.has(Bug::SweepCountsVisited) {
            return Ok(u32::try_from(disk.live.len().min(99)).expect("at most 99"));
        }
        let removed = if self.has(Bug::SweepForgetsOne) { past.len().saturating_sub(1) } else { past.len() };
        let opened = disk.opened;
        for key in past.iter().take(removed) {
            // Somebody may have claimed it since.
            let still = disk.live.get(key).is_some_and(|live| self.found(live, opened).is_none());
            if still || matches!(self.bug, Some(Bug::SweepsBlindly | Bug::SweepsAll | Bug::SweepsByFirstWrite)) {
                let swept = disk.live.remove(key).map(|live| (*key, live));
                disk.swept.extend(swept);
            }
        }
        match self.sweeps {
            Sweeps::Each => Ok(u32::try_from(past.len()).expect("tests keep few records")),
            Sweeps::InBulk => Ok(0),
        }
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let mut disk = self.disk.lock();
        disk.probed += 1;
        if self.has(Bug::ProbeOnce) && disk.probed > 1 {
            return Err(StoreError::Unavailable("what it wrote is still there".into()));
        }
        if self.has(Bug::ProbeLeavesRecord) {
            let swap = sample::put(None, sample::stamp(0, 1), sample::unknown(0));
            self.swap_at(&mut disk, &sample::key(0), &swap, None);
        }
        Ok(())
    }
}
