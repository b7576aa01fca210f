//! Asks the service itself what became of a request whose outcome is unknown, where its route says how.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header, request::Parts};
use semel_core::{
    admit::Covered,
    exchange::Probed,
    key::KeyRule,
    policy::{ProbeRule, ReplyRule, RoutePolicy, Shown},
    record::Kept,
};
use tower::Service;

use crate::{
    body::{Body, BoxError},
    effect::{Lost, NotSent},
    reply::{self, Content},
};

/// How a service can tell a probe from a client's request.
const USER_AGENT: HeaderValue = HeaderValue::from_static("semel-probe");

/// A probe that has not begun.
pub(crate) type Probing = Pin<Box<dyn Future<Output = Probed> + Send>>;

/// The probe of a request, to be awaited at most once; `None` where its route has none. `head` is the request's.
pub(crate) fn probing<S, R>(covered: &Covered, head: &Parts, inner: &S) -> Option<Probing>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    R::Error: Into<BoxError>,
{
    let rule = covered.route.probe.as_ref()?;
    // A key that cannot be in a path is nothing that the origin could be asked about.
    let target = covered.probe.as_ref().and_then(|target| target.parse::<Uri>().ok());
    let Some(target) = target else { return Some(Box::pin(async { Probed::Undecided })) };
    let mut question = Request::new(Body::empty());
    *question.method_mut() = Method::GET;
    *question.uri_mut() = target;
    let key = match &covered.route.key {
        KeyRule::Header { name, .. } => Some(name),
        KeyRule::Member { .. } | KeyRule::Operation => None,
    };
    let headers = question.headers_mut();
    // Who asks is whatever the origin takes for it: a cookie, an organisation beside a token, a signature. One that is left
    // out makes the caller a stranger, and what strangers are told (404, say) must not count as "it did not happen".
    for (name, value) in &head.headers {
        if Some(name) != key && !is_about_the_write(name) {
            headers.append(name, value.clone());
        }
    }
    if let Some(Ok(host)) = head.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str())) {
        headers.insert(header::HOST, host);
    }
    headers.insert(header::USER_AGENT, USER_AGENT);
    // As of what is kept otherwise (conformance H31).
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let (route, rule, inner) = (Arc::clone(&covered.route), rule.clone(), inner.clone());
    Some(Box::pin(ask(inner, question, route, rule)))
}

/// Whether a header is about the request that was sent, and would be wrong or dangerous on a question about it. Headers of
/// the connection that are named by `Connection` are left to whoever forwards the question.
fn is_about_the_write(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("content-") || name.ends_with("-digest") || name.starts_with("if-") || OF_THE_WRITE.contains(&name)
}

const OF_THE_WRITE: &[&str] = &[
    // Its framing and its connection (RFC 9110 sections 7.6.1 and 10.1.1).
    "transfer-encoding",
    "trailer",
    "te",
    "expect",
    "upgrade",
    // Which part of an answer it wants, and whether it waits for one (RFC 9110 section 14.2, RFC 7240).
    "range",
    "prefer",
    "digest",
    // These make a write of a GET.
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    // These ask for an effect, or to pass over a refusal.
    "idempotency-key",
    "guard-override",
    "repeatability-first-sent",
    "repeatability-request-id",
];

async fn ask<S, R>(mut inner: S, question: Request<Body>, route: Arc<RoutePolicy>, rule: ProbeRule) -> Probed
where
    S: Service<Request<Body>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    R::Error: Into<BoxError>,
{
    if poll_fn(|cx| inner.poll_ready(cx)).await.is_err() {
        return Probed::Undecided;
    }
    let Ok(response) = inner.call(question).await else { return Probed::Undecided };
    let (parts, mut body) = response.into_parts();
    if parts.extensions.get::<NotSent>().is_some() || parts.extensions.get::<Lost>().is_some() {
        return Probed::Undecided;
    }
    match rule.shown_by_status(parts.status.as_u16()) {
        Shown::Undecided => return Probed::Undecided,
        Shown::Absent => return Probed::Absent,
        Shown::Found => {}
    }
    let status = rule.status.unwrap_or(parts.status);
    let omitted = Kept::Omitted { status: status.as_u16() };
    let content = match reply::read(&mut body, route.reply_body_bytes_max).await {
        Ok(Content::Whole { content, .. }) => content,
        Ok(Content::Larger { .. }) if rule.member.is_none() => return Probed::Found(omitted),
        Ok(Content::Larger { .. }) | Err(_) => return Probed::Undecided,
    };
    match (rule.shown_by_content(&content), route.reply) {
        (Shown::Undecided, _) => Probed::Undecided,
        (Shown::Absent, _) => Probed::Absent,
        (Shown::Found, ReplyRule::Omitted) => Probed::Found(omitted),
        (Shown::Found, ReplyRule::Kept) => {
            let reply = match rule.kept_of(&content) {
                None => reply::keep(&route, status, &parts.headers, content),
                // Everything else in the header section is about the whole.
                Some(part) => {
                    let mut headers = HeaderMap::new();
                    if let Some(content_type) = parts.headers.get(header::CONTENT_TYPE) {
                        headers.insert(header::CONTENT_TYPE, content_type.clone());
                    }
                    reply::keep(&route, status, &headers, content.slice_ref(part))
                }
            };
            Probed::Found(Kept::Reply(Arc::new(reply)))
        }
    }
}
