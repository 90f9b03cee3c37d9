//! A header is required and does not come: reset, before any backend is dialled.

use super::*;
use crate::support::until;
use evenkeel::metrics::Outcome;

const TRUST: &str = "from = [\"127.0.0.0/8\"]";

#[tokio::test]
async fn a_client_without_the_required_header_is_reset() {
    let desk = Desk::open().await;
    let rig = desk.behind(&format!("{TRUST}\ntimeout = \"1h\""), "").await;
    let too_long = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    let wrong_sum = v2(0x21, 0x11, &[ENDS, &tlv(3, &[1, 2, 3, 4])].concat());
    let cut_value = v2(0x21, 0x11, &[ENDS, &[0xe0, 0, 9, 1]].concat());
    let endless = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    let garbage: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 999.0.2.1 198.51.100.2 4711 443\r\n",
        b"\x16\x03\x01",
        b"PROXY\n",
        &too_long,
        &wrong_sum,
        &cut_value,
        &endless,
    ];
    for bytes in garbage {
        let mut client = connect(rig.front()).await;
        say(&mut client, bytes).await;
        is_reset(&mut client).await;
    }
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Refused), 8);
    assert_eq!(rig.metric("evenkeel_listener_ended_total{listener=\"front\",outcome=\"refused\"}").await, 8.0);
    assert_eq!(rig.metric("evenkeel_refusals_total{listener=\"front\",reason=\"proxy_header\"}").await, 8.0);
    assert_eq!(rig.metric("evenkeel_refusals_total{listener=\"front\",reason=\"no_route\"}").await, 0.0);
    assert_eq!(desk.backend.connections(), 0, "no backend was dialled");
    rig.stop().await;
}

#[tokio::test]
async fn a_client_whose_header_takes_too_long_is_reset() {
    let desk = Desk::open().await;
    let rig = desk.behind(&format!("{TRUST}\ntimeout = \"50ms\""), "").await;
    for bytes in [&b""[..], b"PRO", &V1[..V1.len() - 1], &v2(0x21, 0x11, ENDS)[..20]] {
        let began = std::time::Instant::now();
        let mut client = connect(rig.front()).await;
        say(&mut client, bytes).await;
        is_reset(&mut client).await;
        assert!(began.elapsed() >= std::time::Duration::from_millis(50));
    }
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Refused), 4);
    assert_eq!(desk.backend.connections(), 0);
    rig.stop().await;
}

/// A drip of bytes does not stretch the time.
#[tokio::test]
async fn the_timeout_is_for_the_whole_header() {
    let desk = Desk::open().await;
    let rig = desk.behind(&format!("{TRUST}\ntimeout = \"100ms\""), "").await;
    let (mut read, mut write) = connect(rig.front()).await.into_split();
    let drip = tokio::spawn(async move {
        write.write_all(b"PROXY UNKNOWN ").await.unwrap();
        for _ in 0..80 {
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            if write.write_all(b"x").await.is_err() {
                return true;
            }
        }
        false
    });
    assert!(soon("a reset", read.read(&mut [0; 8])).await.is_err());
    assert!(soon("the drip fails", drip).await.unwrap());
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Refused), 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_early_is_not_a_session_of_a_backend() {
    let desk = Desk::open().await;
    let rig = desk.behind(&format!("{TRUST}\ntimeout = \"1h\""), "").await;
    // As a probe by connect does.
    drop(connect(rig.front()).await);
    until("gone", || async { (rig.ended(Outcome::ClientGone) == 1).then_some(()) }).await;
    let client = connect(rig.front()).await.into_std().unwrap();
    socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    until("gone", || async { (rig.ended(Outcome::ClientGone) == 2).then_some(()) }).await;
    let mut client = connect(rig.front()).await;
    say(&mut client, &V1[..20]).await;
    client.shutdown().await.unwrap();
    is_reset(&mut client).await;
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Refused), 1);
    assert_eq!(desk.backend.connections(), 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_header() {
    let desk = Desk::open().await;
    let rig = desk.behind(&format!("{TRUST}\ntimeout = \"1h\""), "").await;
    let mut client = connect(rig.front()).await;
    say(&mut client, b"PROXY ").await;
    let state = std::sync::Arc::clone(rig.balancer().state());
    until("accepted", || async { (state.sessions() == 1).then_some(()) }).await;
    soon("a stop", rig.stop()).await;
    is_reset(&mut client).await;
    assert_eq!(state.set().listeners[0].ended.read(Outcome::Drained), 1);
}
