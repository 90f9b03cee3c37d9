//! Summarises the cells: medians and spreads over the rounds, the tax, ratios to the best peer. Pure.
//!
//! The tax is the CPU time with a balancer minus the CPU time without one (`direct`). Tax and ratios are computed within a round
//! before the median is taken, because a disturbance in a round affects all its cells.

use serde::{Deserialize, Serialize};

use super::case::Case;
use super::cell::Measurement;
use super::record::{CompareCell, CompareSettings};
use super::system::{ComparedSystem, LogMode, SystemKind};

/// Median, lowest and highest of the values of all rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// The figure of a system divided by the figure of the best peer in the same round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ratio {
    /// The peer with the lowest median.
    pub(super) best: String,
    pub(super) spread: Spread,
    /// Number of rounds in which both figures are above zero; only these count.
    pub(super) rounds: usize,
}

/// The summary of one system in one case and row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SummaryLine {
    pub(super) case: Case,
    pub(super) row: LogMode,
    pub(super) system: String,
    /// Units per second.
    pub(super) throughput: Option<Spread>,
    /// Latencies are in microseconds.
    pub(super) p50: Option<Spread>,
    pub(super) p99: Option<Spread>,
    pub(super) p99_9: Option<Spread>,
    /// CPU seconds of the machine per unit.
    pub(super) cpu: Option<Spread>,
    /// `cpu` minus that of `direct` in the same round.
    pub(super) tax: Option<Spread>,
    /// Bytes of user memory per connection.
    pub(super) memory: Option<Spread>,
    pub(super) tax_ratio: Option<Ratio>,
    pub(super) p50_ratio: Option<Ratio>,
    pub(super) p99_ratio: Option<Ratio>,
    pub(super) memory_ratio: Option<Ratio>,
}

/// The values of one figure, with their rounds.
type Series = Vec<(u32, f64)>;

impl Spread {
    /// `None` if there are no values.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, min, max })
    }

    pub(super) fn times(self, factor: f64) -> Self {
        Self { median: self.median * factor, min: self.min * factor, max: self.max * factor }
    }
}

/// All lines, in the order of cases, rows and systems.
pub(super) fn summarize(
    settings: &CompareSettings,
    systems: &[ComparedSystem],
    cells: &[CompareCell],
) -> Vec<SummaryLine> {
    let mut lines = Vec::new();
    for &case in &settings.cases {
        for &row in &settings.rows {
            let group = CaseRow { case, row, systems, cells };
            lines.extend(systems.iter().filter_map(|system| group.line(system)));
        }
    }
    lines
}

struct CaseRow<'a> {
    case: Case,
    row: LogMode,
    systems: &'a [ComparedSystem],
    cells: &'a [CompareCell],
}

impl CaseRow<'_> {
    fn line(&self, system: &ComparedSystem) -> Option<SummaryLine> {
        let name = &system.name;
        self.cells_of(name).next()?;
        let spread =
            |figure: fn(&Measurement) -> Option<f64>| Spread::of(self.series(name, figure).into_iter().map(|at| at.1));
        let ratio = |figure: fn(&Self, &str) -> Series| self.ratio(name, figure);
        let is_direct = system.kind == SystemKind::Direct;
        Some(SummaryLine {
            case: self.case,
            row: self.row,
            system: name.clone(),
            throughput: spread(|measure| above_zero(measure.throughput)),
            p50: spread(|measure| above_zero(measure.p50)),
            p99: spread(|measure| above_zero(measure.p99)),
            p99_9: spread(|measure| above_zero(measure.p99_9)),
            cpu: spread(|measure| measure.cpu),
            tax: (!is_direct).then(|| Spread::of(self.taxes(name).into_iter().map(|at| at.1))).flatten(),
            memory: spread(|measure| measure.memory),
            tax_ratio: ratio(Self::taxes),
            p50_ratio: ratio(|group, name| group.series(name, |measure| above_zero(measure.p50))),
            p99_ratio: ratio(|group, name| group.series(name, |measure| above_zero(measure.p99))),
            memory_ratio: ratio(|group, name| group.series(name, |measure| measure.memory)),
        })
    }

    fn cells_of(&self, name: &str) -> impl Iterator<Item = &CompareCell> {
        let of_row = |cell: &&CompareCell| cell.row.is_none_or(|row| row == self.row);
        self.cells.iter().filter(move |cell| cell.case == self.case && cell.system == name).filter(of_row)
    }

    fn series(&self, name: &str, figure: fn(&Measurement) -> Option<f64>) -> Series {
        self.cells_of(name).filter_map(|cell| Some((cell.round, figure(&cell.measure)?))).collect()
    }

    fn taxes(&self, name: &str) -> Series {
        let cpu = |name: &str| self.series(name, |measure| measure.cpu);
        combine(&cpu(name), &cpu("direct"), |with, without| Some(with - without))
    }

    fn ratio(&self, name: &str, figure: fn(&Self, &str) -> Series) -> Option<Ratio> {
        if name == "direct" {
            return None;
        }
        let peers = self.systems.iter().filter(|system| system.kind.is_peer());
        let (_, best) = peers
            .filter_map(|peer| {
                let median = Spread::of(figure(self, &peer.name).into_iter().map(|at| at.1))?.median;
                Some((median, &peer.name))
            })
            .min_by(|(one, _), (other, _)| one.total_cmp(other))?;
        // A value below zero is noise, and its ratio means nothing.
        let ratios = combine(&figure(self, name), &figure(self, best), |mine, theirs| {
            (mine > 0.0 && theirs > 0.0).then(|| mine / theirs)
        });
        let rounds = ratios.len();
        Some(Ratio { best: best.clone(), spread: Spread::of(ratios.into_iter().map(|at| at.1))?, rounds })
    }
}

fn above_zero(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}

/// Combines two series round by round. A round that one of them lacks is left out.
fn combine(one: &Series, other: &Series, with: fn(f64, f64) -> Option<f64>) -> Series {
    one.iter()
        .filter_map(|&(round, left)| {
            let &(_, right) = other.iter().find(|(at, _)| *at == round)?;
            Some((round, with(left, right)?))
        })
        .collect()
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
