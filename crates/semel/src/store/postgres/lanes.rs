//! Lanes: each owns one connection and asks everything that waits as one statement, which is one round trip and one
//! commit.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use semel_core::{
    record::{ExchangeId, Record, Stamp},
    register::{Found, Put, Swap, Swapped},
};
use tokio::time::Instant;
use tokio_postgres::{
    Row,
    error::SqlState,
    types::{ToSql, Type},
};

use super::{
    connect::{Connection, Connector, Often, broken, is_about_names},
    queue::{Job, Question, Queue, closed},
};
use crate::store::{Clock, RecordKey, StoreError, shared::OpenError};

/// How often a swap is asked again because its view had changed under it. Each time somebody else's swap of that key was
/// done, so that many more would mean that something else is wrong.
const ATTEMPTS_MAX: u32 = 64;
/// How many times as long as anybody waits a lane waits for its statement. Giving up its connection would not end the
/// statement, which may wait for a replica, and one stuck session per try would use up all that the server allows.
const STUCK_FACTOR: u32 = 12;
/// How long a lane that cannot connect leaves it.
const PAUSE: Duration = Duration::from_millis(100);

/// A swap as it is sent.
pub(super) struct Asked {
    expect: Option<Vec<u8>>,
    put: Option<Sent>,
}

struct Sent {
    stamp: Vec<u8>,
    retention_ms: i64,
    phase: i16,
    record: Bytes,
    put: Put,
}

impl Asked {
    pub(super) fn of(swap: &Swap) -> Asked {
        let put = swap.put.as_ref().map(|put| {
            let Put { stamp, record } = put;
            let mut bytes = BytesMut::new();
            record.encode(&mut bytes);
            // Far beyond any age, and still far from the end of a bigint when a time is added.
            let retention_ms = i64::try_from(record.retention.as_millis()).map_or(1 << 60, |ms| ms.min(1 << 60));
            let (stamp, phase) = (stamp_bytes(*stamp), record.kind() as i16);
            Sent { stamp, retention_ms, phase, record: bytes.freeze(), put: put.clone() }
        });
        Asked { expect: swap.expect.map(stamp_bytes), put }
    }

    fn is_claim(&self) -> bool {
        self.expect.is_none() && self.put.is_some()
    }
}

impl Question for Asked {
    type Answer = Swapped;

    fn bytes(&self) -> usize {
        self.put.as_ref().map_or(0, |put| put.record.len())
    }

    fn may_carry(&self, other: &Asked) -> bool {
        let lives = self.put.as_ref().is_some_and(|put| put.retention_ms > 0);
        lives && self.is_claim() && other.is_claim()
    }

    /// Two claims: the other one finds what this one put or found.
    fn answers(&self, answer: &Swapped, other: &Asked) -> Swapped {
        let (Some(mine), Some(others)) = (&self.put, &other.put) else { return answer.clone() };
        let there = match answer {
            Swapped::Done => {
                let Put { stamp, record } = mine.put.clone();
                record.at_age(Duration::ZERO).map(|record| Found {
                    stamp,
                    age: Duration::ZERO,
                    abandoned: false,
                    record,
                })
            }
            Swapped::Found(found) => Some(found.clone()),
            Swapped::Absent => None,
        };
        match there {
            Some(found) if found.stamp == others.put.stamp => Swapped::Done,
            Some(found) => Swapped::Found(found),
            None => Swapped::Absent,
        }
    }
}

/// A load.
pub(super) struct Look;

impl Question for Look {
    type Answer = Option<Found>;

    fn bytes(&self) -> usize {
        0
    }

    fn may_carry(&self, _: &Look) -> bool {
        true
    }

    fn answers(&self, answer: &Option<Found>, _: &Look) -> Option<Found> {
        answer.clone()
    }
}

pub(super) type Swaps = Queue<Asked>;
pub(super) type Loads = Queue<Look>;

/// Bounds of the statements of a lane.
#[allow(clippy::struct_field_names, reason = "each is the name of the option that it comes from")]
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) jobs_max: usize,
    pub(super) bytes_max: usize,
    pub(super) statement_max: Duration,
}

/// What a lane asks about.
pub(super) trait Kind: Send + Sync + 'static {
    type Question: Question;

    /// Asks all of `jobs`; an answer of `None` means to ask again.
    fn ask(
        &self,
        connection: &Connection,
        jobs: &[Job<Self::Question>],
        lock_max: Duration,
    ) -> impl Future<Output = Result<Vec<ToldOf<Self>>, tokio_postgres::Error>> + Send;
}

