//! PURE. Computes a backend's standing from the facts about it, and what happens to its running sessions then.
//! Used by `keeper`, `server` and `plan`.
//! Each fact has one writer. No other place decides this.

use std::time::Instant;

use crate::config::{ClosePolicy, Closing};
use crate::endpoint::{Mistrust, Registry};
use crate::health::{AgentWish, ProbeState};
use crate::metrics::CloseCause;

/// All facts about a backend, one for each source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What an operator of this balancer wants.
    pub operator: Operator,
    /// What discovery says.
    pub registry: Registry,
    /// What the backend's agent check asks for.
    pub agent: AgentWish,
    /// What the active check says; `None` = there is none (`kind = "none"`).
    pub probe: Option<ProbeState>,
    /// What sessions observed.
    pub passive: Passive,
    /// A rule that overrules the facts above.
    pub guard: Guard,
}

words! {
    /// The operator's fact.
    pub enum Operator {
        /// Serve.
        Ready = "ready",
        /// Nothing new; running sessions finish.
        Drain = "drain",
        /// Out.
        Disabled = "disabled",
    }
}

/// The fact from sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passive {
    /// Nothing is wrong.
    Ok,
    /// It failed more than others.
    Ejected {
        /// When it gets sessions again; `None` = after a passing probe.
        until: Option<Instant>,
    },
}

/// The guard's fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// No rule applies.
    None,
    /// The registry removed it or calls it critical, but is not believed now; it stays while its own probes pass.
    Held(Mistrust),
    /// It flapped, and has to stay up for longer.
    Damped,
}

words! {
    /// Whether a backend gets new sessions, and why not.
    #[derive(PartialOrd, Ord)]
    pub enum Standing {
        /// Gets sessions.
        Up = "up",
        /// No probe has a result yet.
        Unproven = "unproven",
        /// The probe, the registry or its agent check says that it does not work.
        Down = "down",
        /// Sessions failed there.
        Ejected = "ejected",
        /// Up, but flapped.
        Damped = "damped",
        /// The operator or its agent check drains it.
        Draining = "draining",
        /// The registry's operator or its agent check took it out.
        Maintenance = "maintenance",
        /// The operator took it out.
        Disabled = "disabled",
        /// No longer in the registry.
        Removed = "removed",
    }
}

/// What the rest of a pool means for the running sessions of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Sessions may try backends that are not up, because none is (`when_all_down`) or too few are (`panic_threshold`).
    pub is_open: bool,
    /// All new sessions go to tiers before this backend's, and nothing there is in its slow start.
    pub is_relieved: bool,
}

impl Standing {
    /// Whether a session may try it when nothing is up and the pool says `when_all_down = "any"`: its health took it out,
    /// not a person.
    pub fn is_last_resort(self) -> bool {
        match self {
            Self::Unproven | Self::Down | Self::Ejected | Self::Damped => true,
            Self::Up | Self::Draining | Self::Maintenance | Self::Disabled | Self::Removed => false,
        }
    }

    /// What happens to the running sessions of a backend, and for what cause; `None` = nothing. What its own standing asks for
    /// goes before `failback`.
    pub fn fate(self, around: Surroundings, closing: &Closing) -> Option<(CloseCause, ClosePolicy)> {
        let acts = |(_, policy): &(CloseCause, ClosePolicy)| *policy != ClosePolicy::Keep;
        let failback = around.is_relieved.then_some((CloseCause::Failback, closing.failback)).filter(acts);
        let own = self.own_fate(around.is_open, closing);
        own.filter(acts).or(failback).or(own)
    }

    fn own_fate(self, is_open: bool, closing: &Closing) -> Option<(CloseCause, ClosePolicy)> {
        match self {
            // Sessions go there on purpose, because there is nothing better.
            Self::Down if is_open => None,
            Self::Down => Some((CloseCause::BackendDown, closing.on_down)),
            Self::Removed => Some((CloseCause::BackendRemoved, closing.on_removed)),
            Self::Maintenance => Some((CloseCause::Maintenance, closing.on_maintenance)),
            // Running sessions still work, or an operator decides about them by hand.
            Self::Up | Self::Unproven | Self::Ejected | Self::Damped | Self::Draining | Self::Disabled => None,
        }
    }
}

