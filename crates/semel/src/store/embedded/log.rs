//! The log: segments in a row, and the one writer that appends frames to the last of them.
//!
//! Invariants that everything else leans on:
//! - **Only the oldest segment is ever given back.** So an older version of a key never outlives a newer one, and a
//!   removal or an expired record that is dropped from the log can revive nothing. Sequence numbers of the live
//!   segments have no gap, so a segment that lost its end is noticed at opening.
//! - **The index holds only what is durable.** It changes after the barrier and before anybody is told.
//! - **A page that holds durable bytes is only rewritten with those same bytes in it.**

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use semel_core::{
    record::{PhaseKind, Record, Stamp},
    register::Found,
    scope::RecordKey,
};

use super::{
    Options,
    disk::{Disk, DiskFile},
    format::{
        self, FRAME_HEAD, Frame, Hint, PAGE, RECORD_HEAD, RecordHead, SegmentHeader, SegmentKind, TRIMMED_BYTES_MAX,
    },
    index::{Fingerprint, Index, Place},
    keeper::Job,
    reply::{Reply, Wakeups},
};
use crate::{
    figures::{COUNT_BOUNDS, Histogram},
    store::StoreError,
};

/// In-flight stamps kept in memory, so that a settle is compared without reading the disk.
const CLAIMS_CACHED_MAX: usize = 1 << 16;

/// A file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    /// The number in its name.
    pub(super) slot: u32,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) generation: u64,
    /// Bytes up to the end of its last durable frame.
    pub(super) used: AtomicU64,
    /// What the index points to in here.
    pub(super) live_records: AtomicU64,
    pub(super) live_bytes: AtomicU64,
    /// The part of `live_bytes` that is content which will be past its time at `max_trims_ms`.
    pub(super) trimmable_bytes: AtomicU64,
    /// From when nothing in here counts any more.
    pub(super) max_expires_ms: AtomicU64,
    pub(super) max_trims_ms: AtomicU64,
}

impl Segment {
    pub(super) fn new(slot: u32, file: Arc<dyn DiskFile>, generation: u64) -> Segment {
        Segment {
            slot,
            file,
            generation,
            used: AtomicU64::new(0),
            live_records: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            trimmable_bytes: AtomicU64::new(0),
            max_expires_ms: AtomicU64::new(0),
            max_trims_ms: AtomicU64::new(0),
        }
    }

    fn read(&self, place: Place, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let read = self.file.read_at(&mut bytes, place.offset() as u64)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// The live segments, oldest first; the last is being written. Numbers count up from the opening and are never reused.
#[derive(Debug, Default)]
pub(super) struct Segments {
    pub(super) oldest: u32,
    pub(super) list: VecDeque<Arc<Segment>>,
}

impl Segments {
    pub(super) fn get(&self, number: u32) -> Option<&Arc<Segment>> {
        self.list.get(number.checked_sub(self.oldest)? as usize)
    }
}

/// A file that may be written from its start.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) slot: u32,
    pub(super) file: Arc<dyn DiskFile>,
}

/// What readers, writer and keeper share.
pub(super) struct Log {
    pub(super) folder: PathBuf,
    pub(super) options: Options,
    pub(super) index: Index,
    pub(super) segments: RwLock<Segments>,
    pub(super) spares: Mutex<VecDeque<Spare>>,
    pub(super) next_slot: AtomicU32,
    /// Added to the clock, so that time goes on from where the log ended even if the clock was set back meanwhile.
    pub(super) ahead_ms: u64,
    latest_ms: AtomicU64,
    poison: OnceLock<String>,
    pub(super) commits: AtomicU64,
    /// Records in a group commit.
    pub(super) batches: Histogram,
    pub(super) swaps: AtomicU64,
    pub(super) copied: AtomicU64,
}

impl Log {
    pub(super) fn new(folder: &Path, options: Options) -> Log {
        Log {
            folder: folder.to_owned(),
            options,
            index: Index::new(),
            segments: RwLock::default(),
            spares: Mutex::default(),
            next_slot: AtomicU32::new(1),
            ahead_ms: 0,
            latest_ms: AtomicU64::new(0),
            poison: OnceLock::new(),
            commits: AtomicU64::new(0),
            batches: Histogram::new(COUNT_BOUNDS),
            swaps: AtomicU64::new(0),
            copied: AtomicU64::new(0),
        }
    }

