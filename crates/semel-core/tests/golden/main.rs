//! Golden tables of everything that is judged, told or kept: to be read as text, and updated with `UPDATE_EXPECT=1`.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes goldens so")]

mod decisions;
mod fingerprints;
mod keys;
mod paths;
mod policies;
mod problems;
mod records;
mod scopes;

use serde::Deserialize;
use toml::Spanned;

use semel_core::policy::{Policy, PolicyDocument, PolicyError, Preset, RouteSettings};

/// Columns of equal width, two spaces apart.
fn table<const N: usize>(rows: impl IntoIterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.into_iter().collect();
    let widths: Vec<usize> =
        (0..N).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out += cells.join("  ").trim_end();
        out.push('\n');
    }
    out
}

/// The policy part of a configuration file.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Document {
    preset: Option<Preset>,
    defaults: Option<Spanned<RouteSettings>>,
    route: Vec<Spanned<RouteSettings>>,
}

/// Why a document is not a policy: what the file says there, and the message.
#[derive(Debug)]
struct Refused {
    line: usize,
    message: String,
}

fn read(text: &str) -> Result<Policy, Refused> {
    let line = |span: std::ops::Range<usize>| text[..span.start].matches('\n').count() + 1;
    let document: Document = toml::from_str(text)
        .map_err(|error| Refused { line: error.span().map_or(0, line), message: error.message().to_owned() })?;
    let document = PolicyDocument {
        preset: document.preset,
        defaults: document.defaults,
        routes: document.route,
        ..PolicyDocument::default()
    };
    document.build().map_err(|PolicyError { span, message }| Refused { line: line(span), message })
}

/// A policy of one route with these settings.
fn policy(route: &str) -> Policy {
    read(&format!("[[route]]\n{route}")).unwrap_or_else(|refused| panic!("{}", refused.message))
}

/// `a`, `b`, `c`... for values in the order in which they are first seen: the same letter is the same value.
struct Letters<T>(Vec<T>);

impl<T> Default for Letters<T> {
    fn default() -> Letters<T> {
        Letters(Vec::new())
    }
}

impl<T: PartialEq> Letters<T> {
    fn of(&mut self, value: T) -> String {
        let at = self.0.iter().position(|seen| *seen == value).unwrap_or_else(|| {
            self.0.push(value);
            self.0.len() - 1
        });
        char::from(b'a' + u8::try_from(at).expect("few values")).to_string()
    }
}