type ToldOf<K> = Told<<<K as Kind>::Question as Question>::Answer>;

/// What came of one question.
pub(super) enum Told<A> {
    /// This, or an error that is this question's alone.
    Answer(Result<A, StoreError>),
    /// This, which says nothing of what is there.
    Alone(A),
    /// The view had changed under it.
    Again,
}

/// Swaps, by the server's clock or another.
pub(super) struct Swapping(pub(super) Option<Arc<dyn Clock>>);
/// Loads, likewise.
pub(super) struct Loading(pub(super) Option<Arc<dyn Clock>>);

pub(super) fn now_ms(clock: Option<&Arc<dyn Clock>>) -> Option<i64> {
    clock.map(|clock| i64::try_from(clock.now_ms()).unwrap_or(i64::MAX))
}

impl Kind for Swapping {
    type Question = Asked;

    async fn ask(
        &self,
        connection: &Connection,
        jobs: &[Job<Asked>],
        lock_max: Duration,
    ) -> Result<Vec<Told<Swapped>>, tokio_postgres::Error> {
        fn column<'a, T>(jobs: &'a [Job<Asked>], of: impl Fn(&'a Sent) -> T) -> Vec<Option<T>> {
            jobs.iter().map(|job| job.question.put.as_ref().map(&of)).collect()
        }
        let lock_max = format!("{}ms", lock_max.as_millis().max(1));
        let now = now_ms(self.0.as_ref());
        let keys: Vec<&[u8]> = jobs.iter().map(|job| &job.key.as_bytes()[..]).collect();
        let expects: Vec<Option<&[u8]>> = jobs.iter().map(|job| job.question.expect.as_deref()).collect();
        let (stamps, records) = (column(jobs, |put| &put.stamp[..]), column(jobs, |put| &put.record[..]));
        let (retentions, phases) = (column(jobs, |put| put.retention_ms), column(jobs, |put| put.phase));
        let parameters: [(&(dyn ToSql + Sync), Type); 8] = [
            (&lock_max, Type::TEXT),
            (&now, Type::INT8),
            (&keys, Type::BYTEA_ARRAY),
            (&expects, Type::BYTEA_ARRAY),
            (&stamps, Type::BYTEA_ARRAY),
            (&retentions, Type::INT8_ARRAY),
            (&phases, Type::INT2_ARRAY),
            (&records, Type::BYTEA_ARRAY),
        ];
        let rows = connection.often(Often::Swap, &parameters).await?;
        let warning = connection.take_warning();
        Ok(told(jobs.len(), &rows, |job, row| {
            let question = &jobs[job].question;
            let done: bool = row.get("done");
            if done && let Some(warning) = &warning {
                return Told::Answer(Err(StoreError::Unavailable(format!(
                    "the commit came with a warning: {warning}"
                ))));
            }
            if done {
                return Told::Answer(Ok(Swapped::Done));
            }
            let live: Option<bool> = row.get("live");
            if live != Some(true) {
                return match question.expect {
                    Some(_) => Told::Answer(Ok(Swapped::Absent)),
                    None if question.put.is_none() => Told::Answer(Ok(Swapped::Done)),
                    None => Told::Again,
                };
            }
            let stamp: Option<&[u8]> = row.get("stamp");
            if question.put.as_ref().is_some_and(|put| stamp == Some(&put.stamp)) {
                // Its own earlier write, of which the age is not known here.
                return Told::Alone(Swapped::Done);
            }
            if question.expect.as_deref() == stamp {
                return Told::Again;
            }
            match found(row) {
                Ok(Some(found)) => Told::Answer(Ok(Swapped::Found(found))),
                Ok(None) => Told::Again,
                Err(error) => Told::Answer(Err(error)),
            }
        }))
    }
}

impl Kind for Loading {
    type Question = Look;

    async fn ask(
        &self,
        connection: &Connection,
        jobs: &[Job<Look>],
        _lock_max: Duration,
    ) -> Result<Vec<Told<Option<Found>>>, tokio_postgres::Error> {
        let now = now_ms(self.0.as_ref());
        let keys: Vec<&[u8]> = jobs.iter().map(|job| &job.key.as_bytes()[..]).collect();
        let rows = connection.often(Often::Load, &[(&now, Type::INT8), (&keys, Type::BYTEA_ARRAY)]).await?;
        let mut answers = told(jobs.len(), &rows, |_, row| Told::Answer(found(row)));
        for answer in &mut answers {
            if matches!(answer, Told::Again) {
                *answer = Told::Answer(Ok(None));
            }
        }
        Ok(answers)
    }
}

