//! Client connections: accepted by one thread, dealt round to the threads that serve them.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::{http1, http2}};
use hyper_util::{rt::{TokioExecutor, TokioIo, TokioTimer}, service::TowerToHyperService};
use semel::Body;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Layer as _;

use super::{Semel, forward::Forwarding, headers::Peer};

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
    /// The protocol.
    pub semel: Semel,
    /// The way to the origin.
    pub forwarding: Forwarding,
    /// See [`Gateway::header_read_max`](crate::config::Gateway::header_read_max).
    pub header_read_max: Duration,
    /// Says when to finish.
    pub closing: CancellationToken,
    /// Knows which connections are open.
    pub connections: TaskTracker,
}

/// Accepts until told to close, and hands each connection to the next of `threads`.
pub(crate) async fn accept(
    listener: TcpListener,
    connections_max: usize,
    threads: Vec<tokio::sync::mpsc::UnboundedSender<Accepted>>,
    closing: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(connections_max));
    let mut next = threads.iter().cycle();
    let mut closed = pin!(closing.cancelled());
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

    async fn serve(&self, stream: std::net::TcpStream, address: SocketAddr) -> Result<(), semel::BoxError> {
        let stream = TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        let protocol = tokio::select! {
            protocol = tokio::time::timeout(self.header_read_max, protocol(&stream)) => match protocol {
                Ok(protocol) => protocol?,
                Err(_) => return Ok(()),
            },
            () = self.closing.cancelled() => return Ok(()),
        };
        let layered = self.semel.layer().layer(self.forwarding.of(Peer::new(address)));
        let service = TowerToHyperService::new(layered);
        let io = TokioIo::new(stream);
        let mut closing = pin!(self.closing.cancelled());
        match protocol {
            Protocol::Http1 => {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(self.header_read_max)
                    .serve_connection(io, service)
                    .with_upgrades();
                let mut connection = pin!(connection);
                tokio::select! {
                    ended = connection.as_mut() => return Ok(ended?),
                    () = &mut closing => connection.as_mut().graceful_shutdown(),
                }
                Ok(connection.await?)
            }
            Protocol::Http2 => {
                let connection = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .keep_alive_interval(self.header_read_max)
                    .serve_connection(io, service);
                let mut connection = pin!(connection);
                tokio::select! {
                    ended = connection.as_mut() => return Ok(ended?),
                    () = &mut closing => connection.as_mut().graceful_shutdown(),
                }
                Ok(connection.await?)
            }
        }
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
