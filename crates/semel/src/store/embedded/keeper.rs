//! Housekeeping, beside the writer and never in its way: pre-written spares, hints, giving segments back, moving what
//! still counts out of segments that mostly do not.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
};

use bytes::Bytes;
use semel_core::{record::Record, register::Put};
use tokio::sync::oneshot;

use super::{
    format::{self, Hint, PAGE, RECORD_HEAD, RecordHead, SegmentHeader, SegmentKind},
    index::Place,
    log::{Act, Log, Request, Segment, Spare},
    reply::{self, Awaited},
};
use crate::store::StoreError;

/// Zeros are written and made durable in pieces of this many bytes, so that the writer's barriers do not queue behind a
/// whole segment.
const ZEROS_BYTES: usize = 1 << 20;
/// Records are moved in batches of this many bytes.
const COPY_BATCH_BYTES: usize = 256 << 10;

/// Work for the keeper.
pub(super) enum Job {
    /// The segment will not be written any more.
    Sealed { number: u32, hint: Hint },
    /// See [`Store::sweep`](crate::store::Store::sweep).
    Sweep { limit: u32, reply: oneshot::Sender<Result<u32, StoreError>> },
    /// The writer has stopped; there is nothing after this.
    Stop { number: u32, hint: Hint },
}

/// Does the [`Job`]s.
pub(super) struct Keeper {
    pub(super) log: Arc<Log>,
    pub(super) closing: Arc<AtomicBool>,
}

impl Keeper {
    /// Works until told to stop. `submit` hands requests to the writer.
    pub(super) fn run(&self, jobs: &mpsc::Receiver<Job>, submit: &dyn Fn(Vec<Request>)) {
        self.prepare_spares();
        for job in jobs {
            let last = matches!(job, Job::Stop { .. });
            self.work(job, submit);
            if last {
                break;
            }
        }
    }

    pub(super) fn work(&self, job: Job, submit: &dyn Fn(Vec<Request>)) {
        match job {
            Job::Sealed { number, hint } => {
                self.write_hint(number, hint);
                self.give_back_dead();
                self.prepare_spares();
            }
            Job::Sweep { limit, reply } => drop(reply.send(self.sweep(limit, submit))),
            Job::Stop { number, hint } => self.write_hint(number, hint),
        }
    }

    /// Keeps the promised number of pre-written segments ready. What fails here only costs speed.
    pub(super) fn prepare_spares(&self) {
        while self.log.spares.lock().len() < self.log.options.spare_segments && !self.closing.load(Relaxed) {
            if let Err(error) = self.prepare_spare() {
                tracing::warn!(%error, "no spare segment could be prepared; the log grows instead, which is slower");
                break;
            }
        }
    }

    fn prepare_spare(&self) -> io::Result<()> {
        let spare = self.log.create_spare()?;
        match self.fill(&spare) {
            Ok(()) => {
                self.log.spares.lock().push_back(spare);
                Ok(())
            }
            Err(error) => {
                // Whatever is left of it is a spare all the same, and may be what a full disk needs back.
                drop(self.log.disk().remove(&self.log.segment_path(spare.slot)));
                Err(error)
            }
        }
    }

    /// Writes zeros up to a segment's full length: blocks that were written once are overwritten without a journal.
    fn fill(&self, spare: &Spare) -> io::Result<()> {
        let zeros = vec![0; ZEROS_BYTES];
        let len = usize::try_from(spare.file.len()?).expect("segments are at most 128 MiB");
        let mut at = len.next_multiple_of(PAGE);
        let end = self.log.segment_len();
        while at < end && !self.closing.load(Relaxed) {
            let len = ZEROS_BYTES.min(end - at);
            spare.file.write_all_at(&zeros[..len], at as u64)?;
            spare.file.sync()?;
            at += len;
        }
        Ok(())
    }

    fn write_hint(&self, number: u32, mut hint: Hint) {
        let Some(segment) = self.log.segments.read().get(number).cloned() else { return };
        // What a later record replaced need not be told: that record is in the log as long as this one. What was
        // removed or swept must be, because it may hide an older one.
        hint.places.retain(|(at, place)| {
            let place = place.in_segment(number);
            self.log.index.get(*at).is_none_or(|now| same_spot(now, place))
        });
        let path = self.log.hint_path(segment.slot);
        let unfinished = path.with_extension("new");
        let write = || {
            self.log.disk().create(&unfinished)?.write_all_at(&hint.bytes(), 0)?;
            self.log.disk().rename(&unfinished, &path)
        };
        // Not made durable: a hint that does not fit its checksum is as good as none.
        if let Err(error) = write() {
            tracing::warn!(%error, "no hint was written; the next opening takes longer");
        }
    }

    pub(super) fn sweep(&self, limit: u32, submit: &dyn Fn(Vec<Request>)) -> Result<u32, StoreError> {
        self.log.check_poison()?;
        let log = &self.log;
        let dropped = log.index.sweep(log.now_ms(), limit as usize, |place| log.account_dropped(place));
        self.give_back_dead();
        if dropped < limit as usize {
            self.clean(submit)?;
        }
        self.prepare_spares();
        log.check_poison()?;
        Ok(u32::try_from(dropped).expect("no more than the limit"))
    }

    /// Gives the oldest segments back as long as nothing in them counts.
    pub(super) fn give_back_dead(&self) {
        while self.log.check_poison().is_ok() {
            let oldest = {
                let segments = self.log.segments.read();
                let oldest = segments.list.front().filter(|_| segments.list.len() > 1).cloned();
                oldest.filter(|oldest| {
                    oldest.live_records.load(Relaxed) == 0 || oldest.max_expires_ms.load(Relaxed) <= self.log.now_ms()
                })
            };
            let Some(oldest) = oldest else { break };
            self.give_back(&oldest);
        }
    }

