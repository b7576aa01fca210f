//! Client connections: accepted by one thread, dealt round to the threads that serve them.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use arc_swap::Guard;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body::{Frame, SizeHint};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use semel::{Body, BoxError};
use semel_core::wire::POLICY_PATH;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Layer as _, Service as _};

use super::{
    admin,
    cors::Cors,
    forward::{Forwarder, Forwarding},
    framing::{Ambiguous, Watched},
    headers::{self, Peer},
    reload::{CurrentTerms, Terms},
    tls::{AgreedH2, ClientSubject, Incoming as ByTls},
    traces::{Receiving, Traces},
};
use crate::config::{PublishPolicy, Scheme};

/// A client connection on its way from the acceptor to the thread that serves it.
#[derive(Debug)]
pub(crate) struct Accepted {
    stream: std::net::TcpStream,
    address: SocketAddr,
    permit: OwnedSemaphorePermit,
}

/// What the connections of one thread are served with.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    /// What they are served by.
    pub terms: CurrentTerms,
    /// The way to the origin.
    pub forwarding: Forwarding,
    /// How they begin, if by TLS.
    pub tls: Option<ByTls>,
    /// Says when to finish.
    pub closing: Closing,
    /// Knows which connections are open.
    pub connections: TaskTracker,
    /// Follows requests, if anybody does.
    pub traces: Option<Traces>,
}

