//! The Python client: its own tools in a virtual environment under the target folder, and its tests in that.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use crate::shell;

/// Makes the environment if it is not there or not the present one, then runs every check.
pub(crate) fn test() -> anyhow::Result<()> {
    shell::stage("test the Python client");
    let folder = shell::root().join("clients/python");
    let programs = environment(&folder)?;
    for check in CHECKS {
        let mut command = Command::new(programs.join("python"));
        // What Python compiles would lie between the sources.
        command.current_dir(&folder).env("PYTHONDONTWRITEBYTECODE", "1").arg("-m").args(*check);
        shell::run(&mut command)?;
    }
    Ok(())
}

/// Cheap ones first.
const CHECKS: &[&[&str]] = &[
    &["ruff", "check", "--quiet", "src", "tests", "examples"],
    &["ruff", "format", "--quiet", "--check", "src", "tests", "examples"],
    &["mypy"],
    &["pytest"],
];

/// The folder of the environment's programs.
fn environment(folder: &Path) -> anyhow::Result<PathBuf> {
    let environment = shell::target().join("python/venv");
    let programs = environment.join(if cfg!(windows) { "Scripts" } else { "bin" });
    let wanted = fs::read_to_string(folder.join("requirements.txt")).context("cannot read requirements.txt")?;
    let stamp = environment.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(programs);
    }
    shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    let install =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", "requirements.txt"];
    shell::run(Command::new(programs.join("python")).args(install).current_dir(folder))?;
    // Only now: an installation that broke off begins again.
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(programs)
}
