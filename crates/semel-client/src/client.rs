//! Sends intents until it is known how they ended, or until going on would be unsafe.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body::Body;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use semel_core::{
    retry::{Event, Judged, Judgement, Operation, Proof, Reply, Saw, Verdict, judge},
    wire::POLICY_PATH,
};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use tower::{Service, ServiceExt as _};

use crate::{
    Http, HttpError, Step, Surroundings, System,
    intent::{GivenKey, Intent},
    journal::{Act, Begin, Begun, Journal, JournalError, Known, State},
    log,
    outcome::{Outcome, Rejection, Resource, Unresolved},
    published,
};

/// Sends intents over any service of HTTP requests. Clones share everything.
pub struct Client<S = Http>(Arc<Inner<S>>);

struct Inner<S> {
    service: S,
    journal: Journal,
    surroundings: Arc<dyn Surroundings>,
    secrets: Vec<(HeaderName, HeaderValue)>,
    limits: Limits,
    /// What each API publishes, by its origin; `None` where it publishes nothing.
    published: Mutex<HashMap<String, Option<Bytes>>>,
    /// One at a time for each operation.
    turns: Mutex<HashMap<String, Arc<Turn<()>>>>,
}

#[derive(Clone, Copy, Default)]
struct Limits {
    attempts_max: Option<u32>,
    elapsed_max_ms: Option<u64>,
}

/// A reply's content is read to this many bytes (16 MiB); a longer one counts as one that broke off.
const REPLY_BYTES_MAX: usize = 16 << 20;
/// So many operations are resumed at a time.
const RESUMED_AT_ONCE_MAX: usize = 16;
/// So long the published policy may take.
const PUBLISHED_MAX: Duration = Duration::from_secs(2);
/// And so large it may be.
const PUBLISHED_BYTES_MAX: usize = 1 << 20;

/// Why an operation was not sent, or not sent on. None of these is an answer about its effect: if it was sent before, it
/// stays open in the journal.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The operation is known with another target or content, and it happened or may have happened (L13).
    #[error(
        "operation {0} was sent with another target, content or preset before, and that one happened or may have: a \
         changed one is a new operation"
    )]
    Edited(String),
    /// The operation is known with another key.
    #[error("operation {0} has another key: the key of an operation never changes")]
    AnotherKey(String),
    /// One key for two operations, such as one that was minted when the program was loaded (L14, E47).
    #[error("this key belongs to operation {0}: every operation needs a key of its own")]
    KeyTaken(String),
    /// An attempt with other credentials may have had its effect; to the API these are somebody else's keys.
    #[error(
        "operation {0} may have happened under other credentials: with these the API would not recognise it, and could \
         do it a second time. Resume it with the credentials it was sent with"
    )]
    OtherCredentials(String),
    /// There is nothing to resume.
    #[error("the journal has no operation {0}")]
    NoSuchOperation(String),
    /// A credential that cannot be sent.
    #[error("the header {0} has a name or value that cannot be sent")]
    Header(String),
}

/// What a failed service says of its request.
pub trait SendFailure {
    /// Whether not one byte of the request left. Unsure is `false`.
    fn is_not_sent(&self) -> bool;
}

impl SendFailure for HttpError {
    fn is_not_sent(&self) -> bool {
        HttpError::is_not_sent(self)
    }
}

impl SendFailure for std::convert::Infallible {
    fn is_not_sent(&self) -> bool {
        match *self {}
    }
}

/// What middleware of tower makes of errors: one of [`HttpError`] inside is asked, any other may have been sent.
impl SendFailure for Box<dyn std::error::Error + Send + Sync> {
    fn is_not_sent(&self) -> bool {
        self.downcast_ref::<HttpError>().is_some_and(HttpError::is_not_sent)
    }
}

impl<S> Clone for Client<S> {
    fn clone(&self) -> Client<S> {
        Client(Arc::clone(&self.0))
    }
}

impl<S> fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("journal", &self.0.journal).finish_non_exhaustive()
    }
}

