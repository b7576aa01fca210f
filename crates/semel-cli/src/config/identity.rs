//! `[identity]`: how it is found out who asks; `[quota]`: how much one principal may use.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use http::{HeaderName, Uri, header};
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use semel::QuotaLimits;
use semel_core::{
    key::Pointer,
    policy::{DurationText, HeaderText},
};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{CountText, PositiveText, from_text};

/// How much a clock of this machine may differ from the issuer's where nothing is said (RFC 7519 section 4.1.4).
const LEEWAY: Duration = Duration::from_mins(1);
/// The longest leeway: a token that is over must end some day.
const LEEWAY_MAX: Duration = Duration::from_mins(10);
/// How often keys are fetched where nothing is said.
const JWKS_REFRESH: Duration = Duration::from_mins(5);
/// What a fresh key counts for where nothing is said.
const QUOTA_WINDOW: Duration = Duration::from_hours(24);
/// Principals that are counted at once where nothing is said.
const QUOTA_PRINCIPALS_MAX: usize = 100_000;

/// How it is found out who asks, with every default filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IdentityConfig {
    /// What says who asks.
    pub source: IdentitySource,
    /// The file that gives several credentials one principal.
    pub mapping_file: Option<PathBuf>,
}

impl IdentityConfig {
    /// The header whose token says who asks, if one does.
    pub(crate) fn token_header(&self) -> Option<&HeaderName> {
        match &self.source {
            IdentitySource::Jwt(jwt) => Some(&jwt.header),
            IdentitySource::Headers | IdentitySource::ClientCertificate => None,
        }
    }
}

/// What says who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum IdentitySource {
    /// The headers that the policy names, as they are.
    Headers,
    /// A claim of a token that is verified here.
    Jwt(Box<JwtConfig>),
    /// The certificate that the client showed to the gateway.
    ClientCertificate,
}

impl IdentitySource {
    /// In a word, where it is not headers.
    pub(crate) fn instead_of_headers(&self) -> Option<&'static str> {
        match self {
            IdentitySource::Headers => None,
            IdentitySource::Jwt(_) => Some("jwt"),
            IdentitySource::ClientCertificate => Some("client-certificate"),
        }
    }
}

/// Which tokens are accepted, and what of them counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct JwtConfig {
    /// The header that has the token.
    pub header: HeaderName,
    /// Who issues them.
    pub issuer: String,
    /// For whom: one of these. Empty: for nobody in particular, and a token that names somebody is refused.
    pub audience: Vec<String>,
    /// How they may be signed. Never taken from a token alone (RFC 8725 section 3.1).
    pub algorithms: Vec<Algorithm>,
    /// What they are verified with.
    pub keys: KeysFrom,
    /// The claim that names the caller.
    pub claim: Pointer,
    /// How much the clocks may differ.
    pub leeway: Duration,
}

/// What tokens are verified with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum KeysFrom {
    /// Public keys in a file (RFC 7517 section 5).
    File(PathBuf),
    /// Public keys at an address, fetched as often.
    Url {
        /// Where.
        url: KeysUrl,
        /// How often, at least.
        refresh: Duration,
    },
    /// A secret that is shared with the issuer, in a file.
    Secret(PathBuf),
}

/// Where public keys are fetched: `https`, or `http` on this machine, since whoever can exchange the keys can be anybody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KeysUrl(pub Uri);

impl fmt::Display for KeysUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for KeysUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<KeysUrl, String> {
        let wrong = |why: &str| {
            Err(format!("expected an address such as \"https://login.example.com/.well-known/jwks.json\"{why}"))
        };
        let Ok(uri) = text.parse::<Uri>() else { return wrong("") };
        let Some(authority) = uri.authority() else { return wrong("") };
        if authority.as_str().contains('@') {
            return wrong(": credentials do not belong here");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match uri.scheme_str() {
            Some("https") => Ok(KeysUrl(uri)),
            Some("http") if is_here => Ok(KeysUrl(uri)),
            Some("http") => wrong(": without TLS whoever is on the way can exchange the keys, and be any caller"),
            Some(_) | None => wrong(""),
        }
    }
}

impl<'de> Deserialize<'de> for KeysUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeysUrl, D::Error> {
        from_text(deserializer)
    }
}

/// `[identity]` as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentitySettings {
    source: Option<SourceText>,
    mapping_file: Option<PathBuf>,
    jwt: Option<JwtSettings>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SourceText {
    Headers,
    Jwt,
    ClientCertificate,
}

/// `[identity.jwt]` as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtSettings {
    header: Option<HeaderText>,
    issuer: Option<String>,
    audience: Option<Vec<String>>,
    algorithms: Option<Vec<Algorithm>>,
    jwks_file: Option<PathBuf>,
    jwks_url: Option<KeysUrl>,
    jwks_refresh: Option<PositiveText>,
    hmac_secret_file: Option<PathBuf>,
    claim: Option<Pointer>,
    leeway: Option<DurationText>,
}

