//! `semel config show`: every setting with its value, as a file that reads back as the same configuration.

use std::{fmt::Write as _, path::PathBuf};

use semel::QuotaLimits;
use semel_core::{
    fingerprint::FingerprintRule,
    guard::{GuardRule, Overriding, Source},
    key::{AttemptSuffix, Form, Grammar, KeyRule, Pointer, Presence},
    policy::{Effect, PathTemplate, Preset, ProbeRule, RoutePolicy, Shown},
    release::{ReleaseRule, Shows},
    wire::ProblemType,
};

use super::{
    Config, Cors, Credentials, Gateway, IdentityConfig, IdentitySource, KeysFrom, PasswordFrom, Place, StoreConfig,
    Telemetry, Tls, words,
};

/// The configuration as TOML, each setting with its meaning.
pub(crate) fn show(config: &Config) -> String {
    let mut out = String::new();
    let policy = &config.policy;
    let mut page = Page(&mut out);
    page.note("Every setting of semel serve. Whatever is left out is as in the preset, or as shown without a file.");
    page.note("Durations: \"250ms\", \"30s\", \"1h 30m\", \"24h\", \"30d\". Sizes: \"64 KiB\", \"1 MiB\".");
    page.gap();
    // A preset's own routes are written out below; named here, they would come twice.
    page.note(&format!("Preset {}, written out.", config.preset.name()));
    page.set("preset", text(Preset::Ietf.name()), &format!("where every route starts: {}", presets()));
    let principal = list(policy.principal().iter().map(words::header));
    page.set("principal", principal, "headers that tell callers apart; each caller has a key space of its own");
    page.maybe(
        "documentation",
        policy.documentation().map(text),
        "an absolute URI where callers read about this API's idempotency",
    );
    gateway(&mut page, &config.gateway);
    clients(&mut page, config.tls.as_ref());
    identity(&mut page, &config.identity);
    quota(&mut page, &config.quota);
    cors(&mut page, &config.gateway.cors);
    store(&mut page, &config.store);
    telemetry(&mut page, &config.telemetry);
    for route_policy in policy.routes() {
        route(&mut page, route_policy);
    }
    if policy.routes().iter().all(|route| route.probe.is_none()) {
        page.gap();
        page.note("A route may ask the origin what became of a request whose outcome is unknown; none does here.");
        for line in NO_PROBE.trim().lines() {
            page.note(line);
        }
    }
    if policy.routes().iter().all(|route| route.guard.is_none() && route.releases.is_empty()) {
        page.gap();
        page.note("A route may have a guard, and releases of its guard or slot; none has one here.");
        for line in NO_GUARD.trim().lines() {
            page.note(line);
        }
    }
    out
}

/// How a probe looks where there is none to show.
const NO_PROBE: &str = r#"
[route.probe]                                 # with on_unknown = "probe": the origin is asked with GET
path = "/orders/by-key/{key}"                 # {key} and the variables of the route's path; a query is allowed
found = ["200"]                               # it happened: the content is kept as the reply
absent = ["404"]                              # it did not, once the record is old enough
member = "/items/0"                           # a JSON Pointer that must be there, and not empty, for found
keep = "content"                              # as the reply: all of the content, or the member
status = 201                                  # that the kept reply has; not set: as the origin answers
probe_max = "5s"                              # the origin may take to answer
after = "70s"                                 # the age from which absent is believed; not set: twice execution_max + grace
"#;

/// How a guard and a release look where there is none to show.
const NO_GUARD: &str = r#"
[route.guard]
name = "pending-order"                        # lower-case letters, digits, hyphens; the same name is the same guard
values = ["/accountId", { path = "/quotes", key = "/quoteId", member = "/amount", absent = "No such quote" }]
when = [{ member = "/type", is = ["buy"] }]   # applies only while all are met; otherwise the request is not guarded
hold_for = "30d"                              # at most; not set: as long as the record is remembered
override = false                              # true: Guard-Override: <reason> passes it, and is logged
[[route.release]]
path = "/orders/{key}"                        # {key} and the variables of the route's path name the record
methods = ["GET"]                             # requests whose responses show it
member = "/status"                            # a JSON Pointer into the response
held_while = ["created"]                      # any other text releases the guard; for a slot, dead_when = [...]
after = "0s"                                  # the record is at least that much older than the request
"#;

