//! Makes write requests safe to retry: at most one effect per key, and a truthful answer.

pub mod body;
pub mod effect;
pub mod store;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;

pub use body::{Body, BoxError};
