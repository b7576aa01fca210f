//! Traces: a span for every request on a covered route and a child for each sending to the origin, told to a collector
//! of OpenTelemetry.
//!
//! A span is made whole when it ends: what it is about is known only then, and a request that no route covers has none.
//! Nothing waits for the collector: what it does not take in time is dropped.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use opentelemetry::{
    Context, InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{Link, SpanContext, SpanKind, Status, TraceContextExt as _, TraceState},
};
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision,
        ShouldSample as _, SpanData, SpanEvents, SpanExporter, SpanLinks, SpanProcessor as _,
    },
};
use semel::{
    Answered, ExecutionInfo, Met,
    effect::{Lost, NotSent},
};
use semel_core::wire::TRACEPARENT;

use crate::config::Telemetry;

/// How often spans are sent, unless there are many.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// How long the collector may take for them.
const SEND_MAX: Duration = Duration::from_secs(5);
/// Spans that wait at most; what ends beyond that is dropped.
const WAITING_SPANS_MAX: usize = 8_192;
/// Spans that are sent at once.
const BATCH_SPANS_MAX: usize = 512;
/// How long the last spans may take at the end of the process.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// Names the service, unless the resource is named by OpenTelemetry's own variables.
const SERVICE_NAME: &str = "semel";

/// Makes spans. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Traces(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    sampler: Sampler,
    tally: Arc<Tally>,
}

/// What became of spans.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    ended: AtomicU64,
    sent: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    /// How many ended, were taken by the collector, and were not; the others wait, or were dropped.
    pub(crate) fn read(&self) -> [(&'static str, u64); 3] {
        [("ended", &self.ended), ("sent", &self.sent), ("failed", &self.failed)]
            .map(|(name, count)| (name, count.load(Relaxed)))
    }
}

impl Traces {
    /// Starts sending, if it is configured. Not to be called on a thread that serves.
    pub(crate) fn start(telemetry: &Telemetry) -> anyhow::Result<Option<Traces>> {
        let Some(collector) = &telemetry.otlp else { return Ok(None) };
        // The exporter's HTTP client takes the process's provider of cryptography.
        let _there_already = rustls::crypto::ring::default_provider().install_default();
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(collector.traces())
            .with_timeout(SEND_MAX)
            .build()
            .with_context(|| format!("telemetry.otlp = \"{collector}\""))?;
        let tally = Arc::new(Tally::default());
        let exporter = Telling {
            exporter,
            collector: collector.to_string(),
            tally: Arc::clone(&tally),
            fails: AtomicBool::new(false),
        };
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(WAITING_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(SEND_EVERY);
        let mut processor = BatchSpanProcessor::new(exporter, config.build());
        processor.set_resource(&resource());
        let scope = InstrumentationScope::builder(SERVICE_NAME).with_version(env!("CARGO_PKG_VERSION")).build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(telemetry.sample)));
        Ok(Some(Traces(Arc::new(Shared { processor, scope, sampler, tally }))))
    }

    /// What became of spans so far.
    pub(crate) fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.0.tally)
    }

    /// Sends what is left, within [`FLUSH_MAX`].
    pub(crate) fn finish(&self) {
        if let Err(error) = self.0.processor.shutdown_with_timeout(FLUSH_MAX) {
            tracing::warn!(target: "semel::telemetry", %error, "the last spans were not sent");
        }
    }

    /// Begins the span of a request, which from here on says that it is part of it.
    pub(crate) fn receive<B>(&self, request: &mut Request<B>) -> Receiving {
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Fields(request.headers()));
        let caller = parent.span().span_context().clone();
        let ids = RandomIdGenerator::default();
        let trace_id = if caller.is_valid() { caller.trace_id() } else { ids.new_trace_id() };
        let sampled = self.0.sampler.should_sample(Some(&parent), trace_id, "", &SpanKind::Server, &[], &[]);
        let flags = match sampled.decision {
            SamplingDecision::RecordAndSample => TraceFlags::SAMPLED,
            SamplingDecision::Drop | SamplingDecision::RecordOnly => TraceFlags::NOT_SAMPLED,
        };
        let own = SpanContext::new(trace_id, ids.new_span_id(), flags, false, caller.trace_state().clone());
        let came_with = request.headers_mut().insert(TRACEPARENT, traceparent(&own));
        let received = Arc::new(Received {
            traces: self.clone(),
            caller,
            own,
            came_with,
            method: request.method().clone(),
            began: Began::now(),
            executed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        request.extensions_mut().insert(Arc::clone(&received));
        Receiving(received)
    }

    fn end(&self, span: Span<'_>) {
        let Span { context, parent, kind, name, began, attributes, link, status } = span;
        if !context.is_sampled() {
            return;
        }
        let mut links = SpanLinks::default();
        links.links.extend(link);
        self.0.tally.ended.fetch_add(1, Relaxed);
        self.0.processor.on_end(SpanData {
            span_context: context.clone(),
            parent_span_id: parent.span_id(),
            parent_span_is_remote: parent.is_remote(),
            span_kind: kind,
            name,
            start_time: began.at,
            end_time: began.at + began.since.elapsed(),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status,
            instrumentation_scope: self.0.scope.clone(),
        });
    }
}

