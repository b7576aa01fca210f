//! The sandbox's time: the machine's, moved forward by whoever asks.

use std::sync::atomic::{AtomicU64, Ordering};

use semel::store::{Clock, SystemClock};

/// How far ahead of the machine's clock the sandbox's may be: a hundred years.
pub(crate) const AHEAD_MS_MAX: u64 = 100 * 365 * 24 * 3_600 * 1_000;

/// The machine's clock and an offset.
#[derive(Debug, Default)]
pub(crate) struct MovedClock {
    system: SystemClock,
    ahead_ms: AtomicU64,
}

impl MovedClock {
    /// How far it is ahead, in milliseconds.
    pub(crate) fn ahead_ms(&self) -> u64 {
        self.ahead_ms.load(Ordering::SeqCst)
    }

    /// Sets that.
    pub(crate) fn set_ahead_ms(&self, ahead_ms: u64) {
        self.ahead_ms.store(ahead_ms, Ordering::SeqCst);
    }
}

impl Clock for MovedClock {
    fn now_ms(&self) -> u64 {
        self.system.now_ms().saturating_add(self.ahead_ms())
    }
}
