//! The policy document: what callers may rely on, per route, as draft section 2.5.2 demands of a resource.

use std::{collections::BTreeMap, time::Duration};

use semel_core::{
    fingerprint::FingerprintRule,
    guard::{GuardRule, Overriding, Source},
    key::{KeyRule, Pointer},
    policy::{Effect, Policy, ProbeRule, RoutePolicy, Shown},
    release::{ReleaseRule, Shows},
    wire::{GUARD_OVERRIDE, ProblemType},
};
use serde::Serialize;

use crate::config::words;

/// The version of the document's form. Members may be added within one.
const VERSION: u32 = 1;

/// The document, as JSON.
pub(crate) fn document(policy: &Policy) -> String {
    document_where(policy, None)
}

/// The same where `caller` says in a word what tells callers apart instead of headers.
pub(crate) fn document_where(policy: &Policy, caller: Option<&'static str>) -> String {
    let headers = if caller.is_some() { &[] } else { policy.principal() };
    let document = Document {
        version: VERSION,
        documentation: policy.documentation(),
        scope: Scope {
            principal_headers: headers.iter().map(words::header).collect(),
            principal: caller,
            operation: ["method", "route", "path"],
        },
        routes: policy.routes().iter().map(|route| Route::of(route)).collect(),
    };
    let mut json = serde_json::to_string_pretty(&document).expect("texts, numbers and lists always serialise");
    json.push('\n');
    json
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    documentation: Option<&'a str>,
    scope: Scope,
    /// In the order in which they are tried.
    routes: Vec<Route<'a>>,
}

/// Whose key space a key lives in.
#[derive(Serialize)]
struct Scope {
    principal_headers: Vec<String>,
    /// What tells callers apart where headers do not: `jwt`, `client-certificate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<&'static str>,
    operation: [&'static str; 3],
}

#[derive(Serialize)]
struct Route<'a> {
    path: &'a str,
    methods: Vec<&'a str>,
    key: KeyPart,
    fingerprint: FingerprintPart<'a>,
    /// What the origin's statuses say about the effect.
    effect_by_status: EffectPart,
    retry: RetryPart<'a>,
    times_seconds: TimesPart,
    bytes_max: BytesPart,
    /// Statuses of problems by their code.
    problems: BTreeMap<&'static str, u16>,
    /// Those that are told in the API's own form instead of application/problem+json.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems_in_own_form: Vec<&'static str>,
    /// How the origin is asked what became of a request whose outcome is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<ProbePart<'a>>,
    /// What no two live operations of a caller may have in common.
    #[serde(skip_serializing_if = "Option::is_none")]
    guard: Option<GuardPart<'a>>,
    /// Which responses free the guard, or the slot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    releases: Vec<ReleasePart<'a>>,
}

#[derive(Serialize)]
struct ProbePart<'a> {
    path: &'a str,
    found: Vec<String>,
    absent: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<&'a str>,
    /// As the reply.
    keep: &'static str,
    /// Of the kept reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Absence is believed of a record of this age.
    after_seconds: Seconds,
}

#[derive(Serialize)]
struct GuardPart<'a> {
    name: &'a str,
    values: Vec<SourcePart<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    when: Vec<ConditionPart<'a>>,
    hold_for_seconds: Seconds,
    /// The header that passes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    override_header: Option<String>,
}

/// A member of the content, or of the kept reply to the request that a member of the content names.
#[derive(Serialize)]
struct SourcePart<'a> {
    member: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    of_reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    named_by: Option<&'a str>,
}

#[derive(Serialize)]
struct ConditionPart<'a> {
    #[serde(flatten)]
    source: SourcePart<'a>,
    is: &'a [String],
}

#[derive(Serialize)]
struct ReleasePart<'a> {
    methods: Vec<&'a str>,
    path: &'a str,
    member: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_while: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_when: Option<&'a [String]>,
    after_seconds: Seconds,
}

#[derive(Serialize)]
struct KeyPart {
    #[serde(rename = "in")]
    location: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grammar: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    form: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt_suffix: Option<&'static str>,
    /// How the origin is sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<&'static str>,
    presence: &'static str,
    /// The resource that the key is an id of: it counts for that one, instead of for route and path.
    #[serde(skip_serializing_if = "Option::is_none")]
    id_of: Option<String>,
}

#[derive(Serialize)]
struct FingerprintPart<'a> {
    always: [&'static str; 5],
    content: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ignored: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<&'a str>,
}

