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
    exchange::{Answer, Exchange, Executed, Guard, Permit, Step},
    fingerprint::Fingerprint,
    planted::{Bug, Planted},
    policy::{Effect, OnCompleted, OnExpired, OnMismatch, OnUnknown},
    record::{ExchangeId, Kept, Phase, Reply},
    register::{Found, Swap, Swapped},
    wire::{KeyStatus, Problem, ProblemType, Warning},
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
    "#]].assert_eq(&told);
}

#[test]
fn every_planted_bug_is_caught() {
    let mut table = String::new();
    for bug in Bug::ALL {
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

fn configurations() -> [Config; 16] {
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
    };
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
    ]
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
    Settle { ran: Ran },
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
            let ages_to = cell.ages_to();
            if ages_to < cell.record.retention {
                go(None, "the record ages", 0, &|w| {
                    w.cell = Some(Hashed::new(Cell { age: ages_to, ..Cell::clone(cell) }));
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
            Party::Executing { exchange, permit, life } => {
                let life = *life;
                let mut ends = |what, fault, effect: Effect, outcome: Outcome, executed: &dyn Fn() -> Executed| {
                    go(what, fault, &|w| {
                        if effect == Effect::Happened {
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
                for (what, effect) in
                    [("crashes before the effect", Effect::None), ("crashes after the effect", Effect::Happened)]
                {
                    go(what, 1, &|w| {
                        if effect == Effect::Happened {
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
        }
        Ok(swapped)
    }

    fn effect(&mut self, config: &Config, life: usize) -> Checked {
        self.effects[life] += 1;
        let once = self.effects[life] <= 1 || config.rules.on_unknown != OnUnknown::Refuse;
        ensure(once, I1, "the effect happened twice")
    }

    fn is_executing(&self, in_life: usize) -> bool {
        self.parties.iter().any(|party| matches!(&**party, Party::Executing { life, .. } if *life == in_life))
    }

    /// An exchange made its step after an answer of the store, or none.
    fn take(&mut self, config: &Config, ask: &Ask, exchange: Exchange, step: Step) -> Checked {
        match (step, ask.purpose) {
            (Step::Execute(permit), _) => {
                let claimed = self.cell.as_ref().map(|cell| cell.stamp) == ask.swap.put.as_ref().map(|put| put.stamp);
                ensure(claimed && self.cell.is_some(), I3, "an execution began without its claim")?;
                let life = self.life;
                self.parties[ask.party] = Hashed::new(Party::Executing { exchange, permit, life });
                Ok(())
            }
            (Step::Answer(answer), Purpose::Settle { ran }) => {
                self.parties[ask.party] = Hashed::new(Party::Over);
                self.check_answer(config, ask.party, Some(ran), &answer)
            }
            (step, Purpose::Claim) => self.go_on(config, ask.party, exchange, step),
            (_, Purpose::GiveBack | Purpose::Operator) => panic!("the exchange is over then, or not concerned"),
            (Step::Swap { .. } | Step::Look(_) | Step::Wait { .. } | Step::GiveBack { .. }, Purpose::Settle { .. }) => {
                panic!("a settle is the last swap")
            }
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

    fn check_answer(&mut self, config: &Config, i: usize, ran: Option<Ran>, answer: &Answer) -> Checked {
        let outcome = ran.map(|ran| ran.outcome);
        let words = match answer {
            Answer::Own { status, warning: None } => ("own", status.map_or("", KeyStatus::as_str)),
            Answer::Own { status, warning: Some(_) } => ("own, warned", status.map_or("", KeyStatus::as_str)),
            Answer::Replay(_) => ("replay", ""),
            Answer::Refuse(problem) => ("refuse", problem.kind.code()),
            Answer::Lost(problem) => ("lost", problem.kind.code()),
        };
        TOLD.with_borrow_mut(|told| told.insert(words));
        match answer {
            Answer::Own { status, .. } => {
                let replied = matches!(outcome, Some(Outcome::Happened | Outcome::None | Outcome::Unclear));
                ensure(replied, I3, "a reply was told that is not there")?;
                match status {
                    None => {
                        ensure(self.durable & (1 << i) != 0, I3, "a reply was told as kept that never was durable")?;
                        self.is_reply_told = true;
                    }
                    Some(KeyStatus::Released) => {
                        ensure(outcome == Some(Outcome::None), I3, "a key was told to be free after an effect")?;
                        ensure(self.cell.is_none(), I3, "a key was told to be free that is not")?;
                        ensure(self.effects[self.life] == 0, I3, "a key was told to be free after an effect")?;
                    }
                    Some(KeyStatus::Unkept) => {}
                    Some(KeyStatus::Unknown) => {
                        ensure(outcome != Some(Outcome::Happened), I3, "an effect that happened was told as unknown")?;
                    }
                    Some(KeyStatus::Absent | KeyStatus::Ignored) => panic!("an exchange has a key"),
                }
            }
            Answer::Replay(reply) => {
                self.check_told_of(config, i, reply.status)?;
                self.is_reply_told = true;
            }
            Answer::Refuse(problem) => {
                let executed = !matches!(outcome, None | Some(Outcome::NotSent));
                ensure(!executed, I3, "a refusal after an execution")?;
                self.check_refusal(config, i, problem)?;
            }
            Answer::Lost(_) => {
                ensure(outcome == Some(Outcome::Unknown), I3, "an outcome was told as lost that is known")?;
            }
        }
        Ok(())
    }

    fn check_told_of(&self, config: &Config, i: usize, status: u16) -> Checked {
        let whose = usize::from(status - STATUS_OF_FIRST);
        ensure(self.durable & (1 << whose) != 0, I3, "a reply was replayed that never was durable")?;
        ensure(config.fingerprints[whose] == config.fingerprints[i], I4, "another request's reply was told")
    }

    /// Refusals after a claim speak of the record that is there now.
    fn check_refusal(&self, config: &Config, i: usize, problem: &Problem) -> Checked {
        let same = self.cell.as_ref().map(|cell| cell.record.fingerprint == fingerprint(config, i));
        let phase = self.cell.as_ref().map(|cell| &cell.record.phase);
        if let Some(status) = problem.original_status {
            self.check_told_of(config, i, status)?;
        }
        match problem.kind {
            ProblemType::OutcomeUnknown => {
                ensure(same == Some(true), I4, "another request learned of an unknown outcome")?;
                let unknown = matches!(phase, Some(Phase::InFlight { .. } | Phase::Unknown));
                ensure(unknown, I3, "an outcome that is known was told as unknown")
            }
            ProblemType::ResourceExists | ProblemType::ReplyGone => {
                ensure(matches!(phase, Some(Phase::Completed { .. })), I3, "it was told as done and is not")
            }
            kind if kind == config.rules.mismatch => {
                ensure(same == Some(false), I4, "a retry was told to be another request")
            }
            // A key that changes hands quickly is in flight without being so at this moment.
            ProblemType::InFlight | ProblemType::StoreUnavailable | ProblemType::OriginUnavailable => Ok(()),
            kind => panic!("an exchange does not say {kind:?}"),
        }
    }

    /// Sends one more request, alone and without faults, and compares what it is told with the truth.
    fn check_newcomer(&self, config: &Config, fingerprint: Fingerprint) -> Checked {
        const ME: usize = 7;
        let (mut exchange, mut step) =
            Exchange::open(config.rules, fingerprint, ExchangeId(ME as u128 + 1), Guard::Unguarded);
        let mut cell = self.cell.clone();
        let answer = loop {
            step = match step {
                Step::Swap { swap, .. } => exchange.on_swapped(swap_in(&mut cell, &swap)),
                Step::Execute(permit) => {
                    let kept = Kept::Reply(reply_of(ME));
                    exchange.on_executed(permit, Executed::Replied { kept, effect: Effect::Happened })
                }
                Step::Wait { at_most, .. } => exchange.on_waited(at_most, None),
                Step::Look(_) => panic!("nothing is guarded here"),
                Step::GiveBack { .. } => panic!("the store does not fail here"),
                Step::Answer(answer) => break answer,
            };
        };
        let executes = |warning| Told::Executed(warning);
        let truth = match &self.cell {
            None => executes(None),
            Some(cell) => match &cell.record.phase {
                Phase::Completed { replay_for, .. }
                    if cell.age >= *replay_for && config.rules.on_expired == OnExpired::Execute =>
                {
                    executes(Some(Warning::Expired))
                }
                _ if cell.record.fingerprint != fingerprint => Told::Refused(config.rules.mismatch),
                Phase::Completed { .. } if config.rules.on_completed == OnCompleted::Conflict => {
                    Told::Refused(ProblemType::ResourceExists)
                }
                Phase::Completed { kept: Kept::Reply(reply), replay_for } if cell.age < *replay_for => {
                    Told::Replayed(reply.status)
                }
                Phase::Completed { .. } => Told::Refused(ProblemType::ReplyGone),
                Phase::Held { .. } => panic!("nothing is guarded here"),
                Phase::InFlight { .. } if cell.is_running() => Told::Refused(ProblemType::InFlight),
                Phase::InFlight { .. } | Phase::Unknown => match config.rules.on_unknown {
                    OnUnknown::Refuse => Told::Refused(ProblemType::OutcomeUnknown),
                    OnUnknown::Reexecute | OnUnknown::ForwardKey => executes(None),
                },
            },
        };
        let told = match &answer {
            Answer::Own { status: None, warning } => Told::Executed(*warning),
            Answer::Own { .. } | Answer::Lost(_) => return Err((I6, "a newcomer executed and nothing is kept")),
            Answer::Replay(reply) => Told::Replayed(reply.status),
            Answer::Refuse(problem) => Told::Refused(problem.kind),
        };
        let other = Told::Refused(config.rules.mismatch);
        ensure(told == truth || truth != other, I4, "another request learned more than that it is another")?;
        ensure(told == truth, I6, "a newcomer is not told the truth")
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

#[derive(PartialEq, Eq, Debug)]
enum Told {
    Executed(Option<Warning>),
    Replayed(u16),
    Refused(ProblemType),
}
