//! From a session to a connected backend: pick, or wait in the pool's queue; dial, dial another one beside it if that takes
//! long, and retry while the backend has sent nothing; in the pool, or in a fallback while the pool has nothing for the
//! session. Backends that have not been tried come first, all that it may use, until `connect.deadline`; when none is left,
//! the tried ones again after a pause, up to `connect.attempts`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};
use tracing::info;

use super::context::SessionContext;
use super::dial::{Connected, Dials, Failed, FirstBytes};
use super::live::Phase;
use super::starttls::Opening;
use super::tries::Tries;
use crate::config::{Queue, Spill, WhenAllDown};
use crate::deadline::within;
use crate::metrics::{ConnectFailure, Hedge};
use crate::pool::{Backend, ChainPool, Course, Lease, NoneLeft, Permit, PickContext, PickOrWait, Prospect, course};

/// The least time between two questions for the retry budget.
const BREATH: Duration = Duration::from_millis(20);

/// Backends dialled beside a slow one, in percent of the connects that succeed: where all are far away and every connect is
/// slow, half as many more at most.
const HEDGES: u16 = 50;

/// Between two looks whether another pool has room, of a session that waits in a queue: rare, and short beside a wait.
const LOOK_ELSEWHERE: Duration = Duration::from_millis(250);

/// Backends that a session may be given: [`Tries::untried`] or [`Tries::again`].
type Those = for<'t> fn(&'t Tries, &ChainPool, bool) -> PickContext<'t>;

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
    /// The backend does not begin TLS, although the client was told that it would.
    Starttls,
}

/// One session's search for a backend that serves it. It may be gone on with when the one that was found fails.
#[derive(Debug)]
pub(super) struct Search<'a> {
    context: &'a SessionContext<'a>,
    random: fastrand::Rng,
    /// The client has said something already.
    has_bytes: bool,
    /// What every backend has to answer first.
    opening: Option<&'a Opening<'a>>,
    tries: Tries,
    found: bool,
    /// So many pools of the chain have it no longer wait for room.
    waited: usize,
    /// Time in a queue, and since when it is in one now.
    queued: Duration,
    in_queue_since: Option<Instant>,
}

/// A backend to dial, and the place of its pool in the chain.
type Choice = (usize, Lease);

impl<'a> Search<'a> {
    pub(super) fn new(context: &'a SessionContext<'a>, has_bytes: bool, opening: Option<&'a Opening<'a>>) -> Self {
        let (random, tries) = (context.worker.random(), Tries::new());
        let (found, waited, queued) = (false, 0, Duration::ZERO);
        Self { context, random, has_bytes, opening, tries, found, waited, queued, in_queue_since: None }
    }

    /// How long it has waited in a queue, if it had to.
    pub(super) fn queued(&self) -> Option<Duration> {
        let queued = self.queued + self.in_queue_since.map_or(Duration::ZERO, |since| since.elapsed());
        (!queued.is_zero()).then_some(queued)
    }

