//! Sessions wait in the pool's queue while all backends are at their cap: in order, within limits, and none is forgotten.

use std::net::SocketAddr;
use std::time::Duration;

use evenkeel::metrics::Outcome;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Backend, Program, Rig, exchange, free_port, get, get_json, reset, soon, until};

const QUEUED: &str = "evenkeel_pool_queued_sessions{pool=\"back\"}";
const ROOMY: &str = "queue = { max_length = 100, timeout = \"1m\" }";

/// One backend that takes one session, and a queue.
async fn rig(backend: &Backend, more: &str) -> Rig {
    let more = format!("backend_max_sessions = 1\ncheck = {{ kind = \"none\" }}\n{more}");
    Rig::with_backends(&[&backend.address().to_string()], &more).await
}

/// A client that has said something.
async fn client(front: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(front).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    stream
}

/// It gets its answer.
async fn is_served(client: &mut TcpStream) {
    assert_eq!(soon("an answer", client.read_u8()).await.unwrap(), b'x');
}

/// It is closed without a byte; with a reset if its bytes were not read.
async fn is_refused(mut client: TcpStream) {
    let end = soon("a refusal", client.read(&mut [0; 8])).await;
    assert!(matches!(&end, Ok(0)) || end.is_err(), "{end:?}");
}

#[tokio::test]
async fn the_queue_serves_clients_in_order() {
    let backend = Backend::echo().await;
    let rig = rig(&backend, ROOMY).await;
    let mut serving = client(rig.front()).await;
    is_served(&mut serving).await;
    let mut waiting = Vec::new();
    for n in 1..=5 {
        waiting.push(client(rig.front()).await);
        rig.until_metric(QUEUED, f64::from(n)).await;
    }
    let sessions: Value = get_json(rig.admin(), "/api/v1/sessions?phase=queued").await;
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 5, "{sessions}");
    let pools = rig.pools().await;
    assert_eq!((&pools["pools"][0]["queued"], &pools["pools"][0]["sessions"]), (&5.into(), &1.into()));

    for left in (0..5_u32).rev() {
        drop(serving);
        serving = waiting.remove(0);
        is_served(&mut serving).await;
        assert_eq!(backend.connections() as u32, 6 - left);
        assert_eq!(rig.metric(QUEUED).await, f64::from(left));
        for other in &waiting {
            assert!(other.try_read(&mut [0]).is_err(), "only the first is served");
        }
    }
    drop(serving);
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 6);
    assert_eq!(rig.metric("evenkeel_pool_queue_seconds_count{pool=\"back\"}").await, 5.0);
    rig.stop().await;
}

#[tokio::test]
async fn a_full_queue_refuses() {
    let backend = Backend::echo().await;
    let rig = rig(&backend, "queue = { max_length = 1, timeout = \"1m\" }").await;
    let mut serving = client(rig.front()).await;
    is_served(&mut serving).await;
    let mut waiting = client(rig.front()).await;
    rig.until_metric(QUEUED, 1.0).await;
    is_refused(client(rig.front()).await).await;
    // A client that has sent nothing gets a normal close.
    assert_eq!(exchange(rig.front(), b"").await.unwrap(), b"");
    drop(serving);
    is_served(&mut waiting).await;
    drop(waiting);
    rig.until_no_sessions().await;
    assert_eq!((rig.ended(Outcome::QueueFull), rig.ended(Outcome::Completed)), (2, 2));
    rig.stop().await;
}

/// Without a queue, a session that finds no room is refused at once.
#[tokio::test]
async fn without_a_queue_nobody_waits() {
    let backend = Backend::echo().await;
    let rig = rig(&backend, "").await;
    let mut serving = client(rig.front()).await;
    is_served(&mut serving).await;
    is_refused(client(rig.front()).await).await;
    drop(serving);
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::NoBackend), 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_waits_too_long_is_refused() {
    let backend = Backend::echo().await;
    let rig = rig(&backend, "queue = { max_length = 9, timeout = \"50ms\" }").await;
    let mut serving = client(rig.front()).await;
    is_served(&mut serving).await;
    is_refused(client(rig.front()).await).await;
    assert_eq!(rig.metric(QUEUED).await, 0.0);
    drop(serving);
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::QueueTimeout), 1);
    // Its place is free: the next one is served at once.
    let mut next = client(rig.front()).await;
    is_served(&mut next).await;
    drop(next);
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_resets_leaves_the_queue() {
    let backend = Backend::echo().await;
    let rig = rig(&backend, ROOMY).await;
    let mut serving = client(rig.front()).await;
    is_served(&mut serving).await;
    let gone = client(rig.front()).await;
    rig.until_metric(QUEUED, 1.0).await;
    let mut stays = client(rig.front()).await;
    rig.until_metric(QUEUED, 2.0).await;
    reset(gone);
    rig.until_metric(QUEUED, 1.0).await;
    drop(serving);
    is_served(&mut stays).await;
    drop(stays);
    rig.until_no_sessions().await;
    assert_eq!((rig.ended(Outcome::ClientGone), backend.connections()), (1, 2));
    rig.stop().await;
}

