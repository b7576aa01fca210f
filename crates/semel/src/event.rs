//! What happened to requests on covered routes, for whoever counts, remembers or shows it.

use std::{fmt, time::Duration};

use semel_core::{policy::RoutePolicy, record::ExchangeId, scope::RecordKey};

/// Hears of every request on a covered route when its answer is known, whether or not somebody still waits for it.
///
/// It is called on the request's way: it must neither wait nor take long.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// A request was answered.
    fn answered(&self, event: &Event<'_>);

    /// A request passed through without protection.
    fn passed(&self, _why: Passed) {}
}

/// Why a request passed through without protection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passed {
    /// No route covers it, or its route has no use for its key.
    NotCovered,
    /// It has no key, and its route lets that pass.
    WithoutKey,
}

/// One request that was answered. Never a key, a credential or content.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The route that covers it.
    pub route: &'a RoutePolicy,
    /// What it was told: `completed`, `replay`, the code of a problem, `lost`, or what became of its key.
    pub decision: &'static str,
    /// The status of the answer.
    pub status: u16,
    /// Who asked the store; `None` when it was refused before anything was asked.
    pub exchange: Option<Exchanged>,
}

/// The part of an [`Event`] about an exchange with the store.
#[derive(Clone, Copy, Debug)]
pub struct Exchanged {
    /// The exchange, as logs name it.
    pub id: ExchangeId,
    /// The record that it was about.
    pub record: RecordKey,
    /// The how-manieth execution it made; zero: none.
    pub attempt: u32,
    /// How long the claim took the store.
    pub claim: Duration,
    /// How long the execution took.
    pub execute: Duration,
    /// How long the settle took the store.
    pub settle: Duration,
}

impl Event<'_> {
    /// The one line of a request in the log.
    pub(crate) fn log(&self) {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let Event { route, decision, status, exchange } = self;
        match exchange {
            None => tracing::info!(target: "semel::exchange", route = route.name(), decision, status),
            Some(exchange) => tracing::info!(
                target: "semel::exchange",
                exchange = %exchange.id,
                route = route.name(),
                decision,
                attempt = exchange.attempt,
                status,
                claim_us = micros(exchange.claim),
                execute_us = micros(exchange.execute),
                settle_us = micros(exchange.settle),
            ),
        }
    }
}
