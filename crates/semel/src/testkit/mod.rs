//! The suite that every store must pass, and the clocks and faults it needs; for authors of stores.

pub use crate::store::SimulatedClock;
