//! Free ports that stay free.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io,
    net::TcpListener,
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
};

const FIRST: u16 = 12_000;

/// A port of the loopback interface where nobody listens, never given twice by one process.
///
/// It is below those that the kernel gives to outgoing connections: while a server is down, none of its clients can be
/// given its port as their own, and keep it from coming back.
pub(crate) fn free() -> io::Result<u16> {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let random = RandomState::new().hash_one(std::process::id());
        AtomicU16::new(u16::try_from(random % 65_536).expect("less than 65536"))
    });
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end = range.split_whitespace().next().and_then(|first| first.parse().ok());
    let end = end.filter(|end| *end > FIRST + 1_000).unwrap_or(32_768);
    let mut last = None;
    for _ in 0..1_000 {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % (end - FIRST);
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("a thousand ports were tried"))
}
