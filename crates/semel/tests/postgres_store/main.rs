//! What only the PostgreSQL store does, on real servers.

#![cfg(feature = "postgres-store")]
#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

mod epochs;
mod faults;
mod opening;
mod plans;
mod servers;
mod world;
