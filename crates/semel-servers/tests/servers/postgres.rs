use std::fs;

use semel_servers::{PostgresOptions, PrivatePostgres, Replication, Tls};

#[test]
fn a_crash_loses_no_commit_and_the_port_stays() {
    let server = PrivatePostgres::start_with(PostgresOptions { fsync: true, ..PostgresOptions::default() }).unwrap();
    let (database, port) = (server.fresh_database(), server.port());
    assert_ne!(database, server.fresh_database());
    server.psql(&database, "CREATE TABLE t AS SELECT 7 AS seven, 'x' AS x").unwrap();
    assert_eq!(server.psql(&database, "SHOW fsync").unwrap(), "on");
    server.stop_immediately();
    assert!(server.psql(&database, "SELECT 1").is_err());
    server.start_again().unwrap();
    assert_eq!(server.psql(&database, "SELECT * FROM t").unwrap(), "7|x");
    server.restart().unwrap();
    assert_eq!(server.psql(&database, "SELECT * FROM t").unwrap(), "7|x");
    assert_eq!(server.port(), port);
    let error = server.psql(&database, "SELECT nonsense").unwrap_err().to_string();
    assert!(error.contains("nonsense"), "{error}");
    let folder = server.folder().to_owned();
    assert!(folder.exists());
    drop(server);
    assert!(!folder.exists());
}

#[test]
fn a_replica_follows_and_takes_over() {
    let primary = PrivatePostgres::start().unwrap();
    let asynchronous = primary.replica(Replication::Asynchronous).unwrap();
    let first = primary.replica(Replication::Synchronous).unwrap();
    let replica = primary.replica(Replication::Synchronous).unwrap();
    primary.psql("postgres", "CREATE TABLE t (a int)").unwrap();
    assert_eq!(replica.psql("postgres", "SELECT pg_is_in_recovery()").unwrap(), "t");
    assert!(replica.psql("postgres", "INSERT INTO t VALUES (1)").is_err());
    let how = "SELECT sync_state FROM pg_stat_replication ORDER BY 1";
    assert_eq!(primary.psql("postgres", how).unwrap(), "async\nasync\nsync");
    primary.psql("postgres", "INSERT INTO t VALUES (1)").unwrap();
    primary.stop_immediately();
    replica.promote().unwrap();
    assert_eq!(replica.psql("postgres", "INSERT INTO t VALUES (2); SELECT sum(a) FROM t").unwrap(), "3");
    drop((asynchronous, first));
}

#[test]
fn passwords_and_certificates_are_asked_for() {
    let options = PostgresOptions {
        tls: Tls::Mutual,
        password: Some("it's secret".to_owned()),
        settings: vec![("work_mem".to_owned(), "1MB".to_owned())],
        ..PostgresOptions::default()
    };
    let server = PrivatePostgres::start_with(options).unwrap();
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(server.psql("postgres", encrypted).unwrap(), "t");
    assert_eq!(server.psql("postgres", "SHOW work_mem").unwrap(), "1MB");
    assert!(server.ca_file().is_file());
    let replica = server.replica(Replication::Synchronous).unwrap();
    assert_eq!(replica.psql("postgres", encrypted).unwrap(), "t");
    fs::remove_file(server.client_cert_file()).unwrap();
    assert!(server.psql("postgres", encrypted).unwrap_err().to_string().contains("certificate"));
}
