//! From a request to what is asked of a store: which route covers it, under which key, with which fingerprint.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::{
    fingerprint::{Fingerprint, FingerprintRule, Member, Request, string_member},
    guard::{GuardQuestion, GuardRule, Overriding},
    key::{Grammar, Key, KeyError, KeyRule, Presence},
    policy::{OnLate, Policy, RoutePolicy},
    record::{About, TraceContext},
    scope::{Caller, Principal, RecordKey, Scope, Secret},
    seal::{Opener, Seal},
    wire::{
        GUARD_OVERRIDE, IDEMPOTENCY_KEY, KeyStatus, Problem, ProblemType, REPEATABILITY_FIRST_SENT, TRACEPARENT,
        Warning,
    },
};

/// The part of a request that is there before its content.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path as it was sent.
    pub path: &'a str,
    /// The query as it was sent, without the question mark.
    pub query: Option<&'a str>,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// Who was found to be asking; `None`: whom the policy's headers name.
    pub caller: Option<&'a Caller>,
}

/// What is to be done with a request.
#[derive(Debug)]
pub enum Admission {
    /// Not covered: it passes through untouched. The status, if any, is to be told in the response.
    Pass(Option<KeyStatus>),
    /// It is answered with a problem, and nothing is executed.
    Refuse(Refused),
    /// Covered: read its content within the route's limits, then ask [`Admitted::cover`].
    Read(Admitted),
}

/// A problem and the route whose statuses it is told with.
#[derive(Debug)]
pub struct Refused {
    /// The route.
    pub route: Arc<RoutePolicy>,
    /// What is wrong.
    pub problem: Problem,
}

/// A request that a route covers, before its content is read.
#[derive(Debug)]
pub struct Admitted {
    route: Arc<RoutePolicy>,
    key: Option<Key>,
}

/// A request of which everything is known that a store is asked about.
#[derive(Debug)]
pub struct Covered {
    /// The route that covers it.
    pub route: Arc<RoutePolicy>,
    /// Who asks.
    pub principal: Principal,
    /// The name of its record.
    pub record_key: RecordKey,
    /// What tells it from another request under the same key.
    pub fingerprint: Fingerprint,
    /// Where the resource is that a client-supplied id names.
    pub resource: Option<String>,
    /// What the caller should mend.
    pub warning: Option<Warning>,
    /// What is to be found out of its guard, before anything is claimed.
    pub guard: Option<GuardQuestion>,
    /// Why the caller passes the guard, where the route allows that (Q14).
    pub guard_override: Option<String>,
    /// The header by which the origin is sent the key, where that is not as the client sent it.
    pub sent: Option<(HeaderName, HeaderValue)>,
    /// Where the origin is asked what became of it: path and query; `None` where it is not.
    pub probe: Option<String>,
    /// What seals and opens its record.
    pub seal: Seal,
    /// What operators may see of its record.
    pub about: Arc<About>,
}

/// Judges a request before its content is read. `now` is the time since the Unix epoch by the caller's clock; it
/// matters only for keys and headers that say when they were made.
pub fn admit(policy: &Policy, head: &Head<'_>, now: Duration) -> Admission {
    let Some(route) = policy.route(head.method, &normalise_path(head.path)) else {
        // A key on a route that takes none must not be mistaken for protection (draft section 2.5.1).
        let ignored = head.headers.contains_key(IDEMPOTENCY_KEY).then_some(KeyStatus::Ignored);
        return Admission::Pass(ignored);
    };
    let refuse = |problem: Problem| Admission::Refuse(Refused { route: Arc::clone(route), problem });
    let key = match &route.key {
        KeyRule::Header { name, grammar, form, presence, attempt_suffix, sent: _ } => {
            match Key::from_header(head.headers, name, *grammar, *form, *attempt_suffix, route.key_bytes_max) {
                Ok(Some(key)) => Some(key),
                Ok(None) if *presence == Presence::Optional => return Admission::Pass(Some(KeyStatus::Absent)),
                Ok(None) => {
                    let detail = format!(
                        "This operation requires the header {}: a fresh unique value, such as a UUID, for every new operation and the same one on every retry. Nothing was executed.",
                        header_words(name)
                    );
                    return refuse(Problem::new(ProblemType::KeyMissing).detail(detail));
                }
                Err(error) => return refuse(key_invalid(&error)),
            }
        }
        KeyRule::Member { .. } | KeyRule::Operation => None,
    };
    if is_too_late(route, key.as_ref(), head.headers, now) {
        return refuse(Problem::new(ProblemType::TooLate));
    }
    // Known before a byte of the content is read, so an oversized upload is refused at once.
    let declared = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|bytes| bytes > route.request_body_bytes_max as u64) {
        return refuse(too_large(route));
    }
    Admission::Read(Admitted { route: Arc::clone(route), key })
}

