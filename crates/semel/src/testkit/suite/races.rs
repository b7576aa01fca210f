//! Many writers at once. What they were answered must be explained by one order of their swaps.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Barrier, task::JoinSet};

use super::{Case, Failure, Need, same, trial::Trial};
use crate::{
    store::{Found, Record, RecordKey, Stamp, Store, Swapped},
    testkit::{
        Harness, Keeps,
        prng::Prng,
        sample::{completed, in_flight, key, put, remove, stamp},
    },
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "of 64 claims that start together, one wins and all others are told of it",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(claims_together(h)),
    },
    Case {
        name: "a claim asked several times at once by its writer is done every time",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(one_writer_asks_at_once(h)),
    },
    Case {
        name: "racing swaps form one chain per key, in an order that time allows",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(chain(h)),
    },
    Case {
        name: "racing swaps and releases form one chain per key",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(chain_with_releases(h)),
    },
    Case {
        name: "a load sees the last swap that was confirmed to anybody before it was asked",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(loads_race_swaps(h)),
    },
    Case {
        name: "a sweep that races with claims removes none of them",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(sweep_races_claims(h)),
    },
];

async fn claims_together(h: &dyn Harness) -> Result<(), Failure> {
    // `peers.md` #8: check-then-set, and 3 of 3 run.
    const CLAIMS: u64 = 64;
    let t = Trial::of(h).await;
    for round in 0..10 {
        let barrier = Arc::new(Barrier::new(64));
        let mut claims = JoinSet::new();
        for n in 0..CLAIMS {
            let store = t.handles()[usize::from(n % 2 == 1)].clone();
            let barrier = barrier.clone();
            claims.spawn(async move {
                let mine = stamp(round * CLAIMS + n, 1);
                barrier.wait().await;
                (mine, store.swap(&key(round), &put(None, mine, in_flight(n))).await)
            });
        }
        let (mut won, mut told) = (Vec::new(), Vec::new());
        while let Some(claim) = claims.join_next().await {
            let (mine, answer) = claim.map_err(Failure::new)?;
            match answer? {
                Swapped::Done => won.push(mine),
                Swapped::Found(found) => told.push(found.stamp),
                Swapped::Absent => return Err(Failure::new("a claim expects nothing and cannot miss it")),
            }
        }
        same("winners", &won.len(), &1)?;
        same("all others are told of the winner", &told, &vec![won[0]; 63])?;
        let lives = t.load(key(round)).await?.map(|found| found.stamp);
        same("the winner lives", &lives, &Some(won[0]))?;
    }
    Ok(())
}

async fn one_writer_asks_at_once(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    for n in 0..20 {
        let writes = [put(None, stamp(n, 1), in_flight(n)), put(Some(stamp(n, 1)), stamp(n, 2), completed(n, "done"))];
        for swap in writes {
            let barrier = Arc::new(Barrier::new(8));
            let mut copies = JoinSet::new();
            for copy in 0..8 {
                let (store, barrier, swap) = (t.handles()[copy % 2].clone(), barrier.clone(), swap.clone());
                copies.spawn(async move {
                    barrier.wait().await;
                    store.swap(&key(n), &swap).await
                });
            }
            while let Some(answer) = copies.join_next().await {
                same("every copy", &answer.map_err(Failure::new)??, &Swapped::Done)?;
            }
        }
    }
    Ok(())
}

async fn chain(h: &dyn Harness) -> Result<(), Failure> {
    race(&Trial::of(h).await, Writers::Replace).await
}

async fn chain_with_releases(h: &dyn Harness) -> Result<(), Failure> {
    race(&Trial::of(h).await, Writers::ReplaceAndRelease).await
}

