//! The embedded store: a segmented append-only log with an index in memory, for one machine.
//!
//! One writer thread makes swaps durable in groups: whatever was asked during one barrier goes into the next frame. One
//! keeper thread prepares and gives back segments. Retries of completed requests are answered in the asker's own thread
//! from index and page cache. `docs/decisions/` says why it is not one of the engines that exist.

use std::{
    collections::VecDeque,
    fmt, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::{Condvar, Mutex};
use semel_core::{
    fingerprint::Fingerprint as RequestFingerprint,
    record::{ExchangeId, Phase, PhaseKind, Record, Stamp},
    register::{Found, Put, Swap, Swapped},
    scope::RecordKey,
};
use tokio::sync::oneshot;

use self::{
    disk::{Disk, FolderLock, OsDisk},
    index::{Fingerprint, Place},
    keeper::{Job, Keeper},
    log::{Act, Log, Request, Verdict, Writer},
    reply::Awaited,
};
use super::{Clock, Figures, PROBE_KEY, Store, StoreError, SystemClock};

pub mod disk;
mod format;
mod index;
mod keeper;
mod log;
mod recover;
mod reply;
#[cfg(any(test, feature = "testkit"))]
pub mod simulated;
#[cfg(test)]
mod tests;

/// The embedded store. Dropping it finishes what was asked, writes what makes the next opening fast, and leaves the
/// folder to others.
///
/// Keys are told apart by their first 16 bytes; they are digests, so no two share them, and two that did would be told
/// as [`StoreError::Corrupt`].
pub struct EmbeddedStore {
    log: Arc<Log>,
    queue: Arc<Queue>,
    jobs: mpsc::Sender<Job>,
    closing: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    // Last, so that the folder is ours until nothing runs any more.
    _lock: Box<dyn FolderLock>,
}

/// The limits of an [`EmbeddedStore`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Length of a segment file. Records must fit into one. At most 128 MiB, in pages of 4 KiB.
    pub segment_bytes: u64,
    /// Swaps that may wait for the writer; one more is answered with [`StoreError::Full`].
    pub queue_swaps_max: usize,
    /// Bytes of records that may wait for the writer.
    pub queue_bytes_max: usize,
    /// Bytes of records in one group commit, unless a single record is longer.
    pub batch_bytes_max: usize,
    /// Segments kept ready to be written. None ready costs speed, not safety.
    pub spare_segments: usize,
    /// Segments kept for being written again; those beyond are removed.
    pub recycled_segments_max: usize,
    /// Bytes of records that one sweep may move out of old segments.
    pub copy_bytes_max: usize,
    /// What ages are measured with. Set back between two sessions, time goes on from the last frame of the log.
    pub clock: Arc<dyn Clock>,
    /// Where the files are.
    pub disk: Arc<dyn Disk>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            queue_swaps_max: 1 << 16,
            queue_bytes_max: 256 << 20,
            batch_bytes_max: 1 << 20,
            spare_segments: 2,
            recycled_segments_max: 64,
            copy_bytes_max: 64 << 20,
            clock: Arc::new(SystemClock::new()),
            disk: Arc::new(OsDisk),
        }
    }
}

/// What an opening found, for one line in a log.
#[derive(Clone, Default, Debug)]
pub struct Recovery {
    /// Records that count.
    pub records: u64,
    /// Records that were in flight when the session before ended: their outcome is unknown.
    pub abandoned_in_flight: u64,
    /// Segments of the log.
    pub segments: usize,
    /// Segments that a hint spared from being read.
    pub hinted: usize,
    /// Frames that were read.
    pub frames_read: u64,
    /// Bytes of a last frame that was cut short by a crash. Nobody was told that what it held was done.
    pub torn_bytes: u64,
    /// How many times the folder was opened, this one included.
    pub session: u32,
    /// How long it took.
    pub took: Duration,
}

