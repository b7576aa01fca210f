//! What is dropped in the middle is resumed with the same key and the same bytes.

use std::{sync::Arc, task::Poll};

use semel_client::{Outcome, State, System};
use tokio::sync::Notify;

use crate::world::{Step, World, answer, payment};

/// The future is dropped after each number of polls that it takes to finish.
#[tokio::test]
async fn l09_a_future_that_is_dropped_anywhere_leaves_an_intent_that_can_be_resumed() {
    let mut finished = false;
    for polls in 1..100 {
        let world = World::of([Step::Reset, answer(500, ""), answer(201, "{}"), answer(201, "{}"), answer(201, "{}")]);
        let client = world.client();
        let intent = payment().build().unwrap();
        let sending = {
            let client = client.clone();
            let intent = intent.clone();
            async move { client.send(&intent).await }
        };
        let mut sending = Box::pin(sending);
        let mut left = polls;
        let done = std::future::poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(None);
            }
            left -= 1;
            sending.as_mut().poll(context).map(Some)
        })
        .await;
        drop(sending);
        if let Some(done) = done {
            assert!(done.unwrap().happened());
            finished = true;
            break;
        }
        // Whoever has the same action in hand gets it done; the journal decides with which key.
        let outcome = client.send(&payment().build().unwrap()).await.unwrap();
        assert!(outcome.happened(), "{outcome:?}");
        let attempts = world.api.attempts();
        assert!(attempts.windows(2).all(|two| two[0] == two[1]), "after {polls} polls: {attempts:#?}");
    }
    assert!(finished, "it takes fewer polls than that");
}

#[tokio::test]
async fn l09_an_interrupted_attempt_is_resumed_after_a_restart() {
    let (there, go) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let world = World::of([Step::Gate(Arc::clone(&there), go, 201)]);
    let client = world.client().surroundings(System);
    let intent = payment().build().unwrap();
    let sending = tokio::spawn({
        let (client, intent) = (client.clone(), intent.clone());
        async move { client.send(&intent).await }
    });
    there.notified().await;
    sending.abort();
    assert!(sending.await.unwrap_err().is_cancelled());
    drop(client);

    world.api.then([Step::Answer(201, &[("idempotent-replayed", "true")], "{}".to_owned())]);
    let journal = world.journal();
    assert_eq!(journal.list().await.unwrap()[0].state, State::Open);
    // The world's clock stands long before the attempt: the same as a clock that was set back.
    let client = world.client_on(journal).surroundings(System);
    let resumed = client.resume().await.unwrap();
    assert!(matches!(&resumed[..], [(id, Ok(Outcome::Replayed(_)))] if id == "payment-7"), "{resumed:?}");
    let attempts = world.api.attempts();
    assert_eq!(attempts[0], attempts[1]);
    assert!(client.resume().await.unwrap().is_empty(), "once it is done there is nothing to resume");
}

#[tokio::test]
async fn e43_everything_that_is_open_is_resumed() {
    let world = World::of(std::iter::repeat_n(Step::Reset, 40));
    let client = world.client().attempts_max(1);
    for n in 0..40 {
        client.send(&payment().operation(format!("payment-{n}")).build().unwrap()).await.unwrap();
    }
    let keys = |world: &World| world.api.attempts().into_iter().map(|sent| sent.key).collect::<Vec<_>>();
    let mut before = keys(&world);
    world.api.then(std::iter::repeat_n(answer(201, "{}"), 40));
    let resumed = client.resume().await.unwrap();
    assert_eq!(resumed.iter().filter(|(_, outcome)| outcome.as_ref().unwrap().happened()).count(), 40);
    let mut after = keys(&world).split_off(40);
    before.sort();
    after.sort();
    assert_eq!(before, after);
}
