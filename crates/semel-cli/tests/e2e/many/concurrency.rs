//! One key at several gateways at once: C6, C7, C10.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::{Store, addresses, at_once, for_each, lease, sent};
use crate::harness::{
    Act, Conn, Gate, Gateway, Origin, Response, assert_problem, assert_replay, assert_same_reply, post, until,
};

for_each!(postgres, redis, cluster =>
async fn c06_peers_08_16_22_a_crowd_at_three_gateways_is_one_effect(store: Store) {
    let origin = Origin::start().await;
    let gateways: [Gateway; 3] = store.gateways(&origin, "").await;
    for (n, crowd) in [64, 64, 200].into_iter().enumerate() {
        let request = post("/orders").key(&format!("k{n}"));
        let answers = at_once(&gateways, crowd, &request).await;
        let (done, refused): (Vec<Response>, Vec<Response>) =
            answers.into_iter().partition(|answer| answer.status == 201);
        for answer in &refused {
            assert_problem(answer, 409, "in-flight");
        }
        assert_eq!((origin.effects(), origin.seen().len()), (n + 1, n + 1));
        let own: Vec<&Response> =
            done.iter().filter(|answer| answer.header("idempotent-replayed").is_none()).collect();
        assert_eq!(own.len(), 1, "only one is told as its own");
        for answer in &done {
            assert_same_reply(own[0], answer);
        }
        for gateway in &gateways {
            assert_replay(own[0], &gateway.send(&request).await);
            // The fingerprint outlives claim and settle, wherever they were made.
            assert_problem(&gateway.send(&request.clone().body("{}")).await, 422, "key-reused");
            assert_replay(own[0], &gateway.send(&request).await);
        }
        assert_eq!(origin.seen().len(), n + 1);
    }
});

for_each!(postgres, redis =>
async fn c06_different_keys_at_two_gateways_do_not_wait_for_each_other(store: Store) {
    let origin = Origin::start().await;
    let [one, other] = store.gateways(&origin, "").await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut held = sent(&one, &origin, &post("/orders").key("held")).await;
    for n in 0..20 {
        for gateway in [&one, &other] {
            let answer = gateway.send(&post("/orders").key(&format!("free-{n}-{}", gateway.addr.port()))).await;
            assert_eq!((answer.status, answer.header("idempotent-replayed")), (201, None), "{answer:?}");
        }
    }
    assert_problem(&other.send(&post("/orders").key("held")).await, 409, "in-flight");
    gate.open();
    assert_eq!((held.response().await.status, origin.effects()), (201, 41));
});

for_each!(postgres, redis =>
/// The owner is paused between sending and the answer, until its lease is over.
async fn c07_peers_11_who_was_paused_past_its_lease_does_not_undo_what_another_decided(store: Store) {
    for way in ["refuse", "reexecute"] {
        let origin = Origin::start().await;
        let toml = format!("{}on_unknown = \"{way}\"\n", lease(2_000));
        let [owner, other] = store.gateways(&origin, &toml).await;
        let request = post("/orders").key(way);
        let gate = Gate::new();
        origin.next(Act::execute().held(&gate));
        let mut conn = sent(&owner, &origin, &request).await;
        owner.signal("STOP");
        assert_problem(&other.send(&request).await, 409, "in-flight");
        let mut decided = other.send(&request).await;
        until("the lease is over", async || {
            decided = other.send(&request).await;
            decided.code() != "in-flight"
        })
        .await;
        if way == "refuse" {
            assert_problem(&decided, 409, "outcome-unknown");
        } else {
            assert_eq!((decided.status, decided.header("idempotent-replayed")), (201, None), "{decided:?}");
        }
        let effects = origin.effects();
        assert_eq!(effects, if way == "refuse" { 1 } else { 2 });
        gate.open();
        owner.signal("CONT");
        let told = conn.response().await;
        if way == "refuse" {
            // It had its answer after all, or it had given up. Nobody else had decided otherwise.
            if told.status == 201 && told.header("idempotency-status").is_none() {
                for gateway in [&owner, &other] {
                    assert_replay(&told, &gateway.send(&request).await);
                }
            } else {
                assert_problem(&told, 504, "outcome-unknown");
                for gateway in [&owner, &other] {
                    assert_problem(&gateway.send(&request).await, 409, "outcome-unknown");
                }
            }
        } else {
            // What the other was told stays, and the owner's client is told that, or what it may rely on.
            match (told.status, told.header("idempotent-replayed"), told.header("idempotency-status")) {
                (201, Some("true"), _) => assert_same_reply(&decided, &told),
                (201, None, status) => assert_eq!(status, Some("unkept"), "{told:?}"),
                _ => assert_problem(&told, 504, "outcome-unknown"),
            }
            for gateway in [&owner, &other, &owner] {
                assert_replay(&decided, &gateway.send(&request).await);
            }
        }
        assert_eq!(origin.effects(), effects, "{way}: nothing was sent again");
    }
});

