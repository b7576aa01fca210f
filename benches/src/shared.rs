//! Stores that several gateways share, beside what the same servers reach under their own benchmarks.

mod contest;
mod drops;
mod gateways;
mod postgres;
mod redis;

use std::path::Path;

use anyhow::Context;
use semel_servers::{PostgresOptions, PrivatePostgres, PrivateRedis};
use tokio::runtime::Runtime;

use crate::{
    Scale,
    machine::{processor_seconds, with_children},
    raw::RawDisk,
    report::Report,
};

/// Each part starts servers of its own; nothing is left behind, on errors too.
pub(crate) fn measure(folder: &Path, semel: &Path, scale: &Scale, report: &mut Report) -> anyhow::Result<()> {
    // Where the private servers have their data too.
    let beside = tempfile::tempdir().context("cannot make a folder for the raw probe")?;
    let mut disk = RawDisk::new(beside.path(), scale.probe)?;
    let mut raced = postgres::race(scale, &mut disk)?;
    raced.extend(redis::race(scale, &mut disk)?);
    contest::tell(&raced, report);
    gateways::measure(folder, semel, scale, &mut disk, report)?;
    drops::measure(scale, &mut disk, report)
}

/// A server of either kind.
enum Server {
    Postgres(PrivatePostgres),
    Redis(PrivateRedis),
}

/// What an operator would give a server whose commits wait for the disk.
const POSTGRES_SETTINGS: [(&str, &str); 5] = [
    ("shared_buffers", "256MB"),
    ("max_wal_size", "4GB"),
    ("synchronous_commit", "on"),
    ("autovacuum", "on"),
    // Counts statements; both sides of every ratio pay for it.
    ("shared_preload_libraries", "pg_stat_statements"),
];

impl Server {
    fn postgres() -> anyhow::Result<Server> {
        let settings = POSTGRES_SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let options = PostgresOptions { fsync: true, settings, ..PostgresOptions::default() };
        let server = PrivatePostgres::start_with(options).context("cannot start PostgreSQL")?;
        server.psql(DATABASE, "CREATE EXTENSION pg_stat_statements").context("cannot count statements")?;
        Ok(Server::Postgres(server))
    }

    fn redis() -> anyhow::Result<Server> {
        Ok(Server::Redis(PrivateRedis::start().context("cannot start Redis")?))
    }

    fn name(&self) -> &'static str {
        match self {
            Server::Postgres(_) => POSTGRES,
            Server::Redis(_) => REDIS,
        }
    }

    fn url(&self) -> String {
        match self {
            Server::Postgres(server) => server.url(DATABASE),
            Server::Redis(server) => server.url(),
        }
    }

    /// How often a store has asked it anything so far: statements, or scripts and what else is no part of one.
    fn round_trips(&self) -> anyhow::Result<f64> {
        match self {
            Server::Postgres(server) => {
                let asked = "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query LIKE '%unnest%'";
                server.psql(DATABASE, asked)?.parse().context("PostgreSQL counts no statements")
            }
            Server::Redis(server) => {
                let told = server.cli(&["INFO", "commandstats"])?;
                let asked = told.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
                let asked = asked.filter(|(command, _)| ASKED_OF_REDIS.contains(command));
                Ok(asked.filter_map(|(_, rest)| rest.split(',').next()?.parse::<f64>().ok()).sum())
            }
        }
    }

    /// Processor time of all its processes that live, in seconds.
    fn processor_seconds(&self) -> f64 {
        let process = match self {
            Server::Postgres(server) => server.process(),
            Server::Redis(server) => server.process(),
        };
        process.map_or(0.0, |process| with_children(process).into_iter().map(processor_seconds).sum())
    }
}

const POSTGRES: &str = "PostgreSQL";
const REDIS: &str = "Redis";
const DATABASE: &str = "postgres";
const ASKED_OF_REDIS: [&str; 6] = ["eval", "evalsha", "evalsha_ro", "script|load", "wait", "waitaof"];

/// As many threads as `semel serve` has.
fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the clients")
}
