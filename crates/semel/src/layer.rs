//! The tower layer: admits a request, lets `drive.rs` carry it out, and tells the answer.
//!
//! ```text
//! request -> admit -> read the content -> cover -> [ claim -> execute -> settle ] -> answer
//!            pass: streamed through              on a task that no client can cut
//! ```

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use semel_core::{
    admit::{self, Admission, Admitted, Covered, Head},
    exchange::{Answer, Executed, Guard},
    guard::GuardQuestion,
    policy::{Effect, Policy, ReplyRule, RoutePolicy},
    record::{ExchangeId, Kept},
    scope::{Caller, Secret},
    wire::{self, KeyStatus, Problem, ProblemType, Warning},
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};
use tokio_util::task::TaskTracker;
use tower::{Layer, Service};

use crate::{
    body::{Body, BoxError},
    drive::{CLAIM_PATIENCE, Claiming, Execution, GIVING_BACK_MAX, Handling, LostCause, Told, drive, look, report},
    effect::{Lost, NotSent},
    event::{Answered, Both, Event, Observer, Passed},
    observe::{Released, Watched, release_by_operator},
    probe::probing,
    quota::{Quota, Reserved},
    reply::{self, Content},
    seal,
    store::{Store, StoreError},
    waiters::Waiters,
};

/// How often [`Semel::housekeeping`] sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How many records one sweep deletes at most.
const SWEEP_RECORDS_MAX: u32 = 10_000;

/// A policy, the secret, a store, and the executions that run. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Semel(Arc<Shared>);

// Cloned only to change one of its parts before it serves.
#[derive(Clone, Debug)]
struct Shared {
    policy: Arc<Policy>,
    secret: Secret,
    store: Arc<dyn Store>,
    state: Arc<State>,
    identify: Option<Arc<dyn Identify>>,
    quota: Option<Arc<Quota>>,
    authorize: Option<Arc<dyn Authorize>>,
    observer: Option<Arc<dyn Observer>>,
}

/// What runs now.
#[derive(Debug)]
pub(crate) struct State {
    pub waiters: Waiters,
    /// See [`GIVING_BACK_MAX`].
    pub giving_back: Semaphore,
    running: TaskTracker,
}

/// Finds out who asks, where that is not simply what the policy's headers say: by a token, a certificate, or a table.
///
/// It is asked for every request that a route covers, before its content is read and before anything is looked up (SC8),
/// and for every one whose response may release something. It must not wait: what it needs from elsewhere it fetches
/// beforehand.
pub trait Identify: fmt::Debug + Send + Sync + 'static {
    /// Who asks; `Ok(None)`: whom the policy's headers name.
    fn identify(&self, head: &Parts) -> Result<Option<Caller>, Unidentified>;
}

/// Why nobody knows who asks. The caller is told, and nothing is looked up or executed.
#[derive(Clone, Debug)]
pub struct Unidentified {
    /// What the caller is told.
    pub problem: Problem,
    /// What would be accepted, for `WWW-Authenticate` (RFC 9110 section 11.6.1).
    pub challenge: Option<HeaderValue>,
}

/// Asks, before a kept reply is told, whether these credentials are still good (`peers.md` #47): a replay never reaches
/// the origin, which would have refused them.
#[async_trait]
pub trait Authorize: fmt::Debug + Send + Sync + 'static {
    /// `Err` is told instead of the kept reply.
    async fn authorize(&self, head: &Parts) -> Result<(), Response<Body>>;
}

/// What a handler learns of the execution it is part of: a request extension.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExecutionInfo {
    /// The exchange, as logs name it.
    pub exchange: ExchangeId,
    /// The how-manieth execution of the operation this is, from 1. More than 1 only where the route re-executes.
    pub attempt: u32,
}

