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
    /// Of this request.
    pub(crate) fn of(covered: &'a Covered) -> Seals<'a> {
        Seals { covered, guard: None, again: 0 }
    }

    /// The same, and of the guard that it is to hold.
    pub(crate) fn holding(self, guard: &Guard) -> Seals<'a> {
        let guard = match guard {
            Guard::Guarded(guard) => Some(self.covered.seal.of_other(guard.key, guard.opener)),
            Guard::Unguarded | Guard::Incomplete(_) => None,
        };
        Seals { guard, ..self }
    }

    /// The same, after all that was written under the same stamps was undone so many times.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn again(self, again: u32) -> Seals<'a> {
        Seals { again, ..self }
    }

    /// The swap as the store is asked for it. To be called once per swap, however often the store is asked.
    pub(crate) fn close(&self, register: Which, mut swap: Swap) -> Swap {
        if let Some(put) = &mut swap.put {
            // What an operator settles stays about the request that left it.
            put.record.about.get_or_insert_with(|| Arc::clone(&self.covered.about));
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
