//! A gateway or the store goes down while another gateway goes on: K12 to K15, and what becomes of the claims of the dead.

use std::time::{Duration, Instant};

use semel_servers::{Mode, RedisOptions};

use super::{Store, for_each, lease, records, sent};
use crate::harness::{Act, Conn, Gate, Gateway, Origin, assert_problem, assert_replay, get, post, send, until};

for_each!(postgres, redis =>
/// Its key is in flight until the lease is over, unknown from then on, and free when that is over too.
async fn k03_peers_26_27_what_a_killed_gateway_left_is_decided_when_its_lease_is_over(store: Store) {
    const LEASE: Duration = Duration::from_secs(2);
    const UNKNOWN_FOR: Duration = Duration::from_secs(4);
    // A loaded machine may take this long over one request.
    const SLOW: Duration = Duration::from_secs(2);
    let origin = Origin::start().await;
    let toml = lease(2_000) + "replay_for = \"1s\"\nremember_for = \"4s\"\nunknown_for = \"4s\"\n";
    let [mut owner, other] = store.gateways(&origin, &toml).await;
    let request = post("/orders").key("k");
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let asked = Instant::now();
    let _conn = sent(&owner, &origin, &request).await;
    let claimed = Instant::now();
    owner.kill9();
    assert_problem(&other.send(&request).await, 409, "in-flight");
    let mut answer = other.send(&request).await;
    until("the lease is over", async || {
        let asking = Instant::now();
        answer = other.send(&request).await;
        let is_over = answer.code() != "in-flight";
        assert!(is_over || asking < claimed + LEASE + SLOW, "in flight far beyond its lease");
        is_over
    })
    .await;
    assert!(asked.elapsed() >= LEASE, "nobody may know before the lease is over that the owner is dead");
    assert_problem(&answer, 409, "outcome-unknown");
    until("what is unknown is forgotten", async || {
        let asking = Instant::now();
        answer = other.send(&request).await;
        let is_free = answer.status == 201;
        assert!(is_free || asking < claimed + UNKNOWN_FOR + SLOW, "not forgotten as published");
        is_free || {
            assert_problem(&answer, 409, "outcome-unknown");
            false
        }
    })
    .await;
    assert!(asked.elapsed() >= UNKNOWN_FOR);
    assert_eq!((answer.header("idempotent-replayed"), origin.effects()), (None, 2));
});

for_each!(postgres, redis =>
async fn k05_k06_what_a_killed_gateway_had_kept_is_replayed_by_another(store: Store) {
    let origin = Origin::start().await;
    let [mut one, other] = store.gateways(&origin, "").await;
    let first = one.send(&post("/orders").key("k")).await;
    one.kill9();
    assert_replay(&first, &other.send(&post("/orders").key("k")).await);
    let again = one.setup.clone().start().await;
    assert_replay(&first, &again.send(&post("/orders").key("k")).await);
    assert_eq!(origin.seen().len(), 1);
});

