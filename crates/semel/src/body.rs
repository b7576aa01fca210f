//! The content of requests and responses as they pass through the layer: buffered where it is kept, streamed where not.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

/// Whatever went wrong in somebody else's body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's or response's content.
#[derive(Debug)]
pub struct Body(Inner);

enum Inner {
    Full { content: Option<Bytes>, trailers: Option<HeaderMap> },
    Streaming { prefix: Option<Bytes>, rest: Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>> },
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Inner::Full { content, .. } => write!(f, "Full({} bytes)", content.as_ref().map_or(0, Bytes::len)),
            Inner::Streaming { .. } => f.write_str("Streaming"),
        }
    }
}

impl Body {
    /// No content.
    pub fn empty() -> Body {
        Body(Inner::Full { content: None, trailers: None })
    }

    /// Content that is all here.
    pub fn full(content: impl Into<Bytes>) -> Body {
        Body::with_trailers(content.into(), None)
    }

    /// Content that is all here, and the trailer fields after it.
    pub fn with_trailers(content: Bytes, trailers: Option<HeaderMap>) -> Body {
        Body(Inner::Full { content: Some(content).filter(|content| !content.is_empty()), trailers })
    }

    /// Content that arrives while it is passed on, byte for byte, trailers included.
    pub fn streaming<B>(body: B) -> Body
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Body::prefixed(Bytes::new(), body)
    }

    /// A part that was read already, and the rest as it arrives.
    pub fn prefixed<B>(prefix: Bytes, rest: B) -> Body
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
        // One of ours stays what it is: it needs no second box, and content that is all here keeps its length.
        let mut rest = Some(rest);
        if prefix.is_none()
            && let Some(ours) = (&mut rest as &mut dyn std::any::Any).downcast_mut::<Option<Body>>()
        {
            return ours.take().expect("it was just put there");
        }
        let rest = rest.expect("it was just put there");
        Body(Inner::Streaming { prefix, rest: Box::pin(http_body_util::BodyExt::map_err(rest, Into::into)) })
    }

    /// A part that was read already, and why there is no more.
    pub(crate) fn broken(prefix: Bytes, error: BoxError) -> Body {
        let error: Result<Frame<Bytes>, BoxError> = Err(error);
        Body::prefixed(prefix, http_body_util::StreamBody::new(futures_util::stream::iter([error])))
    }

    /// The content, if it is all here.
    pub fn as_full(&self) -> Option<&[u8]> {
        match &self.0 {
            Inner::Full { content, .. } => Some(content.as_deref().unwrap_or_default()),
            Inner::Streaming { .. } => None,
        }
    }
}

impl Default for Body {
    fn default() -> Body {
        Body::empty()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().0 {
            Inner::Full { content, trailers } => {
                let frame = content.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(frame.map(Ok))
            }
            Inner::Streaming { prefix, rest } => match prefix.take() {
                Some(prefix) => Poll::Ready(Some(Ok(Frame::data(prefix)))),
                None => rest.as_mut().poll_frame(cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Full { content, trailers } => content.is_none() && trailers.is_none(),
            Inner::Streaming { prefix, rest } => prefix.is_none() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            // A message with a Content-Length has no trailer section (RFC 9112 section 7.1.2), so no length is promised.
            Inner::Full { content, trailers: Some(_) } => {
                let mut hint = SizeHint::new();
                hint.set_lower(content.as_ref().map_or(0, Bytes::len) as u64);
                hint
            }
            Inner::Full { content, trailers: None } => {
                SizeHint::with_exact(content.as_ref().map_or(0, Bytes::len) as u64)
            }
            Inner::Streaming { prefix, rest } => {
                let ahead = prefix.as_ref().map_or(0, Bytes::len) as u64;
                let mut hint = SizeHint::new();
                hint.set_lower(rest.size_hint().lower() + ahead);
                if let Some(upper) = rest.size_hint().upper() {
                    hint.set_upper(upper + ahead);
                }
                hint
            }
        }
    }
}
