//! Who asks, and how much: SC1, SC6 to SC8, SC10, SC12.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Act, Authority, Conn, Gate, Gateway, Origin, Reply, Request, Response, assert_problem, assert_replay, gateway, get,
    post, replace, send,
    tokens::{AUDIENCE, EC, ISSUER, Key, RSA, claims, key_set, seconds, unsigned},
    until,
};

/// A folder with the files of a configuration.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(TempDir::with_prefix("semel-identity-").unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }
}

/// Tokens by keys that `source` names, such as `jwks_file = '...'`.
fn jwt(source: &str) -> String {
    format!(
        "[identity]\nsource = \"jwt\"\n[identity.jwt]\nissuer = \"{ISSUER}\"\naudience = [\"{AUDIENCE}\"]\n{source}\n"
    )
}

async fn started(toml: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).config(toml).start().await;
    (origin, gateway)
}

fn with_token(token: &str) -> Request {
    post("/orders").key("k").header("Authorization", format!("Bearer {token}"))
}

#[track_caller]
fn assert_unauthenticated(what: &str, answer: &Response, challenge: Option<&str>) {
    assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{what}: {answer:?}");
    assert_problem(answer, 401, "unauthenticated");
    assert_eq!(answer.header("www-authenticate"), challenge, "{what}: {answer:?}");
}

