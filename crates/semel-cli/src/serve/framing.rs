//! Sees the framing of what a client sends over HTTP/1.1, beside hyper, to refuse what two readers could frame in two ways.
//!
//! hyper reads a request with both `Transfer-Encoding` and `Content-Length` by the former and hides the latter, which RFC
//! 9112 section 6.1 allows. A proxy before us may have gone by the latter, and then what we take for the next request is
//! somebody else's content (request smuggling; conformance SC15). So it is refused, and the connection closed.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A line that does not end within this many bytes is not watched to its end: hyper refuses such a head by itself.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A client connection whose requests are watched.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    watch: Watch,
    ambiguous: Ambiguous,
}

/// Which request of a connection is framed ambiguously, if one is. The first one is the last one.
#[derive(Clone, Debug)]
pub(crate) struct Ambiguous(Arc<AtomicU64>);

impl Ambiguous {
    /// None, so far.
    pub(crate) fn none() -> Ambiguous {
        Ambiguous(Arc::new(AtomicU64::new(u64::MAX)))
    }

    /// Whether it is the request with this number, counted from 0.
    pub(crate) fn is(&self, number: u64) -> bool {
        self.0.load(Ordering::Acquire) == number
    }
}

impl<S> Watched<S> {
    /// Watches a stream from its first byte on.
    pub(crate) fn new(stream: S, ambiguous: Ambiguous) -> Watched<S> {
        Watched { stream, watch: Watch::default(), ambiguous }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        if let Some(number) = this.watch.see(&buffer.filled()[before..]) {
            this.ambiguous.0.store(number, Ordering::Release);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in a sequence of requests the bytes seen so far end.
#[derive(Debug, Default)]
struct Watch {
    at: At,
    /// The beginning of a line whose end is still to come.
    partial: Vec<u8>,
    /// Header sections that ended.
    heads: u64,
    length: Option<u64>,
    chunked: Option<()>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum At {
    /// Before the request line.
    #[default]
    Start,
    /// In the header section.
    Fields,
    /// This many bytes before the next request.
    Content(u64),
    /// Before a chunk's size.
    Size,
    /// In a chunk, this many bytes before the next size, its line end included.
    Chunk(u64),
    /// In the trailer section.
    Trailers,
    /// No longer watching: this is not HTTP/1.1, or hyper will say what is wrong with it.
    Off,
}

impl Watch {
    /// Takes the next bytes; says the number of the first request that is framed in two ways.
    fn see(&mut self, mut bytes: &[u8]) -> Option<u64> {
        loop {
            match self.at {
                At::Off => return None,
                _ if bytes.is_empty() => return None,
                At::Content(left) => {
                    let taken = take(&mut bytes, left);
                    self.at = if taken == left { At::Start } else { At::Content(left - taken) };
                }
                At::Chunk(left) => {
                    let taken = take(&mut bytes, left);
                    self.at = if taken == left { At::Size } else { At::Chunk(left - taken) };
                }
                At::Start | At::Fields | At::Size | At::Trailers => {
                    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                        self.partial.extend_from_slice(bytes);
                        if self.partial.len() > LINE_BYTES_MAX {
                            self.off();
                        }
                        return None;
                    };
                    let (line, rest) = bytes.split_at(end);
                    bytes = &rest[1..];
                    let ambiguous = if self.partial.is_empty() {
                        self.line(line.trim_ascii_end())
                    } else {
                        self.partial.extend_from_slice(line);
                        let line = std::mem::take(&mut self.partial);
                        self.line(line.trim_ascii_end())
                    };
                    if let Some(number) = ambiguous {
                        self.off();
                        return Some(number);
                    }
                }
            }
        }
    }

    fn line(&mut self, line: &[u8]) -> Option<u64> {
        match self.at {
            // RFC 9112 section 2.2: empty lines before a request line are ignored.
            At::Start if line.is_empty() => {}
            At::Start => self.at = At::Fields,
            At::Fields if line.is_empty() => return self.head_ends(),
            At::Fields => self.field(line),
            At::Size => {
                let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
                self.at = match size {
                    Some(0) => At::Trailers,
                    Some(size) => At::Chunk(size.saturating_add(2)),
                    None => At::Off,
                };
            }
            At::Trailers if line.is_empty() => self.at = At::Start,
            At::Trailers | At::Content(_) | At::Chunk(_) | At::Off => {}
        }
        None
    }

    fn field(&mut self, line: &[u8]) {
        // Two letters tell nearly every field from the two that matter.
        if !matches!(line.first(), Some(b'c' | b'C' | b't' | b'T')) {
            return;
        }
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts.next().unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = Some(());
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let value = parts.next().unwrap_or_default().trim_ascii();
            let length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
            // What is not a number hyper refuses, and what comes after it nobody reads.
            self.length = Some(length.unwrap_or(u64::MAX));
        }
    }

    fn head_ends(&mut self) -> Option<u64> {
        let number = self.heads;
        self.heads += 1;
        match (self.length.take(), self.chunked.take()) {
            (Some(_), Some(())) => return Some(number),
            (None, Some(())) => self.at = At::Size,
            (Some(0) | None, None) => self.at = At::Start,
            (Some(length), None) => self.at = At::Content(length),
        }
        None
    }

    fn off(&mut self) {
        self.at = At::Off;
        self.partial = Vec::new();
    }
}

/// Drops at most `most` bytes off the front, and says how many.
fn take(bytes: &mut &[u8], most: u64) -> u64 {
    let taken = usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len());
    *bytes = &bytes[taken..];
    taken as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same bytes whole, and cut at every place, mean the same.
    fn check(bytes: &str, ambiguous: Option<u64>, heads: u64) {
        for cut in 0..bytes.len() {
            let mut watch = Watch::default();
            let first = watch.see(&bytes.as_bytes()[..cut]);
            let found = first.or_else(|| watch.see(&bytes.as_bytes()[cut..]));
            assert_eq!(found, ambiguous, "{bytes:?} cut at {cut}");
            assert_eq!(watch.heads, heads, "{bytes:?} cut at {cut}");
        }
        let mut watch = Watch::default();
        let found = bytes.as_bytes().iter().find_map(|byte| watch.see(&[*byte]));
        assert_eq!(found, ambiguous, "{bytes:?} byte by byte");
    }

    #[test]
    fn both_framings_are_ambiguous_in_either_order_and_any_case() {
        check("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Some(0), 1);
        check(
            "POST / HTTP/1.1\r\ntransfer-ENCODING: chunked\r\nHost: a\r\ncontent-LENGTH:3\r\n\r\n0\r\n\r\n",
            Some(0),
            1,
        );
        check("\r\nPOST / HTTP/1.1\nTransfer-Encoding: identity\nContent-Length: x\n\n", Some(0), 1);
    }

    #[test]
    fn what_looks_like_a_head_inside_content_is_content() {
        let evil = "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        let length = evil.len();
        check(&format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{evil}GET / HTTP/1.1\r\n\r\n"), None, 2);
        let chunked = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{length:X};ext=1\r\n{evil}\r\n0\r\nContent-Length: 3\r\n\r\nGET / HTTP/1.1\r\n\r\n"
        );
        check(&chunked, None, 2);
    }

    #[test]
    fn the_number_is_that_of_the_request() {
        let fine = "POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiPUT /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
        let evil = "POST /c HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(&format!("{fine}GET /d HTTP/1.1\r\n\r\n{evil}"), Some(3), 4);
    }

    #[test]
    fn another_protocol_is_not_watched_for_ever() {
        let mut watch = Watch::default();
        assert_eq!(watch.see(b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"), None);
        for _ in 0..100 {
            assert_eq!(watch.see(&[0x81; 1 << 10]), None);
        }
        assert_eq!((watch.at, watch.partial.capacity()), (At::Off, 0));
    }
}
