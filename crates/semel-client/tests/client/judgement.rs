//! One key, one content, and an outcome always.

use proptest::prelude::*;
use semel_client::{Key, Outcome, Preset, SendError, State};

use crate::world::{ORDER, Step, Still, World, YONNE_OK, answer, etherfuse, payment, yonne};

/// Every attempt had the same key and the same bytes.
fn one_key(world: &World) {
    let attempts = world.api.attempts();
    assert!(attempts.windows(2).all(|two| two[0] == two[1]), "{attempts:#?}");
    assert!(world.api.is_done(), "not all that was scripted was asked for");
}

#[tokio::test]
async fn a_success_is_fresh() {
    let world = World::of([answer(201, r#"{"id":"p"}"#)]);
    let outcome = world.client().send(&payment().build().unwrap()).await.unwrap();
    let Outcome::Fresh(reply) = outcome else { panic!("{outcome:?}") };
    assert_eq!((reply.status.as_u16(), &reply.content[..]), (201, &br#"{"id":"p"}"#[..]));
    assert_eq!(world.api.asked_for_policy(), 0, "what succeeds at once asks for nothing else");
    assert_eq!(world.api.seen()[0].headers["x-api-key"], "yonne_live_1234");
}

#[tokio::test]
async fn e6_e24_e30_l02_the_same_key_until_it_is_known() {
    let in_flight = Step::Answer(409, &[("retry-after", "3")], r#"{"code":"in-flight"}"#.to_owned());
    let world = World::of([
        Step::Refuse,
        Step::Reset,
        Step::Hang,
        Step::BreakOff(200),
        answer(500, ""),
        in_flight,
        answer(201, "{}"),
    ]);
    let outcome = world.client().send(&payment().build().unwrap()).await.unwrap();
    assert!(matches!(outcome, Outcome::Fresh(_)), "{outcome:?}");
    one_key(&world);
    assert_eq!(world.api.attempts().len(), 7);
    // Doubling pauses at the dice's most; the time-out of the third attempt; Retry-After before the sixth pause.
    assert_eq!(world.still.slept_ms(), [500, 1000, 30_000, 2000, 4000, 8000, 3000 + 16_000]);
}

#[tokio::test]
async fn l02_full_jitter_may_be_nothing_but_not_less_than_asked_for() {
    let busy = Step::Answer(503, &[("retry-after", "2")], String::new());
    let world = World { still: Still::low(), ..World::of([Step::Reset, busy, answer(200, "")]) };
    world.client().send(&payment().build().unwrap()).await.unwrap();
    assert_eq!(world.still.slept_ms(), [0, 2000]);
}

#[tokio::test]
async fn l15_e26_e27_a_replay_is_told_as_one() {
    for replay in [
        Step::Answer(200, &[("idempotent-replayed", "true")], YONNE_OK.to_owned()),
        answer(200, r#"{"success":true,"idempotent_replay":true}"#),
    ] {
        let world = World::of([Step::Reset, replay]);
        let outcome = world.client().send(&yonne().build().unwrap()).await.unwrap();
        assert!(matches!(outcome, Outcome::Replayed(_)), "{outcome:?}");
        one_key(&world);
    }
}

#[tokio::test]
async fn e31_q3_l03_what_must_be_mended_is_not_retried() {
    for (status, content, why, resumable) in [
        (400, r#"{"success":false,"error":"Missing coordinates"}"#, "refused", false),
        (401, r#"{"success":false,"error":"Unauthorized"}"#, "unauthorized", true),
        (403, "", "unauthorized", true),
        (422, r#"{"code":"key-reused"}"#, "key-reused", false),
    ] {
        let world = World::of([answer(status, content)]);
        let outcome = world.client().send(&yonne().build().unwrap()).await.unwrap();
        let Outcome::Rejected(no) = outcome else { panic!("{status}: {outcome:?}") };
        assert_eq!((no.why.as_str(), no.resumable), (why, resumable), "{status}");
        assert_eq!(no.reply.unwrap().status.as_u16(), status);
        assert_eq!(world.api.seen().len(), 1);
    }
}

#[tokio::test]
async fn q2_l04_top_up_then_resume_with_the_same_key() {
    for (status, content, why) in [
        (402, r#"{"success":false,"error":"Insufficient Funds"}"#, "insufficient-funds"),
        (422, r#"{"success":false,"error":"ERR_NO_CAPACITY_AVAILABLE"}"#, "no-capacity"),
    ] {
        let world = World::of([answer(status, content)]);
        let client = world.client();
        let outcome = client.send(&yonne().build().unwrap()).await.unwrap();
        let Outcome::Rejected(no) = outcome else { panic!("{outcome:?}") };
        assert_eq!((no.why.as_str(), no.resumable), (why, true));
        // Not by itself.
        assert!(client.resume().await.unwrap().is_empty());
        world.api.then([answer(200, YONNE_OK)]);
        let outcome = client.resume_operation("order-7").await.unwrap();
        assert!(matches!(outcome, Outcome::Fresh(_)), "{outcome:?}");
        one_key(&world);
    }
}

#[tokio::test]
async fn e3_e7_e8_l05_l07_a_conflict_about_the_own_id_is_looked_up() {
    let exists = "An order with this transaction ID already exists";
    let world = World::of([
        Step::Reset,
        answer(409, exists),
        answer(503, ""),
        answer(200, &format!(r#"{{"orderId":"{ORDER}","status":"created"}}"#)),
    ]);
    let outcome = world.client().send(&etherfuse().build().unwrap()).await.unwrap();
    let Outcome::AlreadyExists(resource) = outcome else { panic!("{outcome:?}") };
    assert_eq!(resource.path, format!("/ramp/order/{ORDER}"));
    assert!(resource.reply.content.starts_with(b"{\"orderId\""));
    one_key(&world);
    let reads = world.api.seen();
    assert_eq!((reads[2].method.as_str(), reads[2].path.as_str()), ("GET", resource.path.as_str()));
    assert_eq!(reads[2].headers["x-api-key"], "yonne_live_1234");
}

#[tokio::test]
async fn q7_l06_a_guards_conflict_is_no_success_and_its_404_no_order() {
    let guard = "A pending onramp order already exists for this bank account and amount";
    let world = World::of([answer(409, guard), answer(404, r#"{"error":"Order not found"}"#)]);
    let outcome = world.client().send(&etherfuse().build().unwrap()).await.unwrap();
    let Outcome::Rejected(no) = outcome else { panic!("{outcome:?}") };
    assert_eq!((no.why.as_str(), no.resumable), ("guard-held", true));
    // The guard's words, not those of the look-up.
    assert_eq!(no.reply.unwrap().content, guard.as_bytes());
}

#[tokio::test]
async fn q10_exists_but_not_to_be_seen_is_still_running() {
    let exists = || answer(409, "An order with this transaction ID already exists");
    let order = answer(200, &format!(r#"{{"orderId":"{ORDER}"}}"#));
    let world = World::of([Step::Hang, exists(), answer(404, "{}"), exists(), order]);
    let outcome = world.client().send(&etherfuse().build().unwrap()).await.unwrap();
    assert!(matches!(outcome, Outcome::AlreadyExists(_)), "{outcome:?}");
    one_key(&world);
}

#[tokio::test]
async fn l08_an_unknown_outcome_is_not_retried_and_stays_open() {
    let unknown = || answer(409, r#"{"code":"outcome-unknown"}"#);
    let world = World::of([unknown()]);
    let client = world.client();
    let outcome = client.send(&payment().build().unwrap()).await.unwrap();
    let Outcome::Unresolved(open) = outcome else { panic!("{outcome:?}") };
    assert_eq!(open.why, "outcome-unknown");
    assert_eq!(client.journal().list().await.unwrap()[0].state, State::Unresolved);
    // Asked again only when somebody asks; by then an operator has settled it.
    world.api.then([Step::Answer(201, &[("idempotent-replayed", "true")], String::new())]);
    let resumed = client.resume().await.unwrap();
    assert!(matches!(&resumed[..], [(id, Ok(Outcome::Replayed(_)))] if id == "payment-7"), "{resumed:?}");
    one_key(&world);
}

#[tokio::test]
async fn l10_the_budget_ends_and_the_operation_is_open_not_failed() {
    let world = World::of([Step::Reset, Step::Reset]);
    let client = world.client().attempts_max(2);
    let intent = payment().build().unwrap();
    let outcome = client.send(&intent).await.unwrap();
    let Outcome::Unresolved(open) = outcome else { panic!("{outcome:?}") };
    assert_eq!(open.why, "attempts-over");
    // A fresh intent for the same action keeps the key of the first.
    world.api.then([answer(201, "{}")]);
    let again = payment().build().unwrap();
    assert_ne!(again.key(), intent.key());
    assert!(matches!(client.send(&again).await.unwrap(), Outcome::Fresh(_)));
    one_key(&world);
}

#[tokio::test]
async fn l10_nothing_is_sent_after_the_published_window() {
    let world = World::of([Step::Reset]);
    world.api.publish(
        r#"{"version":1,"routes":[{"path":"/*","methods":["POST"],"retry":{"on_expired":"execute"},
            "times_seconds":{"replay_for":60,"remember_for":60,"unknown_for":60}}]}"#,
    );
    let client = world.client().attempts_max(1);
    let intent = payment().build().unwrap();
    client.send(&intent).await.unwrap();
    // Sixty seconds less half of them as a margin.
    world.still.advance_ms(30_001);
    let outcome = client.send(&intent).await.unwrap();
    let Outcome::Unresolved(open) = outcome else { panic!("{outcome:?}") };
    assert_eq!(open.why, "window-over");
    assert_eq!(world.api.attempts().len(), 1);
    assert_eq!(world.api.asked_for_policy(), 1);
}

#[tokio::test]
async fn l10_a_machine_that_slept_through_the_window_sends_nothing() {
    let world = World::of([Step::Reset]);
    let still = world.still.clone();
    // The lid is closed after the first attempt, for a day.
    world.api.before(move || still.advance_ms(86_400_000));
    let outcome = world.client().send(&payment().build().unwrap()).await.unwrap();
    let Outcome::Unresolved(open) = outcome else { panic!("{outcome:?}") };
    assert!(["window-over", "elapsed-over"].contains(&open.why.as_str()), "{}", open.why);
    assert_eq!(world.api.attempts().len(), 1);
}

#[tokio::test]
async fn l10_a_pause_that_outlasts_the_window_is_followed_by_nothing() {
    let world = World::of([Step::Reset]);
    world.still.oversleep_ms(86_400_000);
    let outcome = world.client().send(&payment().build().unwrap()).await.unwrap();
    assert!(matches!(outcome, Outcome::Unresolved(_)), "{outcome:?}");
    assert_eq!(world.api.attempts().len(), 1);
}

#[tokio::test]
async fn l18_only_what_was_not_sent_did_not_happen() {
    for (step, happened_not) in
        [(Step::Refuse, true), (Step::Reset, false), (Step::Hang, false), (Step::BreakOff(400), false)]
    {
        let world = World::of([step.clone()]);
        let outcome = world.client().attempts_max(1).send(&payment().build().unwrap()).await.unwrap();
        match outcome {
            Outcome::Rejected(no) => assert!(happened_not && no.resumable && no.reply.is_none(), "{step:?}: {no:?}"),
            Outcome::Unresolved(open) => assert!(!happened_not, "{step:?}: {open:?}"),
            Outcome::Fresh(_) | Outcome::Replayed(_) | Outcome::AlreadyExists(_) => panic!("{step:?}"),
        }
    }
}

#[tokio::test]
async fn l12_one_id_is_one_operation() {
    let world = World::of([answer(200, YONNE_OK)]);
    let client = world.client();
    let first = client.send(&yonne().build().unwrap()).await.unwrap();
    let second = client.send(&yonne().build().unwrap()).await.unwrap();
    assert_eq!(first.reply().unwrap().content, second.reply().unwrap().content);
    assert!(matches!(second, Outcome::Fresh(_)));
    drop(client);
    let third = world.client().send(&yonne().build().unwrap()).await.unwrap();
    assert_eq!(third.reply().unwrap().content, YONNE_OK.as_bytes());
    assert_eq!(world.api.seen().len(), 1);
}

#[tokio::test]
async fn l13_q8_an_edited_content_is_refused_until_it_is_known_that_nothing_happened() {
    let world = World::of([Step::Reset]);
    let client = world.client().attempts_max(1);
    client.send(&payment().build().unwrap()).await.unwrap();
    let edited = payment().json(r#"{"amount": 8}"#).build().unwrap();
    assert!(matches!(client.send(&edited).await, Err(SendError::Edited(id)) if id == "payment-7"));
    let elsewhere = semel_client::Intent::post("https://api.example/refunds").operation("payment-7");
    let elsewhere = elsewhere.json(r#"{"amount": 7}"#).build().unwrap();
    assert!(matches!(client.send(&elsewhere).await, Err(SendError::Edited(_))));
    let another_key = payment().key(Key::v4()).build().unwrap();
    assert!(matches!(client.send(&another_key).await, Err(SendError::AnotherKey(_))));
    assert_eq!(world.api.attempts().len(), 1);
}

#[tokio::test]
async fn e31_after_a_refusal_a_corrected_content_is_a_new_operation() {
    let world = World::of([answer(400, ""), answer(201, "{}")]);
    let client = world.client();
    client.send(&payment().build().unwrap()).await.unwrap();
    let corrected = payment().json(r#"{"amount": 8}"#).build().unwrap();
    assert!(matches!(client.send(&corrected).await.unwrap(), Outcome::Fresh(_)));
    let sent = world.api.attempts();
    assert_ne!(sent[0].key, sent[1].key);
    assert_eq!(&sent[1].content[..], br#"{"amount": 8}"#);
}

#[tokio::test]
async fn e47_q12_l14_one_key_for_two_operations_is_refused() {
    let world = World::of([answer(201, "{}")]);
    let client = world.client();
    let key = Key::v7();
    client.send(&payment().key(key.clone()).build().unwrap()).await.unwrap();
    let second = payment().operation("payment-8").key(key).build().unwrap();
    assert!(matches!(client.send(&second).await, Err(SendError::KeyTaken(by)) if by == "payment-7"));
    assert_eq!(world.api.seen().len(), 1);
}

#[tokio::test]
async fn q23_other_credentials_cannot_go_on_with_what_may_have_happened() {
    let world = World::of([Step::Reset]);
    let client = world.client().attempts_max(1);
    client.send(&payment().build().unwrap()).await.unwrap();
    drop(client);
    let rotated = || world.client().secret_header("x-api-key", "yonne_live_5678").unwrap();
    assert!(matches!(rotated().send(&payment().build().unwrap()).await, Err(SendError::OtherCredentials(_))));
    assert_eq!(world.api.seen().len(), 1);
    // Those that it was sent with can.
    world.api.then([answer(201, "{}")]);
    assert!(world.client().send(&payment().build().unwrap()).await.unwrap().happened());
}

#[tokio::test]
async fn e31_corrected_credentials_go_on_with_what_did_not_happen() {
    let world = World::of([answer(401, ""), answer(201, "{}")]);
    let client = world.client();
    client.send(&payment().build().unwrap()).await.unwrap();
    drop(client);
    let corrected = world.client().secret_header("x-api-key", "yonne_live_5678").unwrap();
    assert!(corrected.send(&payment().build().unwrap()).await.unwrap().happened());
    one_key_but_for_credentials(&world);
}

fn one_key_but_for_credentials(world: &World) {
    let attempts = world.api.attempts();
    assert!(attempts.windows(2).all(|two| two[0].key == two[1].key && two[0].content == two[1].content));
}

#[tokio::test]
async fn only_one_of_two_who_send_the_same_at_the_same_time_sends() {
    let (there, go) = (std::sync::Arc::default(), std::sync::Arc::<tokio::sync::Notify>::default());
    let world = World::of([Step::Gate(std::sync::Arc::clone(&there), std::sync::Arc::clone(&go), 201)]);
    // A real clock: nobody's time runs out here.
    let client = world.client().surroundings(semel_client::System);
    let sending = |client: semel_client::Client<_>| async move { client.send(&payment().build().unwrap()).await };
    let first = tokio::spawn(sending(client.clone()));
    there.notified().await;
    let second = tokio::spawn(sending(client.clone()));
    go.notify_one();
    assert!(first.await.unwrap().unwrap().happened());
    assert!(second.await.unwrap().unwrap().happened());
    assert_eq!(world.api.seen().len(), 1);
}

fn steps() -> impl Strategy<Value = Step> {
    let statuses = prop::sample::select(vec![200u16, 201, 303, 400, 401, 402, 404, 409, 422, 429, 500, 503]);
    let contents = prop::sample::select(vec![
        "",
        YONNE_OK,
        r#"{"success":false}"#,
        r#"{"code":"in-flight"}"#,
        r#"{"code":"key-reused"}"#,
        r#"{"code":"outcome-unknown"}"#,
        "An order with this transaction ID already exists",
        "A pending onramp order already exists for this bank account and amount",
        r#"{"orderId":"11111111-1111-4111-8111-111111111111"}"#,
        r#"{"orderId":"22222222-2222-4222-8222-222222222222"}"#,
    ]);
    prop_oneof![
        1 => Just(Step::Refuse),
        2 => Just(Step::Reset),
        1 => Just(Step::Hang),
        1 => prop::sample::select(vec![200u16, 409]).prop_map(Step::BreakOff),
        6 => (statuses, contents).prop_map(|(status, content)| answer(status, content)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever an API does: one key and one content, an outcome always, and success only with proof; across resumptions.
    #[test]
    fn l02_l18_whatever_an_api_does(
        preset in prop::sample::select(Preset::ALL.to_vec()),
        script in prop::collection::vec(steps(), 1..14),
        resumptions in 0usize..3,
    ) {
        let mut script = script;
        // Enough for everybody's last attempts.
        script.extend(std::iter::repeat_n(Step::Reset, 64));
        let world = World::of(script.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let client = world.client();
            let intent = match preset {
                Preset::Etherfuse => etherfuse(),
                Preset::Ietf | Preset::Stripe | Preset::Credicorp | Preset::Yonne | Preset::Nora => yonne().preset(preset),
            };
            let mut outcome = client.send(&intent.build().unwrap()).await.unwrap();
            for _ in 0..resumptions {
                outcome = client.resume_operation(client.journal().list().await.unwrap()[0].intent.operation()).await.unwrap();
            }
            let seen = world.api.seen();
            let attempts = world.api.attempts();
            assert!(attempts.windows(2).all(|two| two[0] == two[1]));
            if outcome.happened() {
                let proof = seen.iter().zip(&script).any(|(seen, step)| match step {
                    Step::Answer(status, _, content) if seen.method == http::Method::POST => {
                        (200..300).contains(status) && (preset != Preset::Yonne || content == YONNE_OK)
                    }
                    Step::Answer(200..300, _, content) => content.contains(ORDER),
                    Step::Answer(..) | Step::BreakOff(_) | Step::Reset | Step::Refuse | Step::Hang | Step::Gate(..) => false,
                });
                assert!(proof, "{outcome:?} without proof: {seen:#?}");
            }
        });
    }
}
