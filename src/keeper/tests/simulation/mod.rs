//! Random lives of pools against what must always hold. A failure names its seed: `SEED=… cargo test simulation`.

mod check;
mod storm;

use std::collections::BTreeMap;

use fastrand::Rng;

use super::*;
use crate::config::{Balance, Spill};
use crate::health::{Advice, AdvisedWeight, AgentWish, ProbeState, most_ejected};
use crate::metrics::Direction;
use crate::operator::{Lasting, Override, Wanted};
use crate::pool::{MemberCounts, TrialState};
use crate::seeds::seeds;
use crate::standing::Guard;

const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const STEPS: usize = 100;

#[test]
fn what_must_always_hold_holds() {
    for seed in seeds(1_500, 500) {
        Simulation::new(seed).live();
    }
}

struct Simulation {
    bench: Bench,
    random: Rng,
    leases: Vec<Lease>,
    /// The last set, by id.
    newest: BTreeMap<String, Endpoint>,
    heard: bool,
    /// What the registry said last of each that is not held, but for what it does not know.
    words: BTreeMap<String, Registry>,
    addresses: BTreeMap<String, SocketAddr>,
    /// Until when someone may be held; `None` = for as long as the source fails.
    held_until: Option<Instant>,
    /// When a backend was last seen in the set or held.
    last_present: BTreeMap<String, Instant>,
    /// As above, or with a session.
    last_needed: BTreeMap<String, Instant>,
    bytes: u64,
    waiting: Vec<SessionReport>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let kind = ["tcp", "http", "none"][random.usize(..3)];
        let all_down = if random.bool() { "any" } else { "refuse" };
        let balance = Balance::ALL[random.usize(..Balance::ALL.len())].name();
        let (rise, fall) = (random.u32(1..4), random.u32(1..4));
        let mut keys = format!(
            "balance = \"{balance}\"\nwhen_all_down = \"{all_down}\"\n\
             check = {{ kind = \"{kind}\", {} fall = {fall} }}\n",
            if kind == "none" { String::new() } else { format!("rise = {rise},") }
        );
        for key in [
            format!("slow_start = \"{}s\"", random.u32(1..100)),
            format!("spill = {:?}", &["full", "failed", "slow"][..random.usize(..4)]),
            format!("overprovisioning = {}", random.u32(1..4)),
            format!("panic_threshold = {}", random.u32(0..101)),
            format!("backend_max_sessions = {}", random.u32(1..5)),
            format!("guard.hold = \"{}s\"", random.u32(0..90)),
            format!("damping.stay_up = \"{}s\"", random.u32(0..20)),
            format!("damping.window = \"{}s\"", random.u32(1..60)),
            format!("outliers.max_ejected = {}", random.u32(1..101)),
            format!("outliers.minimum_volume = {}", random.u32(1..9)),
            format!("outliers.mode = \"{}\"", if random.bool() { "observe" } else { "off" }),
        ] {
            if random.u32(0..3) == 0 {
                keys += &key;
                keys += "\n";
            }
        }
        let bench = Bench::new(&keys);
        let now = bench.now;
        Self {
            bench,
            random,
            leases: Vec::new(),
            newest: BTreeMap::new(),
            heard: false,
            words: BTreeMap::new(),
            addresses: BTreeMap::new(),
            held_until: Some(now),
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
        self.set(BTreeMap::new(), Trust::Written);
        self.pass(seconds(700));
        self.check();
        assert!(self.bench.pool.members().is_empty());
        assert_eq!(self.bench.pool.counts(), MemberCounts::default());
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
            95..97 => {
                let by = seconds(self.random.u64(0..700));
                self.pass(by);
            }
            97 => self.advise(),
            98 if self.random.u32(0..4) == 0 => {
                let zone = self.random_zone();
                self.bench.pool.set_zone(zone.as_ref());
            }
            98 => self.release(),
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
        let trust = match self.random.u32(0..20) {
            0 => Trust::Written,
            1..8 => Trust::Doubted(Mistrust::ALL[self.random.usize(..3)]),
            8..10 if self.heard => {
                // The last set again.
                set = self.newest.clone();
                Trust::Failing
            }
            _ => Trust::Calm,
        };
        self.set(set, trust);
    }

    fn random_zone(&mut self) -> Option<Arc<str>> {
        [None, Some("here".into()), Some("there".into())][self.random.usize(..3)].clone()
    }

    /// In the order in which backends are used: by priority, and those in our zone before the others.
    fn tier(&self, view: &BackendView) -> usize {
        let own = self.bench.pool.zone();
        usize::from(view.priority) * 2 + usize::from(own.is_some() && view.zone != own)
    }

