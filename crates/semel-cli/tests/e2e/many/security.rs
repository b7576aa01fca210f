//! Whose keys are whose where several gateways run: SC5, SC6.

use super::{Store, for_each};
use crate::harness::{Origin, assert_problem, assert_replay, gateway, post};

for_each!(postgres, redis, cluster =>
/// A sandbox beside production: the same server, another place.
async fn sc05_two_places_on_one_server_know_nothing_of_each_other(store: Store) {
    let beside = store.beside().await;
    let origin = Origin::start().await;
    let production = store.gateway(&origin, "").start().await;
    let sandbox = beside.gateway(&origin, "").start().await;
    let request = post("/orders").key("k");
    let first = production.send(&request).await;
    let second = sandbox.send(&request).await;
    assert_eq!((second.status, second.header("idempotent-replayed"), origin.effects()), (201, None, 2));
    assert_ne!(first.body, second.body);
    assert_replay(&first, &production.send(&request).await);
    assert_replay(&second, &sandbox.send(&request).await);
    // Another content is a matter of each place too.
    let other = sandbox.send(&post("/orders").key("sandboxed")).await;
    assert_eq!(other.status, 201);
    let elsewhere = production.send(&post("/orders").key("sandboxed").body("{}")).await;
    assert_eq!((elsewhere.status, origin.effects()), (201, 4));
});

for_each!(postgres, redis, cluster =>
/// With another secret the same place would be another one, so that each gateway would execute.
async fn sc05_a_gateway_with_another_secret_does_not_start(store: Store) {
    let origin = Origin::start().await;
    let first = store.gateway(&origin, "").start().await;
    let prefix = store.place_settings();
    let refused = gateway(&origin).config(&prefix).on_with_own_secret(&store.url()).try_start().await;
    let said = refused.expect_err("it must not start");
    assert!(said.contains("secret"), "{said}");
    assert_eq!(first.send(&post("/orders").key("k")).await.status, 201);
});

for_each!(postgres, redis =>
/// The caller is who the operator says, whatever credential is shown at whichever gateway.
async fn sc06_a_rotated_credential_replays_at_another_gateway(store: Store) {
    let origin = Origin::start().await;
    let [one, other] = store.gateways(&origin, "principal = [\"X-Tenant\"]\n").await;
    let caller = |tenant: &str, credential: &str| {
        post("/orders").key("k").header("X-Tenant", tenant).header("Authorization", credential)
    };
    let first = one.send(&caller("a", "Bearer old")).await;
    assert_replay(&first, &other.send(&caller("a", "Bearer rotated")).await);
    assert_problem(&other.send(&caller("a", "Bearer rotated").body("{}")).await, 422, "key-reused");
    let stranger = other.send(&caller("b", "Bearer old")).await;
    assert_eq!((stranger.status, stranger.header("idempotent-replayed"), origin.effects()), (201, None, 2));
    assert_replay(&stranger, &one.send(&caller("b", "Bearer new")).await);
});
