//! Records in Redis or Valkey, alone or as a Cluster, for several gateways at once.
//!
//! A record is one key, and a swap one script on it: so it is atomic, and a Cluster runs it where the key is. The server's
//! clock decides what lives; the server's own expiry only gives the memory back. Connections are lanes ([`Options`]): what
//! queues while a lane waits is its next batch. A swap that reaches the server after its time is refused there, so what
//! timed out has happened or never will.
//!
//! What is confirmed is as durable as the server makes it. With `appendfsync always` it survives a crash of the server;
//! a failover keeps it if the replica that takes over has it, for which writes can wait ([`Options::replicas`]), though
//! no such wait makes Redis a consensus. [`RedisStore::open`] refuses servers that forget as a matter of course.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use redis::{ClientTlsConfig, TlsCertificates, Value};
use semel_core::{
    fingerprint::Fingerprint,
    record::{ExchangeId, Phase},
};

use super::{
    Clock, Figures, Found, PhaseKind, Put, Record, RecordKey, Stamp, Store, StoreError, Swap, Swapped,
    shared::{Finding, OpenError, Password, Severity, Tls, TlsPem, Url, admit},
};
use crate::figures::{COUNT_BOUNDS, Histogram};
use lanes::{Copies, Kind, Measured, Settings, Trouble, Writes};
use nodes::{Nodes, Question, Whom};
use value::Room;

mod checks;
mod lanes;
mod nodes;
mod url;
mod value;
mod walk;

pub use walk::Stats;

/// How many connections there are to each node, unless told otherwise.
pub const CONNECTIONS_DEFAULT: usize = 4;
/// How long a request may take with all its retries, unless told otherwise.
pub const STATEMENT_MAX_DEFAULT: Duration = Duration::from_secs(5);
/// How long connecting may take, unless told otherwise.
pub const CONNECT_MAX_DEFAULT: Duration = Duration::from_secs(5);
/// How many requests are sent in one go, unless told otherwise.
pub const BATCH_REQUESTS_MAX_DEFAULT: usize = 256;
/// How many bytes are sent in one go, unless told otherwise; one request may be larger.
pub const BATCH_BYTES_MAX_DEFAULT: usize = 4 << 20;
/// How many requests wait for each node, unless told otherwise.
pub const QUEUE_MAX_DEFAULT: usize = 10_000;
/// How many bytes wait for each node, unless told otherwise.
pub const QUEUE_BYTES_MAX_DEFAULT: usize = 64 << 20;
/// How long a write waits for its copies, unless told otherwise.
pub const COPIES_WAIT_MAX_DEFAULT: Duration = Duration::from_secs(1);
/// What all keys begin with, unless told otherwise.
pub const PREFIX_DEFAULT: &str = "semel:";
/// How long a prefix may be, in bytes.
pub const PREFIX_BYTES_MAX: usize = 64;

/// How to reach a [`RedisStore`], and within which limits it works.
#[derive(Clone, Debug)]
pub struct Options {
    /// `redis://`, `rediss://` (TLS), `redis+cluster://` or `rediss+cluster://`, then `[user[:password]@]host[:port]`
    /// (for a Cluster several of these, with commas between) and `/database`. A password is better kept out of it.
    pub url: Url,
    /// Takes the place of a password in the URL.
    pub password: Option<Password>,
    /// Certificates, for the URLs with TLS.
    pub tls: Tls,
    /// What all keys begin with: letters, digits and `: _ . -`, at most [`PREFIX_BYTES_MAX`]. Default [`PREFIX_DEFAULT`].
    pub prefix: String,
    /// Connections to each node. Default [`CONNECTIONS_DEFAULT`].
    pub connections: usize,
    /// How long a request may take, with all its retries. Default [`STATEMENT_MAX_DEFAULT`].
    pub statement_max: Duration,
    /// How long connecting may take. Default [`CONNECT_MAX_DEFAULT`].
    pub connect_max: Duration,
    /// How many requests are sent in one go. Default [`BATCH_REQUESTS_MAX_DEFAULT`].
    pub batch_requests_max: usize,
    /// How many bytes are sent in one go; one request may be larger. Default [`BATCH_BYTES_MAX_DEFAULT`].
    pub batch_bytes_max: usize,
    /// How many requests wait for each node; one more is [`StoreError::Full`]. Default [`QUEUE_MAX_DEFAULT`].
    pub queue_max: usize,
    /// How many bytes wait for each node. Default [`QUEUE_BYTES_MAX_DEFAULT`].
    pub queue_bytes_max: usize,
    /// How many replicas must have a write before it is confirmed (`WAIT`). Default 0.
    pub replicas: u32,
    /// Whether the append-only file must have a write before it is confirmed, and those of `replicas` too (`WAITAOF`).
    /// Needed only where `appendfsync` is not `always`. Default no.
    pub local_aof: bool,
    /// How long a write waits for its copies; after that it is [`StoreError::Unavailable`], and may be there all the
    /// same. Default [`COPIES_WAIT_MAX_DEFAULT`].
    pub copies_wait_max: Duration,
    /// Opens on servers that lose records too, and says so in the log. Default no.
    pub accept_loss: bool,
    /// For tests: a clock that counts instead of the server's. Nothing expires by itself then.
    pub clock: Option<Arc<dyn Clock>>,
}

