//! Access: the socket's file, tokens, host names, pages from elsewhere.

use std::os::unix::net::UnixListener;

use rustix::process::Signal;
use tokio::net::{TcpStream, UnixStream};

use super::{Console, ask, config, mode};
use crate::support::{Backend, CommandOutput, Program, output_of, until};

const DRAIN: &str = r#"{"operator":"drain"}"#;
const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn the_socket_is_its_users_alone_and_a_stale_one_is_replaced() {
    let backend = Backend::echo().await;
    let text = config(&[("a", &backend)], "", "", "");
    let mut console = Console::start(&text).await;
    assert_eq!(mode(&console.socket), 0o600);

    // Another process at the same path does not take it away.
    let path = console.socket.to_str().unwrap().to_owned();
    let mut second = Program::start(&text.replace("admin.sock", &path), &[]);
    assert_eq!(second.end().await.code(), Some(1));
    let error = second.log().into_iter().find(|line| line.starts_with("evenkeel: ")).unwrap();
    assert_eq!(error, format!("evenkeel: the admin socket {path} can't be used: another process listens there"));
    assert_eq!(console.get("/live").await.unwrap().0, 200);

    // Killed, it leaves the file; the next one replaces it, and removes its own at the end.
    console.program.signal(Signal::KILL);
    console.program.end().await;
    assert!(console.socket.exists());
    let mut third = Program::start(&text.replace("admin.sock", &path), &[]);
    third.until_says("admin socket listening").await;
    UnixStream::connect(&path).await.unwrap();
    third.signal(Signal::TERM);
    assert_eq!(third.end().await.code(), Some(0));
    assert!(!console.socket.exists());
}

#[tokio::test]
async fn a_file_that_is_not_a_socket_is_not_removed() {
    let backend = Backend::echo().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let text = config(&[("a", &backend)], "", "", "").replace("admin.sock", path.to_str().unwrap());
    let mut program = Program::start(&text, &[]);
    assert_eq!(program.end().await.code(), Some(1));
    assert!(program.log().iter().any(|line| line.contains("something that is no socket is there")));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    // A stale socket: its owner was dropped without unlinking it.
    drop(UnixListener::bind(directory.path().join("stale")).unwrap());
}

