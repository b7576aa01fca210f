//! What the forwarder says it knows, against what the origin saw.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use semel::{
    Body,
    effect::{Lost, NotSent},
};
use tokio::sync::{Notify, mpsc};
use tower::Service as _;

use super::*;
use crate::{
    config::Scheme,
    serve::{headers::Peer, pool::Age},
};

/// What the forwarder says of a request that has no response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Said {
    Replied(StatusCode),
    NotSent(StatusCode),
    Lost(StatusCode),
}

fn said(response: &Response<Body>) -> Said {
    let marks = response.extensions();
    match (marks.get::<NotSent>(), marks.get::<Lost>()) {
        (None, None) => Said::Replied(response.status()),
        (Some(NotSent), None) => Said::NotSent(response.status()),
        (None, Some(Lost)) => Said::Lost(response.status()),
        (Some(NotSent), Some(Lost)) => panic!("both"),
    }
}

fn post(content: &'static str) -> Request<Body> {
    let request = Request::post("/charges").header("host", "a").header("content-length", content.len());
    request.body(Body::full(content)).expect("a request")
}

async fn forward(forwarding: &Forwarding, request: Request<Body>) -> Response<Body> {
    let mut forwarder = forwarding.of(Peer::new(([127, 0, 0, 1], 1).into(), Scheme::Http));
    let Ok(response) = tokio::time::timeout(SOON * 100, forwarder.call(request)).await.expect("an answer");
    response
}

async fn content(response: Response<Body>) -> String {
    let collected = response.into_body().collect().await.expect("whole content");
    String::from_utf8(collected.to_bytes().to_vec()).expect("text")
}

#[tokio::test]
async fn a_refused_connection_is_not_sent() {
    let address = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    // Nobody listens there any more.
    let response = forward(&forwarding_to(address, TaskTracker::new()), post("1")).await;
    assert_eq!(said(&response), Said::NotSent(StatusCode::BAD_GATEWAY));
    assert!(content(response).await.contains("origin-unavailable"));
}

#[tokio::test]
async fn an_origin_of_http_1_0_is_told_in_our_own_version() {
    let origin = ScriptedOrigin::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.0 201 Created\r\ncontent-length: 2\r\n\r\nhi").await.expect("the gateway reads");
    })
    .await;
    let response = forward(&origin.forwarding(), post("1")).await;
    assert_eq!((response.status(), response.version()), (StatusCode::CREATED, http::Version::HTTP_11));
    assert_eq!(content(response).await, "hi");
}

#[tokio::test]
async fn an_origin_that_closes_without_reading_may_have_read() {
    let origin = ScriptedOrigin::start(|_, stream| async move {
        stream.readable().await.expect("the request arrives");
        // Dropped with unread bytes: the connection is reset.
    })
    .await;
    let response = forward(&origin.forwarding(), post("1")).await;
    assert_eq!(said(&response), Said::Lost(StatusCode::BAD_GATEWAY));
    assert!(content(response).await.contains("outcome-unknown"));
    assert_eq!(origin.connections(), 1, "it was not sent again");
}

