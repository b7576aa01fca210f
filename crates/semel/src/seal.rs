//! How one exchange meets its store: what it puts is sealed and says what it is about, and what it finds is opened.

use std::sync::Arc;

use semel_core::{
    admit::Covered,
    exchange::{Guard, Which},
    register::{Found, Swap, Swapped},
    seal::{Seal, Unopened},
};

use crate::store::StoreError;

/// What seals and opens the records of one exchange.
#[derive(Debug)]
pub(crate) struct Seals<'a> {
    covered: &'a Covered,
    guard: Option<Seal>,
    again: u32,
}

impl<'a> Seals<'a> {
    /// Of this request, which is to hold this guard. `again`: how often all that was written was undone before.
    pub(crate) fn of(covered: &'a Covered, guard: &Guard, again: u32) -> Seals<'a> {
        let guard = match guard {
            Guard::Guarded(guard) => Some(covered.seal.of_other(guard.key, guard.opener)),
            Guard::Unguarded | Guard::Incomplete(_) => None,
        };
        Seals { covered, guard, again }
    }

    /// The swap as the store is asked for it. To be called once per swap, however often the store is asked.
    pub(crate) fn close(&self, register: Which, mut swap: Swap) -> Swap {
        if let Some(put) = &mut swap.put {
            put.record.about = Some(Arc::clone(&self.covered.about));
            self.at(register).close(put, self.again);
        }
        swap
    }

    /// The store's answer as the exchange is told it.
    pub(crate) fn open(&self, register: Which, swapped: Swapped) -> Result<Swapped, StoreError> {
        match swapped {
            Swapped::Found(found) => open(self.at(register), found).map(Swapped::Found),
            Swapped::Done | Swapped::Absent => Ok(swapped),
        }
    }

    fn at(&self, register: Which) -> &Seal {
        match register {
            Which::Record => &self.covered.seal,
            Which::Guard => self.guard.as_ref().expect("a step is about a guard only where there is one"),
        }
    }
}

/// Opens a record that was found. One that is sealed with a secret that is not here is shown as it is: its reply is gone.
pub(crate) fn open(seal: &Seal, mut found: Found) -> Result<Found, StoreError> {
    match seal.open(&mut found.record) {
        Ok(()) => Ok(found),
        Err(unknown @ Unopened::UnknownSecret(_)) => {
            tracing::warn!(target: "semel::store", exchange = %found.stamp.exchange, "a reply cannot be told: {unknown}");
            Ok(found)
        }
        Err(damaged @ Unopened::Damaged) => {
            let exchange = found.stamp.exchange;
            let error = StoreError::Corrupt(format!("a kept reply cannot be opened: {damaged}"));
            tracing::error!(target: "semel::store", %exchange, %error, "a record was not told");
            Err(error)
        }
    }
}
