//! Tokens: which one a request shows, and whether it is good (RFC 7519, RFC 8725).

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, header};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation, jwk::Jwk};
use semel_core::scope::Caller;
use serde_json::Value;

use super::crypto;
use crate::config::JwtConfig;

/// The longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Keys of one set; the others are not looked at.
const KEYS_MAX: usize = 64;
/// The shortest secret, in bytes: as long as the digest (RFC 7518 section 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// Keys that tokens are verified with.
#[derive(Debug)]
pub(super) struct Keys(Vec<KnownKey>);

struct KnownKey {
    id: Option<String>,
    /// The only algorithm that it is for, where the set says so.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

impl fmt::Debug for KnownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KnownKey({:?}, {:?})", self.key.family(), self.id)
    }
}

impl Keys {
    /// One secret that is shared with the issuer.
    pub(super) fn secret(bytes: &[u8]) -> Result<Keys, String> {
        let bytes = bytes.trim_ascii_end();
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(format!("a secret has at least {SECRET_BYTES_MIN} bytes, and this one has {}", bytes.len()));
        }
        Ok(Keys(vec![KnownKey { id: None, algorithm: None, key: DecodingKey::from_secret(bytes) }]))
    }

    /// The public keys of a set (RFC 7517 section 5) that sign, and are understood; there must be one.
    pub(super) fn of_set(content: &[u8]) -> Result<Keys, String> {
        let set: Value = serde_json::from_slice(content).map_err(|error| format!("it is no JSON: {error}"))?;
        let Some(keys) = set.get("keys").and_then(Value::as_array) else {
            return Err("it is no key set: it has no list \"keys\"".to_owned());
        };
        let keys: Vec<KnownKey> = keys.iter().take(KEYS_MAX).filter_map(KnownKey::read).collect();
        if keys.is_empty() {
            return Err("it has no public key for signatures that is understood (RSA, EC or Ed25519)".to_owned());
        }
        Ok(Keys(keys))
    }

    /// Those that may have signed a token of this header; `Err`: none has its name.
    fn for_token(&self, header: &jsonwebtoken::Header) -> Result<Vec<&DecodingKey>, Refusal> {
        let fits = |key: &&KnownKey| {
            key.key.family() == header.alg.family() && key.algorithm.is_none_or(|algorithm| algorithm == header.alg)
        };
        let fitting = self.0.iter().filter(fits);
        match &header.kid {
            // A shared secret has no name here.
            Some(_) if header.alg.family() == AlgorithmFamily::Hmac => Ok(fitting.map(|key| &key.key).collect()),
            Some(kid) => {
                let named: Vec<&DecodingKey> =
                    fitting.filter(|key| key.id.as_ref() == Some(kid)).map(|key| &key.key).collect();
                if named.is_empty() { Err(Refusal::KeyUnknown) } else { Ok(named) }
            }
            None => match fitting.collect::<Vec<_>>().as_slice() {
                [one] => Ok(vec![&one.key]),
                [] => Err(Refusal::KeyUnknown),
                _ => Err(Refusal::Invalid("it does not say which of several keys signed it")),
            },
        }
    }
}

impl KnownKey {
    /// `None` for what is not understood, is a secret, or is not for signatures (RFC 7517 sections 4.2, 4.3 and 5).
    fn read(value: &Value) -> Option<KnownKey> {
        let text = |name| value.get(name).map(|value| value.as_str().unwrap_or_default());
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let operations = value.get("key_ops").and_then(Value::as_array);
        if operations.is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
            return None;
        }
        let algorithm = text("alg").map(str::parse).transpose().ok()?;
        let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        if key.family() == AlgorithmFamily::Hmac {
            return None;
        }
        Some(KnownKey { id: jwk.common.key_id, algorithm, key })
    }
}

/// Why a token is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// There is none.
    Missing,
    /// It is not good.
    Invalid(&'static str),
    /// Nobody here has the key that it says it was signed with.
    KeyUnknown,
}

