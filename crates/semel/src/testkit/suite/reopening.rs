//! What is done stays done when the process ends.

use std::time::Duration;

use super::{
    Case, Failure, Need,
    records::shapes,
    same,
    trial::{Trial, found, found_new},
};
use crate::{
    store::{Found, PhaseKind, Record, Swapped},
    testkit::{
        Harness, Keeps,
        prng::Prng,
        sample::{completed, in_flight, key, put, remove, stamp, unknown},
    },
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "opened again, it has every record that was done, in every field",
        needs: Need::Keeps(Keeps::Records),
        run: |h| Box::pin(everything(h)),
    },
    Case {
        name: "opened again, it has the last of several writes, and not what was released",
        needs: Need::Keeps(Keeps::Records),
        run: |h| Box::pin(last_writes(h)),
    },
    Case {
        name: "opened again, the same stamp again is done and a stale writer changes nothing",
        needs: Need::Keeps(Keeps::Records),
        run: |h| Box::pin(fences(h)),
    },
    Case {
        name: "opened again, ages and retentions go on from the write",
        needs: Need::Keeps(Keeps::Records),
        run: |h| Box::pin(ages(h)),
    },
    Case {
        name: "opened again, what was swept or trimmed does not come back",
        needs: Need::Keeps(Keeps::Records),
        run: |h| Box::pin(swept(h)),
    },
    Case {
        name: "opened again after many writes and much content, nothing is missing",
        needs: Need::Keeps(Keeps::Records),
        run: |h| Box::pin(much(h)),
    },
    Case {
        name: "opened again by its one owner, what was in flight is abandoned, and new claims are not",
        needs: Need::Keeps(Keeps::RecordsOfOneOwner),
        run: |h| Box::pin(abandoned(h)),
    },
];

/// Whether it counts as abandoned is a case of its own.
async fn lives(t: &Trial, claim: &str, n: u64, expected: Found) -> Result<(), Failure> {
    let loaded = t.load(key(n)).await?.map(|found| Found { abandoned: false, ..found });
    same(claim, &loaded, &Some(expected))
}

async fn everything(h: &dyn Harness) -> Result<(), Failure> {
    let mut t = Trial::of(h).await;
    let writes: Vec<_> = (1..).zip(shapes()).map(|(n, record)| (n, put(None, stamp(n, 1), record))).collect();
    for (n, write) in &writes {
        t.is_done("put", key(*n), write).await?;
    }
    for claim in ["opened again", "and again, though nothing was written"] {
        t.subject.reopen().await;
        for (n, write) in &writes {
            lives(&t, claim, *n, found_new(write)).await?;
        }
    }
    Ok(())
}

async fn last_writes(h: &dyn Harness) -> Result<(), Failure> {
    let mut t = Trial::of(h).await;
    for n in 1..=20 {
        t.is_done("claim", key(n), &put(None, stamp(n, 1), in_flight(n))).await?;
        if n % 2 == 0 {
            t.is_done("settle", key(n), &put(Some(stamp(n, 1)), stamp(n, 2), completed(n, "done"))).await?;
        } else {
            t.is_done("release", key(n), &remove(stamp(n, 1))).await?;
        }
        if n % 5 == 0 {
            t.subject.reopen().await;
        }
    }
    for n in 1..=20 {
        if n % 2 == 0 {
            lives(&t, "settled", n, found(stamp(n, 2), completed(n, "done"), Duration::ZERO)).await?;
        } else {
            t.nothing_lives("released", key(n)).await?;
            t.is_done("its key is free", key(n), &put(None, stamp(n, 3), in_flight(n))).await?;
        }
    }
    Ok(())
}

async fn fences(h: &dyn Harness) -> Result<(), Failure> {
    let mut t = Trial::of(h).await;
    let claim = put(None, stamp(1, 1), in_flight(1));
    t.is_done("claim", key(1), &claim).await?;
    t.subject.reopen().await;
    t.is_done("the same claim again", key(1), &claim).await?;
    let take_over = put(Some(stamp(1, 1)), stamp(2, 1), in_flight(1));
    t.is_done("a take-over", key(1), &take_over).await?;
    t.subject.reopen().await;
    let late = [put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "late")), remove(stamp(1, 1)), claim];
    for late in &late {
        let answer = t.swap(key(1), late).await?;
        let found = match answer {
            Swapped::Found(found) => found.stamp,
            Swapped::Done | Swapped::Absent => return Err(Failure::new(format!("{late:?} is answered {answer:?}"))),
        };
        same("a stale writer is told who lives there", &found, &stamp(2, 1))?;
    }
    lives(&t, "and changed nothing", 1, found_new(&take_over)).await
}

