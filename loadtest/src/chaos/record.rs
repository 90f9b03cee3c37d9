//! A whole run of `chaos` as one serialisable value: what was run, on what, every cell, and the goals.
//!
//! The JSON shape is this. Fields are added, not renamed.

use serde::{Deserialize, Serialize};

use super::count::Counts;
use super::fault::{Check, Fault};
use super::goal::{Verdict, verdicts};
use super::system::Subject;
use crate::compare::machine::Machine;

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Chaos {
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
    pub(super) systems: Vec<Subject>,
    /// What is missing, and why.
    pub(super) missing: Vec<String>,
    /// Why the figures may not be trusted.
    pub(super) warnings: Vec<String>,
    /// The goals and what became of them.
    pub(super) goals: Vec<Verdict>,
    /// Every measurement.
    pub(super) cells: Vec<Cell>,
}

/// How it ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// Of load in a cell.
    pub(super) seconds: f64,
    /// Of these, with the fault.
    pub(super) fault_seconds: f64,
    /// New connections per second.
    pub(super) rate: f64,
    /// Connections that stay.
    pub(super) long_lived: u64,
    /// Seconds that a client waits for an answer.
    pub(super) patience: f64,
    /// How often everything was done.
    pub(super) repeat: u32,
    /// What drops packets.
    pub(super) blackhole: String,
    /// The rows.
    pub(super) rows: Vec<(Fault, Check)>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Cell {
    /// From 1.
    pub(super) repeat: u32,
    pub(super) fault: Fault,
    pub(super) check: Check,
    pub(super) system: String,
    pub(super) counts: Counts,
}

impl Chaos {
    /// Computes the goals from the cells.
    pub(super) fn judge(&mut self) {
        self.goals = verdicts(self);
    }

    /// The cells of one place in the table, one for each repetition.
    pub(super) fn of(&self, row: (Fault, Check), system: &str) -> impl Iterator<Item = &Counts> + Clone {
        let here = move |cell: &&Cell| (cell.fault, cell.check) == row && cell.system == system;
        self.cells.iter().filter(here).map(|cell| &cell.counts)
    }

    /// Wrong bytes.
    pub(super) fn wrong(&self) -> u64 {
        self.cells.iter().map(|cell| cell.counts.wrong).sum()
    }

    /// What a reader must know besides the tables.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = self.warnings.clone();
        if !self.missing.is_empty() {
            notes.push(format!("not tested: {}", self.missing.join("; ")));
        }
        for Cell { fault, check, system, counts, .. } in &self.cells {
            let place = || format!("{system}, {}, {}", fault.title(), check.title());
            if counts.wrong > 0 {
                notes.push(format!("{}: WRONG BYTES {} times: {}", place(), counts.wrong, counts.examples.join("; ")));
            }
            if counts.failed_before > 0 {
                notes.push(format!("{}: {} failed before anything was broken", place(), counts.failed_before));
            }
            if counts.broken_elsewhere > 0 {
                notes.push(format!("{}: {} long-lived broke on a healthy backend", place(), counts.broken_elsewhere));
            }
        }
        notes
    }
}
