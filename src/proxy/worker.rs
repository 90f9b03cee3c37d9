//! What the sessions of one worker share, and what is seen of it from outside. `threads` makes it, and gives it its jobs.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use super::idle_limits::IdleLimits;
use super::late_keepalive::LateKeepalive;
use super::listener::Listener;
use super::live::{Live, SessionList};
use super::relay::{PipeCounts, RelayContext, RingCounts};
use super::stock::Stock;
use crate::pool::Pool;

/// What the sessions of one worker share.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) relay_context: RelayContext,
    pub(super) stock: Stock,
    /// The limits of relays, for each pool that has had sessions here.
    pub(super) idle_limits: IdleLimits,
    /// Connections that get keepalive later.
    pub(super) late_keepalive: LateKeepalive,
    pub(super) shared: Arc<WorkerShared>,
}

impl Worker {
    pub(super) fn enlist(
        &self,
        id: u64,
        front: (Arc<Listener>, Option<Arc<Pool>>),
        peer: SocketAddr,
        began: Instant,
    ) -> Arc<Live> {
        self.shared.list.enlist(id, front, peer, began)
    }

    pub(super) fn renew(&self, pool: &Arc<Pool>) {
        if self.idle_limits.renew(pool) {
            self.shared.list.wake(pool);
        }
    }

    pub(super) fn random(&self) -> fastrand::Rng {
        fastrand::Rng::new()
    }
}

/// A session's entry in its worker's list and load, until it is dropped.
pub(super) struct SessionGuard {
    worker: Rc<Worker>,
    place: u32,
}

impl SessionGuard {
    pub(super) fn new(worker: Rc<Worker>, live: &Live, load: Load) -> Self {
        load.stay();
        Self { worker, place: live.place() }
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.worker.shared.list.remove(self.place);
        self.worker.shared.load.fetch_sub(1, Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct WorkerShared {
    /// Sessions here, or on their way here.
    pub(super) load: AtomicUsize,
    pub(super) list: SessionList,
    pub(super) pipes: Arc<PipeCounts>,
    pub(super) ring: Arc<RingCounts>,
}

/// Counts a session in its worker's load until it is dropped.
#[derive(Debug)]
pub(super) struct Load(Option<Arc<WorkerShared>>);

impl Load {
    pub(super) fn new(shared: &Arc<WorkerShared>) -> Self {
        shared.load.fetch_add(1, Relaxed);
        Self(Some(Arc::clone(shared)))
    }

    /// Keeps the count; the worker's [`SessionGuard`] takes it off.
    fn stay(mut self) {
        self.0 = None;
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.load.fetch_sub(1, Relaxed);
        }
    }
}
