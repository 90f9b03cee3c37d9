//! What a keeper decides: told the time, it turns sets, reports and evidence into facts, and facts into the pool's
//! picks. No clock, no channel, no await: tests and simulations drive it as the task does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use tracing::{debug, info};

use super::departed::Departed;
use super::guard::{HeldSet, Window};
use super::member::Member;
use super::reason::Ground;
use super::{Advised, LookUp, ProbeHandle, Probed, aggregate};
use crate::endpoint::{Endpoint, Registry, Update};
use crate::health::{EjectionEnd, FlapDamping, Outlier, ProbeState, slow_start};
use crate::operator::Overrides;
use crate::pace::Pace;
use crate::pool::Pool;
use crate::standing::Standing;

/// Between log lines on outliers that are left in.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Members {
    pub(super) pool: Arc<Pool>,
    pub(super) watch: ProbeHandle,
    pub(super) look_up: LookUp,
    /// What operators want.
    pub(super) overrides: Overrides,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// When to look at which member; entries may be out of date, a look is harmless.
    pub(super) deadlines: BinaryHeap<Reverse<(Instant, Arc<str>)>>,
    pub(super) departed: Departed,
    pub(super) heard: bool,
    /// Whether the registry is believed when it takes backends away; `None` = it is.
    pub(super) window: Option<Window>,
    pub(super) all_down: bool,
    pub(super) panicking: bool,
    /// Members that are ejected.
    pub(super) ejected: usize,
    /// When the oldest of those that are up came up; `None` = to be looked up.
    pub(super) oldest: Option<Instant>,
    /// When shares that grow are looked at again.
    pub(super) ramp_at: Option<Instant>,
    pub(super) pace: Pace,
    /// Of lines on agents.
    pub(super) agents_pace: Pace,
    pub(super) random: Rng,
}

