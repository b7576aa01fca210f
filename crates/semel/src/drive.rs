//! The only loop that awaits a store and a handler. It carries out what an [`Exchange`] says, and decides nothing.
//!
//! It runs on a task of its own, so that a client that vanishes changes nothing (I12).

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use http::{Response, StatusCode};
use semel_core::{
    admit::Covered,
    decide::Rules,
    exchange::{Answer, Exchange, Executed, Fresh, Guard, Permit, Probed, Step, Which},
    policy::RoutePolicy,
    record::ExchangeId,
    register::{Found, Swap, Swapped},
    scope::RecordKey,
    wire::KeyStatus,
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, timeout_at},
};

use crate::{
    body::Body,
    event::{Event, Exchanged, Met, Observer},
    layer::State,
    probe::Probing,
    quota::Reserved,
    seal::{self, Seals},
    store::{Store, StoreError},
};

/// How often a claim is asked for again after the store failed, before the caller is told.
const CLAIM_TRIES_MAX: u32 = 3;
/// How long all that comes before an execution may take the store, all tries together, before the caller is told.
pub(crate) const CLAIM_PATIENCE: Duration = Duration::from_secs(10);
/// How many unconfirmed claims are given back at once. More than these are left to their leases, so that a store that
/// comes back is not asked by all who failed while it was away.
pub(crate) const GIVING_BACK_MAX: usize = 1_000;
/// The first pause between two tries; it doubles up to [`STORE_PAUSE_MAX`].
const STORE_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two tries.
const STORE_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long the caller waits for a settle that the store does not confirm, before the true reply is told as unkept.
const SETTLE_PATIENCE: Duration = Duration::from_secs(2);

/// On which terms a key may be claimed.
pub(crate) struct Claiming {
    /// The guard that goes with it.
    pub guard: Guard,
    /// Whether a key without a record may be.
    pub fresh: Fresh,
    /// The place in the caller's quota that it takes, where there is one.
    pub reserved: Option<Reserved>,
}

/// What the driver may do at the origin.
pub(crate) struct Handling<E> {
    /// Executes, at most once.
    pub execute: E,
    /// Asks, at most once, what became of the attempts before, where the route says how.
    pub probe: Option<Probing>,
}

/// What an execution left.
#[derive(Debug)]
pub(crate) struct Execution {
    /// What the exchange is told.
    pub executed: Executed,
    /// The response to tell; `None` where there is none.
    pub response: Option<Response<Body>>,
    /// Why there is no response.
    pub lost: LostCause,
}

/// Why an execution has no response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LostCause {
    /// It took longer than `execution_max`.
    TimedOut,
    /// The connection to the origin, or the handler, failed.
    Failed,
}

impl LostCause {
    /// What the caller is told whose own execution left no response (RFC 9110 sections 15.6.3 and 15.6.5).
    pub(crate) fn status(self) -> StatusCode {
        match self {
            LostCause::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            LostCause::Failed => StatusCode::BAD_GATEWAY,
        }
    }
}

/// What the caller is told, and the response if it is this exchange's own.
#[derive(Debug)]
pub(crate) struct Told {
    pub answer: Answer,
    pub response: Option<Response<Body>>,
    pub lost: LostCause,
}

/// An exchange that has done nothing yet, for what is told of it in the end.
pub(crate) fn exchanged(id: ExchangeId, covered: &Covered) -> Exchanged {
    let none = Duration::ZERO;
    let (record, trace) = (covered.record_key, covered.about.trace);
    Exchanged { id, record, attempt: 0, claim: none, execute: none, settle: none, trace, met: None }
}

/// What an exchange reports to: one line in the log, and whoever else listens.
pub(crate) fn report(observer: Option<&dyn Observer>, event: &Event<'_>) {
    event.log();
    if let Some(observer) = observer {
        observer.answered(event);
    }
}

