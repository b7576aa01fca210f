//! `semel ready`: what an orchestrator asks where there is no curl.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::config::{AdminText, Config, ConfigError, Flags, GatewaySettings};

/// How long a gateway may take to answer: it gives its store two seconds.
const ANSWER_MAX: Duration = Duration::from_secs(4);

/// Says whether a running gateway can serve: asks /readyz on its admin address.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  semel ready --admin 127.0.0.1:9090\n  semel ready --config /etc/semel/semel.toml     (the health check of a container)\n\nExit codes:\n  0  it serves\n  1  it does not: it is not there, drains, or its store does not work\n  2  wrong command line or configuration"
)]
pub(crate) struct Ready {
    /// Its admin address, such as 127.0.0.1:9090 or http://127.0.0.1:9090
    #[arg(long, value_name = "ADDR", env = "SEMEL_ADMIN", value_parser = address)]
    admin: Option<AdminText>,
    /// Its configuration file, for the admin address in it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Asks, and prints what was answered.
pub(crate) fn run(args: &Ready) -> anyhow::Result<()> {
    let gateway = GatewaySettings { admin: args.admin, ..GatewaySettings::default() };
    let config = Config::load(args.config.as_deref(), Flags { gateway, ..Flags::default() })?;
    let Some(mut admin) = config.gateway.admin else {
        return Err(ConfigError::new("which gateway? Give --admin ADDR, or --config with gateway.admin in it").into());
    };
    if admin.ip().is_unspecified() {
        // Where it listens everywhere, it listens here.
        let loopback = if admin.is_ipv6() { [0, 0, 0, 0, 0, 0, 0, 1].into() } else { [127, 0, 0, 1].into() };
        admin = SocketAddr::new(loopback, admin.port());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let asked = runtime.block_on(async { tokio::time::timeout(ANSWER_MAX, ask(admin)).await });
    let (status, content) = asked.map_err(|_| anyhow::anyhow!("{admin} does not answer within {ANSWER_MAX:?}"))??;
    if !status.is_success() {
        bail!("{admin} says {status}: {}", content.trim_end());
    }
    print!("{content}");
    Ok(())
}

/// As an address, or as the URL that other commands take.
fn address(text: &str) -> Result<AdminText, String> {
    text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/').parse()
}

async fn ask(admin: SocketAddr) -> anyhow::Result<(http::StatusCode, String)> {
    let stream = TcpStream::connect(admin).await.with_context(|| format!("nobody listens on {admin}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/readyz").header(header::HOST, admin.to_string()).body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await.with_context(|| format!("{admin} speaks no HTTP"))?;
    let status = answer.status();
    let content = answer.into_body().collect().await.context("the answer broke off")?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&content).into_owned()))
}
