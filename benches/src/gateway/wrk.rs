//! The load of the gateway.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, bail};

use super::process::{Running, server_program};

/// Which keys requests carry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Never seen before.
    Fresh,
    /// The same few, over and over.
    Again,
}

impl Keys {
    /// For people.
    pub(crate) fn shown(self) -> &'static str {
        match self {
            Keys::Fresh => "fresh",
            Keys::Again => "again",
        }
    }
}

/// What a run did.
pub(crate) struct Ran {
    /// Answers.
    pub(crate) requests: f64,
    /// Answers per second.
    pub(crate) per_second: f64,
    /// Latency.
    pub(crate) p50_ms: f64,
    /// Latency.
    pub(crate) p99_ms: f64,
    /// The server's processor time per request.
    pub(crate) processor_us: f64,
    /// The server's memory after the run.
    pub(crate) memory_bytes: f64,
}

/// How many keys there are to send again.
pub(crate) const KEYS_AGAIN: u32 = 1_000;

/// The n-th key that is sent again.
pub(crate) fn key_again(n: u32) -> String {
    format!("3f0c7a52-again-{n:08}")
}

/// 108 bytes, as an order may have.
pub(crate) const CONTENT: &str =
    r#"{"account":"acct-0000000000000000001","amount":"1250.00","currency":"BRL","reference":"invoice 2026-000417"}"#;

/// Sends requests with wrk.
pub(crate) struct Load {
    program: PathBuf,
    script: PathBuf,
    connections: u32,
    runs: AtomicU32,
}

impl Load {
    /// Writes the script.
    pub(crate) fn new(folder: &Path, connections: u32) -> anyhow::Result<Load> {
        let script = folder.join("load.lua");
        fs::write(&script, SCRIPT).context("cannot write the script of wrk")?;
        Ok(Load { program: server_program("wrk")?, script, connections, runs: AtomicU32::new(0) })
    }

    /// One run; any answer but 2xx and any broken connection is an error, since a figure of failures means nothing.
    pub(crate) fn run(&self, url: &str, keys: Keys, duration: Duration, server: &Running) -> anyhow::Result<Ran> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let prefix = match keys {
            Keys::Fresh => format!("3f0c7a52-{run:05}-"),
            Keys::Again => "3f0c7a52-again-".to_owned(),
        };
        let processor = server.processor_seconds();
        let output = Command::new(&self.program)
            .args(["--threads", "1", "--latency"])
            .args(["--connections", &self.connections.to_string()])
            .args(["--duration", &format!("{}s", duration.as_secs().max(1))])
            .arg("--script")
            .arg(&self.script)
            .arg(url)
            .args(["--", keys.shown(), &prefix, &KEYS_AGAIN.to_string(), CONTENT])
            .output()
            .context("cannot start wrk")?;
        let processor = server.processor_seconds() - processor;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || text.contains("Non-2xx") || text.contains("Socket errors") {
            bail!(
                "wrk on {url} ({} keys): {}\n{text}{}",
                keys.shown(),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let requests: f64 = requests_in(&text).with_context(|| format!("wrk said something else:\n{text}"))?;
        let field = |name: &str| field(&text, name).with_context(|| format!("wrk did not say {name}:\n{text}"));
        Ok(Ran {
            requests,
            per_second: field("Requests/sec:")?.parse().context("wrk's rate is no number")?,
            p50_ms: milliseconds(field("50%")?).context("wrk's p50 is no time")?,
            p99_ms: milliseconds(field("99%")?).context("wrk's p99 is no time")?,
            processor_us: processor * 1e6 / requests,
            memory_bytes: server.memory_bytes() as f64,
        })
    }
}

/// The request is put together around the key: formatting each one would cost more than the origin does.
const SCRIPT: &str = r#"
local pieces, again, n = {}, {}, 0
function init(args)
  local keys, prefix, count, content = args[1], args[2], tonumber(args[3]), args[4]
  local headers = { ["Content-Type"] = "application/json", ["Idempotency-Key"] = "@KEY@" }
  local whole = wrk.format("POST", nil, headers, content)
  local from, to = whole:find("@KEY@", 1, true)
  local head, tail = whole:sub(1, from - 1) .. prefix, whole:sub(to + 1)
  if keys == "again" then
    for i = 1, count do again[i] = head .. string.format("%08d", i) .. tail end
    request = function() n = n % count + 1; return again[n] end
  else
    request = function() n = n + 1; return head .. n .. tail end
  end
end
"#;

/// `  123456 requests in 4.00s, 30.1MB read`.
fn requests_in(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.split_once(" requests in ")?.0.trim().parse().ok())
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim)
}

/// `1.20ms`, `840.00us`, `1.02s`.
fn milliseconds(text: &str) -> Option<f64> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..unit_at].parse().ok()?;
    match &text[unit_at..] {
        "us" => Some(number / 1e3),
        "ms" => Some(number),
        "s" => Some(number * 1e3),
        "m" => Some(number * 60e3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_prints_is_read() {
        let text = "  Latency Distribution\n\
                    \n     50%  840.00us\n     99%    5.42ms\n  112364 requests in 4.00s, 38.04MB read\n\
                    Requests/sec:  28084.11\n";
        assert_eq!(requests_in(text), Some(112_364.0));
        assert_eq!(field(text, "Requests/sec:"), Some("28084.11"));
        assert_eq!(field(text, "50%").and_then(milliseconds), Some(0.84));
        assert_eq!(field(text, "99%").and_then(milliseconds), Some(5.42));
        assert_eq!(milliseconds("soon"), None);
    }

    #[test]
    fn the_content_has_the_length_that_the_page_says() {
        assert_eq!(CONTENT.len(), 108);
    }
}
