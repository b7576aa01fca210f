//! What the tests of both databases share: a database with a table of effects, and requests.

use std::{
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use semel::{
    Body,
    core::{policy::Policy, scope::Secret},
    store::SimulatedClock,
    transaction::{Register, Transactional, Work, migrate},
};
use semel_servers::PrivatePostgres;
use sqlx::{
    Pool, Postgres, Sqlite, Transaction,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};

/// What a test needs of a database that generic sqlx cannot say.
pub(crate) trait Database: Register {
    type Place: Clone + Send + Sync;
    fn place() -> Self::Place;
    fn pool(place: &Self::Place) -> impl Future<Output = Pool<Self>> + Send;
    fn transactional(policy: Policy, pool: Pool<Self>) -> Transactional<Self>;
    fn run(pool: &Pool<Self>, sql: &'static str) -> impl Future<Output = ()> + Send;
    fn count(pool: &Pool<Self>, sql: &'static str) -> impl Future<Output = i64> + Send;
    fn effect(tx: &mut Transaction<'static, Self>, what: &str) -> impl Future<Output = sqlx::Result<()>> + Send;
    /// A statement that fails.
    fn stumble(tx: &mut Transaction<'static, Self>) -> impl Future<Output = sqlx::Result<()>> + Send;
    /// What ends a transaction in this database without an error at its commit.
    fn end(tx: &mut Transaction<'static, Self>) -> impl Future<Output = ()> + Send;
    /// The code of an error by which the database asks for another try.
    const CONFLICT: &'static str;
}

const INSERT: &str = "INSERT INTO effects (what) VALUES ($1)";
/// The unique index of the table refuses the second.
const STUMBLE: &str = "INSERT INTO effects (id, what) VALUES (1, 'x'), (1, 'x')";

impl Database for Sqlite {
    type Place = Arc<(tempfile::TempDir, PathBuf)>;
    const CONFLICT: &'static str = "517";
    fn place() -> Self::Place {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shop.sqlite");
        Arc::new((folder, file))
    }
    async fn pool(place: &Self::Place) -> Pool<Sqlite> {
        sqlite_pool(&place.1).await
    }
    fn transactional(policy: Policy, pool: Pool<Self>) -> Transactional<Self> {
        Transactional::<Sqlite>::new(policy, secret(), pool)
    }
    async fn run(pool: &Pool<Self>, sql: &'static str) {
        sqlx::raw_sql(sql).execute(pool).await.unwrap();
    }
    async fn count(pool: &Pool<Self>, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
    }
    async fn effect(tx: &mut Transaction<'static, Self>, what: &str) -> sqlx::Result<()> {
        sqlx::query(INSERT).bind(what).execute(&mut **tx).await.map(drop)
    }
    async fn stumble(tx: &mut Transaction<'static, Self>) -> sqlx::Result<()> {
        sqlx::raw_sql(STUMBLE).execute(&mut **tx).await.map(drop)
    }
    async fn end(tx: &mut Transaction<'static, Self>) {
        sqlx::raw_sql("ROLLBACK").execute(&mut **tx).await.unwrap();
    }
}

pub(crate) async fn sqlite_pool(file: &std::path::Path) -> Pool<Sqlite> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(20));
    SqlitePoolOptions::new().max_connections(5).connect_with(options).await.unwrap()
}

impl Database for Postgres {
    type Place = String;
    const CONFLICT: &'static str = "40001";
    fn place() -> String {
        let server = PrivatePostgres::shared();
        server.url(&server.fresh_database())
    }
    async fn pool(url: &String) -> Pool<Postgres> {
        PgPoolOptions::new().max_connections(5).connect(url).await.unwrap()
    }
    fn transactional(policy: Policy, pool: Pool<Self>) -> Transactional<Self> {
        Transactional::<Postgres>::new(policy, secret(), pool)
    }
    async fn run(pool: &Pool<Self>, sql: &'static str) {
        sqlx::raw_sql(sql).execute(pool).await.unwrap();
    }
    async fn count(pool: &Pool<Self>, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
    }
    async fn effect(tx: &mut Transaction<'static, Self>, what: &str) -> sqlx::Result<()> {
        sqlx::query(INSERT).bind(what).execute(&mut **tx).await.map(drop)
    }
    async fn stumble(tx: &mut Transaction<'static, Self>) -> sqlx::Result<()> {
        sqlx::raw_sql(STUMBLE).execute(&mut **tx).await.map(drop)
    }
    async fn end(_: &mut Transaction<'static, Self>) {}
}

pub(crate) fn secret() -> Secret {
    Secret::from_bytes([7; 32])
}

/// A policy from TOML, over the preset `ietf`.
pub(crate) fn policy(defaults: &str) -> Policy {
    use semel::core::policy::{PolicyDocument, RouteSettings};
    let settings: RouteSettings = toml::from_str(defaults).unwrap();
    PolicyDocument { defaults: Some(toml::Spanned::new(0..0, settings)), ..PolicyDocument::default() }.build().unwrap()
}

/// A database with Semel's tables and one of effects.
pub(crate) struct World<D: Database> {
    pub(crate) place: D::Place,
    pub(crate) pool: Pool<D>,
    pub(crate) semel: Transactional<D>,
    /// How often the work began.
    pub(crate) began: Arc<AtomicUsize>,
}

impl<D: Database> World<D> {
    pub(crate) async fn new(defaults: &str) -> World<D> {
        let place = D::place();
        let pool = D::pool(&place).await;
        migrate(&pool).await.unwrap();
        D::run(&pool, "CREATE TABLE effects (id INTEGER UNIQUE, what TEXT NOT NULL)").await;
        let semel = D::transactional(policy(defaults), pool.clone());
        World { place, pool, semel, began: Arc::default() }
    }

    /// The same, on a clock that the test owns.
    pub(crate) async fn with_clock(defaults: &str) -> (World<D>, Arc<SimulatedClock>) {
        let clock = Arc::new(SimulatedClock::at(1_760_000_000_000));
        let mut world = World::new(defaults).await;
        world.semel = world.semel.with_clock(clock.clone());
        (world, clock)
    }

    /// Another handle, as another process would have.
    pub(crate) async fn another(&self, defaults: &str) -> World<D> {
        let pool = D::pool(&self.place).await;
        let semel = D::transactional(policy(defaults), pool.clone());
        World { place: self.place.clone(), pool, semel, began: Arc::clone(&self.began) }
    }

    /// Sends a request to a work that has one effect and then answers with `status`.
    pub(crate) async fn order(&self, key: &str, status: u16) -> Seen {
        self.send(post(key), move |_, _| Box::pin(async move { Ok(reply(status, "ordered")) })).await
    }

    /// Sends a request to a work that has one effect and then does what `then` does.
    pub(crate) async fn send<W>(&self, request: Request<Body>, then: W) -> Seen
    where
        W: for<'t> Fn(&'t mut Transaction<'static, D>, &'t Request<Bytes>) -> Work<'t> + Send + Sync + Clone + 'static,
    {
        let began = Arc::clone(&self.began);
        let work = self.semel.handle(request, move |tx, request| {
            began.fetch_add(1, Ordering::SeqCst);
            let then = then.clone();
            Box::pin(async move {
                D::effect(tx, "order").await?;
                then(tx, request).await
            })
        });
        Seen::of(work.await).await
    }

    pub(crate) fn began(&self) -> usize {
        self.began.load(Ordering::SeqCst)
    }
    pub(crate) async fn effects(&self) -> i64 {
        D::count(&self.pool, "SELECT count(*) FROM effects").await
    }
    pub(crate) async fn records(&self) -> i64 {
        D::count(&self.pool, "SELECT count(*) FROM semel_records").await
    }
}

#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) content: Bytes,
}

impl Seen {
    pub(crate) async fn of(response: Response<Body>) -> Seen {
        let (parts, body) = response.into_parts();
        Seen { status: parts.status, headers: parts.headers, content: body.collect().await.unwrap().to_bytes() }
    }
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
    #[track_caller]
    pub(crate) fn assert_own(&self, status: u16, key_status: Option<&str>) {
        assert_eq!(
            (self.status.as_u16(), self.header("idempotency-status"), self.header("idempotent-replayed")),
            (status, key_status, None),
            "{self:?}"
        );
    }
    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let json: serde_json::Value = serde_json::from_slice(&self.content).unwrap();
        assert_eq!((self.status.as_u16(), json["code"].as_str()), (status, Some(code)), "{self:?}");
    }
    #[track_caller]
    pub(crate) fn assert_replay_of(&self, content: &str) {
        assert_eq!(self.header("idempotent-replayed"), Some("true"), "{self:?}");
        assert_eq!(self.content, content.as_bytes());
    }
}

pub(crate) fn post(key: &str) -> Request<Body> {
    post_with(key, "{\"amount\":100}")
}

pub(crate) fn post_with(key: &str, content: &'static str) -> Request<Body> {
    Request::post("http://h/orders").header("idempotency-key", key).body(Body::full(content)).unwrap()
}

pub(crate) fn reply(status: u16, content: &'static str) -> Response<Bytes> {
    Response::builder()
        .status(status)
        .header("location", "/orders/1")
        .body(Bytes::from_static(content.as_bytes()))
        .unwrap()
}
