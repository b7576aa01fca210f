//! The gateway beside itself without the layer, and beside nginx as a plain proxy: same origin, same load.

mod operators;
pub(crate) mod process;
pub(crate) mod wrk;

use std::{
    fs::{self, Permissions},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use process::{Running, free_address, server_program};
use wrk::{Keys, Ran};

use crate::{
    Scale,
    raw::RawDisk,
    report::{Bound, Report, Section, figure},
    seal,
    stats::median,
};

/// Where to send the load, and with which keys.
struct Course {
    name: &'static str,
    server: Server,
    path: &'static str,
    keys: Keys,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Origin,
    Nginx,
    Semel,
}

pub(crate) const COVERED: &str = "/orders";
const UNCOVERED: &str = "/plain";
/// Covered, and the origin closes the connection instead of answering.
const LOST: &str = "/lost";

const NGINX_FRESH: usize = 1;
const BARE_FRESH: usize = 2;
const FIRST: usize = 3;
const NGINX_AGAIN: usize = 4;
const BARE_AGAIN: usize = 5;
const REPLAY: usize = 6;

/// In each round in this order, so that what is divided ran in the same minute.
const COURSES: [Course; 7] = [
    Course { name: "origin itself", server: Server::Origin, path: COVERED, keys: Keys::Fresh },
    Course { name: "nginx, plain proxy", server: Server::Nginx, path: COVERED, keys: Keys::Fresh },
    Course { name: "semel, uncovered path", server: Server::Semel, path: UNCOVERED, keys: Keys::Fresh },
    Course { name: "semel, first executions", server: Server::Semel, path: COVERED, keys: Keys::Fresh },
    Course { name: "nginx, plain proxy", server: Server::Nginx, path: COVERED, keys: Keys::Again },
    Course { name: "semel, uncovered path", server: Server::Semel, path: UNCOVERED, keys: Keys::Again },
    Course { name: "semel, replays", server: Server::Semel, path: COVERED, keys: Keys::Again },
];

const CONNECTIONS: u32 = 64;

/// Starts the three servers, loads each, and stops them, on errors too.
pub(crate) fn measure(folder: &Path, semel: &Path, scale: &Scale, report: &mut Report) -> anyhow::Result<()> {
    let folder = folder.join("gateway");
    fs::create_dir_all(&folder).context("cannot make a folder")?;
    let mut disk = RawDisk::new(&folder, scale.probe)?;
    let origin_at = free_address()?;
    let nginx_at = free_address()?;
    let semel_at = free_address()?;
    let admin_at = free_address()?;
    let servers = [
        (Server::Origin, origin_at, start_nginx(&folder, "origin", origin_at, &origin(origin_at))?),
        (Server::Nginx, nginx_at, start_nginx(&folder, "proxy", nginx_at, &proxy(nginx_at, origin_at))?),
        (Server::Semel, semel_at, start_semel(&folder, semel, semel_at, admin_at, origin_at)?),
    ];
    let wrk = wrk::Load::new(&folder, CONNECTIONS)?;
    execute_once(semel_at)?;

    let mut runs: Vec<Vec<(Ran, f64)>> = COURSES.iter().map(|_| Vec::new()).collect();
    for round in 0..scale.rounds {
        for (course, runs) in COURSES.iter().zip(&mut runs) {
            eprintln!("gateway: {}, {}, round {}", course.name, course.keys.shown(), round + 1);
            let (_, at, process) =
                servers.iter().find(|(server, ..)| *server == course.server).expect("all three servers run");
            let url = format!("http://{at}{}", course.path);
            // The first second warms connections up.
            wrk.run(&url, course.keys, Duration::from_secs(1), process)?;
            let before = disk.probe()?;
            let ran = wrk.run(&url, course.keys, scale.gateway_run, process)?;
            runs.push((ran, f64::midpoint(before, disk.probe()?)));
        }
    }
    prove_that_replays_were_replays(semel_at)?;

    let rows = COURSES.iter().zip(&runs).map(|(course, runs)| {
        let of = |figure: fn(&(Ran, f64)) -> f64| median(runs.iter().map(figure));
        vec![
            course.name.to_owned(),
            course.keys.shown().to_owned(),
            figure(of(|(ran, _)| ran.per_second)),
            figure(of(|(ran, _)| ran.p50_ms)),
            figure(of(|(ran, _)| ran.p99_ms)),
            figure(of(|(ran, _)| ran.processor_us)),
            figure(of(|(ran, _)| ran.memory_bytes) / 1e6),
            figure(of(|(_, r0)| *r0)),
        ]
    });
    let rows = rows.collect();
    for (what, above, below, bound) in RATIOS {
        let ratio = |(a, b): (&(Ran, f64), &(Ran, f64))| a.0.per_second / b.0.per_second;
        let measured = median(runs[above].iter().zip(&runs[below]).map(ratio));
        let per_second = |course: usize| figure(median(runs[course].iter().map(|(ran, _)| ran.per_second)));
        let r0 = figure(median(runs[above].iter().map(|(_, r0)| *r0)));
        let beside = format!("{} ÷ {} requests/s, R0 {r0}/s", per_second(above), per_second(below));
        report.target(what, Bound::AtLeast(bound), measured, beside);
    }
    report.section(Section {
        title: "Gateway",
        intro: format!(
            "POST of 108 B with an idempotency key, over {CONNECTIONS} connections, from wrk with one thread; \
             nginx as the origin answers 201 with 200 B. wrk, origin and what is \
             measured share the machine. An uncovered path runs through the same gateway without the layer; \
             fresh keys are never seen before, and of those sent again there are \
             {}. Access logs are off on both sides. CPU is that of what is measured alone.",
            wrk::KEYS_AGAIN
        ),
        columns: vec!["through", "keys", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "MB", "R0/s"],
        rows,
    });
    let of = |course: usize, figure: fn(&Ran) -> f64| median(runs[course].iter().map(|(ran, _)| figure(ran)));
    let own = seal::Gateway {
        first_p99_ms: of(FIRST, |ran| ran.p99_ms),
        replay_p99_ms: of(REPLAY, |ran| ran.p99_ms),
        first_processor_us: of(FIRST, |ran| ran.processor_us),
    };
    seal::measure(&own, scale, report)?;
    let (.., process) = servers.iter().find(|(server, ..)| *server == Server::Semel).expect("all three servers run");
    operators::measure(&operators::Gateway { at: semel_at, admin: admin_at, process }, &wrk, scale, report)
}

/// What is divided by what, and the least it shall be.
const RATIOS: [(&str, usize, usize, f64); 4] = [
    ("gateway, first executions ÷ without the layer", FIRST, BARE_FRESH, 0.60),
    ("gateway, first executions ÷ nginx", FIRST, NGINX_FRESH, 0.50),
    ("gateway, uncovered ÷ nginx", BARE_AGAIN, NGINX_AGAIN, 0.90),
    ("gateway, replays ÷ uncovered", REPLAY, BARE_AGAIN, 0.90),
];

pub(crate) fn start_nginx(folder: &Path, name: &str, at: SocketAddr, http: &str) -> anyhow::Result<Running> {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).context("cannot make a folder")?;
    // Everything that nginx would put elsewhere goes into the folder, so that it runs for anybody.
    let conf = format!(
        "daemon off;\npid nginx.pid;\nerror_log error.log warn;\nworker_processes {};\nevents {{ \
         worker_connections 4096; }}\nhttp {{\n  access_log off;\n  \
         client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n  uwsgi_temp_path \
         uwsgi;\n  scgi_temp_path scgi;\n  \
         keepalive_requests 1000000000;\n{http}\n}}\n",
        if name == "origin" { 1 } else { 2 }
    );
    fs::write(folder.join("nginx.conf"), conf).context("cannot configure nginx")?;
    let mut command = Command::new(server_program("nginx")?);
    command.arg("-p").arg(&folder).args(["-c", "nginx.conf", "-e", "error.log"]);
    Running::start(command, &folder, at)
}

