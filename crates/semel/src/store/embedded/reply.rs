//! How the writer's answers reach those who wait: one wake-up per runtime and group commit.
//!
//! Waking a task from another thread costs a system call each. All answers of a group commit are there at once, so the
//! tasks of one runtime are woken by one small task on that runtime, from where waking costs next to nothing.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
};

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};

use super::log::Answer;

/// One answer to come, and where it is waited for.
pub(super) fn reply() -> (Reply, Awaited) {
    let slot = Arc::new(Mutex::new(Slot::Empty));
    (Reply(Some(slot.clone())), Awaited(slot))
}

/// The side that answers. Dropping it unanswered tells the other side that no answer comes.
#[derive(Debug)]
pub(super) struct Reply(Option<Arc<Mutex<Slot>>>);

/// The side that waits: the answer, or `None` when none comes.
#[derive(Debug)]
pub(super) struct Awaited(Arc<Mutex<Slot>>);

#[derive(Debug)]
enum Slot {
    Empty,
    Waiting {
        waker: Waker,
        /// The runtime whose task waits; `None`: no task of a runtime, which is woken directly.
        runtime: Option<Handle>,
    },
    Answered(Option<Answer>),
}

/// The wake-ups of one group commit.
#[derive(Default)]
pub(super) struct Wakeups {
    runtimes: Vec<(Id, Handle, Vec<Waker>)>,
}

impl Reply {
    /// Answers and wakes.
    pub(super) fn send(mut self, answer: Answer) {
        if let Some((waker, _)) = self.put(Some(answer)) {
            waker.wake();
        }
    }

    /// Answers, and leaves the waking to [`Wakeups::deliver`].
    pub(super) fn leave(mut self, answer: Answer, wakeups: &mut Wakeups) {
        match self.put(Some(answer)) {
            None => {}
            Some((waker, None)) => waker.wake(),
            Some((waker, Some(runtime))) => wakeups.add(runtime, waker),
        }
    }

    fn put(&mut self, answer: Option<Answer>) -> Option<(Waker, Option<Handle>)> {
        let slot = self.0.take()?;
        let before = std::mem::replace(&mut *slot.lock(), Slot::Answered(answer));
        match before {
            Slot::Waiting { waker, runtime } => Some((waker, runtime)),
            Slot::Empty | Slot::Answered(_) => None,
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some((waker, _)) = self.put(None) {
            waker.wake();
        }
    }
}

impl Wakeups {
    fn add(&mut self, runtime: Handle, waker: Waker) {
        let id = runtime.id();
        match self.runtimes.iter_mut().find(|(known, ..)| *known == id) {
            Some((.., wakers)) => wakers.push(waker),
            None => self.runtimes.push((id, runtime, vec![waker])),
        }
    }

    /// Wakes all.
    pub(super) fn deliver(&mut self) {
        for (_, runtime, mut wakers) in self.runtimes.drain(..) {
            match wakers.len() {
                0 | 1 => wakers.drain(..).for_each(Waker::wake),
                // A runtime that has ended drops this, and its tasks are gone with it.
                _ => drop(runtime.spawn(async move { wakers.drain(..).for_each(Waker::wake) })),
            }
        }
    }
}

impl Awaited {
    /// Waits on this thread.
    pub(super) fn wait(self) -> Option<Answer> {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut awaited = std::pin::pin!(self);
        loop {
            match awaited.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(answer) => return answer,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

impl Future for Awaited {
    type Output = Option<Answer>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        let mut slot = self.0.lock();
        match &mut *slot {
            Slot::Answered(answer) => Poll::Ready(answer.take()),
            Slot::Waiting { waker, .. } if waker.will_wake(cx.waker()) => Poll::Pending,
            Slot::Waiting { .. } | Slot::Empty => {
                // Only a task is sure to be polled by the runtime that it is in; what `block_on` or another executor
                // polls inside one may not be.
                let runtime = tokio::task::try_id().and_then(|_| Handle::try_current().ok());
                *slot = Slot::Waiting { waker: cx.waker().clone(), runtime };
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::log::Verdict, *};

    #[tokio::test]
    async fn answers_left_for_one_runtime_arrive_together() {
        let (replies, awaited): (Vec<_>, Vec<_>) = (0..10).map(|_| reply()).unzip();
        let tasks: Vec<_> = awaited.into_iter().map(tokio::spawn).collect();
        tokio::task::yield_now().await;
        let mut wakeups = Wakeups::default();
        replies.into_iter().for_each(|reply| reply.leave(Ok(Verdict::Done), &mut wakeups));
        assert_eq!(wakeups.runtimes.len(), 1);
        std::thread::spawn(move || wakeups.deliver()).join().unwrap();
        for task in tasks {
            assert_eq!(task.await.unwrap(), Some(Ok(Verdict::Done)));
        }
    }

    #[test]
    fn whoever_waits_outside_a_task_is_woken_directly() {
        let (one, awaited) = reply();
        let waiting = std::thread::spawn(move || awaited.wait());
        let mut wakeups = Wakeups::default();
        one.leave(Ok(Verdict::Absent), &mut wakeups);
        assert!(wakeups.runtimes.is_empty());
        assert_eq!(waiting.join().unwrap(), Some(Ok(Verdict::Absent)));
        let (dropped, awaited) = reply();
        drop(dropped);
        assert_eq!(awaited.wait(), None);
    }
}
