//! Probes: how an origin is asked what became of a request whose outcome is unknown (`design.md` section 5).

use std::{collections::BTreeMap, fmt::Write as _, str::FromStr, time::Duration};

use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{DurationText, Effect, Effects, OnUnknown, RoutePolicy, StatusPattern, words::from_text};
use crate::{
    fingerprint::{Document, Value},
    key::{KeyRule, Pointer},
    release::{KEY_VARIABLE, decoded},
};

/// How a route's origin is asked, with every setting resolved. It is asked with `GET`, and changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeRule {
    /// Where, once its variables have values.
    pub path: ProbePath,
    shows: Effects,
    /// A member of the JSON content that is there, and not empty, only if the effect happened: for an address that answers
    /// with a list. Without it nothing has happened, whatever the status.
    pub member: Option<Pointer>,
    /// What of the content is kept as the reply.
    pub keep: Keep,
    /// The status that a kept reply has, since what a `GET` answers stands for the reply of another method; `None`: as
    /// the origin answers.
    pub status: Option<StatusCode>,
    /// How long the origin may take to answer; past it the outcome stays unknown.
    pub probe_max: Duration,
    /// How old the record must be before it is believed that nothing has happened: an attempt that is still on its way
    /// could have its effect after the origin was asked. Counted from the last write of the record, which is never before
    /// the attempt that it is about was sent.
    pub after: Duration,
}

/// What of an answer stands for the reply of the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// All of the content.
    #[default]
    Content,
    /// [`ProbeRule::member`] alone, byte for byte: the one item of a list.
    Member,
}

/// What an origin's answer shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// The effect happened, and this content stands for the reply.
    Found,
    /// It has not happened.
    Absent,
    /// Neither.
    Undecided,
}

impl ProbeRule {
    /// What a status says by itself.
    pub fn shown_by_status(&self, status: u16) -> Shown {
        match self.shows.of(status) {
            Effect::Happened => Shown::Found,
            Effect::None => Shown::Absent,
            Effect::Unknown => Shown::Undecided,
        }
    }

    /// What the whole content of an answer says whose status shows [`Shown::Found`].
    pub fn shown_by_content(&self, content: &[u8]) -> Shown {
        let Some(pointer) = &self.member else { return Shown::Found };
        // What cannot be read is no proof of absence.
        let Some(document) = Document::read(content) else { return Shown::Undecided };
        let Ok(value) = document.find(pointer) else { return Shown::Undecided };
        match value {
            // A list that is not there, since the origin calls it something else today, is no empty list.
            None => match pointer.parent().map_or(Ok(Some(&Value::Null)), |parent| document.find(&parent)) {
                Ok(Some(Value::Array(_) | Value::Object(_) | Value::Null)) => Shown::Absent,
                Ok(None | Some(Value::Bool(_) | Value::Number(_) | Value::String(_))) | Err(_) => Shown::Undecided,
            },
            Some(Value::Null) => Shown::Absent,
            Some(Value::String(text)) if text.is_empty() => Shown::Absent,
            Some(Value::Array(items)) if items.is_empty() => Shown::Absent,
            Some(Value::Object(members)) if members.is_empty() => Shown::Absent,
            Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => {
                Shown::Found
            }
        }
    }

    /// What of a content that shows [`Shown::Found`] is kept; `None` where it is all of it.
    pub fn kept_of<'c>(&self, content: &'c [u8]) -> Option<&'c [u8]> {
        match (self.keep, &self.member) {
            (Keep::Content, _) | (Keep::Member, None) => None,
            (Keep::Member, Some(pointer)) => raw_member(std::str::from_utf8(content).ok()?, pointer).map(str::as_bytes),
        }
    }

    /// The statuses that show it, as ranges.
    pub fn statuses_that_show(&self, shown: Shown) -> Vec<(u16, u16)> {
        self.shows.ranges(match shown {
            Shown::Found => Effect::Happened,
            Shown::Absent => Effect::None,
            Shown::Undecided => Effect::Unknown,
        })
    }
}

