//! The bytes on disk: segment header, frame, record, hint. Nothing here reads a file or takes a decision.
//!
//! ```text
//! segment  page 0: magic(8) version(4) crc(4) kind(4) 0(4) generation(8) first_seq(8), then zeros; then frames
//! frame    crc(4) len(4) generation(8) seq(8) time_ms(8) session(4) count(4), then records, each padded to 8 bytes
//! record   crc(4) size(4) kind(1) flags(1) write(2) exchange(16) key(32) written_ms(6) retention_ms(6) trim_ms(6),
//!          then the bytes of `Record::encode` (none for a removal)
//! hint     magic(8) version(4) crc(4) generation(8) end(8) seq(8) time_ms(8) session(4) count(4), max_expires(8)
//!          max_trims(8), then per record: fingerprint(16) place(16)
//! ```
//! Integers are little-endian. A frame is one group commit. Frame and record checksums start from the segment's random
//! generation, so that bytes of a recycled segment's former life never fit (I11).

use bytes::{BufMut, BytesMut};
use semel_core::{
    record::{ExchangeId, PhaseKind, Stamp},
    register::Put,
    scope::RecordKey,
};

use super::index::{Fingerprint, Place};

/// The version of the log format that this release writes.
pub(super) const FORMAT: u32 = 1;
/// Writes start and end at multiples of this, so that no page is ever read to be written.
pub(super) const PAGE: usize = 4096;
/// Frames and records start at multiples of this.
pub(super) const UNIT: usize = 8;
pub(super) const FRAME_HEAD: usize = 40;
pub(super) const RECORD_HEAD: usize = 78;
/// What is left of a record past `replay_for`: its head, and phase, fingerprint, guard, status of the record
/// itself.
pub(super) const TRIMMED_BYTES_MAX: usize = RECORD_HEAD + 96;

const SEGMENT_MAGIC: &[u8; 8] = b"semelseg";
const HINT_MAGIC: &[u8; 8] = b"semelhnt";
const HEADER_CHECKED: usize = 64;
const HINT_HEAD: usize = 72;
const MILLIS_MAX: u64 = (1 << 48) - 1;
const NEVER: u64 = MILLIS_MAX;
const REMOVAL: u8 = 0;

/// What a segment file is at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SegmentKind {
    /// Free to be written from its start; what it holds means nothing.
    Spare,
    /// Part of the log.
    Log,
}

