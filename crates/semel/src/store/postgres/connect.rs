//! How a server is reached: the URL, TLS, one connection.

use std::{
    error::Error as _,
    future::poll_fn,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::task::AbortHandle;
use tokio_postgres::{
    AsyncMessage, Client, Config, Row, Statement,
    config::{Host, SslMode, TargetSessionAttrs},
    error::SqlState,
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Options,
    sql::{self, META, SETTINGS},
};
use crate::store::{
    StoreError,
    shared::{Finding, OpenError, Severity, admit},
};

/// Connects as the options say, again and again.
pub(super) struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
    server: String,
    connect_max: Duration,
    accept_loss: bool,
    /// Whether statements have names. Not any more once a pooler is noticed.
    prepared: AtomicBool,
    /// Whether wishes about plans go with the start of a session, as a pooler does not allow.
    wishes: AtomicBool,
    /// Connections there are.
    connected: Arc<AtomicUsize>,
}

/// A parameter and its type, for statements without a name.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Plans that stay right when a partition grows from nothing to millions of rows, and are made once.
const WISHES: &str = "-c enable_seqscan=off -c plan_cache_mode=force_generic_plan -c jit=off";

const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// The oldest server that is known to do.
const SERVER_VERSION_MIN: i32 = 130_000;

impl Connector {
    pub(super) fn new(options: &Options) -> Result<Connector, OpenError> {
        let (url, ssl_mode) = split_ssl_mode(options.url.expose())?;
        // What the parser says may quote the URL, and so a password that was not percent-encoded; with an @ in it, its end
        // would be taken for a host and told.
        let unreadable = || {
            OpenError::Options(
                "the URL of the store cannot be read: postgres://user@host:port/database, with special characters of \
                 user and password percent-encoded"
                    .into(),
            )
        };
        let mut config = Config::from_str(&url).map_err(|_| unreadable())?;
        if config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
            return Err(unreadable());
        }
        if config.get_hosts().is_empty() {
            return Err(OpenError::Options("the URL of the store names no host".into()));
        }
        config
            .ssl_mode(ssl_mode.unwrap_or_else(|| if is_local(&config) { SslMode::Disable } else { SslMode::Require }));
        if let Some(password) = &options.password {
            config.password(password.expose());
        }
        if config.get_application_name().is_none() {
            config.application_name("semel");
        }
        if config.get_target_session_attrs() == TargetSessionAttrs::Any {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        // Each address gets its share: a dead primary must not eat the time of the one that was promoted.
        let hosts = u32::try_from(config.get_hosts().len()).unwrap_or(u32::MAX);
        config.connect_timeout(options.connect_max / hosts);
        config.tcp_user_timeout(options.statement_max.max(options.connect_max));
        // A server that is gone without a word is noticed in about ten seconds.
        config.keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(KEEPALIVE_INTERVAL).keepalives_retries(3);
        Ok(Connector {
            server: server_of(&config),
            tls: MakeRustlsConnect::new(tls(options)?),
            config,
            connect_max: options.connect_max,
            accept_loss: options.accept_loss,
            prepared: AtomicBool::new(options.prepared),
            wishes: AtomicBool::new(options.prepared),
            connected: Arc::default(),
        })
    }

    /// Its hosts and ports.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Whether any connection is there.
    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::SeqCst) > 0
    }

    /// How many connections are there.
    pub(super) fn connections(&self) -> usize {
        self.connected.load(Ordering::SeqCst)
    }

    /// From now on statements have no names: somebody stands in between who mixes sessions.
    pub(super) fn notice_pooler(&self) {
        if self.prepared.swap(false, Ordering::SeqCst) {
            tracing::info!(target: "semel::store", "a pooler is in between: statements are not prepared any more");
        }
    }

    /// Connects, and refuses a server that would lose records, or has not the tables of this release.
    pub(super) async fn connect(&self) -> Result<Connection, OpenError> {
        let mut connection = self.connect_unchecked().await?;
        let findings = connection.findings().await?;
        admit(findings.into_iter().filter(|finding| finding.severity == Severity::Fatal).collect(), self.accept_loss)?;
        connection.check_schema().await?;
        if self.prepared.load(Ordering::SeqCst) {
            match connection.prepare().await {
                Ok(()) => {}
                Err(error) if is_about_names(&error) => self.notice_pooler(),
                Err(error) => return Err(broken(&error).into()),
            }
        }
        Ok(connection)
    }

    /// Connects, whatever the server is like.
    pub(super) async fn connect_unchecked(&self) -> Result<Connection, OpenError> {
        let connecting = tokio::time::timeout(self.connect_max, async {
            if self.wishes.load(Ordering::SeqCst) {
                let mut config = self.config.clone();
                let own = config.get_options().map(|own| format!("{own} ")).unwrap_or_default();
                match config.options(format!("{own}{WISHES}")).connect(self.tls.clone()).await {
                    // A pooler knows nothing of such wishes, and says so in many ways.
                    Err(error) if error.code() == Some(&SqlState::PROTOCOL_VIOLATION) => {
                        self.wishes.store(false, Ordering::SeqCst);
                        self.notice_pooler();
                    }
                    connected => return connected,
                }
            }
            self.config.connect(self.tls.clone()).await
        });
        let (client, mut link) = match connecting.await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(_) => {
                let why = format!("no answer within {:?}", self.connect_max);
                return Err(OpenError::Unreachable { server: self.server.clone(), why });
            }
        };
        let warned: Arc<Mutex<Option<String>>> = Arc::default();
        let connected = Count::one_more(&self.connected);
        let task = tokio::spawn({
            let warned = warned.clone();
            async move {
                let _connected = connected;
                while let Some(Ok(message)) = poll_fn(|cx| link.poll_message(cx)).await {
                    if let AsyncMessage::Notice(notice) = message
                        && notice.code() == &SqlState::WARNING
                    {
                        *warned.lock() = Some(notice.message().to_owned());
                    }
                }
            }
        });
        Ok(Connection { client, warned, task: task.abort_handle(), swap: None, load: None })
    }

    fn unreachable(&self, error: &tokio_postgres::Error) -> OpenError {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !why.contains(&text) {
                why = format!("{why}: {text}");
            }
            source = error.source();
        }
        if why.contains("database does not allow writes") {
            return OpenError::Refused(vec![standby()]);
        }
        if why.contains("server does not support TLS") {
            why.push_str("; if the network in between is yours alone, add sslmode=disable to the URL");
        }
        OpenError::Unreachable { server: self.server.clone(), why }
    }
}