    /// Milliseconds by the store's own clock, which never goes back.
    pub(super) fn now_ms(&self) -> u64 {
        let now = self.options.clock.now_ms() + self.ahead_ms;
        let latest = self.latest_ms.load(Relaxed);
        if now > latest { self.latest_ms.fetch_max(now, Relaxed).max(now) } else { latest }
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        self.options.disk.as_ref()
    }

    /// Bytes of a full segment.
    pub(super) fn segment_len(&self) -> usize {
        usize::try_from(self.options.segment_bytes).expect("segments are at most 128 MiB")
    }

    pub(super) fn segment_path(&self, slot: u32) -> PathBuf {
        self.folder.join(format!("{slot:08}.seg"))
    }

    pub(super) fn hint_path(&self, slot: u32) -> PathBuf {
        self.folder.join(format!("{slot:08}.hint"))
    }

    /// Refuses everything from here on. A barrier that failed is never tried again: the kernel may have dropped what
    /// it could not write, and would answer the second barrier with success.
    pub(super) fn set_poison(&self, why: &str, error: &io::Error) -> StoreError {
        let why = format!("{why}: {error}: refused since a failed write; restart to recover");
        tracing::error!(folder = %self.folder.display(), "{why}");
        StoreError::Unavailable(self.poison.get_or_init(|| why).clone())
    }

    pub(super) fn check_poison(&self) -> Result<(), StoreError> {
        self.poison.get().map_or(Ok(()), |why| Err(StoreError::Unavailable(why.clone())))
    }

    /// What lives at `key` and is durable. Linearizable: a record in the index was current when it was looked up.
    pub(super) fn read(&self, key: &RecordKey) -> Result<Option<Found>, StoreError> {
        let at = Fingerprint::of(key);
        loop {
            let now = self.now_ms();
            let Some(place) = self.index.get(at).filter(|place| place.expires_ms() > now) else { return Ok(None) };
            let Some((head, bytes)) = self.read_current(at, place)? else { continue };
            if head.key != *key {
                return Err(same_fingerprint());
            }
            let record = Record::decode(Bytes::from(bytes).slice(RECORD_HEAD..head.size))
                .map_err(|error| StoreError::Corrupt(error.to_string()))?;
            let age = Duration::from_millis(now.saturating_sub(head.written_ms));
            let abandoned = place.abandoned();
            return Ok(record.at_age(age).map(|record| Found { stamp: head.stamp, age, abandoned, record }));
        }
    }

    /// The record at `place`, where the index says that `at` is; `None` when the index no longer says so.
    pub(super) fn read_current(
        &self,
        at: Fingerprint,
        place: Place,
    ) -> Result<Option<(RecordHead, Vec<u8>)>, StoreError> {
        if let Some(found) = self.read_place(place)? {
            return Ok(Some(found));
        }
        // The segment was given back, and perhaps written anew, between looking up and reading; or it is damaged.
        let current = self.index.get(at) == Some(place) && place.expires_ms() > self.now_ms();
        if current { Err(self.damaged(place)) } else { Ok(None) }
    }

    /// The record at `place`, if that is what is there.
    pub(super) fn read_place(&self, place: Place) -> Result<Option<(RecordHead, Vec<u8>)>, StoreError> {
        let Some(segment) = self.segments.read().get(place.segment()).cloned() else { return Ok(None) };
        let bytes = segment.read(place, place.len()).map_err(|error| unreadable(&error))?;
        let head = RecordHead::read_checked(&bytes, format::seed(segment.generation));
        Ok(head.filter(|head| format::padded(head.size) == place.len()).map(|head| (head, bytes)))
    }

    pub(super) fn damaged(&self, place: Place) -> StoreError {
        let slot = self.segments.read().get(place.segment()).map_or(0, |segment| segment.slot);
        StoreError::Corrupt(format!("{slot:08}.seg at byte {}: the record does not fit its checksum", place.offset()))
    }

    pub(super) fn account_added(&self, place: Place) {
        if let Some(segment) = self.segments.read().get(place.segment()) {
            segment.live_records.fetch_add(1, Relaxed);
            segment.live_bytes.fetch_add(place.len() as u64, Relaxed);
            segment.trimmable_bytes.fetch_add(trimmable(place), Relaxed);
        }
    }

