//! What a keeper decides: told the time, it turns sets, reports and evidence into facts, and facts into the pool's
//! picks. No clock, no channel, no await: tests and simulations drive it as the task does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use tracing::{debug, info, warn};

use super::reason::Cause;
use super::{Probed, Watch};
use crate::config::{Check, CheckKind, WhenAllDown};
use crate::endpoint::{Endpoint, Registry, Update};
use crate::health::{ProbeState, Report};
use crate::pool::{Backend, Evidence, Pool, View};
use crate::standing::{Facts, Guard, Operator, Passive, Standing};

/// How long an identity is remembered after it left: a restarted instance finds its counters.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How long an identity with sessions is left alone before it is looked at again.
const LOOKED_AT_AGAIN: Duration = Duration::from_secs(10);

/// How long an ejection lasts where no probe can end it.
const EJECTED_FOR: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Members {
    pool: Arc<Pool>,
    watch: Watch,
    members: BTreeMap<Arc<str>, Member>,
    /// When to look at whom; entries may be out of date, a look is harmless.
    deadlines: BinaryHeap<Reverse<(Instant, Arc<str>)>>,
    heard: bool,
    all_down: bool,
}

pub(super) struct Member {
    pub(super) backend: Arc<Backend>,
    pub(super) endpoint: Endpoint,
    pub(super) facts: Facts,
    pub(super) ejected_because: String,
    /// What the reason in its view explains; `None` = nothing yet.
    cause: Option<Cause>,
    since: SystemTime,
    held_until: Option<Instant>,
    forget_at: Option<Instant>,
    /// Ends the probe when dropped.
    probe: Option<Box<dyn Send>>,
    /// The check is new, and the state is still the old one's.
    inherited: bool,
}

