//! The storm: customers who each want one thing bought once, behind clients that retry as good clients do, with the
//! same idempotency key on every attempt.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use semel_core::wire::{IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED, ProblemType, write_sf_string};
use serde::Deserialize;
use tokio::{task::JoinSet, time::Instant};

use super::{
    client::{self, NoAnswer},
    dice::Dice,
    origin::Charge,
    progress::Progress,
};

/// Whom the clients of a storm send to: each to one of them, and its retries to the next.
#[derive(Debug)]
pub(crate) struct Doors {
    addresses: Vec<SocketAddr>,
    caller: String,
    is_first_dead: AtomicBool,
    answered_meanwhile: AtomicU32,
}

/// One user action: this card pays this amount for this order, once.
#[derive(Clone, Debug)]
pub(crate) struct Intent {
    /// What it is for.
    pub(crate) order: String,
    number: u32,
    key: String,
    content: Bytes,
    clicks: Vec<Click>,
}

/// What became of an intent, as its client sees it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// What it was for.
    pub(crate) order: String,
    /// What the customer is told in the end.
    pub(crate) verdict: Verdict,
    /// Every charge that an answer named: the same one each time, if all is well.
    pub(crate) charges_told: Vec<String>,
    /// What became of its attempts.
    pub(crate) attempts: Attempts,
}

/// What the customer is told in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It was charged.
    Charged,
    /// It may have been charged, and will not be charged again.
    Unknown,
    /// Nothing: the client used up its attempts.
    GaveUp,
    /// An answer that no retry can mend.
    Refused(StatusCode),
}

/// Attempts by what they came back with.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Attempts {
    /// The charge that this attempt made.
    pub(crate) charged: u32,
    /// The kept reply to an earlier attempt.
    pub(crate) replayed: u32,
    /// Refused: the first attempt is still in flight.
    pub(crate) in_flight: u32,
    /// Refused: nobody knows whether an earlier attempt charged.
    pub(crate) unknown: u32,
    /// Any other answer.
    pub(crate) other: u32,
    /// No answer in time.
    pub(crate) timed_out: u32,
    /// No answer: the connection broke.
    pub(crate) broke: u32,
    /// No connection.
    pub(crate) unreachable: u32,
}

/// The intents of a storm, and when they start.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// One for each customer.
    pub(crate) intents: Vec<Intent>,
    /// The last intent starts before this.
    pub(crate) spread: Duration,
}

impl Plan {
    /// The storm of that many intents; the same seed makes the same storm.
    pub(crate) fn new(seed: u64, intents: u32) -> Plan {
        let spread = (INTENT_EVERY * intents).max(SPREAD_MIN);
        let intents = (1..=intents).map(|number| Intent::new(seed, number, spread)).collect();
        Plan { intents, spread }
    }

    /// Lets it loose, and waits until every client has its answer or gave up.
    pub(crate) async fn run(&self, doors: &Arc<Doors>, progress: &Arc<Progress>) -> anyhow::Result<Vec<Outcome>> {
        let start = Instant::now();
        let mut running = JoinSet::new();
        for intent in &self.intents {
            let (intent, doors, progress) = (intent.clone(), Arc::clone(doors), Arc::clone(progress));
            running.spawn(async move {
                let outcome = intent.pursue(&doors, start, &progress).await;
                progress.finished();
                outcome
            });
        }
        let mut outcomes = Vec::with_capacity(self.intents.len());
        while let Some(outcome) = running.join_next().await {
            outcomes.push(outcome.context("a client of the storm failed")?);
        }
        Ok(outcomes)
    }
}

impl Doors {
    /// The caller is who the clients say they are: each has a key space of its own.
    pub(crate) fn new(addresses: Vec<SocketAddr>, caller: &str) -> Arc<Doors> {
        let caller = caller.to_owned();
        Arc::new(Doors {
            addresses,
            caller,
            is_first_dead: AtomicBool::new(false),
            answered_meanwhile: AtomicU32::new(0),
        })
    }

    /// Somebody has killed the first, or started it again.
    pub(crate) fn first_is_dead(&self, is_dead: bool) {
        self.is_first_dead.store(is_dead, Relaxed);
    }

    /// How many requests the others have answered while the first was dead.
    pub(crate) fn answered_meanwhile(&self) -> u32 {
        self.answered_meanwhile.load(Relaxed)
    }

    fn address(&self, nth: usize) -> SocketAddr {
        self.addresses[nth % self.addresses.len()]
    }

    fn answered(&self, nth: usize) {
        if !nth.is_multiple_of(self.addresses.len()) && self.is_first_dead.load(Relaxed) {
            self.answered_meanwhile.fetch_add(1, Relaxed);
        }
    }
}

impl Attempts {
    /// All of them.
    pub(crate) fn sent(&self) -> u32 {
        self.each().into_iter().sum()
    }

