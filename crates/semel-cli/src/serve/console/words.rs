//! Policies, decisions and outcomes in plain words.

use http::Method;
use semel_core::{
    fingerprint::FingerprintRule,
    guard::{GuardRule, Overriding, Source},
    key::{AttemptSuffix, Grammar, KeyRule, Pointer, Presence},
    policy::{Effect, OnCompleted, OnExpired, OnLate, OnMismatch, OnUnknown, ReplyRule, RoutePolicy},
    release::{ReleaseRule, Shows},
    wire::{KeyStatus, ProblemType},
};

use super::page::as_configured;
use crate::config::words;

/// What a decision of an event means; see [`semel::Event::decision`].
pub(super) fn of_decision(decision: &str) -> &'static str {
    const ANSWERED: [(KeyStatus, &str); 5] = [
        (KeyStatus::Absent, "Executed without a key: a retry executes again"),
        (KeyStatus::Ignored, "Executed, and its key was not looked at"),
        (KeyStatus::Unkept, "Executed, and its reply could not be kept"),
        (KeyStatus::Released, "Executed without an effect: its key is free again"),
        (KeyStatus::Unknown, "Executed, and its response does not say whether the effect happened"),
    ];
    match decision {
        "completed" => "Executed, and its reply is kept",
        "replay" => "Answered with the kept reply",
        "lost" => "Sent, and no answer came: outcome unknown",
        other => {
            let answered = ANSWERED.iter().find(|(status, _)| status.as_str() == other).map(|(_, words)| *words);
            let refused = || ProblemType::ALL.into_iter().find(|kind| kind.code() == other).map(ProblemType::title);
            answered.or_else(refused).unwrap_or("")
        }
    }
}

/// How a route is headed: its methods and path.
pub(super) fn heading(route: &RoutePolicy) -> String {
    let methods: Vec<&str> = route.methods.iter().map(Method::as_str).collect();
    format!("{} {}", methods.join(", "), route.path.as_str())
}

/// What a route promises, a sentence each.
pub(super) fn of_route(route: &RoutePolicy) -> Vec<String> {
    let mut said = vec![key(route), same_request(route)];
    said.extend(completed(route));
    said.push(mismatch(route));
    said.push(concurrent(route));
    said.push(unknown(route));
    said.push(times(route));
    said.extend(effects(route));
    if route.on_late == OnLate::Refuse {
        let age = as_configured(route.remember_for);
        said.push(format!("A request that says it was first sent more than {age} ago is refused."));
    }
    said.extend(route.guard.as_ref().map(guard));
    said.extend(route.releases.iter().map(release));
    said.push(format!(
        "Contents up to {} are protected, and replies up to {} are kept; larger requests are refused, and of larger \
         replies only the fact is kept.",
        words::bytes(route.request_body_bytes_max),
        words::bytes(route.reply_body_bytes_max)
    ));
    said
}

fn key(route: &RoutePolicy) -> String {
    let without = |presence| match presence {
        Presence::Optional => "A request without it passes through unprotected.",
        Presence::Required => "A request without it is refused.",
    };
    let form = |grammar| match grammar {
        Grammar::Any => String::new(),
        Grammar::Uuid => ", a UUID".to_owned(),
        Grammar::UuidV4 => ", a UUID of version 4".to_owned(),
        Grammar::UuidV7 => ", a UUID of version 7".to_owned(),
    };
    match &route.key {
        KeyRule::Header { name, grammar, form: _, presence, attempt_suffix, sent: _ } => {
            let suffix = match attempt_suffix {
                AttemptSuffix::Literal => "",
                AttemptSuffix::Stem => " A number of the attempt at its end does not count.",
            };
            format!(
                "Executed at most once per caller, path and value of the header {}{}.{suffix} {}",
                words::header(name),
                form(*grammar),
                without(*presence)
            )
        }
        KeyRule::Member { pointer, grammar, presence } => format!(
            "Executed at most once per caller and value of the member {}{} of the content, which is the id of the \
             resource. {}",
            pointer.as_str(),
            form(*grammar),
            without(*presence)
        ),
        KeyRule::Operation => "Executed at most once per caller and path: the path itself is the key.".to_owned(),
    }
}

