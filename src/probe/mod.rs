//! Active health checks: one task for each (address, check), so that pools with equal checks share a probe.
//! The running set owns the `Prober`; keepers subscribe to it. It knows no pools, and only sends reports.
//! Each probe has its own task and its own timer, so that a slow backend delays no other probe.

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
use crate::health::{ProbeReport, RiseFall};

use agent::Opinion;
use expiry::Expiring;
use local::LocalErrors;
pub use reaper::reap_orphans;
use subscribers::{SubscriberId, Subscribers};

/// Probes in flight at once unless [`Prober::bounded`] says otherwise: enough for a few dozen silent backends.
const IN_FLIGHT_LIMIT: usize = 128;

/// Probes in their first [`BURST_PHASE`] at once. It bounds the burst of packets when thousands of backends start to be
/// probed.
const BURST_LIMIT: usize = 128;

/// How long a probe counts against [`BURST_LIMIT`]. Most probes are over by then. A probe of a silent or distant backend
/// gives its place back then, so it delays no other. The bound that remains, 12,800 new probes a second, is more than any
/// set needs.
const BURST_PHASE: Duration = Duration::from_millis(10);

/// Receives reports. It is called in the probe's task (the first time perhaps within [`Prober::subscribe`]) while a lock of
/// that probe is held. It must not block, panic, subscribe or drop a [`Subscription`]. It is meant for a send on a channel.
pub type ReportSink = Box<dyn Fn(&ProbeReport) + Send + Sync>;

/// Starts, shares and stops probes. Clones are cheap and share one set. Dropping it stops nothing, because the subscriptions
/// own the probes.
#[derive(Clone)]
pub struct Prober {
    shared: Arc<ProberShared>,
}

/// What the prober is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeStats {
    /// Probes with at least one subscriber; one task each.
    pub running: usize,
    /// Probes of which an attempt is under way now.
    pub in_flight: usize,
    /// Attempts since the start that could not be made because this machine lacked something (fds, ports, memory). They
    /// count neither as a pass nor as a failure.
    pub local_errors: u64,
}

/// A subscription to the reports of one probe. After its drop has returned, the sink is not called again. Dropping the last
/// subscription of a probe cancels the attempt under way and ends the task.
#[must_use = "dropping it ends the probe"]
pub struct Subscription {
    /// `None` for a check of kind `none`.
    inner: Option<SubscriptionInner>,
}

struct SubscriptionInner {
    shared: Arc<ProberShared>,
    key: Key,
    id: SubscriberId,
}

struct ProberShared {
    /// A lock: it is taken when backends come and go, never by a running probe. Lock order: before that of [`Subscribers`].
    probes: Mutex<HashMap<Key, Probe>>,
    /// Held for a whole attempt; bounds descriptors.
    permits: Semaphore,
    limit: usize,
    /// Held for the first [`BURST_PHASE`] of an attempt; bounds bursts.
    bursts: Semaphore,
    contexts: tls::Contexts,
    local_errors: LocalErrors,
    expiring: Expiring,
}

/// The address that is probed: if the check sets `port`, two backends of one host share a probe.
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
    /// A prober with the default bound of attempts at once.
    pub fn new() -> Self {
        Self::bounded(IN_FLIGHT_LIMIT)
    }

    /// A prober that makes at most `limit` attempts at once. Each takes one descriptor (`exec`: four). A probe makes one
    /// attempt at a time, so a limit of the number of backends keeps every schedule even if all backends are silent. Beyond
    /// the limit, probes take turns.
    pub fn bounded(limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            shared: Arc::new(ProberShared {
                probes: Mutex::default(),
                permits: Semaphore::new(limit),
                limit,
                bursts: Semaphore::new(BURST_LIMIT),
                contexts: tls::Contexts::default(),
                local_errors: LocalErrors::default(),
                expiring: Expiring::default(),
            }),
        }
    }

    /// Starts the probe of `address` (at the check's `port`, if it has one) or joins the one that runs. From now on each
    /// report goes to `sink`. If there is a result already, the last report goes to `sink` before this returns.
    ///
    /// A check of kind `none` never sends a report.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    pub fn subscribe(&self, address: SocketAddr, check: &Arc<Check>, sink: ReportSink) -> Subscription {
        if check.kind == CheckKind::None {
            return Subscription { inner: None };
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
        // Under the lock of the set: otherwise the last other subscriber could leave now and end the probe.
        let id = subscribers.join(sink);
        drop(probes);

        Subscription { inner: Some(SubscriptionInner { shared: Arc::clone(&self.shared), key, id }) }
    }

    /// What the prober does now.
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
        let Some(SubscriptionInner { shared, key, id }) = &self.inner else { return };
        let mut probes = locked(&shared.probes);
        let Some(probe) = probes.get(key) else { return };
        let (sink, rest) = probe.subscribers.leave(*id);
        if rest == 0 {
            probe.task.abort();
            probes.remove(key);
        }
        drop(probes);
        // Outside of the lock, because the drop of a sink runs code that we do not know.
        drop(sink);
    }
}

/// One probe, until it is aborted. That may happen at any await; there it holds only the socket and the permits.
async fn probe(shared: Arc<ProberShared>, key: Key, subscribers: Arc<Subscribers>) {
    let Key { address, check } = key;
    let mut health = RiseFall::new(check.rise, check.fall);
    let mut rng = fastrand::Rng::with_seed(seed(address, &check));
    let mut opinion = Opinion::default();
    let mut warned = None;
    loop {
        // Outside of the probe's timeout, and before its start: a wait for a permit is not the backend's fault.
        let Ok(permit) = shared.permits.acquire().await else { return };
        let Ok(burst_permit) = shared.bursts.acquire().await else { return };
        let started = Instant::now();
        let attempted = limit_burst(burst_permit, async {
            let tls = shared.contexts.of(&check).await?;
            attempt::attempt(address, &check, tls, &mut opinion).await
        })
        .await;

        let delay = match attempted {
            Ok((result, farewell)) => {
                debug!(%address, passed = result.passed, "probe: {result}");
                shared.expiring.warn(&result, address, &mut warned, Instant::now());
                health.record(result.passed);
                let report = ProbeReport { result: Arc::new(result), state: health.state(), streak: health.streak() };
                subscribers.publish(report);
                // Only the next attempt waits for it.
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

/// Runs an attempt, and gives its burst permit back after [`BURST_PHASE`].
async fn limit_burst<T>(permit: SemaphorePermit<'_>, probe: impl Future<Output = T>) -> T {
    let mut probe = pin!(probe);
    if let Ok(done) = tokio::time::timeout(BURST_PHASE, &mut probe).await {
        return done;
    }
    drop(permit);
    probe.await
}

/// Whether everything exists that probes of a check need: the file of authorities, and the user that `run_as` names. It
/// reads files.
///
/// # Errors
/// What is missing, and why.
pub fn ready(check: &Check) -> io::Result<()> {
    if let CheckKind::Exec(ExecCheck { run_as: Some(run_as), .. }) = &check.kind {
        identity::of(run_as)?;
    }
    tls::ready(check)
}

/// Each probe has a jitter of its own, the same in every run.
fn seed(address: SocketAddr, check: &Check) -> u64 {
    let mut hasher = DefaultHasher::new();
    (address, check).hash(&mut hasher);
    hasher.finish()
}

/// A panic within a sink leaves the data behind these locks whole, so a poisoned lock is used like any other.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