impl Semel {
    /// Brings the three together.
    pub fn new(policy: Policy, secret: Secret, store: Arc<dyn Store>) -> Semel {
        let state = State {
            waiters: Waiters::default(),
            giving_back: Semaphore::new(GIVING_BACK_MAX),
            running: TaskTracker::new(),
        };
        let (policy, state) = (Arc::new(policy), Arc::new(state));
        let (identify, quota, authorize, observer) = (None, None, None, None);
        Semel(Arc::new(Shared { policy, secret, store, state, identify, quota, authorize, observer }))
    }

    /// The same, asking `identify` who sends a request.
    #[must_use]
    pub fn identified_by(self, identify: Arc<dyn Identify>) -> Semel {
        self.with(|shared| shared.identify = Some(identify))
    }

    /// The same, with at most so many fresh keys of one principal as `quota` allows.
    #[must_use]
    pub fn limited_by(self, quota: Arc<Quota>) -> Semel {
        self.with(|shared| shared.quota = Some(quota))
    }

    /// The same, asking `authorize` before every replay.
    #[must_use]
    pub fn authorize_replays(self, authorize: Arc<dyn Authorize>) -> Semel {
        self.with(|shared| shared.authorize = Some(authorize))
    }

    /// The same, telling `observer` of every request, as well as those that hear of them already.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Semel {
        self.with(|shared| {
            shared.observer = Some(match shared.observer.take() {
                None => observer,
                Some(first) => Arc::new(Both(first, observer)),
            });
        })
    }

    /// The same with another policy: what was claimed under the old one is settled under it, and counts on both sides.
    #[must_use]
    pub fn with_policy(&self, policy: Policy) -> Semel {
        self.clone().with(|shared| shared.policy = Arc::new(policy))
    }

    fn with(self, change: impl FnOnce(&mut Shared)) -> Semel {
        let mut shared = Shared::clone(&self.0);
        change(&mut shared);
        Semel(Arc::new(shared))
    }

    /// The layer to put around the service that executes.
    pub fn layer(&self) -> IdempotencyLayer {
        IdempotencyLayer { semel: self.clone() }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.0.secret
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// Releases a guard, or a dead slot, on the word of an operator (E11).
    ///
    /// `head` is a request whose response would show that release, with its caller or the headers that make it. What the policy
    /// asks of such a response, and how old it asks the record to be, does not count; but a record that may still execute
    /// keeps what it has. After an `Err` it may have been released: asking again is safe.
    pub async fn release(&self, head: &Head<'_>) -> Result<Released, StoreError> {
        release_by_operator(&self.0.store, &self.0.policy.watches(&self.0.secret, head)).await
    }

    /// How many executions run now.
    pub fn running(&self) -> usize {
        self.0.state.running.len()
    }

    /// Waits at most `at_most` for the running executions to settle, and for claims that the store did not confirm to be
    /// given back; says how many still ran then. Stop admitting requests before.
    pub async fn drain(&self, at_most: Duration) -> usize {
        self.0.state.running.close();
        let _ = tokio::time::timeout(at_most, self.0.state.running.wait()).await;
        self.running()
    }

    /// Deletes what is past its retention, for ever. To be spawned once per store.
    pub async fn housekeeping(&self) -> Infallible {
        loop {
            match self.0.store.sweep(SWEEP_RECORDS_MAX).await {
                Ok(swept) if swept == SWEEP_RECORDS_MAX => tokio::task::yield_now().await,
                Ok(_) => tokio::time::sleep(SWEEP_EVERY).await,
                Err(error) => {
                    tracing::warn!(target: "semel::store", %error, "a sweep failed");
                    tokio::time::sleep(SWEEP_EVERY * 10).await;
                }
            }
        }
    }
}

/// Makes [`Idempotency`] services; see [`Semel::layer`].
#[derive(Clone, Debug)]
pub struct IdempotencyLayer {
    semel: Semel,
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency { semel: self.semel.clone(), inner }
    }
}

