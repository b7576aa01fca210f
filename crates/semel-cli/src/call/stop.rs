//! Dies at a chosen step, as by `kill -9`: only in builds for tests.

use std::{future::Future, pin::Pin, time::Duration};

use semel_client::{Step, Surroundings, System};

/// Where to die.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum StopAt {
    BeforeJournal,
    BeforeSend,
    AfterReply,
    AfterJournal,
}

/// The system's own surroundings until then.
pub(crate) struct Stopping(Step);

impl Stopping {
    pub(crate) fn new(at: StopAt) -> Stopping {
        Stopping(match at {
            StopAt::BeforeJournal => Step::BeforeJournal,
            StopAt::BeforeSend => Step::BeforeSend,
            StopAt::AfterReply => Step::AfterReply,
            StopAt::AfterJournal => Step::AfterJournal,
        })
    }
}

impl Surroundings for Stopping {
    fn now_ms(&self) -> u64 {
        System.now_ms()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn draw(&self, at_least: u64, at_most: u64) -> u64 {
        System.draw(at_least, at_most)
    }

    fn reached(&self, step: Step) {
        if step == self.0 {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // Until the signal is there.
            loop {
                std::thread::park();
            }
        }
    }
}
