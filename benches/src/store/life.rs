//! A store's life: filled by a process that is killed, opened by another, read by a third.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use semel::store::{Store, Swapped, SystemClock};

use super::{load, shown, subject};
use crate::{
    Scale, child,
    report::{Bound, Report, Section, figure},
    stats::median,
};

/// Memory, replay reads, and opening after a crash.
pub(super) fn measure(folder: &Path, scale: &Scale, report: &mut Report) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for count in [scale.records, scale.records_opened] {
        eprintln!("store: {count} records, killed, opened");
        let folder = folder.join("life");
        fs::create_dir_all(&folder).context("cannot make a folder")?;
        let filled = child::fill_and_kill(&folder, count)?;
        let opened = (0..scale.rounds).map(|_| child::open_again(&folder, count)).collect::<Result<Vec<_>, _>>()?;
        // The first opens after a crash; the others find what the first one left tidy.
        let after_crash = opened[0].took;
        let memory = filled.memory_bytes.max(opened[0].memory_bytes);
        let mut cells = vec![
            count.to_string(),
            shown(filled.took),
            shown(after_crash),
            shown(Duration::from_secs_f64(median(opened.iter().map(|open| open.took.as_secs_f64())))),
            figure(filled.memory_bytes as f64 / 1e6),
            figure(opened[0].memory_bytes as f64 / 1e6),
            figure(folder_bytes(&folder)? as f64 / count as f64),
        ];
        if count == scale.records {
            let reads = reads_per_second(&folder, scale, count)?;
            cells.push(figure(reads));
            report.target(
                "replay reads/s, one thread",
                Bound::AtLeast(500_000.0),
                reads,
                format!("{count} records, page cache warm"),
            );
            report.target(
                format!("memory with {count} records, MB"),
                Bound::AtMost(150.0),
                memory as f64 / 1e6,
                "the larger of the process that filled and the one that opened",
            );
        } else {
            cells.push("-".to_owned());
            report.target(
                format!("opening {count} records after a crash, s"),
                Bound::AtMost(2.0),
                after_crash.as_secs_f64(),
                "killed with SIGKILL, page cache warm",
            );
        }
        rows.push(cells);
        fs::remove_dir_all(&folder).context("cannot remove a folder")?;
    }
    report.section(Section {
        title: "Store: filled, killed, opened, read",
        intro: "A process fills the store with a claim and a settle per record and is killed with SIGKILL; another opens it and checks a sample. Memory is what no file backs, of \
                the whole process. A replay read is a claim that finds a completed record, of random keys."
            .to_owned(),
        columns: vec![
            "records", "filled in", "opened after the crash", "median of openings", "MB when filled", "MB when opened", "B on disk per record", "replay reads/s",
        ],
        rows,
    });
    Ok(())
}

fn reads_per_second(folder: &Path, scale: &Scale, count: u64) -> anyhow::Result<f64> {
    let store = subject::open(folder, Arc::new(SystemClock::new()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("cannot start a reader")?;
    // The first of them warms up.
    let mut runs = Vec::new();
    for _ in 0..=scale.rounds {
        runs.push(runtime.block_on(read_for(&*store, count, scale.store_run))?);
    }
    Ok(median(runs.into_iter().skip(1)))
}

async fn read_for(store: &dyn Store, count: u64, duration: Duration) -> anyhow::Result<f64> {
    const AT_ONCE: u64 = 1_000;
    let claim = load::claim(u64::MAX);
    let started = Instant::now();
    let mut reads = 0;
    while started.elapsed() < duration {
        for _ in 0..AT_ONCE {
            reads += 1;
            let key = load::key(load::mix(reads) % count);
            match store.swap(&key, &claim).await? {
                Swapped::Found(_) => {}
                Swapped::Done | Swapped::Absent => bail!("a record that was settled is not there"),
            }
        }
    }
    Ok(reads as f64 / started.elapsed().as_secs_f64())
}

fn folder_bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { folder_bytes(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
