//! The embedded store beside the bare disk and beside the engine that came closest to it.

mod expiry;
mod life;
mod load;
mod rivals;
mod subject;

use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::Context;
pub(crate) use load::{clients, fill, key, mix};
use semel::store::{Store, SystemClock};
pub(crate) use subject::open;

use crate::{
    Scale,
    machine::{Device, processor_seconds},
    raw::RawDisk,
    report::{Bound, Report, Section, figure},
    stats::median,
};

/// Everything about the store; each part works in a folder of its own and leaves nothing behind.
pub(crate) fn measure(folder: &Path, scale: &Scale, report: &mut Report) -> anyhow::Result<()> {
    swaps(folder, scale, report)?;
    life::measure(folder, scale, report)?;
    expiry::measure(folder, scale, report)
}

/// Concurrent keys, and how many times R0 they shall reach; one alone does two barriers, one after the other.
const CONCURRENCY: [(usize, f64); 4] = [(1, 0.70 / 2.0), (16, 3.0), (128, 15.0), (512, 30.0)];

type Opens = fn(&Path) -> anyhow::Result<Arc<dyn Store>>;

const ENGINES: [(&str, Opens); 3] = [
    (SEMEL, |folder| open(folder, Arc::new(SystemClock::new()))),
    ("raw log", rivals::raw_log),
    (FJALL, rivals::fjall),
];
const SEMEL: &str = "semel";
const FJALL: &str = "fjall";

/// The median of what some runs of one engine at one concurrency did.
struct Measured {
    engine: &'static str,
    concurrency: usize,
    per_second: f64,
    r0: f64,
    of_r0: f64,
    p50_us: f64,
    p99_us: f64,
    device_of_logical: Option<f64>,
    processor_us: f64,
}

fn swaps(folder: &Path, scale: &Scale, report: &mut Report) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for (engine, opens) in ENGINES {
        let folder = folder.join("swaps");
        fs::create_dir_all(&folder).context("cannot make a folder")?;
        let mut disk = RawDisk::new(&folder, scale.probe)?;
        let store = opens(&folder)?;
        let runtime = clients()?;
        let keys = Arc::new(AtomicU64::new(0));
        for (concurrency, _) in CONCURRENCY {
            eprintln!("store: {engine}, {concurrency} concurrent keys");
            let mut runs = Vec::new();
            for _ in 0..scale.rounds {
                runs.push(one_run(&folder, scale, &mut disk, &runtime, &store, &keys, engine, concurrency)?);
            }
            all.push(median_of(&runs));
        }
        drop(store);
        fs::remove_dir_all(&folder).context("cannot remove a folder")?;
    }
    judge(&all, report);
    report.section(Section {
        title: "Store: claim and settle",
        intro: format!(
            "One request is a claim and a settle, both durable, of a fresh key; the kept reply has 200 B of content. {} B are its logical bytes (key, stamp and encoded record, \
             twice). \"raw log\" writes the same bytes behind the same group commit into blocks written before, and has no index. Clients share one thread. R0 is the mean of a \
             probe before and one after the run; device bytes are all that reached the disk meanwhile.",
            load::logical_bytes()
        ),
        columns: vec![
            "engine", "keys", "requests/s", "R0/s", "÷ R0", "p50 ms", "p99 ms", "device ÷ logical bytes", "CPU µs/request",
        ],
        rows: all.iter().map(row).collect(),
    });
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "one run is all of these")]
fn one_run(
    folder: &Path,
    scale: &Scale,
    disk: &mut RawDisk,
    runtime: &tokio::runtime::Runtime,
    store: &Arc<dyn Store>,
    keys: &Arc<AtomicU64>,
    engine: &'static str,
    concurrency: usize,
) -> anyhow::Result<Measured> {
    let me = std::process::id();
    load::run_for(runtime, store, keys, concurrency, scale.store_run / 5)?;
    let before = disk.probe()?;
    let device = Device::of(folder);
    let written = device.as_ref().map(Device::written_bytes).transpose()?;
    let processor = processor_seconds(me);
    let done = load::run_for(runtime, store, keys, concurrency, scale.store_run)?;
    let processor = processor_seconds(me) - processor;
    let written =
        device.as_ref().map(Device::written_bytes).transpose()?.zip(written).map(|(after, before)| after - before);
    let r0 = f64::midpoint(before, disk.probe()?);

    let requests = done.requests as f64;
    let per_second = requests / done.elapsed.as_secs_f64();
    Ok(Measured {
        engine,
        concurrency,
        per_second,
        r0,
        of_r0: per_second / r0,
        p50_us: done.latencies.percentile_us(0.50),
        p99_us: done.latencies.percentile_us(0.99),
        device_of_logical: written.map(|bytes| bytes as f64 / (requests * load::logical_bytes() as f64)),
        processor_us: processor * 1e6 / requests,
    })
}

