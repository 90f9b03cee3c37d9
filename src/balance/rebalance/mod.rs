//! PURE. Which backends have more sessions than their part, and how many have to be closed there so that the others get
//! theirs.
//! Called by `server`.

mod run;
#[cfg(test)]
mod tests;

use super::PICK_TIERS;
use crate::config::Balance;
pub use run::{PoolShape, RebalanceEnd, Rebalancer, RunFacts};

/// Parts are fractions: what they miss of a whole session by their arithmetic.
const ROUNDING: f64 = 1e-6;

/// A backend that may get new sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedBackend {
    /// Sessions now.
    pub sessions: u32,
    /// Its share relative to the others of its tier.
    pub share: u32,
    /// The number of its tier.
    pub tier: usize,
    /// The most sessions that it takes.
    pub cap: Option<u32>,
}

/// What a pool's settings and its tiers say about the parts.
#[derive(Clone, Copy, Debug)]
pub struct PartRules {
    /// Says where a client goes that comes back.
    pub balance: Balance,
    /// Percent of the new sessions that each tier gets.
    pub loads: [u32; PICK_TIERS],
    /// How far above its part a backend may be, in percent.
    pub threshold: u32,
}

/// What is to be done about the parts, all in the order of the backends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RebalancePlan {
    /// The part of each, in sessions.
    pub parts: Vec<f64>,
    /// How many sessions each has to lose.
    pub close: Vec<u32>,
    /// The most closes that this can take: of the clients that come back, some may go to a backend that has too many.
    pub bound: u32,
}

impl RebalancePlan {
    /// `away`: clients that were closed and are not back yet. They count as sessions, so that nothing more is closed because
    /// they are missing.
    pub fn of(rules: &PartRules, backends: &[LoadedBackend], away: u32) -> Self {
        let total = backends.iter().map(|backend| u64::from(backend.sessions)).sum::<u64>() + u64::from(away);
        let parts = parts(total, backends, rules.loads);
        let excess: Vec<u32> = backends
            .iter()
            .zip(&parts)
            .map(|(backend, part)| backend.sessions.saturating_sub(limit(*part, rules.threshold)))
            .collect();
        let room = |(backend, part): (&LoadedBackend, &f64)| (part - f64::from(backend.sessions)).max(0.0);
        let room = backends.iter().zip(&parts).map(room).sum::<f64>() - f64::from(away);
        let room = whole((room + ROUNDING).floor());
        let close = at_most(room, &excess);
        let moving = close.iter().sum();
        let bound = bound(moving, returning(rules, backends, &excess));
        Self { parts, close, bound }
    }

    /// How many sessions have to move.
    pub fn moving(&self) -> u32 {
        self.close.iter().sum()
    }
}

/// What each would have if new sessions alone had decided: its tier's load by its share, and no more than its cap. What a
/// tier has no room for goes to the next.
fn parts(total: u64, backends: &[LoadedBackend], loads: [u32; PICK_TIERS]) -> Vec<f64> {
    let mut parts = vec![0.0; backends.len()];
    let mut beyond = 0.0;
    for (tier, load) in loads.into_iter().enumerate() {
        let of_tier: Vec<usize> = (0..backends.len()).filter(|&i| backends[i].tier == tier).collect();
        beyond = fill(total as f64 * f64::from(load) / 100.0 + beyond, backends, of_tier, &mut parts);
    }
    parts
}

/// Gives those backends so many sessions. Returns for how many there is no room.
fn fill(mut sessions: f64, backends: &[LoadedBackend], mut open: Vec<usize>, parts: &mut [f64]) -> f64 {
    loop {
        let shares: u64 = open.iter().map(|&i| u64::from(backends[i].share)).sum();
        if shares == 0 {
            return sessions;
        }
        for &i in &open {
            parts[i] = sessions * f64::from(backends[i].share) / shares as f64;
        }
        let is_full = |i: usize| backends[i].cap.is_some_and(|cap| f64::from(cap) < parts[i]);
        let full: Vec<usize> = open.iter().copied().filter(|&i| is_full(i)).collect();
        if full.is_empty() {
            return 0.0;
        }
        open.retain(|i| !full.contains(i));
        for i in full {
            parts[i] = f64::from(backends[i].cap.unwrap_or(0));
            sessions -= parts[i];
        }
    }
}

/// The most sessions that are no reason to close one; never below the part.
fn limit(part: f64, threshold: u32) -> u32 {
    whole((part * (1.0 + f64::from(threshold) / 100.0) + ROUNDING).floor().max((part - ROUNDING).ceil()))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sessions of a pool, and the cast saturates"
)]
fn whole(sessions: f64) -> u32 {
    sessions as u32
}

/// The same, if they are no more than `most` together; else of the largest first.
fn at_most(mut most: u32, excess: &[u32]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..excess.len()).filter(|&i| excess[i] > 0).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(excess[i]));
    let mut close = vec![0; excess.len()];
    for i in order {
        close[i] = excess[i].min(most);
        most -= close[i];
    }
    close
}

/// How likely a client that comes back goes to a backend that has too many.
fn returning(rules: &PartRules, backends: &[LoadedBackend], excess: &[u32]) -> f64 {
    let shares = |tier: usize| backends.iter().filter(|b| b.tier == tier).map(|b| f64::from(b.share)).sum::<f64>();
    let likely: f64 = (0..backends.len())
        .filter(|&i| excess[i] > 0 && backends[i].share > 0)
        .map(|i| {
            let LoadedBackend { share, tier, .. } = backends[i];
            f64::from(rules.loads[tier]) / 100.0 * f64::from(share) / shares(tier)
        })
        .sum();
    match rules.balance {
        Balance::RoundRobin | Balance::Random => likely,
        // Only if both that are drawn have too many.
        Balance::PowerOfTwo => likely * likely,
        Balance::LeastConnections => 0.0,
        // Nobody moves at all: the configuration refuses it.
        Balance::LeastTime | Balance::First | Balance::Maglev | Balance::RingHash => 0.0,
    }
}

/// So many tries are enough to move `moving`, but for one case in a thousand.
fn bound(moving: u32, returning: f64) -> u32 {
    // Where nearly all come back, a pool is left as it is rather than closed many times over.
    let moves = (1.0 - returning).max(0.1);
    let moving = f64::from(moving);
    whole(((moving + 3.0 * (moving * returning).sqrt()) / moves).ceil())
}
