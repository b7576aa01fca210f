//! Transactional mode on SQLite and on a real PostgreSQL server.

#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

mod both;
mod crash;
mod guards;
mod postgres;
mod proxy;
mod releases;
mod sqlite;
mod world;
