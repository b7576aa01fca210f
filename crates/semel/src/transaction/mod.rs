//! Transactional mode: claim, the caller's own writes and completion commit together, on a transaction of the caller's
//! own SQLite or PostgreSQL database.
//!
//! A crash at any moment leaves either everything or nothing, so there is no *unknown* outcome to live with
//! (`design.md` section 2). The protocol is the same [`Exchange`](semel_core::exchange::Exchange) as everywhere, and the
//! rows hold the same record bytes; problems, markers and statuses are those of the [layer](crate::layer).
//!
//! ```text
//! request -> admit -> read the content -> cover -> BEGIN, claim -> work -> settle, COMMIT -> answer
//!                                                        `-- 4xx, 5xx, error, panic: ROLLBACK, and the key is free
//! ```
//!
//! # What belongs in it
//!
//! **Effects in the database of the transaction, and nothing else.** A call to another system does not belong in the
//! work: when the transaction is rolled back (a crash, a lost connection, a serialization failure, which even runs the
//! work again) the claim is gone and the charge stands, and the next retry charges again (`peers.md` #48). There are two
//! ways to do such a call:
//!
//! - **through a durable claim**: the [layer](crate::layer) or the gateway, where the claim outlives whatever happens
//!   after it, and a retry meets `outcome-unknown`;
//! - **as work to be done**: write a row that says what to do (an outbox) in the transaction, with a key from
//!   [`derived_key`], and let a worker do it under that key after the commit. The row is there if and only if the order
//!   is, and a worker that does it twice is a retry of one operation.
//!
//! ```
//! # use semel::transaction::{Work, derived_key};
//! # use sqlx::{Sqlite, Transaction};
//! # use http::{Request, Response};
//! # use bytes::Bytes;
//! fn order<'t>(tx: &'t mut Transaction<'static, Sqlite>, request: &'t Request<Bytes>) -> Work<'t> {
//!     Box::pin(async move {
//!         sqlx::query("INSERT INTO orders (amount) VALUES (100)").execute(&mut **tx).await?;
//!         // Not here: payments.charge(100).await. A worker reads this row once it is committed, and sends the charge with
//!         // `Idempotency-Key: <key>`, as often as it takes.
//!         sqlx::query("INSERT INTO charges_to_make (key, amount) VALUES (?1, 100)")
//!             .bind(derived_key(request, "charge"))
//!             .execute(&mut **tx)
//!             .await?;
//!         Ok(Response::builder().status(201).body(Bytes::from_static(b"{}"))?)
//!     })
//! }
//! ```
//!
//! The work is given the transaction and the request, and nothing else of Semel's: no store, no client. If a response
//! nevertheless says that an effect *elsewhere* may have happened ([`Lost`](crate::effect::Lost), or
//! [`Effect::Unknown`](crate::effect::Effect) said by the work itself), then the work is undone, the key is kept as
//! *unknown*, and a retry is refused `outcome-unknown`: freeing the key would invite a second effect. That is a net, not a
//! permission: a crash between the call and the response still erases the claim.
//!
//! # What the work's response means
//!
//! | the work | its writes | the key | a retry |
//! | --- | --- | --- | --- |
//! | a status that the route calls *happened* (2xx, 3xx) | committed | completed | the kept reply |
//! | any other status, 500 too | rolled back | free (`Idempotency-Status: released`) | a first execution |
//! | `Err`, a panic, longer than `execution_max` | rolled back | free | a first execution |
//!
//! The work is called again after a serialization failure or a deadlock, so it must hand database errors on with `?`: one
//! that it turns into a response cannot be told from a decision. To keep a reply and yet undo writes, use a savepoint
//! (`tx.begin()`). Never end the transaction in SQL.
//!
//! # Concurrent requests
//!
//! One with the same key waits for the first, at most the route's `wait_max` (and no less than a few milliseconds),
//! then replays its reply or is refused `in-flight`. On PostgreSQL it waits on the row, from any process. On SQLite a
//! request in the same process waits for the key; whoever waits for another process waits for the database's only
//! writer, as long as the connection's `busy_timeout`, and is told `store-unavailable` after that, because nobody can say
//! whether it is this key that the writer writes.

