//! When the registry is not believed: missing or critical after its trouble, or all of them in one answer.

use super::*;
use crate::operator::{Lasting, Override, Wanted};
use crate::pool::OverrideError;
use crate::standing::Guard;

/// As by default.
const HOLD: Duration = seconds(60);

const LEFT: &str = "held: it left the registry while that was in trouble, and its own probes pass";

impl Bench {
    fn guard(&self, id: &str) -> Guard {
        self.view(id).facts.guard
    }

    fn reason(&self, id: &str) -> String {
        self.view(id).reason.to_string()
    }

    fn release(&mut self) -> Result<usize, OverrideError> {
        let (what, at) = (Wanted::Release, SystemTime::now());
        let command = Override { value: what, by: "me".into(), note: None, at, lasting: Lasting::Kept };
        self.members.operate(self.now, command)
    }
}

#[test]
fn held_while_its_probes_pass() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.set_doubted(Mistrust::Trouble, &[]);
    for id in ["a", "b"] {
        assert_eq!(bench.standing(id), Standing::Up);
        assert_eq!(bench.guard(id), Guard::Held(Mistrust::Trouble));
        assert_eq!(bench.view(id).facts.registry, Registry::Absent);
    }
    assert_eq!(bench.picked(), ["a", "b"]);
    bench.advance(seconds(59));
    bench.probe("a", true);
    assert_eq!(bench.picked(), ["a", "b"]);
    assert!(!bench.pool.is_all_down());
}

#[test]
fn the_api_says_why_it_is_held_and_until_when() {
    let mut bench = Bench::up(TCP, &["a"]);
    assert_eq!(bench.view("a").held_until, None);
    bench.set_doubted(Mistrust::Trouble, &[]);
    assert_eq!(bench.reason("a"), LEFT);
    let until = bench.view("a").held_until.unwrap();
    let left = until.duration_since(SystemTime::now()).unwrap();
    assert!(left <= HOLD && left > HOLD - seconds(10), "{left:?}");
    bench.hear_of(Trust::Failing, Vec::new());
    assert_eq!(bench.view("a").held_until, None, "nobody knows how long it will fail");
    bench.set_doubted(Mistrust::Restart, &[]);
    assert!(bench.view("a").held_until.is_some());
    bench.set(&["a"]);
    assert_eq!((bench.guard("a"), bench.view("a").held_until), (Guard::None, None));
    assert_eq!(bench.reason("a"), "http GET /health: status 200 (1st pass)");
}

#[test]
fn every_doubt_has_its_words() {
    let words = |mistrust: Mistrust, endpoints: Vec<Endpoint>| {
        let mut bench = Bench::up(TCP, &["a"]);
        bench.hear_of(Trust::Doubted(mistrust), endpoints);
        assert_eq!(bench.guard("a"), Guard::Held(mistrust));
        bench.reason("a")
    };
    let critical = || vec![said("a", Registry::Critical)];
    assert_eq!(words(Mistrust::Trouble, Vec::new()), LEFT);
    assert_eq!(
        words(Mistrust::Restart, Vec::new()),
        "held: missing since the registry's restart, and its own probes pass"
    );
    let filtered = "held: missing since the registry's answers became filtered by ACLs, and its own probes pass";
    assert_eq!(words(Mistrust::Filtered, Vec::new()), filtered);
    let restarted = "held: critical since the registry's restart, and its own probes pass: disk: full";
    assert_eq!(words(Mistrust::Restart, critical()), restarted);
    let trouble = "held: critical since the registry's trouble, and its own probes pass: disk: full";
    assert_eq!(words(Mistrust::Trouble, critical()), trouble);
}

#[test]
fn held_ends_when_its_probes_say_so() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.set_doubted(Mistrust::Trouble, &["b"]);
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
    let mut bench = Bench::up(TCP, &["a", "b", "c"]);
    bench.hear_of(Trust::Doubted(Mistrust::Trouble), vec![endpoint("b"), said("c", Registry::Critical)]);
    assert_eq!(bench.picked(), ["a", "b", "c"]);
    bench.advance(HOLD);
    assert_eq!(bench.standing("a"), Standing::Removed);
    assert_eq!(bench.standing("b"), Standing::Up);
    assert_eq!(bench.standing("c"), Standing::Down);
    assert_eq!(bench.reason("c"), "the registry says critical: disk: full");
}

