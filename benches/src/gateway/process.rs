//! Servers that are stopped whatever happens.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::machine::{memory_bytes, processor_seconds, with_children};

/// A server process; stopped when this is dropped.
pub(crate) struct Running {
    child: Child,
}

const START_MAX: Duration = Duration::from_secs(20);
const STOP_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

impl Running {
    /// Starts it and waits until it accepts connections; what it prints goes into `folder`.
    pub(crate) fn start(mut command: Command, folder: &Path, at: SocketAddr) -> anyhow::Result<Running> {
        let log = folder.join("output.log");
        let out = File::create(&log).context("cannot make a log file")?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let shown = format!("{command:?}");
        let child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
        let mut running = Running { child };
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(at).is_err() {
            let ended = running.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("{shown} does not listen on {at} ({ended:?}):\n{said}");
            }
            thread::sleep(POLL);
        }
        Ok(running)
    }

    /// Processor time of the process and its children so far, in seconds.
    pub(crate) fn processor_seconds(&self) -> f64 {
        self.processes().into_iter().map(processor_seconds).sum()
    }

    /// Memory of the process and its children that no file backs.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.processes().into_iter().map(memory_bytes).sum()
    }

    fn processes(&self) -> Vec<u32> {
        with_children(self.child.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM, not SIGKILL: nginx takes its workers along only if it is asked. The shell's own kill is everywhere.
        let _ = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.child.id())).status();
        let deadline = Instant::now() + STOP_MAX;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(POLL),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address on which nobody listens now.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?)
}

/// Debian keeps servers where not everybody's PATH leads.
pub(crate) fn server_program(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .with_context(|| format!("there is no {name}; run `cargo xtask bench`, which installs it"))
}
