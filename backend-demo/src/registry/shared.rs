//! The state behind its lock, and who is told when it changes.
//!
//! One mutex, held for a few map operations and never across an await; everybody who waits for anything waits on one
//! `watch`, wakes at each change and looks whether it was meant.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{fault::Fault, listen::Connections, state::State};

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changes: watch::Sender<()>,
    fault: watch::Sender<Option<Fault>>,
    waiting: AtomicUsize,
    requests: AtomicU64,
    pub(super) connections: Arc<Connections>,
    most_connections: AtomicUsize,
}

/// From one address, as an agent takes by default.
const MOST_CONNECTIONS: usize = 200;

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State::new()),
            changes: watch::Sender::new(()),
            fault: watch::Sender::new(None),
            waiting: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            connections: Arc::default(),
            most_connections: AtomicUsize::new(MOST_CONNECTIONS),
        }
    }

    /// Looks, after what time alone has changed was applied.
    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        let mut state = self.lock();
        state.expire(Instant::now());
        look(&state)
    }

    /// Changes, and tells everybody who waits.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = Instant::now();
        let mut state = self.lock();
        state.expire(now);
        let result = change(&mut state, now);
        drop(state);
        self.changes.send_replace(());
        result
    }

    pub(super) fn clear(&self) {
        self.change(|state, _| *state = State::new());
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Lets time do its work: who waits learns of a TTL that ran out. Never ends.
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

    /// Counts the caller among those who wait until the result is dropped.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No change stops half-way in a harmful manner, and a development registry had better go on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
