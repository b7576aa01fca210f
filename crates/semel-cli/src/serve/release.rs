//! `POST /v1/release`: an operator says that the owner of a guard or slot is over (E11).

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use semel::{Owner, Released, Semel, Unreleased, core::admit::Head};
use semel_core::policy::MethodText;
use serde::Deserialize;
use tokio::time::timeout;

use super::identity::Identity;
use crate::config::ConfigError;

/// Where it is.
pub(super) const RELEASE_PATH: &str = "/v1/release";

/// The largest content, in bytes.
const CONTENT_BYTES_MAX: usize = 64 << 10;
/// How long an operator may take to send it.
const CONTENT_READ_MAX: Duration = Duration::from_secs(10);
/// How long the store may take.
const RELEASE_MAX: Duration = Duration::from_secs(5);
/// The longest `who` and `why`, in characters.
const WORDS_CHARS_MAX: usize = 200;
/// The shortest token, in characters.
const TOKEN_CHARS_MIN: usize = 16;
/// The largest token file, in bytes.
const TOKEN_BYTES_MAX: usize = 4 << 10;
/// The permissions that others must not have on the token file.
const MODE_OF_OTHERS: u32 = 0o007;

/// What an operator shows to be one. Only its digest is kept, whose comparison takes the same time whatever differs.
#[derive(Clone)]
pub(crate) struct Token(blake3::Hash);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Reads `gateway.admin_token_file`.
    pub(crate) fn read(path: &Path) -> Result<Token, ConfigError> {
        let wrong = |why: &dyn fmt::Display| {
            ConfigError::new(format!("gateway.admin_token_file = \"{}\": {why}", path.display()))
        };
        let read = || -> io::Result<(u32, Vec<u8>)> {
            // What waits for a writer, such as a named pipe, must not hold up the start.
            if !std::fs::metadata(path)?.is_file() {
                return Err(io::Error::other("it is not a regular file"));
            }
            let file = File::open(path)?;
            let mode = file.metadata()?.permissions().mode();
            let mut bytes = Vec::new();
            file.take(TOKEN_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
            Ok((mode, bytes))
        };
        let (mode, bytes) = read().map_err(|error| wrong(&error))?;
        if mode & MODE_OF_OTHERS != 0 {
            return Err(wrong(&format!("mode {:03o} is open to others; run chmod 600", mode & 0o777)));
        }
        let token = bytes.trim_ascii_end();
        let is_token = (TOKEN_CHARS_MIN..=TOKEN_BYTES_MAX).contains(&token.len());
        if !is_token || !token.iter().all(u8::is_ascii_graphic) {
            return Err(wrong(&format!(
                "it must hold {TOKEN_CHARS_MIN} to {TOKEN_BYTES_MAX} visible ASCII characters without spaces"
            )));
        }
        Ok(Token(blake3::hash(token)))
    }

    /// Whether a request shows it (RFC 6750 section 2.1).
    fn is_shown_by(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return false };
        let Some((scheme, shown)) = line.as_bytes().split_at_checked(b"Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ") && blake3::hash(shown.trim_ascii()) == self.0
    }
}

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
pub(super) async fn answer(
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

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn e11_a_token_is_long_visible_and_not_for_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let read = |content: &str, mode: u32| {
            std::fs::write(&path, content).expect("it is written");
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode is set");
            Token::read(&path).map_err(|error| error.to_string())
        };
        let token = read("0123456789abcdef\n", 0o640).expect("a token");
        assert_eq!(format!("{token:?}"), "Token(..)");
        let shown = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a value"));
            }
            token.is_shown_by(&headers)
        };
        assert!(shown(&["Bearer 0123456789abcdef"]) && shown(&["bearer  0123456789abcdef"]));
        for wrong in ["0123456789abcdef", "Basic 0123456789abcdef", "Bearer 0123456789abcdeF", "Bearer ", "Bearer", ""]
        {
            assert!(!shown(&[wrong]), "{wrong}");
        }
        assert!(!shown(&[]) && !shown(&["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"]));
        for (content, mode, why) in [
            ("0123456789abcdef", 0o644, "mode 644 is open to others"),
            ("0123456789abcdef", 0o602, "mode 602 is open to others"),
            ("0123456789abcde\n", 0o600, "it must hold 16"),
            ("0123456789 abcdef", 0o600, "it must hold 16"),
            ("0123456789abcdéf", 0o600, "it must hold 16"),
            ("", 0o600, "it must hold 16"),
            (&"x".repeat(TOKEN_BYTES_MAX + 1), 0o600, "it must hold 16"),
        ] {
            let error = read(content, mode).expect_err(why);
            assert!(error.contains(why) && error.contains("gateway.admin_token_file"), "{error}");
            assert!(content.is_empty() || !error.contains(content.trim()), "{error}");
        }
        let absent = Token::read(&folder.path().join("absent")).expect_err("it is not there").to_string();
        assert!(absent.contains("No such file"), "{absent}");
        let folder = Token::read(folder.path()).expect_err("it is a folder").to_string();
        assert!(folder.contains("not a regular file"), "{folder}");
    }
}
