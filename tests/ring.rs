//! `relay = "io_uring"` in the whole program: many sessions on few buffers, and nothing left behind.

mod forbidden;

use std::net::SocketAddr;
use std::time::Duration;

use evenkeel::metrics::{Direction, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::{Backend, Rig, has_io_uring, reset, soon, until};

/// A balancer with one worker, and so one ring.
async fn rig(backend: SocketAddr, more: &str) -> Rig {
    Rig::start(&format!(
        "workers = 1\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\n\
         [pools.back]\nbackends = [\"{backend}\"]\nrelay = \"io_uring\"\ncheck = {{ kind = \"none\" }}\n{more}"
    ))
    .await
}

/// There are 256 buffers.
#[tokio::test]
async fn two_thousand_sessions_share_the_buffers_of_the_ring() {
    if !has_io_uring() {
        return;
    }
    const SESSIONS: usize = 2_000;
    let backend = Backend::echo().await;
    let rig = rig(backend.address(), "").await;
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        clients.push(TcpStream::connect(rig.front()).await.unwrap());
        // Its queue of connections to be accepted must not run over.
        if clients.len() % 100 == 0 {
            until("accepted", || async { (backend.connections() == clients.len()).then_some(()) }).await;
        }
    }
    let mut answer = vec![0; 3_000];
    for round in 0..3 {
        let message = vec![round; 3_000];
        for client in &mut clients {
            soon("writing", client.write_all(&message)).await.unwrap();
        }
        for client in &mut clients {
            if let Err(error) = soon("reading", client.read_exact(&mut answer)).await {
                let ended = Outcome::ALL.iter().filter(|&&outcome| rig.ended(outcome) > 0).collect::<Vec<_>>();
                panic!("round {round}: {error}; sessions ended as {ended:?}");
            }
            assert!(answer == message);
        }
    }
    let on_ring = || async { (rig.balancer().state().workers.rings() == (SESSIONS, 0)).then_some(()) };
    until("all on the ring, no buffer in use", on_ring).await;
    for client in &mut clients {
        client.shutdown().await.unwrap();
        assert_eq!(soon("FIN", client.read(&mut answer)).await.unwrap(), 0);
    }
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), SESSIONS as u64);
    assert_eq!(rig.balancer().state().set().pools[0].bytes(Direction::ToClient), 3 * 3_000 * SESSIONS as u64);
    rig.stop().await;
}

/// Clients that leave in every way, a drain that ends in a cut, and the rest killed.
#[tokio::test]
async fn a_storm_and_a_kill_leave_nothing() {
    if !has_io_uring() {
        return;
    }
    let backend = Backend::echo().await;
    let rig = rig(backend.address(), "timeouts = { idle = \"2s\" }\n").await;
    let mut storm = JoinSet::new();
    for number in 0..400_u64 {
        let front = rig.front();
        storm.spawn(async move {
            let mut random = fastrand::Rng::with_seed(number);
            let mut client = TcpStream::connect(front).await.unwrap();
            for _ in 0..random.u8(..6) {
                let size = random.usize(1..40_000);
                // A client that does not read stalls, and then leaves.
                let _ = tokio::time::timeout(Duration::from_millis(50), client.write_all(&vec![1; size])).await;
                if random.bool() {
                    let mut some = vec![0; size];
                    let _ = tokio::time::timeout(Duration::from_millis(20), client.read(&mut some)).await;
                }
            }
            match random.u8(..4) {
                0 => reset(client),
                1 => drop(client),
                2 => {
                    let _ = client.shutdown().await;
                    let mut rest = Vec::new();
                    let _ = client.read_to_end(&mut rest).await;
                }
                _ => return Some(client),
            }
            None
        });
    }
    let mut left = Vec::new();
    while let Some(client) = soon("the storm", storm.join_next()).await {
        left.extend(client.unwrap());
    }
    assert!(!left.is_empty());
    rig.balancer().kill().await;
    rig.until_no_sessions().await;
    drop(left);
    rig.stop().await;
}
