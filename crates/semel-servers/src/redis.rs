//! Redis, or Valkey.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::{
    certificates::{self, Tls},
    keeper::{Keeper, Kind, output, percent_encode, quote, until},
    ports, programs,
};

/// A private Redis or Valkey server.
///
/// Needs `redis-server` and `redis-cli` (Debian package `redis-server`) or their namesakes of Valkey: from the folder in
/// `SEMEL_REDIS_BIN`, or from `PATH`.
#[derive(Debug)]
pub struct PrivateRedis {
    keeper: Keeper,
    server: PathBuf,
    client: PathBuf,
    port: u16,
    options: RedisOptions,
}

/// How a private Redis server is set up.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// Whether it writes a log of what changed, without which a restart loses everything.
    pub appendonly: bool,
    /// When that log is synced to disk: `always`, `everysec` or `no`.
    pub appendfsync: &'static str,
    /// What it does when its memory is full: `noeviction` refuses writes.
    pub maxmemory_policy: &'static str,
    /// The password of the default user; without one everybody is let in.
    pub password: Option<String>,
    /// Whether connections are encrypted; if so, plain ones are refused.
    pub tls: Tls,
    /// The port on 127.0.0.1 of the server that it follows, which has the same password and no TLS.
    pub replica_of: Option<u16>,
    /// Further settings, by name; they win over those that this crate chooses.
    pub settings: Vec<(String, String)>,
}

impl Default for RedisOptions {
    /// Everything as the store wants it: a log that is synced before a write is answered, and no eviction.
    fn default() -> RedisOptions {
        RedisOptions {
            appendonly: true,
            appendfsync: "always",
            maxmemory_policy: "noeviction",
            password: None,
            tls: Tls::Off,
            replica_of: None,
            settings: Vec::new(),
        }
    }
}

