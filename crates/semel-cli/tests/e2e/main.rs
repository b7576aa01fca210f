//! `semel serve` as a real process between a raw client and a scripted origin.
//!
//! Every test has an origin, a gateway and a data folder of its own. Tests whose name starts with a case's number
//! (`h02_`, `k05_`, `sc01_`) cover that case of the conformance list; `peers_12_` covers the twelfth bug found in peers.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod call;
mod concurrency;
mod cors;
mod crash;
mod deploy;
mod expiry;
mod guards;
mod harness;
mod header;
mod kill_loop;
mod many;
mod operators;
mod pass_through;
mod peers;
mod policy;
mod reload;
mod security;
mod store;
mod telemetry;
mod tls;
mod unknown;
