//! What a person is told who wrote something wrong, and what a short file amounts to.

use expect_test::{Expect, expect};

use super::*;

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::read("semel.toml", text, Flags::default())
}

fn check_error(text: &str, expected: &Expect) {
    expected.assert_eq(&read(text).expect_err("it is wrong").to_string());
}

#[test]
fn errors_name_file_line_column_member_and_what_would_be_right() {
    check_error(
        "[gateway]\nlisten = \"nowhere\"\n",
        &expect![[r#"
        semel.toml:2:10: gateway.listen: expected an address and port such as "127.0.0.1:8080" or "0.0.0.0:8080", found "nowhere"
          2 | listen = "nowhere"
            |          ^^^^^^^^^"#]],
    );
    check_error(
        "[gateway]\nupstream = \"ftp://api.example.com\"\n",
        &expect![[r#"
            semel.toml:2:12: gateway.upstream: expected an origin such as "http://127.0.0.1:3000", found "ftp://api.example.com"
              2 | upstream = "ftp://api.example.com"
                |            ^^^^^^^^^^^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[gateway]\nupstream = \"https://bad_%41_host\"\n",
        &expect![[r#"
            semel.toml:2:12: gateway.upstream: expected an origin such as "http://127.0.0.1:3000", found "https://bad_%41_host"
              2 | upstream = "https://bad_%41_host"
                |            ^^^^^^^^^^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[tls]\ncert_file = \"a.pem\"\n",
        &expect![[r#"
            semel.toml:1:1: [tls] needs cert_file and key_file: the gateway's certificate and its key, in PEM
              1 | [tls]
                | ^^^^^"#]],
    );
    check_error(
        "[tls]\ncert_file = \"a.pem\"\nkey_file = \"a.key\"\nclient_certificate = \"required\"\n",
        &expect![[r#"
            semel.toml:4:1: tls.client_certificate: `client_certificate` needs client_ca_file: who vouches for clients, in PEM
              4 | client_certificate = "required"
                | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[tls]\ncert_file = \"a\"\nkey_file = \"b\"\nclient_ca_file = \"c\"\nclient_certificate = \"none\"\n",
        &expect![[r#"
            semel.toml:4:1: tls.client_ca_file: `client_ca_file` is for clients that show a certificate; with client_certificate = "none" nobody is asked for one
              4 | client_ca_file = "c"
                | ^^^^^^^^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[gateway]\nupstream = \"http://a\"\nupstream_ca_file = \"ca.pem\"\n",
        &expect!["semel.toml: `upstream_ca_file` is for an origin that is reached by https://"],
    );
    check_error(
        "[gateway]\nupstream = \"https://a\"\nupstream_client_cert_file = \"client.pem\"\n",
        &expect!["semel.toml: `upstream_client_cert_file` needs upstream_client_key_file"],
    );
    check_error(
        "[gateway]\nupstream = \"http://a/b\"\n",
        &expect![[r#"
        semel.toml:2:12: gateway.upstream: expected an origin such as "http://127.0.0.1:3000", found "http://a/b": a path does not belong here, since every path is forwarded as it was sent
          2 | upstream = "http://a/b"
            |            ^^^^^^^^^^^^"#]],
    );
    check_error(
        "[gateway]\nupstream = \"http://user:pass@a\"\n",
        &expect![[
            r#"semel.toml:2:12: gateway.upstream: expected an origin such as "http://127.0.0.1:3000", found "http://..@a": credentials do not belong here"#
        ]],
    );
    check_error(
        "[gateway]\nupstream = \"127.0.0.1:3000\"\n",
        &expect![[r#"
        semel.toml:2:12: gateway.upstream: expected an origin such as "http://127.0.0.1:3000", found "127.0.0.1:3000"
          2 | upstream = "127.0.0.1:3000"
            |            ^^^^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[gateway]\nadmin = \"on\"\n",
        &expect![[r#"
        semel.toml:2:9: gateway.admin: expected "off" or an address and port such as "127.0.0.1:9090", found "on"
          2 | admin = "on"
            |         ^^^^"#]],
    );
    check_error(
        "[gateway]\nadmin_token_file = \"/run/token\"\n",
        &expect!["semel.toml: gateway.admin_token_file is for the admin address, which is off: set gateway.admin too"],
    );
    check_error(
        "[gateway]\ndrain_max = \"soon\"\n",
        &expect![[r#"
        semel.toml:2:13: gateway.drain_max: expected a duration in whole milliseconds such as "30s", "250ms" or "24h", at most ten years, found "soon"
          2 | drain_max = "soon"
            |             ^^^^^^"#]],
    );
    check_error(
        "[gateway]\ndrain_max = 30\n",
        &expect![[r#"
            semel.toml:2:13: gateway.drain_max: invalid type: integer `30`, expected a string, with a unit, such as "30s"
              2 | drain_max = 30
                |             ^^"#]],
    );
    check_error(
        "[gateway]\nconnect_max = \"0s\"\n",
        &expect![[r#"
        semel.toml:2:15: gateway.connect_max: expected a duration of more than zero
          2 | connect_max = "0s"
            |               ^^^^"#]],
    );
    check_error(
        "[gateway]\nthreads = 0\n",
        &expect![[r#"
        semel.toml:2:11: gateway.threads: expected a whole number from 1 to 1000000, found 0
          2 | threads = 0
            |           ^"#]],
    );
    check_error(
        "[gateway]\nhost = \"client\"\n",
        &expect![[r#"
        semel.toml:2:8: gateway.host: unknown value `client`, expected `preserve` or `upstream`
          2 | host = "client"
            |        ^^^^^^^^"#]],
    );
    check_error(
        "[gateway]\nlog = \"jsn\"\n",
        &expect![[r#"
        semel.toml:2:7: gateway.log: did you mean `json`? unknown value `jsn`, expected `text` or `json`
          2 | log = "jsn"
            |       ^^^^^"#]],
    );
    check_error(
        "preset = \"strip\"\n",
        &expect![[r#"
            semel.toml:1:10: preset: did you mean `stripe`? unknown value `strip`, expected one of `ietf`, `stripe`, `etherfuse`, `credicorp`, `yonne`, `nora`
              1 | preset = "strip"
                |          ^^^^^^^"#]],
    );
    check_error(
        "principal = [\"X API Key\"]\n",
        &expect![[r#"
        semel.toml:1:13: principal: expected a header name, found "X API Key"
          1 | principal = ["X API Key"]
            |             ^^^^^^^^^^^^^"#]],
    );
}

#[test]
fn an_unknown_member_is_told_with_the_nearest_known_one() {
    check_error(
        "[gateway]\nlissten = \"127.0.0.1:1\"\n",
        &expect![[r#"
            semel.toml:2:1: gateway.lissten: did you mean `listen`? unknown member `lissten`, expected one of `listen`, `upstream`, `upstream_ca_file`, `upstream_client_cert_file`, `upstream_client_key_file`, `upstream_server_name`, `data`, `seal_secret_files`, `admin`, `admin_token_file`, `audit_log`, `publish_policy`, `authorize`, `host`, `log`, `log_filter`, `threads`, `connections_max`, `header_read_max`, `upstream_connections_max`, `upstream_idle_max`, `connect_max`, `response_header_max`, `drain_max`
              2 | lissten = "127.0.0.1:1"
                | ^^^^^^^"#]],
    );
    check_error(
        "[[route]]\npath = \"/a\"\nwait-max = \"3s\"\n",
        &expect![[r#"
            semel.toml:3:1: route.wait-max: did you mean `wait_max`? unknown member `wait-max`, expected one of `methods`, `path`, `key`, `key_header`, `key_member`, `key_grammar`, `key_form`, `key_sent`, `key_presence`, `attempt_suffix`, `key_bytes_max`, `fingerprint`, `fingerprint_ignore`, `fingerprint_members`, `effect_happened`, `effect_none`, `effect_unknown`, `reply`, `on_completed`, `on_mismatch`, `on_unknown`, `on_expired`, `on_late`, `execution_max`, `grace`, `wait_max`, `replay_for`, `remember_for`, `unknown_for`, `request_read_max`, `request_body_bytes_max`, `reply_body_bytes_max`, `marker`, `replay_member`, `headers_omitted`, `resource`, `problems`, `probe`, `guard`, `release`
              3 | wait-max = "3s"
                | ^^^^^^^^"#]],
    );
    check_error(
        "[routes]\npath = \"/a\"\n",
        &expect![[r#"
            semel.toml:1:2: did you mean `route`? unknown member `routes`, expected one of `gateway`, `tls`, `cors`, `identity`, `quota`, `store`, `telemetry`, `preset`, `principal`, `documentation`, `defaults`, `route`
              1 | [routes]
                |  ^^^^^^"#]],
    );
    check_error(
        "[[route]]\nzzzzzzzzzzz = 1\n",
        &expect![[r#"
            semel.toml:2:1: route.zzzzzzzzzzz: unknown member `zzzzzzzzzzz`, expected one of `methods`, `path`, `key`, `key_header`, `key_member`, `key_grammar`, `key_form`, `key_sent`, `key_presence`, `attempt_suffix`, `key_bytes_max`, `fingerprint`, `fingerprint_ignore`, `fingerprint_members`, `effect_happened`, `effect_none`, `effect_unknown`, `reply`, `on_completed`, `on_mismatch`, `on_unknown`, `on_expired`, `on_late`, `execution_max`, `grace`, `wait_max`, `replay_for`, `remember_for`, `unknown_for`, `request_read_max`, `request_body_bytes_max`, `reply_body_bytes_max`, `marker`, `replay_member`, `headers_omitted`, `resource`, `problems`, `probe`, `guard`, `release`
              2 | zzzzzzzzzzz = 1
                | ^^^^^^^^^^^"#]],
    );
}

#[test]
fn a_route_that_contradicts_itself_is_pointed_at() {
    check_error(
        "[[route]]\npath = \"/a\"\n\n[[route]]\npath = \"/b\"\nremember_for = \"1h\" # too short\n",
        &expect![[r#"
            semel.toml:6:1: route.remember_for: `remember_for` must be at least `replay_for`
              6 | remember_for = "1h" # too short
                | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[[route]]\npath = \"/a\"\nkey = \"member\"\n",
        &expect![[r#"
        semel.toml:1:1: `key = "member"` needs `key_member`, a JSON Pointer such as "/orderId"
          1 | [[route]]
            | ^^^^^^^^^"#]],
    );
    check_error(
        "[defaults]\npath = \"/a\"\n",
        &expect![[r#"
        semel.toml:2:1: defaults.path: `path` belongs to a [[route]], not to [defaults]
          2 | path = "/a"
            | ^^^^^^^^^^^"#]],
    );
    check_error(
        "[[route]]\nmethods = [\"GET\"]\n",
        &expect![[r#"
        semel.toml:2:1: route.methods: `methods` must not name GET, which is safe to retry by itself (RFC 9110 section 9.2.1)
          2 | methods = ["GET"]
            | ^^^^^^^^^^^^^^^^^"#]],
    );
    check_error(
        "[[route]]\npath = \"a\"\n",
        &expect![[r#"
        semel.toml:2:8: route.path: the path template "a" must start with a slash
          2 | path = "a"
            |        ^^^"#]],
    );
    check_error(
        "[[route]]\neffect_none = [\"422\"]\neffect_happened = [\"422\"]\n",
        &expect![[r#"
        semel.toml:1:1: status 422 is named by more than one of effect_happened, effect_none, effect_unknown
          1 | [[route]]
            | ^^^^^^^^^"#]],
    );
}

#[test]
fn what_is_not_toml_is_pointed_at() {
    check_error(
        "[gateway\n",
        &expect![[r#"
        semel.toml:1:9: unclosed table, expected `]`
          1 | [gateway
            |         ^"#]],
    );
    check_error(
        "[gateway]\nlisten = \"é\" \"x\"\n",
        &expect![[r#"
        semel.toml:2:14: gateway.listen: unexpected key or value, expected newline, `#`
          2 | listen = "é" "x"
            |              ^"#]],
    );
    check_error(
        "preset = \"ietf\"\npreset = \"ietf\"\n",
        &expect![[r#"
        semel.toml:2:1: preset: duplicate key
          2 | preset = "ietf"
            | ^^^^^^"#]],
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let missing = Path::new("/nowhere/semel.toml");
    let error = Config::load(Some(missing), Flags::default());
    expect!["cannot read /nowhere/semel.toml: No such file or directory (os error 2)"]
        .assert_eq(&error.expect_err("it is not there").to_string());
}

#[test]
fn flags_beat_the_file() {
    let file = "preset = \"stripe\"\n[gateway]\nlisten = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:2\"\n[[route]]\nkey_presence = \"optional\"\n[[route]]\npath = \"/a\"\n";
    let gateway = GatewaySettings {
        listen: Some("127.0.0.1:3".parse().expect("an address")),
        admin: Some("off".parse().expect("no address")),
        ..GatewaySettings::default()
    };
    let policy = PolicyFlags { preset: Some(Preset::Ietf), key_presence: Some(Presence::Required) };
    let flags = Flags { gateway, policy, ..Flags::default() };
    let config = Config::read("semel.toml", file, flags).expect("it is fine");
    assert_eq!(config.gateway.listen.port(), 3);
    assert_eq!(config.gateway.admin, None);
    assert_eq!(config.preset, Preset::Ietf);
    for route in config.policy.routes() {
        let presence = match &route.key {
            semel_core::key::KeyRule::Header { presence, .. } => *presence,
            other => panic!("{other:?}"),
        };
        assert_eq!(presence, Presence::Required, "{}", route.name());
    }
}

/// Whatever is shown reads back as the same configuration, for every preset and for a file that uses everything.
#[test]
fn what_is_shown_reads_back() {
    let everything = r#"
        principal = []
        documentation = "https://docs.example.com/retries"
        [gateway]
        listen = "[::1]:1"
        upstream = "http://[::1]:2"
        data = 'C:\data "x"'
        admin = "127.0.0.1:3"
        admin_token_file = "/run/secrets/semel"
        publish_policy = "public"
        host = "upstream"
        log = "json"
        log_filter = "semel=debug,info"
        threads = 7
        connections_max = 8
        header_read_max = "1m 1s"
        upstream_connections_max = 9
        upstream_idle_max = "0s"
        connect_max = "250ms"
        response_header_max = "90m"
        drain_max = "1h"
        [identity]
        source = "jwt"
        mapping_file = "/etc/semel/principals.toml"
        [identity.jwt]
        header = "X-Token"
        issuer = "https://login.example.com/"
        audience = ["https://api.example.com", "b"]
        algorithms = ["PS512", "EdDSA"]
        jwks_url = "https://login.example.com/keys?x=1"
        jwks_refresh = "1m 1s"
        claim = "/org/id"
        leeway = "0s"
        [quota]
        live_keys_max = 12
        window = "1h"
        principals_max = 13
        [defaults]
        execution_max = "1ms"
        [[route]]
        path = "/orders/{id}"
        methods = ["PUT", "DELETE"]
        key = "member"
        key_member = "/a~1b"
        key_grammar = "uuid-v7"
        key_presence = "optional"
        fingerprint = "json"
        fingerprint_ignore = ["/x", "/y"]
        effect_happened = ["200-250", "418", "3xx"]
        effect_none = ["4xx"]
        on_completed = "conflict"
        resource = "/orders/{key}"
        reply = "omitted"
        request_body_bytes_max = "1000 B"
        reply_body_bytes_max = "3 KiB"
        [route.problems]
        in-flight = { status = 425, content = "{\"e\": '{code}'}", content_type = "text/x" }
        [[route]]
        path = "/slots/*"
        key = "operation"
        fingerprint = "members"
        fingerprint_members = ["/a", "/b"]
        on_unknown = "forward-key"
        [[route]]
        path = "/shops/{shop}/orders"
        methods = ["POST"]
        key = "member"
        key_member = "/id"
        key_presence = "required"
        on_unknown = "probe"
        [route.probe]
        path = "/shops/{shop}/orders?reference={key}"
        absent = ["404", "410"]
        member = "/0"
        keep = "member"
        status = 202
        after = "2m"
        [route.guard]
        name = "one-pending"
        values = ["/a~1b", { path = "/quotes", key = "/q", member = "/m", absent = "No \"such\" quote" }]
        when = [{ member = "/type", is = ["x", "y"] }]
        hold_for = "40s"
        override = true
        [[route.release]]
        path = "/shops/{shop}/orders/{key}/close"
        methods = ["PUT", "GET"]
        member = "/state"
        held_while = ["new", "open"]
        after = "250ms"
        [[route]]
        path = "/quotes"
        methods = ["POST"]
        key = "member"
        key_member = "/q"
    "#;
    let presets = Preset::ALL.map(|preset| format!("preset = \"{}\"", preset.name()));
    for text in presets.iter().map(String::as_str).chain([everything]) {
        let config = read(text).expect("it is fine");
        let shown = show(&config);
        let again = read(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
        assert_eq!(again.gateway, config.gateway);
        assert_eq!((&again.identity, again.quota), (&config.identity, config.quota));
        // Statuses of problems become explicit; everything else is equal.
        let comparable = |text: &str| text.lines().skip(4).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(comparable(&show(&again)), comparable(&shown));
        assert_eq!(again.policy.principal(), config.policy.principal());
        assert_eq!(again.policy.documentation(), config.policy.documentation());
        assert_eq!(again.policy.routes().len(), config.policy.routes().len());
        for (again, route) in again.policy.routes().iter().zip(config.policy.routes()) {
            assert_eq!((&again.key, &again.fingerprint), (&route.key, &route.fingerprint));
            assert_eq!((&again.guard, &again.releases), (&route.guard, &route.releases));
            for status in 200..=599 {
                assert_eq!(again.effect_of(status), route.effect_of(status), "{status}");
            }
        }
    }
}

#[test]
fn every_setting_is_shown() {
    let config = read("").expect("nothing is fine");
    expect![[r##"
        # Every setting of semel serve. Whatever is left out is as in the preset, or as shown without a file.
        # Durations: "250ms", "30s", "1h 30m", "24h", "30d". Sizes: "64 KiB", "1 MiB".

        # Preset ietf, written out.
        preset = "ietf"                                 # where every route starts: ietf, stripe, etherfuse, credicorp, yonne, nora
        principal = ["Authorization", "X-Api-Key"]      # headers that tell callers apart; each caller has a key space of its own
        # documentation = ""                            # not set: an absolute URI where callers read about this API's idempotency

        [gateway]
        listen = "127.0.0.1:8080"                       # where clients connect
        # upstream = ""                                 # not set: the origin, such as "http://127.0.0.1:3000" or "https://api.internal:8443"
        # upstream_ca_file = ""                         # not set: who vouches for an https origin (PEM), instead of whom this machine trusts
        # upstream_client_cert_file = ""                # not set: a certificate (PEM) to show to an https origin
        # upstream_client_key_file = ""                 # not set: and its key
        # upstream_server_name = ""                     # not set: the name that the origin's certificate must have, where it is not the host of upstream
        data = "./semel-data"                           # the folder of the secret, and of records where the store is embedded
        seal_secret_files = []                          # kept replies are sealed with the first of these and opened with any; []: with the secret itself
        admin = "off"                                   # where operators connect: /healthz, /readyz, /.well-known/idempotency; or "off"
        # admin_token_file = ""                         # not set: a file with the token that operators show there, to look at records, settle and release: /v1
        # audit_log = ""                                # not set: where every act of an operator is written down first; audit.log in the data folder, if not set
        publish_policy = "admin"                        # admin, or public: /.well-known/idempotency is for every client too
        # authorize = ""                                # not set: asked with the caller's credentials before a kept reply is told; 401 and 403 are told instead
        host = "preserve"                               # the origin is told the client's Host (preserve) or its own name (upstream)
        log = "text"                                    # text, json
        log_filter = "info"                             # such as info, debug, warn, semel::exchange=debug,info
        threads = 2                                     # that serve clients; by default one per core
        connections_max = 8192                          # client connections at once
        header_read_max = "60s"                         # from connecting, or the last response, to a whole header section
        upstream_connections_max = 1024                 # connections to the origin at once
        upstream_idle_max = "4s"                        # an idle one is kept; less than the origin keeps it
        connect_max = "5s"                              # to reach the origin; past it nothing was sent
        response_header_max = "60s"                     # the origin's silence before its response, where no route covers
        drain_max = "30s"                               # what runs may still run after SIGTERM

        # Clients connect without TLS; with it, in a table [tls]:
        # [tls]
        # cert_file = "/etc/semel/server.pem"           # the gateway's certificate, then those that vouch for it (PEM)
        # key_file = "/etc/semel/server.key"            # and its key
        # client_ca_file = "/etc/semel/clients.pem"     # who vouches for clients (PEM)
        # client_certificate = "required"               # none; optional: checked where one is shown; required
        # reload_every = "10s"                          # the files are looked at, and used once they have changed
        # handshake_max = "10s"                         # a client may take from connecting to the end of the handshake

        [identity]
        source = "headers"                              # who asks: headers: those of principal; jwt: a verified token; client-certificate
        # mapping_file = ""                             # not set: a file that gives several credentials one principal, for rotation
        # [identity.jwt]                                # for source = "jwt"
        # header = "Authorization"                      # has the token, after the word Bearer
        # issuer = "https://login.example.com/"         # whose tokens are accepted: the claim iss
        # audience = ["https://api.example.com"]        # for whom they must be, one of these: the claim aud; []: they have none
        # algorithms = ["RS256", "ES256"]               # how they may be signed
        # jwks_url = "https://login.example.com/keys"   # where the issuer's public keys are fetched; or jwks_file, hmac_secret_file
        # jwks_refresh = "5m"                           # how often they are
        # claim = "/sub"                                # a JSON Pointer: the claim that names the caller
        # leeway = "60s"                                # this clock and the issuer's may differ

        [quota]
        live_keys_max = 0                               # fresh keys of one principal within the window; 0: any
        window = "24h"                                  # a key counts from its first execution
        principals_max = 100000                         # that are counted at once

        [cors]
        origins = []                                    # web pages that may read the gateway's own problems and kept replies, such as "https://app.example.com"
        credentials = false                             # true: also where their requests carry cookies

        [store]
        url = "embedded"                                # embedded: in gateway.data; memory: forgotten when the process ends; or one that gateways share: postgres://user@host/db, redis://host:6379, redis+cluster://host:6379, with TLS rediss://, rediss+cluster://
        # What follows is for a store that gateways share.
        # password_file = ""                            # not set: a file with the password; or give it in SEMEL_STORE_PASSWORD
        # secret_file = ""                              # not set: a copy of the file `secret` of the first gateway's data folder; all gateways on one store need the same
        # connections = 4                               # of this gateway to the store
        # statement_max = "5s"                          # the store may take for one answer
        # connect_max = "5s"                            # to reach the store
        # accept_loss = false                           # true: warn of settings by which the store may lose what it confirmed, and go on
        # ca_file = ""                                  # not set: who vouches for the store's certificate (PEM), instead of the web's authorities
        # client_cert_file = ""                         # not set: a certificate (PEM) to show to the store
        # client_key_file = ""                          # not set: and its key
        # period = "180h"                               # PostgreSQL: a new partition as often; a quarter of the longest remember_for, from 1h to 30d
        # prepared = true                               # PostgreSQL: false: without prepared statements, for a pooler that has none
        # prefix = "semel:"                             # Redis: what every key begins with
        # replicas = 0                                  # Redis: a write counts once so many replicas have it (WAIT)
        # local_aof = false                             # Redis: a write counts once it is on the server's disk (WAITAOF)

        [telemetry]
        # otlp = ""                                     # not set: a collector that traces are sent to (OTLP, HTTP with protobuf), such as "http://127.0.0.1:4318"
        sample = 1.0                                    # of requests that bring no trace, from 0.0 to 1.0; those that bring one have decided
        unknown_count_every = "60s"                     # records with an unknown outcome are counted for /metrics; 0s: never

        [[route]]
        methods = ["POST", "PATCH"]                     # methods that are covered
        path = "/*"                                     # {name} is any one segment, * at the end any rest
        key = "header"                                  # header; member: of the JSON content; operation: the operation itself
        key_header = "Idempotency-Key"                  # the header, for key = "header"
        # key_member = ""                               # not set: a JSON Pointer, for key = "member"
        key_grammar = "any"                             # any, uuid, uuid-v4, uuid-v7
        key_form = "lenient"                            # lenient: quoted or bare; strict: quoted
        key_sent = "as-received"                        # to the origin: as-received, bare, quoted; one spelling for an origin that is to know it again
        key_presence = "optional"                       # optional: without a key unprotected; required: refused
        attempt_suffix = "literal"                      # stem: -attempt-<n> at a key's end does not count; literal
        key_bytes_max = 255                             # bytes after unquoting
        fingerprint = "raw"                             # what of the content counts: raw: every byte; json: the value; members: some
        fingerprint_ignore = []                         # JSON Pointers, for json
        fingerprint_members = []                        # JSON Pointers, for members
        effect_happened = ["2xx", "3xx"]                # the reply is kept and told to retries
        effect_none = ["4xx", "503"]                    # nothing happened: a retry executes
        effect_unknown = ["500-502", "504-599"]         # it may have happened: see on_unknown
        reply = "kept"                                  # kept; omitted: only that it was done
        on_completed = "replay"                         # replay; conflict: 409 resource-exists
        on_unknown = "refuse"                           # refuse; reexecute, forward-key: the origin is idempotent; probe: the origin is asked, see [route.probe]
        on_expired = "refuse"                           # past replay_for: refuse, execute
        on_late = "ignore"                              # an old Repeatability-First-Sent: ignore, refuse
        execution_max = "30s"                           # the origin may take; past it the outcome is unknown
        grace = "5s"                                    # longer than that a claim counts as in flight
        wait_max = "0s"                                 # a concurrent request waits for the first; 0s: it is refused at once
        replay_for = "24h"                              # a reply is told to retries
        remember_for = "30d"                            # it is remembered that it was done
        unknown_for = "30d"                             # an unknown outcome is remembered
        request_read_max = "30s"                        # a client may take to send the content
        request_body_bytes_max = "1 MiB"                # larger content is refused, since it cannot be protected
        reply_body_bytes_max = "1 MiB"                  # larger content is told, and not kept
        marker = "Idempotent-Replayed"                  # the header that says `true` on a replay
        replay_member = ""                              # a member set to true in replayed JSON; "": none
        headers_omitted = ["Date", "Set-Cookie"]        # response fields that are not kept
        resource = ""                                   # a path with {key} in it, told in Location on a conflict; routes of the same one share member keys; "": none

        [route.problems]
        key-missing = { status = 400 }                  # An idempotency key is required
        key-invalid = { status = 400 }                  # The idempotency key is not valid
        key-reused = { status = 422 }                   # The idempotency key was used for another request
        in-flight = { status = 409 }                    # The first request with this idempotency key is still being processed
        outcome-unknown = { status = 409 }              # Nobody knows whether the effect of this request happened
        reply-gone = { status = 409 }                   # This was done, and its reply is no longer kept
        store-unavailable = { status = 503 }            # The record store is unavailable
        request-too-large = { status = 413 }            # The content is too large to be protected
        request-timeout = { status = 408 }              # The content did not arrive in time
        request-incomplete = { status = 400 }           # The content is not complete
        resource-exists = { status = 409 }              # The resource already exists
        resource-id-reused = { status = 409 }           # The resource already exists with other fields
        slot-taken = { status = 409 }                   # The operation was already done with another value
        guard-held = { status = 409 }                   # Another operation that is still live excludes this one
        guard-incomplete = { status = 400 }             # The request does not say what its guard compares
        too-late = { status = 412 }                     # The request is too old to be told apart from a repetition
        origin-unavailable = { status = 502 }           # The origin cannot be reached
        unauthenticated = { status = 401 }              # Who is asking could not be verified
        identity-unavailable = { status = 503 }         # Who is asking cannot be verified at the moment
        quota-exceeded = { status = 429 }               # Too many new operations of this caller

        # A route may ask the origin what became of a request whose outcome is unknown; none does here.
        # [route.probe]                                 # with on_unknown = "probe": the origin is asked with GET
        # path = "/orders/by-key/{key}"                 # {key} and the variables of the route's path; a query is allowed
        # found = ["200"]                               # it happened: the content is kept as the reply
        # absent = ["404"]                              # it did not, once the record is old enough
        # member = "/items/0"                           # a JSON Pointer that must be there, and not empty, for found
        # keep = "content"                              # as the reply: all of the content, or the member
        # status = 201                                  # that the kept reply has; not set: as the origin answers
        # probe_max = "5s"                              # the origin may take to answer
        # after = "70s"                                 # the age from which absent is believed; not set: twice execution_max + grace

        # A route may have a guard, and releases of its guard or slot; none has one here.
        # [route.guard]
        # name = "pending-order"                        # lower-case letters, digits, hyphens; the same name is the same guard
        # values = ["/accountId", { path = "/quotes", key = "/quoteId", member = "/amount", absent = "No such quote" }]
        # when = [{ member = "/type", is = ["buy"] }]   # applies only while all are met; otherwise the request is not guarded
        # hold_for = "30d"                              # at most; not set: as long as the record is remembered
        # override = false                              # true: Guard-Override: <reason> passes it, and is logged
        # [[route.release]]
        # path = "/orders/{key}"                        # {key} and the variables of the route's path name the record
        # methods = ["GET"]                             # requests whose responses show it
        # member = "/status"                            # a JSON Pointer into the response
        # held_while = ["created"]                      # any other text releases the guard; for a slot, dead_when = [...]
        # after = "0s"                                  # the record is at least that much older than the request
    "##]].assert_eq(&show(&config).replace(&format!("threads = {}", config.gateway.threads), "threads = 2"));
}
