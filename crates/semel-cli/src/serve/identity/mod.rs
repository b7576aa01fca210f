//! Who asks: as headers say, as a verified token says, or as a client certificate says; and which of them are one.
//!
//! Nothing that was not verified makes a caller, and nothing is looked up for somebody whose token is not good (SC8).

use std::{io::Read as _, path::Path, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, request::Parts};
use parking_lot::RwLock;
use semel::{Identify, Unidentified};
use semel_core::{
    scope::Caller,
    wire::{Problem, ProblemType},
};

use self::{
    jwks::{Asked, Fetched},
    jwt::{Keys, Refusal},
    mapping::Mapping,
};
use super::{reload::Check, tls::ClientSubject};
use crate::config::{Config, ConfigError, IdentitySource, JwtConfig, KeysFrom};

mod crypto;
mod jwks;
mod jwt;
mod mapping;

/// By which an operator, and nobody else, says who sent a request: a name of the mapping file, the text of the claim, or the
/// subject of the certificate.
pub(crate) const CALLER: HeaderName = HeaderName::from_static("semel-caller");

/// The largest file of keys or a secret, in bytes.
const KEYS_BYTES_MAX: u64 = 256 << 10;

/// Finds out who asks.
#[derive(Debug)]
pub(crate) struct Identity(RwLock<Arc<Rules>>);

/// How, as it was last configured.
#[derive(Debug)]
struct Rules {
    source: Finding,
    principal: Vec<HeaderName>,
    mapping: Mapping,
}

#[derive(Debug)]
enum Finding {
    Headers,
    Jwt(Box<JwtConfig>, KeysNow),
    ClientCertificate,
}

#[derive(Clone, Debug)]
enum KeysNow {
    Read(Arc<Keys>),
    Fetched(Arc<Fetched>),
}

impl Identity {
    /// Reads what the configuration names.
    pub(crate) fn new(config: &Config) -> Result<Identity, ConfigError> {
        Rules::read(config, None).map(|rules| Identity(RwLock::new(Arc::new(rules))))
    }

    /// Its part of a reload: the files are read again. Keys that are fetched stay.
    pub(crate) fn into_check(self: Arc<Self>) -> Check {
        Box::new(move |config| {
            let rules = Arc::new(Rules::read(config, Some(&self.0.read()))?);
            let identity = Arc::clone(&self);
            Ok(Box::new(move || *identity.0.write() = rules))
        })
    }

    /// Fetches keys for as long as it is polled, where they are fetched.
    pub(crate) async fn keep(self: Arc<Self>) {
        let fetched = match &self.0.read().source {
            Finding::Jwt(_, KeysNow::Fetched(fetched)) => Arc::clone(fetched),
            Finding::Jwt(_, KeysNow::Read(_)) | Finding::Headers | Finding::ClientCertificate => return,
        };
        fetched.keep().await;
    }

    /// Whether headers say who asks.
    pub(crate) fn is_of_headers(&self) -> bool {
        matches!(self.0.read().source, Finding::Headers)
    }

    /// Whether it can tell who asks.
    pub(crate) fn is_ready(&self) -> bool {
        match &self.0.read().source {
            Finding::Jwt(_, KeysNow::Fetched(fetched)) => fetched.keys().is_some(),
            Finding::Jwt(_, KeysNow::Read(_)) | Finding::Headers | Finding::ClientCertificate => true,
        }
    }

    /// Whose request an operator means, by the headers that its caller would send, or by [`CALLER`] instead.
    pub(crate) fn told_by_operator(&self, headers: &HeaderMap) -> Option<Caller> {
        let rules = Arc::clone(&self.0.read());
        let Some(name) = headers.get(CALLER) else { return rules.of_headers(headers) };
        let name = std::str::from_utf8(name.as_bytes()).ok()?;
        if rules.mapping.has(name) {
            return Some(Caller::Named(name.to_owned()));
        }
        let caller = match &rules.source {
            Finding::Headers => return None,
            Finding::Jwt(config, _) => jwt::caller_of(config, &name.into()),
            Finding::ClientCertificate => Caller::Certificate(name.to_owned()),
        };
        Some(rules.mapping.of(name.as_bytes()).unwrap_or(caller))
    }
}

