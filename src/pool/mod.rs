//! What both planes share about a pool. Picks, releases and eligibility are one state machine behind one short mutex:
//! nothing in here awaits, does I/O or logs. The keeper is the only writer of membership and facts.

mod backend;
mod budget;
mod events;
mod history;
mod lease;
mod orders;
mod places;
mod preconnected;
mod queue;
mod record;
mod source;
mod state;
mod stats;
#[cfg(test)]
pub(crate) mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::balance;
use crate::config;
use crate::health::{Failing, Observation};
use crate::metrics::Direction;
use crate::standing::Standing;
pub use backend::{Backend, BackendStats, BackendView, SHARE_OF_WEIGHT};
pub use budget::{Allowance, Permit, RetryBudget};
pub use events::{Event, Events, Happened};
pub use history::{History, StandingChange};
use lease::Claim;
pub use lease::Lease;
pub use orders::{Given, OrderDesk, OrderError};
pub use preconnected::{Preconnected, Preconnects};
pub use queue::{PickOrWait, Waiting};
pub use record::{EarlyEnds, OutlierCounts};
pub use source::{Errors, SourceStatus, SourceView};
use state::PoolState;
pub use state::{MemberCounts, TrialState};
pub use stats::{ByteCell, Bytes, Closes, EndedCounts, Failures, Histogram, Outcomes, Second, SessionTimes, Sources};

/// Evidence that may wait for the keeper. More is dropped: a failing backend makes more of it at once, and each piece
/// carries the whole streak.
const EVIDENCE_WAITING: usize = 1_024;

/// See the module.
#[derive(Debug)]
pub struct Pool {
    /// The key in `[pools]`.
    pub name: Arc<str>,
    /// How its discovery is doing.
    pub source: Arc<SourceStatus>,
    /// Histograms over all backends, removed ones included.
    pub times: SessionTimes,
    /// How long sessions waited that had to, whatever became of them.
    pub queue_time: Histogram,
    /// How long probes take.
    pub probe_time: Histogram,
    /// What operators want of it.
    pub orders: OrderDesk,
    /// Sessions that ended without a backend.
    pub ended_without_backend: EndedCounts,
    /// Attempts beyond the first of each session.
    pub retries: Allowance,
    /// Backends dialled beside one that is slow.
    pub hedges: Allowance,
    /// What became of them, and of replays.
    pub second: Second,
    /// Sessions that are ended although both their sides live.
    pub closes: Closes,
    /// Backends that left and were forgotten sooner than usual, because too many had left.
    pub forgotten_early: AtomicU64,
    /// Bumped when a standing or an address changes.
    standings: watch::Sender<()>,
    /// Relaxed: bumped before `standings`, which orders it for who waits for that.
    moves: AtomicU64,
    /// Who is told of changes; unset = nobody.
    events: OnceLock<Events>,
    all_down: AtomicBool,
    settled: watch::Sender<bool>,
    /// Relaxed: a count for people.
    times_full: AtomicU64,
    workers: usize,
    /// Whose turn it is among `settings.sources`.
    next_source: AtomicUsize,
    inner: Mutex<PoolState>,
    published: ArcSwap<Published>,
    observation: mpsc::Sender<SessionReport>,
    /// What is counted about its outliers.
    pub outliers: OutlierCounts,
    /// Swapped whole when a new configuration is applied.
    settings: ArcSwap<config::Pool>,
}

/// What readers see.
#[derive(Debug, Default)]
struct Published {
    members: Arc<Vec<Arc<Backend>>>,
    /// Of those that are no members any more. Beside the members, so that the total never goes back or jumps.
    retired: [u64; Direction::ALL.len()],
}

/// A session's word on its backend.
#[derive(Clone, Debug)]
pub struct SessionReport {
    /// Whose.
    pub backend: Arc<Backend>,
    /// The address that was dialled; the backend may have another one by now.
    pub address: SocketAddr,
    /// What it met.
    pub observation: Observation,
    /// The number of the trial that the session was.
    pub trial: Option<u64>,
}

/// What a session that wants a backend has behind it.
pub type PickContext<'a> = balance::PickContext<'a, Arc<Backend>>;

/// No backend is eligible, or all that are have been tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoneLeft;

impl Pool {
    /// An empty pool, and what its keeper is to listen to.
    pub fn new(settings: config::Pool, workers: usize) -> (Arc<Self>, mpsc::Receiver<SessionReport>) {
        let (observation, heard) = mpsc::channel(EVIDENCE_WAITING);
        let pool = Self {
            name: settings.name.as_str().into(),
            source: Arc::default(),
            times: SessionTimes::default(),
            queue_time: Histogram::fast(),
            probe_time: Histogram::fast(),
            orders: OrderDesk::default(),
            ended_without_backend: EndedCounts::default(),
            retries: Allowance::new(Instant::now()),
            hedges: Allowance::new(Instant::now()),
            second: Second::default(),
            closes: Closes::default(),
            forgotten_early: AtomicU64::new(0),
            standings: watch::Sender::default(),
            moves: AtomicU64::new(0),
            events: OnceLock::new(),
            all_down: AtomicBool::new(false),
            settled: watch::Sender::new(false),
            times_full: AtomicU64::new(0),
            workers,
            next_source: AtomicUsize::new(0),
            inner: Mutex::new(PoolState::new(&settings)),
            outliers: OutlierCounts::default(),
            published: ArcSwap::default(),
            observation,
            settings: ArcSwap::from_pointee(settings),
        };
        (Arc::new(pool), heard)
    }

