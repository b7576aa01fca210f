//! Who waits for whom, so that a crowd which waits for one record asks the store as little as one waiter.
//!
//! An execution of this process says when it is over. A record of another process is loaded steadily, once for all who
//! wait for it: there is nothing to subscribe to in a compare-and-swap register.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use semel_core::{
    record::{ExchangeId, Stamp},
    register::Found,
    scope::RecordKey,
};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use crate::{drive::may_recover, store::Store};

/// How often a record that is in flight in another process is loaded: a settle there is seen within twice this.
const WAIT_POLL: Duration = Duration::from_millis(25);

/// What runs in this process, by name.
#[derive(Debug)]
pub(crate) struct Here<K>(Mutex<HashMap<K, CancellationToken>>);

/// Held while it runs; dropping it wakes everybody who waits for its end.
#[derive(Debug)]
pub(crate) struct Running<'a, K: Copy + Eq + Hash> {
    here: &'a Here<K>,
    name: K,
    over: CancellationToken,
}

impl<K> Default for Here<K> {
    fn default() -> Here<K> {
        Here(Mutex::default())
    }
}

impl<K: Copy + Eq + Hash> Here<K> {
    /// Says that it runs from now on; `None`: it already does.
    pub(crate) fn running(&self, name: K) -> Option<Running<'_, K>> {
        match self.0.lock().entry(name) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                let over = vacant.insert(CancellationToken::new()).clone();
                Some(Running { here: self, name, over })
            }
        }
    }

    /// Waits until it is over, and says whether it ran at all.
    pub(crate) async fn over(&self, name: &K) -> bool {
        let over = self.0.lock().get(name).cloned();
        match over {
            Some(over) => {
                over.cancelled().await;
                true
            }
            None => false,
        }
    }
}

impl<K: Copy + Eq + Hash> Drop for Running<'_, K> {
    fn drop(&mut self) {
        self.here.0.lock().remove(&self.name);
        self.over.cancel();
    }
}

/// The exchanges of this process that others may wait for, and the records that somebody waits for. Clones are one.
#[derive(Clone, Default, Debug)]
pub(crate) struct Waiters(Arc<Shared>);

#[derive(Default, Debug)]
struct Shared {
    exchanges: Here<ExchangeId>,
    /// One poller for each of these; the sender is its own.
    watched: Mutex<HashMap<Watched, watch::Sender<News>>>,
}

/// A record, and the stamp that it bore.
type Watched = (RecordKey, Stamp);

/// Nothing so far; or what was there once it had changed, if anything that can be told.
type News = Option<Option<Found>>;

impl Waiters {
    /// Says that this exchange runs here. Said before its first claim, nobody meets the claim without knowing it.
    pub(crate) fn running(&self, exchange: ExchangeId) -> Option<Running<'_, ExchangeId>> {
        self.0.exchanges.running(exchange)
    }

    /// Waits until the record no longer bears `seen` or is no longer running, and shows what it is then; `None`: it is gone,
    /// or the store has to be asked. Unbounded: whoever waits gives up by dropping this.
    pub(crate) async fn changed(&self, store: &Arc<dyn Store>, key: RecordKey, seen: Stamp) -> Option<Found> {
        let mut news = self.watch(store, (key, seen));
        // It fails when the poller panicked.
        news.wait_for(Option::is_some).await.ok()?.clone().flatten()
    }

    fn watch(&self, store: &Arc<dyn Store>, watched: Watched) -> watch::Receiver<News> {
        match self.0.watched.lock().entry(watched) {
            Entry::Occupied(polled) => polled.get().subscribe(),
            Entry::Vacant(vacant) => {
                let (news, receiver) = watch::channel(None);
                vacant.insert(news.clone());
                let poller = Poller { waiters: self.clone(), watched, news };
                tokio::spawn(poller.poll(Arc::clone(store)));
                receiver
            }
        }
    }
}

/// Looks at one record for everybody who waits for it, and ends with the last of them.
struct Poller {
    waiters: Waiters,
    watched: Watched,
    news: watch::Sender<News>,
}

impl Poller {
    async fn poll(self, store: Arc<dyn Store>) {
        let changed = self.until_changed(&*store);
        tokio::pin!(changed);
        loop {
            tokio::select! {
                found = &mut changed => {
                    self.news.send_replace(Some(found));
                    return;
                }
                () = self.news.closed() => if self.is_left() { return },
            }
        }
    }

    async fn until_changed(&self, store: &dyn Store) -> Option<Found> {
        let (key, seen) = self.watched;
        let mut polls = interval_at(Instant::now() + WAIT_POLL, WAIT_POLL);
        // A slow store is not asked more often for being slow.
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.waiters.0.exchanges.over(&seen.exchange).await {
                polls.reset();
            } else {
                polls.tick().await;
            }
            match store.load(&key).await {
                Ok(Some(found)) if found.stamp == seen && found.is_running() => {}
                Ok(found) => return found,
                // Those who wait have time, and asking one by one they would only be told the same.
                Err(error) if may_recover(&error) => {
                    tracing::debug!(target: "semel::store", %error, "a record that is waited for was not shown");
                }
                Err(_) => return None,
            }
        }
    }

    /// Whether nobody waits any more; then nobody finds this poller from now on.
    fn is_left(&self) -> bool {
        let mut watched = self.waiters.0.watched.lock();
        let is_left = self.news.receiver_count() == 0;
        if is_left {
            watched.remove(&self.watched);
        }
        is_left
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let mut watched = self.waiters.0.watched.lock();
        if watched.get(&self.watched).is_some_and(|news| news.same_channel(&self.news)) {
            watched.remove(&self.watched);
        }
    }
}
