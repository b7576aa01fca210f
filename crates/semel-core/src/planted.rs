//! Bugs planted on purpose, in test builds only: the model must catch every one of them, or it checks nothing.

/// A mistake that somebody could make here, and that the model is known to catch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) enum Bug {
    /// Looks at the phase before the fingerprint: replays another request's reply.
    PhaseBeforeFingerprint,
    /// Executes although the store did not confirm the claim.
    FailOpen,
    /// Takes an unknown outcome for "nothing was sent", and frees the key.
    UnknownIsNotSent,
    /// Takes a lease that ran out for a free key.
    LeaseOverIsFree,
    /// Takes an unknown outcome for a free key.
    UnknownIsFree,
    /// A fenced writer tells its own reply as kept.
    FencedTellsOwn,
    /// A fenced writer with nothing to keep tells what the new owner did.
    FencedIgnoresRelease,
    /// A fenced writer tells the reply to another fingerprint.
    FencedIgnoresFingerprint,
    /// A take-over that had no effect frees the key although an earlier attempt may have had one.
    ReleaseAfterTakeOver,
    /// A waiter whose time is over executes instead of giving up.
    WaiterExecutes,
    /// A completed record past `replay_for` counts as never seen although the route is strict.
    ReplayWindowIsRetention,
    /// The reply is told as kept although the store never confirmed the settle.
    UnsettledIsKept,
    /// A take-over does not say which stamp it replaces.
    BlindTakeOver,
    /// The settle of a completed execution does not say which stamp it replaces.
    BlindSettle,
    /// A fenced writer whose execution had no effect says that the key is free, although another holds it.
    FencedSaysReleased,
    /// The key is told to be free although the store never confirmed the release.
    UnsettledIsReleased,
    /// A fenced writer whose effect happened tells a refusal, as if it had executed nothing.
    FencedRefuses,
    /// Two writes of one exchange bear the same stamp: the store takes the second for a repetition of the first.
    StampRepeats,
    /// A wait that ends at once uses up nothing, so a driver that wakes at once loops.
    WaitIsFree,
    /// What is settled does not bear the fingerprint of the request.
    SettleForgetsFingerprint,
    /// A take-over counts as a first execution.
    TakeOverForgetsAttempt,
    /// A record whose writer is known to be dead still counts as in flight.
    AbandonedIsInFlight,
    /// A store forgets that its own stamp is its own: a repeated swap is told that somebody else was there.
    StoreForgetsStampRule,
    /// A claim that the store did not confirm is left to its lease.
    UnconfirmedIsLeft,
    /// Whose claim the store did not confirm is told that the key is free.
    UnconfirmedSaysReleased,
    /// A claim is given back without saying which stamp it has.
    BlindGiveBack,
    /// A claim is left to its lease when the store refuses what comes after it.
    RefusedIsLeft,
    /// Who gave its claim back executes.
    GivenBackExecutes,
    /// A probe that finds nothing is believed while an attempt may still be on its way.
    ProbeBelievedTooEarly,
    /// A probe that brings no answer counts as one that finds nothing.
    UndecidedIsAbsent,
    /// What a probe found is told before it is kept.
    FoundIsNotKept,
    /// What a probe found is kept without saying which stamp it replaces.
    BlindResolve,
    /// The guard is taken before the key is claimed.
    GuardBeforeIdentity,
    /// A guard that names another owner is taken without a look at the owner.
    GuardTakenBlindly,
    /// An owner whose outcome is unknown counts as gone.
    UnknownHoldsNothing,
    /// An owner that executes counts as gone.
    InFlightHoldsNothing,
    /// A retry that finds its own name on the guard executes without writing it anew.
    GuardNotStampedAnew,
    /// Executes although the store did not confirm the guard.
    GuardFailOpen,
    /// Who is refused by a guard leaves its claim of the key behind.
    ClaimNotGivenBack,
    /// An attempt that meets the guard in other hands frees the key, although an earlier one may have happened.
    RetryFreesKey,
    /// What is settled does not say which guard it has.
    SettleForgetsGuard,
    /// An owner that has another guard by now still holds this one.
    OldGuardStaysHeld,
    /// What may have happened under one guard is done again under another.
    TakeOverChangesGuard,
    /// A request whose guard is unclear executes without one.
    IncompleteIsUnguarded,
    /// A response releases what was written after it was asked for.
    ReleaseIgnoresAge,
    /// A release does not look at the owner again once it knows the guard's stamp.
    ReleaseLooksOnce,
    /// A release deletes the guard whatever its stamp.
    ReleaseIsBlind,
    /// An operator settles what may still be executing.
    OperatorSettlesRunning,
    /// An operator settles what is known.
    OperatorSettlesKnown,
}

