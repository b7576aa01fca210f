//! What only PostgreSQL does: waiting on a row, isolation, and replies of COMMIT that are lost on the way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use semel::transaction::{Isolation, Transactional};
use semel_servers::PrivatePostgres;
use sqlx::{Pool, Postgres, postgres::PgPoolOptions};
use tokio::sync::{Barrier, Notify};

use crate::{
    proxy::{self, Fate},
    world::{Database, World, policy, post, reply, secret},
};

/// The same world, reached through a proxy.
async fn through(
    world: &World<Postgres>,
    defaults: &str,
    judge: impl FnMut(&[u8]) -> Fate + Send + 'static,
) -> World<Postgres> {
    let server = PrivatePostgres::shared().port();
    let port = proxy::before(server, judge).await;
    let url = world.place.replace(&format!(":{server}/"), &format!(":{port}/"));
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(500)).connect(&url).await.unwrap();
    let semel = Transactional::<Postgres>::new(policy(defaults), secret(), pool);
    World { place: world.place.clone(), pool: world.pool.clone(), semel, began: Arc::clone(&world.began) }
}

fn says(message: &[u8], what: &str) -> bool {
    message.windows(what.len()).any(|window| window == what.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_not_confirmed_is_looked_up() {
    // (fate of the first COMMIT, executions)
    for (fate, executions) in [(Fate::CutAfter, 1), (Fate::CutBefore, 2)] {
        let world = World::<Postgres>::new("").await;
        let mut cuts = 1;
        let cut = through(&world, "", move |message| {
            if says(message, "COMMIT\0") && cuts > 0 {
                cuts -= 1;
                return fate;
            }
            Fate::Pass
        });
        let first = cut.await.order("k", 201).await;
        first.assert_own(201, None);
        assert_eq!(first.content, "ordered");
        assert_eq!((world.began(), world.effects().await, world.records().await), (executions, 1, 1), "{fate:?}");
        world.order("k", 500).await.assert_replay_of("ordered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_nobody_can_look_up_is_an_unknown_outcome() {
    for fate in [Fate::CutAfter, Fate::CutBefore] {
        let world = World::<Postgres>::new("").await;
        let limits = "execution_max = \"1s\"\ngrace = \"1s\"";
        let mut is_gone = false;
        let cut = through(&world, limits, move |message| {
            let fate = if is_gone {
                Fate::CutBefore
            } else if says(message, "COMMIT\0") {
                fate
            } else {
                Fate::Pass
            };
            is_gone |= fate != Fate::Pass;
            fate
        });
        let lost = cut.await.order("k", 201).await;
        lost.assert_problem(502, "outcome-unknown");
        assert!(String::from_utf8_lossy(&lost.content).contains("Repeat this request with the same key"), "{lost:?}");
        // Whatever it was, the database knows, and a retry learns it.
        let retry = world.order("k", 201).await;
        assert_eq!((retry.status.as_u16(), &retry.content[..]), (201, &b"ordered"[..]));
        assert_eq!((world.effects().await, world.records().await), (1, 1), "{fate:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_database_nothing_is_executed() {
    let world = World::<Postgres>::new("").await;
    let is_gone = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&is_gone);
    let cut =
        through(&world, "", move |_| if gone.load(Ordering::SeqCst) { Fate::CutBefore } else { Fate::Pass }).await;
    cut.order("a", 201).await.assert_own(201, None);
    is_gone.store(true, Ordering::SeqCst);
    let seen = cut.order("b", 201).await;
    seen.assert_problem(503, "store-unavailable");
    is_gone.store(false, Ordering::SeqCst);
    assert_eq!((cut.began(), world.effects().await), (1, 1));
    cut.order("b", 201).await.assert_own(201, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_twin_in_another_process_waits_on_the_row_and_no_longer_than_it_may() {
    let here = World::<Postgres>::new("").await;
    let go_on = Arc::new(Notify::new());
    let reached = Arc::new(Notify::new());
    let (going_on, reaching) = (Arc::clone(&go_on), Arc::clone(&reached));
    let holding = here.send(post("k"), move |_, _| {
        let (go_on, reached) = (Arc::clone(&going_on), Arc::clone(&reaching));
        Box::pin(async move {
            reached.notify_one();
            go_on.notified().await;
            Ok(reply(201, "held"))
        })
    });
    let twins = async {
        reached.notified().await;
        let hasty = here.another("wait_max = \"0s\"").await;
        hasty.order("k", 201).await.assert_problem(409, "in-flight");
        let patient = here.another("wait_max = \"30s\"").await;
        let waiting = async { patient.order("k", 201).await };
        let releasing = async {
            while <Postgres as Database>::count(&here.pool, "SELECT count(*) FROM pg_locks WHERE NOT granted").await
                == 0
            {
                tokio::task::yield_now().await;
            }
            go_on.notify_one();
        };
        tokio::join!(waiting, releasing).0
    };
    let (first, twin) = tokio::join!(holding, twins);
    first.assert_own(201, None);
    twin.assert_replay_of("held");
    assert_eq!((here.began(), here.effects().await), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_work_waits_as_its_owner_configured() {
    let world = World::<Postgres>::new("").await;
    let options = PgPoolOptions::new().after_connect(|conn, _| {
        Box::pin(async move { sqlx::raw_sql("SET lock_timeout = '7s'").execute(conn).await.map(drop) })
    });
    let pool = options.connect(&world.place).await.unwrap();
    let semel = Transactional::<Postgres>::new(policy(""), secret(), pool.clone());
    let shown = semel.handle(post("k"), |tx, _| {
        Box::pin(async move {
            let shown: String = sqlx::query_scalar("SHOW lock_timeout").fetch_one(&mut **tx).await?;
            Ok(http::Response::new(shown.into()))
        })
    });
    assert_eq!(shown.await.into_body().as_full(), Some(&b"7s"[..]));
    let after: String = sqlx::query_scalar("SHOW lock_timeout").fetch_one(&pool).await.unwrap();
    assert_eq!(after, "7s");
}

/// Two transactions that read what the other writes: one of them must give up (conformance C10).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serialization_failures_are_retried_inside() {
    let mut world = World::<Postgres>::new("").await;
    world.semel = world.semel.with_isolation(Isolation::Serializable);
    <Postgres as Database>::run(
        &world.pool,
        "CREATE TABLE wallet (balance BIGINT NOT NULL); INSERT INTO wallet VALUES (100)",
    )
    .await;
    let executions = Arc::new(AtomicUsize::new(0));
    // Both have read before either writes, so one of them must give up.
    let both_read = Arc::new(Barrier::new(2));
    let orders = ["a", "b"].map(|key| {
        let (executions, both_read) = (Arc::clone(&executions), Arc::clone(&both_read));
        world.semel.handle(post(key), move |tx, _| {
            let is_first = executions.fetch_add(1, Ordering::SeqCst) < 2;
            let both_read = Arc::clone(&both_read);
            Box::pin(async move {
                let balance: i64 = sqlx::query_scalar("SELECT balance FROM wallet").fetch_one(&mut **tx).await?;
                if is_first {
                    both_read.wait().await;
                }
                sqlx::query("UPDATE wallet SET balance = $1").bind(balance - 1).execute(&mut **tx).await?;
                Ok(reply(201, "paid"))
            })
        })
    });
    for response in join_all(orders).await {
        assert_eq!(response.status(), 201, "{response:?}");
    }
    assert_eq!(<Postgres as Database>::count(&world.pool, "SELECT balance FROM wallet").await, 98);
    assert_eq!(executions.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twins_have_one_effect_at_every_isolation() {
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable] {
        let here = World::<Postgres>::new("wait_max = \"30s\"").await;
        let mut worlds = vec![here.another("wait_max = \"30s\"").await, here.another("wait_max = \"30s\"").await];
        for world in &mut worlds {
            world.semel = world.semel.clone().with_isolation(isolation);
        }
        let twins = join_all((0..20).map(|n| worlds[n % 2].order("k", 201))).await;
        assert!(twins.iter().all(|seen| seen.status == 201), "{isolation:?}: {twins:?}");
        assert_eq!((here.began(), here.effects().await), (here.began(), 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_tables_is_refused() {
    let pool: Pool<Postgres> = <Postgres as Database>::pool(&<Postgres as Database>::place()).await;
    let semel = Transactional::<Postgres>::new(policy(""), secret(), pool);
    let response = semel.handle(post("k"), |_, _| unreachable!("nothing was claimed")).await;
    assert_eq!(response.status(), 503);
}
