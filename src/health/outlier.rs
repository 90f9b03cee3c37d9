//! PURE. Outlier detection for one backend: from the counts and the time it decides when the backend stands out, for how
//! long it is ejected, and when one session may try it.
//! Called by `keeper`, which decides whether the pool can do without the backend.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::observation::{Failing, Observation, ObservationCounts, TrialCost};
use crate::config::Outliers;
use crate::metrics::Detection;

/// The window moves in this many steps.
const STEPS: u32 = 10;

/// Between trials that cost the client nothing, and the shortest time between trials that cost a timeout.
const CHEAP_TRIAL_INTERVAL: Duration = Duration::from_millis(500);

/// For trials that cost a timeout: the time to the next one is the time since the ejection, divided by this. So a backend
/// that recovers is soon found, and one that stays dead delays few sessions.
const RECOVERY_SHARE: u32 = 16;

/// For trials that cost the session: each failed trial makes the time to the next one this many times longer.
const FAILED_TRIAL_FACTOR: u32 = 4;

/// The longest time between trials: a dead backend costs at most one session in this time.
const TRIAL_INTERVAL_LIMIT: Duration = Duration::from_secs(30);

/// The largest part that jitter adds, so that ejections that began together do not end together.
const JITTER: f64 = 0.2;

/// The recent past of one backend, and its ejection.
#[derive(Debug, Default)]
pub struct Outlier {
    /// Counts at earlier times of the window, oldest first.
    window: VecDeque<Sample>,
    /// Ejections in a row.
    strikes: u32,
    ejection: Option<Ejection>,
    /// How the last ejection ended, while that matters.
    released: Option<Released>,
}

/// An ejection that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// What was failing.
    pub failing: Failing,
    /// Its begin, or the last failed trial.
    pub since: Instant,
    /// Its begin.
    began: Instant,
    /// When it ends by itself.
    pub until: Instant,
    /// From when on a session may be a trial.
    pub trial_at: Instant,
    /// Whether a passing probe ends it. Not if a passing probe has just ended the ejection before it by mistake.
    pub trusts_probes: bool,
    failed_trials: u32,
    cost: TrialCost,
}

/// Why an ejection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectionEnd {
    /// A probe tested what had failed, and passed.
    Probe,
    /// A trial session succeeded.
    Trial,
    /// Its time was over.
    Time,
    /// Nothing else was up.
    LastOne,
}

#[derive(Clone, Copy, Debug)]
struct Released {
    at: Instant,
    how: EjectionEnd,
    failing: Failing,
    /// [`ObservationCounts::disproofs`] at that time.
    disproofs: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    failed: u64,
    succeeded: u64,
}

impl Outlier {
    /// No ejection, no counts.
    pub fn new() -> Self {
        Self::default()
    }

    /// The present ejection.
    pub fn ejection(&self) -> Option<&Ejection> {
        self.ejection.as_ref()
    }

    /// Ejections in a row.
    pub fn strikes(&self) -> u32 {
        self.strikes
    }

    /// Judges after a failure that is already in `tally`: does the backend stand out?
    pub fn judge(&mut self, rules: &Outliers, now: Instant, tally: &ObservationCounts) -> Option<Detection> {
        self.sample(rules, now, tally);
        if self.relapses(rules, now, tally) {
            return Some(Detection::Relapse);
        }
        if tally.in_a_row() >= rules.consecutive {
            return Some(Detection::Consecutive);
        }
        let (failed, all) = self.in_window(tally);
        let stands_out = rules.percentage > 0
            && all >= u64::from(rules.minimum_volume)
            && failed * 100 >= all * u64::from(rules.percentage);
        stands_out.then_some(Detection::Percentage)
    }

    /// Failures and all sessions in the window.
    pub fn in_window(&self, tally: &ObservationCounts) -> (u64, u64) {
        let Some(oldest) = self.window.front() else { return (0, 0) };
        let failed = tally.failed().saturating_sub(oldest.failed);
        (failed, failed + tally.succeeded().saturating_sub(oldest.succeeded))
    }

    /// Begins an ejection. `replays`: whether sessions that end early are replayed elsewhere.
    pub fn eject(&mut self, rules: &Outliers, now: Instant, observation: Observation, replays: bool, random: &mut Rng) {
        let failing = observation.failing().unwrap_or(Failing::Connect);
        // A probe that passed a moment ago was wrong.
        let misled = self.released.is_some_and(|released| {
            released.how == EjectionEnd::Probe && now.saturating_duration_since(released.at) < rules.ejection
        });
        self.decay(rules, now);
        self.strikes = self.strikes.saturating_add(1);
        self.window.clear();
        let mut ejection = Ejection {
            failing,
            since: now,
            began: now,
            until: now,
            trial_at: now,
            trusts_probes: !misled,
            failed_trials: 0,
            cost: observation.cost(replays),
        };
        ejection.prolong(rules, now, self.strikes, random);
        self.ejection = Some(ejection);
        self.released = None;
    }

