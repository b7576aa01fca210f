//! The forwarder: carries one request to the origin at most once, and says what it knows of what became of it.
//!
//! RFC 9110 section 9.2.2: a proxy must not repeat a request that is not idempotent. Nothing here is sent again once a
//! byte of it may have left; [`NotSent`] is said only with proof, by the connection that would have carried it.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, TRANSFER_ENCODING},
};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use semel::{
    Body, BoxError,
    effect::{Lost, NotSent},
};
use semel_core::{
    policy::Policy,
    wire::{Problem, ProblemType},
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::{Instant, Sleep},
};
use tokio_util::task::TaskTracker;

use super::{
    headers::{self, Peer, Unforwardable, Wish},
    pool::{Age, Connection, Pool, Socket},
    reload::CurrentTerms,
    traces,
};

/// A response up to this size that is there when its header section is, is passed on in one piece.
const AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// Forwards the requests of one client connection.
#[derive(Clone, Debug)]
pub(crate) struct Forwarder(Arc<Bound>);

#[derive(Debug)]
struct Bound {
    shared: Arc<Shared>,
    peer: Peer,
}

#[derive(Debug)]
struct Shared {
    pool: Pool,
    terms: CurrentTerms,
    /// Where connections that left HTTP are counted, so that draining waits for them.
    tunnels: TaskTracker,
    host: HeaderValue,
}

/// What all connections of a thread have in common.
#[derive(Clone, Debug)]
pub(crate) struct Forwarding(Arc<Shared>);

impl Forwarding {
    /// To the origin of `pool`; draining waits for `tunnels`.
    pub(crate) fn new(pool: Pool, terms: CurrentTerms, tunnels: TaskTracker) -> Forwarding {
        let host = pool.origin().host_header();
        Forwarding(Arc::new(Shared { pool, terms, tunnels, host }))
    }

    /// The forwarder for a client.
    pub(crate) fn of(&self, peer: Peer) -> Forwarder {
        Forwarder(Arc::new(Bound { shared: Arc::clone(&self.0), peer }))
    }
}

impl tower::Service<Request<Body>> for Forwarder {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Bound { shared, peer } = &*self.0;
        let rule = shared.terms.load().gateway.host;
        let wish = headers::prepare_request(&mut request, peer, rule, &shared.host);
        let sending = traces::send(&mut request);
        // The layer reads the content of what it covers, and only of that.
        let patience = if request.body().as_full().is_some() { Patience::Layer } else { Patience::Forwarder };
        frame_explicitly(&mut request);
        match (wish, patience) {
            (Wish::Upgrade, Patience::Forwarder) => {
                let bound = Arc::clone(&self.0);
                return Box::pin(async move { Ok(bound.shared.told(bound.shared.upgrade(request).await)) });
            }
            // A kept reply cannot be another protocol: the origin is not asked for one.
            (Wish::Upgrade, Patience::Layer) => headers::strip_upgrade(request.headers_mut()),
            (Wish::Http, Patience::Layer | Patience::Forwarder) => {}
        }
        let forwarding = forward(Arc::clone(&self.0), request, patience);
        match sending {
            None => Box::pin(async move { Ok(forwarding.await) }),
            Some(sending) => Box::pin(async move {
                let response = forwarding.await;
                sending.answered(&response);
                Ok(response)
            }),
        }
    }
}

/// Why there is no response of the origin.
#[derive(Debug)]
enum Failure {
    /// Not a byte of it left.
    NotSent(BoxError),
    /// Some of it may have arrived.
    Lost(BoxError),
    /// The origin was silent for too long after some of it had left.
    Silent,
    /// The client's content broke off or could not be read, after some of it had left.
    Client(BoxError),
}

/// Who limits how long an exchange takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Patience {
    /// The layer, by `execution_max`.
    Layer,
    /// The forwarder, by `response_header_max`.
    Forwarder,
}

