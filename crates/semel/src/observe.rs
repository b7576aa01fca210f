//! Watches responses for what they show of guards and slots: that an order is no longer pending, that a signature is dead.
//!
//! What is shown is acted upon before the response is passed on, so that whoever has read it can rely on it. The response
//! itself is passed on byte for byte, whatever becomes of the release.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use http_body::Body as _;
use http_body_util::BodyExt;
use semel_core::{
    policy::Policy,
    register::Swap,
    release::{Verdict, Watch},
    scope::Secret,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    body::Body,
    layer::head,
    reply,
    store::{Found, RecordKey, Store, StoreError, Swapped},
};

/// How long a watched response may be held back: to read its content, and to release what it shows.
const WATCH_MAX: Duration = Duration::from_secs(2);

/// What the response to one request is watched for.
#[derive(Debug)]
pub(crate) struct Watched {
    watches: Vec<Watch>,
    began: Instant,
}

/// The two things that a release asks of a store.
#[async_trait]
pub(crate) trait Releasing: Sync {
    async fn load(&self, key: RecordKey) -> Result<Option<Found>, StoreError>;
    /// Deletes what bears the stamp of `found`; whoever was faster is right.
    async fn delete(&self, key: RecordKey, found: &Found) -> Result<Swapped, StoreError>;
}

#[async_trait]
impl Releasing for Arc<dyn Store> {
    async fn load(&self, key: RecordKey) -> Result<Option<Found>, StoreError> {
        Store::load(&**self, &key).await
    }
    async fn delete(&self, key: RecordKey, found: &Found) -> Result<Swapped, StoreError> {
        (**self).swap(&key, &Swap { expect: Some(found.stamp), put: None }).await
    }
}

impl Watched {
    /// `None` for a request whose response can show nothing. To be asked before the request is sent on.
    pub(crate) fn of(policy: &Policy, secret: &Secret, parts: &mut Parts) -> Option<Watched> {
        let watches = policy.watches(secret, &head(parts));
        if watches.is_empty() {
            return None;
        }
        // What cannot be read shows nothing, and most clients accept compressed contents.
        parts.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Some(Watched { watches, began: Instant::now() })
    }

    /// Passes a response on, after releasing what it shows.
    pub(crate) async fn pass_on(self, store: &dyn Releasing, response: Response<Body>) -> Response<Body> {
        let bytes_max = self.watches.iter().map(|watch| watch.route().reply_body_bytes_max).max().unwrap_or(0);
        let (parts, body) = response.into_parts();
        if !can_show(parts.status, &parts.headers) || body.size_hint().lower() > bytes_max as u64 {
            return Response::from_parts(parts, body);
        }
        let until = Instant::now() + WATCH_MAX;
        let (body, content) = read(body, bytes_max, until).await;
        for watch in self.watches.iter().filter(|watch| content.as_ref().is_some_and(|c| watch.is_shown_by(c))) {
            let released = timeout_at(until, release(store, watch, self.began)).await;
            let error = match released {
                Ok(Ok(None)) => continue,
                Ok(Ok(Some(what))) => {
                    tracing::info!(target: "semel::guard", route = watch.route().name(), "{what} was released");
                    continue;
                }
                Ok(Err(error)) => error,
                Err(_elapsed) => StoreError::TimedOut(WATCH_MAX),
            };
            tracing::warn!(target: "semel::guard", route = watch.route().name(), %error, "a release failed");
        }
        Response::from_parts(parts, body)
    }
}

/// Whether the content is that of the resource as a whole, and legible.
fn can_show(status: StatusCode, headers: &http::HeaderMap) -> bool {
    status.is_success() && status != StatusCode::PARTIAL_CONTENT && reply::is_json(headers)
}

/// Releases what is shown, and says what that was.
async fn release(store: &dyn Releasing, watch: &Watch, began: Instant) -> Result<Option<&'static str>, StoreError> {
    let Some(owner) = store.load(watch.owner()).await? else { return Ok(None) };
    let (swapped, what) = match watch.judge(&owner, began.elapsed()) {
        Verdict::Nothing => return Ok(None),
        Verdict::Slot => (store.delete(watch.owner(), &owner).await?, "a slot"),
        Verdict::Guard(key) => {
            let Some(guard) = store.load(key).await?.filter(|guard| watch.holds(guard)) else { return Ok(None) };
            // The owner again, after its guard: a new life of the owner would have stamped the guard anew before this.
            if store.load(watch.owner()).await?.is_none_or(|again| again.stamp != owner.stamp) {
                return Ok(None);
            }
            (store.delete(key, &guard).await?, "a guard")
        }
    };
    Ok((swapped == Swapped::Done).then_some(what))
}

/// Reads a content up to `bytes_max` and `until`. The body that comes back is the one that went in, byte for byte; the
/// content is there if that is all of it.
async fn read(mut body: Body, bytes_max: usize, until: Instant) -> (Body, Option<Bytes>) {
    let mut content = BytesMut::new();
    let mut trailers = None;
    while !body.is_end_stream() {
        let frame = match timeout_at(until, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(error))) => return (Body::broken(content.freeze(), error), None),
            Err(_elapsed) => return (Body::prefixed(content.freeze(), body), None),
        };
        match frame.into_data() {
            Ok(data) => content.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
        if content.len() > bytes_max {
            return (Body::prefixed(content.freeze(), body), None);
        }
    }
    let content = content.freeze();
    (Body::with_trailers(content.clone(), trailers), Some(content))
}