/// A service whose covered requests have at most one effect per key.
#[derive(Clone, Debug)]
pub struct Idempotency<S> {
    semel: Semel,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Idempotency<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that was made ready is the one to call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let shared = Arc::clone(&self.semel.0);
        let (mut parts, body) = request.into_parts();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match admit::admit(&shared.policy, &head(&parts, None), now) {
            Admission::Pass(status) => {
                report_passed(shared.observer.as_deref(), status);
                let watched = shared.watched(&mut parts);
                let call = inner.call(Request::from_parts(parts, Body::streaming(body)));
                Box::pin(async move {
                    let response = call.await?.map(Body::streaming);
                    let mut response = pass_on(&shared, watched, response).await;
                    say_status(&mut response, status);
                    Ok(response)
                })
            }
            Admission::Refuse(refused) => {
                let response = refuse(&shared.policy, shared.observer.as_deref(), refused.route, &refused.problem);
                Box::pin(async move { Ok(response) })
            }
            Admission::Read(admitted) => Box::pin(async move {
                let observer = shared.observer.as_deref();
                let caller = match shared.identify(&parts) {
                    Ok(caller) => caller,
                    Err(unidentified) => return Ok(shared.refuse(admitted.route(), unidentified)),
                };
                let caller = caller.as_ref();
                let watched = Watched::of(&shared.policy, &shared.secret, &mut parts, caller);
                match complete(&shared.policy, &shared.secret, observer, &mut parts, caller, body, admitted).await {
                    Complete::Covered(covered, content) => {
                        Ok(exchange(shared, inner, parts, content, covered, watched).await)
                    }
                    Complete::Unprotected(content) => {
                        report_passed(observer, Some(KeyStatus::Absent));
                        let response = inner.call(Request::from_parts(parts, content)).await?.map(Body::streaming);
                        let mut response = pass_on(&shared, watched, response).await;
                        say_status(&mut response, Some(KeyStatus::Absent));
                        Ok(response)
                    }
                    Complete::Refused(response) => Ok(response),
                }
            }),
        }
    }
}

impl Shared {
    fn identify(&self, parts: &Parts) -> Result<Option<Caller>, Unidentified> {
        self.identify.as_ref().map_or(Ok(None), |identify| identify.identify(parts))
    }

    /// What the response to a request that passes is watched for; of somebody unknown, for nothing.
    fn watched(&self, parts: &mut Parts) -> Option<Watched> {
        if !self.policy.is_watched(&head(parts, None)) {
            return None;
        }
        let caller = self.identify(parts).ok()?;
        Watched::of(&self.policy, &self.secret, parts, caller.as_ref())
    }