/// With one bit of its signature or claims turned.
fn tampered(token: &str, part: usize) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut bytes = URL_SAFE_NO_PAD.decode(&parts[part]).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    parts[part] = URL_SAFE_NO_PAD.encode(bytes);
    parts.join(".")
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[tokio::test]
async fn sc01_sc08_a_forged_token_is_told_nothing_and_nothing_is_looked_up() {
    let files = Files::new();
    let keys = files.write("keys.json", key_set(&[&RSA, &EC]));
    let (origin, gateway) = started(&jwt(&format!("jwks_file = '{keys}'"))).await;
    origin.always(|seen| Act::reply(Reply::json(201, &format!("{{\"iban\":\"of {}\"}}", seen.key()))));
    let first = gateway.send(&with_token(&RSA.sign(&claims("acme")))).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (201, None), "{first:?}");
    // Another token of the same caller, by another key of the same issuer, is the same caller.
    assert_replay(&first, &gateway.send(&with_token(&EC.sign(&claims("acme")))).await);
    let other = gateway.send(&with_token(&EC.sign(&claims("other")))).await;
    assert_eq!((other.status, other.header("idempotent-replayed"), origin.effects()), (201, None, 2));

    let stranger_rsa = Key::rsa("rsa-1");
    let Value::String(n) = RSA.public()["n"].take() else { panic!("a modulus") };
    let public_key = URL_SAFE_NO_PAD.decode(n).unwrap();
    let good = claims("acme");
    let invalid = Some("Bearer error=\"invalid_token\"");
    let none = |alg: &str| format!("{}.", unsigned(&json!({ "alg": alg, "kid": "rsa-1" }), &good));
    let hs256 = json!({ "alg": "HS256", "kid": "rsa-1" });
    let forged = [
        ("no signature", none("none")),
        ("no signature, spelled otherwise", none("nOnE")),
        ("no signature under a true algorithm", none("RS256")),
        ("signed with the public key as a secret", Key::Secret(public_key).sign_as(&hs256, &good)),
        ("signed with the key set as a secret", Key::Secret(key_set(&[&RSA]).into_bytes()).sign_as(&hs256, &good)),
        ("signed by a stranger", stranger_rsa.sign(&good)),
        ("signed by EC, told as RSA", EC.sign_as(&json!({ "alg": "RS256", "kid": "rsa-1" }), &good)),
        ("signed by EC, told as RSA's name", EC.sign_as(&json!({ "alg": "ES256", "kid": "rsa-1" }), &good)),
        ("an algorithm that is not accepted", RSA.sign_as(&json!({ "alg": "PS256", "kid": "rsa-1" }), &good)),
        ("a key in the token", {
            let header = json!({ "alg": "RS256", "jwk": stranger_rsa.public(), "kid": "rsa-1" });
            stranger_rsa.sign_as(&header, &good)
        }),
        (
            "a critical header",
            RSA.sign_as(&json!({ "alg": "RS256", "kid": "rsa-1", "crit": ["b64"], "b64": true }), &good),
        ),
        ("a turned signature", tampered(&RSA.sign(&good), 2)),
        ("turned claims", tampered(&RSA.sign(&good), 1)),
        ("expired", RSA.sign(&with(claims("acme"), "exp", json!(seconds() - 61)))),
        ("for ever", RSA.sign(&without(claims("acme"), "exp"))),
        ("an end that is no number", RSA.sign(&with(claims("acme"), "exp", json!("9999999999")))),
        ("not yet", RSA.sign(&with(claims("acme"), "nbf", json!(seconds() + 3_600)))),
        ("a beginning that is no number", RSA.sign(&with(claims("acme"), "nbf", json!("later")))),
        ("another issuer", RSA.sign(&with(claims("acme"), "iss", json!("https://evil.example.com/")))),
        ("two issuers", RSA.sign(&with(claims("acme"), "iss", json!([ISSUER])))),
        ("no issuer", RSA.sign(&without(claims("acme"), "iss"))),
        ("another audience", RSA.sign(&with(claims("acme"), "aud", json!("https://files.example.com")))),
        ("no audience", RSA.sign(&without(claims("acme"), "aud"))),
        ("nobody", RSA.sign(&without(claims("acme"), "sub"))),
        ("an empty name", RSA.sign(&claims(""))),
        ("a list of names", RSA.sign(&with(claims("acme"), "sub", json!(["acme"])))),
        ("no token", "acme".to_owned()),
        ("two parts", unsigned(&hs256, &good)),
        ("too long", RSA.sign(&with(claims("acme"), "pad", json!("x".repeat(17_000))))),
    ];
    for (what, token) in forged {
        let answer = gateway.send(&with_token(&token)).await;
        assert_unauthenticated(what, &answer, invalid);
        assert!(!answer.text().contains("iban") && !answer.text().contains("acme"), "{what}: {answer:?}");
    }
    let token = RSA.sign(&good);
    let silent = [
        ("nothing", post("/orders").key("k")),
        ("the token alone", post("/orders").key("k").header("Authorization", &token)),
        ("another scheme", post("/orders").key("k").header("Authorization", format!("Basic {token}"))),
        ("another header", post("/orders").key("k").header("X-API-Key", format!("Bearer {token}"))),
    ];
    for (what, request) in silent {
        assert_unauthenticated(what, &gateway.send(&request).await, Some("Bearer"));
    }
    let doubled = with_token(&RSA.sign(&claims("other"))).header("Authorization", format!("Bearer {token}"));
    assert_unauthenticated("two tokens", &gateway.send(&doubled).await, invalid);
    assert_eq!(origin.seen().len(), 2, "nothing reached the origin");
    // A token within the leeway of a minute is good still, and what is not covered is the origin's to judge.
    let late = with(claims("acme"), "exp", json!(seconds() - 20));
    assert_replay(&first, &gateway.send(&with_token(&RSA.sign(&late))).await);
    for pass in [get("/orders"), post("/orders")] {
        let answer = gateway.send(&pass).await;
        assert_ne!(answer.status, 401, "{answer:?}");
    }
    assert_eq!(origin.seen().len(), 4);
    assert!(!gateway.log().contains("acme"), "{}", gateway.log());
}

