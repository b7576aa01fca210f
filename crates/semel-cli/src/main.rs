//! The command line of Semel.

use std::{env::VarError, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use semel::store::shared::Password;
use semel_core::{key::Presence, policy::Preset};

use crate::config::{
    AddressText, AdminText, Config, ConfigError, Flags, GatewaySettings, LogForm, OriginText, PolicyFlags, StoreFlags,
};

mod call;
mod config;
mod demo;
mod init;
mod ready;
mod records;
mod sandbox;
mod serve;
mod store;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Everything went as it should.
const SUCCESS: u8 = 0;
/// Something failed while running.
const FAILURE: u8 = 1;
/// The command line or the configuration is wrong; clap uses the same number.
const USAGE: u8 = 2;

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  failure while running
  2  wrong command line or configuration";

/// Makes write requests to any HTTP API safe to retry: at most one effect per idempotency key, and a truthful answer.
#[derive(Parser)]
#[command(name = "semel", version, after_help = EXIT_CODES, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(Box<Serve>),
    Demo(demo::Args),
    Sandbox(Box<sandbox::Args>),
    /// The naive API of the demo.
    #[command(hide = true)]
    DemoOrigin(demo::origin::Args),
    Call(Box<call::Call>),
    Resume(call::Resume),
    #[command(subcommand)]
    Journal(call::JournalCommand),
    /// Prepares, checks and counts the store where records live.
    #[command(subcommand)]
    Store(StoreCommand),
    Records(Box<records::Records>),
    /// Makes secrets.
    #[command(subcommand)]
    Secret(SecretCommand),
    Ready(ready::Ready),
    Init(init::Init),
    /// Checks a configuration, or shows every setting with its default.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Runs the gateway in front of an HTTP API.
///
/// Without a configuration file it covers POST and PATCH on every path. A request with the header Idempotency-Key is
/// executed at most once; a retry with the same key gets the reply of the first. Everything else passes through.
#[derive(Args)]
#[command(after_help = SERVE_HELP)]
struct Serve {
    /// The configuration file (see `semel config show`); flags beat it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<AddressText>,
    /// The origin: the API to protect, such as http://127.0.0.1:3000
    #[arg(long, value_name = "URL")]
    upstream: Option<OriginText>,
    /// The folder of the secret, and of records where the store is embedded [default: ./semel-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
    /// Where operators connect: health, readiness, the published policy [default: off]
    #[arg(long, value_name = "ADDR")]
    admin: Option<AdminText>,
    /// A file with the token that operators show on the admin address; without it they only read what needs none
    #[arg(long, value_name = "FILE", env = "SEMEL_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
    /// The vendor whose behaviour every route starts from: ietf, stripe, etherfuse, credicorp, yonne, nora [default: ietf]
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,
    /// Refuse covered requests without a key, whatever the file says
    #[arg(long)]
    require_key: bool,
    /// How log lines are written [default: text]
    #[arg(long, value_name = "FORM")]
    log_form: Option<LogForm>,
    /// Which log lines are written, such as info, debug, semel::exchange=debug,info [default: info]
    #[arg(long, value_name = "FILTER", env = "SEMEL_LOG")]
    log: Option<String>,
    /// Only check the configuration, and the certificates and keys that it names: opens no store, listens nowhere
    #[arg(long)]
    check: bool,
}

/// Which store, for every command that uses one.
#[derive(Args)]
struct StoreArgs {
    /// Where records live: embedded, memory, postgres://user@host/database, redis://host:6379,
    /// redis+cluster://host:6379, or with TLS rediss:// and rediss+cluster:// [default: embedded]
    // Read later: a refusal of clap would quote the password.
    #[arg(long, value_name = "STORE", env = "SEMEL_STORE", hide_env_values = true)]
    store: Option<String>,
    /// The secret that all gateways on one store have in common: a copy of the file `secret` in the data folder of the
    /// first [default: the one in the data folder]
    #[arg(long, value_name = "FILE", env = "SEMEL_SECRET_FILE")]
    secret_file: Option<PathBuf>,
}

impl StoreArgs {
    fn read(self) -> Result<StoreFlags, ConfigError> {
        let place = self.store.map(|text| text.parse());
        let place =
            place.transpose().map_err(|why: String| ConfigError::new(format!("--store or SEMEL_STORE: {why}")))?;
        let password = match std::env::var("SEMEL_STORE_PASSWORD") {
            Ok(password) => Some(password).filter(|password| !password.is_empty()).map(Password::new),
            Err(VarError::NotPresent) => None,
            Err(VarError::NotUnicode(_)) => return Err(ConfigError::new("SEMEL_STORE_PASSWORD is not UTF-8")),
        };
        let secret = match std::env::var("SEMEL_SECRET") {
            Ok(text) if text.is_empty() => None,
            Ok(text) => Some(text.parse().map_err(|why: String| ConfigError::new(format!("SEMEL_SECRET: {why}")))?),
            Err(VarError::NotPresent) => None,
            Err(VarError::NotUnicode(_)) => return Err(ConfigError::new("SEMEL_SECRET is not UTF-8")),
        };
        Ok(StoreFlags { place, secret_file: self.secret_file, secret, password })
    }
}

const SERVE_HELP: &str = "\
Examples:
  semel serve --upstream http://127.0.0.1:3000
      protects the API on port 3000; clients use http://127.0.0.1:8080
  curl -i http://127.0.0.1:8080/payments -H 'Idempotency-Key: \"7f1c-1\"' -d '{\"amount\": 100}'
      send it twice: the second reply is the first one, marked Idempotent-Replayed: true
  semel serve --upstream http://127.0.0.1:3000 --admin 127.0.0.1:9090
  curl http://127.0.0.1:9090/.well-known/idempotency
      what is covered, how long keys are remembered, which statuses mean what
  semel config show > semel.toml; semel serve --config semel.toml
      from every default in one file to your own

SIGTERM and SIGINT stop accepting, finish what runs (at most drain_max, 30s), and exit 0. A second one exits at once.
SIGHUP reads the configuration file and the certificates again; if anything is wrong with them, everything stays as it is.

Exit codes:
  0  stopped when asked to, and everything that ran was finished
  1  could not start or go on, or something was still running when drain_max was over
  2  wrong command line or configuration";

#[derive(Subcommand)]
enum StoreCommand {
    /// Makes the tables of a store in PostgreSQL, or brings them to this release.
    ///
    /// The role that does owns them: it is the one to give to semel serve, which never makes tables.
    #[command(
        after_help = "Examples:\n  semel store migrate --store postgres://semel@db/semel\n  semel store migrate --print > semel.sql     (for psql, and whoever reviews it)\n\nExit codes:\n  0  the tables are there; or the store has none\n  1  the server failed, or is not there\n  2  wrong command line or configuration"
    )]
    Migrate {
        /// Print the SQL and do nothing; needs no store
        #[arg(long)]
        print: bool,
        #[command(flatten)]
        of: StoreOf,
    },
    /// Says what is wrong with a store, what would be lost by it, and what to do.
    #[command(
        after_help = "Examples:\n  semel store check --store postgres://semel@db/semel\n  semel store check --config semel.toml\n\nExit codes:\n  0  semel serve starts on it\n  1  it does not, or the server is not there\n  2  wrong command line or configuration"
    )]
    Check {
        #[command(flatten)]
        of: StoreOf,
    },
    /// Counts the records of a store. It reads them all: something for operators, not for every minute.
    #[command(
        after_help = "Examples:\n  semel store stats --store redis://cache:6379\n  semel store stats --config semel.toml --json\n\nExit codes:\n  0  counted\n  1  the server failed, or is not there\n  2  wrong command line or configuration"
    )]
    Stats {
        /// One JSON object instead of a table
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        of: StoreOf,
    },
}

