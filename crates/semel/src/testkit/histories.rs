//! A fixed list of histories, and how a store tells each of them.
//!
//! A history is a sequence of swaps, loads, scans, sweeps and waiting on a few keys, made by a generator that looks for
//! trouble: stale stamps, lost answers, and the very millisecond at which a record changes. Its transcript holds all
//! that a store answered. The transcripts of all stores are the same bytes, whatever they do behind the contract.

use std::{fmt::Write as _, ops::Range, time::Duration};

use bytes::{Bytes, BytesMut};
use semel_core::record::{Kept, Phase, Place};

use super::{Subject, prng::Prng, sample};
use crate::store::{Found, PhaseKind, Put, Record, RecordKey, Stamp, Swap, Swapped};

/// Which histories the corpus has, by seed.
pub const SEEDS: Range<u64> = 0..200;

/// How many steps each of them has.
pub const STEPS: usize = 40;

/// Longer than anything in a history lives.
const FOREVER: Duration = Duration::from_hours(24);

/// One history: a list of steps that depends on its seed only, never on what a store answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct History {
    seed: u64,
    steps: Vec<Step>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "a history has a few hundred steps, and most are swaps")]
enum Step {
    Swap(u64, Swap),
    Load(u64),
    Scan(PhaseKind, u32),
    Advance(Duration),
    Sweep(u32),
}

/// Whether a store lives through a history in one piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interruptions {
    /// It does.
    None,
    /// It is opened again after every so many steps; the transcript does not show it.
    Every(usize),
}

/// All histories.
pub fn corpus() -> Vec<History> {
    SEEDS.map(|seed| History::generate(seed, STEPS)).collect()
}

/// A digest of transcripts, for goldens: FNV-1a, 64 bits.
pub fn digest(transcripts: &str) -> String {
    format!("{:016x}", fnv(transcripts.as_bytes()))
}

impl History {
    /// The history of this seed.
    pub fn generate(seed: u64, steps: usize) -> History {
        Generator::new(seed).history(steps)
    }

    /// Lets a store live through it, which must be empty, and writes down what it answers. Leaves it empty again.
    pub async fn transcript(&self, subject: &mut dyn Subject, interruptions: Interruptions) -> String {
        let mut text = format!("history {}\n", self.seed);
        for (at, step) in self.steps.iter().enumerate() {
            if let Interruptions::Every(steps) = interruptions
                && at % steps == steps - 1
            {
                subject.reopen().await;
            }
            step.tell(subject, &mut text).await;
        }
        subject.advance(FOREVER).await;
        loop {
            match subject.store().sweep(100).await {
                Ok(100) => {}
                Ok(_) => return text,
                Err(error) => {
                    let _ = writeln!(text, "error: {error}");
                    return text;
                }
            }
        }
    }
}

impl Step {
    async fn tell(&self, subject: &dyn Subject, text: &mut String) {
        let store = subject.store();
        let _ = match self {
            Step::Swap(n, swap) => {
                let question = swap_text(swap);
                match store.swap(&sample::key(*n), swap).await {
                    Ok(Swapped::Done) => writeln!(text, "swap k{n} {question}: done"),
                    Ok(Swapped::Absent) => writeln!(text, "swap k{n} {question}: absent"),
                    Ok(Swapped::Found(found)) => writeln!(text, "swap k{n} {question}: found {}", found_text(&found)),
                    Err(error) => writeln!(text, "swap k{n} {question}: error {error}"),
                }
            }
            Step::Load(n) => match store.load(&sample::key(*n)).await {
                Ok(Some(found)) => writeln!(text, "load k{n}: {}", found_text(&found)),
                Ok(None) => writeln!(text, "load k{n}: nothing"),
                Err(error) => writeln!(text, "load k{n}: error {error}"),
            },
            Step::Scan(phase, limit) => {
                let _ = writeln!(text, "scan {phase:?}, at most {limit}:");
                match store.scan(*phase, None, *limit).await {
                    Ok(page) => page
                        .iter()
                        .try_for_each(|(key, found)| writeln!(text, "  {} {}", key_text(key), found_text(found))),
                    Err(error) => writeln!(text, "  error {error}"),
                }
            }
            Step::Advance(by) => {
                subject.advance(*by).await;
                writeln!(text, "{by:?} pass")
            }
            Step::Sweep(limit) => match store.sweep(*limit).await {
                // Not how many: a store whose records go by themselves has none left.
                Ok(_) => writeln!(text, "sweep, at most {limit}"),
                Err(error) => writeln!(text, "sweep, at most {limit}: error {error}"),
            },
        };
    }
}

