//! What a client may send, and what it is told.

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

fn status(response: &str) -> &str {
    response.get(9..12).unwrap_or(response)
}

/// Answers with the request itself as the content.
async fn echo() -> ScriptedOrigin {
    ScriptedOrigin::start(|_, mut stream| async move {
        loop {
            let request = read_request(&mut stream).await;
            if request.is_empty() {
                return;
            }
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{request}", request.len());
            stream.write_all(answer.as_bytes()).await.expect("the gateway reads");
        }
    })
    .await
}

#[tokio::test]
async fn sc15_a_request_that_two_readers_could_frame_in_two_ways_is_refused() {
    let origin = ScriptedOrigin::answering(OK).await;
    let gateway = Gateway::start(&origin).await;
    let refused = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost : a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        "POST / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a/../b\r\n\r\n",
    ];
    for request in refused {
        // The second request must not be answered: the connection is of no more use.
        let response = gateway.exchange(format!("{request}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(status(&response), "400", "{request:?}: {response}");
        assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{request:?}: {response}");
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn sc15_a_bad_chunk_of_a_covered_request_is_refused_before_anything_is_claimed() {
    let origin = ScriptedOrigin::answering(OK).await;
    let gateway = Gateway::start(&origin).await;
    for chunk in ["zz\r\nhello\r\n0\r\n\r\n", "5\r\nhelloXX0\r\n\r\n", "-1\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\nhello\r\n"] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let response = gateway.exchange(request).await;
        assert_eq!(status(&response), "400", "{chunk:?}: {response}");
        assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{chunk:?}: {response}");
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn sc15_a_bad_chunk_where_no_route_covers_ends_the_connection() {
    let origin = ScriptedOrigin::answering(OK).await;
    let gateway = Gateway::start(&origin).await;
    for chunk in ["zz\r\nhello\r\n0\r\n\r\n", "5\r\nhelloXX0\r\n\r\n"] {
        let request = format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let response = gateway.exchange(request).await;
        assert_eq!(status(&response), "400", "{chunk:?}: {response}");
        assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{chunk:?}: {response}");
    }
}

#[tokio::test]
async fn trailers_arrive_with_and_without_a_key() {
    let origin = ScriptedOrigin::answering(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 6\r\n\r\n",
    )
    .await;
    let gateway = Gateway::start(&origin).await;
    for key in ["", "Idempotency-Key: k\r\n"] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{key}TE: trailers\r\nConnection: te, close\r\nContent-Length: 0\r\n\r\n"
        );
        let response = gateway.exchange(request).await;
        assert!(response.ends_with("2\r\nhi\r\n0\r\nx-sum: 6\r\n\r\n"), "{key}: {response}");
    }
}

#[tokio::test]
async fn peers_38_nothing_in_a_request_names_the_origin() {
    let origin = echo().await;
    let gateway = Gateway::start(&origin).await;
    let requests = [
        "GET http://169.254.169.254/latest HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n",
        "GET /latest HTTP/1.1\r\nHost: a\r\nX-Forwarded-Host: 169.254.169.254\r\nConnection: close\r\n\r\n",
        "GET /latest HTTP/1.1\r\nHost: a\r\nForwarded: host=169.254.169.254\r\nX-Original-URL: http://169.254.169.254/\r\nConnection: close\r\n\r\n",
    ];
    for request in requests {
        let response = gateway.exchange(request).await;
        assert_eq!(status(&response), "200", "{request:?}: {response}");
        assert!(response.contains("\r\n\r\nGET /latest HTTP/1.1\r\n"), "{response}");
    }
    let tunnel = gateway.exchange("CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n\r\n").await;
    assert_eq!(status(&tunnel), "501", "{tunnel}");
}

#[tokio::test]
async fn targets_are_forwarded_as_they_were_sent() {
    let origin = echo().await;
    let gateway = Gateway::start(&origin).await;
    let targets = [
        ("OPTIONS *", "OPTIONS *"),
        ("GET /a//b/../c%2f%41?x=%20&y", "GET /a//b/../c%2f%41?x=%20&y"),
        ("GET http://h/p?q", "GET /p?q"),
        ("GET http://h", "GET /"),
        ("GET http://h?q", "GET /?q"),
    ];
    for (sent, forwarded) in targets {
        let response = gateway.exchange(format!("{sent} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert!(response.contains(&format!("\r\n\r\n{forwarded} HTTP/1.1\r\n")), "{sent}: {response}");
    }
}

#[tokio::test]
async fn content_of_any_method_arrives() {
    let origin = echo().await;
    let gateway = Gateway::start(&origin).await;
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let head = format!("{method} /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
        let sized = gateway.exchange(format!("{head}Content-Length: 5\r\n\r\nhello")).await;
        assert!(sized.ends_with("\r\n\r\nhello"), "{method}: {sized}");
        let chunked =
            gateway.exchange(format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")).await;
        assert!(chunked.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{method}: {chunked}");
        let none = gateway.exchange(format!("{head}\r\n")).await;
        assert_eq!(status(&none), "200", "{method}: {none}");
    }
}

#[tokio::test]
async fn responses_without_content_keep_their_headers() {
    let cases = [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", "content-length: 1234"),
        ("GET", "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n", "etag: \"x\""),
        ("PUT", "HTTP/1.1 204 No Content\r\nx-a: 1\r\nx-a: 2\r\n\r\n", "x-a: 1\r\nx-a: 2"),
        ("DELETE", "HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\nHTTP/1.1 204 No Content\r\nx-b: 1\r\n\r\n", "x-b: 1"),
    ];
    for (method, answer, expected) in cases {
        let origin = ScriptedOrigin::answering(answer).await;
        let gateway = Gateway::start(&origin).await;
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        // On one connection, so that a length that is believed wrongly would be seen in the second response.
        let response = gateway
            .exchange(format!("{request}{}", request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")))
            .await;
        assert_eq!(response.matches(expected).count(), 2, "{method}: {response}");
        assert!(response.ends_with("\r\n\r\n"), "{method}: {response}");
    }
}

#[tokio::test]
async fn events_are_passed_on_one_by_one() {
    let origin = ScriptedOrigin::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        stream.write_all(head).await.expect("the gateway reads");
        for event in 1.. {
            // Only when the client asks for one more.
            if stream.write_all(format!("data: {event}\n\n").as_bytes()).await.is_err() {
                return;
            }
            if event == 3 {
                return;
            }
        }
    })
    .await;
    let gateway = Gateway::start(&origin).await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("the gateway reads");
    read_until(&mut stream, "data: 1\n\n").await;
    read_until(&mut stream, "data: 3\n\n").await;
}

#[tokio::test]
async fn a_client_that_expects_is_told_to_continue() {
    let origin = echo().await;
    let gateway = Gateway::start(&origin).await;
    for key in ["", "Idempotency-Key: k\r\n"] {
        let mut stream = gateway.connect().await;
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{key}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("the gateway reads");
        assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"hello").await.expect("the gateway reads");
        let response = read_until(&mut stream, "hello").await;
        assert_eq!(status(&response), "200");
        assert!(!response.contains("expect:"), "{response}");
    }
}

#[tokio::test]
async fn another_protocol_passes_both_ways() {
    let origin = ScriptedOrigin::start(|_, mut stream| async move {
        let request = read_request(&mut stream).await;
        let asks = request.contains("upgrade: echo\r\n") && request.contains("connection: upgrade\r\n");
        assert!(asks, "{request}");
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\nhello";
        stream.write_all(switch).await.expect("the gateway reads");
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.expect("an echo");
    })
    .await;
    let gateway = Gateway::start(&origin).await;
    let mut stream = gateway.connect().await;
    let request = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("the gateway reads");
    let response = read_until(&mut stream, "\r\n\r\nhello").await;
    assert_eq!(status(&response), "101");
    assert!(response.contains("upgrade: echo"), "{response}");
    stream.write_all(&[0x81, 0x00, b'\n']).await.expect("the gateway reads");
    let mut back = [0; 3];
    stream.read_exact(&mut back).await.expect("an echo");
    assert_eq!(back, [0x81, 0x00, b'\n']);
    // Draining waits for it, and it ends when the client ends it.
    gateway.closing.begin();
    gateway.connections.close();
    assert!(!gateway.connections.is_empty());
    drop(stream);
    tokio::time::timeout(SOON, gateway.connections.wait()).await.expect("the tunnel is closed");
}

#[tokio::test]
async fn a_covered_request_asks_for_no_other_protocol() {
    let origin = echo().await;
    let gateway = Gateway::start(&origin).await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nConnection: close, Upgrade\r\nUpgrade: echo\r\nContent-Length: 0\r\n\r\n";
    let response = gateway.exchange(request).await;
    assert_eq!(status(&response), "200");
    assert!(!response.contains("upgrade"), "{response}");
}

/// How long the gateway waits on a connection until it closes it, in seconds.
async fn closed_after(gateway: &Gateway, stream: &mut TcpStream) -> u64 {
    let before = tokio::time::Instant::now();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_hours(1), stream.read_to_end(&mut rest)).await;
    read.expect("the gateway closes").expect("without a reset");
    assert!(!gateway.closing.has_begun());
    before.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_no_request_is_disconnected() {
    let origin = ScriptedOrigin::answering(OK).await;
    let gateway = Gateway::start(&origin).await;
    for (sent, expected) in [("", 60..=61), ("GET / HT", 60..=181), ("GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ", 60..=181)]
    {
        let mut stream = gateway.connect().await;
        stream.write_all(sent.as_bytes()).await.expect("the gateway reads");
        let seconds = closed_after(&gateway, &mut stream).await;
        assert!(expected.contains(&seconds), "{sent:?}: {seconds}");
    }
    let mut stream = gateway.connect().await;
    for _ in 0..3 {
        // Less than the limit apart: kept.
        tokio::time::sleep(Duration::from_secs(50)).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("the gateway reads");
        assert_eq!(status(&read_until(&mut stream, "\r\n\r\nhi").await), "200");
    }
    let seconds = closed_after(&gateway, &mut stream).await;
    assert!((60..=121).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn a_response_that_takes_its_time_is_not_idle() {
    let origin = ScriptedOrigin::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n";
        stream.write_all(head).await.expect("the gateway reads");
        tokio::time::sleep(Duration::from_mins(30)).await;
        stream.write_all(b"data: 2\n\n").await.expect("the gateway reads");
    })
    .await;
    let gateway = Gateway::start(&origin).await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("the gateway reads");
    let seconds = closed_after_reading(&mut stream, "data: 2\n\n").await;
    assert_eq!(seconds, 1_800);
}

async fn closed_after_reading(stream: &mut TcpStream, end: &str) -> u64 {
    let before = tokio::time::Instant::now();
    let mut read = Vec::new();
    read_into(&mut read, stream, end).await;
    assert!(read.ends_with(end.as_bytes()), "{}", String::from_utf8_lossy(&read));
    before.elapsed().as_secs()
}

#[tokio::test]
async fn draining_finishes_what_runs_and_takes_nothing_more() {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let (go_on, gate) = tokio::sync::watch::channel(());
    let origin = ScriptedOrigin::start(move |_, mut stream| {
        let (arrived, mut gate) = (arrived.clone(), gate.clone());
        async move {
            read_request(&mut stream).await;
            arrived.send(()).expect("the test listens");
            gate.changed().await.expect("the test goes on");
            stream.write_all(OK.as_bytes()).await.expect("the gateway reads");
        }
    })
    .await;
    let gateway = Gateway::start(&origin).await;
    let _idle = gateway.connect().await;
    let mut running = gateway.connect().await;
    running.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.expect("the gateway reads");
    arrivals.recv().await.expect("it reaches the origin");
    gateway.closing.begin();
    gateway.connections.close();
    go_on.send(()).expect("the origin waits");
    let mut response = String::new();
    running.read_to_string(&mut response).await.expect("answered, then closed");
    assert_eq!(status(&response), "200", "{response}");
    tokio::time::timeout(SOON, gateway.connections.wait()).await.expect("every connection is closed");
    TcpStream::connect(gateway.address).await.expect_err("nobody listens any more");
}
