//! The business data of the sandbox, in tables beside the idempotency records, on SQLite and on PostgreSQL.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::Value;
use sqlx::{PgConnection, SqliteConnection};

/// A record as it is added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New<'a> {
    /// Whose.
    pub(crate) vendor: &'a str,
    /// `order`, `enquiry`, `intent`, ...
    pub(crate) kind: &'a str,
    /// The resource's id, as the API names it.
    pub(crate) id: &'a str,
    /// Whose resource it is, in the vendor's terms: a merchant and environment, an organisation; empty for nobody's.
    pub(crate) owner: &'a str,
    /// The idempotency key as the client sent it, or the resource id where that is the key.
    pub(crate) key: Option<&'a str>,
    /// The sandbox's time.
    pub(crate) created_at_ms: u64,
    /// Part of the fixtures, and not in the ledger.
    pub(crate) is_fixture: bool,
    /// Everything else.
    pub(crate) data: &'a Value,
}

/// A record as it is kept.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Row {
    /// Its number in the books, rising.
    pub(crate) number: i64,
    /// See [`New`].
    pub(crate) kind: String,
    /// See [`New`].
    pub(crate) id: String,
    /// See [`New`].
    pub(crate) owner: String,
    /// See [`New`].
    pub(crate) key: Option<String>,
    /// See [`New`].
    pub(crate) created_at_ms: u64,
    /// See [`New`].
    pub(crate) data: Value,
}

/// The books within one open transaction. Whoever reads through it holds the vendor's books until the transaction ends,
/// so that what was read stays true (a row lock per vendor on PostgreSQL, the only writer on SQLite).
#[async_trait::async_trait]
pub(crate) trait Books: Send {
    /// Adds a record; gives its number. Nothing keeps two records from having one id: that is for the handler.
    async fn add(&mut self, new: New<'_>) -> sqlx::Result<i64>;
    /// The newest record of an id.
    async fn find(&mut self, vendor: &str, kind: &str, id: &str) -> sqlx::Result<Option<Row>>;
    /// All records of a kind, oldest first.
    async fn list(&mut self, vendor: &str, kind: &str) -> sqlx::Result<Vec<Row>>;
    /// Replaces the data of a record.
    async fn change(&mut self, number: i64, data: &Value) -> sqlx::Result<()>;
    /// Writes a debit.
    async fn debit(&mut self, vendor: &str, account: &str, amount: &str, record_id: &str) -> sqlx::Result<()>;
    /// A value that is not a record.
    async fn state(&mut self, vendor: &str, name: &str) -> sqlx::Result<Option<Value>>;
    /// Sets one.
    async fn keep(&mut self, vendor: &str, name: &str, value: &Value) -> sqlx::Result<()>;
}

/// A debit as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Debit {
    /// Whose books.
    pub(crate) vendor: String,
    /// Which account.
    pub(crate) account: String,
    /// How much, as the vendor writes money.
    pub(crate) amount: String,
    /// The resource that it pays for.
    pub(crate) record_id: String,
}

/// What the sandbox itself does with the books, beyond what a handler may.
#[async_trait::async_trait]
pub(crate) trait Keeper: Books {
    /// Waits until nobody else holds the vendor's books, and holds them until the transaction ends.
    async fn hold(&mut self, vendor: &str) -> sqlx::Result<()>;
    /// Creates the tables, if they are not there.
    async fn migrate(&mut self) -> sqlx::Result<()>;
    /// Every record that is not a fixture, oldest first, of one vendor or of all.
    async fn records(&mut self, vendor: Option<&str>) -> sqlx::Result<Vec<(String, Row)>>;
    /// Every debit, oldest first, of one vendor or of all.
    async fn debits(&mut self, vendor: Option<&str>) -> sqlx::Result<Vec<Debit>>;
    /// Whether the vendor's fixtures were put down.
    async fn is_furnished(&mut self, vendor: &str) -> sqlx::Result<bool>;
    /// From now on they were.
    async fn mark_furnished(&mut self, vendor: &str) -> sqlx::Result<()>;
    /// The settings of a vendor that differ from their defaults.
    async fn settings(&mut self, vendor: &str) -> sqlx::Result<BTreeMap<String, Value>>;
    /// Sets one.
    async fn set(&mut self, vendor: &str, name: &str, value: &Value) -> sqlx::Result<()>;
    /// A value that belongs to no vendor.
    async fn meta(&mut self, name: &str) -> sqlx::Result<Option<String>>;
    /// Sets one.
    async fn keep_meta(&mut self, name: &str, value: &str) -> sqlx::Result<()>;
    /// Deletes everything but what belongs to no vendor, idempotency records too.
    async fn wipe(&mut self) -> sqlx::Result<()>;
}

