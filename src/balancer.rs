//! A whole balancer: the running set and its admin listener. What `evenkeel run` starts, and what a program that embeds
//! Evenkeel, or tests it, starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use crate::admin::{self, Admin, LogLevel};
use crate::config::{Config, Shutdown};
use crate::server::{self, Inherited, Server, State};

/// See the module. Dropping it kills what still runs.
#[derive(Debug)]
pub struct Balancer {
    server: Server,
    shutdown: Shutdown,
    admin: Option<SocketAddr>,
    serving: JoinHandle<()>,
    stop_admin: DropGuard,
}

/// What a balancer gets from its surroundings.
#[derive(Default)]
pub struct Surroundings {
    /// Sockets from systemd.
    pub inherited: Vec<Inherited>,
    /// Counts log lines that were dropped; `None` = none ever is.
    pub log_lines_dropped: Option<Arc<dyn Fn() -> u64 + Send + Sync>>,
    /// Whether checks may run programs, as whoever runs the balancer.
    pub allow_exec: bool,
    /// The log's level; `None` = it is not ours to change.
    pub log_level: Option<LogLevel>,
}

/// Why a balancer did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A check would run a program, and nobody said that it may.
    #[error(
        "the check of pool `{pool}` is of kind `exec`: it runs a program as this user; start with --allow-exec if that is wanted"
    )]
    ExecNotAllowed {
        /// Its name.
        pool: String,
    },
    /// The running set did not.
    #[error(transparent)]
    Server(#[from] server::StartError),
    /// The admin listener did not.
    #[error("the admin listener can't listen on {address}{}", server::hint(source))]
    Admin {
        /// As written.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The admin socket is not at hand.
    #[error("the admin socket {} is not at hand", path.display())]
    AdminSocket {
        /// As written.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A worker thread is gone: a bug, after which the process can't be trusted.
#[derive(Debug, Error)]
#[error("worker {0} died")]
pub struct WorkerDied(pub usize);

/// Whether a configuration does only what it may.
///
/// # Errors
/// A check would run a program, and `allow_exec` is not set.
pub(crate) fn permit(config: &Config, allow_exec: bool) -> Result<(), StartError> {
    match config.pools_that_execute().next() {
        Some(pool) if !allow_exec => Err(StartError::ExecNotAllowed { pool: pool.name.clone() }),
        _ => Ok(()),
    }
}

impl Balancer {
    /// Starts everything: control plane and admin listener on the current tokio runtime, the data plane on threads of its
    /// own. When it returns, the front sockets listen.
    ///
    /// # Errors
    /// Nothing is left behind.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_in(config, Surroundings::default()).await
    }

    /// As [`Self::start`], in given surroundings.
    ///
    /// # Errors
    /// Nothing is left behind.
    pub async fn start_in(config: Config, surroundings: Surroundings) -> Result<Self, StartError> {
        permit(&config, surroundings.allow_exec)?;
        let mut admin = Admin::default();
        let mut admin_address = None;
        if let Some(address) = config.admin.bind {
            let bound = admin.bind(address).await.map_err(|source| StartError::Admin { address, source })?;
            admin_address = Some(bound);
        }
        if let Some(path) = &config.admin.socket {
            let bound = admin.bind_socket(path).await;
            bound.map_err(|source| StartError::AdminSocket { path: path.clone(), source })?;
        }
        let server = Server::start(&config, surroundings.inherited)?;
        let stop_admin = CancellationToken::new();
        let view = admin::View {
            state: Arc::clone(server.state()),
            log_lines_dropped: surroundings.log_lines_dropped.unwrap_or_else(|| Arc::new(|| 0)),
            backend_histograms: config.admin.backend_histograms,
            log_level: surroundings.log_level,
        };
        if let Some(address) = admin_address {
            info!(%address, "admin listening");
        }
        if let Some(path) = &config.admin.socket {
            info!(path = %path.display(), "admin socket listening");
        }
        let serving = tokio::spawn(admin.serve(view, config.admin, stop_admin.clone()));
        let (shutdown, stop_admin) = (config.shutdown, stop_admin.drop_guard());
        Ok(Self { server, shutdown, admin: admin_address, serving, stop_admin })
    }

    /// Every front address, port 0 resolved, with its listener's name.
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        let of = |listener: &Arc<crate::proxy::Listener>| {
            let name = listener.name.to_string();
            listener.addresses().iter().map(move |&address| (name.clone(), address)).collect::<Vec<_>>()
        };
        self.server.state().set().listeners.iter().flat_map(of).collect()
    }

    /// Where the admin listener is, unless it is off.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// What runs.
    pub fn state(&self) -> &Arc<State> {
        self.server.state()
    }

    /// Resolves only if a worker thread dies.
    ///
    /// # Cancel safety
    /// Safe.
    pub fn failure(&self) -> impl Future<Output = WorkerDied> + Send + use<> {
        let death = self.server.worker_death();
        async { WorkerDied(death.await) }
    }

    /// Stops as the configuration says: not ready, wait `shutdown.delay`, stop accepting, let sessions finish until
    /// `shutdown.timeout`, cut the rest. Ends as soon as the last session has.
    ///
    /// # Cancel safety
    /// May be dropped, for [`Self::kill`] say: what was begun stays so.
    pub async fn drain(&self) {
        let state = self.server.state();
        state.drain();
        let Shutdown { delay, timeout } = self.shutdown;
        info!(sessions = state.sessions(), ?delay, ?timeout, "stopping");
        tokio::time::sleep(delay).await;
        match state.finish(timeout).await {
            0 => info!("stopped: every session has finished"),
            cut => warn!(sessions = cut, "stopped: sessions were cut because shutdown.timeout is over"),
        }
    }

    /// Cuts everything at once.
    ///
    /// # Cancel safety
    /// As [`Self::drain`].
    pub async fn kill(&self) {
        let state = self.server.state();
        state.drain();
        warn!(sessions = state.sessions(), "killed: every session is cut now");
        state.kill().await;
    }

    /// Drains, then ends the admin listener too.
    pub async fn shutdown(self) {
        self.drain().await;
        drop(self.stop_admin);
        // It can only have ended by itself.
        let _ = self.serving.await;
    }
}
