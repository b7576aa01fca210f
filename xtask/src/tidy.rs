//! `cargo xtask tidy`: what the compiler cannot check and a reviewer forgets.
//!
//! Every check gathers what it found wrong; all of it is told at once.

mod arrows;
mod documents;
mod text;

use anyhow::bail;

use crate::{
    cases::Tests,
    shell::{self, Source},
};

/// Runs every check.
pub(crate) fn run() -> anyhow::Result<()> {
    let sources = shell::sources()?;
    let paths = shell::paths()?;
    let mut wrong = Vec::new();
    for (name, check) in CHECKS {
        let found = check(&sources, &paths)?;
        println!("   {name}: {}", if found.is_empty() { "ok".to_owned() } else { format!("{} wrong", found.len()) });
        wrong.extend(found);
    }
    if wrong.is_empty() {
        return Ok(());
    }
    for line in &wrong {
        println!("   - {line}");
    }
    bail!("tidy found {} things", wrong.len())
}

/// Takes the files of the project and all its paths; gives what is wrong.
type Check = fn(&[Source], &[String]) -> anyhow::Result<Vec<String>>;

const CHECKS: &[(&str, Check)] = &[
    ("arrows between crates", |_, _| arrows::between_crates()),
    ("semel-core is sans-IO", |sources, _| arrows::core_is_pure(sources)),
    ("files that must be there", |_, paths| Ok(documents::must_be_there(paths))),
    ("what ARCHITECTURE.md names", documents::architecture),
    ("links of documents", |sources, paths| Ok(documents::links(sources, paths))),
    ("words and habits", |sources, _| Ok(text::words(sources))),
    ("length of files", |sources, _| Ok(text::lengths(sources))),
    ("cases with a test", |sources, _| Ok(Tests::of(sources).missing())),
];
