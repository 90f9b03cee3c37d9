//! The rule: a session is refused only if no backend that it may use is left untried. Pools, and what sessions have behind
//! them, are drawn at random; which backends may be used is said here a second time, backend by backend. `SEED=…` replays a failure.

use std::time::Duration;

use super::*;
use crate::balance::Affinity;
use crate::balance::PICK_TIERS;

#[test]
fn refused_only_if_none_that_it_may_use_is_untried() {
    let (mut served, mut refused, mut crossed) = (0, 0, 0);
    for seed in seeds(750, 250) {
        let mut world = World::new(seed);
        for _ in 0..30 {
            world.change();
            let [s, r, c] = world.search();
            (served, refused, crossed) = (served + s, refused + r, crossed + c);
        }
    }
    assert!(std::env::var("SEED").is_ok() || [served, refused, crossed].iter().all(|&count| count > 1_000));
}

/// A policy, sticky where that may be.
fn policy(random: &mut fastrand::Rng) -> String {
    let balance = config::Balance::ALL[random.usize(..config::Balance::ALL.len())];
    let sticky = if balance.hashes() || random.bool() { "" } else { "\nsticky = { max = 20 }" };
    format!("balance = \"{}\"{sticky}", balance.name())
}

pub(super) struct World {
    random: fastrand::Rng,
    pub(super) pool: Arc<Pool>,
    pub(super) backends: Vec<Arc<Backend>>,
    leases: Vec<Lease>,
    panicking: bool,
}