const KEYS: u64 = 3;

struct Generator {
    seed: u64,
    prng: Prng,
    now: Duration,
    stamps: u16,
    keys: Vec<KeyPast>,
}

/// What the generator knows of a key: what was asked, and what probably lives there, until when.
#[derive(Clone, Default)]
struct KeyPast {
    asked: Vec<Swap>,
    believed: Option<(Stamp, Duration)>,
    /// When what lives there probably changes by itself.
    changes: Vec<Duration>,
}

impl Generator {
    fn new(seed: u64) -> Generator {
        // The list of seeds is short; spread, so that neighbours do not begin alike.
        let prng = Prng::seeded(seed.wrapping_mul(0xd134_2543_de82_ef95));
        Generator { seed, prng, now: Duration::ZERO, stamps: 0, keys: vec![KeyPast::default(); index(KEYS)] }
    }

    fn history(mut self, steps: usize) -> History {
        let steps = (0..steps).map(|_| self.step()).collect();
        History { seed: self.seed, steps }
    }

    fn step(&mut self) -> Step {
        match self.prng.below(20) {
            0..=12 => self.swap(),
            13..=14 => Step::Load(self.prng.below(KEYS)),
            15..=17 => self.advance(),
            18 => Step::Sweep(*self.prng.pick(&[1, 2, 100])),
            _ => {
                let phase =
                    *self.prng.pick(&[PhaseKind::InFlight, PhaseKind::Unknown, PhaseKind::Completed, PhaseKind::Held]);
                Step::Scan(phase, *self.prng.pick(&[1, 2, 100]))
            }
        }
    }

    fn swap(&mut self) -> Step {
        let n = self.prng.below(KEYS);
        let past = self.keys[index(n)].clone();
        if !past.asked.is_empty() && self.prng.below(5) == 0 {
            return Step::Swap(n, self.prng.pick(&past.asked).clone());
        }
        let stamps: Vec<Stamp> = past.asked.iter().filter_map(|swap| Some(swap.put.as_ref()?.stamp)).collect();
        // Mostly what lives there; and then stale stamps, those of writes past their retention too.
        let now = self.now;
        let believed = past.believed.filter(|(_, until)| *until > now).map(|(stamp, _)| stamp);
        let expect = match self.prng.below(20) {
            0..=12 => believed,
            13..=14 => None,
            15..=18 if !stamps.is_empty() => Some(*self.prng.pick(&stamps)),
            _ => Some(sample::stamp(9, 1)),
        };
        let put = (believed.is_none() || self.prng.below(6) > 0).then(|| {
            self.stamps += 1;
            Put { stamp: sample::stamp(u64::from(self.stamps % 3), self.stamps), record: self.record() }
        });
        let swap = Swap { expect, put };
        let past = &mut self.keys[index(n)];
        if expect == believed {
            past.believed = swap.put.as_ref().map(|put| (put.stamp, now + put.record.retention));
            let record = swap.put.as_ref().map(|put| &put.record);
            let spans = record.map(|record| [Some(record.retention), record.trims_at()]);
            past.changes = spans.into_iter().flatten().flatten().map(|span| now + span).collect();
        }
        past.asked.push(swap.clone());
        Step::Swap(n, swap)
    }

