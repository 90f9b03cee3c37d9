//! The command `up`: its output, that the demo works, and that nothing remains of it.

#[path = "support/http.rs"]
mod http;
#[path = "support/up.rs"]
mod up;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime},
};

use backend_demo::{client, serve::RequestDatabase};
use http::{LIMIT, get, until};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UnixStream},
    process::Child,
    time::{Instant, timeout},
};
use up::{Up, demo, send};

const LB: &str = r#"
[admin]
bind = "127.0.0.1:0"
socket = "admin.sock"
[log]
level = "warn"
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
consul = { service = "web" }
check = { kind = "http", path = "/health", interval = "200ms", fast_interval = "50ms" }
"#;

/// `interval + fall × (fast_interval + timeout)` of the configuration above.
const NOTICED: Duration = Duration::from_millis(200 + 3 * (50 + 1000));

impl Up {
    /// The member in the API.
    async fn backend(&self, id: &str) -> serde_json::Value {
        let pools = get(self.address("admin"), "/api/v1/pools").await.json();
        let backends = pools["pools"][0]["backends"].as_array().expect("backends").clone();
        backends.into_iter().find(|backend| backend["id"] == format!("dev/{id}")).unwrap_or_default()
    }

    /// The states of a member in the metrics; there has to be one.
    async fn states(&self, id: &str) -> Vec<String> {
        let metrics = get(self.address("admin"), "/metrics").await.body;
        let series = format!("evenkeel_backend_standing{{pool=\"web\",backend=\"dev/{id}\",state=\"");
        let states = metrics.lines().filter_map(|line| line.strip_prefix(&series)?.strip_suffix("\"} 1"));
        let states: Vec<String> = states.map(str::to_owned).collect();
        assert_eq!(states.len(), 1, "{metrics}");
        states
    }

    async fn end(mut self, gone: &[&str]) {
        send("INT", self.process.id().expect("it runs")).await;
        let status = timeout(LIMIT * 2, self.process.wait()).await.expect("in time").expect("a status");
        assert_eq!(status.code(), Some(0));
        for word in gone {
            refuses(self.address(word)).await;
        }
    }
}

/// A running command of the demo, and the address in its first line.
async fn start(arguments: &[&str]) -> (Child, SocketAddr) {
    let mut process = demo(arguments).stdout(Stdio::piped()).spawn().expect("a process");
    let mut output = BufReader::new(process.stdout.take().expect("a pipe")).lines();
    let line = timeout(LIMIT, output.next_line()).await.expect("in time").expect("readable").expect("a line");
    let mut words = line.split([' ', ',']).map(|word| word.trim_start_matches("http://"));
    (process, words.find_map(|word| word.parse().ok()).expect("an address"))
}

/// Checks that each member stored exactly the requests that it answered, each once.
fn assert_stored(data: &Path, answered: &[&BTreeMap<String, u64>]) {
    let ids: BTreeSet<&String> = answered.iter().flat_map(|answered| answered.keys()).collect();
    for id in ids {
        let wanted = answered.iter().filter_map(|answered| answered.get(id)).sum();
        let totals =
            RequestDatabase::open(&data.join(format!("{id}.sqlite"))).expect("a database").totals().expect("totals");
        assert_eq!(totals, [(id.clone(), wanted)]);
    }
}

async fn refuses(address: SocketAddr) {
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    timeout(LIMIT, refused).await.unwrap_or_else(|_| panic!("{address} still listens"));
}

