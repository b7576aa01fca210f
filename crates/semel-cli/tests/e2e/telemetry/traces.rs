//! Traces: what a collector is told of a request, its sending and its replay; and that nothing waits for it.

use std::fmt::Write as _;

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};

use super::collector::{Collector, text};
use crate::harness::{Act, Cut, Gateway, Origin, Request, Seen, gateway, get, post, send, until};

async fn start(origin: &Origin, telemetry: &str) -> Gateway {
    gateway(origin).config(&format!("[telemetry]\n{telemetry}\n[[route]]\npath = \"/orders/{{id}}\"\n")).start().await
}

/// Ends it as an operator does, so that it sends what is left.
async fn stop(mut gateway: Gateway) {
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0), "{}", gateway.log());
}

fn otlp(collector: &Collector) -> String {
    format!("otlp = \"http://{}\"", collector.addr)
}

/// A caller's place in a trace of its own.
fn traceparent(number: u32, flags: &str) -> String {
    format!("00-{number:032x}-{number:016x}-{flags}")
}

fn order(key: &str, number: u32) -> Request {
    post("/orders/7").key(key).header("traceparent", traceparent(number, "01")).header("tracestate", "vendor=x")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes it");
        text
    })
}

fn attribute(span: &Span, name: &str) -> String {
    text(&span.attributes, name).unwrap_or_default()
}

fn traceparent_of(seen: &Seen) -> &str {
    seen.header("traceparent").unwrap_or_default()
}

#[tokio::test]
async fn a_replay_leads_to_the_trace_of_the_first_request() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let gateway = start(&origin, &otlp(&collector)).await;
    assert_eq!(gateway.send(&order("nobody-sees-it", 1)).await.status, 201);
    let replay = gateway.send(&order("nobody-sees-it", 2)).await;
    assert_eq!(replay.header("idempotent-replayed"), Some("true"));
    // What no route covers has no span, and its trace passes by.
    gateway.send(&get("/elsewhere").header("traceparent", traceparent(3, "01"))).await;
    gateway.send(&get("/elsewhere")).await;
    let log = gateway.log();
    stop(gateway).await;

    let spans = collector.spans();
    let [first, sending, retry] = spans.as_slice() else { panic!("{spans:#?}") };
    assert_eq!((first.kind(), first.name.as_str()), (SpanKind::Server, "POST /orders/{id}"), "{first:#?}");
    assert_eq!((hex(&first.trace_id), hex(&first.parent_span_id)), (format!("{:032x}", 1), format!("{:016x}", 1)));
    assert_eq!(first.trace_state, "vendor=x");
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/orders/{id}"),
        ("http.response.status_code", "201"),
        ("semel.decision", "completed"),
        ("semel.attempt", "1"),
    ] {
        assert_eq!(attribute(first, name), value, "{name} in {first:#?}");
    }
    let exchange = attribute(first, "semel.exchange");
    assert!(log.contains(&format!("exchange={exchange}")), "{exchange} in {log}");
    assert!(first.links.is_empty(), "{first:#?}");

    assert_eq!((sending.kind(), &sending.parent_span_id), (SpanKind::Client, &first.span_id), "{sending:#?}");
    assert_eq!((&sending.trace_id, attribute(sending, "semel.exchange")), (&first.trace_id, exchange.clone()));
    assert_eq!(attribute(sending, "http.response.status_code"), "201");
    assert!(sending.start_time_unix_nano >= first.start_time_unix_nano, "{spans:#?}");
    assert!(sending.end_time_unix_nano <= first.end_time_unix_nano, "{spans:#?}");

    assert_eq!((retry.kind(), attribute(retry, "semel.decision").as_str()), (SpanKind::Server, "replay"), "{retry:#?}");
    assert_eq!(hex(&retry.trace_id), format!("{:032x}", 2));
    let [link] = retry.links.as_slice() else { panic!("{retry:#?}") };
    assert_eq!((&link.trace_id, &link.span_id), (&first.trace_id, &first.span_id), "{retry:#?}");
    assert_eq!(text(&link.attributes, "semel.exchange"), Some(exchange));
    assert!(!format!("{spans:?}").contains("nobody-sees-it"), "{spans:#?}");

    let seen = origin.seen();
    let told = format!("00-{}-{}-01", hex(&sending.trace_id), hex(&sending.span_id));
    assert_eq!((traceparent_of(&seen[0]), seen[0].header("tracestate")), (told.as_str(), Some("vendor=x")));
    assert_eq!(traceparent_of(&seen[1]), traceparent(3, "01"));
    assert_eq!(traceparent_of(&seen[2]), "");
}

