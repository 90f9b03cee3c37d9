//! How a probe leaves: a server that was spoken to reads an end, never a reset, whatever the verdict is.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::config::{
    AgentCheck, Expectation, GrpcCheck, PostgresCheck, ProxyVersion, RedisCheck, ScriptCheck, ScriptStep, TlsCheck,
};

/// What the server read after its answers, or why it could not.
type End = Result<Vec<u8>, ErrorKind>;

/// Says `first`; answers each thing that it is told with the next of `answers`; then reads to the end.
async fn server(first: &'static [u8], answers: &'static [&'static [u8]]) -> (Backend, UnboundedReceiver<End>) {
    let (sender, ends) = unbounded_channel();
    let backend = Backend::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            drop(stream.write_all(first).await);
            for answer in answers {
                drop(stream.read(&mut [0; 4096]).await);
                drop(stream.write_all(answer).await);
            }
            let mut rest = Vec::new();
            let end = stream.read_to_end(&mut rest).await.map(|_| rest).map_err(|error| error.kind());
            // What the kernel keeps for a socket that was reset after its end.
            let end = end.and_then(|rest| stream.take_error().unwrap().map_or(Ok(rest), |error| Err(error.kind())));
            _ = sender.send(end);
        }
    })
    .await;
    (backend, ends)
}

