//! Clients that retry, and a gateway that is killed again and again.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::harness::{
    Act, Cut, Gateway, Origin, Reply, Request, Response, Seen, assert_problem, gateway, post, try_send, within,
};

const CLIENTS: u64 = 24;
/// Fewer operations that got through would prove nothing.
const DONE_MIN: usize = 200;

/// What a client was told last of one key.
#[derive(Clone, PartialEq, Debug)]
enum Told {
    /// It is done, with this reply.
    Done(Vec<u8>),
    /// Nobody knows.
    Unknown,
}

/// One operation, and how it ended for its client.
#[derive(Clone, Debug)]
struct Intent {
    key: String,
    told: Told,
    /// Kills before its first attempt and before its last answer.
    kills: (usize, usize),
}

/// A kill, and what is known of the gateway after it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Place {
    Down,
    At(std::net::SocketAddr),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_loop() {
    let from_env = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills_wanted = usize::try_from(from_env("SEMEL_KILLS").unwrap_or(30)).unwrap();
    let seed = from_env("SEMEL_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) | 1
    });
    println!("kill_loop: SEMEL_SEED={seed} SEMEL_KILLS={kills_wanted}");

    let origin = Origin::start().await;
    origin.always(move |request| behave(seed, request));
    let mut running = gateway(&origin).start().await;
    let place = watch::Sender::new(Place::At(running.addr));
    let (kills, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let counts = (Arc::clone(&kills), Arc::clone(&done));
            tokio::spawn(live(seed, client, place.subscribe(), counts, Arc::clone(&stop)))
        })
        .collect();

    let mut random = Random(seed);
    let mut log = String::new();
    // On a slow machine more kills are needed until enough was done between them to prove something.
    while kills.load(Ordering::SeqCst) < kills_wanted || done.load(Ordering::SeqCst) < DONE_MIN {
        // This pause is the load under which it dies, and no waiting for something.
        tokio::time::sleep(Duration::from_millis(5 + random.below(120))).await;
        running.kill9();
        kills.fetch_add(1, Ordering::SeqCst);
        place.send_replace(Place::Down);
        log.push_str(&running.log());
        running = running.setup.clone().start().await;
        place.send_replace(Place::At(running.addr));
    }
    stop.store(true, Ordering::SeqCst);
    let mut intents = Vec::new();
    for client in clients {
        intents.extend(within("the clients end", client).await.expect("no client was lied to"));
    }
    judge(&origin, &running, &intents).await;
    assert!(!log.contains("panicked") && !running.log().contains("panicked"), "{log}");
}

/// Every end, seen from the origin's ledger.
async fn judge(origin: &Origin, running: &Gateway, intents: &[Intent]) {
    let mut effects: HashMap<String, usize> = HashMap::new();
    for seen in origin.ledger() {
        *effects.entry(seen.key().to_owned()).or_default() += 1;
    }
    for (key, count) in &effects {
        assert!(*count <= 1, "{key} had {count} effects");
    }
    let arrived: std::collections::HashSet<String> = origin.seen().iter().map(|seen| seen.key().to_owned()).collect();
    let (mut done, mut unknown, mut unknown_done) = (0, 0, 0);
    for intent in intents {
        let Intent { key, told, kills } = intent;
        let final_answer = running.send(&ask(key)).await;
        match told {
            Told::Done(content) => {
                done += 1;
                assert_eq!(effects.get(key), Some(&1), "{key} is told as done");
                assert_eq!(content, reply_to(key).as_bytes(), "{key} is told a reply that is not the origin's");
                assert_eq!((final_answer.status, final_answer.header("idempotent-replayed")), (201, Some("true")));
                assert_eq!(&final_answer.body, content, "{key}");
            }
            Told::Unknown => {
                unknown += 1;
                unknown_done += effects.get(key).copied().unwrap_or(0);
                assert_problem(&final_answer, 409, "outcome-unknown");
                // Unknown needs a reason: a kill while it was under way, or an origin that hung up on it.
                let is_cut = fate(key) == Fate::Cut;
                assert!(kills.0 < kills.1 || is_cut, "{key} is unknown without a reason: {intent:?}");
                assert!(kills.0 < kills.1 || arrived.contains(key) || is_cut, "{key} never left: {intent:?}");
            }
        }
    }
    let ended: std::collections::HashSet<&String> = intents.iter().map(|intent| &intent.key).collect();
    assert!(effects.keys().all(|key| ended.contains(key)), "an effect that nobody asked for");
    println!("kill_loop: {done} done, {unknown} unknown of which {unknown_done} had happened");
    assert!(done >= DONE_MIN && unknown > 0, "{done} done, {unknown} unknown: this proves too little");
}