impl Options {
    /// The defaults, at this URL.
    pub fn new(url: impl Into<String>) -> Options {
        Options {
            url: Url::new(url),
            password: None,
            tls: Tls::default(),
            prefix: PREFIX_DEFAULT.to_owned(),
            connections: CONNECTIONS_DEFAULT,
            statement_max: STATEMENT_MAX_DEFAULT,
            connect_max: CONNECT_MAX_DEFAULT,
            batch_requests_max: BATCH_REQUESTS_MAX_DEFAULT,
            batch_bytes_max: BATCH_BYTES_MAX_DEFAULT,
            queue_max: QUEUE_MAX_DEFAULT,
            queue_bytes_max: QUEUE_BYTES_MAX_DEFAULT,
            replicas: 0,
            local_aof: false,
            copies_wait_max: COPIES_WAIT_MAX_DEFAULT,
            accept_loss: false,
            clock: None,
        }
    }
}

/// Records in Redis or Valkey. Cloning it is cheap, and clones share their connections.
#[derive(Clone, Debug)]
pub struct RedisStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nodes: Nodes,
    prefix: String,
    clock: Option<Arc<dyn Clock>>,
    kind: Kind,
    copies: Copies,
    /// Where the next sweep goes on.
    swept: tokio::sync::Mutex<walk::Place>,
}

impl RedisStore {
    /// Connects, looks at how every primary is set up, and refuses those that lose records, unless
    /// [`Options::accept_loss`]. Needs a tokio runtime, on which it stays.
    pub async fn open(options: Options) -> Result<RedisStore, OpenError> {
        let at = url::read(&options)?;
        let server = at.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let copies = Copies {
            replicas: options.replicas,
            append_only_file: options.local_aof,
            wait_max: options.copies_wait_max,
        };
        let settings = Settings {
            login: at.login,
            tls: at.transport.is_tls().then(|| certificates(&options.tls)).transpose()?,
            kind: at.kind,
            lanes: options.connections,
            connect_max: options.connect_max,
            statement_max: options.statement_max,
            batch_requests_max: options.batch_requests_max,
            batch_bytes_max: options.batch_bytes_max,
            queue_max: options.queue_max,
            queue_bytes_max: options.queue_bytes_max,
            copies,
            accept_loss: options.accept_loss,
            measured: Measured { batches: Histogram::new(COUNT_BOUNDS), connections: AtomicU64::new(0) },
        };
        let unreachable =
            |trouble: Trouble| OpenError::Unreachable { server: server.clone(), why: trouble.to_string() };
        let nodes = Nodes::find(at.addresses, settings).await.map_err(unreachable)?;
        let inner = Inner {
            nodes,
            prefix: options.prefix,
            clock: options.clock,
            kind: at.kind,
            copies,
            swept: tokio::sync::Mutex::default(),
        };
        let store = RedisStore(Arc::new(inner));
        let mut findings = Vec::new();
        for node in store.0.nodes.primaries() {
            let server = node.inspect().await.map_err(unreachable)?;
            if let Some(why) = server.unusable(at.kind, &copies) {
                return Err(OpenError::Options(why));
            }
            findings.extend(server.findings(&copies));
        }
        admit(findings, options.accept_loss)?;
        Ok(store)
    }

    /// How every primary is set up, and what would be lost on it.
    pub async fn check(&self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        for node in self.0.nodes.primaries() {
            let server = node.inspect().await.map_err(|trouble| StoreError::Unavailable(trouble.to_string()))?;
            findings
                .extend(server.unusable(self.0.kind, &self.0.copies).map(|why| Finding::new(Severity::Fatal, why, "")));
            findings.extend(server.findings(&self.0.copies));
        }
        Ok(findings)
    }

    /// Counts all records, by reading the head of each: for operators, not for every minute.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        self.0.stats().await
    }

    /// Whether all gateways of this store derive its keys from the same secret: the first one leaves `check` there, and
    /// every other one compares. With different secrets each gateway would execute what another has executed.
    pub async fn agree_on(&self, check: [u8; 32]) -> Result<bool, StoreError> {
        let key = format!("{}meta", self.0.prefix);
        let mut text = String::new();
        for byte in check {
            write!(text, "{byte:02x}").expect("a String takes all that is written");
        }
        let mut put = redis::cmd("SET");
        put.arg(&key).arg(&text).arg("NX");
        let put = self.0.nodes.ask(Whom::Owner(&key), Question::Command(&put, Writes::Yes)).await?;
        if let (Value::Okay, Some(missing)) = (&put.value, put.missing) {
            return Err(StoreError::Unavailable(missing));
        }
        let mut get = redis::cmd("GET");
        get.arg(&key);
        match self.0.nodes.ask(Whom::Owner(&key), Question::Command(&get, Writes::No)).await?.value {
            Value::BulkString(there) => Ok(there == text.as_bytes()),
            _ => Err(StoreError::Corrupt(format!("{key} should hold the check of the secret"))),
        }
    }
}

