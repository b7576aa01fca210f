//! Guards: a rule of business that no two live records of a caller may break, such as one pending order per account and
//! amount (E10).
//!
//! What a guard is about are values: members of the content, or of the kept reply to an earlier request that the content
//! names. `GuardRule::ask` reads the first and says which records hold the others; [`GuardQuestion::answer`] judges
//! what a store found of those. Whatever cannot be read refuses the request, since it would pass the guard unseen.

use std::{collections::BTreeMap, fmt, time::Duration};

use http::Method;

use crate::{
    exchange::{Guard, GuardClaim},
    fingerprint::{Document, Value, one_number},
    key::{Grammar, Key, Pointer},
    record::{Kept, Phase, Reply},
    register::Found,
    scope::{Principal, RecordKey, Scope, Secret},
    seal::{Opener, Seal},
    wire::{Problem, ProblemType},
};

/// The guard of a route, with every setting resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuardRule {
    /// Its name; guards of the same name share their registers.
    pub name: String,
    /// What no two live records may have in common, all of it together.
    pub values: Vec<Source>,
    /// When it applies: only while all of these are met. Judged in order; the first that is not met decides.
    pub when: Vec<Condition>,
    /// How long after its claim it is held at most, whatever becomes of its owner.
    pub hold_for: Duration,
    /// Whether a caller may pass it with a reason (Q14).
    pub overriding: Overriding,
}

/// Whether a caller may pass a guard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Overriding {
    /// Nobody may; the header means nothing here.
    Never,
    /// A request with `Guard-Override: <reason>` neither asks nor takes the guard, and is logged.
    WithReason,
}

/// Where a value is read from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A member of the content.
    Content(Pointer),
    /// A member of a kept reply.
    Reply(ReplySource),
}

/// A member of the kept reply to an earlier request of the same caller, which the content names by its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplySource {
    /// The method of that request.
    pub method: Method,
    /// Its path, normalised.
    pub path: String,
    /// The path that scopes the keys of its route.
    pub scope_path: String,
    /// Where in the content its key is.
    pub key: Pointer,
    /// Which texts are keys of its route.
    pub grammar: Grammar,
    /// The longest key of its route, in bytes.
    pub key_bytes_max: usize,
    /// Where in its reply the value is.
    pub member: Pointer,
    /// What the caller is told when there is no such reply.
    pub absent: Option<String>,
}

/// Something that must be so for a guard to apply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// What is looked at.
    pub source: Source,
    /// What it may be, compared as values are.
    pub is: Vec<String>,
}

/// A guard about one request, as far as its content says.
#[derive(Clone)]
pub struct GuardQuestion {
    name: String,
    principal: Principal,
    owner: RecordKey,
    resource: Option<String>,
    hold_for: Duration,
    conditions: Vec<(Part, Vec<Canonical>)>,
    values: Vec<Part>,
}

impl fmt::Debug for GuardQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A log shows neither contents nor replies.
        write!(f, "GuardQuestion({})", self.name)
    }
}

/// A value in the form in which values are compared (Q14).
///
/// Numbers and texts that look like numbers are numbers, to the last digit; UUIDs are one however they are spelled; other
/// texts are compared byte by byte, and `true` is the text. So a currency is a value of its own, and "MXN" is not "mxn".
#[derive(Clone, PartialEq, Eq)]
struct Canonical(Vec<u8>);

impl Canonical {
    fn of(value: &Value<'_>) -> Option<Canonical> {
        match value {
            Value::Bool(true) => Canonical::of_text("true"),
            Value::Bool(false) => Canonical::of_text("false"),
            Value::Number(text) => one_number(text).map(|number| Canonical::tagged(b'#', &number)),
            Value::String(text) => Canonical::of_text(text),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// `None` for a text that says nothing.
    fn of_text(text: &str) -> Option<Canonical> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return None;
        }
        // A UUID goes first: one without hyphens may have digits only.
        if let Ok(uuid) = uuid::Uuid::try_parse(trimmed) {
            return Some(Canonical::tagged(b'u', &uuid.hyphenated().to_string()));
        }
        let number = looks_like_a_number(trimmed).and_then(one_number);
        Some(number.map_or_else(|| Canonical::tagged(b'"', text), |number| Canonical::tagged(b'#', &number)))
    }

