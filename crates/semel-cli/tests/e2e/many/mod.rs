//! Several gateways on one store, each a process of its own: what one did, the others know.
//!
//! A test is written once and runs on every store that it applies to. Gateways and places on the stores are each test's
//! own; servers are shared, except where one is crashed or set up in another way.

use std::{
    net::SocketAddr,
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use semel_servers::{PostgresOptions, PrivatePostgres, PrivateRedis, RedisCluster, RedisOptions, TcpProxy};
use tokio::sync::Barrier;

use crate::harness::{Conn, Gateway, Origin, Request, Response, Setup, gateway, migrate};

mod concurrency;
mod crash;
mod expiry;
mod guards;
mod partition;
mod sealed;
mod security;
mod storm;
mod waiting;

/// Makes one test of each store.
///
/// ```text
/// for_each!(postgres, redis => async fn c06_one_effect(store: Store) { … });
/// ```
/// makes `c06_one_effect::postgres` and `c06_one_effect::redis`.
macro_rules! for_each {
    ($($setup:ident),+ => $(#[$about:meta])* async fn $name:ident($store:ident: $type:ty) $body:block) => {
        mod $name {
            #[allow(unused_imports, reason = "a body may need none of it")]
            use super::*;

            $(#[$about])*
            async fn test($store: $type) $body

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $setup() {
                    test(<$type>::$setup().await).await;
                }
            )+
        }
    };
}
use for_each;

/// Starting six processes takes a while, so that one cluster serves all tests that leave it as it is.
static CLUSTER: OnceLock<RedisCluster> = OnceLock::new();
/// Tells the places of tests on shared servers apart.
static PLACES: AtomicU32 = AtomicU32::new(0);

/// A place for records that no other test uses, on a server that several gateways reach.
#[derive(Debug)]
pub(super) struct Store {
    server: Server,
    /// A database; or a prefix of keys.
    place: String,
    /// What the gateways' files say in `[store]`.
    settings: String,
}

#[derive(Debug)]
enum Server {
    Postgres(Held<PrivatePostgres>),
    Redis(Held<PrivateRedis>),
    Cluster(Held<RedisCluster>),
}

#[derive(Debug)]
enum Held<T: 'static> {
    Shared(&'static T),
    Own(T),
}

impl<T> Deref for Held<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Held::Shared(server) => server,
            Held::Own(server) => server,
        }
    }
}

impl Store {
    pub(super) async fn postgres() -> Store {
        Store::on(Server::Postgres(Held::Shared(PrivatePostgres::shared_durable()))).await
    }

    pub(super) async fn redis() -> Store {
        Store::on(Server::Redis(Held::Shared(PrivateRedis::shared()))).await
    }

    pub(super) async fn cluster() -> Store {
        let cluster = CLUSTER.get_or_init(|| RedisCluster::start().expect("a cluster"));
        Store::on(Server::Cluster(Held::Shared(cluster))).await
    }

    /// On a server of the test's own, which it may crash.
    pub(super) async fn own_postgres() -> Store {
        let options = PostgresOptions { fsync: true, ..PostgresOptions::default() };
        let server = PrivatePostgres::start_with(options).expect("a server");
        Store::on(Server::Postgres(Held::Own(server))).await
    }

    /// The same on Redis.
    pub(super) async fn own_redis() -> Store {
        Store::own_redis_with(RedisOptions::default()).await
    }

    pub(super) async fn own_redis_with(options: RedisOptions) -> Store {
        let server = PrivateRedis::start_with(options).expect("a server");
        Store::on(Server::Redis(Held::Own(server))).await
    }

    /// The same on a Redis Cluster.
    pub(super) async fn own_cluster() -> Store {
        Store::on(Server::Cluster(Held::Own(RedisCluster::start().expect("a cluster")))).await
    }

    async fn on(server: Server) -> Store {
        let place = match &server {
            Server::Postgres(server) => server.fresh_database(),
            Server::Redis(_) | Server::Cluster(_) => format!("test{}:", PLACES.fetch_add(1, Ordering::Relaxed)),
        };
        let settings = match &server {
            Server::Postgres(_) => String::new(),
            Server::Redis(_) | Server::Cluster(_) => format!("prefix = \"{place}\"\n"),
        };
        let store = Store { server, place, settings };
        if store.as_postgres().is_some() {
            migrate(&store.url()).await;
        }
        store
    }

    /// Another place on the same server.
    pub(super) async fn beside(&self) -> Store {
        let server = match &self.server {
            Server::Postgres(Held::Shared(server)) => Server::Postgres(Held::Shared(server)),
            Server::Redis(Held::Shared(server)) => Server::Redis(Held::Shared(server)),
            Server::Cluster(Held::Shared(server)) => Server::Cluster(Held::Shared(server)),
            Server::Postgres(Held::Own(_)) | Server::Redis(Held::Own(_)) | Server::Cluster(Held::Own(_)) => {
                panic!("a server of one's own is for one place")
            }
        };
        Store::on(server).await
    }

    /// With this in the table `[store]` of every gateway's file.
    pub(super) fn with(mut self, toml: &str) -> Store {
        self.settings.push_str(toml);
        self
    }

