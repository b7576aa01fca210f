//! The table of what a found record means for a request. This is all of the judgement; the rest is carrying it out.

use std::{sync::Arc, time::Duration};

use crate::{
    fingerprint::Fingerprint,
    planted::{Bug, planted},
    policy::{OnCompleted, OnExpired, OnMismatch, OnUnknown, RoutePolicy},
    record::{Kept, Phase, Reply},
    register::Found,
    wire::{ProblemType, Warning},
};

/// The part of a [`RoutePolicy`] that an exchange depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rules {
    /// See [`RoutePolicy::on_unknown`].
    pub on_unknown: OnUnknown,
    /// See [`RoutePolicy::on_completed`].
    pub on_completed: OnCompleted,
    /// See [`RoutePolicy::on_expired`].
    pub on_expired: OnExpired,
    /// See [`RoutePolicy::on_mismatch`].
    pub on_mismatch: OnMismatch,
    /// See [`RoutePolicy::mismatch`].
    pub mismatch: ProblemType,
    /// See [`RoutePolicy::lease`].
    pub lease: Duration,
    /// See [`RoutePolicy::wait_max`].
    pub wait_max: Duration,
    /// See [`RoutePolicy::replay_for`].
    pub replay_for: Duration,
    /// See [`RoutePolicy::remember_for`].
    pub remember_for: Duration,
    /// See [`RoutePolicy::unknown_for`].
    pub unknown_for: Duration,
    /// See [`ProbeRule::after`](crate::policy::ProbeRule::after); means nothing where the route does not probe.
    pub probe_after: Duration,
}

impl From<&RoutePolicy> for Rules {
    fn from(route: &RoutePolicy) -> Rules {
        Rules {
            on_unknown: route.on_unknown,
            on_completed: route.on_completed,
            on_expired: route.on_expired,
            on_mismatch: route.on_mismatch,
            mismatch: route.mismatch(),
            lease: route.lease(),
            wait_max: route.wait_max,
            replay_for: route.replay_for,
            remember_for: route.remember_for,
            unknown_for: route.unknown_for,
            probe_after: route.probe.as_ref().map_or(Duration::ZERO, |probe| probe.after),
        }
    }
}

/// What a found record means for a request.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Decision {
    /// Tell the kept reply.
    Replay(Arc<Reply>),
    /// The resource that this id names exists.
    Exists {
        /// The status of the response that created it.
        original_status: u16,
    },
    /// It was done and the reply is not there.
    ReplyGone {
        /// The status of that reply.
        original_status: u16,
    },
    /// Another exchange is executing it.
    InFlight,
    /// Nobody knows whether it happened.
    OutcomeUnknown,
    /// Nobody knows yet: ask the origin.
    Probe,
    /// The key belongs to another request.
    Mismatch,
    /// Replace the record, and execute.
    TakeOver {
        /// The how-manieth execution this is.
        attempt: u32,
        /// What the caller should be warned of.
        warning: Option<Warning>,
    },
}

/// Decides. The fingerprint is looked at before anything else, so that another request under the same key learns and
/// changes nothing; only a record that counts as forgotten has no fingerprint to compare.
pub fn decide(rules: &Rules, fingerprint: Fingerprint, found: &Found) -> Decision {
    let record = &found.record;
    if let Phase::Completed { replay_for, .. } = &record.phase
        && found.age >= *replay_for
        && (rules.on_expired == OnExpired::Execute || planted(Bug::ReplayWindowIsRetention))
    {
        return Decision::TakeOver { attempt: 1, warning: Some(Warning::Expired) };
    }
    if record.fingerprint != fingerprint && !planted(Bug::PhaseBeforeFingerprint) {
        return match (rules.on_mismatch, &record.phase) {
            (OnMismatch::Replay, Phase::Completed { kept, .. }) => completed(rules, kept),
            (OnMismatch::Replay, Phase::InFlight { .. }) if found.is_running() => Decision::InFlight,
            // Never executed over an outcome that belongs to another request.
            (OnMismatch::Replay | OnMismatch::Refuse, _) => Decision::Mismatch,
        };
    }
    match &record.phase {
        Phase::InFlight { .. } if found.is_running() => Decision::InFlight,
        Phase::InFlight { lease } if found.age < *lease && planted(Bug::AbandonedIsInFlight) => Decision::InFlight,
        Phase::InFlight { .. } if planted(Bug::LeaseOverIsFree) => Decision::TakeOver { attempt: 1, warning: None },
        Phase::Unknown if planted(Bug::UnknownIsFree) => Decision::TakeOver { attempt: 1, warning: None },
        Phase::InFlight { .. } | Phase::Unknown => match rules.on_unknown {
            OnUnknown::Refuse => Decision::OutcomeUnknown,
            OnUnknown::Probe => Decision::Probe,
            OnUnknown::Reexecute | OnUnknown::ForwardKey if planted(Bug::TakeOverForgetsAttempt) => {
                Decision::TakeOver { attempt: 1, warning: None }
            }
            OnUnknown::Reexecute | OnUnknown::ForwardKey => {
                Decision::TakeOver { attempt: record.attempt.saturating_add(1), warning: None }
            }
        },
        Phase::Completed { kept, .. } => completed(rules, kept),
        // A guard under the name of a request: nobody can say what that request did.
        Phase::Held { .. } => Decision::OutcomeUnknown,
    }
}

fn completed(rules: &Rules, kept: &Kept) -> Decision {
    match (rules.on_completed, kept) {
        (OnCompleted::Conflict, kept) => Decision::Exists { original_status: kept.status() },
        // What is still sealed here could not be opened: it was done, and that is all there is to tell.
        (OnCompleted::Replay, Kept::Sealed(_) | Kept::Omitted { .. }) => {
            Decision::ReplyGone { original_status: kept.status() }
        }
        (OnCompleted::Replay, Kept::Reply(reply)) => Decision::Replay(Arc::clone(reply)),
    }
}