impl PrivateRedis {
    /// The server of this process, which all its tests share; each takes a prefix of its own.
    ///
    /// # Panics
    /// With the reason, if it cannot be started. A test that needs a server and has none has failed.
    pub fn shared() -> &'static PrivateRedis {
        static SERVER: OnceLock<PrivateRedis> = OnceLock::new();
        SERVER.get_or_init(|| PrivateRedis::start().unwrap_or_else(|error| panic!("{error}")))
    }

    /// Starts a server with [`RedisOptions::default`], and waits until it can be connected to.
    pub fn start() -> io::Result<PrivateRedis> {
        PrivateRedis::start_with(RedisOptions::default())
    }

    /// Starts a server and waits until it can be connected to; a replica, until it has what its primary has.
    pub fn start_with(options: RedisOptions) -> io::Result<PrivateRedis> {
        let (server, client) = programs::redis()?;
        let keeper = Keeper::start(&Kind { name: "redis", user: None, end: "KILL" })?;
        if options.tls != Tls::Off {
            certificates::write(&keeper, "client")?;
        }
        let mut server = PrivateRedis { keeper, server, client, port: 0, options };
        // A free port may be taken before the server gets there.
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

    /// Its URL, with the password if it has one: `redis://`, or `rediss://` if it speaks TLS.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls == Tls::Off { "redis" } else { "rediss" };
        let password = self
            .options
            .password
            .as_ref()
            .map(|password| format!(":{}@", percent_encode(password)))
            .unwrap_or_default();
        format!("{scheme}://{password}127.0.0.1:{}", self.port)
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

    /// A program that came with the server: `cli`, or `benchmark`.
    pub fn program(&self, name: &str) -> PathBuf {
        let server = self.server.file_name().unwrap_or_default().to_string_lossy();
        self.server.with_file_name(server.replace("server", name))
    }

    /// Its process, while it runs.
    pub fn process(&self) -> Option<u32> {
        self.keeper.server()
    }

    /// What the server's own client says to a command. An error, if the server answers with one.
    pub fn cli(&self, command: &[&str]) -> io::Result<String> {
        let mut client = Command::new(&self.client);
        client.args(["-e", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        if let Some(password) = &self.options.password {
            client.env("REDISCLI_AUTH", password);
        }
        if self.options.tls != Tls::Off {
            client.arg("--tls").arg("--cacert").arg(self.ca_file());
            client.arg("--cert").arg(self.client_cert_file()).arg("--key").arg(self.client_key_file());
        }
        output(client.args(command))
    }

    /// Ends it in good order. [`Self::start_again`] starts it.
    pub fn stop(&self) {
        self.keeper.end("TERM");
    }

    /// Kills it.
    pub fn crash(&self) {
        self.keeper.end("KILL");
    }

    /// Starts it after a stop or crash, on the same port and the same data.
    pub fn start_again(&self) -> io::Result<()> {
        let script = format!("serve {} {}", quote(&self.server.display().to_string()), self.arguments());
        self.keeper.serve(&script, |server| self.is_ready(server))
    }

    /// [`Self::stop`] and [`Self::start_again`].
    pub fn restart(&self) -> io::Result<()> {
        self.stop();
        self.start_again()
    }

    /// Stops it in the middle of whatever it does: connections stay, and nothing is answered.
    pub fn pause(&self) {
        self.keeper.signal("STOP");
    }

    /// Lets it go on after a pause.
    pub fn resume(&self) {
        self.keeper.signal("CONT");
    }

    fn arguments(&self) -> String {
        let options = &self.options;
        let port = self.port.to_string();
        let (port, tls_port) = if options.tls == Tls::Off { (&*port, "0") } else { ("0", &*port) };
        let mut settings = vec![
            ("port", port),
            ("tls-port", tls_port),
            ("bind", "127.0.0.1"),
            // No snapshots: what a restart brings back is what the log has.
            ("save", ""),
            ("appendonly", if options.appendonly { "yes" } else { "no" }),
            ("appendfsync", options.appendfsync),
            ("maxmemory-policy", options.maxmemory_policy),
            // A replica is brought up without waiting for others to ask for the same.
            ("repl-diskless-sync-delay", "0"),
            ("repl-ping-replica-period", "1"),
        ];
        if options.tls != Tls::Off {
            settings.extend([
                ("tls-ca-cert-file", certificates::CA),
                ("tls-cert-file", certificates::SERVER_CERTIFICATE),
                ("tls-key-file", certificates::SERVER_KEY),
                ("tls-auth-clients", if options.tls == Tls::Mutual { "yes" } else { "no" }),
            ]);
        }
        if let Some(password) = &options.password {
            settings.extend([("requirepass", &**password), ("masterauth", &**password)]);
        }
        let primary = options.replica_of.map(|port| format!("127.0.0.1 {port}"));
        settings.extend(primary.as_ref().map(|primary| ("replicaof", &**primary)));
        settings.extend(options.settings.iter().map(|(name, value)| (&**name, &**value)));
        let arguments: Vec<String> =
            settings.iter().map(|(name, value)| format!("--{name} {}", quote(value))).collect();
        arguments.join(" ")
    }

    /// Whether it is this server that answers, and has read what it had on disk.
    fn is_ready(&self, server: u32) -> bool {
        let follows = || self.options.replica_of.is_none() || self.info("master_link_status:up");
        self.info(&format!("process_id:{server}")) && self.info("loading:0") && follows()
    }

    /// Whether its `INFO` has such a line.
    pub(crate) fn info(&self, line: &str) -> bool {
        self.says(&["INFO", "everything"], line)
    }

    pub(crate) fn runs(&self) -> bool {
        self.keeper.server().is_some()
    }

    fn says(&self, command: &[&str], wanted: &str) -> bool {
        self.cli(command).is_ok_and(|said| said.lines().any(|line| line.trim_end() == wanted))
    }

    /// Waits until its own client says `wanted` to a command.
    pub(crate) fn wait_for(&self, command: &[&str], wanted: &str) -> io::Result<()> {
        until(|| self.says(command, wanted))
    }
}