for_each!(own_postgres, own_redis =>
/// The server dies before a claim, then between an effect and its settle, then for longer than a lease.
async fn k12_k13_peers_23_a_store_that_dies_costs_no_effect_and_frees_no_key(store: Store) {
    let origin = Origin::start().await;
    let store = store.with("connect_max = \"1s\"\nstatement_max = \"1s\"\n");
    let [one, other] = store.gateways(&origin, &lease(15_000)).await;
    let kept = one.send(&post("/orders").key("kept")).await;
    assert_eq!(kept.status, 201);
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut running = sent(&one, &origin, &post("/orders").key("running")).await;

    store.crash();
    // All at once, since a gateway may ask for a while before it says so.
    let refused: Vec<_> = [&one, &other]
        .into_iter()
        .flat_map(|gateway| ["new", "kept", "running"].map(|key| (gateway.addr, post("/orders").key(key))))
        .map(|(addr, request)| tokio::spawn(async move { send(addr, &request).await }))
        .collect();
    for gateway in [&one, &other] {
        // What needs no protection still passes.
        assert_eq!(gateway.send(&get("/orders")).await.status, 200);
        until("it says that it is not ready", async || send(gateway.admin, &get("/readyz")).await.status == 503).await;
        assert_eq!(send(gateway.admin, &get("/healthz")).await.status, 200);
    }
    for answer in refused {
        assert_problem(&answer.await.expect("an answer"), 503, "store-unavailable");
    }
    assert_eq!(origin.effects(), 2, "nothing was executed");
    gate.open();
    let told = running.response().await;
    assert_eq!((told.status, told.header("idempotency-status")), (201, Some("unkept")), "true, though not kept yet");

    store.start_again();
    for gateway in [&one, &other] {
        until("it recovers by itself", async || send(gateway.admin, &get("/readyz")).await.status == 200).await;
        assert_replay(&kept, &gateway.send(&post("/orders").key("kept")).await);
    }
    // The settle was tried all the while.
    let mut retry = other.send(&post("/orders").key("running")).await;
    until("the reply is kept after all", async || {
        retry = other.send(&post("/orders").key("running")).await;
        retry.status == 201 || {
            assert_problem(&retry, 409, "in-flight");
            false
        }
    })
    .await;
    assert_eq!((retry.header("idempotent-replayed"), &retry.body), (Some("true"), &told.body));
    assert_eq!(origin.effects(), 2);
    until("the key that was refused is free", async || {
        other.send(&post("/orders").key("new")).await.status == 201
    })
    .await;
    assert_eq!(origin.effects(), 3);
});

for_each!(postgres, redis =>
/// The store is out of reach from before the settle until the lease is over.
async fn k13_peers_23_a_settle_that_never_got_through_is_an_unknown_outcome(store: Store) {
    let origin = Origin::start().await;
    let (proxy, url) = store.proxy();
    let one = store.gateway_by(&url, &origin, &lease(2_000)).start().await;
    let other = store.gateway(&origin, &lease(2_000)).start().await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut running = sent(&one, &origin, &post("/orders").key("k")).await;
    proxy.set(Mode::Cut);
    gate.open();
    let told = running.response().await;
    assert!(
        told.status == 201 && told.header("idempotency-status") == Some("unkept") || told.code() == "outcome-unknown",
        "{told:?}"
    );
    let mut retry = other.send(&post("/orders").key("k")).await;
    until("the lease is over", async || {
        retry = other.send(&post("/orders").key("k")).await;
        retry.code() != "in-flight"
    })
    .await;
    assert_problem(&retry, 409, "outcome-unknown");
    proxy.set(Mode::Pass);
    until("it recovers", async || one.send(&post("/orders").key("k")).await.code() != "store-unavailable").await;
    for gateway in [&one, &other] {
        assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "outcome-unknown");
    }
    assert_eq!(origin.seen().len(), 1);
});

for_each!(postgres, redis =>
/// The claim is in the store and the answer to it gets lost: it must be known again.
async fn k14_peers_10_a_claim_whose_answer_was_lost_is_recognised(store: Store) {
    let origin = Origin::start().await;
    let (proxy, url) = store.proxy();
    let one = store.gateway_by(&url, &origin, "").start().await;
    let other = store.gateway(&origin, "").start().await;
    let request = post("/orders").key("k");
    proxy.set(Mode::DropReplies);
    let mut conn = Conn::open(one.addr).await;
    conn.send(&request).await;
    // Nothing is in the store before the claim is, and a claim is what makes the other say so.
    let looked = post("/orders").key("k");
    until("the claim is in the store", async || records(&store) == 1).await;
    assert_problem(&other.send(&looked).await, 409, "in-flight");
    assert_eq!(origin.seen().len(), 0);
    // Whoever missed an answer is reset now.
    proxy.set(Mode::Pass);
    let first = conn.response().await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (201, None), "{first:?}");
    for gateway in [&one, &other] {
        assert_replay(&first, &gateway.send(&request).await);
    }
    assert_eq!(origin.seen().len(), 1);
});

