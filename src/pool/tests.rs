mod affinity;
mod chain;
mod rule;

use std::time::SystemTime;

use super::*;
use crate::endpoint::Registry;
use crate::health::{AgentWish, Failing};
use crate::seeds::seeds;
use crate::standing::{Facts, Guard, Operator, Passive, Standing};

pub(crate) fn pool(more: &str) -> Arc<Pool> {
    Pool::new(settings(more), 2).0
}

fn settings(more: &str) -> config::Pool {
    let text = format!(
        "[listeners.l]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n[pools.p]\nbackends = [\"127.0.0.1:1\"]\n{more}\n"
    );
    let config = config::parse(&text, "test", &|_| None).unwrap();
    config.pools[0].clone()
}

pub(crate) fn view(standing: Standing, weight: u16) -> BackendView {
    let facts = Facts {
        operator: Operator::Ready,
        registry: Registry::Passing,
        agent: AgentWish::Ready,
        probe: None,
        passive: Passive::Ok,
        guard: Guard::None,
    };
    let address = ([127, 0, 0, 1], 1).into();
    BackendView {
        address,
        candidates: [].into(),
        dead: [].into(),
        weight,
        share: u32::from(weight) * SHARE_OF_WEIGHT,
        ramp: 100,
        priority: 0,
        zone: None,
        position: 0,
        max_sessions: None,
        facts,
        standing,
        reason: "test".into(),
        by_probe: false,
        remarks: None,
        since: SystemTime::UNIX_EPOCH,
        advice: None,
        ejected: None,
        damped_until: None,
        held_until: None,
    }
}

fn add(pool: &Pool, id: &str, standing: Standing, weight: u16) -> Arc<Backend> {
    pool.add(&id.into(), view(standing, weight))
}

#[test]
fn a_lease_is_counted_until_it_is_dropped() {
    let pool = pool("");
    let backend = add(&pool, "a", Standing::Up, 1);
    let leases: Vec<Lease> = (0..3).map(|_| pool.pick(&PickContext::FIRST).unwrap()).collect();
    assert_eq!((pool.sessions(), pool.sessions_of(&backend)), (3, 3));
    // Also while it gets nothing new.
    pool.place(&backend, view(Standing::Down, 1));
    assert!(matches!(pool.pick(&PickContext::FIRST), Err(NoneLeft)));
    assert_eq!((pool.sessions(), pool.sessions_of(&backend)), (3, 3));
    drop(leases);
    assert_eq!((pool.sessions(), pool.sessions_of(&backend)), (0, 0));
}

#[test]
fn a_pick_dials_the_address_of_the_newest_view() {
    let pool = pool("");
    let backend = add(&pool, "a", Standing::Up, 1);
    let before = pool.pick(&PickContext::FIRST).unwrap();
    let moved: SocketAddr = ([127, 0, 0, 2], 2).into();
    pool.place(&backend, BackendView { address: moved, ..view(Standing::Up, 1) });
    assert_eq!(pool.pick(&PickContext::FIRST).unwrap().address(), moved);
    assert_ne!(before.address(), moved);
}

#[test]
fn tried_backends_are_not_picked() {
    let pool = pool("");
    let (a, b) = (add(&pool, "a", Standing::Up, 1), add(&pool, "b", Standing::Up, 1));
    for _ in 0..4 {
        assert!(Arc::ptr_eq(pool.pick(&PickContext::having_tried(std::slice::from_ref(&a))).unwrap().backend(), &b));
    }
    assert_eq!(pool.pick(&PickContext::having_tried(&[a, b])).unwrap_err(), NoneLeft);
    assert_eq!(pool.sessions(), 0);
}

#[test]
fn only_without_sessions_is_it_forgotten() {
    let pool = pool("");
    let backend = add(&pool, "a", Standing::Up, 1);
    let lease = pool.pick(&PickContext::FIRST).unwrap();
    pool.place(&backend, view(Standing::Removed, 1));
    assert!(!pool.forget(&backend));
    drop(lease);
    assert!(pool.forget(&backend));
    assert_eq!(pool.counts(), MemberCounts::default());
}

