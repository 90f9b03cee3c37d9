//! An agent that hangs or has no leader shows as failing within 15 s, at the times of the product, and no longer when it is back.

use backend_demo::registry::Fault;

use crate::support::{Backend, Registry, Rig, until};

const FAILING: &str = "evenkeel_discovery_failing{pool=\"back\",source=\"consul\"}";

async fn waiting(consul: &str) -> (Registry, Rig, Backend) {
    let registry = Registry::new().await;
    let backend = Backend::answering("a").await;
    registry.add("web", "a", backend.address());
    let rig = registry.rig(consul, "").await;
    rig.until_standing(&registry.id("a"), "up").await;
    until("a question waits", || async { (registry.waiting() == 1).then_some(()) }).await;
    (registry, rig, backend)
}

fn reason(reason: &str) -> String {
    format!("evenkeel_discovery_errors_total{{pool=\"back\",source=\"consul\",reason=\"{reason}\"}}")
}

#[tokio::test]
async fn an_agent_that_hangs_shows_and_its_return_is_found_at_once() {
    let (registry, rig, _backend) = waiting("").await;
    registry.inject(Some(Fault::Hang));
    rig.until_metric(FAILING, 1.0).await;
    assert!(rig.metric(&reason("timeout")).await >= 1.0);
    registry.inject(None);
    rig.until_metric(FAILING, 0.0).await;
    until("a question waits", || async { (registry.waiting() == 1).then_some(()) }).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_missing_leader_shows_while_the_question_that_waits_is_not_told() {
    let (registry, rig, _backend) = waiting("").await;
    registry.inject(Some(Fault::NoLeader));
    rig.until_metric(FAILING, 1.0).await;
    assert_eq!(rig.metric(&reason("no_leader")).await, 1.0);
    registry.inject(None);
    rig.until_metric(FAILING, 0.0).await;
    rig.stop().await;
    // Any server answers stale reads.
    let (registry, rig, backend) = waiting(", consistency = \"stale\"").await;
    registry.inject(Some(Fault::NoLeader));
    let asked = registry.requests();
    until("the leader is asked for", || async { (registry.requests() >= asked + 3).then_some(()) }).await;
    assert_eq!((rig.metric(FAILING).await, rig.metric(&reason("no_leader")).await), (0.0, 0.0));
    registry.add("web", "b", backend.address());
    rig.until_standing(&registry.id("b"), "up").await;
    rig.stop().await;
}

/// A first event must not be lost for `rate()`: what can go wrong is there before it has.
#[tokio::test]
async fn every_reason_has_a_series_from_the_start() {
    let (_registry, rig, _backend) = waiting("").await;
    let metrics = rig.metrics().await;
    let reasons = metrics.lines().filter(|line| line.starts_with("evenkeel_discovery_errors_total{")).count();
    assert_eq!(reasons, 16);
    for kind in ["connect", "timeout", "no_leader", "invalid", "resolve", "server_error"] {
        assert!(metrics.contains(&format!("{} 0\n", reason(kind))), "{kind}");
    }
    rig.stop().await;
}
