//! `semel demo`: a naive API double-charged by retries, and the same API behind Semel not.
//!
//! Three kinds of processes take part, as in real life: the clients (this one), the origin (`semel demo-origin`) and the
//! gateway (`semel serve`), which is killed in the middle of it. On a shared store there are two gateways, of which one is.

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
    shared::{Choice, SharedStore},
    storm::{Doors, Plan},
};

mod client;
mod dice;
pub(crate) mod origin;
mod process;
mod progress;
mod report;
mod shared;
mod storm;

/// Shows a naive API double-charged by retries, and the same API behind Semel not.
///
/// A storm of purchases with retries, double clicks and lost answers, first straight to a naive payment API, then through
/// `semel serve`, which is killed in the middle. It uses loopback ports and a temporary folder, and leaves nothing behind.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// How many customers want to buy something
    #[arg(long, value_name = "NUMBER", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=5000))]
    intents: u32,
    /// The same seed makes the same storm
    #[arg(long, value_name = "NUMBER", default_value_t = 7)]
    seed: u64,
    /// Where Semel keeps its records: embedded; or for two gateways of which one is killed, postgres or redis: a private
    /// server that is started for it; or the URL of one that runs, such as postgres://user@host/database
    // Read later: a refusal of clap would quote the password.
    #[arg(long, value_name = "STORE", default_value = "embedded")]
    store: String,
    /// End after the report instead of serving on
    #[arg(long)]
    exit: bool,
}

const HELP: &str = "\
Examples:
  semel demo
      about 15 s of storm, then a payment API with and without Semel to try by hand, until Ctrl-C
  semel demo --exit --seed 8
      another storm, and only the report
  semel demo --store postgres
      the storm through two gateways on one PostgreSQL, which is started for it from the programs installed here;
      --store redis does the same with Redis or Valkey
  semel store migrate --store postgres://semel@db/demo; semel demo --store postgres://semel@db/demo
      on a PostgreSQL that runs. Give the demo a database of its own: afterwards it belongs to the demo's gateways, and
      others are refused there. In Redis the demo's keys begin with semel-demo: and others are not disturbed

The password of a store is taken from its URL or from SEMEL_STORE_PASSWORD. SEMEL_STORE is not heeded: no demo comes to a
store by accident.

Exit codes:
  0  through Semel nobody was charged twice, and every answer was true
  1  somebody was, or an answer was not, or the demo could not run
  2  wrong command line
  130  stopped before the report";

/// Runs the demo, and says with what status to exit. Everything it started is gone when this returns or fails.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    tokio::runtime::Runtime::new()?.block_on(show(args))
}

/// How the origin fails during the storms.
const FAULTS: Faults = Faults { slow_per_mille: 80, reply_lost_per_mille: 20, dropped_per_mille: 10 };
/// When the gateway is killed, in percent of the time over which the intents start.
const KILLS_AT_PERCENT: [u32; 2] = [35, 70];
/// How long the only gateway stays dead.
const DEAD_FOR: Duration = Duration::from_millis(250);
/// How long a gateway stays dead that another stands in for.
const DEAD_FOR_OF_TWO: Duration = Duration::from_millis(600);
/// How long the last retries usually take.
const TAIL: Duration = Duration::from_millis(1500);
/// How long the origin may work on after the last client has gone.
const SETTLE_MAX: Duration = Duration::from_secs(5);
const CONTROL_MAX: Duration = Duration::from_secs(5);
/// Who the clients say they are.
const CALLER: &str = "the-shop";
const FOLDER: &str = "semel-demo-";
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
            kept = keep_running(&mut stage.gateways) => kept?,
            stopped = stop_signal() => stopped?,
        }
    }
    Ok(if report.is_kept() { KEPT } else { NOT_KEPT })
}

/// What runs on after the storms. It goes from top to bottom: the folder must be the last, because the gateways write
/// there, and what they use ends after them.
struct Stage {
    /// One, or two on a shared store.
    gateways: Vec<GatewayProcess>,
    origin: OriginProcess,
    _store: Option<SharedStore>,
    folder: TempDir,
}

async fn storms(args: &Args) -> anyhow::Result<(Report, Stage)> {
    let Args { intents, seed, .. } = *args;
    let plan = Plan::new(seed, intents);
    let store = SharedStore::prepare(Choice::read(&args.store)?).await?;
    let seconds = (2 * (plan.spread + TAIL)).as_secs();
    println!("{}", wrapped(&introduction(intents, seconds, store.as_ref()), COLUMNS));

    let origin = OriginProcess::start(seed, FAULTS).await?;
    let progress = Arc::new(Progress::start("straight to it", intents));
    let outcomes = plan.run(&Doors::new(vec![origin.address], CALLER), &progress).await?;
    progress.end();
    let direct = Side::new(&outcomes, &settled_ledger(origin.address).await?);
    drop(origin);

    let mut stage = stage(seed, store).await?;
    // On a store that outlives the demo, this demo's keys must not be those of the last.
    let caller = if stage.gateways.len() > 1 { format!("{CALLER}-{}", stage.name()) } else { CALLER.to_owned() };
    let doors = Doors::new(stage.gateways.iter().map(|gateway| gateway.address).collect(), &caller);
    let progress = Arc::new(Progress::start("through Semel", intents));
    let (outcomes, ()) = tokio::try_join!(
        plan.run(&doors, &progress),
        kill_now_and_then(&mut stage.gateways, plan.spread, &doors, &progress)
    )?;
    progress.end();
    let semel = Side::new(&outcomes, &settled_ledger(stage.origin.address).await?);
    let kills = u32::try_from(KILLS_AT_PERCENT.len()).expect("there are a few");
    let answered_meanwhile = (stage.gateways.len() > 1).then(|| doors.answered_meanwhile());
    Ok((Report { direct, semel, kills, answered_meanwhile }, stage))
}

