//! How a server is set up, and what would be lost on it.

use std::{collections::HashMap, fmt::Write as _};

use redis::{RedisResult, aio::MultiplexedConnection};

use super::{
    super::shared::{Finding, Severity},
    lanes::{Address, Copies, Kind, Settings},
};

/// Scripts say what they need in their first line from this version on; Valkey has had it always.
const VERSION_MIN: (u32, u32) = (7, 0);
/// `WAITAOF`.
const VERSION_MIN_WAITAOF: (u32, u32) = (7, 2);

/// What one server says of itself.
#[derive(Debug)]
pub(super) struct Server {
    address: Address,
    info: HashMap<String, String>,
    /// `None` where `CONFIG` is forbidden, as managed services do.
    appendfsync: Option<String>,
}

impl Server {
    pub(super) async fn ask(connection: &mut MultiplexedConnection, address: Address) -> RedisResult<Server> {
        let text: String = redis::cmd("INFO").query_async(connection).await?;
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let info = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        let config: RedisResult<HashMap<String, String>> =
            redis::cmd("CONFIG").arg("GET").arg("appendfsync").query_async(connection).await;
        let appendfsync = config.ok().and_then(|mut config| config.remove("appendfsync"));
        Ok(Server { address, info, appendfsync })
    }

    fn says(&self, field: &str) -> &str {
        self.info.get(field).map_or("", String::as_str)
    }

    fn version(&self) -> (u32, u32) {
        // Valkey tells the version of Redis that it is compatible with here, and its own elsewhere.
        let mut numbers = self.says("redis_version").split('.').map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// Why the store cannot work there at all, whatever is accepted.
    pub(super) fn unusable(&self, kind: Kind, copies: &Copies) -> Option<String> {
        let (address, version) = (&self.address, self.version());
        if version < VERSION_MIN {
            let is = self.says("redis_version");
            return Some(format!("{address} runs Redis {is}, and the store needs 7.0, or Valkey"));
        }
        if copies.append_only_file && version < VERSION_MIN_WAITAOF {
            let is = self.says("redis_version");
            return Some(format!("local_aof needs WAITAOF of Redis 7.2 or Valkey, and {address} runs {is}"));
        }
        match (kind, self.says("cluster_enabled")) {
            (Kind::Single, "1") => Some(format!(
                "{address} is part of a Cluster: use a URL that begins with redis+cluster:// or rediss+cluster://"
            )),
            (Kind::Cluster, "0") => {
                Some(format!("{address} is not part of a Cluster: use a URL that begins with redis:// or rediss://"))
            }
            _ => None,
        }
    }

    /// Why this server may not be used, if the store was opened in the belief that it may.
    pub(super) fn refusal(&self, settings: &Settings) -> Option<String> {
        if let Some(why) = self.unusable(settings.kind, &settings.copies) {
            return Some(why);
        }
        if settings.accept_loss {
            return None;
        }
        let mut findings = self.findings(&settings.copies);
        // In a Cluster a replica executes nothing, and knows where the primaries are.
        findings.retain(|finding| finding.severity == Severity::Fatal);
        if settings.kind == Kind::Cluster && self.is_replica() {
            return None;
        }
        findings.into_iter().next().map(|finding| finding.what)
    }

    fn is_replica(&self) -> bool {
        self.says("role") == "slave"
    }

    /// What an operator should know.
    pub(super) fn findings(&self, copies: &Copies) -> Vec<Finding> {
        let address = &self.address;
        let mut findings = Vec::new();
        let mut find = |severity, what: String, what_to_do: &str| {
            findings.push(Finding::new(severity, what, what_to_do));
        };
        if self.is_replica() {
            find(
                Severity::Fatal,
                format!(
                    "{address} is a replica: what is written there is lost when it next follows its primary, and what is read there may be old, so that retries execute again"
                ),
                "connect to the primary",
            );
        }
        if self.says("aof_enabled") != "1" {
            find(
                Severity::Fatal,
                format!(
                    "{address} has appendonly no: when it restarts, every record since its last snapshot is lost, and retries of what they protect execute again"
                ),
                "set appendonly yes and appendfsync always",
            );
        }
        match self.says("maxmemory_policy") {
            "noeviction" => {}
            policy => find(
                Severity::Fatal,
                format!(
                    "{address} has maxmemory-policy {policy}: when memory runs out, records are lost without a trace, and retries of what they protect execute again"
                ),
                "set maxmemory-policy noeviction",
            ),
        }
        match self.appendfsync.as_deref() {
            Some("always") => {}
            Some("everysec") => find(
                Severity::Warning,
                format!(
                    "{address} has appendfsync everysec: when its machine crashes, up to two seconds of confirmed records are lost"
                ),
                "set appendfsync always",
            ),
            Some(other) => find(
                Severity::Warning,
                format!(
                    "{address} has appendfsync {other}: when its machine crashes, confirmed records are lost that the kernel had not written yet, half a minute of them or more"
                ),
                "set appendfsync always",
            ),
            None => find(
                Severity::Note,
                format!(
                    "{address} does not let us ask for appendfsync: unless it is always, a crash of its machine loses confirmed records"
                ),
                "make sure that it is always",
            ),
        }
        let replicas: u32 = self.says("connected_slaves").parse().unwrap_or(0);
        if replicas > 0 && copies.replicas == 0 && !self.is_replica() {
            find(
                Severity::Warning,
                format!(
                    "{address} has replicas, and writes do not wait for them: a failover loses the records that were confirmed and not yet copied"
                ),
                "set replicas to 1 or more",
            );
        }
        if replicas < copies.replicas && !self.is_replica() {
            let mut what = format!("{address} has {replicas} replicas");
            let _ =
                write!(what, ", and every write waits for {}: none is confirmed until they are there", copies.replicas);
            find(Severity::Warning, what, "start replicas, or set replicas to what there is");
        }
        if self.says("aof_last_write_status") == "err" {
            find(
                Severity::Warning,
                format!("{address} could not write its append-only file, and refuses writes until it can"),
                "look at its disk",
            );
        }
        if self.says("maxmemory") == "0" {
            find(
                Severity::Note,
                format!("{address} has no maxmemory: when the machine's memory runs out, the kernel ends it"),
                "set maxmemory below what the machine has",
            );
        }
        findings
    }
}
