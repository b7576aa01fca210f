//! A gateway that does not reach the store, while another does.

use std::time::{Duration, Instant};

use semel_servers::Mode;

use super::{Store, for_each, lease, sent};
use crate::harness::{Act, Gate, Origin, assert_problem, assert_replay, get, post, send, until};

/// How long a gateway asks a store that does not answer, in these tests: three tries of a second, and then some for a
/// loaded machine.
const TOLD_WITHIN: Duration = Duration::from_secs(8);

for_each!(postgres, redis =>
async fn k12_a_gateway_that_is_cut_off_refuses_in_time_while_the_other_goes_on(store: Store) {
    for mode in [Mode::Cut, Mode::BlackHole] {
        let store = store.beside().await.with("connect_max = \"1s\"\nstatement_max = \"1s\"\n");
        let origin = Origin::start().await;
        let (proxy, url) = store.proxy();
        let cut_off = store.gateway_by(&url, &origin, "").start().await;
        let other = store.gateway(&origin, "").start().await;
        let first = cut_off.send(&post("/orders").key("before")).await;
        proxy.set(mode);
        for key in ["new", "before"] {
            let asked = Instant::now();
            assert_problem(&cut_off.send(&post("/orders").key(key)).await, 503, "store-unavailable");
            assert!(asked.elapsed() < TOLD_WITHIN, "{mode:?}: told after {:?}", asked.elapsed());
        }
        assert_eq!(cut_off.send(&get("/orders")).await.status, 200);
        until("it says so", async || send(cut_off.admin, &get("/readyz")).await.status == 503).await;
        assert_eq!(send(other.admin, &get("/readyz")).await.status, 200);
        assert_replay(&first, &other.send(&post("/orders").key("before")).await);
        let second = other.send(&post("/orders").key("meanwhile")).await;
        assert_eq!((second.status, origin.effects()), (201, 2));
        proxy.set(Mode::Pass);
        until("it recovers by itself", async || send(cut_off.admin, &get("/readyz")).await.status == 200).await;
        assert_replay(&first, &cut_off.send(&post("/orders").key("before")).await);
        assert_replay(&second, &cut_off.send(&post("/orders").key("meanwhile")).await);
        // What was refused was not executed, and whoever asks again is served.
        until("the key is free", async || other.send(&post("/orders").key("new")).await.status == 201).await;
        assert_eq!(origin.effects(), 3, "{mode:?}");
    }
});

for_each!(postgres, redis =>
/// Cut off between sending and settling; what it says meanwhile arrives late.
async fn k13_a_gateway_that_is_cut_off_while_it_executes_settles_when_it_can(store: Store) {
    for mode in [Mode::Cut, Mode::BlackHole] {
        let store = store.beside().await.with("connect_max = \"1s\"\nstatement_max = \"1s\"\n");
        let origin = Origin::start().await;
        let (proxy, url) = store.proxy();
        let cut_off = store.gateway_by(&url, &origin, "").start().await;
        let other = store.gateway(&origin, "").start().await;
        let request = post("/orders").key("k");
        let gate = Gate::new();
        origin.next(Act::execute().held(&gate));
        let mut running = sent(&cut_off, &origin, &request).await;
        proxy.set(mode);
        gate.open();
        let told = running.response().await;
        assert_eq!((told.status, told.header("idempotency-status")), (201, Some("unkept")), "{told:?}");
        assert_problem(&other.send(&request).await, 409, "in-flight");
        proxy.set(Mode::Pass);
        let mut retry = other.send(&request).await;
        until("the settle gets through", async || {
            retry = other.send(&request).await;
            retry.code() != "in-flight"
        })
        .await;
        assert_eq!((retry.status, &retry.body), (201, &told.body), "{mode:?}: {retry:?}");
        assert_eq!(retry.header("idempotent-replayed"), Some("true"));
        assert_eq!(origin.seen().len(), 1);
    }
});

for_each!(postgres, redis =>
/// Cut off until another has taken over. Its settle arrives after that, and changes nothing.
async fn c07_peers_11_what_a_cut_off_gateway_says_too_late_changes_nothing(store: Store) {
    let store = store.with("connect_max = \"1s\"\nstatement_max = \"1s\"\n");
    let origin = Origin::start().await;
    let toml = lease(2_000) + "on_unknown = \"reexecute\"\n";
    let (proxy, url) = store.proxy();
    let cut_off = store.gateway_by(&url, &origin, &toml).start().await;
    let other = store.gateway(&origin, &toml).start().await;
    let request = post("/orders").key("k");
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut running = sent(&cut_off, &origin, &request).await;
    proxy.set(Mode::BlackHole);
    gate.open();
    let mut decided = other.send(&request).await;
    until("the lease is over", async || {
        decided = other.send(&request).await;
        decided.code() != "in-flight"
    })
    .await;
    assert_eq!((decided.status, decided.header("idempotent-replayed"), origin.effects()), (201, None, 2));
    proxy.set(Mode::Pass);
    let told = running.response().await;
    // Three truths, by how far it came before it heard of the other: its own reply, which is not what is kept; that it
    // does not know; or what is kept.
    let kept = (told.status, told.header("idempotent-replayed"), &told.body) == (201, Some("true"), &decided.body);
    let own = (told.status, told.header("idempotency-status")) == (201, Some("unkept"));
    assert!(kept || own || told.code() == "outcome-unknown", "{told:?}");
    until("it recovers", async || send(cut_off.admin, &get("/readyz")).await.status == 200).await;
    for gateway in [&other, &cut_off, &other] {
        assert_replay(&decided, &gateway.send(&request).await);
    }
    assert_eq!(origin.effects(), 2);
});
