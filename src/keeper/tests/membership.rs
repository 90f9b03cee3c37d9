//! What is a member, with which address, weight and status, and for how long it is remembered.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::super::departed::MOST_REMEMBERED;
use super::*;
use crate::metrics::Outcome;
use crate::standing::Guard;

#[test]
fn a_newcomer_gets_sessions_after_its_first_pass() {
    let mut bench = Bench::new(TCP);
    bench.set(&["a"]);
    assert_eq!(bench.standing("a"), Standing::Unproven);
    assert_eq!(bench.probed("a"), Some(endpoint("a").address));
    assert!(bench.picked().is_empty());
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Up);
    assert_eq!(bench.picked(), ["a"]);
}

#[test]
fn a_newcomer_is_down_after_its_first_failure_and_then_needs_rise() {
    let mut bench = Bench::new(TCP);
    bench.set(&["a"]);
    bench.probe("a", false);
    assert_eq!(bench.standing("a"), Standing::Down);
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Down);
    bench.probe("a", true);
    assert_eq!(bench.standing("a"), Standing::Up);
}

#[test]
fn isolated_failures_do_not_add_up() {
    let mut bench = Bench::up(TCP, &["a"]);
    for _ in 0..20 {
        assert!(bench.probe("a", false) && bench.probe("a", false) && bench.probe("a", true));
        assert_eq!(bench.standing("a"), Standing::Up);
    }
    for _ in 0..3 {
        bench.probe("a", false);
    }
    assert_eq!(bench.standing("a"), Standing::Down);
}

#[test]
fn without_a_check_it_is_up_at_once() {
    let mut bench = Bench::new(NO_CHECK);
    bench.set(&["a"]);
    assert_eq!(bench.standing("a"), Standing::Up);
    assert_eq!((bench.view("a").facts.probe, bench.probed("a")), (None, None));
    assert!(bench.pool.is_settled());
}

#[test]
fn who_leaves_gets_nothing_new_and_comes_back_as_who_it_was() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let before = bench.backend("a").unwrap();
    before.stats.ended.count(&"l".into(), Outcome::Completed);
    let session = bench.lease("a");

    bench.set(&["b"]);
    assert_eq!(bench.standing("a"), Standing::Removed);
    assert_eq!(bench.picked(), ["b"]);
    assert_eq!(bench.probed("a"), None, "the probe of who left ends");
    assert_eq!(bench.pool.sessions_of(&before), 1, "its session stays");
    assert_eq!(bench.pool.counts().members, 1);

    bench.advance(seconds(599));
    bench.set(&["a", "b"]);
    let after = bench.backend("a").unwrap();
    assert!(Arc::ptr_eq(&before, &after));
    assert_eq!(after.stats.ended.read()[0].1.read(Outcome::Completed), 1);
    assert_eq!(bench.pool.sessions_of(&after), 1);
    assert_eq!(bench.standing("a"), Standing::Unproven, "what was known of its health is old");
    assert!(after.last_report().is_none());
    bench.probe("a", true);
    assert_eq!(bench.picked(), ["a", "b"]);
    // The deadline from when it left means nothing any more.
    bench.advance(seconds(1_000));
    assert_eq!(bench.standing("a"), Standing::Up);
    drop(session);
}

#[test]
fn forgotten_after_ten_minutes_but_not_with_sessions() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let session = bench.lease("a");
    bench.hear_of(Trust::Written, Vec::new());
    bench.advance(seconds(599));
    assert!(bench.backend("a").is_some() && bench.backend("b").is_some());
    bench.advance(seconds(1));
    assert!(bench.backend("b").is_none(), "nobody uses it");
    assert!(bench.backend("a").is_some(), "a session uses it");
    bench.advance(seconds(3_600));
    assert!(bench.backend("a").is_some(), "a session still uses it");
    drop(session);
    bench.advance(seconds(10));
    assert!(bench.backend("a").is_none());
    assert_eq!(bench.members.next_deadline(), None, "nothing is left to look at");

    bench.set(&["a"]);
    assert_eq!(bench.backend("a").unwrap().stats.changes.load(SeqCst), 0, "a stranger");
}

