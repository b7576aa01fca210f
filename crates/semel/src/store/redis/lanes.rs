//! One node of Redis, and the connections to it.
//!
//! A node has a queue and a few lanes. A lane owns one connection, takes everything that is queued, sends it in one go and
//! waits for all answers: what queues meanwhile is its next batch. So concurrent requests share round trips, barriers and
//! waits for replicas, and a `WAIT` holds up nobody but its own batch.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, Pipeline,
    RedisConnectionInfo, ServerError, TlsCertificates, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    io::tcp::TcpSettings,
};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{checks, value};
use crate::figures::Histogram;

/// Where a node is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What is the same for all nodes.
pub(super) struct Settings {
    /// User, password and database.
    pub(super) login: RedisConnectionInfo,
    /// With TLS, if there are certificates (which may be empty: those of this machine).
    pub(super) tls: Option<TlsCertificates>,
    pub(super) kind: Kind,
    pub(super) lanes: usize,
    pub(super) connect_max: Duration,
    pub(super) statement_max: Duration,
    pub(super) batch_requests_max: usize,
    pub(super) batch_bytes_max: usize,
    pub(super) queue_max: usize,
    pub(super) queue_bytes_max: usize,
    pub(super) copies: Copies,
    pub(super) accept_loss: bool,
    pub(super) measured: Measured,
}

/// What the lanes of all nodes count.
pub(super) struct Measured {
    /// Requests in a round trip.
    pub(super) batches: Histogram,
    /// Lanes that have a connection.
    pub(super) connections: AtomicU64,
}

/// Whether a node is one of many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Single,
    Cluster,
}

/// What a write waits for beyond its own primary's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Copies {
    /// How many replicas must have it.
    pub(super) replicas: u32,
    /// Whether the append-only files must have it: the primary's, and those of the replicas.
    pub(super) append_only_file: bool,
    /// How long to wait for them.
    pub(super) wait_max: Duration,
}

/// One command and who waits for its answer.
pub(super) struct Request {
    pub(super) command: Cmd,
    pub(super) writes: Writes,
    pub(super) asking: Asking,
    pub(super) ends: Ends,
}

/// Whether the command is told until when it may run, as its last argument: the server's time in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ends {
    InTime,
    Whenever,
}

/// Whether a request is confirmed only with its copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Writes {
    Yes,
    No,
}

/// Whether the node is asked for a slot that is about to become its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asking {
    Yes,
    No,
}

/// What came of a request that was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) value: Value,
    /// Which copies are missing, if any are.
    pub(super) missing: Option<String>,
}

/// Why a request has no answer.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// Not sent, or sent and the connection is gone: whether it ran is not known.
    Lost(String),
    /// No answer in time; whether it ran is not known.
    Late,
    /// The queue of the node is full; it was not sent.
    Full,
    /// The server's own words.
    Refused(ServerError),
}

/// One node. Dropping it ends its lanes; whoever waits for them is told that the request is lost.
pub(super) struct Node {
    inner: Arc<Inner>,
    _lanes: JoinSet<()>,
}

struct Inner {
    address: Address,
    settings: Arc<Settings>,
    queue: Queue,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.inner.address).finish()
    }
}

impl Node {
    /// Connects when it is first asked something.
    pub(super) fn new(address: Address, settings: Arc<Settings>) -> Node {
        let queue = Queue { jobs: Mutex::default(), filled: Notify::new() };
        let inner = Arc::new(Inner { address, settings, queue });
        let mut lanes = JoinSet::new();
        for _ in 0..inner.settings.lanes {
            lanes.spawn(lane(inner.clone()));
        }
        Node { inner, _lanes: lanes }
    }

    pub(super) fn address(&self) -> &Address {
        &self.inner.address
    }

    /// Asks, and waits until `deadline`. Who leaves before the request was sent leaves nothing behind.
    pub(super) async fn ask(&self, request: Request, deadline: Instant) -> Result<Answer, Trouble> {
        let (reply, answer) = oneshot::channel();
        let bytes = request.command.args_iter().map(|arg| arg_len(&arg)).sum();
        self.inner.queue.push(Job { request, bytes, deadline, reply }, &self.inner.settings)?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Trouble::Lost(format!("{} is no longer part of the Cluster", self.inner.address))),
            Err(_) => Err(Trouble::Late),
        }
    }

    /// Opens a connection of its own and says how the server is set up.
    pub(super) async fn inspect(&self) -> Result<checks::Server, Trouble> {
        let inspecting = async {
            let mut connection = self.inner.dial().await?;
            checks::Server::ask(&mut connection, self.inner.address.clone())
                .await
                .map_err(|error| lost(&self.inner.address, &error))
        };
        let max = self.inner.settings.connect_max;
        timeout(max, inspecting)
            .await
            .unwrap_or_else(|_| Err(Trouble::Lost(format!("{}: no answer within {max:?}", self.inner.address))))
    }
}

