//! Clients that retry at any of several gateways, while gateways or servers are killed under them.
//!
//! Whatever happens: at most one effect per key, every reply that was told as kept is told again by everybody, and what
//! is told as unknown has a reason.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use semel_servers::{PostgresOptions, PrivatePostgres, Replication};
use tokio::{sync::watch, task::JoinHandle};

use super::{Store, addresses, for_each};
use crate::harness::{
    Act, Cut, Gateway, Origin, PATIENCE, Reply, Request, Response, Seen, assert_problem, get, post, send, try_send,
    until, within,
};
use crate::kill_loop::Random;

const CLIENTS: u64 = 16;
/// A lease that a loaded machine keeps, and that can be waited for.
const LEASE: &str = "[[route]]\nexecution_max = \"4s\"\ngrace = \"500ms\"\n";
/// How long a gateway asks in vain.
const LIMITS: &str = "connect_max = \"2s\"\nstatement_max = \"2s\"\n";

/// How one operation ended for its client.
#[derive(Clone, PartialEq, Debug)]
enum Told {
    /// It is done, with this reply, which is kept.
    Done(Vec<u8>),
    /// It is done, with this reply, and whether it is kept is not known.
    Unkept(Vec<u8>),
    /// Nobody knows.
    Unknown,
}

#[derive(Clone, Debug)]
struct Intent {
    key: String,
    told: Told,
    /// Whether something was killed, or was down, between its first attempt and its last answer.
    disturbed: bool,
}

/// A storm of clients. They panic if they are lied to.
struct Storm {
    doors: watch::Sender<Vec<Option<SocketAddr>>>,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Intent>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicUsize,
    /// Odd while something is down.
    disturbances: AtomicUsize,
}

impl Storm {
    fn start(name: &str, gateways: &[Gateway]) -> Storm {
        let from_env = std::env::var("SEMEL_SEED").ok().and_then(|text| text.parse().ok());
        let seed = from_env.unwrap_or_else(|| u64::from(clock()) | 1);
        println!("{name}: SEMEL_SEED={seed}");
        let doors = watch::Sender::new(addresses(gateways).into_iter().map(Some).collect());
        let shared = Arc::new(Shared::default());
        let clients = (0..CLIENTS)
            .map(|client| {
                tokio::spawn(live(
                    Random(seed.wrapping_add(client * 7919)),
                    client,
                    doors.subscribe(),
                    Arc::clone(&shared),
                ))
            })
            .collect();
        Storm { doors, shared, clients }
    }

    /// From now on until [`Storm::calm`] an unknown outcome has a reason.
    fn disturb(&self) {
        assert!(self.shared.disturbances.fetch_add(1, Ordering::SeqCst).is_multiple_of(2), "one at a time");
    }

    fn calm(&self) {
        assert!(!self.shared.disturbances.fetch_add(1, Ordering::SeqCst).is_multiple_of(2), "it is calm");
    }

    fn at(&self, gateway: usize, addr: Option<SocketAddr>) {
        self.doors.send_modify(|doors| doors[gateway] = addr);
    }

    /// Waits until this many more operations are done.
    async fn goes_on(&self, count: usize) {
        let wanted = self.shared.done.load(Ordering::SeqCst) + count;
        until("the storm goes on", async || {
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client was lied to");
            self.shared.done.load(Ordering::SeqCst) >= wanted
        })
        .await;
    }

    async fn end(self) -> Vec<Intent> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut intents = Vec::new();
        for client in self.clients {
            intents.extend(within("the clients end", client).await.expect("no client was lied to"));
        }
        intents
    }
}

/// One client: an operation after another, each retried with its own key until its end is known.
async fn live(
    mut random: Random,
    client: u64,
    mut doors: watch::Receiver<Vec<Option<SocketAddr>>>,
    shared: Arc<Shared>,
) -> Vec<Intent> {
    let mut ended = Vec::new();
    for n in 0.. {
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        let key = format!("c{client}-{n}");
        let before = shared.disturbances.load(Ordering::SeqCst);
        let told = loop {
            let open: Vec<SocketAddr> = doors.borrow_and_update().iter().flatten().copied().collect();
            let Some(at) = open.get(random.index(open.len())) else {
                doors.changed().await.expect("the test goes on");
                continue;
            };
            // Impatient now and then: it leaves, and asks elsewhere while the first request still runs.
            let patience = if random.below(10) == 0 { Duration::from_millis(random.below(10)) } else { PATIENCE };
            match tokio::time::timeout(patience, try_send(*at, &ask(&key))).await {
                Err(_) => assert!(patience < PATIENCE, "{key}: no answer"),
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(2)).await,
                Ok(Ok(answer)) => match ended_by(&key, &answer) {
                    Some(told) => break told,
                    None => tokio::time::sleep(Duration::from_millis(2 + random.below(20))).await,
                },
            }
        };
        let after = shared.disturbances.load(Ordering::SeqCst);
        if told != Told::Unknown {
            shared.done.fetch_add(1, Ordering::SeqCst);
        }
        ended.push(Intent { key, told, disturbed: before != after || !before.is_multiple_of(2) });
    }
    ended
}

