//! Every interleaving of a few operations that one guard excludes from each other (I10).
//!
//! The world holds a register for each record and each guard, the exchanges, the swaps in the air, and one observation of
//! a response that shows that an owner's resource is released: it began at some moment, loads, and deletes the guard at
//! any later one, or never. What may happen is what may happen to a single key ([`super`]), and besides: a look fails, the
//! guard ages out, a resource is released.
//!
//! An operation is *live* under its guard from its permit until its effect is known not to have happened, its resource is
//! released, or its record is forgotten. Checked besides I3, I5 and I6:
//! - I10: no two operations are live under one guard; and a newcomer at rest executes if and only if nobody holds the
//!   guard, which without a fault is: nobody is live.

mod truth;

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use expect_test::expect;

use super::{
    digest::Hashed,
    explore::{
        Cell, Checked,
        Invariant::{I1, I3, I5, I6, I10},
        Move, ensure, explore, swap_in,
    },
};
use crate::{
    decide::Rules,
    exchange::{Answer, Exchange, Executed, Guard, GuardClaim, Permit, Step, Which},
    fingerprint::Fingerprint,
    planted::{Bug, Planted, planted},
    policy::{Effect, OnCompleted, OnExpired, OnMismatch, OnUnknown},
    record::{ExchangeId, Kept, Phase, Reply, Stamp},
    register::{Swap, Swapped},
    scope::RecordKey,
    seal::Opener,
    wire::{KeyStatus, Problem, ProblemType},
};

