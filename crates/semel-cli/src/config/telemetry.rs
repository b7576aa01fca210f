//! `[telemetry]`: what is counted beyond requests, and where traces go.

use std::{fmt, str::FromStr, time::Duration};

use semel_core::policy::DurationText;
use serde::{Deserialize, Deserializer, de::Error as _};

/// See [`Telemetry::unknown_count_every`].
const UNKNOWN_COUNT_EVERY_DEFAULT: Duration = Duration::from_mins(1);

/// What is counted beyond requests, and where traces go.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Telemetry {
    /// Where spans are sent, by OTLP over HTTP; `None`: nowhere.
    pub otlp: Option<Collector>,
    /// Which part of the requests that come without a trace is traced, from 0 to 1. Whoever comes with one has decided.
    pub sample: f64,
    /// How often records with an unknown outcome are counted; zero: never.
    pub unknown_count_every: Duration,
}

/// The table as a file gives it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TelemetrySettings {
    otlp: Option<Collector>,
    sample: Option<Share>,
    unknown_count_every: Option<DurationText>,
}

impl TelemetrySettings {
    /// All defaults of `[telemetry]` are here.
    pub(super) fn build(self) -> Telemetry {
        Telemetry {
            otlp: self.otlp,
            sample: self.sample.map_or(1.0, |Share(share)| share),
            unknown_count_every: self.unknown_count_every.map_or(UNKNOWN_COUNT_EVERY_DEFAULT, |every| every.0),
        }
    }
}

/// A collector of OpenTelemetry, as `http://host[:port][/path]`; traces go to `/v1/traces` below it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Collector(String);

impl Collector {
    /// Where traces are sent.
    pub(crate) fn traces(&self) -> String {
        format!("{}/v1/traces", self.0.trim_end_matches('/'))
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Collector {
    type Err = String;
    fn from_str(text: &str) -> Result<Collector, String> {
        let uri = text.parse::<http::Uri>().ok();
        let is_one = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
                && uri.query().is_none()
        });
        if !is_one {
            return Err(format!(
                "expected the address of a collector such as \"http://127.0.0.1:4318\", found \"{text}\""
            ));
        }
        Ok(Collector(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Collector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Collector, D::Error> {
        super::from_text(deserializer)
    }
}

/// A part of one.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Share(f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Share, D::Error> {
        let share = f64::deserialize(deserializer)?;
        if !(0.0..=1.0).contains(&share) {
            return Err(D::Error::custom(format!("expected a number from 0.0 to 1.0, found {share}")));
        }
        Ok(Share(share))
    }
}
