//! What documents claim about the project, read and looked up.

use std::path::Path;

use crate::shell::Source;

const MUST_BE_THERE: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "GLOSSARY.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "Cargo.lock",
    "docs/decisions/",
    "docs/reference/problems.md",
    "docs/reference/configuration.md",
    "docs/reference/peers.md",
    "docs/reference/conformance.md",
];

/// The invariants that ARCHITECTURE.md must state, each with a test.
const INVARIANTS: [u32; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

/// First segments of what looks like a path and is a media type.
const MEDIA: &[&str] = &["application", "text", "multipart", "image", "audio", "video", "message", "font"];

const FILE_EXTENSIONS: &[&str] = &["rs", "toml", "md", "lock", "json", "ts", "py", "sh", "lua", "yaml", "yml", "sql"];

/// Files and folders without which a newcomer is lost.
pub(super) fn must_be_there(paths: &[String]) -> Vec<String> {
    MUST_BE_THERE
        .iter()
        .filter(|must| !paths.iter().any(|path| path == *must))
        .map(|must| format!("{must} is not there"))
        .collect()
}

/// Every path and test that ARCHITECTURE.md names in backticks exists, and every invariant names a test.
///
/// - `crates/semel/src/layer.rs`, `docs/decisions/`, `presets/*.toml`: a path with a slash is from the root (`*` stands
///   for anything within one name); a file name without one is found somewhere;
/// - `crates/semel/tests/layer.rs::drop_anywhere`: the file has that function;
/// - `decide::tests::golden`: some file has that function.
#[expect(clippy::unnecessary_wraps, reason = "has the type of a check")]
pub(super) fn architecture(sources: &[Source], paths: &[String]) -> anyhow::Result<Vec<String>> {
    let Some(document) = sources.iter().find(|source| source.path == "ARCHITECTURE.md") else {
        return Ok(vec!["ARCHITECTURE.md is not there".to_owned()]);
    };
    let mut wrong = Vec::new();
    for (line, span) in spans(&document.text) {
        if let Some(complaint) = claim(span, sources, paths) {
            wrong.push(format!("ARCHITECTURE.md:{line}: {complaint}"));
        }
    }
    wrong.extend(invariants(&document.text));
    Ok(wrong)
}

/// Links of every document to files of the project lead somewhere.
pub(super) fn links(sources: &[Source], paths: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| Path::new(&source.path).extension().is_some_and(|e| e == "md")) {
        for (line, target) in link_targets(&source.text) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains(':') {
                continue;
            }
            let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let resolved = resolve(folder, target);
            let folder = format!("{resolved}/");
            if !resolved.is_empty() && !paths.iter().any(|path| *path == resolved || *path == folder) {
                wrong.push(format!("{}:{line}: the link to {target} leads nowhere", source.path));
            }
        }
    }
    wrong
}

/// What is wrong with a backticked claim; `None` when it is true or claims nothing about the project.
fn claim(span: &str, sources: &[Source], paths: &[String]) -> Option<String> {
    if let Some((file, test)) = span.split_once(".rs::") {
        let file = format!("{file}.rs");
        let test = test.rsplit("::").next().unwrap_or(test);
        let Some(source) = sources.iter().find(|source| source.path == file) else {
            return Some(format!("`{span}`: there is no {file}"));
        };
        return (!has_function(&source.text, test)).then(|| format!("`{span}`: {file} has no test {test}"));
    }
    if span.contains("::tests::") || span.starts_with("tests::") {
        let test = span.rsplit("::").next().unwrap_or(span);
        let there = sources.iter().any(|source| has_function(&source.text, test));
        return (!there).then(|| format!("`{span}`: no file has a test {test}"));
    }
    if !is_path(span) {
        return None;
    }
    let there = if span.contains('/') {
        paths.iter().any(|path| matches(span.trim_end_matches('/'), path.trim_end_matches('/')))
    } else {
        paths.iter().any(|path| matches(span, path.rsplit('/').next().unwrap_or(path)))
    };
    (!there).then(|| format!("`{span}` does not exist"))
}

fn is_path(span: &str) -> bool {
    let path_characters = |c: char| c.is_ascii_alphanumeric() || "._-*/".contains(c);
    if span.starts_with('/') || span.starts_with('*') || !span.chars().all(path_characters) {
        return false;
    }
    match span.split_once('/') {
        Some((first, _)) => !MEDIA.contains(&first),
        None => Path::new(span).extension().is_some_and(|e| FILE_EXTENSIONS.iter().any(|known| e == *known)),
    }
}

fn has_function(text: &str, name: &str) -> bool {
    let needle = format!("fn {name}");
    text.match_indices(&needle).any(|(at, _)| {
        text[at + needle.len()..].chars().next().is_some_and(|next| !next.is_alphanumeric() && next != '_')
    })
}