fn same_request(route: &RoutePolicy) -> String {
    let listed = |pointers: &[Pointer]| pointers.iter().map(Pointer::as_str).collect::<Vec<_>>().join(", ");
    match &route.fingerprint {
        FingerprintRule::Raw => "A retry must have the same content, byte for byte.".to_owned(),
        FingerprintRule::Json { volatile } if volatile.is_empty() => {
            "A retry must have the same JSON value as content; white space and the order of members do not count."
                .to_owned()
        }
        FingerprintRule::Json { volatile } => format!(
            "A retry must have the same JSON value as content, except for {}; white space and the order of members do \
             not count.",
            listed(volatile)
        ),
        FingerprintRule::Members(pointers) if pointers.is_empty() => {
            "The content does not count: every request under the key is the same one.".to_owned()
        }
        FingerprintRule::Members(pointers) => {
            format!("A retry must have the same values of {} in its content.", listed(pointers))
        }
    }
}

fn completed(route: &RoutePolicy) -> Vec<String> {
    let replay_for = as_configured(route.replay_for);
    let told = match (route.on_completed, route.reply) {
        (OnCompleted::Conflict, _) => {
            return vec!["A retry of what has happened is told that the resource exists.".to_owned()];
        }
        (OnCompleted::Replay, ReplyRule::Kept) => format!(
            "A retry of what has happened is told the first reply, marked with {}, for {replay_for}.",
            words::header(&route.marker)
        ),
        (OnCompleted::Replay, ReplyRule::Omitted) => {
            "Replies are never kept: a retry of what has happened is told only that, and with which status.".to_owned()
        }
    };
    let later = match route.on_expired {
        OnExpired::Refuse if route.remember_for > route.replay_for => {
            Some("After that it is refused for as long as it is remembered.".to_owned())
        }
        OnExpired::Refuse => None,
        OnExpired::Execute => Some(format!("{replay_for} after the first reply the same key executes again.")),
    };
    [Some(told), later].into_iter().flatten().collect()
}

fn mismatch(route: &RoutePolicy) -> String {
    match route.on_mismatch {
        OnMismatch::Refuse => {
            let status = route.status_of(route.mismatch()).as_u16();
            format!("Another request under the same key is refused with {status}.")
        }
        OnMismatch::Replay => "Another request under the same key is told the reply to the first one.".to_owned(),
    }
}

fn concurrent(route: &RoutePolicy) -> String {
    let status = route.status_of(ProblemType::InFlight).as_u16();
    if route.wait_max.is_zero() {
        format!("A retry while the first request still runs is refused at once with {status}.")
    } else {
        let wait = as_configured(route.wait_max);
        format!(
            "A retry while the first request still runs waits for it up to {wait}, and is then refused with {status}."
        )
    }
}

fn unknown(route: &RoutePolicy) -> String {
    let execution = as_configured(route.execution_max);
    let then = match route.on_unknown {
        OnUnknown::Refuse => "a retry is refused until an operator settles it",
        OnUnknown::Probe => "at the next retry the origin is asked what became of it, and believed",
        OnUnknown::Reexecute => "a retry executes again, since the origin is declared idempotent",
        OnUnknown::ForwardKey => {
            "a retry executes again, since the origin is declared to know the key, which it is sent"
        }
    };
    format!(
        "An execution that has no answer after {execution}, or whose connection breaks, is unknown for {}: {then}.",
        as_configured(route.unknown_for)
    )
}

fn times(route: &RoutePolicy) -> String {
    format!("What has happened is remembered for {}.", as_configured(route.remember_for))
}