/// A session of a server. Dropping it closes it, whatever it was doing.
pub(super) struct Connection {
    client: Client,
    /// A warning since it was last taken.
    warned: Arc<Mutex<Option<String>>>,
    task: AbortHandle,
    swap: Option<Statement>,
    load: Option<Statement>,
}

/// Which of the two statements that are asked all the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Often {
    Swap,
    Load,
}

impl Often {
    fn sql(self) -> &'static str {
        match self {
            Often::Swap => sql::SWAP,
            Often::Load => sql::LOAD,
        }
    }
}

impl Connection {
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// A warning that came since the last time, such as that a commit did not wait for its replicas.
    pub(super) fn take_warning(&self) -> Option<String> {
        self.warned.lock().take()
    }

    async fn prepare(&mut self) -> Result<(), tokio_postgres::Error> {
        self.swap = Some(self.client.prepare(Often::Swap.sql()).await?);
        self.load = Some(self.client.prepare(Often::Load.sql()).await?);
        Ok(())
    }

    /// Without names from now on.
    pub(super) fn forget_names(&mut self) {
        (self.swap, self.load) = (None, None);
    }

    /// In one round trip, and committed when it answers.
    pub(super) async fn often(
        &self,
        which: Often,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let statement = match which {
            Often::Swap => &self.swap,
            Often::Load => &self.load,
        };
        match statement {
            Some(statement) => {
                let parameters: Vec<_> = parameters.iter().map(|(parameter, _)| *parameter).collect();
                self.client.query(statement, &parameters).await
            }
            None => self.client.query_typed(which.sql(), parameters).await,
        }
    }

    pub(super) async fn query(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.client.query_typed(sql, parameters).await
    }