use std::{
    collections::hash_map::RandomState,
    convert::Infallible,
    fmt,
    future::Future,
    hash::BuildHasher,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use semel_core::{
    admit::{self, Admission, Head},
    exchange::Answer,
    policy::Policy,
    scope::{RecordKey, Secret},
    wire::{KeyStatus, Problem, ProblemType},
};
use sqlx::{Pool, Transaction};
use tokio::sync::oneshot;

use crate::{
    body::{Body, BoxError},
    layer::{Asked, Complete, complete, head, report_refused, say_status, tell_answer},
    observe::{Released, Releasing, Watched, release_by_operator},
    reply::{self, Content},
    store::{Clock, Found, StoreError, Swap, Swapped, SystemClock},
    waiters::Here,
};

mod drive;
#[cfg(feature = "postgres")]
mod postgres;
#[allow(unreachable_pub, reason = "names in the signatures of a sealed trait")]
mod register;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "postgres")]
pub use postgres::Isolation;
pub use register::Register;
use register::{Failure, Sealed};

/// The tables on SQLite, for the caller's own migrations.
#[cfg(feature = "sqlite")]
pub const SCHEMA_SQLITE: &str = <sqlx::Sqlite as Sealed>::SCHEMA;

/// The tables on PostgreSQL, for the caller's own migrations.
#[cfg(feature = "postgres")]
pub const SCHEMA_POSTGRES: &str = <sqlx::Postgres as Sealed>::SCHEMA;

/// The newest version of the tables that this release knows.
const SCHEMA_VERSION: i64 = 1;
/// The largest content of a request that no route covers, in bytes.
const UNCOVERED_BODY_BYTES_MAX: usize = 1 << 20;
/// How long a release waits for another writer; the next response that shows it tries again.
const RELEASE_PATIENCE: Duration = Duration::from_secs(1);
/// See [`Transactional::housekeeping`].
const SWEEP_EVERY: Duration = Duration::from_secs(1);
const SWEEP_RECORDS_MAX: u32 = 1_000;

/// What a unit of work answers. An `Err` is somebody's machine or program that is broken: it is rolled back and told as a
/// 500, or tried again where the database asks for that. Everything the caller should see is a response.
pub type Work<'t> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, BoxError>> + Send + 't>>;

/// A policy, the secret and a database, in which records live beside what they are about. Cheap to clone; all clones are
/// one. See the [module](self).
pub struct Transactional<DB: Register>(Arc<Shared<DB>>);

struct Shared<DB: Register> {
    policy: Policy,
    secret: Secret,
    pool: Pool<DB>,
    settings: DB::Settings,
    /// `None`: the database's own.
    clock: Option<Arc<dyn Clock>>,
    transactions: Arc<Here<RecordKey>>,
}

/// Why the tables could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database said so.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A newer release has been here.
    #[error("the tables have version {found}, and {known} is the newest that this release knows: run a newer release")]
    NewerSchema {
        /// The version in the database.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// Bytes that are not a record. Nothing is concluded from them, and they stay.
    #[error("the table semel_records is corrupt: {0}")]
    Corrupt(String),
}

impl From<register::SwapError> for Error {
    fn from(error: register::SwapError) -> Error {
        match error {
            register::SwapError::Database(error) => Error::Database(error),
            register::SwapError::Corrupt(what) => Error::Corrupt(what),
        }
    }
}

/// Creates the tables, or brings them to the version of this release. Doing it again changes nothing, and several
/// processes may do it at once.
pub async fn migrate<DB: Register>(pool: &Pool<DB>) -> Result<(), Error> {
    DB::migrate(pool).await
}

/// A key for something that follows from this request and is done elsewhere after the commit: the same for the same
/// operation and label, so that doing it twice is a retry. A UUID of version 8.
///
/// A request without a key has a fresh one at every call of the work, and none but the committed one counts.
///
/// # Panics
/// If `request` is not the one that the work was given.
pub fn derived_key<B>(request: &Request<B>, label: &str) -> String {
    let operation = request.extensions().get::<Operation>().expect("the request is the one that the work was given");
    operation.0.derived(label)
}

