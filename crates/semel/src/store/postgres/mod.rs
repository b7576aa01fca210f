//! The PostgreSQL store: records in a partitioned table, for several gateways at once.
//!
//! Whatever waits is asked as one statement, by a few connections: a batch of swaps is one round trip and one commit. The
//! server's clock measures ages. `sql.rs` says why a key never has two rows.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use semel_core::{
    fingerprint::Fingerprint,
    record::{ExchangeId, Phase},
};
use tokio_postgres::error::SqlState;

pub use self::keeper::Stats;
use self::{
    connect::{Connection, Connector, broken},
    keeper::Keeper,
    lanes::{Asked, Bounds, Lane, Loading, Loads, Look, Swapping, Swaps, answer},
};
use super::{
    Clock, Figures, Found, PhaseKind, Put, Record, RecordKey, Stamp, Store, StoreError, Swap, Swapped,
    shared::{Finding, OpenError, Password, Tls, Url, admit},
};

mod connect;
mod keeper;
mod lanes;
mod queue;
mod sql;

/// How a [`PostgresStore`] is reached, and its limits.
#[derive(Clone, Debug)]
pub struct Options {
    /// `postgres://user:password@host:port/database`. Several hosts may be named, of which one is the primary.
    ///
    /// Without `sslmode` TLS is used unless the host is this machine; `sslmode=disable` is plain text, and every other
    /// value checks the server's certificate and name.
    pub url: Url,
    /// The password, instead of one in the URL.
    pub password: Option<Password>,
    /// Files of a connection by TLS.
    pub tls: Tls,
    /// Connections for swaps ([`CONNECTIONS_DEFAULT`]); one more is for loads, and one for housekeeping.
    pub connections: usize,
    /// How long a swap or load may take, with its waiting ([`STATEMENT_MAX_DEFAULT`]).
    pub statement_max: Duration,
    /// How long connecting may take ([`CONNECT_MAX_DEFAULT`]).
    pub connect_max: Duration,
    /// How long a statement of housekeeping or of an operator may take ([`HOUSEKEEPING_MAX_DEFAULT`]).
    pub housekeeping_max: Duration,
    /// Swaps in one statement ([`BATCH_ROWS_MAX_DEFAULT`]).
    pub batch_rows_max: usize,
    /// Bytes of records in one statement, unless a single one is longer ([`BATCH_BYTES_MAX_DEFAULT`]).
    pub batch_bytes_max: usize,
    /// Swaps or loads that may wait; one more is [`StoreError::Full`] ([`QUEUE_MAX_DEFAULT`]).
    pub queue_max: usize,
    /// Bytes of records that may wait ([`QUEUE_BYTES_MAX_DEFAULT`]).
    pub queue_bytes_max: usize,
    /// How long an epoch is current: records are given back to the disk by the epoch ([`PERIOD_DEFAULT`]).
    pub period: Duration,
    /// Whether statements are prepared. A pooler that mixes sessions is noticed, and statements are not prepared then.
    pub prepared: bool,
    /// Opens although the server may lose records.
    pub accept_loss: bool,
    /// Measures ages instead of the server's clock; for tests.
    pub clock: Option<Arc<dyn Clock>>,
}

/// See [`Options::connections`].
pub const CONNECTIONS_DEFAULT: usize = 4;
/// How often a migration is tried that somebody else runs at the same moment.
const MIGRATION_TRIES_MAX: u32 = 10;
/// See [`Options::statement_max`].
pub const STATEMENT_MAX_DEFAULT: Duration = Duration::from_secs(5);
/// See [`Options::connect_max`].
pub const CONNECT_MAX_DEFAULT: Duration = Duration::from_secs(5);
/// See [`Options::housekeeping_max`].
pub const HOUSEKEEPING_MAX_DEFAULT: Duration = Duration::from_mins(5);
/// See [`Options::batch_rows_max`].
pub const BATCH_ROWS_MAX_DEFAULT: usize = 128;
/// See [`Options::batch_bytes_max`].
pub const BATCH_BYTES_MAX_DEFAULT: usize = 1 << 20;
/// See [`Options::queue_max`].
pub const QUEUE_MAX_DEFAULT: usize = 1 << 16;
/// See [`Options::queue_bytes_max`].
pub const QUEUE_BYTES_MAX_DEFAULT: usize = 256 << 20;
/// See [`Options::period`].
pub const PERIOD_DEFAULT: Duration = Duration::from_hours(7 * 24);

