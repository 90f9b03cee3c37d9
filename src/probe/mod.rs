//! Active health checks: a task set keyed by (address, check), so that one probe serves every pool that asks for it.
//! Owned by the running set, subscribed to by keepers; knows nothing of pools, it only hands out reports.
//! One task per probe and one clock per task, so that a slow backend can only ever delay itself.

mod agent;
mod attempt;
mod certificate;
mod connect;
mod exec;
mod expiry;
mod grpc;
mod http;
mod identity;
mod kernel;
mod local;
mod postgres;
mod reaper;
mod redis;
mod schedule;
mod script;
mod subscribers;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::AbortHandle;
use tracing::debug;

use crate::config::{Check, CheckKind, ExecCheck};
use crate::health::{ProbeReport, ProbeResult, RiseFall};

use agent::Opinion;
use attempt::{AttemptContext, Farewell};
use expiry::Expiring;
use local::LocalErrors;
pub use reaper::reap_orphans;
use subscribers::{SubscriberId, Subscribers};

/// Probes in flight at once unless [`Prober::bounded`] says otherwise: enough for a few dozen silent backends.
const IN_FLIGHT: usize = 128;

/// Young probes in flight at once: what a start with thousands of backends puts on the network in one go.
const YOUNG: usize = 128;

/// How long a probe is young. Most are over by then. Those that are not, since their backends are silent or far, hold up
/// nobody: what is left of the bound on bursts is 12,800 probes a second, more than a set that is probed in time needs.
const YOUTH: Duration = Duration::from_millis(10);

/// How a report reaches a subscriber: called in the probe's task (the first time perhaps in [`Prober::subscribe`])
/// with a lock of that probe held. It must not block, panic, subscribe or drop a [`Subscription`]; sending on a
/// channel is what it is for.
pub type ReportSink = Box<dyn Fn(&ProbeReport) + Send + Sync>;

/// Starts, shares and stops probes. Cheap to clone, all clones are one set; dropping it stops nothing, since the
/// subscriptions own the probes.
#[derive(Clone)]
pub struct Prober {
    shared: Arc<ProberShared>,
}

/// What the prober is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeStats {
    /// Probes that somebody is subscribed to, one task each.
    pub running: usize,
    /// Of these, how many are talking to their backend at this moment.
    pub in_flight: usize,
    /// Attempts since the start that this machine was too short of something to make (fds, ports, buffers). They count
    /// neither as a pass nor as a failure.
    pub local_errors: u64,
}

/// An interest in one probe's reports. Dropping it ends the interest: its sink is not called again once the drop has
/// returned. Dropping the last one of a probe cancels what is in flight and ends the task.
#[must_use = "dropping it ends the probe"]
pub struct Subscription {
    /// `None` for a check of kind `none`.
    interest: Option<Interest>,
}

struct Interest {
    shared: Arc<ProberShared>,
    key: Key,
    id: SubscriberId,
}

struct ProberShared {
    /// A lock, as it is taken when backends come and go and never by a running probe. Taken before an audience's lock.
    probes: Mutex<HashMap<Key, Probe>>,
    /// For the whole of a probe: descriptors.
    permits: Semaphore,
    limit: usize,
    /// For a probe's youth: bursts.
    young: Semaphore,
    contexts: tls::Contexts,
    local_errors: LocalErrors,
    expiring: Expiring,
}

/// The address is the probed one: with `port` set, two backends of one host share a probe.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    check: Arc<Check>,
}

struct Probe {
    subscribers: Arc<Subscribers>,
    task: AbortHandle,
}

impl Prober {
    /// A prober without probes, for a few.
    pub fn new() -> Self {
        Self::bounded(IN_FLIGHT)
    }

