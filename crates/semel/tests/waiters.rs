//! Crowds that wait for one record, whoever executes under it: one load at a time for all of them, and nobody late.

#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http::{Request, Response};
use parking_lot::Mutex;
use semel::{
    Body,
    store::{Found, PhaseKind, RecordKey, SimulatedClock, Store, StoreError, Swap, Swapped, memory::MemoryStore},
};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::ServiceExt;
use world::{Seen, World, created, policy, post};

mod world;

const MS: Duration = Duration::from_millis(1);
const POLL: Duration = Duration::from_millis(25);

/// A store that answers one question at a time, in their order, and counts them.
#[derive(Debug)]
struct Narrow {
    inner: MemoryStore,
    one: Semaphore,
    takes: Duration,
    loads: AtomicUsize,
    swaps: AtomicUsize,
    /// What goes wrong with the next loads.
    faults: Mutex<VecDeque<LoadFault>>,
}

#[derive(Debug)]
enum LoadFault {
    Error(StoreError),
    Panic,
}

impl Narrow {
    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }
    fn swaps(&self) -> usize {
        self.swaps.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Store for Narrow {
    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        self.swaps.fetch_add(1, Ordering::SeqCst);
        let _one = self.one.acquire().await.unwrap();
        if !self.takes.is_zero() {
            sleep(self.takes).await;
        }
        self.inner.swap(key, swap).await
    }
    async fn load(&self, key: &RecordKey) -> Result<Option<Found>, StoreError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let fault = self.faults.lock().pop_front();
        match fault {
            Some(LoadFault::Error(error)) => return Err(error),
            Some(LoadFault::Panic) => panic!("a store has a bug"),
            None => {}
        }
        let _one = self.one.acquire().await.unwrap();
        if !self.takes.is_zero() {
            sleep(self.takes).await;
        }
        self.inner.load(key).await
    }
    async fn scan(
        &self,
        phase: PhaseKind,
        after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, StoreError> {
        self.inner.scan(phase, after, limit).await
    }
    async fn sweep(&self, limit: u32) -> Result<u32, StoreError> {
        self.inner.sweep(limit).await
    }
    async fn probe(&self) -> Result<(), StoreError> {
        self.inner.probe().await
    }
}

/// Two processes on one store, and the only request that the first of them executes.
struct Shop {
    store: Arc<Narrow>,
    clock: Arc<SimulatedClock>,
    here: World,
    elsewhere: World,
    go: Arc<Semaphore>,
    arrived: Arc<Notify>,
}

impl Shop {
    fn new(settings: &str, takes: Duration) -> Shop {
        let clock = Arc::new(SimulatedClock::at(1_000_000));
        let store = Arc::new(Narrow {
            inner: MemoryStore::with_clock(clock.clone()),
            one: Semaphore::new(1),
            takes,
            loads: AtomicUsize::new(0),
            swaps: AtomicUsize::new(0),
            faults: Mutex::default(),
        });
        let world = || World::with(policy(settings), |_| store.clone());
        let (here, elsewhere) = (world(), world());
        Shop { here, elsewhere, store, clock, go: Arc::new(Semaphore::new(0)), arrived: Arc::default() }
    }

    /// Executes in `world` until it is let go, and is answered what `reply` says.
    async fn winner(&self, world: &World, reply: fn() -> Response<Body>) -> JoinHandle<Seen> {
        let (go, arrived) = (self.go.clone(), self.arrived.clone());
        let winner = spawned(world, post("k"), move |_| {
            let (go, arrived) = (go.clone(), arrived.clone());
            async move {
                arrived.notify_one();
                go.acquire().await.unwrap().forget();
                reply()
            }
        });
        self.arrived.notified().await;
        winner
    }

    fn crowd(world: &World, count: usize) -> Vec<JoinHandle<Seen>> {
        (0..count).map(|_| spawned(world, post("k"), created)).collect()
    }
}

fn spawned<H, F>(world: &World, request: Request<Body>, handler: H) -> JoinHandle<Seen>
where
    H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = world.service(handler);
    tokio::spawn(async move { Seen::of(service.oneshot(request).await.unwrap()).await })
}

fn charged() -> Response<Body> {
    Response::builder().status(201).body(Body::full("charged")).unwrap()
}

