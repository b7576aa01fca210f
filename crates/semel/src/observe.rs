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
    record::ExchangeId,
    register::Swap,
    release::{Verdict, Watch},
    scope::{Caller, Secret},
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

/// What came of a release.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Released {
    /// The guard of this owner is free.
    Guard(Owner),
    /// The slot that this owner filled is free.
    Slot(Owner),
    /// Nothing.
    Nothing(Unreleased),
}

/// Whose guard or slot was released.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The name of its route.
    pub route: String,
    /// Its exchange, as logs name it.
    pub exchange: ExchangeId,
    /// Its record.
    pub record: RecordKey,
}

/// Why nothing was released; of several reasons the last of these is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Unreleased {
    /// No route has a release for such a request.
    NotWatched,
    /// There is no such record of this caller.
    NoRecord,
    /// The record is over and holds no guard.
    NoGuard,
    /// Another record holds the guard.
    HeldByAnother,
    /// Record or guard changed at that moment; whoever was faster is right.
    Changed,
    /// The request may still execute, or what shows that it is over is older than its record.
    NotOver,
}

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
    pub(crate) fn of(policy: &Policy, secret: &Secret, parts: &mut Parts, caller: Option<&Caller>) -> Option<Watched> {
        let watches = policy.watches(secret, &head(parts, caller));
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
            let judge = |owner: &Found| watch.judge(owner, self.began.elapsed());
            let released = timeout_at(until, release(store, watch, judge)).await;
            let error = match released {
                Ok(Ok(Released::Nothing(_))) => continue,
                Ok(Ok(Released::Guard(owner))) => {
                    tracing::info!(target: "semel::guard", route = owner.route, "a guard was released");
                    continue;
                }
                Ok(Ok(Released::Slot(owner))) => {
                    tracing::info!(target: "semel::guard", route = owner.route, "a slot was released");
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

/// Releases the first of these that an operator may release.
pub(crate) async fn release_by_operator(store: &dyn Releasing, watches: &[Watch]) -> Result<Released, StoreError> {
    let mut why = Unreleased::NotWatched;
    for watch in watches {
        match release(store, watch, |owner| watch.judge_by_operator(owner)).await? {
            Released::Nothing(other) => why = why.max(other),
            done @ (Released::Guard(_) | Released::Slot(_)) => return Ok(done),
        }
    }
    Ok(Released::Nothing(why))
}

/// Releases what `judge` says of the owner, and says what that was.
async fn release(
    store: &dyn Releasing,
    watch: &Watch,
    judge: impl Fn(&Found) -> Verdict + Send,
) -> Result<Released, StoreError> {
    let nothing = |why| Ok(Released::Nothing(why));
    let Some(owner) = store.load(watch.owner()).await? else { return nothing(Unreleased::NoRecord) };
    let (swapped, what): (_, fn(Owner) -> Released) = match judge(&owner) {
        Verdict::NotOver => return nothing(Unreleased::NotOver),
        Verdict::NoGuard => return nothing(Unreleased::NoGuard),
        Verdict::Slot => (store.delete(watch.owner(), &owner).await?, Released::Slot),
        Verdict::Guard(key) => {
            let Some(guard) = store.load(key).await? else { return nothing(Unreleased::NoGuard) };
            if !watch.holds(&guard) {
                return nothing(Unreleased::HeldByAnother);
            }
            // The owner again, after its guard: a new life of the owner would have stamped the guard anew before this.
            if store.load(watch.owner()).await?.is_none_or(|again| again.stamp != owner.stamp) {
                return nothing(Unreleased::Changed);
            }
            (store.delete(key, &guard).await?, Released::Guard)
        }
    };
    match swapped {
        Swapped::Done => {
            let (route, exchange) = (watch.route().name().to_owned(), owner.stamp.exchange);
            Ok(what(Owner { route, exchange, record: watch.owner() }))
        }
        Swapped::Found(_) | Swapped::Absent => nothing(Unreleased::Changed),
    }
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

#[cfg(test)]
mod tests {
    use http::Request;
    use parking_lot::Mutex;
    use semel_core::{
        fingerprint::Fingerprint,
        policy::{Policy, PolicyDocument, RouteSettings},
        record::{Phase, Record, Stamp},
    };

    use super::*;

    /// Answers loads with these, in order, and remembers what it was to delete.
    #[derive(Default)]
    struct Scripted {
        loads: Mutex<Vec<Option<Found>>>,
        deleted: Mutex<Vec<(RecordKey, Stamp)>>,
    }

    #[async_trait]
    impl Releasing for Scripted {
        async fn load(&self, _: RecordKey) -> Result<Option<Found>, StoreError> {
            Ok(self.loads.lock().remove(0))
        }
        async fn delete(&self, key: RecordKey, found: &Found) -> Result<Swapped, StoreError> {
            self.deleted.lock().push((key, found.stamp));
            Ok(Swapped::Done)
        }
    }

    fn policy() -> Policy {
        let route: RouteSettings = toml::from_str(
            r#"
            path = "/orders"
            methods = ["POST"]
            key = "member"
            key_member = "/id"
            key_presence = "required"
            guard = { name = "one", values = ["/account"] }
            release = [{ path = "/orders/{key}", member = "/status", held_while = ["created"] }]
            "#,
        )
        .unwrap();
        PolicyDocument { routes: vec![toml::Spanned::new(0..0, route)], ..PolicyDocument::default() }.build().unwrap()
    }

    const HOUR: Duration = Duration::from_hours(1);
    const GUARD: RecordKey = RecordKey::from_bytes([9; RecordKey::LEN]);

    #[allow(clippy::unnecessary_wraps, reason = "stands beside what is not there")]
    fn found(write: u16, phase: Phase, guard: Option<RecordKey>) -> Option<Found> {
        let stamp = Stamp { exchange: ExchangeId(1), write };
        let fingerprint = Fingerprint::from_bytes([1; Fingerprint::LEN]);
        let record = Record { fingerprint, attempt: 1, phase, retention: Duration::from_hours(1), guard, about: None };
        Some(Found { stamp, age: Duration::from_mins(1), abandoned: false, record })
    }

    /// The owner is looked at before and after its guard, since a guard is only its owner's while that one lives this life.
    #[tokio::test]
    async fn e11_a_guard_is_released_only_while_its_owner_is_the_one_that_was_shown() {
        let (mut parts, ()) = Request::get("http://h/orders/a").body(()).unwrap().into_parts();
        let secret = Secret::from_bytes([7; 32]);
        let watched = Watched::of(&policy(), &secret, &mut parts, None).unwrap();
        let watch = &watched.watches[0];
        let held = |owner| found(2, Phase::Held { owner, resource: None }, None);
        let mine = || held(watch.owner());
        let owner = |write| found(write, Phase::Unknown, Some(GUARD));
        let table = [
            ("as it was", vec![owner(1), mine(), owner(1)], None),
            ("another life", vec![owner(1), mine(), owner(3)], Some(Unreleased::Changed)),
            ("gone meanwhile", vec![owner(1), mine(), None], Some(Unreleased::Changed)),
            ("another holds it", vec![owner(1), held(GUARD)], Some(Unreleased::HeldByAnother)),
            ("nobody holds it", vec![owner(1), None], Some(Unreleased::NoGuard)),
            ("no guard", vec![found(1, Phase::Unknown, None)], Some(Unreleased::NoGuard)),
            ("running", vec![found(1, Phase::InFlight { lease: HOUR }, Some(GUARD))], Some(Unreleased::NotOver)),
            ("a guard under that name", vec![held(GUARD)], Some(Unreleased::NotOver)),
            ("never was", vec![None], Some(Unreleased::NoRecord)),
        ];
        for (why, loads, unreleased) in table {
            for by_operator in [false, true] {
                let store = Scripted { loads: Mutex::new(loads.clone()), ..Scripted::default() };
                let what = if by_operator {
                    release_by_operator(&store, &watched.watches).await.unwrap()
                } else {
                    release(&store, watch, |owner| watch.judge(owner, watched.began.elapsed())).await.unwrap()
                };
                let freed = Released::Guard(Owner {
                    route: "/orders".to_owned(),
                    exchange: ExchangeId(1),
                    record: watch.owner(),
                });
                assert_eq!(what, unreleased.map_or(freed, Released::Nothing), "{why}");
                let expected = unreleased.is_none().then_some((GUARD, Stamp { exchange: ExchangeId(1), write: 2 }));
                assert_eq!(*store.deleted.lock(), expected.into_iter().collect::<Vec<_>>(), "{why}");
                assert!(store.loads.lock().is_empty(), "{why}");
            }
        }
    }
}
