//! What operators may see and do: list and show records, settle what nobody knows, release guards.
//!
//! [`Operators`] is the whole of it, for the API under `/v1`, for the console and for tests; who may ask is decided before.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
pub(crate) use semel::Settlement;
use semel::{
    Owner, Released, Semel, Unfound, Unreleased,
    store::{Found, RecordKey, StoreError, Swapped},
};
use semel_core::{
    admit::{Covered, Head},
    record::{ExchangeId, Phase, PhaseKind},
    scope::Caller,
    settle::Unsettled,
};
use serde::Serialize;
use tokio::time::{Instant, timeout};

pub(crate) mod api;
pub(crate) mod audit;
pub(crate) mod recent;
pub(crate) mod release;
pub(crate) mod row;
pub(crate) mod token;

use super::{identity::Identity, reload::CurrentTerms};

use self::{
    audit::{Act, Audit, Stage, What},
    recent::{Recent, Seen},
    row::{Cursor, Filter, Page, RecordName, Row, Seconds, StampText, Standing},
};

/// How many records are looked at for one page at most; a page that looked at so many says where to go on.
pub(crate) const RECORDS_LOOKED_AT_MAX: u32 = 10_000;
/// Records that are asked of the store at once.
const CHUNK_RECORDS: u32 = 100;
/// The largest page, in records.
pub(crate) const PAGE_RECORDS_MAX: u32 = 1_000;
/// How long looking for one page goes on; past it a page says where to go on.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// How long the store may take for one answer to an operator.
const STORE_MAX: Duration = Duration::from_secs(5);
/// How long the store may take for a part of a list: some stores read everything that is before it.
const SCAN_MAX: Duration = Duration::from_secs(20);
/// The longest `who` and `why`, in characters.
pub(crate) const WORDS_CHARS_MAX: usize = 200;
/// How many events a timeline shows.
const TIMELINE_EVENTS_MAX: usize = 100;

/// What operators may see and do. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Operators {
    terms: CurrentTerms,
    identity: Option<Arc<Identity>>,
    recent: Arc<Recent>,
    audit: Option<Audit>,
}

/// Which record an operator means.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    /// The one that this exchange was about.
    Exchange(ExchangeId),
    /// The one of this name.
    Record(RecordKey),
    /// The one of this request, as its caller would send it.
    Request {
        /// The method.
        method: Method,
        /// The path, with its query if any.
        path: String,
        /// The headers that make key and principal.
        headers: HeaderMap,
        /// The content.
        content: Bytes,
    },
}

/// Who acts, and why: what the audit log says of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct By {
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
    /// The address that they asked from.
    pub from: SocketAddr,
}

impl By {
    /// Whether both say something, in words that fit a line.
    fn check(&self) -> Result<(), Refusal> {
        for (name, words) in [("who", &self.who), ("why", &self.why)] {
            let is_said = !words.trim().is_empty() && words.chars().count() <= WORDS_CHARS_MAX;
            if !is_said || words.chars().any(char::is_control) {
                return Err(Refusal::wrong(format!(
                    "{name} must have 1 to {WORDS_CHARS_MAX} characters, and no control characters"
                )));
            }
        }
        Ok(())
    }
}

/// A record that was found, and the request that it was found by.
#[derive(Debug)]
struct Sought {
    record: RecordKey,
    found: Found,
    request: Option<Covered>,
}

/// What is told of an act that was done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Settled {
    /// The record.
    pub record: RecordName,
    /// What it is now: `completed`, or `gone`.
    pub now: &'static str,
    /// What a retry is told from now on, in words.
    pub retries: String,
}

/// One record, and all that may be seen of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Shown {
    /// As in a list.
    #[serde(flatten)]
    pub row: Row,
    /// What that means, and what can be done, in words.
    pub meaning: String,
    /// Until its execution has certainly ended, while it is in flight.
    #[serde(rename = "lease_left_seconds")]
    pub lease_left: Option<Seconds>,
    /// What this gateway has seen of it since it started, the newest last.
    pub seen: Vec<Seen>,
}

