//! What the journal costs: whole calls against a service that answers at once, beside a bare write and `fdatasync`.
//!
//! `cargo run --package semel-client --example journal_cost [folder]`
#![allow(clippy::unwrap_used, reason = "a measurement")]

use std::{
    fs::File,
    io::Write as _,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use semel_client::{Client, Intent, Journal};

const ROUNDS: usize = 21;
const CALLS: usize = 400;
const TOGETHER: usize = 64;

#[tokio::main]
async fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let folder = tempfile::TempDir::new_in(folder).unwrap();
    let service = tower::service_fn(|_: Request<Bytes>| async {
        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(b"{\"id\":\"p\"}"))))
    });
    let client = Client::new(service, Journal::open(folder.path().join("journal")).unwrap());
    let mut file = File::create(folder.path().join("raw")).unwrap();
    let intent = || Intent::post("http://api.example/payments").json(vec![b' '; 512]).build().unwrap();
    let micros = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_micros()
    };
    println!("median microseconds of one fdatasync, of one call alone; calls per fdatasync at {TOGETHER} together");
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (mut raw, mut alone) = (Vec::new(), Vec::new());
        // One after the other, so that both see the same disk.
        for _ in 0..CALLS {
            let started = Instant::now();
            file.write_all(&[7; 1024]).unwrap();
            file.sync_data().unwrap();
            raw.push(started.elapsed());
            let (started, intent) = (Instant::now(), intent());
            assert!(client.send(&intent).await.unwrap().happened());
            alone.push(started.elapsed());
        }
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..TOGETHER {
            let client = client.clone();
            tasks.spawn(async move {
                for _ in 0..CALLS / 8 {
                    assert!(client.send(&intent()).await.unwrap().happened());
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        let each = started.elapsed().as_micros() / (TOGETHER * (CALLS / 8)) as u128;
        let (raw, alone) = (micros(&mut raw), micros(&mut alone));
        #[expect(clippy::cast_precision_loss, reason = "microseconds")]
        let (times, per) = (alone as f64 / raw as f64, raw as f64 / each.max(1) as f64);
        println!("{raw:>6} {alone:>6} ({times:.2} times)  {per:>6.1}");
        rounds.push((times, per));
    }
    rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (least, middle) = (rounds[0].0, rounds[ROUNDS / 2].0);
    rounds.sort_by(|one, other| one.1.total_cmp(&other.1));
    let per = rounds[ROUNDS / 2].1;
    println!("of {ROUNDS} rounds: median {middle:.2} times, least {least:.2}; median {per:.1} calls per fdatasync");
}
