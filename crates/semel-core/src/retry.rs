//! What a client may conclude from what it saw: the pure half of every client library.
//!
//! [`judge`] reads the whole history of one operation and a table of what an API's answers mean, and says what to do
//! next. It has no clock and no dice: the time comes in, and a pause comes out as a range to draw from (full jitter).
//! `judgement/README.md` states the semantics for other languages; `judgement/vectors` are cases that all of them share.
//!
//! Two rules hold whatever a table says. Success needs proof: a successful response, or the own resource, seen. And as
//! long as an attempt may have had its effect, no later answer that is about itself only makes the operation a failure.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::RETRY_AFTER};

mod table;
#[cfg(test)]
mod tests;

pub use table::{Budget, Judgement, KeyPlace, LogFields, Route, TableError};
use table::{Conclusion, Proves, To};

/// What the client knows about the operation before any answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation<'a> {
    /// The path of its address, without query: it chooses the route.
    pub path: &'a str,
    /// Its key, the same on every attempt.
    pub key: &'a str,
}

/// One thing that happened to an operation. Times are milliseconds since the Unix epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// It was sent.
    Attempt {
        /// When it began.
        at_ms: u64,
        /// When what it saw was there.
        end_ms: u64,
        /// What came of it; nothing at all, as after a crash, is [`Saw::NoResponse`].
        saw: Saw,
    },
    /// Its own resource was asked for, as [`Verdict::Read`] demands.
    Read {
        /// When it began.
        at_ms: u64,
        /// When what it saw was there.
        end_ms: u64,
        /// What came of it.
        saw: Saw,
    },
    /// Somebody asked to go on with it: a new run with a new budget.
    Resumed {
        /// When.
        at_ms: u64,
    },
}

/// What came of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Saw {
    /// Not one byte left: only who holds the connection can say so.
    NotSent,
    /// It may have arrived, and no whole response came back.
    NoResponse,
    /// A whole response.
    Reply(Reply),
}

/// A response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// All of its content.
    pub content: Bytes,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It happened, and this is how that is known.
    Done(Proof),
    /// Send it again, unchanged, after a pause drawn from this range (milliseconds from now).
    RetryAfter {
        /// Not earlier.
        at_least_ms: u64,
        /// Not later.
        at_most_ms: u64,
    },
    /// GET this path of the same API after such a pause, and judge again.
    Read {
        /// The own resource.
        path: String,
        /// Not earlier.
        at_least_ms: u64,
        /// Not later.
        at_most_ms: u64,
    },
    /// It did not happen, and going on would not help.
    GiveUp {
        /// Whether the same key and content may be sent again once the cause is mended.
        resumable: bool,
    },
    /// Nobody knows whether it happened; the operation stays open.
    Undecided,
}

/// How it is known that an operation happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Proof {
    /// A successful response.
    Fresh,
    /// A successful response that says that it is a replay.
    Replayed,
    /// The own resource was seen.
    AlreadyExists,
}

/// A verdict with its reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged<'t> {
    /// What to do next.
    pub verdict: Verdict,
    /// The reason, as a stable word.
    pub why: &'t str,
    /// The reason, for people.
    pub say: &'t str,
    /// Whether an attempt may have had its effect, and nobody knows.
    pub open: bool,
}

/// What to do next with an operation that this happened to.
pub fn judge<'t>(table: &'t Judgement, operation: Operation<'_>, history: &[Event], now_ms: u64) -> Judged<'t> {
    let mut walk = Walk::new(table, operation);
    for event in history {
        walk.step(event);
    }
    walk.verdict(now_ms)
}

/// What a history amounts to.
struct Walk<'t, 'a> {
    table: &'t Judgement,
    route: &'t Route,
    operation: Operation<'a>,
    /// When the first of the attempts began that may have had the effect.
    open_since_ms: Option<u64>,
    /// When the present run began, and what it has had so far.
    run_from_ms: u64,
    attempts: u32,
    /// Reads since the last attempt.
    reads: u32,
    next: Next<'t>,
    /// What follows where the resource that is asked for is not there.
    otherwise: Option<&'t Conclusion>,
    /// Pauses count from here: the end of the last exchange, and what its `Retry-After` asked for.
    pause_from_ms: u64,
}

