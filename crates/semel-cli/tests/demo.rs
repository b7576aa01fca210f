//! `semel demo` as a newcomer starts it, with real processes, to its last line.

use std::process::{Command, Output};

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_semel")).arg("demo").args(arguments).output().expect("the program runs")
}

/// The numbers of a line of the table: straight to the API, and through Semel.
fn numbers(table: &str, label: &str) -> (u32, u32) {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(label));
    let line = line.unwrap_or_else(|| panic!("no line {label:?} in\n{table}"));
    let mut numbers = line.split_whitespace().map(|word| if word == "-" { 0 } else { word.parse().expect("a number") });
    let pair = (numbers.next().expect("two numbers"), numbers.next().expect("two numbers"));
    assert_eq!(numbers.next(), None, "two numbers in {line:?}");
    pair
}

#[test]
fn charges_twice_without_semel_and_never_with_it() {
    let output = demo(&["--exit", "--intents", "60", "--seed", "7"]);
    let told = String::from_utf8_lossy(&output.stdout);
    let noise = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{told}\n{noise}", output.status);

    let (was, is) = numbers(&told, "DOUBLE CHARGES");
    assert!(was > 0, "the naive API charged nobody twice, so nothing is shown\n{told}");
    assert_eq!(is, 0, "{told}");
    let (was, is) = numbers(&told, "Purchases wanted");
    assert_eq!((was, is), (60, 60), "{told}");
    assert_eq!(numbers(&told, "Semel killed"), (0, 2), "{told}");

    // Nobody waits for ever on a record that a killed process left behind.
    assert!(!told.contains("the client gave up") || numbers(&told, "Nothing: the client gave up").1 == 0, "{told}");

    // Every section of the table accounts for all of what it is about.
    let sums = |labels: &[&str]| {
        let lines = labels.iter().filter(|label| told.contains(**label)).map(|label| numbers(&told, label));
        lines.fold((0, 0), |(was, is), (more_was, more_is)| (was + more_was, is + more_is))
    };
    let customers = ["Customers charged once", "Customers charged more than once", "Customers not charged"];
    assert_eq!(sums(&customers), (60, 60), "{told}");
    let heard = ["Charged ", "Outcome unknown, will not be charged again", "Nothing: the client gave up"];
    assert_eq!(sums(&heard), (60, 60), "{told}");
    let answers = [
        "A charge",
        "A replay of the first answer",
        "Refused: in flight, retry later",
        "Refused: outcome unknown",
        "Other answers",
        "Nothing: the client's time-out",
        "Nothing: the connection broke",
        "Nothing: no connection",
    ];
    assert_eq!(sums(&answers), numbers(&told, "Requests sent, retries included"), "{told}");
    assert_eq!(sums(&[customers[0], customers[1], "DOUBLE CHARGES"]), numbers(&told, "Charges"), "{told}");
}
