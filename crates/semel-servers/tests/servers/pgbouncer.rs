use semel_servers::{PgBouncer, PoolMode, PostgresOptions, PrivatePostgres, Tls};

#[test]
fn clients_of_a_pooler_share_a_connection_to_the_server() {
    let server = PrivatePostgres::shared();
    let bouncer = PgBouncer::start(server, PoolMode::Transaction).unwrap();
    let database = server.fresh_database();
    let mine = "SELECT pg_backend_pid()";
    let first = bouncer.psql(&database, mine).unwrap();
    assert_eq!(bouncer.psql(&database, mine).unwrap(), first);
    // What one asks of its session is there for the next.
    bouncer.psql(&database, "SET work_mem = '1234kB'").unwrap();
    assert_eq!(bouncer.psql(&database, "SHOW work_mem").unwrap(), "1234kB");
    bouncer.crash();
    assert!(bouncer.psql(&database, mine).is_err());
    bouncer.start_again().unwrap();
    assert_ne!(bouncer.psql(&database, mine).unwrap(), first);
}

#[test]
fn it_has_the_password_and_the_certificate_of_the_server() {
    let options =
        PostgresOptions { tls: Tls::Mutual, password: Some("it's secret".to_owned()), ..PostgresOptions::default() };
    let server = PrivatePostgres::start_with(options).unwrap();
    for mode in [PoolMode::Session, PoolMode::Statement] {
        let bouncer = PgBouncer::start(&server, mode).unwrap();
        assert_eq!(bouncer.psql("postgres", "SELECT 7").unwrap(), "7");
    }
}