#[tokio::test]
async fn an_origin_that_executes_and_closes_is_lost_and_never_sent_again() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let origin = ScriptedOrigin::start(move |_, mut stream| {
        let log = Arc::clone(&log);
        async move {
            let request = read_request(&mut stream).await;
            log.lock().push(request);
        }
    })
    .await;
    let response = forward(&origin.forwarding(), post("1")).await;
    assert_eq!(said(&response), Said::Lost(StatusCode::BAD_GATEWAY));
    assert_eq!(seen.lock().len(), 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_origin_closed_is_not_used_again() {
    let closed = Arc::new(Notify::new());
    let told = Arc::clone(&closed);
    let origin = ScriptedOrigin::start(move |_, mut stream| {
        let told = Arc::clone(&told);
        async move {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nhi").await.expect("the gateway reads");
            drop(stream);
            told.notify_one();
        }
    })
    .await;
    let forwarding = origin.forwarding();
    for requests in 1..=3 {
        let response = forward(&forwarding, post("1")).await;
        assert_eq!(said(&response), Said::Replied(StatusCode::CREATED));
        assert_eq!(content(response).await, "hi");
        closed.notified().await;
        assert_eq!(origin.connections(), requests);
    }
}

#[tokio::test]
async fn an_idle_connection_is_asked_whether_it_lives() {
    let (close, closing) = tokio::sync::watch::channel(());
    let closed = Arc::new(Notify::new());
    let told = Arc::clone(&closed);
    let origin = ScriptedOrigin::start(move |_, stream| {
        let (mut closing, told) = (closing.clone(), Arc::clone(&told));
        async move {
            closing.changed().await.expect("the test closes");
            drop(stream);
            told.notify_one();
        }
    })
    .await;
    let address = format!("http://{}", origin.address).parse().expect("an origin");
    let pool = Pool::new(address, Transport::Plain, 64, Duration::from_secs(4), Duration::from_secs(5));
    let (mut connection, age) = pool.take().await.expect("it accepts");
    assert_eq!(age, Age::Fresh);
    // Nothing to do yet, but from now on hyper takes a request.
    std::future::poll_fn(|cx| Poll::Ready(connection.driver.poll(cx))).await.is_pending().then_some(()).expect("open");
    pool.put(connection);
    let (connection, age) = pool.take().await.expect("it is kept");
    assert_eq!(age, Age::Reused);
    pool.put(connection);
    close.send(()).expect("the origin listens");
    closed.notified().await;
    let (_, age) = pool.take().await.expect("it accepts");
    assert_eq!(age, Age::Fresh);
}

#[tokio::test]
async fn a_connection_that_is_closed_under_a_request_is_lost_even_if_it_was_kept() {
    let origin = ScriptedOrigin::start(|number, mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nhi").await.expect("the gateway reads");
        // Reads one byte of the next request, on the same connection, and closes.
        assert_eq!(number, 0);
        stream.read_u8().await.expect("a second request");
    })
    .await;
    let forwarding = origin.forwarding();
    assert_eq!(said(&forward(&forwarding, post("1")).await), Said::Replied(StatusCode::CREATED));
    assert_eq!(said(&forward(&forwarding, post("2")).await), Said::Lost(StatusCode::BAD_GATEWAY));
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn what_an_origin_says_unasked_is_not_taken_for_an_answer() {
    let said_it = Arc::new(Notify::new());
    let told = Arc::clone(&said_it);
    let origin = ScriptedOrigin::start(move |number, mut stream| {
        let told = Arc::clone(&told);
        async move {
            read_request(&mut stream).await;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}");
            stream.write_all(answer.as_bytes()).await.expect("the gateway reads");
            if number == 0 {
                // Later, as a time-out notice of an idle connection would be.
                told.notified().await;
                stream.write_all(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n").await.expect("written");
                told.notify_one();
            }
            read_request(&mut stream).await;
        }
    })
    .await;
    let forwarding = origin.forwarding();
    assert_eq!(content(forward(&forwarding, post("1")).await).await, "0");
    said_it.notify_one();
    tokio::task::yield_now().await;
    said_it.notified().await;
    assert_eq!(content(forward(&forwarding, post("2")).await).await, "1");
}

#[tokio::test]
async fn exchanges_that_are_over_share_one_connection() {
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
    ];
    for answer in answers {
        let origin = ScriptedOrigin::answering(answer).await;
        let forwarding = origin.forwarding();
        for _ in 0..5 {
            content(forward(&forwarding, post("1")).await).await;
        }
        assert_eq!(origin.connections(), 1, "{answer:?}");
    }
    // Without a length the content ends with the connection.
    let origin = ScriptedOrigin::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end").await.expect("the gateway reads");
    })
    .await;
    let forwarding = origin.forwarding();
    for _ in 0..3 {
        assert_eq!(content(forward(&forwarding, post("1")).await).await, "until the end");
    }
    assert_eq!(origin.connections(), 3);
}