fn declined() -> Response<Body> {
    Response::builder().status(402).body(Body::empty()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn peers_04_22_two_hundred_waiters_load_once_at_a_time_and_see_a_settle_elsewhere() {
    let shop = Shop::new("wait_max = \"10s\"", Duration::ZERO);
    let winner = shop.winner(&shop.elsewhere, charged).await;
    let crowd = Shop::crowd(&shop.here, 200);
    sleep(MS).await;
    let (swaps, loads) = (shop.store.swaps(), shop.store.loads());
    assert_eq!((swaps, loads), (201, 0), "each asked for the key once");

    sleep(40 * POLL).await;
    assert_eq!((shop.store.swaps(), shop.store.loads()), (swaps, 40), "one load for all in 25 ms, and no swap");

    shop.go.add_permits(1);
    assert_eq!(winner.await.unwrap().status, 201);
    let settled = Instant::now();
    for waiter in crowd {
        waiter.await.unwrap().assert_replay_of("charged");
    }
    assert!(settled.elapsed() < 2 * POLL, "{:?}", settled.elapsed());
    assert_eq!(shop.store.swaps(), swaps + 1, "the settle; what was loaded answered all who waited");
    assert_eq!((shop.here.effects(), shop.elsewhere.effects()), (0, 1));

    let loads = shop.store.loads();
    sleep(40 * POLL).await;
    assert_eq!(shop.store.loads(), loads, "nobody looks any more");
}

#[tokio::test(start_paused = true)]
async fn peers_04_a_settle_never_waits_behind_those_who_wait_for_it() {
    let takes = Duration::from_millis(5);
    let shop = Shop::new("wait_max = \"10s\"", takes);
    let winner = shop.winner(&shop.elsewhere, charged).await;
    let crowd = Shop::crowd(&shop.here, 200);
    // Their claims, one after another.
    sleep(201 * takes + 10 * POLL).await;
    assert_eq!(shop.store.swaps(), 201);
    let began = Instant::now();
    shop.go.add_permits(1);
    assert_eq!(winner.await.unwrap().status, 201);
    assert!(began.elapsed() <= 2 * takes, "at most one load was before it: {:?}", began.elapsed());
    for waiter in crowd {
        waiter.await.unwrap().assert_replay_of("charged");
    }
    assert!(began.elapsed() < 2 * takes + 2 * POLL, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn peers_04_who_waits_for_its_own_process_is_woken_and_polls_nothing() {
    let shop = Shop::new("wait_max = \"10s\"", Duration::ZERO);
    let winner = shop.winner(&shop.here, charged).await;
    let crowd = Shop::crowd(&shop.here, 200);
    sleep(Duration::from_secs(1)).await;
    assert_eq!((shop.store.swaps(), shop.store.loads()), (201, 0));
    let settled = Instant::now();
    shop.go.add_permits(1);
    for waiter in crowd {
        waiter.await.unwrap().assert_replay_of("charged");
    }
    assert_eq!(settled.elapsed(), Duration::ZERO, "at once");
    assert_eq!((shop.store.swaps(), shop.store.loads()), (202, 1), "one load for all");
    assert_eq!(winner.await.unwrap().status, 201);
}

#[tokio::test(start_paused = true)]
async fn peers_21_28_a_waiter_elsewhere_gives_up_at_its_limit_and_when_its_client_leaves() {
    let shop = Shop::new("wait_max = \"2s\"", Duration::ZERO);
    let winner = shop.winner(&shop.elsewhere, charged).await;
    let mut leaves = Box::pin(shop.here.service(created).oneshot(post("k")));
    assert!(futures_util::poll!(&mut leaves).is_pending());
    sleep(4 * POLL + POLL / 2).await;
    assert_eq!(shop.store.loads(), 4);
    drop(leaves);
    sleep(4 * POLL).await;
    assert_eq!(shop.store.loads(), 4, "the last who waited has left");

    let began = Instant::now();
    shop.here.send(post("k"), created).await.assert_problem(409, "in-flight");
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    let loads = shop.store.loads();
    sleep(4 * POLL).await;
    assert_eq!(shop.store.loads(), loads, "the last who waited gave up");

    shop.go.add_permits(1);
    assert_eq!(winner.await.unwrap().status, 201);
    shop.here.send(post("k"), created).await.assert_replay_of("charged");
}

#[tokio::test(start_paused = true)]
async fn one_of_those_who_waited_executes_what_was_released_elsewhere() {
    let shop = Shop::new("wait_max = \"10s\"", Duration::ZERO);
    let winner = shop.winner(&shop.elsewhere, declined).await;
    let crowd = Shop::crowd(&shop.here, 20);
    sleep(POLL / 2).await;
    shop.go.add_permits(1);
    assert_eq!(winner.await.unwrap().status, 402);
    let mut fresh = 0;
    for waiter in crowd {
        let seen = waiter.await.unwrap();
        assert_eq!(seen.status, 201);
        fresh += usize::from(seen.header("idempotent-replayed").is_none());
    }
    assert_eq!((fresh, shop.here.effects(), shop.elsewhere.effects()), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn peers_27_whoever_waits_learns_at_once_that_the_lease_is_over() {
    let shop = Shop::new("wait_max = \"60s\"", Duration::ZERO);
    let winner = shop.winner(&shop.elsewhere, charged).await;
    let crowd = Shop::crowd(&shop.here, 20);
    sleep(4 * POLL).await;
    let began = Instant::now();
    // The store's clock alone says how old the record is.
    shop.clock.advance(Duration::from_secs(36));
    for waiter in crowd {
        waiter.await.unwrap().assert_problem(409, "outcome-unknown");
    }
    assert!(began.elapsed() < 2 * POLL, "{:?}", began.elapsed());
    assert_eq!(shop.here.effects(), 0);
    shop.go.add_permits(1);
    assert_eq!(winner.await.unwrap().status, 201);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_outlives_loads_that_fail() {
    let shop = Shop::new("wait_max = \"10s\"", Duration::ZERO);
    let winner = shop.winner(&shop.elsewhere, charged).await;
    let crowd = Shop::crowd(&shop.here, 20);
    let down = || LoadFault::Error(StoreError::Unavailable("the network".into()));
    let corrupt = LoadFault::Error(StoreError::Corrupt("a flipped bit".into()));
    shop.store.faults.lock().extend([down(), down(), corrupt, LoadFault::Panic]);
    sleep(2 * POLL + MS).await;
    assert_eq!((shop.store.swaps(), shop.store.loads()), (21, 2), "a store that may come back is waited for");
    sleep(POLL).await;
    assert_eq!((shop.store.swaps(), shop.store.loads()), (41, 3), "and otherwise asked, who is to say what is wrong");
    sleep(POLL).await;
    assert_eq!((shop.store.swaps(), shop.store.loads()), (61, 4), "a bug of a store strands nobody");
    shop.go.add_permits(1);
    assert_eq!(winner.await.unwrap().status, 201);
    for waiter in crowd {
        waiter.await.unwrap().assert_replay_of("charged");
    }
    assert_eq!(shop.here.effects(), 0);
}
