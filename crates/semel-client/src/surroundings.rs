//! What a client takes from the machine it runs on: time and chance.

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, SystemTime},
};

/// Time and chance, so that a test can own them.
pub trait Surroundings: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch, by the wall clock: it must mean the same after a restart.
    fn now_ms(&self) -> u64;
    /// Waits.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    /// A number from `at_least` to `at_most`, each as likely as any other.
    fn draw(&self, at_least: u64, at_most: u64) -> u64;
    /// Told where it is: every place that a crash could tell from its neighbours. Does nothing unless a test makes it.
    fn reached(&self, step: Step) {
        let _ = step;
    }
}

/// The places in an exchange that a crash could tell from their neighbours.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// Nothing is written down.
    BeforeJournal,
    /// It is written down that it begins, durably; nothing is sent.
    BeforeSend,
    /// What came of it is known, and not written down.
    AfterReply,
    /// What came of it is on its way to the journal; nobody was told.
    AfterJournal,
}

/// Those of the system; needs a tokio runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Surroundings for System {
    fn now_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn draw(&self, at_least: u64, at_most: u64) -> u64 {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the system has randomness");
        // A pause need not be unbiased to the last bit.
        let width = u128::from(at_most.saturating_sub(at_least)) + 1;
        at_least + u64::try_from(u128::from(u64::from_le_bytes(random)) % width).expect("less than the width")
    }
}
