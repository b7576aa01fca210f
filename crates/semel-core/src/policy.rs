//! What an operator may configure: routes, presets and limits. A [`Policy`] is valid by construction.
//!
//! A route's settings are layered: the route's own, then the file's `[defaults]`, then the preset, then the preset
//! `ietf`, which sets everything. All defaults are therefore in `presets/ietf.toml` and nowhere else.

use std::{collections::BTreeMap, ops::Range, str::FromStr, sync::Arc, time::Duration};

use http::{HeaderName, Method, StatusCode};
use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use crate::{
    fingerprint::FingerprintRule,
    key::{AttemptSuffix, Form, Grammar, KeyRule, Pointer, Presence},
    wire::{IDEMPOTENCY_KEY, Problem, ProblemType},
};

/// Everything that decides how a request is treated.
#[derive(Clone, Debug)]
pub struct Policy {
    routes: Vec<Arc<RoutePolicy>>,
    principal: Vec<HeaderName>,
    documentation: Option<String>,
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
    /// Where the resource is that a key names, as a path with `{key}` in it; told in `Location` on a conflict (Q7).
    pub resource: Option<String>,
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
    /// Another execution: the origin is declared to deduplicate by the key, which it is sent.
    ForwardKey,
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

    /// What a response with this status says about the effect, unless the origin says it in `Idempotency-Effect`.
    pub fn effect_of(&self, status: u16) -> Effect {
        self.effects.of(status)
    }

    /// The statuses that mean `effect`, as ranges, for the published policy.
    pub fn statuses_that_mean(&self, effect: Effect) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for status in (200..=599).filter(|status| self.effects.of(*status) == effect) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == status => *last = status,
                _ => ranges.push((status, status)),
            }
        }
        ranges
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

/// A policy as it is written down. Anything not set is as in the preset.
#[derive(Clone, Debug, Default)]
pub struct PolicyDocument {
    /// The preset that every route starts from, `ietf` unless set.
    pub preset: Option<Preset>,
    /// Headers that make the principal, `Authorization` and `X-API-Key` unless set.
    pub principal: Option<Vec<HeaderText>>,
    /// An absolute URI where callers read about this API's idempotency.
    pub documentation: Option<String>,
    /// Settings of every route.
    pub defaults: Option<Spanned<RouteSettings>>,
    /// The routes, tried in order; one route over every path when there are none.
    pub routes: Vec<Spanned<RouteSettings>>,
}

/// Why a document is not a policy, and the bytes of the document that say so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PolicyError {
    /// Where in the document, in bytes.
    pub span: Range<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl PolicyDocument {
    /// Resolves and checks everything.
    pub fn build(self) -> Result<Policy, PolicyError> {
        let preset = self.preset.unwrap_or_default().document();
        let defaults_span = self.defaults.as_ref().map_or(0..0, Spanned::span);
        let base = match self.defaults {
            None => preset.defaults,
            Some(defaults) if defaults.get_ref().path.is_some() => {
                let message = "`path` belongs to a [[route]], not to [defaults]".to_owned();
                return Err(PolicyError { span: defaults.span(), message });
            }
            Some(defaults) => defaults.into_inner().over(preset.defaults),
        };
        // The file's routes are tried before the preset's.
        let mut written = self.routes;
        written.extend(preset.route.into_iter().map(|route| Spanned::new(0..0, route)));
        if written.is_empty() {
            written.push(Spanned::new(defaults_span, RouteSettings::default()));
        }
        let mut routes = Vec::with_capacity(written.len());
        for route in written {
            let span = route.span();
            let built = route.into_inner().over(base.clone()).build();
            routes.push(Arc::new(built.map_err(|message| PolicyError { span, message })?));
        }
        let principal = self.principal.or(preset.principal).expect("the preset ietf names the principal");
        let principal = principal.into_iter().map(|name| name.0).collect();
        Ok(Policy { routes, principal, documentation: self.documentation })
    }
}

