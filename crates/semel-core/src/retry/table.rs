//! The judgement tables: what the answers of one API mean, as data that every client library reads.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, LazyLock},
};

use serde::Deserialize;
use serde_json::Value;

use super::{Reply, Saw};
use crate::{
    admit::normalise_path,
    key::Pointer,
    policy::{PathTemplate, Preset},
    wire::IDEMPOTENCY_PROBLEM,
};

/// What the answers of one API mean. Valid by construction: [`Judgement::parse`] and [`Judgement::preset`] make one.
/// A clone is cheap.
#[derive(Clone, PartialEq, Debug)]
pub struct Judgement {
    table: Arc<Table>,
    /// How long and how often to go on.
    pub budget: Budget,
}

#[derive(PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    preset: String,
    doc: String,
    routes: Vec<Route>,
    budget: Budget,
    replayed: Vec<When>,
    log: LogFields,
    rules: Vec<Rule>,
}

/// How long and how often a client goes on. All times in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Attempts in one run: from a send or a resumption to its verdict.
    pub attempts_max: u32,
    /// How long one run may last.
    pub elapsed_max_ms: u64,
    /// How long one attempt may last; the caller of [`judge`](super::judge) enforces it.
    pub attempt_max_ms: u64,
    /// The pause after the first attempt is at most this, after the second twice as much, and so on.
    pub pause_base_ms: u64,
    /// No pause is longer, unless the API asks for one that is.
    pub pause_max_ms: u64,
    /// How long the API remembers a key; `None` where an id stays taken for as long as the resource exists.
    pub window_ms: Option<u64>,
    /// How long before the end of that window the last attempt may begin.
    pub margin_ms: u64,
}

/// What a path of the API does with keys.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    path: PathTemplate,
    /// Where the key goes.
    pub key: KeyPlace,
    read: Option<ReadRule>,
}

/// Where an API takes the key.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyPlace {
    /// A request header with this name.
    Header(String),
    /// A member of the JSON content.
    Member(Pointer),
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadRule {
    path: String,
    id: Pointer,
}

/// Where an API's contents have what every attempt logs (E34): the first member that is there counts.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFields {
    /// In the request: the caller's own id.
    pub reference: Vec<Pointer>,
    /// In the response.
    pub order_id: Vec<Pointer>,
    /// In the response.
    pub tracking_id: Vec<Pointer>,
}

/// One line of a table.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Rule {
    pub(super) when: When,
    pub(super) then: Conclusion,
}

/// Conditions on what an attempt saw; all that are set must hold.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct When {
    failure: Option<Failure>,
    status: Option<OneOrMore<StatusClass>>,
    code: Option<OneOrMore<String>>,
    text: Option<OneOrMore<String>>,
    member: Option<Pointer>,
    is: Option<Value>,
    header: Option<std::collections::BTreeMap<String, String>>,
    retryable: Option<bool>,
    open: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Failure {
    NotSent,
    NoResponse,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    fn any(&self, holds: impl Fn(&T) -> bool) -> bool {
        match self {
            OneOrMore::One(one) => holds(one),
            OneOrMore::More(more) => more.iter().any(holds),
        }
    }

    fn all(&self, holds: impl Fn(&T) -> bool) -> bool {
        match self {
            OneOrMore::One(one) => holds(one),
            OneOrMore::More(more) => more.iter().all(holds),
        }
    }
}

/// `"409"` or `"5xx"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct StatusClass {
    first: u16,
    last: u16,
}

impl FromStr for StatusClass {
    type Err = String;
    fn from_str(text: &str) -> Result<StatusClass, String> {
        let class = match text.strip_suffix("xx") {
            Some(class) => class.parse::<u16>().ok().map(|class| (class * 100, class * 100 + 99)),
            None => text.parse::<u16>().ok().map(|status| (status, status)),
        };
        class
            .filter(|(first, _)| text.len() == 3 && (100..=599).contains(first))
            .map(|(first, last)| StatusClass { first, last })
            .ok_or_else(|| format!("expected a status such as \"409\" or \"5xx\", found \"{text}\""))
    }
}

