use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::{Expectation, HeaderWish, HttpCheck, Pattern, Secret, StatusSet};

fn health() -> HttpCheck {
    HttpCheck { status: StatusSet { ranges: vec![(200, 399)] }, ..get("/health") }
}

fn with_body(text: &str) -> HttpCheck {
    HttpCheck { body: Some(Expectation::Bytes(text.into())), ..health() }
}

async fn probe(address: SocketAddr, http: HttpCheck) -> Arc<ProbeResult> {
    first(address, &rare(CheckKind::Http(http))).await
}

/// Reads a whole request head.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { break };
        head.push(byte);
    }
    String::from_utf8(head).unwrap()
}

/// Reads a request, writes the pieces with a flush and a pause after each, then closes.
async fn answering(pieces: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Backend {
    let pieces: Arc<[Vec<u8>]> = pieces.into_iter().map(Into::into).collect();
    Backend::start(move |mut stream, _| {
        let pieces = Arc::clone(&pieces);
        async move {
            head(&mut stream).await;
            for piece in pieces.iter() {
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    })
    .await
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn the_request_is_the_one_that_was_asked_for() {
    let (sender, mut heads) = unbounded_channel();
    let backend = Backend::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            drop(sender.send(head(&mut stream).await));
            drop(stream.write_all(ok("").as_bytes()).await);
        }
    })
    .await;
    let result = probe(backend.address, health()).await;
    assert!(result.passed, "{result}");
    assert_eq!(result.to_string(), "http GET /health: status 200");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        heads.recv().await.unwrap(),
        format!(
            "GET /health HTTP/1.1\r\nhost: {}\r\nuser-agent: evenkeel/{version}\r\nconnection: close\r\n\r\n",
            backend.address
        )
    );

    let named = HttpCheck { method: "HEAD".into(), path: "/a?b=c".into(), host: Some("web.local".into()), ..health() };
    assert!(probe(backend.address, named).await.passed);
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("HEAD /a?b=c HTTP/1.1\r\nhost: web.local\r\n"), "{head}");
}

#[tokio::test]
async fn the_status_decides() {
    let backend = answering(["HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"]).await;
    let result = probe(backend.address, health()).await;
    assert!(!result.passed);
    assert_eq!(result.to_string(), "http GET /health: status 503, wanted 200-399");
    assert_eq!(result.kind, "http");

    let wanted = HttpCheck { status: StatusSet { ranges: vec![(200, 200), (503, 503)] }, ..health() };
    assert!(probe(backend.address, wanted).await.passed);
}