    fn tagged(tag: u8, text: &str) -> Canonical {
        Canonical([&[tag], text.as_bytes()].concat())
    }
}

/// The number in a text, less the plus sign that JSON does not know. Wider than JSON: `007`, `.5`, `5.` and `+5` are
/// numbers to whoever parses a text for one.
fn looks_like_a_number(text: &str) -> Option<&str> {
    let text = text.strip_prefix('+').filter(|rest| !rest.starts_with('-')).unwrap_or(text);
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let is_number = all_digits(whole)
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && all_digits(digits)
        && !digits.is_empty();
    is_number.then_some(text)
}

/// A value, or what is missing for it.
#[derive(Clone)]
enum Part {
    Read(Canonical),
    Unreadable(String),
    Asked { record: RecordKey, seal: Seal, source: Box<ReplySource> },
}

impl GuardRule {
    /// Reads what the content says. `owner` is the record of the request, and `resource` where its resource is.
    pub(crate) fn ask(
        &self,
        secret: &Secret,
        principal: Principal,
        owner: RecordKey,
        resource: Option<String>,
        content: &[u8],
    ) -> GuardQuestion {
        let document = Document::read(content);
        let part = |source: &Source| Part::of(source, secret, principal, document.as_ref());
        let condition = |condition: &Condition| {
            let is = condition.is.iter().filter_map(|text| Canonical::of_text(text)).collect();
            (part(&condition.source), is)
        };
        GuardQuestion {
            name: self.name.clone(),
            principal,
            owner,
            resource,
            hold_for: self.hold_for,
            conditions: self.when.iter().map(condition).collect(),
            values: self.values.iter().map(part).collect(),
        }
    }
}

impl Part {
    fn of(source: &Source, secret: &Secret, principal: Principal, document: Option<&Document<'_>>) -> Part {
        let read = |pointer: &Pointer| document.and_then(|document| document.at(pointer));
        match source {
            Source::Content(pointer) => {
                read(pointer).and_then(Canonical::of).map_or_else(|| Part::Unreadable(unreadable(pointer)), Part::Read)
            }
            Source::Reply(source) => {
                let key = match read(&source.key) {
                    Some(Value::String(text)) => {
                        Key::from_member(text.to_string(), source.grammar, source.key_bytes_max)
                            .map_err(|error| format!("Of the member {}: {error}.", source.key.as_str()))
                    }
                    Some(_) | None => Err(unreadable(&source.key)),
                };
                match key {
                    Ok(key) => {
                        let scope = Scope { principal, method: source.method.as_str(), path: &source.scope_path };
                        let record = RecordKey::of(secret, &scope, &key);
                        let seal = secret.seal(record, Opener::of(secret, &record, &key));
                        Part::Asked { record, seal, source: Box::new(source.clone()) }
                    }
                    Err(why) => Part::Unreadable(format!("{why}{NOTHING}")),
                }
            }
        }
    }

    /// Looks the value up in what was found.
    fn look_up(&self, replies: &BTreeMap<RecordKey, &Reply>) -> Result<Canonical, String> {
        match self {
            Part::Read(value) => Ok(value.clone()),
            Part::Unreadable(why) => Err(why.clone()),
            Part::Asked { record, source, .. } => {
                let request = format!("{} {}", source.method, source.path);
                let Some(reply) = replies.get(record) else {
                    return Err(source.absent.clone().unwrap_or_else(|| {
                        let key = source.key.as_str();
                        format!("There is no kept reply to a request {request} that the member {key} names.{NOTHING}")
                    }));
                };
                let value =
                    Document::read(&reply.content).and_then(|content| Canonical::of(content.at(&source.member)?));
                value.ok_or_else(|| {
                    let member = source.member.as_str();
                    format!("The kept reply to the request {request} does not say {member}.{NOTHING}")
                })
            }
        }
    }
}

const NOTHING: &str = " Nothing was executed.";

