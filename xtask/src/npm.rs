//! Folders with a package.json, and running what is in them.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, bail};

use crate::shell;

/// The oldest Node.js that the tests and the client support; a distribution's package may be older.
const NODE_MIN: (u32, u32) = (20, 15);

/// Installs what the folder's lockfile says, and runs its script `test` with the `semel` that the build of the other tests
/// has left there.
pub(crate) fn test(folder: &Path) -> anyhow::Result<()> {
    let version = shell::output(Command::new("node").arg("--version"))?;
    if !is_new_enough(&version) {
        let (major, minor) = NODE_MIN;
        bail!(
            "Node.js {major}.{minor} or later is needed, and this is {}: install one from https://nodejs.org",
            version.trim()
        );
    }
    // npm replaces the whole folder of dependencies: only where the lockfile is another one.
    let stamp = folder.join("node_modules/installed");
    let wanted = fs::read_to_string(folder.join("package-lock.json")).context("cannot read package-lock.json")?;
    if !fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        // Nothing that a dependency brings along runs here.
        let install = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
        shell::run(Command::new("npm").args(install).current_dir(folder))?;
        fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    }
    let mut tests = Command::new("npm");
    tests.args(["test", "--loglevel=error"]).current_dir(folder);
    shell::run(tests.env("SEMEL", shell::target().join("debug/semel")))
}

/// Reads what `node --version` prints, such as `v20.11.1`.
fn is_new_enough(version: &str) -> bool {
    let parts = version.trim().strip_prefix('v').map(|version| version.split('.').map(str::parse));
    let mut numbers = parts.into_iter().flatten();
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= NODE_MIN)
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_old_node_is_told_from_a_new_one() {
        let new = ["v20.15.0\n", "v22.1.0"].map(super::is_new_enough);
        let old = ["v18.19.0\n", "v20.14.9", "v20", "20", ""].map(super::is_new_enough);
        assert_eq!((new, old), ([true; 2], [false; 5]));
    }
}