async fn ages(h: &dyn Harness) -> Result<(), Failure> {
    let mut t = Trial::of(h).await;
    let seconds = Duration::from_secs;
    let short = Record { retention: seconds(10), ..unknown(1) };
    let long = Record { retention: seconds(100), ..unknown(2) };
    t.is_done("a short life", key(1), &put(None, stamp(1, 1), short.clone())).await?;
    t.is_done("a long life", key(2), &put(None, stamp(2, 1), long.clone())).await?;
    t.advance(seconds(7)).await;
    t.subject.reopen().await;
    lives(&t, "7 s of age", 1, found(stamp(1, 1), short.clone(), seconds(7))).await?;
    t.advance(Duration::from_millis(2_999)).await;
    t.subject.reopen().await;
    lives(&t, "9.999 s of age", 1, found(stamp(1, 1), short, Duration::from_millis(9_999))).await?;
    t.advance(Duration::from_millis(1)).await;
    t.subject.reopen().await;
    t.nothing_lives("past its retention when opened", key(1)).await?;
    lives(&t, "10 s of age", 2, found(stamp(2, 1), long, seconds(10))).await?;
    t.is_done("the key is free", key(1), &put(None, stamp(3, 1), in_flight(3))).await
}

async fn swept(h: &dyn Harness) -> Result<(), Failure> {
    let mut t = Trial::of(h).await;
    let seconds = Duration::from_secs;
    for n in 1..=10 {
        let retention = if n <= 5 { seconds(10) } else { seconds(100_000) };
        let record = Record { retention, ..completed(n, "done") };
        t.is_done("put", key(n), &put(None, stamp(n, 1), record)).await?;
    }
    t.advance(seconds(90_000)).await;
    t.sweeps("five are past their retention", 5).await?;
    t.subject.reopen().await;
    for n in 1..=5 {
        t.nothing_lives("swept", key(n)).await?;
    }
    for n in 6..=10 {
        let record = Record { retention: seconds(100_000), ..completed(n, "done") };
        lives(&t, "trimmed", n, found(stamp(n, 1), record, seconds(90_000))).await?;
    }
    t.sweeps("nothing is swept twice", 0).await
}

async fn much(h: &dyn Harness) -> Result<(), Failure> {
    let mut t = Trial::of(h).await;
    let content = |n: u64| {
        let sizes = [100, 4_096, 70_000, 0, 1, if n % 50 == 7 { 1 << 20 } else { 333 }];
        let size = *Prng::seeded(n).pick(&sizes);
        Prng::seeded(n + 1).bytes(size)
    };
    let count = 300;
    let handles = t.handles();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = handles[usize::from(writer % 2 == 1)].clone();
        writers.spawn(async move {
            for n in (0..count).filter(|n| n % 8 == writer) {
                let claim = put(None, stamp(n, 1), in_flight(n));
                let settle = put(Some(stamp(n, 1)), stamp(n, 2), completed(n, content(n)));
                for swap in [claim, settle] {
                    same("in its turn", &store.swap(&key(n), &swap).await?, &Swapped::Done)?;
                }
            }
            Ok::<(), Failure>(())
        });
    }
    drop(handles);
    while let Some(writer) = writers.join_next().await {
        writer.map_err(Failure::new)??;
    }
    t.subject.reopen().await;
    for n in 0..count {
        lives(&t, "one of many", n, found(stamp(n, 2), completed(n, content(n)), Duration::ZERO)).await?;
    }
    same("in flight", &t.scan(PhaseKind::InFlight, None, 1_000).await?, &Vec::new())?;
    same("completed", &t.scan(PhaseKind::Completed, None, 1_000).await?.len(), &300)
}

async fn abandoned(h: &dyn Harness) -> Result<(), Failure> {
    let mut t = Trial::of(h).await;
    t.is_done("claim", key(1), &put(None, stamp(1, 1), in_flight(1))).await?;
    t.subject.reopen().await;
    let left = Found { abandoned: true, ..found(stamp(1, 1), in_flight(1), Duration::ZERO) };
    let claim = put(None, stamp(2, 1), in_flight(2));
    t.is_found("its writer is dead", key(1), &claim, left.clone()).await?;
    let page = t.scan(PhaseKind::InFlight, None, 10).await?;
    same("in a scan too", &page, &vec![(key(1), left.clone())])?;
    t.is_done("a new claim", key(2), &claim).await?;
    t.lives("its writer is alive", key(2), found_new(&claim)).await?;
    let take_over = put(Some(stamp(1, 1)), stamp(3, 1), in_flight(1));
    t.is_done("a take-over", key(1), &take_over).await?;
    t.lives("whoever took over is alive", key(1), found_new(&take_over)).await?;
    t.subject.reopen().await;
    for (n, by) in [(1, 3), (2, 2)] {
        let abandoned = t.load(key(n)).await?.map(|found| (found.stamp, found.abandoned));
        same("and now dead as well", &abandoned, &Some((stamp(by, 1), true)))?;
    }
    Ok(())
}