impl Options {
    /// With every default.
    pub fn new(url: impl Into<String>) -> Options {
        Options {
            url: Url::new(url),
            password: None,
            tls: Tls::default(),
            connections: CONNECTIONS_DEFAULT,
            statement_max: STATEMENT_MAX_DEFAULT,
            connect_max: CONNECT_MAX_DEFAULT,
            housekeeping_max: HOUSEKEEPING_MAX_DEFAULT,
            batch_rows_max: BATCH_ROWS_MAX_DEFAULT,
            batch_bytes_max: BATCH_BYTES_MAX_DEFAULT,
            queue_max: QUEUE_MAX_DEFAULT,
            queue_bytes_max: QUEUE_BYTES_MAX_DEFAULT,
            period: PERIOD_DEFAULT,
            prepared: true,
            accept_loss: false,
            clock: None,
        }
    }
}

/// Records in a PostgreSQL database. Cloning it makes another handle to the same connections, which are closed with the
/// last one.
#[derive(Clone)]
pub struct PostgresStore(Arc<Shared>);

struct Shared {
    connector: Arc<Connector>,
    swaps: Arc<Swaps>,
    loads: Arc<Loads>,
    keeper: Keeper,
    statement_max: Duration,
    /// Where this handle's probes write: no other handle's are in their way.
    probe_key: RecordKey,
}

/// What [`PostgresStore::migrate`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Migrated {
    /// Whether there was anything to do.
    pub changed: bool,
    /// The version that the tables have now.
    pub version: u32,
}

impl PostgresStore {
    /// Connects, and refuses a server that would lose records or has not the tables of this release
    /// ([`PostgresStore::migrate`]). Must be called within a tokio runtime, in which the connections live.
    pub async fn open(options: Options) -> Result<PostgresStore, OpenError> {
        if options.connections == 0 || options.batch_rows_max == 0 {
            return Err(OpenError::Options("connections and batch_rows_max are at least 1".into()));
        }
        let connector = Arc::new(Connector::new(&options)?);
        let first = connector.connect().await?;
        admit(first.findings().await?, options.accept_loss)?;
        let mut probe_key = [0x50; RecordKey::LEN];
        getrandom::fill(&mut probe_key[16..])
            .map_err(|error| OpenError::Options(format!("no random numbers: {error}")))?;

        let swaps = Arc::new(Swaps::new(options.queue_max, options.queue_bytes_max));
        let loads = Arc::new(Loads::new(options.queue_max, options.queue_bytes_max));
        let bounds = Bounds {
            jobs_max: options.batch_rows_max,
            bytes_max: options.batch_bytes_max,
            statement_max: options.statement_max,
        };
        let mut first = Some(first);
        for _ in 0..options.connections {
            let lane = Lane {
                kind: Swapping(options.clock.clone()),
                queue: swaps.clone(),
                connector: connector.clone(),
                bounds: bounds.clone(),
                connection: first.take(),
            };
            tokio::spawn(lane.run());
        }
        let lane = Lane {
            kind: Loading(options.clock.clone()),
            queue: loads.clone(),
            connector: connector.clone(),
            bounds,
            connection: None,
        };
        tokio::spawn(lane.run());
        let keeper = Keeper {
            connector: connector.clone(),
            clock: options.clock,
            housekeeping_max: options.housekeeping_max,
            period: options.period,
            connection: tokio::sync::Mutex::default(),
        };
        let probe_key = RecordKey::from_bytes(probe_key);
        let statement_max = options.statement_max;
        Ok(PostgresStore(Arc::new(Shared { connector, swaps, loads, keeper, statement_max, probe_key })))
    }

