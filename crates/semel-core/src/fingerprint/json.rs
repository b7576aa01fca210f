//! JSON values in one canonical byte form, exact to the last digit.
//!
//! RFC 8785 is not used: its numbers are doubles, so that 9007199254740993 and ...992 would be one amount.

use json_event_parser::{JsonEvent, SliceJsonParser};

use crate::key::Pointer;

/// Deeper content is compared as bytes; real requests stay far below, and a stack has an end.
const DEPTH_MAX: usize = 64;

enum Value {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    Array(Vec<Value>),
    /// In the order sent, duplicates included.
    Object(Vec<(String, Value)>),
}

/// The canonical form of the whole content less the volatile members; `None` when it is not JSON.
pub(super) fn canonical_without(content: &[u8], volatile: &[Pointer]) -> Option<Vec<u8>> {
    let mut value = parse(content)?;
    for pointer in volatile {
        let tokens: Vec<String> = pointer.tokens().collect();
        remove(&mut value, &tokens);
    }
    let mut out = Vec::with_capacity(content.len());
    write(&value, &mut out);
    Some(out)
}

/// The canonical form of the named members, each marked present or absent; `None` when the content is not JSON.
pub(super) fn canonical_members(content: &[u8], pointers: &[Pointer]) -> Option<Vec<u8>> {
    let value = parse(content)?;
    let mut out = Vec::new();
    for pointer in pointers {
        match find(&value, pointer) {
            Ok(Some(found)) => {
                out.push(b'+');
                write(found, &mut out);
            }
            Ok(None) => out.push(b'-'),
            // Two members of that name: which one the origin reads is anybody's guess, so everything counts.
            Err(Ambiguous) => return None,
        }
    }
    Some(out)
}

/// What a content has at a pointer.
pub(crate) enum Member {
    /// A string.
    Text(String),
    /// Nothing: it is a JSON value, and the member is not there.
    Absent,
    /// Something else, several members of that name, or a content that is not JSON.
    Other,
}

/// The member that a key or a slot's value is read from.
pub(crate) fn string_member(content: &[u8], pointer: &Pointer) -> Member {
    let Some(value) = parse(content) else { return Member::Other };
    match find(&value, pointer) {
        Ok(Some(Value::String(text))) => Member::Text(text.clone()),
        Ok(Some(Value::Null) | None) => Member::Absent,
        Ok(Some(_)) | Err(Ambiguous) => Member::Other,
    }
}

struct Ambiguous;

fn find<'v>(value: &'v Value, pointer: &Pointer) -> Result<Option<&'v Value>, Ambiguous> {
    let mut at = value;
    for token in pointer.tokens() {
        at = match at {
            Value::Object(members) => {
                let mut named = members.iter().filter(|(name, _)| *name == token);
                match (named.next(), named.next()) {
                    (Some(_), Some(_)) => return Err(Ambiguous),
                    (Some((_, member)), None) => member,
                    (None, _) => return Ok(None),
                }
            }
            Value::Array(items) => match token.parse::<usize>().ok().and_then(|index| items.get(index)) {
                Some(item) => item,
                None => return Ok(None),
            },
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return Ok(None),
        };
    }
    Ok(Some(at))
}

