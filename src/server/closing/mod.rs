//! Ends sessions whose both sides live: because of their backend's standing, their age, a stop or an operator. One task for
//! each pool decides from looks at the live sessions, and keeps nothing about a session in between; whatever the cause, all
//! closes of a pool go through one pace.

mod batch;
mod moved;
mod pacer;
mod rebalance;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, sleep_until};
use tracing::debug;

use crate::config::{ClosePolicy, Closing};
use crate::metrics::CloseCause;
use crate::pool::{Backend, Pool};
use crate::proxy::{ForcedEnd, SessionKey, SessionRef, Workers};
use crate::standing::Surroundings;
use batch::{BatchTarget, CloseBatch, Place};
use moved::{MovedSearch, MovedSessions};
use pacer::{Candidate, Pacer, latest_start};
use rebalance::RebalanceTask;
pub use rebalance::RebalanceView;

/// Between two looks at the sessions, while some are to be closed.
const LOOK: Duration = Duration::from_secs(1);

/// And at least so many times as long as the last look took: 100,000 sessions must not keep the control plane busy.
const REST: u32 = 20;

/// Standings that change together are one change, and what follows from all of them is known a moment later.
const SETTLE: Duration = Duration::from_millis(20);

/// What a pool's task is told.
#[derive(Debug)]
enum CloseOrder {
    Close(Vec<SessionKey>, CloseCause),
    Finish { from: Instant, until: Instant },
    Rebalance,
}

/// The handle to a pool's task.
#[derive(Debug)]
pub(super) struct Closer {
    pub(super) pool: Arc<Pool>,
    /// Unbounded: an operator's commands and a stop are few, and none may be lost.
    orders: mpsc::UnboundedSender<CloseOrder>,
}

impl Closer {
    /// Starts the task on the current runtime; it ends when this is dropped, or with the handle.
    pub(super) fn start(pool: &Arc<Pool>, workers: &Workers) -> (Self, AbortHandle) {
        let (orders, to_do) = mpsc::unbounded_channel();
        let task = CloseTask {
            pool: Arc::clone(pool),
            workers: workers.clone(),
            batches: Vec::new(),
            named: 0,
            search: MovedSearch::default(),
            pacer: Pacer::new(fastrand::u64(..)),
            rebalance: RebalanceTask::default(),
            lots: fastrand::u64(..),
            next_look: None,
            rest_until: Instant::now(),
        };
        let task = tokio::spawn(task.run(to_do));
        (Self { pool: Arc::clone(pool), orders }, task.abort_handle())
    }

    /// Closes these sessions of the pool, at its pace.
    pub(super) fn close(&self, sessions: Vec<SessionKey>, cause: CloseCause) {
        // A task that is gone was stopped with all else.
        let _ = self.orders.send(CloseOrder::Close(sessions, cause));
    }

    /// Closes sessions of backends that have more than their part, once.
    pub(super) fn rebalance(&self) {
        let _ = self.orders.send(CloseOrder::Rebalance);
    }

    /// Closes all sessions so that none is left when `until` has come: as late as the pace allows, and not before `from`.
    pub(super) fn finish(&self, from: Instant, until: Instant) {
        let _ = self.orders.send(CloseOrder::Finish { from, until });
    }
}

struct CloseTask {
    pool: Arc<Pool>,
    workers: Workers,
    batches: Vec<CloseBatch>,
    /// How many batches there have been: their names.
    named: u64,
    search: MovedSearch,
    pacer: Pacer<CloseClaim>,
    rebalance: RebalanceTask,
    /// Seeds each session's own lifetime.
    lots: u64,
    /// `None` = nothing is to be closed.
    next_look: Option<Instant>,
    rest_until: Instant,
}

/// What a session is closed for.
#[derive(Clone, Copy, Debug)]
struct CloseClaim {
    session: SessionKey,
    cause: CloseCause,
    /// The name of the batch; `None` = its lifetime, or a rebalance.
    batch: Option<u64>,
}

