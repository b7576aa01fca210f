//! The layer around an in-process handler, on a clock that the tests own.

#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]
use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use semel::{
    Body,
    effect::{Effect, Lost, NotSent},
    store::Store,
};
use tokio::sync::{Notify, Semaphore};
use tower::ServiceExt;
use world::{Seen, World, created, post, post_with, status};

mod world;

#[tokio::test]
async fn peers_16_34_36_a_retry_is_a_replay_and_another_request_is_refused() {
    let world = World::new("");
    let first = world.send(post("k"), created).await;
    assert_eq!((first.status.as_u16(), first.header("idempotent-replayed")), (201, None));
    let retry = world.send(post("\"k\""), created).await;
    assert_eq!(retry.status, 201);
    assert_eq!(retry.header("location"), Some("/charges/1"));
    retry.assert_replay_of("charged");
    assert_eq!(world.effects(), 1);
    world.send(post_with("k", Body::full("{\"amount\":101}")), created).await.assert_problem(422, "key-reused");
    assert_eq!(world.effects(), 1);
}

#[tokio::test]
async fn without_a_key_nothing_is_protected_and_it_says_so() {
    let world = World::new("");
    let request = || Request::post("http://h/charges").body(Body::full("x")).unwrap();
    for _ in 0..2 {
        assert_eq!(world.send(request(), created).await.header("idempotency-status"), Some("absent"));
    }
    assert_eq!(world.effects(), 2);
    let required = World::new("key_presence = \"required\"");
    required.send(request(), created).await.assert_problem(400, "key-missing");
    assert_eq!(required.effects(), 0);
}

#[tokio::test]
async fn what_a_response_says_of_the_effect_decides_what_a_retry_gets() {
    // (status, retry: its status and code, effects after it)
    let rows = [
        (200, 200, "", 1),
        (204, 204, "", 1),
        (303, 303, "", 1),
        (400, 400, "", 2),
        (402, 402, "", 2),
        (503, 503, "", 2),
        (500, 409, "outcome-unknown", 1),
        (504, 409, "outcome-unknown", 1),
    ];
    for (code, retry_status, retry_code, effects) in rows {
        let world = World::new("");
        let first = world.send(post("k"), status(code)).await;
        assert_eq!(first.status.as_u16(), code);
        let retry = world.send(post("k"), status(code)).await;
        assert_eq!(retry.status.as_u16(), retry_status, "after {code}");
        if !retry_code.is_empty() {
            retry.assert_problem(retry_status, retry_code);
        }
        assert_eq!(world.effects(), effects, "after {code}");
    }
}

#[tokio::test]
async fn a_handler_can_say_what_its_response_means() {
    async fn none(_: Request<Body>) -> Response<Body> {
        Response::builder().status(500).header("idempotency-effect", "none").body(Body::empty()).unwrap()
    }
    async fn happened(_: Request<Body>) -> Response<Body> {
        let mut response = Response::builder().status(409).body(Body::full("kept")).unwrap();
        response.extensions_mut().insert(Effect::Happened);
        response
    }
    let world = World::new("");
    let first = world.send(post("k"), none).await;
    assert_eq!((first.header("idempotency-status"), first.header("idempotency-effect")), (Some("released"), None));
    assert_eq!(world.send(post("k"), happened).await.status, 409);
    world.send(post("k"), created).await.assert_replay_of("kept");
    assert_eq!(world.effects(), 2);
}

#[tokio::test]
async fn peers_23_25_panics_errors_and_lost_connections_are_unknown() {
    #[allow(clippy::unused_async)]
    async fn panics(_: Request<Body>) -> Response<Body> {
        panic!("in the handler");
    }
    async fn lost(_: Request<Body>) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(Lost);
        response
    }
    let world = World::new("");
    world.send(post("k1"), panics).await.assert_problem(502, "outcome-unknown");
    world.send(post("k1"), created).await.assert_problem(409, "outcome-unknown");
    world.send(post("k2"), lost).await.assert_problem(502, "outcome-unknown");
    world.send(post("k2"), created).await.assert_problem(409, "outcome-unknown");
    assert_eq!(world.effects(), 2);
}