/// `[quota]` as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuotaSettings {
    live_keys_max: Option<MaybeCount>,
    window: Option<PositiveText>,
    principals_max: Option<CountText>,
}

/// A whole number, 0 or more.
#[derive(Clone, Copy, Debug)]
struct MaybeCount(u32);

impl<'de> Deserialize<'de> for MaybeCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MaybeCount, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let count = u32::try_from(number).ok().map(MaybeCount);
        count.ok_or_else(|| D::Error::custom(format!("expected a whole number from 0 to {}, found {number}", u32::MAX)))
    }
}

impl IdentitySettings {
    /// All defaults of `[identity]` are here and nowhere else.
    pub(super) fn build(self) -> Result<IdentityConfig, String> {
        let source = match (self.source.unwrap_or(SourceText::Headers), self.jwt) {
            (SourceText::Headers, None) => IdentitySource::Headers,
            (SourceText::ClientCertificate, None) => IdentitySource::ClientCertificate,
            (SourceText::Jwt, Some(settings)) => IdentitySource::Jwt(Box::new(settings.build()?)),
            (SourceText::Jwt, None) => {
                return Err("identity.source = \"jwt\" needs [identity.jwt] with issuer and jwks_url, jwks_file or \
                            hmac_secret_file"
                    .to_owned());
            }
            (SourceText::Headers | SourceText::ClientCertificate, Some(_)) => {
                return Err("[identity.jwt] is for identity.source = \"jwt\"".to_owned());
            }
        };
        Ok(IdentityConfig { source, mapping_file: self.mapping_file })
    }
}

impl JwtSettings {
    fn build(self) -> Result<JwtConfig, String> {
        let wrong = |why: &str| Err(format!("identity.jwt: {why}"));
        let keys = match (self.jwks_file, self.jwks_url, self.hmac_secret_file) {
            (Some(file), None, None) => KeysFrom::File(file),
            (None, Some(url), None) => {
                KeysFrom::Url { url, refresh: self.jwks_refresh.map_or(JWKS_REFRESH, |refresh| refresh.0) }
            }
            (None, None, Some(file)) => KeysFrom::Secret(file),
            (None, None, None) => return wrong("set jwks_url, jwks_file or hmac_secret_file"),
            (_, _, _) => return wrong("set one of jwks_url, jwks_file and hmac_secret_file"),
        };
        if self.jwks_refresh.is_some() && !matches!(keys, KeysFrom::Url { .. }) {
            return wrong("jwks_refresh is for jwks_url");
        }
        let is_secret = matches!(keys, KeysFrom::Secret(_));
        let default = if is_secret { vec![Algorithm::HS256] } else { vec![Algorithm::RS256, Algorithm::ES256] };
        let algorithms = self.algorithms.unwrap_or(default);
        if algorithms.is_empty() {
            return wrong("algorithms must not be empty");
        }
        // RFC 8725 section 2.1: a public key that is taken for a secret lets everybody sign.
        if algorithms.iter().any(|algorithm| (algorithm.family() == AlgorithmFamily::Hmac) != is_secret) {
            return wrong(
                "algorithms: those that begin with HS are for hmac_secret_file, and no others; a key is never used in two ways",
            );
        }
        let Some(issuer) = self.issuer.filter(|issuer| !issuer.is_empty()) else {
            return wrong("set issuer, the value of the claim iss: whose tokens are accepted");
        };
        let audience = self.audience.unwrap_or_default();
        if audience.iter().any(String::is_empty) {
            return wrong("audience: a name must not be empty");
        }
        let leeway = self.leeway.map_or(LEEWAY, |leeway| leeway.0);
        if leeway > LEEWAY_MAX || leeway.subsec_nanos() > 0 {
            return wrong("leeway is in whole seconds, and at most 10m");
        }
        let claim = match self.claim {
            None => "/sub".parse().expect("it is a pointer"),
            Some(claim) => claim,
        };
        let header = self.header.map_or(header::AUTHORIZATION, |header| header.0);
        Ok(JwtConfig { header, issuer, audience, algorithms, keys, claim, leeway })
    }
}

impl QuotaSettings {
    /// All defaults of `[quota]` are here and nowhere else.
    pub(super) fn build(self) -> QuotaLimits {
        QuotaLimits {
            live_keys_max: self.live_keys_max.map_or(0, |count| count.0),
            window: self.window.map_or(QUOTA_WINDOW, |window| window.0),
            principals_max: self.principals_max.map_or(QUOTA_PRINCIPALS_MAX, |count| count.0),
        }
    }
}