    /// Tells somebody that they are not known.
    fn refuse(&self, route: &RoutePolicy, unidentified: Unidentified) -> Response<Body> {
        let Unidentified { problem, challenge } = unidentified;
        report_refused(self.observer.as_deref(), route, &problem);
        let mut response = reply::problem(&self.policy, Some(route), &problem);
        if let Some(challenge) = challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

pub(crate) fn head<'a>(parts: &'a Parts, caller: Option<&'a Caller>) -> Head<'a> {
    Head { method: &parts.method, path: parts.uri.path(), query: parts.uri.query(), headers: &parts.headers, caller }
}

/// Passes a response of the handler on, after releasing what it shows.
async fn pass_on(shared: &Shared, watched: Option<Watched>, response: Response<Body>) -> Response<Body> {
    match watched {
        // In a box, since most requests are not watched.
        Some(watched) => Box::pin(watched.pass_on(&shared.store, response)).await,
        None => response,
    }
}

pub(crate) fn say_status(response: &mut Response<Body>, status: Option<KeyStatus>) {
    if let Some(status) = status {
        response.headers_mut().insert(wire::IDEMPOTENCY_STATUS, HeaderValue::from_static(status.as_str()));
    }
}

/// A request whose content has been read.
#[allow(clippy::large_enum_variant, reason = "answered and matched at once, and never kept")]
pub(crate) enum Complete {
    Covered(Covered, Body),
    /// The content has no key, and the route lets that pass.
    Unprotected(Body),
    Refused(Response<Body>),
}

/// Reads the content within the route's limits. Nothing is claimed yet, so a slow upload holds nothing but itself
/// (`peers.md` #29), and a client that vanishes here was never covered.
pub(crate) async fn complete<B>(
    policy: &Policy,
    secret: &Secret,
    observer: Option<&dyn Observer>,
    parts: &mut Parts,
    caller: Option<&Caller>,
    mut body: B,
    admitted: Admitted,
) -> Complete
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let route = Arc::clone(admitted.route());
    let refuse = |problem: &Problem| Complete::Refused(refuse(policy, observer, Arc::clone(&route), problem));
    let reading = reply::read(&mut body, route.request_body_bytes_max);
    let (content, trailers) = match tokio::time::timeout(route.request_read_max, reading).await {
        Ok(Ok(Content::Whole { content, trailers })) => (content, trailers),
        Ok(Ok(Content::Larger { .. })) => return refuse(&admit::too_large(&route)),
        Ok(Err(_broken)) => return refuse(&Problem::new(ProblemType::RequestIncomplete)),
        Err(_elapsed) => return refuse(&Problem::new(ProblemType::RequestTimeout)),
    };
    let mut covered = match admitted.cover(policy, secret, &head(parts, caller), &content) {
        Ok(Some(covered)) => covered,
        Ok(None) => return Complete::Unprotected(Body::with_trailers(content, trailers)),
        Err(refused) => return refuse(&refused.problem),
    };
    // What only Semel and origins say must not be taken from a client (conformance SC14).
    for name in [&route.marker, &wire::IDEMPOTENCY_STATUS, &wire::IDEMPOTENCY_EFFECT, &wire::IDEMPOTENCY_WARNING] {
        parts.headers.remove(name);
    }
    // A kept reply is told to clients that accept other codings than the first (conformance H31).
    parts.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some((name, value)) = covered.sent.take() {
        parts.headers.insert(name, value);
    }
    Complete::Covered(covered, Body::with_trailers(content, trailers))
}

/// Runs the exchange on a task of its own and tells its answer.
async fn exchange<S, R>(
    shared: Arc<Shared>,
    inner: S,
    parts: Parts,
    content: Body,
    mut covered: Covered,
    watched: Option<Watched>,
) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    R::Error: Into<BoxError>,
{
    // Nothing is claimed yet, so a client that vanishes while this is looked up leaves nothing.
    let Some(guard) = resolve(&*shared.store, &shared.secret, covered.guard.take()).await else {
        let problem = Problem::new(ProblemType::StoreUnavailable);
        return refuse(&shared.policy, shared.observer.as_deref(), covered.route, &problem);
    };
    let (fresh, reserved) = Reserved::of(shared.quota.as_ref(), &covered.principal);
    // Only where replays are authorised is the request needed once it is on its way.
    let asked = Asked::of(&mut covered, shared.authorize.as_ref().map(|_| parts.clone()));
    let (tell, told) = oneshot::channel();
    let driving = Arc::clone(&shared);
    // In a box from the start: it is some kilobytes, and spawning would move them about.
    let exchange: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        let probe = probing(&covered, &parts, &inner);
        let request = Request::from_parts(parts, content);
        let route = Arc::clone(&covered.route);
        let reason = covered.guard_override.take();
        let execute = move |attempt, exchange| {
            log_override(&route, exchange, reason.as_deref());
            execute(inner, request, route, ExecutionInfo { exchange, attempt })
        };
        let Shared { store, state, observer, .. } = &*driving;
        let claiming = Claiming { guard, fresh, reserved };
        let handling = Handling { execute, probe };
        drive(store, state, observer.as_deref(), &covered, claiming, tell, handling).await;
    });
    shared.state.running.spawn(exchange);
    let Ok((told, exchanged)) = told.await else {
        // Only a bug or a runtime that shuts down ends the task unheard; whether it executed is not known here.
        let problem = Problem::new(ProblemType::OutcomeUnknown);
        return reply::problem_with_status(&shared.policy, StatusCode::INTERNAL_SERVER_ERROR, &problem);
    };
    let is_own = matches!(told.answer, Answer::Own { .. });
    let decision = told.event(&asked.route, exchanged).decision;
    let mut response = tell_answer(&shared.policy, shared.authorize.as_deref(), &asked, told).await;
    if exchanged.trace.is_some() {
        let route = Arc::clone(&asked.route);
        response.extensions_mut().insert(Answered { route, decision, exchange: Some(exchanged) });
    }
    // A kept reply shows how things stood when it was kept.
    pass_on(&shared, watched.filter(|_| is_own), response).await
}

