//! The explorer: every interleaving of a few exchanges on one key, run through the real [`Exchange`].
//!
//! The world holds one cell that obeys the store contract, the exchanges, and the swaps that a driver has given up on but
//! that may still arrive. In every world each of these may happen next: a swap is answered; its answer is lost and it
//! is asked again; it is left in the air, asked again or given up on, and lands at any later moment or never; a claim that
//! was given up on is given back, later or never; a driver crashes; an embedded store is opened again, which kills
//! everybody and marks the record abandoned; an execution ends in any way; a waiter wakes at once or at its limit, or is
//! shown what is there; the record ages past its lease, its `replay_for`, its retention. What costs a fault is limited per
//! configuration; ageing and waiting are free.
//!
//! Checked at every transition and in every world that has come to rest, with the names of `ARCHITECTURE.md`:
//! - I1: at most one effect per life of the key, unless the route re-executes. A life ends with the retention of the
//!   record, or when a route that says so executes past `replay_for`;
//! - I2: a completed record is not replaced before that;
//! - I3: nothing is told as kept that was never durable, no execution begins without its claim, and no answer says
//!   less or more than happened;
//! - I4: nobody learns anything of another fingerprint but that it is another;
//! - I5: who no longer holds the record changes nothing;
//! - I6: nobody waits or asks for ever, a key is free only if nothing happened under it, and a key at rest answers a
//!   newcomer with the truth.
//!
//! `SEMEL_MODEL=long` allows one more fault everywhere.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes goldens so")]

mod digest;
mod explore;
mod guards;
mod operator;
mod told;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use digest::Hashed;
use expect_test::expect;
use explore::{
    Cell, Checked,
    Invariant::{I1, I2, I3, I4, I5, I6},
    Move, ensure, explore, swap_in,
};
use operator::Operator;

use crate::{
    decide::Rules,
    exchange::{Exchange, Executed, Guard, Permit, Probed, Step},
    fingerprint::Fingerprint,
    planted::{Bug, Planted},
    policy::{Effect, OnCompleted, OnExpired, OnMismatch, OnUnknown},
    record::{ExchangeId, Kept, Phase, Reply},
    register::{Found, Swap, Swapped},
    wire::ProblemType,
};

