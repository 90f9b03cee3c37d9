//! Sessions that leave backends which have more than their part: what a pool's task keeps about it, and what an operator is
//! told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tracing::info;

use super::{CloseClaim, LOOK};
use crate::balance::{LoadedBackend, PartRules, PoolShape, RebalanceEnd, RebalancePlan, Rebalancer, RunFacts};
use crate::config::{Prefer, Rebalance};
use crate::health::slow_start;
use crate::metrics::CloseCause;
use crate::pool::{Backend, Pool};
use crate::proxy::SessionRef;

use super::pacer::Candidate;

/// What a rebalance of a pool would do now.
#[derive(Debug)]
pub struct RebalanceView {
    /// What it goes by.
    pub rules: Rebalance,
    /// Whether the pool's settings have it: then a change of its backends begins one.
    pub is_on: bool,
    /// What it waits for; `None` = all is well.
    pub waits_for: Option<String>,
    /// The backends that may get new sessions, in the order of the plan.
    pub backends: Vec<Arc<Backend>>,
    /// Their sessions.
    pub sessions: Vec<u32>,
    /// How many each has to lose.
    pub plan: RebalancePlan,
    /// What the rebalance that goes on may still close; 0 = none goes on.
    pub left: u32,
}

impl RebalanceView {
    /// Of a pool now.
    pub fn of(pool: &Pool) -> Self {
        let rules = rules(pool);
        let (backends, loads): (Vec<_>, Vec<_>) = pool.loaded().into_iter().unzip();
        Self {
            rules,
            is_on: pool.settings().rebalance.is_some(),
            waits_for: trouble(pool),
            sessions: loads.iter().map(|backend| backend.sessions).collect(),
            plan: RebalancePlan::of(&part_rules(pool, &rules), &loads, 0),
            backends,
            left: pool.closes.rebalancing.load(Relaxed),
        }
    }

    /// How long it would take at most, once nothing is to be waited for.
    pub fn time(&self, pool: &Pool) -> Duration {
        let per_second =
            pool.settings().closing.rate.map_or(self.rules.max_per_second, |rate| rate.min(self.rules.max_per_second));
        Duration::from_secs(u64::from(self.plan.bound.max(self.left).div_ceil(per_second.max(1))))
    }
}

/// The pool's rules, or the defaults where it has none.
fn rules(pool: &Pool) -> Rebalance {
    pool.settings().rebalance.unwrap_or(Rebalance::DEFAULT)
}

fn part_rules(pool: &Pool, rules: &Rebalance) -> PartRules {
    PartRules { balance: pool.settings().balance, loads: pool.pick_loads(), threshold: rules.threshold }
}

/// What an operator or the registry took out has its own rules.
fn shape(pool: &Pool) -> PoolShape {
    let of = |(backend, load): (Arc<Backend>, LoadedBackend)| {
        (Arc::as_ptr(&backend).addr(), backend.view().weight, load.tier)
    };
    let mut backends: Vec<_> = pool.loaded().into_iter().map(of).collect();
    backends.sort_unstable();
    PoolShape { backends, loads: pool.pick_loads() }
}

/// What is wrong with the pool, so that nothing is to be closed for evenness now.
fn trouble(pool: &Pool) -> Option<String> {
    if !pool.is_settled() {
        return Some("not every backend has been found and probed yet".to_owned());
    }
    if let Some((_, _, error)) = pool.source.view().error {
        return Some(format!("discovery fails: {error}"));
    }
    let members = pool.members();
    let of_backend = members.iter().find_map(|backend| {
        let view = backend.view();
        let why = match view.standing {
            // Its health, and not a person, took it out.
            standing if standing.is_last_resort() => standing.name(),
            _ if view.facts.is_held() => "held against the registry",
            _ if backend.wants_sessions() && view.ramp < slow_start::FULL => "in its slow start",
            _ => return None,
        };
        Some(format!("{} is {why}", backend.id))
    });
    of_backend.or_else(|| pool.is_open().then(|| "too few backends are up".to_owned()))
}

/// What a pool's task keeps.
#[derive(Debug, Default)]
pub(super) struct RebalanceTask {
    run: Rebalancer,
    /// When the one that goes on began to close.
    has_said: bool,
}

/// Sessions that one look may choose from; by default none.
#[derive(Debug, Default)]
pub(super) struct Movable {
    /// By backend: how many have to go, and those that may.
    at: HashMap<usize, (usize, Vec<MovableSession>)>,
    order: Option<MoveOrder>,
}

/// When it was accepted, and what the pacer is told.
type MovableSession = (Instant, Candidate<CloseClaim>);

/// Which of them, and when.
#[derive(Clone, Copy, Debug)]
struct MoveOrder {
    rules: Rebalance,
    now: Instant,
    from: Instant,
}

impl RebalanceTask {
    /// Whether the sessions have to be looked at.
    pub(super) fn is_on(&self) -> bool {
        self.run.is_on()
    }