impl<'de> Deserialize<'de> for StatusClass {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<StatusClass, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What follows from a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Conclusion {
    pub(super) to: To,
    pub(super) proves: Proves,
    pub(super) why: String,
    pub(super) say: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum To {
    Done,
    Retry,
    /// Ask for the own resource; what follows where it is not there.
    Read(Box<Conclusion>),
    Rejected {
        resumable: bool,
    },
    Undecided,
}

/// What a reply proves about effects that did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Proves {
    /// This attempt may have had its effect.
    #[default]
    Nothing,
    /// This attempt had none; an earlier one may have had.
    Attempt,
    /// No attempt under this key so far had one.
    Key,
}

/// A rule as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    when: When,
    verdict: VerdictText,
    why: String,
    say: String,
    rows: String,
    #[serde(default)]
    proves: Proves,
    resumable: Option<bool>,
    otherwise: Option<OtherwiseText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OtherwiseText {
    verdict: VerdictText,
    why: String,
    say: String,
    #[serde(default)]
    proves: Proves,
    resumable: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum VerdictText {
    Done,
    Retry,
    Read,
    Rejected,
    Undecided,
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Rule, D::Error> {
        let text = RuleText::deserialize(deserializer)?;
        rule(text).map_err(serde::de::Error::custom)
    }
}

fn rule(text: RuleText) -> Result<Rule, String> {
    let RuleText { when, verdict, why, say, rows, proves, resumable, otherwise } = text;
    let wrong = |what: &str| Err(format!("rule \"{why}\": {what}"));
    if rows.is_empty() {
        return wrong("rows must name what demands it");
    }
    if let Some(what) = when.wrong() {
        return wrong(what);
    }
    let successes = |class: &StatusClass| class.first >= 200 && class.last <= 299;
    if verdict == VerdictText::Done && !when.status.as_ref().is_some_and(|status| status.all(successes)) {
        return wrong("done needs a status of success");
    }
    let sent = when.failure != Some(Failure::NotSent);
    if sent && when.code.is_none() && when.status.is_none() && proves != Proves::Nothing {
        return wrong("nothing is proven by a response that is not there");
    }
    if !sent && proves != Proves::Attempt {
        return wrong("what was not sent proves itself");
    }
    let to = match (verdict, otherwise) {
        (VerdictText::Read, Some(otherwise)) => {
            let OtherwiseText { verdict, why, say, proves, resumable } = otherwise;
            To::Read(Box::new(Conclusion { to: simple(verdict, resumable, &why)?, proves, why, say }))
        }
        (VerdictText::Read, None) => return wrong("read needs otherwise"),
        (_, Some(_)) => return wrong("otherwise belongs to read"),
        (verdict, None) => simple(verdict, resumable, &why)?,
    };
    Ok(Rule { when, then: Conclusion { to, proves, why, say } })
}

fn simple(verdict: VerdictText, resumable: Option<bool>, why: &str) -> Result<To, String> {
    match (verdict, resumable) {
        (VerdictText::Done, None) => Ok(To::Done),
        (VerdictText::Retry, None) => Ok(To::Retry),
        (VerdictText::Undecided, None) => Ok(To::Undecided),
        (VerdictText::Rejected, Some(resumable)) => Ok(To::Rejected { resumable }),
        (VerdictText::Rejected, None) => Err(format!("rule \"{why}\": rejected must say whether it is resumable")),
        (VerdictText::Read, _) => Err(format!("rule \"{why}\": a read cannot follow a read")),
        (VerdictText::Done | VerdictText::Retry | VerdictText::Undecided, Some(_)) => {
            Err(format!("rule \"{why}\": resumable belongs to rejected"))
        }
    }
}

/// Why a table is not one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a judgement table: {0}")]
pub struct TableError(String);

impl Judgement {
    /// The table of a preset.
    pub fn preset(preset: Preset) -> Judgement {
        static TABLES: LazyLock<Vec<(Preset, Judgement)>> = LazyLock::new(|| {
            let read = |preset| Judgement::parse(Judgement::source(preset)).expect("a test reads every preset's table");
            Preset::ALL.into_iter().map(|preset| (preset, read(preset))).collect()
        });
        let table = TABLES.iter().find(|(known, _)| *known == preset);
        table.expect("all of them are there").1.clone()
    }

    /// Its JSON.
    pub fn source(preset: Preset) -> &'static str {
        match preset {
            Preset::Ietf => include_str!("../../judgement/ietf.json"),
            Preset::Stripe => include_str!("../../judgement/stripe.json"),
            Preset::Etherfuse => include_str!("../../judgement/etherfuse.json"),
            Preset::Credicorp => include_str!("../../judgement/credicorp.json"),
            Preset::Yonne => include_str!("../../judgement/yonne.json"),
            Preset::Nora => include_str!("../../judgement/nora.json"),
        }
    }

    /// Reads a table, see `judgement/README.md`.
    pub fn parse(json: &str) -> Result<Judgement, TableError> {
        let table: Table = serde_json::from_str(json).map_err(|error| TableError(error.to_string()))?;
        let wrong = |what: &str| Err(TableError(what.to_owned()));
        if !table.rules.last().is_some_and(|last| last.when == When::default()) {
            return wrong("the last rule must match everything");
        }
        if table.routes.last().is_none_or(|last| last.path.as_str() != "/*") {
            return wrong("the last route must match every path");
        }
        if let Some(what) = table.replayed.iter().find_map(When::wrong) {
            return wrong(what);
        }
        for route in &table.routes {
            if let KeyPlace::Header(name) = &route.key
                && http::HeaderName::from_str(name).is_err()
            {
                return wrong("a key's header must be a header's name");
            }
            // The key goes into the address of the caller's own API and nowhere else.
            if route.read.as_ref().is_some_and(|read| !read.path.starts_with('/') || read.path.starts_with("//")) {
                return wrong("the path of a read must start with one slash");
            }
        }
        let Budget { attempts_max, elapsed_max_ms, attempt_max_ms, pause_base_ms, pause_max_ms, .. } = table.budget;
        if attempts_max == 0 || elapsed_max_ms == 0 || attempt_max_ms == 0 || pause_base_ms == 0 {
            return wrong("no budget may be zero");
        }
        if pause_max_ms < pause_base_ms {
            return wrong("pause_max_ms must not be less than pause_base_ms");
        }
        Ok(Judgement { budget: table.budget, table: Arc::new(table) })
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.table.rules
    }

    /// The preset's name.
    pub fn name(&self) -> &str {
        &self.table.preset
    }

    /// What the API does, in a sentence or two.
    pub fn doc(&self) -> &str {
        &self.table.doc
    }

    /// Where contents have what every attempt logs.
    pub fn log(&self) -> &LogFields {
        &self.table.log
    }

    /// What the API does with keys on this path (without query).
    pub fn route(&self, path: &str) -> &Route {
        let path = normalise_path(path);
        self.table.routes.iter().find(|route| route.path.matches(&path)).expect("the last route matches every path")
    }

    /// Whether an answer says that it is a replay.
    pub(super) fn is_replay(&self, saw: &Saw) -> bool {
        self.table.replayed.iter().any(|when| when.holds(saw, false))
    }
}

impl Route {
    /// The path of the resource that this key names, if the API has one; `/`-separated segments of the key are escaped.
    pub fn resource(&self, key: &str) -> Option<String> {
        Some(self.read.as_ref()?.path.replace("{key}", &escape(key)))
    }

