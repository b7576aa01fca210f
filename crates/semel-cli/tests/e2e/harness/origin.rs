//! An origin that does as it is told, byte by byte, and keeps a ledger of what it did.

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{stream::Stream, within};

/// The origin. It stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The method.
    pub(crate) method: String,
    /// Path and query as sent.
    pub(crate) target: String,
    /// Field lines in order, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The content, without chunk framing.
    pub(crate) body: Vec<u8>,
    /// The framed bytes of the content, as they arrived.
    pub(crate) framed: Vec<u8>,
}

impl Seen {
    /// The value of a field that must not be repeated.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.iter().filter(|(had, _)| had == name).map(|(_, value)| value.as_str());
        let first = lines.next();
        assert!(lines.next().is_none(), "{name} is repeated in {self:?}");
        first
    }

    /// The idempotency key as it arrived, less its quotes; `""` where there is none.
    pub(crate) fn key(&self) -> &str {
        self.header("idempotency-key").unwrap_or_default().trim_matches('"')
    }
}

/// What it does with one request.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    effect: HasEffect,
    held: Option<Gate>,
    after: Duration,
    cut: Cut,
    reply: Option<Reply>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum HasEffect {
    Yes,
    No,
}

/// Where it resets the connection.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Cut {
    /// Nowhere.
    Never,
    /// Before a byte is read.
    BeforeReading,
    /// When the request is read whole, and nothing is done.
    AfterReading,
    /// When the effect happened, and nothing is answered.
    AfterExecuting,
}

impl Act {
    /// Has its effect, and answers 201 with the number of the effect.
    pub(crate) fn execute() -> Act {
        Act { effect: HasEffect::Yes, held: None, after: Duration::ZERO, cut: Cut::Never, reply: None }
    }

    /// Has its effect, and answers this.
    pub(crate) fn reply(reply: Reply) -> Act {
        Act { reply: Some(reply), ..Act::execute() }
    }

    /// Has no effect, and answers this.
    pub(crate) fn refuse(reply: Reply) -> Act {
        Act { effect: HasEffect::No, ..Act::reply(reply) }
    }

    /// Resets the connection.
    pub(crate) fn cut(cut: Cut) -> Act {
        let effect = if cut == Cut::AfterExecuting { HasEffect::Yes } else { HasEffect::No };
        Act { effect, cut, ..Act::execute() }
    }

    /// Waits after the effect, before the answer (or the reset), until the gate opens.
    pub(crate) fn held(self, gate: &Gate) -> Act {
        Act { held: Some(gate.clone()), ..self }
    }

    /// Takes that long over it; for load, never to order events.
    pub(crate) fn after(self, time: Duration) -> Act {
        Act { after: time, ..self }
    }
}

/// A response, byte by byte.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
    parts: Vec<Part>,
    trailers: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
    Nothing,
}

/// A part of a response's content.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Bytes; a chunk of their own where the response is chunked.
    Bytes(Vec<u8>),
    /// Nothing more until the gate opens.
    Wait(Gate),
    /// The connection is reset here.
    Reset,
    /// Whatever arrives is sent back, until the other side closes.
    Echo,
}

impl Reply {
    /// A response without content.
    pub(crate) fn new(status: u16) -> Reply {
        let framing = if matches!(status, 101 | 204 | 304) { Framing::Nothing } else { Framing::Length };
        Reply { status, headers: Vec::new(), framing, parts: Vec::new(), trailers: Vec::new() }
    }

    /// A response with JSON content.
    pub(crate) fn json(status: u16, content: &str) -> Reply {
        Reply::new(status).header("Content-Type", "application/json").body(content)
    }

    /// Adds a field line.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the content, with its length.
    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Reply {
        self.parts = vec![Part::Bytes(body.as_ref().to_vec())];
        self
    }

    /// Sets the content, in chunks.
    pub(crate) fn chunked(mut self, parts: impl IntoIterator<Item = Part>) -> Reply {
        self.framing = Framing::Chunked;
        self.parts = parts.into_iter().collect();
        self
    }

    /// Sets the content, ended by closing the connection.
    pub(crate) fn until_close(mut self, parts: impl IntoIterator<Item = Part>) -> Reply {
        self.framing = Framing::UntilClose;
        self.parts = parts.into_iter().collect();
        self
    }

    /// Sets what follows the head, unframed. A `Content-Length` that promises more is the caller's to add.
    pub(crate) fn raw(mut self, parts: impl IntoIterator<Item = Part>) -> Reply {
        self.framing = Framing::Nothing;
        self.parts = parts.into_iter().collect();
        self
    }

    /// Adds a trailer field to chunked content.
    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Reply {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl From<&[u8]> for Part {
    fn from(bytes: &[u8]) -> Part {
        Part::Bytes(bytes.to_vec())
    }
}

impl From<&str> for Part {
    fn from(text: &str) -> Part {
        Part::Bytes(text.as_bytes().to_vec())
    }
}

/// Something that waits until it is opened.
#[derive(Clone)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({})", if *self.0.borrow() { "open" } else { "closed" })
    }
}

