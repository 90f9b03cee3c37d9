//! The order of the cells: each round has every case, each case every system. Whatever changes on the machine over the minutes
//! meets all systems.

use std::time::Duration;

use super::case::Case;
use super::cell::CaseRunner;
use super::record::{CompareCell, CompareRecord};
use super::system::{ComparedSystem, LogMode, SystemKind};
use crate::harness::cells::{CellRunner, in_turn};

#[derive(Debug, Clone)]
struct PlannedCell {
    case: Case,
    /// `None` for `direct`, which is the same with and without logs.
    row: Option<LogMode>,
    system: ComparedSystem,
}

pub(super) struct Rounds<'a> {
    runner: &'a CaseRunner<'a>,
    cells: CellRunner,
}

impl<'a> Rounds<'a> {
    pub(super) fn new(runner: &'a CaseRunner<'a>, comparison: &CompareRecord) -> Self {
        let planned = planned(1, comparison);
        let one: Duration = planned.iter().map(|cell| runner.estimate(cell.case)).sum();
        let rounds = comparison.settings.rounds;
        let text = format!("{} cells in {rounds} rounds", planned.len() * rounds as usize);
        Self { runner, cells: CellRunner::new(&text, one * rounds, 1) }
    }

    /// Runs one round and adds its cells to the record.
    pub(super) fn run(&mut self, round: u32, comparison: &mut CompareRecord) {
        let rounds = comparison.settings.rounds;
        for PlannedCell { case, row, system } in planned(round, comparison) {
            let label = format!("round {round}/{rounds}: {}: {}", case.name(), system.name);
            let place = (system.name.as_str(), case.name(), label.as_str());
            let measure = || self.runner.measure(&system, case, row.unwrap_or(LogMode::LogsOff));
            let measured = self.cells.run(place, self.runner.estimate(case), &mut comparison.run.missing, measure);
            let system = system.name;
            comparison.cells.extend(measured.map(|measure| CompareCell { round, case, row, system, measure }));
        }
        comparison.rounds_done = round;
        self.cells.line(&format!("round {round} of {rounds} is done"));
    }

    /// Whether every system was measured.
    pub(super) fn finish(self) -> bool {
        self.cells.finish()
    }
}

fn planned(round: u32, comparison: &CompareRecord) -> Vec<PlannedCell> {
    let systems = || comparison.systems.iter().cloned();
    let mut cells = Vec::new();
    for &case in &comparison.settings.cases {
        let direct = systems().filter(|system| system.kind == SystemKind::Direct);
        cells.extend(direct.map(|system| PlannedCell { case, row: None, system }));
        for &row in &comparison.settings.rows {
            let others = in_turn(systems().filter(|system| belongs(system, case)), round);
            cells.extend(others.into_iter().map(|system| PlannedCell { case, row: Some(row), system }));
        }
    }
    // The case `idle` measures the memory of a process, and `direct` has none.
    cells.retain(|cell| cell.case != Case::Idle || cell.row.is_some());
    cells
}

fn belongs(system: &ComparedSystem, case: Case) -> bool {
    match system.kind {
        SystemKind::Direct => false,
        // The option does nothing for small messages.
        SystemKind::Haproxy { splice: true } => case.is_bulk(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture;

    #[test]
    fn every_round_has_every_system_in_every_row_and_begins_with_another_one() {
        let comparison = fixture::comparison(&[("direct", &[]), ("evenkeel", &[]), ("nginx", &[]), ("haproxy", &[])]);
        let names = |round| planned(round, &comparison).into_iter().map(|cell| cell.system.name).collect::<Vec<_>>();
        assert_eq!(names(1), ["direct", "evenkeel", "nginx", "haproxy", "evenkeel", "nginx", "haproxy"]);
        assert_eq!(names(2), ["direct", "nginx", "haproxy", "evenkeel", "nginx", "haproxy", "evenkeel"]);
        assert_eq!(names(4), names(1));
    }
}
