//! Running other programs, and saying so; finding files of the project.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

/// The folder of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |target| root().join(target))
}

/// The cargo that runs this, in the workspace.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Says what follows, so that a long run shows where it is.
pub(crate) fn stage(name: &str) {
    println!("== {name}");
}

/// Runs `command` with its output shown; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = shown(command);
    println!("   $ {shown}");
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Runs `command` and gives what it printed; anything but success is an error with what it complained of.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = shown(command);
    let output = command.output().with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed ({})\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed something other than text"))
}

/// A file of the project: its path from the root, with `/`, and its text.
pub(crate) struct Source {
    /// From the root of the workspace.
    pub(crate) path: String,
    /// What is in it.
    pub(crate) text: String,
}

/// Every text file of the project, in order of path; what is built, fetched or recorded is not of the project.
pub(crate) fn sources() -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths()? {
        if let Ok(text) = fs::read_to_string(root().join(&path)) {
            sources.push(Source { path, text });
        }
    }
    Ok(sources)
}

/// Every path of the project, folders too (with a final `/`), in order.
pub(crate) fn paths() -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let absolute = root().join(&folder);
        for entry in fs::read_dir(&absolute).with_context(|| format!("cannot list {}", absolute.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let path = folder.join(&name);
            let text = path.to_str().context("a path that is not UTF-8")?.to_owned();
            if entry.file_type()?.is_dir() {
                if NOT_OF_THE_PROJECT.contains(&name.to_string_lossy().as_ref()) {
                    continue;
                }
                found.push(format!("{text}/"));
                folders.push(path);
            } else {
                found.push(text);
            }
        }
    }
    found.sort();
    Ok(found)
}

const NOT_OF_THE_PROJECT: &[&str] = &[
    "target",
    ".git",
    "node_modules",
    "dist",
    "build",
    "semel-data",
    "semel-sandbox-data",
    "artifacts",
    "__pycache__",
];

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}
