//! The goals for Evenkeel: fixed limits, and never worse than the best peer of the same run. Pure.
//!
//! Limits hold for every repetition. The comparison with peers uses medians, because one connection more or less is chance.

use serde::{Deserialize, Serialize};

use super::count::FaultCounts;
use super::fault::{CheckKind, Fault};
use super::record::ChaosRecord;
use super::system::{ChaosProgram, ChaosSystem, EvenkeelVariant};

/// Limit in seconds until a repaired backend has traffic, if a check or a connect sees the fault.
const BACK: f64 = 0.8;

/// The limit after a blackhole: the packets of the probe in flight are lost, so its timeout has to pass first.
const BACK_FROM_SILENCE: f64 = BACK + 0.5;

/// A goal, what was measured, and whether it is met.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ChaosGoal {
    pub(super) fault: Fault,
    pub(super) check: CheckKind,
    pub(super) system: String,
    pub(super) figure: String,
    /// The value must not be above this.
    pub(super) goal: f64,
    /// The worst repetition, or the median against a peer. `None` = it did not happen within the run.
    pub(super) measured: Option<f64>,
    /// The peer whose figure is the goal.
    pub(super) against: Option<String>,
    pub(super) met: bool,
}

/// How many new connections may fail. `None` = there is no fixed limit.
fn failures(fault: Fault, variant: EvenkeelVariant) -> Option<f64> {
    match (variant, fault) {
        // Without a replay, the connection in flight is lost.
        (EvenkeelVariant::Plain, Fault::Kill | Fault::KillTwo | Fault::Flap) => Some(1.0),
        (EvenkeelVariant::Plain, Fault::ResetOnAccept) => Some(2.0),
        (EvenkeelVariant::Plain, Fault::FinOnAccept | Fault::ResetAfterRequest) => Some(5.0),
        (EvenkeelVariant::Plain, Fault::Blackhole | Fault::Half) | (EvenkeelVariant::Replay, _) => Some(0.0),
        (EvenkeelVariant::FirstByte, Fault::Stop) => Some(140.0),
        (EvenkeelVariant::Plain | EvenkeelVariant::FirstByte, _) => None,
    }
}

/// All goals of a run, in the order of the report.
pub(super) fn judge(chaos: &ChaosRecord) -> Vec<ChaosGoal> {
    let mut goals = Vec::new();
    for &(fault, check) in &chaos.settings.rows {
        for system in &chaos.systems {
            let ChaosProgram::Evenkeel(variant) = system.program else { continue };
            if chaos.of((fault, check), &system.name).next().is_some() {
                let row = GoalRow { chaos, fault, check, system };
                goals.extend(row.limits(variant));
                goals.extend(row.against_peers());
            }
        }
    }
    goals
}

struct GoalRow<'a> {
    chaos: &'a ChaosRecord,
    fault: Fault,
    check: CheckKind,
    system: &'a ChaosSystem,
}

impl GoalRow<'_> {
    fn limits(&self, variant: EvenkeelVariant) -> Vec<ChaosGoal> {
        let mut goals = Vec::new();
        if let Some(goal) = failures(self.fault, variant) {
            goals.push(self.limit("failed", goal, |counts| Some(counts.failed as f64)));
        }
        let blackhole = matches!(self.fault, Fault::Blackhole | Fault::Half);
        if blackhole {
            goals.push(self.limit("slow", 0.0, |counts| Some(counts.slow as f64)));
        }
        let seen = !self.fault.hides_from_a_connect() || self.check == CheckKind::Script;
        // A flapping backend may wait longer.
        if seen && self.fault != Fault::Flap {
            let goal = if blackhole { BACK_FROM_SILENCE } else { BACK };
            goals.push(self.limit("back, s", goal, |counts| counts.back));
        }
        goals
    }

    fn limit(&self, figure: &str, goal: f64, of: fn(&FaultCounts) -> Option<f64>) -> ChaosGoal {
        let values = self.chaos.of((self.fault, self.check), &self.system.name).map(of);
        let measured = values.collect::<Option<Vec<_>>>().and_then(|values| values.into_iter().reduce(f64::max));
        self.goal(figure, goal, measured, None)
    }

    fn against_peers(&self) -> Option<ChaosGoal> {
        let row = (self.fault, self.check);
        // The number of connections in flight is chance; the fixed limits count them.
        let count = |counts: &FaultCounts| (counts.failed - counts.in_flight) as f64;
        let failed = |name: &str| median(self.chaos.of(row, name).map(count));
        let peers = self.chaos.systems.iter().filter(|system| !system.is_ours());
        let best =
            peers.filter_map(|peer| Some((failed(&peer.name)?, peer.name.clone()))).min_by(|a, b| a.0.total_cmp(&b.0));
        let (goal, name) = best?;
        Some(self.goal("failed, in flight aside", goal, failed(&self.system.name), Some(name)))
    }

    fn goal(&self, figure: &str, goal: f64, measured: Option<f64>, against: Option<String>) -> ChaosGoal {
        ChaosGoal {
            fault: self.fault,
            check: self.check,
            system: self.system.name.clone(),
            figure: figure.to_owned(),
            goal,
            measured,
            against,
            met: measured.is_some_and(|measured| measured <= goal),
        }
    }
}

/// The middle value; for an even number the higher of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::chaos;
    use super::*;

    fn met(goals: &[ChaosGoal]) -> Vec<(&str, Option<&str>, bool)> {
        goals.iter().map(|one| (one.figure.as_str(), one.against.as_deref(), one.met)).collect()
    }

    #[test]
    fn limits_hold_for_every_repetition_and_peers_for_the_median() {
        let counts = |failed| FaultCounts { failed, back: Some(0.5), ..FaultCounts::default() };
        let row = (Fault::Kill, CheckKind::Tcp);
        let ours = [counts(0), counts(0), counts(2)];
        let peer = [counts(0), counts(1), counts(1)];
        let goals = judge(&chaos(row, &[("haproxy", &peer), ("evenkeel", &ours)]));
        assert_eq!(
            met(&goals),
            [("failed", None, false), ("back, s", None, true), ("failed, in flight aside", Some("haproxy"), true)]
        );
    }

    #[test]
    fn connections_in_flight_count_for_the_limit_only() {
        let row = (Fault::Kill, CheckKind::Tcp);
        let ours = FaultCounts { failed: 2, in_flight: 2, back: Some(0.1), ..FaultCounts::default() };
        let goals = judge(&chaos(row, &[("haproxy", &[FaultCounts::default()]), ("evenkeel", &[ours])]));
        let wanted =
            [("failed", None, false), ("back, s", None, true), ("failed, in flight aside", Some("haproxy"), true)];
        assert_eq!(met(&goals), wanted);
    }

    #[test]
    fn never_back_is_not_met() {
        let row = (Fault::Blackhole, CheckKind::Tcp);
        let goals = judge(&chaos(row, &[("evenkeel", &[FaultCounts { slow: 1, ..FaultCounts::default() }])]));
        assert_eq!(met(&goals), [("failed", None, true), ("slow", None, false), ("back, s", None, false)]);
    }

    #[test]
    fn there_is_no_time_limit_if_only_the_traffic_shows_the_fault() {
        let row = (Fault::FinOnAccept, CheckKind::Tcp);
        let goals = judge(&chaos(row, &[("evenkeel-replay", &[FaultCounts { failed: 1, ..FaultCounts::default() }])]));
        assert_eq!(met(&goals), [("failed", None, false)]);
    }
}
