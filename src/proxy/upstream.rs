//! From a session to a connected backend: pick, or wait in the pool's queue; dial, dial another one beside it if that takes
//! long, and retry while the backend has sent nothing. Backends that have not been tried come first, all that the session
//! may use, until `connect.deadline`; when none is left, the tried ones again after a pause, up to `connect.attempts`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};
use tracing::info;

use super::context::SessionContext;
use super::dial::{Connected, Dials, Failed};
use super::live::Phase;
use super::tries::Tries;
use crate::config::{self, Spill};
use crate::deadline::within;
use crate::metrics::Hedge;
use crate::pool::{Backend, Lease, NoneLeft, Permit, PickOrWait};

/// The least time between two questions for the retry budget.
const BREATH: Duration = Duration::from_millis(20);

/// Backends dialled beside a slow one, in percent of the connects that succeed: where all are far away and every connect is
/// slow, half as many more at most.
const HEDGES: u16 = 50;

/// Why there is none.
#[derive(Debug)]
pub(super) struct NoConnection {
    pub(super) given_up: GivenUp,
    /// The last attempt of this search.
    pub(super) last: Option<Failed>,
}

/// Why a search ends without another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// There is no backend that it may try.
    NoneLeft,
    /// All were tried, and `connect.attempts` is reached.
    Attempts,
    /// `connect.deadline` is over.
    Deadline,
    /// `connect.retry_budget` had nothing to give until then.
    RetryBudget,
    /// Nothing had room, and too many wait.
    QueueFull,
    /// Nothing had room for too long.
    QueueTimeout,
}

/// One session's search for a backend that serves it. It may be gone on with when the one that was found fails.
#[derive(Debug)]
pub(super) struct Search<'a> {
    context: &'a SessionContext<'a>,
    random: fastrand::Rng,
    /// The backend that is found is sent some at once.
    has_bytes: bool,
    tries: Tries,
    found: bool,
    /// Time in the queue, and since when it is there now.
    queued: Duration,
    in_queue_since: Option<Instant>,
}

impl<'a> Search<'a> {
    pub(super) fn new(context: &'a SessionContext<'a>, has_bytes: bool) -> Self {
        let (random, tries) = (context.worker.random(), Tries::new(context.affinity));
        Self { context, random, has_bytes, tries, found: false, queued: Duration::ZERO, in_queue_since: None }
    }

    /// How long it has waited in the pool's queue, if it had to.
    pub(super) fn queued(&self) -> Option<Duration> {
        let queued = self.queued + self.in_queue_since.map_or(Duration::ZERO, |since| since.elapsed());
        (!queued.is_zero()).then_some(queued)
    }

