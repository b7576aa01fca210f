//! What somebody who asks a world at rest is told, and what they must be told.

use super::*;

impl World {
    /// Sends one more request, alone and without faults, and compares what it is told with the truth.
    pub(super) fn check_newcomer(&self, config: &Config, asked: Asked) -> Checked {
        let (mut exchange, mut step) = open(config, asked, 99);
        let (mut records, mut guards) = (self.records.clone(), self.guards.clone());
        let answer = loop {
            step = match step {
                Step::Swap { register: Which::Record, swap } => {
                    exchange.on_swapped(swap_in(&mut records[asked.key], &swap))
                }
                Step::Swap { register: Which::Guard, swap } => {
                    let Wants::The(guard) = asked.guard else { panic!("nothing is guarded here") };
                    exchange.on_swapped(swap_in(&mut guards[guard], &swap))
                }
                Step::Look(owner) => {
                    exchange.on_looked(records[key_of(owner)].as_ref().map(|cell| cell.found()).as_ref())
                }
                Step::Execute(permit) => {
                    exchange.on_executed(permit, Executed::Replied { kept: reply(), effect: Effect::Happened })
                }
                Step::Wait { .. } => panic!("nobody waits here"),
                Step::GiveBack { .. } => panic!("the store does not fail here"),
                Step::Probe => panic!("no origin is asked here"),
                Step::Answer(answer) => break answer,
            };
        };
        let told = match &answer {
            Answer::Own { status: None, .. } => Told::Executed,
            Answer::Own { .. } | Answer::Lost(_) => return Err((I6, "a newcomer executed and nothing is kept")),
            Answer::Replay(_) => Told::Replayed,
            Answer::Refuse(problem) => Told::Refused(problem.kind),
        };
        if let (Told::Executed, Wants::The(guard)) = (told, asked.guard) {
            let live = (0..KEYS).any(|key| key != asked.key && self.is_live(config, key, guard));
            ensure(!live, I10, "a newcomer executed beside a live owner")?;
        }
        if let (Told::Refused(ProblemType::GuardHeld), Wants::The(guard)) = (told, asked.guard) {
            let live = (0..KEYS).any(|key| key != asked.key && self.is_live(config, key, guard));
            ensure(live || self.is_in_doubt, I10, "a guard is held and nobody lives")?;
        }
        ensure(told == self.truth(config, asked), I6, "a newcomer is not told the truth")
    }

    /// What somebody must be told who asks now.
    fn truth(&self, config: &Config, asked: Asked) -> Told {
        let fingerprint = Fingerprint::from_bytes([asked.fingerprint; Fingerprint::LEN]);
        let guard_cell = |guard: usize| self.guards[guard].as_ref();
        let executes = |attempt: u32| match asked.guard {
            Wants::Nothing => Told::Executed,
            Wants::Unclear => Told::Refused(ProblemType::GuardIncomplete),
            Wants::The(guard) => {
                let owner_there = guard_cell(guard).and_then(|cell| match cell.record.phase {
                    Phase::Held { owner, .. } if owner != record_key(asked.key) => Some(key_of(owner)),
                    Phase::Held { .. } | Phase::InFlight { .. } | Phase::Unknown | Phase::Completed { .. } => None,
                });
                let holds = owner_there.and_then(|key| self.records[key].as_ref()).map(|cell| cell.record.guard);
                match (holds == Some(Some(guard_key(guard))), attempt) {
                    (true, 1) => Told::Refused(ProblemType::GuardHeld),
                    (true, _) => Told::Refused(ProblemType::OutcomeUnknown),
                    (false, _) => Told::Executed,
                }
            }
        };
        let Some(cell) = &self.records[asked.key] else { return executes(1) };
        match &cell.record.phase {
            Phase::Completed { replay_for, .. }
                if cell.age >= *replay_for && config.rules.on_expired == OnExpired::Execute =>
            {
                executes(1)
            }
            _ if cell.record.fingerprint != fingerprint => Told::Refused(ProblemType::KeyReused),
            Phase::Completed { replay_for, .. } if cell.age < *replay_for => Told::Replayed,
            Phase::Completed { .. } => Told::Refused(ProblemType::ReplyGone),
            Phase::InFlight { .. } if cell.is_running() => Told::Refused(ProblemType::InFlight),
            Phase::InFlight { .. } | Phase::Unknown => {
                let same = cell
                    .record
                    .guard
                    .is_none_or(|guard| asked.guard == Wants::The(usize::from(guard.as_bytes()[0] - 0x80)));
                match config.rules.on_unknown {
                    OnUnknown::Refuse | OnUnknown::Probe => Told::Refused(ProblemType::OutcomeUnknown),
                    OnUnknown::Reexecute | OnUnknown::ForwardKey if same && asked.guard != Wants::Unclear => {
                        executes(2)
                    }
                    OnUnknown::Reexecute | OnUnknown::ForwardKey => Told::Refused(ProblemType::OutcomeUnknown),
                }
            }
            Phase::Held { .. } => panic!("a record is no guard"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Executed,
    Replayed,
    Refused(ProblemType),
}