/// What [`derived_key`] derives from.
#[derive(Clone, Copy)]
struct Operation(RecordKey);

#[cfg(feature = "sqlite")]
impl Transactional<sqlx::Sqlite> {
    /// Brings the three together. Ages are measured by this process's [`SystemClock`].
    ///
    /// # Panics
    /// If a route of the policy has `on_unknown = "probe"`: here no outcome is left to ask an origin about.
    pub fn new(policy: Policy, secret: Secret, pool: Pool<sqlx::Sqlite>) -> Self {
        Self::bring(policy, secret, pool, Some(Arc::new(SystemClock::new())))
    }
}

#[cfg(feature = "postgres")]
impl Transactional<sqlx::Postgres> {
    /// Brings the three together. Ages are measured by the database's clock.
    ///
    /// # Panics
    /// If a route of the policy has `on_unknown = "probe"`: here no outcome is left to ask an origin about.
    pub fn new(policy: Policy, secret: Secret, pool: Pool<sqlx::Postgres>) -> Self {
        Self::bring(policy, secret, pool, None)
    }

    /// The same, with transactions of this isolation.
    #[must_use]
    pub fn with_isolation(self, isolation: Isolation) -> Self {
        self.with(|shared| shared.settings = isolation)
    }
}

impl<DB: Register> Transactional<DB> {
    /// The same, measuring ages by `clock`: for tests and simulations. Every process of one database must agree on it.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        self.with(|shared| shared.clock = Some(clock))
    }

    /// The database.
    pub fn pool(&self) -> &Pool<DB> {
        &self.0.pool
    }

    /// Answers `request` with at most one committed execution of `work` per key; see the [module](self).
    ///
    /// The content is read within the route's limits, and the work is given all of it. A request that no route covers, or
    /// without a key where the route lets that pass, runs in a transaction of its own that leaves no record.
    ///
    /// The work goes on when this future is dropped: a client that vanishes changes nothing (I12). Authorise the request
    /// before: a replay does not reach the work.
    ///
    /// ```
    /// # async fn example(
    /// #     tx: semel::transaction::Transactional<sqlx::Sqlite>,
    /// #     request: http::Request<semel::Body>,
    /// # ) -> http::Response<semel::Body> {
    /// tx.handle(request, |tx, request| {
    ///     Box::pin(async move {
    ///         sqlx::query("INSERT INTO orders (what) VALUES (?1)").bind(&request.body()[..]).execute(&mut **tx).await?;
    ///         Ok(http::Response::builder().status(201).body("ordered".into())?)
    ///     })
    /// })
    /// .await
    /// # }
    /// ```
    pub async fn handle<B, W>(&self, request: Request<B>, work: W) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
        W: for<'t> Fn(&'t mut Transaction<'static, DB>, &'t Request<Bytes>) -> Work<'t> + Send + Sync + 'static,
    {
        let shared = &self.0;
        let (mut parts, body) = request.into_parts();
        let now = match &shared.clock {
            Some(clock) => Duration::from_millis(clock.now_ms()),
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        };
        let watched = Watched::of(&shared.policy, &shared.secret, &mut parts, None);
        match admit::admit(&shared.policy, &head(&parts, None), now) {
            Admission::Pass(status) => {
                let route = shared.policy.route(&parts.method, &admit::normalise_path(parts.uri.path())).cloned();
                let bytes_max = route.as_ref().map_or(UNCOVERED_BODY_BYTES_MAX, |route| route.request_body_bytes_max);
                let mut body = body;
                let content = match reply::read(&mut body, bytes_max).await {
                    Ok(Content::Whole { content, .. }) => content,
                    Ok(Content::Larger { .. }) => {
                        let problem = Problem::new(ProblemType::RequestTooLarge);
                        return reply::problem(&shared.policy, route.as_deref(), &problem);
                    }
                    Err(_broken) => {
                        let problem = Problem::new(ProblemType::RequestIncomplete);
                        return reply::problem(&shared.policy, route.as_deref(), &problem);
                    }
                };
                let response = self.unprotected(Request::from_parts(parts, content), route, status, work).await;
                self.pass_on(watched, response).await
            }
            Admission::Refuse(refused) => {
                report_refused(None, &refused.route, &refused.problem);
                reply::problem(&shared.policy, Some(&refused.route), &refused.problem)
            }
            Admission::Read(admitted) => {
                let route = Arc::clone(admitted.route());
                match complete(&shared.policy, &shared.secret, None, &mut parts, None, body, admitted).await {
                    Complete::Covered(mut covered, content) => {
                        let request = Request::from_parts(parts, whole(content).await);
                        let asked = Asked::of(&mut covered, None);
                        let told = self.detach(|shared, tell| async move {
                            drive::covered(&shared, &covered, request, &work, tell).await;
                        });
                        match told.await {
                            Ok(told) => {
                                let is_own = matches!(told.answer, Answer::Own { .. });
                                let response = tell_answer(&shared.policy, None, &asked, told).await;
                                // A kept reply shows how things stood when it was kept.
                                self.pass_on(watched.filter(|_| is_own), response).await
                            }
                            Err(_) => self.unheard(),
                        }
                    }
                    Complete::Unprotected(content) => {
                        let request = Request::from_parts(parts, whole(content).await);
                        let response = self.unprotected(request, Some(route), Some(KeyStatus::Absent), work).await;
                        self.pass_on(watched, response).await
                    }
                    Complete::Refused(response) => response,
                }
            }
        }
    }

    /// Deletes records past their retention and contents past their time, at most `limit` of them, and says how many it
    /// was. Call until it answers less than `limit`.
    pub async fn sweep(&self, limit: u32) -> Result<u32, Error> {
        register::sweep(&self.0.pool, self.0.now_ms(), limit).await
    }

    /// Sweeps for ever. To be spawned once per database.
    pub async fn housekeeping(&self) -> Infallible {
        loop {
            match self.sweep(SWEEP_RECORDS_MAX).await {
                Ok(swept) if swept >= SWEEP_RECORDS_MAX => tokio::task::yield_now().await,
                Ok(_) => tokio::time::sleep(SWEEP_EVERY).await,
                Err(error) => {
                    tracing::warn!(target: "semel::store", %error, "a sweep failed");
                    tokio::time::sleep(SWEEP_EVERY * 10).await;
                }
            }
        }
    }

    fn bring(policy: Policy, secret: Secret, pool: Pool<DB>, clock: Option<Arc<dyn Clock>>) -> Self {
        if let Some(route) = policy.routes().iter().find(|route| route.probe.is_some()) {
            let name = route.name();
            panic!(
                "the route {name} has `on_unknown = \"probe\"`, which the transactional mode has no use for: \
                 a transaction that was not committed did nothing, so there is nothing to ask an origin about"
            );
        }
        let settings = DB::Settings::default();
        Transactional(Arc::new(Shared { policy, secret, pool, settings, clock, transactions: Arc::default() }))
    }

    fn with(self, change: impl FnOnce(&mut Shared<DB>)) -> Self {
        let Shared { policy, secret, pool, settings, clock, transactions } = &*self.0;
        let mut shared = Shared {
            policy: policy.clone(),
            secret: secret.clone(),
            pool: pool.clone(),
            settings: *settings,
            clock: clock.clone(),
            transactions: Arc::clone(transactions),
        };
        change(&mut shared);
        Transactional(Arc::new(shared))
    }

    /// Releases a guard, or a dead slot, on the word of an operator, as [`Semel::release`](crate::Semel::release) does.
    pub async fn release(&self, head: &Head<'_>) -> Result<Released, StoreError> {
        release_by_operator(&*self.0, &self.0.policy.watches(&self.0.secret, head)).await
    }

    /// Passes a response of the work on, after releasing what it shows: its transaction has ended.
    async fn pass_on(&self, watched: Option<Watched>, response: Response<Body>) -> Response<Body> {
        match watched {
            Some(watched) => Box::pin(watched.pass_on(&*self.0, response)).await,
            None => response,
        }
    }

    async fn unprotected<W>(
        &self,
        request: Request<Bytes>,
        route: Option<Arc<semel_core::policy::RoutePolicy>>,
        status: Option<KeyStatus>,
        work: W,
    ) -> Response<Body>
    where
        W: for<'t> Fn(&'t mut Transaction<'static, DB>, &'t Request<Bytes>) -> Work<'t> + Send + Sync + 'static,
    {
        let told = self.detach(|shared, tell| async move {
            let _ = tell.send(drive::unprotected(&shared, route.as_deref(), request, &work).await);
        });
        let mut response = match told.await {
            Ok(response) => response,
            Err(_) => self.unheard(),
        };
        say_status(&mut response, status);
        response
    }

    /// Runs on a task that a vanished client cannot cut.
    fn detach<T: Send + 'static, F>(
        &self,
        run: impl FnOnce(Arc<Shared<DB>>, oneshot::Sender<T>) -> F,
    ) -> oneshot::Receiver<T>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        tokio::spawn(run(Arc::clone(&self.0), tell));
        told
    }

    /// Only a bug or a runtime that shuts down ends the task unheard; whether it committed is not known here.
    fn unheard(&self) -> Response<Body> {
        let problem = Problem::new(ProblemType::OutcomeUnknown);
        reply::problem_with_status(&self.0.policy, StatusCode::INTERNAL_SERVER_ERROR, &problem)
    }
}

