//! What an operator may configure: routes, presets and limits. A [`Policy`] is valid by construction.
//!
//! A route's settings are layered: the route's own, then the file's `[defaults]`, then the preset, then the preset
//! `ietf`, which sets everything. All defaults are therefore in `presets/ietf.toml` and nowhere else.

use std::{borrow::Cow, collections::BTreeMap, str::FromStr, sync::Arc, time::Duration};

use http::{HeaderName, Method, StatusCode};
use serde::Deserialize;

use crate::{
    admit::{Head, normalise_path},
    fingerprint::FingerprintRule,
    guard::GuardRule,
    key::{Key, KeyRule},
    release::{KEY_VARIABLE, ReleaseRule, Watch},
    scope::{Principal, Secret},
    wire::{Problem, ProblemType},
};

mod effects;
mod guards;
mod path;
mod preset;
mod probe;
mod settings;
mod words;

use effects::Effects;
pub use effects::StatusPattern;
pub use guards::{ConditionText, GUARD_ITEMS_MAX, GUARD_NAME_BYTES_MAX, GuardSettings, ReleaseSettings, SourceText};
pub use path::PathTemplate;
pub use preset::Preset;
pub use probe::{Keep, ProbePath, ProbeRule, ProbeSettings, Shown};
pub use settings::{
    FingerprintKind, KeySource, PolicyDocument, PolicyError, REPLY_BODY_BYTES_CEILING, REQUEST_BODY_BYTES_CEILING,
    RouteSettings,
};
pub use words::{DurationText, HeaderText, MethodText, StatusText};

/// Everything that decides how a request is treated.
#[derive(Clone, Debug)]
pub struct Policy {
    routes: Vec<Arc<RoutePolicy>>,
    principal: Vec<HeaderName>,
    documentation: Option<String>,
    has_releases: bool,
}

/// One route, with every setting resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoutePolicy {
    /// The methods it covers.
    pub methods: Vec<Method>,
    /// The paths it covers.
    pub path: PathTemplate,
    /// Where the key is.
    pub key: KeyRule,
    /// The longest key, in bytes after unquoting.
    pub key_bytes_max: usize,
    /// What of the content counts.
    pub fingerprint: FingerprintRule,
    effects: Effects,
    /// Whether replies are kept.
    pub reply: ReplyRule,
    /// What a retry of a completed request gets.
    pub on_completed: OnCompleted,
    /// What another request under the same key gets.
    pub on_mismatch: OnMismatch,
    /// What a retry of an unknown outcome gets.
    pub on_unknown: OnUnknown,
    /// How the origin is asked what became of a request; there exactly where `on_unknown` is [`OnUnknown::Probe`].
    pub probe: Option<ProbeRule>,
    /// What a retry past `replay_for` gets.
    pub on_expired: OnExpired,
    /// What an old `Repeatability-First-Sent` gets.
    pub on_late: OnLate,
    /// How long an execution may take before its outcome is unknown.
    pub execution_max: Duration,
    /// How much longer than `execution_max` a claim counts as in flight.
    pub grace: Duration,
    /// How long a concurrent request waits for the first; zero: it is refused at once.
    pub wait_max: Duration,
    /// How long a reply is replayed, from its completion (conformance X4).
    pub replay_for: Duration,
    /// How long it is remembered that it was done.
    pub remember_for: Duration,
    /// How long an unknown outcome is remembered.
    pub unknown_for: Duration,
    /// How long reading the content may take; nothing is claimed before it is complete (`peers.md` #29).
    pub request_read_max: Duration,
    /// The largest content that can be protected, in bytes.
    pub request_body_bytes_max: usize,
    /// The largest content that is kept, in bytes; a larger one passes through and is remembered as omitted.
    pub reply_body_bytes_max: usize,
    /// The header that marks a replay with `true`.
    pub marker: HeaderName,
    /// A member set to `true` in replayed JSON objects (E27); never stored.
    pub replay_member: Option<String>,
    /// Response fields that are not kept.
    pub headers_omitted: Vec<HeaderName>,
    /// Where the resource is that a key names: a path with `{key}` in it, and with variables of the route's own path where
    /// it needs them; told in `Location` on a conflict (Q7).
    ///
    /// A client-supplied id (`key = "member"`) names this resource, wherever it was sent (E2, E12): one id under two paths
    /// of the route is one record, and routes of the same resource and method share their ids. Another resource is another
    /// key space, so that changing it forgets the ids that are taken.
    pub resource: Option<PathTemplate>,
    /// What no two live records of a caller may have in common.
    pub guard: Option<GuardRule>,
    /// Which responses show that the guard, or the slot, is free again.
    pub releases: Vec<ReleaseRule>,
    problems: BTreeMap<ProblemType, ProblemWords>,
}

