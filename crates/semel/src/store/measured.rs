//! A store that is measured: how long it takes, and how often it fails at what.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use async_trait::async_trait;

use super::{Figures, Found, PhaseKind, RecordKey, Store, StoreError, Swap, Swapped};
use crate::figures::{DURATION_BOUNDS, Histogram};

/// Hands everything on to another store, and keeps [`Measures`] of it.
#[derive(Debug)]
pub struct Measured {
    store: Arc<dyn Store>,
    measures: Arc<Measures>,
}

/// What a [`Measured`] store was asked so far.
#[derive(Debug)]
pub struct Measures {
    took: [Histogram; Asked::ALL.len()],
    failed: [[AtomicU64; StoreError::KINDS.len()]; Asked::ALL.len()],
}

/// What a store is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// [`Store::swap`].
    Swap,
    /// [`Store::load`].
    Load,
    /// [`Store::scan`].
    Scan,
    /// [`Store::sweep`].
    Sweep,
    /// [`Store::probe`].
    Probe,
}

impl Asked {
    /// All of them.
    pub const ALL: [Asked; 5] = [Asked::Swap, Asked::Load, Asked::Scan, Asked::Sweep, Asked::Probe];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Asked::Swap => "swap",
            Asked::Load => "load",
            Asked::Scan => "scan",
            Asked::Sweep => "sweep",
            Asked::Probe => "probe",
        }
    }
}

impl Measures {
    /// How long answers took, in microseconds; errors too.
    pub fn took(&self, asked: Asked) -> &Histogram {
        &self.took[asked as usize]
    }

    /// How often it failed, by [`StoreError::KINDS`].
    pub fn failed(&self, asked: Asked) -> impl Iterator<Item = (&'static str, u64)> {
        StoreError::KINDS.into_iter().zip(self.failed[asked as usize].iter().map(|count| count.load(Relaxed)))
    }
}

impl Measured {
    /// Measures `store`.
    pub fn new(store: Arc<dyn Store>) -> Measured {
        let measures = Measures {
            took: std::array::from_fn(|_| Histogram::new(DURATION_BOUNDS)),
            failed: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
        };
        Measured { store, measures: Arc::new(measures) }
    }

    /// What is measured.
    pub fn measures(&self) -> Arc<Measures> {
        Arc::clone(&self.measures)
    }

    async fn of<T>(&self, asked: Asked, answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let asked_at = Instant::now();
        let answer = answer.await;
        self.measures.took[asked as usize].record_time(asked_at.elapsed());
        if let Err(error) = &answer {
            self.measures.failed[asked as usize][error.kind()].fetch_add(1, Relaxed);
        }
        answer
    }
}

#[async_trait]
impl Store for Measured {
    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        self.of(Asked::Swap, self.store.swap(key, swap)).await
    }
    async fn load(&self, key: &RecordKey) -> Result<Option<Found>, StoreError> {
        self.of(Asked::Load, self.store.load(key)).await
    }
    async fn scan(
        &self,
        phase: PhaseKind,
        after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, StoreError> {
        self.of(Asked::Scan, self.store.scan(phase, after, limit)).await
    }
    async fn sweep(&self, limit: u32) -> Result<u32, StoreError> {
        self.of(Asked::Sweep, self.store.sweep(limit)).await
    }
    async fn probe(&self) -> Result<(), StoreError> {
        self.of(Asked::Probe, self.store.probe()).await
    }
    fn figures(&self) -> Figures {
        self.store.figures()
    }
}
