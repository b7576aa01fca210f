//! Which node has which key, and asking until there is an answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::RwLock;
use redis::{Cmd, ServerError, Value};
use tokio::{task::JoinSet, time::sleep};

use super::{
    super::StoreError,
    lanes::{Address, Answer, Asking, Kind, Known, Measured, Node, Request, Settings, Trouble, What, Writes},
    value::Script,
};

const SLOTS: u16 = 16_384;
/// A failed-over Cluster is noticed at the latest after this long, even while its old primary keeps us waiting.
const MAP_READ_EVERY: Duration = Duration::from_secs(1);
/// How long a node may think about who has which slot.
const MAP_READ_MAX: Duration = Duration::from_secs(1);
/// The first pause before asking again; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(160);
/// So many redirects are followed at once; after that there are pauses.
const REDIRECTS_MAX: u32 = 4;

/// Who is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whom<'a> {
    /// Whoever has this key.
    Owner(&'a str),
    /// This node, whatever it has.
    Node(&'a Arc<Node>),
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question<'a> {
    /// A script at a key.
    Script(&'static Script, &'a str, &'a [Bytes], Writes),
    /// Any other command.
    Command(&'a Cmd, Writes),
}

/// All nodes of a store: one, or the primaries of a Cluster.
pub(super) struct Nodes {
    shared: Arc<Shared>,
    _reader: JoinSet<()>,
}

struct Shared {
    settings: Arc<Settings>,
    seeds: Vec<Address>,
    map: RwLock<Map>,
    /// One reading of the map at a time serves all.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Map {
    /// By address, so that a node keeps its lanes whatever slots it has.
    nodes: BTreeMap<Address, Arc<Node>>,
    /// The last slot of each range, and who has it.
    ranges: BTreeMap<u16, Address>,
    /// When it was read.
    read: Option<Instant>,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.shared.map.read().nodes.keys()).finish()
    }
}

impl Nodes {
    /// What the lanes of all nodes count.
    pub(super) fn measured(&self) -> &Measured {
        &self.shared.settings.measured
    }

    /// Finds the primaries; connects to them when they are first asked something.
    pub(super) async fn find(seeds: Vec<Address>, settings: Settings) -> Result<Nodes, Trouble> {
        let (kind, settings) = (settings.kind, Arc::new(settings));
        let shared =
            Arc::new(Shared { settings, seeds, map: RwLock::default(), reading: tokio::sync::Mutex::default() });
        let mut reader = JoinSet::new();
        match kind {
            Kind::Single => {
                let mut map = shared.map.write();
                let address = shared.seeds[0].clone();
                map.nodes.insert(address.clone(), Arc::new(Node::new(address.clone(), shared.settings.clone())));
                map.ranges.insert(SLOTS - 1, address);
            }
            Kind::Cluster => {
                shared.read_map().await?;
                reader.spawn(keep_reading(shared.clone()));
            }
        }
        Ok(Nodes { shared, _reader: reader })
    }

    /// Every node that has slots.
    pub(super) fn primaries(&self) -> Vec<Arc<Node>> {
        let map = self.shared.map.read();
        let addresses: BTreeSet<&Address> = map.ranges.values().collect();
        addresses.into_iter().filter_map(|address| map.nodes.get(address).cloned()).collect()
    }

    /// Whether `node` has any slot now.
    pub(super) fn is_primary(&self, node: &Node) -> bool {
        self.shared.map.read().ranges.values().any(|address| address == node.address())
    }

    /// Whether `node` has the slot of `key` now.
    pub(super) fn has(&self, node: &Node, key: &str) -> bool {
        self.shared.map.read().at(slot(key)).is_some_and(|there| there.address() == node.address())
    }

    /// Asks, and again where asking again can help, for at most `statement_max`.
    ///
    /// What is asked may run more than once, also when the answer is an error.
    pub(super) async fn ask(&self, whom: Whom<'_>, question: Question<'_>) -> Result<Answer, StoreError> {
        let shared = &self.shared;
        let deadline = Instant::now() + shared.settings.statement_max;
        let mut attempt = Attempt { node: None, asking: Asking::No, known: Known::Yes };
        let (mut pause, mut redirects) = (PAUSE_MIN, 0);
        loop {
            let node = attempt.node.take().or_else(|| match whom {
                Whom::Owner(key) => shared.map.read().at(slot(key)),
                Whom::Node(node) => Some(node.clone()),
            });
            let trouble = match &node {
                None => Trouble::Lost("no node of the Cluster has this key".into()),
                Some(node) => match node.ask(question.request(&attempt), deadline).await {
                    Ok(answer) => return Ok(answer),
                    Err(trouble) => trouble,
                },
            };
            attempt.asking = Asking::No;
            let next = match (&trouble, &node) {
                (Trouble::Refused(error), Some(node)) => shared.next(error, node, &mut attempt),
                (Trouble::Full, _) => {
                    let most = shared.settings.queue_max;
                    return Err(StoreError::Full(format!("{most} requests or their bytes wait for Redis already")));
                }
                (Trouble::Late, _) => return Err(StoreError::TimedOut(shared.settings.statement_max)),
                (Trouble::Lost(_) | Trouble::Refused(_), _) => Next::Pause,
            };
            match next {
                Next::Fail(error) => return Err(error),
                Next::AtOnce if redirects < REDIRECTS_MAX => redirects += 1,
                Next::AtOnce | Next::Pause => {
                    let now = Instant::now();
                    if now >= deadline {
                        return Err(StoreError::TimedOut(shared.settings.statement_max));
                    }
                    if now + pause >= deadline {
                        return Err(StoreError::Unavailable(trouble.to_string()));
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    if shared.settings.kind == Kind::Cluster {
                        // Whatever comes of it: the old map is tried again otherwise.
                        let _ = shared.read_map().await;
                    }
                }
            }
        }
    }
}

struct Attempt {
    /// Where a redirect led to.
    node: Option<Arc<Node>>,
    asking: Asking,
    known: Known,
}

enum Next {
    AtOnce,
    Pause,
    Fail(StoreError),
}

impl Question<'_> {
    fn request(&self, attempt: &Attempt) -> Request {
        let (what, writes) = match *self {
            Question::Script(script, key, arguments, writes) => {
                let (key, arguments) = (key.to_owned(), arguments.to_vec());
                (What::Script { script, key, arguments, known: attempt.known }, writes)
            }
            Question::Command(command, writes) => (What::Command(command.clone()), writes),
        };
        Request { what, writes, asking: attempt.asking }
    }
}

impl Shared {
    /// What a refusal calls for.
    fn next(&self, error: &ServerError, node: &Node, attempt: &mut Attempt) -> Next {
        let says = || error_text(error);
        match error.code() {
            "NOSCRIPT" => {
                attempt.known = Known::No;
                Next::AtOnce
            }
            "MOVED" | "ASK" => {
                let Some((slot, address)) = redirect(error, node.address()) else {
                    return Next::Fail(StoreError::Unavailable(says()));
                };
                if error.code() == "ASK" {
                    attempt.asking = Asking::Yes;
                } else {
                    self.moved(slot, &address);
                }
                attempt.node = Some(self.node(&address));
                Next::AtOnce
            }
            "CLUSTERDOWN" | "TRYAGAIN" | "LOADING" | "READONLY" | "MASTERDOWN" | "NOREPLICAS" | "BUSY"
            | "UNBLOCKED" | "LATE" => Next::Pause,
            "OOM" => Next::Fail(StoreError::Full(says())),
            "WRONGTYPE" | "CORRUPT" => Next::Fail(StoreError::Corrupt(says())),
            _ => Next::Fail(StoreError::Unavailable(says())),
        }
    }

    fn node(&self, address: &Address) -> Arc<Node> {
        let mut map = self.map.write();
        let new = || Arc::new(Node::new(address.clone(), self.settings.clone()));
        map.nodes.entry(address.clone()).or_insert_with(new).clone()
    }

    /// One slot is elsewhere; the rest is read in its turn.
    fn moved(&self, slot: u16, address: &Address) {
        let mut map = self.map.write();
        let there = map.ranges.range(slot..).next().map(|(last, owner)| (*last, owner.clone()));
        if let Some((last, owner)) = there
            && owner != *address
        {
            if last != slot {
                map.ranges.insert(last, owner.clone());
            }
            map.ranges.insert(slot, address.clone());
            if let Some(before) = slot.checked_sub(1) {
                map.ranges.entry(before).or_insert(owner);
            }
        }
    }

    /// Asks all nodes who has which slot, and believes the one that knows of the latest failover.
    async fn read_map(&self) -> Result<(), Trouble> {
        let asked = Instant::now();
        let _reading = self.reading.lock().await;
        if self.map.read().read.is_some_and(|read| read > asked) {
            return Ok(());
        }
        let owners: BTreeSet<Address> = self.map.read().ranges.values().cloned().collect();
        let mut trouble = Trouble::Lost("no node of the Cluster was named".into());
        let mut best: Option<View> = None;
        // Those who were named in the beginning are needed only when nobody else is in order.
        for addresses in [owners, self.seeds.iter().cloned().collect()] {
            if best.as_ref().is_some_and(|best| best.rank.0) {
                break;
            }
            for view in join_all(addresses.iter().map(|address| self.view_of(address))).await {
                match view {
                    Ok(view) if best.as_ref().is_none_or(|best| best.rank < view.rank) => best = Some(view),
                    Ok(_) => {}
                    Err(why) => trouble = why,
                }
            }
        }
        let Some(View { ranges, .. }) = best else { return Err(trouble) };
        let owners: BTreeSet<Address> = ranges.values().cloned().collect();
        for owner in &owners {
            self.node(owner);
        }
        let mut map = self.map.write();
        map.ranges = ranges;
        map.nodes.retain(|address, _| owners.contains(address));
        map.read = Some(Instant::now());
        Ok(())
    }

    async fn view_of(&self, address: &Address) -> Result<View, Trouble> {
        let known = self.map.read().nodes.get(address).cloned();
        let node = known.unwrap_or_else(|| Arc::new(Node::new(address.clone(), self.settings.clone())));
        let deadline = Instant::now() + MAP_READ_MAX.min(self.settings.connect_max);
        let ask = |name: &'static str| {
            let mut command = redis::cmd("CLUSTER");
            command.arg(name);
            node.ask(Request { what: What::Command(command), writes: Writes::No, asking: Asking::No }, deadline)
        };
        let (slots, info) = (ask("SLOTS").await?, ask("INFO").await?);
        let said = match &info.value {
            Value::BulkString(text) => String::from_utf8_lossy(text).into_owned(),
            Value::VerbatimString { text, .. } | Value::SimpleString(text) => text.clone(),
            _ => String::new(),
        };
        let field =
            |name: &str| said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let epoch = field("cluster_current_epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
        let rank = (field("cluster_state") == Some("ok"), epoch);
        let ranges = ranges(&slots.value, address)
            .ok_or_else(|| Trouble::Lost(format!("{address}: CLUSTER SLOTS was answered with something else")))?;
        Ok(View { rank, ranges })
    }
}

/// The Cluster as one node sees it.
struct View {
    /// In order with the rest of the Cluster, and the epoch of the latest failover that it knows.
    rank: (bool, u64),
    ranges: BTreeMap<u16, Address>,
}

impl Map {
    fn at(&self, slot: u16) -> Option<Arc<Node>> {
        let (_, address) = self.ranges.range(slot..).next()?;
        self.nodes.get(address).cloned()
    }
}

async fn keep_reading(shared: Arc<Shared>) {
    loop {
        sleep(MAP_READ_EVERY).await;
        if let Err(trouble) = shared.read_map().await {
            tracing::warn!(target: "semel::store", %trouble, "no node of the Redis Cluster says who has which slot");
        }
    }
}

/// `CLUSTER SLOTS`: first slot, last slot, primary, replicas.
fn ranges(answer: &Value, asked: &Address) -> Option<BTreeMap<u16, Address>> {
    let Value::Array(rows) = answer else { return None };
    rows.iter()
        .map(|row| {
            let Value::Array(row) = row else { return None };
            let [Value::Int(_), Value::Int(last), Value::Array(primary), ..] = row.as_slice() else { return None };
            let [host, Value::Int(port), ..] = primary.as_slice() else { return None };
            let host = match host {
                Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
                Value::Nil => String::new(),
                _ => return None,
            };
            Some((u16::try_from(*last).ok()?, Address { host: known(host, asked), port: u16::try_from(*port).ok()? }))
        })
        .collect()
}

/// A node that does not know its own name is where it was asked.
fn known(host: String, asked: &Address) -> String {
    if host.is_empty() || host == "?" { asked.host.clone() } else { host }
}

/// `MOVED 3999 127.0.0.1:6381`.
fn redirect(error: &ServerError, asked: &Address) -> Option<(u16, Address)> {
    let mut words = error.details()?.split_ascii_whitespace();
    let slot = words.next()?.parse().ok()?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((slot, Address { host: known(host, asked), port: port.parse().ok()? }))
}

/// The slot of a key that has no braces (our prefixes have none): CRC-16/XMODEM.
fn slot(key: &str) -> u16 {
    let crc = key.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    });
    crc % SLOTS
}

fn error_text(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Lost(why) => f.write_str(why),
            Trouble::Late => f.write_str("no answer in time"),
            Trouble::Full => f.write_str("its queue is full"),
            Trouble::Refused(error) => f.write_str(&error_text(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // The check value of CRC-16/XMODEM; the others as `CLUSTER KEYSLOT` has them.
        assert_eq!(slot("123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot("foo"), 12_182);
        assert_eq!(slot("semel:meta"), 1_704);
    }
}
