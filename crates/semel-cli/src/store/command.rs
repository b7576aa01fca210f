//! `semel store`: what operators do with a store, beside the gateways that use it.

use std::{fmt::Write as _, path::Path, time::Duration};

use anyhow::Context as _;
use semel::store::{
    PhaseKind, Store,
    postgres::PostgresStore,
    redis::RedisStore,
    shared::{Finding, OpenError, Severity},
};
use serde_json::json;

use super::{at, open_embedded, postgres_options, recovered, redis_options, refused};
use crate::{
    FAILURE, SUCCESS,
    config::{Config, Place, StoreConfig, words},
};

/// Records that are read at once to be counted.
const PAGE_RECORDS: u32 = 1_000;

/// What is done with a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// Makes its tables, or brings them to this release.
    Migrate,
    /// Says what would be lost on it.
    Check,
    /// Counts.
    Stats(Form),
}

/// How figures are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Does it, and says the exit code.
pub(crate) fn run(command: Command, config: &Config) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let (store, data) = (&config.store, config.gateway.data.as_path());
    runtime.block_on(async {
        match command {
            Command::Migrate => migrate(store).await,
            Command::Check => check(store, data).await,
            Command::Stats(form) => stats(store, data, form).await,
        }
    })
}

/// What `migrate` runs, for whoever may not let a program make tables.
pub(crate) fn migrations() -> String {
    PostgresStore::migrations_sql()
}

async fn migrate(config: &StoreConfig) -> anyhow::Result<u8> {
    match &config.place {
        Place::Embedded | Place::Memory | Place::Redis(_) => {
            println!("nothing to migrate: {} has no tables", config.place.kind());
        }
        Place::Postgres(url) => {
            let options = postgres_options(config, url)?;
            let migrated = PostgresStore::migrate(options).await.map_err(|error| refused(config, &error))?;
            let (at, version) = (at(config), migrated.version);
            if migrated.changed {
                println!("{at}: the tables are made, version {version}");
            } else {
                println!("{at}: nothing to do, the tables have version {version}");
            }
        }
    }
    Ok(SUCCESS)
}

async fn check(config: &StoreConfig, data: &Path) -> anyhow::Result<u8> {
    // What is fatal is to be told with everything else, and not to end the look.
    let lenient = StoreConfig { accept_loss: true, ..config.clone() };
    let findings = match &config.place {
        Place::Memory => {
            println!("nothing to check: the records are in the process of the gateway, and end with it");
            return Ok(SUCCESS);
        }
        Place::Embedded => return check_embedded(data),
        Place::Postgres(url) => match PostgresStore::open(postgres_options(&lenient, url)?).await {
            Ok(store) => store.check().await.with_context(|| at(config))?,
            Err(OpenError::Refused(findings)) => findings,
            Err(error) => return Err(refused(config, &error)),
        },
        Place::Redis(url) => match RedisStore::open(redis_options(&lenient, url)?).await {
            Ok(store) => store.check().await.with_context(|| at(config))?,
            Err(OpenError::Refused(findings)) => findings,
            Err(error) => return Err(refused(config, &error)),
        },
    };
    print!("{}", told(config, &findings));
    let fatal = findings.iter().any(|finding| finding.severity == Severity::Fatal);
    Ok(if fatal && !config.accept_loss { FAILURE } else { SUCCESS })
}

