//! The command line of `chaos`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::fault::{Check, Fault};
use crate::compare::programs::Programs;
use crate::{results, units};

/// Needs root, for network namespaces. Exit codes: 0 = all was measured, 1 = a system failed, or bytes were wrong, 2 = bad usage.
#[derive(Debug, Clone, Args)]
pub struct ChaosArgs {
    /// What goes wrong [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(super) faults: Vec<Fault>,
    /// What active checks look at [default: tcp for all faults, script too for those that a connect does not show]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(super) checks: Vec<Check>,
    /// Names of systems [default: all that are found]
    #[arg(long, value_delimiter = ',')]
    pub(super) systems: Vec<String>,
    /// Seconds of load in a cell; half of them with the fault
    #[arg(long, short, default_value = "20")]
    pub(super) seconds: f64,
    /// New connections per second
    #[arg(long, default_value = "400", value_parser = units::rate)]
    pub(super) rate: f64,
    /// Connections that stay, with a message every 100 ms
    #[arg(long, default_value_t = 30)]
    pub(super) long_lived: u64,
    /// How long a client waits for an answer
    #[arg(long, default_value = "8s", value_parser = units::duration)]
    pub(super) patience: Duration,
    /// How often everything is done
    #[arg(long, default_value_t = 1)]
    pub(super) repeat: u32,
    #[command(flatten)]
    pub(super) programs: Programs,
    /// Directory for `chaos.json`, written after every cell [default: chaos/ in cargo's target directory]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Keep the systems' configurations and logs in this directory
    #[arg(long, value_name = "DIR")]
    pub(super) keep: Option<PathBuf>,
    /// Also write the tables with machine, versions and command into this file, in a section of their own
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = results::PATH)]
    pub(super) write_results: Option<PathBuf>,
}

impl ChaosArgs {
    /// Refuses what would measure nothing.
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        if !(1.0..=3600.0).contains(&self.seconds) {
            bail!("--seconds {}: a cell needs at least 1 s, and an hour is enough", self.seconds);
        }
        if self.rate > 20_000.0 {
            bail!("--rate {}: at most 20000 per second, or the ports of this machine are what is tested", self.rate);
        }
        if self.patience.is_zero() || self.patience > Duration::from_secs(600) {
            bail!("--patience: from 1ms to 10m");
        }
        if self.repeat == 0 {
            bail!("--repeat 0 would measure nothing");
        }
        if self.long_lived > 10_000 {
            bail!("--long-lived {}: at most 10000", self.long_lived);
        }
        Ok(())
    }

    /// Faults and checks, in the order of the report.
    pub(super) fn rows(&self) -> Vec<(Fault, Check)> {
        let wanted = |fault: &Fault| self.faults.is_empty() || self.faults.contains(fault);
        let rows = Fault::ALL.into_iter().filter(wanted).flat_map(|fault| Check::ALL.map(|check| (fault, check)));
        rows.filter(|(fault, check)| match self.checks.as_slice() {
            [] => *check == Check::Tcp || fault.hides_from_a_connect(),
            checks => checks.contains(check),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(line: &str) -> ChaosArgs {
        match Cli::try_parse_from(format!("loadtest chaos {line}").split_whitespace()).unwrap().command {
            Command::Chaos(args) => *args,
            _ => unreachable!("the line says chaos"),
        }
    }

    #[test]
    fn all_faults_have_a_row_and_those_that_hide_have_two() {
        let rows = args("").rows();
        assert_eq!(rows.len(), 9 + 4);
        assert!(Fault::ALL.iter().all(|fault| rows.contains(&(*fault, Check::Tcp))));
        assert_eq!(args("--faults kill,stop --checks script,tcp").rows().len(), 4);
        assert_eq!(args("--faults kill --checks script").rows(), [(Fault::Kill, Check::Script)]);
    }

    #[test]
    fn a_cell_offers_what_the_issue_counts() {
        let args = args("");
        assert_eq!((args.rate * args.seconds, args.patience), (8_000.0, Duration::from_secs(8)));
        assert!(args.validate().is_ok());
    }

    #[test]
    fn what_measures_nothing_is_refused() {
        for line in ["--seconds 0.1", "--seconds nan", "--repeat 0", "--rate 50k", "--patience 0s"] {
            assert!(args(line).validate().is_err(), "{line}");
        }
    }
}
