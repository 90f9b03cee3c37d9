//! `per_client`: sessions and rate of one client, every action, behind a proxy, observed only, and through a reload.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::access::{PROXIES, from, front, greeting, named, served};
use crate::support::{Backend, Program, Rig, get_json, soon, until};

/// A session that is served, for as long as the test likes.
async fn live(address: [u8; 4], front: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    let mut stream = soon("a connect", socket.connect(front)).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(soon("an echo", stream.read_u8()).await.unwrap(), b'x');
    stream
}

async fn clients(rig: &Rig) -> serde_json::Value {
    get_json(rig.admin(), "/api/v1/clients").await
}

const ONE: [u8; 4] = [127, 0, 0, 1];
const OTHER: [u8; 4] = [127, 0, 0, 2];

#[tokio::test]
async fn a_client_has_no_more_sessions_than_it_may_and_others_do_not_notice() {
    for (action, is_reset) in [("refuse", false), ("reset", true)] {
        let backend = Backend::echo().await;
        let keys = format!("per_client = {{ max_connections = 2, action = {action:?} }}");
        let rig = Rig::start(&front("127.0.0.1", &keys, &backend)).await;
        let (first, second) = (live(ONE, rig.front()).await, live(ONE, rig.front()).await);
        for _ in 0..3 {
            match from(ONE, rig.front()).await {
                Ok(bytes) => assert!(!is_reset && bytes.is_empty()),
                Err(error) => assert!(is_reset && error.kind() == std::io::ErrorKind::ConnectionReset, "{error}"),
            }
        }
        let other = live(OTHER, rig.front()).await;
        assert_eq!(backend.connections(), 3);
        assert_eq!(served(&rig, "client_connections").await, 3.0);
        let listed = clients(&rig).await;
        let worst = &listed["clients"][0];
        assert_eq!((&worst["client"], &worst["sessions"]), (&"127.0.0.1".into(), &2.into()), "{listed}");
        assert_eq!((&worst["over_max_connections"], &listed["known"]), (&3.into(), &2.into()), "{listed}");
        // Its place is free when its client sees the end.
        drop(first);
        until("a place", || async { (clients(&rig).await["clients"][0]["sessions"] == 1).then_some(()) }).await;
        let third = live(ONE, rig.front()).await;
        drop((second, third, other));
        rig.until_no_sessions().await;
        assert_eq!(clients(&rig).await["clients"][0]["sessions"], 0);
        rig.stop().await;
    }
}

/// A place is given back before the client sees the end: one that connects again at once is never over its limit.
#[tokio::test]
async fn a_client_that_connects_again_and_again_is_served_each_time() {
    let backend = greeting().await;
    let rig = Rig::start(&front("127.0.0.1", "per_client = { max_connections = 1 }", &backend)).await;
    for _ in 0..200 {
        let mut stream = soon("a connect", TcpStream::connect(rig.front())).await.unwrap();
        let mut said = Vec::new();
        // Its own FIN first: the session ends, and closes, when the backend has finished.
        stream.shutdown().await.unwrap();
        soon("an end", stream.read_to_end(&mut said)).await.unwrap();
        assert_eq!(said, b"served");
        until("its end", || async { (rig.balancer().state().sessions() == 0).then_some(()) }).await;
    }
    assert_eq!(served(&rig, "client_connections").await, 0.0);
    rig.stop().await;
}

#[tokio::test]
async fn a_client_begins_no_more_sessions_than_its_burst() {
    let backend = greeting().await;
    let rig = Rig::start(&front("127.0.0.1", "per_client = { rate = 0.001, burst = 3 }", &backend)).await;
    for n in 0..6 {
        let expected: &[u8] = if n < 3 { b"served" } else { b"" };
        assert_eq!(from(ONE, rig.front()).await.unwrap(), expected, "{n}");
    }
    assert_eq!(from(OTHER, rig.front()).await.unwrap(), b"served");
    assert_eq!(served(&rig, "client_rate").await, 3.0);
    let worst = clients(&rig).await["clients"][0].clone();
    assert_eq!((&worst["over_rate"], &worst["over_max_connections"]), (&3.into(), &0.into()));
    rig.stop().await;
}

