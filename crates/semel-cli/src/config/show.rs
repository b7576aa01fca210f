//! `semel config show`: every setting with its value, as a file that reads back as the same configuration.

use super::Config;

/// The configuration as TOML.
pub(crate) fn show(config: &Config) -> String {
    format!("preset = \"{}\"\n", config.preset.name())
}