/// A named set of settings, kept in the repository as TOML with its source beside every line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// draft-ietf-httpapi-idempotency-key-header-07.
    #[default]
    Ietf,
    /// Stripe's v1 API.
    Stripe,
    /// Etherfuse's ramp API (S0, S1).
    Etherfuse,
    /// Credicorp's public API (S2).
    Credicorp,
    /// Yonne's external API (S3).
    Yonne,
    /// Nora's v2 API (S4).
    Nora,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 6] =
        [Preset::Ietf, Preset::Stripe, Preset::Etherfuse, Preset::Credicorp, Preset::Yonne, Preset::Nora];

    /// Its name in configuration and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Ietf => "ietf",
            Preset::Stripe => "stripe",
            Preset::Credicorp => "credicorp",
            Preset::Yonne => "yonne",
            Preset::Nora => "nora",
            Preset::Etherfuse => "etherfuse",
        }
    }

    /// Its TOML.
    pub fn source(self) -> &'static str {
        match self {
            Preset::Ietf => include_str!("../presets/ietf.toml"),
            Preset::Stripe => include_str!("../presets/stripe.toml"),
            Preset::Credicorp => include_str!("../presets/credicorp.toml"),
            Preset::Yonne => include_str!("../presets/yonne.toml"),
            Preset::Nora => include_str!("../presets/nora.toml"),
            Preset::Etherfuse => include_str!("../presets/etherfuse.toml"),
        }
    }

    /// Its settings over those of `ietf`, so that nothing is unset.
    fn document(self) -> PresetDocument {
        let read = |preset: Preset| -> PresetDocument { toml::from_str(preset.source()).expect("presets are tested") };
        let ietf = read(Preset::Ietf);
        let own = read(self);
        PresetDocument {
            principal: own.principal.or(ietf.principal),
            defaults: own.defaults.over(ietf.defaults),
            route: own.route,
        }
    }
}

/// A preset as it is written down.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PresetDocument {
    principal: Option<Vec<HeaderText>>,
    defaults: RouteSettings,
    #[serde(default)]
    route: Vec<RouteSettings>,
}

impl FromStr for Preset {
    type Err = String;
    fn from_str(text: &str) -> Result<Preset, String> {
        Preset::ALL.into_iter().find(|preset| preset.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Preset::ALL.iter().map(|preset| preset.name()).collect();
            format!("unknown preset \"{text}\"; the presets are {}", names.join(", "))
        })
    }
}

/// The settings of one route as they are written down; `None`: as in the layer below.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each is documented at the member of RoutePolicy of the same name")]
pub struct RouteSettings {
    pub methods: Option<Vec<MethodText>>,
    pub path: Option<PathTemplate>,
    pub key: Option<KeySource>,
    pub key_header: Option<HeaderText>,
    pub key_member: Option<Pointer>,
    pub key_grammar: Option<Grammar>,
    pub key_form: Option<Form>,
    pub key_presence: Option<Presence>,
    pub attempt_suffix: Option<AttemptSuffix>,
    pub key_bytes_max: Option<usize>,
    pub fingerprint: Option<FingerprintKind>,
    pub fingerprint_ignore: Option<Vec<Pointer>>,
    pub fingerprint_members: Option<Vec<Pointer>>,
    pub effect_happened: Option<Vec<StatusPattern>>,
    pub effect_none: Option<Vec<StatusPattern>>,
    pub effect_unknown: Option<Vec<StatusPattern>>,
    pub reply: Option<ReplyRule>,
    pub on_completed: Option<OnCompleted>,
    pub on_mismatch: Option<OnMismatch>,
    pub on_unknown: Option<OnUnknown>,
    pub on_expired: Option<OnExpired>,
    pub on_late: Option<OnLate>,
    pub execution_max: Option<DurationText>,
    pub grace: Option<DurationText>,
    pub wait_max: Option<DurationText>,
    pub replay_for: Option<DurationText>,
    pub remember_for: Option<DurationText>,
    pub unknown_for: Option<DurationText>,
    pub request_read_max: Option<DurationText>,
    #[serde(default, deserialize_with = "size")]
    pub request_body_bytes_max: Option<bytesize::ByteSize>,
    #[serde(default, deserialize_with = "size")]
    pub reply_body_bytes_max: Option<bytesize::ByteSize>,
    pub marker: Option<HeaderText>,
    pub replay_member: Option<String>,
    pub headers_omitted: Option<Vec<HeaderText>>,
    pub resource: Option<String>,
    pub problems: Option<BTreeMap<ProblemType, ProblemWords>>,
}