fn arg_len(arg: &redis::Arg<&[u8]>) -> usize {
    match arg {
        redis::Arg::Simple(bytes) => bytes.len(),
        _ => 0,
    }
}

/// A connection, and what the server's clock said when.
struct Connection {
    to: MultiplexedConnection,
    server_ms: u64,
    /// When that had been answered: so we believe the server's clock to be behind what it is, never ahead.
    at: Instant,
}

impl Connection {
    /// The server's time at `instant`.
    fn server_ms(&self, instant: Instant) -> u64 {
        let span_ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let ahead = span_ms(instant.saturating_duration_since(self.at));
        self.server_ms.saturating_add(ahead).saturating_sub(span_ms(self.at.saturating_duration_since(instant)))
    }
}

struct Job {
    request: Request,
    bytes: usize,
    deadline: Instant,
    reply: oneshot::Sender<Result<Answer, Trouble>>,
}

struct Queue {
    jobs: Mutex<Jobs>,
    filled: Notify,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    bytes: usize,
}

impl Queue {
    fn push(&self, job: Job, settings: &Settings) -> Result<(), Trouble> {
        let mut jobs = self.jobs.lock();
        let is_full = jobs.waiting.len() >= settings.queue_max
            // One that is larger than the whole queue is let through alone.
            || (jobs.bytes + job.bytes > settings.queue_bytes_max && !jobs.waiting.is_empty());
        if is_full {
            return Err(Trouble::Full);
        }
        jobs.bytes += job.bytes;
        jobs.waiting.push_back(job);
        drop(jobs);
        self.filled.notify_one();
        Ok(())
    }

    /// At least one job, and as many as there are within the limits of a batch.
    async fn take(&self, settings: &Settings) -> Vec<Job> {
        loop {
            let filled = self.filled.notified();
            let batch = self.take_now(settings);
            if !batch.is_empty() {
                settings.measured.batches.record(batch.len() as u64);
                return batch;
            }
            filled.await;
        }
    }

    fn take_now(&self, settings: &Settings) -> Vec<Job> {
        let mut jobs = self.jobs.lock();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < settings.batch_requests_max
            && let Some(job) = jobs.waiting.front()
            && (batch.is_empty() || bytes + job.bytes <= settings.batch_bytes_max)
        {
            let job = jobs.waiting.pop_front().expect("it has a front");
            jobs.bytes -= job.bytes;
            if !job.reply.is_closed() {
                bytes += job.bytes;
                batch.push(job);
            }
        }
        // What is left is for the next lane: it may have been woken for nothing but this.
        if !jobs.waiting.is_empty() {
            self.filled.notify_one();
        }
        batch
    }
}

async fn lane(node: Arc<Inner>) {
    let mut connection: Option<(Connection, Counted<'_>)> = None;
    loop {
        let batch = node.queue.take(&node.settings).await;
        let mut open = match connection.take() {
            Some(open) => open,
            None => match node.connect().await {
                Ok(open) => (open, Counted::one_more(&node.settings.measured.connections)),
                Err(trouble) => {
                    for job in batch {
                        let _ = job.reply.send(Err(trouble.clone()));
                    }
                    continue;
                }
            },
        };
        if node.run(&mut open.0, batch).await == Afterwards::Usable {
            connection = Some(open);
        }
    }
}

/// Counts while it is there.
struct Counted<'a>(&'a AtomicU64);

impl Counted<'_> {
    fn one_more(count: &AtomicU64) -> Counted<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(PartialEq, Eq)]
enum Afterwards {
    Usable,
    /// It is gone, out of step, or leads to a server that may no longer be the right one.
    Spent,
}

impl Inner {
    async fn run(&self, connection: &mut Connection, batch: Vec<Job>) -> Afterwards {
        let mut pipeline = Pipeline::with_capacity(batch.len() + 2);
        pipeline.add_command(redis::cmd("TIME"));
        for job in &batch {
            if job.request.asking == Asking::Yes {
                pipeline.add_command(redis::cmd("ASKING"));
            }
            let mut command = job.request.command.clone();
            if job.request.ends == Ends::InTime {
                command.arg(connection.server_ms(job.deadline));
            }
            pipeline.add_command(command);
        }
        let copies = &self.settings.copies;
        let waits = copies.are_asked_for() && batch.iter().any(|job| job.request.writes == Writes::Yes);
        if waits {
            pipeline.add_command(copies.command());
        }
        let asked = connection.to.req_packed_commands(&pipeline, 0, pipeline.len());
        let trouble = match timeout(self.settings.statement_max, asked).await {
            Ok(Ok(mut values)) if values.len() == pipeline.len() => {
                if let Some(server_ms) = value::time_of(&values.remove(0)) {
                    (connection.server_ms, connection.at) = (server_ms, Instant::now());
                }
                return self.tell(batch, values, waits);
            }
            Ok(Ok(_)) => Trouble::Lost(format!("{}: fewer answers than questions", self.address)),
            Ok(Err(error)) => lost(&self.address, &error),
            Err(_) => Trouble::Lost(format!("{}: no answer within {:?}", self.address, self.settings.statement_max)),
        };
        for job in batch {
            let _ = job.reply.send(Err(trouble.clone()));
        }
        Afterwards::Spent
    }

