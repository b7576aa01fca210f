//! The state machine of one request under one key, from claim to answer.
//!
//! Whoever drives it carries out the [`Step`] it returns and reports back; it never waits by itself. The driver may
//! repeat a swap whose answer was lost: the stamp makes that harmless.

use std::{sync::Arc, time::Duration};

use crate::{
    decide::{Decision, Rules, decide},
    fingerprint::Fingerprint,
    planted::{Bug, planted},
    policy::{Effect, OnUnknown},
    record::{ExchangeId, Kept, Phase, Place, Record, Reply, Stamp},
    register::{Found, Put, Swap, Swapped},
    scope::RecordKey,
    seal::Opener,
    wire::{KeyStatus, Problem, ProblemType, Warning},
};

/// One request under one key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Exchange {
    rules: Rules,
    fingerprint: Fingerprint,
    id: ExchangeId,
    guard: Guard,
    fresh: Fresh,
    writes: u16,
    claims_left: u8,
    /// The same for the guard.
    guards_left: u8,
    waited: Duration,
    is_probed: bool,
    state: State,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum State {
    Claiming(Claimed),
    /// Only asks what is there.
    Asking,
    /// The key is claimed, and the guard is not.
    Guarding(Claimed),
    /// The guard bears `stamp`, and names an owner that may be gone.
    Looking {
        claimed: Claimed,
        stamp: Stamp,
        resource: Option<String>,
    },
    /// Nothing was executed; `problem` is what the caller is told once `swap` has undone the claim.
    GivingBack {
        problem: Problem,
        swap: Swap,
    },
    Waiting,
    Executing,
    Settling {
        executed: Executed,
        attempt: u32,
        warning: Option<Warning>,
    },
    /// The origin is being asked what became of the attempts before.
    Probing(Seen),
    /// The origin said that it happened, and the record is to say so.
    Resolving(Put),
    Over,
}

/// A claim of the key, confirmed or asked for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Claimed {
    attempt: u32,
    stamp: Stamp,
    warning: Option<Warning>,
}

/// What matters of a record that is to be replaced.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Seen {
    stamp: Stamp,
    attempt: u32,
    guard: Option<RecordKey>,
    age: Duration,
}

impl Seen {
    fn of(found: &Found) -> Seen {
        Seen { stamp: found.stamp, attempt: found.record.attempt, guard: found.record.guard, age: found.age }
    }
}

/// What a request has to do with a guard: a business uniqueness rule that its route may name (`design.md` section 5).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Guard {
    /// Nothing.
    Unguarded,
    /// It must hold this one while it executes, and does so for as long as its record is there (I10).
    Guarded(GuardClaim),
    /// It should hold one, and nobody can tell which: the key answers a retry, and nothing is executed.
    Incomplete(Problem),
}

/// Whether a request may claim a key that nobody claimed before it, or whose last life is over.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Fresh {
    /// It may.
    Allowed,
    /// It is told this instead, and nothing is executed; a key that was used before answers as ever (SC12).
    Refused(Problem),
}

/// The guard that a request must hold.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GuardClaim {
    /// The guard's register, in the same store.
    pub key: RecordKey,
    /// The record of the request itself: whom the guard names.
    pub owner: RecordKey,
    /// What opens the guard beside a sealing secret, for all who meet it.
    pub opener: Opener,
    /// Where the request's resource is, for those who are refused: a path.
    pub resource: Option<String>,
    /// How long after the claim the guard is held at most; never less than the lease.
    pub hold_for: Duration,
}

/// Which register a swap is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Which {
    /// The record of the request.
    Record,
    /// The guard it must hold ([`GuardClaim::key`]).
    Guard,
}

