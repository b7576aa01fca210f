//! Gateways on shared stores as an operator meets them: prepared, refused, reached by TLS, counted.

use std::time::{Duration, Instant};

use semel_servers::{
    Mode, PgBouncer, PoolMode, PostgresOptions, PrivatePostgres, PrivateRedis, RedisCluster, RedisOptions, TcpProxy,
    Tls,
};

use crate::harness::{
    Gateway, Origin, Said, Setup, assert_problem, assert_replay, gateway, get, migrate, post, semel, send, until,
};

const PASSWORD: &str = "hunter2:is/not@shown";

/// A database of its own, prepared.
async fn prepared() -> String {
    let server = PrivatePostgres::shared_durable();
    let url = server.url(&server.fresh_database());
    migrate(&url).await;
    url
}

/// What `semel serve` says where it must refuse to start. That it ends is what is tested: nobody stops it.
async fn refusal(setup: &Setup, code: i32) -> Said {
    let said = setup.run().await;
    assert_eq!(said.code, code, "{said:?}");
    assert!(!said.stderr.contains("listening"), "{said:?}");
    said
}

#[track_caller]
fn assert_says(said: &Said, words: &[&str]) {
    for word in words {
        assert!(said.stderr.contains(word) || said.stdout.contains(word), "{word:?} in {said:?}");
    }
}

/// Two gateways are one service: what one did, the other replays.
async fn assert_one_service(first: &Gateway, second: &Gateway, origin: &Origin, key: &str) {
    let effects = origin.effects();
    let done = first.send(&post("/orders").key(key)).await;
    assert_eq!(done.status, 201, "{done:?}");
    assert_replay(&done, &second.send(&post("/orders").key(key)).await);
    assert_eq!(origin.effects(), effects + 1);
}