    pub(super) fn account_dropped(&self, place: Place) {
        if let Some(segment) = self.segments.read().get(place.segment()) {
            segment.live_records.fetch_sub(1, Relaxed);
            segment.live_bytes.fetch_sub(place.len() as u64, Relaxed);
            segment.trimmable_bytes.fetch_sub(trimmable(place), Relaxed);
        }
    }

    /// Creates an empty segment file that survives a crash as a spare, whatever of it does.
    pub(super) fn create_spare(&self) -> io::Result<Spare> {
        let slot = self.next_slot.fetch_add(1, Relaxed);
        let path = self.segment_path(slot);
        let unfinished = path.with_extension("new");
        let create = || {
            let file = self.disk().create(&unfinished)?;
            file.write_all_at(&SegmentHeader { kind: SegmentKind::Spare, generation: 0, first_seq: 0 }.page(), 0)?;
            file.sync()?;
            // Under its final name a file without a valid header can only be damage.
            self.disk().rename(&unfinished, &path)?;
            self.disk().sync_folder(&self.folder)?;
            Ok(file)
        };
        match create() {
            Ok(file) => Ok(Spare { slot, file }),
            Err(error) => {
                // Opening clears away what cannot be removed now.
                drop(self.disk().remove(&unfinished));
                Err(error)
            }
        }
    }
}

/// A question to the writer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) key: RecordKey,
    pub(super) act: Act,
    /// The record to append if the answer is yes.
    pub(super) bytes: Vec<u8>,
    pub(super) reply: Reply,
}

#[derive(Debug)]
pub(super) enum Act {
    /// Append if what lives there bears `expect`. `put` is the stamp of the bytes; `None`: they are a removal.
    Swap { expect: Option<Stamp>, put: Option<Stamp> },
    /// Append, as written when it first was, if the record still lies at `from`.
    Copy { from: Place },
}

/// What the writer answers. It never reads a record to tell it: that is the asker's own work, in the asker's thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Durable.
    Done,
    /// A stamp was expected, and nothing lives there.
    Absent,
    /// Something else lives there; look.
    Look,
}

pub(super) type Answer = Result<Verdict, StoreError>;

/// Appends. There is one, and it is nobody's business but its thread's.
pub(super) struct Writer {
    pub(super) log: Arc<Log>,
    jobs: mpsc::Sender<Job>,
    active: Arc<Segment>,
    active_number: u32,
    /// Whether the active segment is written for the first time, which costs a barrier several times as much.
    growth: Growth,
    /// The next write starts here, at a page, with `tail`: what the log holds from here up to its end.
    write_from: usize,
    tail: Vec<u8>,
    next_seq: u64,
    session: u32,
    last_time_ms: u64,
    /// Of the active segment, for its hint.
    places: Vec<(Fingerprint, Place)>,
    /// Stamps of in-flight records written since opening; a cache of what the log says.
    claims: HashMap<Fingerprint, Stamp, std::hash::BuildHasherDefault<super::index::Identity>>,
    /// What the frame under way will change.
    pending: HashMap<Fingerprint, Option<Stamp>, std::hash::BuildHasherDefault<super::index::Identity>>,
    buffer: Vec<u8>,
    appended: Vec<Appended>,
    answers: Vec<(Reply, Answer)>,
    wakeups: Wakeups,
}

struct Appended {
    at: Fingerprint,
    place: Place,
    head: RecordHead,
    reply: Reply,
}

/// How the file of a segment takes a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Growth {
    /// It gets longer.
    Grows,
    /// Its blocks were written before.
    Overwritten,
}

/// Where the log goes on after opening.
pub(super) struct Tail {
    pub(super) write_from: usize,
    pub(super) bytes: Vec<u8>,
    pub(super) next_seq: u64,
    pub(super) session: u32,
    pub(super) places: Vec<(Fingerprint, Place)>,
}

