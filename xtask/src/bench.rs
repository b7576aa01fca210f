//! `cargo xtask bench`: installs the rivals, builds for release, and lets `semel-bench` measure.

use std::process::Command;

use crate::{
    shell,
    tools::{self, NeededBy},
};

/// What `bench` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Mechanics only, in less than two minutes: the figures mean nothing and are not kept.
    #[arg(long)]
    quick: bool,
    /// What to measure.
    #[arg(value_parser = ["store", "gateway", "all"], default_value = "all")]
    what: String,
}

/// Measures on the file system that holds `target/`.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    tools::ensure(NeededBy::Bench)?;
    shell::stage("build for release");
    shell::run(shell::cargo().args(["build", "--release", "--package", "semel-bench", "--package", "semel-cli"]))?;
    shell::stage("measure");
    let release = shell::root().join("target/release");
    let mut bench = Command::new(release.join("semel-bench"));
    bench.current_dir(shell::root()).arg("run").arg(&args.what).arg("--semel").arg(release.join("semel"));
    bench.arg("--folder").arg(shell::root().join("target/bench"));
    bench.arg("--results").arg(shell::root().join("benches/RESULTS.md"));
    if args.quick {
        bench.arg("--quick");
    }
    shell::run(&mut bench)
}
