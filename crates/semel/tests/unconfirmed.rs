//! Claims that the store did not confirm: the caller hears it in time, and the key is not left to a lease under which nobody
//! executes.

#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use http::{Request, Response};
use semel::{
    Body,
    core::{
        policy::Policy,
        record::{Phase, Record},
    },
    effect::Lost,
    store::{Found, PhaseKind, RecordKey, Store, StoreError, Swap, Swapped, memory::MemoryStore},
    testkit::{
        Fault::{self, LostReply, None as Fine, Refused},
        FaultyStore,
    },
};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;
use world::{Seen, World, created, policy, post};

mod world;

const MS: Duration = Duration::from_millis(1);
/// The longest pause between two tries, and some time to answer.
const SOON: Duration = Duration::from_millis(1_010);
const LEASE: Duration = Duration::from_secs(35);

/// A world whose store fails when told to.
struct Shop {
    world: World,
    faults: Arc<FaultyStore<Arc<MemoryStore>>>,
}

impl Shop {
    fn new(settings: &str) -> Shop {
        let mut outer = None;
        let world = World::with(policy(settings), |memory| {
            let faulty = Arc::new(FaultyStore::new(memory));
            outer = Some(faulty.clone());
            faulty
        });
        Shop { world, faults: outer.unwrap() }
    }

    /// The next claim is applied and its answer lost for good, and then the store is away.
    fn goes_away_with_a_claim(&self) {
        self.faults.push([LostReply, Refused, Refused]);
        self.faults.then_all(Refused);
    }

    async fn charge(&self) -> Seen {
        self.world.send(post("k"), created).await
    }

    async fn is_down(&self) {
        self.charge().await.assert_problem(503, "store-unavailable");
    }

    /// The records there are, which are all of one key.
    async fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for phase in [PhaseKind::InFlight, PhaseKind::Unknown, PhaseKind::Completed] {
            records.extend(self.world.store.scan(phase, None, 10).await.unwrap());
        }
        records.into_iter().map(|(_, found)| found.record).collect()
    }

    /// Both clocks: that of the store, and that of the process.
    async fn passes(&self, time: Duration) {
        self.world.clock.advance(time);
        sleep(time).await;
    }
}

async fn lost(_: Request<Body>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(Lost);
    response
}

#[tokio::test(start_paused = true)]
async fn k12_k14_a_first_claim_that_was_never_confirmed_is_free_as_soon_as_the_store_is_back() {
    let shop = Shop::new("");
    shop.goes_away_with_a_claim();
    let began = Instant::now();
    shop.is_down().await;
    assert!(began.elapsed() < 100 * MS, "told at once: {:?}", began.elapsed());
    assert!(matches!(shop.records().await[..], [Record { phase: Phase::InFlight { .. }, attempt: 1, .. }]));
    shop.passes(Duration::from_secs(20)).await;
    shop.is_down().await;

    shop.faults.then_all(Fine);
    shop.charge().await.assert_problem(409, "in-flight");
    shop.passes(SOON).await;
    assert_eq!(shop.records().await, [], "given back");
    let fresh = shop.charge().await;
    assert_eq!((fresh.status.as_u16(), fresh.header("idempotent-replayed")), (201, None));
    assert_eq!(shop.world.effects(), 1);
    assert_eq!(shop.world.semel.drain(Duration::from_mins(1)).await, 0);
    shop.charge().await.assert_replay_of("charged");
}

#[tokio::test(start_paused = true)]
async fn k14_a_take_over_that_was_never_confirmed_leaves_the_outcome_as_unknown_as_it_was() {
    let shop = Shop::new("on_unknown = \"reexecute\"");
    shop.world.send(post("k"), lost).await.assert_problem(502, "outcome-unknown");
    // The first swap of an exchange expects nothing, and is told what is there.
    shop.faults.push([Fine]);
    shop.goes_away_with_a_claim();
    shop.is_down().await;
    assert!(matches!(shop.records().await[..], [Record { phase: Phase::InFlight { .. }, attempt: 2, .. }]));

    shop.faults.then_all(Fine);
    shop.passes(SOON).await;
    assert!(matches!(shop.records().await[..], [Record { phase: Phase::Unknown, attempt: 2, .. }]), "never free");
    assert_eq!(shop.world.effects(), 1);
    assert_eq!(shop.charge().await.status, 201);
    assert_eq!(shop.world.effects(), 2);
    assert!(matches!(shop.records().await[..], [Record { phase: Phase::Completed { .. }, attempt: 3, .. }]));
}

#[tokio::test(start_paused = true)]
async fn k12_a_claim_that_the_store_did_not_apply_is_given_back_to_nobody() {
    let shop = Shop::new("");
    shop.faults.push([Refused, Refused, Refused, Refused]);
    shop.is_down().await;
    // While the first still wants to give back what it never had, another executes under the same key.
    assert_eq!(shop.charge().await.status, 201);
    shop.passes(SOON).await;
    shop.charge().await.assert_replay_of("charged");
    assert_eq!(
        (shop.faults.asked().len(), shop.world.effects()),
        (4 + 2 + 1 + 1, 1),
        "the giving back was asked again"
    );
}

