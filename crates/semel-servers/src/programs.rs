//! Where the programs are.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Where Debian puts servers, which is not on everybody's PATH.
const SBIN: &str = "/usr/sbin";

/// The folder of PostgreSQL: `SEMEL_POSTGRES_BIN`, or the newest in `/usr/lib/postgresql/*/bin`, or on `PATH`.
pub(crate) fn postgres() -> io::Result<PathBuf> {
    let is_bin = |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    let missing = || missing("PostgreSQL server (initdb and postgres)", "postgresql", "SEMEL_POSTGRES_BIN");
    if let Some(folder) = env::var_os("SEMEL_POSTGRES_BIN").map(PathBuf::from) {
        return if is_bin(&folder) { Ok(folder) } else { Err(missing()) };
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|version| Some((version.file_name().to_str()?.parse().ok()?, version.path().join("bin"))))
        .filter(|(_, folder)| is_bin(folder))
        .collect();
    versions.sort();
    let newest = versions.pop().map(|(_, folder)| folder);
    newest.or_else(|| on_path().into_iter().find(is_bin)).ok_or_else(missing)
}

/// A Redis-like server and the client beside it: in `SEMEL_REDIS_BIN`, or Redis or Valkey on `PATH`.
pub(crate) fn redis() -> io::Result<(PathBuf, PathBuf)> {
    let pair = |folder: &Path| {
        ["redis", "valkey"]
            .map(|name| (folder.join(format!("{name}-server")), folder.join(format!("{name}-cli"))))
            .into_iter()
            .find(|(server, cli)| server.is_file() && cli.is_file())
    };
    let found = match env::var_os("SEMEL_REDIS_BIN").map(PathBuf::from) {
        Some(folder) => pair(&folder),
        None => on_path().iter().find_map(|folder| pair(folder)),
    };
    found.ok_or_else(|| missing("Redis or Valkey server with its client", "redis-server", "SEMEL_REDIS_BIN"))
}

pub(crate) fn pgbouncer() -> io::Result<PathBuf> {
    if let Some(program) = env::var_os("SEMEL_PGBOUNCER") {
        return Ok(program.into());
    }
    let found = on_path().into_iter().map(|folder| folder.join("pgbouncer")).find(|program| program.is_file());
    found.ok_or_else(|| missing("PgBouncer", "pgbouncer", "SEMEL_PGBOUNCER"))
}

fn on_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain([PathBuf::from(SBIN)]).collect()
}

fn missing(what: &str, package: &str, variable: &str) -> io::Error {
    let text = format!("no {what} is here: install the Debian package {package}, or set {variable} to where it is");
    io::Error::new(io::ErrorKind::NotFound, text)
}
