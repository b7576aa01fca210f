//! The sandbox's listener: reads requests whole, and lets faults happen on the wire.

use std::{io::Write as _, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    control,
    engine::{CONTENT_BYTES_MAX, Engine, Peer, Told},
    index,
    shelf::Shelf,
};
use crate::serve::drain::Signals;

/// The most connections at once; further clients wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1_024;
/// How long a request head may take, and how long a connection may be idle.
const HEAD_READ_MAX: Duration = Duration::from_mins(1);
/// How long the content of a request may take.
const CONTENT_READ_MAX: Duration = Duration::from_secs(30);
/// How much of a content that is too large is read to its end, in bytes.
const DISCARD_BYTES_MAX: usize = 16 << 20;
/// How long what runs may take to finish after a signal.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Closes a connection without a byte: hyper does so when the service fails.
#[derive(Debug, thiserror::Error)]
#[error("the connection breaks here, on purpose")]
struct Cut;

/// Serves until a signal says otherwise. Says whether everything that ran was finished.
pub(crate) async fn serve<DB: Shelf>(engine: Engine<DB>, listen: SocketAddr) -> anyhow::Result<bool> {
    let mut signals = Signals::hear().context("cannot hear signals")?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    let engine = Arc::new(engine);
    let mut out = std::io::stdout().lock();
    // Whoever closed it does not want to know.
    let _ = writeln!(out, "listening on http://{address}\n  {}, on {}", vendors(&engine), engine.database)
        .and_then(|()| writeln!(out, "  http://{address}/ shows vendors, keys and things to try"));
    drop(out);
    let housekeeping = tokio::spawn(Arc::clone(&engine).housekeeping());
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let ending = engine.faults.ending.clone();
    let name = loop {
        let one = async {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            biased;
            name = signals.next() => break name,
            one = one => one,
        };
        match accepted {
            Ok((stream, peer)) => {
                let serving = converse(Arc::clone(&engine), stream, peer, address, ending.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(target: "semel::sandbox", %error, "cannot accept a connection");
                // Out of file descriptors, perhaps: others close in the meantime.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    tracing::info!(target: "semel::sandbox", "{name}: finishing what runs");
    drop(listener);
    ending.cancel();
    housekeeping.abort();
    connections.close();
    let finishing = timeout(DRAIN_MAX, async {
        connections.wait().await;
        engine.finish().await;
    });
    tokio::select! {
        finished = finishing => Ok(finished.is_ok()),
        name = signals.next() => anyhow::bail!("{name} again: ended at once"),
    }
}

fn vendors<DB: Shelf>(engine: &Engine<DB>) -> String {
    let names: Vec<&str> = engine.stands.iter().map(|stand| stand.vendor.about().title).collect();
    let naive = if engine.naive { " (naive: no keys, no guards)" } else { "" };
    names.join(", ") + naive
}

async fn converse<DB: Shelf>(
    engine: Arc<Engine<DB>>,
    stream: TcpStream,
    peer: SocketAddr,
    address: SocketAddr,
    ending: CancellationToken,
) {
    // Small answers must not wait for the client's acknowledgement of earlier ones.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| answer(Arc::clone(&engine), request, peer, address));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_READ_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(target: "semel::sandbox", %error, %peer, "a connection ended early");
    }
}

async fn answer<DB: Shelf>(
    engine: Arc<Engine<DB>>,
    request: Request<Incoming>,
    peer: SocketAddr,
    address: SocketAddr,
) -> Result<Response<Full<Bytes>>, Cut> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let told = told(&engine, request, peer, address).await;
    let ending = &engine.faults.ending;
    let response = match told {
        Told::Reply(response) => response,
        Told::Late(response, time) => {
            // Whoever wants the process to end does not want to wait for this.
            let _ = timeout(time, ending.cancelled()).await;
            response
        }
        Told::Cut => {
            tracing::info!(target: "semel::sandbox", %method, path, "dropped, as asked for");
            return Err(Cut);
        }
        Told::Silence => {
            tracing::info!(target: "semel::sandbox", %method, path, "never answered, as asked for");
            ending.cancelled().await;
            return Err(Cut);
        }
    };
    tracing::info!(target: "semel::sandbox", %method, path, status = response.status().as_u16(), "answered");
    Ok(response.map(Full::new))
}

async fn told<DB: Shelf>(
    engine: &Arc<Engine<DB>>,
    request: Request<Incoming>,
    peer: SocketAddr,
    address: SocketAddr,
) -> Told {
    let (mut head, content) = request.into_parts();
    let path = head.uri.path();
    if path == "/" && [Method::GET, Method::HEAD].contains(&head.method) {
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let base = host.map_or_else(|| format!("http://{address}"), |host| format!("http://{host}"));
        return Told::Reply(index::page(engine, &base).await);
    }
    let is_control = path.starts_with(control::SPACE);
    let place = if is_control {
        None
    } else {
        match engine.place(&head) {
            Ok(place) => Some(place),
            Err(response) => return Told::Reply(*response),
        }
    };
    let refuse = |status: StatusCode| {
        let mut response = if let Some(place) = place {
            engine.trouble(place, status)
        } else {
            let says = format!("the content is incomplete, or larger than {CONTENT_BYTES_MAX} bytes");
            super::api::json(status, &serde_json::json!({ "error": says }))
        };
        // What is left of the content is not read.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        Told::Reply(response)
    };
    let content = match timeout(CONTENT_READ_MAX, read(content)).await {
        Ok(Ok(Some(content))) => content,
        Ok(Ok(None)) => return refuse(StatusCode::PAYLOAD_TOO_LARGE),
        // The client is gone, or its framing is broken.
        Ok(Err(_)) => return Told::Cut,
        Err(_elapsed) => return refuse(StatusCode::REQUEST_TIMEOUT),
    };
    let Some(place) = place else { return Told::Reply(engine.control(&head, &content).await) };
    head.extensions.insert(Peer(peer));
    engine.answer(place, Request::from_parts(head, content)).await
}

/// The content; `None`: it is too large. Most of what is too large is read all the same, because a client that still
/// sends when the connection closes may never see why.
async fn read(mut content: Incoming) -> hyper::Result<Option<Bytes>> {
    let mut kept = BytesMut::new();
    let mut bytes = 0;
    while let Some(frame) = content.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        bytes += data.len();
        if bytes <= CONTENT_BYTES_MAX {
            kept.extend_from_slice(&data);
        } else if bytes > DISCARD_BYTES_MAX {
            break;
        }
    }
    Ok((bytes <= CONTENT_BYTES_MAX).then(|| kept.freeze()))
}
