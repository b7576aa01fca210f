//! Connections to the one origin: who holds a connection can prove whether a request left on it.
//!
//! A connection is polled by the request that it carries, not by a task of its own, so that a short exchange costs no
//! hand-over between tasks. While idle nobody polls it: whether it still lives is asked of the socket when it is taken.
//!
//! What left is counted below TLS: whatever of it was only encrypted is lost with the connection, and whatever the kernel
//! took counts as the request, even where it was about TLS itself.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use semel::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};

use super::tls::{Begun, Transport, Wire};
use crate::config::Origin;

/// The connections of one thread.
#[derive(Clone, Debug)]
pub(crate) struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    origin: Origin,
    transport: Transport,
    idle: Mutex<Vec<Idle>>,
    idle_max: Duration,
    connect_max: Duration,
    connections_max: usize,
    in_use: Arc<Semaphore>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

/// One connection to the origin, and the right to have it in use.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Takes the next request.
    pub sender: SendRequest<Body>,
    /// Reads and writes when polled.
    pub driver: Driver,
    /// The socket below both.
    pub socket: Socket,
    /// For whoever waits on this connection. It runs on from one exchange to the next, since setting a timer per request
    /// costs more than one that now and then rings too early.
    pub timer: Pin<Box<Sleep>>,
    begun: Begun,
}

/// Reads and writes a connection when polled, until it ends.
#[derive(Debug)]
pub(crate) struct Driver(Option<http1::Connection<TokioIo<Wire<Tap>>, Body>>);

impl Driver {
    /// Goes on as far as it can; ready when the connection has ended, and from then on.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(driver) = &mut self.0 else { return Poll::Ready(()) };
        // Why it ended is told to whoever waits for a response.
        let _told_elsewhere = ready!(Pin::new(driver).poll(cx));
        self.0 = None;
        Poll::Ready(())
    }

    /// Goes on until the connection has ended or was handed over to another protocol.
    pub(crate) async fn run_with_upgrades(self) {
        if let Some(driver) = self.0 {
            let _told_elsewhere = driver.with_upgrades().await;
        }
    }
}

/// Whether a connection carried requests before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Age {
    /// It was just made.
    Fresh,
    /// The origin may be about to close it.
    Reused,
}

impl Pool {
    /// Without connections yet; at most `connections_max` will be in use at once.
    pub(crate) fn new(
        origin: Origin,
        transport: Transport,
        connections_max: usize,
        idle_max: Duration,
        connect_max: Duration,
    ) -> Pool {
        Pool(Arc::new(Shared {
            origin,
            transport,
            idle: Mutex::default(),
            idle_max,
            connect_max,
            connections_max,
            in_use: Arc::new(Semaphore::new(connections_max)),
        }))
    }

    /// Looks at it from outside, without keeping it.
    pub(crate) fn watch(&self) -> Watch {
        Watch(Arc::downgrade(&self.0))
    }

    /// The origin.
    pub(crate) fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// Waits until one more connection may be in use.
    pub(crate) async fn permit(&self) -> io::Result<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.0.in_use).try_acquire_owned() {
            return Ok(permit);
        }
        let waiting = Arc::clone(&self.0.in_use).acquire_owned();
        match Box::pin(tokio::time::timeout(self.0.connect_max, waiting)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "every connection to the origin is in use"))
            }
        }
    }

    /// An idle connection that lives, or else a new one.
    pub(crate) async fn take(&self) -> io::Result<(Box<Connection>, Age)> {
        loop {
            let Some(mut idle) = self.0.idle.lock().pop() else { break };
            if idle.since.elapsed() < self.0.idle_max && idle.connection.is_usable(&self.0.transport) {
                return Ok((idle.connection, Age::Reused));
            }
        }
        // Boxed because it is rare and large, and what awaits this is moved with every request.
        Box::pin(self.connect()).await.map(|connection| (connection, Age::Fresh))
    }

    /// Makes a new connection.
    pub(crate) async fn connect(&self) -> io::Result<Box<Connection>> {
        let Shared { origin, transport, connect_max, .. } = &*self.0;
        let begun = transport.begin();
        let connecting = async {
            let stream = TcpStream::connect((origin.host(), origin.port())).await?;
            stream.set_nodelay(true)?;
            let counted =
                Counted { stream: Mutex::new(stream), written: AtomicU64::new(0), ended: AtomicBool::new(false) };
            let socket = Socket(Arc::new(counted));
            let wire = transport.meet(Tap(Arc::clone(&socket.0)), &begun).await?;
            Ok::<_, io::Error>((socket, wire))
        };
        let (socket, wire) = match tokio::time::timeout(*connect_max, connecting).await {
            Ok(connected) => connected?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no connection within connect_max")),
        };
        let (sender, driver) = http1::handshake(TokioIo::new(wire)).await.map_err(io::Error::other)?;
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Ok(Box::new(Connection { sender, driver: Driver(Some(driver)), socket, timer, begun }))
    }

    /// Keeps a connection whose exchange is over, for the next one.
    pub(crate) fn put(&self, connection: Box<Connection>) {
        if !self.0.idle_max.is_zero() && connection.sender.is_ready() {
            self.0.idle.lock().push(Idle { connection, since: Instant::now() });
        }
    }

    /// Drops what has been idle for too long; never returns.
    pub(crate) async fn housekeeping(&self) {
        let mut ticks = tokio::time::interval(self.0.idle_max.max(Duration::from_secs(1)));
        loop {
            ticks.tick().await;
            self.0.idle.lock().retain(|idle| idle.since.elapsed() < self.0.idle_max);
        }
    }
}

