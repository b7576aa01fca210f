//! How one exchange meets its store: what it puts says what it is about.

use std::sync::Arc;

use semel_core::{admit::Covered, exchange::Which, register::Swap};

/// What is put on the records of one exchange.
#[derive(Debug)]
pub(crate) struct Seals<'a> {
    covered: &'a Covered,
}

impl<'a> Seals<'a> {
    /// Of this request.
    pub(crate) fn of(covered: &'a Covered) -> Seals<'a> {
        Seals { covered }
    }

    /// The swap as the store is asked for it. To be called once per swap, however often the store is asked.
    pub(crate) fn close(&self, _register: Which, mut swap: Swap) -> Swap {
        if let Some(put) = &mut swap.put {
            put.record.about = Some(Arc::clone(&self.covered.about));
        }
        swap
    }
}
