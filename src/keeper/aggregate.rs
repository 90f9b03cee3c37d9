//! What follows from all members together: is the pool settled, is nothing up, do too few work, whose share grows.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::members::Members;
use crate::balance::{LastResort, is_all_down};
use crate::config::{Resilience, Source};
use crate::health::slow_start;

/// Shares grow in so many steps.
const STEPS: u32 = 50;

/// No step is shorter: a look at every member is not free.
const SHORTEST_STEP: Duration = Duration::from_millis(20);

impl Members {
    pub(super) fn weigh(&mut self, now: Instant) {
        self.pool.rebuild_tables();
        if !self.heard {
            return;
        }
        let mut counts = self.pool.counts();
        if counts.up == 0 && counts.spare > 0 && self.rescue(now) {
            counts = self.pool.counts();
        }
        if counts.unproven == 0 && self.pool.settle() {
            info!(pool = %self.pool.name, backends = counts.members, up = counts.up, "settled: every backend is probed");
            if counts.members == 0 {
                self.tell_empty();
            }
        }
        let pool = &self.pool.name;
        let last_resort = LastResort::of(&self.pool.settings());
        let panicking = last_resort.panics(counts.up, counts.proven);
        if panicking != self.panicking {
            self.panicking = panicking;
            self.pool.set_panicking(panicking);
            if panicking {
                warn!(%pool, backends = counts.proven, up = counts.up, "panic: so few work that sessions may try any of them");
            } else {
                info!(%pool, backends = counts.proven, up = counts.up, "no panic any more: enough of them work");
            }
        }
        let all_down = is_all_down(counts.up, counts.unproven, self.all_down);
        if all_down == self.all_down {
            return;
        }
        self.all_down = all_down;
        self.pool.set_all_down(all_down);
        if !all_down {
            info!(%pool, up = counts.up, "a backend is up again");
            return;
        }
        let mut become_of_sessions = last_resort.says(panicking).to_owned();
        if let Some(fallback) = &self.pool.settings().fallback {
            become_of_sessions = format!("sessions go to pool `{fallback}`; if none is up there, {become_of_sessions}");
        }
        warn!(%pool, backends = counts.members, "no backend is up: {become_of_sessions}");
    }

    /// To a token without the right, an agent says that there is nothing.
    fn tell_empty(&self) {
        let (pool, settings) = (&self.pool.name, self.pool.settings());
        let Source::Consul(consul) = &settings.source else { return };
        if consul.agent.token.is_none() && consul.agent.token_file.is_none() {
            warn!(
                %pool, service = %consul.service,
                "settled without a backend: the registry lists no instance; it is asked without a token, and where ACLs are on it \
                 lists only what the anonymous token may read"
            );
        }
    }

    /// Shares of those that are new grow with their age.
    pub(super) fn ramp(&mut self, now: Instant) {
        if self.ramp_at.is_none_or(|at| at > now) {
            return;
        }
        self.ramp_at = None;
        let growing: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.ramp < slow_start::FULL)
            .map(|(id, _)| id.clone())
            .collect();
        for id in growing {
            self.settle(now, &id);
        }
    }

    /// When the oldest of those that are up came up; `None` where shares do not grow or nothing is up.
    pub(super) fn oldest_up(&mut self) -> Option<Instant> {
        if self.pool.settings().resilience.slow_start.is_zero() {
            return None;
        }
        if self.oldest.is_none() {
            self.oldest = self.members.values().filter_map(|member| member.up_since).min();
        }
        self.oldest
    }
}

/// The share, in percent of its weight, of a backend that has been up since then.
pub(super) fn grown(resilience: &Resilience, now: Instant, up_since: Option<Instant>, oldest: Option<Instant>) -> u32 {
    let Some(up_since) = up_since else { return slow_start::FULL };
    let age = |since: Instant| now.saturating_duration_since(since);
    let oldest = oldest.map_or(up_since, |oldest| oldest.min(up_since));
    slow_start::percent(resilience.slow_start, age(up_since), age(oldest))
}

/// Between looks at shares that grow.
pub(super) fn step(resilience: &Resilience) -> Duration {
    (resilience.slow_start / STEPS).max(SHORTEST_STEP)
}
