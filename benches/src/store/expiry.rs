//! What dropping a million expired records costs those who come meanwhile.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use semel::store::{SimulatedClock, Store};

use super::{load, shown, subject};
use crate::{
    Scale,
    report::{Bound, Report, Section, figure},
    stats::{Latencies, median},
};

/// Requests at once while the records are dropped.
const CONCURRENCY: usize = 16;
/// Records that one call may drop.
const SWEEP_LIMIT: u32 = 10_000;

struct Round {
    dropped: u64,
    sweep: Duration,
    before: Latencies,
    during: Latencies,
}

/// p99 of requests before and during.
pub(super) fn measure(folder: &Path, scale: &Scale, report: &mut Report) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut ratios = Vec::new();
    for round in 0..scale.rounds {
        eprintln!("store: dropping {} expired records, round {}", scale.records, round + 1);
        let folder = folder.join("expiry");
        fs::create_dir_all(&folder).context("cannot make a folder")?;
        let round = one_round(&folder, scale)?;
        let (before, during) = (round.before.percentile_us(0.99), round.during.percentile_us(0.99));
        ratios.push(during / before);
        rows.push(vec![
            round.dropped.to_string(),
            shown(round.sweep),
            round.during.count().to_string(),
            figure(before / 1e3),
            figure(during / 1e3),
            figure(during / before),
            figure(round.during.percentile_us(1.0) / 1e3),
        ]);
        fs::remove_dir_all(&folder).context("cannot remove a folder")?;
    }
    let beside = format!("{CONCURRENCY} keys at once, median of {} rounds", scale.rounds);
    report.target(
        format!("p99 while {} records are dropped ÷ before", scale.records),
        Bound::AtMost(2.0),
        median(ratios),
        beside,
    );
    report.section(Section {
        title: "Store: dropping expired records",
        intro: format!(
            "A simulated clock passes the retention of all records; `sweep({SWEEP_LIMIT})` is called until nothing is \
             left, while {CONCURRENCY} clients claim and settle."
        ),
        columns: vec![
            "dropped",
            "sweep took",
            "requests meanwhile",
            "p99 before, ms",
            "p99 during, ms",
            "ratio",
            "slowest during, ms",
        ],
        rows,
    });
    Ok(())
}

/// Drops every record past its retention; says how many, and how long that took.
pub(super) fn sweep_all(store: &dyn Store) -> anyhow::Result<(u64, Duration)> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().context("cannot start a sweeper")?;
    let started = Instant::now();
    let mut dropped = 0;
    loop {
        let some = runtime.block_on(store.sweep(SWEEP_LIMIT))?;
        dropped += u64::from(some);
        if some < SWEEP_LIMIT {
            return Ok((dropped, started.elapsed()));
        }
    }
}

fn one_round(folder: &Path, scale: &Scale) -> anyhow::Result<Round> {
    // Any day will do; what was written at it is a day old after the advance below.
    let clock = Arc::new(SimulatedClock::at(1_800_000_000_000));
    let store = subject::open(folder, clock.clone())?;
    let runtime = load::clients()?;
    load::fill(&runtime, &store, scale.records)?;
    let keys = Arc::new(AtomicU64::new(scale.records));
    let before = load::run_for(&runtime, &store, &keys, CONCURRENCY, scale.store_run)?.latencies;
    let expired = keys.load(Ordering::Relaxed);
    clock.advance(load::RETENTION + Duration::from_hours(1));

    let swept = Arc::new(AtomicBool::new(false));
    let sweeper = {
        let (store, swept) = (store.clone(), swept.clone());
        thread::spawn(move || {
            let done = sweep_all(&*store);
            swept.store(true, Ordering::Relaxed);
            done
        })
    };
    let during = load::run_until(&runtime, &store, &keys, CONCURRENCY, swept)?.latencies;
    let (dropped, sweep) = sweeper.join().expect("the sweeper does not panic")?;
    anyhow::ensure!(dropped >= expired / 2, "only {dropped} of {expired} expired records were dropped");
    Ok(Round { dropped, sweep, before, during })
}
