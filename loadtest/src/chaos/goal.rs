//! What Evenkeel has to reach, and what became of it: fixed limits, and never worse than the best peer of the same run.
//!
//! Pure. Limits hold for every repetition; against peers the medians count, since one connection more or less is chance.

use serde::{Deserialize, Serialize};

use super::count::Counts;
use super::fault::{Check, Fault};
use super::record::Chaos;
use super::system::{Program, Subject, Variant};

/// Until a backend that works again has traffic, in seconds; where a check or a connect sees what is wrong.
const BACK: f64 = 0.8;

/// After a blackhole: the packets of the probe that was on its way are lost, so its timeout has to pass first.
const BACK_FROM_SILENCE: f64 = BACK + 0.5;

/// One goal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) fault: Fault,
    pub(super) check: Check,
    pub(super) system: String,
    /// What is limited.
    pub(super) figure: String,
    /// At most so much.
    pub(super) goal: f64,
    /// What it is: the worst repetition, or the median against a peer. `None` = never within the run.
    pub(super) measured: Option<f64>,
    /// Whose figure the goal is, if it is somebody's.
    pub(super) against: Option<String>,
    pub(super) met: bool,
}

/// Of new connections: how many may fail. `None` = as many as with the best peer.
fn failures(fault: Fault, variant: Variant) -> Option<f64> {
    match (variant, fault) {
        // The one in flight at the blow can't be saved without a replay.
        (Variant::Plain, Fault::Kill | Fault::KillTwo | Fault::Flap) => Some(1.0),
        (Variant::Plain, Fault::ResetOnAccept) => Some(2.0),
        (Variant::Plain, Fault::FinOnAccept | Fault::ResetAfterRequest) => Some(5.0),
        (Variant::Plain, Fault::Blackhole | Fault::Half) | (Variant::Replay, _) => Some(0.0),
        (Variant::FirstByte, Fault::Stop) => Some(140.0),
        (Variant::Plain | Variant::FirstByte, _) => None,
    }
}

/// All goals of a run, in the order of the report.
pub(super) fn verdicts(chaos: &Chaos) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for &(fault, check) in &chaos.settings.rows {
        for subject in &chaos.systems {
            let Program::Evenkeel(variant) = subject.program else { continue };
            if chaos.of((fault, check), &subject.name).next().is_some() {
                let row = Row { chaos, fault, check, subject };
                verdicts.extend(row.limits(variant));
                verdicts.extend(row.against_peers());
            }
        }
    }
    verdicts
}

struct Row<'a> {
    chaos: &'a Chaos,
    fault: Fault,
    check: Check,
    subject: &'a Subject,
}

impl Row<'_> {
    fn limits(&self, variant: Variant) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        if let Some(goal) = failures(self.fault, variant) {
            verdicts.push(self.limit("failed", goal, |counts| Some(counts.failed as f64)));
        }
        let blackhole = matches!(self.fault, Fault::Blackhole | Fault::Half);
        if blackhole {
            verdicts.push(self.limit("slow", 0.0, |counts| Some(counts.slow as f64)));
        }
        let seen = !self.fault.hides_from_a_connect() || self.check == Check::Script;
        // A backend that flaps may well be kept waiting.
        if seen && self.fault != Fault::Flap {
            let goal = if blackhole { BACK_FROM_SILENCE } else { BACK };
            verdicts.push(self.limit("back, s", goal, |counts| counts.back));
        }
        verdicts
    }

    fn limit(&self, figure: &str, goal: f64, of: fn(&Counts) -> Option<f64>) -> Verdict {
        let values = self.chaos.of((self.fault, self.check), &self.subject.name).map(of);
        let measured = values.collect::<Option<Vec<_>>>().and_then(|values| values.into_iter().reduce(f64::max));
        self.verdict(figure, goal, measured, None)
    }

    fn against_peers(&self) -> Option<Verdict> {
        let row = (self.fault, self.check);
        // Whether one more or less is in flight at a blow is luck, and the limits see it.
        let count = |counts: &Counts| (counts.failed - counts.in_flight) as f64;
        let failed = |name: &str| median(self.chaos.of(row, name).map(count));
        let peers = self.chaos.systems.iter().filter(|system| !system.is_ours());
        let best =
            peers.filter_map(|peer| Some((failed(&peer.name)?, peer.name.clone()))).min_by(|a, b| a.0.total_cmp(&b.0));
        let (goal, name) = best?;
        Some(self.verdict("failed, in flight aside", goal, failed(&self.subject.name), Some(name)))
    }

    fn verdict(&self, figure: &str, goal: f64, measured: Option<f64>, against: Option<String>) -> Verdict {
        Verdict {
            fault: self.fault,
            check: self.check,
            system: self.subject.name.clone(),
            figure: figure.to_owned(),
            goal,
            measured,
            against,
            met: measured.is_some_and(|measured| measured <= goal),
        }
    }
}

/// The middle one; of an even number the worse of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::chaos;
    use super::*;

    fn met(verdicts: &[Verdict]) -> Vec<(&str, Option<&str>, bool)> {
        verdicts.iter().map(|one| (one.figure.as_str(), one.against.as_deref(), one.met)).collect()
    }

    #[test]
    fn limits_hold_for_every_repetition_and_peers_for_the_median() {
        let counts = |failed| Counts { failed, back: Some(0.5), ..Counts::default() };
        let row = (Fault::Kill, Check::Tcp);
        let ours = [counts(0), counts(0), counts(2)];
        let peer = [counts(0), counts(1), counts(1)];
        let verdicts = verdicts(&chaos(row, &[("haproxy", &peer), ("evenkeel", &ours)]));
        assert_eq!(
            met(&verdicts),
            [("failed", None, false), ("back, s", None, true), ("failed, in flight aside", Some("haproxy"), true)]
        );
    }

    #[test]
    fn luck_is_not_held_against_anybody_but_the_limit() {
        let row = (Fault::Kill, Check::Tcp);
        let ours = Counts { failed: 2, in_flight: 2, back: Some(0.1), ..Counts::default() };
        let verdicts = verdicts(&chaos(row, &[("haproxy", &[Counts::default()]), ("evenkeel", &[ours])]));
        let wanted =
            [("failed", None, false), ("back, s", None, true), ("failed, in flight aside", Some("haproxy"), true)];
        assert_eq!(met(&verdicts), wanted);
    }

    #[test]
    fn never_back_is_not_met() {
        let row = (Fault::Blackhole, Check::Tcp);
        let verdicts = verdicts(&chaos(row, &[("evenkeel", &[Counts { slow: 1, ..Counts::default() }])]));
        assert_eq!(met(&verdicts), [("failed", None, true), ("slow", None, false), ("back, s", None, false)]);
    }

    #[test]
    fn where_only_the_traffic_shows_it_no_time_is_asked_for() {
        let row = (Fault::FinOnAccept, Check::Tcp);
        let verdicts = verdicts(&chaos(row, &[("evenkeel-replay", &[Counts { failed: 1, ..Counts::default() }])]));
        assert_eq!(met(&verdicts), [("failed", None, false)]);
    }
}