#[test]
fn bytes_of_the_forgotten_stay_in_the_pools_total() {
    use crate::metrics::Direction::ToClient;
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.backend("a").unwrap().stats.bytes.cell(0).add(ToClient, 7);
    bench.backend("b").unwrap().stats.bytes.cell(0).add(ToClient, 5);
    bench.set(&["b"]);
    bench.advance(seconds(601));
    assert!(bench.backend("a").is_none());
    assert_eq!(bench.pool.bytes(ToClient), 12);
}

#[test]
fn a_backend_that_is_forgotten_is_never_counted_twice() {
    use crate::metrics::Direction::ToClient;
    let bench = Bench::up(TCP, &["a"]);
    let backend = bench.backend("a").unwrap();
    backend.stats.bytes.cell(0).add(ToClient, 7);
    // A scrape between the two steps of forgetting must not see a total that then goes back.
    assert!(bench.pool.forget(&backend));
    assert_eq!(bench.pool.bytes(ToClient), 7);
    bench.pool.publish(Vec::new());
    assert_eq!(bench.pool.bytes(ToClient), 7);
}

#[test]
fn another_address_keeps_the_counters_and_starts_health_anew() {
    let mut bench = Bench::up(TCP, &["a"]);
    let before = bench.backend("a").unwrap();
    before.stats.connects.fetch_add(3, SeqCst);
    let elsewhere = Endpoint { address: address("10.9.9.9:81"), ..endpoint("a") };
    bench.set_of(vec![elsewhere.clone()]);
    assert!(Arc::ptr_eq(&before, &bench.backend("a").unwrap()));
    assert_eq!(before.stats.connects.load(SeqCst), 3);
    assert_eq!(bench.standing("a"), Standing::Unproven);
    assert_eq!(bench.probed("a"), Some(elsewhere.address));
    assert!(before.last_report().is_none());

    // A report on the old address, on its way while it moved.
    let mut health = RiseFall::new(2, 3);
    health.record(true);
    bench.members.report(bench.now, probed("a", endpoint("a").address, true, &health));
    assert_eq!(bench.standing("a"), Standing::Unproven);
    bench.probe("a", true);
    assert_eq!(bench.lease("a").address(), elsewhere.address);
}

#[test]
fn a_report_on_who_left_or_never_was_changes_nothing() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.set(&[]);
    let mut health = RiseFall::new(2, 3);
    health.record(true);
    bench.members.report(bench.now, probed("a", endpoint("a").address, true, &health));
    bench.members.report(bench.now, probed("z", endpoint("z").address, true, &health));
    assert_eq!(bench.standing("a"), Standing::Removed);
    assert!(bench.backend("z").is_none());
}

#[test]
fn a_weight_changes_live() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let weigh = |weight| vec![Endpoint { weight, ..endpoint("a") }, endpoint("b")];
    bench.set_of(weigh(3));
    let leases: Vec<_> = (0..8).map(|_| bench.pool.pick(&PickContext::FIRST).unwrap()).collect();
    assert_eq!(leases.iter().filter(|lease| &*lease.backend().id == "a").count(), 6);
    assert_eq!(bench.standing("a"), Standing::Up, "health is not asked anew");
    bench.set_of(weigh(0));
    assert_eq!(bench.picked(), ["b"]);
    assert_eq!(bench.view("a").weight, 0);
    bench.set_of(weigh(1));
    assert_eq!(bench.picked(), ["a", "b"]);
}

#[test]
fn the_registrys_word_counts_at_once() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let say = |registry| vec![Endpoint { registry, note: Some("disk: full".into()), ..endpoint("a") }, endpoint("b")];
    let session = bench.lease("a");
    bench.set_of(say(Registry::Critical));
    assert_eq!(bench.standing("a"), Standing::Down);
    assert_eq!(&*bench.view("a").reason, "the registry says critical: disk: full");
    assert_eq!(bench.picked(), ["b"]);
    bench.set_of(say(Registry::Maintenance));
    assert_eq!(bench.standing("a"), Standing::Maintenance);
    assert_eq!(&*bench.view("a").reason, "the registry has it in maintenance: disk: full");
    bench.set_of(say(Registry::Warning));
    assert_eq!(bench.standing("a"), Standing::Up, "its probes went on meanwhile");
    assert_eq!(bench.picked(), ["a", "b"]);
    assert_eq!(bench.pool.sessions_of(session.backend()), 1);
}

