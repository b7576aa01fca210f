//! What a vendor's API is made of, and what its handlers are given.
//!
//! A handler runs inside one transaction of the database: what it writes and the idempotency record commit together, or
//! neither does. A response that is not 2xx undoes what was written, unless the vendor's policy keeps such a reply.

use std::{collections::BTreeMap, net::IpAddr, pin::Pin};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use semel::BoxError;
use semel_core::policy::PolicyDocument;
use serde_json::{Map, Value};

use super::{
    books::{Books, New, Row},
    engine::Peer,
};

/// What a handler says. An `Err` is a broken machine or program: undone, or tried again where the database asks for that.
/// Hand database errors on with `?`.
pub(crate) type Outcome<T = Response<Bytes>> = Result<T, BoxError>;

/// A handler.
pub(crate) type Run = for<'a> fn(&'a mut Call<'_>) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// One of the four APIs.
#[async_trait::async_trait]
pub(crate) trait Vendor: Send + Sync {
    /// Its name in faults, fixtures, the ledger and addresses.
    fn name(&self) -> &'static str;

    /// What the index page says of it.
    fn about(&self) -> About;

    /// Everything it answers.
    fn operations(&self) -> Vec<Operation>;

    /// What can be set, and where each default comes from.
    fn settings(&self) -> Vec<Setting>;

    /// Its idempotency, as settings and switches say.
    fn policy(&self, settings: &Settings) -> PolicyDocument;

    /// Puts down what is there at first start. Ids and keys are the same at every start.
    async fn furnish(&self, desk: &mut Desk<'_>) -> Outcome<()>;

    /// What `GET /_sandbox/fixtures` says of it.
    async fn fixtures(&self, desk: &mut Desk<'_>) -> Outcome<Value>;

    /// Changes a fixture that is not a setting. The inner error is for whoever asked, and says what would be right.
    async fn set(&self, desk: &mut Desk<'_>, name: &str, value: &Value) -> Outcome<Result<(), String>>;

    /// Writes who asks into the header field that the policy's principal reads, where one caller can say it in several
    /// ways (another header field, another key). Runs before everything else, and overrules what the client sent.
    fn recognise(&self, _headers: &mut http::HeaderMap) {}

    /// Refuses a request before anything else looks at it (no such credential, too many requests), because a replay does
    /// not reach the handler. Runs in a transaction of its own, which is committed.
    async fn admit(&self, _call: &mut Call<'_>) -> Outcome<Option<Response<Bytes>>> {
        Ok(None)
    }

    /// An error in this API's shape, for faults and for what no operation answers (404, 405, 413, 500, 503 ...).
    fn trouble(&self, status: StatusCode) -> Response<Bytes>;

    /// Adds the header fields that are on every response of this API.
    fn dress(&self, _settings: &Settings, _headers: &mut http::HeaderMap) {}

    /// The last that is done to a response, whoever made it: a handler, a replay, a refusal of the policy, a fault.
    fn finish(&self, _response: &mut Response<Bytes>) {}
}

/// What the index page says of a vendor.
pub(crate) struct About {
    /// Its name as people write it.
    pub(crate) title: &'static str,
    /// What its idempotency is, in a sentence.
    pub(crate) says: &'static str,
    /// Command lines to try, with `{base}` for the sandbox's address.
    pub(crate) curl: Vec<String>,
}

/// One method on one path.
pub(crate) struct Operation {
    /// The method.
    pub(crate) method: Method,
    /// The path template, such as `/ramp/order/{id}`. With the method it is the `op` of a fault.
    pub(crate) path: &'static str,
    /// For the OpenAPI document.
    pub(crate) summary: &'static str,
    /// Header fields that it reads: name, whether it is required, JSON Schema, what for.
    pub(crate) headers: Vec<(&'static str, bool, Value, &'static str)>,
    /// JSON Schema (2020-12) of the content, if it reads any.
    pub(crate) content: Option<Value>,
    /// Every response it can give.
    pub(crate) replies: Vec<ReplyDoc>,
    /// The handler.
    pub(crate) run: Run,
}

/// One response that an operation can give.
#[derive(Clone, Debug)]
pub(crate) struct ReplyDoc {
    /// Its status. There can be several of one status.
    pub(crate) status: u16,
    /// When.
    pub(crate) about: &'static str,
    /// `application/json`, `text/plain`, ...; empty where there is no content.
    pub(crate) media: &'static str,
    /// JSON Schema of the content.
    pub(crate) schema: Value,
}

/// Who says that a default is as it is (the marks of `dialects.md`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mark {
    /// A source document.
    Seed,
    /// The vendor's own pages.
    Documented,
    /// Nobody; it was chosen.
    Chosen,
}

/// Something that can be set by `POST /_sandbox/fixtures`.
pub(crate) struct Setting {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its value at first start.
    pub(crate) default: Value,
    /// Where that comes from.
    pub(crate) mark: Mark,
    /// What it is, with its unit.
    pub(crate) about: &'static str,
    /// What it may be.
    pub(crate) takes: Takes,
}

/// What a setting may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Takes {
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// True or false.
    Switch,
    /// A whole number from the first to the second.
    Whole(u64, u64),
}

impl Takes {
    /// That in words.
    pub(crate) fn words(self) -> String {
        match self {
            Takes::OneOf(texts) => format!("one of \"{}\"", texts.join("\", \"")),
            Takes::Switch => "true or false".to_owned(),
            Takes::Whole(from, to) => format!("a whole number from {from} to {to}"),
        }
    }
}

/// The values of a vendor's settings now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings(pub(crate) BTreeMap<&'static str, Value>);

impl Settings {
    /// The value of a text.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).expect("the vendor has a text of this name")
    }
    /// The value of a switch.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).expect("the vendor has a switch of this name")
    }
    /// The value of a number.
    pub(crate) fn whole(&self, name: &str) -> u64 {
        self.0.get(name).and_then(Value::as_u64).expect("the vendor has a number of this name")
    }
}

