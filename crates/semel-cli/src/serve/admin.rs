//! What operators ask: does the process live, can it serve, what does it promise; and what they release.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use semel::Body;
use semel_core::wire::POLICY_PATH;
use tokio::{net::TcpListener, sync::Semaphore};

use super::{
    console::{self, Console},
    listen::Closing,
    metrics::{METRICS_PATH, METRICS_TYPE, Metrics},
    operators::{
        Operators,
        api::{self, Api},
        token::Token,
    },
    reload::CurrentTerms,
};

/// How long the store may take to prove that it works.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// Connections of operators at once.
const CONNECTIONS_MAX: usize = 64;
/// How long one of them may take to send a header section.
const HEADER_READ_MAX: Duration = Duration::from_secs(10);

/// What the admin address answers from.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    /// Whose store is probed, and whose policy is told.
    pub terms: CurrentTerms,
    /// What operators see and do.
    pub operators: Operators,
    /// What operators show before they are told or do anything; without it nobody is.
    pub token: Option<Token>,
    /// Their web page.
    pub console: Arc<Console>,
    /// Begun when the process no longer accepts.
    pub closing: Closing,
    /// What is counted.
    pub metrics: Metrics,
}

impl Admin {
    /// Serves operators until the process ends: readiness has to be told while it drains, too.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let permit = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            let Ok((stream, from)) = listener.accept().await else {
                // Out of file descriptors: others close in the meantime.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let admin = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let admin = admin.clone();
                    async move { Ok::<_, Infallible>(admin.answer(request, from).await) }
                });
                let _ended = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_READ_MAX)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                drop(permit);
            });
        }
    }

    /// Who answers which path.
    async fn answer(&self, request: Request<Incoming>, from: SocketAddr) -> Response<Body> {
        match request.uri().path() {
            "/healthz" => reading(&request).unwrap_or_else(|| json(StatusCode::OK, "{\"status\":\"alive\"}\n")),
            "/readyz" => match reading(&request) {
                Some(refused) => refused,
                None => self.readiness().await,
            },
            POLICY_PATH => reading(&request).unwrap_or_else(|| published(&self.terms.load().document)),
            METRICS_PATH => reading(&request).unwrap_or_else(|| metrics(&self.metrics)),
            path if is_within(path, api::ROOT) => self.api().answer(request, from).await,
            path if is_within(path, console::CONSOLE_PATH) => self.console.answer(request, from).await,
            _ => json(
                StatusCode::NOT_FOUND,
                "{\"status\":\"here are /healthz, /readyz, /metrics, /.well-known/idempotency and, with a token, /v1 and \
                 /console\"}\n",
            ),
        }
    }

    fn api(&self) -> Api<'_> {
        Api { operators: &self.operators, token: self.token.as_ref() }
    }

    async fn readiness(&self) -> Response<Body> {
        if self.closing.has_begun() {
            return json(StatusCode::SERVICE_UNAVAILABLE, "{\"status\":\"draining\"}\n");
        }
        let store = Arc::clone(self.terms.load().semel.store());
        match tokio::time::timeout(PROBE_MAX, store.probe()).await {
            Ok(Ok(())) => json(StatusCode::OK, "{\"status\":\"ready\"}\n"),
            Ok(Err(error)) => {
                tracing::warn!(target: "semel::store", %error, "not ready: the store's probe failed");
                json(StatusCode::SERVICE_UNAVAILABLE, "{\"status\":\"the store does not work; see the log\"}\n")
            }
            Err(_) => {
                tracing::warn!(target: "semel::store", "not ready: the store's probe took over {PROBE_MAX:?}");
                json(StatusCode::SERVICE_UNAVAILABLE, "{\"status\":\"the store does not answer in time\"}\n")
            }
        }
    }
}

/// The refusal of a request that is not for reading.
fn reading(request: &Request<Incoming>) -> Option<Response<Body>> {
    if [Method::GET, Method::HEAD].contains(request.method()) {
        return None;
    }
    let mut response = json(StatusCode::METHOD_NOT_ALLOWED, "{\"status\":\"only GET and HEAD\"}\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    Some(response)
}

/// Whether a path is that one, or below it.
fn is_within(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The policy document as a response.
pub(crate) fn published(document: &Bytes) -> Response<Body> {
    let mut response = json(StatusCode::OK, "");
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
    *response.body_mut() = Body::full(document.clone());
    response
}

fn metrics(metrics: &Metrics) -> Response<Body> {
    let mut response = json(StatusCode::OK, metrics.page());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
    response
}

fn json(status: StatusCode, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(content));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
