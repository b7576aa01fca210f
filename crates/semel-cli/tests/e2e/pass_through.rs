//! What is not covered, or not of Semel's concern: it is as if the gateway were not there.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{
    Act, Conn, Gate, Gateway, Origin, Part, Reply, assert_replay, gateway, get, post, request, twice, until, within,
};

async fn plain() -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).start().await;
    (origin, gateway)
}

#[tokio::test]
async fn events_flow_as_they_come_and_end_with_the_client() {
    let (origin, gateway) = plain().await;
    let gates = [Gate::new(), Gate::new(), Gate::new()];
    let mut parts = Vec::new();
    for (n, gate) in gates.iter().enumerate() {
        parts.push(Part::Bytes(format!("data: {n}\n\n").into_bytes()));
        parts.push(Part::Wait(gate.clone()));
    }
    origin.next(Act::refuse(Reply::new(200).header("Content-Type", "text/event-stream").chunked(parts)));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&get("/events")).await;
    for (n, gate) in gates.iter().enumerate().take(2) {
        conn.until(format!("data: {n}\n\n").as_bytes()).await.expect("the event, before the next one is there");
        gate.open();
    }
    drop(conn);
    origin.hung_up(1).await;
}

#[tokio::test]
async fn a_long_upload_flows_while_it_arrives() {
    let (origin, gateway) = plain().await;
    let mut conn = Conn::open(gateway.addr).await;
    conn.write("PUT /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = vec![b'u'; 64 * 1024];
    for _ in 0..160 {
        conn.write(format!("{:x}\r\n", chunk.len())).await;
        conn.write(&chunk).await;
        conn.write("\r\n").await;
    }
    // Ten times what a covered request may have has passed by now without being gathered.
    assert!(gateway.resident_bytes() < 200 << 20);
    conn.write("0\r\n\r\n").await;
    assert_eq!(conn.response().await.status, 201);
    assert_eq!(origin.seen()[0].body.len(), 160 * chunk.len());
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (origin, gateway) = plain().await;
    let reply = || Reply::new(200).header("Trailer", "X-Sum").chunked([Part::from("ab")]).trailer("X-Sum", "42");
    for key in ["", "Idempotency-Key: \"t\"\r\n"] {
        origin.next(Act::reply(reply()));
        let mut conn = Conn::open(gateway.addr).await;
        conn.write(format!(
            "POST /t HTTP/1.1\r\nHost: a\r\n{key}TE: trailers\r\nTrailer: X-Mine\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nhi\r\n0\r\nX-Mine: 7\r\n\r\n"
        ))
        .await;
        let answer = conn.response().await;
        assert_eq!(answer.body, b"ab");
        assert_eq!(answer.trailers, [("x-sum".to_owned(), b"42".to_vec())], "with {key:?}: {answer:?}");
        let seen = origin.seen().pop().unwrap();
        let framed = String::from_utf8_lossy(&seen.framed).to_ascii_lowercase();
        assert!(framed.contains("x-mine: 7"), "with {key:?}: {seen:?}");
    }
}

#[tokio::test]
async fn a_websocket_passes() {
    let (origin, gateway) = plain().await;
    let upgraded = Reply::new(101)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        .raw([Part::Echo]);
    origin.next(Act::refuse(upgraded));
    let mut conn = Conn::open(gateway.addr).await;
    let ask = get("/socket")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    conn.send(&ask).await;
    let answer = conn.response().await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let frames: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for part in frames.chunks(9_999) {
        conn.write(part).await;
        assert!(within("the echo", conn.take(part.len())).await.unwrap() == part);
    }
}

#[tokio::test]
async fn the_origin_learns_where_a_request_came_from() {
    let (origin, gateway) = plain().await;
    gateway.send(&get("/a").header("Host", "shop.example")).await;
    gateway.send(&post("/a").key("k").header("Host", "shop.example")).await;
    for seen in origin.seen() {
        assert_eq!(seen.header("host"), Some("shop.example"));
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(seen.header("x-forwarded-host"), Some("shop.example"));
        assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
        assert!(seen.header("forwarded").is_some_and(|value| value.contains("for=127.0.0.1")), "{seen:?}");
        assert!(seen.header("via").is_some_and(|value| value.starts_with("1.1 ")), "{seen:?}");
    }
    gateway.send(&get("/b").header("X-Forwarded-For", "9.9.9.9").header("Via", "1.0 elder")).await;
    let seen = origin.seen().pop().unwrap();
    let lines = |name: &str| {
        let all: Vec<&str> =
            seen.headers.iter().filter(|(had, _)| had == name).map(|(_, value)| value.as_str()).collect();
        all.join(", ")
    };
    assert_eq!(lines("x-forwarded-for"), "9.9.9.9, 127.0.0.1");
    assert!(lines("via").starts_with("1.0 elder, 1.1 "), "{}", lines("via"));
}

#[tokio::test]
async fn what_is_for_one_hop_goes_no_further() {
    let (origin, gateway) = plain().await;
    for key in ["", "hop"] {
        let ask = post("/a")
            .header("Connection", "X-Hop, close")
            .header("X-Hop", "1")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Connection", "keep-alive")
            .header("X-End", "1");
        gateway.send(&if key.is_empty() { ask } else { ask.key(key) }).await;
        let seen = origin.seen().pop().unwrap();
        for name in ["x-hop", "keep-alive", "proxy-connection"] {
            assert_eq!(seen.header(name), None, "{seen:?}");
        }
        assert_eq!(seen.header("x-end"), Some("1"));
    }
}

#[tokio::test]
async fn head_and_not_modified_have_their_lengths_and_no_content() {
    let (origin, gateway) = plain().await;
    origin.next(Act::refuse(Reply::new(200).body("0123456789")));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&request("HEAD", "/a")).await;
    let answer = conn.response().await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("10")));
    origin.next(Act::refuse(Reply::new(304).header("ETag", "\"1\"")));
    conn.send(&get("/a").header("If-None-Match", "\"1\"")).await;
    let answer = conn.response().await;
    assert_eq!((answer.status, answer.header("etag")), (304, Some("\"1\"")));
    conn.send(&get("/a")).await;
    assert_eq!(conn.response().await.status, 200);
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_order() {
    let (origin, gateway) = plain().await;
    let mut conn = Conn::open(gateway.addr).await;
    let mut all = Vec::new();
    for n in 0..20 {
        let (head, content) = post("/a").key(&(n % 4).to_string()).body(format!("{}", n % 4)).wire();
        all.extend([head, content].concat());
    }
    // Cut at odd places, so that heads and contents arrive in pieces.
    for part in all.chunks(37) {
        conn.write(part).await;
    }
    let mut firsts = Vec::new();
    for n in 0..20 {
        let answer = conn.response().await;
        if n < 4 {
            firsts.push(answer);
        } else {
            assert_replay(&firsts[n % 4], &answer);
        }
    }
    assert_eq!(origin.effects(), 4);
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let (origin, gateway) = plain().await;
    origin.next(Act::refuse(Reply::new(200).chunked([Part::from("in "), Part::from("chunks")])));
    let mut conn = Conn::open(gateway.addr).await;
    conn.write("GET /old HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let answer = conn.response().await;
    assert_eq!((answer.status, answer.text(), answer.header("transfer-encoding")), (200, "in chunks", None));
    assert_eq!(conn.rest().await, b"");
}

#[tokio::test]
async fn http_2_with_prior_knowledge_is_covered_just_the_same() {
    let (origin, gateway) = plain().await;
    let stream = tokio::net::TcpStream::connect(gateway.addr).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let ask = |method: &str, key: Option<&str>, content: &'static str| {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}/orders?a=1", gateway.addr))
            .header("content-type", "application/json");
        let request = match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        };
        request.body(Full::new(Bytes::from_static(content.as_bytes()))).unwrap()
    };
    let mut send = async |request| {
        let answer = within("an answer", sender.send_request(request)).await.unwrap();
        let (head, body) = answer.into_parts();
        (head, body.collect().await.unwrap().to_bytes())
    };
    let (first, content) = send(ask("POST", Some("k"), "{\"amount\":1}")).await;
    let (retry, again) = send(ask("POST", Some("\"k\""), "{\"amount\":1}")).await;
    assert_eq!((first.status, retry.status, &content), (http::StatusCode::CREATED, http::StatusCode::CREATED, &again));
    assert_eq!(retry.headers["idempotent-replayed"], "true");
    let (refused, _) = send(ask("POST", Some("k"), "{}")).await;
    assert_eq!(refused.status, http::StatusCode::UNPROCESSABLE_ENTITY);
    let (passed, _) = send(ask("GET", None, "")).await;
    assert_eq!((passed.status, origin.effects(), origin.seen().len()), (http::StatusCode::OK, 1, 2));
    // The version of the wire is no part of the operation.
    let h1 = gateway.send(&post("/orders?a=1").key("k").header("Host", gateway.addr.to_string())).await;
    assert_eq!(h1.header("idempotent-replayed"), Some("true"), "{h1:?}");
    drop(sender);
    let _ = driving.await;
}

