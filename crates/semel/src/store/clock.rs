//! The clock that a store on this machine measures ages with.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch, never going back within one process.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Now.
    fn now_ms(&self) -> u64;
}

/// The wall clock at the start of the process, advanced by the monotonic clock: somebody who sets the machine's clock
/// while the process runs neither expires records early nor revives them (conformance X8).
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
    start_ms: u64,
}

impl SystemClock {
    /// Reads the wall clock once.
    pub fn new() -> SystemClock {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        SystemClock { start: Instant::now(), start_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        self.start_ms.saturating_add(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// A clock that moves only when told to; for tests and simulations.
#[derive(Debug)]
pub struct SimulatedClock(AtomicU64);

impl SimulatedClock {
    /// Starts at `now_ms`.
    pub fn at(now_ms: u64) -> SimulatedClock {
        SimulatedClock(AtomicU64::new(now_ms))
    }

    /// Moves forward.
    pub fn advance(&self, by: std::time::Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Sets it to any time, earlier ones too.
    pub fn set(&self, now_ms: u64) {
        self.0.store(now_ms, Ordering::SeqCst);
    }
}

impl Clock for SimulatedClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
