//! PostgreSQL.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{
    certificates::{self, Tls},
    keeper::{Keeper, Kind, output, percent_encode, quote, until},
    ports, programs,
};

/// A private PostgreSQL server.
///
/// Needs the binaries of PostgreSQL (Debian package `postgresql`): from the folder in `SEMEL_POSTGRES_BIN`, or the newest
/// in `/usr/lib/postgresql/*/bin`, or `PATH`. A server refuses to run as root, so root runs it as the user `postgres`.
#[derive(Debug)]
pub struct PrivatePostgres {
    keeper: Keeper,
    bin: PathBuf,
    port: u16,
    options: PostgresOptions,
    databases: AtomicU32,
}

/// How a private PostgreSQL server is set up.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// Whether a commit waits for the disk. Without, a crash of the server is survived, one of the machine is not.
    pub fsync: bool,
    /// Whether connections are encrypted; if so, plain ones are refused.
    pub tls: Tls,
    /// The password of the user `postgres`, asked for with SCRAM; without one everybody is let in.
    pub password: Option<String>,
    /// Further settings, by name; they win over those that this crate chooses.
    pub settings: Vec<(String, String)>,
}

/// Whether a commit on a primary waits for a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replication {
    /// Until the replica has it on disk; for ever, if the replica is gone.
    Synchronous,
    /// It does not wait.
    Asynchronous,
}

/// What suits a small server that lives for minutes.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("max_connections", "300"),
    ("shared_buffers", "16MB"),
    ("autovacuum", "off"),
];

