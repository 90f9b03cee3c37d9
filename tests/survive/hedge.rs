//! `connect.hedge`: a backend that does not answer a connect costs no session its timeout, and is still found out.

use std::time::{Duration, Instant};

use evenkeel::metrics::Outcome;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{NO_HEALTH, by_result};
use crate::support::{Backend, Blackhole, Last, MODES, Rig, exchange, last, reset, soon, until};

/// Far longer than any test waits.
const NEVER: &str = "timeout = \"10m\", deadline = \"10m\"";

async fn rig(backends: &[&str], connect: &str, more: &str) -> Rig {
    Rig::with_backends(backends, &format!("connect = {{ {connect} }}\n{NO_HEALTH}{more}")).await
}

#[tokio::test]
async fn a_silent_backend_costs_the_hedge() {
    for (_, mode) in MODES {
        let (hole, backend) = (Blackhole::new().await, Backend::echo().await);
        let (silent, alive) = (hole.address().to_string(), backend.address().to_string());
        let rig = rig(&[&silent, &alive], &format!("hedge = \"100ms\", {NEVER}"), mode).await;
        let request: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        for _ in 0..4 {
            // The timeout is ten minutes: only a hedge can answer.
            assert_eq!(exchange(rig.front(), &request).await.unwrap(), request);
        }
        until("sessions end", || async { (rig.ended(Outcome::Completed) == 4).then_some(()) }).await;
        let won = by_result(&rig, "hedged_connects", "won").await;
        assert!(won >= 2.0, "{won}");
        assert_eq!(rig.backend_metric("connect_attempts_total", &silent).await, won);
        assert_eq!(rig.backend_metric("connect_attempts_total", &alive).await, 4.0);
        assert_eq!(backend.connections(), 4, "one for each session");
        // The slow dials are still on their way, and count as the backend's until they are over.
        assert_eq!(rig.backend_metric("sessions", &silent).await, won);
        assert_eq!(rig.connect_failures(&silent, "abandoned").await, 0.0);
        rig.stop().await;
    }
}

/// A hedge that always wins hides nothing: the silent backend is ejected for its timeouts.
#[tokio::test]
async fn the_slower_dial_of_a_hedge_counts_as_a_failure() {
    let (hole, backend) = (Blackhole::new().await, Backend::answering("here").await);
    let (silent, alive) = (hole.address().to_string(), backend.address().to_string());
    let more = "connect = { hedge = \"50ms\", timeout = \"400ms\" }\ncheck = { kind = \"none\", fall = 3 }\n";
    let rig = Rig::with_backends(&[&silent, &alive], more).await;
    until("ejected", || async {
        assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"here");
        rig.backend(&silent).await.filter(|backend| backend["standing"] == "ejected")
    })
    .await;
    rig.until_no_sessions().await;
    assert!(rig.connect_failures(&silent, "timeout").await >= 3.0);
    assert_eq!(rig.connect_failures(&silent, "abandoned").await, 0.0);
    rig.stop().await;
}

/// Two of three are silent: each hedge takes another backend.
#[tokio::test]
async fn one_hedge_after_the_other() {
    let (one, other, backend) = (Blackhole::new().await, Blackhole::new().await, Backend::answering("here").await);
    let backends = [one.address(), other.address(), backend.address()].map(|address| address.to_string());
    let connect = format!("hedge = \"50ms\", attempts = 3, {NEVER}");
    let rig = rig(&backends.each_ref().map(String::as_str), &connect, "").await;
    for _ in 0..3 {
        assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"here");
    }
    assert_eq!(rig.ended(Outcome::ConnectFailed), 0);
    rig.stop().await;
}

