//! `cargo xtask deb`: the Debian package, as `crates/semel-cli/Cargo.toml` describes it.

use std::{path::PathBuf, process::Command};

use crate::shell;

/// The version that the package was last tried with; it is installed below the target folder, and nowhere else.
const CARGO_DEB: &str = "3.8.0";

/// What `deb` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Package the program of this profile as it is, without building it
    #[arg(long, value_name = "PROFILE")]
    built: Option<String>,
}

/// Builds the program as it is shipped, and packages it.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let cargo_deb = install()?;
    let package = shell::target().join("debian/semel.deb");
    let profile = args.built.as_deref().unwrap_or("dist");
    shell::stage("package");
    let mut deb = Command::new(cargo_deb);
    deb.args(["deb", "--package", "semel-cli", "--profile", profile, "--no-dbgsym", "--output"]).arg(&package);
    if args.built.is_some() {
        deb.arg("--no-build");
    }
    shell::run(&mut deb)?;
    shell::run(Command::new("dpkg-deb").arg("--info").arg(&package))?;
    shell::run(Command::new("dpkg-deb").arg("--contents").arg(&package))?;
    println!("   {}: install it with apt-get install {0}", package.display());
    Ok(())
}

/// The packager, built once per version.
fn install() -> anyhow::Result<PathBuf> {
    let root = shell::target().join(format!("tools/cargo-deb-{CARGO_DEB}"));
    let program = root.join("bin/cargo-deb");
    if !program.is_file() {
        shell::stage("cargo-deb");
        let what = ["install", "cargo-deb", "--version", CARGO_DEB, "--locked", "--quiet", "--root"];
        shell::run(shell::cargo().args(what).arg(&root))?;
    }
    Ok(program)
}
