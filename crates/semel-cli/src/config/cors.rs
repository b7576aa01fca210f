//! `[cors]`: which web pages may read what the gateway itself answers.

use std::str::FromStr;

use http::{HeaderValue, Uri};
use serde::Deserialize;

use super::from_text;

/// Which web pages may read the gateway's own answers and kept replies. An origin decides for what it answers itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cors {
    /// Origins of pages, as browsers write them in `Origin`; none by default.
    pub origins: Vec<HeaderValue>,
    /// Whether their requests may carry cookies and other credentials that a browser adds by itself.
    pub credentials: Credentials,
}

/// See [`Cors::credentials`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Credentials {
    /// They may.
    Allowed,
    /// The browser hides the answer to a request that carried some.
    #[default]
    Hidden,
}

/// `[cors]` as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CorsSettings {
    #[serde(default)]
    origins: Vec<PageOrigin>,
    #[serde(default)]
    credentials: bool,
}

impl CorsSettings {
    pub(super) fn build(self) -> Cors {
        let credentials = if self.credentials { Credentials::Allowed } else { Credentials::Hidden };
        Cors { origins: self.origins.into_iter().map(|origin| origin.0).collect(), credentials }
    }
}

/// The origin of a page, `scheme://host[:port]` (RFC 6454 section 6.2).
#[derive(Clone, Debug)]
struct PageOrigin(HeaderValue);

impl FromStr for PageOrigin {
    type Err = String;
    fn from_str(text: &str) -> Result<PageOrigin, String> {
        let wrong = |why: &str| {
            Err(format!("expected the origin of a page such as \"https://app.example.com\", found \"{text}\"{why}"))
        };
        if text == "*" {
            return wrong(": each page is named, since it may read replies that were kept for others of its user");
        }
        let Ok(uri) = text.parse::<Uri>() else { return wrong("") };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return wrong("") };
        // Browsers leave the port of the scheme out, and compare byte by byte.
        let port = match (scheme, authority.port_u16()) {
            (_, None) | ("http", Some(80)) | ("https", Some(443)) => String::new(),
            (_, Some(port)) => format!(":{port}"),
        };
        let written = format!("{scheme}://{}{port}", authority.host().to_ascii_lowercase());
        if text == written {
            return HeaderValue::from_str(text).map(PageOrigin).map_err(|_| "a line break".to_owned());
        }
        wrong(&format!(": a browser says \"{written}\", with neither a path nor the usual port"))
    }
}

impl<'de> Deserialize<'de> for PageOrigin {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<PageOrigin, D::Error> {
        from_text(deserializer)
    }
}