/// The problem of a content over the route's limit.
pub fn too_large(route: &RoutePolicy) -> Problem {
    let detail = format!(
        "Requests on this route can be protected up to {} bytes of content. Nothing was executed.",
        route.request_body_bytes_max
    );
    Problem::new(ProblemType::RequestTooLarge).detail(detail)
}

impl Admitted {
    /// The route that covers the request, for its limits.
    pub fn route(&self) -> &Arc<RoutePolicy> {
        &self.route
    }

    /// Derives scope, key and fingerprint from the complete request.
    ///
    /// `Ok(None)`: the content has no key, and the route lets that pass unprotected.
    pub fn cover(
        self,
        policy: &Policy,
        secret: &Secret,
        head: &Head<'_>,
        content: &[u8],
    ) -> Result<Option<Covered>, Refused> {
        let Admitted { route, key } = self;
        // The origin knows an id as it stands in the content, whatever its canonical form.
        let mut id = None;
        let key = match (&route.key, key) {
            (KeyRule::Header { .. }, Some(key)) => Ok(key),
            (KeyRule::Header { .. }, None) => unreachable!("admit refuses or passes a request without a header key"),
            (KeyRule::Member { pointer, grammar, presence }, _) => match (string_member(content, pointer), presence) {
                (Member::Text(text), _) => {
                    id = route.probe.as_ref().map(|_| text.clone());
                    Key::from_member(text, *grammar, route.key_bytes_max)
                }
                (Member::Absent, Presence::Optional) => return Ok(None),
                (Member::Absent | Member::Other, _) => Err(KeyError::Member(pointer.as_str().to_owned())),
            },
            (KeyRule::Operation, _) => operation_key(&route.fingerprint, content),
        };
        let key = match key {
            Ok(key) => key,
            Err(error) => return Err(Refused { problem: key_invalid(&error), route }),
        };
        let path = normalise_path(head.path);
        let principal = policy.principal_of(secret, head);
        let scope = Scope { principal, method: head.method.as_str(), path: &route.scope_path(&path) };
        let content_type = field(head.headers, &header::CONTENT_TYPE);
        let content_encoding = field(head.headers, &header::CONTENT_ENCODING);
        let request = Request {
            method: head.method.as_str(),
            path: &path,
            query: head.query,
            content_type: content_type.as_deref(),
            content_encoding: content_encoding.as_deref(),
            content,
        };
        let record_key = RecordKey::of(secret, &scope, &key);
        let seal = secret.seal(record_key, Opener::of(secret, &record_key, &key));
        let fingerprint = Fingerprint::of(secret, &route.fingerprint, &request);
        let resource = route.resource_at(&path, &key);
        let warning = key.is_stem().then_some(Warning::AttemptSuffix);
        let rule = route.guard.as_ref();
        let guard_override = rule.and_then(|rule| override_reason(rule, head.headers));
        let asking = rule.filter(|_| guard_override.is_none());
        let guard = asking.map(|rule| rule.ask(secret, principal, record_key, resource.clone(), content));
        let (sent, known_as) = match &route.key {
            KeyRule::Header { name, sent, .. } => {
                (key.to_send(*sent).map(|value| (name.clone(), value)), Some(key.as_str()))
            }
            KeyRule::Member { .. } => (None, id.as_deref()),
            KeyRule::Operation => (None, None),
        };
        let probe = route.probe_at(&path, known_as);
        let trace = head.headers.get(TRACEPARENT).and_then(|value| TraceContext::parse(value.to_str().ok()?));
        let about = Arc::new(About { route: route.name().to_owned(), principal: principal.label(), trace });
        Ok(Some(Covered {
            route,
            principal,
            record_key,
            fingerprint,
            resource,
            warning,
            guard,
            guard_override,
            sent,
            probe,
            seal,
            about,
        }))
    }
}

