//! A scripted API, a clock that stands still, and dice that always fall the same way.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use parking_lot::Mutex;
use semel_client::{Client, Intent, IntentBuilder, Journal, Preset, SendFailure, Surroundings};
use tempfile::TempDir;
use tokio::sync::Notify;

/// What the API does with the next request.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// It answers.
    Answer(u16, &'static [(&'static str, &'static str)], String),
    /// It answers, and the content breaks off.
    BreakOff(u16),
    /// It takes the request, and the connection is reset.
    Reset,
    /// No connection is made.
    Refuse,
    /// It never answers.
    Hang,
    /// It tells that it has the request, and answers when it is told to.
    Gate(Arc<Notify>, Arc<Notify>, u16),
}

pub(crate) fn answer(status: u16, content: &str) -> Step {
    Step::Answer(status, &[], content.to_owned())
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) key: Option<String>,
    pub(crate) content: Bytes,
    pub(crate) headers: http::HeaderMap,
}

/// The API as a service. It panics when more is asked of it than was scripted.
#[derive(Clone, Default)]
pub(crate) struct Api(Arc<Mutex<Scripted>>);

#[derive(Default)]
struct Scripted {
    steps: VecDeque<Step>,
    seen: Vec<Seen>,
    published: Option<&'static str>,
    asked_for_policy: usize,
    before: Option<Box<dyn Fn() + Send>>,
}

#[derive(Debug)]
pub(crate) enum Lost {
    NotSent,
    MaybeSent,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl SendFailure for Lost {
    fn is_not_sent(&self) -> bool {
        matches!(self, Lost::NotSent)
    }
}

type Content = UnsyncBoxBody<Bytes, std::io::Error>;

impl Api {
    pub(crate) fn script(steps: impl IntoIterator<Item = Step>) -> Api {
        let api = Api::default();
        api.then(steps);
        api
    }

    pub(crate) fn then(&self, steps: impl IntoIterator<Item = Step>) {
        self.0.lock().steps.extend(steps);
    }

    pub(crate) fn publish(&self, policy: &'static str) {
        self.0.lock().published = Some(policy);
    }

    /// To run when a request arrives.
    pub(crate) fn before(&self, run: impl Fn() + Send + 'static) {
        self.0.lock().before = Some(Box::new(run));
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.lock().seen.clone()
    }

    pub(crate) fn attempts(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.method == Method::POST).collect()
    }

    pub(crate) fn asked_for_policy(&self) -> usize {
        self.0.lock().asked_for_policy
    }

    /// All that was scripted was asked for.
    pub(crate) fn is_done(&self) -> bool {
        self.0.lock().steps.is_empty()
    }
}