    /// Connects to a backend of the pool, or of a fallback where the pool lets the session go there; or takes a connection that
    /// the worker has in stock for it. `attempts` counts the dials over all calls, also when the future is dropped. The
    /// pool's own `connect` says how many, and `deadline`, which is one for all pools, begins with each call, and does not
    /// pass in a queue; the rest is each pool's own. After one was found, only backends that have not been tried are, and
    /// nothing is waited for.
    ///
    /// # Cancel safety
    /// Dropping it closes the sockets in the making and gives back the leases; the attempts are counted as abandoned.
    pub(super) async fn next(&mut self, attempts: &mut u32) -> Result<Connected, NoConnection> {
        let mut deadline = Instant::now() + self.context.chain.first().settings.connect.deadline;
        let (mut dials, mut pause, mut hedge_at, mut last) = (Dials::default(), None, None, None);
        loop {
            if dials.is_empty() {
                let (place, mut lease) = match self.choose(*attempts, &mut deadline).await {
                    Ok(choice) => choice,
                    Err(given_up) => return Err(NoConnection { given_up, last }),
                };
                let of = self.context.chain.at(place);
                let mut kept = self.context.worker.stock.take(&mut lease);
                if self.opening.is_none()
                    && let Some(socket) = kept.take()
                {
                    *attempts += u32::from(self.found);
                    let settings = Arc::clone(&of.settings);
                    return Ok(self.found(Connected { socket, lease, settings }));
                }
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(NoConnection { given_up: GivenUp::Deadline, last });
                }
                *attempts += 1;
                self.tries.dials(lease.backend());
                let policy = &of.settings.connect;
                dials.begin((lease, kept), (of, self.first_bytes(of)), policy.timeout.min(left));
                // An attempt that ends before it could be hedged needs no timer.
                pause = policy.hedge.filter(|hedge| *hedge < policy.timeout);
                hedge_at = pause.map(|pause| Instant::now() + pause);
            }
            tokio::select! {
                biased;
                result = dials.first() => match result {
                    Ok(connected) => return Ok(self.found(connected)),
                    Err(failed) => {
                        self.tries.failed(&failed.0, failed.1.name());
                        if failed.1 == ConnectFailure::Starttls {
                            return Err(NoConnection { given_up: GivenUp::Starttls, last: Some(failed) });
                        }
                        last = Some(failed);
                        // The others are slow: there is nothing to wait for before one more is tried.
                        hedge_at = hedge_at.map(|_| Instant::now());
                    }
                },
                () = until(hedge_at) => {
                    hedge_at = pause.map(|pause| Instant::now() + pause);
                    let left = deadline.saturating_duration_since(Instant::now());
                    if let Some(connected) = self.hedge(&mut dials, left, attempts) {
                        return Ok(self.found(connected));
                    }
                }
            }
        }
    }

    /// Claims the backend that is dialled next. One that was not tried is always taken; only a second try of the others
    /// depends on the attempts so far.
    async fn choose(&mut self, attempts: u32, deadline: &mut Instant) -> Result<Choice, GivenUp> {
        if self.tries.is_first() {
            return self.choose_first(deadline).await;
        }
        let mut is_paid = false;
        loop {
            let untried = self.course(Tries::untried);
            let is_left = matches!(untried, Course::Picks(_));
            if !is_left && self.found {
                return Err(GivenUp::NoneLeft);
            }
            let stay = self.stay(untried);
            let policy = &self.context.chain.first().settings.connect;
            // A writer that must not go to a backup tries its own tier until the deadline.
            let is_bound = self.context.chain.at(stay).settings.resilience.spill == Spill::NONE;
            if !is_left && attempts >= policy.attempts && !is_bound {
                return Err(GivenUp::Attempts);
            }
            let (of, course) = if is_left {
                (Tries::untried as Those, untried)
            } else {
                (Tries::again as Those, self.course(Tries::again))
            };
            let Course::Picks(place) = course else {
                if self.tries.is_new_round() {
                    return self.wait(stay, deadline).await;
                }
                let delay = if is_bound { policy.retry_delay.max(BREATH) } else { policy.retry_delay };
                self.tries.begin_round();
                if !self.rest(delay, *deadline).await {
                    return Err(GivenUp::Deadline);
                }
                continue;
            };
            if !is_paid {
                // It may take a while, after which another one may be left.
                if !self.pay(place, *deadline).await {
                    return Err(GivenUp::RetryBudget);
                }
                is_paid = true;
            } else if let Ok(lease) = self.context.chain.at(place).pool.pick(&of(
                &self.tries,
                self.context.chain.at(place),
                self.waits(place),
            )) {
                return Ok((place, lease));
            }
        }
    }

    async fn choose_first(&mut self, deadline: &mut Instant) -> Result<Choice, GivenUp> {
        let of = self.context.chain.first();
        let (pool, context) = (&of.pool, self.tries.untried(of, self.waits(0)));
        // A backend that is up goes before a last resort, in whatever pool.
        let is_resort = !self.context.chain.is_single() && pool.prospect(&context) == Prospect::LastResort;
        if !is_resort && let Ok(lease) = pool.pick(&context) {
            return Ok((0, lease));
        }
        match self.pick() {
            Ok(choice) => Ok(choice),
            Err(stay) => self.wait(stay, deadline).await,
        }
    }

    /// Claims a backend that was not tried. If there is none: in which pool to wait.
    fn pick(&self) -> Result<Choice, usize> {
        loop {
            let course = self.course(Tries::untried);
            let Course::Picks(place) = course else { return Err(self.stay(course)) };
            if let Ok(lease) = self
                .context
                .chain
                .at(place)
                .pool
                .pick(&self.tries.untried(self.context.chain.at(place), self.waits(place)))
            {
                return Ok((place, lease));
            }
        }
    }

    /// Which pool has one of those backends.
    fn course(&self, those: Those) -> Course {
        let prospect = |(place, of): (usize, &ChainPool)| of.pool.prospect(&those(&self.tries, of, self.waits(place)));
        course(self.context.chain.pools().enumerate().map(prospect))
    }

    /// Where it waits, if it may wait at all: where it is kept, or else where sessions wait until something is up.
    fn stay(&self, course: Course) -> usize {
        let waits = |of: &ChainPool| of.settings.when_all_down == WhenAllDown::Wait;
        match course {
            Course::Picks(place) | Course::Stays(place) => place,
            Course::Over => self.context.chain.pools().position(waits).unwrap_or(0),
        }
    }

    /// Whether it waits for room in that pool. A session that has been served has no time to wait.
    fn waits(&self, place: usize) -> bool {
        place >= self.waited && !self.found && self.context.chain.at(place).settings.queue.is_some()
    }

    /// Waits for its turn in the pool's queue, if it has one. Before it is refused it goes to the next tier and to the
    /// fallback, if it may.
    async fn wait(&mut self, mut place: usize, deadline: &mut Instant) -> Result<Choice, GivenUp> {
        loop {
            let Some(queue) = self.context.chain.at(place).settings.queue else { return Err(GivenUp::NoneLeft) };
            let given_up = match self.wait_in(place, queue, deadline).await {
                Ok(lease) => return Ok((place, lease)),
                Err(given_up) => given_up,
            };
            self.waited = place + 1;
            match self.pick() {
                Ok(choice) => return Ok(choice),
                Err(next) if next > place => place = next,
                Err(_) => return Err(given_up),
            }
        }
    }

    async fn wait_in(&mut self, place: usize, queue: Queue, deadline: &mut Instant) -> Result<Lease, GivenUp> {
        let waiting = match self.context.chain.at(place).pool.pick_or_wait(self.context.chain.at(place).affinity, queue)
        {
            Ok(PickOrWait::Now(lease)) => return Ok(lease),
            Ok(PickOrWait::Later(waiting)) => waiting,
            Ok(PickOrWait::Full) => return Err(GivenUp::QueueFull),
            Err(NoneLeft) => return Err(GivenUp::NoneLeft),
        };
        let since = Instant::now();
        self.in_queue_since = Some(since);
        self.context.live.phase(Phase::Queued);
        let served = tokio::select! {
            biased;
            served = within(queue.timeout, waiting) => served,
            () = self.served_elsewhere(place) => Ok(Err(NoneLeft)),
        };
        self.context.live.phase(Phase::Connecting);
        self.in_queue_since = None;
        self.queued += since.elapsed();
        *deadline += since.elapsed();
        match served {
            Ok(served) => served.map_err(|NoneLeft| GivenUp::NoneLeft),
            Err(_) => Err(GivenUp::QueueTimeout),
        }
    }

    /// Resolves when another pool of the chain has a backend for a session that waits in this one.
    async fn served_elsewhere(&self, place: usize) {
        if self.context.chain.is_single() {
            return std::future::pending().await;
        }
        loop {
            sleep(LOOK_ELSEWHERE).await;
            if matches!(self.course(Tries::untried), Course::Picks(other) if other != place) {
                return;
            }
        }
    }

    /// Dials one more backend beside the others, if one is left and it may; a connection in stock is there at once. `left`:
    /// until the deadline.
    fn hedge(&mut self, dials: &mut Dials, left: Duration, attempts: &mut u32) -> Option<Connected> {
        if left.is_zero() {
            return None;
        }
        let (place, mut lease) = self.pick().ok()?;
        let of = self.context.chain.at(place);
        let mut kept = self.context.worker.stock.take(&mut lease);
        if self.opening.is_none()
            && let Some(socket) = kept.take()
        {
            dials.outrun();
            of.pool.second.hedges.count(Hedge::Won);
            return Some(Connected { socket, lease, settings: Arc::clone(&of.settings) });
        }
        let spare = self.context.live.listener.spare_place();
        let Some(spare) = spare.filter(|_| of.pool.hedges.take(Instant::now(), HEDGES) == Permit::Granted) else {
            of.pool.second.hedges.count(Hedge::Refused);
            return None;
        };
        *attempts += 1;
        self.tries.dials(lease.backend());
        dials.hedge((lease, kept), (of, self.first_bytes(of)), of.settings.connect.timeout.min(left), spare);
        None
    }

    /// What the backend is sent as soon as it is connected.
    fn first_bytes(&self, of: &ChainPool) -> FirstBytes {
        let starttls = self.opening.map(|opening| opening.for_pool(&of.settings));
        FirstBytes { any: self.has_bytes || of.settings.send_proxy.is_some() || starttls.is_some(), starttls }
    }

    /// The one that was found failed before it had answered.
    pub(super) fn failed(&mut self, backend: &Arc<Backend>, reason: &'static str) {
        self.tries.failed(backend, reason);
    }

    /// Waits until the budget of the pool has a retry to give; `false` = not before the deadline.
    async fn pay(&mut self, place: usize, deadline: Instant) -> bool {
        let ChainPool { pool, settings, .. } = self.context.chain.at(place);
        let policy = &settings.connect;
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
        let pool = connected.lease.pool();
        pool.hedges.succeeded();
        // Where requests are replayed, it is the answer that counts.
        if connected.settings.replay.is_none() {
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
            Self::Starttls => "it does not begin TLS",
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
