//! Guards in transactional mode: claim, guard, work and completion commit together, so what is rolled back holds nothing.

use std::collections::HashMap;

use futures_util::future::join_all;
use http::Request;
use semel::{
    Body,
    core::policy::{Policy, PolicyDocument, RouteSettings},
    effect::Lost,
};
use sqlx::Postgres;

use crate::world::{Database, Seen, World, reply};

on_both! {
    e10_q9_a_second_order_is_refused_and_a_retry_of_the_first_is_not
    e10_what_was_rolled_back_holds_nothing
    e10_two_keys_that_race_on_one_guard_have_one_effect
    e10_an_effect_elsewhere_that_may_have_happened_holds_its_guard
    e10_a_guard_by_reference_is_read_in_the_transaction
    q9_a_second_attempt_holds_the_guard_of_the_first
    e11_a_response_that_shows_the_end_of_an_order_frees_its_guard
}

const POLICY: &str = r#"
    [[route]]
    path = "/quotes"
    methods = ["POST"]
    key = "member"
    key_member = "/id"
    key_presence = "required"
    [[route]]
    path = "/orders"
    methods = ["POST"]
    key = "member"
    key_member = "/id"
    key_presence = "required"
    resource = "/orders/{key}"
    wait_max = "30s"
    [route.guard]
    name = "open-order"
    values = ["/account"]
    [[route.release]]
    path = "/orders/{key}"
    member = "/status"
    held_while = ["open"]
    [[route]]
    path = "/quoted"
    methods = ["POST"]
    key = "member"
    key_member = "/id"
    key_presence = "required"
    on_unknown = "reexecute"
    [route.guard]
    name = "quoted-order"
    values = [{ path = "/quotes", key = "/quote", member = "/amount" }]
"#;

fn policy() -> Policy {
    let mut document: HashMap<String, Vec<toml::Spanned<RouteSettings>>> = toml::from_str(POLICY).unwrap();
    PolicyDocument { routes: document.remove("route").unwrap(), ..PolicyDocument::default() }
        .build()
        .unwrap_or_else(|error| panic!("{error}"))
}

async fn world<D: Database>() -> World<D> {
    let mut world = World::<D>::new("").await;
    world.semel = D::transactional(policy(), world.pool.clone());
    world
}

/// Another handle, as another process would have.
async fn another<D: Database>(world: &World<D>) -> World<D> {
    let mut another = world.another("").await;
    another.semel = D::transactional(policy(), another.pool.clone());
    another
}

fn request(method: &str, path: &str, content: String) -> Request<Body> {
    let request = Request::builder().method(method).uri(format!("http://h{path}"));
    request.header("content-type", "application/json").body(Body::full(content)).unwrap()
}

/// Sends an order of `account` whose work answers with `status`.
async fn order<D: Database>(world: &World<D>, id: &str, account: usize, status: u16) -> Seen {
    let content = format!("{{\"id\":\"{id}\",\"account\":{account}}}");
    let work = request("POST", "/orders", content);
    world.send(work, move |_, _| Box::pin(async move { Ok(reply(status, "ordered")) })).await
}

#[track_caller]
fn assert_held(seen: &Seen, by: &str) {
    seen.assert_problem(409, "guard-held");
    let problem: serde_json::Value = serde_json::from_slice(&seen.content).unwrap();
    assert_eq!((problem["conflicting_resource"].as_str(), seen.header("location")), (Some(by), Some(by)));
}

async fn e10_q9_a_second_order_is_refused_and_a_retry_of_the_first_is_not<D: Database>() {
    let world = world::<D>().await;
    order(&world, "a", 1, 201).await.assert_own(201, None);
    for _ in 0..2 {
        assert_held(&order(&world, "b", 1, 201).await, "/orders/a");
    }
    // Identity comes before the guard.
    order(&world, "a", 1, 201).await.assert_replay_of("ordered");
    order(&world, "c", 2, 201).await.assert_own(201, None);
    // Two orders and their two guards: who was refused left nothing.
    assert_eq!((world.effects().await, world.records().await), (2, 4));
}

async fn e10_what_was_rolled_back_holds_nothing<D: Database>() {
    let world = world::<D>().await;
    for status in [402, 500] {
        order(&world, "a", 1, status).await.assert_own(status, Some("released"));
        assert_eq!((world.effects().await, world.records().await), (0, 0), "after {status}");
    }
    order(&world, "b", 1, 201).await.assert_own(201, None);
    assert_held(&order(&world, "a", 1, 201).await, "/orders/b");
}

