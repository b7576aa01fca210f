//! An HTTP/1.1 client that writes exactly the bytes it is told to, and reads exactly the bytes that come back.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{stream::Stream, within};

/// A request as it goes over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    framing: Framing,
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    /// `Content-Length`, or nothing where there is no content.
    Length,
    /// Chunks of this many bytes.
    Chunked(usize),
}

/// A `POST` of a small JSON document.
pub(crate) fn post(target: &str) -> Request {
    request("POST", target).header("Content-Type", "application/json").body(r#"{"amount":1}"#)
}

/// A `GET`.
pub(crate) fn get(target: &str) -> Request {
    request("GET", target)
}

/// A request without header fields (`Host` is added) and content.
pub(crate) fn request(method: &str, target: &str) -> Request {
    Request {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        framing: Framing::Length,
    }
}

impl Request {
    /// Adds `Idempotency-Key`, quoted as the draft demands.
    pub(crate) fn key(self, key: &str) -> Request {
        self.header("Idempotency-Key", format!("\"{key}\""))
    }

    /// Adds a field line with exactly these bytes.
    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Request {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Drops the field lines of that name.
    pub(crate) fn without(mut self, name: &str) -> Request {
        self.headers.retain(|(had, _)| !had.eq_ignore_ascii_case(name));
        self
    }

    /// Sets the content.
    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Request {
        self.body = body.as_ref().to_vec();
        self
    }

    /// Sends the content in chunks of at most this many bytes.
    pub(crate) fn chunked(mut self, bytes: usize) -> Request {
        self.framing = Framing::Chunked(bytes);
        self
    }

    /// Head and content as bytes.
    pub(crate) fn wire(&self) -> (Vec<u8>, Vec<u8>) {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.extend_from_slice(b"Host: api.example\r\n");
        }
        for (name, value) in &self.headers {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        let mut content = Vec::new();
        match self.framing {
            Framing::Length => {
                if !self.body.is_empty() || self.method == "POST" {
                    head.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
                }
                content.extend_from_slice(&self.body);
            }
            Framing::Chunked(bytes) => {
                head.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
                for chunk in self.body.chunks(bytes) {
                    content.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    content.extend_from_slice(chunk);
                    content.extend_from_slice(b"\r\n");
                }
                content.extend_from_slice(b"0\r\n\r\n");
            }
        }
        head.extend_from_slice(b"\r\n");
        (head, content)
    }
}

/// A response as it came over the wire.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// Field lines in order, names in lower case.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// The content, without chunk framing.
    pub(crate) body: Vec<u8>,
    /// Trailer fields.
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
    /// The statuses of the interim responses before it.
    pub(crate) interim: Vec<u16>,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} after {:?}", self.status, self.interim)?;
        for (name, value) in self.headers.iter().chain(&self.trailers) {
            writeln!(f, "  {name}: {}", String::from_utf8_lossy(value))?;
        }
        let shown = &self.body[..self.body.len().min(600)];
        write!(f, "  {} bytes: {}", self.body.len(), String::from_utf8_lossy(shown))
    }
}

