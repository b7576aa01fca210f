//! What operators ask: scans, sweeps, loads, probes.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Case, Failure, Need, same,
    trial::{Trial, found, found_new},
};
use crate::{
    store::{PhaseKind, Record, RecordKey, Swapped},
    testkit::{
        Harness, Keeps,
        sample::{RETENTION, completed, guard, held, in_flight, key, omitted, put, remove, stamp, unknown},
    },
};

const PHASES: [PhaseKind; 4] = [PhaseKind::InFlight, PhaseKind::Unknown, PhaseKind::Completed, PhaseKind::Held];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a sweep removes what is past and nothing else",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(sweeping(h)),
    },
    Case {
        name: "a sweep removes at most its limit, and all when called until it answers less",
        needs: Need::Counts,
        run: |h| Box::pin(sweeping_in_steps(h)),
    },
    Case {
        name: "a sweep leaves what replaced a record that would be past",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(sweeping_after_replacement(h)),
    },
    Case {
        name: "pages of a scan are in ascending order, complete, and without repetition",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(paging(h)),
    },
    Case {
        name: "a scan shows what lives in its phase now",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(scanning_changes(h)),
    },
    Case { name: "a load never changes anything", needs: Need::Keeps(Keeps::Nothing), run: |h| Box::pin(loading(h)) },
    Case {
        name: "a probe succeeds however often it is asked",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(probing(h)),
    },
    Case {
        name: "a probe leaves nothing behind",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(probing_leaves_nothing(h)),
    },
];

async fn sweeping(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    t.sweeps("nothing in a new store", 0).await?;
    for n in 0..30 {
        let retention = Duration::from_secs(10 * (1 + n % 3));
        let record = match n % 5 {
            0 => in_flight(n),
            1 => unknown(n),
            2 => omitted(n),
            3 => held(n),
            _ => completed(n, "done"),
        };
        t.is_done("put", key(n), &put(None, stamp(n, 1), Record { retention, ..record })).await?;
    }
    t.is_done("one is released, and has nothing to be swept", key(0), &remove(stamp(0, 1))).await?;
    t.advance(Duration::from_millis(9_999)).await;
    t.sweeps("at 9.999 s", 0).await?;
    for (round, swept) in [(1, 9), (2, 10), (3, 10)] {
        let claim = "at the end of the next ten seconds";
        t.advance(if round == 1 { Duration::from_millis(1) } else { Duration::from_secs(10) }).await;
        t.sweeps(claim, swept).await?;
        for n in 1..30 {
            same(claim, &t.load(key(n)).await?.is_some(), &(n % 3 >= round))?;
        }
        t.sweeps("and then there is no more", 0).await?;
    }
    Ok(())
}

async fn sweeping_in_steps(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    for n in 0..25 {
        let record = Record { retention: Duration::from_secs(n + 1), ..in_flight(n) };
        t.is_done("put", key(n), &put(None, stamp(n, 1), record)).await?;
    }
    t.advance(Duration::from_secs(20)).await;
    same("a limit of nothing", &t.store().sweep(0).await?, &0)?;
    let mut swept = 0;
    loop {
        let count = t.store().sweep(6).await?;
        same("at most the limit", &(count <= 6), &true)?;
        swept += count;
        if count < 6 {
            break;
        }
    }
    same("all that are past", &swept, &20)?;
    for n in 20..25 {
        same("those that are not", &t.load(key(n)).await?.is_some(), &true)?;
    }
    Ok(())
}

async fn sweeping_after_replacement(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let short = Duration::from_secs(10);
    for n in 1..=3 {
        let claim = Record { retention: short, ..in_flight(n) };
        t.is_done("claim", key(n), &put(None, stamp(n, 1), claim)).await?;
    }
    // The first is settled, the second released, the third forgotten and then claimed anew.
    let settle = put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "done"));
    t.is_done("settle", key(1), &settle).await?;
    t.is_done("release", key(2), &remove(stamp(2, 1))).await?;
    t.advance(short).await;
    let claim = put(None, stamp(4, 1), in_flight(4));
    t.is_done("claim anew", key(3), &claim).await?;

    t.sweeps("none of them is past", 0).await?;
    t.lives("settled", key(1), found(stamp(1, 2), completed(1, "done"), short)).await?;
    t.nothing_lives("released", key(2)).await?;
    t.lives("claimed anew", key(3), found_new(&claim)).await
}

