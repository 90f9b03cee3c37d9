//! The count of a connection that waits for a session, from when it is opened until it is used or dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::{Backend, Pool};

/// What is counted about a backend's connections that were opened ahead of time.
#[derive(Debug, Default)]
pub struct Preconnects {
    /// Waiting now.
    pub waiting: AtomicUsize,
    /// Opened so far.
    pub opened: AtomicU64,
    /// Given to sessions so far.
    pub used: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub struct Preconnected {
    pool: Arc<Pool>,
    backend: Arc<Backend>,
    address: SocketAddr,
}

impl Preconnected {
    /// One more waits.
    pub fn new(pool: &Arc<Pool>, backend: &Arc<Backend>, address: SocketAddr) -> Self {
        backend.stats.preconnects.waiting.fetch_add(1, Relaxed);
        Self { pool: Arc::clone(pool), backend: Arc::clone(backend), address }
    }

    /// Where it leads.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is one of that pool's.
    pub fn is_of(&self, pool: &Pool) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.pool), pool)
    }

    /// A session has it now.
    pub fn used(self) {
        self.backend.stats.preconnects.used.fetch_add(1, Relaxed);
    }
}

impl Drop for Preconnected {
    fn drop(&mut self) {
        self.backend.stats.preconnects.waiting.fetch_sub(1, Relaxed);
    }
}
