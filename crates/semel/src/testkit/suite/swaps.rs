//! What a swap answers, and what it leaves.

use super::{Case, Failure, Need, same, trial::Trial, trial::found, trial::found_new};
use crate::{
    store::{RecordKey, Stamp, StoreError, Swap, Swapped},
    testkit::{
        Harness, Keeps,
        sample::{completed, held, in_flight, key, put, remove, stamp, unknown},
    },
};
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    Case { name: "a claim on nothing is done", needs: Need::Keeps(Keeps::Nothing), run: |h| Box::pin(claim(h)) },
    Case {
        name: "a second claim is told of the first and changes nothing",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(second_claim(h)),
    },
    Case {
        name: "each phase replaces the one whose stamp it expects",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(replacing(h)),
    },
    Case {
        name: "the same stamp again is done, and writes nothing",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(same_stamp_again(h)),
    },
    Case {
        name: "a claim asked again after it was replaced is told what replaced it",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(replaced_claim_again(h)),
    },
    Case {
        name: "a writer whose stamp is gone changes nothing",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(stale_writer(h)),
    },
    Case { name: "a release frees the key", needs: Need::Keeps(Keeps::Nothing), run: |h| Box::pin(release(h)) },
    Case {
        name: "a release asked twice finds nothing or the next claim, and leaves both",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(release_twice(h)),
    },
    Case {
        name: "expecting a stamp where nothing lives is absent, and writes nothing",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(expecting_what_never_was(h)),
    },
    Case {
        name: "expecting nothing and putting nothing reads and changes nothing",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(deciding_read(h)),
    },
    Case {
        name: "stamps are told apart by every part of them",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(parts_of_stamps(h)),
    },
    Case {
        name: "keys are told apart by every one of their first 128 bits",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(bits_of_keys(h)),
    },
    Case {
        name: "keys that share their first 128 bits are told apart, or refused as corrupt",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(later_bits_of_keys(h)),
    },
    Case {
        name: "what one handle did, another sees at once",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(two_handles(h)),
    },
];

async fn claim(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    t.nothing_lives("a new store is empty", key(1)).await?;
    let claim = put(None, stamp(1, 1), in_flight(1));
    t.is_done("nothing was there", key(1), &claim).await?;
    t.lives("the claim lives", key(1), found_new(&claim)).await
}

async fn second_claim(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let first = put(None, stamp(1, 1), in_flight(1));
    t.is_done("nothing was there", key(1), &first).await?;
    let second = put(None, stamp(2, 1), in_flight(2));
    t.is_found("in flight", key(1), &second, found_new(&first)).await?;

    let settle = put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "done"));
    t.is_done("its own claim was there", key(1), &settle).await?;
    t.is_found("completed", key(1), &second, found_new(&settle)).await
}

async fn replacing(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let writes = [
        put(None, stamp(1, 1), in_flight(1)),
        put(Some(stamp(1, 1)), stamp(1, 2), unknown(1)),
        put(Some(stamp(1, 2)), stamp(2, 1), in_flight(1)),
        put(Some(stamp(2, 1)), stamp(3, 1), in_flight(1)),
        put(Some(stamp(3, 1)), stamp(3, 2), completed(1, "done")),
        put(Some(stamp(3, 2)), stamp(4, 1), completed(1, "done otherwise")),
        put(Some(stamp(4, 1)), stamp(5, 1), held(1)),
        put(Some(stamp(5, 1)), stamp(6, 1), held(2)),
    ];
    for write in writes {
        t.is_done("the stamp it expects was there", key(1), &write).await?;
        t.lives("and now it is there itself", key(1), found_new(&write)).await?;
    }
    Ok(())
}

async fn same_stamp_again(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let claim = put(None, stamp(1, 1), in_flight(1));
    let settle = put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "done"));
    for swap in [claim, settle] {
        t.is_done("asked for the first time", key(1), &swap).await?;
        t.advance(Duration::from_millis(1_500)).await;
        t.is_done("the answer was lost", key(1), &swap).await?;
        t.is_done("and lost again", key(1), &swap).await?;
        let put = swap.put.clone().expect("both put");
        let expected = found(put.stamp, put.record, Duration::from_millis(1_500));
        t.lives("its age goes on", key(1), expected).await?;
    }
    Ok(())
}

async fn replaced_claim_again(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let claim = put(None, stamp(1, 1), in_flight(1));
    let settle = put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "done"));
    t.is_done("claim", key(1), &claim).await?;
    t.is_done("settle", key(1), &settle).await?;
    t.is_found("a late copy of the claim", key(1), &claim, found_new(&settle)).await
}

async fn stale_writer(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let claim = put(None, stamp(1, 1), in_flight(1));
    t.is_done("the first owner claims", key(1), &claim).await?;
    let take_over = put(Some(stamp(1, 1)), stamp(2, 1), in_flight(1));
    t.is_done("the second takes over", key(1), &take_over).await?;

    // `peers.md` #11: a zombie completes or releases what is no longer its own.
    let late = [
        put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "late")),
        put(Some(stamp(1, 1)), stamp(1, 3), unknown(1)),
        remove(stamp(1, 1)),
    ];
    for late in &late {
        t.is_found("the first owner is late", key(1), late, found_new(&take_over)).await?;
    }
    let settle = put(Some(stamp(2, 1)), stamp(2, 2), completed(1, "in time"));
    t.is_done("the second settles", key(1), &settle).await?;
    for late in &late {
        t.is_found("the first owner is later", key(1), late, found_new(&settle)).await?;
    }
    Ok(())
}

