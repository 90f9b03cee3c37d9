//! `up` as a whole: what it prints, that it works, that nothing of it stays.

#[path = "support/http.rs"]
mod http;

use std::{collections::BTreeMap, net::SocketAddr, process::Stdio};

use backend_demo::{client, serve::Stored};
use http::{LIMIT, get, until};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdout, Command},
    time::timeout,
};

const LB: &str = r#"
[admin]
bind = "127.0.0.1:0"
[log]
level = "warn"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
consul = { service = "web" }
check = { kind = "http", path = "/health", interval = "200ms", fast_interval = "50ms" }
"#;

struct Up {
    process: Child,
    _output: Lines<BufReader<ChildStdout>>,
    /// The first word of each line, and the rest.
    said: BTreeMap<String, String>,
}

impl Up {
    async fn start(directory: &std::path::Path) -> Self {
        std::fs::write(directory.join("lb.toml"), LB).expect("written");
        let mut process = Command::new(env!("CARGO_BIN_EXE_backend-demo"))
            .args(["up", "--registry", "127.0.0.1:0", "--data", "data"])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
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

    fn address(&self, word: &str) -> SocketAddr {
        let text = self.said[word].split_whitespace().next().expect("an address");
        let text = text.trim_start_matches("http://").trim_end_matches("/metrics");
        text.parse().expect("an address")
    }

    fn pid(&self, id: &str) -> u32 {
        self.said[id].rsplit(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid")
    }

    async fn ask(&self, count: u64) -> client::Report {
        let address = self.address("front").to_string();
        client::run(&client::Options { address, count, concurrency: 8, timeout: LIMIT }).await
    }
}

async fn send(signal: &str, pid: u32) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().await.expect("sh");
    assert!(sent.success());
}

async fn refuses(address: SocketAddr) {
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    timeout(LIMIT, refused).await.unwrap_or_else(|_| panic!("{address} still listens"));
}

#[tokio::test]
async fn three_members_share_one_is_killed_and_all_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut up = Up::start(directory.path()).await;
    let report = up.ask(300).await;
    assert!(report.all_answered(), "{report}");
    assert_eq!(report.answered.keys().collect::<Vec<_>>(), ["web-1", "web-2", "web-3"]);
    assert!(report.answered.values().all(|count| (99..=101).contains(count)), "{report}");

    send("KILL", up.pid("web-2")).await;
    refuses(up.address("web-2")).await;
    let second = up.ask(300).await;
    assert!(second.all_answered(), "{second}");
    assert!(!second.answered.contains_key("web-2"), "{second}");

    for id in ["web-1", "web-2", "web-3"] {
        let answered = |report: &client::Report| report.answered.get(id).copied().unwrap_or_default();
        let database = directory.path().join(format!("data/{id}.sqlite"));
        let totals = Stored::open(&database).expect("a database").totals().expect("totals");
        assert_eq!(totals, [(id.to_owned(), answered(&report) + answered(&second))]);
    }

    send("INT", up.process.id().expect("it runs")).await;
    let status = timeout(LIMIT * 2, up.process.wait()).await.expect("in time").expect("a status");
    assert_eq!(status.code(), Some(0));
    for word in ["web-1", "web-3", "front", "admin", "registry"] {
        refuses(up.address(word)).await;
    }
}

#[tokio::test]
async fn members_go_when_it_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut up = Up::start(directory.path()).await;
    assert_eq!(get(up.address("registry"), "/v1/status/leader").await.status, 200);
    up.process.kill().await.expect("killed");
    for id in ["web-1", "web-2", "web-3"] {
        refuses(up.address(id)).await;
    }
    let pids: Vec<u32> = ["web-1", "web-2", "web-3"].map(|id| up.pid(id)).into();
    until("the processes are gone", || pids.iter().all(|pid| !is_alive(*pid))).await;
}

/// A zombie that nobody has waited for yet counts as gone.
fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}
