//! What sessions say, and what follows: ejections, trials, releases. The detector judges one backend; here it is weighed
//! whether the pool can spare it.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tracing::{debug, info};

use super::members::Members;
use crate::config::OutlierMode;
use crate::health::{EjectionEnd, Failing, Observation, most_ejected};
use crate::metrics::Detection;
use crate::pool::SessionReport;
use crate::standing::{Passive, Standing};

impl Members {
    /// A session failed, or was a trial.
    pub(super) fn observation(&mut self, now: Instant, report: &SessionReport) {
        let SessionReport { backend, address, observation, trial } = report;
        let id = &backend.id;
        // Also where it is about a backend that has left: the trial is over.
        let was_trial = trial.is_some_and(|number| self.pool.end_trial(backend, number));
        let Some(member) = self.members.get_mut(id) else { return };
        let has_left = member.probe.is_none();
        if has_left || member.endpoint.address != *address || !Arc::ptr_eq(&member.backend, backend) {
            return;
        }
        let settings = self.pool.settings();
        let (rules, replays) = (settings.resilience.outliers, settings.replay.is_some());
        if member.facts.passive == Passive::Ok
            && matches!(observation, Observation::ConnectFailed(_))
            && self.leave_address(now, id, Failing::Connect)
        {
            self.weigh(now);
            return;
        }
        let Some(member) = self.members.get_mut(id) else { return };
        match (*observation, member.facts.passive) {
            (Observation::Succeeded, Passive::Ejected { .. }) if was_trial => {
                backend.stats.trials_passed.fetch_add(1, Relaxed);
                self.release(now, id, EjectionEnd::Trial);
            }
            (Observation::Succeeded, _) => {}
            (_, Passive::Ejected { .. }) if was_trial => {
                backend.stats.trials_failed.fetch_add(1, Relaxed);
                backend.stats.ejections.fetch_add(1, Relaxed);
                member.outlier.trial_failed(&rules, now, *observation, replays, &mut self.random);
                debug!(pool = %self.pool.name, backend = %id, %address, "a trial failed: {}", observation.words());
                if let Some(failing) = observation.failing() {
                    self.leave_address(now, id, failing);
                }
                self.await_end(id);
                self.settle(now, id);
            }
            // It began before the ejection.
            (_, Passive::Ejected { .. }) => {}
            (_, Passive::Ok) => {
                let tally = backend.tally();
                if rules.mode != OutlierMode::Off
                    && let Some(detection) = member.outlier.judge(&rules, now, &tally)
                {
                    self.detected(now, id, detection, *observation);
                }
            }
        }
        self.weigh(now);
    }

    fn detected(&mut self, now: Instant, id: &Arc<str>, detection: Detection, observation: Observation) {
        let settings = self.pool.settings();
        let (rules, replays) = (settings.resilience.outliers, settings.replay.is_some());
        self.pool.outliers.detect(detection);
        let Some(member) = self.members.get(id) else { return };
        let why = explained(detection, observation, member.backend.tally().in_a_row(), || {
            member.outlier.in_window(&member.backend.tally())
        });
        if let (OutlierMode::Eject, Some(failing)) = (rules.mode, observation.failing())
            && self.leave_address(now, id, failing)
        {
            return;
        }
        self.return_to_addresses(id);
        let refusal = match rules.mode {
            OutlierMode::Observe | OutlierMode::Off => Some("observed"),
            OutlierMode::Eject => self.spared(id).inspect(|_| self.pool.outliers.refuse()),
        };
        let Some(member) = self.members.get_mut(id) else { return };
        // What comes next is judged on its own.
        member.backend.forgive();
        if let Some(refusal) = refusal {
            member.outlier.forgive();
            if let Some(left_out) = self.pace.allow(now) {
                info!(
                    pool = %self.pool.name, backend = %id, address = %member.endpoint.address,
                    reason = detection.name(), left_out, "not ejected ({refusal}): {why}"
                );
            }
            return;
        }
        member.backend.stats.ejections.fetch_add(1, Relaxed);
        member.outlier.eject(&rules, now, observation, replays, &mut self.random);
        member.ejected_because = why;
        self.ejected += 1;
        self.await_end(id);
        self.settle(now, id);
    }

