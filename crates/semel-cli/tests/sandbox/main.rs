//! The sandbox as a real process, on each database, and as a naive origin behind the gateway.

mod harness;

mod credicorp;
mod etherfuse;
mod nora;
mod skeleton;
mod yonne;
