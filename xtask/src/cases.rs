//! The catalogues that tests are named after: bugs seen in peers (`peers_12_...`), black-box cases (`h15_...`) and what
//! the source documents say (`e26_...`, `q1_...`).
//!
//! A test names its case in its own name, so the pages under `docs/reference/` are generated from the tests and a case
//! without a test is found by `cargo xtask tidy`.

use std::{collections::BTreeMap, path::Path};

use crate::{shell::Source, sources::ROWS};

/// A bug that a peer shipped and Semel must not.
pub(crate) struct PeerBug {
    /// Its entry.
    pub(crate) number: u16,
    /// The mechanism, in one line.
    pub(crate) what: &'static str,
}

/// A family of black-box cases.
pub(crate) struct Family {
    /// What its cases start with, in capitals.
    pub(crate) letters: &'static str,
    /// What it is about.
    pub(crate) title: &'static str,
    /// Its cases whose test must be there.
    pub(crate) due: &'static [u16],
}

/// The tests of each case, as `path::name`, in order.
#[derive(Default)]
pub(crate) struct Tests {
    peers: BTreeMap<u16, Vec<String>>,
    conformance: BTreeMap<(String, u16), Vec<String>>,
    sources: BTreeMap<String, Vec<String>>,
}

impl Tests {
    /// Reads the names of all tests.
    pub(crate) fn of(sources: &[Source]) -> Tests {
        let mut tests = Tests::default();
        for source in sources {
            for name in names(source) {
                let shown = format!("{}::{name}", source.path);
                for case in cases_of(&name) {
                    let of_case = match case {
                        Named::PeerBug(number) => tests.peers.entry(number).or_default(),
                        Named::Conformance(letters, number) => tests.conformance.entry((letters, number)).or_default(),
                        Named::Source(row) => tests.sources.entry(row).or_default(),
                    };
                    of_case.push(shown.clone());
                }
            }
        }
        tests
    }

    /// Those of a bug.
    pub(crate) fn of_peer_bug(&self, number: u16) -> &[String] {
        self.peers.get(&number).map_or(&[], Vec::as_slice)
    }

    /// Those of a black-box case.
    pub(crate) fn of_conformance(&self, letters: &str, number: u16) -> &[String] {
        self.conformance.get(&(letters.to_owned(), number)).map_or(&[], Vec::as_slice)
    }

    /// Those of a row of the sources, such as `E26`.
    pub(crate) fn of_source(&self, row: &str) -> &[String] {
        self.sources.get(row).map_or(&[], Vec::as_slice)
    }

    /// The numbers of a family that have a test, due or not.
    pub(crate) fn numbers(&self, letters: &str) -> impl Iterator<Item = u16> {
        self.conformance.keys().filter(move |(family, _)| family == letters).map(|(_, number)| *number)
    }

    /// What is due and has no test.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for bug in PEER_BUGS.iter().filter(|bug| self.of_peer_bug(bug.number).is_empty()) {
            missing.push(format!("no test is named peers_{:02}_...: {}", bug.number, bug.what));
        }
        for family in FAMILIES {
            let letters = family.letters;
            let untested = family.due.iter().filter(|number| self.of_conformance(letters, **number).is_empty());
            let untested: Vec<String> = untested.map(|number| format!("{letters}{number}")).collect();
            if !untested.is_empty() {
                missing.push(format!("cases of the {} family without a test: {}", family.title, untested.join(" ")));
            }
        }
        for row in ROWS.iter().filter(|row| self.of_source(row.name).is_empty()) {
            missing.push(format!("no test is named {}_...: {}", row.name.to_lowercase(), row.what));
        }
        for named in self.sources.keys().filter(|named| ROWS.iter().all(|row| row.name != named.as_str())) {
            missing.push(format!("tests name {named}, which is no row of the sources"));
        }
        missing
    }
}