/// A span that ends now.
struct Span<'a> {
    context: &'a SpanContext,
    parent: &'a SpanContext,
    kind: SpanKind,
    name: Cow<'static, str>,
    began: Began,
    attributes: Vec<KeyValue>,
    link: Option<Link>,
    status: Status,
}

/// By both clocks: one to tell, one to measure with.
#[derive(Clone, Copy, Debug)]
struct Began {
    at: SystemTime,
    since: Instant,
}

impl Began {
    fn now() -> Began {
        Began { at: SystemTime::now(), since: Instant::now() }
    }
}

/// A request that has arrived: an extension of it, too.
#[derive(Debug)]
struct Received {
    traces: Traces,
    /// What the client said.
    caller: SpanContext,
    /// This gateway's span.
    own: SpanContext,
    /// The client's field, for where the gateway's span is none of the origin's business.
    came_with: Option<HeaderValue>,
    method: Method,
    began: Began,
    /// Whether it was on its way to the origin, and so on a covered route.
    executed: AtomicBool,
    ended: AtomicBool,
}

/// The span of a request whose answer is not known yet.
#[derive(Debug)]
pub(crate) struct Receiving(Arc<Received>);

impl Receiving {
    /// Ends the span, if a route covers the request.
    pub(crate) fn answered<B>(self, response: &Response<B>) {
        let received = &self.0;
        received.ended.store(true, Relaxed);
        if let Some(answered) = response.extensions().get::<Answered>() {
            received.end(Some(answered), Some(response.status().as_u16()));
        }
    }
}

impl Received {
    fn end(&self, answered: Option<&Answered>, status: Option<u16>) {
        let mut attributes = vec![KeyValue::new("http.request.method", self.method.to_string())];
        let mut name = self.method.to_string();
        let mut link = None;
        if let Some(answered) = answered {
            let route = answered.route.name();
            name = format!("{name} {route}");
            attributes.push(KeyValue::new("http.route", route.to_owned()));
            attributes.push(KeyValue::new("semel.decision", answered.decision));
            if let Some(exchange) = &answered.exchange {
                attributes.push(KeyValue::new("semel.exchange", exchange.id.to_string()));
                if exchange.attempt > 0 {
                    attributes.push(KeyValue::new("semel.attempt", i64::from(exchange.attempt)));
                }
                link = exchange.met.as_ref().and_then(link_to);
            }
        }
        let mut error = answered.is_none().then_some("client-gone");
        if let Some(status) = status {
            attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
            error = error.or_else(|| answered.map(|answered| answered.decision).filter(|_| status >= 500));
        }
        self.traces.end(Span {
            context: &self.own,
            parent: &self.caller,
            kind: SpanKind::Server,
            name: name.into(),
            began: self.began,
            attributes: with_error(attributes, error),
            link,
            status: status_of(error),
        });
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // The client left while it was executed.
        if !*self.ended.get_mut() && *self.executed.get_mut() {
            self.end(None, None);
        }
    }
}

/// The span of the exchange whose record was found, which may be of another trace.
fn link_to(met: &Met) -> Option<Link> {
    let trace = met.trace?;
    let (trace_id, span_id) = (TraceId::from(trace.trace_id), SpanId::from(trace.span_id));
    let context = SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, true, TraceState::NONE);
    Some(Link::new(context, vec![KeyValue::new("semel.exchange", met.exchange.to_string())], 0))
}

