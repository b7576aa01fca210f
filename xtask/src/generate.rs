//! `cargo xtask generate`: the reference pages that are written from the code and its tests, never by hand.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context, bail};
use semel_core::wire::ProblemType;

use crate::{
    cases::{FAMILIES, PEER_BUGS, Tests},
    shell,
    sources::ROWS,
    typescript,
};

/// What `generate` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Writes nothing; fails when a page is not what would be written.
    #[arg(long)]
    check: bool,
}

impl Args {
    /// As CI runs it.
    pub(crate) fn check() -> Args {
        Args { check: true }
    }
}

/// Writes or checks every page and every copy.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut stale = Vec::new();
    let mut put = |path: String, text: String| -> anyhow::Result<()> {
        let file = shell::root().join(&path);
        if fs::read_to_string(&file).is_ok_and(|there| there == text) {
            println!("   {path}: as it is");
        } else if args.check {
            stale.push(path);
        } else {
            fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            println!("   {path}: written");
        }
        Ok(())
    };
    // Copies first: they need nothing to be built.
    for folder in TABLES {
        for (name, table) in tables()? {
            put(format!("{folder}/{name}"), table)?;
        }
    }
    for (path, render) in PAGES {
        put((*path).to_owned(), render().with_context(|| format!("cannot write {path}"))?)?;
    }
    if !stale.is_empty() {
        bail!("stale: {}; run `cargo xtask generate` and commit what it writes", stale.join(", "));
    }
    Ok(())
}

/// Where packages in other languages keep their copies of the judgement tables.
const TABLES: &[&str] = &["clients/python/src/semel/judgement"];

/// The judgement tables, by the names of their files.
fn tables() -> anyhow::Result<Vec<(String, String)>> {
    let folder = shell::root().join("crates/semel-core/judgement");
    let mut tables = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_name().and_then(|name| name.to_str()).context("a table's name is not UTF-8")?;
            let table = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            tables.push((name.to_owned(), table));
        }
    }
    tables.sort();
    Ok(tables)
}

type Render = fn() -> anyhow::Result<String>;

const PAGES: &[(&str, Render)] = &[
    ("clients/typescript/src/tables.ts", typescript::tables),
    ("clients/typescript/src/logs.ts", typescript::logs),
    ("clients/typescript/src/says.ts", typescript::says),
    ("docs/reference/problems.md", problems),
    ("docs/reference/configuration.md", configuration),
    ("docs/reference/peers.md", peers),
    ("docs/reference/conformance.md", conformance),
    ("docs/reference/sources.md", sources),
];

const BY_HAND: &str = "<!-- Written by `cargo xtask generate`; do not edit. -->\n";

fn problems() -> anyhow::Result<String> {
    let mut page = format!(
        "{BY_HAND}# Problems\n\nEvery answer that Semel gives in its own name is `application/problem+json` \
         (RFC 9457) with these members: `type`, \
         `title`, `status`, `detail`, `code`, `retryable`. Go by `code`: it never changes, while a route may \
         map the status. `retryable` says whether the \
         very same request, sent again later with the same key, can fare better.\n\n\
         | code | status | retryable | title |\n| --- | --- | --- | --- |\n"
    );
    for kind in ProblemType::ALL {
        let retryable = if kind.retryable() { "yes" } else { "no" };
        writeln!(
            page,
            "| [`{code}`](#{code}) | {} | {retryable} | {} |",
            kind.default_status().as_u16(),
            kind.title(),
            code = kind.code()
        )?;
    }
    for kind in ProblemType::ALL {
        let status = kind.default_status();
        writeln!(
            page,
            "\n## {}\n\n`{}`, by default {} {}. {}.\n\n{}",
            kind.code(),
            kind.uri(),
            status.as_u16(),
            status.canonical_reason().unwrap_or_default(),
            kind.title(),
            kind.default_detail()
        )?;
    }
    Ok(page)
}

fn configuration() -> anyhow::Result<String> {
    let mut page = format!(
        "{BY_HAND}# Configuration\n\n`semel serve --config semel.toml`. `semel config check FILE` tells what is \
         wrong with a file; `semel config show` \
         prints what follows, and `semel config show FILE` the same for a file.\n\n## Every \
         setting\n\n```toml\n{}\n```\n",
        every_setting()?.trim_end()
    );
    for (preset, what) in presets()? {
        let path = format!("crates/semel-core/presets/{preset}.toml");
        let text = fs::read_to_string(shell::root().join(&path)).with_context(|| format!("cannot read {path}"))?;
        write!(page, "\n## Preset `{preset}`\n\n{what}\n\n```toml\n{}\n```\n", text.trim_end())?;
    }
    Ok(page)
}