#[tokio::test]
async fn an_interim_answer_is_not_the_answer_and_http_1_0_is_fine() {
    let backend = answering(["HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n"]).await;
    assert_eq!(probe(backend.address, health()).await.got, "status 404");
    let backend = answering(["HTTP/1.0 200 OK\r\n\r\n", "all is ok"]).await;
    assert_eq!(probe(backend.address, with_body("is ok")).await.got, r#"status 200, body "all is ok""#);
}

#[tokio::test]
async fn the_body_decides_too() {
    let backend =
        answering(["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nisn'\r\n", "2\r\nt.\r\n0\r\n\r\n"]).await;
    assert!(probe(backend.address, with_body("isn't")).await.passed, "across chunks");
    let result = probe(backend.address, with_body("ok")).await;
    assert!(!result.passed);
    assert_eq!(result.to_string(), r#"http GET /health: status 200, body "isn\'t.", wanted body with "ok""#);

    let regex = |source| HttpCheck { body: Some(Expectation::Regex(Pattern::new(source).unwrap())), ..health() };
    assert!(probe(backend.address, regex("^isn.t")).await.passed);
    assert_eq!(probe(backend.address, regex("^is$")).await.wanted, "body with /^is$/");
}

#[tokio::test]
async fn the_body_must_not_hold_what_is_not_expected() {
    let backend = answering([ok("serving, in maintenance")]).await;
    let without = |text: &str| HttpCheck { expect_not: Some(Expectation::Bytes(text.into())), ..health() };
    let result = probe(backend.address, without("maintenance")).await;
    let text = r#"http GET /health: status 200, body "serving, in maintenance", wanted body without "maintenance""#;
    assert_eq!((result.passed, result.to_string().as_str()), (false, text));
    assert!(probe(backend.address, without("broken")).await.passed);
    let both = HttpCheck { expect_not: without("maintenance").expect_not, ..with_body("serving") };
    let result = probe(backend.address, both).await;
    assert_eq!(result.wanted, r#"body with "serving", body without "maintenance""#);
    assert!(!result.passed);
    let both = HttpCheck { expect_not: without("broken").expect_not, ..with_body("serving") };
    assert!(probe(backend.address, both).await.passed);
}

#[tokio::test]
async fn headers_and_a_body_are_sent() {
    let (sender, mut requests) = unbounded_channel();
    let backend = Backend::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            let head = head(&mut stream).await;
            let mut body = [0; 7];
            stream.read_exact(&mut body).await.unwrap();
            drop(sender.send((head, body)));
            drop(stream.write_all(ok("").as_bytes()).await);
        }
    })
    .await;
    let headers = [("authorization", "Bearer s3cret"), ("user-agent", "mine")];
    let check = HttpCheck {
        method: "POST".into(),
        headers: headers.map(|(name, value)| (name.to_owned(), Secret(value.to_owned()))).into(),
        request_body: Some(Secret("s3cret!".to_owned())),
        ..health()
    };
    let result = probe(backend.address, check).await;
    assert!(result.passed && !result.to_string().contains("s3cret"), "{result}");
    let (head, body) = requests.recv().await.unwrap();
    assert_eq!(
        head,
        format!(
            "POST /health HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer s3cret\r\nuser-agent: mine\r\nconnection: close\r\n\
             content-length: 7\r\n\r\n",
            backend.address
        )
    );
    assert_eq!(&body, b"s3cret!");
}