#[test]
fn held_is_prolonged_by_more_trouble() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.set_doubted(Mistrust::Trouble, &[]);
    bench.advance(seconds(30));
    bench.hear_of(Trust::Failing, Vec::new());
    bench.advance(seconds(600));
    assert_eq!(bench.standing("a"), Standing::Up, "as long as it fails");
    bench.set_doubted(Mistrust::Trouble, &[]);
    bench.advance(seconds(59));
    assert_eq!(bench.standing("a"), Standing::Up);
    bench.advance(seconds(1));
    assert_eq!(bench.standing("a"), Standing::Removed);
}

/// The hold is a time, not an answer: agents repeat themselves.
#[test]
fn a_calm_set_within_the_time_ends_nothing() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.set_doubted(Mistrust::Trouble, &["b"]);
    bench.advance(seconds(30));
    bench.set(&[]);
    assert_eq!(bench.picked(), ["a", "b"], "and who leaves meanwhile is held, too");
    bench.advance(seconds(30));
    assert_eq!((bench.standing("a"), bench.standing("b")), (Standing::Removed, Standing::Removed));
}

#[test]
fn what_a_person_wrote_is_obeyed_at_once() {
    let mut bench = Bench::up(TCP, &["a", "b", "c"]);
    bench.set_doubted(Mistrust::Trouble, &["b", "c"]);
    bench.hear_of(Trust::Written, Vec::new());
    for id in ["a", "b", "c"] {
        assert_eq!(bench.standing(id), Standing::Removed);
    }
}

#[test]
fn who_comes_back_while_held_was_never_away() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.set_doubted(Mistrust::Restart, &[]);
    bench.set(&["a"]);
    assert_eq!((bench.standing("a"), bench.guard("a")), (Standing::Up, Guard::None));
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
    bench.set_doubted(Mistrust::Trouble, &[]);
    assert_eq!(bench.standing("up"), Standing::Up);
    assert_eq!(bench.standing("dn"), Standing::Removed);
    assert_eq!(bench.standing("nw"), Standing::Removed);
}

#[test]
fn without_a_check_nobody_can_be_proven() {
    let mut bench = Bench::new(NO_CHECK);
    bench.set(&["a", "b", "c"]);
    bench.hear_of(Trust::Doubted(Mistrust::Trouble), vec![said("b", Registry::Critical), said("c", Registry::Unknown)]);
    assert_eq!(bench.standing("a"), Standing::Removed);
    assert_eq!(bench.standing("b"), Standing::Down);
    assert_eq!(bench.standing("c"), Standing::Down);
    let why = "a check of the registry has not run yet: disk: full, and there is no active check";
    assert_eq!(bench.reason("c"), why);
}

#[test]
fn who_left_before_the_trouble_is_not_brought_back() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.set(&[]);
    bench.set_doubted(Mistrust::Trouble, &[]);
    assert_eq!((bench.standing("a"), bench.guard("a")), (Standing::Removed, Guard::None));
}

/// An agent that restarts empty: it says of none of them what it had said.
#[test]
fn the_last_word_of_the_registry_stays() {
    let mut bench = Bench::up(TCP, &["good", "warn", "out", "crit"]);
    let words = [Registry::Passing, Registry::Warning, Registry::Maintenance, Registry::Critical];
    let set = ["good", "warn", "out", "crit"].into_iter().zip(words).map(|(id, word)| said(id, word)).collect();
    bench.set_of(set);
    bench.set_doubted(Mistrust::Restart, &[]);
    assert_eq!(bench.picked(), ["good", "warn"]);
    assert_eq!((bench.standing("out"), bench.standing("crit")), (Standing::Maintenance, Standing::Down));
    let why = "missing since the registry's restart; the registry has it in maintenance: disk: full";
    assert_eq!(bench.reason("out"), why);
    assert_eq!(bench.guard("out"), Guard::None);
    // Whatever their probes say.
    bench.probe("out", true);
    bench.probe("crit", true);
    assert_eq!(bench.picked(), ["good", "warn"]);
    bench.advance(HOLD);
    for id in ["good", "warn", "out", "crit"] {
        assert_eq!(bench.standing(id), Standing::Removed);
    }
}

#[test]
fn maintenance_is_never_held() {
    for trust in [Trust::Calm, Trust::Doubted(Mistrust::Restart)] {
        let mut bench = Bench::up(TCP, &["a", "b"]);
        bench.hear_of(trust, vec![said("a", Registry::Maintenance), said("b", Registry::Maintenance)]);
        assert_eq!((bench.standing("a"), bench.standing("b")), (Standing::Maintenance, Standing::Maintenance));
    }
}