/// Drives one exchange to its answer, and its settle, or what gives an unconfirmed claim back, to the end even when the
/// answer had to be told before.
pub(crate) async fn drive<F>(
    store: &Arc<dyn Store>,
    state: &State,
    observer: Option<&dyn Observer>,
    covered: &Covered,
    claiming: Claiming,
    mut tell: oneshot::Sender<(Told, Exchanged)>,
    handling: Handling<impl FnOnce(u32, ExchangeId) -> F>,
) where
    F: Future<Output = Execution>,
{
    let Claiming { guard, fresh, mut reserved } = claiming;
    let Handling { execute, mut probe } = handling;
    let State { waiters, giving_back, .. } = state;
    let key = covered.record_key;
    let id = new_exchange_id();
    let guard_key = match &guard {
        Guard::Guarded(guard) => guard.key,
        // No step is about a guard then.
        Guard::Unguarded | Guard::Incomplete(_) => key,
    };
    let seals = Seals::of(covered).holding(&guard);
    let rules = Rules::from(&*covered.route);
    let (mut exchange, mut step) = Exchange::open_as(rules, covered.fingerprint, id, guard, fresh);
    let mut execute = Some(execute);
    let mut executed: Option<Execution> = None;
    // Only where somebody may wait for it.
    let _running = if covered.route.wait_max.is_zero() { None } else { waiters.running(id) };
    let mut summary = exchanged(id, covered);
    let mut claimed_at = Instant::now();
    let mut patient_until = claimed_at + CLAIM_PATIENCE;
    loop {
        step = match step {
            Step::Swap { register, swap } if executed.is_none() => {
                let swap = seals.close(register, swap);
                let asking_at = Instant::now();
                let at = match register {
                    // The lease begins with the claim of the key, however long the guard takes.
                    Which::Record => {
                        claimed_at = asking_at;
                        &key
                    }
                    Which::Guard => &guard_key,
                };
                let swapped = claim(&**store, at, &swap, patient_until).await;
                summary.claim += asking_at.elapsed();
                if let (Ok(Swapped::Found(found)), Which::Record) = (&swapped, register) {
                    summary.met = Some(Met::of(found));
                }
                // What was found, readable or not, was not replaced.
                match swapped.and_then(|swapped| seals.open(register, swapped).map_err(|_| Unanswered::NotApplied)) {
                    Ok(swapped) => exchange.on_swapped(swapped),
                    Err(Unanswered::NotApplied) => exchange.on_store_refused(),
                    Err(Unanswered::PerhapsApplied) => exchange.on_store_failed(),
                }
            }
            Step::Look(owner) => {
                let looking_at = Instant::now();
                let found = look(&**store, &owner, patient_until).await;
                summary.claim += looking_at.elapsed();
                match found {
                    Some(found) => exchange.on_looked(found.as_ref()),
                    None => exchange.on_store_failed(),
                }
            }
            Step::Swap { register, swap } => {
                let swap = seals.close(register, swap);
                let settling_at = Instant::now();
                let settling = settle(&**store, &key, &swap, claimed_at + covered.route.lease());
                tokio::pin!(settling);
                let swapped = tokio::select! {
                    biased;
                    swapped = &mut settling => Some(swapped),
                    () = tokio::time::sleep(SETTLE_PATIENCE) => None,
                };
                summary.settle = settling_at.elapsed();
                let is_free = swap.put.is_none() && matches!(swapped, Some(Some(Swapped::Done | Swapped::Absent)));
                if let Some(reserved) = reserved.take_if(|_| summary.attempt == 1 && !is_free) {
                    reserved.keep();
                }
                let Some(swapped) = swapped else {
                    // The reply is true and the caller need not wait for the store; the settle goes on without them.
                    let Step::Answer(answer) = exchange.on_store_failed() else {
                        unreachable!("a failed settle ends the exchange")
                    };
                    tell_all(tell, observer, &covered.route, answer, executed, &summary);
                    settling.await;
                    return;
                };
                match swapped.and_then(|swapped| seals.open(register, swapped).ok()) {
                    Some(swapped) => exchange.on_swapped(swapped),
                    None => exchange.on_store_failed(),
                }
            }
            Step::Execute(permit) => {
                let (permit, execution) =
                    execute_within(permit, claimed_at + covered.route.execution_max, &mut execute, id).await;
                summary.attempt = permit.attempt();
                summary.execute = claimed_at.elapsed().saturating_sub(summary.claim);
                let outcome = execution.executed.clone();
                executed = Some(execution);
                exchange.on_executed(permit, outcome)
            }
            Step::Probe => {
                let probed = probe_within(&covered.route, probe.take(), id).await;
                // The store has not been waited for meanwhile.
                patient_until = Instant::now() + CLAIM_PATIENCE;
                exchange.on_probed(probed)
            }
            Step::Wait { seen, at_most } => {
                let began = Instant::now();
                let found = tokio::select! {
                    found = tokio::time::timeout(at_most, waiters.changed(store, key, seen)) => found.ok().flatten(),
                    // Nothing is claimed, so a waiter whose client has left has nothing left to do (peers.md #28).
                    () = tell.closed() => return,
                };
                patient_until = Instant::now() + CLAIM_PATIENCE;
                summary.met = found.as_ref().map(Met::of).or(summary.met);
                // What cannot be opened is found again by a claim, and refused there.
                let found = found.and_then(|found| seal::open(&covered.seal, found).ok());
                exchange.on_waited(began.elapsed(), found.as_ref())
            }
            Step::GiveBack { answer, swap } => {
                drop(reserved);
                tell_all(tell, observer, &covered.route, answer, None, &summary);
                // With it goes the request, which nobody needs any more.
                drop(execute);
                let swap = seals.close(Which::Record, swap);
                if !give_back(&**store, &key, &swap, claimed_at + covered.route.lease(), giving_back).await {
                    tracing::warn!(target: "semel::store", exchange = %id, "an unconfirmed claim is left to its lease");
                }
                return;
            }
            Step::Answer(answer) => {
                // Before anybody is told, who may send the next key at once.
                drop(reserved);
                tell_all(tell, observer, &covered.route, answer, executed, &summary);
                return;
            }
        };
    }
}

