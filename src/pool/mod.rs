//! What both planes share about a pool: members, leases, the queue, budgets and counts.
//! Sessions pick and count here. The keeper is the only writer of members and facts.
//! Picks, releases and eligibility are one state machine behind one short mutex: nothing in here awaits, does I/O or logs.

mod backend;
mod bandwidth;
mod budget;
mod by_address;
mod chain;
mod events;
mod history;
mod lease;
mod overrides;
mod preconnected;
mod queue;
mod record;
mod source;
mod state;
mod stats;
mod sticky;
mod tables;
#[cfg(test)]
pub(crate) mod tests;
mod tiers;
mod times;
mod writer;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, watch};

use crate::balance;
pub use crate::balance::{Affinity, Course, Prospect, course};
use crate::config;
use crate::health::Observation;
use crate::metrics::Direction;
pub use backend::{Backend, BackendStats, BackendView, SHARE_OF_WEIGHT};
pub use bandwidth::{Draw, PoolBandwidth, Throttle};
pub use budget::{Allowance, Permit, RetryBudget};
pub use chain::{Chain, ChainPool};
pub use events::{Event, Events, Happened};
pub use history::{History, StandingChange};
use lease::Claim;
pub use lease::Lease;
pub use overrides::{OverrideError, PendingOverride, PoolOverrides};
pub use preconnected::{Preconnected, Preconnects};
pub use queue::{PickOrWait, Waiting};
pub use record::OutlierCounts;
pub use source::{Errors, SourceStatus, SourceView};
use state::PoolState;
pub use state::{MemberCounts, TrialState};
pub use stats::{
    AcceptFailures, ByteCell, Bytes, Closes, CountsByName, EarlyEnds, EndedCounts, Failures, Histogram, Outcomes,
    Refusals, Second, SessionTimes, Sources,
};
pub use sticky::StickyView;
pub use tiers::{TierLoad, ZoneCounts};

/// Reports that may wait for the keeper. More are dropped: a failing backend makes many at once, and each carries the whole
/// streak.
const REPORT_QUEUE: usize = 1_024;

/// A pool, as sessions, the keeper and readers use it.
#[derive(Debug)]
pub struct Pool {
    /// The key in `[pools]`.
    pub name: Arc<str>,
    /// The state of its discovery.
    pub source: Arc<SourceStatus>,
    /// Histograms over all backends, removed ones included.
    pub times: SessionTimes,
    /// How long sessions waited in the queue, whatever their outcome.
    pub queue_time: Histogram,
    /// How long probes take.
    pub probe_time: Histogram,
    /// What operators want of it.
    pub overrides: PoolOverrides,
    /// Sessions that ended without a backend.
    pub ended_without_backend: EndedCounts,
    /// Attempts beyond the first of each session.
    pub retries: Allowance,
    /// Backends dialled beside a slow one.
    pub hedges: Allowance,
    /// Results of hedged connects and of replays.
    pub second: Second,
    /// Sessions that are closed although both sides live.
    pub closes: Closes,
    /// What its sessions may move.
    pub bandwidth: PoolBandwidth,
    /// Backends that left and were forgotten early, because too many had left.
    pub forgotten_early: AtomicU64,
    /// Where its sessions go while it has nothing for them. The configuration has no circle.
    fallback: ArcSwapOption<Self>,
    /// Sessions that its fallback served.
    fallback_sessions: AtomicU64,
    /// Signals a change of a standing or an address.
    standings: watch::Sender<()>,
    /// Relaxed: changed before `standings` signals, and that orders it for the receivers.
    moves: AtomicU64,
    /// Dials for which there were no descriptors, or no memory.
    lacking: AtomicU64,
    /// Relaxed: what is missed around a change of the policy makes no difference.
    wants_times: AtomicBool,
    /// Receives changes; unset = nothing does.
    events: OnceLock<Events>,
    all_down: AtomicBool,
    settled: watch::Sender<bool>,
    /// Relaxed: a statistic.
    times_full: AtomicU64,
    workers: usize,
    /// Which of `settings.sources` is next.
    next_source: AtomicUsize,
    inner: Mutex<PoolState>,
    published: ArcSwap<Published>,
    reports: mpsc::Sender<SessionReport>,
    /// Counts about outliers.
    pub outliers: OutlierCounts,
    /// Replaced as a whole when a new configuration is applied.
    settings: ArcSwap<config::Pool>,
}

/// What readers see of the members.
#[derive(Debug, Default)]
struct Published {
    members: Arc<Vec<Arc<Backend>>>,
    /// Bytes of former members. In one value with the members, so that the total never goes back or jumps.
    retired: [u64; Direction::ALL.len()],
}

/// What a session reports about its backend to the keeper.
#[derive(Clone, Debug)]
pub struct SessionReport {
    /// The backend.
    pub backend: Arc<Backend>,
    /// The address that was dialled; the backend may have another one by now.
    pub address: SocketAddr,
    /// What it observed.
    pub observation: Observation,
    /// The number of the trial that the session was.
    pub trial: Option<u64>,
}

