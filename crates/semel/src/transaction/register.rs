//! The register of `semel_core` on a database transaction: what a swap means in rows, whatever the database.

use std::{fmt, future::Future, time::Duration};

use bytes::{Bytes, BytesMut};
use semel_core::{
    record::{ExchangeId, Record, Stamp},
    register::{Found, Put, Swap, Swapped},
    scope::RecordKey,
};
use sqlx::{Pool, Transaction};

use super::Error;

/// A database whose transactions can carry records: [`sqlx::Sqlite`] and [`sqlx::Postgres`], and nobody else's.
pub trait Register: Sealed {}

/// The statements. Every one of them runs on the transaction that the caller's own writes run on.
pub trait Sealed: sqlx::Database {
    /// What a transaction is told besides the policy.
    type Settings: Copy + fmt::Debug + Default + Send + Sync + 'static;

    /// The tables.
    const SCHEMA: &'static str;

    /// Whether a look at the committed record comes first. Where there is one writer at a time, a retry that only wants
    /// its reply should not wait for the writer of another key.
    const LOOKS_FIRST: bool;

    /// Begins a transaction whose claim waits at most `patience` for a concurrent one.
    fn begin(
        pool: &Pool<Self>,
        patience: Duration,
        settings: Self::Settings,
    ) -> impl Future<Output = sqlx::Result<Transaction<'static, Self>>> + Send;

