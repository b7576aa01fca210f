//! The tables of a journal, and the way into them and out.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use semel_core::{
    policy::Preset,
    retry::{Event, Reply, Saw},
};

use super::{Act, Begin, Begun, EventId, JournalError, Known, Listed, State, broken};
use crate::intent::{GivenKey, Intent, Key};

/// Raised when a journal of this program could not be read by the one before.
const FORMAT: i64 = 1;

/// The log is moved into the database when it has so many pages.
const LOG_PAGES_MAX: u32 = 400;
/// It takes so many bytes on the disk: its pages, and the commit that goes beyond them.
const LOG_BYTES: usize = 2 << 20;

const SCHEMA: &str = "
CREATE TABLE journal (secret BLOB NOT NULL) STRICT;
CREATE TABLE intent (
    n INTEGER PRIMARY KEY,
    operation TEXT NOT NULL UNIQUE,
    key TEXT NOT NULL,
    given_key INTEGER NOT NULL,
    preset TEXT NOT NULL,
    method TEXT NOT NULL,
    target TEXT NOT NULL,
    headers BLOB NOT NULL,
    content BLOB NOT NULL,
    fingerprint BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    scope BLOB NOT NULL,
    state TEXT NOT NULL,
    why TEXT NOT NULL,
    state_ms INTEGER NOT NULL,
    UNIQUE (target, key)
) STRICT;
CREATE TABLE event (
    intent INTEGER,
    n INTEGER,
    act TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    end_ms INTEGER,
    status INTEGER,
    headers BLOB,
    content BLOB,
    checksum INTEGER,
    PRIMARY KEY (intent, n)
) STRICT, WITHOUT ROWID;
";

/// Opens the database: a torn tail of its log is dropped by SQLite, a damaged file is refused.
/// Also its log, whose barrier is the caller's.
pub(super) fn open(folder: &Path) -> Result<(Connection, File), JournalError> {
    let wrong = |error: &rusqlite::Error| format(folder, error);
    let connection = Connection::open(folder.join("journal.sqlite")).map_err(|error| wrong(&error))?;
    let found: i64 = (|| {
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        // SQLite's own barriers are those that keep the database whole; what a commit said waits for the caller's.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update_and_check(None, "wal_autocheckpoint", LOG_PAGES_MAX, |_| Ok(()))?;
        connection.pragma_query_value(None, "user_version", |row| row.get(0))
    })()
    .map_err(|error| wrong(&error))?;
    match found {
        FORMAT => {}
        0 => {
            let mut secret = [0; 32];
            getrandom::fill(&mut secret).expect("the system has randomness");
            let begin = || {
                let transaction = connection.unchecked_transaction()?;
                transaction.execute_batch(SCHEMA)?;
                transaction.execute("INSERT INTO journal (secret) VALUES (?1)", [&secret[..]])?;
                transaction.pragma_update(None, "user_version", FORMAT)?;
                transaction.commit()
            };
            begin().map_err(|error| wrong(&error))?;
        }
        newer => {
            let why = format!("its format is {newer}, and this version reads {FORMAT}");
            return Err(JournalError::Format { folder: folder.to_owned(), why });
        }
    }
    let check: String =
        connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(|error| wrong(&error))?;
    if check != "ok" {
        return Err(JournalError::Format { folder: folder.to_owned(), why: check });
    }
    let log =
        open_log(folder).map_err(|error| JournalError::Folder { folder: folder.to_owned(), why: error.to_string() })?;
    Ok((connection, log))
}

/// The log of SQLite: it is there from the first read on until the connection is closed.
///
/// It gets all its bytes now, as zeros, which SQLite reads as its end. A barrier after a write that makes a file longer
/// has to wait for the file system's own journal, too, and costs half as much again.
fn open_log(folder: &Path) -> io::Result<File> {
    let mut log = File::options().append(true).open(folder.join("journal.sqlite-wal"))?;
    let there = usize::try_from(log.metadata()?.len()).unwrap_or(usize::MAX);
    log.write_all(&vec![0; LOG_BYTES.saturating_sub(there)])?;
    log.sync_all()?;
    // That it is there must be durable, too.
    File::open(folder)?.sync_all()?;
    Ok(log)
}

pub(super) fn format(folder: &Path, error: &rusqlite::Error) -> JournalError {
    JournalError::Format { folder: folder.to_owned(), why: error.to_string() }
}

