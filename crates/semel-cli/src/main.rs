//! The command line of Semel.

mod demo;

use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "semel", version)]
enum Command {
    /// See a naive API double-charged by retries, and the same API behind Semel not.
    Demo(demo::Args),
    /// The naive API of the demo.
    #[command(hide = true)]
    DemoOrigin(demo::origin::Args),
}

fn main() -> anyhow::Result<ExitCode> {
    match Command::parse() {
        Command::Demo(args) => demo::run(&args).map(ExitCode::from),
        Command::DemoOrigin(args) => demo::origin::run(&args).map(|()| ExitCode::SUCCESS),
    }
}
