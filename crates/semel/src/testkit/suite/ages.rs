//! Ages, and what they take away.

use std::time::Duration;

use semel_core::record::Phase;

use super::{
    Case, Failure, Need, same,
    trial::{Trial, found, found_new},
};
use crate::{
    store::{PhaseKind, Record, Swap},
    testkit::{
        Harness, Keeps,
        sample::{completed, in_flight, key, omitted, put, remove, sealed, stamp, unknown},
    },
};

const MS: Duration = Duration::from_millis(1);

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a record lives until its retention, and not a millisecond longer",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(retention(h)),
    },
    Case {
        name: "past its retention a record is absent to every question",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(past_retention(h)),
    },
    Case {
        name: "content goes at replay_for, and the fact stays",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(trimming(h)),
    },
    Case {
        name: "content that may never be replayed is never shown",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(never_replayed(h)),
    },
    Case {
        name: "a sweep that trims content leaves stamp, age and retention",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(trimming_by_sweep(h)),
    },
    Case {
        name: "an age is the time since the write, by the store's clock",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(ages(h)),
    },
    Case {
        name: "every write starts the age and the retention again",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(ages_start_again(h)),
    },
    Case {
        name: "an in-flight record outlives its lease",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(past_lease(h)),
    },
    Case {
        name: "a retention of a century is kept",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(century(h)),
    },
];

fn living(record: Record, retention: Duration) -> Record {
    Record { retention, ..record }
}

fn replayable(content: &'static str, replay_for: Duration, retention: Duration) -> Record {
    let phase = Phase::Completed { kept: sealed(202, content), replay_for };
    Record { phase, retention, ..completed(1, "") }
}

async fn retention(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let lives = Duration::from_mins(1);
    let records = [in_flight(1), unknown(1), omitted(1), completed(1, "done")].map(|record| living(record, lives));
    for (n, record) in (1..).zip(records) {
        let write = put(None, stamp(n, 1), record.clone());
        t.is_done("nothing was there", key(n), &write).await?;
        t.advance(lives.saturating_sub(MS)).await;
        let claim = put(None, stamp(n, 2), in_flight(n));
        t.is_found("at 59.999 s", key(n), &claim, found(stamp(n, 1), record, lives.saturating_sub(MS))).await?;
        t.advance(MS).await;
        t.nothing_lives("at 60 s", key(n)).await?;
        t.is_done("at 60 s the key is free", key(n), &claim).await?;
        t.lives("and the claim on it is new", key(n), found_new(&claim)).await?;
    }
    Ok(())
}

async fn past_retention(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let lives = Duration::from_secs(1);
    let claim = put(None, stamp(1, 1), living(in_flight(1), lives));
    t.is_done("claim", key(1), &claim).await?;
    t.advance(lives).await;
    t.nothing_lives("load", key(1)).await?;
    same("scan", &t.scan(PhaseKind::InFlight, None, 10).await?, &Vec::new())?;
    t.is_absent("settle", key(1), &put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "late"))).await?;
    t.is_absent("release", key(1), &remove(stamp(1, 1))).await?;
    t.is_done("deciding read", key(1), &Swap { expect: None, put: None }).await?;
    t.is_done("the same claim again is a new write", key(1), &claim).await?;
    t.lives("and young", key(1), found_new(&claim)).await?;

    let settle = put(Some(stamp(1, 1)), stamp(1, 2), living(completed(1, "done"), lives));
    t.is_done("settle", key(1), &settle).await?;
    t.advance(lives).await;
    t.is_absent("the same settle again finds neither its claim nor itself", key(1), &settle).await
}

async fn trimming(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let (replay_for, lives) = (Duration::from_secs(10), Duration::from_secs(100));
    let record = replayable("a reply", replay_for, lives);
    t.is_done("nothing was there", key(1), &put(None, stamp(1, 1), record.clone())).await?;
    let claim = put(None, stamp(2, 1), in_flight(1));
    let mut age = Duration::ZERO;
    for until in [replay_for.saturating_sub(MS), replay_for, lives.saturating_sub(MS)] {
        t.advance(until.saturating_sub(age)).await;
        age = until;
        let expected = found(stamp(1, 1), record.clone(), age);
        t.is_found("as its age leaves it", key(1), &claim, expected.clone()).await?;
        let page = t.scan(PhaseKind::Completed, None, 10).await?;
        same("in a scan too", &page, &vec![(key(1), expected)])?;
    }
    t.advance(MS).await;
    t.nothing_lives("past its retention", key(1)).await
}