async fn sweep_races_claims(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let short = Duration::from_secs(1);
    // At once, and in many small steps.
    for (round, limit) in (0..6).zip([1_000, 3].into_iter().cycle()) {
        let keys = || (0..40).map(move |n| (round * 100 + n, key(n)));
        for (n, key) in keys() {
            let past = Record { retention: short, ..in_flight(n) };
            t.is_done("a claim to be forgotten", key, &put(None, stamp(n, 1), past)).await?;
        }
        t.advance(short).await;

        let (sweeps, claimed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let sweeper = tokio::spawn({
            let (store, sweeps, claimed) = (t.store(), sweeps.clone(), claimed.clone());
            async move {
                while !claimed.load(Ordering::SeqCst) {
                    sweeps.fetch_add(1, Ordering::SeqCst);
                    store.sweep(limit).await?;
                    tokio::task::yield_now().await;
                }
                store.sweep(1_000).await
            }
        });
        let mut answers = Vec::new();
        while sweeps.load(Ordering::SeqCst) == 0 && !sweeper.is_finished() {
            tokio::task::yield_now().await;
        }
        for (n, key) in keys() {
            answers.push(t.swap(key, &put(None, stamp(n, 2), in_flight(n))).await);
        }
        claimed.store(true, Ordering::SeqCst);
        sweeper.await.map_err(Failure::new)??;
        for ((n, key), answer) in keys().zip(answers) {
            same("what is past its retention is free", &answer?, &Swapped::Done)?;
            let lives = t.load(key).await?.map(|found| found.stamp);
            same("the claim lives on", &lives, &Some(stamp(n, 2)))?;
            t.is_done("its owner releases it", key, &remove(stamp(n, 2))).await?;
        }
    }
    Ok(())
}

/// Whether a guard is taken over is decided by a load: it must neither show what was already replaced, nor miss a claim
/// that was already confirmed.
async fn loads_race_swaps(h: &dyn Harness) -> Result<(), Failure> {
    const WRITES: u16 = 400;
    let t = Trial::of(h).await;
    let [writing, reading] = t.handles();
    // The last write that was confirmed, and the last that was asked for: a load is somewhere between them.
    let (confirmed, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let barrier = Arc::new(Barrier::new(4));
    let writer = tokio::spawn({
        let (confirmed, asked, reading, barrier) = (confirmed.clone(), asked.clone(), reading.clone(), barrier.clone());
        async move {
            barrier.wait().await;
            for n in 1..=WRITES {
                asked.store(n.into(), Ordering::SeqCst);
                // Every third write is a release, as of a guard's owner.
                let expect = (n % 3 != 1).then(|| stamp(1, n - 1));
                let swap = match expect {
                    Some(expect) if n % 3 == 0 => remove(expect),
                    Some(_) | None => put(expect, stamp(1, n), in_flight(1)),
                };
                same("the only writer", &writing.swap(&key(1), &swap).await?, &Swapped::Done)?;
                confirmed.store(n.into(), Ordering::SeqCst);
                let found = reading.load(&key(1)).await?.map(|found| found.stamp.write);
                same("after its confirmation", &found, &(n % 3 != 0).then_some(n))?;
            }
            Ok::<(), Failure>(())
        }
    });
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, confirmed, asked) = (reading.clone(), confirmed.clone(), asked.clone());
            let barrier = barrier.clone();
            tokio::spawn(async move {
                barrier.wait().await;
                while confirmed.load(Ordering::SeqCst) < u64::from(WRITES) {
                    let before = confirmed.load(Ordering::SeqCst);
                    let found = store.load(&key(1)).await?.map(|found| u64::from(found.stamp.write));
                    let after = asked.load(Ordering::SeqCst);
                    let is_seen = (before..=after).any(|n| found == (n % 3 != 0).then_some(n));
                    if !is_seen {
                        let what = format!("{found:?} was loaded between the writes {before} and {after}");
                        return Err(Failure::new(what));
                    }
                    tokio::task::yield_now().await;
                }
                Ok(())
            })
        })
        .collect();
    let written = writer.await.map_err(Failure::new)?;
    // Whoever reads would wait for a writer that failed.
    confirmed.store(WRITES.into(), Ordering::SeqCst);
    written?;
    for reader in readers {
        reader.await.map_err(Failure::new)??;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Writers {
    Replace,
    ReplaceAndRelease,
}

/// One swap that was answered, and the ticks of a common counter before it was asked and after it was answered.
#[derive(Clone, Debug)]
struct Asked {
    expect: Option<Stamp>,
    put: Option<Stamp>,
    answer: Swapped,
    began: u64,
    over: u64,
}

const TASKS: u64 = 8;
const ROUNDS: u16 = 60;
const KEYS: u64 = 3;

async fn race(t: &Trial, writers: Writers) -> Result<(), Failure> {
    let ticks = Arc::new(AtomicU64::new(0));
    let barrier = Arc::new(Barrier::new(8));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (store, ticks, barrier) = (t.handles()[usize::from(task % 2 == 1)].clone(), ticks.clone(), barrier.clone());
        tasks.spawn(async move {
            barrier.wait().await;
            write_in_a_race(store, writers, task, &ticks).await
        });
    }
    let mut by_key: BTreeMap<RecordKey, Vec<Asked>> = BTreeMap::new();
    while let Some(task) = tasks.join_next().await {
        for (key, asked) in task.map_err(Failure::new)?? {
            by_key.entry(key).or_default().push(asked);
        }
    }
    for (key, swaps) in by_key {
        let last = t.load(key).await?;
        one_order_explains(&swaps, last.map(|found| found.stamp))?;
    }
    Ok(())
}

