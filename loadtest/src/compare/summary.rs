//! From cells to lines: medians and spreads over the rounds, taxes, ratios to the best peer.
//!
//! Pure. A tax and a ratio are formed within a round and only then put together: what disturbs a round disturbs all its cells.

use serde::{Deserialize, Serialize};

use super::case::Case;
use super::measure::Measure;
use super::record::{Cell, Settings};
use super::system::{Kind, Row, System};

/// The middle and the ends of the values of all rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    /// Half are below.
    pub(super) median: f64,
    /// The lowest.
    pub(super) min: f64,
    /// The highest.
    pub(super) max: f64,
}

/// A figure of ours, or of another, over that of the best peer in the same round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ratio {
    /// The peer with the lowest median.
    pub(super) best: String,
    /// Over the rounds.
    pub(super) spread: Spread,
    /// How many rounds it rests on: those where both figures are above zero.
    pub(super) rounds: usize,
}

/// A system in a case and row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    /// What.
    pub(super) case: Case,
    /// With or without logs.
    pub(super) row: Row,
    /// Name of the system.
    pub(super) system: String,
    /// Units per second.
    pub(super) throughput: Option<Spread>,
    /// Microseconds.
    pub(super) p50: Option<Spread>,
    /// Microseconds.
    pub(super) p99: Option<Spread>,
    /// Microseconds.
    pub(super) p99_9: Option<Spread>,
    /// CPU seconds of the machine per unit.
    pub(super) cpu: Option<Spread>,
    /// That, minus `direct` in the same round.
    pub(super) tax: Option<Spread>,
    /// Bytes of user memory per connection.
    pub(super) memory: Option<Spread>,
    /// Of the tax.
    pub(super) tax_ratio: Option<Ratio>,
    /// Of the median latency.
    pub(super) p50_ratio: Option<Ratio>,
    /// Of the 99th percentile.
    pub(super) p99_ratio: Option<Ratio>,
    /// Of memory.
    pub(super) memory_ratio: Option<Ratio>,
}

/// The values of one figure, by round.
type Series = Vec<(u32, f64)>;

impl Spread {
    /// `None` of no values.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, min, max })
    }

    /// The same in another unit.
    pub(super) fn times(self, factor: f64) -> Self {
        Self { median: self.median * factor, min: self.min * factor, max: self.max * factor }
    }
}

/// All lines, in the order of cases, rows and systems.
pub(super) fn summarize(settings: &Settings, systems: &[System], cells: &[Cell]) -> Vec<Line> {
    let mut lines = Vec::new();
    for &case in &settings.cases {
        for &row in &settings.rows {
            let group = Group { case, row, systems, cells };
            lines.extend(systems.iter().filter_map(|system| group.line(system)));
        }
    }
    lines
}

/// The cells of a case and row.
struct Group<'a> {
    case: Case,
    row: Row,
    systems: &'a [System],
    cells: &'a [Cell],
}

impl Group<'_> {
    fn line(&self, system: &System) -> Option<Line> {
        let name = &system.name;
        self.cells_of(name).next()?;
        let spread =
            |figure: fn(&Measure) -> Option<f64>| Spread::of(self.series(name, figure).into_iter().map(|at| at.1));
        let ratio = |figure: fn(&Self, &str) -> Series| self.ratio(name, figure);
        let is_direct = system.kind == Kind::Direct;
        Some(Line {
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

    fn cells_of(&self, name: &str) -> impl Iterator<Item = &Cell> {
        let of_row = |cell: &&Cell| cell.row.is_none_or(|row| row == self.row);
        self.cells.iter().filter(move |cell| cell.case == self.case && cell.system == name).filter(of_row)
    }

    fn series(&self, name: &str, figure: fn(&Measure) -> Option<f64>) -> Series {
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
        // Below zero is noise, and a ratio of it or to it means nothing.
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

/// Round by round; rounds that one of them lacks are left out.
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
