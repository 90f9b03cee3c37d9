//! A backend whose host is a name: which of its addresses it has.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const FIRST: &str = "[::1]:80";
const SECOND: &str = "127.0.0.1:80";
const THIRD: &str = "127.0.0.2:80";
const EAGER: &str = "check = { kind = \"tcp\", rise = 2, fall = 3 }\noutliers.mode = \"off\"";
const NO_CHECK_OFF: &str = "check = { kind = \"none\" }\noutliers.mode = \"off\"";

/// One backend, `db`, and the probes of each of its addresses.
struct Name {
    bench: Bench,
    probes: Arc<Mutex<BTreeMap<SocketAddr, (u64, RiseFall)>>>,
    asked: Arc<AtomicUsize>,
}

struct EndedCounts(Arc<Mutex<BTreeMap<SocketAddr, (u64, RiseFall)>>>, SocketAddr, u64);

impl Probing for EndedCounts {
    fn pause(&mut self) {}

    fn resume(&mut self) {}
}

impl Drop for EndedCounts {
    fn drop(&mut self) {
        let mut probes = self.0.lock().unwrap();
        if probes.get(&self.1).is_some_and(|(number, _)| *number == self.2) {
            probes.remove(&self.1);
        }
    }
}

impl Name {
    fn new(keys: &str, addresses: &[&str]) -> Self {
        let mut bench = Bench::new(keys);
        let probes: Arc<Mutex<BTreeMap<SocketAddr, (u64, RiseFall)>>> = Arc::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let (running, counted, started) = (Arc::clone(&probes), Arc::clone(&asked), AtomicUsize::new(0));
        let watch: ProbeHandle = Box::new(move |_, address| {
            let number = started.fetch_add(1, Ordering::Relaxed) as u64;
            running.lock().unwrap().insert(address, (number, RiseFall::new(2, 3)));
            Box::new(EndedCounts(Arc::clone(&running), address, number))
        });
        bench.members = Members::new(Arc::clone(&bench.pool), watch, fastrand::Rng::with_seed(1));
        bench.members.look_up = Box::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let mut name = Self { bench, probes, asked };
        name.resolves(addresses);
        name
    }

    fn resolves(&mut self, addresses: &[&str]) {
        let candidates: Arc<[SocketAddr]> = addresses.iter().map(|text| address(text)).collect();
        self.bench.set_of(vec![Endpoint { address: candidates[0], candidates, ..endpoint("db") }]);
    }

    fn probe(&mut self, at: &str, passed: bool) {
        let report = {
            let mut probes = self.probes.lock().unwrap();
            let (_, health) = probes.get_mut(&address(at)).unwrap_or_else(|| panic!("{at} is not probed"));
            health.record(passed);
            probed("db", address(at), passed, health)
        };
        self.bench.members.report(self.bench.now, report);
    }

    fn probed(&self) -> Vec<String> {
        self.probes.lock().unwrap().keys().map(ToString::to_string).collect()
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }

    fn is(&self, standing: Standing, at: &str) {
        let view = self.bench.view("db");
        assert_eq!((view.standing, view.address), (standing, address(at)), "{}", view.reason);
    }
}

#[test]
fn the_first_address_is_dead_and_the_second_serves() {
    let mut name = Name::new(TCP, &[FIRST, SECOND]);
    assert_eq!(name.probed(), [FIRST]);
    name.probe(FIRST, false);
    // Not down: one of its addresses has not been heard yet, and clients wait for that.
    name.is(Standing::Unproven, FIRST);
    assert!(!name.bench.pool.is_settled());
    name.probe(SECOND, true);
    name.is(Standing::Up, SECOND);
    assert!(name.bench.pool.is_settled());
    assert_eq!(name.probed(), [SECOND]);
    assert_eq!(name.bench.lease("db").address(), address(SECOND));
}

#[test]
fn the_first_address_is_silent_and_the_second_serves() {
    let mut name = Name::new(TCP, &[FIRST, SECOND, THIRD]);
    name.bench.advance(Duration::from_millis(250));
    assert_eq!(name.probed().len(), 3);
    name.probe(THIRD, true);
    name.is(Standing::Up, THIRD);
}

