//! `cargo xtask bench`: installs the rivals, builds what is shipped, and lets `semel-bench` measure.

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
    #[arg(value_parser = ["store", "gateway", "shared", "all"], default_value = "all")]
    what: String,
}

/// Measures on the file system that holds `target/`.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    tools::ensure(NeededBy::Bench)?;
    shell::stage("build as for shipping");
    shell::run(shell::cargo().args([
        "build",
        "--profile",
        "dist",
        "--package",
        "semel-bench",
        "--package",
        "semel-cli",
    ]))?;
    shell::stage("measure");
    let built = shell::target().join("dist");
    let mut bench = Command::new(built.join("semel-bench"));
    bench.current_dir(shell::root()).arg("run").arg(&args.what).arg("--semel").arg(built.join("semel"));
    bench.arg("--folder").arg(shell::target().join("bench"));
    bench.arg("--results").arg(shell::root().join("benches/RESULTS.md"));
    if args.quick {
        bench.arg("--quick");
    }
    shell::run(&mut bench)
}
