//! Finds one record: by an exchange, or by the request as its caller would send it.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use maud::{Markup, html};
use semel_core::key::KeyRule;

use super::{
    Answer, Asked, Console,
    page::{Fields, Place, Tone, form_token, notice, see},
    query,
    records::path_of,
};
use crate::{
    config::words,
    serve::operators::{
        Refusal, Which,
        row::{RecordName, exchange_id},
    },
};

impl Console {
    /// The forms; with an exchange in the query, the record of it. An exchange is no secret, a key is.
    pub(super) async fn search_page(&self, asked: Asked<'_>) -> Answer {
        let fields = query(asked.head);
        let exchange = fields.text("exchange");
        if exchange.is_empty() {
            return self.search_form(asked, StatusCode::OK, &fields, None);
        }
        // What an operator has copied may as well be the name of a record.
        let which = exchange_id(exchange)
            .map(Which::Exchange)
            .or_else(|| exchange.parse().ok().map(|RecordName(record)| Which::Record(record)));
        let Some(which) = which else {
            let words = Refusal::wrong("An exchange id has 32 hexadecimal digits, as logs and problems show it.");
            return self.search_form(asked, words.status, &fields, Some(&words));
        };
        self.found(asked, &which, &fields).await
    }

    /// By the request: posted, so that no key is in an address or a log.
    pub(super) async fn search(&self, asked: Asked<'_>, fields: &Fields) -> Answer {
        match request_of(fields) {
            Ok(which) => self.found(asked, &which, fields).await,
            Err(refusal) => self.search_form(asked, refusal.status, fields, Some(&refusal)),
        }
    }

    async fn found(&self, asked: Asked<'_>, which: &Which, fields: &Fields) -> Answer {
        match self.operators.show(which).await {
            Ok(shown) => see(&path_of(shown.row.record)),
            Err(refusal) => self.search_form(asked, refusal.status, fields, Some(&refusal)),
        }
    }

    fn search_form(&self, asked: Asked<'_>, status: StatusCode, fields: &Fields, why: Option<&Refusal>) -> Answer {
        let content = html! {
            h1 { "Search" }
            @if let Some(refusal) = why { (notice(Tone::Wrong, &html! { p { (refusal.detail) } })) }
            h2 { "By exchange" }
            form class="line" action="/console/search" method="get" {
                label { "Exchange id" input name="exchange" value=(fields.text("exchange")) size="34" maxlength="64" spellcheck="false" autocomplete="off"; }
                button { "Find" }
            }
            h2 { "By request" }
            p { "As the caller sends it: what makes the key and the caller counts, and nothing else." }
            form class="tall" action="/console/search" method="post" {
                (form_token(&asked.operator.form))
                (self.request_fields(fields, "", "Content, where the key is in it"))
                div { button { "Find" } }
            }
        };
        self.page(asked, status, Place::Search, "Search", &content)
    }

    /// The fields of [`request_of`]. What is secret is never written back into a page.
    ///
    /// A route without variables says the path by itself.
    pub(super) fn request_fields(&self, fields: &Fields, route: &str, content: &str) -> Markup {
        let semel = self.operators.semel();
        let policy = semel.policy();
        let keys = policy.routes().iter().filter_map(|route| match &route.key {
            KeyRule::Header { name, .. } => Some(name),
            KeyRule::Member { .. } | KeyRule::Operation => None,
        });
        let compared = [header::CONTENT_TYPE, header::CONTENT_ENCODING];
        let names = keys.chain(policy.principal()).chain(&compared);
        let mut names: Vec<String> = names.map(words::header).collect();
        names.sort();
        names.dedup();
        let or = |name: &str, otherwise| Some(fields.text(name)).filter(|text| !text.is_empty()).unwrap_or(otherwise);
        let route = if route.contains(['{', '*']) { "" } else { route };
        html! {
            div class="field" {
                label for="method" { "Method" }
                input id="method" name="method" value=(or("method", "POST")) spellcheck="false";
            }
            div class="field" {
                label for="path" { "Path" }
                input id="path" name="path" value=(or("path", route)) placeholder="/orders" spellcheck="false";
            }
            div class="field" {
                label for="headers" { "Headers, one a line" }
                textarea id="headers" name="headers" spellcheck="false" autocomplete="off" aria-describedby="headers-hint" {}
                p class="hint" id="headers-hint" {
                    "Those that count here: " (names.join(", ")) ". They are used once and kept nowhere."
                }
            }
            div class="field" {
                label for="content" { (content) }
                textarea id="content" name="content" spellcheck="false" autocomplete="off" {}
            }
        }
    }
}

/// The request that a form describes.
pub(super) fn request_of(fields: &Fields) -> Result<Which, Refusal> {
    let method = Method::from_bytes(fields.text("method").as_bytes())
        .map_err(|_| Refusal::wrong("Method: write one such as POST."))?;
    let path = fields.text("path");
    if !path.starts_with('/') || path.parse::<Uri>().is_err() {
        return Err(Refusal::wrong("Path: it starts with a slash, and is escaped as in a request."));
    }
    let headers = headers_of(fields.whole("headers"))?;
    let content = fields.whole("content").to_owned().into();
    Ok(Which::Request { method, path: path.to_owned(), headers, content })
}

/// Header lines as people write them. What is wrong is told by its line's number: the line may hold a credential.
pub(super) fn headers_of(text: &str) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let field = line.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) = field.ok_or_else(|| {
            Refusal::wrong(format!("Headers, line {}: write a name, a colon and a value.", number + 1))
        })?;
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e11_a_wrong_header_line_is_told_by_its_number_only() {
        let headers = headers_of("Idempotency-Key: \"k1\"\n\n authorization :Bearer x:y\n").expect("header lines");
        assert_eq!(headers["idempotency-key"], "\"k1\"");
        assert_eq!(headers["authorization"], "Bearer x:y");
        for text in ["a: 1\nBearer secret", "a: 1\nmy secret: b", "a: 1\n: secret", "a: 1\nb: sec\u{1}ret"] {
            let refusal = headers_of(text).expect_err(text);
            assert_eq!(refusal.detail, "Headers, line 2: write a name, a colon and a value.");
        }
    }
}
