//! What operators may see and do: list and show records, settle what nobody knows, release guards.
//!
//! [`Operators`] is the whole of it, for the API under `/v1`, for the console and for tests; who may ask is decided before.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use semel::{
    Semel,
    store::{Found, RecordKey, StoreError},
};
use semel_core::record::{ExchangeId, PhaseKind, Reply};
use serde::Serialize;
use tokio::time::{Instant, timeout, timeout_at};

pub(crate) mod api;
pub(crate) mod recent;
pub(crate) mod release;
pub(crate) mod row;
pub(crate) mod token;

use super::reload::CurrentTerms;

use self::{
    recent::{Recent, Seen},
    row::{Cursor, Filter, Page, Row, Seconds, StampText, Standing},
};

/// How many records are looked at for one page at most; a page that looked at so many says where to go on.
pub(crate) const RECORDS_LOOKED_AT_MAX: u32 = 10_000;
/// Records that are asked of the store at once.
const CHUNK_RECORDS: u32 = 100;
/// The largest page, in records.
pub(crate) const PAGE_RECORDS_MAX: u32 = 1_000;
/// How long the store may take for one answer to an operator.
const STORE_MAX: Duration = Duration::from_secs(5);
/// How many events a timeline shows.
const TIMELINE_EVENTS_MAX: usize = 100;

/// What operators may see and do. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Operators {
    terms: CurrentTerms,
    recent: Arc<Recent>,
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

/// How an operator found that it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Settlement {
    /// The effect happened, and this is what a retry is told.
    Happened(Reply),
    /// It did not happen, in no attempt: a retry executes as a first time.
    DidNotHappen,
}

/// Who acts, and why: what the audit log says of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct By {
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
    /// The address that they asked from.
    pub from: SocketAddr,
}

/// What is told of an act that was done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Settled {
    /// The record.
    pub record: row::RecordName,
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

    fn no_record(detail: &str) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "no-such-record", detail)
    }

    fn store(error: &StoreError) -> Refusal {
        tracing::warn!(target: "semel::store", %error, "an operator was not answered");
        let detail = "the store failed; see the log of the gateway, and ask again";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", detail)
    }
}

impl Operators {
    /// Of the records that are served on these terms, and of what `recent` has seen.
    pub(crate) fn new(terms: CurrentTerms, recent: Arc<Recent>) -> Operators {
        Operators { terms, recent }
    }

    fn semel(&self) -> Semel {
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
        let until = Instant::now() + STORE_MAX;
        for kind in &kinds[start..] {
            loop {
                let more = |after| Some(Cursor { kind: *kind, after });
                if left == 0 {
                    return Ok(Page { records, next: more(after) });
                }
                let page = self.scan(*kind, after, CHUNK_RECORDS.min(left), until).await?;
                if page.is_empty() {
                    break;
                }
                for (key, found) in &page {
                    after = Some(*key);
                    left -= 1;
                    let row = self.row(*key, found);
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
        let (record, found) = self.find(which).await?;
        let row = self.row(record, &found);
        let lease_left = match found.record.phase {
            semel_core::record::Phase::InFlight { lease } if found.is_running() => {
                Some(Seconds(lease.saturating_sub(found.age)))
            }
            semel_core::record::Phase::InFlight { .. }
            | semel_core::record::Phase::Unknown
            | semel_core::record::Phase::Completed { .. }
            | semel_core::record::Phase::Held { .. } => None,
        };
        let meaning = meaning(&row);
        Ok(Shown { row, meaning, lease_left, seen: self.recent.of_record(record, TIMELINE_EVENTS_MAX) })
    }

    /// Settles what nobody knows, on the word of an operator. With `stamp` only while the record is as it was shown.
    #[expect(clippy::unused_async, reason = "the store will be asked")]
    pub(crate) async fn settle(
        &self,
        _which: &Which,
        _settlement: Settlement,
        _stamp: Option<StampText>,
        _by: &By,
    ) -> Result<Settled, Refusal> {
        Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "not-implemented", "settling comes with the next commit"))
    }

    async fn find(&self, which: &Which) -> Result<(RecordKey, Found), Refusal> {
        match which {
            Which::Record(record) => {
                let found = self.load(*record).await?;
                let none = "no such record: it was released, or is forgotten, or never was";
                found.map(|found| (*record, found)).ok_or_else(|| Refusal::no_record(none))
            }
            Which::Exchange(exchange) => self.find_exchange(*exchange).await,
            Which::Request { .. } => {
                Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "not-implemented", "finding comes with the next commit"))
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
        let until = Instant::now() + STORE_MAX;
        for kind in Filter::default().kinds() {
            let mut after = None;
            while left > 0 {
                let page = self.scan(*kind, after, CHUNK_RECORDS.min(left), until).await?;
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

    fn row(&self, record: RecordKey, found: &Found) -> Row {
        Row::of(record, found)
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
        until: Instant,
    ) -> Result<Vec<(RecordKey, Found)>, Refusal> {
        let page = timeout_at(until, self.semel().store().scan(kind, after, limit)).await;
        page.unwrap_or(Err(StoreError::TimedOut(STORE_MAX))).map_err(|error| Refusal::store(&error))
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
