//! What a backend's agent asks for, and what is written about it besides its weight.

use super::super::Advised;
use super::*;
use crate::health::AdvisedWeight::{self, Percent};
use crate::health::{Advice, AgentWish, Hearing};
use crate::pool::NoneLeft;

fn advise(bench: &mut Bench, id: &str, advice: Advice) {
    let address = bench.view(id).address;
    bench.members.advise(bench.now, &id.into(), address, advice);
}

/// How many of so many picks each gets.
fn picks(bench: &Bench, count: usize) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for _ in 0..count {
        *all.entry(bench.pool.pick(&PickContext::FIRST).unwrap().backend().id.to_string()).or_default() += 1;
    }
    all
}

#[test]
fn a_weight_is_percent_of_the_configured_one() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.set_of(vec![Endpoint { weight: 3, ..endpoint("a") }, Endpoint { weight: 3, ..endpoint("b") }]);
    advise(&mut bench, "a", Advice { weight: Some(Percent(33)), ..Advice::default() });
    assert_eq!(bench.view("a").weight, 3);
    assert_eq!(picks(&bench, 133), BTreeMap::from([("a".to_owned(), 33), ("b".to_owned(), 100)]));
    advise(&mut bench, "a", Advice { weight: Some(Percent(0)), ..Advice::default() });
    assert_eq!(bench.picked(), ["b"]);
    advise(&mut bench, "a", Advice::default());
    assert_eq!(picks(&bench, 10).len(), 2);
}

#[test]
fn a_wish_is_a_fact_below_the_registrys() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    advise(&mut bench, "a", Advice { wish: AgentWish::Drain, ..Advice::default() });
    assert_eq!((bench.standing("a"), &*bench.view("a").reason), (Standing::Draining, "its agent asks for it"));
    advise(&mut bench, "a", Advice { wish: AgentWish::Maintenance, ..Advice::default() });
    assert_eq!(bench.standing("a"), Standing::Maintenance);
    bench.set_of(vec![Endpoint { registry: Registry::Critical, ..endpoint("a") }, endpoint("b")]);
    assert_eq!(bench.standing("a"), Standing::Down);
    bench.set(&["a", "b"]);
    for _ in 0..3 {
        bench.probe("a", false);
    }
    assert_eq!(bench.standing("a"), Standing::Maintenance, "it said so itself");
    advise(&mut bench, "a", Advice::default());
    assert_eq!(bench.standing("a"), Standing::Down);
}

#[test]
fn an_agents_report_carries_it_and_a_new_address_forgets_it() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let mut health = RiseFall::new(1, 1);
    health.record(true);
    let at = bench.view("a").address;
    let mut report = probed("a", at, true, &health);
    let result = Arc::make_mut(&mut report.report.result);
    result.advice = Some(Advice { wish: AgentWish::Drain, ..Advice::default() });
    bench.members.report(bench.now, report.clone());
    assert_eq!(bench.standing("a"), Standing::Up, "only an agent may");
    Arc::make_mut(&mut report.report.result).hearing = Some(Hearing::Understood);
    bench.members.report(bench.now, report.clone());
    assert_eq!(bench.standing("a"), Standing::Draining);
    // One that says nothing changes nothing.
    Arc::make_mut(&mut report.report.result).advice = None;
    bench.members.report(bench.now, report);
    assert_eq!(bench.standing("a"), Standing::Draining);
    bench.members.advise(bench.now, &"a".into(), address("10.9.9.9:9"), Advice::default());
    assert_eq!(bench.standing("a"), Standing::Draining, "that was about another address");
    bench.set_of(vec![Endpoint { address: address("10.9.9.9:9"), ..endpoint("a") }, endpoint("b")]);
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn the_strictest_cap_holds() {
    let mut bench = Bench::up(&format!("{TCP}\nbackend_max_sessions = 3"), &["a"]);
    let leases: Vec<_> = (0..3).map(|_| bench.pool.pick(&PickContext::FIRST).unwrap()).collect();
    assert!(matches!(bench.pool.pick(&PickContext::FIRST), Err(NoneLeft)));
    assert_eq!((bench.pool.counts().eligible, bench.pool.counts().up), (0, 1));
    drop(leases);
    let cap = |bench: &Bench| bench.view("a").max_sessions;
    bench.set_of(vec![Endpoint { max_sessions: Some(5), ..endpoint("a") }]);
    assert_eq!(cap(&bench), Some(5), "its own number goes before the pool's");
    advise(&mut bench, "a", Advice { max_sessions: Some(9), ..Advice::default() });
    assert_eq!(cap(&bench), Some(5), "an agent can't raise what is written");
    advise(&mut bench, "a", Advice { max_sessions: Some(1), ..Advice::default() });
    assert_eq!(cap(&bench), Some(1));
    let _one = bench.pool.pick(&PickContext::FIRST).unwrap();
    assert!(matches!(bench.pool.pick(&PickContext::FIRST), Err(NoneLeft)));
}