fn gateway(page: &mut Page<'_>, gateway: &Gateway) {
    page.table("[gateway]");
    page.set("listen", text(&gateway.listen.to_string()), "where clients connect");
    let origin = gateway.upstream.as_ref().map(|origin| text(&origin.to_string()));
    page.maybe("upstream", origin, "the origin, such as \"http://127.0.0.1:3000\" or \"https://api.internal:8443\"");
    let file = |file: Option<&PathBuf>| file.map(|path| text(&path.display().to_string()));
    let tls = &gateway.upstream_tls;
    page.maybe(
        "upstream_ca_file",
        file(tls.ca_file.as_ref()),
        "who vouches for an https origin (PEM), instead of whom this machine trusts",
    );
    let client = tls.client.as_ref();
    page.maybe(
        "upstream_client_cert_file",
        file(client.map(|client| &client.cert)),
        "a certificate (PEM) to show to an https origin",
    );
    page.maybe("upstream_client_key_file", file(client.map(|client| &client.key)), "and its key");
    page.maybe(
        "upstream_server_name",
        tls.server_name.as_ref().map(|name| text(name)),
        "the name that the origin's certificate must have, where it is not the host of upstream",
    );
    page.set(
        "data",
        text(&gateway.data.display().to_string()),
        "the folder of the secret, and of records where the store is embedded",
    );
    page.set(
        "seal_secret_files",
        list(gateway.seal_secret_files.iter().map(|file| file.display().to_string())),
        "kept replies are sealed with the first of these and opened with any; []: with the secret itself",
    );
    let admin = gateway.admin.map_or_else(|| "off".to_owned(), |address| address.to_string());
    page.set("admin", text(&admin), "where operators connect: /healthz, /readyz, /.well-known/idempotency; or \"off\"");
    page.maybe(
        "admin_token_file",
        gateway.admin_token_file.as_ref().map(|path| text(&path.display().to_string())),
        "a file with the token that operators show there, to look at records, settle and release: /v1",
    );
    page.maybe(
        "audit_log",
        gateway.audit_log.as_ref().map(|path| text(&path.display().to_string())),
        "where every act of an operator is written down first; audit.log in the data folder, if not set",
    );
    page.set(
        "publish_policy",
        text(words::publish_policy(gateway.publish_policy)),
        "admin, or public: /.well-known/idempotency is for every client too",
    );
    page.maybe(
        "authorize",
        gateway.authorize.as_ref().map(|question| text(&question.to_string())),
        "asked with the caller's credentials before a kept reply is told; 401 and 403 are told instead",
    );
    page.set(
        "host",
        text(words::host(gateway.host)),
        "the origin is told the client's Host (preserve) or its own name (upstream)",
    );
    page.set("log", text(words::log(gateway.log)), "text, json");
    page.set("log_filter", text(&gateway.log_filter), "such as info, debug, warn, semel::exchange=debug,info");
    page.set("threads", gateway.threads.to_string(), "that serve clients; by default one per core");
    page.set("connections_max", gateway.connections_max.to_string(), "client connections at once");
    page.time(
        "header_read_max",
        gateway.header_read_max,
        "from connecting, or the last response, to a whole header section",
    );
    page.set(
        "upstream_connections_max",
        gateway.upstream_connections_max.to_string(),
        "connections to the origin at once",
    );
    page.time("upstream_idle_max", gateway.upstream_idle_max, "an idle one is kept; less than the origin keeps it");
    page.time("connect_max", gateway.connect_max, "to reach the origin; past it nothing was sent");
    page.time(
        "response_header_max",
        gateway.response_header_max,
        "the origin's silence before its response, where no route covers",
    );
    page.time("drain_max", gateway.drain_max, "what runs may still run after SIGTERM");
}

