//! Accepts: wait readable, take a slot, accept in bounded batches, give the connection to the worker with the fewest
//! sessions. No error ends the loop. At a limit clients wait in the kernel's backlog.

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed},
};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::{TaskTracker, TaskTrackerToken};
use tracing::warn;

use super::limit::{Limit, Met, Place};
use super::session::Accepted;
use super::shares::{Places, Share, Spare, Taken};
use super::socket::{Acceptor, accept_failure};
use super::worker::{WorkerHandle, hand_over};
use crate::config;
use crate::metrics::{AcceptFailure, Outcome};
use crate::pace::Pace;
use crate::pool::{Outcomes, Pool};
use crate::route::Routes;

/// Connections accepted before the worker's sessions get a turn.
const BATCH: usize = 64;

/// Connections taken from the backlog after a stop: as many as fit in it by default. Without a bound, clients that keep
/// coming would keep the process.
const REST: usize = 4_096;

/// The pause after an error that would come again at once.
const PAUSE: Duration = Duration::from_millis(100);

/// How long clients wait in the backlog for a pool that is new to be probed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at counts that others go on counting, before one is taken as it is.
const LOOKS: usize = 100;

/// A front: what its accept loops and sessions share, and what is counted about it.
#[derive(Debug)]
pub struct Listener {
    /// The key in `[listeners]`.
    pub name: Arc<str>,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Sessions ended.
    pub ended: Outcomes,
    /// Where it really listens, port 0 resolved.
    addresses: ArcSwap<Vec<SocketAddr>>,
    /// Swapped whole when a new configuration is applied.
    settings: ArcSwap<Settings>,
    /// Its own limit, and its share of the process's.
    met_own: Met,
    met_shared: Met,
    accept_errors: [AtomicU64; AcceptFailure::ALL.len()],
    own: Arc<Limit>,
    share: Share,
    tracker: TaskTracker,
}

/// What the file says of a listener, and where its sessions go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From the file.
    pub file: config::Listener,
    /// Where sessions are counted that end before they are routed.
    pub pool: Arc<Pool>,
    /// Which pool each session goes to.
    pub routes: Routes<Arc<Pool>>,
    /// Which of its sessions get a line in the log.
    pub log: config::SessionLog,
}

impl Settings {
    /// All pools that sessions may go to, by where they are.
    fn pools(&self) -> impl Iterator<Item = *const Pool> {
        self.routes.pools().map(Arc::as_ptr)
    }

    /// Whether sessions may go to this pool.
    pub fn leads_to(&self, pool: &Arc<Pool>) -> bool {
        self.routes.pools().any(|one| Arc::ptr_eq(one, pool))
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file
            && self.log == other.log
            && Arc::ptr_eq(&self.pool, &other.pool)
            && self.pools().eq(other.pools())
    }
}

impl Listener {
    /// `places` are the process's places; `tracker` counts what has to end before the process may.
    pub fn new(settings: Settings, addresses: Vec<SocketAddr>, places: Arc<Places>, tracker: TaskTracker) -> Arc<Self> {
        let max_connections = settings.file.max_connections;
        Arc::new(Self {
            name: settings.file.name.as_str().into(),
            accepted: AtomicU64::new(0),
            ended: Outcomes::default(),
            addresses: ArcSwap::from_pointee(addresses),
            settings: ArcSwap::from_pointee(settings),
            met_own: Met::default(),
            met_shared: Met::default(),
            accept_errors: Default::default(),
            own: Limit::new(max_connections),
            share: Share::new(places),
            tracker,
        })
    }