async fn write_in_a_race(
    store: Arc<dyn Store>,
    writers: Writers,
    task: u64,
    ticks: &AtomicU64,
) -> Result<Vec<(RecordKey, Asked)>, Failure> {
    let mut prng = Prng::seeded(task);
    let mut believed: HashMap<RecordKey, Stamp> = HashMap::new();
    let mut log = Vec::new();
    for round in 1..=ROUNDS {
        let key = key(prng.below(KEYS));
        let expect = believed.get(&key).copied();
        let swap = match (writers, expect) {
            (Writers::ReplaceAndRelease, Some(expect)) if prng.below(3) == 0 => remove(expect),
            (Writers::Replace | Writers::ReplaceAndRelease, expect) => put(expect, stamp(task, round), in_flight(task)),
        };
        let wrote = swap.put.as_ref().map(|put| put.stamp);
        // Now and then the writer behaves as if the answer had been lost. What expects nothing, or puts nothing, is
        // rightly done once more when others released the key in between, so it could not be counted.
        let copies = if wrote.is_some() && expect.is_some() && prng.below(4) == 0 { 2 } else { 1 };
        for copy in 1..=copies {
            let began = ticks.fetch_add(1, Ordering::SeqCst);
            let answer = store.swap(&key, &swap).await?;
            let over = ticks.fetch_add(1, Ordering::SeqCst);
            match (&answer, wrote) {
                (Swapped::Done, Some(stamp)) => believed.insert(key, stamp),
                (Swapped::Found(found), _) => believed.insert(key, found.stamp),
                (Swapped::Done, None) | (Swapped::Absent, _) => believed.remove(&key),
            };
            let again = copy == 2 && matches!(answer, Swapped::Done);
            if !again {
                log.push((key, Asked { expect: swap.expect, put: wrote, answer, began, over }));
            }
        }
    }
    Ok(log)
}

