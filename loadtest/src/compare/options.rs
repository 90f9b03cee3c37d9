//! The command line of `compare`.

use std::time::Duration;

use clap::Args;

use super::case::Case;
use super::system::LogMode;
use crate::harness::HarnessArgs;
use crate::units;

/// Exit codes: 0 = everything was measured, 1 = a system failed, or bytes were wrong, 2 = bad usage.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Rounds; every round runs every system in every case [default: 5; with --quick 1]
    #[arg(long)]
    rounds: Option<u32>,
    /// Measured time of a cell: one case of one system in one round [default: 4s; with --quick 600ms]
    #[arg(long, short, value_parser = units::duration)]
    duration: Option<Duration>,
    /// The cases to compare [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    scenarios: Vec<Case>,
    /// Whether sessions are logged: shipped defaults (on), logs off, or both
    #[arg(long, value_enum, default_value = "both")]
    logs: LogChoice,
    /// Threads, or worker processes, of each system [default: the number of CPUs]
    #[arg(long)]
    pub(super) threads: Option<usize>,
    /// Threads of the load generator, and of the backend [default: half of the CPUs, 1 or 2]
    #[arg(long)]
    pub(super) load_threads: Option<usize>,
    /// Connections of the case `idle` [default: 3000; with --quick 300]
    #[arg(long, value_parser = units::count)]
    idle_connections: Option<u64>,
    /// A short run that only shows whether everything works; the figures are worth little
    #[arg(long)]
    pub(super) quick: bool,
    #[command(flatten)]
    pub(super) harness: HarnessArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LogChoice {
    Both,
    /// Shipped defaults only
    On,
    /// Logs off only
    Off,
}

impl CompareArgs {
    pub(super) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 5 }).max(1)
    }

    /// Measured time of a cell.
    pub(super) fn duration(&self) -> Duration {
        self.duration.unwrap_or_else(|| Duration::from_millis(if self.quick { 600 } else { 4_000 }))
    }

    pub(super) fn warm_up(&self) -> Duration {
        (self.duration() / 8).min(Duration::from_millis(500))
    }

    pub(super) fn idle_connections(&self) -> u64 {
        self.idle_connections.unwrap_or(if self.quick { 300 } else { 3_000 }).max(1)
    }

    /// How long idle connections send nothing before their memory is read.
    pub(super) fn quiet(&self) -> Duration {
        Duration::from_millis(if self.quick { 300 } else { 2_000 })
    }

    /// In the order of the report.
    pub(super) fn cases(&self) -> Vec<Case> {
        let wanted = |case: &Case| self.scenarios.is_empty() || self.scenarios.contains(case);
        Case::ALL.iter().copied().filter(wanted).collect()
    }

    /// In the order of the report.
    pub(super) fn log_modes(&self) -> Vec<LogMode> {
        match self.logs {
            LogChoice::Both => vec![LogMode::Defaults, LogMode::LogsOff],
            LogChoice::On => vec![LogMode::Defaults],
            LogChoice::Off => vec![LogMode::LogsOff],
        }
    }
}