#[tokio::test]
async fn sc01_a_shared_secret_and_any_claim_name_the_caller() {
    let files = Files::new();
    let secret = files.write("secret", "0123456789abcdef0123456789abcdef\n");
    let toml =
        jwt(&format!("hmac_secret_file = '{secret}'\nclaim = \"/org/id\"\nheader = \"X-Token\"\nleeway = \"0s\""));
    let (origin, gateway) = started(&toml).await;
    let key = Key::Secret(b"0123456789abcdef0123456789abcdef".to_vec());
    let of = |id: Value| with(claims("somebody"), "org", json!({ "id": id }));
    let ask = |token: String| post("/orders").key("k").header("X-Token", token);
    let first = gateway.send(&ask(key.sign(&of(json!("7"))))).await;
    assert_replay(&first, &gateway.send(&ask(format!("Bearer {}", key.sign(&of(json!("7")))))).await);
    // A number is not the text of it.
    let number = gateway.send(&ask(key.sign(&of(json!(7))))).await;
    assert_eq!((number.header("idempotent-replayed"), origin.effects()), (None, 2), "{number:?}");
    let other = Key::Secret(b"0123456789abcdef0123456789abcdeg".to_vec());
    // The right key in a way that is not among `algorithms`.
    let otherwise = key.sign_as(&json!({ "alg": "HS512" }), &of(json!("7")));
    for token in [other.sign(&of(json!("7"))), RSA.sign(&of(json!("7"))), key.sign(&claims("7")), otherwise] {
        assert_problem(&gateway.send(&ask(token)).await, 401, "unauthenticated");
    }
    // SC7: what was good is over one day, and the kept reply with it.
    let short = key.sign(&with(of(json!("7")), "exp", json!(seconds() + 2)));
    assert_replay(&first, &gateway.send(&ask(short.clone())).await);
    until("the token is over", async || gateway.send(&ask(short.clone())).await.status == 401).await;
    assert_eq!(origin.effects(), 2);
}

