//! Programs that other people wrote: where they are, how they run, and that none of them stays.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::soon;

/// Where these programs are, or `None`: then the test has to return, and why was said. Under `tests/run.sh` and in CI, where
/// they have to be there, it panics instead.
pub fn programs<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let found = names.map(|name| (name, find(name)));
    let missing: Vec<&str> = found.iter().filter(|(_, path)| path.is_none()).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Some(found.map(|(_, path)| path.unwrap()));
    }
    let (names, verb) = (missing.join(", "), if missing.len() == 1 { "is" } else { "are" });
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    assert!(
        !is("EVENKEEL_INTEROP", "required") && !is("CI", "true"),
        "{names} {verb} not installed (tests/run.sh installs what is missing)"
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not by `eprintln!`, which the test harness would keep to itself.
    let line = format!("\nskipped: {test}: {names} {verb} not installed (tests/run.sh installs what is missing)\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// As [`programs`], of one.
pub fn program(name: &str) -> Option<PathBuf> {
    programs([name]).map(|[path]| path)
}

/// Debian's own before whatever else is on the `PATH`; PostgreSQL's programs are in none of its directories;
/// `interop-python` is the one that has the packages of tests/run.sh.
fn find(name: &str) -> Option<PathBuf> {
    // In the environment that tests/run.sh makes. Not resolved: Python's own place is how it knows which packages it has.
    let of_venv = match name {
        "schemathesis" => Some("schemathesis"),
        "interop-python" => Some("python"),
        _ => None,
    };
    if let Some(name) = of_venv {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/interop-venv/bin").join(name);
        return path.exists().then_some(path);
    }
    let mut postgres: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    postgres.sort();
    let debian = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = postgres.into_iter().rev().chain(debian).chain(std::env::split_paths(&path));
    places
        .map(|place| place.join(name))
        .find(|path| fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0))
}

/// A port for a server that can't take port 0, held until drop. It is bound and does not listen, so the kernel gives it to no other
/// socket, but a server with `SO_REUSEADDR` may listen on it, and all of these set it.
pub struct HeldPort {
    address: SocketAddr,
    _held: TcpSocket,
}

impl HeldPort {
    pub fn new() -> Self {
        let held = TcpSocket::new_v4().unwrap();
        held.set_reuseaddr(true).unwrap();
        held.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self { address: held.local_addr().unwrap(), _held: held }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A server that others wrote, with its output in a file. Drop kills it and every process below it.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = fs::File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Fails the test, with what it said, if it has ended.
    pub fn check_runs(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("it has ended, {status}: {}", self.log());
        }
    }

    /// `kill -9`, of the processes below it as well.
    pub fn kill(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // Stopped, so that it starts no more while they are counted.
        let all = family(i32::try_from(self.child.id()).unwrap());
        for pid in all {
            send(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }

    /// Asks it to end, and waits for that, bounded.
    pub fn ask(&mut self, signal: Signal, patience: Duration) {
        send(i32::try_from(self.child.id()).unwrap(), signal);
        let deadline = std::time::Instant::now() + patience;
        while std::time::Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn send(pid: i32, signal: Signal) {
    // One that has gone by itself needs none.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

/// A process, stopped, and everything below it.
fn family(root: i32) -> Vec<i32> {
    send(root, Signal::STOP);
    let mut all = vec![root];
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // "pid (name) state parent …", where the name may hold anything.
        let status = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = status.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<i32>().ok());
        if parent == Some(root) {
            all.extend(family(pid));
        }
    }
    all
}

/// What a command came to.
#[derive(Debug)]
pub struct CommandOutput {
    pub ok: bool,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl CommandOutput {
    /// Its output, if it succeeded.
    #[track_caller]
    pub fn good(self) -> String {
        assert!(self.ok, "{self:#?}");
        self.out
    }
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            ok: output.status.success(),
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

/// Runs a command to its end.
pub async fn output_of(mut command: tokio::process::Command) -> CommandOutput {
    soon("the command's end", command.output()).await.unwrap().into()
}

/// A command without our environment: no settings, no proxies, no locale of the user.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Runs a client that others wrote to its end, which has to come within a minute.
pub async fn run(program: &Path, arguments: &[&str], input: &[u8]) -> CommandOutput {
    let mut command = tokio::process::Command::from(command(program));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let whole = async {
        let write = async move {
            // One that does not read all of it ends before.
            let _ = stdin.write_all(&input).await;
        };
        tokio::join!(write, child.wait_with_output()).1
    };
    match timeout(Duration::from_secs(60), whole).await {
        Ok(output) => output.unwrap().into(),
        Err(_) => panic!("takes longer than a minute: {command:?}"),
    }
}
