//! What a handler says of its own response, beyond its status.
//!
//! A handler or forwarder puts one of these into the response's extensions. An origin behind the gateway says the same
//! in the header `Idempotency-Effect: none|happened|unknown`.

pub use semel_core::policy::Effect;

/// Response extension: not a byte of the request left this process. The response itself is not told.
///
/// Only the party that holds the connection may say so: the key becomes free and a retry executes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotSent;

/// Response extension: the request may have arrived and there is no response to it. The response itself is not told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost;

/// Response extension of the layer's answers: a kept reply, and not what the handler says now. A problem of the layer
/// has its [`ProblemType`](semel_core::wire::ProblemType) instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replayed;