    /// What the file says of it now. Taken once where several of them have to fit together.
    pub fn settings(&self) -> Arc<config::Pool> {
        self.settings.load_full()
    }

    /// Swaps what the file says of it. Backends, counts and sessions stay; who gets the next session follows the policy
    /// that is set now.
    pub fn change(&self, settings: config::Pool) {
        self.alter(|inner| {
            inner.change(&settings);
            self.settings.store(Arc::new(settings));
        });
        // What becomes of running sessions may be another thing now.
        self.standings.send_replace(());
    }

    /// Picks an eligible backend that the session has not tried, and claims it until the lease is dropped.
    ///
    /// # Errors
    /// [`NoneLeft`]; the caller decides whether a second try of a tried one makes sense.
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

    /// Whether there is a backend that the session has not tried, and may; trials aside.
    pub fn has_left(&self, context: &PickContext<'_>) -> bool {
        self.inner().has_left(context)
    }

    /// As [`Self::pick`] for a client whose session may pick any, but where all that it could get are at their cap, or the pool
    /// lets sessions wait for a backend that is up, the session gets a place in the queue.
    ///
    /// # Errors
    /// [`NoneLeft`]: there is no backend to wait for.
    pub fn pick_or_wait(self: &Arc<Self>, client: SocketAddr, queue: config::Queue) -> Result<PickOrWait, NoneLeft> {
        let waits_for_any = self.settings.load().when_all_down == config::WhenAllDown::Wait;
        let mut inner = self.inner();
        if let Ok(claim) = inner.pick(&PickContext { client, waits: true, ..PickContext::FIRST }) {
            drop(inner);
            return Ok(PickOrWait::Now(Lease::new(Arc::clone(self), claim)));
        }
        if !inner.is_full() && !waits_for_any {
            return Err(NoneLeft);
        }
        if inner.queue.len() >= queue.max_length {
            return Ok(PickOrWait::Full);
        }
        let place = inner.queue.enter(client);
        drop(inner);
        Ok(PickOrWait::Later(Waiting::new(Arc::clone(self), place)))
    }

    /// How often a session found every backend that it might get at its cap.
    pub fn times_full(&self) -> u64 {
        self.times_full.load(Relaxed)
    }

    /// Whether sessions wait for a backend that is at its cap.
    pub fn is_full(&self) -> bool {
        let inner = self.inner();
        inner.queue.len() > 0 && inner.is_full()
    }

    /// Sessions in the queue.
    pub fn queued(&self) -> usize {
        self.inner().queue.len()
    }

    /// The end of a lease; if it was a trial without a verdict, the next session is.
    fn give_back(&self, backend: &Backend, undecided_trial: Option<u64>) {
        self.alter(|inner| inner.give_back(backend, undecided_trial));
    }

