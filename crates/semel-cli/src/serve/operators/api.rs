//! The API of operators under `/v1`, on the admin address. Everything in it needs the token.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    str::FromStr,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use semel::{Body, BoxError};
use semel_core::{
    policy::MethodText,
    record::{ExchangeId, Reply},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};

use super::{
    By, Operators, PAGE_RECORDS_MAX, Refusal, Settlement, Which, release,
    row::{Cursor, Filter, RecordName, Row, exchange_id},
    token::Token,
};

/// What all its paths begin with.
pub(crate) const ROOT: &str = "/v1";

/// How many records a page has where nobody says.
const PAGE_RECORDS: u32 = 100;

/// The largest content of a release, in bytes.
const RELEASE_BYTES_MAX: usize = 64 << 10;
/// The largest content of a request that names a record, or settles one, in bytes: it may have a whole reply in it.
const SETTLE_BYTES_MAX: usize = 4 << 20;
/// How long an operator may take to send it.
const CONTENT_READ_MAX: Duration = Duration::from_secs(10);
/// How long whoever reads an export may take for one page of it.
const EXPORT_PAGE_MAX: Duration = Duration::from_mins(1);

/// One thing that an operator can ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ask {
    Index,
    List,
    Show,
    ShowExchange,
    Find,
    Settle,
    Release,
    Export,
    Recent,
}

/// What is there: how it is asked for, and what for.
const ASKS: [(Ask, &str, &str, &str); 9] = [
    (Ask::Index, "GET", "", "this list"),
    (Ask::List, "GET", "/records", "lists: phase, route, principal, older_than, younger_than, limit, after"),
    (Ask::Show, "GET", "/records/{record}", "shows one"),
    (
        Ask::ShowExchange,
        "GET",
        "/exchanges/{exchange}",
        "shows the record of an exchange, as logs and problems name it",
    ),
    (Ask::Find, "POST", "/find", "shows the record of a request: method, path, headers, content"),
    (
        Ask::Settle,
        "POST",
        "/settle",
        "settles an unknown outcome: record, exchange or request; outcome, reply, stamp, who, why",
    ),
    (Ask::Release, "POST", "/release", "releases a guard or slot: path, method, headers, who, why"),
    (Ask::Export, "GET", "/export", "all records, one JSON object per line; parameters as of the list"),
    (Ask::Recent, "GET", "/recent", "what this gateway has told lately: limit"),
];

impl Ask {
    /// What a request asks for, and the variable of its path.
    fn of(method: &Method, path: &str) -> Result<(Ask, String), Refusal> {
        let path = path.strip_prefix(ROOT).unwrap_or(path).trim_end_matches('/');
        let fits = |template: &str| match template.split_once('{') {
            None => (template == path).then(String::new),
            Some((before, _)) => path.strip_prefix(before).filter(|rest| !rest.contains('/')).map(str::to_owned),
        };
        let known = ASKS.into_iter().find_map(|(ask, method, template, _)| Some((ask, method, fits(template)?)));
        match known {
            None => Err(Refusal::new(StatusCode::NOT_FOUND, "no-such-path", "GET /v1 says what is here")),
            Some((_, allowed, _)) if method.as_str() != allowed => {
                Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", format!("only {allowed}")))
            }
            Some((ask, _, variable)) => Ok((ask, variable)),
        }
    }
}

/// A request as its caller would send it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    method: MethodText,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, Lines>,
    #[serde(default)]
    content: String,
}

/// The value of a header, or several lines of it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lines {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settle {
    record: Option<String>,
    exchange: Option<String>,
    request: Option<Request>,
    outcome: Outcome,
    reply: Option<GivenReply>,
    stamp: Option<String>,
    who: String,
    why: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Happened,
    DidNotHappen,
}

