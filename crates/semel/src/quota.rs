//! How many fresh keys one principal may use: whoever floods is told to wait, and nobody else notices (SC12).
//!
//! Counted is what this process let execute for the first time, so the figure is approximate: it starts at zero with the
//! process, and other gateways on the same store count for themselves. Nothing that is recorded depends on it.

use std::{
    cmp::Reverse,
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use semel_core::{
    exchange::Fresh,
    scope::Principal,
    wire::{Problem, ProblemType},
};

/// In how many steps what was counted leaves the window.
const STEPS: usize = 24;

/// How many, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuotaLimits {
    /// Live keys of one principal: fresh keys that were executed within the window, and requests that are under way. A key
    /// that was released, because nothing happened, is not live.
    pub live_keys_max: u32,
    /// How long a key counts, from its first execution; to a twenty-fourth.
    pub window: Duration,
    /// Principals that are counted at once. Past it those with the fewest keys are forgotten, and begin at zero.
    pub principals_max: usize,
}

/// Counts the live keys of each principal. Share one among all that serve.
pub struct Quota {
    counts: Mutex<Counts>,
    epoch: Instant,
}

struct Counts {
    limits: QuotaLimits,
    of: HashMap<Principal, Usage>,
}

/// The live keys of one principal, by the step of the window in which they began.
#[derive(Clone, Copy, Default)]
struct Usage {
    /// The step that `counts[0]` is about; `counts[n]` is about the n-th before it.
    step: u64,
    counts: [u32; STEPS],
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { limits, of } = &*self.counts.lock();
        f.debug_struct("Quota").field("limits", limits).field("principals", &of.len()).finish_non_exhaustive()
    }
}

impl Quota {
    /// Nobody has used anything.
    pub fn new(limits: QuotaLimits) -> Quota {
        Quota { counts: Mutex::new(Counts { limits, of: HashMap::new() }), epoch: Instant::now() }
    }

    /// Changes the limits from now on. What was counted stays, unless the window is another.
    pub fn change(&self, limits: QuotaLimits) {
        let mut counts = self.counts.lock();
        if counts.limits.window != limits.window {
            counts.of.clear();
        }
        counts.limits = limits;
    }

    /// Takes one key of the principal's quota at `now` since the epoch; `Err`: how long until there is one.
    fn take(&self, principal: &Principal, now: Duration) -> Result<u64, Duration> {
        let mut counts = self.counts.lock();
        let limits = counts.limits;
        let step = limits.step(now);
        if !counts.of.contains_key(principal) && counts.of.len() >= limits.principals_max {
            counts.forget(step);
        }
        let usage = counts.of.entry(*principal).or_default();
        usage.advance(step);
        if usage.live() >= u64::from(limits.live_keys_max) {
            let oldest = usage.counts.iter().rposition(|count| *count > 0).unwrap_or(0);
            let nanos = limits.step_length().as_nanos() * u128::from(step + (STEPS - oldest) as u64);
            let leaves = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            return Err(leaves.saturating_sub(now));
        }
        usage.counts[0] += 1;
        Ok(step)
    }

    /// Gives back what was taken in this step.
    fn give_back(&self, principal: &Principal, taken: u64) {
        let mut counts = self.counts.lock();
        let Some(usage) = counts.of.get_mut(principal) else { return };
        let ago = usage.step.checked_sub(taken).and_then(|ago| usize::try_from(ago).ok());
        if let Some(count) = ago.and_then(|ago| usage.counts.get_mut(ago)) {
            *count = count.saturating_sub(1);
        }
        if usage.live() == 0 {
            counts.of.remove(principal);
        }
    }
}

impl QuotaLimits {
    fn step_length(&self) -> Duration {
        (self.window / u32::try_from(STEPS).expect("few steps")).max(Duration::from_millis(1))
    }

