//! HAProxy and nginx in front and behind: they must understand us and we them.

use super::peers::{find, haproxy, nginx};
use super::*;
use crate::support::{exchange, get, until};
use evenkeel::metrics::Outcome;

const TRUST: &str = "from = [\"127.0.0.1\"]";

/// A connect tested whether the peer listens. It may have become a session, which may have ended at any moment.
async fn next_that_speaks(desk: &mut Desk) -> TcpStream {
    loop {
        let backend = desk.next().await;
        if soon("a byte or an end", backend.peek(&mut [0])).await.is_ok_and(|count| count > 0) {
            return backend;
        }
    }
}

#[tokio::test]
async fn haproxy_in_front() {
    let Some(program) = find("haproxy") else { return };
    for options in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c",
        "send-proxy-v2 proxy-v2-options unique-id,crc32c",
    ] {
        let mut desk = Desk::open().await;
        let rig = desk.behind(TRUST, "send_proxy = \"v2\"").await;
        let section = format!(
            "listen front\n mode tcp\n bind ADDRESS\n unique-id-format id-%ci-%cp\n server evenkeel {} {options}",
            rig.front()
        );
        let front = haproxy(&program, &section).await;
        let mut client = connect(front.address).await;
        let own = client.local_addr().unwrap();
        say(&mut client, b"hello").await;
        let ports = [own.port().to_be_bytes(), front.address.port().to_be_bytes()].concat();
        let wanted = [&[127, 0, 0, 1, 127, 0, 0, 1], &ports[..]].concat();
        let (mut backend, tlvs) = loop {
            let mut backend = next_that_speaks(&mut desk).await;
            let (kind, addresses, tlvs) = hear_v2(&mut backend).await;
            assert_eq!(kind, [0x21, 0x11], "{options}");
            if addresses == wanted {
                break (backend, tlvs);
            }
        };
        assert_eq!(hear(&mut backend, 5).await, b"hello");
        if options.contains("unique-id") {
            assert_eq!(tlvs, [(5, format!("id-127.0.0.1-{}", own.port()).into_bytes())]);
        }
        say(&mut backend, b"answer").await;
        drop(backend);
        assert_eq!(hear_out(&mut client).await, b"answer");
        rig.stop().await;
    }
}

/// Its health checks are LOCAL or UNKNOWN, and none of them may be refused.
#[tokio::test]
async fn haproxy_in_front_sees_us_up() {
    let Some(program) = find("haproxy") else { return };
    for options in ["send-proxy", "send-proxy-v2"] {
        let backend = Backend::answering("ok").await;
        let more = format!("check = {{ kind = \"none\" }}\n[listeners.front.accept_proxy]\n{TRUST}\n{STOP}");
        let rig = Rig::with_backends(&[&backend.address().to_string()], &more).await;
        let server = format!("server evenkeel {} {options} check inter 20ms", rig.front());
        let front = haproxy(&program, &format!("listen front\n mode tcp\n bind ADDRESS\n {server}")).await;
        until("checks", || async { (backend.connections() >= 3).then_some(()) }).await;
        assert_eq!(exchange(front.address, b"x").await.unwrap(), b"ok");
        assert_eq!(rig.ended(Outcome::Refused), 0);
        rig.stop().await;
    }
}

#[tokio::test]
async fn haproxy_behind() {
    let Some(program) = find("haproxy") else { return };
    let text = "%[src]:%[src_port] %[dst]:%[dst_port] id=%[fc_pp_unique_id] authority=%[fc_pp_authority]";
    let section = format!(
        "frontend back\n mode http\n bind ADDRESS accept-proxy\n \
         http-request return status 200 content-type text/plain lf-string \"{text}\""
    );
    let back = haproxy(&program, &section).await;
    for send in ["\"v1\"", "\"v2\"", "{ version = \"v2\", crc32c = true, authority = \"a.example\" }"] {
        // Its probes have to be understood, too.
        let check = "check = { kind = \"http\", fast_interval = \"20ms\" }";
        let rig =
            Rig::with_backends(&[&back.address.to_string()], &format!("{check}\nsend_proxy = {send}\n{STOP}")).await;
        rig.until_standing(&back.address.to_string(), "up").await;
        let mut client = connect(rig.front()).await;
        let own = client.local_addr().unwrap();
        say(&mut client, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let answer = String::from_utf8(hear_out(&mut client).await).unwrap();
        assert!(answer.contains(&format!("{own} {} ", rig.front())), "{send}: {answer}");
        if send != "\"v1\"" {
            let id = answer.split_once("id=").unwrap().1.split(' ').next().unwrap();
            assert!(id.len() > 16, "{answer}");
        }
        if send.contains("a.example") {
            assert!(answer.contains("authority=a.example"), "{answer}");
        }
        rig.stop().await;
    }
    // And nothing but a header is what it wants.
    assert!(get(back.address, "/").await.is_err());
}

#[tokio::test]
async fn nginx_in_front() {
    let Some(program) = find("nginx") else { return };
    let mut desk = Desk::open().await;
    let rig = desk.behind(TRUST, "send_proxy = \"v1\"").await;
    let server = format!("listen ADDRESS; proxy_pass {}; proxy_protocol on;", rig.front());
    let front = nginx(&program, &server).await;
    let mut client = connect(front.address).await;
    let own = client.local_addr().unwrap();
    say(&mut client, b"hello").await;
    let wanted = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", own.port(), front.address.port());
    let mut backend = loop {
        let mut backend = next_that_speaks(&mut desk).await;
        if hear_line(&mut backend).await == wanted {
            break backend;
        }
    };
    assert_eq!(hear(&mut backend, 5).await, b"hello");
    rig.stop().await;
}

#[tokio::test]
async fn nginx_behind() {
    let Some(program) = find("nginx") else { return };
    let variables = "$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port";
    let back = nginx(&program, &format!("listen ADDRESS proxy_protocol; return \"{variables}\";")).await;
    for send in ["\"v1\"", "\"v2\"", "{ version = \"v2\", crc32c = true, authority = \"a.example\" }"] {
        // A header that is understood gets an answer, also one without addresses.
        let check = "check = { kind = \"script\", steps = [{ expect = \":\" }], fast_interval = \"20ms\" }";
        let rig =
            Rig::with_backends(&[&back.address.to_string()], &format!("{check}\nsend_proxy = {send}\n{STOP}")).await;
        rig.until_standing(&back.address.to_string(), "up").await;
        let mut client = connect(rig.front()).await;
        let own = client.local_addr().unwrap();
        let answer = String::from_utf8(hear_out(&mut client).await).unwrap();
        assert_eq!(answer, format!("{own} {}", rig.front()), "{send}");
        rig.stop().await;
    }
}