impl<S: Clone> Client<S> {
    /// A client over a service and a journal.
    pub fn new(service: S, journal: Journal) -> Client<S> {
        Client(Arc::new(Inner {
            service,
            journal,
            surroundings: Arc::new(System),
            secrets: Vec::new(),
            limits: Limits::default(),
            published: Mutex::default(),
            turns: Mutex::default(),
        }))
    }

    /// With a credential on every request, such as `Authorization`. It is not written to the journal.
    pub fn secret_header(self, name: &str, value: &str) -> Result<Client<S>, SendError> {
        let wrong = || SendError::Header(name.to_owned());
        let parsed: HeaderName = name.parse().map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
        value.set_sensitive(true);
        Ok(self.with(|inner| inner.secrets.push((parsed, value))))
    }

    /// With at most so many attempts in one run, instead of the preset's number.
    #[must_use]
    pub fn attempts_max(self, attempts_max: u32) -> Client<S> {
        self.with(|inner| inner.limits.attempts_max = Some(attempts_max.max(1)))
    }

    /// With runs of at most this length, instead of the preset's.
    #[must_use]
    pub fn elapsed_max(self, elapsed_max: Duration) -> Client<S> {
        let millis = u64::try_from(elapsed_max.as_millis()).unwrap_or(u64::MAX);
        self.with(|inner| inner.limits.elapsed_max_ms = Some(millis))
    }