    /// Gives everybody their answer.
    fn tell(&self, batch: Vec<Job>, mut values: Vec<Value>, waits: bool) -> Afterwards {
        let missing = if waits {
            let answer = values.pop().expect("as many values as commands");
            self.settings.copies.missing(&answer)
        } else {
            None
        };
        let mut afterwards = Afterwards::Usable;
        let mut values = values.into_iter();
        for job in batch {
            if job.request.asking == Asking::Yes {
                values.next();
            }
            let answer = match values.next().expect("as many values as commands") {
                Value::ServerError(error) => {
                    // The name may lead to another server by now; and whoever comes back from loading is checked again.
                    if matches!(error.code(), "READONLY" | "LOADING" | "MASTERDOWN" | "UNBLOCKED") {
                        afterwards = Afterwards::Spent;
                    }
                    Err(Trouble::Refused(error))
                }
                value => {
                    let missing = missing.clone().filter(|_| job.request.writes == Writes::Yes);
                    Ok(Answer { value, missing })
                }
            };
            let _ = job.reply.send(answer);
        }
        afterwards
    }

    /// A connection to a server that may be used: it is looked at each time, since it may have been restarted otherwise.
    async fn connect(&self) -> Result<Connection, Trouble> {
        let max = self.settings.connect_max;
        let connecting = async {
            let mut connection = self.dial().await?;
            let server = checks::Server::ask(&mut connection, self.address.clone());
            let server = server.await.map_err(|error| lost(&self.address, &error))?;
            if let Some(why) = server.refusal(&self.settings) {
                return Err(Trouble::Lost(format!("{}: {why}", self.address)));
            }
            let time = connection.req_packed_command(&redis::cmd("TIME")).await;
            let time = time.map_err(|error| lost(&self.address, &error))?;
            let server_ms = value::time_of(&time)
                .ok_or_else(|| Trouble::Lost(format!("{}: TIME was answered with something else", self.address)))?;
            Ok(Connection { to: connection, server_ms, at: Instant::now() })
        };
        timeout(max, connecting)
            .await
            .unwrap_or_else(|_| Err(Trouble::Lost(format!("{}: no connection within {max:?}", self.address))))
    }

    async fn dial(&self) -> Result<MultiplexedConnection, Trouble> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.settings.connect_max))
            // We measure that ourselves, and per batch.
            .set_response_timeout(None);
        let client = self.client().map_err(|error| lost(&self.address, &error))?;
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| lost(&self.address, &error))
    }

    fn client(&self) -> redis::RedisResult<Client> {
        let (host, port) = (self.address.host.clone(), self.address.port);
        let address = match &self.settings.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let info: ConnectionInfo = address.into_connection_info()?;
        let info = info
            .set_redis_settings(self.settings.login.clone())
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        match &self.settings.tls {
            None => Client::open(info),
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
        }
    }
}

impl Copies {
    fn are_asked_for(&self) -> bool {
        self.replicas > 0 || self.append_only_file
    }

    fn command(&self) -> Cmd {
        let mut command = redis::cmd(if self.append_only_file { "WAITAOF" } else { "WAIT" });
        if self.append_only_file {
            command.arg(1);
        }
        command.arg(self.replicas).arg(u64::try_from(self.wait_max.as_millis()).unwrap_or(u64::MAX));
        command
    }

    /// Which copies are missing by this answer.
    fn missing(&self, answer: &Value) -> Option<String> {
        let has = |value: &Value, wanted: u32| matches!(value, Value::Int(count) if *count >= i64::from(wanted));
        let is_enough = match (self.append_only_file, answer) {
            (true, Value::Array(counts)) => {
                matches!(counts.as_slice(), [local, replicas] if has(local, 1) && has(replicas, self.replicas))
            }
            (true, _) => false,
            (false, count) => has(count, self.replicas),
        };
        let said = match answer {
            Value::Int(count) => format!("{count}"),
            Value::Array(counts) => format!("{counts:?}"),
            Value::ServerError(error) => error.to_string(),
            _ => "nothing".to_owned(),
        };
        let wanted = if self.append_only_file {
            format!("the append-only files of the primary and {} replicas", self.replicas)
        } else {
            format!("{} replicas", self.replicas)
        };
        (!is_enough)
            .then(|| format!("{wanted} were to have the write within {:?}, and the answer was {said}", self.wait_max))
    }
}

/// Names the node. What the client library says holds no password: it is sent, never shown.
pub(super) fn lost(address: &Address, error: &redis::RedisError) -> Trouble {
    Trouble::Lost(format!("{address}: {error}"))
}
