//! `connect.retry_budget`: a dead pool is not hammered, and a pool that works never fails a session for it.

use evenkeel::metrics::Outcome;
use tokio::task::JoinSet;

use super::NO_HEALTH;
use crate::support::{Backend, Rig, exchange, free_port, soon, until};

async fn retries(rig: &Rig) -> f64 {
    rig.metric("evenkeel_pool_retries_total{pool=\"back\"}").await
}

async fn held(rig: &Rig) -> f64 {
    rig.metric("evenkeel_pool_retries_held_total{pool=\"back\"}").await
}

#[tokio::test]
async fn retries_of_a_dead_pool_are_few() {
    let dead = free_port().to_string();
    let more = format!("connect = {{ attempts = 1000, retry_delay = \"1ms\", deadline = \"1s\" }}\n{NO_HEALTH}");
    let rig = Rig::with_backends(&[&dead], &more).await;
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        let front = rig.front();
        clients.spawn(async move { exchange(front, b"").await });
    }
    while soon("refusals", clients.join_next()).await.is_some() {}
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::ConnectFailed), 50);
    // 20 at once and 10 a second, for as long as this machine takes for a deadline of a second.
    let made = retries(&rig).await;
    assert!((10.0..=220.0).contains(&made), "{made}; without a budget they would be tens of thousands");
    assert_eq!(rig.backend_metric("connect_attempts_total", &dead).await, 50.0 + made);
    assert!(held(&rig).await >= 50.0);
    rig.stop().await;
}

/// One of three is dead, and stays in the pool: its sessions go elsewhere, all of them.
#[tokio::test]
async fn one_of_three_dead_fails_no_session() {
    let (one, other) = (Backend::answering("here").await, Backend::answering("here").await);
    let dead = free_port().to_string();
    let backends = [one.address().to_string(), dead.clone(), other.address().to_string()];
    let rig = Rig::with_backends(&backends.each_ref().map(String::as_str), NO_HEALTH).await;
    for _ in 0..10 {
        let mut clients = JoinSet::new();
        for _ in 0..60 {
            let front = rig.front();
            clients.spawn(async move { assert_eq!(exchange(front, b"?").await.unwrap(), b"here") });
        }
        while let Some(result) = clients.join_next().await {
            result.unwrap();
        }
    }
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 600);
    assert_eq!(retries(&rig).await, rig.backend_metric("connect_attempts_total", &dead).await);
    rig.stop().await;
}

/// The only backend is restarted while many clients come: within the deadline each of them is served, although the budget
/// holds most of their retries back.
#[tokio::test]
async fn a_restart_of_the_only_backend_is_not_noticed() {
    let address = free_port();
    let more = format!("connect = {{ attempts = 1000, retry_delay = \"20ms\", deadline = \"20s\" }}\n{NO_HEALTH}");
    let rig = Rig::with_backends(&[&address.to_string()], &more).await;
    let mut clients = JoinSet::new();
    for _ in 0..60 {
        let front = rig.front();
        clients.spawn(async move { exchange(front, b"?").await });
    }
    until("retries wait", || async { (held(&rig).await >= 60.0).then_some(()) }).await;
    let _backend = Backend::on(address, |mut stream| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut request = Vec::new();
        let _ = stream.read_to_end(&mut request).await;
        let _ = stream.write_all(b"back").await;
    })
    .await;
    while let Some(answer) = soon("the answers", clients.join_next()).await {
        assert_eq!(answer.unwrap().unwrap(), b"back");
    }
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 60);
    rig.stop().await;
}
