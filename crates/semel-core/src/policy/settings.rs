//! A policy as it is written down, and what makes it one.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use http::Method;
use serde::Deserialize;
use toml::Spanned;

use super::{
    DurationText, Effects, GuardSettings, HeaderText, MethodText, OnCompleted, OnExpired, OnLate, OnMismatch,
    OnUnknown, PathTemplate, Policy, Preset, ProbeSettings, ProblemWords, ReleaseSettings, ReplyRule, RoutePolicy,
    StatusPattern, guards, probe, words::size,
};
use crate::{
    fingerprint::FingerprintRule,
    key::{AttemptSuffix, Form, Grammar, KeyRule, Pointer, Presence, Sent},
    release::KEY_VARIABLE,
    wire::{IDEMPOTENCY_KEY, ProblemType},
};

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
            Some(defaults) if defaults.get_ref().guard.is_some() || defaults.get_ref().release.is_some() => {
                let message = "`guard` and `release` belong to a [[route]], not to [defaults]".to_owned();
                return Err(PolicyError { span: defaults.span(), message });
            }
            Some(defaults) if defaults.get_ref().probe.is_some() => {
                let message = "`probe` belongs to a [[route]], not to [defaults]".to_owned();
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
        let mut guards = Vec::with_capacity(written.len());
        for route in written {
            let span = route.span();
            let mut settings = route.into_inner().over(base.clone());
            let guard =
                guards::Written { guard: settings.guard.take(), releases: settings.release.take().unwrap_or_default() };
            routes.push(settings.build().map_err(|message| PolicyError { span: span.clone(), message })?);
            guards.push((span, guard));
        }
        // A guard may read the replies of any route, so all of them come first.
        for (at, (route_span, written)) in guards.into_iter().enumerate() {
            guards::resolve(written, at, &mut routes).map_err(|error| {
                // What a preset wrote is nowhere in the document.
                if route_span == (0..0) {
                    let message = format!("the route {}: {}", routes[at].name(), error.message);
                    PolicyError { span: route_span, message }
                } else {
                    error
                }
            })?;
        }
        let has_releases = routes.iter().any(|route| !route.releases.is_empty());
        let routes = routes.into_iter().map(Arc::new).collect();
        let principal = self.principal.or(preset.principal).expect("the preset ietf names the principal");
        let principal = principal.into_iter().map(|name| name.0).collect();
        Ok(Policy { routes, principal, documentation: self.documentation, has_releases })
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
    pub key_sent: Option<Sent>,
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
    pub probe: Option<ProbeSettings>,
    pub guard: Option<Spanned<GuardSettings>>,
    pub release: Option<Vec<Spanned<ReleaseSettings>>>,
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
            key_sent: self.key_sent.or(base.key_sent),
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
            probe: self.probe.or(base.probe),
            guard: self.guard.or(base.guard),
            release: self.release.or(base.release),
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
        let on_unknown = self.on_unknown.expect(SET);
        let key = match (self.key.expect(SET), self.key_member) {
            (KeySource::Header, _) => KeyRule::Header {
                name: self.key_header.map_or(IDEMPOTENCY_KEY, |name| name.0),
                grammar,
                form: self.key_form.expect(SET),
                presence,
                attempt_suffix: self.attempt_suffix.expect(SET),
                sent: sent(self.key_sent, on_unknown)?,
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
        let path = self.path.expect(SET);
        let resource = match self.resource.expect(SET) {
            none if none.is_empty() => None,
            text => Some(resource(&text, &path)?),
        };
        let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let mut route = RoutePolicy {
            methods,
            path,
            key,
            key_bytes_max: self.key_bytes_max.expect(SET),
            fingerprint,
            effects,
            reply: self.reply.expect(SET),
            on_completed: self.on_completed.expect(SET),
            on_mismatch: self.on_mismatch.expect(SET),
            on_unknown,
            probe: None,
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
            resource,
            guard: None,
            releases: Vec::new(),
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
        if let Some((_, message)) = relations.iter().find(|(broken, _)| *broken) {
            return Err((*message).to_owned());
        }
        route.probe = probe::resolve(self.probe, &route)?;
        Ok(route)
    }
}

/// How a header's key is sent on. An origin that is to know a key again must be sent one spelling of it.
fn sent(written: Option<Sent>, on_unknown: OnUnknown) -> Result<Sent, String> {
    match (on_unknown, written) {
        (OnUnknown::Refuse | OnUnknown::Reexecute, written) => Ok(written.unwrap_or(Sent::AsReceived)),
        (OnUnknown::ForwardKey | OnUnknown::Probe, None) => Ok(Sent::Bare),
        (OnUnknown::ForwardKey | OnUnknown::Probe, Some(sent @ (Sent::Bare | Sent::Quoted))) => Ok(sent),
        (OnUnknown::ForwardKey | OnUnknown::Probe, Some(Sent::AsReceived)) => {
            Err("`key_sent` must be \"bare\" or \"quoted\" where the origin is to know a key again (on_unknown): \
             clients write one key in several ways, and the origin would take them for several keys"
                .to_owned())
        }
    }
}

/// Reads where the resource is, which is nowhere unless every variable has a value.
fn resource(text: &str, path: &PathTemplate) -> Result<PathTemplate, String> {
    let wrong = |why: &str| format!("`resource` must be a path such as \"/orders/{{key}}\": {why}");
    let resource: PathTemplate = text.parse().map_err(|error: String| wrong(&error))?;
    let is_known = |name: &str| name == KEY_VARIABLE || path.variables().any(|variable| variable == name);
    if let Some(name) = resource.variables().find(|name| !is_known(name)) {
        return Err(wrong(&format!("{{{name}}} is no variable of the route's path \"{}\"", path.as_str())));
    }
    if resource.ends_open() {
        return Err(wrong("it must not end with *"));
    }
    Ok(resource)
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
