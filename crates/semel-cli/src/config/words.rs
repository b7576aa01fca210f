//! The words of configuration, in the one place that writes them.

use std::time::Duration;

use semel_core::{
    key::{Form, Grammar, Presence},
    policy::{OnCompleted, OnExpired, OnLate, OnUnknown, ReplyRule},
};

use super::{HostRule, LogForm, PublishPolicy, StoreKind};

/// A duration in its largest whole unit: `24h`, `30s`.
pub(crate) fn duration(duration: Duration) -> String {
    if !duration.is_zero() && duration.subsec_nanos() == 0 && duration.as_secs() < 86_400 * 366 {
        let seconds = duration.as_secs();
        for (unit, name) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
            if seconds % unit == 0 && seconds / unit >= if name == "d" { 2 } else { 1 } {
                return format!("{}{name}", seconds / unit);
            }
        }
    }
    humantime::format_duration(duration).to_string()
}

/// A range of statuses: `4xx`, `422`, `500-504`.
pub(crate) fn statuses((first, last): (u16, u16)) -> String {
    match (first, last) {
        _ if first == last => first.to_string(),
        _ if first % 100 == 0 && last == first + 99 => format!("{}xx", first / 100),
        _ => format!("{first}-{last}"),
    }
}

/// A size in its largest whole unit: `1 MiB`.
pub(crate) fn bytes(bytes: usize) -> String {
    for (unit, name) in [(1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes > 0 && bytes % unit == 0 {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} B")
}

pub(crate) fn grammar(grammar: Grammar) -> &'static str {
    match grammar {
        Grammar::Any => "any",
        Grammar::Uuid => "uuid",
        Grammar::UuidV4 => "uuid-v4",
        Grammar::UuidV7 => "uuid-v7",
    }
}

pub(crate) fn form(form: Form) -> &'static str {
    match form {
        Form::Lenient => "lenient",
        Form::Strict => "strict",
    }
}

pub(crate) fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Optional => "optional",
        Presence::Required => "required",
    }
}

pub(crate) fn reply(reply: ReplyRule) -> &'static str {
    match reply {
        ReplyRule::Kept => "kept",
        ReplyRule::Omitted => "omitted",
    }
}

pub(crate) fn on_completed(rule: OnCompleted) -> &'static str {
    match rule {
        OnCompleted::Replay => "replay",
        OnCompleted::Conflict => "conflict",
    }
}

pub(crate) fn on_unknown(rule: OnUnknown) -> &'static str {
    match rule {
        OnUnknown::Refuse => "refuse",
        OnUnknown::Reexecute => "reexecute",
        OnUnknown::ForwardKey => "forward-key",
    }
}

pub(crate) fn on_expired(rule: OnExpired) -> &'static str {
    match rule {
        OnExpired::Refuse => "refuse",
        OnExpired::Execute => "execute",
    }
}

pub(crate) fn on_late(rule: OnLate) -> &'static str {
    match rule {
        OnLate::Ignore => "ignore",
        OnLate::Refuse => "refuse",
    }
}

pub(crate) fn store(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::Embedded => "embedded",
        StoreKind::Memory => "memory",
    }
}

pub(crate) fn publish_policy(who: PublishPolicy) -> &'static str {
    match who {
        PublishPolicy::Admin => "admin",
        PublishPolicy::Public => "public",
    }
}

pub(crate) fn host(rule: HostRule) -> &'static str {
    match rule {
        HostRule::Preserve => "preserve",
        HostRule::Upstream => "upstream",
    }
}

pub(crate) fn log(form: LogForm) -> &'static str {
    match form {
        LogForm::Text => "text",
        LogForm::Json => "json",
    }
}
