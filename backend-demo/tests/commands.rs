//! The output and the exit codes of `client`, `requests` and `registry`.

#[path = "support/http.rs"]
mod http;

use std::{
    net::SocketAddr,
    process::{Output, Stdio},
};

use backend_demo::serve::{FailureOptions, MemberServer, Options};
use http::{LIMIT, get};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::Command,
    time::timeout,
};

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backend-demo"));
    command.args(arguments).kill_on_drop(true).stdin(Stdio::null());
    command
}

async fn output(arguments: &[&str]) -> Output {
    timeout(LIMIT, demo(arguments).output()).await.expect("in time").expect("it runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[tokio::test]
async fn the_client_prints_the_answer_and_the_table() {
    let server = MemberServer::start(Options::new("web", "web-1")).await.expect("a member");
    let address = server.address().to_string();
    let one = output(&["client", &address]).await;
    assert_eq!((one.status.code(), text(&one.stdout)), (Some(0), "Hello, world! I am web-1\n"));
    let many = output(&["client", &address, "--count", "50", "--concurrency", "20"]).await;
    assert_eq!((many.status.code(), text(&many.stdout)), (Some(0), "answered by  requests\nweb-1              50\n"));
    server.stop().await;

    let refused = output(&["client", &address, "--count", "3"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(text(&refused.stdout), "failed with                  requests\nconnect: connection refused         3\n");
}

#[tokio::test]
async fn the_client_names_every_failure() {
    let failures = FailureOptions { fail_rate: 1.0, ..FailureOptions::default() };
    let server = MemberServer::start(Options { failures, ..Options::new("web", "web-1") }).await.expect("a member");
    let reset = output(&["client", &server.address().to_string()]).await;
    assert_eq!(reset.status.code(), Some(1));
    assert!(text(&reset.stdout).contains("connection reset by peer"), "{}", text(&reset.stdout));

    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let hung = output(&["client", &address, "--timeout", "50ms"]).await;
    assert_eq!(hung.status.code(), Some(1));
    assert!(text(&hung.stdout).contains("no whole answer within 50ms"), "{}", text(&hung.stdout));
}

#[tokio::test]
async fn the_requests_command_shows_the_stored_requests() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("web-1.sqlite");
    let database = path.to_str().expect("UTF-8");
    let server = MemberServer::start(Options { database: Some(path.clone()), ..Options::new("web", "web-1") }).await;
    let server = server.expect("a member");
    for number in 0..3 {
        get(server.address(), &format!("/{number}")).await;
    }
    let counted = output(&["requests", "--database", database, "--count"]).await;
    assert_eq!(text(&counted.stdout), "answered by   requests\nweb-1                3\n");
    let listed = output(&["requests", "--database", database, "--last", "2"]).await;
    let listed = text(&listed.stdout);
    let rows: Vec<&str> = listed.lines().collect();
    assert!(rows[0].starts_with("time "), "{listed}");
    assert!(rows[1].contains("127.0.0.1:") && rows[1].ends_with("GET /1 HTTP/1.0"), "{listed}");
    assert!(rows[2].ends_with("GET /2 HTTP/1.0"), "{listed}");
    assert_eq!(rows[3..], ["", "answered by   requests", "web-1                3"]);
    server.stop().await;

    let missing = output(&["requests", "--database", "nowhere.sqlite"]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).starts_with("backend-demo: can't open the database nowhere.sqlite: "));
}

#[tokio::test]
async fn the_registry_command_runs_and_names_its_purpose() {
    let help = output(&["registry", "--help"]).await;
    let said = text(&help.stdout);
    assert!(said.to_lowercase().contains("for development only") && said.contains("PUT /fault/NAME"), "{said}");
    let mut child = demo(&["registry", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let line = timeout(LIMIT, lines.next_line()).await.expect("in time").expect("readable").expect("a line");
    let url = line.split_once("http://").and_then(|(_, rest)| rest.split(',').next()).expect("a URL");
    let address: SocketAddr = url.parse().expect("an address");
    assert_eq!(get(address, "/v1/health/service/web").await.body, "[]");
    let taken = output(&["registry", "--listen", &address.to_string()]).await;
    assert_eq!(taken.status.code(), Some(1));
    assert!(text(&taken.stderr).contains("can't listen on"), "{}", text(&taken.stderr));
}