/// Runs a statement without values.
pub(super) fn run(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(|_| ())
}

pub(super) fn secret(connection: &Connection) -> rusqlite::Result<[u8; 32]> {
    connection.query_row("SELECT secret FROM journal", [], |row| row.get(0))
}

/// Deletes operations that were over by then, and what became of them.
pub(super) fn forget(connection: &Connection, before_ms: u64) -> rusqlite::Result<()> {
    let before_ms = int(before_ms);
    let transaction = connection.unchecked_transaction()?;
    let over = "SELECT n FROM intent WHERE state IN ('done', 'rejected') AND state_ms < ?1";
    transaction.execute(&format!("DELETE FROM event WHERE intent IN ({over})"), [before_ms])?;
    let forgotten =
        transaction.execute("DELETE FROM intent WHERE state IN ('done', 'rejected') AND state_ms < ?1", [before_ms])?;
    transaction.commit()?;
    // Compaction costs a copy of the file: only when there is something to win.
    if forgotten > 1000 { connection.execute_batch("VACUUM") } else { Ok(()) }
}

pub(super) fn operations(connection: &Connection) -> rusqlite::Result<HashSet<String>> {
    connection.prepare("SELECT operation FROM intent")?.query_map([], |row| row.get(0))?.collect()
}

pub(super) fn forget_one(connection: &Connection, operation: &str) -> Result<bool, JournalError> {
    delete(connection, operation).map_err(broken)
}

/// Whether it was there.
fn delete(connection: &Connection, operation: &str) -> rusqlite::Result<bool> {
    let number = "SELECT n FROM intent WHERE operation = ?1";
    let number = connection.prepare_cached(number)?.query_row([operation], |row| row.get::<_, i64>(0)).optional()?;
    if let Some(number) = number {
        connection.execute("DELETE FROM event WHERE intent = ?1", [number])?;
        connection.execute("DELETE FROM intent WHERE n = ?1", [number])?;
    }
    Ok(number.is_some())
}

pub(super) fn begin(connection: &Connection, begin: &Begin) -> Result<Begun, JournalError> {
    if let Some(intent) = &begin.new {
        let holder = "SELECT operation FROM intent WHERE target = ?1 AND key = ?2 AND operation <> ?3";
        let wanted = params![intent.target.to_string(), intent.key.as_str(), intent.operation];
        let holder = connection
            .prepare_cached(holder)
            .and_then(|mut statement| statement.query_row(wanted, |row| row.get(0)).optional());
        if let Some(holder) = holder.map_err(broken)? {
            return Ok(Begun::KeyTaken(holder));
        }
        insert(connection, intent, begin).map_err(broken)?;
    } else if begin.act == Act::Attempt {
        let update = "UPDATE intent SET scope = ?2, state = 'open', why = '' WHERE operation = ?1";
        connection
            .prepare_cached(update)
            .and_then(|mut statement| statement.execute(params![begin.operation, &begin.scope[..]]))
            .map_err(broken)?;
    }
    let act = match begin.act {
        Act::Attempt => "attempt",
        Act::Read => "read",
    };
    let number = add(connection, &begin.operation, act, begin.at_ms)?;
    Ok(number.map_or(Begun::Forgotten, |number| Begun::Yes(EventId(number))))
}

/// One more event of an operation, and its number; `None` where the operation is not there any more.
fn add(connection: &Connection, operation: &str, act: &str, at_ms: u64) -> Result<Option<i64>, JournalError> {
    let insert = "INSERT INTO event (intent, n, act, at_ms) \
                  SELECT n, 1 + coalesce((SELECT max(n) FROM event WHERE event.intent = intent.n), 0), ?2, ?3 \
                  FROM intent WHERE operation = ?1 RETURNING n";
    connection
        .prepare_cached(insert)
        .and_then(|mut insert| insert.query_row(params![operation, act, int(at_ms)], |row| row.get(0)).optional())
        .map_err(broken)
}

