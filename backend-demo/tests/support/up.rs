//! The whole demo as a process, and what it printed.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "a module of several test binaries")]

use std::{collections::BTreeMap, net::SocketAddr, path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::http::LIMIT;

#[derive(Debug)]
pub struct Up {
    pub process: Child,
    _output: Lines<BufReader<ChildStdout>>,
    /// The first word of each line, and the rest.
    pub said: BTreeMap<String, String>,
}

impl Up {
    /// Runs it in a directory, with this `lb.toml`.
    pub async fn start(directory: &Path, file: &str, arguments: &[&str]) -> Self {
        std::fs::write(directory.join("lb.toml"), file).expect("written");
        let mut process = demo(&["up", "--data", "data"])
            .args(arguments)
            .current_dir(directory)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut output = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let mut said = BTreeMap::new();
        let read = async {
            while let Some(line) = output.next_line().await.expect("readable") {
                if line.starts_with("Ctrl-C") {
                    return;
                }
                if let Some((word, rest)) = line.split_once(' ') {
                    said.insert(word.to_owned(), rest.trim().to_owned());
                }
            }
            panic!("up has ended");
        };
        timeout(LIMIT * 2, read).await.expect("it starts in time");
        Self { process, _output: output, said }
    }

    pub fn address(&self, word: &str) -> SocketAddr {
        let text = self.said[word].split_whitespace().next().expect("an address");
        text.trim_start_matches("http://").trim_end_matches('/').parse().expect("an address")
    }

    pub fn pid(&self, id: &str) -> u32 {
        self.said[id].rsplit(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid")
    }

    /// Sends so many requests with the printed command; returns the number of answers of each member. None may fail.
    pub async fn ask(&self, requests: u64) -> BTreeMap<String, u64> {
        let (front, count) = (self.address("front").to_string(), requests.to_string());
        let asked = timeout(LIMIT, demo(&["client", &front, "--count", &count]).output()).await.expect("in time");
        let asked = asked.expect("it runs");
        let table = String::from_utf8(asked.stdout).expect("UTF-8");
        assert!(asked.status.success(), "{table}");
        let rows = table.lines().skip(1).map(|row| row.rsplit_once(' ').expect("a row"));
        let answered: BTreeMap<String, u64> =
            rows.map(|(id, count)| (id.trim().to_owned(), count.parse().expect("a number"))).collect();
        assert_eq!(answered.values().sum::<u64>(), requests, "{table}");
        answered
    }
}

pub fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backend-demo"));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub async fn send(signal: &str, pid: u32) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().await.expect("sh");
    assert!(sent.success());
}