/// The time in the queue is not the connect's.
#[tokio::test]
async fn the_deadline_of_the_connect_begins_after_the_wait() {
    let backend = Backend::echo().await;
    let rig = rig(&backend, &format!("connect = {{ timeout = \"5s\", deadline = \"10ms\" }}\n{ROOMY}")).await;
    let mut serving = client(rig.front()).await;
    is_served(&mut serving).await;
    let mut waiting = client(rig.front()).await;
    rig.until_metric(QUEUED, 1.0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(serving);
    is_served(&mut waiting).await;
    drop(waiting);
    rig.stop().await;
}

/// A raised cap, a new backend and one that comes up serve those that wait.
#[tokio::test]
async fn a_reload_that_makes_room_serves_waiting_clients() {
    let (one, two) = (Backend::echo().await, Backend::echo().await);
    let config = |backends: &[&Backend], cap: u32| {
        let backends: Vec<_> = backends.iter().map(|backend| backend.address().to_string()).collect();
        format!(
            "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\nbackends = {backends:?}\n\
             check = {{ kind = \"none\" }}\nbackend_max_sessions = {cap}\n{ROOMY}\n"
        )
    };
    let rig = Rig::start(&config(&[&one], 1)).await;
    let mut clients = Vec::new();
    for n in 0..4 {
        clients.push(client(rig.front()).await);
        rig.until_metric(QUEUED, f64::from(n)).await;
    }
    rig.reload(&config(&[&one], 2)).await.unwrap();
    is_served(&mut clients[1]).await;
    assert_eq!(rig.metric(QUEUED).await, 2.0);
    rig.reload(&config(&[&one, &two], 2)).await.unwrap();
    is_served(&mut clients[2]).await;
    is_served(&mut clients[3]).await;
    assert_eq!((one.connections(), two.connections()), (2, 2));
    drop(clients);
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// With `when_all_down = "wait"` a session waits until a backend is up; without it, it is refused as ever.
#[tokio::test]
async fn sessions_wait_for_a_pool_that_is_down() {
    let address = free_port();
    let fast = "check = { interval = \"50ms\", fast_interval = \"20ms\", rise = 1 }";
    let more = format!("{fast}\nwhen_all_down = \"wait\"\n{ROOMY}");
    let rig = Rig::with_backends(&[&address.to_string()], &more).await;
    rig.until_standing(&address.to_string(), "down").await;
    let mut waiting = client(rig.front()).await;
    rig.until_metric(QUEUED, 1.0).await;
    let status: Value = get_json(rig.admin(), "/api/v1/status").await;
    assert_eq!((&status["pools"][0]["queued"], &status["pools"][0]["when_all_down"]), (&1.into(), &"wait".into()));
    let _backend = Backend::on(address, |mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    is_served(&mut waiting).await;
    drop(waiting);
    rig.until_no_sessions().await;
    rig.stop().await;

    let rig = Rig::with_backends(&[&free_port().to_string()], &format!("{fast}\n{ROOMY}")).await;
    rig.until_metric("evenkeel_pool_all_down{pool=\"back\"}", 1.0).await;
    is_refused(client(rig.front()).await).await;
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::NoBackend), 1);
    rig.stop().await;
}

/// Many more clients than places, on all workers: the cap is never exceeded, and each client gets an answer.
#[tokio::test]
async fn many_clients_at_once_are_served() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (Arc::clone(&now), Arc::clone(&most));
    let backend = Backend::serving(move |mut stream| {
        let (now, most) = (Arc::clone(&counted), Arc::clone(&highest));
        async move {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            let byte = stream.read_u8().await.unwrap();
            // Before it ends: the next one may come as soon as this one has.
            now.fetch_sub(1, SeqCst);
            stream.write_all(&[byte]).await.unwrap();
        }
    })
    .await;
    let rig = Rig::start(&format!(
        "workers = 2\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\nbackends = [\"{}\"]\n\
         check = {{ kind = \"none\" }}\nbackend_max_sessions = 3\n{ROOMY}\n",
        backend.address()
    ))
    .await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..60_u8 {
        let front = rig.front();
        tasks.spawn(async move {
            for round in 0..5 {
                let byte = [n.wrapping_add(round)];
                assert_eq!(exchange(front, &byte).await.unwrap(), byte);
            }
        });
    }
    soon("the crowd", async {
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
    })
    .await;
    rig.until_no_sessions().await;
    assert_eq!((rig.ended(Outcome::Completed), rig.metric(QUEUED).await), (300, 0.0));
    assert!(most.load(SeqCst) <= 3, "{most:?}");
    rig.stop().await;
}

/// A stop serves waiting sessions, ends those that get no place within its time, and the log says how long they waited.
#[tokio::test]
async fn a_stop_waits_for_queued_clients() {
    let backend = Backend::echo().await;
    let mut program = Program::start(
        &format!(
            "shutdown.timeout = \"1s\"\nadmin.bind = \"127.0.0.1:0\"\n\
             [listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\nbackends = [\"{}\"]\n\
             check = {{ kind = \"none\" }}\nbackend_max_sessions = 1\n{ROOMY}\n",
            backend.address()
        ),
        &[],
    );
    let (front, admin) = (program.front("front").await, program.admin().await);
    let queued = async |wanted: &str| {
        until(wanted, || async { get(admin, "/metrics").await.unwrap().1.contains(wanted).then_some(()) }).await;
    };
    let mut serving = client(front).await;
    is_served(&mut serving).await;
    let mut second = client(front).await;
    queued(&format!("{QUEUED} 1\n")).await;
    let third = client(front).await;
    queued(&format!("{QUEUED} 2\n")).await;
    program.signal(rustix::process::Signal::TERM);
    drop(serving);
    is_served(&mut second).await;
    is_refused(third).await;
    assert!(program.end().await.success());
    let log = program.log();
    let ends: Vec<_> = log.iter().filter(|line| line.contains("session ended")).collect();
    assert_eq!(ends.len(), 3, "{log:#?}");
    assert!(!ends[0].contains("queued_ms"), "{ends:#?}");
    for end in &ends[1..] {
        assert!(end.contains("outcome=\"drained\"") && end.contains(" queued_ms="), "{ends:#?}");
    }
    assert_eq!(ends[1..].iter().filter(|end| end.contains(" backend=")).count(), 1, "{ends:#?}");
}
