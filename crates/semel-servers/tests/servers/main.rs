//! Every server starts, answers, crashes, comes back, and is gone after its owner, however that ended.

#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

mod cluster;
mod owner;
mod pgbouncer;
mod postgres;
mod proxy;
mod redis;