fn clients(page: &mut Page<'_>, tls: Option<&Tls>) {
    let Some(tls) = tls else {
        page.gap();
        page.note("Clients connect without TLS; with it, in a table [tls]:");
        for line in NO_TLS.trim().lines() {
            page.note(line);
        }
        return;
    };
    page.table("[tls]");
    let file = |path: &PathBuf| text(&path.display().to_string());
    page.set("cert_file", file(&tls.cert_file), "the gateway's certificate, then those that vouch for it (PEM)");
    page.set("key_file", file(&tls.key_file), "and its key");
    page.maybe("client_ca_file", tls.client_ca_file.as_ref().map(file), "who vouches for clients (PEM)");
    page.set(
        "client_certificate",
        text(words::client_certificate(tls.client_certificate)),
        "none; optional: checked where one is shown; required",
    );
    page.time("reload_every", tls.reload_every, "the files are looked at, and used once they have changed");
    page.time("handshake_max", tls.handshake_max, "a client may take from connecting to the end of the handshake");
}

/// How `[tls]` looks where there is none to show.
const NO_TLS: &str = r#"
[tls]
cert_file = "/etc/semel/server.pem"           # the gateway's certificate, then those that vouch for it (PEM)
key_file = "/etc/semel/server.key"            # and its key
client_ca_file = "/etc/semel/clients.pem"     # who vouches for clients (PEM)
client_certificate = "required"               # none; optional: checked where one is shown; required
reload_every = "10s"                          # the files are looked at, and used once they have changed
handshake_max = "10s"                         # a client may take from connecting to the end of the handshake
"#;

fn identity(page: &mut Page<'_>, identity: &IdentityConfig) {
    let path = |path: &std::path::Path| text(&path.display().to_string());
    page.table("[identity]");
    let source = identity.source.instead_of_headers().unwrap_or("headers");
    page.set(
        "source",
        text(source),
        "who asks: headers: those of principal; jwt: a verified token; client-certificate",
    );
    page.maybe(
        "mapping_file",
        identity.mapping_file.as_deref().map(path),
        "a file that gives several credentials one principal, for rotation",
    );
    let IdentitySource::Jwt(jwt) = &identity.source else {
        for line in NO_JWT.trim().lines() {
            page.note(line);
        }
        return;
    };
    page.table("[identity.jwt]");
    page.set("header", text(&words::header(&jwt.header)), "has the token, after the word Bearer");
    page.set("issuer", text(&jwt.issuer), "whose tokens are accepted: the claim iss");
    page.set("audience", list(&jwt.audience), "for whom they must be, one of these: the claim aud; []: they have none");
    let algorithms = jwt.algorithms.iter().map(|algorithm| format!("{algorithm:?}"));
    page.set("algorithms", list(algorithms), "how they may be signed");
    let (mut file, mut url, mut secret) = (None, None, None);
    let mut fetched_every = None;
    match &jwt.keys {
        KeysFrom::File(from) => file = Some(path(from)),
        KeysFrom::Secret(from) => secret = Some(path(from)),
        KeysFrom::Url { url: from, refresh } => {
            url = Some(text(&from.to_string()));
            fetched_every = Some(text(&words::duration(*refresh)));
        }
    }
    page.maybe("jwks_url", url, "where the issuer's public keys are fetched");
    page.maybe("jwks_refresh", fetched_every, "how often they are, for jwks_url");
    page.maybe("jwks_file", file, "a file with the issuer's public keys");
    page.maybe("hmac_secret_file", secret, "a file with the secret that is shared with the issuer");
    page.set("claim", text(jwt.claim.as_str()), "a JSON Pointer: the claim that names the caller");
    page.time("leeway", jwt.leeway, "this clock and the issuer's may differ");
}

