//! Walks over all keys: what operators ask, and what housekeeping does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::try_join_all;
use redis::Value;

use super::{
    super::{Found, PhaseKind, RecordKey, StoreError},
    Inner,
    lanes::{Address, Node, Writes},
    nodes::{Question, Whom},
    value::{self, HEAD_LEN, Head},
};

/// How many keys the server is to look at in one step of a walk.
const STEP_KEYS: u32 = 500;
/// The cursor at which a walk begins, and by which the server says that it is over.
const BEGINNING: &[u8] = b"0";
/// How many keys one sweep looks at.
const SWEEP_KEYS_MAX: u32 = 4_000;

/// How many records there are, and how much room they take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stats {
    /// How many live, by phase; a phase without any is not listed.
    pub records: BTreeMap<PhaseKind, u64>,
    /// The age of the oldest record with an unknown outcome.
    pub oldest_unknown: Option<Duration>,
    /// Bytes of keys and values, without what Redis itself needs for each.
    pub bytes: u64,
}

/// Where a walk goes on.
#[derive(Default, Debug)]
pub(super) struct Place {
    /// The node that it is at, and the server's cursor there.
    at: Option<(Address, Vec<u8>)>,
}

/// Some keys of a walk.
struct Step {
    keys: Vec<(RecordKey, String)>,
    /// Where the node goes on; `None` at its end.
    next: Option<Vec<u8>>,
}

impl Inner {
    pub(super) async fn scan(
        &self,
        phase: PhaseKind,
        mut after: Option<RecordKey>,
        limit: u32,
    ) -> Result<Vec<(RecordKey, Found)>, StoreError> {
        let limit = limit as usize;
        let mut page = Vec::new();
        while page.len() < limit {
            let wanted = limit - page.len();
            let keys = self.smallest(phase, after, wanted).await?;
            after = keys.last_key_value().map(|(key, _)| *key);
            let is_last = keys.len() < wanted;
            let loads = keys.iter().map(async |(key, text)| Ok::<_, StoreError>((*key, self.load(text).await?)));
            let found = try_join_all(loads).await?.into_iter();
            // Those that are past their retention, or have changed since, leave room for others.
            page.extend(
                found.filter_map(|(key, found)| Some((key, found?))).filter(|(_, found)| found.record.kind() == phase),
            );
            if is_last {
                break;
            }
        }
        Ok(page)
    }

    /// The keys of a page, as the heads tell.
    async fn smallest(
        &self,
        phase: PhaseKind,
        after: Option<RecordKey>,
        limit: usize,
    ) -> Result<BTreeMap<RecordKey, String>, StoreError> {
        let mut smallest: BTreeMap<RecordKey, String> = BTreeMap::new();
        for node in self.nodes.primaries() {
            let mut cursor = Some(BEGINNING.to_vec());
            while let Some(at) = cursor {
                let mut step = self.step(&node, &at).await?;
                let largest = smallest.last_key_value().filter(|_| smallest.len() >= limit).map(|(key, _)| *key);
                step.keys.retain(|(key, _)| Some(*key) > after && largest.is_none_or(|largest| *key < largest));
                for ((key, text), bytes) in self.heads(step.keys).await? {
                    let head = Head::read(&bytes);
                    // A damaged one belongs to every page: its load says what is wrong.
                    if !bytes.is_empty() && head.is_none_or(|head| head.phase == phase) {
                        smallest.insert(key, text);
                    }
                    if smallest.len() > limit {
                        smallest.pop_last();
                    }
                }
                cursor = step.next;
            }
        }
        Ok(smallest)
    }

    pub(super) async fn sweep(&self, limit: u32) -> Result<u32, StoreError> {
        if limit == 0 {
            return Ok(0);
        }
        // Another sweep of this gateway does the same work.
        let Ok(mut place) = self.swept.try_lock() else { return Ok(0) };
        let primaries: BTreeMap<Address, Arc<Node>> =
            self.nodes.primaries().into_iter().map(|node| (node.address().clone(), node)).collect();
        let (mut swept, mut seen) = (0, 0);
        // Each node at most once from its beginning, so that a small store is not walked in circles.
        let mut begun: BTreeSet<Address> = BTreeSet::new();
        while swept < limit && seen < SWEEP_KEYS_MAX {
            let left_off = place.at.take().filter(|(address, _)| primaries.contains_key(address));
            let next = || primaries.keys().find(|address| !begun.contains(*address));
            let Some((address, cursor)) = left_off.or_else(|| Some((next()?.clone(), BEGINNING.to_vec()))) else {
                break;
            };
            if cursor == BEGINNING {
                begun.insert(address.clone());
            }
            let node = primaries.get(&address).cloned().expect("only those with this address were looked for");
            let step = self.step(&node, &cursor).await?;
            seen += u32::try_from(step.keys.len()).unwrap_or(u32::MAX).max(1);
            swept += self.sweep_step(&node, step.keys, limit - swept).await?;
            place.at = if swept >= limit {
                // The same step once more: what the limit left is still due.
                Some((address, cursor))
            } else {
                step.next.map(|next| (address, next))
            };
        }
        Ok(swept)
    }