/// One answer for each of `jobs`, from the row that has its number; without one, [`Told::Again`].
fn told<A>(jobs: usize, rows: &[Row], answer: impl Fn(usize, &Row) -> Told<A>) -> Vec<Told<A>> {
    let mut answers: Vec<Told<A>> = (0..jobs).map(|_| Told::Again).collect();
    let mut answered = vec![false; jobs];
    for row in rows {
        let number: i64 = row.get("n");
        let Some(job) = usize::try_from(number - 1).ok().filter(|job| *job < jobs) else { continue };
        answers[job] = if answered[job] {
            Told::Answer(Err(StoreError::Corrupt("the database has two rows of one key".into())))
        } else {
            answer(job, row)
        };
        answered[job] = true;
    }
    answers
}

/// What a row shows, at its age.
pub(super) fn found(row: &Row) -> Result<Option<Found>, StoreError> {
    let corrupt = |what: String| StoreError::Corrupt(what);
    let bytes: Option<&[u8]> = row.get("record");
    let bytes = bytes.ok_or_else(|| corrupt("a row without a record".into()))?;
    let record = Record::decode(Bytes::copy_from_slice(bytes)).map_err(|error| corrupt(error.to_string()))?;
    let stamp = stamp_of(row.get("stamp")).ok_or_else(|| corrupt("a stamp has not its length".into()))?;
    let age_ms: i64 = row.get("age_ms");
    let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or_default());
    Ok(record.at_age(age).map(|record| Found { stamp, age, abandoned: false, record }))
}

/// The exchange and the number of its write, in one column that is compared as a whole.
pub(super) fn stamp_bytes(stamp: Stamp) -> Vec<u8> {
    [&stamp.exchange.0.to_be_bytes()[..], &stamp.write.to_be_bytes()[..]].concat()
}

fn stamp_of(bytes: &[u8]) -> Option<Stamp> {
    let (exchange, write) = bytes.split_first_chunk::<16>()?;
    Some(Stamp {
        exchange: ExchangeId(u128::from_be_bytes(*exchange)),
        write: u16::from_be_bytes(write.try_into().ok()?),
    })
}

/// One lane. It ends when its queue is closed and empty, or nobody has the queue any more.
pub(super) struct Lane<K: Kind> {
    pub(super) kind: K,
    pub(super) queue: Arc<Queue<K::Question>>,
    pub(super) connector: Arc<Connector>,
    pub(super) bounds: Bounds,
    pub(super) connection: Option<Connection>,
}

type Jobs<K> = Vec<Job<<K as Kind>::Question>>;

impl<K: Kind> Lane<K> {
    pub(super) async fn run(mut self) {
        loop {
            if self.connection.as_ref().is_none_or(Connection::is_closed) {
                self.connection = None;
                // What waits is left to those who are connected: connecting may take as long as anybody waits.
                if !self.queue.waits().await {
                    return;
                }
                match self.connector.connect().await {
                    Ok(connection) => self.connection = Some(connection),
                    Err(error) => self.not_connected(&error).await,
                }
                continue;
            }
            let queue = Arc::clone(&self.queue);
            let Some((mut jobs, _out)) = queue.take(self.bounds.jobs_max, self.bounds.bytes_max).await else { return };
            if self.connection.as_ref().is_none_or(Connection::is_closed) {
                self.again(jobs);
                continue;
            }
            // So that batches lock rows in one order.
            jobs.sort_unstable_by_key(|job| job.key);
            self.ask(jobs).await;
        }
    }

    /// Others may have a connection; if nobody has, whoever waits is told at once.
    async fn not_connected(&self, error: &OpenError) {
        if !self.connector.is_connected() {
            self.queue.fail(&StoreError::Unavailable(error.to_string()));
        }
        tracing::warn!(target: "semel::store", "{error}");
        tokio::time::sleep(PAUSE).await;
    }

