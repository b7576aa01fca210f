//! The business data of the sandbox, in tables beside the idempotency records, on SQLite and on PostgreSQL.

use serde_json::Value;

/// A record as it is added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New<'a> {
    /// Whose.
    pub(crate) vendor: &'a str,
    /// `order`, `enquiry`, `intent`, ...
    pub(crate) kind: &'a str,
    /// The resource's id, as the API names it.
    pub(crate) id: &'a str,
    /// Whose resource it is, in the vendor's terms: a merchant and environment, an organisation; empty for nobody's.
    pub(crate) owner: &'a str,
    /// The idempotency key as the client sent it, or the resource id where that is the key.
    pub(crate) key: Option<&'a str>,
    /// The sandbox's time.
    pub(crate) created_at_ms: u64,
    /// Part of the fixtures, and not in the ledger.
    pub(crate) is_fixture: bool,
    /// Everything else.
    pub(crate) data: &'a Value,
}

/// A record as it is kept.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Row {
    /// Its number in the books, rising.
    pub(crate) number: i64,
    /// See [`New`].
    pub(crate) kind: String,
    /// See [`New`].
    pub(crate) id: String,
    /// See [`New`].
    pub(crate) owner: String,
    /// See [`New`].
    pub(crate) key: Option<String>,
    /// See [`New`].
    pub(crate) created_at_ms: u64,
    /// See [`New`].
    pub(crate) data: Value,
}

/// The books within one open transaction. Whoever reads through it holds the vendor's books until the transaction ends,
/// so that what was read stays true (a row lock per vendor on PostgreSQL, the only writer on SQLite).
#[async_trait::async_trait]
pub(crate) trait Books: Send {
    /// Adds a record; gives its number. Nothing keeps two records from having one id: that is for the handler.
    async fn add(&mut self, new: New<'_>) -> sqlx::Result<i64>;
    /// The newest record of an id.
    async fn find(&mut self, vendor: &str, kind: &str, id: &str) -> sqlx::Result<Option<Row>>;
    /// All records of a kind, oldest first.
    async fn list(&mut self, vendor: &str, kind: &str) -> sqlx::Result<Vec<Row>>;
    /// Replaces the data of a record.
    async fn change(&mut self, number: i64, data: &Value) -> sqlx::Result<()>;
    /// Writes a debit.
    async fn debit(&mut self, vendor: &str, account: &str, amount: &str, record_id: &str) -> sqlx::Result<()>;
    /// A value that is not a record.
    async fn state(&mut self, vendor: &str, name: &str) -> sqlx::Result<Option<Value>>;
    /// Sets one.
    async fn keep(&mut self, vendor: &str, name: &str, value: &Value) -> sqlx::Result<()>;
}
