//! Tiers and slow start: which backend gets how much.

use super::*;
use crate::pool::TierLoad;

fn tier(id: &str, priority: u8) -> Endpoint {
    Endpoint { priority, ..endpoint(id) }
}

fn share(bench: &Bench, id: &str) -> u32 {
    bench.view(id).share / 100
}

#[test]
fn a_backup_is_used_when_the_first_tier_can_not_carry_it() {
    let mut bench = Bench::new(TCP);
    bench.set_of(vec![tier("a", 0), tier("b", 0), tier("c", 1), tier("d", 2)]);
    for id in ["a", "b", "c", "d"] {
        bench.probe(id, true);
    }
    assert_eq!((bench.picked(), bench.pool.counts().eligible), (vec!["a".to_owned(), "b".to_owned()], 2));
    for _ in 0..3 {
        bench.probe("a", false);
    }
    // Half of them times 1.4.
    assert_eq!(bench.pool.tier_loads().map(TierLoad::percent)[..3], [70, 30, 0]);
    let backups = (0..100).filter(|_| &*bench.pool.pick(&PickContext::FIRST).unwrap().backend().id == "c").count();
    assert_eq!(backups, 30);
    for _ in 0..3 {
        bench.probe("b", false);
    }
    assert_eq!(bench.picked(), ["c"]);
    for _ in 0..3 {
        bench.probe("c", false);
    }
    assert_eq!(bench.picked(), ["d"]);
    for _ in 0..2 {
        bench.probe("a", true);
        bench.probe("b", true);
    }
    assert_eq!(bench.picked(), ["a", "b"], "and left");
    // A backend that was taken out is not missed.
    bench.set_of(vec![Endpoint { registry: Registry::Maintenance, ..tier("a", 0) }, tier("b", 0), tier("c", 1)]);
    assert_eq!(bench.picked(), ["b"]);
}

#[test]
fn a_newcomers_share_grows_with_its_age() {
    let mut bench = Bench::up(&format!("{TCP}\nslow_start = \"30s\""), &["a", "b"]);
    assert_eq!((share(&bench, "a"), share(&bench, "b")), (100, 100), "they are equally new");
    bench.advance(seconds(100));
    bench.set(&["a", "b", "c"]);
    bench.probe("c", true);
    assert_eq!(share(&bench, "c"), 10);
    bench.advance(seconds(15));
    assert_eq!(share(&bench, "c"), 50);
    bench.set(&["a", "b", "c", "d"]);
    assert_eq!(share(&bench, "c"), 50, "a change of membership is no new start");
    bench.advance(seconds(16));
    assert_eq!((share(&bench, "c"), share(&bench, "a")), (100, 100));
    assert_eq!(bench.members.next_deadline(), None, "nothing grows any more");
}

#[test]
fn a_recovered_backend_starts_slowly_and_alone_it_does_not() {
    let mut bench = Bench::up(&format!("{TCP}\nslow_start = \"30s\"\ndamping.stay_up = \"0s\""), &["a", "b"]);
    bench.advance(seconds(100));
    for _ in 0..3 {
        bench.probe("a", false);
    }
    bench.probe("a", true);
    bench.probe("a", true);
    assert_eq!(share(&bench, "a"), 10);
    let a = (0..110).filter(|_| &*bench.pool.pick(&PickContext::FIRST).unwrap().backend().id == "a").count();
    assert_eq!(a, 10);
    // The others are gone: none is older.
    bench.set(&["a"]);
    bench.advance(seconds(1));
    assert_eq!(share(&bench, "a"), 100);
}

/// The caps of a backend and of the pool grow with its share, are never below 1, and are never exceeded.
#[test]
fn a_newcomers_cap_grows_with_its_age() {
    let with_cap = |id: &str, cap| Endpoint { max_sessions: cap, ..endpoint(id) };
    let mut bench = Bench::up(&format!("{TCP}\nslow_start = \"100s\"\nbackend_max_sessions = 40"), &["old"]);
    bench.advance(seconds(1_000));
    bench.set_of(vec![endpoint("old"), with_cap("own", Some(10)), with_cap("one", Some(1)), endpoint("pools")]);
    for id in ["own", "one", "pools"] {
        bench.probe(id, true);
    }
    let mut leases = Vec::new();
    for (later, wanted) in [(0, [1, 1, 4]), (25, [2, 1, 10]), (25, [5, 1, 20]), (51, [10, 1, 40])] {
        bench.advance(seconds(later));
        let caps = ["own", "one", "pools"].map(|id| bench.view(id).max_sessions.unwrap());
        // It grows in steps.
        assert!(
            caps.into_iter().zip(wanted).all(|(cap, wanted)| (wanted - wanted / 10..=wanted).contains(&cap)),
            "{caps:?}"
        );
        assert_eq!(bench.view("old").max_sessions, Some(40));
        leases.extend(std::iter::from_fn(|| bench.pool.pick(&PickContext::FIRST).ok()));
        for (id, cap) in ["own", "one", "pools"].into_iter().zip(caps) {
            let sessions = leases.iter().filter(|lease| &*lease.backend().id == id).count();
            assert_eq!(sessions, cap as usize, "{id}");
        }
    }
}
