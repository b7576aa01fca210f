//! Guards and what releases them, on every database: the release is seen by whoever comes after the response.

use std::time::Duration;

use http::{Request, Response};
use semel::{
    Body,
    core::policy::{Policy, PolicyDocument, RouteSettings},
};

use crate::world::{Database, Seen, World};

on_both! {
    e10_e11_q7_a_guard_is_held_until_a_response_shows_that_its_owner_is_over
    q18_a_slot_is_filled_anew_once_what_filled_it_is_dead
    e10_a_reply_that_a_guard_needs_is_read_in_the_same_transaction
}

const ROUTES: &str = r#"
path = "/orders"
methods = ["POST"]
key = "member"
key_member = "/id"
key_presence = "required"
resource = "/orders/{key}"
guard = { name = "one-per-account", values = ["/account"] }
release = [{ path = "/orders/{key}", member = "/status", held_while = ["created"] }]
"#;

const SLOT: &str = r#"
path = "/slots/{id}"
methods = ["POST"]
key = "operation"
fingerprint = "members"
fingerprint_members = ["/value"]
release = [{ path = "/slots/{id}", member = "/status", dead_when = ["free"], after = "1m" }]
"#;

const BY_QUOTE: &str = r#"
path = "/orders"
methods = ["POST"]
key = "member"
key_member = "/id"
key_presence = "required"
guard = { name = "one-per-amount", values = [{ path = "/quotes", key = "/quote", member = "/amount" }] }
"#;

const QUOTES: &str = r#"
path = "/quotes"
methods = ["POST"]
key = "member"
key_member = "/id"
"#;

fn policy(routes: &[&str]) -> Policy {
    let route = |text: &&str| toml::Spanned::new(0..0, toml::from_str::<RouteSettings>(text).unwrap());
    PolicyDocument { routes: routes.iter().map(route).collect(), ..PolicyDocument::default() }.build().unwrap()
}

struct Shop<D: Database> {
    world: World<D>,
    clock: std::sync::Arc<semel::store::SimulatedClock>,
}

impl<D: Database> Shop<D> {
    async fn new(routes: &[&str]) -> Shop<D> {
        let (mut world, clock) = World::<D>::with_clock("").await;
        world.semel = D::transactional(policy(routes), world.pool.clone()).with_clock(clock.clone());
        Shop { world, clock }
    }

    /// Sends a request to a work that answers with `reply`; what comes next is later.
    async fn send(&self, method: &str, path: &str, content: String, reply: &'static str) -> Seen {
        let request =
            Request::builder().method(method).uri(format!("http://h{path}")).body(Body::full(content)).unwrap();
        let seen = self
            .world
            .send(request, move |_, _| {
                Box::pin(async move {
                    Ok(Response::builder().header("content-type", "application/json").body(reply.into()).unwrap())
                })
            })
            .await;
        self.clock.advance(Duration::from_secs(1));
        seen
    }

    async fn order(&self, id: &str, account: u32) -> Seen {
        self.send("POST", "/orders", format!(r#"{{"id":"{id}","account":{account}}}"#), "{}").await
    }
}

async fn e10_e11_q7_a_guard_is_held_until_a_response_shows_that_its_owner_is_over<D: Database>() {
    let shop = Shop::<D>::new(&[ROUTES]).await;
    assert_eq!(shop.order("a", 1).await.status, 200);
    assert_eq!(shop.order("b", 2).await.status, 200);
    let held = shop.order("c", 1).await;
    held.assert_problem(409, "guard-held");
    assert_eq!(held.header("location"), Some("/orders/a"));
    for (path, content) in [("/orders/a", r#"{"status":"created"}"#), ("/orders/b", r#"{"status":"paid"}"#)] {
        assert_eq!(shop.send("GET", path, String::new(), content).await.content, content);
        shop.order("c", 1).await.assert_problem(409, "guard-held");
    }
    shop.order("a", 1).await.assert_replay_of("{}");
    shop.send("GET", "/orders/a", String::new(), r#"{"status":"paid"}"#).await;
    assert_eq!(shop.order("c", 1).await.status, 200);
    assert_eq!(shop.order("d", 1).await.header("location"), Some("/orders/c"));
    // Three orders, and three looks.
    assert_eq!(shop.world.effects().await, 6);
}

async fn q18_a_slot_is_filled_anew_once_what_filled_it_is_dead<D: Database>() {
    let shop = Shop::<D>::new(&[SLOT]).await;
    let fill = async |value: &str| shop.send("POST", "/slots/1", format!(r#"{{"value":"{value}"}}"#), "{}").await;
    let look = async |content| shop.send("GET", "/slots/1", String::new(), content).await;
    assert_eq!(fill("a").await.status, 200);
    look(r#"{"status":"free"}"#).await;
    fill("b").await.assert_problem(409, "slot-taken");
    shop.clock.advance(Duration::from_mins(1));
    look(r#"{"status":"taken"}"#).await;
    fill("b").await.assert_problem(409, "slot-taken");
    look(r#"{"status":"free"}"#).await;
    assert_eq!(fill("b").await.status, 200);
    fill("a").await.assert_problem(409, "slot-taken");
}

async fn e10_a_reply_that_a_guard_needs_is_read_in_the_same_transaction<D: Database>() {
    let shop = Shop::<D>::new(&[BY_QUOTE, QUOTES]).await;
    let quote = async |id: &str, reply| shop.send("POST", "/quotes", format!(r#"{{"id":"{id}"}}"#), reply).await;
    let order = async |id: &str, quote: &str| {
        shop.send("POST", "/orders", format!(r#"{{"id":"{id}","quote":"{quote}"}}"#), "{}").await
    };
    order("a", "q").await.assert_problem(400, "guard-incomplete");
    quote("q", r#"{"amount":"100"}"#).await;
    quote("r", r#"{"amount":1e2}"#).await;
    quote("s", r#"{"amount":7}"#).await;
    assert_eq!(order("a", "q").await.status, 200);
    order("b", "r").await.assert_problem(409, "guard-held");
    assert_eq!(order("b", "s").await.status, 200);
    assert_eq!(shop.world.effects().await, 5);
}
