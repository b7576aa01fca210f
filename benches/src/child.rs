//! Processes of this same program: one fills a store and is killed, one opens what it left.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use semel::store::SystemClock;
use serde_json::{Value, json};

use crate::{machine::memory_bytes, store};

#[derive(clap::Args)]
pub(crate) struct Fill {
    folder: PathBuf,
    count: u64,
}

#[derive(clap::Args)]
pub(crate) struct Open {
    folder: PathBuf,
    count: u64,
}

/// What a child says of itself.
pub(crate) struct Told {
    /// Time of what it did.
    pub(crate) took: Duration,
    /// Its memory after it.
    pub(crate) memory_bytes: u64,
}

/// Lets a child fill the store with `count` records and kills it, its writes answered and nothing closed.
pub(crate) fn fill_and_kill(folder: &Path, count: u64) -> anyhow::Result<Told> {
    child("fill", folder, count)
}

/// Lets a child open the store and check some of its records.
pub(crate) fn open_again(folder: &Path, count: u64) -> anyhow::Result<Told> {
    child("open", folder, count)
}

/// The child that fills.
pub(crate) fn fill(args: &Fill) -> anyhow::Result<()> {
    let store = store::open(&args.folder, Arc::new(SystemClock::new()))?;
    let runtime = store::clients()?;
    let done = store::fill(&runtime, &store, args.count)?;
    ensure!(done.requests == args.count, "filled {} instead of {}", done.requests, args.count);
    tell(done.elapsed)?;
    loop {
        // Until it is killed: returning would close the store.
        thread::park();
    }
}

/// The child that opens.
pub(crate) fn open(args: &Open) -> anyhow::Result<()> {
    let started = Instant::now();
    let store = store::open(&args.folder, Arc::new(SystemClock::new()))?;
    let took = started.elapsed();
    tell(took)?;
    let runtime = store::clients()?;
    for n in 0..SAMPLE {
        let n = store::mix(n) % args.count;
        let found = runtime.block_on(store.load(&store::key(n)))?;
        ensure!(found.is_some(), "record {n} was answered for and is not there");
    }
    Ok(())
}

/// Records that the opening child looks up.
const SAMPLE: u64 = 1_000;

fn tell(took: Duration) -> anyhow::Result<()> {
    let told = json!({ "took_us": took.as_micros() as u64, "memory_bytes": memory_bytes(std::process::id()) });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{told}")?;
    out.flush().context("nobody listens")
}

fn child(command: &str, folder: &Path, count: u64) -> anyhow::Result<Told> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command_line = Command::new(program);
    command_line.arg(command).arg(folder).arg(count.to_string()).stdout(Stdio::piped());
    let mut child = command_line.spawn().context("cannot start a child")?;
    let mut line = String::new();
    let out = child.stdout.take().expect("its output is piped");
    let read = BufReader::new(out).read_line(&mut line);
    if command == "fill" {
        child.kill().context("cannot kill the child")?;
    }
    let status = child.wait().context("cannot wait for the child")?;
    read.context("cannot read what the child says")?;
    if line.is_empty() || (command == "open" && !status.success()) {
        bail!("the child that was to {command} a store failed ({status})");
    }
    let told: Value = serde_json::from_str(&line).context("the child does not speak JSON")?;
    let number = |name: &str| told[name].as_u64().with_context(|| format!("the child did not tell {name}"));
    Ok(Told { took: Duration::from_micros(number("took_us")?), memory_bytes: number("memory_bytes")? })
}
