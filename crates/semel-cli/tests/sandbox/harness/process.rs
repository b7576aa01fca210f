//! A `semel` process: started, watched, stopped, killed.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::within;

/// A running process. It is killed when it is dropped, and its log shown when the test failed.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
    end: Option<ExitStatus>,
}

impl Process {
    /// Starts `semel` with these arguments, and waits until it says where it listens; or what it said instead.
    pub(crate) async fn start(args: &[String]) -> Result<(Process, SocketAddr), String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
        command.args(args).env_remove("RUST_LOG").env_remove("SEMEL_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("semel starts");
        let log = Arc::new(Mutex::new(String::new()));
        let pipes: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stderr.take().expect("it is piped")), Box::new(child.stdout.take().expect("it is piped"))];
        let reading = pipes.map(|pipe| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    log.lock().unwrap().push_str(&(line + "\n"));
                }
            })
        });
        let mut process = Process { child, log, end: None };
        let listening = within("semel listens", async {
            loop {
                if let Some(address) = listening(&process.log()) {
                    return Some(address);
                }
                if let Some(end) = process.child.try_wait().expect("it can be waited for") {
                    process.end = Some(end);
                    return None;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if let Some(address) = listening.await {
            return Ok((process, address));
        }
        for thread in reading {
            thread.join().expect("the log is read to its end");
        }
        Err(process.log())
    }

    /// Everything that it has printed.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Kills it as a power cut would, without a chance to tidy up.
    pub(crate) fn kill9(&mut self) {
        if self.end.is_none() {
            self.child.kill().expect("it can be killed");
            self.end = Some(self.child.wait().expect("it can be waited for"));
        }
    }

    /// Asks it to end (`SIGTERM`), and waits until it has.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(status.expect("there is kill").success(), "it runs");
        within("semel ends", async {
            loop {
                if let Some(end) = self.child.try_wait().expect("it can be waited for") {
                    self.end = Some(end);
                    return end;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.end.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- it said\n{}---", self.log());
        }
    }
}

/// The address of the listener for clients, once it was told.
fn listening(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains("listening on"))?;
    let rest = &line[line.find("listening on")?..];
    let address = &rest[rest.find("127.0.0.1:")?..];
    let end = address[10..].find(|c: char| !c.is_ascii_digit()).map_or(address.len(), |end| 10 + end);
    address[..end].parse().ok()
}
