//! Stands in for the layer until it is there: everything passes through unprotected.

use std::{convert::Infallible, sync::Arc, task::{Context, Poll}, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use semel::{Body, BoxError};
use semel_core::{policy::Policy, scope::Secret};

#[derive(Clone, Debug)]
pub(crate) struct Semel {
    policy: Arc<Policy>,
}

impl Semel {
    pub(crate) fn new(policy: Policy, _secret: Secret) -> Semel {
        Semel { policy: Arc::new(policy) }
    }
    pub(crate) fn layer(&self) -> IdempotencyLayer {
        IdempotencyLayer
    }
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }
    pub(crate) async fn housekeeping(&self) {
        std::future::pending().await
    }
    pub(crate) async fn drain(&self, _at_most: Duration) -> usize {
        std::future::ready(0).await
    }
    pub(crate) fn running(&self) -> usize {
        0
    }
}

#[derive(Clone, Debug)]
pub(crate) struct IdempotencyLayer;

impl<S> tower::Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;
    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency(inner)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Idempotency<S>(S);

impl<S, B> tower::Service<Request<B>> for Idempotency<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = S::Future;
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }
    fn call(&mut self, request: Request<B>) -> S::Future {
        self.0.call(request.map(Body::streaming))
    }
}