#[tokio::test]
async fn a_slow_head_is_given_up() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).config("[gateway]\nheader_read_max = \"300ms\"\n").start().await;
    let mut conn = Conn::open(gateway.addr).await;
    conn.write("POST /orders HTTP/1.1\r\nHost: a\r\nX-Slow").await;
    let end = conn.rest().await;
    assert!(end.is_empty() || end.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&end));
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn an_origin_that_is_slow_with_what_is_not_covered_is_given_up() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).config("[gateway]\nresponse_header_max = \"300ms\"\n").start().await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let answer = gateway.send(&request("PUT", "/a").body("x")).await;
    assert_eq!(answer.status, 504, "{answer:?}");
    gate.open();
}

#[tokio::test]
async fn an_interim_response_of_the_origin_reaches_who_expects_it() {
    let (origin, gateway) = plain().await;
    let mut conn = Conn::open(gateway.addr).await;
    conn.write("PUT /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    conn.until(b"HTTP/1.1 100 Continue\r\n\r\n").await.expect("somebody asks for the content");
    conn.write("hi").await;
    assert_eq!(conn.response().await.status, 201);
    assert_eq!(origin.seen()[0].body, b"hi");
}

#[tokio::test]
async fn the_process_is_healthy_and_ready_and_its_log_has_a_line_per_exchange() {
    let (_origin, gateway) = plain().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(crate::harness::send(gateway.admin, &get(path)).await.status, 200, "{path}");
        // The admin's paths are not the public's.
        assert_eq!(gateway.send(&get(path)).await.text(), r#"{"read":true}"#);
    }
    let before = gateway.log().lines().count();
    twice(&gateway, &post("/orders").key("k")).await;
    until("both exchanges are logged", async || gateway.log().lines().count() >= before + 2).await;
    let log = gateway.log();
    assert!(log.contains("completed") && log.contains("replay"), "{log}");
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_told_everything() {
    let (origin, gateway) = plain().await;
    let content = vec![b's'; 4 << 20];
    origin.next(Act::refuse(Reply::new(200).body(&content)));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&get("/big")).await;
    origin.arrived(1).await;
    let other = tokio::time::timeout(Duration::from_secs(10), gateway.send(&get("/small"))).await;
    assert_eq!(other.expect("nobody waits for a slow reader").status, 200);
    assert!(conn.response().await.body == content);
}
