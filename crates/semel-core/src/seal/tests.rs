use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::{fingerprint::Fingerprint, record::ExchangeId};

use std::time::Duration;

const OPENER: Opener = Opener([3; 32]);

fn secrets(secrets: &[u8]) -> Sealing {
    let secrets: Vec<[u8; 32]> = secrets.iter().map(|byte| [*byte; 32]).collect();
    Sealing::of(&secrets).expect("they differ")
}

fn key(byte: u8) -> RecordKey {
    RecordKey::from_bytes([byte; RecordKey::LEN])
}

fn seal(sealing: &[u8]) -> Seal {
    Seal::new(&secrets(sealing), key(2), OPENER)
}

fn put(phase: Phase) -> Put {
    let fingerprint = Fingerprint::from_bytes([4; Fingerprint::LEN]);
    let record = Record { fingerprint, attempt: 1, phase, retention: Duration::from_secs(9), guard: None, about: None };
    Put { stamp: Stamp { exchange: ExchangeId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10), write: 2 }, record }
}

fn reply(headers: Vec<(Bytes, Bytes)>, content: Bytes) -> Put {
    let reply = Arc::new(Reply { status: 201, headers, content });
    put(Phase::Completed { kept: Kept::Reply(reply), replay_for: Duration::from_secs(5) })
}

fn order() -> Put {
    let field = |name: &'static str, value: &'static [u8]| (Bytes::from(name), Bytes::from_static(value));
    // Several lines of one field stay as they are (`peers.md` #31).
    let headers = vec![field("set-cookie", b"b=2"), field("location", b"/orders/1"), field("set-cookie", b"a=\xe9")];
    reply(headers, Bytes::from_static(b"{\"id\":1}"))
}

fn held() -> Put {
    put(Phase::Held { owner: key(7), resource: Some(Place::Path("/orders/1".to_owned())) })
}

fn closed(seal: &Seal, put: &Put, again: u32) -> Record {
    let mut put = put.clone();
    seal.close(&mut put, again);
    put.record
}

fn opened(seal: &Seal, record: &Record) -> Result<Record, Unopened> {
    let mut opened = record.clone();
    let result = seal.open(&mut opened);
    assert!(result.is_ok() || opened == *record, "what is not opened is as it was");
    result.map(|()| opened)
}

fn sealed_bytes(record: &mut Record) -> &mut Bytes {
    match &mut record.phase {
        Phase::Completed { kept: Kept::Sealed(Sealed { bytes, .. }), .. }
        | Phase::Held { resource: Some(Place::Sealed(bytes)), .. } => bytes,
        other => panic!("{other:?} is not sealed"),
    }
}

