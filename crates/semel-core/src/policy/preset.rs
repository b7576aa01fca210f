//! Named sets of settings.

use std::str::FromStr;

use serde::Deserialize;

use super::{HeaderText, RouteSettings};

/// A named set of settings, kept in the repository as TOML with its source beside every line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// draft-ietf-httpapi-idempotency-key-header-07.
    #[default]
    Ietf,
    /// Stripe's v1 API.
    Stripe,
    /// Etherfuse's ramp API (S0, S1).
    Etherfuse,
    /// Credicorp's public API (S2).
    Credicorp,
    /// Yonne's external API (S3).
    Yonne,
    /// Nora's v2 API (S4).
    Nora,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 6] =
        [Preset::Ietf, Preset::Stripe, Preset::Etherfuse, Preset::Credicorp, Preset::Yonne, Preset::Nora];

    /// Its name in configuration and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Ietf => "ietf",
            Preset::Stripe => "stripe",
            Preset::Credicorp => "credicorp",
            Preset::Yonne => "yonne",
            Preset::Nora => "nora",
            Preset::Etherfuse => "etherfuse",
        }
    }

    /// Its TOML.
    pub fn source(self) -> &'static str {
        match self {
            Preset::Ietf => include_str!("../../presets/ietf.toml"),
            Preset::Stripe => include_str!("../../presets/stripe.toml"),
            Preset::Credicorp => include_str!("../../presets/credicorp.toml"),
            Preset::Yonne => include_str!("../../presets/yonne.toml"),
            Preset::Nora => include_str!("../../presets/nora.toml"),
            Preset::Etherfuse => include_str!("../../presets/etherfuse.toml"),
        }
    }

    /// Its settings over those of `ietf`, so that nothing is unset.
    pub(super) fn document(self) -> PresetDocument {
        let read = |preset: Preset| -> PresetDocument { toml::from_str(preset.source()).expect("presets are tested") };
        let ietf = read(Preset::Ietf);
        let own = read(self);
        PresetDocument {
            principal: own.principal.or(ietf.principal),
            defaults: own.defaults.over(ietf.defaults),
            route: own.route,
        }
    }
}

/// A preset as it is written down.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PresetDocument {
    pub principal: Option<Vec<HeaderText>>,
    pub defaults: RouteSettings,
    #[serde(default)]
    pub route: Vec<RouteSettings>,
}

impl FromStr for Preset {
    type Err = String;
    fn from_str(text: &str) -> Result<Preset, String> {
        Preset::ALL.into_iter().find(|preset| preset.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Preset::ALL.iter().map(|preset| preset.name()).collect();
            format!("unknown preset \"{text}\"; the presets are {}", names.join(", "))
        })
    }
}
