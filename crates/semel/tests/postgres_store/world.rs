//! A migrated database of one's own, and handles to it.

use std::{sync::Arc, time::Duration};

use semel::{
    store::{
        SimulatedClock, Store as _, Swapped,
        postgres::{Options, PostgresStore},
    },
    testkit::{
        START_MS,
        sample::{completed, in_flight, key, put, stamp},
    },
};
use semel_servers::{PrivatePostgres, TcpProxy};

/// A database on the durable server that tests share.
pub(crate) struct World {
    pub(crate) server: &'static PrivatePostgres,
    pub(crate) database: String,
    pub(crate) options: Options,
}

impl World {
    pub(crate) async fn new() -> World {
        World::with(|options| options).await
    }

    /// With a clock that only the test moves.
    pub(crate) async fn at_rest() -> (World, Arc<SimulatedClock>) {
        let clock = Arc::new(SimulatedClock::at(START_MS));
        let of_test = clock.clone();
        (World::with(|options| Options { clock: Some(clock), ..options }).await, of_test)
    }

    pub(crate) async fn with(change: impl FnOnce(Options) -> Options) -> World {
        let server = PrivatePostgres::shared_durable();
        let database = server.fresh_database();
        let options = change(Options::new(server.url(&database)));
        PostgresStore::migrate(options.clone()).await.unwrap();
        World { server, database, options }
    }

    pub(crate) async fn open(&self) -> PostgresStore {
        PostgresStore::open(self.options.clone()).await.unwrap()
    }

    /// What the database says.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.database, sql).unwrap().trim().to_owned()
    }
}

/// Sessions of stores.
pub(crate) const SESSIONS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'semel' AND datname = current_database()";

/// Claims the n-th key and settles it.
pub(crate) async fn claim_and_settle(store: &PostgresStore, n: u64) {
    let claim = put(None, stamp(n, 1), in_flight(n));
    assert_eq!(store.swap(&key(n), &claim).await, Ok(Swapped::Done));
    let settle = put(Some(stamp(n, 1)), stamp(n, 2), completed(n, "done"));
    assert_eq!(store.swap(&key(n), &settle).await, Ok(Swapped::Done));
}

/// Polls until it is so, for as long as a busy machine may need.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let mut again = tokio::time::interval(Duration::from_millis(20));
    let polling = async {
        while !is_so().await {
            again.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), polling)
        .await
        .unwrap_or_else(|_| panic!("not within a minute: {what}"));
}

/// A proxy before a server, which cannot be started where tasks run.
pub(crate) fn proxy(server: &PrivatePostgres) -> TcpProxy {
    let port = server.port();
    std::thread::spawn(move || TcpProxy::start(port)).join().expect("it does not panic").unwrap()
}
