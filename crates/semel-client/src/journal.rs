//! Where intents survive: one folder, one process at a time, durable before the first byte leaves.
//!
//! SQLite in WAL mode with a commit per group of callers (`docs/decisions/0008-client.md`). What must be durable is
//! awaited: that an attempt begins, and that somebody is told that an operation did not happen. What else was seen is
//! written with the next commit, or a moment later: if it is lost in a crash, the attempt counts as one whose response was
//! lost.

use std::{
    collections::HashSet,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::Connection;
use semel_core::retry::{Event, Reply, Saw};
use tokio::sync::oneshot;

use crate::{
    Surroundings, System,
    intent::{Intent, is_secret},
};

mod rows;

/// The journal of a client. Clones share it; the folder is free for others when the last one is dropped.
#[derive(Clone)]
pub struct Journal(Arc<Shared>);

struct Shared {
    folder: PathBuf,
    /// Keys digests of credentials, so that the journal tells nothing about them.
    secret: [u8; 32],
    jobs: Option<mpsc::Sender<Job>>,
    /// The operations that are there: what is not costs no way to the keeper.
    operations: Mutex<HashSet<String>>,
    keeper: Option<JoinHandle<()>>,
    /// Held for as long as this lives.
    _lock: File,
}

/// Why a journal cannot be used. None of these says anything about an operation.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another process has it.
    #[error("another process uses the journal {}", .0.display())]
    Locked(PathBuf),
    /// The folder cannot be used.
    #[error("cannot use the folder {}: {why}", .folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// What the system says.
        why: String,
    },
    /// It is newer than this program, or something else.
    #[error("{} is not a journal that this version can read: {why}", .folder.display())]
    Format {
        /// Which.
        folder: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// What it has of an operation is not what was written: it is refused, never read as "unknown".
    #[error("the journal's record of operation {0} is damaged")]
    Damaged(String),
    /// A write failed. Nothing more is written until it is opened again.
    #[error("the journal cannot be written: {0}; open it again")]
    Broken(String),
}

/// Where an operation stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// It runs, or a crash or a dropped future interrupted it.
    Open,
    /// It happened.
    Done,
    /// It did not happen, and is over.
    Rejected,
    /// It did not happen, and may be resumed once the cause is mended.
    Stopped,
    /// Nobody knows whether it happened.
    Unresolved,
}

/// An operation in the journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// What was to be done.
    pub intent: Intent,
    /// When it was written down, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Where it stands.
    pub state: State,
    /// Why, as a stable word; empty while it runs.
    pub why: String,
    /// What happened to it so far.
    pub history: Vec<Event>,
}

/// What is known of an operation.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) listed: Listed,
    /// The digest of the credentials that it was last sent with.
    pub(crate) scope: [u8; 16],
}

/// Names one event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventId(i64);

/// Whether an exchange may begin.
#[derive(Clone, Debug)]
pub(crate) enum Begun {
    Yes(EventId),
    /// Another operation has this key at this target; nothing was written.
    KeyTaken(String),
    /// Somebody has forgotten the operation since; nothing was written.
    Forgotten,
}

/// What kind of exchange begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    Attempt,
    Read,
}

type Work = Box<dyn FnOnce(&Connection) -> Result<(), JournalError> + Send>;

/// One thing to do on the keeper's connection.
struct Job {
    run: Work,
    wants: Wants,
    /// Nobody waits for what is lazy: if it fails, the next one fails, too.
    done: Option<oneshot::Sender<Result<(), JournalError>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    /// Whoever asked waits until it is on the disk.
    Durable,
    /// With the next commit, or after [`LAZY_MAX`].
    Lazy,
    /// Nothing is written.
    Read,
}

/// Returns when what was written to a file is on the disk.
type Barrier = fn(&File) -> io::Result<()>;

/// How long what was seen may stay in memory only.
const LAZY_MAX: Duration = Duration::from_millis(100);
/// How many jobs share a commit.
const GROUP_JOBS_MAX: usize = 512;

impl Journal {
    /// How long an operation that is over is kept: 30 days. For so long its id is the same operation (L12).
    pub const OVER_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1000;

    /// Opens the journal in this folder, or begins one; recovers what a crash left; forgets operations that have been
    /// over for [`Journal::OVER_KEPT_MS`]. One process at a time (L11).
    pub fn open(folder: impl AsRef<Path>) -> Result<Journal, JournalError> {
        Journal::open_with(folder, &System)
    }

    /// The same by another clock.
    pub fn open_with(folder: impl AsRef<Path>, surroundings: &impl Surroundings) -> Result<Journal, JournalError> {
        Journal::open_on(folder.as_ref(), surroundings, File::sync_data)
    }

