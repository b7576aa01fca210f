//! The sandbox as a process of its own, set up in the ways that a test is to run in, and a client with control over every
//! byte.

use std::{future::Future, time::Duration};

#[path = "../../e2e/harness/client.rs"]
#[allow(dead_code, reason = "the other test binary uses the rest")]
mod client;
mod process;
mod sandbox;
#[path = "../../e2e/harness/stream.rs"]
#[allow(dead_code, reason = "the other test binary uses the rest")]
mod stream;

#[allow(unused_imports, reason = "every vendor's tests use some")]
pub(crate) use client::{Conn, Request, Response, get, post, request, send, try_send};
pub(crate) use process::Process;
#[allow(unused_imports, reason = "every vendor's tests use some")]
pub(crate) use sandbox::{Kind, Sandbox, json, together};

/// How long anything may take before a test says that it hangs. Far over what a loaded machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// What `future` yields, or a failure that says what did not happen.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Writes a test once and runs it in several setups, each of which is a test of its own:
///
/// ```text
/// const VENDOR: &str = "yonne";
/// for_each!(sqlite, postgres => async fn e26_replays_within_a_day(sandbox: Sandbox) { … });
/// ```
///
/// makes `yonne::e26_replays_within_a_day::sqlite` and `…::postgres`. The setups are `sqlite` and `postgres`, the sandbox
/// on that database, and `gateway`: the naive sandbox behind `semel serve --preset VENDOR`. The argument may be `mut`.
macro_rules! for_each {
    ($($setup:ident),+ => $(#[$about:meta])* async fn $name:ident($($argument:tt)+) $body:block) => {
        mod $name {
            #[allow(unused_imports, reason = "a body may need none of it")]
            use super::*;

            $(#[$about])*
            async fn test($($argument)+) $body

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $setup() {
                    test($crate::harness::Sandbox::start($crate::harness::Kind::$setup, VENDOR).await).await;
                }
            )+
        }
    };
}
pub(crate) use for_each;