fn median_of(runs: &[Measured]) -> Measured {
    let of = |figure: fn(&Measured) -> f64| median(runs.iter().map(figure));
    let device = runs.iter().map(|run| run.device_of_logical).collect::<Option<Vec<f64>>>();
    Measured {
        engine: runs[0].engine,
        concurrency: runs[0].concurrency,
        per_second: of(|run| run.per_second),
        r0: of(|run| run.r0),
        of_r0: of(|run| run.of_r0),
        p50_us: of(|run| run.p50_us),
        p99_us: of(|run| run.p99_us),
        device_of_logical: device.map(median),
        processor_us: of(|run| run.processor_us),
    }
}

fn judge(all: &[Measured], report: &mut Report) {
    let of = |engine: &str, concurrency: usize| {
        all.iter().find(|run| run.engine == engine && run.concurrency == concurrency).expect("every engine ran at each")
    };
    for (concurrency, factor) in CONCURRENCY {
        let run = of(SEMEL, concurrency);
        let beside = format!("{} requests/s, R0 {}/s", figure(run.per_second), figure(run.r0));
        if concurrency == 1 {
            report.target("store, 1 key, ÷ (R0 ÷ 2)", Bound::AtLeast(factor * 2.0), run.of_r0 * 2.0, beside);
        } else {
            report.target(format!("store, {concurrency} keys, ÷ R0"), Bound::AtLeast(factor), run.of_r0, beside);
        }
    }
    // Both as ratios to the R0 of their own minute: the disk may have been another one.
    let (semel, fjall) = (of(SEMEL, 128), of(FJALL, 128));
    let beside = format!("fjall {} requests/s, R0 {}/s", figure(fjall.per_second), figure(fjall.r0));
    report.target("store ÷ fjall, 128 keys", Bound::AtLeast(2.0), semel.of_r0 / fjall.of_r0, beside);
    for concurrency in [128, 512] {
        let what = format!("device ÷ logical bytes, {concurrency} keys");
        match of(SEMEL, concurrency).device_of_logical {
            Some(ratio) => {
                let beside = format!("{} logical bytes per request", load::logical_bytes());
                report.target(what, Bound::AtMost(1.5), ratio, beside);
            }
            None => report.target(what, Bound::AtMost(1.5), f64::NAN, "this file system hides its device"),
        }
    }
}

fn row(run: &Measured) -> Vec<String> {
    vec![
        run.engine.to_owned(),
        run.concurrency.to_string(),
        figure(run.per_second),
        figure(run.r0),
        figure(run.of_r0),
        figure(run.p50_us / 1e3),
        figure(run.p99_us / 1e3),
        run.device_of_logical.map_or_else(|| "?".to_owned(), figure),
        figure(run.processor_us),
    ]
}

/// For people: milliseconds, or seconds from one on.
pub(crate) fn shown(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", figure(duration.as_secs_f64() * 1e3))
    } else {
        format!("{} s", figure(duration.as_secs_f64()))
    }
}