/// Why a folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process is using it.
    #[error("{folder} is in use by another process; stop that one, or give this one a folder of its own")]
    Locked {
        /// The folder.
        folder: String,
    },
    /// A newer release wrote it.
    #[error(
        "the log has format {found} and this release reads up to {known}; run the release that wrote it, or a newer one"
    )]
    NewerFormat {
        /// The version in the log.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// Bytes that had been durable are damaged.
    #[error(
        "{segment} is damaged at byte {offset}: {what}; restore the folder from a copy, or move it away to start without \
         records, which lets retries of earlier requests execute again"
    )]
    Corrupt {
        /// The file.
        segment: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The disk refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The disk's answer.
        source: io::Error,
    },
    /// The first write failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Figures for metrics and benchmarks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Records in the index; those past their retention count until they are swept.
    pub records: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Segments of the log.
    pub segments: usize,
    /// Segments ready to be written.
    pub spare_segments: usize,
    /// Barriers waited for.
    pub commits: u64,
    /// Swaps that went through the writer.
    pub swaps: u64,
    /// Records moved out of old segments.
    pub copied: u64,
}

impl EmbeddedStore {
    /// Opens the folder, making it if it is not there.
    pub fn open(folder: &Path, options: Options) -> Result<(EmbeddedStore, Recovery), OpenError> {
        let Opened { log, writer, jobs, job_queue, lock, recovery } = Opened::open(folder, options)?;
        let queue = Arc::new(Queue::default());
        let closing = Arc::new(AtomicBool::new(false));
        let keeper = Keeper { log: log.clone(), closing: closing.clone() };
        let threads = vec![
            spawn("semel-writer", {
                let (queue, jobs) = (queue.clone(), jobs.clone());
                move || write(writer, &queue, &jobs)
            })?,
            spawn("semel-keeper", {
                let queue = queue.clone();
                move || keeper.run(&job_queue, &|requests| queue.push_unbounded(requests))
            })?,
        ];
        Ok((EmbeddedStore { log, queue, jobs, closing, threads, _lock: lock }, recovery))
    }

    /// Figures; cheap enough to be asked every second.
    pub fn stats(&self) -> Stats {
        self.log.stats()
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        loop {
            self.log.check_poison()?;
            if let Some(answer) = self.log.answer_without_writing(key, swap)? {
                return Ok(answer);
            }
            let (request, answer) = request(key, swap);
            self.queue.push(request, &self.log.options)?;
            let verdict = answer.await.ok_or_else(closed)??;
            if let Some(answer) = self.log.conclude(key, swap, verdict)? {
                return Ok(answer);
            }
        }
    }

    async fn load(&self, key: &RecordKey) -> Result<Option<Found>, StoreError> {
        self.log.check_poison()?;
        self.log.read(key)
    }

    async fn scan(
        &self,
        phase: PhaseKind,
        after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, StoreError> {
        self.log.check_poison()?;
        self.log.scan(phase, after, limit)
    }

    async fn sweep(&self, limit: u32) -> Result<u32, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Sweep { limit, reply }).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let exchange = ExchangeId(u128::from(getrandom::u64().expect("the operating system has randomness")));
        let record = Record {
            fingerprint: RequestFingerprint::from_bytes([0; RequestFingerprint::LEN]),
            attempt: 1,
            phase: Phase::Unknown,
            retention: Duration::from_secs(1),
            guard: None,
            about: None,
        };
        let mut swap = Swap { expect: None, put: Some(Put { stamp: Stamp { exchange, write: 1 }, record }) };
        loop {
            match self.swap(&PROBE_KEY, &swap).await? {
                Swapped::Done => return Ok(()),
                // An earlier probe, or one that runs now.
                Swapped::Found(found) => swap.expect = Some(found.stamp),
                Swapped::Absent => swap.expect = None,
            }
        }
    }

    fn figures(&self) -> Figures {
        let Stats { records, live_bytes, .. } = self.stats();
        Figures {
            batches: Some(self.log.batches.read()),
            connections: None,
            records: Some(records),
            record_bytes: Some(live_bytes),
        }
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        self.queue.close();
        for thread in self.threads.drain(..) {
            // A panic there was told when it happened.
            drop(thread.join());
        }
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore").field("folder", &self.log.folder).finish_non_exhaustive()
    }
}

/// All parts, before threads run them; tests run them by hand.
struct Opened {
    log: Arc<Log>,
    writer: Writer,
    jobs: mpsc::Sender<Job>,
    job_queue: mpsc::Receiver<Job>,
    lock: Box<dyn FolderLock>,
    recovery: Recovery,
}