impl Writer {
    /// Goes on at the end of the last segment, or starts the first.
    ///
    /// The first frame says that a new session began. Its write starts with the last frame of the session before, which
    /// may have reached only the page cache: after this barrier, what was read at opening is durable.
    pub(super) fn start(log: Arc<Log>, jobs: mpsc::Sender<Job>, tail: Tail) -> Result<Writer, StoreError> {
        let (active, active_number) = {
            let segments = log.segments.read();
            let last = u32::try_from(segments.list.len()).expect("segments are numbered by 24 bits") - 1;
            (segments.list.back().expect("recovery leaves a segment to write to").clone(), segments.oldest + last)
        };
        let is_whole = active.file.len().is_ok_and(|len| len >= log.segment_len() as u64);
        let mut writer = Writer {
            growth: if is_whole { Growth::Overwritten } else { Growth::Grows },
            log,
            jobs,
            active,
            active_number,
            write_from: tail.write_from,
            tail: tail.bytes,
            next_seq: tail.next_seq,
            session: tail.session,
            last_time_ms: 0,
            places: tail.places,
            claims: HashMap::default(),
            pending: HashMap::default(),
            buffer: Vec::new(),
            appended: Vec::new(),
            answers: Vec::new(),
            wakeups: Wakeups::default(),
        };
        if writer.room() < FRAME_HEAD {
            writer.rotate()?;
        }
        let now = writer.log.now_ms();
        writer.begin_frame();
        writer.write_frame(now)?;
        Ok(writer)
    }

    /// Takes a batch from the front of `queue`, makes it durable in one frame with one barrier, and answers it.
    pub(super) fn commit(&mut self, queue: &mut VecDeque<Request>) {
        if let Err(error) = self.log.check_poison() {
            queue.drain(..).for_each(|request| request.reply.send(Err(error.clone())));
            return;
        }
        // A new folder's first segment is left for a pre-written one as soon as there is one.
        if self.growth == Growth::Grows && !self.log.spares.lock().is_empty() {
            drop(self.rotate());
        }
        let now = self.log.now_ms();
        self.begin_frame();
        while let Some(request) = queue.front() {
            let len = format::padded(request.bytes.len());
            let started = !self.appended.is_empty();
            if started
                && (self.frame_len() + len > self.log.options.batch_bytes_max || self.room() < self.frame_len() + len)
            {
                break;
            }
            let request = queue.pop_front().expect("there is a front");
            match self.judge(&request, now) {
                Ok(None) if started || self.room() >= FRAME_HEAD + len => self.append(request, now),
                Ok(None) if FRAME_HEAD + len > self.log.segment_len() - PAGE => {
                    let limit = self.log.segment_len() - PAGE - FRAME_HEAD;
                    let why = format!("a record of {len} bytes is over the {limit} that a segment has room for");
                    self.answers.push((request.reply, Err(StoreError::Full(why))));
                }
                Ok(None) => match self.rotate() {
                    Ok(()) => {
                        self.begin_frame();
                        self.append(request, now);
                    }
                    Err(error) => {
                        // It would be the same for all that wait, and each try costs barriers on a full disk.
                        request.reply.send(Err(error.clone()));
                        queue.drain(..).for_each(|request| request.reply.send(Err(error.clone())));
                    }
                },
                Ok(Some(verdict)) => self.answers.push((request.reply, Ok(verdict))),
                Err(error) => self.answers.push((request.reply, Err(error))),
            }
        }
        self.log.swaps.fetch_add((self.appended.len() + self.answers.len()) as u64, Relaxed);
        let outcome = if self.appended.is_empty() { Ok(()) } else { self.write_frame(now) };
        match outcome {
            Ok(()) => {
                self.publish();
                let wakeups = &mut self.wakeups;
                self.appended.drain(..).for_each(|done| done.reply.leave(Ok(Verdict::Done), wakeups));
                self.answers.drain(..).for_each(|(reply, answer)| reply.leave(answer, wakeups));
                wakeups.deliver();
            }
            Err(error) => {
                // An answer may lean on a record of the frame that failed.
                let undecided = StoreError::Unavailable(format!("not decided: {error}"));
                self.appended.drain(..).for_each(|failed| failed.reply.send(Err(error.clone())));
                self.answers.drain(..).for_each(|(reply, _)| reply.send(Err(undecided.clone())));
            }
        }
    }

    /// What need not be read again at the next opening.
    pub(super) fn hint(&mut self) -> Hint {
        Hint {
            generation: self.active.generation,
            end: self.end(),
            seq: self.next_seq - 1,
            time_ms: self.last_time_ms,
            session: self.session,
            max_expires_ms: self.active.max_expires_ms.load(Relaxed),
            max_trims_ms: self.active.max_trims_ms.load(Relaxed),
            places: std::mem::take(&mut self.places),
        }
    }

