//! Operators over the real gateway: what they see of records, how they settle what nobody knows, and the audit log.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{
    guards::{TOKEN, with_operators},
    harness::{
        Act, Conn, Cut, Gate, Gateway, Origin, Reply, Request, Response, Said, assert_problem, gateway, get, post,
        request, semel, send, until, within,
    },
};

async fn operated() -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = with_operators(gateway(&origin), "").start().await;
    (origin, gateway)
}

/// Asks as an operator.
async fn ask(gateway: &Gateway, request: Request) -> Response {
    send(gateway.admin, &request.header("Authorization", format!("Bearer {TOKEN}"))).await
}

async fn settle(gateway: &Gateway, asked: &Value) -> Response {
    ask(gateway, post("/v1/settle").body(asked.to_string())).await
}

/// The records of a list.
async fn list(gateway: &Gateway, query: &str) -> Vec<Value> {
    let page = ask(gateway, get(&format!("/v1/records{query}"))).await;
    assert_eq!(page.status, 200, "{page:?}");
    page.json()["records"].as_array().unwrap().clone()
}

fn order(key: &str) -> Request {
    post("/orders").key(key).header("Authorization", "Bearer ana")
}

/// An order that had its effect, or had not, and of which nobody knows.
async fn unknown(origin: &Origin, gateway: &Gateway, key: &str, cut: Cut) -> String {
    origin.next(Act::cut(cut));
    assert_eq!(gateway.send(&order(key)).await.status, 502);
    assert_problem(&gateway.send(&order(key)).await, 409, "outcome-unknown");
    let records = list(gateway, "?phase=unknown").await;
    let newest = records.iter().min_by(|a, b| seconds(a).total_cmp(&seconds(b))).unwrap();
    newest["record"].as_str().unwrap().to_owned()
}

fn seconds(record: &Value) -> f64 {
    record["age_seconds"].as_f64().unwrap()
}

/// The request of [`order`], as an operator gives it.
fn as_its_caller(key: &str) -> Value {
    json!({
        "method": "POST",
        "path": "/orders",
        "headers": {
            "Idempotency-Key": format!("\"{key}\""),
            "Authorization": "Bearer ana",
            "Content-Type": "application/json",
        },
        "content": r#"{"amount":1}"#,
    })
}

fn by(mut asked: Value) -> Value {
    asked["who"] = json!("Ana (on call)");
    asked["why"] = json!("ticket 17");
    asked
}

fn audit_file(gateway: &Gateway) -> PathBuf {
    gateway.setup.data().join("audit.log")
}

