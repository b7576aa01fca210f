//! A process that dies at any statement leaves neither effect nor record, or both (conformance K16).

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use semel::transaction::{Register, Transactional};
use semel_servers::PrivatePostgres;
use sqlx::{
    Pool, Postgres, Sqlite, Transaction,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

use crate::{
    proxy::{self, Fate},
    world::{Database, Seen, World, policy, post, reply, secret},
};

/// What the child is told: where its database is, and at which change it dies (SQLite only; PostgreSQL's child is killed
/// by its parent, at a message).
const CHILD: &str = "SEMEL_TEST_CRASH";

/// Not a test of its own: the process that dies.
#[tokio::test]
async fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (place, dies_at) = told.split_once(' ').unwrap();
    if place.starts_with("postgres:") {
        order_two(Transactional::<Postgres>::new(policy(""), secret(), Pool::connect(place).await.unwrap())).await;
    } else {
        let pool = dying_pool(Path::new(place), dies_at.parse().unwrap()).await;
        order_two(Transactional::<Sqlite>::new(policy(""), secret(), pool)).await;
    }
}

/// A request whose work has two effects.
async fn order_two<D: Database>(semel: Transactional<D>) {
    let response = semel.handle(post("k"), |tx, _| Box::pin(async move { two_effects::<D>(tx).await }));
    assert_eq!(Seen::of(response.await).await.status, 201);
}

async fn two_effects<D: Database>(
    tx: &mut Transaction<'static, D>,
) -> Result<http::Response<bytes::Bytes>, semel::BoxError> {
    D::effect(tx, "order").await?;
    D::effect(tx, "debit").await?;
    Ok(reply(201, "ordered"))
}

/// A pool whose connection kills the process at the n-th change of a row, the commit being the last.
async fn dying_pool(file: &Path, dies_at: usize) -> Pool<Sqlite> {
    let options = SqlitePoolOptions::new().max_connections(1).after_connect(move |conn, _| {
        Box::pin(async move {
            let changes = Arc::new(AtomicUsize::new(0));
            let die = move || {
                if changes.fetch_add(1, Ordering::SeqCst) == dies_at {
                    std::process::abort();
                }
            };
            let mut handle = conn.lock_handle().await?;
            let at_change = die.clone();
            handle.set_update_hook(move |_| at_change());
            handle.set_commit_hook(move || {
                die();
                true
            });
            Ok(())
        })
    });
    options.connect_with(SqliteConnectOptions::new().filename(file)).await.unwrap()
}

/// This test binary, as the child.
fn start(place: &str, dies_at: usize) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "crash::child", "--nocapture"]).env(CHILD, format!("{place} {dies_at}"));
    child.stdout(Stdio::null()).stderr(Stdio::null());
    child
}

/// All or nothing; says which.
async fn assert_atomic<D: Database + Register>(world: &World<D>, when: &str) -> bool {
    let left = (world.effects().await, world.records().await);
    assert!(left == (0, 0) || left == (2, 1), "(effects, records) = {left:?} after a death at {when}");
    left == (2, 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_at_any_change_of_sqlite_leaves_all_or_nothing() {
    let mut deaths = 0;
    loop {
        let world = World::<Sqlite>::new("").await;
        let place = world.place.1.to_str().unwrap().to_owned();
        let status = tokio::task::spawn_blocking(move || start(&place, deaths).status().unwrap()).await.unwrap();
        let is_done = assert_atomic(&world, &format!("change {deaths}")).await;
        assert_eq!(is_done, status.success(), "it died before its commit was over");
        order_two(world.semel.clone()).await;
        assert_eq!((world.effects().await, world.records().await), (2, 1), "after the retry");
        if status.success() {
            break;
        }
        deaths += 1;
    }
    // Claim, two effects, settle, commit.
    assert_eq!(deaths, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn death_at_any_message_to_postgres_leaves_all_or_nothing() {
    let mut seen_done = [0, 0];
    for (fate, done) in [Fate::CutBefore, Fate::CutAfter].into_iter().zip(&mut seen_done) {
        for dies_at in 0.. {
            let world = World::<Postgres>::new("wait_max = \"20s\"").await;
            let child = Arc::new(Mutex::new(None::<std::process::Child>));
            let (dying, mut messages) = (Arc::clone(&child), 0);
            let server = PrivatePostgres::shared().port();
            let port = proxy::before(server, move |_| {
                messages += 1;
                if messages <= dies_at {
                    return Fate::Pass;
                }
                // Killed before it can see that its connection is cut. A message that was already sent is executed.
                dying.lock().as_mut().expect("it has sent a message").kill().expect("it is not waited for");
                fate
            });
            let place = world.place.replace(&format!(":{server}/"), &format!(":{}/", port.await));
            {
                let mut child = child.lock();
                *child = Some(start(&place, 0).spawn().unwrap());
            }
            let waiting = tokio::task::spawn_blocking(move || {
                loop {
                    if let Some(status) = child.lock().as_mut().unwrap().try_wait().unwrap() {
                        return status;
                    }
                    // Somebody else decides when it ends; this only looks.
                    std::thread::yield_now();
                }
            });
            let status = waiting.await.unwrap();
            // What the server has of the child is a transaction to roll back, or is committed: a retry waits for which.
            order_two(world.semel.clone()).await;
            assert_eq!((world.effects().await, world.records().await), (2, 1), "{fate:?} of message {dies_at}");
            *done += 1;
            if status.success() {
                break;
            }
        }
    }
    assert!(seen_done.iter().all(|deaths| *deaths > 8), "{seen_done:?}");
}