impl Facts {
    /// Precedence: operator, registry, agent check, probe, passive. A guard overrules "absent" and "critical" (held) or "up"
    /// (damped). If the registry does not know, the probe decides; without a probe, a check that has not run counts as
    /// critical.
    pub fn standing(&self) -> Standing {
        match self.operator {
            Operator::Disabled => return Standing::Disabled,
            Operator::Drain => return Standing::Draining,
            Operator::Ready => {}
        }
        match self.registry {
            Registry::Maintenance => return Standing::Maintenance,
            Registry::Absent if !self.is_held() => return Standing::Removed,
            Registry::Critical if !self.is_held() => return Standing::Down,
            Registry::Unknown if self.probe.is_none() => return Standing::Down,
            Registry::Absent | Registry::Critical | Registry::Unknown | Registry::Passing | Registry::Warning => {}
        }
        match self.agent {
            AgentWish::Drain => return Standing::Draining,
            AgentWish::Maintenance => return Standing::Maintenance,
            AgentWish::Down => return Standing::Down,
            AgentWish::Ready => {}
        }
        match self.probe {
            Some(ProbeState::Unproven) => return Standing::Unproven,
            Some(ProbeState::Down) => return Standing::Down,
            Some(ProbeState::Up) | None => {}
        }
        match (self.passive, self.guard) {
            (Passive::Ejected { .. }, _) => Standing::Ejected,
            (Passive::Ok, Guard::Damped) => Standing::Damped,
            (Passive::Ok, Guard::None | Guard::Held(_)) => Standing::Up,
        }
    }
}

impl Facts {
    /// The facts for another address of the same backend's name. Operator and registry count there, too; check, agent check
    /// and sessions belong to an address. `is_dead`: the check finds that address down.
    #[must_use]
    pub fn elsewhere(self, is_dead: bool) -> Self {
        let probe = Some(if is_dead { ProbeState::Down } else { ProbeState::Up });
        Self { probe, agent: AgentWish::Ready, passive: Passive::Ok, ..self }
    }

    /// Whether the guard keeps it although the registry removed it.
    pub fn is_held(&self) -> bool {
        matches!(self.guard, Guard::Held(_))
    }

    /// Whether check and sessions find it working; `None` = not known yet. Flapping is counted on this: facts from people
    /// and the registry take effect at once.
    pub fn is_sound(&self) -> Option<bool> {
        match (self.probe, self.passive) {
            (Some(ProbeState::Down), _) | (_, Passive::Ejected { .. }) => Some(false),
            (Some(ProbeState::Unproven), Passive::Ok) => None,
            (Some(ProbeState::Up) | None, Passive::Ok) => Some(true),
        }
    }
}

impl Passive {
    /// The word for it in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Ejected { .. } => "ejected",
        }
    }
}

