//! Keys, stamps and records to test with. The n-th of each is always the same, and differs from every other.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use semel_core::{
    fingerprint::Fingerprint,
    record::{About, ExchangeId, Kept, PRINCIPAL_LABEL_LEN, Phase, Place, Sealed, TraceContext},
};

use super::prng::Prng;
use crate::store::{Put, Record, RecordKey, Stamp, Swap};

/// How long a sample execution may take.
pub const LEASE: Duration = Duration::from_secs(35);
/// How long a sample reply may be replayed.
pub const REPLAY_FOR: Duration = Duration::from_hours(24);
/// How long a sample record lives.
pub const RETENTION: Duration = Duration::from_hours(24 * 30);

/// The n-th key. Keys look random, as digests do, so their order is not that of `n`.
pub fn key(n: u64) -> RecordKey {
    RecordKey::from_bytes(digest(n))
}

/// The `write`-th stamp of the n-th exchange.
pub fn stamp(n: u64, write: u16) -> Stamp {
    let mut prng = Prng::seeded(!n);
    let exchange = ExchangeId(u128::from(prng.next()) << 64 | u128::from(prng.next()));
    Stamp { exchange, write }
}

/// The n-th request's fingerprint.
pub fn fingerprint(n: u64) -> Fingerprint {
    Fingerprint::from_bytes(digest(n << 32 | 1))
}

/// A first claim of the n-th request.
pub fn in_flight(n: u64) -> Record {
    Record {
        fingerprint: fingerprint(n),
        attempt: 1,
        phase: Phase::InFlight { lease: LEASE },
        retention: RETENTION,
        guard: None,
        about: None,
    }
}

/// The n-th request with an outcome that nobody knows.
pub fn unknown(n: u64) -> Record {
    Record { phase: Phase::Unknown, ..in_flight(n) }
}

/// The n-th request with a reply that is kept: to a store, these are any bytes.
pub fn completed(n: u64, bytes: impl Into<Bytes>) -> Record {
    let phase = Phase::Completed { kept: sealed(201, bytes), replay_for: REPLAY_FOR };
    Record { phase, ..in_flight(n) }
}

/// A reply as a store has it.
pub fn sealed(status: u16, bytes: impl Into<Bytes>) -> Kept {
    Kept::Sealed(Sealed { status, bytes: bytes.into() })
}

/// The n-th request, done, with a reply that was not kept.
pub fn omitted(n: u64) -> Record {
    let phase = Phase::Completed { kept: Kept::Omitted { status: 201 }, replay_for: REPLAY_FOR };
    Record { phase, ..in_flight(n) }
}

/// The n-th request's record in flight, which is to hold the n-th guard.
pub fn guarded(n: u64) -> Record {
    Record { guard: Some(guard(n)), ..in_flight(n) }
}

/// The n-th guard, held by the n-th request.
pub fn held(n: u64) -> Record {
    let phase = Phase::Held { owner: key(n), resource: Some(Place::Sealed(Bytes::from(format!("sealed {n}")))) };
    Record { phase, ..in_flight(n) }
}

/// What the n-th request is about; every other one is part of a trace.
pub fn about(n: u64) -> Arc<About> {
    let mut prng = Prng::seeded(n << 32 | 3);
    let principal = prng.bytes(PRINCIPAL_LABEL_LEN).try_into().expect("asked for that many bytes");
    let trace = TraceContext { trace_id: u128::from(prng.next()) << 64 | 1, span_id: prng.next() | 1 };
    Arc::new(About { route: format!("/orders/{n}"), principal, trace: Some(trace).filter(|_| n.is_multiple_of(2)) })
}

/// The key of the n-th guard.
pub fn guard(n: u64) -> RecordKey {
    RecordKey::from_bytes(digest(n << 32 | 2))
}

/// "Put `record` with `stamp` if `expect` is there."
pub fn put(expect: Option<Stamp>, stamp: Stamp, record: Record) -> Swap {
    Swap { expect, put: Some(Put { stamp, record }) }
}

/// "Leave nothing if `expect` is there."
pub fn remove(expect: Stamp) -> Swap {
    Swap { expect: Some(expect), put: None }
}

fn digest(n: u64) -> [u8; 32] {
    Prng::seeded(n).bytes(32).try_into().expect("asked for 32 bytes")
}