impl Rules {
    fn read(config: &Config, last: Option<&Rules>) -> Result<Rules, ConfigError> {
        let mapping = config.identity.mapping_file.as_deref().map_or(Ok(Mapping::default()), Mapping::read)?;
        let source = match &config.identity.source {
            IdentitySource::Headers => Finding::Headers,
            IdentitySource::ClientCertificate => Finding::ClientCertificate,
            IdentitySource::Jwt(jwt) => {
                let fetched = last.and_then(|last| match &last.source {
                    Finding::Jwt(had, KeysNow::Fetched(fetched)) if had.keys == jwt.keys => Some(fetched),
                    Finding::Jwt(_, _) | Finding::Headers | Finding::ClientCertificate => None,
                });
                let keys = match (&jwt.keys, fetched) {
                    (KeysFrom::Url { .. }, Some(fetched)) => KeysNow::Fetched(Arc::clone(fetched)),
                    (KeysFrom::Url { url, refresh }, None) => {
                        KeysNow::Fetched(Arc::new(Fetched::new(url.0.clone(), *refresh)))
                    }
                    (KeysFrom::File(file), _) => KeysNow::Read(read("jwks_file", file, Keys::of_set)?),
                    (KeysFrom::Secret(file), _) => KeysNow::Read(read("hmac_secret_file", file, Keys::secret)?),
                };
                Finding::Jwt(jwt.clone(), keys)
            }
        };
        Ok(Rules { source, principal: config.policy.principal().to_vec(), mapping })
    }

    fn of_headers(&self, headers: &HeaderMap) -> Option<Caller> {
        let lines = self.principal.iter().flat_map(|name| headers.get_all(name));
        self.mapping.of_all(lines.map(HeaderValue::as_bytes))
    }
}

fn read(setting: &str, file: &Path, parse: impl Fn(&[u8]) -> Result<Keys, String>) -> Result<Arc<Keys>, ConfigError> {
    let wrong = |why: String| ConfigError::new(format!("identity.jwt.{setting} = \"{}\": {why}", file.display()));
    let mut content = Vec::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(KEYS_BYTES_MAX + 1).read_to_end(&mut content));
    read.map_err(|error| wrong(error.to_string()))?;
    if content.len() as u64 > KEYS_BYTES_MAX {
        return Err(wrong(format!("it has more than {KEYS_BYTES_MAX} bytes")));
    }
    parse(&content).map(Arc::new).map_err(wrong)
}

impl Identify for Identity {
    fn identify(&self, head: &Parts) -> Result<Option<Caller>, Unidentified> {
        let rules = Arc::clone(&self.0.read());
        match &rules.source {
            Finding::Headers => Ok(rules.of_headers(&head.headers)),
            Finding::ClientCertificate => match head.extensions.get::<ClientSubject>() {
                Some(ClientSubject(subject)) => {
                    let known = rules.mapping.of(subject.as_bytes());
                    Ok(Some(known.unwrap_or_else(|| Caller::Certificate(subject.to_string()))))
                }
                None => Err(unauthenticated("Connect with a client certificate that this API accepts.", None)),
            },
            Finding::Jwt(config, keys) => {
                let now = match keys {
                    KeysNow::Read(keys) => Arc::clone(keys),
                    KeysNow::Fetched(fetched) => fetched.keys().ok_or_else(not_now)?,
                };
                let verified = jwt::shown(&head.headers, &config.header)
                    .and_then(|token| jwt::verify(config, &now, token))
                    .map_err(|refusal| refused(refusal, keys))?;
                Ok(Some(rules.mapping.of(verified.text.as_bytes()).unwrap_or(verified.caller)))
            }
        }
    }
}

/// What is told of a token that is not accepted (RFC 6750 section 3.1).
fn refused(refusal: Refusal, keys: &KeysNow) -> Unidentified {
    let invalid = |why: &str| unauthenticated(&format!("The token is not accepted: {why}."), Some(INVALID_TOKEN));
    match (refusal, keys) {
        (Refusal::Missing, _) => unauthenticated("Send a token, as Bearer.", Some(BEARER)),
        (Refusal::Invalid(why), _) => invalid(why),
        (Refusal::KeyUnknown, KeysNow::Fetched(fetched)) if fetched.ask() == Asked::Fetching => not_now(),
        (Refusal::KeyUnknown, _) => invalid("nobody here knows the key that it was signed with"),
    }
}

const BEARER: HeaderValue = HeaderValue::from_static("Bearer");
const INVALID_TOKEN: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");

fn unauthenticated(what: &str, challenge: Option<HeaderValue>) -> Unidentified {
    let detail = format!("{what} Nothing was looked up, and nothing was executed.");
    Unidentified { problem: Problem::new(ProblemType::Unauthenticated).detail(detail), challenge }
}

/// The keys are on their way.
fn not_now() -> Unidentified {
    let problem = Problem { retry_after: Some(1), ..Problem::new(ProblemType::IdentityUnavailable) };
    Unidentified { problem, challenge: None }
}
