//! Flapping: a backend that fails again soon after it came up has to stay up for longer before it counts.

use super::*;
use crate::standing::Guard;

fn flap(bench: &mut Bench, id: &str) {
    for _ in 0..3 {
        bench.probe(id, false);
    }
    assert_eq!(bench.standing(id), Standing::Down);
    bench.advance(seconds(1));
    bench.probe(id, true);
    bench.probe(id, true);
}

#[test]
fn a_flap_keeps_it_out_for_a_while_and_each_for_longer() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    flap(&mut bench, "a");
    assert_eq!(bench.standing("a"), Standing::Up, "to go down once is no flap");
    for (n, wait) in [(1, 500), (2, 1_000), (3, 2_000)] {
        bench.advance(seconds(1));
        flap(&mut bench, "a");
        let view = bench.view("a");
        assert_eq!((view.standing, view.facts.guard), (Standing::Damped, Guard::Damped), "flap {n}");
        assert!(view.damped_until.is_some());
        bench.advance(Duration::from_millis(wait - 1));
        assert_eq!((bench.standing("a"), bench.picked()), (Standing::Damped, vec!["b".to_owned()]));
        bench.advance(Duration::from_millis(1));
        assert_eq!(bench.standing("a"), Standing::Up, "flap {n}");
        assert_eq!(bench.view("a").facts.guard, Guard::None);
    }
    // The reason names how often.
    flap(&mut bench, "a");
    let reason = "it works again, but flapped 4 times: it has to stay up for a while first";
    assert_eq!(&*bench.view("a").reason, reason);
}

#[test]
fn who_was_up_for_long_is_up_at_once() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    for _ in 0..5 {
        bench.advance(seconds(30));
        flap(&mut bench, "a");
        assert_eq!(bench.standing("a"), Standing::Up);
    }
}

#[test]
fn the_last_one_is_never_damped() {
    let mut bench = Bench::up(TCP, &["a"]);
    for _ in 0..5 {
        flap(&mut bench, "a");
        assert_eq!(bench.standing("a"), Standing::Up);
    }
    // Nor does it stay so when the others go.
    let mut bench = Bench::up(TCP, &["a", "b"]);
    flap(&mut bench, "a");
    flap(&mut bench, "a");
    assert_eq!(bench.standing("a"), Standing::Damped);
    bench.set(&["a"]);
    assert_eq!(bench.standing("a"), Standing::Up);
    assert!(!bench.pool.is_all_down());
}

#[test]
fn zero_is_off() {
    let mut bench = Bench::up(&format!("{TCP}\ndamping.stay_up = \"0s\""), &["a", "b"]);
    for _ in 0..5 {
        flap(&mut bench, "a");
        assert_eq!(bench.standing("a"), Standing::Up);
    }
}