#[test]
fn critical_after_trouble_is_held_while_its_probes_pass() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.set_doubted(Mistrust::Restart, &["a", "b"]);
    bench.advance(seconds(20));
    bench.set_of(vec![said("a", Registry::Critical), endpoint("b")]);
    assert_eq!(bench.picked(), ["a", "b"]);
    assert_eq!(bench.view("a").facts.registry, Registry::Critical);
    for _ in 0..3 {
        bench.probe("a", false);
    }
    assert_eq!(bench.standing("a"), Standing::Down);
    assert_eq!(bench.reason("a"), "the registry says critical: disk: full");
    // Its last word is critical now.
    bench.probe("a", true);
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Down);
    bench.set(&["a", "b"]);
    assert_eq!(bench.picked(), ["a", "b"]);
}

#[test]
fn who_turns_critical_in_calm_goes_at_once() {
    let mut bench = Bench::up(TCP, &["a", "b", "c"]);
    bench.set_of(vec![said("a", Registry::Critical), said("b", Registry::Critical), endpoint("c")]);
    assert_eq!(bench.picked(), ["c"]);
    // The last one of them, too.
    bench.set_of(vec![said("a", Registry::Critical), said("b", Registry::Critical), said("c", Registry::Critical)]);
    assert_eq!(bench.picked(), [""; 0]);
}

#[test]
fn a_check_that_has_not_run_says_nothing() {
    let mut bench = Bench::up(TCP, &["good", "crit", "out"]);
    bench.set_of(vec![endpoint("good"), said("crit", Registry::Critical), said("out", Registry::Maintenance)]);
    let mut set: Vec<_> = ["good", "crit", "out", "new"].map(|id| said(id, Registry::Unknown)).into();
    bench.set_of(set.clone());
    assert_eq!(bench.standing("new"), Standing::Unproven);
    bench.probe("new", true);
    // Without a limit of time. What was critical stays so until its check has run.
    bench.advance(seconds(3600));
    assert_eq!(bench.picked(), ["good", "new", "out"]);
    assert_eq!(bench.reason("crit"), "the registry said critical, and its check has not run since");
    let why = "a check of the registry has not run yet: disk: full; http GET /health: status 200 (1st pass)";
    assert_eq!(bench.reason("good"), why);
    for _ in 0..3 {
        bench.probe("good", false);
    }
    assert_eq!(bench.standing("good"), Standing::Down);
    // Its first result counts, in calm.
    set[1].registry = Registry::Passing;
    set[3].registry = Registry::Critical;
    bench.set_of(set);
    assert_eq!(bench.picked(), ["crit", "out"]);
}

/// Each check's first result after a restart is as little believed as what is missing; but an instance of which nothing
/// good was ever said is not held up.
#[test]
fn the_first_result_after_a_restart() {
    let mut bench = Bench::up(TCP, &["old"]);
    bench.hear_of(
        Trust::Doubted(Mistrust::Restart),
        vec![said("old", Registry::Unknown), said("new", Registry::Unknown)],
    );
    bench.probe("new", true);
    assert_eq!(bench.picked(), ["new", "old"]);
    bench.set_of(vec![said("old", Registry::Critical), said("new", Registry::Critical)]);
    assert_eq!(bench.picked(), ["old"]);
}

#[test]
fn all_of_them_in_one_answer_are_held() {
    let critical = |ids: &[&str]| ids.iter().map(|id| said(id, Registry::Critical)).collect::<Vec<_>>();
    for endpoints in [Vec::new(), critical(&["a", "b"]), critical(&["a"]), critical(&["b", "new"])] {
        let mut bench = Bench::up(TCP, &["a", "b"]);
        bench.set_of(endpoints.clone());
        assert_eq!(bench.picked(), ["a", "b"], "{endpoints:?}");
        assert_eq!(bench.guard("a"), Guard::Held(Mistrust::Shrink));
        let since = " since one answer that took every instance away, and its own probes pass";
        assert!(bench.reason("a").contains(since), "{}", bench.reason("a"));
        bench.set_of(endpoints);
        assert_eq!(bench.picked(), ["a", "b"], "said again");
        bench.advance(HOLD);
        assert_eq!(bench.picked(), [""; 0]);
    }
}