fn certificates(tls: &Tls) -> Result<TlsCertificates, OpenError> {
    // The client library takes the process's provider of cryptography, and panics without one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let TlsPem { ca, client } = tls.read()?;
    let client_tls = client.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    Ok(TlsCertificates { client_tls, root_cert: ca })
}

impl Inner {
    fn now_ms(&self) -> Option<u64> {
        self.clock.as_ref().map(|clock| clock.now_ms())
    }

    async fn swap(&self, key: &str, swap: &Swap) -> Result<Swapped, StoreError> {
        let writes = if swap.put.is_some() || swap.expect.is_some() { Writes::Yes } else { Writes::No };
        let arguments = value::swap_arguments(self.now_ms(), swap, Room::Unknown);
        let full = match self.nodes.ask(Whom::Owner(key), Question::Script(&value::SWAP, key, &arguments, writes)).await
        {
            Ok(answer) => return confirmed(answer)?.ok_or_else(|| StoreError::Full("Redis has no memory left".into())),
            Err(full @ StoreError::Full(_)) => full,
            Err(error) => return Err(error),
        };
        // The server looked at its memory only. What lives there is told and settled all the same: what a settle tells has
        // happened, and the room of its claim is nearly enough.
        let arguments = value::swap_arguments(self.now_ms(), swap, Room::None);
        let answer =
            self.nodes.ask(Whom::Owner(key), Question::Script(&value::SWAP_ANYWAY, key, &arguments, writes)).await?;
        confirmed(answer)?.ok_or(full)
    }

    async fn load(&self, key: &str) -> Result<Option<Found>, StoreError> {
        match self.swap(key, &Swap { expect: None, put: None }).await? {
            Swapped::Done | Swapped::Absent => Ok(None),
            Swapped::Found(found) => Ok(Some(found)),
        }
    }
}

/// What is done counts only with its copies; what was found and not changed needs none.
fn confirmed(answer: lanes::Answer) -> Result<Option<Swapped>, StoreError> {
    let swapped = value::swapped(answer.value)?;
    match (swapped, answer.missing) {
        (Some(Swapped::Done), Some(missing)) => Err(StoreError::Unavailable(missing)),
        (swapped, _) => Ok(swapped),
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        self.0.swap(&value::key_text(&self.0.prefix, key), swap).await
    }

    async fn load(&self, key: &RecordKey) -> Result<Option<Found>, StoreError> {
        self.0.load(&value::key_text(&self.0.prefix, key)).await
    }

    /// Walks all keys to find a page: something for operators, not for requests.
    async fn scan(
        &self,
        phase: PhaseKind,
        after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, StoreError> {
        self.0.scan(phase, after, limit).await
    }

    /// Goes on where the last sweep ended, and looks at a few thousand keys at most. Records past their retention are
    /// gone without it, except with a simulated clock; what it does is to trim.
    async fn sweep(&self, limit: u32) -> Result<u32, StoreError> {
        self.0.sweep(limit).await
    }

    /// On every primary.
    async fn probe(&self) -> Result<(), StoreError> {
        for node in self.0.nodes.primaries() {
            let mut id = [0; 16];
            getrandom::fill(&mut id).map_err(|error| StoreError::Unavailable(error.to_string()))?;
            // Of one of the keys that this node has; and nobody else's, since other gateways probe at the same time.
            let id = u128::from_be_bytes(id);
            let mut keys = (0..u64::MAX).map(|n| format!("{}probe:{id:032x}:{n}", self.0.prefix));
            let key = keys.find(|key| self.0.nodes.has(&node, key) || !self.0.nodes.is_primary(&node));
            let key = key.expect("a primary has one slot of 16,384 at least");
            let stamp = Stamp { exchange: ExchangeId(id), write: 1 };
            let record = Record {
                fingerprint: Fingerprint::from_bytes([0; Fingerprint::LEN]),
                attempt: 1,
                phase: Phase::Unknown,
                retention: Duration::from_secs(10),
                guard: None,
                about: None,
            };
            for (expect, put) in [(None, Some(Put { stamp, record })), (Some(stamp), None)] {
                match self.0.swap(&key, &Swap { expect, put }).await? {
                    // The removal may have been asked twice.
                    Swapped::Done | Swapped::Absent => {}
                    Swapped::Found(_) => return Err(StoreError::Corrupt(format!("{key} is not of this probe"))),
                }
            }
        }
        Ok(())
    }

    fn figures(&self) -> Figures {
        let measured = self.0.nodes.measured();
        Figures {
            batches: Some(measured.batches.read()),
            connections: Some(measured.connections.load(Ordering::Relaxed)),
            ..Figures::default()
        }
    }
}