/// Why an operator is not told, or something not done; as an HTTP problem (RFC 9457).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// The stable code.
    pub code: &'static str,
    /// What is wrong, and what to do.
    pub detail: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Refusal {
        Refusal { status, code, detail: detail.into() }
    }

    pub(crate) fn wrong(detail: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    fn conflict(code: &'static str, detail: &str) -> Refusal {
        Refusal::new(StatusCode::CONFLICT, code, detail)
    }

    fn no_record(detail: &str) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "no-such-record", detail)
    }

    fn store(error: &StoreError) -> Refusal {
        tracing::warn!(target: "semel::store", %error, "an operator was not answered");
        let detail = "the store failed; see the log of the gateway, and ask again";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", detail)
    }

    /// What is told where the process cannot say what became of an act.
    fn lost() -> Refusal {
        let detail = "it failed midway, and may have been done; look at the record again";
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "lost", detail)
    }
}

impl Operators {
    /// Of the records that are served on these terms, and of what `recent` has seen. Without an audit log they only look.
    pub(crate) fn new(terms: CurrentTerms, recent: Arc<Recent>, audit: Option<Audit>) -> Operators {
        Operators { terms, identity: None, recent, audit }
    }

    /// The same, where `identity` tells whose a request is.
    pub(crate) fn knowing(self, identity: Arc<Identity>) -> Operators {
        Operators { identity: Some(identity), ..self }
    }