    /// A trial failed: the ejection becomes longer, and the next trial comes later if it costs the client something.
    pub fn trial_failed(
        &mut self,
        rules: &Outliers,
        now: Instant,
        observation: Observation,
        replays: bool,
        random: &mut Rng,
    ) {
        let Some(ejection) = &mut self.ejection else { return };
        self.strikes = self.strikes.saturating_add(1);
        if let Some(failing) = observation.failing() {
            ejection.failing = failing;
        }
        ejection.cost = observation.cost(replays);
        ejection.since = now;
        ejection.failed_trials = ejection.failed_trials.saturating_add(1);
        ejection.prolong(rules, now, self.strikes, random);
    }

    /// Something has changed: the next trial may be now.
    pub fn hurry(&mut self, now: Instant) {
        if let Some(ejection) = &mut self.ejection {
            ejection.trial_at = ejection.trial_at.min(now);
        }
    }

    /// It stood out, but was not ejected: the window begins again.
    pub fn forgive(&mut self) {
        self.window.clear();
        self.released = None;
    }

    /// Ends the ejection. Until the backend has proved itself, one failure ejects it again.
    pub fn release(&mut self, now: Instant, how: EjectionEnd, tally: &ObservationCounts) {
        let Some(ejection) = self.ejection.take() else { return };
        let failing = ejection.failing;
        self.released = Some(Released { at: now, how, failing, disproofs: tally.disproofs(failing) });
    }

    /// Whether it fails as before an ejection that ended without proof, and nothing has worked since.
    fn relapses(&self, rules: &Outliers, now: Instant, tally: &ObservationCounts) -> bool {
        self.released.is_some_and(|released| match released.how {
            EjectionEnd::Probe | EjectionEnd::Time | EjectionEnd::LastOne => {
                now.saturating_duration_since(released.at) < rules.ejection
                    && tally.disproofs(released.failing) <= released.disproofs
            }
            EjectionEnd::Trial => false,
        })
    }

    /// Forgets one ejection in a row for each `ejection` of time without one.
    fn decay(&mut self, rules: &Outliers, now: Instant) {
        let Some(released) = self.released else { return };
        let behaved = now.saturating_duration_since(released.at).as_nanos() / rules.ejection.as_nanos().max(1);
        self.strikes = self.strikes.saturating_sub(u32::try_from(behaved).unwrap_or(u32::MAX));
    }

    fn sample(&mut self, rules: &Outliers, now: Instant, tally: &ObservationCounts) {
        while self.window.front().is_some_and(|sample| now.saturating_duration_since(sample.at) > rules.window) {
            self.window.pop_front();
        }
        let due = self.window.back().is_none_or(|last| now.saturating_duration_since(last.at) >= rules.window / STEPS);
        if due {
            // Without the failure that is judged now: that is the first one of the step.
            let failed = tally.failed().saturating_sub(1);
            self.window.push_back(Sample { at: now, failed, succeeded: tally.succeeded() });
        }
    }
}

impl Ejection {
    fn prolong(&mut self, rules: &Outliers, now: Instant, strikes: u32, random: &mut Rng) {
        let lasts = rules.ejection.saturating_mul(strikes).min(rules.max_ejection);
        self.until = now + jittered(lasts, random);
        let (cheap, longest) = (CHEAP_TRIAL_INTERVAL.min(rules.trial), TRIAL_INTERVAL_LIMIT.max(rules.trial));
        let wait = match self.cost {
            TrialCost::Nothing => cheap,
            TrialCost::Time => (now.saturating_duration_since(self.began) / RECOVERY_SHARE).clamp(cheap, longest),
            TrialCost::Session => {
                rules.trial.saturating_mul(FAILED_TRIAL_FACTOR.saturating_pow(self.failed_trials)).min(longest)
            }
        };
        // A trial comes before the end of the ejection, which lets all sessions try.
        self.trial_at = now + jittered(wait, random).min(lasts / 2);
    }
}

/// `duration`, longer by up to a fifth.
fn jittered(duration: Duration, random: &mut Rng) -> Duration {
    duration + duration.mul_f64(JITTER * random.f64())
}

/// How many backends of a pool may be ejected at once: `max_ejected` percent, but at least one if there are two.
pub fn most_ejected(rules: &Outliers, backends: usize) -> usize {
    let share = backends * usize::from(rules.max_ejected) / 100;
    share.max(1).min(backends.saturating_sub(1))
}

#[cfg(test)]
#[path = "outlier_tests.rs"]
mod tests;