#[test]
fn no_interleaving_lets_two_owners_of_a_guard_live() {
    let more = u8::from(std::env::var("SEMEL_MODEL").is_ok_and(|value| value == "long"));
    let (mut states_total, mut told) = (0, String::new());
    let start = std::time::Instant::now();
    for mut config in configurations() {
        config.faults_max += more;
        let explored = explore::<World>(&config);
        let states = explored.unwrap_or_else(|broken| panic!("{}\n{broken}", config.name));
        println!("{:<40} {} faults {states:>9} states {:.1?}", config.name, config.faults_max, start.elapsed());
        states_total += states;
        let words: Vec<&str> = TOLD.take().into_iter().collect();
        writeln!(told, "{}: {}", config.name, words.join(", ")).expect("a string takes everything");
    }
    println!("{:<40} {states_total:>18} states in {:.1?}", "all", start.elapsed());
    if more > 0 {
        return;
    }
    expect![[r#"
        two keys: guard-held, in-flight, lost, origin-unavailable, own, released, store-unavailable, unkept
        a key, its retry and another key: guard-held, in-flight, lost, origin-unavailable, outcome-unknown, own, released, replay, reply-gone, store-unavailable, unkept
        the same, re-executed: guard-held, in-flight, lost, origin-unavailable, outcome-unknown, own, released, replay, reply-gone, store-unavailable, unkept, unknown
        the same, expired executes: guard-held, in-flight, lost, origin-unavailable, outcome-unknown, own, released, replay, store-unavailable, unkept
        three keys: guard-held, in-flight, origin-unavailable, own, unkept
        a key that moves to another guard: guard-held, key-reused, lost, origin-unavailable, own, released, store-unavailable, unkept
        a retry under another guard: guard-held, in-flight, origin-unavailable, outcome-unknown, own, replay, reply-gone, unkept
        a retry whose guard is unclear: guard-held, guard-incomplete, in-flight, lost, origin-unavailable, outcome-unknown, own, released, replay, reply-gone, store-unavailable, unkept
        a retry under no guard: guard-held, in-flight, origin-unavailable, outcome-unknown, own, replay, reply-gone, unkept
    "#]].assert_eq(&told);
}

#[test]
fn every_bug_planted_in_guards_is_caught() {
    let mut table = String::new();
    for bug in Bug::OF_GUARDS {
        let _planted = Planted::new(bug);
        let tried = (0..=2).flat_map(|faults_max| configurations().map(move |config| Config { faults_max, ..config }));
        let caught = tried.into_iter().find_map(|config| {
            explore::<World>(&config)
                .err()
                .map(|broken| (config.name, broken.invariant, broken.what, broken.moves.len()))
        });
        let (name, invariant, what, moves) =
            caught.unwrap_or_else(|| panic!("{bug:?} survives: the model checks too little"));
        writeln!(table, "{:<26} {invariant:?}  {what:<46} {name}, {moves} moves", format!("{bug:?}"))
            .expect("a string takes everything");
    }
    print!("{table}");
    expect![[r#"
        GuardBeforeIdentity        I10  two owners live under one guard                two keys, 5 moves
        GuardTakenBlindly          I10  two owners live under one guard                two keys, 5 moves
        UnknownHoldsNothing        I10  two owners live under one guard                the same, re-executed, 14 moves
        InFlightHoldsNothing       I10  two owners live under one guard                two keys, 6 moves
        GuardNotStampedAnew        I10  two owners live under one guard                a key, its retry and another key, 11 moves
        GuardFailOpen              I10  two owners live under one guard                two keys, 4 moves
        ClaimNotGivenBack          I6  a refused claim was not given back             two keys, 5 moves
        RetryFreesKey              I3  an execution began without its claim           the same, re-executed, 15 moves
        SettleForgetsGuard         I10  two owners live under one guard                two keys, 8 moves
        OldGuardStaysHeld          I10  a guard is held and nobody lives               a key that moves to another guard, 13 moves
        TakeOverChangesGuard       I10  two owners live under one guard                a retry under another guard, 9 moves
        IncompleteIsUnguarded      I6  a newcomer is not told the truth               a retry whose guard is unclear, 9 moves
        ReleaseIgnoresAge          I10  two owners live under one guard                the same, re-executed, 16 moves
        ReleaseLooksOnce           I10  two owners live under one guard                the same, re-executed, 15 moves
        ReleaseIsBlind             I10  a newcomer executed beside a live owner        two keys, 14 moves
        UnconfirmedIsLeft          I6  a key stays refused though all is known of it  two keys, 5 moves
        BlindGiveBack              I6  a refused claim was not given back             two keys, 6 moves
        GivenBackExecutes          I3  an execution began without its claim           two keys, 6 moves
        RefusedIsLeft              I6  a key stays refused though all is known of it  two keys, 6 moves
    "#]].assert_eq(&table);
}

thread_local! {
    /// What was told since this was last taken.
    static TOLD: std::cell::RefCell<BTreeSet<&'static str>> = const { std::cell::RefCell::new(BTreeSet::new()) };
}

struct Config {
    name: &'static str,
    rules: Rules,
    /// One exchange each.
    asked: &'static [Asked],
    faults_max: u8,
    /// How often a record or a guard may outlive its retention.
    forgets_max: u8,
    /// How often a resource may be released.
    releases_max: u8,
}

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Asked {
    key: usize,
    fingerprint: u8,
    guard: Wants,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wants {
    Nothing,
    The(usize),
    Unclear,
}

const LEASE: Duration = Duration::from_secs(1);
const REPLAY_FOR: Duration = Duration::from_secs(2);
const RETENTION: Duration = Duration::from_secs(3);

/// The keys of the configurations, and one for newcomers.
const KEYS: usize = 4;
const NEWCOMER: usize = 3;
const GUARDS: usize = 2;

/// A request of a key, all alike but for it.
const fn asks(key: usize) -> Asked {
    Asked { key, fingerprint: 1, guard: Wants::The(0) }
}

const TWO: &[Asked] = &[asks(0), asks(1)];
const RETRY: &[Asked] = &[asks(0), asks(0), asks(1)];
const THREE: &[Asked] = &[asks(0), asks(1), asks(2)];
const OTHER_GUARD: &[Asked] = &[asks(0), Asked { fingerprint: 9, guard: Wants::The(1), ..asks(0) }, asks(1)];
const MOVED: &[Asked] = &[asks(0), Asked { guard: Wants::The(1), ..asks(0) }, asks(1)];
const UNGUARDED: &[Asked] = &[asks(0), Asked { guard: Wants::Nothing, ..asks(0) }, asks(1)];
const UNCLEAR: &[Asked] = &[asks(0), Asked { guard: Wants::Unclear, ..asks(0) }, asks(1)];

fn configurations() -> [Config; 9] {
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
        probe_after: Duration::ZERO,
    };
    let again = Rules { on_unknown: OnUnknown::Reexecute, ..rules };
    let expires = Rules { on_expired: OnExpired::Execute, ..rules };
    let config = |name, asked, faults_max, forgets_max, rules| Config {
        name,
        rules,
        asked,
        faults_max,
        forgets_max,
        releases_max: 1,
    };
    [
        config("two keys", TWO, 2, 1, rules),
        config("a key, its retry and another key", RETRY, 1, 0, rules),
        config("the same, re-executed", RETRY, 1, 0, again),
        config("the same, expired executes", RETRY, 1, 0, expires),
        config("three keys", THREE, 0, 1, rules),
        config("a key that moves to another guard", OTHER_GUARD, 1, 0, rules),
        config("a retry under another guard", MOVED, 0, 1, again),
        config("a retry whose guard is unclear", UNCLEAR, 1, 0, again),
        config("a retry under no guard", UNGUARDED, 0, 1, again),
    ]
}

/// Everything there is.
#[derive(Clone, Hash, Debug)]
struct World {
    records: [Option<Hashed<Cell>>; KEYS],
    guards: [Option<Hashed<Cell>>; GUARDS],
    parties: Vec<Hashed<Party>>,
    /// Swaps that nobody waits for any more, and that may still arrive.
    air: Vec<Ask>,
    /// The current life of each key.
    lives: [u8; KEYS],
    /// The effects of its current life.
    effects: [u8; KEYS],
    /// Under which guards a key had an effect in its current life that is not released.
    standing: [[bool; GUARDS]; KEYS],
    observation: Observation,
    faults_left: u8,
    forgets_left: u8,
    releases_left: u8,
    /// Somebody was let execute.
    is_permitted: bool,
    /// Something happened after which a guard may stay held by nobody who lives.
    is_in_doubt: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Ask {
    party: usize,
    register: Which,
    swap: Swap,
    purpose: Purpose,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Purpose {
    Claim,
    /// Of the guard, or what gives the claim back.
    AfterClaim,
    Settle(Outcome),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Outcome {
    Replied,
    NotSent,
    Unknown,
}

#[allow(clippy::large_enum_variant, reason = "a model has few of them at once, and clones them all the time")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Party {
    Asking {
        exchange: Exchange,
        register: Which,
        swap: Swap,
        purpose: Purpose,
        asks: Asks,
    },
    Looking {
        exchange: Exchange,
        owner: RecordKey,
    },
    /// `is_late`: its claim is no longer in flight, so its driver does not call the handler any more.
    Executing {
        exchange: Exchange,
        permit: Permit,
        life: u8,
        is_late: bool,
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
    Once,
    Again,
}

/// Of one response that shows that the resource of `key`, which had `guard`, is released.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Observation {
    None,
    /// Its request was sent when the key's record bore this stamp, and was over.
    Begun {
        key: usize,
        guard: usize,
        seen: Option<Stamp>,
    },
    /// The owner was loaded.
    Owner {
        key: usize,
        guard: usize,
        stamp: Stamp,
    },
    /// Then the guard, which bears `expect`.
    Guard {
        key: usize,
        guard: usize,
        stamp: Stamp,
        expect: Stamp,
    },
    /// Then the owner again. The guard that bears this stamp is about to be deleted.
    Deleting {
        guard: usize,
        expect: Stamp,
    },
}

fn record_key(key: usize) -> RecordKey {
    RecordKey::from_bytes([u8::try_from(key).expect("few keys"); RecordKey::LEN])
}

fn guard_key(guard: usize) -> RecordKey {
    RecordKey::from_bytes([0x80 + u8::try_from(guard).expect("few guards"); RecordKey::LEN])
}

fn key_of(owner: RecordKey) -> usize {
    usize::from(owner.as_bytes()[0])
}

fn path_of(key: usize) -> String {
    format!("/orders/{key}")
}

fn guard_of(asked: Asked) -> Guard {
    match asked.guard {
        Wants::Nothing => Guard::Unguarded,
        Wants::Unclear => Guard::Incomplete(Problem::new(ProblemType::GuardIncomplete)),
        Wants::The(guard) => Guard::Guarded(GuardClaim {
            key: guard_key(guard),
            owner: record_key(asked.key),
            opener: Opener::none(),
            resource: Some(path_of(asked.key)),
            hold_for: RETENTION,
        }),
    }
}

fn open(config: &Config, asked: Asked, id: usize) -> (Exchange, Step) {
    let fingerprint = Fingerprint::from_bytes([asked.fingerprint; Fingerprint::LEN]);
    Exchange::open(config.rules, fingerprint, ExchangeId(id as u128 + 1), guard_of(asked))
}

fn reply() -> Kept {
    Kept::Reply(Arc::new(Reply { status: 201, headers: Vec::new(), content: Bytes::new() }))
}

/// Three claims, three swaps of the guard, and a settle.
const WRITES_MAX: u16 = 7;

type Change<'a> = dyn Fn(&mut World) -> Checked + 'a;

impl super::explore::World for World {
    type Config = Config;

    fn new(config: &Config) -> World {
        let parties = config.asked.iter().enumerate().map(|(party, asked)| {
            let (exchange, step) = open(config, *asked, party);
            let Step::Swap { register, swap } = step else { panic!("an exchange opens with a swap") };
            Hashed::new(Party::Asking { exchange, register, swap, purpose: Purpose::Claim, asks: Asks::Never })
        });
        World {
            records: [const { None }; KEYS],
            guards: [const { None }; GUARDS],
            parties: parties.collect(),
            air: Vec::new(),
            lives: [0; KEYS],
            effects: [0; KEYS],
            standing: [[false; GUARDS]; KEYS],
            observation: Observation::None,
            faults_left: config.faults_max,
            forgets_left: config.forgets_max,
            releases_left: config.releases_max,
            is_permitted: false,
            is_in_doubt: false,
        }
    }

    fn is_at_rest(&self) -> bool {
        self.observation == Observation::None && self.parties.iter().all(|party| matches!(&**party, Party::Over))
    }

    fn moves(&self, config: &Config, out: &mut dyn FnMut(Move, Checked<World>)) {
        let mut go = |party, what, fault: u8, change: &Change<'_>| {
            let mut next = self.clone();
            let Some(faults_left) = next.faults_left.checked_sub(fault) else { return };
            next.faults_left = faults_left;
            let result = change(&mut next).and_then(|()| next.check_owners(config)).map(|()| {
                next.tidy();
                next
            });
            out(Move { party, what }, result);
        };
        for key in 0..KEYS {
            let Some(cell) = &self.records[key] else { continue };
            let ages_to = cell.ages_to();
            if ages_to < cell.record.retention {
                go(None, "a record ages", 0, &|w| {
                    w.records[key] = Some(Hashed::new(Cell { age: ages_to, ..Cell::clone(cell) }));
                    Ok(())
                });
            } else if self.forgets_left > 0 && !self.is_anybody_busy_with(config, key) {
                go(None, "a record outlives its retention", 0, &|w| {
                    w.forgets_left -= 1;
                    w.air.clear();
                    w.records[key] = None;
                    w.end_life(key);
                    Ok(())
                });
            }
        }
        for guard in 0..GUARDS {
            let Some(cell) = &self.guards[guard] else { continue };
            let Phase::Held { owner, .. } = cell.record.phase else { panic!("a guard is held") };
            if self.forgets_left > 0 && !self.is_anybody_busy_with(config, key_of(owner)) {
                go(None, "a guard outlives its retention", 0, &|w| {
                    w.forgets_left -= 1;
                    w.air.clear();
                    w.guards[guard] = None;
                    w.standing[key_of(owner)][guard] = false;
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
        let is_claimed = self.records.iter().flatten().any(|cell| cell.is_running());
        if is_anybody_here || is_claimed {
            go(None, "the store is opened again", 1, &|w| {
                w.restart();
                Ok(())
            });
        }
        self.releases(config, &mut |what, change| go(None, what, 0, change));
        for (i, party) in self.parties.iter().enumerate() {
            self.moves_of(config, i, party, &mut |what, fault, change| go(Some(i), what, fault, change));
        }
    }

    fn check_at_rest(&self, config: &Config) -> Checked {
        let without_faults = self.faults_left == config.faults_max && self.forgets_left == config.forgets_max;
        ensure(!without_faults || self.is_permitted, I6, "without a fault, nobody was let execute")?;
        let refuses = config.rules.on_unknown == OnUnknown::Refuse;
        for cell in self.records.iter().flatten() {
            let stuck = matches!(cell.record.phase, Phase::InFlight { .. } | Phase::Unknown);
            ensure(self.is_in_doubt || !refuses || !stuck, I6, "a key stays refused though all is known of it")?;
        }
        for guard in 0..GUARDS {
            self.check_newcomer(config, Asked { key: NEWCOMER, fingerprint: 1, guard: Wants::The(guard) })?;
        }
        config.asked.iter().try_for_each(|asked| self.check_newcomer(config, *asked))
    }
}

impl World {
    /// Drivers give up, and connections end, long before a retention does: so none passes while an operation is between its
    /// claim and its permit, or executing, or asks again, and it takes with it whatever is in the air.
    fn is_anybody_busy_with(&self, config: &Config, key: usize) -> bool {
        self.parties.iter().zip(config.asked).any(|(party, asked)| match &**party {
            Party::Asking { asks: Asks::Again, .. } | Party::GivingBack { .. } => true,
            Party::Asking { purpose: Purpose::AfterClaim, .. } | Party::Looking { .. } | Party::Executing { .. } => {
                asked.key == key
            }
            Party::Asking { .. } | Party::Over => false,
        })
    }

    /// The resource of an operation whose effect stands is released, and a response shows it.
    fn releases(&self, config: &Config, go: &mut dyn FnMut(&'static str, &Change<'_>)) {
        let mut observed = |what, next: Option<Observation>| {
            go(what, &|w| {
                // Nothing is released, whatever was shown: another attempt came in between.
                w.is_in_doubt |= next.is_none();
                w.observation = next.unwrap_or(Observation::None);
                Ok(())
            });
        };
        match self.observation {
            Observation::None if self.releases_left > 0 => {
                for key in 0..KEYS {
                    for guard in (0..GUARDS).filter(|guard| self.standing[key][*guard]) {
                        if self.is_executing(config, key, guard) {
                            continue;
                        }
                        go("a resource is released, and a response shows it", &|w| {
                            w.releases_left -= 1;
                            w.standing[key][guard] = false;
                            let seen = w.records[key].as_ref().filter(|cell| !cell.is_running()).map(|cell| cell.stamp);
                            w.observation = Observation::Begun { key, guard, seen };
                            Ok(())
                        });
                    }
                }
            }
            Observation::None => {}
            Observation::Begun { key, guard, seen } => {
                let owner = self.records[key].as_ref().filter(|cell| {
                    let is_over = match cell.record.phase {
                        Phase::Completed { .. } | Phase::Unknown => true,
                        Phase::InFlight { .. } => !cell.is_running(),
                        Phase::Held { .. } => false,
                    };
                    let is_older = Some(cell.stamp) == seen || planted(Bug::ReleaseIgnoresAge);
                    is_over && is_older && cell.record.guard == Some(guard_key(guard))
                });
                observed(
                    "the observer loads the owner",
                    owner.map(|cell| Observation::Owner { key, guard, stamp: cell.stamp }),
                );
            }
            Observation::Owner { key, guard, stamp } => {
                let held = self.guards[guard]
                    .as_ref()
                    .filter(|cell| matches!(cell.record.phase, Phase::Held { owner, .. } if owner == record_key(key)));
                observed(
                    "the observer loads the guard",
                    held.map(|cell| Observation::Guard { key, guard, stamp, expect: cell.stamp }),
                );
            }
            Observation::Guard { key, guard, stamp, expect } => {
                let same = self.records[key].as_ref().is_some_and(|cell| cell.stamp == stamp);
                let goes_on = same || planted(Bug::ReleaseLooksOnce);
                observed(
                    "the observer loads the owner again",
                    goes_on.then_some(Observation::Deleting { guard, expect }),
                );
            }
            Observation::Deleting { guard, expect } => {
                go("the observer deletes the guard", &|w| {
                    w.observation = Observation::None;
                    let expect = match &w.guards[guard] {
                        Some(cell) if planted(Bug::ReleaseIsBlind) => cell.stamp,
                        Some(_) | None => expect,
                    };
                    swap_in(&mut w.guards[guard], &Swap { expect: Some(expect), put: None });
                    Ok(())
                });
                go("the observer fails", &|w| {
                    w.is_in_doubt = true;
                    w.observation = Observation::None;
                    Ok(())
                });
            }
        }
    }

    fn moves_of(&self, config: &Config, i: usize, party: &Party, go: &mut dyn FnMut(&'static str, u8, &Change<'_>)) {
        match party {
            Party::Over => {}
            // Exchanges that have not begun and ask the same are alike: the first of them begins first.
            Party::Asking { asks: Asks::Never, .. }
                if (0..i).any(|j| {
                    config.asked[j] == config.asked[i]
                        && matches!(&*self.parties[j], Party::Asking { asks: Asks::Never, .. })
                }) => {}
            Party::Asking { exchange, register, swap, purpose, asks } => {
                let ask = Ask { party: i, register: *register, swap: swap.clone(), purpose: *purpose };
                let again = Party::Asking {
                    exchange: exchange.clone(),
                    register: *register,
                    swap: swap.clone(),
                    purpose: *purpose,
                    asks: Asks::Again,
                };
                go("the store answers", 0, &|w| {
                    let mut exchange = exchange.clone();
                    let swapped = w.apply(config, &ask)?;
                    let step = exchange.on_swapped(swapped);
                    w.take(config, i, *purpose, exchange, step)
                });
                go("the store's answer is lost, and it is asked again", 1, &|w| {
                    w.apply(config, &ask)?;
                    w.parties[i] = Hashed::new(again.clone());
                    Ok(())
                });
                go("the swap is delayed, and asked again", 1, &|w| {
                    w.is_in_doubt = true;
                    w.air.push(ask.clone());
                    w.parties[i] = Hashed::new(again.clone());
                    Ok(())
                });
                let given_up_on = |w: &mut World| {
                    let mut exchange = exchange.clone();
                    let step = exchange.on_store_failed();
                    w.take(config, i, *purpose, exchange, step)
                };
                go("the store is given up on", 1, &|w| {
                    w.is_in_doubt = true;
                    w.air.push(ask.clone());
                    given_up_on(w)
                });
                // The same but that the swap is not in the air, so that a claim is known to be given back in the end.
                if matches!(purpose, Purpose::Claim | Purpose::AfterClaim) {
                    go("the store's answer is lost, and it is given up on", 1, &|w| {
                        w.apply(config, &ask)?;
                        given_up_on(w)
                    });
                }
                if *asks != Asks::Again {
                    go("the store refuses", 1, &|w| {
                        let mut exchange = exchange.clone();
                        let step = exchange.on_store_refused();
                        w.is_in_doubt |= matches!(purpose, Purpose::Settle(_));
                        w.take(config, i, *purpose, exchange, step)
                    });
                }
                go("it crashes, its swap in the air", 1, &|w| {
                    w.is_in_doubt = true;
                    w.air.push(ask.clone());
                    w.parties[i] = Hashed::new(Party::Over);
                    Ok(())
                });
            }
            Party::GivingBack { swap } => {
                let ask = Ask { party: i, register: Which::Record, swap: swap.clone(), purpose: Purpose::AfterClaim };
                go("the claim is given back", 0, &|w| {
                    w.apply(config, &ask)?;
                    w.parties[i] = Hashed::new(Party::Over);
                    Ok(())
                });
                go("the claim is not given back, or too late", 0, &|w| {
                    w.is_in_doubt = true;
                    w.air.push(ask.clone());
                    w.parties[i] = Hashed::new(Party::Over);
                    Ok(())
                });
            }
            Party::Looking { exchange, owner } => {
                go("the store shows the owner", 0, &|w| {
                    let found = w.records[key_of(*owner)].as_ref().map(|cell| cell.found());
                    let mut exchange = exchange.clone();
                    let step = exchange.on_looked(found.as_ref());
                    w.take(config, i, Purpose::AfterClaim, exchange, step)
                });
                go("the store is given up on", 1, &|w| {
                    w.is_in_doubt = true;
                    let mut exchange = exchange.clone();
                    let step = exchange.on_store_failed();
                    w.take(config, i, Purpose::AfterClaim, exchange, step)
                });
                go("it crashes", 1, &|w| {
                    w.is_in_doubt = true;
                    w.parties[i] = Hashed::new(Party::Over);
                    Ok(())
                });
            }
            Party::Executing { exchange, permit, life, is_late } => {
                let mut ends = |what, fault, effect: Effect, outcome: Outcome, executed: &dyn Fn() -> Executed| {
                    if *is_late && outcome != Outcome::NotSent {
                        return;
                    }
                    go(what, if *is_late { 0 } else { fault }, &|w| {
                        if effect == Effect::Happened {
                            w.effect(config, i, *life)?;
                        }
                        w.is_in_doubt |= outcome == Outcome::Unknown;
                        let mut exchange = exchange.clone();
                        let step = exchange.on_executed(permit.clone(), executed());
                        w.take(config, i, Purpose::Settle(outcome), exchange, step)
                    });
                };
                let replied = |effect| Executed::Replied { kept: reply(), effect };
                let happened = || replied(Effect::Happened);
                ends("replies: happened", 0, Effect::Happened, Outcome::Replied, &happened);
                ends("replies: nothing happened", 1, Effect::None, Outcome::Replied, &|| replied(Effect::None));
                ends("not sent", 1, Effect::None, Outcome::NotSent, &|| Executed::NotSent);
                ends("no reply, without effect", 1, Effect::None, Outcome::Unknown, &|| Executed::Unknown);
                ends("no reply, with effect", 1, Effect::Happened, Outcome::Unknown, &|| Executed::Unknown);
                for (what, effect) in
                    [("crashes before the effect", Effect::None), ("crashes after the effect", Effect::Happened)]
                {
                    go(what, 1, &|w| {
                        if effect == Effect::Happened && !is_late {
                            w.effect(config, i, *life)?;
                        }
                        w.is_in_doubt = true;
                        w.parties[i] = Hashed::new(Party::Over);
                        Ok(())
                    });
                }
            }
        }
    }

    /// The store carries out a swap, and what that changes is judged.
    fn apply(&mut self, config: &Config, ask: &Ask) -> Checked<Swapped> {
        let asked = config.asked[ask.party];
        let cell = match (ask.register, asked.guard) {
            (Which::Record, _) => &mut self.records[asked.key],
            (Which::Guard, Wants::The(guard)) => return Ok(swap_in(&mut self.guards[guard], &ask.swap)),
            (Which::Guard, Wants::Nothing | Wants::Unclear) => panic!("nothing is guarded here"),
        };
        let before = cell.clone();
        let swapped = swap_in(cell, &ask.swap);
        if before == *cell {
            return Ok(swapped);
        }
        let is_gone = cell.is_none();
        match (ask.purpose, &before) {
            (Purpose::Settle(_) | Purpose::AfterClaim, before) => {
                let own = before.as_ref().is_some_and(|cell| cell.stamp.exchange.0 == ask.party as u128 + 1);
                ensure(own, I5, "who no longer holds the record changed it")?;
            }
            (Purpose::Claim, None) => {}
            (Purpose::Claim, Some(cell)) => match &cell.record.phase {
                Phase::Completed { .. } => self.end_life(asked.key),
                Phase::InFlight { .. } | Phase::Unknown => {
                    self.is_in_doubt = true;
                    ensure(config.rules.on_unknown != OnUnknown::Refuse, I1, "an unknown outcome was executed again")?;
                }
                Phase::Held { .. } => panic!("a record is no guard"),
            },
        }
        ensure(!is_gone || self.effects[asked.key] == 0, I6, "a key is free although its effect happened")?;
        Ok(swapped)
    }

    fn end_life(&mut self, key: usize) {
        self.lives[key] += 1;
        self.effects[key] = 0;
        self.standing[key] = [false; GUARDS];
    }

    fn effect(&mut self, config: &Config, i: usize, life: u8) -> Checked {
        let asked = config.asked[i];
        if life != self.lives[asked.key] {
            return Ok(());
        }
        self.effects[asked.key] += 1;
        if let Wants::The(guard) = asked.guard {
            self.standing[asked.key][guard] = true;
        }
        let once = self.effects[asked.key] <= 1 || config.rules.on_unknown != OnUnknown::Refuse;
        ensure(once, I1, "the effect happened twice")
    }

    fn is_executing(&self, config: &Config, key: usize, guard: usize) -> bool {
        self.parties.iter().zip(config.asked).any(|(party, asked)| {
            asked.key == key
                && asked.guard == Wants::The(guard)
                && matches!(&**party, Party::Executing { life, is_late: false, .. } if *life == self.lives[key])
        })
    }

    fn is_live(&self, config: &Config, key: usize, guard: usize) -> bool {
        self.standing[key][guard] || self.is_executing(config, key, guard)
    }

    /// I10, at every instant.
    fn check_owners(&self, config: &Config) -> Checked {
        (0..GUARDS).try_for_each(|guard| {
            let live = (0..KEYS).filter(|key| self.is_live(config, *key, guard)).count();
            ensure(live <= 1, I10, "two owners live under one guard")
        })
    }

    /// An exchange made its step.
    fn take(&mut self, config: &Config, i: usize, purpose: Purpose, exchange: Exchange, step: Step) -> Checked {
        let key = config.asked[i].key;
        let party = match step {
            Step::Swap { register, swap } => {
                let writes = swap.put.as_ref().map_or(0, |put| put.stamp.write);
                ensure(writes <= WRITES_MAX, I6, "an exchange asks for ever")?;
                let purpose = match (purpose, register) {
                    (Purpose::Settle(outcome), _) => Purpose::Settle(outcome),
                    (Purpose::Claim, Which::Record) if Self::is_claim(&swap) => Purpose::Claim,
                    (Purpose::Claim | Purpose::AfterClaim, Which::Record | Which::Guard) => Purpose::AfterClaim,
                };
                Party::Asking { exchange, register, swap, purpose, asks: Asks::Once }
            }
            Step::Look(owner) => Party::Looking { exchange, owner },
            Step::Execute(permit) => {
                self.is_permitted = true;
                let record = self.records[key].as_ref();
                ensure(record.is_some(), I3, "an execution began without its claim")?;
                let is_own = record.is_some_and(|cell| cell.is_running() && cell.stamp.exchange.0 == i as u128 + 1);
                Party::Executing { exchange, permit, life: self.lives[key], is_late: !is_own }
            }
            Step::Answer(answer) => {
                self.check_answer(config, i, purpose, &answer)?;
                Party::Over
            }
            Step::GiveBack { answer, swap } => {
                self.check_answer(config, i, purpose, &answer)?;
                Party::GivingBack { swap }
            }
            Step::Wait { .. } => panic!("nobody waits here"),
            Step::Probe => panic!("no origin is asked here"),
        };
        self.parties[i] = Hashed::new(party);
        Ok(())
    }

    /// A claim puts a record in flight, or asks what is there.
    fn is_claim(swap: &Swap) -> bool {
        match &swap.put {
            Some(put) => matches!(put.record.phase, Phase::InFlight { .. }),
            None => swap.expect.is_none(),
        }
    }

    fn check_answer(&self, config: &Config, i: usize, purpose: Purpose, answer: &Answer) -> Checked {
        let words = match answer {
            Answer::Own { status, .. } => status.map_or("own", KeyStatus::as_str),
            Answer::Replay(_) => "replay",
            Answer::Refuse(problem) => problem.kind.code(),
            Answer::Lost(_) => "lost",
        };
        TOLD.with_borrow_mut(|told| told.insert(words));
        let Answer::Refuse(problem) = answer else {
            let executed = matches!(purpose, Purpose::Settle(_)) || matches!(answer, Answer::Replay(_));
            return ensure(executed, I3, "a reply was told that is not there");
        };
        let executed = matches!(purpose, Purpose::Settle(Outcome::Replied | Outcome::Unknown));
        ensure(!executed, I3, "a refusal after an execution")?;
        if problem.kind == ProblemType::GuardHeld {
            let others = (0..KEYS).filter(|key| *key != config.asked[i].key).map(|key| Some(path_of(key)));
            ensure(others.into_iter().any(|path| path == problem.resource), I10, "the owner is not named")?;
            let own = self.records[config.asked[i].key].as_ref();
            let is_kept = own.is_some_and(|cell| cell.stamp.exchange.0 == i as u128 + 1);
            ensure(!is_kept, I6, "a refused claim was not given back")?;
        }
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
        self.observation = Observation::None;
        for cell in self.records.iter_mut().chain(&mut self.guards).flatten() {
            *cell = Hashed::new(Cell { abandoned: true, ..Cell::clone(cell) });
        }
    }

    /// Forgets what cannot matter any more, so that equal worlds look equal.
    fn tidy(&mut self) {
        let stamps: Vec<Stamp> = self.records.iter().chain(&self.guards).flatten().map(|cell| cell.stamp).collect();
        // A stamp that is gone never comes back. What expects nothing can land whenever nothing is there.
        self.air.retain(|ask| ask.swap.expect.is_none_or(|expect| stamps.contains(&expect)));
    }
}
