//! The running set: listeners, pools, workers and the tasks that feed them.
//! Used by `balancer` and `admin`.
//! It starts everything or nothing, applies another configuration, drains and stops.

mod access;
mod apply;
mod closing;
mod control;
mod leaving;
mod limits;
mod overrides;
mod reached;
mod relays;
mod reloads;
mod sockets;
#[cfg(test)]
mod tests;
mod zone;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::config::{Config, Relay};
use crate::discovery::{SourceError, ZoneError};
use crate::metrics::CloseCause;
use crate::pool::{Events, Happened, Pool};
pub use crate::probe::reap_orphans;
use crate::probe::{self, Prober};
use crate::proxy::{Listener, Places, Rings, SessionRef, WorkerThreads, Workers, pipe_descriptors, try_ring};
use access::AccessLists;
pub use access::{AccessError, lists_ready};
use apply::Running;
pub use apply::{Applied, ApplyError};
use closing::Closer;
pub use closing::RebalanceView;
use limits::FileBudget;
pub use limits::LimitError;
pub use overrides::OverrideFile;
use reached::Reached;
pub use reached::{LimitKind, ReachedLimit};
pub use relays::RingError;
pub(crate) use reloads::HEADING;
pub use reloads::{ReloadResult, ReloadView, Reloads};
pub(crate) use sockets::hint;
pub use sockets::{Inherited, SocketError, loops};

