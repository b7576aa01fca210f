//! A million expired records given back by PostgreSQL, while requests go on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use semel::store::{
    Store,
    postgres::{Options, PostgresStore},
};
use tokio::runtime::Runtime;

use super::{DATABASE, Server, postgres, runtime};
use crate::{
    Scale,
    raw::RawDisk,
    report::{Bound, Report, Section, figure},
    store::{self, Done},
};

const CONCURRENCY: usize = 16;
/// How long the store lets requests wait for the table that is dropped.
const TABLE_LOCK_MAX_MS: f64 = 100.0;
/// How long giving back may take in all.
const PATIENCE: Duration = Duration::from_mins(2);
const BETWEEN_SWEEPS: Duration = Duration::from_millis(100);

/// Requests before, and requests while the records are given back.
pub(super) fn measure(scale: &Scale, disk: &mut RawDisk, report: &mut Report) -> anyhow::Result<()> {
    let started = Server::postgres()?;
    let Server::Postgres(server) = &started else { bail!("a PostgreSQL was started") };
    let runtime = runtime()?;
    let store: Arc<dyn Store> = Arc::new(runtime.block_on(postgres::open(server))?);
    eprintln!("shared: PostgreSQL, {} records that are past", scale.records);
    server.psql(DATABASE, &fill(scale.records)).context("cannot write expired records")?;
    // Requests write into the next epoch, as they do once a period is over.
    let options = Options { period: Duration::from_millis(1), ..Options::new(server.url(DATABASE)) };
    runtime.block_on(async { PostgresStore::open(options).await?.sweep(1).await.map_err(anyhow::Error::from) })?;
    ensure!(partitions(server)? == 2, "no epoch was opened");
    server.psql(DATABASE, "CHECKPOINT").context("cannot write a checkpoint")?;

    let r0 = disk.probe()?;
    let keys = Arc::new(AtomicU64::new(0));
    let warm = Duration::from_secs(1);
    store::run_for(&runtime, &store, &keys, CONCURRENCY, warm)?;
    let before = store::run_for(&runtime, &store, &keys, CONCURRENCY, scale.shared_run)?;
    let (during, took) = while_given_back(&runtime, &store, &keys, || Ok(partitions(server)? == 1))?;

    let longest = |done: &Done| done.latencies.percentile_us(1.0) / 1e3;
    let beside =
        format!("{} ms before; given back in {} ms", figure(longest(&before)), figure(took.as_secs_f64() * 1e3));
    let what = format!("PostgreSQL, longest request in ms while {} records are dropped", figure(scale.records as f64));
    report.target(what, Bound::AtMost(TABLE_LOCK_MAX_MS + longest(&before)), longest(&during), beside);
    let row = |when: &str, done: &Done| {
        vec![
            when.to_owned(),
            figure(done.requests as f64 / done.elapsed.as_secs_f64()),
            figure(done.latencies.percentile_us(0.5) / 1e3),
            figure(done.latencies.percentile_us(0.99) / 1e3),
            figure(longest(done)),
            figure(done.elapsed.as_secs_f64()),
            figure(r0),
        ]
    };
    report.section(Section {
        title: "Shared stores: expired records are given back",
        intro: format!(
            "{CONCURRENCY} requests at a time on PostgreSQL, beside {} records past their retention in a partition of an \
             epoch that is over. While requests go on, the store sweeps until that partition is gone: it reads it once and \
             drops it. To reach: no request takes longer than the longest before and the {TABLE_LOCK_MAX_MS} ms for which the \
             table may be waited for.",
            figure(scale.records as f64)
        ),
        columns: vec!["", "requests/s", "p50 ms", "p99 ms", "longest ms", "s", "R0/s"],
        rows: vec![row("before", &before), row("while given back", &during)],
    });
    Ok(())
}

/// Makes requests from a little before the first sweep to a little after the last.
fn while_given_back(
    runtime: &Runtime,
    store: &Arc<dyn Store>,
    keys: &Arc<AtomicU64>,
    is_gone: impl Fn() -> anyhow::Result<bool>,
) -> anyhow::Result<(Done, Duration)> {
    let stop = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let requests = scope.spawn(|| store::run_until(runtime, store, keys, CONCURRENCY, stop.clone()));
        thread::sleep(BETWEEN_SWEEPS);
        let started = Instant::now();
        let swept = (|| {
            while !is_gone()? {
                ensure!(started.elapsed() < PATIENCE, "the records are not given back within {PATIENCE:?}");
                runtime.block_on(store.sweep(1)).context("a sweep failed")?;
            }
            Ok(started.elapsed())
        })();
        thread::sleep(BETWEEN_SWEEPS);
        stop.store(true, Ordering::Relaxed);
        let done = requests.join().expect("the load does not panic")?;
        Ok((done, swept?))
    })
}

/// Completed records of two days ago, of one day's retention.
fn fill(records: u64) -> String {
    let day_ms = 24 * 60 * 60 * 1_000_u64;
    format!(
        "INSERT INTO semel_records (key, epoch, stamp, written_ms, expires_ms, phase, record)
         SELECT sha256(int8send(n)), 1, substr(sha256(int8send(-n)), 1, 18), now_ms - 2 * {day_ms}, now_ms - {day_ms}, 3,
             decode(repeat('5a', 330), 'hex')
         FROM generate_series(1, {records}) AS n, (SELECT floor(date_part('epoch', now()) * 1000)::bigint AS now_ms) c"
    )
}

fn partitions(server: &semel_servers::PrivatePostgres) -> anyhow::Result<u32> {
    let count =
        server.psql(DATABASE, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'semel_records'::regclass")?;
    count.parse().context("PostgreSQL does not count partitions")
}