    /// The same with another barrier.
    fn open_on(folder: &Path, surroundings: &impl Surroundings, barrier: Barrier) -> Result<Journal, JournalError> {
        let folder = folder.to_owned();
        let lock = lock(&folder)?;
        let (connection, log) = rows::open(&folder)?;
        let secret = rows::secret(&connection).map_err(|error| rows::format(&folder, &error))?;
        let now_ms = surroundings.now_ms();
        rows::forget(&connection, now_ms.saturating_sub(Journal::OVER_KEPT_MS)).map_err(broken)?;
        let operations = Mutex::new(rows::operations(&connection).map_err(broken)?);
        let (jobs, queue) = mpsc::channel();
        let keeper = std::thread::Builder::new()
            .name("semel-journal".to_owned())
            .spawn(move || keep(&connection, &queue, || barrier(&log)))
            .map_err(|error| JournalError::Folder { folder: folder.clone(), why: error.to_string() })?;
        let shared = Shared { folder, secret, jobs: Some(jobs), operations, keeper: Some(keeper), _lock: lock };
        Ok(Journal(Arc::new(shared)))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Forgets an operation: somebody has found out what became of it, and nothing is to be sent for it any more.
    /// Its id and key are free for another one. `false` if there is none.
    pub async fn forget(&self, operation: &str) -> Result<bool, JournalError> {
        let operation = operation.to_owned();
        let forgotten = operation.clone();
        let found = self.run(Wants::Durable, move |connection| rows::forget_one(connection, &operation)).await?;
        self.0.operations.lock().remove(&forgotten);
        Ok(found)
    }

    /// Every operation, oldest first.
    pub async fn list(&self) -> Result<Vec<Listed>, JournalError> {
        let all = self.run(Wants::Read, rows::all).await?;
        Ok(all.into_iter().map(|known| known.listed).collect())
    }

    /// One operation.
    pub(crate) async fn known(&self, operation: &str) -> Result<Option<Known>, JournalError> {
        if !self.0.operations.lock().contains(operation) {
            return Ok(None);
        }
        let operation = operation.to_owned();
        self.run(Wants::Read, move |connection| rows::known(connection, &operation)).await
    }

    /// Writes down that an exchange begins, and before it what it belongs to if that is new. An attempt is durable when
    /// this returns (L1).
    pub(crate) async fn begin(&self, begin: Begin) -> Result<Begun, JournalError> {
        let wants = match begin.act {
            Act::Attempt => Wants::Durable,
            // Losing a read loses nothing.
            Act::Read => Wants::Lazy,
        };
        // Before it is written: what is cut off here may be there.
        self.0.operations.lock().insert(begin.operation.clone());
        self.run(wants, move |connection| rows::begin(connection, &begin)).await
    }

    /// Writes down what came of it.
    pub(crate) fn end(&self, operation: &str, event: EventId, end_ms: u64, saw: Saw) {
        let operation = operation.to_owned();
        self.tell(move |connection| rows::end(connection, &operation, event.0, end_ms, &kept(saw)));
    }

    /// Writes down that somebody asked to go on.
    pub(crate) fn resumed(&self, operation: &str, at_ms: u64) {
        let operation = operation.to_owned();
        self.tell(move |connection| rows::resumed(connection, &operation, at_ms));
    }

    /// Writes down where an operation stands. That it did not happen is durable when this returns: whoever is told so may
    /// do it in another way, and a crash must not make it open again.
    pub(crate) async fn stands(
        &self,
        operation: &str,
        state: State,
        why: &str,
        at_ms: u64,
    ) -> Result<(), JournalError> {
        let (operation, why) = (operation.to_owned(), why.to_owned());
        let work = move |connection: &Connection| rows::stands(connection, &operation, state, &why, at_ms);
        match state {
            State::Rejected | State::Stopped => self.run(Wants::Durable, work).await,
            State::Open | State::Done | State::Unresolved => {
                self.tell(work);
                Ok(())
            }
        }
    }

    /// A digest of credentials that only this journal can compare.
    pub(crate) fn digest(&self, credentials: &[u8]) -> [u8; 16] {
        let digest = blake3::keyed_hash(&self.0.secret, credentials);
        let mut short = [0; 16];
        short.copy_from_slice(&digest.as_bytes()[..16]);
        short
    }

    /// To be written with the next commit.
    fn tell(&self, work: impl FnOnce(&Connection) -> Result<(), JournalError> + Send + 'static) {
        let jobs = self.0.jobs.as_ref().expect("it is there until the last owner is gone");
        // Without its keeper the next attempt is refused; this one stays without an end.
        let _ = jobs.send(Job { run: Box::new(work), wants: Wants::Lazy, done: None });
    }

    async fn run<T: Send + 'static>(
        &self,
        wants: Wants,
        work: impl FnOnce(&Connection) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let (done, told) = oneshot::channel();
        let (put, mut value) = oneshot::channel();
        let run = Box::new(move |connection: &Connection| {
            // Who no longer waits does not want it.
            let _ = put.send(work(connection)?);
            Ok(())
        });
        let gone = || JournalError::Broken("its thread has ended".to_owned());
        let jobs = self.0.jobs.as_ref().expect("it is there until the last owner is gone");
        jobs.send(Job { run, wants, done: Some(done) }).map_err(|_| gone())?;
        told.await.map_err(|_| gone())??;
        value.try_recv().map_err(|_| gone())
    }
}