// This and two below are plain functions that return one block each, because an `async fn` keeps its arguments twice and
// every request would carry, and allocate, kilobytes.
#[expect(clippy::manual_async_fn, reason = "see above")]
fn forward(
    bound: Arc<Bound>,
    mut request: Request<Body>,
    patience: Patience,
) -> impl Future<Output = Response<Body>> + Send {
    async move {
        let shared = &bound.shared;
        let permit = match shared.pool.permit().await {
            Ok(permit) => permit,
            Err(error) => return shared.told(Err(Failure::NotSent(error.into()))),
        };
        loop {
            let (mut connection, age) = match shared.pool.take().await {
                Ok(taken) => taken,
                Err(error) => return shared.told(Err(Failure::NotSent(error.into()))),
            };
            match shared.exchange(&mut connection, request, patience).await {
                Ok(response) => return shared.told(shared.answer(connection, response, permit).await),
                // Handed back by hyper before it was written. A fresh connection would do it again.
                Err(Unanswered::Unsent(back, error)) => match age {
                    Age::Reused => request = *back,
                    Age::Fresh => return shared.told(Err(Failure::NotSent(error))),
                },
                Err(Unanswered::Failed(failure)) => return shared.told(Err(failure)),
            }
        }
    }
}

impl Shared {
    fn told(&self, outcome: Result<Response<Body>, Failure>) -> Response<Body> {
        outcome.unwrap_or_else(|failure| failure.into_response(self.terms.load().semel.policy()))
    }

    /// How long the origin may be silent before its response begins. Covered requests have their own limit in the layer.
    fn response_header_max(&self) -> Duration {
        self.terms.load().gateway.response_header_max
    }

    /// Sends a request and waits for the header section of its response.
    fn exchange(
        &self,
        connection: &mut Connection,
        request: Request<Body>,
        patience: Patience,
    ) -> impl Future<Output = Result<Response<Incoming>, Unanswered>> + Send {
        let Connection { sender, driver, socket, timer, .. } = connection;
        let (socket, limit) = (&*socket, self.response_header_max());
        let written_before = socket.written();
        let mut response = Box::pin(sender.try_send_request(request));
        async move {
            let mut silence = pin!(Silence::new(patience, limit, socket, timer));
            let outcome = poll_fn(|cx| {
                // The driver first: it writes the request and reads what the other future waits for.
                let _ended = driver.poll(cx);
                if let Poll::Ready(outcome) = response.as_mut().poll(cx) {
                    return Poll::Ready(Ok(outcome));
                }
                silence.as_mut().poll(cx).map(Err)
            })
            .await;
            let mut error = match outcome {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => error,
                Err(Silent) => return Err(Unanswered::Failed(Failure::Silent)),
            };
            Err(match error.take_message() {
                Some(request) => Unanswered::Unsent(Box::new(request), error.into_error().into()),
                // Whatever left of it, its client has sent something that is not HTTP, or has gone.
                None if error.error().is_user() => Unanswered::Failed(Failure::Client(error.into_error().into())),
                // hyper may have encoded it, but the kernel has taken nothing.
                None if socket.has_sent_nothing_since(written_before) => {
                    Unanswered::Failed(Failure::NotSent(error.into_error().into()))
                }
                None => Unanswered::Failed(Failure::Lost(error.into_error().into())),
            })
        }
    }