/// Whether `path` is what `pattern` means; `*` stands for anything within one name.
fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len() && pattern.iter().zip(path).all(|(pattern, name)| name_matches(pattern, name))
}

fn name_matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            (0..=name.len()).any(|skip| name.get(skip..).is_some_and(|name| name_matches(rest, name)))
        }),
    }
}

/// The invariants that are not stated, or name no test. One is a line that begins with its name (after bullets, table
/// bars and emphasis), with all that follows it up to the next, a heading or an empty line.
fn invariants(text: &str) -> Vec<String> {
    let mut stated: Vec<(u32, bool)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        if let Some(number) = invariant_at(line) {
            stated.push((number, false));
            open = true;
        } else if line.trim().is_empty() || line.starts_with('#') {
            open = false;
        }
        if let (true, Some((_, tested))) = (open, stated.last_mut()) {
            *tested |= line.contains(".rs::") || line.contains("::tests::");
        }
    }
    INVARIANTS
        .into_iter()
        .filter_map(|number| match stated.iter().find(|(stated, _)| *stated == number) {
            None => Some(format!("ARCHITECTURE.md does not state invariant I{number}")),
            Some((_, false)) => {
                Some(format!("ARCHITECTURE.md names no test of invariant I{number} (as `path/to/file.rs::test_name`)"))
            }
            Some((_, true)) => None,
        })
        .collect()
}

fn invariant_at(line: &str) -> Option<u32> {
    let line = line.trim_start_matches(|c: char| c.is_whitespace() || "-|*_`".contains(c));
    let rest = line.strip_prefix('I')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// What stands in backticks outside of fenced blocks, with its line.
fn spans(text: &str) -> impl Iterator<Item = (usize, &str)> {
    prose(text).flat_map(|(number, line)| line.split('`').skip(1).step_by(2).map(move |span| (number, span)))
}

/// The targets of `[text](target)`, with their line.
fn link_targets(text: &str) -> impl Iterator<Item = (usize, &str)> {
    prose(text).flat_map(|(number, line)| {
        line.split("](").skip(1).filter_map(move |rest| Some((number, rest.split_once(')')?.0)))
    })
}

fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((number + 1, line))
    })
}

/// `target` as seen from `folder`, as a path from the root.
fn resolve(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project() -> (Vec<Source>, Vec<String>) {
        let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        let sources = vec![
            source("crates/a/src/lib.rs", "fn golden() {}"),
            source("docs/x.md", "[home](../README.md) [no](gone.md) [web](https://a.b/c) [here](#part)"),
        ];
        let paths = ["README.md", "crates/", "crates/a/", "crates/a/src/", "crates/a/src/lib.rs", "docs/", "docs/x.md"];
        (sources, paths.map(str::to_owned).to_vec())
    }

    #[test]
    fn claims_that_are_true_and_claims_that_are_not() {
        let (sources, paths) = project();
        let wrong = |span: &str| claim(span, &sources, &paths).is_some();
        for truth in [
            "crates/a/src/lib.rs",
            "crates/a/src/",
            "crates/*/src/*.rs",
            "lib.rs",
            "crates/a/src/lib.rs::golden",
            "lib::tests::golden",
            "application/problem+json",
            "text/event-stream",
            "/healthz",
            "Swapped::Done",
            "semel serve",
            "Retry-After",
        ] {
            assert!(!wrong(truth), "{truth} is true");
        }
        for lie in [
            "crates/b/src/lib.rs",
            "crates/a/lib/",
            "crates/*/lib.rs",
            "main.rs",
            "crates/a/src/lib.rs::gold",
            "crates/a/src/main.rs::golden",
            "lib::tests::gone",
        ] {
            assert!(wrong(lie), "{lie} is a lie");
        }
    }

    #[test]
    fn an_invariant_without_a_test_is_wrong() {
        let stated = INVARIANTS.map(|n| {
            format!(
                "- **I{n}** is so:
  `crates/a/src/lib.rs::golden`
"
            )
        });
        let mut text = stated.concat();
        assert!(invariants(&text).is_empty());
        text = text.replace("- **I7** is so:\n  `crates/a/src/lib.rs::golden`\n", "- **I7** is so.\n");
        assert_eq!(invariants(&text).len(), 1, "I7 does not borrow the test of I8");
        text = text.replace("- **I12**", "- **J12**");
        assert_eq!(invariants(&text).len(), 2);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let (sources, paths) = project();
        assert_eq!(links(&sources, &paths), ["docs/x.md:1: the link to gone.md leads nowhere"]);
    }
}
