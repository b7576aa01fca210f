//! What all pages have: the frame, what a browser may do with them, and forms.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, Response, StatusCode, header};
use maud::{DOCTYPE, Markup, html};
use semel::Body;

use super::{
    assets::{HTMX, ICON, SCRIPT, STYLE},
    session::{FormToken, Operator},
};
use crate::config::words;

/// Only what this binary holds runs or is shown, and nothing shows it within another page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                                       connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// What htmx does of its own accord that the policy above forbids, or that would keep pages after signing out.
const HTMX_CONFIG: &str =
    r#"{"includeIndicatorStyles":false,"allowEval":false,"selfRequestsOnly":true,"historyEnabled":false}"#;

/// The places of the navigation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// How often what was decided.
    Overview,
    /// Outcomes that nobody knows.
    Unknown,
    /// One record.
    Search,
    /// What is promised.
    Routes,
    /// None of them.
    Elsewhere,
}

impl Place {
    const ALL: [(Place, &'static str, &'static str, &'static str); 4] = [
        (Place::Overview, "/console", "Overview", "g o"),
        (Place::Unknown, "/console/unknown", "Unknown", "g u"),
        (Place::Search, "/console/search", "Search", "g s"),
        (Place::Routes, "/console/routes", "Routes", "g r"),
    ];
}

/// How a notice is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tone {
    /// Something to know.
    Plain,
    /// It went well.
    Good,
    /// Think first.
    Warn,
    /// It did not work.
    Wrong,
}

/// A box of words that stands out.
pub(super) fn notice(tone: Tone, words: &Markup) -> Markup {
    let (class, role) = match tone {
        Tone::Plain => ("notice", "note"),
        Tone::Good => ("notice good", "status"),
        Tone::Warn => ("notice warn", "note"),
        Tone::Wrong => ("notice wrong", "alert"),
    };
    html! { div class=(class) role=(role) { (words) } }
}

/// A page for somebody who is signed in.
pub(super) fn page(operator: &Operator, place: Place, title: &str, content: &Markup) -> Markup {
    frame(
        title,
        &html! {
            nav aria-label="Console" {
                ul {
                    @for (one, href, name, keys) in Place::ALL {
                        li { a href=(href) aria-current=[(one == place).then_some("page")] title={ "Keys: " (keys) } { (name) } }
                    }
                }
            }
            div class="end" {
                form action="/console/search" method="get" role="search" {
                    label class="hidden" for="find" { "Exchange id" }
                    input id="find" name="exchange" type="search" placeholder="Exchange id" maxlength="64" autocomplete="off" spellcheck="false" aria-keyshortcuts="/";
                    button class="plain" { "Find" }
                }
                form action="/console/logout" method="post" {
                    (form_token(&operator.form))
                    span class="quiet" { "Signed in as " (operator.who) }
                    button class="plain" { "Sign out" }
                }
            }
        },
        content,
    )
}

/// A page for everybody.
pub(super) fn outside(title: &str, content: &Markup) -> Markup {
    frame(title, &html! {}, content)
}

fn frame(title: &str, top: &Markup, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="htmx-config" content=(HTMX_CONFIG);
                title { (title) " · Semel" }
                link rel="icon" href=(ICON) type="image/svg+xml";
                link rel="stylesheet" href=(STYLE);
                script src=(HTMX) defer {}
                script src=(SCRIPT) defer {}
            }
            body {
                a class="skip" href="#main" { "Skip to the content" }
                header { a class="brand" href="/console" { "Semel" } (top) }
                main id="main" tabindex="-1" { (content) }
                footer {
                    details id="keys" {
                        summary { "Keys" }
                        p {
                            kbd { "/" } " find by exchange id, "
                            @for (_, _, name, keys) in Place::ALL { kbd { (keys) } " " (name) ", " }
                            kbd { "j" } " and " kbd { "k" } " next and previous row, " kbd { "?" } " these words"
                        }
                        p { label { input type="checkbox" id="keys-off"; " Turn them off in this browser" } }
                    }
                }
            }
        }
    }
}

/// The hidden field of a form.
pub(super) fn form_token(token: &FormToken) -> Markup {
    html! { input type="hidden" name="form" value=(token.as_str()); }
}

/// A page, or a part of one, as a response.
pub(super) fn told(status: StatusCode, markup: Markup) -> Response<Body> {
    let mut response = Response::new(Body::full(markup.into_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

/// "Look there": what follows a form that was accepted, so that reloading does not post it again.
pub(super) fn see(path: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let path = HeaderValue::from_str(path).expect("paths of the console are written here, in ASCII");
    response.headers_mut().insert(header::LOCATION, path);
    response
}

/// Adds what holds for every answer of the console.
pub(super) fn protect(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The fields of a form, or of a query: each once.
#[derive(Default)]
pub(super) struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Reads `application/x-www-form-urlencoded`; a field that is there twice is an error, with its name.
    pub(super) fn read(encoded: &[u8]) -> Result<Fields, String> {
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(encoded) {
            // Browsers send line ends of a text area as CRLF, whatever was typed.
            let value = value.replace("\r\n", "\n");
            if fields.insert(name.clone().into_owned(), value).is_some() {
                return Err(format!("the field {name} is there twice"));
            }
        }
        Ok(Fields(fields))
    }

    /// A field without white space around it; empty when it is not there.
    pub(super) fn text(&self, name: &str) -> &str {
        self.whole(name).trim()
    }

    /// A field as it is; empty when it is not there.
    pub(super) fn whole(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// A duration for people, to two units: "3 min 20 s".
pub(super) fn for_people(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let seconds = duration.as_secs();
    let Some(first) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else {
        return format!("{} ms", duration.as_millis());
    };
    let (unit, name) = UNITS[first];
    let second = UNITS.get(first + 1).map(|(smaller, name)| (seconds % unit / smaller, name));
    match second {
        Some((count, smaller)) if count > 0 => format!("{} {name} {count} {smaller}", seconds / unit),
        Some(_) | None => format!("{} {name}", seconds / unit),
    }
}

/// A time of this machine's clock, in UTC, as a browser and people read it.
pub(super) fn time(at: SystemTime) -> Markup {
    let text = humantime::format_rfc3339_millis(at).to_string();
    html! { time datetime=(text) { (text.replace('T', " ").replace('Z', " UTC")) } }
}

/// A duration as it is configured.
pub(super) fn as_configured(duration: Duration) -> String {
    words::duration(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short_and_whole() {
        for (seconds, text) in [
            (0.004, "4 ms"),
            (1.0, "1 s"),
            (59.9, "59 s"),
            (60.0, "1 min"),
            (200.0, "3 min 20 s"),
            (7_200.0, "2 h"),
            (90_061.0, "1 d 1 h"),
        ] {
            assert_eq!(for_people(Duration::from_secs_f64(seconds)), text);
        }
    }

    #[test]
    fn a_field_that_is_there_twice_is_refused() {
        let fields = Fields::read(b"who=+ada+&why=a%26b&content=1%0D%0A2").expect("a form");
        assert_eq!((fields.text("who"), fields.text("why"), fields.text("absent")), ("ada", "a&b", ""));
        assert_eq!(fields.whole("content"), "1\n2");
        assert_eq!(Fields::read(b"who=a&why=b&who=c").err(), Some("the field who is there twice".to_owned()));
    }
}