#[test]
fn one_instance_or_one_after_the_other_are_believed() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.set(&[]);
    assert_eq!(bench.standing("a"), Standing::Removed);

    let mut bench = Bench::up(TCP, &["a", "b", "c"]);
    bench.set(&["c"]);
    bench.set(&[]);
    assert_eq!(bench.picked(), [""; 0]);
}

#[test]
fn others_in_their_place_are_believed() {
    for registry in [Registry::Passing, Registry::Warning, Registry::Unknown] {
        let mut bench = Bench::up(TCP, &["a", "b"]);
        bench.set_of(vec![said("new", registry)]);
        assert_eq!((bench.standing("a"), bench.standing("b")), (Standing::Removed, Standing::Removed));
    }
}

#[test]
fn only_who_worked_counts_among_all() {
    // One works: its going is believed, whatever the others were.
    let mut bench = Bench::up(TCP, &["a", "b", "c", "d"]);
    bench.set_of(vec![endpoint("a"), endpoint("b"), said("c", Registry::Critical), said("d", Registry::Maintenance)]);
    for _ in 0..3 {
        bench.probe("b", false);
    }
    bench.set(&[]);
    assert_eq!(bench.standing("a"), Standing::Removed);
    // Of two that work none is left, with one that does not.
    let mut bench = Bench::up(TCP, &["a", "b", "c"]);
    for _ in 0..3 {
        bench.probe("c", false);
    }
    bench.set(&[]);
    assert_eq!(bench.picked(), ["a", "b"]);
    assert_eq!(bench.standing("c"), Standing::Removed);
    // A person takes one out, and the other two go: that are all.
    let mut bench = Bench::up(TCP, &["a", "b", "c"]);
    bench.set_of(vec![said("a", Registry::Maintenance)]);
    assert_eq!(bench.picked(), ["b", "c"]);
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.set_of(vec![said("a", Registry::Maintenance)]);
    assert_eq!(bench.picked(), [""; 0]);
}

#[test]
fn hold_is_a_key() {
    let mut bench = Bench::up(&format!("{TCP}\nguard = {{ hold = \"5s\" }}"), &["a", "b"]);
    bench.set_doubted(Mistrust::Restart, &[]);
    bench.advance(seconds(4));
    assert_eq!(bench.picked(), ["a", "b"]);
    bench.advance(seconds(1));
    assert_eq!(bench.picked(), [""; 0]);
}

#[test]
fn no_hold_obeys_at_once() {
    let none = &format!("{TCP}\nguard = {{ hold = \"0s\" }}");
    for trust in [Trust::Calm, Trust::Doubted(Mistrust::Trouble), Trust::Doubted(Mistrust::Filtered)] {
        let mut bench = Bench::up(none, &["a", "b"]);
        bench.hear_of(trust, vec![said("a", Registry::Critical)]);
        assert_eq!((bench.standing("a"), bench.standing("b")), (Standing::Down, Standing::Removed));
    }
}

#[test]
fn a_hold_that_is_taken_away_ends() {
    for keys in [&format!("{TCP}\nguard = {{ hold = \"0s\" }}"), NO_CHECK] {
        let mut bench = Bench::up(TCP, &["a", "b"]);
        bench.hear_of(Trust::Doubted(Mistrust::Trouble), vec![said("a", Registry::Critical)]);
        assert_eq!(bench.picked(), ["a", "b"]);
        bench.reload(keys);
        assert_eq!((bench.standing("a"), bench.standing("b")), (Standing::Down, Standing::Removed), "{keys}");
    }
}

#[test]
fn an_operator_releases() {
    let mut bench = Bench::up(TCP, &["a", "b", "c", "d"]);
    assert_eq!(bench.release(), Ok(0));
    bench.set_of(vec![endpoint("a"), endpoint("b"), endpoint("c"), said("d", Registry::Maintenance)]);
    bench.hear_of(Trust::Doubted(Mistrust::Restart), vec![endpoint("b"), said("c", Registry::Critical)]);
    assert_eq!(bench.picked(), ["a", "b", "c"]);
    assert_eq!(bench.release(), Ok(3));
    assert_eq!(bench.picked(), ["b"]);
    for (id, standing) in [("a", Standing::Removed), ("c", Standing::Down), ("d", Standing::Removed)] {
        assert_eq!((bench.standing(id), bench.guard(id)), (standing, Guard::None));
    }
    // And it is believed from now on.
    bench.set(&[]);
    assert_eq!(bench.picked(), [""; 0]);
    assert_eq!(bench.release(), Ok(0));
}
