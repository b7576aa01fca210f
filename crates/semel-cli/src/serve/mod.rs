//! `semel serve`: the layer around a forwarder, and the process around both.
//!
//! There is no idempotency here. One thread accepts, hears signals and serves operators; `threads` others serve the
//! clients, each with its own runtime and its own connections to the origin, so that an exchange never changes threads.

use std::{
    io::{IsTerminal as _, Write as _},
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use semel::{
    Identify, Observer, Quota, Semel,
    store::{
        Store,
        measured::{Measured, Measures},
    },
};
use semel_core::{
    key::{KeyRule, Presence},
    policy::{Policy, RoutePolicy},
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing_subscriber::EnvFilter;

use self::{
    admin::Admin,
    console::Console,
    drain::{Open, Signals},
    forward::Forwarding,
    identity::Identity,
    listen::{Accepted, Closing, Serving},
    metrics::{Counts, Metrics, Sources},
    operators::{Operators, audit::Audit, recent::Recent, token::Token},
    pool::Pool,
    reload::{Check, CurrentTerms, Reloading, Terms},
    tls::{Incoming, Outgoing, Transport},
    traces::Traces,
};
use crate::{
    config::{Config, ConfigError, Flags, Gateway, LogForm, Origin, Scheme, Telemetry, words},
    store::{self, Opened},
};

mod admin;
mod authorize;
mod console;
mod cors;
mod descriptors;
pub(crate) mod drain;
mod forward;
mod framing;
mod headers;
mod identity;
mod listen;
mod metrics;
mod operators;
mod pool;
mod published;
mod reload;
#[cfg(test)]
mod tests;
mod tls;
mod traces;

/// How long a thread may take to end once nothing runs on it: looking up a name can block.
const LINGER_MAX: Duration = Duration::from_secs(1);

/// How serving ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// On request, with every execution finished.
    Drained,
    /// On request, with executions still running when `drain_max` was over: their outcomes are unknown.
    CutOff,
}

/// Serves until a signal says otherwise.
///
/// The configuration is of `file` and `flags`, which are read again when a signal says so.
pub(crate) fn run(file: Option<PathBuf>, flags: Flags) -> anyhow::Result<Ended> {
    let config = Config::load(file.as_deref(), flags.clone())?;
    let Checked { origin, token, identity, mut reloading } = check(file, flags, &config)?;
    let Config { gateway, store: place, telemetry, policy, .. } = config.clone();
    let filter = log_to_stderr(gateway.log, &gateway.log_filter)?;
    reloading.join(filter.into_check());
    let gateway = Gateway { connections_max: descriptors::make_room(gateway.connections_max), ..gateway };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    // Before anything takes long: until then a signal to reload would end the process.
    let hangup = runtime.block_on(async { signal(SignalKind::hangup()) }).context("cannot hear signals")?;
    let sealing = store::sealing(&gateway.seal_secret_files)?;
    let Opened { store, secret, words } = runtime.block_on(store::open(&place, &gateway.data))?;
    let secret = match sealing {
        Some(sealing) => secret.sealing_with(sealing),
        None => secret,
    };
    tracing::info!(target: "semel::store", "replies are sealed with the secret {}", secret.sealing().key_id());
    let store = Measured::new(store);
    let measures = store.measures();
    let store: Arc<dyn Store> = Arc::new(store);
    let counts = Arc::new(Counts::new(&policy));
    let recent = Arc::new(Recent::default());
    let base = Semel::new(policy, secret, Arc::clone(&store))
        .observed_by(counts.clone())
        .observed_by(Arc::clone(&recent) as Arc<dyn Observer>)
        .identified_by(Arc::clone(&identity) as Arc<dyn Identify>);
    let (_, outgoing) = reloading.tls();
    let quota = Arc::new(Quota::new(config.quota));
    let semel = reload::with_terms(base.clone(), &config, &quota, &outgoing);
    let terms = CurrentTerms::new(Terms::new(semel, gateway.clone()).telling(&config.identity));
    reloading.join(Arc::clone(&identity).into_check());
    reloading.join_terms(&terms, &base, &quota);
    drop(base);
    // Without a token there are no operators, and nothing to write down.
    let audit = token.as_ref().map(|_| Audit::open(&gateway.audit_log())).transpose()?;
    let operating =
        Operating { operators: Operators::new(terms.clone(), recent, audit).knowing(Arc::clone(&identity)), token, identity };
    let traces = Traces::start(&telemetry)?;
    let observing = Observing { counts, measures, telemetry, traces: traces.clone() };
    let serving = serve(&gateway, &origin, terms, operating, observing, &words, (reloading, hangup));
    let ended = runtime.block_on(serving);
    // Nothing uses the store any more, so that this closes it: the next start reads less.
    runtime.shutdown_timeout(LINGER_MAX);
    drop(store);
    if let Some(traces) = traces {
        traces.finish();
    }
    ended
}

/// Who looks and acts by hand.
struct Operating {
    operators: Operators,
    token: Option<Token>,
    identity: Arc<Identity>,
}

/// Who counts.
struct Observing {
    counts: Arc<Counts>,
    measures: Arc<Measures>,
    telemetry: Telemetry,
    traces: Option<Traces>,
}

/// What `semel serve` needs before it touches anything, and `semel serve --check` only looks at.
struct Checked {
    origin: Origin,
    token: Option<Token>,
    identity: Arc<Identity>,
    reloading: Reloading,
}

/// Says whether the configuration, and the files that it names, would be accepted.
pub(crate) fn check_only(file: Option<PathBuf>, flags: Flags) -> anyhow::Result<()> {
    let config = Config::load(file.as_deref(), flags.clone())?;
    log_filter(&config.gateway.log_filter)?;
    let Checked { origin, .. } = check(file, flags, &config)?;
    println!("fine; it covers {} route(s) in front of {origin}", config.policy.routes().len());
    Ok(())
}

fn check(file: Option<PathBuf>, flags: Flags, config: &Config) -> anyhow::Result<Checked> {
    let Some(origin) = config.gateway.upstream.clone() else {
        return Err(ConfigError::new("which origin? Give --upstream URL, or gateway.upstream in the file").into());
    };
    let token = config.gateway.admin_token_file.as_deref().map(Token::read).transpose()?;
    let reloading = Reloading::new(file, flags, config.clone())?;
    let identity = Arc::new(Identity::new(config)?);
    Ok(Checked { origin, token, identity, reloading })
}

/// Writes log lines to standard error from now on.
pub(crate) fn log_to_stderr(form: LogForm, filter: &str) -> anyhow::Result<FilterHandle> {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(log_filter(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    Ok(match form {
        LogForm::Text => {
            let subscriber = subscriber.with_filter_reloading();
            let handle = subscriber.reload_handle();
            subscriber.init();
            FilterHandle(Arc::new(move |filter| handle.reload(filter).is_ok()))
        }
        LogForm::Json => {
            let subscriber = subscriber.json().flatten_event(true).with_filter_reloading();
            let handle = subscriber.reload_handle();
            subscriber.init();
            FilterHandle(Arc::new(move |filter| handle.reload(filter).is_ok()))
        }
    })
}

fn log_filter(filter: &str) -> Result<EnvFilter, ConfigError> {
    EnvFilter::try_new(filter).map_err(|error| {
        ConfigError::new(format!("the log filter \"{filter}\" is not one ({error}); try info or debug"))
    })
}

/// Exchanges which log lines are written.
pub(crate) struct FilterHandle(Arc<dyn Fn(EnvFilter) -> bool + Send + Sync>);

impl FilterHandle {
    fn into_check(self) -> Check {
        Box::new(move |config| {
            let (filter, exchange) = (log_filter(&config.gateway.log_filter)?, Arc::clone(&self.0));
            Ok(Box::new(move || {
                let _the_subscriber_lives_as_long_as_the_process = exchange(filter);
            }))
        })
    }
}

async fn serve(
    gateway: &Gateway,
    origin: &Origin,
    terms: CurrentTerms,
    Operating { operators, token, identity }: Operating,
    observing: Observing,
    records: &str,
    (reloading, hangup): (Reloading, Signal),
) -> anyhow::Result<Ended> {
    let mut signals = Signals::hear().context("cannot hear signals")?;
    let (tls, outgoing) = reloading.tls();
    let semel = terms.load().semel.clone();
    let (listener, listening) = bind(gateway.listen).await?;
    refuse_loop(origin, listening)?;
    let listening_to_operators = match gateway.admin {
        None => None,
        Some(address) => Some(bind(address).await?),
    };
    let open = Open { closing: Closing::default(), connections: TaskTracker::new(), semel };
    let stop = CancellationToken::new();
    let (mut threads, mut handles) = (Vec::new(), Vec::new());
    for number in 0..gateway.threads {
        let (sender, receiver) = mpsc::unbounded_channel();
        threads.push(sender);
        let part = Part {
            origin: origin.clone(),
            gateway: gateway.clone(),
            terms: terms.clone(),
            tls: tls.clone(),
            outgoing: outgoing.clone(),
            closing: open.closing.clone(),
            connections: open.connections.clone(),
            stop: stop.clone(),
            counts: observing.counts.clone(),
            traces: observing.traces.clone(),
        };
        let name = format!("semel-serve-{number}");
        let handle = thread::Builder::new().name(name).spawn(move || part.run(receiver));
        handles.push(handle.context("cannot start a thread")?);
    }
    let admin = listening_to_operators.as_ref().map(|(_, address)| *address);
    let scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
    announce(origin, (scheme, listening), admin, open.semel.policy(), records);
    if identity.is_of_headers() && open.semel.policy().principal().is_empty() {
        let _nobody_reads = writeln!(std::io::stderr(), "semel: {NO_PRINCIPAL}");
    }
    if let Some((listener, _)) = listening_to_operators {
        let metrics = Metrics::new(Sources {
            counts: observing.counts.clone(),
            semel: open.semel.clone(),
            store: observing.measures,
            connections: open.connections.clone(),
            origin_connections_max: gateway.upstream_connections_max,
            closing: open.closing.clone(),
            tls,
            spans: observing.traces.as_ref().map(Traces::tally),
        });
        let console = Arc::new(Console::new(operators.clone(), token.clone(), console::Transport::Plain));
        let admin = Admin {
            terms: terms.clone(),
            identity: Arc::clone(&identity),
            operators,
            token,
            console,
            closing: open.closing.clone(),
            metrics,
        };
        let every = observing.telemetry.unknown_count_every;
        tokio::spawn(observing.counts.count_unknown(Arc::clone(open.semel.store()), every));
        tokio::spawn(admin.serve(listener));
    }
    tokio::spawn(identity.keep());
    let housekeeper = open.semel.clone();
    tokio::spawn(async move { housekeeper.housekeeping().await });
    tokio::spawn(reload::heed(reloading, hangup));
    let accepting = tokio::spawn(listen::accept(listener, gateway.connections_max, threads, open.closing.clone()));

    let name = signals.next().await;
    tracing::info!(target: "semel::serve", "{name}: no longer accepting, finishing what runs");
    open.closing.begin();
    let drain_max = terms.load().gateway.drain_max;
    accepting.await.context("the acceptor failed")?;
    let ended = open.finish(drain_max, signals).await;
    stop.cancel();
    for handle in handles {
        if handle.join().is_err() {
            tracing::error!(target: "semel::serve", "a serving thread had panicked");
        }
    }
    Ok(ended)
}

async fn bind(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// A gateway that is its own origin would forward the first request to itself for ever.
fn refuse_loop(origin: &Origin, listening: SocketAddr) -> Result<(), ConfigError> {
    // A name that cannot be resolved yet may be one later.
    let addresses = (origin.host(), origin.port()).to_socket_addrs().into_iter().flatten();
    let is_here = |address: SocketAddr| {
        address.port() == listening.port()
            && (address.ip() == listening.ip() || (listening.ip().is_unspecified() && address.ip().is_loopback()))
    };
    match addresses.into_iter().find(|address| is_here(*address)) {
        None => Ok(()),
        Some(address) => Err(ConfigError::new(format!(
            "the origin {origin} is {address}, where this gateway itself listens; give another --listen or --upstream"
        ))),
    }
}

/// What one serving thread is made of.
struct Part {
    origin: Origin,
    gateway: Gateway,
    terms: CurrentTerms,
    tls: Option<Incoming>,
    outgoing: Outgoing,
    closing: Closing,
    connections: TaskTracker,
    stop: CancellationToken,
    counts: Arc<Counts>,
    traces: Option<Traces>,
}

impl Part {
    fn run(self, mut accepted: mpsc::UnboundedReceiver<Accepted>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(async move {
            let gateway = &self.gateway;
            let connections_max = gateway.upstream_connections_max.div_ceil(gateway.threads);
            let transport = Transport::to(&self.origin, gateway.upstream_tls.server_name.as_deref(), &self.outgoing);
            let pool =
                Pool::new(self.origin, transport, connections_max, gateway.upstream_idle_max, gateway.connect_max);
            self.counts.watch(pool.watch());
            let serving = Serving {
                forwarding: Forwarding::new(pool.clone(), self.terms.clone(), self.connections.clone()),
                terms: self.terms,
                tls: self.tls,
                closing: self.closing,
                connections: self.connections,
                traces: self.traces,
            };
            tokio::spawn(async move { pool.housekeeping().await });
            while let Some(one) = accepted.recv().await {
                serving.spawn(one);
            }
            // The acceptor is gone. Connections and executions are tasks of this runtime, until all are finished.
            self.stop.cancelled().await;
        });
        runtime.shutdown_timeout(LINGER_MAX);
    }
}

/// Told where nothing tells callers apart.
const NO_PRINCIPAL: &str = "warning: no principal header (principal = []), so all callers share one key space: \
                            a caller who learns or guesses a key is told the reply of another";

/// A few lines for whoever started it.
fn announce(
    origin: &Origin,
    (scheme, listening): (Scheme, SocketAddr),
    admin: Option<SocketAddr>,
    policy: &Policy,
    records: &str,
) {
    let mut lines = vec![format!("listening on {}://{listening}, forwarding to {origin}", scheme.as_str())];
    if let Some(admin) = admin {
        lines.push(format!("operators: http://{admin}/readyz, http://{admin}/.well-known/idempotency"));
    }
    lines.push(records.to_owned());
    lines.extend(policy.routes().iter().map(|route| in_words(route)));
    let mut out = std::io::stderr().lock();
    for line in lines {
        let _nobody_reads = writeln!(out, "semel: {line}");
    }
}

/// A route in a line for people.
fn in_words(route: &RoutePolicy) -> String {
    let methods = route.methods.iter().map(http::Method::as_str).collect::<Vec<_>>().join(", ");
    let key = match &route.key {
        KeyRule::Header { name, presence: Presence::Optional, .. } => {
            let name = words::header(name);
            format!("with the header {name} are executed once per key, without it passed through unprotected")
        }
        KeyRule::Header { name, presence: Presence::Required, .. } => {
            format!("are executed once per value of the header {}, without it refused", words::header(name))
        }
        KeyRule::Member { pointer, .. } => format!("are executed once per value of the member {}", pointer.as_str()),
        KeyRule::Operation => "are executed once per path".to_owned(),
    };
    format!(
        "{methods} {}: {key}; replayed for {}, remembered for {}",
        route.path.as_str(),
        words::duration(route.replay_for),
        words::duration(route.remember_for)
    )
}