    /// What a new session goes by. Taken once a session.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Where it really listens, port 0 resolved.
    pub fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.addresses.load_full()
    }

    /// New sessions go by these from now on. Those above a lower limit stay.
    pub fn change(&self, settings: Settings, addresses: Vec<SocketAddr>) {
        self.own.resize(settings.file.max_connections);
        self.addresses.store(Arc::new(addresses));
        self.settings.store(Arc::new(settings));
    }

    /// So many of the process's places are kept for it.
    pub fn keep(&self, places: usize) {
        self.share.keep(places);
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.counts().sessions
    }

    /// All of one moment.
    pub fn counts(&self) -> ListenerCounts {
        // Acquire, and release where they are counted: who is seen to have ended is seen to have been accepted.
        let read = || Outcome::ALL.map(|outcome| self.ended.read(outcome));
        let mut ended = read();
        for _ in 0..LOOKS {
            let accepted = self.accepted.load(Acquire);
            let again = read();
            // They only grow: the same before and after is the same between.
            if again == ended {
                return ListenerCounts::new(accepted, ended);
            }
            ended = again;
        }
        ListenerCounts::new(self.accepted.load(Acquire), ended)
    }

    /// Whether new connections wait for a slot.
    pub fn is_at_limit(&self) -> bool {
        self.met_own.waiting() || self.met_shared.waiting()
    }

    /// Of its own limit and of its share of the process's: how often clients had to wait for it, and whether some do now.
    pub fn met_limits(&self) -> ((u64, bool), (u64, bool)) {
        let of = |met: &Met| (met.times(), met.waiting());
        (of(&self.met_own), of(&self.met_shared))
    }

    /// Failed calls of accept(2).
    pub fn accept_errors(&self, reason: AcceptFailure) -> u64 {
        self.accept_errors[reason as usize].load(Relaxed)
    }

    /// What holds it keeps a stop waiting.
    pub(super) fn tracked(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// A session's place for a connection that is none; given back when dropped.
    pub(super) fn spare_place(&self) -> Option<Spare> {
        self.share.places().spare()
    }

    fn try_slot(self: &Arc<Self>) -> Option<SessionSlot> {
        let own = self.own.try_take()?;
        Some(SessionSlot::new(self, own, self.share.try_take()?))
    }

    async fn slot(self: &Arc<Self>) -> SessionSlot {
        let own = match self.own.try_take() {
            Some(own) => own,
            None => {
                let _waits = self.met_own.enter();
                self.own.take().await
            }
        };
        let shared = match self.share.try_take() {
            Some(shared) => shared,
            None => {
                let _waits = self.met_shared.enter();
                self.share.take().await
            }
        };
        SessionSlot::new(self, own, shared)
    }
}

/// The sessions of a listener: accepted = ended + active, at every look.
#[derive(Clone, Copy, Debug)]
pub struct ListenerCounts {
    /// Connections accepted.
    pub accepted: u64,
    /// Of these, sessions ended, in the order of [`Outcome::ALL`].
    pub ended: [u64; Outcome::ALL.len()],
    /// And sessions now.
    pub sessions: usize,
}

impl ListenerCounts {
    fn new(accepted: u64, ended: [u64; Outcome::ALL.len()]) -> Self {
        Self { accepted, ended, sessions: accepted.saturating_sub(ended.iter().sum()) as usize }
    }
}

/// The right to one session: under the listener's limit, and under the process's.
#[derive(Debug)]
pub(super) struct SessionSlot {
    /// Of whose limits it has a place each.
    listener: Arc<Listener>,
    _tracked: TaskTrackerToken,
    /// Its connection is counted as accepted, and there is no session that would count its end.
    is_waiting: bool,
}

impl SessionSlot {
    fn new(listener: &Arc<Listener>, own: Place, shared: Taken) -> Self {
        own.stay();
        listener.share.stay(shared);
        Self { listener: Arc::clone(listener), _tracked: listener.tracker.token(), is_waiting: false }
    }

    fn accepted(&mut self) {
        self.listener.accepted.fetch_add(1, Relaxed);
        self.is_waiting = true;
    }

    /// From now on the session sees to it that its end is counted.
    pub(super) fn begins(&mut self) {
        self.is_waiting = false;
    }
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        if self.is_waiting {
            self.listener.ended.count(Outcome::Killed);
        }
        self.listener.own.give_back();
        self.listener.share.give_back();
    }
}

/// Accepts until `stop`, then what already waits, then closes the socket.
pub(super) async fn accept(
    acceptor: Acceptor,
    listener: Arc<Listener>,
    handles: Arc<[WorkerHandle]>,
    stop: CancellationToken,
    tracked: TaskTrackerToken,
) {
    let mut front =
        AcceptLoop { listener, handles, complaints: Pace::new(Duration::from_secs(5)), waited_for: Vec::new() };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = front.pools_settle() => {}
        }
        let step = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            step = front.step(&acceptor) => step,
        };
        if let Some(pause) = step {
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(pause) => {}
            }
        }
    }
    front.take_the_rest(acceptor).await;
    drop(tracked);
}

