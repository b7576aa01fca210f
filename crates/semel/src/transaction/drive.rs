//! The loop that carries out what an [`Exchange`] says on a transaction, and decides nothing.
//!
//! A transaction that was not committed did not happen, so whatever goes wrong before COMMIT can be tried again from the
//! start. Only a COMMIT whose confirmation is lost leaves a question, and the next claim of the same key answers it: it
//! waits for the transaction in doubt, and then finds this exchange's own record, or can claim.

use std::{error::Error as StdError, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, StatusCode, header};
use semel_core::{
    admit::Covered,
    decide::Rules,
    exchange::{Answer, Exchange, Executed, Guard, Permit, Step, Which},
    policy::{Effect, ReplyRule, RoutePolicy},
    record::{ExchangeId, Kept, Phase, Record, Stamp},
    register::{Found, Swap, Swapped},
    scope::RecordKey,
    wire::{self, KeyStatus, Problem, ProblemType},
};
use sqlx::Transaction;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Operation, Shared, Work, jittered,
    register::{Failure, Register, SwapError, found, swap},
};
use crate::{
    body::Body,
    drive::{Execution, LostCause, Told, exchanged, new_exchange_id, report},
    effect::{Lost, NotSent},
    event::Exchanged,
    layer::{ExecutionInfo, declared_effect, log_override},
    reply,
    seal::{self, Seals},
    store::StoreError,
};

/// A concurrent request waits at least this long: less than a person notices (conformance C1), and longer than most
/// transactions take.
const PATIENCE_MIN: Duration = Duration::from_millis(50);
/// How often transactions that are in each other's way try again.
const CONFLICTS_MAX: u32 = 20;
/// How often a database that cannot be reached is asked, before the caller is told.
const UNAVAILABLE_MAX: u32 = 3;
/// The first pause between two tries; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long an execution may take where no route says it.
const UNCOVERED_EXECUTION_MAX: Duration = Duration::from_secs(30);
/// How long beyond that the database may take.
const UNCOVERED_GRACE: Duration = Duration::from_secs(5);
/// How long a rollback is waited for. It needs no confirmation: what is not committed is undone.
const ROLLBACK_PATIENCE: Duration = Duration::from_secs(1);

/// Drives one exchange to its answer.
pub(super) async fn covered<DB, W>(
    shared: &Shared<DB>,
    covered: &Covered,
    request: Request<Bytes>,
    work: &W,
    mut tell: oneshot::Sender<Told>,
) where
    DB: Register,
    W: for<'t> Fn(&'t mut Transaction<'static, DB>, &'t Request<Bytes>) -> Work<'t> + Send + Sync,
{
    let id = new_exchange_id();
    let now = Instant::now();
    let mut driver = Driver {
        shared,
        covered,
        // The database does the waiting, so the exchange never does.
        rules: Rules { wait_max: Duration::ZERO, ..Rules::from(&*covered.route) },
        id,
        guard: Guard::Unguarded,
        patience_until: now + covered.route.wait_max.max(PATIENCE_MIN),
        execute_until: now + covered.route.execution_max,
        settle_until: now + covered.route.lease(),
        request,
        work,
        pending: Pending::Nothing,
        undone: 0,
        summary: exchanged(id, covered),
    };
    let Some(told) = driver.drive(&mut tell).await else { return };
    report(None, &told.event(&covered.route, driver.summary));
    // The client may be gone. The record says all there is to say.
    let _ = tell.send(told);
}