    /// Turns the oldest segment into a spare. Durable before the next one is touched: a gap in the log is damage.
    fn give_back(&self, oldest: &Segment) {
        {
            let mut segments = self.log.segments.write();
            segments.list.pop_front();
            segments.oldest += 1;
        }
        let spare = Spare { slot: oldest.slot, file: oldest.file.clone() };
        let header = SegmentHeader { kind: SegmentKind::Spare, generation: oldest.generation, first_seq: 0 };
        if let Err(error) = spare.file.write_all_at(&header.page(), 0).and_then(|()| spare.file.sync()) {
            self.log.set_poison("giving a segment back", &error);
            return;
        }
        drop(self.log.disk().remove(&self.log.hint_path(spare.slot)));
        if self.log.spares.lock().len() >= self.log.options.recycled_segments_max {
            drop(self.log.disk().remove(&self.log.segment_path(spare.slot)));
            return;
        }
        if let Err(error) = self.fill(&spare) {
            tracing::warn!(%error, "a segment that ended early could not be filled up; it grows instead");
        }
        self.log.spares.lock().push_back(spare);
    }

    /// Moves what still counts out of the oldest segments, as long as that gives back more than it costs.
    fn clean(&self, submit: &dyn Fn(Vec<Request>)) -> Result<(), StoreError> {
        let mut left = self.log.options.copy_bytes_max;
        while left > 0 && self.worth_cleaning() {
            let number = self.log.segments.read().oldest;
            let mut places = Vec::new();
            self.log.index.for_each(|_, place| {
                if place.segment() == number {
                    places.push(place);
                }
            });
            places.sort_unstable_by_key(|place| place.offset());
            let mut batch = Vec::new();
            let mut bytes = 0;
            for place in places {
                let Some(moved) = self.moved(place)? else { continue };
                bytes += moved.0.bytes.len();
                batch.push(moved);
                if bytes >= COPY_BATCH_BYTES || bytes >= left {
                    left = left.saturating_sub(bytes);
                    bytes = 0;
                    self.move_batch(std::mem::take(&mut batch), submit)?;
                }
                if left == 0 {
                    break;
                }
            }
            left = left.saturating_sub(bytes.max(1));
            self.move_batch(batch, submit)?;
            self.give_back_dead();
            if self.log.segments.read().oldest == number {
                // Something in it expired since the sweep, or the bound was reached: next time.
                break;
            }
        }
        Ok(())
    }

    /// The oldest segment is nearly empty, or half of the log is dead: then each byte moved gives back one or more.
    fn worth_cleaning(&self) -> bool {
        let now = self.log.now_ms();
        let segments = self.log.segments.read();
        let sealed = segments.list.iter().take(segments.list.len() - 1);
        let (mut used, mut live) = (0, 0);
        for (n, segment) in sealed.enumerate() {
            let segment_live = live_bytes(segment, now);
            used += segment.used.load(Relaxed);
            live += segment_live;
            if n == 0 && segment_live <= used / 8 {
                return true;
            }
        }
        used > 0 && live <= used / 2
    }

    /// The request that moves the record at `place`, without its content if that is past its time.
    fn moved(&self, place: Place) -> Result<Option<Move>, StoreError> {
        let (head, bytes) = self.log.read_place(place)?.ok_or_else(|| self.log.damaged(place))?;
        let now = self.log.now_ms();
        let bytes = match head.trims_ms {
            Some(trims_ms) if trims_ms <= now => match trimmed(&head, bytes, now)? {
                Some(bytes) => bytes,
                None => return Ok(None),
            },
            Some(_) | None => {
                let mut bytes = bytes;
                bytes.truncate(head.size);
                bytes
            }
        };
        let (reply, answer) = reply::reply();
        Ok(Some((Request { key: head.key, act: Act::Copy { from: place }, bytes, reply }, answer)))
    }

    fn move_batch(&self, batch: Vec<Move>, submit: &dyn Fn(Vec<Request>)) -> Result<(), StoreError> {
        let (requests, answers): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        self.log.copied.fetch_add(requests.len() as u64, Relaxed);
        submit(requests);
        for answer in answers {
            answer.wait().unwrap_or_else(|| Err(StoreError::Unavailable("closed".to_owned())))?;
        }
        Ok(())
    }
}

type Move = (Request, Awaited);

fn same_spot(a: Place, b: Place) -> bool {
    a.segment() == b.segment() && a.offset() == b.offset()
}

fn live_bytes(segment: &Segment, now: u64) -> u64 {
    let live = segment.live_bytes.load(Relaxed);
    if segment.max_expires_ms.load(Relaxed) <= now {
        0
    } else if segment.max_trims_ms.load(Relaxed) <= now {
        live.saturating_sub(segment.trimmable_bytes.load(Relaxed))
    } else {
        live
    }
}

/// The record of these bytes as it is told at `now`; `None` when it is told no more.
fn trimmed(head: &RecordHead, bytes: Vec<u8>, now: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let record = Record::decode(Bytes::from(bytes).slice(RECORD_HEAD..head.size))
        .map_err(|error| StoreError::Corrupt(error.to_string()))?;
    let age = std::time::Duration::from_millis(now.saturating_sub(head.written_ms));
    Ok(record.at_age(age).map(|record| {
        let mut bytes = format::put_bytes(&head.key, &Put { stamp: head.stamp, record });
        format::set_written(&mut bytes, head.written_ms);
        bytes
    }))
}