impl Members {
    pub(super) fn new(pool: Arc<Pool>, watch: Watch) -> Self {
        Self { pool, watch, members: BTreeMap::new(), deadlines: BinaryHeap::new(), heard: false, all_down: false }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((at, _))| *at)
    }

    /// A whole set: who is not in it has left.
    pub(super) fn update(&mut self, now: Instant, update: Update) {
        let hold_until = update.hold_missing_until.filter(|&until| until > now);
        let mut present = HashSet::with_capacity(update.endpoints.len());
        for endpoint in update.endpoints {
            present.insert(Arc::clone(&endpoint.id));
            self.arrived(now, endpoint);
        }
        let missing: Vec<_> = self.members.keys().filter(|id| !present.contains(*id)).cloned().collect();
        let held = missing.iter().filter(|id| self.missing(now, id, hold_until)).count();
        if held > 0 {
            let pool = &self.pool.name;
            warn!(
                %pool, backends = held,
                "held: they left the registry while that was in trouble, and their own probes pass"
            );
        }
        self.heard = true;
        self.publish();
        self.weigh();
    }

    /// The pool's settings are other ones now. With another way to `watch`, every backend is probed by it, and keeps its
    /// state until the new check has said the contrary as often as it says is needed.
    pub(super) fn changed(&mut self, now: Instant, watch: Option<Watch>) {
        if let Some(watch) = watch {
            self.watch = watch;
            let kind = &self.pool.settings().check.kind;
            let ids: Vec<_> = self.members.keys().cloned().collect();
            for id in ids {
                let Some(member) = self.members.get_mut(&id) else { continue };
                if member.probe.take().is_none() {
                    continue;
                }
                if *kind == CheckKind::None {
                    member.facts.probe = None;
                    member.probe = Some(Box::new(()));
                    if let Passive::Ejected { until: until @ None } = &mut member.facts.passive {
                        // No probe will end it.
                        *until = Some(now + EJECTED_FOR);
                        self.deadlines.push(Reverse((now + EJECTED_FOR, Arc::clone(&id))));
                    }
                } else {
                    member.inherited = member.facts.probe != Some(ProbeState::Unproven);
                    member.facts.probe = Some(member.facts.probe.unwrap_or(ProbeState::Up));
                    member.probe = Some((self.watch)(&id, member.endpoint.address));
                }
                self.settle(&id);
            }
        }
        // `when_all_down` may be another one.
        self.pool.set_all_down(self.all_down);
        self.weigh();
    }

    /// A probe finished.
    pub(super) fn report(&mut self, now: Instant, probed: Probed) {
        let Some(member) = self.members.get_mut(&probed.id) else { return };
        if member.endpoint.address != probed.address || member.probe.is_none() {
            return;
        }
        self.pool.probe_time.observe(probed.report.result.duration);
        let passed = probed.report.result.passed;
        let before = member.facts;
        let check = Arc::clone(&self.pool.settings().check);
        member.take_state(&check, &probed.report);
        member.backend.keep_report(Some(probed.report));
        if passed && member.facts.passive != Passive::Ok {
            member.facts.passive = Passive::Ok;
            member.backend.clear_failures();
        }
        if member.facts.guard == Guard::Held && member.facts.probe != Some(ProbeState::Up) {
            self.leave(now, &probed.id);
        } else if member.facts != before {
            self.settle(&probed.id);
        }
        self.weigh();
    }

    /// A session could not connect.
    pub(super) fn evidence(&mut self, now: Instant, evidence: &Evidence) {
        let check = Arc::clone(&self.pool.settings().check);
        let id = &evidence.backend.id;
        let Some(member) = self.members.get_mut(id) else { return };
        let stale = member.endpoint.address != evidence.address || !Arc::ptr_eq(&member.backend, &evidence.backend);
        // The streak may have been broken since: a success counts more than old news.
        let in_a_row = evidence.in_a_row.min(member.backend.failures_in_a_row());
        if stale || in_a_row < check.fall || member.facts.passive != Passive::Ok {
            return;
        }
        let until = match check.kind {
            CheckKind::None => Some(now + EJECTED_FOR),
            _ => None,
        };
        member.facts.passive = Passive::Ejected { until };
        member.ejected_because =
            format!("{in_a_row} connects by sessions failed in a row, the last one: {}", evidence.reason.name());
        if let Some(until) = until {
            self.deadlines.push(Reverse((until, Arc::clone(id))));
        }
        self.settle(id);
        self.weigh();
    }

    /// Looks at everybody whose time has come.
    pub(super) fn tick(&mut self, now: Instant) {
        let mut forgotten = false;
        while let Some(Reverse((at, _))) = self.deadlines.peek() {
            if *at > now {
                break;
            }
            let Some(Reverse((_, id))) = self.deadlines.pop() else { break };
            forgotten |= self.look_at(now, &id);
        }
        if forgotten {
            self.publish();
        }
        self.weigh();
    }

    /// Returns whether it was forgotten.
    fn look_at(&mut self, now: Instant, id: &Arc<str>) -> bool {
        let Some(member) = self.members.get_mut(id) else { return false };
        if member.forget_at.is_some_and(|at| at <= now) {
            if self.pool.forget(&member.backend) {
                self.members.remove(id);
                return true;
            }
            let again = now + LOOKED_AT_AGAIN;
            member.forget_at = Some(again);
            self.deadlines.push(Reverse((again, Arc::clone(id))));
            return false;
        }
        if let Passive::Ejected { until: Some(until) } = member.facts.passive
            && until <= now
        {
            member.facts.passive = Passive::Ok;
            member.backend.clear_failures();
            self.settle(id);
            return false;
        }
        if member.held_until.is_some_and(|until| until <= now) {
            self.leave(now, id);
        }
        false
    }

    fn arrived(&mut self, _now: Instant, endpoint: Endpoint) {
        let id = Arc::clone(&endpoint.id);
        let Some(member) = self.members.get_mut(&id) else {
            self.add(endpoint);
            return;
        };
        let moved = member.endpoint.address != endpoint.address;
        let same = member.endpoint == endpoint && member.facts.registry == endpoint.registry && member.probe.is_some();
        if same {
            return;
        }
        let address = endpoint.address;
        member.facts.registry = endpoint.registry;
        member.facts.guard = Guard::None;
        member.held_until = None;
        member.forget_at = None;
        member.endpoint = endpoint;
        if moved || member.probe.is_none() {
            member.begin_again(&self.pool, &self.watch, address);
        }
        self.settle(&id);
    }

    fn add(&mut self, endpoint: Endpoint) {
        let facts = Facts {
            operator: Operator::Ready,
            registry: endpoint.registry,
            probe: None,
            passive: Passive::Ok,
            guard: Guard::None,
        };
        let since = SystemTime::now();
        // In nobody's way until its facts are complete, just below.
        let view = View {
            address: endpoint.address,
            weight: endpoint.weight,
            facts,
            standing: Standing::Unproven,
            reason: "new".into(),
            since,
        };
        let backend = self.pool.add(&endpoint.id, view);
        let (id, address) = (Arc::clone(&endpoint.id), endpoint.address);
        debug!(pool = %self.pool.name, backend = %id, %address, weight = endpoint.weight, "added");
        let mut member = Member {
            backend,
            endpoint,
            facts,
            ejected_because: String::new(),
            cause: None,
            since,
            held_until: None,
            forget_at: None,
            probe: None,
            inherited: false,
        };
        member.begin_again(&self.pool, &self.watch, address);
        self.members.insert(Arc::clone(&id), member);
        self.settle(&id);
    }

    /// Not in the newest set. Returns whether it is held from now on.
    fn missing(&mut self, now: Instant, id: &Arc<str>, hold_until: Option<Instant>) -> bool {
        let Some(member) = self.members.get_mut(id) else { return false };
        if member.facts.registry == Registry::Absent && member.facts.guard != Guard::Held {
            return false;
        }
        let Some(until) = hold_until.filter(|_| member.facts.probe == Some(ProbeState::Up)) else {
            self.leave(now, id);
            return false;
        };
        member.held_until = Some(until);
        self.deadlines.push(Reverse((until, Arc::clone(id))));
        if member.facts.guard == Guard::Held {
            return false;
        }
        member.facts.registry = Registry::Absent;
        member.facts.guard = Guard::Held;
        debug!(pool = %self.pool.name, backend = %id, address = %member.endpoint.address, "held");
        self.settle(id);
        true
    }

    fn leave(&mut self, now: Instant, id: &Arc<str>) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.facts.registry = Registry::Absent;
        member.facts.guard = Guard::None;
        member.facts.passive = Passive::Ok;
        member.held_until = None;
        member.probe = None;
        let forget_at = now + REMEMBERED;
        member.forget_at = Some(forget_at);
        self.deadlines.push(Reverse((forget_at, Arc::clone(id))));
        self.settle(id);
    }

    /// The facts of a member may have changed: computes its standing, tells the pool, logs a change.
    fn settle(&mut self, id: &Arc<str>) {
        let Some(member) = self.members.get_mut(id) else { return };
        let before = member.backend.view();
        let standing = member.facts.standing();
        let cause = Cause::of(&member.facts, member.endpoint.note.as_ref());
        let reason = if member.cause.as_ref() == Some(&cause) {
            Arc::clone(&before.reason)
        } else {
            cause.explained(member).into()
        };
        member.cause = Some(cause);
        if standing != before.standing {
            member.since = SystemTime::now();
            member.backend.stats.changes.fetch_add(1, Relaxed);
            info!(
                pool = %self.pool.name, backend = %id, address = %member.endpoint.address,
                from = before.standing.name(), "{}: {reason}", standing.name()
            );
        }
        let view = View {
            address: member.endpoint.address,
            weight: member.endpoint.weight,
            facts: member.facts,
            standing,
            reason,
            since: member.since,
        };
        self.pool.place(&member.backend, view);
    }

    fn publish(&self) {
        self.pool.publish(self.members.values().map(|member| Arc::clone(&member.backend)).collect());
    }

    /// What follows from all members together: is the pool settled, is nothing up.
    fn weigh(&mut self) {
        if !self.heard {
            return;
        }
        let counts = self.pool.counts();
        if counts.unproven == 0 && self.pool.settle() {
            info!(pool = %self.pool.name, backends = counts.members, up = counts.up, "settled: every backend is probed");
        }
        // Entered only when all are proven, left only when one is up: a newcomer that is not yet probed is neither.
        let all_down = counts.up == 0 && (self.all_down || counts.unproven == 0);
        if all_down == self.all_down {
            return;
        }
        self.all_down = all_down;
        self.pool.set_all_down(all_down);
        let any = self.pool.settings().when_all_down == WhenAllDown::Any;
        let pool = &self.pool.name;
        match (all_down, any) {
            (true, true) => warn!(%pool, backends = counts.members, "no backend is up: sessions may try any of them"),
            (true, false) => warn!(%pool, backends = counts.members, "no backend is up: new sessions are refused"),
            (false, _) => info!(%pool, up = counts.up, "a backend is up again"),
        }
    }
}

impl Member {
    /// What a probe says counts, unless it is the first word of a new check against what the old one had found out.
    fn take_state(&mut self, check: &Check, report: &Report) {
        let enough = if report.result.passed { check.rise } else { check.fall };
        if self.inherited && self.facts.probe != Some(report.state) && report.streak < enough {
            return;
        }
        self.inherited = false;
        self.facts.probe = Some(report.state);
    }

    /// A new address, or back after it had left: health starts from nothing.
    fn begin_again(&mut self, pool: &Pool, watch: &Watch, address: SocketAddr) {
        self.facts.passive = Passive::Ok;
        self.backend.clear_failures();
        self.backend.keep_report(None);
        self.probe = None;
        self.inherited = false;
        if pool.settings().check.kind == CheckKind::None {
            self.facts.probe = None;
            self.probe = Some(Box::new(()));
        } else {
            self.facts.probe = Some(ProbeState::Unproven);
            self.probe = Some(watch(&self.endpoint.id, address));
        }
    }
}