async fn stage(seed: u64, store: Option<SharedStore>) -> anyhow::Result<Stage> {
    let folder = tempfile::Builder::new().prefix(FOLDER).tempdir().context("cannot make a temporary folder")?;
    // A fresh one: its ledger is empty, and the same seed gives it the same failures.
    let origin = OriginProcess::start(seed, FAULTS).await?;
    let mut gateways = Vec::new();
    match &store {
        None => gateways.push(GatewayProcess::start(origin.address, folder.path(), None).await?),
        Some(store) => {
            let membership = store.membership(folder.path())?;
            for name in ["a", "b"] {
                let own = folder.path().join(name);
                gateways.push(GatewayProcess::start(origin.address, &own, Some(&membership)).await?);
            }
        }
    }
    Ok(Stage { gateways, origin, _store: store, folder })
}

impl Stage {
    /// No other demo has it.
    fn name(&self) -> String {
        let name = self.folder.path().file_name().unwrap_or_default().to_string_lossy();
        name.trim_start_matches(FOLDER).to_owned()
    }
}

fn introduction(intents: u32, seconds: u64, store: Option<&SharedStore>) -> String {
    let Faults { slow_per_mille, reply_lost_per_mille, dropped_per_mille } = FAULTS;
    let percent = |per_mille: u32| match per_mille % 10 {
        0 => format!("{} %", per_mille / 10),
        tenths => format!("{}.{tenths} %", per_mille / 10),
    };
    let times = KILLS_AT_PERCENT.len();
    let semel = match store {
        None => format!("through `semel serve`, which is killed (SIGKILL) {times} times on the way"),
        Some(store) => format!(
            "through two gateways (`semel serve`), A and B, which have their records on {}. Clients choose either, and retry \
             at the other; A is killed (SIGKILL) {times} times on the way",
            store.words
        ),
    };
    format!(
        "{intents} customers buy one thing each from a payment API that charges a card for every POST and ignores the \
         Idempotency-Key. Their clients retry with the same key when no answer comes within {} ms, and some customers click \
         twice. The API answers {} of the requests too late, and breaks the connection of {} after and of {} \
         before it charged.\n\n\
         The same storm comes twice, about {seconds} s in all: straight to the API, then {semel}.",
        storm::CLIENT_TIME_OUT.as_millis(),
        percent(slow_per_mille),
        percent(reply_lost_per_mille),
        percent(dropped_per_mille),
    )
}

fn by_hand(stage: &Stage) -> String {
    let origin = stage.origin.address;
    let gateways = &stage.gateways;
    let (first, last) = (gateways[0].address, gateways[gateways.len() - 1].address);
    let key = if first == last { "c1".to_owned() } else { format!("c1-{}", stage.name()) };
    let post = |gateway: SocketAddr, amount: u32| {
        format!(
            r#"curl -i {gateway}/charges -H 'Idempotency-Key: "{key}"' -d '{{"order":"coffee","amount":{amount}}}'"#
        )
    };
    let kills: Vec<String> = gateways.iter().filter_map(|gateway| Some(format!("kill -9 {}", gateway.id()?))).collect();
    let (bought, refused, kills) = (post(first, 420), post(last, 990), kills.join(", "));
    let again = if first == last {
        format!("# buy a coffee, then send the same line again: the second answer is a replay\n{bought}")
    } else {
        format!("# buy a coffee at gateway A\n{bought}\n# and again at B: its answer is a replay\n{}", post(last, 420))
    };
    format!(
        r#"
All keep running, and the API no longer fails. Try by hand:

{again}
# the same key for another amount: refused, nothing is charged
{refused}
# what the API really did: one request, one charge
curl {origin}/ledger/coffee

Semel comes back when it is killed ({kills}), and remembers.
Ctrl-C ends the demo and leaves nothing behind."#
    )
}

/// Kills the first gateway in the middle of the storm and starts it again, on the same port and the same data.
async fn kill_now_and_then(
    gateways: &mut [GatewayProcess],
    spread: Duration,
    doors: &Doors,
    progress: &Progress,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let is_alone = gateways.len() == 1;
    let first = gateways.first_mut().context("there is no gateway")?;
    for percent in KILLS_AT_PERCENT {
        tokio::time::sleep_until(start + spread * percent / 100).await;
        first.kill();
        let (killed, answered_before) = (Instant::now(), doors.answered_meanwhile());
        doors.first_is_dead(true);
        sleep(if is_alone { DEAD_FOR } else { DEAD_FOR_OF_TWO }).await;
        first.start_again().await?;
        doors.first_is_dead(false);
        let (back, answered) = (killed.elapsed().as_millis(), doors.answered_meanwhile() - answered_before);
        progress.say(&if is_alone {
            format!("semel serve killed with SIGKILL; back after {back} ms")
        } else {
            format!("gateway A killed with SIGKILL; back after {back} ms, and B answered {answered} requests meanwhile")
        });
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

/// Starts a gateway again whenever somebody kills it.
async fn keep_running(gateways: &mut [GatewayProcess]) -> anyhow::Result<()> {
    loop {
        sleep(Duration::from_millis(200)).await;
        for gateway in &mut *gateways {
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
