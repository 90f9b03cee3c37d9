//! The records behind a lock, and the notification of changes.
//!
//! The one mutex is held for a few map operations and never across an await. All waiting tasks use one `watch`, wake at each change,
//! and look whether it concerns them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{fault::Fault, listen::ConnectionCounts, state::Records};

#[derive(Debug)]
pub(super) struct SharedRecords {
    state: Mutex<Records>,
    changes: watch::Sender<()>,
    fault: watch::Sender<Option<Fault>>,
    waiting: AtomicUsize,
    requests: AtomicU64,
    pub(super) connections: Arc<ConnectionCounts>,
    most_connections: AtomicUsize,
}

/// The default limit of an agent for one address.
const MOST_CONNECTIONS: usize = 200;

impl SharedRecords {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(Records::new()),
            changes: watch::Sender::new(()),
            fault: watch::Sender::new(None),
            waiting: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            connections: Arc::default(),
            most_connections: AtomicUsize::new(MOST_CONNECTIONS),
        }
    }

    /// Applies the time, then reads.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Records) -> T) -> T {
        let mut state = self.lock();
        state.expire(Instant::now());
        look(&state)
    }

    /// Applies the time, then a change; wakes all waiting tasks.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Records, Instant) -> T) -> T {
        let now = Instant::now();
        let mut state = self.lock();
        state.expire(now);
        let result = change(&mut state, now);
        drop(state);
        self.changes.send_replace(());
        result
    }

    pub(super) fn clear(&self) {
        self.change(|state, _| *state = Records::new());
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Applies the time when a TTL expires, and wakes waiting tasks. Never returns.
    pub(super) async fn keep_time(&self) {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let (before, after, next) = {
                let mut state = self.lock();
                let before = state.index();
                state.expire(Instant::now());
                (before, state.index(), state.next_deadline())
            };
            if after != before {
                self.changes.send_replace(());
                continue;
            }
            let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                _ = changes.changed() => {}
            }
        }
    }

    pub(super) fn inject(&self, fault: Option<Fault>) {
        self.fault.send_replace(fault);
    }

    pub(super) fn faults(&self) -> watch::Receiver<Option<Fault>> {
        self.fault.subscribe()
    }

    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn limit_connections(&self, most: usize) {
        self.most_connections.store(most, Ordering::Relaxed);
    }

    pub(super) fn most_connections(&self) -> usize {
        self.most_connections.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Counts a waiting query until the result is dropped.
    pub(super) fn wait(&self) -> WaitingGuard<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        WaitingGuard(&self.waiting)
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        // A panic leaves the records usable, and a development registry should go on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct WaitingGuard<'a>(&'a AtomicUsize);

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
