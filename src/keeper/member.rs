//! One backend as its keeper sees it: what was said of it, and the view that follows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::addresses::{Doubt, Left, Other};
use super::reason::Ground;
use super::{ProbeHandle, Probed, Probing};
use crate::config::{self, Check, CheckKind, Proof, Resilience};
use crate::endpoint::{Endpoint, Mistrust, Registry};
use crate::health::{
    Advice, AdvisedWeight, AgentWish, Failing, FlapDamping, Hearing, Outlier, ProbeReport, ProbeState, slow_start,
};
use crate::pool::{Backend, BackendView, Pool};
use crate::standing::{Facts, Guard, Operator, Passive, Standing};

/// Percent of the weight that a backend without advice gets.
const ALL: u8 = 100;

pub(super) struct Member {
    pub(super) backend: Arc<Backend>,
    pub(super) endpoint: Endpoint,
    pub(super) facts: Facts,
    /// The registry's weight, or an operator's instead.
    pub(super) weight: u16,
    pub(super) outlier: Outlier,
    pub(super) ejected_because: String,
    /// When the end of its ejection is looked at; never later than that.
    pub(super) end_look: Option<Instant>,
    pub(super) damping: FlapDamping,
    /// What its agent asked for last.
    pub(super) advice: Option<Advice>,
    /// What the log said last of questions to it.
    pub(super) hearing_said: Hearing,
    /// Since when it is up without a break.
    pub(super) up_since: Option<Instant>,
    /// Percent of its weight, by its age.
    pub(super) ramp: u32,
    /// What the reason in its view explains; `None` = nothing yet.
    pub(super) ground: Option<Ground>,
    pub(super) since: SystemTime,
    /// It is in the newest set.
    pub(super) listed: bool,
    /// The last word of the registry that was believed; unknown = none.
    pub(super) word: Registry,
    /// The registry's newest word is not believed, and that is why.
    pub(super) held: Option<Mistrust>,
    pub(super) forget_at: Option<Instant>,
    /// Ends the probe when dropped.
    pub(super) probe: Option<Box<dyn Probing>>,
    /// The check is new, and the state is still the old one's.
    pub(super) inherited: bool,
    /// An operator lets its check rest.
    pub(super) is_paused: bool,
    /// Whether its address works, and how the others of its name do; `None` = nothing speaks against it.
    pub(super) doubt: Option<Doubt>,
    /// Other addresses of its name that are probed, too.
    pub(super) others: Vec<Other>,
    /// Where sessions failed before they do so here.
    pub(super) left: Left,
}

impl Member {
    /// With the facts of its endpoint; [`Self::begin_again`] completes them.
    pub(super) fn new(pool: &Pool, endpoint: Endpoint) -> Self {
        let facts = Facts {
            operator: Operator::Ready,
            registry: endpoint.registry,
            agent: AgentWish::Ready,
            probe: None,
            passive: Passive::Ok,
            guard: Guard::None,
        };
        let since = SystemTime::now();
        // Not counted until its facts are complete.
        let view = BackendView {
            address: endpoint.address,
            candidates: Arc::clone(&endpoint.candidates),
            dead: [].into(),
            weight: endpoint.weight,
            share: 0,
            ramp: slow_start::FULL,
            priority: endpoint.priority,
            zone: endpoint.zone.clone(),
            position: endpoint.position,
            max_sessions: None,
            facts,
            standing: Standing::Unproven,
            reason: "new".into(),
            by_probe: false,
            remarks: None,
            since,
            advice: None,
            ejected: None,
            damped_until: None,
            held_until: None,
        };
        Self {
            backend: pool.add(&endpoint.id, view),
            weight: endpoint.weight,
            endpoint,
            facts,
            outlier: Outlier::new(),
            ejected_because: String::new(),
            end_look: None,
            damping: FlapDamping::new(),
            advice: None,
            hearing_said: Hearing::default(),
            up_since: None,
            ramp: slow_start::FULL,
            ground: None,
            since,
            listed: true,
            word: Registry::Unknown,
            held: None,
            forget_at: None,
            probe: None,
            inherited: false,
            is_paused: false,
            doubt: None,
            others: Vec::new(),
            left: Left::default(),
        }
    }

