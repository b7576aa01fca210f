//! The folder: locked, durable first, recovered, refused when damaged.

use std::{fs, sync::Arc};

use semel_client::{Event, Journal, JournalError, Outcome, Saw, SendError, State, System};
use tokio::sync::Notify;

use crate::world::{Step, World, answer, payment};

#[tokio::test]
async fn e5_l01_the_journal_is_durable_before_the_first_byte_leaves() {
    let world = World::of([answer(201, "{}")]);
    let folder = world.folder.path().to_owned();
    let copy = tempfile::TempDir::new().unwrap();
    let to = copy.path().to_owned();
    // What another machine would find on the disk at the moment when the request arrives.
    world.api.before(move || {
        for name in ["journal.sqlite", "journal.sqlite-wal"] {
            fs::copy(folder.join(name), to.join(name)).unwrap();
        }
    });
    let intent = payment().build().unwrap();
    world.client().send(&intent).await.unwrap();
    let found = Journal::open(copy.path()).unwrap().list().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].intent, found[0].state), (&intent, State::Open));
    assert_eq!(found[0].history.len(), 1, "the attempt is there, too");
}

/// Whoever is told so may do it in another way.
#[tokio::test]
async fn e31_l18_a_crash_does_not_forget_what_somebody_was_told_that_it_did_not_happen() {
    for (status, state) in [(422, State::Rejected), (401, State::Stopped)] {
        let world = World::of([answer(status, "{}")]);
        let client = world.client();
        assert!(matches!(client.send(&payment().build().unwrap()).await.unwrap(), Outcome::Rejected(_)));
        // What another machine would find on the disk now.
        let copy = tempfile::TempDir::new().unwrap();
        for name in ["journal.sqlite", "journal.sqlite-wal"] {
            fs::copy(world.folder.path().join(name), copy.path().join(name)).unwrap();
        }
        let found = Journal::open_with(copy.path(), &world.still).unwrap().list().await.unwrap();
        assert_eq!(found.iter().map(|listed| listed.state).collect::<Vec<_>>(), [state]);
    }
}

#[tokio::test]
async fn l11_one_process_at_a_time() {
    let world = World::of([]);
    let journal = world.journal();
    assert!(matches!(Journal::open(world.folder.path()), Err(JournalError::Locked(_))));
    drop(journal);
    Journal::open(world.folder.path()).unwrap();
}

/// Behind the last frame of SQLite's log (sqlite.org/fileformat2.html, section 4.1): those of this round have its salt.
fn end_of_log(log: &[u8]) -> usize {
    let frame = 24 + u32::from_be_bytes(log[8..12].try_into().unwrap()) as usize;
    let mut end = 32;
    while log.get(end + 8..end + 16) == Some(&log[16..24]) {
        end += frame;
    }
    assert!(end > 32, "there are frames");
    end
}

#[tokio::test]
async fn l17_a_torn_tail_is_dropped_and_what_it_told_of_is_maybe_sent() {
    for torn in [0, 1, 7, 100, 4000] {
        let world = World::of([answer(201, "{}")]);
        let (folder, copy) = (world.folder.path().to_owned(), tempfile::TempDir::new().unwrap());
        let to = copy.path().to_owned();
        world.api.before(move || {
            // The first time only: the second time it is the copy that is in use.
            for name in ["journal.sqlite", "journal.sqlite-wal"]
                .into_iter()
                .filter(|_| folder.join("journal.sqlite-wal").exists())
            {
                fs::copy(folder.join(name), to.join(name)).unwrap();
            }
        });
        world.client().send(&payment().build().unwrap()).await.unwrap();
        // A crash in the middle of the next write.
        let path = copy.path().join("journal.sqlite-wal");
        let mut log = fs::read(&path).unwrap();
        let end = end_of_log(&log);
        assert!(log[end..].iter().all(|byte| *byte == 0) && end + torn < log.len(), "room for the next one");
        log[end..end + torn].fill(0x5a);
        fs::write(&path, log).unwrap();
        world.api.then([Step::Answer(201, &[("idempotent-replayed", "true")], "{}".to_owned())]);
        let client = world.client_on(Journal::open(copy.path()).unwrap());
        let resumed = client.resume().await.unwrap();
        assert!(matches!(&resumed[..], [(_, Ok(Outcome::Replayed(_)))]), "{torn}: {resumed:?}");
        let sent = world.api.attempts();
        assert_eq!(sent[0], sent[1]);
    }
}