/// Finds out which guard a request is to hold; `None` when the store does not answer.
async fn resolve(store: &dyn Store, secret: &Secret, question: Option<GuardQuestion>) -> Option<Guard> {
    let Some(question) = question else { return Some(Guard::Unguarded) };
    let mut found = Vec::new();
    let patient_until = Instant::now() + CLAIM_PATIENCE;
    for (record, seal) in question.references() {
        let reply = look(store, &record, patient_until).await?;
        found.push((record, reply.map(|reply| seal::open(&seal, reply)).transpose().ok()?));
    }
    Some(question.answer(secret, &found))
}

/// The line of a request that passes a guard and executes (Q14).
pub(crate) fn log_override(route: &RoutePolicy, exchange: ExchangeId, reason: Option<&str>) {
    if let (Some(reason), Some(guard)) = (reason, &route.guard) {
        tracing::warn!(
            target: "semel::guard",
            exchange = %exchange,
            route = route.name(),
            guard = guard.name,
            reason,
            "a caller passed a guard"
        );
    }
}

/// Calls the handler, and reads as much of its response as is kept.
async fn execute<S, R>(
    mut inner: S,
    mut request: Request<Body>,
    route: Arc<RoutePolicy>,
    info: ExecutionInfo,
) -> Execution
where
    S: Service<Request<Body>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    R::Error: Into<BoxError>,
{
    request.extensions_mut().insert(info);
    let without = |executed| Execution { executed, response: None, lost: LostCause::Failed };
    let response = match inner.call(request).await {
        Ok(response) => response,
        Err(error) => {
            let error: BoxError = error.into();
            tracing::warn!(target: "semel::exchange", exchange = %info.exchange, %error, "the handler failed");
            return without(Executed::Unknown);
        }
    };
    let (mut parts, mut body) = response.into_parts();
    if parts.extensions.get::<NotSent>().is_some() {
        return without(Executed::NotSent);
    }
    if parts.extensions.get::<Lost>().is_some() {
        return without(Executed::Unknown);
    }
    let effect = declared_effect(&mut parts, &route.marker).unwrap_or_else(|| route.effect_of(parts.status.as_u16()));
    let omitted = Kept::Omitted { status: parts.status.as_u16() };
    let replied = |kept, parts, body| Execution {
        executed: Executed::Replied { kept, effect },
        response: Some(Response::from_parts(parts, body)),
        lost: LostCause::Failed,
    };
    if effect != Effect::Happened || route.reply == ReplyRule::Omitted || is_endless(&parts, &body, &route) {
        return replied(omitted, parts, Body::streaming(body));
    }
    match reply::read(&mut body, route.reply_body_bytes_max).await {
        Ok(Content::Whole { content, trailers }) => {
            let kept = reply::keep(&route, parts.status, &parts.headers, content.clone());
            replied(Kept::Reply(Arc::new(kept)), parts, Body::with_trailers(content, trailers))
        }
        Ok(Content::Larger { prefix }) => replied(omitted, parts, Body::prefixed(prefix, body)),
        // A reply that broke off is no reply (peers.md #37).
        Err(error) => {
            tracing::warn!(target: "semel::exchange", exchange = %info.exchange, %error, "the response broke off");
            without(Executed::Unknown)
        }
    }
}

/// What a response says of its effect beyond its status. What only Semel and its handler say to each other is taken out.
pub(crate) fn declared_effect(parts: &mut http::response::Parts, marker: &HeaderName) -> Option<Effect> {
    // Whether this is a replay, and what became of the key, is Semel's to say.
    parts.headers.remove(marker);
    parts.headers.remove(wire::IDEMPOTENCY_STATUS);
    let declared = parts.headers.remove(wire::IDEMPOTENCY_EFFECT);
    let effect = parts.extensions.get::<Effect>().copied();
    effect.or_else(|| declared?.to_str().ok()?.parse().ok())
}

