//! Headers that go out, from sessions and from probes.

use super::*;
use crate::support::{Program, free_port, until};
use evenkeel::metrics::Outcome;

#[tokio::test]
async fn version_1_tells_the_addresses() {
    let mut desk = Desk::open().await;
    let rig = desk.behind("", "send_proxy = \"v1\"").await;
    let mut client = connect(rig.front()).await;
    let (own, front) = (client.local_addr().unwrap(), rig.front());
    // Also a server that speaks first has it before anything is said.
    let mut backend = desk.next().await;
    let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", own.port(), front.port());
    assert_eq!(hear_line(&mut backend).await, line);
    say(&mut client, b"hello").await;
    assert_eq!(hear(&mut backend, 5).await, b"hello");
    client.shutdown().await.unwrap();
    assert_eq!(hear_out(&mut backend).await, b"");
    drop(backend);
    hear_out(&mut client).await;
    rig.until_no_sessions().await;
    assert_eq!(rig.metric(&desk.bytes("to_backend")).await, 5.0, "the header does not count");
    rig.stop().await;
}

#[tokio::test]
async fn version_2_tells_the_addresses_and_an_id_that_the_log_has_too() {
    let mut desk = Desk::open().await;
    let program = Program::start(
        &format!(
            "admin.bind = \"127.0.0.1:0\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\n\
             backends = [\"{}\"]\ncheck = {{ kind = \"none\" }}\nsend_proxy = \"v2\"\n",
            desk.backend.address()
        ),
        &[],
    );
    let front = program.front("front").await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let client = connect(front).await;
        let own = client.local_addr().unwrap();
        let mut backend = desk.next().await;
        let (kind, addresses, tlvs) = hear_v2(&mut backend).await;
        assert_eq!(kind, [0x21, 0x11]);
        let ports = [own.port().to_be_bytes(), front.port().to_be_bytes()].concat();
        assert_eq!(addresses, [&[127, 0, 0, 1, 127, 0, 0, 1], &ports[..]].concat());
        let [(0x05, id)] = &tlvs[..] else { panic!("{tlvs:?}") };
        ids.push(String::from_utf8(id.clone()).unwrap());
        drop((client, backend));
    }
    assert_ne!(ids[0], ids[1]);
    for id in ids {
        program.until_says(&format!("unique_id=\"{id}\"")).await;
    }
}

