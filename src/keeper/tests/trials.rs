//! Trials: one session at a time goes to an ejected backend, ever more seldom where clients pay for it.

use super::*;
use crate::pool::TrialState;
use crate::standing::Passive;

/// `a` has just been ejected for early ends, which a connect does not disprove.
fn ejected() -> Bench {
    let mut bench = Bench::up(TCP, &["a", "b", "c"]);
    bench.end_early("a", 3);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    bench
}

#[test]
fn a_trial_is_one_session_and_its_success_ends_the_ejection() {
    let mut bench = ejected();
    bench.advance(Duration::from_millis(1_999));
    assert!(bench.trial().is_none(), "too early");
    bench.advance(Duration::from_millis(500));
    let trial = bench.trial().expect("it is time");
    assert_eq!(&*trial.backend().id, "a");
    assert!(bench.trial().is_none(), "one at a time");
    assert!(matches!(bench.pool.trial_of(trial.backend()), TrialState::Running(_)));
    trial.connected(Duration::from_millis(1));
    bench.hear();
    assert_eq!(bench.standing("a"), Standing::Ejected, "that a connect succeeds was known");
    trial.answered(Duration::from_millis(5));
    bench.hear();
    assert_eq!(bench.standing("a"), Standing::Up);
    bench.end_early("a", 2);
    assert_eq!(bench.standing("a"), Standing::Up, "it has proved itself");
}

#[test]
fn a_failed_trial_makes_the_next_one_later() {
    let mut bench = ejected();
    let began = bench.now;
    let mut at = Vec::new();
    while at.len() < 5 {
        bench.advance(Duration::from_millis(100));
        if let Some(trial) = bench.trial() {
            trial.connected(Duration::from_millis(1));
            trial.ended_early(EarlyEnd::Reset);
            bench.hear();
            at.push((bench.now - began).as_secs());
        }
        assert_eq!(bench.standing("a"), Standing::Ejected);
    }
    // 2, 8, and then 30 seconds and up to a fifth more, but never past the middle of the ejection.
    let gaps: Vec<_> = [0].iter().chain(&at).zip(&at).map(|(before, at)| at - before).collect();
    assert!((2..=3).contains(&gaps[0]) && (8..=10).contains(&gaps[1]), "{gaps:?}");
    assert!(gaps[2..].iter().all(|gap| (15..=37).contains(gap)), "{gaps:?}");
    assert_eq!(bench.backend("a").unwrap().stats.trials_failed.load(std::sync::atomic::Ordering::Relaxed), 5);
}

/// What the table of the chaos test asks for: a fault of ten seconds under load costs the sessions of the streak and one
/// trial.
#[test]
fn ten_seconds_of_a_fault_cost_four_sessions() {
    let mut bench = ejected();
    let mut failed = 3;
    for _ in 0..100 {
        bench.advance(Duration::from_millis(100));
        bench.probe("a", true);
        if let Some(trial) = bench.trial() {
            trial.connected(Duration::from_millis(1));
            trial.ended_early(EarlyEnd::Closed);
            bench.hear();
            failed += 1;
        }
        assert_eq!(bench.standing("a"), Standing::Ejected);
    }
    assert_eq!(failed, 4);
}

#[test]
fn where_nobody_pays_trials_go_on() {
    let mut bench = Bench::new(NO_CHECK);
    bench.set(&["a", "b"]);
    bench.fail("a", 3);
    let mut trials = 0;
    for _ in 0..100 {
        bench.advance(Duration::from_millis(100));
        if let Some(trial) = bench.trial() {
            trial.failed(ConnectFailure::Refused);
            bench.hear();
            trials += 1;
        }
    }
    assert!((14..=20).contains(&trials), "{trials} in ten seconds");
    // It is back within a trial of its recovery.
    bench.advance(Duration::from_millis(700));
    bench.trial().expect("it is time").connected(Duration::from_millis(1));
    bench.hear();
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn a_trial_without_a_verdict_is_offered_again() {
    let mut bench = ejected();
    bench.advance(seconds(3));
    for _ in 0..3 {
        let trial = bench.trial().expect("again");
        trial.connected(Duration::from_millis(1));
        assert!(bench.trial().is_none());
    }
    assert_eq!(bench.pool.trial_of(&bench.backend("a").unwrap()), TrialState::Offered);
    assert_eq!(bench.standing("a"), Standing::Ejected);
}

#[test]
fn a_session_that_has_failed_before_is_nobodys_trial() {
    let mut bench = ejected();
    bench.advance(seconds(3));
    let b = bench.backend("b").unwrap();
    for _ in 0..9 {
        assert!(!bench.pool.pick(&PickContext::having_tried(std::slice::from_ref(&b))).unwrap().is_trial());
    }
    assert!(bench.trial().is_some());
}

#[test]
fn a_trial_of_an_earlier_ejection_has_no_say() {
    let mut bench = ejected();
    bench.advance(seconds(3));
    let old = bench.trial().unwrap();
    bench.advance(seconds(10));
    assert_eq!(bench.standing("a"), Standing::Up, "its time is over");
    bench.end_early("a", 1);
    bench.advance(seconds(3));
    let new = bench.trial().unwrap();
    old.ended_early(EarlyEnd::Reset);
    bench.hear();
    drop(old);
    assert!(bench.trial().is_none(), "the new one is on its way");
    new.answered(Duration::from_millis(5));
    bench.hear();
    assert_eq!(bench.view("a").facts.passive, Passive::Ok);
}

#[test]
fn a_probe_that_passes_again_asks_for_a_trial_at_once() {
    let mut bench = ejected();
    for _ in 0..3 {
        bench.probe("a", false);
    }
    assert_eq!(bench.standing("a"), Standing::Down);
    bench.advance(seconds(1));
    assert!(bench.trial().is_none(), "who is down gets none");
    bench.probe("a", true);
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    assert!(bench.trial().is_some());
}