/// A new operation; one by the same name that is over is replaced, events and all.
fn insert(connection: &Connection, intent: &Intent, begin: &Begin) -> rusqlite::Result<()> {
    delete(connection, &intent.operation)?;
    let headers = headers_to_bytes(&intent.headers);
    let insert = "INSERT INTO intent (operation, key, given_key, preset, method, target, headers, content, \
                  fingerprint, created_ms, checksum, scope, state, why, state_ms) \
                  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 'open', '', ?10)";
    connection.prepare_cached(insert)?.execute(params![
        intent.operation,
        intent.key.as_str(),
        intent.given_key == GivenKey::Yes,
        intent.preset.name(),
        intent.method.as_str(),
        intent.target.to_string(),
        headers,
        &intent.content[..],
        &intent.fingerprint[..],
        int(begin.at_ms),
        checksum_of_intent(intent, &headers),
        &begin.scope[..],
    ])?;
    Ok(())
}

pub(super) fn end(
    connection: &Connection,
    operation: &str,
    event: i64,
    end_ms: u64,
    saw: &Saw,
) -> Result<(), JournalError> {
    let (status, headers, content) = match saw {
        Saw::NotSent => (NOT_SENT, Vec::new(), &[][..]),
        Saw::NoResponse => (NO_RESPONSE, Vec::new(), &[][..]),
        Saw::Reply(reply) => (i64::from(reply.status.as_u16()), headers_to_bytes(&reply.headers), &reply.content[..]),
    };
    let update = "UPDATE event SET end_ms = ?2, status = ?3, headers = ?4, content = ?5, checksum = ?6 \
                  WHERE n = ?1 AND intent = (SELECT n FROM intent WHERE operation = ?7)";
    let checksum = checksum([&status.to_le_bytes()[..], &headers, content]);
    connection
        .prepare_cached(update)
        .and_then(|mut s| s.execute(params![event, int(end_ms), status, headers, content, checksum, operation]))
        .map_err(broken)
        .map(|_| ())
}

/// Statuses of what was no response.
const NOT_SENT: i64 = -1;
const NO_RESPONSE: i64 = -2;

pub(super) fn resumed(connection: &Connection, operation: &str, at_ms: u64) -> Result<(), JournalError> {
    add(connection, operation, "resumed", at_ms).map(|_| ())
}

pub(super) fn stands(
    connection: &Connection,
    operation: &str,
    state: State,
    why: &str,
    at_ms: u64,
) -> Result<(), JournalError> {
    let update = "UPDATE intent SET state = ?2, why = ?3, state_ms = ?4 WHERE operation = ?1";
    connection
        .prepare_cached(update)
        .and_then(|mut statement| statement.execute(params![operation, state.as_str(), why, int(at_ms)]))
        .map_err(broken)
        .map(|_| ())
}

const INTENT: &str = "SELECT operation, key, given_key, preset, method, target, headers, content, fingerprint, \
                      created_ms, checksum, scope, state, why FROM intent";

pub(super) fn known(connection: &Connection, operation: &str) -> Result<Option<Known>, JournalError> {
    let query = format!("{INTENT} WHERE operation = ?1");
    let mut statement = connection.prepare_cached(&query).map_err(broken)?;
    let found = statement.query_row([operation], |row| Ok(read(row))).optional().map_err(broken)?;
    let Some(mut known) = found.transpose()? else { return Ok(None) };
    known.listed.history = history(connection, operation)?;
    Ok(Some(known))
}

pub(super) fn all(connection: &Connection) -> Result<Vec<Known>, JournalError> {
    let query = format!("{INTENT} ORDER BY created_ms, operation");
    let mut statement = connection.prepare_cached(&query).map_err(broken)?;
    let rows = statement.query_map([], |row| Ok(read(row))).map_err(broken)?;
    rows.map(|row| {
        let mut known = row.map_err(broken)??;
        known.listed.history = history(connection, &known.listed.intent.operation)?;
        Ok(known)
    })
    .collect()
}