#[tokio::test]
async fn sc08_keys_are_fetched_and_rotated_and_kept_while_they_cannot_be() {
    let issuer = Origin::start().await;
    let down = |_: &crate::harness::Seen| Act::refuse(Reply::new(503));
    issuer.always(down);
    let refresh = "jwks_refresh = \"100ms\"";
    let (origin, gateway) = started(&jwt(&format!("jwks_url = \"http://{}/keys\"\n{refresh}", issuer.addr))).await;
    let old = with_token(&RSA.sign(&claims("acme")));
    // No keys yet: nobody is known, and nothing is executed.
    let answer = gateway.send(&old).await;
    assert_problem(&answer, 503, "identity-unavailable");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert_eq!(send(gateway.admin, &get("/readyz")).await.status, 503);
    assert_eq!(gateway.send(&get("/orders")).await.status, 200, "what is not covered passes");
    issuer.always(|_| Act::refuse(Reply::json(200, &key_set(&[&RSA]))));
    until("the keys are there", async || gateway.send(&old).await.status == 201).await;
    assert_eq!(send(gateway.admin, &get("/readyz")).await.status, 200);
    // An issuer that is away, or talks nonsense, takes nobody's identity.
    issuer.always(|seen| match seen.target.len() % 2 {
        0 => Act::refuse(Reply::new(500)),
        _ => Act::refuse(Reply::json(200, r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#)),
    });
    let fetches = issuer.seen().len();
    issuer.arrived(fetches + 2).await;
    assert_eq!(gateway.send(&old).await.header("idempotent-replayed"), Some("true"));
    // The next key; the old one is withdrawn.
    issuer.always(|_| Act::refuse(Reply::json(200, &key_set(&[&EC]))));
    let new = with_token(&EC.sign(&claims("acme")));
    until("the new key is known", async || gateway.send(&new).await.header("idempotent-replayed").is_some()).await;
    until("the old one is not", async || gateway.send(&old).await.status == 401).await;
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn sc08_an_unknown_key_is_fetched_at_once_and_not_for_everybody_who_invents_one() {
    let issuer = Origin::start().await;
    issuer.always(|_| Act::refuse(Reply::json(200, &key_set(&[&RSA]))));
    let (_origin, gateway) = started(&jwt(&format!("jwks_url = \"http://{}/keys\"", issuer.addr))).await;
    until("the keys are there", async || gateway.send(&with_token(&RSA.sign(&claims("a")))).await.status == 201).await;
    issuer.always(|_| Act::refuse(Reply::json(200, &key_set(&[&RSA, &EC]))));
    let new = with_token(&EC.sign(&claims("b")));
    // The first to show it is asked to come again, which is soon.
    assert_problem(&gateway.send(&new).await, 503, "identity-unavailable");
    until("the new key is known", async || gateway.send(&new).await.status == 201).await;
    let fetches = issuer.seen().len();
    let invented = Key::ec("invented");
    for _ in 0..5 {
        let answer = gateway.send(&with_token(&invented.sign(&claims("a")))).await;
        assert_unauthenticated("an invented key", &answer, Some("Bearer error=\"invalid_token\""));
    }
    assert_eq!((fetches, issuer.seen().len()), (2, 2));
}

fn digest_of(credential: &str) -> String {
    let digest = digest(&SHA256, credential.as_bytes());
    let hex: String = digest.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    format!("\"sha256:{hex}\"")
}

#[tokio::test]
async fn sc06_a_rotated_credential_keeps_its_history() {
    let files = Files::new();
    let mapping = |lines: &str| files.write("principals.toml", format!("[principals]\n{lines}"));
    let (sk_1, sk_2, other) = (digest_of("Bearer sk_1"), digest_of("Bearer sk_2"), digest_of("Bearer sk_9"));
    let file = mapping(&format!("acme = [{sk_1}]\nother = [{other}]\n"));
    let (origin, gateway) = started(&format!("[identity]\nmapping_file = '{file}'\n")).await;
    let first = gateway.send(&with_token("sk_1")).await;
    assert_replay(&first, &gateway.send(&with_token("sk_1")).await);
    let strangers =
        [with_token("sk_2"), with_token("sk_9"), with_token("acme"), with_token("sk_1").header("X-API-Key", "x")];
    for (n, stranger) in strangers.iter().enumerate() {
        let answer = gateway.send(stranger).await;
        assert_eq!((answer.header("idempotent-replayed"), origin.effects()), (None, n + 2), "{n}: {answer:?}");
    }
    mapping(&format!("acme = [{sk_1}, {sk_2}]\nother = [{other}]\n"));
    let gateway = gateway.restart().await;
    assert_replay(&first, &gateway.send(&with_token("sk_2")).await);
    // The old one is withdrawn; whoever has it is somebody else from now on.
    mapping(&format!("acme = [{sk_2}]\nother = [{other}]\n"));
    let gateway = gateway.restart().await;
    assert_replay(&first, &gateway.send(&with_token("sk_2")).await);
    assert_eq!(gateway.send(&with_token("sk_1")).await.header("idempotent-replayed"), None);
    // And whoever is not in the file at all is who they were without one.
    let stranger = post("/orders").key("k").header("Authorization", "Bearer nobody");
    let known = gateway.send(&stranger).await;
    let gateway = gateway.restart_with(|setup| setup.config("")).await;
    assert_replay(&known, &gateway.send(&stranger).await);
}

/// Makes the gateway read its configuration again, and waits until it was judged; says in which words.
async fn reload(gateway: &Gateway) -> String {
    let told = || gateway.log().lines().filter(|line| line.contains("SIGHUP:")).map(str::to_owned).collect::<Vec<_>>();
    let before = told().len();
    gateway.signal("HUP");
    until("the reload is over", async || told().len() > before).await;
    told().pop().unwrap()
}

#[tokio::test]
async fn sc06_sc12_a_reload_reads_the_mapping_again_and_changes_the_quota() {
    let files = Files::new();
    let mapping = |lines: &str| files.write("principals.toml", format!("[principals]\n{lines}"));
    let (sk_1, sk_2) = (digest_of("Bearer sk_1"), digest_of("Bearer sk_2"));
    let identity = format!("[identity]\nmapping_file = '{}'\n", mapping(&format!("acme = [{sk_1}]\n")));
    let (origin, gateway) = started(&identity).await;
    let first = gateway.send(&with_token("sk_1")).await;
    mapping(&format!("acme = [{sk_1}, {sk_2}]\n"));
    assert!(reload(&gateway).await.contains("reloaded"));
    assert_replay(&first, &gateway.send(&with_token("sk_2")).await);
    // A file that is wrong changes nothing, and tells no credential.
    mapping("acme = [\"Bearer sk_1\"]\n");
    let said = reload(&gateway).await;
    assert!(
        said.contains("is refused") && said.contains("principals.toml:2:9") && !said.contains("[\"Bearer"),
        "{said}"
    );
    assert_replay(&first, &gateway.send(&with_token("sk_2")).await);
    mapping(&format!("acme = [{sk_2}]\n"));
    replace(gateway.setup.folder(), "semel.toml", &format!("{identity}[quota]\nlive_keys_max = 1\n"));
    assert!(reload(&gateway).await.contains("[quota]"));
    let fresh = |key: &str| post("/orders").key(key).header("Authorization", "Bearer sk_2");
    assert_eq!(gateway.send(&fresh("a")).await.status, 201);
    assert_problem(&gateway.send(&fresh("b")).await, 429, "quota-exceeded");
    assert_replay(&first, &gateway.send(&with_token("sk_2")).await);
    replace(gateway.setup.folder(), "semel.toml", &identity);
    reload(&gateway).await;
    assert_eq!(gateway.send(&fresh("b")).await.status, 201);
    assert_eq!(origin.effects(), 3);
    // Who asks is found out in one way for as long as the process lives.
    replace(gateway.setup.folder(), "semel.toml", "[identity]\n");
    assert!(reload(&gateway).await.contains("[identity], but for the contents of its files, cannot change"));
}

#[tokio::test]
async fn sc01_sc06_a_client_certificate_names_the_caller() {
    let (origin, authority) = (Origin::start().await, Authority::new());
    let files = Files::new();
    let lines = format!("acme = [{}, {}]\n", digest_of("CN=old"), digest_of("CN=new"));
    let mapping = files.write("principals.toml", format!("[principals]\n{lines}"));
    let setup = gateway(&origin);
    let (cert, key) = authority.server().write(setup.folder(), "server");
    let ca = replace(setup.folder(), "ca.pem", &authority.pem());
    let tls = format!(
        "[tls]\ncert_file = '{}'\nkey_file = '{}'\nclient_ca_file = '{}'\nclient_certificate = \"optional\"\n",
        cert.display(),
        key.display(),
        ca.display()
    );
    let toml = format!("[identity]\nsource = \"client-certificate\"\nmapping_file = '{mapping}'\n{tls}");
    let gateway = setup.config(&toml).start().await;
    let ask = async |name: Option<&str>| {
        let shown = name.map(|name| authority.client(name));
        let mut conn = Conn::open_tls(gateway.addr, &authority.trusted_by(&["http/1.1"], shown.as_ref())).await;
        // What a header says counts for nothing here.
        conn.send(&with_token("CN=old").header("X-API-Key", "acme")).await;
        conn.response().await
    };
    let first = ask(Some("old")).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (201, None), "{first:?}");
    assert_replay(&first, &ask(Some("new")).await);
    for stranger in ["acme", "other", "old,CN=old"] {
        assert_eq!(ask(Some(stranger)).await.header("idempotent-replayed"), None, "{stranger}");
    }
    assert_replay(&first, &ask(Some("old")).await);
    assert_unauthenticated("no certificate", &ask(None).await, None);
    assert_eq!(origin.effects(), 4);
}

#[tokio::test]
async fn sc06_callers_of_tokens_may_share_a_name_and_nobody_can_take_it() {
    let files = Files::new();
    let keys = files.write("keys.json", key_set(&[&EC]));
    let lines = format!("acme = [{}, {}]\n", digest_of("user-1"), digest_of("user-2"));
    let mapping = files.write("principals.toml", format!("[principals]\n{lines}"));
    let toml = jwt(&format!("jwks_file = '{keys}'"))
        .replace("source = \"jwt\"\n", &format!("source = \"jwt\"\nmapping_file = '{mapping}'\n"));
    let (origin, gateway) = started(&toml).await;
    let ask = |subject: &str| with_token(&EC.sign(&claims(subject)));
    let first = gateway.send(&ask("user-1")).await;
    assert_replay(&first, &gateway.send(&ask("user-2")).await);
    // A caller whose claim is a name of the file is not who has that name.
    for stranger in ["acme", "user-3", "\"user-1\""] {
        assert_eq!(gateway.send(&ask(stranger)).await.header("idempotent-replayed"), None, "{stranger}");
    }
    assert_eq!(origin.effects(), 4);
}

#[tokio::test]
async fn identity_that_cannot_be_is_refused_at_the_start() {
    let files = Files::new();
    let keys = files.write("keys.json", key_set(&[&EC]));
    let secrets = files.write("secrets.json", r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#);
    let short = files.write("short", "0123456789abcdef\n");
    let broken = files.write("principals.toml", "[principals]\nacme = [\"Bearer sk_1\"]\n");
    let file = format!("jwks_file = '{keys}'");
    let table = [
        (jwt(""), "set jwks_url, jwks_file or hmac_secret_file"),
        (jwt(&format!("{file}\nhmac_secret_file = '{short}'")), "set one of"),
        (jwt(&format!("{file}\nalgorithms = [\"ES256\", \"HS256\"]")), "a key is never used in two ways"),
        (jwt(&format!("{file}\nalgorithms = [\"none\"]")), "unknown"),
        (jwt(&format!("hmac_secret_file = '{short}'")), "a secret has at least 32 bytes, and this one has 16"),
        (jwt(&format!("jwks_file = '{secrets}'")), "no public key for signatures"),
        (jwt("jwks_file = '/nowhere'"), "identity.jwt.jwks_file = \"/nowhere\": No such file"),
        (jwt("jwks_url = \"http://login.example.com/keys\""), "without TLS whoever is on the way"),
        (jwt(&format!("{file}\nleeway = \"1h\"")), "at most 10m"),
        (jwt(&file).replace("[identity.jwt]\n", "[identity.jwt]\nissue = \"x\"\n"), "did you mean `issuer`"),
        ("[identity]\nsource = \"jwt\"\n".to_owned(), "needs [identity.jwt]"),
        (jwt(&file).replace("source = \"jwt\"\n", ""), "[identity.jwt] is for identity.source = \"jwt\""),
        ("[identity]\nsource = \"client-certificate\"\n".to_owned(), "needs [tls] with client_ca_file"),
        (format!("[identity]\nmapping_file = '{broken}'\n"), "principals.toml:2:9: expected \"sha256:\""),
    ];
    let origin = Origin::start().await;
    for (toml, expected) in table {
        let said = gateway(&origin).config(&toml).try_start().await.expect_err(expected);
        assert!(said.contains(expected) && !said.contains("Bearer sk_1\"]"), "{toml}\n{said}");
    }
}

#[tokio::test]
async fn sc12_who_floods_is_told_to_wait_and_nobody_else_notices() {
    let (origin, gateway) = started("[quota]\nlive_keys_max = 5\nwindow = \"1h\"\n").await;
    let ask = |who: &str, key: &str| post("/orders").key(key).header("Authorization", format!("Bearer {who}"));
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let held = ask("a", "held");
    let running = tokio::spawn({
        let (addr, held) = (gateway.addr, held.clone());
        async move { send(addr, &held).await }
    });
    origin.arrived(1).await;
    let mut firsts = Vec::new();
    for n in 0..4 {
        firsts.push((ask("a", &n.to_string()), gateway.send(&ask("a", &n.to_string())).await));
    }
    for n in 0..40 {
        let answer = gateway.send(&ask("a", &format!("flood-{n}"))).await;
        assert_problem(&answer, 429, "quota-exceeded");
        let wait: u64 = answer.header("retry-after").expect("a time").parse().expect("seconds");
        assert!((1..=3_601).contains(&wait), "{answer:?}");
    }
    assert_eq!(origin.seen().len(), 5, "nothing of the flood reached the origin");
    // Its own retries are answered, the claim that is in flight stands, and others do not notice.
    for (request, first) in &firsts {
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(first, &gateway.send(request).await);
    }
    assert_problem(&gateway.send(&held).await, 409, "in-flight");
    assert_problem(&gateway.send(&ask("a", "0").body("{}")).await, 422, "key-reused");
    for n in 0..5 {
        assert_eq!(gateway.send(&ask("b", &n.to_string())).await.status, 201);
    }
    gate.open();
    let first = running.await.unwrap();
    assert_eq!(first.status, 201);
    assert_replay(&first, &gateway.send(&held).await);
    assert_problem(&gateway.send(&ask("a", "one more")).await, 429, "quota-exceeded");
}

#[tokio::test]
async fn sc12_a_key_that_nothing_happened_under_is_not_counted() {
    let (origin, gateway) = started("[quota]\nlive_keys_max = 2\n").await;
    origin.always(|seen| match seen.key() {
        key if key.starts_with("refused") => Act::refuse(Reply::json(422, "{}")),
        _ => Act::execute(),
    });
    for n in 0..5 {
        let answer = gateway.send(&post("/orders").key(&format!("refused-{n}"))).await;
        assert_eq!((answer.status, answer.header("idempotency-status")), (422, Some("released")), "{answer:?}");
    }
    let first = gateway.send(&post("/orders").key("1")).await;
    for _ in 0..5 {
        assert_replay(&first, &gateway.send(&post("/orders").key("1")).await);
    }
    assert_eq!(gateway.send(&post("/orders").key("2")).await.status, 201);
    assert_problem(&gateway.send(&post("/orders").key("3")).await, 429, "quota-exceeded");
    assert_problem(&gateway.send(&post("/orders").key("refused-9")).await, 429, "quota-exceeded");
    // What was counted is forgotten with the process, and what was executed is not.
    let gateway = gateway.restart().await;
    assert_replay(&first, &gateway.send(&post("/orders").key("1")).await);
    assert_eq!(gateway.send(&post("/orders").key("3")).await.status, 201);
}

#[tokio::test]
async fn sc10_keys_that_can_be_guessed_tell_nothing_of_others() {
    let files = Files::new();
    let keys = files.write("keys.json", key_set(&[&EC]));
    let (origin, gateway) = started(&jwt(&format!("jwks_file = '{keys}'"))).await;
    let (acme, guesser) = (EC.sign(&claims("acme")), EC.sign(&claims("guesser")));
    let ask = |token: &str, n: u32, amount: u32| {
        let request = post("/orders").key(&n.to_string()).header("Authorization", format!("Bearer {token}"));
        request.body(format!("{{\"amount\":{amount}}}"))
    };
    for n in 1..=3 {
        assert_eq!(gateway.send(&ask(&acme, n, n)).await.status, 201);
    }
    // Whether a key was used by acme changes nothing of what the guesser is told.
    for n in 1..=6 {
        let answer = gateway.send(&ask(&guesser, n, 9)).await;
        assert_eq!((answer.status, answer.header("idempotent-replayed")), (201, None), "{n}: {answer:?}");
    }
    assert_eq!(origin.effects(), 9);
}
