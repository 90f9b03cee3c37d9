//! Sessions that leave backends with more than their part.

use evenkeel::metrics::{CloseCause, Outcome};
use evenkeel::server::RebalanceView;

use super::{Scene, Session};
use crate::support::{Last, MODES, last, soon, until};

const KEYS: &str = "balance = \"least_connections\"\n\
                    rebalance = { threshold = 10, max_per_second = 50, min_age = \"0s\" }";

impl Scene {
    fn rebalance_view(&self) -> RebalanceView {
        RebalanceView::of(&self.rig.balancer().state().set().pools[0])
    }

    async fn until_rebalanced(&self, sessions: u64) {
        until("they are closed", || async { (self.closed(CloseCause::Rebalance) == sessions).then_some(()) }).await;
    }
}

/// `quiet` sessions that moved a byte earlier than `busy` others, all at `a`.
async fn sessions(scene: &Scene, quiet: usize, busy: usize) -> (Vec<Session>, Vec<Session>) {
    let mut all = Vec::new();
    for _ in 0..quiet + busy {
        all.push(scene.session().await);
    }
    // Activity is known to the millisecond.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let mut busy = all.split_off(quiet);
    for session in &mut busy {
        session.ping().await;
    }
    (all, busy)
}

#[tokio::test]
async fn after_a_scale_out_the_quietest_leave_and_no_more_than_it_takes() {
    let scene = Scene::new(MODES[0], KEYS).await;
    let (quiet, mut busy) = sessions(&scene, 5, 5).await;
    let scene = scene.with_b().await;
    assert_eq!(scene.rebalance_view().plan.moving(), 5);
    scene.until_rebalanced(5).await;
    for mut session in quiet {
        assert_eq!(soon("the end", last(&mut session.client)).await, Last::Reset);
        // It comes back, and is where there is room.
        let mut again = scene.session().await;
        again.ping().await;
        busy.push(again);
    }
    scene.rig.until_metric("evenkeel_pool_rebalancing_sessions{pool=\"back\"}", 0.0).await;
    let view = scene.rebalance_view();
    assert_eq!((view.plan.moving(), view.sessions), (0, vec![5, 5]));
    for mut session in busy {
        session.ping().await;
        session.finish().await;
    }
    assert_eq!(scene.closed(CloseCause::Rebalance), 5);
    scene.all_ended(&[(Outcome::Completed, 10), (Outcome::Rebalanced, 5)]).await;
}

#[tokio::test]
async fn nothing_is_closed_while_a_backend_is_down() {
    let scene = Scene::new(MODES[0], KEYS).await;
    let (mut quiet, busy) = sessions(&scene, 2, 2).await;
    scene.registry.add("web", "c", ([127, 0, 0, 1], 9).into());
    scene.until_happened_to("c", CloseCause::BackendDown).await;
    let scene = scene.with_b().await;
    let view = scene.rebalance_view();
    assert_eq!((view.waits_for, view.plan.moving()), (Some(format!("{} is down", scene.registry.id("c"))), 2));
    for session in &mut quiet {
        session.ping().await;
    }
    assert_eq!(scene.closed(CloseCause::Rebalance), 0);
    assert!(scene.registry.deregister("c"));
    scene.until_rebalanced(2).await;
    // Those that were the quietest now.
    for mut session in busy {
        assert_eq!(soon("the end", last(&mut session.client)).await, Last::Reset);
    }
    for mut session in quiet {
        session.ping().await;
        session.finish().await;
    }
    scene.all_ended(&[(Outcome::Completed, 2), (Outcome::Rebalanced, 2)]).await;
}

/// Without the key it is done once, when an operator says so; the usual rules spare sessions of the last minute.
#[tokio::test]
async fn by_command_it_is_done_once() {
    let scene = Scene::new(MODES[0], "balance = \"least_connections\"").await;
    let (quiet, busy) = sessions(&scene, 2, 2).await;
    let scene = scene.with_b().await;
    let state = scene.rig.balancer().state();
    let pool = &state.set().pools[0];
    assert!(!scene.rebalance_view().is_on);
    state.rebalance(pool);
    scene.rig.until_metric("evenkeel_pool_rebalancing_sessions{pool=\"back\"}", 2.0).await;
    for mut session in quiet.into_iter().chain(busy) {
        session.ping().await;
        session.finish().await;
    }
    scene.rig.until_metric("evenkeel_pool_rebalancing_sessions{pool=\"back\"}", 0.0).await;
    scene.all_ended(&[(Outcome::Completed, 4)]).await;
}