/// What release N seals, N + 1 opens (I9).
#[test]
fn bytes_of_what_is_sealed() {
    let dump = |put: &Put| {
        let mut record = closed(&seal(&[1]), put, 5);
        assert_eq!(opened(&seal(&[1]), &record).as_ref(), Ok(&put.record));
        let bytes = sealed_bytes(&mut record);
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        hex.chunks(32).map(|line| line.concat() + "\n").collect::<String>()
    };
    expect![[r#"
        ffe244750102030405060708090a0b0c0d0e0f1000020000000500004cb5e3ae
        8f820cbe3b89eaf045b8703e31b93bae405988c5c27becace8d3e5da479acb4c
        ac41974af935006f15e34dd505a05b8b5ebc624e2f9d61343e3c084a2b8ff960
        f92e816603a800e7671bf58d5e2beb91fc5ab5a6aad3df56ea9b4197478c51
    "#]]
    .assert_eq(&dump(&order()));
    expect![[r#"
        ffe244750102030405060708090a0b0c0d0e0f10000200000005000060da91ca
        e0f07f9179fa6180a91b7173e03dfa8f0635eba3e9
    "#]]
    .assert_eq(&dump(&held()));
    expect!["ffe24475"].assert_eq(&secrets(&[1]).key_id().to_string());
}

#[test]
fn sc11_nothing_of_a_reply_shows() {
    for (put, words) in [(order(), &["location", "orders", "a=", "id"][..]), (held(), &["orders"])] {
        let mut record = closed(&seal(&[1]), &put, 0);
        let bytes = sealed_bytes(&mut record).clone();
        for word in words {
            assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
        }
    }
}

/// Beside the bytes, all that they belong to is authenticated.
#[test]
fn sc11_only_what_was_sealed_is_opened() {
    for put in [order(), held()] {
        let record = closed(&seal(&[1]), &put, 0);
        let damaged = Err(Unopened::Damaged);
        let others = [
            Seal::new(&secrets(&[1]), key(2), Opener([9; 32])),
            Seal::new(&secrets(&[1]), key(9), OPENER),
            seal(&[1]).of_other(key(9), OPENER),
        ];
        for other in others {
            assert_eq!(opened(&other, &record), damaged);
        }
        let fingerprint = Fingerprint::from_bytes([9; Fingerprint::LEN]);
        assert_eq!(opened(&seal(&[1]), &Record { fingerprint, ..record.clone() }), damaged);
        let mut other = record.clone();
        match &mut other.phase {
            Phase::Completed { kept: Kept::Sealed(sealed), .. } => sealed.status = 200,
            Phase::Held { owner, .. } => *owner = key(9),
            _ => panic!("it is sealed"),
        }
        assert_eq!(opened(&seal(&[1]), &other), damaged);
        let bytes = sealed_bytes(&mut record.clone()).clone();
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1;
            let mut other = record.clone();
            *sealed_bytes(&mut other) = flipped.into();
            let told = opened(&seal(&[1]), &other);
            assert!(told == damaged || (at < KeyId::LEN && told.is_err()), "byte {at}: {told:?}");
            let mut other = record.clone();
            *sealed_bytes(&mut other) = bytes.slice(..at);
            assert_eq!(opened(&seal(&[1]), &other), damaged, "{at} bytes");
        }
    }
}

/// A reply is no path, whoever moves it there.
#[test]
fn what_was_sealed_as_one_thing_is_not_another() {
    let mut record = closed(&seal(&[1]), &order(), 0);
    let bytes = sealed_bytes(&mut record).clone();
    let mut other = held().record;
    other.phase = Phase::Held { owner: key(7), resource: Some(Place::Sealed(bytes)) };
    assert_eq!(opened(&seal(&[1]), &other), Err(Unopened::Damaged));
}

#[test]
fn sc11_old_secrets_open_and_the_first_seals() {
    for put in [order(), held()] {
        let old = closed(&seal(&[1]), &put, 0);
        let new = closed(&seal(&[2, 1]), &put, 0);
        assert_eq!(opened(&seal(&[2, 1]), &old).as_ref(), Ok(&put.record));
        assert_eq!(opened(&seal(&[2]), &new).as_ref(), Ok(&put.record));
        let gone = Err(Unopened::UnknownSecret(secrets(&[1]).key_id()));
        assert_eq!(opened(&seal(&[2]), &old), gone);
        assert_eq!(opened(&seal(&[3, 2]), &old), gone);
    }
}

/// No nonce repeats under one key: neither for two writes of an exchange, nor for two tries of one write.
#[test]
fn every_write_and_every_try_has_its_own_nonce() {
    let mut nonces = std::collections::BTreeSet::new();
    for write in [1, 2, 256, u16::MAX] {
        for exchange in [0, 1, u128::MAX] {
            for again in [0, 1, 256, u32::MAX] {
                assert!(nonces.insert(nonce(Stamp { exchange: ExchangeId(exchange), write }, again).to_vec()));
            }
        }
    }
    let mut put = order();
    seal(&[1]).close(&mut put, 0);
    let once = put.clone();
    seal(&[1]).close(&mut put, 1);
    assert_eq!(put, once, "what is sealed is not sealed again");
}

#[test]
fn sealing_secrets_differ() {
    let of = |bytes: &[u8]| Sealing::of(&bytes.iter().map(|byte| [*byte; 32]).collect::<Vec<_>>()).map(|_| ());
    assert_eq!(of(&[]), Err(SealingError::Count(0)));
    assert_eq!(of(&[1, 2, 3, 2]), Err(SealingError::Same { first: 2, second: 4 }));
    let many: Vec<u8> = (0..=16).collect();
    assert_eq!(of(&many), Err(SealingError::Count(17)));
    assert_eq!(of(&many[1..]), Ok(()));
    assert_eq!(format!("{:?}", secrets(&[1])), format!("[{}]", secrets(&[1]).key_id()), "no secret is printed");
    assert_eq!(format!("{OPENER:?}"), "Opener(..)");
}

/// The main secret seals, as if it stood in the list.
#[test]
fn a_main_secret_is_a_sealing_secret() {
    let main = Seal::new(Secret::from_bytes([1; 32]).sealing(), key(2), OPENER);
    assert_eq!(opened(&seal(&[2, 1]), &closed(&main, &order(), 0)), Ok(order().record));
}

#[test]
fn a_wild_count_is_damage() {
    let mut out = BytesMut::new();
    put_len(&mut out, u32::MAX as usize);
    put_len(&mut out, 0);
    assert_eq!(decode(200, out.freeze()), Err(DecodeError::Malformed("header count")));
}

fn bytes(len_max: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..len_max).prop_map(Bytes::from)
}

proptest! {
    #[test]
    fn peers_31_any_reply_comes_back(
        headers in prop::collection::vec((bytes(20), bytes(40)), 0..6), content in bytes(300), again in any::<u32>(),
    ) {
        let put = reply(headers, content);
        let mut record = closed(&seal(&[1]), &put, again);
        let Phase::Completed { kept: Kept::Reply(kept), .. } = &put.record.phase else { panic!("it is a reply") };
        prop_assert_eq!(sealed_bytes(&mut record).len(), HEAD_LEN + encoded_len(kept) + TAG_LEN);
        prop_assert_eq!(opened(&seal(&[1]), &record), Ok(put.record));
    }

    #[test]
    fn any_bytes_are_a_reply_or_an_error(bytes in bytes(100)) {
        if let Ok(reply) = decode(200, bytes.clone()) {
            let mut out = BytesMut::new();
            encode(&reply, &mut out);
            prop_assert_eq!(out.freeze(), bytes);
        }
    }
}
