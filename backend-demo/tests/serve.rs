//! A member answers, stores, registers and deregisters.

#[path = "support/http.rs"]
mod http;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backend_demo::{
    registry::{Registry, Status},
    serve::{FailureOptions, MemberServer, Options, RequestDatabase},
};
use http::{LIMIT, exchange, get, put, until};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::timeout,
};

const HELLO: &str = "Hello, world! I am web-1\n";

async fn start(options: Options) -> MemberServer {
    MemberServer::start(options).await.expect("a member")
}

async fn registry() -> Registry {
    Registry::start("127.0.0.1:0".parse().expect("an address")).await.expect("a registry")
}

/// Sends packets with a pause between them, and reads to the end.
async fn talk(address: SocketAddr, packets: &[&str]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("nodelay");
    for packet in packets {
        stream.write_all(packet.as_bytes()).await.expect("sent");
        // Not for synchronisation: the answer is the same if the packets arrive together.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut answer = String::new();
    timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    answer
}

fn stored(path: &Path) -> Vec<String> {
    let rows = RequestDatabase::open(path).expect("a database").last(100_000).expect("rows");
    rows.into_iter().map(|row| String::from_utf8_lossy(&row.request).into_owned()).collect()
}

#[tokio::test]
async fn http_requests_get_http_answers_and_other_bytes_get_bytes() {
    let server = start(Options::new("web", "web-1")).await;
    let at = server.address();
    let reply = get(at, "/some/path?x=1").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, HELLO));
    assert_eq!(reply.header("content-length"), Some(HELLO.len().to_string().as_str()));
    assert!(reply.head.starts_with("HTTP/1.0 200 OK\r\n"), "{}", reply.head);

    let whole = talk(at, &["GET / HTTP/1.1\r\nHost: x\r\n\r\n"]).await;
    assert!(whole.ends_with(HELLO));
    assert_eq!(talk(at, &["G", "ET / HT", "TP/1.1\r\nHost: x\r", "\n\r", "\n"]).await, whole);
    assert!(talk(at, &["POST / HTTP/1.0\r\nContent-Length: 10\r\n\r\n01234", "56789"]).await.ends_with(HELLO));
    let head = exchange(at, "HEAD", "/", "").await.expect("a reply");
    assert_eq!((head.body.as_str(), head.header("content-length")), ("", Some("25")));

    for raw in ["hello", "\u{1}\u{2}", "PING\r\n"] {
        assert_eq!(talk(at, &[raw]).await, HELLO, "{raw:?}");
    }
    assert!(talk(at, &["POST / HTTP/1.0\r\nContent-Length: x\r\n\r\n"]).await.starts_with("HTTP/1.0 400 "));
    server.stop().await;
}

#[tokio::test]
async fn an_incomplete_head_is_not_http() {
    let server = start(Options::new("web", "web-1")).await;
    let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
    stream.write_all(b"GET ").await.expect("sent");
    stream.shutdown().await.expect("half-closed");
    let mut answer = String::new();
    timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(answer, HELLO);
    server.stop().await;
}