/// What a session met at a backend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Met {
    Nothing,
    Failed,
    Silence,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let words = ["failed", "full", "slow"];
        let spill: Vec<_> = words.into_iter().filter(|_| random.bool()).collect();
        let keys = [
            format!("spill = {spill:?}"),
            policy(&mut random),
            format!("when_all_down = \"{}\"", ["refuse", "any"][random.usize(..2)]),
            format!("panic_threshold = {}", random.u8(..2) * 50),
            format!("overprovisioning = {}", [1.0, 1.4, 1_000.0][random.usize(..3)]),
            ["", "queue = { max_length = 9, timeout = \"9s\" }"][random.usize(..2)].to_owned(),
        ];
        let pool = pool(&keys.join("\n"));
        let mut world = Self { random, pool, backends: Vec::new(), leases: Vec::new(), panicking: false };
        for n in 0..world.random.usize(1..9) {
            let view = world.view();
            world.backends.push(world.pool.add(&n.to_string().into(), view));
        }
        world
    }

    fn view(&mut self) -> BackendView {
        let standing = match self.random.u8(..3) {
            0 => Standing::ALL[self.random.usize(..Standing::ALL.len())],
            _ => Standing::Up,
        };
        BackendView {
            priority: [0, 0, 1, 1, 2, 15][self.random.usize(..6)],
            zone: self.zone(),
            max_sessions: (self.random.u8(..3) > 0).then(|| self.random.u32(..4)),
            ..view(standing, self.random.u16(..3))
        }
    }

    fn zone(&mut self) -> Option<Arc<str>> {
        [None, Some("here".into()), Some("there".into())][self.random.usize(..3)].clone()
    }

    /// In the order in which backends are used: by priority, and those in our zone before the others.
    fn tier(&self, view: &BackendView) -> usize {
        let own = self.pool.zone();
        usize::from(view.priority) * 2 + usize::from(own.is_some() && view.zone != own)
    }

    pub(super) fn change(&mut self) {
        if self.random.u8(..8) == 0 {
            let zone = self.zone();
            self.pool.set_zone(zone.as_ref());
        }
        let (number, view) = (self.random.usize(..self.backends.len()), self.view());
        self.pool.place(&self.backends[number], view);
        if self.random.bool() {
            self.pool.rebuild_tables();
        }
        match self.random.u8(..8) {
            0 => {
                self.panicking = !self.panicking;
                self.pool.set_panicking(self.panicking);
            }
            1..=3 if !self.leases.is_empty() => {
                let number = self.random.usize(..self.leases.len());
                self.leases.swap_remove(number);
            }
            _ => {}
        }
    }

    /// One session that meets something or other wherever it gets, until it is served or refused. Returns whether it was
    /// served, whether it was refused, and how often it went to a tier without a load.
    fn search(&mut self) -> [u32; 3] {
        let mut met = vec![Met::Nothing; self.backends.len()];
        let waits = self.pool.settings().queue.is_some() && self.random.bool();
        let mut crossed = 0;
        loop {
            let those = |wanted: fn(Met) -> bool| -> Vec<_> {
                let met = met.iter().zip(&self.backends).filter(|(met, _)| wanted(**met));
                met.map(|(_, backend)| Arc::clone(backend)).collect()
            };
            let (tried, dialling) = (those(|met| met != Met::Nothing), those(|met| met == Met::Silence));
            let affinity = Affinity {
                hash: self.random.u64(..),
                client: Some(std::net::Ipv4Addr::from_bits(self.random.u32(..30)).into()),
            };
            let context = PickContext { affinity, tried: &tried, dialling: &dialling, waits };
            let may: Vec<_> = (0..met.len()).filter(|&number| self.may(number, &met, waits)).collect();
            assert_eq!(self.pool.has_left(&context), !may.is_empty());
            if tried.is_empty() && waits == self.pool.settings().queue.is_some() {
                let eligible = self.pool.counts().eligible;
                assert!(eligible <= may.len() && (eligible == 0) == may.is_empty(), "{eligible} of {may:?}");
            }
            let Ok(lease) = self.pool.pick(&context) else {
                assert!(may.is_empty(), "refused, and {may:?} are left");
                return [0, 1, crossed];
            };
            let number = self.backends.iter().position(|it| Arc::ptr_eq(it, lease.backend())).unwrap();
            assert!(may.contains(&number), "{number} of {may:?}");
            crossed += u32::from(self.pool.pick_loads()[self.tier(&lease.backend().view())] == 0);
            lease.connected(Duration::from_millis(self.random.u64(..50)));
            met[number] = match self.random.u8(..4) {
                0 => {
                    self.leases.push(lease);
                    return [1, 0, crossed];
                }
                1 => Met::Silence,
                _ => Met::Failed,
            };
            if self.random.bool() {
                // Those that were silent have failed by now.
                met.iter_mut().filter(|met| **met == Met::Silence).for_each(|met| *met = Met::Failed);
            }
        }
    }

    /// The rule, for one backend.
    pub(super) fn may(&self, number: usize, met: &[Met], waits: bool) -> bool {
        let tier = self.tier(&self.backends[number].view());
        self.is_left(number, met)
            && (self.pool.pick_loads()[tier] > 0 || (0..tier).all(|before| self.lets_pass(before, met, waits)))
    }

    fn is_left(&self, number: usize, met: &[Met]) -> bool {
        self.is_usable(number) && self.has_room(number) && met[number] == Met::Nothing
    }

    /// The rule, for one tier.
    fn lets_pass(&self, tier: usize, met: &[Met], waits: bool) -> bool {
        let of_tier: Vec<_> = (0..met.len()).filter(|&it| self.tier(&self.backends[it].view()) == tier).collect();
        let is_up = |it: &usize| self.is_usable(*it) && self.backends[*it].view().standing == Standing::Up;
        let spill = self.pool.settings().resilience.spill;
        let has_met = |what: Met| of_tier.iter().any(|&it| met[it] == what);
        !of_tier.iter().any(|it| self.is_left(*it, met))
            && (!of_tier.iter().any(is_up)
                || if has_met(Met::Silence) {
                    spill.slow
                } else if has_met(Met::Failed) {
                    let is_free = |it: &usize| self.is_usable(*it) && self.has_room(*it);
                    spill.failed || (spill.full && !waits && !of_tier.iter().any(is_free))
                } else {
                    spill.full && !waits
                })
    }

    /// The rule for the pool as a whole: whether a session goes on to its fallback.
    pub(super) fn lets_go(&self, met: &[Met], waits: bool) -> bool {
        (0..PICK_TIERS).all(|tier| self.lets_pass(tier, met, waits))
    }

    /// Whether what it may use is a last resort.
    pub(super) fn has_none_up(&self) -> bool {
        !self.backends.iter().any(|it| it.view().standing == Standing::Up && it.view().share > 0)
    }

    fn is_usable(&self, number: usize) -> bool {
        let (view, settings) = (self.backends[number].view(), self.pool.settings());
        let is_up = |backend: &Arc<Backend>| backend.view().standing == Standing::Up && backend.view().share > 0;
        let opens = settings.when_all_down == config::WhenAllDown::Any || settings.resilience.panic_threshold > 0;
        let open = self.panicking || (opens && !self.backends.iter().any(is_up));
        view.share > 0 && (view.standing == Standing::Up || (open && view.standing.is_last_resort()))
    }

    fn has_room(&self, number: usize) -> bool {
        let backend = &self.backends[number];
        backend.view().max_sessions.is_none_or(|cap| self.pool.sessions_of(backend) < cap)
    }
}