#[tokio::test]
async fn what_was_not_sent_is_free() {
    async fn not_sent(_: Request<Body>) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(NotSent);
        response
    }
    let world = World::new("");
    let first = world.send(post("k"), not_sent).await;
    first.assert_problem(502, "origin-unavailable");
    assert_eq!(first.header("retry-after"), Some("1"));
    assert_eq!(world.send(post("k"), created).await.status, 201);
}

#[tokio::test(start_paused = true)]
async fn an_execution_over_its_limit_is_unknown() {
    let world = World::new("execution_max = \"2s\"");
    let began = tokio::time::Instant::now();
    let first = world.send(post("k"), |_| std::future::pending()).await;
    first.assert_problem(504, "outcome-unknown");
    assert_eq!(began.elapsed().as_secs(), 2);
    world.send(post("k"), created).await.assert_problem(409, "outcome-unknown");
    assert_eq!(world.effects(), 1);
}

#[tokio::test]
async fn routes_that_declare_it_execute_an_unknown_outcome_again() {
    for on_unknown in ["reexecute", "forward-key"] {
        let world = World::new(&format!("on_unknown = \"{on_unknown}\""));
        world.send(post("k"), status(500)).await;
        assert_eq!(world.send(post("k"), created).await.status, 201);
        world.send(post("k"), created).await.assert_replay_of("charged");
        assert_eq!(world.effects(), 2);
    }
}

/// Answers a question with this, and charges otherwise.
fn asked(status: StatusCode, content: &'static str) -> impl Fn(Request<Body>) -> Ready<Response<Body>> + Clone {
    move |request| {
        let is_question = request.method() == http::Method::GET;
        let (status, content) = if is_question { (status, content) } else { (StatusCode::CREATED, "charged") };
        let mut response = Response::new(Body::full(content));
        *response.status_mut() = status;
        ready(response)
    }
}

#[tokio::test]
async fn k03_h25_a_service_is_asked_what_it_did() {
    let world = World::probing();
    world.send(post("k"), status(500)).await;
    world.send(post("k"), asked(StatusCode::OK, "found")).await.assert_replay_of("found");
    world.send(post("k"), created).await.assert_replay_of("found");
    // The handler was called to charge, and to be asked.
    assert_eq!(world.effects(), 2);
}

#[tokio::test]
async fn k03_absence_is_believed_when_nothing_can_arrive_any_more() {
    let world = World::probing();
    world.send(post("k"), status(500)).await;
    world.clock.advance(Duration::from_millis(69_999));
    let early = world.send(post("k"), asked(StatusCode::NOT_FOUND, "")).await;
    assert_eq!((early.status, early.header("retry-after")), (StatusCode::CONFLICT, Some("1")), "{early:?}");
    world.clock.advance(Duration::from_millis(1));
    let told = world.send(post("k"), asked(StatusCode::NOT_FOUND, "")).await;
    assert_eq!((told.status, told.header("idempotent-replayed")), (StatusCode::CREATED, None), "{told:?}");
    world.send(post("k"), created).await.assert_replay_of("charged");
}

