//! What follows from all members together: settled, and nothing up.

use super::*;

#[test]
fn settled_when_discovery_has_answered_and_all_are_probed() {
    let mut bench = Bench::new(TCP);
    assert!(!bench.pool.is_settled());
    bench.members.tick(bench.now);
    assert!(!bench.pool.is_settled(), "nobody has said anything");
    bench.set(&["a", "b"]);
    bench.probe("a", true);
    assert!(!bench.pool.is_settled());
    bench.probe("b", false);
    assert!(bench.pool.is_settled());
    bench.set(&["a", "b", "c"]);
    assert!(bench.pool.is_settled(), "once and for all");
}

#[test]
fn an_empty_answer_settles() {
    let mut bench = Bench::new(TCP);
    bench.set(&[]);
    assert!(bench.pool.is_settled() && bench.pool.is_all_down());
}

#[test]
fn who_leaves_unproven_is_not_waited_for() {
    let mut bench = Bench::new(TCP);
    bench.set(&["a", "b"]);
    bench.probe("a", true);
    bench.set(&["a"]);
    assert!(bench.pool.is_settled());
}

#[test]
fn all_down_is_entered_when_all_are_proven_and_left_when_one_is_up() {
    let mut bench = Bench::new(ANY);
    bench.set(&["a", "b"]);
    bench.probe("a", false);
    assert!(!bench.pool.is_all_down(), "b may still be good");
    assert!(bench.pool.fail_open(), "and may be tried, like the rest");
    assert_eq!(bench.picked(), ["a", "b"]);
    bench.probe("b", false);
    assert!(bench.pool.is_all_down() && bench.pool.fail_open());
    assert_eq!(bench.picked(), ["a", "b"]);

    // A newcomer is no reason to close what was opened, and may be tried like the rest.
    bench.set(&["a", "b", "c"]);
    assert!(bench.pool.is_all_down());
    assert_eq!(bench.picked(), ["a", "b", "c"]);
    bench.probe("c", true);
    assert!(!bench.pool.is_all_down() && !bench.pool.fail_open());
    assert_eq!(bench.picked(), ["c"]);

    // Nor is the loss of the only good one to enter it while another is not yet probed.
    bench.set(&["a", "b", "d"]);
    assert!(!bench.pool.is_all_down());
    assert_eq!(bench.picked(), ["a", "b", "d"]);
    bench.probe("d", false);
    assert!(bench.pool.is_all_down());
}

#[test]
fn refuse_means_that_nobody_is_tried() {
    let mut bench = Bench::up(TCP, &["a"]);
    for _ in 0..3 {
        bench.probe("a", false);
    }
    assert!(bench.pool.is_all_down() && !bench.pool.fail_open());
    assert!(bench.picked().is_empty());
    assert_eq!(bench.pool.counts().eligible, 0);
}

#[test]
fn any_means_whom_nobody_took_out() {
    let mut bench = Bench::new(ANY);
    let with = |id, registry| Endpoint { registry, ..endpoint(id) };
    bench.set_of(vec![
        endpoint("d"),
        with("c", Registry::Critical),
        with("m", Registry::Maintenance),
        Endpoint { weight: 0, ..endpoint("w") },
        endpoint("r"),
    ]);
    for id in ["d", "c", "m", "r"] {
        bench.probe(id, false);
    }
    bench.probe("w", true);
    bench.set_of(vec![
        endpoint("d"),
        with("c", Registry::Critical),
        with("m", Registry::Maintenance),
        Endpoint { weight: 0, ..endpoint("w") },
    ]);
    assert!(bench.pool.is_all_down(), "weight 0 serves nothing new");
    assert_eq!(bench.picked(), ["c", "d"]);
    assert_eq!(bench.pool.counts().eligible, 2);
}

#[test]
fn ejections_alone_never_take_all_down() {
    let mut bench = Bench::up(TCP, &["a", "b", "c"]);
    bench.end_early("a", 3);
    bench.advance(seconds(3));
    bench.end_early("b", 3);
    bench.end_early("c", 9);
    assert_eq!(["a", "b", "c"].map(|id| bench.standing(id)), [Standing::Ejected, Standing::Ejected, Standing::Up]);
    assert_eq!(bench.pool.outliers.refused(), 3);
    // Also when the last one goes for another reason: one that failed is better than none.
    for _ in 0..3 {
        bench.probe("c", false);
    }
    assert_eq!(["a", "b", "c"].map(|id| bench.standing(id)), [Standing::Up, Standing::Ejected, Standing::Down]);
    assert!(!bench.pool.is_all_down());
    bench.end_early("a", 9);
    assert_eq!(bench.standing("a"), Standing::Up);
    bench.set(&["b", "c"]);
    assert_eq!(bench.standing("b"), Standing::Up);
    bench.set(&["c"]);
    assert!(bench.pool.is_all_down());
}

#[test]
fn panic_uses_all_that_nobody_took_out() {
    let mut bench = Bench::up(&format!("{TCP}\npanic_threshold = 50"), &["a", "b", "c", "d"]);
    for id in ["a", "b"] {
        for _ in 0..3 {
            bench.probe(id, false);
        }
    }
    assert!(!bench.pool.is_panicking(), "half of them is not less than half");
    assert_eq!(bench.picked(), ["c", "d"]);
    for _ in 0..3 {
        bench.probe("c", false);
    }
    assert!(bench.pool.is_panicking());
    assert_eq!(bench.picked(), ["a", "b", "c", "d"]);
    // A backend that is taken out does not count, nor does a new one.
    bench.set_of(vec![
        Endpoint { registry: Registry::Maintenance, ..endpoint("a") },
        Endpoint { registry: Registry::Maintenance, ..endpoint("b") },
        endpoint("c"),
        endpoint("d"),
        endpoint("e"),
    ]);
    assert!(!bench.pool.is_panicking());
    assert_eq!(bench.picked(), ["d"]);
    // And it goes before `when_all_down`.
    for _ in 0..3 {
        bench.probe("d", false);
    }
    assert!(bench.pool.is_panicking());
    assert_eq!(bench.picked(), ["c", "d", "e"]);
}