struct AcceptLoop {
    listener: Arc<Listener>,
    handles: Arc<[WorkerHandle]>,
    complaints: Pace,
    /// Pools whose first probes it has waited for, as long as they are not over.
    waited_for: Vec<Weak<Pool>>,
}

impl AcceptLoop {
    /// Waits until the pools that sessions may go to are probed, for each pool once, and not for ever.
    ///
    /// # Cancel safety
    /// Safe: it begins again.
    async fn pools_settle(&mut self) {
        let settings = self.listener.settings.load();
        let is_known = |pool: &Arc<Pool>| self.waited_for.iter().any(|known| std::ptr::eq(known.as_ptr(), &**pool));
        let unsettled = settings.routes.pools().filter(|pool| !pool.is_settled() && !is_known(pool));
        let unsettled: Vec<Arc<Pool>> = unsettled.cloned().collect();
        drop(settings);
        if unsettled.is_empty() {
            return;
        }
        let all = async {
            for pool in &unsettled {
                pool.until_settled().await;
            }
        };
        tokio::select! {
            () = all => {}
            () = sleep(PATIENCE) => {}
        }
        self.waited_for.retain(|pool| pool.strong_count() > 0);
        self.waited_for.extend(unsettled.iter().map(Arc::downgrade));
    }

    /// Waits for connections and takes a batch of them. Returns how long to pause.
    ///
    /// # Cancel safety
    /// Safe: a connection that was accepted is handed over before the next await.
    async fn step(&mut self, acceptor: &Acceptor) -> Option<Duration> {
        let mut waiting = match acceptor.readable().await {
            Ok(waiting) => waiting,
            Err(error) => {
                self.complain(&error);
                return Some(PAUSE);
            }
        };
        for _ in 0..BATCH {
            let slot = match self.listener.try_slot() {
                Some(slot) => slot,
                // The last slot went to the last one who waited: no reason to hold the next free one.
                None if !waiting.somebody() => return None,
                None => self.listener.slot().await,
            };
            match self.take(waiting.accept(), slot) {
                AcceptStep::Taken(accepted) => hand_over(&self.handles, accepted),
                AcceptStep::Aborted => {}
                AcceptStep::Nobody => return None,
                AcceptStep::Pause => return Some(PAUSE),
            }
        }
        tokio::task::yield_now().await;
        None
    }

    /// The kernel has completed these handshakes: their clients believe that they are connected. Also at a stop in the first
    /// moment they are served, once the pool is probed.
    async fn take_the_rest(&mut self, acceptor: Acceptor) {
        let mut rest = Vec::new();
        while rest.len() < REST
            && let Some(slot) = self.listener.try_slot()
        {
            match self.take(acceptor.accept(), slot) {
                AcceptStep::Taken(accepted) => rest.push(accepted),
                AcceptStep::Aborted => {}
                AcceptStep::Nobody | AcceptStep::Pause => break,
            }
        }
        // Nobody is let in who would wait for nothing.
        drop(acceptor);
        if !rest.is_empty() {
            self.pools_settle().await;
        }
        for accepted in rest {
            hand_over(&self.handles, accepted);
        }
    }

    fn take(&mut self, accepted: io::Result<Option<(OwnedFd, SocketAddr)>>, mut slot: SessionSlot) -> AcceptStep {
        match accepted {
            Ok(Some((fd, peer))) => {
                slot.accepted();
                let listener = Arc::clone(&self.listener);
                AcceptStep::Taken(Accepted { fd, peer, at: Instant::now(), listener, slot })
            }
            Ok(None) => AcceptStep::Nobody,
            Err(error) => match self.complain(&error) {
                AcceptFailure::Aborted => AcceptStep::Aborted,
                AcceptFailure::NoResources | AcceptFailure::Other => AcceptStep::Pause,
            },
        }
    }

    fn complain(&mut self, error: &io::Error) -> AcceptFailure {
        let reason = accept_failure(error);
        self.listener.accept_errors[reason as usize].fetch_add(1, Relaxed);
        if let Some(unsaid) = self.complaints.allow(Instant::now()) {
            warn!(listener = %self.listener.name, %error, unsaid, "accept failed; accepting goes on");
        }
        reason
    }
}

enum AcceptStep {
    Taken(Accepted),
    /// The client has left again.
    Aborted,
    Nobody,
    Pause,
}