/// The end that an answer tells, or `None`: ask again.
fn ended_by(key: &str, answer: &Response) -> Option<Told> {
    match (answer.status, answer.code().as_str()) {
        (201, _) => match answer.header("idempotency-status") {
            None => Some(Told::Done(answer.body.clone())),
            Some("unkept") => Some(Told::Unkept(answer.body.clone())),
            Some(_) => panic!("{key}: {answer:?}"),
        },
        (409, "outcome-unknown") => Some(Told::Unknown),
        // The claim may take so long that no time is left to send.
        (502, "origin-unavailable") => None,
        (502 | 504, "outcome-unknown") | (409, "in-flight") | (503, "store-unavailable") => None,
        (503, _) => {
            let status = answer.header("idempotency-status");
            assert!(matches!(status, Some("released" | "unkept")), "{key}: {answer:?}");
            None
        }
        _ => panic!("{key}: {answer:?}"),
    }
}

fn ask(key: &str) -> Request {
    post("/charges").key(key).body(format!(r#"{{"intent":"{key}"}}"#))
}

fn reply_to(key: &str) -> String {
    format!(r#"{{"charged":"{key}","pad":"{}"}}"#, key.repeat(1 + key.len() * 20 % 300))
}

fn is_cut(key: &str) -> bool {
    key.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))).is_multiple_of(16)
}

