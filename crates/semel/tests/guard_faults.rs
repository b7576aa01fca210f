//! Guards under failing stores, vanishing clients and races: two records are never written together, and no owner is ever
//! one of two.

#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http::{Request, Response};
use semel::{
    Body,
    core::policy::{Policy, PolicyDocument, RouteSettings},
    effect::NotSent,
    store::{Found, PhaseKind, RecordKey, Store, StoreError, Swap, Swapped, memory::MemoryStore},
    testkit::{
        Fault::{self, LostReply, None as Fine, Refused},
        FaultyStore,
    },
};
use tower::ServiceExt;
use world::{Seen, World, created, post, status};

mod world;

/// Charges of one amount exclude each other; `settings` are those of the route, `guard` those of its guard.
fn policy(settings: &str, guard: &str) -> Policy {
    let text = format!(
        "[[route]]\npath = \"/charges\"\nmethods = [\"POST\"]\nkey_presence = \"required\"\n{settings}\n\
         [route.guard]\nname = \"pending-charge\"\nvalues = [\"/amount\"]\n{guard}"
    );
    let mut document: HashMap<String, Vec<toml::Spanned<RouteSettings>>> = toml::from_str(&text).unwrap();
    PolicyDocument { routes: document.remove("route").unwrap(), ..PolicyDocument::default() }
        .build()
        .unwrap_or_else(|error| panic!("{error}"))
}

struct Shop {
    world: World,
    store: Arc<FaultyStore<Arc<MemoryStore>>>,
}

impl Shop {
    fn new(settings: &str, guard: &str) -> Shop {
        let mut store = None;
        let world = World::with(policy(settings, guard), |memory| {
            let faulty = Arc::new(FaultyStore::new(memory));
            store = Some(faulty.clone());
            faulty
        });
        Shop { world, store: store.unwrap() }
    }

    /// What a request is told, and by which code.
    async fn charge(&self, key: &str) -> (u16, String) {
        told(&self.world.send(post(key), created).await)
    }

    async fn charge_not_sent(&self, key: &str) {
        assert_eq!(told(&self.world.send(post(key), not_sent).await), (502, "origin-unavailable".to_owned()));
    }
}

fn told(seen: &Seen) -> (u16, String) {
    let replayed = seen.header("idempotent-replayed").map(|_| "replay".to_owned());
    let code = if seen.status.is_success() { String::new() } else { seen.code() };
    (seen.status.as_u16(), replayed.unwrap_or(code))
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

async fn not_sent(_: Request<Body>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(NotSent);
    response
}

/// Who had the guard before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Before {
    Nobody,
    /// A charge that was made.
    Owner,
    /// A charge that was not sent: the guard names it, and its record is gone.
    Stale,
}
use Before::{Nobody, Owner, Stale};

