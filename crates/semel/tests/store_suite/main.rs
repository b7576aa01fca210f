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
const CORPUS: &str = "451191 bytes, digest 1f7c09dd2dc33030";

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
        swap k1 nothing -> f320.1 (in flight, lives 60s, #5811): done
        sweep, at most 100
        swap k1 nothing -> f320.1 (in flight, lives 60s, #5811): done
        load k1: f320.1 aged 0ns (in flight, lives 60s, #5811)
        swap k0 nothing -> f75f.2 (held by k0, lives 60s, #6432): done
        swap k2 d484.1 -> e4d9.3 (in flight, lives 20s, #3197): absent
        swap k1 f320.1 -> f320.4 (omitted 402, lives 1s, #9821): done
        sweep, at most 2
        999ms pass
        1ms pass
        swap k0 f75f.2 -> f75f.5 (omitted 402, lives 60s, #4bbb): done
        swap k2 d484.1 -> e4d9.3 (in flight, lives 20s, #3197): absent
        sweep, at most 2
        swap k1 nothing -> f320.1 (in flight, lives 60s, #5811): done
        swap k2 d484.1 -> e4d9.3 (in flight, lives 20s, #3197): absent
        1s pass
        swap k2 nothing -> e4d9.6 (in flight, lives 20s, #0c1b): done
        swap k1 nothing -> f320.7 (omitted 200, lives 20s, #a045): found f320.1 aged 1s (in flight, lives 60s, #5811)
        scan Held, at most 100:
        swap k1 f320.1 -> f75f.8 (reply 422 of 31 bytes, lives 60s, #a4d9): done
        swap k2 e4d9.6 -> e4d9.9 (in flight, lives 20s, #2389): done
        swap k0 f75f.5 -> f320.10 (held by k2, lives 1s, #b9f5): done
        swap k2 e4d9.9 -> f75f.11 (reply 204 of 26 bytes, lives 5s, #4f47): done
        swap k1 f320.4 -> e4d9.12 (unknown, lives 5s, #f054): found f75f.8 aged 0ns (reply 422 of 31 bytes, lives 60s, #a4d9)
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