    /// Where gateways find it.
    pub(super) fn url(&self) -> String {
        match &self.server {
            Server::Postgres(server) => server.url(&self.place),
            Server::Redis(server) => server.url(),
            Server::Cluster(cluster) => {
                let urls = cluster.urls();
                let hosts: Vec<&str> = urls.iter().map(|url| url.trim_start_matches("redis://")).collect();
                format!("redis+cluster://{}", hosts.join(","))
            }
        }
    }

    /// Something between a gateway and the server, and the URL that leads there. A Cluster tells its own addresses, so
    /// that nothing can be put between.
    pub(super) fn proxy(&self) -> (TcpProxy, String) {
        let port = match &self.server {
            Server::Postgres(server) => server.port(),
            Server::Redis(server) => server.port(),
            Server::Cluster(_) => panic!("a cluster has no proxy"),
        };
        let proxy = TcpProxy::start(port).expect("a proxy");
        let url = self.url().replacen(&format!(":{port}"), &format!(":{}", proxy.port()), 1);
        (proxy, url)
    }

    /// A gateway on it, whose file says this and what is said of the store.
    pub(super) fn gateway(&self, origin: &Origin, toml: &str) -> Setup {
        self.gateway_by(&self.url(), origin, toml)
    }

    /// The same, which reaches it by that URL.
    pub(super) fn gateway_by(&self, url: &str, origin: &Origin, toml: &str) -> Setup {
        gateway(origin).config(&format!("{toml}\n{}", self.place_settings())).on(url)
    }

    /// What a file says of it.
    fn place_settings(&self) -> String {
        format!("[store]\n{}", self.settings)
    }

    /// Gateways on it that differ in nothing.
    pub(super) async fn gateways<const N: usize>(&self, origin: &Origin, toml: &str) -> [Gateway; N] {
        let mut gateways = Vec::new();
        for _ in 0..N {
            gateways.push(self.gateway(origin, toml).start().await);
        }
        gateways.try_into().expect("that many were started")
    }

    /// Kills the server. What it had confirmed it must still have when it is started again.
    pub(super) fn crash(&self) {
        match &self.server {
            Server::Postgres(Held::Own(server)) => server.stop_immediately(),
            Server::Redis(Held::Own(server)) => server.crash(),
            Server::Postgres(Held::Shared(_)) | Server::Redis(Held::Shared(_)) | Server::Cluster(_) => {
                panic!("other tests use it, or it is more than one")
            }
        }
    }

    /// Starts it again after a crash.
    pub(super) fn start_again(&self) {
        match &self.server {
            Server::Postgres(server) => server.start_again(),
            Server::Redis(server) => server.start_again(),
            Server::Cluster(_) => panic!("it is more than one server"),
        }
        .expect("it starts again");
    }

    /// The server and the database, on PostgreSQL.
    pub(super) fn as_postgres(&self) -> Option<(&PrivatePostgres, &str)> {
        if let Server::Postgres(server) = &self.server { Some((server, &self.place)) } else { None }
    }

    /// The server and the prefix, on a single Redis.
    pub(super) fn as_redis(&self) -> Option<(&PrivateRedis, &str)> {
        if let Server::Redis(server) = &self.server { Some((server, &self.place)) } else { None }
    }

    /// The servers of a Cluster.
    pub(super) fn as_cluster(&self) -> Option<&RedisCluster> {
        if let Server::Cluster(cluster) = &self.server { Some(cluster) } else { None }
    }
}

/// Sends one request many times at once, to each gateway in turn.
async fn at_once(gateways: &[Gateway], crowd: usize, request: &Request) -> Vec<Response> {
    let barrier = Arc::new(Barrier::new(crowd));
    let mut sending = Vec::new();
    for gateway in gateways.iter().cycle().take(crowd) {
        let mut conn = Conn::open(gateway.addr).await;
        let (barrier, request) = (Arc::clone(&barrier), request.clone());
        sending.push(tokio::spawn(async move {
            barrier.wait().await;
            conn.send(&request).await;
            conn.response().await
        }));
    }
    let mut answers = Vec::new();
    for one in sending {
        answers.push(one.await.expect("every client is answered"));
    }
    answers
}

/// A request that a gateway has claimed, and the origin has, and nobody has answered.
async fn sent(gateway: &Gateway, origin: &Origin, request: &Request) -> Conn {
    let before = origin.seen().len();
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(request).await;
    origin.arrived(before + 1).await;
    conn
}

/// A route whose lease is this many milliseconds.
fn lease(ms: u32) -> String {
    format!("[[route]]\nexecution_max = \"{ms}ms\"\ngrace = \"0s\"\n")
}

/// Addresses of gateways, in their order.
fn addresses(gateways: &[Gateway]) -> Vec<SocketAddr> {
    gateways.iter().map(|gateway| gateway.addr).collect()
}

/// How many records are in the store, past their time or not.
fn records(store: &Store) -> usize {
    match &store.server {
        Server::Postgres(server) => {
            let count = server.psql(&store.place, "SELECT count(*) FROM semel_records").expect("it counts");
            count.parse().expect("a number")
        }
        Server::Redis(server) => {
            let keys = server.cli(&["--scan", "--pattern", &format!("{}*", store.place)]).expect("it lists");
            keys.lines().filter(|key| key.len() == store.place.len() + 64).count()
        }
        Server::Cluster(_) => panic!("no test counts the records of a cluster"),
    }
}
