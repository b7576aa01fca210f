//! What a script in a web page may read of an answer (Fetch Standard, "CORS protocol"; conformance SC16).
//!
//! The origin decides about its own responses, preflights among them. Where it lets a page read one, the page reads
//! what the gateway adds to it too. About its own answers the gateway decides, by `[cors]`; and about kept replies where
//! the origin's decision was for another page.

use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, LINK, LOCATION,
        ORIGIN, RETRY_AFTER, VARY,
    },
};
use semel::Replayed;
use semel_core::{
    policy::Policy,
    wire::{IDEMPOTENCY_PROBLEM, IDEMPOTENCY_STATUS, IDEMPOTENCY_WARNING, ProblemType, REPEATABILITY_RESULT},
};

use crate::config;

/// What a retrying client reads besides its route's marker, and a browser hides unless it is named.
const READ_BY_CLIENTS: [HeaderName; 7] =
    [IDEMPOTENCY_STATUS, IDEMPOTENCY_WARNING, IDEMPOTENCY_PROBLEM, REPEATABILITY_RESULT, LOCATION, RETRY_AFTER, LINK];

/// Lets pages read answers.
#[derive(Debug)]
pub(crate) struct Cors {
    rule: config::Cors,
    read: Vec<HeaderName>,
}

impl Cors {
    /// By `rule`, with the markers of the policy's routes.
    pub(crate) fn new(rule: config::Cors, policy: &Policy) -> Cors {
        let mut read: Vec<HeaderName> = policy.routes().iter().map(|route| route.marker.clone()).collect();
        read.extend(READ_BY_CLIENTS);
        read.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        read.dedup();
        Cors { rule, read }
    }

    /// The page that asks, if one does.
    pub(crate) fn page(headers: &HeaderMap) -> Option<HeaderValue> {
        headers.get(ORIGIN).cloned()
    }

    /// An answer of the layer, made readable for `page` where that is allowed.
    pub(crate) fn show<B>(&self, page: &HeaderValue, response: &mut Response<B>) {
        let told = response.extensions();
        if told.get::<ProblemType>().is_some() || told.get::<Replayed>().is_some() {
            self.decide(page, response.headers_mut());
        }
        self.expose(response.headers_mut());
    }

    /// The same for an answer that is the gateway's own.
    pub(crate) fn show_own<B>(&self, page: &HeaderValue, response: &mut Response<B>) {
        self.decide(page, response.headers_mut());
        self.expose(response.headers_mut());
    }

    /// Who may read what did not come from the origin just now. A permission that was kept with a reply counts for the
    /// page that it was given to, and nobody learns from it which page that was.
    fn decide(&self, page: &HeaderValue, headers: &mut HeaderMap) {
        let permitted = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN);
        if permitted.is_some_and(|permitted| permitted == "*" || permitted == page) {
            return;
        }
        headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        if !lists(headers, &VARY, "origin") {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        if self.rule.origins.contains(page) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page.clone());
            match self.rule.credentials {
                config::Credentials::Allowed => {
                    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
                }
                config::Credentials::Hidden => {}
            }
        }
    }

    /// Names what clients read in a response that a page may read at all.
    fn expose(&self, headers: &mut HeaderMap) {
        if !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        // Not by `*`: with credentials, that is a name like any other.
        let hidden: Vec<&str> = self
            .read
            .iter()
            .filter(|name| headers.contains_key(*name))
            .map(HeaderName::as_str)
            .filter(|name| !lists(headers, &ACCESS_CONTROL_EXPOSE_HEADERS, name))
            .collect();
        if !hidden.is_empty() {
            let names = HeaderValue::try_from(hidden.join(", ")).expect("header names are header values");
            headers.append(ACCESS_CONTROL_EXPOSE_HEADERS, names);
        }
    }
}

/// Whether a list field has a name in it.
fn lists(headers: &HeaderMap, field: &HeaderName, name: &str) -> bool {
    let lines = headers.get_all(field).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|one| one.trim().eq_ignore_ascii_case(name))
}
