//! What sessions say: a backend that stands out by its failures is ejected, until what has failed is disproved, or for a
//! while.

use super::*;
use crate::metrics::Detection;
use crate::standing::Passive;

#[test]
fn fall_failures_in_a_row_eject_and_a_passing_probe_ends_it() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.fail("a", 2);
    assert_eq!(bench.standing("a"), Standing::Up);
    bench.fail("a", 1);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    assert_eq!(&*bench.view("a").reason, "3 connects by sessions failed in a row, the last one: refused");
    assert_eq!(bench.view("a").facts.passive, Passive::Ejected { until: None }, "no time ends it where a probe can");
    bench.advance(seconds(1));
    bench.probe("a", false);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn a_probe_disproves_only_what_it_tests() {
    let http = "check = { kind = \"http\", fall = 3 }";
    let elsewhere = "check = { kind = \"http\", fall = 3, port = 9 }";
    for (keys, connect, early) in [(TCP, true, false), (http, true, true), (elsewhere, false, false)] {
        for (is_early, ends) in [(false, connect), (true, early)] {
            let mut bench = Bench::up(keys, &["a", "b"]);
            if is_early {
                bench.end_early("a", 3);
            } else {
                bench.fail("a", 3);
            }
            assert_eq!(bench.standing("a"), Standing::Ejected, "{keys}");
            bench.advance(seconds(1));
            bench.probe("a", true);
            assert_eq!(bench.standing("a") == Standing::Up, ends, "{keys}, early: {is_early}");
            bench.advance(seconds(12));
            assert_eq!(bench.standing("a"), Standing::Up, "{keys}, early: {is_early}: its time is over");
        }
    }
}

/// The kernel of a dead backend refuses; one that resets has accepted, and will for the next probe, too.
#[test]
fn a_reset_while_connecting_is_no_failed_connect_to_a_probe() {
    for (keys, ends) in [(TCP.to_owned(), false), (format!("{TCP}\noutliers = {{ early_ends = false }}"), true)] {
        let mut bench = Bench::up(&keys, &["a", "b"]);
        for _ in 0..3 {
            let lease = bench.lease("a");
            lease.dialled();
            lease.failed(ConnectFailure::Reset);
            bench.hear();
        }
        assert_eq!(bench.standing("a"), Standing::Ejected, "{keys}");
        bench.advance(seconds(1));
        bench.probe("a", true);
        assert_eq!(bench.standing("a") == Standing::Up, ends, "{keys}");
    }
}

#[test]
fn a_probe_that_had_begun_before_disproves_nothing() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.advance(seconds(1));
    bench.fail("a", 3);
    // It takes three milliseconds, so it began before the failures.
    bench.advance(Duration::from_millis(2));
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    bench.advance(Duration::from_millis(2));
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn a_probe_that_was_wrong_is_not_believed_again() {
    let mut bench = Bench::up("check = { kind = \"http\", fall = 3 }", &["a", "b"]);
    bench.end_early("a", 3);
    bench.advance(seconds(1));
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Up);
    bench.end_early("a", 1);
    assert_eq!(bench.standing("a"), Standing::Ejected, "one failure is enough");
    assert_eq!(&*bench.view("a").reason, "its first session after an ejection failed: closed before its first byte");
    bench.advance(seconds(1));
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    assert_eq!(bench.pool.outliers.detected(Detection::Relapse), 1);
}

#[test]
fn the_last_one_is_never_ejected() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.fail("a", 30);
    assert_eq!(bench.standing("a"), Standing::Up);
    assert_eq!(bench.pool.outliers.refused(), bench.pool.outliers.detected(Detection::Consecutive));
    assert!(bench.pool.outliers.refused() > 0 && !bench.pool.is_all_down());
}

#[test]
fn no_more_than_max_ejected_at_once() {
    let mut bench = Bench::up(&format!("{TCP}\noutliers.max_ejected = 50"), &["a", "b", "c", "d", "e"]);
    for id in ["a", "b", "c", "d"] {
        bench.fail(id, 3);
    }
    let ejected = |bench: &Bench| ["a", "b", "c", "d", "e"].map(|id| bench.standing(id) == Standing::Ejected);
    assert_eq!(ejected(&bench), [true, true, false, false, false]);
    assert_eq!(bench.pool.outliers.refused(), 2);
    // A place that becomes free is taken.
    bench.set(&["b", "c", "d", "e"]);
    bench.fail("c", 3);
    assert_eq!(bench.standing("c"), Standing::Ejected);
}

#[test]
fn observe_counts_and_leaves_it_in() {
    let mut bench = Bench::up(&format!("{TCP}\noutliers.mode = \"observe\""), &["a", "b"]);
    bench.fail("a", 9);
    assert_eq!(bench.standing("a"), Standing::Up);
    assert_eq!((bench.pool.outliers.detected(Detection::Consecutive), bench.pool.outliers.refused()), (3, 0));
}

