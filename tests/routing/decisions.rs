//! Which pool it is, and when that is known.

use std::time::{Duration, Instant};

use evenkeel::metrics::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::support::{HeldPort, get_json, until};

#[tokio::test]
async fn by_name_protocol_network_and_first_bytes() {
    let [db, shop, h2, near, ssh, plain, rest] =
        ["db", "shop", "h2", "near", "ssh", "plain", "rest"].map(Backend::answering);
    let (db, shop, h2, near, ssh, plain, rest) = tokio::join!(db, shop, h2, near, ssh, plain, rest);
    let pools =
        [("db", &db), ("shop", &shop), ("h2", &h2), ("near", &near), ("ssh", &ssh), ("plain", &plain), ("rest", &rest)];
    let pools = pools.map(|(name, backend)| pool(name, backend, ""));
    let rig = routed(
        r#"pool = "rest"
        routes = [
          { sni = ["DB.example.com", "münchen.example"], pool = "db" },
          { sni = "*.shop.example.com", pool = "shop" },
          { alpn = ["postgresql", "h2"], pool = "h2" },
          { from = ["127.0.0.0/8", "::1"], tls = true, sni = "near.example", pool = "near" },
          { from = "10.0.0.0/8", pool = "near" },
          { starts_with = "SSH-", pool = "ssh" },
          { tls = false, pool = "plain" },
        ]"#,
        &pools,
    )
    .await;
    for (bytes, wanted) in [
        (hello("db.example.com"), "db"),
        (hello("Db.Example.Com"), "db"),
        (hello("xn--mnchen-3ya.example"), "db"),
        (hello("eu.shop.example.com"), "shop"),
        (hello("shop.example.com"), "rest"),
        (hello("a.eu.shop.example.com"), "rest"),
        (Shape::named("x.example").alpn(&[b"http/1.1", b"h2"]).bytes(), "h2"),
        (hello("near.example"), "near"),
        (Shape::default().bytes(), "rest"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "ssh"),
        (b"GET / HTTP/1.0\r\n\r\n".to_vec(), "plain"),
        // An SSLv2 hello is none.
        (vec![0x80, 0x2e, 0x01, 0x00, 0x02, 0x00, 0x15], "plain"),
    ] {
        assert_eq!(answer(&rig, &bytes).await, wanted, "{}", bytes.escape_ascii());
    }
    rig.until_no_sessions().await;
    for (pool, count) in
        [("db", 3.0), ("shop", 1.0), ("h2", 1.0), ("near", 1.0), ("ssh", 1.0), ("plain", 2.0), ("rest", 3.0)]
    {
        let series = format!("evenkeel_routed_sessions_total{{listener=\"front\",pool=\"{pool}\"}}");
        assert_eq!(rig.metric(&series).await, count, "{series}");
    }
    rig.stop().await;
}

/// The decision does not wait for more than it needs: the client has not said everything, and the backend hears it.
#[tokio::test]
async fn it_is_decided_at_the_first_byte_that_rules_the_rest_out() {
    let (tls, ssh, rest) =
        (Backend::answering("tls").await, Backend::answering("ssh").await, Backend::answering("rest").await);
    let pools = [pool("tls", &tls, ""), pool("ssh", &ssh, ""), pool("rest", &rest, "")];
    let routes = "pool = \"rest\"\nroutes = [{ tls = true, pool = \"tls\" }, { starts_with = \"SSH-\", pool = \"ssh\" }]\nsniff.timeout = \"1h\"";
    let rig = routed(routes, &pools).await;
    assert_eq!(answer(&rig, b"G").await, "rest");
    assert_eq!(answer(&rig, b"SSH-").await, "ssh");
    assert_eq!(answer(&rig, b"SSX").await, "rest");
    // What follows the type of a record is no version of TLS.
    assert_eq!(answer(&rig, b"\x16\x07").await, "rest");
    // An empty connection that has finished is no hello.
    let mut stream = connect(&rig).await;
    stream.shutdown().await.unwrap();
    assert_eq!(hear_out(&mut stream).await, "");
    rig.stop().await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_reached_when_the_time_is_over() {
    let greeter = Backend::serving(|mut stream| async move {
        let _ = stream.write_all(b"220 ready\r\n").await;
        let _ = stream.read(&mut [0; 16]).await;
    })
    .await;
    let tls = Backend::answering("tls").await;
    let pools = [pool("mail", &greeter, ""), pool("tls", &tls, "")];
    let routes = "pool = \"mail\"\nroutes = [{ tls = true, pool = \"tls\" }]\nsniff = { timeout = \"300ms\" }";
    let rig = routed(routes, &pools).await;
    let began = Instant::now();
    let mut stream = connect(&rig).await;
    let mut greeting = [0; 11];
    soon("a greeting", stream.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    rig.stop().await;
}

/// A route that needs no bytes does not wait for any, whatever comes behind it.
#[tokio::test]
async fn only_the_next_rule_that_is_open_waits() {
    let greeter = Backend::serving(|mut stream| async move {
        let _ = stream.write_all(b"hello").await;
        let _ = stream.read(&mut [0; 16]).await;
    })
    .await;
    let tls = Backend::answering("tls").await;
    let pools = [pool("near", &greeter, ""), pool("tls", &tls, "")];
    let routes = "routes = [{ from = \"10.0.0.0/8\", tls = true, pool = \"tls\" }, { from = \"127.0.0.0/8\", pool = \"near\" }, { tls = true, pool = \"tls\" }]\nsniff = { timeout = \"1h\" }";
    let rig = routed(routes, &pools).await;
    let mut stream = connect(&rig).await;
    soon("a greeting", stream.read_exact(&mut [0; 5])).await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn without_a_route_a_client_is_refused() {
    let tls = Backend::answering("tls").await;
    let rig = routed("routes = [{ sni = \"a.example\", pool = \"tls\" }]", &[pool("tls", &tls, "")]).await;
    let mut stream = connect(&rig).await;
    say(&mut stream, &hello("b.example")).await;
    let end = soon("an end", stream.read(&mut [0; 8])).await;
    // Its bytes were read: a FIN could be taken for the end of an answer.
    assert!(end.is_err(), "{end:?}");
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Refused), 1);
    let labels = "{listener=\"front\",pool=\"\",backend=\"\",outcome=\"refused\"}";
    assert_eq!(rig.metric(&format!("evenkeel_sessions_total{labels}")).await, 1.0);
    assert_eq!(rig.metric("evenkeel_refusals_total{listener=\"front\",reason=\"no_route\"}").await, 1.0);
    assert_eq!(rig.metric("evenkeel_pool_session_seconds_count{pool=\"tls\"}").await, 0.0);
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_was_read_and_gets_no_backend_is_reset() {
    let tls = Backend::answering("tls").await;
    let port = HeldPort::new();
    let dead = format!("[pools.dead]\nbackends = [\"{}\"]\ncheck.kind = \"none\"\n", port.address());
    let routes = "routes = [{ sni = \"a.example\", pool = \"dead\" }, { tls = true, pool = \"tls\" }]";
    let rig = routed(routes, &[dead, pool("tls", &tls, "")]).await;
    let mut stream = connect(&rig).await;
    say(&mut stream, &hello("a.example")).await;
    let end = soon("an end", stream.read(&mut [0; 8])).await;
    assert!(end.is_err(), "{end:?}");
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::ConnectFailed), 1);
    rig.stop().await;
}

