//! Vocabulary of the wire: header names, structured-field strings, problem types. Decides nothing.

use http::{HeaderName, StatusCode};
use serde::Serialize;

/// `Idempotency-Key`: the draft's request header (draft-ietf-httpapi-idempotency-key-header-07 section 2.1).
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `Idempotent-Replayed: true` marks a replay; the draft names no marker, this one is the field's most common.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// `Idempotency-Status` says what became of the key when that is not obvious: see [`KeyStatus`].
pub const IDEMPOTENCY_STATUS: HeaderName = HeaderName::from_static("idempotency-status");
/// `Idempotency-Effect: none|happened|unknown`, by which an origin says what its own response means for the effect.
pub const IDEMPOTENCY_EFFECT: HeaderName = HeaderName::from_static("idempotency-effect");
/// `Idempotency-Warning` names something the caller should mend: see [`Warning`].
pub const IDEMPOTENCY_WARNING: HeaderName = HeaderName::from_static("idempotency-warning");
/// `Idempotency-Problem` names the problem's code where the content is in an API's own words and does not.
pub const IDEMPOTENCY_PROBLEM: HeaderName = HeaderName::from_static("idempotency-problem");
/// `Guard-Override: <reason>`, by which a caller passes a guard whose rule allows it (Q14).
pub const GUARD_OVERRIDE: HeaderName = HeaderName::from_static("guard-override");
/// `Repeatability-First-Sent` (OASIS Repeatable Requests 1.0): when the client first sent this request.
pub const REPEATABILITY_FIRST_SENT: HeaderName = HeaderName::from_static("repeatability-first-sent");
/// `Repeatability-Result: rejected` answers a request whose `Repeatability-First-Sent` is out of the window.
pub const REPEATABILITY_RESULT: HeaderName = HeaderName::from_static("repeatability-result");
/// `traceparent`: where a request stands in a trace (W3C Trace Context section 3.2).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Where the policy is published (draft section 2.5.2 demands that it is).
pub const POLICY_PATH: &str = "/.well-known/idempotency";

/// The values of [`IDEMPOTENCY_STATUS`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyStatus {
    /// The route takes keys and the request had none: a retry executes again.
    Absent,
    /// The request had a key and nothing looked at it: a retry executes again.
    Ignored,
    /// The reply is true but could not be kept: a retry learns less than this.
    Unkept,
    /// The response says that nothing happened, so the key is free again.
    Released,
    /// The response does not say whether the effect happened, and the key remembers that.
    Unknown,
}

impl KeyStatus {
    /// The value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyStatus::Absent => "absent",
            KeyStatus::Ignored => "ignored",
            KeyStatus::Unkept => "unkept",
            KeyStatus::Released => "released",
            KeyStatus::Unknown => "unknown",
        }
    }
}

/// The values of [`IDEMPOTENCY_WARNING`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Warning {
    /// The key had been used before and its record was past its time; the request was executed as a first one.
    Expired,
    /// The key counts attempts. It was looked up without the number; send the same key on every attempt (Q1).
    AttemptSuffix,
}

impl Warning {
    /// The value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Warning::Expired => "expired",
            Warning::AttemptSuffix => "attempt-suffix",
        }
    }
}

/// Why a value is not a structured-field String (RFC 9651 section 3.3.3) that spans the whole field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SfStringError {
    /// A quote that never closes, or a backslash before something other than `"` and `\`.
    #[error("the quoted string is not closed or holds a bad escape")]
    Unterminated,
    /// A byte outside 0x20 to 0x7E.
    #[error("only printable ASCII characters are allowed")]
    NotPrintableAscii,
    /// Something after the closing quote: parameters, or a second item.
    #[error("nothing may follow the closing quote")]
    Trailing,
}

/// Reads a structured-field String that is all of `value`, which starts with a quote.
pub fn read_sf_string(value: &[u8]) -> Result<String, SfStringError> {
    let mut bytes = value.iter().copied().skip(1);
    let mut text = String::with_capacity(value.len());
    loop {
        // RFC 9651 section 4.2.5: only DQUOTE and backslash may be escaped.
        match bytes.next() {
            None => return Err(SfStringError::Unterminated),
            Some(b'"') => break,
            Some(b'\\') => match bytes.next() {
                Some(c @ (b'"' | b'\\')) => text.push(char::from(c)),
                _ => return Err(SfStringError::Unterminated),
            },
            Some(c @ 0x20..=0x7e) => text.push(char::from(c)),
            Some(_) => return Err(SfStringError::NotPrintableAscii),
        }
    }
    if bytes.next().is_some() { Err(SfStringError::Trailing) } else { Ok(text) }
}