#[tokio::test]
async fn an_execution_that_is_lost_is_an_error_in_its_trace() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let gateway = start(&origin, &otlp(&collector)).await;
    origin.next(Act::cut(Cut::AfterExecuting));
    assert_eq!(gateway.send(&order("lost", 1)).await.status, 502);
    // Without a trace of its own a request begins one.
    gateway.send(&post("/orders/7").key("lost")).await;
    stop(gateway).await;
    let spans = collector.spans();
    let [first, sending, retry] = spans.as_slice() else { panic!("{spans:#?}") };
    for (span, error) in [(first, "lost"), (sending, "lost"), (retry, "")] {
        assert_eq!(attribute(span, "error.type"), error, "{span:#?}");
        let is_error = span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
        assert_eq!(is_error, !error.is_empty(), "{span:#?}");
    }
    assert_eq!(attribute(retry, "semel.decision"), "outcome-unknown");
    assert!(retry.parent_span_id.is_empty() && retry.trace_id != first.trace_id, "{retry:#?}");
    assert_eq!(retry.links.len(), 1, "{retry:#?}");
}

/// Whoever comes with a trace has decided; of the others `telemetry.sample` are traced.
#[tokio::test]
async fn what_is_not_sampled_is_not_told_and_the_origin_knows() {
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let gateway = start(&origin, &format!("{}\nsample = 0.0", otlp(&collector))).await;
    gateway.send(&post("/orders/7").key("a").header("traceparent", traceparent(1, "00"))).await;
    gateway.send(&post("/orders/7").key("b")).await;
    gateway.send(&order("c", 3)).await;
    stop(gateway).await;
    let seen = origin.seen();
    assert!(traceparent_of(&seen[0]).starts_with(&format!("00-{:032x}-", 1)), "{seen:?}");
    for (seen, flags) in seen.iter().zip(["-00", "-00", "-01"]) {
        assert!(traceparent_of(seen).ends_with(flags), "{seen:?}");
    }
    let spans = collector.spans();
    assert!(spans.len() == 2 && spans.iter().all(|span| hex(&span.trace_id) == format!("{:032x}", 3)), "{spans:#?}");
}

#[tokio::test]
async fn a_collector_that_is_not_there_holds_up_nobody() {
    let origin = Origin::start().await;
    let gone = Collector::start().await.addr;
    let gateway = start(&origin, &format!("otlp = \"http://{gone}\"")).await;
    for n in 0..3 {
        assert_eq!(gateway.send(&order(&n.to_string(), 1)).await.status, 201);
        let failed = format!("semel_spans_total{{outcome=\"failed\"}} {}", (n + 1) * 2);
        until("spans fail", async || send(gateway.admin, &get("/metrics")).await.text().contains(&failed)).await;
    }
    assert_eq!(gateway.log().matches("the collector does not take spans").count(), 1, "{}", gateway.log());
    stop(gateway).await;
}

#[tokio::test]
async fn without_a_collector_a_trace_passes_by() {
    let origin = Origin::start().await;
    let gateway = start(&origin, "").await;
    gateway.send(&order("a", 1)).await;
    assert_eq!(traceparent_of(&origin.seen()[0]), traceparent(1, "01"));
    stop(gateway).await;
}
