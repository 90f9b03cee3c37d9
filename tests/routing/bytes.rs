//! What was read of a client reaches its backend, all of it and once, whatever stands between.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::support::MODES;

/// Bytes that differ everywhere.
fn noise(count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(11);
    (0..count).map(|_| random.u8(..)).collect()
}

/// Sends in pieces, then FIN; everything has to come back from an echo.
async fn comes_back(rig: &Rig, pieces: &[&[u8]], what: &str) {
    let stream = connect(rig).await;
    let (mut read, mut write) = stream.into_split();
    let whole = pieces.concat();
    let mut back = Vec::new();
    let send = async {
        for piece in pieces {
            write.write_all(piece).await.unwrap();
            // So that they are different segments, mostly.
            tokio::task::yield_now().await;
        }
        write.shutdown().await.unwrap();
    };
    soon(what, async { tokio::join!(send, read.read_to_end(&mut back)).1.unwrap() }).await;
    assert!(back == whole, "{what}: {} of {} bytes", back.len(), whole.len());
}

#[tokio::test]
async fn a_hello_in_any_pieces_and_what_follows_it_in_every_relay() {
    for &(mode, relay) in MODES {
        let (echo, other) = (Backend::echo().await, Backend::answering("other").await);
        let pools = [pool("echo", &echo, relay), pool("other", &other, relay)];
        let rig = routed("pool = \"other\"\nroutes = [{ sni = \"a.example\", pool = \"echo\" }]", &pools).await;
        let (hello, rest) = (hello("a.example"), noise(300_000));
        comes_back(&rig, &[&hello], &format!("{mode}: a hello")).await;
        comes_back(&rig, &[&hello, &rest], &format!("{mode}: a hello and more")).await;
        comes_back(&rig, &[&[&hello[..], &rest[..]].concat()], &format!("{mode}: in one piece")).await;
        let bytes: Vec<&[u8]> = hello.chunks(1).collect();
        comes_back(&rig, &[&bytes[..], &[&rest]].concat(), &format!("{mode}: byte by byte")).await;
        // A hello of several KiB, as post-quantum ones are, in two records.
        let large = Shape::named("a.example").with(51, noise(6_000));
        let records = shape::records(&large.message(), 1_000);
        comes_back(&rig, &[&records[..3], &records[3..1_100], &records[1_100..], &rest], &format!("{mode}: large"))
            .await;
        rig.until_no_sessions().await;
        rig.stop().await;
    }
}

/// A trusted proxy in front, and pools that are told of the client, that keep its bytes, and that have connections ready.
#[tokio::test]
async fn behind_headers_with_replay_and_with_connections_that_are_kept() {
    for &(mode, relay) in MODES {
        let echo = Backend::echo().await;
        for (what, more) in [
            ("replay", "replay = \"until_response\""),
            ("preconnect", "preconnect = 2"),
            ("hedge", "connect.hedge = \"1ms\""),
            ("fast open", ""),
        ] {
            let pools = [pool("echo", &echo, &format!("{relay}\n{more}"))];
            let listener = "routes = [{ sni = \"a.example\", pool = \"echo\" }]\ntcp.fast_open = true\n\
                accept_proxy = { from = [\"127.0.0.1\"], required = false }";
            let rig = routed(listener, &pools).await;
            let (hello, rest) = (hello("a.example"), noise(100_000));
            comes_back(&rig, &[&hello, &rest], &format!("{mode}, {what}")).await;
            // With the header, cut where it hurts: the hello begins in the same segment.
            let header = b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n";
            let begin = [&header[..], &hello[..7]].concat();
            let mut stream = connect(&rig).await;
            say(&mut stream, &begin).await;
            say(&mut stream, &hello[7..]).await;
            say(&mut stream, &rest).await;
            stream.shutdown().await.unwrap();
            let mut back = Vec::new();
            soon("everything", stream.read_to_end(&mut back)).await.unwrap();
            assert!(back == [&hello[..], &rest].concat(), "{mode}, {what}: {} bytes", back.len());
            rig.until_no_sessions().await;
            rig.stop().await;
        }
    }
}

