//! The sandbox as a real process, on each database, and as a naive origin behind the gateway.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod harness;

mod call;
mod clients;
mod crash;
mod credicorp;
mod documents;
mod etherfuse;
mod init;
mod nora;
mod skeleton;
mod yonne;
