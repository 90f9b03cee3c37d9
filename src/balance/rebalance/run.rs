//! PURE. One rebalance of a pool, from the change that makes it due to its end: when it waits, how many sessions it may
//! still close, and which of those are back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{LoadedBackend, PartRules, RebalancePlan};
use crate::balance::PICK_TIERS;

/// Changes of members that come together are waited for: after each of them, so long nothing is closed.
const CALM: Duration = Duration::from_secs(5);

/// A client that does not come back for so long does not come back.
const AWAY: Duration = Duration::from_secs(60);

/// So many that did not come back, and more than those that did, end it.
const LOST: u32 = 10;

/// Which backends may get sessions, and in what proportion by what is written of them: what makes a rebalance due. Advice of
/// agent checks and slow start are left out: a share that follows the load would never come to rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolShape {
    /// Something that tells a backend from others, its weight and its tier; sorted.
    pub backends: Vec<(usize, u16, usize)>,
    /// Percent of the new sessions that each tier gets.
    pub loads: [u32; PICK_TIERS],
}

/// What a look at the pool found.
#[derive(Clone, Copy, Debug)]
pub struct RunFacts<'a> {
    /// Those that may get new sessions.
    pub backends: &'a [LoadedBackend],
    /// What the parts follow from.
    pub rules: PartRules,
    /// Sessions that ever began, of these backends.
    pub begun: u64,
    /// Whether nothing is wrong with the pool.
    pub is_well: bool,
}

/// Why a rebalance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebalanceEnd {
    /// No backend has too many.
    Balanced,
    /// It has closed as many as it may.
    Spent,
    /// Clients that are closed do not come back.
    ClientsStayAway,
}

impl RebalanceEnd {
    /// For a line of the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Balanced => "no backend has too many sessions",
            Self::Spent => "it has closed as many sessions as it may",
            Self::ClientsStayAway => "clients whose sessions are closed do not come back",
        }
    }
}

/// The rebalancing of one pool.
#[derive(Debug, Default)]
pub struct Rebalancer {
    shape: Option<PoolShape>,
    run: Option<Run>,
}

#[derive(Debug)]
struct Run {
    /// An operator wants it, and the pool's settings do not.
    is_alone: bool,
    not_before: Instant,
    /// What it may still close; `None` = that is not known before all is well.
    left: Option<u32>,
    closed: u32,
    /// When those were closed that are not back, the first one first.
    away: VecDeque<Instant>,
    back: u32,
    lost: u32,
    begun: Option<u64>,
    next: Instant,
}

impl Run {
    fn new(not_before: Instant, is_alone: bool) -> Self {
        Self {
            is_alone,
            not_before,
            left: None,
            closed: 0,
            away: VecDeque::new(),
            back: 0,
            lost: 0,
            begun: None,
            next: not_before,
        }
    }

    fn away(&self) -> u32 {
        u32::try_from(self.away.len()).unwrap_or(u32::MAX)
    }

    /// Finds out who of those that were closed is back, and who is not going to be.
    fn recount(&mut self, now: Instant, begun: u64) {
        let came = begun.saturating_sub(self.begun.replace(begun).unwrap_or(begun));
        let back = usize::try_from(came).unwrap_or(usize::MAX).min(self.away.len());
        self.away.drain(..back);
        self.back += u32::try_from(back).unwrap_or(u32::MAX);
        while self.away.pop_front_if(|at| *at + AWAY <= now).is_some() {
            self.lost += 1;
        }
    }
}

impl Rebalancer {
    /// Compares the pool with what it was. A change makes a rebalance due, if the settings want any (`is_on`). Returns whether
    /// that is new.
    pub fn compare(&mut self, now: Instant, shape: PoolShape, is_on: bool) -> bool {
        let is_same = self.shape.as_ref() == Some(&shape);
        if !is_on {
            // What an operator began is for the pool that he saw.
            self.run = self.run.take().filter(|run| run.is_alone && is_same);
            self.shape = self.run.is_some().then_some(shape);
            return false;
        }
        if is_same {
            return false;
        }
        self.shape = Some(shape);
        self.run = Some(Run::new(now + CALM, false));
        true
    }

    /// An operator wants it now.
    pub fn begin(&mut self, now: Instant, shape: PoolShape, is_on: bool) {
        self.shape = Some(shape);
        self.run = Some(Run::new(now, !is_on));
    }

    /// Whether one is due or goes on.
    pub fn is_on(&self) -> bool {
        self.run.is_some()
    }

    /// What it may still close; 0 = none goes on.
    pub fn left(&self) -> u32 {
        self.run.as_ref().and_then(|run| run.left).unwrap_or(0)
    }

    /// What it has closed.
    pub fn closed(&self) -> u32 {
        self.run.as_ref().map_or(0, |run| run.closed)
    }

    /// How many sessions are to be closed at each backend from now on, and when the first; or why there is nothing more to be
    /// done. `None` = nothing now.
    pub fn look(&mut self, now: Instant, facts: &RunFacts<'_>) -> Option<Result<(Vec<u32>, Instant), RebalanceEnd>> {
        let run = self.run.as_mut()?;
        run.recount(now, facts.begun);
        if !facts.is_well || now < run.not_before {
            return None;
        }
        let plan = RebalancePlan::of(&facts.rules, facts.backends, run.away());
        let left = *run.left.get_or_insert(plan.bound);
        // Clients that are not back yet may come to where there are too many.
        let end = match plan.moving() {
            0 if run.away.is_empty() => Some(RebalanceEnd::Balanced),
            _ if left == 0 && run.away.is_empty() => Some(RebalanceEnd::Spent),
            _ if run.lost >= LOST && run.lost > run.back => Some(RebalanceEnd::ClientsStayAway),
            _ => None,
        };
        Some(match end {
            Some(end) => Err(end),
            None => Ok((super::at_most(left, &plan.close), run.next.max(now))),
        })
    }

    /// It has ended.
    pub fn end(&mut self) {
        self.run = None;
    }

    /// One was closed; the next one comes no sooner than `interval` after it.
    pub fn count(&mut self, now: Instant, interval: Duration) {
        let Some(run) = &mut self.run else { return };
        run.left = run.left.map(|left| left.saturating_sub(1));
        run.closed += 1;
        run.away.push_back(now);
        run.next = now + interval;
    }
}