    fn random_endpoint(&mut self, id: &str) -> Endpoint {
        let registry = match self.random.u32(0..10) {
            0 | 1 => Registry::Critical,
            2 => Registry::Maintenance,
            3 => Registry::Warning,
            4 => Registry::Unknown,
            _ => Registry::Passing,
        };
        Endpoint {
            address: SocketAddr::from(([10, 0, 0, self.random.u8(1..3)], 80)),
            weight: self.random.u16(0..4),
            priority: self.random.u8(0..6).saturating_sub(3),
            max_sessions: (self.random.u32(0..4) == 0).then(|| self.random.u32(1..4)),
            zone: self.random_zone(),
            registry,
            ..endpoint(id)
        }
    }

    fn set(&mut self, set: BTreeMap<String, Endpoint>, trust: Trust) {
        let (now, endpoints) = (self.bench.now, set.values().cloned().collect());
        // What left was needed until now.
        for id in self.newest.keys() {
            self.last_needed.insert(id.clone(), now);
        }
        self.newest = set;
        self.heard = true;
        let before = self.views();
        self.bench.members.update(now, Update { endpoints, trust });
        self.open(now, trust, &before);

        for (id, view) in self.views() {
            let was = before.get(&id);
            let is_new = view.facts.is_held() && !was.is_some_and(|was| was.facts.is_held());
            assert!(!is_new || was.is_some_and(|was| was.standing != Standing::Removed), "{id}: back from the dead");
            let Some(endpoint) = self.newest.get(&id) else { continue };
            assert_eq!((view.address, view.weight), (endpoint.address, endpoint.weight), "{id}");
            let critical_still = endpoint.registry == Registry::Unknown && view.facts.registry == Registry::Critical;
            assert!(view.facts.registry == endpoint.registry || critical_still, "{id}: {view:?}");
            assert!(!view.facts.is_held() || endpoint.registry == Registry::Critical, "{id}: {view:?}");
        }
    }

    /// A set may begin a time in which working members are held, and end one.
    fn open(&mut self, now: Instant, trust: Trust, before: &BTreeMap<String, Arc<BackendView>>) {
        let is_over = self.held_until.is_some_and(|until| until <= now);
        let end = Some(now + self.bench.pool.settings().resilience.guard.hold);
        match trust {
            Trust::Written => self.held_until = Some(now),
            Trust::Failing if is_over => {}
            Trust::Failing => self.held_until = None,
            Trust::Doubted(_) => self.held_until = end,
            Trust::Calm if self.held_until.is_none() => self.held_until = end,
            Trust::Calm if !is_over => {}
            // Only where nothing good is left, and two or more are held then or were taken out by a person.
            Trust::Calm => {
                let views = self.views();
                let held: Vec<_> = views.iter().filter(|(_, view)| view.facts.is_held()).collect();
                if held.is_empty() {
                    return;
                }
                assert!(held.len() > 1, "one is held in calm");
                let bad = [Registry::Critical, Registry::Maintenance];
                assert!(self.newest.values().all(|endpoint| bad.contains(&endpoint.registry)), "others are there");
                for (id, view) in held {
                    assert_eq!(view.facts.guard, Guard::Held(Mistrust::Shrink), "{id}");
                    assert_eq!(before[id].facts.probe, Some(ProbeState::Up), "{id}");
                }
                self.held_until = end;
            }
        }
    }

    fn release(&mut self) {
        let (what, at) = (Wanted::Release, SystemTime::now());
        let command = Override { value: what, by: "me".into(), note: None, at, lasting: Lasting::Kept };
        let held = self.views().values().filter(|view| view.facts.is_held()).count();
        let released = self.bench.members.operate(self.bench.now, command).unwrap();
        assert!(released >= held, "{released} of {held}");
        self.held_until = Some(self.bench.now);
    }