/// A look at a [`Pool`] from outside, for as long as it is there.
#[derive(Clone, Debug)]
pub(crate) struct Watch(Weak<Shared>);

impl Watch {
    /// Connections that are in use, or about to be.
    pub(crate) fn in_use(&self) -> usize {
        self.0.upgrade().map_or(0, |pool| pool.connections_max.saturating_sub(pool.in_use.available_permits()))
    }

    /// Connections that wait for the next request.
    pub(crate) fn idle(&self) -> usize {
        self.0.upgrade().map_or(0, |pool| pool.idle.lock().len())
    }
}

impl Connection {
    fn is_usable(&mut self, transport: &Transport) -> bool {
        match transport {
            Transport::Plain => {}
            Transport::Tls(..) => {
                // An origin may say things of TLS that are nobody's answer, such as a ticket, or that it says no more,
                // in bytes that were read with its last answer.
                let _ended = self.driver.poll(&mut Context::from_waker(Waker::noop()));
            }
        }
        self.sender.is_ready() && self.socket.is_quiet() && transport.is_as(&self.begun)
    }
}

/// A view of a connection's socket beside the one that hyper owns.
#[derive(Clone, Debug)]
pub(crate) struct Socket(Arc<Counted>);

impl Socket {
    /// Bytes that the kernel has taken so far. What is not counted has not left this process.
    pub(crate) fn written(&self) -> u64 {
        self.0.written.load(Ordering::Acquire)
    }

    /// Whether nothing has left since that much was [written](Socket::written). If so, nothing will from now on, so that
    /// it stays true.
    pub(crate) fn has_sent_nothing_since(&self, written: u64) -> bool {
        // Nobody writes meanwhile.
        let _stream = self.0.stream.lock();
        let nothing = self.written() == written;
        if nothing {
            self.0.ended.store(true, Ordering::Release);
        }
        nothing
    }

    /// Whether the other side has neither closed nor said anything that nobody asked for.
    fn is_quiet(&self) -> bool {
        let stream = self.0.stream.lock();
        let mut byte = [std::mem::MaybeUninit::uninit()];
        // Asked of the kernel itself: what tokio knows of the socket is as old as the last turn of its driver.
        let peeked = socket2::SockRef::from(&*stream).peek(&mut byte);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

#[derive(Debug)]
struct Counted {
    stream: Mutex<TcpStream>,
    written: AtomicU64,
    /// Set only by who holds the stream.
    ended: AtomicBool,
}

/// The socket as it is read and written, perhaps by TLS.
#[derive(Debug)]
pub(crate) struct Tap(Arc<Counted>);

impl Tap {
    fn poll_counted(
        &self,
        write: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.0.stream.lock();
        if self.0.ended.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let outcome = write(Pin::new(&mut stream));
        if let Poll::Ready(Ok(bytes)) = &outcome {
            self.0.written.fetch_add(*bytes as u64, Ordering::AcqRel);
        }
        outcome
    }
}

impl AsyncRead for Tap {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.lock()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tap {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_counted(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_counted(|stream| stream.poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.lock()).poll_shutdown(cx)
    }
}
