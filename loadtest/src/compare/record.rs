//! A whole comparison as one serialisable value: settings, systems, every cell, and the summary.
//!
//! This is the shape of the JSON. Fields are added, not renamed.

use serde::{Deserialize, Serialize};

use super::case::Case;
use super::cell::Measurement;
use super::goal::CompareGoal;
use super::summary::{SummaryLine, summarize};
use super::system::{ComparedSystem, LogMode};
use crate::harness::record::RunRecord;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CompareRecord {
    #[serde(flatten)]
    pub(super) run: RunRecord,
    pub(super) settings: CompareSettings,
    pub(super) systems: Vec<ComparedSystem>,
    pub(super) rounds_done: u32,
    /// Medians over the rounds.
    pub(super) lines: Vec<SummaryLine>,
    pub(super) goals: Vec<CompareGoal>,
    pub(super) cells: Vec<CompareCell>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CompareSettings {
    /// As requested; `rounds_done` has those that are complete.
    pub(super) rounds: u32,
    /// Measured seconds of a cell.
    pub(super) seconds: f64,
    pub(super) threads: usize,
    /// Threads of the load generator, and of the backend.
    pub(super) load_threads: usize,
    /// Connections of the case `idle`.
    pub(super) idle: u64,
    pub(super) cases: Vec<Case>,
    pub(super) rows: Vec<LogMode>,
}

/// One system in one case in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CompareCell {
    /// From 1.
    pub(super) round: u32,
    pub(super) case: Case,
    /// `None` for `direct`, which is the same with and without logs.
    pub(super) row: Option<LogMode>,
    pub(super) system: String,
    pub(super) measure: Measurement,
}

impl CompareRecord {
    pub(super) fn summarize(&mut self) {
        self.lines = summarize(&self.settings, &self.systems, &self.cells);
        self.goals = super::goal::judge(&self.lines, &self.systems);
    }

    /// Wrong bytes of all cells together.
    pub(super) fn mismatches(&self) -> u64 {
        self.cells.iter().map(|cell| cell.measure.mismatches).sum()
    }

    /// The lines of a case in a row, in the order of the systems.
    pub(super) fn of(&self, case: Case, row: LogMode) -> impl Iterator<Item = &SummaryLine> {
        self.lines.iter().filter(move |line| line.case == case && line.row == row)
    }

    /// What a reader of the figures has to know.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = self.run.warnings.clone();
        if self.rounds_done < self.settings.rounds {
            notes.push(format!("only {} of {} rounds are done", self.rounds_done, self.settings.rounds));
        }
        let stolen = self.cells.iter().map(|cell| cell.measure.stolen).fold(0.0, f64::max);
        if stolen > 0.05 {
            notes.push(format!("the host of this virtual machine took away up to {stolen:.2} CPUs at times"));
        }
        for system in &self.systems {
            let mine = || self.cells.iter().filter(|cell| cell.system == system.name);
            let failures: u64 = mine().map(|cell| cell.measure.failures + cell.measure.mismatches).sum();
            if failures > 0 {
                let example = mine().find_map(|cell| cell.measure.examples.first()).cloned().unwrap_or_default();
                notes.push(format!("{}: {failures} failed operations, the first: {example}", system.name));
            }
            if let Some(cell) = mine().filter(|cell| !cell.measure.logged()).min_by_key(|cell| cell.measure.log_lines) {
                let lines = cell.measure.log_lines.unwrap_or_default();
                let (case, sessions) = (cell.case.name(), cell.measure.sessions);
                notes.push(format!("{}: {case}: {lines} lines in the log for {sessions} sessions", system.name));
            }
        }
        for line in &self.lines {
            let Some(ratio) = line.tax_ratio.as_ref().filter(|ratio| ratio.rounds < self.rounds_done as usize) else {
                continue;
            };
            let (case, row, rounds) = (line.case.name(), line.row.short_title(), ratio.rounds);
            notes.push(format!(
                "{}: {case}, {row}: the ratio of the tax rests on {rounds} of {} rounds, the others are noise",
                line.system, self.rounds_done
            ));
        }
        notes.extend(self.run.missing.iter().map(|line| format!("not compared: {line}")));
        notes
    }
}
