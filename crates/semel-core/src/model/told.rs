//! What callers are told, compared with the truth.

use super::{
    Config, Outcome, PROBE_AFTER, Ran, STATUS_OF_FIRST, TOLD, World,
    explore::{
        Checked,
        Invariant::{I3, I4, I6},
        ensure, swap_in,
    },
    fingerprint, reply_of,
};
use crate::{
    exchange::{Answer, Exchange, Executed, Guard, Probed, Step},
    fingerprint::Fingerprint,
    policy::{Effect, OnCompleted, OnExpired, OnUnknown},
    record::{ExchangeId, Kept, Phase},
    wire::{KeyStatus, Problem, ProblemType, Warning},
};

impl World {
    pub(super) fn check_answer(&mut self, config: &Config, i: usize, ran: Option<Ran>, answer: &Answer) -> Checked {
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
    pub(super) fn check_newcomer(&self, config: &Config, fingerprint: Fingerprint) -> Checked {
        const ME: usize = 7;
        let (mut exchange, mut step) =
            Exchange::open(config.rules, fingerprint, ExchangeId(ME as u128 + 1), Guard::Unguarded);
        let mut cell = self.cell.clone();
        let happened = self.effects[self.life] > 0;
        let answer = loop {
            step = match step {
                Step::Swap { swap, .. } => exchange.on_swapped(swap_in(&mut cell, &swap)),
                Step::Execute(permit) => {
                    let kept = Kept::Reply(reply_of(ME));
                    exchange.on_executed(permit, Executed::Replied { kept, effect: Effect::Happened })
                }
                Step::Probe if happened => exchange.on_probed(Probed::Found(Kept::Reply(reply_of(ME)))),
                Step::Probe => exchange.on_probed(Probed::Absent),
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
                    OnUnknown::Probe if happened => Told::Replayed(reply_of(ME).status),
                    OnUnknown::Probe if cell.age >= PROBE_AFTER => executes(None),
                    OnUnknown::Probe => Told::Refused(ProblemType::OutcomeUnknown),
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
}

#[derive(PartialEq, Eq, Debug)]
enum Told {
    Executed(Option<Warning>),
    Replayed(u16),
    Refused(ProblemType),
}
