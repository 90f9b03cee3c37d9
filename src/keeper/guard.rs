//! When the registry is not believed at once where it takes backends away: after its trouble, or when it takes all of them
//! in one answer. A backend whose last word was good is held up while its own probes pass; one in maintenance or critical
//! stays what it was. All of it ends together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::member::Member;
use super::members::Members;
use super::reason;
use crate::endpoint::{Endpoint, Mistrust, Registry, Trust};
use crate::health::ProbeState;

/// The time in which the registry is not believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) mistrust: Mistrust,
    /// `None` = for as long as it fails.
    pub(super) until: Option<Instant>,
}

/// Members that are held since one answer: how many of them are missing, and how many critical.
#[derive(Default)]
pub(super) struct HeldSet {
    pub(super) missing: usize,
    pub(super) critical: usize,
}

impl Members {
    /// Whether a set is believed, before any of it is applied.
    pub(super) fn trust(&mut self, now: Instant, trust: Trust, endpoints: &[Endpoint]) {
        self.end_window(now);
        let hold = self.pool.settings().resilience.guard.hold;
        let open = |mistrust| (!hold.is_zero()).then(|| Window { mistrust, until: Some(now + hold) });
        self.window = match (trust, self.window) {
            (Trust::Written, _) => None,
            (Trust::Doubted(mistrust), _) => open(mistrust),
            (Trust::Failing, Some(window)) => Some(Window { until: None, ..window }),
            // It failed, and nothing says when it was well again.
            (Trust::Calm, Some(Window { mistrust, until: None })) => open(mistrust),
            (Trust::Calm, None) if self.shrinks(endpoints) => open(Mistrust::Shrink),
            (Trust::Calm | Trust::Failing, window) => window,
        };
    }

    /// Two or more that work, and after this set none: each is missing, or critical where it is. Those that their own probes
    /// have down served no client before; one that goes into maintenance is taken out by a person.
    fn shrinks(&self, endpoints: &[Endpoint]) -> bool {
        let is_out = |endpoint: &Endpoint| matches!(endpoint.registry, Registry::Critical | Registry::Maintenance);
        if !endpoints.iter().all(is_out) {
            return false;
        }
        let now: BTreeMap<&str, &Endpoint> = endpoints.iter().map(|endpoint| (&*endpoint.id, endpoint)).collect();
        let is_lost = |id: &str, member: &Member| {
            let stays_at = |endpoint: &Endpoint| {
                endpoint.address == member.endpoint.address || endpoint.candidates.contains(&member.endpoint.address)
            };
            now.get(id).is_none_or(|now| now.registry == Registry::Critical && stays_at(now))
        };
        let lost = self.members.iter().filter(|(id, member)| member.can_be_held() && is_lost(id, member));
        lost.count() > 1
    }

    /// Says how many are held since one answer, and why.
    pub(super) fn tell_kept(&self, kept: &HeldSet) {
        let Some(Window { mistrust, .. }) = self.window else { return };
        for (backends, registry) in [(kept.missing, Registry::Absent), (kept.critical, Registry::Critical)] {
            if backends > 0 {
                warn!(pool = %self.pool.name, backends, "{}", reason::held(mistrust, registry, "they", "their"));
            }
        }
    }

    /// Not in the newest set. Returns whether it is held up from now on.
    pub(super) fn missing(&mut self, now: Instant, id: &Arc<str>) -> bool {
        let window = self.window;
        let Some(member) = self.members.get_mut(id) else { return false };
        if member.has_left() {
            return false;
        }
        let Some(window) = window.filter(|_| member.can_be_kept()) else {
            self.leave(now, id);
            return false;
        };
        let is_news = member.held.is_none() && member.word_is_good();
        member.listed = false;
        member.held = member.held.or(Some(window.mistrust));
        if member.word_is_good() {
            member.facts.registry = Registry::Absent;
        }
        self.settle(now, id);
        is_news
    }

    /// The registry is believed again: what it said last holds. Returns how many were held.
    pub(super) fn believe(&mut self, now: Instant) -> usize {
        self.window = None;
        let held: Vec<_> =
            self.members.iter().filter(|(_, member)| member.held.is_some()).map(|(id, _)| Arc::clone(id)).collect();
        for id in &held {
            self.obey_registry(now, id);
        }
        held.len()
    }

    /// What the registry said last of it holds.
    pub(super) fn obey_registry(&mut self, now: Instant, id: &Arc<str>) {
        let Some(member) = self.members.get_mut(id) else { return };
        if !member.listed {
            self.leave(now, id);
            return;
        }
        member.held = None;
        member.take_word(member.endpoint.registry);
        self.settle(now, id);
    }

    /// The time of the window may be over.
    pub(super) fn end_window(&mut self, now: Instant) {
        let Some(Window { mistrust, until: Some(until) }) = self.window else { return };
        if until > now {
            return;
        }
        let backends = self.believe(now);
        if backends > 0 {
            info!(pool = %self.pool.name, reason = mistrust.name(), backends, "held no longer: the time is over");
        }
    }

    /// The rules or the check have changed: members that they do not hold are let go.
    pub(super) fn hold_by_new_rules(&mut self, now: Instant) {
        if self.pool.settings().resilience.guard.hold == Duration::ZERO {
            self.believe(now);
            return;
        }
        let unproven = self.members.iter().filter(|(_, member)| member.held.is_some() && !member.can_be_kept());
        for id in unproven.map(|(id, _)| Arc::clone(id)).collect::<Vec<_>>() {
            self.obey_registry(now, &id);
        }
    }
}

impl Member {
    /// The last word of the registry that was believed lets it serve.
    pub(super) fn word_is_good(&self) -> bool {
        matches!(self.word, Registry::Passing | Registry::Warning)
    }

    /// May be held up: its last word was good, and it works.
    pub(super) fn can_be_held(&self) -> bool {
        self.word_is_good() && self.facts.probe == Some(ProbeState::Up)
    }

    /// May stay when it is missing: held up, or as what it was when it did not serve.
    fn can_be_kept(&self) -> bool {
        let was_out = matches!(self.word, Registry::Critical | Registry::Maintenance);
        self.can_be_held() || (was_out && self.facts.probe.is_some())
    }

    /// Listed, as that. Returns whether it is held up from now on.
    pub(super) fn listed(&mut self, says: Registry, window: Option<Window>) -> bool {
        self.listed = true;
        let held = window.filter(|_| says == Registry::Critical && self.can_be_held());
        let Some(window) = held else {
            self.held = None;
            self.take_word(says);
            return false;
        };
        self.facts.registry = says;
        self.held.replace(self.held.unwrap_or(window.mistrust)).is_none()
    }

    /// It is not in the set, and not kept.
    pub(super) fn has_left(&self) -> bool {
        !self.listed && self.held.is_none()
    }

    /// The registry says this, and is believed. Where it does not know, its last word against the backend stays: it was the
    /// answer of a check that has not run again.
    pub(super) fn take_word(&mut self, says: Registry) {
        self.facts.registry = match (says, self.word) {
            (Registry::Unknown, Registry::Critical) => Registry::Critical,
            (says, _) => says,
        };
        self.word = match (says, self.word) {
            (Registry::Unknown, word) if word != Registry::Maintenance => word,
            (says, _) => says,
        };
    }
}