#[tokio::test]
async fn a_damaged_record_is_refused_and_never_taken_for_none() {
    let world = World::of([Step::Reset]);
    let client = world.client().attempts_max(1);
    client.send(&payment().build().unwrap()).await.unwrap();
    drop(client);
    let file = world.folder.path().join("journal.sqlite");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(13).position(|window| window == br#"{"amount": 7}"#).expect("the content is there");
    bytes[at + 11] = b'9';
    fs::write(&file, bytes).unwrap();
    let client = world.client();
    let refused = client.send(&payment().build().unwrap()).await;
    assert!(matches!(&refused, Err(SendError::Journal(JournalError::Damaged(id))) if id == "payment-7"), "{refused:?}");
    assert_eq!(world.api.seen().len(), 1);
}

#[tokio::test]
async fn what_is_no_journal_is_refused() {
    let folder = tempfile::TempDir::new().unwrap();
    fs::write(folder.path().join("journal.sqlite"), "not a database, by far not, but long enough to be taken for one?")
        .unwrap();
    assert!(matches!(Journal::open(folder.path()), Err(JournalError::Format { .. })));
    let newer = tempfile::TempDir::new().unwrap();
    drop(Journal::open(newer.path()).unwrap());
    let file = newer.path().join("journal.sqlite");
    let mut bytes = fs::read(&file).unwrap();
    bytes[60..64].copy_from_slice(&2u32.to_be_bytes());
    fs::write(&file, bytes).unwrap();
    let refused = Journal::open(newer.path()).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("its format is 2, and this version reads 1"), "{refused}");
}

#[tokio::test]
async fn what_is_forgotten_is_free() {
    let world = World::of([Step::Reset, answer(201, "{}")]);
    let client = world.client().attempts_max(1);
    client.send(&payment().build().unwrap()).await.unwrap();
    assert!(client.journal().forget("payment-7").await.unwrap());
    assert!(!client.journal().forget("payment-7").await.unwrap());
    assert!(client.journal().list().await.unwrap().is_empty());
    assert!(client.send(&payment().json("{}").build().unwrap()).await.unwrap().happened());
}

/// Its number in the database is free for the next operation: what comes of the forgotten one must not be taken for that
/// one's, and nothing more is sent for it.
#[tokio::test]
async fn what_is_forgotten_on_its_way_is_not_sent_again_and_is_nobody_elses() {
    let (there, go) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let gate = |status| Step::Gate(Arc::clone(&there), Arc::clone(&go), status);
    let world = World::of([gate(500), gate(201)]);
    let client = world.client().surroundings(System);
    let send = |operation: &str| {
        let (client, intent) = (client.clone(), payment().operation(operation).build().unwrap());
        tokio::spawn(async move { client.send(&intent).await })
    };
    let forgotten = send("payment-7");
    there.notified().await;
    assert!(client.journal().forget("payment-7").await.unwrap());
    let other = send("payment-8");
    there.notified().await;
    // The first that waits is the first that goes.
    go.notify_one();
    let refused = forgotten.await.unwrap();
    assert!(matches!(&refused, Err(SendError::NoSuchOperation(id)) if id == "payment-7"), "{refused:?}");
    assert_eq!(world.api.seen().len(), 2);
    let listed = client.journal().list().await.unwrap();
    let histories: Vec<_> = listed.iter().map(|listed| (listed.intent.operation(), &listed.history[..])).collect();
    let unanswered = |event: &Event| matches!(event, Event::Attempt { saw: Saw::NoResponse, .. });
    assert!(matches!(&histories[..], [("payment-8", [event])] if unanswered(event)), "{histories:?}");
    go.notify_one();
    assert!(other.await.unwrap().unwrap().happened());
}

#[tokio::test]
async fn what_has_long_been_over_is_forgotten_and_what_is_open_never() {
    let world = World::of([answer(201, "{}"), Step::Reset]);
    let client = world.client().attempts_max(1);
    client.send(&payment().build().unwrap()).await.unwrap();
    client.send(&payment().operation("payment-8").build().unwrap()).await.unwrap();
    drop(client);
    world.still.advance_ms(Journal::OVER_KEPT_MS);
    assert_eq!(world.journal().list().await.unwrap().len(), 2);
    world.still.advance_ms(1);
    let left = world.journal().list().await.unwrap();
    assert_eq!(left.iter().map(|listed| listed.intent.operation()).collect::<Vec<_>>(), ["payment-8"]);
}

#[tokio::test]
async fn secrets_are_not_written_down() {
    let with_cookie = Step::Answer(201, &[("set-cookie", "session=1"), ("x-request-id", "r-1")], "{}".to_owned());
    let world = World::of([with_cookie]);
    let client = world.client();
    client.send(&payment().build().unwrap()).await.unwrap();
    let listed = client.journal().list().await.unwrap();
    let semel_client::Event::Attempt { saw: semel_client::Saw::Reply(reply), .. } = &listed[0].history[0] else {
        panic!()
    };
    assert_eq!(reply.headers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["x-request-id"]);
    drop(client);
    for entry in fs::read_dir(world.folder.path()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(15).any(|window| window == b"yonne_live_1234"));
    }
}
