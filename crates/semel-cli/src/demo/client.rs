//! One HTTP request on one connection: what an attempt of the storm is, and nothing that retries by itself.

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The client would wait no longer. The request may have arrived.
    TimedOut,
    /// The connection broke before the answer was complete. The request may have arrived.
    Broke(hyper::Error),
    /// No connection could be made, so the request did not arrive.
    Unreachable(std::io::Error),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoAnswer::TimedOut => "no answer in time",
            NoAnswer::Broke(_) => "the connection broke before the answer was complete",
            NoAnswer::Unreachable(_) => "no connection could be made",
        })
    }
}

impl std::error::Error for NoAnswer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            NoAnswer::TimedOut => None,
            NoAnswer::Broke(error) => Some(error),
            NoAnswer::Unreachable(error) => Some(error),
        }
    }
}

/// Sends the request and waits for the whole answer, no longer than `time_out`.
pub(crate) async fn send(
    target: SocketAddr,
    mut request: Request<Full<Bytes>>,
    time_out: Duration,
) -> Result<Response<Bytes>, NoAnswer> {
    let host = target.to_string().parse().expect("an address and a port are a valid field value");
    request.headers_mut().insert(header::HOST, host);
    tokio::time::timeout(time_out, exchange(target, request)).await.map_err(|_| NoAnswer::TimedOut)?
}

async fn exchange(target: SocketAddr, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, NoAnswer> {
    let stream = TcpStream::connect(target).await.map_err(NoAnswer::Unreachable)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(NoAnswer::Broke)?;
    // A client that gives up hangs up.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let (head, content) = sender.send_request(request).await.map_err(NoAnswer::Broke)?.into_parts();
    let content = content.collect().await.map_err(NoAnswer::Broke)?.to_bytes();
    Ok(Response::from_parts(head, content))
}
