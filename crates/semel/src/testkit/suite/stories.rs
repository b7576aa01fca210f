//! The corpus of histories, told by this store and by the reference.

use super::{Case, Failure, Need};
use crate::testkit::{
    Harness, Keeps, MemorySubject,
    histories::{Interruptions, corpus},
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "every history is told as the reference tells it",
        needs: Need::Keeps(Keeps::Nothing),
        run: |h| Box::pin(as_the_reference(h, usize::MAX, Interruptions::None)),
    },
    Case {
        name: "a history is told the same by a store that is opened again in between",
        needs: Need::Keeps(Keeps::Records),
        run: |h| Box::pin(as_the_reference(h, 20, Interruptions::Every(10))),
    },
];

async fn as_the_reference(h: &dyn Harness, count: usize, interruptions: Interruptions) -> Result<(), Failure> {
    let mut subject = h.fresh().await;
    let mut reference = MemorySubject::new();
    // One store lives through all of them, so that it also shows what the earlier ones left behind.
    for history in corpus().into_iter().take(count) {
        let told = history.transcript(subject.as_mut(), interruptions).await;
        let expected = history.transcript(&mut reference, Interruptions::None).await;
        if told != expected {
            return Err(Failure::new(first_difference(&told, &expected)));
        }
    }
    Ok(())
}

/// The lines up to the first one that differs, since only they explain it.
fn first_difference(told: &str, expected: &str) -> String {
    const LINES_BEFORE: usize = 8;
    let (told, expected): (Vec<&str>, Vec<&str>) = (told.lines().collect(), expected.lines().collect());
    let longer = told.len().max(expected.len());
    let at = (0..longer).find(|at| told.get(*at) != expected.get(*at)).unwrap_or(longer);
    let before = told[at.saturating_sub(LINES_BEFORE).max(1).min(at)..at].join("\n  ");
    let line = |lines: &[&str]| lines.get(at).map_or("(end)", |line| *line).to_owned();
    format!("{}, after\n  {before}\n  expected {}\n  actual   {}", told[0], line(&expected), line(&told))
}
