//! The state machine of one request under one key, from claim to answer.
//!
//! Whoever drives it carries out the [`Step`] it returns and reports back; it never waits by itself. The driver may
//! repeat a swap whose answer was lost: the stamp makes that harmless.

use std::{sync::Arc, time::Duration};

use crate::{
    decide::{Decision, Rules, decide},
    fingerprint::Fingerprint,
    planted::{Bug, planted},
    policy::Effect,
    record::{ExchangeId, Kept, Phase, Record, Reply, Stamp},
    register::{Found, Put, Swap, Swapped},
    wire::{KeyStatus, Problem, ProblemType, Warning},
};

/// One request under one key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Exchange {
    rules: Rules,
    fingerprint: Fingerprint,
    id: ExchangeId,
    writes: u16,
    claims_left: u8,
    waited: Duration,
    state: State,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum State {
    Claiming { attempt: u32, stamp: Stamp, warning: Option<Warning> },
    Waiting,
    Executing,
    Settling { executed: Executed, attempt: u32, warning: Option<Warning> },
    Over,
}

/// What to do next.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub enum Step {
    /// Ask the store, then report [`Exchange::on_swapped`] or, when it gave up, [`Exchange::on_store_failed`].
    Swap(Swap),
    /// Execute once, then report [`Exchange::on_executed`]. The permit is spent by reporting.
    Execute(Permit),
    /// Wait until the record no longer bears `seen`, or `at_most`; then report [`Exchange::on_waited`].
    Wait {
        /// The stamp of the record that is in flight.
        seen: Stamp,
        /// The rest of the route's `wait_max`.
        at_most: Duration,
    },
    /// Tell this to the caller. The exchange is over.
    Answer(Answer),
}

/// The right to execute once. It cannot be copied, and only a confirmed claim makes one (I3).
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub struct Permit {
    attempt: u32,
    stamp: Stamp,
    warning: Option<Warning>,
}

impl Permit {
    /// The how-manieth execution of the operation this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
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

/// Every wait uses up at least this much of `wait_max`, so that a driver that wakes at once cannot loop.
pub const WAIT_MIN: Duration = Duration::from_millis(5);

impl Exchange {
    /// Opens an exchange: its first step is to claim the key.
    pub fn open(rules: Rules, fingerprint: Fingerprint, id: ExchangeId) -> (Exchange, Step) {
        let mut exchange = Exchange {
            rules,
            fingerprint,
            id,
            writes: 0,
            claims_left: CLAIMS_MAX,
            waited: Duration::ZERO,
            state: State::Over,
        };
        let step = exchange.claim(None, 1, None);
        (exchange, step)
    }

    /// Its identity.
    pub fn id(&self) -> ExchangeId {
        self.id
    }

    /// The store answered the swap of the last step.
    pub fn on_swapped(&mut self, swapped: Swapped) -> Step {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Claiming { attempt, stamp, warning } => match swapped {
                Swapped::Done => {
                    self.state = State::Executing;
                    Step::Execute(Permit { attempt, stamp, warning })
                }
                Swapped::Found(found) => self.judge(&found),
                Swapped::Absent => self.claim(None, 1, None),
            },
            State::Settling { executed, attempt, warning } => match executed {
                Executed::Replied { effect: Effect::Happened, .. } => self.on_kept(swapped, warning),
                // Nothing was to be kept, so whoever holds the record now is no concern of this exchange.
                executed if !planted(Bug::FencedIgnoresRelease) => self.end(own(&executed, attempt, warning)),
                executed => match swapped {
                    Swapped::Found(found) => self.fenced(&found, warning),
                    Swapped::Done | Swapped::Absent => self.end(own(&executed, attempt, warning)),
                },
            },
            State::Waiting | State::Executing | State::Over => unreachable!("no swap was asked for"),
        }
    }

