//! Gateways on a shared store: one and two of them under the same load, and what replays cost.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, ensure};

use super::{Server, postgres, runtime};
use crate::{
    Scale,
    gateway::{
        COVERED, ask, execute_once, origin,
        process::{Running, free_address},
        start_nginx,
        wrk::{self, Keys, Ran},
    },
    raw::RawDisk,
    report::{Bound, Report, Section, figure},
    stats::median,
};

/// Over two generators of load, each with half of them.
const CONNECTIONS: u32 = 128;
/// How much more processor time per request two gateways may take than one.
const MORE: f64 = 1.10;
const SECRET: [u8; 32] = *b"the secret of the bench gateways";

/// What the gateways are asked.
#[derive(Clone, Copy)]
struct Course {
    gateways: usize,
    keys: Keys,
}

const ONE: usize = 0;
const TWO: usize = 1;
/// In each round in this order, so that what is divided ran in the same minute.
const COURSES: [Course; 3] = [
    Course { gateways: 1, keys: Keys::Fresh },
    Course { gateways: 2, keys: Keys::Fresh },
    Course { gateways: 1, keys: Keys::Again },
];

/// One course, run once.
struct Measured {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    gateways_us: f64,
    server_us: f64,
    r0: f64,
}

/// On either server.
pub(super) fn measure(
    folder: &Path,
    semel: &Path,
    scale: &Scale,
    disk: &mut RawDisk,
    report: &mut Report,
) -> anyhow::Result<()> {
    let folder = folder.join("gateways");
    fs::create_dir_all(&folder).context("cannot make a folder")?;
    let origin_at = free_address()?;
    let _origin = start_nginx(&folder, "origin", origin_at, &origin(origin_at))?;
    let mut rows = Vec::new();
    for server in [Server::postgres()?, Server::redis()?] {
        rows.extend(on(&server, &folder, semel, origin_at, scale, disk, report)?);
    }
    report.section(Section {
        title: "Shared stores: gateways",
        intro: format!(
            "POST of 108 B with an idempotency key, over {CONNECTIONS} connections, from two wrk with one thread each, to one \
             gateway or one wrk to each of two; nginx as the origin answers 201 with 200 B. All share the machine. Keys that \
             are sent again are {}, so that all answers are replays.",
            wrk::KEYS_AGAIN
        ),
        columns: vec![
            "store",
            "gateways",
            "keys",
            "requests/s",
            "p50 ms",
            "p99 ms",
            "CPU µs/request, gateways",
            "CPU µs/request, server",
            "R0/s",
        ],
        rows,
    });
    Ok(())
}

fn on(
    server: &Server,
    folder: &Path,
    semel: &Path,
    origin: SocketAddr,
    scale: &Scale,
    disk: &mut RawDisk,
    report: &mut Report,
) -> anyhow::Result<Vec<Vec<String>>> {
    if let Server::Postgres(server) = server {
        runtime()?.block_on(postgres::open(server))?;
    }
    let folder = folder.join(server.name());
    let gateways = ["a", "b"].map(|name| start(&folder.join(name), semel, origin, &server.url()));
    let [first, second] = gateways;
    let gateways = [first?, second?];
    execute_once(gateways[0].at)?;
    let asked_before = server.round_trips()?;
    execute_once(gateways[1].at)?;
    let per_replay = (server.round_trips()? - asked_before) / f64::from(wrk::KEYS_AGAIN);
    let what = format!("{}, round trips per replay", server.name());
    let beside = format!("{} replays, 16 at a time; statements or scripts that the server ran", wrk::KEYS_AGAIN);
    report.target(what, Bound::AtMost(1.0), per_replay, beside);
    // Kept by the other one.
    let answer = ask(gateways[1].at, 1)?;
    let is_replay = answer.lines().any(|line| line.eq_ignore_ascii_case("idempotent-replayed: true"));
    ensure!(is_replay, "a key that another gateway executed was not replayed:\n{answer}");

    let load = wrk::Load::new(&folder, CONNECTIONS / 2)?;
    let mut runs = COURSES.map(|_| Vec::new());
    for round in 0..scale.rounds {
        for (course, runs) in COURSES.iter().zip(&mut runs) {
            let (name, keys) = (server.name(), course.keys.shown());
            eprintln!("shared: {name}, {} gateway(s), {keys}, round {}", course.gateways, round + 1);
            runs.push(run(*course, &gateways, server, &load, scale, disk)?);
        }
    }
    judge(server.name(), &runs, report);
    let row = |(course, runs): (&Course, &Vec<Measured>)| {
        let of = |value: fn(&Measured) -> f64| figure(median(runs.iter().map(value)));
        vec![
            server.name().to_owned(),
            course.gateways.to_string(),
            course.keys.shown().to_owned(),
            of(|run| run.per_second),
            of(|run| run.p50_ms),
            of(|run| run.p99_ms),
            of(|run| run.gateways_us),
            of(|run| run.server_us),
            of(|run| run.r0),
        ]
    };
    Ok(COURSES.iter().zip(&runs).map(row).collect())
}