/// What peers shipped. The sentences say the mechanism, never whose it was.
pub(crate) const PEER_BUGS: &[PeerBug] = &[
    bug(1, "the same key with another path, query, method or content gets the other request's reply"),
    bug(2, "the replay window is the request's time-out, so a later retry runs again"),
    bug(3, "the client disconnects, the origin has run, the reply is lost and the retry runs again"),
    bug(4, "an early error keeps the record in flight; waiters starve the winner's settle"),
    bug(5, "failing to send the reply to a client that left frees the key"),
    bug(6, "a request over the limit is silently unprotected"),
    bug(7, "a refused concurrent request removes the record of the one that runs"),
    bug(8, "look first, write after: concurrent requests all run"),
    bug(9, "the query string does not count: another amount replays the first"),
    bug(10, "a claim whose answer was lost meets itself and is refused for a day"),
    bug(11, "a writer whose lease is over settles or releases another's claim"),
    bug(12, "binary contents that decode to the same lossy text collide"),
    bug(13, "numbers beyond double precision, duplicate members, `{}` and `[]`, reordered form fields collide"),
    bug(14, "a status that nobody listed is not kept, so the retry runs again"),
    bug(15, "an in-flight record without a lease is taken for an orphan"),
    bug(16, "settling loses the fingerprint, so an identical retry is refused"),
    bug(17, "9007199254740993 and 9007199254740992 have the same fingerprint"),
    bug(18, "content is corrupted or cut on its way through, with or without a key"),
    bug(19, "nothing is read again between the look-up and the claim"),
    bug(20, "the route's pattern counts instead of the path: /orders/1 replays for /orders/2"),
    bug(21, "a waiter's time-out removes the winner's record"),
    bug(22, "the claim is local to the process, the store is not"),
    bug(23, "a store that fails after the effect frees the key"),
    bug(24, "any error, even while replaying, deletes the record"),
    bug(25, "a dropped handler frees the key"),
    bug(26, "the reply expires and the claim does not: refused for ever"),
    bug(27, "after a crash the key is refused until its retention ends"),
    bug(28, "waiters have no limit and do not notice that their client left"),
    bug(29, "slow uploads hold what everybody needs"),
    bug(30, "one caller gets another caller's reply"),
    bug(31, "repeated header fields are lost or merged"),
    bug(32, "Location and ETag are lost"),
    bug(33, "the quoted and the bare form are two keys; the first of two fields wins; `:` is refused"),
    bug(34, "a replay also runs the handler"),
    bug(35, "an empty reply cannot be replayed"),
    bug(36, "a replay has another status than the first reply"),
    bug(37, "a streamed reply is kept before it is complete"),
    bug(38, "a header of the client chooses where the request goes"),
    bug(39, "a broken upload crashes the server"),
    bug(40, "the same content under two keys is refused"),
    bug(41, "an over-long, empty or non-ASCII key passes unprotected"),
    bug(42, "credentials are kept in clear"),
    bug(43, "key material is concatenated without lengths or domain"),
    bug(44, "leases are decided by comparing two machines' clocks"),
    bug(45, "a handler slower than the lease runs twice"),
    bug(46, "a reply too large to keep frees the key"),
    bug(47, "a replay is served before the API's own authorisation"),
    bug(48, "a rollback erases the claim while the charge stands"),
];

const fn bug(number: u16, what: &'static str) -> PeerBug {
    PeerBug { number, what }
}

/// The black-box cases, by family. Not due yet: K7 to K9 (the embedded store's own tests have them), K16, K19, K20
/// (transactions), and the dialects of the sandbox and the client.
pub(crate) const FAMILIES: &[Family] = &[
    Family {
        letters: "H",
        title: "header dialect",
        due: &[
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29,
            30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42,
        ],
    },
    Family { letters: "R", title: "resource-id dialect", due: &[] },
    Family { letters: "G", title: "guard dialect", due: &[] },
    Family { letters: "N", title: "natural-key dialect", due: &[] },
    Family { letters: "C", title: "concurrency", due: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] },
    Family { letters: "K", title: "crash", due: &[1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15, 17, 18] },
    Family { letters: "X", title: "expiry", due: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10] },
    Family { letters: "SC", title: "scope and security", due: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 15] },
    Family { letters: "L", title: "client", due: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18] },
];

/// The names of the tests in a source, in the language that its path tells.
fn names(source: &Source) -> Vec<String> {
    let extension = Path::new(&source.path).extension().and_then(|extension| extension.to_str());
    let owned = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect();
    match extension {
        Some("rs") if source.path.starts_with("crates/") => owned(&mut functions(&source.text)),
        Some("ts") if source.path.starts_with("clients/typescript/test/") => titles(&source.text),
        Some("js") if source.path.starts_with("tests/console/") => titles(&source.text),
        Some("py") if source.path.starts_with("clients/python/tests/") => {
            owned(&mut source.text.lines().filter_map(|line| {
                let line = line.trim_start();
                let after = line.strip_prefix("async ").unwrap_or(line).strip_prefix("def test_")?;
                Some(&after[..after.find('(')?])
            }))
        }
        _ => Vec::new(),
    }
}

/// The titles of the tests in a TypeScript or JavaScript source, such as `test("l11 two tabs are one order", ...)`: the words become a
/// name like those of the other languages, up to a part that is computed.
fn titles(text: &str) -> Vec<String> {
    let title = |line: &str| {
        // `test(` or what stands for it, or its first argument on a line of its own.
        let line = line.trim_start();
        let after = line.trim_start_matches(|c: char| c.is_alphanumeric());
        let after = after.strip_prefix('(').unwrap_or(line);
        let (quote, after) = (after.chars().next().filter(|first| "\"'`".contains(*first))?, after.get(1..)?);
        let title = after.split(quote).next()?.split("${").next()?;
        let words: Vec<&str> = title.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        Some(words.join("_"))
    };
    text.lines().filter_map(title).collect()
}

/// The names of the functions in a source, tests or not: the forms that name a case are used for nothing else.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (before, after) = line.split_once("fn ")?;
        // A macro that makes one test for each of several setups: `for_each!(a, b => async fn name(...) {...});`.
        let before =
            before.split_once("for_each!(").and_then(|(_, rest)| rest.split_once("=>")).map_or(before, |b| b.1);
        if !before.split_whitespace().all(|word| ["async", "pub", "pub(crate)", "unsafe"].contains(&word)) {
            return None;
        }
        let end = after.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        Some(&after[..end])
    })
}

