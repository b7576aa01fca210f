//! Who starts a server, and stops it whatever becomes of the process that asked for it.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long a server may take to start or stop before that is an error.
const PATIENCE: Duration = Duration::from_mins(1);

/// A shell that runs what it is told, keeps one server as its child, and ends it and deletes its folder when there is
/// nobody any more at the other end of its standard input.
#[derive(Debug)]
pub(crate) struct Keeper {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The shell ends when this closes.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    shell: Child,
    server: Option<u32>,
}

/// What the shell needs to know before it begins.
pub(crate) struct Kind {
    /// Names the folder.
    pub(crate) name: &'static str,
    /// Whom root becomes, for servers that refuse to run as root.
    pub(crate) user: Option<&'static str>,
    /// The signal that ends the server at once, with all of its own children.
    pub(crate) end: &'static str,
}

/// `serve` and `end` are for the scripts. A script is all lines up to `run`; the answer is its exit code and the server.
const SHELL: &str = r#"
folder=$(mktemp -d "${TMPDIR:-/tmp}/semel-$NAME.XXXXXX") || exit 1
cd "$folder" || exit 1
# Else the kernel ends it with its owner when a server is paused then.
trap '' HUP
server=
serve() { "$@" & server=$!; }
end() {
    [ -n "$server" ] || return 0
    kill -CONT "$server"
    kill "-$1" "$server"
    # Again, for a Redis that refuses while it writes its first log.
    while sleep 0.5 && kill "-$1" "$server"; do :; done </dev/null >/dev/null 2>&1 &
    again=$!
    wait "$server"
    kill "$again"
    server=
}
echo "$folder"
script=
while IFS= read -r line; do
    if [ "$line" = run ]; then
        eval "$script" </dev/null >>log 2>&1
        echo "$? ${server:-0}"
        script=
    else
        script="$script$line
"
    fi
done
end "$END" 2>/dev/null
rm -rf "$folder"
"#;

impl Keeper {
    pub(crate) fn start(kind: &Kind) -> io::Result<Keeper> {
        let mut shell = Command::new("sh");
        shell.args(["-c", SHELL]).env("NAME", kind.name).env("END", kind.end);
        // The folder of the test may not be the server's to enter, and Ctrl-C is for the test: the keeper sees it end.
        shell.current_dir("/").process_group(0);
        if let Some(user) = kind.user
            && id(&["-u"])? == 0
        {
            shell.uid(id(&["-u", user])?).gid(id(&["-g", user])?);
        }
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut shell = shell.spawn()?;
        let stdin = Some(shell.stdin.take().expect("the standard input is a pipe"));
        let mut stdout = BufReader::new(shell.stdout.take().expect("the standard output is a pipe"));
        let mut folder = String::new();
        stdout.read_line(&mut folder)?;
        if folder.is_empty() {
            let mut why = String::new();
            shell.stderr.take().expect("the standard error is a pipe").read_to_string(&mut why)?;
            shell.wait()?;
            return Err(io::Error::other(format!("no folder for {}: {why}", kind.name)));
        }
        let folder = PathBuf::from(folder.trim_end());
        Ok(Keeper { folder, state: Mutex::new(State { stdin, stdout, shell, server: None }) })
    }

    /// Where the server has all that is its own: the current folder of every script.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs a script as the server's user; an error has what it said.
    pub(crate) fn run(&self, script: &str) -> io::Result<()> {
        let said_before = self.log().len();
        let mut state = self.state.lock();
        let stdin = state.stdin.as_mut().expect("open until the drop");
        writeln!(stdin, "{script}\nrun")?;
        let mut answer = String::new();
        state.stdout.read_line(&mut answer)?;
        let Some((code, server)) = answer.trim_end().split_once(' ') else {
            return Err(io::Error::other("the shell that keeps a server is gone"));
        };
        state.server = server.parse().ok().filter(|server| *server != 0);
        if code == "0" {
            return Ok(());
        }
        Err(io::Error::other(self.log().get(said_before..).unwrap_or_default().to_owned()))
    }

    /// Starts the server with `script`, which says `serve` once, and waits until `ready` says so of its process id.
    pub(crate) fn serve(&self, script: &str, mut ready: impl FnMut(u32) -> bool) -> io::Result<()> {
        let said_before = self.log().len();
        self.run(script)?;
        let server = self.server().ok_or_else(|| io::Error::other("the script started no server"))?;
        let started = until(|| is_over(server) || ready(server));
        if started.is_ok() && !is_over(server) {
            return Ok(());
        }
        self.end("KILL");
        let said = self.log();
        Err(io::Error::other(format!("it does not start: {}", said.get(said_before..).unwrap_or_default())))
    }

    /// Ends the server with a signal, and waits until it is over.
    pub(crate) fn end(&self, signal: &str) {
        self.run(&format!("end {signal}")).expect("the shell lives until the drop");
    }

    /// Sends the server a signal that it survives.
    pub(crate) fn signal(&self, signal: &str) {
        self.run(&format!("kill -{signal} \"$server\"")).expect("the server runs");
    }

    /// The process id of the server, if it was started and not ended.
    pub(crate) fn server(&self) -> Option<u32> {
        self.state.lock().server
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        state.stdin = None;
        let _ = state.shell.wait();
    }
}

/// Quotes a word for a script.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Escapes what a password may not have in a URL.
pub(crate) fn percent_encode(text: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if safe(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Asks every 10 ms whether it is done, for at most a minute: the way to wait for a real process.
pub fn until(mut done: impl FnMut() -> bool) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("not within {PATIENCE:?}")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Runs a client program and gives what it said.
pub(crate) fn output(command: &mut Command) -> io::Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    if output.status.success() {
        return Ok(said);
    }
    let program = command.get_program().display();
    Err(io::Error::other(format!("{program}: {said}{}", String::from_utf8_lossy(&output.stderr).trim_end())))
}

/// Whether a process has ended; one that nobody has waited for yet has ended too.
fn is_over(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat"))
        .map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

/// Asks `id`, since the standard library cannot.
fn id(args: &[&str]) -> io::Result<u32> {
    let said = output(Command::new("id").args(args))?;
    said.parse().map_err(|_| io::Error::other(format!("id {}: {said}", args.join(" "))))
}