impl Gate {
    /// A closed one.
    pub(crate) fn new() -> Gate {
        Gate(Arc::new(watch::Sender::new(false)))
    }

    /// Opens it for all who wait and will wait.
    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    async fn pass(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

type Rule = Box<dyn Fn(&Seen) -> Act + Send>;

struct Shared {
    state: Mutex<State>,
    arrived: watch::Sender<usize>,
    hung_up: watch::Sender<usize>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({} arrived)", *self.arrived.borrow())
    }
}

struct State {
    script: VecDeque<Act>,
    rule: Rule,
    seen: Vec<Seen>,
    effects: Vec<Seen>,
}

impl Origin {
    /// Listens on a port of its own, and executes whatever comes.
    pub(crate) async fn start() -> Origin {
        Origin::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// The same on this port.
    pub(crate) async fn start_at(addr: SocketAddr) -> Origin {
        Origin::listen(addr, None).await
    }

    /// The same by TLS.
    pub(crate) async fn start_tls(tls: Arc<ServerConfig>) -> Origin {
        Origin::listen(SocketAddr::from(([127, 0, 0, 1], 0)), Some(tls)).await
    }

    async fn listen(addr: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Origin {
        let listener = TcpListener::bind(addr).await.expect("a free port");
        let addr = listener.local_addr().expect("a bound port");
        let state =
            State { script: VecDeque::new(), rule: Box::new(execute_writes), seen: Vec::new(), effects: Vec::new() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            arrived: watch::Sender::new(0),
            hung_up: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
        Origin { addr, shared, accepting }
    }

    /// Does this with the next request for which nothing is scripted yet.
    pub(crate) fn next(&self, act: Act) {
        self.shared.state.lock().unwrap().script.push_back(act);
    }

    /// Does this with every request that is not scripted.
    pub(crate) fn always(&self, rule: impl Fn(&Seen) -> Act + Send + 'static) {
        self.shared.state.lock().unwrap().rule = Box::new(rule);
    }

    /// How many requests had their effect.
    pub(crate) fn effects(&self) -> usize {
        self.shared.state.lock().unwrap().effects.len()
    }

    /// The requests that had their effect.
    pub(crate) fn ledger(&self) -> Vec<Seen> {
        self.shared.state.lock().unwrap().effects.clone()
    }

    /// The requests that arrived whole.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.state.lock().unwrap().seen.clone()
    }

    /// Waits until this many requests arrived whole, in all.
    pub(crate) async fn arrived(&self, count: usize) {
        let mut arrived = self.shared.arrived.subscribe();
        within(&format!("{count} requests at the origin"), arrived.wait_for(|had| *had >= count)).await.unwrap();
    }

    /// Waits until this many connections were closed by the other side while their content was streamed.
    pub(crate) async fn hung_up(&self, count: usize) {
        let mut hung_up = self.shared.hung_up.subscribe();
        within("the gateway hangs up", hung_up.wait_for(|had| *had >= count)).await.unwrap();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn execute_writes(seen: &Seen) -> Act {
    match seen.method.as_str() {
        "GET" | "HEAD" | "OPTIONS" => Act::refuse(Reply::json(200, r#"{"read":true}"#)),
        _ => Act::execute(),
    }
}

async fn accept(listener: TcpListener, tls: Option<Arc<ServerConfig>>, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let stream = match tls {
                None => Stream::Plain(stream),
                Some(tls) => match TlsAcceptor::from(tls).accept(stream).await {
                    Ok(stream) => Stream::Tls(Box::new(stream.into())),
                    Err(_) => return,
                },
            };
            let mut serving = Serving { stream, unread: Vec::new(), shared };
            while let Ok(Next::Request) = serving.one().await {}
        });
    }
}

enum Next {
    Request,
    Close,
}

struct Serving {
    stream: Stream,
    unread: Vec<u8>,
    shared: Arc<Shared>,
}

impl Serving {
    async fn one(&mut self) -> io::Result<Next> {
        if self.unread.is_empty() {
            match &self.stream {
                Stream::Plain(stream) if stream.peek(&mut [0]).await? == 0 => return Ok(Next::Close),
                Stream::Plain(_) => {}
                // What came with the end of the handshake is no longer in the kernel.
                Stream::Tls(_) => self.fill().await?,
            }
            let cut = |act: &Act| act.cut == Cut::BeforeReading;
            let mut state = self.shared.state.lock().unwrap();
            if state.script.front().is_some_and(cut) {
                state.script.pop_front();
                drop(state);
                return self.reset();
            }
        }
        let seen = self.read().await?;
        let (act, number) = {
            let mut state = self.shared.state.lock().unwrap();
            let act = state.script.pop_front().unwrap_or_else(|| (state.rule)(&seen));
            if act.effect == HasEffect::Yes {
                state.effects.push(seen.clone());
            }
            state.seen.push(seen.clone());
            (act, state.effects.len())
        };
        self.shared.arrived.send_modify(|had| *had += 1);
        if let Some(gate) = &act.held {
            gate.pass().await;
        }
        if !act.after.is_zero() {
            tokio::time::sleep(act.after).await;
        }
        if act.cut != Cut::Never {
            return self.reset();
        }
        // The number tells a replay from a second effect.
        let reply = act.reply.unwrap_or_else(|| {
            Reply::json(201, &format!(r#"{{"effect":{number}}}"#))
                .header("Location", &format!("{}/{number}", seen.target))
        });
        self.answer(&reply, &seen.method).await
    }

    fn reset(&mut self) -> io::Result<Next> {
        self.stream.tcp().set_zero_linger()?;
        Ok(Next::Close)
    }

    async fn read(&mut self) -> io::Result<Seen> {
        let head = self.until(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let mut request_line = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
        let method = request_line.next().unwrap_or_default();
        let target = request_line.next().unwrap_or_default();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut seen = Seen { method, target, headers, body: Vec::new(), framed: Vec::new() };
        if seen.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        if seen.header("transfer-encoding").is_some() {
            (seen.body, seen.framed) = self.chunks().await?;
        } else if let Some(length) = seen.header("content-length") {
            seen.body = self.take(length.parse().expect("a length")).await?;
            seen.framed.clone_from(&seen.body);
        }
        Ok(seen)
    }

    async fn chunks(&mut self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let (mut body, mut framed) = (Vec::new(), Vec::new());
        loop {
            let line = self.until(b"\r\n").await?;
            framed.extend_from_slice(&line);
            let size = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(size.trim().split(';').next().unwrap_or_default(), 16);
            match size.map_err(|_| io::ErrorKind::InvalidData)? {
                0 => break,
                size => {
                    let chunk = self.take(size + 2).await?;
                    body.extend_from_slice(&chunk[..size]);
                    framed.extend_from_slice(&chunk);
                }
            }
        }
        loop {
            let line = self.until(b"\r\n").await?;
            framed.extend_from_slice(&line);
            if line == b"\r\n" {
                return Ok((body, framed));
            }
        }
    }

    async fn answer(&mut self, reply: &Reply, method: &str) -> io::Result<Next> {
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.extend([name.as_str(), ": ", value.as_str(), "\r\n"]);
        }
        let length: usize =
            reply.parts.iter().map(|part| if let Part::Bytes(bytes) = part { bytes.len() } else { 0 }).sum();
        match reply.framing {
            Framing::Length => head.extend(["Content-Length: ", &length.to_string(), "\r\n"]),
            Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            Framing::UntilClose => head.push_str("Connection: close\r\n"),
            Framing::Nothing => {}
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        if method == "HEAD" {
            return Ok(Next::Request);
        }
        for part in &reply.parts {
            match part {
                Part::Bytes(bytes) if reply.framing == Framing::Chunked => {
                    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
                    chunk.extend_from_slice(bytes);
                    chunk.extend_from_slice(b"\r\n");
                    self.write(&chunk).await?;
                }
                Part::Bytes(bytes) => self.write(bytes).await?,
                Part::Wait(gate) => self.wait(gate).await?,
                Part::Reset => return self.reset(),
                Part::Echo => {
                    let mut buffer = vec![0; 4096];
                    loop {
                        match self.stream.read(&mut buffer).await? {
                            0 => return Ok(Next::Close),
                            read => self.stream.write_all(&buffer[..read]).await?,
                        }
                    }
                }
            }
        }
        if reply.framing == Framing::Chunked {
            let mut end = "0\r\n".to_owned();
            for (name, value) in &reply.trailers {
                end.extend([name.as_str(), ": ", value.as_str(), "\r\n"]);
            }
            end.push_str("\r\n");
            self.write(end.as_bytes()).await?;
        }
        let closes = matches!(reply.framing, Framing::UntilClose)
            || reply.framing == Framing::Nothing && !reply.parts.is_empty();
        Ok(if closes { Next::Close } else { Next::Request })
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.stream.write_all(bytes).await;
        if written.is_err() {
            self.shared.hung_up.send_modify(|had| *had += 1);
        }
        written
    }

    /// Waits for the gate, or for the other side to hang up.
    async fn wait(&mut self, gate: &Gate) -> io::Result<()> {
        let mut nothing = [0];
        tokio::select! {
            () = gate.pass() => Ok(()),
            _ = self.stream.tcp().peek(&mut nothing) => {
                self.shared.hung_up.send_modify(|had| *had += 1);
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    async fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                return self.take(at + end.len()).await;
            }
            self.fill().await?;
        }
    }

    async fn take(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < bytes {
            self.fill().await?;
        }
        let rest = self.unread.split_off(bytes);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    async fn fill(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        match self.stream.read(&mut buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.unread.extend_from_slice(&buffer[..read]);
                Ok(())
            }
        }
    }
}