async fn e10_two_keys_that_race_on_one_guard_have_one_effect<D: Database>() {
    let here = world::<D>().await;
    let there = another(&here).await;
    race(&here, &there).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e10_c10_keys_race_on_one_guard_at_every_isolation() {
    use semel::transaction::Isolation;
    for isolation in [Isolation::RepeatableRead, Isolation::Serializable] {
        let mut here = world::<Postgres>().await;
        let mut there = another(&here).await;
        for world in [&mut here, &mut there] {
            world.semel = Postgres::transactional(policy(), world.pool.clone()).with_isolation(isolation);
        }
        race(&here, &there).await;
    }
}

/// Four keys on one guard, from two handles.
async fn race<D: Database>(here: &World<D>, there: &World<D>) {
    for round in 0..15_usize {
        // In odd rounds two of the four are rolled back, and whoever waited for them goes on.
        let status = |n: usize| if round % 2 == 1 && n < 2 { 402 } else { 201 };
        let ids = ["a", "b", "c", "d"].map(|id| format!("{id}{round}"));
        let asked = ids.iter().enumerate().map(|(n, id)| {
            let world = if n % 2 == 0 { here } else { there };
            order(world, id, round, status(n))
        });
        let seen = join_all(asked).await;
        let made: Vec<_> = ids.iter().zip(&seen).filter(|(_, seen)| seen.status == 201).collect();
        assert_eq!(made.len(), 1, "{seen:?}");
        let by = format!("/orders/{}", made[0].0);
        for seen in seen.iter().filter(|seen| seen.status == 409) {
            assert_held(seen, &by);
        }
        assert!(seen.iter().all(|seen| [201, 402, 409].contains(&seen.status.as_u16())), "{seen:?}");
        assert_eq!(here.effects().await, i64::try_from(round + 1).unwrap());
    }
}

async fn e10_an_effect_elsewhere_that_may_have_happened_holds_its_guard<D: Database>() {
    let world = world::<D>().await;
    let content = r#"{"id":"a","account":1}"#.to_owned();
    let lost = world.send(request("POST", "/orders", content), |_, _| {
        Box::pin(async {
            let mut response = reply(502, "");
            response.extensions_mut().insert(Lost);
            Ok(response)
        })
    });
    lost.await.assert_problem(502, "outcome-unknown");
    assert_held(&order(&world, "b", 1, 201).await, "/orders/a");
    order(&world, "a", 1, 201).await.assert_problem(409, "outcome-unknown");
    assert_eq!(world.effects().await, 0);
}

async fn e10_a_guard_by_reference_is_read_in_the_transaction<D: Database>() {
    let world = world::<D>().await;
    let quoted = async |id: &str, quote: &str| {
        let content = format!("{{\"id\":\"{id}\",\"quote\":\"{quote}\"}}");
        world.send(request("POST", "/quoted", content), |_, _| Box::pin(async { Ok(reply(201, "ordered")) })).await
    };
    quoted("a", "q1").await.assert_problem(400, "guard-incomplete");
    assert_eq!((world.effects().await, world.records().await), (0, 0), "nothing was executed or claimed");
    for (quote, kept) in [("q1", r#"{"amount":100}"#), ("q2", r#"{"amount":"1e2"}"#), ("q3", r#"{"amount":7}"#)] {
        let content = format!("{{\"id\":\"{quote}\"}}");
        let work = request("POST", "/quotes", content);
        let seen = world.send(work, move |_, _| Box::pin(async move { Ok(reply(201, kept)) })).await;
        seen.assert_own(201, None);
    }
    quoted("a", "q1").await.assert_own(201, None);
    quoted("b", "q2").await.assert_problem(409, "guard-held");
    quoted("a", "q1").await.assert_replay_of("ordered");
    quoted("c", "q3").await.assert_own(201, None);
}

async fn q9_a_second_attempt_holds_the_guard_of_the_first<D: Database>() {
    let world = world::<D>().await;
    let content = || r#"{"id":"a","quote":"q1"}"#.to_owned();
    let quote = request("POST", "/quotes", r#"{"id":"q1"}"#.to_owned());
    world.send(quote, |_, _| Box::pin(async { Ok(reply(201, r#"{"amount":100}"#)) })).await.assert_own(201, None);
    let lost = world.send(request("POST", "/quoted", content()), |_, _| {
        Box::pin(async {
            let mut response = reply(502, "");
            response.extensions_mut().insert(Lost);
            Ok(response)
        })
    });
    lost.await.assert_problem(502, "outcome-unknown");
    let quoted = async |content: String| {
        world.send(request("POST", "/quoted", content), |_, _| Box::pin(async { Ok(reply(201, "ordered")) })).await
    };
    let other = || r#"{"id":"b","quote":"q1"}"#.to_owned();
    quoted(other()).await.assert_problem(409, "guard-held");
    quoted(content()).await.assert_own(201, None);
    quoted(content()).await.assert_replay_of("ordered");
    quoted(other()).await.assert_problem(409, "guard-held");
}

async fn e11_a_response_that_shows_the_end_of_an_order_frees_its_guard<D: Database>() {
    let (mut world, clock) = World::<D>::with_clock("").await;
    world.semel = D::transactional(policy(), world.pool.clone()).with_clock(clock.clone());
    order(&world, "a", 1, 201).await.assert_own(201, None);
    clock.advance(std::time::Duration::from_secs(1));
    let look = async |status: &'static str| {
        let seen = world.send(request("GET", "/orders/a", String::new()), move |_, _| {
            Box::pin(async move {
                let mut response = reply(200, status);
                let json = http::HeaderValue::from_static("application/json");
                response.headers_mut().insert("content-type", json);
                Ok(response)
            })
        });
        assert_eq!(seen.await.content, status);
    };
    look(r#"{"status":"open"}"#).await;
    assert_held(&order(&world, "b", 1, 201).await, "/orders/a");
    look(r#"{"status":"done"}"#).await;
    order(&world, "b", 1, 201).await.assert_own(201, None);
}