fn remove(value: &mut Value, tokens: &[String]) {
    let Some((first, rest)) = tokens.split_first() else { return };
    match value {
        Value::Object(members) if rest.is_empty() => members.retain(|(name, _)| name != first),
        Value::Object(members) => {
            members.iter_mut().filter(|(name, _)| name == first).for_each(|(_, member)| remove(member, rest));
        }
        Value::Array(items) => {
            if let Some(item) = first.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                remove(item, rest);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn parse(content: &[u8]) -> Option<Value> {
    let mut parser = SliceJsonParser::new(content);
    let first = parser.parse_next().ok()?;
    let value = read(&mut parser, first, DEPTH_MAX)?;
    matches!(parser.parse_next(), Ok(JsonEvent::Eof)).then_some(value)
}

fn read(parser: &mut SliceJsonParser<'_>, event: JsonEvent<'_>, depth_left: usize) -> Option<Value> {
    if depth_left == 0 {
        return None;
    }
    Some(match event {
        JsonEvent::Null => Value::Null,
        JsonEvent::Boolean(b) => Value::Bool(b),
        JsonEvent::Number(text) => Value::Number(exact_number(&text)),
        JsonEvent::String(text) => Value::String(text.into_owned()),
        JsonEvent::StartArray => {
            let mut items = Vec::new();
            loop {
                match parser.parse_next().ok()? {
                    JsonEvent::EndArray => break Value::Array(items),
                    event => {
                        let event = owned(event);
                        items.push(read(parser, event, depth_left - 1)?);
                    }
                }
            }
        }
        JsonEvent::StartObject => {
            let mut members = Vec::new();
            loop {
                match parser.parse_next().ok()? {
                    JsonEvent::EndObject => break Value::Object(members),
                    JsonEvent::ObjectKey(name) => {
                        let name = name.into_owned();
                        let event = owned(parser.parse_next().ok()?);
                        members.push((name, read(parser, event, depth_left - 1)?));
                    }
                    _ => return None,
                }
            }
        }
        JsonEvent::EndArray | JsonEvent::EndObject | JsonEvent::ObjectKey(_) | JsonEvent::Eof => return None,
    })
}

/// An event that does not borrow the parser, which is asked for more while the event is held.
fn owned(event: JsonEvent<'_>) -> JsonEvent<'static> {
    match event {
        JsonEvent::String(text) => JsonEvent::String(text.into_owned().into()),
        JsonEvent::Number(text) => JsonEvent::Number(text.into_owned().into()),
        JsonEvent::ObjectKey(text) => JsonEvent::ObjectKey(text.into_owned().into()),
        JsonEvent::Boolean(b) => JsonEvent::Boolean(b),
        JsonEvent::Null => JsonEvent::Null,
        JsonEvent::StartArray => JsonEvent::StartArray,
        JsonEvent::EndArray => JsonEvent::EndArray,
        JsonEvent::StartObject => JsonEvent::StartObject,
        JsonEvent::EndObject => JsonEvent::EndObject,
        JsonEvent::Eof => JsonEvent::Eof,
    }
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(b'n'),
        Value::Bool(true) => out.push(b't'),
        Value::Bool(false) => out.push(b'f'),
        Value::Number(text) => write_text(b'#', text, out),
        Value::String(text) => write_text(b'"', text, out),
        Value::Array(items) => {
            write_len(b'[', items.len(), out);
            items.iter().for_each(|item| write(item, out));
        }
        Value::Object(members) => {
            // Stable: members of the same name keep their order, since the last or the first may win at the origin.
            let mut sorted: Vec<&(String, Value)> = members.iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            write_len(b'{', sorted.len(), out);
            for (name, member) in sorted {
                write_text(b'"', name, out);
                write(member, out);
            }
        }
    }
}

fn write_text(tag: u8, text: &str, out: &mut Vec<u8>) {
    write_len(tag, text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

fn write_len(tag: u8, len: usize, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&(len as u64).to_le_bytes());
}

/// One text per number: 100, 100.00 and 1e2 are equal, 9007199254740993 and 9007199254740992 are not. A number whose
/// exponent does not fit 64 bits keeps its own text.
pub(crate) fn exact_number(text: &str) -> String {
    let (sign, unsigned) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => match exponent.parse::<i64>() {
            Ok(exponent) => (mantissa, exponent),
            Err(_) => return text.to_owned(),
        },
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return "0".to_owned();
    }
    let zeros = digits.len() - digits.trim_end_matches('0').len();
    let shift = i64::try_from(zeros).and_then(|zeros| Ok(zeros - i64::try_from(fraction.len())?));
    match shift.ok().and_then(|shift| exponent.checked_add(shift)) {
        Some(exponent) => format!("{sign}{significant}e{exponent}"),
        None => text.to_owned(),
    }
}
