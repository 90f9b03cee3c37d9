//! A whole comparison as one serialisable value: what was run, on what, every cell, and the summary.
//!
//! The JSON shape is this. Fields are added, not renamed.

use serde::{Deserialize, Serialize};

use super::case::Case;
use super::goal::Verdict;
use super::machine::Machine;
use super::measure::Measure;
use super::summary::{Line, summarize};
use super::system::{Row, System};

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Comparison {
    /// Year-month-day, UTC.
    pub(super) date: String,
    /// As it was started.
    pub(super) command: String,
    /// The cargo profile that this program was built in.
    pub(super) profile: String,
    /// What it ran on.
    pub(super) machine: Machine,
    /// How it ran.
    pub(super) settings: Settings,
    /// The columns.
    pub(super) systems: Vec<System>,
    /// What is missing, and why.
    pub(super) missing: Vec<String>,
    /// Why the figures may not be trusted.
    pub(super) warnings: Vec<String>,
    /// Rounds that are complete.
    pub(super) rounds_done: u32,
    /// Medians over the rounds.
    pub(super) lines: Vec<Line>,
    /// The goals and what became of them.
    pub(super) goals: Vec<Verdict>,
    /// Every measurement.
    pub(super) cells: Vec<Cell>,
}

/// How it ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// Rounds that were asked for.
    pub(super) rounds: u32,
    /// Measured seconds of a cell.
    pub(super) seconds: f64,
    /// Threads of each system.
    pub(super) threads: usize,
    /// Threads of the load generator, and of the backend.
    pub(super) load_threads: usize,
    /// Idle connections.
    pub(super) idle: u64,
    /// The cases.
    pub(super) cases: Vec<Case>,
    /// The rows.
    pub(super) rows: Vec<Row>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Cell {
    /// From 1.
    pub(super) round: u32,
    /// What.
    pub(super) case: Case,
    /// `None` for `direct`, which is the same in both.
    pub(super) row: Option<Row>,
    /// Name of the system.
    pub(super) system: String,
    /// The figures.
    pub(super) measure: Measure,
}

impl Comparison {
    /// Computes the summary anew from the cells.
    pub(super) fn summarize(&mut self) {
        self.lines = summarize(&self.settings, &self.systems, &self.cells);
        self.goals = super::goal::judge(&self.lines, &self.systems);
    }

    /// Wrong bytes, of all cells together.
    pub(super) fn mismatches(&self) -> u64 {
        self.cells.iter().map(|cell| cell.measure.mismatches).sum()
    }

    /// The lines of a case in a row, in the order of the systems.
    pub(super) fn of(&self, case: Case, row: Row) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.case == case && line.row == row)
    }

    /// One sentence for each thing that a reader of the figures has to know.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = self.warnings.clone();
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
            let (case, row, rounds) = (line.case.name(), line.row.short(), ratio.rounds);
            notes.push(format!(
                "{}: {case}, {row}: the ratio of the tax rests on {rounds} of {} rounds, the others are noise",
                line.system, self.rounds_done
            ));
        }
        notes.extend(self.missing.iter().map(|line| format!("not compared: {line}")));
        notes
    }
}
