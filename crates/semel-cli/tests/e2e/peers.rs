//! The bugs that were found in peers, each as the test that would have found it; the number is the entry's.
//!
//! Not here: 10, 15, 16, 19 and 44 are about stores and proven by the store suite; 8 and 22 with a shared store come with
//! the stores that can be shared; 25 (a dropped future) is proven at every await point by the layer's tests, and through
//! the gateway by 3; 47 (a replay to who may no longer ask) is `sc07_`; 48 is about the transactional mode.

use std::time::Duration;

use crate::harness::{
    Act, Conn, Cut, Gate, Gateway, Origin, Part, Reply, Request, Response, assert_problem, assert_replay, gateway, get,
    post, request, send, twice, until,
};

async fn configured(toml: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).config(toml).start().await;
    (origin, gateway)
}

/// What a request gets whose key was used for `first`: its own execution, or a refusal, and never the reply of `first`.
async fn check_apart(gateway: &Gateway, first: &Response, others: &[(&str, Request)]) {
    for (what, other) in others {
        let answer = gateway.send(other).await;
        assert_ne!(answer.body, first.body, "{what} is told the reply of another request");
        assert_eq!(answer.header("idempotent-replayed"), None, "{what}: {answer:?}");
        match answer.status {
            201 => {}
            _ => assert_problem(&answer, 422, "key-reused"),
        }
    }
}

