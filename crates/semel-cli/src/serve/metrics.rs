//! What is counted, and `GET /metrics`, which shows it in the text format of OpenMetrics.
//!
//! Counting is a few atomics per request. What others know already (connections, records, what runs) is asked of them
//! when somebody looks.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, RwLock};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};
use semel::{
    Event, Observer, Passed, Semel,
    figures::{Counted, DURATION_BOUNDS, Histogram},
    store::{
        PhaseKind, Store, StoreError,
        measured::{Asked, Measures},
    },
};
use semel_core::{
    policy::Policy,
    wire::{KeyStatus, ProblemType},
};
use tokio_util::task::TaskTracker;

use super::{listen::Closing, pool::Watch, tls::Incoming, traces::Tally};

/// Where it is.
pub(super) const METRICS_PATH: &str = "/metrics";
/// What `Content-Type` says of it.
pub(super) const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Unknown outcomes that are counted at most: with so many, how many there are exactly is not the question.
const UNKNOWN_COUNT_MAX: u32 = 10_000;
/// After a count of unknown outcomes the store rests for so many times as long as the count took.
const UNKNOWN_REST_FACTOR: u32 = 10;

/// What a request may have been told, in order.
static DECISIONS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let statuses = [KeyStatus::Absent, KeyStatus::Ignored, KeyStatus::Unkept, KeyStatus::Released, KeyStatus::Unknown];
    let mut all: Vec<&str> = ["completed", "replay", "lost", OTHER].to_vec();
    all.extend(statuses.map(KeyStatus::as_str));
    all.extend(ProblemType::ALL.iter().map(|kind| kind.code()));
    all.sort_unstable();
    all.dedup();
    all
});
/// What counts as none of the others.
const OTHER: &str = "other";
/// Shown of every route from the start, so that their first increase is seen as one; the others when they first happen.
const ALWAYS_SHOWN: [&str; 6] = ["completed", "replay", "lost", "in-flight", "outcome-unknown", "store-unavailable"];

/// What is counted as it happens.
#[derive(Debug)]
pub(crate) struct Counts {
    routes: RwLock<HashMap<Box<str>, Arc<Route>>>,
    passed: [AtomicU64; 2],
    claim: Histogram,
    settle: Histogram,
    unknown: Mutex<Option<Unknown>>,
    /// The connections to the origin of every thread.
    origin: Mutex<Vec<Watch>>,
}

/// What is counted of one route.
#[derive(Debug)]
struct Route {
    /// By [`DECISIONS`].
    decisions: Vec<AtomicU64>,
    execute: Histogram,
}

/// Records with an unknown outcome, as the last count found them.
#[derive(Clone, Copy, Debug)]
struct Unknown {
    /// At least so many.
    count: u64,
    oldest: Duration,
    counted_at: SystemTime,
}

impl Counts {
    /// Nothing yet, with what the routes of `policy` show from the start.
    pub(crate) fn new(policy: &Policy) -> Counts {
        let routes = policy.routes().iter().map(|route| (route.name().into(), Arc::new(Route::new()))).collect();
        Counts {
            routes: RwLock::new(routes),
            passed: [AtomicU64::new(0), AtomicU64::new(0)],
            claim: Histogram::new(DURATION_BOUNDS),
            settle: Histogram::new(DURATION_BOUNDS),
            unknown: Mutex::default(),
            origin: Mutex::default(),
        }
    }

    /// Shows the connections of one more thread, too.
    pub(crate) fn watch(&self, pool: Watch) {
        self.origin.lock().push(pool);
    }

