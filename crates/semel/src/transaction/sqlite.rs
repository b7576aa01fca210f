//! SQLite: one writer at a time, so the claim begins with the right to write.

use std::time::Duration;

use semel_core::scope::RecordKey;
use sqlx::{Pool, Row as _, Sqlite, SqliteConnection, Transaction, sqlite::SqliteRow};

use super::{
    Error, known_schema,
    register::{Failure, NewRow, Register, Row, Sealed, StampBytes},
};

impl Register for Sqlite {}

impl Sealed for Sqlite {
    type Settings = ();

    const SCHEMA: &'static str = include_str!("schema/sqlite.sql");
    const LOOKS_FIRST: bool = true;

    /// The wait for the one writer is as long as the connection's `busy_timeout`, since it is mostly a wait for other
    /// keys.
    async fn begin(pool: &Pool<Sqlite>, _patience: Duration, (): ()) -> sqlx::Result<Transaction<'static, Sqlite>> {
        // IMMEDIATE: a transaction that reads first and wants to write later is refused instead of waiting.
        pool.begin_with("BEGIN IMMEDIATE").await
    }

    async fn claimed(tx: &mut Transaction<'static, Sqlite>) -> sqlx::Result<()> {
        sqlx::raw_sql("SAVEPOINT semel_work").execute(&mut **tx).await.map(drop)
    }

    async fn undo_work(tx: &mut Transaction<'static, Sqlite>) -> sqlx::Result<()> {
        sqlx::raw_sql("ROLLBACK TO semel_work").execute(&mut **tx).await.map(drop)
    }

    /// After an error that rolled the whole transaction back there is no savepoint either.
    async fn check(tx: &mut Transaction<'static, Sqlite>) -> sqlx::Result<()> {
        sqlx::raw_sql("RELEASE semel_work").execute(&mut **tx).await.map(drop)
    }

    /// SQLite rolls back by itself when the disk is full, for one; a driver that then fails to roll back counts one
    /// transaction too many, and the connection could begin no other.
    async fn mend(tx: &mut Transaction<'static, Sqlite>) {
        // Refused, and harmless, where the transaction is still there.
        let _ = sqlx::raw_sql("BEGIN").execute(&mut **tx).await;
    }

    async fn insert(conn: &mut SqliteConnection, key: &RecordKey, row: &NewRow) -> sqlx::Result<u64> {
        let now_ms = row.now_ms.expect("on SQLite the clock is the caller's");
        let done = sqlx::query(
            "INSERT INTO semel_records (record_key, stamp, written_at_ms, expires_at_ms, trims_at_ms, record)
             VALUES (?1, ?2, ?3, ?3 + ?4, ?3 + ?5, ?6) ON CONFLICT DO NOTHING",
        )
        .bind(&key.as_bytes()[..])
        .bind(&row.stamp[..])
        .bind(now_ms)
        .bind(row.expires_ms)
        .bind(row.trims_ms)
        .bind(&row.record[..])
        .execute(conn)
        .await?;
        Ok(done.rows_affected())
    }

    async fn update(
        conn: &mut SqliteConnection,
        key: &RecordKey,
        expect: &StampBytes,
        row: &NewRow,
    ) -> sqlx::Result<u64> {
        let now_ms = row.now_ms.expect("on SQLite the clock is the caller's");
        let done = sqlx::query(
            "UPDATE semel_records SET stamp = ?3, written_at_ms = ?4, expires_at_ms = ?4 + ?5, trims_at_ms = ?4 + ?6,
             record = ?7 WHERE record_key = ?1 AND stamp = ?2",
        )
        .bind(&key.as_bytes()[..])
        .bind(&expect[..])
        .bind(&row.stamp[..])
        .bind(now_ms)
        .bind(row.expires_ms)
        .bind(row.trims_ms)
        .bind(&row.record[..])
        .execute(conn)
        .await?;
        Ok(done.rows_affected())
    }

    async fn delete(conn: &mut SqliteConnection, key: &RecordKey, expect: &StampBytes) -> sqlx::Result<u64> {
        let done = sqlx::query("DELETE FROM semel_records WHERE record_key = ?1 AND stamp = ?2")
            .bind(&key.as_bytes()[..])
            .bind(&expect[..])
            .execute(conn)
            .await?;
        Ok(done.rows_affected())
    }

    async fn read(conn: &mut SqliteConnection, key: &RecordKey, now_ms: Option<i64>) -> sqlx::Result<Option<Row>> {
        let now_ms = now_ms.expect("on SQLite the clock is the caller's");
        let row = sqlx::query("SELECT stamp, written_at_ms, record FROM semel_records WHERE record_key = ?1")
            .bind(&key.as_bytes()[..])
            .fetch_optional(conn)
            .await?;
        row.map(|row| read_row(&row, now_ms)).transpose()
    }

    async fn delete_expired(pool: &Pool<Sqlite>, now_ms: Option<i64>, limit: i64) -> sqlx::Result<u64> {
        let done = sqlx::query(
            "DELETE FROM semel_records WHERE rowid IN
             (SELECT rowid FROM semel_records WHERE expires_at_ms <= ?1 ORDER BY expires_at_ms LIMIT ?2)",
        )
        .bind(now_ms)
        .bind(limit)
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    async fn read_trimmable(pool: &Pool<Sqlite>, now_ms: Option<i64>, limit: i64) -> sqlx::Result<Vec<(Vec<u8>, Row)>> {
        let now_ms = now_ms.expect("on SQLite the clock is the caller's");
        let rows = sqlx::query(
            "SELECT record_key, stamp, written_at_ms, record FROM semel_records
             WHERE trims_at_ms <= ?1 ORDER BY trims_at_ms LIMIT ?2",
        )
        .bind(now_ms)
        .bind(limit)
        .fetch_all(pool)
        .await?;
        rows.iter().map(|row| Ok((row.try_get("record_key")?, read_row(row, now_ms)?))).collect()
    }

    async fn trim(pool: &Pool<Sqlite>, key: &[u8], stamp: &[u8], record: &[u8]) -> sqlx::Result<u64> {
        let done = sqlx::query(
            "UPDATE semel_records SET record = ?3, trims_at_ms = NULL WHERE record_key = ?1 AND stamp = ?2",
        )
        .bind(key)
        .bind(stamp)
        .bind(record)
        .execute(pool)
        .await?;
        Ok(done.rows_affected())
    }

    async fn migrate(pool: &Pool<Sqlite>) -> Result<(), Error> {
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql("CREATE TABLE IF NOT EXISTS semel_schema (version INTEGER NOT NULL PRIMARY KEY)")
            .execute(&mut *tx)
            .await?;
        known_schema(sqlx::query_scalar("SELECT max(version) FROM semel_schema").fetch_one(&mut *tx).await?)?;
        sqlx::raw_sql(Self::SCHEMA).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    fn failure(error: &sqlx::Error) -> Failure {
        let sqlx::Error::Database(error) = error else { return super::failure_of_driver(error) };
        let code = error.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or_default();
        match code & 0xff {
            // The extended codes: somebody recovers the log, or wrote since this transaction read.
            SQLITE_BUSY | SQLITE_LOCKED if code > 0xff => Failure::Conflict,
            SQLITE_BUSY | SQLITE_LOCKED => Failure::Busy,
            SQLITE_READONLY | SQLITE_IOERR | SQLITE_FULL | SQLITE_CANTOPEN => Failure::Unavailable,
            _ => Failure::Broken,
        }
    }
}

// https://www.sqlite.org/rescode.html
const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
const SQLITE_READONLY: u32 = 8;
const SQLITE_IOERR: u32 = 10;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;

fn read_row(row: &SqliteRow, now_ms: i64) -> sqlx::Result<Row> {
    Ok(Row {
        stamp: row.try_get("stamp")?,
        written_at_ms: row.try_get("written_at_ms")?,
        now_ms,
        record: row.try_get("record")?,
    })
}
