//! A Cluster: redirects, failover, and slots that move under load.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use semel::{
    store::{
        PhaseKind, RecordKey, Stamp, Store as _, StoreError, Swapped,
        redis::{Options, RedisStore},
        shared::{OpenError, Url},
    },
    testkit::sample::{completed, in_flight, key, put, stamp, unknown},
};
use semel_servers::RedisCluster;
use tokio::task::JoinSet;

use super::{blocking, in_redis, is_done, open, refusal, until, until_answered};

async fn cluster() -> Arc<RedisCluster> {
    Arc::new(blocking(RedisCluster::start).await.unwrap_or_else(|error| panic!("{error}")))
}

async fn in_background<T: Send + 'static>(
    cluster: &Arc<RedisCluster>,
    act: impl FnOnce(&RedisCluster) -> T + Send + 'static,
) -> T {
    let cluster = cluster.clone();
    blocking(move || act(&cluster)).await
}

/// Entered by one of its nodes, so that it has to find the others.
fn options(cluster: &RedisCluster) -> Options {
    let entrance = cluster.nodes()[5].port();
    Options { replicas: 1, ..Options::new(format!("redis+cluster://127.0.0.1:{entrance}")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_found_by_any_of_its_nodes_and_used_whole() {
    let cluster = cluster().await;
    let options = options(&cluster);
    let store = open(&options).await;
    assert_eq!(store.probe().await, Ok(()));
    assert_eq!(store.agree_on([1; 32]).await, Ok(true));
    for n in 0..60 {
        is_done(&store, key(n), &put(None, stamp(n, 1), unknown(n))).await;
    }
    let mut keys: Vec<RecordKey> = (0..60).map(key).collect();
    keys.sort();
    let page = store.scan(PhaseKind::Unknown, None, 100).await.unwrap();
    assert_eq!(page.iter().map(|(key, _)| *key).collect::<Vec<_>>(), keys, "of all nodes, in order");
    assert_eq!(store.stats().await.unwrap().records, [(PhaseKind::Unknown, 60)].into());
    for shard in 0..3 {
        let there: u64 = cluster.primary(shard).cli(&["DBSIZE"]).unwrap().trim().parse().unwrap();
        assert!(there > 5, "shard {shard} has {there}");
    }

    let single = Options { url: Url::new(cluster.primary(0).url()), replicas: 0, accept_loss: true, ..options.clone() };
    let refused = refusal(single).await;
    assert!(matches!(&refused, OpenError::Options(why) if why.contains("is part of a Cluster")), "{refused}");

    // One primary that forgets is enough to refuse all.
    let forgetful = cluster.primary(2);
    forgetful.cli(&["CONFIG", "SET", "appendonly", "no"]).unwrap();
    let refused = refusal(options).await;
    let name = format!("127.0.0.1:{} has appendonly no", forgetful.port());
    assert!(matches!(refused, OpenError::Refused(_)) && refused.to_string().contains(&name), "{refused}");
}

/// What was confirmed of each key: the claim that won, and what it settled with.
#[derive(Default)]
struct Confirmed {
    claims: Mutex<HashMap<u64, Vec<Stamp>>>,
    settles: Mutex<HashMap<u64, Stamp>>,
}

/// Two gateways race for each key; who wins settles it. All of it goes on whatever happens to the Cluster.
fn race(
    stores: [RedisStore; 2],
    stop: &Arc<AtomicBool>,
    done: &Arc<AtomicU64>,
    confirmed: &Arc<Confirmed>,
) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for (gateway, store) in (1..).zip(stores) {
        for writer in 0..8u64 {
            let (store, stop) = (store.clone(), stop.clone());
            let (done, confirmed) = (done.clone(), confirmed.clone());
            writers.spawn(async move {
                for n in (0..).map(|n| n * 8 + writer) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let exchange = n * 2 + gateway;
                    let claim = put(None, stamp(exchange, 1), in_flight(n));
                    match until_answered(&store, key(n), &claim).await {
                        Swapped::Done => {
                            confirmed.claims.lock().entry(n).or_default().push(stamp(exchange, 1));
                            let settle = put(Some(stamp(exchange, 1)), stamp(exchange, 2), completed(n, "done"));
                            let settled = until_answered(&store, key(n), &settle).await;
                            assert_eq!(settled, Swapped::Done, "nobody else has the {n}th key");
                            confirmed.settles.lock().insert(n, stamp(exchange, 2));
                        }
                        Swapped::Found(_) => {}
                        Swapped::Absent => panic!("a claim expects nothing"),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    writers
}

async fn keeps_every_promise(disturb: impl AsyncFnOnce(&Arc<RedisCluster>)) {
    let cluster = cluster().await;
    let options = options(&cluster);
    let stores = [open(&options).await, open(&options).await];
    let stop = Arc::new(AtomicBool::new(false));
    let (done, confirmed) = (Arc::new(AtomicU64::new(0)), Arc::new(Confirmed::default()));
    let mut writers = race(stores, &stop, &done, &confirmed);
    until(async || done.load(Ordering::Relaxed) > 200).await;
    disturb(&cluster).await;
    let before = done.load(Ordering::Relaxed);
    until(async || done.load(Ordering::Relaxed) > before + 500).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer.expect("no promise was broken");
    }
    let reader = open(&options).await;
    for (n, claims) in confirmed.claims.lock().clone() {
        assert_eq!(claims.len(), 1, "the {n}th key was claimed by {claims:?}");
    }
    let settles = confirmed.settles.lock().clone();
    for (n, settled) in settles {
        let found = reader.load(&key(n)).await.expect("all is well again");
        assert_eq!(found.map(|found| found.stamp), Some(settled), "the {n}th key");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e24_c06_a_primary_that_is_killed_under_load_loses_nothing_that_was_confirmed_with_a_copy() {
    keeps_every_promise(async |cluster| {
        in_background(cluster, |cluster| {
            cluster.kill_primary(1);
            cluster.wait_failover(1)
        })
        .await
        .unwrap();
        // No write is confirmed there while the copy is missing.
        in_background(cluster, |cluster| cluster.start_again(1)).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e24_c06_slots_that_move_under_load_take_their_records_along() {
    keeps_every_promise(async |cluster| {
        in_background(cluster, |cluster| cluster.reshard(2_000, 0, 2)).await.unwrap();
        in_background(cluster, |cluster| cluster.fail_over(1)).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_on_its_way_is_used_where_its_keys_are() {
    let cluster = cluster().await;
    let options = options(&cluster);
    let store = open(&options).await;
    is_done(&store, key(1), &put(None, stamp(1, 1), in_flight(1))).await;
    let there = in_redis(&options, &key(1));
    let slot = cluster.primary(0).cli(&["CLUSTER", "KEYSLOT", &there]).unwrap().trim().to_owned();
    let holds =
        |shard: usize| cluster.primary(shard).cli(&["CLUSTER", "COUNTKEYSINSLOT", &slot]).unwrap().trim() == "1";
    let from = (0..3).find(|shard| holds(*shard)).expect("one of them has it");
    let to = (from + 1) % 3;
    let id = |shard: usize| cluster.primary(shard).cli(&["CLUSTER", "MYID"]).unwrap().trim().to_owned();
    cluster.primary(to).cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]).unwrap();
    cluster.primary(from).cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]).unwrap();

    // A key that has not moved yet is used where it is, and one that is not there where it will be.
    let settle = put(Some(stamp(1, 1)), stamp(1, 2), completed(1, "done"));
    is_done(&store, key(1), &settle).await;
    assert!(holds(from) && !holds(to));
    let port = cluster.primary(to).port().to_string();
    cluster.primary(from).cli(&["MIGRATE", "127.0.0.1", &port, &there, "0", "5000"]).unwrap();
    assert!(holds(to) && !holds(from));
    assert_eq!(store.load(&key(1)).await.unwrap().map(|found| found.stamp), Some(stamp(1, 2)));
    let take_over = put(Some(stamp(1, 2)), stamp(3, 1), in_flight(1));
    is_done(&store, key(1), &take_over).await;
    for shard in [to, from] {
        cluster.primary(shard).cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]).unwrap();
    }
    assert_eq!(store.load(&key(1)).await.unwrap().map(|found| found.stamp), Some(stamp(3, 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_hangs_is_left_when_its_replica_has_taken_over() {
    let cluster = cluster().await;
    let options = Options { replicas: 0, ..options(&cluster) };
    let store = open(&options).await;
    for n in 0..20 {
        is_done(&store, key(n), &put(None, stamp(n, 1), in_flight(n))).await;
    }
    in_background(&cluster, |cluster| {
        cluster.primary(0).pause();
    })
    .await;
    for n in 100..140 {
        let claim = put(None, stamp(n, 1), in_flight(n));
        assert_eq!(until_answered(&store, key(n), &claim).await, Swapped::Done);
    }
    for n in 0..20 {
        assert_eq!(store.load(&key(n)).await.unwrap().map(|found| found.stamp), Some(stamp(n, 1)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_one_shard_refuses_its_keys() {
    let cluster = cluster().await;
    let options = Options { replicas: 0, statement_max: std::time::Duration::from_millis(500), ..options(&cluster) };
    let store = open(&options).await;
    in_background(&cluster, |cluster| {
        cluster.replica(0).expect("there is one").crash();
        cluster.kill_primary(0);
    })
    .await;
    let mut unavailable = 0;
    for n in 0..30 {
        match store.swap(&key(n), &put(None, stamp(n, 1), in_flight(n))).await {
            Ok(Swapped::Done) => {}
            Err(StoreError::Unavailable(_) | StoreError::TimedOut(_)) => unavailable += 1,
            answer => panic!("{answer:?}"),
        }
    }
    assert!(unavailable > 0);
    assert!(store.probe().await.is_err());
}
