//! Real programs through the balancer, each with a backend killed in the middle. Every server is the test's own: a process in
//! a temporary directory, on a port of the loopback that was free, ended by its pid.
//!
//! A test whose programs are not installed says so and passes, except under `tests/run.sh` and in CI.

mod agent;
mod checks;
mod consul;
mod dashboard;
mod dnsmasq;
mod etcd;
mod hellos;
mod load;
mod nginx;
mod postfix;
mod postgres;
mod postgres_tls;
mod promtool;
mod redis;
mod tls;

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::support::soon;

fn port(address: SocketAddr) -> String {
    address.port().to_string()
}

/// A client that stays: lines in, lines out. Killed when dropped.
struct Conversation {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Conversation {
    fn start(command: std::process::Command) -> Self {
        let mut command = tokio::process::Command::from(command);
        let pipe = std::process::Stdio::piped;
        let mut child = command.stdin(pipe()).stdout(pipe()).kill_on_drop(true).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { input: child.stdin.take(), child, output }
    }

    async fn say(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        soon("a line is taken", input.write_all(format!("{line}\n").as_bytes())).await.unwrap();
    }

    /// The next line; `None` at the end.
    async fn hear(&mut self) -> Option<String> {
        soon("a line of the client", self.output.next_line()).await.unwrap()
    }

    async fn ask(&mut self, line: &str) -> String {
        self.say(line).await;
        self.hear().await.unwrap_or_else(|| panic!("no answer to {line:?}"))
    }

    /// Says nothing more, and waits for its end.
    async fn end(mut self) -> std::process::ExitStatus {
        drop(self.input.take());
        soon("the client's end", self.child.wait()).await.unwrap()
    }
}