/// The lines of the audit log, without what differs from run to run.
fn audit(gateway: &Gateway) -> Vec<Value> {
    let text = std::fs::read_to_string(audit_file(gateway)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// What the lines of the audit log say of stages and refusals.
fn stages(gateway: &Gateway) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    audit(gateway).iter().map(|line| format!("{} {}", word(&line["stage"]), word(&line["refusal"]))).collect()
}

/// The command line, as an operator of this gateway uses it.
async fn records(gateway: &Gateway, args: &[&str]) -> Said {
    let admin = format!("http://{}", gateway.admin);
    let token = gateway.setup.data().with_file_name("token");
    let env = [("SEMEL_ADMIN", admin.as_str()), ("SEMEL_ADMIN_TOKEN_FILE", token.to_str().unwrap())];
    semel(&[&["records"], args].concat(), &env).await
}

#[tokio::test]
async fn q21_what_is_settled_as_happened_is_told_to_retries_and_never_executed() {
    let (origin, gateway) = operated().await;
    unknown(&origin, &gateway, "k", Cut::AfterExecuting).await;
    let reply = json!({ "status": 201, "headers": { "Content-Type": "application/json" }, "content": "{\"id\":42}" });
    let asked = by(json!({ "request": as_its_caller("k"), "outcome": "happened", "reply": reply }));
    let settled = settle(&gateway, &asked).await;
    assert_eq!((settled.status, &settled.json()["now"]), (200, &json!("completed")), "{settled:?}");
    let retry = gateway.send(&order("k")).await;
    assert_eq!((retry.status, retry.text(), retry.header("idempotent-replayed")), (201, "{\"id\":42}", Some("true")));
    assert_eq!(retry.header("content-type"), Some("application/json"));
    // What is known is not settled again, in either way.
    for outcome in ["happened", "did-not-happen"] {
        let mut again = by(json!({ "request": as_its_caller("k"), "outcome": outcome }));
        if outcome == "happened" {
            again["reply"] = json!({ "status": 200 });
        }
        assert_problem_code(&settle(&gateway, &again).await, 409, "not-unknown");
    }
    // By its name alone there is no key to keep a reply under: the fact is kept.
    let record = unknown(&origin, &gateway, "l", Cut::AfterExecuting).await;
    let asked = by(json!({ "record": record, "outcome": "happened", "reply": { "status": 201, "content": "x" } }));
    let settled = settle(&gateway, &asked).await;
    assert!(settled.json()["retries"].as_str().unwrap().contains("not kept"), "{settled:?}");
    let retry = gateway.send(&order("l")).await;
    assert_problem(&retry, 409, "reply-gone");
    assert_eq!(retry.json()["original_status"], 201);
    // It survives like every other record.
    let gateway = gateway.restart().await;
    assert_eq!(gateway.send(&order("k")).await.text(), "{\"id\":42}");
    assert_eq!(origin.effects(), 2);
}

#[track_caller]
fn assert_problem_code(answer: &Response, status: u16, code: &str) {
    let is_problem = answer.header("content-type") == Some("application/problem+json");
    assert!(is_problem && answer.status == status && answer.json()["code"] == code, "{status} {code}: {answer:?}");
}

#[tokio::test]
async fn q21_what_is_settled_as_not_happened_executes_once_more() {
    let (origin, gateway) = operated().await;
    let record = unknown(&origin, &gateway, "k", Cut::AfterReading).await;
    let settled = settle(&gateway, &by(json!({ "record": record, "outcome": "did-not-happen" }))).await;
    assert_eq!((settled.status, &settled.json()["now"]), (200, &json!("gone")), "{settled:?}");
    assert_problem_code(&ask(&gateway, get(&format!("/v1/records/{record}"))).await, 404, "no-such-record");
    let first = gateway.send(&order("k")).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (201, None));
    assert_eq!(gateway.send(&order("k")).await.header("idempotent-replayed"), Some("true"));
    assert_eq!(origin.effects(), 1);
    let lines = audit(&gateway);
    assert_eq!(stages(&gateway), ["intended -", "done -"]);
    for line in &lines {
        assert_eq!(line["act"], lines[0]["act"]);
        let told = [&line["what"], &line["record"], &line["before"], &line["after"], &line["who"], &line["why"]];
        assert_eq!(told, ["settle", record.as_str(), "unknown", "gone", "Ana (on call)", "ticket 17"]);
        assert!(line["from"].as_str().unwrap().starts_with("127.0.0.1:") && line["route"] == "/*", "{line}");
    }
}

#[tokio::test]
async fn e11_what_may_still_run_is_not_settled_and_what_a_crash_left_is() {
    let (origin, mut gateway) = operated().await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut first = Conn::open(gateway.addr).await;
    first.send(&order("k")).await;
    origin.arrived(1).await;
    let running = list(&gateway, "?phase=in-flight").await;
    assert_eq!((running.len(), list(&gateway, "?phase=unknown").await.len()), (1, 0));
    let record = running[0]["record"].as_str().unwrap();
    let asked = by(json!({ "record": record, "outcome": "did-not-happen" }));
    assert_problem_code(&settle(&gateway, &asked).await, 409, "still-running");
    let shown = ask(&gateway, get(&format!("/v1/records/{record}"))).await.json();
    assert!(shown["lease_left_seconds"].as_f64().unwrap() > 0.0 && shown["phase"] == "in-flight", "{shown}");
    gateway.kill9();
    gate.open();
    let gateway = gateway.restart().await;
    let left = list(&gateway, "?phase=unknown").await;
    assert_eq!((left.len(), &left[0]["record"]), (1, &json!(record)));
    assert_eq!(settle(&gateway, &asked).await.status, 200);
    assert_eq!(stages(&gateway), ["refused still-running", "intended -", "done -"]);
}