impl RouteSettings {
    /// These settings, and those of `base` where these say nothing.
    #[must_use]
    pub fn over(self, base: RouteSettings) -> RouteSettings {
        let mut problems = base.problems.unwrap_or_default();
        for (kind, words) in self.problems.unwrap_or_default() {
            let below = problems.remove(&kind).unwrap_or_default();
            let merged = ProblemWords {
                status: words.status.or(below.status),
                content: words.content.or(below.content),
                content_type: words.content_type.or(below.content_type),
            };
            problems.insert(kind, merged);
        }
        RouteSettings {
            methods: self.methods.or(base.methods),
            path: self.path.or(base.path),
            key: self.key.or(base.key),
            key_header: self.key_header.or(base.key_header),
            key_member: self.key_member.or(base.key_member),
            key_grammar: self.key_grammar.or(base.key_grammar),
            key_form: self.key_form.or(base.key_form),
            key_presence: self.key_presence.or(base.key_presence),
            attempt_suffix: self.attempt_suffix.or(base.attempt_suffix),
            key_bytes_max: self.key_bytes_max.or(base.key_bytes_max),
            fingerprint: self.fingerprint.or(base.fingerprint),
            fingerprint_ignore: self.fingerprint_ignore.or(base.fingerprint_ignore),
            fingerprint_members: self.fingerprint_members.or(base.fingerprint_members),
            effect_happened: self.effect_happened.or(base.effect_happened),
            effect_none: self.effect_none.or(base.effect_none),
            effect_unknown: self.effect_unknown.or(base.effect_unknown),
            reply: self.reply.or(base.reply),
            on_completed: self.on_completed.or(base.on_completed),
            on_mismatch: self.on_mismatch.or(base.on_mismatch),
            on_unknown: self.on_unknown.or(base.on_unknown),
            on_expired: self.on_expired.or(base.on_expired),
            on_late: self.on_late.or(base.on_late),
            execution_max: self.execution_max.or(base.execution_max),
            grace: self.grace.or(base.grace),
            wait_max: self.wait_max.or(base.wait_max),
            replay_for: self.replay_for.or(base.replay_for),
            remember_for: self.remember_for.or(base.remember_for),
            unknown_for: self.unknown_for.or(base.unknown_for),
            request_read_max: self.request_read_max.or(base.request_read_max),
            request_body_bytes_max: self.request_body_bytes_max.or(base.request_body_bytes_max),
            reply_body_bytes_max: self.reply_body_bytes_max.or(base.reply_body_bytes_max),
            marker: self.marker.or(base.marker),
            replay_member: self.replay_member.or(base.replay_member),
            headers_omitted: self.headers_omitted.or(base.headers_omitted),
            resource: self.resource.or(base.resource),
            problems: Some(problems),
        }
    }

