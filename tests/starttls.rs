//! `sniff.starttls = "postgres"`: SSLRequest is answered for the backend, and asked again of it. `interop/postgres_tls.rs` has the
//! real programs.

use std::net::SocketAddr;

use evenkeel::metrics::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::shape::Shape;
use crate::support::{Backend, Blackhole, Last, MODES, Rig, last, reset, soon, until};

const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const GSSENC_REQUEST: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
const CANCEL_REQUEST: &[u8] = &[0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e, 0, 0, 0, 1, 0, 0, 0, 2];
const LOGIN: &[u8] = b"\0\0\0\x11\0\x03\0\0user\0a\0\0";

/// Longer than any test: what depends on it does not happen.
const NEVER: &str = "10m";

/// Names go to `back`, all else to `plain`. Nothing is probed or ejected.
async fn rig(backends: &[SocketAddr], plain: SocketAddr, timeout: &str, more: &str) -> Rig {
    let backends: Vec<String> = backends.iter().map(ToString::to_string).collect();
    Rig::start(&format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"plain\"\n\
         routes = [{{ sni = \"one.test\", pool = \"back\" }}]\n\
         sniff = {{ starttls = \"postgres\", timeout = \"{timeout}\" }}\n\
         [pools.plain]\nbackends = [\"{plain}\"]\ncheck = {{ kind = \"none\" }}\n\
         [pools.back]\nbackends = {backends:?}\ncheck = {{ kind = \"none\", fall = 1000 }}\n{more}"
    ))
    .await
}

fn hello() -> Vec<u8> {
    Shape::named("one.test").bytes()
}