#[test]
fn probes_go_on_while_the_registry_says_no() {
    let mut bench = Bench::up(TCP, &["a"]);
    bench.set_of(vec![Endpoint { registry: Registry::Maintenance, ..endpoint("a") }]);
    for _ in 0..3 {
        assert!(bench.probe("a", false));
    }
    bench.set(&["a"]);
    assert_eq!(bench.standing("a"), Standing::Down);
}

#[test]
fn the_reason_follows_what_decides_even_where_the_standing_stays() {
    let mut bench = Bench::up(TCP, &["a"]);
    let critical =
        |note: &str| vec![Endpoint { registry: Registry::Critical, note: Some(note.into()), ..endpoint("a") }];
    bench.set_of(critical("disk: full"));
    let since = bench.view("a").since;
    bench.set_of(critical("disk: on fire"));
    assert_eq!(&*bench.view("a").reason, "the registry says critical: disk: on fire");
    for _ in 0..3 {
        bench.probe("a", false);
    }
    assert_eq!(&*bench.view("a").reason, "the registry says critical: disk: on fire");
    bench.set(&["a"]);
    assert_eq!(bench.standing("a"), Standing::Down);
    assert_eq!(&*bench.view("a").reason, "http GET /health: status 503, wanted 200-399 (3rd failure)");
    assert_eq!(bench.view("a").since, since, "down it has been since then");
}

#[test]
fn the_reason_that_is_shown_is_the_last_result_and_costs_no_publication() {
    let mut bench = Bench::up(TCP, &["a"]);
    for _ in 0..3 {
        bench.probe("a", false);
    }
    let (backend, published) = (bench.backend("a").unwrap(), bench.view("a"));
    for _ in 0..81 {
        bench.probe("a", false);
    }
    assert_eq!(&*backend.reason(), "http GET /health: status 503, wanted 200-399 (84th failure)");
    bench.probe("a", true);
    assert_eq!(
        &*backend.reason(),
        "http GET /health: status 200 (1st pass)",
        "the last one, although it is still down"
    );
    assert!(Arc::ptr_eq(&backend.view(), &published));
    assert!(published.reason.ends_with("(3rd failure)"), "the log and the history keep what made it so");

    // What decides is something else: it is that something's word.
    bench.set_of(vec![Endpoint { registry: Registry::Critical, note: Some("disk".into()), ..endpoint("a") }]);
    bench.probe("a", false);
    assert_eq!(&*backend.reason(), "the registry says critical: disk");
}

#[test]
fn an_equal_set_changes_nothing() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let before = (bench.view("a"), bench.backend("a").unwrap().stats.changes.load(SeqCst));
    bench.set(&["b", "a"]);
    assert!(Arc::ptr_eq(&before.0, &bench.view("a")));
    assert_eq!(bench.backend("a").unwrap().stats.changes.load(SeqCst), before.1);
    assert_eq!(bench.view("a").facts.guard, Guard::None);
    assert_eq!(bench.probes.lock().unwrap().started, 2);
}

#[test]
fn ids_that_are_new_all_the_time_do_not_pile_up() {
    let mut bench = Bench::new(TCP);
    bench.set(&["long"]);
    let session = {
        bench.probe("long", true);
        bench.lease("long")
    };
    for round in 0..20 {
        bench.now += Duration::from_millis(50);
        let ids: Vec<_> = (0..300).map(|place| format!("{round}/{place}")).collect();
        bench.set(&ids.iter().map(String::as_str).collect::<Vec<_>>());
        let remembered = bench.members.members.len() - ids.len();
        assert!(remembered <= MOST_REMEMBERED, "{remembered}");
        assert_eq!(bench.pool.members().len(), bench.members.members.len());
    }
    // The newest are left, and the one with a session.
    assert_eq!(bench.standing("18/299"), Standing::Removed);
    assert_eq!(bench.standing("long"), Standing::Removed);
    assert!(bench.backend("0/0").is_none());
    let forgotten = bench.pool.forgotten_early.load(SeqCst);
    assert_eq!(forgotten, 19 * 300 + 1 - MOST_REMEMBERED as u64);
    // One that comes back is no longer about to be forgotten.
    bench.set(&["19/0"]);
    let forgotten = bench.pool.forgotten_early.load(SeqCst);
    drop(session);
    bench.advance(Duration::from_secs(601));
    assert_eq!(bench.members.members.len(), 1);
    assert_eq!(bench.pool.forgotten_early.load(SeqCst), forgotten, "those had their time");
}