    /// Makes the tables, or leaves those that are there. The role that does owns them, and is the one to open the store
    /// with: it makes and drops partitions.
    pub async fn migrate(options: Options) -> Result<Migrated, OpenError> {
        let mut connection = Connector::new(&options)?.connect_unchecked().await?;
        let there = match connection.check_schema().await {
            Ok(()) => true,
            Err(OpenError::NotMigrated { .. }) => false,
            Err(error) => return Err(error),
        };
        if !there {
            make_tables(connection.client()).await.map_err(|error| broken(&error))?;
            if let Some(now) = lanes::now_ms(options.clock.as_ref()) {
                let sql = format!("UPDATE semel_epochs SET opened_ms = {now} WHERE epoch = 1");
                connection.client().batch_execute(&sql).await.map_err(|error| broken(&error))?;
            }
        }
        Ok(Migrated { changed: !there, version: sql::VERSION })
    }

    /// What [`PostgresStore::migrate`] runs, for whoever may not let a program make tables.
    pub fn migrations_sql() -> String {
        sql::MIGRATION.to_owned()
    }

    /// What there is to say of the server, now.
    pub async fn check(&self) -> Result<Vec<Finding>, StoreError> {
        let connect = self.0.connector.connect_unchecked().await;
        let connection: Connection = connect.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        connection.findings().await
    }

    /// Figures. They are counted, which reads the whole table.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        self.0.keeper.stats().await
    }

    /// Whether the gateways of this store agree on what `check` was made of: the first check is kept.
    pub async fn agree_on(&self, check: [u8; 32]) -> Result<bool, StoreError> {
        self.0.keeper.agree_on(check).await
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        if swap.expect.is_none() && swap.put.is_none() {
            return Ok(self.load(key).await?.map_or(Swapped::Done, Swapped::Found));
        }
        answer(&self.0.swaps, key, Asked::of(swap), self.0.statement_max).await
    }

    async fn load(&self, key: &RecordKey) -> Result<Option<Found>, StoreError> {
        answer(&self.0.loads, key, Look, self.0.statement_max).await
    }

    async fn scan(
        &self,
        phase: PhaseKind,
        after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, StoreError> {
        self.0.keeper.scan(phase, after, limit).await
    }

    /// Records are given back by the partition, so that none is deleted one by one and the count is 0.
    async fn sweep(&self, limit: u32) -> Result<u32, StoreError> {
        if limit > 0 {
            self.0.keeper.sweep().await?;
        }
        Ok(0)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let mut exchange = [0; 16];
        getrandom::fill(&mut exchange)
            .map_err(|error| StoreError::Unavailable(format!("no random numbers: {error}")))?;
        let stamp = Stamp { exchange: ExchangeId(u128::from_be_bytes(exchange)), write: 1 };
        let record = Record {
            fingerprint: Fingerprint::from_bytes([0; Fingerprint::LEN]),
            attempt: 1,
            phase: Phase::Unknown,
            retention: Duration::from_secs(1),
            guard: None,
            about: None,
        };
        let key = &self.0.probe_key;
        let mut put = Swap { expect: None, put: Some(Put { stamp, record }) };
        // An earlier probe of this handle whose answer was lost may have left its record.
        while let Swapped::Found(found) = self.swap(key, &put).await? {
            put.expect = Some(found.stamp);
        }
        self.swap(key, &Swap { expect: Some(stamp), put: None }).await?;
        Ok(())
    }

    fn figures(&self) -> Figures {
        Figures {
            batches: Some(self.0.swaps.batches.read()),
            connections: Some(self.0.connector.connections() as u64),
            ..Figures::default()
        }
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("server", &self.0.connector.server()).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.swaps.close();
        self.loads.close();
    }
}

/// Runs the migration, again where somebody else made the same tables meanwhile: `IF NOT EXISTS` does not wait for them.
async fn make_tables(client: &tokio_postgres::Client) -> Result<(), tokio_postgres::Error> {
    let is_race = |error: &tokio_postgres::Error| {
        let races = [&SqlState::UNIQUE_VIOLATION, &SqlState::DUPLICATE_TABLE, &SqlState::DUPLICATE_OBJECT];
        error.code().is_some_and(|code| races.contains(&code))
    };
    for _ in 1..MIGRATION_TRIES_MAX {
        match client.batch_execute(sql::MIGRATION).await {
            Err(error) if is_race(&error) => client.batch_execute("ROLLBACK").await?,
            done => return done,
        }
    }
    client.batch_execute(sql::MIGRATION).await
}
