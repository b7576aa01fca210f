//! The store contract: a linearizable, durable compare-and-swap register per key.
//!
//! No store knows what "in flight" or "replay" mean: all meaning sits in [`semel_core`]. A store keeps records, measures
//! their age by its own clock, and compares stamps.

use std::{fmt, time::Duration};

use async_trait::async_trait;
pub use semel_core::{
    record::{PhaseKind, Record, Stamp},
    register::{Found, Put, Swap, Swapped},
    scope::RecordKey,
};

mod clock;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod measured;
pub mod memory;
#[cfg(any(feature = "postgres-store", feature = "redis-store"))]
mod pace;
#[cfg(feature = "postgres-store")]
pub mod postgres;
#[cfg(feature = "redis-store")]
pub mod redis;
#[cfg(any(feature = "postgres-store", feature = "redis-store"))]
pub mod shared;

pub use clock::{Clock, SimulatedClock, SystemClock};

pub use crate::figures::Figures;

/// A compare-and-swap register per key.
///
/// Contract, proven for every store by the suite in [`testkit`](crate::testkit):
/// - `swap` and `load` are linearizable per key, and a swap is durable once it answers [`Swapped::Done`];
/// - what already bears the stamp of `put` is `Done` too, so that a writer who lost an answer asks again;
/// - a record is shown as [`Record::at_age`] leaves it at its age, so past its retention it is absent;
/// - an error says nothing about whether the swap was applied;
/// - bytes that do not decode are [`StoreError::Corrupt`], never "absent" (I11);
/// - after a failed write or barrier a store refuses everything until it is opened again.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Puts `swap.put` at `key` if what lives there bears the stamp `swap.expect`; otherwise tells what lives there.
    ///
    /// Expecting nothing and putting nothing is a read that decides: `Done` when absent, `Found` otherwise. Expecting
    /// a stamp where nothing lives answers `Absent`. A removal (`put: None`) whose `expect` is no longer there answers
    /// `Absent` or `Found`: the asker cannot tell a lost answer from somebody else's removal, and need not.
    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError>;

    /// Reads without changing. Linearizable per key with every swap, from whatever handle: whether a guard's owner is gone
    /// is decided by it.
    async fn load(&self, key: &RecordKey) -> Result<Option<Found>, StoreError>;

    /// A page of at most `limit` records in `phase`, in ascending order of key, after `after`; for operators.
    async fn scan(
        &self,
        phase: PhaseKind,
        after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, StoreError>;

    /// Deletes up to `limit` records past their retention, and says how many it deleted itself: zero, for a store that
    /// gives space back in bulk or has it expire. May do its housekeeping (trimming content past its time, recycling
    /// space) on the way. Call until it answers less than `limit`.
    async fn sweep(&self, limit: u32) -> Result<u32, StoreError>;

    /// Proves that a swap would succeed now, by making one on a key of its own.
    async fn probe(&self) -> Result<(), StoreError>;

    /// What it knows of itself; cheap enough to be asked every second.
    fn figures(&self) -> Figures {
        Figures::default()
    }
}

#[async_trait]
impl<S: Store + ?Sized> Store for std::sync::Arc<S> {
    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        (**self).swap(key, swap).await
    }
    async fn load(&self, key: &RecordKey) -> Result<Option<Found>, StoreError> {
        (**self).load(key).await
    }
    async fn scan(
        &self,
        phase: PhaseKind,
        after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, StoreError> {
        (**self).scan(phase, after, limit).await
    }
    async fn sweep(&self, limit: u32) -> Result<u32, StoreError> {
        (**self).sweep(limit).await
    }
    async fn probe(&self) -> Result<(), StoreError> {
        (**self).probe().await
    }
    fn figures(&self) -> Figures {
        (**self).figures()
    }
}

/// Somebody's machine or configuration is broken. Losing a race is no error but an answer ([`Swapped::Found`]).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, shut down, or refusing since a failed write. Whether the swap was applied is not known.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// No answer in time. Whether the swap was applied is not known.
    #[error("the store did not answer within {0:?}")]
    TimedOut(Duration),
    /// No room: disk or queue. The swap was not applied.
    #[error("the store is full: {0}")]
    Full(String),
    /// Bytes that do not decode. Nothing is concluded from them.
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// The kinds of errors, as metrics name them.
    pub const KINDS: [&str; 4] = ["unavailable", "timed-out", "full", "corrupt"];

    /// Which of [`StoreError::KINDS`] it is.
    pub(crate) fn kind(&self) -> usize {
        match self {
            StoreError::Unavailable(_) => 0,
            StoreError::TimedOut(_) => 1,
            StoreError::Full(_) => 2,
            StoreError::Corrupt(_) => 3,
        }
    }
}

/// The key that probes write under; no digest of a real key and scope can be steered to it.
pub(crate) const PROBE_KEY: RecordKey = RecordKey::from_bytes([0x50; RecordKey::LEN]);