/// Some executions end without an answer; some are busy the first time, so that keys become free again under the storm.
fn behave(request: &Seen) -> Act {
    let key = request.key();
    let act = if is_cut(key) {
        Act::cut(Cut::AfterExecuting)
    } else if key.len().is_multiple_of(3) && clock().is_multiple_of(3) {
        return Act::refuse(Reply::json(503, r#"{"busy":true}"#));
    } else {
        Act::reply(Reply::json(201, &reply_to(key)))
    };
    act.after(Duration::from_millis(u64::from(clock() % 12)))
}

fn clock() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_micros()
}

/// Every end, seen from the origin's ledger and told by every gateway.
async fn judge(name: &str, origin: &Origin, gateways: &[Gateway], intents: &[Intent]) {
    let mut effects: HashMap<String, usize> = HashMap::new();
    for seen in origin.ledger() {
        *effects.entry(seen.key().to_owned()).or_default() += 1;
    }
    for (key, count) in &effects {
        assert!(*count <= 1, "{key} had {count} effects");
        assert!(intents.iter().any(|intent| &intent.key == key), "{key}: an effect that nobody asked for");
    }
    let (mut done, mut unkept, mut unknown, mut happened) = (0, 0, 0, 0);
    for (n, intent) in intents.iter().enumerate() {
        let Intent { key, told, disturbed } = intent;
        // Each at one of them; all know the same.
        let mut answer = gateways[n % gateways.len()].send(&ask(key)).await;
        // What was not kept when it was told is decided when its lease is over.
        until("nothing is in flight any more", async || {
            if answer.code() == "in-flight" {
                assert!(!matches!(told, Told::Done(_)), "{key} was told as kept, and now {answer:?}");
                answer = gateways[n % gateways.len()].send(&ask(key)).await;
            }
            answer.code() != "in-flight"
        })
        .await;
        let is_replayed = (answer.status, answer.header("idempotent-replayed")) == (201, Some("true"));
        assert!(!is_replayed || answer.body == reply_to(key).as_bytes(), "{key} is told a reply that is not its own");
        match told {
            Told::Done(content) | Told::Unkept(content) => {
                assert_eq!(effects.get(key), Some(&1), "{key} is told as done");
                assert_eq!(content, reply_to(key).as_bytes(), "{key} is told a reply that is not the origin's");
                if matches!(told, Told::Done(_)) {
                    done += 1;
                    assert!(is_replayed, "{key} was told as kept, and now {answer:?}");
                } else {
                    unkept += 1;
                    assert!(is_replayed || answer.code() == "outcome-unknown", "{key}: {answer:?}");
                }
            }
            Told::Unknown => {
                unknown += 1;
                let count = effects.get(key).copied().unwrap_or(0);
                happened += count;
                assert!(*disturbed || is_cut(key), "{key} is unknown without a reason");
                if is_replayed {
                    assert_eq!(count, 1, "{key} is replayed without an effect");
                } else {
                    assert_problem(&answer, 409, "outcome-unknown");
                }
            }
        }
    }
    println!("{name}: {done} done, {unkept} unkept, {unknown} unknown of which {happened} had happened");
    assert!(done >= 60, "{done} done: this proves too little");
    assert!(gateways.iter().all(|gateway| !gateway.log().contains("panicked")), "a gateway panicked");
}

async fn stormy<const N: usize>(store: &Store) -> (Origin, [Gateway; N]) {
    let origin = Origin::start().await;
    origin.always(behave);
    let gateways = store.gateways(&origin, LEASE).await;
    (origin, gateways)
}

async fn ready(gateways: &[Gateway]) {
    for gateway in gateways {
        until("it is ready", async || send(gateway.admin, &get("/readyz")).await.status == 200).await;
    }
}

for_each!(postgres, redis, cluster =>
async fn k03_k04_peers_22_kill_loop_of_gateways_on_one_store(store: Store) {
    let kills = std::env::var("SEMEL_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(8_usize);
    let (origin, gateways) = stormy::<3>(&store).await;
    let mut gateways = Vec::from(gateways);
    let clients = Storm::start("kill loop of gateways", &gateways);
    for kill in 0..kills {
        clients.goes_on(8).await;
        clients.disturb();
        let n = kill % gateways.len();
        gateways[n].kill9();
        clients.at(n, None);
        assert!(!gateways[n].log().contains("panicked"));
        gateways[n] = gateways[n].setup.clone().start().await;
        clients.at(n, Some(gateways[n].addr));
        clients.calm();
    }
    clients.goes_on(20).await;
    let intents = clients.end().await;
    judge("kill loop of gateways", &origin, &gateways, &intents).await;
});

for_each!(own_postgres, own_redis =>
/// The server is killed and started again: what it confirmed it still has.
async fn k14_a_server_that_is_killed_under_load_forgets_nothing_it_confirmed(store: Store) {
    let store = store.with(LIMITS);
    let (origin, gateways) = stormy::<2>(&store).await;
    let clients = Storm::start("server killed", &gateways);
    for _ in 0..3 {
        clients.goes_on(20).await;
        clients.disturb();
        store.crash();
        store.start_again();
        ready(&gateways).await;
        clients.calm();
    }
    clients.goes_on(20).await;
    let intents = clients.end().await;
    judge("server killed", &origin, &gateways, &intents).await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k14_a_replica_that_is_promoted_under_load_has_all_that_was_confirmed() {
    let options = PostgresOptions { fsync: true, ..PostgresOptions::default() };
    let primary = PrivatePostgres::start_with(options).expect("a primary");
    let database = primary.fresh_database();
    let replica = primary.replica(Replication::Synchronous).expect("a replica");
    let url = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{database}", primary.port(), replica.port());
    crate::harness::migrate(&url).await;
    let origin = Origin::start().await;
    origin.always(behave);
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let setup = crate::harness::gateway(&origin).config(&format!("{LEASE}[store]\n{LIMITS}")).on(&url);
        gateways.push(setup.start().await);
    }
    let clients = Storm::start("replica promoted", &gateways);
    clients.goes_on(60).await;
    clients.disturb();
    primary.stop_immediately();
    replica.promote().expect("it is promoted");
    ready(&gateways).await;
    clients.calm();
    clients.goes_on(60).await;
    let intents = clients.end().await;
    judge("replica promoted", &origin, &gateways, &intents).await;
}

for_each!(own_cluster =>
/// What the replica that takes over has not got was not confirmed: it stands still before its primary dies.
async fn k14_a_primary_of_a_cluster_that_is_killed_under_load_loses_nothing_confirmed(store: Store) {
    let store = store.with(LIMITS).with("replicas = 1\n");
    let (origin, gateways) = stormy::<2>(&store).await;
    let cluster = store.as_cluster().expect("it is a cluster");
    let clients = Storm::start("primary of a cluster killed", &gateways);
    clients.goes_on(60).await;
    clients.disturb();
    let replica = cluster.replica(0).expect("there is one");
    replica.pause();
    // The other shards go on, and whoever meets this one is told nothing that only it knows.
    clients.goes_on(8).await;
    cluster.kill_primary(0);
    // What it was sent and had not read is lost with it: its socket would still have it.
    replica.crash();
    replica.start_again().expect("it starts again");
    cluster.wait_failover(0).expect("the replica takes over");
    // Without a second copy nothing is confirmed.
    cluster.start_again(0).expect("it follows");
    ready(&gateways).await;
    clients.calm();
    clients.goes_on(60).await;
    let intents = clients.end().await;
    judge("primary of a cluster killed", &origin, &gateways, &intents).await;
});
