use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::{Expectation, Pattern, ScriptCheck, ScriptStep};

fn send(bytes: impl Into<Vec<u8>>) -> ScriptStep {
    ScriptStep::Send(bytes.into())
}

fn expect(bytes: impl Into<Vec<u8>>) -> ScriptStep {
    ScriptStep::Expect(Expectation::Bytes(bytes.into()))
}

fn matching(source: &str) -> ScriptStep {
    ScriptStep::Expect(Expectation::Regex(Pattern::new(source).unwrap()))
}

async fn probe(address: SocketAddr, steps: impl Into<Vec<ScriptStep>>) -> Arc<ProbeResult> {
    first(address, &rare(CheckKind::Script(ScriptCheck { steps: steps.into() }))).await
}

/// Writes the pieces one at a time and waits for the other side.
async fn saying(pieces: &'static [&'static [u8]]) -> Backend {
    Backend::start(move |mut stream, _| async move {
        stream.set_nodelay(true).unwrap();
        for piece in pieces {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        drop(stream.read(&mut [0; 1]).await);
    })
    .await
}

#[tokio::test]
async fn a_dialogue_in_order() {
    let backend = Backend::start(|mut stream, _| async move {
        let mut word = [0; 6];
        for (asked, answer) in [(b"AUTH\r\n", "+OK\r\n"), (b"PING\r\n", "+PONG\r\n")] {
            stream.read_exact(&mut word).await.unwrap();
            assert_eq!(&word, asked);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        drop(stream.read(&mut word).await);
    })
    .await;
    let steps = [send("AUTH\r\n"), expect("+OK\r\n"), send("PING\r\n"), expect("PONG")];
    let result = probe(backend.address, steps).await;
    assert!(result.passed);
    assert_eq!(result.to_string(), r#"script step 4 of 4: expect "PONG": "+PONG""#);

    let wrong = [send("AUTH\r\n"), expect("+OK\r\n"), send("PING\r\n"), expect("PANG")];
    let check =
        Check { timeout: Duration::from_millis(200), ..rare(CheckKind::Script(ScriptCheck { steps: wrong.into() })) };
    let result = first(backend.address, &check).await;
    assert!(!result.passed);
    let expected = r#"script step 4 of 4: expect "PANG": timeout after 200ms, came "+PONG\r\n""#;
    assert_eq!(result.to_string(), expected);
}

#[tokio::test]
async fn an_answer_in_pieces() {
    let backend = saying(&[b"noise P", b"O", b"N", b"G 1", b"7 ready"]).await;
    let result = probe(backend.address, [expect("PONG"), matching(r"\d\d"), expect("ready")]).await;
    assert!(result.passed, "{result}");
}

#[tokio::test]
async fn a_match_is_used_up_and_the_rest_is_not() {
    let backend = saying(&[b"one two one"]).await;
    assert!(probe(backend.address, [expect("one"), expect("two"), expect("one")]).await.passed);
    let steps = vec![expect("two"), expect("one"), expect("one")];
    let check = Check { timeout: Duration::from_millis(200), ..rare(CheckKind::Script(ScriptCheck { steps })) };
    let result = first(backend.address, &check).await;
    assert!(!result.passed, "{result}");
    assert_eq!(result.asked, r#"step 3 of 3: expect "one""#);
    assert_eq!(result.got, "timeout after 200ms");
}

#[tokio::test]
async fn what_is_not_expected_fails_wherever_it_comes_before_the_next_match() {
    let not = |text: &str| ScriptStep::ExpectNot(Expectation::Bytes(text.into()));
    let not_like = |source: &str| ScriptStep::ExpectNot(Expectation::Regex(Pattern::new(source).unwrap()));
    // In one piece, and byte by byte, with the same verdict.
    let whole: &'static [&'static [u8]] = &[b"LOADING 12 ready later"];
    let pieces: Vec<&'static [u8]> = whole[0].chunks(1).collect();
    for pieces in [whole, Box::leak(pieces.into_boxed_slice())] {
        let backend = saying(pieces).await;
        for (steps, failure) in [
            (vec![not("LOADING"), expect("ready")], Some(r#""LOADING""#)),
            (vec![not_like(r"\d\d"), expect("ready")], Some(r#""LOADING 12""#)),
            (vec![not("BUSY"), not("12"), expect("ready")], Some(r#""LOADING 12""#)),
            (vec![not("BUSY"), expect("ready")], None),
            // What comes after the match is not looked at, and the next step begins from nothing.
            (vec![not("later"), expect("ready")], None),
            (vec![not("BUSY"), expect("ready"), not("LOADING"), expect("later")], None),
        ] {
            let result = probe(backend.address, steps).await;
            assert_eq!(result.passed, failure.is_none(), "{result}");
            if let Some(failure) = failure {
                assert_eq!(result.got, failure);
            }
        }
    }
}

#[tokio::test]
async fn bytes_that_are_no_text() {
    let backend = saying(&[b"\x00\xff", b"\x10"]).await;
    let result = probe(backend.address, [expect(*b"\xff\x10")]).await;
    assert!(result.passed);
    assert_eq!(result.got, r#""\x00\xff\x10""#);
    assert_eq!(result.asked, r#"step 1 of 1: expect "\xff\x10""#);
}

#[tokio::test]
async fn a_regular_expression() {
    let backend = saying(&[b"220 mail.example ", b"ESMTP\r\n"]).await;
    assert!(probe(backend.address, [matching(r"^220 .*\r\n")]).await.passed);
    let check = Check {
        timeout: Duration::from_millis(200),
        ..rare(CheckKind::Script(ScriptCheck { steps: vec![matching("^250 ")] }))
    };
    let result = first(backend.address, &check).await;
    assert_eq!(result.asked, "step 1 of 1: expect /^250 /");
    assert_eq!(result.got, r#"timeout after 200ms, came "220 mail.example ESMTP\r\n""#);

    // A pattern over several lines is a result in one.
    let result = probe(backend.address, [matching("(?x) ^ 220\n \\s mail")]).await;
    assert_eq!(result.asked, r"step 1 of 1: expect /(?x) ^ 220\n \s mail/");
}

#[tokio::test]
async fn a_peer_that_closes_early() {
    let backend = Backend::start(|mut stream, _| async move {
        drop(stream.write_all(b"-ERR busy\r\n").await);
        drop(stream.shutdown().await);
        drop(stream.read(&mut [0; 1]).await);
    })
    .await;
    let result = probe(backend.address, [expect("+OK")]).await;
    assert!(!result.passed);
    assert_eq!(result.to_string(), r#"script step 1 of 1: expect "+OK": closed, came "-ERR busy\r\n""#);

    let backend = Backend::start(|stream, _| async move { drop(stream) }).await;
    assert_eq!(probe(backend.address, [expect("+OK")]).await.got, "closed");

    let backend = Backend::start(|stream, _| async move { stream.set_zero_linger().unwrap() }).await;
    assert_eq!(probe(backend.address, [expect("+OK")]).await.got, "reset");
}

#[tokio::test]
async fn a_silent_peer_times_out() {
    let backend = Backend::silent().await;
    let steps = vec![send("PING\r\n"), expect("PONG")];
    let check = Check { timeout: Duration::from_millis(100), ..rare(CheckKind::Script(ScriptCheck { steps })) };
    let result = first(backend.address, &check).await;
    assert_eq!(result.to_string(), r#"script step 2 of 2: expect "PONG": timeout after 100ms"#);
}

#[tokio::test]
async fn a_peer_that_does_not_read_times_out_and_no_secret_is_shown() {
    let backend = Backend::silent().await;
    let secret = b"secret".repeat(1_500_000);
    let check = Check {
        timeout: Duration::from_millis(300),
        ..rare(CheckKind::Script(ScriptCheck { steps: vec![send(secret)] }))
    };
    let result = first(backend.address, &check).await;
    assert_eq!(result.to_string(), "script step 1 of 1: send 9000000 bytes: timeout after 300ms");
}

#[tokio::test]
async fn an_endless_answer_is_read_to_64_kib() {
    let backend =
        Backend::start(|mut stream, _| async move { while stream.write_all(&[b'.'; 1000]).await.is_ok() {} }).await;
    let result = probe(backend.address, [expect("PONG")]).await;
    assert!(result.got.starts_with("no match in 64 KiB, came \"....."), "{result}");
    assert!(result.got.len() < 200);
}