    /// A new address, or back after it had left: health starts from nothing.
    pub(super) fn begin_again(&mut self, pool: &Pool, watch: &ProbeHandle, address: SocketAddr) {
        self.forget_health();
        let settings = pool.settings();
        let unchecked = settings.check.kind == CheckKind::None;
        self.facts.probe = (!unchecked).then_some(ProbeState::Unproven);
        self.probe_by(&settings, watch, address);
    }

    /// At another address, which `probe` has found to work.
    pub(super) fn go_on_at(&mut self, probe: Box<dyn Probing>, report: ProbeReport) {
        self.forget_health();
        self.facts.probe = Some(report.state);
        self.backend.keep_report(Some(report));
        self.probe = Some(probe);
        self.keep_paused();
    }

    fn forget_health(&mut self) {
        self.facts.passive = Passive::Ok;
        self.outlier = Outlier::new();
        self.backend.forgive();
        self.backend.keep_report(None);
        self.take_advice(None);
        self.hearing_said = Hearing::default();
        self.backend.keep_answer(None);
        self.inherited = false;
        self.doubt = None;
        self.let_others_rest();
        self.probe = None;
    }

    /// Probed by another check from now on; what the old one had found out holds until the new one says otherwise.
    pub(super) fn go_on_with(&mut self, pool: &Pool, watch: &ProbeHandle) {
        let settings = pool.settings();
        if settings.check.kind == CheckKind::None {
            self.facts.probe = None;
        } else {
            self.inherited = self.facts.probe != Some(ProbeState::Unproven);
            self.facts.probe = Some(self.facts.probe.unwrap_or(ProbeState::Up));
        }
        if settings.agent.is_none() && !matches!(settings.check.kind, CheckKind::Agent(_)) {
            self.take_advice(None);
        }
        self.probe_by(&settings, watch, self.endpoint.address);
        self.watch_others(watch, self.facts.probe.is_some());
    }

    fn probe_by(&mut self, settings: &config::Pool, watch: &ProbeHandle, address: SocketAddr) {
        // Where nothing is probed there may still be an agent.
        let nobody = settings.check.kind == CheckKind::None && settings.agent.is_none();
        self.probe = Some(if nobody { Box::new(()) } else { watch(&self.endpoint.id, address) });
        self.keep_paused();
    }

    fn keep_paused(&mut self) {
        if let Some(probe) = self.probe.as_mut().filter(|_| self.is_paused) {
            probe.pause();
        }
    }

    /// Its check rests from now on, and what it found last holds; or it goes on, and has to say the contrary as often as a new
    /// one.
    pub(super) fn pause(&mut self, pause: bool) {
        if self.is_paused == pause {
            return;
        }
        self.is_paused = pause;
        let Some(probe) = &mut self.probe else { return };
        if pause {
            probe.pause();
        } else {
            self.inherited = self.facts.probe.is_some_and(|state| state != ProbeState::Unproven);
            probe.resume();
        }
    }

    /// What a probe says counts, unless it is the first word of a new check against what the old one had found out.
    pub(super) fn take_state(&mut self, check: &Check, report: &ProbeReport) {
        let state = self.state_by(check, report);
        self.inherited &= state != Some(report.state);
        self.facts.probe = state;
    }

    /// The state that a report leads to.
    pub(super) fn state_by(&self, check: &Check, report: &ProbeReport) -> Option<ProbeState> {
        let enough = if report.result.passed { check.rise } else { check.fall };
        let is_first_word = self.inherited && self.facts.probe != Some(report.state) && report.streak < enough;
        if is_first_word { self.facts.probe } else { Some(report.state) }
    }

    pub(super) fn take_advice(&mut self, advice: Option<Advice>) {
        self.advice = advice;
        self.facts.agent = advice.map_or(AgentWish::Ready, |advice| advice.wish);
    }

    /// The guard's fact: only a member that is listed and healthy is damped.
    pub(super) fn guard(&self) -> Guard {
        if let Some(mistrust) = self.held.filter(|_| self.word_is_good()) {
            Guard::Held(mistrust)
        } else if self.damping.until().is_some()
            && self.facts.registry != Registry::Absent
            && self.facts.is_sound() == Some(true)
        {
            Guard::Damped
        } else {
            Guard::None
        }
    }

