//! The words of configuration, in the one place that writes them.

use std::time::Duration;

use semel_core::{
    key::{AttemptSuffix, Form, Grammar, Presence, Sent},
    policy::{Keep, OnCompleted, OnExpired, OnLate, OnMismatch, OnUnknown, ReplyRule},
};

use super::{ClientCertificate, HostRule, LogForm, PublishPolicy};

/// A duration in its largest whole unit: `24h`, `30s`.
pub(crate) fn duration(duration: Duration) -> String {
    const UNITS: [(u64, u64, &str); 3] = [(86_400, 2 * 86_400, "d"), (3_600, 3_600, "h"), (60, 120, "m")];
    let seconds = duration.as_secs();
    let unit = UNITS.iter().find(|(unit, least, _)| seconds.is_multiple_of(*unit) && seconds >= *least);
    match unit {
        Some((unit, _, name)) if duration.subsec_nanos() == 0 => format!("{}{name}", seconds / unit),
        Some(_) => humantime::format_duration(duration).to_string(),
        None if duration.subsec_nanos() == 0 && seconds < 120 => format!("{seconds}s"),
        None => humantime::format_duration(duration).to_string(),
    }
}

/// Ranges of statuses: `2xx`, `422`, `504-599`.
pub(crate) fn statuses(ranges: impl IntoIterator<Item = (u16, u16)>) -> Vec<String> {
    let mut texts = Vec::new();
    for (first, last) in ranges {
        let mut from = first;
        while from <= last {
            let class_end = from / 100 * 100 + 99;
            let is_class = from.is_multiple_of(100) && class_end <= last;
            let to = if is_class { class_end } else { last.min(class_end) };
            texts.push(match (from, to) {
                _ if is_class => format!("{}xx", from / 100),
                _ if from == to => from.to_string(),
                _ => format!("{from}-{to}"),
            });
            from = to + 1;
        }
    }
    texts
}

/// A header as people write it: `Idempotency-Key`.
pub(crate) fn header(name: &http::HeaderName) -> String {
    let words = name.as_str().split('-').map(|word| {
        let mut letters = word.chars();
        letters.next().map(|letter| letter.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    });
    words.collect::<Vec<_>>().join("-")
}

/// A size in its largest whole unit: `1 MiB`.
pub(crate) fn bytes(bytes: usize) -> String {
    let units = [(1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
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

pub(crate) fn sent(sent: Sent) -> &'static str {
    match sent {
        Sent::AsReceived => "as-received",
        Sent::Bare => "bare",
        Sent::Quoted => "quoted",
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

pub(crate) fn on_mismatch(rule: OnMismatch) -> &'static str {
    match rule {
        OnMismatch::Refuse => "refuse",
        OnMismatch::Replay => "replay",
    }
}

pub(crate) fn attempt_suffix(suffix: AttemptSuffix) -> &'static str {
    match suffix {
        AttemptSuffix::Literal => "literal",
        AttemptSuffix::Stem => "stem",
    }
}

pub(crate) fn on_unknown(rule: OnUnknown) -> &'static str {
    match rule {
        OnUnknown::Refuse => "refuse",
        OnUnknown::Reexecute => "reexecute",
        OnUnknown::ForwardKey => "forward-key",
        OnUnknown::Probe => "probe",
    }
}

pub(crate) fn keep(keep: Keep) -> &'static str {
    match keep {
        Keep::Content => "content",
        Keep::Member => "member",
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

pub(crate) fn client_certificate(rule: ClientCertificate) -> &'static str {
    match rule {
        ClientCertificate::None => "none",
        ClientCertificate::Optional => "optional",
        ClientCertificate::Required => "required",
    }
}
