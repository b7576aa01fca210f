//! `--store`: where the gateways of the demo have their records, and the private server that it may be on.

use std::{
    env,
    ffi::OsString,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail};
use semel_servers::{PostgresOptions, PrivatePostgres, PrivateRedis};

use super::process::this_program;
use crate::config::{ConfigError, Place, PlaceText};

/// What `--store` says.
pub(crate) enum Choice {
    /// One gateway with its records in a folder.
    Embedded,
    /// A private PostgreSQL server.
    Postgres,
    /// A private Redis server.
    Redis,
    /// A shared store that runs, at a URL, perhaps with a password in it.
    At(String, Place),
}

/// A store that two gateways use at once.
pub(crate) struct SharedStore {
    /// What it is, for people.
    pub(crate) words: String,
    environment: Vec<(&'static str, OsString)>,
    settings: String,
    server: Option<Server>,
}

/// What a gateway is told of the store.
#[derive(Clone)]
pub(crate) struct Membership {
    /// Where it is, and its password: others may see the arguments of a process.
    pub(crate) environment: Vec<(&'static str, OsString)>,
    /// The configuration of all gateways on it.
    pub(crate) config: PathBuf,
    /// The secret of all gateways on it.
    pub(crate) secret: PathBuf,
}

/// Stops when it is dropped.
enum Server {
    Postgres { _is: PrivatePostgres },
    Redis { _is: PrivateRedis },
}

const STORE: &str = "SEMEL_STORE";
const PASSWORD: &str = "SEMEL_STORE_PASSWORD";

/// What the surroundings of a demo may say of a store that is not the demo's.
pub(crate) const OF_OTHERS: [&str; 4] = [STORE, PASSWORD, "SEMEL_SECRET_FILE", "SEMEL_SECRET"];

/// Nothing that is worth a secret comes to the demo, and one demo may follow another on the same store.
const SECRET: [u8; 32] = *b"every semel demo has this secret";
/// The clients of the storm do not wait half a minute to hear what became of a request whose gateway was killed.
const LEASES: &str = "\
[[route]]
methods = [\"POST\", \"PATCH\"]
path = \"/*\"
execution_max = \"2s\"
grace = \"500ms\"
";
/// In Redis the demo's keys are apart from those of gateways that serve.
const PREFIX: &str = "[store]\nprefix = \"semel-demo:\"\n\n";

impl Choice {
    /// Reads it; no complaint quotes a password.
    pub(crate) fn read(text: &str) -> Result<Choice, ConfigError> {
        match text {
            "embedded" => return Ok(Choice::Embedded),
            "postgres" => return Ok(Choice::Postgres),
            "redis" => return Ok(Choice::Redis),
            "memory" => {
                return Err(ConfigError::new(
                    "--store memory: the demo kills its gateway, and such a store would forget everything",
                ));
            }
            _ => {}
        }
        let place: PlaceText = text.parse().map_err(|why| {
            ConfigError::new(format!("--store: {why}; or \"postgres\" or \"redis\" for a private server of the demo"))
        })?;
        Ok(Choice::At(text.to_owned(), place.place().clone()))
    }
}

impl SharedStore {
    /// Starts a private server if one is wanted, and sees that gateways can start on the store. `None`: the records are
    /// embedded.
    pub(crate) async fn prepare(choice: Choice) -> anyhow::Result<Option<SharedStore>> {
        let or = "or give the URL of one that runs";
        let shared = match choice {
            Choice::Embedded => return Ok(None),
            Choice::Postgres => {
                let start =
                    || PrivatePostgres::start_with(PostgresOptions { fsync: true, ..PostgresOptions::default() });
                let server = tokio::task::spawn_blocking(start).await.context("starting PostgreSQL failed")?;
                let server = server.with_context(|| format!("cannot start a private PostgreSQL, {or}"))?;
                SharedStore {
                    words: "a private PostgreSQL".to_owned(),
                    environment: vec![(STORE, server.url("postgres").into())],
                    settings: LEASES.to_owned(),
                    server: Some(Server::Postgres { _is: server }),
                }
            }
            Choice::Redis => {
                let server = tokio::task::spawn_blocking(PrivateRedis::start).await.context("starting Redis failed")?;
                let server = server.with_context(|| format!("cannot start a private Redis, {or}"))?;
                SharedStore {
                    words: "a private Redis".to_owned(),
                    environment: vec![(STORE, server.url().into())],
                    settings: format!("{PREFIX}{LEASES}"),
                    server: Some(Server::Redis { _is: server }),
                }
            }
            Choice::At(url, place) => {
                let prefix = if matches!(place, Place::Redis(_)) { PREFIX } else { "" };
                let words = format!("{} at {place}", place.kind());
                let password = env::var_os(PASSWORD).map(|password| (PASSWORD, password));
                let environment = [(STORE, url.into())].into_iter().chain(password).collect();
                SharedStore { words, environment, settings: format!("{prefix}{LEASES}"), server: None }
            }
        };
        if let Some(Server::Postgres { .. }) = shared.server {
            shared.run("migrate").await?;
        }
        shared.run("check").await?;
        Ok(Some(shared))
    }

    /// Writes what every gateway on it is started with.
    pub(crate) fn membership(&self, folder: &Path) -> anyhow::Result<Membership> {
        let config = folder.join("semel.toml");
        fs::write(&config, &self.settings).context("cannot write the gateways' configuration")?;
        let secret = folder.join("secret-of-all");
        fs::write(&secret, SECRET).context("cannot write the gateways' secret")?;
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).context("cannot protect the gateways' secret")?;
        Ok(Membership { environment: self.environment.clone(), config, secret })
    }

    /// `semel store NAME`, as an operator would.
    async fn run(&self, name: &str) -> anyhow::Result<()> {
        let mut command = this_program()?;
        command.args(["store", name]).envs(self.environment.iter().cloned()).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.context("the demo's own program failed")?.context("cannot run this program again")?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!("no gateway can start on {}:\n{}", self.words, String::from_utf8_lossy(&said).trim_end());
        }
        Ok(())
    }
}