/// Of a way in, each kind of request: read, change, probe.
#[tokio::test]
async fn each_token_allows_only_its_own_commands() {
    let backend = Backend::echo().await;
    let tokens = "read_token = \"${R:-reads}\"\nadmin_token_file = \"token\"\n";
    for (admin, rows) in [
        ("", [("", 200, 403), ("reads", 200, 403), ("writes", 200, 403)]),
        (tokens, [("", 401, 401), ("reads", 200, 401), ("writes", 200, 200)]),
        ("admin_token = \"writes\"\n", [("", 200, 401), ("reads", 200, 401), ("writes", 200, 200)]),
        ("read_token = \"reads\"\n", [("", 401, 403), ("reads", 200, 403), ("writes", 401, 403)]),
    ] {
        let console = Console::start(&config(&[("a", &backend)], "", admin, "")).await;
        std::fs::write(console.program.directory().join("token"), "writes\n").unwrap();
        let address = console.program.admin().await;
        for (token, read, write) in rows {
            let tcp = || async { TcpStream::connect(address).await.unwrap() };
            let bearer = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
            for path in ["/metrics", "/api/v1/status", "/"] {
                assert_eq!(ask(tcp().await, "GET", path, &bearer, "").await.unwrap().0, read, "{admin} {token} {path}");
            }
            let change = ask(tcp().await, "PATCH", "/api/v1/backends/web/a", &format!("{bearer}{JSON}"), DRAIN).await;
            assert_eq!(change.unwrap().0, write, "{admin} {token}");
            for path in ["/live", "/ready"] {
                let strange = format!("{bearer}Host: lb.somewhere\r\n");
                assert_eq!(ask(tcp().await, "GET", path, &strange, "").await.unwrap().0, 200, "{path}");
            }
        }
        // A user who may open the socket may do everything.
        assert_eq!(console.get("/metrics").await.unwrap().0, 200);
        assert_eq!(console.ask("PATCH", "/api/v1/backends/web/a", r#"{"operator":"ready"}"#).await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn a_token_file_may_change_and_a_missing_one_admits_nobody() {
    let backend = Backend::echo().await;
    let console = Console::start(&config(&[("a", &backend)], "", "admin_token_file = \"token\"\n", "")).await;
    let address = console.program.admin().await;
    let status = |token: &'static str| async move {
        let head = format!("Authorization: Bearer {token}\r\n{JSON}");
        let tcp = TcpStream::connect(address).await.unwrap();
        ask(tcp, "PATCH", "/api/v1/backends/web/a", &head, DRAIN).await.unwrap().0
    };
    let path = console.program.directory().join("token");
    assert_eq!(status("one").await, 503);
    std::fs::write(&path, "one").unwrap();
    assert_eq!((status("one").await, status("two").await), (200, 401));
    std::fs::write(&path, "two\n").unwrap();
    assert_eq!((status("one").await, status("two").await), (401, 200));
    std::fs::write(&path, "\n").unwrap();
    assert_eq!((status("x").await, status("two").await), (503, 503));
    // The balancer does not wait for the writer of a FIFO.
    std::fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert_eq!(status("two").await, 503);
    console.program.until_says("it is a FIFO or a pipe; it must be a regular file").await;
}

#[tokio::test]
async fn requests_with_foreign_hosts_and_origins_are_refused() {
    let backend = Backend::echo().await;
    let admin = "admin_token = \"t\"\nhosts = [\"LB.example\"]\n";
    let console = Console::start(&config(&[("a", &backend)], "", admin, "")).await;
    let address = console.program.admin().await;
    for (host, wanted) in [("lb.example", 200), ("localhost:1", 200), ("evil.example", 403), ("10.0.0.1", 200)] {
        let tcp = TcpStream::connect(address).await.unwrap();
        let (status, body) = ask(tcp, "GET", "/api/v1/status", &format!("Host: {host}\r\n"), "").await.unwrap();
        assert_eq!(status, wanted, "{host}: {body}");
    }
    for (head, wanted) in [
        ("Content-Type: application/json\r\n", 200),
        ("Content-Type: text/plain\r\n", 415),
        ("Content-Type: application/json\r\nOrigin: http://evil.example\r\n", 403),
        ("Content-Type: application/json\r\nSec-Fetch-Site: cross-site\r\n", 403),
    ] {
        let tcp = TcpStream::connect(address).await.unwrap();
        let head = format!("Authorization: Bearer t\r\n{head}");
        let (status, body) = ask(tcp, "PATCH", "/api/v1/backends/web/a", &head, DRAIN).await.unwrap();
        assert_eq!(status, wanted, "{head}: {body}");
    }
}

/// The token is no argument, which every user of the machine could read.
#[tokio::test]
async fn commands_find_the_address_and_the_token() {
    let backend = Backend::echo().await;
    let admin = "admin_token = \"writes\"\nread_token = \"reads\"\n";
    let console = Console::start(&config(&[("a", &backend)], "", admin, "")).await;
    let url = format!("http://{}", console.program.admin().await);
    let by = |token: &'static str, arguments: &'static [&'static str]| {
        let mut command = console.command(arguments);
        command.env("EVENKEEL_ADMIN", &url);
        if !token.is_empty() {
            command.env("EVENKEEL_TOKEN", token);
        }
        super::output_of(command)
    };
    let said = by("", &["status"]).await;
    let wanted = "evenkeel: a token is needed; send `Authorization: Bearer TOKEN`\n";
    assert_eq!((said.code, said.err.as_str()), (Some(1), wanted));
    assert_eq!(by("reads", &["status"]).await.code, Some(0));
    assert_eq!(by("reads", &["drain", "a"]).await.code, Some(1));
    let drained = by("writes", &["drain", "a"]).await;
    assert!(drained.out.contains("by 127.0.0.1 with a token at "), "{drained:?}");
    // By the socket that the file names, without one.
    console.good(&["ready", "a"]).await;
    until("up", || async { (console.backend("a").await["standing"] == "up").then_some(()) }).await;

    let said = console.says(&["--admin", "/none.sock", "status"]).await;
    let wanted = "evenkeel: the balancer can't be reached at /none.sock: No such file or directory (os error 2) \
                  (--admin or $EVENKEEL_ADMIN says where it is); does it run?\n";
    assert_eq!((said.code, said.err.as_str()), (Some(1), wanted));
    assert_eq!(console.says(&["--admin", "https://a", "status"]).await.code, Some(2));
}
