use std::net::{Ipv4Addr, Ipv6Addr};

use std::sync::Arc;

use super::*;
use crate::config;
use crate::config::Listener;

fn parsed(tcp: &str) -> Listener {
    let text = format!(
        "[listeners.a]\nbind = \"127.0.0.1:0\"\npool = \"b\"\ntcp = {tcp}\n[pools.b]\nbackends = [\"127.0.0.1:1\"]\n"
    );
    match config::parse(&text, "test", &|_| None) {
        Ok(config) => config.listeners[0].clone(),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn every_option_reaches_the_kernel_on_both_sides() {
    let settings = parsed(
        "{ nodelay = true, keepalive = { idle = \"70s\", interval = \"7s\", count = 5 }, user_timeout = \"9s\", \
         receive_buffer = \"64KiB\", send_buffer = \"32KiB\", dscp = 46, fast_open = true, defer_accept = \"3s\" }",
    );
    for host in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let fd = listen(SocketAddr::new(host, 0), true, &settings).unwrap();
        let address = local_address(&fd).unwrap();
        let dialled = Socket::connect(address, None, &settings.tcp, false).await.unwrap();
        dialled.tcp_fd().keep_alive(settings.tcp.keepalive.unwrap()).unwrap();
        // `defer_accept` wants to see bytes before it accepts a connection.
        send(dialled.tcp_fd(), b"!", SendFlags::empty()).unwrap();
        let acceptor = Acceptor::new(Arc::new(fd)).unwrap();
        let (accepted, _) = acceptor.readable().await.unwrap().accept().unwrap().unwrap();
        for raw in [dialled.raw(), SockRef::from(&accepted)] {
            assert!(raw.tcp_nodelay().unwrap());
            assert!(raw.keepalive().unwrap());
            assert_eq!(raw.tcp_keepalive_time().unwrap(), Duration::from_secs(70));
            assert_eq!(raw.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
            assert_eq!(raw.tcp_keepalive_retries().unwrap(), 5);
            assert_eq!(raw.tcp_user_timeout().unwrap(), Some(Duration::from_secs(9)));
            // The kernel doubles them, for its own bookkeeping.
            assert_eq!(raw.recv_buffer_size().unwrap(), 128 * 1024);
            assert_eq!(raw.send_buffer_size().unwrap(), 64 * 1024);
            let class = if host.is_ipv4() { raw.tos_v4().unwrap() } else { raw.tclass_v6().unwrap() };
            assert_eq!(class >> 2, 46);
        }
    }
}

#[tokio::test]
async fn a_source_is_bound_and_its_port_is_left_to_connect() {
    let settings = parsed("{}");
    let fd = listen((Ipv4Addr::LOCALHOST, 0).into(), false, &settings).unwrap();
    let address = local_address(&fd).unwrap();
    let source = Ipv4Addr::new(127, 0, 0, 9);
    let dialled = Socket::connect(address, Some(source.into()), &settings.tcp, false).await.unwrap();
    assert_eq!(dialled.raw().local_addr().unwrap().as_socket().unwrap().ip(), source);
}

/// Without the check in `connect`, one of these meets itself sooner or later.
#[tokio::test]
async fn a_connect_never_meets_itself() {
    let fd = listen((Ipv4Addr::LOCALHOST, 0).into(), false, &parsed("{}")).unwrap();
    let address = local_address(&fd).unwrap();
    drop(fd);
    // Bound to the very port that it dials: what the kernel may also choose by itself.
    let raw = Raw::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    raw.set_reuse_address(true).unwrap();
    raw.bind(&address.into()).unwrap();
    raw.connect(&address.into()).unwrap();
    assert!(met_itself(&SockRef::from(&raw), address).unwrap());
}

/// No accept is called: so many wait, and the next is not answered.
#[test]
fn the_backlog_is_as_written() {
    let fd = listen((Ipv4Addr::LOCALHOST, 0).into(), false, &parsed("{ backlog = 3 }")).unwrap();
    let address = local_address(&fd).unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(stream);
        assert!(waiting.len() < 50, "it never gets full");
    }
    assert_eq!(waiting.len(), 3 + 1, "the kernel lets one more in");
}

/// Writes until nothing more goes in for a while; what the other end then has not read.
async fn unread_after(peer: &mut std::net::TcpStream, ours: &TcpFd) -> u32 {
    let mut quiet = 0;
    while quiet < 20 {
        match io::Write::write(peer, &[7; 65_536]) {
            Ok(_) => quiet = 0,
            Err(_) => {
                quiet += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
    option::tcp_view(ours).unwrap().receive_queue
}

#[tokio::test]
async fn what_is_not_read_is_bounded_and_the_bound_grows() {
    const BOUND: u32 = 256 * 1024;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_nonblocking(true).unwrap();
    let ours = Socket::new(listener.accept().unwrap().0.into());
    let fd = ours.tcp_fd();
    assert!(!fd.has_fixed_receive_buffer());
    assert!(fd.bound_received(BOUND));
    let unread = unread_after(&mut peer, fd).await;
    assert!((BOUND / 4..=2 * BOUND).contains(&unread), "{unread}");

    assert!(fd.bound_received(8 * BOUND));
    // The peer hears of it with the next bytes that are read.
    assert_eq!(ours.read_now(&mut [0; 128 * 1024]).unwrap(), Some(128 * 1024));
    let unread = unread_after(&mut peer, fd).await;
    assert!((2 * BOUND + 1..=16 * BOUND).contains(&unread), "{unread}");

    // More than the kernel gives: it tunes by itself again.
    assert!(!fd.bound_received(u32::MAX));
    assert!(!fd.has_fixed_receive_buffer());
    ours.raw().set_recv_buffer_size(100_000).unwrap();
    assert!(fd.has_fixed_receive_buffer());
}