    /// Counts records with an unknown outcome now and then; never returns, unless `every` is zero.
    pub(crate) async fn count_unknown(self: Arc<Self>, store: Arc<dyn Store>, every: Duration) {
        while !every.is_zero() {
            let began = Instant::now();
            let (store, runtime) = (Arc::clone(&store), tokio::runtime::Handle::current());
            // On a thread of its own: an embedded store looks at its whole index.
            let counting = tokio::task::spawn_blocking(move || runtime.block_on(unknown_in(&*store)));
            match counting.await {
                Ok(Ok(unknown)) => *self.unknown.lock() = Some(unknown),
                Ok(Err(error)) => {
                    tracing::warn!(target: "semel::store", %error, "unknown outcomes were not counted");
                }
                // The process ends.
                Err(_) => return,
            }
            tokio::time::sleep(every.max(began.elapsed() * UNKNOWN_REST_FACTOR)).await;
        }
    }

    /// What is counted of a route; a policy that is read again may bring new ones.
    fn route(&self, name: &str) -> Arc<Route> {
        if let Some(route) = self.routes.read().get(name) {
            return Arc::clone(route);
        }
        Arc::clone(self.routes.write().entry(name.into()).or_insert_with(|| Arc::new(Route::new())))
    }
}

async fn unknown_in(store: &dyn Store) -> Result<Unknown, StoreError> {
    let unknown = store.scan(PhaseKind::Unknown, None, UNKNOWN_COUNT_MAX).await?;
    // In flight by the record, and unknown by the death of its writer or the end of its lease.
    let in_flight = store.scan(PhaseKind::InFlight, None, UNKNOWN_COUNT_MAX).await?;
    let dead = in_flight.iter().filter(|(_, found)| !found.is_running());
    let ages = unknown.iter().chain(dead).map(|(_, found)| found.age);
    let (count, oldest) = ages.fold((0, Duration::ZERO), |(count, oldest), age| (count + 1, oldest.max(age)));
    Ok(Unknown { count, oldest, counted_at: SystemTime::now() })
}

impl Route {
    fn new() -> Route {
        let decisions = DECISIONS.iter().map(|_| AtomicU64::new(0)).collect();
        Route { decisions, execute: Histogram::new(DURATION_BOUNDS) }
    }
}

impl Observer for Counts {
    fn answered(&self, event: &Event<'_>) {
        let route = self.route(event.route.name());
        let place = |decision| DECISIONS.binary_search(&decision);
        let decision = place(event.decision).or_else(|_| place(OTHER)).expect("OTHER is one of them");
        route.decisions[decision].fetch_add(1, Relaxed);
        let Some(exchange) = &event.exchange else { return };
        self.claim.record_time(exchange.claim);
        if exchange.attempt > 0 {
            route.execute.record_time(exchange.execute);
            self.settle.record_time(exchange.settle);
        }
    }

    fn passed(&self, why: Passed) {
        self.passed[why as usize].fetch_add(1, Relaxed);
    }
}

/// Everything that is shown. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Registry>);

/// Where it comes from.
#[derive(Debug)]
pub(crate) struct Sources {
    /// What is counted as it happens.
    pub counts: Arc<Counts>,
    /// Whose executions run.
    pub semel: Semel,
    /// What its store was asked.
    pub store: Arc<Measures>,
    /// Client connections.
    pub connections: TaskTracker,
    /// The most connections to the origin.
    pub origin_connections_max: usize,
    /// Whether the process finishes.
    pub closing: Closing,
    /// How clients are met, where by TLS.
    pub tls: Option<Incoming>,
    /// What became of spans, where there are any.
    pub spans: Option<Arc<Tally>>,
}

impl Metrics {
    /// Of these.
    pub(crate) fn new(sources: Sources) -> Metrics {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Page { sources, started: SystemTime::now() }));
        Metrics(Arc::new(registry))
    }

    /// The page, as [`METRICS_TYPE`].
    pub(crate) fn page(&self) -> String {
        let mut page = String::with_capacity(32 << 10);
        text::encode(&mut page, &self.0).expect("a String takes all that is written");
        page
    }
}

#[derive(Debug)]
struct Page {
    sources: Sources,
    started: SystemTime,
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        self.requests(&mut out)?;
        self.store(&mut out)?;
        self.unknown(&mut out)?;
        self.process(&mut out)
    }
}