    fn build(self) -> Result<RoutePolicy, String> {
        const SET: &str = "the preset ietf sets everything, and a test reads it";
        let methods: Vec<Method> = self.methods.expect(SET).into_iter().map(|method| method.0).collect();
        if methods.is_empty() {
            return Err("`methods` must name at least one method".to_owned());
        }
        if let Some(safe) = methods.iter().find(|method| method.is_safe()) {
            return Err(format!(
                "`methods` must not name {safe}, which is safe to retry by itself (RFC 9110 section 9.2.1)"
            ));
        }
        let grammar = self.key_grammar.expect(SET);
        let presence = self.key_presence.expect(SET);
        let key = match (self.key.expect(SET), self.key_member) {
            (KeySource::Header, _) => KeyRule::Header {
                name: self.key_header.map_or(IDEMPOTENCY_KEY, |name| name.0),
                grammar,
                form: self.key_form.expect(SET),
                presence,
                attempt_suffix: self.attempt_suffix.expect(SET),
            },
            (KeySource::Member, Some(pointer)) => KeyRule::Member { pointer, grammar, presence },
            (KeySource::Member, None) => {
                return Err("`key = \"member\"` needs `key_member`, a JSON Pointer such as \"/orderId\"".to_owned());
            }
            (KeySource::Operation, _) => KeyRule::Operation,
        };
        let members = self.fingerprint_members.expect(SET);
        let fingerprint = match self.fingerprint.expect(SET) {
            FingerprintKind::Raw => FingerprintRule::Raw,
            FingerprintKind::Json => FingerprintRule::Json { volatile: self.fingerprint_ignore.expect(SET) },
            FingerprintKind::Members if members.is_empty() => {
                return Err(
                    "`fingerprint = \"members\"` needs `fingerprint_members`, a list of JSON Pointers".to_owned()
                );
            }
            FingerprintKind::Members => FingerprintRule::Members(members),
        };
        let effects = Effects::new(
            &self.effect_happened.expect(SET),
            &self.effect_none.expect(SET),
            &self.effect_unknown.expect(SET),
        )?;
        let replay_member = self.replay_member.expect(SET);
        let resource = self.resource.expect(SET);
        if !resource.is_empty() && !resource.starts_with('/') {
            return Err("`resource` must be a path such as \"/orders/{key}\"".to_owned());
        }
        let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let route = RoutePolicy {
            methods,
            path: self.path.expect(SET),
            key,
            key_bytes_max: self.key_bytes_max.expect(SET),
            fingerprint,
            effects,
            reply: self.reply.expect(SET),
            on_completed: self.on_completed.expect(SET),
            on_mismatch: self.on_mismatch.expect(SET),
            on_unknown: self.on_unknown.expect(SET),
            on_expired: self.on_expired.expect(SET),
            on_late: self.on_late.expect(SET),
            execution_max: self.execution_max.expect(SET).0,
            grace: self.grace.expect(SET).0,
            wait_max: self.wait_max.expect(SET).0,
            replay_for: self.replay_for.expect(SET).0,
            remember_for: self.remember_for.expect(SET).0,
            unknown_for: self.unknown_for.expect(SET).0,
            request_read_max: self.request_read_max.expect(SET).0,
            request_body_bytes_max: bytes(self.request_body_bytes_max.expect(SET)),
            reply_body_bytes_max: bytes(self.reply_body_bytes_max.expect(SET)),
            marker: self.marker.expect(SET).0,
            replay_member: (!replay_member.is_empty()).then_some(replay_member),
            headers_omitted: self.headers_omitted.expect(SET).into_iter().map(|name| name.0).collect(),
            resource: (!resource.is_empty()).then_some(resource),
            problems: self.problems.expect(SET),
        };
        // Each relation that another part relies on, once, here.
        let relations = [
            (route.execution_max.is_zero(), "`execution_max` must be more than zero"),
            (route.request_read_max.is_zero(), "`request_read_max` must be more than zero"),
            (route.replay_for.is_zero(), "`replay_for` must be more than zero"),
            (route.remember_for < route.replay_for, "`remember_for` must be at least `replay_for`"),
            (route.remember_for < route.lease(), "`remember_for` must be at least `execution_max` + `grace`"),
            (
                route.unknown_for < route.lease(),
                "`unknown_for` must be at least `execution_max` + `grace`, or a running claim would be forgotten",
            ),
            (route.key_bytes_max == 0, "`key_bytes_max` must be more than zero"),
            (
                route.request_body_bytes_max > REQUEST_BODY_BYTES_CEILING,
                "`request_body_bytes_max` must be at most 64 MiB, since the content is held in memory",
            ),
            (
                route.reply_body_bytes_max > REPLY_BODY_BYTES_CEILING,
                "`reply_body_bytes_max` must be at most 16 MiB, since a kept reply is one record",
            ),
        ];
        match relations.iter().find(|(broken, _)| *broken) {
            Some((_, message)) => Err((*message).to_owned()),
            None => Ok(route),
        }
    }
}

/// The largest value of `request_body_bytes_max`, in bytes.
pub const REQUEST_BODY_BYTES_CEILING: usize = 64 << 20;
/// The largest value of `reply_body_bytes_max`, in bytes.
pub const REPLY_BODY_BYTES_CEILING: usize = 16 << 20;