impl CloseTask {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<CloseOrder>) {
        let mut standings = self.pool.standings();
        // What was before is to be compared, too.
        standings.mark_changed();
        self.schedule(Instant::now(), false);
        loop {
            let wake = self.next_look.into_iter().chain(self.pacer.next()).min();
            tokio::select! {
                changed = standings.changed() => {
                    // The sender is in the pool.
                    if changed.is_err() { return }
                    sleep(SETTLE).await;
                    standings.mark_unchanged();
                    let now = Instant::now();
                    let changed = self.compare(now);
                    self.schedule(now, changed);
                }
                order = orders.recv() => {
                    let Some(order) = order else { return };
                    self.obey(order);
                    self.schedule(Instant::now(), true);
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {}
            }
            let now = Instant::now();
            if self.next_look.is_some_and(|at| at <= now) {
                let found = self.look(now);
                (self.next_look, self.rest_until) = (None, now + now.elapsed() * REST);
                self.schedule(Instant::now(), found);
            }
            self.close_due();
            self.pool.closes.waiting.store(self.pacer.len(), Relaxed);
        }
    }

    fn obey(&mut self, order: CloseOrder) {
        let now = Instant::now();
        let deadline = self.pool.settings().closing.deadline;
        let (whom, cause, from, until) = match order {
            CloseOrder::Close(sessions, cause) => {
                (BatchTarget::These(sessions.into_iter().collect()), cause, now, now + deadline)
            }
            CloseOrder::Finish { from, until } => (BatchTarget::All, CloseCause::Shutdown, from, until),
            CloseOrder::Rebalance => return self.rebalance.begin(now, &self.pool),
        };
        self.begin(CloseBatch::new(whom, cause, from, until));
    }

    fn begin(&mut self, mut batch: CloseBatch) {
        self.named += 1;
        batch.name = self.named;
        self.batches.push(batch);
    }

    /// Begins to close the sessions of a backend at this address, if the pool wants that.
    fn begin_at(&mut self, now: Instant, backend: &Arc<Backend>, address: SocketAddr) {
        let Some((cause, wait)) = fate(&self.pool, backend, address) else { return };
        let (from, deadline) = (now + wait, self.pool.settings().closing.deadline);
        self.begin(CloseBatch::new(BatchTarget::At(Arc::downgrade(backend), address), cause, from, from + deadline));
    }

    /// Compares the batches with the standings. Returns whether there is a new one.
    fn compare(&mut self, now: Instant) -> bool {
        let mut known = HashSet::new();
        self.batches.retain_mut(|batch| {
            let BatchTarget::At(backend, address) = &batch.whom else { return true };
            let Some(backend) = backend.upgrade() else { return false };
            let stays = fate(&self.pool, &backend, *address).is_some_and(|(cause, _)| cause == batch.cause);
            if stays {
                known.extend(batch.whom.place());
            } else {
                batch.call_off(&self.pool);
            }
            stays
        });
        self.pacer.retain(|claim| claim.batch.is_none_or(|name| self.batches.iter().any(|batch| batch.name == name)));
        let before = self.named;
        for backend in self.pool.members().iter() {
            let address = backend.view().address;
            if !known.contains(&(Arc::as_ptr(backend).addr(), address)) {
                self.begin_at(now, backend, address);
            }
        }
        let is_well = self.rebalance.compare(now, &self.pool);
        self.pacer.retain(|claim| is_well || claim.cause != CloseCause::Rebalance);
        self.search.compare(now, &self.pool) || self.named > before
    }

    /// Says when the next look is.
    fn schedule(&mut self, now: Instant, at_once: bool) {
        let lifetime = self.pool.settings().closing.max_lifetime;
        if self.batches.is_empty() && lifetime.is_none() && !self.search.is_on() && !self.rebalance.is_on() {
            self.next_look = None;
            return;
        }
        // A tenth of a short lifetime, so that a session is not closed much too late.
        let pause = lifetime.map_or(LOOK, |lifetime| LOOK.min(lifetime / 10)).max(Duration::from_millis(10));
        let next = if at_once { now } else { self.next_look.unwrap_or(now + pause) };
        self.next_look = Some(next.max(self.rest_until));
    }

