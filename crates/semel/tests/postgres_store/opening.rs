//! What an opening refuses, and what it says.

use semel::{
    store::{
        Store as _,
        postgres::{Options, PostgresStore},
        shared::{OpenError, Password, Severity, Tls},
    },
    testkit::sample::{in_flight, key, put, stamp},
};
use semel_servers::{PostgresOptions, PrivatePostgres, Replication};

use super::world::{SESSIONS, World, claim_and_settle};

async fn refusal(options: Options) -> OpenError {
    PostgresStore::open(options).await.expect_err("it is to be refused")
}

#[tokio::test]
async fn a_database_without_tables_is_refused_until_it_is_migrated_once() {
    let server = PrivatePostgres::shared_durable();
    let options = Options::new(server.url(&server.fresh_database()));
    let refused = refusal(options.clone()).await.to_string();
    assert!(refused.contains("semel store migrate"), "{refused}");

    let (one, other) = tokio::join!(PostgresStore::migrate(options.clone()), PostgresStore::migrate(options.clone()));
    assert!(one.unwrap().changed | other.unwrap().changed);
    claim_and_settle(&PostgresStore::open(options.clone()).await.unwrap(), 1).await;
    assert!(!PostgresStore::migrate(options.clone()).await.unwrap().changed, "and then there is nothing to do");
    let store = PostgresStore::open(options).await.unwrap();
    assert!(store.load(&key(1)).await.unwrap().is_some(), "what was there is still there");
}

#[tokio::test]
async fn the_printed_sql_makes_the_same_tables() {
    let server = PrivatePostgres::shared_durable();
    let database = server.fresh_database();
    server.psql(&database, &PostgresStore::migrations_sql()).unwrap();
    server.psql(&database, &PostgresStore::migrations_sql()).expect("run twice, it changes nothing");
    claim_and_settle(&PostgresStore::open(Options::new(server.url(&database))).await.unwrap(), 1).await;
}

#[tokio::test]
async fn tables_of_another_release_are_refused_with_both_versions() {
    let world = World::new().await;
    world.sql("UPDATE semel_meta SET version = 7");
    let refused = refusal(world.options.clone()).await;
    assert!(matches!(refused, OpenError::NewerSchema { found: 7, known: 1 }), "{refused}");
    world.sql("UPDATE semel_meta SET version = 0");
    let refused = refusal(world.options.clone()).await;
    assert!(matches!(refused, OpenError::NotMigrated { .. }), "{refused}");
}

#[tokio::test]
async fn k15_a_server_that_would_lose_records_is_refused_unless_that_is_accepted() {
    let world = World::new().await;
    world.sql(&format!("ALTER DATABASE {} SET synchronous_commit = off", world.database));
    let OpenError::Refused(findings) = refusal(world.options.clone()).await else {
        panic!("refused for another reason")
    };
    assert!(findings.iter().any(|f| f.severity == Severity::Fatal && f.what.contains("synchronous_commit")));

    let store = PostgresStore::open(Options { accept_loss: true, ..world.options.clone() }).await.unwrap();
    claim_and_settle(&store, 1).await;
    let found = store.check().await.unwrap();
    assert!(found.iter().any(|f| f.severity == Severity::Fatal && f.what.contains("synchronous_commit")), "{found:?}");

    // The shared server of other tests does not sync.
    let server = PrivatePostgres::shared();
    let options = Options::new(server.url(&server.fresh_database()));
    PostgresStore::migrate(options.clone()).await.unwrap();
    let refused = refusal(options).await.to_string();
    assert!(refused.contains("fsync is off"), "{refused}");
}