#[cfg(test)]
impl Bug {
    /// All that take a single key.
    pub(crate) const ALL: [Bug; 29] = [
        Bug::PhaseBeforeFingerprint,
        Bug::FailOpen,
        Bug::UnknownIsNotSent,
        Bug::LeaseOverIsFree,
        Bug::UnknownIsFree,
        Bug::FencedTellsOwn,
        Bug::FencedIgnoresRelease,
        Bug::FencedIgnoresFingerprint,
        Bug::ReleaseAfterTakeOver,
        Bug::WaiterExecutes,
        Bug::ReplayWindowIsRetention,
        Bug::UnsettledIsKept,
        Bug::BlindTakeOver,
        Bug::BlindSettle,
        Bug::FencedSaysReleased,
        Bug::UnsettledIsReleased,
        Bug::FencedRefuses,
        Bug::StampRepeats,
        Bug::WaitIsFree,
        Bug::SettleForgetsFingerprint,
        Bug::TakeOverForgetsAttempt,
        Bug::AbandonedIsInFlight,
        Bug::StoreForgetsStampRule,
        Bug::UnconfirmedIsLeft,
        Bug::UnconfirmedSaysReleased,
        Bug::BlindGiveBack,
        Bug::RetryFreesKey,
        Bug::OperatorSettlesRunning,
        Bug::OperatorSettlesKnown,
    ];

    /// Those that take an origin that is probed.
    pub(crate) const OF_PROBES: [Bug; 4] =
        [Bug::ProbeBelievedTooEarly, Bug::UndecidedIsAbsent, Bug::FoundIsNotKept, Bug::BlindResolve];

    /// Those that take a guard.
    pub(crate) const OF_GUARDS: [Bug; 19] = [
        Bug::GuardBeforeIdentity,
        Bug::GuardTakenBlindly,
        Bug::UnknownHoldsNothing,
        Bug::InFlightHoldsNothing,
        Bug::GuardNotStampedAnew,
        Bug::GuardFailOpen,
        Bug::ClaimNotGivenBack,
        Bug::RetryFreesKey,
        Bug::SettleForgetsGuard,
        Bug::OldGuardStaysHeld,
        Bug::TakeOverChangesGuard,
        Bug::IncompleteIsUnguarded,
        Bug::ReleaseIgnoresAge,
        Bug::ReleaseLooksOnce,
        Bug::ReleaseIsBlind,
        Bug::UnconfirmedIsLeft,
        Bug::BlindGiveBack,
        Bug::GivenBackExecutes,
        Bug::RefusedIsLeft,
    ];
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether `bug` is switched on: never, outside this crate's own tests.
#[inline]
pub(crate) fn planted(bug: Bug) -> bool {
    #[cfg(test)]
    {
        PLANTED.with(|p| p.get() == Some(bug))
    }
    #[cfg(not(test))]
    {
        let _ = bug;
        false
    }
}

/// Keeps a bug planted on this thread while it lives.
#[cfg(test)]
pub(crate) struct Planted(());

#[cfg(test)]
impl Planted {
    pub(crate) fn new(bug: Bug) -> Planted {
        PLANTED.set(Some(bug));
        Planted(())
    }
}

#[cfg(test)]
impl Drop for Planted {
    fn drop(&mut self) {
        PLANTED.set(None);
    }
}