    /// Why the pool can't do without it; `None` = it can.
    fn spared(&self, id: &Arc<str>) -> Option<&'static str> {
        let rules = &self.pool.settings().resilience.outliers;
        let counts = self.pool.counts();
        let serves = self.members.get(id).is_some_and(|member| member.backend.wants_sessions());
        if counts.up <= usize::from(serves) {
            return Some("nothing else is up");
        }
        (self.ejected >= most_ejected(rules, counts.members)).then_some("max_ejected is reached")
    }

    /// To look at it when its trial is due, and at the end. A look at the end is not asked for again with each failed trial:
    /// hundreds would wait.
    fn await_end(&mut self, id: &Arc<str>) {
        let Some(member) = self.members.get_mut(id) else { return };
        let Some(ejection) = member.outlier.ejection() else { return };
        self.deadlines.push(Reverse((ejection.trial_at, Arc::clone(id))));
        if member.end_look.is_none_or(|at| at > ejection.until) {
            member.end_look = Some(ejection.until);
            self.deadlines.push(Reverse((ejection.until, Arc::clone(id))));
        }
    }

    /// It is not ejected any more.
    pub(super) fn release(&mut self, now: Instant, id: &Arc<str>, how: EjectionEnd) {
        let Some(member) = self.members.get_mut(id) else { return };
        if member.outlier.ejection().is_none() {
            return;
        }
        member.backend.forgive();
        member.outlier.release(now, how, &member.backend.tally());
        self.ejected -= 1;
        let words = match how {
            EjectionEnd::Probe => "a probe passed",
            EjectionEnd::Trial => "a trial session went well",
            EjectionEnd::Time => "its time is over",
            EjectionEnd::LastOne => "nothing else is up",
        };
        info!(pool = %self.pool.name, backend = %id, address = %member.endpoint.address, "not ejected any more: {words}");
        self.settle(now, id);
    }

    /// Lets it have its trial, or ends its ejection, if it is time.
    pub(super) fn look_at_ejection(&mut self, now: Instant, id: &Arc<str>) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.end_look = member.end_look.filter(|&at| at > now);
        let Some(ejection) = member.outlier.ejection() else { return };
        if matches!(member.facts.passive, Passive::Ejected { until: Some(until) } if until <= now) {
            self.release(now, id, EjectionEnd::Time);
            return;
        }
        if ejection.trial_at <= now {
            self.pool.offer_trial(&member.backend, ejection.failing);
        }
        if member.end_look.is_none() && ejection.until > now {
            member.end_look = Some(ejection.until);
            self.deadlines.push(Reverse((ejection.until, Arc::clone(id))));
        }
    }

    /// Rather one that flapped or failed than none. Returns whether there was one.
    pub(super) fn rescue(&mut self, now: Instant) -> bool {
        let of = |standing| {
            let serving = self.members.iter().filter(move |(_, member)| {
                let view = member.backend.view();
                view.standing == standing && view.share > 0
            });
            let soonest = serving.min_by_key(|(_, member)| {
                let ejected = member.outlier.ejection().map(|ejection| ejection.until);
                ejected.or_else(|| member.damping.until())
            });
            soonest.map(|(id, _)| Arc::clone(id))
        };
        if let Some(id) = of(Standing::Damped) {
            if let Some(member) = self.members.get_mut(&id) {
                member.damping.lift();
            }
            self.settle(now, &id);
            return true;
        }
        let Some(id) = of(Standing::Ejected) else { return false };
        self.release(now, &id, EjectionEnd::LastOne);
        true
    }
}

fn explained(
    detection: Detection,
    observation: Observation,
    in_a_row: u32,
    in_window: impl FnOnce() -> (u64, u64),
) -> String {
    let last = observation.words();
    match (detection, observation) {
        (Detection::Consecutive, Observation::EndedEarly(_) | Observation::EndedUnasked(_)) => {
            format!("{in_a_row} sessions failed in a row, the last one: {last}")
        }
        (Detection::Consecutive, _) => {
            format!("{in_a_row} connects by sessions failed in a row, the last one: {last}")
        }
        (Detection::Percentage, _) => {
            let (failed, all) = in_window();
            format!("{failed} of its last {all} sessions failed, the last one: {last}")
        }
        (Detection::Relapse, _) => format!("its first session after an ejection failed: {last}"),
    }
}
