//! A Redis Cluster.

use std::{io, thread};

use crate::{PrivateRedis, RedisOptions, Tls, keeper::until, ports};

/// A private Redis Cluster of three shards, each of a primary and a replica that takes its place.
///
/// Shards are numbered from 0, as are their slots: shard 0 begins with the first third of them.
#[derive(Debug)]
pub struct RedisCluster {
    /// Node `n` and node `n + SHARDS` are shard `n`, whichever of them is the primary.
    nodes: Vec<PrivateRedis>,
}

const SHARDS: usize = 3;
const SLOTS: usize = 16_384;

/// After how long a node counts as gone, in milliseconds.
const NODE_TIMEOUT: &str = "1500";

impl RedisCluster {
    /// Starts one with [`RedisOptions::default`], and waits until every node agrees that it is complete.
    pub fn start() -> io::Result<RedisCluster> {
        RedisCluster::start_with(&RedisOptions::default())
    }

    /// The same with nodes set up in another way; without TLS, as each would have an authority of its own.
    pub fn start_with(options: &RedisOptions) -> io::Result<RedisCluster> {
        if options.tls != Tls::Off {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a private cluster has no TLS"));
        }
        // Nodes talk to each other on a port of their own, which Redis takes to be 10000 above unless told.
        let buses: Vec<u16> = (0..2 * SHARDS).map(|_| ports::free()).collect::<io::Result<_>>()?;
        let starts: Vec<_> = buses.iter().map(|bus| start_node(options.clone(), *bus)).collect();
        let nodes = starts.into_iter().map(|start| start.join().expect("a start does not panic"));
        let cluster = RedisCluster { nodes: nodes.collect::<io::Result<_>>()? };
        cluster.join(&buses)?;
        Ok(cluster)
    }

    /// The URLs of all nodes, dead ones too.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(PrivateRedis::url).collect()
    }

    /// All nodes, dead ones too: the two of shard `n` are `n` and `n + 3`.
    pub fn nodes(&self) -> &[PrivateRedis] {
        &self.nodes
    }

    /// The node that takes the writes of a shard.
    ///
    /// # Panics
    /// If there is none now.
    pub fn primary(&self, shard: usize) -> &PrivateRedis {
        self.live(shard).find(|node| node.info("role:master")).expect("the shard has a primary")
    }

    /// The node of a shard that would take its primary's place, if it is there.
    pub fn replica(&self, shard: usize) -> Option<&PrivateRedis> {
        self.live(shard).find(|node| node.info("role:slave"))
    }

    /// Kills the primary of a shard. Its replica takes its place after a few seconds: [`Self::wait_failover`].
    pub fn kill_primary(&self, shard: usize) {
        self.primary(shard).crash();
    }

    /// Waits until a shard has a primary again, and every node that lives agrees that the cluster is complete.
    pub fn wait_failover(&self, shard: usize) -> io::Result<()> {
        until(|| self.live(shard).any(|node| node.info("role:master")))?;
        self.wait_complete()
    }

    /// Starts whatever was killed of a shard, and waits until a replica follows a primary.
    pub fn start_again(&self, shard: usize) -> io::Result<()> {
        for node in self.shard(shard).filter(|node| !node.runs()) {
            node.start_again()?;
        }
        until(|| self.live(shard).any(|node| node.info("master_link_status:up")))?;
        self.wait_replica(shard)
    }

    /// Swaps primary and replica of a shard in good order, and waits until that is done.
    pub fn fail_over(&self, shard: usize) -> io::Result<()> {
        let replica = self.replica(shard).ok_or_else(|| io::Error::other("the shard has no replica"))?;
        replica.cli(&["CLUSTER", "FAILOVER"])?;
        until(|| replica.info("role:master"))?;
        self.start_again(shard)
    }

    /// Moves that many slots with all keys in them from one shard to another, and waits until that is done.
    pub fn reshard(&self, slots: usize, from: usize, to: usize) -> io::Result<()> {
        let id = |shard| self.primary(shard).cli(&["CLUSTER", "MYID"]);
        let (from, to, slots) = (id(from)?, id(to)?, slots.to_string());
        let entrance = format!("127.0.0.1:{}", self.primary(0).port());
        let reshard = ["--cluster", "reshard", &entrance, "--cluster-from", &from, "--cluster-to", &to];
        let all = ["--cluster-slots", &slots, "--cluster-yes"];
        self.primary(0).cli(&[&reshard[..], &all].concat())?;
        self.wait_complete()
    }

    fn shard(&self, shard: usize) -> impl Iterator<Item = &PrivateRedis> {
        assert!(shard < SHARDS, "there are {SHARDS} shards");
        self.nodes.iter().skip(shard).step_by(SHARDS)
    }

    fn live(&self, shard: usize) -> impl Iterator<Item = &PrivateRedis> {
        self.shard(shard).filter(|node| node.runs())
    }

    /// Waits until every node knows the replica of a shard: only then would they all make it the primary.
    fn wait_replica(&self, shard: usize) -> io::Result<()> {
        let primary = self.primary(shard).cli(&["CLUSTER", "MYID"])?;
        let knows = |node: &PrivateRedis| {
            let replicas = node.cli(&["CLUSTER", "REPLICAS", &primary]);
            replicas.is_ok_and(|replicas| replicas.lines().count() == 1 && !replicas.contains("fail"))
        };
        until(|| self.nodes.iter().filter(|node| node.runs()).all(knows))?;
        self.wait_complete()
    }

    fn wait_complete(&self) -> io::Result<()> {
        self.nodes
            .iter()
            .filter(|node| node.runs())
            .try_for_each(|node| node.wait_for(&["CLUSTER", "INFO"], "cluster_state:ok"))
    }

    /// Makes one cluster of nodes that do not know each other.
    fn join(&self, buses: &[u16]) -> io::Result<()> {
        for (shard, primary) in self.nodes.iter().take(SHARDS).enumerate() {
            let (first, last) = (SLOTS * shard / SHARDS, SLOTS * (shard + 1) / SHARDS - 1);
            primary.cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()])?;
        }
        for (n, node) in self.nodes.iter().enumerate() {
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()])?;
            // Everybody to everybody: hearing of each other takes longer.
            for (other, bus) in self.nodes.iter().zip(buses).take(n) {
                node.cli(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string(), &bus.to_string()])?;
            }
        }
        for (shard, replica) in self.nodes.iter().skip(SHARDS).enumerate() {
            let primary = self.nodes[shard].cli(&["CLUSTER", "MYID"])?;
            until(|| replica.cli(&["CLUSTER", "REPLICATE", &primary]).is_ok())?;
        }
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        for (n, node) in self.nodes.iter().enumerate() {
            node.wait_for(&["CLUSTER", "INFO"], &known)?;
            until(|| n < SHARDS || node.info("master_link_status:up"))?;
        }
        (0..SHARDS).try_for_each(|shard| self.wait_replica(shard))
    }
}

fn start_node(options: RedisOptions, bus: u16) -> thread::JoinHandle<io::Result<PrivateRedis>> {
    let cluster = [
        ("cluster-enabled", "yes"),
        ("cluster-port", &bus.to_string()),
        ("cluster-node-timeout", NODE_TIMEOUT),
        // However long a replica was cut off: a slow machine must not be left without a primary.
        ("cluster-replica-validity-factor", "0"),
    ];
    let mut settings: Vec<(String, String)> =
        cluster.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    settings.extend(options.settings.iter().cloned());
    thread::spawn(move || PrivateRedis::start_with(RedisOptions { settings, ..options }))
}