impl Opened {
    fn open(folder: &Path, mut options: Options) -> Result<Opened, OpenError> {
        let started = Instant::now();
        let page = format::PAGE as u64;
        options.segment_bytes = (options.segment_bytes / page * page).clamp(4 * page, Place::SEGMENT_BYTES_MAX - page);
        let disk = options.disk.clone();
        let io = |what: &str| {
            let what = format!("{what} {}", folder.display());
            move |source| OpenError::Io { what, source }
        };
        disk.create_folder(folder).map_err(io("making the folder"))?;
        let lock = disk.lock(&folder.join("lock")).map_err(io("locking the folder"))?;
        let lock = lock.ok_or_else(|| OpenError::Locked { folder: folder.display().to_string() })?;
        let (log, tail, mut recovery) = recover::recover(folder, options)?;
        let log = Arc::new(log);
        let (jobs, job_queue) = mpsc::channel();
        let writer = Writer::start(log.clone(), jobs.clone(), tail)?;
        recovery.took = started.elapsed();
        Ok(Opened { log, writer, jobs, job_queue, lock, recovery })
    }
}

impl Log {
    /// The answer, where what is durable decides alone: a retry, a concurrent request, a read.
    fn answer_without_writing(&self, key: &RecordKey, swap: &Swap) -> Result<Option<Swapped>, StoreError> {
        if swap.expect.is_some() {
            return Ok(None);
        }
        Ok(match self.read(key)? {
            Some(found) if bears_stamp_of(&found, swap.put.as_ref()) => Some(Swapped::Done),
            Some(found) => Some(Swapped::Found(found)),
            None if swap.put.is_none() => Some(Swapped::Done),
            None => None,
        })
    }

    /// The answer after the writer's verdict; `None`: what it saw has changed since, ask again.
    fn conclude(&self, key: &RecordKey, swap: &Swap, verdict: Verdict) -> Result<Option<Swapped>, StoreError> {
        Ok(match verdict {
            Verdict::Done => Some(Swapped::Done),
            Verdict::Absent => Some(Swapped::Absent),
            Verdict::Look => match self.read(key)? {
                Some(found) if bears_stamp_of(&found, swap.put.as_ref()) => Some(Swapped::Done),
                Some(found) if Some(found.stamp) == swap.expect => None,
                Some(found) => Some(Swapped::Found(found)),
                None if swap.expect.is_some() => Some(Swapped::Absent),
                None => None,
            },
        })
    }

    fn scan(
        &self,
        phase: PhaseKind,
        after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, StoreError> {
        let after = after.as_ref().map(Fingerprint::of);
        let probe = Fingerprint::of(&PROBE_KEY);
        let limit = limit as usize;
        // One more, in case the probe is among them.
        let page = self.index.page(phase, after, self.now_ms(), limit.saturating_add(1));
        let mut found = Vec::new();
        for (at, place) in page.into_iter().filter(|(at, _)| *at != probe).take(limit) {
            // What changed since the page was made may be left out: a page is not a snapshot.
            let Some((head, _)) = self.read_current(at, place)? else { continue };
            if let Some(record) = self.read(&head.key)?.filter(|found| found.record.kind() == phase) {
                found.push((head.key, record));
            }
        }
        Ok(found)
    }

    fn stats(&self) -> Stats {
        let (segments, live_bytes) = {
            let segments = self.segments.read();
            let live = segments.list.iter().map(|segment| segment.live_bytes.load(Ordering::Relaxed)).sum();
            (segments.list.len(), live)
        };
        Stats {
            records: self.index.len() as u64,
            live_bytes,
            segments,
            spare_segments: self.spares.lock().len(),
            commits: self.commits.load(Ordering::Relaxed),
            swaps: self.swaps.load(Ordering::Relaxed),
            copied: self.copied.load(Ordering::Relaxed),
        }
    }
}

fn bears_stamp_of(found: &Found, put: Option<&Put>) -> bool {
    put.is_some_and(|put| put.stamp == found.stamp)
}

/// Encodes in the asker's thread what the writer appends.
fn request(key: &RecordKey, swap: &Swap) -> (Request, Awaited) {
    let (reply, answer) = reply::reply();
    let bytes = match &swap.put {
        Some(put) => format::put_bytes(key, put),
        None => format::removal_bytes(key),
    };
    let act = Act::Swap { expect: swap.expect, put: swap.put.as_ref().map(|put| put.stamp) };
    (Request { key: *key, act, bytes, reply }, answer)
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|source| OpenError::Io { what: format!("starting the thread {name}"), source })
}

