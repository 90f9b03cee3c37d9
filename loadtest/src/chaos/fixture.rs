//! For tests: a run with made-up cells.

use super::count::Counts;
use super::fault::{Check, Fault};
use super::record::{Cell, Chaos, Settings};
use super::system::Subject;
use crate::compare::machine::Machine;

/// One row, with the repetitions of each system.
pub(super) fn chaos(row: (Fault, Check), systems: &[(&str, &[Counts])]) -> Chaos {
    let cell = |system: &str, index: usize, counts: &Counts| Cell {
        repeat: index as u32 + 1,
        fault: row.0,
        check: row.1,
        system: system.to_owned(),
        counts: counts.clone(),
    };
    let cells =
        systems.iter().flat_map(|(name, all)| all.iter().enumerate().map(|(index, one)| cell(name, index, one)));
    let mut chaos = Chaos {
        date: "2026-01-02".into(),
        command: "loadtest chaos".into(),
        profile: "release".into(),
        machine: Machine {
            cpu: "Some CPU".into(),
            cpus: 2,
            memory: 4.0,
            kernel: "6.18".into(),
            load: "0 0 0".into(),
            background: 0.0,
        },
        settings: Settings {
            seconds: 20.0,
            fault_seconds: 10.0,
            rate: 400.0,
            long_lived: 30,
            patience: 8.0,
            repeat: 1,
            blackhole: "nftables".into(),
            rows: vec![row],
        },
        systems: systems.iter().map(|(name, _)| Subject::sample(name)).collect(),
        missing: vec!["envoy: not found".into()],
        warnings: Vec::new(),
        goals: Vec::new(),
        cells: cells.collect(),
    };
    chaos.judge();
    chaos
}
