//! What the tests say again and again.

use super::{Gateway, Request, Response};

/// Fields that differ between a response and its replay by right.
const FRESH: [&str; 5] = ["date", "idempotent-replayed", "connection", "keep-alive", "transfer-encoding"];

/// Asserts that the answer is this problem, with everything a problem has.
#[track_caller]
pub(crate) fn assert_problem(answer: &Response, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
    let problem = answer.json();
    for member in ["type", "title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {answer:?}");
    }
    assert_eq!(problem["status"], status, "{answer:?}");
    let retryable = problem["retryable"].as_bool().unwrap_or_else(|| panic!("retryable in {answer:?}"));
    let links = answer.all("link");
    assert!(links.iter().any(|link| link.contains("rel=\"describedby\"")), "Link in {answer:?}");
    if matches!(code, "in-flight" | "store-unavailable") {
        let seconds = answer.header("retry-after").and_then(|value| value.parse::<u32>().ok());
        assert!(seconds.is_some_and(|seconds| seconds >= 1), "Retry-After in {answer:?}");
    }
    if !retryable {
        assert_eq!(answer.header("retry-after"), None, "what cannot fare better must not invite: {answer:?}");
    }
    assert_eq!(answer.header("idempotent-replayed"), None, "a problem is no replay: {answer:?}");
}

/// Asserts that `answer` replays `first`: status, kept field lines in their multiplicity, content, and the marker.
#[track_caller]
pub(crate) fn assert_replay(first: &Response, answer: &Response) {
    assert_eq!(answer.header("idempotent-replayed"), Some("true"), "{answer:?}");
    assert_same_reply(first, answer);
}

/// Asserts that two responses are the same but for what is fresh in each.
#[track_caller]
pub(crate) fn assert_same_reply(first: &Response, second: &Response) {
    let lines = |response: &Response| {
        let mut lines: Vec<(String, String)> = response
            .headers
            .iter()
            .filter(|(name, _)| !FRESH.contains(&name.as_str()) && name != "content-length")
            .map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()))
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(first.status, second.status, "{first:?}\n{second:?}");
    assert_eq!(lines(first), lines(second));
    assert!(first.body == second.body, "{first:?}\n{second:?}");
}

/// Sends the same request twice, one after the other.
pub(crate) async fn twice(gateway: &Gateway, request: &Request) -> (Response, Response) {
    let first = gateway.send(request).await;
    (first, gateway.send(request).await)
}
