//! From "bytes 140 to 146 are wrong" to what a person needs to see.

use std::{fmt::Write as _, ops::Range};

use super::store::secret_of;

/// `FILE:LINE:COLUMN: member: what is wrong and what would be right`, and the line it is about.
pub(super) fn complaint(file: &str, text: &str, span: Option<Range<usize>>, message: &str) -> String {
    let message = with_suggestion(message);
    let Some(span) = span.filter(|span| span.start <= text.len() && !text.is_empty()) else {
        return if file.is_empty() { message } else { format!("{file}: {message}") };
    };
    let span = member_named(text, &span, &message).unwrap_or(span);
    let start = text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    let number = text[..start].matches('\n').count() + 1;
    let column = text[start..span.start].chars().count() + 1;
    let mut out = format!("{file}:{number}:{column}: ");
    let member = member_at(text, start, line, column);
    if let Some(member) = &member {
        let _ = write!(out, "{member}: ");
    }
    // serde says only that a number is no text.
    let is_duration = |name: &String| {
        !name.ends_with("bytes_max") && (name.ends_with("_max") || name.ends_with("_for") || name.ends_with("grace"))
    };
    let wants = message.ends_with("expected a string") && member.as_ref().is_some_and(is_duration);
    let message = if wants { format!("{message}, with a unit, such as \"30s\"") } else { message };
    if let Some(secret) = secret_of(line) {
        // Whoever reads this output is not always who may know the password.
        out.push_str(&message.replace(secret, ".."));
        return out;
    }
    let width = text.get(span).unwrap_or_default().lines().next().unwrap_or_default().chars().count();
    let width = width.clamp(1, (line.chars().count() + 1).saturating_sub(column).max(1));
    let gutter = number.to_string();
    let blank = " ".repeat(gutter.len());
    let _ = write!(out, "{message}\n  {gutter} | {line}\n  {blank} | {}{}", " ".repeat(column - 1), "^".repeat(width));
    out
}

/// Where a table that is wrong as a whole sets the member that the message begins with.
fn member_named(text: &str, span: &Range<usize>, message: &str) -> Option<Range<usize>> {
    let name = message.strip_prefix('`')?.split('`').next()?;
    let rest = text.get(span.start..)?;
    let mut at = span.start + rest.strip_prefix('[')?.find('\n')? + 2;
    for line in text[at..].split_inclusive('\n') {
        if line.starts_with('[') {
            return None;
        }
        if line.split_once('=').is_some_and(|(member, _)| member.trim() == name) {
            return Some(at..at + line.trim_end().len());
        }
        at += line.len();
    }
    None
}

/// The dotted name of what stands on a line: its table, and the member before the equals sign.
fn member_at(text: &str, start: usize, line: &str, column: usize) -> Option<String> {
    if line.trim_start().starts_with('[') && column <= line.len() && !line.contains('=') {
        return None;
    }
    let name = line.split_once('=').map(|(name, _)| name.trim()).filter(|name| !name.is_empty())?;
    let header = text[..start].lines().rev().find(|line| line.trim_start().starts_with('['));
    let table = header.map(|line| {
        let name: String = line.trim_start().chars().take_while(|c| *c != '#').collect();
        name.trim().trim_matches(|c| c == '[' || c == ']').trim().to_owned()
    });
    Some(table.map_or_else(|| name.to_owned(), |table| format!("{table}.{name}")))
}

/// Adds the nearest known name to serde's "unknown field `x`, expected one of `a`, `b`".
fn with_suggestion(message: &str) -> String {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (Some((unknown, known)), true) = (names.split_first(), message.starts_with("unknown ")) else {
        return message.to_owned();
    };
    let nearest = known.iter().min_by_key(|name| distance(unknown, name));
    match nearest.filter(|name| distance(unknown, name) <= (unknown.len() / 2).max(2)) {
        Some(nearest) => {
            let message = message.replacen("field", "member", 1).replacen("variant", "value", 1);
            format!("did you mean `{nearest}`? {message}")
        }
        None => message.replacen("field", "member", 1).replacen("variant", "value", 1),
    }
}

/// How many letters have to be put in, left out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
