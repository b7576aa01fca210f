//! Who may depend on whom.

use anyhow::Context;
use serde_json::Value;

use crate::shell::{self, Source};

/// The arrows between the crates of the workspace, and no others; a crate that is not listed may not exist.
///
/// The checker must not share the judgement of what it judges, so of semel-core it may use `wire` only.
const ARROWS: &[(&str, &[&str])] = &[
    ("semel-core", &[]),
    // Servers and a proxy for tests, benches and the demo: nothing that serves needs them.
    ("semel-servers", &[]),
    ("semel", &["semel-core", "semel-servers"]),
    ("semel-client", &["semel-core"]),
    ("semel-check", &["semel-core"]),
    ("semel-cli", &["semel-core", "semel", "semel-client", "semel-check", "semel-servers"]),
    ("semel-bench", &["semel-core", "semel", "semel-servers"]),
    ("xtask", &["semel-core"]),
];

/// What would give semel-core a runtime, randomness, a clock or a socket (I8).
const NOT_IN_CORE: &[&str] = &[
    "async-std",
    "chrono",
    "fastrand",
    "getrandom",
    "hyper",
    "jiff",
    "mio",
    "nanorand",
    "oorandom",
    "rand",
    "rand_core",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "uuid-rng-internal",
    "web-time",
];

/// Compares the workspace's manifests with [`ARROWS`]; `--locked`, so that a stale `Cargo.lock` is found here too.
pub(super) fn between_crates() -> anyhow::Result<Vec<String>> {
    let metadata = shell::output(shell::cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata without packages")?;
    let mut arrows = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package without name")?;
        let dependencies = package["dependencies"].as_array().context("a package without dependencies")?;
        // Those with a path live in the workspace; of any kind: a test that reaches around is an arrow too.
        let to = dependencies.iter().filter(|to| to["path"].is_string()).filter_map(|to| to["name"].as_str());
        arrows.push((name.to_owned(), to.map(str::to_owned).collect()));
    }
    Ok(forbidden(&arrows))
}

/// semel-core's dependencies, its lints, and the checker's use of it.
pub(super) fn core_is_pure(sources: &[Source]) -> anyhow::Result<Vec<String>> {
    let tree = shell::output(shell::cargo().args([
        "tree",
        "--package",
        "semel-core",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
        "--locked",
    ]))?;
    let mut wrong: Vec<String> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| NOT_IN_CORE.contains(name))
        .map(|name| format!("semel-core depends on {name}: it must have no runtime, randomness, clock or socket (I8)"))
        .collect();
    wrong.sort();
    wrong.dedup();

    let core = sources.iter().find(|source| source.path == "crates/semel-core/src/lib.rs");
    if !core.is_some_and(|core| core.text.contains(CORE_DENIES)) {
        wrong.push(format!("crates/semel-core/src/lib.rs must say {CORE_DENIES}, or its clippy.toml forbids nothing"));
    }
    for source in sources.iter().filter(|source| source.path.starts_with("crates/semel-check/")) {
        for (number, line) in source.text.lines().enumerate() {
            if line.contains("semel_core::") && !line.contains("semel_core::wire") {
                wrong.push(format!("{}:{}: the checker may use semel_core::wire only", source.path, number + 1));
            }
        }
    }
    Ok(wrong)
}

const CORE_DENIES: &str = "#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]";

fn forbidden(arrows: &[(String, Vec<String>)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (from, to) in arrows {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| name == from) else {
            wrong.push(format!(
                "crate {from} is not in the list of arrows: it needs a decision record, then a line there"
            ));
            continue;
        };
        // Of itself a crate may ask for features that only its tests need.
        for to in to.iter().filter(|to| *to != from && !allowed.contains(&to.as_str())) {
            wrong.push(format!("{from} may not depend on {to}"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_that_is_not_listed_is_wrong() {
        let arrow = |from: &str, to: &str| (from.to_owned(), vec![to.to_owned()]);
        assert!(forbidden(&[arrow("semel", "semel-core")]).is_empty());
        assert!(forbidden(&[arrow("semel", "semel")]).is_empty());
        assert_eq!(forbidden(&[arrow("semel-core", "semel")]), ["semel-core may not depend on semel"]);
        assert_eq!(forbidden(&[arrow("semel-check", "semel")]), ["semel-check may not depend on semel"]);
        assert_eq!(forbidden(&[arrow("semel-extra", "semel")]).len(), 1);
    }
}
