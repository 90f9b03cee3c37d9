//! The running set: listeners, pools, workers and the tasks that feed them. Starts all or nothing, drains, kills.

mod control;
mod limits;
mod relays;
mod sockets;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::{Config, Relay};
use crate::discovery::{Discovery, SourceError};
use crate::pool::Pool;
use crate::probe::{self, Prober};
use crate::proxy::{Cut, Floor, Listener, Workers, local_address, pipe_descriptors, try_ring};
use control::Control;
use limits::Budget;
pub use limits::LimitError;
pub use relays::RingError;
pub(crate) use sockets::hint;
pub use sockets::{Inherited, SocketError};

/// Why nothing was started.
#[derive(Debug, Error)]
pub enum StartError {
    /// A written limit can't be held.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A written relay is not at hand.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A listening socket is not at hand.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A pool can't be probed.
    #[error("the check of pool `{pool}` can't work")]
    Check {
        /// Its name.
        pool: String,
        /// Why.
        source: io::Error,
    },
    /// A pool's source can't be asked.
    #[error("pool `{pool}` can't be fed")]
    Source {
        /// Its name.
        pool: String,
        /// Why.
        source: SourceError,
    },
    /// No thread, or no event loop.
    #[error("a worker thread can't be started")]
    Worker(#[source] io::Error),
}

/// Raises the soft limit of open files to the hard one, and says how many sessions a configuration may have.
///
/// # Errors
/// A limit is written that can't be held.
pub fn max_connections(config: &Config) -> Result<usize, LimitError> {
    limits(config).map(|(sessions, _)| sessions)
}

/// Sessions, and probes in flight.
fn limits(config: &Config) -> Result<(usize, usize), LimitError> {
    let copies = config.pools.iter().all(|pool| pool.relay == Relay::Copy);
    let budget = Budget::raise(if copies { 0 } else { pipe_descriptors(workers(config)) });
    for listener in &config.listeners {
        if let Some(wanted) = listener.max_connections {
            budget.holds(&format!("listeners.{}.max_connections", listener.name), wanted)?;
        }
    }
    let sessions = budget.take(config.max_connections)?;
    Ok((sessions, budget.probes(sessions)))
}

/// Whether everything is at hand that the checks of a configuration need.
///
/// # Errors
/// The first thing that is not. Files are read.
pub fn checks_ready(config: &Config) -> Result<(), StartError> {
    for pool in &config.pools {
        let wrong = |source| StartError::Check { pool: pool.name.clone(), source };
        probe::ready(&pool.check).map_err(wrong)?;
    }
    Ok(())
}

/// The kernel takes data with a SYN only if the server bit of its own switch is set.
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

fn workers(config: &Config) -> usize {
    config.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// See the module. Dropping it kills what still runs.
#[derive(Debug)]
pub struct Server {
    workers: Workers,
    state: Arc<State>,
    _control: Vec<Control>,
}

/// What others may see of a running server.
#[derive(Debug)]
pub struct State {
    /// In the order of their names.
    pub pools: Vec<Arc<Pool>>,
    /// In the order of their names.
    pub listeners: Vec<Arc<Listener>>,
    /// Sessions that the process takes.
    pub max_connections: usize,
    /// Active health checks.
    pub prober: Prober,
    /// The data-plane threads.
    pub floor: Floor,
    draining: AtomicBool,
    stop_accepting: CancellationToken,
    tracker: TaskTracker,
}

impl Server {
    /// Starts everything on the current runtime and on threads of its own.
    ///
    /// # Errors
    /// Nothing is left behind.
    pub fn start(config: &Config, inherited: Vec<Inherited>) -> Result<Self, StartError> {
        let (max_connections, probes) = limits(config)?;
        checks_ready(config)?;
        warn_about_fast_open(config);
        let sockets = sockets::open(&config.listeners, inherited)?;
        let rings = relays::choose(&config.pools, try_ring)?;
        let mut discovery = Discovery::new();
        let mut followers = Vec::new();
        for pool in &config.pools {
            let follower = discovery
                .source(&pool.name, &pool.source)
                .map_err(|source| StartError::Source { pool: pool.name.clone(), source })?;
            followers.push(follower);
        }
        let count = workers(config);
        let workers = Workers::start(count, config.log.sessions, rings).map_err(StartError::Worker)?;

        let prober = Prober::bounded(probes);
        let mut pools = Vec::new();
        let mut control = Vec::new();
        for (settings, follower) in config.pools.iter().zip(followers) {
            let (pool, evidence) = Pool::new(settings.clone(), count);
            control.push(control::start(&pool, evidence, follower, &prober));
            pools.push(pool);
        }

        let global = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        let (tracker, stop_accepting) = (TaskTracker::new(), CancellationToken::new());
        let floor = workers.floor();
        for pool in &pools {
            floor.preconnect(pool, &global, &stop_accepting);
        }
        let mut listeners = Vec::new();
        let mut number = 0;
        for (settings, sockets) in config.listeners.iter().zip(sockets) {
            let Some(pool) = pools.iter().find(|pool| *pool.name == *settings.pool) else { continue };
            let addresses: Vec<_> = sockets.iter().filter_map(|fd| local_address(fd).ok()).collect();
            info!(listener = %settings.name, pool = %pool.name, ?addresses, "listening");
            let listener = Listener::new(
                &settings.name,
                Arc::clone(pool),
                addresses,
                settings.max_connections,
                settings.accept_proxy.clone(),
                Arc::clone(&global),
                tracker.clone(),
            );
            for fd in sockets {
                floor.listen(number, fd, Arc::clone(&listener), stop_accepting.clone());
                number += 1;
            }
            listeners.push(listener);
        }
        let draining = AtomicBool::new(false);
        let state = State { pools, listeners, max_connections, prober, floor, draining, stop_accepting, tracker };
        Ok(Self { workers, state: Arc::new(state), _control: control })
    }

    /// What others may see of it.
    pub fn state(&self) -> &Arc<State> {
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
        self.state.stop_accepting.cancel();
        self.state.floor.cut_all(Cut::Killed);
        self.state.floor.stop();
    }
}

impl State {
    /// Whether it is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// From now on it is stopping: not ready any more, although it still accepts.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.listeners.iter().map(|listener| listener.sessions()).sum()
    }

    /// Stops accepting, lets sessions finish until `timeout` and cuts the rest. Returns how many were cut.
    ///
    /// # Cancel safety
    /// May be dropped: what was begun stays so.
    pub async fn finish(&self, timeout: Duration) -> usize {
        self.stop_accepting.cancel();
        self.tracker.close();
        if tokio::time::timeout(timeout, self.tracker.wait()).await.is_ok() {
            return 0;
        }
        let left = self.sessions();
        self.floor.cut_all(Cut::Drained);
        self.tracker.wait().await;
        left
    }

    /// Stops accepting and cuts everything at once.
    ///
    /// # Cancel safety
    /// May be dropped: what was begun stays so.
    pub async fn kill(&self) {
        self.stop_accepting.cancel();
        self.tracker.close();
        self.floor.cut_all(Cut::Killed);
        self.tracker.wait().await;
    }
}