#[tokio::test]
async fn a_database_without_tables_is_refused_and_left_as_it_is() {
    let server = PrivatePostgres::shared_durable();
    let database = server.fresh_database();
    let url = server.url(&database);
    let origin = Origin::start().await;
    let said = refusal(&gateway(&origin).on(&url), 1).await;
    assert_says(&said, &["semel store migrate", &format!("127.0.0.1:{}/{database}", server.port())]);
    let tables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'semel%'";
    assert_eq!(server.psql(&database, tables).expect("it answers").trim(), "0");
    for command in ["check", "stats"] {
        let said = semel(&["store", command, "--store", &url], &[]).await;
        assert_eq!(said.code, 1, "{said:?}");
        assert_says(&said, &["semel store migrate"]);
    }

    let said = semel(&["store", "migrate", "--store", &url], &[]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_says(&said, &["the tables are made"]);
    let said = semel(&["store", "migrate"], &[("SEMEL_STORE", &url)]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_says(&said, &["nothing to do"]);

    let first = gateway(&origin).on(&url).start().await;
    let second = gateway(&origin).on(&url).start().await;
    assert!(first.log().contains(&format!("records in PostgreSQL at 127.0.0.1:{}/{database}", server.port())));
    assert_one_service(&first, &second, &origin, "k1").await;
}

#[tokio::test]
async fn the_printed_sql_is_what_migrate_runs() {
    let server = PrivatePostgres::shared_durable();
    let database = server.fresh_database();
    let said = semel(&["store", "migrate", "--print"], &[]).await;
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    server.psql(&database, &said.stdout).expect("psql runs it");
    let said = semel(&["store", "migrate", "--store", &server.url(&database)], &[]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_says(&said, &["nothing to do"]);
}

#[tokio::test]
async fn tables_of_a_newer_release_are_refused() {
    let server = PrivatePostgres::shared_durable();
    let database = server.fresh_database();
    let url = server.url(&database);
    migrate(&url).await;
    server.psql(&database, "UPDATE semel_meta SET version = 999").expect("it is updated");
    let origin = Origin::start().await;
    assert_says(&refusal(&gateway(&origin).on(&url), 1).await, &["999", "newer release"]);
    let said = semel(&["store", "migrate", "--store", &url], &[]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert_says(&said, &["newer release"]);
}

/// Two secrets would be two records for one request.
async fn assert_one_secret(url: &str) {
    let origin = Origin::start().await;
    let first = gateway(&origin).on_with_own_secret(url).start().await;
    let stranger = gateway(&origin).on_with_own_secret(url);
    let said = refusal(&stranger, 2).await;
    assert_says(&said, &["another secret", "--secret-file", "SEMEL_SECRET_FILE", "secret_file"]);
    let copied = first.setup.data().join("secret");
    let second = gateway(&origin).on_with_own_secret(url).env("SEMEL_SECRET_FILE", &copied.display().to_string());
    let second = second.start().await;
    assert_one_service(&first, &second, &origin, "k1").await;
    assert!(!second.setup.data().exists(), "whoever has a secret file needs no folder");
    // The one that was refused has left nothing that would keep the others out.
    let first = first.restart().await;
    assert_one_service(&second, &first, &origin, "k2").await;
}

#[tokio::test]
async fn a_gateway_with_another_secret_is_refused_on_postgres() {
    assert_one_secret(&prepared().await).await;
}

#[tokio::test]
async fn a_gateway_with_another_secret_is_refused_on_redis() {
    assert_one_secret(&PrivateRedis::start().expect("it starts").url()).await;
}

/// A password works from each place that may have it, and is in no output, right or wrong.
async fn assert_password(plain: &str, with: impl Fn(&str) -> String) {
    let origin = Origin::start().await;
    let encoded = PASSWORD.replace(':', "%3A").replace('/', "%2F").replace('@', "%40");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("{PASSWORD}\n")).expect("it is written");
    let from_file = format!("[store]\npassword_file = \"{}\"\n", file.path().display());
    let in_url = with(&encoded);
    let setups = [
        ("in the URL", gateway(&origin).on(&in_url)),
        ("in the environment", gateway(&origin).on(plain).env("SEMEL_STORE_PASSWORD", PASSWORD)),
        ("in a file", gateway(&origin).on(plain).config(&from_file)),
    ];
    for (n, (place, setup)) in setups.into_iter().enumerate() {
        let debug = setup.env("SEMEL_LOG", "trace");
        let mut gateway = debug.start().await;
        let done = gateway.send(&post("/orders").key(&format!("k{n}"))).await;
        assert_eq!(done.status, 201, "{place}: {done:?}");
        gateway.signal("TERM");
        gateway.ended().await;
        assert_hidden(&gateway.log());
        assert_eq!(gateway.log().contains("the password of the store is in its URL"), n == 0, "{place}");
    }
    for wrong in [
        gateway(&origin).on(plain),
        gateway(&origin).on(&with("hunter2-is-wrong")),
        gateway(&origin).on(plain).env("SEMEL_STORE_PASSWORD", "hunter2-is-wrong"),
    ] {
        let said = refusal(&wrong.env("SEMEL_LOG", "trace"), 1).await;
        assert_says(&said, &["127.0.0.1:"]);
        assert_hidden(&format!("{said:?}"));
    }
    let said = refusal(&gateway(&origin).on(&in_url).config(&from_file), 2).await;
    assert_says(&said, &["give one of them"]);
    assert_hidden(&format!("{said:?}"));
    let environment = [("SEMEL_STORE", in_url.as_str()), ("SEMEL_STORE_PASSWORD", PASSWORD)];
    for help in [&["serve", "--help"][..], &["store", "check", "--help"], &["config", "show"]] {
        let said = semel(help, &environment).await;
        assert_eq!(said.code, 0, "{said:?}");
        assert_hidden(&format!("{said:?}"));
    }
    for command in ["check", "stats", "migrate"] {
        let said = semel(&["store", command, "--store", &in_url], &[]).await;
        assert_eq!(said.code, 0, "{said:?}");
        assert_hidden(&format!("{said:?}"));
    }
    assert_hidden(&format!("{:?}", semel(&["serve", "--store", &in_url.replace("://", "x://")], &[]).await));
}

#[track_caller]
fn assert_hidden(text: &str) {
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn the_password_of_postgres_is_told_to_nobody() {
    let options = PostgresOptions { fsync: true, password: Some(PASSWORD.to_owned()), ..PostgresOptions::default() };
    let server = PrivatePostgres::start_with(options).expect("it starts");
    let at = format!("127.0.0.1:{}/{}", server.port(), server.fresh_database());
    let plain = format!("postgres://postgres@{at}");
    let said = semel(&["store", "migrate", "--store", &plain], &[("SEMEL_STORE_PASSWORD", PASSWORD)]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_password(&plain, |password| format!("postgres://postgres:{password}@{at}")).await;
}

#[tokio::test]
async fn the_password_of_redis_is_told_to_nobody() {
    let options = RedisOptions { password: Some(PASSWORD.to_owned()), ..RedisOptions::default() };
    let server = PrivateRedis::start_with(options).expect("it starts");
    let at = format!("127.0.0.1:{}", server.port());
    assert_password(&format!("redis://{at}"), |password| format!("redis://:{password}@{at}")).await;
}

/// TLS is checked against the private authority, and refused without it.
async fn assert_tls(url: &str, ca: &std::path::Path, client: Option<(&std::path::Path, &std::path::Path)>) {
    let origin = Origin::start().await;
    let mut table = format!("[store]\nurl = \"{url}\"\nca_file = \"{}\"\n", ca.display());
    let said = refusal(&gateway(&origin).on(url), 1).await;
    assert_says(&said, &["127.0.0.1:", "certificate"]);
    if let Some((certificate, key)) = client {
        refusal(&gateway(&origin).config(&table), 1).await;
        table = format!(
            "{table}client_cert_file = \"{}\"\nclient_key_file = \"{}\"\n",
            certificate.display(),
            key.display()
        );
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &table).expect("it is written");
    let path = file.path().display().to_string();
    for command in ["migrate", "check", "stats"] {
        let said = semel(&["store", command, "--config", &path], &[]).await;
        assert_eq!(said.code, 0, "{said:?}");
    }
    let gateway = gateway(&origin).config(&table).start().await;
    assert_eq!(gateway.send(&post("/orders").key("k")).await.status, 201);
}

#[tokio::test]
async fn postgres_is_reached_by_tls_whose_certificate_is_checked() {
    for tls in [Tls::Server, Tls::Mutual] {
        let options = PostgresOptions { fsync: true, tls, ..PostgresOptions::default() };
        let server = PrivatePostgres::start_with(options).expect("it starts");
        let (certificate, key) = (server.client_cert_file(), server.client_key_file());
        let client = (tls == Tls::Mutual).then_some((certificate.as_path(), key.as_path()));
        assert_tls(&server.url(&server.fresh_database()), &server.ca_file(), client).await;
    }
}

#[tokio::test]
async fn redis_is_reached_by_tls_whose_certificate_is_checked() {
    for tls in [Tls::Server, Tls::Mutual] {
        let server = PrivateRedis::start_with(RedisOptions { tls, ..RedisOptions::default() }).expect("it starts");
        let (certificate, key) = (server.client_cert_file(), server.client_key_file());
        let client = (tls == Tls::Mutual).then_some((certificate.as_path(), key.as_path()));
        assert_tls(&server.url(), &server.ca_file(), client).await;
    }
}

/// What would be lost is refused with words about it, told by `check`, and accepted only when somebody says so.
async fn assert_loss(url: &str, words: &[&str]) {
    let origin = Origin::start().await;
    let said = refusal(&gateway(&origin).on(url), 1).await;
    assert_says(&said, words);
    assert_says(&said, &["accept_loss"]);
    let said = semel(&["store", "check", "--store", url], &[]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert_says(&said, words);
    assert_says(&said, &["fatal: "]);
    let gateway = gateway(&origin).on(url).config("[store]\naccept_loss = true\n").start().await;
    assert!(words.iter().all(|word| gateway.log().contains(word)), "it is warned of: {}", gateway.log());
    assert_eq!(gateway.send(&post("/orders").key("k")).await.status, 201);
}

#[tokio::test]
async fn a_postgres_that_loses_commits_is_refused_unless_that_is_accepted() {
    let server = PrivatePostgres::shared();
    let url = server.url(&server.fresh_database());
    migrate(&url).await;
    assert_loss(&url, &["fsync"]).await;
    let server = PrivatePostgres::shared_durable();
    let database = server.fresh_database();
    migrate(&server.url(&database)).await;
    let sql = format!("ALTER DATABASE {database} SET synchronous_commit = off");
    server.psql(&database, &sql).expect("it is set");
    assert_loss(&server.url(&database), &["synchronous_commit"]).await;
}

#[tokio::test]
async fn a_redis_that_forgets_is_refused_unless_that_is_accepted() {
    let forgetful = RedisOptions { appendonly: false, ..RedisOptions::default() };
    let server = PrivateRedis::start_with(forgetful).expect("it starts");
    assert_loss(&server.url(), &["appendonly"]).await;
    let evicting = RedisOptions { maxmemory_policy: "allkeys-lru", ..RedisOptions::default() };
    let server = PrivateRedis::start_with(evicting).expect("it starts");
    assert_loss(&server.url(), &["maxmemory-policy"]).await;
}

#[tokio::test]
async fn a_replica_of_redis_is_refused() {
    let primary = PrivateRedis::start().expect("it starts");
    let options = RedisOptions { replica_of: Some(primary.port()), ..RedisOptions::default() };
    let replica = PrivateRedis::start_with(options).expect("it starts");
    let origin = Origin::start().await;
    assert_says(&refusal(&gateway(&origin).on(&replica.url()), 1).await, &["replica"]);
}

#[tokio::test]
async fn a_good_store_is_found_fine() {
    let redis = PrivateRedis::start().expect("it starts");
    for url in [prepared().await, redis.url()] {
        let said = semel(&["store", "check", "--store", &url], &[]).await;
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
        assert_says(&said, &["fine: semel serve starts on it"]);
    }
}

#[tokio::test]
async fn records_are_counted_on_every_store() {
    let redis = PrivateRedis::start().expect("it starts");
    let origin = Origin::start().await;
    for setup in [gateway(&origin).on(&prepared().await), gateway(&origin).on(&redis.url()), gateway(&origin)] {
        let mut gateway = setup.start().await;
        for key in ["a", "b", "c"] {
            assert_eq!(gateway.send(&post("/orders").key(key)).await.status, 201);
        }
        gateway.signal("TERM");
        assert_eq!(gateway.ended().await.code(), Some(0), "{}", gateway.log());
        let stats = async |json: &[&str]| {
            let said = gateway.setup.store_command("stats", json).await;
            assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
            said.stdout
        };
        let figures: serde_json::Value = serde_json::from_str(&stats(&["--json"]).await).expect("JSON");
        for (member, count) in [("in_flight", 0), ("outcome_unknown", 0), ("completed", 3), ("guards_held", 0)] {
            assert_eq!(figures[member], count, "{member} in {figures}");
        }
        let table = stats(&[]).await;
        let row = |name: &str| table.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        assert_eq!((row("completed"), row("oldest unknown outcome")), (Some("3"), Some("none")), "{table}");
    }
}

#[tokio::test]
async fn where_there_is_nothing_to_do_it_is_said_plainly() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("none").display().to_string();
    for (args, code, words) in [
        (vec!["store", "migrate"], 0, "has no tables"),
        (vec!["store", "migrate", "--store", "redis://127.0.0.1:1"], 0, "has no tables"),
        (vec!["store", "check", "--data", &data], 0, "semel serve makes it"),
        (vec!["store", "stats", "--data", &data], 1, "is not there"),
        (vec!["store", "check", "--store", "memory"], 0, "nothing to check"),
        (vec!["store", "stats", "--store", "memory"], 1, "which alone can count them"),
        (vec!["store", "stats", "--store", "mongodb://127.0.0.1"], 2, "expected \"embedded\""),
    ] {
        let said = semel(&args, &[]).await;
        assert_eq!(said.code, code, "{said:?}");
        assert_says(&said, &[words]);
    }
    assert!(!folder.path().join("none").exists(), "looking makes nothing");
}

#[tokio::test]
async fn a_store_that_is_down_at_the_start_is_named_in_time() {
    let origin = Origin::start().await;
    let nobody = TcpProxy::start(1).expect("a proxy");
    let silent = TcpProxy::start(PrivatePostgres::shared_durable().port()).expect("a proxy");
    silent.set(Mode::BlackHole);
    nobody.set(Mode::Cut);
    for proxy in [&nobody, &silent] {
        let at = format!("127.0.0.1:{}", proxy.port());
        for url in [format!("postgres://postgres@{at}/x"), format!("redis://{at}")] {
            let started = Instant::now();
            let setup = gateway(&origin).on(&url).config("[store]\nconnect_max = \"300ms\"\n");
            assert_says(&refusal(&setup, 1).await, &[&at, "see that it runs"]);
            // Less than it takes without that setting.
            assert!(started.elapsed() < Duration::from_secs(4), "{url}: {:?}", started.elapsed());
        }
    }
}

/// Readiness follows the store, within its own limit of time.
async fn assert_readiness(url: &str, proxy: &TcpProxy) {
    let origin = Origin::start().await;
    let limits = "[store]\nconnect_max = \"1s\"\nstatement_max = \"1s\"\n";
    let gateway = gateway(&origin).on(url).config(limits).start().await;
    let ready = async || send(gateway.admin, &get("/readyz")).await.status;
    assert_eq!(ready().await, 200);
    for mode in [Mode::Cut, Mode::BlackHole] {
        proxy.set(mode);
        let asked = Instant::now();
        assert_eq!(ready().await, 503, "{mode:?}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{mode:?}: {:?}", asked.elapsed());
        let refused = gateway.send(&post("/orders").key("down")).await;
        assert_problem(&refused, 503, "store-unavailable");
        assert_eq!(send(gateway.admin, &get("/healthz")).await.status, 200);
        proxy.set(Mode::Pass);
        until("it is ready again", async || ready().await == 200).await;
    }
    assert_eq!(origin.effects(), 0);
}

#[tokio::test]
async fn k12_readiness_follows_a_postgres_that_goes_and_comes() {
    let server = PrivatePostgres::shared_durable();
    let database = server.fresh_database();
    migrate(&server.url(&database)).await;
    let proxy = TcpProxy::start(server.port()).expect("a proxy");
    assert_readiness(&format!("postgres://postgres@127.0.0.1:{}/{database}", proxy.port()), &proxy).await;
}

#[tokio::test]
async fn k12_readiness_follows_a_redis_that_goes_and_comes() {
    let server = PrivateRedis::start().expect("it starts");
    let proxy = TcpProxy::start(server.port()).expect("a proxy");
    assert_readiness(&format!("redis://127.0.0.1:{}", proxy.port()), &proxy).await;
}

#[tokio::test]
async fn a_gateway_that_stops_leaves_no_connection() {
    let server = PrivatePostgres::shared_durable();
    let database = server.fresh_database();
    migrate(&server.url(&database)).await;
    let origin = Origin::start().await;
    let mut gateway = gateway(&origin).on(&server.url(&database)).start().await;
    assert_eq!(gateway.send(&post("/orders").key("k")).await.status, 201);
    let sql =
        format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND application_name = 'semel'");
    let connections = || server.psql(&database, &sql).expect("it answers").trim().parse::<u32>().expect("a number");
    assert!(connections() > 0);
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0), "{}", gateway.log());
    until("the connections are gone", async || connections() == 0).await;
}

#[tokio::test]
async fn gateways_share_a_redis_cluster() {
    let cluster = RedisCluster::start().expect("it starts");
    let url = cluster.urls()[0].replacen("redis://", "redis+cluster://", 1);
    let origin = Origin::start().await;
    let said = semel(&["store", "check", "--store", &url], &[]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let said = refusal(&gateway(&origin).on(&cluster.urls()[0]), 2).await;
    assert_says(&said, &["redis+cluster://"]);
    let first = gateway(&origin).on(&url).start().await;
    let second = gateway(&origin).on(&url).start().await;
    for n in 0..10 {
        assert_one_service(&first, &second, &origin, &format!("k{n}")).await;
    }
    let said = semel(&["store", "stats", "--json", "--store", &url], &[]).await;
    let figures: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(figures["completed"], 10, "on whatever node they are: {said:?}");
}

#[tokio::test]
async fn gateways_share_a_postgres_behind_a_pooler_of_transactions() {
    let server = PrivatePostgres::shared_durable();
    let database = server.fresh_database();
    migrate(&server.url(&database)).await;
    let pooler = PgBouncer::start(server, PoolMode::Transaction).expect("it starts");
    let origin = Origin::start().await;
    let first = gateway(&origin).on(&pooler.url(&database)).start().await;
    let unprepared = gateway(&origin).on(&pooler.url(&database)).config("[store]\nprepared = false\n");
    let second = unprepared.start().await;
    for n in 0..10 {
        assert_one_service(&first, &second, &origin, &format!("k{n}")).await;
    }
    for command in ["check", "stats"] {
        let said = semel(&["store", command, "--store", &pooler.url(&database)], &[]).await;
        assert_eq!(said.code, 0, "{said:?}");
    }
}

#[tokio::test]
async fn prefixes_keep_services_apart_on_one_redis() {
    let server = PrivateRedis::start().expect("it starts");
    let origin = Origin::start().await;
    let mut effects = 0;
    for prefix in ["a:", "b:"] {
        // Each is a service of its own, with its own secret.
        let own = gateway(&origin).on_with_own_secret(&server.url());
        let gateway = own.config(&format!("[store]\nprefix = \"{prefix}\"\n")).start().await;
        assert_eq!(gateway.send(&post("/orders").key("k")).await.status, 201);
        effects += 1;
        assert_eq!(origin.effects(), effects);
        let keys = server.cli(&["KEYS", &format!("{prefix}*")]).expect("it answers");
        assert!(!keys.trim().is_empty());
    }
}

#[tokio::test]
async fn a_claim_waits_for_as_many_replicas_as_are_asked_for() {
    let server = PrivateRedis::start().expect("it starts");
    let origin = Origin::start().await;
    let gateway = gateway(&origin).on(&server.url()).config("[store]\nreplicas = 1\n").try_start().await;
    // Nobody can agree on a secret that no replica has, so that it does not even start.
    let said = gateway.map(|gateway| gateway.log()).expect_err("there is no replica");
    assert!(said.contains("replica"), "{said}");
    let options = RedisOptions { replica_of: Some(server.port()), ..RedisOptions::default() };
    let _replica = PrivateRedis::start_with(options).expect("it starts");
    let setup = crate::harness::gateway(&origin).on(&server.url()).config("[store]\nreplicas = 1\n");
    let gateway = setup.start().await;
    assert_eq!(gateway.send(&post("/orders").key("k")).await.status, 201);
}

#[tokio::test]
async fn help_tells_of_stores() {
    for (args, words) in [
        (&["serve", "--help"][..], &["--store <STORE>", "SEMEL_STORE", "SEMEL_SECRET_FILE", "redis+cluster://"][..]),
        (&["store", "--help"], &["migrate", "check", "stats"]),
        (&["store", "migrate", "--help"], &["--print", "Exit codes", "postgres://"]),
        (&["store", "check", "--help"], &["Exit codes", "--config"]),
        (&["store", "stats", "--help"], &["--json", "Exit codes"]),
    ] {
        let said = semel(args, &[]).await;
        assert_eq!(said.code, 0, "{said:?}");
        assert_says(&said, words);
    }
}
