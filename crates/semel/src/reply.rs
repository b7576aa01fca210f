//! Between HTTP messages and what is kept of them.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use semel_core::{
    policy::{Policy, RoutePolicy},
    record::Reply,
    wire::{self, Problem, ProblemType},
};

use crate::{
    body::{Body, BoxError},
    effect::Replayed,
};

/// Fields that belong to one connection (RFC 9110 section 7.6.1); `Content-Length` is derived from the content.
const NEVER_KEPT: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
];

/// How a content was read.
#[derive(Debug)]
pub(crate) enum Content {
    /// All of it.
    Whole { content: Bytes, trailers: Option<HeaderMap> },
    /// It is larger than the limit; the rest is still to come.
    Larger { prefix: Bytes },
}

/// Reads a content up to `bytes_max`.
pub(crate) async fn read<B>(body: &mut B, bytes_max: usize) -> Result<Content, BoxError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut first = Bytes::new();
    let mut more: Option<BytesMut> = None;
    let mut trailers: Option<HeaderMap> = None;
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        match frame.map_err(Into::into)?.into_data() {
            Ok(data) if first.is_empty() => first = data,
            // Most contents are one frame, and that one is not copied.
            Ok(data) => more.get_or_insert_with(|| BytesMut::from(first.as_ref())).extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
        if more.as_ref().map_or(first.len(), BytesMut::len) > bytes_max {
            return Ok(Content::Larger { prefix: more.map_or(first, BytesMut::freeze) });
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(Content::Whole { content: more.map_or(first, BytesMut::freeze), trailers })
}

/// What is kept of a response: status, header fields less those of one connection and those the route leaves out.
pub(crate) fn keep(route: &RoutePolicy, status: StatusCode, headers: &HeaderMap, content: Bytes) -> Reply {
    let named: Vec<&str> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let is_kept = |name: &HeaderName| {
        !NEVER_KEPT.contains(name)
            && !route.headers_omitted.contains(name)
            && !named.iter().any(|named| named.eq_ignore_ascii_case(name.as_str()))
    };
    let headers = headers
        .iter()
        .filter(|(name, _)| is_kept(name))
        .map(|(name, value)| (name_bytes(name), Bytes::copy_from_slice(value.as_bytes())))
        .collect();
    Reply { status: status.as_u16(), headers, content }
}

/// What is kept of a response that an operator gives.
pub(crate) fn given(route: &RoutePolicy, reply: Reply) -> Reply {
    let mut headers = HeaderMap::new();
    for (name, value) in reply.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&name), HeaderValue::from_maybe_shared(value)) {
            headers.append(name, value);
        }
    }
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    keep(route, status, &headers, reply.content)
}

fn name_bytes(name: &HeaderName) -> Bytes {
    Bytes::copy_from_slice(name.as_str().as_bytes())
}

/// The response that replays a kept reply.
pub(crate) fn replay(route: &RoutePolicy, reply: &Reply) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in &reply.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_maybe_shared(value.clone())) {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert(route.marker.clone(), HeaderValue::from_static("true"));
    response.extensions_mut().insert(Replayed);
    let content = match &route.replay_member {
        Some(member) if is_json(response.headers()) => {
            wire::with_member(&reply.content, member).map_or_else(|| reply.content.clone(), Bytes::from)
        }
        Some(_) | None => reply.content.clone(),
    };
    *response.body_mut() = Body::full(content);
    response
}

/// Whether the content is JSON that is not compressed.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    (media_type == "application/json" || media_type.ends_with("+json"))
        && headers.get_all(header::CONTENT_ENCODING).iter().all(|coding| coding == "identity")
}

/// The response that tells a problem (RFC 9457, draft section 2.7), with the route's status for it or the type's own.
pub fn problem(policy: &Policy, route: Option<&RoutePolicy>, problem: &Problem) -> Response<Body> {
    let status = route.map_or(problem.kind.default_status(), |route| route.status_of(problem.kind));
    let mut response = problem_with_status(policy, status, problem);
    if let Some((content, content_type)) = route.and_then(|route| route.words_for(problem)) {
        let content_type = HeaderValue::try_from(content_type);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static("text/plain")));
        response.headers_mut().insert(wire::IDEMPOTENCY_PROBLEM, HeaderValue::from_static(problem.kind.code()));
        *response.body_mut() = Body::full(content);
    }
    response
}

/// The same with a status that neither the route nor the type has.
pub fn problem_with_status(policy: &Policy, status: StatusCode, problem: &Problem) -> Response<Body> {
    let mut response = Response::new(Body::full(problem.to_json(status)));
    *response.status_mut() = status;
    response.extensions_mut().insert(problem.kind);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static("en"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Draft section 2.7: the Link header points at the documentation of the resource.
    if let Ok(link) = HeaderValue::try_from(format!("<{}>; rel=\"describedby\"", policy.describedby(problem))) {
        headers.insert(header::LINK, link);
    }
    if let Some(Ok(location)) = problem.resource.as_ref().map(HeaderValue::try_from) {
        headers.insert(header::LOCATION, location);
    }
    if let Some(seconds) = problem.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if problem.kind == ProblemType::TooLate {
        headers.insert(wire::REPEATABILITY_RESULT, HeaderValue::from_static("rejected"));
    }
    response
}
