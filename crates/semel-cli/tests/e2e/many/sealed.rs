//! What a thief of a store sees: SC11. And what a gateway sees once its sealing secrets are exchanged.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::{Server, Store, for_each};
use crate::harness::{
    Act, Cut, Gateway, Origin, Reply, Request, Response, Setup, assert_problem, assert_replay, gateway, post, semel,
    until,
};

const KEY: &str = "key-of-nobody-else-1f3a";
const LOST_KEY: &str = "key-of-a-lost-reply-60d2";
const QUOTE: &str = "5f1e8a52-7c1d-4e67-9a4d-7e5a1f0c2b11";
const ORDER: &str = "c0ffee52-11aa-4bbb-8ccc-0123456789ab";
const CREDENTIAL: &str = "credential-of-ana-77e1";
const CONTENT: &str = "content-of-a-payment-4711";
const PATH: &str = "ledger-of-ana-2718";
const ACCOUNT: &str = "account-of-ana-3141";
const AMOUNT: &str = "amount-of-ana-5519";
const TOLD: &str = "told-by-the-origin-9e2f";
const FIELD: &str = "field-of-the-origin-8c1d";

/// All that is nobody's business but the caller's.
const SECRETS: [&str; 11] = [KEY, LOST_KEY, QUOTE, ORDER, CREDENTIAL, CONTENT, PATH, ACCOUNT, AMOUNT, TOLD, FIELD];

/// What operators may see, so that a dump without it is no dump.
const TEMPLATE: &str = "/payments/{ledger}";

const ROUTES: &str = r#"
[[route]]
path = "/payments/{ledger}"

[[route]]
path = "/quotes"
methods = ["POST"]
key = "member"
key_member = "/quoteId"
key_presence = "required"

[[route]]
path = "/orders"
methods = ["POST"]
key = "member"
key_member = "/orderId"
key_presence = "required"
resource = "/orders/{key}"

[route.guard]
name = "pending"
values = ["/account", { path = "/quotes", key = "/quoteId", member = "/amount", absent = "No such quote" }]
"#;

fn payment(key: &str) -> Request {
    let credential = format!("Bearer {CREDENTIAL}");
    post(&format!("/payments/{PATH}")).key(key).header("Authorization", credential).body(CONTENT)
}

fn quote() -> Request {
    let body = format!("{{\"quoteId\":\"{QUOTE}\",\"note\":\"{CONTENT}\"}}");
    post("/quotes").header("Authorization", format!("Bearer {CREDENTIAL}")).body(body)
}

fn order(id: &str) -> Request {
    let body = format!("{{\"orderId\":\"{id}\",\"quoteId\":\"{QUOTE}\",\"account\":\"{ACCOUNT}\"}}");
    post("/orders").header("Authorization", format!("Bearer {CREDENTIAL}")).body(body)
}

async fn origin() -> Origin {
    let origin = Origin::start().await;
    origin.always(|seen| {
        if seen.key().contains(LOST_KEY) {
            return Act::cut(Cut::AfterExecuting);
        }
        let content = format!("{{\"told\":\"{TOLD}\",\"amount\":\"{AMOUNT}\"}}");
        Act::reply(Reply::json(201, &content).header("X-Field", FIELD).header("Location", &format!("/at/{FIELD}")))
    });
    origin
}

/// Where a gateway keeps its records and what it is given besides.
trait Place {
    /// A gateway there, and a function that makes the whole of a file of what it says of routes.
    fn gateway(&self, origin: &Origin, toml: &str) -> Setup;
    /// The whole file of a gateway there.
    fn file(&self, toml: &str) -> String;
    /// The secret that the gateway has without any in its file.
    fn secret(&self, setup: &Setup) -> PathBuf;
    /// Every byte that is kept there.
    fn dump(&self, setup: &Setup) -> Vec<u8>;
}

struct Embedded;

impl Place for Embedded {
    fn gateway(&self, origin: &Origin, toml: &str) -> Setup {
        gateway(origin).config(toml)
    }
    fn file(&self, toml: &str) -> String {
        toml.to_owned()
    }
    fn secret(&self, setup: &Setup) -> PathBuf {
        setup.data().join("secret")
    }
    fn dump(&self, setup: &Setup) -> Vec<u8> {
        files(&setup.data(), &|path| path.file_name() != Some("secret".as_ref()))
    }
}