/// The writer's thread.
fn write(mut writer: Writer, queue: &Queue, jobs: &mpsc::Sender<Job>) {
    // Even after a panic nobody waits for an answer that never comes.
    let closing = CloseOnDrop(queue);
    let mut requests = VecDeque::new();
    while queue.take(&mut requests) {
        writer.commit(&mut requests);
    }
    drop(closing);
    drop(jobs.send(Job::Stop { number: writer.active_number(), hint: writer.hint() }));
}

/// What waits for the writer.
#[derive(Default, Debug)]
struct Queue {
    state: Mutex<Waiting>,
    filled: Condvar,
    /// How many are waiting, to be looked at without the mutex.
    len: AtomicUsize,
}

#[derive(Default, Debug)]
struct Waiting {
    requests: VecDeque<Request>,
    bytes: usize,
    writer_sleeps: bool,
    closed: bool,
}

/// How long the writer looks for work before it sleeps: waking it costs as much as a fast disk's barrier.
const SPIN: Duration = Duration::from_micros(30);

/// How often the writer lets others run while they keep asking for more, before it goes to the disk.
const YIELDS_MAX: usize = 8;

impl Queue {
    fn push(&self, request: Request, options: &Options) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(closed());
        }
        let full = |what: &str| Err(StoreError::Full(format!("too many {what} wait for the disk")));
        if state.requests.len() >= options.queue_swaps_max {
            return full("swaps");
        }
        if state.bytes + request.bytes.len() > options.queue_bytes_max && !state.requests.is_empty() {
            return full("bytes");
        }
        state.bytes += request.bytes.len();
        state.requests.push_back(request);
        self.announce(state);
        Ok(())
    }

    fn push_unbounded(&self, requests: Vec<Request>) {
        let mut state = self.state.lock();
        // Dropped, which tells the keeper.
        if !state.closed {
            state.requests.extend(requests);
            self.announce(state);
        }
    }

    fn announce(&self, mut state: parking_lot::MutexGuard<'_, Waiting>) {
        self.len.store(state.requests.len(), Ordering::Release);
        let wake = std::mem::take(&mut state.writer_sleeps);
        drop(state);
        if wake {
            self.filled.notify_one();
        }
    }

    /// Adds what waits to `requests`; sleeps while there is nothing at all; `false` when there never will be.
    fn take(&self, requests: &mut VecDeque<Request>) -> bool {
        if requests.is_empty() && self.len.load(Ordering::Acquire) == 0 {
            let until = Instant::now() + SPIN;
            while self.len.load(Ordering::Acquire) == 0 && Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        // Where threads are waiting for this processor they may be about to ask for more: one barrier then serves all.
        // Where none is, this costs next to nothing.
        for _ in 0..YIELDS_MAX {
            let waiting = self.len.load(Ordering::Acquire);
            std::thread::yield_now();
            if self.len.load(Ordering::Acquire) == waiting {
                break;
            }
        }
        let mut state = self.state.lock();
        // What the last batch had no room for is worked off first, so that the queue's limits bound all that waits.
        if !requests.is_empty() {
            return true;
        }
        while state.requests.is_empty() {
            if state.closed {
                return false;
            }
            state.writer_sleeps = true;
            self.filled.wait(&mut state);
            state.writer_sleeps = false;
        }
        std::mem::swap(requests, &mut state.requests);
        state.bytes = 0;
        self.len.store(0, Ordering::Release);
        true
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.writer_sleeps = false;
        drop(state);
        self.filled.notify_one();
    }
}

struct CloseOnDrop<'a>(&'a Queue);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
        self.0.state.lock().requests.clear();
    }
}
