//! A TCP proxy that misbehaves when asked.

use std::{
    collections::VecDeque,
    io,
    net::Ipv4Addr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::ports;

/// What the proxy does with what it is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Passes it on.
    Pass,
    /// Resets every connection, and refuses new ones.
    Cut,
    /// Passes on what clients say, and resets a connection instead of passing on the first byte of an answer.
    CutAtReply,
    /// Takes connections and passes nothing on in either direction; what was said meanwhile arrives when it passes again.
    BlackHole,
    /// Passes on what clients say, and swallows the answers; who missed one is reset when the mode changes.
    DropReplies,
    /// Passes it on this much later, in each direction.
    Delay(Duration),
}

/// What changes the mode by itself, once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// After this many further bytes of clients, which are still treated in the old mode.
    Bytes(usize),
    /// When a client says this: what it was read with is treated in the new mode already.
    Contains(Vec<u8>),
}

/// A proxy on a port of the loopback interface, until it is dropped.
#[derive(Debug)]
pub struct TcpProxy {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// `None` ends the proxy.
    mode: watch::Sender<Option<Mode>>,
    trigger: Mutex<Option<(Trigger, Mode)>>,
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    listens: bool,
    accepted: u64,
    open: u64,
}

/// How much the proxy holds back of a connection in one direction, in bytes, before it reads no more.
const HELD_BYTES_MAX: usize = 1 << 20;

impl TcpProxy {
    /// Starts a proxy that passes everything on to a port of 127.0.0.1.
    pub fn start(upstream_port: u16) -> io::Result<TcpProxy> {
        let port = ports::free()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::new(Shared {
            mode: watch::Sender::new(Some(Mode::Pass)),
            trigger: Mutex::default(),
            counts: Mutex::default(),
            changed: Condvar::new(),
        });
        let listener = {
            // Whoever calls this may be a task already, which must not wait for another.
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
            listener.set_nonblocking(true)?;
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        shared.count(|counts| counts.listens = true);
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || runtime.block_on(serve(listener, port, upstream_port, &shared))
        });
        Ok(TcpProxy { port, shared, thread: Some(thread) })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the mode of all connections, and forgets a trigger. After [`Mode::Cut`] no connection is left when this
    /// returns, and the next one is refused; after any other mode the next one is taken.
    pub fn set(&self, mode: Mode) {
        *self.shared.trigger.lock() = None;
        self.shared.mode.send_replace(Some(mode));
        let mut counts = self.shared.counts.lock();
        let settled = |counts: &Counts| {
            if mode == Mode::Cut { !counts.listens && counts.open == 0 } else { counts.listens }
        };
        self.shared.changed.wait_while(&mut counts, |counts| !settled(counts));
    }

    /// Changes the mode once something happens.
    pub fn set_when(&self, trigger: Trigger, mode: Mode) {
        *self.shared.trigger.lock() = Some((trigger, mode));
    }

    /// The mode now: another one than was set, once a trigger has changed it.
    pub fn mode(&self) -> Mode {
        self.shared.mode.borrow().expect("it ends with the drop")
    }

    /// How many connections it has taken so far.
    pub fn accepted(&self) -> u64 {
        self.shared.counts.lock().accepted
    }

    /// How many connections there are.
    pub fn open(&self) -> u64 {
        self.shared.counts.lock().open
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.shared.mode.send_replace(None);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock());
        self.changed.notify_all();
    }

    /// How many of the bytes that a client has said now are treated in the mode that is; then there may be another one.
    fn pull(&self, before: &[u8], said: &[u8]) -> usize {
        let mut trigger = self.trigger.lock();
        let still = match &mut *trigger {
            None => return said.len(),
            Some((Trigger::Bytes(left), _)) if *left > said.len() => {
                *left -= said.len();
                return said.len();
            }
            Some((Trigger::Bytes(left), _)) => *left,
            Some((Trigger::Contains(what), _)) => {
                let all = [before, said].concat();
                if what.is_empty() || !all.windows(what.len()).any(|window| window == what) {
                    return said.len();
                }
                0
            }
        };
        if let Some((_, mode)) = trigger.take() {
            self.mode.send_replace(Some(mode));
        }
        still
    }
}

