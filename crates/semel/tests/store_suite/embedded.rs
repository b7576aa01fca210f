//! The embedded store in the suite: once closed and opened again, and once left as a killed process leaves it.

use std::{collections::BTreeSet, ffi::OsString, fs, io, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use semel::{
    store::{
        SimulatedClock, Store,
        embedded::{EmbeddedStore, Options},
    },
    testkit::{Harness, Keeps, START_MS, Subject, suite},
};
use tempfile::TempDir;

/// How a session of the store ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// It is dropped, and writes what makes the next opening fast.
    Closed,
    /// Its files are taken as they are while it runs, which is how `kill -9` leaves them.
    Killed,
}

#[derive(Debug)]
struct Embedded {
    ending: Ending,
    /// Small segments, so that the suite runs through many of them.
    segment_bytes: u64,
}

struct EmbeddedSubject {
    ending: Ending,
    segment_bytes: u64,
    clock: Arc<SimulatedClock>,
    // Before the folder, so that it is closed when the folder goes.
    store: Option<Arc<EmbeddedStore>>,
    folder: TempDir,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn closed_and_opened_again() {
    passes(Embedded { ending: Ending::Closed, segment_bytes: 8 << 20 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_and_opened_again() {
    passes(Embedded { ending: Ending::Killed, segment_bytes: 2 << 20 }).await;
}

async fn passes(harness: Embedded) {
    let outcomes = suite::run(&harness).await;
    suite::assert_all_pass(&outcomes);
    super::does_not_apply(&outcomes, &expect_test::expect![""]);
}

#[async_trait]
impl Harness for Embedded {
    fn keeps(&self) -> Keeps {
        Keeps::RecordsOfOneOwner
    }

    async fn fresh(&self) -> Box<dyn Subject> {
        let clock = Arc::new(SimulatedClock::at(START_MS));
        let folder = TempDir::new().expect("a folder for temporary files");
        let mut subject =
            EmbeddedSubject { ending: self.ending, segment_bytes: self.segment_bytes, clock, store: None, folder };
        subject.open();
        Box::new(subject)
    }
}

impl EmbeddedSubject {
    fn open(&mut self) {
        let options = Options { clock: self.clock.clone(), segment_bytes: self.segment_bytes, ..Options::default() };
        let (store, _recovery) = EmbeddedStore::open(self.folder.path(), options).expect("the folder opens");
        self.store = Some(Arc::new(store));
    }
}

#[async_trait]
impl Subject for EmbeddedSubject {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().expect("it is open except within `reopen`")
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn reopen(&mut self) {
        match self.ending {
            Ending::Closed => {
                let store = self.store.take().and_then(Arc::into_inner);
                drop(store.expect("no case holds on to the store across a reopening"));
            }
            Ending::Killed => {
                let copy = copy_at_one_moment(self.folder.path());
                self.store = None;
                self.folder = copy;
            }
        }
        self.open();
    }
}

/// A process dies at one moment, and a copy takes a while in which the store prepares and renames segments: so it counts
/// only if the folder held the same files before and after it.
fn copy_at_one_moment(from: &Path) -> TempDir {
    const TRIES_MAX: u32 = 1_000;
    for _ in 0..TRIES_MAX {
        let copy = TempDir::new().expect("a folder for temporary files");
        let before = names(from).expect("the folder can be listed");
        let copied = before.iter().try_for_each(|name| fs::copy(from.join(name), copy.path().join(name)).map(drop));
        match copied {
            Ok(()) if names(from).expect("the folder can be listed") == before => return copy,
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => panic!("the files can be read while they are in use: {error}"),
        }
    }
    panic!("the folder changed during each of {TRIES_MAX} copies of it")
}

fn names(folder: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}
