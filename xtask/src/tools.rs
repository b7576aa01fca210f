//! What the tasks need from the machine besides Rust, as data; and how a fresh Debian machine gets it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::shell;

/// Who needs a tool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NeededBy {
    /// `cargo xtask test`, and so `ci`.
    Test,
    /// `cargo xtask bench`.
    Bench,
}

/// Makes sure that every tool of `task` is there, installing with apt-get what is not.
pub(crate) fn ensure(task: NeededBy) -> anyhow::Result<()> {
    shell::stage("tools");
    let missing: Vec<&Tool> =
        TOOLS.iter().filter(|tool| tool.needed_by == task).filter(|tool| find(tool.program).is_none()).collect();
    if missing.is_empty() {
        println!("   all there");
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    for tool in &missing {
        println!("   missing: {} (package {}): {}", tool.program, tool.package, tool.purpose);
    }
    let by_hand = format!("install by hand and run again: apt-get install -y {}", packages.join(" "));
    if find("apt-get").is_none() {
        bail!("this machine has no apt-get; install what the packages {} hold, and run again", packages.join(", "));
    }
    if !is_root().context("cannot tell who runs this")? {
        bail!("installing needs root; {by_hand}");
    }
    shell::run(apt_get().args(["update", "-qq"])).with_context(|| by_hand.clone())?;
    shell::run(apt_get().args(["install", "-y", "-qq", "--no-install-recommends"]).args(&packages))
        .with_context(|| by_hand.clone())?;
    for tool in missing {
        if find(tool.program).is_none() {
            bail!("package {} was installed and still there is no program {}", tool.package, tool.program);
        }
    }
    Ok(())
}

struct Tool {
    program: &'static str,
    package: &'static str,
    needed_by: NeededBy,
    purpose: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool {
        program: "faketime",
        package: "faketime",
        needed_by: NeededBy::Test,
        purpose: "moves the clock of a gateway process",
    },
    Tool {
        program: "initdb",
        package: "postgresql",
        needed_by: NeededBy::Test,
        purpose: "a private PostgreSQL for the transactional mode",
    },
    Tool {
        program: "nginx",
        package: "nginx-light",
        needed_by: NeededBy::Bench,
        purpose: "the origin of the gateway's bench, and the plain proxy to compare with",
    },
    Tool { program: "wrk", package: "wrk", needed_by: NeededBy::Bench, purpose: "the load of the gateway's bench" },
];

/// Servers live in sbin, which is not on everybody's PATH.
const SBIN: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SBIN.iter().map(PathBuf::from))
        .chain(postgres_folders())
        .map(|folder| folder.join(program))
        .find(|candidate| Path::is_file(candidate))
}

/// Debian keeps each version's server programs in a folder of its own, off everybody's PATH.
fn postgres_folders() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    versions.filter_map(|version| Some(version.ok()?.path().join("bin"))).collect()
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // RUNLEVEL=1: where Debian asks for the runlevel, it then does not start a server that it installs. The bench
    // starts its own on free ports and wants nobody's port 80.
    command.args(["-o", "Dpkg::Use-Pty=0"]).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    command
}

fn is_root() -> anyhow::Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).context("no Uid in /proc/self/status")?;
    // Real, effective, saved, file system: the effective one decides.
    Ok(uids.split_whitespace().nth(1) == Some("0"))
}