impl Page {
    fn requests(&self, out: &mut Out<'_>) -> fmt::Result {
        let Sources { counts, semel, .. } = &self.sources;
        let mut routes: Vec<(Box<str>, Arc<Route>)> =
            counts.routes.read().iter().map(|(name, route)| (name.clone(), Arc::clone(route))).collect();
        routes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));

        let help = "Requests on covered routes that were answered, by what they were told";
        let mut family = out.family("semel_requests", help, None, MetricType::Counter)?;
        for (name, route) in &routes {
            for (decision, count) in DECISIONS.iter().zip(&route.decisions) {
                let count = count.load(Relaxed);
                if count > 0 || ALWAYS_SHOWN.contains(decision) {
                    family.counter(&[("route", name), ("decision", decision)], count)?;
                }
            }
        }
        let help = "Requests that passed through without protection: no route covers them, or they have no key";
        let mut family = out.family("semel_requests_passed", help, None, MetricType::Counter)?;
        for (why, name) in [(Passed::NotCovered, "not-covered"), (Passed::WithoutKey, "without-key")] {
            family.counter(&[("why", name)], counts.passed[why as usize].load(Relaxed))?;
        }
        out.gauge(
            "semel_exchanges_running",
            "Exchanges that are between claim and settle now",
            number(semel.running()),
        )?;
        let help = "How long the claim of an exchange took the store, tries and guards included";
        out.family("semel_claim_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?
            .times(&[], &counts.claim.read())?;
        let help = "How long executions took, from the confirmed claim to the whole response";
        let mut family = out.family("semel_execute_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (name, route) in &routes {
            family.times(&[("route", name)], &route.execute.read())?;
        }
        let help = "How long the settle of an execution took the store, while somebody waited for it";
        out.family("semel_settle_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?
            .times(&[], &counts.settle.read())
    }

    fn store(&self, out: &mut Out<'_>) -> fmt::Result {
        let Sources { semel, store, .. } = &self.sources;
        let figures = semel.store().figures();
        let help = "How long one answer of the store took, errors included";
        let mut family = out.family("semel_store_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for asked in Asked::ALL {
            family.times(&[("operation", asked.name())], &store.took(asked).read())?;
        }
        let help = "How often the store failed, by what it was asked and how it failed";
        let mut family = out.family("semel_store_errors", help, None, MetricType::Counter)?;
        for asked in Asked::ALL {
            for (kind, count) in store.failed(asked) {
                family.counter(&[("operation", asked.name()), ("kind", kind)], count)?;
            }
        }
        if let Some(batches) = &figures.batches {
            let help = "How many records or requests the store handled at once: by one barrier of the disk, or in one \
                        round trip to its server";
            out.family("semel_store_batch_size", help, None, MetricType::Histogram)?.counts(batches)?;
        }
        let gauges = [
            ("semel_store_connections", "Open connections to the store's server", figures.connections),
            ("semel_store_records", "Records in the store; those past their time count until swept", figures.records),
            ("semel_store_record_bytes", "Bytes of the records in the store", figures.record_bytes),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                out.gauge(name, help, real(value))?;
            }
        }
        Ok(())
    }

    fn unknown(&self, out: &mut Out<'_>) -> fmt::Result {
        let Some(unknown) = *self.sources.counts.unknown.lock() else { return Ok(()) };
        let help = "Records whose outcome is unknown, at the last count; 10000 means at least so many";
        out.gauge("semel_unknown_outcomes", help, real(unknown.count))?;
        let help = "The age of the oldest record whose outcome is unknown, at the last count; 0 where there is none";
        out.gauge("semel_unknown_oldest_age_seconds", help, unknown.oldest.as_secs_f64())?;
        let help = "When records with an unknown outcome were last counted, in seconds since 1970";
        out.gauge("semel_unknown_counted_timestamp_seconds", help, timestamp(unknown.counted_at))
    }

    fn process(&self, out: &mut Out<'_>) -> fmt::Result {
        let Sources { counts, connections, origin_connections_max, closing, .. } = &self.sources;
        let (mut in_use, mut idle) = (0, 0);
        for pool in counts.origin.lock().iter() {
            in_use += pool.in_use();
            idle += pool.idle();
        }
        let mut family =
            out.family("semel_origin_connections", "Connections to the origin", None, MetricType::Gauge)?;
        family.gauge(&[("state", "in-use")], number(in_use))?;
        family.gauge(&[("state", "idle")], number(idle))?;
        let help = "Connections to the origin that may be in use at once";
        out.gauge("semel_origin_connections_max", help, number(*origin_connections_max))?;
        out.gauge("semel_client_connections", "Open connections of clients", number(connections.len()))?;
        let draining = if closing.has_begun() { 1.0 } else { 0.0 };
        out.gauge("semel_draining", "1 once the process no longer accepts and finishes what runs", draining)?;
        if let Some((file, expires)) = self.sources.tls.as_ref().map(Incoming::expires) {
            let help = "When the certificate that clients are shown expires, in seconds since 1970";
            let mut family = out.family("semel_certificate_expiry_timestamp_seconds", help, None, MetricType::Gauge)?;
            family.gauge(&[("file", &file)], whole(expires))?;
        }
        if let Some(spans) = &self.sources.spans {
            let help =
                "Spans that ended, were sent to the collector, and were refused by it; the others wait or were dropped";
            let mut family = out.family("semel_spans", help, None, MetricType::Counter)?;
            for (outcome, count) in spans.read() {
                family.counter(&[("outcome", outcome)], count)?;
            }
        }
        let help = "When the process started, in seconds since 1970";
        out.gauge("semel_start_timestamp_seconds", help, timestamp(self.started))?;
        let mut family = out.family("semel_build", "The release", None, MetricType::Info)?;
        family.0.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }
}

