//! `semel call`, `semel resume`, `semel journal`: the client on the command line.

use std::{
    fmt,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::{Args, Subcommand};
use semel_client::{
    Client, CountedKeys, Http, Intent, Journal, Key, Listed, Outcome, Preset, SendError, State, is_credential,
};

use crate::config::ConfigError;

mod show;
#[cfg(debug_assertions)]
mod stop;

/// It happened: fresh, replayed, or it exists.
const DONE: u8 = 0;
/// The program failed; the journal says what became of the operation.
const FAILURE: u8 = 1;
/// It did not happen.
const REJECTED: u8 = 3;
/// Nobody knows yet.
const UNRESOLVED: u8 = 4;
/// Interrupted by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Sends one write request until it is known whether it happened.
///
/// The key is minted once and kept in the journal before the first byte leaves. Whatever happens in between, a call with
/// the same --id, or `semel resume`, goes on with the same key and the same bytes.
#[derive(Args)]
#[command(after_help = call_help())]
pub(crate) struct Call {
    /// The method, such as POST
    method: http::Method,
    /// Where to
    url: String,
    /// The JSON content: @file, @- for standard input, or the text itself
    #[arg(long, value_name = "@FILE|TEXT")]
    json: Option<String>,
    /// Your own name for this action, such as an order's number: the same one is the same operation [default: the key]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The idempotency key [default: a fresh UUID, or the one in the content]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Take a key that ends with a number of attempts
    #[arg(long)]
    counted_key: bool,
    /// Whose API it is: ietf, stripe, etherfuse, credicorp, yonne, nora
    #[arg(long, value_name = "NAME", default_value = "ietf")]
    preset: Preset,
    #[command(flatten)]
    common: Common,
}

const EXITS: &str = "\
Exit codes:
  0    it happened: the reply is on standard output, byte for byte
  1    this program failed; run it again
  2    wrong command line, or not the operation that the journal knows by that name; nothing was sent
  3    it did not happen: mend the cause, then resume or send a corrected one; the last reply is on standard output
  4    nobody knows yet whether it happened: resume later, and never with another key
  130  interrupted; what was sent can be resumed";

fn call_help() -> String {
    format!(
        "\
Examples:
  semel call POST https://api.example/orders --json @order.json --id order-7
  semel call POST https://api.yonne.app/api/v1/external/create-order --preset yonne --json @order.json \\
      --header @credentials --id order-WEB-100245
  semel resume; semel journal show

{EXITS}"
    )
}

/// What sending takes.
#[derive(Args)]
struct Common {
    /// A header, or @file with one on every line; credentials are never written to the journal
    #[arg(long, value_name = "NAME: VALUE|@FILE")]
    header: Vec<String>,
    #[command(flatten)]
    journal: JournalFlag,
    /// Attempts at most [default: the preset's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempts_max: Option<u32>,
    /// How long to go on at most, such as 10m [default: the preset's]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    elapsed_max: Option<Duration>,
    /// Dies at this step of the first exchange.
    #[cfg(debug_assertions)]
    #[arg(long, hide = true)]
    stop_at: Option<stop::StopAt>,
}

#[derive(Args)]
pub(crate) struct JournalFlag {
    /// The folder where operations survive [default: ~/.local/share/semel/journal]
    #[arg(long, value_name = "DIR", env = "SEMEL_JOURNAL")]
    journal: Option<PathBuf>,
}

/// Goes on with what was interrupted or is unresolved, with the same keys and the same bytes.
///
/// Without ID: with everything that is open, and one line of JSON for each on standard output. With ID: with that
/// operation, also if it was stopped for a cause that is mended by now, and its reply on standard output.
#[derive(Args)]
#[command(after_help = EXITS)]
pub(crate) struct Resume {
    /// The operation
    id: Option<String>,
    /// Lists what would be resumed, and sends nothing
    #[arg(long, conflicts_with = "id")]
    list: bool,
    #[command(flatten)]
    common: Common,
}

/// Shows what the journal has, or forgets an operation.
#[derive(Subcommand)]
pub(crate) enum JournalCommand {
    /// Every operation, or everything about one.
    Show {
        /// The operation
        id: Option<String>,
        #[command(flatten)]
        journal: JournalFlag,
    },
    /// Forgets an operation whose outcome you have found out: nothing more is sent for it.
    Forget {
        /// The operation
        id: String,
        #[command(flatten)]
        journal: JournalFlag,
    },
}

/// Runs `semel call`.
pub(crate) fn call(args: Call) -> anyhow::Result<u8> {
    let headers = headers(&args.common.header)?;
    let mut builder = Intent::request(args.method, args.url).preset(args.preset);
    if args.counted_key {
        builder = builder.counted_keys(CountedKeys::Allow);
    }
    if let Some(json) = &args.json {
        builder = builder.json(content(json)?);
    }
    for (name, value) in headers.iter().filter(|(name, _)| !is_credential(name)) {
        builder = builder.header(name, value);
    }
    if let Some(key) = &args.key {
        let counted = if args.counted_key { CountedKeys::Allow } else { CountedKeys::Refuse };
        builder = builder.key(Key::given(key, counted).map_err(|error| usage(format!("--key: {error}")))?);
    }
    if let Some(id) = args.id {
        builder = builder.operation(id);
    }
    let intent = builder.build().map_err(usage)?;
    run(async {
        let client = client(&args.common, &headers)?;
        let journal = client.journal().clone();
        // An operation that is known keeps its key.
        let known = journal.list().await?.into_iter().find(|listed| listed.intent.operation() == intent.operation());
        let key = known.as_ref().map_or(intent.key(), |known| known.intent.key());
        eprintln!("semel: operation {}, key {key}, journal {}", intent.operation(), journal.folder().display());
        tokio::select! {
            outcome = client.send(&intent) => told(intent.operation(), &journal, outcome),
            _ = tokio::signal::ctrl_c() => interrupted(&journal, Some(intent.operation())).await,
        }
    })
}

/// Runs `semel resume`.
pub(crate) fn resume(args: &Resume) -> anyhow::Result<u8> {
    let headers = headers(&args.common.header)?;
    if let Some(name) = headers.iter().map(|(name, _)| name).find(|name| !is_credential(name)) {
        return Err(usage(format!("--header {name}: only credentials can be given here; all else is in the journal")));
    }
    run(async {
        let client = client(&args.common, &headers)?;
        let journal = client.journal().clone();
        if let Some(id) = &args.id {
            return tokio::select! {
                outcome = client.resume_operation(id) => told(id, &journal, outcome),
                _ = tokio::signal::ctrl_c() => interrupted(&journal, Some(id)).await,
            };
        }
        let open: Vec<Listed> = journal.list().await?.into_iter().filter(|listed| is_open(listed.state)).collect();
        if args.list {
            print!("{}", show::table(&open));
            return Ok(DONE);
        }
        let origin = |listed: &Listed| listed.intent.target().authority().map(ToString::to_string);
        // A credential must not reach whoever it is not meant for.
        if !headers.is_empty() && open.windows(2).any(|two| origin(&two[0]) != origin(&two[1])) {
            return Err(usage("the operations go to several hosts: resume them one by one to use --header"));
        }
        let resumed = tokio::select! {
            resumed = client.resume() => resumed?,
            _ = tokio::signal::ctrl_c() => return interrupted(&journal, None).await,
        };
        let mut worst = DONE;
        for (id, outcome) in resumed {
            let code = outcome.as_ref().map_or(FAILURE, exit);
            print!("{}", show::line(&id, &outcome));
            eprintln!("semel: {id}: {}", outcome.as_ref().map_or_else(ToString::to_string, said));
            worst = if worst == FAILURE || code == FAILURE { FAILURE } else { worst.max(code) };
        }
        Ok(worst)
    })
}

/// Runs `semel journal`.
pub(crate) fn journal(command: JournalCommand) -> anyhow::Result<u8> {
    run(async {
        match command {
            JournalCommand::Show { id: None, journal } => {
                print!("{}", show::table(&journal.open()?.list().await?));
                Ok(DONE)
            }
            JournalCommand::Show { id: Some(id), journal } => {
                let listed = journal.open()?.list().await?;
                let one = listed.into_iter().find(|listed| listed.intent.operation() == id);
                print!("{}", show::one(&one.ok_or_else(|| anyhow!("the journal has no operation {id}"))?));
                Ok(DONE)
            }
            JournalCommand::Forget { id, journal } => {
                if !journal.open()?.forget(&id).await? {
                    return Err(anyhow!("the journal has no operation {id}"));
                }
                Ok(DONE)
            }
        }
    })
}

fn run(work: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    // A reader that stops reading is not a failure of the operation.
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?.block_on(work)
}

fn client(common: &Common, headers: &[(String, String)]) -> anyhow::Result<Client<Http>> {
    log();
    let mut client = Client::new(Http::new()?, common.journal.open()?);
    for (name, value) in headers.iter().filter(|(name, _)| is_credential(name)) {
        client = client.secret_header(name, value).map_err(usage)?;
    }
    if let Some(attempts_max) = common.attempts_max {
        client = client.attempts_max(attempts_max);
    }
    if let Some(elapsed_max) = common.elapsed_max {
        client = client.elapsed_max(elapsed_max);
    }
    #[cfg(debug_assertions)]
    if let Some(stop_at) = common.stop_at {
        client = client.surroundings(stop::Stopping::new(stop_at));
    }
    Ok(client)
}

/// Progress, one line for every exchange, on standard error.
fn log() {
    let shown = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_env_filter("semel::attempt=info");
    // A second one in the same process changes nothing.
    let _ = shown.try_init();
}

impl JournalFlag {
    fn open(&self) -> anyhow::Result<Journal> {
        let folder = match &self.journal {
            Some(folder) => folder.clone(),
            None => std::env::home_dir()
                .filter(|home| !home.as_os_str().is_empty())
                .map(|home| home.join(".local/share/semel/journal"))
                .ok_or_else(|| usage("there is no home folder: give --journal"))?,
        };
        Ok(Journal::open(folder)?)
    }
}

fn usage(error: impl fmt::Display) -> anyhow::Error {
    ConfigError::new(error.to_string()).into()
}

fn headers(given: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    for text in given {
        let lines = match text.strip_prefix('@') {
            Some(path) => String::from_utf8(file(Path::new(path))?).map_err(usage)?,
            None => text.clone(),
        };
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            // The value is not repeated: it may be a credential.
            let (name, value) = line.split_once(':').ok_or_else(|| usage("--header: expected NAME: VALUE"))?;
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    Ok(headers)
}

fn content(text: &str) -> anyhow::Result<Bytes> {
    let bytes = match text.strip_prefix('@') {
        Some(path) => file(Path::new(path))?,
        None => text.as_bytes().to_vec(),
    };
    serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).map_err(|error| usage(format!("--json: {error}")))?;
    Ok(bytes.into())
}

fn file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| usage(format!("cannot read {}: {error}", path.display())))
}