async fn paging(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let record_of = |n: u64| match n % 4 {
        0 => in_flight(n),
        1 => unknown(n),
        2 => held(n),
        _ => completed(n, "done"),
    };
    let count = 60;
    for n in 0..count {
        t.is_done("put", key(n), &put(None, stamp(n, 1), record_of(n))).await?;
    }
    for phase in PHASES {
        let mut expected: Vec<_> = (0..count)
            .filter(|n| record_of(*n).kind() == phase)
            .map(|n| (key(n), found(stamp(n, 1), record_of(n), Duration::ZERO)))
            .collect();
        expected.sort_by_key(|(key, _)| *key);
        for limit in [1, 3, 19, 20, 21, 1_000] {
            let mut listed = Vec::new();
            let mut after = None;
            loop {
                let page = t.scan(phase, after, limit).await?;
                same("at most the limit", &(page.len() <= limit as usize), &true)?;
                let Some((last, _)) = page.last() else { break };
                // A store that starts again at its first record would never end.
                same("further on", &(after < Some(*last)), &true)?;
                after = Some(*last);
                listed.extend(page);
            }
            same(&format!("{phase:?} by pages of {limit}"), &listed, &expected)?;
        }
        same("a limit of nothing", &t.scan(phase, None, 0).await?, &Vec::new())?;
        let between = RecordKey::from_bytes([0x80; RecordKey::LEN]);
        let rest: Vec<_> = expected.into_iter().filter(|(key, _)| *key > between).collect();
        same("after a key that is not there", &t.scan(phase, Some(between), 1_000).await?, &rest)?;
        let end = RecordKey::from_bytes([0xff; RecordKey::LEN]);
        same("after the end", &t.scan(phase, Some(end), 1_000).await?, &Vec::new())?;
    }
    Ok(())
}

async fn scanning_changes(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let short = Duration::from_secs(10);
    let counts = async |t: &Trial| {
        let mut counts = [0; 4];
        for (count, phase) in counts.iter_mut().zip(PHASES) {
            *count = t.scan(phase, None, 100).await?.len();
        }
        Ok::<_, Failure>(counts)
    };
    for n in 1..=4 {
        let record = Record { retention: if n == 4 { short } else { RETENTION }, ..in_flight(n) };
        t.is_done("claim", key(n), &put(None, stamp(n, 1), record)).await?;
    }
    same("all in flight", &counts(&t).await?, &[4, 0, 0, 0])?;
    t.is_done("settle", key(1), &put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "done"))).await?;
    same("one completed", &counts(&t).await?, &[3, 0, 1, 0])?;
    t.is_done("settle", key(2), &put(Some(stamp(2, 1)), stamp(2, 2), unknown(2))).await?;
    same("one unknown", &counts(&t).await?, &[2, 1, 1, 0])?;
    t.is_done("release", key(3), &remove(stamp(3, 1))).await?;
    same("one gone", &counts(&t).await?, &[1, 1, 1, 0])?;
    t.advance(short).await;
    same("one past its retention", &counts(&t).await?, &[0, 1, 1, 0])?;
    t.is_done("take over", key(2), &put(Some(stamp(2, 2)), stamp(5, 1), in_flight(2))).await?;
    same("the unknown in flight again", &counts(&t).await?, &[1, 0, 1, 0])?;
    t.is_done("a guard", guard(2), &put(None, stamp(6, 1), held(2))).await?;
    same("one held", &counts(&t).await?, &[1, 0, 1, 1])?;
    t.is_done("its release", guard(2), &remove(stamp(6, 1))).await?;
    same("none held", &counts(&t).await?, &[1, 0, 1, 0])
}

async fn loading(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let lives = Duration::from_secs(10);
    let record = Record { retention: lives, ..in_flight(1) };
    t.is_done("claim", key(1), &put(None, stamp(1, 1), record.clone())).await?;
    for age in (1..10).map(Duration::from_secs) {
        t.advance(Duration::from_secs(1)).await;
        t.lives("its age goes on", key(1), found(stamp(1, 1), record.clone(), age)).await?;
        t.nothing_lives("and nothing comes to be", key(2)).await?;
        for phase in PHASES {
            t.scan(phase, None, 10).await?;
        }
    }
    t.advance(Duration::from_secs(1)).await;
    t.nothing_lives("past its retention", key(1)).await?;
    t.is_done("what was loaded is free", key(2), &put(None, stamp(2, 1), in_flight(2))).await
}

async fn probing(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    for _ in 0..3 {
        t.store().probe().await?;
        t.store().probe().await?;
        t.advance(Duration::from_hours(1)).await;
    }
    let probes: Vec<_> = (0..16)
        .map(|n| {
            let store = t.handles()[n % 2].clone();
            tokio::spawn(async move { store.probe().await })
        })
        .collect();
    for probe in probes {
        probe.await.map_err(Failure::new)??;
    }
    Ok(())
}

async fn probing_leaves_nothing(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let claim = put(None, stamp(1, 1), in_flight(1));
    t.is_done("claim", key(1), &claim).await?;
    t.store().probe().await?;
    let mut listed = BTreeSet::new();
    for phase in PHASES {
        listed.extend(t.scan(phase, None, 100).await?.into_iter().map(|(key, _)| key));
    }
    same("only the claim", &listed, &BTreeSet::from([key(1)]))?;
    t.lives("untouched", key(1), found_new(&claim)).await?;
    let answer = t.swap(key(1), &remove(stamp(1, 1))).await?;
    same("and still its owner's", &answer, &Swapped::Done)
}