/// The text of a member as it was sent, so that no number changes.
fn raw_member<'c>(content: &'c str, pointer: &Pointer) -> Option<&'c str> {
    let mut at = content;
    for token in pointer.tokens() {
        at = if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(at) {
            items.get(token.parse::<usize>().ok()?)?.get()
        } else {
            serde_json::from_str::<BTreeMap<String, &RawValue>>(at).ok()?.get(&token)?.get()
        };
    }
    Some(at)
}

/// Path and query with `{name}` for a value, which is percent-encoded: `/orders?reference={key}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbePath {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Literal(String),
    Variable(String),
}

impl ProbePath {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// The target with these values in it; `None` when a variable has none, or a value would lead to another place.
    pub(crate) fn fill(&self, values: &[(&str, &str)]) -> Option<String> {
        let mut target = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => target.push_str(literal),
                Part::Variable(name) => {
                    let value = values.iter().find(|(bound, _)| bound == name)?.1;
                    if value.is_empty() {
                        return None;
                    }
                    encode(value, &mut target);
                }
            }
        }
        // Dots are never encoded (RFC 3986 section 2.3), and whoever reads the path resolves them (section 5.2.4).
        let path = target.split('?').next().unwrap_or_default();
        let leads_elsewhere = path.split('/').any(|segment| matches!(segment, "." | ".."));
        (!leads_elsewhere).then_some(target)
    }
}

/// All but the unreserved characters (RFC 3986 section 2.3), so that a value stays one in a path and in a query.
fn encode(value: &str, out: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a string takes everything");
        }
    }
}

impl FromStr for ProbePath {
    type Err = String;
    fn from_str(text: &str) -> Result<ProbePath, String> {
        let wrong = |why: &str| {
            Err(format!("the path of a probe, such as \"/orders/by-key/{{key}}\", {why}; found \"{text}\""))
        };
        if !text.starts_with('/') {
            return wrong("must start with a slash");
        }
        if !text.bytes().all(|b| b.is_ascii_graphic() && !b"#\"<>\\^`|*".contains(&b)) {
            return wrong("may hold the characters of a path and a query, and {name}");
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let Some((name, after)) = rest[at..].strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
                return wrong("has a brace too many");
            };
            if name.is_empty() || name.contains('{') {
                return wrong("has a variable without a name");
            }
            parts.extend([Part::Literal(rest[..at].to_owned()), Part::Variable(name.to_owned())]);
            rest = after;
        }
        parts.push(Part::Literal(rest.to_owned()));
        Ok(ProbePath { text: text.to_owned(), parts })
    }
}

impl<'de> Deserialize<'de> for ProbePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ProbePath, D::Error> {
        from_text(deserializer)
    }
}

/// `[route.probe]`; see [`ProbeRule`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each is documented at the member of ProbeRule of the same name")]
pub struct ProbeSettings {
    pub path: ProbePath,
    #[serde(default = "ok")]
    pub found: Vec<StatusPattern>,
    #[serde(default = "not_found")]
    pub absent: Vec<StatusPattern>,
    pub member: Option<Pointer>,
    #[serde(default)]
    pub keep: Keep,
    pub status: Option<u16>,
    pub probe_max: Option<DurationText>,
    pub after: Option<DurationText>,
}

fn ok() -> Vec<StatusPattern> {
    vec![StatusPattern::from(StatusCode::OK)]
}

fn not_found() -> Vec<StatusPattern> {
    vec![StatusPattern::from(StatusCode::NOT_FOUND)]
}

/// Default of [`ProbeRule::probe_max`].
const PROBE_MAX: Duration = Duration::from_secs(5);

