//! What both planes share about a pool. Picks, releases and eligibility are one state machine behind one short mutex:
//! nothing in here awaits, does I/O or logs. The keeper is the only writer of membership and facts.

mod backend;
mod lease;
mod preconnected;
mod source;
mod stats;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::balance::Balancer;
use crate::config;
use crate::metrics::{ConnectFailure, Direction};
use crate::standing::Standing;
pub use backend::{Backend, BackendStats, View};
pub use lease::Lease;
pub use preconnected::{Preconnected, Preconnects};
pub use source::{SourceStatus, SourceView};
pub use stats::{ByteCell, Bytes, Closes, Ended, Failures, Histogram, Outcomes, Sources, Times};

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
    pub times: Times,
    /// How long probes take.
    pub probe_time: Histogram,
    /// Sessions that ended without a backend.
    pub ended_without_backend: Ended,
    /// Sessions that are ended although both their sides live.
    pub closes: Closes,
    /// Bumped when a standing changes.
    standings: watch::Sender<()>,
    all_down: AtomicBool,
    settled: watch::Sender<bool>,
    workers: usize,
    /// Whose turn it is among `settings.sources`.
    next_source: AtomicUsize,
    inner: Mutex<Inner>,
    published: ArcSwap<Published>,
    evidence: mpsc::Sender<Evidence>,
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

#[derive(Debug)]
struct Inner {
    balancer: Balancer,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    sessions: usize,
    counts: Counts,
    fail_open: bool,
    /// Bytes of forgotten backends, also of those that readers still see as members.
    retired: [u64; Direction::ALL.len()],
}

#[derive(Debug)]
struct Slot {
    backend: Arc<Backend>,
    address: SocketAddr,
    weight: u16,
    standing: Standing,
    /// What the balancer was told last.
    runs: bool,
}

/// How many members a pool has, by what they can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not removed.
    pub members: usize,
    /// Standing `up` and a weight.
    pub up: usize,
    /// Standing `unproven`.
    pub unproven: usize,
    /// May get a new session now.
    pub eligible: usize,
}

/// A session's connect failed by the backend's fault.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Whose.
    pub backend: Arc<Backend>,
    /// The address that was dialled; the backend may have another one by now.
    pub address: SocketAddr,
    /// Failures in a row, this one included.
    pub in_a_row: u32,
    /// Why it failed.
    pub reason: ConnectFailure,
}

/// No backend is eligible, or all that are have been tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoneLeft;

