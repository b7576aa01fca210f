//! What sealing adds to a request: sealing and opening by themselves, beside the gateway's latency of the same run.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use semel_core::{
    admit::{Admission, Covered, Head, admit},
    fingerprint::Fingerprint,
    policy::{Policy, Preset},
    record::{ExchangeId, Kept, Phase, Record, Reply, Stamp},
    register::Put,
    scope::Secret,
};

use crate::{
    Scale,
    report::{Bound, Report, Section, figure},
    stats::Latencies,
};

/// Contents of kept replies, in bytes; the first is that of the gateway's runs.
const CONTENTS: [usize; 4] = [200, 4 << 10, 64 << 10, 1 << 20];

/// The gateway's own latencies and processor time, of first executions and of replays.
pub(crate) struct Gateway {
    /// The 99th percentile of first executions.
    pub(crate) first_p99_ms: f64,
    /// The 99th percentile of replays.
    pub(crate) replay_p99_ms: f64,
    /// Processor time of a first execution.
    pub(crate) first_processor_us: f64,
}

/// What one operation took.
struct Took {
    p50_us: f64,
    p99_us: f64,
}

/// Measures, and tells the figures beside those of the gateway.
pub(crate) fn measure(gateway: &Gateway, scale: &Scale, report: &mut Report) -> anyhow::Result<()> {
    let secret = Secret::from_bytes([7; 32]);
    let policy = Policy::preset(Preset::Ietf);
    let headers = [("idempotency-key", "3f0c7a52-again-00000001")];
    let headers = headers.into_iter().map(|(name, value)| (http_name(name), http_value(value))).collect();
    let head = Head { method: &http::Method::POST, path: "/orders", query: None, headers: &headers };
    let cover = || -> anyhow::Result<Covered> {
        let Admission::Read(admitted) = admit(&policy, &head, Duration::ZERO) else { anyhow::bail!("it is covered") };
        let covered = admitted.cover(&policy, &secret, &head, b"{}");
        covered.ok().flatten().context("a request with a key has a record")
    };
    let covered = cover()?;
    // The opener is one digest of this kind.
    let digest = time(scale, || {
        black_box(secret.check());
    });
    let mut rows = Vec::new();
    let mut of_the_gateway = None;
    for bytes in CONTENTS {
        let mut n = 0;
        let mut sealed = put(bytes, 0);
        covered.seal.close(&mut sealed, 0);
        let closing = time_of(
            scale,
            bytes,
            || {
                put(bytes, {
                    n += 1;
                    n
                })
            },
            |mut put| {
                covered.seal.close(&mut put, 0);
                drop(black_box(put));
            },
        );
        let mut opened = sealed.record.clone();
        covered.seal.open(&mut opened).context("what was sealed is opened")?;
        ensure!(opened == put(bytes, 0).record, "a reply of {bytes} bytes came back changed");
        let opening = time_of(
            scale,
            bytes,
            || sealed.record.clone(),
            |mut record| {
                let _ = black_box(covered.seal.open(&mut record));
                drop(black_box(record));
            },
        );
        rows.push(vec![
            bytes.to_string(),
            figure(closing.p50_us),
            figure(closing.p99_us),
            figure(opening.p50_us),
            figure(opening.p99_us),
            figure(bytes as f64 / closing.p50_us),
        ]);
        of_the_gateway.get_or_insert((closing, opening));
    }
    let (closing, opening) = of_the_gateway.expect("there is a first content");
    let with_and_without = |what, p99_ms: f64, took: &Took| {
        let added = took.p99_us + digest.p99_us;
        let with = p99_ms * 1_000.0;
        (what, with / (with - added), format!("{} µs of {} ms", figure(added), figure(p99_ms)))
    };
    for (what, ratio, beside) in [
        with_and_without("p99 of first executions with sealing ÷ without", gateway.first_p99_ms, &closing),
        with_and_without("p99 of replays with sealing ÷ without", gateway.replay_p99_ms, &opening),
    ] {
        report.target(what, Bound::AtMost(1.05), ratio, beside);
    }
    report.section(Section {
        title: "Sealing",
        intro: format!(
            "A reply is sealed once before its settle, and opened once for each replay, on the thread that serves the \
             request. Besides, each request has one keyed digest more, of {} µs. Of the processor time of a first \
             execution these are {} %.",
            figure(digest.p50_us),
            figure((closing.p50_us + digest.p50_us) / gateway.first_processor_us * 100.0)
        ),
        columns: vec!["B of content", "seal p50 µs", "seal p99 µs", "open p50 µs", "open p99 µs", "MB/s"],
        rows,
    });
    Ok(())
}

fn http_name(name: &'static str) -> http::HeaderName {
    http::HeaderName::from_static(name)
}

fn http_value(value: &'static str) -> http::HeaderValue {
    http::HeaderValue::from_static(value)
}

/// A settle with a reply of that size, as the gateway makes it.
fn put(bytes: usize, write: u64) -> Put {
    let field = |name: &'static str, value: &'static str| (Bytes::from(name), Bytes::from(value));
    let headers = vec![field("content-type", "application/json"), field("location", "/orders/1234567890")];
    let reply = Reply { status: 201, headers, content: Bytes::from(vec![b'x'; bytes]) };
    let phase = Phase::Completed { kept: Kept::Reply(Arc::new(reply)), replay_for: Duration::from_hours(24) };
    let fingerprint = Fingerprint::from_bytes([1; Fingerprint::LEN]);
    let retention = Duration::from_hours(24);
    let record = Record { fingerprint, attempt: 1, phase, retention, guard: None, about: None };
    Put { stamp: Stamp { exchange: ExchangeId(write.into()), write: 2 }, record }
}

fn time(scale: &Scale, what: impl Fn()) -> Took {
    time_of(scale, 0, || (), |()| what())
}

/// Times `what`, and not the making of what it is given.
fn time_of<T>(scale: &Scale, bytes: usize, mut make: impl FnMut() -> T, what: impl Fn(T)) -> Took {
    // Some million bytes, and enough operations for a hundredth of them to be many.
    let times = (scale.records as usize / (1 + bytes / 200)).clamp(500, 100_000);
    let mut latencies = Latencies::new();
    for n in 0..times + times / 10 {
        let given = make();
        let began = Instant::now();
        what(given);
        // The first tenth warms up.
        if n >= times / 10 {
            latencies.record(began.elapsed());
        }
    }
    Took { p50_us: latencies.percentile_us(0.5), p99_us: latencies.percentile_us(0.99) }
}
