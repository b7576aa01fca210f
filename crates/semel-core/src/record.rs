//! What a store keeps under a [`RecordKey`], and its bytes on disk.
//!
//! A record says how long it lives; a store only measures its age. [`Record::at_age`] is the one place that turns an
//! age into "whole", "without its content" or "gone", so every store forgets by the same rule.

use std::{fmt, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};

use crate::{fingerprint::Fingerprint, scope::RecordKey};

/// Who an exchange is: 128 random bits minted by whoever drives it. Shown in logs and problems, never secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(pub u128);

impl fmt::Display for ExchangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ExchangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The fencing token of one write: who wrote, and the how-manieth of their writes it was. Never repeats, so a writer
/// that lost the store's reply asks again with the same stamp and learns whether it had succeeded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamp {
    /// The exchange that wrote.
    pub exchange: ExchangeId,
    /// Its n-th write, from 1.
    pub write: u16,
}

/// What is known of one key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Record {
    /// The digest of the request that made it; another request under the same key is refused.
    pub fingerprint: Fingerprint,
    /// The n-th execution of the operation, from 1.
    pub attempt: u32,
    /// Where the operation stands.
    pub phase: Phase,
    /// How long after its write this record lives; past it the key counts as never seen.
    pub retention: Duration,
    /// The guard that this operation is to hold, on a guarded route: by it a release finds the guard from its owner, and
    /// a guard that names an owner which has another guard by now is known to be stale.
    pub guard: Option<RecordKey>,
    /// What operators may see of it. An exchange knows nothing of it: whoever drives one puts it on what it writes.
    pub about: Option<Arc<About>>,
}

/// What operators may see of a record: no key, no credential, no content.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct About {
    /// The template of its route ([`crate::policy::RoutePolicy::name`]).
    pub route: String,
    /// Who asked ([`crate::scope::Principal::label`]).
    pub principal: [u8; PRINCIPAL_LABEL_LEN],
    /// The trace that the request which wrote it was part of.
    pub trace: Option<TraceContext>,
}

/// The length of a principal's label in bytes: enough to tell the callers of one gateway apart.
pub const PRINCIPAL_LABEL_LEN: usize = 8;

/// Where a request stands in a trace (W3C Trace Context, `traceparent`). Neither id is zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceContext {
    /// The whole trace.
    pub trace_id: u128,
    /// The caller's span in it.
    pub span_id: u64,
}

impl TraceContext {
    /// Reads a `traceparent` of any version that begins as version 00 does (W3C Trace Context section 3.2); `None` for
    /// anything else, which is as good as no trace.
    pub fn parse(traceparent: &str) -> Option<TraceContext> {
        let mut parts = traceparent.trim().split('-');
        let mut hex = |len: usize| {
            let part = parts.next()?;
            let is_hex = part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            u128::from_str_radix(part, 16).ok().filter(|_| is_hex)
        };
        let (version, trace_id, span_id, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let is_whole = version != 0 || parts.next().is_none();
        let span_id = u64::try_from(span_id).ok()?;
        (is_whole && version != 0xff && trace_id != 0 && span_id != 0).then_some(TraceContext { trace_id, span_id })
    }
}

/// Where an operation stands.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// Claimed, and perhaps executing now.
    InFlight {
        /// How long after the claim the execution can still be running (execution limit and grace).
        lease: Duration,
    },
    /// Sent, and nobody knows whether the effect happened.
    Unknown,
    /// The effect happened.
    Completed {
        /// What a retry can be told.
        kept: Kept,
        /// How long after its write the reply may be replayed; after that only the fact is remembered.
        replay_for: Duration,
    },
    /// Not an operation but a guard: the register that says who holds it. It counts only while the owner's record is
    /// there and names this guard; otherwise whoever finds it takes it over (I10).
    Held {
        /// The record of the operation that holds it.
        owner: RecordKey,
        /// Where the owner's resource is, for whoever is refused.
        resource: Option<Place>,
    },
}

