//! The processes of the demo: this same program, started again. None outlives the demo.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{net::TcpStream, time::Instant};

use super::{
    origin::{Faults, LISTENING},
    shared::{Membership, OF_OTHERS},
};

/// A naive origin.
#[derive(Debug)]
pub(crate) struct OriginProcess {
    _child: Guard,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

/// A gateway that can be killed and started again on the same port and the same data folder.
pub(crate) struct GatewayProcess {
    child: Option<Guard>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    origin: SocketAddr,
    folder: PathBuf,
    membership: Option<Membership>,
}

impl OriginProcess {
    /// Starts one, and waits until it listens.
    pub(crate) async fn start(seed: u64, faults: Faults) -> anyhow::Result<OriginProcess> {
        let mut command = this_program()?;
        let Faults { slow_per_mille, reply_lost_per_mille, dropped_per_mille } = faults;
        command.arg("demo-origin").args(["--seed", &seed.to_string()]);
        command.args(["--slow-per-mille", &slow_per_mille.to_string()]);
        command.args(["--reply-lost-per-mille", &reply_lost_per_mille.to_string()]);
        command.args(["--dropped-per-mille", &dropped_per_mille.to_string()]);
        // Even a killed demo closes what it wrote to.
        command.arg("--until-input-ends");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Guard(command.spawn().context("cannot start the demo's origin")?);
        let stdout = child.0.stdout.take().expect("standard output is piped");
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let line = line.await.context("the reader of the origin's output failed")??;
        let address = line.trim().strip_prefix(LISTENING).context("the demo's origin did not start")?;
        Ok(OriginProcess { _child: child, address: address.parse().context("the origin's address")? })
    }
}

impl GatewayProcess {
    /// Starts one in front of the origin, with what is its own in `folder`, and waits until it listens. Its records are
    /// there too, unless it is a member of those that share a store.
    pub(crate) async fn start(
        origin: SocketAddr,
        folder: &Path,
        membership: Option<&Membership>,
    ) -> anyhow::Result<GatewayProcess> {
        fs::create_dir_all(folder).context("cannot make a folder for the gateway")?;
        let (address, folder) = (free_address()?, folder.to_owned());
        let mut gateway = GatewayProcess { child: None, address, origin, folder, membership: membership.cloned() };
        gateway.start_again().await?;
        Ok(gateway)
    }

    /// Kills it with SIGKILL: it has no chance to tidy up.
    pub(crate) fn kill(&mut self) {
        self.child = None;
    }

    /// Starts it after [`GatewayProcess::kill`], and waits until it listens.
    pub(crate) async fn start_again(&mut self) -> anyhow::Result<()> {
        let log =
            File::options().create(true).append(true).open(self.log()).context("cannot write the gateway's log")?;
        let mut command = this_program()?;
        command.arg("serve").args(["--listen", &self.address.to_string()]);
        command.args(["--upstream", &format!("http://{}", self.origin)]);
        command.arg("--data").arg(self.folder.join("records"));
        if let Some(Membership { environment, config, secret }) = &self.membership {
            command.arg("--config").arg(config).arg("--secret-file").arg(secret).envs(environment.iter().cloned());
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(Guard(command.spawn().context("cannot start the gateway")?));
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(self.address).await.is_err() {
            if let Some(status) = self.ended()? {
                bail!("the gateway did not start ({status}):\n{}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("the gateway does not listen after {START_MAX:?}:\n{}", self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Its process id, while it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.0.id())
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.0.try_wait()?),
            None => Ok(None),
        }
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let mut log = String::new();
        let read = File::open(self.log()).and_then(|mut file| file.read_to_string(&mut log));
        if let Err(error) = read {
            return format!("its log cannot be read: {error}");
        }
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("gateway.log")
    }
}

/// How long a process may take until it listens.
const START_MAX: Duration = Duration::from_secs(10);
const LAST_LINES: usize = 12;

/// Kills the process when dropped, and waits until it is gone and has let go of its port and its files.
#[derive(Debug)]
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program again, with other arguments, and a store only if they or the environment that they come with name one.
pub(crate) fn this_program() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find the program that is running")?);
    for variable in OF_OTHERS {
        command.env_remove(variable);
    }
    // Ctrl-C is for the demo, which ends the others when it is their time.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Ok(command)
}

/// A free address that stays free while the gateway is down: below the ports that systems hand out to connections
/// (32768 and up on Linux, 49152 and up elsewhere), where the storm's own connections cannot take it.
fn free_address() -> anyhow::Result<SocketAddr> {
    let ports = u16::try_from(PORTS.len()).expect("there are fewer ports than 2^16");
    // Two demos at once start looking at different places.
    let first = u16::try_from(std::process::id() % u32::from(ports)).expect("a remainder of a u16 fits a u16");
    let mut addresses =
        PORTS.cycle().skip(first.into()).take(ports.into()).map(|port| (Ipv4Addr::LOCALHOST, port).into());
    addresses.find(|address: &SocketAddr| TcpListener::bind(address).is_ok()).context("every port tried is taken")
}

const PORTS: Range<u16> = 20_000..30_000;