/// `key = "header" | "member" | "operation"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeySource {
    /// See [`KeyRule::Header`].
    Header,
    /// See [`KeyRule::Member`].
    Member,
    /// See [`KeyRule::Operation`].
    Operation,
}

/// `fingerprint = "raw" | "json" | "members"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FingerprintKind {
    /// See [`FingerprintRule::Raw`].
    Raw,
    /// See [`FingerprintRule::Json`].
    Json,
    /// See [`FingerprintRule::Members`].
    Members,
}

/// Which status means which effect, status by status from 200 to 599.
#[derive(Clone, PartialEq, Eq)]
struct Effects(Vec<Effect>);

impl std::fmt::Debug for Effects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Effects(..)")
    }
}

impl Effects {
    /// A single status beats a class such as `4xx`; what is named nowhere may have happened.
    fn new(happened: &[StatusPattern], none: &[StatusPattern], unknown: &[StatusPattern]) -> Result<Effects, String> {
        let lists = [(Effect::Happened, happened), (Effect::None, none), (Effect::Unknown, unknown)];
        let mut table = Vec::with_capacity(400);
        for status in 200..=599u16 {
            let named = |width: fn(&StatusPattern) -> bool| {
                lists
                    .iter()
                    .filter(move |(_, list)| list.iter().any(|p| width(p) && p.contains(status)))
                    .map(|(effect, _)| *effect)
            };
            let single: Vec<Effect> = named(StatusPattern::is_single).collect();
            let class: Vec<Effect> = named(|p| !p.is_single()).collect();
            table.push(match (single.as_slice(), class.as_slice()) {
                ([effect], _) | ([], [effect]) => *effect,
                ([], []) => Effect::Unknown,
                _ => {
                    return Err(format!(
                        "status {status} is named by more than one of effect_happened, effect_none, effect_unknown"
                    ));
                }
            });
        }
        Ok(Effects(table))
    }

    fn of(&self, status: u16) -> Effect {
        let index = usize::from(status).checked_sub(200);
        index.and_then(|index| self.0.get(index)).copied().unwrap_or(Effect::Unknown)
    }
}

/// `"2xx"`, `"422"` or `"500-504"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusPattern {
    first: u16,
    last: u16,
}

impl StatusPattern {
    fn contains(&self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
    fn is_single(&self) -> bool {
        self.first == self.last
    }
}

impl FromStr for StatusPattern {
    type Err = String;
    fn from_str(text: &str) -> Result<StatusPattern, String> {
        let number = |text: &str| text.parse::<u16>().ok().filter(|status| (200..=599).contains(status));
        let pattern = if let Some(class) = text.strip_suffix("xx") {
            class
                .parse::<u16>()
                .ok()
                .filter(|class| (2..=5).contains(class))
                .map(|class| (class * 100, class * 100 + 99))
        } else if let Some((first, last)) = text.split_once('-') {
            number(first).zip(number(last)).filter(|(first, last)| first < last)
        } else {
            number(text).map(|status| (status, status))
        };
        pattern
            .map(|(first, last)| StatusPattern { first, last })
            .ok_or_else(|| format!("expected a final status such as \"422\", \"4xx\" or \"500-504\", found \"{text}\""))
    }
}

/// A path as a route names it: literal segments, `{name}` for any one segment, and `*` at the end for any rest.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PathTemplate {
    text: String,
    segments: Vec<Segment>,
    rest: Rest,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Segment {
    Literal(String),
    Any,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Rest {
    None,
    Any,
}

impl PathTemplate {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it covers a path in the form that [`normalise_path`](crate::admit::normalise_path) gives it.
    pub fn matches(&self, path: &str) -> bool {
        let mut parts = path.split('/').skip(1).filter(|part| !part.is_empty());
        for segment in &self.segments {
            match (segment, parts.next()) {
                (Segment::Literal(literal), Some(part)) if literal == part => {}
                (Segment::Any, Some(_)) => {}
                _ => return false,
            }
        }
        self.rest == Rest::Any || parts.next().is_none()
    }
}

impl FromStr for PathTemplate {
    type Err = String;
    fn from_str(text: &str) -> Result<PathTemplate, String> {
        let wrong = |why: &str| Err(format!("the path template \"{text}\" {why}"));
        if !text.starts_with('/') {
            return wrong("must start with a slash");
        }
        if text.contains(['?', '#']) {
            return wrong("must not hold a query or fragment; the query always counts in the fingerprint");
        }
        let normal = crate::admit::normalise_path(text);
        let (body, rest) = match normal.strip_suffix("/*") {
            Some(body) => (body, Rest::Any),
            None => (normal.as_ref(), Rest::None),
        };
        let mut segments = Vec::new();
        for part in body.split('/').skip(1).filter(|part| !part.is_empty()) {
            let named = part.starts_with('{') && part.ends_with('}') && part.len() > 2;
            segments.push(match part {
                _ if named => Segment::Any,
                _ if part.contains(['{', '}', '*']) => {
                    return wrong("may use {name} for one whole segment, and * as the last one");
                }
                literal => Segment::Literal(literal.to_owned()),
            });
        }
        Ok(PathTemplate { text: text.to_owned(), segments, rest })
    }
}

fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// Says what would be right, which `ByteSize` does not.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bytesize::ByteSize>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a size such as \"1 MiB\", \"512 KiB\" or 65536")]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    match Size::deserialize(deserializer)? {
        Size::Bytes(bytes) => Ok(Some(bytesize::ByteSize(bytes))),
        Size::Text(text) => text.parse().map(Some).map_err(|_| {
            D::Error::custom(format!("expected a size such as \"1 MiB\", \"512 KiB\" or 65536, found \"{text}\""))
        }),
    }
}