/// The client has left: both dials end, and neither counts as a failure.
#[tokio::test]
async fn a_client_that_leaves_ends_both_dials() {
    let (one, other) = (Blackhole::new().await, Blackhole::new().await);
    let backends = [one.address().to_string(), other.address().to_string()];
    let connect = format!("hedge = \"50ms\", {NEVER}");
    let rig = rig(&backends.each_ref().map(String::as_str), &connect, "").await;
    let client = TcpStream::connect(rig.front()).await.unwrap();
    until("both are dialled", || async {
        let (a, b) = (
            rig.backend_metric("connect_attempts_total", &backends[0]).await,
            rig.backend_metric("connect_attempts_total", &backends[1]).await,
        );
        ((a, b) == (1.0, 1.0)).then_some(())
    })
    .await;
    assert_eq!(
        (rig.backend_metric("sessions", &backends[0]).await, rig.backend_metric("sessions", &backends[1]).await),
        (1.0, 1.0)
    );
    reset(client);
    rig.until_no_sessions().await;
    for backend in &backends {
        assert_eq!(rig.connect_failures(backend, "abandoned").await, 1.0);
    }
    assert_eq!(rig.ended(Outcome::ClientGone), 1);
    assert_eq!(by_result(&rig, "hedged_connects", "lost").await, 1.0);
    rig.stop().await;
}

/// Without another backend, or with hedging off, there is one dial until its timeout.
#[tokio::test]
async fn no_hedge() {
    let (one, other) = (Blackhole::new().await, Blackhole::new().await);
    let (one, other) = (one.address().to_string(), other.address().to_string());
    for (backends, hedge) in [(vec![&*one], "50ms"), (vec![&*one, &*other], "0s")] {
        let connect = format!("hedge = \"{hedge}\", attempts = 2, timeout = \"300ms\", deadline = \"500ms\"");
        let rig = rig(&backends, &connect, "").await;
        let began = Instant::now();
        let mut client = TcpStream::connect(rig.front()).await.unwrap();
        assert_eq!(soon("a refusal", last(&mut client)).await, Last::Fin);
        assert!(began.elapsed() >= Duration::from_millis(290));
        rig.until_no_sessions().await;
        for result in ["won", "lost", "refused"] {
            assert_eq!(by_result(&rig, "hedged_connects", result).await, 0.0, "{result}");
        }
        rig.stop().await;
    }
}

/// The process has no room for one more connection: the session waits for its own.
#[tokio::test]
async fn a_hedge_takes_the_place_of_a_session() {
    let (hole, backend) = (Blackhole::new().await, Backend::answering("here").await);
    let backends = [hole.address().to_string(), backend.address().to_string()];
    let rig = Rig::start(&format!(
        "max_connections = 1\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\n[pools.back]\n\
         backends = {backends:?}\nconnect = {{ hedge = \"50ms\", timeout = \"400ms\" }}\n{NO_HEALTH}"
    ))
    .await;
    for _ in 0..4 {
        assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"here");
    }
    rig.until_no_sessions().await;
    assert_eq!(by_result(&rig, "hedged_connects", "won").await, 0.0);
    let timeouts = rig.connect_failures(&backends[0], "timeout").await;
    assert!(timeouts >= 2.0 && by_result(&rig, "hedged_connects", "refused").await >= timeouts);
    rig.stop().await;
}

/// The PROXY header goes to the one that won, and the other one has not been sent a byte.
#[tokio::test]
async fn with_source_preconnect_and_a_header() {
    let hole = Blackhole::new().await;
    let backend = Backend::serving(|mut stream| async move {
        use tokio::io::AsyncReadExt;
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        let _ = stream.write_all(&said).await;
    })
    .await;
    let backends = [hole.address().to_string(), backend.address().to_string()];
    for more in ["send_proxy = \"v1\"\nsource = \"127.0.0.9\"\n", "send_proxy = \"v1\"\npreconnect = 1\n"] {
        let connect = format!("hedge = \"50ms\", {NEVER}");
        let rig = rig(&backends.each_ref().map(String::as_str), &connect, more).await;
        for _ in 0..2 {
            let said = String::from_utf8(exchange(rig.front(), b"hello").await.unwrap()).unwrap();
            assert!(said.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && said.ends_with("\r\nhello"), "{said}");
        }
        until("sessions end", || async { (rig.ended(Outcome::Completed) == 2).then_some(()) }).await;
        assert!(by_result(&rig, "hedged_connects", "won").await >= 1.0);
        rig.stop().await;
    }
}
