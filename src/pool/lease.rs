//! A session's claim on a backend, and its reports about it.
//! Held by a session while it dials and relays.
//! Dropping it gives the claim back, in whatever way the session ends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use super::stats::SourceCount;
use super::{Backend, Pool, SessionReport};
use crate::balance::Timed;
use crate::config::OutlierMode;
use crate::health::{Failing, Observation};
use crate::metrics::{ConnectFailure, EarlyEnd};

/// A claim on a backend.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    backend: Arc<Backend>,
    address: SocketAddr,
    /// Counts it by the local address from which it dials.
    source: Option<SourceCount>,
    /// Boxed: see what an idle session costs in `proxy`.
    rare: Option<Box<Rare>>,
}

/// What few leases have.
#[derive(Debug)]
struct Rare {
    trial: Option<Trial>,
    /// Whether `backend.by_address` counts it.
    has_place: bool,
}

/// The session shows whether an ejected backend works again.
#[derive(Debug)]
pub(super) struct Trial {
    /// Unique among the trials of a backend.
    pub(super) number: u64,
    /// What has to succeed.
    pub(super) failing: Failing,
    /// Whether the keeper has the result. Relaxed: only the session that holds the lease uses it.
    pub(super) over: AtomicBool,
}

/// A backend that is picked and counted, for the session that will hold it.
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
            backend.by_address.enter(address);
        }
        let rare = (has_place || trial.is_some()).then(|| Box::new(Rare { trial, has_place }));
        Self { pool, backend, address, source: None, rare }
    }

    fn trial(&self) -> Option<&Trial> {
        self.rare.as_ref()?.trial.as_ref()
    }

    /// The pool that it was picked in.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The address to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the backend is ejected, and this session shows whether it works again.
    pub fn is_trial(&self) -> bool {
        self.trial().is_some()
    }

    /// Whether the backend failed after its last connect, and the pool ejects for that.
    pub fn is_doubtful(&self) -> bool {
        self.trial().is_some_and(|trial| trial.failing == Failing::Exchange)
            || self.backend.record.is_doubtful() && self.pool.settings().resilience.outliers.mode == OutlierMode::Eject
    }

    /// Counts the dial from this local address of the pool's `sources`.
    pub fn set_source(&mut self, address: IpAddr) {
        self.source = None;
        self.source = Some(self.backend.stats.sources.enter(address));
    }

    /// Counts a connect that begins.
    pub fn dialled(&self) {
        self.backend.stats.connects.fetch_add(1, Relaxed);
    }

    /// Reports that the connect succeeded.
    pub fn connected(&self, took: Duration) {
        if self.is_current() {
            self.backend.record.connected();
            self.pool.timed(&self.backend, Timed::Connect, took);
            if self.trial().is_some_and(|trial| trial.failing == Failing::Connect) {
                self.report(Observation::Succeeded);
            }
        }
        self.backend.stats.times.connect.observe(took);
        self.pool.times.connect.observe(took);
    }

    /// Reports that nothing answered the connect for so long. [`Self::failed`] follows.
    pub fn waited(&self, took: Duration) {
        if self.is_current() {
            self.pool.timed(&self.backend, Timed::Connect, took);
        }
    }

    /// Reports that the connect failed. The keeper learns of it if it is the backend's fault.
    pub fn failed(&self, reason: ConnectFailure) {
        self.backend.stats.failures.count(reason);
        if reason == ConnectFailure::NoResources {
            self.pool.lacks_resources();
        }
        let unasked = match reason {
            // The connection was accepted, or the kernel would have refused it. So another connect that succeeds proves
            // nothing.
            ConnectFailure::Reset => Some(EarlyEnd::Reset),
            ConnectFailure::Closed => Some(EarlyEnd::Closed),
            _ => None,
        };
        match unasked {
            Some(end) if self.pool.settings().resilience.outliers.early_ends => {
                self.report_failure(Observation::EndedUnasked(end))
            }
            _ if reason.blames_backend() => self.report_failure(Observation::ConnectFailed(reason)),
            _ => {}
        }
    }

    /// Reports the first byte of the backend, and what it took since the first byte to it, or since the connect if it spoke
    /// first.
    pub fn answered(&self, took: Duration) {
        if !self.is_current() {
            return;
        }
        self.backend.record.answered();
        self.pool.timed(&self.backend, Timed::FirstByte, took);
        if self.trial().is_some() {
            self.report(Observation::Succeeded);
        }
    }

    /// Reports that the backend failed the session before its first byte, although the client had sent some.
    pub fn ended_early(&self, end: EarlyEnd) {
        self.backend.stats.early_ends.count(end);
        if self.pool.settings().resilience.outliers.early_ends {
            self.report_failure(Observation::EndedEarly(end));
        }
    }

    fn report_failure(&self, observation: Observation) {
        if !self.is_current() {
            return;
        }
        if self.pool.settings().resilience.outliers.mode == OutlierMode::Off {
            // Another address of its name may work, so the keeper needs to know.
            if observation.failing() == Some(Failing::Connect) && self.backend.has_name() {
                self.report(observation);
            }
            return;
        }
        self.backend.record.failed(observation);
        self.report(observation);
    }

    /// Sends a report to the keeper. A trial has one result: the first.
    fn report(&self, observation: Observation) {
        let trial = self.trial().filter(|trial| !trial.over.load(Relaxed));
        if self.trial().is_some() && trial.is_none() && observation == Observation::Succeeded {
            return;
        }
        let report = SessionReport {
            backend: Arc::clone(&self.backend),
            address: self.address,
            observation,
            trial: trial.map(|trial| trial.number),
        };
        // Full: the keeper is behind; the counters hold what this report would say, and a trial is offered again. Closed:
        // the pool is going away.
        let sent = self.pool.reports.try_send(report).is_ok();
        if let Some(trial) = trial.filter(|_| sent) {
            trial.over.store(true, Relaxed);
        }
    }

    /// Whether new sessions still dial this address. An old address says nothing about the new one.
    fn is_current(&self) -> bool {
        self.backend.is_at(self.address)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let undecided = self.trial().filter(|trial| !trial.over.load(Relaxed)).map(|trial| trial.number);
        if self.rare.as_ref().is_some_and(|rare| rare.has_place) {
            self.backend.by_address.leave(self.address);
        }
        self.pool.give_back(&self.backend, undecided);
    }
}
