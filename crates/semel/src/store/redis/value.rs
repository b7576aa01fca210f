//! What is under a key in Redis, and how scripts are asked about it.

use std::{sync::LazyLock, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use redis::{Cmd, Value};
use semel_core::record::ExchangeId;

use super::super::{Found, PhaseKind, Put, Record, RecordKey, Stamp, StoreError, Swap, Swapped};

/// How many bytes the head of a value has; `head.lua` says what they are.
pub(super) const HEAD_LEN: usize = 57;
const STAMP_LEN: usize = 18;
/// CRC-32C, after each record.
const CHECKSUM_LEN: usize = 4;
/// Lua counts exactly up to here: a time later than this, in milliseconds, is never.
const NEVER_MS: u64 = 1 << 53;
/// Retentions are cut to this, some 140,000 years, so that they can still be added to a time.
const RETENTION_MS_MAX: u64 = 1 << 52;

/// A script of ours, known to the server by its digest.
#[derive(Debug)]
pub(super) struct Script {
    text: String,
    digest: String,
}

macro_rules! script {
    ($first_line:literal, $body:literal) => {
        LazyLock::new(|| {
            let text = concat!($first_line, "\n", include_str!("head.lua"), include_str!($body));
            Script { text: text.to_owned(), digest: redis::Script::new(text).get_hash().to_owned() }
        })
    };
}

/// A swap that the server refuses when it has no room. It is a writing script always, so that no replica answers it.
pub(super) static SWAP: LazyLock<Script> = script!("#!lua", "swap.lua");
/// A swap that runs without room too.
pub(super) static SWAP_ANYWAY: LazyLock<Script> = script!("#!lua flags=allow-oom", "swap.lua");
/// See `sweep.lua`.
pub(super) static SWEEP: LazyLock<Script> = script!("#!lua flags=allow-oom", "sweep.lua");

impl Script {
    /// Asks for it by its digest, about several keys, each with the same number of arguments.
    pub(super) fn by_digest<'a>(&self, keys: usize, of: impl Fn(usize) -> Asked<'a>) -> Cmd {
        Script::command("EVALSHA", &self.digest, keys, of)
    }

    /// Brings the text along, for a server that does not know it.
    pub(super) fn by_text<'a>(&self, keys: usize, of: impl Fn(usize) -> Asked<'a>) -> Cmd {
        Script::command("EVAL", &self.text, keys, of)
    }

    fn command<'a>(name: &str, script: &str, keys: usize, of: impl Fn(usize) -> Asked<'a>) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(keys);
        for n in 0..keys {
            command.arg(of(n).key);
        }
        for n in 0..keys {
            let Asked { arguments, ends_ms, .. } = of(n);
            for argument in arguments {
                command.arg(argument.as_ref());
            }
            command.arg(&ends_ms.to_be_bytes());
        }
        command
    }
}

/// What a script is asked about one key.
pub(super) struct Asked<'a> {
    pub(super) key: &'a str,
    pub(super) arguments: &'a [Bytes],
    /// Until when it may run: the server's time in milliseconds.
    pub(super) ends_ms: u64,
}

/// The key of a record: readable, and without the braces by which a Cluster would place it otherwise.
pub(super) fn key_text(prefix: &str, key: &RecordKey) -> String {
    use std::fmt::Write as _;

    let mut text = String::with_capacity(prefix.len() + 2 * RecordKey::LEN);
    text.push_str(prefix);
    for byte in key.as_bytes() {
        write!(text, "{byte:02x}").expect("a String takes all that is written");
    }
    text
}

/// The record key of a key in Redis; `None` for what is no record's.
pub(super) fn record_key(prefix: &str, key: &[u8]) -> Option<RecordKey> {
    let digits = key.strip_prefix(prefix.as_bytes())?;
    if digits.len() != 2 * RecordKey::LEN || digits.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let mut bytes = [0; RecordKey::LEN];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(RecordKey::from_bytes(bytes))
}

/// Whether the server has room for new records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    Unknown,
    None,
}

/// The arguments of `swap.lua`, except the last, which the lane knows. `now_ms`: a simulated time; without it the server's
/// clock counts.
pub(super) fn swap_arguments(now_ms: Option<u64>, swap: &Swap, room: Room) -> [Bytes; 2] {
    const LEN: usize = 8 + 3 + 2 * STAMP_LEN + 21;
    let mut asked = BytesMut::with_capacity(LEN);
    asked.put_u64(now_ms.map_or(0, |now_ms| now_ms.max(1)));
    asked.put_u8(swap.expect.is_some().into());
    asked.put_u8(swap.put.is_some().into());
    asked.put_u8((room == Room::None).into());
    asked.put_slice(&swap.expect.map_or([0; STAMP_LEN], stamp_bytes));
    asked.put_slice(&swap.put.as_ref().map_or([0; STAMP_LEN], |put| stamp_bytes(put.stamp)));
    let mut body = BytesMut::new();
    if let Some(Put { record, .. }) = &swap.put {
        append(record, &mut body);
        let whole_len = u32::try_from(body.len()).expect("a record is far shorter than 4 GiB");
        let trims = record.trims_at();
        // What is left of it then, so that nobody has to read the record in order to trim it.
        if let Some(left) = trims.and_then(|at| record.clone().at_age(at)) {
            append(&left, &mut body);
        }
        asked.put_u64(millis(record.retention).min(RETENTION_MS_MAX));
        asked.put_u64(trims.map_or(NEVER_MS, |at| millis(at).min(NEVER_MS)));
        asked.put_u8(record.kind() as u8);
        asked.put_u32(whole_len);
    }
    asked.resize(LEN, 0);
    [asked.freeze(), body.freeze()]
}