#[tokio::test(start_paused = true)]
async fn e10_q9_what_a_failing_store_does_at_every_step_of_a_guard() {
    /// (what fails; who had the guard; faults of swaps, of loads; first answer; effects; a retry's; another key's)
    type Row = (
        &'static str,
        Before,
        &'static [Fault],
        &'static [Fault],
        (u16, &'static str),
        usize,
        (u16, &'static str),
        (u16, &'static str),
    );
    const DOWN: (u16, &str) = (503, "store-unavailable");
    const MADE: (u16, &str) = (201, "");
    const REPLAY: (u16, &str) = (201, "replay");
    const HELD: (u16, &str) = (409, "guard-held");
    const BUSY: (u16, &str) = (409, "in-flight");
    let rows: &[Row] = &[
        ("nothing", Nobody, &[], &[], MADE, 1, REPLAY, HELD),
        ("the answer to the guard", Nobody, &[Fine, LostReply], &[], MADE, 1, REPLAY, HELD),
        ("the guard, twice", Nobody, &[Fine, Refused, Refused], &[], MADE, 1, REPLAY, HELD),
        ("the guard", Nobody, &[Fine, Refused, Refused, Refused], &[], DOWN, 0, MADE, HELD),
        ("every answer to the guard", Nobody, &[Fine, LostReply, LostReply, LostReply], &[], DOWN, 0, MADE, HELD),
        (
            "the guard, and the answer to the giving back",
            Nobody,
            &[Fine, Refused, Refused, Refused, LostReply],
            &[],
            DOWN,
            0,
            MADE,
            HELD,
        ),
        (
            "the guard and the giving back",
            Nobody,
            &[Fine, Refused, Refused, Refused, Refused],
            &[],
            DOWN,
            0,
            BUSY,
            MADE,
        ),
        (
            "every answer to the guard, and the giving back",
            Nobody,
            &[Fine, LostReply, LostReply, LostReply, Refused],
            &[],
            DOWN,
            0,
            BUSY,
            HELD,
        ),
        ("nothing", Owner, &[], &[], HELD, 0, HELD, HELD),
        ("two looks", Owner, &[], &[Refused, Refused], HELD, 0, HELD, HELD),
        ("the look", Owner, &[], &[Refused, Refused, Refused], DOWN, 0, HELD, HELD),
        ("the answer to the giving back", Owner, &[Fine, Fine, LostReply], &[], HELD, 0, HELD, HELD),
        ("the giving back", Owner, &[Fine, Fine, Refused, Refused, Refused, Refused], &[], DOWN, 0, BUSY, HELD),
        ("nothing", Stale, &[], &[], MADE, 1, REPLAY, HELD),
        ("two looks", Stale, &[], &[Refused, Refused], MADE, 1, REPLAY, HELD),
        ("the look", Stale, &[], &[Refused, Refused, Refused], DOWN, 0, MADE, HELD),
        ("the answer to the taking over", Stale, &[Fine, Fine, LostReply], &[], MADE, 1, REPLAY, HELD),
        ("the taking over", Stale, &[Fine, Fine, Refused, Refused, Refused], &[], DOWN, 0, MADE, HELD),
        (
            "every answer to the taking over",
            Stale,
            &[Fine, Fine, LostReply, LostReply, LostReply],
            &[],
            DOWN,
            0,
            MADE,
            HELD,
        ),
    ];
    for (what, before, swaps, loads, first, effects, retry, other) in rows {
        let name = format!("{what} fails, {before:?}");
        let shop = Shop::new("", "");
        match before {
            Nobody => {}
            Owner => assert_eq!(shop.charge("before").await, is(201, "")),
            Stale => shop.charge_not_sent("before").await,
        }
        let effects_before = shop.world.effects();
        shop.store.push(swaps.iter().cloned());
        shop.store.push_loads(loads.iter().cloned());
        assert_eq!(shop.charge("k").await, is(first.0, first.1), "{name}");
        assert_eq!(shop.world.effects() - effects_before, *effects, "{name}");
        let asked = shop.store.asked().len();
        assert_eq!(shop.charge("k").await, is(retry.0, retry.1), "{name}, retry");
        assert!(shop.store.asked()[asked..].iter().all(|(_, _, fault)| *fault == Fine), "{name}: all faults were met");
        assert_eq!(shop.charge("other").await, is(other.0, other.1), "{name}, another key");
        // What could not be given back at once is given back later.
        if *retry == BUSY {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let later = if *before == Owner || *other == MADE { HELD } else { MADE };
            assert_eq!(shop.charge("k").await, is(later.0, later.1), "{name}, later");
        }
    }
}

#[tokio::test]
async fn i11_a_corrupt_guard_or_owner_is_refused_and_never_taken_over() {
    let corrupt = || Fault::Failed(StoreError::Corrupt("a flipped bit".to_owned()));
    let shop = Shop::new("", "");
    shop.store.push([Fine, corrupt()]);
    assert_eq!(shop.charge("k").await, is(503, "store-unavailable"));
    shop.charge_not_sent("before").await;
    shop.store.push_loads([corrupt()]);
    assert_eq!(shop.charge("k").await, is(503, "store-unavailable"));
    assert_eq!(shop.world.effects(), 1, "only what was not sent");
    assert_eq!(shop.charge("k").await, is(201, ""));
}

/// The lease begins with the claim of the key: whoever asks next may have been told that the outcome is unknown.
#[tokio::test(start_paused = true)]
async fn e10_c7_a_guard_that_comes_too_late_executes_nothing() {
    // The guard itself is slow; or what is found in it is, and a look and a taking over come after.
    for (before, script) in [(Nobody, [Fine, Fault::Delayed]), (Stale, [Fine, Fault::DelayedReply])] {
        let shop = Shop::new("", "");
        if before == Stale {
            shop.charge_not_sent("before").await;
        }
        let effects_before = shop.world.effects();
        shop.store.push(script);
        let late = tokio::spawn(shop.world.service(created).oneshot(post("k")));
        shop.store.until_held(1).await;
        tokio::time::advance(Duration::from_secs(31)).await;
        shop.store.release();
        let late = told(&Seen::of(late.await.unwrap().unwrap()).await);
        assert_eq!(late, is(502, "origin-unavailable"), "{before:?}");
        assert_eq!(shop.world.effects(), effects_before, "{before:?}");
        assert_eq!(shop.charge("other").await, is(201, ""), "{before:?}");
    }
}

/// All that comes before the execution has one patience, and the claim is given back although nobody hears of it.
#[tokio::test(start_paused = true)]
async fn k12_a_guard_that_is_never_confirmed_is_heard_of_in_time_and_the_key_given_back() {
    for script in [[Fault::Delayed, Fault::Delayed], [Fault::DelayedReply, Fault::DelayedReply]] {
        let shop = Shop::new("", "");
        shop.store.push(script);
        let began = tokio::time::Instant::now();
        let slow = tokio::spawn(shop.world.service(created).oneshot(post("k")));
        shop.store.until_held(1).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        // The claim is confirmed, and the guard is not.
        shop.store.release();
        let told = told(&Seen::of(slow.await.unwrap().unwrap()).await);
        assert_eq!((told, began.elapsed().as_secs()), (is(503, "store-unavailable"), 10));
        assert_eq!(shop.charge("k").await, is(201, ""), "free at once");
        assert_eq!(shop.world.effects(), 1);
    }
}

#[tokio::test]
async fn q9_an_attempt_that_meets_the_guard_in_other_hands_leaves_the_outcome_unknown() {
    let shop = Shop::new("on_unknown = \"reexecute\"", "hold_for = \"1h\"");
    assert_eq!(told(&shop.world.send(post("k"), lost).await), is(502, "outcome-unknown"));
    assert_eq!(shop.charge("other").await, is(409, "guard-held"), "who may have charged holds the guard");
    shop.world.clock.advance(Duration::from_hours(1));
    assert_eq!(shop.charge("other").await, is(201, ""));
    for _ in 0..2 {
        assert_eq!(shop.charge("k").await, is(409, "outcome-unknown"), "it may have charged, and stays so");
    }
    shop.world.clock.advance(Duration::from_hours(1));
    assert_eq!(shop.charge("k").await, is(201, ""), "its own attempt, once the guard is free");
    assert_eq!(shop.world.effects(), 3);
}

async fn lost(_: Request<Body>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(semel::effect::Lost);
    response
}

/// A store that is never ready at once.
#[derive(Debug)]
struct Yielding(Arc<dyn Store>);

#[async_trait]
impl Store for Yielding {
    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        tokio::task::yield_now().await;
        let answer = self.0.swap(key, swap).await;
        tokio::task::yield_now().await;
        answer
    }
    async fn load(&self, key: &RecordKey) -> Result<Option<Found>, StoreError> {
        tokio::task::yield_now().await;
        let answer = self.0.load(key).await;
        tokio::task::yield_now().await;
        answer
    }
    async fn scan(
        &self,
        phase: PhaseKind,
        after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, StoreError> {
        self.0.scan(phase, after, limit).await
    }
    async fn sweep(&self, limit: u32) -> Result<u32, StoreError> {
        self.0.sweep(limit).await
    }
    async fn probe(&self) -> Result<(), StoreError> {
        self.0.probe().await
    }
}

#[tokio::test(start_paused = true)]
async fn e10_peers_03_a_client_may_vanish_at_every_step_of_a_guard() {
    for before in [Nobody, Owner, Stale] {
        let mut polls_to_finish = 0;
        for polls in 0.. {
            let world = World::with(policy("", ""), |memory| Arc::new(Yielding(memory)));
            let held_by_another = before == Owner;
            match before {
                Nobody => {}
                Owner => assert_eq!(world.send(post("before"), created).await.status, 201),
                Stale => assert_eq!(world.send(post("before"), not_sent).await.status, 502),
            }
            let effects_before = world.effects();
            let mut call = Box::pin(world.service(created).oneshot(post("k")));
            let mut finished = false;
            for _ in 0..polls {
                // The task of the exchange runs between two polls of the client's.
                tokio::task::yield_now().await;
                if futures_util::poll!(&mut call).is_ready() {
                    finished = true;
                    break;
                }
            }
            drop(call);
            assert_eq!(world.semel.drain(Duration::from_mins(1)).await, 0);
            let is_made = world.effects() > effects_before;
            let what = format!("{before:?}, {polls} polls");
            assert!(!(is_made && held_by_another), "{what}");
            let other = told(&world.send(post("other"), created).await);
            let expected = if is_made || held_by_another { is(409, "guard-held") } else { is(201, "") };
            assert_eq!(other, expected, "{what}");
            let retry = told(&world.send(post("k"), created).await);
            assert_eq!(retry, if is_made { is(201, "replay") } else { is(409, "guard-held") }, "{what}");
            assert_eq!(world.effects() - effects_before, usize::from(!held_by_another), "{what}");
            if finished {
                break;
            }
            polls_to_finish = polls;
        }
        assert!(polls_to_finish > 6, "there were steps to vanish at: {polls_to_finish}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e10_keys_that_race_on_one_guard_have_one_effect_in_memory() {
    keys_race(Arc::new(MemoryStore::new()), 150).await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e10_keys_that_race_on_one_guard_have_one_effect_on_the_embedded_store() {
    use semel::store::embedded::{EmbeddedStore, Options, simulated::SimulatedDisk};
    let options = Options { disk: Arc::new(SimulatedDisk::new()), ..Options::default() };
    let (store, _) = EmbeddedStore::open(std::path::Path::new("/data"), options).unwrap();
    keys_race(Arc::new(store), 60).await;
}

/// Rounds of eight keys on one guard, with a retry of each. In odd rounds some charges do not happen, so that the guard
/// changes hands while others look.
async fn keys_race(store: Arc<dyn Store>, rounds: usize) {
    const KEYS: usize = 8;
    let world = World::with(policy("", ""), |_| store);
    let live = Arc::new(AtomicUsize::new(0));
    for round in 0..rounds {
        live.store(0, Ordering::SeqCst);
        let (amount, live) = (round + 1, live.clone());
        let handler = move |request: Request<Body>| charge_alone(request, live.clone());
        let asked = (0..KEYS * 2).map(|n| {
            let fails = round % 2 == 1 && n % KEYS < 5;
            let request = Request::post("http://h/charges")
                .header("idempotency-key", format!("k{round}-{}", n % KEYS))
                .header("x-fails", fails.to_string())
                .body(Body::full(format!("{{\"amount\":{amount}}}")))
                .unwrap();
            tokio::spawn(world.service(handler.clone()).oneshot(request))
        });
        let asked: Vec<_> = asked.collect();
        let mut made = 0;
        for one in asked {
            let seen = Seen::of(one.await.unwrap().unwrap()).await;
            match (seen.status.as_u16(), seen.header("idempotent-replayed")) {
                (201, Option::None) => made += 1,
                (201, Some(_)) | (402, _) => {}
                (409, _) => assert!(["guard-held", "in-flight"].contains(&seen.code().as_str()), "{seen:?}"),
                (_, _) => panic!("{seen:?}"),
            }
        }
        assert!(made <= 1, "{made} charges in round {round}");
        assert!(made == 1 || round % 2 == 1, "nobody charged in round {round}");
    }
}

/// A charge that must be the only one that lives.
async fn charge_alone(request: Request<Body>, live: Arc<AtomicUsize>) -> Response<Body> {
    assert_eq!(live.fetch_add(1, Ordering::SeqCst), 0, "two owners live");
    tokio::task::yield_now().await;
    if request.headers()["x-fails"] == "true" {
        live.fetch_sub(1, Ordering::SeqCst);
        return status(402)(request).await;
    }
    created(request).await
}