#[test]
fn no_interleaving_breaks_an_invariant() {
    let more = u8::from(std::env::var("SEMEL_MODEL").is_ok_and(|value| value == "long"));
    let mut states_total = 0;
    let mut told = String::new();
    let start = Instant::now();
    for mut config in configurations() {
        config.faults_max += more;
        let explored = explore::<World>(&config);
        let states = explored.unwrap_or_else(|broken| panic!("{}\n{broken}", config.name));
        println!("{:<30} {} faults {states:>9} states", config.name, config.faults_max);
        states_total += states;
        let answers: Vec<String> = TOLD.take().into_iter().map(|(kind, what)| format!("{kind} {what}")).collect();
        writeln!(told, "{}: {}", config.name, answers.join(", ").replace(" ,", ",").trim_end())
            .expect("a string takes everything");
    }
    println!("{:<30} {states_total:>18} states in {:.1?}", "all", start.elapsed());
    if more > 0 {
        return;
    }
    // A check of answers that are never given checks nothing.
    expect![[r#"
        refuse, 3 same: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse origin-unavailable, refuse outcome-unknown, refuse reply-gone, refuse store-unavailable, replay
        refuse, 2 same + 1 other: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse key-reused, refuse origin-unavailable, refuse outcome-unknown, refuse reply-gone, refuse store-unavailable, replay
        slot, 2 same + 1 other: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse origin-unavailable, refuse outcome-unknown, refuse reply-gone, refuse slot-taken, refuse store-unavailable, replay
        conflict, 2 same + 1 other: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse origin-unavailable, refuse outcome-unknown, refuse resource-exists, refuse resource-id-reused, refuse store-unavailable, replay
        re-execute, 3 same: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse origin-unavailable, refuse reply-gone, refuse store-unavailable, replay
        re-execute, 2 same + 1 other: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse key-reused, refuse origin-unavailable, refuse reply-gone, refuse store-unavailable, replay
        forward key, 2 same + 1 other: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse key-reused, refuse origin-unavailable, refuse reply-gone, refuse store-unavailable, replay
        wait, 3 same: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse origin-unavailable, refuse outcome-unknown, refuse reply-gone, refuse store-unavailable, replay
        wait, 2 same + 1 other: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse key-reused, refuse origin-unavailable, refuse outcome-unknown, refuse reply-gone, refuse store-unavailable, replay
        wait and re-execute, 2 same: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse origin-unavailable, refuse reply-gone, refuse store-unavailable, replay
        expired executes, 2 + 1: lost outcome-unknown, own, own released, own unkept, own unknown, own, warned, own, warned released, own, warned unkept, own, warned unknown, refuse in-flight, refuse key-reused, refuse origin-unavailable, refuse outcome-unknown, refuse reply-gone, refuse store-unavailable, replay
        expired = forgotten, 2 + 1: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse key-reused, refuse origin-unavailable, refuse outcome-unknown, refuse reply-gone, refuse store-unavailable, replay
        all that executes, 2 + 1: lost outcome-unknown, own, own released, own unkept, own unknown, own, warned, own, warned released, own, warned unkept, own, warned unknown, refuse in-flight, refuse key-reused, refuse origin-unavailable, refuse reply-gone, refuse store-unavailable, replay
        refuse, 4 same: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse origin-unavailable, refuse outcome-unknown, refuse reply-gone, refuse store-unavailable, replay
        operated, 2 same + 1 other: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse key-reused, refuse origin-unavailable, refuse outcome-unknown, refuse reply-gone, refuse store-unavailable, replay
        operated re-execute, 2 same: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse origin-unavailable, refuse reply-gone, refuse store-unavailable, replay
        probe, 3 same: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse origin-unavailable, refuse outcome-unknown, refuse reply-gone, refuse store-unavailable, replay
        probe, 2 same + 1 other: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse key-reused, refuse origin-unavailable, refuse outcome-unknown, refuse reply-gone, refuse store-unavailable, replay
        wait and probe, 2 same: lost outcome-unknown, own, own released, own unkept, own unknown, refuse in-flight, refuse origin-unavailable, refuse outcome-unknown, refuse reply-gone, refuse store-unavailable, replay
    "#]].assert_eq(&told);
}

#[test]
fn every_planted_bug_is_caught() {
    let mut table = String::new();
    for bug in Bug::ALL.into_iter().chain(Bug::OF_PROBES) {
        let is_of_probes = Bug::OF_PROBES.contains(&bug);
        let configurations = || configurations().into_iter().filter(|config| !is_of_probes || probes(config));
        let _planted = Planted::new(bug);
        // The fewest faults first: most bugs need few, and few are quick.
        let caught = (0..=2).flat_map(|faults_max| configurations().map(move |config| Config { faults_max, ..config }));
        let caught =
            caught.into_iter().find_map(|config| explore::<World>(&config).err().map(|broken| (config.name, broken)));
        let (name, broken) = caught.unwrap_or_else(|| panic!("{bug:?} survives: the model checks too little"));
        let (bug, moves) = (format!("{bug:?}"), broken.moves.len());
        writeln!(table, "{bug:<26} {:?}  {:<58} {name}, {moves} moves", broken.invariant, broken.what)
            .expect("a string takes everything");
    }
    print!("{table}");
    expect![[r#"
        PhaseBeforeFingerprint     I4  another request learned more than that it is another       refuse, 3 same, 5 moves
        FailOpen                   I3  an execution began without its claim                       refuse, 3 same, 1 moves
        UnknownIsNotSent           I6  a key is free although its effect happened                 refuse, 3 same, 3 moves
        LeaseOverIsFree            I1  an unknown outcome was executed again                      refuse, 3 same, 4 moves
        UnknownIsFree              I1  an unknown outcome was executed again                      refuse, 3 same, 5 moves
        FencedTellsOwn             I3  a reply was told as kept that never was durable            refuse, 3 same, 6 moves
        FencedIgnoresRelease       I3  a reply was told that is not there                         refuse, 3 same, 6 moves
        FencedIgnoresFingerprint   I4  another request's reply was told                           refuse, 2 same + 1 other, 8 moves
        ReleaseAfterTakeOver       I6  a key is free while it is being executed                   re-execute, 3 same, 6 moves
        WaiterExecutes             I1  a claim in flight was taken over                           wait, 3 same, 5 moves
        ReplayWindowIsRetention    I2  a completed record was replaced                            refuse, 3 same, 6 moves
        UnsettledIsKept            I3  a reply was told as kept that never was durable            refuse, 3 same, 3 moves
        BlindTakeOver              I6  a newcomer is not told the truth                           expired executes, 2 + 1, 6 moves
        BlindSettle                I5  who no longer holds the record changed it                  refuse, 3 same, 5 moves
        FencedSaysReleased         I3  a key was told to be free that is not                      refuse, 3 same, 6 moves
        UnsettledIsReleased        I3  a key was told to be free that is not                      refuse, 3 same, 3 moves
        FencedRefuses              I3  a refusal after an execution                               refuse, 3 same, 6 moves
        StampRepeats               I3  a reply was told as kept that never was durable            refuse, 3 same, 3 moves
        WaitIsFree                 I6  an exchange asks for ever                                  wait, 3 same, 21 moves
        SettleForgetsFingerprint   I4  a record bears another request's fingerprint               refuse, 3 same, 3 moves
        TakeOverForgetsAttempt     I6  a key is free while it is being executed                   re-execute, 3 same, 5 moves
        AbandonedIsInFlight        I6  a newcomer is not told the truth                           refuse, 3 same, 4 moves
        StoreForgetsStampRule      I6  a key stays refused though all is known of it              refuse, 3 same, 4 moves
        UnconfirmedIsLeft          I6  a key stays refused though all is known of it              refuse, 3 same, 3 moves
        UnconfirmedSaysReleased    I3  a reply was told that is not there                         refuse, 3 same, 1 moves
        BlindGiveBack              I6  a key stays refused though all is known of it              refuse, 3 same, 4 moves
        RetryFreesKey              I6  a key is free while it is being executed                   re-execute, 3 same, 5 moves
        OperatorSettlesRunning     I6  a key is free while it is being executed                   operated, 2 same + 1 other, 3 moves
        OperatorSettlesKnown       I2  a completed record was replaced                            operated, 2 same + 1 other, 5 moves
        ProbeBelievedTooEarly      I1  the effect happened twice                                  probe, 3 same, 7 moves
        UndecidedIsAbsent          I1  the effect happened twice                                  probe, 3 same, 7 moves
        FoundIsNotKept             I3  a reply was replayed that never was durable                probe, 3 same, 5 moves
        BlindResolve               I6  a newcomer is not told the truth                           probe, 3 same, 5 moves
    "#]].assert_eq(&table);
}

thread_local! {
    /// What was told since this was last taken.
    static TOLD: RefCell<BTreeSet<(&'static str, &'static str)>> = const { RefCell::new(BTreeSet::new()) };
}

/// One world to explore, from its empty cell on.
struct Config {
    name: &'static str,
    rules: Rules,
    /// One exchange each.
    fingerprints: &'static [u8],
    faults_max: u8,
    /// How often a record may outlive its retention.
    forgets_max: u8,
    operator: Operator,
}

const LEASE: Duration = Duration::from_secs(1);
const REPLAY_FOR: Duration = Duration::from_secs(2);
const RETENTION: Duration = Duration::from_secs(3);
const PROBE_AFTER: Duration = Duration::from_secs(2);

fn configurations() -> [Config; 19] {
    let rules = Rules {
        on_unknown: OnUnknown::Refuse,
        on_completed: OnCompleted::Replay,
        on_expired: OnExpired::Refuse,
        on_mismatch: OnMismatch::Refuse,
        mismatch: ProblemType::KeyReused,
        lease: LEASE,
        wait_max: Duration::ZERO,
        replay_for: REPLAY_FOR,
        remember_for: RETENTION,
        unknown_for: RETENTION,
        probe_after: PROBE_AFTER,
    };
    let probe = Rules { on_unknown: OnUnknown::Probe, ..rules };
    let config = |name, fingerprints, faults_max, rules| {
        let operator = Operator::Away;
        Config { name, rules, fingerprints, faults_max, forgets_max: 1, operator }
    };
    let operated = |config| Config { operator: Operator::Here, ..config };
    let wait_max = Duration::from_millis(10);
    [
        config("refuse, 3 same", &[1, 1, 1], 4, rules),
        config("refuse, 2 same + 1 other", &[1, 1, 9], 4, rules),
        config("slot, 2 same + 1 other", &[1, 1, 9], 2, Rules { mismatch: ProblemType::SlotTaken, ..rules }),
        config(
            "conflict, 2 same + 1 other",
            &[1, 1, 9],
            3,
            Rules { mismatch: ProblemType::ResourceIdReused, on_completed: OnCompleted::Conflict, ..rules },
        ),
        config("re-execute, 3 same", &[1, 1, 1], 2, Rules { on_unknown: OnUnknown::Reexecute, ..rules }),
        config("re-execute, 2 same + 1 other", &[1, 1, 9], 3, Rules { on_unknown: OnUnknown::Reexecute, ..rules }),
        config("forward key, 2 same + 1 other", &[1, 1, 9], 2, Rules { on_unknown: OnUnknown::ForwardKey, ..rules }),
        config("wait, 3 same", &[1, 1, 1], 2, Rules { wait_max, ..rules }),
        config("wait, 2 same + 1 other", &[1, 1, 9], 2, Rules { wait_max, ..rules }),
        config(
            "wait and re-execute, 2 same",
            &[1, 1],
            3,
            Rules { wait_max, on_unknown: OnUnknown::Reexecute, ..rules },
        ),
        config("expired executes, 2 + 1", &[1, 1, 9], 2, Rules { on_expired: OnExpired::Execute, ..rules }),
        config(
            "expired = forgotten, 2 + 1",
            &[1, 1, 9],
            2,
            Rules { on_expired: OnExpired::Execute, replay_for: RETENTION, ..rules },
        ),
        config(
            "all that executes, 2 + 1",
            &[1, 1, 9],
            2,
            Rules { on_unknown: OnUnknown::Reexecute, on_expired: OnExpired::Execute, ..rules },
        ),
        config("refuse, 4 same", &[1, 1, 1, 1], 3, rules),
        operated(config("operated, 2 same + 1 other", &[1, 1, 9], 2, rules)),
        operated(config(
            "operated re-execute, 2 same",
            &[1, 1],
            3,
            Rules { on_unknown: OnUnknown::Reexecute, ..rules },
        )),
        // An origin knows nothing of retentions, so none passes here.
        Config { forgets_max: 0, ..config("probe, 3 same", &[1, 1, 1], 2, probe) },
        Config { forgets_max: 0, ..config("probe, 2 same + 1 other", &[1, 1, 9], 3, probe) },
        Config { forgets_max: 0, ..config("wait and probe, 2 same", &[1, 1], 3, Rules { wait_max, ..probe }) },
    ]
}

/// Whether the origin is asked about an unknown outcome.
fn probes(config: &Config) -> bool {
    config.rules.on_unknown == OnUnknown::Probe
}

/// Whether an effect may happen again.
fn is_declared_idempotent(config: &Config) -> bool {
    match config.rules.on_unknown {
        OnUnknown::Refuse | OnUnknown::Probe => false,
        OnUnknown::Reexecute | OnUnknown::ForwardKey => true,
    }
}

/// What a move does to the world.
type Change<'a> = dyn Fn(&mut World) -> Checked + 'a;

/// Everything there is.
#[derive(Clone, Hash, Debug)]
struct World {
    cell: Option<Hashed<Cell>>,
    parties: Vec<Hashed<Party>>,
    /// Swaps that nobody waits for any more, and that may still arrive.
    air: Vec<Ask>,
    /// The current life of the key.
    life: usize,
    /// Effects in each life that is not over for everybody.
    effects: [u8; 8],
    /// Where the origin is probed: attempts that nobody waits for any more, and that may still have their effect.
    late: u8,
    /// Whose reply was ever durable, one bit each.
    durable: u8,
    faults_left: u8,
    forgets_left: u8,
    /// Somebody was told a kept reply.
    is_reply_told: bool,
    /// Something happened after which a key may stay refused: a crash, a store given up on, an outcome not known.
    is_in_doubt: bool,
    operator: Operator,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Ask {
    party: usize,
    swap: Swap,
    purpose: Purpose,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Purpose {
    Claim,
    GiveBack,
    Settle {
        ran: Ran,
    },
    /// A settle by an operator; the party is the one whose record it is.
    Operator,
}

/// An execution that is over, and what it reported.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Ran {
    life: usize,
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Outcome {
    Happened,
    None,
    NotSent,
    Unclear,
    Unknown,
}

#[allow(clippy::large_enum_variant, reason = "a model has few of them at once, and clones them all the time")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Party {
    /// Has a swap to ask.
    Asking {
        exchange: Exchange,
        swap: Swap,
        purpose: Purpose,
        asks: Asks,
    },
    Executing {
        exchange: Exchange,
        permit: Permit,
        life: usize,
        reach: Reach,
    },
    /// Asks the origin what became of the attempts before.
    Probing {
        exchange: Exchange,
    },
    Waiting {
        exchange: Exchange,
        at_most: Duration,
    },
    /// The caller is told, and a claim that may be there is given back.
    GivingBack {
        swap: Swap,
    },
    Over,
}

/// Whether the request of an execution has reached the origin; where that is not probed, its effect comes with its end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Reach {
    NotYet,
    /// It has had its effect.
    Had,
    /// It will not: too much time has passed.
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Asks {
    /// The request has not arrived yet.
    Never,
    /// For the first time.
    Once,
    /// The same swap again.
    Again,
}

const STATUS_OF_FIRST: u16 = 200;

fn reply_of(party: usize) -> Arc<Reply> {
    let status = STATUS_OF_FIRST + u16::try_from(party).expect("few exchanges");
    Arc::new(Reply { status, headers: Vec::new(), content: Bytes::new() })
}

fn fingerprint(config: &Config, party: usize) -> Fingerprint {
    Fingerprint::from_bytes([config.fingerprints[party]; Fingerprint::LEN])
}

/// Whoever asks the store more often than this asks for ever: three claims, again after each of two waits, and a settle.
const WRITES_MAX: u16 = 10;

impl explore::World for World {
    type Config = Config;

    fn new(config: &Config) -> World {
        let parties = (0..config.fingerprints.len()).map(|party| {
            let id = ExchangeId(party as u128 + 1);
            let (exchange, step) = Exchange::open(config.rules, fingerprint(config, party), id, Guard::Unguarded);
            let Step::Swap { swap, .. } = step else { panic!("an exchange opens with a claim") };
            Hashed::new(Party::Asking { exchange, swap, purpose: Purpose::Claim, asks: Asks::Never })
        });
        World {
            cell: None,
            parties: parties.collect(),
            air: Vec::new(),
            life: 0,
            effects: [0; 8],
            late: 0,
            durable: 0,
            faults_left: config.faults_max,
            forgets_left: config.forgets_max,
            is_reply_told: false,
            is_in_doubt: false,
            operator: config.operator.clone(),
        }
    }

    fn is_at_rest(&self) -> bool {
        self.parties.iter().all(|party| matches!(&**party, Party::Over))
    }

    fn moves(&self, config: &Config, out: &mut dyn FnMut(Move, Checked<World>)) {
        let mut go = |party, what, fault: u8, change: &Change<'_>| {
            let mut next = self.clone();
            let Some(faults_left) = next.faults_left.checked_sub(fault) else { return };
            next.faults_left = faults_left;
            let result = change(&mut next).map(|()| {
                next.tidy();
                next
            });
            out(Move { party, what }, result);
        };
        if let Some(cell) = &self.cell {
            let is_probed = probes(config) && !matches!(cell.record.phase, Phase::Completed { .. });
            let ages_to = match cell.ages_to() {
                next if is_probed && cell.age < PROBE_AFTER => next.min(PROBE_AFTER),
                next => next,
            };
            if ages_to < cell.record.retention {
                go(None, "the record ages", 0, &|w| {
                    w.cell = Some(Hashed::new(Cell { age: ages_to, ..Cell::clone(cell) }));
                    if is_probed && ages_to >= PROBE_AFTER {
                        w.nothing_arrives_any_more();
                    }
                    Ok(())
                });
            } else if self.forgets_left > 0 && !self.is_asked_again() {
                go(None, "the record outlives its retention", 0, &|w| {
                    w.cell = None;
                    w.air.clear();
                    w.life += 1;
                    w.forgets_left -= 1;
                    Ok(())
                });
            }
        }
        if self.late > 0 {
            go(None, "an attempt that nobody waits for has its effect", 0, &|w| {
                w.late -= 1;
                w.effect(config, w.life)
            });
        }
        for (n, ask) in self.air.iter().enumerate() {
            go(Some(ask.party), "a swap given up on arrives", 0, &|w| {
                let ask = w.air.remove(n);
                w.apply(config, &ask).map(drop)
            });
        }
        let is_anybody_here =
            self.parties.iter().any(|party| !matches!(&**party, Party::Over | Party::Asking { asks: Asks::Never, .. }));
        let is_claimed = self.cell.as_ref().is_some_and(|cell| cell.is_running());
        if is_anybody_here || is_claimed {
            go(None, "the store is opened again", 1, &|w| {
                w.restart();
                Ok(())
            });
            let is_on_its_way = |party: &Party| matches!(party, Party::Executing { reach: Reach::NotYet, .. });
            let on_their_way = self.parties.iter().filter(|party| is_on_its_way(party)).count();
            if probes(config) && on_their_way > 0 {
                go(None, "the store is opened again, and what was sent is on its way", 1, &|w| {
                    w.restart();
                    w.late += u8::try_from(on_their_way).expect("few exchanges");
                    Ok(())
                });
            }
        }
        self.moves_of_operator(config, &mut |what, fault, change| go(None, what, fault, change));
        for (i, party) in self.parties.iter().enumerate() {
            self.moves_of(config, i, party, &mut |what, fault, change| go(Some(i), what, fault, change));
        }
    }

    fn check_at_rest(&self, config: &Config) -> Checked {
        let without_faults = self.faults_left == config.faults_max
            && self.forgets_left == config.forgets_max
            && self.operator == config.operator;
        ensure(!without_faults || self.is_reply_told, I6, "without a fault, nobody got the reply")?;
        let refuses = config.rules.on_unknown == OnUnknown::Refuse;
        let stuck =
            matches!(self.cell.as_ref().map(|c| &c.record.phase), Some(Phase::InFlight { .. } | Phase::Unknown));
        ensure(self.is_in_doubt || !refuses || !stuck, I6, "a key stays refused though all is known of it")?;
        for fingerprint in [1, 9] {
            self.check_newcomer(config, Fingerprint::from_bytes([fingerprint; Fingerprint::LEN]))?;
        }
        Ok(())
    }
}

impl World {
    fn moves_of(&self, config: &Config, i: usize, party: &Party, go: &mut dyn FnMut(&'static str, u8, &Change<'_>)) {
        match party {
            Party::Over => {}
            // Exchanges that have not begun are all alike: the first of them begins first.
            Party::Asking { asks: Asks::Never, .. }
                if (0..i).any(|j| {
                    config.fingerprints[j] == config.fingerprints[i]
                        && matches!(&*self.parties[j], Party::Asking { asks: Asks::Never, .. })
                }) => {}
            Party::Asking { exchange, swap, purpose, asks } => {
                let ask = Ask { party: i, swap: swap.clone(), purpose: *purpose };
                let again = Party::Asking {
                    exchange: exchange.clone(),
                    swap: swap.clone(),
                    purpose: *purpose,
                    asks: Asks::Again,
                };
                go("the store answers", 0, &|w| {
                    let mut exchange = exchange.clone();
                    let swapped = w.apply(config, &ask)?;
                    let step = exchange.on_swapped(swapped);
                    w.take(config, &ask, exchange, step)
                });
                go("the store's answer is lost, and it is asked again", 1, &|w| {
                    w.apply(config, &ask)?;
                    w.parties[i] = Hashed::new(again.clone());
                    Ok(())
                });
                go("the swap is delayed, and asked again", 1, &|w| {
                    // A claim that lands after its release holds the key, and nobody is there to release it again.
                    w.is_in_doubt = true;
                    w.air.push(ask.clone());
                    w.parties[i] = Hashed::new(again.clone());
                    Ok(())
                });
                let given_up_on = |w: &mut World| {
                    let mut exchange = exchange.clone();
                    let step = exchange.on_store_failed();
                    w.take(config, &ask, exchange, step)
                };
                go("the store is given up on", 1, &|w| {
                    w.is_in_doubt = true;
                    w.air.push(ask.clone());
                    given_up_on(w)
                });
                // The same but that the swap is not in the air, so that a claim is known to be given back in the end.
                if *purpose == Purpose::Claim {
                    go("the store's answer is lost, and it is given up on", 1, &|w| {
                        w.apply(config, &ask)?;
                        given_up_on(w)
                    });
                }
                if *asks != Asks::Again {
                    go("the store refuses", 1, &|w| {
                        let mut exchange = exchange.clone();
                        let step = exchange.on_store_refused();
                        w.is_in_doubt |= *purpose != Purpose::Claim;
                        w.take(config, &ask, exchange, step)
                    });
                }
                go("it crashes, its swap in the air", 1, &|w| {
                    w.is_in_doubt = true;
                    w.air.push(ask.clone());
                    w.parties[i] = Hashed::new(Party::Over);
                    Ok(())
                });
            }
            Party::Executing { exchange, permit, life, reach } => {
                let (life, reach) = (*life, *reach);
                if probes(config) && reach == Reach::NotYet {
                    go("the effect happens, and the reply is to come", 1, &|w| {
                        let (exchange, permit) = (exchange.clone(), permit.clone());
                        w.parties[i] = Hashed::new(Party::Executing { exchange, permit, life, reach: Reach::Had });
                        w.effect(config, life)
                    });
                    for (what, executed) in [
                        ("no reply, and the effect is to come", Some(Executed::Unknown)),
                        ("crashes, and the effect is to come", None),
                    ] {
                        go(what, 1, &|w| {
                            w.late += 1;
                            w.is_in_doubt = true;
                            let Some(executed) = &executed else {
                                w.parties[i] = Hashed::new(Party::Over);
                                return Ok(());
                            };
                            let mut exchange = exchange.clone();
                            let step = exchange.on_executed(permit.clone(), executed.clone());
                            let Step::Swap { swap, .. } = step else { panic!("an execution is settled") };
                            let purpose = Purpose::Settle { ran: Ran { life, outcome: Outcome::Unknown } };
                            w.parties[i] = Hashed::new(Party::Asking { exchange, swap, purpose, asks: Asks::Once });
                            Ok(())
                        });
                    }
                }
                let may_end_with = |effect: Effect| match reach {
                    Reach::NotYet => true,
                    Reach::Had => effect == Effect::Happened,
                    Reach::Never => effect != Effect::Happened,
                };
                let mut ends = |what, fault, effect: Effect, outcome: Outcome, executed: &dyn Fn() -> Executed| {
                    if !may_end_with(effect) {
                        return;
                    }
                    go(what, fault, &|w| {
                        if effect == Effect::Happened && reach == Reach::NotYet {
                            w.effect(config, life)?;
                        }
                        w.is_in_doubt |= matches!(outcome, Outcome::Unclear | Outcome::Unknown);
                        let mut exchange = exchange.clone();
                        let step = exchange.on_executed(permit.clone(), executed());
                        let Step::Swap { swap, .. } = step else { panic!("an execution is settled") };
                        let purpose = Purpose::Settle { ran: Ran { life, outcome } };
                        w.parties[i] = Hashed::new(Party::Asking { exchange, swap, purpose, asks: Asks::Once });
                        Ok(())
                    });
                };
                let kept = || Kept::Reply(reply_of(i));
                let omitted = || Kept::Omitted { status: reply_of(i).status };
                let replied = |kept: Kept, effect| Executed::Replied { kept, effect };
                ends("replies: happened", 0, Effect::Happened, Outcome::Happened, &|| {
                    replied(kept(), Effect::Happened)
                });
                ends("replies at length: happened", 1, Effect::Happened, Outcome::Happened, &|| {
                    replied(omitted(), Effect::Happened)
                });
                ends("replies: nothing happened", 1, Effect::None, Outcome::None, &|| replied(kept(), Effect::None));
                ends("replies unclearly, without effect", 1, Effect::None, Outcome::Unclear, &|| {
                    replied(kept(), Effect::Unknown)
                });
                ends("replies unclearly, with effect", 1, Effect::Happened, Outcome::Unclear, &|| {
                    replied(kept(), Effect::Unknown)
                });
                ends("not sent", 1, Effect::None, Outcome::NotSent, &|| Executed::NotSent);
                ends("no reply, without effect", 1, Effect::None, Outcome::Unknown, &|| Executed::Unknown);
                ends("no reply, with effect", 1, Effect::Happened, Outcome::Unknown, &|| Executed::Unknown);
                let crashes =
                    [("crashes before the effect", Effect::None), ("crashes after the effect", Effect::Happened)];
                for (what, effect) in crashes.into_iter().filter(|(_, effect)| may_end_with(*effect)) {
                    go(what, 1, &|w| {
                        if effect == Effect::Happened && reach == Reach::NotYet {
                            w.effect(config, life)?;
                        }
                        w.is_in_doubt = true;
                        w.parties[i] = Hashed::new(Party::Over);
                        Ok(())
                    });
                }
            }
            Party::GivingBack { swap } => {
                let ask = Ask { party: i, swap: swap.clone(), purpose: Purpose::GiveBack };
                go("the claim is given back", 0, &|w| {
                    w.apply(config, &ask)?;
                    w.parties[i] = Hashed::new(Party::Over);
                    Ok(())
                });
                go("the answer to the giving back is lost, and it is asked again", 1, &|w| {
                    w.apply(config, &ask).map(drop)
                });
                go("the claim is not given back, or too late", 0, &|w| {
                    w.is_in_doubt = true;
                    w.air.push(ask.clone());
                    w.parties[i] = Hashed::new(Party::Over);
                    Ok(())
                });
            }
            Party::Probing { exchange } => {
                let mut told = |what, fault, probed: Probed| {
                    go(what, fault, &|w| {
                        let mut exchange = exchange.clone();
                        let step = exchange.on_probed(probed.clone());
                        w.go_on(config, i, exchange, step)
                    });
                };
                // The origin tells the truth of this moment, or nothing.
                match self.effects[self.life] {
                    0 => told("the origin knows nothing of it", 0, Probed::Absent),
                    1.. => told("the origin says that it happened", 0, Probed::Found(Kept::Reply(reply_of(i)))),
                }
                told("the origin does not say", 1, Probed::Undecided);
                go("it crashes while it asks the origin", 1, &|w| {
                    w.parties[i] = Hashed::new(Party::Over);
                    Ok(())
                });
            }
            Party::Waiting { exchange, at_most } => {
                let mut wakes = |what, elapsed, found: Option<&Found>| {
                    go(what, 0, &|w| {
                        let mut exchange = exchange.clone();
                        let step = exchange.on_waited(elapsed, found);
                        w.go_on(config, i, exchange, step)
                    });
                };
                wakes("wakes at once", Duration::ZERO, None);
                wakes("wakes at its limit", *at_most, None);
                if let Some(cell) = &self.cell {
                    wakes("is shown what is there", Duration::ZERO, Some(&cell.found()));
                }
            }
        }
    }

    /// Drivers give up, and connections end, long before a retention does: so none passes while somebody asks again, and it
    /// takes with it whatever is in the air.
    fn is_asked_again(&self) -> bool {
        self.parties
            .iter()
            .any(|party| matches!(&**party, Party::Asking { asks: Asks::Again, .. } | Party::GivingBack { .. }))
    }

    /// The store carries out a swap, and what that changes is judged.
    fn apply(&mut self, config: &Config, ask: &Ask) -> Checked<Swapped> {
        let before = self.cell.clone();
        let swapped = swap_in(&mut self.cell, &ask.swap);
        if before == self.cell {
            return Ok(swapped);
        }
        match (ask.purpose, &before) {
            (Purpose::Settle { .. } | Purpose::GiveBack, before) => {
                let own = before.as_ref().is_some_and(|cell| cell.stamp.exchange.0 == ask.party as u128 + 1);
                ensure(own, I5, "who no longer holds the record changed it")?;
            }
            (Purpose::Operator, before) => {
                let before = before.as_ref().expect("an operator settles what is there");
                let known = matches!(before.record.phase, Phase::Completed { .. });
                ensure(!known, I2, "a completed record was replaced")?;
                ensure(Some(before.stamp) == ask.swap.expect, I5, "an operator changed what was not shown")?;
            }
            (Purpose::Claim, None) => {}
            (Purpose::Claim, Some(cell)) => match &cell.record.phase {
                Phase::Completed { replay_for, .. } => {
                    let expired = config.rules.on_expired == OnExpired::Execute && cell.age >= *replay_for;
                    ensure(expired, I2, "a completed record was replaced")?;
                    self.life += 1;
                }
                Phase::Held { .. } => panic!("nothing is guarded here"),
                Phase::InFlight { .. } | Phase::Unknown => {
                    // The claim of somebody who is gone may land late, and be taken over by who saw it before it was released.
                    let owner = usize::try_from(cell.stamp.exchange.0 - 1).expect("few exchanges");
                    let is_owned = matches!(
                        &*self.parties[owner],
                        Party::Executing { .. } | Party::Asking { asks: Asks::Again, purpose: Purpose::Claim, .. }
                    );
                    ensure(!(cell.is_running() && is_owned), I1, "a claim in flight was taken over")?;
                    ensure(config.rules.on_unknown != OnUnknown::Refuse, I1, "an unknown outcome was executed again")?;
                    let is_resolved =
                        matches!(&self.cell, Some(cell) if matches!(cell.record.phase, Phase::Completed { .. }));
                    ensure(!is_resolved || self.effects[self.life] > 0, I3, "it is kept as done and is not")?;
                    let same = cell.record.fingerprint == fingerprint(config, ask.party);
                    ensure(same, I4, "another request took the record over")?;
                }
            },
        }
        if let Some(cell) = &self.cell {
            let own = cell.record.fingerprint == fingerprint(config, ask.party);
            ensure(own, I4, "a record bears another request's fingerprint")?;
            if let Phase::Completed { kept, .. } = &cell.record.phase {
                self.durable |= 1 << (kept.status() - STATUS_OF_FIRST);
            }
        } else {
            ensure(self.effects[self.life] == 0, I6, "a key is free although its effect happened")?;
            ensure(!self.is_executing(self.life), I6, "a key is free while it is being executed")?;
            ensure(self.late == 0, I6, "a key is free while its effect may still happen")?;
        }
        Ok(swapped)
    }

    fn effect(&mut self, config: &Config, life: usize) -> Checked {
        self.effects[life] += 1;
        let once = self.effects[life] <= 1 || is_declared_idempotent(config);
        ensure(once, I1, "the effect happened twice")
    }

    fn is_executing(&self, in_life: usize) -> bool {
        self.parties.iter().any(|party| match &**party {
            Party::Executing { life, reach, .. } => *life == in_life && *reach != Reach::Never,
            Party::Asking { .. }
            | Party::Probing { .. }
            | Party::Waiting { .. }
            | Party::GivingBack { .. }
            | Party::Over => false,
        })
    }

    /// What a route promises that sets [`ProbeRule::after`](crate::policy::ProbeRule::after).
    fn nothing_arrives_any_more(&mut self) {
        self.late = 0;
        for party in &mut self.parties {
            if let Party::Executing { exchange, permit, life, reach: Reach::NotYet } = &**party {
                let (exchange, permit, life) = (exchange.clone(), permit.clone(), *life);
                *party = Hashed::new(Party::Executing { exchange, permit, life, reach: Reach::Never });
            }
        }
    }

    /// An exchange made its step after an answer of the store, or none.
    fn take(&mut self, config: &Config, ask: &Ask, exchange: Exchange, step: Step) -> Checked {
        match (step, ask.purpose) {
            (Step::Execute(permit), _) => {
                let claimed = self.cell.as_ref().map(|cell| cell.stamp) == ask.swap.put.as_ref().map(|put| put.stamp);
                ensure(claimed && self.cell.is_some(), I3, "an execution began without its claim")?;
                let life = self.life;
                // A driver whose claim took that long to be confirmed sends nothing any more.
                let is_late = probes(config) && self.cell.as_ref().is_some_and(|cell| cell.age >= PROBE_AFTER);
                let reach = if is_late { Reach::Never } else { Reach::NotYet };
                self.parties[ask.party] = Hashed::new(Party::Executing { exchange, permit, life, reach });
                Ok(())
            }
            (Step::Answer(answer), Purpose::Settle { ran }) => {
                self.parties[ask.party] = Hashed::new(Party::Over);
                self.check_answer(config, ask.party, Some(ran), &answer)
            }
            (step, Purpose::Claim) => self.go_on(config, ask.party, exchange, step),
            (_, Purpose::GiveBack | Purpose::Operator) => panic!("the exchange is over then, or not concerned"),
            (
                Step::Swap { .. } | Step::Look(_) | Step::Probe | Step::Wait { .. } | Step::GiveBack { .. },
                Purpose::Settle { .. },
            ) => panic!("a settle is the last swap"),
        }
    }

    /// A step that is no execution, of an exchange that has not executed.
    fn go_on(&mut self, config: &Config, i: usize, exchange: Exchange, step: Step) -> Checked {
        let party = match step {
            Step::Swap { swap, .. } => {
                let writes = swap.put.as_ref().map_or(0, |put| put.stamp.write);
                ensure(writes <= WRITES_MAX, I6, "an exchange asks for ever")?;
                Party::Asking { exchange, swap, purpose: Purpose::Claim, asks: Asks::Once }
            }
            Step::Wait { seen, at_most } => {
                let there = self.cell.as_ref().map(|cell| cell.stamp);
                ensure(there == Some(seen), I6, "a waiter waits for what is not there")?;
                Party::Waiting { exchange, at_most }
            }
            Step::Probe => Party::Probing { exchange },
            Step::Answer(answer) => {
                self.check_answer(config, i, None, &answer)?;
                Party::Over
            }
            Step::GiveBack { answer, swap } => {
                self.check_answer(config, i, None, &answer)?;
                Party::GivingBack { swap }
            }
            Step::Execute(_) => return Err((I3, "an execution began without its claim")),
            Step::Look(_) => panic!("nothing is guarded here"),
        };
        self.parties[i] = Hashed::new(party);
        Ok(())
    }

    fn restart(&mut self) {
        for party in &mut self.parties {
            if !matches!(&**party, Party::Asking { asks: Asks::Never, .. }) {
                *party = Hashed::new(Party::Over);
            }
        }
        self.is_in_doubt = true;
        self.air.clear();
        if let Some(cell) = &self.cell {
            self.cell = Some(Hashed::new(Cell { abandoned: true, ..Cell::clone(cell) }));
        }
    }

    /// Forgets what cannot matter any more, so that equal worlds look equal.
    fn tidy(&mut self) {
        let there = self.cell.as_ref().map(|cell| cell.stamp);
        // A stamp that is gone never comes back. What expects nothing can land whenever nothing is there.
        self.air.retain(|ask| ask.swap.expect.is_none() || ask.swap.expect == there);
        for life in 0..self.life {
            if !self.is_executing(life) {
                self.effects[life] = 0;
            }
        }
    }
}
