//! What holds on every database.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http::{Request, Response};
use semel::{
    Body, Semel,
    core::wire::KeyStatus,
    effect::{Effect, Lost},
    store::memory::MemoryStore,
    transaction::{derived_key, migrate},
};
use tokio::sync::{Notify, Semaphore};
use tower::{Layer, ServiceExt, service_fn};

use crate::world::{Database, Seen, World, policy, post, post_with, reply, secret};

on_both! {
    a_retry_replays
    another_request_under_the_key_is_refused
    what_did_not_happen_is_rolled_back_and_the_key_is_free
    an_error_or_a_panic_is_rolled_back_and_tells_no_cause
    a_work_that_takes_too_long_is_rolled_back
    fifty_twins_have_one_effect
    a_twin_waits_and_replays
    a_twin_that_waited_long_enough_is_refused
    a_conflict_is_tried_again_and_never_shown
    conflicts_without_end_are_told_as_nothing_done
    records_expire
    without_a_key_there_is_no_record
    a_large_reply_is_remembered_and_not_kept
    a_vanished_client_changes_nothing
    a_swallowed_error_is_no_commit
    peers_48_an_effect_elsewhere_that_may_have_happened_is_never_done_again
    behind_the_layer_a_rollback_does_not_free_the_key
    peers_48_work_for_elsewhere_has_a_key_of_its_own
    tables_are_created_once_and_newer_ones_are_refused
    bytes_that_do_not_decode_are_refused
}

async fn a_retry_replays<D: Database>() {
    let world = World::<D>::new("").await;
    let first = world.order("k", 201).await;
    first.assert_own(201, None);
    for world in [&world, &world.another("").await] {
        let retry = world.order("\"k\"", 500).await;
        assert_eq!((retry.status.as_u16(), retry.header("location")), (201, Some("/orders/1")));
        retry.assert_replay_of("ordered");
    }
    assert_eq!((world.began(), world.effects().await, world.records().await), (1, 1, 1));
}

async fn another_request_under_the_key_is_refused<D: Database>() {
    let world = World::<D>::new("").await;
    world.order("k", 201).await;
    let other = world.send(post_with("k", "{\"amount\":101}"), |_, _| Box::pin(async { Ok(reply(201, "")) })).await;
    other.assert_problem(422, "key-reused");
    assert_eq!((world.began(), world.effects().await), (1, 1));
}

async fn what_did_not_happen_is_rolled_back_and_the_key_is_free<D: Database>() {
    let world = World::<D>::new("").await;
    for status in [400, 402, 429, 500, 502, 503, 504] {
        let refused = world.order("k", status).await;
        refused.assert_own(status, Some("released"));
        assert_eq!(refused.content, "ordered", "the work's own words are told");
        assert_eq!((world.effects().await, world.records().await), (0, 0), "after {status}");
    }
    // What the work says of itself counts more than its status.
    let says = world.send(post("k"), |_, _| {
        Box::pin(async {
            let mut response = reply(200, "nothing to do");
            response.extensions_mut().insert(Effect::None);
            Ok(response)
        })
    });
    says.await.assert_own(200, Some("released"));
    assert_eq!((world.effects().await, world.records().await), (0, 0));
    world.order("k", 201).await.assert_own(201, None);
    assert_eq!((world.began(), world.effects().await), (9, 1));
}

async fn an_error_or_a_panic_is_rolled_back_and_tells_no_cause<D: Database>() {
    let world = World::<D>::new("").await;
    let failed = world.send(post("k"), |_, _| Box::pin(async { Err("the secret cause".into()) })).await;
    let panicked = world.send(post("k"), |_, _| Box::pin(async { panic!("the secret cause") })).await;
    let at_once = world.semel.handle(post("k"), |_, _| panic!("the secret cause")).await;
    let stumbled = world.send(post("k"), |tx, _| {
        Box::pin(async move {
            D::stumble(tx).await?;
            unreachable!()
        })
    });
    for seen in [failed, panicked, Seen::of(at_once).await, stumbled.await] {
        seen.assert_own(500, Some("released"));
        assert!(!seen.content.windows(6).any(|word| word == b"secret"), "{seen:?}");
        assert!(std::str::from_utf8(&seen.content).unwrap().contains("nothing happened"));
        serde_json::from_slice::<serde_json::Value>(&seen.content).unwrap();
    }
    assert_eq!((world.effects().await, world.records().await), (0, 0));
    world.order("k", 201).await.assert_own(201, None);
}

async fn a_work_that_takes_too_long_is_rolled_back<D: Database>() {
    let world = World::<D>::new("execution_max = \"200ms\"").await;
    let late = world.send(post("k"), |_, _| Box::pin(std::future::pending())).await;
    late.assert_own(503, Some("released"));
    assert_eq!(late.header("retry-after"), Some("1"));
    assert_eq!((world.effects().await, world.records().await), (0, 0));
    world.another("").await.order("k", 201).await.assert_own(201, None);
}

