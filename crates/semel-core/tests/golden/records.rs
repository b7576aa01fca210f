use std::{fmt::Write as _, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use semel_core::{
    fingerprint::Fingerprint,
    record::{About, DecodeError, FORMAT, Kept, Phase, Place, Record, Reply, Sealed, TraceContext},
    scope::RecordKey,
};

/// The bytes of a record are as reviewed, and read back as the record.
fn check(record: &Record, expected: &Expect) {
    let bytes = encode(record);
    let mut dump = String::new();
    for line in bytes.chunks(16) {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            line.iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' }).collect();
        writeln!(dump, "{:<47}  {text}", hex.join(" ")).expect("a string takes everything");
    }
    expected.assert_eq(&dump);
    assert_eq!(Record::decode(bytes.clone()).as_ref(), Ok(record));
    for len in 0..bytes.len() {
        let cut = Record::decode(bytes.slice(..len));
        assert!(matches!(cut, Err(DecodeError::Malformed(_))), "{len} of {} bytes gave {cut:?}", bytes.len());
    }
    let trailing: Bytes = bytes.iter().copied().chain([0]).collect();
    assert_eq!(Record::decode(trailing), Err(DecodeError::Malformed("trailing bytes")));
    for newer in [FORMAT + 1, u8::MAX] {
        let bytes: Bytes = [newer].into_iter().chain(bytes[1..].iter().copied()).collect();
        assert_eq!(Record::decode(bytes), Err(DecodeError::NewerFormat { found: newer, known: FORMAT }));
    }
    for older in [1, 2] {
        let bytes: Bytes = [older].into_iter().chain(bytes[1..].iter().copied()).collect();
        assert_eq!(Record::decode(bytes), Err(DecodeError::OlderFormat { found: older, known: FORMAT }));
    }
    let none: Bytes = [0].into_iter().chain(bytes[1..].iter().copied()).collect();
    assert_eq!(Record::decode(none), Err(DecodeError::Malformed("format version")));
}

fn encode(record: &Record) -> Bytes {
    let mut out = BytesMut::new();
    record.encode(&mut out);
    out.freeze()
}

fn record(phase: Phase) -> Record {
    let digest: [u8; Fingerprint::LEN] = std::array::from_fn(|i| u8::try_from(i).expect("thirty-two"));
    Record {
        fingerprint: Fingerprint::from_bytes(digest),
        attempt: 0x0102_0304,
        phase,
        retention: Duration::from_hours(720),
        guard: None,
        about: None,
    }
}

#[test]
fn bytes_of_a_record_in_flight() {
    check(
        &record(Phase::InFlight { lease: Duration::from_secs(35) }),
        &expect![[r#"
            03 01 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d  ................
            0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d  ................
            1e 1f 04 03 02 01 00 c8 7e 9a 00 00 00 00 b8 88  ........~.......
            00 00 00 00 00 00                                ......
        "#]],
    );
}

#[test]
fn bytes_of_an_unknown_record() {
    check(
        &record(Phase::Unknown),
        &expect![[r#"
            03 02 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d  ................
            0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d  ................
            1e 1f 04 03 02 01 00 c8 7e 9a 00 00 00 00        ........~.....
        "#]],
    );
}

#[test]
fn bytes_of_a_completed_record_without_its_reply() {
    let kept = Kept::Omitted { status: 201 };
    check(
        &record(Phase::Completed { kept, replay_for: Duration::from_hours(24) }),
        &expect![[r#"
            03 04 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d  ................
            0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d  ................
            1e 1f 04 03 02 01 00 c8 7e 9a 00 00 00 00 00 5c  ........~......\
            26 05 00 00 00 00 c9 00                          &.......
        "#]],
    );
}

fn sealed(bytes: &'static [u8]) -> Kept {
    Kept::Sealed(Sealed { status: 303, bytes: Bytes::from_static(bytes) })
}

#[test]
fn bytes_of_a_completed_record_with_its_reply() {
    check(
        &record(Phase::Completed { kept: sealed(b"\x00\xff{}"), replay_for: Duration::from_hours(24) }),
        &expect![[r#"
            03 03 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d  ................
            0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d  ................
            1e 1f 04 03 02 01 00 c8 7e 9a 00 00 00 00 00 5c  ........~......\
            26 05 00 00 00 00 2f 01 04 00 00 00 00 ff 7b 7d  &...../.......{}
        "#]],
    );
    check(
        &record(Phase::Completed { kept: sealed(b""), replay_for: Duration::ZERO }),
        &expect![[r#"
        03 03 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d  ................
        0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d  ................
        1e 1f 04 03 02 01 00 c8 7e 9a 00 00 00 00 00 00  ........~.......
        00 00 00 00 00 00 2f 01 00 00 00 00              ....../.....
    "#]],
    );
}

/// Whatever a driver may forget: what is not sealed does not get to a store.
#[test]
fn sc11_what_is_not_sealed_is_not_written() {
    let content = Bytes::from_static(b"{}");
    let reply = Arc::new(Reply { status: 303, headers: vec![(content.clone(), content.clone())], content });
    let completed = |kept| record(Phase::Completed { kept, replay_for: Duration::from_hours(24) });
    let omitted = completed(Kept::Omitted { status: 303 });
    assert_eq!(Record::decode(encode(&completed(Kept::Reply(reply)))), Ok(omitted));
    let owner = RecordKey::from_bytes([0xbb; RecordKey::LEN]);
    let held = |resource| record(Phase::Held { owner, resource });
    assert_eq!(Record::decode(encode(&held(Some(Place::Path("/orders/1".to_owned()))))), Ok(held(None)));
}

#[test]
fn bytes_of_a_record_with_a_guard() {
    let kept = Kept::Omitted { status: 201 };
    let phase = Phase::Completed { kept, replay_for: Duration::from_hours(24) };
    check(
        &Record { guard: Some(RecordKey::from_bytes([0xaa; RecordKey::LEN])), ..record(phase) },
        &expect![[r#"
            03 84 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d  ................
            0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d  ................
            1e 1f 04 03 02 01 00 c8 7e 9a 00 00 00 00 aa aa  ........~.......
            aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa  ................
            aa aa aa aa aa aa aa aa aa aa aa aa aa aa 00 5c  ...............\
            26 05 00 00 00 00 c9 00                          &.......
        "#]],
    );
}

fn about(trace: Option<TraceContext>) -> Arc<About> {
    Arc::new(About { route: "/orders/{id}".to_owned(), principal: [0xcc; 8], trace })
}

#[test]
fn bytes_of_a_record_that_says_what_it_is_about() {
    check(
        &Record { about: Some(about(None)), ..record(Phase::Unknown) },
        &expect![[r#"
        03 42 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d  .B..............
        0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d  ................
        1e 1f 04 03 02 01 00 c8 7e 9a 00 00 00 00 0c 00  ........~.......
        00 00 2f 6f 72 64 65 72 73 2f 7b 69 64 7d cc cc  ../orders/{id}..
        cc cc cc cc cc cc                                ......
    "#]],
    );
    let trace = TraceContext { trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, span_id: 0xb7ad_6b71_6920_3331 };
    let guard = Some(RecordKey::from_bytes([0xaa; RecordKey::LEN]));
    check(
        &Record { about: Some(about(Some(trace))), guard, ..record(Phase::Unknown) },
        &expect![[r#"
        03 e2 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d  ................
        0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d  ................
        1e 1f 04 03 02 01 00 c8 7e 9a 00 00 00 00 aa aa  ........~.......
        aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa  ................
        aa aa aa aa aa aa aa aa aa aa aa aa aa aa 0c 00  ................
        00 00 2f 6f 72 64 65 72 73 2f 7b 69 64 7d cc cc  ../orders/{id}..
        cc cc cc cc cc cc 9c 31 80 1c 21 eb 48 84 dd 43  .......1..!.H..C
        cd 16 19 65 f7 0a 31 33 20 69 71 6b ad b7        ...e..13 iqk..
    "#]],
    );
}

/// A trace has no zero in it, and a route is a text.
#[test]
fn what_a_damaged_record_is_about_is_damage() {
    let trace = Some(TraceContext { trace_id: 1, span_id: 1 });
    let bytes = encode(&Record { about: Some(about(trace)), ..record(Phase::Unknown) });
    let damaged = |at: usize, byte: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = byte;
        Record::decode(bytes.into())
    };
    assert_eq!(damaged(bytes.len() - 8, 0), Err(DecodeError::Malformed("trace")));
    assert_eq!(damaged(bytes.len() - 24, 0), Err(DecodeError::Malformed("trace")));
    assert_eq!(damaged(50, 0xff), Err(DecodeError::Malformed("route")));
}

#[test]
fn a_trace_is_read_from_traceparent() {
    let table = [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
        (" 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00 ", true),
        ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-will-be-like", true),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", false),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
        ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
        ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false),
        ("00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
        ("00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01", false),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", false),
        ("", false),
    ];
    let trace = TraceContext { trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, span_id: 0xb7ad_6b71_6920_3331 };
    for (text, is_one) in table {
        assert_eq!(TraceContext::parse(text), Some(trace).filter(|_| is_one), "{text}");
    }
}

#[test]
fn bytes_of_a_guard() {
    let owner = RecordKey::from_bytes([0xbb; RecordKey::LEN]);
    check(
        &record(Phase::Held { owner, resource: Some(Place::Sealed(Bytes::from_static(b"\x01\xffsealed"))) }),
        &expect![[r#"
            03 05 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d  ................
            0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d  ................
            1e 1f 04 03 02 01 00 c8 7e 9a 00 00 00 00 bb bb  ........~.......
            bb bb bb bb bb bb bb bb bb bb bb bb bb bb bb bb  ................
            bb bb bb bb bb bb bb bb bb bb bb bb bb bb 08 00  ................
            00 00 01 ff 73 65 61 6c 65 64                    ....sealed
        "#]],
    );
    check(
        &record(Phase::Held { owner, resource: None }),
        &expect![[r#"
            03 05 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d  ................
            0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d  ................
            1e 1f 04 03 02 01 00 c8 7e 9a 00 00 00 00 bb bb  ........~.......
            bb bb bb bb bb bb bb bb bb bb bb bb bb bb bb bb  ................
            bb bb bb bb bb bb bb bb bb bb bb bb bb bb 00 00  ................
            00 00                                            ..
        "#]],
    );
}

#[test]
fn an_unknown_phase_is_damage() {
    let mut bytes = encode(&record(Phase::Unknown)).to_vec();
    // The bits above say what else there is.
    for tag in (0..0x20).filter(|tag| !(1..=5).contains(tag)).chain([0x20 | 2]) {
        bytes[1] = tag;
        assert_eq!(Record::decode(bytes.clone().into()), Err(DecodeError::Malformed("phase tag")));
    }
}

/// Whole milliseconds, as policies have them.
fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(0), 0..100_000_000_000u64, Just(u64::MAX)].prop_map(Duration::from_millis)
}

fn bytes(len_max: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..len_max).prop_map(Bytes::from)
}

fn any_record() -> impl Strategy<Value = Record> {
    let key = || any::<[u8; RecordKey::LEN]>().prop_map(RecordKey::from_bytes);
    let sealed = (any::<u16>(), bytes(200)).prop_map(|(status, bytes)| Kept::Sealed(Sealed { status, bytes }));
    let kept = prop_oneof![sealed, any::<u16>().prop_map(|status| Kept::Omitted { status })];
    // An empty one is none.
    let place = bytes(40).prop_map(|bytes| Some(bytes).filter(|bytes| !bytes.is_empty()).map(Place::Sealed));
    let phase = prop_oneof![
        duration().prop_map(|lease| Phase::InFlight { lease }),
        Just(Phase::Unknown),
        (kept, duration()).prop_map(|(kept, replay_for)| Phase::Completed { kept, replay_for }),
        (key(), place).prop_map(|(owner, resource)| Phase::Held { owner, resource }),
    ];
    let trace = prop::option::of((1..=u128::MAX, 1..=u64::MAX))
        .prop_map(|ids| ids.map(|(trace_id, span_id)| TraceContext { trace_id, span_id }));
    let about = ("/[a-z0-9é{}]{0,20}", any::<[u8; 8]>(), trace)
        .prop_map(|(route, principal, trace)| Arc::new(About { route, principal, trace }));
    let about = prop::option::of(about);
    (any::<[u8; Fingerprint::LEN]>(), any::<u32>(), phase, duration(), prop::option::of(key()), about).prop_map(
        |(digest, attempt, phase, retention, guard, about)| Record {
            fingerprint: Fingerprint::from_bytes(digest),
            attempt,
            phase,
            retention,
            guard,
            about,
        },
    )
}

proptest! {
    #[test]
    fn a_record_reads_back_as_it_was_written(record in any_record()) {
        prop_assert_eq!(Record::decode(encode(&record)), Ok(record));
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..300), format in 0..5u8, tag in prop_oneof![0..8u8, 0x80..0x88u8, 0x40..0x48u8, 0xe0..0xe8u8]) {
        let _ = Record::decode(bytes.clone().into());
        if bytes.len() >= 2 {
            bytes[0] = format;
            bytes[1] = tag;
            if let Ok(record) = Record::decode(bytes.clone().into()) {
                // Whatever decodes has one form only.
                prop_assert_eq!(&encode(&record)[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn a_record_only_ever_loses_with_age(record in any_record(), younger in duration(), older in duration()) {
        let (younger, older) = (younger.min(older), younger.max(older));
        let at = |age| record.clone().at_age(age);
        prop_assert_eq!(at(older), at(younger).and_then(|record| record.at_age(older)));
        prop_assert_eq!(at(older).is_none(), older >= record.retention);
        let trimmed = record.trims_at().is_some_and(|trims_at| older >= trims_at);
        prop_assert_eq!(at(older).is_some_and(|left| left != record), trimmed && older < record.retention);
    }
}