/// Accepts until told to close, and hands each connection to the next of `threads`.
pub(crate) async fn accept(
    listener: TcpListener,
    connections_max: usize,
    threads: Vec<tokio::sync::mpsc::UnboundedSender<Accepted>>,
    closing: Closing,
) {
    let slots = Arc::new(Semaphore::new(connections_max));
    let mut next = threads.iter().cycle();
    let mut closed = pin!(closing.begun());
    loop {
        // A slot first: past the limit clients wait in the kernel's queue.
        let one = async {
            let permit = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            biased;
            () = &mut closed => return,
            one = one => one,
        };
        match accepted.and_then(|(stream, address)| Ok((stream.into_std()?, address))) {
            Ok((stream, address)) => {
                let thread = next.next().expect("there is at least one thread");
                // A thread that is gone took the process with it.
                let _gone = thread.send(Accepted { stream, address, permit });
            }
            Err(error) => {
                tracing::warn!(target: "semel::serve", %error, "cannot accept a connection");
                if !is_of_one_connection(&error) {
                    // Out of file descriptors: others close in the meantime.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Serving {
    /// Serves one connection to its end, in a task of its own.
    pub(crate) fn spawn(&self, accepted: Accepted) {
        let serving = self.clone();
        self.connections.spawn(async move {
            let Accepted { stream, address, permit } = accepted;
            if let Err(error) = serving.serve(stream, address).await {
                tracing::debug!(target: "semel::serve", %error, "a client connection ended early");
            }
            drop(permit);
        });
    }

    async fn serve(&self, stream: std::net::TcpStream, address: SocketAddr) -> Result<(), BoxError> {
        let stream = TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        let header_read_max = self.terms.load().gateway.header_read_max;
        let Some(tls) = &self.tls else {
            let protocol = tokio::select! {
                protocol = tokio::time::timeout(header_read_max, protocol(&stream)) => match protocol {
                    Ok(protocol) => protocol?,
                    Err(_) => return Ok(()),
                },
                () = self.closing.begun() => return Ok(()),
            };
            return self.speak(protocol, stream, Peer::new(address, Scheme::Http), None, header_read_max).await;
        };
        let met = tokio::select! {
            met = tls.meet(stream) => met?,
            () = self.closing.begun() => return Ok(()),
        };
        let Some(met) = met else { return Ok(()) };
        let protocol = match met.agreed_h2 {
            AgreedH2::Yes => Protocol::Http2,
            AgreedH2::No => Protocol::Http1,
        };
        let peer = Peer::new(address, Scheme::Https);
        self.speak(protocol, Box::new(met.stream), peer, met.subject, header_read_max).await
    }

    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        protocol: Protocol,
        stream: S,
        peer: Peer,
        subject: Option<ClientSubject>,
        header_read_max: Duration,
    ) -> Result<(), BoxError> {
        let ambiguous = Ambiguous::none();
        let activity = Arc::new(Activity::default());
        let front = Front {
            terms: self.terms.clone(),
            forwarder: self.forwarding.of(peer),
            subject,
            ambiguous: ambiguous.clone(),
            activity: Arc::clone(&activity),
            traces: self.traces.clone(),
        };
        match protocol {
            Protocol::Http1 => {
                let connection = http1::Builder::new()
                    .serve_connection(TokioIo::new(Watched::new(stream, ambiguous)), front)
                    .with_upgrades();
                let shut_down = http1::UpgradeableConnection::graceful_shutdown;
                self.run(connection, shut_down, &activity, header_read_max).await
            }
            Protocol::Http2 => {
                let connection = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .keep_alive_interval(header_read_max)
                    .serve_connection(TokioIo::new(stream), front);
                self.run(connection, http2::Connection::graceful_shutdown, &activity, header_read_max).await
            }
        }
    }

    /// Runs a connection to its end. It is asked to end once draining begins, or when for `header_read_max` (at most
    /// twice that) no request was answered and none came; then it has as long again for a request that was on its way.
    ///
    /// hyper has such a limit too, at the price of a timer that is made and unmade with every request.
    async fn run<C: Future<Output = hyper::Result<()>>>(
        &self,
        connection: C,
        shut_down: fn(Pin<&mut C>),
        activity: &Activity,
        header_read_max: Duration,
    ) -> Result<(), BoxError> {
        let mut connection = pin!(connection);
        let mut closing = pin!(self.closing.begun());
        let mut idle = pin!(tokio::time::sleep(header_read_max));
        let mut last_seen = None;
        let mut asked = Asked::Nothing;
        // A task's waker is the same at every poll, so hearing of the closing is asked for only once.
        let mut heard = std::future::poll_fn(|cx| Poll::Ready(closing.as_mut().poll(cx))).await;
        let ended = std::future::poll_fn(|cx| {
            if asked == Asked::Nothing && (heard.is_ready() || self.closing.has_begun()) {
                heard = Poll::Ready(());
                asked = Asked::ToFinish;
                shut_down(connection.as_mut());
            }
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            while idle.as_mut().poll(cx).is_ready() {
                let seen = activity.waiting();
                if seen.is_some() && seen == last_seen {
                    match asked {
                        Asked::Nothing | Asked::ToFinish => {
                            asked = Asked::ForIdleness;
                            shut_down(connection.as_mut());
                            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                                return Poll::Ready(ended);
                            }
                        }
                        // Half a header section, and never the rest.
                        Asked::ForIdleness => return Poll::Ready(Ok(())),
                    }
                }
                last_seen = seen;
                idle.as_mut().reset(Instant::now() + header_read_max);
            }
            Poll::Pending
        });
        Ok(ended.await?)
    }
}

/// Why a connection was asked to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    /// It was not.
    Nothing,
    /// The process finishes.
    ToFinish,
    /// Nothing happens on it.
    ForIdleness,
}

/// Requests of a connection that began, and responses that ended.
#[derive(Debug, Default)]
struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Activity {
    /// How many requests there were, if every one is answered and the next has not begun.
    fn waiting(&self) -> Option<u64> {
        let begun = self.begun.load(Ordering::Acquire);
        (begun == self.ended.load(Ordering::Acquire)).then_some(begun)
    }
}

/// Told to all connections at once: finish.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closing(Arc<ClosingState>);

#[derive(Debug, Default)]
struct ClosingState {
    /// Beside the token, because reading it takes no lock that all threads share.
    begun: AtomicBool,
    token: CancellationToken,
}

impl Closing {
    /// Tells them.
    pub(crate) fn begin(&self) {
        self.0.begun.store(true, Ordering::Release);
        self.0.token.cancel();
    }

    /// Whether they were told.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
    }

    /// Waits until they are.
    pub(crate) async fn begun(&self) {
        self.0.token.cancelled().await;
    }
}

