//! What waits for a lane: at most one question per key at a time, so that no two of a batch are about the same key and
//! none overtakes another. A crowd that asks about one key rides along with the first.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use semel_core::scope::RecordKey;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    figures::{COUNT_BOUNDS, Histogram},
    store::{
        StoreError,
        pace::{Out, Pace},
    },
};

/// A question about a key that a store can be asked.
pub(super) trait Question: Send + 'static {
    /// What it is answered.
    type Answer: Send + 'static;

    /// Its share of a statement.
    fn bytes(&self) -> usize;

    /// Whether `other`, which waits for the end of this one, need not be asked: [`Question::answers`] tells it.
    fn may_carry(&self, other: &Self) -> bool;

    /// What `other` would be answered if it were asked right after this one was answered `answer`.
    fn answers(&self, answer: &Self::Answer, other: &Self) -> Self::Answer;
}

/// A question about a key, and who waits for its answer.
pub(super) struct Job<Q: Question> {
    pub(super) key: RecordKey,
    pub(super) question: Q,
    /// When nobody waits any more.
    pub(super) deadline: Instant,
    /// How often it met a view that had changed under it.
    pub(super) attempts: u32,
    /// It is asked in a statement of its own, since one with others failed.
    pub(super) alone: bool,
    /// A connection was lost while it was asked.
    pub(super) lost: bool,
    pub(super) reply: oneshot::Sender<Result<Q::Answer, StoreError>>,
    /// Those that had been asked before this one was sent.
    pub(super) riders: Vec<Job<Q>>,
}

/// See the module.
pub(super) struct Queue<Q: Question> {
    jobs_max: usize,
    bytes_max: usize,
    /// Questions in a statement.
    pub(super) batches: Histogram,
    inner: Mutex<Inner<Q>>,
    pace: Pace,
}

struct Inner<Q: Question> {
    ready: VecDeque<Job<Q>>,
    /// Each key that is in `ready` or with a lane, and what waits behind it.
    behind: HashMap<RecordKey, VecDeque<Job<Q>>>,
    jobs: usize,
    bytes: usize,
    closed: bool,
}

impl<Q: Question> Queue<Q> {
    pub(super) fn new(jobs_max: usize, bytes_max: usize) -> Queue<Q> {
        let inner = Inner { ready: VecDeque::new(), behind: HashMap::new(), jobs: 0, bytes: 0, closed: false };
        let batches = Histogram::new(COUNT_BOUNDS);
        Queue { jobs_max, bytes_max, batches, inner: Mutex::new(inner), pace: Pace::default() }
    }