/// Tells the answer, and logs it whether or not somebody still listens.
fn tell_all(
    tell: oneshot::Sender<(Told, Exchanged)>,
    observer: Option<&dyn Observer>,
    route: &RoutePolicy,
    answer: Answer,
    executed: Option<Execution>,
    summary: &Exchanged,
) {
    let (response, lost) = executed.map_or((None, LostCause::Failed), |execution| (execution.response, execution.lost));
    let told = Told { answer, response, lost };
    report(observer, &told.event(route, *summary));
    // The client may be gone. The record says all there is to say.
    let _ = tell.send((told, *summary));
}

impl Told {
    /// What is reported of it.
    pub(crate) fn event<'a>(&self, route: &'a RoutePolicy, exchanged: Exchanged) -> Event<'a> {
        let Told { answer, response, lost } = self;
        let own_status = response.as_ref().map_or(0, |response| response.status().as_u16());
        let (decision, status) = match answer {
            Answer::Own { status, .. } => (status.map_or("completed", KeyStatus::as_str), own_status),
            Answer::Replay(reply) => ("replay", reply.status),
            Answer::Refuse(problem) => (problem.kind.code(), route.status_of(problem.kind).as_u16()),
            Answer::Lost(_) => ("lost", lost.status().as_u16()),
        };
        Event { route, decision, status, exchange: Some(exchanged) }
    }
}

/// What a store that does not answer may have done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unanswered {
    /// Nothing: it had no room for what it was asked.
    NotApplied,
    PerhapsApplied,
}

/// Asks for a claim, of a key or a guard, or for its undoing.
async fn claim(store: &dyn Store, key: &RecordKey, swap: &Swap, until: Instant) -> Result<Swapped, Unanswered> {
    patiently(until, || store.swap(key, swap)).await
}

/// Loads a record; `None` when the store does not answer.
pub(crate) async fn look(store: &dyn Store, key: &RecordKey, until: Instant) -> Option<Option<Found>> {
    patiently(until, || store.load(key)).await.ok()
}

