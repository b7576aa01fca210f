//! The protocol of Semel, and nothing else: what a write request that carries an idempotency key may do.
//!
//! This crate decides and never waits: it has no clock, no randomness, no file and no socket (invariant I8).
//! Ages come in with what a store answers, identities are minted by the caller, and every decision is returned
//! as the next [`exchange::Step`] by value. The model checker in this crate therefore explores the code that ships.
//!
//! Where to look:
//! - [`wire`]: header names, structured-field strings, problem types;
//! - [`policy`]: what an operator may configure, valid by construction;
//! - [`admit`]: from a request to a [`admit::Covered`] request with its [`scope::RecordKey`] and fingerprint;
//! - [`decide`]: the table of what a record that was found means for a request;
//! - [`exchange`]: the state machine of one request, from claim to answer;
//! - [`guard`]: what no two live records may have in common; [`release`]: which responses show that it is free again;
//! - [`settle`]: what an operator may say of an outcome that nobody knows;
//! - [`retry`]: what a client may conclude from what it saw;
//! - [`seal`]: what makes a kept reply unreadable in a store;
//! - [`record`]: what a store keeps, and its bytes on disk; [`register`]: the words between a store and an exchange.

// I8, by the list in clippy.toml; its own tests may read files and the environment.
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod admit;
pub mod decide;
pub mod exchange;
pub mod fingerprint;
pub mod guard;
pub mod key;
#[cfg(test)]
mod model;
mod planted;
pub mod policy;
pub mod record;
pub mod register;
pub mod release;
pub mod retry;
pub mod scope;
pub mod seal;
pub mod settle;
pub mod wire;
