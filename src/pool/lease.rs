//! A session's claim on a backend. Dropping it gives it back, whatever way the session ends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::stats::SourceCount;
use super::{Backend, Evidence, Pool};
use crate::metrics::{ConnectFailure, EarlyEnd};

/// See the module.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    backend: Arc<Backend>,
    address: SocketAddr,
    /// Where it is counted by the local address that it dials from.
    source: Option<SourceCount>,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, backend: Arc<Backend>, address: SocketAddr) -> Self {
        Self { pool, backend, address, source: None }
    }

    /// Whom it claims.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Where to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
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
        if self.backend.failures_in_a_row() > 0 && self.is_current() {
            self.backend.clear_failures();
        }
        self.backend.stats.times.connect.observe(took);
        self.pool.times.connect.observe(took);
    }

    /// The connect failed. If that is the backend's fault, the keeper hears of it.
    pub fn failed(&self, reason: ConnectFailure) {
        self.backend.stats.failures.count(reason);
        if !reason.blames_backend() || !self.is_current() {
            return;
        }
        let in_a_row = self.backend.count_failure_in_a_row();
        let backend = Arc::clone(&self.backend);
        // Full: the keeper is behind, and the next piece says more than this one. Closed: the pool is going away.
        let _ = self.pool.evidence.try_send(Evidence { backend, address: self.address, in_a_row, reason });
    }

    /// The backend sent its first byte: it serves.
    pub fn answered(&self) {}

    /// The backend failed the session before its first byte, although the client had sent some.
    pub fn ended_early(&self, end: EarlyEnd) {
        tracing::trace!(backend = %self.backend.id, end = end.name(), "ended early");
    }

    /// Whether the backend is still where this session dials: what an old address does says nothing about the new one.
    fn is_current(&self) -> bool {
        self.backend.view().address == self.address
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut inner = self.pool.inner();
        inner.balancer.release(self.backend.slot);
        inner.sessions -= 1;
    }
}