/// Why nothing was started.
#[derive(Debug, Error)]
pub enum ServerStartError {
    /// A limit of the configuration is too high for this machine.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A relay mode of the configuration can't be used here.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A listening socket can't be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A listener's list of clients can't be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A pool can't be probed.
    #[error("the check of pool `{pool}` can't work")]
    Check {
        /// Its name.
        pool: String,
        /// Why.
        source: io::Error,
    },
    /// A pool's source can't be used.
    #[error("pool `{pool}` can't be fed")]
    Source {
        /// Its name.
        pool: String,
        /// Why.
        source: SourceError,
    },
    /// The zone of this balancer can't be asked for.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// A thread or its event loop can't be started.
    #[error("a worker thread can't be started")]
    Worker(#[source] io::Error),
}

/// Raises the soft limit of open files to the hard one, and returns how many sessions a configuration may have.
///
/// # Errors
/// A limit of the configuration is too high for this machine.
pub fn max_connections(config: &Config) -> Result<usize, LimitError> {
    limits(config, workers(config)).map(|(sessions, _)| sessions)
}

/// The limits of sessions, and of probes at once.
fn limits(config: &Config, workers: usize) -> Result<(usize, usize), LimitError> {
    let copies = config.pools.iter().all(|pool| pool.relay == Relay::Copy);
    let budget = FileBudget::raise(if copies { 0 } else { pipe_descriptors(workers) });
    for listener in &config.listeners {
        if let Some(wanted) = listener.max_connections {
            budget.holds(&format!("listeners.{}.max_connections", listener.name), wanted)?;
        }
    }
    let sessions = budget.take(config.max_connections)?;
    Ok((sessions, budget.probes(sessions)))
}

/// Whether everything exists that a configuration needs: what its checks use, the lists of its listeners.
///
/// # Errors
/// The first thing that is missing. It reads files.
pub fn files_ready(config: &Config) -> Result<(), ServerStartError> {
    checks_ready(config)?;
    Ok(lists_ready(config)?)
}

/// Whether everything exists that the checks of a configuration need.
fn checks_ready(config: &Config) -> Result<(), ServerStartError> {
    for pool in &config.pools {
        let wrong = |source| ServerStartError::Check { pool: pool.name.clone(), source };
        probe::ready(&pool.check).map_err(wrong)?;
    }
    Ok(())
}

/// The kernel accepts data in a SYN only if the server bit of its own switch is set.
fn warn_about_fast_open(config: &Config) {
    const SERVER: u32 = 2;
    let switch = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen").ok();
    let switch: Option<u32> = switch.and_then(|text| text.trim().parse().ok());
    let wanted = config.listeners.iter().find(|listener| listener.fast_open);
    if let (Some(listener), Some(switch)) = (wanted, switch)
        && switch & SERVER == 0
    {
        warn!(
            listener = %listener.name,
            "tcp.fast_open has no effect: net.ipv4.tcp_fastopen is {switch}; set it to {}", switch | SERVER
        );
    }
}

/// Data-plane threads of a configuration.
pub(crate) fn workers(config: &Config) -> usize {
    config.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// A running server. Dropping it closes the sessions that still run.
#[derive(Debug)]
pub struct Server {
    workers: WorkerThreads,
    state: Arc<ServerState>,
}

/// What the admin side uses of a running server.
#[derive(Debug)]
pub struct ServerState {
    /// The limit of sessions in the process.
    pub limit: Arc<Places>,
    reached: Reached,
    /// The stream of events.
    pub events: Events,
    /// The file that keeps what operators say.
    pub overrides: OverrideFile,
    /// Active health checks.
    pub prober: Prober,
    /// The data-plane threads.
    pub workers: Workers,
    /// The results of reloads.
    pub reloads: Reloads,
    set: ArcSwap<Set>,
    /// Of this balancer.
    zone: ArcSwapOption<Arc<str>>,
    draining: AtomicBool,
    stop_accepting: CancellationToken,
    tracker: TaskTracker,
    rings: Rings,
    /// The effective tree of the first configuration. Settings that need a restart have their values of then.
    started_with: serde_json::Value,
    /// A lock: held while a configuration is applied, so that there is one at a time. All other holders are short.
    running: Mutex<Running>,
}

/// The listeners and pools of one moment.
#[derive(Clone, Debug)]
pub struct Set {
    /// The configuration that they follow.
    pub config: Arc<Config>,
    /// Sorted by name, with those that are leaving.
    pub pools: Vec<Arc<Pool>>,
    /// Sorted by name, with those that are leaving.
    pub listeners: Vec<Arc<Listener>>,
    /// One for each pool, in the order of `pools`.
    closers: Vec<Arc<Closer>>,
}

impl Set {
    /// Whether the configuration has the pool. If not, the pool only waits for its last sessions.
    pub fn stays(&self, pool: &Pool) -> bool {
        self.config.pool(&pool.name).is_some()
    }

    /// Whether the configuration has the listener.
    pub fn listener_stays(&self, listener: &Listener) -> bool {
        self.config.listeners.iter().any(|written| *written.name == *listener.name)
    }
}

impl Server {
    /// Starts everything on the current runtime and on threads of its own.
    ///
    /// # Errors
    /// Nothing is left behind.
    pub fn start(config: &Config, inherited: Vec<Inherited>) -> Result<Self, ServerStartError> {
        let (max, probes) = limits(config, workers(config))?;
        let limit = Places::new(max);
        checks_ready(config)?;
        let none =
            Set { config: Arc::new(config.clone()), pools: Vec::new(), listeners: Vec::new(), closers: Vec::new() };
        let access = AccessLists::read(config, &none)?;
        warn_about_fast_open(config);
        let sockets = sockets::open(&config.listeners, inherited)?;
        let rings = relays::choose(&config.pools, try_ring)?;
        let mut running = Running::new();
        let followers = running.followers(&config.pools)?;
        let zone = running.zone_follower(&config.zone)?;
        let workers = WorkerThreads::start(workers(config), rings).map_err(ServerStartError::Worker)?;

        let state = Arc::new(ServerState {
            limit,
            reached: Reached::default(),
            events: Events::default(),
            overrides: OverrideFile::open(config.state_dir.as_deref()),
            prober: Prober::bounded(probes),
            workers: workers.workers(),
            reloads: Reloads::new(config),
            set: ArcSwap::from_pointee(none),
            zone: ArcSwapOption::empty(),
            draining: AtomicBool::new(false),
            stop_accepting: CancellationToken::new(),
            tracker: TaskTracker::new(),
            rings,
            started_with: config.effective(),
            running: Mutex::new(running),
        });
        state.follow_zone(&mut state.running(), &config.zone, zone);
        state.install(&mut state.running(), config, followers, sockets, &access);
        tokio::spawn(reached::watch(Arc::downgrade(&state)));
        Ok(Self { workers, state })
    }

    /// What the admin side uses of it.
    pub fn state(&self) -> &Arc<ServerState> {
        &self.state
    }

    /// Resolves with a worker's number if its thread dies.
    ///
    /// # Cancel safety
    /// Safe.
    pub fn worker_death(&self) -> impl Future<Output = usize> + Send + use<> {
        self.workers.death()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.running().end();
        self.state.stop_accepting.cancel();
        self.state.cut_all(CloseCause::Operator);
        self.state.workers.stop();
    }
}

impl ServerState {
    /// The present set. Take it once where its parts have to fit together.
    pub fn set(&self) -> Arc<Set> {
        self.set.load_full()
    }

    /// Whether it is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Begins to stop: it is not ready any more, but still accepts.
    pub fn drain(&self) {
        if !self.draining.swap(true, Relaxed) {
            self.events.tell(|| Happened::Stopping);
        }
    }

    /// Writes what operators say to its file, if the configuration has a `state_dir`.
    ///
    /// # Errors
    /// The file can't be written; it still has its old content.
    pub async fn save_overrides(&self) -> io::Result<()> {
        self.overrides.save(&self.set().pools).await
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.set.load().listeners.iter().map(|listener| listener.sessions()).sum()
    }

    /// Closes the live sessions that are `chosen`, each at its pool's pace, and those without a pool at once. Returns how many
    /// they are; some may end by themselves first.
    pub fn close(&self, cause: CloseCause, mut chosen: impl FnMut(&SessionRef<'_>) -> bool) -> usize {
        let set = self.set();
        let (mut by_pool, mut unrouted) = (vec![Vec::new(); set.closers.len()], Vec::new());
        self.workers.visit_sessions(|session| {
            if session.is_ending || !chosen(&session) {
                return;
            }
            let Some(pool) = session.pool else { return unrouted.push(session.key) };
            if let Some(place) = set.closers.iter().position(|closer| std::ptr::eq(&*closer.pool, pool)) {
                by_pool[place].push(session.key);
            }
        });
        let count = by_pool.iter().map(Vec::len).sum::<usize>() + unrouted.len();
        for session in unrouted {
            self.workers.cut(session, closing::cut(cause), |pool| closing::count_close(pool, cause));
        }
        for (closer, sessions) in set.closers.iter().zip(by_pool).filter(|(_, sessions)| !sessions.is_empty()) {
            closer.close(sessions, cause);
        }
        count
    }

    /// Closes sessions of a pool's backends that have more than their part, once, at the pace of its `rebalance`.
    pub fn rebalance(&self, pool: &Pool) {
        if let Some(closer) = self.set().closers.iter().find(|closer| std::ptr::eq(&*closer.pool, pool)) {
            closer.rebalance();
        }
    }

    /// Stops accepting, lets sessions finish until `timeout`, and closes the rest. They are closed at their pools' pace, so
    /// that the last one goes at the end of the timeout; what remains then is closed at once. Returns how many were closed.
    ///
    /// # Cancel safety
    /// The future may be dropped: what it has begun goes on.
    pub async fn finish(&self, timeout: Duration) -> u64 {
        self.stop_accepting.cancel();
        self.tracker.close();
        let set = self.set();
        let closes = || set.pools.iter().map(|pool| pool.closes.closed.read(CloseCause::Shutdown)).sum::<u64>();
        let (before, now) = (closes(), Instant::now());
        for closer in &set.closers {
            closer.finish(now + timeout / 2, now + timeout);
        }
        let mut unrouted = 0;
        if tokio::time::timeout(timeout, self.tracker.wait()).await.is_err() {
            unrouted = self.cut_all(CloseCause::Shutdown);
            self.tracker.wait().await;
        }
        closes() - before + unrouted
    }

    /// Stops accepting and closes every session at once, at no pace. For a second stop signal.
    ///
    /// # Cancel safety
    /// The future may be dropped: what it has begun goes on.
    pub async fn kill(&self) {
        self.stop_accepting.cancel();
        self.tracker.close();
        self.cut_all(CloseCause::Operator);
        self.tracker.wait().await;
    }

    /// Returns how many of the sessions had no pool: those of pools are counted there.
    fn cut_all(&self, cause: CloseCause) -> u64 {
        let mut unrouted = 0;
        self.workers.cut_all(closing::cut(cause), |pool| {
            unrouted += u64::from(pool.is_none());
            closing::count_close(pool, cause);
        });
        unrouted
    }
}