/// Runs the work in a transaction that leaves no record, and answers.
pub(super) async fn unprotected<DB, W>(
    shared: &Shared<DB>,
    route: Option<&RoutePolicy>,
    mut request: Request<Bytes>,
    work: &W,
) -> Response<Body>
where
    DB: Register,
    W: for<'t> Fn(&'t mut Transaction<'static, DB>, &'t Request<Bytes>) -> Work<'t> + Send + Sync,
{
    let now = Instant::now();
    let execute_until = now + route.map_or(UNCOVERED_EXECUTION_MAX, |route| route.execution_max);
    let settle_until = now + route.map_or(UNCOVERED_EXECUTION_MAX + UNCOVERED_GRACE, RoutePolicy::lease);
    let mut tries = Tries::default();
    loop {
        let mut bytes = [0; RecordKey::LEN];
        getrandom::fill(&mut bytes).expect("the operating system gives randomness");
        request.extensions_mut().insert(Operation(RecordKey::from_bytes(bytes)));
        request.extensions_mut().insert(ExecutionInfo { exchange: new_exchange_id(), attempt: 1 });
        let once = unprotected_once(shared, route, &request, work, execute_until, settle_until);
        let failed = match once.await {
            Ok(response) => return response,
            Err(failed) => failed,
        };
        let problem = |problem| reply::problem(&shared.policy, route, &problem);
        let failed = match (failed.stage, failed.failure) {
            (Stage::Commit, Failure::Unavailable) => {
                let problem = Problem::new(ProblemType::OutcomeUnknown).detail(UNCONFIRMED);
                return reply::problem_with_status(&shared.policy, LostCause::Failed.status(), &problem);
            }
            _ if tries.may_again(failed.failure) && Instant::now() < execute_until => failed,
            (Stage::Settle | Stage::Commit, Failure::Broken) => return failure(&Broke::Work),
            (Stage::Claim | Stage::Work | Stage::Settle | Stage::Commit, _) => {
                return problem(Problem { retry_after: Some(1), ..Problem::new(ProblemType::StoreUnavailable) });
            }
        };
        tracing::debug!(target: "semel::store", error = failed.error, "a transaction is tried again");
        tries.pause().await;
    }
}

async fn unprotected_once<DB, W>(
    shared: &Shared<DB>,
    route: Option<&RoutePolicy>,
    request: &Request<Bytes>,
    work: &W,
    execute_until: Instant,
    settle_until: Instant,
) -> Result<Response<Body>, Failed>
where
    DB: Register,
    W: for<'t> Fn(&'t mut Transaction<'static, DB>, &'t Request<Bytes>) -> Work<'t> + Send + Sync,
{
    let at = |stage| move |error: sqlx::Error| Failed::of::<DB>(stage, &error);
    let begin = DB::begin(&shared.pool, PATIENCE_MIN, shared.settings);
    let mut tx = within(settle_until, begin).await.map_err(at(Stage::Claim))?;
    let executing = async {
        within(settle_until, DB::claimed(&mut tx)).await.map_err(at(Stage::Claim))?;
        let execution = execute::<DB, W>(&mut tx, request, work, route, execute_until).await?;
        let happened = matches!(execution.executed, Executed::Replied { effect: Effect::Happened, .. });
        if happened {
            within(settle_until, DB::check(&mut tx)).await.map_err(at(Stage::Settle))?;
        }
        Ok((execution, happened))
    };
    let executed = executing.await;
    if let Ok((_, true)) = &executed {
        within(settle_until, tx.commit()).await.map_err(at(Stage::Commit))?;
    } else {
        rollback(tx).await;
    }
    let (execution, _) = executed?;
    Ok(execution.response.unwrap_or_else(|| {
        let (kind, status) = match execution.executed {
            Executed::NotSent => (ProblemType::OriginUnavailable, None),
            Executed::Unknown | Executed::Replied { .. } => {
                (ProblemType::OutcomeUnknown, Some(execution.lost.status()))
            }
        };
        let problem = Problem::new(kind);
        match status {
            Some(status) => reply::problem_with_status(&shared.policy, status, &problem),
            None => reply::problem(&shared.policy, route, &problem),
        }
    }))
}

struct Driver<'a, DB: Register, W> {
    shared: &'a Shared<DB>,
    covered: &'a Covered,
    rules: Rules,
    id: ExchangeId,
    guard: Guard,
    patience_until: Instant,
    execute_until: Instant,
    settle_until: Instant,
    request: Request<Bytes>,
    work: &'a W,
    pending: Pending,
    /// How many transactions were begun before this one: they wrote under the same stamps, and were undone.
    undone: u32,
    summary: Exchanged,
}

/// How a transaction is to end, and what the caller is told once it has.
enum End {
    Commit(Told),
    /// The work is undone, and the record says that an effect elsewhere may have happened.
    CommitElsewhere(Told),
    Rollback(Told),
}

/// What a failed try left to find out.
enum Pending {
    /// Nothing happened.
    Nothing,
    /// COMMIT was sent and not confirmed; this is the answer if it was done.
    Commit(Told),
    /// The work said that an effect elsewhere may have happened, which is to be recorded whatever it takes. It is not
    /// executed again.
    Elsewhere(Told),
}