#[tokio::test]
async fn the_demo_survives_a_killed_member_and_uses_an_added_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let up = Up::start(directory.path(), LB, &["--registry", "127.0.0.1:0"]).await;
    let first = up.ask(300).await;
    assert_eq!(first.keys().collect::<Vec<_>>(), ["web-1", "web-2", "web-3"]);
    assert!(first.values().all(|count| (99..=101).contains(count)), "{first:?}");

    let killed = Instant::now();
    send("KILL", up.pid("web-2")).await;
    // Waits until the signal has taken effect.
    refuses(up.address("web-2")).await;
    let second = up.ask(300).await;
    assert!(!second.contains_key("web-2"), "{second:?}");
    let mut backend = up.backend("web-2").await;
    let mut states = up.states("web-2").await;
    while backend["standing"] == "up" || states == ["up"] {
        assert!(killed.elapsed() < NOTICED, "{backend} {states:?}");
        tokio::time::sleep(Duration::from_millis(25)).await;
        (backend, states) = (up.backend("web-2").await, up.states("web-2").await);
    }
    assert!(backend["reason"].as_str().is_some_and(|reason| reason.contains("refused")), "{backend}");
    assert!(states == ["down"] || states == ["ejected"], "{states:?}");

    let database = data.join("web-4.sqlite");
    let (agent, database) = (up.said["registry"].split(' ').next().expect("a URL"), database.to_str().expect("UTF-8"));
    let by_hand = ["serve", "--name", "web", "--id", "web-4", "--consul", agent, "--database", database];
    let (_member, _) = start(&by_hand).await;
    let front = up.address("front").to_string();
    let one = client::Options { address: front, count: 1, concurrency: 1, timeout: LIMIT };
    let (mut third, deadline) = (BTreeMap::new(), Instant::now() + LIMIT);
    let traffic = loop {
        let report = client::run(&one).await;
        assert!(report.all_answered(), "{report}");
        let who = report.answered.into_keys().next().expect("an answer");
        *third.entry(who.clone()).or_default() += 1;
        if who == "web-4" {
            break SystemTime::now();
        }
        assert!(Instant::now() < deadline, "no traffic for a new member");
    };
    let proven = up.backend("web-4").await;
    assert_eq!(proven["standing"], "up", "{proven}");
    let since = humantime::parse_rfc3339(proven["since"].as_str().expect("a time")).expect("a time");
    assert!(traffic.duration_since(since).expect("no traffic before it") < Duration::from_secs(1), "{proven}");
    let fourth = up.ask(300).await;
    assert_eq!(fourth.keys().collect::<Vec<_>>(), ["web-1", "web-3", "web-4"]);
    assert!(fourth.values().all(|count| (99..=101).contains(count)), "{fourth:?}");

    assert_stored(&data, &[&first, &second, &third, &fourth]);
    up.end(&["web-1", "web-3", "front", "admin", "registry"]).await;
}

/// A real agent would list dead members for another minute.
#[tokio::test]
async fn members_deregister_if_the_start_fails() {
    let (_registry, agent) = start(&["registry", "--listen", "127.0.0.1:0"]).await;
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let directory = tempfile::tempdir().expect("a directory");
    let front = format!("[listeners.web]\nbind = \"{}\"", taken.local_addr().expect("an address"));
    let file = LB.replace("[listeners.web]\nbind = \"127.0.0.1:0\"", &front);
    std::fs::write(directory.path().join("lb.toml"), file).expect("written");
    let up =
        demo(&["up", "--data", "data", "--consul", &format!("http://{agent}")]).current_dir(directory.path()).output();
    let up = timeout(LIMIT * 2, up).await.expect("in time").expect("it runs");
    let said = String::from_utf8_lossy(&up.stderr);
    assert_eq!(up.status.code(), Some(1), "{said}");
    assert!(said.contains("registered with") && said.contains("can't listen on"), "{said}");
    assert_eq!(get(agent, "/v1/agent/services").await.body, "{}", "{said}");
}

