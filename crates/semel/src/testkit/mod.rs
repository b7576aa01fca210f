//! The suite that every store must pass, and the faults that whoever drives a store must survive.
//!
//! # Running the suite on a store of your own
//!
//! Say how your store is made, how its time moves, and how it is opened again ([`Harness`], [`Subject`]); then run
//! [`suite::run`] on a runtime with several threads, and [`suite::assert_all_pass`] on what it answers. Every case has
//! a name, and one that fails, panics or hangs does not keep the others from running.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use semel::{
//!     store::{SimulatedClock, Store, memory::MemoryStore},
//!     testkit::{Harness, Keeps, START_MS, Subject, suite},
//! };
//!
//! #[derive(Debug)]
//! struct MyHarness;
//!
//! struct MySubject {
//!     clock: Arc<SimulatedClock>,
//!     store: Arc<MemoryStore>,
//! }
//!
//! #[async_trait::async_trait]
//! impl Harness for MyHarness {
//!     fn keeps(&self) -> Keeps {
//!         Keeps::Nothing
//!     }
//!     async fn fresh(&self) -> Box<dyn Subject> {
//!         let clock = Arc::new(SimulatedClock::at(START_MS));
//!         let store = Arc::new(MemoryStore::with_clock(clock.clone()));
//!         Box::new(MySubject { clock, store })
//!     }
//! }
//!
//! #[async_trait::async_trait]
//! impl Subject for MySubject {
//!     fn store(&self) -> Arc<dyn Store> {
//!         self.store.clone()
//!     }
//!     async fn advance(&self, by: Duration) {
//!         self.clock.advance(by);
//!     }
//! }
//!
//! # fn main() {
//! #     tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(async {
//! suite::assert_all_pass(&suite::run(&MyHarness).await);
//! #     });
//! # }
//! ```
//!
//! # What it proves
//!
//! - The contract of [`Store`], sentence by sentence: [`suite::cases`] lists the cases as data.
//! - That races leave one chain of won swaps per key, in an order that time allows.
//! - That the store tells the same stories as the reference: [`histories::corpus`] is a fixed list of histories whose
//!   transcripts are the same bytes on every store.
//! - For stores that persist: that what was done before the end of the process is there after it.
//!
//! What it cannot prove: durability when the machine loses power. Only a store's own tests can cut the write path.
//!
//! # Testing what drives a store
//!
//! [`FaultyStore`] loses answers, refuses and delays as scripted; [`SimulatedClock`] lets a test own the time.

mod faulty;
pub mod histories;
mod prng;
pub mod sample;
pub mod suite;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use crate::store::SimulatedClock;
use crate::store::{Store, memory::MemoryStore};
pub use faulty::{Fault, FaultyStore};

/// The time at which clocks of the suite start, in milliseconds since the Unix epoch: in October 2025, so that a store
/// that keeps 32 bits of it fails.
pub const START_MS: u64 = 1_760_000_000_000;

/// How the suite gets at a kind of store.
#[async_trait]
pub trait Harness: fmt::Debug + Send + Sync {
    /// What outlives the process. Cases that need more than this are listed as not applying.
    fn keeps(&self) -> Keeps;

    /// How it gives space back.
    fn sweeps(&self) -> Sweeps {
        Sweeps::Each
    }

    /// A new and empty store whose time stands still except for [`Subject::advance`].
    async fn fresh(&self) -> Box<dyn Subject>;
}

/// What a store still has after its process ended and it was opened again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Keeps {
    /// Nothing; [`Subject::reopen`] is never called.
    Nothing,
    /// Every record whose swap was answered `Done`. Other processes may be writing, so nobody is known to be dead.
    Records,
    /// The same, and there is one owner at a time: what was in flight is abandoned once the store is opened again.
    RecordsOfOneOwner,
}

/// What [`Store::sweep`] has to do with a record that is past its retention.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sweeps {
    /// It deletes each one, and nothing else does: it can be counted.
    Each,
    /// Space goes back without it as well, or in bulk: its count says at most what it deleted itself.
    InBulk,
}

/// One store under test, and its time.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The store. No case holds on to it across [`Subject::reopen`].
    fn store(&self) -> Arc<dyn Store>;

    /// Moves the store's time forward. A store that reads the clock of a server can age every record instead.
    async fn advance(&self, by: Duration);

    /// Another handle to the same records, as another process would have; `None` where there can be but one.
    fn another(&self) -> Option<Arc<dyn Store>> {
        None
    }

    /// Ends the store as a crash would (or as closing it would: make a harness for each), and opens it again. Time goes
    /// on from where it was.
    async fn reopen(&mut self) {
        unreachable!("a store that keeps nothing is not opened again");
    }
}

/// The harness of [`MemoryStore`].
#[derive(Debug)]
pub struct MemoryHarness;

#[async_trait]
impl Harness for MemoryHarness {
    fn keeps(&self) -> Keeps {
        Keeps::Nothing
    }

    async fn fresh(&self) -> Box<dyn Subject> {
        Box::new(MemorySubject::new())
    }
}

struct MemorySubject {
    clock: Arc<SimulatedClock>,
    store: Arc<MemoryStore>,
}

impl MemorySubject {
    fn new() -> MemorySubject {
        let clock = Arc::new(SimulatedClock::at(START_MS));
        let store = Arc::new(MemoryStore::with_clock(clock.clone()));
        MemorySubject { clock, store }
    }
}

#[async_trait]
impl Subject for MemorySubject {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
}