impl Response {
    /// The value of a field that must not be repeated.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.all(name);
        assert!(lines.len() <= 1, "{name} is repeated in {self:?}");
        lines.first().copied()
    }

    /// The values of all field lines of that name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.headers.iter().filter(|(had, _)| had.eq_ignore_ascii_case(name));
        lines.map(|(_, value)| std::str::from_utf8(value).expect("a text value")).collect()
    }

    /// The content as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text content")
    }

    /// The content as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The `code` of a problem; `""` where it is none.
    pub(crate) fn code(&self) -> String {
        if self.header("content-type") != Some("application/problem+json") {
            return String::new();
        }
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends a request on a connection of its own.
pub(crate) async fn send(to: SocketAddr, request: &Request) -> Response {
    within("an answer", try_send(to, request)).await.unwrap_or_else(|error| panic!("no answer: {error}"))
}

/// The same for when the other side may be dead.
pub(crate) async fn try_send(to: SocketAddr, request: &Request) -> io::Result<Response> {
    let mut conn = Conn::try_open(to).await?;
    conn.try_send(request).await?;
    conn.try_response().await
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    stream: Stream,
    unread: Vec<u8>,
    is_head: std::collections::VecDeque<HeadRequest>,
}

#[derive(PartialEq, Debug)]
enum HeadRequest {
    Yes,
    No,
}

impl Conn {
    /// Connects.
    pub(crate) async fn open(to: SocketAddr) -> Conn {
        within("a connection", Conn::try_open(to)).await.expect("a connection")
    }

    /// Connects, if somebody listens.
    pub(crate) async fn try_open(to: SocketAddr) -> io::Result<Conn> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Conn::over(Stream::Plain(stream)))
    }

    /// Connects by TLS.
    pub(crate) async fn open_tls(to: SocketAddr, client: &Arc<ClientConfig>) -> Conn {
        within("a handshake", Conn::try_open_tls(to, client)).await.expect("a connection by TLS")
    }

    /// Connects by TLS, if the other side wants to.
    pub(crate) async fn try_open_tls(to: SocketAddr, client: &Arc<ClientConfig>) -> io::Result<Conn> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(to.ip().into());
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(client)).connect(name, stream).await?;
        Ok(Conn::over(Stream::Tls(Box::new(stream.into()))))
    }

    fn over(stream: Stream) -> Conn {
        Conn { stream, unread: Vec::new(), is_head: std::collections::VecDeque::new() }
    }

    /// What is below, and what was read of it.
    pub(crate) fn into_stream(self) -> Stream {
        self.stream
    }

    /// The certificate that the other side showed.
    pub(crate) fn shown(&self) -> Vec<u8> {
        let Stream::Tls(stream) = &self.stream else { panic!("not by TLS") };
        stream.get_ref().1.peer_certificates().expect("it shows one")[0].to_vec()
    }

    /// Writes bytes.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        within("writing", self.stream.write_all(bytes.as_ref())).await.expect("the connection takes bytes");
    }

    /// Writes as many bytes as the other side takes before it closes.
    pub(crate) async fn write_lossy(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within("writing", self.stream.write_all(bytes.as_ref())).await;
    }

    /// Writes a request.
    pub(crate) async fn send(&mut self, request: &Request) {
        self.try_send(request).await.expect("the connection takes a request");
    }

    async fn try_send(&mut self, request: &Request) -> io::Result<()> {
        let (mut head, content) = request.wire();
        self.is_head.push_back(if request.method == "HEAD" { HeadRequest::Yes } else { HeadRequest::No });
        head.extend_from_slice(&content);
        self.stream.write_all(&head).await
    }

    /// Says that no more bytes come, and stays open for the answer.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("the connection can be half closed");
    }

    /// Resets the connection.
    pub(crate) fn reset(self) {
        self.stream.tcp().set_zero_linger().expect("the socket takes the option");
    }

    /// Reads the next final response.
    pub(crate) async fn response(&mut self) -> Response {
        within("an answer", self.try_response()).await.unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// Reads the next final response, if the other side lives to send it whole.
    pub(crate) async fn try_response(&mut self) -> io::Result<Response> {
        let is_head = self.is_head.pop_front().unwrap_or(HeadRequest::No);
        let mut interim = Vec::new();
        loop {
            let (status, headers) = self.head().await?;
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let mut response = Response { status, headers, body: Vec::new(), trailers: Vec::new(), interim };
            if is_head == HeadRequest::Yes || matches!(status, 101 | 204 | 304) {
                return Ok(response);
            }
            if response.all("transfer-encoding").iter().any(|value| value.contains("chunked")) {
                (response.body, response.trailers) = self.chunks().await?;
            } else if let Some(length) = response.header("content-length") {
                let length: usize = length.parse().expect("a length");
                response.body = self.take(length).await?;
            } else {
                while self.fill().await? > 0 {}
                response.body = std::mem::take(&mut self.unread);
            }
            return Ok(response);
        }
    }

    /// Reads the head of a response: status and field lines. For streams whose content is read bit by bit.
    pub(crate) async fn head(&mut self) -> io::Result<(u16, Vec<(String, Vec<u8>)>)> {
        let head = self.until(b"\r\n\r\n").await?;
        let mut lines = head.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
        let status_line = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {status_line}"));
        Ok((status, lines.filter(|line| !line.is_empty()).map(field).collect()))
    }

    /// Exactly this many bytes.
    pub(crate) async fn take(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < bytes {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.unread.split_off(bytes);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    /// All bytes until the other side closes; an error counts as the end.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        within("the end of the connection", async { while matches!(self.fill().await, Ok(1..)) {} }).await;
        std::mem::take(&mut self.unread)
    }

    /// All bytes up to and with `end`.
    pub(crate) async fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                return self.take(at + end.len()).await;
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn chunks(&mut self) -> io::Result<(Vec<u8>, Vec<(String, Vec<u8>)>)> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n").await?;
            let size = String::from_utf8_lossy(&line);
            let size = size.trim().split(';').next().unwrap_or_default().to_owned();
            match usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("no chunk size: {size:?}")) {
                0 => break,
                size => {
                    body.extend(self.take(size).await?);
                    self.take(2).await?;
                }
            }
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.until(b"\r\n").await?;
            match line.trim_ascii() {
                b"" => return Ok((body, trailers)),
                line => trailers.push(field(line)),
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = vec![0; 16 * 1024];
        let read = self.stream.read(&mut buffer).await?;
        self.unread.extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

fn field(line: &[u8]) -> (String, Vec<u8>) {
    let at = line.iter().position(|b| *b == b':').unwrap_or_else(|| panic!("no field line: {line:?}"));
    (String::from_utf8_lossy(&line[..at]).to_ascii_lowercase(), line[at + 1..].trim_ascii().to_vec())
}
