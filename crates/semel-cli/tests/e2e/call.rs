//! `semel call`, `resume` and `journal` as real processes, through the gateway to an origin that counts its effects.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::harness::{Act, Cut, Gate, Gateway, Origin, Part, Reply, gateway, until, within};

struct World {
    origin: Origin,
    gateway: Gateway,
    folder: TempDir,
}

async fn world() -> World {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).start().await;
    World { origin, gateway, folder: TempDir::with_prefix("semel-call-").unwrap() }
}

impl World {
    fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    fn url(&self) -> String {
        format!("http://{}/orders", self.gateway.addr)
    }

    /// `semel call` of order 7, with more flags.
    fn call(&self, flags: &[&str]) -> Command {
        let mut command = semel(&["call", "POST", &self.url(), "--id", "order-7", "--json", r#"{"amount": 7}"#]);
        command.args(flags).arg("--journal").arg(self.journal());
        command
    }

    fn resume(&self, flags: &[&str]) -> Command {
        let mut command = semel(&["resume"]);
        command.args(flags).arg("--journal").arg(self.journal());
        command
    }

    /// The keys that reached the origin with a write.
    fn keys(&self) -> Vec<String> {
        let seen = self.origin.seen();
        seen.iter().filter(|seen| seen.method == "POST").map(|seen| seen.key().to_owned()).collect()
    }
}

fn semel(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
    command.args(args).env_remove("SEMEL_JOURNAL").stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(mut command: Command) -> Output {
    within("the command ends", command.output()).await.expect("it starts")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn l12_a_call_is_done_once_told_byte_for_byte_and_told_again() {
    let world = world().await;
    for _ in 0..2 {
        let output = run(world.call(&[])).await;
        assert_eq!((code(&output), out(&output).as_str()), (Some(0), r#"{"effect":1}"#), "{}", err(&output));
        assert!(err(&output).contains("order-7: done (201)"), "{}", err(&output));
    }
    assert_eq!((world.origin.effects(), world.keys().len()), (1, 1));
    let shown = out(&run(semel(&["journal", "show", "--journal", world.journal().to_str().unwrap()])).await);
    assert!(shown.contains("order-7") && shown.contains("done") && shown.contains(&world.keys()[0]), "{shown}");
}

#[tokio::test]
async fn l02_e30_a_lost_reply_is_retried_with_the_same_key_and_answered_with_the_first_reply() {
    // Between client and gateway nothing can be scripted: here the API itself loses its first reply.
    let origin = Origin::start().await;
    let asked = std::sync::atomic::AtomicUsize::new(0);
    origin.always(move |seen| match seen.method.as_str() {
        "POST" if asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 => Act::cut(Cut::AfterExecuting),
        "POST" => Act::refuse(Reply::json(201, r#"{"first":true}"#).header("Idempotent-Replayed", "true")),
        _ => Act::refuse(Reply::json(404, "{}")),
    });
    let folder = TempDir::new().unwrap();
    let url = format!("http://{}/orders", origin.addr);
    let output =
        run(semel(&["call", "POST", &url, "--json", "{}", "--journal", folder.path().to_str().unwrap()])).await;
    assert_eq!((code(&output), out(&output).as_str()), (Some(0), r#"{"first":true}"#), "{}", err(&output));
    let keys: Vec<String> =
        origin.seen().iter().filter(|seen| seen.method == "POST").map(|s| s.key().to_owned()).collect();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
    // E34: what support asks for.
    assert!(err(&output).contains(&format!("idempotency_key={}", keys[0])), "{}", err(&output));
}

/// What the API does with the first write that reaches it.
type Fault = (&'static str, fn() -> Act);

/// Every step at which the client can die, under every way in which the API can fail: never two effects, never a
/// success without one, and the same key always.
#[tokio::test]
async fn l09_e43_killed_at_every_step_under_every_fault_there_is_one_effect() {
    let faults: [Fault; 6] = [
        ("none", Act::execute),
        ("lost before", || Act::cut(Cut::AfterReading)),
        ("lost after", || Act::cut(Cut::AfterExecuting)),
        ("503 before", || Act::refuse(Reply::json(503, "{}"))),
        ("500 after", || Act::reply(Reply::json(500, "{}"))),
        ("402 before", || Act::refuse(Reply::json(402, "{}"))),
    ];
    for (fault, act) in faults {
        for step in ["before-journal", "before-send", "after-reply", "after-journal"] {
            let world = world().await;
            let failed = std::sync::atomic::AtomicBool::new(false);
            world.origin.always(move |seen| match seen.method.as_str() {
                "POST" if !failed.swap(true, std::sync::atomic::Ordering::SeqCst) => act(),
                "POST" => Act::execute(),
                _ => Act::refuse(Reply::json(404, "{}")),
            });
            let killed = run(world.call(&["--stop-at", step])).await;
            assert_eq!(code(&killed), None, "{fault}, {step}: {}", err(&killed));
            let mut last = run(world.call(&["--attempts-max", "3"])).await;
            if code(&last) == Some(3) {
                last = run(world.resume(&["order-7"])).await;
            }
            let case = format!("{fault}, {step}: {}", err(&last));
            assert!(world.origin.effects() <= 1, "{case}");
            match code(&last) {
                Some(0) => assert_eq!(world.origin.effects(), 1, "{case}"),
                // The gateway lost the origin's answer and says so.
                Some(4) => assert!(["lost before", "lost after", "500 after"].contains(&fault), "{case}"),
                other => panic!("{other:?}: {case}"),
            }
            let keys = world.keys();
            assert!(keys.windows(2).all(|two| two[0] == two[1]), "{case}: {keys:?}");
        }
    }
}

fn kill(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().expect("it runs")).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[tokio::test]
async fn l09_killed_while_the_api_works_the_resumed_call_gets_the_first_reply() {
    let world = world().await;
    let gate = Gate::new();
    world.origin.next(Act::execute().held(&gate));
    let mut child = world.call(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    world.origin.arrived(1).await;
    kill(&child, rustix::process::Signal::KILL);
    within("it dies", child.wait()).await.unwrap();
    gate.open();
    let listed = run(world.resume(&["--list"])).await;
    assert!(out(&listed).contains("order-7"), "{}", out(&listed));
    let output = run(world.resume(&[])).await;
    let line = r#"{"operation":"order-7","outcome":"replayed","status":201}"#;
    assert_eq!((code(&output), out(&output).trim()), (Some(0), line), "{}", err(&output));
    assert_eq!(world.origin.effects(), 1);
    let again = run(world.resume(&[])).await;
    assert_eq!((code(&again), out(&again).as_str()), (Some(0), ""));
}

#[tokio::test]
async fn l09_killed_while_it_receives_the_resumed_call_gets_the_whole_reply() {
    let origin = Origin::start().await;
    let gate = Gate::new();
    let (held, asked) = (gate.clone(), std::sync::atomic::AtomicUsize::new(0));
    let whole = r#"{"order":7}"#;
    origin.always(move |seen| match seen.method.as_str() {
        "POST" if asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 => {
            let parts = [Part::Bytes(b"{\"ord".to_vec()), Part::Wait(held.clone()), Part::Bytes(b"er\":7}".to_vec())];
            Act::reply(Reply::new(201).chunked(parts))
        }
        "POST" => Act::refuse(Reply::json(201, whole).header("Idempotent-Replayed", "true")),
        _ => Act::refuse(Reply::json(404, "{}")),
    });
    let folder = TempDir::new().unwrap();
    let journal = folder.path().join("journal");
    let mut command = semel(&["call", "POST", &format!("http://{}/orders", origin.addr), "--id", "order-7"]);
    command.arg("--journal").arg(&journal).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    origin.arrived(1).await;
    kill(&child, rustix::process::Signal::KILL);
    let killed = within("it dies", child.wait_with_output()).await.unwrap();
    assert_eq!(out(&killed), "", "half a reply is none");
    gate.open();
    let mut command = semel(&["resume", "order-7"]);
    command.arg("--journal").arg(&journal);
    let output = run(command).await;
    assert_eq!((code(&output), out(&output).as_str()), (Some(0), whole), "{}", err(&output));
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn ctrl_c_leaves_what_can_be_resumed_and_says_so() {
    let world = world().await;
    let gate = Gate::new();
    world.origin.next(Act::execute().held(&gate));
    let child = world.call(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    world.origin.arrived(1).await;
    kill(&child, rustix::process::Signal::INT);
    let output = within("it ends", child.wait_with_output()).await.unwrap();
    assert_eq!(code(&output), Some(130), "{}", err(&output));
    assert!(err(&output).contains("semel resume --journal") && err(&output).contains("order-7"), "{}", err(&output));
    gate.open();
    let output = run(world.resume(&["order-7"])).await;
    assert_eq!((code(&output), out(&output).as_str()), (Some(0), r#"{"effect":1}"#), "{}", err(&output));
    assert_eq!(world.origin.effects(), 1);
}

#[tokio::test]
async fn l11_two_processes_on_one_journal_send_once() {
    let world = world().await;
    let gate = Gate::new();
    world.origin.next(Act::execute().held(&gate));
    let first = world.call(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    world.origin.arrived(1).await;
    let second = run(world.call(&[])).await;
    assert_eq!(code(&second), Some(1));
    assert!(err(&second).contains("another process uses the journal"), "{}", err(&second));
    gate.open();
    let first = within("it ends", first.wait_with_output()).await.unwrap();
    assert_eq!((code(&first), world.origin.effects()), (Some(0), 1), "{}", err(&first));
}

#[tokio::test]
async fn e31_q2_l04_top_up_then_resume() {
    let world = world().await;
    world.origin.next(Act::refuse(Reply::json(402, r#"{"error":"Insufficient Funds"}"#)));
    let output = run(world.call(&[])).await;
    assert_eq!((code(&output), out(&output).as_str()), (Some(3), r#"{"error":"Insufficient Funds"}"#));
    assert!(err(&output).contains("semel resume"), "{}", err(&output));
    // Not by itself: somebody has to mend the cause.
    assert_eq!(out(&run(world.resume(&[])).await), "");
    let output = run(world.resume(&["order-7"])).await;
    assert_eq!((code(&output), out(&output).as_str()), (Some(0), r#"{"effect":1}"#), "{}", err(&output));
    let keys = world.keys();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
}

#[tokio::test]
async fn l10_l18_what_nobody_knows_is_exit_code_4() {
    let world = world().await;
    world.origin.next(Act::cut(Cut::AfterExecuting));
    let output = run(world.call(&["--attempts-max", "1"])).await;
    assert_eq!(code(&output), Some(4), "{}", err(&output));
    let journal = world.journal();
    let shown = out(&run(semel(&["journal", "show", "order-7", "--journal", journal.to_str().unwrap()])).await);
    assert!(shown.contains("unresolved"), "{shown}");
    // An edited one is refused (L13), and the program says so.
    let mut edited = semel(&["call", "POST", &world.url(), "--id", "order-7", "--json", r#"{"amount": 8}"#]);
    edited.arg("--journal").arg(&journal);
    let edited = run(edited).await;
    assert_eq!(code(&edited), Some(2), "{}", err(&edited));
    assert!(err(&edited).contains("a changed one is a new operation"), "{}", err(&edited));
    assert_eq!(world.keys().len(), 1);
    let forgotten = run(semel(&["journal", "forget", "order-7", "--journal", journal.to_str().unwrap()])).await;
    assert_eq!(code(&forgotten), Some(0));
    assert_eq!(out(&run(world.resume(&["--list"])).await), "no operations\n");
}

#[tokio::test]
async fn l14_l16_what_is_wrong_is_told_before_anything_is_sent() {
    let world = world().await;
    let url = world.url();
    let journal = world.journal();
    let check = async |args: &[&str], says: &str| {
        let mut command = semel(args);
        command.arg("--journal").arg(&journal);
        let output = run(command).await;
        assert_eq!(code(&output), Some(2), "{args:?}: {}", err(&output));
        assert!(err(&output).contains(says), "{args:?}: {}", err(&output));
        assert!(!err(&output).contains("sk_live"), "{}", err(&output));
    };
    check(&["call", "POST", &url, "--key", "order-7-attempt-2"], "number of attempts").await;
    check(&["call", "POST", "orders"], "not an absolute http or https URL").await;
    check(&["call", "POST", &url, "--json", "{"], "--json").await;
    check(&["call", "POST", &url, "--json", "@/nowhere"], "cannot read /nowhere").await;
    check(&["call", "POST", &url, "--header", "sk_live"], "expected NAME: VALUE").await;
    check(&["call", "POST", &url, "--preset", "paypal"], "--preset").await;
    check(&["resume", "--header", "Accept: text/plain"], "only credentials").await;
    check(&["call", "POST", &url, "--attempts-max", "0"], "--attempts-max").await;
    assert!(world.keys().is_empty());
}

#[tokio::test]
async fn e9_l05_an_order_that_exists_is_looked_up() {
    let origin = Origin::start().await;
    let id = "11111111-1111-4111-8111-111111111111";
    let order = format!(r#"{{"orderId":"{id}","status":"created"}}"#);
    let shown = order.clone();
    origin.always(move |seen| match (seen.method.as_str(), seen.target.as_str()) {
        ("POST", _) => Act::refuse(Reply::new(409).body("An order with this transaction ID already exists")),
        ("GET", path) if path == format!("/ramp/order/{id}") => Act::refuse(Reply::json(200, &shown)),
        _ => Act::refuse(Reply::json(404, "{}")),
    });
    let folder = TempDir::new().unwrap();
    let credentials = folder.path().join("credentials");
    std::fs::write(&credentials, "Authorization: api_sand:secret\n").unwrap();
    let mut command = semel(&["call", "POST", &format!("http://{}/ramp/order", origin.addr), "--preset", "etherfuse"]);
    command.args(["--json", &format!(r#"{{"orderId":"{id}"}}"#), "--header", &format!("@{}", credentials.display())]);
    command.arg("--journal").arg(folder.path().join("journal"));
    let output = run(command).await;
    assert_eq!((code(&output), out(&output)), (Some(0), order), "{}", err(&output));
    for seen in origin.seen().iter().filter(|seen| seen.target.starts_with("/ramp")) {
        assert_eq!(seen.header("authorization"), Some("api_sand:secret"));
    }
    assert!(!holds(&folder.path().join("journal"), b"api_sand:secret"));
}

fn holds(folder: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

#[tokio::test]
async fn what_is_on_standard_input_is_sent_byte_for_byte() {
    use tokio::io::AsyncWriteExt as _;
    let world = world().await;
    let mut command = semel(&["call", "POST", &world.url(), "--json", "@-"]);
    command.arg("--journal").arg(world.journal()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b" {\"amount\":  1.50}\n").await.unwrap();
    let output = within("it ends", child.wait_with_output()).await.unwrap();
    assert_eq!(code(&output), Some(0), "{}", err(&output));
    let seen = world.origin.seen();
    assert_eq!(seen[0].body, b" {\"amount\":  1.50}\n");
    assert_eq!(seen[0].header("content-type"), Some("application/json"));
    until("the gateway is still there", async || world.origin.effects() == 1).await;
}