#[tokio::test]
async fn the_beginning_of_a_method_alone_is_not_http() {
    let server = start(Options::new("web", "web-1")).await;
    // The client keeps its side open, so no FIN ends the request.
    for raw in ["G", "P", "OPTIONS"] {
        assert_eq!(talk(server.address(), &[raw]).await, HELLO, "{raw:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn each_answered_request_is_stored_once_and_probes_are_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = directory.path().join("web-1.sqlite");
    let server = start(Options { database: Some(database.clone()), ..Options::new("web", "web-1") }).await;
    let at = server.address();
    drop(TcpStream::connect(at).await.expect("a probe that says nothing"));
    assert_eq!(get(at, "/health").await.status, 200);

    let clients: Vec<_> = (0..200)
        .map(|number| {
            tokio::spawn(async move {
                let reply = get(at, &format!("/{number}")).await;
                assert_eq!((reply.status, reply.body.as_str()), (200, HELLO));
            })
        })
        .collect();
    for client in clients {
        client.await.expect("answered");
    }
    // Read while the member runs: answered requests are committed.
    let requests = stored(&database);
    assert_eq!(requests.len(), 200);
    let distinct: BTreeSet<&str> = requests.iter().filter_map(|request| request.split(' ').nth(1)).collect();
    assert_eq!(
        distinct,
        (0..200).map(|number| format!("/{number}")).collect::<Vec<_>>().iter().map(String::as_str).collect()
    );

    assert_eq!(talk(at, &["raw bytes"]).await, HELLO);
    server.stop().await;
    let file = RequestDatabase::open(&database).expect("a database");
    assert_eq!(file.totals().expect("totals"), [("web-1".to_owned(), 201)]);
    let last = file.last(1).expect("rows").remove(0);
    assert_eq!((last.bytes, last.request.as_slice(), last.id.as_str()), (9, b"raw bytes".as_slice(), "web-1"));
    assert!(last.peer.starts_with("127.0.0.1:") && last.at.ends_with('Z'), "{last:?}");
}

#[tokio::test]
async fn the_failure_options_make_a_member_fail() {
    let failures = FailureOptions { unhealthy_after: Some(1), refuse_after: Some(2), ..FailureOptions::default() };
    let server = start(Options { failures, ..Options::new("web", "web-1") }).await;
    let at = server.address();
    assert_eq!(get(at, "/health").await.status, 200);
    assert_eq!(get(at, "/").await.status, 200);
    assert_eq!(get(at, "/health").await.status, 503);
    assert_eq!(get(at, "/").await.status, 200);
    let refused = async { while TcpStream::connect(at).await.is_ok() {} };
    timeout(LIMIT, refused).await.expect("the port closes");
    server.stop().await;

    let directory = tempfile::tempdir().expect("a directory");
    let database = directory.path().join("db");
    let failures = FailureOptions { fail_rate: 1.0, ..FailureOptions::default() };
    let server = start(Options { failures, database: Some(database.clone()), ..Options::new("web", "web-1") }).await;
    assert!(exchange(server.address(), "GET", "/", "").await.is_none(), "reset");
    assert_eq!(get(server.address(), "/health").await.status, 200);
    server.stop().await;
    assert_eq!(stored(&database), Vec::<String>::new());
}

#[tokio::test]
async fn many_connections_at_once() {
    let server = start(Options::new("web", "web-1")).await;
    let mut open = Vec::new();
    for _ in 0..400 {
        open.push(TcpStream::connect(server.address()).await.expect("a connection"));
    }
    for stream in &mut open {
        stream.write_all(b"hello").await.expect("sent");
    }
    for mut stream in open {
        let mut answer = String::new();
        timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
        assert_eq!(answer, HELLO);
    }
    // At the stop, a client that has sent nothing is closed, and a request that has begun is answered.
    let mut silent = TcpStream::connect(server.address()).await.expect("a connection");
    let mut late = TcpStream::connect(server.address()).await.expect("a connection");
    late.write_all(b"hello").await.expect("sent");
    timeout(LIMIT, server.stop()).await.expect("stops in time");
    let mut answer = String::new();
    late.read_to_string(&mut answer).await.expect("an answer");
    assert_eq!(answer, HELLO);
    assert_eq!(silent.read(&mut [0]).await.expect("closed"), 0);
}

#[tokio::test]
async fn new_clients_do_not_delay_the_stop() {
    let server = start(Options::new("web", "web-1")).await;
    let at = server.address();
    let knocking = tokio::spawn(async move { while TcpStream::connect(at).await.is_ok() {} });
    timeout(LIMIT, server.stop()).await.expect("stops in time");
    timeout(LIMIT, knocking).await.expect("the port closes").expect("no panic");
}

#[tokio::test]
async fn a_member_registers_again_after_a_restart_of_the_agent() {
    let registry = registry().await;
    let agent = registry.address();
    let options =
        |id| Options { consul: Some(registry.url()), ttl: Duration::from_millis(1500), ..Options::new("web", id) };
    let server = start(options("web-1")).await;
    until("it passes", || registry.status("web-1") == Some(Status::Passing)).await;
    let entry = get(agent, "/v1/health/service/web?passing").await.json();
    assert_eq!(entry[0]["Service"]["Port"], server.address().port());
    assert_eq!(entry[0]["Service"]["Address"], "127.0.0.1");

    let index = registry.index();
    let requests = registry.requests();
    until("it was refreshed several times", || registry.requests() >= requests + 2).await;
    assert_eq!(registry.index(), index, "and nothing changed by that");

    registry.restart_empty().await;
    until("it is back", || registry.status("web-1") == Some(Status::Passing)).await;
    assert_eq!(put(agent, "/v1/agent/service/deregister/web-1", "").await.status, 200);
    until("it is back", || registry.status("web-1") == Some(Status::Passing)).await;

    // The agent stops and starts later on the same port.
    registry.stop().await;
    let again = Registry::start(agent).await.expect("the port is free");
    until("it is back", || again.status("web-1") == Some(Status::Passing)).await;
    server.stop().await;
    assert_eq!(again.instances("web"), Vec::<String>::new());
}

/// Otherwise it would be critical for a moment, and all members at once after a restart of their agent.
#[tokio::test]
async fn a_member_is_passing_as_soon_as_it_is_registered() {
    let agent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let options =
        Options { consul: Some(agent.local_addr().expect("an address").to_string()), ..Options::new("web", "web-1") };
    let server = start(options).await;
    let (mut stream, _) = timeout(LIMIT, agent.accept()).await.expect("in time").expect("a connection");
    let mut request = String::new();
    let told = async {
        while !request.ends_with("]}") {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).await.expect("readable");
            request += std::str::from_utf8(&piece[..read]).expect("UTF-8");
        }
    };
    timeout(LIMIT, told).await.expect("in time");
    assert!(request.starts_with("PUT /v1/agent/service/register"), "{request}");
    assert!(request.contains(r#""TTL":"10000ms","Status":"passing""#), "{request}");
    drop((stream, agent));
    server.stop().await;
}

#[tokio::test]
async fn a_member_without_agent_serves_and_registers_later() {
    let registry = registry().await;
    let agent = registry.address();
    registry.stop().await;
    let options = Options { consul: Some(agent.to_string()), ..Options::new("web", "web-1") };
    let server = start(options).await;
    assert_eq!(get(server.address(), "/").await.body, HELLO);
    let registry = Registry::start(agent).await.expect("the port is free");
    until("it registers", || registry.status("web-1") == Some(Status::Passing)).await;
    registry.stop().await;
    timeout(LIMIT, server.stop()).await.expect("an agent that is away does not hold up the exit");
}

/// A member as a process, and its address.
async fn process(arguments: &[&str]) -> (Child, SocketAddr) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_backend-demo"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let line = timeout(LIMIT, lines.next_line()).await.expect("in time").expect("readable").expect("a line");
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[..2], ["listening", "on"], "{line}");
    assert_eq!(words[3..], ["as", "web-7"], "{line}");
    (child, words[2].parse().expect("an address"))
}

#[tokio::test]
async fn sigterm_deregisters_and_exits_with_0() {
    let registry = registry().await;
    let url = registry.url();
    let (mut child, at) = process(&["serve", "--listen", "127.0.0.1:0", "--id", "web-7", "--consul", &url]).await;
    until("it passes", || registry.status("web-7") == Some(Status::Passing)).await;
    assert_eq!(get(at, "/").await.body, "Hello, world! I am web-7\n");
    let pid = child.id().expect("it runs");
    let sent = Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status().await.expect("sh");
    assert!(sent.success());
    let status = timeout(LIMIT, child.wait()).await.expect("in time").expect("a status");
    assert_eq!(status.code(), Some(0));
    assert_eq!(registry.instances("web"), Vec::<String>::new());
}

#[tokio::test]
async fn a_member_ends_when_its_parent_ends() {
    let (mut child, _) = process(&["serve", "--id", "web-7", "--exit-with-stdin"]).await;
    drop(child.stdin.take());
    let status = timeout(LIMIT, child.wait()).await.expect("in time").expect("a status");
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn requests_that_a_killed_member_answered_are_stored() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = directory.path().join("db");
    let path = database.to_str().expect("UTF-8");
    let (mut child, at) = process(&["serve", "--id", "web-7", "--database", path]).await;
    for number in 0..20 {
        assert_eq!(get(at, &format!("/{number}")).await.status, 200);
    }
    child.kill().await.expect("killed");
    assert_eq!(stored(&database).len(), 20);
}

#[tokio::test]
async fn requests_that_are_answered_during_a_kill_are_stored_once() {
    // One kill alone may miss an answer that is sent before its commit.
    for _ in 0..8 {
        answered_while_killed().await;
    }
}

async fn answered_while_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = directory.path().join("db");
    let path = database.to_str().expect("UTF-8");
    let (mut child, at) = process(&["serve", "--id", "web-7", "--database", path]).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let lanes: Vec<_> = (0..64)
        .map(|lane| {
            let answered = answered.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                for number in 0.. {
                    let path = format!("/{lane}-{number}");
                    match exchange(at, "GET", &path, "").await {
                        Some(reply) if reply.status == 200 && reply.body == "Hello, world! I am web-7\n" => {
                            mine.push(path)
                        }
                        _ => break,
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                mine
            })
        })
        .collect();
    until("many are answered", || answered.load(Ordering::Relaxed) > 500).await;
    child.kill().await.expect("killed");
    let mut wanted = BTreeSet::new();
    for lane in lanes {
        wanted.extend(timeout(LIMIT, lane).await.expect("in time").expect("no panic"));
    }
    let requests = stored(&database);
    let paths: Vec<String> =
        requests.iter().filter_map(|request| request.split(' ').nth(1)).map(str::to_owned).collect();
    let distinct: BTreeSet<String> = paths.iter().cloned().collect();
    assert_eq!(paths.len(), distinct.len(), "none is stored twice");
    let lost: Vec<_> = wanted.difference(&distinct).collect();
    assert!(lost.is_empty(), "answered and not stored: {lost:?}");
    // At most one for each connection: committed, but its answer was lost.
    assert!(distinct.len() - wanted.len() <= 64, "{} stored, {} answered", distinct.len(), wanted.len());
}