fn with_error(mut attributes: Vec<KeyValue>, error: Option<&'static str>) -> Vec<KeyValue> {
    attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
    attributes
}

fn status_of(error: Option<&'static str>) -> Status {
    error.map_or(Status::Unset, Status::error)
}

/// The span of one sending to the origin, which ends when it is dropped, at the latest.
#[derive(Debug)]
pub(crate) struct Sending {
    received: Arc<Received>,
    own: SpanContext,
    method: Method,
    info: ExecutionInfo,
    began: Began,
    came: Came,
}

/// What came of a sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Came {
    /// Nothing, before it was given up.
    GivenUp,
    Lost,
    NotSent,
    Response(u16),
}

/// Begins the span of sending an execution, of which the origin is told. What no route covers is sent as it came.
pub(crate) fn send<B>(request: &mut Request<B>) -> Option<Sending> {
    let received = request.extensions_mut().remove::<Arc<Received>>()?;
    let Some(info) = request.extensions().get::<ExecutionInfo>().copied() else {
        match &received.came_with {
            Some(field) => request.headers_mut().insert(TRACEPARENT, field.clone()),
            None => request.headers_mut().remove(TRACEPARENT),
        };
        return None;
    };
    received.executed.store(true, Relaxed);
    let parent = &received.own;
    let span_id = RandomIdGenerator::default().new_span_id();
    let own = SpanContext::new(parent.trace_id(), span_id, parent.trace_flags(), false, parent.trace_state().clone());
    request.headers_mut().insert(TRACEPARENT, traceparent(&own));
    let method = request.method().clone();
    Some(Sending { received, own, method, info, began: Began::now(), came: Came::GivenUp })
}

impl Sending {
    /// Ends the span: this is what came of it.
    pub(crate) fn answered<B>(mut self, response: &Response<B>) {
        self.came = if response.extensions().get::<NotSent>().is_some() {
            Came::NotSent
        } else if response.extensions().get::<Lost>().is_some() {
            Came::Lost
        } else {
            Came::Response(response.status().as_u16())
        };
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut attributes = vec![
            KeyValue::new("http.request.method", self.method.to_string()),
            KeyValue::new("semel.exchange", self.info.exchange.to_string()),
            KeyValue::new("semel.attempt", i64::from(self.info.attempt)),
        ];
        let error = match self.came {
            Came::GivenUp => Some("timeout"),
            Came::Lost => Some("lost"),
            Came::NotSent => Some("not-sent"),
            Came::Response(status) => {
                attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
                (status >= 400).then_some(if status >= 500 { "5xx" } else { "4xx" })
            }
        };
        self.received.traces.end(Span {
            context: &self.own,
            parent: &self.received.own,
            kind: SpanKind::Client,
            name: self.method.to_string().into(),
            began: self.began,
            attributes: with_error(attributes, error),
            link: None,
            status: status_of(error),
        });
    }
}

/// The field by which the next one takes this span for its parent (W3C Trace Context section 3.2).
fn traceparent(context: &SpanContext) -> HeaderValue {
    let flags = context.trace_flags().to_u8();
    let text = format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id());
    HeaderValue::from_str(&text).expect("hexadecimal digits and hyphens")
}

/// Header fields as OpenTelemetry reads them.
struct Fields<'a>(&'a HeaderMap);

impl Extractor for Fields<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// Who tells: the release, and what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say.
fn resource() -> Resource {
    let resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => resource.build(),
        None => resource.with_service_name(SERVICE_NAME).build(),
    }
}

/// An exporter that says once that it fails, and once that it does no more.
#[derive(Debug)]
struct Telling<E> {
    exporter: E,
    collector: String,
    tally: Arc<Tally>,
    fails: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Telling<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let outcome = self.exporter.export(batch).await;
        let collector = &self.collector;
        match &outcome {
            Ok(()) => {
                self.tally.sent.fetch_add(count, Relaxed);
                if self.fails.swap(false, Relaxed) {
                    tracing::info!(target: "semel::telemetry", %collector, "the collector takes spans again");
                }
            }
            Err(error) => {
                self.tally.failed.fetch_add(count, Relaxed);
                if !self.fails.swap(true, Relaxed) {
                    tracing::warn!(
                        target: "semel::telemetry",
                        %collector,
                        %error,
                        "the collector does not take spans: they are dropped until it does"
                    );
                }
            }
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
