//! Measures the embedded store against the raw disk, for whoever works on it. The figures that are published come from
//! `cargo xtask bench`.
//!
//! `cargo run --release -p semel --example store_bench -- FOLDER [seconds] [requests|replays|open]`

use std::{
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use semel::store::{
    Put, Record, RecordKey, Stamp, Store, Swap, Swapped,
    embedded::{EmbeddedStore, Options},
};
use semel_core::{
    fingerprint::Fingerprint,
    record::{ExchangeId, Kept, Phase, Reply},
};

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().expect("usage: store_bench FOLDER [seconds] [requests|replays|open]");
    let seconds = args.next().map_or(2.0, |arg| arg.parse().expect("seconds"));
    let only = args.next();
    let folder = Path::new(&folder).join("store_bench");
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let wanted = |what: &str| only.as_deref().is_none_or(|only| only == what);
    if wanted("requests") {
        [1, 16, 128, 512].into_iter().for_each(|callers| requests(&folder, callers, seconds));
    }
    if wanted("replays") {
        replays(&folder.join("replays"));
    }
    if wanted("open") {
        opening(&folder.join("opening"));
    }
    std::fs::remove_dir_all(&folder).expect("the folder can be removed");
}

fn requests(folder: &Path, callers: u64, seconds: f64) {
    let r0 = raw(folder);
    let options = Options { spare_segments: 24, ..Options::default() };
    let folder = folder.join("requests");
    let (store, _) = EmbeddedStore::open(&folder, options).expect("opens");
    let store = Arc::new(store);
    while store.stats().spare_segments < 24 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = (store.stats(), device_bytes_written(), cpu_seconds());
    let started = Instant::now();
    let mut waits_us: Vec<u128> = runtime().block_on(async {
        let mut tasks = Vec::new();
        for caller in 0..callers {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                let mut waits = Vec::new();
                let mut n = caller << 40;
                while started.elapsed().as_secs_f64() < seconds {
                    let start = Instant::now();
                    request(store.as_ref(), n).await;
                    waits.push(start.elapsed().as_micros());
                    n += 1;
                }
                waits
            }));
        }
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.expect("no panic"));
        }
        all
    });
    let took = started.elapsed().as_secs_f64();
    waits_us.sort_unstable();
    let done = waits_us.len();
    let stats = store.stats();
    println!(
        "c={callers:<3} R0={r0:.0}/s {:.0} req/s = {:.2} x R0, p50 {} us, p99 {} us, {:.1} swaps/commit, \
         {:.0} device B/req, {:.2} CPU us/req, spares left {}",
        per(done, took),
        per(done, took) / r0,
        waits_us[done / 2],
        waits_us[done * 99 / 100],
        per(stats.swaps - before.0.swaps, per(stats.commits - before.0.commits, 1.0)),
        per(device_bytes_written() - before.1, per(done, 1.0)),
        (cpu_seconds() - before.2) * 1e6 / per(done, 1.0),
        stats.spare_segments,
    );
    drop(store);
    std::fs::remove_dir_all(folder).expect("removes");
}

fn replays(folder: &Path) {
    const RECORDS: u64 = 1_000_000;
    let (store, _) = EmbeddedStore::open(folder, Options::default()).expect("opens");
    let store = Arc::new(store);
    let runtime = runtime();
    runtime.block_on(fill(&store, RECORDS));
    println!("RSS with 1M records just written: {} MB; {:?}", resident_bytes() >> 20, store.stats());
    runtime.block_on(async {
        let (started, cpu) = (Instant::now(), cpu_seconds());
        for n in 0..RECORDS {
            let n = n.wrapping_mul(0x9e37_79b9) % RECORDS;
            let swap = Swap { expect: None, put: Some(claim(u128::from(n) | 1 << 100)) };
            assert!(matches!(store.swap(&key(n), &swap).await, Ok(Swapped::Found(_))));
        }
        println!(
            "replays on one thread: {:.0}/s; {:.0} per second of CPU",
            per(RECORDS, started.elapsed().as_secs_f64()),
            per(RECORDS, cpu_seconds() - cpu)
        );
    });
    drop(store);
    let (store, recovery) = EmbeddedStore::open(folder, Options::default()).expect("opens");
    println!("1M after a clean close, RSS {} MB: {recovery:?}", resident_bytes() >> 20);
    drop(store);
    std::fs::remove_dir_all(folder).expect("removes");
}