    /// The pool may have changed. Returns whether sessions may be closed now: not while anything is wrong.
    pub(super) fn compare(&mut self, now: Instant, pool: &Pool) -> bool {
        let was_on = self.run.is_on();
        if self.run.compare(now, shape(pool), pool.settings().rebalance.is_some()) || (was_on && !self.run.is_on()) {
            self.say_end(pool, "the backends changed");
        }
        self.show(pool);
        trouble(pool).is_none()
    }

    /// An operator wants it.
    pub(super) fn begin(&mut self, now: Instant, pool: &Pool) {
        self.run.begin(now, shape(pool), pool.settings().rebalance.is_some());
        self.has_said = false;
    }

    /// What is to be found in the next look.
    pub(super) fn look(&mut self, now: Instant, pool: &Pool) -> Movable {
        if !self.run.is_on() {
            return Movable::default();
        }
        let rules = rules(pool);
        let (serving, backends): (Vec<_>, Vec<_>) = pool.loaded().into_iter().unzip();
        let begun = serving.iter().map(|backend| backend.stats.connects.load(Relaxed)).sum();
        let rules_of_parts = part_rules(pool, &rules);
        let facts = RunFacts { backends: &backends, rules: rules_of_parts, begun, is_well: trouble(pool).is_none() };
        let found = self.run.look(now, &facts);
        self.show(pool);
        match found {
            None => Movable::default(),
            Some(Err(end)) => {
                self.end(pool, end);
                Movable::default()
            }
            Some(Ok((close, from))) => {
                self.say_begin(pool, &rules);
                let at = serving.iter().zip(close).filter(|(_, close)| *close > 0);
                let at = at.map(|(backend, close)| (Arc::as_ptr(backend).addr(), (close as usize, Vec::new())));
                Movable { at: at.collect(), order: Some(MoveOrder { rules, now, from }) }
            }
        }
    }

    /// One was closed.
    pub(super) fn count(&mut self, now: Instant, pool: &Pool) {
        self.run.count(now, interval(rules(pool).max_per_second));
        self.show(pool);
    }

    fn end(&mut self, pool: &Pool, end: RebalanceEnd) {
        self.say_end(pool, end.reason());
        self.run.end();
        self.show(pool);
    }

    fn show(&self, pool: &Pool) {
        pool.closes.rebalancing.store(self.run.left(), Relaxed);
    }

    fn say_begin(&mut self, pool: &Pool, rules: &Rebalance) {
        if !std::mem::replace(&mut self.has_said, true) {
            info!(pool = %pool.name, at_most = self.run.left(), rate = rules.max_per_second, "rebalancing begins");
        }
    }

    fn say_end(&mut self, pool: &Pool, why: &str) {
        if std::mem::take(&mut self.has_said) {
            info!(pool = %pool.name, closed = self.run.closed(), why, "rebalancing is over");
        }
    }
}

impl Movable {
    /// Whether there is anything to find.
    pub(super) fn is_wanted(&self) -> bool {
        !self.at.is_empty()
    }

    /// Notes a session that nothing else closes.
    pub(super) fn note(&mut self, session: &SessionRef<'_>) {
        let Some(MoveOrder { rules, now, from }) = self.order else { return };
        let Some((backend, _)) = session.backend else { return };
        let Some((_, found)) = self.at.get_mut(&Arc::as_ptr(backend).addr()) else { return };
        if now.saturating_duration_since(session.began) < rules.min_age {
            return;
        }
        let key = CloseClaim { session: session.key, cause: CloseCause::Rebalance, batch: None };
        // The rate holds however long they wait.
        let until = now + Duration::from_secs(3_600);
        found.push((session.began, Candidate { key, idle_since: session.idle_since, from, until }));
    }

    /// Those that are closed before the next look: of each backend no more than it has to lose, and all of them one after the
    /// other.
    pub(super) fn chosen(self) -> Vec<Candidate<CloseClaim>> {
        let Some(MoveOrder { rules, now, from }) = self.order else { return Vec::new() };
        let order = |found: &mut Vec<MovableSession>| match rules.prefer {
            Prefer::Idle => found.sort_by_key(|(_, candidate)| candidate.idle_since),
            Prefer::Oldest => found.sort_by_key(|(began, _)| *began),
            Prefer::Newest => found.sort_by_key(|(began, _)| std::cmp::Reverse(*began)),
        };
        let mut all = Vec::new();
        for (_, (close, mut found)) in self.at {
            order(&mut found);
            found.truncate(close);
            all.append(&mut found);
        }
        order(&mut all);
        let interval = interval(rules.max_per_second);
        let times = (0..).map(|n| from + interval * n).take_while(|at| *at < now + 2 * LOOK);
        all.into_iter().zip(times).map(|((_, candidate), from)| Candidate { from, ..candidate }).collect()
    }
}

fn interval(per_second: u32) -> Duration {
    // Rounded up: never more than that.
    Duration::from_secs(1) / per_second + Duration::from_nanos(1)
}