/// The number of a forgotten backend goes to the next one: what still holds the old one must not touch that.
#[test]
fn a_forgotten_backend_is_nobody() {
    let pool = pool("");
    let old = add(&pool, "old", Standing::Up, 1);
    assert!(pool.forget(&old));
    let new = add(&pool, "new", Standing::Up, 1);
    let _lease = pool.pick(&PickContext::FIRST).unwrap();
    assert_eq!((pool.sessions_of(&old), pool.sessions_of(&new)), (0, 1));
    pool.place(&old, view(Standing::Down, 1));
    assert!(pool.forget(&old));
    assert_eq!(pool.counts(), MemberCounts { members: 1, up: 1, proven: 1, eligible: 1, ..MemberCounts::default() });
    assert!(
        pool.pick(&PickContext::having_tried(std::slice::from_ref(&old))).is_ok(),
        "to have tried the old one says nothing about the new one"
    );
}

/// A counter never goes back, and never jumps: not between forgetting and publishing, and not after it.
#[test]
fn bytes_of_a_forgotten_backend_stay_in_the_total() {
    let pool = pool("");
    let (a, b) = (add(&pool, "a", Standing::Up, 1), add(&pool, "b", Standing::Up, 1));
    pool.publish(vec![Arc::clone(&a), Arc::clone(&b)]);
    a.stats.bytes.cell(0).add(Direction::ToClient, 100);
    b.stats.bytes.cell(1).add(Direction::ToClient, 10);
    assert_eq!(pool.bytes(Direction::ToClient), 110);
    assert!(pool.forget(&a));
    assert_eq!(pool.bytes(Direction::ToClient), 110);
    pool.publish(vec![Arc::clone(&b)]);
    b.stats.bytes.cell(0).add(Direction::ToClient, 1);
    assert_eq!((pool.bytes(Direction::ToClient), pool.bytes(Direction::ToBackend)), (111, 0));
}

#[test]
fn fail_open_is_for_the_last_resort_only() {
    let pool = pool("when_all_down = \"any\"");
    let all: Vec<_> = Standing::ALL.iter().map(|&standing| add(&pool, standing.name(), standing, 1)).collect();
    let up = &all[Standing::ALL.iter().position(|&standing| standing == Standing::Up).unwrap()];
    assert_eq!(pool.counts().eligible, 1);
    pool.place(up, view(Standing::Down, 1));
    assert_eq!(pool.counts().eligible, 5);
    assert!(pool.fail_open() && !pool.is_all_down(), "before the first verdict, too");
    for _ in 0..20 {
        assert!(pool.pick(&PickContext::FIRST).unwrap().backend().view().standing.is_last_resort());
    }
    pool.place(up, view(Standing::Up, 1));
    assert!(!pool.fail_open());
    assert_eq!(pool.counts().eligible, 1);

    let refusing = self::pool("");
    add(&refusing, "a", Standing::Down, 1);
    refusing.set_all_down(true);
    assert!(refusing.pick(&PickContext::FIRST).is_err() && !refusing.fail_open() && refusing.is_all_down());
}

/// What the keeper and the sessions may do, in any order, against a plain model. `SEED=…` replays a failure.
#[test]
fn any_sequence_keeps_the_counts() {
    for seed in seeds(150, 50) {
        for balance in config::Balance::ALL.map(config::Balance::name) {
            Model::new(balance, seed).run(300);
        }
    }
}

struct Model {
    pool: Arc<Pool>,
    random: fastrand::Rng,
    backends: Vec<(Arc<Backend>, Standing, u16)>,
    leases: Vec<Lease>,
    named: usize,
}

impl Model {
    fn new(balance: &str, seed: u64) -> Self {
        let pool = pool(&format!("balance = \"{balance}\"\nwhen_all_down = \"any\""));
        Self { pool, random: fastrand::Rng::with_seed(seed), backends: Vec::new(), leases: Vec::new(), named: 0 }
    }

