//! What this gateway has seen since it started, for the timeline of a record and for finding one by an exchange.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use semel::{Event, Observer};
use semel_core::{record::ExchangeId, scope::RecordKey};
use serde::{Serialize, Serializer};

use super::row::{RecordName, Seconds, as_text};

/// How many events are remembered; about 16 MB.
const EVENTS_MAX: usize = 100_000;
/// How many acts of operators are remembered.
const ACTS_MAX: usize = 1_000;
/// How many names of routes are remembered: an operator may exchange the policy any number of times.
const ROUTES_MAX: usize = 10_000;

/// How far back [`Recent::decisions_lately`] looks.
pub(crate) const LATELY: Duration = Duration::from_mins(1);

/// The last events of this gateway, and how often each decision was told.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    events: VecDeque<Seen>,
    acts: VecDeque<Acted>,
    decisions: BTreeMap<&'static str, u64>,
    /// The same by second of the clock, for as long as that is lately.
    lately: VecDeque<(u64, BTreeMap<&'static str, u64>)>,
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

/// What an operator did to a record.
#[derive(Clone, Debug)]
pub(crate) struct Acted {
    /// When, by this machine's clock.
    pub at: SystemTime,
    /// The record.
    pub record: RecordName,
    /// What it was made: `completed`, or `gone`.
    pub after: &'static str,
    /// Who did it.
    pub who: String,
}

fn as_time<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*at))
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

    /// What operators did to a record by way of this gateway, the newest last.
    pub(crate) fn acts_on(&self, record: RecordKey) -> Vec<Acted> {
        self.0.lock().acts.iter().filter(|acted| acted.record.0 == record).cloned().collect()
    }

    /// Remembers that an operator did something to a record.
    pub(crate) fn acted(&self, record: RecordName, after: &'static str, who: &str) {
        let mut memory = self.0.lock();
        if memory.acts.len() == ACTS_MAX {
            memory.acts.pop_front();
        }
        memory.acts.push_back(Acted { at: SystemTime::now(), record, after, who: who.to_owned() });
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

    /// How often each decision was told within [`LATELY`].
    pub(crate) fn decisions_lately(&self, now: SystemTime) -> BTreeMap<&'static str, u64> {
        let (now, mut sums) = (second(now), BTreeMap::new());
        for (_, decisions) in self.0.lock().lately.iter().filter(|(at, _)| is_lately(*at, now)) {
            for (decision, count) in decisions {
                *sums.entry(*decision).or_default() += count;
            }
        }
        sums
    }

    fn push(&self, event: &Event<'_>, at: SystemTime) {
        let mut memory = self.0.lock();
        *memory.decisions.entry(event.decision).or_default() += 1;
        memory.count_lately(event.decision, second(at));
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

impl Memory {
    fn count_lately(&mut self, decision: &'static str, second: u64) {
        while self.lately.front().is_some_and(|(at, _)| !is_lately(*at, second)) {
            self.lately.pop_front();
        }
        match self.lately.back_mut() {
            // Threads overtake each other, and clocks are set: a second that is over counts as this one.
            Some((at, decisions)) if *at >= second => *decisions.entry(decision).or_default() += 1,
            Some(_) | None => self.lately.push_back((second, BTreeMap::from([(decision, 1)]))),
        }
    }
}

fn second(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whether a second counts; none does whose clock was set back since by more than that.
fn is_lately(at: u64, now: u64) -> bool {
    at.abs_diff(now) < LATELY.as_secs()
}

impl Observer for Recent {
    fn answered(&self, event: &Event<'_>) {
        self.push(event, SystemTime::now());
    }
}

#[cfg(test)]
mod tests {
    use semel::Exchanged;
    use semel_core::policy::{Policy, Preset};

    use super::*;

    #[test]
    fn what_was_decided_lately_is_a_minute_and_no_more() {
        let policy = Policy::preset(Preset::Ietf);
        let recent = Recent::default();
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + seconds);
        let tell = |decision, seconds: u64| {
            let event = Event { route: &policy.routes()[0], decision, status: 200, exchange: None };
            recent.push(&event, at(seconds));
        };
        tell("replay", 0);
        tell("completed", 1);
        tell("replay", 30);
        tell("replay", 29);
        let lately = |seconds: u64| recent.decisions_lately(at(seconds)).into_iter().collect::<Vec<_>>();
        assert_eq!(lately(59), [("completed", 1), ("replay", 3)]);
        assert_eq!(lately(60), [("completed", 1), ("replay", 2)]);
        assert_eq!(lately(61), [("replay", 2)]);
        assert_eq!(lately(90), []);
        tell("lost", 200);
        assert_eq!(recent.0.lock().lately.len(), 1, "what is over is forgotten");
        assert_eq!(recent.decisions(), BTreeMap::from([("completed", 1), ("lost", 1), ("replay", 3)]));
    }

    #[test]
    fn e11_what_is_remembered_is_bounded_and_found_by_record_and_exchange() {
        let (recent, policy) = (Recent::default(), Policy::preset(Preset::Ietf));
        let record = |n: usize| RecordKey::from_bytes([u8::try_from(n % 200).expect("small"); RecordKey::LEN]);
        let exchanged = |n: usize| Exchanged {
            id: ExchangeId(n as u128),
            record: record(n),
            attempt: 1,
            claim: Duration::ZERO,
            execute: Duration::from_millis(7),
            settle: Duration::ZERO,
            trace: None,
            met: None,
        };
        let answer = |decision, exchange| {
            recent.answered(&Event { route: &policy.routes()[0], decision, status: 201, exchange });
        };
        answer("key-missing", None);
        assert!(recent.newest(9).is_empty());
        for n in 0..EVENTS_MAX + 3 {
            answer("completed", Some(exchanged(n)));
        }
        assert_eq!(recent.decisions(), BTreeMap::from([("completed", EVENTS_MAX as u64 + 3), ("key-missing", 1)]));
        // The first three are forgotten.
        assert_eq!((recent.record_of(ExchangeId(2)), recent.record_of(ExchangeId(3))), (None, Some(record(3))));
        let of_record = recent.of_record(record(7), 2);
        let exchanges: Vec<u128> = of_record.iter().map(|seen| seen.exchange.0).collect();
        let newest = (0..EVENTS_MAX + 3).rev().filter(|n| n % 200 == 7).map(|n| n as u128).take(2);
        assert!(newest.eq(exchanges.into_iter().rev()), "the newest last");
        assert_eq!((recent.newest(5).len(), &*of_record[0].route, of_record[0].execute.0.as_millis()), (5, "/*", 7));
    }
}