/// Writes printable ASCII as a structured-field String (RFC 9651 section 4.1.6); `None` for anything else.
pub fn write_sf_string(text: &str) -> Option<String> {
    if !text.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
        return None;
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    Some(out)
}

/// A JSON object with one more member set to `true`, every other byte as it was (E27); `None` for anything else, and for
/// an object that has the member already.
pub fn with_member(content: &[u8], member: &str) -> Option<Vec<u8>> {
    use json_event_parser::{JsonEvent, SliceJsonParser};
    let mut parser = SliceJsonParser::new(content);
    if !matches!(parser.parse_next(), Ok(JsonEvent::StartObject)) {
        return None;
    }
    let mut depth = 1u32;
    let mut members = 0u32;
    loop {
        match parser.parse_next().ok()? {
            JsonEvent::StartArray | JsonEvent::StartObject => depth += 1,
            JsonEvent::EndArray | JsonEvent::EndObject => depth -= 1,
            JsonEvent::ObjectKey(name) if depth == 1 && name == member => return None,
            JsonEvent::ObjectKey(_) if depth == 1 => members += 1,
            JsonEvent::Eof => break,
            JsonEvent::ObjectKey(_)
            | JsonEvent::String(_)
            | JsonEvent::Number(_)
            | JsonEvent::Boolean(_)
            | JsonEvent::Null => {}
        }
    }
    let open = content.iter().position(|byte| *byte == b'{').expect("an object has an opening brace");
    let comma = if members == 0 { "" } else { "," };
    let name = serde_json::to_string(member).expect("a string always serialises");
    let mut out = Vec::with_capacity(content.len() + name.len() + 6);
    out.extend_from_slice(&content[..=open]);
    out.extend_from_slice(format!("{name}:true{comma}").as_bytes());
    out.extend_from_slice(&content[open + 1..]);
    Some(out)
}

/// Every problem that Semel answers with, by its stable `code`. Statuses differ between vendors and routes, codes never do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemType {
    /// The route demands a key and there is none (draft section 2.7).
    KeyMissing,
    /// The key cannot be read, or does not have the form the route demands.
    KeyInvalid,
    /// The key was used for another request (draft section 2.7).
    KeyReused,
    /// The first request with this key is still being processed (draft section 2.7).
    InFlight,
    /// The request was sent and nobody knows whether its effect happened.
    OutcomeUnknown,
    /// It was done, and the reply is no longer (or never was) kept.
    ReplyGone,
    /// The record store cannot be reached, so nothing was executed.
    StoreUnavailable,
    /// The content is over the limit within which a request can be protected.
    RequestTooLarge,
    /// The content did not arrive in time; nothing was executed.
    RequestTimeout,
    /// The content broke off or could not be read; nothing was executed.
    RequestIncomplete,
    /// The resource that this client-supplied id names exists, with the same fields (E3).
    ResourceExists,
    /// The resource that this client-supplied id names exists, with other fields (Q8).
    ResourceIdReused,
    /// The operation was already done with another value (E38).
    SlotTaken,
    /// Another live operation holds the guard of this one (E10): the problem names its resource.
    GuardHeld,
    /// The values of the route's guard cannot be told, so nobody can know whether it is held.
    GuardIncomplete,
    /// The request was first sent longer ago than keys are remembered, so nobody can know whether it was done.
    TooLate,
    /// The origin could not be reached; nothing was sent.
    OriginUnavailable,
    /// Who asks could not be verified, so nothing was looked up.
    Unauthenticated,
    /// Who asks can be verified by nobody at the moment.
    IdentityUnavailable,
    /// The caller has used as many fresh keys as one may (SC12).
    QuotaExceeded,
}

impl ProblemType {
    /// All of them, in the order of the reference page.
    pub const ALL: [ProblemType; 20] = [
        ProblemType::KeyMissing,
        ProblemType::KeyInvalid,
        ProblemType::KeyReused,
        ProblemType::InFlight,
        ProblemType::OutcomeUnknown,
        ProblemType::ReplyGone,
        ProblemType::StoreUnavailable,
        ProblemType::RequestTooLarge,
        ProblemType::RequestTimeout,
        ProblemType::RequestIncomplete,
        ProblemType::ResourceExists,
        ProblemType::ResourceIdReused,
        ProblemType::SlotTaken,
        ProblemType::GuardHeld,
        ProblemType::GuardIncomplete,
        ProblemType::TooLate,
        ProblemType::OriginUnavailable,
        ProblemType::Unauthenticated,
        ProblemType::IdentityUnavailable,
        ProblemType::QuotaExceeded,
    ];

