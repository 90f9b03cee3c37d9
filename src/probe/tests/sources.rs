//! From where probes come: the pool's `source`, in each family; and the header that names it.

use std::net::IpAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::config::ProxyVersion;

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The peer of the first probe, and the bytes that it sent.
async fn seen(listener: &TcpListener, check: Check) -> (SocketAddr, Vec<u8>) {
    let prober = Prober::new();
    let (_subscription, _reports) = subscribe(&prober, listener.local_addr().unwrap(), &check);
    let (mut stream, peer) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut bytes = Vec::new();
    // A reset is an end here.
    drop(timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap());
    (peer, bytes)
}

#[tokio::test]
async fn the_first_source_of_the_backends_family_that_can_be_used() {
    let (v4, v6) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("[::1]:0").await.unwrap());
    let from = |sources: &[&str]| Check { sources: ips(sources), ..rare(CheckKind::Tcp) };
    for (listener, sources, expected) in [
        (&v4, &["127.0.0.2"][..], "127.0.0.2"),
        (&v4, &["::1", "127.0.0.3"], "127.0.0.3"),
        // An address for documentation, which no host has.
        (&v4, &["192.0.2.9", "127.0.0.4", "127.0.0.5"], "127.0.0.4"),
        (&v6, &["127.0.0.2", "::1"], "::1"),
        (&v4, &[], "127.0.0.1"),
    ] {
        let (peer, _) = seen(listener, from(sources)).await;
        assert_eq!(peer.ip().to_string(), expected, "{sources:?}");
    }
}

#[tokio::test]
async fn without_a_source_that_can_be_used_nobody_is_blamed() {
    let backend = Backend::silent().await;
    for sources in [&["192.0.2.9"][..], &["::1"]] {
        let prober = Prober::new();
        let check = Check { sources: ips(sources), ..check(CheckKind::Tcp) };
        let (_subscription, mut reports) = subscribe(&prober, backend.address, &check);
        eventually("it is counted", || prober.stats().local_errors >= 2).await;
        assert!(reports.try_recv().is_err());
    }
    assert_eq!(backend.accepted(), 0);
}

#[tokio::test]
async fn version_1_names_the_probes_own_addresses() {
    for (bind, word) in [("127.0.0.1:0", "TCP4"), ("[::1]:0", "TCP6")] {
        let listener = TcpListener::bind(bind).await.unwrap();
        let here = listener.local_addr().unwrap();
        let check = Check { send_proxy: Some(ProxyVersion::V1), ..rare(CheckKind::Tcp) };
        let (peer, bytes) = seen(&listener, check).await;
        let line = format!("PROXY {word} {} {} {} {}\r\n", peer.ip(), here.ip(), peer.port(), here.port());
        assert_eq!(String::from_utf8(bytes).unwrap(), line);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sources = ips(&["127.0.0.2"]);
    let check = Check { send_proxy: Some(ProxyVersion::V1), sources, ..rare(CheckKind::Tcp) };
    let (_, bytes) = seen(&listener, check).await;
    assert!(bytes.starts_with(b"PROXY TCP4 127.0.0.2 127.0.0.1 "), "{:?}", bytes.escape_ascii().to_string());
}
