//! `semel demo`: a naive API double-charged by retries, and the same API behind Semel not.
//!
//! Three kinds of processes take part, as in real life: the clients (this one), the origin (`semel demo-origin`) and the
//! gateway (`semel serve`), which is killed in the middle of it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use self::{
    origin::{Faults, Ledger},
    process::{GatewayProcess, OriginProcess},
    progress::Progress,
    report::{Report, Side, wrapped},
    storm::Plan,
};

mod client;
mod dice;
pub(crate) mod origin;
mod process;
mod progress;
mod report;
mod storm;

/// What `semel demo` takes.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// How many customers want to buy something.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=5000))]
    intents: u32,
    /// The same seed makes the same storm.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// End after the report: with 0 if nobody was charged twice through Semel and every answer was true, else with 1.
    #[arg(long)]
    exit: bool,
}

/// Runs the demo, and says with what status to exit. Everything it started is gone when this returns or fails.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    tokio::runtime::Runtime::new()?.block_on(show(args))
}

/// How the origin fails during the storms.
const FAULTS: Faults = Faults { slow_per_mille: 80, reply_lost_per_mille: 20, dropped_per_mille: 10 };
/// When the gateway is killed, in percent of the time over which the intents start.
const KILLS_AT_PERCENT: [u32; 2] = [35, 70];
/// How long the gateway stays dead.
const DEAD_FOR: Duration = Duration::from_millis(250);
/// How long the origin may work on after the last client has gone.
const SETTLE_MAX: Duration = Duration::from_secs(5);
const CONTROL_MAX: Duration = Duration::from_secs(5);
const COLUMNS: usize = 80;
const KEPT: u8 = 0;
const NOT_KEPT: u8 = 1;
/// The exit status of programs that an interrupt ended.
const INTERRUPTED: u8 = 130;

async fn show(args: &Args) -> anyhow::Result<u8> {
    let (report, mut stage) = tokio::select! {
        stormed = storms(args) => stormed?,
        stopped = stop_signal() => {
            stopped?;
            return Ok(INTERRUPTED);
        }
    };
    println!("\n{}\n", report.table().trim_fmt());
    print!("{}", wrapped(&report.words(), COLUMNS));
    if !args.exit {
        control(stage.origin.address, Request::put("/faults"), "{}").await?;
        println!("{}", by_hand(&stage));
        tokio::select! {
            kept = keep_running(&mut stage.gateway) => kept?,
            stopped = stop_signal() => stopped?,
        }
    }
    Ok(if report.is_kept() { KEPT } else { NOT_KEPT })
}

/// What runs on after the storms. It goes from top to bottom: the folder must be the last, because the gateway writes there.
struct Stage {
    gateway: GatewayProcess,
    origin: OriginProcess,
    _folder: TempDir,
}

async fn storms(args: &Args) -> anyhow::Result<(Report, Stage)> {
    let Args { intents, seed, .. } = *args;
    let plan = Plan::new(seed, intents);
    let seconds = 2 * (plan.spread + Duration::from_secs(3)).as_secs();
    println!("{}", wrapped(&introduction(intents, seconds), COLUMNS));

    let origin = OriginProcess::start(seed, FAULTS).await?;
    let progress = Arc::new(Progress::start("straight to it", intents));
    let outcomes = plan.run(origin.address, &progress).await?;
    progress.end();
    let direct = Side::new(&outcomes, &settled_ledger(origin.address).await?);
    drop(origin);

    let folder = tempfile::Builder::new().prefix("semel-demo-").tempdir().context("cannot make a temporary folder")?;
    // A fresh one: its ledger is empty, and the same seed gives it the same failures.
    let origin = OriginProcess::start(seed, FAULTS).await?;
    let gateway = GatewayProcess::start(origin.address, folder.path()).await?;
    let mut stage = Stage { gateway, origin, _folder: folder };
    let progress = Arc::new(Progress::start("through Semel", intents));
    let (outcomes, ()) = tokio::try_join!(
        plan.run(stage.gateway.address, &progress),
        kill_now_and_then(&mut stage.gateway, plan.spread, &progress)
    )?;
    progress.end();
    let semel = Side::new(&outcomes, &settled_ledger(stage.origin.address).await?);
    let kills = u32::try_from(KILLS_AT_PERCENT.len()).expect("there are a few");
    Ok((Report { direct, semel, kills }, stage))
}