#[tokio::test]
async fn a_streamed_response_gives_its_connection_back() {
    let go_on = Arc::new(Notify::new());
    let gate = Arc::clone(&go_on);
    let origin = ScriptedOrigin::start(move |_, mut stream| {
        let gate = Arc::clone(&gate);
        async move {
            while !read_request(&mut stream).await.is_empty() {
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\none\r\n";
                stream.write_all(head).await.expect("the gateway reads");
                gate.notified().await;
                stream.write_all(b"3\r\ntwo\r\n0\r\nx-sum: 6\r\n\r\n").await.expect("the gateway reads");
            }
        }
    })
    .await;
    let forwarding = origin.forwarding();
    for _ in 0..3 {
        let mut body = forward(&forwarding, post("1")).await.into_body();
        let frame = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.data_ref().expect("data"), "one", "passed on before the rest is there");
        go_on.notify_one();
        let rest = body.collect().await.expect("the rest");
        assert_eq!(rest.trailers().expect("trailers")["x-sum"], "6");
        assert_eq!(rest.to_bytes(), "two");
        // The task that reads the connection hears of the end in its next turn.
        tokio::task::yield_now().await;
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_response_that_breaks_off_is_never_taken_for_whole() {
    let large = "x".repeat(200_000);
    let small = String::from("x");
    for sent in [small, large] {
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{sent}", sent.len() + 1);
        let origin = ScriptedOrigin::start(move |_, mut stream| {
            let text = text.clone();
            async move {
                read_request(&mut stream).await;
                stream.write_all(text.as_bytes()).await.expect("the gateway reads");
            }
        })
        .await;
        let response = forward(&origin.forwarding(), post("1")).await;
        match said(&response) {
            // Broke off before anything was passed on.
            Said::Lost(StatusCode::BAD_GATEWAY) => {}
            Said::Replied(StatusCode::OK) => {
                response.into_body().collect().await.expect_err("the content is not whole");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Content of an uncovered request, piece by piece.
struct Pieces(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_is_silent_for_too_long_is_lost_where_no_route_covers() {
    let origin = ScriptedOrigin::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let before = tokio::time::Instant::now();
    let uncovered = post("1").map(|_| Body::streaming(http_body_util::Full::new(Bytes::from_static(b"1"))));
    let response = forward(&origin.forwarding(), uncovered).await;
    assert_eq!(said(&response), Said::Lost(StatusCode::GATEWAY_TIMEOUT));
    assert_eq!(before.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_takes_long_is_not_silence() {
    let origin = ScriptedOrigin::answering("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
    let (pieces, body) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(45)).await;
            pieces.send(Bytes::from_static(b"piece")).expect("the forwarder reads");
        }
    });
    let request = Request::put("/file").header("host", "a").body(Body::streaming(Pieces(body))).expect("a request");
    let response = forward(&origin.forwarding(), request).await;
    assert_eq!(said(&response), Said::Replied(StatusCode::OK));
}

#[tokio::test(start_paused = true)]
async fn the_layer_limits_what_it_covers() {
    let origin = ScriptedOrigin::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        tokio::time::sleep(Duration::from_mins(10)).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("the gateway reads");
    })
    .await;
    let response = forward(&origin.forwarding(), post("1")).await;
    assert_eq!(said(&response), Said::Replied(StatusCode::OK));
}

#[tokio::test(start_paused = true)]
async fn no_more_connections_than_allowed_are_in_use() {
    let origin = ScriptedOrigin::start(|_, stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let address = format!("http://{}", origin.address).parse::<Origin>().expect("an origin");
    let pool = Pool::new(address, Transport::Plain, 1, Duration::from_secs(4), Duration::from_secs(5));
    let forwarding = Forwarding::new(pool, terms(), TaskTracker::new());
    let mut first = forwarding.of(Peer::new(([127, 0, 0, 1], 1).into(), Scheme::Http));
    let first = tokio::spawn(async move { first.call(post("1")).await });
    tokio::task::yield_now().await;
    // Nothing of the second left, and it says so once connect_max is over.
    assert_eq!(said(&forward(&forwarding, post("2")).await), Said::NotSent(StatusCode::BAD_GATEWAY));
    assert_eq!(origin.connections(), 1);
    first.abort();
}