impl PrivatePostgres {
    /// The server of this process, which all its tests share; each takes a database of its own. It does not sync to
    /// disk: what it is for is crashes of its clients.
    ///
    /// # Panics
    /// With the reason, if it cannot be started. A test that needs a server and has none has failed.
    pub fn shared() -> &'static PrivatePostgres {
        static SERVER: OnceLock<PrivatePostgres> = OnceLock::new();
        SERVER.get_or_init(|| PrivatePostgres::start().unwrap_or_else(|error| panic!("{error}")))
    }

    /// The same, and a commit waits for the disk.
    pub fn shared_durable() -> &'static PrivatePostgres {
        static SERVER: OnceLock<PrivatePostgres> = OnceLock::new();
        SERVER.get_or_init(|| {
            let options = PostgresOptions { fsync: true, ..PostgresOptions::default() };
            PrivatePostgres::start_with(options).unwrap_or_else(|error| panic!("{error}"))
        })
    }

    /// Starts a server that does not sync to disk, and waits until it can be connected to.
    pub fn start() -> io::Result<PrivatePostgres> {
        PrivatePostgres::start_with(PostgresOptions::default())
    }

    /// Starts a server and waits until it can be connected to.
    pub fn start_with(options: PostgresOptions) -> io::Result<PrivatePostgres> {
        let bin = programs::postgres()?;
        let keeper = Keeper::start(&KIND)?;
        let password = options.password.as_deref().unwrap_or_default();
        keeper.run(&format!("(umask 077; printf %s {} >password)", quote(password)))?;
        if options.tls != Tls::Off {
            certificates::write(&keeper, USER)?;
        }
        let authentication = match options.password {
            None => "-A trust",
            Some(_) => "-A scram-sha-256 --pwfile=password",
        };
        let initdb = quote(&bin.join("initdb").display().to_string());
        keeper.run(&format!(
            "{initdb} -D data -U {USER} {authentication} --no-sync -E UTF8 --no-locale && {}",
            admits(&options)
        ))?;
        PrivatePostgres::serve_somewhere(keeper, bin, options)
    }

    /// A free port may be taken before the server gets there.
    fn serve_somewhere(keeper: Keeper, bin: PathBuf, options: PostgresOptions) -> io::Result<PrivatePostgres> {
        let mut server = PrivatePostgres { keeper, bin, port: 0, options, databases: AtomicU32::new(0) };
        let mut last = None;
        for _ in 0..3 {
            server.port = ports::free()?;
            match server.start_again() {
                Ok(()) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("three starts were tried"))
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database on it, with the password if it has one, and `sslmode=require` if it speaks TLS.
    pub fn url(&self, database: &str) -> String {
        let password =
            self.options.password.as_ref().map(|password| format!(":{}", percent_encode(password))).unwrap_or_default();
        let more = if self.options.tls == Tls::Off { "" } else { "?sslmode=require" };
        format!("postgres://{USER}{password}@127.0.0.1:{}/{database}{more}", self.port)
    }

    /// The certificate of who signed the server's; there with TLS only, as are the client's.
    pub fn ca_file(&self) -> PathBuf {
        self.keeper.folder().join(certificates::CA)
    }

    /// A client certificate that the server takes.
    pub fn client_cert_file(&self) -> PathBuf {
        self.keeper.folder().join(certificates::CLIENT_CERTIFICATE)
    }

    /// The key of [`Self::client_cert_file`].
    pub fn client_key_file(&self) -> PathBuf {
        self.keeper.folder().join(certificates::CLIENT_KEY)
    }

    /// Where its data is, until it is dropped.
    pub fn folder(&self) -> &Path {
        self.keeper.folder()
    }

    /// A program that came with the server, such as `pgbench`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The process that all others of the server are children of, while it runs.
    pub fn process(&self) -> Option<u32> {
        self.keeper.server()
    }

    /// Creates an empty database and says its name.
    pub fn fresh_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name}")).unwrap_or_else(|error| panic!("{error}"));
        name
    }

    /// What `psql` says to SQL in a database: rows by line, columns by `|`. An error has what the server said.
    pub fn psql(&self, database: &str, sql: &str) -> io::Result<String> {
        psql(
            &self.bin,
            &self.url(database),
            sql,
            &[("PGSSLCERT", self.client_cert_file()), ("PGSSLKEY", self.client_key_file())],
        )
    }

    /// Ends it in good order, sessions included. [`Self::start_again`] starts it.
    pub fn stop(&self) {
        self.keeper.end("INT");
    }

    /// Ends it as a crash does: what was not yet in its log is lost, and it recovers when it starts again.
    pub fn stop_immediately(&self) {
        self.keeper.end(KIND.end);
    }

    /// Starts it after a stop, on the same port and the same data.
    pub fn start_again(&self) -> io::Result<()> {
        let sync = if self.options.fsync { "" } else { "-F" };
        let chosen = SETTINGS.iter().map(|(name, value)| (*name, *value));
        let asked = self.options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let tls = ["ssl", "ssl_ca_file", "ssl_cert_file", "ssl_key_file"].into_iter().zip([
            "on".to_owned(),
            self.ca_file().display().to_string(),
            self.keeper.folder().join(certificates::SERVER_CERTIFICATE).display().to_string(),
            self.keeper.folder().join(certificates::SERVER_KEY).display().to_string(),
        ]);
        let mut settings: Vec<String> =
            chosen.chain(asked).map(|(name, value)| format!("-c {name}={}", quote(value))).collect();
        if self.options.tls != Tls::Off {
            settings.extend(tls.map(|(name, value)| format!("-c {name}={}", quote(&value))));
        }
        let program = quote(&self.bin.join("postgres").display().to_string());
        let script = format!("serve {program} -D data -p {} {sync} {}", self.port, settings.join(" "));
        self.keeper.serve(&script, |server| self.is_ready(server))
    }

    /// [`Self::stop`] and [`Self::start_again`].
    pub fn restart(&self) -> io::Result<()> {
        self.stop();
        self.start_again()
    }

    /// A new replica of this server, which follows it. To be promoted after this one is over.
    ///
    /// A primary has at most one synchronous replica here: the one that was asked for last.
    pub fn replica(&self, replication: Replication) -> io::Result<PrivatePostgres> {
        let keeper = Keeper::start(&KIND)?;
        let name = format!("replica_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        if self.options.tls != Tls::Off {
            // The same, so that a client that trusts the primary trusts whom it is replaced by.
            keeper.run(&format!("cp {}/*.pem {0}/*.key .", quote(&self.keeper.folder().display().to_string())))?;
        }
        let primary = format!("{}{}application_name={name}", self.url(""), separator(&self.url("")));
        let backup = quote(&self.bin.join("pg_basebackup").display().to_string());
        keeper.run(&format!(
            "PGSSLCERT=\"$folder/client.pem\" PGSSLKEY=\"$folder/client.key\" {backup} -D data -d {} -R -X stream -c fast --no-sync && sed -i /synchronous_standby_names/d data/postgresql.auto.conf",
            quote(&primary)
        ))?;
        let replica = PrivatePostgres::serve_somewhere(keeper, self.bin.clone(), self.options.clone())?;
        let state = match replication {
            Replication::Asynchronous => "state = 'streaming'",
            Replication::Synchronous => {
                self.psql("postgres", &format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"))?;
                self.psql("postgres", "SELECT pg_reload_conf()")?;
                "sync_state = 'sync'"
            }
        };
        let follows = format!("SELECT 1 FROM pg_stat_replication WHERE application_name = '{name}' AND {state}");
        until(|| self.psql("postgres", &follows).is_ok_and(|said| said == "1"))?;
        Ok(replica)
    }

    /// Makes a replica a primary, and waits until it takes writes.
    pub fn promote(&self) -> io::Result<()> {
        let said = self.psql("postgres", "SELECT pg_promote(true, 60)")?;
        if said == "t" { Ok(()) } else { Err(io::Error::other("the replica is not promoted within a minute")) }
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.options.password.as_deref()
    }

    pub(crate) fn tls(&self) -> Tls {
        self.options.tls
    }

    /// Whether it is this server that is ready, and not one that it left a file of.
    fn is_ready(&self, server: u32) -> bool {
        let says = fs::read_to_string(self.keeper.folder().join("data/postmaster.pid")).unwrap_or_default();
        let line = |number| says.lines().nth(number).unwrap_or_default().trim();
        // A replica that lets clients in is ready too: that is what it says when it is a hot standby.
        line(0) == server.to_string() && line(7) == "ready"
    }
}

const USER: &str = "postgres";

const KIND: Kind = Kind { name: "postgres", user: Some(USER), end: "QUIT" };

/// Writes who is let in.
fn admits(options: &PostgresOptions) -> String {
    let connection = if options.tls == Tls::Off { "host" } else { "hostssl" };
    let method = if options.password.is_some() { "scram-sha-256" } else { "trust" };
    let certificate = if options.tls == Tls::Mutual { "clientcert=verify-ca" } else { "" };
    let line = |database| format!("{connection} {database} all 127.0.0.1/32 {method} {certificate}");
    format!("printf '%s\\n' '{}' '{}' >data/pg_hba.conf", line("all"), line("replication"))
}

fn separator(url: &str) -> char {
    if url.contains('?') { '&' } else { '?' }
}

pub(crate) fn psql(bin: &Path, url: &str, sql: &str, environment: &[(&str, PathBuf)]) -> io::Result<String> {
    let mut psql = Command::new(bin.join("psql"));
    psql.args(["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]);
    output(psql.envs(environment.iter().cloned()))
}