#[derive(Serialize)]
struct EffectPart {
    /// The effect happened: a retry is told so.
    happened: Vec<String>,
    /// It did not: a retry executes.
    none: Vec<String>,
    /// It may have happened.
    unknown: Vec<String>,
}

#[derive(Serialize)]
struct RetryPart<'a> {
    reply: &'static str,
    on_completed: &'static str,
    on_mismatch: &'static str,
    on_unknown: &'static str,
    on_expired: &'static str,
    on_late: &'static str,
    marker: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_member: Option<&'a str>,
    headers_omitted: Vec<String>,
}

#[derive(Serialize)]
struct TimesPart {
    execution_max: Seconds,
    wait_max: Seconds,
    request_read_max: Seconds,
    replay_for: Seconds,
    remember_for: Seconds,
    unknown_for: Seconds,
}

#[derive(Serialize)]
struct BytesPart {
    key: usize,
    request_body: usize,
    reply_body: usize,
}

impl Route<'_> {
    fn of(route: &RoutePolicy) -> Route<'_> {
        let statuses = |effect| words::statuses(route.statuses_that_mean(effect));
        Route {
            path: route.path.as_str(),
            methods: route.methods.iter().map(http::Method::as_str).collect(),
            key: KeyPart::of(route),
            fingerprint: FingerprintPart::of(&route.fingerprint),
            effect_by_status: EffectPart {
                happened: statuses(Effect::Happened),
                none: statuses(Effect::None),
                unknown: statuses(Effect::Unknown),
            },
            retry: RetryPart {
                reply: words::reply(route.reply),
                on_completed: words::on_completed(route.on_completed),
                on_mismatch: words::on_mismatch(route.on_mismatch),
                on_unknown: words::on_unknown(route.on_unknown),
                on_expired: words::on_expired(route.on_expired),
                on_late: words::on_late(route.on_late),
                marker: words::header(&route.marker),
                replay_member: route.replay_member.as_deref(),
                headers_omitted: route.headers_omitted.iter().map(words::header).collect(),
            },
            times_seconds: TimesPart {
                execution_max: Seconds(route.execution_max),
                wait_max: Seconds(route.wait_max),
                request_read_max: Seconds(route.request_read_max),
                replay_for: Seconds(route.replay_for),
                remember_for: Seconds(route.remember_for),
                unknown_for: Seconds(route.unknown_for),
            },
            bytes_max: BytesPart {
                key: route.key_bytes_max,
                request_body: route.request_body_bytes_max,
                reply_body: route.reply_body_bytes_max,
            },
            problems: ProblemType::ALL.iter().map(|kind| (kind.code(), route.status_of(*kind).as_u16())).collect(),
            problems_in_own_form: ProblemType::ALL
                .into_iter()
                .filter(|kind| route.problem_words(*kind).content.is_some())
                .map(ProblemType::code)
                .collect(),
            probe: route.probe.as_ref().map(ProbePart::of),
            guard: route.guard.as_ref().map(GuardPart::of),
            releases: route.releases.iter().map(ReleasePart::of).collect(),
        }
    }
}

impl ProbePart<'_> {
    fn of(rule: &ProbeRule) -> ProbePart<'_> {
        ProbePart {
            path: rule.path.as_str(),
            found: words::statuses(rule.statuses_that_show(Shown::Found)),
            absent: words::statuses(rule.statuses_that_show(Shown::Absent)),
            member: rule.member.as_ref().map(Pointer::as_str),
            keep: words::keep(rule.keep),
            status: rule.status.map(|status| status.as_u16()),
            after_seconds: Seconds(rule.after),
        }
    }
}

impl GuardPart<'_> {
    fn of(rule: &GuardRule) -> GuardPart<'_> {
        GuardPart {
            name: &rule.name,
            values: rule.values.iter().map(SourcePart::of).collect(),
            when: rule
                .when
                .iter()
                .map(|when| ConditionPart { source: SourcePart::of(&when.source), is: &when.is })
                .collect(),
            hold_for_seconds: Seconds(rule.hold_for),
            override_header: match rule.overriding {
                Overriding::Never => None,
                Overriding::WithReason => Some(words::header(&GUARD_OVERRIDE)),
            },
        }
    }
}