/// What a pick knows about the session.
pub type PickContext<'a> = balance::PickContext<'a, Arc<Backend>>;

/// No backend is eligible, or all eligible ones were tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoneLeft;

impl Pool {
    /// An empty pool, and the reports that its keeper has to receive.
    pub fn new(settings: config::Pool, workers: usize) -> (Arc<Self>, mpsc::Receiver<SessionReport>) {
        let (reports, received) = mpsc::channel(REPORT_QUEUE);
        let pool = Self {
            name: settings.name.as_str().into(),
            source: Arc::default(),
            times: SessionTimes::default(),
            queue_time: Histogram::fast(),
            probe_time: Histogram::fast(),
            overrides: PoolOverrides::default(),
            ended_without_backend: EndedCounts::default(),
            retries: Allowance::new(Instant::now()),
            hedges: Allowance::new(Instant::now()),
            second: Second::default(),
            closes: Closes::default(),
            bandwidth: PoolBandwidth::new(settings.bandwidth.as_ref()),
            forgotten_early: AtomicU64::new(0),
            fallback: ArcSwapOption::empty(),
            fallback_sessions: AtomicU64::new(0),
            standings: watch::Sender::default(),
            moves: AtomicU64::new(0),
            lacking: AtomicU64::new(0),
            wants_times: AtomicBool::new(false),
            events: OnceLock::new(),
            all_down: AtomicBool::new(false),
            settled: watch::Sender::new(false),
            times_full: AtomicU64::new(0),
            workers,
            next_source: AtomicUsize::new(0),
            inner: Mutex::new(PoolState::new(&settings, fastrand::u64(..))),
            outliers: OutlierCounts::default(),
            published: ArcSwap::default(),
            reports,
            settings: ArcSwap::from_pointee(settings),
        };
        pool.ask_for_times();
        (Arc::new(pool), received)
    }

    /// Its present settings. Take them once where several have to fit together.
    pub fn settings(&self) -> Arc<config::Pool> {
        self.settings.load_full()
    }

    /// Replaces its settings. Backends, counts and sessions stay; the next pick uses the new policy.
    pub fn change(&self, settings: config::Pool) {
        self.alter(|inner| {
            inner.change(&settings);
            self.bandwidth.change(settings.bandwidth.as_ref());
            self.settings.store(Arc::new(settings));
        });
        self.rebuild_tables();
        self.ask_for_times();
        // The new settings may decide otherwise about running sessions.
        self.standings.send_replace(());
    }

    /// Picks an eligible backend that the session has not tried, and claims it until the lease is dropped.
    ///
    /// # Errors
    /// [`NoneLeft`]. The session decides whether it tries a backend again.
    pub fn pick(self: &Arc<Self>, context: &PickContext<'_>) -> Result<Lease, NoneLeft> {
        let mut inner = self.inner();
        let picked = inner.pick(context);
        let is_full = picked.is_err() && context.tried.is_empty() && inner.is_full();
        drop(inner);
        if is_full {
            self.times_full.fetch_add(1, Relaxed);
        }
        Ok(Lease::new(Arc::clone(self), picked?))
    }

    /// Whether there is a backend that the session has not tried and may use; trials are not counted.
    pub fn has_left(&self, context: &PickContext<'_>) -> bool {
        self.inner().has_left(context)
    }

    /// As the first [`Self::pick`] of a session. If all backends that it could get are at their cap, or the pool lets
    /// sessions wait until one is up, the session gets a place in the queue.
    ///
    /// # Errors
    /// [`NoneLeft`]: there is no backend to wait for.
    pub fn pick_or_wait(self: &Arc<Self>, affinity: Affinity, queue: config::Queue) -> Result<PickOrWait, NoneLeft> {
        let waits_for_any = self.settings.load().when_all_down == config::WhenAllDown::Wait;
        let mut inner = self.inner();
        if let Ok(claim) = inner.pick(&PickContext { affinity, waits: true, ..PickContext::FIRST }) {
            drop(inner);
            return Ok(PickOrWait::Now(Lease::new(Arc::clone(self), claim)));
        }
        if !inner.is_full() && !waits_for_any {
            return Err(NoneLeft);
        }
        if inner.queue.len() >= queue.max_length {
            return Ok(PickOrWait::Full);
        }
        let place = inner.queue.enter(affinity);
        drop(inner);
        Ok(PickOrWait::Later(Waiting::new(Arc::clone(self), place)))
    }

    /// How often a session found all backends that it could get at their cap.
    pub fn times_full(&self) -> u64 {
        self.times_full.load(Relaxed)
    }

    /// Whether sessions wait for a backend at its cap.
    pub fn is_full(&self) -> bool {
        let inner = self.inner();
        inner.queue.len() > 0 && inner.is_full()
    }

    /// Sessions in the queue.
    pub fn queued(&self) -> usize {
        self.inner().queue.len()
    }

