//! A simulated pool whose clients come back at once, late, or never. A failure names its seed.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::*;
use crate::balance::{PickContext, PickRules, Picker, Worth};
use crate::config::{Hashing, Spill};
use crate::seeds::seeds;

const SECOND: Duration = Duration::from_secs(1);
const MOVING: [Balance; 4] = [Balance::RoundRobin, Balance::LeastConnections, Balance::Random, Balance::PowerOfTwo];

fn backend(sessions: u32, share: u32) -> LoadedBackend {
    LoadedBackend { sessions, share, tier: 0, cap: None }
}

fn rules(balance: Balance) -> PartRules {
    PartRules { balance, loads: first_tier(), threshold: 10 }
}

fn first_tier() -> [u32; PICK_TIERS] {
    std::array::from_fn(|tier| if tier == 0 { 100 } else { 0 })
}

fn plan(backends: &[LoadedBackend], away: u32) -> RebalancePlan {
    RebalancePlan::of(&rules(Balance::LeastConnections), backends, away)
}

#[test]
fn what_is_over_the_threshold_goes_and_no_more() {
    let found = plan(&[backend(1_000, 1), backend(0, 1)], 0);
    assert_eq!((found.parts, found.close, found.bound), (vec![500.0, 500.0], vec![450, 0], 450));
    // 10 percent are nothing to do.
    assert_eq!(plan(&[backend(110, 1), backend(90, 1)], 0).moving(), 0);
    assert_eq!(plan(&[backend(111, 1), backend(89, 1)], 0).close, [1, 0]);
    // By weight.
    assert_eq!(plan(&[backend(150, 3), backend(50, 1)], 0).moving(), 0);
    assert_eq!(plan(&[backend(100, 1), backend(100, 3)], 0).close, [45, 0]);
    // Whole sessions: 2 and 1 are as even as three can be.
    assert_eq!(plan(&[backend(3, 1), backend(0, 1)], 0).close, [1, 0]);
    assert_eq!(plan(&[backend(2, 1), backend(1, 1)], 0).moving(), 0);
    assert_eq!(plan(&[backend(9, 1)], 0).moving(), 0);
    assert_eq!(plan(&[], 0).moving(), 0);
}

#[test]
fn who_is_away_is_counted_as_if_back() {
    assert_eq!(plan(&[backend(600, 1), backend(0, 1)], 400).close, [50, 0]);
    assert_eq!(plan(&[backend(550, 1), backend(0, 1)], 450).moving(), 0);
}

#[test]
fn nobody_goes_where_there_is_no_room() {
    let capped = |sessions, cap| LoadedBackend { cap: Some(cap), ..backend(sessions, 1) };
    assert_eq!(plan(&[backend(1_000, 1), capped(0, 100)], 0).close, [10, 0], "900 are its part, 990 are no reason");
    assert_eq!(plan(&[backend(1_000, 1), capped(100, 100)], 0).moving(), 0);
    assert_eq!(plan(&[capped(1_000, 10), capped(10, 10)], 0).moving(), 0, "a cap that was lowered is no reason");
}

#[test]
fn a_tier_that_is_back_gets_its_sessions_back() {
    let backup = |sessions| LoadedBackend { tier: 1, ..backend(sessions, 1) };
    let found = plan(&[backend(0, 1), backend(0, 1), backup(300)], 0);
    assert_eq!((found.parts, found.close), (vec![150.0, 150.0, 0.0], vec![0, 0, 300]));
    let capped = LoadedBackend { cap: Some(100), ..backend(0, 1) };
    let found = plan(&[capped, backup(300)], 0);
    assert_eq!((found.parts, found.close), (vec![100.0, 200.0], vec![0, 80]));
    // Nothing gets new sessions: nobody is closed.
    let none = PartRules { loads: [0; PICK_TIERS], ..rules(Balance::LeastConnections) };
    assert_eq!(RebalancePlan::of(&none, &[backend(5, 1), backup(300)], 0).moving(), 0);
}

/// When the clients come back, after they were closed.
#[derive(Clone, Copy, Debug)]
enum Return {
    AtOnce,
    Late(u32),
    Never,
}

struct Simulation {
    random: Rng,
    now: Instant,
    picker: Picker,
    backends: Vec<LoadedBackend>,
    balance: Balance,
    rebalancer: Rebalancer,
    returns: Return,
    waiting: Vec<Instant>,
    begun: u64,
    per_second: u32,
    /// Of what is closed; and what the begin allowed.
    closed: u32,
    bound: Option<u32>,
    ends: Vec<RebalanceEnd>,
}