/// The first page of a segment file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub(super) kind: SegmentKind,
    /// Random, new with every life of the file.
    pub(super) generation: u64,
    /// Sequence number of its first frame.
    pub(super) first_seq: u64,
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unreadable {
    Newer { found: u32 },
    Damaged(&'static str),
}

impl SegmentHeader {
    pub(super) fn page(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[..8].copy_from_slice(SEGMENT_MAGIC);
        page[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        let kind: u32 = match self.kind {
            SegmentKind::Spare => 1,
            SegmentKind::Log => 2,
        };
        page[16..20].copy_from_slice(&kind.to_le_bytes());
        page[24..32].copy_from_slice(&self.generation.to_le_bytes());
        page[32..40].copy_from_slice(&self.first_seq.to_le_bytes());
        let crc = header_crc(&page[..HEADER_CHECKED]);
        page[12..16].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// The place and meaning of magic, version and checksum hold for all versions to come.
    pub(super) fn read(page: &[u8]) -> Result<SegmentHeader, Unreadable> {
        let Some(page) = page.get(..HEADER_CHECKED) else { return Err(Unreadable::Damaged("the header is cut off")) };
        if &page[..8] != SEGMENT_MAGIC || u32_at(page, 12) != header_crc(page) {
            return Err(Unreadable::Damaged("the header does not fit its checksum"));
        }
        if u32_at(page, 8) > FORMAT {
            return Err(Unreadable::Newer { found: u32_at(page, 8) });
        }
        let kind = match u32_at(page, 16) {
            1 => SegmentKind::Spare,
            2 => SegmentKind::Log,
            _ => return Err(Unreadable::Damaged("the header names an unknown kind of segment")),
        };
        Ok(SegmentHeader { kind, generation: u64_at(page, 24), first_seq: u64_at(page, 32) })
    }
}

/// The head of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) seq: u64,
    pub(super) time_ms: u64,
    pub(super) session: u32,
    pub(super) count: u32,
    /// Bytes, head included; a multiple of [`UNIT`].
    pub(super) len: usize,
}

impl Frame {
    /// Fills in the head of the frame that fills `frame`.
    pub(super) fn finish(frame: &mut [u8], generation: u64, seq: u64, time_ms: u64, session: u32, count: u32) {
        let len = u32::try_from(frame.len()).expect("a frame fits its segment, which is far below 4 GiB");
        frame[4..8].copy_from_slice(&len.to_le_bytes());
        frame[8..16].copy_from_slice(&generation.to_le_bytes());
        frame[16..24].copy_from_slice(&seq.to_le_bytes());
        frame[24..32].copy_from_slice(&time_ms.to_le_bytes());
        frame[32..36].copy_from_slice(&session.to_le_bytes());
        frame[36..40].copy_from_slice(&count.to_le_bytes());
        let crc = crc32c::crc32c_append(seed(generation), &frame[4..]);
        frame[..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// The whole and undamaged frame of this generation that starts at `offset`, if there is one.
    pub(super) fn read(segment: &[u8], offset: usize, generation: u64) -> Option<Frame> {
        let head = Frame::head(segment, offset, generation)?;
        let frame = segment.get(offset..offset + head.len)?;
        (u32_at(frame, 0) == crc32c::crc32c_append(seed(generation), &frame[4..])).then_some(head)
    }

    /// The head of a frame of this generation that starts at `offset`, whole or torn.
    pub(super) fn head(segment: &[u8], offset: usize, generation: u64) -> Option<Frame> {
        let head = segment.get(offset..)?.get(..FRAME_HEAD)?;
        let len = u32_at(head, 4) as usize;
        (u64_at(head, 8) == generation && len >= FRAME_HEAD && len.is_multiple_of(UNIT)).then(|| Frame {
            seq: u64_at(head, 16),
            time_ms: u64_at(head, 24),
            session: u32_at(head, 32),
            count: u32_at(head, 36),
            len,
        })
    }
}

/// What a checksum of this generation starts from.
pub(super) fn seed(generation: u64) -> u32 {
    crc32c::crc32c(&generation.to_le_bytes())
}

/// What one record in the log says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RecordHead {
    /// `None`: a removal.
    pub(super) kind: Option<PhaseKind>,
    pub(super) stamp: Stamp,
    pub(super) key: RecordKey,
    pub(super) written_ms: u64,
    /// From when it counts as absent.
    pub(super) expires_ms: u64,
    /// From when its content is no longer told; `None` when it has none to lose.
    pub(super) trims_ms: Option<u64>,
    /// Bytes, head included, padding not.
    pub(super) size: usize,
}

/// The bytes of a put, all but checksum and time of writing, which [`finish_record`] fills in.
pub(super) fn put_bytes(key: &RecordKey, put: &Put) -> Vec<u8> {
    let mut out = BytesMut::with_capacity(RECORD_HEAD + 256);
    out.resize(RECORD_HEAD, 0);
    put.record.encode(&mut out);
    let mut out = Vec::from(out);
    out[8] = put.record.kind() as u8;
    out[10..12].copy_from_slice(&put.stamp.write.to_le_bytes());
    out[12..28].copy_from_slice(&put.stamp.exchange.0.to_le_bytes());
    out[28..60].copy_from_slice(key.as_bytes());
    put_millis(&mut out[66..72], millis(put.record.retention));
    put_millis(&mut out[72..78], put.record.trims_at().map_or(NEVER, millis));
    let size = u32::try_from(out.len()).unwrap_or(u32::MAX);
    out[4..8].copy_from_slice(&size.to_le_bytes());
    out
}

/// The bytes of a removal, as [`put_bytes`].
pub(super) fn removal_bytes(key: &RecordKey) -> Vec<u8> {
    let mut out = vec![0; RECORD_HEAD];
    let size = u32::try_from(RECORD_HEAD).expect("a small constant");
    out[4..8].copy_from_slice(&size.to_le_bytes());
    out[8] = REMOVAL;
    out[28..60].copy_from_slice(key.as_bytes());
    out
}

/// Sets the time of writing.
pub(super) fn set_written(record: &mut [u8], written_ms: u64) {
    put_millis(&mut record[60..66], written_ms);
}

/// Sets the checksum; the record is complete.
pub(super) fn finish_record(record: &mut [u8], seed: u32) {
    let crc = crc32c::crc32c_append(seed, &record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
}

impl RecordHead {
    /// Reads the head of the record that `bytes` start with, without looking at its checksum.
    pub(super) fn read(bytes: &[u8]) -> Option<RecordHead> {
        let head = bytes.get(..RECORD_HEAD)?;
        let size = u32_at(head, 4) as usize;
        if size < RECORD_HEAD {
            return None;
        }
        let kind = match head[8] {
            REMOVAL => None,
            1 => Some(PhaseKind::InFlight),
            2 => Some(PhaseKind::Unknown),
            3 => Some(PhaseKind::Completed),
            4 => Some(PhaseKind::Held),
            _ => return None,
        };
        let written_ms = millis_at(head, 60);
        let trim = millis_at(head, 72);
        Some(RecordHead {
            kind,
            stamp: Stamp {
                exchange: ExchangeId(u128::from_le_bytes(head[12..28].try_into().expect("sixteen bytes"))),
                write: u16::from_le_bytes([head[10], head[11]]),
            },
            key: RecordKey::from_bytes(head[28..60].try_into().expect("thirty-two bytes")),
            written_ms,
            expires_ms: (written_ms + millis_at(head, 66)).min(MILLIS_MAX),
            trims_ms: (trim != NEVER).then(|| (written_ms + trim).min(MILLIS_MAX)),
            size,
        })
    }

    /// Reads the head of the record that `bytes` start with, if the whole record fits its checksum.
    pub(super) fn read_checked(bytes: &[u8], seed: u32) -> Option<RecordHead> {
        let head = RecordHead::read(bytes)?;
        let record = bytes.get(..head.size)?;
        (u32_at(record, 0) == crc32c::crc32c_append(seed, &record[4..])).then_some(head)
    }
}

/// Where a record padded to [`UNIT`] ends.
pub(super) fn padded(size: usize) -> usize {
    size.next_multiple_of(UNIT)
}

/// What is known of a segment up to `end` without reading it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hint {
    pub(super) generation: u64,
    pub(super) end: usize,
    /// Of the last frame before `end`, as are `time_ms` and `session`.
    pub(super) seq: u64,
    pub(super) time_ms: u64,
    pub(super) session: u32,
    pub(super) max_expires_ms: u64,
    pub(super) max_trims_ms: u64,
    /// In the order of the log; the segment number of a place means nothing.
    pub(super) places: Vec<(Fingerprint, Place)>,
}

impl Hint {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HINT_HEAD + 32 * self.places.len());
        out.put_slice(HINT_MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(0);
        out.put_u64_le(self.generation);
        out.put_u64_le(self.end as u64);
        out.put_u64_le(self.seq);
        out.put_u64_le(self.time_ms);
        out.put_u32_le(self.session);
        out.put_u32_le(u32::try_from(self.places.len()).expect("a segment holds fewer than 4 Gi records"));
        out.put_u64_le(self.max_expires_ms);
        out.put_u64_le(self.max_trims_ms);
        for (fingerprint, place) in &self.places {
            out.put_u128_le(fingerprint.0);
            out.put_u128_le(place.0);
        }
        let crc = hint_crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` for anything but a whole, undamaged hint of this generation: the segment is then read instead.
    pub(super) fn read(bytes: &[u8], generation: u64) -> Option<Hint> {
        let head = bytes.get(..HINT_HEAD)?;
        let fits = &head[..8] == HINT_MAGIC
            && u32_at(head, 8) == FORMAT
            && u32_at(head, 12) == hint_crc(bytes)
            && u64_at(head, 16) == generation
            && bytes.len() == HINT_HEAD + 32 * u32_at(head, 52) as usize;
        fits.then(|| Hint {
            generation,
            end: usize::try_from(u64_at(head, 24)).expect("an offset in a segment"),
            seq: u64_at(head, 32),
            time_ms: u64_at(head, 40),
            session: u32_at(head, 48),
            max_expires_ms: u64_at(head, 56),
            max_trims_ms: u64_at(head, 64),
            places: bytes[HINT_HEAD..]
                .chunks_exact(32)
                .map(|entry| (Fingerprint(u128_at(entry, 0)), Place(u128_at(entry, 16))))
                .collect(),
        })
    }
}

fn header_crc(page: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&page[..12]), &page[16..HEADER_CHECKED])
}

fn hint_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

fn millis(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(MILLIS_MAX).min(MILLIS_MAX)
}

fn put_millis(into: &mut [u8], millis: u64) {
    into.copy_from_slice(&millis.min(MILLIS_MAX).to_le_bytes()[..6]);
}

fn millis_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight[..6].copy_from_slice(&bytes[at..at + 6]);
    u64::from_le_bytes(eight)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}