#[test]
fn advice_is_kept_until_the_next_and_goes_when_the_backend_leaves() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let drain = Advice { weight: Some(Percent(50)), wish: AgentWish::Drain, max_sessions: None };
    advise(&mut bench, "a", drain);
    bench.probe("a", true);
    assert_eq!((bench.view("a").advice, bench.view("b").advice), (Some(drain), None));
    // No member has that name.
    bench.members.advise(bench.now, &"who".into(), bench.view("a").address, drain);
    bench.set(&["b"]);
    bench.set(&["a", "b"]);
    assert_eq!(bench.view("a").advice, None, "it begins again");
}

/// The agent of `id` was asked.
fn asked(bench: &mut Bench, id: &str, hearing: Hearing, advice: Option<Advice>) {
    let address = bench.view(id).address;
    let result = ProbeResult {
        kind: "agent",
        passed: hearing == Hearing::Understood,
        duration: Duration::from_millis(1),
        at: SystemTime::now(),
        asked: "opinion".to_owned(),
        wanted: String::new(),
        got: hearing.name().to_owned(),
        advice,
        hearing: Some(hearing),
        certificate: None,
    };
    let report = ProbeReport { result: Arc::new(result), state: crate::health::ProbeState::Up, streak: 1 };
    bench.members.hear_agent(bench.now, Advised { id: id.into(), address, report });
}

#[test]
fn what_becomes_of_questions_is_counted_and_changes_nothing() {
    let mut bench = Bench::up(TCP, &["a"]);
    let drain = Advice { wish: AgentWish::Drain, ..Advice::default() };
    asked(&mut bench, "a", Hearing::Understood, Some(drain));
    let since = bench.view("a").since;
    for hearing in [Hearing::Unreachable, Hearing::Unreachable, Hearing::Unknown] {
        asked(&mut bench, "a", hearing, Some(drain));
        assert_eq!(bench.standing("a"), Standing::Draining);
    }
    assert_eq!(bench.view("a").since, since);
    let backend = bench.backend("a").unwrap();
    assert_eq!(Hearing::ALL.map(|hearing| backend.stats.agent_answers.read(hearing)), [1, 1, 2]);
    assert_eq!(backend.last_answer().unwrap().result.hearing, Some(Hearing::Unknown));
    // Another address has another agent.
    bench.set_of(vec![Endpoint { address: address("10.9.9.9:80"), ..endpoint("a") }]);
    assert!(backend.last_answer().is_none());
}

#[test]
fn an_absolute_weight_stands_in_the_place_of_the_configured_one() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.set_of(vec![Endpoint { weight: 3, ..endpoint("a") }, Endpoint { weight: 3, ..endpoint("b") }]);
    advise(&mut bench, "a", Advice { weight: Some(AdvisedWeight::Absolute(12)), ..Advice::default() });
    assert_eq!(picks(&bench, 50), BTreeMap::from([("a".to_owned(), 40), ("b".to_owned(), 10)]));
    bench.set_of(vec![Endpoint { weight: 0, ..endpoint("a") }, endpoint("b")]);
    assert_eq!(bench.picked(), ["b"], "whoever took its weight wants nothing new there");
}
