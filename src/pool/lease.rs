//! A session's claim on a backend. Dropping it gives it back, whatever way the session ends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use super::stats::SourceCount;
use super::{Backend, Pool, SessionReport};
use crate::config::OutlierMode;
use crate::health::{Failing, Observation};
use crate::metrics::{ConnectFailure, EarlyEnd};

/// See the module.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    backend: Arc<Backend>,
    address: SocketAddr,
    /// Whether it is counted by its address, too.
    has_place: bool,
    /// Where it is counted by the local address that it dials from.
    source: Option<SourceCount>,
    /// In a box: next to none of the leases is one.
    trial: Option<Box<Trial>>,
}

/// The session is to show whether an ejected backend works again.
#[derive(Debug)]
pub(super) struct Trial {
    /// No two trials of a backend have the same.
    pub(super) number: u64,
    /// What it has to do well.
    pub(super) failing: Failing,
    /// Whether the keeper has been told. Relaxed: written and read by the one session that holds the lease.
    pub(super) over: AtomicBool,
}

/// What was picked and is counted, for whoever is going to hold it.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) backend: Arc<Backend>,
    pub(super) address: SocketAddr,
    pub(super) trial: Option<Trial>,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, claim: Claim) -> Self {
        let Claim { backend, address, trial } = claim;
        let has_place = backend.has_name();
        if has_place {
            backend.places.enter(address);
        }
        Self { pool, backend, address, has_place, source: None, trial: trial.map(Box::new) }
    }

    /// Whom it claims.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Where to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the backend is ejected and this session is to show whether it works again.
    pub fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Whether the backend failed after the connect when that was last tried, and something is done about such.
    pub fn is_doubtful(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.failing == Failing::Exchange)
            || self.backend.record.is_doubtful() && self.pool.settings().resilience.outliers.mode == OutlierMode::Eject
    }

    /// It is dialled from this local address of the pool's `sources` now.
    pub fn set_source(&mut self, address: IpAddr) {
        self.source = None;
        self.source = Some(self.backend.stats.sources.enter(address));
    }

    /// A connect begins.
    pub fn dialled(&self) {
        self.backend.stats.connects.fetch_add(1, Relaxed);
    }

    /// The connect succeeded.
    pub fn connected(&self, took: Duration) {
        if self.is_current() {
            self.backend.record.connected();
            if self.trial.as_ref().is_some_and(|trial| trial.failing == Failing::Connect) {
                self.testify(Observation::Succeeded);
            }
        }
        self.backend.stats.times.connect.observe(took);
        self.pool.times.connect.observe(took);
    }

    /// The connect failed. If that is the backend's fault, the keeper hears of it.
    pub fn failed(&self, reason: ConnectFailure) {
        self.backend.stats.failures.count(reason);
        let unasked = match reason {
            // Somebody accepted it, or the kernel would have refused: to connect once more disproves nothing.
            ConnectFailure::Reset => Some(EarlyEnd::Reset),
            ConnectFailure::Closed => Some(EarlyEnd::Closed),
            _ => None,
        };
        match unasked {
            Some(end) if self.pool.settings().resilience.outliers.early_ends => {
                self.accuse(Observation::EndedUnasked(end))
            }
            _ if reason.blames_backend() => self.accuse(Observation::ConnectFailed(reason)),
            _ => {}
        }
    }

    /// The backend sent its first byte: it serves.
    pub fn answered(&self) {
        if !self.is_current() {
            return;
        }
        self.backend.record.answered();
        if self.trial.is_some() {
            self.testify(Observation::Succeeded);
        }
    }

    /// The backend failed the session before its first byte, although the client had sent some.
    pub fn ended_early(&self, end: EarlyEnd) {
        self.backend.stats.early_ends.count(end);
        if self.pool.settings().resilience.outliers.early_ends {
            self.accuse(Observation::EndedEarly(end));
        }
    }

    fn accuse(&self, observation: Observation) {
        if !self.is_current() {
            return;
        }
        if self.pool.settings().resilience.outliers.mode == OutlierMode::Off {
            // Another address of its name may work.
            if observation.failing() == Some(Failing::Connect) && self.backend.has_name() {
                self.testify(observation);
            }
            return;
        }
        self.backend.record.failed(observation);
        self.testify(observation);
    }

    /// Tells the keeper. A trial has one verdict: the first.
    fn testify(&self, observation: Observation) {
        let trial = self.trial.as_ref().filter(|trial| !trial.over.load(Relaxed));
        if self.trial.is_some() && trial.is_none() && observation == Observation::Succeeded {
            return;
        }
        let report = SessionReport {
            backend: Arc::clone(&self.backend),
            address: self.address,
            observation,
            trial: trial.map(|trial| trial.number),
        };
        // Full: the keeper is behind, and the counters say all that this one would; a trial is offered again. Closed: the
        // pool is going away.
        let told = self.pool.observation.try_send(report).is_ok();
        if let Some(trial) = trial.filter(|_| told) {
            trial.over.store(true, Relaxed);
        }
    }

    /// Whether the backend is still where this session dials: what an old address does says nothing about the new one.
    fn is_current(&self) -> bool {
        self.backend.is_at(self.address)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let undecided = self.trial.as_ref().filter(|trial| !trial.over.load(Relaxed)).map(|trial| trial.number);
        if self.has_place {
            self.backend.places.leave(self.address);
        }
        self.pool.give_back(&self.backend, undecided);
    }
}