#[tokio::test(start_paused = true)]
async fn k03_a_question_that_is_not_answered_or_panics_decides_nothing() {
    let world = World::probing();
    world.send(post("k"), status(500)).await;
    world.clock.advance(Duration::from_secs(1_000));
    for _ in 0..2 {
        let silent = world.send(post("k"), |_| std::future::pending()).await;
        assert_eq!((silent.status, silent.header("retry-after")), (StatusCode::CONFLICT, Some("1")), "{silent:?}");
    }
    let panics = |_| -> Ready<Response<Body>> { panic!("on purpose") };
    assert_eq!(world.send(post("k"), panics).await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_second_attempt_that_did_nothing_does_not_free_the_key() {
    let world = World::new("on_unknown = \"reexecute\"");
    world.send(post("k"), status(500)).await;
    // The first attempt may have charged, so another request under this key must not run however the second ended.
    assert_eq!(world.send(post("k"), status(422)).await.header("idempotency-status"), Some("unknown"));
    world.send(post_with("k", Body::full("{\"amount\":7}")), created).await.assert_problem(422, "key-reused");
    assert_eq!(world.effects(), 2);
}

#[tokio::test]
async fn a_concurrent_request_is_refused_at_once() {
    let world = World::new("");
    let (go, arrived) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (go_in, arrived_in) = (Arc::clone(&go), Arc::clone(&arrived));
    let held = move |request| {
        let (go, arrived) = (Arc::clone(&go_in), Arc::clone(&arrived_in));
        async move {
            arrived.notify_one();
            go.notified().await;
            created(request).await
        }
    };
    let first = tokio::spawn(world.service(held).oneshot(post("k")));
    arrived.notified().await;
    let concurrent = world.send(post("k"), created).await;
    concurrent.assert_problem(409, "in-flight");
    assert_eq!(concurrent.header("retry-after"), Some("1"));
    world.send(post_with("k", Body::full("other")), created).await.assert_problem(422, "key-reused");
    go.notify_one();
    assert_eq!(first.await.unwrap().unwrap().status(), 201);
    world.send(post("k"), created).await.assert_replay_of("charged");
    assert_eq!(world.effects(), 1);
}

#[tokio::test]
async fn peers_15_a_record_in_flight_is_never_taken_for_a_free_key() {
    let world = World::new("");
    let never = tokio::spawn(world.service(|_| std::future::pending()).oneshot(post("k")));
    while world.effects() == 0 {
        tokio::task::yield_now().await;
    }
    world.clock.advance(Duration::from_secs(35) - Duration::from_millis(1));
    world.send(post("k"), created).await.assert_problem(409, "in-flight");
    // The lease decides only what is said.
    world.clock.advance(Duration::from_millis(1));
    world.send(post("k"), created).await.assert_problem(409, "outcome-unknown");
    assert_eq!(world.effects(), 1);
    never.abort();
}

#[tokio::test]
async fn peers_19_what_happens_between_asking_and_claiming_is_seen_by_the_claim() {
    use semel::testkit::{Fault, FaultyStore};
    let store = Arc::new(FaultyStore::new(semel::store::memory::MemoryStore::new()).script([Fault::Delayed]));
    let world = World::on(store.clone());
    let second = tokio::spawn(world.service(created).oneshot(post("k")));
    store.until_held(1).await;
    assert_eq!(world.send(post("k"), created).await.status, 201);
    store.release();
    Seen::of(second.await.unwrap().unwrap()).await.assert_replay_of("charged");
    assert_eq!(world.effects(), 1);
}

#[derive(Debug)]
struct Revoked(std::sync::atomic::AtomicBool);

#[async_trait::async_trait]
impl semel::Authorize for Revoked {
    async fn authorize(&self, head: &http::request::Parts) -> Result<(), Response<Body>> {
        assert_eq!(head.headers["idempotency-key"], "k");
        if self.0.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Response::builder().status(401).body(Body::full("revoked")).unwrap());
        }
        Ok(())
    }
}

