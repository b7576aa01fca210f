//! The Redis store beside redis-benchmark.

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use bytes::BytesMut;
use semel::store::redis::{Options, RedisStore};

use super::{
    REDIS, Server,
    contest::{Contest, Raced},
    postgres::said,
    runtime,
};
use crate::{Scale, raw::RawDisk, store};

/// Both on one server.
pub(super) fn race(scale: &Scale, disk: &mut RawDisk) -> anyhow::Result<Vec<Raced>> {
    let started = Server::redis()?;
    let Server::Redis(server) = &started else { bail!("a Redis was started") };
    let mut record = BytesMut::new();
    store::settle(0).put.context("a settle puts a record")?.record.encode(&mut record);
    let sets = |connections: usize, requests: u64| {
        let mut benchmark = Command::new(server.program("benchmark"));
        benchmark.args(["-t", "set", "-P", "1", "-q", "-r", "1000000000", "-h", "127.0.0.1"]);
        benchmark.arg("-p").arg(server.port().to_string()).arg("-c").arg(connections.to_string());
        benchmark.arg("-d").arg(record.len().to_string()).arg("-n").arg(requests.to_string());
        let said = said(&mut benchmark)?;
        per_second(&said).with_context(|| format!("redis-benchmark said something else:\n{said}"))
    };
    let run_rival = |connections: usize, duration: Duration| {
        // It runs for a number of requests, and not for a time.
        let guess = sets(connections, 500 * connections.min(16) as u64)?;
        Ok(sets(connections, (guess * duration.as_secs_f64()) as u64)? / 2.0)
    };
    let runtime = runtime()?;
    let store =
        runtime.block_on(RedisStore::open(Options::new(server.url()))).context("cannot open the store in Redis")?;
    let contest = Contest {
        server: REDIS,
        rival: "redis-benchmark SET ÷ 2",
        run_rival: &run_rival,
        store: Arc::new(store),
        runtime: &runtime,
    };
    contest.race(scale, disk)
}

/// `SET: 1234.56 requests per second, p50=0.5 msec`, after carriage returns and what was on the line before.
fn per_second(said: &str) -> Option<f64> {
    let line = said.split(['\r', '\n']).find(|line| line.contains(" requests per second"))?;
    line.trim().strip_prefix("SET: ")?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_benchmark_prints_is_read() {
        let said = "SET: rps=0.0 (overall: nan)\rSET: rps=5.0\r   \rSET: 1234.56 requests per second, p50=0.5 msec\n\n";
        assert_eq!(per_second(said), Some(1234.56));
        assert_eq!(per_second("SET: rps=5.0"), None);
    }
}
