//! The cases that every store must pass, as data.

use std::{
    any::Any,
    fmt::{self, Write as _},
    future::poll_fn,
    panic::{AssertUnwindSafe, Location, catch_unwind},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Harness, Keeps, Sweeps};
use crate::store::StoreError;

mod ages;
mod operators;
mod races;
mod records;
mod reopening;
mod stories;
mod swaps;
mod trial;

/// How long one case may take before it counts as hanging. Far more than a slow disk needs.
pub const CASE_TIME_MAX: Duration = Duration::from_mins(2);

/// What a case runs as.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One claim about stores.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The claim.
    pub name: &'static str,
    /// What a store must do for the claim to concern it.
    pub needs: Need,
    /// Tries it, on stores of its own.
    pub run: fn(&dyn Harness) -> BoxFuture<'_, Result<(), Failure>>,
}

/// See [`Case::needs`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// To keep at least this much.
    Keeps(Keeps),
    /// To delete by sweeps alone, so that they can be counted ([`Sweeps::Each`]).
    Counts,
}

/// How a store does otherwise than claimed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure(String);

/// What came of a case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaseOutcome {
    /// Which case.
    pub name: &'static str,
    /// What came of it.
    pub verdict: Verdict,
}

/// See [`CaseOutcome`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The store does as claimed.
    Passed,
    /// The claim is about stores that keep more than this one, or that count what they delete.
    DoesNotApply,
    /// It does not, or hangs, or panics.
    Failed(Failure),
}

/// All cases, in the order in which they are best read.
pub fn cases() -> Vec<Case> {
    [swaps::CASES, records::CASES, ages::CASES, operators::CASES, races::CASES, stories::CASES, reopening::CASES]
        .concat()
}

/// Runs all cases, one after another.
///
/// Panics on a runtime with a single thread, on which races would not be any.
pub async fn run(harness: &dyn Harness) -> Vec<CaseOutcome> {
    let mut outcomes = Vec::new();
    for case in cases() {
        outcomes.push(case.outcome(harness).await);
    }
    outcomes
}

/// The outcomes as a table, one line each, with the failures written out below it.
pub fn table(outcomes: &[CaseOutcome]) -> String {
    let mut table = String::new();
    for CaseOutcome { name, verdict } in outcomes {
        let word = match verdict {
            Verdict::Passed => "pass",
            Verdict::DoesNotApply => "n/a ",
            Verdict::Failed(_) => "FAIL",
        };
        let _ = writeln!(table, "{word}  {name}");
    }
    for CaseOutcome { name, verdict } in outcomes {
        if let Verdict::Failed(failure) = verdict {
            let _ = writeln!(table, "\n{name}:\n  {failure}");
        }
    }
    table
}

/// Prints the table, and panics with it if a case failed.
pub fn assert_all_pass(outcomes: &[CaseOutcome]) {
    let table = table(outcomes);
    println!("{table}");
    let failed = outcomes.iter().filter(|outcome| matches!(outcome.verdict, Verdict::Failed(_))).count();
    assert!(failed == 0, "{failed} of {} cases failed:\n{table}", outcomes.len());
}

impl Case {
    /// Runs it, and turns panics and hanging into failures.
    ///
    /// Panics on a runtime with a single thread.
    pub async fn outcome(&self, harness: &dyn Harness) -> CaseOutcome {
        assert!(
            Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread,
            "the suite races stores, for which it needs a runtime with several threads"
        );
        let applies = match self.needs {
            Need::Keeps(keeps) => harness.keeps() >= keeps,
            Need::Counts => harness.sweeps() == Sweeps::Each,
        };
        let verdict = if applies {
            match tokio::time::timeout(CASE_TIME_MAX, without_panics((self.run)(harness))).await {
                Ok(Ok(())) => Verdict::Passed,
                Ok(Err(failure)) => Verdict::Failed(failure),
                Err(_) => Verdict::Failed(Failure(format!("no end after {CASE_TIME_MAX:?}"))),
            }
        } else {
            Verdict::DoesNotApply
        };
        CaseOutcome { name: self.name, verdict }
    }
}

impl Failure {
    /// Says what is wrong, and which line of the suite saw it.
    #[track_caller]
    pub(crate) fn new(what: impl fmt::Display) -> Failure {
        let location = Location::caller();
        let file = location.file().rsplit('/').next().unwrap_or_default();
        Failure(format!("{} ({file}:{})", shortened(&what.to_string()), location.line()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<StoreError> for Failure {
    #[track_caller]
    fn from(error: StoreError) -> Failure {
        Failure::new(error)
    }
}

/// Fails with `claim` unless both are equal.
#[track_caller]
pub(crate) fn same<T: PartialEq + fmt::Debug>(claim: &str, actual: &T, expected: &T) -> Result<(), Failure> {
    if actual == expected {
        return Ok(());
    }
    let (actual, expected) = (format!("{actual:?}"), format!("{expected:?}"));
    Err(Failure::new(format!("{claim}\n  expected {}\n  actual   {}", shortened(&expected), shortened(&actual))))
}

/// Content of a mebibyte in a message helps nobody.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 1_500;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

async fn without_panics(mut case: BoxFuture<'_, Result<(), Failure>>) -> Result<(), Failure> {
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| case.as_mut().poll(context))) {
        Ok(poll) => poll,
        Err(panic) => Poll::Ready(Err(Failure(format!("panicked: {}", panic_text(panic.as_ref()))))),
    })
    .await
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}