async fn serve(listener: TcpListener, port: u16, upstream_port: u16, shared: &Arc<Shared>) {
    let mut mode = shared.mode.subscribe();
    let mut listener = Some(listener);
    loop {
        let now = *mode.borrow_and_update();
        match now {
            None => return,
            // Who listens and resets is not who refuses.
            Some(Mode::Cut) => listener = None,
            Some(_) if listener.is_none() => {
                listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.ok();
                if listener.is_none() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    mode.mark_changed();
                }
            }
            Some(_) => {}
        }
        shared.count(|counts| counts.listens = listener.is_some());
        let accept = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = mode.changed() => if changed.is_err() { return },
            accepted = accept => if let Ok((client, _)) = accepted {
                shared.count(|counts| {
                    counts.accepted += 1;
                    counts.open += 1;
                });
                let shared = Arc::clone(shared);
                tokio::spawn(async move {
                    connection(client, upstream_port, &shared).await;
                    shared.count(|counts| counts.open -= 1);
                });
            }
        }
    }
}

async fn connection(mut client: TcpStream, upstream_port: u16, shared: &Shared) {
    let mut mode = shared.mode.subscribe();
    let end = {
        let passed = async {
            let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream_port)).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            // Either may end its half and still wait for the other's.
            tokio::try_join!(
                requests(&mut from_client, &mut to_server, shared),
                replies(&mut from_server, &mut to_client, shared),
            )?;
            io::Result::Ok(())
        };
        tokio::select! {
            biased;
            _ = mode.wait_for(|mode| matches!(mode, None | Some(Mode::Cut))) => Err(io::ErrorKind::ConnectionReset.into()),
            passed = passed => passed,
        }
    };
    if end.is_err() {
        // Closing then resets.
        let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
    }
}

/// What waits to be written, and when it is due.
#[derive(Default)]
struct Held {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

impl Held {
    fn put(&mut self, mode: Option<Mode>, chunk: &[u8]) {
        let delay = if let Some(Mode::Delay(delay)) = mode { delay } else { Duration::ZERO };
        // In order, though the delay becomes shorter.
        let due = (Instant::now() + delay).max(self.chunks.back().map_or_else(Instant::now, |(due, _)| *due));
        self.bytes += chunk.len();
        self.chunks.push_back((due, chunk.to_vec()));
    }

    async fn due(&self) {
        match self.chunks.front() {
            Some((due, _)) => sleep_until(*due).await,
            None => std::future::pending().await,
        }
    }

    async fn write_to(&mut self, to: &mut WriteHalf<'_>) -> io::Result<()> {
        if let Some((_, chunk)) = self.chunks.pop_front() {
            self.bytes -= chunk.len();
            to.write_all(&chunk).await?;
        }
        Ok(())
    }
}

async fn requests(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>, shared: &Shared) -> io::Result<()> {
    let mut mode = shared.mode.subscribe();
    let (mut held, mut buffer, mut open, mut said_before) = (Held::default(), vec![0; 1 << 16], true, Vec::new());
    while open || !held.chunks.is_empty() {
        let now = *mode.borrow_and_update();
        let passes = now != Some(Mode::BlackHole);
        tokio::select! {
            biased;
            changed = mode.changed() => if changed.is_err() { return Ok(()) },
            () = held.due(), if passes => held.write_to(to).await?,
            read = from.read(&mut buffer), if open && passes && held.bytes < HELD_BYTES_MAX => {
                let said = &buffer[..read?];
                open = !said.is_empty();
                let still = shared.pull(&said_before, said);
                held.put(now, &said[..still]);
                if still < said.len() {
                    // What comes before the change of mode arrives.
                    while !held.chunks.is_empty() {
                        held.write_to(to).await?;
                    }
                    let now = *mode.borrow_and_update();
                    if now == Some(Mode::Cut) {
                        return std::future::pending().await;
                    }
                    held.put(now, &said[still..]);
                }
                said_before.extend_from_slice(said);
                said_before.drain(..said_before.len().saturating_sub(1 << 10));
            }
        }
    }
    to.shutdown().await
}

async fn replies(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>, shared: &Shared) -> io::Result<()> {
    let mut mode = shared.mode.subscribe();
    let (mut held, mut buffer, mut open, mut missed) = (Held::default(), vec![0; 1 << 16], true, false);
    while open || !held.chunks.is_empty() {
        let now = *mode.borrow_and_update();
        if missed && now != Some(Mode::DropReplies) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let passes = now != Some(Mode::BlackHole);
        tokio::select! {
            biased;
            changed = mode.changed() => if changed.is_err() { return Ok(()) },
            () = held.due(), if passes => held.write_to(to).await?,
            read = from.read(&mut buffer), if open && passes && held.bytes < HELD_BYTES_MAX => {
                let said = &buffer[..read?];
                open = !said.is_empty();
                match now {
                    Some(Mode::CutAtReply) => return Err(io::ErrorKind::ConnectionReset.into()),
                    Some(Mode::DropReplies) => missed = true,
                    None | Some(Mode::Pass | Mode::Cut | Mode::BlackHole | Mode::Delay(_)) => held.put(now, said),
                }
            }
        }
    }
    to.shutdown().await
}
