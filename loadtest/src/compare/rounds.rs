//! Who has a turn when: in each round every case, in each case every system, so that what changes on the machine over the
//! minutes meets all of them. Each round begins with another system: what one leaves behind in the kernel (TIME_WAIT, dirty
//! caches) shall not always meet the same next one.

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
    rounds: u32,
    course: Course,
    /// Systems that did not run, and are not tried again.
    failed: BTreeSet<String>,
}

impl<'a> Rounds<'a> {
    pub(super) fn new(bench: &'a Bench<'a>, comparison: &Comparison) -> Self {
        let turns = turns(1, comparison);
        let one: Duration = turns.iter().map(|turn| bench.estimate(turn.case)).sum();
        let rounds = comparison.settings.rounds;
        let minutes = (one * rounds).as_secs_f64() / 60.0;
        eprintln!("{} cells in {rounds} rounds: about {minutes:.1} minutes", turns.len() * rounds as usize);
        Self { bench, rounds, course: Course::new(one * rounds), failed: BTreeSet::new() }
    }

    /// One round; what it gives goes into the comparison.
    pub(super) fn run(&mut self, round: u32, comparison: &mut Comparison) {
        for Turn { case, row, system } in turns(round, comparison) {
            let estimate = self.bench.estimate(case);
            if self.failed.contains(&system.name) {
                self.course.done(estimate);
                continue;
            }
            self.course.show(&format!("round {round}/{}: {}: {}", self.rounds, case.name(), system.name));
            match self.bench.measure(&system, case, row.unwrap_or(Row::LogsOff)) {
                Ok(measure) => {
                    let system = system.name.clone();
                    comparison.cells.push(Cell { round, case, row, system, measure });
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

fn turns(round: u32, comparison: &Comparison) -> Vec<Turn> {
    let mut turns = Vec::new();
    for &case in &comparison.settings.cases {
        let direct = comparison.systems.iter().filter(|system| system.kind == Kind::Direct);
        turns.extend(direct.map(|system| Turn { case, row: None, system: system.clone() }));
        for &row in &comparison.settings.rows {
            let mut others: Vec<_> = comparison.systems.iter().filter(|system| belongs(system, case)).collect();
            let first = (round as usize - 1) % others.len().max(1);
            others.rotate_left(first);
            turns.extend(others.into_iter().map(|system| Turn { case, row: Some(row), system: system.clone() }));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture;

    #[test]
    fn every_round_has_every_system_in_every_row_and_begins_with_another_one() {
        let comparison = fixture::comparison(&[("direct", &[]), ("evenkeel", &[]), ("nginx", &[]), ("haproxy", &[])]);
        let names = |round| turns(round, &comparison).iter().map(|turn| turn.system.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(1), ["direct", "evenkeel", "nginx", "haproxy", "evenkeel", "nginx", "haproxy"]);
        assert_eq!(names(2), ["direct", "nginx", "haproxy", "evenkeel", "nginx", "haproxy", "evenkeel"]);
        assert_eq!(names(4), names(1));
    }
}