/// `spill = []`: the first tier with one that is up gets everything, whatever else is set.
#[test]
fn without_spill_a_backup_serves_only_while_no_primary_is_up() {
    let pool = pool("spill = []\npanic_threshold = 100\nwhen_all_down = \"any\"");
    let at = |priority, standing| BackendView { priority, ..view(standing, 1) };
    let primaries: Vec<_> = (0..5).map(|n| pool.add(&format!("p{n}").into(), at(0, Standing::Up))).collect();
    let backup = pool.add(&"backup".into(), at(1, Standing::Up));
    let loads = |first| std::array::from_fn::<u32, PICK_TIERS, _>(|tier| if tier == first { 100 } else { 0 });
    for (down, primary) in primaries.iter().enumerate() {
        for panicking in [false, true] {
            pool.set_panicking(panicking);
            assert_eq!(pool.pick_loads(), loads(0), "{down} are down");
            let mut tried = Vec::new();
            while let Ok(lease) = pool.pick(&PickContext { dialling: &tried, ..PickContext::having_tried(&tried) }) {
                assert_eq!(lease.backend().view().priority, 0);
                tried.push(Arc::clone(lease.backend()));
            }
        }
        pool.place(primary, at(0, Standing::Down));
    }
    assert_eq!(pool.pick_loads(), loads(2));
    assert!(Arc::ptr_eq(pool.pick(&PickContext::FIRST).unwrap().backend(), &backup));
    // Nothing is up: the first tier again, and what it has tried in vain keeps no session.
    pool.place(&backup, at(1, Standing::Down));
    assert_eq!(pool.pick_loads(), loads(0));
    assert!(Arc::ptr_eq(pool.pick(&PickContext::having_tried(&primaries)).unwrap().backend(), &backup));
}

/// The trial of a backup is no way to a backup that is not in use.
#[test]
fn no_trial_in_a_tier_that_is_not_in_use() {
    let pool = pool("spill = []");
    let at = |priority, standing| BackendView { priority, ..view(standing, 1) };
    let primary = pool.add(&"primary".into(), at(0, Standing::Up));
    let backup = pool.add(&"backup".into(), at(1, Standing::Ejected));
    pool.offer_trial(&backup, Failing::Connect);
    assert!(Arc::ptr_eq(pool.pick(&PickContext::FIRST).unwrap().backend(), &primary));
    // A tier that is not in use because of that is tried all the same.
    pool.place(&backup, at(1, Standing::Up));
    pool.place(&primary, at(0, Standing::Ejected));
    pool.offer_trial(&primary, Failing::Connect);
    assert!(pool.pick(&PickContext::FIRST).unwrap().is_trial());
}

/// Zones: the own one first, by the tiers' own formula; a backend that says none is elsewhere; both move live.
#[test]
fn the_own_zone_comes_first_and_spills_as_tiers_do() {
    let pool = pool("");
    let at = |zone: Option<&str>, standing| BackendView { zone: zone.map(Arc::from), ..view(standing, 1) };
    let near: Vec<_> = ["a", "b"].map(|id| pool.add(&id.into(), at(Some("here"), Standing::Up))).into();
    let far = pool.add(&"far".into(), at(Some("there"), Standing::Up));
    let nowhere = pool.add(&"nowhere".into(), at(None, Standing::Up));
    let load = || (pool.tier_loads()[0].near, pool.tier_loads()[0].elsewhere);
    assert_eq!(load(), (100, 0), "without a zone of ours all are near");
    let parts = |count: usize| {
        let leases: Vec<_> = (0..count).map(|_| pool.pick(&PickContext::FIRST).unwrap()).collect();
        let of = |wanted: &[&Arc<Backend>]| {
            leases.iter().filter(|it| wanted.iter().any(|b| Arc::ptr_eq(b, it.backend()))).count()
        };
        (of(&[&near[0], &near[1]]), of(&[&far, &nowhere]))
    };
    assert_eq!(parts(100), (50, 50));
    pool.set_zone(Some(&"here".into()));
    assert_eq!((load(), parts(100)), ((100, 0), (100, 0)));
    pool.place(&near[0], at(Some("here"), Standing::Down));
    assert_eq!((load(), parts(100)), ((70, 30), (70, 30)));
    // It has moved: three are elsewhere.
    pool.place(&near[1], at(Some("there"), Standing::Up));
    assert_eq!(load(), (0, 100));
    assert!((66..=67).contains(&parts(100).1));
    pool.set_zone(Some(&"there".into()));
    assert_eq!(load(), (100, 0));
    pool.set_zone(None);
    assert!(load().0 == 100 && !pool.is_elsewhere(&far));
    pool.publish([&near[0], &near[1], &far, &nowhere].map(Arc::clone).into());
    let zones: Vec<_> =
        pool.zones().into_iter().map(|(zone, counts)| (zone.to_string(), counts.backends, counts.up)).collect();
    assert_eq!(zones, [(String::new(), 1, 1), ("here".into(), 1, 0), ("there".into(), 2, 2)]);
}

/// `spill = []` between zones as between tiers.
#[test]
fn without_spill_the_own_zone_is_left_only_while_none_there_is_up() {
    let pool = pool("spill = []");
    pool.set_zone(Some(&"here".into()));
    let at = |zone: &str, standing| BackendView { zone: Some(zone.into()), ..view(standing, 1) };
    let (near, far) =
        (pool.add(&"near".into(), at("here", Standing::Up)), pool.add(&"far".into(), at("there", Standing::Up)));
    assert!(pool.pick(&PickContext::having_tried(std::slice::from_ref(&near))).is_err());
    pool.place(&near, at("here", Standing::Down));
    assert!(Arc::ptr_eq(pool.pick(&PickContext::FIRST).unwrap().backend(), &far));
}
