//! The shared suite, run on the stores of this crate; and on stores with planted bugs, to prove that it can fail.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use semel::testkit::{
    Harness as _, MemoryHarness,
    histories::{History, Interruptions, corpus, digest},
    suite::{self, CaseOutcome, Verdict},
};

mod planted;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory() {
    let outcomes = suite::run(&MemoryHarness).await;
    suite::assert_all_pass(&outcomes);
    // Listed here, so that a case which stops applying is seen by whoever reviews the change.
    does_not_apply(
        &outcomes,
        &expect![[r#"
            a history is told the same by a store that is opened again in between
            opened again, it has every record that was done, in every field
            opened again, it has the last of several writes, and not what was released
            opened again, the same stamp again is done and a stale writer changes nothing
            opened again, ages and retentions go on from the write
            opened again, what was swept or trimmed does not come back
            opened again after many writes and much content, nothing is missing
            opened again by its one owner, what was in flight is abandoned, and new claims are not
        "#]],
    );
}

/// What a release changes here, it changes for every store: read the difference before accepting it.
#[tokio::test]
async fn the_corpus_is_what_it_was() {
    let mut subject = MemoryHarness.fresh().await;
    let mut transcripts = String::new();
    for history in corpus() {
        transcripts.push_str(&history.transcript(subject.as_mut(), Interruptions::None).await);
    }
    let told = format!("{} bytes, digest {}", transcripts.len(), digest(&transcripts));
    expect!["451966 bytes, digest 7f63cde57c3f594a"].assert_eq(&told);
}

#[tokio::test]
async fn a_short_history() {
    let mut subject = MemoryHarness.fresh().await;
    let told = History::generate(1, 24).transcript(subject.as_mut(), Interruptions::None).await;
    expect![[r#"
        history 1
        swap k1 nothing -> f320.1 (reply 204 of 4 bytes, lives 60s, #6a2f): done
        swap k2 nothing -> f75f.2 (in flight, lives 20s, #f237): done
        swap k1 nothing -> f320.1 (reply 204 of 4 bytes, lives 60s, #6a2f): done
        swap k2 nothing -> f75f.2 (in flight, lives 20s, #f237): done
        swap k2 f75f.2 -> e4d9.3 (unknown, lives 20s, #c4ea): done
        swap k1 f320.1 -> f320.4 (unknown, lives 1s, #2675): done
        sweep, at most 2
        999ms pass
        1ms pass
        swap k0 nothing -> f75f.5 (in flight, lives 1s, #cb88): done
        load k2: e4d9.3 aged 1s (unknown, lives 20s, #c4ea)
        swap k1 f320.1 -> e4d9.6 (omitted 303, lives 5s, #4a12): absent
        sweep, at most 1
        swap k0 f75f.5 -> f320.7 (reply 204 of 1 bytes, lives 20s, #8a30): done
        swap k1 nothing -> f75f.8 (reply 201 of 9 bytes, lives 5s, #0079): done
        swap k0 f320.7 -> e4d9.9 (in flight, lives 1s, #16c2): done
        swap k1 f75f.8 -> f320.10 (reply 422 of 19 bytes, lives 1s, #36c6): done
        1s pass
        swap k0 nothing -> f75f.11 (unknown, lives 5s, #b296): done
        swap k0 f75f.5 -> f320.7 (reply 204 of 1 bytes, lives 20s, #8a30): found f75f.11 aged 0ns (unknown, lives 5s, #b296)
        7s pass
        swap k1 nothing -> e4d9.12 (reply 201 of 35 bytes, lives 5s, #f6ef): done
        load k1: e4d9.12 aged 0ns (reply 201 of 35 bytes, lives 5s, #f6ef)
        swap k2 e4d9.3 -> f320.13 (in flight, lives 20s, #ee65): done
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