    /// Ends a lease. If it was a trial without a result, the next session is the trial.
    fn give_back(&self, backend: &Backend, undecided_trial: Option<u64>) {
        self.alter(|inner| inner.give_back(backend, undecided_trial));
    }

    /// Makes a change that may make a backend eligible, and serves the queue before a new session can pick.
    fn alter<R>(&self, change: impl FnOnce(&mut PoolState) -> R) -> R {
        let mut inner = self.inner();
        let result = change(&mut inner);
        let mut served = inner.serve();
        drop(inner);
        while !served.is_empty() {
            // A session that has left by now does not take its claim.
            let left: Vec<Claim> = served.drain(..).filter_map(|(to, claim)| to.send(claim).err()).collect();
            if !left.is_empty() {
                let mut inner = self.inner();
                for Claim { backend, trial, .. } in left {
                    inner.give_back(&backend, trial.map(|trial| trial.number));
                }
                served = inner.serve();
            }
        }
        result
    }

    /// Signals after a change of a standing, an address, or what follows from them. Several changes may be one signal.
    pub fn standings(&self) -> watch::Receiver<()> {
        self.standings.subscribe()
    }

    /// Counts changes of a backend's address, and of the state of other addresses of its name.
    pub fn moves(&self) -> u64 {
        self.moves.load(Relaxed)
    }

    /// A backend can't be dialled: there are no descriptors left, or no memory.
    pub fn lacks_resources(&self) {
        self.lacking.fetch_add(1, Relaxed);
    }

    /// How often that was so.
    pub fn times_lacking_resources(&self) -> u64 {
        self.lacking.load(Relaxed)
    }

    /// Whether no backend is up although discovery has answered and all have been probed. It ends when one is up.
    pub fn is_all_down(&self) -> bool {
        self.all_down.load(Relaxed)
    }

    /// Whether discovery has answered, and every backend of that answer has been probed once.
    pub fn is_settled(&self) -> bool {
        *self.settled.borrow()
    }

    /// Waits until [`Self::is_settled`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn until_settled(&self) {
        // The sender is in `self`: it can't be gone.
        let _ = self.settled.subscribe().wait_for(|&settled| settled).await;
    }

    /// The local addresses from which to dial `address`, each once, beginning with the next in turn; empty = the kernel
    /// chooses.
    pub fn sources_for<'a>(
        &self,
        settings: &'a config::Pool,
        address: SocketAddr,
    ) -> impl Iterator<Item = IpAddr> + use<'a> {
        let sources = &settings.sources;
        let first = if sources.len() > 1 { self.next_source.fetch_add(1, Relaxed) } else { 0 };
        (0..sources.len())
            .map(move |i| sources[first.wrapping_add(i) % sources.len()])
            .filter(move |source| source.is_ipv4() == address.is_ipv4())
    }

    /// All backends with an identity, in no order, with those that left and are remembered.
    pub fn members(&self) -> Arc<Vec<Arc<Backend>>> {
        Arc::clone(&self.published.load().members)
    }

    /// How many members there are, by what they can do.
    pub fn counts(&self) -> MemberCounts {
        self.inner().counts()
    }

    /// Whether so few backends are up that sessions may try the rest (`panic_threshold`).
    pub fn is_panicking(&self) -> bool {
        self.inner().panicking
    }

    /// The state of an ejected backend's trial.
    pub fn trial_of(&self, backend: &Backend) -> TrialState {
        self.inner().trial_of(backend)
    }

    /// Sessions that hold a lease.
    pub fn sessions(&self) -> usize {
        self.inner().sessions
    }

    /// How the pool's policy chooses, and what it makes of this backend: for people.
    pub fn policy_says(&self, backend: &Backend) -> String {
        self.inner().picker.says(backend.slot)
    }

    /// Sessions that hold a lease on this backend.
    pub fn sessions_of(&self, backend: &Backend) -> u32 {
        self.inner().sessions_of(backend)
    }

    /// Whether sessions may try backends that are not up, by `when_all_down` or `panic_threshold`.
    pub fn is_open(&self) -> bool {
        self.inner().is_open()
    }

    /// Whether nothing is up and sessions may try the rest, also backends without a probe result.
    pub fn fail_open(&self) -> bool {
        self.inner().fails_open()
    }

    /// Bytes relayed, with those of removed backends.
    pub fn bytes(&self, direction: Direction) -> u64 {
        let published = self.published.load();
        let members: u64 = published.members.iter().map(|backend| backend.stats.bytes.read(direction)).sum();
        members + published.retired[direction as usize]
    }

    /// From now on `events` receives changes.
    pub fn tell_to(&self, events: &Events) {
        // Once for each pool; a second call has no effect.
        let _ = self.events.set(events.clone());
    }

    /// Sends an event to the followers.
    pub fn tell(&self, what: impl FnOnce() -> Happened) {
        if let Some(events) = self.events.get() {
            events.tell(what);
        }
    }

    fn inner(&self) -> MutexGuard<'_, PoolState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
