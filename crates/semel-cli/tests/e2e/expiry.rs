//! Expiry, by a wall clock that is set for the gateway's process: X1 to X9.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::harness::{Act, Conn, Gate, Gateway, Origin, Setup, assert_problem, assert_replay, gateway, post};

async fn at_present(change: impl FnOnce(Setup) -> Setup) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = change(gateway(&origin).clock("+0")).start().await;
    (origin, gateway)
}

/// Stops the gateway and starts it again that far from the present, in seconds.
async fn at(gateway: Gateway, seconds: i64) -> Gateway {
    gateway.restart_with(|setup| setup.clock(&format!("{seconds:+}"))).await
}

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

#[tokio::test]
async fn x01_a_reply_is_replayed_until_its_time_is_over() {
    let (origin, gateway) = at_present(|setup| setup).await;
    let first = gateway.send(&post("/orders").key("k")).await;
    let gateway = at(gateway, DAY - MINUTE).await;
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn x02_past_its_time_a_reply_is_gone_and_the_fact_remembered() {
    let (origin, gateway) = at_present(|setup| setup).await;
    let first = gateway.send(&post("/orders").key("k")).await;
    let mut gateway = gateway;
    for seconds in [DAY + 1, 7 * DAY, 30 * DAY - MINUTE] {
        gateway = at(gateway, seconds).await;
        let retry = gateway.send(&post("/orders").key("k")).await;
        assert_problem(&retry, 409, "reply-gone");
        assert_eq!(retry.json()["original_status"], first.status);
        assert_problem(&gateway.send(&post("/orders").key("k").body("{}")).await, 422, "key-reused");
        assert_eq!(origin.effects(), 1);
    }
    // Past remember_for nothing is known of the key, as published.
    let gateway = at(gateway, 30 * DAY + MINUTE).await;
    assert_eq!(gateway.send(&post("/orders").key("k")).await.header("idempotent-replayed"), None);
    assert_eq!(origin.effects(), 2);
}

#[tokio::test]
async fn x03_a_route_can_execute_again_past_the_time() {
    let (origin, gateway) = at_present(|setup| setup.config("[[route]]\non_expired = \"execute\"\n")).await;
    let first = gateway.send(&post("/orders").key("k")).await;
    let gateway = at(gateway, DAY - MINUTE).await;
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
    let gateway = at(gateway, DAY + 1).await;
    let again = gateway.send(&post("/orders").key("k")).await;
    assert_eq!((again.status, again.header("idempotency-warning")), (201, Some("expired")), "{again:?}");
    assert_eq!((again.header("idempotent-replayed"), origin.effects()), (None, 2));
    assert_replay(&without_warning(again), &gateway.send(&post("/orders").key("k")).await);
}

fn without_warning(answer: crate::harness::Response) -> crate::harness::Response {
    let headers = answer.headers.into_iter().filter(|(name, _)| name != "idempotency-warning").collect();
    crate::harness::Response { headers, ..answer }
}

#[tokio::test]
async fn x04_a_retry_does_not_lengthen_the_time() {
    let (origin, gateway) = at_present(|setup| setup).await;
    let first = gateway.send(&post("/orders").key("k")).await;
    let gateway = at(gateway, 20 * HOUR).await;
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
    let gateway = at(gateway, DAY + MINUTE).await;
    assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "reply-gone");
    assert_eq!(origin.effects(), 1);
}

/// A UUID of version 7 minted that long ago.
fn uuid_v7(age: Duration) -> String {
    let at = SystemTime::now().checked_sub(age).unwrap().duration_since(UNIX_EPOCH).unwrap();
    let hex = format!("{:012x}", at.as_millis());
    format!("{}-{}-7abc-8def-0123456789ab", &hex[..8], &hex[8..])
}