impl Place for Store {
    fn gateway(&self, origin: &Origin, toml: &str) -> Setup {
        Store::gateway(self, origin, toml)
    }
    fn file(&self, toml: &str) -> String {
        format!("{toml}\n{}", self.place_settings())
    }
    fn secret(&self, setup: &Setup) -> PathBuf {
        setup.data().with_file_name("secret-of-all")
    }
    fn dump(&self, _: &Setup) -> Vec<u8> {
        let redis = |folder: &Path| files(folder, &|path| !path.to_string_lossy().contains("/tls"));
        match &self.server {
            Server::Postgres(server) => {
                let tables = "SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND relname LIKE 'semel%'";
                let tables = server.psql(&self.place, tables).expect("it lists");
                let mut dump = String::new();
                for table in tables.lines() {
                    dump += &server.psql(&self.place, &format!("COPY {table} TO STDOUT")).expect("it copies");
                }
                unescaped(&dump)
            }
            Server::Redis(server) => redis(server.folder()),
            Server::Cluster(cluster) => cluster.nodes().iter().flat_map(|node| redis(node.folder())).collect(),
        }
    }
}

/// A text with its hexadecimal numbers, and after it with what those stand for.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for number in text.split("\\\\x").skip(1) {
        let digits: Vec<u8> = number.bytes().take_while(u8::is_ascii_hexdigit).collect();
        let pairs = digits.chunks_exact(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
        bytes.extend(pairs.map(|pair| u8::from_str_radix(pair, 16).expect("two digits")));
    }
    bytes
}

/// The bytes of all files below, less the zeros that they end with.
fn files(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            bytes.extend(files(&path, wanted));
        } else if path.is_file() && wanted(&path) {
            let content = std::fs::read(&path).expect("a file");
            let len = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes.extend_from_slice(&content[..len]);
        }
    }
    bytes
}

/// A text in every form in which a store might have it.
fn forms(text: &str) -> Vec<Vec<u8>> {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a string takes everything");
            hex
        })
    };
    let mut forms = vec![text.as_bytes().to_vec(), hex(text.as_bytes()).into_bytes()];
    forms.push(hex(text.as_bytes()).to_uppercase().into_bytes());
    forms.push(text.encode_utf16().flat_map(u16::to_le_bytes).collect());
    forms.push(text.encode_utf16().flat_map(u16::to_be_bytes).collect());
    // Base64, wherever the text begins in what is encoded: whole groups of three bytes.
    forms.extend((0..3).map(|skip| base64(&text.as_bytes()[skip..])));
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let bytes = (0..16).map(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).expect("two digits"));
        forms.push(bytes.collect());
        forms.push(digits.into_bytes());
    }
    forms
}

/// RFC 4648, as much of it as does not depend on what follows.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks_exact(3)
        .flat_map(|group| {
            let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
            [18, 12, 6, 0].map(|shift| ALPHABET[usize::try_from(bits >> shift & 63).expect("small")])
        })
        .collect()
}

/// Bytes as a text that can be searched quickly.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[track_caller]
fn assert_nothing_shows(dump: &[u8], secrets: &[&str]) {
    let dump = latin(dump);
    assert!(dump.contains(TEMPLATE), "{} bytes are no dump", dump.len());
    for secret in secrets {
        for form in forms(secret) {
            assert!(!dump.contains(&latin(&form)), "{secret} is there as {}", latin(&form));
        }
    }
}

/// With these sealing secrets.
async fn sealed_with(gateway: Gateway, place: &impl Place, secrets: &[&Path]) -> Gateway {
    let files: Vec<String> = secrets.iter().map(|file| format!("{:?}", file.display().to_string())).collect();
    let toml = place.file(&format!("{ROUTES}\n[gateway]\nseal_secret_files = [{}]\n", files.join(", ")));
    gateway.restart_with(|setup| setup.config(&toml)).await
}

