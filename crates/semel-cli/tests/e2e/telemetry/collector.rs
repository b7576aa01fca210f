//! A collector of OpenTelemetry: takes spans by HTTP, and keeps them.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};

/// The collector. It stops when it is dropped.
#[derive(Debug)]
pub(super) struct Collector {
    /// Where it listens.
    pub(super) addr: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    accepting: JoinHandle<()>,
}

impl Collector {
    pub(super) async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("a bound port");
        let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
        let taken = Arc::clone(&spans);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let taken = Arc::clone(&taken);
                tokio::spawn(async move {
                    let service = service_fn(move |request| take(request, Arc::clone(&taken)));
                    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Collector { addr, spans, accepting }
    }

    /// The spans that have come, in the order of their beginnings.
    pub(super) fn spans(&self) -> Vec<Span> {
        let mut spans = self.spans.lock().unwrap().clone();
        spans.sort_by_key(|span| span.start_time_unix_nano);
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn take(
    request: Request<Incoming>,
    spans: Arc<Mutex<Vec<Span>>>,
) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    assert_eq!(request.uri().path(), "/v1/traces");
    let content = request.into_body().collect().await.expect("a whole request").to_bytes();
    let export = ExportTraceServiceRequest::decode(content).expect("spans in protobuf");
    for resource in export.resource_spans {
        let about = resource.resource.expect("a resource").attributes;
        assert_eq!(text(&about, "service.name").as_deref(), Some("semel"));
        spans.lock().unwrap().extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    Ok(Response::new(Full::new(ExportTraceServiceResponse::default().encode_to_vec().into())))
}

/// The value of an attribute.
pub(super) fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == name)?;
    Some(match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}
