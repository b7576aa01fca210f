//! `cargo xtask ci`: what CI runs, no more and no less. Fits two cores in 20 minutes.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{generate, shell, test, tidy};

/// Runs the stages in order and stops at the first that fails; the table of times comes in any case.
pub(crate) fn run() -> anyhow::Result<()> {
    let started = Instant::now();
    let mut times: Vec<(&str, Option<Duration>)> = Vec::new();
    let mut failure = None;
    for (name, stage) in STAGES {
        if failure.is_some() {
            times.push((name, None));
            continue;
        }
        println!("\n==== {name}");
        let stage_started = Instant::now();
        if let Err(error) = stage() {
            failure = Some((*name, error));
        }
        times.push((name, Some(stage_started.elapsed())));
        println!("==== {name}: {:.1} s", stage_started.elapsed().as_secs_f64());
    }

    println!("\n{:<10} {:>9}  result", "stage", "seconds");
    for (name, time) in times {
        let failed = failure.as_ref().is_some_and(|(at, _)| *at == name);
        match time {
            Some(time) => println!("{name:<10} {:>9.1}  {}", time.as_secs_f64(), if failed { "FAILED" } else { "ok" }),
            None => println!("{name:<10} {:>9}  not run", "-"),
        }
    }
    println!("{:<10} {:>9.1}", "all", started.elapsed().as_secs_f64());
    match failure {
        None => Ok(()),
        Some((name, error)) => Err(error.context(format!("stage {name} failed"))),
    }
}

type Stage = fn() -> anyhow::Result<()>;

/// Cheap ones first, so that a small mistake is told early.
const STAGES: &[(&str, Stage)] = &[
    ("fmt", fmt),
    ("tidy", tidy::run),
    ("clippy", clippy),
    ("features", features),
    ("doc", doc),
    ("test", || test::run(&test::Args::default())),
    ("generate", || generate::run(&generate::Args::check())),
    ("demo", demo),
];

fn fmt() -> anyhow::Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> anyhow::Result<()> {
    let what = ["clippy", "--workspace", "--all-targets", "--all-features", "--quiet"];
    shell::run(shell::cargo().args(what).args(["--", "-D", "warnings"]))
}

/// The library as its users may take it: without the embedded store, and without the test kit.
fn features() -> anyhow::Result<()> {
    for features in [&["--no-default-features"][..], &["--no-default-features", "--features", "testkit"], &[]] {
        let check = ["clippy", "--package", "semel", "--quiet"];
        shell::run(shell::cargo().args(check).args(features).args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

fn doc() -> anyhow::Result<()> {
    // Apart, since library and program have one name and so one folder; the library's pages are those that stay.
    for what in [&["--package", "semel-cli"][..], &["--workspace", "--exclude", "semel-cli", "--all-features"]] {
        let doc = ["doc", "--no-deps", "--quiet"];
        shell::run(shell::cargo().args(doc).args(what).env("RUSTDOCFLAGS", "-D warnings"))?;
    }
    Ok(())
}

/// The first command of the README, and what it promises: no double charge with Semel. It is built with less optimisation
/// than by that command, to save time.
fn demo() -> anyhow::Result<()> {
    let mut build = shell::cargo();
    build.args(["build", "--release", "--quiet", "--bin", "semel"]);
    let less = [("OPT_LEVEL", "1"), ("DEBUG", "0")];
    build.envs(less.map(|(name, value)| (format!("CARGO_PROFILE_RELEASE_{name}"), value)));
    shell::run(&mut build)?;
    // In a folder of its own, so that what it keeps is neither found nor left in the checkout.
    let folder = shell::target().join("ci-demo");
    fs::create_dir_all(&folder).context("cannot make a folder for the demo")?;
    let semel = shell::target().join("release/semel");
    if !semel.is_file() {
        bail!("{} was not built", semel.display());
    }
    shell::run(Command::new(semel).args(["demo", "--exit"]).current_dir(folder))
}
