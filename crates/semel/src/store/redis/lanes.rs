//! One node of Redis, and the connections to it.
//!
//! A node has a queue and a few lanes. A lane owns one connection, takes everything that is queued, sends it in one go and
//! waits for all answers: what queues meanwhile is its next batch. So concurrent requests share round trips, barriers, scripts
//! (on a single node) and waits for replicas, and a `WAIT` holds up nobody but its own batch.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, Pipeline,
    RedisConnectionInfo, ServerError, TlsCertificates, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    io::tcp::TcpSettings,
};
use tokio::{sync::oneshot, task::JoinSet, time::timeout};

use super::{
    checks,
    value::{self, Asked, Script},
};
use crate::{
    figures::Histogram,
    store::pace::{Out, Pace},
};

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

/// What is asked, and how.
pub(super) struct Request {
    pub(super) what: What,
    pub(super) writes: Writes,
    pub(super) asking: Asking,
}

/// What is asked.
pub(super) enum What {
    /// A script about a key. A single node is asked several at once.
    Script { script: &'static Script, key: String, arguments: Vec<Bytes>, known: Known },
    /// Any other command.
    Command(Cmd),
}

/// Whether the server is believed to know a script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    Yes,
    No,
}

impl What {
    fn bytes(&self) -> usize {
        match self {
            What::Script { key, arguments, .. } => key.len() + arguments.iter().map(Bytes::len).sum::<usize>(),
            What::Command(command) => command.args_iter().map(|arg| arg_len(&arg)).sum(),
        }
    }
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
        let queue = Queue { jobs: Mutex::default(), pace: Pace::default() };
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
        let bytes = request.what.bytes();
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
    pace: Pace,
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
        let waiting = jobs.waiting.len();
        drop(jobs);
        self.pace.arrived(waiting);
        Ok(())
    }

    /// At least one job, and as many as there are within the limits of a batch. The lane that took them is out until it
    /// drops the other half.
    async fn take(&self, settings: &Settings) -> (Vec<Job>, Out<'_>) {
        loop {
            if !self.jobs.lock().waiting.is_empty() {
                self.pace.linger(|| self.jobs.lock().waiting.len()).await;
            }
            let batch = self.take_now(settings);
            if !batch.is_empty() {
                settings.measured.batches.record(batch.len() as u64);
                let out = self.pace.out(batch.len());
                return (batch, out);
            }
            self.pace.called().await;
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
            self.pace.call();
        }
        batch
    }
}

async fn lane(node: Arc<Inner>) {
    let mut connection: Option<(Connection, Counted<'_>)> = None;
    loop {
        let (batch, _out) = node.queue.take(&node.settings).await;
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

/// Jobs that are one command.
struct Together {
    jobs: Vec<Job>,
    command: Cmd,
}

impl Together {
    /// One command for all that the server can be asked at once.
    fn of(batch: Vec<Job>, kind: Kind, connection: &Connection) -> Vec<Together> {
        let mut groups: Vec<Vec<Job>> = Vec::new();
        for job in batch {
            match groups.iter_mut().find(|group| kind == Kind::Single && job.goes_with(&group[0])) {
                Some(group) => group.push(job),
                None => groups.push(vec![job]),
            }
        }
        groups.into_iter().map(|jobs| Together { command: Together::command(&jobs, connection), jobs }).collect()
    }

    fn command(jobs: &[Job], connection: &Connection) -> Cmd {
        let (script, known) = match &jobs[0].request.what {
            What::Command(command) => return command.clone(),
            What::Script { script, known, .. } => (script, known),
        };
        let asked = |n: usize| match &jobs[n].request.what {
            What::Script { key, arguments, .. } => {
                Asked { key, arguments, ends_ms: connection.server_ms(jobs[n].deadline) }
            }
            What::Command(_) => unreachable!("a command goes with no other"),
        };
        match known {
            Known::Yes => script.by_digest(jobs.len(), asked),
            Known::No => script.by_text(jobs.len(), asked),
        }
    }

    /// The answer for each job, in their order.
    fn answers(&self, value: Value) -> Vec<Value> {
        match (&self.jobs[0].request.what, value) {
            (What::Script { .. }, Value::Array(values)) if values.len() == self.jobs.len() => values,
            // One error of all.
            (What::Script { .. }, value) => vec![value; self.jobs.len()],
            (What::Command(_), value) => vec![value],
        }
    }
}

impl Job {
    /// Whether both can be one command.
    fn goes_with(&self, other: &Job) -> bool {
        match (&self.request.what, &other.request.what) {
            (What::Script { script, known, .. }, What::Script { script: others, known: of_other, .. }) => {
                std::ptr::eq(*script, *others) && known == of_other
            }
            (What::Script { .. } | What::Command(_), _) => false,
        }
    }
}

impl Inner {
    async fn run(&self, connection: &mut Connection, batch: Vec<Job>) -> Afterwards {
        let copies = &self.settings.copies;
        let waits = copies.are_asked_for() && batch.iter().any(|job| job.request.writes == Writes::Yes);
        let together = Together::of(batch, self.settings.kind, connection);
        let mut pipeline = Pipeline::with_capacity(together.len() + 2);
        pipeline.add_command(redis::cmd("TIME"));
        for one in &together {
            if one.jobs[0].request.asking == Asking::Yes {
                pipeline.add_command(redis::cmd("ASKING"));
            }
            pipeline.add_command(one.command.clone());
        }
        if waits {
            pipeline.add_command(copies.command());
        }
        let asked = connection.to.req_packed_commands(&pipeline, 0, pipeline.len());
        let trouble = match timeout(self.settings.statement_max, asked).await {
            Ok(Ok(mut values)) if values.len() == pipeline.len() => {
                if let Some(server_ms) = value::time_of(&values.remove(0)) {
                    (connection.server_ms, connection.at) = (server_ms, Instant::now());
                }
                return self.tell(together, values, waits);
            }
            Ok(Ok(_)) => Trouble::Lost(format!("{}: fewer answers than questions", self.address)),
            Ok(Err(error)) => lost(&self.address, &error),
            Err(_) => Trouble::Lost(format!("{}: no answer within {:?}", self.address, self.settings.statement_max)),
        };
        for job in together.into_iter().flat_map(|one| one.jobs) {
            let _ = job.reply.send(Err(trouble.clone()));
        }
        Afterwards::Spent
    }

    /// Gives everybody their answer.
    fn tell(&self, together: Vec<Together>, mut values: Vec<Value>, waits: bool) -> Afterwards {
        let missing = if waits {
            let answer = values.pop().expect("as many values as commands");
            self.settings.copies.missing(&answer)
        } else {
            None
        };
        let mut afterwards = Afterwards::Usable;
        let mut values = values.into_iter();
        for one in together {
            if one.jobs[0].request.asking == Asking::Yes {
                values.next();
            }
            let answers = one.answers(values.next().expect("as many values as commands"));
            for (job, value) in one.jobs.into_iter().zip(answers) {
                let answer = match value {
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