#[tokio::test]
async fn x05_a_key_minted_before_the_horizon_is_too_late() {
    let (origin, gateway) = at_present(|setup| setup.config("[[route]]\nkey_grammar = \"uuid-v7\"\n")).await;
    let days = |days: u64| Duration::from_hours(24 * days);
    for age in [days(31), days(365), days(30) + Duration::from_mins(1)] {
        assert_problem(&gateway.send(&post("/orders").key(&uuid_v7(age))).await, 412, "too-late");
    }
    assert_eq!(origin.seen().len(), 0);
    let key = uuid_v7(days(29));
    let first = gateway.send(&post("/orders").key(&key)).await;
    assert_replay(&first, &gateway.send(&post("/orders").key(&key)).await);
    // It was done, and the key outlives its horizon: whoever asks then is not given a second effect.
    let gateway = at(gateway, 31 * DAY).await;
    assert_problem(&gateway.send(&post("/orders").key(&key)).await, 412, "too-late");
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn x06_a_request_first_sent_before_the_horizon_is_too_late() {
    let (origin, gateway) = at_present(|setup| setup.config("[[route]]\non_late = \"refuse\"\n")).await;
    let sent = |at: &str| post("/orders").key("k").header("Repeatability-First-Sent", at);
    let late = gateway.send(&sent("Sun, 06 Nov 1994 08:49:37 GMT")).await;
    assert_problem(&late, 412, "too-late");
    assert_eq!((late.header("repeatability-result"), origin.seen().len()), (Some("rejected"), 0));
    let now = gateway.send(&post("/orders").key("other")).await.header("date").unwrap().to_owned();
    let first = gateway.send(&sent(&now)).await;
    assert_eq!(first.status, 201);
    assert_replay(&first, &gateway.send(&sent(&now)).await);
}

#[tokio::test]
async fn x07_a_running_execution_is_never_forgotten() {
    // Every time is as short as it can be, and the wall clock jumps over all of them while the origin works.
    let toml = "[[route]]\nreplay_for = \"1s\"\nremember_for = \"35s\"\nunknown_for = \"35s\"\n";
    let (origin, gateway) = at_present(|setup| setup.config(toml)).await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    std::fs::write(gateway.setup.clock_file(), "+3d").unwrap();
    for _ in 0..3 {
        assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "in-flight");
    }
    gate.open();
    let first = conn.response().await;
    assert_eq!(first.status, 201);
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn x08_a_clock_that_is_set_neither_expires_nor_revives() {
    for jump in ["-1h", "+2d"] {
        let (origin, gateway) = at_present(|setup| setup).await;
        let done = gateway.send(&post("/orders").key("done")).await;
        let gate = Gate::new();
        origin.next(Act::execute().held(&gate));
        let mut conn = Conn::open(gateway.addr).await;
        conn.send(&post("/orders").key("k")).await;
        origin.arrived(2).await;
        std::fs::write(gateway.setup.clock_file(), jump).unwrap();
        assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "in-flight");
        assert_replay(&done, &gateway.send(&post("/orders").key("done")).await);
        gate.open();
        let first = conn.response().await;
        assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
        assert_eq!(origin.effects(), 2, "{jump}");
    }
}

#[tokio::test]
async fn x08_a_clock_that_went_back_between_two_starts_expires_nothing() {
    let (origin, gateway) = at_present(|setup| setup).await;
    let first = gateway.send(&post("/orders").key("k")).await;
    let gateway = at(gateway, -HOUR).await;
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
    // What is done under the wrong clock is kept too.
    let second = gateway.send(&post("/orders").key("k2")).await;
    let gateway = at(gateway, 0).await;
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
    assert_replay(&second, &gateway.send(&post("/orders").key("k2")).await);
    assert_eq!(origin.effects(), 2);
}

#[tokio::test]
async fn x08_a_key_that_was_used_again_past_its_time_does_not_get_its_old_reply_back() {
    let (origin, gateway) = at_present(|setup| setup).await;
    let first = gateway.send(&post("/orders").key("k")).await;
    let gateway = at(gateway, 31 * DAY).await;
    let second = gateway.send(&post("/orders").key("k")).await;
    assert_ne!(first.body, second.body);
    let gateway = at(gateway, 0).await;
    assert_replay(&second, &gateway.send(&post("/orders").key("k")).await);
    assert_eq!(origin.effects(), 2);
}

#[tokio::test]
async fn x09_a_retry_that_races_its_records_end_is_told_one_of_two_truths() {
    // As long as a loaded machine may take for one execution, which must not time out.
    let toml = "[[route]]\nexecution_max = \"1s\"\ngrace = \"0s\"\nreplay_for = \"400ms\"\n\
                remember_for = \"1s\"\nunknown_for = \"1s\"\n";
    let origin = Origin::start().await;
    let gateway = gateway(&origin).config(toml).start().await;
    let mut conn = Conn::open(gateway.addr).await;
    let (mut last, mut forgotten, mut gone, mut replayed) = (None, 0, 0, 0);
    // Until it was seen to end, and every answer between was one of the three.
    while forgotten < 3 {
        let before = origin.effects();
        conn.send(&post("/orders").key("k")).await;
        let answer = conn.response().await;
        match (answer.status, answer.header("idempotent-replayed")) {
            (201, None) => {
                assert_eq!(origin.effects(), before + 1, "an answer without an effect: {answer:?}");
                last = Some(answer);
                forgotten += 1;
            }
            (201, Some("true")) => {
                assert_replay(last.as_ref().expect("something was done"), &answer);
                assert_eq!(origin.effects(), before, "a replay with an effect");
                replayed += 1;
            }
            _ => {
                assert_problem(&answer, 409, "reply-gone");
                assert_eq!(origin.effects(), before, "a refusal with an effect");
                gone += 1;
            }
        }
    }
    assert!(replayed > 0 && gone > 0, "{replayed} replays, {gone} refusals");
}