    /// The claim is confirmed: from here on the transaction waits as its owner configured it, and
    /// [`Sealed::undo_work`] comes back to here.
    fn claimed(tx: &mut Transaction<'static, Self>) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Undoes everything since [`Sealed::claimed`].
    fn undo_work(tx: &mut Transaction<'static, Self>) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Fails where a commit would not commit: a transaction in which a statement failed.
    fn check(tx: &mut Transaction<'static, Self>) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Before a rollback: makes sure that there is something to roll back, where the driver would not do without.
    fn mend(tx: &mut Transaction<'static, Self>) -> impl Future<Output = ()> + Send;

    /// Inserts unless there is a row.
    fn insert(
        conn: &mut Self::Connection,
        key: &RecordKey,
        row: &NewRow,
    ) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Replaces the row that bears `expect`.
    fn update(
        conn: &mut Self::Connection,
        key: &RecordKey,
        expect: &StampBytes,
        row: &NewRow,
    ) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Deletes the row that bears `expect`.
    fn delete(
        conn: &mut Self::Connection,
        key: &RecordKey,
        expect: &StampBytes,
    ) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Reads the row.
    fn read(
        conn: &mut Self::Connection,
        key: &RecordKey,
        now_ms: Option<i64>,
    ) -> impl Future<Output = sqlx::Result<Option<Row>>> + Send;

    /// Deletes at most `limit` rows past their retention.
    fn delete_expired(
        pool: &Pool<Self>,
        now_ms: Option<i64>,
        limit: i64,
    ) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Reads at most `limit` rows whose content is past its time, with their keys.
    fn read_trimmable(
        pool: &Pool<Self>,
        now_ms: Option<i64>,
        limit: i64,
    ) -> impl Future<Output = sqlx::Result<Vec<(Vec<u8>, Row)>>> + Send;

    /// Replaces the bytes of a row whose content is past its time, and nothing else of it.
    fn trim(
        pool: &Pool<Self>,
        key: &[u8],
        stamp: &[u8],
        record: &[u8],
    ) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Applies the tables, one process at a time.
    fn migrate(pool: &Pool<Self>) -> impl Future<Output = Result<(), Error>> + Send;

    /// What an error means for whoever may try again.
    fn failure(error: &sqlx::Error) -> Failure;
}

/// What a failed statement means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Two transactions were in each other's way, and the database chose this one to give up (conformance C10).
    Conflict,
    /// The patience of [`Sealed::begin`] is over, and it was this key that was waited for.
    Waited,
    /// Somebody writes, perhaps something else, for longer than the connection waits.
    Busy,
    /// The database cannot be reached, or takes no writes now.
    Unavailable,
    /// Anything else: asking again would answer the same.
    Broken,
}

pub type StampBytes = [u8; 18];

/// A row to write.
#[derive(Debug)]
pub struct NewRow {
    pub stamp: StampBytes,
    /// The time of the caller's clock; `None`: the database's own.
    pub now_ms: Option<i64>,
    /// How long after now.
    pub expires_ms: i64,
    pub trims_ms: Option<i64>,
    pub record: Vec<u8>,
}

/// A row as it was read, and the time it was read at by the same clock.
#[derive(Debug)]
pub struct Row {
    pub stamp: Vec<u8>,
    pub written_at_ms: i64,
    pub now_ms: i64,
    pub record: Vec<u8>,
}

/// Why a swap has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SwapError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// Bytes that do not decode are never "absent" (I11).
    #[error("the row of a record does not decode: {0}")]
    Corrupt(String),
}

/// How often a swap looks again at a row that others change under it.
const LOOKS_MAX: u32 = 3;

/// [`crate::store::Store::swap`], as rows of the transaction that `conn` is in.
pub(super) async fn swap<DB: Register>(
    conn: &mut DB::Connection,
    key: &RecordKey,
    swap: &Swap,
    now_ms: Option<i64>,
) -> Result<Swapped, SwapError> {
    let put = swap.put.as_ref().map(|put| new_row(put, now_ms));
    for _ in 0..LOOKS_MAX {
        let changed = match (&swap.expect, &put) {
            (None, Some(row)) => DB::insert(conn, key, row).await?,
            (Some(expect), Some(row)) => DB::update(conn, key, &stamp_bytes(*expect), row).await?,
            (Some(expect), None) => DB::delete(conn, key, &stamp_bytes(*expect)).await?,
            (None, None) => 0,
        };
        if changed == 1 {
            return Ok(Swapped::Done);
        }
        let row = DB::read(conn, key, now_ms).await?;
        let old = row.as_ref().map(|row| row.stamp.clone());
        match (row.map(found).transpose()?.flatten(), &swap.expect, &put) {
            (Some(found), ..) if swap.put.as_ref().is_some_and(|put| put.stamp == found.stamp) => {
                return Ok(Swapped::Done);
            }
            (Some(found), ..) => return Ok(Swapped::Found(found)),
            (None, Some(_), _) => return Ok(Swapped::Absent),
            (None, None, None) => return Ok(Swapped::Done),
            // A row past its retention is no record any more, and stands in the way of the new one.
            (None, None, Some(row)) => {
                if let Some(old) = old.and_then(|old| StampBytes::try_from(old).ok())
                    && DB::update(conn, key, &old, row).await? == 1
                {
                    return Ok(Swapped::Done);
                }
            }
        }
    }
    Err(SwapError::Database(sqlx::Error::Io(std::io::Error::other("a record changed faster than it could be read"))))
}

/// What a row shows of its record; `None` past its retention.
pub(super) fn found(row: Row) -> Result<Option<Found>, SwapError> {
    let corrupt = |what: &str| SwapError::Corrupt(what.to_owned());
    let stamp = StampBytes::try_from(row.stamp).map_err(|_| corrupt("the stamp has not 18 bytes"))?;
    let record = Record::decode(Bytes::from(row.record)).map_err(|error| corrupt(&error.to_string()))?;
    // A clock that was set back makes no record older, and none negative.
    let age = Duration::from_millis(u64::try_from(row.now_ms.saturating_sub(row.written_at_ms)).unwrap_or(0));
    let stamp = read_stamp(stamp);
    Ok(record.at_age(age).map(|record| Found { stamp, age, abandoned: false, record }))
}

/// Deletes and trims up to `limit` records.
pub(super) async fn sweep<DB: Register>(pool: &Pool<DB>, now_ms: Option<i64>, limit: u32) -> Result<u32, Error> {
    let mut swept = u32::try_from(DB::delete_expired(pool, now_ms, i64::from(limit)).await?).unwrap_or(limit);
    while swept < limit {
        let page = TRIM_PAGE.min(limit - swept);
        let rows = DB::read_trimmable(pool, now_ms, i64::from(page)).await?;
        let read = u32::try_from(rows.len()).unwrap_or(page);
        for (key, row) in rows {
            let stamp = row.stamp.clone();
            if let Some(found) = found(row)? {
                DB::trim(pool, &key, &stamp, &encode(&found.record)).await?;
            }
        }
        swept += read;
        if read < page {
            break;
        }
    }
    Ok(swept)
}

/// How many records are trimmed at a time: their contents are read, and may be large.
const TRIM_PAGE: u32 = 64;

fn new_row(put: &Put, now_ms: Option<i64>) -> NewRow {
    NewRow {
        stamp: stamp_bytes(put.stamp),
        now_ms,
        expires_ms: millis(put.record.retention),
        trims_ms: put.record.trims_at().map(millis),
        record: encode(&put.record),
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    record.encode(&mut bytes);
    bytes.into()
}

/// Far enough ahead for any retention, and no sum of two of them overflows.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

fn stamp_bytes(stamp: Stamp) -> StampBytes {
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&stamp.exchange.0.to_be_bytes());
    bytes[16..].copy_from_slice(&stamp.write.to_be_bytes());
    bytes
}

fn read_stamp(bytes: StampBytes) -> Stamp {
    let (exchange, write) = bytes.split_first_chunk::<16>().expect("18 bytes are more than 16");
    let exchange = ExchangeId(u128::from_be_bytes(*exchange));
    Stamp { exchange, write: u16::from_be_bytes(write.try_into().expect("18 less 16 bytes are 2")) }
}
