//! The gateway in this process, between a scripted origin and a scripted client on loopback.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use semel::{Semel, store::memory::MemoryStore};
use semel_core::{
    policy::{Policy, Preset},
    scope::Secret,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::task::TaskTracker;

use super::{
    forward::Forwarding,
    listen::{self, Closing, Serving},
    pool::Pool,
    reload::{CurrentTerms, Terms},
    tls::Transport,
};
use crate::config::{Config, Flags, Origin};

mod client;
mod origin;

/// How long a thing that must happen may take on a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(20);

/// An origin whose connections follow a script.
struct ScriptedOrigin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl ScriptedOrigin {
    /// Runs `script` with the number of the connection, from 0, and the connection.
    async fn start<F>(script: impl Fn(usize, TcpStream) -> F + Send + 'static) -> ScriptedOrigin
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(script(counted.fetch_add(1, Ordering::SeqCst), stream));
            }
        });
        ScriptedOrigin { address, connections }
    }

    /// Answers every request on every connection with `answer`, and keeps connections open.
    async fn answering(answer: &'static str) -> ScriptedOrigin {
        ScriptedOrigin::start(move |_, mut stream| async move {
            while !read_request(&mut stream).await.is_empty() {
                stream.write_all(answer.as_bytes()).await.expect("the gateway reads");
            }
        })
        .await
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn forwarding(&self) -> Forwarding {
        forwarding_to(self.address, TaskTracker::new())
    }
}

fn forwarding_to(origin: SocketAddr, tunnels: TaskTracker) -> Forwarding {
    let origin: Origin = format!("http://{origin}").parse().expect("an address is an origin");
    let pool = Pool::new(origin, Transport::Plain, 64, Duration::from_secs(4), Duration::from_secs(5));
    Forwarding::new(pool, terms(), tunnels)
}

/// The terms of a gateway without a configuration.
pub(super) fn terms() -> CurrentTerms {
    let gateway = Config::load(None, Flags::default()).expect("nothing is a configuration").gateway;
    CurrentTerms::new(Terms::new(semel(), gateway))
}

fn semel() -> Semel {
    Semel::new(Policy::preset(Preset::Ietf), Secret::from_bytes([7; 32]), Arc::new(MemoryStore::new()))
}

/// A gateway in this process, with records in memory.
struct Gateway {
    address: SocketAddr,
    closing: Closing,
    connections: TaskTracker,
}

impl Gateway {
    async fn start(origin: &ScriptedOrigin) -> Gateway {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (closing, connections) = (Closing::default(), TaskTracker::new());
        let serving = Serving {
            terms: terms(),
            forwarding: forwarding_to(origin.address, connections.clone()),
            tls: None,
            closing: closing.clone(),
            connections: connections.clone(),
            traces: None,
        };
        let (sender, mut receiver) = mpsc::unbounded_channel();
        tokio::spawn(listen::accept(listener, 1_000, vec![sender], closing.clone()));
        tokio::spawn(async move {
            while let Some(accepted) = receiver.recv().await {
                serving.spawn(accepted);
            }
        });
        Gateway { address, closing, connections }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the gateway accepts")
    }

    /// Sends bytes on a connection of their own and reads until the gateway closes it.
    async fn exchange(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_ref()).await.expect("the gateway reads");
        let mut response = Vec::new();
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut response)).await;
        // A reset after the answer is as good as a close.
        let _closed = read
            .unwrap_or_else(|_| panic!("the gateway did not close; so far: {}", String::from_utf8_lossy(&response)));
        String::from_utf8(response).expect("text")
    }
}

/// Reads until something ends with `end`; what was read until then, or until the other side closed.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let in_time = tokio::time::timeout(SOON, read_into(&mut read, stream, end)).await;
    assert!(in_time.is_ok(), "{end:?} did not come; so far: {:?}", String::from_utf8_lossy(&read));
    String::from_utf8(read).expect("text")
}

async fn read_into(read: &mut Vec<u8>, stream: &mut TcpStream, end: &str) {
    while !read.ends_with(end.as_bytes()) {
        match stream.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(_) => break,
        }
    }
}

/// A whole request, content included; empty when the connection ended. Waits for ever: it is the origin that reads.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    read_into(&mut request, stream, "\r\n\r\n").await;
    let mut request = String::from_utf8(request).expect("text");
    let field = |name: &str| {
        let line = request.lines().find(|line| line.to_ascii_lowercase().starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    if let Some(length) = field("content-length:") {
        let mut content = vec![0; length.parse().expect("a number")];
        stream.read_exact(&mut content).await.expect("content");
        request.push_str(&String::from_utf8(content).expect("text"));
    } else if field("transfer-encoding:").is_some() {
        let mut content = Vec::new();
        read_into(&mut content, stream, "0\r\n\r\n").await;
        request.push_str(&String::from_utf8(content).expect("text"));
    }
    request
}