fn effects(route: &RoutePolicy) -> Vec<String> {
    let said = |effect, words_of: &str| {
        let statuses = words::statuses(route.statuses_that_mean(effect));
        (!statuses.is_empty()).then(|| format!("{}: {words_of}.", statuses.join(", ")))
    };
    [
        said(Effect::Happened, "the effect happened, and the reply is kept"),
        said(Effect::None, "nothing happened, and the key is free again"),
        said(Effect::Unknown, "nobody knows whether the effect happened"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn guard(rule: &GuardRule) -> String {
    let text = |source: &Source| match source {
        Source::Content(pointer) => pointer.as_str().to_owned(),
        Source::Reply(reply) => {
            format!("{} of the reply to {} {}", reply.member.as_str(), reply.method, reply.path)
        }
    };
    let values: Vec<String> = rule.values.iter().map(text).collect();
    let when: Vec<String> = rule
        .when
        .iter()
        .map(|condition| format!("{} is {}", text(&condition.source), condition.is.join(" or ")))
        .collect();
    let when = if when.is_empty() { String::new() } else { format!(", where {}", when.join(" and ")) };
    let passing = match rule.overriding {
        Overriding::Never => "",
        Overriding::WithReason => " A caller may pass it with a reason, which is logged.",
    };
    format!(
        "The guard {} lets a caller have only one live operation with the same {}{when}; it is held for {} at most.{passing}",
        rule.name,
        values.join(", "),
        as_configured(rule.hold_for)
    )
}

fn release(rule: &ReleaseRule) -> String {
    let methods: Vec<&str> = rule.methods.iter().map(Method::as_str).collect();
    let (member, seen) = (rule.member.as_str(), format!("{} {}", methods.join(", "), rule.path.as_str()));
    match &rule.shows {
        Shows::HeldWhile(texts) => {
            format!("It is free again when {member} in a response to {seen} is not {}.", texts.join(" or "))
        }
        Shows::DeadWhen(texts) => {
            format!("It is free again when {member} in a response to {seen} is {}.", texts.join(" or "))
        }
    }
}

#[cfg(test)]
mod tests {
    use semel_core::policy::{Policy, Preset};

    use super::*;

    #[test]
    fn every_preset_is_told_in_whole_sentences() {
        for preset in Preset::ALL {
            for route in Policy::preset(preset).routes() {
                for sentence in of_route(route) {
                    assert!(sentence.ends_with('.') && !sentence.contains("  "), "{preset:?}: {sentence}");
                }
            }
        }
    }

    #[test]
    fn the_default_policy_in_plain_words() {
        let policy = Policy::preset(Preset::Ietf);
        let said = of_route(&policy.routes()[0]).join("\n");
        expect_test::expect![[r#"
            Executed at most once per caller, path and value of the header Idempotency-Key. A request without it passes through unprotected.
            A retry must have the same content, byte for byte.
            A retry of what has happened is told the first reply, marked with Idempotent-Replayed, for 24h.
            After that it is refused for as long as it is remembered.
            Another request under the same key is refused with 422.
            A retry while the first request still runs is refused at once with 409.
            An execution that has no answer after 30s, or whose connection breaks, is unknown for 30d: a retry is refused until an operator settles it.
            What has happened is remembered for 30d.
            2xx, 3xx: the effect happened, and the reply is kept.
            4xx, 503: nothing happened, and the key is free again.
            500-502, 504-599: nobody knows whether the effect happened.
            Contents up to 1 MiB are protected, and replies up to 1 MiB are kept; larger requests are refused, and of larger replies only the fact is kept."#]].assert_eq(&said);
    }

    #[test]
    fn every_decision_has_words() {
        let statuses =
            [KeyStatus::Absent, KeyStatus::Ignored, KeyStatus::Unkept, KeyStatus::Released, KeyStatus::Unknown];
        let codes = ProblemType::ALL.iter().map(|kind| kind.code());
        for decision in ["completed", "replay", "lost"].into_iter().chain(codes).chain(statuses.map(KeyStatus::as_str))
        {
            assert!(!of_decision(decision).is_empty(), "{decision}");
        }
    }
}
