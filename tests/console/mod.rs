//! The admin side and the commands that use it, by behaviour: with live sessions, real processes and clients that
//! misbehave.

mod abuse;
mod access;
mod api;
mod commands;
mod operate;
mod schema;
mod socket;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Command;

use crate::support::{Backend, CommandOutput, Program, output_of, soon, until};

/// A balancer as a process, with a socket, and what was said to it.
pub struct Console {
    pub program: Program,
    pub socket: PathBuf,
}

/// A listener `front`, a pool `web` of these backends (id, address), and more of the file.
pub fn config(backends: &[(&str, &Backend)], top: &str, admin: &str, more: &str) -> String {
    let entry = |(id, backend): &(&str, &Backend)| format!("{{ id = \"{id}\", address = \"{}\" }}", backend.address());
    let backends: Vec<_> = backends.iter().map(entry).collect();
    format!(
        "workers = 2\n{top}\n[admin]\nbind = \"127.0.0.1:0\"\nsocket = \"admin.sock\"\n{admin}\n\
         [listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n\
         [pools.web]\nbackends = [{}]\n\
         check = {{ interval = \"100ms\", fast_interval = \"20ms\", timeout = \"5s\" }}\n{more}\n",
        backends.join(", ")
    )
}

impl Console {
    /// Starts it, and waits until it is ready.
    pub async fn start(text: &str) -> Self {
        let program = Program::start(text, &[]);
        let socket = program.directory().join("admin.sock");
        let this = Self { program, socket };
        until("ready", || async { (this.get("/ready").await.ok()?.0 == 200).then_some(()) }).await;
        this
    }

    /// `evenkeel ARGUMENTS` beside its file, to its end.
    pub async fn says(&self, arguments: &[&str]) -> CommandOutput {
        output_of(self.command(arguments)).await
    }

    /// The output of a command that succeeds.
    pub async fn good(&self, arguments: &[&str]) -> String {
        let said = self.says(arguments).await;
        assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
        said.out
    }

    /// A command, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Program::PATH);
        command.args(arguments).current_dir(self.program.directory());
        for name in ["EVENKEEL_CONFIG", "EVENKEEL_ADMIN", "EVENKEEL_TOKEN", "NO_COLOR"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Over the socket; status and body.
    pub async fn get(&self, path: &str) -> io::Result<(u16, String)> {
        self.ask("GET", path, "").await
    }

    /// A change over the socket.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
        let head = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        ask(UnixStream::connect(&self.socket).await?, method, path, head, body).await
    }

    /// A backend, as the API explains it.
    pub async fn backend(&self, id: &str) -> Value {
        let (status, body) = self.get(&format!("/api/v1/backends/web/{id}")).await.unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

/// One request on a new connection; status and body.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    method: &str,
    path: &str,
    head: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    let host = if head.to_ascii_lowercase().contains("host:") { "" } else { "Host: 127.0.0.1\r\n" };
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{host}{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    soon(path, async {
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.map(|status| (status, body.to_owned())).ok_or_else(|| io::Error::other(head.to_owned()))
    })
    .await
}

/// Reads the mode of a file.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