    /// Whether this content shows the resource with this id.
    pub(super) fn shows(&self, content: &[u8], key: &str) -> bool {
        let Some(read) = &self.read else { return false };
        json(content).is_some_and(|content| content.pointer(read.id.as_str()).and_then(Value::as_str) == Some(key))
    }
}

/// Everything but unreserved characters (RFC 3986 section 2.3) as `%XX`.
fn escape(text: &str) -> String {
    use fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a String takes everything");
        }
        out
    })
}

pub(super) fn json(content: &[u8]) -> Option<Value> {
    serde_json::from_slice(content).ok()
}

impl When {
    fn wrong(&self) -> Option<&'static str> {
        if self.is.is_some() != self.member.is_some() {
            return Some("member and is belong together");
        }
        // Numbers are left out because languages differ in which of them are equal.
        let comparable = self.is.iter().all(|is| is.is_string() || is.is_boolean());
        (!comparable).then_some("is must be a text or a truth value")
    }

    pub(super) fn holds(&self, saw: &Saw, open: bool) -> bool {
        if self.open.is_some_and(|wanted| wanted != open) {
            return false;
        }
        match saw {
            Saw::NotSent => self.failure == Some(Failure::NotSent) || self.asks_nothing(),
            Saw::NoResponse => self.failure == Some(Failure::NoResponse) || self.asks_nothing(),
            Saw::Reply(reply) => self.failure.is_none() && self.holds_for(reply),
        }
    }

    fn asks_nothing(&self) -> bool {
        let When { failure, status, code, text, member, is: _, header, retryable, open: _ } = self;
        failure.is_none()
            && status.is_none()
            && code.is_none()
            && text.is_none()
            && member.is_none()
            && header.is_none()
            && retryable.is_none()
    }

    fn holds_for(&self, reply: &Reply) -> bool {
        let content = json(&reply.content);
        let status = |class: &StatusClass| (class.first..=class.last).contains(&reply.status.as_u16());
        let field = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok()).map(trim);
        let member = |pointer: &str| content.as_ref().and_then(|content| content.pointer(pointer));
        self.status.as_ref().is_none_or(|wanted| wanted.any(status))
            && self.code.as_ref().is_none_or(|wanted| {
                let code = field(IDEMPOTENCY_PROBLEM.as_str()).or_else(|| member("/code").and_then(Value::as_str));
                (400..=599).contains(&reply.status.as_u16())
                    && code.is_some_and(|code| wanted.any(|wanted| wanted == code))
            })
            && self.text.as_ref().is_none_or(|wanted| {
                words(&reply.content, content.as_ref()).is_some_and(|text| wanted.any(|wanted| *wanted == text))
            })
            && self.member.as_ref().is_none_or(|pointer| member(pointer.as_str()) == self.is.as_ref())
            && self.header.iter().flatten().all(|(name, wanted)| {
                field(name).is_some_and(|value| wanted == "*" || value.eq_ignore_ascii_case(wanted))
            })
            && self.retryable.is_none_or(|wanted| member("/retryable") == Some(&Value::Bool(wanted)))
    }
}

/// What a content says in words: the text of a JSON string or of a member `error` of an object, or else all of it.
fn words(content: &[u8], json: Option<&Value>) -> Option<String> {
    let text = match json {
        Some(Value::String(text)) => text,
        Some(Value::Object(members)) => members.get("error")?.as_str()?,
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) | None => {
            std::str::from_utf8(content).ok()?
        }
    };
    Some(trim(text).to_owned())
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
}
