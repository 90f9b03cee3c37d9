//! What must hold at any time.

use std::collections::BTreeSet;

use super::*;
use crate::balance::{PICK_TIERS, TierHealth, first_alone, loads};
use crate::config::{CheckKind, OutlierMode, Spill, WhenAllDown};
use crate::standing::Passive;

impl Simulation {
    pub(super) fn check(&mut self) {
        let (pool, now) = (Arc::clone(&self.bench.pool), self.bench.now);
        self.check_words(now);
        let members = pool.members();
        let counts = self.check_members(now);
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
        let views = members.iter().map(|backend| backend.view());
        let resort = views.filter(|view| view.share > 0).any(|view| view.standing.is_last_resort());
        assert_eq!(pool.fail_open(), self.opens() && counts.up == 0 && resort);
        assert!(!self.heard || pool.is_settled() || counts.unproven > 0);
        assert!(!self.heard || counts.up > 0 || counts.spare == 0, "nothing is up, and one that could be is kept out");
        let threshold = usize::from(pool.settings().resilience.panic_threshold);
        let panics = counts.proven > 0 && counts.up * 100 < counts.proven * threshold;
        assert_eq!(pool.is_panicking(), self.heard && panics);
    }

    /// Whether sessions may try the rest while nothing is up.
    fn opens(&self) -> bool {
        let settings = self.bench.pool.settings();
        settings.when_all_down == WhenAllDown::Any || settings.resilience.panic_threshold > 0
    }

    /// A backend that gets sessions was not spoken against by the registry, or is held: then its last word was good, it works, and
    /// not for longer than the rules say.
    fn check_words(&mut self, now: Instant) {
        for (id, view) in self.views() {
            let facts = view.facts;
            if facts.is_held() {
                let word = self.words.get(&id);
                assert!(matches!(word, Some(Registry::Passing | Registry::Warning)), "{id}: {word:?}, {view:?}");
                assert_eq!(facts.probe, Some(ProbeState::Up), "{id}: held, and does not work");
                assert!(self.held_until.is_none_or(|until| until > now), "{id}: held for too long");
                continue;
            }
            if view.standing == Standing::Up {
                let good = [Registry::Passing, Registry::Warning, Registry::Unknown];
                assert!(good.contains(&facts.registry), "{id}: {view:?}");
                assert!(facts.registry != Registry::Unknown || facts.probe == Some(ProbeState::Up), "{id}: {view:?}");
            }
            let moved = self.addresses.insert(id.clone(), view.address).is_some_and(|before| before != view.address);
            match facts.registry {
                Registry::Unknown if !moved && self.words.get(&id) != Some(&Registry::Maintenance) => {}
                word => drop(self.words.insert(id, word)),
            }
        }
    }