    /// Passes a response on: whole if it is already here, and as it arrives if not.
    fn answer(
        &self,
        mut connection: Box<Connection>,
        mut response: Response<Incoming>,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = Result<Response<Body>, Failure>> + Send {
        headers::prepare_response(&mut response);
        let (parts, mut incoming) = response.into_parts();
        async move {
            let body = match gather(&mut connection, &mut incoming).await {
                Gathered::Whole { content, trailers } => {
                    self.pool.put(connection);
                    Body::with_trailers(content, trailers)
                }
                Gathered::Part(prefix) => Body::prefixed(prefix, self.stream(connection, incoming, permit)),
                // Nothing of it was told yet, so the truth still can be.
                Gathered::Broken(error) => return Err(Failure::Lost(error)),
            };
            Ok(Response::from_parts(parts, body))
        }
    }

    /// Reads on in a task, so that a client that reads slowly does not keep the request from being written.
    fn stream(&self, mut connection: Box<Connection>, incoming: Incoming, permit: OwnedSemaphorePermit) -> Streamed {
        let (over, end) = oneshot::channel();
        let pool = self.pool.clone();
        tokio::spawn(async move {
            let mut end = pin!(end);
            let whole = poll_fn(|cx| {
                if connection.driver.poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                end.as_mut().poll(cx).map(|end| end.is_ok())
            });
            if whole.await {
                pool.put(connection);
            }
            drop(permit);
        });
        Streamed { incoming, over: Some(over) }
    }

    /// Forwards a request that may leave HTTP behind. Its connection is its own and never used again.
    async fn upgrade(&self, mut request: Request<Body>) -> Result<Response<Body>, Failure> {
        let permit = self.pool.permit().await.map_err(|error| Failure::NotSent(error.into()))?;
        let client = request.extensions_mut().remove::<OnUpgrade>();
        let Connection { mut sender, driver, socket, mut timer, .. } =
            *self.pool.connect().await.map_err(|error| Failure::NotSent(error.into()))?;
        let written_before = socket.written();
        tokio::spawn(async move {
            driver.run_with_upgrades().await;
            drop(permit);
        });
        let mut silence = pin!(Silence::new(Patience::Forwarder, self.response_header_max(), &socket, &mut timer));
        let mut answer = pin!(sender.try_send_request(request));
        let answer = poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Ok(answer)),
            Poll::Pending => silence.as_mut().poll(cx).map(Err),
        });
        let mut response = match answer.await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if socket.has_sent_nothing_since(written_before) => {
                return Err(Failure::NotSent(error.into_error().into()));
            }
            Ok(Err(error)) => return Err(Failure::Lost(error.into_error().into())),
            Err(Silent) => return Err(Failure::Silent),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client) = client else {
                return Err(Failure::Lost("the origin switched protocols on a connection that cannot".into()));
            };
            let origin = hyper::upgrade::on(&mut response);
            self.tunnels.spawn(async move {
                if let (Ok(client), Ok(origin)) = (client.await, origin.await) {
                    let (mut client, mut origin) = (TokioIo::new(client), TokioIo::new(origin));
                    let _ended = tokio::io::copy_bidirectional(&mut client, &mut origin).await;
                }
            });
        }
        headers::prepare_response(&mut response);
        // The sender goes with the content: dropping it earlier would close the connection under it.
        Ok(response.map(|incoming| Body::streaming(Held { incoming, _sender: sender })))
    }
}

/// Why a connection brought no response.
enum Unanswered {
    /// The request is here again and nothing of it was written.
    Unsent(Box<Request<Body>>, BoxError),
    /// It is not.
    Failed(Failure),
}

/// hyper takes GET and HEAD to have no content unless their framing says so.
fn frame_explicitly(request: &mut Request<Body>) {
    let by_itself = matches!(*request.method(), Method::GET | Method::HEAD);
    if by_itself && !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// The origin said nothing for too long.
#[derive(Debug)]
struct Silent;

/// Ends when for `limit` neither a response began nor a byte of the request was taken: a long upload is not silence. What
/// is taken is looked at only when the timer rings, so after an upload it may last up to twice as long.
struct Silence<'a> {
    limit: Option<Duration>,
    timer: &'a mut Pin<Box<Sleep>>,
    socket: &'a Socket,
    since: Instant,
    /// At the last look.
    written: Option<u64>,
}

impl<'a> Silence<'a> {
    fn new(patience: Patience, limit: Duration, socket: &'a Socket, timer: &'a mut Pin<Box<Sleep>>) -> Silence<'a> {
        let limit = match patience {
            Patience::Layer => None,
            Patience::Forwarder => Some(limit),
        };
        Silence { limit, timer, socket, since: Instant::now(), written: None }
    }
}