/// Which store an operator means.
#[derive(Args)]
struct StoreOf {
    /// The configuration file of the gateway (see `semel config show`); flags beat it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data folder of the gateway, for an embedded store [default: ./semel-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

impl StoreOf {
    fn read(self) -> Result<Config, ConfigError> {
        let gateway = GatewaySettings { data: self.data, ..GatewaySettings::default() };
        let flags = Flags { gateway, store: self.store.read()?, ..Flags::default() };
        Config::load(self.config.as_deref(), flags)
    }
}

#[derive(Subcommand)]
enum SecretCommand {
    /// Mints a secret of 32 random bytes in a new file that only its owner may read.
    #[command(
        after_help = "Examples:\n  semel secret new /etc/semel/seal-2026     (then name it first in gateway.seal_secret_files)\n  semel secret new /etc/semel/secret        (for --secret-file, the same on every gateway of one store)\n\nExit codes:\n  0  it is there\n  1  it is not: the file was there before, or cannot be made"
    )]
    New {
        /// The file, which must not be there yet
        file: PathBuf,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Reads FILE and says what is wrong with it, and where.
    #[command(
        after_help = "Examples:\n  semel config check semel.toml\n\nExit codes:\n  0  semel serve would accept it\n  2  it would not"
    )]
    Check {
        /// The configuration file
        file: PathBuf,
    },
    /// Prints every setting with its value, as a configuration file.
    #[command(
        after_help = "Examples:\n  semel config show > semel.toml\n  semel config show --preset stripe\n  semel config show --config semel.toml     (what a short file amounts to)"
    )]
    Show {
        /// The configuration file to complete
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The preset to start from
        #[arg(long, value_name = "NAME")]
        preset: Option<Preset>,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(flags) => serve(*flags),
        Command::Demo(args) => demo::run(&args),
        Command::DemoOrigin(args) => demo::origin::run(&args).map(|()| SUCCESS),
        Command::Sandbox(args) => sandbox::run(&args).map(|finished| if finished { SUCCESS } else { FAILURE }),
        Command::Call(args) => call::call(*args),
        Command::Resume(args) => call::resume(&args),
        Command::Journal(command) => call::journal(command),
        Command::Store(command) => store(command),
        Command::Records(records) => records::run(*records),
        Command::Secret(SecretCommand::New { file }) => semel::mint_secret(&file).map(|()| SUCCESS).map_err(Into::into),
        Command::Ready(args) => ready::run(&args).map(|()| SUCCESS),
        Command::Init(init) => init::run(&init).map(|()| SUCCESS),
        Command::Config(command) => config(command),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("semel: {error:#}");
            ExitCode::from(if error.is::<ConfigError>() { USAGE } else { FAILURE })
        }
    }
}