    /// The passive fact: what the detector's ejection comes to.
    pub(super) fn passive(&self, check: &Check) -> Passive {
        let Some(ejection) = self.outlier.ejection() else { return Passive::Ok };
        let probe_can = ejection.trusts_probes && self.is_disproved_by(check, ejection.failing);
        Passive::Ejected { until: (!probe_can).then_some(ejection.until) }
    }

    /// Whether a probe of that kind tests at least what has failed.
    pub(super) fn is_disproved_by(&self, check: &Check, failing: Failing) -> bool {
        let same_port = check.port.is_none_or(|port| port == self.endpoint.address.port());
        let covers = match check.kind.proves() {
            Proof::Nothing => false,
            Proof::Connect => failing == Failing::Connect,
            Proof::Exchange => true,
        };
        // One that is paused says nothing.
        same_port && covers && !self.is_paused
    }

    /// Whether a probe that passed ends the ejection: it must have begun after that.
    pub(super) fn is_acquitted_by(&self, check: &Check, now: Instant, probed: &Probed) -> bool {
        let Some(ejection) = self.outlier.ejection() else { return false };
        let result = &probed.report.result;
        let begun = now.checked_sub(result.duration).unwrap_or(now);
        result.passed && begun >= ejection.since && matches!(self.passive(check), Passive::Ejected { until: None })
    }

    /// `held_until`: when the registry is believed again.
    pub(super) fn view(
        &self,
        now: Instant,
        resilience: &Resilience,
        held_until: Option<Instant>,
        standing: Standing,
        reason: Arc<str>,
    ) -> BackendView {
        let ejection = self.outlier.ejection().filter(|_| standing != Standing::Removed);
        BackendView {
            address: self.endpoint.address,
            candidates: Arc::clone(&self.endpoint.candidates),
            dead: self.dead_addresses(),
            weight: self.weight,
            share: self.share(),
            ramp: self.ramp,
            priority: self.endpoint.priority,
            zone: self.endpoint.zone.clone(),
            position: self.endpoint.position,
            max_sessions: self.cap(resilience),
            facts: self.facts,
            standing,
            reason,
            by_probe: self.ground.as_ref().is_some_and(Ground::is_probe),
            remarks: self.ground.as_ref().and_then(Ground::remarks),
            since: self.since,
            advice: self.advice,
            ejected: ejection.map(|ejection| (wall_clock(now, ejection.until), self.outlier.strikes())),
            damped_until: self
                .damping
                .until()
                .filter(|_| standing == Standing::Damped)
                .map(|until| wall_clock(now, until)),
            held_until: held_until.filter(|_| self.facts.is_held()).map(|until| wall_clock(now, until)),
        }
    }

    /// In parts of [`crate::pool::SHARE_OF_WEIGHT`]: percent times percent, and nothing is rounded.
    fn share(&self) -> u32 {
        let (weight, percent) = match self.advice.and_then(|advice| advice.weight) {
            None => (self.weight, ALL),
            Some(AdvisedWeight::Percent(percent)) => (self.weight, percent),
            // A weight of 0 in the file or the registry means nothing new, whatever the agent says.
            Some(AdvisedWeight::Absolute(weight)) => (if self.weight == 0 { 0 } else { weight }, ALL),
        };
        u32::from(weight) * u32::from(percent) * self.ramp
    }

    /// The strictest of what is written and what its agent asks for; while it is new, a part of it by its age, at least 1.
    fn cap(&self, resilience: &Resilience) -> Option<u32> {
        let written = self.endpoint.max_sessions.or(resilience.backend_max_sessions);
        let advised = self.advice.and_then(|advice| advice.max_sessions);
        let cap = written.into_iter().chain(advised).min()?;
        let part = u64::from(cap) * u64::from(self.ramp) / u64::from(slow_start::FULL);
        // No more than the cap itself, so it fits.
        Some(u32::try_from(part).unwrap_or(cap).max(cap.min(1)))
    }
}

fn wall_clock(now: Instant, at: Instant) -> SystemTime {
    SystemTime::now() + at.checked_duration_since(now).unwrap_or(Duration::ZERO)
}