fn ask(key: &str) -> Request {
    post("/charges").key(key).body(format!(r#"{{"intent":"{key}"}}"#))
}

fn reply_to(key: &str) -> String {
    // Long enough that a reply spans more than one block on the disk.
    format!(r#"{{"charged":"{key}","pad":"{}"}}"#, key.repeat(1 + key.len() * 20 % 300))
}

/// What the origin does with a key, so that both sides can know it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    /// Executes and answers.
    Plain,
    /// Executes and hangs up.
    Cut,
    /// Is busy the first time: nothing happened.
    Busy,
}

fn fate(key: &str) -> Fate {
    match key.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))) % 16 {
        0 => Fate::Cut,
        1 | 2 => Fate::Busy,
        _ => Fate::Plain,
    }
}

fn behave(seed: u64, request: &Seen) -> Act {
    let key = request.key();
    let mut random = Random(seed ^ u64::from(request.body.iter().map(|byte| u32::from(*byte)).sum::<u32>()));
    let act = match fate(key) {
        Fate::Cut => Act::cut(Cut::AfterExecuting),
        // Half of them at random, so that a retry gets through in the end.
        Fate::Busy if Random(u64::from(std::process::id()) ^ clock()).below(2) == 0 => {
            return Act::refuse(Reply::json(503, r#"{"busy":true}"#));
        }
        Fate::Busy | Fate::Plain => Act::reply(Reply::json(201, &reply_to(key))),
    };
    act.after(Duration::from_millis(random.below(12)))
}

fn clock() -> u64 {
    u64::from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos())
}

/// One client: an intent after another, each retried with its own key until its end is known.
async fn live(
    seed: u64,
    client: u64,
    mut place: watch::Receiver<Place>,
    (kills, done): (Arc<AtomicUsize>, Arc<AtomicUsize>),
    stop: Arc<AtomicBool>,
) -> Vec<Intent> {
    let mut random = Random(seed.wrapping_add(client * 7919));
    let mut ended = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let key = format!("c{client}-{n}");
        let kills_before = kills.load(Ordering::SeqCst);
        let told = loop {
            let at = match *place.borrow_and_update() {
                Place::At(at) => Some(at),
                Place::Down => None,
            };
            let Some(at) = at else {
                place.changed().await.expect("the test goes on");
                continue;
            };
            // Impatient now and then: it leaves, and asks again while the first request still runs.
            let patience = if random.below(10) == 0 { random.below(10) } else { 20_000 };
            match tokio::time::timeout(Duration::from_millis(patience), try_send(at, &ask(&key))).await {
                Err(_) => assert!(patience < 20_000, "{key}: no answer"),
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(2)).await,
                Ok(Ok(answer)) => match judge_answer(&key, &answer) {
                    Some(told) => break told,
                    None => tokio::time::sleep(Duration::from_millis(1 + random.below(5))).await,
                },
            }
        };
        if matches!(told, Told::Done(_)) {
            done.fetch_add(1, Ordering::SeqCst);
        }
        ended.push(Intent { key, told, kills: (kills_before, kills.load(Ordering::SeqCst)) });
    }
    ended
}

/// The end that an answer tells, or `None`: ask again.
fn judge_answer(key: &str, answer: &Response) -> Option<Told> {
    match (answer.status, answer.code().as_str()) {
        (201, _) => Some(Told::Done(answer.body.clone())),
        (409, "outcome-unknown") => Some(Told::Unknown),
        (502 | 504, "outcome-unknown") | (409, "in-flight") => None,
        (503, "store-unavailable") => panic!("{key}: the store of a running gateway works: {answer:?}"),
        (503, _) => {
            assert_eq!((answer.header("idempotency-status"), answer.text()), (Some("released"), r#"{"busy":true}"#));
            None
        }
        _ => panic!("{key}: {answer:?}"),
    }
}

/// `SplitMix64`: small, seeded, and good enough to vary moments.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// An index into something of that length; zero, if it is empty.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len.max(1) as u64)).unwrap()
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}
