use semel_servers::{PrivateRedis, RedisOptions, Tls, until};

#[test]
fn what_was_answered_survives_a_crash() {
    let server = PrivateRedis::start().unwrap();
    assert_eq!(server.cli(&["SET", "key", "value"]).unwrap(), "OK");
    let port = server.port();
    server.crash();
    assert!(server.cli(&["GET", "key"]).is_err());
    server.start_again().unwrap();
    assert_eq!(server.cli(&["GET", "key"]).unwrap(), "value");
    server.restart().unwrap();
    assert_eq!(server.cli(&["GET", "key"]).unwrap(), "value");
    assert_eq!(server.port(), port);
    let folder = server.folder().to_owned();
    drop(server);
    assert!(!folder.exists());
}

#[test]
fn without_its_log_a_restart_forgets() {
    let server = PrivateRedis::start_with(RedisOptions { appendonly: false, ..RedisOptions::default() }).unwrap();
    server.cli(&["SET", "key", "value"]).unwrap();
    server.restart().unwrap();
    assert_eq!(server.cli(&["GET", "key"]).unwrap(), "");
}

#[test]
fn a_replica_follows_and_a_paused_one_ends_like_any_other() {
    let primary = PrivateRedis::start().unwrap();
    let options = RedisOptions { replica_of: Some(primary.port()), ..RedisOptions::default() };
    let replica = PrivateRedis::start_with(options).unwrap();
    replica.pause();
    primary.cli(&["SET", "key", "value"]).unwrap();
    replica.resume();
    until(|| replica.cli(&["GET", "key"]).unwrap() == "value").unwrap();
    assert!(replica.cli(&["SET", "key", "other"]).is_err());
    // A paused one ends like any other.
    replica.pause();
    replica.restart().unwrap();
    replica.pause();
}

#[test]
fn passwords_and_certificates_are_asked_for() {
    let options = RedisOptions {
        password: Some("it's secret".to_owned()),
        tls: Tls::Mutual,
        settings: vec![("maxmemory".to_owned(), "100mb".to_owned())],
        ..RedisOptions::default()
    };
    let server = PrivateRedis::start_with(options).unwrap();
    assert_eq!(server.cli(&["CONFIG", "GET", "maxmemory"]).unwrap(), "maxmemory\n104857600");
    assert_eq!(server.cli(&["CONFIG", "GET", "tls-auth-clients"]).unwrap(), "tls-auth-clients\nyes");
    assert!(server.url().starts_with("rediss://:it%27s%20secret@"));
}
