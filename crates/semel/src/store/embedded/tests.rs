//! Tests of what only this engine has; what every store must do is in the shared suite.

use super::*;

fn key(n: u64) -> RecordKey {
    let mut bytes = [0; RecordKey::LEN];
    for (i, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        let x = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17 * i as u32) ^ n;
        chunk.copy_from_slice(&x.to_le_bytes());
    }
    RecordKey::from_bytes(bytes)
}

fn put(exchange: u128, write: u16) -> Put {
    let record = Record {
        fingerprint: RequestFingerprint::from_bytes([7; 32]),
        attempt: 1,
        phase: Phase::InFlight { lease: Duration::from_secs(35) },
        retention: Duration::from_secs(86_400),
    };
    Put { stamp: Stamp { exchange: ExchangeId(exchange), write }, record }
}

#[tokio::test]
async fn smoke() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 16, ..Options::default() };
    {
        let (store, _) = EmbeddedStore::open(folder.path(), options.clone()).unwrap();
        for n in 0..1000 {
            let claim = put(u128::from(n), 1);
            let swap = Swap { expect: None, put: Some(claim.clone()) };
            assert_eq!(store.swap(&key(n), &swap).await, Ok(Swapped::Done));
            assert_eq!(store.swap(&key(n), &swap).await, Ok(Swapped::Done));
            if n % 2 == 0 {
                let settle = Swap { expect: Some(claim.stamp), put: Some(put(u128::from(n), 2)) };
                assert_eq!(store.swap(&key(n), &settle).await, Ok(Swapped::Done));
            }
            if n % 3 == 0 {
                let settle =
                    Swap { expect: Some(Stamp { write: 1 + u16::from(n % 2 == 0), ..claim.stamp }), put: None };
                assert_eq!(store.swap(&key(n), &settle).await, Ok(Swapped::Done));
            }
        }
        assert!(matches!(EmbeddedStore::open(folder.path(), options.clone()), Err(OpenError::Locked { .. })));
        store.probe().await.unwrap();
    }
    let (store, recovery) = EmbeddedStore::open(folder.path(), options).unwrap();
    println!("{recovery:?} {:?}", store.stats());
    for n in 0..1000 {
        let found = store.load(&key(n)).await.unwrap();
        assert_eq!(found.is_some(), n % 3 != 0);
        if let Some(found) = found {
            assert!(found.abandoned);
            assert_eq!(found.stamp.write, 1 + u16::from(n % 2 == 0));
        }
    }
}