/// Where a resource is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// A path. It never gets to a store: [`Record::encode`] leaves it out.
    Path(String),
    /// The same as a store has it ([`crate::seal`]).
    Sealed(Bytes),
}

/// The kind of a [`Phase`], for counting and scanning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum PhaseKind {
    /// See [`Phase::InFlight`].
    InFlight = 1,
    /// See [`Phase::Unknown`].
    Unknown = 2,
    /// See [`Phase::Completed`].
    Completed = 3,
    /// See [`Phase::Held`].
    Held = 4,
}

/// What a completed record can tell a retry.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Kept {
    /// The whole reply. It never gets to a store: [`Record::encode`] leaves it out.
    Reply(Arc<Reply>),
    /// The same as a store has it.
    Sealed(Sealed),
    /// Only that it was done, and with which status: the content was over its limit, was never to be kept, or is past
    /// its time.
    Omitted {
        /// The status code of the first response.
        status: u16,
    },
}

impl Kept {
    /// The status code of the first response.
    pub fn status(&self) -> u16 {
        match self {
            Kept::Reply(reply) => reply.status,
            Kept::Sealed(sealed) => sealed.status,
            Kept::Omitted { status } => *status,
        }
    }
}

/// A reply as a store has it ([`crate::seal`]).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Sealed {
    /// Its status code, which is told when the rest cannot be.
    pub status: u16,
    /// The rest, unreadable.
    pub bytes: Bytes,
}

/// A response as it is kept and replayed: status line, header fields in order and multiplicity, content.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reply {
    /// Status code (RFC 9110 section 15).
    pub status: u16,
    /// Field lines in their order; repeated names stay repeated (`peers.md` #31).
    pub headers: Vec<(Bytes, Bytes)>,
    /// The content, byte for byte.
    pub content: Bytes,
}

impl Record {
    /// The kind of this record's phase.
    pub fn kind(&self) -> PhaseKind {
        match self.phase {
            Phase::InFlight { .. } => PhaseKind::InFlight,
            Phase::Unknown => PhaseKind::Unknown,
            Phase::Completed { .. } => PhaseKind::Completed,
            Phase::Held { .. } => PhaseKind::Held,
        }
    }

    /// What is left of this record at `age`: itself, itself without its content, or `None` past its retention.
    ///
    /// Every store answers with the result of this, so a store whose deletions lag never shows what has expired
    /// (conformance X10).
    #[must_use]
    pub fn at_age(self, age: Duration) -> Option<Record> {
        if age >= self.retention {
            return None;
        }
        match self.trims_at() {
            Some(trims_at) if age >= trims_at => {
                let Record { phase: Phase::Completed { kept, replay_for }, .. } = self else { return Some(self) };
                let phase = Phase::Completed { kept: Kept::Omitted { status: kept.status() }, replay_for };
                Some(Record { phase, ..self })
            }
            _ => Some(self),
        }
    }

