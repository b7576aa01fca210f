//! `POST /v1/release`: an operator says that the owner of a guard or slot is over (E11).

use std::{collections::BTreeMap, fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use semel::{Owner, Released, Semel, Unreleased, core::admit::Head};
use semel_core::policy::MethodText;
use serde::Deserialize;
use tokio::time::timeout;

use super::token::Token;
use crate::serve::identity::Identity;

/// Where it is.
pub(crate) const RELEASE_PATH: &str = "/v1/release";

/// The largest content, in bytes.
const CONTENT_BYTES_MAX: usize = 64 << 10;
/// How long an operator may take to send it.
const CONTENT_READ_MAX: Duration = Duration::from_secs(10);
/// How long the store may take.
const RELEASE_MAX: Duration = Duration::from_secs(5);
/// The longest `who` and `why`, in characters.
const WORDS_CHARS_MAX: usize = 200;

/// What an operator asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    path: String,
    method: Option<MethodText>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Instead of headers: a name of the mapping file, the text of the claim, or the subject of the certificate.
    caller: Option<String>,
    who: String,
    why: String,
}

/// Answers one request with a status and a JSON object.
pub(crate) async fn answer(
    semel: &Semel,
    identity: &Identity,
    token: Option<&Token>,
    request: Request<Incoming>,
) -> (StatusCode, serde_json::Value) {
    let told = |status, words: &str| (status, serde_json::json!({ "status": words }));
    let Some(token) = token else {
        let words =
            "set gateway.admin_token_file to a file with a token, and start again: without it nothing is released";
        return told(StatusCode::FORBIDDEN, words);
    };
    if !token.is_shown_by(request.headers()) {
        return told(StatusCode::UNAUTHORIZED, "send Authorization: Bearer and the token of gateway.admin_token_file");
    }
    let content = match timeout(CONTENT_READ_MAX, Limited::new(request.into_body(), CONTENT_BYTES_MAX).collect()).await
    {
        Ok(Ok(content)) => content.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return told(StatusCode::PAYLOAD_TOO_LARGE, &format!("at most {CONTENT_BYTES_MAX} bytes"));
        }
        Ok(Err(_broken)) => return told(StatusCode::BAD_REQUEST, "the content broke off"),
        Err(_elapsed) => return told(StatusCode::REQUEST_TIMEOUT, "the content took too long"),
    };
    let (asked, headers) = match read(semel, &content) {
        Ok(read) => read,
        Err(wrong) => return told(StatusCode::BAD_REQUEST, &wrong),
    };
    let method = asked.method.as_ref().map_or(&Method::GET, |method| &method.0);
    let caller = identity.named(asked.caller.as_deref(), &headers);
    if asked.caller.is_some() && caller.is_none() {
        return told(StatusCode::BAD_REQUEST, "caller: no principal of identity.mapping_file has that name");
    }
    let head = Head { method, path: &asked.path, query: None, headers: &headers, caller: caller.as_ref() };
    let (who, why) = (asked.who.as_str(), asked.why.as_str());
    let freed = |what: &str, owner: &Owner| {
        let (route, exchange) = (owner.route.as_str(), owner.exchange);
        tracing::warn!(target: "semel::audit", who, why, route, released = what, %exchange, "an operator released it");
        (StatusCode::OK, serde_json::json!({ "released": what }))
    };
    let failed = |error: &dyn fmt::Display| {
        tracing::warn!(target: "semel::audit", who, why, %error, "an operator's release failed, and may have been done");
        told(StatusCode::SERVICE_UNAVAILABLE, "the store failed, and it may have been released: ask again")
    };
    match timeout(RELEASE_MAX, semel.release(&head)).await {
        Ok(Ok(Released::Guard(owner))) => freed("guard", &owner),
        Ok(Ok(Released::Slot(owner))) => freed("slot", &owner),
        Ok(Ok(Released::Nothing(why))) => {
            let (status, words) = nothing(why);
            told(status, words)
        }
        Ok(Err(error)) => failed(&error),
        Err(elapsed) => failed(&elapsed),
    }
}

fn nothing(why: Unreleased) -> (StatusCode, &'static str) {
    match why {
        Unreleased::NotWatched => (StatusCode::NOT_FOUND, "no route has a release for that method and path"),
        Unreleased::NoRecord => (
            StatusCode::NOT_FOUND,
            "no such record: that caller sent none here, or it is forgotten, or the headers are not that caller's",
        ),
        Unreleased::NoGuard => (StatusCode::NOT_FOUND, "the record holds no guard"),
        Unreleased::HeldByAnother => (StatusCode::NOT_FOUND, "the guard is held by another record"),
        Unreleased::Changed => (StatusCode::CONFLICT, "it changed at this moment: look again"),
        Unreleased::NotOver => {
            (StatusCode::CONFLICT, "the request may still run: nothing is released before its lease ends")
        }
    }
}

/// Reads what is asked, and the headers that make the caller; or says what is wrong.
fn read(semel: &Semel, content: &Bytes) -> Result<(Asked, HeaderMap), String> {
    let asked: Asked = serde_json::from_slice(content).map_err(|error| error.to_string())?;
    if !asked.path.starts_with('/') || asked.path.contains(['?', '#']) {
        return Err("path must start with a slash, and have no query and no fragment".to_owned());
    }
    for (name, words) in [("who", &asked.who), ("why", &asked.why)] {
        let is_said = !words.trim().is_empty() && words.chars().count() <= WORDS_CHARS_MAX;
        if !is_said || words.chars().any(char::is_control) {
            return Err(format!("{name} must have 1 to {WORDS_CHARS_MAX} characters, and no control characters"));
        }
    }
    let principal = semel.policy().principal();
    let mut headers = HeaderMap::new();
    for (name, value) in &asked.headers {
        // A header that tells no callers apart is a mistake that would otherwise look like "no such record".
        let known = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| principal.contains(name));
        let Some(known) = known else {
            let names: Vec<&str> = principal.iter().map(HeaderName::as_str).collect();
            return Err(format!("headers: \"{name}\" is none of those that tell callers apart: {}", names.join(", ")));
        };
        let value = HeaderValue::from_str(value.trim());
        let value = value.map_err(|_| format!("headers: the value of \"{name}\" is none that a header can have"))?;
        if headers.insert(known, value).is_some() {
            return Err(format!("headers: \"{name}\" is there twice"));
        }
    }
    Ok((asked, headers))
}