    /// Whose request it would be with these headers; `None`: whom the policy's headers name.
    fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        self.identity.as_ref().and_then(|identity| identity.told_by_operator(headers))
    }

    /// Whose records they are.
    pub(crate) fn semel(&self) -> Semel {
        self.terms.load().semel.clone()
    }

    /// What this gateway has seen lately.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// A page of at most `limit` records, going on after an earlier one.
    pub(crate) async fn list(&self, filter: &Filter, after: Option<Cursor>, limit: u32) -> Result<Page, Refusal> {
        let limit = limit.clamp(1, PAGE_RECORDS_MAX) as usize;
        let kinds = filter.kinds();
        let start = after.map_or(Some(0), |cursor| kinds.iter().position(|kind| *kind == cursor.kind));
        let start = start.ok_or_else(|| Refusal::wrong("after: it is of another list; give the same phase"))?;
        let mut after = after.and_then(|cursor| cursor.after);
        let mut records = Vec::new();
        let mut left = RECORDS_LOOKED_AT_MAX;
        let began = Instant::now();
        for kind in &kinds[start..] {
            loop {
                let more = |after| Some(Cursor { kind: *kind, after });
                if left == 0 || began.elapsed() > LOOK_MAX {
                    return Ok(Page { records, next: more(after) });
                }
                let page = self.scan(*kind, after, CHUNK_RECORDS.min(left)).await?;
                if page.is_empty() {
                    break;
                }
                for (key, found) in &page {
                    after = Some(*key);
                    left -= 1;
                    let row = Row::of(*key, found);
                    if filter.takes(&row) {
                        records.push(row);
                    }
                    if records.len() == limit {
                        return Ok(Page { records, next: more(after) });
                    }
                }
            }
            after = None;
        }
        Ok(Page { records, next: None })
    }

    /// All that may be seen of one record.
    pub(crate) async fn show(&self, which: &Which) -> Result<Shown, Refusal> {
        let Sought { record, found, request } = self.find(which).await?;
        let row = Row::of(record, &found);
        let lease_left = match found.record.phase {
            Phase::InFlight { lease } if found.is_running() => Some(Seconds(lease.saturating_sub(found.age))),
            Phase::InFlight { .. } | Phase::Unknown | Phase::Completed { .. } | Phase::Held { .. } => None,
        };
        let mut meaning = meaning(&row);
        if request.is_some_and(|request| request.fingerprint != found.record.fingerprint) {
            meaning.push_str(" The request that was given is another one under the same key.");
        }
        Ok(Shown { row, meaning, lease_left, seen: self.recent.of_record(record, TIMELINE_EVENTS_MAX) })
    }

    /// Settles what nobody knows, on the word of an operator. With `stamp` only while the record is as it was shown.
    ///
    /// Goes on to its end even if nobody waits for it any more.
    pub(crate) async fn settle(
        &self,
        which: &Which,
        settlement: Settlement,
        stamp: Option<StampText>,
        by: &By,
    ) -> Result<Settled, Refusal> {
        by.check()?;
        let (me, which, by) = (self.clone(), which.clone(), by.clone());
        let settling = tokio::spawn(async move { me.settle_to_the_end(&which, settlement, stamp, by).await });
        settling.await.unwrap_or_else(|_panic| Err(Refusal::lost()))
    }

    async fn settle_to_the_end(
        &self,
        which: &Which,
        settlement: Settlement,
        stamp: Option<StampText>,
        by: By,
    ) -> Result<Settled, Refusal> {
        let audit = self.audit()?;
        let Sought { record, found, request } = self.find(which).await?;
        let row = Row::of(record, &found);
        let (after, status) = match &settlement {
            Settlement::Happened(reply) => ("completed", Some(reply.status)),
            Settlement::DidNotHappen => ("gone", None),
        };
        let act = Act {
            id: act_id(),
            what: What::Settle,
            record: Some(row.record),
            stamp: Some(row.stamp),
            route: row.route,
            before: Some(row.phase),
            after: Some(after),
            status,
            by,
        };
        let refuse = async |refusal: Refusal| {
            audit.conclude(Stage::Refused, &act, Some(refusal.code)).await;
            Err(refusal)
        };
        if request.as_ref().is_some_and(|request| request.fingerprint != found.record.fingerprint) {
            let detail = "the record under that key is of another request: the content given, or its Content-Type, is not the first one's";
            return refuse(Refusal::conflict("another-request", detail)).await;
        }
        let seen = stamp.map(|StampText(stamp)| stamp);
        let swap = match self.semel().settling(&found, request.as_ref(), seen, settlement) {
            Ok(swap) => swap,
            Err(why) => return refuse(unsettled(why)).await,
        };
        audit.intend(&act).await?;
        let swapped = timeout(STORE_MAX, self.semel().store().swap(&record, &swap)).await;
        match swapped.unwrap_or(Err(StoreError::TimedOut(STORE_MAX))) {
            Ok(Swapped::Done) => {}
            // Whoever was faster is right.
            Ok(Swapped::Found(_) | Swapped::Absent) => return refuse(unsettled(Unsettled::Changed)).await,
            Err(error) => {
                let refusal = Refusal::store(&error);
                audit.conclude(Stage::Unknown, &act, Some(refusal.code)).await;
                let detail = "the store failed, and it may have been settled: look at the record again";
                return Err(Refusal { detail: detail.to_owned(), ..refusal });
            }
        }
        self.recent.acted(row.record, after, &act.by.who);
        audit.conclude(Stage::Done, &act, None).await;
        let is_kept = swap.put.as_ref().is_some_and(|put| Row::is_kept(&put.record));
        let retries = match status {
            None => "a retry executes, as a first time".to_owned(),
            Some(status) if is_kept => format!("a retry is told the reply that was given, with status {status}"),
            Some(status) => format!(
                "a retry is told that it happened, with status {status}, and that the reply is not kept; to have a reply \
                 told, give the request with its key"
            ),
        };
        Ok(Settled { record: row.record, now: after, retries })
    }

    /// Releases what a request of this kind would release if its response showed that its owner is over (E11).
    ///
    /// Goes on to its end even if nobody waits for it any more.
    pub(crate) async fn release(
        &self,
        method: Method,
        path: String,
        headers: HeaderMap,
        by: By,
    ) -> Result<&'static str, Refusal> {
        by.check()?;
        let me = self.clone();
        let releasing = tokio::spawn(async move { me.release_to_the_end(&method, &path, &headers, by).await });
        releasing.await.unwrap_or_else(|_panic| Err(Refusal::lost()))
    }

    async fn release_to_the_end(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        by: By,
    ) -> Result<&'static str, Refusal> {
        let audit = self.audit()?;
        // Neither the path, which may have the key in it, nor the headers, which have credentials, are written down.
        let (before, after, record, stamp, route, status) = (None, None, None, None, None, None);
        let mut act = Act { id: act_id(), what: What::Release, record, stamp, route, before, after, status, by };
        audit.intend(&act).await?;
        let caller = self.caller(headers);
        let head = Head { method, path, query: None, headers, caller: caller.as_ref() };
        let (what, owner) = match timeout(STORE_MAX, self.semel().release(&head)).await {
            Ok(Ok(Released::Guard(owner))) => ("guard", owner),
            Ok(Ok(Released::Slot(owner))) => ("slot", owner),
            Ok(Ok(Released::Nothing(why))) => {
                let refusal = unreleased(why);
                audit.conclude(Stage::Refused, &act, Some(refusal.code)).await;
                return Err(refusal);
            }
            failed @ (Ok(Err(_)) | Err(_)) => {
                let error = failed.map_or(StoreError::TimedOut(STORE_MAX), |failed| failed.expect_err("it failed"));
                let refusal = Refusal::store(&error);
                audit.conclude(Stage::Unknown, &act, Some(refusal.code)).await;
                let detail = "the store failed, and it may have been released: ask again";
                return Err(Refusal { detail: detail.to_owned(), ..refusal });
            }
        };
        let Owner { route, exchange: _, record } = owner;
        (act.route, act.after, act.record) = (Some(route), Some(what), Some(RecordName(record)));
        audit.conclude(Stage::Done, &act, None).await;
        Ok(what)
    }

    fn audit(&self) -> Result<&Audit, Refusal> {
        let detail = "there is no audit log, so nothing is changed: set gateway.admin_token_file";
        self.audit.as_ref().ok_or_else(|| Refusal::new(StatusCode::FORBIDDEN, "no-operators", detail))
    }

    async fn find(&self, which: &Which) -> Result<Sought, Refusal> {
        match which {
            Which::Record(record) => {
                let found = self.load(*record).await?;
                let none = "no such record: it was released, or is forgotten, or never was";
                let found = found.ok_or_else(|| Refusal::no_record(none))?;
                Ok(Sought { record: *record, found, request: None })
            }
            Which::Exchange(exchange) => {
                let (record, found) = self.find_exchange(*exchange).await?;
                Ok(Sought { record, found, request: None })
            }
            Which::Request { method, path, headers, content } => {
                let (path, query) =
                    path.split_once('?').map_or((path.as_str(), None), |(path, query)| (path, Some(query)));
                let caller = self.caller(headers);
                let head = Head { method, path, query, headers, caller: caller.as_ref() };
                let covered = self.semel().find(&head, content).map_err(|why| match why {
                    Unfound::NotCovered => Refusal::no_record("no route covers that request, or it has no key"),
                    Unfound::Refused(problem) => Refusal::wrong(format!(
                        "the gateway would refuse that request: {}",
                        problem.detail.as_deref().unwrap_or(problem.kind.code())
                    )),
                })?;
                let none = "no such record: that caller sent none here, or it is forgotten, or the headers are not that caller's";
                let found = self.load(covered.record_key).await?.ok_or_else(|| Refusal::no_record(none))?;
                Ok(Sought { record: covered.record_key, found, request: Some(covered) })
            }
        }
    }

    /// By what this gateway remembers, or else by looking through what is not completed and a part of what is.
    async fn find_exchange(&self, exchange: ExchangeId) -> Result<(RecordKey, Found), Refusal> {
        if let Some(record) = self.recent.record_of(exchange)
            && let Some(found) = self.load(record).await?
        {
            return Ok((record, found));
        }
        let mut left = RECORDS_LOOKED_AT_MAX;
        for kind in Filter::default().kinds() {
            let mut after = None;
            while left > 0 {
                let page = self.scan(*kind, after, CHUNK_RECORDS.min(left)).await?;
                let Some((last, _)) = page.last() else { break };
                after = Some(*last);
                left = left.saturating_sub(CHUNK_RECORDS);
                if let Some(found) = page.into_iter().find(|(_, found)| found.stamp.exchange == exchange) {
                    return Ok(found);
                }
            }
        }
        Err(Refusal::no_record(if left > 0 {
            "no record was last written by that exchange"
        } else {
            "no record that was looked at was last written by that exchange, and there are more than are looked at; \
             give the request instead, as its caller would send it"
        }))
    }

    async fn load(&self, record: RecordKey) -> Result<Option<Found>, Refusal> {
        let loaded = timeout(STORE_MAX, self.semel().store().load(&record)).await;
        loaded.unwrap_or(Err(StoreError::TimedOut(STORE_MAX))).map_err(|error| Refusal::store(&error))
    }

    async fn scan(
        &self,
        kind: PhaseKind,
        after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, Refusal> {
        let page = timeout(SCAN_MAX, self.semel().store().scan(kind, after, limit)).await;
        page.unwrap_or(Err(StoreError::TimedOut(SCAN_MAX))).map_err(|error| Refusal::store(&error))
    }
}