    pub(super) fn active_number(&self) -> u32 {
        self.active_number
    }

    /// `None`: append.
    fn judge(&self, request: &Request, now: u64) -> Result<Option<Verdict>, StoreError> {
        let at = Fingerprint::of(&request.key);
        let (expect, put) = match request.act {
            Act::Swap { expect, put } => (expect, put),
            Act::Copy { from } => {
                let unmoved = self.index.get(at) == Some(from) && !self.pending.contains_key(&at);
                return Ok(if unmoved { None } else { Some(Verdict::Look) });
            }
        };
        let current = match self.pending.get(&at) {
            Some(pending) => *pending,
            None => match self.index.get(at).filter(|place| place.expires_ms() > now) {
                None => None,
                Some(_) if expect.is_none() => return Ok(Some(Verdict::Look)),
                Some(place) => self.stamp(at, place, &request.key)?,
            },
        };
        Ok(match (current, expect) {
            (None, None) => None,
            (None, Some(_)) => Some(Verdict::Absent),
            (Some(current), _) if put == Some(current) => Some(Verdict::Done),
            (Some(current), Some(expect)) if current == expect => None,
            (Some(_), _) => Some(Verdict::Look),
        })
    }

    fn stamp(&self, at: Fingerprint, place: Place, key: &RecordKey) -> Result<Option<Stamp>, StoreError> {
        if let Some(stamp) = self.claims.get(&at) {
            return Ok(Some(*stamp));
        }
        match self.log.read_current(at, place)? {
            Some((head, _)) if head.key == *key => Ok(Some(head.stamp)),
            Some(_) => Err(same_fingerprint()),
            // Only the writer moves and replaces, so it expired just now.
            None => Ok(None),
        }
    }

