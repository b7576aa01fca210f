//! Housekeeping, and what operators ask: epochs are opened and dropped, records counted and listed. Over one connection
//! of its own, so that no request waits for it.

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;
use tokio_postgres::{error::SqlState, types::Type};

use super::{
    connect::{Connection, Connector, Parameter, broken},
    lanes::{found, now_ms},
    sql,
};
use crate::store::{Clock, Found, PhaseKind, RecordKey, StoreError};

/// How long a table may be waited for when a partition is made or dropped: meanwhile requests wait too.
const TABLE_LOCK_MAX: &str = "100ms";
/// A record that is past is past for whoever began a statement before: far longer than one takes.
const MARGIN_MS: i64 = 60 * 60 * 1_000;
/// Records that are moved out of an old epoch at once, and how many times by one sweep.
const MOVED_MAX: i64 = 500;
const MOVES_MAX: u32 = 20;
/// An epoch is emptied by hand once at most one of so many records still counts.
const STRAGGLERS_ONE_OF: i64 = 20;
/// Pages of a partition that are read to guess when it is over.
const SAMPLE_PAGES: i64 = 2_000;

/// Figures for operators and metrics.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Records in flight.
    pub in_flight: u64,
    /// Records whose outcome is unknown.
    pub unknown: u64,
    /// Records that are completed.
    pub completed: u64,
    /// Guards that are held.
    pub held: u64,
    /// Time since the oldest record of unknown outcome was written.
    pub oldest_unknown: Option<Duration>,
    /// Bytes on disk, with index and what is dead but not given back.
    pub bytes: u64,
    /// Partitions, of which one is current.
    pub partitions: u32,
    /// The current epoch.
    pub epoch: u32,
}

pub(super) struct Keeper {
    pub(super) connector: Arc<Connector>,
    pub(super) clock: Option<Arc<dyn Clock>>,
    /// How long one statement may take.
    pub(super) housekeeping_max: Duration,
    pub(super) period: Duration,
    pub(super) connection: Mutex<Option<Connection>>,
}

struct Epoch {
    number: i32,
    opened_ms: i64,
    look_ms: Option<i64>,
    current: bool,
    now_ms: i64,
}

