//! Makes write requests safe to retry: at most one effect per key, and a truthful answer.
//!
//! [`Semel`] brings a policy, a secret and a [store] together; [`Semel::layer`] is a tower layer for axum, tonic, hyper
//! and anything else that speaks [`http`].

pub mod body;
mod drive;
pub mod effect;
mod event;
pub mod figures;
pub mod layer;
mod observe;
mod operate;
mod probe;
mod quota;
mod reply;
mod seal;
mod secret;
pub mod store;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub mod transaction;
mod waiters;

pub use body::{Body, BoxError};
pub use effect::Replayed;
pub use event::{Answered, Event, Exchanged, Met, Observer, Passed};
pub use layer::{Authorize, ExecutionInfo, Idempotency, IdempotencyLayer, Identify, Semel, Unidentified};
pub use observe::{Owner, Released, Unreleased};
pub use operate::{Settlement, Unfound};
pub use quota::{Quota, QuotaLimits};
pub use reply::{problem, problem_with_status};
pub use secret::{agrees_with_folder, mint_secret, sealing_from, secret_from, secret_in};
pub use semel_core as core;