fn opening(folder: &Path) {
    let (store, _) = EmbeddedStore::open(folder, Options::default()).expect("opens");
    let store = Arc::new(store);
    runtime().block_on(fill(&store, 5_000_000));
    println!("{:?}", store.stats());
    // As after a crash: what a clean close would write is not there, and the folder's lock is another's.
    let copy = folder.with_extension("copy");
    std::fs::create_dir_all(&copy).expect("makes");
    for path in files(folder).filter(|path| !path.ends_with("lock")) {
        std::fs::hard_link(&path, copy.join(path.file_name().expect("a name"))).expect("links");
    }
    std::mem::forget(store);
    let cpu = cpu_seconds();
    let options = Options { spare_segments: 0, ..Options::default() };
    let (store, recovery) = EmbeddedStore::open(&copy, options.clone()).expect("opens");
    println!("5M after a crash: {:.2} CPU s, {recovery:?}", cpu_seconds() - cpu);
    drop(store);
    for hint in files(&copy).filter(|path| path.extension().is_some_and(|e| e == "hint")) {
        std::fs::remove_file(hint).expect("removes");
    }
    let cpu = cpu_seconds();
    let (_store, recovery) = EmbeddedStore::open(&copy, options).expect("opens");
    println!("5M without hints: {:.2} CPU s, {recovery:?}", cpu_seconds() - cpu);
}

fn files(folder: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    std::fs::read_dir(folder).expect("lists").map(|entry| entry.expect("an entry").path())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn fill(store: &Arc<EmbeddedStore>, records: u64) {
    const TASKS: u64 = 512;
    let tasks: Vec<_> = (0..TASKS)
        .map(|mut n| {
            let store = store.clone();
            tokio::spawn(async move {
                while n < records {
                    request(store.as_ref(), n).await;
                    n += TASKS;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
}

/// Claim and settle, both durable.
async fn request(store: &EmbeddedStore, n: u64) {
    let key = key(n);
    let claim = claim(u128::from(n));
    let stamp = claim.stamp;
    let swap = Swap { expect: None, put: Some(claim) };
    assert_eq!(store.swap(&key, &swap).await, Ok(Swapped::Done));
    let settle = Swap { expect: Some(stamp), put: Some(completed(stamp)) };
    assert_eq!(store.swap(&key, &settle).await, Ok(Swapped::Done));
}

fn key(n: u64) -> RecordKey {
    let mut bytes = [0; 32];
    let mut seed = n;
    for chunk in bytes.chunks_exact_mut(8) {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = seed;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        chunk.copy_from_slice(&(x ^ (x >> 31)).to_le_bytes());
    }
    RecordKey::from_bytes(bytes)
}

fn claim(exchange: u128) -> Put {
    let record = Record {
        fingerprint: Fingerprint::from_bytes([7; 32]),
        attempt: 1,
        phase: Phase::InFlight { lease: Duration::from_secs(35) },
        retention: Duration::from_hours(24),
    };
    Put { stamp: Stamp { exchange: ExchangeId(exchange), write: 1 }, record }
}

fn completed(stamp: Stamp) -> Put {
    let reply = Reply {
        status: 200,
        headers: vec![(Bytes::from_static(b"content-type"), Bytes::from_static(b"application/json"))],
        content: Bytes::from_static(&[b'x'; 200]),
    };
    let record = Record {
        fingerprint: Fingerprint::from_bytes([7; 32]),
        attempt: 1,
        phase: Phase::Completed { kept: Kept::Reply(Arc::new(reply)), replay_for: Duration::from_hours(24) },
        retention: Duration::from_hours(720),
    };
    Put { stamp: Stamp { write: 2, ..stamp }, record }
}

/// R0: 4 KiB durable writes per second into a file that was written before.
fn raw(folder: &Path) -> f64 {
    let path = folder.join("raw");
    let file = std::fs::File::create(&path).expect("creates");
    file.write_all_at(&vec![0; 16 << 20], 0).expect("writes");
    file.sync_all().expect("syncs");
    let page = [1; 4096];
    let (mut n, started) = (0u64, Instant::now());
    while started.elapsed() < Duration::from_millis(700) {
        file.write_all_at(&page, n % 4096 * 4096).expect("writes");
        file.sync_data().expect("syncs");
        n += 1;
    }
    let rate = per(n, started.elapsed().as_secs_f64());
    std::fs::remove_file(path).expect("removes");
    rate
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn per(count: impl TryInto<u64>, of: f64) -> f64 {
    count.try_into().ok().expect("a count") as f64 / of
}

fn device_bytes_written() -> u64 {
    let stat = std::fs::read_to_string("/sys/block/vda/stat").unwrap_or_default();
    stat.split_whitespace().nth(6).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 512
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