async fn fifty_twins_have_one_effect<D: Database>() {
    let here = World::<D>::new("wait_max = \"30s\"").await;
    let there = here.another("wait_max = \"30s\"").await;
    let twins = join_all((0..50).map(|n| if n % 2 == 0 { here.order("k", 201) } else { there.order("k", 201) })).await;
    let own = twins.iter().filter(|seen| seen.header("idempotent-replayed").is_none()).count();
    for seen in &twins {
        assert_eq!((seen.status.as_u16(), &seen.content[..]), (201, &b"ordered"[..]), "{seen:?}");
    }
    assert_eq!((own, here.began(), here.effects().await, here.records().await), (1, 1, 1, 1));
}

/// Holds an execution until it is told to go on.
struct Held {
    reached: Arc<Semaphore>,
    go_on: Arc<Notify>,
}

/// Starts a request whose work waits.
fn hold<'w, D: Database>(world: &'w World<D>, key: &'static str) -> (Held, impl Future<Output = Seen> + use<'w, D>) {
    let held = Held { reached: Arc::new(Semaphore::new(0)), go_on: Arc::default() };
    let (reached, go_on) = (Arc::clone(&held.reached), Arc::clone(&held.go_on));
    let holding = world.send(post(key), move |_, _| {
        let (reached, go_on) = (Arc::clone(&reached), Arc::clone(&go_on));
        Box::pin(async move {
            reached.add_permits(1);
            go_on.notified().await;
            Ok(reply(201, "held"))
        })
    });
    (held, holding)
}

async fn a_twin_waits_and_replays<D: Database>() {
    let here = World::<D>::new("wait_max = \"30s\"").await;
    let there = here.another("wait_max = \"30s\"").await;
    let (held, holding) = hold(&here, "k");
    let twins = async {
        held.reached.acquire().await.unwrap().forget();
        let twins = join_all([here.order("k", 500), there.order("k", 500), here.order("k", 500)]);
        tokio::pin!(twins);
        // Longer than a twin would take that does not wait.
        let early = tokio::time::timeout(Duration::from_millis(300), &mut twins).await;
        assert!(early.is_err(), "a twin did not wait: {early:?}");
        held.go_on.notify_one();
        twins.await
    };
    let (first, twins) = tokio::join!(holding, twins);
    first.assert_own(201, None);
    for twin in twins {
        twin.assert_replay_of("held");
    }
    assert_eq!((here.began(), here.effects().await), (1, 1));
}

async fn a_twin_that_waited_long_enough_is_refused<D: Database>() {
    let world = World::<D>::new("wait_max = \"100ms\"").await;
    let (held, holding) = hold(&world, "k");
    let twin = async {
        held.reached.acquire().await.unwrap().forget();
        let twin = world.order("k", 201).await;
        held.go_on.notify_one();
        twin
    };
    let (first, twin) = tokio::join!(holding, twin);
    first.assert_own(201, None);
    twin.assert_problem(409, "in-flight");
    assert_eq!(twin.header("retry-after"), Some("1"));
    world.order("k", 500).await.assert_replay_of("held");
    assert_eq!((world.began(), world.effects().await), (1, 1));
}

/// What a database says.
#[derive(Debug)]
struct Says(&'static str);

impl fmt::Display for Says {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Says {}

impl sqlx::error::DatabaseError for Says {
    fn message(&self) -> &str {
        self.0
    }
    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some(self.0.into())
    }
    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }
    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }
    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }
    fn kind(&self) -> sqlx::error::ErrorKind {
        sqlx::error::ErrorKind::Other
    }
}

/// An error of the caller's own around the database's.
#[derive(Debug)]
struct Wrapped(sqlx::Error);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot order")
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

async fn a_conflict_is_tried_again_and_never_shown<D: Database>() {
    for is_keyed in [true, false] {
        let world = World::<D>::new("").await;
        let tries = Arc::new(AtomicUsize::new(0));
        let request = if is_keyed { post("k") } else { Request::post("http://h/orders").body(Body::empty()).unwrap() };
        let seen = world.send(request, move |_, _| {
            let conflicts = tries.fetch_add(1, Ordering::SeqCst) < 3;
            Box::pin(async move {
                if conflicts {
                    return Err(Wrapped(sqlx::Error::Database(Box::new(Says(D::CONFLICT)))).into());
                }
                Ok(reply(201, "ordered"))
            })
        });
        seen.await.assert_own(201, if is_keyed { None } else { Some("absent") });
        assert_eq!((world.began(), world.effects().await), (4, 1));
    }
}