    async fn sweep_step(
        &self,
        node: &Arc<Node>,
        keys: Vec<(RecordKey, String)>,
        limit: u32,
    ) -> Result<u32, StoreError> {
        let now_ms = match self.now_ms() {
            Some(now_ms) => now_ms,
            None => value::time_of(&self.at_node(node, redis::cmd("TIME")).await?)
                .ok_or_else(|| StoreError::Corrupt("TIME was answered with something else".into()))?,
        };
        let heads = self.heads(keys).await?;
        let is_due =
            |bytes: &[u8]| Head::read(bytes).is_none_or(|head| now_ms.saturating_sub(head.written_ms) >= head.due_ms);
        let due: Vec<String> = heads
            .into_iter()
            .filter(|(_, bytes)| !bytes.is_empty() && is_due(bytes))
            .map(|((_, text), _)| text)
            .collect();
        let arguments = [value::now_argument(self.now_ms())];
        let mut swept = 0;
        // No more at once than may go.
        for some in due.chunks((limit as usize).min(STEP_KEYS as usize)) {
            let some = &some[..some.len().min((limit - swept) as usize)];
            let asks = some.iter().map(async |key| {
                match self
                    .nodes
                    .ask(Whom::Owner(key), Question::Script(&value::SWEEP, key, &arguments, Writes::No))
                    .await
                {
                    Ok(answer) => Ok(u32::from(answer.value == Value::Int(1))),
                    // It stays, and so do the others get their turn.
                    Err(StoreError::Corrupt(what)) => {
                        tracing::error!(target: "semel::store", %key, %what, "a record in Redis is damaged");
                        Ok(0)
                    }
                    Err(error) => Err(error),
                }
            });
            swept += try_join_all(asks).await?.into_iter().sum::<u32>();
            if swept >= limit {
                break;
            }
        }
        Ok(swept)
    }

    pub(super) async fn stats(&self) -> Result<Stats, StoreError> {
        let mut stats = Stats { records: BTreeMap::new(), oldest_unknown: None, bytes: 0 };
        // A walk may show a key twice.
        let mut seen = BTreeSet::new();
        for node in self.nodes.primaries() {
            let mut cursor = Some(BEGINNING.to_vec());
            while let Some(at) = cursor {
                let mut step = self.step(&node, &at).await?;
                step.keys.retain(|(key, _)| seen.insert(*key));
                let now_ms = match self.now_ms() {
                    Some(now_ms) => now_ms,
                    None => value::time_of(&self.at_node(&node, redis::cmd("TIME")).await?).unwrap_or(0),
                };
                for ((_, text), bytes, len) in self.sizes(step.keys).await? {
                    let Some(head) = Head::read(&bytes) else { continue };
                    let age = Duration::from_millis(now_ms.saturating_sub(head.written_ms));
                    *stats.records.entry(head.phase).or_default() += 1;
                    stats.bytes += text.len() as u64 + len;
                    if head.phase == PhaseKind::Unknown {
                        stats.oldest_unknown = stats.oldest_unknown.max(Some(age));
                    }
                }
                cursor = step.next;
            }
        }
        Ok(stats)
    }

    async fn at_node(&self, node: &Arc<Node>, command: redis::Cmd) -> Result<Value, StoreError> {
        Ok(self.nodes.ask(Whom::Node(node), Question::Command(&command, Writes::No)).await?.value)
    }

    async fn step(&self, node: &Arc<Node>, cursor: &[u8]) -> Result<Step, StoreError> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{}*", self.prefix)).arg("COUNT").arg(STEP_KEYS);
        let broken = || StoreError::Corrupt("SCAN was answered with something else".into());
        let Value::Array(parts) = self.at_node(node, scan).await? else { return Err(broken()) };
        let Ok([Value::BulkString(next), Value::Array(keys)]) = <[Value; 2]>::try_from(parts) else {
            return Err(broken());
        };
        let keys = keys.into_iter().filter_map(|key| {
            let Value::BulkString(key) = key else { return None };
            let record_key = value::record_key(&self.prefix, &key)?;
            Some((record_key, String::from_utf8(key).ok()?))
        });
        Ok(Step { keys: keys.collect(), next: Some(next).filter(|next| next != BEGINNING) })
    }

    /// The heads at these keys; empty where there is nothing, or nothing any more.
    async fn heads(&self, keys: Vec<(RecordKey, String)>) -> Result<Vec<((RecordKey, String), Vec<u8>)>, StoreError> {
        let heads = keys.into_iter().map(async |key| {
            let mut head = redis::cmd("GETRANGE");
            head.arg(&key.1).arg(0).arg(HEAD_LEN - 1);
            match self.nodes.ask(Whom::Owner(&key.1), Question::Command(&head, Writes::No)).await {
                Ok(answer) => match answer.value {
                    Value::BulkString(bytes) => Ok((key, bytes)),
                    _ => Ok((key, Vec::new())),
                },
                // No head at all, but something.
                Err(StoreError::Corrupt(_)) => Ok((key, vec![0])),
                Err(error) => Err(error),
            }
        });
        try_join_all(heads).await
    }

    async fn sizes(
        &self,
        keys: Vec<(RecordKey, String)>,
    ) -> Result<Vec<((RecordKey, String), Vec<u8>, u64)>, StoreError> {
        let sizes = self.heads(keys).await?.into_iter().map(async |(key, bytes)| {
            let mut size = redis::cmd("STRLEN");
            size.arg(&key.1);
            let len = match self.nodes.ask(Whom::Owner(&key.1), Question::Command(&size, Writes::No)).await {
                Ok(answer) => match answer.value {
                    Value::Int(len) => u64::try_from(len).unwrap_or(0),
                    _ => 0,
                },
                Err(StoreError::Corrupt(_)) => 0,
                Err(error) => return Err(error),
            };
            Ok((key, bytes, len))
        });
        try_join_all(sizes).await
    }
}
