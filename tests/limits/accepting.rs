//! `accept`: new sessions a second of all clients together, and those that are half-way through their PROXY header.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::access::{PROXIES, from, front, greeting, heard, named, served};
use crate::support::{Rig, soon, until};

#[tokio::test]
async fn over_the_rate_clients_wait_in_the_backlog_and_are_all_served() {
    let backend = greeting().await;
    let rig = Rig::start(&front("127.0.0.1", "accept = { rate = 20, burst = 2 }", &backend)).await;
    let began = Instant::now();
    let all = futures_util::future::join_all((0..12).map(|_| from([127, 0, 0, 1], rig.front()))).await;
    assert!(all.iter().all(|said| said.as_ref().is_ok_and(|said| said == b"served")), "{all:?}");
    // Two at once, and then one in 50 ms.
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    let status = until("the limit", || async {
        let status = crate::support::get_json(rig.admin(), "/api/v1/status").await;
        status["limits"].as_array()?.iter().find(|limit| limit["kind"] == "accept_rate").cloned()
    });
    assert_eq!(status.await["name"], "front");
    // No limit any more, at once.
    rig.reload(&front("127.0.0.1", "", &backend)).await.unwrap();
    let all = futures_util::future::join_all((0..50).map(|_| from([127, 0, 0, 1], rig.front()))).await;
    assert!(all.iter().all(|said| said.as_ref().is_ok_and(|said| said == b"served")), "{all:?}");
    rig.until_no_sessions().await;
    rig.stop().await;
}

#[tokio::test]
async fn a_stop_takes_those_that_wait_for_the_rate() {
    let backend = greeting().await;
    let rig = Rig::start(&front("127.0.0.1", "accept = { rate = 0.001, burst = 1 }", &backend)).await;
    assert_eq!(from([127, 0, 0, 1], rig.front()).await.unwrap(), b"served");
    let late = tokio::spawn(from([127, 0, 0, 1], rig.front()));
    rig.until_metric("evenkeel_listener_at_limit{listener=\"front\"}", 1.0).await;
    soon("a stop", rig.stop()).await;
    assert_eq!(late.await.unwrap().unwrap(), b"served");
}

#[tokio::test]
async fn half_said_headers_do_not_take_the_places_of_others() {
    let backend = greeting().await;
    let rig = Rig::start(&front("127.0.0.1", &format!("{PROXIES}\naccept = {{ handshakes = 3 }}"), &backend)).await;
    let handshakes = "evenkeel_listener_handshakes{listener=\"front\"}";
    let mut half = Vec::new();
    for n in 0..5 {
        let mut stream = soon("a connect", TcpStream::connect(rig.front())).await.unwrap();
        stream.write_all(b"PROXY TCP4 192").await.unwrap();
        half.push(stream);
        until("it is known", || async { (rig.metric(handshakes).await == f64::from((n + 1).min(3))).then_some(()) })
            .await;
    }
    // The oldest had to go, and the others are still there.
    for stream in half.drain(..2) {
        assert_eq!(heard(stream).await.unwrap(), b"");
    }
    assert_eq!(served(&rig, "handshakes").await, 2.0);
    for _ in 0..5 {
        assert_eq!(named("192.0.2.1", rig.front()).await.unwrap(), b"served");
    }
    assert_eq!(served(&rig, "handshakes").await, 3.0, "only the first of those that say a whole one needed a place");
    // The youngest can still finish.
    let mut last = half.pop().unwrap();
    last.write_all(b".0.2.1 198.51.100.1 4711 443\r\n").await.unwrap();
    let mut said = [0; 6];
    soon("an answer", last.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"served");
    drop((half, last));
    rig.until_no_sessions().await;
    assert_eq!(rig.metric(handshakes).await, 0.0);
    rig.stop().await;
}

/// The same for first bytes that a route asks for.
#[tokio::test]
async fn half_said_first_bytes_do_not_take_the_places_of_others() {
    let backend = greeting().await;
    let keys = "routes = [{ starts_with = \"SSH-\", pool = \"back\" }]\nsniff = { timeout = \"1h\" }\naccept = { handshakes = 2 }";
    let rig = Rig::start(&front("127.0.0.1", keys, &backend)).await;
    let mut half = Vec::new();
    for n in 0..3 {
        let mut stream = soon("a connect", TcpStream::connect(rig.front())).await.unwrap();
        stream.write_all(b"SS").await.unwrap();
        half.push(stream);
        let under_way = f64::from((n + 1).min(2));
        rig.until_metric("evenkeel_listener_handshakes{listener=\"front\"}", under_way).await;
    }
    until("one is refused", || async { (served(&rig, "handshakes").await == 1.0).then_some(()) }).await;
    let mut last = half.pop().unwrap();
    last.write_all(b"H-").await.unwrap();
    assert_eq!(soon("an answer", last.read_u8()).await.unwrap(), b's');
    drop((half, last));
    rig.until_no_sessions().await;
    rig.stop().await;
}
