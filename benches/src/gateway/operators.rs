//! The pages of operators of a gateway that has kept a million records: over HTTP, as a browser gets them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use super::{
    COVERED, LOST, http,
    process::Running,
    wrk::{self, Keys},
};
use crate::{
    Scale,
    report::{Bound, Report, Section, figure},
    stats::median,
};

/// The token of `admin_token_file`.
pub(super) const TOKEN: &str = "a-token-of-the-bench";
/// How often each page is asked for.
const TIMES: usize = 25;
/// The longest that a page may take, in milliseconds.
const PAGE_MS_MAX: f64 = 100.0;
/// The longest that a scrape may take, in milliseconds.
const SCRAPE_MS_MAX: f64 = 1.0;
/// Outcomes that nobody knows.
const UNKNOWN: u32 = 500;

/// The gateway that serves them.
pub(super) struct Gateway<'a> {
    /// Where it serves clients.
    pub(super) at: SocketAddr,
    /// Where it serves operators.
    pub(super) admin: SocketAddr,
    /// Its process.
    pub(super) process: &'a Running,
}

/// Fills the store as clients do, then asks for every page by turns.
pub(super) fn measure(
    gateway: &Gateway<'_>,
    load: &wrk::Load,
    scale: &Scale,
    report: &mut Report,
) -> anyhow::Result<()> {
    let goal = scale.records as f64;
    while completed(gateway.admin)? < goal {
        eprintln!("gateway: {} of {} records", figure(completed(gateway.admin)?), figure(goal));
        load.run(&format!("http://{}{COVERED}", gateway.at), Keys::Fresh, scale.gateway_run, gateway.process)?;
    }
    for n in 0..UNKNOWN {
        let answer = super::send(gateway.at, LOST, &format!("lost-{n:08}"))?;
        ensure!(answer.contains("outcome-unknown"), "the origin lost a request, and this was told:\n{answer}");
    }
    let records = completed(gateway.admin)?;

    let session = sign_in(gateway.admin)?;
    let cookie = format!("Cookie: {session}\r\n");
    let list = http(gateway.admin, "GET", "/console/unknown", &cookie, "")?;
    let record = list
        .split("\"/console/records/")
        .nth(1)
        .and_then(|rest| rest.split(['"', '/', '?']).next())
        .with_context(|| format!("no record is on the page of unknown outcomes:\n{list}"))?;
    let record = format!("/console/records/{record}");
    let nothing = format!("/console/search?exchange={:032x}", 1);
    let pages = [
        ("overview", "/console", 200),
        ("what changes on it, every 2 s", "/console/now", 200),
        ("unknown outcomes", "/console/unknown", 200),
        ("unknown outcomes of a caller who has none", "/console/unknown?principal=nobody", 200),
        ("a record", &record, 200),
        ("an exchange that is not there", &nothing, 404),
        ("routes", "/console/routes", 200),
    ];
    let (mut rows, mut longest) = (Vec::new(), ("", 0.0));
    for (name, path, status) in pages {
        let took = times(gateway.admin, path, &cookie, status)?;
        let middle = median(took.iter().copied());
        if middle > longest.1 {
            longest = (name, middle);
        }
        rows.push(row(name, &took));
    }
    let scrapes = times(gateway.admin, "/metrics", "", 200)?;
    rows.push(row("metrics", &scrapes));
    let what = format!("console, the page that takes longest, ms, {} records", scale.records);
    report.target(what, Bound::AtMost(PAGE_MS_MAX), longest.1, longest.0);
    let of = format!("{} records", figure(records));
    report.target("metrics, a scrape, ms", Bound::AtMost(SCRAPE_MS_MAX), median(scrapes.iter().copied()), of);
    report.section(Section {
        title: "Operators",
        intro: format!(
            "The gateway above after {} executions through it, {UNKNOWN} of which have an outcome that nobody knows. Each page {TIMES} \
             times, on a connection of its own, while nothing else runs; the time is from connecting to the last byte.",
            figure(records)
        ),
        columns: vec!["page", "median ms", "longest ms"],
        rows,
    });
    Ok(())
}

fn row(name: &str, took: &[f64]) -> Vec<String> {
    vec![name.to_owned(), figure(median(took.iter().copied())), figure(took.iter().copied().fold(0.0, f64::max))]
}

fn times(admin: SocketAddr, path: &str, headers: &str, status: u16) -> anyhow::Result<Vec<f64>> {
    let once = || {
        let begun = Instant::now();
        let answer = http(admin, "GET", path, headers, "")?;
        let took: Duration = begun.elapsed();
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "GET {path}:\n{answer}");
        Ok(took.as_secs_f64() * 1e3)
    };
    (0..TIMES).map(|_| once()).collect()
}

/// How many executions are in the metrics.
fn completed(admin: SocketAddr) -> anyhow::Result<f64> {
    let page = http(admin, "GET", "/metrics", "", "")?;
    let counts =
        page.lines().filter(|line| line.starts_with("semel_requests_total{") && line.contains("\"completed\""));
    let counts: Option<Vec<f64>> = counts.map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    let counts =
        counts.filter(|counts| !counts.is_empty()).with_context(|| format!("no count in the metrics:\n{page}"))?;
    Ok(counts.iter().sum())
}

/// The cookie of a session.
fn sign_in(admin: SocketAddr) -> anyhow::Result<String> {
    let form = format!("token={TOKEN}&who=bench&to=%2Fconsole");
    let answer = http(admin, "POST", "/console/login", "Content-Type: application/x-www-form-urlencoded\r\n", &form)?;
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next());
    cookie.map(str::to_owned).with_context(|| format!("not signed in:\n{answer}"))
}
