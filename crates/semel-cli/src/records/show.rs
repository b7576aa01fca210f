//! What the API says, as text.

use std::{fmt::Write as _, time::Duration};

use serde_json::Value;

use crate::config::words;

/// A page of a list.
pub(super) fn list(page: &Value) -> String {
    let records = page["records"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text = String::new();
    if records.is_empty() {
        text.push_str("no records\n");
    } else {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["record", "phase", "age", "route", "principal", "attempt", "status"]);
        table.add_rows(records.iter().map(|record| {
            [
                word(&record["record"]),
                phase(record),
                age(&record["age_seconds"]),
                word(&record["route"]),
                word(&record["principal"]),
                word(&record["attempt"]),
                word(&record["status"]),
            ]
        }));
        for line in table.lines() {
            text.push_str(line.trim());
            text.push('\n');
        }
    }
    if let Some(next) = page["next"].as_str() {
        let _ = writeln!(text, "more: --after {next}");
    }
    text
}

/// One record, and what was seen of it.
pub(super) fn one(shown: &Value) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<14} {value}");
    };
    row("record", word(&shown["record"]));
    row("phase", phase(shown));
    row("route", word(&shown["route"]));
    row("principal", word(&shown["principal"]));
    row("attempt", word(&shown["attempt"]));
    row("age", age(&shown["age_seconds"]));
    row("forgotten in", age(&shown["forgotten_in_seconds"]));
    if !shown["lease_left_seconds"].is_null() {
        row("lease ends in", age(&shown["lease_left_seconds"]));
    }
    row("status", word(&shown["status"]));
    row("exchange", word(&shown["exchange"]));
    row("trace", word(&shown["trace"]));
    row("stamp", word(&shown["stamp"]));
    for seen in shown["seen"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let (at, status, decision) = (word(&seen["at"]), word(&seen["status"]), word(&seen["decision"]));
        row("seen", format!("{at} {status} {decision}, exchange {}", word(&seen["exchange"])));
    }
    let _ = writeln!(text, "\n{}", word(&shown["meaning"]));
    text
}

/// What came of a settle.
pub(super) fn settled(settled: &Value) -> String {
    format!("settled: {} is {}; {}\n", word(&settled["record"]), word(&settled["now"]), word(&settled["retries"]))
}

/// What came of a release.
pub(super) fn released(released: &Value) -> String {
    format!("released: the {} is free\n", word(&released["released"]))
}

fn phase(record: &Value) -> String {
    let guarded = if record["guarded"] == true { ", guarded" } else { "" };
    word(&record["phase"]) + guarded
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        // Whoever wrote a name of a route is not to write to this terminal.
        Value::String(text) => text.chars().filter(|letter| !letter.is_control()).collect(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    }
}

fn age(seconds: &Value) -> String {
    let seconds = Duration::try_from_secs_f64(seconds.as_f64().unwrap_or_default()).unwrap_or_default();
    words::duration(Duration::from_secs(seconds.as_secs()))
}