/// A row of `sandbox_records`: vendor, number, kind, id, owner, key, created_at_ms, data.
type RecordRow = (String, i64, String, String, String, Option<String>, i64, String);

fn record((_, number, kind, id, owner, key, created_at_ms, data): RecordRow) -> sqlx::Result<Row> {
    let created_at_ms = u64::try_from(created_at_ms).unwrap_or_default();
    Ok(Row { number, kind, id, owner, key, created_at_ms, data: parse(&data)? })
}

fn debit((vendor, account, amount, record_id): (String, String, String, String)) -> Debit {
    Debit { vendor, account, amount, record_id }
}

/// The two databases speak the same SQL here, except for what is named in the invocations: `$1` is SQLite's as well.
macro_rules! books {
    ($connection:ty, hold: $hold:literal, schema: $schema:literal) => {
        #[async_trait::async_trait]
        impl Books for $connection {
            async fn add(&mut self, new: New<'_>) -> sqlx::Result<i64> {
                sqlx::query_scalar(
                    "INSERT INTO sandbox_records (vendor, kind, id, owner, key, created_at_ms, is_fixture, data)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING number",
                )
                .bind(new.vendor)
                .bind(new.kind)
                .bind(storable(new.id))
                .bind(storable(new.owner))
                .bind(new.key.map(storable))
                .bind(whole(new.created_at_ms))
                .bind(i64::from(new.is_fixture))
                .bind(new.data.to_string())
                .fetch_one(self)
                .await
            }

            async fn find(&mut self, vendor: &str, kind: &str, id: &str) -> sqlx::Result<Option<Row>> {
                let row: Option<RecordRow> = sqlx::query_as(
                    "SELECT vendor, number, kind, id, owner, key, created_at_ms, data FROM sandbox_records
                     WHERE vendor = $1 AND kind = $2 AND id = $3 ORDER BY number DESC LIMIT 1",
                )
                .bind(vendor)
                .bind(kind)
                .bind(storable(id))
                .fetch_optional(self)
                .await?;
                row.map(record).transpose()
            }

            async fn list(&mut self, vendor: &str, kind: &str) -> sqlx::Result<Vec<Row>> {
                let rows: Vec<RecordRow> = sqlx::query_as(
                    "SELECT vendor, number, kind, id, owner, key, created_at_ms, data FROM sandbox_records
                     WHERE vendor = $1 AND kind = $2 ORDER BY number",
                )
                .bind(vendor)
                .bind(kind)
                .fetch_all(self)
                .await?;
                rows.into_iter().map(record).collect()
            }

            async fn change(&mut self, number: i64, data: &Value) -> sqlx::Result<()> {
                let changed = sqlx::query("UPDATE sandbox_records SET data = $2 WHERE number = $1")
                    .bind(number)
                    .bind(data.to_string())
                    .execute(self)
                    .await?;
                if changed.rows_affected() == 1 { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
            }

            async fn debit(&mut self, vendor: &str, account: &str, amount: &str, record_id: &str) -> sqlx::Result<()> {
                sqlx::query(
                    "INSERT INTO sandbox_debits (vendor, account, amount, record_id) VALUES ($1, $2, $3, $4)",
                )
                .bind(vendor)
                .bind(storable(account))
                .bind(amount)
                .bind(storable(record_id))
                .execute(self)
                .await
                .map(drop)
            }

            async fn state(&mut self, vendor: &str, name: &str) -> sqlx::Result<Option<Value>> {
                let text: Option<String> =
                    sqlx::query_scalar("SELECT value FROM sandbox_state WHERE vendor = $1 AND name = $2")
                        .bind(vendor)
                        .bind(storable(name))
                        .fetch_optional(self)
                        .await?;
                text.map(|text| parse(&text)).transpose()
            }

            async fn keep(&mut self, vendor: &str, name: &str, value: &Value) -> sqlx::Result<()> {
                sqlx::query(
                    "INSERT INTO sandbox_state (vendor, name, value) VALUES ($1, $2, $3)
                     ON CONFLICT (vendor, name) DO UPDATE SET value = excluded.value",
                )
                .bind(vendor)
                .bind(storable(name))
                .bind(value.to_string())
                .execute(self)
                .await
                .map(drop)
            }
        }

        #[async_trait::async_trait]
        impl Keeper for $connection {
            async fn hold(&mut self, vendor: &str) -> sqlx::Result<()> {
                sqlx::query($hold).bind(vendor).fetch_one(self).await.map(drop)
            }

            async fn migrate(&mut self) -> sqlx::Result<()> {
                sqlx::raw_sql($schema).execute(self).await.map(drop)
            }

            async fn records(&mut self, vendor: Option<&str>) -> sqlx::Result<Vec<(String, Row)>> {
                let rows: Vec<RecordRow> = sqlx::query_as(
                    "SELECT vendor, number, kind, id, owner, key, created_at_ms, data FROM sandbox_records
                     WHERE is_fixture = 0 AND ($1 IS NULL OR vendor = $1) ORDER BY number",
                )
                .bind(vendor)
                .fetch_all(self)
                .await?;
                rows.into_iter().map(|row| Ok((row.0.clone(), record(row)?))).collect()
            }

            async fn debits(&mut self, vendor: Option<&str>) -> sqlx::Result<Vec<Debit>> {
                let rows = sqlx::query_as(
                    "SELECT vendor, account, amount, record_id FROM sandbox_debits
                     WHERE $1 IS NULL OR vendor = $1 ORDER BY number",
                )
                .bind(vendor)
                .fetch_all(self)
                .await?;
                Ok(rows.into_iter().map(debit).collect())
            }

            async fn is_furnished(&mut self, vendor: &str) -> sqlx::Result<bool> {
                sqlx::query("INSERT INTO sandbox_vendors (vendor, furnished) VALUES ($1, 0) ON CONFLICT DO NOTHING")
                    .bind(vendor)
                    .execute(&mut *self)
                    .await?;
                let furnished: i64 = sqlx::query_scalar("SELECT furnished FROM sandbox_vendors WHERE vendor = $1")
                    .bind(vendor)
                    .fetch_one(self)
                    .await?;
                Ok(furnished != 0)
            }

            async fn mark_furnished(&mut self, vendor: &str) -> sqlx::Result<()> {
                sqlx::query("UPDATE sandbox_vendors SET furnished = 1 WHERE vendor = $1")
                    .bind(vendor)
                    .execute(self)
                    .await
                    .map(drop)
            }

            async fn settings(&mut self, vendor: &str) -> sqlx::Result<BTreeMap<String, Value>> {
                let rows: Vec<(String, String)> =
                    sqlx::query_as("SELECT name, value FROM sandbox_settings WHERE vendor = $1")
                        .bind(vendor)
                        .fetch_all(self)
                        .await?;
                rows.into_iter().map(|(name, value)| Ok((name, parse(&value)?))).collect()
            }

            async fn set(&mut self, vendor: &str, name: &str, value: &Value) -> sqlx::Result<()> {
                sqlx::query(
                    "INSERT INTO sandbox_settings (vendor, name, value) VALUES ($1, $2, $3)
                     ON CONFLICT (vendor, name) DO UPDATE SET value = excluded.value",
                )
                .bind(vendor)
                .bind(name)
                .bind(value.to_string())
                .execute(self)
                .await
                .map(drop)
            }

            async fn meta(&mut self, name: &str) -> sqlx::Result<Option<String>> {
                sqlx::query_scalar("SELECT value FROM sandbox_meta WHERE name = $1")
                    .bind(name)
                    .fetch_optional(self)
                    .await
            }

            async fn keep_meta(&mut self, name: &str, value: &str) -> sqlx::Result<()> {
                sqlx::query(
                    "INSERT INTO sandbox_meta (name, value) VALUES ($1, $2)
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                )
                .bind(name)
                .bind(value)
                .execute(self)
                .await
                .map(drop)
            }

            async fn wipe(&mut self) -> sqlx::Result<()> {
                sqlx::raw_sql(
                    "DELETE FROM semel_records; DELETE FROM sandbox_records; DELETE FROM sandbox_debits;
                     DELETE FROM sandbox_state; DELETE FROM sandbox_settings; UPDATE sandbox_vendors SET furnished = 0",
                )
                .execute(self)
                .await
                .map(drop)
            }
        }
    };
}

books!(
    SqliteConnection,
    hold: "SELECT furnished FROM sandbox_vendors WHERE vendor = $1",
    schema: "
        CREATE TABLE IF NOT EXISTS sandbox_records (
            number INTEGER PRIMARY KEY AUTOINCREMENT, vendor TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
            owner TEXT NOT NULL, key TEXT, created_at_ms INTEGER NOT NULL, is_fixture INTEGER NOT NULL,
            data TEXT NOT NULL);
        CREATE INDEX IF NOT EXISTS sandbox_records_id ON sandbox_records (vendor, kind, id);
        CREATE TABLE IF NOT EXISTS sandbox_debits (
            number INTEGER PRIMARY KEY AUTOINCREMENT, vendor TEXT NOT NULL, account TEXT NOT NULL, amount TEXT NOT NULL,
            record_id TEXT NOT NULL);
        CREATE TABLE IF NOT EXISTS sandbox_state (
            vendor TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (vendor, name));
        CREATE TABLE IF NOT EXISTS sandbox_settings (
            vendor TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (vendor, name));
        CREATE TABLE IF NOT EXISTS sandbox_vendors (vendor TEXT NOT NULL PRIMARY KEY, furnished INTEGER NOT NULL);
        CREATE TABLE IF NOT EXISTS sandbox_meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL);"
);

