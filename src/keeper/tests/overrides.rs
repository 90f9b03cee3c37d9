//! What operators say: it holds at once, goes before everything else, and outlives what it should.

use super::*;
use crate::operator::{Lasting, Override, ProbeSwitch, Wanted};
use crate::pool::OverrideError;
use crate::standing::Operator;

impl Bench {
    fn says(&mut self, what: Wanted, lasting: Lasting) -> Result<(), OverrideError> {
        let command = Override { value: what, by: "root".into(), note: None, at: SystemTime::UNIX_EPOCH, lasting };
        self.members.operate(self.now, command).map(drop)
    }

    fn order(&mut self, id: &str, value: Operator) {
        self.says(Wanted::Backend(id.into(), value), Lasting::Kept).unwrap();
    }
}

#[test]
fn a_drained_backend_gets_nothing_new_and_a_ready_one_does() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let lease = bench.lease("a");
    bench.order("a", Operator::Drain);
    assert_eq!(bench.standing("a"), Standing::Draining);
    assert_eq!(&*bench.view("a").reason, "by root at 1970-01-01T00:00:00Z");
    assert_eq!(bench.picked(), ["b"]);
    assert_eq!(bench.pool.sessions_of(&bench.backend("a").unwrap()), 1, "what runs goes on");
    drop(lease);
    bench.order("a", Operator::Disabled);
    assert_eq!(bench.standing("a"), Standing::Disabled);
    bench.order("a", Operator::Ready);
    assert_eq!(bench.picked(), ["a", "b"]);
    let history = bench.backend("a").unwrap().history.read();
    let changes: Vec<_> = history.iter().map(|change| change.to.name()).collect();
    assert_eq!(changes, ["up", "disabled", "draining", "up", "unproven"]);
}

#[test]
fn nobody_is_up_when_the_last_is_drained_and_no_resort_is_taken() {
    let mut bench = Bench::up(ANY, &["a"]);
    bench.order("a", Operator::Drain);
    assert!(bench.pool.is_all_down());
    assert!(bench.pool.pick(&PickContext::FIRST).is_err(), "a person took it out");
}

#[test]
fn it_survives_updates_moves_probes_and_departures() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.order("a", Operator::Drain);
    bench.says(Wanted::Weight("b".into(), Some(7)), Lasting::Kept).unwrap();
    bench.set_of(vec![
        Endpoint { address: address("10.9.9.9:81"), ..endpoint("a") },
        Endpoint { weight: 3, ..endpoint("b") },
    ]);
    bench.probe("a", true);
    assert_eq!((bench.standing("a"), bench.view("b").weight), (Standing::Draining, 7));
    bench.set(&["b"]);
    bench.advance(seconds(700));
    assert!(bench.backend("a").is_none(), "the identity is forgotten");
    bench.set(&["a", "b"]);
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Draining, "what was said of it is not");
    bench.says(Wanted::Weight("b".into(), None), Lasting::Kept).unwrap();
    assert_eq!(bench.view("b").weight, 1);
}

#[test]
fn weight_0_is_nothing_new() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.says(Wanted::Weight("a".into(), Some(0)), Lasting::Kept).unwrap();
    assert_eq!((bench.standing("a"), bench.picked()), (Standing::Up, vec!["b".to_owned()]));
}

#[test]
fn a_pool_is_drained_with_its_newcomers() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.says(Wanted::Pool(Operator::Drain), Lasting::Kept).unwrap();
    bench.set(&["a", "b", "c"]);
    bench.probe("c", true);
    assert!(bench.picked().is_empty());
    assert_eq!(&*bench.view("c").reason, "the whole pool, by root at 1970-01-01T00:00:00Z");
    bench.order("b", Operator::Ready);
    assert_eq!(bench.picked(), ["b"]);
    bench.says(Wanted::Pool(Operator::Ready), Lasting::Kept).unwrap();
    assert_eq!(bench.picked(), ["a", "b", "c"]);
}