    /// With another clock and other dice.
    #[must_use]
    pub fn surroundings(self, surroundings: impl Surroundings) -> Client<S> {
        self.with(|inner| inner.surroundings = Arc::new(surroundings))
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    fn with(self, change: impl FnOnce(&mut Inner<S>)) -> Client<S> {
        let mut inner = Arc::try_unwrap(self.0).unwrap_or_else(|shared| Inner {
            service: shared.service.clone(),
            journal: shared.journal.clone(),
            surroundings: Arc::clone(&shared.surroundings),
            secrets: shared.secrets.clone(),
            limits: shared.limits,
            published: Mutex::default(),
            turns: Mutex::default(),
        });
        change(&mut inner);
        Client(Arc::new(inner))
    }
}

impl<S, B> Client<S>
where
    S: Service<Request<Bytes>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: SendFailure + fmt::Display + Send,
    S::Future: Send,
    B: Body + Send,
    B::Data: Send,
    B::Error: fmt::Display,
{
    /// Sends an operation, or goes on with it if the journal knows it, until there is an outcome. Sent twice under one
    /// id it is one operation (L12). Dropping the future leaves an operation that can be resumed.
    pub async fn send(&self, intent: &Intent) -> Result<Outcome, SendError> {
        let _turn = self.turn(&intent.operation).await;
        let Some(known) = self.0.journal.known(&intent.operation).await? else {
            return self.run(intent.clone(), Vec::new(), Stored::No).await;
        };
        let before = &known.listed.intent;
        let another_key = intent.given_key == GivenKey::Yes && before.key != intent.key;
        let edited = before.fingerprint != intent.fingerprint || before.preset != intent.preset;
        // It is known that nothing happened: a corrected one under the same name is a new one (E31).
        let happened_not = match known.listed.state {
            State::Rejected | State::Stopped => true,
            State::Open | State::Done | State::Unresolved => false,
        };
        if happened_not && (edited || another_key) {
            return self.run(intent.clone(), Vec::new(), Stored::No).await;
        }
        match (another_key, edited) {
            (true, _) => Err(SendError::AnotherKey(intent.operation.clone())),
            (false, true) => Err(SendError::Edited(intent.operation.clone())),
            (false, false) => self.go_on(known).await,
        }
    }

    /// Goes on with everything that was interrupted or is unresolved, with the same keys and the same bytes. What was
    /// stopped for a cause that somebody has to mend waits for [`Client::resume_operation`] (L4).
    pub async fn resume(&self) -> Result<Vec<(String, Result<Outcome, SendError>)>, SendError> {
        let listed = self.0.journal.list().await?;
        let open = listed.into_iter().filter(|listed| match listed.state {
            State::Open | State::Unresolved => true,
            State::Done | State::Rejected | State::Stopped => false,
        });
        let resumed = stream::iter(open).map(|listed| async move {
            let operation = listed.intent.operation;
            let outcome = self.resume_operation(&operation).await;
            (operation, outcome)
        });
        Ok(resumed.buffered(RESUMED_AT_ONCE_MAX).collect().await)
    }

    /// Goes on with one operation, with the same key and the same bytes. What is over is told again.
    pub async fn resume_operation(&self, operation: &str) -> Result<Outcome, SendError> {
        let _turn = self.turn(operation).await;
        let known = self.0.journal.known(operation).await?;
        self.go_on(known.ok_or_else(|| SendError::NoSuchOperation(operation.to_owned()))?).await
    }

    async fn turn(&self, operation: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.turns.lock();
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(operation.to_owned()).or_default())
        };
        turn.lock_owned().await
    }

    async fn go_on(&self, known: Known) -> Result<Outcome, SendError> {
        let Known { listed, scope } = known;
        let (intent, mut history) = (listed.intent, listed.history);
        let table = self.table(&intent, &history).await;
        let now_ms = self.0.surroundings.now_ms();
        let judged = judge(&table, operation(&intent), &history, now_ms);
        let over = match &judged.verdict {
            Verdict::Done(_) | Verdict::GiveUp { resumable: false } => outcome(&intent, &table, &judged, &history),
            Verdict::RetryAfter { .. } | Verdict::Read { .. } | Verdict::GiveUp { .. } | Verdict::Undecided => None,
        };
        if let Some(outcome) = over {
            // A crash can come between the last answer and this.
            self.conclude(&intent, &judged).await?;
            return Ok(outcome);
        }
        if judged.open && scope != self.scope(&intent) {
            return Err(SendError::OtherCredentials(intent.operation));
        }
        self.0.journal.resumed(&intent.operation, now_ms);
        history.push(Event::Resumed { at_ms: now_ms });
        self.run(intent, history, Stored::Yes).await
    }

    async fn run(&self, intent: Intent, mut history: Vec<Event>, mut stored: Stored) -> Result<Outcome, SendError> {
        let mut paused = false;
        loop {
            let table = self.table(&intent, &history).await;
            let now_ms = self.0.surroundings.now_ms();
            let judged = judge(&table, operation(&intent), &history, now_ms);
            let (act, at_least_ms, at_most_ms, path) = match &judged.verdict {
                Verdict::RetryAfter { at_least_ms, at_most_ms } => (Act::Attempt, *at_least_ms, *at_most_ms, None),
                Verdict::Read { path, at_least_ms, at_most_ms } => (Act::Read, *at_least_ms, *at_most_ms, Some(path)),
                Verdict::Done(_) | Verdict::GiveUp { .. } | Verdict::Undecided => {
                    self.conclude(&intent, &judged).await?;
                    return Ok(outcome(&intent, &table, &judged, &history).expect("a final verdict has an outcome"));
                }
            };
            // After a pause it is judged again: a machine that slept may wake up after the window.
            if at_least_ms > 0 || (at_most_ms > 0 && !paused) {
                let pause_ms = if paused { at_least_ms } else { self.0.surroundings.draw(at_least_ms, at_most_ms) };
                self.0.surroundings.sleep(Duration::from_millis(pause_ms)).await;
                paused = true;
                continue;
            }
            paused = false;

            let begin = Begin {
                operation: intent.operation.clone(),
                new: (stored == Stored::No).then(|| Box::new(intent.clone())),
                scope: self.scope(&intent),
                act,
                at_ms: now_ms,
            };
            self.0.surroundings.reached(Step::BeforeJournal);
            let event = match self.0.journal.begin(begin).await? {
                Begun::Yes(event) => event,
                Begun::KeyTaken(operation) => return Err(SendError::KeyTaken(operation)),
                Begun::Forgotten => return Err(SendError::NoSuchOperation(intent.operation)),
            };
            stored = Stored::Yes;
            self.0.surroundings.reached(Step::BeforeSend);
            let request = match path {
                None => intent.attempt(&table),
                Some(path) => get(&intent.target, path),
            };
            let limit = Duration::from_millis(table.budget.attempt_max_ms);
            let saw = self.exchange(self.with_secrets(request), limit, REPLY_BYTES_MAX).await;
            self.0.surroundings.reached(Step::AfterReply);
            let end_ms = self.0.surroundings.now_ms();
            self.0.journal.end(&intent.operation, event, end_ms, saw.clone());
            self.0.surroundings.reached(Step::AfterJournal);
            history.push(match act {
                Act::Attempt => Event::Attempt { at_ms: now_ms, end_ms, saw: saw.clone() },
                Act::Read => Event::Read { at_ms: now_ms, end_ms, saw: saw.clone() },
            });
            self.log(&intent, &table, act, &history, &saw, end_ms);
        }
    }

    fn log(&self, intent: &Intent, table: &Judgement, act: Act, history: &[Event], saw: &Saw, now_ms: u64) {
        let judged = judge(table, operation(intent), history, now_ms);
        let attempts = history.iter().filter(|event| matches!(event, Event::Attempt { .. })).count();
        let reads = history.iter().filter(|event| matches!(event, Event::Read { .. })).count();
        let (what, number) = match act {
            Act::Attempt => ("attempt", attempts),
            Act::Read => ("read", reads),
        };
        let secrets: Vec<HeaderValue> = self.0.secrets.iter().map(|(_, value)| value.clone()).collect();
        log::exchange(intent, table, what, number, saw, &judged, &secrets);
    }

    /// Writes down where it stands.
    async fn conclude(&self, intent: &Intent, judged: &Judged<'_>) -> Result<(), JournalError> {
        let state = match &judged.verdict {
            Verdict::Done(_) => State::Done,
            Verdict::GiveUp { resumable: false } => State::Rejected,
            Verdict::GiveUp { resumable: true } => State::Stopped,
            Verdict::Undecided => State::Unresolved,
            Verdict::RetryAfter { .. } | Verdict::Read { .. } => State::Open,
        };
        let at_ms = self.0.surroundings.now_ms();
        self.0.journal.stands(&intent.operation, state, judged.why, at_ms).await
    }

    /// Whose key space the keys of this client live in at this target (L1): the journal keeps a digest of it.
    fn scope(&self, intent: &Intent) -> [u8; 16] {
        let mut bytes = Vec::new();
        let mut secrets: Vec<(&str, &[u8])> =
            self.0.secrets.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        secrets.sort_unstable();
        let authority = intent.target.authority().map_or("", http::uri::Authority::as_str);
        for part in [authority.as_bytes()].into_iter().chain(secrets.iter().flat_map(|(n, v)| [n.as_bytes(), v])) {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        self.0.journal.digest(&bytes)
    }

    fn with_secrets(&self, mut request: Request<Bytes>) -> Request<Bytes> {
        for (name, value) in &self.0.secrets {
            request.headers_mut().insert(name, value.clone());
        }
        request
    }

    /// The table of this operation, with this client's limits and, once a retry is at stake, the API's own window.
    async fn table(&self, intent: &Intent, history: &[Event]) -> Judgement {
        let mut table = Judgement::preset(intent.preset);
        let Limits { attempts_max, elapsed_max_ms } = self.0.limits;
        table.budget.attempts_max = attempts_max.unwrap_or(table.budget.attempts_max);
        table.budget.elapsed_max_ms = elapsed_max_ms.unwrap_or(table.budget.elapsed_max_ms);
        let at_stake = match history.last() {
            None => false,
            Some(Event::Attempt { saw, .. }) => !is_success(saw),
            Some(Event::Read { .. } | Event::Resumed { .. }) => true,
        };
        if at_stake && let Some(document) = self.published(&intent.target).await {
            let published = published::window_ms(&document, &intent.method, intent.target.path());
            if let Some(window_ms) = published {
                table.budget.window_ms = Some(window_ms);
                // A short window would otherwise be all margin.
                table.budget.margin_ms = table.budget.margin_ms.min(window_ms / 2);
            }
        }
        table
    }

    async fn published(&self, target: &Uri) -> Option<Bytes> {
        let origin = format!("{}://{}", target.scheme_str()?, target.authority()?);
        if let Some(known) = self.0.published.lock().get(&origin) {
            return known.clone();
        }
        // No credentials: it is public.
        let document = match self.exchange(get(target, POLICY_PATH), PUBLISHED_MAX, PUBLISHED_BYTES_MAX).await {
            Saw::NotSent | Saw::NoResponse => return None,
            Saw::Reply(reply) => (reply.status == http::StatusCode::OK).then_some(reply.content),
        };
        self.0.published.lock().insert(origin, document.clone());
        document
    }

    /// One exchange, to its end.
    async fn exchange(&self, request: Request<Bytes>, limit: Duration, bytes_max: usize) -> Saw {
        let exchange = async {
            let mut service = self.0.service.clone();
            let Ok(service) = service.ready().await else { return Saw::NotSent };
            let response = match service.call(request).await {
                Ok(response) => response,
                Err(error) if error.is_not_sent() => return Saw::NotSent,
                Err(_) => return Saw::NoResponse,
            };
            let (parts, body) = response.into_parts();
            match whole(body, bytes_max).await {
                Some(content) => Saw::Reply(Reply { status: parts.status, headers: parts.headers, content }),
                None => Saw::NoResponse,
            }
        };
        tokio::select! {
            biased;
            saw = exchange => saw,
            () = self.0.surroundings.sleep(limit) => Saw::NoResponse,
        }
    }
}