    /// The stable machine-readable code.
    pub fn code(self) -> &'static str {
        match self {
            ProblemType::KeyMissing => "key-missing",
            ProblemType::KeyInvalid => "key-invalid",
            ProblemType::KeyReused => "key-reused",
            ProblemType::InFlight => "in-flight",
            ProblemType::OutcomeUnknown => "outcome-unknown",
            ProblemType::ReplyGone => "reply-gone",
            ProblemType::StoreUnavailable => "store-unavailable",
            ProblemType::RequestTooLarge => "request-too-large",
            ProblemType::RequestTimeout => "request-timeout",
            ProblemType::RequestIncomplete => "request-incomplete",
            ProblemType::ResourceExists => "resource-exists",
            ProblemType::ResourceIdReused => "resource-id-reused",
            ProblemType::SlotTaken => "slot-taken",
            ProblemType::GuardHeld => "guard-held",
            ProblemType::GuardIncomplete => "guard-incomplete",
            ProblemType::TooLate => "too-late",
            ProblemType::OriginUnavailable => "origin-unavailable",
            ProblemType::Unauthenticated => "unauthenticated",
            ProblemType::IdentityUnavailable => "identity-unavailable",
            ProblemType::QuotaExceeded => "quota-exceeded",
        }
    }

    /// The RFC 9457 `type`: an identifier, the same wherever the documentation lives.
    pub fn uri(self) -> String {
        format!("urn:semel:problem:{}", self.code())
    }

    /// The RFC 9457 `title`: the same for every occurrence.
    pub fn title(self) -> &'static str {
        match self {
            ProblemType::KeyMissing => "An idempotency key is required",
            ProblemType::KeyInvalid => "The idempotency key is not valid",
            ProblemType::KeyReused => "The idempotency key was used for another request",
            ProblemType::InFlight => "The first request with this idempotency key is still being processed",
            ProblemType::OutcomeUnknown => "Nobody knows whether the effect of this request happened",
            ProblemType::ReplyGone => "This was done, and its reply is no longer kept",
            ProblemType::StoreUnavailable => "The record store is unavailable",
            ProblemType::RequestTooLarge => "The content is too large to be protected",
            ProblemType::RequestTimeout => "The content did not arrive in time",
            ProblemType::RequestIncomplete => "The content is not complete",
            ProblemType::ResourceExists => "The resource already exists",
            ProblemType::ResourceIdReused => "The resource already exists with other fields",
            ProblemType::SlotTaken => "The operation was already done with another value",
            ProblemType::GuardHeld => "Another operation that is still live excludes this one",
            ProblemType::GuardIncomplete => "The request does not say what its guard compares",
            ProblemType::TooLate => "The request is too old to be told apart from a repetition",
            ProblemType::OriginUnavailable => "The origin cannot be reached",
            ProblemType::Unauthenticated => "Who is asking could not be verified",
            ProblemType::IdentityUnavailable => "Who is asking cannot be verified at the moment",
            ProblemType::QuotaExceeded => "Too many new operations of this caller",
        }
    }

    /// The status unless a route says otherwise.
    pub fn default_status(self) -> StatusCode {
        match self {
            ProblemType::KeyMissing
            | ProblemType::KeyInvalid
            | ProblemType::RequestIncomplete
            | ProblemType::GuardIncomplete => StatusCode::BAD_REQUEST,
            ProblemType::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            ProblemType::InFlight
            | ProblemType::OutcomeUnknown
            | ProblemType::ReplyGone
            | ProblemType::ResourceExists
            | ProblemType::ResourceIdReused
            | ProblemType::SlotTaken
            | ProblemType::GuardHeld => StatusCode::CONFLICT,
            ProblemType::StoreUnavailable | ProblemType::IdentityUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            ProblemType::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ProblemType::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            ProblemType::TooLate => StatusCode::PRECONDITION_FAILED,
            ProblemType::OriginUnavailable => StatusCode::BAD_GATEWAY,
            ProblemType::Unauthenticated => StatusCode::UNAUTHORIZED,
            ProblemType::QuotaExceeded => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// Whether the very same request, sent again later, can fare better (`peers.md` section 3, 5).
    pub fn retryable(self) -> bool {
        match self {
            ProblemType::InFlight
            | ProblemType::StoreUnavailable
            | ProblemType::RequestTimeout
            | ProblemType::RequestIncomplete
            | ProblemType::OriginUnavailable
            | ProblemType::IdentityUnavailable
            | ProblemType::QuotaExceeded => true,
            ProblemType::KeyMissing
            | ProblemType::KeyInvalid
            | ProblemType::KeyReused
            | ProblemType::OutcomeUnknown
            | ProblemType::ReplyGone
            | ProblemType::RequestTooLarge
            | ProblemType::ResourceExists
            | ProblemType::ResourceIdReused
            | ProblemType::SlotTaken
            | ProblemType::GuardHeld
            | ProblemType::GuardIncomplete
            | ProblemType::TooLate
            | ProblemType::Unauthenticated => false,
        }
    }

    /// What to do about it, unless there is something more precise to say.
    pub fn default_detail(self) -> &'static str {
        match self {
            ProblemType::KeyMissing => {
                "Send a header Idempotency-Key with a fresh UUID for every new operation, and the same one on every retry. Nothing was executed."
            }
            ProblemType::KeyInvalid => "Correct the idempotency key. Nothing was executed.",
            ProblemType::KeyReused => {
                "The earlier request was another one and is not touched by this. Use a fresh key for a new operation; to retry, repeat the first request unchanged. Nothing was executed."
            }
            ProblemType::InFlight => {
                "Repeat this request with the same key after the seconds in Retry-After; you will get the reply of the first. Nothing was executed a second time."
            }
            ProblemType::OutcomeUnknown => {
                "The request was sent to the origin and no reply was recorded, so the effect may or may not have happened. It is not sent again. Look the resource up, or ask the operator to settle this exchange."
            }
            ProblemType::ReplyGone => {
                "The effect happened with the status in original_status; look the resource up. It is not done again."
            }
            ProblemType::StoreUnavailable => "Repeat this request with the same key later. Nothing was executed.",
            ProblemType::RequestTooLarge => {
                "Make the content smaller, or ask the operator to raise request_body_bytes_max. Nothing was executed."
            }
            ProblemType::RequestTimeout => "Repeat this request with the same key. Nothing was executed.",
            ProblemType::RequestIncomplete => "Repeat this request with the same key. Nothing was executed.",
            ProblemType::ResourceExists => {
                "An earlier request with these fields created it; get it by its id. Nothing was created a second time."
            }
            ProblemType::ResourceIdReused => {
                "An earlier request used this id with other fields, and what it created is unchanged. Use a fresh id for a new resource. Nothing was executed."
            }
            ProblemType::SlotTaken => {
                "An earlier request did this operation with another value, and that one stands. Nothing was executed."
            }
            ProblemType::GuardHeld => {
                "Another operation with the same business values is still live; conflicting_resource names it where it is known. Wait until that one has ended, or change the values. Nothing was executed."
            }
            ProblemType::GuardIncomplete => {
                "A value that decides whether another operation excludes this one is missing or unknown here. Correct the request. Nothing was executed."
            }
            ProblemType::TooLate => {
                "Keys are not remembered for that long, so a repetition could not be recognised. Check whether it was done, then use a fresh key. Nothing was executed."
            }
            ProblemType::OriginUnavailable => {
                "No connection could be made, so nothing was executed. Repeat this request with the same key later."
            }
            ProblemType::Unauthenticated => {
                "Send credentials that are valid, with the same key. Nothing was looked up, and nothing was executed."
            }
            ProblemType::IdentityUnavailable => "Repeat this request with the same key later. Nothing was executed.",
            ProblemType::QuotaExceeded => {
                "Repeat this request with the same key after the seconds in Retry-After. Requests with keys that were used before are answered as ever. Nothing was executed."
            }
        }
    }
}

