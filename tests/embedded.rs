//! The balancer as a library: what remains after it was killed or dropped, or did not start.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use evenkeel::{Balancer, config, metrics::Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::support::{Backend, Rig, exchange, free_port_of, get, session, soon, until, until_refused};

/// Of the test's own runtime.
fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// A connection to the admin listener that could ask again.
async fn onlooker(admin: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(soon("an answer", stream.read(&mut [0; 1024])).await.unwrap() > 0);
    stream
}

async fn assert_reset(stream: &mut TcpStream) {
    let error = soon("the end of a session", stream.read(&mut [0; 64])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_killed_balancer_has_no_sessions_and_its_state_can_be_read() {
    let backend = Backend::echo().await;
    let rig = Rig::with_backends(&[&backend.address().to_string()], "").await;
    let mut live = session(rig.front()).await;
    soon("the kill", rig.balancer().kill()).await;
    assert_eq!(rig.balancer().state().sessions(), 0);
    assert_eq!(rig.ended(Outcome::Killed), 1);
    assert_reset(&mut live).await;
    until_refused(rig.front()).await;
    assert_eq!(get(rig.admin(), "/ready").await.unwrap(), (503, "stopping\n".to_owned()));
    rig.until_no_sessions().await;
    rig.stop().await;
}

#[tokio::test]
async fn a_dropped_balancer_leaves_no_socket_and_no_task() {
    let backend = Backend::echo().await;
    let before = tasks();
    let rig = Rig::with_backends(&[&backend.address().to_string()], "").await;
    let (front, admin) = (rig.front(), rig.admin());
    let (mut live, mut looking) = (session(front).await, onlooker(admin).await);
    drop(rig);
    assert_reset(&mut live).await;
    assert_eq!(soon("the admin side's end", looking.read(&mut [0; 64])).await.unwrap(), 0);
    until_refused(front).await;
    until_refused(admin).await;
    until("every task has ended", || async { (tasks() == before).then_some(()) }).await;
}

#[tokio::test]
async fn a_shut_down_balancer_leaves_no_socket_and_no_task() {
    let backend = Backend::echo().await;
    let before = tasks();
    let rig = Rig::with_backends(&[&backend.address().to_string()], "").await;
    let (front, admin) = (rig.front(), rig.admin());
    assert_eq!(exchange(front, b"hello").await.unwrap(), b"hello");
    let mut looking = onlooker(admin).await;
    soon("the shutdown", rig.stop()).await;
    until_refused(front).await;
    until_refused(admin).await;
    assert_eq!(soon("the admin side's end", looking.read(&mut [0; 64])).await.unwrap(), 0);
    until("every task has ended", || async { (tasks() == before).then_some(()) }).await;
}

/// A stop right after the start: no connected client is lost.
#[tokio::test]
async fn a_stop_right_after_the_start_serves_connected_clients() {
    let backend = Backend::echo().await;
    for _ in 0..20 {
        let rig = Rig::with_backends(&[&backend.address().to_string()], "check.kind = \"none\"").await;
        let mut client = std::net::TcpStream::connect(rig.front()).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        soon("the shutdown", rig.stop()).await;
        // Served or refused for want of a backend, but by a balancer that knows of it: FIN.
        client.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        assert_eq!(std::io::Read::read(&mut client, &mut [0; 64]).unwrap(), 0);
    }
}

#[tokio::test]
async fn a_start_that_fails_leaves_nothing_behind() {
    let before = tasks();
    let (admin, first) = (free_port_of([127, 77, 1, 1]), free_port_of([127, 77, 1, 2]));
    let taken = TcpListener::bind("127.77.1.3:0").unwrap();
    let text = |admin: SocketAddr, second: SocketAddr, more: &str| {
        let text = format!(
            "[admin]\nbind = \"{admin}\"\n[listeners.a]\nbind = \"{first}\"\npool = \"p\"\n\
             [listeners.b]\nbind = \"{second}\"\npool = \"p\"\n{more}\n[pools.p]\nbackends = [\"127.0.0.1:1\"]\n"
        );
        config::parse(&text, "test.toml", &|_| None).unwrap()
    };
    let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
    let free = "127.77.1.4:0".parse().unwrap();
    for config in [text(admin, taken.1, ""), text(taken.1, free, ""), text(admin, free, "max_connections = 1000000000")]
    {
        Balancer::start(config).await.unwrap_err();
        assert_eq!(tasks(), before);
        for address in [admin, first] {
            until("the port is free", || async { TcpListener::bind(address).ok() }).await;
        }
    }
}
