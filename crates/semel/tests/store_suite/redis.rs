//! The Redis store in the suite: opened again by another gateway, with its server killed in between, and on a Cluster.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use semel::{
    store::{
        SimulatedClock, Store,
        redis::{Options, RedisStore},
    },
    testkit::{
        Harness, Keeps, START_MS, Subject,
        histories::{Interruptions, corpus, digest},
        suite,
    },
};
use semel_servers::{PrivateRedis, RedisCluster};

/// What happens between two sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Between {
    /// One gateway goes, and another one comes.
    Gateways,
    /// The server is killed, and started on what it has on disk.
    ServerKilled,
}

#[derive(Clone, Debug)]
enum Server {
    Single(Arc<PrivateRedis>),
    Cluster(Arc<RedisCluster>),
}

#[derive(Debug)]
struct Redis {
    between: Between,
    server: Server,
}

struct RedisSubject {
    between: Between,
    server: Server,
    clock: Arc<SimulatedClock>,
    options: Options,
    store: RedisStore,
    other: RedisStore,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn redis_opened_again() {
    passes(Redis { between: Between::Gateways, server: Server::single() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn redis_killed_and_started_again() {
    passes(Redis { between: Between::ServerKilled, server: Server::single() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn redis_cluster_opened_again() {
    passes(Redis { between: Between::Gateways, server: Server::cluster() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn redis_tells_the_corpus_as_the_reference_does() {
    tells_the_corpus(Redis { between: Between::Gateways, server: Server::single() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn redis_cluster_tells_the_corpus_as_the_reference_does() {
    tells_the_corpus(Redis { between: Between::Gateways, server: Server::cluster() }).await;
}

async fn tells_the_corpus(harness: Redis) {
    let mut transcripts = [String::new(), String::new()];
    for (interruptions, told) in [Interruptions::None, Interruptions::Every(7)].into_iter().zip(&mut transcripts) {
        let mut subject = harness.fresh().await;
        for history in corpus() {
            told.push_str(&history.transcript(subject.as_mut(), interruptions).await);
        }
    }
    for told in &transcripts {
        assert_eq!(format!("{} bytes, digest {}", told.len(), digest(told)), super::CORPUS);
    }
}

async fn passes(harness: Redis) {
    let outcomes = suite::run(&harness).await;
    suite::assert_all_pass(&outcomes);
    super::does_not_apply(
        &outcomes,
        &expect_test::expect![[r"
            opened again by its one owner, what was in flight is abandoned, and new claims are not
        "]],
    );
}

impl Server {
    fn single() -> Server {
        Server::Single(Arc::new(PrivateRedis::start().unwrap_or_else(|error| panic!("{error}"))))
    }

    fn cluster() -> Server {
        Server::Cluster(Arc::new(RedisCluster::start().unwrap_or_else(|error| panic!("{error}"))))
    }

    fn options(&self) -> Options {
        match self {
            Server::Single(server) => Options::new(server.url()),
            // Confirmed without its copy, as by a single server; what a failover does is tested elsewhere.
            Server::Cluster(cluster) => Options::new(cluster.urls().join(",").replace(",redis://", ",").replacen(
                "redis://",
                "redis+cluster://",
                1,
            )),
        }
    }
}

#[async_trait]
impl Harness for Redis {
    fn keeps(&self) -> Keeps {
        Keeps::Records
    }

    async fn fresh(&self) -> Box<dyn Subject> {
        static PREFIXES: AtomicU64 = AtomicU64::new(0);

        let clock = Arc::new(SimulatedClock::at(START_MS));
        let options = Options {
            prefix: format!("case{}:", PREFIXES.fetch_add(1, Ordering::Relaxed)),
            clock: Some(clock.clone()),
            ..self.server.options()
        };
        let store = RedisStore::open(options.clone()).await.expect("the server is as the store wants it");
        let other = RedisStore::open(options.clone()).await.expect("the server is as the store wants it");
        let (between, server) = (self.between, self.server.clone());
        Box::new(RedisSubject { between, server, clock, options, store, other })
    }
}

#[async_trait]
impl Subject for RedisSubject {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn another(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::new(self.other.clone()))
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn reopen(&mut self) {
        match self.between {
            Between::Gateways => {
                self.store = RedisStore::open(self.options.clone()).await.expect("the server is as it was");
            }
            // The store stays, and finds its server again.
            Between::ServerKilled => {
                let Server::Single(server) = self.server.clone() else { panic!("only a single server is killed") };
                let restart = tokio::task::spawn_blocking(move || {
                    server.crash();
                    server.start_again()
                });
                restart.await.expect("it does not panic").expect("it starts again");
            }
        }
    }
}
