//! How long an API says that it remembers keys: the policy document of Semel (`/.well-known/idempotency`).

use semel_core::policy::PathTemplate;
use serde::Deserialize;

#[derive(Deserialize)]
struct Document {
    version: u32,
    routes: Vec<Route>,
}

#[derive(Deserialize)]
struct Route {
    path: PathTemplate,
    methods: Vec<String>,
    retry: Retry,
    times_seconds: Times,
}

#[derive(Deserialize)]
struct Retry {
    on_expired: String,
}

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "as the document has them")]
struct Times {
    replay_for: f64,
    remember_for: f64,
    unknown_for: f64,
}

/// The window of a request in milliseconds, if this is such a document and covers it. A key is safe to send again for as
/// long as it is remembered; where an expired one executes afresh, only for as long as replies are.
pub(crate) fn window_ms(document: &[u8], method: &http::Method, path: &str) -> Option<u64> {
    let document: Document =
        serde_json::from_slice(document).ok().filter(|document: &Document| document.version == 1)?;
    let path = semel_core::admit::normalise_path(path);
    let covers = |route: &&Route| route.methods.iter().any(|name| name == method.as_str()) && route.path.matches(&path);
    let Route { retry, times_seconds: times, .. } = document.routes.iter().find(covers)?;
    let remembered = if retry.on_expired == "refuse" { times.remember_for } else { times.replay_for };
    let seconds = remembered.min(times.unknown_for);
    // A century is for ever, and fits.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
    (seconds.is_finite() && seconds >= 0.0).then(|| (seconds.min(3.2e9) * 1000.0) as u64)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn l10_the_published_window_is_that_of_the_route() {
        let document = br#"{"version":1,"routes":[
            {"path":"/orders/{id}","methods":["POST"],"retry":{"on_expired":"execute"},
             "times_seconds":{"replay_for":60,"remember_for":3600,"unknown_for":7200}},
            {"path":"/*","methods":["POST","PATCH"],"retry":{"on_expired":"refuse"},
             "times_seconds":{"replay_for":60,"remember_for":3600.5,"unknown_for":7200}}]}"#;
        assert_eq!(window_ms(document, &Method::POST, "/orders/1"), Some(60_000));
        assert_eq!(window_ms(document, &Method::POST, "/payments"), Some(3_600_500));
        assert_eq!(window_ms(document, &Method::PATCH, "/orders/1"), Some(3_600_500));
        assert_eq!(window_ms(document, &Method::PUT, "/orders/1"), None);
        assert_eq!(window_ms(b"<html>", &Method::POST, "/"), None);
        assert_eq!(window_ms(br#"{"version":2,"routes":[]}"#, &Method::POST, "/"), None);
    }
}