async fn never_replayed(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let record = replayable("not for retries", Duration::ZERO, Duration::from_secs(100));
    t.is_done("nothing was there", key(1), &put(None, stamp(1, 1), record.clone())).await?;
    t.lives("from the beginning", key(1), found(stamp(1, 1), record, Duration::ZERO)).await
}

async fn trimming_by_sweep(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let (replay_for, lives) = (Duration::from_secs(10), Duration::from_secs(100));
    let record = replayable("a reply", replay_for, lives);
    t.is_done("nothing was there", key(1), &put(None, stamp(1, 1), record.clone())).await?;
    let mut age = Duration::ZERO;
    for until in [replay_for, Duration::from_secs(50), lives.saturating_sub(MS)] {
        t.advance(until.saturating_sub(age)).await;
        age = until;
        t.sweeps("nothing is past its retention", 0).await?;
        t.lives("after a sweep", key(1), found(stamp(1, 1), record.clone(), age)).await?;
    }
    let again = put(None, stamp(1, 1), record);
    t.is_done("the same stamp again is done, trimmed or not", key(1), &again).await?;
    t.advance(MS).await;
    t.nothing_lives("past its retention", key(1)).await?;
    t.sweeps("and then it is swept", 1).await
}

async fn ages(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let writes = [put(None, stamp(1, 1), in_flight(1)), put(None, stamp(2, 1), completed(2, "done"))];
    t.is_done("the first", key(1), &writes[0]).await?;
    t.advance(Duration::from_millis(1_234)).await;
    t.is_done("the second, later", key(2), &writes[1]).await?;
    t.advance(Duration::from_mins(1)).await;
    let first = found(stamp(1, 1), in_flight(1), Duration::from_millis(61_234));
    let second = found(stamp(2, 1), completed(2, "done"), Duration::from_mins(1));
    let claim = put(None, stamp(3, 1), in_flight(3));
    t.is_found("the first", key(1), &claim, first).await?;
    t.is_found("the second", key(2), &claim, second).await
}

async fn ages_start_again(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let seconds = Duration::from_secs;
    // The lives of claim and settle, and when they are written: once a longer life follows a shorter, once the reverse.
    for (n, claim_lives, settle_lives) in [(1, seconds(10), seconds(20)), (2, seconds(100), seconds(5))] {
        let claim = put(None, stamp(n, 1), living(in_flight(n), claim_lives));
        t.is_done("claim", key(n), &claim).await?;
        t.advance(seconds(9)).await;
        let record = living(completed(n, "done"), settle_lives);
        t.is_done("settle", key(n), &put(Some(stamp(n, 1)), stamp(n, 2), record.clone())).await?;
        t.lives("its age starts again", key(n), found(stamp(n, 2), record.clone(), Duration::ZERO)).await?;
        t.advance(settle_lives.saturating_sub(MS)).await;
        t.sweeps("nothing to sweep", 0).await?;
        t.lives("to the end", key(n), found(stamp(n, 2), record, settle_lives.saturating_sub(MS))).await?;
        t.advance(MS).await;
        t.nothing_lives("past the retention of the settle", key(n)).await?;
        t.sweeps("swept once", 1).await?;
    }
    Ok(())
}

async fn past_lease(h: &dyn Harness) -> Result<(), Failure> {
    // `peers.md` #15: in progress without expiry taken for an orphan. What a lease means is not the store's business.
    let t = Trial::of(h).await;
    for (n, lease) in [(1, Duration::ZERO), (2, Duration::from_secs(35))] {
        let record = living(Record { phase: Phase::InFlight { lease }, ..in_flight(n) }, Duration::from_secs(1_000));
        t.is_done("claim", key(n), &put(None, stamp(n, 1), record.clone())).await?;
        let mut age = Duration::ZERO;
        for until in [lease, lease + MS, Duration::from_secs(999)] {
            t.advance(until.saturating_sub(age)).await;
            age = until;
            t.sweeps("nothing to sweep", 0).await?;
            let claim = put(None, stamp(n, 2), in_flight(n));
            t.is_found("a claim", key(n), &claim, found(stamp(n, 1), record.clone(), age)).await?;
        }
        t.is_done("its owner settles late", key(n), &remove(stamp(n, 1))).await?;
    }
    Ok(())
}

async fn century(h: &dyn Harness) -> Result<(), Failure> {
    let t = Trial::of(h).await;
    let year = Duration::from_hours(24 * 365);
    let record = living(completed(1, "done"), 100 * year);
    t.is_done("nothing was there", key(1), &put(None, stamp(1, 1), record.clone())).await?;
    for age in 1..=3 {
        t.advance(year).await;
        t.sweep_all().await?;
        t.lives("years later", key(1), found(stamp(1, 1), record.clone(), age * year)).await?;
    }
    Ok(())
}