/// A check; what the server says at first and then; the verdict; what the server reads after its last answer.
type Case = (CheckKind, &'static [u8], &'static [&'static [u8]], bool, &'static [u8]);

async fn end(ends: &mut UnboundedReceiver<End>) -> End {
    timeout(PATIENCE, ends.recv()).await.expect("it never ends").unwrap()
}

fn postgres() -> CheckKind {
    CheckKind::Postgres(PostgresCheck { user: "u".into(), database: "d".into() })
}

fn redis() -> CheckKind {
    CheckKind::Redis(RedisCheck { role: None, username: None, password: None, password_file: None })
}

fn script(wanted: &str) -> CheckKind {
    CheckKind::Script(ScriptCheck {
        steps: vec![ScriptStep::Send(b"x".to_vec()), ScriptStep::Expect(Expectation::Bytes(wanted.into()))],
    })
}

#[tokio::test]
async fn a_server_that_was_spoken_to_reads_an_end() {
    let agent = || CheckKind::Agent(AgentCheck { send: Vec::new() });
    let smtp = || CheckKind::Smtp;
    let memcached = || CheckKind::Memcached;
    let mysql = || CheckKind::Mysql;
    let http = || CheckKind::Http(get("/"));
    let cases: Vec<Case> = vec![
        (script("y"), b"", &[b"y"], true, b""),
        (script("y"), b"", &[b"more than it waits for y and the rest"], true, b""),
        (http(), b"", &[b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"], true, b""),
        (http(), b"", &[b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"], false, b""),
        (http(), b"", &[b"nonsense\r\n\r\n"], false, b""),
        (redis(), b"", &[b"+PONG\r\n"], true, b""),
        (redis(), b"", &[b"-LOADING\r\n"], false, b""),
        (memcached(), b"", &[b"VERSION 1\r\n"], true, b"quit\r\n"),
        (memcached(), b"", &[b"ERROR\r\n"], false, b""),
        (smtp(), b"220 hi\r\n", &[b"221 bye\r\n"], true, b""),
        (smtp(), b"554 no\r\n", &[], false, b""),
        (mysql(), b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0\xff\xff", &[], true, b""),
        (mysql(), b"\x17\0\0\0\xff\x10\x04Too many connections", &[], false, b""),
        (postgres(), b"", &[b"R\0\0\0\x08\0\0\0\0S\0\0\0\x05"], true, b"X\0\0\0\x04"),
        (postgres(), b"", &[b"R\0\0\0\x0c\0\0\0\x05abcd"], true, b""),
        (postgres(), b"", &[b"E\0\0\0\x10SFATAL\0C57P03\0\0"], false, b""),
        (agent(), b"up\n", &[], true, b""),
        (agent(), b"whatever\n", &[], false, b""),
    ];
    for (kind, said, answers, passed, last) in cases {
        let name = kind.name();
        let (backend, mut ends) = server(said, answers).await;
        let result = first(backend.address, &Check { timeout: PATIENCE, ..rare(kind) }).await;
        assert_eq!(result.passed, passed, "{result}");
        assert_eq!(end(&mut ends).await, Ok(last.to_vec()), "{name}: {result}");
    }
}

#[tokio::test]
async fn who_is_silent_reads_an_end_too_when_time_is_up() {
    for kind in [script("never"), CheckKind::Http(get("/")), redis(), postgres()] {
        let name = kind.name();
        let (backend, mut ends) = server(b"", &[]).await;
        let result = first(backend.address, &Check { timeout: Duration::from_millis(50), ..rare(kind) }).await;
        assert!(!result.passed && result.got.starts_with("timeout"), "{result}");
        assert!(end(&mut ends).await.is_ok_and(|read| !read.is_empty()), "{name}");
    }
}

#[tokio::test]
async fn a_connect_alone_ends_by_a_reset_unless_something_was_said_or_the_check_wants_an_end() {
    let tcp = rare(CheckKind::Tcp);
    let (backend, mut ends) = server(b"", &[]).await;
    assert!(first(backend.address, &tcp).await.passed);
    assert_eq!(end(&mut ends).await, Err(ErrorKind::ConnectionReset));

    // Also where the server speaks first, and its words are there before we leave.
    for greeting in [&b""[..], b"220 hello\r\n"] {
        let (backend, mut ends) = server(greeting, &[]).await;
        assert!(first(backend.address, &Check { linger: true, timeout: PATIENCE, ..tcp.clone() }).await.passed);
        assert_eq!(end(&mut ends).await, Ok(Vec::new()));
        let announced = Check { send_proxy: Some(ProxyVersion::V2), timeout: PATIENCE, ..tcp.clone() };
        assert!(first(backend.address, &announced).await.passed);
        assert!(end(&mut ends).await.is_ok_and(|read| read.starts_with(b"\r\n\r\n\0")));
    }
}

#[tokio::test]
async fn a_verdict_does_not_wait_for_who_is_slow_to_leave_and_the_next_probe_is_in_time() {
    // It answers, and never ends its side.
    let backend = Backend::start(|mut stream, _| async move {
        drop(stream.read(&mut [0; 64]).await);
        drop(stream.write_all(b"y").await);
        std::future::pending::<()>().await;
    })
    .await;
    let check = Check { timeout: Duration::from_millis(300), ..check(script("y")) };
    let (_subscription, mut reports) = subscribe(&Prober::new(), backend.address, &check);
    for _ in 0..4 {
        let asked = Instant::now();
        let report = next(&mut reports).await;
        assert!(report.result.passed && report.result.duration < Duration::from_millis(250), "{:?}", report.result);
        // Its interval, or its timeout, whichever is longer.
        assert!(asked.elapsed() < Duration::from_millis(1500), "{:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn tls_and_http_2_say_that_they_leave() {
    let (sender, mut ends) = unbounded_channel();
    let acceptor = tls::acceptor::acceptor("certificate.pem");
    let backend = Backend::start(move |stream, _| {
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            // Without close_notify this would be an error.
            _ = sender.send(stream.read_to_end(&mut Vec::new()).await.map_err(|error| error.kind()));
        }
    })
    .await;
    let tls = TlsCheck { server_name: None, verify: false, ca_file: None, alpn: Vec::new(), expires_within: None };
    let result = first(backend.address, &Check { tls: Some(tls), ..rare(CheckKind::Tls) }).await;
    assert!(result.passed, "{result}");
    assert_eq!(timeout(PATIENCE, ends.recv()).await.unwrap().unwrap(), Ok(0));

    let (backend, mut ends) = grpc::serving().await;
    let grpc = CheckKind::Grpc(GrpcCheck { service: String::new(), host: None });
    let result = first(backend.address, &rare(grpc)).await;
    assert!(result.passed, "{result}");
    assert!(timeout(PATIENCE, ends.recv()).await.unwrap().unwrap(), "no GOAWAY, or a reset");
}
