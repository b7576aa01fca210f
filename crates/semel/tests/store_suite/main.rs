//! The shared suite, run on the stores of this crate; and on stores with planted bugs, to prove that it can fail.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use semel::testkit::{
    Harness as _, MemoryHarness,
    histories::{History, Interruptions, corpus, digest},
    suite::{self, CaseOutcome, Verdict},
};

#[cfg(feature = "embedded")]
mod embedded;
mod planted;
#[cfg(feature = "postgres-store")]
mod postgres;
#[cfg(feature = "redis-store")]
mod redis;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory() {
    let outcomes = suite::run(&MemoryHarness).await;
    suite::assert_all_pass(&outcomes);
    // Listed here, so that a case which stops applying is seen by whoever reviews the change.
    does_not_apply(
        &outcomes,
        &expect![[r"
            a history is told the same by a store that is opened again in between
            opened again, it has every record that was done, in every field
            opened again, it has the last of several writes, and not what was released
            opened again, the same stamp again is done and a stale writer changes nothing
            opened again, ages and retentions go on from the write
            opened again, what was swept or trimmed does not come back
            opened again after many writes and much content, nothing is missing
            opened again by its one owner, what was in flight is abandoned, and new claims are not
        "]],
    );
}

/// The transcripts of all histories, on every store.
const CORPUS: &str = "447692 bytes, digest 0bd27c29511ad936";

/// What a release changes here, it changes for every store: read the difference before accepting it.
#[tokio::test]
async fn the_corpus_is_what_it_was() {
    let mut subject = MemoryHarness.fresh().await;
    let mut transcripts = String::new();
    for history in corpus() {
        transcripts.push_str(&history.transcript(subject.as_mut(), Interruptions::None).await);
    }
    let told = format!("{} bytes, digest {}", transcripts.len(), digest(&transcripts));
    assert_eq!(told, CORPUS);
}

#[tokio::test]
async fn a_short_history() {
    let mut subject = MemoryHarness.fresh().await;
    let told = History::generate(1, 24).transcript(subject.as_mut(), Interruptions::None).await;
    expect![[r#"
        history 1
        swap k1 nothing -> f320.1 (in flight, lives 20s, #9ec0): done
        swap k0 d484.1 -> f75f.2 (held by k2, lives 5s, #53d9): absent
        swap k0 nothing -> e4d9.3 (in flight, lives 1s, #a573): done
        load k2: nothing
        swap k1 f320.1 -> nothing: done
        sweep, at most 2
        999ms pass
        swap k1 nothing -> f320.4 (sealed 204, 39 bytes, lives 20s, #7ff2): done
        swap k0 nothing -> f75f.5 (in flight, lives 20s, #eb97): found e4d9.3 aged 999ms (in flight, lives 1s, #a573)
        swap k0 e4d9.3 -> e4d9.6 (held by k0, lives 1s, #0118): done
        load k2: nothing
        swap k1 f320.4 -> f320.7 (in flight, lives 60s, #903f): done
        swap k2 d484.1 -> f75f.8 (unknown, lives 60s, #469e): absent
        swap k2 d484.1 -> f75f.8 (unknown, lives 60s, #469e): absent
        swap k1 f320.7 -> e4d9.9 (held by k1, lives 20s, #cb99): done
        scan Completed, at most 100:
        swap k0 d484.1 -> f320.10 (in flight, lives 60s, #625c): found e4d9.6 aged 0ns (held by k0, lives 1s, #0118)
        swap k2 nothing -> f75f.11 (omitted 200, lives 5s, #d1fc): done
        swap k0 d484.1 -> f320.10 (in flight, lives 60s, #625c): found e4d9.6 aged 0ns (held by k0, lives 1s, #0118)
        7s pass
        swap k1 e4d9.9 -> nothing: done
        scan Held, at most 100:
        swap k1 e4d9.9 -> nothing: absent
        999ms pass
    "#]]
    .assert_eq(&told);
}

fn does_not_apply(outcomes: &[CaseOutcome], expected: &Expect) {
    let mut names = String::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.verdict == Verdict::DoesNotApply) {
        let _ = writeln!(names, "{}", outcome.name);
    }
    expected.assert_eq(&names);
}
