//! What waits for a lane: at most one question per key at a time, so that no two of a batch are about the same key and
//! none overtakes another.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use semel_core::scope::RecordKey;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::store::StoreError;

/// A question about a key, and who waits for its answer.
pub(super) struct Job<Q, A> {
    pub(super) key: RecordKey,
    pub(super) question: Q,
    /// Its share of a statement.
    pub(super) bytes: usize,
    /// When nobody waits any more.
    pub(super) deadline: Instant,
    /// How often it met a view that had changed under it.
    pub(super) attempts: u32,
    /// It is asked in a statement of its own, since one with others failed.
    pub(super) alone: bool,
    /// A connection was lost while it was asked.
    pub(super) lost: bool,
    pub(super) reply: oneshot::Sender<Result<A, StoreError>>,
}

/// See the module.
pub(super) struct Queue<Q, A> {
    jobs_max: usize,
    bytes_max: usize,
    inner: Mutex<Inner<Q, A>>,
    arrived: Notify,
}

struct Inner<Q, A> {
    ready: VecDeque<Job<Q, A>>,
    /// Each key that is in `ready` or with a lane, and what waits behind it.
    behind: HashMap<RecordKey, VecDeque<Job<Q, A>>>,
    jobs: usize,
    bytes: usize,
    closed: bool,
}

impl<Q, A> Queue<Q, A> {
    pub(super) fn new(jobs_max: usize, bytes_max: usize) -> Queue<Q, A> {
        let inner =
            Inner { ready: VecDeque::new(), behind: HashMap::new(), jobs: 0, bytes: 0, closed: false };
        Queue { jobs_max, bytes_max, inner: Mutex::new(inner), arrived: Notify::new() }
    }

    pub(super) fn push(&self, job: Job<Q, A>) -> Result<(), StoreError> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(closed());
        }
        if inner.jobs >= self.jobs_max || (inner.jobs > 0 && inner.bytes + job.bytes > self.bytes_max) {
            return Err(StoreError::Full(format!("{} wait for the database, of {} bytes", inner.jobs, inner.bytes)));
        }
        inner.jobs += 1;
        inner.bytes += job.bytes;
        match inner.behind.get_mut(&job.key) {
            Some(behind) => behind.push_back(job),
            None => {
                inner.behind.insert(job.key, VecDeque::new());
                inner.ready.push_back(job);
                drop(inner);
                self.arrived.notify_one();
            }
        }
        Ok(())
    }

    /// What is ready, within these bounds; at least one job. `None` when the queue is closed and empty.
    pub(super) async fn take(&self, jobs_max: usize, bytes_max: usize) -> Option<Vec<Job<Q, A>>> {
        loop {
            let arrived = self.arrived.notified();
            let batch = self.take_now(jobs_max, bytes_max);
            if !batch.is_empty() {
                return Some(batch);
            }
            if self.inner.lock().closed {
                // Whoever else waits is to see it too.
                self.arrived.notify_one();
                return None;
            }
            arrived.await;
        }
    }

    fn take_now(&self, jobs_max: usize, bytes_max: usize) -> Vec<Job<Q, A>> {
        let (mut batch, mut over, mut bytes) = (Vec::new(), Vec::new(), 0);
        let now = Instant::now();
        let mut inner = self.inner.lock();
        while let Some(job) = inner.ready.front() {
            // Whom nobody waits for was not asked yet, and need not be.
            if job.reply.is_closed() || job.deadline <= now {
                let job = inner.ready.pop_front().expect("the front is there");
                let key = job.key;
                over.push(job);
                inner.next(&key, over.last().expect("just pushed").bytes);
                continue;
            }
            let full = batch.len() >= jobs_max || bytes + job.bytes > bytes_max || job.alone;
            if full && !batch.is_empty() {
                break;
            }
            let job = inner.ready.pop_front().expect("the front is there");
            bytes += job.bytes;
            let alone = job.alone;
            batch.push(job);
            if alone {
                break;
            }
        }
        if !inner.ready.is_empty() {
            self.arrived.notify_one();
        }
        drop(inner);
        drop(over);
        batch
    }

    /// Answers, and lets the next question about the key proceed.
    pub(super) fn finish(&self, job: Job<Q, A>, answer: Result<A, StoreError>) {
        let Job { key, bytes, reply, .. } = job;
        // Nobody may wait any more.
        let _ = reply.send(answer);
        if self.inner.lock().next(&key, bytes) {
            self.arrived.notify_one();
        }
    }

    /// To be asked again, before all others.
    pub(super) fn put_back(&self, jobs: impl DoubleEndedIterator<Item = Job<Q, A>>) {
        let mut inner = self.inner.lock();
        for job in jobs.rev() {
            inner.ready.push_front(job);
        }
        drop(inner);
        self.arrived.notify_one();
    }

    /// Answers everything that is ready with `error`.
    pub(super) fn fail(&self, error: &StoreError) {
        let ready = std::mem::take(&mut self.inner.lock().ready);
        for job in ready {
            self.finish(job, Err(error.clone()));
        }
    }

    /// Takes no more; what is there is still asked.
    pub(super) fn close(&self) {
        self.inner.lock().closed = true;
        self.arrived.notify_waiters();
        self.arrived.notify_one();
    }
}

impl<Q, A> Inner<Q, A> {
    /// A question about `key` is over. Whether the next one is ready.
    fn next(&mut self, key: &RecordKey, bytes: usize) -> bool {
        self.jobs -= 1;
        self.bytes -= bytes;
        let behind = self.behind.get_mut(key).expect("a key that is asked about is listed");
        match behind.pop_front() {
            Some(job) => {
                self.ready.push_back(job);
                true
            }
            None => {
                self.behind.remove(key);
                false
            }
        }
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("it is shut down".into())
}