    fn run(mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
            self.check();
        }
        self.leases.clear();
        for (backend, ..) in std::mem::take(&mut self.backends) {
            assert!(self.pool.forget(&backend));
        }
        self.check();
        assert_eq!(self.pool.counts(), MemberCounts::default());
    }

    fn any(&mut self) -> (Standing, u16) {
        let standings =
            [Standing::Up, Standing::Up, Standing::Down, Standing::Unproven, Standing::Draining, Standing::Removed];
        (standings[self.random.usize(..standings.len())], self.random.u16(..4))
    }

    fn step(&mut self) {
        let place = if self.backends.is_empty() { 0 } else { self.random.usize(..self.backends.len()) };
        match self.random.u8(..12) {
            0 if self.backends.len() < 8 => {
                let (standing, weight) = self.any();
                self.named += 1;
                let backend = add(&self.pool, &self.named.to_string(), standing, weight);
                self.backends.push((backend, standing, weight));
            }
            1 | 2 if !self.backends.is_empty() => {
                let (standing, weight) = self.any();
                let (backend, ..) = &self.backends[place];
                self.pool.place(backend, view(standing, weight));
                (self.backends[place].1, self.backends[place].2) = (standing, weight);
            }
            3 if !self.backends.is_empty() => {
                let held = self.held(&self.backends[place].0);
                assert_eq!(self.pool.forget(&self.backends[place].0), held == 0);
                if held == 0 {
                    self.backends.remove(place);
                }
            }
            4 => self.pool.set_panicking(self.random.bool()),
            5..=7 if !self.leases.is_empty() => {
                let lease = self.random.usize(..self.leases.len());
                self.leases.swap_remove(lease);
            }
            _ => self.pick(),
        }
    }

    fn pick(&mut self) {
        let tried: Vec<_> = self
            .backends
            .iter()
            .filter(|_| self.random.u8(..3) == 0)
            .map(|(backend, ..)| Arc::clone(backend))
            .collect();
        let untried = |backend: &Arc<Backend>| !tried.iter().any(|tried| Arc::ptr_eq(tried, backend));
        let candidates = self.eligible().filter(|backend| untried(backend)).count();
        match self.pool.pick(&PickContext::having_tried(&tried)) {
            Err(NoneLeft) => assert_eq!(candidates, 0),
            Ok(lease) => {
                assert!(untried(lease.backend()));
                assert!(self.eligible().any(|backend| Arc::ptr_eq(backend, lease.backend())));
                self.leases.push(lease);
            }
        }
    }

    fn eligible(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let open = self.pool.fail_open() || self.pool.is_panicking();
        self.backends
            .iter()
            .filter(move |(_, standing, weight)| {
                *weight > 0 && (*standing == Standing::Up || open && standing.is_last_resort())
            })
            .map(|(backend, ..)| backend)
    }

    fn held(&self, backend: &Arc<Backend>) -> usize {
        self.leases.iter().filter(|lease| Arc::ptr_eq(lease.backend(), backend)).count()
    }

    fn check(&self) {
        let having = |wanted: &dyn Fn(Standing, u16) -> bool| {
            self.backends.iter().filter(|(_, standing, weight)| wanted(*standing, *weight)).count()
        };
        let counts = MemberCounts {
            members: having(&|standing, _| standing != Standing::Removed),
            up: having(&|standing, weight| standing == Standing::Up && weight > 0),
            unproven: having(&|standing, _| standing == Standing::Unproven),
            proven: having(&|standing, weight| matches!(standing, Standing::Up | Standing::Down) && weight > 0),
            spare: 0,
            eligible: self.eligible().count(),
        };
        assert_eq!(self.pool.counts(), counts);
        assert_eq!(self.pool.sessions(), self.leases.len());
        for (backend, ..) in &self.backends {
            assert_eq!(self.pool.sessions_of(backend) as usize, self.held(backend));
        }
    }
}
