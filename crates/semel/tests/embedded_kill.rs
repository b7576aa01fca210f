//! A process that writes under load is killed with SIGKILL at random moments, and nothing that it was answered is lost.
//!
//! `SEMEL_KILLS` sets the number of rounds.
#![cfg(feature = "embedded")]

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use semel::store::{
    PhaseKind, Put, Record, RecordKey, Stamp, Store, Swap, Swapped,
    embedded::{EmbeddedStore, Options},
};
use semel_core::{
    fingerprint::Fingerprint,
    record::{ExchangeId, Kept, Phase, Sealed},
};

const FOLDER: &str = "SEMEL_KILL_FOLDER";
const ROUND: &str = "SEMEL_KILL_ROUND";
const WRITERS: u64 = 24;

/// How far a key came: claimed, settled, released. A key is used by one writer, once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    Claimed = 1,
    Settled = 2,
    Released = 3,
}

/// Small segments, so that kills hit rotation and recycling too.
fn options() -> Options {
    Options { segment_bytes: 256 << 10, spare_segments: 2, ..Options::default() }
}

#[test]
fn nothing_answered_is_lost_when_the_process_is_killed() {
    if let Ok(folder) = env::var(FOLDER) {
        let round = env::var(ROUND).expect("set with the folder").parse().expect("a number");
        write_until_killed(Path::new(&folder), round);
    }
    let rounds: u64 = env::var("SEMEL_KILLS").map_or(12, |rounds| rounds.parse().expect("SEMEL_KILLS is a number"));
    let folder = tempfile::tempdir().unwrap();
    let mut answered: BTreeMap<u64, Step> = BTreeMap::new();
    let mut grown = 0;
    for round in 0..rounds {
        let before = answered.len();
        kill_one(folder.path(), round, &mut answered);
        grown += usize::from(answered.len() > before);
        verify(folder.path(), &mut answered);
    }
    assert!(grown as u64 * 2 > rounds, "most rounds must have written something: {grown} of {rounds}");
}

/// Starts a writer, kills it after it has answered a random number of times, and notes what it was answered.
fn kill_one(folder: &Path, round: u64, answered: &mut BTreeMap<u64, Step>) {
    let mut child = Command::new(env::current_exe().expect("this test is a program"))
        .args(["nothing_answered_is_lost_when_the_process_is_killed", "--exact", "--nocapture"])
        .env(FOLDER, folder)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts again");
    let lines = BufReader::new(child.stdout.take().expect("piped")).split(b'\n');
    let kill_after = (round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 3000;
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut count = 0;
    for line in lines {
        // What was in the pipe when it died is read as well; a last line that was cut short is not an answer.
        let line = String::from_utf8(line.expect("a pipe")).expect("ASCII");
        let mut words = line.split(' ');
        if let (Some("answered"), Some(n), Some(step), Some(".")) =
            (words.next(), words.next(), words.next(), words.next())
        {
            let step = match step {
                "1" => Step::Claimed,
                "2" => Step::Settled,
                "3" => Step::Released,
                other => panic!("{other}"),
            };
            answered.insert(n.parse().expect("a number"), step);
            count += 1;
        }
        if count == kill_after || Instant::now() > deadline {
            child.kill().expect("it is still running");
        }
    }
    child.wait().expect("it ends");
}

fn verify(folder: &Path, answered: &mut BTreeMap<u64, Step>) {
    let (store, recovery) = EmbeddedStore::open(folder, options()).expect("the folder opens after a kill");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        for (n, step) in answered.iter_mut() {
            let found = store.load(&key(*n)).await.expect("nothing is damaged");
            // The writer may have got one step further than it could say.
            let is = match found {
                None => Step::Released,
                Some(found) => {
                    assert!(found.abandoned, "{n}: its writer is dead");
                    let (stamp, is) = match found.record.kind() {
                        PhaseKind::InFlight => (claim(*n).stamp, Step::Claimed),
                        PhaseKind::Completed => (settled(*n).stamp, Step::Settled),
                        PhaseKind::Unknown | PhaseKind::Held => panic!("{n}: nobody wrote that"),
                    };
                    assert_eq!(found.stamp, stamp, "{n}");
                    if is == Step::Settled {
                        assert_eq!(found.record, settled(*n).record, "{n}");
                    }
                    is
                }
            };
            assert!(is >= *step, "{n}: answered {step:?} and found {is:?}; {recovery:?}");
            assert!(is as u8 <= *step as u8 + 1, "{n}: answered {step:?} and found {is:?}; {recovery:?}");
            *step = is;
        }
    });
    assert!(recovery.records >= answered.values().filter(|step| **step != Step::Released).count() as u64);
}

fn write_until_killed(folder: &Path, round: u64) -> ! {
    let (store, _) = EmbeddedStore::open(folder, options()).expect("the folder opens");
    let store = Arc::new(store);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let sweeping = Arc::new(AtomicBool::new(true));
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for writer in 0..WRITERS {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                for n in 0.. {
                    let n = (round * WRITERS + writer) << 32 | n;
                    let swaps = [
                        (1, Swap { expect: None, put: Some(claim(n)) }),
                        (2, Swap { expect: Some(claim(n).stamp), put: Some(settled(n)) }),
                        (3, Swap { expect: Some(settled(n).stamp), put: None }),
                    ];
                    for (step, swap) in swaps.iter().take(1 + usize::try_from(n % 3).expect("small")) {
                        assert_eq!(store.swap(&key(n), swap).await, Ok(Swapped::Done));
                        // One write of one line, so that it is whole or not there; the point says that it is whole.
                        let line = format!("answered {n} {step} .\n");
                        std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent reads");
                    }
                }
            }));
        }
        while sweeping.load(Ordering::Relaxed) {
            store.sweep(u32::MAX).await.expect("sweeping works");
            tokio::task::yield_now().await;
        }
    });
    unreachable!("it writes until it is killed")
}

fn key(n: u64) -> RecordKey {
    let mut bytes = [0; RecordKey::LEN];
    for (i, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&(n ^ (i as u64) << 60).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    RecordKey::from_bytes(bytes)
}

fn claim(n: u64) -> Put {
    put(n, 1, Phase::InFlight { lease: Duration::from_secs(35) })
}

fn settled(n: u64) -> Put {
    let bytes = Bytes::from(n.to_le_bytes().repeat(usize::try_from(n % 97 * 3).expect("small")));
    let replay_for = Duration::from_hours(24);
    put(n, 2, Phase::Completed { kept: Kept::Sealed(Sealed { status: 201, bytes }), replay_for })
}

fn put(n: u64, write: u16, phase: Phase) -> Put {
    let record = Record {
        fingerprint: Fingerprint::from_bytes([7; 32]),
        attempt: 1,
        phase,
        retention: Duration::from_hours(24),
        guard: None,
        about: None,
    };
    Put { stamp: Stamp { exchange: ExchangeId(u128::from(n) + 1), write }, record }
}