impl<'de> Deserialize<'de> for PathTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PathTemplate, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for StatusPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StatusPattern, D::Error> {
        from_text(deserializer)
    }
}

/// A header name in a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderText(pub HeaderName);

impl<'de> Deserialize<'de> for HeaderText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HeaderText, D::Error> {
        let text = String::deserialize(deserializer)?;
        let name = HeaderName::from_bytes(text.as_bytes());
        name.map(HeaderText).map_err(|_| D::Error::custom(format!("expected a header name, found \"{text}\"")))
    }
}

/// A method in a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MethodText(pub Method);

impl<'de> Deserialize<'de> for MethodText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MethodText, D::Error> {
        let text = String::deserialize(deserializer)?;
        let method = Method::from_bytes(text.as_bytes()).ok().filter(|_| text.bytes().all(|b| b.is_ascii_uppercase()));
        method
            .map(MethodText)
            .ok_or_else(|| D::Error::custom(format!("expected a method such as \"POST\", found \"{text}\"")))
    }
}

/// A status that a problem is told with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusText(pub StatusCode);

impl<'de> Deserialize<'de> for StatusText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StatusText, D::Error> {
        let number = u16::deserialize(deserializer)?;
        let status =
            StatusCode::from_u16(number).ok().filter(|status| status.is_client_error() || status.is_server_error());
        status
            .map(StatusText)
            .ok_or_else(|| D::Error::custom(format!("expected a status from 400 to 599, found {number}")))
    }
}

/// A duration in a document, such as `"30s"`, `"1h 30m"` or `"250ms"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DurationText(pub Duration);

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DurationText, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Stores keep whole milliseconds: less would be rounded to nothing, and a claim that lives for nothing protects nothing.
        let is_kept = |duration: &Duration| duration.subsec_nanos().is_multiple_of(1_000_000);
        let duration = humantime::parse_duration(&text).ok();
        duration.filter(is_kept).filter(|duration| *duration <= DURATION_CEILING).map(DurationText).ok_or_else(|| {
            D::Error::custom(format!(
                "expected a duration in whole milliseconds such as \"30s\", \"250ms\" or \"24h\", at most ten years, found \"{text}\""
            ))
        })
    }
}

/// The longest duration that can be configured: sums and millisecond counts stay far from overflow.
const DURATION_CEILING: Duration = Duration::from_hours(24 * 3660);