/// What a record means to whoever has to do something about it.
fn meaning(row: &Row) -> String {
    match (row.phase, row.status) {
        (Standing::InFlight, _) => "It may be executing now. Nothing can be settled before its lease ends.".to_owned(),
        (Standing::Unknown, _) => format!(
            "It was sent {}, and nobody knows whether its effect happened. Look at the origin, then settle it: as \
             happened, with the reply that retries are to be told; or as did-not-happen, and a retry executes.",
            if row.attempt > 1 { format!("{} times", row.attempt) } else { "once".to_owned() }
        ),
        (Standing::Completed, Some(status)) if row.reply_kept => {
            format!("It happened, with status {status}; a retry is told the kept reply.")
        }
        (Standing::Completed, _) => "It happened; its reply is not kept any more, and a retry is told so.".to_owned(),
        (Standing::Guard, _) => "It is a guard, held by a record.".to_owned(),
    }
}

/// A new identity for the lines of one act.
fn act_id() -> ExchangeId {
    let half = || u128::from(getrandom::u64().expect("the operating system gives randomness"));
    ExchangeId(half() << 64 | half())
}

fn unsettled(why: Unsettled) -> Refusal {
    match why {
        Unsettled::StillRunning => Refusal::conflict(
            "still-running",
            "the request may still be executing: nothing is settled before its lease ends",
        ),
        Unsettled::NotUnknown(PhaseKind::Completed) => {
            Refusal::conflict("not-unknown", "its outcome is known: it happened, and that is not taken back")
        }
        Unsettled::NotUnknown(PhaseKind::InFlight | PhaseKind::Unknown | PhaseKind::Held) => {
            Refusal::conflict("not-unknown", "it is a guard: guards are released, not settled")
        }
        Unsettled::Changed => Refusal::conflict("changed", "it is not what was shown any more: look at it again"),
    }
}

fn unreleased(why: Unreleased) -> Refusal {
    match why {
        Unreleased::NotWatched => Refusal::no_record("no route has a release for that method and path"),
        Unreleased::NoRecord => Refusal::no_record(
            "no such record: that caller sent none here, or it is forgotten, or the headers are not that caller's",
        ),
        Unreleased::NoGuard => Refusal::no_record("the record holds no guard"),
        Unreleased::HeldByAnother => Refusal::no_record("the guard is held by another record"),
        Unreleased::Changed => Refusal::conflict("changed", "it changed at this moment: look again"),
        Unreleased::NotOver => {
            Refusal::conflict("still-running", "the request may still run: nothing is released before its lease ends")
        }
    }
}