/// Where a history stands.
#[derive(Clone, Copy)]
enum Next<'t> {
    First,
    Done(Proof, Why<'t>),
    /// By a rule, or by its `otherwise`.
    Follow(&'t Conclusion),
    ReadAgain,
    ReadFailed,
    Resumed,
    /// Resumed, though it is over.
    Over(&'t Conclusion),
}

/// The stable word, and the sentence for people.
type Why<'t> = (&'t str, &'t str);

const FIRST: Why<'static> = ("first", "It was not sent yet.");
const RESUMED: Why<'static> = ("resumed", "It is sent again, unchanged.");
const SEEN: Why<'static> = ("seen", "The own resource was looked up, and is there.");
const READ_AGAIN: Why<'static> = ("read-again", "The resource could not be looked up yet.");
const READ_FAILED: Why<'static> = ("read-failed", "The resource could not be looked up.");
const ATTEMPTS_OVER: Why<'static> = ("attempts-over", "It was tried as often as it may be in one run. Resume later.");
const ELAPSED_OVER: Why<'static> = ("elapsed-over", "The next try would be later than one run may last. Resume later.");
const WINDOW_OVER: Why<'static> = (
    "window-over",
    "By the next try the API might have forgotten the key, and do it a second time. Look the resource up.",
);

impl<'t, 'a> Walk<'t, 'a> {
    fn new(table: &'t Judgement, operation: Operation<'a>) -> Walk<'t, 'a> {
        Walk {
            table,
            route: table.route(operation.path),
            operation,
            open_since_ms: None,
            run_from_ms: 0,
            attempts: 0,
            reads: 0,
            next: Next::First,
            otherwise: None,
            pause_from_ms: 0,
        }
    }

    fn step(&mut self, event: &Event) {
        // What is proven stays proven, whatever came later.
        if matches!(self.next, Next::Done(..)) {
            return;
        }
        match event {
            Event::Attempt { at_ms, end_ms, saw } => {
                if matches!(self.next, Next::First) {
                    self.run_from_ms = *at_ms;
                }
                self.attempts += 1;
                self.reads = 0;
                self.pause_from_ms = end_ms.saturating_add(asked_pause_ms(saw, *end_ms));
                self.attempt(*at_ms, saw);
            }
            Event::Read { end_ms, saw, .. } => {
                self.reads += 1;
                self.pause_from_ms = end_ms.saturating_add(asked_pause_ms(saw, *end_ms));
                self.read(saw);
            }
            Event::Resumed { at_ms } => {
                self.run_from_ms = *at_ms;
                self.attempts = 0;
                self.reads = 0;
                self.otherwise = None;
                self.next = match self.next {
                    Next::Over(conclusion) => Next::Over(conclusion),
                    Next::Follow(conclusion)
                        if conclusion.to == (To::Rejected { resumable: false }) && self.open_since_ms.is_none() =>
                    {
                        Next::Over(conclusion)
                    }
                    Next::First
                    | Next::Done(..)
                    | Next::Follow(_)
                    | Next::ReadAgain
                    | Next::ReadFailed
                    | Next::Resumed => Next::Resumed,
                };
            }
        }
    }

    fn attempt(&mut self, at_ms: u64, saw: &Saw) {
        let open = self.open_since_ms.is_some();
        let rule = self.table.rules().iter().find(|rule| rule.when.holds(saw, open));
        let conclusion = &rule.expect("the last rule matches everything").then;
        self.otherwise = None;
        match conclusion.proves {
            Proves::Nothing => {
                self.open_since_ms.get_or_insert(at_ms);
            }
            Proves::Attempt => {}
            Proves::Key => self.open_since_ms = None,
        }
        self.next = match &conclusion.to {
            To::Done => {
                let proof = if self.table.is_replay(saw) { Proof::Replayed } else { Proof::Fresh };
                Next::Done(proof, conclusion.why())
            }
            To::Read(otherwise) => {
                if self.route.resource(self.operation.key).is_some() {
                    self.otherwise = Some(otherwise);
                    Next::Follow(conclusion)
                } else {
                    Next::Follow(otherwise)
                }
            }
            To::Retry | To::Rejected { .. } | To::Undecided => Next::Follow(conclusion),
        };
    }

    /// A resource that shows the own id is a proof even if nobody asked for it; that it is not there says something only
    /// after the answer that made one ask.
    fn read(&mut self, saw: &Saw) {
        let reply = match saw {
            Saw::Reply(reply) => Some(reply),
            Saw::NotSent | Saw::NoResponse => None,
        };
        if reply.is_some_and(|r| r.status.is_success() && self.route.shows(&r.content, self.operation.key)) {
            self.next = Next::Done(Proof::AlreadyExists, SEEN);
            return;
        }
        let Some(otherwise) = self.otherwise else { return };
        self.next = match reply.map(|reply| reply.status.as_u16()) {
            Some(404) => {
                self.otherwise = None;
                if otherwise.proves == Proves::Key {
                    self.open_since_ms = None;
                }
                Next::Follow(otherwise)
            }
            None | Some(408 | 425 | 429 | 500..=599) => Next::ReadAgain,
            Some(_) => Next::ReadFailed,
        };
    }

    fn verdict(&self, now_ms: u64) -> Judged<'t> {
        let open = self.open_since_ms.is_some() && !matches!(self.next, Next::Done(..));
        let judged = |verdict, (why, say): Why<'t>| Judged { verdict, why, say, open };
        // Stopping is a failure only where nothing can have happened.
        let stop = |resumable, why| judged(if open { Verdict::Undecided } else { Verdict::GiveUp { resumable } }, why);
        let read = |(at_least_ms, at_most_ms), why| {
            let path = self.route.resource(self.operation.key).expect("reads follow only where there is a resource");
            judged(Verdict::Read { path, at_least_ms, at_most_ms }, why)
        };
        match self.next {
            Next::First => judged(Verdict::RetryAfter { at_least_ms: 0, at_most_ms: 0 }, FIRST),
            Next::Done(proof, why) => judged(Verdict::Done(proof), why),
            Next::Follow(conclusion) => match &conclusion.to {
                To::Retry => match self.pause(self.attempts, self.window_end_ms(), now_ms) {
                    Ok((at_least_ms, at_most_ms)) => {
                        judged(Verdict::RetryAfter { at_least_ms, at_most_ms }, conclusion.why())
                    }
                    Err(why) => stop(true, why),
                },
                To::Read(_) => read((0, 0), conclusion.why()),
                To::Rejected { resumable } => stop(*resumable, conclusion.why()),
                // A success is Next::Done, never followed.
                To::Undecided | To::Done => judged(Verdict::Undecided, conclusion.why()),
            },
            Next::ReadAgain => match self.pause(self.reads, u64::MAX, now_ms) {
                Ok(range) => read(range, READ_AGAIN),
                Err(why) => stop(true, why),
            },
            Next::ReadFailed => judged(Verdict::Undecided, READ_FAILED),
            Next::Resumed if now_ms > self.window_end_ms() => judged(Verdict::Undecided, WINDOW_OVER),
            Next::Resumed => judged(Verdict::RetryAfter { at_least_ms: 0, at_most_ms: 0 }, RESUMED),
            Next::Over(conclusion) => judged(Verdict::GiveUp { resumable: false }, conclusion.why()),
        }
    }

    /// The last moment at which the API is sure to remember the attempts that may have had their effect.
    fn window_end_ms(&self) -> u64 {
        match (self.open_since_ms, self.table.budget.window_ms) {
            (Some(since), Some(window)) => since.saturating_add(window.saturating_sub(self.table.budget.margin_ms)),
            (None, _) | (_, None) => u64::MAX,
        }
    }

    /// How long to wait after so many tries of a kind, or what is over.
    fn pause(&self, tries: u32, window_end_ms: u64, now_ms: u64) -> Result<(u64, u64), Why<'static>> {
        let budget = &self.table.budget;
        if tries >= budget.attempts_max {
            return Err(ATTEMPTS_OVER);
        }
        let doubled = budget.pause_base_ms.saturating_mul(1 << tries.saturating_sub(1).min(32));
        let earliest_ms = self.pause_from_ms.max(now_ms);
        let latest_ms = self.pause_from_ms.saturating_add(doubled.min(budget.pause_max_ms)).max(now_ms);
        let run_end_ms = self.run_from_ms.saturating_add(budget.elapsed_max_ms);
        if earliest_ms > run_end_ms {
            return Err(ELAPSED_OVER);
        }
        if earliest_ms > window_end_ms {
            return Err(WINDOW_OVER);
        }
        Ok((earliest_ms - now_ms, latest_ms.min(run_end_ms).min(window_end_ms) - now_ms))
    }
}

impl Conclusion {
    fn why(&self) -> Why<'_> {
        (&self.why, &self.say)
    }
}

/// `Retry-After` (RFC 9110 section 10.2.3) in milliseconds from the end of the exchange; 0 where there is none to read.
fn asked_pause_ms(saw: &Saw, end_ms: u64) -> u64 {
    let Saw::Reply(reply) = saw else { return 0 };
    let Some(text) = reply.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) else { return 0 };
    let text = text.trim();
    if !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse::<u64>().expect("at most nine digits") * 1000;
    }
    let Ok(date) = httpdate::parse_http_date(text) else { return 0 };
    let since_epoch = date.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX).saturating_sub(end_ms)
}