/// The token that a request shows: one line of the header. `Authorization` says `Bearer` before it (RFC 6750 section 2.1);
/// in another header that word may be left out.
pub(super) fn shown<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, Refusal> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Err(Refusal::Missing) };
    if lines.next().is_some() {
        return Err(Refusal::Invalid("there are two of them"));
    }
    let Ok(line) = line.to_str() else { return Err(Refusal::Invalid("it is no text")) };
    let token = match line.trim().split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("Bearer") => token.trim_start(),
        // Credentials of another kind are none.
        Some(_) => return Err(Refusal::Missing),
        None if name == header::AUTHORIZATION => return Err(Refusal::Missing),
        None => line.trim(),
    };
    if token.is_empty() { Err(Refusal::Missing) } else { Ok(token) }
}

/// Whom a good token names.
pub(super) struct Verified {
    /// The text of the claim.
    pub text: String,
    /// The caller.
    pub caller: Caller,
}

/// Verifies a token: its signature, by one of `keys` and an algorithm that the operator named; who issued it, for whom, and
/// until when; and reads its claim.
pub(super) fn verify(config: &JwtConfig, keys: &Arc<Keys>, token: &str) -> Result<Verified, Refusal> {
    use Refusal::Invalid;
    crypto::install();
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Invalid("it is too long"));
    }
    let unreadable = Invalid("it cannot be read, or is signed in a way that nobody here understands");
    let header = jsonwebtoken::decode_header(token).map_err(|_| unreadable)?;
    if !config.algorithms.contains(&header.alg) {
        return Err(Invalid("it is signed by an algorithm that is not accepted"));
    }
    // RFC 7515 section 4.1.11: what must be understood and is not makes a token invalid.
    if header.crit.is_some() {
        return Err(Invalid("it has a critical header that is not understood"));
    }
    let mut validation = Validation::new(header.alg);
    validation.leeway = config.leeway.as_secs();
    validation.validate_nbf = true;
    // They are looked at below, for what they are.
    validation.validate_aud = false;
    let keys = keys.for_token(&header)?;
    let mut outcome = Err(Invalid("its signature is not good"));
    for key in keys {
        match jsonwebtoken::decode::<Value>(token, key, &validation) {
            Ok(data) => {
                outcome = Ok(data.claims);
                break;
            }
            Err(error) => outcome = Err(Invalid(why(error.kind()))),
        }
    }
    let claims = outcome?;
    if claims.get("iss").and_then(Value::as_str) != Some(config.issuer.as_str()) {
        return Err(Invalid("it is of another issuer"));
    }
    if !is_for_us(&config.audience, claims.get("aud")) {
        return Err(Invalid("it is for another audience"));
    }
    let (text, value) = match claims.pointer(config.claim.as_str()) {
        Some(value @ Value::String(text)) if !text.is_empty() => (text.clone(), value),
        Some(value @ Value::Number(number)) if !number.is_f64() => (number.to_string(), value),
        Some(_) | None => return Err(Invalid("it does not name the caller")),
    };
    let caller = caller_of(config, value);
    Ok(Verified { text, caller })
}

/// Whom this value of the claim names.
pub(super) fn caller_of(config: &JwtConfig, value: &Value) -> Caller {
    let (issuer, claim) = (config.issuer.clone(), config.claim.as_str().to_owned());
    // As JSON, since the number 1 and the text "1" may be two callers.
    Caller::Claim { issuer, claim, value: value.to_string() }
}

/// RFC 7519 section 4.1.3: who is not named by an audience that is there must refuse.
fn is_for_us(audience: &[String], claim: Option<&Value>) -> bool {
    let is_named = |value: &Value| value.as_str().is_some_and(|name| audience.iter().any(|known| known == name));
    match claim {
        None => audience.is_empty(),
        Some(Value::Array(names)) => names.iter().any(is_named),
        Some(name) => is_named(name),
    }
}

fn why(kind: &jsonwebtoken::errors::ErrorKind) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match kind {
        ErrorKind::ExpiredSignature => "it is past its time",
        ErrorKind::ImmatureSignature => "its time has not come yet",
        ErrorKind::MissingRequiredClaim(_) => "it does not say until when it is good",
        ErrorKind::InvalidSignature => "its signature is not good",
        _ => "it cannot be read, or is signed in a way that nobody here understands",
    }
}
