//! Random lives of pools against what must always hold. A failure names its seed: `SEED=… cargo test simulation`.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;

use super::*;
use crate::config::{CheckKind, WhenAllDown};
use crate::metrics::Direction;
use crate::pool::Counts;
use crate::standing::{Guard, Passive};

const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const SEEDS: u64 = 1_000;
const STEPS: usize = 150;

#[test]
fn what_must_always_hold_holds() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        // New ones each time: the name of a failed one is printed.
        Err(_) => (0..SEEDS).map(|_| fastrand::u64(..)).collect(),
    };
    for seed in seeds {
        let lived = catch_unwind(AssertUnwindSafe(|| Simulation::new(seed).live()));
        assert!(lived.is_ok(), "SEED={seed}");
    }
}

struct Simulation {
    bench: Bench,
    random: Rng,
    leases: Vec<Lease>,
    /// The last set, by id.
    newest: BTreeMap<String, Endpoint>,
    heard: bool,
    /// When a backend was last seen in the set or held.
    last_present: BTreeMap<String, Instant>,
    /// As above, or with a session.
    last_needed: BTreeMap<String, Instant>,
    bytes: u64,
    waiting: Vec<Evidence>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let kind = if random.bool() { "tcp" } else { "none" };
        let all_down = if random.bool() { "any" } else { "refuse" };
        let balance = if random.bool() { "round_robin" } else { "least_connections" };
        let (rise, fall) = (random.u32(1..4), random.u32(1..4));
        let bench = Bench::new(&format!(
            "balance = \"{balance}\"\nwhen_all_down = \"{all_down}\"\n\
             check = {{ kind = \"{kind}\", {} fall = {fall} }}",
            if kind == "none" { String::new() } else { format!("rise = {rise},") }
        ));
        Self {
            bench,
            random,
            leases: Vec::new(),
            newest: BTreeMap::new(),
            heard: false,
            last_present: BTreeMap::new(),
            last_needed: BTreeMap::new(),
            bytes: 0,
            waiting: Vec::new(),
        }
    }

    fn live(mut self) {
        for _ in 0..STEPS {
            self.step();
            self.check();
        }
        // The end of everything: all sessions end, all backends leave, time passes.
        self.leases.clear();
        self.set(BTreeMap::new(), None);
        self.pass(seconds(700));
        self.check();
        assert!(self.bench.pool.members().is_empty());
        assert_eq!(self.bench.pool.counts(), Counts::default());
        assert!(self.bench.probes.lock().unwrap().running.is_empty());
        assert_eq!(self.bench.members.next_deadline(), None);
    }

    fn step(&mut self) {
        match self.random.u32(0..100) {
            0..15 => self.random_set(),
            15..50 => self.random_report(),
            50..65 => self.pick(),
            65..75 => self.end_a_dial(),
            75..83 => drop(self.random_lease()),
            83..88 => self.hear(),
            88..95 => {
                let by = Duration::from_millis(self.random.u64(0..15_000));
                self.pass(by);
            }
            95..99 => {
                let by = seconds(self.random.u64(0..700));
                self.pass(by);
            }
            _ => self.bench.members.tick(self.bench.now),
        }
    }

    fn random_set(&mut self) {
        let mut set = BTreeMap::new();
        let share = self.random.f64();
        for id in IDS {
            if self.random.f64() < share {
                let old = self.newest.get(id).filter(|_| self.random.u32(0..4) > 0).cloned();
                set.insert(id.to_owned(), old.unwrap_or_else(|| self.random_endpoint(id)));
            }
        }
        let hold = (self.random.u32(0..3) == 0).then(|| seconds(self.random.u64(0..60)));
        self.set(set, hold);
    }

    fn random_endpoint(&mut self, id: &str) -> Endpoint {
        let registry = match self.random.u32(0..8) {
            0 => Registry::Critical,
            1 => Registry::Maintenance,
            2 => Registry::Warning,
            _ => Registry::Passing,
        };
        Endpoint {
            address: SocketAddr::from(([10, 0, 0, self.random.u8(1..3)], 80)),
            weight: self.random.u16(0..4),
            registry,
            ..endpoint(id)
        }
    }

    fn set(&mut self, set: BTreeMap<String, Endpoint>, hold: Option<Duration>) {
        let endpoints = set.values().cloned().collect();
        let hold_missing_until = hold.map(|hold| self.bench.now + hold);
        // Whoever left was needed until now.
        for id in self.newest.keys() {
            self.last_needed.insert(id.clone(), self.bench.now);
        }
        self.newest = set;
        self.heard = true;
        let before = self.standings();
        self.bench.members.update(self.bench.now, Update { endpoints, hold_missing_until });

        let calm = hold.is_none_or(|hold| hold.is_zero());
        for backend in self.bench.pool.members().iter() {
            let view = backend.view();
            let Some(endpoint) = self.newest.get(&*backend.id) else {
                let held = view.facts.guard == Guard::Held;
                assert!(!(held && calm), "{}: held by a calm set", backend.id);
                let was = before.get(&*backend.id);
                assert!(
                    !held || was.is_some_and(|was| *was != Standing::Removed),
                    "{}: back from the dead",
                    backend.id
                );
                continue;
            };
            assert_eq!((view.address, view.weight), (endpoint.address, endpoint.weight), "{}", backend.id);
            assert_eq!((view.facts.registry, view.facts.guard), (endpoint.registry, Guard::None), "{}", backend.id);
        }
    }

    fn standings(&self) -> BTreeMap<String, Standing> {
        self.bench.pool.members().iter().map(|backend| (backend.id.to_string(), backend.view().standing)).collect()
    }

    fn random_report(&mut self) {
        let id = IDS[self.random.usize(..IDS.len())];
        let passed = self.random.u32(0..3) > 0;
        if self.random.u32(0..10) > 0 {
            self.bench.probe(id, passed);
            return;
        }
        // One from another address.
        let before = self.bench.backend(id).map(|backend| backend.view());
        let mut health = RiseFall::new(1, 1);
        health.record(passed);
        self.bench.members.report(self.bench.now, probed(id, address("10.9.9.9:9"), passed, &health));
        let after = self.bench.backend(id).map(|backend| backend.view());
        assert_eq!(before.map(|view| view.facts), after.map(|view| view.facts));
    }

    fn pick(&mut self) {
        let members = self.bench.pool.members();
        let tried: Vec<_> = members.iter().filter(|_| self.random.u32(0..5) == 0).cloned().collect();
        let (fail_open, eligible) = (self.bench.pool.fail_open(), self.bench.pool.counts().eligible);
        let Ok(lease) = self.bench.pool.pick(&tried) else {
            assert!(eligible <= tried.len(), "{eligible} eligible, {} tried, none picked", tried.len());
            return;
        };
        let view = lease.backend().view();
        let may = view.standing == Standing::Up || (fail_open && view.standing.is_last_resort());
        assert!(may && view.weight > 0, "picked {}: {view:?}", lease.backend().id);
        assert_eq!(lease.address(), view.address);
        assert!(!tried.iter().any(|tried| Arc::ptr_eq(tried, lease.backend())), "tried before");
        self.leases.push(lease);
    }

    fn end_a_dial(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let lease = &self.leases[self.random.usize(..self.leases.len())];
        if self.random.u32(0..4) == 0 {
            lease.connected(Duration::from_millis(1));
            let bytes = self.random.u64(0..100);
            lease.backend().stats.bytes.cell(0).add(Direction::ToClient, bytes);
            self.bytes += bytes;
        } else {
            let all = ConnectFailure::ALL;
            lease.failed(all[self.random.usize(..all.len())]);
        }
    }

    fn random_lease(&mut self) -> Option<Lease> {
        let count = self.leases.len();
        (count > 0).then(|| self.leases.swap_remove(self.random.usize(..count)))
    }

    /// Evidence may have waited for long and come in any order.
    fn hear(&mut self) {
        while let Ok(evidence) = self.bench.evidence.try_recv() {
            self.waiting.push(evidence);
        }
        self.random.shuffle(&mut self.waiting);
        let keep = self.random.usize(..=self.waiting.len());
        for evidence in self.waiting.split_off(keep) {
            self.bench.members.evidence(self.bench.now, &evidence);
        }
    }

    fn pass(&mut self, by: Duration) {
        self.bench.advance(by);
        let now = self.bench.now;
        assert!(self.bench.members.next_deadline().is_none_or(|at| at > now), "a deadline was passed over");
    }

    fn check(&mut self) {
        let (pool, now) = (Arc::clone(&self.bench.pool), self.bench.now);
        let members = pool.members();
        let (any, checked) =
            (pool.settings().when_all_down == WhenAllDown::Any, pool.settings().check.kind != CheckKind::None);

        let mut counts = Counts::default();
        for backend in members.iter() {
            let (id, view) = (&*backend.id, backend.view());
            assert_eq!(view.facts.standing(), view.standing, "{id}");
            assert_eq!(view.facts.probe.is_some(), checked, "{id}");
            if let Passive::Ejected { until } = view.facts.passive {
                assert_eq!(until.is_some(), !checked, "{id}: who ends the ejection?");
                assert!(until.is_none_or(|until| until > now), "{id}: ejected for longer than meant");
            }
            let eligible =
                view.standing == Standing::Up || (any && pool.is_all_down() && view.standing.is_last_resort());
            counts.members += usize::from(view.standing != Standing::Removed);
            counts.up += usize::from(view.standing == Standing::Up && view.weight > 0);
            counts.unproven += usize::from(view.standing == Standing::Unproven);
            counts.eligible += usize::from(eligible && view.weight > 0);

            let left = view.facts.registry == Registry::Absent && view.facts.guard == Guard::None;
            assert_eq!(left, view.standing == Standing::Removed, "{id}");
            let probe = self.bench.probed(id);
            assert_eq!(probe, (checked && !left).then_some(view.address), "{id}: the probe");
            assert!(left || view.facts.guard == Guard::Held || self.newest.contains_key(id), "{id}: why is it here?");

            let sessions = self.leases.iter().filter(|lease| Arc::ptr_eq(lease.backend(), backend)).count();
            assert_eq!(pool.sessions_of(backend) as usize, sessions, "{id}");
            if !left {
                self.last_present.insert(id.to_owned(), now);
            }
            if !left || sessions > 0 {
                // Who is held may leave at any time of the next step.
                let until = if view.facts.guard == Guard::Held { now + seconds(60) } else { now };
                self.last_needed.insert(id.to_owned(), until);
            }
            // 10 minutes after it left, or 10 seconds after its last session if that is later.
            let unneeded = self.last_needed.get(id).map_or(Duration::ZERO, |&at| now - at);
            assert!(unneeded <= seconds(610), "{id} is remembered for {unneeded:?}");
        }
        assert_eq!(pool.counts(), counts);
        for id in self.newest.keys() {
            assert!(self.bench.backend(id).is_some(), "{id} is forgotten although it is in the set");
        }
        self.last_present.retain(|id, &mut at| {
            let forgotten = self.bench.backend(id).is_none();
            assert!(!forgotten || now - at >= seconds(600), "{id} is forgotten after {:?}", now - at);
            !forgotten
        });
        let ids: BTreeSet<_> = members.iter().map(|backend| &backend.id).collect();
        assert_eq!(ids.len(), members.len(), "an identity twice");
        for lease in &self.leases {
            let known = members.iter().any(|backend| Arc::ptr_eq(backend, lease.backend()));
            assert!(known, "{} is forgotten although it has a session", lease.backend().id);
        }
        assert_eq!(pool.sessions(), self.leases.len());
        assert_eq!(pool.bytes(Direction::ToClient), self.bytes);

        assert!(!(pool.is_all_down() && counts.up > 0), "all down with one up");
        assert!(!self.heard || pool.is_all_down() || counts.up > 0 || counts.unproven > 0, "all down and not said so");
        assert_eq!(pool.fail_open(), any && pool.is_all_down());
        assert!(!self.heard || pool.is_settled() || counts.unproven > 0);
    }
}