    pub(super) fn push(&self, job: Job<Q>) -> Result<(), StoreError> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(closed());
        }
        let bytes = job.question.bytes();
        if inner.jobs >= self.jobs_max || (inner.jobs > 0 && inner.bytes + bytes > self.bytes_max) {
            return Err(StoreError::Full(format!("{} wait for the database, of {} bytes", inner.jobs, inner.bytes)));
        }
        inner.jobs += 1;
        inner.bytes += bytes;
        if let Some(behind) = inner.behind.get_mut(&job.key) {
            behind.push_back(job);
        } else {
            inner.behind.insert(job.key, VecDeque::new());
            inner.ready.push_back(job);
            let waiting = inner.ready.len();
            drop(inner);
            self.pace.arrived(waiting);
        }
        Ok(())
    }

    /// Waits until something is ready, and takes nothing. `false` when the queue is closed and empty.
    pub(super) async fn waits(&self) -> bool {
        loop {
            let (ready, closed) = {
                let inner = self.inner.lock();
                (!inner.ready.is_empty(), inner.closed)
            };
            if ready || closed {
                // For who takes it, or is to see it too.
                self.pace.call();
                return ready;
            }
            self.pace.called().await;
        }
    }

    /// What is ready, within these bounds; at least one job. `None` when the queue is closed and empty. The lane that took
    /// it is out until it drops the other half.
    pub(super) async fn take(&self, jobs_max: usize, bytes_max: usize) -> Option<(Vec<Job<Q>>, Out<'_>)> {
        loop {
            if !self.inner.lock().ready.is_empty() {
                self.pace.linger(|| self.inner.lock().ready.len()).await;
            }
            let batch = self.take_now(jobs_max, bytes_max);
            if !batch.is_empty() {
                self.batches.record(batch.len() as u64);
                let out = self.pace.out(batch.len());
                return Some((batch, out));
            }
            if self.inner.lock().closed {
                // Whoever else waits is to see it too.
                self.pace.call();
                return None;
            }
            // What arrived since has left a permit.
            self.pace.called().await;
        }
    }

    fn take_now(&self, jobs_max: usize, bytes_max: usize) -> Vec<Job<Q>> {
        let (mut batch, mut bytes): (Vec<Job<Q>>, usize) = (Vec::new(), 0);
        let now = Instant::now();
        let mut inner = self.inner.lock();
        while let Some(job) = inner.ready.pop_front() {
            // Whom nobody waits for was not asked yet, or is asked again, and need not be.
            if job.riders.is_empty() && (job.reply.is_closed() || job.deadline <= now) {
                inner.end(&job);
                continue;
            }
            let full = batch.len() >= jobs_max || bytes + job.question.bytes() > bytes_max || job.alone;
            if full && !batch.is_empty() {
                inner.ready.push_front(job);
                break;
            }
            bytes += job.question.bytes();
            let alone = job.alone;
            batch.push(job);
            if alone {
                break;
            }
        }
        for job in &mut batch {
            inner.board(job);
        }
        if !inner.ready.is_empty() {
            self.pace.call();
        }
        batch
    }

    /// Answers, and lets the next question about the key proceed.
    pub(super) fn finish(&self, mut job: Job<Q>, answer: Result<Q::Answer, StoreError>) {
        let riders = std::mem::take(&mut job.riders);
        for rider in riders {
            let answer = match &answer {
                Ok(answer) => Ok(job.question.answers(answer, &rider.question)),
                Err(error) => Err(error.clone()),
            };
            self.inner.lock().leave(&rider);
            let _ = rider.reply.send(answer);
        }
        let more = self.inner.lock().end(&job);
        // Nobody may wait any more.
        let _ = job.reply.send(answer);
        if more {
            self.pace.call();
        }
    }

    /// The same, where the answer says nothing to riders: they are asked next.
    pub(super) fn finish_alone(&self, mut job: Job<Q>, answer: Result<Q::Answer, StoreError>) {
        let riders = std::mem::take(&mut job.riders);
        if let Some(behind) = self.inner.lock().behind.get_mut(&job.key) {
            riders.into_iter().rev().for_each(|rider| behind.push_front(rider));
        }
        self.finish(job, answer);
    }

    /// To be asked again, before all others.
    pub(super) fn put_back(&self, jobs: impl DoubleEndedIterator<Item = Job<Q>>) {
        let mut inner = self.inner.lock();
        for job in jobs.rev() {
            inner.ready.push_front(job);
        }
        drop(inner);
        self.pace.call();
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
        self.pace.call();
    }
}

impl<Q: Question> Inner<Q> {
    /// Those that wait behind `job` and that it may carry go with it, as far as none overtakes another.
    fn board(&mut self, job: &mut Job<Q>) {
        let behind = self.behind.get_mut(&job.key).expect("a key that is asked about is listed");
        while let Some(next) = behind.front()
            && job.question.may_carry(&next.question)
        {
            job.riders.extend(behind.pop_front());
        }
    }

    fn leave(&mut self, job: &Job<Q>) {
        self.jobs -= 1;
        self.bytes -= job.question.bytes();
    }

    /// A question is over. Whether the next one about its key is ready.
    fn end(&mut self, job: &Job<Q>) -> bool {
        self.leave(job);
        let behind = self.behind.get_mut(&job.key).expect("a key that is asked about is listed");
        let Some(next) = behind.pop_front() else {
            self.behind.remove(&job.key);
            return false;
        };
        self.ready.push_back(next);
        true
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("it is shut down".into())
}