books!(
    PgConnection,
    hold: "SELECT furnished FROM sandbox_vendors WHERE vendor = $1 FOR UPDATE",
    schema: "
        CREATE TABLE IF NOT EXISTS sandbox_records (
            number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, vendor TEXT NOT NULL, kind TEXT NOT NULL,
            id TEXT NOT NULL, owner TEXT NOT NULL, key TEXT, created_at_ms BIGINT NOT NULL, is_fixture BIGINT NOT NULL,
            data TEXT NOT NULL);
        CREATE INDEX IF NOT EXISTS sandbox_records_id ON sandbox_records (vendor, kind, id);
        CREATE TABLE IF NOT EXISTS sandbox_debits (
            number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, vendor TEXT NOT NULL, account TEXT NOT NULL,
            amount TEXT NOT NULL, record_id TEXT NOT NULL);
        CREATE TABLE IF NOT EXISTS sandbox_state (
            vendor TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (vendor, name));
        CREATE TABLE IF NOT EXISTS sandbox_settings (
            vendor TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (vendor, name));
        CREATE TABLE IF NOT EXISTS sandbox_vendors (vendor TEXT NOT NULL PRIMARY KEY, furnished BIGINT NOT NULL);
        CREATE TABLE IF NOT EXISTS sandbox_meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL);"
);

/// PostgreSQL has no texts with a NUL in them, and none is meant by one.
fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn parse(text: &str) -> sqlx::Result<Value> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
