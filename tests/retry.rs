//! Connecting: clients do not notice a backend that does not answer while another one does.

use std::time::{Duration, Instant};

use evenkeel::metrics::Outcome;
use tokio::net::TcpStream;

use crate::support::{Backend, Blackhole, Last, Rig, exchange, free_port, last, soon, until};

/// A pool without probes, so that only connects by sessions find out; `fall` keeps ejection out of the way.
async fn rig(backends: &[&str], connect: &str) -> Rig {
    let more = format!("check = {{ kind = \"none\", fall = 100 }}\nconnect = {{ {connect} }}\n");
    Rig::with_backends(backends, &more).await
}

#[tokio::test]
async fn a_refusal_is_not_noticed() {
    let (dead, backend) = (free_port().to_string(), Backend::answering("here").await);
    let alive = backend.address().to_string();
    let rig = rig(&[&dead, &alive], "retry_delay = \"10s\"").await;
    for _ in 0..20 {
        assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"here");
    }
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 20);
    assert_eq!(
        (rig.backend_metric("connect_attempts_total", &alive).await, rig.connect_failures(&alive, "refused").await),
        (20.0, 0.0)
    );
    let tried = rig.backend_metric("connect_attempts_total", &dead).await;
    assert!(tried >= 10.0, "it had its turns: {tried}");
    assert_eq!(rig.connect_failures(&dead, "refused").await, tried);
    rig.stop().await;
}

/// All are tried once before any is tried twice, and `attempts` is the bound.
#[tokio::test]
async fn untried_backends_come_first() {
    let dead: Vec<String> = (0..4).map(|_| free_port().to_string()).collect();
    let backends: Vec<&str> = dead.iter().map(String::as_str).collect();
    let rig = rig(&backends, "attempts = 6, retry_delay = \"1ms\"").await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    assert_eq!(soon("a refusal", last(&mut client)).await, Last::Fin);
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::ConnectFailed), 1);
    let mut tried = Vec::new();
    for backend in &backends {
        tried.push(rig.backend_metric("connect_attempts_total", backend).await);
    }
    assert_eq!(tried.iter().sum::<f64>(), 6.0);
    assert!(tried.iter().all(|&n| n == 1.0 || n == 2.0), "{tried:?}");
    rig.stop().await;
}

/// Also if its turn would come much later: the weight of the dead backend does not decide which one is tried next.
#[tokio::test]
async fn a_dead_backend_with_a_high_weight_is_tried_once_per_session() {
    let (dead, backend) = (free_port(), Backend::answering("here").await);
    let rig = Rig::start(&format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\n\
         backends = [{{ address = \"{dead}\", weight = 100 }}, \"{}\"]\ncheck = {{ kind = \"none\", fall = 100 }}\n\
         connect = {{ attempts = 2, retry_delay = \"10s\" }}\n",
        backend.address()
    ))
    .await;
    for _ in 0..10 {
        assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"here");
    }
    rig.until_no_sessions().await;
    assert_eq!(rig.backend_metric("connect_attempts_total", &backend.address().to_string()).await, 10.0);
    rig.stop().await;
}

/// Without another backend, there is a pause (at least half of it, because of jitter) before the same one is tried again.
#[tokio::test]
async fn the_pause_before_a_second_try() {
    let dead = free_port().to_string();
    let rig = rig(&[&dead], "attempts = 3, retry_delay = \"200ms\"").await;
    let began = Instant::now();
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    assert_eq!(soon("a refusal", last(&mut client)).await, Last::Fin);
    assert!(began.elapsed() >= Duration::from_millis(200), "two pauses of 100 to 200 ms: {:?}", began.elapsed());
    assert_eq!(rig.backend_metric("connect_attempts_total", &dead).await, 3.0);
    rig.stop().await;
}

/// A retry that waits for the budget asks for it many times, and is counted once.
#[tokio::test]
async fn a_retry_that_waits_for_the_budget_is_one() {
    let dead = free_port().to_string();
    let rig = rig(&[&dead], "attempts = 1000, retry_delay = \"1ms\", deadline = \"2s\"").await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    assert_eq!(soon("a refusal", last(&mut client)).await, Last::Fin);
    rig.until_no_sessions().await;
    let (held, tried) = (
        rig.metric("evenkeel_pool_retries_held_total{pool=\"back\"}").await,
        rig.backend_metric("connect_attempts_total", &dead).await,
    );
    // 20 are free at once. The last one waits until the deadline.
    assert!((1.0..=tried - 20.0).contains(&held), "{held} of {tried}");
    rig.stop().await;
}

/// A backend that begins to listen during the pause is found: the client only waited.
#[tokio::test]
async fn a_backend_that_comes_back_is_found() {
    let address = free_port();
    let rig = rig(&[&address.to_string()], "attempts = 1000, retry_delay = \"20ms\", deadline = \"20s\"").await;
    let front = rig.front();
    let client = tokio::spawn(async move { exchange(front, b"?").await });
    let dead = address.to_string();
    until("three attempts", || async {
        (rig.backend_metric("connect_attempts_total", &dead).await >= 3.0).then_some(())
    })
    .await;
    let _backend = Backend::on(address, |mut stream| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut request = Vec::new();
        let _ = stream.read_to_end(&mut request).await;
        let _ = stream.write_all(b"back").await;
    })
    .await;
    assert_eq!(soon("the answer", client).await.unwrap().unwrap(), b"back");
    rig.stop().await;
}

