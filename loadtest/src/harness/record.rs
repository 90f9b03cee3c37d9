//! The part of a record that `compare` and `chaos` share: when, how and where the figures were made.

use std::io;

use serde::{Deserialize, Serialize};

use super::build;
use super::machine::{Machine, today};

/// When, how and where the figures were made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    /// Year-month-day, UTC.
    pub(crate) date: String,
    pub(crate) command: String,
    /// The cargo profile that this program was built in.
    pub(crate) profile: String,
    pub(crate) machine: Machine,
    /// Systems that were not measured, with the reason.
    pub(crate) missing: Vec<String>,
    /// Reasons not to trust the figures.
    pub(crate) warnings: Vec<String>,
}

impl RunRecord {
    /// Looks at the machine, which takes a second, and prints what is missing and what disturbs.
    pub(crate) fn begin(missing: Vec<String>, further_warning: Option<&str>) -> io::Result<Self> {
        let machine = Machine::look()?;
        let profile = build::profile();
        let mut warnings: Vec<_> = machine.warning("before the start").into_iter().collect();
        if profile == "debug" {
            warnings
                .push("built without optimisation: the load generator, and an Evenkeel built with it, are slow".into());
        }
        warnings.extend(further_warning.map(str::to_owned));
        missing.iter().for_each(|line| eprintln!("not measured: {line}"));
        warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        Ok(Self { date: today(), command: build::command_line(), profile, machine, missing, warnings })
    }

    /// Looks at the machine again while nothing of ours runs. What uses its CPUs now may have used them before.
    pub(crate) fn look_again(&mut self, when: &str) -> io::Result<()> {
        self.warnings.extend(Machine::look()?.warning(when));
        Ok(())
    }

    /// The facts for the reader. Each system is a name and a version; a system without a version is left out.
    pub(crate) fn facts<'a>(&self, systems: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(&'static str, String)> {
        let Machine { cpu, cpus, memory, kernel, load, background } = &self.machine;
        let versions = systems.filter(|(_, version)| !version.is_empty());
        let versions: Vec<_> = versions.map(|(name, version)| format!("{name} {version}")).collect();
        vec![
            ("date", self.date.clone()),
            ("command", format!("`{}` (profile `{}`)", self.command, self.profile)),
            ("machine", format!("{cpus} × {cpu}, {memory:.0} GiB, Linux {kernel}")),
            ("before the start", format!("load {load}, {:.1} % of the CPUs in use", background * 100.0)),
            ("versions", versions.join(", ")),
        ]
    }
}

#[cfg(test)]
impl RunRecord {
    pub(crate) fn sample(command: &str, profile: &str, missing: &str) -> Self {
        let machine = Machine {
            cpu: "Some CPU".into(),
            cpus: 2,
            memory: 24.0,
            kernel: "6.18".into(),
            load: "0.00 0.01 0.02".into(),
            background: 0.0,
        };
        let (date, missing) = ("2026-01-01".into(), vec![missing.into()]);
        Self { date, command: command.into(), profile: profile.into(), machine, missing, warnings: Vec::new() }
    }
}