#[test]
fn off_and_early_ends_off_mean_that_nobody_looks() {
    let mut bench = Bench::up(&format!("{TCP}\noutliers.mode = \"off\""), &["a", "b"]);
    bench.fail("a", 30);
    bench.end_early("a", 30);
    assert_eq!(bench.standing("a"), Standing::Up);
    let mut bench = Bench::up(&format!("{TCP}\noutliers.early_ends = false"), &["a", "b"]);
    bench.end_early("a", 30);
    assert_eq!(bench.standing("a"), Standing::Up);
    assert_eq!(bench.backend("a").unwrap().stats.early_ends.read(EarlyEnd::Closed), 30);
    bench.fail("a", 3);
    assert_eq!(bench.standing("a"), Standing::Ejected);
}

#[test]
fn a_success_breaks_the_streak() {
    let mut bench = Bench::up(&format!("{TCP}\noutliers.percentage = 0"), &["a", "b"]);
    for _ in 0..10 {
        bench.fail("a", 2);
        bench.lease("a").connected(Duration::from_millis(1));
    }
    assert_eq!(bench.standing("a"), Standing::Up);
    // To be reached is no success for one that fails after that.
    bench.end_early("a", 2);
    bench.succeed("a");
    bench.end_early("a", 2);
    assert_eq!(bench.standing("a"), Standing::Up);
    bench.end_early("a", 1);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    assert_eq!(&*bench.view("a").reason, "3 sessions failed in a row, the last one: closed before its first byte");
}

#[test]
fn half_of_the_sessions_in_a_window_are_too_many() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    for n in 0..9 {
        bench.end_early("a", 1);
        bench.succeed("a");
        assert_eq!(bench.standing("a"), Standing::Up, "{n}: too few to tell");
    }
    bench.end_early("a", 2);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    let reason = "11 of its last 20 sessions failed, the last one: closed before its first byte";
    assert_eq!(&*bench.view("a").reason, reason);
}

#[test]
fn a_success_counts_more_than_old_news() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    for _ in 0..3 {
        bench.lease("a").failed(ConnectFailure::Refused);
    }
    bench.lease("a").connected(Duration::from_millis(1));
    bench.hear();
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn what_is_not_the_backends_fault_does_not_count() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let ours = ConnectFailure::ALL.into_iter().filter(|reason| !reason.blames_backend());
    for reason in ours.cycle().take(20) {
        bench.lease("a").failed(reason);
    }
    bench.hear();
    assert_eq!(bench.standing("a"), Standing::Up);
    bench.fail("a", 2);
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn failures_at_an_old_address_say_nothing_about_the_new_one() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let dialling: Vec<_> = (0..4).map(|_| bench.lease("a")).collect();
    bench.set_of(vec![Endpoint { address: address("10.9.9.9:81"), ..endpoint("a") }, endpoint("b")]);
    bench.probe("a", true);
    for lease in &dialling {
        lease.failed(ConnectFailure::Refused);
    }
    bench.hear();
    assert_eq!(bench.standing("a"), Standing::Up);
    // Nor do they count towards the streak at the new one.
    bench.fail("a", 2);
    assert_eq!(bench.standing("a"), Standing::Up);
    // And a success at the old one does not excuse the new one.
    dialling[0].connected(Duration::from_millis(1));
    dialling[0].answered(Duration::from_millis(5));
    bench.fail("a", 1);
    assert_eq!(bench.standing("a"), Standing::Ejected);
}

#[test]
fn evidence_on_a_former_backend_of_the_same_name_is_stale() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let former = bench.backend("a").unwrap();
    for _ in 0..3 {
        bench.lease("a").failed(ConnectFailure::Refused);
    }
    let mut waiting = Vec::new();
    while let Ok(report) = bench.observation.try_recv() {
        waiting.push(report);
    }
    bench.set(&["b"]);
    bench.advance(seconds(600));
    bench.set(&["a", "b"]);
    bench.probe("a", true);
    assert!(!Arc::ptr_eq(&former, &bench.backend("a").unwrap()));
    for report in &waiting {
        bench.members.observation(bench.now, report);
    }
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn without_a_probe_it_lasts_for_ejection_and_longer_each_time() {
    let mut bench = Bench::new(NO_CHECK);
    bench.set(&["a", "b"]);
    for (n, failures) in [(1_u32, 3), (2, 1), (3, 1)] {
        bench.fail("a", failures);
        assert_eq!(bench.standing("a"), Standing::Ejected, "the {n}. time");
        let Passive::Ejected { until: Some(until) } = bench.view("a").facts.passive else { panic!("it has an end") };
        // Ten seconds each time, and up to a fifth more.
        assert!((10 * n..=12 * n).contains(&(u32::try_from((until - bench.now).as_secs()).unwrap())), "the {n}. time");
        bench.advance(until - bench.now - Duration::from_millis(1));
        assert_eq!(bench.standing("a"), Standing::Ejected);
        bench.advance(Duration::from_millis(1));
        assert_eq!(bench.view("a").facts.passive, Passive::Ok);
        // It has flapped, too.
        bench.advance(seconds(1));
        assert_eq!(&*bench.view("a").reason, "no active check");
    }
    bench.succeed("a");
    bench.fail("a", 2);
    assert_eq!(bench.standing("a"), Standing::Up, "it has proved itself, and counts from nothing again");
}

#[test]
fn an_ejection_does_not_outlive_a_departure() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.fail("a", 3);
    bench.set(&["b"]);
    bench.set(&["a", "b"]);
    assert_eq!(bench.view("a").facts.passive, Passive::Ok);
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Up);
}
