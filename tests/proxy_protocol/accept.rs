//! Headers that come in, and what a session makes of them.

use super::*;
use crate::support::Program;
use evenkeel::metrics::Outcome;

const TRUST: &str = "from = [\"127.0.0.0/8\"]";
/// The header that the backend gets shows what was understood.
const TOLD: &str = "send_proxy = \"v1\"";

#[tokio::test]
async fn every_kind_of_header_is_understood_and_what_is_behind_it_arrives() {
    let mut desk = Desk::open().await;
    let rig = desk.behind(TRUST, TOLD).await;
    let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1, 0x20, 1, 0xd, 0xb8], &[0; 11], &[2, 0, 80, 0, 81]].concat();
    let named = "PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n";
    for (header, wanted) in [
        (V1.to_vec(), Some(named)),
        (v2(0x21, 0x11, ENDS), Some(named)),
        (v2(0x21, 0x11, &[ENDS, &tlv(0xe0, b"x")].concat()), Some(named)),
        (
            b"PROXY TCP6 2001:db8::1 2001:db8::2 80 81\r\n".to_vec(),
            Some("PROXY TCP6 2001:db8::1 2001:db8::2 80 81\r\n"),
        ),
        (v2(0x21, 0x21, &v6), Some("PROXY TCP6 2001:db8::1 2001:db8::2 80 81\r\n")),
        // Here the connection's own addresses count.
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN ::1 ::2 3 4\r\n".to_vec(), None),
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, ENDS), None),
        (v2(0x21, 0x00, &[]), None),
        (v2(0x21, 0x31, &[b'/'; 216]), None),
    ] {
        let mut client = connect(rig.front()).await;
        let (own, front) = (client.local_addr().unwrap(), rig.front());
        let really = format!("PROXY TCP4 {} {} {} {}\r\n", own.ip(), front.ip(), own.port(), front.port());
        say(&mut client, &[&header[..], b"PROXY hello"].concat()).await;
        let mut backend = desk.next().await;
        assert_eq!(hear_line(&mut backend).await, wanted.unwrap_or(&really), "{}", header.escape_ascii());
        assert_eq!(hear(&mut backend, 11).await, b"PROXY hello");
        say(&mut backend, b"answer").await;
        drop(backend);
        assert_eq!(hear_out(&mut client).await, b"answer");
    }
    rig.until_no_sessions().await;
    assert_eq!(rig.metric(&desk.bytes("to_backend")).await, 11.0 * 11.0, "headers count on neither side");
    assert_eq!(rig.metric(&desk.bytes("to_client")).await, 11.0 * 6.0);
    rig.stop().await;
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let mut desk = Desk::open().await;
    let rig = desk.behind(TRUST, TOLD).await;
    for header in [V1.to_vec(), v2(0x21, 0x11, &[ENDS, &tlv(4, b"pad")].concat())] {
        let mut client = connect(rig.front()).await;
        for byte in header {
            say(&mut client, &[byte]).await;
            tokio::task::yield_now().await;
        }
        let mut backend = desk.next().await;
        assert_eq!(hear_line(&mut backend).await.as_bytes(), V1);
        for byte in b"hello" {
            say(&mut client, &[*byte]).await;
        }
        assert_eq!(hear(&mut backend, 5).await, b"hello");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_long_request_right_behind_a_header_arrives_exactly() {
    let mut desk = Desk::open().await;
    let rig = desk.behind(TRUST, "").await;
    let payload = noise(3_000_000);
    let mut client = connect(rig.front()).await;
    let sent = [&v2(0x21, 0x11, &[ENDS, &tlv(0xe0, &[7; 3_000])].concat())[..], &payload].concat();
    let sending = tokio::spawn(async move {
        say(&mut client, &sent).await;
        client.shutdown().await.unwrap();
        client
    });
    let mut backend = desk.next().await;
    assert!(hear_out(&mut backend).await == payload);
    drop(backend);
    assert_eq!(hear_out(&mut sending.await.unwrap()).await, b"");
    rig.until_no_sessions().await;
    assert_eq!(rig.metric(&desk.bytes("to_backend")).await, payload.len() as f64);
    assert_eq!(rig.ended(Outcome::Completed), 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let mut desk = Desk::open().await;
    let rig = desk.behind(TRUST, TOLD).await;
    let mut client = connect(rig.front()).await;
    say(&mut client, V1).await;
    let mut backend = desk.next().await;
    say(&mut backend, b"220 ready\r\n").await;
    assert_eq!(hear(&mut client, 11).await, b"220 ready\r\n");
    assert_eq!(hear_line(&mut backend).await.as_bytes(), V1);
    say(&mut client, b"QUIT").await;
    assert_eq!(hear(&mut backend, 4).await, b"QUIT");
    rig.stop().await;
}

/// Any client could claim anything, so only a trusted peer's header is looked at.
#[tokio::test]
async fn a_header_of_an_untrusted_peer_is_data() {
    let mut desk = Desk::open().await;
    let rig = desk.behind("from = [\"192.0.2.0/24\", \"::/0\"]\ntimeout = \"1h\"", TOLD).await;
    for sent in [V1.to_vec(), v2(0x21, 0x11, ENDS), b"P".to_vec(), b"GET /".to_vec()] {
        let mut client = connect(rig.front()).await;
        say(&mut client, &sent).await;
        let mut backend = desk.next().await;
        assert!(hear_line(&mut backend).await.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "));
        assert_eq!(hear(&mut backend, sent.len()).await, sent);
    }
    // Nor has it to say anything.
    let mut client = connect(rig.front()).await;
    say(&mut desk.next().await, b"hello").await;
    assert_eq!(hear(&mut client, 5).await, b"hello");
    rig.stop().await;
}

#[tokio::test]
async fn an_optional_header_is_used_where_it_is_and_not_missed_where_it_is_not() {
    let mut desk = Desk::open().await;
    let rig = desk.behind(&format!("{TRUST}\nrequired = false\ntimeout = \"1h\""), TOLD).await;
    for (sent, told, rest) in [
        (&[V1, b"x"].concat()[..], "PROXY TCP4 192.0.2.1 ", &b"x"[..]),
        (b"GET / HTTP/1.1\r\n\r\n", "PROXY TCP4 127.0.0.1 ", b"GET / HTTP/1.1\r\n\r\n"),
        (b"PROXX", "PROXY TCP4 127.0.0.1 ", b"PROXX"),
        (b"\r\n\r\n\0\r\nQUIX", "PROXY TCP4 127.0.0.1 ", b"\r\n\r\n\0\r\nQUIX"),
    ] {
        let mut client = connect(rig.front()).await;
        for byte in sent {
            say(&mut client, &[*byte]).await;
        }
        let mut backend = desk.next().await;
        assert!(hear_line(&mut backend).await.starts_with(told));
        assert_eq!(hear(&mut backend, rest.len()).await, rest);
    }
    // What ends in the middle of a signature was none; what has a whole one was meant as a header.
    for sent in [&b""[..], b"PRO", b"\r\n\r\n\0\r\nQUIT"] {
        let mut client = connect(rig.front()).await;
        say(&mut client, sent).await;
        client.shutdown().await.unwrap();
        let mut backend = desk.next().await;
        hear_line(&mut backend).await;
        assert_eq!(hear_out(&mut backend).await, sent);
        say(&mut backend, b"bye").await;
        drop(backend);
        assert_eq!(hear_out(&mut client).await, b"bye", "half-closed, as without us");
    }
    let before = desk.backend.connections();
    for sent in [&b"PROXY "[..], SIGNATURE, &V1[..30]] {
        let mut client = connect(rig.front()).await;
        say(&mut client, sent).await;
        client.shutdown().await.unwrap();
        is_reset(&mut client).await;
    }
    for sent in [&b"PROXY nonsense\r\n"[..], &v2(0x21, 0x11, &[1]), &v2(0x25, 0x11, &[])] {
        let mut client = connect(rig.front()).await;
        say(&mut client, sent).await;
        is_reset(&mut client).await;
    }
    assert_eq!(desk.backend.connections(), before);
    rig.stop().await;
}

#[tokio::test]
async fn with_an_optional_header_a_silent_client_is_served_in_the_end() {
    let mut desk = Desk::open().await;
    let rig = desk.behind(&format!("{TRUST}\nrequired = false\ntimeout = \"30ms\""), "").await;
    let mut client = connect(rig.front()).await;
    let mut backend = desk.next().await;
    say(&mut backend, b"220 ready\r\n").await;
    assert_eq!(hear(&mut client, 11).await, b"220 ready\r\n");
    let mut client = connect(rig.front()).await;
    say(&mut client, b"PROX").await;
    let mut backend = desk.next().await;
    say(&mut client, b"Y").await;
    assert_eq!(hear(&mut backend, 5).await, b"PROXY");
    rig.stop().await;
}

#[tokio::test]
async fn the_log_names_the_client_the_peer_and_the_id() {
    let mut desk = Desk::open().await;
    let program = Program::start(
        &format!(
            "admin.bind = \"127.0.0.1:0\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
             accept_proxy = {{ from = \"127.0.0.1\" }}\n[pools.back]\nbackends = [\"{}\"]\ncheck = {{ kind = \"none\" }}\n",
            desk.backend.address()
        ),
        &[],
    );
    let mut client = connect(program.front("front").await).await;
    let peer = client.local_addr().unwrap();
    say(&mut client, &v2(0x21, 0x11, &[ENDS, &tlv(5, b"id-\"1\xff")].concat())).await;
    drop(desk.next().await);
    hear_out(&mut client).await;
    drop(client);
    let line = program.until_says("session ended").await;
    assert!(line.contains("client=192.0.2.1:4711 "), "{line}");
    assert!(line.contains(&format!("peer={peer} ")), "{line}");
    assert!(line.contains("id-"), "{line}");
    assert!(line.contains("\\xff"), "printable: {line}");
}