async fn thieves_and_rotation(place: &impl Place) {
    let origin = origin().await;
    let gateway = place.gateway(&origin, ROUTES).start().await;
    let first = gateway.send(&payment(KEY)).await;
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!(gateway.send(&quote()).await.status, 201);
    assert_eq!(gateway.send(&order(ORDER)).await.status, 201);
    assert_eq!(gateway.send(&payment(LOST_KEY)).await.status, 502);
    let effects = origin.effects();
    let held =
        async |gateway: &Gateway| -> Response { gateway.send(&order("deadbeef-22bb-4ccc-8ddd-0123456789ab")).await };
    assert_nothing_shows(&place.dump(&gateway.setup), &SECRETS);
    // And all of it is of use to its caller.
    assert_replay(&first, &gateway.send(&payment(KEY)).await);
    let told = held(&gateway).await;
    assert_problem(&told, 409, "guard-held");
    assert_eq!(told.header("location"), Some(format!("/orders/{ORDER}").as_str()));
    assert_problem(&gateway.send(&payment(LOST_KEY)).await, 409, "outcome-unknown");

    let old = place.secret(&gateway.setup);
    let new = gateway.setup.data().with_file_name("sealing-secret");
    let said = semel(&["secret", "new", &new.display().to_string()], &[]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let gateway = sealed_with(gateway, place, &[&new, &old]).await;
    assert_replay(&first, &gateway.send(&payment(KEY)).await);
    assert_eq!(held(&gateway).await.header("location"), told.header("location"));
    let newer = gateway.send(&payment("newer")).await;
    assert_eq!((newer.status, origin.effects()), (201, effects + 1));
    assert_nothing_shows(&place.dump(&gateway.setup), &SECRETS);

    // Without the old one nobody can tell its replies, and that they were given is known all the same.
    let gateway = sealed_with(gateway, place, &[&new]).await;
    let gone = gateway.send(&payment(KEY)).await;
    assert_problem(&gone, 409, "reply-gone");
    assert_eq!(gone.json()["original_status"], 201);
    until("it is logged", async || gateway.log().contains("none of the sealing secrets")).await;
    let told = held(&gateway).await;
    assert!(told.status >= 400, "{told:?}");
    assert_eq!(told.header("location"), None);
    assert_replay(&newer, &gateway.send(&payment("newer")).await);
    assert_eq!(origin.effects(), effects + 1);

    let gateway = sealed_with(gateway, place, &[&new, &old]).await;
    assert_replay(&first, &gateway.send(&payment(KEY)).await);
    assert_eq!(origin.effects(), effects + 1);
}

#[tokio::test]
async fn sc11_peers_30_peers_42_embedded_files_show_nothing_and_sealing_secrets_rotate() {
    thieves_and_rotation(&Embedded).await;
}

for_each!(own_postgres, own_redis, cluster =>
async fn sc11_peers_30_peers_42_a_store_shows_nothing_and_sealing_secrets_rotate(store: Store) {
    thieves_and_rotation(&store).await;
});

/// The search finds what is there in any form: a test that cannot fail proves nothing.
#[test]
fn a_search_finds_every_form() {
    for secret in [KEY, QUOTE] {
        for form in forms(secret) {
            let dump = [b"..".as_slice(), TEMPLATE.as_bytes(), &form, b".."].concat();
            let found = std::panic::catch_unwind(|| assert_nothing_shows(&dump, &[secret]));
            assert!(found.is_err(), "{}", latin(&form));
        }
    }
    let row = format!("1\t\\\\x{}\t2", latin(&forms(KEY)[1]));
    assert!(latin(&unescaped(&row)).contains(KEY));
}

#[tokio::test]
async fn a_gateway_starts_with_whole_secrets_only() {
    let origin = Origin::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sealing-secret");
    let file = file.to_str().expect("a path of text");
    assert_eq!(semel(&["secret", "new", file], &[]).await.code, 0);
    let again = semel(&["secret", "new", file], &[]).await;
    assert_eq!((again.code, again.stderr.contains("cannot create")), (1, true), "{again:?}");
    let setup = |files: &str| gateway(&origin).config(&format!("[gateway]\nseal_secret_files = [{files}]\n"));
    let table = [
        (format!("{file:?}, {file:?}"), "the sealing secrets 1 and 2 are the same"),
        ("\"/not/there\"".to_owned(), "cannot open /not/there"),
    ];
    for (files, words) in table {
        let said = setup(&files).run().await;
        assert_eq!((said.code, said.stderr.contains(words)), (2, true), "{said:?}");
    }
    std::fs::write(folder.path().join("open"), [7; 32]).expect("it is written");
    let said = setup(&format!("{:?}", folder.path().join("open").display().to_string())).run().await;
    assert_eq!((said.code, said.stderr.contains("open to others")), (2, true), "{said:?}");

    // A secret in the environment is the one of the folder, or nothing starts.
    let text = "0123456789abcdef0123456789ABCDEF".repeat(2);
    let first = gateway(&origin).env("SEMEL_SECRET", &text).start().await;
    let done = first.send(&post("/orders").key("k")).await;
    assert!(!first.setup.data().join("secret").exists(), "the environment has it");
    let first = first.restart().await;
    assert_replay(&done, &first.send(&post("/orders").key("k")).await);
    let mut first = first;
    first.signal("TERM");
    first.ended().await;
    for other in ["f".repeat(64), String::new()] {
        let said = first.setup.clone().env("SEMEL_SECRET", &other).run().await;
        assert_eq!((said.code, said.stderr.contains("another secret")), (2, true), "{said:?}");
    }
    for wrong in ["f".repeat(63), "g".repeat(64)] {
        let said = gateway(&origin).env("SEMEL_SECRET", &wrong).run().await;
        assert_eq!((said.code, said.stderr.contains("64 hexadecimal digits")), (2, true), "{said:?}");
        assert!(!said.stderr.contains(&wrong), "{said:?}");
    }
}