impl<DB, W> Driver<'_, DB, W>
where
    DB: Register,
    W: for<'t> Fn(&'t mut Transaction<'static, DB>, &'t Request<Bytes>) -> Work<'t> + Send + Sync,
{
    /// `None`: the client left before anything was claimed.
    async fn drive(&mut self, tell: &mut oneshot::Sender<Told>) -> Option<Told> {
        let key = self.covered.record_key;
        if DB::LOOKS_FIRST
            && let Some(told) = self.look().await
        {
            return Some(told);
        }
        // One connection per key and process: those who wait for it hold none (peers.md #4).
        let transactions = &self.shared.transactions;
        let _running = loop {
            if let Some(running) = transactions.running(key) {
                break running;
            }
            let left = self.patience_until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(self.in_flight());
            }
            tokio::select! {
                _ = timeout(left, transactions.over(&key)) => {}
                // Nothing is claimed, so a waiter whose client has left has nothing left to do (peers.md #28).
                () = tell.closed() => return None,
            }
            if let Some(told) = self.look().await {
                return Some(told);
            }
        };
        let mut tries = Tries::default();
        loop {
            let failed = match self.once().await {
                Ok(told) => return Some(told),
                Err(failed) => failed,
            };
            let may_again = match self.pending {
                Pending::Nothing => tries.may_again(failed.failure) && Instant::now() < self.execute_until,
                Pending::Commit(_) | Pending::Elsewhere(_) => Instant::now() < self.settle_until,
            };
            if !may_again {
                return Some(self.give_up(&failed));
            }
            tracing::debug!(target: "semel::store", error = failed.error, "a transaction is tried again");
            self.undone = self.undone.checked_add(1).expect("a lease is far too short for so many transactions");
            tries.pause().await;
        }
    }

    /// What the committed record says, if it decides.
    async fn look(&mut self) -> Option<Told> {
        let mut conn = within(self.settle_until, self.shared.pool.acquire()).await.ok()?;
        self.guard = resolve(self.shared, self.covered, &mut conn, self.settle_until).await.ok()?;
        let (mut exchange, _) = self.open();
        let row = within(self.settle_until, DB::read(&mut conn, &self.covered.record_key, self.shared.now_ms())).await;
        let found = seal::open(&self.covered.seal, found(row.ok()??).ok()??).ok()?;
        match exchange.on_swapped(Swapped::Found(found)) {
            Step::Answer(answer) => Some(told(answer)),
            Step::Swap { .. }
            | Step::Look(_)
            | Step::Execute(_)
            | Step::Probe
            | Step::Wait { .. }
            | Step::GiveBack { .. } => None,
        }
    }

    /// One transaction, from BEGIN to COMMIT or ROLLBACK.
    async fn once(&mut self) -> Result<Told, Failed> {
        let patience = self.patience_until.saturating_duration_since(Instant::now()).max(PATIENCE_MIN);
        let begin = DB::begin(&self.shared.pool, patience, self.shared.settings);
        let mut tx = within(self.settle_until, begin).await.map_err(|error| Failed::of::<DB>(Stage::Claim, &error))?;
        match self.claim_and_execute(&mut tx).await {
            Ok(End::Commit(told)) => self.commit(tx, told, Pending::Commit).await,
            Ok(End::CommitElsewhere(told)) => self.commit(tx, told, Pending::Elsewhere).await,
            Ok(End::Rollback(told)) => {
                rollback(tx).await;
                Ok(told)
            }
            Err(failed) => {
                rollback(tx).await;
                Err(failed)
            }
        }
    }

    async fn claim_and_execute(&mut self, tx: &mut Transaction<'static, DB>) -> Result<End, Failed> {
        let claiming_at = Instant::now();
        self.guard = resolve(self.shared, self.covered, tx, self.settle_until).await?;
        let (mut exchange, mut step) = self.open();
        let permit = loop {
            step = match step {
                Step::Swap { register: Which::Guard, swap } => {
                    exchange.on_swapped(self.swap(tx, Which::Guard, swap, Stage::Claim).await?)
                }
                Step::Look(owner) => {
                    let found = load(self.shared, tx, &owner, self.settle_until).await?;
                    exchange.on_looked(found.as_ref())
                }
                Step::Swap { register: Which::Record, swap } => {
                    let swapped = self.swap(tx, Which::Record, swap, Stage::Claim).await?;
                    if matches!(&swapped, Swapped::Found(found) if found.stamp.exchange == self.id)
                        && let Pending::Commit(told) | Pending::Elsewhere(told) = self.take_pending()
                    {
                        // The transaction in doubt was committed.
                        return Ok(End::Rollback(told));
                    }
                    exchange.on_swapped(swapped)
                }
                Step::Execute(permit) => break permit,
                Step::Wait { .. } => unreachable!("the rules of this mode have no wait_max"),
                Step::Probe => unreachable!("a policy that probes is refused"),
                Step::Answer(answer) => return Ok(End::Rollback(told(answer))),
                Step::GiveBack { .. } => unreachable!("a transaction that fails is rolled back"),
            };
        };
        let claimed = within(self.settle_until, DB::claimed(tx)).await;
        claimed.map_err(|error| Failed::of::<DB>(Stage::Claim, &error))?;
        self.summary.claim += claiming_at.elapsed();
        self.summary.attempt = permit.attempt();
        match self.take_pending() {
            Pending::Elsewhere(told) => self.settle_unknown(tx, exchange, permit, Executed::Unknown, Some(told)).await,
            // That this could be claimed proves that the transaction in doubt was not committed, and never will be.
            Pending::Nothing | Pending::Commit(_) => self.execute_and_settle(tx, exchange, permit).await,
        }
    }

    async fn execute_and_settle(
        &mut self,
        tx: &mut Transaction<'static, DB>,
        mut exchange: Exchange,
        permit: Permit,
    ) -> Result<End, Failed> {
        let info = ExecutionInfo { exchange: self.id, attempt: permit.attempt() };
        self.request.extensions_mut().insert(info);
        self.request.extensions_mut().insert(Operation(self.covered.record_key));
        log_override(&self.covered.route, self.id, self.covered.guard_override.as_deref());
        let executing_at = Instant::now();
        let executing =
            execute::<DB, W>(tx, &self.request, self.work, Some(&self.covered.route), self.execute_until).await;
        self.summary.execute += executing_at.elapsed();
        let Execution { executed, response, lost } = executing?;
        match &executed {
            Executed::Replied { effect: Effect::Happened, .. } => {
                let settle = settle_of(exchange.on_executed(permit, executed));
                let swapped = self.swap(tx, Which::Record, settle, Stage::Settle).await?;
                if swapped != Swapped::Done {
                    let error = "the work ended the transaction that it was given".to_owned();
                    return Err(Failed { stage: Stage::Settle, failure: Failure::Broken, error });
                }
                let answer = answer_of(exchange.on_swapped(swapped));
                Ok(End::Commit(Told { answer, response, lost }))
            }
            Executed::Replied { effect: Effect::Unknown, .. } | Executed::Unknown => {
                tracing::error!(
                    target: "semel::exchange",
                    exchange = %self.id,
                    "a transaction's work says that an effect elsewhere may have happened: such work belongs behind the layer"
                );
                let told = response.map(|response| {
                    let answer = Answer::Own { status: Some(KeyStatus::Unknown), warning: None };
                    Told { answer, response: Some(response), lost }
                });
                self.settle_unknown(tx, exchange, permit, executed, told).await
            }
            Executed::Replied { effect: Effect::None, .. } | Executed::NotSent => {
                // What this settle would leave is what is there when the claim is undone.
                settle_of(exchange.on_executed(permit, executed));
                let answer = answer_of(exchange.on_swapped(Swapped::Done));
                Ok(End::Rollback(Told { answer, response, lost }))
            }
        }
    }

    /// Undoes the work, and keeps that the outcome is unknown.
    async fn settle_unknown(
        &mut self,
        tx: &mut Transaction<'static, DB>,
        mut exchange: Exchange,
        permit: Permit,
        executed: Executed,
        told: Option<Told>,
    ) -> Result<End, Failed> {
        let settle = settle_of(exchange.on_executed(permit, executed));
        let answer = answer_of(exchange.on_swapped(Swapped::Done));
        let told = told.unwrap_or(Told { answer, response: None, lost: LostCause::Failed });
        let undone = within(self.settle_until, DB::undo_work(tx)).await;
        let settled = match undone.map_err(|error| Failed::of::<DB>(Stage::Settle, &error)) {
            Ok(()) => self.swap(tx, Which::Record, settle, Stage::Settle).await.map(drop),
            Err(failed) => Err(failed),
        };
        match settled {
            Ok(()) => Ok(End::CommitElsewhere(told)),
            Err(failed) => {
                self.pending = Pending::Elsewhere(told);
                Err(failed)
            }
        }
    }

    async fn commit(
        &mut self,
        tx: Transaction<'static, DB>,
        told: Told,
        in_doubt: fn(Told) -> Pending,
    ) -> Result<Told, Failed> {
        let settling_at = Instant::now();
        let committed = within(self.settle_until, tx.commit()).await;
        self.summary.settle += settling_at.elapsed();
        let Err(error) = committed else { return Ok(told) };
        let failed = Failed::of::<DB>(Stage::Commit, &error);
        self.pending = match (failed.failure, in_doubt(told)) {
            (_, pending @ Pending::Elsewhere(_)) | (Failure::Unavailable, pending) => pending,
            // In these words the database says that it has rolled back.
            (Failure::Conflict | Failure::Busy | Failure::Waited | Failure::Broken, _) => Pending::Nothing,
        };
        Err(failed)
    }

    /// What the caller is told when trying again is no use.
    fn give_up(&mut self, failed: &Failed) -> Told {
        tracing::warn!(
            target: "semel::store", exchange = %self.id, error = failed.error, stage = ?failed.stage, "a transaction failed"
        );
        match self.take_pending() {
            Pending::Nothing => {}
            Pending::Commit(_) => {
                return told(Answer::Lost(Problem::new(ProblemType::OutcomeUnknown).detail(UNCONFIRMED)));
            }
            Pending::Elsewhere(_) => return told(Answer::Lost(Problem::new(ProblemType::OutcomeUnknown))),
        }
        match (failed.stage, failed.failure) {
            (Stage::Claim, Failure::Waited) => self.in_flight(),
            (Stage::Settle | Stage::Commit, Failure::Broken) => Told {
                answer: Answer::Own { status: Some(KeyStatus::Released), warning: None },
                response: Some(failure(&Broke::Work)),
                lost: LostCause::Failed,
            },
            // Nothing was committed, so nothing was claimed.
            (Stage::Claim | Stage::Work | Stage::Settle | Stage::Commit, _) => {
                told(answer_of(self.open().0.on_store_refused()))
            }
        }
    }

    /// What a claim means that cannot be seen, because it is not committed.
    fn in_flight(&self) -> Told {
        let (mut exchange, _) = self.open();
        let fingerprint = self.covered.fingerprint;
        let phase = Phase::InFlight { lease: self.rules.lease };
        let record =
            Record { fingerprint, attempt: 1, phase, retention: self.rules.unknown_for, guard: None, about: None };
        let stamp = Stamp { exchange: ExchangeId(0), write: 1 };
        let found = Found { stamp, age: Duration::ZERO, abandoned: false, record };
        told(answer_of(exchange.on_swapped(Swapped::Found(found))))
    }

    fn open(&self) -> (Exchange, Step) {
        Exchange::open(self.rules, self.covered.fingerprint, self.id, self.guard.clone())
    }

    fn guard_key(&self) -> RecordKey {
        match &self.guard {
            Guard::Guarded(guard) => guard.key,
            Guard::Unguarded | Guard::Incomplete(_) => unreachable!("no step is about a guard"),
        }
    }

    fn take_pending(&mut self) -> Pending {
        std::mem::replace(&mut self.pending, Pending::Nothing)
    }

    async fn swap(
        &mut self,
        tx: &mut Transaction<'static, DB>,
        register: Which,
        wanted: Swap,
        stage: Stage,
    ) -> Result<Swapped, Failed> {
        let key = match register {
            Which::Record => self.covered.record_key,
            Which::Guard => self.guard_key(),
        };
        let seals = Seals::of(self.covered).holding(&self.guard).again(self.undone);
        let wanted = seals.close(register, wanted);
        let swapping = swap::<DB>(tx, &key, &wanted, self.shared.now_ms());
        let swapped = in_time::<DB, _>(self.settle_until, stage, swapping).await?;
        seals.open(register, swapped).map_err(|error| unopened(stage, &error))
    }
}