#[tokio::test(start_paused = true)]
async fn k12_past_its_lease_an_unconfirmed_claim_is_unknown_and_nobody_asks_for_it_any_more() {
    let shop = Shop::new("");
    shop.goes_away_with_a_claim();
    shop.is_down().await;
    shop.passes(LEASE).await;
    let asked = shop.faults.asked().len();
    shop.faults.then_all(Fine);
    shop.passes(Duration::from_mins(1)).await;
    assert_eq!(shop.faults.asked().len(), asked);
    assert_eq!(shop.world.semel.running(), 0);
    shop.charge().await.assert_problem(409, "outcome-unknown");
    assert_eq!(shop.world.effects(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_an_unconfirmed_claim_executes_when_it_is_given_back() {
    let shop = Shop::new("wait_max = \"10s\"");
    shop.goes_away_with_a_claim();
    shop.is_down().await;
    shop.faults.push([Fine]);
    let waiter = tokio::spawn(shop.world.service(created).oneshot(post("k")));
    sleep(Duration::from_secs(2)).await;
    assert!(!waiter.is_finished());
    let back = Instant::now();
    shop.faults.then_all(Fine);
    assert_eq!(waiter.await.unwrap().unwrap().status(), 201);
    assert!(back.elapsed() <= SOON, "{:?}", back.elapsed());
    assert_eq!(shop.world.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn k11_what_a_full_store_refused_is_given_back_to_nobody() {
    let full = || Fault::Failed(StoreError::Full("its queue".into()));
    for (script, gives_back) in [([full(), full(), full()], false), ([full(), LostReply, full()], true)] {
        let shop = Shop::new("");
        shop.faults.push(script);
        shop.is_down().await;
        shop.passes(SOON).await;
        assert_eq!((shop.faults.asked().len(), shop.records().await.len()), (3 + usize::from(gives_back), 0));
    }
}

/// A store that keeps what it is asked for, and does not say so while it is away.
#[derive(Debug)]
struct Away {
    inner: Arc<MemoryStore>,
    mode: Mutex<Mode>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// Claims are applied, nothing is answered in time.
    Silent(Duration),
    Down,
    Back,
}

#[async_trait]
impl Store for Away {
    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        let mode = *self.mode.lock().unwrap();
        match mode {
            Mode::Silent(takes) => {
                self.inner.swap(key, swap).await?;
                sleep(takes).await;
                Err(StoreError::TimedOut(takes))
            }
            Mode::Down => Err(StoreError::Unavailable("it is away".into())),
            Mode::Back => self.inner.swap(key, swap).await,
        }
    }
    async fn load(&self, key: &RecordKey) -> Result<Option<Found>, StoreError> {
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

fn away(policy: Policy, mode: Mode) -> (World, Arc<Away>) {
    let mut store = None;
    let world = World::with(policy, |inner| {
        let away = Arc::new(Away { inner, mode: Mutex::new(mode) });
        store = Some(away.clone());
        away
    });
    (world, store.unwrap())
}

#[tokio::test(start_paused = true)]
async fn k12_a_store_that_is_slow_to_fail_is_heard_of_within_ten_seconds() {
    // Two time-outs of a statement, and most of one that never ends.
    for takes in [Duration::from_secs(5), Duration::from_hours(1)] {
        let (world, store) = away(policy(""), Mode::Silent(takes));
        let began = Instant::now();
        world.send(post("k"), created).await.assert_problem(503, "store-unavailable");
        assert_eq!(began.elapsed().as_secs(), 10, "{takes:?}");
        *store.mode.lock().unwrap() = Mode::Back;
        assert_eq!(world.effects(), 0);
    }
}

/// A crowd that failed together does not ask together when the store is back.
#[tokio::test(start_paused = true)]
async fn claims_beyond_the_limit_are_left_to_their_leases() {
    const MAX: usize = 1_000;
    let (world, store) = away(policy(""), Mode::Silent(MS));
    let crowd: Vec<_> =
        (0..MAX + 5).map(|n| tokio::spawn(world.service(created).oneshot(post(&format!("k{n}"))))).collect();
    // Each claim is asked for three times, and then the store does not even apply what it is asked for.
    sleep(10 * MS).await;
    *store.mode.lock().unwrap() = Mode::Down;
    for told in crowd {
        Seen::of(told.await.unwrap().unwrap()).await.assert_problem(503, "store-unavailable");
    }
    assert_eq!(world.semel.running(), MAX, "who has nothing left to do is gone");
    *store.mode.lock().unwrap() = Mode::Back;
    sleep(SOON).await;
    let left = world.store.scan(PhaseKind::InFlight, None, 2_000).await.unwrap();
    assert_eq!((left.len(), world.semel.running(), world.effects()), (5, 0, 0));
}