fn unreadable(pointer: &Pointer) -> String {
    format!(
        "The member {} of the JSON content must be there, and a text, a number, true or false.{NOTHING}",
        pointer.as_str()
    )
}

impl GuardQuestion {
    /// The guard's name, for logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The records whose kept replies the answer needs, each once, and what opens them.
    pub fn references(&self) -> Vec<(RecordKey, Seal)> {
        let parts = self.conditions.iter().map(|(part, _)| part).chain(&self.values);
        let records: BTreeMap<RecordKey, Seal> = parts
            .filter_map(|part| match part {
                Part::Asked { record, seal, .. } => Some((*record, seal.clone())),
                Part::Read(_) | Part::Unreadable(_) => None,
            })
            .collect();
        records.into_iter().collect()
    }

    /// Answers by what a store found of [`GuardQuestion::references`].
    ///
    /// Only the kept reply of a success counts: what is in flight, unknown, forgotten or still sealed says nothing.
    pub fn answer(self, secret: &Secret, found: &[(RecordKey, Option<Found>)]) -> Guard {
        let replies = found.iter().filter_map(|(record, found)| match &found.as_ref()?.record.phase {
            Phase::Completed { kept: Kept::Reply(reply), .. } if (200..300).contains(&reply.status) => {
                Some((*record, &**reply))
            }
            Phase::Completed { .. } | Phase::InFlight { .. } | Phase::Unknown | Phase::Held { .. } => None,
        });
        let replies: BTreeMap<RecordKey, &Reply> = replies.collect();
        let incomplete = |why: String| Guard::Incomplete(Problem::new(ProblemType::GuardIncomplete).detail(why));
        for (part, is) in &self.conditions {
            match part.look_up(&replies) {
                Ok(value) if is.contains(&value) => {}
                Ok(_) => return Guard::Unguarded,
                Err(why) => return incomplete(why),
            }
        }
        let values: Result<Vec<Vec<u8>>, String> =
            self.values.iter().map(|part| part.look_up(&replies).map(|value| value.0)).collect();
        match values {
            Ok(values) => Guard::Guarded(GuardClaim {
                key: RecordKey::of_guard(secret, &self.principal, &self.name, &values),
                opener: Opener::of_guard(secret, &self.principal, &self.name, &values),
                owner: self.owner,
                resource: self.resource,
                hold_for: self.hold_for,
            }),
            Err(why) => incomplete(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of_json(content: &str) -> Option<Canonical> {
        Canonical::of(Document::read(content.as_bytes())?.at(&"/v".parse().expect("a pointer"))?)
    }

    fn shown(json: &str) -> String {
        let value = of_json(&format!("{{\"v\":{json}}}"));
        value.map_or_else(|| "nothing".to_owned(), |value| String::from_utf8(value.0).expect("text"))
    }

    #[test]
    fn q14_values_have_one_spelling() {
        let table = [
            // Amounts.
            (
                "100 100.00 1e2 1E+2 100e0 0.1e3 \"100\" \"100.00\" \"1e2\" \"+100\" \"0100\" \"100.\" \"+100e0\"",
                "#1e2",
            ),
            ("0 -0 0.0 0e9 \"-0\" \"+0\" \"000\" \".0\" \"-0e3\"", "#0"),
            ("-1.5 \"-1.50\" \"-15e-1\"", "#-15e-1"),
            ("9007199254740993 \"9007199254740993.0\"", "#9007199254740993e0"),
            ("9007199254740992", "#9007199254740992e0"),
            // UUIDs, by any spelling.
            (
                "\"5F1E8A52-7C1D-4E67-9A4D-7E5A1F0C2B11\" \"5f1e8a527c1d4e679a4d7e5a1f0c2b11\" \
                 \"{5f1e8a52-7c1d-4e67-9a4d-7e5a1f0c2b11}\" \"urn:uuid:5f1e8a52-7c1d-4e67-9a4d-7e5a1f0c2b11\"",
                "u5f1e8a52-7c1d-4e67-9a4d-7e5a1f0c2b11",
            ),
            // Texts, byte by byte.
            ("\"MXN\"", "\"MXN"),
            ("\"mxn\"", "\"mxn"),
            ("true \"true\"", "\"true"),
            ("\"1,000\"", "\"1,000"),
            ("\"1.2.3\"", "\"1.2.3"),
            ("\"+-1\"", "\"+-1"),
            ("\"--1\"", "\"--1"),
            ("\"1e\"", "\"1e"),
            ("\"e1\"", "\"e1"),
            ("\".\"", "\"."),
            ("\"-\"", "\"-"),
            ("\"0x10\"", "\"0x10"),
            ("\"NaN\"", "\"NaN"),
            ("\"\u{0661}\"", "\"\u{0661}"),
            // A text that no exact number can be made of is itself; a number of that kind is nothing that compares.
            ("\"1e99999999999999999999\"", "\"1e99999999999999999999"),
            ("1e99999999999999999999", "nothing"),
            ("null [] [1] {} {\"v\":1} \"\" \"\\t\"", "nothing"),
        ];
        for (spellings, expected) in table {
            for json in spellings.split(' ') {
                assert_eq!(shown(json), expected, "{json}");
            }
        }
        assert_eq!(shown("\" MXN\""), "\" MXN", "only numbers and UUIDs may have spaces around them");
    }

    /// A decimal number in one of its spellings: `digits` shifted by `exponent`.
    fn spelled(negative: bool, digits: u64, exponent: i8, zeros: usize, point: usize, style: u8) -> String {
        let digits = format!("{}{digits}{}", "0".repeat(zeros), "0".repeat(zeros));
        let exponent = i64::from(exponent) - i64::try_from(zeros).expect("few");
        let point = point % (digits.len() + 1);
        let (whole, fraction) = digits.split_at(digits.len() - point);
        let exponent = exponent + i64::try_from(point).expect("few");
        let sign = if negative { "-" } else { ["", "+"][usize::from(style & 1)] };
        let dot = if point > 0 || style & 2 > 0 { "." } else { "" };
        let e = if style & 4 > 0 { "E" } else { "e" };
        let plus = if style & 8 > 0 && exponent >= 0 { "+" } else { "" };
        format!("\"{sign}{whole}{dot}{fraction}{e}{plus}{exponent}\"")
    }

    proptest! {
        #[test]
        fn q14_spellings_of_one_number_are_one_and_of_two_numbers_two(
            (digits, other) in (any::<u64>(), any::<u64>()),
            (exponent, negative) in (any::<i8>(), any::<bool>()),
            a in (0usize..5, 0usize..30, 0u8..16),
            b in (0usize..5, 0usize..30, 0u8..16),
        ) {
            let negative = negative && digits > 0;
            let first = spelled(negative, digits, exponent, a.0, a.1, a.2);
            prop_assume!(first.len() != 34); // 32 digits may be a UUID
            let second = spelled(negative, digits, exponent, b.0, b.1, b.2);
            prop_assume!(second.len() != 34);
            prop_assert_eq!(shown(&first), shown(&second));
            let third = spelled(negative, other, exponent, b.0, b.1, b.2);
            prop_assume!(third.len() != 34 && other != digits);
            prop_assert_ne!(shown(&first), shown(&third), "{} {}", first, third);
        }

        #[test]
        fn q14_any_text_is_its_own_value_and_judging_twice_changes_nothing(text in "\\PC{0,40}") {
            let Some(Canonical(bytes)) = Canonical::of_text(&text) else {
                prop_assert!(text.trim().is_empty());
                return Ok(());
            };
            let (tag, value) = bytes.split_first().expect("a tag");
            let value = std::str::from_utf8(value).expect("text");
            match tag {
                b'"' => prop_assert_eq!(value, &text),
                b'#' | b'u' => prop_assert!(Canonical::of_text(value).is_some_and(|again| again.0 == bytes)),
                _ => prop_assert!(false, "{}", tag),
            }
        }

        #[test]
        fn q14_any_content_is_read_without_panic(content in "\\PC{0,60}") {
            let _ = of_json(&content);
        }
    }
}