/// What is answered before the layer is asked.
struct Front {
    terms: CurrentTerms,
    forwarder: Forwarder,
    subject: Option<ClientSubject>,
    ambiguous: Ambiguous,
    activity: Arc<Activity>,
    traces: Option<Traces>,
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Counted>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Answering {
        let number = self.activity.begun.fetch_add(1, Ordering::AcqRel);
        let count = Some(Count(Arc::clone(&self.activity)));
        let checked = if self.ambiguous.is(number) { Err(headers::AMBIGUOUS) } else { headers::check(&request) };
        if let Err(why) = checked {
            let mut response = why.into_response();
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return Answering {
                answer: Box::pin(std::future::ready(Ok(response))),
                page: None,
                count,
                receiving: None,
            };
        }
        let terms: Guard<Arc<Terms>> = self.terms.load();
        let page = Cors::page(request.headers());
        if terms.gateway.publish_policy == PublishPolicy::Public
            && request.uri().path() == POLICY_PATH
            && [Method::GET, Method::HEAD].contains(request.method())
        {
            let mut response = admin::published(&terms.document).map(Body::streaming);
            if let Some(page) = page {
                terms.cors.show_own(&page, &mut response);
            }
            return Answering {
                answer: Box::pin(std::future::ready(Ok(response))),
                page: None,
                count,
                receiving: None,
            };
        }
        if let Some(subject) = &self.subject {
            request.extensions_mut().insert(subject.clone());
        }
        // The forwarder is always ready, and the layer is when the forwarder is.
        let receiving = self.traces.as_ref().map(|traces| traces.receive(&mut request));
        let page = page.map(|page| (page, Arc::clone(&terms.cors)));
        Answering { answer: terms.semel.layer().layer(self.forwarder.clone()).call(request), page, count, receiving }
    }
}

/// A response on its way.
struct Answering {
    answer: Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>,
    /// Which page asks, if one does.
    page: Option<(HeaderValue, Arc<Cors>)>,
    count: Option<Count>,
    receiving: Option<Receiving>,
}

impl Future for Answering {
    type Output = Result<Response<Counted>, Infallible>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut response) = ready!(self.answer.as_mut().poll(cx));
        if let Some((page, cors)) = &self.page {
            cors.show(page, &mut response);
        }
        let count = self.count.take();
        if let Some(receiving) = self.receiving.take() {
            receiving.answered(&response);
        }
        Poll::Ready(Ok(response.map(|body| Counted { body, _count: count })))
    }
}

/// Counts a response as ended when hyper has done with it, or with the client.
struct Count(Arc<Activity>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::AcqRel);
    }
}

/// Content of a response that is counted.
struct Counted {
    body: Body,
    _count: Option<Count>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Protocol {
    Http1,
    Http2,
}

/// How a client speaks, by its first bytes, which stay unread.
///
/// RFC 9113 section 3.4: no HTTP/1.1 request begins like the preface of HTTP/2, `PRI * HTTP/2.0`; the method PRI is
/// reserved, so three bytes tell.
async fn protocol(stream: &TcpStream) -> io::Result<Protocol> {
    const PREFACE: &[u8] = b"PRI";
    let mut first = [0; PREFACE.len()];
    loop {
        let got = stream.peek(&mut first).await?;
        if got == PREFACE.len() && first == PREFACE {
            return Ok(Protocol::Http2);
        }
        if got == 0 || first[..got] != PREFACE[..got] {
            return Ok(Protocol::Http1);
        }
        // One or two bytes of three, which are there to be peeked at again at once: nobody sane sends them alone.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
