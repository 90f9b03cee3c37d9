//! The command line of `compare`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::case::Case;
use super::programs::Programs;
use super::system::Row;
use crate::{results, units};

/// Exit codes: 0 = all was measured, 1 = a system failed, or bytes were wrong, 2 = bad usage.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Rounds; in each, every system has its turn in every case [default: 5; with --quick 1]
    #[arg(long)]
    pub(super) rounds: Option<u32>,
    /// Measured time of a cell: one case of one system in one round [default: 4s; with --quick 600ms]
    #[arg(long, short, value_parser = units::duration)]
    pub(super) duration: Option<Duration>,
    /// What to compare [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(super) scenarios: Vec<Case>,
    /// Names of systems to compare; `direct` is always there, since a tax needs it [default: all that are found]
    #[arg(long, value_delimiter = ',')]
    pub(super) systems: Vec<String>,
    /// Which rows: shipped defaults, logs off, or both
    #[arg(long, value_enum, default_value = "both")]
    pub(super) logs: Logs,
    /// Threads, or worker processes, of each system [default: the number of CPUs]
    #[arg(long)]
    pub(super) threads: Option<usize>,
    /// Threads of the load generator, and of the backend [default: half of the CPUs, 1 or 2]
    #[arg(long)]
    pub(super) load_threads: Option<usize>,
    /// Connections of the case `idle` [default: 3000; with --quick 300]
    #[arg(long, value_parser = units::count)]
    pub(super) idle_connections: Option<u64>,
    /// A short look whether all works: the figures are worth little
    #[arg(long)]
    pub(super) quick: bool,
    #[command(flatten)]
    pub(super) programs: Programs,
    /// Directory for `compare.json` and `compare.html`, written after every round [default: compare/ in cargo's target directory]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Also write the tables with machine, versions and command to this file
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = results::PATH)]
    pub(super) write_results: Option<PathBuf>,
}

/// Which rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Logs {
    /// Both rows.
    Both,
    /// Shipped defaults only.
    On,
    /// Logs off only.
    Off,
}

impl CompareArgs {
    /// Rounds.
    pub(super) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 5 }).max(1)
    }

    /// Measured time of a cell.
    pub(super) fn duration(&self) -> Duration {
        self.duration.unwrap_or_else(|| Duration::from_millis(if self.quick { 600 } else { 4_000 }))
    }

    /// Load before that.
    pub(super) fn warm_up(&self) -> Duration {
        (self.duration() / 8).min(Duration::from_millis(500))
    }

    /// Idle connections.
    pub(super) fn idle(&self) -> u64 {
        self.idle_connections.unwrap_or(if self.quick { 300 } else { 3_000 }).max(1)
    }

    /// How long these are quiet before their memory is looked at.
    pub(super) fn quiet(&self) -> Duration {
        Duration::from_millis(if self.quick { 300 } else { 2_000 })
    }

    /// The cases, in the order of the report.
    pub(super) fn cases(&self) -> Vec<Case> {
        Case::ALL.into_iter().filter(|case| self.scenarios.is_empty() || self.scenarios.contains(case)).collect()
    }

    /// The rows, in the order of the report.
    pub(super) fn rows(&self) -> Vec<Row> {
        match self.logs {
            Logs::Both => vec![Row::Defaults, Row::LogsOff],
            Logs::On => vec![Row::Defaults],
            Logs::Off => vec![Row::LogsOff],
        }
    }
}
