//! The API of operators under `/v1`, on the admin address. Everything in it needs the token.

use std::{net::SocketAddr, str::FromStr};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use semel::Body;
use serde::Serialize;
use serde_json::json;

use super::{
    Operators, Refusal, Which,
    row::{Filter, RecordName, exchange_id},
    token::Token,
};

/// What all its paths begin with.
pub(crate) const ROOT: &str = "/v1";

/// How many records a page has where nobody says.
const PAGE_RECORDS: u32 = 100;

/// What is there, for whoever asks for [`ROOT`].
const INDEX: &[(&str, &str, &str)] = &[
    ("GET", "/v1/records", "list: phase, route, principal, older_than, younger_than, limit, after"),
    ("GET", "/v1/records/{record}", "show one"),
    ("GET", "/v1/exchanges/{exchange}", "show the record of an exchange, as logs and problems name it"),
    ("POST", "/v1/release", "release a guard or slot: path, method, headers, who, why"),
];

/// The API, for one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Api<'a> {
    /// What it is about.
    pub operators: &'a Operators,
    /// What operators show.
    pub token: Option<&'a Token>,
}

impl Api<'_> {
    /// Answers one request on [`ROOT`] or below it.
    pub(crate) async fn answer(self, request: Request<Incoming>, _from: SocketAddr) -> Response<Body> {
        match self.route(request).await {
            Ok(response) => response,
            Err(refusal) => problem(&refusal),
        }
    }

    async fn route(self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        self.authorize(&request)?;
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.split('/').skip(2).collect();
        let allowed = match *segments.as_slice() {
            ["records"] | ["records" | "exchanges", _] | [] => Method::GET,
            _ => return Err(Refusal::new(StatusCode::NOT_FOUND, "no-such-path", "GET /v1 says what is here")),
        };
        if *request.method() != allowed {
            return Err(Refusal::not_allowed(&allowed));
        }
        match *segments.as_slice() {
            ["records"] => self.list(request.uri().query()).await,
            ["records", record] => {
                let RecordName(record) = record.parse().map_err(Refusal::wrong)?;
                self.show(&Which::Record(record)).await
            }
            ["exchanges", exchange] => {
                let exchange = exchange_id(exchange)
                    .ok_or_else(|| Refusal::wrong("expected the id of an exchange: 32 hexadecimal digits"))?;
                self.show(&Which::Exchange(exchange)).await
            }
            _ => Ok(index()),
        }
    }

    /// Whether the request shows the token.
    fn authorize(self, request: &Request<Incoming>) -> Result<(), Refusal> {
        let Some(token) = self.token else {
            let detail =
                "set gateway.admin_token_file to a file with a token, and start again: without it nobody is told";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "no-operators", detail));
        };
        if !token.is_shown_by(request.headers()) {
            let detail = "send Authorization: Bearer and the token of gateway.admin_token_file";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "no-token", detail));
        }
        Ok(())
    }

    async fn list(self, query: Option<&str>) -> Result<Response<Body>, Refusal> {
        let (mut filter, mut after, mut limit) = (Filter::default(), None, PAGE_RECORDS);
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "limit" => limit = read(&name, &value)?,
                "after" => after = Some(read(&name, &value)?),
                _ => read_filter(&mut filter, &name, &value)?,
            }
        }
        if limit == 0 {
            return Err(Refusal::wrong("limit: expected 1 or more"));
        }
        Ok(told(&self.operators.list(&filter, after, limit).await?))
    }

    async fn show(self, which: &Which) -> Result<Response<Body>, Refusal> {
        let shown = self.operators.show(which).await?;
        let mut response = told(&shown);
        let etag = HeaderValue::try_from(format!("\"{}\"", shown.row.stamp));
        response.headers_mut().insert(header::ETAG, etag.expect("a stamp is digits and a hyphen"));
        Ok(response)
    }
}

impl Refusal {
    fn not_allowed(allowed: &Method) -> Refusal {
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", format!("only {allowed}"))
    }
}

fn read<T: FromStr>(name: &str, value: &str) -> Result<T, Refusal>
where
    T::Err: std::fmt::Display,
{
    value.parse().map_err(|error| Refusal::wrong(format!("{name}: {error}")))
}

/// One parameter that says which records.
fn read_filter(filter: &mut Filter, name: &str, value: &str) -> Result<(), Refusal> {
    let age = || {
        humantime::parse_duration(value).map_err(|_| {
            Refusal::wrong(format!("{name}: expected a duration such as 30s, 1h or 2d, found \"{value}\""))
        })
    };
    match name {
        "phase" => filter.phase = Some(read(name, value)?),
        "route" => filter.route = Some(value.to_owned()),
        "principal" => filter.principal = Some(value.to_ascii_lowercase()),
        "older_than" => filter.older_than = Some(age()?),
        "younger_than" => filter.younger_than = Some(age()?),
        other => return Err(Refusal::wrong(format!("there is no parameter \"{other}\""))),
    }
    Ok(())
}

fn index() -> Response<Body> {
    let paths = INDEX.iter().map(|(method, path, what)| json!({ "method": method, "path": path, "does": what }));
    let paths: Vec<_> = paths.collect();
    told(&json!({ "version": 1, "paths": paths }))
}

fn told(what: &impl Serialize) -> Response<Body> {
    let mut content = serde_json::to_vec(what).expect("it has no keys but strings");
    content.push(b'\n');
    respond(StatusCode::OK, "application/json", Body::full(content))
}

fn problem(refusal: &Refusal) -> Response<Body> {
    let Refusal { status, code, detail } = refusal;
    let title = status.canonical_reason().unwrap_or_default();
    let content = json!({ "title": title, "status": status.as_u16(), "code": code, "detail": detail });
    let mut response = respond(*status, "application/problem+json", Body::full(format!("{content}\n")));
    let headers = response.headers_mut();
    match *status {
        StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            let allowed = detail.rsplit(' ').next().unwrap_or_default();
            headers.insert(header::ALLOW, HeaderValue::try_from(allowed).expect("a method is a header value"));
        }
        _ => {}
    }
    response
}

fn respond(status: StatusCode, content_type: &'static str, content: Body) -> Response<Body> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
