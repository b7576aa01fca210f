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
}

#[cfg(test)]
thread_local! {
    pub(crate) static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
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
