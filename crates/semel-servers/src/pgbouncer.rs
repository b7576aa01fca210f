//! PgBouncer.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    Tls,
    keeper::{Keeper, Kind, quote},
    ports,
    postgres::{self, PrivatePostgres},
    programs,
};

/// A private PgBouncer before a private PostgreSQL, with few connections to it, so that clients share them.
///
/// Needs `pgbouncer` (Debian package of that name): the program in `SEMEL_PGBOUNCER`, or on `PATH`, or in `/usr/sbin`. It
/// refuses to run as root, so root runs it as the user `postgres`.
#[derive(Debug)]
pub struct PgBouncer {
    keeper: Keeper,
    program: PathBuf,
    port: u16,
    /// The folder of `psql`.
    bin: PathBuf,
}

/// When a client gives back the connection to the server that it was lent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolMode {
    /// When it disconnects.
    Session,
    /// When its transaction ends: what it asked of the session is then for whoever comes next.
    Transaction,
    /// When its statement ends: it can have no transactions.
    Statement,
}

impl PgBouncer {
    /// Starts one before all databases of `server`, and waits until it can be connected to; lets everybody in.
    pub fn start(server: &PrivatePostgres, mode: PoolMode) -> io::Result<PgBouncer> {
        let (program, bin) = (programs::pgbouncer()?, programs::postgres()?);
        let keeper = Keeper::start(&Kind { name: "pgbouncer", user: Some("postgres"), end: "KILL" })?;
        let mut bouncer = PgBouncer { keeper, program, port: 0, bin };
        // A free port may be taken before it gets there.
        let mut last = None;
        for _ in 0..3 {
            bouncer.port = ports::free()?;
            bouncer
                .keeper
                .run(&format!("printf %s {} >pgbouncer.ini", quote(&configuration(server, mode, bouncer.port))))?;
            match bouncer.start_again() {
                Ok(()) => return Ok(bouncer),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("three starts were tried"))
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its configuration is, until it is dropped.
    pub fn folder(&self) -> &Path {
        self.keeper.folder()
    }

    /// The URL of a database behind it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// What `psql` says to SQL in a database behind it: rows by line, columns by `|`.
    pub fn psql(&self, database: &str, sql: &str) -> io::Result<String> {
        postgres::psql(&self.bin, &self.url(database), sql, &[])
    }

    /// Kills it: its clients lose their connections, the server its own.
    pub fn crash(&self) {
        self.keeper.end("KILL");
    }

    /// Starts it after a crash, on the same port.
    pub fn start_again(&self) -> io::Result<()> {
        let program = quote(&self.program.display().to_string());
        // Its own console is there without a server.
        self.keeper.serve(&format!("serve {program} pgbouncer.ini"), |_| self.psql("pgbouncer", "SHOW VERSION").is_ok())
    }
}

fn configuration(server: &PrivatePostgres, mode: PoolMode, port: u16) -> String {
    let mode = match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    };
    let password = server.password().map(|password| format!("password='{}'", password.replace('\'', "''")));
    let tls = if server.tls() == Tls::Off { "disable" } else { "require" };
    let folder = server.folder().display();
    let certificate = match server.tls() {
        Tls::Off | Tls::Server => String::new(),
        Tls::Mutual => {
            format!("server_tls_cert_file = {folder}/client.pem\nserver_tls_key_file = {folder}/client.key\n")
        }
    };
    format!(
        "[databases]\n\
         * = host=127.0.0.1 port={} user=postgres {}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         admin_users = postgres\n\
         pool_mode = {mode}\n\
         default_pool_size = 4\n\
         max_client_conn = 200\n\
         ignore_startup_parameters = extra_float_digits\n\
         server_login_retry = 1\n\
         server_tls_sslmode = {tls}\n{certificate}",
        server.port(),
        password.unwrap_or_default(),
    )
}