#[tokio::test]
async fn peers_47_a_revoked_principal_gets_no_kept_reply() {
    let mut world = World::new("");
    let revoked = Arc::new(Revoked(false.into()));
    world.semel = world.semel.authorize_replays(revoked.clone());
    world.send(post("k"), created).await;
    world.send(post("k"), created).await.assert_replay_of("charged");
    revoked.0.store(true, std::sync::atomic::Ordering::SeqCst);
    let refused = world.send(post("k"), created).await;
    assert_eq!((refused.status.as_u16(), refused.content.as_ref()), (401, &b"revoked"[..]));
    assert_eq!(world.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn peers_04_21_28_waiters_replay_give_up_and_never_starve_the_winner() {
    let world = World::new("wait_max = \"10s\"");
    let (go, arrived) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let (go_in, arrived_in) = (Arc::clone(&go), Arc::clone(&arrived));
    let held = move |request| {
        let (go, arrived) = (Arc::clone(&go_in), Arc::clone(&arrived_in));
        async move {
            arrived.notify_one();
            go.acquire().await.unwrap().forget();
            created(request).await
        }
    };
    let first = tokio::spawn(world.service(held).oneshot(post("k")));
    arrived.notified().await;
    // One whose client leaves, one whose time is over, and a crowd that is answered.
    let mut leaves = Box::pin(world.service(created).oneshot(post("k")));
    assert!(futures_util::poll!(&mut leaves).is_pending());
    drop(leaves);
    let began = tokio::time::Instant::now();
    world.send(post("k"), created).await.assert_problem(409, "in-flight");
    assert_eq!(began.elapsed().as_secs(), 10);
    let crowd: Vec<_> = (0..200).map(|_| tokio::spawn(world.service(created).oneshot(post("k")))).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    go.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap().status(), 201);
    let settled = tokio::time::Instant::now();
    for waiter in crowd {
        Seen::of(waiter.await.unwrap().unwrap()).await.assert_replay_of("charged");
    }
    assert!(settled.elapsed() < Duration::from_millis(50), "waiters wake when it settles, not at their time-out");
    assert_eq!(world.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_executes_what_the_winner_did_not() {
    let world = World::new("wait_max = \"10s\"");
    let slow_refusal = |_| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Response::builder().status(402).body(Body::empty()).unwrap()
    };
    let first = tokio::spawn(world.service(slow_refusal).oneshot(post("k")));
    let waiters: Vec<_> = (0..5).map(|_| tokio::spawn(world.service(created).oneshot(post("k")))).collect();
    assert_eq!(first.await.unwrap().unwrap().status(), 402);
    let mut fresh = 0;
    for waiter in waiters {
        let seen = Seen::of(waiter.await.unwrap().unwrap()).await;
        assert_eq!(seen.status, 201);
        fresh += usize::from(seen.header("idempotent-replayed").is_none());
    }
    assert_eq!((fresh, world.effects()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn k12_k13_k14_peers_10_what_a_failing_store_does_to_an_exchange() {
    use semel::testkit::Fault::{self, LostReply, None, Refused};
    /// (faults of the swaps in order; the first answer; effects; a retry at once; a retry after the lease)
    type Row = (&'static str, &'static [Fault], (u16, Option<&'static str>), usize, u16);
    let rows: &[Row] = &[
        ("no fault", &[], (201, Option::None), 1, 201),
        ("the answer to the claim is lost", &[LostReply], (201, Option::None), 1, 201),
        ("twice", &[LostReply, LostReply], (201, Option::None), 1, 201),
        ("the claim is refused twice", &[Refused, Refused], (201, Option::None), 1, 201),
        ("the answer to the settle is lost", &[None, LostReply], (201, Option::None), 1, 201),
        ("the settle is refused for a while", &[None, Refused, Refused, Refused], (201, Option::None), 1, 201),
        ("the store is down at the claim", &[Refused, Refused, Refused], (503, Option::None), 0, 201),
        (
            "the claim was applied and is never confirmed",
            &[LostReply, LostReply, LostReply],
            (503, Option::None),
            0,
            201,
        ),
        ("nor is it given back at once", &[LostReply, LostReply, LostReply, Refused], (503, Option::None), 0, 409),
    ];
    for (name, faults, (status, key_status), effects, retry_status) in rows {
        let world = World::faulty("", faults.iter().cloned());
        let first = world.send(post("k"), created).await;
        assert_eq!((first.status.as_u16(), first.header("idempotency-status")), (*status, *key_status), "{name}");
        if *status == 503 {
            assert_eq!(first.code(), "store-unavailable");
        }
        assert_eq!(world.effects(), *effects, "{name}");
        let retry = world.send(post("k"), created).await;
        assert_eq!(retry.status.as_u16(), *retry_status, "{name}");
        if *retry_status == 409 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(world.send(post("k"), created).await.status, 201, "{name}, later");
        }
        world.send(post("k"), created).await.assert_replay_of("charged");
        assert_eq!(world.effects(), 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn peers_23_a_store_that_dies_before_the_settle_leaves_an_unknown_outcome_never_a_free_key() {
    use semel::testkit::Fault;
    let script = std::iter::once(Fault::None).chain(std::iter::repeat_n(Fault::Refused, 200));
    let world = World::faulty("", script);
    let began = tokio::time::Instant::now();
    let first = world.send(post("k"), created).await;
    // The reply is true, and the caller waits a bounded time for it to be kept.
    assert_eq!((first.status.as_u16(), first.header("idempotency-status")), (201, Some("unkept")));
    assert_eq!(began.elapsed().as_secs(), 2);
    // The settle is tried until the lease is over, without the caller.
    assert_eq!(world.semel.drain(Duration::from_mins(2)).await, 0);
    assert!((30..=36).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let found = world.store.scan(semel::store::PhaseKind::InFlight, None, 10).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(world.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn k13_a_settle_that_succeeds_late_is_replayed() {
    use semel::testkit::Fault;
    let script = std::iter::once(Fault::None).chain(std::iter::repeat_n(Fault::Refused, 10));
    let world = World::faulty("", script);
    assert_eq!(world.send(post("k"), created).await.header("idempotency-status"), Some("unkept"));
    assert_eq!(world.semel.drain(Duration::from_mins(2)).await, 0);
    world.send(post("k"), created).await.assert_replay_of("charged");
}

#[tokio::test]
async fn peers_24_a_corrupt_record_is_refused_and_never_executed_over() {
    use semel::{store::StoreError, testkit::Fault};
    let world = World::faulty("", [Fault::Failed(StoreError::Corrupt("a flipped bit".to_owned()))]);
    world.send(post("k"), created).await.assert_problem(503, "store-unavailable");
    assert_eq!(world.effects(), 0);
}

/// Drops the client's future after every possible number of polls; whatever was begun is finished, and is done once.
#[tokio::test(start_paused = true)]
async fn peers_03_05_25_a_client_may_vanish_at_every_await_point() {
    let mut polls_to_finish = 0;
    for polls in 0.. {
        let world = World::new("");
        let many_awaits = |request: Request<Body>| async move {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            let _ = request.into_body().collect().await;
            created(Request::new(Body::empty())).await
        };
        let chunks = [
            Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"{\"amo"))),
            Ok(http_body::Frame::data(Bytes::from_static(b"unt\":100}"))),
        ];
        let content = Body::streaming(http_body_util::StreamBody::new(yielding(chunks)));
        let mut call = Box::pin(world.service(many_awaits).oneshot(post_with("k", content)));
        let mut finished = false;
        for _ in 0..polls {
            // The task of the execution runs between two polls of the client's.
            tokio::task::yield_now().await;
            if futures_util::poll!(&mut call).is_ready() {
                finished = true;
                break;
            }
        }
        drop(call);
        assert_eq!(world.semel.drain(Duration::from_mins(1)).await, 0);
        let effects = world.effects();
        assert!(effects <= 1);
        let retry = world.send(post("k"), created).await;
        assert_eq!(retry.status, 201, "after {polls} polls");
        assert_eq!(retry.header("idempotent-replayed").is_some(), effects == 1, "after {polls} polls");
        assert_eq!(world.effects(), 1, "after {polls} polls");
        if finished {
            break;
        }
        polls_to_finish = polls;
    }
    assert!(polls_to_finish > 4, "there were await points to vanish at: {polls_to_finish}");
}

/// A stream that is pending once before every item.
fn yielding<T: Unpin>(items: impl IntoIterator<Item = T>) -> impl futures_util::Stream<Item = T> {
    let mut items = items.into_iter().collect::<std::collections::VecDeque<_>>();
    let mut is_due = false;
    futures_util::stream::poll_fn(move |cx| {
        is_due = !is_due;
        if is_due {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(items.pop_front())
    })
}

#[tokio::test(start_paused = true)]
async fn peers_29_a_slow_upload_claims_nothing_and_ends() {
    let world = World::new("");
    let never = Body::streaming(http_body_util::StreamBody::new(futures_util::stream::pending::<
        Result<http_body::Frame<Bytes>, Infallible>,
    >()));
    let began = tokio::time::Instant::now();
    let slow = tokio::spawn(world.service(created).oneshot(post_with("k", never)));
    tokio::task::yield_now().await;
    assert_eq!(world.send(post("k"), created).await.status, 201);
    Seen::of(slow.await.unwrap().unwrap()).await.assert_problem(408, "request-timeout");
    assert_eq!(began.elapsed().as_secs(), 30);
    assert_eq!(world.effects(), 1);
}

#[tokio::test]
async fn peers_06_39_contents_that_are_too_large_or_broken_execute_nothing() {
    let world = World::new("request_body_bytes_max = \"10B\"");
    world.send(post_with("k", Body::full(vec![b'x'; 11])), created).await.assert_problem(413, "request-too-large");
    let chunks = |n: usize| (0..n).map(|_| Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"123"))));
    let streamed = Body::streaming(http_body_util::StreamBody::new(futures_util::stream::iter(chunks(4))));
    world.send(post_with("k", streamed), created).await.assert_problem(413, "request-too-large");
    let broken = chunks(1).chain([Err(std::io::Error::other("reset"))]);
    let broken =
        Body::streaming(http_body_util::StreamBody::new(futures_util::stream::iter(broken.collect::<Vec<_>>())));
    world.send(post_with("k", broken), created).await.assert_problem(400, "request-incomplete");
    assert_eq!(world.effects(), 0);
    assert!(world.store.scan(semel::store::PhaseKind::InFlight, None, 10).await.unwrap().is_empty());
    let at_limit = Body::full(vec![b'x'; 10]);
    assert_eq!(world.send(post_with("k", at_limit), created).await.status, 201);
}

#[tokio::test]
async fn peers_46_a_reply_over_its_limit_passes_whole_and_is_never_done_again() {
    let world = World::new("reply_body_bytes_max = \"10B\"");
    let long = |_| async {
        let frames = (0..5).map(|_| Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"1234"))));
        Response::new(Body::streaming(http_body_util::StreamBody::new(futures_util::stream::iter(frames))))
    };
    let first = world.send(post("k"), long).await;
    assert_eq!((first.status.as_u16(), first.content.len()), (200, 20));
    let retry = world.send(post("k"), long).await;
    retry.assert_problem(409, "reply-gone");
    assert!(String::from_utf8_lossy(&retry.content).contains("\"original_status\":200"));
    assert_eq!(world.effects(), 1);
}

#[tokio::test]
async fn a_stream_of_events_is_passed_on_and_remembered_as_omitted() {
    let world = World::new("");
    let events = |_| async {
        let first = Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"data: 1\n\n")));
        let endless =
            futures_util::StreamExt::chain(futures_util::stream::iter([first]), futures_util::stream::pending());
        let body = Body::streaming(http_body_util::StreamBody::new(endless));
        Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    };
    let response = world.service(events).oneshot(post("k")).await.unwrap();
    let frame = response.into_body().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: 1\n\n");
    world.send(post("k"), created).await.assert_problem(409, "reply-gone");
}

#[tokio::test]
async fn peers_31_32_repeated_headers_stay_and_those_of_one_connection_or_caller_go() {
    let world = World::new("headers_omitted = [\"Date\", \"Set-Cookie\", \"X-Trace\"]");
    let rich = |_| async {
        let mut response = Response::builder().status(201).header("connection", "x-hop").header("x-hop", "1");
        for (name, value) in [
            ("link", "</a>"),
            ("link", "</b>"),
            ("etag", "\"e\""),
            ("set-cookie", "s=1"),
            ("date", "d"),
            ("x-trace", "t"),
        ] {
            response = response.header(name, value);
        }
        response.body(Body::full("rich")).unwrap()
    };
    world.send(post("k"), rich).await;
    let retry = world.send(post("k"), rich).await;
    let links: Vec<_> = retry.headers.get_all("link").iter().collect();
    assert_eq!(links, ["</a>", "</b>"]);
    assert_eq!(retry.header("etag"), Some("\"e\""));
    for gone in ["set-cookie", "date", "x-trace", "connection", "x-hop"] {
        assert_eq!(retry.header(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn x10_the_reply_is_forgotten_after_a_day_and_that_it_was_done_after_a_month() {
    let world = World::new("");
    world.send(post("k"), created).await;
    world.clock.advance(Duration::from_hours(24) - Duration::from_secs(1));
    world.send(post("k"), created).await.assert_replay_of("charged");
    world.clock.advance(Duration::from_secs(1));
    world.send(post("k"), created).await.assert_problem(409, "reply-gone");
    world.clock.advance(Duration::from_hours(24 * 29));
    assert_eq!(world.send(post("k"), created).await.status, 201);
    assert_eq!(world.effects(), 2);
}

#[tokio::test]
async fn a_replay_can_carry_a_member() {
    let world = World::new("replay_member = \"idempotent_replay\"");
    let json = |_| async {
        Response::builder().header("content-type", "application/json").body(Body::full("{\"id\": 1}")).unwrap()
    };
    world.send(post("k"), json).await;
    world.send(post("k"), json).await.assert_replay_of("{\"idempotent_replay\":true,\"id\": 1}");
    world.send(post("k2"), created).await;
    world.send(post("k2"), created).await.assert_replay_of("charged");
}

#[tokio::test]
async fn peers_30_two_principals_never_share_a_reply() {
    let world = World::new("");
    let by = |who: &str| {
        let mut request = post("k");
        request.headers_mut().insert("authorization", who.parse().unwrap());
        request
    };
    let echo = |request: Request<Body>| async move {
        Response::new(Body::full(Bytes::copy_from_slice(request.headers()["authorization"].as_bytes())))
    };
    assert_eq!(world.send(by("Bearer a"), echo).await.content, "Bearer a");
    assert_eq!(world.send(by("Bearer b"), echo).await.content, "Bearer b");
    world.send(by("Bearer a"), echo).await.assert_replay_of("Bearer a");
    assert_eq!(world.effects(), 2);
}

#[tokio::test]
async fn a_client_cannot_speak_for_semel_or_the_origin() {
    let world = World::new("");
    let mut request = post("k");
    for name in ["idempotent-replayed", "idempotency-status", "idempotency-effect", "idempotency-warning"] {
        request.headers_mut().insert(name, "true".parse().unwrap());
    }
    let names = |request: Request<Body>| async move {
        let names: Vec<_> = request.headers().keys().map(|name| name.as_str().to_owned()).collect();
        Response::new(Body::full(names.join(",")))
    };
    assert_eq!(world.send(request, names).await.content, "idempotency-key,accept-encoding");
}

#[tokio::test]
async fn what_no_route_covers_passes_byte_for_byte() {
    let world = World::new("");
    let echo = |request: Request<Body>| async move { Response::new(request.into_body()) };
    let request = Request::get("http://h/x").header("idempotency-key", "k").body(Body::full("\x00\x01")).unwrap();
    let seen = world.send(request, echo).await;
    assert_eq!((seen.content.as_ref(), seen.header("idempotency-status")), (&b"\x00\x01"[..], Some("ignored")));
}