/// How a route tells a problem, where that is not the type's own way.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProblemWords {
    /// Its status.
    pub status: Option<StatusText>,
    /// The content in the API's own words instead of `application/problem+json`. `{detail}` and `{code}` stand for the
    /// problem's, escaped for a JSON string; the code is then also told in `Idempotency-Problem`.
    pub content: Option<String>,
    /// The media type of `content`, `application/json` unless set.
    pub content_type: Option<String>,
}

/// What a response says about the effect of the request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// It happened: the record becomes completed.
    Happened,
    /// It did not happen: the key is free again.
    None,
    /// It may have happened: the record becomes unknown.
    Unknown,
}

impl FromStr for Effect {
    type Err = ();
    fn from_str(text: &str) -> Result<Effect, ()> {
        match text.trim() {
            "happened" => Ok(Effect::Happened),
            "none" => Ok(Effect::None),
            "unknown" => Ok(Effect::Unknown),
            _ => Err(()),
        }
    }
}

/// Whether replies are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplyRule {
    /// Kept and replayed.
    Kept,
    /// Never kept: a retry learns that it was done, and with which status (conformance SC13).
    Omitted,
}

/// What a retry of a completed request gets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnCompleted {
    /// The kept reply.
    Replay,
    /// The problem `resource-exists` (E3: an id that is taken is a conflict).
    Conflict,
}

/// What another request under the same key gets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnMismatch {
    /// A problem; see [`RoutePolicy::mismatch`].
    Refuse,
    /// The reply to the first request, as some APIs promise (E23). The other request is not executed, and its caller is
    /// told something that is not about it: only for clients that were promised this.
    Replay,
}

/// What a retry of an unknown outcome gets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnknown {
    /// The problem `outcome-unknown`.
    Refuse,
    /// Another execution: the origin is declared idempotent.
    Reexecute,
    /// Another execution: the origin is declared to deduplicate by the key, which it is sent in one spelling
    /// ([`crate::key::Sent`]).
    ForwardKey,
    /// What the origin says, when it is asked, of the attempts before: their reply, or that nothing happened, in which case
    /// there is another execution.
    Probe,
}

/// What a retry past `replay_for` gets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnExpired {
    /// The problem `reply-gone` for as long as it is remembered.
    Refuse,
    /// A first execution, with a warning (E48).
    Execute,
}

/// What a request whose `Repeatability-First-Sent` is older than `remember_for` gets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLate {
    /// The header means nothing here.
    Ignore,
    /// The problem `too-late` (conformance X6).
    Refuse,
}

impl RoutePolicy {
    /// How the route is named in logs, scopes and the published policy.
    pub fn name(&self) -> &str {
        self.path.as_str()
    }

    /// The path that scopes the keys of this route, for a request on the normalised `path`.
    pub(crate) fn scope_path<'p>(&self, path: &'p str) -> Cow<'p, str> {
        match self.scoping_resource() {
            None => Cow::Borrowed(path),
            // The key itself counts beside the path. What the route does not cover has the path that it has.
            Some(resource) => {
                let filled = self.path.bind(path).and_then(|bound| resource.fill(&with_key(KEY_IN_SCOPE, &bound)));
                filled.map_or(Cow::Borrowed(path), Cow::Owned)
            }
        }
    }

    /// The same, from the values of [`RoutePolicy::scope_variables`]; `None` when one of them has none.
    pub(crate) fn scope_path_from(&self, values: &[(&str, &str)]) -> Option<String> {
        match self.scoping_resource() {
            None => self.path.fill(values),
            Some(resource) => resource.fill(&with_key(KEY_IN_SCOPE, values)),
        }
    }

    /// The variables of the path that say in which scope a key is.
    pub(crate) fn scope_variables(&self) -> impl Iterator<Item = &str> {
        let resource = self.scoping_resource();
        resource.unwrap_or(&self.path).variables().filter(move |name| resource.is_none() || *name != KEY_VARIABLE)
    }

    /// Where the resource is that `key` names in a request on the normalised `path`.
    pub(crate) fn resource_at(&self, path: &str, key: &Key) -> Option<String> {
        let bound = self.path.bind(path)?;
        self.resource.as_ref()?.fill(&with_key(key.as_str(), &bound))
    }

    /// The resource by which keys are scoped. Only an id that a client supplies names a resource; any other key is about
    /// the path that it was sent to.
    fn scoping_resource(&self) -> Option<&PathTemplate> {
        match &self.key {
            KeyRule::Member { .. } => self.resource.as_ref(),
            KeyRule::Header { .. } | KeyRule::Operation => None,
        }
    }

    /// What a response with this status says about the effect, unless the origin says it in `Idempotency-Effect`.
    pub fn effect_of(&self, status: u16) -> Effect {
        self.effects.of(status)
    }

    /// The statuses that mean `effect`, as ranges, for the published policy.
    pub fn statuses_that_mean(&self, effect: Effect) -> Vec<(u16, u16)> {
        self.effects.ranges(effect)
    }

    /// The status that a problem is told with on this route.
    pub fn status_of(&self, kind: ProblemType) -> StatusCode {
        self.problems.get(&kind).and_then(|words| words.status).map_or(kind.default_status(), |status| status.0)
    }

    /// How this route tells a problem, as far as that is not the type's own way.
    pub fn problem_words(&self, kind: ProblemType) -> ProblemWords {
        self.problems.get(&kind).cloned().unwrap_or_default()
    }

    /// The content and media type that a problem is told with on this route, if not `application/problem+json`.
    pub fn words_for(&self, problem: &Problem) -> Option<(String, &str)> {
        let words = self.problems.get(&problem.kind)?;
        let content = words.content.as_ref()?;
        let quoted = serde_json::to_string(problem.detail_text()).expect("a string always serialises");
        let escaped = &quoted[1..quoted.len() - 1];
        let content = content.replace("{detail}", escaped).replace("{code}", problem.kind.code());
        Some((content, words.content_type.as_deref().unwrap_or("application/json")))
    }

    /// How long a claim counts as in flight: an execution has a limit, so a lease needs no renewal.
    pub fn lease(&self) -> Duration {
        self.execution_max + self.grace
    }

    /// What a request with another fingerprint under a known key is told: it depends on what the key is.
    pub fn mismatch(&self) -> ProblemType {
        match self.key {
            KeyRule::Header { .. } => ProblemType::KeyReused,
            KeyRule::Member { .. } => ProblemType::ResourceIdReused,
            KeyRule::Operation => ProblemType::SlotTaken,
        }
    }
}

