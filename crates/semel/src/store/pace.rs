//! When a lane sends what waits: soon enough that nobody waits for long, late enough that a round trip is worth it.
//!
//! Several lanes share a queue. If each took whatever it found, a busy queue would be emptied in crumbs: a lane that has just
//! told its answers would take the first of those who come back, and leave with it. So while others are out, a lane waits
//! until as many wait as went with each of those, or for [`LINGER_MAX`]. Who is alone waits for nothing.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::sync::Notify;

/// So many are worth a second lane. Fewer cost less together, in the round trip that follows: a server is asked half as often,
/// which matters most where several gateways ask one: docs/decisions/0010-shared-stores.md.
const LANE_JOBS_MIN: usize = 64;
/// How long a lane waits for more while others are out.
const LINGER_MAX: Duration = Duration::from_millis(1);

/// The lanes of a queue that are out, and what they took along.
#[derive(Debug, Default)]
pub(super) struct Pace {
    lanes: AtomicUsize,
    jobs: AtomicUsize,
    arrived: Notify,
}

/// A lane that is out; back when this is dropped. Nobody is called then: who is back takes what waits.
#[derive(Debug)]
pub(super) struct Out<'a> {
    pace: &'a Pace,
    jobs: usize,
}

impl Pace {
    /// Whether so many are worth a lane.
    fn is_worth(&self, waiting: usize) -> bool {
        let (lanes, jobs) = (self.lanes.load(Ordering::Relaxed), self.jobs.load(Ordering::Relaxed));
        lanes == 0 || (waiting >= LANE_JOBS_MIN && waiting * lanes >= jobs)
    }

    /// One more waits, so that there are `waiting`. Calls a lane for the first, and again once they are worth one.
    pub(super) fn arrived(&self, waiting: usize) {
        if waiting == 1 || self.is_worth(waiting) {
            self.arrived.notify_one();
        }
    }

    /// Calls a lane, whatever waits.
    pub(super) fn call(&self) {
        self.arrived.notify_one();
    }

    /// Waits to be called.
    pub(super) async fn called(&self) {
        self.arrived.notified().await;
    }

    /// Waits until as many wait as are worth it, or for as long as that may take.
    pub(super) async fn linger(&self, waiting: impl Fn() -> usize) {
        let enough = async {
            while !self.is_worth(waiting()) {
                self.arrived.notified().await;
            }
        };
        // Either way it goes; with fewer, if no more came.
        let _elapsed = tokio::time::timeout(LINGER_MAX, enough).await;
    }

    /// A lane goes out with so many.
    pub(super) fn out(&self, jobs: usize) -> Out<'_> {
        self.lanes.fetch_add(1, Ordering::Relaxed);
        self.jobs.fetch_add(jobs, Ordering::Relaxed);
        Out { pace: self, jobs }
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.pace.jobs.fetch_sub(self.jobs, Ordering::Relaxed);
        self.pace.lanes.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn, pin::pin, task::Poll};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_alone_waits_for_nothing() {
        let (pace, begun) = (Pace::default(), Instant::now());
        pace.linger(|| 1).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn few_wait_for_more_and_not_for_long() {
        let (pace, begun) = (Pace::default(), Instant::now());
        let _out = pace.out(100);
        pace.linger(|| 99).await;
        assert_eq!(begun.elapsed(), LINGER_MAX);
        pace.linger(|| 100).await;
        assert_eq!(begun.elapsed(), LINGER_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_lane_goes_for_many_only() {
        let (pace, begun) = (Pace::default(), Instant::now());
        let _out = pace.out(1);
        pace.linger(|| LANE_JOBS_MIN - 1).await;
        assert_eq!(begun.elapsed(), LINGER_MAX);
        pace.linger(|| LANE_JOBS_MIN).await;
        assert_eq!(begun.elapsed(), LINGER_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_is_back_and_arrivals_end_the_wait() {
        let (pace, waiting) = (Pace::default(), Cell::new(1));
        let out = pace.out(100);
        let mut lingering = pin!(pace.linger(|| waiting.get()));
        let mut is_over = async || poll_fn(|cx| Poll::Ready(lingering.as_mut().poll(cx).is_ready())).await;
        assert!(!is_over().await);
        for arrived in 2..=99 {
            waiting.set(arrived);
            pace.arrived(arrived);
            assert!(!is_over().await, "{arrived}");
        }
        waiting.set(100);
        pace.arrived(100);
        assert!(is_over().await);
        drop(out);
        pace.linger(|| 1).await;
    }
}
