//! The store that a configuration names, opened; and `semel store`, what operators do with one.

use std::{
    fmt::{self, Write as _},
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use semel::{
    core::{scope::Secret, seal::Sealing},
    store::{
        Store,
        embedded::{self, EmbeddedStore, Recovery},
        memory::MemoryStore,
        postgres::{self, PostgresStore},
        redis::{self, RedisStore},
        shared::{OpenError, Password, Tls},
    },
};

use crate::config::{ConfigError, PasswordFrom, Place, StoreConfig, StoreUrl};

mod command;

pub(crate) use command::{Command, Form, migrations, run};

/// The largest password file, in bytes.
const PASSWORD_BYTES_MAX: u64 = 4 << 10;
/// The permissions that others must not have on a file with a secret in it.
const MODE_OF_OTHERS: u32 = 0o007;

/// A store that serves, and the secret that its keys are made with.
pub(crate) struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The same for all gateways of a shared store.
    pub secret: Secret,
    /// Where it is and what was found there, in words.
    pub words: String,
}

/// Opens the store, for a gateway whose data folder is `data`. A shared store stays on the runtime that this runs on.
pub(crate) async fn open(config: &StoreConfig, data: &Path) -> anyhow::Result<Opened> {
    let secret = match (&config.secret, &config.secret_file) {
        (Some(secret), _) => Secret::from_bytes(secret.bytes()),
        (None, Some(file)) => {
            semel::secret_from(file).map_err(|error| ConfigError::new(format!("the secret of the store: {error}")))?
        }
        (None, None) => semel::secret_in(data)?,
    };
    let (store, words): (Arc<dyn Store>, String) = match &config.place {
        Place::Memory => {
            (Arc::new(MemoryStore::new()), "records in memory, all forgotten when this process ends".to_owned())
        }
        Place::Embedded => {
            let (store, recovery) = open_embedded(data)?;
            if !semel::agrees_with_folder(&secret, data)? {
                return Err(another_secret(data).into());
            }
            (Arc::new(store), format!("data in {}: {}", data.display(), recovered(&recovery)))
        }
        Place::Postgres(url) => {
            let options = postgres_options(config, url)?;
            let store = PostgresStore::open(options).await.map_err(|error| refused(config, &error))?;
            let agreed = store.agree_on(secret.check()).await.with_context(|| at(config))?;
            all_agree(config, data, agreed)?;
            (Arc::new(store), format!("records in {}", at(config)))
        }
        Place::Redis(url) => {
            let options = redis_options(config, url)?;
            let store = RedisStore::open(options).await.map_err(|error| refused(config, &error))?;
            let agreed = store.agree_on(secret.check()).await.with_context(|| at(config))?;
            all_agree(config, data, agreed)?;
            (Arc::new(store), format!("records in {}", at(config)))
        }
    };
    Ok(Opened { store, secret, words })
}

fn open_embedded(data: &Path) -> anyhow::Result<(EmbeddedStore, Recovery)> {
    EmbeddedStore::open(data, embedded::Options::default())
        .with_context(|| format!("cannot open the records in {}", data.display()))
}

/// Where the records are, for people.
fn at(config: &StoreConfig) -> String {
    match &config.place {
        Place::Embedded | Place::Memory => config.place.kind().to_owned(),
        Place::Postgres(url) | Place::Redis(url) => format!("{} at {}", config.place.kind(), url.place()),
    }
}

fn postgres_options(config: &StoreConfig, url: &StoreUrl) -> Result<postgres::Options, ConfigError> {
    Ok(postgres::Options {
        password: password(config)?,
        tls: tls(config),
        connections: config.connections,
        statement_max: config.statement_max,
        connect_max: config.connect_max,
        accept_loss: config.accept_loss,
        period: config.period,
        prepared: config.prepared,
        ..postgres::Options::new(url.as_str())
    })
}

fn redis_options(config: &StoreConfig, url: &StoreUrl) -> Result<redis::Options, ConfigError> {
    Ok(redis::Options {
        password: password(config)?,
        tls: tls(config),
        connections: config.connections,
        statement_max: config.statement_max,
        connect_max: config.connect_max,
        accept_loss: config.accept_loss,
        prefix: config.prefix.clone(),
        replicas: config.replicas,
        local_aof: config.local_aof,
        ..redis::Options::new(url.as_str())
    })
}

fn tls(config: &StoreConfig) -> Tls {
    Tls {
        ca_file: config.ca_file.clone(),
        client_cert_file: config.client_cert_file.clone(),
        client_key_file: config.client_key_file.clone(),
    }
}

fn password(config: &StoreConfig) -> Result<Option<Password>, ConfigError> {
    match &config.password {
        PasswordFrom::Nowhere => Ok(None),
        PasswordFrom::Environment(password) => Ok(Some(password.clone())),
        PasswordFrom::Url(password) => {
            tracing::warn!(
                target: "semel::store",
                "the password of the store is in its URL, which others may see: in lists of processes, or with the \
                 configuration. Give it in SEMEL_STORE_PASSWORD, or in a file that password_file names"
            );
            Ok(Some(password.clone()))
        }
        PasswordFrom::File(path) => {
            warn_if_open_to_others(path, "password_file");
            let text = read_password(path)
                .map_err(|error| ConfigError::new(format!("store.password_file = \"{}\": {error}", path.display())))?;
            Ok(Some(Password::new(text)))
        }
    }
}

