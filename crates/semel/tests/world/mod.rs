//! A handler behind the layer, with a memory store and a clock that the test owns.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by tests of which none needs all; a panic says what failed"
)]

use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use semel::{
    Body, Semel,
    core::{
        policy::{Policy, PolicyDocument, Preset, RouteSettings},
        scope::Secret,
    },
    store::{SimulatedClock, Store, memory::MemoryStore},
    testkit::{Fault, FaultyStore},
};
use tower::{Layer, Service, ServiceExt, service_fn};

/// A policy from TOML, over the preset `ietf`.
pub fn policy(defaults: &str) -> Policy {
    let settings: RouteSettings = toml::from_str(defaults).unwrap();
    PolicyDocument { defaults: Some(toml::Spanned::new(0..0, settings)), ..PolicyDocument::default() }.build().unwrap()
}

/// A handler behind the layer.
pub struct World {
    pub semel: Semel,
    pub store: Arc<MemoryStore>,
    pub clock: Arc<SimulatedClock>,
    /// How often the handler began.
    pub effects: Arc<AtomicUsize>,
}

impl World {
    pub fn new(defaults: &str) -> World {
        World::with(policy(defaults), |memory| memory)
    }

    /// A route whose service is asked about unknown outcomes.
    pub fn probing() -> World {
        let route = "path = \"/charges\"\non_unknown = \"probe\"\n[probe]\npath = \"/charges/{key}\"";
        let settings: RouteSettings = toml::from_str(route).unwrap();
        let routes = vec![toml::Spanned::new(0..0, settings)];
        World::with(PolicyDocument { routes, ..PolicyDocument::default() }.build().unwrap(), |memory| memory)
    }

    /// Under a preset.
    pub fn preset(preset: Preset) -> World {
        World::with(Policy::preset(preset), |memory| memory)
    }

    /// With faults between the layer and its store.
    pub fn faulty(defaults: &str, script: impl IntoIterator<Item = Fault>) -> World {
        World::with(policy(defaults), |memory| Arc::new(FaultyStore::new(memory).script(script)))
    }

    /// On a store of the test's own.
    pub fn on(store: Arc<dyn Store>) -> World {
        World::with(policy(""), |_| store)
    }

    /// Under a policy, with something between the layer and its store.
    pub fn with(policy: Policy, wrap: impl FnOnce(Arc<MemoryStore>) -> Arc<dyn Store>) -> World {
        let clock = Arc::new(SimulatedClock::at(1_000_000));
        let store = Arc::new(MemoryStore::with_clock(clock.clone()));
        let semel = Semel::new(policy, Secret::from_bytes([7; 32]), wrap(store.clone()));
        World { semel, store, clock, effects: Arc::default() }
    }

    /// Sends a request to a handler that counts itself and then does what `handler` does.
    pub async fn send<H, F>(&self, request: Request<Body>, handler: H) -> Seen
    where
        H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let response = self.service(handler).oneshot(request).await.unwrap();
        Seen::of(response).await
    }

    pub fn service<H, F>(
        &self,
        handler: H,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + use<H, F>
    where
        H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let effects = Arc::clone(&self.effects);
        self.semel.layer().layer(service_fn(move |request| {
            effects.fetch_add(1, Ordering::SeqCst);
            let response = handler(request);
            async move { Ok::<_, Infallible>(response.await) }
        }))
    }

    pub fn effects(&self) -> usize {
        self.effects.load(Ordering::SeqCst)
    }
}

/// A response, read whole.
#[derive(Debug)]
pub struct Seen {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub content: Bytes,
}

impl Seen {
    pub async fn of(response: Response<Body>) -> Seen {
        let (parts, body) = response.into_parts();
        Seen { status: parts.status, headers: parts.headers, content: body.collect().await.unwrap().to_bytes() }
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let json: serde_json::Value = serde_json::from_slice(&self.content).unwrap();
        json["code"].as_str().unwrap().to_owned()
    }
    #[track_caller]
    pub fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.code().as_str()), (status, code), "{self:?}");
    }
    #[track_caller]
    pub fn assert_replay_of(&self, content: &str) {
        assert_eq!(self.header("idempotent-replayed"), Some("true"), "{self:?}");
        assert_eq!(self.content, content.as_bytes());
    }
}

pub fn post(key: &str) -> Request<Body> {
    post_with(key, Body::full("{\"amount\":100}"))
}

pub fn post_with(key: &str, body: Body) -> Request<Body> {
    Request::post("http://h/charges").header("idempotency-key", key).body(body).unwrap()
}

#[allow(clippy::unused_async, reason = "handlers are async")]
pub async fn created(_: Request<Body>) -> Response<Body> {
    Response::builder().status(201).header("location", "/charges/1").body(Body::full("charged")).unwrap()
}

pub fn status(
    code: u16,
) -> impl Fn(Request<Body>) -> std::future::Ready<Response<Body>> + Clone + Send + Sync + 'static {
    move |_| std::future::ready(Response::builder().status(code).body(Body::full("says the origin")).unwrap())
}