#[tokio::test]
async fn observed_only_it_counts_and_serves() {
    let backend = Backend::echo().await;
    let keys = "per_client = { max_connections = 1, mode = \"observe\", action = \"wait\" }";
    let rig = Rig::start(&front("127.0.0.1", keys, &backend)).await;
    let all = [live(ONE, rig.front()).await, live(ONE, rig.front()).await, live(ONE, rig.front()).await];
    assert_eq!(served(&rig, "client_connections").await, 0.0);
    let observed = "evenkeel_observed_refusals_total{listener=\"front\",reason=\"client_connections\"}";
    assert_eq!(rig.metric(observed).await, 2.0);
    assert_eq!(clients(&rig).await["clients"][0]["sessions"], 3);
    drop(all);
    rig.stop().await;
}

/// One network is one client; the families are apart, and only who a trusted proxy names counts.
#[tokio::test]
async fn behind_a_proxy_networks_of_clients_are_told_apart() {
    let backend = greeting().await;
    let keys = format!("{PROXIES}\nper_client = {{ rate = 0.001, burst = 1, prefix = {{ v4 = 24, v6 = 48 }} }}");
    let rig = Rig::start(&front("127.0.0.1", &keys, &backend)).await;
    for (client, answer) in [
        ("192.0.2.1", "served"),
        ("192.0.2.200", ""),
        ("::ffff:192.0.2.3", ""),
        ("192.0.3.1", "served"),
        ("2001:db8:1::1", "served"),
        ("2001:db8:1:ffff::1", ""),
        ("2001:db8:2::1", "served"),
    ] {
        assert_eq!(named(client, rig.front()).await.unwrap(), answer.as_bytes(), "{client}");
    }
    let listed = clients(&rig).await;
    assert_eq!((&listed["clients"][0]["client"], &listed["known"]), (&"192.0.2.0/24".into(), &4.into()), "{listed}");
    rig.stop().await;
}