/// How tokens are set where there are none.
const NO_JWT: &str = r#"
[identity.jwt]                                # for source = "jwt"
header = "Authorization"                      # has the token, after the word Bearer
issuer = "https://login.example.com/"         # whose tokens are accepted: the claim iss
audience = ["https://api.example.com"]        # for whom they must be, one of these: the claim aud; []: they have none
algorithms = ["RS256", "ES256"]               # how they may be signed
jwks_url = "https://login.example.com/keys"   # where the issuer's public keys are fetched; or jwks_file, hmac_secret_file
jwks_refresh = "5m"                           # how often they are
claim = "/sub"                                # a JSON Pointer: the claim that names the caller
leeway = "60s"                                # this clock and the issuer's may differ
"#;

fn quota(page: &mut Page<'_>, quota: &QuotaLimits) {
    page.table("[quota]");
    page.set("live_keys_max", quota.live_keys_max.to_string(), "fresh keys of one principal within the window; 0: any");
    page.time("window", quota.window, "a key counts from its first execution");
    page.set("principals_max", quota.principals_max.to_string(), "that are counted at once");
}

fn cors(page: &mut Page<'_>, cors: &Cors) {
    page.table("[cors]");
    page.set(
        "origins",
        list(cors.origins.iter().filter_map(|origin| origin.to_str().ok())),
        "web pages that may read the gateway's own problems and kept replies, such as \"https://app.example.com\"",
    );
    let credentials = match cors.credentials {
        Credentials::Allowed => "true",
        Credentials::Hidden => "false",
    };
    page.set("credentials", credentials, "true: also where their requests carry cookies");
}

fn store(page: &mut Page<'_>, store: &StoreConfig) {
    let (shared, postgres, redis) = match &store.place {
        Place::Embedded | Place::Memory => (Applies::No, Applies::No, Applies::No),
        Place::Postgres(_) => (Applies::Yes, Applies::Yes, Applies::No),
        Place::Redis(_) => (Applies::Yes, Applies::No, Applies::Yes),
    };
    page.table("[store]");
    page.set(
        "url",
        text(&store.place.to_string()),
        "embedded: in gateway.data; memory: forgotten when the process ends; or one that gateways share: \
         postgres://user@host/db, redis://host:6379, redis+cluster://host:6379, with TLS rediss://, rediss+cluster://",
    );
    page.note("What follows is for a store that gateways share.");
    let file = |file: &Option<std::path::PathBuf>| file.as_ref().map(|path| text(&path.display().to_string()));
    let password_file = match &store.password {
        PasswordFrom::File(path) => Some(path.clone()),
        PasswordFrom::Nowhere | PasswordFrom::Url(_) | PasswordFrom::Environment(_) => None,
    };
    page.maybe("password_file", file(&password_file), "a file with the password; or give it in SEMEL_STORE_PASSWORD");
    page.maybe(
        "secret_file",
        file(&store.secret_file),
        "a copy of the file `secret` of the first gateway's data folder; all gateways on one store need the same",
    );
    page.where_it_applies(shared, "connections", store.connections.to_string(), "of this gateway to the store");
    let time = |duration| text(&words::duration(duration));
    page.where_it_applies(shared, "statement_max", time(store.statement_max), "the store may take for one answer");
    page.where_it_applies(shared, "connect_max", time(store.connect_max), "to reach the store");
    page.where_it_applies(
        shared,
        "accept_loss",
        store.accept_loss.to_string(),
        "true: warn of settings by which the store may lose what it confirmed, and go on",
    );
    page.maybe(
        "ca_file",
        file(&store.ca_file),
        "who vouches for the store's certificate (PEM), instead of the web's authorities",
    );
    page.maybe("client_cert_file", file(&store.client_cert_file), "a certificate (PEM) to show to the store");
    page.maybe("client_key_file", file(&store.client_key_file), "and its key");
    page.where_it_applies(
        postgres,
        "period",
        time(store.period),
        "PostgreSQL: a new partition as often; a quarter of the longest remember_for, from 1h to 30d",
    );
    page.where_it_applies(
        postgres,
        "prepared",
        store.prepared.to_string(),
        "PostgreSQL: false: without prepared statements, for a pooler that has none",
    );
    page.where_it_applies(redis, "prefix", text(&store.prefix), "Redis: what every key begins with");
    page.where_it_applies(
        redis,
        "replicas",
        store.replicas.to_string(),
        "Redis: a write counts once so many replicas have it (WAIT)",
    );
    page.where_it_applies(
        redis,
        "local_aof",
        store.local_aof.to_string(),
        "Redis: a write counts once it is on the server's disk (WAITAOF)",
    );
}