impl<DB: Register> Clone for Transactional<DB> {
    fn clone(&self) -> Self {
        Transactional(Arc::clone(&self.0))
    }
}

impl<DB: Register> fmt::Debug for Transactional<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transactional").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

/// A release is a transaction of its own.
#[async_trait]
impl<DB: Register> Releasing for Shared<DB> {
    async fn load(&self, key: RecordKey) -> Result<Option<Found>, StoreError> {
        let mut conn = self.pool.acquire().await.map_err(|error| unavailable(&error))?;
        let row = DB::read(&mut conn, &key, self.now_ms()).await.map_err(|error| unavailable(&error))?;
        row.map(register::found).transpose().map(Option::flatten).map_err(StoreError::from)
    }

    async fn delete(&self, key: RecordKey, found: &Found) -> Result<Swapped, StoreError> {
        let mut tx =
            DB::begin(&self.pool, RELEASE_PATIENCE, self.settings).await.map_err(|error| unavailable(&error))?;
        let swap = Swap { expect: Some(found.stamp), put: None };
        let swapped = register::swap::<DB>(&mut tx, &key, &swap, self.now_ms()).await?;
        tx.commit().await.map_err(|error| unavailable(&error))?;
        Ok(swapped)
    }
}

fn unavailable(error: &sqlx::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

impl From<register::SwapError> for StoreError {
    fn from(error: register::SwapError) -> StoreError {
        match error {
            register::SwapError::Database(error) => unavailable(&error),
            register::SwapError::Corrupt(what) => StoreError::Corrupt(what),
        }
    }
}

impl<DB: Register> Shared<DB> {
    fn now_ms(&self) -> Option<i64> {
        self.clock.as_ref().map(|clock| i64::try_from(clock.now_ms()).unwrap_or(i64::MAX / 2))
    }
}

async fn whole(content: Body) -> Bytes {
    content.collect().await.map(http_body_util::Collected::to_bytes).expect("a content that was read has no errors")
}

fn known_schema(found: Option<i64>) -> Result<(), Error> {
    match found {
        Some(found) if found > SCHEMA_VERSION => Err(Error::NewerSchema { found, known: SCHEMA_VERSION }),
        Some(_) | None => Ok(()),
    }
}

/// What an error that is not the database's own words means.
fn failure_of_driver(error: &sqlx::Error) -> Failure {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Failure::Unavailable,
        // An open set of somebody else's.
        _ => Failure::Broken,
    }
}

/// A random part of `pause`, from half of it to all of it, so that two who were in each other's way do not meet again.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    let random = RandomState::new().hash_one(0);
    half + Duration::from_nanos(random % (u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1)))
}
