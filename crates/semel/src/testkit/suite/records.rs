//! Every field of every record comes back as it was put.

use std::time::Duration;

use bytes::Bytes;
use semel_core::{
    fingerprint::Fingerprint,
    record::{Kept, Phase},
};

use super::{
    Case, Failure, Need, same,
    trial::{Trial, found_new},
};
use crate::{
    store::{Found, Put, Record, Swap, Swapped},
    testkit::{
        Harness, Keeps,
        prng::Prng,
        sample::{
            LEASE, RETENTION, about, completed, fingerprint, guard, guarded, held, in_flight, key, omitted, put,
            sealed, stamp, unknown,
        },
    },
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "every field of every phase comes back",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(every_field(h)),
    },
    Case {
        name: "empty and binary content come back byte for byte",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(contents(h)),
    },
    Case {
        name: "content of a mebibyte comes back",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(mebibyte(h)),
    },
    Case {
        name: "the fingerprint survives claim, settle and replay",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(fingerprints(h)),
    },
];

/// One record of every shape that a record can have, with the extremes of its fields.
pub(super) fn shapes() -> Vec<Record> {
    let century = Duration::from_hours(24 * 36_525);
    let mut shapes = vec![
        in_flight(1),
        unknown(2),
        omitted(3),
        completed(4, "{}"),
        guarded(13),
        Record { guard: Some(guard(14)), ..unknown(14) },
        Record { guard: Some(guard(15)), ..omitted(15) },
        Record { guard: Some(guard(16)), ..completed(16, "{}") },
        held(17),
        Record { about: Some(about(19)), ..in_flight(19) },
        Record { about: Some(about(20)), ..completed(20, "{}") },
        Record { about: Some(about(21)), guard: Some(guard(21)), ..omitted(21) },
        Record { about: Some(about(22)), ..held(22) },
        Record { phase: Phase::Held { owner: key(18), resource: None }, retention: century, ..held(18) },
        Record { attempt: u32::MAX, ..in_flight(5) },
        Record { attempt: 0x0102_0304, retention: century, ..unknown(6) },
        Record { phase: Phase::InFlight { lease: Duration::ZERO }, ..in_flight(7) },
        Record { phase: Phase::InFlight { lease: century }, retention: century, ..in_flight(8) },
        Record { retention: Duration::from_millis(1), ..in_flight(9) },
        Record {
            phase: Phase::Completed {
                kept: Kept::Omitted { status: 599 },
                replay_for: Duration::from_millis(0x0001_0000_0001),
            },
            ..omitted(10)
        },
    ];
    shapes.push(Record {
        phase: Phase::Completed { kept: sealed(100, ""), replay_for: RETENTION + LEASE },
        ..completed(11, "")
    });
    for edge in [0x00, 0x7f, 0x80, 0xff] {
        shapes.push(Record { fingerprint: Fingerprint::from_bytes([edge; Fingerprint::LEN]), ..in_flight(12) });
    }
    shapes
}

/// Puts each record and reads it back by every question there is.
async fn come_back(t: &Trial, records: Vec<Record>) -> Result<(), Failure> {
    for (n, record) in (1_000..).zip(records) {
        let swap = put(None, stamp(n, 1), record);
        t.is_done("nothing was there", key(n), &swap).await?;
        let other = put(None, stamp(n, 2), in_flight(n));
        t.is_found("as it was put", key(n), &other, found_new(&swap)).await?;
        let expected = found_new(&swap);
        let page = t.scan(expected.record.kind(), None, 1_000).await?;
        let listed: Vec<Found> = page.into_iter().filter(|(at, _)| *at == key(n)).map(|(_, found)| found).collect();
        same("as it was put, in a scan", &listed, &vec![expected])?;
    }
    Ok(())
}

async fn every_field(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    come_back(&t, shapes()).await
}

async fn contents(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let contents = [
        Bytes::new(),
        Bytes::from_static(b"\0"),
        Bytes::from_static(b"\xff\xfe not UTF-8 \xc3\x28\r\n"),
        Bytes::from(all_bytes),
        Bytes::from(vec![0; 4_096]),
        Bytes::from(vec![0xff; 4_095]),
    ];
    come_back(&t, (1..).zip(contents).map(|(n, content)| completed(n, content)).collect()).await
}

async fn mebibyte(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let mut prng = Prng::seeded(1);
    let sizes = [64 * 1_024 - 1, 64 * 1_024, 1 << 20];
    come_back(&t, (1..).zip(sizes).map(|(n, size)| completed(n, prng.bytes(size))).collect()).await
}

async fn fingerprints(h: &dyn Harness) -> Result<(), Failure> {
    // `peers.md` #16: the update drops it, and an identical retry counts as another request.
    let t = Trial::of(h).await;
    let steps: [Swap; 4] = [
        put(None, stamp(1, 1), in_flight(1)),
        put(Some(stamp(1, 1)), stamp(1, 2), unknown(1)),
        put(Some(stamp(1, 2)), stamp(2, 1), in_flight(1)),
        put(Some(stamp(2, 1)), stamp(2, 2), completed(1, "done")),
    ];
    for step in steps {
        t.is_done("in its turn", key(1), &step).await?;
        let retry = put(None, stamp(9, 1), in_flight(1));
        let Swapped::Found(found) = t.swap(key(1), &retry).await? else {
            return Err(Failure::new("a retry must be told what lives there"));
        };
        same("as a retry sees it", &found.record.fingerprint, &fingerprint(1))?;
    }
    let last = put(Some(stamp(2, 2)), stamp(3, 1), Record { fingerprint: fingerprint(7), ..omitted(1) });
    t.is_done("another fingerprint is put", key(1), &last).await?;
    let Some(Put { record, .. }) = last.put else { unreachable!("it puts") };
    let loaded = t.load(key(1)).await?.map(|found| found.record);
    same("and is not taken for the first one", &loaded, &Some(record))
}
