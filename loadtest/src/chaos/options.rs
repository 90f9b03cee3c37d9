//! The command line of `chaos`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::fault::{CheckKind, Fault};
use super::load::ClientLoad;
use super::network;
use crate::harness::HarnessArgs;
use crate::units;

/// Needs root, for network namespaces. Exit codes: 0 = everything was measured, 1 = a system failed, or bytes were wrong, 2 = bad
/// usage.
#[derive(Debug, Clone, Args)]
pub struct ChaosArgs {
    /// The faults [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// The active checks [default: tcp for all faults, and script for the faults that a connect does not show]
    #[arg(long, value_enum, value_delimiter = ',')]
    checks: Vec<CheckKind>,
    /// Seconds of load in a cell; half of them with the fault
    #[arg(long, short, default_value = "20")]
    pub(super) seconds: f64,
    /// New connections per second
    #[arg(long, default_value = "400", value_parser = units::rate)]
    pub(super) rate: f64,
    /// Long-lived connections, which send a message every 100 ms
    #[arg(long, default_value_t = 30)]
    pub(super) long_lived: u64,
    /// How long a client waits for an answer
    #[arg(long, default_value = "8s", value_parser = units::duration)]
    pub(super) patience: Duration,
    /// How many times everything is run
    #[arg(long, default_value_t = 1)]
    pub(super) repeat: u32,
    #[command(flatten)]
    pub(super) harness: HarnessArgs,
    /// Keep the configurations and logs of the systems in this directory
    #[arg(long, value_name = "DIR")]
    pub(super) keep: Option<PathBuf>,
}

impl ChaosArgs {
    /// Refuses values that would measure nothing.
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        let Self { seconds, rate, patience, long_lived, repeat, .. } = self;
        if !(1.0..=3600.0).contains(seconds) {
            bail!("--seconds {seconds}: a cell needs at least 1 s, and an hour is enough");
        }
        if *rate > 20_000.0 {
            bail!("--rate {rate}: at most 20000 per second, more would test the ports of this machine");
        }
        if patience.is_zero() || *patience > Duration::from_secs(600) {
            bail!("--patience: from 1ms to 10m");
        }
        if *repeat == 0 || *long_lived > 10_000 {
            bail!("--repeat has to be at least 1, and --long-lived at most 10000");
        }
        Ok(())
    }

    pub(super) fn load(&self) -> ClientLoad {
        let (rate, long_lived, patience) = (self.rate, self.long_lived, self.patience);
        ClientLoad {
            front: network::front(),
            rate,
            duration: Duration::from_secs_f64(self.seconds),
            long_lived,
            patience,
        }
    }

    /// Faults and checks, in the order of the report.
    pub(super) fn rows(&self) -> Vec<(Fault, CheckKind)> {
        let wanted = |fault: &Fault| self.faults.is_empty() || self.faults.contains(fault);
        let faults = Fault::ALL.iter().copied().filter(wanted);
        let rows = faults.flat_map(|fault| CheckKind::ALL.iter().map(move |&check| (fault, check)));
        rows.filter(|(fault, check)| match self.checks.as_slice() {
            [] => *check == CheckKind::Tcp || fault.hides_from_a_connect(),
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
        assert!(Fault::ALL.iter().all(|fault| rows.contains(&(*fault, CheckKind::Tcp))));
        assert_eq!(args("--faults kill,stop --checks script,tcp").rows().len(), 4);
        assert_eq!(args("--faults kill --checks script").rows(), [(Fault::Kill, CheckKind::Script)]);
    }

    #[test]
    fn the_defaults_offer_8000_connections_that_wait_8_seconds() {
        let args = args("");
        assert_eq!((args.rate * args.seconds, args.patience), (8_000.0, Duration::from_secs(8)));
        assert!(args.validate().is_ok());
    }

    #[test]
    fn values_that_measure_nothing_are_refused() {
        for line in ["--seconds 0.1", "--seconds nan", "--repeat 0", "--rate 50k", "--patience 0s"] {
            assert!(args(line).validate().is_err(), "{line}");
        }
    }
}