/// What to do next.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub enum Step {
    /// Ask the store, then report [`Exchange::on_swapped`] or, when it gave up, [`Exchange::on_store_failed`], or
    /// [`Exchange::on_store_refused`] if that is certain.
    Swap {
        /// Where.
        register: Which,
        /// What.
        swap: Swap,
    },
    /// Load this record, then report [`Exchange::on_looked`] or, when the store gave up, [`Exchange::on_store_failed`].
    Look(RecordKey),
    /// Execute once, then report [`Exchange::on_executed`]. The permit is spent by reporting.
    Execute(Permit),
    /// Ask the origin what became of the attempts before, without executing anything, then report
    /// [`Exchange::on_probed`]. An exchange asks once at most.
    Probe,
    /// Wait until the record no longer bears `seen` or is no longer running, or `at_most`; then report
    /// [`Exchange::on_waited`].
    Wait {
        /// The stamp of the record that is in flight.
        seen: Stamp,
        /// The rest of the route's `wait_max`.
        at_most: Duration,
    },
    /// Tell this to the caller. The exchange is over.
    Answer(Answer),
    /// The same, but the store may hold a claim under which nothing is executed. Once the caller is told, ask it for `swap`
    /// of the record until it answers, whatever that is, or the lease of the claim is over.
    GiveBack {
        /// What to tell, at once.
        answer: Answer,
        /// What leaves the key as it was before the claim.
        swap: Swap,
    },
}

/// The right to execute once. It cannot be copied, and only a confirmed claim makes one (I3).
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub struct Permit(Claimed);

impl Permit {
    /// The how-manieth execution of the operation this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }
}

/// What became of an execution.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Executed {
    /// There is a response.
    Replied {
        /// What of it is to be kept.
        kept: Kept,
        /// What it says about the effect.
        effect: Effect,
    },
    /// Not a byte of the request left; only who holds the connection may say so.
    NotSent,
    /// No response, and the request may have arrived: time-out, lost connection, panic.
    Unknown,
}

/// What the origin says became of the attempts before, when it is asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Probed {
    /// The effect happened; what stands for the reply that was lost.
    Found(Kept),
    /// The effect has not happened yet. An attempt on its way may still have it.
    Absent,
    /// Nothing that can be relied on: no answer in time, an error, an answer that the route does not name.
    Undecided,
}

/// What the caller is told.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// The response of this exchange's own execution.
    Own {
        /// What became of the key, when it is not simply kept.
        status: Option<KeyStatus>,
        /// What the caller should be warned of.
        warning: Option<Warning>,
    },
    /// The kept reply of an earlier execution.
    Replay(Arc<Reply>),
    /// A problem; this exchange executed nothing.
    Refuse(Problem),
    /// A problem; this exchange executed, and got no response that tells the outcome.
    Lost(Problem),
}

/// How often one request tries to claim before it says that the key is in flight.
const CLAIMS_MAX: u8 = 3;

/// What may be written after a claim: the guard, and the settle or what gives the claim back; and what a probe found.
const WRITES_AFTER_CLAIM_MAX: u16 = CLAIMS_MAX as u16 + 2;

/// Every wait uses up at least this much of `wait_max`, so that a driver that wakes at once cannot loop.
pub const WAIT_MIN: Duration = Duration::from_millis(5);

impl Exchange {
    /// Opens an exchange: its first step is to claim the key. The guard comes after it, so that a retry is answered from
    /// its own record whatever the guard says (Q9).
    pub fn open(rules: Rules, fingerprint: Fingerprint, id: ExchangeId, guard: Guard) -> (Exchange, Step) {
        Exchange::open_as(rules, fingerprint, id, guard, Fresh::Allowed)
    }

    /// The same for a caller who perhaps may use no fresh key.
    pub fn open_as(
        rules: Rules,
        fingerprint: Fingerprint,
        id: ExchangeId,
        guard: Guard,
        fresh: Fresh,
    ) -> (Exchange, Step) {
        let mut exchange = Exchange {
            rules,
            fingerprint,
            id,
            guard,
            fresh,
            writes: 0,
            claims_left: CLAIMS_MAX,
            guards_left: CLAIMS_MAX,
            waited: Duration::ZERO,
            is_probed: false,
            state: State::Over,
        };
        let step = match exchange.guard {
            Guard::Guarded(_) if planted(Bug::GuardBeforeIdentity) => {
                let stamp = Stamp { exchange: id, write: 0 };
                exchange.hold(Claimed { attempt: 1, stamp, warning: None }, None)
            }
            Guard::Unguarded | Guard::Guarded(_) | Guard::Incomplete(_) => exchange.claim(None, 1, None),
        };
        (exchange, step)
    }