impl Keeper {
    /// Runs `work` on the connection, which is given up if anything fails: what it was in is rolled back.
    async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        let mut slot = self.connection.lock().await;
        let mut connection = match slot.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connector.connect().await.map_err(|error| StoreError::Unavailable(error.to_string()))?,
        };
        let answer = tokio::time::timeout(self.housekeeping_max, work(&mut connection))
            .await
            .map_err(|_| StoreError::TimedOut(self.housekeeping_max))?
            .map_err(|error| broken(&error))?;
        *slot = Some(connection);
        Ok(answer)
    }

    fn now_ms(&self) -> Option<i64> {
        now_ms(self.clock.as_ref())
    }

    pub(super) async fn scan(
        &self,
        phase: PhaseKind,
        after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, StoreError> {
        let after = after.map(|key| key.as_bytes().to_vec());
        let (now, phase, limit) = (self.now_ms(), phase as i16, i64::from(limit));
        let parameters: [Parameter<'_>; 4] =
            [(&now, Type::INT8), (&phase, Type::INT2), (&after, Type::BYTEA), (&limit, Type::INT8)];
        let rows = self.with(async |connection| connection.query(sql::SCAN, &parameters).await).await?;
        let mut page = Vec::new();
        for row in rows {
            let key: &[u8] = row.get("key");
            let key = key.try_into().map_err(|_| StoreError::Corrupt("a key has not its length".into()))?;
            if let Some(found) = found(&row)? {
                page.push((RecordKey::from_bytes(key), found));
            }
        }
        Ok(page)
    }

    /// One round: opens the next epoch if it is time, and gives back what is over of the old ones.
    pub(super) async fn sweep(&self) -> Result<(), StoreError> {
        let now = self.now_ms();
        self.with(async |connection| {
            let rows = connection.query(sql::EPOCHS, &[(&now, Type::INT8)]).await?;
            let epochs = rows.iter().map(|row| Epoch {
                number: row.get("epoch"),
                opened_ms: row.get("opened_ms"),
                look_ms: row.get("look_ms"),
                current: row.get("current"),
                now_ms: row.get("now_ms"),
            });
            for epoch in epochs {
                if !epoch.current {
                    match self.give_back(connection, &epoch).await {
                        // Another gateway was quicker.
                        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {}
                        given_back => given_back?,
                    }
                } else if epoch.now_ms.saturating_sub(epoch.opened_ms) >= millis(self.period) {
                    self.open_next(connection, epoch.number).await?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn open_next(&self, connection: &mut Connection, epoch: i32) -> Result<(), tokio_postgres::Error> {
        if !with_table(connection, &sql::make_partition(epoch + 1)).await? {
            return Ok(());
        }
        let now = self.now_ms();
        connection.query(sql::OPEN_EPOCH, &[(&epoch, Type::INT4), (&now, Type::INT8)]).await?;
        Ok(())
    }

    async fn give_back(&self, connection: &mut Connection, epoch: &Epoch) -> Result<(), tokio_postgres::Error> {
        let now_ms = epoch.now_ms;
        if epoch.look_ms.is_some_and(|look_ms| look_ms > now_ms) {
            return Ok(());
        }
        let pages: i64 =
            connection.query(&sql::pages_of(epoch.number), &[]).await?.first().and_then(|row| row.get(0)).unwrap_or(0);
        #[allow(clippy::cast_precision_loss, reason = "a share of a sample")]
        let percent = (SAMPLE_PAGES as f32 * 100.0 / pages.max(1) as f32).min(100.0);
        let counts_after_ms = now_ms - MARGIN_MS;
        let parameters: [Parameter<'_>; 2] = [(&counts_after_ms, Type::INT8), (&percent, Type::FLOAT4)];
        let rows = connection.query(&sql::look_at(epoch.number), &parameters).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (rows, counting, mostly_over_ms): (i64, i64, Option<i64>) = (row.get(0), row.get(1), row.get(2));
        if counting == 0 {
            with_table(connection, &sql::drop_partition(epoch.number)).await?;
            return Ok(());
        }
        if counting <= MOVED_MAX || counting <= rows / STRAGGLERS_ONE_OF {
            let moving = sql::move_stragglers(epoch.number);
            for _ in 0..MOVES_MAX {
                let parameters: [Parameter<'_>; 2] = [(&counts_after_ms, Type::INT8), (&MOVED_MAX, Type::INT8)];
                let moved = connection.query(&moving, &parameters).await?;
                if moved.len() < usize::try_from(MOVED_MAX).expect("a small constant") {
                    break;
                }
            }
            return Ok(());
        }
        let look_ms = mostly_over_ms.unwrap_or(now_ms).saturating_add(MARGIN_MS).max(now_ms + MARGIN_MS);
        connection.query(sql::LOOK_AGAIN, &[(&epoch.number, Type::INT4), (&look_ms, Type::INT8)]).await?;
        Ok(())
    }

    /// Keeps the first check; whether it is this one.
    pub(super) async fn agree_on(&self, check: [u8; 32]) -> Result<bool, StoreError> {
        let check = check.to_vec();
        // Two first gateways: one waits for the other, and its snapshot may then show neither check.
        for _ in 0..8 {
            let rows =
                self.with(async |connection| connection.query(sql::AGREE, &[(&check, Type::BYTEA)]).await).await?;
            if let Some(row) = rows.first() {
                return Ok(row.get::<_, &[u8]>(0) == check);
            }
        }
        Err(StoreError::Unavailable("the check of the secret changes while it is read".into()))
    }

    pub(super) async fn stats(&self) -> Result<Stats, StoreError> {
        let now = self.now_ms();
        let rows = self.with(async |connection| connection.query(sql::STATS, &[(&now, Type::INT8)]).await).await?;
        let row = rows.first().ok_or_else(|| StoreError::Unavailable("the server counts nothing".into()))?;
        let count = |name: &str| u64::try_from(row.get::<_, i64>(name)).unwrap_or_default();
        let oldest: Option<i64> = row.get("oldest_unknown_ms");
        Ok(Stats {
            in_flight: count("in_flight"),
            unknown: count("unknown"),
            completed: count("completed"),
            held: count("held"),
            oldest_unknown: oldest.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default())),
            bytes: count("bytes"),
            partitions: u32::try_from(count("partitions")).unwrap_or(u32::MAX),
            epoch: u32::try_from(count("epoch")).unwrap_or(u32::MAX),
        })
    }
}

const LATER: &[SqlState] = &[
    SqlState::LOCK_NOT_AVAILABLE,
    SqlState::T_R_DEADLOCK_DETECTED,
    SqlState::DUPLICATE_TABLE,
    SqlState::DUPLICATE_OBJECT,
    SqlState::UNIQUE_VIOLATION,
];

/// Does what needs the whole table; `false`: somebody was using it, or is doing the same: try later.
async fn with_table(connection: &mut Connection, sql: &str) -> Result<bool, tokio_postgres::Error> {
    let transaction = connection.client().transaction().await?;
    transaction.batch_execute(&format!("SET LOCAL lock_timeout = '{TABLE_LOCK_MAX}'")).await?;
    match transaction.batch_execute(sql).await {
        Ok(()) => transaction.commit().await.map(|()| true),
        Err(error) if error.code().is_some_and(|code| LATER.contains(code)) => {
            transaction.rollback().await.map(|()| false)
        }
        Err(error) => Err(error),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