/// A reply that an operator gives.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenReply {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, Lines>,
    #[serde(default)]
    content: String,
}

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
    pub(crate) async fn answer(self, request: http::Request<Incoming>, from: SocketAddr) -> Response<Body> {
        match self.respond(request, from).await {
            Ok(response) => response,
            Err(refusal) => problem(&refusal),
        }
    }

    async fn respond(self, request: http::Request<Incoming>, from: SocketAddr) -> Result<Response<Body>, Refusal> {
        self.authorize(&request)?;
        let (parts, body) = request.into_parts();
        let (ask, variable) = Ask::of(&parts.method, parts.uri.path())?;
        let query = parts.uri.query().unwrap_or_default();
        match ask {
            Ask::Index => Ok(index()),
            Ask::List => {
                let Query { filter, after, limit } = Query::read(query)?;
                Ok(told(&self.operators.list(&filter, after, limit).await?))
            }
            Ask::Show => {
                let RecordName(record) = variable.parse().map_err(Refusal::wrong)?;
                self.show(&Which::Record(record)).await
            }
            Ask::ShowExchange => self.show(&Which::Exchange(read_exchange(&variable)?)).await,
            Ask::Find => {
                let request: Request = content(body, SETTLE_BYTES_MAX).await?;
                self.show(&request.read()?).await
            }
            Ask::Settle => {
                let asked: Settle = content(body, SETTLE_BYTES_MAX).await?;
                self.settle(asked, from).await
            }
            Ask::Release => {
                let content = read_content(body, RELEASE_BYTES_MAX).await?;
                let released = release::release(self.operators, &content, from).await?;
                Ok(told(&json!({ "released": released })))
            }
            Ask::Export => {
                let Query { filter, after, limit: _ } = Query::read(query)?;
                Ok(export(self.operators.clone(), filter, after))
            }
            Ask::Recent => {
                let limit = Query::read(query)?.limit.min(PAGE_RECORDS_MAX);
                let recent = self.operators.recent();
                Ok(told(&json!({ "decisions": recent.decisions(), "events": recent.newest(limit as usize) })))
            }
        }
    }

    /// Whether the request shows the token.
    fn authorize(self, request: &http::Request<Incoming>) -> Result<(), Refusal> {
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

    async fn settle(self, asked: Settle, from: SocketAddr) -> Result<Response<Body>, Refusal> {
        let Settle { record, exchange, request, outcome, reply, stamp, who, why } = asked;
        let which = match (record, exchange, request) {
            (Some(record), None, None) => Which::Record(record.parse::<RecordName>().map_err(Refusal::wrong)?.0),
            (None, Some(exchange), None) => Which::Exchange(read_exchange(&exchange)?),
            (None, None, Some(request)) => request.read()?,
            _ => return Err(Refusal::wrong("give one of record, exchange and request")),
        };
        let settlement = match (outcome, reply) {
            (Outcome::Happened, Some(reply)) => Settlement::Happened(reply.read()?),
            (Outcome::Happened, None) => {
                return Err(Refusal::wrong("what happened has a reply: give at least reply.status"));
            }
            (Outcome::DidNotHappen, None) => Settlement::DidNotHappen,
            (Outcome::DidNotHappen, Some(_)) => {
                return Err(Refusal::wrong("what did not happen has no reply: a retry executes"));
            }
        };
        let stamp = stamp.map(|stamp| stamp.parse().map_err(Refusal::wrong)).transpose()?;
        Ok(told(&self.operators.settle(&which, settlement, stamp, &By { who, why, from }).await?))
    }

    async fn show(self, which: &Which) -> Result<Response<Body>, Refusal> {
        let shown = self.operators.show(which).await?;
        let mut response = told(&shown);
        let etag = HeaderValue::try_from(format!("\"{}\"", shown.row.stamp));
        response.headers_mut().insert(header::ETAG, etag.expect("a stamp is digits and a hyphen"));
        Ok(response)
    }
}

impl Request {
    fn read(self) -> Result<Which, Refusal> {
        let Request { method, path, headers, content } = self;
        if !path.starts_with('/') || path.contains('#') {
            return Err(Refusal::wrong("path must start with a slash, and have no fragment"));
        }
        let headers = read_headers(headers)?;
        Ok(Which::Request { method: method.0, path, headers, content: content.into() })
    }
}

/// Reads headers; what is wrong is told without its value, which may be a credential.
fn read_headers(given: BTreeMap<String, Lines>) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    for (name, lines) in given {
        let known = HeaderName::from_bytes(name.as_bytes());
        let known = known.map_err(|_| Refusal::wrong(format!("headers: \"{name}\" is no name of a header")))?;
        let lines = match lines {
            Lines::One(line) => vec![line],
            Lines::Several(lines) => lines,
        };
        for line in lines {
            let value = HeaderValue::from_str(line.trim());
            let wrong = |_| Refusal::wrong(format!("headers: the value of \"{name}\" is none that a header can have"));
            headers.append(&known, value.map_err(wrong)?);
        }
    }
    Ok(headers)
}

