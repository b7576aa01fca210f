//! `semel init`: from an OpenAPI document to a first `semel.toml`.
//!
//! The document is data: nothing in it is fetched or executed. What it says becomes settings, what it hints at becomes
//! proposals in comments, and what it cannot know is named, in the file and when it is written.

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};

use crate::config::{Config, ConfigError, Flags};

mod document;
mod judge;
mod schema;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use document::{Document, Note};
use tree::{DOCUMENT_BYTES_MAX, Wrong};
use write::Written;

/// Writes a first configuration file from an OpenAPI 3.0 or 3.1 document.
///
/// It has one route for every POST and PATCH, with the key that the document says, and comments on what a person has to
/// decide. Nothing outside the document is read.
#[derive(clap::Args)]
#[command(after_help = INIT_HELP)]
pub(crate) struct Init {
    /// The document, as YAML or JSON; - for standard input
    document: PathBuf,
    /// Where to write; - for standard output
    #[arg(long, value_name = "FILE", default_value = "semel.toml")]
    output: PathBuf,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

const INIT_HELP: &str = "\
Examples:
  semel init openapi.yaml
      writes semel.toml, and says what there is to decide
  curl -s http://127.0.0.1:3000/openapi.json | semel init - --output -
      shows what it would write
  semel config check semel.toml; semel serve --config semel.toml

Exit codes:
  0  written
  1  could not be written
  2  the document cannot be used, or the file is there already";

/// Runs it.
pub(crate) fn run(init: &Init) -> anyhow::Result<()> {
    let is_dash = |path: &Path| path.as_os_str() == "-";
    let name = if is_dash(&init.document) { "standard input".to_owned() } else { init.document.display().to_string() };
    let output = init.output.display();
    if !init.force && !is_dash(&init.output) && init.output.exists() {
        return Err(ConfigError::new(format!("{output} is there already: give --force, or another --output")).into());
    }
    let bytes = read(&init.document).map_err(|error| ConfigError::new(format!("cannot read {name}: {error}")))?;
    let in_file = init.document.file_name().unwrap_or_default().to_string_lossy();
    let in_file = if is_dash(&init.document) { name.as_str() } else { in_file.as_ref() };
    let written = file(in_file, &bytes).map_err(|wrong| ConfigError::new(complaint(&name, &wrong)))?;
    // Nobody should get a file from here that `semel serve` refuses.
    Config::read("semel.toml", &written.text, Flags::default()).map_err(|error| {
        anyhow!("what came of {name} is no configuration, which is a fault of this program: {error}")
    })?;
    if is_dash(&init.output) {
        std::io::stdout().write_all(written.text.as_bytes()).context("cannot write to standard output")?;
    } else {
        let mut options = std::fs::OpenOptions::new();
        let options = if init.force { options.create(true).truncate(true) } else { options.create_new(true) };
        let file = options.write(true).open(&init.output);
        let mut file = file.with_context(|| format!("cannot write {output}"))?;
        file.write_all(written.text.as_bytes()).with_context(|| format!("cannot write {output}"))?;
    }
    report(&name, &written);
    Ok(())
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than the limit shows that it was passed.
    let limit = u64::try_from(DOCUMENT_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    if path.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// The file for a document.
fn file(name: &str, bytes: &[u8]) -> Result<Written, Wrong> {
    let root = tree::read(bytes)?;
    let document = Document::new(&root);
    let api = document.api()?;
    let sections = judge::sections(&document, &api)?;
    let mut notes: Vec<Note> = document.take_notes();
    notes.sort();
    Ok(write::write(name, &api, &sections, &notes))
}

fn complaint(name: &str, wrong: &Wrong) -> String {
    match wrong.line {
        0 => format!("{name}: {}", wrong.message),
        line => format!("{name}:{line}: {}", wrong.message),
    }
}

fn report(name: &str, written: &Written) {
    let (deserving, decisions) = (written.deserving.len(), written.decisions.len());
    eprintln!(
        "semel init: operations covered: {}; that take no key and deserve one: {deserving}; to look at: {decisions}",
        written.covered
    );
    let mut notes: Vec<&Note> = written.deserving.iter().chain(&written.decisions).collect();
    notes.sort();
    for note in notes {
        match note.line {
            0 => eprintln!("{name}: {}", note.text),
            line => eprintln!("{name}:{line}: {}", note.text),
        }
    }
}
