//! What happened to requests on covered routes, for whoever counts, remembers or shows it.

use std::{fmt, sync::Arc, time::Duration};

use semel_core::{
    policy::RoutePolicy,
    record::{ExchangeId, TraceContext},
    register::Found,
    scope::RecordKey,
};

/// Hears of every request on a covered route when its answer is known, whether or not somebody still waits for it.
///
/// It is called on the request's way: it must neither wait nor take long.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// A request was answered.
    fn answered(&self, event: &Event<'_>);

    /// A request passed through without protection.
    fn passed(&self, _why: Passed) {}
}

/// Two who hear of everything.
#[derive(Debug)]
pub(crate) struct Both(pub Arc<dyn Observer>, pub Arc<dyn Observer>);

impl Observer for Both {
    fn answered(&self, event: &Event<'_>) {
        self.0.answered(event);
        self.1.answered(event);
    }

    fn passed(&self, why: Passed) {
        self.0.passed(why);
        self.1.passed(why);
    }
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
    /// Where its request stands in a trace.
    pub trace: Option<TraceContext>,
    /// Another exchange whose record it found under its key: of a replay, the one that is replayed.
    pub met: Option<Met>,
}

/// An exchange that was met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Met {
    /// As logs name it.
    pub exchange: ExchangeId,
    /// Where its request stood in a trace.
    pub trace: Option<TraceContext>,
}

impl Met {
    /// Whose record that is.
    pub(crate) fn of(found: &Found) -> Met {
        Met { exchange: found.stamp.exchange, trace: found.record.about.as_ref().and_then(|about| about.trace) }
    }
}

/// What became of a request on a covered route: an extension of its response, where the request is part of a trace
/// (it has a `traceparent`), or was refused before the store was asked.
#[derive(Clone, Debug)]
pub struct Answered {
    /// See [`Event::route`].
    pub route: Arc<RoutePolicy>,
    /// See [`Event::decision`].
    pub decision: &'static str,
    /// See [`Event::exchange`].
    pub exchange: Option<Exchanged>,
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
                met = exchange.met.map(|met| display(met.exchange)),
                trace = exchange.trace.map(|trace| display(format!("{:032x}", trace.trace_id))),
            ),
        }
    }
}
