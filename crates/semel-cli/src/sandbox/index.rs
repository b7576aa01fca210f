//! The page at `/`: what there is, and what to try; and the index of documents for tools (E13).

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::{
    api,
    control::CALLS,
    engine::{Engine, Stand},
    faults,
    shelf::Shelf,
};

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
code, pre { font: 0.875rem/1.5 ui-monospace, monospace; }
pre { padding: 0.75rem; overflow-x: auto; border: 1px solid color-mix(in srgb, currentColor 25%, transparent);
  border-radius: 0.25rem; }
table { border-collapse: collapse; } td, th { text-align: left; vertical-align: top; padding: 0.125rem 1rem 0.125rem 0; }
td code { overflow-wrap: anywhere; } .wide { overflow-x: auto; }
";

/// The page. `base` is the address that the reader came by, such as `http://127.0.0.1:4600`.
pub(crate) async fn page<DB: Shelf>(engine: &Engine<DB>, base: &str) -> Response<Bytes> {
    let fixtures = engine.fixtures().await.unwrap_or_else(|error| {
        tracing::error!(target: "semel::sandbox", %error, "the fixtures cannot be read");
        Value::Null
    });
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Semel sandbox" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Semel sandbox" }
                p {
                    "Four APIs that make write requests safe to retry, each in its own way, on "
                    code { (base) } ". Lose replies, move the clock, and see what really happened. "
                    "Nothing here is real money."
                }
                @if engine.naive {
                    p {
                        strong { "This is the naive copy" }
                        ": no keys, no unique ids, no guards. Every create creates. Put "
                        code { "semel serve --preset NAME --upstream " (base) } " in front of it."
                    }
                }
                nav aria-label="Contents" {
                    ul {
                        @for stand in &engine.stands {
                            li { a href={ "#" (stand.vendor.name()) } { (stand.vendor.about().title) } }
                        }
                        li { a href="#control" { "Faults, clock, ledger" } }
                    }
                }
                main {
                    @for stand in &engine.stands { (vendor(stand, &fixtures[stand.vendor.name()], base)) }
                    (control(base))
                }
            }
        }
    };
    let mut response = api::text(StatusCode::OK, &page.into_string());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

/// Where tools look for an index of documents.
pub(crate) const FOR_TOOLS: &str = "/llms.txt";

/// The index: a list of links under headings, as Markdown.
pub(crate) fn for_tools<DB: Shelf>(engine: &Engine<DB>) -> Response<Bytes> {
    let mut index =
        "# Semel sandbox\n\n> APIs that make write requests safe to retry, each in its own way.\n\n## APIs\n\n"
            .to_owned();
    let written = "a string takes everything";
    for stand in &engine.stands {
        let (about, name) = (stand.vendor.about(), stand.vendor.name());
        writeln!(index, "- [{}](/_sandbox/openapi/{name}.json): {}", about.title, about.says).expect(written);
    }
    index.push_str("\n## Control\n\n- [What there is, and what to try](/)\n");
    for (method, path, about) in CALLS {
        writeln!(index, "- `{method} {path}`: {about}").expect(written);
    }
    api::text(StatusCode::OK, &index)
}

fn vendor<DB: Shelf>(stand: &Stand<DB>, fixtures: &Value, base: &str) -> Markup {
    let about = stand.vendor.about();
    let name = stand.vendor.name();
    html! {
        section id=(name) aria-labelledby={ (name) "-title" } {
            h2 id={ (name) "-title" } { (about.title) }
            p { (about.says) }
            @if let Some(fixtures) = fixtures.as_object().filter(|fixtures| !fixtures.is_empty()) {
                h3 { "Keys and ids" }
                table {
                    @for (name, value) in fixtures {
                        tr { th scope="row" { (name) } td { (values(value)) } }
                    }
                }
            }
            h3 { "Try" }
            pre {
                @for line in &about.curl { (line.replace("{base}", base)) "\n" }
            }
            h3 { "Calls" }
            div class="wide" {
                table {
                    @for operation in &stand.operations {
                        tr {
                            td { code { (operation.method) " " (operation.path) } }
                            td { (operation.summary) }
                        }
                    }
                }
            }
            p { a href={ "/_sandbox/openapi/" (name) ".json" } { "OpenAPI 3.1 document of " (about.title) } }
        }
    }
}

fn values(value: &Value) -> Markup {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    html! {
        @match value.as_array() {
            Some(several) => @for (nth, value) in several.iter().enumerate() {
                @if nth > 0 { ", " }
                code { (text(value)) }
            },
            None => code { (text(value)) },
        }
    }
}

fn control(base: &str) -> Markup {
    html! {
        section id="control" aria-labelledby="control-title" {
            h2 id="control-title" { "Faults, clock, ledger" }
            p {
                "Clients under test never need these. " code { "op" }
                " is a call as it is listed above; kinds of faults: " code { (faults::KINDS) } "."
            }
            div class="wide" {
                table {
                    @for (method, path, about) in CALLS {
                        tr { td { code { (method) " " (path) } } td { (about) } }
                    }
                }
            }
            pre {
                "curl " (base) "/_sandbox/ledger\n"
                "curl " (base) "/_sandbox/clock -d '{\"advance_ms\":86401000}'\n"
                "curl -X POST " (base) "/_sandbox/reset\n"
            }
        }
    }
}