#[tokio::test]
async fn e11_of_two_operators_one_wins_and_the_other_is_told() {
    let (origin, gateway) = operated().await;
    for round in 0..5 {
        let key = format!("k{round}");
        let record = unknown(&origin, &gateway, &key, Cut::AfterReading).await;
        let shown = ask(&gateway, get(&format!("/v1/records/{record}"))).await;
        let stamp = shown.json()["stamp"].as_str().unwrap().to_owned();
        assert_eq!(shown.header("etag"), Some(format!("\"{stamp}\"").as_str()));
        let asked = |outcome: &str| by(json!({ "record": record, "outcome": outcome, "stamp": stamp }));
        let mut happened = asked("happened");
        happened["reply"] = json!({ "status": 201 });
        let none = asked("did-not-happen");
        let (a, b) = tokio::join!(settle(&gateway, &happened), settle(&gateway, &none));
        let (won, lost) = if a.status == 200 { (&a, &b) } else { (&b, &a) };
        assert!(won.status == 200 && [404, 409].contains(&lost.status), "{a:?} {b:?}");
        let retry = gateway.send(&order(&key)).await;
        assert_eq!(retry.code(), if a.status == 200 { "reply-gone" } else { "" }, "{retry:?}");
    }
    let done = stages(&gateway).iter().filter(|line| *line == "done -").count();
    assert_eq!(done, 5);
    // What was shown is what counts, even where what is there now could be settled.
    let record = unknown(&origin, &gateway, "late", Cut::AfterReading).await;
    let stamp = "0123456789abcdef0123456789abcdef-1";
    let asked = by(json!({ "record": record, "outcome": "did-not-happen", "stamp": stamp }));
    assert_problem_code(&settle(&gateway, &asked).await, 409, "changed");
}

#[tokio::test]
async fn e11_nothing_is_settled_that_the_audit_log_does_not_take() {
    let (origin, mut gateway) = operated().await;
    let record = unknown(&origin, &gateway, "k", Cut::AfterReading).await;
    let asked = by(json!({ "record": record, "outcome": "did-not-happen" }));
    let path = audit_file(&gateway);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_problem_code(&settle(&gateway, &asked).await, 503, "audit-unavailable");
    assert_problem(&gateway.send(&order("k")).await, 409, "outcome-unknown");
    gateway.kill9();
    let refused = gateway.setup.run().await;
    assert!(refused.code == 2 && refused.stderr.contains("gateway.audit_log"), "{refused:?}");
    // A log that somebody put away begins anew, and what was cut short stays a line of its own.
    std::fs::remove_dir(&path).unwrap();
    let gateway = gateway.restart().await;
    std::fs::write(&path, "{\"time\":\"20").unwrap();
    assert_eq!(settle(&gateway, &asked).await.status, 200);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0], text.ends_with('\n')), (3, "{\"time\":\"20", true), "{text}");
}

#[tokio::test]
async fn e11_an_act_that_a_crash_cut_short_is_in_the_log_as_intended() {
    let (origin, mut gateway) = operated().await;
    let record = unknown(&origin, &gateway, "k", Cut::AfterReading).await;
    // From here the disk takes what is appended to the audit log, and nothing of the store.
    let log = std::fs::metadata(audit_file(&gateway)).unwrap().len();
    assert_eq!(log, 0);
    gateway.file_size_max("4096");
    let asked = by(json!({ "record": record, "outcome": "did-not-happen" }));
    let settled = settle(&gateway, &asked).await;
    assert!(settled.status == 503 && settled.json()["detail"].as_str().unwrap().contains("may have been settled"));
    gateway.kill9();
    assert_eq!(stages(&gateway), ["intended -", "unknown store-unavailable"]);
    let gateway = gateway.restart().await;
    assert_problem(&gateway.send(&order("k")).await, 409, "outcome-unknown");
    assert_eq!(settle(&gateway, &asked).await.status, 200);
}

#[tokio::test]
async fn e11_wherever_it_is_killed_nothing_is_settled_that_the_log_does_not_have() {
    let (origin, mut gateway) = operated().await;
    for round in 0..5 {
        let record = unknown(&origin, &gateway, &format!("k{round}"), Cut::AfterReading).await;
        let asked = by(json!({ "record": record, "outcome": "did-not-happen" }));
        let authorized = post("/v1/settle").header("Authorization", format!("Bearer {TOKEN}")).body(asked.to_string());
        let before = std::fs::metadata(audit_file(&gateway)).unwrap().len();
        let mut operator = Conn::open(gateway.admin).await;
        operator.send(&authorized).await;
        // At once, or as soon as the act is in the log: then the store has not been asked yet, or has not answered.
        within("the act is in the log", async {
            while round > 0 && std::fs::metadata(audit_file(&gateway)).unwrap().len() == before {
                tokio::task::yield_now().await;
            }
        })
        .await;
        gateway.kill9();
        gateway = gateway.restart().await;
        let is_gone = ask(&gateway, get(&format!("/v1/records/{record}"))).await.status == 404;
        let lines = audit(&gateway);
        let stages: Vec<&Value> = lines.iter().filter(|line| line["record"] == record).map(|l| &l["stage"]).collect();
        assert!(!is_gone || stages.first() == Some(&&json!("intended")), "round {round}: {stages:?}");
        assert!(round == 0 || !stages.is_empty(), "round {round}");
    }
}

