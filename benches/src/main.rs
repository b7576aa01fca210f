//! What Semel costs, in one run, beside what it could cost at best and what others cost: `cargo xtask bench`.
//!
//! Every figure of the store is told beside R0, the number of 4 KiB durable writes per second that the same disk made
//! in the seconds around it, and judged as a ratio: disks differ, and the same disk differs from hour to hour.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are for people, and people read three digits"
)]

mod child;
mod gateway;
mod machine;
mod raw;
mod report;
mod seal;
mod shared;
mod stats;
mod store;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};

use crate::{machine::Machine, report::Report};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures.
    Run(Run),
    /// Fills a store, says so, and waits to be killed; started by `run`.
    Fill(child::Fill),
    /// Opens a store, says what that took, and ends; started by `run`.
    Open(child::Open),
}

#[derive(clap::Args)]
struct Run {
    /// What to measure.
    what: What,
    /// Mechanics only: the figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// The gateway's program.
    #[arg(long)]
    semel: PathBuf,
    /// Where to work; its file system is what is measured.
    #[arg(long)]
    folder: PathBuf,
    /// Where the figures of a whole run are kept.
    #[arg(long)]
    results: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Store,
    Gateway,
    Shared,
    All,
}

/// How long and how large everything is.
pub(crate) struct Scale {
    /// Runs of which the median is told.
    pub(crate) rounds: usize,
    /// One run of a store under load.
    pub(crate) store_run: Duration,
    /// One probe of the raw disk.
    pub(crate) probe: Duration,
    /// Records for memory, replay reads and expiry: a million.
    pub(crate) records: u64,
    /// Records for opening after a crash: five million.
    pub(crate) records_opened: u64,
    /// One run of the gateway under load.
    pub(crate) gateway_run: Duration,
    /// One run of a shared store, or of its server's own benchmark.
    pub(crate) shared_run: Duration,
}

const WHOLE: Scale = Scale {
    rounds: 3,
    store_run: Duration::from_millis(1_500),
    probe: Duration::from_millis(300),
    records: 1_000_000,
    records_opened: 5_000_000,
    gateway_run: Duration::from_secs(4),
    shared_run: Duration::from_secs(4),
};

const QUICK: Scale = Scale {
    rounds: 1,
    store_run: Duration::from_millis(300),
    probe: Duration::from_millis(100),
    records: 50_000,
    records_opened: 100_000,
    gateway_run: Duration::from_secs(1),
    shared_run: Duration::from_secs(1),
};

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Run(run) => measure(&run),
        Command::Fill(fill) => child::fill(&fill),
        Command::Open(open) => child::open(&open),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(run: &Run) -> anyhow::Result<()> {
    let scale = if run.quick { &QUICK } else { &WHOLE };
    fs::create_dir_all(&run.folder).with_context(|| format!("cannot make {}", run.folder.display()))?;
    // Removed when this is dropped, on errors too.
    let folder = tempfile::tempdir_in(&run.folder).context("cannot make a folder to work in")?;
    let mut report = Report::new(Machine::read(folder.path())?);
    let is_wanted = |what| [what, What::All].contains(&run.what);
    if is_wanted(What::Store) {
        store::measure(folder.path(), scale, &mut report)?;
    }
    if is_wanted(What::Gateway) {
        gateway::measure(folder.path(), &run.semel, scale, &mut report)?;
    }
    if is_wanted(What::Shared) {
        shared::measure(folder.path(), &run.semel, scale, &mut report)?;
    }
    let page = report.page();
    println!("\n{page}");
    let kept = run.what == What::All && !run.quick;
    let at = if kept { run.results.clone() } else { run.folder.join("RESULTS.md") };
    fs::write(&at, page).with_context(|| format!("cannot write {}", at.display()))?;
    println!("written to {}", at.display());
    Ok(())
}