fn read(row: &Row<'_>) -> Result<Known, JournalError> {
    let operation: String = row.get(0).map_err(broken)?;
    // What cannot be read was not written so.
    let damaged = || JournalError::Damaged(operation.clone());
    let text = |at: usize| row.get::<_, String>(at).map_err(|_| damaged());
    let blob = |at: usize| row.get::<_, Vec<u8>>(at).map_err(|_| damaged());
    let preset = text(3)?;
    let headers = blob(6)?;
    let intent = Intent {
        operation: operation.clone(),
        key: Key::stored(text(1)?),
        given_key: if row.get(2).map_err(|_| damaged())? { GivenKey::Yes } else { GivenKey::No },
        preset: Preset::ALL.into_iter().find(|known| known.name() == preset).ok_or_else(damaged)?,
        method: text(4)?.parse().map_err(|_| damaged())?,
        target: text(5)?.parse().map_err(|_| damaged())?,
        headers: headers_from_bytes(&headers).ok_or_else(damaged)?,
        content: Bytes::from(blob(7)?),
        fingerprint: blob(8)?.try_into().map_err(|_| damaged())?,
    };
    if row.get::<_, i64>(10).map_err(|_| damaged())? != checksum_of_intent(&intent, &headers) {
        return Err(damaged());
    }
    let state = text(12)?;
    let state = State::ALL.into_iter().find(|known| known.as_str() == state).ok_or_else(damaged)?;
    Ok(Known {
        listed: Listed {
            intent,
            created_ms: time(row, 9).ok_or_else(damaged)?,
            state,
            why: text(13)?,
            history: Vec::new(),
        },
        scope: blob(11)?.try_into().map_err(|_| damaged())?,
    })
}

fn history(connection: &Connection, operation: &str) -> Result<Vec<Event>, JournalError> {
    let query = "SELECT act, at_ms, end_ms, status, headers, content, checksum FROM event \
                 WHERE intent = (SELECT n FROM intent WHERE operation = ?1) ORDER BY n";
    let mut statement = connection.prepare_cached(query).map_err(broken)?;
    let events = statement.query_map([operation], |row| Ok(event(row))).map_err(broken)?;
    events.map(|event| event.map_err(broken)?.ok_or_else(|| JournalError::Damaged(operation.to_owned()))).collect()
}

/// `None` where it is not what was written.
fn event(row: &Row<'_>) -> Option<Event> {
    let act: String = row.get(0).ok()?;
    let at_ms = time(row, 1)?;
    if act == "resumed" {
        return Some(Event::Resumed { at_ms });
    }
    // An exchange without an end is one that a crash cut off: it may have been sent.
    let (end_ms, saw) = match row.get::<_, Option<i64>>(3).ok()? {
        None => (at_ms, Saw::NoResponse),
        Some(status) => {
            let (headers, content): (Vec<u8>, Vec<u8>) = (row.get(4).ok()?, row.get(5).ok()?);
            let checksum = checksum([&status.to_le_bytes()[..], &headers, &content]);
            if row.get::<_, i64>(6).ok()? != checksum {
                return None;
            }
            let saw = match status {
                NOT_SENT => Saw::NotSent,
                NO_RESPONSE => Saw::NoResponse,
                status => Saw::Reply(Reply {
                    status: StatusCode::from_u16(u16::try_from(status).ok()?).ok()?,
                    headers: headers_from_bytes(&headers)?,
                    content: Bytes::from(content),
                }),
            };
            (time(row, 2)?, saw)
        }
    };
    match act.as_str() {
        "attempt" => Some(Event::Attempt { at_ms, end_ms, saw }),
        "read" => Some(Event::Read { at_ms, end_ms, saw }),
        _ => None,
    }
}

impl State {
    const ALL: [State; 5] = [State::Open, State::Done, State::Rejected, State::Stopped, State::Unresolved];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Done => "done",
            State::Rejected => "rejected",
            State::Stopped => "stopped",
            State::Unresolved => "unresolved",
        }
    }
}

fn time(row: &Row<'_>, at: usize) -> Option<u64> {
    u64::try_from(row.get::<_, i64>(at).ok()?).ok()
}

fn int(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// `name: value` lines, as on the wire.
fn headers_to_bytes(headers: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
        out.push(b'\n');
    }
    out
}

fn headers_from_bytes(bytes: &[u8]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        headers.append(name, HeaderValue::from_bytes(&line[colon + 1..]).ok()?);
    }
    Some(headers)
}

fn checksum_of_intent(intent: &Intent, headers: &[u8]) -> i64 {
    checksum([
        intent.operation.as_bytes(),
        intent.key.as_str().as_bytes(),
        intent.preset.name().as_bytes(),
        intent.method.as_str().as_bytes(),
        intent.target.to_string().as_bytes(),
        headers,
        &intent.content,
        &intent.fingerprint,
    ])
}

fn checksum<const N: usize>(parts: [&[u8]; N]) -> i64 {
    let sum = parts.into_iter().fold(0, |sum, part| {
        let sum = crc32c::crc32c_append(sum, &(part.len() as u64).to_le_bytes());
        crc32c::crc32c_append(sum, part)
    });
    i64::from(sum)
}