#[tokio::test]
async fn peers_01_another_url_method_content_or_type_is_never_told_the_first_reply() {
    let (origin, gateway) = configured("").await;
    let base = post("/orders/1?amount=1").key("k");
    let first = gateway.send(&base).await;
    let others = [
        ("another path", post("/orders/2?amount=1").key("k")),
        ("another query", post("/orders/1?amount=999").key("k")),
        ("no query", post("/orders/1").key("k")),
        ("another method", request("PATCH", "/orders/1?amount=1").key("k").body(r#"{"amount":1}"#)),
        ("another content", base.clone().body(r#"{"amount":2}"#)),
        ("no content", base.clone().body("")),
        ("another type", base.clone().without("Content-Type").header("Content-Type", "text/plain")),
        ("another coding", base.clone().header("Content-Encoding", "gzip")),
    ];
    check_apart(&gateway, &first, &others).await;
    assert_replay(&first, &gateway.send(&base).await);
    assert_eq!(origin.effects(), 3, "only the path and the method are other operations");
}

#[tokio::test]
async fn peers_02_a_reply_outlives_the_time_an_execution_may_take() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).clock("+0").start().await;
    let first = gateway.send(&post("/orders").key("k")).await;
    let mut gateway = gateway;
    for offset in ["+36", "+86340"] {
        gateway = gateway.restart_with(|setup| setup.clock(offset)).await;
        assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
    }
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn peers_03_a_client_that_leaves_at_any_stage_leaves_one_effect() {
    let (origin, gateway) = configured("").await;
    let content = "x".repeat(300_000);
    let stages = ["amid the upload", "in flight", "amid the response"];
    for (n, stage) in stages.into_iter().enumerate() {
        for how in ["close", "reset"] {
            let key = format!("{n}-{how}");
            let full = post("/orders").key(&key).body(&content);
            let (effects, gate) = (origin.effects(), Gate::new());
            let reply = Reply::json(201, &format!("{{\"pad\":\"{content}\",\"n\":\"{key}\"}}"));
            let mut conn = Conn::open(gateway.addr).await;
            let (head, body) = full.wire();
            match stage {
                "amid the upload" => conn.write([&head[..], &body[..1000]].concat()).await,
                "in flight" => {
                    origin.next(Act::reply(reply.clone()).held(&gate));
                    conn.write([head, body].concat()).await;
                    origin.arrived(effects + 1).await;
                }
                _ => {
                    origin.next(Act::reply(reply.clone()));
                    conn.write([head, body].concat()).await;
                    conn.take(100).await.expect("the answer begins");
                }
            }
            if how == "close" {
                drop(conn);
            } else {
                conn.reset();
            }
            gate.open();
            if stage == "amid the upload" {
                origin.next(Act::reply(reply));
            }
            until("the operation is done", async || gateway.send(&full).await.status == 201).await;
            let retry = gateway.send(&full).await;
            assert_eq!(retry.header("idempotent-replayed"), Some("true"), "{stage}, {how}");
            assert!(retry.text().ends_with(&format!("\"n\":\"{key}\"}}")), "{stage}, {how}");
            assert_eq!(origin.effects(), effects + 1, "{stage}, {how}");
        }
    }
}

#[tokio::test]
async fn peers_04_waiters_do_not_starve_who_they_wait_for() {
    let (origin, gateway) =
        configured("[gateway]\nupstream_connections_max = 2\n[[route]]\nwait_max = \"20s\"\n").await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let addr = gateway.addr;
    let all: Vec<_> =
        (0..200).map(|_| tokio::spawn(async move { send(addr, &post("/orders").key("k")).await })).collect();
    origin.arrived(1).await;
    gate.open();
    for one in all {
        assert_eq!(one.await.unwrap().status, 201);
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn peers_05_an_answer_that_cannot_be_told_is_kept() {
    let (origin, gateway) = configured("").await;
    let content = vec![b'y'; 1 << 20];
    origin.next(Act::reply(Reply::new(201).body(&content)));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("k")).await;
    conn.take(100).await.expect("the answer begins");
    conn.reset();
    let retry = gateway.send(&post("/orders").key("k")).await;
    assert_eq!((retry.header("idempotent-replayed"), retry.body == content), (Some("true"), true));
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn peers_06_a_content_over_the_limit_is_never_unprotected_in_silence() {
    let (origin, gateway) = configured("").await;
    for (n, request) in
        [post("/orders").body(vec![0; (1 << 20) + 1]), post("/orders").body(vec![0; 5 << 20]).chunked(65_536)]
            .into_iter()
            .enumerate()
    {
        for _ in 0..2 {
            let (head, content) = request.clone().key(&n.to_string()).wire();
            let mut conn = Conn::open(gateway.addr).await;
            conn.write(head).await;
            conn.write_lossy(content).await;
            assert_problem(&conn.response().await, 413, "request-too-large");
        }
    }
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn peers_07_losers_one_after_another_do_not_free_the_winners_claim() {
    for toml in ["", "[[route]]\nwait_max = \"10ms\"\n"] {
        let (origin, gateway) = configured(toml).await;
        let gate = Gate::new();
        origin.next(Act::execute().held(&gate));
        let mut winner = Conn::open(gateway.addr).await;
        winner.send(&post("/orders").key("k")).await;
        origin.arrived(1).await;
        for n in 0..20 {
            match n % 4 {
                0 => assert_problem(&gateway.send(&post("/orders").key("k").body("{}")).await, 422, "key-reused"),
                // One that leaves before it is refused.
                1 => {
                    let mut loser = Conn::open(gateway.addr).await;
                    loser.send(&post("/orders").key("k")).await;
                    loser.reset();
                }
                _ => assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "in-flight"),
            }
        }
        gate.open();
        let first = winner.response().await;
        assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
        assert_eq!(origin.seen().len(), 1);
    }
}

#[tokio::test]
async fn peers_08_sixty_four_that_start_together_are_one() {
    let (origin, gateway) = configured("").await;
    for round in 0..5 {
        let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(64));
        let all: Vec<_> = (0..64)
            .map(|_| {
                let (addr, barrier) = (gateway.addr, std::sync::Arc::clone(&barrier));
                tokio::spawn(async move {
                    let mut conn = Conn::open(addr).await;
                    barrier.wait().await;
                    conn.send(&post("/orders").key(&round.to_string())).await;
                    conn.response().await
                })
            })
            .collect();
        for one in all {
            let answer = one.await.unwrap();
            assert!(answer.status == 201 || answer.code() == "in-flight", "{answer:?}");
        }
        assert_eq!(origin.effects(), round + 1);
    }
}

#[tokio::test]
async fn peers_09_another_query_is_another_request() {
    let (origin, gateway) = configured("").await;
    let first = gateway.send(&post("/charge?amount=1").key("k")).await;
    check_apart(&gateway, &first, &[("amount=999", post("/charge?amount=999").key("k"))]).await;
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn peers_11_who_comes_back_too_late_changes_nothing() {
    // As long as a loaded machine may take for the second execution, which must not time out.
    let toml = "[[route]]\nexecution_max = \"2s\"\ngrace = \"0s\"\non_unknown = \"reexecute\"\n";
    let (origin, gateway) = configured(toml).await;
    let gate = Gate::new();
    origin.next(Act::reply(Reply::json(201, r#"{"by":"the first"}"#)).held(&gate));
    assert_problem(&gateway.send(&post("/orders").key("k")).await, 504, "outcome-unknown");
    let second = gateway.send(&post("/orders").key("k")).await;
    assert_eq!((second.status, second.header("idempotent-replayed")), (201, None));
    gate.open();
    for _ in 0..3 {
        assert_replay(&second, &gateway.send(&post("/orders").key("k")).await);
    }
    assert_eq!(origin.seen().len(), 2);
}

/// Pairs of contents that a lossy reading takes for one.
async fn check_differ(toml: &str, content_type: &str, pairs: &[(&[u8], &[u8])]) {
    let (origin, gateway) = configured(toml).await;
    for (n, (one, other)) in pairs.iter().enumerate() {
        let send = |content: &[u8]| {
            post("/orders")
                .without("Content-Type")
                .header("Content-Type", content_type)
                .key(&n.to_string())
                .body(content)
        };
        let first = gateway.send(&send(one)).await;
        assert_problem(&gateway.send(&send(other)).await, 422, "key-reused");
        assert_replay(&first, &gateway.send(&send(one)).await);
        assert_eq!(origin.effects(), n + 1);
    }
}

const RAW: &str = "";
const JSON: &str = "[[route]]\nfingerprint = \"json\"\n";

#[tokio::test]
async fn peers_12_contents_that_are_no_text_stay_apart() {
    let pairs: [(&[u8], &[u8]); 3] = [(b"\xff\xfe", b"\xff\xfd"), (b"a\x80", b"a\x81"), (b"\xc3\x28", b"\xc3\x29")];
    for toml in [RAW, JSON] {
        check_differ(toml, "application/octet-stream", &pairs).await;
        check_differ(toml, "application/json", &pairs).await;
    }
}

#[tokio::test]
async fn peers_13_values_that_a_double_or_a_map_confuses_stay_apart() {
    let json: [(&[u8], &[u8]); 7] = [
        (b"{\"a\":9007199254740993}", b"{\"a\":9007199254740992}"),
        (b"{\"a\":1e400}", b"{\"a\":1e401}"),
        (b"{\"a\":0.1}", b"{\"a\":0.1000000000000000055511151231257827}"),
        (b"{\"a\":1,\"a\":2}", b"{\"a\":2}"),
        (b"{\"a\":1,\"a\":2}", b"{\"a\":2,\"a\":1}"),
        (b"{}", b"[]"),
        (b"{\"a\":null}", b"{}"),
    ];
    check_differ(RAW, "application/json", &json).await;
    check_differ(JSON, "application/json", &json).await;
    let form: [(&[u8], &[u8]); 2] = [(b"to=a&amt=1&to=b&amt=9", b"to=a&amt=9&to=b&amt=1"), (b"a=1&b=2", b"b=2&a=1")];
    for toml in [RAW, JSON] {
        check_differ(toml, "application/x-www-form-urlencoded", &form).await;
    }
    let (origin, gateway) = configured(RAW).await;
    let first = gateway.send(&post("/pay?to=a&amt=1&to=b&amt=9").key("k")).await;
    check_apart(&gateway, &first, &[("pairs", post("/pay?to=a&amt=9&to=b&amt=1").key("k"))]).await;
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn peers_14_every_status_that_had_an_effect_is_kept() {
    let (origin, gateway) = configured("").await;
    let types = ["application/json", "application/json; charset=utf-8", "text/html", "application/octet-stream", ""];
    let mut effects = 0;
    for status in (200..=208).chain([226]).chain(300..=308) {
        for content_type in types {
            let has_no_content = matches!(status, 204 | 304);
            let reply = Reply::new(status);
            let reply = if content_type.is_empty() { reply } else { reply.header("Content-Type", content_type) };
            let reply = if has_no_content { reply } else { reply.body("{\"content\":1}") };
            origin.next(Act::reply(reply));
            let key = format!("{status} {content_type}");
            let (first, retry) = twice(&gateway, &post("/orders").key(&key)).await;
            assert_eq!(first.status, status);
            assert_replay(&first, &retry);
            effects += 1;
            assert_eq!(origin.effects(), effects, "{key}");
        }
    }
}

#[tokio::test]
async fn peers_17_amounts_beyond_a_double_are_compared_exactly() {
    check_differ(JSON, "application/json", &[(b"[9007199254740993]", b"[9007199254740992]")]).await;
}

#[tokio::test]
async fn peers_18_contents_are_byte_exact_with_a_key_and_without() {
    let (origin, gateway) = configured("").await;
    let png: Vec<u8> = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".iter().copied().chain(0..=255).collect();
    let gzip: Vec<u8> = b"\x1f\x8b\x08\0\0\0\0\0\0\x03".iter().copied().chain((0..=255).rev()).collect();
    let replies: [(&str, Vec<u8>, Reply); 6] = [
        ("png", png.clone(), Reply::new(200).header("Content-Type", "image/png").body(&png)),
        ("gzip", gzip.clone(), Reply::new(200).header("Content-Encoding", "gzip").body(&gzip)),
        ("chunks", png.clone(), Reply::new(200).chunked(png.chunks(7).map(Part::from))),
        ("until close", gzip.clone(), Reply::new(200).until_close(gzip.chunks(7).map(Part::from))),
        ("nothing", Vec::new(), Reply::new(200).chunked([])),
        ("big", png.repeat(20_000), Reply::new(200).body(png.repeat(20_000))),
    ];
    for (what, content, reply) in replies {
        for request in [post("/a").key(what), post("/a"), get("/a"), request("PUT", "/a").body("x")] {
            origin.next(Act::reply(reply.clone()));
            let answer = gateway.send(&request).await;
            assert!(answer.body == content, "{what} of {request:?}: {answer:?}");
        }
    }
    // And the other way.
    let contents = [png, gzip, vec![0xff; 700_000]];
    for (n, content) in contents.iter().enumerate() {
        let keys = (format!("counted-{n}"), format!("chunked-{n}"));
        let requests = [
            post("/b").body(content),
            post("/b").body(content).chunked(777),
            post("/b").body(content).key(&keys.0),
            post("/b").body(content).key(&keys.1).chunked(777),
            request("PUT", "/b").body(content),
            request("PUT", "/b").body(content).chunked(777),
        ];
        for (m, request) in requests.iter().enumerate() {
            let answer = gateway.send(request).await;
            assert_eq!(answer.status, 201, "request {m}: {answer:?}");
            assert!(&origin.seen().pop().unwrap().body == content, "request {m} of {} bytes", content.len());
        }
    }
}

#[tokio::test]
async fn peers_20_a_route_with_a_parameter_is_an_operation_per_value() {
    let (origin, gateway) = configured("[[route]]\npath = \"/orders/{id}\"\n").await;
    let first = gateway.send(&post("/orders/1").key("k")).await;
    check_apart(&gateway, &first, &[("/orders/2", post("/orders/2").key("k"))]).await;
    assert_eq!(origin.effects(), 2);
}

#[tokio::test]
async fn peers_21_a_waiter_that_gives_up_takes_nothing_with_it() {
    let (origin, gateway) = configured("[[route]]\nwait_max = \"100ms\"\n").await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut winner = Conn::open(gateway.addr).await;
    winner.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    for _ in 0..3 {
        assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "in-flight");
    }
    gate.open();
    let first = winner.response().await;
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn peers_22_two_gateways_never_share_a_folder() {
    let (origin, first) = configured("").await;
    let said = first.setup.try_start().await.expect_err("the folder is taken");
    assert!(said.contains("data"), "it says what is wrong: {said}");
    assert_eq!(first.send(&post("/orders").key("k")).await.status, 201);
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn peers_23_a_store_that_dies_after_the_effect_does_not_free_the_key() {
    let (origin, gateway) = configured("").await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    gateway.file_size_max("0");
    gate.open();
    assert_eq!(conn.response().await.status, 201);
    gateway.file_size_max("unlimited");
    let retry = gateway.send(&post("/orders").key("k")).await;
    assert!(retry.status >= 400 || retry.header("idempotent-replayed").is_some(), "{retry:?}");
    let gateway = gateway.restart().await;
    assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "outcome-unknown");
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn peers_24_a_damaged_record_is_never_taken_for_none() {
    // Of a record the route is all that can be found: its reply is sealed.
    let mark = "/mark-of-the-record";
    let toml = format!("[[route]]\npath = \"{mark}\"\nmethods = [\"POST\"]\n[[route]]\npath = \"/orders\"\n");
    let (origin, mut gateway) = configured(&toml).await;
    origin.next(Act::reply(Reply::json(201, &"1".repeat(200))));
    assert_eq!(gateway.send(&post(mark).key("k")).await.status, 201);
    // Records behind it, so that the damage is in the middle and not at a torn end.
    for n in 0..20 {
        gateway.send(&post("/orders").key(&format!("after-{n}"))).await;
    }
    gateway.kill9();
    let mut damaged = 0;
    for file in files(&gateway.setup.data()) {
        let mut bytes = std::fs::read(&file).unwrap();
        // The last is the completed record; what is so far behind the route is its reply.
        if let Some(at) = bytes.windows(mark.len()).rposition(|window| window == mark.as_bytes()) {
            bytes[at + mark.len() + 100] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "the record is on the disk");
    let effects = origin.effects();
    // Not to start is fine as long as it says why; so is to refuse what it cannot know.
    let setup = gateway.setup.clone();
    match setup.try_start().await {
        Err(said) => assert!(said.to_lowercase().contains("corrupt") || said.contains("damage"), "{said}"),
        Ok(gateway) => {
            for _ in 0..2 {
                let answer = gateway.send(&post(mark).key("k")).await;
                assert!(answer.status >= 500, "{answer:?}");
            }
        }
    }
    assert_eq!(origin.effects(), effects);
}

fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, mut all): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    all.extend(folders.iter().flat_map(|folder| files(folder)));
    all
}

#[tokio::test]
async fn peers_26_a_key_is_free_when_its_record_is_over() {
    let origin = Origin::start().await;
    let toml = "[[route]]\nreplay_for = \"1h\"\nremember_for = \"1h\"\n";
    let gateway = gateway(&origin).config(toml).clock("+0").start().await;
    let first = gateway.send(&post("/orders").key("k")).await;
    let gateway = gateway.restart_with(|setup| setup.clock("+3601")).await;
    let second = gateway.send(&post("/orders").key("k")).await;
    assert_eq!((second.status, second.header("idempotent-replayed")), (201, None));
    assert_ne!(first.body, second.body);
    assert_replay(&second, &gateway.send(&post("/orders").key("k")).await);
}

#[tokio::test]
async fn peers_27_a_killed_worker_blocks_its_key_for_no_time() {
    let (origin, gateway) = configured("").await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    let gateway = gateway.restart().await;
    let retry = gateway.send(&post("/orders").key("k")).await;
    assert_problem(&retry, 409, "outcome-unknown");
    assert_eq!(retry.json()["retryable"], false);
    gate.open();
}

#[tokio::test]
async fn peers_28_a_waiter_ends_at_its_limit_and_with_its_client() {
    let (origin, gateway) = configured("[[route]]\nwait_max = \"15s\"\n").await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut winner = Conn::open(gateway.addr).await;
    winner.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    let mut waiters = Vec::new();
    for _ in 0..50 {
        let mut waiter = Conn::open(gateway.addr).await;
        waiter.send(&post("/orders").key("k")).await;
        waiters.push(waiter);
    }
    drop(waiters);
    // The claim is the winner's only, and a clean shutdown waits for nobody who has left.
    gate.open();
    assert_eq!(winner.response().await.status, 201);
    let mut gateway = gateway;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn peers_29_slow_uploads_with_a_key_hold_nobody_up() {
    let (origin, gateway) = configured("[gateway]\nupstream_connections_max = 4\n").await;
    let mut slow = Vec::new();
    for n in 0..100 {
        let mut conn = Conn::open(gateway.addr).await;
        conn.write(format!("POST /up HTTP/1.1\r\nHost: a\r\nIdempotency-Key: s{n}\r\nContent-Length: 9\r\n\r\nhalf"))
            .await;
        slow.push(conn);
    }
    assert_eq!(gateway.send(&post("/orders").key("k")).await.status, 201);
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn peers_30_nobody_is_told_somebody_elses_reply() {
    let (origin, gateway) = configured("").await;
    let caller = |name: &str| post("/orders").key("k").header("Authorization", format!("Bearer {name}"));
    let first = gateway.send(&caller("a")).await;
    check_apart(&gateway, &first, &[("b", caller("b")), ("nobody", post("/orders").key("k"))]).await;
    assert_eq!(origin.effects(), 3);
}

#[tokio::test]
async fn peers_31_repeated_fields_stay_repeated_and_cookies_stay_with_who_got_them() {
    let (origin, gateway) = configured("").await;
    let reply = Reply::json(201, "{}")
        .header("X-Multi", "1")
        .header("X-Multi", "2, 3")
        .header("x-multi", "1")
        .header("Set-Cookie", "session=a")
        .header("Set-Cookie", "csrf=b")
        .header("WWW-Authenticate", "Basic")
        .header("WWW-Authenticate", "Bearer");
    origin.next(Act::reply(reply));
    let (first, retry) = twice(&gateway, &post("/orders").key("k")).await;
    for answer in [&first, &retry] {
        assert_eq!(answer.all("x-multi"), ["1", "2, 3", "1"]);
        assert_eq!(answer.all("www-authenticate"), ["Basic", "Bearer"]);
    }
    assert_eq!((first.all("set-cookie"), retry.all("set-cookie").len()), (vec!["session=a", "csrf=b"], 0));

    // Which fields are left out is the operator's to say.
    let (origin, gateway) = configured("[[route]]\nheaders_omitted = [\"X-Token\"]\n").await;
    origin.next(Act::reply(Reply::json(201, "{}").header("X-Token", "t").header("Set-Cookie", "a=1")));
    let (first, retry) = twice(&gateway, &post("/orders").key("k")).await;
    assert_eq!((first.header("x-token"), retry.header("x-token")), (Some("t"), None));
    assert_eq!(retry.all("set-cookie"), ["a=1"]);
}

#[tokio::test]
async fn peers_32_location_and_etag_are_replayed() {
    let (origin, gateway) = configured("").await;
    let reply =
        Reply::json(201, "{}").header("Location", "/o/1").header("ETag", "W/\"1\"").header("Cache-Control", "no-store");
    origin.next(Act::reply(reply));
    let (_, retry) = twice(&gateway, &post("/orders").key("k")).await;
    assert_eq!((retry.header("location"), retry.header("etag")), (Some("/o/1"), Some("W/\"1\"")));
    assert_eq!(retry.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn peers_33_every_printable_character_may_be_in_a_key() {
    let (origin, gateway) = configured("").await;
    let bare: String = (0x21..=0x7e_u8).map(char::from).filter(|c| !matches!(c, '"' | ',')).collect();
    let quoted = bare.replace('\\', "\\\\");
    let first = gateway.send(&post("/orders").header("Idempotency-Key", &bare)).await;
    assert_eq!(first.status, 201, "{first:?}");
    assert_replay(&first, &gateway.send(&post("/orders").header("Idempotency-Key", format!("\"{quoted}\""))).await);
    let urn = "urn:uuid:2f4f4b9e-abcd-4000-8000-00000000000a";
    let (first, retry) = twice(&gateway, &post("/orders").header("Idempotency-Key", urn)).await;
    assert_replay(&first, &retry);
    let two = post("/orders").header("Idempotency-Key", "k1").header("Idempotency-Key", "k1");
    assert_problem(&gateway.send(&two).await, 400, "key-invalid");
    assert_eq!(origin.effects(), 2);
}

#[tokio::test]
async fn peers_34_a_replay_does_not_reach_the_origin_and_one_is_not_the_text_one() {
    let (origin, gateway) = configured(JSON).await;
    let (first, retry) = twice(&gateway, &post("/orders").key("k").body("{\"a\":1}")).await;
    assert_replay(&first, &retry);
    assert_eq!(origin.seen().len(), 1);
    assert_problem(&gateway.send(&post("/orders").key("k").body("{\"a\":\"1\"}")).await, 422, "key-reused");
    assert_problem(&gateway.send(&post("/orders").key("k").body("{\"a\":true}")).await, 422, "key-reused");
}

#[tokio::test]
async fn peers_35_an_answer_without_content_is_replayed() {
    let (origin, gateway) = configured(JSON).await;
    for (n, reply) in [Reply::new(200), Reply::new(204), Reply::new(201).chunked([])].into_iter().enumerate() {
        origin.next(Act::reply(reply));
        let (first, retry) = twice(&gateway, &post("/orders").key(&n.to_string())).await;
        assert_eq!(first.body, b"");
        assert_replay(&first, &retry);
    }
    let first = gateway.send(&post("/orders").key("k").body("{\"a\":1,\"b\":2}")).await;
    assert_replay(&first, &gateway.send(&post("/orders").key("k").body("{\"b\":2,\"a\":1}")).await);
}

#[tokio::test]
async fn peers_36_a_replay_has_the_status_of_the_first() {
    let (origin, gateway) = configured("").await;
    for status in [200, 201, 202, 204, 303] {
        origin.next(Act::reply(Reply::new(status)));
        let (first, retry) = twice(&gateway, &post("/orders").key(&status.to_string())).await;
        assert_eq!((first.status, retry.status), (status, status));
    }
}

#[tokio::test]
async fn peers_37_an_answer_that_comes_in_pieces_is_kept_when_it_is_whole() {
    let (origin, gateway) = configured("").await;
    let gate = Gate::new();
    let pieces = [Part::from("{\"a\""), Part::Wait(gate.clone()), Part::from(":1}")];
    origin.next(Act::reply(Reply::new(201).header("Content-Type", "application/json").chunked(pieces)));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "in-flight");
    gate.open();
    let first = conn.response().await;
    assert_eq!(first.text(), "{\"a\":1}");
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
}

#[tokio::test]
async fn peers_38_nothing_in_a_request_names_another_origin() {
    let (origin, gateway) = configured("").await;
    let other = Origin::start().await;
    let to = other.addr;
    let requests = [
        get("/a").header("X-Forwarded-Host", to.to_string()).header("Forwarded", format!("host=\"{to}\"")),
        get("/b").header("Host", to.to_string()),
        get(&format!("http://{to}/c")).header("Host", to.to_string()),
        get("/d").header("X-Original-URL", format!("http://{to}/")).header("X-Rewrite-URL", format!("http://{to}/")),
        post(&format!("http://{to}/e")).header("Host", to.to_string()).key("k"),
        get(&format!("//{to}/f")),
        get(&format!("/@{to}/g")),
    ];
    for request in &requests {
        let answer = gateway.send(request).await;
        assert!(matches!(answer.status, 200 | 201 | 400 | 421), "{answer:?}");
    }
    assert_eq!(other.seen().len(), 0);
    assert!(origin.seen().len() >= 5, "they are the origin's own");
    // A tunnel is an open proxy.
    let mut conn = Conn::open(gateway.addr).await;
    conn.write(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")).await;
    assert!(conn.response().await.status >= 400);
    assert_eq!(other.seen().len(), 0);
}

#[tokio::test]
async fn peers_39_broken_uploads_break_nothing_else() {
    let (origin, gateway) = configured("").await;
    let head = "POST /orders HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\n";
    let broken = [
        "Content-Length: 100\r\n\r\nshort",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloworld\r\n",
        "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        "Content-Length: 99999999999999999999999999\r\n\r\n",
        "Content-Len",
        "\0\0\0\0\r\n\r\n",
    ];
    for rest in broken {
        for how in ["half close", "close", "reset"] {
            let mut conn = Conn::open(gateway.addr).await;
            conn.write(format!("{head}{rest}")).await;
            match how {
                "half close" => {
                    conn.half_close().await;
                    let answer = conn.rest().await;
                    let refused = answer.is_empty() || answer.starts_with(b"HTTP/1.1 4");
                    assert!(refused, "{rest:?}: {}", String::from_utf8_lossy(&answer));
                }
                "close" => drop(conn),
                _ => conn.reset(),
            }
        }
    }
    let answer = gateway.send(&post("/orders").key("k")).await;
    assert_eq!((answer.status, answer.header("idempotent-replayed"), origin.seen().len()), (201, None, 1));
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

#[tokio::test]
async fn peers_40_equal_contents_of_two_keys_do_not_block_each_other() {
    let (origin, gateway) = configured("").await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut first = Conn::open(gateway.addr).await;
    first.send(&post("/orders").key("k1")).await;
    origin.arrived(1).await;
    assert_eq!(gateway.send(&post("/orders").key("k2")).await.status, 201);
    gate.open();
    assert_eq!((first.response().await.status, origin.effects()), (201, 2));
}

#[tokio::test]
async fn peers_41_a_key_that_cannot_be_read_is_never_no_key() {
    let (origin, gateway) = configured("").await;
    for key in [&b"\xc3\xa9"[..], b"", b"\"\"", &[b'a'; 300], b"\"", b"a b", b"a;b=\"c", b"\x80"] {
        assert_problem(&gateway.send(&post("/orders").header("Idempotency-Key", key)).await, 400, "key-invalid");
    }
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn peers_43_keys_and_callers_are_not_joined_into_one_text() {
    let (origin, gateway) = configured("").await;
    let pairs = [("a", "bc"), ("ab", "c"), ("abc", "d"), ("a:b", "c"), ("a", "b:c"), ("a|b", "c"), ("a", "b|c")];
    for (n, (caller, key)) in pairs.into_iter().enumerate() {
        let answer = gateway.send(&post("/orders").key(key).header("Authorization", caller)).await;
        assert_eq!((answer.status, answer.header("idempotent-replayed")), (201, None), "{caller} and {key}");
        assert_eq!(origin.effects(), n + 1);
    }
    // Nor is a credential of one kind that of another.
    gateway.send(&post("/orders").key("c").header("X-API-Key", "ab")).await;
    assert_eq!(origin.effects(), pairs.len() + 1);
}

#[tokio::test]
async fn peers_45_an_execution_longer_than_its_lease_is_not_repeated() {
    let (origin, gateway) = configured("[[route]]\nexecution_max = \"400ms\"\ngrace = \"100ms\"\n").await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let began = tokio::time::Instant::now();
    let mut first = Conn::open(gateway.addr).await;
    first.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    while began.elapsed() < Duration::from_millis(1500) {
        let answer = gateway.send(&post("/orders").key("k")).await;
        assert!(matches!(answer.code().as_str(), "in-flight" | "outcome-unknown"), "{answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    gate.open();
    assert_problem(&first.response().await, 504, "outcome-unknown");
    assert_problem(&gateway.send(&post("/orders").key("k")).await, 409, "outcome-unknown");
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn peers_46_an_answer_too_big_to_keep_is_remembered_as_done() {
    let (origin, gateway) = configured("[[route]]\nreply_body_bytes_max = \"1 KiB\"\n").await;
    let content = vec![b'z'; 1025];
    let replies = [Reply::new(201).body(&content), Reply::new(200).chunked([Part::Bytes(content.clone())])];
    for (n, reply) in replies.into_iter().enumerate() {
        origin.next(Act::reply(reply));
        let (first, retry) = twice(&gateway, &post("/orders").key(&n.to_string())).await;
        assert!(first.body == content);
        assert_problem(&retry, 409, "reply-gone");
        assert_eq!(retry.json()["original_status"], first.status);
        let gone = gateway.send(&post("/orders").key(&n.to_string())).await;
        assert_problem(&gone, 409, "reply-gone");
    }
    assert_eq!(origin.seen().len(), 2);
}

#[tokio::test]
async fn peers_46_a_route_can_keep_no_reply_at_all() {
    let (origin, gateway) = configured("[[route]]\nreply = \"omitted\"\n").await;
    origin.next(Act::reply(Reply::json(201, r#"{"token":"secret-once"}"#)));
    let (first, retry) = twice(&gateway, &post("/tokens").key("k")).await;
    assert_eq!(first.text(), r#"{"token":"secret-once"}"#);
    assert_problem(&retry, 409, "reply-gone");
    for file in files(&gateway.setup.data()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(11).any(|window| window == b"secret-once"), "{}", file.display());
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn peers_42_credentials_are_not_on_the_disk() {
    let (_origin, gateway) = configured("").await;
    let credential = "Bearer very-visible-credential";
    twice(&gateway, &post("/orders").key("very-visible-key").header("Authorization", credential)).await;
    for file in files(&gateway.setup.data()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(12).any(|window| window == b"very-visible"), "{}", file.display());
    }
}

#[tokio::test]
async fn an_origin_that_resets_is_asked_once_even_on_a_pooled_connection() {
    let (origin, gateway) = configured("").await;
    assert_eq!(gateway.send(&post("/orders").key("warm")).await.status, 201);
    for n in 0..10 {
        origin.next(Act::cut(Cut::AfterExecuting));
        let before = origin.seen().len();
        let answer = gateway.send(&post("/orders").key(&n.to_string())).await;
        assert_problem(&answer, 502, "outcome-unknown");
        assert_eq!(origin.seen().len(), before + 1, "it was sent again");
    }
}