impl GivenReply {
    fn read(self) -> Result<Reply, Refusal> {
        let GivenReply { status, headers, content } = self;
        if !(200..=599).contains(&status) {
            return Err(Refusal::wrong(format!("reply: a status from 200 to 599, not {status}")));
        }
        let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        let headers = read_headers(headers)?;
        let headers = headers.iter().map(|(name, value)| (bytes(name.as_str().as_bytes()), bytes(value.as_bytes())));
        Ok(Reply { status, headers: headers.collect(), content: content.into() })
    }
}

fn read_exchange(text: &str) -> Result<ExchangeId, Refusal> {
    exchange_id(text).ok_or_else(|| Refusal::wrong("expected the id of an exchange: 32 hexadecimal digits"))
}

/// The parameters of lists.
struct Query {
    filter: Filter,
    after: Option<Cursor>,
    limit: u32,
}

impl Query {
    fn read(query: &str) -> Result<Query, Refusal> {
        let (mut filter, mut after, mut limit) = (Filter::default(), None, PAGE_RECORDS);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let (name, value) = (&*name, &*value);
            let age = || {
                let wrong = |_| format!("{name}: expected a duration such as 30s, 1h or 2d, found \"{value}\"");
                humantime::parse_duration(value).map_err(|error| Refusal::wrong(wrong(error)))
            };
            match name {
                "phase" => filter.phase = Some(read(name, value)?),
                "route" => filter.route = Some(value.to_owned()),
                "principal" => filter.principal = Some(value.to_ascii_lowercase()),
                "older_than" => filter.older_than = Some(age()?),
                "younger_than" => filter.younger_than = Some(age()?),
                "after" => after = Some(read(name, value)?),
                "limit" => limit = read(name, value)?,
                other => return Err(Refusal::wrong(format!("there is no parameter \"{other}\""))),
            }
        }
        if limit == 0 {
            return Err(Refusal::wrong("limit: expected 1 or more"));
        }
        Ok(Query { filter, after, limit })
    }
}

fn read<T: FromStr>(name: &str, value: &str) -> Result<T, Refusal>
where
    T::Err: std::fmt::Display,
{
    value.parse().map_err(|error| Refusal::wrong(format!("{name}: {error}")))
}

async fn content<T: DeserializeOwned>(body: Incoming, bytes_max: usize) -> Result<T, Refusal> {
    let content = read_content(body, bytes_max).await?;
    // What is wrong is told without what was sent, which may have a credential in it.
    serde_json::from_slice(&content).map_err(|error| Refusal::wrong(error.to_string()))
}

async fn read_content(body: Incoming, bytes_max: usize) -> Result<Bytes, Refusal> {
    let content = timeout(CONTENT_READ_MAX, Limited::new(body, bytes_max).collect()).await;
    match content {
        Ok(Ok(content)) => Ok(content.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let detail = format!("at most {bytes_max} bytes");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail))
        }
        Ok(Err(_broken)) => Err(Refusal::wrong("the content broke off")),
        Err(_elapsed) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the content took too long")),
    }
}

/// Every record, a line each. Ends in the middle of the response, visibly, when the store fails.
fn export(operators: Operators, filter: Filter, mut after: Option<Cursor>) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let page = operators.list(&filter, after, PAGE_RECORDS_MAX).await;
            let next = page.as_ref().map_or(None, |page| page.next);
            let lines = page.map_err(|refusal| BoxError::from(refusal.detail)).map(|page| lines(&page.records));
            let is_last = next.is_none();
            // Nobody reads any more, or too slowly.
            if sender.send_timeout(lines, EXPORT_PAGE_MAX).await.is_err() || is_last {
                return;
            }
            after = next;
        }
    });
    respond(StatusCode::OK, "application/x-ndjson", Body::streaming(Pages(receiver)))
}

fn lines(rows: &[Row]) -> Bytes {
    let mut lines = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut lines, row).expect("it has no keys but strings");
        lines.push(b'\n');
    }
    lines.into()
}

/// Pages of an export as they come.
struct Pages(mpsc::Receiver<Result<Bytes, BoxError>>);

impl http_body::Body for Pages {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx).map(|page| page.map(|page| page.map(http_body::Frame::data)))
    }
}

fn index() -> Response<Body> {
    let paths =
        ASKS.map(|(_, method, path, does)| json!({ "method": method, "path": format!("{ROOT}{path}"), "does": does }));
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