/// What `semel config show` prints, the same on every machine.
fn every_setting() -> anyhow::Result<String> {
    // The tests' own build has the program, too: any other would be one more of the whole tree.
    shell::run(shell::cargo().args(["test", "--workspace", "--no-run", "--quiet"]))?;
    let shown = shell::output(Command::new(shell::target().join("debug/semel")).args(["config", "show"]))?;
    Ok(shown
        .lines()
        .map(|line| if line.starts_with("threads = ") { one_thread_per_core(line) } else { line.to_owned() } + "\n")
        .collect())
}

fn one_thread_per_core(line: &str) -> String {
    let (value, meaning) = line.split_at(line.find('#').unwrap_or(line.len()));
    format!("{:<width$}{meaning}", "# threads = N", width = value.len())
}

/// Every preset's file, the base first, and what to say of it.
fn presets() -> anyhow::Result<Vec<(String, &'static str)>> {
    let paths = shell::paths()?;
    let names = paths.iter().filter_map(|path| path.strip_prefix("crates/semel-core/presets/")?.strip_suffix(".toml"));
    let (base, others): (Vec<&str>, Vec<&str>) = names.partition(|name| *name == BASE_PRESET);
    let base = base.into_iter().map(|name| (name.to_owned(), "The base of every other preset."));
    let others = others.into_iter().map(|name| (name.to_owned(), "What it changes of `ietf`."));
    Ok(base.chain(others).collect())
}

const BASE_PRESET: &str = "ietf";

fn peers() -> anyhow::Result<String> {
    let tests = Tests::of(&shell::sources()?);
    let mut page = format!(
        "{BY_HAND}# Bugs that others shipped, and the tests that keep them out\n\nEach was seen in a library or \
         gateway for idempotent requests. A test \
         that keeps one out names its number: `peers_NN_...`.\n\n| # | bug | tests |\n| --- | --- | --- |\n"
    );
    for bug in PEER_BUGS {
        let named = tests.of_peer_bug(bug.number);
        let shown = if named.is_empty() { "none yet".to_owned() } else { listed(named) };
        writeln!(page, "| {} | {} | {shown} |", bug.number, bug.what)?;
    }
    Ok(page)
}

fn conformance() -> anyhow::Result<String> {
    let tests = Tests::of(&shell::sources()?);
    let mut page = format!(
        "{BY_HAND}# Black-box cases\n\nWhat a correct server does, seen from outside. A test names its case: \
         `h15_...` is case H15.\n"
    );
    for family in FAMILIES {
        let mut numbers: Vec<u16> = family.due.iter().copied().chain(tests.numbers(family.letters)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.is_empty() {
            continue;
        }
        write!(page, "\n## {}: {}\n\n| case | tests |\n| --- | --- |\n", family.letters, family.title)?;
        for number in numbers {
            let named = tests.of_conformance(family.letters, number);
            let shown = if named.is_empty() { "none yet".to_owned() } else { listed(named) };
            writeln!(page, "| {}{number} | {shown} |", family.letters)?;
        }
    }
    Ok(page)
}

fn sources() -> anyhow::Result<String> {
    let tests = Tests::of(&shell::sources()?);
    let mut page = format!(
        "{BY_HAND}# What the source documents say, and the tests that prove it\n\nE rows are the statements of the \
         documents of four APIs, Q rows are where they contradict themselves, with the answer. A test names its rows: \
         `e26_q1_...`.\n\n| row | API | statement or answer | tests |\n| --- | --- | --- | --- |\n"
    );
    for row in ROWS {
        let named = tests.of_source(row.name);
        let shown = if named.is_empty() { "none yet".to_owned() } else { listed(named) };
        writeln!(page, "| {} | {} | {} | {shown} |", row.name, row.api, row.what)?;
    }
    Ok(page)
}

fn listed(tests: &[String]) -> String {
    let mut shown: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
    shown.sort();
    shown.join("<br>")
}