    pub(super) async fn check_schema(&self) -> Result<(), OpenError> {
        let there =
            self.query("SELECT to_regclass('semel_meta') IS NOT NULL", &[]).await.map_err(|error| broken(&error))?;
        let not_migrated = |found: String| OpenError::NotMigrated { found, needed: sql::VERSION };
        if !there.first().is_some_and(|row| row.get(0)) {
            return Err(not_migrated("not there".into()));
        }
        let rows = self.query(META, &[]).await.map_err(|error| broken(&error))?;
        let Some(row) = rows.first() else { return Err(not_migrated("half made".into())) };
        let found = u32::try_from(row.get::<_, i32>(0)).unwrap_or_default();
        match found.cmp(&sql::VERSION) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(not_migrated(format!("of version {found}"))),
            std::cmp::Ordering::Greater => Err(OpenError::NewerSchema { found, known: sql::VERSION }),
        }
    }

    /// What there is to say of this server.
    pub(super) async fn findings(&self) -> Result<Vec<Finding>, StoreError> {
        let rows = self.query(SETTINGS, &[]).await.map_err(|error| broken(&error))?;
        let row = rows.first().ok_or_else(|| StoreError::Unavailable("the server tells no settings".into()))?;
        let text = |n: usize| -> String { row.get(n) };
        let (version, version_text): (i32, String) = (row.get(0), text(1));
        let (recovering, read_only): (bool, String) = (row.get(2), text(3));
        let (fsync, full_pages, commit, standbys) = (text(4), text(5), text(6), text(7));
        let mut findings = Vec::new();
        let mut find = |severity, what: &str, what_to_do: &str| findings.push(Finding::new(severity, what, what_to_do));
        if version < SERVER_VERSION_MIN {
            let what = format!("the server is PostgreSQL {version_text}");
            find(Severity::Fatal, &what, "this release needs 13 or newer");
        }
        if recovering {
            findings.push(standby());
            return Ok(findings);
        }
        if read_only == "on" {
            let what_to_do = "ALTER ROLE ... SET default_transaction_read_only = off";
            find(Severity::Fatal, "transactions are read-only by default for this role", what_to_do);
        }
        if fsync == "off" {
            let what = "fsync is off: a crash of the machine loses records, or all of them";
            find(Severity::Fatal, what, "set fsync = on");
        }
        if full_pages == "off" {
            let what = "full_page_writes is off: a crash of the machine may damage records";
            find(Severity::Warning, what, "set full_page_writes = on unless the file system writes whole pages");
        }
        if commit == "off" {
            let what = "synchronous_commit is off: a crash of the server forgets what was done just before it";
            find(Severity::Fatal, what, "set synchronous_commit = on for this role or database");
        }
        if standbys.is_empty() {
            let what = "no replica is waited for: if the server is lost for good, so are its last records";
            find(Severity::Note, what, "set synchronous_standby_names if a replica is to be promoted");
        } else if commit == "local" || commit == "remote_write" {
            let what = format!("synchronous_commit is {commit}: a replica that is promoted may lack the last records");
            find(Severity::Warning, &what, "set synchronous_commit = on for this role or database");
        }
        Ok(findings)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts while it is there.
struct Count(Arc<AtomicUsize>);

impl Count {
    fn one_more(count: &Arc<AtomicUsize>) -> Count {
        count.fetch_add(1, Ordering::SeqCst);
        Count(count.clone())
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn standby() -> Finding {
    Finding::new(
        Severity::Fatal,
        "the server is a standby and takes no writes",
        "name the primary, or several hosts of which one is",
    )
}

/// That a named statement is not there, or already is, or is another than the one that was prepared.
pub(super) fn is_about_names(error: &tokio_postgres::Error) -> bool {
    let codes = [&SqlState::INVALID_SQL_STATEMENT_NAME, &SqlState::DUPLICATE_PSTATEMENT, &SqlState::PROTOCOL_VIOLATION];
    error.code().is_some_and(|code| codes.contains(&code))
}

/// Whether it was applied is not known.
pub(super) fn broken(error: &tokio_postgres::Error) -> StoreError {
    let text = match error.as_db_error() {
        Some(error) => format!("{} ({})", error.message(), error.code().code()),
        None => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    };
    StoreError::Unavailable(text)
}

/// The URL without `sslmode`, of which the driver does not know all values, and what it says.
fn split_ssl_mode(url: &str) -> Result<(String, Option<SslMode>), OpenError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(OpenError::Options("the URL of the store starts with postgres://".into()));
    }
    let Some((front, query)) = url.split_once('?') else { return Ok((url.to_owned(), None)) };
    let mut mode = None;
    let mut others = Vec::new();
    for pair in query.split('&') {
        match pair.strip_prefix("sslmode=") {
            None => others.push(pair),
            Some("disable") => mode = Some(SslMode::Disable),
            Some("require" | "verify-ca" | "verify-full") => mode = Some(SslMode::Require),
            Some(_) => {
                return Err(OpenError::Options(
                    "sslmode is disable (in plain text), or require, verify-ca or verify-full (all of which check the \
                     server's certificate and name)"
                        .into(),
                ));
            }
        }
    }
    Ok((if others.is_empty() { front.to_owned() } else { format!("{front}?{}", others.join("&")) }, mode))
}

/// Whether no network is in between.
fn is_local(config: &Config) -> bool {
    config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    })
}

fn server_of(config: &Config) -> String {
    let ports = config.get_ports();
    let named = config.get_hosts().iter().enumerate().map(|(n, host)| {
        let port = ports.get(n).or(ports.first()).unwrap_or(&5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            #[cfg(unix)]
            Host::Unix(folder) => format!("{}:{port}", folder.display()),
        }
    });
    named.collect::<Vec<_>>().join(", ")
}

fn tls(options: &Options) -> Result<ClientConfig, OpenError> {
    let pem = options.tls.read()?;
    let bad = |what: &str| OpenError::Options(format!("{what} cannot be used"));
    let mut roots = RootCertStore::empty();
    match &pem.ca {
        Some(ca) => {
            for cert in CertificateDer::pem_slice_iter(ca) {
                cert.ok().and_then(|cert| roots.add(cert).ok()).ok_or_else(|| bad("ca_file"))?;
            }
            if roots.is_empty() {
                return Err(bad("ca_file"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has what TLS 1.2 and 1.3 need")
        .with_root_certificates(roots);
    match &pem.client {
        None => Ok(config.with_no_client_auth()),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
            let chain = chain.map_err(|_| bad("client_cert_file"))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| bad("client_key_file"))?;
            config.with_client_auth_cert(chain, key).map_err(|_| bad("client_cert_file with client_key_file"))
        }
    }
}