/// What is written of a route's probe, resolved together with the route.
pub(super) fn resolve(settings: Option<ProbeSettings>, route: &RoutePolicy) -> Result<Option<ProbeRule>, String> {
    let (settings, on_unknown) = (settings, route.on_unknown);
    let settings = match (settings, on_unknown) {
        (Some(settings), OnUnknown::Probe) => settings,
        (None, OnUnknown::Refuse | OnUnknown::Reexecute | OnUnknown::ForwardKey) => return Ok(None),
        (None, OnUnknown::Probe) => {
            return Err(
                "`on_unknown = \"probe\"` needs [route.probe], which says where the origin tells what it did: \
                 path = \"/orders/by-key/{key}\""
                    .to_owned(),
            );
        }
        (Some(_), OnUnknown::Refuse | OnUnknown::Reexecute | OnUnknown::ForwardKey) => {
            return Err("[route.probe] needs `on_unknown = \"probe\"`".to_owned());
        }
    };
    let has_key = match &route.key {
        KeyRule::Header { .. } | KeyRule::Member { .. } => true,
        KeyRule::Operation => false,
    };
    let path = settings.path;
    if has_key && !path.variables().any(|name| name == KEY_VARIABLE) {
        let text = path.as_str();
        return Err(format!("the path of a probe must name what it asks for by {{key}}; found \"{text}\""));
    }
    let is_known = |name: &str| (has_key && name == KEY_VARIABLE) || route.path.variables().any(|known| known == name);
    if let Some(name) = path.variables().find(|name| !is_known(name)) {
        let (text, route) = (path.as_str(), route.path.as_str());
        return Err(format!(
            "the path of a probe has no value for {{{name}}} on the route \"{route}\"; found \"{text}\""
        ));
    }
    let shows = Effects::new(&settings.found, &settings.absent, &[])
        .map_err(|_| "a status shows either `found` or `absent`, not both".to_owned())?;
    if settings.found.is_empty() || settings.absent.is_empty() {
        return Err(
            "a probe needs a status for `found` and one for `absent`, such as [\"200\"] and [\"404\"]".to_owned()
        );
    }
    if (500..=599).any(|status| shows.of(status) != Effect::Unknown) {
        return Err("a 5xx says nothing of what happened: leave it out of `found` and `absent`".to_owned());
    }
    let status = match settings.status {
        None => None,
        Some(number) => {
            let status = StatusCode::from_u16(number).ok().filter(|_| route.effect_of(number) == Effect::Happened);
            let wrong =
                || format!("`status` must be one that means that it happened (see effect_happened), found {number}");
            Some(status.ok_or_else(wrong)?)
        }
    };
    if settings.keep == Keep::Member && settings.member.is_none() {
        return Err("`keep = \"member\"` needs `member`, a JSON Pointer such as \"/items/0\"".to_owned());
    }
    let keep = settings.keep;
    let probe_max = settings.probe_max.map_or(PROBE_MAX, |limit| limit.0);
    let after = settings.after.map_or(route.lease() * 2, |after| after.0);
    let relations = [
        (probe_max.is_zero(), "`probe_max` must be more than zero"),
        (
            after < route.lease(),
            "`after` must be at least `execution_max` + `grace`, or a request could arrive after it was taken for lost",
        ),
        (
            after >= route.unknown_for,
            "`after` must be less than `unknown_for`, or an unknown outcome would be forgotten before it is settled",
        ),
    ];
    match relations.iter().find(|(broken, _)| *broken) {
        Some((_, message)) => Err((*message).to_owned()),
        None => Ok(Some(ProbeRule { path, shows, member: settings.member, keep, status, probe_max, after })),
    }
}