for_each!(postgres, redis =>
/// Longer than half a lease, and retried at both gateways all the while.
async fn peers_45_a_slow_execution_is_not_run_again_within_its_lease(store: Store) {
    const LEASE_MS: u32 = 4_000;
    let origin = Origin::start().await;
    let [one, other] = store.gateways(&origin, &format!("{}on_unknown = \"reexecute\"\n", lease(LEASE_MS))).await;
    let request = post("/orders").key("k");
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let began = Instant::now();
    let mut conn = sent(&one, &origin, &request).await;
    while began.elapsed() < Duration::from_millis(u64::from(LEASE_MS) * 6 / 10) {
        for gateway in [&one, &other] {
            assert_problem(&gateway.send(&request).await, 409, "in-flight");
        }
    }
    gate.open();
    let first = conn.response().await;
    assert_eq!(first.status, 201, "{first:?}");
    for gateway in [&one, &other] {
        assert_replay(&first, &gateway.send(&request).await);
    }
    assert_eq!(origin.seen().len(), 1);
});

for_each!(postgres =>
/// Every transaction of the database is serializable unless it says otherwise, and somebody rewrites all rows in the
/// opposite order, so that there are conflicts and deadlocks all the time.
async fn c10_conflicts_within_the_database_are_not_shown(store: Store) {
    let (server, database) = store.as_postgres().expect("it is PostgreSQL");
    for setting in ["default_transaction_isolation = 'serializable'", "deadlock_timeout = '10ms'"] {
        server.psql(database, &format!("ALTER DATABASE {database} SET {setting}")).expect("it is set");
    }
    let origin = Origin::start().await;
    let gateways: [Gateway; 2] = store.gateways(&origin, "").await;
    let stop = AtomicBool::new(false);
    let rewriting = || {
        let sql = "DO $$ DECLARE r record; BEGIN
                FOR r IN SELECT key FROM semel_records ORDER BY key DESC LOOP
                    UPDATE semel_records SET phase = phase WHERE key = r.key;
                    PERFORM pg_sleep(0.001);
                END LOOP;
            END $$";
        let (mut done, mut failed) = (0, 0);
        while !stop.load(Ordering::SeqCst) {
            // It may be the one whom a conflict costs its transaction.
            match server.psql(database, sql) {
                Ok(_) => done += 1,
                Err(_) => failed += 1,
            }
        }
        (done, failed)
    };
    let addrs = addresses(&gateways);
    let clients = async {
        let rounds = 12;
        let clients: Vec<_> = (0..32)
            .map(|client| {
                let addr = addrs[client % addrs.len()];
                tokio::spawn(async move {
                    let mut conn = Conn::open(addr).await;
                    for round in 0..rounds {
                        conn.send(&post("/orders").key(&format!("k{client}-{round}"))).await;
                        let answer = conn.response().await;
                        assert_eq!((answer.status, answer.header("idempotency-status")), (201, None), "{answer:?}");
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.expect("nobody is told of a conflict");
        }
        rounds * 32
    };
    let (asked, rewritten) = std::thread::scope(|scope| {
        let rewriting = scope.spawn(rewriting);
        let stopping = Stopping(&stop);
        let asked = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(clients));
        drop(stopping);
        (asked, rewriting.join().expect("it ends"))
    });
    assert_eq!(origin.effects(), asked);
    assert!(rewritten.0 + rewritten.1 > 0, "nobody was in the way");
    let crowd = at_once(&gateways, 64, &post("/orders").key("one")).await;
    for answer in crowd.iter().filter(|answer| answer.status != 201) {
        assert_problem(answer, 409, "in-flight");
    }
    assert_eq!(origin.effects(), asked + 1);
});

/// Stops another thread, also when this one panics.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