/// Operators see it, can end it, and a stop does not wait for it.
#[tokio::test]
async fn a_session_that_is_being_read_belongs_to_its_listener_alone() {
    let tls = Backend::answering("tls").await;
    let rig =
        routed("routes = [{ tls = true, pool = \"tls\" }]\nsniff.timeout = \"1h\"", &[pool("tls", &tls, "")]).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(&rig).await;
        say(&mut stream, &hello("a.example")[..20]).await;
        streams.push(stream);
    }
    let sniffing = || async {
        let all = get_json(rig.admin(), "/api/v1/sessions").await;
        let list = all["sessions"].as_array().unwrap().clone();
        let is = |session: &serde_json::Value| session["phase"] == "sniffing" && session["pool"].is_null();
        (list.iter().filter(|session| is(session)).count() == 3).then_some(list)
    };
    let list = until("three sessions are read", sniffing).await;
    assert_eq!(rig.balancer().state().sessions(), 3);
    // One that leaves.
    let gone = streams.pop().unwrap();
    gone.set_zero_linger().unwrap();
    drop(gone);
    until("it is gone", || async { (rig.ended(Outcome::ClientGone) == 1).then_some(()) }).await;
    // One that an operator ends.
    let id = list[0]["id"].as_u64().unwrap();
    let closed = rig.balancer().state().close(evenkeel::metrics::CloseCause::Operator, |session| session.key.id == id);
    assert_eq!(closed, 1);
    until("it is killed", || async { (rig.ended(Outcome::Killed) == 1).then_some(()) }).await;
    rig.stop().await;
}

#[tokio::test]
async fn ten_thousand_names() {
    let (even, odd, rest) =
        (Backend::answering("even").await, Backend::answering("odd").await, Backend::answering("rest").await);
    let names = |parity: usize| {
        (0..10_000).filter(|n| n % 2 == parity).map(|n| format!("\"n{n}.example\"")).collect::<Vec<_>>().join(",")
    };
    let routes = format!(
        "pool = \"rest\"\nroutes = [{{ sni = [{}], pool = \"even\" }}, {{ sni = [{}], pool = \"odd\" }}]",
        names(0),
        names(1)
    );
    let rig = routed(&routes, &[pool("even", &even, ""), pool("odd", &odd, ""), pool("rest", &rest, "")]).await;
    for number in [0, 1, 4_999, 5_000, 9_998, 9_999, 10_000] {
        let wanted = match number {
            10_000 => "rest",
            number if number % 2 == 0 => "even",
            _ => "odd",
        };
        assert_eq!(answer(&rig, &hello(&format!("n{number}.example"))).await, wanted, "{number}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_split_by_the_clients_address_keeps_a_client_where_it_is() {
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    let pools = [pool("a", &a, ""), pool("b", &b, "")];
    let rig = routed("routes = [{ split = { a = 1, b = 1 }, hash = \"client_address\" }]", &pools).await;
    let first = answer(&rig, b"?").await;
    for _ in 0..20 {
        assert_eq!(answer(&rig, b"?").await, first);
    }
    rig.reload(&format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\nroutes = [{{ split = {{ a = 1, b = 1 }} }}]\n{}{STOP}",
        pools.concat()
    ))
    .await
    .unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..60 {
        seen.insert(answer(&rig, b"?").await);
    }
    assert_eq!(seen.len(), 2, "each session is drawn by itself");
    rig.stop().await;
}
