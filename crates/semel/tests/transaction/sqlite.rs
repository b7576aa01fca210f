//! What only SQLite does: one writer at a time.

use std::{sync::Arc, time::Duration};

use semel::{core::policy::PolicyDocument, transaction::Transactional};
use sqlx::{
    Sqlite,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

use crate::world::{Database, World, policy, secret};

/// A handle of another process that does not wait long for the writer.
async fn hasty(world: &World<Sqlite>) -> World<Sqlite> {
    let options = SqliteConnectOptions::new().filename(&world.place.1).busy_timeout(Duration::from_millis(100));
    let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
    let semel = Transactional::<Sqlite>::new(policy(""), secret(), pool.clone());
    World { place: Arc::clone(&world.place), pool, semel, began: Arc::clone(&world.began) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_write_says_so_and_a_replay_needs_no_writer() {
    let world = World::<Sqlite>::new("").await;
    world.order("done", 201).await;
    let hasty = hasty(&world).await;
    let writer = world.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    // Nobody can say whether the writer writes this key.
    hasty.order("k", 201).await.assert_problem(503, "store-unavailable");
    hasty.order("done", 500).await.assert_replay_of("ordered");
    writer.rollback().await.unwrap();
    hasty.order("k", 201).await.assert_own(201, None);
    assert_eq!((world.began(), world.effects().await), (2, 2));
}

/// SQLite rolls a transaction back by itself when, for one, the disk is full; the pool must not keep a connection that
/// still counts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_sqlite_itself_rolled_back_costs_no_connection() {
    let world = World::<Sqlite>::new("").await;
    for _ in 0..10 {
        let seen = world.send(crate::world::post("k"), |tx, _| {
            Box::pin(async move {
                <Sqlite as Database>::end(tx).await;
                Err("the disk is full".into())
            })
        });
        seen.await.assert_own(500, Some("released"));
    }
    world.order("k", 201).await.assert_own(201, None);
    assert_eq!(world.effects().await, 1);
}

#[tokio::test]
#[should_panic(
    expected = "the route /charges has `on_unknown = \"probe\"`, which the transactional mode has no use for"
)]
async fn k03_a_policy_that_probes_is_refused() {
    let route = "path = \"/charges\"\non_unknown = \"probe\"\n[probe]\npath = \"/charges/{key}\"";
    let routes = vec![toml::Spanned::new(0..0, toml::from_str(route).unwrap())];
    let policy = PolicyDocument { routes, ..PolicyDocument::default() }.build().unwrap();
    let pool = sqlx::SqlitePool::connect_lazy("sqlite::memory:").unwrap();
    let _ = Transactional::<Sqlite>::new(policy, secret(), pool);
}
