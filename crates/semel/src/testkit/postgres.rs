//! A PostgreSQL server of one's own, for as long as a test process lives.

use std::{
    env, fmt, fs,
    io::{self, BufRead, BufReader, Read},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// A private server on a free port of the loopback interface, with its data in a temporary folder. It is stopped and its
/// folder deleted when this is dropped, and also when the process ends without dropping it.
///
/// Needs the binaries of PostgreSQL (Debian package `postgresql`): from the folder in `SEMEL_POSTGRES_BIN`, or the newest
/// in `/usr/lib/postgresql/*/bin`, or `PATH`. A server refuses to run as root, so root runs it as the user `postgres`.
///
/// It does not sync to disk: what it is for is crashes of its clients.
pub struct PrivatePostgres {
    port: u16,
    bin: PathBuf,
    databases: AtomicU32,
    /// The keeper stops the server when this closes.
    stdin: Option<ChildStdin>,
    keeper: Child,
}

/// Starts a server, says that it did, and stops it when there is nobody any more at the other end of its standard input.
const KEEPER: &str = r#"
set -eu
folder=$(mktemp -d "${TMPDIR:-/tmp}/semel-postgres.XXXXXX")
trap 'rm -rf "$folder"' EXIT
"$BIN/initdb" -D "$folder/data" -U postgres -A trust --no-sync -E UTF8 --no-locale >"$folder/log" 2>&1 \
    || { cat "$folder/log" >&2; exit 1; }
"$BIN/pg_ctl" -D "$folder/data" -l "$folder/log" -w -t 60 -o "-p $PORT -F -c listen_addresses=127.0.0.1 \
    -c unix_socket_directories= -c max_connections=300 -c shared_buffers=16MB -c autovacuum=off" start >/dev/null \
    || { cat "$folder/log" >&2; exit 1; }
echo started
cat >/dev/null
"$BIN/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null
"#;

impl PrivatePostgres {
    /// The server of this process, which all its tests share; each takes a database of its own.
    ///
    /// # Panics
    /// With the reason, if it cannot be started. A test that needs a server and has none has failed.
    pub fn shared() -> &'static PrivatePostgres {
        static SERVER: OnceLock<PrivatePostgres> = OnceLock::new();
        SERVER.get_or_init(|| PrivatePostgres::start().unwrap_or_else(|error| panic!("{error}")))
    }

    /// Starts a server and waits until it can be connected to.
    pub fn start() -> io::Result<PrivatePostgres> {
        let bin = bin()?;
        // A free port may be taken before the server gets there.
        let mut last = None;
        for _ in 0..3 {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            match start(&bin, port) {
                Ok((mut keeper, stdin)) => {
                    let stdin = Some(stdin);
                    drop(keeper.stdout.take());
                    return Ok(PrivatePostgres { port, bin, databases: AtomicU32::new(0), stdin, keeper });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("three starts were tried"))
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database on it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Creates an empty database and says its name.
    pub fn fresh_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let port = self.port.to_string();
        let created = Command::new(self.bin.join("createdb"))
            .args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-w", &name])
            .output()
            .expect("createdb is beside the server");
        assert!(created.status.success(), "createdb: {}", String::from_utf8_lossy(&created.stderr));
        name
    }
}

impl fmt::Debug for PrivatePostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivatePostgres").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.keeper.wait();
    }
}

fn start(bin: &Path, port: u16) -> io::Result<(Child, ChildStdin)> {
    let mut keeper = Command::new("sh");
    keeper.args(["-c", KEEPER]).env("BIN", bin).env("PORT", port.to_string());
    // The folder of the test may not be the server's to enter, and Ctrl-C is for the test: the keeper sees it end.
    keeper.current_dir("/").process_group(0);
    if id(&["-u"])? == 0 {
        keeper.uid(id(&["-u", "postgres"])?).gid(id(&["-g", "postgres"])?);
    }
    keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut keeper = keeper.spawn()?;
    let stdin = keeper.stdin.take().expect("the standard input is a pipe");
    let mut said = String::new();
    BufReader::new(keeper.stdout.as_mut().expect("the standard output is a pipe")).read_line(&mut said)?;
    if said.trim() == "started" {
        return Ok((keeper, stdin));
    }
    let mut why = String::new();
    keeper.stderr.take().expect("the standard error is a pipe").read_to_string(&mut why)?;
    keeper.wait()?;
    Err(io::Error::other(format!("PostgreSQL does not start: {why}")))
}

fn bin() -> io::Result<PathBuf> {
    let is_bin = |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("pg_ctl").is_file();
    if let Some(folder) = env::var_os("SEMEL_POSTGRES_BIN").map(PathBuf::from) {
        return Ok(folder);
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|version| Some((version.file_name().to_str()?.parse().ok()?, version.path().join("bin"))))
        .filter(|(_, folder)| is_bin(folder))
        .collect();
    versions.sort();
    let newest = versions.pop().map(|(_, folder)| folder);
    newest.or_else(|| env::split_paths(&env::var_os("PATH")?).find(is_bin)).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "this test needs a PostgreSQL server (initdb and pg_ctl): run `cargo xtask test`, which installs it, or install the Debian package postgresql, or set SEMEL_POSTGRES_BIN",
        )
    })
}

/// Asks `id`, since the standard library cannot.
fn id(args: &[&str]) -> io::Result<u32> {
    let said = Command::new("id").args(args).output()?;
    let text = String::from_utf8_lossy(&said.stdout);
    text.trim()
        .parse()
        .map_err(|_| io::Error::other(format!("id {}: {}", args.join(" "), String::from_utf8_lossy(&said.stderr))))
}