    /// Connects to a backend of the pool, or takes a connection that the worker has in stock for it. `attempts` counts the
    /// dials over all calls, also when the future is dropped; `connect.deadline` begins with each call, and does not pass in
    /// the queue. After one was found, only backends that have not been tried are, and nothing is waited for.
    ///
    /// # Cancel safety
    /// Dropping it closes the sockets in the making and gives back the leases; the attempts are counted as abandoned.
    pub(super) async fn next(&mut self, attempts: &mut u32) -> Result<Connected, NoConnection> {
        let SessionContext { pool, settings, .. } = self.context;
        let policy = &settings.connect;
        let mut deadline = Instant::now() + policy.deadline;
        // An attempt that ends before it could be hedged needs no timer.
        let pause = policy.hedge.filter(|hedge| *hedge < policy.timeout);
        let (mut dials, mut hedge_at, mut last) = (Dials::default(), None, None);
        loop {
            if dials.is_empty() {
                let mut lease = match self.choose(*attempts, &mut deadline).await {
                    Ok(lease) => lease,
                    Err(given_up) => return Err(NoConnection { given_up, last }),
                };
                if let Some(socket) = self.context.worker.stock.take(&mut lease) {
                    *attempts += u32::from(self.found);
                    return Ok(self.found(Connected { socket, lease }));
                }
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(NoConnection { given_up: GivenUp::Deadline, last });
                }
                *attempts += 1;
                self.tries.dials(lease.backend());
                dials.begin(lease, (pool, settings, self.has_bytes), policy.timeout.min(left));
                hedge_at = pause.map(|pause| Instant::now() + pause);
            }
            tokio::select! {
                biased;
                result = dials.first() => match result {
                    Ok(connected) => return Ok(self.found(connected)),
                    Err(failed) => {
                        self.tries.failed(&failed.0, failed.1.name());
                        last = Some(failed);
                        // The others are slow: there is nothing to wait for before one more is tried.
                        hedge_at = hedge_at.map(|_| Instant::now());
                    }
                },
                () = until(hedge_at) => {
                    hedge_at = pause.map(|pause| Instant::now() + pause);
                    let left = deadline.saturating_duration_since(Instant::now());
                    if let Some(connected) = self.hedge(&mut dials, policy.timeout.min(left), attempts) {
                        return Ok(self.found(connected));
                    }
                }
            }
        }
    }

    /// Claims the backend that is dialled next. One that was not tried is always taken; only a second try of the others
    /// depends on the attempts so far.
    async fn choose(&mut self, attempts: u32, deadline: &mut Instant) -> Result<Lease, GivenUp> {
        let SessionContext { pool, settings, .. } = self.context;
        let policy = &settings.connect;
        let waits = self.waits();
        if self.tries.is_first() {
            return match pool.pick(&self.tries.untried(waits)) {
                Ok(lease) => Ok(lease),
                Err(NoneLeft) => self.wait(deadline).await,
            };
        }
        // A writer that must not go to a backup tries its own tier until the deadline.
        let is_bound = settings.resilience.spill == Spill::NONE;
        let mut is_paid = false;
        loop {
            let is_left = pool.has_left(&self.tries.untried(waits));
            if !is_left && self.found {
                return Err(GivenUp::NoneLeft);
            }
            if !is_left && attempts >= policy.attempts && !is_bound {
                return Err(GivenUp::Attempts);
            }
            if !is_left && !pool.has_left(&self.tries.again(waits)) {
                if self.tries.is_new_round() {
                    return self.wait(deadline).await;
                }
                self.tries.begin_round();
                let delay = if is_bound { policy.retry_delay.max(BREATH) } else { policy.retry_delay };
                if !self.rest(delay, *deadline).await {
                    return Err(GivenUp::Deadline);
                }
            } else if !is_paid {
                // It may take a while, after which another one may be left.
                if !self.pay(*deadline).await {
                    return Err(GivenUp::RetryBudget);
                }
                is_paid = true;
            } else if let Ok(lease) =
                pool.pick(&if is_left { self.tries.untried(waits) } else { self.tries.again(waits) })
            {
                return Ok(lease);
            }
        }
    }

    /// A session that has been served has no time to wait for a place.
    fn waits(&self) -> bool {
        self.context.settings.queue.is_some() && !self.found
    }

    /// Waits for its turn in the pool's queue, if it has one. Before it is refused it goes to the next tier, if it may.
    async fn wait(&mut self, deadline: &mut Instant) -> Result<Lease, GivenUp> {
        let Some(queue) = self.context.settings.queue else { return Err(GivenUp::NoneLeft) };
        let waited = self.wait_in(queue, deadline).await;
        waited.or_else(|given_up| self.context.pool.pick(&self.tries.untried(false)).map_err(|NoneLeft| given_up))
    }

    async fn wait_in(&mut self, queue: config::Queue, deadline: &mut Instant) -> Result<Lease, GivenUp> {
        let waiting = match self.context.pool.pick_or_wait(self.context.affinity, queue) {
            Ok(PickOrWait::Now(lease)) => return Ok(lease),
            Ok(PickOrWait::Later(waiting)) => waiting,
            Ok(PickOrWait::Full) => return Err(GivenUp::QueueFull),
            Err(NoneLeft) => return Err(GivenUp::NoneLeft),
        };
        let since = Instant::now();
        self.in_queue_since = Some(since);
        self.context.live.phase(Phase::Queued);
        let served = within(queue.timeout, waiting).await;
        self.context.live.phase(Phase::Connecting);
        self.in_queue_since = None;
        self.queued += since.elapsed();
        *deadline += since.elapsed();
        match served {
            Ok(served) => served.map_err(|NoneLeft| GivenUp::NoneLeft),
            Err(_) => Err(GivenUp::QueueTimeout),
        }
    }

    /// Dials one more backend beside the others, if one is left and it may; a connection in stock is there at once.
    fn hedge(&mut self, dials: &mut Dials, limit: Duration, attempts: &mut u32) -> Option<Connected> {
        if limit.is_zero() {
            return None;
        }
        let pool = &self.context.pool;
        let mut lease = pool.pick(&self.tries.untried(self.waits())).ok()?;
        if let Some(socket) = self.context.worker.stock.take(&mut lease) {
            dials.outrun();
            pool.second.hedges.count(Hedge::Won);
            return Some(Connected { socket, lease });
        }
        let place = self.context.live.listener.spare_place();
        let Some(place) = place.filter(|_| pool.hedges.take(Instant::now(), HEDGES) == Permit::Granted) else {
            pool.second.hedges.count(Hedge::Refused);
            return None;
        };
        *attempts += 1;
        self.tries.dials(lease.backend());
        dials.hedge(lease, (pool, &self.context.settings, self.has_bytes), limit, place);
        None
    }

    /// The one that was found failed before it had answered.
    pub(super) fn failed(&mut self, backend: &Arc<Backend>, reason: &'static str) {
        self.tries.failed(backend, reason);
    }

    /// Waits until the pool's budget has a retry to give; `false` = not before the deadline.
    async fn pay(&mut self, deadline: Instant) -> bool {
        let (pool, policy) = (&self.context.pool, &self.context.settings.connect);
        let mut is_held = false;
        loop {
            match pool.retries.take(Instant::now(), policy.retry_budget) {
                Permit::Granted => return true,
                Permit::Refused(None) => {}
                Permit::Refused(Some(left_out)) => info!(
                    pool = %pool.name, left_out, "retries wait: connect.retry_budget is used up"
                ),
            }
            if !std::mem::replace(&mut is_held, true) {
                pool.retries.hold();
            }
            if !self.rest(policy.retry_delay.max(BREATH), deadline).await {
                return false;
            }
        }
    }

    /// Waits 50 % to 100 % of it, so that the clients of a dead pool do not come back together; `false` = it would be later
    /// than the deadline.
    async fn rest(&mut self, delay: Duration, deadline: Instant) -> bool {
        let pause = delay.mul_f64(0.5 + self.random.f64() / 2.0);
        if Instant::now() + pause >= deadline {
            return false;
        }
        sleep(pause).await;
        true
    }

    fn found(&mut self, connected: Connected) -> Connected {
        let pool = &self.context.pool;
        pool.hedges.succeeded();
        // Where requests are replayed, it is the answer that counts.
        if self.context.settings.replay.is_none() {
            pool.retries.succeeded();
        }
        self.tries.found(connected.lease.backend());
        self.found = true;
        connected
    }
}

impl Drop for Search<'_> {
    /// However the search ends, the session's line says which backends failed it.
    fn drop(&mut self) {
        if let Some(failed) = self.tries.failures() {
            self.context.live.note_failed_attempts(failed);
        }
    }
}

impl GivenUp {
    /// For a log line.
    pub(super) fn says(self) -> &'static str {
        match self {
            Self::NoneLeft => "no other backend may be tried",
            Self::Attempts => "all were tried, and connect.attempts is reached",
            Self::Deadline => "connect.deadline is over",
            Self::RetryBudget => "connect.deadline ended the wait for connect.retry_budget",
            Self::QueueFull => "the queue is full",
            Self::QueueTimeout => "queue.timeout is over",
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