#[tokio::test]
async fn a_session_that_waits_is_served_in_its_turn_when_another_one_ends() {
    let backend = Backend::echo().await;
    let keys = "per_client = { max_connections = 1, action = \"wait\", max_waiting = 20, wait_timeout = \"1h\" }";
    let rig = Rig::start(&front("127.0.0.1", keys, &backend)).await;
    let first = live(ONE, rig.front()).await;
    let waiting = "evenkeel_listener_waiting_sessions{listener=\"front\"}";
    let mut second = soon("a connect", TcpStream::connect(rig.front())).await.unwrap();
    second.write_all(b"2").await.unwrap();
    rig.until_metric(waiting, 1.0).await;
    let mut third = soon("a connect", TcpStream::connect(rig.front())).await.unwrap();
    third.write_all(b"3").await.unwrap();
    rig.until_metric(waiting, 2.0).await;
    // A tenth of 20 is what one client may have; others are served meanwhile.
    assert_eq!(from(ONE, rig.front()).await.unwrap(), b"");
    drop(live(OTHER, rig.front()).await);
    assert_eq!(served(&rig, "client_connections").await, 1.0);
    drop(first);
    assert_eq!(soon("an echo", second.read_u8()).await.unwrap(), b'2');
    assert_eq!(rig.metric(waiting).await, 1.0, "the third one has not begun");
    drop(second);
    assert_eq!(soon("an echo", third.read_u8()).await.unwrap(), b'3');
    assert_eq!(rig.metric(waiting).await, 0.0);
    // One that leaves while it waits makes room, and is not served.
    let left = soon("a connect", TcpStream::connect(rig.front())).await.unwrap();
    rig.until_metric(waiting, 1.0).await;
    socket2::SockRef::from(&left).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(left);
    rig.until_metric(waiting, 0.0).await;
    drop(third);
    rig.until_no_sessions().await;
    assert_eq!(clients(&rig).await["clients"][0]["sessions"], 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_session_waits_for_its_rate_and_not_beyond_its_time() {
    let backend = greeting().await;
    let keys = "per_client = { rate = 20, burst = 1, action = \"wait\", max_waiting = 100, wait_timeout = \"1h\" }";
    let text = |keys: &str| front("127.0.0.1", keys, &backend);
    let rig = Rig::start(&text(keys)).await;
    let began = std::time::Instant::now();
    let all = futures_util::future::join_all((0..10).map(|_| from(ONE, rig.front()))).await;
    assert!(all.iter().all(|said| said.as_ref().is_ok_and(|said| said == b"served")), "{all:?}");
    // The first at once, and one in 50 ms after it.
    assert!(began.elapsed() >= std::time::Duration::from_millis(450), "{:?}", began.elapsed());
    rig.reload(&text("per_client = { rate = 0.001, burst = 1, action = \"wait\", wait_timeout = \"20ms\" }"))
        .await
        .unwrap();
    // What was left of the rate survives the reload.
    assert_eq!(from(ONE, rig.front()).await.unwrap(), b"");
    assert_eq!(served(&rig, "client_rate").await, 1.0);
    rig.stop().await;
}

#[tokio::test]
async fn counts_survive_a_reload_and_new_limits_are_for_new_sessions() {
    let backend = Backend::echo().await;
    let text = |keys: &str| front("127.0.0.1", keys, &backend);
    let rig = Rig::start(&text("per_client = { max_connections = 3 }")).await;
    let mut all = vec![live(ONE, rig.front()).await, live(ONE, rig.front()).await];
    rig.reload(&text("per_client = { max_connections = 1 }")).await.unwrap();
    assert_eq!(from(ONE, rig.front()).await.unwrap(), b"");
    rig.reload(&text("per_client = { max_connections = 3, max_clients = 1000 }")).await.unwrap();
    all.push(live(ONE, rig.front()).await);
    assert_eq!(from(ONE, rig.front()).await.unwrap(), b"");
    // Off, and nothing is limited or known; sessions from before end well.
    rig.reload(&text("")).await.unwrap();
    all.push(live(ONE, rig.front()).await);
    assert_eq!(clients(&rig).await["known"], 0);
    for stream in &mut all {
        stream.write_all(b"y").await.unwrap();
        assert_eq!(soon("an echo", stream.read_u8()).await.unwrap(), b'y');
    }
    drop(all);
    rig.until_no_sessions().await;
    rig.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_session_that_waits() {
    let backend = Backend::echo().await;
    let keys = "per_client = { max_connections = 1, action = \"wait\", wait_timeout = \"1h\" }\n[shutdown]\ntimeout = \"10ms\"";
    let text = front("127.0.0.1", "", &backend).replace("pool = \"back\"\n\n", &format!("pool = \"back\"\n{keys}\n"));
    let rig = Rig::start(&text).await;
    let first = live(ONE, rig.front()).await;
    let second = soon("a connect", TcpStream::connect(rig.front())).await.unwrap();
    rig.until_metric("evenkeel_listener_waiting_sessions{listener=\"front\"}", 1.0).await;
    soon("a stop", rig.stop()).await;
    drop((first, second));
}

#[tokio::test]
async fn the_command_lists_the_worst_first_and_the_status_says_that_a_limit_is_reached() {
    let backend = greeting().await;
    let text = front("127.0.0.1", "per_client = { rate = 0.001, burst = 1 }", &backend);
    let program = Program::start(&format!("admin.bind = \"127.0.0.1:0\"\n{text}"), &[]);
    let address = program.front("front").await;
    for (client, times) in [(ONE, 4), (OTHER, 2), ([127, 0, 0, 3], 1)] {
        for _ in 0..times {
            drop(from(client, address).await);
        }
    }
    let said = program.good("", &["clients", "--limit", "2"]).await;
    let rows: Vec<Vec<&str>> = said.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let expected = [
        vec!["front", "127.0.0.1", "0", "0", "0", "3"],
        vec!["front", "127.0.0.2", "0", "0", "0", "1"],
        vec!["and", "1", "more", "(--limit)"],
    ];
    assert_eq!(rows, expected, "{said}");
    let json = program.good("", &["--json", "clients", "--listener", "front"]).await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["known"], 3);
    let status = until("a line", || async {
        let status = program.good("", &["status"]).await;
        status.lines().find(|line| line.starts_with("limit reached")).map(str::to_owned)
    });
    let status = status.await;
    assert!(
        status.contains("clients of listener `front` have reached its per_client limits: their sessions are refused"),
        "{status}"
    );
    let log = program.stop().await;
    let refused = |line: &&String| line.contains("outcome=\"refused\"") && line.contains("reason=\"client_rate\"");
    assert_eq!(log.iter().filter(refused).count(), 4, "{log:#?}");
}
