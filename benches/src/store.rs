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
pub(crate) use load::{Done, claim, clients, fill, key, mix, run_for, run_until, settle};
use semel::store::{SimulatedClock, Store};

pub(crate) use subject::open;
use tokio::runtime::Runtime;

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

/// An engine under test.
struct Engine {
    name: &'static str,
    opens: Opens,
    space: Space,
}

type Opens = fn(&Path, Arc<SimulatedClock>) -> anyhow::Result<Arc<dyn Store>>;

/// Where an engine gets the space for what it writes.
#[derive(Clone, Copy)]
enum Space {
    /// From records past their retention: before each run those of the run before are made to expire, and swept. A
    /// store in service is always in this state.
    Expired,
    /// From wherever it likes.
    Own,
}

const ENGINES: [Engine; 3] = [
    Engine { name: SEMEL, opens: |folder, clock| open(folder, clock), space: Space::Expired },
    Engine { name: "raw log", opens: |folder, _| rivals::raw_log(folder), space: Space::Own },
    Engine { name: FJALL, opens: |folder, _| rivals::fjall(folder), space: Space::Own },
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
    for engine in &ENGINES {
        let folder = folder.join("swaps");
        fs::create_dir_all(&folder).context("cannot make a folder")?;
        let mut bed = Bed::new(engine, &folder, scale)?;
        for (concurrency, _) in CONCURRENCY {
            eprintln!("store: {}, {concurrency} concurrent keys", engine.name);
            let runs = (0..scale.rounds).map(|_| bed.run(concurrency)).collect::<Result<Vec<_>, _>>()?;
            all.push(median_of(&runs));
        }
        drop(bed);
        fs::remove_dir_all(&folder).context("cannot remove a folder")?;
    }
    judge(&all, report);
    report.section(Section {
        title: "Store: claim and settle",
        intro: format!(
            "One request is a claim and a settle, both durable, of a fresh key; the kept reply has 200 B of \
             content. {} B are its logical bytes (key, stamp and encoded record, twice). Semel writes over expired \
             records, as a store in service does. \"raw log\" writes the same bytes behind the same group commit into \
             blocks written before, and has no index; fjall sits behind that group commit too. Clients share one \
             thread. R0 is the mean of a probe before and one after the run; device bytes are all that reached the \
             disk meanwhile, whoever wrote them.",
            load::logical_bytes()
        ),
        columns: vec![
            "engine",
            "keys",
            "requests/s",
            "R0/s",
            "÷ R0",
            "p50 ms",
            "p99 ms",
            "device ÷ logical bytes",
            "CPU µs/request",
        ],
        rows: all.iter().map(row).collect(),
    });
    Ok(())
}

/// One engine, open in its folder.
struct Bed<'a> {
    engine: &'a Engine,
    scale: &'a Scale,
    disk: RawDisk,
    device: Option<Device>,
    clock: Arc<SimulatedClock>,
    store: Arc<dyn Store>,
    runtime: Runtime,
    keys: Arc<AtomicU64>,
}

impl Bed<'_> {
    fn new<'a>(engine: &'a Engine, folder: &Path, scale: &'a Scale) -> anyhow::Result<Bed<'a>> {
        // Any day will do.
        let clock = Arc::new(SimulatedClock::at(1_800_000_000_000));
        let store = (engine.opens)(folder, clock.clone())?;
        let runtime = clients()?;
        let mut keys = 0;
        if let Space::Expired = engine.space {
            // More than one run writes.
            keys = 2 * scale.records;
            fill(&runtime, &store, keys)?;
        }
        let (disk, device) = (RawDisk::new(folder, scale.probe)?, Device::of(folder));
        Ok(Bed { engine, scale, disk, device, clock, store, runtime, keys: Arc::new(AtomicU64::new(keys)) })
    }

    fn run(&mut self, concurrency: usize) -> anyhow::Result<Measured> {
        if let Space::Expired = self.engine.space {
            self.clock.advance(load::RETENTION);
            expiry::sweep_all(&*self.store)?;
        }
        let me = std::process::id();
        self.load(concurrency, self.scale.store_run / 5)?;
        let before = self.disk.probe()?;
        let written = self.written_bytes()?;
        let processor = processor_seconds(me);
        let done = self.load(concurrency, self.scale.store_run)?;
        let processor = processor_seconds(me) - processor;
        let written = self.written_bytes()?.zip(written).map(|(after, before)| after - before);
        let r0 = f64::midpoint(before, self.disk.probe()?);

        let requests = done.requests as f64;
        let logical = requests * load::logical_bytes() as f64;
        let per_second = requests / done.elapsed.as_secs_f64();
        Ok(Measured {
            engine: self.engine.name,
            concurrency,
            per_second,
            r0,
            of_r0: per_second / r0,
            p50_us: done.latencies.percentile_us(0.50),
            p99_us: done.latencies.percentile_us(0.99),
            device_of_logical: written.map(|bytes| bytes as f64 / logical),
            processor_us: processor * 1e6 / requests,
        })
    }

    fn load(&self, concurrency: usize, duration: Duration) -> anyhow::Result<load::Done> {
        load::run_for(&self.runtime, &self.store, &self.keys, concurrency, duration)
    }

    fn written_bytes(&self) -> anyhow::Result<Option<u64>> {
        self.device.as_ref().map(Device::written_bytes).transpose()
    }
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