    /// The age from which this record is smaller than it was written, because its content is past `replay_for`;
    /// `None` when it lives whole until its retention.
    pub fn trims_at(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Completed { kept: Kept::Reply(_) | Kept::Sealed(_), replay_for } if *replay_for < self.retention => {
                Some(*replay_for)
            }
            Phase::Completed { .. } | Phase::InFlight { .. } | Phase::Unknown | Phase::Held { .. } => None,
        }
    }

    /// Appends the bytes of this record to `out`. The format is golden-tested: what release N writes, N + 1 reads (I9).
    ///
    /// A reply or a path that is not sealed is left out, so that none is ever written in the clear.
    pub fn encode(&self, out: &mut BytesMut) {
        let tag = match &self.phase {
            Phase::InFlight { .. } => TAG_IN_FLIGHT,
            Phase::Unknown => TAG_UNKNOWN,
            Phase::Completed { kept: Kept::Sealed(_), .. } => TAG_SEALED,
            Phase::Completed { kept: Kept::Reply(_) | Kept::Omitted { .. }, .. } => TAG_OMITTED,
            Phase::Held { .. } => TAG_HELD,
        };
        let flag = |is_there: bool, flag: u8| if is_there { flag } else { 0 };
        let sealed = match &self.phase {
            Phase::Completed { kept: Kept::Sealed(sealed), .. } => sealed.bytes.len(),
            Phase::Held { resource: Some(Place::Sealed(bytes)), .. } => bytes.len(),
            _ => 0,
        };
        // Once, instead of whenever a part does not fit.
        out.reserve(ENCODED_FIXED_BYTES + sealed + self.about.as_ref().map_or(0, |about| about.route.len()));
        let trace = self.about.as_ref().and_then(|about| about.trace);
        out.put_u8(FORMAT);
        out.put_u8(
            tag | flag(self.guard.is_some(), GUARDED)
                | flag(self.about.is_some(), ABOUT)
                | flag(trace.is_some(), TRACED),
        );
        out.put_slice(self.fingerprint.as_bytes());
        out.put_u32_le(self.attempt);
        out.put_u64_le(millis(self.retention));
        if let Some(guard) = &self.guard {
            out.put_slice(guard.as_bytes());
        }
        if let Some(about) = &self.about {
            put_len(out, about.route.len());
            out.put_slice(about.route.as_bytes());
            out.put_slice(&about.principal);
        }
        if let Some(TraceContext { trace_id, span_id }) = trace {
            out.put_u128_le(trace_id);
            out.put_u64_le(span_id);
        }
        match &self.phase {
            Phase::InFlight { lease } => out.put_u64_le(millis(*lease)),
            Phase::Unknown => {}
            Phase::Completed { kept, replay_for } => {
                out.put_u64_le(millis(*replay_for));
                out.put_u16_le(kept.status());
                if let Kept::Sealed(sealed) = kept {
                    put_len(out, sealed.bytes.len());
                    out.put_slice(&sealed.bytes);
                }
            }
            Phase::Held { owner, resource } => {
                out.put_slice(owner.as_bytes());
                let resource = match resource {
                    Some(Place::Sealed(bytes)) => bytes.as_ref(),
                    Some(Place::Path(_)) | None => &[],
                };
                put_len(out, resource.len());
                out.put_slice(resource);
            }
        }
    }

    /// Reads what [`Record::encode`] wrote. What is sealed shares `bytes` without copying.
    ///
    /// Bytes that do not decode are an error and never "absent" (I11).
    pub fn decode(bytes: Bytes) -> Result<Record, DecodeError> {
        let mut r = Reader(bytes);
        match r.u8()? {
            FORMAT => {}
            found if found > FORMAT => return Err(DecodeError::NewerFormat { found, known: FORMAT }),
            found @ OLDEST_EVER.. => return Err(DecodeError::OlderFormat { found, known: FORMAT }),
            _ => return Err(DecodeError::Malformed("format version")),
        }
        let tag = r.u8()?;
        // Every record has one form only.
        if tag & (ABOUT | TRACED) == TRACED {
            return Err(DecodeError::Malformed("phase tag"));
        }
        let digest: [u8; Fingerprint::LEN] =
            r.take(Fingerprint::LEN)?.as_ref().try_into().expect("took exactly that many bytes");
        let fingerprint = Fingerprint::from_bytes(digest);
        let attempt = r.u32()?;
        let retention = Duration::from_millis(r.u64()?);
        let guard = if tag & GUARDED == 0 { None } else { Some(r.key()?) };
        let about = if tag & ABOUT == 0 { None } else { Some(Arc::new(r.about(tag & TRACED != 0)?)) };
        let tag = tag & !(GUARDED | ABOUT | TRACED);
        let phase = match tag {
            TAG_IN_FLIGHT => Phase::InFlight { lease: Duration::from_millis(r.u64()?) },
            TAG_UNKNOWN => Phase::Unknown,
            TAG_SEALED | TAG_OMITTED => {
                let replay_for = Duration::from_millis(r.u64()?);
                let status = r.u16()?;
                let kept = if tag == TAG_OMITTED {
                    Kept::Omitted { status }
                } else {
                    Kept::Sealed(Sealed { status, bytes: r.run()? })
                };
                Phase::Completed { kept, replay_for }
            }
            TAG_HELD => {
                let owner = r.key()?;
                let resource = r.run()?;
                Phase::Held { owner, resource: (!resource.is_empty()).then_some(Place::Sealed(resource)) }
            }
            _ => return Err(DecodeError::Malformed("phase tag")),
        };
        if !r.0.is_empty() {
            return Err(DecodeError::Malformed("trailing bytes"));
        }
        Ok(Record { fingerprint, attempt, phase, retention, guard, about })
    }
}