/// Answers SSLRequest so, and sends back what comes behind it.
async fn answers(answer: &'static [u8]) -> Backend {
    Backend::serving(move |mut stream| async move {
        let mut request = [0; 8];
        if stream.read_exact(&mut request).await.is_err() {
            return;
        }
        assert_eq!(request, SSL_REQUEST);
        let (mut read, mut write) = stream.into_split();
        let _ = write.write_all(answer).await;
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

async fn connect(front: SocketAddr) -> TcpStream {
    let stream = soon("a connect", TcpStream::connect(front)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn say(stream: &mut TcpStream, bytes: &[u8]) {
    soon("a write", stream.write_all(bytes)).await.unwrap();
}

async fn hears(stream: &mut TcpStream, wanted: &[u8]) {
    let mut bytes = vec![0; wanted.len()];
    soon("an answer", stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(bytes, wanted);
}

/// A client that was told to begin TLS, and has said its hello.
async fn begun(front: SocketAddr) -> TcpStream {
    let mut client = connect(front).await;
    say(&mut client, SSL_REQUEST).await;
    hears(&mut client, b"S").await;
    say(&mut client, &hello()).await;
    client
}

async fn finishes(mut client: TcpStream) {
    client.shutdown().await.unwrap();
    assert_eq!(soon("a FIN", client.read(&mut [0; 8])).await.unwrap(), 0, "nothing more");
}

async fn is_reset(mut client: TcpStream) {
    let mut bytes = Vec::new();
    let end = soon("a reset", client.read_to_end(&mut bytes)).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(bytes.is_empty(), "{}", bytes.escape_ascii());
}

async fn until_ended(rig: &Rig, outcome: Outcome, count: u64) {
    until(outcome.name(), || async { (rig.ended(outcome) == count).then_some(()) }).await;
}

#[tokio::test]
async fn the_hello_reaches_its_backend_byte_for_byte() {
    for (_, mode) in MODES {
        let (backend, plain) = (answers(b"S").await, Backend::answering("plain").await);
        let rig = rig(&[backend.address()], plain.address(), NEVER, mode).await;
        let mut client = begun(rig.front()).await;
        hears(&mut client, &hello()).await;
        for size in [1, 100_000] {
            let more = vec![b'x'; size];
            let (mut read, mut write) = client.split();
            let mut back = vec![0; size];
            soon("an echo", async {
                let (written, got) = tokio::join!(write.write_all(&more), read.read_exact(&mut back));
                (written.unwrap(), got.unwrap())
            })
            .await;
            assert_eq!(back, more);
        }
        finishes(client).await;
        rig.until_no_sessions().await;
        assert_eq!(rig.ended(Outcome::Completed), 1);
        let bytes = (hello().len() + 100_001) as f64;
        let series = |direction| {
            let id = backend.address();
            format!("evenkeel_backend_bytes_total{{pool=\"back\",backend=\"{id}\",direction=\"{direction}\"}}")
        };
        // Neither the request nor its answer count.
        assert_eq!((rig.metric(&series("to_backend")).await, rig.metric(&series("to_client")).await), (bytes, bytes));
        assert_eq!(plain.connections(), 0);
        rig.stop().await;
    }
}

#[tokio::test]
async fn requests_may_come_in_pieces_and_after_gssapi() {
    let (backend, plain) = (answers(b"S").await, Backend::answering("plain").await);
    let rig = rig(&[backend.address()], plain.address(), NEVER, "").await;
    let mut client = connect(rig.front()).await;
    for byte in GSSENC_REQUEST {
        say(&mut client, &[*byte]).await;
        tokio::task::yield_now().await;
    }
    hears(&mut client, b"N").await;
    for byte in SSL_REQUEST {
        say(&mut client, &[*byte]).await;
        tokio::task::yield_now().await;
    }
    hears(&mut client, b"S").await;
    for byte in hello() {
        say(&mut client, &[byte]).await;
    }
    hears(&mut client, &hello()).await;
    finishes(client).await;
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// What is no request goes on at once, as no hello, and reaches the backend as it came.
#[tokio::test]
async fn a_login_and_a_cancel_request_go_to_the_pool() {
    let (backend, plain) = (answers(b"S").await, Backend::echo().await);
    let rig = rig(&[backend.address()], plain.address(), NEVER, "").await;
    for (before, bytes) in [
        (&b""[..], LOGIN),
        (b"", CANCEL_REQUEST),
        (GSSENC_REQUEST, LOGIN),
        // Asked a second time, a server of PostgreSQL ends the connection: it is for the backend to do so.
        (GSSENC_REQUEST, GSSENC_REQUEST),
        // Another name, as a hello without a request.
        (b"", &Shape::named("two.test").bytes()),
    ] {
        let mut client = connect(rig.front()).await;
        if !before.is_empty() {
            say(&mut client, before).await;
            hears(&mut client, b"N").await;
        }
        say(&mut client, bytes).await;
        hears(&mut client, bytes).await;
        finishes(client).await;
    }
    assert_eq!(backend.connections(), 0);
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// `sslnegotiation=direct`
#[tokio::test]
async fn a_hello_without_a_request_is_an_ordinary_one() {
    let (backend, plain) = (Backend::echo().await, Backend::answering("plain").await);
    let rig = rig(&[backend.address()], plain.address(), NEVER, "").await;
    let mut client = connect(rig.front()).await;
    say(&mut client, &hello()).await;
    hears(&mut client, &hello()).await;
    finishes(client).await;
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// A client that was told to begin and does not has no name, but its backend is asked all the same.
#[tokio::test]
async fn silence_after_the_answer_ends_with_the_time() {
    let (backend, plain) = (answers(b"S").await, answers(b"S").await);
    let rig = rig(&[backend.address()], plain.address(), "100ms", "").await;
    let mut client = connect(rig.front()).await;
    say(&mut client, SSL_REQUEST).await;
    hears(&mut client, b"S").await;
    until("the pool's backend", || async { (plain.connections() == 1).then_some(()) }).await;
    say(&mut client, b"late").await;
    hears(&mut client, b"late").await;
    finishes(client).await;
    // Half a request, and a client that says nothing: as they came.
    for bytes in [&SSL_REQUEST[..5], b""] {
        let mut client = connect(rig.front()).await;
        say(&mut client, bytes).await;
        until("the pool's backend", || async { (plain.connections() > 1).then_some(()) }).await;
        say(&mut client, &SSL_REQUEST[bytes.len()..]).await;
        hears(&mut client, b"S").await;
        finishes(client).await;
    }
    assert_eq!(backend.connections(), 0);
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// Whoever sits between client and balancer could put them there, to have them taken for a part of the TLS connection.
#[tokio::test]
async fn bytes_that_come_with_the_request_are_refused() {
    let (backend, plain) = (answers(b"S").await, answers(b"S").await);
    let rig = rig(&[backend.address()], plain.address(), NEVER, "").await;
    for (count, behind) in [hello(), b"x".to_vec(), LOGIN.to_vec(), SSL_REQUEST.to_vec()].iter().enumerate() {
        let mut client = connect(rig.front()).await;
        say(&mut client, &[SSL_REQUEST, behind].concat()).await;
        is_reset(client).await;
        until_ended(&rig, Outcome::Refused, count as u64 + 1).await;
    }
    let series = "evenkeel_refusals_total{listener=\"front\",reason=\"starttls\"}";
    assert_eq!(rig.metric(series).await, 4.0);
    assert_eq!((backend.connections(), plain.connections()), (0, 0));
    rig.stop().await;
}

#[tokio::test]
async fn a_backend_that_answers_anything_else_is_no_backend_for_tls() {
    for answer in [&b"N"[..], b"E", b"\x15\x03\x01", b"SS", b"S\0", b"ESFATAL\0\0"] {
        let (backend, other) = (answers(answer).await, Backend::answering("plain").await);
        let rig = rig(&[backend.address()], other.address(), NEVER, "").await;
        is_reset(begun(rig.front()).await).await;
        until_ended(&rig, Outcome::StarttlsFailed, 1).await;
        let id = backend.address().to_string();
        assert_eq!(rig.connect_failures(&id, "starttls").await, 1.0, "{}", answer.escape_ascii());
        rig.until_no_sessions().await;
        rig.stop().await;
    }
}

/// It is not told to fall back to the clear, and no other backend is asked: the answer was one.
#[tokio::test]
async fn a_refusal_is_no_reason_to_try_another_backend() {
    let (no, other) = (answers(b"N").await, answers(b"S").await);
    let rig = rig(&[no.address(), other.address()], no.address(), NEVER, "").await;
    // In turn.
    let mut resets = 0;
    for _ in 0..4 {
        let mut client = begun(rig.front()).await;
        match soon("an end or an answer", client.read(&mut [0; 4_096])).await {
            Ok(_) => finishes(client).await,
            Err(_) => resets += 1,
        }
    }
    assert_eq!(resets, 2);
    until_ended(&rig, Outcome::StarttlsFailed, 2).await;
    until_ended(&rig, Outcome::Completed, 2).await;
    assert_eq!((no.connections(), other.connections()), (2, 2));
    rig.stop().await;
}

/// A backend that says nothing has refused nothing.
#[tokio::test]
async fn a_backend_that_does_not_answer_is_not_noticed() {
    let closing = Backend::serving(|_| std::future::ready(())).await;
    let resetting = Backend::serving(|stream| async move { reset(stream) }).await;
    let late_reset = Backend::serving(|mut stream: TcpStream| async move {
        let _ = stream.read(&mut [0; 64]).await;
        reset(stream);
    })
    .await;
    let silent = Backend::serving(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let refusing = crate::support::free_port();
    let addresses = [closing.address(), resetting.address(), late_reset.address(), silent.address(), refusing];
    for bad in addresses {
        let good = answers(b"S").await;
        let connect = "connect = { timeout = \"200ms\" }\n";
        let rig = rig(&[bad, good.address()], bad, NEVER, connect).await;
        for _ in 0..4 {
            let mut client = begun(rig.front()).await;
            hears(&mut client, &hello()).await;
            finishes(client).await;
        }
        rig.until_no_sessions().await;
        assert_eq!(rig.ended(Outcome::Completed), 4);
        assert_eq!(good.connections(), 4);
        rig.stop().await;
    }
}

#[tokio::test]
async fn with_no_backend_left_the_client_is_reset() {
    let closing = Backend::serving(|_| std::future::ready(())).await;
    let connect = "connect = { attempts = 2, retry_delay = \"1ms\" }\n";
    let rig = rig(&[closing.address()], closing.address(), NEVER, connect).await;
    is_reset(begun(rig.front()).await).await;
    until_ended(&rig, Outcome::ConnectFailed, 1).await;
    rig.stop().await;
}

/// The one that accepts and is silent is as slow as one that does not accept.
#[tokio::test]
async fn each_dial_of_a_hedge_asks() {
    let silent = Backend::serving(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let (hole, good) = (Blackhole::new().await, answers(b"S").await);
    let connect = "connect = { hedge = \"50ms\", timeout = \"10m\", deadline = \"10m\" }\n";
    let backends = [silent.address(), hole.address(), good.address()];
    let rig = rig(&backends, good.address(), NEVER, connect).await;
    for _ in 0..3 {
        let mut client = begun(rig.front()).await;
        hears(&mut client, &hello()).await;
        finishes(client).await;
    }
    assert_eq!(good.connections(), 3);
    until_ended(&rig, Outcome::Completed, 3).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_preconnection_is_asked_when_it_is_taken() {
    let backend = answers(b"S").await;
    let rig = rig(&[backend.address()], backend.address(), NEVER, "preconnect = 2\n").await;
    let id = backend.address();
    let series = |name: &str| format!("evenkeel_backend_{name}{{pool=\"back\",backend=\"{id}\"}}");
    for _ in 0..5 {
        rig.until_metric(&series("preconnected"), 2.0).await;
        let mut client = begun(rig.front()).await;
        hears(&mut client, &hello()).await;
        finishes(client).await;
    }
    assert!(rig.metric(&series("preconnects_used_total")).await >= 3.0);
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// What a backend that breaks says nothing about is repeated, the request with it; the client has had its answer.
#[tokio::test]
async fn a_replay_asks_again() {
    let failing = Backend::serving(|mut stream: TcpStream| async move {
        let _ = stream.read_exact(&mut [0; 8]).await;
        let _ = stream.write_all(b"S").await;
        let _ = stream.read(&mut [0; 4_096]).await;
        reset(stream);
    })
    .await;
    let good = answers(b"S").await;
    let more = "replay = \"until_response\"\n";
    let rig = rig(&[failing.address(), good.address()], good.address(), NEVER, more).await;
    for _ in 0..4 {
        let mut client = begun(rig.front()).await;
        hears(&mut client, &hello()).await;
        finishes(client).await;
    }
    rig.until_no_sessions().await;
    assert!(failing.connections() >= 2);
    assert_eq!(good.connections(), 4);
    rig.stop().await;
}

/// The header comes before the request, and says what the hello says.
#[tokio::test]
async fn the_proxy_header_comes_before_the_request() {
    let backend = Backend::serving(|mut stream: TcpStream| async move {
        let mut head = [0; 16];
        let _ = stream.read_exact(&mut head).await;
        let mut rest = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
        let _ = stream.read_exact(&mut rest).await;
        let mut request = [0; 8];
        let _ = stream.read_exact(&mut request).await;
        assert_eq!(request, SSL_REQUEST);
        let _ = stream.write_all(b"S").await;
        let mut first = vec![0; hello().len()];
        let _ = stream.read_exact(&mut first).await;
        assert_eq!(first, hello());
        let _ = stream.write_all(&rest[12..]).await;
        let _ = stream.shutdown().await;
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    for more in ["", "replay = \"until_response\"\n"] {
        let send = format!("send_proxy = {{ version = \"v2\", unique_id = false }}\n{more}");
        let rig = rig(&[backend.address()], backend.address(), NEVER, &send).await;
        let mut client = begun(rig.front()).await;
        let mut values = Vec::new();
        soon("the values", client.read_to_end(&mut values)).await.unwrap();
        assert_eq!(values, b"\x02\0\x08one.test");
        drop(client);
        rig.until_no_sessions().await;
        rig.stop().await;
    }
}

/// A client that leaves while its backend is asked is no failure of the backend.
#[tokio::test]
async fn a_client_that_leaves_ends_the_question() {
    let silent = Backend::serving(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let connect = "connect = { timeout = \"10m\", deadline = \"10m\" }\n";
    let rig = rig(&[silent.address()], silent.address(), NEVER, connect).await;
    let client = begun(rig.front()).await;
    until("a dial", || async { (silent.connections() == 1).then_some(()) }).await;
    reset(client);
    until_ended(&rig, Outcome::ClientGone, 1).await;
    rig.until_no_sessions().await;
    assert_eq!(rig.connect_failures(&silent.address().to_string(), "abandoned").await, 1.0);
    rig.stop().await;
}