/// Whether the journal has the intent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stored {
    No,
    Yes,
}

fn operation(intent: &Intent) -> Operation<'_> {
    Operation { path: intent.target.path(), key: intent.key.as_str() }
}

fn is_success(saw: &Saw) -> bool {
    matches!(saw, Saw::Reply(reply) if reply.status.is_success())
}

/// `None` where a verdict is not the last word.
fn outcome(intent: &Intent, table: &Judgement, judged: &Judged<'_>, history: &[Event]) -> Option<Outcome> {
    let reply = |saw: &Saw| match saw {
        Saw::Reply(reply) => Some(reply.clone()),
        Saw::NotSent | Saw::NoResponse => None,
    };
    let attempt = || {
        history.iter().rev().find_map(|event| match event {
            Event::Attempt { saw, .. } => Some(reply(saw)),
            Event::Read { .. } | Event::Resumed { .. } => None,
        })?
    };
    let read = || {
        history.iter().rev().find_map(|event| match event {
            Event::Read { saw, .. } => reply(saw),
            Event::Attempt { .. } | Event::Resumed { .. } => None,
        })
    };
    let (why, say) = (judged.why.to_owned(), judged.say.to_owned());
    match judged.verdict {
        Verdict::Done(Proof::Fresh) => attempt().map(Outcome::Fresh),
        Verdict::Done(Proof::Replayed) => attempt().map(Outcome::Replayed),
        Verdict::Done(Proof::AlreadyExists) => {
            let path = table.route(intent.target.path()).resource(intent.key.as_str())?;
            read().map(|reply| Outcome::AlreadyExists(Resource { path, reply }))
        }
        Verdict::GiveUp { resumable } => Some(Outcome::Rejected(Rejection { why, say, resumable, reply: attempt() })),
        Verdict::Undecided => Some(Outcome::Unresolved(Unresolved { why, say, reply: attempt() })),
        Verdict::RetryAfter { .. } | Verdict::Read { .. } => None,
    }
}

/// A GET at the same origin.
fn get(target: &Uri, path: &str) -> Request<Bytes> {
    let mut parts = target.clone().into_parts();
    parts.path_and_query = Some(path.parse().expect("tables and escaped keys make paths"));
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = Uri::from_parts(parts).expect("an address with another path is one");
    request
}

/// All of a content, or `None` if it broke off or is too long.
async fn whole<B: Body<Error: fmt::Display>>(body: B, bytes_max: usize) -> Option<Bytes> {
    let mut body = std::pin::pin!(body);
    let mut content = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            use bytes::Buf as _;
            if content.len() + data.remaining() > bytes_max {
                return None;
            }
            bytes::BufMut::put(&mut content, data);
        }
    }
    Some(content.freeze())
}
