//! Counts a connection that waits for a session, until it is used or dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::{Backend, Pool};

/// Counts of a backend's connections that were opened before a session needed them.
#[derive(Debug, Default)]
pub struct Preconnects {
    /// Waiting now.
    pub waiting: AtomicUsize,
    /// Opened in all.
    pub opened: AtomicU64,
    /// Given to sessions.
    pub used: AtomicU64,
}

/// One waiting connection.
#[derive(Debug)]
pub struct Preconnected {
    pool: Arc<Pool>,
    backend: Arc<Backend>,
    address: SocketAddr,
}

impl Preconnected {
    /// Counts one that waits.
    pub fn new(pool: &Arc<Pool>, backend: &Arc<Backend>, address: SocketAddr) -> Self {
        backend.stats.preconnects.waiting.fetch_add(1, Relaxed);
        Self { pool: Arc::clone(pool), backend: Arc::clone(backend), address }
    }

    /// The address that it is connected to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it belongs to that pool.
    pub fn is_of(&self, pool: &Pool) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.pool), pool)
    }

    /// Counts it as given to a session.
    pub fn used(self) {
        self.backend.stats.preconnects.used.fetch_add(1, Relaxed);
    }
}

impl Drop for Preconnected {
    fn drop(&mut self) {
        self.backend.stats.preconnects.waiting.fetch_sub(1, Relaxed);
    }
}