/// What [`Journal::begin`] writes.
pub(crate) struct Begin {
    pub(crate) operation: String,
    /// Its first attempt: the intent itself.
    pub(crate) new: Option<Box<Intent>>,
    pub(crate) scope: [u8; 16],
    pub(crate) act: Act,
    pub(crate) at_ms: u64,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The keeper commits what is left when nobody can ask any more.
        drop(self.jobs.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Journal").field(&self.0.folder).finish()
    }
}

fn lock(folder: &Path) -> Result<File, JournalError> {
    let failed = |error: io::Error| JournalError::Folder { folder: folder.to_owned(), why: error.to_string() };
    fs::create_dir_all(folder).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // Contents of requests are nobody else's.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        // That the folder is there must be as durable as what is in it.
        if let Some(parent) = folder.canonicalize().map_err(failed)?.parent() {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
        }
    }
    let lock = File::options().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(JournalError::Locked(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn broken(error: impl std::fmt::Display) -> JournalError {
    JournalError::Broken(error.to_string())
}

/// The only thread that touches the database. Callers who ask at the same time share a commit.
fn keep(connection: &Connection, queue: &mpsc::Receiver<Job>, barrier: impl Fn() -> io::Result<()>) {
    let mut open = false;
    let mut failed: Option<JournalError> = None;
    let mut waiting: Vec<oneshot::Sender<Result<(), JournalError>>> = Vec::new();
    loop {
        let job = if open { queue.recv_timeout(LAZY_MAX) } else { queue.recv().map_err(RecvTimeoutError::from) };
        let ended = matches!(job, Err(RecvTimeoutError::Disconnected));
        let mut must_commit = job.is_err();
        for job in job.into_iter().chain(std::iter::from_fn(|| queue.try_recv().ok())).take(GROUP_JOBS_MAX) {
            if let Some(failed) = &failed {
                answer(job.done, Err(failed.clone()));
                continue;
            }
            if !open && job.wants != Wants::Read {
                match rows::run(connection, "BEGIN IMMEDIATE") {
                    Ok(()) => open = true,
                    Err(error) => failed = Some(broken(error)),
                }
            }
            let result = match &failed {
                Some(failed) => Err(failed.clone()),
                None => (job.run)(connection),
            };
            // Half of a job must not be committed with the others.
            if let Err(error @ JournalError::Broken(_)) = &result {
                failed = Some(error.clone());
            }
            match (job.wants, result) {
                (Wants::Durable, Ok(())) => {
                    must_commit = true;
                    waiting.extend(job.done);
                }
                (Wants::Durable | Wants::Lazy | Wants::Read, result) => {
                    answer(job.done, result);
                }
            }
        }
        if open && (must_commit || failed.is_some()) {
            let end = if failed.is_some() { "ROLLBACK" } else { "COMMIT" };
            let ended = rows::run(connection, end).map_err(broken);
            // SQLite writes its log and leaves the barrier to us: it would use the dearer of the two that there are.
            if let Err(error) = ended.and_then(|()| barrier().map_err(broken)) {
                failed.get_or_insert(error);
            }
            open = false;
        }
        for done in waiting.drain(..) {
            answer(Some(done), failed.clone().map_or(Ok(()), Err));
        }
        if ended {
            return;
        }
    }
}

fn answer(done: Option<oneshot::Sender<Result<(), JournalError>>>, result: Result<(), JournalError>) {
    if let Some(done) = done {
        // Whoever no longer waits may read it later.
        let _ = done.send(result);
    }
}

/// What a journal keeps of what was seen: everything but secrets.
fn kept(saw: Saw) -> Saw {
    match saw {
        Saw::Reply(reply) => {
            let headers = reply.headers.iter().filter(|(name, _)| !is_secret(name));
            let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
            Saw::Reply(Reply { headers, ..reply })
        }
        Saw::NotSent => Saw::NotSent,
        Saw::NoResponse => Saw::NoResponse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a barrier that failed nobody knows what is on the disk, so nothing is sent any more.
    #[tokio::test]
    async fn l01_nothing_begins_without_its_barrier() {
        let folder = tempfile::TempDir::new().unwrap();
        let begin = || {
            let intent = Intent::post("http://api.example/").operation("o").json("{}").build().unwrap();
            let new = Some(Box::new(intent));
            Begin { operation: "o".to_owned(), new, scope: [0; 16], act: Act::Attempt, at_ms: 1 }
        };
        let journal = Journal::open_on(folder.path(), &System, |_| Err(io::Error::other("no disk"))).unwrap();
        for _ in 0..2 {
            let refused = journal.begin(begin()).await;
            assert!(matches!(&refused, Err(JournalError::Broken(why)) if why == "no disk"), "{refused:?}");
        }
        assert!(matches!(journal.list().await, Err(JournalError::Broken(_))));
        drop(journal);
        // Perhaps it is there: it must not be taken for new.
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.list().await.unwrap().len(), 1);
        assert!(matches!(
            journal.known("o").await.unwrap(),
            Some(Known { listed: Listed { state: State::Open, .. }, .. })
        ));
    }
}
