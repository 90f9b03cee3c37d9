//! Missing from a set that came after trouble: kept while its own probes pass.

use super::*;
use crate::standing::Guard;

const HOLD: Duration = seconds(60);

#[test]
fn held_while_its_probes_pass() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.set_held(&[], HOLD);
    for id in ["a", "b"] {
        assert_eq!(bench.standing(id), Standing::Up);
        assert_eq!(bench.view(id).facts.guard, Guard::Held);
        assert_eq!(bench.view(id).facts.registry, Registry::Absent);
    }
    assert_eq!(bench.picked(), ["a", "b"]);
    bench.advance(seconds(59));
    bench.probe("a", true);
    assert_eq!(bench.picked(), ["a", "b"]);
    assert!(!bench.pool.is_all_down());
}

#[test]
fn the_api_says_that_it_is_held_and_when_that_is_over() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.set_held(&[], HOLD);
    let held = "held: it left the registry while that was in trouble, and its own probes pass";
    assert_eq!(&*bench.view("a").reason, held);
    bench.set(&["a"]);
    assert_eq!(bench.view("a").facts.guard, Guard::None);
    assert_eq!(&*bench.view("a").reason, "http GET /health: status 200 (1st pass)");
}

#[test]
fn held_ends_when_its_probes_say_so() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.set_held(&["b"], HOLD);
    bench.probe("a", false);
    bench.probe("a", false);
    assert_eq!(bench.standing("a"), Standing::Up, "not proven down yet");
    bench.probe("a", false);
    assert_eq!(bench.standing("a"), Standing::Removed);
    assert_eq!(bench.probed("a"), None);
    bench.advance(seconds(601));
    assert!(bench.backend("a").is_none());
}

#[test]
fn held_ends_when_the_time_is_over() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.set_held(&["b"], HOLD);
    bench.advance(HOLD);
    assert_eq!(bench.standing("a"), Standing::Removed);
    assert_eq!(bench.standing("b"), Standing::Up);
}

#[test]
fn held_is_prolonged_by_more_trouble() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.set_held(&[], HOLD);
    bench.advance(seconds(30));
    bench.set_held(&[], HOLD);
    bench.advance(seconds(59));
    assert_eq!(bench.standing("a"), Standing::Up);
    bench.advance(seconds(1));
    assert_eq!(bench.standing("a"), Standing::Removed);
}

#[test]
fn held_ends_when_a_calm_set_says_so() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.set_held(&[], HOLD);
    bench.set(&[]);
    assert_eq!(bench.standing("a"), Standing::Removed);
}

#[test]
fn who_comes_back_while_held_was_never_away() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.set_held(&[], HOLD);
    bench.set_held(&["a"], HOLD);
    assert_eq!((bench.standing("a"), bench.view("a").facts.guard), (Standing::Up, Guard::None));
    assert_eq!(bench.probes.lock().unwrap().started, 1, "its probe went on");
    bench.advance(HOLD);
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn only_who_is_proven_is_held() {
    let mut bench = Bench::new(TCP);
    bench.set(&["up", "dn", "nw"]);
    bench.probe("up", true);
    bench.probe("dn", false);
    bench.set_held(&[], HOLD);
    assert_eq!(bench.standing("up"), Standing::Up);
    assert_eq!(bench.standing("dn"), Standing::Removed);
    assert_eq!(bench.standing("nw"), Standing::Removed);
}

#[test]
fn without_a_check_nobody_can_be_proven() {
    let mut bench = Bench::new(NO_CHECK);
    bench.set(&["a"]);
    bench.set_held(&[], HOLD);
    assert_eq!(bench.standing("a"), Standing::Removed);
}

#[test]
fn who_left_before_the_trouble_is_not_brought_back() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.set(&[]);
    bench.set_held(&[], HOLD);
    assert_eq!(bench.standing("a"), Standing::Removed);
    assert_eq!(bench.view("a").facts.guard, Guard::None);
}

#[test]
fn a_hold_that_is_over_holds_nobody() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.set_held(&[], Duration::ZERO);
    assert_eq!(bench.standing("a"), Standing::Removed);
}
