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
        TOOLS.iter().filter(|tool| tool.needed_by.contains(&task)).filter(|tool| !tool.is_there()).collect();
    if missing.is_empty() {
        println!("   all there");
        return python(task);
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    for tool in &missing {
        println!("   missing: {} (package {}): {}", tool.name, tool.package, tool.purpose);
    }
    let by_hand = format!("install by hand and run again: apt-get install -y {}", packages.join(" "));
    if !is_program("apt-get") {
        bail!("this machine has no apt-get; install what the packages {} hold, and run again", packages.join(", "));
    }
    if !is_root().context("cannot tell who runs this")? {
        bail!("installing needs root; {by_hand}");
    }
    shell::run(apt_get().args(["update", "-qq"])).with_context(|| by_hand.clone())?;
    shell::run(apt_get().args(["install", "-y", "-qq", "--no-install-recommends"]).args(&packages))
        .with_context(|| by_hand.clone())?;
    for tool in missing {
        if !tool.is_there() {
            bail!("package {} was installed and still there is no {}", tool.package, tool.name);
        }
    }
    python(task)
}

/// Programs from PyPI, in an environment of their own under the target folder.
fn python(task: NeededBy) -> anyhow::Result<()> {
    let wanted: Vec<String> = PYTHON_TOOLS
        .iter()
        .filter(|tool| tool.needed_by.contains(&task))
        .map(|tool| format!("{}=={}", tool.package, tool.version))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let environment = shell::target().join("venv");
    // Says what is in it. Another version than the one wanted is as good as none.
    let stamp = environment.join("semel-tools");
    let wanted_text = wanted.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted_text) {
        return Ok(());
    }
    println!("   missing: {} (from PyPI): judges of the sandbox's OpenAPI documents", wanted.join(" and "));
    shell::run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    let pip = environment.join("bin/pip");
    shell::run(Command::new(pip).args(["install", "--quiet", "--disable-pip-version-check"]).args(&wanted))?;
    fs::write(&stamp, wanted_text).with_context(|| format!("cannot write {}", stamp.display()))
}

struct PythonTool {
    package: &'static str,
    version: &'static str,
    needed_by: &'static [NeededBy],
}

const PYTHON_TOOLS: &[PythonTool] = &[
    // Asks the sandbox what its documents allow, and compares the answers with them.
    PythonTool { package: "schemathesis", version: "4.32.5", needed_by: &[NeededBy::Test] },
    // Whether the documents are OpenAPI 3.1.
    PythonTool { package: "openapi-spec-validator", version: "0.9.0", needed_by: &[NeededBy::Test] },
];

struct Tool {
    name: &'static str,
    /// Any of these will do: a program's name, or a path in which `*` stands for any one folder.
    probes: &'static [&'static str],
    package: &'static str,
    needed_by: &'static [NeededBy],
    purpose: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "libfaketime",
        probes: &["/usr/lib/*/faketime/libfaketimeMT.so.1"],
        package: "libfaketime",
        needed_by: &[NeededBy::Test],
        purpose: "moves the clock of a gateway process",
    },
    Tool {
        name: "OpenSSL",
        probes: &["openssl"],
        package: "openssl",
        needed_by: &[NeededBy::Test],
        purpose: "makes RSA keys for tests of tokens",
    },
    Tool {
        name: "PostgreSQL",
        probes: &["/usr/lib/postgresql/*/bin/initdb", "initdb"],
        package: "postgresql",
        needed_by: &[NeededBy::Test],
        purpose: "tests start a private server of it",
    },
    Tool {
        name: "Redis",
        probes: &["redis-server", "valkey-server"],
        package: "redis-server",
        needed_by: &[NeededBy::Test, NeededBy::Bench],
        purpose: "tests and the bench start a private server of it",
    },
    Tool {
        name: "PgBouncer",
        probes: &["pgbouncer"],
        package: "pgbouncer",
        needed_by: &[NeededBy::Test],
        purpose: "the PostgreSQL store is tested behind one",
    },
    Tool {
        name: "Node.js",
        probes: &["node"],
        package: "nodejs",
        needed_by: &[NeededBy::Test],
        purpose: "runs the TypeScript client's tests, and the clients that the vendors' pages show",
    },
    Tool {
        name: "Python with venv",
        // What Debian's python3 lacks without that package.
        probes: &["/usr/lib/*/ensurepip/__init__.py", "/usr/local/lib/*/ensurepip/__init__.py"],
        package: "python3-venv",
        needed_by: &[NeededBy::Test],
        purpose: "runs what judges the sandbox's OpenAPI documents, and the Python client's tests",
    },
    Tool {
        name: "systemd-analyze",
        probes: &["systemd-analyze"],
        package: "systemd",
        needed_by: &[NeededBy::Test],
        purpose: "reads the service that packages install",
    },
    Tool {
        name: "npm",
        probes: &["npm"],
        package: "npm",
        needed_by: &[NeededBy::Test],
        purpose: "fetches what the TypeScript client is built with",
    },
    Tool {
        name: "Chromium",
        probes: &["chromium", "google-chrome"],
        package: "chromium",
        needed_by: &[NeededBy::Test],
        purpose: "the TypeScript client's browser journal is tested in it",
    },
    Tool {
        name: "pgbench",
        // In Debian it comes with the server.
        probes: &["/usr/lib/postgresql/*/bin/pgbench"],
        package: "postgresql",
        needed_by: &[NeededBy::Bench],
        purpose: "the bench starts a private PostgreSQL, and compares with what this loads it with",
    },
    Tool {
        name: "nginx",
        probes: &["nginx"],
        package: "nginx-light",
        needed_by: &[NeededBy::Bench],
        purpose: "the origin of the gateway's bench, and the plain proxy to compare with",
    },
    Tool {
        name: "wrk",
        probes: &["wrk"],
        package: "wrk",
        needed_by: &[NeededBy::Bench],
        purpose: "the load of the gateway's bench",
    },
];

impl Tool {
    fn is_there(&self) -> bool {
        self.probes.iter().any(|probe| if probe.contains('/') { is_file(probe) } else { is_program(probe) })
    }
}

/// Servers live in sbin, which is not on everybody's PATH.
const SBIN: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

fn is_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(SBIN.iter().map(PathBuf::from)).any(|folder| folder.join(name).is_file())
}

fn is_file(pattern: &str) -> bool {
    match pattern.split_once("/*/") {
        None => Path::new(pattern).is_file(),
        Some((above, below)) => {
            let folders = fs::read_dir(above).into_iter().flatten().flatten();
            folders.map(|folder| folder.path().join(below)).any(|candidate| candidate.is_file())
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_find_what_is_there_and_nothing_else() {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/*/tools.rs");
        assert!(is_file(here) && is_program("sh"));
        assert!(
            !is_file(&here.replace("tools", "gone")) && !is_file("/gone/*/tools.rs") && !is_program("no-such-program")
        );
    }
}