/// Why bytes are not a record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer release; run that release, or export with it.
    #[error("record format {found} is newer than {known}, the newest this release reads")]
    NewerFormat {
        /// The version in the bytes.
        found: u8,
        /// The newest version known here.
        known: u8,
    },
    /// Written before records had the form that they have now.
    #[error("record format {found} is older than {known}, the oldest this release reads")]
    OlderFormat {
        /// The version in the bytes.
        found: u8,
        /// The oldest version known here.
        known: u8,
    },
    /// Damaged, or never a record.
    #[error("record bytes are damaged at: {0}")]
    Malformed(&'static str),
}

/// The version of the record format that this release writes, and the only one that it reads: no other was released.
pub const FORMAT: u8 = 3;
/// The first version there was.
const OLDEST_EVER: u8 = 1;

/// No record is longer, but for its sealed content and the name of its route.
const ENCODED_FIXED_BYTES: usize = 192;

const TAG_IN_FLIGHT: u8 = 1;
const TAG_UNKNOWN: u8 = 2;
const TAG_SEALED: u8 = 3;
const TAG_OMITTED: u8 = 4;
const TAG_HELD: u8 = 5;
/// Added to the tag of a record that has a guard.
const GUARDED: u8 = 0x80;
/// Added to the tag of a record that says what it is about.
const ABOUT: u8 = 0x40;
/// Added to that when it says of which trace it is a part.
const TRACED: u8 = 0x20;

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn put_len(out: &mut BytesMut, len: usize) {
    out.put_u32_le(u32::try_from(len).expect("limits of the policy keep replies far below 4 GiB"));
}

/// Reads from the front.
pub(crate) struct Reader(pub(crate) Bytes);

impl Reader {
    fn take(&mut self, n: usize) -> Result<Bytes, DecodeError> {
        if self.0.len() < n {
            return Err(DecodeError::Malformed("length"));
        }
        Ok(self.0.split_to(n))
    }
    pub(crate) fn run(&mut self) -> Result<Bytes, DecodeError> {
        let len = self.u32()? as usize;
        self.take(len)
    }
    fn key(&mut self) -> Result<RecordKey, DecodeError> {
        let bytes = self.take(RecordKey::LEN)?;
        Ok(RecordKey::from_bytes(bytes.as_ref().try_into().expect("took exactly that many bytes")))
    }
    fn about(&mut self, is_traced: bool) -> Result<About, DecodeError> {
        let route = String::from_utf8(self.run()?.into()).map_err(|_| DecodeError::Malformed("route"))?;
        let principal = self.take(PRINCIPAL_LABEL_LEN)?.as_ref().try_into().expect("took exactly that many bytes");
        let trace = if is_traced {
            let (trace_id, span_id) = (self.u128()?, self.u64()?);
            if trace_id == 0 || span_id == 0 {
                return Err(DecodeError::Malformed("trace"));
            }
            Some(TraceContext { trace_id, span_id })
        } else {
            None
        };
        Ok(About { route, principal, trace })
    }
    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }
    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.take(2)?.as_ref().try_into().expect("two bytes")))
    }
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.take(4)?.as_ref().try_into().expect("four bytes")))
    }
    fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.take(16)?.as_ref().try_into().expect("sixteen bytes")))
    }
    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.take(8)?.as_ref().try_into().expect("eight bytes")))
    }
}