fn judge(name: &str, runs: &[Vec<Measured>; 3], report: &mut Report) {
    let of = |course: usize, value: fn(&Measured) -> f64| median(runs[course].iter().map(value));
    let part = |(two, one): (&Measured, &Measured)| two.gateways_us / one.gateways_us;
    report.target(
        format!("{name}, CPU per request, two gateways ÷ one"),
        Bound::AtMost(MORE),
        median(runs[TWO].iter().zip(&runs[ONE]).map(part)),
        format!(
            "{} ÷ {} µs, {} and {} requests/s",
            figure(of(TWO, |run| run.gateways_us)),
            figure(of(ONE, |run| run.gateways_us)),
            figure(of(TWO, |run| run.per_second)),
            figure(of(ONE, |run| run.per_second))
        ),
    );
}

fn run(
    course: Course,
    gateways: &[Gateway; 2],
    server: &Server,
    load: &wrk::Load,
    scale: &Scale,
    disk: &mut RawDisk,
) -> anyhow::Result<Measured> {
    let targets = [&gateways[0], &gateways[course.gateways - 1]];
    let both = |duration| -> anyhow::Result<Vec<Ran>> {
        thread::scope(|scope| {
            let run = |target: &Gateway| {
                load.run(&format!("http://{}{COVERED}", target.at), course.keys, duration, &target.running)
            };
            let running = targets.map(|target| scope.spawn(move || run(target)));
            running.into_iter().map(|one| one.join().expect("the load does not panic")).collect()
        })
    };
    // The first second warms connections up.
    both(std::time::Duration::from_secs(1))?;
    let before = disk.probe()?;
    let processor = || gateways.iter().map(|gateway| gateway.running.processor_seconds()).sum::<f64>();
    let (gateways_before, server_before) = (processor(), server.processor_seconds());
    let ran = both(scale.gateway_run)?;
    let requests: f64 = ran.iter().map(|ran| ran.requests).sum();
    Ok(Measured {
        per_second: ran.iter().map(|ran| ran.per_second).sum(),
        p50_ms: median(ran.iter().map(|ran| ran.p50_ms)),
        p99_ms: ran.iter().map(|ran| ran.p99_ms).fold(0.0, f64::max),
        gateways_us: (processor() - gateways_before) * 1e6 / requests,
        server_us: (server.processor_seconds() - server_before) * 1e6 / requests,
        r0: f64::midpoint(before, disk.probe()?),
    })
}

/// A gateway that serves.
struct Gateway {
    at: SocketAddr,
    running: Running,
}

fn start(folder: &PathBuf, semel: &Path, origin: SocketAddr, url: &str) -> anyhow::Result<Gateway> {
    fs::create_dir_all(folder).context("cannot make a folder")?;
    let secret = folder.join("secret-of-all");
    fs::write(&secret, SECRET).context("cannot write a secret")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).context("cannot protect a secret")?;
    let at = free_address()?;
    let config = format!(
        "[gateway]\nlisten = \"{at}\"\nupstream = \"http://{origin}\"\ndata = \"{}\"\nlog_filter = \"warn\"\n\n[store]\nurl \
         = \"{url}\"\nsecret_file = \"{}\"\n\n[[route]]\nmethods = [\"POST\"]\npath = \"{COVERED}\"\n",
        folder.join("data").display(),
        secret.display()
    );
    let file = folder.join("semel.toml");
    fs::write(&file, config).context("cannot configure semel")?;
    let mut command = Command::new(semel);
    command.arg("serve").arg("--config").arg(&file).env_remove("SEMEL_STORE").env_remove("SEMEL_SECRET_FILE");
    command.env_remove("SEMEL_STORE_PASSWORD");
    Ok(Gateway { at, running: Running::start(command, folder, at)? })
}
