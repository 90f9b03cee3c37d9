//! Accepts connections: waits until the socket is readable, takes a slot, accepts in bounded batches, and gives each
//! connection to the worker with the fewest sessions.
//! Started by `worker`.
//! No error ends the loop. At a limit, clients wait in the kernel's backlog.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::warn;

use super::{Accepted, Listener, PROBE_WAIT, SessionSlot};
use crate::metrics::AcceptFailure;
use crate::pace::Pace;
use crate::pool::Pool;
use crate::proxy::socket::{Acceptor, accept_failure};

/// Connections accepted in a row; then the worker's sessions get a turn.
const ACCEPT_BATCH: usize = 64;

/// Connections accepted after a stop: the default length of the backlog. Without a bound, clients that keep coming would
/// keep the process.
const BACKLOG_LIMIT: usize = 4_096;

/// The pause after an error that would come again at once.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `stop`, then what waits in the backlog, then closes the socket.
pub(in crate::proxy) async fn accept(
    acceptor: Acceptor,
    listener: Arc<Listener>,
    hand_over: impl Fn(Accepted),
    stop: CancellationToken,
    tracked: TaskTrackerToken,
) {
    let mut accept_loop =
        AcceptLoop { listener, hand_over, error_pace: Pace::new(Duration::from_secs(5)), waited_for: Vec::new() };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = accept_loop.pools_settle() => {}
        }
        let step = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            step = accept_loop.step(&acceptor) => step,
        };
        if let Some(pause) = step {
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(pause) => {}
            }
        }
    }
    accept_loop.take_the_rest(acceptor).await;
    drop(tracked);
}

struct AcceptLoop<F> {
    listener: Arc<Listener>,
    /// Gives a connection to a worker.
    hand_over: F,
    error_pace: Pace,
    /// Pools for whose first probes it has waited, while they exist.
    waited_for: Vec<Weak<Pool>>,
}

impl<F: Fn(Accepted)> AcceptLoop<F> {
    /// Waits until the pool that all sessions go to is probed: once for each pool, and at most [`PROBE_WAIT`].
    ///
    /// # Cancel safety
    /// Safe: the wait begins again.
    async fn pools_settle(&mut self) {
        let settings = self.listener.settings.load();
        let is_known = |pool: &Arc<Pool>| self.waited_for.iter().any(|known| std::ptr::eq(known.as_ptr(), &**pool));
        let unsettled = settings.routes.only().into_iter().filter(|pool| !is_known(pool) && pool.is_awaited());
        let unsettled: Vec<Arc<Pool>> = unsettled.cloned().collect();
        drop(settings);
        if unsettled.is_empty() {
            return;
        }
        let all = async {
            for pool in &unsettled {
                pool.until_known().await;
            }
        };
        tokio::select! {
            () = all => {}
            () = sleep(PROBE_WAIT) => {}
        }
        self.waited_for.retain(|pool| pool.strong_count() > 0);
        self.waited_for.extend(unsettled.iter().map(Arc::downgrade));
    }

    /// Waits for connections and accepts a batch. Returns how long to pause.
    ///
    /// # Cancel safety
    /// Safe: a connection that was accepted is handed over before the next await.
    async fn step(&mut self, acceptor: &Acceptor) -> Option<Duration> {
        let mut waiting = match acceptor.readable().await {
            Ok(waiting) => waiting,
            Err(error) => {
                self.note_error(&error);
                return Some(ERROR_PAUSE);
            }
        };
        let listener = Arc::clone(&self.listener);
        for _ in 0..ACCEPT_BATCH {
            let turn = match listener.turn() {
                Ok(turn) => turn,
                Err(_) if !waiting.somebody() => return None,
                Err(pause) => {
                    let _waits = listener.met_rate.enter();
                    sleep(pause).await;
                    return None;
                }
            };
            let slot = match self.listener.try_slot() {
                Some(slot) => slot,
                // The last slot went to the last waiting client: do not hold the next free one.
                None if !waiting.somebody() => return None,
                None => self.listener.slot().await,
            };
            match self.take(waiting.accept(), slot) {
                AcceptStep::Taken(accepted) => {
                    turn.used();
                    (self.hand_over)(accepted);
                }
                AcceptStep::Aborted => {}
                AcceptStep::Empty => return None,
                AcceptStep::Pause => return Some(ERROR_PAUSE),
            }
        }
        tokio::task::yield_now().await;
        None
    }

    /// Serves clients whose handshakes the kernel has completed: they believe that they are connected. At a stop right after
    /// the start, this waits until the pool is probed.
    async fn take_the_rest(&mut self, acceptor: Acceptor) {
        let mut rest = Vec::new();
        while rest.len() < BACKLOG_LIMIT
            && let Some(slot) = self.listener.try_slot()
        {
            match self.take(acceptor.accept(), slot) {
                AcceptStep::Taken(accepted) => rest.push(accepted),
                AcceptStep::Aborted => {}
                AcceptStep::Empty | AcceptStep::Pause => break,
            }
        }
        // Close the socket before the wait, so that no more clients connect.
        drop(acceptor);
        if !rest.is_empty() {
            self.pools_settle().await;
        }
        for accepted in rest {
            (self.hand_over)(accepted);
        }
    }

    fn take(&mut self, accepted: io::Result<Option<(OwnedFd, SocketAddr)>>, mut slot: SessionSlot) -> AcceptStep {
        match accepted {
            Ok(Some((fd, peer))) => {
                slot.accepted();
                let listener = Arc::clone(&self.listener);
                AcceptStep::Taken(Accepted { fd, peer, at: Instant::now(), listener, slot })
            }
            Ok(None) => AcceptStep::Empty,
            Err(error) => match self.note_error(&error) {
                AcceptFailure::Aborted => AcceptStep::Aborted,
                AcceptFailure::NoResources | AcceptFailure::Other => AcceptStep::Pause,
            },
        }
    }

    fn note_error(&mut self, error: &io::Error) -> AcceptFailure {
        let reason = accept_failure(error);
        self.listener.accept_errors.count(reason);
        if let Some(unsaid) = self.error_pace.allow(Instant::now()) {
            warn!(listener = %self.listener.name, %error, unsaid, "accept failed; accepting goes on");
        }
        reason
    }
}

enum AcceptStep {
    Taken(Accepted),
    /// The client has left.
    Aborted,
    Empty,
    Pause,
}