fn telemetry(page: &mut Page<'_>, telemetry: &Telemetry) {
    page.table("[telemetry]");
    page.maybe(
        "otlp",
        telemetry.otlp.as_ref().map(|collector| text(&collector.to_string())),
        "a collector that traces are sent to (OTLP, HTTP with protobuf), such as \"http://127.0.0.1:4318\"",
    );
    page.set(
        "sample",
        format!("{:?}", telemetry.sample),
        "of requests that bring no trace, from 0.0 to 1.0; those that bring one have decided",
    );
    page.time(
        "unknown_count_every",
        telemetry.unknown_count_every,
        "records with an unknown outcome are counted for /metrics; 0s: never",
    );
}

/// Whether a setting means something at the place where records live.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Applies {
    Yes,
    No,
}

fn route(page: &mut Page<'_>, route: &RoutePolicy) {
    page.table("[[route]]");
    page.set("methods", list(route.methods.iter().map(http::Method::as_str)), "methods that are covered");
    page.set("path", text(route.path.as_str()), "{name} is any one segment, * at the end any rest");
    let (mut name, mut member, mut rules) = (None, None, (Grammar::default(), Form::default(), Presence::default()));
    let (mut suffix, mut sent) = (AttemptSuffix::default(), None);
    let key = match &route.key {
        KeyRule::Header { name: header, grammar, form, presence, attempt_suffix, sent: as_what } => {
            sent = Some(text(words::sent(*as_what)));
            name = Some(text(&words::header(header)));
            rules = (*grammar, *form, *presence);
            suffix = *attempt_suffix;
            "header"
        }
        KeyRule::Member { pointer, grammar, presence } => {
            member = Some(text(pointer.as_str()));
            rules = (*grammar, Form::default(), *presence);
            "member"
        }
        KeyRule::Operation => "operation",
    };
    let (grammar, form, presence) = rules;
    page.set("key", text(key), "header; member: of the JSON content; operation: the operation itself");
    page.maybe("key_header", name, "the header, for key = \"header\"");
    page.maybe("key_member", member, "a JSON Pointer, for key = \"member\"");
    page.set("key_grammar", text(words::grammar(grammar)), "any, uuid, uuid-v4, uuid-v7");
    page.set("key_form", text(words::form(form)), "lenient: quoted or bare; strict: quoted");
    page.maybe(
        "key_sent",
        sent,
        "to the origin: as-received, bare, quoted; one spelling for an origin that is to know it again",
    );
    page.set("key_presence", text(words::presence(presence)), "optional: without a key unprotected; required: refused");
    page.set(
        "attempt_suffix",
        text(words::attempt_suffix(suffix)),
        "stem: -attempt-<n> at a key's end does not count; literal",
    );
    page.set("key_bytes_max", route.key_bytes_max.to_string(), "bytes after unquoting");
    let pointers = |pointers: &[Pointer]| list(pointers.iter().map(Pointer::as_str));
    let (fingerprint, ignored, members) = match &route.fingerprint {
        FingerprintRule::Raw => ("raw", pointers(&[]), pointers(&[])),
        FingerprintRule::Json { volatile } => ("json", pointers(volatile), pointers(&[])),
        FingerprintRule::Members(members) => ("members", pointers(&[]), pointers(members)),
    };
    page.set(
        "fingerprint",
        text(fingerprint),
        "what of the content counts: raw: every byte; json: the value; members: some",
    );
    page.set("fingerprint_ignore", ignored, "JSON Pointers, for json");
    page.set("fingerprint_members", members, "JSON Pointers, for members");
    let statuses = |effect| list(words::statuses(route.statuses_that_mean(effect)));
    page.set("effect_happened", statuses(Effect::Happened), "the reply is kept and told to retries");
    page.set("effect_none", statuses(Effect::None), "nothing happened: a retry executes");
    page.set("effect_unknown", statuses(Effect::Unknown), "it may have happened: see on_unknown");
    page.set("reply", text(words::reply(route.reply)), "kept; omitted: only that it was done");
    page.set("on_completed", text(words::on_completed(route.on_completed)), "replay; conflict: 409 resource-exists");
    page.set(
        "on_unknown",
        text(words::on_unknown(route.on_unknown)),
        "refuse; reexecute, forward-key: the origin is idempotent; probe: the origin is asked, see [route.probe]",
    );
    page.set("on_expired", text(words::on_expired(route.on_expired)), "past replay_for: refuse, execute");
    page.set("on_late", text(words::on_late(route.on_late)), "an old Repeatability-First-Sent: ignore, refuse");
    page.time("execution_max", route.execution_max, "the origin may take; past it the outcome is unknown");
    page.time("grace", route.grace, "longer than that a claim counts as in flight");
    page.time("wait_max", route.wait_max, "a concurrent request waits for the first; 0s: it is refused at once");
    page.time("replay_for", route.replay_for, "a reply is told to retries");
    page.time("remember_for", route.remember_for, "it is remembered that it was done");
    page.time("unknown_for", route.unknown_for, "an unknown outcome is remembered");
    page.time("request_read_max", route.request_read_max, "a client may take to send the content");
    page.set(
        "request_body_bytes_max",
        text(&words::bytes(route.request_body_bytes_max)),
        "larger content is refused, since it cannot be protected",
    );
    page.set(
        "reply_body_bytes_max",
        text(&words::bytes(route.reply_body_bytes_max)),
        "larger content is told, and not kept",
    );
    page.set("marker", text(&words::header(&route.marker)), "the header that says `true` on a replay");
    page.set(
        "replay_member",
        text(route.replay_member.as_deref().unwrap_or_default()),
        "a member set to true in replayed JSON; \"\": none",
    );
    page.set(
        "headers_omitted",
        list(route.headers_omitted.iter().map(words::header)),
        "response fields that are not kept",
    );
    page.set(
        "resource",
        text(route.resource.as_ref().map_or("", PathTemplate::as_str)),
        "a path with {key} in it, told in Location on a conflict; routes of the same one share member keys; \"\": none",
    );
    page.table("[route.problems]");
    for kind in ProblemType::ALL {
        let mut members = vec![format!("status = {}", route.status_of(kind).as_u16())];
        let own = route.problem_words(kind);
        members.extend(own.content.map(|content| format!("content = {}", text(&content))));
        members.extend(own.content_type.map(|media| format!("content_type = {}", text(&media))));
        page.set(kind.code(), format!("{{ {} }}", members.join(", ")), kind.title());
    }
    if let Some(rule) = &route.probe {
        probe(page, rule);
    }
    if let Some(rule) = &route.guard {
        guard(page, rule);
    }
    for rule in &route.releases {
        release(page, rule);
    }
}