fn is_open(state: State) -> bool {
    match state {
        State::Open | State::Unresolved => true,
        State::Done | State::Rejected | State::Stopped => false,
    }
}

/// Says how it ended and gives the reply.
fn told(id: &str, journal: &Journal, outcome: Result<Outcome, SendError>) -> anyhow::Result<u8> {
    let outcome = outcome.map_err(failure)?;
    eprintln!("semel: {id}: {}", said(&outcome));
    if let Some(reply) = outcome.reply() {
        let mut out = std::io::stdout().lock();
        // Whoever closed it does not want it; the journal has it.
        let _ = out.write_all(&reply.content).and_then(|()| out.flush());
    }
    if matches!(&outcome, Outcome::Unresolved(_)) || matches!(&outcome, Outcome::Rejected(no) if no.resumable) {
        eprintln!("semel: go on with: semel resume --journal {} {id}", journal.folder().display());
    }
    Ok(exit(&outcome))
}

fn exit(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Fresh(_) | Outcome::Replayed(_) | Outcome::AlreadyExists(_) => DONE,
        Outcome::Rejected(_) => REJECTED,
        Outcome::Unresolved(_) => UNRESOLVED,
    }
}

fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Fresh(reply) => format!("done ({})", reply.status.as_u16()),
        Outcome::Replayed(reply) => format!("done before; the reply is that of then ({})", reply.status.as_u16()),
        Outcome::AlreadyExists(resource) => format!("done before; it is {}", resource.path),
        Outcome::Rejected(no) => format!("rejected ({}): {}", no.why, no.say),
        Outcome::Unresolved(open) => format!("unresolved ({}): {}", open.why, open.say),
    }
}

/// Whose mistake it is: the caller's is told as a wrong command line is.
fn failure(error: SendError) -> anyhow::Error {
    match error {
        SendError::Journal(_) => error.into(),
        SendError::Edited(_)
        | SendError::AnotherKey(_)
        | SendError::KeyTaken(_)
        | SendError::OtherCredentials(_)
        | SendError::NoSuchOperation(_)
        | SendError::Header(_) => usage(error),
    }
}

async fn interrupted(journal: &Journal, id: Option<&str>) -> anyhow::Result<u8> {
    let open = journal.list().await?.into_iter().filter(|listed| is_open(listed.state));
    let open = open.filter(|listed| id.is_none_or(|id| id == listed.intent.operation())).count();
    let id = id.unwrap_or_default();
    if open == 0 {
        eprintln!("semel: interrupted; nothing was sent");
    } else {
        let folder = journal.folder().display();
        eprintln!("semel: interrupted; it may have happened. Go on with: semel resume --journal {folder} {id}");
    }
    Ok(INTERRUPTED)
}