impl RoutePolicy {
    /// Where the origin is asked what became of a request on the normalised `path` whose key the origin knows as `key`;
    /// `None` where nobody can ask.
    pub(crate) fn probe_at(&self, path: &str, key: Option<&str>) -> Option<String> {
        let probe = self.probe.as_ref()?;
        let decode = |(name, segment)| Some((name, decoded(segment)?));
        let bound: Vec<(&str, String)> = self.path.bind(path)?.into_iter().map(decode).collect::<Option<_>>()?;
        let values = key.map(|key| (KEY_VARIABLE, key)).into_iter();
        let values: Vec<(&str, &str)> =
            values.chain(bound.iter().map(|(name, value)| (*name, value.as_str()))).collect();
        probe.path.fill(&values)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn where_the_origin_is_asked() {
        let table = [
            ("/orders/{key}", "o-1"),
            ("/orders/{key}", "a/b c%?#&"),
            ("/orders?reference={key}&shop={shop}", "a&b=c+d"),
            ("/shops/{shop}/orders/x{key}y", "1"),
            ("/orders/{key}", ".."),
            ("/orders/{key}", "."),
            ("/orders?of={key}", ".."),
            ("/orders/{key}/", ""),
            ("/{unbound}/{key}", "1"),
        ];
        let filled = table.map(|(path, key)| {
            let path: ProbePath = path.parse().unwrap();
            let target = path.fill(&[("key", key), ("shop", "caf\u{e9} 7")]);
            format!("{} {key:?}: {}\n", path.as_str(), target.as_deref().unwrap_or("nobody is asked"))
        });
        expect![[r#"
            /orders/{key} "o-1": /orders/o-1
            /orders/{key} "a/b c%?#&": /orders/a%2Fb%20c%25%3F%23%26
            /orders?reference={key}&shop={shop} "a&b=c+d": /orders?reference=a%26b%3Dc%2Bd&shop=caf%C3%A9%207
            /shops/{shop}/orders/x{key}y "1": /shops/caf%C3%A9%207/orders/x1y
            /orders/{key} "..": nobody is asked
            /orders/{key} ".": nobody is asked
            /orders?of={key} "..": /orders?of=..
            /orders/{key}/ "": nobody is asked
            /{unbound}/{key} "1": nobody is asked
        "#]]
        .assert_eq(&filled.concat());
    }

    #[test]
    fn what_an_answer_shows() {
        let rule = |member: Option<&str>| ProbeRule {
            path: "/o/{key}".parse().unwrap(),
            shows: Effects::new(&["2xx".parse().unwrap()], &["404".parse().unwrap()], &[]).unwrap(),
            member: member.map(|pointer| pointer.parse().unwrap()),
            keep: if member.is_some() { Keep::Member } else { Keep::Content },
            status: None,
            probe_max: PROBE_MAX,
            after: PROBE_MAX,
        };
        let mut out = String::new();
        for status in [200, 204, 302, 401, 404, 410, 429, 500] {
            writeln!(out, "{status}: {:?}", rule(None).shown_by_status(status)).unwrap();
        }
        for (pointer, content) in [
            ("/items/0", r#"{"items":[ {"amount" : 1.10, "n":9007199254740993} ]}"#),
            ("/items/0", r#"{"items":[]}"#),
            ("/items/0", r#"{"items":null}"#),
            ("/items", r#"{"items":{}}"#),
            ("/items", "{}"),
            ("/items/0", r#"{"results":[{}]}"#),
            ("/items/0", r#"{"items":"none"}"#),
            ("/0/id", r#"[{"id":""}]"#),
            ("/0/id", r#"[{"id":0}]"#),
            ("/a~1b/c", r#"{"a/b":{"c":false}}"#),
            // What cannot be read, or read in one way only, proves nothing.
            ("/id", r#"{"id":1,"id":2}"#),
            ("/id", r#"{"id":1"#),
            ("/id", ""),
            ("/id", "<html>"),
        ] {
            let rule = rule(Some(pointer));
            let kept = rule.kept_of(content.as_bytes()).map(String::from_utf8_lossy);
            let shown = rule.shown_by_content(content.as_bytes());
            let kept = kept.filter(|_| shown == Shown::Found).unwrap_or_default();
            writeln!(out, "{pointer} of {content}: {shown:?} {kept}").unwrap();
        }
        assert_eq!(rule(None).shown_by_content(b"<html>"), Shown::Found);
        expect![[r#"
            200: Found
            204: Found
            302: Undecided
            401: Undecided
            404: Absent
            410: Undecided
            429: Undecided
            500: Undecided
            /items/0 of {"items":[ {"amount" : 1.10, "n":9007199254740993} ]}: Found {"amount" : 1.10, "n":9007199254740993}
            /items/0 of {"items":[]}: Absent 
            /items/0 of {"items":null}: Absent 
            /items of {"items":{}}: Absent 
            /items of {}: Absent 
            /items/0 of {"results":[{}]}: Undecided 
            /items/0 of {"items":"none"}: Undecided 
            /0/id of [{"id":""}]: Absent 
            /0/id of [{"id":0}]: Found 0
            /a~1b/c of {"a/b":{"c":false}}: Found false
            /id of {"id":1,"id":2}: Undecided 
            /id of {"id":1: Undecided 
            /id of : Undecided 
            /id of <html>: Undecided 
        "#]].assert_eq(&out);
    }
}
