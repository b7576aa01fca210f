//! What a person is told who wrote something wrong about the store, and that a password is told to nobody.

use expect_test::{Expect, expect};

use super::*;
use crate::config::{Config, ConfigError, Flags, show};

const PASSWORD: &str = "hunter2";

fn read_with(text: &str, store: StoreFlags) -> Result<Config, ConfigError> {
    Config::read("semel.toml", text, Flags { store, ..Flags::default() })
}

fn read(text: &str) -> Result<Config, ConfigError> {
    read_with(text, StoreFlags::default())
}

fn flag(url: &str) -> StoreFlags {
    StoreFlags { place: Some(url.parse().expect("it is one")), ..StoreFlags::default() }
}

fn check_error(text: &str, expected: &Expect) {
    let error = read(text).expect_err("it is wrong").to_string();
    assert!(!error.contains(PASSWORD), "{error}");
    expected.assert_eq(&error);
}

fn check_text(text: &str, expected: &Expect) {
    let error = text.parse::<PlaceText>().expect_err("it is wrong");
    assert!(!error.contains(PASSWORD), "{error}");
    expected.assert_eq(&error);
}

#[test]
fn a_url_that_is_none_is_told_what_would_be_one() {
    check_error(
        "[store]\nurl = \"postgress://a/b\"\n",
        &expect![[r#"
            semel.toml:2:7: store.url: expected "embedded", "memory", or a URL such as "postgres://user@host/database", "redis://host:6379" or "redis+cluster://host:6379" (rediss with TLS; Valkey speaks redis), found "postgress://a/b"
              2 | url = "postgress://a/b"
                |       ^^^^^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[store]\nurl = \"postgres://semel:hunter2\"\n",
        &expect!["semel.toml:2:7: store.url: postgres://..: what stands behind a host's colon is no port"],
    );
    check_text(
        "mysql://semel:hunter2",
        &expect![[
            r#"expected "embedded", "memory", or a URL such as "postgres://user@host/database", "redis://host:6379" or "redis+cluster://host:6379" (rediss with TLS; Valkey speaks redis), found "mysql://semel:..""#
        ]],
    );
    check_text(
        "mysql://semel:hunter2@db/semel",
        &expect![[
            r#"expected "embedded", "memory", or a URL such as "postgres://user@host/database", "redis://host:6379" or "redis+cluster://host:6379" (rediss with TLS; Valkey speaks redis), found "mysql://..@db/semel""#
        ]],
    );
    check_text(
        "",
        &expect![[
            r#"expected "embedded", "memory", or a URL such as "postgres://user@host/database", "redis://host:6379" or "redis+cluster://host:6379" (rediss with TLS; Valkey speaks redis), found """#
        ]],
    );
    check_text(
        "db:5432/semel",
        &expect![[
            r#"expected "embedded", "memory", or a URL such as "postgres://user@host/database", "redis://host:6379" or "redis+cluster://host:6379" (rediss with TLS; Valkey speaks redis), found "db:5432/semel""#
        ]],
    );
    check_text("postgres:///semel", &expect!["postgres://..: the host is missing"]);
    check_text("postgres://semel:hunter2", &expect!["postgres://..: what stands behind a host's colon is no port"]);
    check_text("postgres://db:0,db:70000", &expect!["postgres://..: what stands behind a host's colon is no port"]);
    check_text(
        "postgres://semel:hunter2/x@db/semel",
        &expect!["postgres://..: write @ within user and password as %40, / as %2F, ? as %3F"],
    );
    check_text(
        "postgres://semel:hunter2@x@db/semel",
        &expect!["postgres://..: write @ within user and password as %40, / as %2F, ? as %3F"],
    );
    check_text(
        "postgres://db/semel?password=hunter2",
        &expect![
            "postgres://..: the password must stand before the host, or in a file: behind the question mark other programs would show it"
        ],
    );
    check_text(
        "postgres://db/semel?sslmode=require&p%61ssword=hunter2",
        &expect![
            "postgres://..: the password must stand before the host, or in a file: behind the question mark other programs would show it"
        ],
    );
    check_text("redis://:hunter2#1@db", &expect!["redis://..: write white space and # as %20 and %23"]);
    check_text("redis://:hunter2 @db", &expect!["redis://..: write white space and # as %20 and %23"]);
    check_text("redis://:%ff@db", &expect!["redis://..: the password is not UTF-8"]);
}

#[test]
fn a_setting_that_says_nothing_about_the_store_is_refused() {
    check_error(
        "[store]\nconnections = 4\n",
        &expect![[r#"
        semel.toml:2:1: store.connections: `connections` says nothing about the embedded store: leave it out
          2 | connections = 4
            | ^^^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[store]\nurl = \"postgres://a/b\"\nprefix = \"x:\"\n",
        &expect![[r#"
        semel.toml:3:1: store.prefix: `prefix` says nothing about PostgreSQL: leave it out
          3 | prefix = "x:"
            | ^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[store]\nurl = \"redis://a\"\nperiod = \"1d\"\n",
        &expect![[r#"
        semel.toml:3:1: store.period: `period` says nothing about Redis: leave it out
          3 | period = "1d"
            | ^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[store]\nurl = \"memory\"\nsecret_file = \"/s\"\n",
        &expect![[r#"
        semel.toml:3:1: store.secret_file: `secret_file` is for a store that gateways share: the store in memory has its own secret in gateway.data
          3 | secret_file = "/s"
            | ^^^^^^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[store]\nurl = \"redis://a\"\nclient_key_file = \"/k\"\n",
        &expect![[r#"
        semel.toml:3:1: store.client_key_file: `client_key_file` needs client_cert_file
          3 | client_key_file = "/k"
            | ^^^^^^^^^^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[gateway]\nstore = \"memory\"\n",
        &expect![[r#"
            semel.toml:2:1: gateway.store: unknown member `store`, expected one of `listen`, `upstream`, `upstream_ca_file`, `upstream_client_cert_file`, `upstream_client_key_file`, `upstream_server_name`, `data`, `seal_secret_files`, `admin`, `admin_token_file`, `audit_log`, `publish_policy`, `authorize`, `host`, `log`, `log_filter`, `threads`, `connections_max`, `header_read_max`, `upstream_connections_max`, `upstream_idle_max`, `connect_max`, `response_header_max`, `drain_max`
              2 | store = "memory"
                | ^^^^^"#]],
    );
}

#[test]
fn a_value_that_is_none_is_pointed_at() {
    check_error(
        "[store]\nurl = \"redis://a\"\nconnections = 0\n",
        &expect![[r#"
        semel.toml:3:15: store.connections: expected a whole number from 1 to 1000, found 0
          3 | connections = 0
            |               ^"#]],
    );
    check_error(
        "[store]\nurl = \"redis://a\"\nreplicas = 101\n",
        &expect![[r#"
        semel.toml:3:12: store.replicas: expected a whole number from 0 to 100, found 101
          3 | replicas = 101
            |            ^^^"#]],
    );
    check_error(
        "[store]\nurl = \"redis://a\"\nprefix = \"{semel}\"\n",
        &expect![[r#"
            semel.toml:3:10: store.prefix: expected 1 to 64 letters, digits, and : . _ -, such as "semel:", found "{semel}"
              3 | prefix = "{semel}"
                |          ^^^^^^^^^"#]],
    );
    check_error(
        "[store]\nurl = \"redis://a\"\nstatement_max = \"0s\"\n",
        &expect![[r#"
        semel.toml:3:17: store.statement_max: expected a duration of more than zero
          3 | statement_max = "0s"
            |                 ^^^^"#]],
    );
    check_error(
        "[store]\nurl = \"redis://a\"\naccept_loss = \"yes\"\n",
        &expect![[r#"
        semel.toml:3:15: store.accept_loss: invalid type: string "yes", expected a boolean
          3 | accept_loss = "yes"
            |               ^^^^^"#]],
    );
}

#[test]
fn a_password_comes_from_one_place_and_is_shown_nowhere() {
    check_error(
        "[store]\nurl = \"postgres://semel:hunter2@db/semel\"\npassword_file = \"/p\"\n",
        &expect![[r#"
        semel.toml:3:1: store.password_file: `password_file`, SEMEL_STORE_PASSWORD and a password in the URL: give one of them
          3 | password_file = "/p"
            | ^^^^^^^^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[store]\npassword = \"hunter2\"\n",
        &expect![
            "semel.toml:2:1: store.password: unknown member `password`, expected one of `url`, `password_file`, `secret_file`, `connections`, `statement_max`, `connect_max`, `accept_loss`, `ca_file`, `client_cert_file`, `client_key_file`, `period`, `prepared`, `prefix`, `replicas`, `local_aof`"
        ],
    );
    check_error(
        "[store]\nurl = \"postgres://semel:hunter2@db\" x\n",
        &expect!["semel.toml:2:37: store.url: unexpected key or value, expected newline, `#`"],
    );
    check_error(
        "[gateway]\nhost = \"postgres://semel:hunter2@db\"\n",
        &expect!["semel.toml:2:8: gateway.host: unknown value `postgres://..@db`, expected `preserve` or `upstream`"],
    );
    check_error(
        "[store]\nconnections = \"postgres://semel:hunter2@db\"\n",
        &expect![[r#"semel.toml:2:15: store.connections: invalid type: string "postgres://..@db", expected i64"#]],
    );
    let password = || Password::new(PASSWORD);
    let environment = || StoreFlags { password: Some(password()), ..StoreFlags::default() };
    for (flags, from) in [
        (flag("postgres://semel:hunter%32@db:5433/semel?sslmode=require"), PasswordFrom::Url(password())),
        (flag("rediss+cluster://:hunter2@db:7000/0"), PasswordFrom::Url(password())),
        (StoreFlags { ..environment() }, PasswordFrom::Nowhere),
        (
            StoreFlags { place: flag("postgres://semel@db").place, ..environment() },
            PasswordFrom::Environment(password()),
        ),
    ] {
        let config = read_with("", flags).expect("it is fine");
        assert_eq!(config.store.password, from);
        let shown = format!("{}\n{config:?}\n{}", show(&config), config.store.place);
        assert!(!shown.contains("hunter"), "{shown}");
    }
}

#[test]
fn a_url_is_told_as_host_port_and_database() {
    let place = |url: &str| match read_with("", flag(url)).expect("it is fine").store.place {
        Place::Postgres(url) | Place::Redis(url) => url.place().to_owned(),
        other @ (Place::Embedded | Place::Memory) => panic!("{other:?}"),
    };
    assert_eq!(place("postgres://semel:hunter2@db:5433/semel?sslmode=require"), "db:5433/semel");
    assert_eq!(place("postgresql://a:1,b:2/semel"), "a:1,b:2/semel");
    assert_eq!(place("rediss://:hunter2@cache/"), "cache");
    assert_eq!(place("redis+cluster://semel@cache:7000"), "cache:7000");
}

#[test]
fn the_command_line_beats_the_file() {
    let file = "[store]\nurl = \"postgres://a/b\"\nperiod = \"3d\"\nsecret_file = \"/file\"\n";
    let flags = StoreFlags { secret_file: Some("/flag".into()), ..flag("postgres://c/d") };
    let store = read_with(file, flags).expect("it is fine").store;
    assert_eq!(store.place.to_string(), "postgres://c/d");
    assert_eq!((store.secret_file, store.period), (Some("/flag".into()), Duration::from_hours(3 * 24)));
    let error = read_with(file, flag("redis://c")).expect_err("a period is nothing that Redis has").to_string();
    assert!(error.starts_with("semel.toml:3:1: store.period: "), "{error}");
}

#[test]
fn both_shared_stores_have_the_same_defaults() {
    let (one, other) = (postgres::Options::new("postgres://a"), redis::Options::new("redis://a"));
    assert_eq!(one.connections, other.connections);
    assert_eq!((one.statement_max, one.connect_max), (other.statement_max, other.connect_max));
}

#[test]
fn a_partition_takes_records_for_a_quarter_of_what_is_remembered() {
    let period = |remember_for: &str| {
        let text = format!("[defaults]\nreplay_for = \"1s\"\nremember_for = \"{remember_for}\"\n[[route]]\n");
        read(&text).expect("it is fine").store.period
    };
    assert_eq!(period("2h"), Duration::from_hours(1));
    assert_eq!(period("8d"), Duration::from_hours(2 * 24));
    assert_eq!(period("1000d"), Duration::from_hours(30 * 24));
}

/// Whatever is shown reads back as the same configuration, but for the password.
#[test]
fn what_is_shown_reads_back() {
    let common = "connections = 7\nstatement_max = \"250ms\"\nconnect_max = \"9s\"\naccept_loss = true\n\
        secret_file = \"/s\"\nca_file = \"/ca\"\nclient_cert_file = \"/c\"\nclient_key_file = \"/k\"\npassword_file = \"/p\"\n";
    for text in [
        String::new(),
        "[store]\nurl = \"memory\"\n".to_owned(),
        format!(
            "[store]\nurl = \"postgres://u@a:1,b:2/d?sslmode=require\"\n{common}period = \"3d\"\nprepared = false\n"
        ),
        format!("[store]\nurl = \"rediss+cluster://u@a:1\"\n{common}prefix = \"x:\"\nreplicas = 2\nlocal_aof = true\n"),
    ] {
        let config = read(&text).expect("it is fine");
        let shown = show(&config);
        let again = read(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
        assert_eq!(again.store, config.store, "{shown}");
    }
}
