//! PostgreSQL: a concurrent claim waits on the row of the first, within `lock_timeout`.

use std::time::Duration;

use semel_core::scope::RecordKey;
use sqlx::{AssertSqlSafe, PgConnection, Pool, Postgres, Row as _, Transaction, postgres::PgRow};

use super::{
    Error, known_schema,
    register::{Failure, NewRow, Register, Row, Sealed, StampBytes},
};

/// The isolation of the transactions that [`Transactional`](super::Transactional) begins. Claims are safe at every one of
/// them; it is the caller's own statements that may need more than the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// Every statement sees what is committed when it begins.
    #[default]
    ReadCommitted,
    /// Every statement sees what was committed when the first one began.
    RepeatableRead,
    /// As if one transaction ran after the other.
    Serializable,
}

impl Register for Postgres {}

/// The time of the caller's clock, or else this database's: its wall clock now, not when the transaction began.
macro_rules! clock {
    ($at:literal) => {
        concat!("COALESCE(", $at, "::bigint, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)")
    };
}

impl Sealed for Postgres {
    type Settings = Isolation;

    const SCHEMA: &'static str = include_str!("schema/postgres.sql");
    const LOOKS_FIRST: bool = false;

    async fn begin(
        pool: &Pool<Postgres>,
        patience: Duration,
        isolation: Isolation,
    ) -> sqlx::Result<Transaction<'static, Postgres>> {
        let isolation = match isolation {
            Isolation::ReadCommitted => "READ COMMITTED",
            Isolation::RepeatableRead => "REPEATABLE READ",
            Isolation::Serializable => "SERIALIZABLE",
        };
        // Zero would mean: wait for ever.
        let patience_ms = patience.as_millis().clamp(1, i32::MAX as u128);
        // One round trip. The owner's own setting is put aside inside the transaction, where the end of it forgets it.
        let begin = format!(
            "BEGIN ISOLATION LEVEL {isolation} READ WRITE; \
             SELECT set_config('semel.lock_timeout', current_setting('lock_timeout'), true); \
             SET LOCAL lock_timeout = {patience_ms}"
        );
        pool.begin_with(AssertSqlSafe(begin)).await
    }

    async fn claimed(tx: &mut Transaction<'static, Postgres>) -> sqlx::Result<()> {
        let restore =
            "SELECT set_config('lock_timeout', current_setting('semel.lock_timeout'), true); SAVEPOINT semel_work";
        sqlx::raw_sql(restore).execute(&mut **tx).await.map(drop)
    }

    async fn undo_work(tx: &mut Transaction<'static, Postgres>) -> sqlx::Result<()> {
        sqlx::raw_sql("ROLLBACK TO SAVEPOINT semel_work").execute(&mut **tx).await.map(drop)
    }

    /// COMMIT of a transaction in which a statement failed rolls back, and does not call that an error.
    async fn check(tx: &mut Transaction<'static, Postgres>) -> sqlx::Result<()> {
        sqlx::raw_sql("RELEASE SAVEPOINT semel_work").execute(&mut **tx).await.map(drop)
    }

    async fn mend(_: &mut Transaction<'static, Postgres>) {}

    async fn insert(conn: &mut PgConnection, key: &RecordKey, row: &NewRow) -> sqlx::Result<u64> {
        let done = sqlx::query(concat!(
            "INSERT INTO semel_records (record_key, stamp, written_at_ms, expires_at_ms, trims_at_ms, record) ",
            "SELECT $1, $2, now_ms, now_ms + $3, now_ms + $4, $5 FROM (SELECT ",
            clock!("$6"),
            " AS now_ms) AS clock ON CONFLICT DO NOTHING"
        ))
        .bind(&key.as_bytes()[..])
        .bind(&row.stamp[..])
        .bind(row.expires_ms)
        .bind(row.trims_ms)
        .bind(&row.record[..])
        .bind(row.now_ms)
        .execute(conn)
        .await?;
        Ok(done.rows_affected())
    }

    async fn update(conn: &mut PgConnection, key: &RecordKey, expect: &StampBytes, row: &NewRow) -> sqlx::Result<u64> {
        let done = sqlx::query(concat!(
            "UPDATE semel_records SET stamp = $3, written_at_ms = now_ms, expires_at_ms = now_ms + $4, ",
            "trims_at_ms = now_ms + $5, record = $6 FROM (SELECT ",
            clock!("$7"),
            " AS now_ms) AS clock WHERE record_key = $1 AND stamp = $2"
        ))
        .bind(&key.as_bytes()[..])
        .bind(&expect[..])
        .bind(&row.stamp[..])
        .bind(row.expires_ms)
        .bind(row.trims_ms)
        .bind(&row.record[..])
        .bind(row.now_ms)
        .execute(conn)
        .await?;
        Ok(done.rows_affected())
    }

    async fn delete(conn: &mut PgConnection, key: &RecordKey, expect: &StampBytes) -> sqlx::Result<u64> {
        let done = sqlx::query("DELETE FROM semel_records WHERE record_key = $1 AND stamp = $2")
            .bind(&key.as_bytes()[..])
            .bind(&expect[..])
            .execute(conn)
            .await?;
        Ok(done.rows_affected())
    }

    async fn read(conn: &mut PgConnection, key: &RecordKey, now_ms: Option<i64>) -> sqlx::Result<Option<Row>> {
        let row = sqlx::query(concat!(
            "SELECT stamp, written_at_ms, record, ",
            clock!("$2"),
            " AS now_ms FROM semel_records WHERE record_key = $1"
        ))
        .bind(&key.as_bytes()[..])
        .bind(now_ms)
        .fetch_optional(conn)
        .await?;
        row.as_ref().map(read_row).transpose()
    }

    async fn delete_expired(pool: &Pool<Postgres>, now_ms: Option<i64>, limit: i64) -> sqlx::Result<u64> {
        let done = sqlx::query(concat!(
            "DELETE FROM semel_records WHERE record_key IN (SELECT record_key FROM semel_records WHERE expires_at_ms <= ",
            clock!("$1"),
            " ORDER BY expires_at_ms LIMIT $2 FOR UPDATE SKIP LOCKED)"
        ))
        .bind(now_ms)
        .bind(limit)
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    async fn read_trimmable(
        pool: &Pool<Postgres>,
        now_ms: Option<i64>,
        limit: i64,
    ) -> sqlx::Result<Vec<(Vec<u8>, Row)>> {
        let rows = sqlx::query(concat!(
            "SELECT record_key, stamp, written_at_ms, record, ",
            clock!("$1"),
            " AS now_ms FROM semel_records WHERE trims_at_ms <= ",
            clock!("$1"),
            " ORDER BY trims_at_ms LIMIT $2"
        ))
        .bind(now_ms)
        .bind(limit)
        .fetch_all(pool)
        .await?;
        rows.iter().map(|row| Ok((row.try_get("record_key")?, read_row(row)?))).collect()
    }

    async fn trim(pool: &Pool<Postgres>, key: &[u8], stamp: &[u8], record: &[u8]) -> sqlx::Result<u64> {
        let done = sqlx::query(
            "UPDATE semel_records SET record = $3, trims_at_ms = NULL WHERE record_key = $1 AND stamp = $2",
        )
        .bind(key)
        .bind(stamp)
        .bind(record)
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    async fn migrate(pool: &Pool<Postgres>) -> Result<(), Error> {
        let mut tx = pool.begin().await?;
        // CREATE TABLE IF NOT EXISTS of two sessions at once can fail. The number is "semel" in ASCII.
        sqlx::raw_sql(
            "SELECT pg_advisory_xact_lock(495622907244); \
             CREATE TABLE IF NOT EXISTS semel_schema (version INTEGER NOT NULL PRIMARY KEY)",
        )
        .execute(&mut *tx)
        .await?;
        let version: Option<i32> =
            sqlx::query_scalar("SELECT max(version) FROM semel_schema").fetch_one(&mut *tx).await?;
        known_schema(version.map(i64::from))?;
        sqlx::raw_sql(Self::SCHEMA).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    fn failure(error: &sqlx::Error) -> Failure {
        let sqlx::Error::Database(error) = error else { return super::failure_of_driver(error) };
        let code = error.code().unwrap_or_default();
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        match &*code {
            // serialization_failure, deadlock_detected
            "40001" | "40P01" => Failure::Conflict,
            // lock_not_available
            "55P03" => Failure::Waited,
            // query_canceled is somebody's statement_timeout
            "57014" => Failure::Broken,
            // read_only_sql_transaction: a standby, after a fail-over
            "25006" => Failure::Unavailable,
            // connection exceptions, insufficient resources, operator intervention
            code if ["08", "53", "57"].iter().any(|class| code.starts_with(class)) => Failure::Unavailable,
            _ => Failure::Broken,
        }
    }
}

fn read_row(row: &PgRow) -> sqlx::Result<Row> {
    Ok(Row {
        stamp: row.try_get("stamp")?,
        written_at_ms: row.try_get("written_at_ms")?,
        now_ms: row.try_get("now_ms")?,
        record: row.try_get("record")?,
    })
}