async fn conflicts_without_end_are_told_as_nothing_done<D: Database>() {
    let world = World::<D>::new("execution_max = \"1s\"").await;
    let seen = world
        .send(post("k"), |_, _| Box::pin(async { Err(sqlx::Error::Database(Box::new(Says(D::CONFLICT))).into()) }));
    let seen = seen.await;
    assert_eq!((seen.status.as_u16(), seen.header("retry-after")), (503, Some("1")), "{seen:?}");
    assert!(world.began() > 1);
    assert_eq!((world.effects().await, world.records().await), (0, 0));
    world.another("").await.order("k", 201).await.assert_own(201, None);
}

async fn records_expire<D: Database>() {
    let (world, clock) = World::<D>::with_clock("replay_for = \"1h\"\nremember_for = \"24h\"").await;
    world.order("k", 201).await;
    clock.advance(Duration::from_secs(3599));
    world.order("k", 500).await.assert_replay_of("ordered");
    assert_eq!(world.semel.sweep(10).await.unwrap(), 0);
    clock.advance(Duration::from_secs(1));
    let length = || D::count(&world.pool, "SELECT CAST(sum(length(record)) AS BIGINT) FROM semel_records");
    let whole = length().await;
    for swept in [1, 0] {
        world.order("k", 500).await.assert_problem(409, "reply-gone");
        assert_eq!(world.semel.sweep(10).await.unwrap(), swept);
    }
    assert!(length().await < whole, "the content takes no room any more");
    world.order("k", 500).await.assert_problem(409, "reply-gone");
    clock.advance(Duration::from_hours(23));
    // Past its retention it is no record, whether it was swept or not (conformance X10).
    world.order("k", 402).await.assert_own(402, Some("released"));
    world.order("k", 201).await.assert_own(201, None);
    assert_eq!((world.effects().await, world.records().await), (2, 1));
    world.order("other", 201).await;
    clock.advance(Duration::from_hours(24));
    assert_eq!(world.semel.sweep(1).await.unwrap(), 1);
    assert_eq!(world.semel.sweep(10).await.unwrap(), 1);
    assert_eq!(world.records().await, 0);
}

async fn without_a_key_there_is_no_record<D: Database>() {
    let world = World::<D>::new("").await;
    let request = || Request::post("http://h/orders").body(Body::full("x")).unwrap();
    for _ in 0..2 {
        world.send(request(), |_, _| Box::pin(async { Ok(reply(201, "")) })).await.assert_own(201, Some("absent"));
    }
    for status in [409, 500] {
        let seen = world.send(request(), move |_, _| Box::pin(async move { Ok(reply(status, "")) })).await;
        seen.assert_own(status, Some("absent"));
    }
    assert_eq!((world.effects().await, world.records().await), (2, 0));
    let required = World::<D>::new("key_presence = \"required\"").await;
    let seen = required.send(request(), |_, _| Box::pin(async { Ok(reply(201, "")) })).await;
    seen.assert_problem(400, "key-missing");
    // A method that no route covers.
    let seen = required.send(Request::get("http://h/orders").body(Body::empty()).unwrap(), |_, _| {
        Box::pin(async { Ok(reply(200, "")) })
    });
    seen.await.assert_own(200, None);
    assert_eq!(required.effects().await, 1);
}

async fn a_large_reply_is_remembered_and_not_kept<D: Database>() {
    let world = World::<D>::new("reply_body_bytes_max = \"6B\"").await;
    let first = world.order("k", 201).await;
    first.assert_own(201, None);
    assert_eq!(first.content, "ordered");
    world.order("k", 201).await.assert_problem(409, "reply-gone");
    assert_eq!(world.effects().await, 1);
}

async fn a_vanished_client_changes_nothing<D: Database>() {
    let world = World::<D>::new("wait_max = \"30s\"").await;
    let (held, holding) = hold(&world, "k");
    tokio::select! {
        seen = holding => panic!("nobody told it to go on: {seen:?}"),
        reached = held.reached.acquire() => reached.unwrap().forget(),
    }
    held.go_on.notify_one();
    world.order("k", 500).await.assert_replay_of("held");
    assert_eq!((world.began(), world.effects().await), (1, 1));
}

async fn a_swallowed_error_is_no_commit<D: Database>() {
    let world = World::<D>::new("").await;
    for request in [post("k"), Request::post("http://h/orders").body(Body::empty()).unwrap()] {
        let seen = world.send(request, |tx, _| {
            Box::pin(async move {
                sqlx_rollback::<D>(tx).await;
                Ok(reply(201, "ordered"))
            })
        });
        let seen = seen.await;
        assert_eq!(seen.status, 500, "{seen:?}");
        assert_eq!((world.effects().await, world.records().await), (0, 0));
    }
    world.order("k", 201).await.assert_own(201, None);
}

