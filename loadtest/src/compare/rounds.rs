//! Who has a turn when: in each round every case, in each case every system, so that what changes on the machine over the
//! minutes meets all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::case::Case;
use super::measure::Bench;
use super::record::{Cell, Comparison};
use super::system::{Kind, Row, System};
use crate::progress::Course;

/// One turn.
#[derive(Debug, Clone)]
struct Turn {
    case: Case,
    /// `None` for `direct`, which is the same in both rows.
    row: Option<Row>,
    system: System,
}

/// The turns of a round, and how far all rounds are.
pub(super) struct Rounds<'a> {
    bench: &'a Bench<'a>,
    turns: Vec<Turn>,
    rounds: u32,
    course: Course,
    /// Systems that did not run, and are not tried again.
    failed: BTreeSet<String>,
}

impl<'a> Rounds<'a> {
    pub(super) fn new(bench: &'a Bench<'a>, comparison: &Comparison) -> Self {
        let turns = turns(comparison);
        let one: Duration = turns.iter().map(|turn| bench.estimate(turn.case)).sum();
        let rounds = comparison.settings.rounds;
        Self { bench, turns, rounds, course: Course::new(one * rounds), failed: BTreeSet::new() }
    }

    /// One round; what it gives goes into the comparison.
    pub(super) fn run(&mut self, round: u32, comparison: &mut Comparison) {
        for turn in &self.turns {
            let Turn { case, row, system } = turn;
            let estimate = self.bench.estimate(*case);
            if self.failed.contains(&system.name) {
                self.course.done(estimate);
                continue;
            }
            self.course.show(&format!("round {round}/{}: {}: {}", self.rounds, case.name(), system.name));
            match self.bench.measure(system, *case, row.unwrap_or(Row::LogsOff)) {
                Ok(measure) => {
                    let system = system.name.clone();
                    comparison.cells.push(Cell { round, case: *case, row: *row, system, measure });
                }
                Err(error) => {
                    let line = format!("{}: {}: {:#}", system.name, case.name(), anyhow::Error::from(error));
                    self.course.line(&format!("failed: {line}"));
                    comparison.missing.push(line);
                    self.failed.insert(system.name.clone());
                }
            }
            self.course.done(estimate);
        }
        comparison.rounds_done = round;
        self.course.line(&format!("round {round} of {} is done", self.rounds));
    }

    /// Whether a system failed.
    pub(super) fn finish(self) -> bool {
        self.course.clear();
        !self.failed.is_empty()
    }
}

fn turns(comparison: &Comparison) -> Vec<Turn> {
    let mut turns = Vec::new();
    for &case in &comparison.settings.cases {
        let direct = comparison.systems.iter().filter(|system| system.kind == Kind::Direct);
        turns.extend(direct.map(|system| Turn { case, row: None, system: system.clone() }));
        for &row in &comparison.settings.rows {
            let others = comparison.systems.iter().filter(|system| belongs(system, case));
            turns.extend(others.map(|system| Turn { case, row: Some(row), system: system.clone() }));
        }
    }
    // There is no process whose memory could be looked at.
    turns.retain(|turn| turn.case != Case::Idle || turn.row.is_some());
    turns
}

fn belongs(system: &System, case: Case) -> bool {
    match system.kind {
        Kind::Direct => false,
        // The option does nothing for small messages.
        Kind::Haproxy { splice: true } => case.is_bulk(),
        Kind::Haproxy { splice: false } | Kind::Evenkeel { .. } | Kind::Nginx { .. } | Kind::Envoy => true,
    }
}