/// Whether swaps on one key, `last` being what lives there in the end, are those of a register on which they came one
/// after another, each at a moment between its question and its answer.
fn one_order_explains(swaps: &[Asked], last: Option<Stamp>) -> Result<(), Failure> {
    let won: Vec<&Asked> = swaps.iter().filter(|swap| matches!(swap.answer, Swapped::Done)).collect();
    let writer_of: HashMap<Stamp, &Asked> = won.iter().filter_map(|swap| Some((swap.put?, *swap))).collect();
    let mut replaced_by: HashMap<Stamp, &Asked> = HashMap::new();
    for swap in &won {
        let Some(expect) = swap.expect else { continue };
        let Some(writer) = writer_of.get(&expect) else {
            return Err(Failure::new(format!("{swap:?} replaced what nobody wrote")));
        };
        if swap.over < writer.began {
            return Err(Failure::new(format!("{swap:?} was over before {writer:?}, which it replaced, began")));
        }
        if let Some(other) = replaced_by.insert(expect, swap) {
            return Err(Failure::new(format!("two swaps replaced the same write: {swap:?} and {other:?}")));
        }
    }
    let beginnings = won.iter().filter(|swap| swap.expect.is_none()).count();
    let endings = won.iter().filter(|swap| swap.put.is_none()).count();
    let still_there = beginnings.checked_sub(endings);
    same("what began and did not end", &still_there, &Some(usize::from(last.is_some())))?;
    let unreplaced: Vec<Stamp> = writer_of.keys().filter(|stamp| !replaced_by.contains_key(stamp)).copied().collect();
    same("what lives is what nobody replaced", &unreplaced, &last.into_iter().collect())?;

    for begin in won.iter().filter(|swap| swap.expect.is_none()) {
        let mut latest_question = begin.began;
        let mut at = *begin;
        while let Some(next) = at.put.and_then(|stamp| replaced_by.get(&stamp)) {
            if next.over < latest_question {
                return Err(Failure::new(format!("{next:?} was over before one that it follows began")));
            }
            latest_question = latest_question.max(next.began);
            at = next;
        }
    }
    for swap in swaps {
        if matches!(swap.answer, Swapped::Absent) && swap.expect.is_none() {
            return Err(Failure::new(format!("{swap:?} missed what it did not expect")));
        }
        if let Swapped::Found(Found { stamp, .. }) = &swap.answer {
            if swap.expect == Some(*stamp) || swap.put == Some(*stamp) {
                return Err(Failure::new(format!("{swap:?} found what makes it done")));
            }
            let Some(writer) = writer_of.get(stamp) else {
                return Err(Failure::new(format!("{swap:?} found what nobody wrote")));
            };
            if swap.over < writer.began {
                return Err(Failure::new(format!("{swap:?} found the future: {writer:?}")));
            }
            if let Some(next) = replaced_by.get(stamp)
                && next.over < swap.began
            {
                return Err(Failure::new(format!("{swap:?} found what was gone before it asked: {next:?}")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swap(expect: Option<u64>, put: Option<u64>, answer: Swapped, began: u64, over: u64) -> Asked {
        let stamp = |n| stamp(n, 1);
        Asked { expect: expect.map(stamp), put: put.map(stamp), answer, began, over }
    }

    fn found(n: u64) -> Swapped {
        Swapped::Found(Found { stamp: stamp(n, 1), age: Duration::ZERO, abandoned: false, record: in_flight(n) })
    }

    #[test]
    fn one_order_is_found_where_there_is_one() {
        use Swapped::{Absent, Done};
        #[rustfmt::skip]
        let cases: &[(&str, Vec<Asked>, Option<u64>)] = &[
            ("ok", vec![], None),
            ("ok", vec![swap(None, Some(1), Done, 0, 1), swap(Some(1), Some(2), Done, 2, 3)], Some(2)),
            ("ok", vec![swap(None, Some(1), Done, 0, 9), swap(Some(1), None, Done, 1, 2), swap(Some(1), Some(2), Absent, 3, 4)], None),
            ("ok", vec![swap(None, Some(1), Done, 0, 5), swap(None, Some(2), found(1), 1, 2)], Some(1)),
            ("replaced what nobody wrote", vec![swap(Some(7), Some(1), Done, 0, 1)], Some(1)),
            ("replaced the same write", vec![swap(None, Some(1), Done, 0, 1), swap(Some(1), Some(2), Done, 2, 3), swap(Some(1), Some(3), Done, 4, 5)], Some(3)),
            ("began and did not end", vec![swap(None, Some(1), Done, 0, 1), swap(None, Some(2), Done, 2, 3)], Some(2)),
            ("began and did not end", vec![swap(None, Some(1), Done, 0, 1)], None),
            ("what nobody replaced", vec![swap(None, Some(1), Done, 0, 1), swap(Some(1), Some(2), Done, 2, 3)], Some(1)),
            ("which it replaced, began", vec![swap(None, Some(1), Done, 2, 3), swap(Some(1), Some(2), Done, 0, 1)], Some(2)),
            ("one that it follows began", vec![swap(None, Some(1), Done, 3, 9), swap(Some(1), Some(2), Done, 0, 8), swap(Some(2), Some(3), Done, 1, 2)], Some(3)),
            ("missed what it did not expect", vec![swap(None, Some(1), Absent, 0, 1)], None),
            ("makes it done", vec![swap(None, Some(1), Done, 0, 1), swap(Some(1), Some(2), found(1), 2, 3)], Some(1)),
            ("makes it done", vec![swap(None, Some(1), Done, 0, 1), swap(None, Some(1), found(1), 2, 3)], Some(1)),
            ("found what nobody wrote", vec![swap(None, Some(2), found(1), 0, 1)], None),
            ("found the future", vec![swap(None, Some(1), Done, 2, 3), swap(None, Some(2), found(1), 0, 1)], Some(1)),
            ("gone before it asked", vec![swap(None, Some(1), Done, 0, 1), swap(Some(1), None, Done, 2, 3), swap(None, Some(2), found(1), 4, 5)], None),
        ];
        for (expected, swaps, last) in cases {
            let verdict = one_order_explains(swaps, last.map(|n| stamp(n, 1)));
            let text = verdict.map_or_else(|failure| failure.to_string(), |()| "ok".to_owned());
            assert!(text.contains(expected), "expected {expected}, got {text}, of {swaps:?}");
        }
    }
}