#[tokio::test]
async fn e11_operators_see_neither_keys_nor_callers_nor_content() {
    let (origin, gateway) = operated().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let traced = |key: &str| order(key).header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    origin.next(Act::reply(Reply::json(201, r#"{"secret":"content of the reply"}"#)));
    gateway.send(&traced("the-key-of-ana")).await;
    gateway.send(&traced("the-key-of-ana")).await;
    gateway.send(&post("/orders").key("k").header("Authorization", "Bearer ben")).await;
    unknown(&origin, &gateway, "another-key", Cut::AfterExecuting).await;
    let all = list(&gateway, "").await;
    assert_eq!(all.len(), 3);
    let of = |phase: &str| -> Vec<&Value> { all.iter().filter(|record| record["phase"] == phase).collect() };
    let (completed, unknown) = (of("completed"), of("unknown"));
    assert_eq!((completed.len(), unknown.len()), (2, 1));
    let found = ask(&gateway, post("/v1/find").body(as_its_caller("the-key-of-ana").to_string())).await.json();
    assert_eq!((&found["route"], &found["trace"], &found["status"]), (&json!("/*"), &json!(trace), &json!(201)));
    let seen: Vec<&str> = found["seen"].as_array().unwrap().iter().map(|e| e["decision"].as_str().unwrap()).collect();
    assert_eq!(seen, ["completed", "replay"]);
    // Ana's two records have one label, and Ben's another.
    let ana = found["principal"].as_str().unwrap();
    assert_eq!((ana.len(), list(&gateway, &format!("?principal={ana}")).await.len()), (16, 2));
    let completed_of_ana = list(&gateway, &format!("?principal={ana}&phase=completed")).await;
    assert_eq!((completed_of_ana.len(), &completed_of_ana[0]["record"]), (1, &found["record"]));
    // Every filter leaves out what it should.
    for (query, count) in [
        ("?route=/*", 3),
        ("?route=/orders", 0),
        ("?older_than=1h", 0),
        ("?younger_than=1h", 3),
        ("?phase=guard", 0),
        ("?principal=0000000000000000", 0),
    ] {
        assert_eq!(list(&gateway, query).await.len(), count, "{query}");
    }
    // Pages have all, once.
    let (mut after, mut names) = (String::new(), Vec::new());
    loop {
        let page = ask(&gateway, get(&format!("/v1/records?limit=1{after}"))).await.json();
        names.extend(page["records"].as_array().unwrap().iter().map(|record| record["record"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(names, all.iter().map(|record| record["record"].clone()).collect::<Vec<_>>());
    // By the exchange of a replay, too, which wrote nothing.
    for event in found["seen"].as_array().unwrap() {
        let shown = ask(&gateway, get(&format!("/v1/exchanges/{}", event["exchange"].as_str().unwrap()))).await.json();
        assert_eq!(shown["record"], found["record"]);
    }
    let exchange = unknown[0]["exchange"].as_str().unwrap().to_owned();
    let gateway = gateway.restart().await;
    let shown = ask(&gateway, get(&format!("/v1/exchanges/{exchange}"))).await.json();
    assert_eq!(shown["record"], unknown[0]["record"]);
    let export = ask(&gateway, get("/v1/export")).await;
    assert_eq!((export.header("content-type"), export.text().lines().count()), (Some("application/x-ndjson"), 3));
    let told = [export.text().to_owned(), found.to_string(), shown.to_string(), gateway.log()].concat();
    for secret in ["the-key-of-ana", "another-key", "Bearer", "ana\"", "ben", "content of the reply", "amount", TOKEN] {
        assert!(!told.contains(secret), "{secret}: {told}");
    }
}

#[tokio::test]
async fn e11_whoever_is_no_operator_is_told_nothing() {
    let (_origin, gateway) = operated().await;
    gateway.send(&order("k")).await;
    let paths = [
        ("GET", "/v1"),
        ("GET", "/v1/records"),
        ("GET", "/v1/export"),
        ("GET", "/v1/recent"),
        ("GET", "/v1/nothing"),
        ("POST", "/v1/find"),
        ("POST", "/v1/settle"),
        ("POST", "/v1/release"),
    ];
    for (method, path) in paths {
        for shown in [None, Some("Bearer a-token-of-operator"), Some(TOKEN)] {
            let plain = request(method, path);
            let asked = shown.into_iter().fold(plain, |asked, shown| asked.header("Authorization", shown));
            let answer = send(gateway.admin, &asked).await;
            assert_problem_code(&answer, 401, "no-token");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
        // What clients reach is not what operators reach.
        assert_eq!(gateway.send(&request(method, path)).await.header("www-authenticate"), None);
    }
    let index = ask(&gateway, get("/v1")).await.json();
    assert_eq!(index["paths"].as_array().unwrap().len(), 9);
}

#[tokio::test]
async fn e11_what_is_asked_for_wrongly_is_refused_in_words_and_changes_nothing() {
    let (origin, gateway) = operated().await;
    let record = unknown(&origin, &gateway, "k", Cut::AfterReading).await;
    let none = by(json!({ "record": record, "outcome": "did-not-happen" }));
    let with = |member: &str, value: Value| {
        let mut asked = none.clone();
        asked[member] = value;
        asked
    };
    let mut unnamed = none.clone();
    unnamed.as_object_mut().unwrap().remove("record");
    let mut other_key = as_its_caller("k");
    other_key["headers"]["Idempotency-Key"] = json!("\"other\"");
    let mut other_content = as_its_caller("k");
    other_content["content"] = json!("{\"amount\":2}");
    let mut broken = as_its_caller("k");
    broken["headers"]["Authorization"] = json!("a-credential\u{0}");
    let by_request = |request: &Value| {
        let mut asked = unnamed.clone();
        asked["request"] = request.clone();
        asked
    };
    let table = [
        (unnamed.clone(), 400, "give one of record, exchange and request"),
        (with("exchange", json!("0".repeat(32))), 400, "give one of"),
        (with("record", json!("abc")), 400, "64 hexadecimal digits"),
        (with("record", json!("0".repeat(64))), 404, "no such record"),
        (with("outcome", json!("perhaps")), 400, "unknown variant `perhaps`"),
        (with("outcome", json!("happened")), 400, "give at least reply.status"),
        (with("reply", json!({ "status": 200 })), 400, "has no reply"),
        (with("stamp", json!("x")), 400, "expected a stamp"),
        (with("who", json!("")), 400, "who must have"),
        (with("why", json!("a\nb")), 400, "no control characters"),
        (with("reason", json!("x")), 400, "unknown field `reason`"),
        (by_request(&other_key), 404, "no such record"),
        (by_request(&other_content), 409, "of another request"),
        (by_request(&broken), 400, "none that a header can have"),
        (by_request(&json!({ "method": "GET", "path": "/orders" })), 404, "no route covers that request"),
        (by_request(&json!({ "method": "POST", "path": "orders" })), 400, "start with a slash"),
    ];
    for (asked, status, words) in table {
        let answer = settle(&gateway, &asked).await;
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(answer.status == status && detail.contains(words), "{status} {words}: {answer:?}");
        assert!(!detail.contains("a-credential"), "{detail}");
    }
    for (path, status, words) in [
        ("/v1/records?phase=pending", 400, "expected in-flight, unknown, completed or guard"),
        ("/v1/records?age=1h", 400, "no parameter"),
        ("/v1/records?older_than=old", 400, "expected a duration"),
        ("/v1/records?limit=0", 400, "1 or more"),
        ("/v1/records?limit=-1", 400, "limit:"),
        ("/v1/records?after=3.", 200, ""),
        ("/v1/records?phase=unknown&after=3.", 400, "of another list"),
        ("/v1/records?after=x", 400, "what an earlier page said"),
        ("/v1/records/x", 400, "64 hexadecimal digits"),
        ("/v1/exchanges/x", 400, "32 hexadecimal digits"),
        ("/v1/settle", 405, "only POST"),
        ("/v1/records/a/b", 404, "GET /v1 says"),
    ] {
        let answer = ask(&gateway, get(path)).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains(words), "{path}: {detail}");
    }
    assert_problem(&gateway.send(&order("k")).await, 409, "outcome-unknown");
    assert_eq!(stages(&gateway), ["refused another-request"]);
}

#[tokio::test]
async fn e11_the_command_line_leads_an_operator_through_an_unknown_outcome() {
    let (origin, gateway) = operated().await;
    let happened = unknown(&origin, &gateway, "k", Cut::AfterExecuting).await;
    let did_not = unknown(&origin, &gateway, "l", Cut::AfterReading).await;
    let listed = records(&gateway, &["list", "--phase", "unknown"]).await;
    assert!(listed.code == 0 && listed.stdout.lines().count() == 3, "{listed:?}");
    assert!(listed.stdout.contains(&happened) && listed.stdout.contains(&did_not), "{listed:?}");
    let shown = records(&gateway, &["show", &did_not]).await;
    assert!(shown.code == 0 && shown.stdout.contains("nobody knows whether its effect happened"), "{shown:?}");
    let json = records(&gateway, &["show", &did_not, "--json"]).await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let (exchange, stamp) = (json["exchange"].as_str().unwrap(), json["stamp"].as_str().unwrap());
    assert_eq!(records(&gateway, &["show", exchange]).await.stdout.lines().next(), shown.stdout.lines().next());
    let who = ["--who", "Ana", "--why", "ticket 17"];
    let none = [&["settle", did_not.as_str(), "--did-not-happen", "--stamp", stamp], who.as_slice()].concat();
    let settled = records(&gateway, &none).await;
    assert!(settled.code == 0 && settled.stdout.contains("a retry executes, as a first time"), "{settled:?}");
    let again = records(&gateway, &none).await;
    assert!(again.code == 3 && again.stderr.contains("no such record"), "{again:?}");
    assert_eq!(gateway.send(&order("l")).await.status, 201);
    // With the request, which has the key, a reply can be given.
    let folder = gateway.setup.data();
    let file = |name: &str, content: &str| {
        let path = folder.with_file_name(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let headers = "Idempotency-Key: \"k\"\nAuthorization: Bearer ana\nContent-Type: application/json\n";
    let headers = file("caller.txt", headers);
    let content = file("order.json", r#"{"amount":1}"#);
    let reply = file("reply.json", "{\"id\":42}");
    let request = ["--path", "/orders", "--headers", &headers, "--content", &content];
    assert_eq!(records(&gateway, &[&["show"], request.as_slice()].concat()).await.code, 0);
    let given = [&["settle", "--happened", "201", "--reply", reply.as_str()], request.as_slice(), &who].concat();
    let settled = records(&gateway, &given).await;
    assert!(settled.code == 0 && settled.stdout.contains("is told the reply that was given"), "{settled:?}");
    assert_eq!(gateway.send(&order("k")).await.text(), "{\"id\":42}");
    let export = records(&gateway, &["export"]).await;
    assert_eq!((export.code, export.stdout.lines().count()), (0, 2), "{export:?}");
    let no_guard = [&["release", "--path", "/orders/1"], who.as_slice()].concat();
    let released = records(&gateway, &no_guard).await;
    assert!(released.code == 3 && released.stderr.contains("no route has a release"), "{released:?}");
    // What cannot be: no reply without the request, no act without who and why, no gateway, no token.
    for (args, code, words) in [
        (vec!["settle", did_not.as_str(), "--happened", "201", "--who", "Ana"], 2, "--why"),
        (vec!["settle", did_not.as_str(), "--who", "Ana", "--why", "x"], 2, "--did-not-happen"),
        (
            vec!["settle", did_not.as_str(), "--happened", "201", "--reply", "x", "--who", "A", "--why", "x"],
            2,
            "give --path",
        ),
        (vec!["show", "abc"], 2, "64 hexadecimal digits"),
        (vec!["show"], 2, "RECORD"),
        (vec!["list", "--phase", "pending"], 3, "expected in-flight"),
        (vec!["list", "--token-file", "/nowhere"], 2, "cannot read /nowhere"),
        (vec!["list", "--token-file", &content], 3, "Authorization: Bearer"),
        (vec!["list", "--admin", "http://127.0.0.1:1"], 1, "cannot ask"),
        (vec!["list", "--admin", "127.0.0.1:1"], 2, "expected an address"),
    ] {
        let said = records(&gateway, &args).await;
        assert!(said.code == code && said.stderr.contains(words), "{args:?}: {said:?}");
    }
    until("the log has them", async || gateway.log().matches("stage=Done").count() == 2).await;
    assert_eq!(origin.effects(), 2);
}