#[tokio::test]
async fn a_role_that_only_reads_is_refused() {
    let world = World::new().await;
    world.sql(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", world.database));
    let refused = refusal(world.options.clone()).await.to_string();
    assert!(refused.contains("takes no writes"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_refused_and_among_several_hosts_the_primary_is_found_again() {
    let options = PostgresOptions { fsync: true, ..PostgresOptions::default() };
    let primary = PrivatePostgres::start_with(options).unwrap();
    let database = primary.fresh_database();
    PostgresStore::migrate(Options::new(primary.url(&database))).await.unwrap();
    let replica = primary.replica(Replication::Synchronous).unwrap();

    let refused = refusal(Options::new(replica.url(&database))).await.to_string();
    assert!(refused.contains("standby"), "{refused}");

    let both = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{database}", replica.port(), primary.port());
    let store = PostgresStore::open(Options::new(both)).await.unwrap();
    for n in 0..20 {
        claim_and_settle(&store, n).await;
    }
    primary.stop_immediately();
    replica.promote().unwrap();
    super::world::until("a promoted replica is found", async || store.probe().await.is_ok()).await;
    for n in 0..20 {
        let found = store.load(&key(n)).await.unwrap();
        assert_eq!(found.map(|found| found.stamp), Some(stamp(n, 2)), "what was done is on the replica");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_at_once_and_by_name() {
    let options = Options::new("postgres://semel:hunter2@127.0.0.1:1/none");
    let refused = refusal(options).await;
    let OpenError::Unreachable { server, .. } = &refused else { panic!("{refused}") };
    assert_eq!(server, "127.0.0.1:1");
}

#[tokio::test]
async fn no_error_and_no_debug_has_the_password() {
    let options = PostgresOptions { password: Some("h/unter@2".into()), ..PostgresOptions::default() };
    let server = PrivatePostgres::start_with(options).unwrap();
    let database = server.fresh_database();
    let port = server.port();
    let urls = [
        format!("postgres://postgres:hunter2@127.0.0.1:{port}/{database}"),
        "postgres://postgres:hunter2@127.0.0.1:1/x".to_owned(),
        format!("postgres://postgres:a#b@hunter2@127.0.0.1:{port}/x"),
        "postgres://postgres:hunter2@host:port/x".to_owned(),
        "postgres://postgres:hunter2@127.0.0.1/x?sslmode=hunter2".to_owned(),
        "postgres://postgres@127.0.0.1/x?password=hunter2&hunter2=1".to_owned(),
        "mysql://postgres:hunter2@127.0.0.1/x".to_owned(),
    ];
    for url in urls {
        let options = Options::new(&url);
        let shown = format!("{options:?}");
        let refused = refusal(options).await;
        for text in [shown, refused.to_string(), format!("{refused:?}")] {
            assert!(!text.contains("hunter2"), "{url}: {text}");
        }
    }

    let right = Options {
        password: Some(Password::new("h/unter@2")),
        accept_loss: true,
        ..Options::new(format!("postgres://postgres:wrong@127.0.0.1:{port}/{database}"))
    };
    PostgresStore::migrate(right.clone()).await.unwrap();
    let store = PostgresStore::open(right.clone()).await.unwrap();
    claim_and_settle(&store, 1).await;
    assert!(!format!("{right:?} {store:?}").contains("unter"));
}

#[tokio::test]
async fn tls_is_used_and_checked_and_the_client_shows_its_certificate() {
    let options = PostgresOptions { tls: semel_servers::Tls::Mutual, ..PostgresOptions::default() };
    let server = PrivatePostgres::start_with(options).unwrap();
    let trusting = Options {
        tls: Tls {
            ca_file: Some(server.ca_file()),
            client_cert_file: Some(server.client_cert_file()),
            client_key_file: Some(server.client_key_file()),
        },
        accept_loss: true,
        ..Options::new(server.url(&server.fresh_database()))
    };
    PostgresStore::migrate(trusting.clone()).await.unwrap();
    let store = PostgresStore::open(trusting.clone()).await.unwrap();
    claim_and_settle(&store, 1).await;

    let unknown_ca = Options { tls: Tls { ca_file: None, ..trusting.tls.clone() }, ..trusting.clone() };
    assert!(matches!(refusal(unknown_ca).await, OpenError::Unreachable { .. }), "nobody here trusts its certificate");
    let nameless = Tls { client_cert_file: None, client_key_file: None, ..trusting.tls.clone() };
    assert!(matches!(refusal(Options { tls: nameless, ..trusting }).await, OpenError::Unreachable { .. }));
}

#[tokio::test]
async fn many_who_migrate_at_once_make_the_tables_once() {
    let server = PrivatePostgres::shared_durable();
    for _ in 0..5 {
        let options = Options::new(server.url(&server.fresh_database()));
        let migrations = (0..8).map(|_| tokio::spawn(PostgresStore::migrate(options.clone())));
        for migrated in futures_util::future::join_all(migrations).await {
            migrated.unwrap().unwrap();
        }
        PostgresStore::open(options).await.unwrap();
    }
}

#[tokio::test]
async fn two_gateways_agree_on_one_secret_or_the_second_is_told() {
    let world = World::new().await;
    let (one, other) = (world.open().await, world.open().await);
    let (a, b) = tokio::join!(one.agree_on([1; 32]), other.agree_on([2; 32]));
    assert!(a.unwrap() ^ b.unwrap(), "of two that start at once one is the first");
    let first = if one.agree_on([1; 32]).await.unwrap() { [1; 32] } else { [2; 32] };
    for store in [&one, &other] {
        assert_eq!(store.agree_on(first).await, Ok(true));
        assert_eq!(store.agree_on([3; 32]).await, Ok(false));
    }
}

#[tokio::test]
async fn figures_count_what_lives() {
    let (world, clock) = World::at_rest().await;
    let store = world.open().await;
    claim_and_settle(&store, 1).await;
    for n in 2..4 {
        store.swap(&key(n), &put(None, stamp(n, 1), in_flight(n))).await.unwrap();
    }
    let unknown = semel::testkit::sample::unknown(4);
    store.swap(&key(4), &put(None, stamp(4, 1), unknown)).await.unwrap();
    clock.advance(std::time::Duration::from_secs(5));
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.in_flight, stats.unknown, stats.completed, stats.held), (2, 1, 1, 0));
    assert_eq!(stats.oldest_unknown, Some(std::time::Duration::from_secs(5)));
    assert_eq!((stats.partitions, stats.epoch), (1, 1));
    assert!(stats.bytes > 0);
}

#[tokio::test]
async fn a_store_whose_handles_are_gone_leaves_no_connections() {
    let world = World::new().await;
    let store = world.open().await;
    claim_and_settle(&store, 1).await;
    let count = || world.sql(SESSIONS);
    assert_ne!(count(), "0");
    let clone = store.clone();
    drop(store);
    claim_and_settle(&clone, 2).await;
    drop(clone);
    super::world::until("they are closed", async || count() == "0").await;
}
