//! What this gateway has seen since it started, for the timeline of a record and for finding one by an exchange.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;
use semel::{Event, Observer};
use semel_core::{record::ExchangeId, scope::RecordKey};
use serde::{Serialize, Serializer};

use super::row::{RecordName, Seconds};

/// How many events are remembered; about 16 MB.
const EVENTS_MAX: usize = 100_000;
/// How many names of routes are remembered: an operator may exchange the policy any number of times.
const ROUTES_MAX: usize = 10_000;

/// The last events of this gateway, and how often each decision was told.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    events: VecDeque<Seen>,
    decisions: BTreeMap<&'static str, u64>,
    routes: BTreeMap<String, Arc<str>>,
}

/// One request that was answered.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Seen {
    /// When, by this machine's clock (RFC 3339).
    #[serde(serialize_with = "as_time")]
    pub at: SystemTime,
    /// The exchange.
    #[serde(serialize_with = "as_text")]
    pub exchange: ExchangeId,
    /// Its record.
    pub record: RecordName,
    /// The name of its route.
    #[serde(serialize_with = "as_route")]
    pub route: Arc<str>,
    /// What it was told; see [`Event::decision`].
    pub decision: &'static str,
    /// The status of the answer.
    pub status: u16,
    /// The how-manieth execution it made; zero: none.
    pub attempt: u32,
    /// How long the claim took the store.
    #[serde(rename = "claim_seconds")]
    pub claim: Seconds,
    /// How long the execution took.
    #[serde(rename = "execute_seconds")]
    pub execute: Seconds,
    /// How long the settle took the store.
    #[serde(rename = "settle_seconds")]
    pub settle: Seconds,
}

fn as_time<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*at))
}

fn as_text<S: Serializer>(exchange: &ExchangeId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(exchange)
}

fn as_route<S: Serializer>(route: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(route)
}

impl Recent {
    /// The newest events first, at most `limit`.
    pub(crate) fn newest(&self, limit: usize) -> Vec<Seen> {
        self.0.lock().events.iter().rev().take(limit).cloned().collect()
    }

    /// What was seen of a record, the newest last; at most the `limit` newest.
    pub(crate) fn of_record(&self, record: RecordKey, limit: usize) -> Vec<Seen> {
        let memory = self.0.lock();
        let mut seen: Vec<Seen> =
            memory.events.iter().rev().filter(|seen| seen.record.0 == record).take(limit).cloned().collect();
        seen.reverse();
        seen
    }

    /// The record that an exchange was about.
    pub(crate) fn record_of(&self, exchange: ExchangeId) -> Option<RecordKey> {
        let memory = self.0.lock();
        memory.events.iter().rev().find(|seen| seen.exchange == exchange).map(|seen| seen.record.0)
    }

    /// How often each decision was told since this gateway started.
    pub(crate) fn decisions(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().decisions.clone()
    }

    fn push(&self, event: &Event<'_>, at: SystemTime) {
        let mut memory = self.0.lock();
        *memory.decisions.entry(event.decision).or_default() += 1;
        let Some(exchange) = event.exchange else { return };
        let name = event.route.name();
        let route = match memory.routes.get(name) {
            Some(route) => Arc::clone(route),
            None => {
                if memory.routes.len() == ROUTES_MAX {
                    memory.routes.clear();
                }
                let route: Arc<str> = Arc::from(name);
                memory.routes.insert(name.to_owned(), Arc::clone(&route));
                route
            }
        };
        if memory.events.len() == EVENTS_MAX {
            memory.events.pop_front();
        }
        memory.events.push_back(Seen {
            at,
            exchange: exchange.id,
            record: RecordName(exchange.record),
            route,
            decision: event.decision,
            status: event.status,
            attempt: exchange.attempt,
            claim: Seconds(exchange.claim),
            execute: Seconds(exchange.execute),
            settle: Seconds(exchange.settle),
        });
    }
}

impl Observer for Recent {
    fn answered(&self, event: &Event<'_>) {
        self.push(event, SystemTime::now());
    }
}