/// The deadline is for all attempts and pauses together.
#[tokio::test]
async fn the_deadline_ends_it() {
    let dead = free_port().to_string();
    let rig = rig(&[&dead], "attempts = 1000, retry_delay = \"50ms\", deadline = \"400ms\"").await;
    let began = Instant::now();
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    assert_eq!(soon("a refusal", last(&mut client)).await, Last::Fin);
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::ConnectFailed), 1);
    let tried = rig.backend_metric("connect_attempts_total", &dead).await;
    assert!((2.0..=17.0).contains(&tried), "{tried} attempts with pauses of 25 ms or more");
    rig.stop().await;
}

#[tokio::test]
async fn a_silent_backend_costs_its_timeout_and_no_more() {
    let (hole, backend) = (Blackhole::new().await, Backend::answering("here").await);
    let (silent, alive) = (hole.address().to_string(), backend.address().to_string());
    let rig = rig(&[&silent, &alive], "timeout = \"300ms\"").await;
    let mut slow = 0;
    for _ in 0..4 {
        let began = Instant::now();
        assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"here");
        slow += usize::from(began.elapsed() >= Duration::from_millis(290));
    }
    assert!((1..=4).contains(&slow));
    assert_eq!(rig.connect_failures(&silent, "timeout").await, slow as f64);
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 4);
    rig.stop().await;
}

/// The deadline also bounds an attempt that has begun.
#[tokio::test]
async fn the_deadline_bounds_a_dial() {
    let hole = Blackhole::new().await;
    let silent = hole.address().to_string();
    let rig = rig(&[&silent], "timeout = \"1h\", deadline = \"300ms\"").await;
    let mut client = TcpStream::connect(rig.front()).await.unwrap();
    assert_eq!(soon("a refusal", last(&mut client)).await, Last::Fin);
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::ConnectFailed), 1);
    assert_eq!(rig.connect_failures(&silent, "timeout").await, 1.0);
    rig.stop().await;
}

/// Bytes that a client sends while its backend is sought are not lost.
#[tokio::test]
async fn bytes_sent_while_connecting_arrive() {
    let (hole, backend) = (Blackhole::new().await, Backend::echo().await);
    let (silent, alive) = (hole.address().to_string(), backend.address().to_string());
    let rig = rig(&[&silent, &alive], "timeout = \"200ms\"").await;
    let request: Vec<u8> = (0..50_000_u32).map(|n| (n % 251) as u8).collect();
    for _ in 0..2 {
        assert_eq!(exchange(rig.front(), &request).await.unwrap(), request);
    }
    rig.stop().await;
}