    async fn ask(&mut self, jobs: Jobs<K>) {
        let connection = self.connection.as_ref().expect("just connected");
        let alone = jobs.len() == 1;
        // Rows are held for one commit; who waits longer meets somebody who holds one for long. Then everybody is asked
        // alone, and only that one waits.
        let lock_max = self.bounds.statement_max / if alone { 2 } else { 20 };
        let asking = self.kind.ask(connection, &jobs, lock_max);
        // Who asked waits for less, and looks at the clock alone.
        match tokio::time::timeout(self.bounds.statement_max * STUCK_FACTOR, asking).await {
            Ok(Ok(answers)) => {
                let mut again = Vec::new();
                for (mut job, answer) in jobs.into_iter().zip(answers) {
                    match answer {
                        Told::Answer(answer) => self.queue.finish(job, answer),
                        Told::Alone(answer) => self.queue.finish_alone(job, Ok(answer)),
                        Told::Again if job.attempts >= ATTEMPTS_MAX => {
                            let why = format!("the record changed {ATTEMPTS_MAX} times while it was asked for");
                            self.queue.finish(job, Err(StoreError::Unavailable(why)));
                        }
                        Told::Again => {
                            job.attempts += 1;
                            again.push(job);
                        }
                    }
                }
                self.again(again);
            }
            Ok(Err(error)) => self.failed(jobs, &error),
            Err(_) => {
                // What it still does, it does; nobody may be told an answer of it by mistake.
                self.connection = None;
                self.finish(jobs, &StoreError::TimedOut(self.bounds.statement_max));
            }
        }
    }

    fn again(&self, jobs: Jobs<K>) {
        if !jobs.is_empty() {
            self.queue.put_back(jobs.into_iter());
        }
    }

    fn finish(&self, jobs: Jobs<K>, error: &StoreError) {
        for job in jobs {
            self.queue.finish(job, Err(error.clone()));
        }
    }

    fn failed(&mut self, mut jobs: Jobs<K>, error: &tokio_postgres::Error) {
        let connection = self.connection.as_mut().expect("it was just asked");
        let Some(code) = error.code().cloned().filter(|code| !ends_session(code)) else {
            // Every swap bears a stamp, so that asking once more is harmless.
            self.connection = None;
            let (lost, first): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.lost);
            self.finish(lost, &broken(error));
            self.again(first.into_iter().map(|job| Job { lost: true, ..job }).collect());
            return;
        };
        if is_about_names(error) {
            connection.forget_names();
            self.connector.notice_pooler();
        }
        let alone = jobs.len() == 1;
        let races = [&SqlState::T_R_SERIALIZATION_FAILURE, &SqlState::T_R_DEADLOCK_DETECTED].contains(&&code);
        let (over, again): (Vec<_>, Vec<_>) = jobs.drain(..).partition(|job| {
            let attempts_max = if alone && !races && !is_about_names(error) { 0 } else { ATTEMPTS_MAX };
            job.attempts >= attempts_max
        });
        self.finish(over, &told_of(&code, error, self.bounds.statement_max));
        self.again(again.into_iter().map(|job| Job { attempts: job.attempts + 1, alone: true, ..job }).collect());
    }
}

/// Whether nothing more can be asked on a connection that said this.
fn ends_session(code: &SqlState) -> bool {
    // 57P: shut down, crashed, starting; 08: protocol; 25006: no primary any more.
    code.code().starts_with("57P") || code == &SqlState::READ_ONLY_SQL_TRANSACTION || code.code().starts_with("0800")
}

fn told_of(code: &SqlState, error: &tokio_postgres::Error, statement_max: Duration) -> StoreError {
    if code == &SqlState::LOCK_NOT_AVAILABLE || code == &SqlState::QUERY_CANCELED {
        return StoreError::TimedOut(statement_max);
    }
    if code == &SqlState::DISK_FULL {
        return StoreError::Full(broken(error).to_string());
    }
    if code == &SqlState::DATA_CORRUPTED || code == &SqlState::INDEX_CORRUPTED {
        return StoreError::Corrupt(broken(error).to_string());
    }
    broken(error)
}

/// Asks, and waits for the answer until `statement_max`.
pub(super) async fn answer<Q: Question>(
    queue: &Queue<Q>,
    key: &RecordKey,
    question: Q,
    statement_max: Duration,
) -> Result<Q::Answer, StoreError> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    let (key, deadline) = (*key, Instant::now() + statement_max);
    queue.push(Job { key, question, deadline, attempts: 0, alone: false, lost: false, reply, riders: Vec::new() })?;
    match tokio::time::timeout_at(deadline, answer).await {
        Ok(answer) => answer.unwrap_or_else(|_| Err(closed())),
        Err(_) => Err(StoreError::TimedOut(statement_max)),
    }
}