pub(crate) fn origin(at: SocketAddr) -> String {
    let content = "x".repeat(186);
    format!(
        "  server {{\n    listen {at};\n    default_type application/json;\n    location {LOST} {{ return 444; }}\n    location / {{ return 201 \
         '{{\"order\": \"{content}\"}}'; }}\n  }}"
    )
}

fn proxy(at: SocketAddr, origin: SocketAddr) -> String {
    format!(
        "  upstream origin {{ server {origin}; keepalive 256; keepalive_requests 1000000000; }}\n  server {{\n  \
           listen {at} reuseport;\n    location / {{\n      \
         proxy_pass http://origin;\n      proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n    \
         }}\n  }}"
    )
}

fn start_semel(
    folder: &Path,
    semel: &Path,
    at: SocketAddr,
    admin: SocketAddr,
    origin: SocketAddr,
) -> anyhow::Result<Running> {
    let folder = folder.join("semel");
    fs::create_dir_all(&folder).context("cannot make a folder")?;
    let (data, token) = (folder.join("data"), folder.join("token"));
    fs::write(&token, operators::TOKEN).context("cannot write the token of operators")?;
    fs::set_permissions(&token, Permissions::from_mode(0o600))?;
    let config = format!(
        "[gateway]\nlisten = \"{at}\"\nadmin = \"{admin}\"\nadmin_token_file = \"{}\"\nupstream = \
         \"http://{origin}\"\ndata = \"{}\"\nlog_filter = \"error\"\n\n[[route]]\nmethods = [\"POST\"]\npath = \
         \"{COVERED}\"\n\n[[route]]\nmethods = [\"POST\"]\npath = \"{LOST}\"\n",
        token.display(),
        data.display()
    );
    let file = folder.join("semel.toml");
    fs::write(&file, config).context("cannot configure semel")?;
    let mut command = Command::new(semel);
    command.arg("serve").arg("--config").arg(&file);
    Running::start(command, &folder, at)
}