    /// Its identity.
    pub fn id(&self) -> ExchangeId {
        self.id
    }

    /// The store answered the swap of the last step.
    pub fn on_swapped(&mut self, swapped: Swapped) -> Step {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Claiming(claimed) => match swapped {
                Swapped::Done => match self.guard {
                    Guard::Unguarded | Guard::Incomplete(_) => self.execute(claimed),
                    Guard::Guarded(_) if planted(Bug::GuardBeforeIdentity) => self.execute(claimed),
                    Guard::Guarded(_) => self.hold(claimed, None),
                },
                Swapped::Found(found) => self.judge(&found),
                Swapped::Absent => self.claim(None, 1, None),
            },
            State::Asking => match swapped {
                Swapped::Found(found) => self.judge(&found),
                Swapped::Done | Swapped::Absent => match self.no_claim(None).cloned() {
                    Some(problem) => self.end(Answer::Refuse(problem)),
                    // The record was there before the probe, and is not any more.
                    None => self.claim(None, 1, None),
                },
            },
            State::Guarding(claimed) => match swapped {
                Swapped::Done if planted(Bug::GuardBeforeIdentity) => self.claim(None, 1, None),
                Swapped::Done => self.execute(claimed),
                Swapped::Absent => self.hold(claimed, None),
                Swapped::Found(found) => self.on_guard_found(claimed, found),
            },
            State::GivingBack { .. } if planted(Bug::GivenBackExecutes) => {
                let stamp = Stamp { exchange: self.id, write: 1 };
                self.execute(Claimed { attempt: 1, stamp, warning: None })
            }
            State::GivingBack { problem, .. } => self.end(Answer::Refuse(problem)),
            State::Resolving(put) => match swapped {
                Swapped::Done => {
                    self.judge(&Found { stamp: put.stamp, age: Duration::ZERO, abandoned: false, record: put.record })
                }
                Swapped::Found(found) => self.judge(&found),
                // Nobody can free what has happened, so the record has outlived its retention meanwhile.
                Swapped::Absent => self.refuse(ProblemType::InFlight),
            },
            State::Settling { executed, attempt, warning } => match executed {
                Executed::Replied { effect: Effect::Happened, .. } => self.on_kept(swapped, warning),
                // Nothing was to be kept, so whoever holds the record now is no concern of this exchange.
                executed if !planted(Bug::FencedIgnoresRelease) => {
                    self.end(match (own(&self.rules, &executed, attempt, warning), swapped) {
                        // Freed with a lost answer and claimed anew, or taken over and perhaps executed by another: from
                        // here the two look alike.
                        (Answer::Own { status: Some(KeyStatus::Released), warning }, Swapped::Found(_))
                            if !planted(Bug::FencedSaysReleased) =>
                        {
                            Answer::Own { status: Some(KeyStatus::Unkept), warning }
                        }
                        (told, _) => told,
                    })
                }
                executed => match swapped {
                    Swapped::Found(found) => self.fenced(&found, warning),
                    Swapped::Done | Swapped::Absent => self.end(own(&self.rules, &executed, attempt, warning)),
                },
            },
            State::Looking { .. } | State::Waiting | State::Executing | State::Probing(_) | State::Over => {
                unreachable!("no swap was asked for")
            }
        }
    }

    /// The store answered the look of the last step.
    pub fn on_looked(&mut self, owner: Option<&Found>) -> Step {
        let State::Looking { claimed, stamp, resource } = std::mem::replace(&mut self.state, State::Over) else {
            unreachable!("no look was asked for")
        };
        // An owner that has another guard by now has left this one behind.
        let holds = |owner: &Found| match owner.record.phase {
            Phase::InFlight { .. } if planted(Bug::InFlightHoldsNothing) => false,
            Phase::Unknown if planted(Bug::UnknownHoldsNothing) => false,
            Phase::InFlight { .. } | Phase::Unknown | Phase::Completed { .. } | Phase::Held { .. } => {
                owner.record.guard == self.guard_key() || planted(Bug::OldGuardStaysHeld)
            }
        };
        match owner {
            Some(owner) if holds(owner) => self.refuse_held(&claimed, resource),
            Some(_) | None => self.hold(claimed, Some(stamp)),
        }
    }

    /// The store refused, and certainly has not applied the swap of the last step.
    pub fn on_store_refused(&mut self) -> Step {
        match self.state {
            State::Claiming(_) => self.refuse(ProblemType::StoreUnavailable),
            State::Guarding(_) | State::Looking { .. } | State::GivingBack { .. } if planted(Bug::RefusedIsLeft) => {
                self.refuse(ProblemType::StoreUnavailable)
            }
            State::Asking
            | State::Guarding(_)
            | State::Looking { .. }
            | State::GivingBack { .. }
            | State::Settling { .. }
            | State::Resolving(_)
            | State::Waiting
            | State::Executing
            | State::Probing(_)
            | State::Over => self.on_store_failed(),
        }
    }

    /// The store failed, and whether the swap of the last step was applied is not known.
    pub fn on_store_failed(&mut self) -> Step {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Claiming(claimed) if planted(Bug::FailOpen) => self.execute(claimed),
            // Whether what the origin said is kept now or later makes no difference: it is true.
            State::Asking | State::Resolving(_) => self.refuse(ProblemType::StoreUnavailable),
            State::Guarding(claimed) if planted(Bug::GuardFailOpen) => self.execute(claimed),
            // If the claim was applied after all, nothing was executed under it (I7). If the guard was taken after all, it names
            // an owner that is not there, which is as good as free.
            State::Claiming(claimed) | State::Guarding(claimed) | State::Looking { claimed, .. } => {
                let swap = self.undo(&claimed);
                self.leave(swap)
            }
            State::GivingBack { swap, .. } => self.leave(swap),
            State::Settling { executed: Executed::Replied { effect: Effect::Happened, .. }, warning, .. } => {
                let status = if planted(Bug::UnsettledIsKept) { None } else { Some(KeyStatus::Unkept) };
                self.end(Answer::Own { status, warning })
            }
            // The record stays in flight, so the key is not free however true it is that nothing happened.
            State::Settling { executed: Executed::Replied { .. }, warning, .. }
                if !planted(Bug::UnsettledIsReleased) =>
            {
                self.end(Answer::Own { status: Some(KeyStatus::Unkept), warning })
            }
            State::Settling { executed, attempt, warning } => self.end(own(&self.rules, &executed, attempt, warning)),
            State::Waiting | State::Executing | State::Probing(_) | State::Over => {
                unreachable!("the store was not asked")
            }
        }
    }

    /// The execution that the permit allowed has ended.
    #[allow(clippy::needless_pass_by_value, reason = "the permit is spent")]
    pub fn on_executed(&mut self, permit: Permit, executed: Executed) -> Step {
        let Permit(Claimed { attempt, stamp, warning }) = permit;
        // An earlier attempt whose outcome is unknown may have had the effect that this one did not have.
        let is_first = attempt == 1 || planted(Bug::ReleaseAfterTakeOver);
        let phase = match &executed {
            Executed::Replied { kept, effect: Effect::Happened } => {
                Some(Phase::Completed { kept: kept.clone(), replay_for: self.rules.replay_for })
            }
            Executed::Replied { effect: Effect::None, .. } | Executed::NotSent if is_first => None,
            Executed::Unknown if planted(Bug::UnknownIsNotSent) => None,
            Executed::Replied { effect: Effect::None | Effect::Unknown, .. }
            | Executed::NotSent
            | Executed::Unknown => Some(Phase::Unknown),
        };
        self.state = State::Settling { executed, attempt, warning };
        let put = phase.map(|phase| self.put(attempt, phase));
        let expect = Some(stamp).filter(|_| !planted(Bug::BlindSettle));
        Step::Swap { register: Which::Record, swap: Swap { expect, put } }
    }

    /// The wait is over: the record changed, or the time is up. `elapsed` is how long it took, and `found` what was loaded
    /// since it began, so that a crowd which waited need not ask the store one by one; `None`: nothing was there, or
    /// nothing was loaded.
    pub fn on_waited(&mut self, elapsed: Duration, found: Option<&Found>) -> Step {
        let spent = if planted(Bug::WaitIsFree) { elapsed } else { elapsed.max(WAIT_MIN) };
        self.waited = self.waited.saturating_add(spent);
        self.claims_left = CLAIMS_MAX;
        match found {
            Some(found) => self.judge(found),
            None => self.claim(None, 1, None),
        }
    }

    /// The origin was asked, and has answered, or not.
    pub fn on_probed(&mut self, probed: Probed) -> Step {
        let State::Probing(seen) = std::mem::replace(&mut self.state, State::Over) else {
            unreachable!("no probe was asked for")
        };
        // What has not arrived by then never will; before, "not there" says nothing of what is on its way.
        let is_over = seen.age >= self.rules.probe_after || planted(Bug::ProbeBelievedTooEarly);
        match probed {
            Probed::Found(Kept::Reply(reply)) if planted(Bug::FoundIsNotKept) => self.end(Answer::Replay(reply)),
            Probed::Found(kept) => {
                let mut put = self.put(seen.attempt, Phase::Completed { kept, replay_for: self.rules.replay_for });
                // It happened under the guard that was held then.
                put.record.guard = seen.guard;
                self.state = State::Resolving(put.clone());
                let expect = Some(seen.stamp).filter(|_| !planted(Bug::BlindResolve));
                Step::Swap { register: Which::Record, swap: Swap { expect, put: Some(put) } }
            }
            // Not the first attempt, although none before had an effect: a key that were freed after this one could be
            // claimed by the repeated swap of the first, under the stamp that somebody else saw before.
            Probed::Absent if is_over => self.take_over(seen, seen.attempt.saturating_add(1), None),
            Probed::Undecided if planted(Bug::UndecidedIsAbsent) => {
                self.take_over(seen, seen.attempt.saturating_add(1), None)
            }
            // Another who asked meanwhile may have been told more.
            Probed::Absent | Probed::Undecided => self.ask(),
        }
    }

    fn claim(&mut self, expect: Option<Stamp>, attempt: u32, warning: Option<Warning>) -> Step {
        // A key that changes hands faster than it can be claimed is in flight, for all this request can tell.
        let Some(claims_left) = self.claims_left.checked_sub(1) else { return self.refuse(ProblemType::InFlight) };
        // So is one that was waited for so often that stamps would repeat.
        if self.writes >= u16::MAX - WRITES_AFTER_CLAIM_MAX {
            return self.refuse(ProblemType::InFlight);
        }
        self.claims_left = claims_left;
        if self.no_claim(expect).is_some() && !planted(Bug::IncompleteIsUnguarded) {
            return self.ask();
        }
        let put = self.put(attempt, Phase::InFlight { lease: self.rules.lease });
        self.state = State::Claiming(Claimed { attempt, stamp: put.stamp, warning });
        Step::Swap { register: Which::Record, swap: Swap { expect, put: Some(put) } }
    }

    fn ask(&mut self) -> Step {
        self.state = State::Asking;
        Step::Swap { register: Which::Record, swap: Swap { expect: None, put: None } }
    }

    /// Replaces the record that was seen, to execute.
    fn take_over(&mut self, seen: Seen, attempt: u32, warning: Option<Warning>) -> Step {
        let is_first = attempt == 1;
        // What may have happened under one guard is not done again under another: the first would be free.
        let changes_guard = seen.guard.is_some() && seen.guard != self.guard_key();
        if !is_first && changes_guard && !planted(Bug::TakeOverChangesGuard) {
            return self.refuse(ProblemType::OutcomeUnknown);
        }
        if let Guard::Incomplete(problem) = &self.guard {
            let problem = if is_first { problem.clone() } else { self::problem(ProblemType::OutcomeUnknown) };
            return self.end(Answer::Refuse(problem));
        }
        // A record past its time, whose key begins a new life.
        if let (true, Fresh::Refused(problem)) = (is_first, &self.fresh) {
            let problem = problem.clone();
            return self.end(Answer::Refuse(problem));
        }
        self.claim(Some(seen.stamp).filter(|_| !planted(Bug::BlindTakeOver)), attempt, warning)
    }

    /// Why a key may not be claimed where `expect` is.
    fn no_claim(&self, expect: Option<Stamp>) -> Option<&Problem> {
        match (&self.guard, &self.fresh) {
            (Guard::Incomplete(problem), _) => Some(problem),
            // What was executed before is not fresh.
            (Guard::Unguarded | Guard::Guarded(_), Fresh::Refused(problem)) if expect.is_none() => Some(problem),
            (Guard::Unguarded | Guard::Guarded(_), Fresh::Refused(_) | Fresh::Allowed) => None,
        }
    }

    fn execute(&mut self, claimed: Claimed) -> Step {
        self.state = State::Executing;
        Step::Execute(Permit(claimed))
    }

    /// Puts the own name on the guard where `expect` is. A guard that bears the own name already is written anew as well:
    /// whoever saw the old stamp, and the owner gone, can then no longer take it over.
    fn hold(&mut self, claimed: Claimed, expect: Option<Stamp>) -> Step {
        let Guard::Guarded(GuardClaim { owner, resource, hold_for, .. }) = &self.guard else {
            unreachable!("only a guarded request holds a guard")
        };
        let Some(guards_left) = self.guards_left.checked_sub(1) else {
            return self.give_back(&claimed, problem(ProblemType::InFlight));
        };
        let phase = Phase::Held { owner: *owner, resource: resource.clone().map(Place::Path) };
        let retention = (*hold_for).max(self.rules.lease);
        self.guards_left = guards_left;
        let mut put = self.put(claimed.attempt, phase);
        put.record = Record { retention, guard: None, ..put.record };
        self.state = State::Guarding(claimed);
        Step::Swap { register: Which::Guard, swap: Swap { expect, put: Some(put) } }
    }

    fn on_guard_found(&mut self, claimed: Claimed, found: Found) -> Step {
        let own = match &self.guard {
            Guard::Guarded(guard) => Some(guard.owner),
            Guard::Unguarded | Guard::Incomplete(_) => None,
        };
        match found.record.phase {
            Phase::Held { owner, .. } if Some(owner) == own && planted(Bug::GuardNotStampedAnew) => {
                self.execute(claimed)
            }
            Phase::Held { .. } if planted(Bug::GuardTakenBlindly) => self.hold(claimed, Some(found.stamp)),
            Phase::Held { owner, .. } if Some(owner) == own => self.hold(claimed, Some(found.stamp)),
            Phase::Held { owner, resource } => {
                let resource = match resource {
                    Some(Place::Path(path)) => Some(path),
                    // Held it is, wherever that may be.
                    Some(Place::Sealed(_)) | None => None,
                };
                self.state = State::Looking { claimed, stamp: found.stamp, resource };
                Step::Look(owner)
            }
            // Whatever this is, it is no guard, and says nothing of who may execute.
            Phase::InFlight { .. } | Phase::Unknown | Phase::Completed { .. } => {
                self.give_back(&claimed, problem(ProblemType::StoreUnavailable))
            }
        }
    }

    /// Another operation holds the guard.
    fn refuse_held(&mut self, claimed: &Claimed, resource: Option<String>) -> Step {
        // An earlier attempt of this one may have happened, and whether it did is what the caller must learn.
        let told = match claimed.attempt {
            1 => Problem { resource, ..problem(ProblemType::GuardHeld) },
            _ => problem(ProblemType::OutcomeUnknown),
        };
        self.give_back(claimed, told)
    }

    /// Gives the claim back before the caller is told `problem`.
    fn give_back(&mut self, claimed: &Claimed, problem: Problem) -> Step {
        if planted(Bug::ClaimNotGivenBack) {
            return self.end(Answer::Refuse(problem));
        }
        let swap = self.undo(claimed);
        self.state = State::GivingBack { problem, swap: swap.clone() };
        Step::Swap { register: Which::Record, swap }
    }

    /// Tells that the store failed, and leaves it to the driver to give the claim back.
    fn leave(&mut self, swap: Swap) -> Step {
        self.state = State::Over;
        let answer = if planted(Bug::UnconfirmedSaysReleased) {
            Answer::Own { status: Some(KeyStatus::Released), warning: None }
        } else {
            Answer::Refuse(problem(ProblemType::StoreUnavailable))
        };
        if planted(Bug::UnconfirmedIsLeft) { Step::Answer(answer) } else { Step::GiveBack { answer, swap } }
    }

    /// Leaves the key as it was before the claim: nothing was executed.
    fn undo(&mut self, claimed: &Claimed) -> Swap {
        let is_first = claimed.attempt == 1 || planted(Bug::RetryFreesKey);
        let put = (!is_first).then(|| self.put(claimed.attempt, Phase::Unknown));
        Swap { expect: Some(claimed.stamp).filter(|_| !planted(Bug::BlindGiveBack)), put }
    }

    fn guard_key(&self) -> Option<RecordKey> {
        match &self.guard {
            Guard::Guarded(guard) => Some(guard.key),
            Guard::Unguarded | Guard::Incomplete(_) => None,
        }
    }

    fn put(&mut self, attempt: u32, phase: Phase) -> Put {
        if !planted(Bug::StampRepeats) || self.writes == 0 {
            self.writes += 1;
        }
        let retention = match phase {
            Phase::InFlight { .. } | Phase::Unknown => self.rules.unknown_for,
            Phase::Completed { .. } | Phase::Held { .. } => self.rules.remember_for,
        };
        let stamp = Stamp { exchange: self.id, write: self.writes };
        let is_forgotten = planted(Bug::SettleForgetsFingerprint) && !matches!(phase, Phase::InFlight { .. });
        let fingerprint = if is_forgotten { Fingerprint::from_bytes([0; Fingerprint::LEN]) } else { self.fingerprint };
        let is_settle = matches!(phase, Phase::Unknown | Phase::Completed { .. });
        let guard = self.guard_key().filter(|_| !(is_settle && planted(Bug::SettleForgetsGuard)));
        Put { stamp, record: Record { fingerprint, attempt, phase, retention, guard, about: None } }
    }

    fn judge(&mut self, found: &Found) -> Step {
        match decide(&self.rules, self.fingerprint, found) {
            Decision::Replay(reply) => self.end(Answer::Replay(reply)),
            Decision::Exists { original_status } => self.refuse_with(ProblemType::ResourceExists, original_status),
            Decision::ReplyGone { original_status } => self.refuse_with(ProblemType::ReplyGone, original_status),
            Decision::InFlight => match self.rules.wait_max.saturating_sub(self.waited) {
                Duration::ZERO if planted(Bug::WaiterExecutes) && !self.waited.is_zero() => {
                    self.claim(Some(found.stamp), 1, None)
                }
                Duration::ZERO => self.refuse(ProblemType::InFlight),
                at_most => {
                    self.state = State::Waiting;
                    Step::Wait { seen: found.stamp, at_most }
                }
            },
            Decision::OutcomeUnknown => self.refuse(ProblemType::OutcomeUnknown),
            Decision::Mismatch => self.refuse(self.rules.mismatch),
            Decision::TakeOver { attempt, warning } => self.take_over(Seen::of(found), attempt, warning),
            Decision::Probe if self.is_probed => self.refuse_probed(found.age),
            Decision::Probe => {
                self.is_probed = true;
                self.state = State::Probing(Seen::of(found));
                Step::Probe
            }
        }
    }

    /// The answer to the settle of an execution whose effect happened.
    fn on_kept(&mut self, swapped: Swapped, warning: Option<Warning>) -> Step {
        let unkept = Answer::Own { status: Some(KeyStatus::Unkept), warning };
        match swapped {
            Swapped::Done => self.end(Answer::Own { status: None, warning }),
            // The record outlived its retention while this ran.
            Swapped::Absent => self.end(unkept),
            Swapped::Found(_) if planted(Bug::FencedTellsOwn) => self.end(Answer::Own { status: None, warning }),
            // A new life of the key: this one is over, and the other's reply is not ours to tell (I4).
            Swapped::Found(found)
                if found.record.fingerprint != self.fingerprint && !planted(Bug::FencedIgnoresFingerprint) =>
            {
                self.end(unkept)
            }
            Swapped::Found(found) => self.fenced(&found, warning),
        }
    }

    /// Another attempt took the record over, and the reply it settled is the one that counts (I5). While there is none, the
    /// reply of this execution is all that is known, and true; only it is not what is remembered.
    fn fenced(&mut self, found: &Found, warning: Option<Warning>) -> Step {
        match &found.record.phase {
            Phase::Completed { kept: Kept::Reply(reply), .. } => self.end(Answer::Replay(Arc::clone(reply))),
            Phase::InFlight { .. } if planted(Bug::FencedRefuses) => self.refuse(ProblemType::InFlight),
            Phase::Unknown if planted(Bug::FencedRefuses) => self.refuse(ProblemType::OutcomeUnknown),
            Phase::Completed { kept: Kept::Sealed(_) | Kept::Omitted { .. }, .. }
            | Phase::InFlight { .. }
            | Phase::Unknown
            | Phase::Held { .. } => self.end(Answer::Own { status: Some(KeyStatus::Unkept), warning }),
        }
    }

    /// The origin was asked, and it is still unknown.
    fn refuse_probed(&mut self, age: Duration) -> Step {
        let left = self.rules.probe_after.saturating_sub(age).as_millis().div_ceil(1000);
        let seconds = u32::try_from(left).unwrap_or(u32::MAX).max(RETRY_AFTER_SECONDS);
        self.end(Answer::Refuse(unknown_until_asked(seconds)))
    }

    fn refuse(&mut self, kind: ProblemType) -> Step {
        self.end(Answer::Refuse(problem(kind)))
    }

    fn refuse_with(&mut self, kind: ProblemType, original_status: u16) -> Step {
        self.end(Answer::Refuse(Problem { original_status: Some(original_status), ..problem(kind) }))
    }

    fn end(&mut self, answer: Answer) -> Step {
        self.state = State::Over;
        Step::Answer(answer)
    }
}

