//! The PostgreSQL store beside pgbench.

use std::{fmt::Write as _, fs, process::Command, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use bytes::BytesMut;
use semel::store::{
    Swap,
    postgres::{Options, PostgresStore},
};
use semel_servers::PrivatePostgres;

use super::{
    DATABASE, POSTGRES, Server,
    contest::{Contest, Raced},
    runtime,
};
use crate::{Scale, raw::RawDisk, store};

/// Both on one server.
pub(super) fn race(scale: &Scale, disk: &mut RawDisk) -> anyhow::Result<Vec<Raced>> {
    let started = Server::postgres()?;
    let Server::Postgres(server) = &started else { bail!("a PostgreSQL was started") };
    server.psql(DATABASE, RIVAL_TABLE).context("cannot make the table of pgbench")?;
    let folder = tempfile::tempdir().context("cannot make a folder for pgbench")?;
    let script = folder.path().join("request.sql");
    fs::write(&script, request()).context("cannot write the script of pgbench")?;
    let run_rival = |connections: usize, duration: Duration| {
        let mut pgbench = Command::new(server.program("pgbench"));
        pgbench.args(["--no-vacuum", "--protocol=prepared", "--jobs=2"]);
        pgbench.arg(format!("--client={connections}")).arg(format!("--time={}", duration.as_secs().max(1)));
        pgbench.arg("--file").arg(&script).arg(server.url(DATABASE));
        let said = said(&mut pgbench)?;
        per_second(&said).with_context(|| format!("pgbench said something else:\n{said}"))
    };
    let runtime = runtime()?;
    let store = runtime.block_on(open(server))?;
    let contest = Contest {
        server: POSTGRES,
        rival: "pgbench",
        run_rival: &run_rival,
        store: Arc::new(store),
        runtime: &runtime,
    };
    contest.race(scale, disk)
}

/// Makes the tables and opens the store, with every default.
pub(super) async fn open(server: &PrivatePostgres) -> anyhow::Result<PostgresStore> {
    let options = Options::new(server.url(DATABASE));
    PostgresStore::migrate(options.clone()).await.context("cannot make the tables")?;
    PostgresStore::open(options).await.context("cannot open the store in PostgreSQL")
}

/// What a program printed, or how it failed.
pub(super) fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{command:?}: {}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(said)
}

/// The columns of the store's own, with room for an update in place.
const RIVAL_TABLE: &str = "
CREATE TABLE rival (
    key bytea PRIMARY KEY, epoch integer NOT NULL, stamp bytea NOT NULL, written_ms bigint NOT NULL,
    expires_ms bigint NOT NULL, phase smallint NOT NULL, record bytea NOT NULL
) WITH (fillfactor = 40)";

/// A claim and a settle, as plainly as it goes.
fn request() -> String {
    let (claim, settle) = (literal(&store::claim(0)), literal(&store::settle(0)));
    let stamp = "'\\x000102030405060708090a0b0c0d0e0f0001'";
    format!(
        "\\set n random(1, 9000000000000000000)\n\
         INSERT INTO rival VALUES (sha256(int8send(:n)), 1, {stamp}, 1, 2, 1, {claim});\n\
         UPDATE rival SET stamp = {stamp}, written_ms = 3, expires_ms = 4, phase = 3, record = {settle} \
         WHERE key = sha256(int8send(:n));\n"
    )
}

/// The record that a swap puts, as SQL.
fn literal(swap: &Swap) -> String {
    let mut bytes = BytesMut::new();
    if let Some(put) = &swap.put {
        put.record.encode(&mut bytes);
    }
    let mut text = String::from("'\\x");
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text + "'"
}

/// `tps = 1234.567 (without initial connection time)`.
fn per_second(said: &str) -> Option<f64> {
    said.lines().find_map(|line| line.strip_prefix("tps = ")?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_prints_is_read() {
        assert_eq!(
            per_second("latency average = 1 ms\ntps = 1234.5 (without initial connection time)\n"),
            Some(1234.5)
        );
        assert_eq!(per_second("tps soon"), None);
    }
}
