//! The PostgreSQL store in the suite, on a server of the tests' own.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use expect_test::expect;
use semel::{
    store::{
        SimulatedClock, Store,
        postgres::{Options, PostgresStore},
    },
    testkit::{Harness, Keeps, START_MS, Subject, Sweeps, suite},
};
use semel_servers::PrivatePostgres;

#[derive(Debug)]
struct Postgres {
    connections: usize,
    prepared: bool,
}

struct PostgresSubject {
    clock: Arc<SimulatedClock>,
    options: Options,
    store: Option<PostgresStore>,
    another: Option<PostgresStore>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_connections() {
    passes(Postgres { connections: 4, prepared: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_connection_and_nothing_prepared() {
    passes(Postgres { connections: 1, prepared: false }).await;
}

async fn passes(harness: Postgres) {
    let outcomes = suite::run(&harness).await;
    suite::assert_all_pass(&outcomes);
    super::does_not_apply(
        &outcomes,
        &expect![[r"
            a sweep removes at most its limit, and all when called until it answers less
            opened again by its one owner, what was in flight is abandoned, and new claims are not
        "]],
    );
}

#[async_trait]
impl Harness for Postgres {
    fn keeps(&self) -> Keeps {
        Keeps::Records
    }

    fn sweeps(&self) -> Sweeps {
        Sweeps::InBulk
    }

    async fn fresh(&self) -> Box<dyn Subject> {
        let server = PrivatePostgres::shared();
        let clock = Arc::new(SimulatedClock::at(START_MS));
        let options = Options {
            connections: self.connections,
            prepared: self.prepared,
            accept_loss: true,
            clock: Some(clock.clone()),
            ..Options::new(server.url(&server.fresh_database()))
        };
        PostgresStore::migrate(options.clone()).await.expect("an empty database");
        let mut subject = PostgresSubject { clock, options, store: None, another: None };
        subject.open().await;
        Box::new(subject)
    }
}

impl PostgresSubject {
    async fn open(&mut self) {
        self.store = Some(PostgresStore::open(self.options.clone()).await.expect("a migrated database"));
        self.another = Some(PostgresStore::open(self.options.clone()).await.expect("a migrated database"));
    }
}

#[async_trait]
impl Subject for PostgresSubject {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone().expect("open"))
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn another(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::new(self.another.clone().expect("open")))
    }

    async fn reopen(&mut self) {
        (self.store, self.another) = (None, None);
        self.open().await;
    }
}
