//! The single words of a document, each read strictly and refused in words that say what would be right.

use std::{str::FromStr, time::Duration};

use http::{HeaderName, Method, StatusCode};
use serde::{Deserialize, Deserializer, de::Error as _};

pub(super) fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// Says what would be right, which `ByteSize` does not.
pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bytesize::ByteSize>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a size such as \"1 MiB\", \"512 KiB\" or 65536")]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    match Size::deserialize(deserializer)? {
        Size::Bytes(bytes) => Ok(Some(bytesize::ByteSize(bytes))),
        Size::Text(text) => text.parse().map(Some).map_err(|_| {
            D::Error::custom(format!("expected a size such as \"1 MiB\", \"512 KiB\" or 65536, found \"{text}\""))
        }),
    }
}

/// A header name in a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderText(pub HeaderName);

impl<'de> Deserialize<'de> for HeaderText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HeaderText, D::Error> {
        let text = String::deserialize(deserializer)?;
        let name = HeaderName::from_bytes(text.as_bytes());
        name.map(HeaderText).map_err(|_| D::Error::custom(format!("expected a header name, found \"{text}\"")))
    }
}

/// A method in a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MethodText(pub Method);

impl<'de> Deserialize<'de> for MethodText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MethodText, D::Error> {
        let text = String::deserialize(deserializer)?;
        let method = Method::from_bytes(text.as_bytes()).ok().filter(|_| text.bytes().all(|b| b.is_ascii_uppercase()));
        method
            .map(MethodText)
            .ok_or_else(|| D::Error::custom(format!("expected a method such as \"POST\", found \"{text}\"")))
    }
}

/// A status that a problem is told with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusText(pub StatusCode);

impl<'de> Deserialize<'de> for StatusText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StatusText, D::Error> {
        let number = u16::deserialize(deserializer)?;
        let status =
            StatusCode::from_u16(number).ok().filter(|status| status.is_client_error() || status.is_server_error());
        status
            .map(StatusText)
            .ok_or_else(|| D::Error::custom(format!("expected a status from 400 to 599, found {number}")))
    }
}

/// A duration in a document, such as `"30s"`, `"1h 30m"` or `"250ms"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DurationText(pub Duration);

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DurationText, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Stores keep whole milliseconds: less would be rounded to nothing, and a claim that lives for nothing protects nothing.
        let is_kept = |duration: &Duration| duration.subsec_nanos().is_multiple_of(1_000_000);
        let duration = humantime::parse_duration(&text).ok();
        duration.filter(is_kept).filter(|duration| *duration <= DURATION_CEILING).map(DurationText).ok_or_else(|| {
            D::Error::custom(format!(
                "expected a duration in whole milliseconds such as \"30s\", \"250ms\" or \"24h\", at most ten years, found \"{text}\""
            ))
        })
    }
}

/// The longest duration that can be configured: sums and millisecond counts stay far from overflow.
const DURATION_CEILING: Duration = Duration::from_hours(24 * 3660);
