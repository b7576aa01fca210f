//! What the journal has, as text.

use std::{fmt::Write as _, time::Duration};

use semel_client::{Event, Listed, Outcome, Saw, SendError};
use serde::Serialize;

/// One line for each operation.
pub(crate) fn table(all: &[Listed]) -> String {
    if all.is_empty() {
        return "no operations\n".to_owned();
    }
    let rows: Vec<[String; 6]> = all
        .iter()
        .map(|listed| {
            let attempts = listed.history.iter().filter(|event| matches!(event, Event::Attempt { .. })).count();
            [
                listed.intent.operation().to_owned(),
                listed.state.as_str().to_owned(),
                listed.why.clone(),
                attempts.to_string(),
                listed.intent.key().to_string(),
                listed.intent.target().to_string(),
            ]
        })
        .collect();
    let heads = ["operation", "state", "why", "attempts", "key", "target"].map(str::to_owned);
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(heads);
    table.add_rows(rows);
    table.lines().flat_map(|line| [line.trim().to_owned(), "\n".to_owned()]).collect()
}

/// Everything about one operation.
pub(crate) fn one(listed: &Listed) -> String {
    let intent = &listed.intent;
    let mut text = String::new();
    let mut row = |name: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{name:<10} {value}").expect("a String takes everything");
    };
    row("operation", &intent.operation());
    row("key", intent.key());
    row("preset", &intent.preset().name());
    row("target", intent.target());
    row("content", &format!("{} bytes", intent.content().len()));
    row("state", &format!("{} {}", listed.state.as_str(), listed.why).trim_end());
    for event in &listed.history {
        match event {
            Event::Attempt { at_ms, saw, .. } => row("attempt", &format!("{} {}", when(*at_ms), seen(saw))),
            Event::Read { at_ms, saw, .. } => row("read", &format!("{} {}", when(*at_ms), seen(saw))),
            Event::Resumed { at_ms } => row("resumed", &when(*at_ms)),
        }
    }
    text
}

fn when(ms: u64) -> String {
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

fn seen(saw: &Saw) -> String {
    match saw {
        Saw::NotSent => "not sent".to_owned(),
        Saw::NoResponse => "no response".to_owned(),
        Saw::Reply(reply) => format!("{}, {} bytes", reply.status.as_u16(), reply.content.len()),
    }
}

/// How one operation ended, as a line of JSON.
pub(crate) fn line(id: &str, outcome: &Result<Outcome, SendError>) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        operation: &'a str,
        outcome: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
    }
    let (told, why) = match outcome {
        Ok(Outcome::Fresh(_)) => ("fresh", None),
        Ok(Outcome::Replayed(_)) => ("replayed", None),
        Ok(Outcome::AlreadyExists(_)) => ("already-exists", None),
        Ok(Outcome::Rejected(no)) => ("rejected", Some(no.why.clone())),
        Ok(Outcome::Unresolved(open)) => ("unresolved", Some(open.why.clone())),
        Err(error) => ("failed", Some(error.to_string())),
    };
    let status = outcome.as_ref().ok().and_then(Outcome::reply).map(|reply| reply.status.as_u16());
    let line = Line { operation: id, outcome: told, why, status };
    serde_json::to_string(&line).expect("texts and numbers always serialise") + "\n"
}
