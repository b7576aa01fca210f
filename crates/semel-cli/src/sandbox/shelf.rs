//! The database under the sandbox: opened, owned by one process, and ready for its tables.

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use anyhow::{Context as _, bail};
use semel::{
    core::{policy::Policy, scope::Secret},
    transaction::{Register, Transactional},
};
use sqlx::{
    Connection as _, PgConnection, Pool, Postgres, Sqlite,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::time::{Instant, sleep};

use super::books::Keeper;

/// A database that can carry the books.
pub(crate) trait Shelf: Register + sqlx::Database<Connection: Keeper> {
    /// Begins a transaction that will write.
    const BEGIN: &'static str;

    /// See [`Transactional`].
    fn transactional(policy: Policy, secret: Secret, pool: Pool<Self>) -> Transactional<Self>;
}

impl Shelf for Sqlite {
    const BEGIN: &'static str = "BEGIN IMMEDIATE";

    fn transactional(policy: Policy, secret: Secret, pool: Pool<Sqlite>) -> Transactional<Sqlite> {
        Transactional::<Sqlite>::new(policy, secret, pool)
    }
}

impl Shelf for Postgres {
    const BEGIN: &'static str = "BEGIN";

    fn transactional(policy: Policy, secret: Secret, pool: Pool<Postgres>) -> Transactional<Postgres> {
        Transactional::<Postgres>::new(policy, secret, pool)
    }
}

/// An open database that no other sandbox uses.
pub(crate) struct Opened<DB: Shelf> {
    pub(crate) pool: Pool<DB>,
    pub(crate) secret: Secret,
    /// What it is, in words.
    pub(crate) words: String,
    /// Keeps others out for as long as it lives.
    pub(crate) owned: Owned,
}

/// What keeps others out.
pub(crate) enum Owned {
    Folder { _lock: File },
    Database { _session: PgConnection },
}

/// How long a request waits for a connection.
const ACQUIRE_MAX: Duration = Duration::from_secs(30);
/// How long the server may need to notice that the process before is gone.
const OWNER_GONE_MAX: Duration = Duration::from_secs(10);
const POSTGRES_CONNECTIONS_MAX: u32 = 16;
/// "sandbox" in ASCII, so that it is nobody else's lock.
const OWNER_LOCK: i64 = 0x0073_616e_6462_6f78;

/// Opens the database in `folder`.
pub(crate) async fn open_folder(folder: &Path) -> anyhow::Result<Opened<Sqlite>> {
    let secret = semel::secret_in(folder)?;
    let lock = lock_folder(folder)?;
    let options = SqliteConnectOptions::new()
        .filename(folder.join("sandbox.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(ACQUIRE_MAX);
    // There is one writer anyway, and this way who waits for it is served in order of arrival.
    let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_MAX).connect_with(options).await;
    let pool = pool.with_context(|| format!("cannot open the database in {}", folder.display()))?;
    let words = format!("SQLite in {}", folder.display());
    Ok(Opened { pool, secret, words, owned: Owned::Folder { _lock: lock } })
}

fn lock_folder(folder: &Path) -> anyhow::Result<File> {
    let path: PathBuf = folder.join("lock");
    let about = || format!("cannot use {}", path.display());
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).with_context(about)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // Only for the message: a file that cannot be read names nobody.
            let _ = file.read_to_string(&mut owner);
            bail!(
                "another sandbox (process {}) uses the folder {}: stop it, or give this one its own with --data DIR",
                owner.trim(),
                folder.display()
            );
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(error).with_context(about),
    }
    file.set_len(0).and_then(|()| file.rewind()).with_context(about)?;
    writeln!(file, "{}", std::process::id()).with_context(about)?;
    Ok(file)
}

/// Opens the database at `url`.
pub(crate) async fn open_database(url: &str) -> anyhow::Result<Opened<Postgres>> {
    let options = PgConnectOptions::from_str(url).context("--database is no URL of a PostgreSQL database")?;
    // That a table is there already is no news.
    let options = options.options([("client_min_messages", "warning")]);
    let name = format!(
        "PostgreSQL at {}:{}, database {}",
        options.get_host(),
        options.get_port(),
        options.get_database().unwrap_or("of the user's name")
    );
    let about = || format!("cannot connect to {name}");
    let mut session = PgConnection::connect_with(&options).await.with_context(about)?;
    let until = Instant::now() + OWNER_GONE_MAX;
    loop {
        let ask = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(OWNER_LOCK);
        if ask.fetch_one(&mut session).await.with_context(about)? {
            break;
        }
        if Instant::now() >= until {
            bail!("another sandbox uses {name}: stop it, or give this one another database");
        }
        sleep(Duration::from_millis(50)).await;
    }
    let pool = PgPoolOptions::new()
        .max_connections(POSTGRES_CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_MAX)
        .connect_with(options)
        .await
        .with_context(about)?;
    session.migrate().await.with_context(|| format!("cannot create the tables in {name}"))?;
    let secret = kept_secret(&mut session).await.with_context(about)?;
    Ok(Opened { pool, secret, words: name, owned: Owned::Database { _session: session } })
}

/// The secret beside the records, minted at first start.
async fn kept_secret(session: &mut PgConnection) -> anyhow::Result<Secret> {
    const NAME: &str = "secret";
    if let Some(text) = session.meta(NAME).await? {
        let number = u128::from_str_radix(text.get(..32).unwrap_or_default(), 16);
        let rest = u128::from_str_radix(text.get(32..).unwrap_or_default(), 16);
        let (Ok(number), Ok(rest)) = (number, rest) else {
            bail!("the secret in the table sandbox_meta is damaged: restore it, or drop the database to start anew");
        };
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&number.to_be_bytes());
        bytes[16..].copy_from_slice(&rest.to_be_bytes());
        return Ok(Secret::from_bytes(bytes));
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let text = bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    session.keep_meta(NAME, &text).await?;
    Ok(Secret::from_bytes(bytes))
}