/// The findings, the worst first, and what they come to.
fn told(config: &StoreConfig, findings: &[Finding]) -> String {
    let mut findings: Vec<&Finding> = findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut text = String::new();
    let mut fatal = 0;
    for finding in findings {
        let word = match finding.severity {
            Severity::Fatal => {
                fatal += 1;
                "fatal"
            }
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let _ = writeln!(text, "{word}: {}", finding.what);
        if !finding.what_to_do.is_empty() {
            let _ = writeln!(text, "    {}", finding.what_to_do);
        }
    }
    let sum = match (fatal, config.accept_loss) {
        (0, _) => "fine: semel serve starts on it",
        (_, false) => "semel serve does not start on it, unless accept_loss = true in [store]",
        (_, true) => "semel serve starts on it, since accept_loss = true",
    };
    let _ = writeln!(text, "{}: {sum}", at(config));
    text
}

fn check_embedded(data: &Path) -> anyhow::Result<u8> {
    if data.is_dir() {
        // Opening it is the check. A gateway that runs has made it, and holds the folder.
        let (_store, recovery) = open_embedded(data)?;
        println!("data in {}: {}", data.display(), recovered(&recovery));
    } else {
        println!("{} is not there: semel serve makes it", data.display());
    }
    Ok(SUCCESS)
}

/// What there is to count. `None`: this store does not know.
struct Figures {
    records: [(PhaseKind, u64); 4],
    oldest_unknown: Option<Duration>,
    bytes: Option<u64>,
    partitions: Option<u32>,
}

async fn stats(config: &StoreConfig, data: &Path, form: Form) -> anyhow::Result<u8> {
    let lenient = StoreConfig { accept_loss: true, ..config.clone() };
    let figures = match &config.place {
        Place::Memory => anyhow::bail!("the records are in the process of the gateway, which alone can count them"),
        Place::Embedded if !data.is_dir() => anyhow::bail!("{} is not there", data.display()),
        Place::Embedded => count(&open_embedded(data)?.0).await?,
        Place::Postgres(url) => {
            let opened = PostgresStore::open(postgres_options(&lenient, url)?).await;
            let store = opened.map_err(|error| refused(config, &error))?;
            let stats = store.stats().await.with_context(|| at(config))?;
            Figures {
                records: [
                    (PhaseKind::InFlight, stats.in_flight),
                    (PhaseKind::Unknown, stats.unknown),
                    (PhaseKind::Completed, stats.completed),
                    (PhaseKind::Held, stats.held),
                ],
                oldest_unknown: stats.oldest_unknown,
                bytes: Some(stats.bytes),
                partitions: Some(stats.partitions),
            }
        }
        Place::Redis(url) => {
            let opened = RedisStore::open(redis_options(&lenient, url)?).await;
            let store = opened.map_err(|error| refused(config, &error))?;
            let stats = store.stats().await.with_context(|| at(config))?;
            Figures {
                records: PHASES.map(|phase| (phase, stats.records.get(&phase).copied().unwrap_or(0))),
                oldest_unknown: stats.oldest_unknown,
                bytes: Some(stats.bytes),
                partitions: None,
            }
        }
    };
    print!("{}", figures.told(&at(config), form));
    Ok(SUCCESS)
}

const PHASES: [PhaseKind; 4] = [PhaseKind::InFlight, PhaseKind::Unknown, PhaseKind::Completed, PhaseKind::Held];

/// Counts by reading all records, a page at a time.
async fn count(store: &impl Store) -> anyhow::Result<Figures> {
    let mut oldest_unknown = None;
    let mut records = PHASES.map(|phase| (phase, 0));
    for (phase, count) in &mut records {
        let mut after = None;
        loop {
            let page = store.scan(*phase, after, PAGE_RECORDS).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            *count += page.len() as u64;
            if *phase == PhaseKind::Unknown {
                oldest_unknown = page.iter().map(|(_, found)| found.age).max().max(oldest_unknown);
            }
        }
    }
    Ok(Figures { records, oldest_unknown, bytes: None, partitions: None })
}

impl Figures {
    fn told(&self, at: &str, form: Form) -> String {
        match form {
            Form::Text => self.text(at),
            Form::Json => self.json(at),
        }
    }

    fn text(&self, at: &str) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<24} {value}");
        };
        row("store", at.to_owned());
        for (phase, count) in self.records {
            row(name(phase).0, count.to_string());
        }
        let oldest = self.oldest_unknown.map(|age| words::duration(Duration::from_secs(age.as_secs())));
        row("oldest unknown outcome", oldest.map_or_else(|| "none".to_owned(), |age| format!("{age} ago")));
        if let Some(bytes) = self.bytes {
            row("size", bytesize::ByteSize(bytes).to_string());
        }
        if let Some(partitions) = self.partitions {
            row("partitions", partitions.to_string());
        }
        text
    }

    fn json(&self, at: &str) -> String {
        let mut figures = json!({
            "store": at,
            "oldest_unknown_seconds": self.oldest_unknown.map(|age| age.as_secs()),
            "bytes": self.bytes,
            "partitions": self.partitions,
        });
        for (phase, count) in self.records {
            figures[name(phase).1] = json!(count);
        }
        format!("{figures}\n")
    }
}

/// What records in that phase are called, for people and as a member of JSON.
fn name(phase: PhaseKind) -> (&'static str, &'static str) {
    match phase {
        PhaseKind::InFlight => ("in flight", "in_flight"),
        PhaseKind::Unknown => ("outcome unknown", "outcome_unknown"),
        PhaseKind::Completed => ("completed", "completed"),
        PhaseKind::Held => ("guards held", "guards_held"),
    }
}
