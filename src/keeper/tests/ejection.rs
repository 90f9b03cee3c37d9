//! What sessions say: failed connects in a row take a backend out until a probe passes, or for a while.

use super::*;
use crate::standing::Passive;

#[test]
fn fall_failures_in_a_row_eject_and_a_passing_probe_ends_it() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.fail("a", 2);
    assert_eq!(bench.standing("a"), Standing::Up);
    bench.fail("a", 1);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    assert_eq!(&*bench.view("a").reason, "3 connects by sessions failed in a row, the last one: refused");
    assert_eq!(bench.picked(), ["b"]);
    bench.advance(seconds(3_600));
    assert_eq!(bench.standing("a"), Standing::Ejected, "no time ends it where a probe can");
    bench.probe("a", false);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Up);
    bench.fail("a", 2);
    assert_eq!(bench.standing("a"), Standing::Up, "it counts from nothing again");
}

#[test]
fn the_only_backend_is_ejected_too() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.fail("a", 3);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    assert!(bench.pool.is_all_down());
}

#[test]
fn a_success_breaks_the_streak() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    for _ in 0..10 {
        bench.fail("a", 2);
        bench.lease("a").connected(Duration::from_millis(1));
    }
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn a_success_counts_more_than_old_news() {
    let mut bench = Bench::up(TCP, &["a"]);
    for _ in 0..3 {
        bench.lease("a").failed(ConnectFailure::Refused);
    }
    bench.lease("a").connected(Duration::from_millis(1));
    bench.hear();
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn what_is_not_the_backends_fault_does_not_count() {
    let mut bench = Bench::up(TCP, &["a"]);
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
    let mut bench = Bench::up(TCP, &["a"]);
    let dialling: Vec<_> = (0..4).map(|_| bench.lease("a")).collect();
    bench.set_of(vec![Endpoint { address: address("10.9.9.9:81"), ..endpoint("a") }]);
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
    bench.fail("a", 1);
    assert_eq!(bench.standing("a"), Standing::Ejected);
}

#[test]
fn evidence_on_a_former_backend_of_the_same_name_is_stale() {
    let mut bench = Bench::up(TCP, &["a"]);
    let former = bench.backend("a").unwrap();
    for _ in 0..3 {
        bench.lease("a").failed(ConnectFailure::Refused);
    }
    let mut waiting = Vec::new();
    while let Ok(evidence) = bench.evidence.try_recv() {
        waiting.push(evidence);
    }
    bench.set(&[]);
    bench.advance(seconds(600));
    bench.set(&["a"]);
    bench.probe("a", true);
    assert!(!Arc::ptr_eq(&former, &bench.backend("a").unwrap()));
    for evidence in &waiting {
        bench.members.evidence(bench.now, evidence);
    }
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn without_a_probe_it_lasts_ten_seconds() {
    let mut bench = Bench::new(NO_CHECK);
    bench.set(&["a", "b"]);
    bench.fail("a", 3);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    bench.advance(Duration::from_millis(9_999));
    assert_eq!(bench.standing("a"), Standing::Ejected);
    bench.advance(Duration::from_millis(1));
    assert_eq!(bench.standing("a"), Standing::Up);
    assert_eq!(&*bench.view("a").reason, "no active check");
    bench.fail("a", 2);
    assert_eq!(bench.standing("a"), Standing::Up, "it counts from nothing again");
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