fn probe(page: &mut Page<'_>, rule: &ProbeRule) {
    page.table("[route.probe]");
    page.set("path", text(rule.path.as_str()), "where the origin is asked what became of a request");
    let statuses = |shown| list(words::statuses(rule.statuses_that_show(shown)));
    page.set("found", statuses(Shown::Found), "it happened: the content is kept as the reply");
    page.set("absent", statuses(Shown::Absent), "it did not, once the record is old enough");
    let member = rule.member.as_ref().map(|pointer| text(pointer.as_str()));
    page.maybe("member", member, "a JSON Pointer that must be there, and not empty, for found");
    page.set("keep", text(words::keep(rule.keep)), "as the reply: all of the content, or the member");
    let status = rule.status.map(|status| status.as_u16().to_string());
    page.maybe("status", status, "that the kept reply has; not set: as the origin answers");
    page.time("probe_max", rule.probe_max, "the origin may take to answer");
    page.time("after", rule.after, "the age of the record from which absent is believed");
}

fn guard(page: &mut Page<'_>, rule: &GuardRule) {
    page.table("[route.guard]");
    page.set("name", text(&rule.name), "the same name is the same guard");
    let values: Vec<String> = rule.values.iter().map(|value| source(value, None)).collect();
    page.set("values", format!("[{}]", values.join(", ")), "what no two live records of a caller may share");
    let when: Vec<String> = rule.when.iter().map(|when| source(&when.source, Some(&when.is))).collect();
    page.set("when", format!("[{}]", when.join(", ")), "applies only while all are met");
    page.time("hold_for", rule.hold_for, "it is held at most");
    let may_override = match rule.overriding {
        Overriding::Never => "false",
        Overriding::WithReason => "true",
    };
    page.set("override", may_override, "true: Guard-Override: <reason> passes it, and is logged");
}