impl Pool {
    /// An empty pool, and what its keeper is to listen to.
    pub fn new(settings: config::Pool, workers: usize) -> (Arc<Self>, mpsc::Receiver<Evidence>) {
        let (evidence, heard) = mpsc::channel(EVIDENCE_WAITING);
        let pool = Self {
            name: settings.name.as_str().into(),
            source: Arc::default(),
            times: Times::default(),
            probe_time: Histogram::fast(),
            ended_without_backend: Ended::default(),
            closes: Closes::default(),
            standings: watch::Sender::default(),
            all_down: AtomicBool::new(false),
            settled: watch::Sender::new(false),
            workers,
            next_source: AtomicUsize::new(0),
            inner: Mutex::new(Inner {
                balancer: Balancer::new(settings.balance),
                slots: Vec::new(),
                free: Vec::new(),
                sessions: 0,
                counts: Counts::default(),
                fail_open: false,
                retired: Default::default(),
            }),
            published: ArcSwap::default(),
            evidence,
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
        let mut inner = self.inner();
        inner.balancer.switch(settings.balance);
        self.settings.store(Arc::new(settings));
        drop(inner);
        // What becomes of running sessions may be another thing now.
        self.standings.send_replace(());
    }

    /// Picks an eligible backend that is not in `tried`, and claims it for a session until the lease is dropped.
    ///
    /// # Errors
    /// [`NoneLeft`]; the caller decides whether a second try of a tried one makes sense.
    pub fn pick(self: &Arc<Self>, tried: &[Arc<Backend>]) -> Result<Lease, NoneLeft> {
        let mut inner = self.inner();
        let tried: Vec<usize> =
            tried.iter().filter(|backend| inner.knows(backend)).map(|backend| backend.slot).collect();
        let slot = inner.balancer.pick(&tried).ok_or(NoneLeft)?;
        // The balancer knows only slots that are taken.
        let Some(Slot { backend, address, .. }) = &inner.slots[slot] else { return Err(NoneLeft) };
        let (backend, address) = (Arc::clone(backend), *address);
        inner.sessions += 1;
        drop(inner);
        Ok(Lease::new(Arc::clone(self), backend, address))
    }

    /// Changes after a standing has changed, or what follows from all of them together. Only the last change shows.
    pub fn standings(&self) -> watch::Receiver<()> {
        self.standings.subscribe()
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
    pub fn counts(&self) -> Counts {
        self.inner().counts
    }

    /// Sessions that hold a backend.
    pub fn sessions(&self) -> usize {
        self.inner().sessions
    }

    /// Sessions that hold this backend.
    pub fn sessions_of(&self, backend: &Backend) -> u32 {
        let inner = self.inner();
        if inner.knows(backend) { inner.balancer.sessions(backend.slot) } else { 0 }
    }

    /// Whether nothing is up and sessions may try the rest.
    pub fn fail_open(&self) -> bool {
        self.inner().fail_open
    }

    /// Bytes so far, removed backends included.
    pub fn bytes(&self, direction: Direction) -> u64 {
        let published = self.published.load();
        let members: u64 = published.members.iter().map(|backend| backend.stats.bytes.read(direction)).sum();
        members + published.retired[direction as usize]
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the keeper only.
impl Pool {
    /// A new member; it shows to readers after the next [`Self::publish`].
    pub fn add(&self, id: &Arc<str>, view: View) -> Arc<Backend> {
        let mut inner = self.inner();
        let slot = inner.free.pop().unwrap_or(inner.slots.len());
        if slot == inner.slots.len() {
            inner.slots.push(None);
        }
        let (address, weight, standing) = (view.address, view.weight, view.standing);
        let backend = Arc::new(Backend::new(Arc::clone(id), slot, self.workers, view));
        inner.slots[slot] = Some(Slot { backend: Arc::clone(&backend), address, weight, standing, runs: false });
        inner.counts.add(standing, weight);
        inner.apply(slot);
        backend
    }

    /// Gives a member its view, and picks what follows from it.
    pub fn place(&self, backend: &Backend, view: View) {
        let mut inner = self.inner();
        if inner.knows(backend)
            && let Some(slot) = &mut inner.slots[backend.slot]
        {
            let before = (slot.standing, slot.weight);
            (slot.address, slot.standing, slot.weight) = (view.address, view.standing, view.weight);
            inner.counts.remove(before.0, before.1);
            inner.counts.add(view.standing, view.weight);
            inner.apply(backend.slot);
        }
        let changed = backend.view().standing != view.standing;
        backend.show(view);
        if changed {
            self.standings.send_replace(());
        }
    }

    /// Forgets a member that has no sessions. Returns whether it did; it shows to readers until the next publish.
    pub fn forget(&self, backend: &Backend) -> bool {
        let mut inner = self.inner();
        if !inner.knows(backend) {
            return true;
        }
        if inner.balancer.sessions(backend.slot) > 0 {
            return false;
        }
        if let Some(slot) = inner.slots[backend.slot].take() {
            inner.counts.remove(slot.standing, slot.weight);
            inner.counts.eligible -= usize::from(slot.runs);
            inner.balancer.clear(backend.slot);
            inner.free.push(backend.slot);
        }
        for direction in Direction::ALL {
            inner.retired[direction as usize] += backend.stats.bytes.read(direction);
        }
        true
    }

    /// Says whether nothing is up. If the pool is set to `when_all_down = "any"`, sessions may then try what is not up
    /// and nobody took out.
    pub fn set_all_down(&self, all_down: bool) {
        self.all_down.store(all_down, Relaxed);
        let fail_open = all_down && self.settings.load().when_all_down == config::WhenAllDown::Any;
        let mut inner = self.inner();
        inner.fail_open = fail_open;
        for slot in 0..inner.slots.len() {
            inner.apply(slot);
        }
        drop(inner);
        self.standings.send_replace(());
    }

    /// Says that the pool is settled; returns whether it was not before.
    pub fn settle(&self) -> bool {
        !self.settled.send_replace(true)
    }

    /// What readers see from now on.
    pub fn publish(&self, members: Vec<Arc<Backend>>) {
        let retired = self.inner().retired;
        self.published.store(Arc::new(Published { members: Arc::new(members), retired }));
    }
}

impl Inner {
    /// Whether it has not been forgotten; its slot may be another one's by now.
    fn knows(&self, backend: &Backend) -> bool {
        self.slots[backend.slot].as_ref().is_some_and(|slot| std::ptr::eq(&*slot.backend, backend))
    }

    /// Brings the balancer in line with a slot.
    fn apply(&mut self, number: usize) {
        let Some(slot) = &mut self.slots[number] else { return };
        let eligible = slot.standing == Standing::Up || (self.fail_open && slot.standing.is_last_resort());
        self.balancer.set(number, slot.weight, eligible);
        let runs = eligible && slot.weight > 0;
        self.counts.eligible -= usize::from(slot.runs);
        self.counts.eligible += usize::from(runs);
        slot.runs = runs;
    }
}

impl Counts {
    fn add(&mut self, standing: Standing, weight: u16) {
        self.members += usize::from(standing != Standing::Removed);
        self.up += usize::from(standing == Standing::Up && weight > 0);
        self.unproven += usize::from(standing == Standing::Unproven);
    }

    fn remove(&mut self, standing: Standing, weight: u16) {
        self.members -= usize::from(standing != Standing::Removed);
        self.up -= usize::from(standing == Standing::Up && weight > 0);
        self.unproven -= usize::from(standing == Standing::Unproven);
    }
}