/// What stands for the key in the path of a scope.
const KEY_IN_SCOPE: &str = "{key}";

/// The values of a path's variables, and that of the key before them.
fn with_key<'a>(key: &'a str, bound: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [(KEY_VARIABLE, key)].into_iter().chain(bound.iter().copied()).collect()
}

impl Policy {
    /// The policy of a preset: every path, and the preset's methods.
    pub fn preset(preset: Preset) -> Policy {
        PolicyDocument { preset: Some(preset), ..PolicyDocument::default() }.build().expect("presets are tested")
    }

    /// Routes in the order in which they are tried.
    pub fn routes(&self) -> &[Arc<RoutePolicy>] {
        &self.routes
    }

    /// The first route that covers a method and a normalised path.
    pub fn route(&self, method: &Method, path: &str) -> Option<&Arc<RoutePolicy>> {
        self.routes.iter().find(|route| route.methods.contains(method) && route.path.matches(path))
    }

    /// Who asks. Of headers, every line of the headers that make the principal counts, since a proxy that adds its own beside the
    /// client's must not be overruled by the client's.
    pub(crate) fn principal_of(&self, secret: &Secret, head: &Head<'_>) -> Principal {
        if let Some(caller) = head.caller {
            return Principal::of_caller(secret, caller);
        }
        let credentials = self
            .principal()
            .iter()
            .flat_map(|name| head.headers.get_all(name).iter().map(|value| (name.as_str(), Some(value.as_bytes()))));
        Principal::of(secret, credentials)
    }

    /// Whether the response to a request may show something of guards or slots, whoever asks.
    pub fn is_watched(&self, head: &Head<'_>) -> bool {
        self.has_releases && self.watched_rules(head.method, &normalise_path(head.path)).next().is_some()
    }

    /// What the response to a request may show of guards and slots; nothing where no route has a release.
    pub fn watches(&self, secret: &Secret, head: &Head<'_>) -> Vec<Watch> {
        if !self.has_releases {
            return Vec::new();
        }
        let path = normalise_path(head.path);
        let mut principal = None;
        let watches = self.watched_rules(head.method, &path).filter_map(|(route, at)| {
            let principal = *principal.get_or_insert_with(|| self.principal_of(secret, head));
            Watch::of(route, at, secret, principal, &path)
        });
        watches.collect()
    }

    fn watched_rules(&self, method: &Method, path: &str) -> impl Iterator<Item = (&Arc<RoutePolicy>, usize)> {
        self.routes.iter().flat_map(move |route| {
            let shown = move |rule: &&ReleaseRule| rule.methods.contains(method) && rule.path.matches(path);
            let rules = route.releases.iter().enumerate().filter(move |(_, rule)| shown(rule));
            rules.map(move |(at, _)| (route, at))
        })
    }

    /// The headers whose values make the principal.
    pub fn principal(&self) -> &[HeaderName] {
        &self.principal
    }

    /// Where callers read about all this; the target of `Link: rel="describedby"`.
    pub fn documentation(&self) -> Option<&str> {
        self.documentation.as_deref()
    }

    /// The target of `Link: rel="describedby"` on a problem: the documentation, or else the problem's own identifier.
    pub fn describedby(&self, problem: &Problem) -> String {
        self.documentation.clone().unwrap_or_else(|| problem.kind.uri())
    }
}