/// Why a transaction was not committed, or is not known to be.
struct Failed {
    stage: Stage,
    failure: Failure,
    error: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Claim,
    Work,
    Settle,
    Commit,
}

impl Failed {
    fn of<DB: Register>(stage: Stage, error: &sqlx::Error) -> Failed {
        Failed { stage, failure: DB::failure(error), error: error.to_string() }
    }
}

/// Bytes that cannot be opened are never "absent" (I11), and asking again would find the same.
fn unopened(stage: Stage, error: &StoreError) -> Failed {
    Failed { stage, failure: Failure::Broken, error: error.to_string() }
}

/// What became of the tries so far.
struct Tries {
    conflicts: u32,
    unavailable: u32,
    pause: Duration,
}

impl Default for Tries {
    fn default() -> Tries {
        Tries { conflicts: 0, unavailable: 0, pause: PAUSE }
    }
}

impl Tries {
    fn may_again(&mut self, failure: Failure) -> bool {
        match failure {
            Failure::Conflict => {
                self.conflicts += 1;
                self.conflicts < CONFLICTS_MAX
            }
            Failure::Unavailable => {
                self.unavailable += 1;
                self.unavailable < UNAVAILABLE_MAX
            }
            Failure::Waited | Failure::Busy | Failure::Broken => false,
        }
    }

