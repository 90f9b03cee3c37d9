//! Which sessions are closed first, and how fast.

use std::time::{Duration, Instant};

use evenkeel::metrics::{CloseCause, Outcome};
use tokio::sync::mpsc;

use super::{Scene, Session};
use crate::support::{Last, MODES, last, soon, until};

/// Says its number when the session has been reset.
fn watch(number: usize, session: Session, ends: &mpsc::UnboundedSender<(usize, Instant)>) {
    let ends = ends.clone();
    tokio::spawn(async move {
        let Session { mut client, backend: _backend } = session;
        assert_eq!(last(&mut client).await, Last::Reset);
        let _ = ends.send((number, Instant::now()));
    });
}

#[tokio::test]
async fn idle_longest_first() {
    for &mode in MODES {
        let scene = Scene::new(mode, "close_rate = 2\nclose_deadline = \"1h\"").await;
        let mut sessions = Vec::new();
        for _ in 0..3 {
            sessions.push(scene.session().await);
        }
        // Activity is known to the millisecond.
        for number in [1, 2, 0] {
            tokio::time::sleep(Duration::from_millis(20)).await;
            sessions[number].ping().await;
        }
        let (send, mut ends) = mpsc::unbounded_channel();
        for (number, session) in sessions.into_iter().enumerate() {
            watch(number, session, &send);
        }
        assert_eq!(scene.rig.balancer().state().close(CloseCause::Operator, |_| true), 3);
        let mut order = Vec::new();
        for _ in 0..3 {
            order.push(soon("an end", ends.recv()).await.unwrap().0);
        }
        assert_eq!(order, [1, 2, 0], "{}", mode.0);
        scene.ended(Outcome::Killed, 3).await;
    }
}

/// At one a second it would take half a minute.
#[tokio::test]
async fn after_the_deadline_all_go_at_once() {
    let scene = Scene::new(MODES[0], "on_down = \"close\"\nclose_rate = 1\nclose_deadline = \"1s\"").await;
    let mut sessions = Vec::new();
    for _ in 0..40 {
        sessions.push(scene.session().await);
    }
    let began = Instant::now();
    scene.until_happened(CloseCause::BackendDown).await;
    let (send, mut ends) = mpsc::unbounded_channel();
    for (number, session) in sessions.into_iter().enumerate() {
        watch(number, session, &send);
    }
    let mut before_deadline = 0;
    for _ in 0..40 {
        let (_, at) = soon("an end", ends.recv()).await.unwrap();
        before_deadline += usize::from(at < began + Duration::from_secs(1));
    }
    assert!(before_deadline <= 3, "{before_deadline}");
    assert_eq!(scene.closed(CloseCause::BackendDown), 40);
    scene.ended(Outcome::BackendDown, 40).await;
}

/// An operator chooses some; the others do not notice.
#[tokio::test]
async fn some_sessions_can_be_closed_by_a_command() {
    let scene = Scene::new(MODES[0], "close_rate = 0").await.with_b().await;
    let mut sessions = Vec::new();
    for _ in 0..10 {
        sessions.push(scene.session().await);
    }
    let a = scene.a.local_addr().unwrap();
    let state = scene.rig.balancer().state();
    let of_a = |visit: &evenkeel::proxy::SessionRef<'_>| visit.backend.is_some_and(|(_, address)| address == a);
    assert_eq!(state.close(CloseCause::Operator, of_a), 5);
    for session in &mut sessions {
        if session.backend.local_addr().unwrap() == a {
            assert_eq!(soon("the end", last(&mut session.client)).await, Last::Reset);
        } else {
            session.ping().await;
        }
    }
    until("five are left", || async { (state.workers.list_sessions().len() == 5).then_some(()) }).await;
    assert_eq!((scene.closed(CloseCause::Operator), scene.rig.ended(Outcome::Killed)), (5, 5));
    assert_eq!(state.close(CloseCause::Operator, of_a), 0);
    drop(sessions);
    scene.rig.until_no_sessions().await;
    scene.until_waiting(0.0).await;
    scene.rig.stop().await;
}

/// A stop closes what is left so that the last goes when its time is over, and not before half of it is.
#[tokio::test]
async fn a_stop_spreads_its_closes_over_the_timeout() {
    for (sessions, not_before) in [(100, 1_990), (5, 3_490)] {
        let scene = Scene::new(MODES[0], "close_rate = 10\n[shutdown]\ntimeout = \"4s\"\n").await;
        let (send, mut ends) = mpsc::unbounded_channel();
        for number in 0..sessions {
            watch(number, scene.session().await, &send);
        }
        let began = Instant::now();
        soon("the drain", scene.rig.balancer().drain()).await;
        let mut paced = 0;
        for _ in 0..sessions {
            let after = soon("an end", ends.recv()).await.unwrap().1 - began;
            assert!(after >= Duration::from_millis(not_before), "{after:?}");
            paced += usize::from(after < Duration::from_millis(3_900));
        }
        assert!(paced <= 40, "{paced} in less than two seconds, at ten a second");
        assert_eq!(scene.closed(CloseCause::Shutdown), sessions as u64);
        scene.ended(Outcome::Drained, sessions as u64).await;
    }
}