    /// Adds what others came back with.
    #[must_use]
    pub(crate) fn plus(self, other: Attempts) -> Attempts {
        Attempts {
            charged: self.charged + other.charged,
            replayed: self.replayed + other.replayed,
            in_flight: self.in_flight + other.in_flight,
            unknown: self.unknown + other.unknown,
            other: self.other + other.other,
            timed_out: self.timed_out + other.timed_out,
            broke: self.broke + other.broke,
            unreachable: self.unreachable + other.unreachable,
        }
    }

    fn each(&self) -> [u32; 8] {
        let Attempts { charged, replayed, in_flight, unknown, other, timed_out, broke, unreachable } = *self;
        [charged, replayed, in_flight, unknown, other, timed_out, broke, unreachable]
    }
}

/// How long a client waits for an answer. The origin's slow answers take longer.
pub(crate) const CLIENT_TIME_OUT: Duration = Duration::from_millis(350);
/// How often a client tries before it gives up.
const ATTEMPTS_MAX: u32 = 10;
const INTENT_EVERY: Duration = Duration::from_millis(18);
const SPREAD_MIN: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(60);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How many customers in a hundred click twice.
const DOUBLE_CLICKS_PERCENT: u32 = 10;
const DOUBLE_CLICK_GAP: std::ops::Range<Duration> = Duration::from_millis(2)..Duration::from_millis(25);

/// A press of the button, each behind a client of its own.
#[derive(Clone, Debug)]
struct Click {
    after: Duration,
    dice: Dice,
}

/// What an attempt came back with.
#[derive(Debug)]
enum Answer {
    Charged { charge: String },
    Replayed { charge: String },
    InFlight { retry_after: Duration },
    Unknown,
    Later { retry_after: Duration },
    Refused(StatusCode),
    None(NoAnswer),
}

impl Intent {
    fn new(seed: u64, number: u32, spread: Duration) -> Intent {
        let order = format!("order-{number:04}");
        let mut dice = Dice::new(seed, "intent", number.into());
        let amount = 100 + dice.below(20_000);
        let content = format!(r#"{{"card":"4242424242424242","order":"{order}","amount":{amount}}}"#);
        let bits = (u128::from(dice.next()) << 64) | u128::from(dice.next());
        let key = uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().to_string();
        let after = dice.between(&(Duration::ZERO..spread));
        let mut clicks = vec![Click { after, dice: Dice::new(seed, &order, 1) }];
        if dice.below(100) < DOUBLE_CLICKS_PERCENT {
            let after = after + dice.between(&DOUBLE_CLICK_GAP);
            clicks.push(Click { after, dice: Dice::new(seed, &order, 2) });
        }
        Intent { order, number, key, content: content.into(), clicks }
    }

    async fn pursue(&self, doors: &Doors, start: Instant, progress: &Progress) -> Outcome {
        let (first, second) = tokio::join!(self.click(0, doors, start, progress), async {
            if self.clicks.len() > 1 { Some(self.click(1, doors, start, progress).await) } else { None }
        });
        match second {
            Some(second) => first.joined(second),
            None => first,
        }
    }

    /// Sends, and retries with the same key and the same content until there is something to tell the customer.
    async fn click(&self, nth: usize, doors: &Doors, start: Instant, progress: &Progress) -> Outcome {
        let Click { after, mut dice } = self.clicks[nth].clone();
        let mut outcome = Outcome {
            order: self.order.clone(),
            verdict: Verdict::GaveUp,
            charges_told: Vec::new(),
            attempts: Attempts::default(),
        };
        tokio::time::sleep_until(start + after).await;
        // Two clicks come to two doors.
        let doors_before = self.number as usize + nth;
        for attempt in 0..ATTEMPTS_MAX {
            progress.attempt();
            let attempts = &mut outcome.attempts;
            let retry_after = match self.attempt(doors, doors_before + attempt as usize).await {
                Answer::Charged { charge } => {
                    attempts.charged += 1;
                    outcome.charges_told.push(charge);
                    outcome.verdict = Verdict::Charged;
                    return outcome;
                }
                Answer::Replayed { charge } => {
                    attempts.replayed += 1;
                    outcome.charges_told.push(charge);
                    outcome.verdict = Verdict::Charged;
                    return outcome;
                }
                Answer::Unknown => {
                    attempts.unknown += 1;
                    outcome.verdict = Verdict::Unknown;
                    return outcome;
                }
                Answer::Refused(status) => {
                    attempts.other += 1;
                    outcome.verdict = Verdict::Refused(status);
                    return outcome;
                }
                Answer::InFlight { retry_after } => {
                    attempts.in_flight += 1;
                    retry_after
                }
                Answer::Later { retry_after } => {
                    attempts.other += 1;
                    retry_after
                }
                Answer::None(NoAnswer::TimedOut) => {
                    attempts.timed_out += 1;
                    Duration::ZERO
                }
                Answer::None(NoAnswer::Broke(_)) => {
                    attempts.broke += 1;
                    Duration::ZERO
                }
                Answer::None(NoAnswer::Unreachable(_)) => {
                    attempts.unreachable += 1;
                    Duration::ZERO
                }
            };
            let backoff = (BACKOFF_MIN * 2_u32.saturating_pow(attempt)).min(BACKOFF_MAX);
            // Clients that were cut off together must not come back together.
            let jitter = dice.between(&(Duration::ZERO..backoff));
            tokio::time::sleep(retry_after.max(backoff) + jitter).await;
        }
        outcome
    }

    async fn attempt(&self, doors: &Doors, door: usize) -> Answer {
        let key = write_sf_string(&self.key).expect("a UUID is printable ASCII");
        let request = Request::post("/charges")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", doors.caller))
            .header(IDEMPOTENCY_KEY, key)
            .body(Full::new(self.content.clone()))
            .expect("the parts are valid");
        match client::send(doors.address(door), request, CLIENT_TIME_OUT).await {
            Ok(response) => {
                doors.answered(door);
                read(&response)
            }
            Err(error) => Answer::None(error),
        }
    }
}

impl Outcome {
    /// What the customer knows who clicked twice: the better of the two answers.
    fn joined(mut self, other: Outcome) -> Outcome {
        if other.verdict.informs() > self.verdict.informs() {
            self.verdict = other.verdict;
        }
        self.charges_told.extend(other.charges_told);
        self.attempts = self.attempts.plus(other.attempts);
        self
    }
}

impl Verdict {
    fn informs(self) -> u8 {
        match self {
            Verdict::GaveUp => 0,
            Verdict::Unknown => 1,
            Verdict::Refused(_) => 2,
            Verdict::Charged => 3,
        }
    }
}

fn read(response: &Response<Bytes>) -> Answer {
    #[derive(Deserialize)]
    struct Problem {
        code: String,
    }
    let status = response.status();
    if status.is_success() {
        let Ok(Charge { id: charge, .. }) = serde_json::from_slice(response.body()) else {
            return Answer::Refused(status);
        };
        let is_replay = response.headers().contains_key(IDEMPOTENT_REPLAYED);
        return if is_replay { Answer::Replayed { charge } } else { Answer::Charged { charge } };
    }
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let retry_after =
        retry_after.and_then(|value| value.to_str().ok()?.parse().ok()).map_or(Duration::ZERO, Duration::from_secs);
    let code = serde_json::from_slice(response.body()).map_or(String::new(), |problem: Problem| problem.code);
    if code == ProblemType::OutcomeUnknown.code() {
        Answer::Unknown
    } else if code == ProblemType::InFlight.code() {
        Answer::InFlight { retry_after }
    } else if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        Answer::Later { retry_after }
    } else {
        Answer::Refused(status)
    }
}