impl Members {
    /// `random` spreads the ends of ejections.
    pub(super) fn new(pool: Arc<Pool>, watch: ProbeHandle, random: Rng) -> Self {
        let overrides = Overrides::clone(&pool.overrides.current());
        Self {
            pool,
            watch,
            look_up: Box::new(|_| ()),
            overrides,
            members: BTreeMap::new(),
            deadlines: BinaryHeap::new(),
            departed: Departed::default(),
            heard: false,
            window: None,
            all_down: false,
            panicking: false,
            ejected: 0,
            oldest: None,
            ramp_at: None,
            pace: Pace::new(LINE_EVERY),
            agents_pace: Pace::new(LINE_EVERY),
            random,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let of_members = self.deadlines.peek().map(|Reverse((at, _))| *at);
        let of_window = self.window.and_then(|window| window.until);
        let of_ledger = self.overrides.next_end();
        [of_members, self.departed.next(), of_ledger, self.ramp_at, of_window].into_iter().flatten().min()
    }

    /// A whole set: a member that is not in it has left, unless the registry is not believed now.
    pub(super) fn update(&mut self, now: Instant, update: Update) {
        self.trust(now, update.trust, &update.endpoints);
        let wall = SystemTime::now();
        let mut present = HashSet::with_capacity(update.endpoints.len());
        let mut kept = HeldSet::default();
        for endpoint in update.endpoints {
            present.insert(Arc::clone(&endpoint.id));
            self.overrides.presence(&endpoint.id, true, wall);
            kept.critical += usize::from(self.arrived(now, endpoint));
        }
        let missing: Vec<_> = self.members.keys().filter(|id| !present.contains(*id)).cloned().collect();
        kept.missing = missing.iter().filter(|id| self.missing(now, id)).count();
        self.tell_kept(&kept);
        self.heard = true;
        self.forget_departed(now);
        self.publish();
        self.weigh(now);
    }

    /// The pool's settings are other ones now. With another way to `watch`, every backend is probed by it, and keeps its
    /// state until the new check has said the contrary as often as it says is needed.
    pub(super) fn changed(&mut self, now: Instant, watch: Option<ProbeHandle>) {
        if let Some(watch) = watch {
            self.watch = watch;
            for member in self.members.values_mut().filter(|member| member.probe.is_some()) {
                (member.probe, member.doubt) = (None, None);
                member.let_others_rest();
                member.go_on_with(&self.pool, &self.watch);
            }
        }
        self.hold_by_new_rules(now);
        // What the policies make of each of them may be another thing.
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for id in ids {
            self.settle(now, &id);
            self.look_at_ejection(now, &id);
        }
        self.weigh(now);
    }

    /// A probe finished.
    pub(super) fn report(&mut self, now: Instant, probed: Probed) {
        let Some(member) = self.members.get_mut(&probed.id) else { return };
        // A paused one may have had a report under way.
        if member.probe.is_none() || member.is_paused {
            return;
        }
        if member.endpoint.address != probed.address {
            self.other_reported(now, probed);
            return;
        }
        self.pool.probe_time.observe(probed.report.result.duration);
        member.backend.keep_report(Some(probed.report.clone()));
        if self.weigh_addresses(now, &probed) {
            self.weigh(now);
            return;
        }
        let Some(member) = self.members.get_mut(&probed.id) else { return };
        let before = member.facts;
        let settings = self.pool.settings();
        member.take_state(&settings.check, &probed.report);
        let cleared_by_probe = member.is_acquitted_by(&settings.check, now, &probed);
        let answer = probed.report.result.hearing.is_some().then(|| probed.report.clone());
        // Whatever it was, it is over: worth a look at what else was wrong.
        if before.probe == Some(ProbeState::Down) && member.facts.probe == Some(ProbeState::Up) {
            member.outlier.hurry(now);
        }
        if member.facts.is_held() && member.facts.probe != Some(ProbeState::Up) {
            self.obey_registry(now, &probed.id);
        } else if member.facts != before {
            self.settle(now, &probed.id);
        }
        if cleared_by_probe {
            self.release(now, &probed.id, EjectionEnd::Probe);
        }
        if let Some(report) = answer {
            self.hear_agent(now, Advised { id: probed.id, address: probed.address, report });
        }
        self.weigh(now);
    }

    /// Looks at every member whose time has come.
    pub(super) fn tick(&mut self, now: Instant) {
        self.end_overrides(now);
        self.end_window(now);
        while let Some(Reverse((at, _))) = self.deadlines.peek() {
            if *at > now {
                break;
            }
            let Some(Reverse((_, id))) = self.deadlines.pop() else { break };
            self.look_at(now, &id);
        }
        if self.forget_departed(now) {
            self.publish();
        }
        self.ramp(now);
        self.weigh(now);
    }

    fn look_at(&mut self, now: Instant, id: &Arc<str>) {
        let Some(member) = self.members.get_mut(id) else { return };
        if member.damping.until().is_some_and(|until| until <= now) {
            member.damping.lift();
            self.settle(now, id);
        }
        self.look_around_unproven(id);
        self.look_at_ejection(now, id);
    }

    /// In the newest set. Returns whether it is critical there and held up from now on.
    fn arrived(&mut self, now: Instant, endpoint: Endpoint) -> bool {
        let id = Arc::clone(&endpoint.id);
        self.stays(&id);
        let Some(member) = self.members.get_mut(&id) else {
            self.add(now, endpoint);
            return false;
        };
        let endpoint = endpoint.kept_at(member.endpoint.address);
        if member.endpoint == endpoint && member.listed && member.held.is_none() {
            return false;
        }
        let (address, registry) = (endpoint.address, endpoint.registry);
        let moved = member.endpoint.address != address;
        member.endpoint = endpoint;
        if moved || member.probe.is_none() {
            self.ejected -= usize::from(member.outlier.ejection().is_some());
            member.begin_again(&self.pool, &self.watch, address);
        }
        if moved {
            member.damping = FlapDamping::new();
            // What was said of the old place says nothing about this one.
            member.word = Registry::Unknown;
        }
        let held = member.listed(registry, self.window);
        self.addresses_changed(now, &id);
        self.settle(now, &id);
        held
    }

    fn add(&mut self, now: Instant, endpoint: Endpoint) {
        let (id, address) = (Arc::clone(&endpoint.id), endpoint.address);
        debug!(pool = %self.pool.name, backend = %id, %address, weight = endpoint.weight, "added");
        let mut member = Member::new(&self.pool, endpoint);
        member.begin_again(&self.pool, &self.watch, address);
        member.listed(member.endpoint.registry, None);
        self.members.insert(Arc::clone(&id), member);
        self.addresses_changed(now, &id);
        self.settle(now, &id);
    }

    pub(super) fn leave(&mut self, now: Instant, id: &Arc<str>) {
        let Some(member) = self.members.get_mut(id) else { return };
        self.ejected -= usize::from(member.outlier.ejection().is_some());
        self.overrides.presence(id, false, SystemTime::now());
        member.facts.registry = Registry::Absent;
        member.outlier = Outlier::new();
        member.listed = false;
        member.held = None;
        member.word = Registry::Unknown;
        (member.probe, member.doubt) = (None, None);
        member.others.clear();
        self.remember(now, id);
        self.settle(now, id);
    }

    /// The facts of a member may have changed: computes its standing, tells the pool, logs a change.
    pub(super) fn settle(&mut self, now: Instant, id: &Arc<str>) {
        let oldest = self.oldest_up();
        let Some(member) = self.members.get_mut(id) else { return };
        let settings = self.pool.settings();
        let resilience = &settings.resilience;
        member.facts.operator = self.overrides.fact(id);
        member.pause(self.overrides.pause(id).is_some());
        member.weight = self.overrides.weight(id).map_or(member.endpoint.weight, |order| order.value);
        let before = member.backend.view();
        member.facts.passive = member.passive(&settings.check);
        if let Some(up) = member.facts.is_sound().filter(|_| member.facts.registry != Registry::Absent) {
            let flaps = member.damping.flaps();
            member.damping.record(&resilience.damping, now, up);
            if member.damping.flaps() > flaps {
                debug!(pool = %self.pool.name, backend = %id, flaps = member.damping.flaps(), "flapped");
            }
        }
        member.facts.guard = member.guard();
        if member.facts.standing() == Standing::Damped && before.standing != Standing::Damped {
            let others = self.pool.counts().up - usize::from(member.backend.wants_sessions());
            if others == 0 {
                member.damping.lift();
                member.facts.guard = member.guard();
            }
        }
        let standing = member.facts.standing();
        if standing == Standing::Damped
            && before.standing != Standing::Damped
            && let Some(until) = member.damping.until()
        {
            self.deadlines.push(Reverse((until, Arc::clone(id))));
        }
        match (standing, member.up_since) {
            (Standing::Up, None) => member.up_since = Some(now),
            (Standing::Up, Some(_)) => {}
            (_, since) => {
                member.up_since = None;
                if since.is_some() && since == oldest {
                    self.oldest = None;
                }
            }
        }
        member.ramp = aggregate::grown(resilience, now, member.up_since, oldest);
        if member.ramp < slow_start::FULL && self.ramp_at.is_none() {
            self.ramp_at = Some(now + aggregate::step(resilience));
        }
        let ground = Ground::of(member, &self.overrides);
        let reason = if member.ground.as_ref() == Some(&ground) && ground.lasts() {
            Arc::clone(&before.reason)
        } else {
            ground.explained(member).into()
        };
        member.ground = Some(ground);
        if standing != before.standing {
            member.since = SystemTime::now();
            member.backend.stats.changes.fetch_add(1, Relaxed);
            info!(
                pool = %self.pool.name, backend = %id, address = %member.endpoint.address,
                from = before.standing.name(), "{}: {reason}", standing.name()
            );
        }
        let held_until = self.window.and_then(|window| window.until);
        let view = member.view(now, resilience, held_until, standing, reason);
        self.pool.place(&member.backend, view);
        if standing == Standing::Ejected && before.standing != Standing::Ejected {
            self.look_at_ejection(now, id);
        }
    }

    fn publish(&self) {
        self.pool.publish(self.members.values().map(|member| Arc::clone(&member.backend)).collect());
    }
}