/// A value, or a condition with what it may be.
fn source(source: &Source, is: Option<&[String]>) -> String {
    let mut members = match (source, is) {
        (Source::Content(pointer), None) => return text(pointer.as_str()),
        (Source::Content(pointer), Some(_)) => vec![format!("member = {}", text(pointer.as_str()))],
        (Source::Reply(reply), _) => {
            let mut members = vec![
                format!("path = {}", text(&reply.path)),
                format!("key = {}", text(reply.key.as_str())),
                format!("member = {}", text(reply.member.as_str())),
            ];
            members.extend(reply.absent.as_ref().map(|absent| format!("absent = {}", text(absent))));
            members
        }
    };
    members.extend(is.map(|is| format!("is = {}", list(is))));
    format!("{{ {} }}", members.join(", "))
}

fn release(page: &mut Page<'_>, rule: &ReleaseRule) {
    page.table("[[route.release]]");
    page.set("path", text(rule.path.as_str()), "{key} and the variables of the route's path name the record");
    page.set("methods", list(rule.methods.iter().map(http::Method::as_str)), "requests whose responses show it");
    page.set("member", text(rule.member.as_str()), "a JSON Pointer into the response");
    match &rule.shows {
        Shows::HeldWhile(texts) => page.set("held_while", list(texts), "any other text releases the guard"),
        Shows::DeadWhen(texts) => page.set("dead_when", list(texts), "one of these empties the slot"),
    }
    page.time("after", rule.after, "the record is at least that much older than the request");
}

struct Page<'a>(&'a mut String);

impl Page<'_> {
    fn line(&mut self, line: &str) {
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }
    fn gap(&mut self) {
        self.line("");
    }
    fn note(&mut self, text: &str) {
        self.line(&format!("# {text}"));
    }
    fn table(&mut self, header: &str) {
        self.gap();
        self.line(header);
    }
    fn set(&mut self, name: &str, value: impl AsRef<str>, meaning: &str) {
        let mut line = format!("{name} = {}", value.as_ref());
        while line.chars().count() < 46 {
            line.push(' ');
        }
        let _ = write!(line, "  # {meaning}");
        self.line(&line);
    }
    fn maybe(&mut self, name: &str, value: Option<impl AsRef<str>>, meaning: &str) {
        match value {
            Some(value) => self.set(name, value, meaning),
            None => self.set(&format!("# {name}"), "\"\"", &format!("not set: {meaning}")),
        }
    }
    /// As a comment where it would be refused.
    fn where_it_applies(&mut self, applies: Applies, name: &str, value: impl AsRef<str>, meaning: &str) {
        match applies {
            Applies::Yes => self.set(name, value, meaning),
            Applies::No => self.set(&format!("# {name}"), value, meaning),
        }
    }
    fn time(&mut self, name: &str, duration: std::time::Duration, meaning: &str) {
        self.set(name, text(&words::duration(duration)), meaning);
    }
}

/// The names of all presets.
pub(crate) fn presets() -> String {
    Preset::ALL.iter().map(|preset| preset.name()).collect::<Vec<_>>().join(", ")
}

/// A TOML string.
fn text(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn list<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| text(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}
