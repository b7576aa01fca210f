//! A client that makes write requests safe to retry: one key per user action, a durable journal, and never a success
//! without proof.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use semel_client::{Client, Http, Intent, Journal, Outcome, Preset};
//!
//! let client = Client::new(Http::new()?, Journal::open("orders.journal")?)
//!     .secret_header("x-api-key", "yonne_live_...")?;
//!
//! let intent = Intent::post("https://api.yonne.app/api/v1/external/create-order")
//!     .preset(Preset::Yonne)
//!     .operation("order-WEB-100245")
//!     .json(r#"{"delivery_fee": 7350, "merchant_reference_id": "WEB-100245"}"#)
//!     .build()?;
//!
//! match client.send(&intent).await? {
//!     Outcome::Fresh(reply) | Outcome::Replayed(reply) => println!("ordered: {:?}", reply.content),
//!     Outcome::AlreadyExists(resource) => println!("ordered before: {}", resource.path),
//!     Outcome::Rejected(no) => println!("not ordered: {}", no.say),
//!     Outcome::Unresolved(open) => println!("nobody knows yet: {}; resume later", open.say),
//! }
//! # Ok(()) }
//! ```
//!
//! The key is minted when the [`Intent`] is built and attempts only borrow it: it does not compile to change it.
//!
//! ```compile_fail,E0616
//! # use semel_client::{Intent, Key};
//! let mut intent = Intent::post("https://api.example/orders").json("{}").build().unwrap();
//! intent.key = Key::v4();
//! ```
//!
//! What crosses a crash is in the [`Journal`]: [`Client::resume`] goes on with the same key and the same bytes. What the
//! answers of an API mean is in the tables of [`semel_core::retry`].

#![warn(missing_docs)]

/// The first example of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod client;
mod http_client;
mod intent;
mod journal;
mod log;
mod outcome;
mod published;
mod surroundings;

pub use client::{Client, SendError, SendFailure};
pub use http_client::{Http, HttpError};
pub use intent::{CountedKeys, Intent, IntentBuilder, IntentError, Key, KeyError, is_credential};
pub use journal::{Journal, JournalError, Listed, State};
pub use outcome::{Outcome, Rejection, Resource, Unresolved};
pub use semel_core::{
    policy::Preset,
    retry::{Event, Reply, Saw},
};
pub use surroundings::{Step, Surroundings, System};