struct Out<'a>(DescriptorEncoder<'a>);

/// The values of one metric, by their labels.
struct Family<'a>(MetricEncoder<'a>);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Out<'_> {
    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
        kind: MetricType,
    ) -> Result<Family<'s>, fmt::Error> {
        Ok(Family(self.0.encode_descriptor(name, help, unit, kind)?))
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.family(name, help, None, MetricType::Gauge)?.0.encode_gauge(&value)
    }
}

impl Family<'_> {
    fn counter(&mut self, labels: Labels<'_>, count: u64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_counter::<Labels<'_>, _, u64>(&count, None)
    }

    fn gauge(&mut self, labels: Labels<'_>, value: f64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_gauge(&value)
    }

    /// Microseconds, shown in seconds.
    fn times(&mut self, labels: Labels<'_>, counted: &Counted) -> fmt::Result {
        self.histogram(labels, counted, |micros| real(micros) / 1e6)
    }

    fn counts(&mut self, counted: &Counted) -> fmt::Result {
        self.histogram(&[], counted, real)
    }

    fn histogram(&mut self, labels: Labels<'_>, counted: &Counted, shown: fn(u64) -> f64) -> fmt::Result {
        let mut buckets: Vec<(f64, u64)> =
            counted.buckets.iter().map(|(bound, count)| (shown(*bound), *count)).collect();
        buckets.push((f64::INFINITY, counted.over));
        let (sum, count) = (shown(counted.sum), counted.count());
        if labels.is_empty() {
            return self.0.encode_histogram::<Labels<'_>>(sum, count, &buckets, None);
        }
        self.0.encode_family(&labels)?.encode_histogram::<Labels<'_>>(sum, count, &buckets, None)
    }
}

fn timestamp(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn number(count: usize) -> f64 {
    real(count as u64)
}

#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 nobody reads the last digit")]
fn whole(value: i64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 nobody reads the last digit")]
fn real(value: u64) -> f64 {
    value as f64
}
