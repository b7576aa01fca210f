//! `cargo xtask test`: everything that a fresh machine needs to run every test.

use crate::{
    npm, python, shell,
    tools::{self, NeededBy},
    typescript,
};

/// What `test` takes.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Long campaigns: more kills, a larger model, more generated cases. Hours rather than minutes.
    #[arg(long)]
    long: bool,
    /// For the test programs: a name to filter by, or their own flags.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Installs, builds, runs.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    tools::ensure(NeededBy::Test)?;
    shell::stage("build the tests and the programs that they start");
    // The same packages and profile as the run below: anything narrower would unify features in another way and
    // build half of the tree twice.
    shell::run(shell::cargo().args(["test", "--workspace", "--no-run", "--quiet"]))?;
    shell::stage("test");
    let mut tests = shell::cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]);
    if !args.rest.is_empty() {
        tests.arg("--").args(&args.rest);
    }
    if args.long {
        for (name, value) in LONG {
            println!("   {name}={value}");
            tests.env(name, value);
        }
    }
    shell::run(&mut tests)?;
    // A filter is for the test programs.
    if args.rest.is_empty() {
        python::test()?;
        typescript::test()?;
        shell::stage("test the console in a browser");
        npm::test(&shell::root().join("tests/console"))?;
    }
    Ok(())
}

/// What the tests read to decide how far to go; each has a default that fits CI.
const LONG: &[(&str, &str)] = &[
    ("SEMEL_MODEL", "long"),
    ("SEMEL_KILLS", "300"),
    ("PROPTEST_CASES", "20000"),
    ("SEMEL_CONSOLE_RECORDS", "1000000"),
];
