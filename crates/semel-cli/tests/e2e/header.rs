//! The header dialect: H1 to H37.

use crate::harness::{
    Act, Conn, Gate, Gateway, Origin, Part, Reply, Response, Setup, assert_problem, assert_replay, assert_same_reply,
    gateway, get, post, request, twice,
};

/// An origin and a gateway in front of it, without a config file.
async fn plain() -> (Origin, Gateway) {
    with(|setup| setup).await
}

/// The same with a config file.
async fn configured(toml: &str) -> (Origin, Gateway) {
    with(|setup| setup.config(toml)).await
}

async fn with(change: impl FnOnce(Setup) -> Setup) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = change(gateway(&origin)).start().await;
    (origin, gateway)
}

#[tokio::test]
async fn h01_a_first_time_is_passed_on() {
    let (origin, gateway) = plain().await;
    origin.next(Act::reply(Reply::json(201, r#"{"id":7}"#).header("Location", "/orders/7").header("X-Own", "kept")));
    let answer = gateway.send(&post("/orders?dry=0").key("k").header("X-Trace", "t")).await;
    assert_eq!((answer.status, answer.text()), (201, r#"{"id":7}"#));
    assert_eq!((answer.header("location"), answer.header("x-own")), (Some("/orders/7"), Some("kept")));
    assert_eq!((answer.header("idempotent-replayed"), answer.header("idempotency-status")), (None, None));
    let seen = origin.seen();
    assert_eq!((seen.len(), origin.effects()), (1, 1));
    assert_eq!((seen[0].method.as_str(), seen[0].target.as_str()), ("POST", "/orders?dry=0"));
    assert_eq!((seen[0].header("idempotency-key"), seen[0].header("x-trace")), (Some("\"k\""), Some("t")));
    assert_eq!(seen[0].body, br#"{"amount":1}"#);
}

#[tokio::test]
async fn h02_a_retry_is_told_the_kept_reply() {
    let (origin, gateway) = plain().await;
    let (first, retry) = twice(&gateway, &post("/orders").key("k")).await;
    assert_replay(&first, &retry);
    assert_eq!((first.status, origin.effects(), origin.seen().len()), (201, 1, 1));
}

#[tokio::test]
async fn h03_a_hundred_retries_are_told_the_same() {
    let (origin, gateway) = plain().await;
    let first = gateway.send(&post("/orders").key("k")).await;
    let mut conn = Conn::open(gateway.addr).await;
    for _ in 0..100 {
        conn.send(&post("/orders").key("k")).await;
        assert_replay(&first, &conn.response().await);
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn h04_equal_contents_under_two_keys_are_two_operations() {
    let (origin, gateway) = plain().await;
    let first = gateway.send(&post("/orders").key("k1")).await;
    let second = gateway.send(&post("/orders").key("k2")).await;
    assert_eq!((origin.effects(), second.header("idempotent-replayed")), (2, None));
    assert_ne!(first.body, second.body);
}

#[tokio::test]
async fn h05_a_required_key_that_is_missing_is_refused() {
    let by_flag = with(|setup| setup.arg("--require-key")).await;
    let by_config = configured("[[route]]\nkey_presence = \"required\"\n").await;
    for (origin, gateway) in [by_flag, by_config] {
        assert_problem(&gateway.send(&post("/orders")).await, 400, "key-missing");
        assert_eq!(origin.seen().len(), 0);
        assert_eq!(gateway.send(&post("/orders").key("k")).await.status, 201);
    }
}

#[tokio::test]
async fn h06_without_a_key_every_request_executes_and_is_told_so() {
    let (origin, gateway) = plain().await;
    let (first, second) = twice(&gateway, &post("/orders")).await;
    for answer in [&first, &second] {
        assert_eq!((answer.status, answer.header("idempotency-status")), (201, Some("absent")));
        assert_eq!(answer.header("idempotent-replayed"), None);
    }
    assert_eq!(origin.effects(), 2);
}

#[tokio::test]
async fn h07_a_quoted_and_a_bare_key_are_one() {
    let (origin, gateway) = plain().await;
    let first = gateway.send(&post("/orders").header("Idempotency-Key", "\"k:1/ü\"".replace('ü', "u"))).await;
    let bare = gateway.send(&post("/orders").header("Idempotency-Key", "k:1/u")).await;
    assert_replay(&first, &bare);
    assert_eq!(origin.effects(), 1);

    let (origin, gateway) = configured("[[route]]\nkey_form = \"strict\"\n").await;
    assert_problem(&gateway.send(&post("/orders").header("Idempotency-Key", "k")).await, 400, "key-invalid");
    assert_eq!(origin.effects(), 0);
    assert_eq!(gateway.send(&post("/orders").key("k")).await.status, 201);
}

#[tokio::test]
async fn h08_the_case_of_the_field_name_does_not_count() {
    let (origin, gateway) = plain().await;
    let first = gateway.send(&post("/orders").header("idempotency-key", "\"k\"")).await;
    for name in ["IDEMPOTENCY-KEY", "Idempotency-Key", "iDEMPOTENCY-kEY"] {
        assert_replay(&first, &gateway.send(&post("/orders").header(name, "\"k\"")).await);
    }
    assert_eq!(origin.effects(), 1);
}

/// Sends each value as the key; all must be refused, and nothing executed.
async fn check_invalid(origin: &Origin, gateway: &Gateway, values: &[&[u8]]) {
    for value in values {
        let answer = gateway.send(&post("/orders").header("Idempotency-Key", value)).await;
        assert_problem(&answer, 400, "key-invalid");
        assert_eq!(origin.seen().len(), 0, "{value:?} reached the origin");
    }
}

#[tokio::test]
async fn h09_an_empty_key_is_refused() {
    let (origin, gateway) = plain().await;
    check_invalid(&origin, &gateway, &[b"", b"\"\"", b"   ", b"\"   \""]).await;
}

#[tokio::test]
async fn h10_a_key_of_255_bytes_is_taken_and_one_of_256_refused() {
    let (origin, gateway) = plain().await;
    check_invalid(&origin, &gateway, &["a".repeat(256).as_bytes(), format!("\"{}\"", "a".repeat(256)).as_bytes()])
        .await;
    let longest = "a".repeat(255);
    let first = gateway.send(&post("/orders").key(&longest)).await;
    assert_replay(&first, &gateway.send(&post("/orders").header("Idempotency-Key", &longest)).await);
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn h11_what_is_no_string_is_refused() {
    let (origin, gateway) = plain().await;
    let odd: [&[u8]; 9] =
        [b"\"k\";a=1", b"\"k", b"k\"", b"\"a\"b", b"\"a\\n\"", "clé".as_bytes(), b"\"\xff\"", b"a\tb", b"a b"];
    check_invalid(&origin, &gateway, &odd).await;
    // These are no field values at all (RFC 9110 section 5.5), so it is HTTP that refuses them.
    for value in [&b"a\0b"[..], b"a\x01b", b"\"a\x7fb\""] {
        let answer = gateway.send(&post("/orders").header("Idempotency-Key", value)).await;
        assert_eq!((answer.status, origin.seen().len()), (400, 0), "{value:?}: {answer:?}");
    }
}

#[tokio::test]
async fn h12_two_keys_are_refused() {
    let (origin, gateway) = plain().await;
    check_invalid(&origin, &gateway, &[b"k1, k2", b"k1,k2", b"\"k1\", \"k2\""]).await;
    for second in ["k1", "k2"] {
        let both = post("/orders").header("Idempotency-Key", "k1").header("idempotency-key", second);
        assert_problem(&gateway.send(&both).await, 400, "key-invalid");
    }
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn h13_what_is_no_uuid_is_refused_where_one_is_demanded() {
    let (origin, gateway) = configured("[[route]]\nkey_grammar = \"uuid\"\n").await;
    check_invalid(&origin, &gateway, &[b"not-a-uuid", b"\"not-a-uuid\"", b"2f4f4b9e-0000-4000-8000-00000000000"]).await;
    assert_eq!(gateway.send(&post("/orders").key("2f4f4b9e-0000-4000-8000-000000000001")).await.status, 201);
}

#[tokio::test]
async fn h14_a_uuid_in_other_letters_is_the_same() {
    let (origin, gateway) = configured("[[route]]\nkey_grammar = \"uuid\"\n").await;
    let first = gateway.send(&post("/orders").key("2f4f4b9e-abcd-4000-8000-00000000000a")).await;
    for other in ["2F4F4B9E-ABCD-4000-8000-00000000000A", "urn:uuid:2f4f4b9e-abcd-4000-8000-00000000000a"] {
        assert_replay(&first, &gateway.send(&post("/orders").key(other)).await);
    }
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn h15_another_content_under_a_known_key_is_refused_and_poisons_nothing() {
    let (origin, gateway) = plain().await;
    let first = gateway.send(&post("/orders").key("k")).await;
    let other = gateway.send(&post("/orders").key("k").body(r#"{"amount":2}"#)).await;
    assert_problem(&other, 422, "key-reused");
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn h16_the_spelling_of_json_counts_only_for_raw_fingerprints() {
    let first = post("/orders").key("k").body(r#"{"a":1,"b":[1,2]}"#);
    let respelled = post("/orders").key("k").body("{ \"b\" : [1, 2],\n \"a\": 1.0 }");

    let (origin, gateway) = configured("[[route]]\nfingerprint = \"json\"\n").await;
    let told = gateway.send(&first).await;
    assert_replay(&told, &gateway.send(&respelled).await);
    assert_eq!(origin.effects(), 1);

    let (origin, gateway) = plain().await;
    gateway.send(&first).await;
    assert_problem(&gateway.send(&respelled).await, 422, "key-reused");
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn h17_another_query_under_a_known_key_is_refused() {
    let (origin, gateway) = plain().await;
    gateway.send(&post("/orders?amount=1").key("k")).await;
    for target in ["/orders?amount=999", "/orders", "/orders?", "/orders?amount=1&dry=1"] {
        assert_problem(&gateway.send(&post(target).key("k")).await, 422, "key-reused");
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn h18_another_content_type_under_a_known_key_is_refused() {
    let (origin, gateway) = plain().await;
    gateway.send(&post("/orders").key("k")).await;
    let other = post("/orders").without("Content-Type").key("k");
    assert_problem(&gateway.send(&other).await, 422, "key-reused");
    assert_problem(&gateway.send(&other.header("Content-Type", "text/plain")).await, 422, "key-reused");
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn h19_what_changes_between_attempts_does_not_count() {
    let (origin, gateway) = plain().await;
    let attempt = |n: &str| {
        post("/orders")
            .key("k")
            .header("User-Agent", n)
            .header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
            .header("traceparent", format!("00-4bf92f3577b34da6a3ce929d0e0e473{n}-00f067aa0ba902b7-01"))
            .header("X-Request-Id", n)
            .header("Accept", if n == "1" { "*/*" } else { "application/json" })
    };
    let first = gateway.send(&attempt("1")).await;
    assert_replay(&first, &gateway.send(&attempt("2")).await);
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn h20_a_volatile_member_does_not_count() {
    let toml = "[[route]]\nfingerprint = \"json\"\nfingerprint_ignore = [\"/client_timestamp\"]\n";
    let (origin, gateway) = configured(toml).await;
    let attempt = |at: u32, amount: u32| {
        post("/orders").key("k").body(format!(r#"{{"amount":{amount},"client_timestamp":{at}}}"#))
    };
    let first = gateway.send(&attempt(1, 5)).await;
    assert_replay(&first, &gateway.send(&attempt(2, 5)).await);
    assert_problem(&gateway.send(&attempt(1, 6)).await, 422, "key-reused");
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn h21_a_client_error_is_kept_only_where_the_route_keeps_it() {
    let error = |status| Act::refuse(Reply::json(status, r#"{"error":"no"}"#));

    let (origin, gateway) = with(|setup| setup.arg("--preset").arg("stripe")).await;
    for status in [400, 404, 422] {
        origin.next(error(status));
        let (first, retry) = twice(&gateway, &post("/orders").key(&format!("kept-{status}"))).await;
        assert_eq!(first.status, status);
        assert_replay(&first, &retry);
    }
    assert_eq!((origin.seen().len(), origin.effects()), (3, 0));

    let (origin, gateway) = plain().await;
    for status in [400, 404, 422] {
        origin.next(error(status));
        let (first, retry) = twice(&gateway, &post("/orders").key(&format!("free-{status}"))).await;
        assert_eq!((first.status, first.header("idempotency-status")), (status, Some("released")));
        assert_eq!((retry.status, retry.header("idempotent-replayed")), (201, None), "the correction of {status}");
    }
    assert_eq!((origin.seen().len(), origin.effects()), (6, 3));
}

/// The first answer says that nothing happened, so the same key executes when its cause is gone.
async fn check_released(gateway: &Gateway, origin: &Origin, status: u16, reply: Reply) -> Response {
    let (effects, request) = (origin.effects(), post("/orders").key(&format!("key-{status}-{}", origin.seen().len())));
    origin.next(Act::refuse(reply));
    let (first, retry) = twice(gateway, &request).await;
    assert_eq!((first.status, first.header("idempotency-status")), (status, Some("released")), "{first:?}");
    assert_eq!((retry.status, retry.header("idempotent-replayed")), (201, None), "{retry:?}");
    assert_replay(&retry, &gateway.send(&request).await);
    assert_eq!(origin.effects(), effects + 1);
    first
}

#[tokio::test]
async fn h22_a_payment_that_was_required_goes_through_under_the_same_key() {
    let (origin, gateway) = plain().await;
    check_released(&gateway, &origin, 402, Reply::json(402, r#"{"error":"insufficient_funds"}"#)).await;
}

#[tokio::test]
async fn h23_a_capacity_that_was_missing_is_no_reused_key() {
    let (origin, gateway) = plain().await;
    let body = r#"{"code":"ERR_NO_CAPACITY_AVAILABLE"}"#;
    let first = check_released(&gateway, &origin, 422, Reply::json(422, body)).await;
    assert_eq!(first.text(), body);
    let reused = gateway.send(&post("/orders").key("key-422-0").body("{}")).await;
    assert_problem(&reused, 422, "key-reused");
}

#[tokio::test]
async fn h24_an_error_that_says_it_had_no_effect_frees_the_key() {
    let (origin, gateway) = plain().await;
    for status in [500, 502, 503, 504] {
        let reply = Reply::json(status, "{}").header("Idempotency-Effect", "none");
        let first = check_released(&gateway, &origin, status, reply).await;
        assert_eq!(first.header("idempotency-effect"), None, "it is said to the gateway, not to the client");
    }
    check_released(&gateway, &origin, 503, Reply::json(503, "{}")).await;
}

#[tokio::test]
async fn h25_an_error_that_does_not_say_is_unknown_unless_the_route_says_otherwise() {
    for status in [500, 502, 504] {
        let error = Act::reply(Reply::json(status, r#"{"error":"oops"}"#));
        let request = post("/orders").key("k");

        let (origin, gateway) = plain().await;
        origin.next(error.clone());
        let (first, retry) = twice(&gateway, &request).await;
        assert_eq!((first.status, first.text()), (status, r#"{"error":"oops"}"#));
        assert_eq!(first.header("idempotency-status"), Some("unknown"));
        assert_problem(&retry, 409, "outcome-unknown");
        assert_eq!(origin.seen().len(), 1);

        let (origin, gateway) = with(|setup| setup.arg("--preset").arg("stripe")).await;
        origin.next(error.clone());
        let (first, retry) = twice(&gateway, &request).await;
        assert_eq!(first.status, status);
        assert_replay(&first, &retry);
        assert_eq!(origin.seen().len(), 1);

        for way_out in ["reexecute", "forward-key"] {
            let (origin, gateway) = configured(&format!("[[route]]\non_unknown = \"{way_out}\"\n")).await;
            origin.next(error.clone());
            let (first, retry) = twice(&gateway, &request).await;
            assert_eq!((first.status, retry.status), (status, 201), "{way_out}");
            assert_replay(&retry, &gateway.send(&request).await);
            let keys: Vec<String> = origin.seen().iter().map(|seen| seen.key().to_owned()).collect();
            assert_eq!(keys, ["k", "k"], "the origin is told the key each time");
        }
    }
}

#[tokio::test]
async fn h26_what_a_rate_limiter_or_a_login_refuses_does_not_use_up_the_key() {
    for preset in ["ietf", "stripe"] {
        let (origin, gateway) = with(|setup| setup.arg("--preset").arg(preset)).await;
        for status in [401, 403, 429] {
            let reply = Reply::json(status, "{}").header("Retry-After", "7").header("WWW-Authenticate", "Bearer");
            let first = check_released(&gateway, &origin, status, reply).await;
            assert_eq!((first.header("retry-after"), first.header("www-authenticate")), (Some("7"), Some("Bearer")));
        }
    }
}

#[tokio::test]
async fn h27_safe_methods_pass_and_are_never_kept() {
    let (origin, gateway) = plain().await;
    for method in ["GET", "HEAD", "OPTIONS"] {
        let before = origin.seen().len();
        let (first, second) = twice(&gateway, &request(method, "/orders").key("k")).await;
        for answer in [&first, &second] {
            assert_eq!((answer.status, answer.header("idempotency-status")), (200, Some("ignored")), "{method}");
            assert_eq!(answer.header("idempotent-replayed"), None);
        }
        assert_eq!(origin.seen().len(), before + 2, "{method}");
    }
    // And the key is as free as before.
    assert_eq!(gateway.send(&post("/orders").key("k")).await.header("idempotent-replayed"), None);
}

#[tokio::test]
async fn h28_patch_is_covered_and_put_and_delete_only_where_configured() {
    let write = |method: &str| request(method, "/orders/1").key(method).body("{}");
    let (origin, gateway) = plain().await;
    let (first, retry) = twice(&gateway, &write("PATCH")).await;
    assert_replay(&first, &retry);
    for method in ["PUT", "DELETE"] {
        let before = origin.effects();
        let (_, second) = twice(&gateway, &write(method)).await;
        assert_eq!(second.header("idempotency-status"), Some("ignored"));
        assert_eq!(origin.effects(), before + 2, "{method}");
    }

    let (origin, gateway) = configured("[[route]]\nmethods = [\"PUT\", \"DELETE\"]\n").await;
    for method in ["PUT", "DELETE"] {
        let (first, retry) = twice(&gateway, &write(method)).await;
        assert_replay(&first, &retry);
    }
    // One key on two methods is two operations.
    gateway.send(&request("DELETE", "/orders/1").key("PUT").body("{}")).await;
    assert_eq!(origin.effects(), 3);
}

#[tokio::test]
async fn h29_every_final_status_that_is_kept_is_replayed_as_it_was() {
    let (origin, gateway) = plain().await;
    let replies = [
        Reply::new(204),
        Reply::json(201, "{}").header("Location", "/orders/1").header("ETag", "\"v1\""),
        Reply::new(303).header("Location", "/orders/2"),
        Reply::json(202, r#"{"state":"queued"}"#).header("Location", "/jobs/3").header("Retry-After", "5"),
        Reply::new(200),
        Reply::new(307).header("Location", "https://elsewhere.example/orders"),
        Reply::json(299, "{}"),
    ];
    for (n, reply) in replies.into_iter().enumerate() {
        origin.next(Act::reply(reply));
        let (first, retry) = twice(&gateway, &post("/orders").key(&n.to_string())).await;
        assert_replay(&first, &retry);
    }
    assert_eq!(origin.seen().len(), 7);
}

#[tokio::test]
async fn h30_what_belongs_to_one_connection_or_one_moment_is_not_kept() {
    let (origin, gateway) = plain().await;
    let old = "Sun, 06 Nov 1994 08:49:37 GMT";
    let reply = Reply::json(201, "{}")
        .header("Date", old)
        .header("Set-Cookie", "a=1")
        .header("Set-Cookie", "b=2")
        .header("Connection", "X-Hop")
        .header("X-Hop", "secret of one hop")
        .header("Keep-Alive", "timeout=5")
        .header("Link", "</a>; rel=a")
        .header("Link", "</b>; rel=b")
        .chunked([Part::from("{"), Part::from("}")])
        .trailer("X-Sum", "1");
    origin.next(Act::reply(reply));
    let (first, retry) = twice(&gateway, &post("/orders").key("k")).await;
    assert_eq!(first.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!((first.all("link"), first.text()), (vec!["</a>; rel=a", "</b>; rel=b"], "{}"));
    for answer in [&first, &retry] {
        assert_eq!((answer.all("x-hop").len(), answer.all("keep-alive").len()), (0, 0), "{answer:?}");
    }
    assert_eq!((retry.all("set-cookie").len(), retry.trailers.len()), (0, 0), "{retry:?}");
    assert_ne!(retry.header("date").expect("a fresh date"), old);
    let without_cookies =
        Response { headers: first.headers.iter().filter(|(name, _)| name != "set-cookie").cloned().collect(), ..first };
    assert_replay(&without_cookies, &retry);
}

#[tokio::test]
async fn h31_a_replay_is_readable_for_a_client_that_takes_no_codings() {
    let (origin, gateway) = plain().await;
    origin.always(|seen| {
        let takes_gzip = seen.header("accept-encoding").is_some_and(|value| value.contains("gzip"));
        let reply = Reply::new(201).header("Vary", "Accept-Encoding");
        Act::reply(if takes_gzip { reply.header("Content-Encoding", "gzip").body("gz") } else { reply.body("plain") })
    });
    gateway.send(&post("/orders").key("k").header("Accept-Encoding", "gzip, br")).await;
    let retry = gateway.send(&post("/orders").key("k")).await;
    assert_eq!((retry.text(), retry.header("content-encoding")), ("plain", None));
    assert_eq!(origin.effects(), 1);
    // What is not covered is between the client and the origin.
    let passed = gateway.send(&get("/orders").header("Accept-Encoding", "gzip")).await;
    assert_eq!((passed.text(), passed.header("content-encoding")), ("gz", Some("gzip")));
}

#[tokio::test]
async fn h32_contents_are_kept_byte_for_byte_up_to_the_limit() {
    const LIMIT: usize = 1 << 20;
    let (origin, gateway) = plain().await;
    let bytes = |len: usize| (0..len).map(|n| u8::try_from(n * 7 % 256).unwrap()).collect::<Vec<u8>>();
    for (n, len) in [0, 1, 256, LIMIT - 1, LIMIT, LIMIT + 1, 3 * LIMIT].into_iter().enumerate() {
        let halves = [Part::Bytes(bytes(len)[..len / 2].to_vec()), Part::Bytes(bytes(len)[len / 2..].to_vec())];
        let halves: Vec<Part> =
            halves.into_iter().filter(|part| !matches!(part, Part::Bytes(b) if b.is_empty())).collect();
        let replies = [
            Reply::new(201).header("Content-Type", "image/png").body(bytes(len)),
            Reply::new(201).header("Content-Type", "image/png").chunked(halves.clone()),
            Reply::new(201).header("Content-Type", "image/png").until_close(halves),
        ];
        for (m, reply) in replies.into_iter().enumerate() {
            origin.next(Act::reply(reply));
            let (first, retry) = twice(&gateway, &post("/orders").key(&format!("{n}-{m}"))).await;
            assert!((first.status, &first.body) == (201, &bytes(len)), "{len} bytes, framing {m}: {first:?}");
            if len <= LIMIT {
                assert_replay(&first, &retry);
            } else {
                assert_problem(&retry, 409, "reply-gone");
                assert_eq!(retry.json()["original_status"], 201);
            }
        }
    }
    assert_eq!(origin.effects(), 21);
}

#[tokio::test]
async fn h33_a_stream_of_events_flows_and_is_remembered_as_omitted() {
    let (origin, gateway) = plain().await;
    let gate = Gate::new();
    let events = [Part::from("data: 1\n\n"), Part::Wait(gate.clone()), Part::from("data: 2\n\n")];
    origin.next(Act::reply(Reply::new(200).header("Content-Type", "text/event-stream").chunked(events)));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/events").key("k")).await;
    let (status, _) = conn.head().await.unwrap();
    assert_eq!(status, 200);
    conn.until(b"data: 1\n\n").await.expect("the first event, while the second is not there yet");
    gate.open();
    conn.until(b"data: 2\n\n").await.expect("the second event");
    assert_problem(&gateway.send(&post("/events").key("k")).await, 409, "reply-gone");
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn h33_an_upgrade_on_a_covered_request_is_never_half_kept() {
    let (origin, gateway) = plain().await;
    origin.always(|seen| match seen.header("upgrade") {
        Some(_) => {
            Act::reply(Reply::new(101).header("Connection", "Upgrade").header("Upgrade", "echo").raw([Part::Echo]))
        }
        None => Act::execute(),
    });
    let upgrade = post("/socket").key("k").header("Connection", "Upgrade").header("Upgrade", "echo");
    let first = gateway.send(&upgrade).await;
    let retry = gateway.send(&upgrade).await;
    assert_ne!(first.status, 101, "{first:?}");
    assert_ne!(retry.status, 101, "{retry:?}");
    assert!(origin.effects() <= 1);
}

#[tokio::test]
async fn h34_a_content_over_the_limit_is_refused_before_anything_happens() {
    let (origin, gateway) = configured("[[route]]\nrequest_body_bytes_max = \"10 KiB\"\n").await;
    let fits = post("/orders").key("fits").body([b'x'; 10 * 1024]);
    assert_eq!(gateway.send(&fits).await.status, 201);
    assert_eq!(
        gateway.send(&fits.clone().chunked(1000).key("x").without("Idempotency-Key").key("c")).await.status,
        201
    );
    assert_eq!(origin.effects(), 2);
    let over = post("/orders").key("over").body([b'x'; 10 * 1024 + 1]);
    for request in [over.clone(), over.chunked(1000)] {
        let mut conn = Conn::open(gateway.addr).await;
        let (head, content) = request.wire();
        conn.write(head).await;
        conn.write_lossy(content).await;
        assert_problem(&conn.response().await, 413, "request-too-large");
    }
    // Known from its length alone: the content need not be sent.
    let mut conn = Conn::open(gateway.addr).await;
    conn.write("POST /orders HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Length: 99999999\r\n\r\n").await;
    assert_problem(&conn.response().await, 413, "request-too-large");
    assert_eq!(origin.seen().len(), 2);
}

#[tokio::test]
async fn h35_expect_100_continue_neither_hangs_nor_reads_twice() {
    let (origin, gateway) = plain().await;
    let request = post("/orders").key("k").header("Expect", "100-continue");
    let (head, content) = request.wire();
    let mut answers = Vec::new();
    for _ in 0..2 {
        let mut conn = Conn::open(gateway.addr).await;
        conn.write(&head).await;
        // The content leaves only when it is asked for.
        conn.until(b"HTTP/1.1 100 Continue\r\n\r\n").await.expect("the gateway asks for the content");
        conn.write(&content).await;
        answers.push(conn.response().await);
        // And the connection is still in step.
        conn.send(&get("/health")).await;
        assert_eq!(conn.response().await.status, 200);
    }
    assert_replay(&answers[0], &answers[1]);
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn h36_a_key_that_nothing_looks_at_is_called_ignored() {
    let (origin, gateway) = configured("[[route]]\npath = \"/orders/{id}\"\n").await;
    let (_, second) = twice(&gateway, &post("/payments").key("k")).await;
    assert_eq!((second.status, second.header("idempotency-status"), origin.effects()), (201, Some("ignored"), 2));
    let (_, second) = twice(&gateway, &post("/payments")).await;
    assert_eq!((second.header("idempotency-status"), origin.effects()), (None, 4));
    let (first, retry) = twice(&gateway, &post("/orders/7").key("k")).await;
    assert_replay(&first, &retry);
}

#[tokio::test]
async fn h37_a_member_marks_replayed_objects_and_nothing_else() {
    let (origin, gateway) = configured("[[route]]\nreplay_member = \"idempotent_replay\"\n").await;
    let rows = [
        ("application/json", r#"{"id":1}"#, r#"{"id":1,"idempotent_replay":true}"#),
        ("application/json; charset=utf-8", "{}", r#"{"idempotent_replay":true}"#),
        ("application/json", "[1,2]", "[1,2]"),
        ("application/json", "null", "null"),
        ("text/plain", r#"{"id":1}"#, r#"{"id":1}"#),
        ("application/json", r#"{"id":9007199254740993}"#, r#"{"id":9007199254740993,"idempotent_replay":true}"#),
    ];
    for (n, (content_type, content, replayed)) in rows.into_iter().enumerate() {
        origin.next(Act::reply(Reply::new(201).header("Content-Type", content_type).body(content)));
        let (first, retry) = twice(&gateway, &post("/orders").key(&n.to_string())).await;
        assert_eq!(first.text(), content);
        assert_eq!((retry.header("idempotent-replayed"), retry.status), (Some("true"), 201));
        let same = retry.text() == replayed
            || (content_type.starts_with("application/json")
                && retry.json() == serde_json::from_str::<serde_json::Value>(replayed).unwrap()
                && retry.text().contains("9007199254740993") == replayed.contains("9007199254740993"));
        assert!(same, "{} is not {replayed}", retry.text());
    }
}

#[tokio::test]
async fn h37_the_marker_has_the_name_it_is_given() {
    let (_origin, gateway) = configured("[[route]]\nmarker = \"Idempotency-Replayed\"\n").await;
    let (first, retry) = twice(&gateway, &post("/orders").key("k")).await;
    assert_eq!((first.header("idempotency-replayed"), retry.header("idempotency-replayed")), (None, Some("true")));
    let bare = |answer: Response| Response {
        headers: answer.headers.into_iter().filter(|(name, _)| name != "idempotency-replayed").collect(),
        ..answer
    };
    assert_eq!(retry.header("idempotent-replayed"), None);
    assert_same_reply(&first, &bare(retry));
}
