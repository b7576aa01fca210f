//! Who waits for a running execution of this process, so that they wake when it settles.
//!
//! Only a hint: a waiter that was not woken asks the store again after a while, and the store decides.

#[cfg(any(feature = "sqlite", feature = "postgres"))]
use std::collections::hash_map::Entry;
use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use semel_core::scope::RecordKey;
use tokio::sync::Notify;

/// The executions that somebody may wait for.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<HashMap<RecordKey, Arc<Notify>>>);

/// Held while an execution runs; dropping it wakes everybody who waits for it.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    waiters: &'a Waiters,
    key: RecordKey,
    notify: Arc<Notify>,
}

impl Waiters {
    /// Says that `key` is executing here from now on.
    pub(crate) fn running(&self, key: RecordKey) -> Running<'_> {
        let notify = Arc::new(Notify::new());
        // A fenced execution of the same key may still be here; its waiters are woken when it ends, and ask the store.
        self.0.lock().insert(key, Arc::clone(&notify));
        Running { waiters: self, key, notify }
    }

    /// Says that `key` is executing here from now on, unless it is already.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn try_running(&self, key: RecordKey) -> Option<Running<'_>> {
        match self.0.lock().entry(key) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                let notify = Arc::clone(vacant.insert(Arc::default()));
                Some(Running { waiters: self, key, notify })
            }
        }
    }

    /// Waits until the execution of `key` in this process is over, or `at_most`. Where it runs in another process, waits
    /// `poll`.
    pub(crate) async fn wait(&self, key: &RecordKey, at_most: Duration, poll: Duration) {
        let notify = self.0.lock().get(key).cloned();
        match notify {
            Some(notify) => {
                let notified = notify.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                // It may have settled before the line above, and then nobody would wake us.
                if self.0.lock().get(key).is_some_and(|running| Arc::ptr_eq(running, &notify)) {
                    let _ = tokio::time::timeout(at_most, notified).await;
                }
            }
            None => tokio::time::sleep(poll.min(at_most)).await,
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut running = self.waiters.0.lock();
        if running.get(&self.key).is_some_and(|notify| Arc::ptr_eq(notify, &self.notify)) {
            running.remove(&self.key);
        }
        drop(running);
        self.notify.notify_waiters();
    }
}