/// The route is by the client that a header names.
#[tokio::test]
async fn networks_are_those_of_the_client_that_a_header_names() {
    let (near, far) = (Backend::answering("near").await, Backend::answering("far").await);
    let pools = [pool("near", &near, ""), pool("far", &far, "")];
    let listener = "pool = \"far\"\nroutes = [{ from = \"192.0.2.0/24\", pool = \"near\" }]\n\
        accept_proxy = { from = [\"127.0.0.1\"], required = false }";
    let rig = routed(listener, &pools).await;
    assert_eq!(answer(&rig, b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n?").await, "near");
    assert_eq!(answer(&rig, b"PROXY TCP4 192.0.3.1 198.51.100.2 4711 443\r\n?").await, "far");
    assert_eq!(answer(&rig, b"?").await, "far");
    rig.stop().await;
}

/// Version 2 of the header: its typed values, and how many bytes it has.
fn values(bytes: &[u8]) -> (Vec<(u8, Vec<u8>)>, usize) {
    assert_eq!(&bytes[..12], b"\r\n\r\n\0\r\nQUIT\n");
    let length = 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    // IPv4 addresses are first.
    let (mut values, mut rest) = (Vec::new(), &bytes[16 + 12..length]);
    while let [kind, high, low, more @ ..] = rest {
        let size = usize::from(u16::from_be_bytes([*high, *low]));
        values.push((*kind, more[..size].to_vec()));
        rest = &more[size..];
    }
    (values, length)
}

#[tokio::test]
async fn a_backend_is_told_the_name_and_the_protocol() {
    const ALPN: u8 = 1;
    const AUTHORITY: u8 = 2;
    let echo = Backend::echo().await;
    let listener = "routes = [{ tls = true, pool = \"echo\" }, { tls = false, pool = \"echo\" }]\n\
        accept_proxy = { from = [\"127.0.0.1\"], required = false }";
    for (send, has_authority, has_alpn) in [
        ("send_proxy = \"v2\"", true, true),
        ("send_proxy = { version = \"v2\", authority = false }", false, true),
        ("send_proxy = { version = \"v2\", tlvs = false }", true, false),
    ] {
        let rig = routed(listener, &[pool("echo", &echo, send)]).await;
        let hello = Shape::named("a.example").alpn(&[b"h2", b"http/1.1"]).bytes();
        let told = async |bytes: &[u8], sent: &[u8]| {
            let mut stream = connect(&rig).await;
            say(&mut stream, bytes).await;
            stream.shutdown().await.unwrap();
            let mut back = Vec::new();
            soon("everything", stream.read_to_end(&mut back)).await.unwrap();
            let (values, length) = values(&back);
            assert!(&back[length..] == sent, "{send}");
            let of = |kind: u8| values.iter().find(|(one, _)| *one == kind).map(|(_, value)| value.clone());
            (of(AUTHORITY), of(ALPN))
        };
        let wanted = (has_authority.then(|| b"a.example".to_vec()), has_alpn.then(|| b"h2".to_vec()));
        assert_eq!(told(&hello, &hello).await, wanted, "{send}");
        assert_eq!(told(b"GET /", b"GET /").await, (None, None), "{send}");
        // What a proxy in front says counts more.
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
        let block = [&[192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x67, 0x01, 0xbb][..], b"\x02\0\x05other", b"\x01\0\x02h3"]
            .concat();
        header.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
        header.extend(block);
        let wanted = (has_authority.then(|| b"other".to_vec()), has_alpn.then(|| b"h3".to_vec()));
        assert_eq!(told(&[&header[..], &hello].concat(), &hello).await, wanted, "{send}");
        rig.stop().await;
    }
    // Version 1 has the addresses alone.
    let rig = routed(listener, &[pool("echo", &echo, "send_proxy = \"v1\"")]).await;
    let mut stream = connect(&rig).await;
    let hello = hello("a.example");
    say(&mut stream, &hello).await;
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    soon("everything", stream.read_to_end(&mut back)).await.unwrap();
    assert!(back.starts_with(b"PROXY TCP4 127.0.0.1 ") && back.ends_with(&[b"\r\n", &hello[..]].concat()));
    rig.stop().await;
}
