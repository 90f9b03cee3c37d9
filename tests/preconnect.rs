//! `preconnect`: connections that are there before their sessions are.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::support::{Backend, Rig, exchange, until};

/// No probes: every connection that the backend sees is a session's, or waits for one.
const THREE: &str = "preconnect = 3\ncheck = { kind = \"none\" }\n";

fn series(name: &str, id: &str) -> String {
    format!("{name}{{pool=\"back\",backend=\"{id}\"}}")
}

/// The kernel has completed them before the backend's task counts them. One too many, and it never is the number.
async fn until_connections(backend: &Backend, count: usize) {
    until(&format!("{count} connections"), || async { (backend.connections() == count).then_some(()) }).await;
}

#[tokio::test]
async fn a_session_takes_a_preconnection_and_it_is_replaced() {
    let backend = Backend::echo().await;
    let id = backend.address().to_string();
    let rig = Rig::with_backends(&[&id], THREE).await;
    rig.until_metric(&series("evenkeel_backend_preconnected", &id), 3.0).await;
    until_connections(&backend, 3).await;

    for round in 1..=20_usize {
        assert_eq!(exchange(rig.front(), b"ping").await.unwrap(), b"ping");
        rig.until_metric(&series("evenkeel_backend_preconnected", &id), 3.0).await;
        until_connections(&backend, 3 + round).await;
    }
    let used = rig.metric(&series("evenkeel_backend_preconnects_used_total", &id)).await;
    // The worker that a session lands on may just be replacing its last one: then the session dials by itself.
    assert!(used >= 15.0, "{used}");
    rig.until_no_sessions().await;
    rig.stop().await;
}

#[tokio::test]
async fn a_closed_preconnection_is_replaced_before_a_session_gets_it() {
    let (close, closed) = watch::channel(0_u32);
    let waiting = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&waiting);
    let backend = Backend::serving(move |mut stream| {
        let (mut closed, counted) = (closed.clone(), Arc::clone(&counted));
        async move {
            let generation = *closed.borrow();
            counted.fetch_add(1, SeqCst);
            let mut byte = [0];
            tokio::select! {
                () = async { let _ = closed.wait_for(|now| *now != generation).await.map(drop); } => {}
                read = stream.read_exact(&mut byte) => {
                    if read.is_ok() {
                        let _ = stream.write_all(&byte).await;
                        let _ = stream.read(&mut byte).await;
                    }
                }
            }
        }
    })
    .await;
    let id = backend.address().to_string();
    let rig = Rig::with_backends(&[&id], THREE).await;
    for generation in 1..=5 {
        rig.until_metric(&series("evenkeel_backend_preconnected", &id), 3.0).await;
        let opened = rig.metric(&series("evenkeel_backend_preconnects_opened_total", &id)).await;
        // The backend may see a connection later than the balancer does.
        until("all wait for it", || async { (waiting.load(SeqCst) as f64 >= opened).then_some(()) }).await;
        close.send(generation).unwrap();
        until("they are replaced", || async {
            let now = rig.metric(&series("evenkeel_backend_preconnects_opened_total", &id)).await;
            (now >= opened + 3.0).then_some(())
        })
        .await;
        assert_eq!(exchange(rig.front(), b"x").await.unwrap(), b"x");
    }
}

#[tokio::test]
async fn no_preconnection_is_given_to_two_sessions() {
    let peers = Arc::new(Mutex::new(Vec::<SocketAddr>::new()));
    let kept = Arc::clone(&peers);
    let backend = Backend::serving(move |mut stream| {
        let kept = Arc::clone(&kept);
        async move {
            let mut request = [0; 8];
            if stream.read_exact(&mut request).await.is_ok() {
                kept.lock().unwrap().push(stream.peer_addr().unwrap());
                let _ = stream.write_all(&request).await;
                // No bytes of another session may follow.
                assert_eq!(stream.read(&mut request).await.unwrap_or(0), 0);
            }
        }
    })
    .await;
    let id = backend.address().to_string();
    let rig = Rig::with_backends(&[&id], "preconnect = 16\ncheck = { kind = \"none\" }\n").await;
    rig.until_metric(&series("evenkeel_backend_preconnected", &id), 16.0).await;
    let mut sessions = tokio::task::JoinSet::new();
    for number in 0..200_u64 {
        let front = rig.front();
        sessions.spawn(async move {
            assert_eq!(exchange(front, &number.to_be_bytes()).await.unwrap(), number.to_be_bytes());
        });
    }
    while let Some(result) = sessions.join_next().await {
        result.unwrap();
    }
    let mut seen = peers.lock().unwrap().clone();
    assert_eq!(seen.len(), 200);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 200);
    assert!(rig.metric(&series("evenkeel_backend_preconnects_used_total", &id)).await >= 16.0);
}

#[tokio::test]
async fn a_backend_that_is_gone_keeps_no_preconnections() {
    let backend = Backend::echo().await;
    let id = backend.address().to_string();
    let rig = Rig::with_backends(&[&id], THREE).await;
    rig.until_metric(&series("evenkeel_backend_preconnected", &id), 3.0).await;
    backend.stop().await;
    rig.until_metric(&series("evenkeel_backend_preconnected", &id), 0.0).await;
    assert_eq!(exchange(rig.front(), b"").await.unwrap(), b"", "refused in the ordinary way");
}