    /// The store failed, and whether the swap of the last step was applied is not known.
    pub fn on_store_failed(&mut self) -> Step {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Claiming { attempt, stamp, warning } if planted(Bug::FailOpen) => {
                self.state = State::Executing;
                Step::Execute(Permit { attempt, stamp, warning })
            }
            // If the claim was applied after all, it becomes unknown when its lease is over. Nothing was executed (I7).
            State::Claiming { .. } => self.refuse(ProblemType::StoreUnavailable),
            State::Settling { executed: Executed::Replied { effect: Effect::Happened, .. }, warning, .. } => {
                let status = if planted(Bug::UnsettledIsKept) { None } else { Some(KeyStatus::Unkept) };
                self.end(Answer::Own { status, warning })
            }
            // The record stays in flight, so the key is not free however true it is that nothing happened.
            State::Settling { executed: Executed::Replied { .. }, warning, .. } => {
                self.end(Answer::Own { status: Some(KeyStatus::Unkept), warning })
            }
            State::Settling { executed, attempt, warning } => self.end(own(&executed, attempt, warning)),
            State::Waiting | State::Executing | State::Over => unreachable!("no swap was asked for"),
        }
    }

    /// The execution that the permit allowed has ended.
    #[allow(clippy::needless_pass_by_value, reason = "the permit is spent")]
    pub fn on_executed(&mut self, permit: Permit, executed: Executed) -> Step {
        let Permit { attempt, stamp, warning } = permit;
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
        Step::Swap(Swap { expect: Some(stamp).filter(|_| !planted(Bug::BlindSettle)), put })
    }

    /// The wait is over: the record changed, or the time is up. `elapsed` is how long it took.
    pub fn on_waited(&mut self, elapsed: Duration) -> Step {
        self.waited += elapsed.max(WAIT_MIN);
        self.claims_left = CLAIMS_MAX;
        self.claim(None, 1, None)
    }

    fn claim(&mut self, expect: Option<Stamp>, attempt: u32, warning: Option<Warning>) -> Step {
        // A key that changes hands faster than it can be claimed is in flight, for all this request can tell.
        let Some(claims_left) = self.claims_left.checked_sub(1) else { return self.refuse(ProblemType::InFlight) };
        self.claims_left = claims_left;
        let put = self.put(attempt, Phase::InFlight { lease: self.rules.lease });
        self.state = State::Claiming { attempt, stamp: put.stamp, warning };
        Step::Swap(Swap { expect, put: Some(put) })
    }

    fn put(&mut self, attempt: u32, phase: Phase) -> Put {
        self.writes += 1;
        let retention = match phase {
            Phase::InFlight { .. } | Phase::Unknown => self.rules.unknown_for,
            Phase::Completed { .. } => self.rules.remember_for,
        };
        let stamp = Stamp { exchange: self.id, write: self.writes };
        Put { stamp, record: Record { fingerprint: self.fingerprint, attempt, phase, retention } }
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
            Decision::TakeOver { attempt, warning } => {
                self.claim(Some(found.stamp).filter(|_| !planted(Bug::BlindTakeOver)), attempt, warning)
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

    /// Another attempt took the record over, and what it settles is what counts (I5).
    fn fenced(&mut self, found: &Found, warning: Option<Warning>) -> Step {
        match &found.record.phase {
            Phase::Completed { kept: Kept::Reply(reply), .. } => self.end(Answer::Replay(Arc::clone(reply))),
            // The effect happened and the reply of this execution is true; only it is not what is remembered.
            Phase::Completed { kept: Kept::Omitted { .. }, .. } => {
                self.end(Answer::Own { status: Some(KeyStatus::Unkept), warning })
            }
            Phase::InFlight { .. } => self.refuse(ProblemType::InFlight),
            Phase::Unknown => self.refuse(ProblemType::OutcomeUnknown),
        }
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
fn own(executed: &Executed, attempt: u32, warning: Option<Warning>) -> Answer {
    match executed {
        Executed::Replied { effect: Effect::None, .. } if attempt == 1 => {
            Answer::Own { status: Some(KeyStatus::Released), warning }
        }
        Executed::Replied { .. } => Answer::Own { status: Some(KeyStatus::Unknown), warning },
        Executed::NotSent => Answer::Refuse(problem(ProblemType::OriginUnavailable)),
        Executed::Unknown => Answer::Lost(problem(ProblemType::OutcomeUnknown)),
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

/// The value of `Retry-After`, in seconds.
const RETRY_AFTER_SECONDS: u32 = 1;
