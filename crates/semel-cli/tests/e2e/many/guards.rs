//! A guard that is held at one gateway is held at all: the sixth case of guards, and how one ends.

use std::sync::Arc;

use super::{Store, for_each};
use crate::{
    guards::{Orders, assert_held, look, one_of_forty_orders_is_made, order, quote, ramp},
    harness::{Gateway, Origin, until},
};

async fn etherfuse<const N: usize>(store: &Store) -> (Origin, [Gateway; N], Orders) {
    let (origin, orders) = (Origin::start().await, Orders::default());
    let kept = Arc::clone(&orders);
    origin.always(move |seen| ramp(seen, &kept));
    let gateways = store.gateways(&origin, "preset = \"etherfuse\"\n").await;
    (origin, gateways, orders)
}

for_each!(postgres, redis, cluster =>
async fn g06_e10_of_many_orders_at_two_gateways_one_is_made(store: Store) {
    let (origin, gateways, orders) = etherfuse::<2>(&store).await;
    let [one, other] = &gateways;
    one_of_forty_orders_is_made(&origin, &[one, other], &orders).await;
});

for_each!(postgres, redis =>
async fn g02_e11_what_frees_a_guard_at_one_gateway_frees_it_at_all(store: Store) {
    let (origin, [one, other], orders) = etherfuse::<2>(&store).await;
    for n in 1..=3 {
        one.send(&quote(n, "100")).await;
    }
    assert_eq!(one.send(&order(1, 1)).await.status, 200);
    assert_held(&other.send(&order(2, 2)).await, 1);
    for status in orders.lock().unwrap().values_mut() {
        "completed".clone_into(status);
    }
    // Whoever asks for the order shows the gateway that it is over.
    until("the guard is free", async || {
        assert_eq!(one.send(&look(1)).await.status, 200);
        other.send(&order(2, 2)).await.status == 200
    })
    .await;
    assert_held(&one.send(&order(3, 3)).await, 2);
    assert_eq!(origin.effects(), 2);
});
