//! A store that fails when told to.

use std::collections::VecDeque;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::store::{Found, PhaseKind, RecordKey, Store, StoreError, Swap, Swapped};

/// What becomes of one swap, or of one load, which is never applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing unusual.
    None,
    /// It is applied, and then the answer is lost: [`StoreError::Unavailable`].
    LostReply,
    /// It is not applied: [`StoreError::Unavailable`].
    Refused,
    /// It is not applied, and this is the error.
    Failed(StoreError),
    /// It waits until [`FaultyStore::release`], and then is applied as usual.
    Delayed,
    /// It is applied, and its answer waits until [`FaultyStore::release`].
    DelayedReply,
}

/// A store around another, with faults by script: one for swaps, another for loads. The other questions always pass.
///
/// ```
/// use semel::{
///     store::{Store, Swapped, memory::MemoryStore},
///     testkit::{Fault, FaultyStore, sample},
/// };
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let store = FaultyStore::new(MemoryStore::new()).script([Fault::LostReply]);
/// let claim = sample::put(None, sample::stamp(1, 1), sample::in_flight(1));
/// assert!(store.swap(&sample::key(1), &claim).await.is_err());
/// assert_eq!(store.swap(&sample::key(1), &claim).await, Ok(Swapped::Done), "it had been applied");
/// # });
/// ```
#[derive(Debug)]
pub struct FaultyStore<S> {
    inner: S,
    plan: Mutex<Plan>,
    releases: watch::Sender<u64>,
    held: watch::Sender<usize>,
}

impl<S: Store> FaultyStore<S> {
    /// A store without faults so far.
    pub fn new(inner: S) -> FaultyStore<S> {
        FaultyStore {
            inner,
            plan: Mutex::new(Plan {
                script: VecDeque::new(),
                loads: VecDeque::new(),
                otherwise: Fault::None,
                asked: Vec::new(),
            }),
            releases: watch::Sender::new(0),
            held: watch::Sender::new(0),
        }
    }

    /// The faults of the next swaps, in their order; those after them are as [`FaultyStore::then_all`] said.
    #[must_use]
    pub fn script(self, faults: impl IntoIterator<Item = Fault>) -> FaultyStore<S> {
        self.push(faults);
        self
    }

    /// Adds to the script of a store that is in use already.
    pub fn push(&self, faults: impl IntoIterator<Item = Fault>) {
        self.plan.lock().script.extend(faults);
    }

    /// The faults of the next loads, in their order; those after them pass.
    pub fn push_loads(&self, faults: impl IntoIterator<Item = Fault>) {
        self.plan.lock().loads.extend(faults);
    }

    /// What becomes of every swap that no script speaks of, from now on.
    pub fn then_all(&self, fault: Fault) {
        self.plan.lock().otherwise = fault;
    }

    /// From now on every swap without a script waits for [`FaultyStore::release`].
    pub fn hold(&self) {
        self.then_all(Fault::Delayed);
    }

    /// Lets go of all that wait, and ends [`FaultyStore::hold`]. What the script delays later will wait again.
    pub fn release(&self) {
        let mut plan = self.plan.lock();
        if matches!(plan.otherwise, Fault::Delayed | Fault::DelayedReply) {
            plan.otherwise = Fault::None;
        }
        // Under the mutex, so that a swap which drew `Delayed` before this call is also let go by it.
        self.releases.send_modify(|count| *count += 1);
    }

    /// Returns as soon as `count` swaps wait at once. Bound it by a time-out of the test's own.
    pub async fn until_held(&self, count: usize) {
        let mut held = self.held.subscribe();
        held.wait_for(|held| *held >= count).await.expect("the sender lives in self");
    }

    /// All that was asked so far, with what became of it; for assertions.
    pub fn asked(&self) -> Vec<(RecordKey, Swap, Fault)> {
        self.plan.lock().asked.clone()
    }

    /// The store behind the faults.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

#[async_trait]
impl<S: Store> Store for FaultyStore<S> {
    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        let (fault, released) = {
            let mut plan = self.plan.lock();
            let fault = plan.script.pop_front().unwrap_or_else(|| plan.otherwise.clone());
            plan.asked.push((*key, swap.clone(), fault.clone()));
            (fault, self.releases.subscribe())
        };
        match fault {
            Fault::None => self.inner.swap(key, swap).await,
            Fault::LostReply => {
                self.inner.swap(key, swap).await?;
                Err(StoreError::Unavailable("scripted: the answer is lost".into()))
            }
            Fault::Refused => Err(StoreError::Unavailable("scripted: refused".into())),
            Fault::Failed(error) => Err(error),
            Fault::Delayed => {
                self.wait(released).await;
                self.inner.swap(key, swap).await
            }
            Fault::DelayedReply => {
                let answer = self.inner.swap(key, swap).await;
                self.wait(released).await;
                answer
            }
        }
    }