#[test]
fn it_is_down_when_all_addresses_are_and_up_at_the_first_that_works() {
    let mut name = Name::new(TCP, &[FIRST, SECOND, THIRD]);
    name.probe(FIRST, false);
    name.probe(THIRD, false);
    name.is(Standing::Unproven, FIRST);
    name.probe(SECOND, false);
    name.is(Standing::Down, FIRST);
    name.probe(THIRD, true);
    name.is(Standing::Down, FIRST);
    name.probe(THIRD, true);
    name.is(Standing::Up, THIRD);
    assert_eq!(name.probed(), [THIRD]);
}

#[test]
fn an_address_that_dies_is_left_when_its_check_says_so_and_never_down_in_between() {
    let mut name = Name::new(TCP, &[FIRST, SECOND]);
    name.probe(FIRST, true);
    assert_eq!((name.probed(), name.asked()), (vec![FIRST.to_owned()], 0));
    name.probe(FIRST, false);
    assert_eq!((name.probed().len(), name.asked()), (2, 1));
    name.probe(SECOND, true);
    name.is(Standing::Up, FIRST);
    name.probe(FIRST, false);
    name.probe(FIRST, false);
    name.is(Standing::Up, SECOND);
    let changes = name.bench.backend("db").unwrap().history.read();
    assert!(changes.iter().all(|change| change.to != Standing::Down), "{changes:?}");
}

#[test]
fn one_lost_probe_moves_nothing() {
    let mut name = Name::new(TCP, &[FIRST, SECOND]);
    name.probe(FIRST, true);
    name.probe(FIRST, false);
    name.probe(SECOND, true);
    name.probe(FIRST, true);
    name.is(Standing::Up, FIRST);
    assert_eq!(name.probed(), [FIRST]);
}

#[test]
fn a_session_that_fails_moves_it_as_soon_as_another_address_has_passed() {
    for keys in [TCP, EAGER] {
        let mut name = Name::new(keys, &[FIRST, SECOND]);
        name.probe(FIRST, true);
        name.bench.fail("db", 1);
        name.is(Standing::Up, FIRST);
        assert_eq!(name.asked(), 1);
        name.probe(SECOND, true);
        name.is(Standing::Up, SECOND);
        // What is still said of the old one is past.
        name.bench.fail("db", 1);
        name.probe(SECOND, true);
        name.is(Standing::Up, SECOND);
    }
}

#[test]
fn without_a_check_the_next_session_tries_the_next_address() {
    for keys in [NO_CHECK, NO_CHECK_OFF] {
        let mut name = Name::new(keys, &[FIRST, SECOND, THIRD]);
        name.is(Standing::Up, FIRST);
        name.bench.fail("db", 1);
        name.is(Standing::Up, SECOND);
        assert_eq!(name.asked(), 1);
        name.bench.fail("db", 1);
        name.is(Standing::Up, THIRD);
        name.bench.succeed("db");
        name.bench.fail("db", 1);
        name.is(Standing::Up, FIRST);
    }
}

#[test]
fn sessions_that_fail_at_all_addresses_count_against_the_backend() {
    let mut name = Name::new(NO_CHECK, &[FIRST, SECOND]);
    let spare = Endpoint { address: address("10.0.0.9:80"), ..endpoint("spare") };
    let candidates: Arc<[SocketAddr]> = [address(FIRST), address(SECOND)].into();
    name.bench.set_of(vec![Endpoint { address: candidates[0], candidates, ..endpoint("db") }, spare]);
    name.bench.fail("db", 1);
    name.is(Standing::Up, SECOND);
    name.bench.fail("db", 3);
    name.is(Standing::Ejected, SECOND);
    // A trial that fails is the next one's turn, and it stays out.
    for at in [FIRST, SECOND, FIRST] {
        name.bench.advance(seconds(3));
        let trial = name.bench.trial().expect("a trial");
        trial.failed(ConnectFailure::Refused);
        drop(trial);
        name.bench.hear();
        name.is(Standing::Ejected, at);
    }
}

#[test]
fn a_name_that_moved_is_followed_while_the_old_address_refuses() {
    let mut name = Name::new(TCP, &[FIRST]);
    name.probe(FIRST, true);
    for _ in 0..3 {
        name.probe(FIRST, false);
    }
    name.is(Standing::Down, FIRST);
    assert_eq!(name.asked(), 3);
    name.resolves(&[SECOND]);
    name.is(Standing::Unproven, SECOND);
    name.probe(SECOND, true);
    name.is(Standing::Up, SECOND);
}

