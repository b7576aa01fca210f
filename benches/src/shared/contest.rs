//! A store against the benchmark of the server that it is on, by turns.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use semel::store::Store;
use tokio::runtime::Runtime;

use crate::{
    Scale,
    raw::RawDisk,
    report::{Bound, Report, Section, figure},
    stats::median,
    store,
};

/// Concurrent requests; the last is the one that is judged.
const CONCURRENCY: [usize; 3] = [1, 16, 128];
const JUDGED: usize = 128;
/// The least part of the server's own benchmark that a store shall reach.
const PART: f64 = 0.7;

/// A contest: a store, and what it is held against.
pub(super) struct Contest<'a> {
    /// The server.
    pub(super) server: &'static str,
    /// What the server's own benchmark does, in words.
    pub(super) rival: &'static str,
    /// Runs that benchmark with so many connections, and says how many requests it could have done per second.
    pub(super) run_rival: &'a dyn Fn(usize, Duration) -> anyhow::Result<f64>,
    /// The store, which lives in the runtime.
    pub(super) store: Arc<dyn Store>,
    /// Where store and clients live.
    pub(super) runtime: &'a Runtime,
}

/// The medians of a few rounds.
pub(super) struct Raced {
    server: &'static str,
    rival: &'static str,
    concurrency: usize,
    per_second: f64,
    rival_per_second: f64,
    part: f64,
    p50_us: f64,
    p99_us: f64,
    r0: f64,
}

impl Contest<'_> {
    /// Store and rival run by turns, so that what is divided ran in the same minute.
    pub(super) fn race(&self, scale: &Scale, disk: &mut RawDisk) -> anyhow::Result<Vec<Raced>> {
        let keys = Arc::new(AtomicU64::new(0));
        let mut all = Vec::new();
        for concurrency in CONCURRENCY {
            let mut rounds = Vec::new();
            for round in 0..scale.rounds {
                eprintln!("shared: {}, {concurrency} concurrent, round {}", self.server, round + 1);
                let rival_per_second = (self.run_rival)(concurrency, scale.shared_run)?;
                let before = disk.probe()?;
                let done = store::run_for(self.runtime, &self.store, &keys, concurrency, scale.shared_run)?;
                let per_second = done.requests as f64 / done.elapsed.as_secs_f64();
                rounds.push(Raced {
                    server: self.server,
                    rival: self.rival,
                    concurrency,
                    per_second,
                    rival_per_second,
                    part: per_second / rival_per_second,
                    p50_us: done.latencies.percentile_us(0.50),
                    p99_us: done.latencies.percentile_us(0.99),
                    r0: f64::midpoint(before, disk.probe()?),
                });
            }
            let of = |figure: fn(&Raced) -> f64| median(rounds.iter().map(figure));
            all.push(Raced {
                server: self.server,
                rival: self.rival,
                concurrency,
                per_second: of(|round| round.per_second),
                rival_per_second: of(|round| round.rival_per_second),
                part: of(|round| round.part),
                p50_us: of(|round| round.p50_us),
                p99_us: of(|round| round.p99_us),
                r0: of(|round| round.r0),
            });
        }
        Ok(all)
    }
}

/// Judges what was raced, and shows all of it.
pub(super) fn tell(raced: &[Raced], report: &mut Report) {
    for race in raced.iter().filter(|race| race.concurrency == JUDGED) {
        let what = format!("{} store, {JUDGED} keys, ÷ {}", race.server, race.rival);
        let beside = format!(
            "{} ÷ {} requests/s, R0 {}/s",
            figure(race.per_second),
            figure(race.rival_per_second),
            figure(race.r0)
        );
        report.target(what, Bound::AtLeast(PART), race.part, beside);
    }
    let row = |race: &Raced| {
        vec![
            race.server.to_owned(),
            race.concurrency.to_string(),
            figure(race.per_second),
            race.rival.to_owned(),
            figure(race.rival_per_second),
            figure(race.part),
            figure(race.p50_us / 1e3),
            figure(race.p99_us / 1e3),
            figure(race.r0),
        ]
    };
    report.section(Section {
        title: "Shared stores: claim and settle",
        intro: "One request is a claim and a settle, both durable, of a fresh key; the kept reply has 200 B of content. Servers \
                are private, on this machine, and sync what they confirm; PostgreSQL has 256 MB of shared buffers. pgbench \
                (prepared statements) runs an INSERT and an UPDATE by primary key of a row of the same columns and bytes, each \
                its own transaction, on as many connections; the store has four. redis-benchmark SETs values as long as a \
                completed record, on as many connections and without pipelining; two of them count as one request. Clients, \
                store and server share the machine."
            .to_owned(),
        columns: vec!["server", "keys", "requests/s", "beside", "its requests/s", "÷", "p50 ms", "p99 ms", "R0/s"],
        rows: raced.iter().map(row).collect(),
    });
}
