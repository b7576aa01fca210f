//! Servers that would lose records, and how they are refused.

use semel::store::{
    Store as _, StoreError,
    redis::{Options, RedisStore},
    shared::{OpenError, Password, Severity, Tls, Url},
};
use semel_servers::{PrivateRedis, RedisOptions};

use super::{open, options, refusal, start};

#[tokio::test]
async fn k15_a_server_that_forgets_is_refused_with_what_would_be_lost() {
    let primary = PrivateRedis::shared();
    let cases = [
        (
            RedisOptions { appendonly: false, ..RedisOptions::default() },
            "has appendonly no: when it restarts, every record since its last snapshot is lost, and retries of what they protect execute again; set appendonly yes and appendfsync always",
        ),
        (
            RedisOptions { maxmemory_policy: "allkeys-lru", ..RedisOptions::default() },
            "has maxmemory-policy allkeys-lru: when memory runs out, records are lost without a trace, and retries of what they protect execute again; set maxmemory-policy noeviction",
        ),
        (
            RedisOptions { maxmemory_policy: "volatile-ttl", ..RedisOptions::default() },
            "has maxmemory-policy volatile-ttl: when memory runs out, records are lost without a trace, and retries of what they protect execute again; set maxmemory-policy noeviction",
        ),
        (
            RedisOptions { replica_of: Some(primary.port()), ..RedisOptions::default() },
            "is a replica: what is written there is lost when it next follows its primary, and what is read there may be old, so that retries execute again; connect to the primary",
        ),
    ];
    for (server, text) in cases {
        let server = start(server);
        let options = options(&server);
        let text = format!("127.0.0.1:{} {text}", server.port());
        let refused = refusal(options.clone()).await;
        assert!(matches!(&refused, OpenError::Refused(findings) if findings.len() == 1), "{refused:?}");
        assert_eq!(refused.to_string(), text);

        // Whoever accepts the loss is told all the same.
        let store = open(&Options { accept_loss: true, ..options }).await;
        let findings = store.check().await.expect("it answers");
        let fatal: Vec<String> =
            findings.iter().filter(|finding| finding.severity == Severity::Fatal).map(ToString::to_string).collect();
        assert_eq!(fatal, [text]);
    }
}

#[tokio::test]
async fn k15_a_server_that_comes_back_without_its_log_is_not_used() {
    let server = start(RedisOptions::default());
    let store = open(&options(&server)).await;
    assert_eq!(store.probe().await, Ok(()));
    // As an operator could have done who then restarted it with another file of settings.
    server.cli(&["CONFIG", "SET", "appendonly", "no"]).unwrap();
    server.cli(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
    let refused = store.probe().await;
    assert!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("has appendonly no")), "{refused:?}");
    server.cli(&["CONFIG", "SET", "appendonly", "yes"]).unwrap();
    assert_eq!(store.probe().await, Ok(()));
}

#[tokio::test]
async fn what_a_crash_of_the_machine_can_lose_is_a_warning() {
    for (appendfsync, severity, text) in [
        ("everysec", Severity::Warning, "up to two seconds of confirmed records are lost"),
        ("no", Severity::Warning, "half a minute of them or more"),
    ] {
        let server = start(RedisOptions { appendfsync, ..RedisOptions::default() });
        let findings = open(&options(&server)).await.check().await.expect("it answers");
        let found = findings.iter().find(|finding| finding.what.contains(text));
        assert_eq!(found.map(|finding| finding.severity), Some(severity), "{findings:?}");
    }
    let server = PrivateRedis::shared();
    let findings = open(&options(server)).await.check().await.expect("it answers");
    assert!(findings.iter().all(|finding| finding.severity == Severity::Note), "{findings:?}");
}

#[tokio::test]
async fn what_cannot_be_is_refused_whatever_is_accepted() {
    let server = PrivateRedis::shared();
    let options = Options { accept_loss: true, ..options(server) };
    let cluster = server.url().replace("redis://", "redis+cluster://");
    let refused = refusal(Options { url: Url::new(cluster), ..options.clone() }).await.to_string();
    assert!(refused.contains("not part of a Cluster"), "{refused}");
    let version = server.cli(&["INFO", "server"]).unwrap();
    if version.contains("redis_version:7.0") {
        let refused = refusal(Options { local_aof: true, ..options }).await.to_string();
        assert!(refused.starts_with("local_aof needs WAITAOF of Redis 7.2 or Valkey"), "{refused}");
    }
}

#[tokio::test]
async fn a_password_is_never_told() {
    let password = "hunter2 & co";
    let server = start(RedisOptions { password: Some(password.to_owned()), ..RedisOptions::default() });
    let good = options(&server);
    let store = open(&good).await;
    let bare = Options::new(format!("redis://127.0.0.1:{}", server.port()));
    let by_option = Options { password: Some(Password::new(password)), ..bare.clone() };
    open(&by_option).await;

    let wrong = Options { password: Some(Password::new("wrong-hunter2")), ..bare.clone() };
    let gone = Options::new("redis://:hunter2@127.0.0.1:1");
    let mut texts = vec![format!("{good:?} {by_option:?} {store:?}")];
    for options in [wrong, bare, gone] {
        let refused = refusal(options.clone()).await;
        assert!(matches!(refused, OpenError::Unreachable { .. }), "{refused:?}");
        texts.push(format!("{refused} {refused:?} {options:?}"));
    }
    // A password that is changed while the gateway runs.
    server.cli(&["CONFIG", "SET", "requirepass", "another"]).unwrap();
    let _ = server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    let refused = store.probe().await.expect_err("its password is no longer taken");
    texts.push(format!("{refused} {refused:?}"));
    for text in texts {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn connections_are_encrypted_and_both_sides_are_known() {
    let server = start(RedisOptions { tls: semel_servers::Tls::Mutual, ..RedisOptions::default() });
    let tls = Tls {
        ca_file: Some(server.ca_file()),
        client_cert_file: Some(server.client_cert_file()),
        client_key_file: Some(server.client_key_file()),
    };
    let good = Options { tls, ..options(&server) };
    assert_eq!(open(&good).await.probe().await, Ok(()));

    let stranger = Options { tls: Tls { ca_file: good.tls.ca_file.clone(), ..Tls::default() }, ..good.clone() };
    let trusting_others = Options { tls: Tls { ca_file: None, ..good.tls.clone() }, ..good.clone() };
    let plain = Options { url: Url::new(server.url().replace("rediss://", "redis://")), ..good };
    for options in [stranger, trusting_others, plain] {
        let refused = refusal(options).await;
        assert!(matches!(refused, OpenError::Unreachable { .. }), "{refused:?}");
    }
}

#[tokio::test]
async fn gateways_with_different_secrets_do_not_agree() {
    let options = options(PrivateRedis::shared());
    let (one, other): (RedisStore, RedisStore) = (open(&options).await, open(&options).await);
    assert_eq!(one.agree_on([1; 32]).await, Ok(true));
    assert_eq!(one.agree_on([1; 32]).await, Ok(true));
    assert_eq!(other.agree_on([1; 32]).await, Ok(true));
    assert_eq!(other.agree_on([2; 32]).await, Ok(false));
    let elsewhere = open(&Options { prefix: format!("{}more:", options.prefix), ..options }).await;
    assert_eq!(elsewhere.agree_on([2; 32]).await, Ok(true));
}