/// Runs `evenkeel reload` for the balancer in a directory.
async fn reload(directory: &Path) -> String {
    let mut socket = UnixStream::connect(directory.join("admin.sock")).await.expect("a connection");
    let head = "POST /api/v1/config/reload HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json";
    socket.write_all(format!("{head}\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes()).await.expect("written");
    let mut answer = String::new();
    timeout(LIMIT, socket.read_to_string(&mut answer)).await.expect("in time").expect("readable");
    answer
}

#[tokio::test]
async fn the_reload_command_applies_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let unwatched = format!("{LB}[reload]\nwatch = false\n");
    let up = Up::start(directory.path(), &unwatched, &["--registry", "127.0.0.1:0"]).await;
    let file = directory.path().join("lb.toml");
    let unchanged = reload(directory.path()).await;
    assert!(unchanged.contains(r#""result":"unchanged""#), "the registry is still the demo's: {unchanged}");
    std::fs::write(&file, format!("max_connections = 77\n{unwatched}")).expect("written");
    let applied = reload(directory.path()).await;
    assert!(applied.contains(r#""result":"applied""#) && applied.contains(r#""max_connections":77"#), "{applied}");
    std::fs::write(&file, "nonsense").expect("written");
    let refused = reload(directory.path()).await;
    assert!(refused.contains(r#""result":"refused""#) && refused.contains(r#""max_connections":77"#), "{refused}");
    std::fs::remove_file(&file).expect("removed");
    let missing = reload(directory.path()).await;
    assert!(missing.contains(r#""result":"refused""#) && missing.contains("lb.toml"), "{missing}");
    up.end(&["front", "admin", "registry"]).await;
}

#[tokio::test]
async fn a_changed_file_is_applied() {
    let directory = tempfile::tempdir().expect("a directory");
    let up = Up::start(directory.path(), LB, &["--registry", "127.0.0.1:0"]).await;
    let file = directory.path().join("lb.toml");
    let limit = async || get(up.address("admin"), "/api/v1/config").await.json()["config"]["max_connections"].clone();
    let until_limit = async |wanted: u64| {
        let changes = async { while limit().await != wanted {} };
        timeout(LIMIT, changes).await.unwrap_or_else(|_| panic!("it is never {wanted}"));
    };
    std::fs::write(&file, format!("max_connections = 77\n{LB}")).expect("written");
    until_limit(77).await;
    // While the file is missing, the example is not used.
    std::fs::remove_file(&file).expect("removed");
    std::fs::write(&file, "nonsense").expect("written");
    std::fs::write(directory.path().join("new"), format!("max_connections = 78\n{LB}")).expect("written");
    std::fs::rename(directory.path().join("new"), &file).expect("renamed");
    until_limit(78).await;
    let answered = up.ask(300).await;
    assert_eq!(answered.keys().collect::<Vec<_>>(), ["web-1", "web-2", "web-3"], "still the demo's own registry");
    up.end(&["front", "admin", "registry"]).await;
}

#[tokio::test]
async fn a_registry_that_is_killed_changes_nothing_for_clients() {
    let (mut registry, address) = start(&["registry", "--listen", "127.0.0.1:0"]).await;
    let directory = tempfile::tempdir().expect("a directory");
    let up = Up::start(directory.path(), LB, &["--consul", &format!("http://{address}")]).await;
    let before = up.ask(300).await;
    registry.kill().await.expect("killed");
    let during = up.ask(300).await;
    let deadline = Instant::now() + LIMIT;
    loop {
        let pools = get(up.address("admin"), "/api/v1/pools").await.json();
        if !pools["pools"][0]["source"]["error"].is_null() {
            break;
        }
        assert!(Instant::now() < deadline, "the balancer does not notice: {pools}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let after = up.ask(300).await;
    for answered in [&before, &during, &after] {
        assert_eq!(answered.keys().collect::<Vec<_>>(), ["web-1", "web-2", "web-3"]);
        assert!(answered.values().all(|count| (99..=101).contains(count)), "{answered:?}");
    }
    for id in ["web-1", "web-2", "web-3"] {
        assert_eq!(
            (up.backend(id).await["standing"].as_str(), up.states(id).await),
            (Some("up"), vec!["up".to_owned()])
        );
    }
    assert_stored(&directory.path().join("data"), &[&before, &during, &after]);
    up.end(&["web-1", "web-2", "web-3", "front", "admin"]).await;
}

#[tokio::test]
async fn members_end_when_the_demo_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut up = Up::start(directory.path(), LB, &["--registry", "127.0.0.1:0"]).await;
    assert_eq!(get(up.address("registry"), "/v1/status/leader").await.status, 200);
    up.process.kill().await.expect("killed");
    for id in ["web-1", "web-2", "web-3"] {
        refuses(up.address(id)).await;
    }
    let pids: Vec<u32> = ["web-1", "web-2", "web-3"].map(|id| up.pid(id)).into();
    until("the processes are gone", || pids.iter().all(|pid| !is_alive(*pid))).await;
}

/// Whether a process has ended; a zombie counts as ended.
fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}