    async fn pause(&mut self) {
        tokio::time::sleep(jittered(self.pause)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

/// Calls the work, and sorts what it answers.
async fn execute<DB, W>(
    tx: &mut Transaction<'static, DB>,
    request: &Request<Bytes>,
    work: &W,
    route: Option<&RoutePolicy>,
    until: Instant,
) -> Result<Execution, Failed>
where
    DB: Register,
    W: for<'t> Fn(&'t mut Transaction<'static, DB>, &'t Request<Bytes>) -> Work<'t> + Send + Sync,
{
    // The call itself may panic before its first await.
    let working = AssertUnwindSafe(async { work(tx, request).await }).catch_unwind();
    let broke = match timeout_at(until, working).await {
        Ok(Ok(Ok(response))) => return Ok(sort(route, response)),
        Ok(Ok(Err(error))) => {
            let failed = database_error(&*error).map(|error| Failed::of::<DB>(Stage::Work, error));
            match failed {
                Some(failed) if matches!(failed.failure, Failure::Conflict | Failure::Unavailable) => {
                    return Err(failed);
                }
                Some(_) | None => {}
            }
            tracing::warn!(target: "semel::exchange", error = %error, "the work failed");
            Broke::Work
        }
        Ok(Err(_panic)) => Broke::Work,
        Err(_elapsed) => Broke::Time,
    };
    let response = failure(&broke);
    let kept = Kept::Omitted { status: response.status().as_u16() };
    let executed = Executed::Replied { kept, effect: Effect::None };
    Ok(Execution { executed, response: Some(response), lost: LostCause::Failed })
}

/// What a response of the work says of the effect. Nothing that a status says is unknown here: it is rolled back.
fn sort(route: Option<&RoutePolicy>, response: Response<Bytes>) -> Execution {
    let without = |executed| Execution { executed, response: None, lost: LostCause::Failed };
    let (mut parts, content) = response.into_parts();
    if parts.extensions.get::<NotSent>().is_some() {
        return without(Executed::NotSent);
    }
    if parts.extensions.get::<Lost>().is_some() {
        return without(Executed::Unknown);
    }
    let declared = declared_effect(&mut parts, route.map_or(&wire::IDEMPOTENT_REPLAYED, |route| &route.marker));
    let status = parts.status.as_u16();
    let says = match route {
        Some(route) => route.effect_of(status),
        None if status < 400 => Effect::Happened,
        None => Effect::None,
    };
    let effect = declared.unwrap_or(match says {
        Effect::Happened => Effect::Happened,
        Effect::None | Effect::Unknown => Effect::None,
    });
    let kept = match route {
        Some(route)
            if effect == Effect::Happened
                && route.reply == ReplyRule::Kept
                && content.len() <= route.reply_body_bytes_max =>
        {
            Kept::Reply(Arc::new(reply::keep(route, parts.status, &parts.headers, content.clone())))
        }
        Some(_) | None => Kept::Omitted { status },
    };
    let response = Some(Response::from_parts(parts, Body::full(content)));
    Execution { executed: Executed::Replied { kept, effect }, response, lost: LostCause::Failed }
}

/// How a work ended without a response.
enum Broke {
    /// An error or a panic.
    Work,
    /// It took longer than `execution_max`.
    Time,
}

/// The response of a work that has none. Its cause is for the log and not for the caller (house rule 15).
fn failure(broke: &Broke) -> Response<Body> {
    let (status, content) = match broke {
        Broke::Work => (
            StatusCode::INTERNAL_SERVER_ERROR,
            r#"{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"The request failed, and all that it had done was rolled back: nothing happened."}"#,
        ),
        Broke::Time => (
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The request took too long, and all that it had done was rolled back: nothing happened."}"#,
        ),
    };
    let mut response = Response::new(Body::full(content));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static("en"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if matches!(broke, Broke::Time) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The detail of an outcome that this mode will know as soon as the database can be asked.
const UNCONFIRMED: &str = "The database did not confirm the commit, and cannot be asked now. Repeat this request with the same key: if it was committed you will get its reply, and otherwise it did not happen and is executed.";

/// The database's error among the causes of an error.
fn database_error<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e sqlx::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<sqlx::Error>() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

/// Finds out which guard the request is to hold, by what this transaction sees.
async fn resolve<DB: Register>(
    shared: &Shared<DB>,
    covered: &Covered,
    conn: &mut DB::Connection,
    until: Instant,
) -> Result<Guard, Failed> {
    let Some(question) = covered.guard.clone() else { return Ok(Guard::Unguarded) };
    let mut replies = Vec::new();
    for (record, seal) in question.references() {
        let reply = load(shared, conn, &record, until).await?;
        let reply = reply.map(|reply| seal::open(&seal, reply)).transpose();
        replies.push((record, reply.map_err(|error| unopened(Stage::Claim, &error))?));
    }
    Ok(question.answer(&shared.secret, &replies))
}

async fn load<DB: Register>(
    shared: &Shared<DB>,
    conn: &mut DB::Connection,
    key: &RecordKey,
    until: Instant,
) -> Result<Option<Found>, Failed> {
    let now_ms = shared.now_ms();
    let loading = async {
        let row = DB::read(conn, key, now_ms).await?;
        Ok(row.map(found).transpose()?.flatten())
    };
    in_time::<DB, _>(until, Stage::Claim, loading).await
}

/// Asks the register until `until`.
async fn in_time<DB: Register, T>(
    until: Instant,
    stage: Stage,
    asking: impl Future<Output = Result<T, SwapError>>,
) -> Result<T, Failed> {
    match timeout_at(until, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(SwapError::Database(error))) => Err(Failed::of::<DB>(stage, &error)),
        Ok(Err(SwapError::Corrupt(error))) => Err(Failed { stage, failure: Failure::Broken, error }),
        Err(_elapsed) => Err(Failed::of::<DB>(stage, &timed_out())),
    }
}

async fn within<T>(until: Instant, doing: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    timeout_at(until, doing).await.unwrap_or_else(|_elapsed| Err(timed_out()))
}

fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

async fn rollback<DB: Register>(mut tx: Transaction<'static, DB>) {
    let rolling_back = async {
        DB::mend(&mut tx).await;
        tx.rollback().await
    };
    // Dropping it rolls back as well, only later.
    let _ = timeout(ROLLBACK_PATIENCE, rolling_back).await;
}

fn told(answer: Answer) -> Told {
    Told { answer, response: None, lost: LostCause::Failed }
}

fn settle_of(step: Step) -> Swap {
    match step {
        Step::Swap { swap, .. } => swap,
        Step::Look(_)
        | Step::Execute(_)
        | Step::Probe
        | Step::Wait { .. }
        | Step::Answer(_)
        | Step::GiveBack { .. } => {
            unreachable!("an execution is followed by its settle")
        }
    }
}

fn answer_of(step: Step) -> Answer {
    match step {
        Step::Answer(answer) => answer,
        Step::Swap { .. }
        | Step::Look(_)
        | Step::Execute(_)
        | Step::Probe
        | Step::Wait { .. }
        | Step::GiveBack { .. } => {
            unreachable!("the exchange is over")
        }
    }
}