impl Guard {
    /// The word for it in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Held(_) => "held",
            Self::Damped => "damped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Facts = Facts {
        operator: Operator::Ready,
        registry: Registry::Passing,
        agent: AgentWish::Ready,
        probe: Some(ProbeState::Up),
        passive: Passive::Ok,
        guard: Guard::None,
    };

    #[test]
    fn each_fact_alone_has_its_standing() {
        assert_eq!(GOOD.standing(), Standing::Up);
        assert_eq!(Facts { probe: None, ..GOOD }.standing(), Standing::Up);
        assert_eq!(Facts { registry: Registry::Warning, ..GOOD }.standing(), Standing::Up);
        assert_eq!(Facts { operator: Operator::Drain, ..GOOD }.standing(), Standing::Draining);
        assert_eq!(Facts { operator: Operator::Disabled, ..GOOD }.standing(), Standing::Disabled);
        assert_eq!(Facts { registry: Registry::Critical, ..GOOD }.standing(), Standing::Down);
        assert_eq!(Facts { registry: Registry::Maintenance, ..GOOD }.standing(), Standing::Maintenance);
        assert_eq!(Facts { registry: Registry::Absent, ..GOOD }.standing(), Standing::Removed);
        assert_eq!(Facts { probe: Some(ProbeState::Unproven), ..GOOD }.standing(), Standing::Unproven);
        assert_eq!(Facts { probe: Some(ProbeState::Down), ..GOOD }.standing(), Standing::Down);
        assert_eq!(Facts { passive: Passive::Ejected { until: None }, ..GOOD }.standing(), Standing::Ejected);
        assert_eq!(Facts { guard: Guard::Damped, ..GOOD }.standing(), Standing::Damped);
        assert_eq!(Facts { agent: AgentWish::Drain, ..GOOD }.standing(), Standing::Draining);
        assert_eq!(Facts { agent: AgentWish::Maintenance, ..GOOD }.standing(), Standing::Maintenance);
    }

    #[test]
    fn precedence_is_operator_registry_agent_probe_passive() {
        let mut facts = Facts {
            operator: Operator::Disabled,
            registry: Registry::Maintenance,
            agent: AgentWish::Drain,
            probe: Some(ProbeState::Down),
            passive: Passive::Ejected { until: None },
            guard: Guard::None,
        };
        assert_eq!(facts.standing(), Standing::Disabled);
        facts.operator = Operator::Ready;
        assert_eq!(facts.standing(), Standing::Maintenance);
        facts.registry = Registry::Passing;
        assert_eq!(facts.standing(), Standing::Draining);
        facts.agent = AgentWish::Ready;
        assert_eq!(facts.standing(), Standing::Down);
        facts.probe = Some(ProbeState::Up);
        assert_eq!(facts.standing(), Standing::Ejected);
    }

    #[test]
    fn held_overrules_absent_and_critical_and_nothing_else() {
        for registry in [Registry::Absent, Registry::Critical] {
            let held = Facts { registry, guard: Guard::Held(Mistrust::Trouble), ..GOOD };
            assert_eq!(held.standing(), Standing::Up);
            assert_eq!(Facts { probe: Some(ProbeState::Down), ..held }.standing(), Standing::Down);
            assert_eq!(Facts { registry: Registry::Maintenance, ..held }.standing(), Standing::Maintenance);
            assert_eq!(Facts { operator: Operator::Drain, ..held }.standing(), Standing::Draining);
            assert_eq!(Facts { agent: AgentWish::Down, ..held }.standing(), Standing::Down);
        }
    }

    #[test]
    fn where_the_registry_does_not_know_the_probe_decides() {
        let unknown = Facts { registry: Registry::Unknown, ..GOOD };
        assert_eq!(unknown.standing(), Standing::Up);
        assert_eq!(Facts { probe: Some(ProbeState::Unproven), ..unknown }.standing(), Standing::Unproven);
        assert_eq!(Facts { probe: Some(ProbeState::Down), ..unknown }.standing(), Standing::Down);
        assert_eq!(Facts { probe: None, ..unknown }.standing(), Standing::Down);
    }

    /// Every standing, in pools that fail open or not, with every policy.
    #[test]
    fn the_fate_of_sessions_is_their_policys_and_no_policy_closes_where_a_pool_fails_open() {
        let policies = [ClosePolicy::Keep, ClosePolicy::Drain(std::time::Duration::from_secs(1)), ClosePolicy::Close];
        for (standing, opens) in Standing::ALL.into_iter().flat_map(|standing| [(standing, false), (standing, true)]) {
            for (on_down, on_removed, on_maintenance) in
                policies.into_iter().flat_map(|a| policies.map(|b| policies.map(|c| (a, b, c)))).flatten()
            {
                let closing = Closing {
                    on_down,
                    on_removed,
                    on_maintenance,
                    failback: ClosePolicy::Keep,
                    rate: None,
                    deadline: std::time::Duration::ZERO,
                    max_lifetime: None,
                    max_lifetime_jitter: 0,
                };
                let wanted = match standing.name() {
                    "down" => (!opens).then_some((CloseCause::BackendDown, on_down)),
                    "removed" => Some((CloseCause::BackendRemoved, on_removed)),
                    "maintenance" => Some((CloseCause::Maintenance, on_maintenance)),
                    _ => None,
                };
                let around = Surroundings { is_open: opens, is_relieved: false };
                assert_eq!(standing.fate(around, &closing), wanted, "{standing:?} {opens}");
                // Whatever it is, a backup that is relieved gives up its sessions, unless they are closed for itself already.
                let relieved = Surroundings { is_relieved: true, ..around };
                assert_eq!(standing.fate(relieved, &closing), wanted, "{standing:?}: kept");
                for failback in [ClosePolicy::Close, ClosePolicy::Drain(std::time::Duration::from_secs(2))] {
                    let closing = Closing { failback, ..closing };
                    let own = wanted.filter(|(_, policy)| *policy != ClosePolicy::Keep);
                    let wanted_now = own.or(Some((CloseCause::Failback, failback)));
                    assert_eq!(standing.fate(relieved, &closing), wanted_now, "{standing:?} {opens}");
                    assert_eq!(standing.fate(around, &closing), wanted, "{standing:?} {opens}");
                }
            }
        }
    }
}
