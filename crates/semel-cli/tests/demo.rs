//! `semel demo` as a newcomer starts it, with real processes, to its last line.

use std::process::{Command, Output};

use semel_servers::{PrivatePostgres, PrivateRedis, RedisOptions};

/// In the environment of every demo.
const PASSWORD: &str = "in the environment";

fn demo(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
    // Whoever uses stores may have this in his environment, and it is not the demo's.
    command.env("SEMEL_STORE", "postgres://127.0.0.1:1/of-others").env("SEMEL_STORE_PASSWORD", PASSWORD);
    command.arg("demo").args(arguments).output().expect("the program runs")
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
    let told = kept(&["--exit", "--intents", "60", "--seed", "7"], 60);
    assert_eq!(numbers(&told, "Semel killed (SIGKILL) and restarted"), (0, 2), "{told}");
}

#[test]
fn two_gateways_on_one_postgresql_stand_in_for_each_other() {
    let told = kept(&["--exit", "--intents", "60", "--store", "postgres"], 60);
    let words: Vec<&str> = told.split_whitespace().collect();
    assert!(words.join(" ").contains("two gateways (`semel serve`), A and B, which"), "{told}");
    one_stood_in(&told);
}

#[test]
fn two_gateways_on_one_redis_stand_in_for_each_other() {
    one_stood_in(&kept(&["--exit", "--intents", "60", "--store", "redis"], 60));
}

#[test]
fn one_demo_may_follow_another_on_a_store_that_runs() {
    let options = RedisOptions { password: Some(PASSWORD.to_owned()), ..RedisOptions::default() };
    let server = PrivateRedis::start_with(options).expect("there is a Redis server");
    // Its password comes from the environment.
    let url = format!("redis://127.0.0.1:{}", server.port());
    for _ in 0..2 {
        one_stood_in(&kept(&["--exit", "--intents", "20", "--store", &url], 20));
    }
}

#[test]
fn a_store_that_no_gateway_can_start_on_is_said_before_the_storm() {
    let server = PrivatePostgres::start().expect("there is a PostgreSQL server");
    let url = server.url(&server.fresh_database());
    let check = |store: &str, code: i32, words: &[&str]| {
        let output = demo(&["--exit", "--store", store]);
        let noise = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{noise}");
        assert!(words.iter().all(|word| noise.contains(word)), "{noise}");
        assert!(!noise.contains("hunter2"), "{noise}");
        assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    };
    check(&url, 1, &["semel store migrate"]);
    check("postgres://me:hunter2@127.0.0.1:1/demo", 1, &["127.0.0.1:1"]);
    check("memory", 2, &["would forget everything"]);
    check("postgre://me:hunter2@127.0.0.1:1/demo", 2, &["--store"]);
}

#[test]
fn a_missing_server_is_told_with_what_to_install() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    for (store, variable, package) in
        [("postgres", "SEMEL_POSTGRES_BIN", "postgresql"), ("redis", "SEMEL_REDIS_BIN", "redis-server")]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
        let output = command.args(["demo", "--exit", "--store", store]).env(variable, empty.path()).output();
        let output = output.expect("the program runs");
        let noise = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{noise}");
        for word in ["install", package, variable, "URL"] {
            assert!(noise.contains(word), "{word}: {noise}");
        }
    }
}

/// Of two gateways the first was killed, and the other has answered meanwhile.
fn one_stood_in(told: &str) {
    assert_eq!(numbers(told, "Gateway A killed (SIGKILL) and restarted"), (0, 2), "{told}");
    assert!(numbers(told, "Answers of gateway B meanwhile").1 > 0, "{told}");
}

/// Runs a demo of so many purchases, which must be kept through Semel, and gives what it told.
fn kept(arguments: &[&str], purchases: u32) -> String {
    let output = demo(arguments);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let noise = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{told}\n{noise}", output.status);

    let (was, is) = numbers(&told, "DOUBLE CHARGES");
    assert!(was > 0, "the naive API charged nobody twice, so nothing is shown\n{told}");
    assert_eq!(is, 0, "{told}");
    assert_eq!(numbers(&told, "Purchases wanted"), (purchases, purchases), "{told}");

    // Nobody waits for ever on a record that a killed process left behind.
    assert!(!told.contains("the client gave up") || numbers(&told, "Nothing: the client gave up").1 == 0, "{told}");

    // Every section of the table accounts for all of what it is about.
    let sums = |labels: &[&str]| {
        let lines = labels.iter().filter(|label| told.contains(**label)).map(|label| numbers(&told, label));
        lines.fold((0, 0), |(was, is), (more_was, more_is)| (was + more_was, is + more_is))
    };
    let customers = ["Customers charged once", "Customers charged more than once", "Customers not charged"];
    assert_eq!(sums(&customers), (purchases, purchases), "{told}");
    let heard = ["Charged ", "Outcome unknown, will not be charged again", "Nothing: the client gave up"];
    assert_eq!(sums(&heard), (purchases, purchases), "{told}");
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
    told
}