/// The value of a field; several lines are one list (RFC 9110 section 5.3).
fn field<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<Cow<'h, [u8]>> {
    let mut lines = headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii());
    let first = lines.next()?;
    Some(lines.fold(Cow::Borrowed(first), |list, line| Cow::Owned([&list, b", ".as_slice(), line].concat())))
}

/// Why a caller passes a guard; `None` where the rule does not allow it, or no reason is given.
fn override_reason(rule: &GuardRule, headers: &HeaderMap) -> Option<String> {
    match rule.overriding {
        Overriding::Never => None,
        Overriding::WithReason => {
            let reason = std::str::from_utf8(headers.get(GUARD_OVERRIDE)?.as_bytes()).ok()?.trim();
            (!reason.is_empty()).then(|| reason.chars().take(OVERRIDE_REASON_CHARS_MAX).collect())
        }
    }
}

/// How much of a reason is logged, in characters.
const OVERRIDE_REASON_CHARS_MAX: usize = 200;

/// A slot is filled with something: every member of its fingerprint must be there, and not empty (conformance N7).
fn operation_key(rule: &FingerprintRule, content: &[u8]) -> Result<Key, KeyError> {
    if let FingerprintRule::Members(pointers) = rule {
        for pointer in pointers {
            match string_member(content, pointer) {
                Member::Text(text) if !text.trim().is_empty() => {}
                Member::Text(_) | Member::Absent | Member::Other => {
                    return Err(KeyError::Member(pointer.as_str().to_owned()));
                }
            }
        }
    }
    Ok(Key::operation())
}

fn key_invalid(error: &KeyError) -> Problem {
    let text = error.to_string();
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase()).into_iter();
    let sentence: String = first.chain(chars).collect();
    Problem::new(ProblemType::KeyInvalid).detail(format!("{sentence}. Nothing was executed."))
}

/// `idempotency-key` as people write it.
fn header_words(name: &header::HeaderName) -> String {
    let words = name.as_str().split('-').map(|word| {
        let mut chars = word.chars();
        chars.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(chars).collect::<String>()
    });
    words.collect::<Vec<_>>().join("-")
}

fn is_too_late(route: &RoutePolicy, key: Option<&Key>, headers: &HeaderMap, now: Duration) -> bool {
    let horizon = route.remember_for;
    let is_old = |made_at: Duration| made_at.saturating_add(horizon) < now;
    let key_is_old = match &route.key {
        KeyRule::Header { grammar: Grammar::UuidV7, .. } => key.and_then(Key::minted_at).is_some_and(is_old),
        KeyRule::Header { .. } | KeyRule::Member { .. } | KeyRule::Operation => false,
    };
    let first_sent_is_old = route.on_late == OnLate::Refuse
        && headers
            .get(REPEATABILITY_FIRST_SENT)
            .and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok())
            .and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok())
            .is_some_and(is_old);
    key_is_old || first_sent_is_old
}

/// One spelling per path, for matching routes, scopes and fingerprints alike (conformance SC4): percent-encoded
/// unreserved characters are decoded and other triplets upper-cased (RFC 3986 section 6.2.2), dot segments resolved,
/// empty segments and a trailing slash dropped. `%2F` stays apart from `/`, and case counts.
///
/// What is forwarded is always the path as it was sent. Two spellings that this makes one and an origin keeps apart
/// share a key space: their keys collide into a refusal or a replay, never into a second effect.
pub fn normalise_path(path: &str) -> Cow<'_, str> {
    let plain = path.starts_with('/')
        && !path.contains(['%', '.'])
        && !path.contains("//")
        && (path.len() == 1 || !path.ends_with('/'));
    if plain {
        return Cow::Borrowed(path);
    }
    let decoded = normalise_escapes(path);
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    Cow::Owned(format!("/{}", segments.join("/")))
}

fn normalise_escapes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let hex = rest.get(at + 1..at + 3).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(hex) = hex else {
            // A percent sign by itself is one, or "%%41" would become "%A" and that something else the next time.
            out.push_str("%25");
            rest = &rest[at + 1..];
            continue;
        };
        let byte = u8::from_str_radix(hex, 16).expect("two hexadecimal digits");
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&hex.to_ascii_uppercase());
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    out
}