/// The vendor's books within one transaction, and the circumstances.
pub(crate) struct Desk<'t> {
    /// Whose they are.
    pub(crate) vendor: &'static str,
    /// The open transaction.
    pub(crate) books: &'t mut dyn Books,
    /// The vendor's settings.
    pub(crate) settings: &'t Settings,
    /// The sandbox's time in milliseconds since 1970.
    pub(crate) now_ms: u64,
    /// Whether this is the naive copy: no uniqueness, no keys, no guards.
    pub(crate) naive: bool,
}

impl Desk<'_> {
    /// Adds a record, which the ledger shows; gives its number.
    pub(crate) async fn add(
        &mut self,
        kind: &str,
        id: &str,
        owner: &str,
        key: Option<&str>,
        data: &Value,
    ) -> Outcome<i64> {
        self.insert(kind, id, owner, key, data, false).await
    }

    /// Adds a record that belongs to the fixtures, which the ledger does not show.
    pub(crate) async fn add_fixture(&mut self, kind: &str, id: &str, owner: &str, data: &Value) -> Outcome<i64> {
        self.insert(kind, id, owner, None, data, true).await
    }

    async fn insert(
        &mut self,
        kind: &str,
        id: &str,
        owner: &str,
        key: Option<&str>,
        data: &Value,
        is_fixture: bool,
    ) -> Outcome<i64> {
        let new = New { vendor: self.vendor, kind, id, owner, key, created_at_ms: self.now_ms, is_fixture, data };
        Ok(self.books.add(new).await?)
    }

    /// The newest record of an id.
    pub(crate) async fn find(&mut self, kind: &str, id: &str) -> Outcome<Option<Row>> {
        Ok(self.books.find(self.vendor, kind, id).await?)
    }

    /// All records of a kind, oldest first.
    pub(crate) async fn list(&mut self, kind: &str) -> Outcome<Vec<Row>> {
        Ok(self.books.list(self.vendor, kind).await?)
    }

    /// Replaces what a record says.
    pub(crate) async fn change(&mut self, number: i64, data: &Value) -> Outcome<()> {
        Ok(self.books.change(number, data).await?)
    }

    /// Writes a debit beside the record that it pays for.
    pub(crate) async fn debit(&mut self, account: &str, amount: &str, record_id: &str) -> Outcome<()> {
        Ok(self.books.debit(self.vendor, account, amount, record_id).await?)
    }

    /// Something that is not a record: a balance, who is online.
    pub(crate) async fn state(&mut self, name: &str) -> Outcome<Option<Value>> {
        Ok(self.books.state(self.vendor, name).await?)
    }

    /// Sets it.
    pub(crate) async fn keep(&mut self, name: &str, value: &Value) -> Outcome<()> {
        Ok(self.books.keep(self.vendor, name, value).await?)
    }

    /// The next number of a counter that starts at `first`.
    pub(crate) async fn next(&mut self, counter: &str, first: i64) -> Outcome<i64> {
        let name = format!("next {counter}");
        let number = self.state(&name).await?.and_then(|value| value.as_i64()).unwrap_or(first);
        self.keep(&name, &Value::from(number + 1)).await?;
        Ok(number)
    }

    /// The sandbox's time as RFC 3339 writes it, `after_ms` from now.
    pub(crate) fn timestamp(&self, after_ms: i64) -> String {
        timestamp(self.now_ms.saturating_add_signed(after_ms))
    }
}

/// A time in milliseconds since 1970 as RFC 3339 writes it.
pub(crate) fn timestamp(ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
    humantime::format_rfc3339_millis(time).to_string()
}

/// One request, and the books.
pub(crate) struct Call<'t> {
    /// The books.
    pub(crate) desk: Desk<'t>,
    /// The request, whole.
    pub(crate) request: &'t Request<Bytes>,
    /// What the variables of the path template stand for, percent-decoded.
    pub(crate) path: BTreeMap<&'static str, String>,
    /// Header fields that [`Vendor::admit`] wants on the response, whoever makes it. Nothing else reads it.
    pub(crate) noted: http::HeaderMap,
}

impl Call<'_> {
    /// A variable of the path template.
    pub(crate) fn segment(&self, name: &str) -> &str {
        self.path.get(name).expect("the template has this variable")
    }

    /// A header field that is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The address of the client, or of the last proxy before the sandbox.
    pub(crate) fn peer(&self) -> IpAddr {
        self.request.extensions().get::<Peer>().expect("the listener says who is there").0.ip()
    }

    /// The idempotency key as the client sent it, for the ledger.
    pub(crate) fn key(&self) -> Option<&str> {
        self.header("idempotency-key")
    }

    /// The content, if it is a JSON object.
    pub(crate) fn object(&self) -> Option<Map<String, Value>> {
        serde_json::from_slice(self.request.body()).ok()
    }
}

/// A response of JSON.
pub(crate) fn json(status: StatusCode, content: &Value) -> Response<Bytes> {
    reply(status, "application/json", content.to_string())
}

/// A response of text.
pub(crate) fn text(status: StatusCode, content: &str) -> Response<Bytes> {
    reply(status, "text/plain; charset=utf-8", content.to_owned())
}

fn reply(status: StatusCode, media: &'static str, content: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(content));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// A header field on a response.
pub(crate) fn with(mut response: Response<Bytes>, name: &'static str, value: &str) -> Response<Bytes> {
    let value = HeaderValue::from_str(value).expect("the sandbox's own header values are visible ASCII");
    response.headers_mut().insert(HeaderName::from_static(name), value);
    response
}