/// A case that a test names.
#[derive(PartialEq, Eq, Debug)]
enum Named {
    PeerBug(u16),
    Conformance(String, u16),
    Source(String),
}

/// `h15_k03_peers_12_18_what_it_shows` names H15, K3 and the bugs 12 and 18, and `e26_q1_...` two rows of the sources.
/// Families that are not known here are passed over; the first part that names nothing ends the names.
fn cases_of(name: &str) -> Vec<Named> {
    let mut named = Vec::new();
    let mut of_peers = false;
    for part in name.split('_') {
        let digits = part.find(|c: char| c.is_ascii_digit()).unwrap_or(part.len());
        let (letters, number) = (part[..digits].to_uppercase(), part[digits..].parse().ok());
        match (letters.as_str(), number) {
            ("PEERS", None) => of_peers = true,
            ("", Some(number)) if of_peers => named.push(Named::PeerBug(number)),
            (letters, Some(number)) if (1..=2).contains(&letters.len()) => {
                of_peers = false;
                if letters == "E" || letters == "Q" {
                    named.push(Named::Source(format!("{letters}{number}")));
                } else if FAMILIES.iter().any(|family| family.letters == letters) {
                    named.push(Named::Conformance(letters.to_owned(), number));
                }
            }
            (_, Some(_) | None) => break,
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_names_name_their_cases() {
        let check = |name: &str, cases: &str| {
            let shown = cases_of(name).into_iter().map(|case| match case {
                Named::PeerBug(number) => format!("#{number}"),
                Named::Conformance(letters, number) => format!("{letters}{number}"),
                Named::Source(row) => row,
            });
            assert_eq!(shown.collect::<Vec<_>>().join(" "), cases, "{name}");
        };
        check("peers_07_refused_twin", "#7");
        check("peers_03_05_25_client_leaves", "#3 #5 #25");
        check("h15_reused_2_times", "H15");
        check("k12_k13_peers_10_a_failing_store", "K12 K13 #10");
        check("e28_q01_h38_h40_attempts", "E28 Q1 H38 H40");
        check("sc03_k1_x", "SC3 K1");
        check("peers_are_many_3", "");
        check("http2_upgrade", "");
        check("x_marks_2", "");
    }

    #[test]
    fn a_case_without_a_test_is_missing_and_one_with_a_test_is_not() {
        let source = |text: &str| Source { path: "crates/a/tests/b.rs".into(), text: text.into() };
        let missing = |tests: &Tests, what: &str| tests.missing().iter().any(|line| line.contains(what));
        let none = Tests::of(&[]);
        let some = Tests::of(&[source(
            "    async fn peers_07_name() {\n fn h15_reused() {\n// fn h16_x()\nfor_each!(a, b => async fn e1_x(s: S) {",
        )]);
        assert!(missing(&none, "peers_07") && !missing(&some, "peers_07"));
        assert!(missing(&none, " H15 ") && !missing(&some, " H15 "));
        assert!(missing(&some, " H16 "), "a comment is no test");
        assert!(missing(&some, "e26_") && !missing(&some, "e1_"));
        let rows = Tests::of(&[source("fn e26_q27_q28_x()")]);
        assert!(!missing(&rows, "e26_") && missing(&rows, "Q28"), "and Q28 is no row");
        assert_eq!(some.of_peer_bug(7), ["crates/a/tests/b.rs::peers_07_name"]);
    }

    #[test]
    fn tests_in_every_language_name_their_cases() {
        let check = |path: &str, text: &str, shown: &str| {
            let tests = Tests::of(&[Source { path: path.into(), text: text.into() }]);
            assert_eq!(tests.of_conformance("L", 11), [format!("{path}::{shown}")], "{text}");
        };
        check("clients/python/tests/test_a.py", "async def test_l11_x(a: int) -> None:\n# def test_l11_y(", "l11_x");
        check("clients/typescript/test/a.test.ts", "  test(`l11 l1 killed at ${x}, or not`, () =>", "l11_l1_killed_at");
        check("clients/typescript/test/a.test.ts", "scripted(\n  \"l11 x\",\n", "l11_x");
        check("clients/typescript/test/a.test.ts", "test(\"l11 a: b\", x);\n// test(\"l11 c\")", "l11_a_b");
        let elsewhere = Source { path: "clients/python/src/a.py".into(), text: "def test_l11_x()".into() };
        assert!(Tests::of(&[elsewhere]).of_conformance("L", 11).is_empty());
    }

    #[test]
    fn rows_of_the_sources_are_in_order_and_complete() {
        let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        let expected: Vec<String> =
            (1..=49).map(|n| format!("E{n}")).chain((1..=27).map(|n| format!("Q{n}"))).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn catalogue_numbers_are_in_order_and_complete() {
        let numbers: Vec<u16> = PEER_BUGS.iter().map(|bug| bug.number).collect();
        assert_eq!(numbers, (1..=48).collect::<Vec<u16>>());
    }
}