/// Whether a response is known to be over the limit before it is read: by its length, or as a stream of events, which
/// would be read until it times out (conformance H33).
fn is_endless<R: http_body::Body>(parts: &http::response::Parts, body: &R, route: &RoutePolicy) -> bool {
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
        || body.size_hint().lower() > route.reply_body_bytes_max as u64
}

/// What of the request matters for telling its answer.
pub(crate) struct Asked {
    route: Arc<RoutePolicy>,
    resource: Option<String>,
    warning: Option<Warning>,
    head: Option<Parts>,
}

impl Asked {
    pub(crate) fn of(covered: &mut Covered, head: Option<Parts>) -> Asked {
        Asked { route: Arc::clone(&covered.route), resource: covered.resource.take(), warning: covered.warning, head }
    }
}

/// The response that tells the answer of an exchange.
pub(crate) async fn tell_answer(
    policy: &Policy,
    authorize: Option<&dyn Authorize>,
    asked: &Asked,
    told: Told,
) -> Response<Body> {
    let mut response = tell_own(policy, authorize, asked, told).await;
    if let Some(warning) = asked.warning {
        response.headers_mut().append(wire::IDEMPOTENCY_WARNING, HeaderValue::from_static(warning.as_str()));
    }
    response
}

async fn tell_own(policy: &Policy, authorize: Option<&dyn Authorize>, asked: &Asked, told: Told) -> Response<Body> {
    let route = &*asked.route;
    match told.answer {
        Answer::Own { status, warning } => {
            let mut response = told.response.expect("an execution with an own answer has a response");
            say_status(&mut response, status);
            if let Some(warning) = warning {
                response.headers_mut().insert(wire::IDEMPOTENCY_WARNING, HeaderValue::from_static(warning.as_str()));
            }
            response
        }
        Answer::Replay(kept) => match (authorize, &asked.head) {
            (Some(authorize), Some(head)) => match authorize.authorize(head).await {
                Ok(()) => reply::replay(route, &kept),
                Err(response) => response,
            },
            (_, _) => reply::replay(route, &kept),
        },
        Answer::Refuse(mut problem) => {
            if matches!(problem.kind, ProblemType::ResourceExists | ProblemType::ResourceIdReused) {
                problem.resource.clone_from(&asked.resource);
            }
            reply::problem(policy, Some(route), &problem)
        }
        Answer::Lost(problem) => {
            // The caller's own request went unanswered, which is what 502 and 504 say (RFC 9110 section 15.6); a retry
            // is told the route's status for an unknown outcome.
            reply::problem_with_status(policy, told.lost.status(), &problem)
        }
    }
}

/// Answers a request that is refused before there is an exchange.
fn refuse(
    policy: &Policy,
    observer: Option<&dyn Observer>,
    route: Arc<RoutePolicy>,
    problem: &Problem,
) -> Response<Body> {
    report_refused(observer, &route, problem);
    let mut response = reply::problem(policy, Some(&route), problem);
    response.extensions_mut().insert(Answered { route, decision: problem.kind.code(), exchange: None });
    response
}

/// Reports a request that was refused before there was an exchange.
pub(crate) fn report_refused(observer: Option<&dyn Observer>, route: &RoutePolicy, problem: &Problem) {
    let (decision, status) = (problem.kind.code(), route.status_of(problem.kind).as_u16());
    report(observer, &Event { route, decision, status, exchange: None });
}

/// Reports a request that passes through, by what is told of its key.
fn report_passed(observer: Option<&dyn Observer>, status: Option<KeyStatus>) {
    if let Some(observer) = observer {
        observer.passed(if status == Some(KeyStatus::Absent) { Passed::WithoutKey } else { Passed::NotCovered });
    }
}