/// Asks a few times.
async fn patiently<T, F>(until: Instant, ask: impl Fn() -> F) -> Result<T, Unanswered>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pause = STORE_PAUSE;
    let mut left = Unanswered::NotApplied;
    for tries in 1.. {
        match timeout_at(until, ask()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => {
                tracing::warn!(target: "semel::store", %error, tries, "a claim was not confirmed");
                match error {
                    StoreError::Full(_) => {}
                    StoreError::Unavailable(_) | StoreError::TimedOut(_) | StoreError::Corrupt(_) => {
                        left = Unanswered::PerhapsApplied;
                    }
                }
                if tries == CLAIM_TRIES_MAX || !may_recover(&error) || Instant::now() + pause >= until {
                    break;
                }
            }
            Err(_elapsed) => {
                tracing::warn!(target: "semel::store", tries, "a claim was not confirmed in time");
                return Err(Unanswered::PerhapsApplied);
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(STORE_PAUSE_MAX);
    }
    Err(left)
}

/// Asks for a settle until the lease is over: what was done is worth some trouble to remember (conformance K13).
async fn settle(store: &dyn Store, key: &RecordKey, swap: &Swap, until: Instant) -> Option<Swapped> {
    let failed = |error| tracing::warn!(target: "semel::store", %error, "a settle was not confirmed");
    persistently(store, key, swap, until, failed).await
}

/// Gives an unconfirmed claim back until its lease is over, unless too many others are about it; says whether it did.
async fn give_back(store: &dyn Store, key: &RecordKey, swap: &Swap, until: Instant, giving_back: &Semaphore) -> bool {
    let Ok(_permit) = giving_back.try_acquire() else { return false };
    let failed = |error| tracing::debug!(target: "semel::store", %error, "a claim was not given back yet");
    persistently(store, key, swap, until, failed).await.is_some()
}

/// Asks for a swap until it is answered or the time is up.
async fn persistently(
    store: &dyn Store,
    key: &RecordKey,
    swap: &Swap,
    until: Instant,
    failed: impl Fn(StoreError),
) -> Option<Swapped> {
    let mut pause = STORE_PAUSE;
    loop {
        match store.swap(key, swap).await {
            Ok(swapped) => return Some(swapped),
            Err(error) => {
                let may_recover = may_recover(&error);
                failed(error);
                if !may_recover || Instant::now() + pause >= until {
                    return None;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(STORE_PAUSE_MAX);
    }
}

pub(crate) fn may_recover(error: &StoreError) -> bool {
    match error {
        StoreError::Unavailable(_) | StoreError::TimedOut(_) | StoreError::Full(_) => true,
        StoreError::Corrupt(_) => false,
    }
}

/// Asks the origin for at most the route's `probe_max`. Nothing is concluded from whatever goes wrong.
async fn probe_within(route: &RoutePolicy, probe: Option<Probing>, id: ExchangeId) -> Probed {
    let (Some(probe), Some(rule)) = (probe, &route.probe) else { return Probed::Undecided };
    let probed = match tokio::time::timeout(rule.probe_max, AssertUnwindSafe(probe).catch_unwind()).await {
        Ok(Ok(probed)) => probed,
        Ok(Err(_)) | Err(_) => Probed::Undecided,
    };
    let words = match &probed {
        Probed::Found(_) => "found",
        Probed::Absent => "absent",
        Probed::Undecided => "undecided",
    };
    tracing::info!(target: "semel::exchange", exchange = %id, route = route.name(), probed = words, "the origin was asked");
    probed
}

/// Executes until `deadline`. The permit goes in and comes out: one permit, one execution.
async fn execute_within<F>(
    permit: Permit,
    deadline: Instant,
    execute: &mut Option<impl FnOnce(u32, ExchangeId) -> F>,
    id: ExchangeId,
) -> (Permit, Execution)
where
    F: Future<Output = Execution>,
{
    // A process that was stopped between claim and execution has no time left: whoever asks next may already have been
    // told that the outcome is unknown (conformance C7).
    let is_late = Instant::now() >= deadline;
    let execute = execute.take().filter(|_| !is_late);
    let none = |executed, lost| Execution { executed, response: None, lost };
    let Some(execute) = execute else { return (permit, none(Executed::NotSent, LostCause::TimedOut)) };
    // The call itself may panic before its first await.
    let attempt = permit.attempt();
    let execution = AssertUnwindSafe(async move { execute(attempt, id).await }).catch_unwind();
    let execution = match timeout_at(deadline, execution).await {
        Ok(Ok(execution)) => execution,
        Ok(Err(_panic)) => none(Executed::Unknown, LostCause::Failed),
        Err(_elapsed) => none(Executed::Unknown, LostCause::TimedOut),
    };
    (permit, execution)
}

/// Random per process, counted within it: unique without a system call for each.
pub(crate) fn new_exchange_id() -> ExchangeId {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| getrandom::u64().expect("the operating system gives randomness"));
    static COUNT: AtomicU64 = AtomicU64::new(0);
    ExchangeId(u128::from(*PROCESS) << 64 | u128::from(COUNT.fetch_add(1, Ordering::Relaxed)))
}