    /// Looks at sessions, at all of them only where some may have to be closed that are not known yet: which are to be closed,
    /// and when? Returns whether that is for another look to say of some.
    fn look(&mut self, now: Instant) -> bool {
        let closing = self.pool.settings().closing;
        let mut movable = self.rebalance.look(now, &self.pool);
        let is_sweep = closing.max_lifetime.is_some()
            || self.search.is_on()
            || movable.is_wanted()
            || self.batches.iter().any(|batch| batch.may_have_more(&self.pool));
        let mut candidates = Vec::new();
        let mut waiting = vec![0; self.batches.len()];
        let mut moved = MovedSessions::new();
        let by_place = self.batches.iter().enumerate().filter_map(|(i, batch)| Some((batch.whom.place()?, i)));
        let by_place: HashMap<Place, usize> = by_place.collect();
        let others: Vec<usize> = (0..self.batches.len()).filter(|&i| self.batches[i].whom.place().is_none()).collect();
        let mut judge = |session: SessionRef<'_>| {
            if session.is_ending || !session.pool.is_some_and(|pool| std::ptr::eq(pool, &*self.pool)) {
                return;
            }
            let place = session.backend.map(|(backend, address)| (Arc::as_ptr(backend).addr(), address));
            let at_place = place.and_then(|place| by_place.get(&place));
            let batches = at_place.into_iter().chain(&others);
            let batch = batches.filter(|&&i| self.batches[i].concerns(&session)).min_by_key(|&&i| self.batches[i].from);
            if batch.is_none() {
                self.search.note(session.backend, &mut moved);
            }
            let old = self.age_out(now, &closing, &session);
            let claim = |cause, batch| CloseClaim { session: session.key, cause, batch };
            let (key, from, until) = match (batch, old) {
                (Some(&i), old) if old.is_none_or(|at| self.batches[i].from <= at) => {
                    waiting[i] += 1;
                    let batch = &self.batches[i];
                    (claim(batch.cause, Some(batch.name)), batch.from, batch.until)
                }
                (_, Some(at)) => (claim(CloseCause::MaxLifetime, None), at, at + closing.deadline),
                (_, None) => return movable.note(&session),
            };
            candidates.push(Candidate { key, idle_since: session.idle_since, from, until });
        };
        if is_sweep {
            self.workers.visit_sessions(judge);
        } else {
            // What is to be closed is known: a session that goes on is not looked at for it.
            for session in self.known() {
                self.workers.visit_session(session, &mut judge);
            }
        }
        let finish = |batch: &CloseBatch| {
            matches!(batch.whom, BatchTarget::All).then_some((batch.name, batch.from, batch.until))
        };
        if let Some((name, from, until)) = self.batches.iter().find_map(finish) {
            let of_stop = |candidate: &&mut Candidate<CloseClaim>| candidate.key.batch == Some(name);
            let start = latest_start(candidates.len(), closing.rate, from, until);
            candidates.iter_mut().filter(of_stop).for_each(|candidate| candidate.from = start);
        }
        candidates.extend(movable.chosen());
        for (batch, waiting) in self.batches.iter_mut().zip(waiting) {
            batch.looked_at(now, waiting, &self.pool);
        }
        self.batches.retain(|batch| !batch.is_over());
        self.pacer.replace(now, closing.rate, candidates);
        self.search.looked(now);
        let before = self.named;
        for ((_, address), backend) in moved {
            if let Some(backend) = backend.upgrade() {
                self.begin_at(now, &backend, address);
            }
        }
        self.named > before
    }

    /// The sessions that wait to be closed, and those that an operator has named.
    fn known(&self) -> HashSet<SessionKey> {
        let named = self.batches.iter().filter_map(|batch| match &batch.whom {
            BatchTarget::These(sessions) => Some(sessions),
            BatchTarget::At(..) | BatchTarget::All => None,
        });
        self.pacer.waiting().map(|claim| claim.session).chain(named.flatten().copied()).collect()
    }

    /// When the session's lifetime is over, if that is before the next look.
    fn age_out(&self, now: Instant, closing: &Closing, session: &SessionRef<'_>) -> Option<Instant> {
        let most = closing.max_lifetime?;
        // The same at each look: it is drawn from the session's number.
        let lot = fastrand::Rng::with_seed(self.lots ^ session.key.id).f64();
        let at = session.began + most.mul_f64(1.0 - f64::from(closing.max_lifetime_jitter) / 100.0 * lot);
        (at <= now + LOOK.min(most / 10)).then_some(at)
    }

    /// Closes no more of a batch. What was closed of it stays closed; the next change of a standing may begin it anew.
    fn call_off(&mut self, name: Option<u64>) {
        self.batches.retain_mut(|batch| {
            let stays = Some(batch.name) != name;
            if !stays {
                batch.call_off(&self.pool);
            }
            stays
        });
        self.pacer.retain(|claim| claim.batch.is_none() || claim.batch != name);
    }

    fn close_due(&mut self) {
        // What the last look saw may be a second old. With several at once, one that still waits for a backend goes before the
        // one whose place it would get.
        let mut due = Vec::new();
        for claim in self.pacer.due(Instant::now()) {
            self.workers.visit_session(claim.session, |session| due.push((session.idle_since, claim)));
        }
        due.sort_by_key(|(idle_since, _)| *idle_since);
        // What is closed together has to find room together.
        let mut closed_for_failback = 0;
        for (_, claim) in due {
            if claim.cause == CloseCause::Failback {
                if self.pool.room_before_backups().is_some_and(|room| room <= closed_for_failback) {
                    self.call_off(claim.batch);
                    continue;
                }
                closed_for_failback += 1;
            }
            if !self.workers.cut(claim.session, cut(claim.cause), |pool| count_close(pool, claim.cause)) {
                // It has ended by itself.
                continue;
            }
            match claim.batch.and_then(|name| self.batches.iter_mut().find(|batch| batch.name == name)) {
                Some(batch) => batch.closed(&self.pool),
                None if claim.cause == CloseCause::Rebalance => {
                    self.rebalance.count(Instant::now(), &self.pool);
                    debug!(pool = %self.pool.name, session = claim.session.id, "its backend has more than its part");
                }
                None => debug!(pool = %self.pool.name, session = claim.session.id, "max_lifetime is over"),
            }
        }
    }
}