    /// A prober without probes, of which at most `limit` are ever in flight: one descriptor each (`exec`: four). A probe
    /// has at most one attempt under way, so a limit of the number of backends keeps every schedule, also when all of them
    /// are silent; beyond the limit they take turns.
    pub fn bounded(limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            shared: Arc::new(ProberShared {
                probes: Mutex::default(),
                permits: Semaphore::new(limit),
                limit,
                young: Semaphore::new(YOUNG),
                contexts: tls::Contexts::default(),
                local_errors: LocalErrors::default(),
                expiring: Expiring::default(),
            }),
        }
    }

    /// Starts the probe of `address` (with the check's `port`, if it has one) or joins the one that is running. From
    /// now on each report goes to `sink`; if there has been a result, the last report goes there before this returns.
    ///
    /// A check of kind `none` is a mistake of the caller, who knows that there is nothing to probe: nothing is ever
    /// sent.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    pub fn subscribe(&self, address: SocketAddr, check: &Arc<Check>, sink: ReportSink) -> Subscription {
        if check.kind == CheckKind::None {
            return Subscription { interest: None };
        }
        let port = check.port.unwrap_or_else(|| address.port());
        let key = Key { address: SocketAddr::new(address.ip(), port), check: Arc::clone(check) };

        let mut probes = locked(&self.shared.probes);
        let subscribers = match probes.entry(key.clone()) {
            Entry::Occupied(running) => Arc::clone(&running.get().subscribers),
            Entry::Vacant(vacant) => {
                let subscribers = Arc::new(Subscribers::default());
                let task =
                    tokio::spawn(probe(Arc::clone(&self.shared), vacant.key().clone(), Arc::clone(&subscribers)));
                vacant.insert(Probe { subscribers: Arc::clone(&subscribers), task: task.abort_handle() });
                subscribers
            }
        };
        // Under the lock of the set: else the last of the others could leave in between and take the probe along.
        let id = subscribers.join(sink);
        drop(probes);

        Subscription { interest: Some(Interest { shared: Arc::clone(&self.shared), key, id }) }
    }

    /// The numbers of this moment.
    pub fn stats(&self) -> ProbeStats {
        ProbeStats {
            running: locked(&self.shared.probes).len(),
            in_flight: self.shared.limit - self.shared.permits.available_permits(),
            local_errors: self.shared.local_errors.total(),
        }
    }
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

impl Default for Prober {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let Some(Interest { shared, key, id }) = &self.interest else { return };
        let mut probes = locked(&shared.probes);
        let Some(probe) = probes.get(key) else { return };
        let (sink, rest) = probe.subscribers.leave(*id);
        if rest == 0 {
            probe.task.abort();
            probes.remove(key);
        }
        drop(probes);
        // Outside of the lock: what a sink holds may do anything when it goes.
        drop(sink);
    }
}

/// One probe until it is aborted, which may happen at any await: nothing but the socket and the permit is held there.
async fn probe(shared: Arc<ProberShared>, key: Key, subscribers: Arc<Subscribers>) {
    let Key { address, check } = key;
    let mut health = RiseFall::new(check.rise, check.fall);
    let mut rng = fastrand::Rng::with_seed(seed(address, &check));
    let mut context = AttemptContext { context: None, opinion: Opinion::default() };
    let mut warned = None;
    loop {
        // Outside of the probe's timeout and before its start: a wait for a permit is not the backend's doing.
        let Ok(permit) = shared.permits.acquire().await else { return };
        let Ok(young) = shared.young.acquire().await else { return };
        let started = Instant::now();
        let attempted = grown(young, attempt_with(&shared, address, &check, &mut context)).await;

        let delay = match attempted {
            Ok((result, farewell)) => {
                debug!(%address, passed = result.passed, "probe: {result}");
                shared.expiring.warn(&result, address, &mut warned, Instant::now());
                health.record(result.passed);
                let report = ProbeReport { result: Arc::new(result), state: health.state(), streak: health.streak() };
                subscribers.publish(report);
                // Nobody waits for it but the next probe.
                farewell.say().await;
                schedule::next_delay(&check, &health, &mut rng)
            }
            Err(error) => {
                shared.local_errors.record(&error, address, Instant::now());
                schedule::shortened(check.fast_interval, &mut rng)
            }
        };
        drop(permit);
        tokio::time::sleep(delay.saturating_sub(started.elapsed())).await;
    }
}

async fn attempt_with(
    shared: &ProberShared,
    address: SocketAddr,
    check: &Check,
    context: &mut AttemptContext,
) -> io::Result<(ProbeResult, Farewell)> {
    context.context = shared.contexts.of(check).await?;
    attempt::attempt(address, check, context).await
}

/// Runs a probe, and gives back the permit of its youth when that is over.
async fn grown<T>(young: SemaphorePermit<'_>, probe: impl Future<Output = T>) -> T {
    let mut probe = pin!(probe);
    if let Ok(done) = tokio::time::timeout(YOUTH, &mut probe).await {
        return done;
    }
    drop(young);
    probe.await
}

/// Whether everything is at hand that probes of a check need: its file of authorities, the user that its program is run as.
/// It reads files.
///
/// # Errors
/// What is not, and why.
pub fn ready(check: &Check) -> io::Result<()> {
    if let CheckKind::Exec(ExecCheck { run_as: Some(run_as), .. }) = &check.kind {
        identity::of(run_as)?;
    }
    tls::ready(check)
}

/// The same jitter in every run for the same probe, another one for each of its siblings.
fn seed(address: SocketAddr, check: &Check) -> u64 {
    let mut hasher = DefaultHasher::new();
    (address, check).hash(&mut hasher);
    hasher.finish()
}

/// A sink that panicked has left nothing half done behind these locks, so poison is no reason to stop probing.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
