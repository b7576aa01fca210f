//! Opening a folder: what the last session left behind becomes the index and the place to go on from.

use std::{
    collections::BTreeSet,
    io,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use super::{
    OpenError, Options, Recovery,
    disk::DiskFile,
    format::{FORMAT, Frame, Hint, PAGE, RecordHead, SegmentHeader, SegmentKind, UNIT, Unreadable, padded},
    index::{Fingerprint, Place},
    log::{Log, Segment, Spare, Tail, begin_segment, note_times, place_of},
};

/// Reads the folder. The caller holds its lock.
pub(super) fn recover(folder: &Path, options: Options) -> Result<(Log, Tail, Recovery), OpenError> {
    let started = Instant::now();
    let mut log = Log::new(folder, options);
    let mut files = list(&log)?;
    let mut recovery = Recovery { segments: files.len(), ..Recovery::default() };

    let mut ended = Ended::default();
    let count = files.len();
    for number in 0..count {
        let next_first_seq = files.get(number + 1).map(|next| next.header.first_seq);
        let file = &files[number];
        let number = u32::try_from(number).expect("segments are numbered by 24 bits");
        ended = load(&log, file, number, next_first_seq, &ended, &mut recovery)?;
    }
    let now_ms = log.options.clock.now_ms();
    log.ahead_ms = ended.time_ms.saturating_sub(now_ms);
    recovery.session = ended.session + 1;

    let tail = if let Some(last) = files.last() {
        tail(last, ended).map_err(|error| io_error("reading", last.segment.slot, error))?
    } else {
        let spare = match log.spares.get_mut().pop_front() {
            Some(spare) => spare,
            None => log.create_spare().map_err(|error| io_error("creating", 1, error))?,
        };
        let (segment, header) = begin_segment(spare, 1);
        files.push(File { segment: Arc::new(segment), header });
        Tail { write_from: 0, bytes: header.page().to_vec(), next_seq: 1, session: 1, places: Vec::new() }
    };
    log.segments.get_mut().list = files.into_iter().map(|file| file.segment).collect();

    log.index.sweep(log.now_ms(), usize::MAX, |_| {});
    log.index.for_each(|_, place| {
        log.account_added(place);
        recovery.records += 1;
        if place.kind() == Some(semel_core::record::PhaseKind::InFlight) {
            recovery.abandoned_in_flight += 1;
        }
    });
    recovery.took = started.elapsed();
    Ok((log, tail, recovery))
}

struct File {
    segment: Arc<Segment>,
    header: SegmentHeader,
}

/// Where the frames of a segment end.
#[derive(Default)]
struct Ended {
    end: usize,
    /// Where its last frame starts, if it was looked at.
    last_frame: Option<usize>,
    next_seq: u64,
    time_ms: u64,
    session: u32,
    places: Vec<(Fingerprint, Place)>,
}

/// The segments of the log, oldest first; spares go to `log`.
fn list(log: &Log) -> Result<Vec<File>, OpenError> {
    let names = log
        .disk()
        .list(&log.folder)
        .map_err(|source| OpenError::Io { what: "listing the folder".to_owned(), source })?;
    let mut slots = BTreeSet::new();
    for name in &names {
        let path = log.folder.join(name);
        match name.rsplit_once('.') {
            Some((stem, "seg")) => slots.extend(stem.parse::<u32>()),
            // Never finished, so it never counted.
            Some((_, "new")) => {
                log.disk()
                    .remove(&path)
                    .map_err(|source| OpenError::Io { what: format!("removing {name}"), source })?;
            }
            Some(_) | None => {}
        }
    }
    // A name that is seen may be only in memory, left by a session that died before it made it durable.
    log.disk()
        .sync_folder(&log.folder)
        .map_err(|source| OpenError::Io { what: "making the folder durable".to_owned(), source })?;
    log.next_slot.store(slots.last().map_or(1, |last| last + 1), Relaxed);
    let mut files = Vec::new();
    for slot in slots {
        let file = log.disk().open(&log.segment_path(slot)).map_err(|error| io_error("opening", slot, error))?;
        let mut page = vec![0; PAGE];
        let read = file.read_at(&mut page, 0).map_err(|error| io_error("reading", slot, error))?;
        let header = SegmentHeader::read(&page[..read]).map_err(|why| match why {
            Unreadable::Newer { found } => OpenError::NewerFormat { found, known: FORMAT },
            Unreadable::Damaged(what) => corrupt(slot, 0, what),
        })?;
        match header.kind {
            SegmentKind::Spare => {
                // It may be one only in memory, since a barrier that failed. Back as a part of the log it would leave
                // a gap behind it.
                let again = file.write_all_at(&header.page(), 0).and_then(|()| file.sync());
                again.map_err(|error| io_error("writing", slot, error))?;
                log.spares.lock().push_back(Spare { slot, file });
            }
            SegmentKind::Log => {
                files.push(File { segment: Arc::new(Segment::new(slot, file, header.generation)), header });
            }
        }
    }
    files.sort_by_key(|file| file.header.first_seq);
    Ok(files)
}

/// Brings what a segment says into the index, from its hint as far as that goes, and from its frames.
fn load(
    log: &Log,
    file: &File,
    number: u32,
    next_first_seq: Option<u64>,
    before: &Ended,
    recovery: &mut Recovery,
) -> Result<Ended, OpenError> {
    let segment = &file.segment;
    let slot = segment.slot;
    let mut ended = Ended {
        end: PAGE,
        next_seq: file.header.first_seq,
        time_ms: before.time_ms,
        session: before.session,
        ..Ended::default()
    };
    if let Some(hint) = read_hint(log, slot, segment.generation) {
        segment.max_expires_ms.store(hint.max_expires_ms, Relaxed);
        segment.max_trims_ms.store(hint.max_trims_ms, Relaxed);
        log.index.reserve(hint.places.len());
        hint.places.iter().for_each(|(at, place)| apply(log, *at, place.in_segment(number)));
        recovery.hinted += 1;
        ended = Ended {
            end: hint.end,
            last_frame: None,
            next_seq: hint.seq + 1,
            time_ms: hint.time_ms,
            session: hint.session,
            places: if next_first_seq.is_none() { hint.places } else { Vec::new() },
        };
    }
    if next_first_seq != Some(ended.next_seq) {
        scan(log, segment, number, &mut ended, next_first_seq, recovery)?;
    }
    segment.used.store(ended.end as u64, Relaxed);
    if next_first_seq.is_some_and(|next| next != ended.next_seq) {
        return Err(corrupt(slot, ended.end, "a frame in the middle of the log is damaged or missing"));
    }
    Ok(ended)
}

/// Reads frames from `ended` on, as far as they are whole and follow one another.
fn scan(
    log: &Log,
    segment: &Segment,
    number: u32,
    ended: &mut Ended,
    next_first_seq: Option<u64>,
    recovery: &mut Recovery,
) -> Result<(), OpenError> {
    let slot = segment.slot;
    let base = ended.end / PAGE * PAGE;
    let bytes = read_from(segment.file.as_ref(), base).map_err(|error| io_error("reading", slot, error))?;
    let mut at = ended.end - base;
    while let Some(frame) = Frame::read(&bytes, at, segment.generation).filter(|frame| frame.seq == ended.next_seq) {
        let mut offset = at + super::format::FRAME_HEAD;
        for _ in 0..frame.count {
            // The frame's checksum covers its records, so theirs need not be looked at here.
            let head = RecordHead::read(&bytes[offset.min(at + frame.len)..at + frame.len])
                .filter(|head| head.size <= at + frame.len - offset)
                .ok_or_else(|| corrupt(slot, base + offset, "a frame holds fewer records than it says"))?;
            let place = place_of(&head, number, base + offset);
            apply(log, Fingerprint::of(&head.key), place);
            note_times(segment, &head);
            if next_first_seq.is_none() {
                ended.places.push((Fingerprint::of(&head.key), place));
            }
            offset += padded(head.size);
        }
        ended.last_frame = Some(base + at);
        ended.next_seq += 1;
        ended.time_ms = frame.time_ms;
        ended.session = frame.session;
        at += frame.len;
        recovery.frames_read += 1;
    }
    ended.end = base + at;
    if next_first_seq.is_none() {
        // A frame is written only after the one before it is durable. So one that can be read behind one that cannot
        // means that durable bytes were damaged; only the last frame of all can be torn.
        let later = heads(&bytes, at, segment.generation)
            .find(|at| Frame::read(&bytes, *at, segment.generation).is_some_and(|frame| frame.seq > ended.next_seq));
        if later.is_some() {
            return Err(corrupt(slot, ended.end, "a frame is damaged, and whole ones follow it"));
        }
        if let Some(torn) = Frame::head(&bytes, at, segment.generation) {
            recovery.torn_bytes += torn.len.min(bytes.len() - at) as u64;
        }
    }
    Ok(())
}

/// Where heads of frames of this generation may start, from `at` on.
fn heads(bytes: &[u8], at: usize, generation: u64) -> impl Iterator<Item = usize> {
    const GENERATION_AT: usize = 8;
    let generation = generation.to_le_bytes();
    let pages = bytes.chunks(PAGE).enumerate().skip(at / PAGE);
    // A segment that was never full is mostly zeros.
    let written = pages.filter(|(_, page)| **page != [0; PAGE][..page.len()]);
    let words = written
        .flat_map(|(n, page)| page.chunks_exact(UNIT).enumerate().map(move |(i, word)| (n * PAGE + i * UNIT, word)));
    words
        .filter(move |(_, word)| **word == generation)
        .filter_map(move |(offset, _)| offset.checked_sub(GENERATION_AT).filter(|head| *head >= at))
}

fn apply(log: &Log, at: Fingerprint, place: Place) {
    match place.kind() {
        None => log.index.remove(at),
        // Holding the folder's lock proves that whoever wrote this is dead.
        Some(_) => log.index.put(at, place.set_abandoned()),
    };
}

fn read_hint(log: &Log, slot: u32, generation: u64) -> Option<Hint> {
    // A hint only saves time, so whatever is wrong with it is as if it were not there.
    let file = log.disk().open(&log.hint_path(slot)).ok()?;
    Hint::read(&read_from(file.as_ref(), 0).ok()?, generation)
}

/// What the writer must go on with: the last frame may never have become durable, so it is written once more.
fn tail(last: &File, ended: Ended) -> io::Result<Tail> {
    let from = match ended.last_frame {
        // The header was written together with the first frame.
        Some(PAGE) => 0,
        Some(frame) => frame / PAGE * PAGE,
        None if ended.end == PAGE => 0,
        None => ended.end / PAGE * PAGE,
    };
    let mut bytes = vec![0; ended.end - from];
    if last.segment.file.read_at(&mut bytes, from as u64)? < bytes.len() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before its last durable frame"));
    }
    Ok(Tail { write_from: from, bytes, next_seq: ended.next_seq, session: ended.session + 1, places: ended.places })
}

fn read_from(file: &dyn DiskFile, offset: usize) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).expect("a file that fits memory").saturating_sub(offset);
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, offset as u64)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn corrupt(slot: u32, offset: usize, what: &'static str) -> OpenError {
    OpenError::Corrupt { segment: format!("{slot:08}.seg"), offset: offset as u64, what }
}

fn io_error(doing: &str, slot: u32, source: io::Error) -> OpenError {
    OpenError::Io { what: format!("{doing} {slot:08}.seg"), source }
}
