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
    let keepalive = |idle| Keepalive { idle: Duration::from_secs(idle), interval: SOON, count: 3 };
    let is_set = |socket: &Socket| SockRef::from(socket.bare()).keepalive().unwrap();
    let young = Young::default();
    let ((lives, _one), (dies, _two), (hurries, _three)) = (socket(), socket(), socket());
    young.add(lives.bare(), keepalive(60));
    young.add(dies.bare(), keepalive(60));
    young.add(hurries.bare(), keepalive(9));
    assert_eq!((is_set(&lives), is_set(&hurries)), (false, true));
    let gone = Rc::downgrade(dies.bare());
    drop(dies);
    assert!(gone.upgrade().is_none());
    young.grow();
    assert!(!is_set(&lives));
    young.grow();
    assert!(is_set(&lives));
    assert_eq!(SockRef::from(lives.bare()).tcp_keepalive_time().unwrap(), Duration::from_secs(60));
    young.grow();
    let left = young.0.borrow();
    assert!(left.new.is_empty() && left.old.is_empty());
}