/// Lets every key that is sent again be executed once, so that what is measured then is replays alone.
pub(crate) fn execute_once(semel: SocketAddr) -> anyhow::Result<()> {
    let of_one = |first: u32| (first..=wrk::KEYS_AGAIN).step_by(16).try_for_each(|key| ask(semel, key).map(drop));
    std::thread::scope(|scope| {
        let asking: Vec<_> = (1..=16).map(|first| scope.spawn(move || of_one(first))).collect();
        asking.into_iter().try_for_each(|one| one.join().expect("asking does not panic"))
    })
}

/// A figure of replays that were none would be a lie.
fn prove_that_replays_were_replays(semel: SocketAddr) -> anyhow::Result<()> {
    let answer = ask(semel, 1)?;
    let marked = answer.lines().any(|line| line.eq_ignore_ascii_case("idempotent-replayed: true"));
    ensure!(marked, "a key that was sent again was not replayed:\n{answer}");
    Ok(())
}

/// Sends one of the keys that are sent again.
pub(crate) fn ask(semel: SocketAddr, key: u32) -> anyhow::Result<String> {
    send(semel, COVERED, &wrk::key_again(key))
}

/// Sends a request with a key.
fn send(semel: SocketAddr, path: &str, key: &str) -> anyhow::Result<String> {
    let headers = format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n");
    http(semel, "POST", path, &headers, wrk::CONTENT)
}

/// Sends a request on a connection of its own; the answer with its head. `headers` end with a line's end each.
fn http(at: SocketAddr, method: &str, path: &str, headers: &str, content: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(at).context("cannot reach the gateway")?;
    stream.set_nodelay(true)?;
    let length = content.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n");
    stream.write_all(format!("{head}{headers}Content-Length: {length}\r\n\r\n{content}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("cannot read the gateway's answer")?;
    Ok(answer)
}
