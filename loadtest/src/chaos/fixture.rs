//! For tests: a run with invented cells.

use super::count::FaultCounts;
use super::fault::{CheckKind, Fault};
use super::record::{ChaosCell, ChaosRecord, ChaosSettings};
use super::system::ChaosSystem;
use crate::harness::record::RunRecord;

/// One row, with the repetitions of each system.
pub(super) fn chaos(row: (Fault, CheckKind), systems: &[(&str, &[FaultCounts])]) -> ChaosRecord {
    let ((fault, check), mut cells) = (row, Vec::new());
    for (system, all) in systems {
        cells.extend((1..).zip(*all).map(|(repeat, counts)| ChaosCell {
            repeat,
            fault,
            check,
            system: (*system).to_owned(),
            counts: counts.clone(),
        }));
    }
    let mut record = ChaosRecord {
        run: RunRecord::sample("loadtest chaos", "release", "envoy: not found"),
        settings: ChaosSettings {
            seconds: 20.0,
            fault_seconds: 10.0,
            rate: 400.0,
            long_lived: 30,
            patience: 8.0,
            repeat: 1,
            blackhole: "nftables".into(),
            rows: vec![row],
        },
        systems: systems.iter().map(|(name, _)| ChaosSystem::sample(name)).collect(),
        goals: Vec::new(),
        cells,
    };
    record.judge();
    record
}