    fn record(&mut self) -> Record {
        let seconds = |prng: &mut Prng| Duration::from_secs(*prng.pick(&[1, 5, 20, 60]));
        let n = self.prng.below(3);
        let phase = match self.prng.below(6) {
            5 => Phase::Held {
                owner: sample::key(n),
                resource: Some(Place::Sealed(Bytes::from("x"))).filter(|_| n == 0),
            },
            0 | 1 => Phase::InFlight { lease: seconds(&mut self.prng) },
            2 => Phase::Unknown,
            3 => {
                let kept = Kept::Omitted { status: *self.prng.pick(&[200, 303, 402]) };
                Phase::Completed { kept, replay_for: seconds(&mut self.prng) }
            }
            _ => {
                let len = index(self.prng.below(40));
                let content = Bytes::from(self.prng.bytes(len));
                let kept = sample::sealed(*self.prng.pick(&[201, 204, 422]), content);
                Phase::Completed { kept, replay_for: seconds(&mut self.prng) }
            }
        };
        let guard = (self.prng.below(4) == 0).then(|| sample::guard(n));
        let about = (self.prng.below(2) == 0).then(|| sample::about(n));
        let attempt = u32::try_from(1 + self.prng.below(3)).expect("at most 3");
        Record { fingerprint: sample::fingerprint(n), attempt, phase, retention: seconds(&mut self.prng), guard, about }
    }

    fn advance(&mut self) -> Step {
        let now = self.now;
        let changes = self.keys.iter().flat_map(|past| &past.changes);
        let next = changes.filter_map(|at| at.checked_sub(now)).filter(|ahead| !ahead.is_zero()).min();
        let by = match next {
            Some(next) if self.prng.below(3) > 0 => {
                let early = Duration::from_millis(self.prng.below(2));
                if next == early { next } else { next.saturating_sub(early) }
            }
            Some(_) | None => Duration::from_millis(*self.prng.pick(&[1, 999, 1_000, 7_000])),
        };
        self.now += by;
        Step::Advance(by)
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("small")
}

fn swap_text(swap: &Swap) -> String {
    let expect = swap.expect.map_or_else(|| "nothing".to_owned(), stamp_text);
    let put = swap
        .put
        .as_ref()
        .map_or_else(|| "nothing".to_owned(), |put| format!("{} {}", stamp_text(put.stamp), record_text(&put.record)));
    format!("{expect} -> {put}")
}

/// Without `abandoned`, which tells of the store's life and not of the record's.
fn found_text(found: &Found) -> String {
    format!("{} aged {:?} {}", stamp_text(found.stamp), found.age, record_text(&found.record))
}

fn key_text(key: &RecordKey) -> String {
    let known = (0..KEYS).find(|n| sample::key(*n) == *key);
    known.map_or_else(|| format!("{key:?}"), |n| format!("k{n}"))
}

fn stamp_text(stamp: Stamp) -> String {
    format!("{:04x}.{}", stamp.exchange.0 >> 112, stamp.write)
}

/// What a reviewer wants to see, and a digest of all the rest.
fn record_text(record: &Record) -> String {
    let mut bytes = BytesMut::new();
    record.encode(&mut bytes);
    let what = match &record.phase {
        Phase::InFlight { .. } => "in flight".to_owned(),
        Phase::Unknown => "unknown".to_owned(),
        Phase::Held { owner, .. } => format!("held by {}", key_text(owner)),
        Phase::Completed { kept: Kept::Omitted { status }, .. } => format!("omitted {status}"),
        Phase::Completed { kept: Kept::Sealed(sealed), .. } => {
            format!("sealed {}, {} bytes", sealed.status, sealed.bytes.len())
        }
        Phase::Completed { kept: Kept::Reply(_), .. } => "a reply that is not sealed".to_owned(),
    };
    format!("({what}, lives {:?}, #{:04x})", record.retention, fnv(&bytes) & 0xffff)
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