    async fn load(&self, key: &RecordKey) -> Result<Option<Found>, StoreError> {
        let (fault, released) = {
            let mut plan = self.plan.lock();
            (plan.loads.pop_front().unwrap_or(Fault::None), self.releases.subscribe())
        };
        match fault {
            Fault::None => self.inner.load(key).await,
            Fault::LostReply | Fault::Refused => Err(StoreError::Unavailable("scripted: refused".into())),
            Fault::Failed(error) => Err(error),
            Fault::Delayed => {
                self.wait(released).await;
                self.inner.load(key).await
            }
            Fault::DelayedReply => {
                let answer = self.inner.load(key).await;
                self.wait(released).await;
                answer
            }
        }
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

impl<S> FaultyStore<S> {
    async fn wait(&self, mut released: watch::Receiver<u64>) {
        let _held = Held::new(&self.held);
        released.changed().await.expect("the sender lives in self");
    }
}

#[derive(Debug)]
struct Plan {
    script: VecDeque<Fault>,
    loads: VecDeque<Fault>,
    otherwise: Fault,
    asked: Vec<(RecordKey, Swap, Fault)>,
}

/// Counts one swap as waiting, also when its asker goes away.
struct Held<'a>(&'a watch::Sender<usize>);

impl Held<'_> {
    fn new(count: &watch::Sender<usize>) -> Held<'_> {
        count.send_modify(|count| *count += 1);
        Held(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{store::memory::MemoryStore, testkit::sample};

    fn claim(n: u64) -> Swap {
        sample::put(None, sample::stamp(n, 1), sample::in_flight(n))
    }

    async fn lives<S: Store>(store: &FaultyStore<S>) -> Option<crate::store::Stamp> {
        store.load(&sample::key(1)).await.unwrap().map(|found| found.stamp)
    }

    #[tokio::test]
    async fn the_script_is_used_up_in_its_order_and_then_nothing_is_unusual() {
        let full = StoreError::Full("disk".into());
        let script = [Fault::Refused, Fault::Failed(full.clone()), Fault::LostReply];
        let store = FaultyStore::new(MemoryStore::new()).script(script.clone());
        let key = sample::key(1);

        assert!(matches!(store.swap(&key, &claim(1)).await, Err(StoreError::Unavailable(_))));
        assert_eq!(store.swap(&key, &claim(1)).await, Err(full));
        assert_eq!(lives(&store).await, None, "what is refused is not applied");
        assert!(matches!(store.swap(&key, &claim(1)).await, Err(StoreError::Unavailable(_))));
        assert_eq!(lives(&store).await, Some(sample::stamp(1, 1)), "only the answer is lost");
        assert_eq!(store.swap(&key, &claim(1)).await, Ok(Swapped::Done));

        let drawn: Vec<Fault> = store.asked().into_iter().map(|(_, _, fault)| fault).collect();
        assert_eq!(drawn, [&script[..], &[Fault::None]].concat());
    }

    #[tokio::test]
    async fn what_waits_is_applied_at_its_release_or_before_it_as_scripted() {
        let cases = [(Fault::Delayed, None), (Fault::DelayedReply, Some(sample::stamp(1, 1)))];
        for (fault, while_held) in cases {
            let store = Arc::new(FaultyStore::new(MemoryStore::new()).script([fault]));
            let asker = tokio::spawn({
                let store = store.clone();
                async move { store.swap(&sample::key(1), &claim(1)).await }
            });
            store.until_held(1).await;
            assert_eq!(lives(&store).await, while_held);
            assert!(!asker.is_finished());
            store.release();
            assert_eq!(asker.await.unwrap(), Ok(Swapped::Done));
            assert_eq!(lives(&store).await, Some(sample::stamp(1, 1)));
        }
    }

    #[tokio::test]
    async fn a_hold_keeps_all_until_its_release_and_forgets_who_went_away() {
        let store = Arc::new(FaultyStore::new(MemoryStore::new()));
        store.hold();
        let askers: Vec<_> = (1..=3)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move { store.swap(&sample::key(n), &claim(n)).await })
            })
            .collect();
        store.until_held(3).await;
        askers[0].abort();
        let mut held = store.held.subscribe();
        held.wait_for(|held| *held == 2).await.unwrap();
        store.release();
        for (asker, expected) in askers.into_iter().zip([None, Some(Ok(Swapped::Done)), Some(Ok(Swapped::Done))]) {
            assert_eq!(asker.await.ok(), expected);
        }
        assert_eq!(lives(&store).await, None, "whoever went away while waiting wrote nothing");
        assert_eq!(store.swap(&sample::key(9), &claim(9)).await, Ok(Swapped::Done), "the hold is over");
    }
}
