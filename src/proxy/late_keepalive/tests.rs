use std::net::{Ipv4Addr, TcpListener, TcpStream};

use socket2::SockRef;

use super::*;
use crate::proxy::socket::Socket;

fn socket() -> (Socket, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (Socket::new(listener.accept().unwrap().0.into()), peer)
}

#[test]
fn who_lives_long_enough_is_kept_alive_and_nobody_is_kept_open() {
    let keepalive = |idle| Keepalive { idle: Duration::from_secs(idle), interval: IMMEDIATE_BELOW, count: 3 };
    let is_set = |socket: &Socket| SockRef::from(socket.tcp_fd()).keepalive().unwrap();
    let late_keepalive = LateKeepalive::default();
    let ((lives, _one), (dies, _two), (hurries, _three)) = (socket(), socket(), socket());
    late_keepalive.add(lives.tcp_fd(), keepalive(60));
    late_keepalive.add(dies.tcp_fd(), keepalive(60));
    late_keepalive.add(hurries.tcp_fd(), keepalive(9));
    assert_eq!((is_set(&lives), is_set(&hurries)), (false, true));
    let gone = Rc::downgrade(dies.tcp_fd());
    drop(dies);
    assert!(gone.upgrade().is_none());
    late_keepalive.advance();
    assert!(!is_set(&lives));
    late_keepalive.advance();
    assert!(is_set(&lives));
    let time = SockRef::from(lives.tcp_fd()).tcp_keepalive_time().unwrap();
    assert!((45..=60).contains(&time.as_secs()), "{time:?}");
    late_keepalive.advance();
    let left = late_keepalive.0.borrow();
    assert!(left.new.is_empty() && left.old.is_empty());
}

/// As the kernel has them: no two neighbours ask together, however many there are, and none later than is written.
#[test]
fn sockets_ask_at_times_of_their_own() {
    let keepalive = Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 };
    let late_keepalive = LateKeepalive::default();
    let sockets: Vec<_> = (0..64).map(|_| socket()).collect();
    sockets.iter().for_each(|(socket, _)| late_keepalive.add(socket.tcp_fd(), keepalive));
    late_keepalive.advance();
    late_keepalive.advance();
    let mut times = Vec::new();
    for (socket, _) in &sockets {
        let raw = SockRef::from(socket.tcp_fd());
        let (idle, interval) =
            (raw.tcp_keepalive_time().unwrap().as_secs(), raw.tcp_keepalive_interval().unwrap().as_secs());
        assert!((45..=60).contains(&idle) && (5..=10).contains(&interval), "{idle} {interval}");
        assert_eq!(raw.tcp_keepalive_retries().unwrap(), 6);
        times.push((idle, interval));
    }
    let most_alike = |value: fn(&(u64, u64)) -> u64| {
        let of = |wanted| times.iter().filter(|time| value(time) == wanted).count();
        (0..=60).map(of).max().unwrap()
    };
    assert!(most_alike(|time| time.0) <= 64 / 6, "{times:?}");
    assert!(most_alike(|time| time.1) <= 64 / 3, "{times:?}");
}

/// Whatever is written: within what the kernel takes, and evenly.
#[test]
fn times_are_spread_evenly() {
    for (idle, interval) in [(1, 1), (2, 3), (9, 1), (60, 10), (32_767, 32_767)] {
        let (idle, interval) = (Duration::from_secs(idle), Duration::from_secs(interval));
        let keepalive = Keepalive { idle, interval, count: 3 };
        let many: Vec<_> = (0..10_000).map(|number| spread(keepalive, number)).collect();
        for one in &many {
            assert!(one.idle >= idle * 3 / 4 && one.idle <= idle && one.idle.as_secs() >= 1, "{one:?}");
            assert!(one.interval >= interval / 2 && one.interval <= interval && one.interval.as_secs() >= 1, "{one:?}");
            assert_eq!(one.count, 3);
        }
    }
    let keepalive = Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 };
    for from in [0, 100_000] {
        for idle in 45..=60 {
            let like = (from..from + 9_400).filter(|&n| spread(keepalive, n).idle.as_secs() == idle).count();
            assert!((500..700).contains(&like), "{like} of 9,400 at {idle} s");
        }
    }
}
