//! A listener: its settings, its limits and its counts. `accept` has the loop that takes connections in.

mod accept;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed},
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio_util::task::task_tracker::{TaskTracker, TaskTrackerToken};

use super::client_table::{ClientTable, session_rate};
use super::handshakes::{Handshake, Handshakes};
use super::limit::{Limit, Met, Place};
use super::shares::{Places, Share, Spare, Taken};
use crate::config;
use crate::metrics::{AcceptFailure, Outcome};
use crate::pool::{AcceptFailures, CountsByName, Outcomes, Pool, Refusals};
use crate::route::{Access, Routes, SessionBucket, SessionRate};
pub(super) use accept::accept;

/// How long clients wait in the backlog until a new pool is probed.
const PROBE_WAIT: Duration = Duration::from_secs(5);

/// How often counts that change meanwhile are read again; then they are taken as they are.
const COUNT_RETRIES: usize = 100;

/// A listener: what its accept loops and sessions share, and its counts.
#[derive(Debug)]
pub struct Listener {
    /// The key in `[listeners]`.
    pub name: Arc<str>,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Sessions ended.
    pub ended: Outcomes,
    /// Of those, the ones that had no pool yet.
    pub ended_unrouted: Outcomes,
    /// Of those that ended, the refused ones by reason.
    pub refusals: Refusals,
    /// Sessions by the pool that a route, or the lack of one, led them to; only where there are routes.
    pub routed: CountsByName,
    /// Its real addresses, with the chosen ports.
    addresses: ArcSwap<Vec<SocketAddr>>,
    /// Replaced as a whole when a new configuration is applied.
    settings: ArcSwap<Settings>,
    /// How often its own limit was met, and its share of the process's.
    met_own: Met,
    met_shared: Met,
    /// How often clients waited for `accept.rate`.
    met_rate: Met,
    /// What is left of that rate. A lock: held for a few steps, once for each connection.
    rate: Mutex<SessionBucket>,
    /// The zero of its clock.
    since: Instant,
    handshakes: Handshakes,
    accept_errors: AcceptFailures,
    own: Arc<Limit>,
    share: Share,
    tracker: TaskTracker,
}

/// The settings of a listener, and where its sessions go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From the file.
    pub file: config::Listener,
    /// Which pool each session goes to.
    pub routes: Routes<Arc<Pool>>,
    /// Which clients may have a session; `None` = all.
    pub access: Option<Arc<Access>>,
    /// The clients and what they have; `None` = they are not limited.
    pub clients: Option<Arc<ClientTable>>,
    /// The sessions that are logged.
    pub log: config::SessionLog,
    /// When they were made.
    since: Instant,
}

impl Settings {
    /// `pool_named` knows the pools; `None` = one of them is missing.
    pub fn new(
        file: config::Listener,
        log: config::SessionLog,
        access: Option<Arc<Access>>,
        pool_named: impl FnMut(&str) -> Option<Arc<Pool>>,
    ) -> Option<Self> {
        let routes = Routes::new(&file, pool_named)?;
        Some(Self { file, routes, access, clients: None, log, since: Instant::now() })
    }

    /// With what is known of its clients, if these are limited: also what another configuration of the listener knew.
    pub fn with_clients_of(mut self, before: Option<&Listener>) -> Self {
        let before = before.and_then(|before| before.settings().clients.clone());
        self.clients = self.file.per_client.as_ref().map(|keys| ClientTable::renewed(keys, before));
        self
    }

    /// Until when a session waits for the first probes of a pool that is new. It is routed already: where a listener leads to
    /// several pools, a new one must not hold up the clients of the others.
    pub(super) fn waits_until(&self) -> Instant {
        self.since + PROBE_WAIT
    }

    /// All pools that sessions may go to, by address in memory.
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
            && self.access.as_ref().map(Arc::as_ptr) == other.access.as_ref().map(Arc::as_ptr)
            && self.pools().eq(other.pools())
    }
}

impl Listener {
    /// `places` are the process's; `tracker` counts what must end before the process may.
    pub fn new(settings: Settings, addresses: Vec<SocketAddr>, places: Arc<Places>, tracker: TaskTracker) -> Arc<Self> {
        let max_connections = settings.file.max_connections;
        Arc::new(Self {
            name: settings.file.name.as_str().into(),
            accepted: AtomicU64::new(0),
            ended: Outcomes::default(),
            ended_unrouted: Outcomes::default(),
            refusals: Refusals::default(),
            routed: CountsByName::default(),
            addresses: ArcSwap::from_pointee(addresses),
            settings: ArcSwap::from_pointee(settings),
            met_own: Met::default(),
            met_shared: Met::default(),
            met_rate: Met::default(),
            rate: Mutex::default(),
            since: Instant::now(),
            handshakes: Handshakes::default(),
            accept_errors: AcceptFailures::default(),
            own: Limit::new(max_connections),
            share: Share::new(places),
            tracker,
        })
    }

