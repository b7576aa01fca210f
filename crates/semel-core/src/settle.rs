//! Settling on the word of an operator: what nobody knows is written down as somebody found it (`design.md` section 5).
//!
//! A store carries it out like every other write, against the stamp that was judged: an execution that settles late, or a
//! second operator, meets another stamp and changes nothing (I5).

use std::time::Duration;

use crate::{
    planted::{Bug, planted},
    record::{ExchangeId, Kept, Phase, PhaseKind, Record, Stamp},
    register::{Found, Put, Swap},
};

/// How an operator found that an operation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Its effect happened.
    Happened {
        /// What a retry is told.
        kept: Kept,
        /// How long from now the reply may be replayed.
        replay_for: Duration,
        /// How long from now the fact is remembered.
        remember_for: Duration,
    },
    /// Its effect did not happen, in none of its attempts: a retry executes as a first time.
    DidNotHappen,
}

/// Why nothing is settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsettled {
    /// It may still be executing: nobody can say yet how it ends.
    StillRunning,
    /// Its outcome is known; it is in this phase.
    NotUnknown(PhaseKind),
    /// It is not what the operator was shown.
    Changed,
}

/// The swap that settles what was found, written by the exchange `by`, which writes nothing else.
///
/// `seen` is the stamp that the operator was shown; `None`: whatever is there now is meant.
pub fn settle(found: &Found, seen: Option<Stamp>, ended: Ended, by: ExchangeId) -> Result<Swap, Unsettled> {
    if seen.is_some_and(|seen| seen != found.stamp) {
        return Err(Unsettled::Changed);
    }
    match found.record.phase {
        Phase::InFlight { .. } if found.is_running() && !planted(Bug::OperatorSettlesRunning) => {
            return Err(Unsettled::StillRunning);
        }
        Phase::InFlight { .. } | Phase::Unknown => {}
        Phase::Completed { .. } if planted(Bug::OperatorSettlesKnown) => {}
        Phase::Completed { .. } | Phase::Held { .. } => return Err(Unsettled::NotUnknown(found.record.kind())),
    }
    let put = match ended {
        Ended::DidNotHappen => None,
        Ended::Happened { kept, replay_for, remember_for } => {
            let phase = Phase::Completed { kept, replay_for };
            let record = Record { phase, retention: remember_for, ..found.record.clone() };
            Some(Put { stamp: Stamp { exchange: by, write: 1 }, record })
        }
    };
    Ok(Swap { expect: Some(found.stamp), put })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fingerprint::Fingerprint, scope::RecordKey};

    const LEASE: Duration = Duration::from_secs(35);
    const STAMP: Stamp = Stamp { exchange: ExchangeId(1), write: 2 };

    fn found(phase: Phase, age: Duration, abandoned: bool) -> Found {
        let fingerprint = Fingerprint::from_bytes([1; Fingerprint::LEN]);
        let guard = Some(RecordKey::from_bytes([9; RecordKey::LEN]));
        let record = Record { fingerprint, attempt: 2, phase, retention: Duration::from_hours(1), guard, about: None };
        Found { stamp: STAMP, age, abandoned, record }
    }

    fn happened() -> Ended {
        let (replay_for, remember_for) = (Duration::from_mins(1), Duration::from_secs(90));
        Ended::Happened { kept: Kept::Omitted { status: 201 }, replay_for, remember_for }
    }

    #[test]
    fn q1_only_what_nobody_knows_can_be_settled() {
        let completed = Phase::Completed { kept: Kept::Omitted { status: 200 }, replay_for: LEASE };
        let held = Phase::Held { owner: RecordKey::from_bytes([1; RecordKey::LEN]), resource: None };
        let in_flight = || Phase::InFlight { lease: LEASE };
        let just_before = LEASE.checked_sub(Duration::from_millis(1)).expect("a lease is longer");
        let table = [
            (Phase::Unknown, Duration::ZERO, false, None),
            (in_flight(), just_before, false, Some(Unsettled::StillRunning)),
            (in_flight(), LEASE, false, None),
            (in_flight(), Duration::ZERO, true, None),
            (completed, LEASE, false, Some(Unsettled::NotUnknown(PhaseKind::Completed))),
            (held, LEASE, true, Some(Unsettled::NotUnknown(PhaseKind::Held))),
        ];
        for (phase, age, abandoned, refused) in table {
            let found = found(phase, age, abandoned);
            for ended in [happened(), Ended::DidNotHappen] {
                let other = Stamp { write: 1, ..STAMP };
                assert_eq!(settle(&found, Some(other), ended.clone(), ExchangeId(7)), Err(Unsettled::Changed));
                for seen in [None, Some(STAMP)] {
                    let settled = settle(&found, seen, ended.clone(), ExchangeId(7));
                    assert_eq!(settled.as_ref().err().copied(), refused, "{found:?}");
                    assert!(settled.is_err() || settled.is_ok_and(|swap| swap.expect == Some(STAMP)));
                }
            }
        }
    }

    #[test]
    fn q1_what_is_settled_stays_the_same_operation() {
        let unknown = found(Phase::Unknown, LEASE, false);
        let swap = settle(&unknown, None, happened(), ExchangeId(7)).unwrap();
        let phase = Phase::Completed { kept: Kept::Omitted { status: 201 }, replay_for: Duration::from_mins(1) };
        let record = Record { phase, retention: Duration::from_secs(90), ..unknown.record.clone() };
        let stamp = Stamp { exchange: ExchangeId(7), write: 1 };
        assert_eq!(swap, Swap { expect: Some(STAMP), put: Some(Put { stamp, record }) });
        let swap = settle(&unknown, None, Ended::DidNotHappen, ExchangeId(7)).unwrap();
        assert_eq!(swap, Swap { expect: Some(STAMP), put: None });
    }
}
