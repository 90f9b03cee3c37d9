//! Counters of what sessions observed at a backend. The keeper reads them after a failure, so a session that succeeds sends
//! no message.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::stats::Counts;
use crate::health::{Observation, ObservationCounts};
use crate::metrics::Detection;

/// The counters. Relaxed: each stands for itself, and a slightly old value is good enough.
#[derive(Debug, Default)]
pub(super) struct BackendRecord {
    connects_in_a_row: AtomicU32,
    early_in_a_row: AtomicU32,
    failed_connects: AtomicU64,
    early_ends: AtomicU64,
    connected: AtomicU64,
    answered: AtomicU64,
}

impl BackendRecord {
    pub(super) fn connected(&self) {
        self.connected.fetch_add(1, Relaxed);
        reset(&self.connects_in_a_row);
    }

    pub(super) fn answered(&self) {
        self.answered.fetch_add(1, Relaxed);
        self.forgive();
    }

    pub(super) fn failed(&self, observation: Observation) {
        let (in_a_row, all) = match observation {
            Observation::ConnectFailed(_) => (&self.connects_in_a_row, &self.failed_connects),
            Observation::EndedEarly(_) | Observation::EndedUnasked(_) => (&self.early_in_a_row, &self.early_ends),
            Observation::Succeeded => return,
        };
        in_a_row.fetch_add(1, Relaxed);
        all.fetch_add(1, Relaxed);
    }

    /// Whether the last session with a result ended before its first byte.
    pub(super) fn is_doubtful(&self) -> bool {
        self.early_in_a_row.load(Relaxed) > 0
    }

    /// Resets the failures in a row.
    pub(super) fn forgive(&self) {
        reset(&self.connects_in_a_row);
        reset(&self.early_in_a_row);
    }

    pub(super) fn tally(&self) -> ObservationCounts {
        ObservationCounts {
            connects_in_a_row: self.connects_in_a_row.load(Relaxed),
            early_in_a_row: self.early_in_a_row.load(Relaxed),
            failed_connects: self.failed_connects.load(Relaxed),
            early_ends: self.early_ends.load(Relaxed),
            connected: self.connected.load(Relaxed),
            answered: self.answered.load(Relaxed),
        }
    }
}

/// Writes only if there is something to reset: usually it is only a read.
fn reset(cell: &AtomicU32) {
    if cell.load(Relaxed) != 0 {
        cell.store(0, Relaxed);
    }
}

/// Counts about a pool's outliers. Written by the keeper.
#[derive(Debug, Default)]
pub struct OutlierCounts {
    detected: Counts<Detection, { Detection::ALL.len() }>,
    refused: AtomicU64,
}

impl OutlierCounts {
    /// Counts one.
    pub fn detect(&self, detection: Detection) {
        self.detected.count(detection);
    }

    /// The count.
    pub fn detected(&self, detection: Detection) -> u64 {
        self.detected.read(detection)
    }

    /// Counts one that was not ejected, because the pool could not do without it.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// The count.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}