    /// The present settings. A session takes them once.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Its real addresses, with the chosen ports.
    pub fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.addresses.load_full()
    }

    /// Changes the settings for new sessions. If a limit becomes lower, the sessions above it stay.
    pub fn change(&self, settings: Settings, addresses: Vec<SocketAddr>) {
        self.own.resize(settings.file.max_connections);
        self.addresses.store(Arc::new(addresses));
        self.settings.store(Arc::new(settings));
    }

    /// Changes which clients may have a session, for new sessions.
    pub fn admit(&self, access: Option<Arc<Access>>) {
        let settings = Settings { access, ..Settings::clone(&self.settings.load()) };
        self.settings.store(Arc::new(settings));
    }

    /// Reserves so many of the process's places for it.
    pub fn keep(&self, places: usize) {
        self.share.keep(places);
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.counts().sessions
    }

    /// Counts of one moment.
    pub fn counts(&self) -> ListenerCounts {
        // Acquire, and release where they are counted: a session that is seen as ended is also seen as accepted.
        let read = || Outcome::ALL.map(|outcome| self.ended.read(outcome));
        let mut ended = read();
        for _ in 0..COUNT_RETRIES {
            let accepted = self.accepted.load(Acquire);
            let again = read();
            // Counts only grow: if they are equal before and after, they did not change between.
            if again == ended {
                return ListenerCounts::new(accepted, ended);
            }
            ended = again;
        }
        ListenerCounts::new(self.accepted.load(Acquire), ended)
    }

    /// Whether new connections wait for a slot.
    pub fn is_at_limit(&self) -> bool {
        self.met_own.waiting() || self.met_shared.waiting() || self.met_rate.waiting()
    }

    /// For its own limit, its share of the process's, and its rate: how often clients had to wait, and whether some wait
    /// now.
    pub fn met_limits(&self) -> [(u64, bool); 3] {
        [&self.met_own, &self.met_shared, &self.met_rate].map(|met| (met.times(), met.waiting()))
    }

    /// Sessions whose header or first bytes are awaited.
    pub fn handshakes(&self) -> usize {
        self.handshakes.count()
    }

    /// Notes that a header or first bytes of a session are awaited, until it is dropped; `None` = any number may be.
    pub(super) fn handshake(&self, settings: &Settings) -> Option<Handshake<'_>> {
        let most = settings.file.accept.as_ref()?.handshakes?;
        Some(self.handshakes.enter(most))
    }

    /// Takes one of the sessions that may begin in a second. The error says how long there is none.
    fn turn(&self) -> Result<AcceptTurn<'_>, Duration> {
        let keys = self.settings.load().file.accept.as_ref().and_then(|accept| accept.rate);
        let Some(rate) = keys.as_ref().map(session_rate) else { return Ok(AcceptTurn(None)) };
        let now = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        match self.rate.lock().unwrap_or_else(PoisonError::into_inner).take(rate, now) {
            Ok(()) => Ok(AcceptTurn(Some((self, rate)))),
            Err(at) => Err(Duration::from_nanos(at - now)),
        }
    }

    /// Failed calls of accept(2).
    pub fn accept_errors(&self, reason: AcceptFailure) -> u64 {
        self.accept_errors.read(reason)
    }

    /// A stop waits until the token is dropped.
    pub(super) fn tracked(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// A place for a connection that is no session; dropping it gives it back.
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

/// One of the sessions that may begin in a second. It is given back if it is dropped unused.
struct AcceptTurn<'a>(Option<(&'a Listener, SessionRate)>);

impl AcceptTurn<'_> {
    fn used(mut self) {
        self.0 = None;
    }
}

impl Drop for AcceptTurn<'_> {
    fn drop(&mut self) {
        if let Some((listener, rate)) = self.0 {
            listener.rate.lock().unwrap_or_else(PoisonError::into_inner).give_back(rate);
        }
    }
}

/// The sessions of a listener; always accepted = ended + active.
#[derive(Clone, Copy, Debug)]
pub struct ListenerCounts {
    /// Connections accepted.
    pub accepted: u64,
    /// Sessions ended, in the order of [`Outcome::ALL`].
    pub ended: [u64; Outcome::ALL.len()],
    /// Sessions now.
    pub sessions: usize,
}

impl ListenerCounts {
    fn new(accepted: u64, ended: [u64; Outcome::ALL.len()]) -> Self {
        Self { accepted, ended, sessions: accepted.saturating_sub(ended.iter().sum()) as usize }
    }
}

/// A place for one session under the listener's limit and under the process's.
#[derive(Debug)]
pub(super) struct SessionSlot {
    /// The listener whose limits it counts in.
    listener: Arc<Listener>,
    _tracked: TaskTrackerToken,
    /// Its connection is counted as accepted, but there is no session yet that counts its end.
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

    /// From now on the session counts its own end.
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

/// A connection that was accepted, on its way to a worker.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) fd: OwnedFd,
    pub(super) peer: SocketAddr,
    pub(super) at: Instant,
    pub(super) listener: Arc<Listener>,
    /// Its place under the limits; given back when all else of the session is gone.
    pub(super) slot: SessionSlot,
}