/// A record and its checksum.
fn append(record: &Record, body: &mut BytesMut) {
    let start = body.len();
    record.encode(body);
    let checksum = crc32c::crc32c(&body[start..]);
    body.put_u32_le(checksum);
}

pub(super) fn now_argument(now_ms: Option<u64>) -> Bytes {
    Bytes::copy_from_slice(&now_ms.map_or(0, |now_ms| now_ms.max(1)).to_be_bytes())
}

/// What `swap.lua` answered for its key, for the asker; `Ok(None)` when there is no room.
pub(super) fn swapped(answer: Value) -> Result<Option<Swapped>, StoreError> {
    let word = match &answer {
        Value::BulkString(word) => word.as_slice(),
        _ => return found(answer).map(|found| Some(Swapped::Found(found))),
    };
    match word {
        b"done" => Ok(Some(Swapped::Done)),
        b"absent" => Ok(Some(Swapped::Absent)),
        b"full" => Ok(None),
        _ => Err(corrupt("no such answer of a script")),
    }
}

fn found(answer: Value) -> Result<Found, StoreError> {
    let Value::Array(parts) = answer else { return Err(corrupt("no such answer of a script")) };
    let Ok([Value::Int(age_ms), Value::BulkString(stamp), Value::BulkString(record)]) = <[Value; 3]>::try_from(parts)
    else {
        return Err(corrupt("no such answer of a script"));
    };
    let age = Duration::from_millis(u64::try_from(age_ms).map_err(|_| corrupt("an age below zero"))?);
    let stamp = stamp_of(&stamp).ok_or_else(|| corrupt("its stamp"))?;
    let mut record = Bytes::from(record);
    let whole_len = record.len().checked_sub(CHECKSUM_LEN).ok_or_else(|| corrupt("its length"))?;
    let checksum = record.split_off(whole_len);
    if checksum.as_ref() != crc32c::crc32c(&record).to_le_bytes() {
        return Err(corrupt("its record"));
    }
    let record = Record::decode(record).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    // The script's head and the record say the same of its life, unless one of them is damaged.
    let record = record.at_age(age).ok_or_else(|| corrupt("its head, which says that it lives"))?;
    Ok(Found { stamp, age, abandoned: false, record })
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(format!("a value in Redis is damaged at: {what}"))
}

/// What a walk over all keys looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) phase: PhaseKind,
    pub(super) written_ms: u64,
    /// When there is less of it: an age, in milliseconds.
    pub(super) due_ms: u64,
}

impl Head {
    /// Reads it, trusting what a script would check; damage is found by whoever loads or sweeps the record.
    pub(super) fn read(bytes: &[u8]) -> Option<Head> {
        let number = |at: usize| {
            let bytes: [u8; 8] = bytes.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_be_bytes(bytes))
        };
        let phase = match bytes.get(44)? {
            1 => PhaseKind::InFlight,
            2 => PhaseKind::Unknown,
            3 => PhaseKind::Completed,
            4 => PhaseKind::Held,
            _ => return None,
        };
        let (written_ms, retention_ms, trims_ms) = (number(20)?, number(28)?, number(36)?);
        Some(Head { phase, written_ms, due_ms: retention_ms.min(trims_ms) })
    }
}

/// The answer to `TIME`, in milliseconds.
pub(super) fn time_of(answer: &Value) -> Option<u64> {
    let Value::Array(parts) = answer else { return None };
    let [Value::BulkString(seconds), Value::BulkString(micros)] = parts.as_slice() else { return None };
    let number = |bytes: &[u8]| str::from_utf8(bytes).ok()?.parse::<u64>().ok();
    Some(number(seconds)? * 1_000 + number(micros)? / 1_000)
}

fn stamp_bytes(stamp: Stamp) -> [u8; STAMP_LEN] {
    let mut bytes = [0; STAMP_LEN];
    bytes[..16].copy_from_slice(&stamp.exchange.0.to_be_bytes());
    bytes[16..].copy_from_slice(&stamp.write.to_be_bytes());
    bytes
}

fn stamp_of(bytes: &[u8]) -> Option<Stamp> {
    let (exchange, write) = bytes.split_at_checked(16)?;
    let exchange = ExchangeId(u128::from_be_bytes(exchange.try_into().ok()?));
    Some(Stamp { exchange, write: u16::from_be_bytes(write.try_into().ok()?) })
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
