//! One store in one case, with the questions that cases ask.

use std::{sync::Arc, time::Duration};

use super::{Failure, same};
use crate::{
    store::{Found, PhaseKind, Put, Record, RecordKey, Stamp, Store, Swap, Swapped},
    testkit::{Harness, Subject, Sweeps},
};

/// Wraps a [`Subject`]. It never keeps the store itself, so that `reopen` can let go of it.
pub(super) struct Trial {
    pub(super) subject: Box<dyn Subject>,
    sweeps: Sweeps,
}

pub(super) type Page = Vec<(RecordKey, Found)>;

impl Trial {
    pub(super) async fn of(harness: &dyn Harness) -> Trial {
        Trial { subject: harness.fresh().await, sweeps: harness.sweeps() }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        self.subject.store()
    }

    /// Two handles to the same records, which are one where the store has but one.
    pub(super) fn handles(&self) -> [Arc<dyn Store>; 2] {
        let first = self.subject.store();
        let second = self.subject.another().unwrap_or_else(|| first.clone());
        [first, second]
    }

    pub(super) async fn advance(&self, by: Duration) {
        self.subject.advance(by).await;
    }

    pub(super) async fn swap(&self, key: RecordKey, swap: &Swap) -> Result<Swapped, Failure> {
        Ok(self.store().swap(&key, swap).await?)
    }

    pub(super) async fn load(&self, key: RecordKey) -> Result<Option<Found>, Failure> {
        Ok(self.store().load(&key).await?)
    }

    pub(super) async fn scan(&self, phase: PhaseKind, after: Option<RecordKey>, limit: u32) -> Result<Page, Failure> {
        Ok(self.store().scan(phase, after, limit).await?)
    }

    /// Sweeps until there is nothing left to do, and says how many went.
    pub(super) async fn sweep_all(&self) -> Result<u32, Failure> {
        let mut swept = 0;
        loop {
            let count = self.store().sweep(100).await?;
            swept += count;
            if count < 100 {
                return Ok(swept);
            }
        }
    }

    /// Sweeps until there is nothing left to do: so many went, or, where nobody counts, no more than that.
    pub(super) async fn sweeps(&self, claim: &str, expected: u32) -> Result<(), Failure> {
        let swept = self.sweep_all().await?;
        match self.sweeps {
            Sweeps::Each => same(claim, &swept, &expected),
            Sweeps::InBulk => same(claim, &swept.min(expected), &swept),
        }
    }

    pub(super) async fn is_done(&self, claim: &str, key: RecordKey, swap: &Swap) -> Result<(), Failure> {
        let answer = self.swap(key, swap).await?;
        same(claim, &answer, &Swapped::Done)
    }

    /// The answer is `Found`, and so is what is loaded: this stamp, age and record.
    pub(super) async fn is_found(
        &self,
        claim: &str,
        key: RecordKey,
        swap: &Swap,
        expected: Found,
    ) -> Result<(), Failure> {
        let answer = self.swap(key, swap).await?;
        same(claim, &answer, &Swapped::Found(expected.clone()))?;
        self.lives(claim, key, expected).await
    }

    pub(super) async fn is_absent(&self, claim: &str, key: RecordKey, swap: &Swap) -> Result<(), Failure> {
        let answer = self.swap(key, swap).await?;
        same(claim, &answer, &Swapped::Absent)?;
        self.nothing_lives(claim, key).await
    }

    pub(super) async fn lives(&self, claim: &str, key: RecordKey, expected: Found) -> Result<(), Failure> {
        let loaded = self.load(key).await?;
        same(claim, &loaded, &Some(expected))
    }

    pub(super) async fn nothing_lives(&self, claim: &str, key: RecordKey) -> Result<(), Failure> {
        let loaded = self.load(key).await?;
        same(claim, &loaded, &None)
    }
}

/// What a store shows `age` after `put`.
pub(super) fn found(stamp: Stamp, record: Record, age: Duration) -> Found {
    let record = record.at_age(age).expect("cases expect what is not past its retention");
    Found { stamp, age, abandoned: false, record }
}

/// What a store shows at once after `swap` was done.
pub(super) fn found_new(swap: &Swap) -> Found {
    let Put { stamp, record } = swap.put.clone().expect("a swap that puts");
    found(stamp, record, Duration::ZERO)
}
