//! What statuses say about effects.

use std::str::FromStr;

use http::StatusCode;
use serde::{Deserialize, Deserializer};

use super::{Effect, words::from_text};

/// Which status means which effect, status by status from 200 to 599.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Effects(Vec<Effect>);

impl std::fmt::Debug for Effects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Effects(..)")
    }
}

impl Effects {
    /// A single status beats a class such as `4xx`; what is named nowhere may have happened.
    pub(super) fn new(
        happened: &[StatusPattern],
        none: &[StatusPattern],
        unknown: &[StatusPattern],
    ) -> Result<Effects, String> {
        let lists = [(Effect::Happened, happened), (Effect::None, none), (Effect::Unknown, unknown)];
        let mut table = Vec::with_capacity(400);
        for status in 200..=599u16 {
            let named = |width: fn(&StatusPattern) -> bool| {
                lists
                    .iter()
                    .filter(move |(_, list)| list.iter().any(|p| width(p) && p.contains(status)))
                    .map(|(effect, _)| *effect)
            };
            let single: Vec<Effect> = named(StatusPattern::is_single).collect();
            let class: Vec<Effect> = named(|p| !p.is_single()).collect();
            table.push(match (single.as_slice(), class.as_slice()) {
                ([effect], _) | ([], [effect]) => *effect,
                ([], []) => Effect::Unknown,
                _ => {
                    return Err(format!(
                        "status {status} is named by more than one of effect_happened, effect_none, effect_unknown"
                    ));
                }
            });
        }
        Ok(Effects(table))
    }

    /// The statuses that mean `effect`, as ranges.
    pub(super) fn ranges(&self, effect: Effect) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for status in (200..=599).filter(|status| self.of(*status) == effect) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == status => *last = status,
                _ => ranges.push((status, status)),
            }
        }
        ranges
    }

    pub(super) fn of(&self, status: u16) -> Effect {
        let index = usize::from(status).checked_sub(200);
        index.and_then(|index| self.0.get(index)).copied().unwrap_or(Effect::Unknown)
    }
}

/// `"2xx"`, `"422"` or `"500-504"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusPattern {
    first: u16,
    last: u16,
}

impl StatusPattern {
    fn contains(&self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
    fn is_single(&self) -> bool {
        self.first == self.last
    }
}

impl From<StatusCode> for StatusPattern {
    fn from(status: StatusCode) -> StatusPattern {
        StatusPattern { first: status.as_u16(), last: status.as_u16() }
    }
}

impl FromStr for StatusPattern {
    type Err = String;
    fn from_str(text: &str) -> Result<StatusPattern, String> {
        let number = |text: &str| text.parse::<u16>().ok().filter(|status| (200..=599).contains(status));
        let pattern = if let Some(class) = text.strip_suffix("xx") {
            class
                .parse::<u16>()
                .ok()
                .filter(|class| (2..=5).contains(class))
                .map(|class| (class * 100, class * 100 + 99))
        } else if let Some((first, last)) = text.split_once('-') {
            number(first).zip(number(last)).filter(|(first, last)| first < last)
        } else {
            number(text).map(|status| (status, status))
        };
        pattern
            .map(|(first, last)| StatusPattern { first, last })
            .ok_or_else(|| format!("expected a final status such as \"422\", \"4xx\" or \"500-504\", found \"{text}\""))
    }
}

impl<'de> Deserialize<'de> for StatusPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StatusPattern, D::Error> {
        from_text(deserializer)
    }
}
