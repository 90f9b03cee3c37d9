//! Front addresses: several for a listener, IPv4, IPv6 and both, and a port that is in use.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use evenkeel::{Balancer, config};

use crate::support::{Backend, Program, Rig, exchange};

fn text(bind: &str, backend: &Backend) -> String {
    format!("[listeners.front]\nbind = {bind}\npool = \"back\"\n[pools.back]\nbackends = [\"{}\"]\n", backend.address())
}

#[tokio::test]
async fn several_addresses_of_both_kinds() {
    let backend = Backend::answering("here").await;
    let rig = Rig::start(&text("[\"127.0.0.1:0\", \"127.0.0.2:0\", \"[::1]:0\"]", &backend)).await;
    let addresses: Vec<SocketAddr> = rig.balancer().listeners().into_iter().map(|(_, address)| address).collect();
    let ips: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    assert_eq!(ips, ["127.0.0.1", "127.0.0.2", "::1"]);
    for &address in &addresses {
        assert_eq!(exchange(address, b"?").await.unwrap(), b"here");
    }
    rig.until_no_sessions().await;
    assert_eq!(rig.metric("evenkeel_listener_accepted_total{listener=\"front\"}").await, 3.0);
    rig.stop().await;
}

#[tokio::test]
async fn v6_any_takes_both() {
    let backend = Backend::answering("here").await;
    let rig = Rig::start(&text("\"[::]:0\"", &backend)).await;
    let port = rig.front().port();
    for ip in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))] {
        assert_eq!(exchange(ip, b"?").await.unwrap(), b"here");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_backend_on_v6() {
    let backend = Backend::on((Ipv6Addr::LOCALHOST, 0).into(), |mut stream| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut request = Vec::new();
        let _ = stream.read_to_end(&mut request).await;
        let _ = stream.write_all(&request).await;
    })
    .await;
    let rig = Rig::start(&text("\"127.0.0.1:0\"", &backend)).await;
    assert_eq!(exchange(rig.front(), b"over v6").await.unwrap(), b"over v6");
    rig.stop().await;
}

/// Nothing is half started: the address that was free before is free again.
#[tokio::test]
async fn a_port_that_is_taken_is_an_error() {
    let backend = Backend::answering("here").await;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (taken_at, free) = (taken.local_addr().unwrap(), crate::support::free_port());
    let config = text(&format!("[\"{free}\", \"{taken_at}\"]"), &backend);
    let parsed = config::parse(&format!("admin = {{ bind = \"127.0.0.1:0\" }}\n{config}"), "t", &|_| None).unwrap();
    let error = Balancer::start(parsed).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("listener `front` can't listen on {taken_at} (another program listens there)")
    );
    assert!(TcpListener::bind(free).is_ok(), "nothing is left behind");

    let mut program = Program::start(&config, &[]);
    assert_eq!(program.end().await.code(), Some(1));
}

/// A second balancer on the same port is refused, too: no port is shared by accident.
#[tokio::test]
async fn two_balancers_do_not_share_a_port() {
    let backend = Backend::answering("here").await;
    let rig = Rig::start(&text("\"127.0.0.1:0\"", &backend)).await;
    let config = text(&format!("\"{}\"", rig.front()), &backend);
    let parsed = config::parse(&format!("admin = {{ bind = \"127.0.0.1:0\" }}\n{config}"), "t", &|_| None).unwrap();
    assert!(Balancer::start(parsed).await.is_err());
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"here");
    rig.stop().await;
}

#[tokio::test]
async fn a_file_that_check_accepts_can_start() {
    let backend = Backend::answering("here").await;
    for (bind, is_accepted) in [
        ("127.0.0.1:0", true),
        ("0.0.0.0:0", true),
        ("[::]:0", true),
        ("[::1]:0", true),
        ("[::ffff:127.0.0.1]:0", true),
        ("[::ffff:0.0.0.0]:0", true),
        ("[fe80::1]:0", false),
        ("[ff02::1]:0", false),
        ("224.0.0.1:0", false),
        ("255.255.255.255:0", false),
        ("[::ffff:255.255.255.255]:0", false),
    ] {
        let text = format!("admin.bind = \"off\"\n{}", text(&format!("\"{bind}\""), &backend));
        let Ok(parsed) = config::parse(&text, "t", &|_| None) else {
            assert!(!is_accepted, "{bind}");
            continue;
        };
        assert!(is_accepted, "{bind}");
        let balancer = Balancer::start(parsed).await.unwrap_or_else(|error| panic!("{bind}: {error:?}"));
        let (_, at) = balancer.listeners()[0];
        let at = match at.ip() {
            ip if ip == Ipv6Addr::UNSPECIFIED => (Ipv6Addr::LOCALHOST, at.port()).into(),
            ip if ip == Ipv4Addr::UNSPECIFIED => (Ipv4Addr::LOCALHOST, at.port()).into(),
            _ => at,
        };
        assert_eq!(exchange(at, b"?").await.unwrap(), b"here", "{bind}");
        balancer.kill().await;
    }
}

/// In the list of sessions as in rules and headers.
#[tokio::test]
async fn an_ipv4_client_has_the_same_address_on_ipv4_and_ipv6_sockets() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let backend = Backend::echo().await;
    let rig = Rig::start(&text("\"[::]:0\"", &backend)).await;
    for ip in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
        let front = SocketAddr::new(ip.ip(), rig.front().port());
        let mut client = tokio::net::TcpStream::connect(front).await.unwrap();
        client.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        let own = client.local_addr().unwrap().to_string();
        let list = crate::support::get(rig.admin(), "/api/v1/sessions").await.unwrap().1;
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        let session = &list["sessions"][0];
        assert_eq!((&session["client"], &session["peer"]), (&own.as_str().into(), &own.as_str().into()), "{list}");
        drop(client);
        rig.until_no_sessions().await;
    }
    rig.stop().await;
}