fn introduction(intents: u32, seconds: u64) -> String {
    let Faults { slow_per_mille, reply_lost_per_mille, dropped_per_mille } = FAULTS;
    let percent = |per_mille: u32| match per_mille % 10 {
        0 => format!("{} %", per_mille / 10),
        tenths => format!("{}.{tenths} %", per_mille / 10),
    };
    format!(
        "{intents} customers buy one thing each from a payment API that charges a card for every POST and ignores the \
         Idempotency-Key. Their clients retry with the same key when no answer comes within {} ms, and some customers click \
         twice. The API is slow to answer {} of the requests; it breaks the connection of {} after it charged, and of {} \
         before.\n\n\
         The same storm comes twice, about {seconds} s in all: straight to the API, then through `semel serve`, which is \
         killed (SIGKILL) {} times on the way.",
        storm::CLIENT_TIME_OUT.as_millis(),
        percent(slow_per_mille),
        percent(reply_lost_per_mille),
        percent(dropped_per_mille),
        KILLS_AT_PERCENT.len(),
    )
}

fn by_hand(stage: &Stage) -> String {
    let (semel, origin) = (stage.gateway.address, stage.origin.address);
    let post = format!("curl -i {semel}/charges -H 'Idempotency-Key: \"c1\"' -d");
    let kill = stage.gateway.id().map_or(String::new(), |id| format!("kill -9 {id}"));
    format!(
        r#"
Both keep running, and the API no longer fails. Try by hand:

# buy a coffee, then send the same line again: the second answer is a replay
{post} '{{"order":"coffee","amount":420}}'
# the same key for another amount: refused, nothing is charged
{post} '{{"order":"coffee","amount":990}}'
# what the API really did: one request, one charge
curl {origin}/ledger/coffee

Semel comes back when it is killed ({kill}), and remembers.
Ctrl-C ends the demo and leaves nothing behind."#
    )
}

/// Kills the gateway in the middle of the storm and starts it again, on the same port and the same data.
async fn kill_now_and_then(gateway: &mut GatewayProcess, spread: Duration, progress: &Progress) -> anyhow::Result<()> {
    let start = Instant::now();
    for percent in KILLS_AT_PERCENT {
        tokio::time::sleep_until(start + spread * percent / 100).await;
        gateway.kill();
        let killed = Instant::now();
        sleep(DEAD_FOR).await;
        gateway.start_again().await?;
        progress.say(&format!("semel serve killed with SIGKILL; back after {} ms", killed.elapsed().as_millis()));
    }
    Ok(())
}

/// The ledger once the origin has finished what it was doing for clients that did not wait.
async fn settled_ledger(origin: SocketAddr) -> anyhow::Result<Ledger> {
    let deadline = Instant::now() + SETTLE_MAX;
    loop {
        let content = control(origin, Request::get("/ledger"), "").await?;
        let ledger: Ledger = serde_json::from_slice(&content).context("the origin's ledger cannot be read")?;
        if ledger.running == 0 {
            return Ok(ledger);
        }
        if Instant::now() > deadline {
            bail!("the origin is still at work {SETTLE_MAX:?} after the storm");
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn control(origin: SocketAddr, request: http::request::Builder, content: &'static str) -> anyhow::Result<Bytes> {
    let request = request.body(Full::new(Bytes::from(content))).expect("the parts are valid");
    let response = client::send(origin, request, CONTROL_MAX).await.context("the demo's origin does not answer")?;
    if !response.status().is_success() {
        bail!("the demo's origin answered {}", response.status());
    }
    Ok(response.into_body())
}

/// Starts the gateway again whenever somebody kills it.
async fn keep_running(gateway: &mut GatewayProcess) -> anyhow::Result<()> {
    loop {
        sleep(Duration::from_millis(200)).await;
        if let Some(status) = gateway.ended()? {
            // A status code is the gateway's own decision to end, and starting it again would not change its mind.
            if status.code().is_some() {
                bail!("the gateway ended ({status}):\n{}", gateway.last_words());
            }
            gateway.start_again().await?;
            let id = gateway.id().map_or(String::new(), |id| format!(" as process {id}"));
            println!("The gateway ended ({status}); it runs again{id}, and remembers.");
        }
    }
}

#[cfg(unix)]
async fn stop_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => Ok(pressed?),
        _ = terminated.recv() => Ok(()),
        _ = hung_up.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn stop_signal() -> anyhow::Result<()> {
    Ok(tokio::signal::ctrl_c().await?)
}