#[cfg(test)]
mod tests {
    use semel_core::wire::Problem;

    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_storm() {
        let storm = |seed| format!("{:?}", Plan::new(seed, 40));
        assert_eq!(storm(7), storm(7));
        assert_ne!(storm(7), storm(8));
    }

    #[test]
    fn every_intent_has_a_key_of_its_own_and_one_for_all_its_clicks() {
        let plan = Plan::new(7, 200);
        let keys: std::collections::BTreeSet<&str> = plan.intents.iter().map(|intent| intent.key.as_str()).collect();
        assert_eq!(keys.len(), 200);
        assert!(plan.intents.iter().any(|intent| intent.clicks.len() == 2), "nobody clicks twice");
    }

    #[test]
    fn reads_what_an_answer_means() {
        let check = |status: StatusCode, headers: &[(&str, &str)], content: &str, expected: &str| {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            let response = response.body(Bytes::copy_from_slice(content.as_bytes())).unwrap();
            assert_eq!(format!("{:?}", read(&response)), expected);
        };
        let problem = |kind: ProblemType| Problem::new(kind).to_json(kind.default_status());
        let charge = r#"{"charge":"ch_1","order":"o","amount":1}"#;
        let created = StatusCode::CREATED;
        let wait = ("Retry-After", "1");
        check(created, &[], charge, r#"Charged { charge: "ch_1" }"#);
        check(created, &[("Idempotent-Replayed", "true")], charge, r#"Replayed { charge: "ch_1" }"#);
        // A success that names no charge proves none.
        check(created, &[], "{}", "Refused(201)");
        let conflict = StatusCode::CONFLICT;
        check(conflict, &[wait], &problem(ProblemType::InFlight), "InFlight { retry_after: 1s }");
        check(conflict, &[], &problem(ProblemType::OutcomeUnknown), "Unknown");
        check(StatusCode::BAD_GATEWAY, &[], &problem(ProblemType::OutcomeUnknown), "Unknown");
        check(StatusCode::BAD_GATEWAY, &[wait], &problem(ProblemType::OriginUnavailable), "Later { retry_after: 1s }");
        check(StatusCode::SERVICE_UNAVAILABLE, &[], "busy", "Later { retry_after: 0ns }");
        check(StatusCode::UNPROCESSABLE_ENTITY, &[], &problem(ProblemType::KeyReused), "Refused(422)");
    }
}