    fn append(&mut self, request: Request, now: u64) {
        let offset = self.write_from + self.buffer.len();
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&request.bytes);
        let record = &mut self.buffer[start..];
        if let Act::Swap { .. } = request.act {
            format::set_written(record, now);
        }
        format::finish_record(record, format::seed(self.active.generation));
        let head = RecordHead::read(record).expect("askers hand in whole records");
        self.buffer.resize(start + format::padded(head.size), 0);
        let at = Fingerprint::of(&request.key);
        let place = place_of(&head, self.active_number, offset);
        self.pending.insert(at, head.kind.map(|_| head.stamp));
        let place = match request.act {
            Act::Swap { .. } => place,
            Act::Copy { from } if from.abandoned() => place.set_abandoned(),
            Act::Copy { .. } => place,
        };
        self.appended.push(Appended { at, place, head, reply: request.reply });
    }

    fn publish(&mut self) {
        for appended in &self.appended {
            let Appended { at, place, head, .. } = appended;
            self.places.push((*at, *place));
            note_times(&self.active, head);
            let replaced = if head.kind.is_none() {
                self.index.remove(*at)
            } else {
                self.log.account_added(*place);
                self.index.put(*at, *place)
            };
            if let Some(replaced) = replaced {
                self.log.account_dropped(replaced);
            }
            if head.kind == Some(PhaseKind::InFlight) {
                if self.claims.len() >= CLAIMS_CACHED_MAX {
                    self.claims.clear();
                }
                self.claims.insert(*at, head.stamp);
            } else {
                self.claims.remove(at);
            }
        }
    }

    fn begin_frame(&mut self) {
        self.pending.clear();
        self.buffer.clear();
        self.buffer.extend_from_slice(&self.tail);
        self.buffer.resize(self.tail.len() + FRAME_HEAD, 0);
    }

    /// Writes the frame in `buffer` and waits for the disk. `Full` only if it is certain that the frame never counts.
    fn write_frame(&mut self, now: u64) -> Result<(), StoreError> {
        let count = u32::try_from(self.appended.len()).expect("a frame is far below 4 Gi records");
        let start = self.tail.len();
        Frame::finish(&mut self.buffer[start..], self.active.generation, self.next_seq, now, self.session, count);
        let len = self.buffer.len();
        self.buffer.resize(len.next_multiple_of(PAGE), 0);
        if let Err(error) = self.active.file.write_all_at(&self.buffer, self.write_from as u64) {
            return Err(if is_full(&error) {
                self.take_back(&error)
            } else {
                self.log.set_poison("writing the log", &error)
            });
        }
        self.active.file.sync().map_err(|error| self.log.set_poison("making the log durable", &error))?;
        self.log.commits.fetch_add(1, Relaxed);
        self.log.batches.record(u64::from(count));
        let kept = len / PAGE * PAGE;
        self.tail.clear();
        self.tail.extend_from_slice(&self.buffer[kept..len]);
        self.write_from += kept;
        self.next_seq += 1;
        self.last_time_ms = now;
        self.active.used.store(self.end() as u64, Relaxed);
        Ok(())
    }

    /// The disk filled up while the file grew: cuts off whatever of the frame was written, durably, and goes on from
    /// the same place when there is room again.
    fn take_back(&self, error: &io::Error) -> StoreError {
        match self.active.file.set_len(self.end() as u64).and_then(|()| self.active.file.sync()) {
            Ok(()) => StoreError::Full(format!("the disk of {}: {error}", self.log.folder.display())),
            Err(error) => self.log.set_poison("taking back a frame that the full disk cut short", &error),
        }
    }

    /// Goes on in a new segment. Its header is written with its first frame.
    fn rotate(&mut self) -> Result<(), StoreError> {
        let spare = self.log.spares.lock().pop_front();
        self.growth = if spare.is_some() { Growth::Overwritten } else { Growth::Grows };
        let spare = match spare {
            Some(spare) => spare,
            None => self.log.create_spare().map_err(|error| {
                if is_full(&error) {
                    StoreError::Full(format!("the disk of {}: {error}", self.log.folder.display()))
                } else {
                    self.log.set_poison("creating a segment", &error)
                }
            })?,
        };
        let hint = self.hint();
        let (segment, header) = begin_segment(spare, self.next_seq);
        self.active = Arc::new(segment);
        self.write_from = 0;
        self.tail = header.page().to_vec();
        {
            let mut segments = self.log.segments.write();
            assert!(self.active_number + 1 < Place::SEGMENTS_MAX, "a petabyte was written since opening; open again");
            segments.list.push_back(self.active.clone());
        }
        let sealed = self.active_number;
        self.active_number += 1;
        // Without a keeper, which is a store being closed, the next opening reads the segment itself.
        drop(self.jobs.send(Job::Sealed { number: sealed, hint }));
        Ok(())
    }

    fn end(&self) -> usize {
        self.write_from + self.tail.len()
    }

    fn room(&self) -> usize {
        self.log.segment_len().saturating_sub(self.end())
    }

    fn frame_len(&self) -> usize {
        self.buffer.len() - self.tail.len()
    }
}

impl std::ops::Deref for Writer {
    type Target = Log;
    fn deref(&self) -> &Log {
        &self.log
    }
}

/// Turns a spare into the segment that `first_seq` starts. Its header is to be written with its first frame.
pub(super) fn begin_segment(spare: Spare, first_seq: u64) -> (Segment, SegmentHeader) {
    let generation = getrandom::u64().expect("the operating system has randomness");
    let header = SegmentHeader { kind: SegmentKind::Log, generation, first_seq };
    (Segment::new(spare.slot, spare.file, generation), header)
}

/// The place of a record of this head.
pub(super) fn place_of(head: &RecordHead, segment: u32, offset: usize) -> Place {
    let place = Place::new(segment, offset, format::padded(head.size), head.kind, head.expires_ms);
    if head.trims_ms.is_some() { place.set_trims() } else { place }
}

/// Notes until when a segment with this record counts.
pub(super) fn note_times(segment: &Segment, head: &RecordHead) {
    // A removal needs no note: it counts only as long as older segments do, and those go first.
    if head.kind.is_some() {
        segment.max_expires_ms.fetch_max(head.expires_ms, Relaxed);
        segment.max_trims_ms.fetch_max(head.trims_ms.unwrap_or(0), Relaxed);
    }
}

fn trimmable(place: Place) -> u64 {
    if place.trims() { place.len().saturating_sub(TRIMMED_BYTES_MAX) as u64 } else { 0 }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn same_fingerprint() -> StoreError {
    StoreError::Corrupt("two keys share their first 16 bytes".to_owned())
}

fn unreadable(error: &io::Error) -> StoreError {
    StoreError::Unavailable(format!("reading the log: {error}"))
}