impl Future for Silence<'_> {
    type Output = Silent;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Silent> {
        let this = self.get_mut();
        let Some(limit) = this.limit else { return Poll::Pending };
        this.written.get_or_insert_with(|| this.socket.written());
        loop {
            ready!(this.timer.as_mut().poll(cx));
            let (now, written) = (Instant::now(), this.socket.written());
            if this.written.replace(written) != Some(written) {
                this.since = now;
            }
            if now >= this.since + limit {
                return Poll::Ready(Silent);
            }
            // It had been set by an earlier exchange, or there was progress.
            this.timer.as_mut().reset(this.since + limit);
        }
    }
}

/// How much of a response is here.
enum Gathered {
    /// All of it.
    Whole { content: Bytes, trailers: Option<HeaderMap> },
    /// The beginning.
    Part(Bytes),
    /// It broke off.
    Broken(BoxError),
}

/// Takes what has arrived, without waiting for more.
async fn gather(connection: &mut Connection, incoming: &mut Incoming) -> Gathered {
    let mut content = Content::default();
    let mut trailers = None;
    poll_fn(|cx| {
        // Whether the driver has been polled since the last frame was taken.
        let mut driven = Driven::No;
        loop {
            match Pin::new(&mut *incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    driven = Driven::No;
                    match frame.into_data() {
                        Ok(data) => content.push(data),
                        Err(frame) => trailers = frame.into_trailers().ok(),
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Gathered::Broken(error.into())),
                Poll::Ready(None) => {
                    // Once more, so that the connection notices that the exchange is over.
                    let _ended = connection.driver.poll(cx);
                    let content = std::mem::take(&mut content).freeze();
                    return Poll::Ready(Gathered::Whole { content, trailers: trailers.take() });
                }
                Poll::Pending => match driven {
                    Driven::No => {
                        let _ended = connection.driver.poll(cx);
                        driven = Driven::Yes;
                    }
                    // The rest is not here yet.
                    Driven::Yes => return Poll::Ready(Gathered::Part(std::mem::take(&mut content).freeze())),
                },
            }
            if content.len() > AT_ONCE_BYTES_MAX {
                return Poll::Ready(Gathered::Part(std::mem::take(&mut content).freeze()));
            }
        }
    })
    .await
}

enum Driven {
    No,
    Yes,
}

/// One piece as it came, or several joined.
#[derive(Default)]
struct Content {
    first: Bytes,
    joined: BytesMut,
}

impl Content {
    fn push(&mut self, data: Bytes) {
        if self.first.is_empty() && self.joined.is_empty() {
            self.first = data;
        } else {
            self.joined.extend_from_slice(&std::mem::take(&mut self.first));
            self.joined.extend_from_slice(&data);
        }
    }

    fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    fn freeze(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}

/// Content that arrives, and tells its connection's task when it was all.
struct Streamed {
    incoming: Incoming,
    over: Option<oneshot::Sender<()>>,
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if (frame.is_none() || self.incoming.is_end_stream())
            && let Some(over) = self.over.take()
        {
            let _listening = over.send(());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Content whose connection lives as long as it does.
struct Held {
    incoming: Incoming,
    _sender: hyper::client::conn::http1::SendRequest<Body>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Failure {
    fn into_response(self, policy: &Policy) -> Response<Body> {
        match self {
            Failure::NotSent(cause) => {
                tracing::warn!(target: "semel::forward", cause = %Chain(&*cause), "no connection to the origin; nothing was sent");
                let problem = Problem { retry_after: Some(1), ..Problem::new(ProblemType::OriginUnavailable) };
                let mut response = semel::problem(policy, None, &problem);
                response.extensions_mut().insert(NotSent);
                response
            }
            Failure::Lost(cause) => {
                tracing::warn!(target: "semel::forward", cause = %Chain(&*cause), "the connection was lost after the request left");
                let problem = Problem::new(ProblemType::OutcomeUnknown);
                let mut response = semel::problem_with_status(policy, StatusCode::BAD_GATEWAY, &problem);
                response.extensions_mut().insert(Lost);
                response
            }
            Failure::Client(cause) => {
                tracing::debug!(target: "semel::forward", cause = %Chain(&*cause), "a client's content broke off");
                let why = Unforwardable {
                    status: StatusCode::BAD_REQUEST,
                    detail: "The content broke off or its framing cannot be read. Some of it may have been forwarded.",
                };
                let mut response = why.into_response();
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                response.extensions_mut().insert(Lost);
                response
            }
            Failure::Silent => {
                tracing::warn!(target: "semel::forward", "the origin did not answer within response_header_max");
                let problem = Problem::new(ProblemType::OutcomeUnknown);
                let mut response = semel::problem_with_status(policy, StatusCode::GATEWAY_TIMEOUT, &problem);
                response.extensions_mut().insert(Lost);
                response
            }
        }
    }
}

/// An error and its causes in one line.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        config::Scheme,
        serve::{tests::terms, tls::Transport},
    };

    /// A forwarder that has had one exchange, whose origin then closed the connection: with a reset if it left bytes of
    /// the request unread.
    async fn after_one_exchange(read: Read) -> (Arc<Shared>, Box<Connection>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("an origin");
        let pool = Pool::new(address, Transport::Plain, 1, Duration::from_secs(4), Duration::from_secs(5));
        let Forwarding(shared) = Forwarding::new(pool.clone(), terms(), TaskTracker::new());
        let mut connection = pool.connect().await.expect("it accepts");
        let origin = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut last = stream.read_u8().await.expect("a request");
            while read == Read::All && last != b'!' {
                last = stream.read_u8().await.expect("a request");
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("the forwarder reads");
            stream
        };
        let (answer, stream) = tokio::join!(shared.exchange(&mut connection, request(), Patience::Layer), origin);
        let mut incoming = answer.ok().expect("an answer").into_body();
        assert!(matches!(gather(&mut connection, &mut incoming).await, Gathered::Whole { .. }));
        drop(stream);
        (shared, connection)
    }

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Read {
        Some,
        All,
    }

    fn request() -> Request<Body> {
        Request::post("/charges").header("host", "a").body(Body::full("1!")).expect("a request")
    }

    /// Allocators have a fast path for what is small (glibc's ends at 1032 bytes), and a request should take it.
    #[tokio::test]
    async fn a_forwarded_request_is_small() {
        let (shared, mut connection) = after_one_exchange(Read::All).await;
        let bound = Arc::new(Bound { shared, peer: Peer::new(([127, 0, 0, 1], 1).into(), Scheme::Http) });
        let exchange = size_of_val(&bound.shared.exchange(&mut connection, request(), Patience::Layer));
        let forwarded = size_of_val(&forward(bound, request(), Patience::Layer));
        assert!(forwarded <= 1_024, "{forwarded} bytes, {exchange} of them for the exchange");
    }

    /// What a second try on a fresh connection rests on.
    #[tokio::test]
    async fn hyper_hands_back_what_it_did_not_write() {
        let (shared, mut connection) = after_one_exchange(Read::All).await;
        poll_fn(|cx| connection.driver.poll(cx)).await;
        match shared.exchange(&mut connection, request(), Patience::Layer).await {
            Err(Unanswered::Unsent(request, _)) => assert_eq!(request.body().as_full(), Some(&b"1!"[..])),
            Err(Unanswered::Failed(failure)) => panic!("{failure:?}"),
            Ok(response) => panic!("{response:?}"),
        }
    }

    /// Hyper has taken the request, but the kernel refuses its first byte.
    #[tokio::test]
    async fn a_connection_that_takes_no_byte_has_sent_nothing() {
        let (shared, mut connection) = after_one_exchange(Read::Some).await;
        let written = connection.socket.written();
        match shared.exchange(&mut connection, request(), Patience::Layer).await {
            Err(Unanswered::Failed(Failure::NotSent(_)) | Unanswered::Unsent(..)) => {}
            Err(Unanswered::Failed(failure)) => panic!("{failure:?}"),
            Ok(response) => panic!("{response:?}"),
        }
        assert_eq!(connection.socket.written(), written);
    }
}