    /// Makes a change that may let somebody be picked, and serves the queue before anybody else can pick.
    fn alter<R>(&self, change: impl FnOnce(&mut PoolState) -> R) -> R {
        let mut inner = self.inner();
        let result = change(&mut inner);
        let mut served = inner.serve();
        drop(inner);
        while !served.is_empty() {
            // Who has left meanwhile does not take it.
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

    /// Changes after a standing or an address has changed, or what follows from all of them together. Only the last change shows.
    pub fn standings(&self) -> watch::Receiver<()> {
        self.standings.subscribe()
    }

    /// How often a backend's address has changed, or what is true of the others of its name.
    pub fn moves(&self) -> u64 {
        self.moves.load(Relaxed)
    }

    /// Whether no backend is up although discovery has answered and all have been probed; over when one is up.
    pub fn is_all_down(&self) -> bool {
        self.all_down.load(Relaxed)
    }

    /// Whether discovery has answered and every backend of that answer has been probed once.
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

    /// The local addresses from which a backend at `address` can be dialled, each once, beginning with the
    /// one whose turn it is; empty = the kernel chooses.
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

    /// Everything that has an identity here, in no order: also what left and is remembered.
    pub fn members(&self) -> Arc<Vec<Arc<Backend>>> {
        Arc::clone(&self.published.load().members)
    }

    /// How many there are.
    pub fn counts(&self) -> MemberCounts {
        self.inner().counts()
    }

    /// Percent of the new sessions that each tier gets.
    pub fn tier_loads(&self) -> [u32; config::TIERS] {
        self.inner().balancer.loads()
    }

    /// Whether so few backends work that sessions may try the rest (`panic_threshold`).
    pub fn is_panicking(&self) -> bool {
        self.inner().panicking
    }

    /// How the trial of an ejected backend is doing.
    pub fn trial_of(&self, backend: &Backend) -> TrialState {
        self.inner().trial_of(backend)
    }

    /// Sessions that hold a backend.
    pub fn sessions(&self) -> usize {
        self.inner().sessions
    }

    /// Sessions that hold this backend.
    pub fn sessions_of(&self, backend: &Backend) -> u32 {
        self.inner().sessions_of(backend)
    }

    /// Whether sessions may try what is not up, by `when_all_down` or `panic_threshold`.
    pub fn is_open(&self) -> bool {
        self.inner().is_open()
    }

    /// Whether nothing is up and sessions may try the rest, those included that have not been probed yet.
    pub fn fail_open(&self) -> bool {
        self.inner().fails_open()
    }

    /// Bytes so far, removed backends included.
    pub fn bytes(&self, direction: Direction) -> u64 {
        let published = self.published.load();
        let members: u64 = published.members.iter().map(|backend| backend.stats.bytes.read(direction)).sum();
        members + published.retired[direction as usize]
    }

    /// From now on changes are told there.
    pub fn tell_to(&self, events: &Events) {
        // Once in a pool's life; a second one has no effect.
        let _ = self.events.set(events.clone());
    }

    /// Tells whoever follows.
    pub fn tell(&self, what: impl FnOnce() -> Happened) {
        if let Some(events) = self.events.get() {
            events.tell(what);
        }
    }

    fn inner(&self) -> MutexGuard<'_, PoolState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the keeper only.
impl Pool {
    /// A new member; it shows to readers after the next [`Self::publish`].
    pub fn add(&self, id: &Arc<str>, view: BackendView) -> Arc<Backend> {
        let make = |slot, view| Backend::new(Arc::clone(id), slot, self.workers, view);
        let backend = self.alter(|inner| inner.add(view, make));
        self.changed(&backend, None);
        backend
    }

    /// Gives a member its view, and picks what follows from it.
    pub fn place(&self, backend: &Backend, view: BackendView) {
        let opened = self.alter(|inner| inner.place(backend, &view));
        let before = backend.view();
        let (changed, moved) = (before.standing != view.standing, before.address != view.address);
        // What is true of it holds where it was before, too, or is another thing there now.
        let elsewhere =
            (changed && view.candidates.len() > 1) || before.candidates != view.candidates || before.dead != view.dead;
        backend.show(view);
        if moved || elsewhere {
            self.moves.fetch_add(1, Relaxed);
        }
        if changed || moved || elsewhere || opened {
            self.standings.send_replace(());
        }
        if changed {
            self.changed(backend, Some(before.standing));
        }
    }

    fn changed(&self, backend: &Backend, from: Option<Standing>) {
        let view = backend.view();
        backend.history.add(from, &view);
        self.tell(|| Happened::Standing {
            pool: Arc::clone(&self.name),
            backend: Arc::clone(&backend.id),
            address: view.address,
            from,
            to: view.standing,
            reason: Arc::clone(&view.reason),
        });
    }

    /// Forgets a member that has no sessions. Returns whether it did; it shows to readers until the next publish.
    pub fn forget(&self, backend: &Backend) -> bool {
        // The other tiers may get more.
        self.alter(|inner| inner.forget(backend))
    }

    /// The next session that has tried nothing yet may be an ejected backend's trial. Nothing changes if one is offered or
    /// on its way, or if it is not ejected.
    pub fn offer_trial(&self, backend: &Backend, failing: Failing) {
        self.alter(|inner| inner.offer_trial(backend, failing));
    }

    /// Whether that is the trial that is on its way; it is over then.
    pub fn end_trial(&self, backend: &Backend, number: u64) -> bool {
        self.inner().end_trial(backend, number)
    }

    /// Says whether nothing is up, and all have been probed.
    pub fn set_all_down(&self, all_down: bool) {
        self.all_down.store(all_down, Relaxed);
        self.tell(|| Happened::AllDown { pool: Arc::clone(&self.name), all_down });
        self.standings.send_replace(());
    }

    /// Says whether so few work that sessions may try what is not up and nobody took out.
    pub fn set_panicking(&self, panicking: bool) {
        self.alter(|inner| inner.set_panicking(panicking));
        self.standings.send_replace(());
    }

    /// Says that the pool is settled; returns whether it was not before.
    pub fn settle(&self) -> bool {
        let is_news = !self.settled.send_replace(true);
        if is_news {
            self.tell(|| Happened::Settled { pool: Arc::clone(&self.name) });
        }
        is_news
    }

    /// What readers see from now on.
    pub fn publish(&self, members: Vec<Arc<Backend>>) {
        let retired = self.inner().retired;
        self.published.store(Arc::new(Published { members: Arc::new(members), retired }));
    }
}