fn serve(flags: Serve) -> anyhow::Result<u8> {
    let gateway = GatewaySettings {
        listen: flags.listen,
        upstream: flags.upstream,
        data: flags.data,
        admin: flags.admin,
        admin_token_file: flags.admin_token_file,
        log: flags.log_form,
        log_filter: flags.log,
        ..GatewaySettings::default()
    };
    let policy = PolicyFlags { preset: flags.preset, key_presence: flags.require_key.then_some(Presence::Required) };
    let store = flags.store.read()?;
    let (file, flags, check) = (flags.config, Flags { gateway, store, policy }, flags.check);
    if check {
        return serve::check_only(file, flags).map(|()| SUCCESS);
    }
    Ok(match serve::run(file, flags)? {
        serve::Ended::Drained => SUCCESS,
        serve::Ended::CutOff => FAILURE,
    })
}

fn store(command: StoreCommand) -> anyhow::Result<u8> {
    use store::{Command, Form};
    let (command, of) = match command {
        StoreCommand::Migrate { print: true, of: _ } => {
            print!("{}", store::migrations());
            return Ok(SUCCESS);
        }
        StoreCommand::Migrate { print: false, of } => (Command::Migrate, of),
        StoreCommand::Check { of } => (Command::Check, of),
        StoreCommand::Stats { json, of } => (Command::Stats(if json { Form::Json } else { Form::Text }), of),
    };
    store::run(command, &of.read()?)
}

fn config(command: ConfigCommand) -> anyhow::Result<u8> {
    match command {
        ConfigCommand::Check { file } => {
            let config = Config::load(Some(&file), Flags::default())?;
            println!("{}: fine; it covers {} route(s)", file.display(), config.policy.routes().len());
            if config.gateway.upstream.is_none() {
                println!("It names no origin: give gateway.upstream, or `semel serve --upstream URL`.");
            }
        }
        ConfigCommand::Show { config, preset } => {
            let policy = PolicyFlags { preset, key_presence: None };
            let config = Config::load(config.as_deref(), Flags { policy, ..Flags::default() })?;
            print!("{}", config::show(&config));
        }
    }
    Ok(SUCCESS)
}