impl SourcePart<'_> {
    fn of(source: &Source) -> SourcePart<'_> {
        match source {
            Source::Content(pointer) => SourcePart { member: pointer.as_str(), of_reply_to: None, named_by: None },
            Source::Reply(reply) => SourcePart {
                member: reply.member.as_str(),
                of_reply_to: Some(format!("{} {}", reply.method, reply.path)),
                named_by: Some(reply.key.as_str()),
            },
        }
    }
}

impl ReleasePart<'_> {
    fn of(rule: &ReleaseRule) -> ReleasePart<'_> {
        let (held_while, dead_when) = match &rule.shows {
            Shows::HeldWhile(texts) => (Some(texts.as_slice()), None),
            Shows::DeadWhen(texts) => (None, Some(texts.as_slice())),
        };
        ReleasePart {
            methods: rule.methods.iter().map(http::Method::as_str).collect(),
            path: rule.path.as_str(),
            member: rule.member.as_str(),
            held_while,
            dead_when,
            after_seconds: Seconds(rule.after),
        }
    }
}

impl KeyPart {
    fn of(route: &RoutePolicy) -> KeyPart {
        match &route.key {
            KeyRule::Header { name, grammar, form, presence, attempt_suffix, sent } => KeyPart {
                location: "header",
                name: Some(words::header(name)),
                grammar: Some(words::grammar(*grammar)),
                form: Some(words::form(*form)),
                attempt_suffix: Some(words::attempt_suffix(*attempt_suffix)),
                sent: Some(words::sent(*sent)),
                presence: words::presence(*presence),
                id_of: None,
            },
            KeyRule::Member { pointer, grammar, presence } => KeyPart {
                location: "member",
                name: Some(pointer.as_str().to_owned()),
                grammar: Some(words::grammar(*grammar)),
                form: None,
                attempt_suffix: None,
                sent: None,
                presence: words::presence(*presence),
                id_of: route.resource.as_ref().map(|resource| resource.as_str().to_owned()),
            },
            KeyRule::Operation => KeyPart {
                location: "operation",
                name: None,
                grammar: None,
                form: None,
                attempt_suffix: None,
                sent: None,
                presence: "required",
                id_of: None,
            },
        }
    }
}

impl FingerprintPart<'_> {
    fn of(rule: &FingerprintRule) -> FingerprintPart<'_> {
        fn texts(pointers: &[Pointer]) -> Vec<&str> {
            pointers.iter().map(Pointer::as_str).collect()
        }
        let (content, ignored, members) = match rule {
            FingerprintRule::Raw => ("raw", Vec::new(), Vec::new()),
            FingerprintRule::Json { volatile } => ("json", texts(volatile), Vec::new()),
            FingerprintRule::Members(pointers) => ("members", Vec::new(), texts(pointers)),
        };
        let always = ["method", "path", "query", "content-type", "content-encoding"];
        FingerprintPart { always, content, ignored, members }
    }
}

/// A duration in seconds; a whole number where it is one.
struct Seconds(Duration);

