//! Guards: a rule of business that no two live records of a caller may break, such as one pending order per account and
//! amount (E10).
//!
//! What a guard is about are values: members of the content, or of the kept reply to an earlier request that the content
//! names. [`GuardRule::ask`] reads the first and says which records hold the others; [`GuardQuestion::answer`] judges
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
#[derive(Clone, PartialEq, Eq)]
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
#[derive(Clone, PartialEq, Eq)]
enum Part {
    Read(Canonical),
    Unreadable(String),
    Asked { record: RecordKey, source: ReplySource },
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
                        let scope = Scope { principal, method: source.method.as_str(), path: &source.path };
                        Part::Asked { record: RecordKey::of(secret, &scope, &key), source: source.clone() }
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
            Part::Asked { record, source } => {
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

    /// The records whose kept replies the answer needs, each once.
    pub fn references(&self) -> Vec<RecordKey> {
        let mut records: Vec<RecordKey> = self
            .conditions
            .iter()
            .map(|(part, _)| part)
            .chain(&self.values)
            .filter_map(|part| match part {
                Part::Asked { record, .. } => Some(*record),
                Part::Read(_) | Part::Unreadable(_) => None,
            })
            .collect();
        records.sort_unstable();
        records.dedup();
        records
    }

    /// Answers by what a store found of [`GuardQuestion::references`].
    ///
    /// Only the kept reply of a success counts: what is in flight, unknown or forgotten says nothing.
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
                owner: self.owner,
                resource: self.resource,
                hold_for: self.hold_for,
            }),
            Err(why) => incomplete(why),
        }
    }
}
