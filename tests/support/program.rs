//! The real program in its own directory, with its log.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::{soon, until};

pub struct Program {
    child: Child,
    directory: tempfile::TempDir,
    log: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    /// Of the executable.
    pub const PATH: &str = env!("CARGO_BIN_EXE_evenkeel");

    /// `evenkeel ARGUMENTS` beside an `lb.toml` with this text. It is killed when this is dropped.
    pub fn start(config: &str, arguments: &[&str]) -> Self {
        Self::start_as(config, |command| {
            command.args(arguments);
        })
    }

    /// As [`Self::start`], the command prepared by the caller.
    pub fn start_as(config: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(Self::PATH);
        command.stdin(Stdio::null());
        prepare(&mut command);
        Self::start_by(config, command)
    }

    /// As [`Self::start`], by a command that starts it in the end.
    pub fn start_by(config: &str, mut command: Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("lb.toml"), config).unwrap();
        // So that programs of tests that run at the same time do not meet at one usual socket.
        command.env("RUNTIME_DIRECTORY", directory.path());
        command.current_dir(directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let readers = vec![
            tokio::spawn(keep(BufReader::new(err).lines(), Arc::clone(&log))),
            tokio::spawn(keep(BufReader::new(out).lines(), Arc::clone(&log))),
        ];
        Self { child, directory, log, readers }
    }

    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id().expect("it has not been waited for")).unwrap()
    }

    /// Everything it has said so far, stdout and stderr.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a line that holds `text`.
    pub async fn until_says(&self, text: &str) -> String {
        until(&format!("the program says {text:?}; so far: {:#?}", self.log()), || async {
            self.log().into_iter().find(|line| line.contains(text))
        })
        .await
    }

    /// The first address that a listener got, from its log line.
    pub async fn front(&self, listener: &str) -> SocketAddr {
        let line = self.until_says(&format!("listening listener={listener} ")).await;
        let addresses = line.split_once("addresses=[").unwrap().1;
        addresses.split([',', ']']).next().unwrap().parse().unwrap()
    }

    pub async fn admin(&self) -> SocketAddr {
        let line = self.until_says("admin listening").await;
        line.split_once("address=").unwrap().1.trim().parse().unwrap()
    }

    /// Number of its open file descriptors.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// The output of a command for it that succeeds. `token` may be empty.
    pub async fn good(&self, token: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(Self::PATH);
        command.args(arguments).env("EVENKEEL_ADMIN", format!("http://{}", self.admin().await)).kill_on_drop(true);
        if !token.is_empty() {
            command.env("EVENKEEL_TOKEN", token);
        }
        let output = soon("the command", command.output()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops it, which has to succeed, and returns its whole log.
    pub async fn stop(mut self) -> Vec<String> {
        self.signal(rustix::process::Signal::TERM);
        assert_eq!(self.end().await.code(), Some(0), "{:#?}", self.log());
        self.log()
    }

    /// Waits for its end; its log is complete then.
    pub async fn end(&mut self) -> ExitStatus {
        let status = soon("the program's end", self.child.wait()).await.unwrap();
        for reader in self.readers.drain(..) {
            soon("the end of its output", reader).await.unwrap();
        }
        status
    }
}

async fn keep<R: tokio::io::AsyncBufRead + Unpin>(mut lines: tokio::io::Lines<R>, log: Arc<Mutex<Vec<String>>>) {
    while let Ok(Some(line)) = lines.next_line().await {
        log.lock().unwrap().push(line);
    }
}