impl Simulation {
    fn new(seed: u64, returns: fn(&mut Rng) -> Return) -> Self {
        let mut random = Rng::with_seed(seed);
        let balance = MOVING[random.usize(..MOVING.len())];
        let picks = PickRules { balance, hashing: Hashing::DEFAULT, spill: Spill::DEFAULT, seed };
        let mut simulation = Self {
            returns: returns(&mut random),
            now: Instant::now(),
            picker: Picker::new(picks),
            backends: (0..random.usize(2..8)).map(|_| backend(0, random.u32(1..4))).collect(),
            balance,
            rebalancer: Rebalancer::default(),
            waiting: Vec::new(),
            begun: 0,
            per_second: random.u32(1..20),
            closed: 0,
            bound: None,
            ends: Vec::new(),
            random,
        };
        simulation.fill();
        simulation
    }

    /// Sessions come while some backends are missing; then all are there.
    fn fill(&mut self) {
        let old = self.random.usize(1..self.backends.len());
        self.enter(0..old);
        for _ in 0..self.random.u32(..1_500) {
            self.connect();
        }
        self.enter(old..self.backends.len());
        self.compare();
    }

    fn enter(&mut self, slots: std::ops::Range<usize>) {
        for slot in slots {
            let share = self.backends[slot].share;
            self.picker.set(slot, Worth { share, eligible: true, ..Worth::default() });
        }
    }

    fn connect(&mut self) {
        let slot = self.picker.pick(&PickContext::FIRST).unwrap();
        self.backends[slot].sessions += 1;
        self.begun += 1;
    }

    fn close(&mut self, slot: usize) {
        self.picker.release(slot);
        self.backends[slot].sessions -= 1;
        self.closed += 1;
        let pause = match self.returns {
            Return::AtOnce => Duration::ZERO,
            Return::Late(most) => SECOND * self.random.u32(..=most),
            Return::Never => return,
        };
        self.waiting.push(self.now + pause);
    }

    fn compare(&mut self) {
        let backends = self.backends.iter().enumerate().map(|(i, backend)| (i, backend.share as u16, 0)).collect();
        self.rebalancer.compare(self.now, PoolShape { backends, loads: first_tier() }, true);
        (self.closed, self.bound) = (0, None);
    }

    /// A second of it. Returns how many were closed.
    fn step(&mut self, is_well: bool) -> u32 {
        let rules = rules(self.balance);
        let facts = RunFacts { backends: &self.backends, rules, begun: self.begun, is_well };
        let before = RebalancePlan::of(&rules, &self.backends, 0);
        let interval = SECOND / self.per_second + Duration::from_nanos(1);
        let mut closed = 0;
        match self.rebalancer.look(self.now, &facts) {
            Some(Ok((close, from))) => {
                assert!(is_well);
                self.bound.get_or_insert(before.bound);
                let mut at = from;
                'all: for (slot, close) in close.into_iter().enumerate() {
                    for _ in 0..close {
                        if at >= self.now + SECOND {
                            break 'all;
                        }
                        self.close(slot);
                        self.rebalancer.count(at, interval);
                        (at, closed) = (at + interval, closed + 1);
                        let part = before.parts[slot];
                        assert!(f64::from(self.backends[slot].sessions) >= part.floor(), "below its part: {part}");
                    }
                }
            }
            Some(Err(end)) => {
                self.ends.push(end);
                self.rebalancer.end();
            }
            None => {}
        }
        self.now += SECOND;
        let back = self.waiting.iter().filter(|at| **at <= self.now).count();
        self.waiting.retain(|at| *at > self.now);
        (0..back).for_each(|_| self.connect());
        assert!(closed <= self.per_second, "{closed} of at most {}", self.per_second);
        assert!(self.closed <= self.bound.unwrap_or(0), "{} of at most {:?}", self.closed, self.bound);
        closed
    }

    fn run(&mut self) {
        for _ in 0..20_000 {
            if !self.rebalancer.is_on() {
                return;
            }
            self.step(true);
        }
        panic!("it does not end: {:?}", self.backends);
    }

    fn total(&self) -> u32 {
        self.backends.iter().map(|backend| backend.sessions).sum()
    }

    /// By how many sessions the worst is over what is no reason to close one.
    fn worst(&self) -> u32 {
        let found = RebalancePlan::of(&rules(self.balance), &self.backends, 0);
        let over = self.backends.iter().zip(found.parts).map(|(b, part)| b.sessions.saturating_sub(limit(part, 10)));
        over.max().unwrap_or(0)
    }
}