/// What an execution is told that left nothing to replay.
fn own(rules: &Rules, executed: &Executed, attempt: u32, warning: Option<Warning>) -> Answer {
    match executed {
        Executed::Replied { effect: Effect::None, .. } if attempt == 1 => {
            Answer::Own { status: Some(KeyStatus::Released), warning }
        }
        Executed::Replied { .. } => Answer::Own { status: Some(KeyStatus::Unknown), warning },
        Executed::NotSent => Answer::Refuse(problem(ProblemType::OriginUnavailable)),
        Executed::Unknown => Answer::Lost(match rules.on_unknown {
            OnUnknown::Refuse | OnUnknown::Reexecute | OnUnknown::ForwardKey => problem(ProblemType::OutcomeUnknown),
            OnUnknown::Probe => unknown_until_asked(RETRY_AFTER_SECONDS),
        }),
    }
}

/// A problem, with `Retry-After` where waiting helps.
fn problem(kind: ProblemType) -> Problem {
    let retry_after = match kind {
        ProblemType::InFlight | ProblemType::StoreUnavailable | ProblemType::OriginUnavailable => {
            Some(RETRY_AFTER_SECONDS)
        }
        _ => None,
    };
    Problem { retry_after, ..Problem::new(kind) }
}

/// An unknown outcome where the origin is asked: unlike elsewhere, another try helps.
fn unknown_until_asked(retry_after_seconds: u32) -> Problem {
    let told = Problem::new(ProblemType::OutcomeUnknown).detail(UNTIL_ASKED);
    Problem { retry_after: Some(retry_after_seconds), ..told }
}

/// The words for that.
const UNTIL_ASKED: &str = "The request was sent to the origin and no reply was recorded, so the effect may or may not have happened. Repeat this request with the same key after the seconds in Retry-After: the origin is then asked what became of it, and the request is not sent again before that is known.";

/// The value of `Retry-After`, in seconds.
const RETRY_AFTER_SECONDS: u32 = 1;

#[cfg(test)]
mod tests;
