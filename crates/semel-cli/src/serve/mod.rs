//! `semel serve`: the layer around a forwarder, and the process around both.
//!
//! There is no idempotency here. One thread accepts, hears signals and serves operators; `threads` others serve the
//! clients, each with its own runtime and its own connections to the origin, so that an exchange never changes threads.

use std::{io::Write as _, net::SocketAddr, path::Path, thread, time::Duration};

use anyhow::Context as _;
use semel_core::{key::KeyRule, policy::Policy};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    forward::{Forwarding, Settings},
    listen::{Accepted, Serving},
    pool::Pool,
    standin::Semel,
};
use crate::config::{Config, ConfigError, Gateway, Origin, StoreKind};

mod forward;
mod headers;
mod listen;
mod pool;
mod secret;
mod standin;

/// How serving ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// On request, with everything finished.
    Drained,
    /// On request, with something still running when `drain_max` was over.
    CutOff,
}

/// Serves until a signal says otherwise.
pub(crate) fn run(config: Config) -> anyhow::Result<Ended> {
    let Config { gateway, policy, preset: _ } = config;
    let Some(origin) = gateway.upstream.clone() else {
        return Err(ConfigError::new("which origin? Give --upstream URL, or gateway.upstream in the file").into());
    };
    std::fs::create_dir_all(&gateway.data)
        .with_context(|| format!("cannot create the data folder {}", gateway.data.display()))?;
    let secret = secret::read_or_make(&gateway.data)?;
    let semel = Semel::new(policy, secret);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(&gateway, &origin, semel))
}

async fn serve(gateway: &Gateway, origin: &Origin, semel: Semel) -> anyhow::Result<Ended> {
    let listener = TcpListener::bind(gateway.listen)
        .await
        .with_context(|| format!("cannot listen on {}", gateway.listen))?;
    let listening = listener.local_addr()?;
    let closing = CancellationToken::new();
    let connections = TaskTracker::new();
    let stop = CancellationToken::new();
    let mut threads = Vec::new();
    for number in 0..gateway.threads {
        let (sender, receiver) = mpsc::unbounded_channel();
        threads.push(sender);
        let part = Part {
            origin: origin.clone(),
            gateway: gateway.clone(),
            semel: semel.clone(),
            closing: closing.clone(),
            connections: connections.clone(),
            stop: stop.clone(),
        };
        let name = format!("semel-serve-{number}");
        thread::Builder::new().name(name).spawn(move || part.run(receiver)).context("cannot start a thread")?;
    }
    announce(gateway, origin, listening, semel.policy());
    let accepting =
        tokio::spawn(listen::accept(listener, gateway.connections_max, threads, closing.clone()));
    let housekeeper = semel.clone();
    tokio::spawn(async move { housekeeper.housekeeping().await });
    tokio::signal::ctrl_c().await.context("cannot hear signals")?;
    closing.cancel();
    accepting.await.context("the acceptor failed")?;
    connections.close();
    let finished = tokio::time::timeout(gateway.drain_max, connections.wait()).await.is_ok();
    let left = semel.drain(Duration::ZERO).await;
    stop.cancel();
    Ok(if finished && left == 0 { Ended::Drained } else { Ended::CutOff })
}

/// What one serving thread is made of.
struct Part {
    origin: Origin,
    gateway: Gateway,
    semel: Semel,
    closing: CancellationToken,
    connections: TaskTracker,
    stop: CancellationToken,
}

impl Part {
    fn run(self, mut accepted: mpsc::UnboundedReceiver<Accepted>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(async move {
            let gateway = &self.gateway;
            let connections_max = gateway.upstream_connections_max.div_ceil(gateway.threads);
            let pool = Pool::new(self.origin, connections_max, gateway.upstream_idle_max, gateway.connect_max);
            let settings = Settings { host: gateway.host, response_header_max: gateway.response_header_max };
            let serving = Serving {
                semel: self.semel,
                forwarding: Forwarding::new(pool.clone(), settings),
                header_read_max: gateway.header_read_max,
                closing: self.closing,
                connections: self.connections,
            };
            tokio::spawn(async move { pool.housekeeping().await });
            while let Some(one) = accepted.recv().await {
                serving.spawn(one);
            }
            self.stop.cancelled().await;
        });
    }
}

/// A few lines for whoever started it.
fn announce(gateway: &Gateway, origin: &Origin, listening: SocketAddr, policy: &Policy) {
    let mut out = std::io::stderr().lock();
    let mut line = |text: String| {
        let _nobody_reads = writeln!(out, "semel: {text}");
    };
    line(format!("listening on http://{listening}"));
    line(format!("origin {origin}"));
    let _ = (&gateway.data, Path::new(""), StoreKind::Memory, policy, |rule: &KeyRule| rule.clone());
}
