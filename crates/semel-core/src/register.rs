//! The words between a store and an exchange: a store is a compare-and-swap register per key, and knows no other verb.

use std::time::Duration;

use crate::record::{Phase, Record, Stamp};

/// "Put this if what lives there bears that stamp."
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Swap {
    /// The stamp that must be there; `None`: nothing must be there.
    pub expect: Option<Stamp>,
    /// What to put; `None`: leave nothing.
    pub put: Option<Put>,
}

/// A record and the stamp that its writer chose for it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Put {
    /// Never used for another write.
    pub stamp: Stamp,
    /// What to keep.
    pub record: Record,
}

/// What became of a [`Swap`].
#[allow(clippy::large_enum_variant, reason = "answered and matched at once, and never kept")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Swapped {
    /// It is done, and durable; or what lives there already bore the stamp of `put`.
    Done,
    /// Something else lives there, and nothing was changed.
    Found(Found),
    /// A stamp was expected, and nothing lives there. Nothing was changed.
    Absent,
}

/// A record as a store finds it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Found {
    /// The stamp of its last write.
    pub stamp: Stamp,
    /// Time since that write by the store's own clock; clocks of two machines are never compared.
    pub age: Duration,
    /// The store can prove that whoever wrote it is dead (an embedded store opened again holds the folder's lock).
    /// An in-flight record that is abandoned is *unknown* at once, before its lease is over.
    pub abandoned: bool,
    /// What is left of the record at that age ([`Record::at_age`]).
    pub record: Record,
}

impl Found {
    /// Whether somebody may still be executing under it: in flight, within its lease, its writer not known to be dead.
    pub fn is_running(&self) -> bool {
        matches!(self.record.phase, Phase::InFlight { lease } if self.age < lease && !self.abandoned)
    }
}