#[tokio::test]
async fn received_values_are_passed_on_as_the_pool_says() {
    let trust = "from = [\"127.0.0.1\"]";
    let received = [
        ENDS,
        &tlv(0x01, b"h2"),
        &tlv(0x02, b"a.example"),
        &tlv(0x04, b"padding"),
        &tlv(0x05, b"theirs"),
        &tlv(0x20, b"\x01\0\0\0\0"),
        &tlv(0xe3, b""),
        &tlv(0xe3, b"again"),
    ]
    .concat();
    type Values<'a> = &'a [(u8, &'a [u8])];
    let cases: [(&str, Values<'_>); 5] = [
        (
            "{ version = \"v2\" }",
            &[(2, b"a.example"), (5, b"theirs"), (1, b"h2"), (0x20, b"\x01\0\0\0\0"), (0xe3, b""), (0xe3, b"again")],
        ),
        ("{ version = \"v2\", tlvs = false }", &[(2, b"a.example"), (5, b"theirs")]),
        ("{ version = \"v2\", tlvs = false, unique_id = false, authority = false }", &[]),
        ("{ version = \"v2\", tlvs = false, authority = \"b.example\" }", &[(2, b"b.example"), (5, b"theirs")]),
        (
            "{ version = \"v2\", unique_id = false, authority = false }",
            &[(1, b"h2"), (0x20, b"\x01\0\0\0\0"), (0xe3, b""), (0xe3, b"again")],
        ),
    ];
    for (send, wanted) in cases {
        let mut desk = Desk::open().await;
        let rig = desk.behind(trust, &format!("send_proxy = {send}")).await;
        let mut client = connect(rig.front()).await;
        say(&mut client, &[&v2(0x21, 0x11, &received)[..], b"rest"].concat()).await;
        let mut backend = desk.next().await;
        let (kind, addresses, tlvs) = hear_v2(&mut backend).await;
        assert_eq!((kind, &addresses[..]), ([0x21, 0x11], ENDS));
        let tlvs: Vec<_> = tlvs.iter().map(|(kind, value)| (*kind, &value[..])).collect();
        assert_eq!(tlvs, wanted, "{send}");
        assert_eq!(hear(&mut backend, 4).await, b"rest");

        // The addresses of a LOCAL header mean nothing.
        let mut client = connect(rig.front()).await;
        say(&mut client, &v2(0x20, 0x11, &received)).await;
        let (kind, addresses, tlvs) = hear_v2(&mut desk.next().await).await;
        assert_eq!((kind, &addresses[..8]), ([0x21, 0x11], &[127, 0, 0, 1, 127, 0, 0, 1][..]));
        assert!(tlvs.iter().all(|(kind, value)| [2, 5].contains(kind) && value != b"theirs" && value != b"a.example"));
        rig.stop().await;
    }
}

#[tokio::test]
async fn an_invalid_id_from_a_proxy_is_replaced() {
    let mut desk = Desk::open().await;
    let rig = desk.behind("from = [\"127.0.0.1\"]", "send_proxy = \"v2\"").await;
    for (given, kept) in [(0, false), (1, true), (128, true), (129, false)] {
        let mut client = connect(rig.front()).await;
        say(&mut client, &v2(0x21, 0x11, &[ENDS, &tlv(5, &vec![b'x'; given])].concat())).await;
        let (_, _, tlvs) = hear_v2(&mut desk.next().await).await;
        let [(5, id)] = &tlvs[..] else { panic!("{tlvs:?}") };
        assert_eq!(*id == vec![b'x'; given], kept, "{given}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_checksum_is_sent_on_request() {
    let mut desk = Desk::open().await;
    let rig = desk.behind("", "send_proxy = { version = \"v2\", unique_id = false, crc32c = true }").await;
    let _client = connect(rig.front()).await;
    let mut header = hear(&mut desk.next().await, 16 + 12 + 7).await;
    assert_eq!(header[28..31], [3, 0, 4]);
    let sum = header.split_off(31);
    header.extend([0; 4]);
    // Bit by bit, unlike the table in the codec.
    let sums = header.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    });
    assert_eq!(sum, (!sums).to_be_bytes());
    rig.stop().await;
}

#[tokio::test]
async fn a_dual_stack_listener_treats_an_ipv4_client_as_ipv4() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let mut desk = Desk::open().await;
    let rig = Rig::start(&format!(
        "[listeners.front]\nbind = \"[::]:0\"\npool = \"back\"\naccept_proxy = {{ from = \"127.0.0.1\" }}\n\
         [pools.back]\nbackends = [\"{}\"]\ncheck = {{ kind = \"none\" }}\nsend_proxy = \"v1\"\n{STOP}",
        desk.backend.address()
    ))
    .await;
    let port = rig.front().port();
    let mut client = connect(([127, 0, 0, 1], port).into()).await;
    say(&mut client, b"PROXY UNKNOWN\r\nx").await;
    let own = client.local_addr().unwrap().port();
    let mut backend = desk.next().await;
    assert_eq!(hear_line(&mut backend).await, format!("PROXY TCP4 127.0.0.1 127.0.0.1 {own} {port}\r\n"));
    assert_eq!(hear(&mut backend, 1).await, b"x", "trusted: its header is none of the data");
    let client = connect((std::net::Ipv6Addr::LOCALHOST, port).into()).await;
    let own = client.local_addr().unwrap().port();
    assert_eq!(hear_line(&mut desk.next().await).await, format!("PROXY TCP6 ::1 ::1 {own} {port}\r\n"));
    rig.stop().await;
}

#[tokio::test]
async fn a_retry_has_the_header_too() {
    let mut desk = Desk::open().await;
    let (dead, live) = (free_port().to_string(), desk.backend.address().to_string());
    let more = "check = { kind = \"none\", fall = 1000 }\nsend_proxy = \"v1\"\nbalance = \"round_robin\"";
    let rig = Rig::with_backends(&[&dead, &live], &format!("{more}\n{STOP}")).await;
    for _ in 0..4 {
        let mut client = connect(rig.front()).await;
        say(&mut client, b"hello").await;
        let mut backend = desk.next().await;
        assert!(hear_line(&mut backend).await.starts_with("PROXY TCP4 127.0.0.1 "));
        assert_eq!(hear(&mut backend, 5).await, b"hello");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_backend_that_resets_upon_the_header_is_a_broken_backend() {
    let mut desk = Desk::open().await;
    let rig = desk.behind("", "send_proxy = \"v2\"").await;
    let mut client = connect(rig.front()).await;
    let mut backend = desk.next().await;
    // Earlier, its reset could be a failed connect, which is tried again.
    hear(&mut backend, 1).await;
    let backend = backend.into_std().unwrap();
    socket2::SockRef::from(&backend).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(backend);
    is_reset(&mut client).await;
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::BackendReset), 1);
    rig.stop().await;
}

/// The first bytes of the first connection, which only a probe can have made.
async fn probed(pool: &str, count: usize) -> Vec<u8> {
    let mut desk = Desk::open().await;
    let rig = Rig::with_backends(&[&desk.backend.address().to_string()], &format!("{pool}\n{STOP}")).await;
    let mut probe = desk.next().await;
    let bytes = if count == 0 {
        let mut bytes = Vec::new();
        let _ = soon("the end of a probe", probe.read_to_end(&mut bytes)).await;
        bytes
    } else {
        hear(&mut probe, count).await
    };
    rig.stop().await;
    bytes
}

/// Version 1 with the probe's own addresses, and what follows it: not every server accepts a header without addresses.
fn is_its_own(bytes: &[u8], rest: &str) -> bool {
    let text = str::from_utf8(bytes).unwrap();
    text.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ")
        && text.split_once("\r\n").is_some_and(|(_, after)| after == rest)
}

#[tokio::test]
async fn probes_begin_with_a_header_that_relays_nobody() {
    let local = v2(0x20, 0x00, &[]);
    let tcp = "check = { kind = \"tcp\" }";
    assert_eq!(probed(tcp, 0).await, b"");
    assert_eq!(probed(&format!("{tcp}\nsend_proxy = \"v2\""), 0).await, local);
    assert!(is_its_own(&probed(&format!("{tcp}\nsend_proxy = \"v1\""), 0).await, ""));
    assert_eq!(probed("check = { send_proxy = false }\nsend_proxy = \"v1\"", 0).await, b"");
    assert_eq!(probed("check = { send_proxy = \"v2\" }", 0).await, local);
    let http = probed("check = { kind = \"http\" }\nsend_proxy = \"v2\"", 16 + 5).await;
    assert_eq!(http, [&local[..], b"GET /"].concat());
    let script = "check = { kind = \"script\", steps = [{ send = \"PING\" }], send_proxy = \"v1\" }";
    assert!(is_its_own(&probed(script, 0).await, "PING"));
}

#[tokio::test]
async fn a_backend_that_insists_on_headers_is_up() {
    let backend = Backend::serving(|mut stream| async move {
        let mut fixed = [0; 16];
        if stream.read_exact(&mut fixed).await.is_err() || !fixed.starts_with(SIGNATURE) {
            return;
        }
        let mut rest = [0; 1024];
        let _ = stream.read(&mut rest).await;
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
    })
    .await;
    let id = backend.address().to_string();
    let check = "check = { kind = \"http\", interval = \"50ms\", fast_interval = \"20ms\", fall = 1";
    let rig = Rig::with_backends(&[&id], &format!("{check} }}\nsend_proxy = \"v2\"")).await;
    rig.until_standing(&id, "up").await;
    rig.stop().await;
    let rig = Rig::with_backends(&[&id], &format!("{check}, send_proxy = false }}\nsend_proxy = \"v2\"")).await;
    let said = rig.until_standing(&id, "down").await;
    until("a reason", || async { said["reason"].as_str().map(str::to_owned) }).await;
    rig.stop().await;
}
