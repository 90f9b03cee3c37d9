//! Clients of the admin side that misbehave: they hurt neither operators nor sessions.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Console, ask, config};
use crate::support::{Backend, exchange, get, session, soon, until};

#[tokio::test]
async fn idle_admin_connections_do_not_block_others() {
    let backend = Backend::echo().await;
    let console = Console::start(&config(&[("a", &backend)], "", "", "")).await;
    let (admin, front) = (console.program.admin().await, console.program.front("front").await);
    let _live = session(front).await;
    let before = console.program.open_files();
    let mut holding = Vec::new();
    for i in 0..300 {
        let mut stream = soon("a connect", TcpStream::connect(admin)).await.unwrap();
        // Every third says nothing, begins a request, or has made one and stays.
        match i % 3 {
            0 => {}
            1 => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ").await.unwrap(),
            _ => stream.write_all(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.unwrap(),
        }
        holding.push(stream);
        // What it holds is bounded, however many come: 64, and those that are about to go.
        assert!(console.program.open_files() < before + 100, "{} of them", i + 1);
    }
    for _ in 0..5 {
        assert_eq!(get(admin, "/live").await.unwrap().0, 200);
        assert_eq!(get(admin, "/api/v1/status").await.unwrap().0, 200);
        assert_eq!(console.get("/api/v1/pools").await.unwrap().0, 200);
        assert_eq!(exchange(front, b"hello").await.unwrap(), b"hello");
    }
    drop(holding);
    until("the descriptors are given back", || async { (console.program.open_files() <= before + 8).then_some(()) })
        .await;
}

#[tokio::test]
async fn a_request_that_arrives_too_slowly_is_closed() {
    let backend = Backend::echo().await;
    let console = Console::start(&config(&[("a", &backend)], "", "", "")).await;
    let admin = console.program.admin().await;
    for head in [
        "GET /live HTTP/1.1\r\nX: ",
        "PATCH /api/v1/pools/web HTTP/1.1\r\nContent-Type: application/json\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{",
    ] {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // Its bytes keep coming, but the request does not.
        let end = soon("the end", async {
            loop {
                let read = tokio::time::timeout(Duration::from_millis(200), stream.read_to_end(&mut bytes)).await;
                if read.is_ok() || stream.write_all(b" ").await.is_err() {
                    break true;
                }
            }
        });
        assert!(end.await);
    }
}

#[tokio::test]
async fn bodies_heads_and_answers_are_bounded() {
    let backend = Backend::echo().await;
    let console = Console::start(&config(&[("a", &backend)], "", "admin_token = \"t\"", "")).await;
    let admin = console.program.admin().await;
    let head = "Authorization: Bearer t\r\nContent-Type: application/json\r\n";
    let tcp = || async { TcpStream::connect(admin).await.unwrap() };
    let big = format!("{{\"note\":\"{}\"}}", "x".repeat(100_000));
    // Refused, perhaps while it is still being written.
    let refused = ask(tcp().await, "PATCH", "/api/v1/pools/web", head, &big).await;
    assert!(refused.as_ref().map_or(true, |(status, _)| *status == 413), "{refused:?}");
    let long = format!("X-Long: {}\r\n", "x".repeat(100_000));
    let refused = ask(tcp().await, "GET", "/live", &long, "").await;
    assert!(refused.as_ref().map_or(true, |(status, _)| *status == 431), "{refused:?}");
    // Without a length, without an end.
    let mut stream = tcp().await;
    let begin =
        format!("PATCH /api/v1/pools/web HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n");
    stream.write_all(begin.as_bytes()).await.unwrap();
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let ended = soon("the end", async {
        for _ in 0..10_000 {
            if stream.write_all(chunk.as_bytes()).await.is_err() {
                return true;
            }
        }
        false
    });
    assert!(ended.await, "40 MB were taken");
    for body in
        ["", "{", "[]", "null", "{\"operator\":1}", "{\"operator\":\"drain\",\"x\":1}", "\u{0}", "{\"weight\":65536}"]
    {
        let (status, said) = ask(tcp().await, "PATCH", "/api/v1/backends/web/a", head, body).await.unwrap();
        assert_eq!(status, 400, "{body}: {said}");
        assert!(said.starts_with("{\"error\":\""), "{said}");
    }
}

#[tokio::test]
async fn too_many_requests_are_refused_except_for_live() {
    let backend = Backend::echo().await;
    let token = "read_token = \"reads\"\n";
    let console = Console::start(&config(&[("a", &backend)], "", token, "")).await;
    let (admin, front) = (console.program.admin().await, console.program.front("front").await);
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let one = b"GET /api/v1/version HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    let (mut read, mut write) = stream.split();
    let flood = async {
        // The balancer refuses long before so many requests.
        for _ in 0..20_000 {
            if write.write_all(one).await.is_err() {
                return;
            }
        }
    };
    let (mut seen, mut buffer) = (Vec::new(), vec![0; 65_536]);
    let refused = async {
        while !seen.windows(4).any(|w| w == b" 429") {
            let n = read.read(&mut buffer).await.unwrap();
            assert!(n > 0);
            seen.extend_from_slice(&buffer[..n]);
        }
    };
    soon("a refusal", async {
        tokio::select! { () = refused => {}, () = async { flood.await; std::future::pending().await } => {} }
    })
    .await;
    assert_eq!(get(admin, "/live").await.unwrap().0, 200);
    // A client with a token is answered, whatever clients without one do. The socket has its own rate.
    let with_token = TcpStream::connect(admin).await.unwrap();
    let known = ask(with_token, "GET", "/api/v1/version", "Host: 127.0.0.1\r\nAuthorization: Bearer reads\r\n", "");
    assert_eq!(known.await.unwrap().0, 200);
    assert_eq!(console.get("/api/v1/version").await.unwrap().0, 200);
    assert_eq!(exchange(front, b"hello").await.unwrap(), b"hello");
}

#[tokio::test]
async fn the_number_of_event_readers_is_limited() {
    let backend = Backend::echo().await;
    let console = Console::start(&config(&[("a", &backend)], "", "", "")).await;
    let admin = console.program.admin().await;
    let mut following = Vec::new();
    for _ in 0..16 {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.unwrap();
        assert!(soon("a greeting", stream.read(&mut [0; 1024])).await.unwrap() > 0);
        following.push(stream);
    }
    assert_eq!(get(admin, "/api/v1/events").await.unwrap().0, 503);
    following.clear();
    until("a place", || async {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        (&answer == b"HTTP/1.1 200").then_some(())
    })
    .await;
}