#[test]
fn what_is_for_a_time_ends_by_itself() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let lasting = Lasting::for_so_long(seconds(60), bench.now, SystemTime::UNIX_EPOCH).unwrap();
    bench.says(Wanted::Backend("a".into(), Operator::Drain), lasting).unwrap();
    bench.advance(Duration::from_millis(59_999));
    assert_eq!(bench.standing("a"), Standing::Draining);
    bench.advance(Duration::from_millis(1));
    assert_eq!(bench.standing("a"), Standing::Up);
    assert!(bench.pool.overrides.current().is_empty());
}

#[test]
fn a_keeper_begins_with_what_held_before_it() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.order("a", Operator::Drain);
    let overrides = bench.pool.overrides.current();
    let mut bench = Bench::new(TCP);
    bench.pool.overrides.show((*overrides).clone());
    bench.members = Members::new(Arc::clone(&bench.pool), Box::new(|_, _| Box::new(())), fastrand::Rng::with_seed(1));
    bench.set(&["a", "b"]);
    assert_eq!((bench.standing("a"), bench.standing("b")), (Standing::Draining, Standing::Unproven));
}

#[test]
fn an_unknown_backend_is_refused_and_leaves_no_trace() {
    let mut bench = Bench::up(TCP, &["a"]);
    let refused = bench.says(Wanted::Backend("z".into(), Operator::Drain), Lasting::Kept);
    assert_eq!(refused, Err(OverrideError::NoSuchBackend));
    assert!(bench.pool.overrides.current().is_empty());
}

#[test]
fn a_paused_check_says_nothing_and_its_last_state_holds() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let pause = |bench: &mut Bench, pause| {
        let switch = if pause { ProbeSwitch::Paused } else { ProbeSwitch::Running };
        bench.says(Wanted::Probe("a".into(), switch), Lasting::Kept).unwrap()
    };
    pause(&mut bench, true);
    assert!(!bench.probe("a", false), "nothing is probed");
    assert!(bench.probe("b", true));
    // One that was under way.
    let mut health = RiseFall::new(1, 1);
    health.record(false);
    bench.members.report(bench.now, probed("a", endpoint("a").address, false, &health));
    assert_eq!(bench.standing("a"), Standing::Up);
    let reason = "http GET /health: status 200 (1st pass); probes paused by root at 1970-01-01T00:00:00Z";
    assert_eq!(&*bench.backend("a").unwrap().reason(), reason);
    assert_eq!(bench.picked(), ["a", "b"]);
    // An equal set, other orders and a new address do not start it.
    bench.set(&["a", "b"]);
    bench.order("a", Operator::Drain);
    bench.order("a", Operator::Ready);
    assert!(!bench.probe("a", true));

    pause(&mut bench, false);
    for failures in 1..=3 {
        assert_eq!(bench.standing("a"), Standing::Up, "after {} failures", failures - 1);
        assert!(bench.probe("a", false));
    }
    assert_eq!(bench.standing("a"), Standing::Down);

    // Down stays down.
    pause(&mut bench, true);
    assert!(!bench.probe("a", true));
    assert_eq!(bench.standing("a"), Standing::Down);
    pause(&mut bench, false);
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Down, "rise counts");
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn a_pause_goes_before_a_new_address_and_ends_by_itself() {
    let mut bench = Bench::up(TCP, &["a"]);
    let lasting = Lasting::for_so_long(seconds(60), bench.now, SystemTime::now()).unwrap();
    bench.says(Wanted::Probe("a".into(), ProbeSwitch::Paused), lasting).unwrap();
    bench.set_of(vec![Endpoint { address: address("10.9.9.9:80"), ..endpoint("a") }]);
    assert!(!bench.probe("a", true));
    assert_eq!(bench.standing("a"), Standing::Unproven, "nothing was found out about that address");
    assert!(bench.view("a").reason.starts_with("no probe has finished yet; probes paused by root"));
    bench.advance(seconds(61));
    assert!(bench.probe("a", true));
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn an_ejection_does_not_wait_for_a_check_that_rests() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.fail("a", 3);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    bench.says(Wanted::Probe("a".into(), ProbeSwitch::Paused), Lasting::Kept).unwrap();
    bench.advance(seconds(600));
    assert_eq!(bench.standing("a"), Standing::Up, "its time is over");
}
