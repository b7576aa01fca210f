//! JSON values in one canonical byte form, exact to the last digit.
//!
//! RFC 8785 is not used: its numbers are doubles, so that 9007199254740993 and ...992 would be one amount.

use std::borrow::Cow;

use json_event_parser::{JsonEvent, SliceJsonParser};

use crate::key::Pointer;

/// Deeper content is compared as bytes; real requests stay far below, and a stack has an end.
const DEPTH_MAX: usize = 64;

/// Content of more values is compared as bytes: a value takes two bytes to send and some sixty to hold.
const VALUES_MAX: usize = 1 << 17;

pub(crate) enum Value<'c> {
    Null,
    Bool(bool),
    Number(Cow<'c, str>),
    String(Cow<'c, str>),
    Array(Vec<Value<'c>>),
    /// In the order sent, duplicates included.
    Object(Vec<(Cow<'c, str>, Value<'c>)>),
}

/// A content that is JSON, for whoever reads several members of it.
pub(crate) struct Document<'c>(Value<'c>);

impl<'c> Document<'c> {
    /// `None` when the content is not JSON.
    pub(crate) fn read(content: &'c [u8]) -> Option<Document<'c>> {
        parse(content).map(Document)
    }

    /// What is at a pointer, if that is one value and not several members of the same name.
    pub(crate) fn at(&self, pointer: &Pointer) -> Option<&Value<'c>> {
        self.find(pointer).ok().flatten()
    }

    /// The same for whom several members of the same name are not none.
    pub(crate) fn find(&self, pointer: &Pointer) -> Result<Option<&Value<'c>>, Ambiguous> {
        find(&self.0, pointer)
    }
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
        Ok(Some(Value::String(text))) => Member::Text(text.to_string()),
        Ok(Some(Value::Null) | None) => Member::Absent,
        Ok(Some(_)) | Err(Ambiguous) => Member::Other,
    }
}

/// Several members have that name.
pub(crate) struct Ambiguous;

fn find<'v, 'c>(value: &'v Value<'c>, pointer: &Pointer) -> Result<Option<&'v Value<'c>>, Ambiguous> {
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

fn remove(value: &mut Value<'_>, tokens: &[String]) {
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

fn parse(content: &[u8]) -> Option<Value<'_>> {
    let mut parser = SliceJsonParser::new(content);
    let first = parser.parse_next().ok()?;
    let mut values_left = VALUES_MAX;
    let value = read(&mut parser, first, DEPTH_MAX, &mut values_left)?;
    matches!(parser.parse_next(), Ok(JsonEvent::Eof)).then_some(value)
}

fn read<'c>(
    parser: &mut SliceJsonParser<'c>,
    event: JsonEvent<'c>,
    depth_left: usize,
    values_left: &mut usize,
) -> Option<Value<'c>> {
    let depth_left = depth_left.checked_sub(1)?;
    *values_left = values_left.checked_sub(1)?;
    Some(match event {
        JsonEvent::Null => Value::Null,
        JsonEvent::Boolean(b) => Value::Bool(b),
        JsonEvent::Number(text) => Value::Number(text),
        JsonEvent::String(text) => Value::String(text),
        JsonEvent::StartArray => {
            let mut items = Vec::new();
            loop {
                match parser.parse_next().ok()? {
                    JsonEvent::EndArray => break Value::Array(items),
                    event => items.push(read(parser, event, depth_left, values_left)?),
                }
            }
        }
        JsonEvent::StartObject => {
            let mut members = Vec::new();
            loop {
                match parser.parse_next().ok()? {
                    JsonEvent::EndObject => break Value::Object(members),
                    JsonEvent::ObjectKey(name) => {
                        let event = parser.parse_next().ok()?;
                        members.push((name, read(parser, event, depth_left, values_left)?));
                    }
                    _ => return None,
                }
            }
        }
        JsonEvent::EndArray | JsonEvent::EndObject | JsonEvent::ObjectKey(_) | JsonEvent::Eof => return None,
    })
}

fn write(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(b'n'),
        Value::Bool(true) => out.push(b't'),
        Value::Bool(false) => out.push(b'f'),
        Value::Number(text) => write_text(b'#', &exact_number(text), out),
        Value::String(text) => write_text(b'"', text, out),
        Value::Array(items) => {
            write_len(b'[', items.len(), out);
            items.iter().for_each(|item| write(item, out));
        }
        Value::Object(members) => {
            // Stable: members of the same name keep their order, since the last or the first may win at the origin.
            let mut sorted: Vec<&(Cow<'_, str>, Value<'_>)> = members.iter().collect();
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
fn exact_number(text: &str) -> String {
    one_number(text).unwrap_or_else(|| text.to_owned())
}

/// The same, and `None` where the exponent does not fit.
pub(crate) fn one_number(text: &str) -> Option<String> {
    let (sign, unsigned) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Some("0".to_owned());
    }
    let zeros = digits.len() - digits.trim_end_matches('0').len();
    let shift = i64::try_from(zeros).and_then(|zeros| Ok(zeros - i64::try_from(fraction.len())?));
    let exponent = exponent.checked_add(shift.ok()?)?;
    Some(format!("{sign}{significant}e{exponent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The canonical form, or what makes the content count as bytes.
    fn canonical(content: &str) -> Option<Vec<u8>> {
        canonical_without(content.as_bytes(), &[])
    }

    #[test]
    fn deep_content_is_compared_as_bytes_before_the_stack_ends() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(canonical(&nested(DEPTH_MAX)).is_some());
        assert!(canonical(&nested(DEPTH_MAX + 1)).is_none());
        assert!(canonical(&nested(1 << 20)).is_none());
        let members = |depth: usize| format!("{}0{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert!(canonical(&members(DEPTH_MAX - 1)).is_some());
        assert!(canonical(&members(1 << 18)).is_none());
    }

    #[test]
    fn content_of_too_many_values_is_compared_as_bytes() {
        let array = |values: usize| format!("[{}0]", "0,".repeat(values - 1));
        assert!(canonical(&array(VALUES_MAX - 1)).is_some());
        assert!(canonical(&array(VALUES_MAX)).is_none());
    }

    #[test]
    fn numbers_have_one_text() {
        let table = [
            ("100 100.00 1e2 1E+2 10e1 0.1e3 1000e-1", "1e2"),
            ("0 -0 0.0 0e5 -0.00e-7", "0"),
            ("-1.50 -15e-1", "-15e-1"),
            ("9007199254740992", "9007199254740992e0"),
            ("9007199254740993 9007199254740993.0", "9007199254740993e0"),
            ("1e400", "1e400"),
            ("1e401 10e400", "1e401"),
            ("1e9223372036854775807", "1e9223372036854775807"),
            // What 64 bits cannot hold is compared as it was sent.
            ("10e9223372036854775807", "10e9223372036854775807"),
            ("0.1e-9223372036854775808", "0.1e-9223372036854775808"),
            ("1e99999999999999999999", "1e99999999999999999999"),
        ];
        for (texts, expected) in table {
            for text in texts.split(' ') {
                assert_eq!(exact_number(text), expected, "{text}");
            }
        }
        let digits = "7".repeat(1 << 20);
        assert_eq!(exact_number(&digits), format!("{digits}e0"));
    }
}
