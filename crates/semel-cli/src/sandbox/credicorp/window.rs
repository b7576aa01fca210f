//! How many requests one address may send to one route: fixed windows of 60 s, each opened by its first request
//! (`dialects.md` section 2, "Rate limit"). Replays count.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How long a window is, in milliseconds.
pub(super) const WINDOW_MS: u64 = 60_000;

/// The open windows of one route, by address.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Windows(BTreeMap<String, Window>);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Window {
    opened_ms: u64,
    requests: u64,
}

/// What is left of a window after a request was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Left {
    /// More requests that fit; `None`: this one did not.
    pub(super) requests: Option<u64>,
    /// Seconds until the next window, rounded up.
    pub(super) reset_s: u64,
}

impl Windows {
    /// Counts a request, and forgets windows that are over.
    pub(super) fn count(&mut self, address: &str, now_ms: u64, limit: u64) -> Left {
        self.0.retain(|_, window| now_ms < window.opened_ms.saturating_add(WINDOW_MS));
        let window = self.0.entry(address.to_owned()).or_insert(Window { opened_ms: now_ms, requests: 0 });
        window.requests = window.requests.saturating_add(1);
        Left {
            requests: limit.checked_sub(window.requests),
            reset_s: (window.opened_ms.saturating_add(WINDOW_MS) - now_ms).div_ceil(1_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_takes_its_limit_and_not_one_more() {
        let mut windows = Windows::default();
        let left = |requests, reset_s| Left { requests, reset_s };
        assert_eq!(windows.count("a", 1_000, 2), left(Some(1), 60));
        assert_eq!(windows.count("a", 1_001, 2), left(Some(0), 60));
        assert_eq!(windows.count("a", 60_999, 2), left(None, 1));
        assert_eq!(windows.count("b", 60_999, 2), left(Some(1), 60), "another address has its own");
        assert_eq!(windows.count("a", 61_000, 2), left(Some(1), 60));
        assert_eq!(windows.0.len(), 2);
        windows.count("a", 200_000, 2);
        assert_eq!(windows.0.len(), 1, "what is over is forgotten");
    }
}