impl Serialize for Seconds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.subsec_nanos() == 0 {
            serializer.serialize_u64(self.0.as_secs())
        } else {
            serializer.serialize_f64(self.0.as_secs_f64())
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use semel_core::policy::Preset;

    use super::*;

    #[test]
    fn the_document_of_the_default_policy() {
        expect![[r#"
            {
              "version": 1,
              "scope": {
                "principal_headers": [
                  "Authorization",
                  "X-Api-Key"
                ],
                "operation": [
                  "method",
                  "route",
                  "path"
                ]
              },
              "routes": [
                {
                  "path": "/*",
                  "methods": [
                    "POST",
                    "PATCH"
                  ],
                  "key": {
                    "in": "header",
                    "name": "Idempotency-Key",
                    "grammar": "any",
                    "form": "lenient",
                    "attempt_suffix": "literal",
                    "sent": "as-received",
                    "presence": "optional"
                  },
                  "fingerprint": {
                    "always": [
                      "method",
                      "path",
                      "query",
                      "content-type",
                      "content-encoding"
                    ],
                    "content": "raw"
                  },
                  "effect_by_status": {
                    "happened": [
                      "2xx",
                      "3xx"
                    ],
                    "none": [
                      "4xx",
                      "503"
                    ],
                    "unknown": [
                      "500-502",
                      "504-599"
                    ]
                  },
                  "retry": {
                    "reply": "kept",
                    "on_completed": "replay",
                    "on_mismatch": "refuse",
                    "on_unknown": "refuse",
                    "on_expired": "refuse",
                    "on_late": "ignore",
                    "marker": "Idempotent-Replayed",
                    "headers_omitted": [
                      "Date",
                      "Set-Cookie"
                    ]
                  },
                  "times_seconds": {
                    "execution_max": 30,
                    "wait_max": 0,
                    "request_read_max": 30,
                    "replay_for": 86400,
                    "remember_for": 2592000,
                    "unknown_for": 2592000
                  },
                  "bytes_max": {
                    "key": 255,
                    "request_body": 1048576,
                    "reply_body": 1048576
                  },
                  "problems": {
                    "guard-held": 409,
                    "guard-incomplete": 400,
                    "identity-unavailable": 503,
                    "in-flight": 409,
                    "key-invalid": 400,
                    "key-missing": 400,
                    "key-reused": 422,
                    "origin-unavailable": 502,
                    "outcome-unknown": 409,
                    "quota-exceeded": 429,
                    "reply-gone": 409,
                    "request-incomplete": 400,
                    "request-timeout": 408,
                    "request-too-large": 413,
                    "resource-exists": 409,
                    "resource-id-reused": 409,
                    "slot-taken": 409,
                    "store-unavailable": 503,
                    "too-late": 412,
                    "unauthenticated": 401
                  }
                }
              ]
            }
        "#]]
        .assert_eq(&document(&Policy::preset(Preset::Ietf)));
    }

    #[test]
    fn e10_q18_guards_and_releases_are_published() {
        let shown = |preset: Preset, route: usize| {
            let json: serde_json::Value = serde_json::from_str(&document(&Policy::preset(preset))).expect("JSON");
            let route = &json["routes"][route];
            serde_json::to_string_pretty(&serde_json::json!([route["guard"], route["releases"]])).expect("JSON")
        };
        expect![[r#"
            [
              {
                "hold_for_seconds": 2592000,
                "name": "pending-onramp",
                "values": [
                  {
                    "member": "/bankAccountId"
                  },
                  {
                    "member": "/sourceAmount",
                    "named_by": "/quoteId",
                    "of_reply_to": "POST /ramp/quote"
                  },
                  {
                    "member": "/quoteAssets/sourceAsset",
                    "named_by": "/quoteId",
                    "of_reply_to": "POST /ramp/quote"
                  }
                ],
                "when": [
                  {
                    "is": [
                      "onramp"
                    ],
                    "member": "/quoteAssets/type",
                    "named_by": "/quoteId",
                    "of_reply_to": "POST /ramp/quote"
                  }
                ]
              },
              [
                {
                  "after_seconds": 0,
                  "held_while": [
                    "created"
                  ],
                  "member": "/status",
                  "methods": [
                    "GET"
                  ],
                  "path": "/ramp/order/{key}"
                },
                {
                  "after_seconds": 0,
                  "held_while": [
                    "created"
                  ],
                  "member": "/status",
                  "methods": [
                    "POST"
                  ],
                  "path": "/ramp/order/{key}/cancel"
                }
              ]
            ]"#]]
        .assert_eq(&shown(Preset::Etherfuse, 0));
        expect![[r#"
            [
              null,
              [
                {
                  "after_seconds": 180,
                  "dead_when": [
                    "awaiting_burn_approval"
                  ],
                  "member": "/status",
                  "methods": [
                    "GET"
                  ],
                  "path": "/v2/intents/{id}"
                }
              ]
            ]"#]]
        .assert_eq(&shown(Preset::Nora, 2));
    }

    #[test]
    fn e2_the_resource_that_an_id_counts_for_is_published() {
        let json: serde_json::Value =
            serde_json::from_str(&document(&Policy::preset(Preset::Etherfuse))).expect("it is JSON");
        let of = |route: usize| json["routes"][route]["key"]["id_of"].as_str();
        assert_eq!((of(2), of(3)), (Some("/ramp/bank-account/{key}"), None));
    }

    #[test]
    fn every_preset_can_be_published() {
        for preset in Preset::ALL {
            let json: serde_json::Value = serde_json::from_str(&document(&Policy::preset(preset))).expect("JSON");
            let routes = json["routes"].as_array().expect("a list");
            assert_eq!(routes.len(), Policy::preset(preset).routes().len(), "{}", preset.name());
            for route in routes {
                assert_eq!(route["problems"].as_object().expect("by code").len(), ProblemType::ALL.len());
            }
        }
    }
}
