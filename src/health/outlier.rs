//! Outlier detection for one backend: told what sessions met there and the time, it says when the backend stands out, for
//! how long it is ejected, and when a single session may try it. Whether the pool can spare it is the keeper's to say.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::observation::{Failing, Observation, ObservationCounts, TrialCost};
use crate::config::Outliers;
use crate::metrics::Detection;

/// The window slides in steps of a tenth.
const STEPS: u32 = 10;

/// Between trials that cost nobody anything, and the shortest wait where they cost time.
const CHEAP_TRIAL: Duration = Duration::from_millis(500);

/// Where a client waits and is then served elsewhere: a part of how long the backend has been out. One that recovers is back
/// soon by its own measure, and one that stays dead slows few sessions down.
const PATIENCE: u32 = 16;

/// Where a client pays with its session: each failed trial makes the wait for the next one so many times longer.
const GROWTH: u32 = 4;

/// The longest wait for a trial: what a dead backend may cost is one session in this time.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The most that jitter adds, as a part: ejections that began together do not end together.
const JITTER: f64 = 0.2;

/// See the module.
#[derive(Debug, Default)]
pub struct Outlier {
    /// Totals at earlier times of the window, oldest first.
    window: VecDeque<Sample>,
    /// Ejections in a row.
    strikes: u32,
    ejection: Option<Ejection>,
    /// How the last one ended, as long as that matters.
    released: Option<Released>,
}

/// While a backend is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// What was failing.
    pub failing: Failing,
    /// Since when, the last failed trial included.
    pub since: Instant,
    /// Since when, trials aside.
    began: Instant,
    /// When it ends by itself.
    pub until: Instant,
    /// From when on a session may be a trial.
    pub trial_at: Instant,
    /// Whether a probe that passes is believed: one that was, wrongly, is not believed again.
    pub trusts_probes: bool,
    failed_trials: u32,
    price: TrialCost,
}

/// Why an ejection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectionEnd {
    /// A probe tested what had failed, and passed.
    Probe,
    /// A trial session did.
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
    /// Disproofs at that time.
    disproofs: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    failed: u64,
    succeeded: u64,
}

impl Outlier {
    /// Without a past.
    pub fn new() -> Self {
        Self::default()
    }

    /// The ejection that lasts.
    pub fn ejection(&self) -> Option<&Ejection> {
        self.ejection.as_ref()
    }

    /// Ejections in a row.
    pub fn strikes(&self) -> u32 {
        self.strikes
    }

    /// A session failed, and `tally` has it: does the backend stand out?
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

    /// Failures, and all sessions, in the window.
    pub fn in_window(&self, tally: &ObservationCounts) -> (u64, u64) {
        let Some(oldest) = self.window.front() else { return (0, 0) };
        let failed = tally.failed().saturating_sub(oldest.failed);
        (failed, failed + tally.succeeded().saturating_sub(oldest.succeeded))
    }

    /// It is ejected from now on. `replays`: whether sessions that end early are replayed elsewhere.
    pub fn eject(&mut self, rules: &Outliers, now: Instant, observation: Observation, replays: bool, random: &mut Rng) {
        let failing = observation.failing().unwrap_or(Failing::Connect);
        // A probe that spoke for it just now was wrong about it.
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
            price: observation.price(replays),
        };
        ejection.prolong(rules, now, self.strikes, random);
        self.ejection = Some(ejection);
        self.released = None;
    }

    /// A trial failed: longer this time. The next trial comes later, too, as far as a client pays for it.
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
        ejection.price = observation.price(replays);
        ejection.since = now;
        ejection.failed_trials = ejection.failed_trials.saturating_add(1);
        ejection.prolong(rules, now, self.strikes, random);
    }

    /// Something has changed: a trial is worth it now.
    pub fn hurry(&mut self, now: Instant) {
        if let Some(ejection) = &mut self.ejection {
            ejection.trial_at = ejection.trial_at.min(now);
        }
    }

    /// It stood out, and was left in: what comes next is judged anew.
    pub fn forgive(&mut self) {
        self.window.clear();
        self.released = None;
    }

    /// It is not ejected any more. Until it has proved itself, one failure is enough to eject it again.
    pub fn release(&mut self, now: Instant, how: EjectionEnd, tally: &ObservationCounts) {
        let Some(ejection) = self.ejection.take() else { return };
        let failing = ejection.failing;
        self.released = Some(Released { at: now, how, failing, disproofs: tally.disproofs(failing) });
    }

    /// Whether it fails as before an ejection that was ended on trust, and has done nothing else since.
    fn relapses(&self, rules: &Outliers, now: Instant, tally: &ObservationCounts) -> bool {
        self.released.is_some_and(|released| match released.how {
            EjectionEnd::Probe | EjectionEnd::Time | EjectionEnd::LastOne => {
                now.saturating_duration_since(released.at) < rules.ejection
                    && tally.disproofs(released.failing) <= released.disproofs
            }
            EjectionEnd::Trial => false,
        })
    }

    /// One repetition is forgotten for each `ejection` that it was not ejected.
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
            // Before the failure that is judged now: it is the first one of the step.
            let failed = tally.failed().saturating_sub(1);
            self.window.push_back(Sample { at: now, failed, succeeded: tally.succeeded() });
        }
    }
}

impl Ejection {
    fn prolong(&mut self, rules: &Outliers, now: Instant, strikes: u32, random: &mut Rng) {
        let lasts = rules.ejection.saturating_mul(strikes).min(rules.max_ejection);
        self.until = now + jittered(lasts, random);
        let (cheap, longest) = (CHEAP_TRIAL.min(rules.trial), LONGEST_WAIT.max(rules.trial));
        let wait = match self.price {
            TrialCost::Nothing => cheap,
            TrialCost::Time => (now.saturating_duration_since(self.began) / PATIENCE).clamp(cheap, longest),
            TrialCost::Session => rules.trial.saturating_mul(GROWTH.saturating_pow(self.failed_trials)).min(longest),
        };
        // A trial comes before the end: that would let everybody try.
        self.trial_at = now + jittered(wait, random).min(lasts / 2);
    }
}

/// Up to a fifth longer.
fn jittered(duration: Duration, random: &mut Rng) -> Duration {
    duration + duration.mul_f64(JITTER * random.f64())
}

/// How many of a pool's backends may be ejected at once: `max_ejected` percent, but one where there is another.
pub fn most_ejected(rules: &Outliers, backends: usize) -> usize {
    let share = backends * usize::from(rules.max_ejected) / 100;
    share.max(1).min(backends.saturating_sub(1))
}

#[cfg(test)]
#[path = "outlier_tests.rs"]
mod tests;