#[test]
fn where_clients_come_back_every_backend_ends_within_the_threshold() {
    let mut spent = 0;
    for seed in seeds(400, 200) {
        let mut simulation =
            Simulation::new(
                seed,
                |random| {
                    if random.bool() { Return::AtOnce } else { Return::Late(random.u32(1..50)) }
                },
            );
        let total = simulation.total();
        simulation.run();
        assert_eq!(simulation.total(), total);
        let (balance, worst) = (simulation.balance, simulation.worst());
        let is_spent = simulation.ends == [RebalanceEnd::Spent];
        spent += u32::from(is_spent);
        // Rounding of many small parts; and a few cases where clients go by lot.
        assert!(worst <= 1 || is_spent, "{balance:?}: {worst} over, {:?} {:?}", simulation.ends, simulation.backends);
        assert!(!is_spent || balance != Balance::LeastConnections, "{:?}", simulation.backends);
    }
    assert!(spent <= 40, "{spent} of 600");
}

#[test]
fn it_never_begins_again_by_itself() {
    for seed in seeds(100, 50) {
        let mut simulation =
            Simulation::new(
                seed,
                |random| {
                    if random.bool() { Return::AtOnce } else { Return::Late(random.u32(1..50)) }
                },
            );
        simulation.run();
        let closed = simulation.closed;
        for _ in 0..300 {
            // Sessions come and go by themselves, as unevenly as it may be.
            let slot = simulation.random.usize(..simulation.backends.len());
            if simulation.backends[slot].sessions > 0 {
                simulation.picker.release(slot);
                simulation.backends[slot].sessions -= 1;
            }
            simulation.step(true);
        }
        assert_eq!(simulation.closed, closed);
        // And the same shape again is no change.
        simulation.compare();
        assert!(!simulation.rebalancer.is_on());
    }
}

#[test]
fn it_stops_while_anything_is_wrong_and_then_goes_on_within_its_bound() {
    for seed in seeds(100, 50) {
        let mut simulation = Simulation::new(seed, |_| Return::AtOnce);
        for _ in 0..3_000 {
            let is_well = simulation.random.f64() < 0.5;
            let closed = simulation.step(is_well);
            assert!(is_well || closed == 0);
        }
        assert!(!simulation.rebalancer.is_on());
    }
}

#[test]
fn where_clients_do_not_come_back_it_ends_soon() {
    for seed in seeds(100, 50) {
        let mut simulation = Simulation::new(seed, |_| Return::Never);
        simulation.run();
        let most = simulation.per_second * 75;
        assert!(simulation.closed <= most, "{} of at most {most}", simulation.closed);
    }
}

#[test]
fn a_change_is_waited_for_until_it_is_calm() {
    let mut simulation = Simulation::new(3, |_| Return::AtOnce);
    simulation.backends = vec![backend(100, 1), backend(0, 1)];
    simulation.compare();
    let closed: Vec<u32> = (0..7).map(|_| simulation.rebalancer_closes()).collect();
    assert_eq!(closed, [0, 0, 0, 0, 0, 45, 45]);
}

impl Simulation {
    /// How many it would close now, a second later each time.
    fn rebalancer_closes(&mut self) -> u32 {
        let facts =
            RunFacts { backends: &self.backends, rules: rules(Balance::LeastConnections), begun: 0, is_well: true };
        let close = self.rebalancer.look(self.now, &facts);
        self.now += SECOND;
        close.map_or(0, |close| close.map_or(0, |(close, _)| close.iter().sum()))
    }
}

/// Where the pool's settings want none, one that an operator began ends with the pool that he saw.
#[test]
fn without_the_key_only_an_operator_begins_one() {
    let (now, mut rebalancer) = (Instant::now(), Rebalancer::default());
    let shape = |n| PoolShape { backends: vec![(n, 1, 0)], loads: first_tier() };
    assert!(!rebalancer.compare(now, shape(1), false));
    assert!(!rebalancer.is_on());
    rebalancer.begin(now, shape(1), false);
    assert!(!rebalancer.compare(now, shape(1), false));
    assert!(rebalancer.is_on());
    assert!(!rebalancer.compare(now, shape(2), false));
    assert!(!rebalancer.is_on());
    assert!(rebalancer.compare(now, shape(2), true), "the key is new: it looks once");
    assert!(!rebalancer.compare(now, shape(2), true));
}