/// One occurrence of a problem. It never carries keys, credentials, hosts or causes (house rule 15).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Problem {
    /// Which.
    pub kind: ProblemType,
    /// What to say instead of [`ProblemType::default_detail`].
    pub detail: Option<String>,
    /// The status of the first response, where it is known and the reply is not.
    pub original_status: Option<u16>,
    /// Seconds for `Retry-After`.
    pub retry_after: Option<u32>,
    /// Where the resource is that this conflicts with: a path, for `Location`.
    pub resource: Option<String>,
}

impl Problem {
    /// A problem with the words of its type.
    pub fn new(kind: ProblemType) -> Problem {
        Problem { kind, detail: None, original_status: None, retry_after: None, resource: None }
    }

    /// The same with words of its own.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Problem {
        Problem { detail: Some(detail.into()), ..self }
    }

    /// What to say.
    pub fn detail_text(&self) -> &str {
        self.detail.as_deref().unwrap_or(self.kind.default_detail())
    }

    /// The content of an `application/problem+json` response (RFC 9457 section 3) with the given status.
    pub fn to_json(&self, status: StatusCode) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: &'a str,
            code: &'a str,
            retryable: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            original_status: Option<u16>,
            #[serde(skip_serializing_if = "Option::is_none")]
            conflicting_resource: Option<&'a str>,
        }
        let body = Body {
            r#type: self.kind.uri(),
            title: self.kind.title(),
            status: status.as_u16(),
            detail: self.detail_text(),
            code: self.kind.code(),
            retryable: self.kind.retryable() || self.retry_after.is_some(),
            original_status: self.original_status,
            conflicting_resource: self.resource.as_deref(),
        };
        serde_json::to_string(&body).expect("strings and numbers always serialise")
    }
}
