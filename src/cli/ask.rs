//! Asks the admin listener of a running process. HTTP/1.0, so that an answer ends where its connection does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

/// For each step; the process answers from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// More than a process with ten thousand backends says.
const LONGEST: u64 = 64 << 20;

/// The JSON at a path.
pub(super) fn get(admin: SocketAddr, path: &str) -> anyhow::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {admin}\r\nAccept: application/json\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("what answers there does not speak HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("GET {path}: status {status}; is it an Evenkeel of this version?");
    }
    serde_json::from_str(body).with_context(|| format!("GET {path}: the answer is no JSON"))
}