fn read_password(path: &Path) -> io::Result<String> {
    // What waits for a writer, such as a named pipe, must not hold up the start.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(PASSWORD_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| io::Error::other("it is not UTF-8"))?;
    // Editors end a file with a newline; any other white space may be part of the password.
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() || bytes.len() as u64 > PASSWORD_BYTES_MAX {
        return Err(io::Error::other(format!("it must hold a password of 1 to {PASSWORD_BYTES_MAX} bytes")));
    }
    Ok(text.to_owned())
}

fn warn_if_open_to_others(path: &Path, setting: &str) {
    // If it cannot be looked at, reading it says why.
    let Ok(metadata) = std::fs::metadata(path) else { return };
    let mode = metadata.permissions().mode();
    if mode & MODE_OF_OTHERS != 0 {
        let (path, mode) = (path.display(), mode & 0o777);
        tracing::warn!(target: "semel::store", "{setting} {path} has mode {mode:03o}, open to others: run chmod 600");
    }
}

/// Why a shared store did not open, and what to do: exit code 2 if the configuration is wrong, 1 if the server is.
fn refused(config: &StoreConfig, error: &OpenError) -> anyhow::Error {
    let at = at(config);
    let words = match error {
        OpenError::Options(_) | OpenError::File { .. } => return ConfigError::new(format!("{at}: {error}")).into(),
        OpenError::Unreachable { .. } => {
            format!("{at}: {error}; see that it runs, and that --store, password and TLS are right")
        }
        OpenError::NotMigrated { .. } | OpenError::NewerSchema { .. } | OpenError::Store(_) => format!("{at}: {error}"),
        OpenError::Refused(findings) => {
            let mut words = format!("{at} is refused, since it may lose what it confirmed:");
            for finding in findings {
                let _ = write!(words, "\n  {finding}");
            }
            words + "\nIf that loss is no harm, set accept_loss = true in [store]"
        }
    };
    anyhow::Error::msg(words)
}

/// Two gateways that disagree would keep the same request under different keys, and execute it once each.
fn all_agree(config: &StoreConfig, data: &Path, agreed: bool) -> Result<(), ConfigError> {
    if agreed {
        return Ok(());
    }
    let own = config.secret_file.clone().unwrap_or_else(|| data.join("secret"));
    Err(ConfigError::new(format!(
        "{} belongs to gateways with another secret than {}: with two secrets a retry at another gateway would execute \
         again. Copy the secret of a gateway that uses the store (`secret` in its data folder), and name the copy with \
         --secret-file, SEMEL_SECRET_FILE or secret_file in [store]",
        at(config),
        own.display()
    )))
}

/// The records of a folder are found by one secret, and with another every key would count as new.
fn another_secret(data: &Path) -> ConfigError {
    ConfigError::new(format!(
        "the records in {} are named with another secret: with this one every key would count as new, and a retry would \
         execute again. Restore the file `secret` from a backup (or SEMEL_SECRET as it was), or move the whole folder \
         away to start with no records",
        data.display()
    ))
}

/// The sealing secrets in these files.
pub(crate) fn sealing(files: &[PathBuf]) -> Result<Option<Sealing>, ConfigError> {
    let wrong = |error: io::Error| ConfigError::new(format!("gateway.seal_secret_files: {error}"));
    if files.is_empty() { Ok(None) } else { semel::sealing_from(files).map(Some).map_err(wrong) }
}

fn recovered(recovery: &Recovery) -> String {
    let mut words = format!("{} record(s), opened in {:.0?}", recovery.records, recovery.took);
    if recovery.abandoned_in_flight > 0 {
        let _ = write!(
            words,
            "; {} of them were in flight when the process before ended: their outcome is unknown",
            recovery.abandoned_in_flight
        );
    }
    if recovery.torn_bytes > 0 {
        let _ = write!(
            words,
            "; a last write of {} bytes was cut short and left out: nobody had been told that it was done",
            recovery.torn_bytes
        );
    }
    words
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("words", &self.words).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_holds_one_password_and_its_newline_is_no_part_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("password");
        let read = |content: &[u8]| {
            std::fs::write(&path, content).expect("it is written");
            read_password(&path).map_err(|error| error.to_string())
        };
        for (content, password) in [("p\n", "p"), ("p\r\n", "p"), (" p ä ", " p ä "), ("p\n\n", "p\n"), ("p", "p")] {
            assert_eq!(read(content.as_bytes()).as_deref(), Ok(password), "{content:?}");
        }
        let long = vec![b'p'; usize::try_from(PASSWORD_BYTES_MAX).expect("it is small") + 1];
        for content in [b"".as_slice(), b"\n", &long] {
            assert!(read(content).is_err_and(|error| error.contains("1 to 4096 bytes")));
        }
        assert!(read(b"hunter2\xff").is_err_and(|error| error == "it is not UTF-8"));
        let folder = read_password(folder.path()).expect_err("it is a folder").to_string();
        assert_eq!(folder, "it is not a regular file");
    }
}