/// Fails a statement, and says nothing about it: PostgreSQL commits nothing of such a transaction, and calls it no error.
/// On SQLite a failed statement undoes only itself; there the harm is an end of the transaction in SQL.
async fn sqlx_rollback<D: Database>(tx: &mut sqlx::Transaction<'static, D>) {
    let _ = D::stumble(tx).await;
    D::end(tx).await;
}

async fn peers_48_an_effect_elsewhere_that_may_have_happened_is_never_done_again<D: Database>() {
    let world = World::<D>::new("").await;
    let lost = world.send(post("lost"), |_, _| {
        Box::pin(async {
            let mut response = reply(200, "");
            response.extensions_mut().insert(Lost);
            Ok(response)
        })
    });
    lost.await.assert_problem(502, "outcome-unknown");
    let said = world.send(post("said"), |_, _| {
        Box::pin(async {
            let mut response = reply(500, "who knows");
            response.headers_mut().insert("idempotency-effect", "unknown".parse().unwrap());
            Ok(response)
        })
    });
    let said = said.await;
    said.assert_own(500, Some(KeyStatus::Unknown.as_str()));
    assert_eq!((said.header("idempotency-effect"), &said.content[..]), (None, &b"who knows"[..]));
    for key in ["lost", "said"] {
        world.order(key, 201).await.assert_problem(409, "outcome-unknown");
    }
    assert_eq!((world.began(), world.effects().await, world.records().await), (2, 0, 2));
}

/// `peers.md` #48: the handler charges elsewhere, and then its own transaction is rolled back.
async fn behind_the_layer_a_rollback_does_not_free_the_key<D: Database>() {
    let world = World::<D>::new("").await;
    let charges = Arc::new(AtomicUsize::new(0));
    let semel = Semel::new(policy(""), secret(), Arc::new(MemoryStore::new()));
    let (pool, counted) = (world.pool.clone(), Arc::clone(&charges));
    let service = semel.layer().layer(service_fn(move |_: Request<Body>| {
        let (pool, charges) = (pool.clone(), Arc::clone(&counted));
        async move {
            let mut tx = pool.begin().await?;
            D::effect(&mut tx, "order").await?;
            charges.fetch_add(1, Ordering::SeqCst);
            tx.rollback().await?;
            Ok::<_, sqlx::Error>(Response::builder().status(500).body(Body::empty()).unwrap())
        }
    }));
    let first = Seen::of(service.clone().oneshot(post("k")).await.unwrap()).await;
    first.assert_own(500, Some("unknown"));
    let retry = Seen::of(service.oneshot(post("k")).await.unwrap()).await;
    retry.assert_problem(409, "outcome-unknown");
    assert_eq!((charges.load(Ordering::SeqCst), world.effects().await), (1, 0));
}

async fn peers_48_work_for_elsewhere_has_a_key_of_its_own<D: Database>() {
    let world = World::<D>::new("").await;
    let keys = Arc::new(parking_lot::Mutex::new(Vec::new()));
    for key in ["a", "a", "b"] {
        let keys = Arc::clone(&keys);
        let seen = world.send(post(key), move |_, request| {
            keys.lock().push((derived_key(request, "charge"), derived_key(request, "mail")));
            // Not committed, so that the second request executes again.
            Box::pin(async { Ok(reply(503, "")) })
        });
        seen.await.assert_own(503, Some("released"));
    }
    let keys = keys.lock();
    assert_eq!(keys[0], keys[1], "one operation, one key");
    assert_ne!(keys[0].0, keys[0].1);
    assert_ne!(keys[0].0, keys[2].0);
}

async fn tables_are_created_once_and_newer_ones_are_refused<D: Database>() {
    let place = D::place();
    let pool = D::pool(&place).await;
    for applied in join_all((0..8).map(|_| migrate(&pool))).await {
        applied.unwrap();
    }
    assert_eq!(D::count(&pool, "SELECT CAST(max(version) AS BIGINT) FROM semel_schema").await, 1);
    D::run(&pool, "INSERT INTO semel_schema (version) VALUES (2)").await;
    let refused = migrate(&pool).await.unwrap_err().to_string();
    assert!(refused.contains("version 2") && refused.contains("run a newer release"), "{refused}");
}

async fn bytes_that_do_not_decode_are_refused<D: Database>() {
    let world = World::<D>::new("").await;
    world.order("k", 201).await;
    D::run(&world.pool, "UPDATE semel_records SET record = substr(record, 1, 10)").await;
    world.order("k", 201).await.assert_problem(503, "store-unavailable");
    assert_eq!((world.began(), world.effects().await, world.records().await), (1, 1, 1));
}
