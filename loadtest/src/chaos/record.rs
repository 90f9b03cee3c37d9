//! A whole run of `chaos` as one serialisable value: settings, systems, every cell, and the goals.
//!
//! This is the shape of the JSON. Fields are added, not renamed.

use serde::{Deserialize, Serialize};

use super::count::FaultCounts;
use super::fault::{CheckKind, Fault};
use super::goal::{ChaosGoal, judge};
use super::system::ChaosSystem;
use crate::harness::record::RunRecord;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ChaosRecord {
    #[serde(flatten)]
    pub(super) run: RunRecord,
    pub(super) settings: ChaosSettings,
    pub(super) systems: Vec<ChaosSystem>,
    pub(super) goals: Vec<ChaosGoal>,
    pub(super) cells: Vec<ChaosCell>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ChaosSettings {
    /// Seconds of load in a cell.
    pub(super) seconds: f64,
    /// Seconds of these with the fault.
    pub(super) fault_seconds: f64,
    /// New connections per second.
    pub(super) rate: f64,
    pub(super) long_lived: u64,
    /// Seconds that a client waits for an answer.
    pub(super) patience: f64,
    pub(super) repeat: u32,
    pub(super) blackhole: String,
    pub(super) rows: Vec<(Fault, CheckKind)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ChaosCell {
    /// From 1.
    pub(super) repeat: u32,
    pub(super) fault: Fault,
    pub(super) check: CheckKind,
    pub(super) system: String,
    pub(super) counts: FaultCounts,
}

impl ChaosRecord {
    pub(super) fn judge(&mut self) {
        self.goals = judge(self);
    }

    /// The cells of one row and system, one for each repetition.
    pub(super) fn of(&self, row: (Fault, CheckKind), system: &str) -> impl Iterator<Item = &FaultCounts> + Clone {
        let here = move |cell: &&ChaosCell| (cell.fault, cell.check) == row && cell.system == system;
        self.cells.iter().filter(here).map(|cell| &cell.counts)
    }

    /// Number of wrong answers of all cells together.
    pub(super) fn wrong(&self) -> u64 {
        self.cells.iter().map(|cell| cell.counts.wrong).sum()
    }

    /// What a reader of the figures has to know.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = self.run.warnings.clone();
        if !self.run.missing.is_empty() {
            notes.push(format!("not tested: {}", self.run.missing.join("; ")));
        }
        for ChaosCell { fault, check, system, counts, .. } in &self.cells {
            let mut note = |count: u64, text: String| {
                if count > 0 {
                    notes.push(format!("{system}, {}, {}: {text}", fault.title(), check.title()));
                }
            };
            let FaultCounts { wrong, failed_before, broken_elsewhere, examples, .. } = counts;
            note(*wrong, format!("WRONG BYTES {wrong} times: {}", examples.join("; ")));
            note(*failed_before, format!("{failed_before} failed before anything was broken"));
            note(*broken_elsewhere, format!("{broken_elsewhere} long-lived broke on a healthy backend"));
        }
        notes
    }
}
