//! The three parties: a client with control over every byte, the gateway as a process, an origin that does as told.

use std::{future::Future, time::Duration};

mod certificates;
mod check;
mod client;
mod gateway;
mod origin;
mod stream;

pub(crate) use certificates::{Authority, Issued, replace};
pub(crate) use check::{assert_problem, assert_replay, assert_same_reply, twice};
pub(crate) use client::{Conn, Request, Response, get, post, request, send, try_send};
pub(crate) use gateway::{Gateway, Said, Setup, gateway, migrate, semel};
pub(crate) use origin::{Act, Cut, Gate, Origin, Part, Reply, Seen};

/// How long anything may take before a test says that it hangs. Far over what a loaded machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What `future` yields, or a failure that says what did not happen.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Asks again until it holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Lets this process, and the gateways it starts, open thousands of connections.
pub(crate) fn raise_open_files_max() {
    gateway::run(&format!("prlimit --pid {} --nofile=8192:", std::process::id()));
}