#[tokio::test]
async fn the_headers_of_the_answer_decide_too() {
    let backend = answering([
        "HTTP/1.1 200 OK\r\nX-Role: replica\r\nx-role: reader\r\nX-Version: 2.7\r\ncontent-length: 0\r\n\r\n",
    ])
    .await;
    let pattern = |source| HeaderWish::Matches(Pattern::new(source).unwrap());
    let is = |text: &str| HeaderWish::Is(text.to_owned());
    for (name, wish, failure) in [
        ("x-role", is("replica"), ""),
        ("x-role", is("reader"), ""),
        ("x-role", is("primary"), r#"status 200, x-role: "replica", wanted header x-role: "primary""#),
        ("x-role", HeaderWish::Present, ""),
        ("x-none", HeaderWish::Present, "status 200, no such header, wanted header x-none: something"),
        ("x-none", HeaderWish::Absent, ""),
        ("x-role", HeaderWish::Absent, r#"status 200, x-role: "replica", wanted header x-role: nothing"#),
        ("x-version", pattern(r"^2\."), ""),
        ("x-version", pattern("^3"), r#"status 200, x-version: "2.7", wanted header x-version: /^3/"#),
    ] {
        let check = HttpCheck { expect_headers: BTreeMap::from([(name.to_owned(), wish)]), ..health() };
        let result = probe(backend.address, check).await;
        assert_eq!(result.passed, failure.is_empty(), "{result}");
        assert!(result.to_string().ends_with(failure), "{result}");
    }
}

#[tokio::test]
async fn no_http_is_quoted() {
    let backend = answering(["220 mail \u{1b}ready\r\n\r\n"]).await;
    let result = probe(backend.address, health()).await;
    assert!(!result.passed);
    assert_eq!(result.got, r#"not HTTP/1, came "220 mail \x1bready\r\n\r\n""#);

    let backend = answering(["HTTP/1.1 20"]).await;
    assert_eq!(probe(backend.address, health()).await.got, r#"closed, came "HTTP/1.1 20""#);
    let backend = Backend::start(|stream, _| async { drop(stream) }).await;
    let got = probe(backend.address, health()).await.got.clone();
    assert!(["closed", "reset"].contains(&got.as_str()), "{got}");
    let backend = answering(["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"]).await;
    assert_eq!(probe(backend.address, with_body("ok")).await.got, r#"status 200, closed in the body after "ok""#);
}

#[tokio::test]
async fn a_huge_head_is_refused() {
    let mut huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n", "a".repeat(40_000));
    let backend = answering([huge.clone() + "\r\n"]).await;
    assert!(probe(backend.address, health()).await.passed);
    huge = format!("{huge}y: {}\r\n\r\n", "b".repeat(160_000));
    let backend = answering([huge]).await;
    let result = probe(backend.address, health()).await;
    assert!(!result.passed);
    assert!(result.got.starts_with("a head of more than 64 KiB, came \"HTTP/1.1 200 OK"), "{result}");
    assert!(result.got.len() < 300);
}

#[tokio::test]
async fn a_huge_body_is_read_to_64_kib_and_judged_by_that() {
    let served = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&served);
    let backend = Backend::start(move |mut stream, _| {
        let counter = Arc::clone(&counter);
        async move {
            head(&mut stream).await;
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nbegin").await);
            while stream.write_all(&[b'.'; 10_000]).await.is_ok() {
                counter.fetch_add(10_000, Ordering::SeqCst);
            }
            counter.store(usize::MAX, Ordering::SeqCst);
        }
    })
    .await;
    assert!(probe(backend.address, with_body("begin")).await.passed);
    eventually("the endless body is cut off", || served.load(Ordering::SeqCst) == usize::MAX).await;
    let result = probe(backend.address, with_body("end.")).await;
    assert!(!result.passed && result.got.starts_with("status 200, body \"begin...."), "{result}");
    assert!(probe(backend.address, health()).await.passed, "an endless body that nobody asked for");
}

#[tokio::test]
async fn interim_answers_without_end_are_read_to_256_kib() {
    for flood in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"] {
        let backend = Backend::start(move |mut stream, _| async move {
            head(&mut stream).await;
            drop(stream.write_all(flood.as_bytes()).await);
            let more = if flood.contains("chunked") { "1\r\nz\r\n" } else { flood }.repeat(100);
            while stream.write_all(more.as_bytes()).await.is_ok() {}
        })
        .await;
        let result = probe(backend.address, with_body("ok")).await;
        assert!(!result.passed);
        assert!(result.got.contains("more than 256 KiB"), "{result}");
    }
}

#[tokio::test]
async fn a_slow_drip_times_out_with_what_came() {
    let drip = ok(&"x".repeat(100_000)).into_bytes().into_iter().map(|byte| vec![byte]);
    let backend = answering(drip.collect::<Vec<_>>()).await;
    let check = Check { timeout: Duration::from_millis(300), ..rare(CheckKind::Http(with_body("ok"))) };
    let result = first(backend.address, &check).await;
    assert!(!result.passed);
    assert!(result.got.starts_with("timeout after 300ms, came \"HTTP/1.1 "), "{result}");

    let backend = Backend::silent().await;
    let check = Check { timeout: Duration::from_millis(100), ..rare(CheckKind::Http(health())) };
    let result = first(backend.address, &check).await;
    assert_eq!(result.to_string(), "http GET /health: timeout after 100ms, wanted 200-399");
}

#[tokio::test]
async fn a_pass_stays_a_pass_when_time_runs_out_over_the_rest() {
    // The head comes early and the body never ends: the verdict stood with the head.
    let backend = Backend::start(|mut stream, _| async move {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await);
        std::future::pending::<()>().await;
    })
    .await;
    for limit in [30, 1000] {
        let check = Check { timeout: Duration::from_millis(limit), ..rare(CheckKind::Http(health())) };
        let result = first(backend.address, &check).await;
        assert!(result.passed, "{result}");
        assert_eq!(result.got, "status 200");
        assert!(result.duration < Duration::from_millis(900), "{:?}", result.duration);
    }
}

#[tokio::test]
async fn a_refused_connect_is_named_as_such() {
    let (_socket, address) = refusing();
    let result = probe(address, health()).await;
    assert_eq!(result.to_string(), format!("http connect {address}: refused"));
}
