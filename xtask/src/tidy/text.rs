//! Words and habits that have no place here.

use std::path::Path;

use crate::shell::Source;

/// A file over this many lines holds two ideas.
const LINES_MAX: usize = 900;

/// Files that may be longer, with the reason.
const LONGER: &[(&str, &str)] = &[];

/// Tests that may sleep, with the reason. Everybody else owns the clock: a file with [`PAUSED`] tests simulates it.
const SLEEPERS: &[(&str, &str)] = &[
    ("crates/semel-cli/tests/e2e/harness/mod.rs", "polls real processes, with a deadline"),
    ("crates/semel-cli/tests/e2e/harness/origin.rs", "an origin that is told to be slow"),
    ("crates/semel-cli/tests/e2e/kill_loop.rs", "kills at random moments"),
    ("crates/semel-cli/tests/e2e/many/expiry.rs", "the clock that counts is a real server's"),
    ("crates/semel-cli/tests/e2e/many/storm.rs", "clients that pause between two attempts"),
    ("crates/semel-cli/tests/e2e/crash.rs", "a stopped process outlives its lease by the kernel's clock"),
    ("crates/semel-cli/tests/sandbox/crash.rs", "kills at random moments"),
    ("crates/semel-cli/tests/sandbox/harness/process.rs", "polls real processes, with a deadline"),
    ("crates/semel/tests/transaction/crash.rs", "polls a real process that a test kills"),
    ("crates/semel/tests/redis_store/main.rs", "polls real servers, with a deadline"),
    ("crates/semel-cli/tests/e2e/peers.rs", "retries while a real process executes"),
];

/// Marks a test on tokio's simulated clock.
const PAUSED: &str = "start_paused = true";

/// Forbidden anywhere in the code; written in pieces, so that this file does not hold them itself.
const NEVER: &[(&str, &str)] = &[
    (concat!("#[", "ignore"), "a test runs or is deleted"),
    (concat!("todo", "!("), "unfinished"),
    (concat!("unimplemented", "!("), "unfinished"),
    (concat!("dbg", "!("), "left from debugging"),
];

const THREAD_SLEEP: &str = concat!("thread::", "sleep");
const TOKIO_SLEEPS: [&str; 2] = [concat!("time::", "sleep("), concat!("sleep", "_until(")];

/// What nobody can promise, and so nobody says.
const PROMISE: [&str; 2] = [concat!("ex", "actly"), "once"];

/// Finds words that must not be there.
pub(super) fn words(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let Source { path, text } = source;
        if is_code(path) {
            for (number, line) in text.lines().enumerate() {
                for (word, why) in NEVER.iter().filter(|(word, _)| line.contains(word)) {
                    wrong.push(format!("{path}:{}: `{word}`: {why}", number + 1));
                }
            }
        }
        if is_code(path) && !SLEEPERS.iter().any(|(sleeper, _)| sleeper == path) {
            wrong.extend(
                sleeps(path, text).into_iter().map(|line| format!("{path}:{line}: a test that sleeps to hope")),
            );
        }
        if is_code(path) || has_extension(path, &["md"]) {
            wrong.extend(promises(text).into_iter().map(|line| {
                format!("{path}:{line}: \"{}\" is what nobody can promise: say what is true instead", PROMISE.join(" "))
            }));
        }
    }
    wrong
}

/// Finds files that are too long, and permissions to be long that nobody uses.
pub(super) fn lengths(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| is_code(&source.path)) {
        let lines = source.text.lines().count();
        let listed = LONGER.iter().any(|(path, _)| *path == source.path);
        if lines > LINES_MAX && !listed {
            wrong.push(format!("{}: {lines} lines, more than {LINES_MAX}: it holds two ideas", source.path));
        }
        if lines <= LINES_MAX && listed {
            wrong.push(format!("{}: no longer longer than {LINES_MAX} lines: take it off the list", source.path));
        }
    }
    wrong
}

fn is_code(path: &str) -> bool {
    has_extension(path, &["rs", "ts", "py"])
}

fn has_extension(path: &str, extensions: &[&str]) -> bool {
    Path::new(path).extension().is_some_and(|found| extensions.iter().any(|extension| found == *extension))
}

/// The lines of test code that sleep. Test code: a file in a `tests` folder, and what follows a `#[cfg(test)] mod`.
fn sleeps(path: &str, text: &str) -> Vec<usize> {
    let all = path.split('/').any(|part| part == "tests");
    let simulated = text.contains(PAUSED);
    let asleep = |line: &str| {
        line.contains(THREAD_SLEEP) || (!simulated && TOKIO_SLEEPS.iter().any(|sleep| line.contains(sleep)))
    };
    let mut in_tests = all;
    let mut cfg_test = false;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        in_tests |= cfg_test && line.starts_with("mod ") && line.ends_with('{');
        cfg_test = line == "#[cfg(test)]";
        if in_tests && asleep(line) {
            found.push(number + 1);
        }
    }
    found
}

/// The lines on which the promise begins; across line ends, comment marks and emphasis too.
fn promises(text: &str) -> Vec<usize> {
    let words = text.lines().enumerate().flat_map(|(number, line)| {
        line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(move |word| (number + 1, word))
    });
    let mut found = Vec::new();
    let mut before: Option<(usize, &str)> = None;
    for (number, word) in words {
        if let Some((line, first)) = before
            && first.eq_ignore_ascii_case(PROMISE[0])
            && word.eq_ignore_ascii_case(PROMISE[1])
        {
            found.push(line);
        }
        before = Some((number, word));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_promise_is_found_in_any_dress() {
        let dressed = |between: &str| format!("It runs {}{between}{}.", PROMISE[0], PROMISE[1]);
        for between in [" ", "-", "\n/// ", "** **", " \n> "] {
            assert_eq!(promises(&dressed(between)), [1], "{between:?}");
        }
        assert_eq!(promises("exactly what was sent, once"), [0_usize; 0]);
    }

    #[test]
    fn only_tests_are_told_not_to_sleep() {
        let sleep = TOKIO_SLEEPS[0];
        let text = format!("{sleep}1)\n#[cfg(test)]\nmod tests {{\n  {sleep}2)\n}}\n");
        assert_eq!(sleeps("crates/a/src/b.rs", &text), [4]);
        assert_eq!(sleeps("crates/a/tests/b.rs", &text), [1, 4]);
        let simulated = format!("#[tokio::test({PAUSED})]\n{text}{THREAD_SLEEP}(1)\n");
        assert_eq!(sleeps("crates/a/tests/b.rs", &simulated), [7], "the simulated clock is no thread's");
    }

    #[test]
    fn long_files_and_forbidden_words_are_found() {
        let source = |text: String| [Source { path: "crates/a/src/b.rs".into(), text }];
        assert_eq!(lengths(&source("\n".repeat(LINES_MAX))).len(), 0);
        assert_eq!(lengths(&source("\n".repeat(LINES_MAX + 1))).len(), 1);
        assert_eq!(words(&source(format!("{} = \"slow\"]", NEVER[0].0))).len(), 1);
    }
}