for_each!(postgres, redis =>
/// The answer never comes: the client is told in time, and the claim is given back long before its lease is over.
async fn k14_a_claim_that_was_never_confirmed_is_given_back(store: Store) {
    let origin = Origin::start().await;
    let (proxy, url) = store.proxy();
    // The lease is far longer than this test waits for anything.
    let slow = "[[route]]\nexecution_max = \"10m\"\n";
    let store = store.with("statement_max = \"1s\"\n");
    let one = store.gateway_by(&url, &origin, slow).start().await;
    let other = store.gateway(&origin, slow).start().await;
    let request = post("/orders").key("k");
    proxy.set(Mode::DropReplies);
    assert_problem(&one.send(&request).await, 503, "store-unavailable");
    assert_problem(&other.send(&request).await, 409, "in-flight");
    proxy.set(Mode::Pass);
    let mut answer = other.send(&request).await;
    until("the key is free", async || {
        answer = other.send(&request).await;
        answer.status == 201 || {
            assert_problem(&answer, 409, "in-flight");
            false
        }
    })
    .await;
    assert_replay(&answer, &one.send(&request).await);
    assert_eq!(origin.seen().len(), 1, "what was refused is not sent later");
});

for_each!(postgres, redis =>
async fn k14_a_settle_whose_answer_was_lost_is_recognised(store: Store) {
    let origin = Origin::start().await;
    let (proxy, url) = store.proxy();
    let one = store.gateway_by(&url, &origin, "").start().await;
    let other = store.gateway(&origin, "").start().await;
    let request = post("/orders").key("k");
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut conn = sent(&one, &origin, &request).await;
    // Nobody can connect now, while the connections that there are still carry what is said. Nothing waits for the one
    // where the other will do.
    proxy.set(Mode::DropReplies);
    gate.open();
    let began = Instant::now();
    let mut kept = other.send(&request).await;
    until("the settle is in the store", async || {
        kept = other.send(&request).await;
        kept.status == 201
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(4), "the settle was sent after {:?}", began.elapsed());
    proxy.set(Mode::Pass);
    let told = conn.response().await;
    assert_eq!((told.status, &told.body), (201, &kept.body), "{told:?}");
    // Only who is very slow over it tells it as unkept.
    assert!(matches!(told.header("idempotency-status"), None | Some("unkept")), "{told:?}");
    for gateway in [&one, &other] {
        assert_eq!(gateway.send(&request).await.header("idempotent-replayed"), Some("true"));
    }
    assert_eq!(origin.seen().len(), 1);
});

#[tokio::test]
async fn k15_a_redis_that_forgets_is_refused_unless_that_is_accepted() {
    let no_log = RedisOptions { appendonly: false, ..RedisOptions::default() };
    let evicts = RedisOptions { maxmemory_policy: "allkeys-lru", ..RedisOptions::default() };
    let origin = Origin::start().await;
    for (options, word) in [(no_log, "appendonly"), (evicts, "noeviction")] {
        let store = Store::own_redis_with(options).await;
        let refused = store.gateway(&origin, "").try_start().await;
        let said = refused.expect_err("it must not start");
        assert!(said.contains(word) && said.contains("accept_loss"), "{said}");
        let store = store.with("accept_loss = true\n");
        let [one, other]: [Gateway; 2] = store.gateways(&origin, "").await;
        for gateway in [&one, &other] {
            let log = gateway.log();
            assert!(log.lines().any(|line| line.contains("WARN") && line.contains(word)), "{log}");
        }
        let first = one.send(&post("/orders").key(word)).await;
        assert_replay(&first, &other.send(&post("/orders").key(word)).await);
    }
    assert_eq!(origin.effects(), 2);
}