    fn check_members(&mut self, now: Instant) -> MemberCounts {
        let pool = Arc::clone(&self.bench.pool);
        let is_up = |backend: &Arc<Backend>| backend.view().standing == Standing::Up && backend.view().share > 0;
        let open = pool.is_panicking() || (self.opens() && !pool.members().iter().any(is_up));
        let mut counts = MemberCounts::default();
        let mut tiers = [TierHealth::default(); PICK_TIERS];
        for backend in pool.members().iter() {
            let (id, view) = (&*backend.id, backend.view());
            self.check_facts(id, &view, now);
            let serves = view.share > 0;
            let (up, resort) = (view.standing == Standing::Up && serves, serves && view.standing.is_last_resort());
            let proven = up || (resort && view.standing != Standing::Unproven);
            counts.members += usize::from(view.standing != Standing::Removed);
            counts.up += usize::from(up);
            counts.unproven += usize::from(view.standing == Standing::Unproven);
            counts.proven += usize::from(proven);
            counts.spare += usize::from(serves && matches!(view.standing, Standing::Ejected | Standing::Damped));
            let tier = &mut tiers[self.tier(&view)];
            tier.backends += usize::from(if open { up || resort } else { proven });
            tier.working += usize::from(up || (open && resort));

            let left = view.standing == Standing::Removed;
            let sessions = self.leases.iter().filter(|lease| Arc::ptr_eq(lease.backend(), backend)).count();
            assert_eq!(pool.sessions_of(backend) as usize, sessions, "{id}");
            if !left {
                self.last_present.insert(id.to_owned(), now);
            }
            if !left || sessions > 0 {
                // One that is missing and kept may leave at any time of the next step.
                let kept = !self.newest.contains_key(id) && self.held_until.is_none_or(|until| until > now);
                let until = if kept { self.held_until.unwrap_or(now).max(now) } else { now };
                self.last_needed.insert(id.to_owned(), until);
            }
            // 10 minutes after it left, or 10 seconds after its last session if that is later.
            let unneeded = self.last_needed.get(id).map_or(Duration::ZERO, |&at| now - at);
            assert!(unneeded <= seconds(610), "{id} is remembered for {unneeded:?}");
        }
        let resilience = pool.settings().resilience;
        let mut first_up = tiers;
        for backend in pool.members().iter().filter(|backend| counts.up > 0 && !is_up(backend)) {
            let view = backend.view();
            let resort = open && view.share > 0 && view.standing.is_last_resort();
            first_up[self.tier(&view)].working -= usize::from(resort);
        }
        let loads = match resilience.spill {
            Spill::NONE => first_alone(&first_up),
            _ => loads(&tiers, resilience.overprovisioning),
        };
        assert_eq!(pool.pick_loads(), loads);
        for backend in pool.members().iter() {
            let view = backend.view();
            let may = view.standing == Standing::Up || (open && view.standing.is_last_resort());
            let room = view.max_sessions.is_none_or(|cap| pool.sessions_of(backend) < cap);
            let used = loads[self.tier(&view)] > 0;
            counts.eligible += usize::from(may && view.share > 0 && room && used);
        }
        if counts.eligible == 0 {
            // The next tier, if a session may go there: see the test of that rule.
            counts.eligible = pool.counts().eligible;
            assert!(counts.eligible == 0 || resilience.spill.full || resilience.spill == Spill::NONE && open);
        }
        counts
    }

    /// The standing is what the facts come to, and each fact has what it takes.
    fn check_facts(&self, id: &str, view: &BackendView, now: Instant) {
        let resilience = &self.bench.pool.settings().resilience;
        let checked = self.bench.pool.settings().check.kind != CheckKind::None;
        assert_eq!(view.facts.standing(), view.standing, "{id}");
        assert_eq!(view.facts.probe.is_some(), checked, "{id}");
        assert!(!view.reason.is_empty(), "{id}");
        if let Passive::Ejected { until } = view.facts.passive {
            assert!(checked || until.is_some(), "{id}: who ends the ejection?");
            assert!(until.is_none_or(|until| until > now), "{id}: ejected for longer than meant");
            assert_eq!(resilience.outliers.mode, OutlierMode::Eject, "{id}");
        }
        let is_ejected = view.facts.passive != Passive::Ok;
        assert_eq!(view.ejected.is_some(), is_ejected, "{id}");
        let trial = self.bench.backend(id).map(|backend| self.bench.pool.trial_of(&backend));
        assert!(trial == Some(TrialState::None) || view.standing == Standing::Ejected, "{id}: a trial of {view:?}");
        if view.facts.guard == Guard::Damped {
            assert!(!resilience.damping.stay_up.is_zero(), "{id}");
            assert_eq!(view.facts.is_sound(), Some(true), "{id}: damped and down");
        }
        assert_eq!(view.damped_until.is_some(), view.standing == Standing::Damped, "{id}");

        let full = match view.advice.and_then(|advice| advice.weight) {
            _ if view.weight == 0 => 0,
            None => u32::from(view.weight) * 100 * 100,
            Some(AdvisedWeight::Percent(percent)) => u32::from(view.weight) * u32::from(percent) * 100,
            Some(AdvisedWeight::Absolute(weight)) => u32::from(weight) * 100 * 100,
        };
        let ramp = (view.share * 100).checked_div(full).unwrap_or(100);
        assert!((10..=100).contains(&ramp), "{id}: {ramp} % of its share");
        assert!(ramp == 100 || (!resilience.slow_start.is_zero() && view.standing == Standing::Up), "{id}: {ramp} %");

        let left = view.facts.registry == Registry::Absent && !view.facts.is_held();
        let taken_out = view.facts.operator != crate::standing::Operator::Ready;
        assert!(taken_out || left == (view.standing == Standing::Removed), "{id}");
        let probe = self.bench.probed(id);
        assert_eq!(probe, (checked && !left).then_some(view.address), "{id}: the probe");
        let is_kept = self.held_until.is_none_or(|until| until > now);
        assert!(left || is_kept || self.newest.contains_key(id), "{id}: why is it here?");
    }
}
