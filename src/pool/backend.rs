//! One instance that serves: its identity and everything that is kept about it for as long as that lasts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use super::Preconnects;
use super::stats::{Bytes, Ended, Failures, Sources, Times};
use crate::health::Report;
use crate::standing::{Facts, Standing};

/// See the module. The keeper writes the view and the report, sessions write the counters, everybody reads.
#[derive(Debug)]
pub struct Backend {
    /// Its identity.
    pub id: Arc<str>,
    /// Its number in the pool's balancer for as long as it is a member.
    pub(super) slot: usize,
    view: ArcSwap<View>,
    last_report: Mutex<Option<Report>>,
    /// Connects by sessions that failed in a row, by the backend's fault.
    failures_in_a_row: AtomicU32,
    /// What is counted about its sessions.
    pub stats: BackendStats,
}

/// What is known about a backend at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// Where new sessions go.
    pub address: SocketAddr,
    /// Its share.
    pub weight: u16,
    /// By who said them.
    pub facts: Facts,
    /// What they come to.
    pub standing: Standing,
    /// Why, for people.
    pub reason: Arc<str>,
    /// When the standing became this one.
    pub since: SystemTime,
}

/// Counters that belong to the identity.
#[derive(Debug)]
pub struct BackendStats {
    /// Ended sessions.
    pub ended: Ended,
    /// Relayed bytes.
    pub bytes: Bytes,
    /// Connects begun.
    pub connects: AtomicU64,
    /// Connects that failed.
    pub failures: Failures,
    /// Sessions by the local address that they dial from.
    pub sources: Sources,
    /// Connections opened ahead of time.
    pub preconnects: Preconnects,
    /// Histograms.
    pub times: Times,
    /// Probes that passed.
    pub probes_passed: AtomicU64,
    /// Probes that failed.
    pub probes_failed: AtomicU64,
    /// Changes of standing.
    pub changes: AtomicU64,
}

impl Backend {
    pub(super) fn new(id: Arc<str>, slot: usize, workers: usize, view: View) -> Self {
        Self {
            id,
            slot,
            view: ArcSwap::from_pointee(view),
            last_report: Mutex::new(None),
            failures_in_a_row: AtomicU32::new(0),
            stats: BackendStats {
                ended: Ended::default(),
                bytes: Bytes::new(workers),
                connects: AtomicU64::new(0),
                failures: Failures::default(),
                sources: Sources::default(),
                preconnects: Preconnects::default(),
                times: Times::default(),
                probes_passed: AtomicU64::new(0),
                probes_failed: AtomicU64::new(0),
                changes: AtomicU64::new(0),
            },
        }
    }

    /// As it is now.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    pub(super) fn show(&self, view: View) {
        self.view.store(Arc::new(view));
    }

    /// Whether sessions may come to it in the ordinary way.
    pub fn wants_sessions(&self) -> bool {
        let view = self.view.load();
        view.standing == Standing::Up && view.weight > 0
    }

    /// The last probe's report.
    pub fn last_report(&self) -> Option<Report> {
        self.last_report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For the keeper: keeps and counts a report; `None` forgets the last one (the address changed).
    pub fn keep_report(&self, report: Option<Report>) {
        if let Some(report) = &report {
            let cell = if report.result.passed { &self.stats.probes_passed } else { &self.stats.probes_failed };
            cell.fetch_add(1, Relaxed);
        }
        *self.last_report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// A session's connect succeeded, or the keeper gives it a new chance.
    pub fn clear_failures(&self) {
        // Only written when there is something to clear: the common case stays a read.
        if self.failures_in_a_row.load(Relaxed) != 0 {
            self.failures_in_a_row.store(0, Relaxed);
        }
    }

    /// Connects that failed in a row.
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row.load(Relaxed)
    }

    pub(super) fn count_failure_in_a_row(&self) -> u32 {
        self.failures_in_a_row.fetch_add(1, Relaxed).saturating_add(1)
    }
}
