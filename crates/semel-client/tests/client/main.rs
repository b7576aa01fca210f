//! The client against a scripted API, every branch of it; time and dice are the test's own.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod crash;
mod journal;
mod judgement;
mod log;
mod readme;
mod world;
