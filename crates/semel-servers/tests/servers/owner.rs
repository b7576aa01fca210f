//! What is left when the process that started servers dies.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
};

use semel_servers::{PgBouncer, PoolMode, PrivatePostgres, PrivateRedis, until};

const CHILD: &str = "SEMEL_TEST_OWNER";

/// Not a test of its own: the owner that is killed.
#[test]
fn owner() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    let postgres = PrivatePostgres::start().unwrap();
    let bouncer = PgBouncer::start(&postgres, PoolMode::Transaction).unwrap();
    let redis = PrivateRedis::start().unwrap();
    for (folder, port) in
        [(postgres.folder(), postgres.port()), (bouncer.folder(), bouncer.port()), (redis.folder(), redis.port())]
    {
        println!("\nowns {port} {}", folder.display());
    }
    // A group of processes that is left alone with a stopped one in it is hung up on by the kernel.
    let info = redis.cli(&["INFO", "server"]).unwrap();
    let keeper = after(&fs::read_to_string(format!("/proc/{}/status", after(&info, "process_id:"))).unwrap(), "PPid:");
    assert!(Command::new("kill").args(["-STOP", &keeper]).status().unwrap().success());
    println!("\nowns all");
    // Until it is killed: the other end is open as long as the test lives.
    let _ = io::stdin().read(&mut [0]);
}

fn after(text: &str, name: &str) -> String {
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
}

#[test]
fn nothing_is_left_of_an_owner_that_was_killed() {
    let mut owner = Command::new(env::current_exe().unwrap())
        .args(["owner::owner", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said = lines.filter_map(|line| line.strip_prefix("owns ").map(str::to_owned));
    let belongings: Vec<String> = said.take_while(|said| said != "all").collect();
    assert_eq!(belongings.len(), 3);
    let is_there = |thing: &String| {
        let (port, folder) = thing.split_once(' ').unwrap();
        Path::new(folder).exists() || std::net::TcpStream::connect(("127.0.0.1", port.parse().unwrap())).is_ok()
    };
    assert!(belongings.iter().all(is_there));
    owner.kill().unwrap();
    owner.wait().unwrap();
    until(|| !belongings.iter().any(is_there)).unwrap_or_else(|error| panic!("left of {belongings:?}: {error}"));
}