fn full(content: impl Into<Bytes>) -> Content {
    Full::new(content.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

impl tower::Service<Request<Bytes>> for Api {
    type Response = Response<Content>;
    type Error = Lost;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Lost>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let mut scripted = self.0.lock();
        let path = request.uri().path().to_owned();
        if path == "/.well-known/idempotency" {
            scripted.asked_for_policy += 1;
            assert!(!request.headers().contains_key("x-api-key"), "the policy is public");
            let (status, content) = scripted.published.map_or((404, ""), |policy| (200, policy));
            let response = Response::builder().status(status).body(full(content)).unwrap();
            return Box::pin(async { Ok(response) });
        }
        if let Some(before) = &scripted.before {
            before();
        }
        let key = request.headers().get("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
        scripted.seen.push(Seen {
            method: request.method().clone(),
            path,
            key,
            content: request.body().clone(),
            headers: request.headers().clone(),
        });
        let step = scripted.steps.pop_front().expect("more requests than were scripted");
        Box::pin(async move {
            let build = |status: u16, content| Response::builder().status(status).body(content).unwrap();
            match step {
                Step::Answer(status, headers, content) => {
                    let mut response = build(status, full(content));
                    for (name, value) in headers {
                        response.headers_mut().insert(*name, value.parse().unwrap());
                    }
                    Ok(response)
                }
                Step::BreakOff(status) => {
                    let frames = [
                        Ok(http_body::Frame::data(Bytes::from_static(b"{\"succ"))),
                        Err(std::io::Error::other("reset")),
                    ];
                    Ok(build(status, StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()))
                }
                Step::Reset => Err(Lost::MaybeSent),
                Step::Refuse => Err(Lost::NotSent),
                Step::Hang => std::future::pending().await,
                Step::Gate(there, go, status) => {
                    there.notify_one();
                    go.notified().await;
                    Ok(build(status, full("{}")))
                }
            }
        })
    }
}

/// A clock that moves only when somebody sleeps, and dice that fall on the least or the most.
#[derive(Clone)]
pub(crate) struct Still(Arc<Mutex<Moment>>);

struct Moment {
    now_ms: u64,
    slept_ms: Vec<u64>,
    high: bool,
    oversleep_ms: u64,
}

pub(crate) const START_MS: u64 = 1_750_000_000_000;

impl Still {
    pub(crate) fn new() -> Still {
        Still(Arc::new(Mutex::new(Moment { now_ms: START_MS, slept_ms: Vec::new(), high: true, oversleep_ms: 0 })))
    }

    pub(crate) fn low() -> Still {
        let still = Still::new();
        still.0.lock().high = false;
        still
    }

    /// Every sleep lasts that much longer than asked for.
    pub(crate) fn oversleep_ms(&self, ms: u64) {
        self.0.lock().oversleep_ms = ms;
    }

    pub(crate) fn advance_ms(&self, ms: u64) {
        self.0.lock().now_ms += ms;
    }

    pub(crate) fn slept_ms(&self) -> Vec<u64> {
        self.0.lock().slept_ms.clone()
    }
}

impl Surroundings for Still {
    fn now_ms(&self) -> u64 {
        self.0.lock().now_ms
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        // Only who waits lets time pass.
        Box::pin(async move {
            let ms = u64::try_from(duration.as_millis()).unwrap();
            let mut moment = self.0.lock();
            moment.now_ms += ms + moment.oversleep_ms;
            moment.slept_ms.push(ms);
        })
    }

    fn draw(&self, at_least: u64, at_most: u64) -> u64 {
        if self.0.lock().high { at_most } else { at_least }
    }
}

/// An API, a journal, a clock.
pub(crate) struct World {
    pub(crate) api: Api,
    pub(crate) folder: TempDir,
    pub(crate) still: Still,
}

impl World {
    pub(crate) fn of(steps: impl IntoIterator<Item = Step>) -> World {
        World { api: Api::script(steps), folder: TempDir::new().unwrap(), still: Still::new() }
    }

    pub(crate) fn journal(&self) -> Journal {
        Journal::open_with(self.folder.path(), &self.still).unwrap()
    }

    pub(crate) fn client(&self) -> Client<Api> {
        self.client_on(self.journal())
    }

    pub(crate) fn client_on(&self, journal: Journal) -> Client<Api> {
        Client::new(self.api.clone(), journal)
            .surroundings(self.still.clone())
            .secret_header("X-API-Key", "yonne_live_1234")
            .unwrap()
    }
}

pub(crate) fn payment() -> IntentBuilder {
    Intent::post("https://api.example/payments").operation("payment-7").json(r#"{"amount": 7}"#)
}

pub(crate) fn yonne() -> IntentBuilder {
    Intent::post("https://api.example/api/v1/external/create-order")
        .preset(Preset::Yonne)
        .operation("order-7")
        .json(r#"{"delivery_fee": 7350, "merchant_reference_id": "WEB-7"}"#)
}

pub(crate) const ORDER: &str = "11111111-1111-4111-8111-111111111111";

pub(crate) fn etherfuse() -> IntentBuilder {
    Intent::post("https://api.example/ramp/order")
        .preset(Preset::Etherfuse)
        .operation("ramp-7")
        .json(format!(r#"{{"orderId":"{ORDER}","quoteId":"q-1"}}"#))
}

pub(crate) const YONNE_OK: &str = r#"{"success":true,"order_id":"ORD-1","tracking_id":"YON-TRK-1"}"#;
