//! The developer's tasks: `cargo xtask test|ci|tidy|generate|bench|deb`.
//!
//! What a task needs from the machine is data ([`tools`]); what a document claims, a task reads ([`tidy`]).

mod bench;
mod cases;
mod ci;
mod deb;
mod generate;
mod npm;
mod python;
mod shell;
mod sources;
mod test;
mod tidy;
mod tools;
mod typescript;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer tasks of Semel.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what the tests need, builds, and runs every test.
    Test(test::Args),
    /// What CI runs, no more and no less.
    Ci,
    /// Checks what the compiler cannot: arrows between crates, claims of documents, forbidden words.
    Tidy,
    /// Writes the generated reference pages.
    Generate(generate::Args),
    /// Builds as for shipping and measures; writes benches/RESULTS.md.
    Bench(bench::Args),
    /// Builds as for shipping and makes the Debian package.
    Deb(deb::Args),
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Test(args) => test::run(&args),
        Task::Ci => ci::run(),
        Task::Tidy => tidy::run(),
        Task::Generate(args) => generate::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Deb(args) => deb::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain of causes and no backtrace: what failed is a machine or a check, not this program.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