    fn step(&self, now: Duration) -> u64 {
        u64::try_from(now.as_nanos() / self.step_length().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Counts {
    /// Makes room: forgets who has no live key, and of the others the eighth that has the fewest.
    fn forget(&mut self, step: u64) {
        for usage in self.of.values_mut() {
            usage.advance(step);
        }
        self.of.retain(|_, usage| usage.live() > 0);
        let keep = (self.limits.principals_max - self.limits.principals_max.div_ceil(8)).max(1);
        if self.of.len() < keep {
            return;
        }
        let mut busiest: Vec<(Reverse<u64>, Principal)> =
            self.of.iter().map(|(principal, usage)| (Reverse(usage.live()), *principal)).collect();
        busiest.select_nth_unstable_by_key(keep - 1, |(live, _)| *live);
        for (_, principal) in &busiest[keep - 1..] {
            self.of.remove(principal);
        }
    }
}

impl Usage {
    fn advance(&mut self, step: u64) {
        let by = usize::try_from(step.saturating_sub(self.step)).unwrap_or(usize::MAX).min(STEPS);
        self.counts.copy_within(..STEPS - by, by);
        self.counts[..by].fill(0);
        self.step = self.step.max(step);
    }

    fn live(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }
}

/// One key of a principal's quota, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    quota: Arc<Quota>,
    principal: Principal,
    /// The step that it was taken in; `None`: it is not to be given back.
    taken: Option<u64>,
}

impl Reserved {
    /// Whether a request of `principal` may use a fresh key; and that key, where there is a quota.
    pub(crate) fn of(quota: Option<&Arc<Quota>>, principal: &Principal) -> (Fresh, Option<Reserved>) {
        let Some(quota) = quota else { return (Fresh::Allowed, None) };
        match quota.take(principal, quota.epoch.elapsed()) {
            Ok(taken) => {
                (Fresh::Allowed, Some(Reserved { quota: Arc::clone(quota), principal: *principal, taken: Some(taken) }))
            }
            Err(wait) => {
                let seconds = u32::try_from(wait.as_secs().saturating_add(1)).unwrap_or(u32::MAX);
                let problem = Problem { retry_after: Some(seconds), ..Problem::new(ProblemType::QuotaExceeded) };
                (Fresh::Refused(problem), None)
            }
        }
    }

    /// The key lives.
    pub(crate) fn keep(mut self) {
        self.taken = None;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(taken) = self.taken {
            self.quota.give_back(&self.principal, taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use semel_core::scope::Secret;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn quota(live_keys_max: u32, principals_max: usize) -> Quota {
        Quota::new(QuotaLimits { live_keys_max, window: HOUR * 24, principals_max })
    }

    fn principal(name: u32) -> Principal {
        Principal::of(&Secret::from_bytes([7; 32]), [("x-tenant", Some(name.to_le_bytes().as_slice()))])
    }

    #[test]
    fn sc12_a_key_counts_for_the_window_and_for_its_principal_only() {
        let quota = quota(3, 10);
        let (a, b) = (principal(1), principal(2));
        let at = |hours: u32| HOUR * hours + Duration::from_mins(30);
        assert_eq!([0, 0, 5].map(|hour| quota.take(&a, at(hour))), [Ok(0), Ok(0), Ok(5)]);
        // The two of the first hour leave it together.
        assert_eq!(quota.take(&a, at(6)), Err(Duration::from_mins(17 * 60 + 30)));
        assert_eq!(quota.take(&b, at(6)), Ok(6));
        assert_eq!(quota.take(&a, at(23)), Err(Duration::from_mins(30)));
        assert_eq!([24, 24].map(|hour| quota.take(&a, at(hour))), [Ok(24), Ok(24)]);
        assert_eq!(quota.take(&a, at(25)), Err(Duration::from_mins(3 * 60 + 30)));
        // A long silence forgets everything.
        assert_eq!(quota.take(&a, at(1_000)), Ok(1_000));
        assert_eq!(quota.counts.lock().of[&a].live(), 1);
    }

    #[test]
    fn sc12_what_is_given_back_may_be_used_again() {
        let quota = Arc::new(quota(1, 10));
        let (a, other) = (principal(1), principal(2));
        for _ in 0..3 {
            let (fresh, reserved) = Reserved::of(Some(&quota), &a);
            assert_eq!((fresh, reserved.is_some()), (Fresh::Allowed, true));
            let (fresh, refused) = Reserved::of(Some(&quota), &a);
            assert!(matches!(fresh, Fresh::Refused(problem) if problem.retry_after.is_some()) && refused.is_none());
        }
        Reserved::of(Some(&quota), &a).1.expect("it was given back").keep();
        assert!(Reserved::of(Some(&quota), &a).1.is_none());
        assert!(Reserved::of(Some(&quota), &other).1.is_some());
        // What left the window is not given back a second time.
        quota.give_back(&a, 99);
        assert!(Reserved::of(Some(&quota), &a).1.is_none());
        assert!(Reserved::of(None, &a).1.is_none());
        quota.change(QuotaLimits { live_keys_max: 2, window: HOUR * 24, principals_max: 10 });
        assert!(Reserved::of(Some(&quota), &a).1.is_some());
    }

    #[test]
    fn sc12_who_invents_principals_makes_nobody_else_forget_their_quota() {
        let quota = quota(5, 64);
        let busy: Vec<Principal> = (0..8).map(principal).collect();
        for principal in &busy {
            assert_eq!([(); 5].map(|()| quota.take(principal, HOUR)), [Ok(1); 5]);
        }
        for name in 100..10_000 {
            assert_eq!(quota.take(&principal(name), HOUR), Ok(1));
            assert!(quota.counts.lock().of.len() <= 64);
        }
        assert!(busy.iter().all(|principal| quota.take(principal, HOUR).is_err()));
        // Even a table for one has room for whoever comes.
        let one = Quota::new(QuotaLimits { live_keys_max: 1, window: HOUR, principals_max: 1 });
        assert_eq!([1, 2, 3].map(|name| one.take(&principal(name), HOUR)), [Ok(24); 3]);
    }
}
