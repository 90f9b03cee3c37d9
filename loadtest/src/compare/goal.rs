//! The goals for Evenkeel's figures, as ratios to the best peer in the same run. Pure.
//!
//! Only Evenkeel's default mode is judged. For memory, the modes copy and io_uring have goals too.

use serde::{Deserialize, Serialize};

use super::case::Case;
use super::summary::{Spread, SummaryLine};
use super::system::{ComparedSystem, LogMode, SystemKind};

/// A goal, what was measured, and whether it is met.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CompareGoal {
    pub(super) case: Case,
    pub(super) row: LogMode,
    pub(super) system: String,
    pub(super) figure: String,
    /// The value must not be above this.
    pub(super) goal: f64,
    pub(super) value: Spread,
    /// The peer of the ratio; `None` for a figure that is no ratio.
    pub(super) best: Option<String>,
    pub(super) met: bool,
}

/// All goals for which there are figures.
pub(super) fn judge(lines: &[SummaryLine], systems: &[ComparedSystem]) -> Vec<CompareGoal> {
    let mut verdicts = Vec::new();
    for line in lines {
        let Some(system) = systems.iter().find(|system| system.name == line.system) else { continue };
        let SystemKind::Evenkeel { relay } = &system.kind else { continue };
        let mut judge = |figure: &str, goal: f64, value: Option<Spread>, best: Option<String>| {
            let Some(value) = value else { return };
            let (case, row, system) = (line.case, line.row, line.system.clone());
            let met = value.median <= goal;
            verdicts.push(CompareGoal { case, row, system, figure: figure.into(), goal, value, best, met });
        };
        if let Some(goal) = memory_goal(relay.as_deref()) {
            judge("bytes of memory per connection", goal, line.memory, None);
        }
        if relay.is_some() {
            continue;
        }
        if let Some((goal, ratio)) = tax_goal(line.case).zip(line.tax_ratio.as_ref()) {
            judge("CPU tax", goal, Some(ratio.spread), Some(ratio.best.clone()));
        }
        if let Some(ratio) = line.p50_ratio.as_ref().filter(|_| line.case == Case::Ping1) {
            judge("p50", 1.0, Some(ratio.spread), Some(ratio.best.clone()));
        }
        if let Some(ratio) = &line.p99_ratio {
            judge("p99", 1.0, Some(ratio.spread), Some(ratio.best.clone()));
        }
    }
    verdicts
}

fn tax_goal(case: Case) -> Option<f64> {
    match case {
        Case::Ping64 => Some(0.65),
        Case::Ping16k => Some(0.80),
        Case::Download | Case::Upload => Some(0.50),
        Case::Churn => Some(0.85),
        Case::Ping1 | Case::Ping1k | Case::Mixed | Case::Idle => None,
    }
}

fn memory_goal(relay: Option<&str>) -> Option<f64> {
    match relay {
        None | Some("copy") => Some(2_000.0),
        Some("io_uring") => Some(700.0),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture;

    #[test]
    fn the_median_decides() {
        let cells: [(&str, &[f64]); 3] =
            [("direct", &[10.0, 10.0, 10.0]), ("evenkeel", &[16.0, 15.0, 19.0]), ("nginx", &[20.0, 20.0, 20.0])];
        let goals = fixture::comparison(&cells).goals;
        let tax = goals.iter().find(|goal| goal.figure == "CPU tax" && goal.row == LogMode::Defaults).unwrap();
        assert_eq!((tax.met, tax.goal, tax.best.as_deref()), (true, 0.65, Some("nginx")));
        assert!((tax.value.median - 0.6).abs() < 1e-9 && (tax.value.max - 0.9).abs() < 1e-9);
    }
}