#[test]
fn an_address_that_joins_while_the_others_fail_is_tried_at_once() {
    let mut name = Name::new(TCP, &[FIRST]);
    name.probe(FIRST, false);
    name.is(Standing::Down, FIRST);
    name.resolves(&[FIRST, THIRD]);
    name.probe(THIRD, true);
    name.is(Standing::Up, THIRD);
    // It is kept while it is among the answers, wherever it stands.
    name.resolves(&[FIRST, SECOND, THIRD]);
    name.is(Standing::Up, THIRD);
    assert_eq!(name.probed(), [THIRD]);
    name.resolves(&[FIRST, SECOND]);
    name.is(Standing::Unproven, FIRST);
}

#[test]
fn a_written_address_has_no_others() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    bench.fail("a", 3);
    assert_eq!(bench.standing("a"), Standing::Ejected);
    assert_eq!(bench.view("a").address, endpoint("a").address);
}

/// What sessions at that address come to, and where they are.
fn standing_at(name: &Name, at: &str) -> Standing {
    name.bench.backend("db").unwrap().standing_at(address(at))
}

#[test]
fn sessions_at_an_address_that_its_check_left_are_at_one_that_is_down_until_it_works_again() {
    let mut name = Name::new(TCP, &[FIRST, SECOND]);
    name.probe(FIRST, true);
    let session = name.bench.lease("db");
    name.probe(FIRST, false);
    name.probe(SECOND, true);
    name.probe(FIRST, false);
    assert_eq!(standing_at(&name, FIRST), Standing::Up);
    name.probe(FIRST, false);
    name.is(Standing::Up, SECOND);
    let there = name.bench.lease("db");
    assert_eq!((standing_at(&name, FIRST), standing_at(&name, SECOND)), (Standing::Down, Standing::Up));
    assert_eq!(standing_at(&name, THIRD), Standing::Removed);
    // It is still asked, and what it says holds for the sessions there.
    assert_eq!(name.probed(), [SECOND, FIRST]);
    name.probe(FIRST, true);
    assert_eq!(standing_at(&name, FIRST), Standing::Down);
    name.probe(FIRST, true);
    assert_eq!(standing_at(&name, FIRST), Standing::Up);
    for _ in 0..3 {
        name.probe(FIRST, false);
    }
    assert_eq!(standing_at(&name, FIRST), Standing::Down);
    name.is(Standing::Up, SECOND);
    // What a person or the registry says is said of both.
    name.bench.hear_of(Trust::Written, Vec::new());
    assert_eq!((standing_at(&name, FIRST), standing_at(&name, SECOND)), (Standing::Removed, Standing::Removed));
    name.resolves(&[FIRST, SECOND]);
    drop((session, there));
}

#[test]
fn an_address_that_sessions_made_it_leave_is_probed_on_while_sessions_are_there() {
    let mut name = Name::new(TCP, &[FIRST, SECOND]);
    name.probe(FIRST, true);
    let session = name.bench.lease("db");
    name.bench.fail("db", 1);
    name.probe(SECOND, true);
    name.is(Standing::Up, SECOND);
    // Sessions fail there; nothing is said of those that run.
    assert_eq!(standing_at(&name, FIRST), Standing::Up);
    for _ in 0..3 {
        name.probe(FIRST, false);
    }
    assert_eq!(standing_at(&name, FIRST), Standing::Down);
    drop(session);
    name.probe(FIRST, false);
    assert_eq!(name.probed(), [SECOND]);
    // It does not go back to where sessions failed as soon as a probe passes there.
    assert_eq!(name.bench.view("db").dead, [].into());
}

#[test]
fn a_new_check_goes_on_where_sessions_are() {
    let mut name = Name::new(TCP, &[FIRST, SECOND]);
    name.probe(FIRST, true);
    let session = name.bench.lease("db");
    name.probe(FIRST, false);
    name.probe(SECOND, true);
    name.probe(FIRST, false);
    name.probe(FIRST, false);
    assert_eq!(standing_at(&name, FIRST), Standing::Down);
    name.resolves(&[SECOND, FIRST, THIRD]);
    assert_eq!((standing_at(&name, FIRST), name.probed()), (Standing::Down, vec![SECOND.to_owned(), FIRST.to_owned()]));
    // The name leads there no more: that is another thing.
    name.resolves(&[SECOND, THIRD]);
    assert_eq!((standing_at(&name, FIRST), name.probed()), (Standing::Removed, vec![SECOND.to_owned()]));
    drop(session);
}