async fn release(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    for n in 1..=3 {
        let claim = put(None, stamp(n, 1), in_flight(n));
        t.is_done("the key is free", key(1), &claim).await?;
        t.is_done("its own claim was there", key(1), &remove(stamp(n, 1))).await?;
        t.nothing_lives("released", key(1)).await?;
    }
    Ok(())
}

async fn release_twice(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    t.is_done("claim", key(1), &put(None, stamp(1, 1), in_flight(1))).await?;
    t.is_done("release", key(1), &remove(stamp(1, 1))).await?;
    t.is_absent("the answer was lost", key(1), &remove(stamp(1, 1))).await?;
    let next = put(None, stamp(2, 1), in_flight(2));
    t.is_done("the next claim", key(1), &next).await?;
    t.is_found("a late copy of the release", key(1), &remove(stamp(1, 1)), found_new(&next)).await
}

async fn expecting_what_never_was(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    t.is_absent("settle", key(1), &put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "done"))).await?;
    t.is_absent("release", key(1), &remove(stamp(1, 1))).await?;
    t.is_done("the key is free", key(1), &put(None, stamp(2, 1), in_flight(2))).await
}

async fn deciding_read(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let read = Swap { expect: None, put: None };
    t.is_done("nothing there", key(1), &read).await?;
    t.nothing_lives("and still nothing", key(1)).await?;
    let claim = put(None, stamp(1, 1), in_flight(1));
    t.is_done("claim", key(1), &claim).await?;
    t.is_found("in flight", key(1), &read, found_new(&claim)).await
}

async fn parts_of_stamps(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let lives = stamp(1, 0x0102);
    let claim = put(None, lives, in_flight(1));
    t.is_done("claim", key(1), &claim).await?;
    let exchange_bits = (0..128).map(|bit| {
        let mut other = lives;
        other.exchange.0 ^= 1 << bit;
        other
    });
    let write_bits = (0..16).map(|bit| Stamp { write: lives.write ^ 1 << bit, ..lives });
    for other in exchange_bits.chain(write_bits) {
        let again = put(None, other, in_flight(2));
        t.is_found("not the same stamp again", key(1), &again, found_new(&claim)).await?;
        let settle = put(Some(other), stamp(2, 2), completed(1, "done"));
        t.is_found("not the stamp that lives there", key(1), &settle, found_new(&claim)).await?;
        t.is_found("nor to be released", key(1), &remove(other), found_new(&claim)).await?;
    }
    Ok(())
}

/// Keys are keyed digests, so 128 bits of them are enough to find one by, if the rest is compared where a stranger could
/// be told of a record. (Whoever names a stamp was told of it under its key.)
const BITS_TO_FIND_BY: usize = 128;

fn with_bit_flipped(key: RecordKey, bit: usize) -> RecordKey {
    let mut bytes = *key.as_bytes();
    bytes[bit / 8] ^= 1 << (bit % 8);
    RecordKey::from_bytes(bytes)
}

async fn bits_of_keys(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let mut keys = vec![key(1)];
    keys.extend((0..BITS_TO_FIND_BY).map(|bit| with_bit_flipped(key(1), bit)));
    for (n, key) in (0..).zip(&keys) {
        t.is_done("nobody has this key", *key, &put(None, stamp(n, 1), in_flight(n))).await?;
    }
    t.is_done("one is released", keys[0], &remove(stamp(0, 1))).await?;
    for (n, key) in (0..).zip(&keys).skip(1) {
        let stamp_there = t.load(*key).await?.map(|found| found.stamp);
        same("each key has its own record", &stamp_there, &Some(stamp(n, 1)))?;
    }
    t.nothing_lives("only that one is gone", keys[0]).await
}

async fn later_bits_of_keys(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let claim = put(None, stamp(1, 1), in_flight(1));
    t.is_done("claim", key(1), &claim).await?;
    for bit in BITS_TO_FIND_BY..RecordKey::LEN * 8 {
        let other = with_bit_flipped(key(1), bit);
        let (n, store) = (1_000 + bit as u64, t.store());
        match store.load(&other).await {
            Ok(None) | Err(StoreError::Corrupt(_)) => {}
            answer => return Err(Failure::new(format!("nobody claimed this key, and a load says {answer:?}"))),
        }
        match store.swap(&other, &put(None, stamp(n, 1), in_flight(n))).await {
            Ok(Swapped::Done) => {
                let stamp_there = t.load(other).await?.map(|found| found.stamp);
                same("each key has its own record", &stamp_there, &Some(stamp(n, 1)))?;
            }
            Err(StoreError::Corrupt(_)) => {}
            answer => return Err(Failure::new(format!("nobody claimed this key, and its claim is {answer:?}"))),
        }
    }
    t.lives("nobody touched this one", key(1), found_new(&claim)).await?;
    t.is_done("its owner settles", key(1), &put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "done"))).await
}

async fn two_handles(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let handles = t.handles();
    for n in 0..20u16 {
        let (one, other) = if n % 2 == 0 { (&handles[0], &handles[1]) } else { (&handles[1], &handles[0]) };
        let expect = (n > 0).then(|| stamp(1, n));
        let write = put(expect, stamp(1, n + 1), in_flight(u64::from(n)));
        let answer = one.swap(&key(1), &write).await?;
        same("one writes after the other", &answer, &Swapped::Done)?;
        let loaded = other.load(&key(1)).await?;
        same("load", &loaded, &Some(found_new(&write)))?;
        let claim = put(None, stamp(2, 1), in_flight(99));
        let answer = other.swap(&key(1), &claim).await?;
        same("swap", &answer, &Swapped::Found(found_new(&write)))?;
    }
    Ok(())
}
