use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use tokio::sync::Notify;

use std::time::Duration;

use super::*;
use crate::pool::Bytes;

/// A connection: our end, and the peer's.
pub(super) fn pair() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    (Socket::new(ours.into()), peer)
}

/// The same, the peer's end first; its event loop knows that it is ready.
pub(super) async fn connection() -> (tokio::net::TcpStream, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (peer, Socket::new(ours.into()))
}

/// Writes until the peer's way is full; how much was taken.
fn fill(peer: &mut TcpStream) -> usize {
    let mut taken = 0;
    while let Ok(n) = peer.write(&[7; 65_536]) {
        taken += n;
    }
    taken
}

fn relay_context() -> RelayContext {
    RelayContext::new(4, Arc::default(), None)
}

fn terms() -> Terms {
    let limits = Rc::new(Cell::new(Limits::new(None, None, None)));
    Terms { mode: Mode::Copy, limits, early: Vec::new(), before: None, throttles: None }
}

pub(super) async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[test]
fn limits_that_are_not_written() {
    let hour = Some(Duration::from_secs(3_600));
    let second = Some(Duration::from_secs(1));
    let told = |limits: Limits| (limits.idle, limits.for_backend, limits.for_client);
    assert_eq!(told(Limits::new(hour, None, None)), (hour, hour, Some(Duration::from_secs(30))));
    assert_eq!(told(Limits::new(second, None, None)), (second, second, Some(Duration::from_secs(30))));
    assert_eq!(told(Limits::new(hour, second, None)), (hour, second, second));
    assert_eq!(told(Limits::new(None, None, None)), (None, None, Some(Duration::from_secs(30))));
}

/// However much the source sends, one read is all that is kept; an idle flow keeps nothing.
#[tokio::test]
async fn a_flow_keeps_one_read_at_most() {
    let ((source, mut sends), (target, mut takes)) = (pair(), pair());
    let (relay_context, mut flow) = (relay_context(), Flow::new(DirectionState::new(Mode::Copy), Vec::new()));
    let (mut sent, mut moved, mut idle_limits) = (0, 0, 0);
    while idle_limits < 20 {
        let more = fill(&mut sends);
        let (n, _) = poll_fn(|cx| Poll::Ready(flow.turn(cx, (Side::Client, &source, &target), &relay_context))).await;
        idle_limits = if more == 0 && n == 0 { idle_limits + 1 } else { 0 };
        (sent, moved) = (sent + more as u64, moved + n);
        a_moment().await;
    }
    assert!(sent > moved);
    assert!((1..=64 * 1024).contains(&flow.kept_bytes()), "{}", flow.kept_bytes());

    let mut arrived = 0;
    let mut buffer = vec![0; 1 << 20];
    while arrived < sent {
        arrived += takes.read(&mut buffer).unwrap_or(0) as u64;
        let (n, _) = poll_fn(|cx| Poll::Ready(flow.turn(cx, (Side::Client, &source, &target), &relay_context))).await;
        moved += n;
        tokio::task::yield_now().await;
    }
    assert_eq!((arrived, moved), (sent, sent));
    assert_eq!(flow.kept_bytes(), 0);
    assert!(!flow.holds_a_buffer());
}

/// A worker keeps a bounded stock of buffers.
#[test]
fn the_stock_is_bounded() {
    let scratch = Scratch::new();
    let many: Vec<_> = (0..500).map(|_| scratch.keep(&[1; 100])).collect();
    for kept in many {
        scratch.put_back(kept);
    }
    assert_eq!(scratch.stock_size(), 64);
    // What comes out of the stock belongs to no session.
    assert_eq!(scratch.keep(&[2; 3]).rest(), [2; 3]);
}

/// Told to end while bytes wait: it ends, and says which side has been sent FIN.
#[tokio::test]
async fn a_cut_while_bytes_wait() {
    let ((mut client, mut client_peer), (mut backend, backend_peer)) = (pair(), pair());
    let (relay_context, bytes, told) = (relay_context(), Bytes::new(1).cell(0), Notify::new());
    backend_peer.shutdown(std::net::Shutdown::Write).unwrap();
    let cell = bytes.clone();
    let running = relay([&mut client, &mut backend], &relay_context, terms(), cell, &|_| (), Box::pin(told.notified()));
    let tell = async {
        for _ in 0..50 {
            fill(&mut client_peer);
            a_moment().await;
        }
        told.notify_one();
    };
    let (done, ()) = tokio::join!(running, tell);
    assert!(matches!(done.end, End::Forced(())));
    assert!(done.finished_client && !done.finished_backend);
    assert!(bytes.of_session(Direction::ToBackend) > 0 && bytes.of_session(Direction::ToClient) == 0);
}

/// Each side breaks, one after the other, while bytes wait both ways: one end, named after the first.
#[tokio::test]
async fn both_sides_break_while_bytes_wait() {
    let ((mut client, mut client_peer), (mut backend, mut backend_peer)) = (pair(), pair());
    let (relay_context, bytes) = (relay_context(), Bytes::new(1).cell(0));
    let running =
        relay([&mut client, &mut backend], &relay_context, terms(), bytes, &|_| (), std::future::pending::<()>());
    let act = async {
        for _ in 0..50 {
            fill(&mut client_peer);
            fill(&mut backend_peer);
            a_moment().await;
        }
        socket2::SockRef::from(&client_peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client_peer);
        for _ in 0..20 {
            a_moment().await;
        }
        drop(backend_peer);
    };
    let (done, ()) = tokio::join!(running, act);
    assert!(matches!(done.end, End::Broken(Side::Client, _)), "{:?}", done.end);
    assert!(!done.finished_client && !done.finished_backend);
}