    fn views(&self) -> BTreeMap<String, Arc<BackendView>> {
        self.bench.pool.members().iter().map(|backend| (backend.id.to_string(), backend.view())).collect()
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

    fn advise(&mut self) {
        let id = IDS[self.random.usize(..IDS.len())];
        let Some(backend) = self.bench.backend(id) else { return };
        let wish =
            [AgentWish::Ready, AgentWish::Ready, AgentWish::Drain, AgentWish::Maintenance][self.random.usize(..4)];
        let advice = Advice {
            weight: match self.random.u8(..4) {
                0 => Some(AdvisedWeight::Percent(self.random.u8(..))),
                1 => Some(AdvisedWeight::Absolute(self.random.u16(..200))),
                _ => None,
            },
            wish,
            max_sessions: self.random.bool().then(|| self.random.u32(0..4)),
        };
        let view = backend.view();
        self.bench.members.advise(self.bench.now, &backend.id, view.address, advice);
        let taken = backend.view().advice == Some(advice);
        assert!(taken || view.standing == Standing::Removed, "{id}: advice");
    }

    fn pick(&mut self) {
        let members = self.bench.pool.members();
        let tried: Vec<_> = members.iter().filter(|_| self.random.u32(0..5) == 0).cloned().collect();
        let trials: Vec<_> = members.iter().map(|backend| self.bench.pool.trial_of(backend)).collect();
        let open = self.bench.pool.fail_open() || self.bench.pool.is_panicking();
        let eligible = self.bench.pool.counts().eligible;
        let Ok(lease) = self.bench.pool.pick(&PickContext::having_tried(&tried)) else {
            assert!(eligible <= tried.len(), "{eligible} eligible, {} tried, none picked", tried.len());
            return;
        };
        let (id, view) = (&lease.backend().id, lease.backend().view());
        if lease.is_trial() {
            let place = members.iter().position(|backend| Arc::ptr_eq(backend, lease.backend())).unwrap();
            assert_eq!((view.standing, trials[place]), (Standing::Ejected, TrialState::Offered), "{id}: a trial");
            assert!(tried.is_empty(), "{id}: a trial for one that has failed before");
            assert!(matches!(self.bench.pool.trial_of(lease.backend()), TrialState::Running(_)));
        } else {
            let may = view.standing == Standing::Up || (open && view.standing.is_last_resort());
            assert!(may, "picked {id}: {view:?}");
            let gets_some = self.bench.pool.pick_loads()[self.tier(&view)] > 0;
            let is_before = |other: &BackendView| {
                other.standing == Standing::Up && other.share > 0 && self.tier(other) < self.tier(&view)
            };
            let may_cross = self.bench.pool.settings().resilience.spill != Spill::NONE
                || !members.iter().any(|other| is_before(&other.view()));
            assert!(gets_some || may_cross, "{id}: its tier gets nothing");
        }
        assert!(view.share > 0, "picked {id}: {view:?}");
        let sessions = self.bench.pool.sessions_of(lease.backend());
        assert!(view.max_sessions.is_none_or(|cap| sessions <= cap), "{id}: {sessions} of {:?}", view.max_sessions);
        assert_eq!(lease.address(), view.address);
        assert!(!tried.iter().any(|tried| Arc::ptr_eq(tried, lease.backend())), "tried before");
        self.leases.push(lease);
    }

    fn end_a_dial(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let lease = &self.leases[self.random.usize(..self.leases.len())];
        match self.random.u32(0..6) {
            0 => {
                lease.connected(Duration::from_millis(1));
                let bytes = self.random.u64(0..100);
                lease.backend().stats.bytes.cell(0).add(Direction::ToClient, bytes);
                self.bytes += bytes;
            }
            1 => lease.answered(Duration::from_millis(self.random.u64(..50))),
            2 | 3 => lease.ended_early(EarlyEnd::ALL[self.random.usize(..EarlyEnd::ALL.len())]),
            _ => {
                let all = ConnectFailure::ALL;
                lease.failed(all[self.random.usize(..all.len())]);
            }
        }
    }

    fn random_lease(&mut self) -> Option<Lease> {
        let count = self.leases.len();
        (count > 0).then(|| self.leases.swap_remove(self.random.usize(..count)))
    }

    /// Evidence may have waited for long and come in any order.
    fn hear(&mut self) {
        while let Ok(observation) = self.bench.observation.try_recv() {
            self.waiting.push(observation);
        }
        self.random.shuffle(&mut self.waiting);
        let keep = self.random.usize(..=self.waiting.len());
        for report in self.waiting.split_off(keep) {
            let before = self.ejected();
            self.bench.members.observation(self.bench.now, &report);
            let (after, counts) = (self.ejected(), self.bench.pool.counts());
            let most = most_ejected(&self.bench.pool.settings().resilience.outliers, counts.members);
            assert!(after <= before || after <= most, "{after} ejected, {most} may be");
            assert!(after <= before || counts.up > 0, "the last one was ejected");
        }
    }

    fn ejected(&self) -> usize {
        self.bench.pool.members().iter().filter(|backend| backend.view().ejected.is_some()).count()
    }

    fn pass(&mut self, by: Duration) {
        self.bench.advance(by);
        let now = self.bench.now;
        assert!(self.bench.members.next_deadline().is_none_or(|at| at > now), "a deadline was passed over");
    }
}
