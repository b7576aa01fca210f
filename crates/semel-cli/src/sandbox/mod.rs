//! `semel sandbox`: the four source APIs on one port, real origins on the transactional mode, with a control surface that
//! loses replies, stalls, moves the clock and shows what really happened (`dialects.md`).

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;

use crate::{
    config::{ConfigError, LogForm},
    serve,
};

mod api;
mod books;
mod clock;
mod control;
mod credicorp;
mod engine;
mod etherfuse;
mod faults;
mod index;
mod nora;
mod openapi;
mod server;
mod shelf;
mod yonne;

use api::Vendor;
use engine::Engine;
use shelf::{Opened, Shelf};

/// Runs the four source APIs on one port, to try clients on.
///
/// Etherfuse (/ramp), Credicorp (/public/v1), Yonne (/api/v1/external) and Nora (/v2), each with its own idempotency.
/// Replies can be lost, delayed and broken on purpose, the clock moves when told to, and a ledger shows what really
/// happened. No account and no real money.
#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Where clients connect; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4600")]
    listen: SocketAddr,
    /// The folder of the SQLite database; one sandbox per folder
    #[arg(long, value_name = "DIR", default_value = "./semel-sandbox-data", conflicts_with = "database")]
    data: PathBuf,
    /// A PostgreSQL database instead; one sandbox per database
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Only this vendor; may be given several times [default: all]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(NAMES))]
    vendor: Vec<String>,
    /// The same APIs as people write them on the first day: no keys, no unique ids, no guards. For `semel serve` in front
    #[arg(long)]
    naive: bool,
    /// How log lines are written
    #[arg(long, value_name = "FORM", value_enum, default_value = "text")]
    log_form: LogForm,
    /// Which log lines are written, such as info, debug, semel::exchange=debug,info
    #[arg(long, value_name = "FILTER", env = "SEMEL_LOG", default_value = "info")]
    log: String,
}

const HELP: &str = "\
Examples:
  semel sandbox
      all four on http://127.0.0.1:4600; that page shows keys and curl lines
  curl -i http://127.0.0.1:4600/public/v1/enquiries -H 'Content-Type: application/json' -H 'Idempotency-Key: k1' \\
    -d '{\"form\":\"contact-us\",\"fields\":{\"name\":\"Jo\",\"email\":\"jo@example.com\",\"consent\":\"yes\"}}'
      send it twice: one enquiry, and the second reply is the first one
  curl http://127.0.0.1:4600/_sandbox/faults \\
    -d '{\"vendor\":\"credicorp\",\"op\":\"POST /public/v1/enquiries\",\"kind\":\"drop_after\"}'
      the next enquiry is stored, and its reply lost: does your client find it again?
  curl http://127.0.0.1:4600/_sandbox/ledger
      what really happened
  curl http://127.0.0.1:4600/_sandbox/clock -d '{\"advance_ms\":86401000}'
      a day later; POST /_sandbox/reset starts over
  semel sandbox --naive --vendor yonne & semel serve --preset yonne --upstream http://127.0.0.1:4600
      an API without idempotency, and the gateway that gives it

SIGTERM and SIGINT finish what runs, and exit 0. What is in the database is there at the next start.

Exit codes:
  0  stopped when asked to
  1  could not start or go on, or something was still running after 30s
  2  wrong command line";

/// The names of [`vendors`].
const NAMES: [&str; 4] = ["etherfuse", "credicorp", "yonne", "nora"];

/// All of them, in the order in which they are listed, with what their paths begin with.
fn vendors() -> [(&'static dyn Vendor, &'static [&'static str]); 4] {
    [
        (&etherfuse::Etherfuse, &["/ramp"]),
        (&credicorp::Credicorp, &["/public/v1", "/partner/v1"]),
        (&yonne::Yonne, &["/api/v1/external"]),
        (&nora::Nora, &["/v2"]),
    ]
}

/// Serves until a signal says otherwise. Says whether everything that ran was finished.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    serve::log_to_stderr(args.log_form, &args.log)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start")?;
    runtime.block_on(async {
        match &args.database {
            None => go(args, shelf::open_folder(&args.data).await?).await,
            Some(url) if ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) => {
                go(args, shelf::open_database(url).await?).await
            }
            Some(_) => Err(ConfigError::new("--database takes a URL such as postgres://user@127.0.0.1/name").into()),
        }
    })
}

async fn go<DB: Shelf>(args: &Args, opened: Opened<DB>) -> anyhow::Result<bool> {
    let is_wanted = |name: &str| args.vendor.is_empty() || args.vendor.iter().any(|wanted| wanted == name);
    let wanted = vendors().into_iter().filter(|(vendor, _)| is_wanted(vendor.name())).collect();
    server::serve(Engine::open(wanted, opened, args.naive).await?, args.listen).await
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_names_every_vendor() {
        assert_eq!(super::vendors().map(|(vendor, _)| vendor.name()), super::NAMES);
    }
}