/// What the pool wants done with the sessions of a backend at that address, and after how long; `None` = nothing.
fn fate(pool: &Pool, backend: &Backend, address: SocketAddr) -> Option<(CloseCause, Duration)> {
    let around = Surroundings { is_open: pool.is_open(), is_relieved: pool.is_relieved(backend) };
    match backend.standing_at(address).fate(around, &pool.settings().closing)? {
        // A session that is closed must find a place before the backup.
        (CloseCause::Failback, _) if pool.room_before_backups() == Some(0) => None,
        (_, ClosePolicy::Keep) => None,
        (cause, ClosePolicy::Drain(wait)) => Some((cause, wait)),
        (cause, ClosePolicy::Close) => Some((cause, Duration::ZERO)),
    }
}

/// Just before a session is told. One without a pool yet is counted nowhere.
pub(super) fn count_close(pool: Option<&Pool>, cause: CloseCause) {
    if let Some(pool) = pool {
        pool.closes.closed.add(cause, 1);
    }
}

/// A session's outcome has fewer words than the causes: maintenance and a stop are both the end of a drain.
pub(super) fn cut(cause: CloseCause) -> ForcedEnd {
    match cause {
        CloseCause::BackendDown => ForcedEnd::BackendDown,
        CloseCause::BackendRemoved => ForcedEnd::BackendRemoved,
        CloseCause::Maintenance | CloseCause::Shutdown => ForcedEnd::Drained,
        CloseCause::MaxLifetime => ForcedEnd::MaxLifetime,
        CloseCause::Rebalance | CloseCause::Failback => ForcedEnd::Rebalanced,
        CloseCause::Operator => ForcedEnd::Killed,
    }
}
