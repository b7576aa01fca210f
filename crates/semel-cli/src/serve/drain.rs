//! From "stop" to the end of the process: what runs is finished, within a limit.

use std::{io, time::Duration};

use semel::Semel;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::{Ended, listen::Closing};

/// SIGTERM and SIGINT, which end the process. SIGHUP is for [`super::reload`].
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    pub(crate) fn hear() -> io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// What is to be finished.
#[derive(Debug)]
pub(crate) struct Open {
    /// Told to finish.
    pub closing: Closing,
    /// Client connections, and what they became.
    pub connections: TaskTracker,
    /// Executions, which may have outlived their connections.
    pub semel: Semel,
}

impl Open {
    /// Lets what runs finish within `at_most`; a signal in the meantime ends the process at once, with exit code 1.
    pub(crate) async fn finish(self, at_most: Duration, mut signals: Signals) -> Ended {
        let deadline = Instant::now() + at_most;
        self.connections.close();
        let finishing = async {
            let connections = tokio::time::timeout_at(deadline, self.connections.wait()).await;
            let executions = self.semel.drain(deadline.saturating_duration_since(Instant::now())).await;
            (connections.is_ok(), executions)
        };
        let (connections_closed, executions) = tokio::select! {
            finished = finishing => finished,
            name = signals.next() => {
                let left = self.left();
                tracing::warn!(target: "semel::serve", "second signal ({name}): ending at once with {left}");
                eprintln!("semel: {name} again: ended at once with {left}");
                // Whatever is in flight in the store is proven dead by the next start, and becomes unknown.
                std::process::exit(1);
            }
        };
        if connections_closed && executions == 0 {
            tracing::info!(target: "semel::serve", "everything is finished");
            return Ended::Drained;
        }
        let left = self.left();
        tracing::warn!(target: "semel::serve", "drain_max is over: cut off {left}");
        if executions == 0 { Ended::Drained } else { Ended::CutOff }
    }

    fn left(&self) -> String {
        format!("{} execution(s) and {} connection(s) unfinished", self.semel.running(), self.connections.len())
    }
}
