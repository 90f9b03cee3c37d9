//! The main job in small: sessions reach backends in turn, bytes come back, counts add up.

use crate::support::{Backend, Rig, exchange, free_port};

#[tokio::test]
async fn sessions_go_round_and_counts_add_up() {
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    let dead = free_port();
    let rig = Rig::with_backends(&[&a.address().to_string(), &b.address().to_string(), &dead.to_string()], "").await;
    rig.until_standing(&dead.to_string(), "down").await;

    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.push(exchange(rig.front(), b"who?").await.unwrap());
    }
    assert_eq!(answers.iter().filter(|answer| *answer == b"a").count(), 5);
    assert_eq!(answers.iter().filter(|answer| *answer == b"b").count(), 5);

    rig.until_no_sessions().await;
    assert_eq!(rig.metric("evenkeel_listener_accepted_total{listener=\"front\"}").await, 10.0);
    assert_eq!(rig.metric("evenkeel_listener_ended_total{listener=\"front\",outcome=\"completed\"}").await, 10.0);
    rig.stop().await;
}
