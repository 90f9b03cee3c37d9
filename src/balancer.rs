//! A whole balancer: the running set and its admin listener. What `evenkeel run` starts, and what a program that embeds
//! Evenkeel, or tests it, starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use thiserror::Error;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use crate::admin::{self, Admin, LogLevel};
use crate::config::{self, AdminSocket, Config, ConfigError, Difference, NamedDifference, Shutdown};
use crate::pool::Happened;
use crate::server::{self, Applied, Inherited, Server, ServerState};

/// A running balancer. Dropping it ends every session at once; [`Self::shutdown`] lets them finish.
#[derive(Debug)]
pub struct Balancer {
    server: Server,
    options: KeptOptions,
    /// Over TCP. Locked while a configuration is applied, so that there is one at a time.
    admin: Mutex<Option<AdminTask>>,
    /// Locked for as long as it takes to copy.
    admin_at: RwLock<Option<SocketAddr>>,
    /// Over a UNIX socket.
    socket: Option<AdminTask>,
}

/// The admin listener, until it is dropped.
#[derive(Debug)]
struct AdminTask {
    serving: JoinHandle<()>,
    stop: DropGuard,
}

/// Lines about what a new configuration changes: a fleet that moves must not fill the log.
const MOST_CHANGES: usize = 20;

/// What lives on of [`Options`].
#[derive(Clone)]
struct KeptOptions {
    log_lines_dropped: Arc<dyn Fn() -> u64 + Send + Sync>,
    allow_exec: bool,
    log_level: Option<LogLevel>,
    reload: Option<mpsc::Sender<oneshot::Sender<()>>>,
    troubles: Option<Arc<dyn Fn() -> Vec<String> + Send + Sync>>,
    /// Which clients may use the admin side: as it was said at the start.
    started_with: config::Admin,
    /// Where the admin socket is.
    socket: Option<PathBuf>,
}

impl std::fmt::Debug for KeptOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// What a balancer gets from its surroundings.
#[derive(Default)]
pub struct Options {
    /// Sockets from systemd.
    pub inherited: Vec<Inherited>,
    /// Counts log lines that were dropped; `None` = none ever is.
    pub log_lines_dropped: Option<Arc<dyn Fn() -> u64 + Send + Sync>>,
    /// Whether checks may run programs, with the rights of the balancer's user.
    pub allow_exec: bool,
    /// The log's level; `None` = it is not ours to change.
    pub log_level: Option<LogLevel>,
    /// Gets what the API's `config/reload` asks for, each answered when the file has been read; `None` = there is no file.
    pub reload: Option<mpsc::Sender<oneshot::Sender<()>>>,
    /// Says what is wrong around the balancer, such as with its file or its log, a line for each thing, for as long as it
    /// is wrong.
    pub troubles: Option<Arc<dyn Fn() -> Vec<String> + Send + Sync>>,
    /// Where the admin socket may be if the configuration does not say where: the first that may be used. A program has
    /// [`admin::usual_sockets`]; one that embeds Evenkeel as a rule none.
    pub sockets: Vec<PathBuf>,
}

/// Why a configuration was not applied: what ran goes on running.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// There is no valid one. The text is that of `evenkeel check`.
    #[error("{}", explained(.0))]
    Config(#[from] ConfigError),
    /// It can't be applied.
    #[error(transparent)]
    Apply(#[from] server::ApplyError),
    /// A check would run a program, and may not.
    #[error(transparent)]
    NotPermitted(#[from] Box<StartError>),
    /// The admin listener can't move.
    #[error("the admin listener can't listen on {address}{}", server::hint(source))]
    Admin {
        /// As written.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// An error of the configuration in words for people, over several lines if it has places.
pub(crate) fn explained(error: &ConfigError) -> String {
    match error {
        // Several lines, the first of which begins with the place: as compilers do.
        ConfigError::Invalid(report) => format!("{}\n{report}", server::HEADING),
        error => chain(error),
    }
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Why a balancer did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A check would run a program, which the start did not allow.
    #[error(
        "the check of pool `{pool}` is of kind `exec`: it runs a program as this user; start with --allow-exec if that is wanted"
    )]
    ExecNotAllowed {
        /// Its name.
        pool: String,
    },
    /// The running set did not.
    #[error(transparent)]
    Server(#[from] server::ServerStartError),
    /// The admin listener did not.
    #[error("the admin listener can't listen on {address}{}", server::hint(source))]
    Admin {
        /// As written.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The admin socket can't be used.
    #[error("the admin socket {} can't be used", path.display())]
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
        Self::start_in(config, Options::default()).await
    }

    /// As [`Self::start`], in given surroundings.
    ///
    /// # Errors
    /// Nothing is left behind.
    pub async fn start_in(config: Config, options: Options) -> Result<Self, StartError> {
        permit(&config, options.allow_exec)?;
        let bound = bind_admin(&config).await.map_err(|(address, source)| StartError::Admin { address, source })?;
        let Options { inherited, log_lines_dropped, allow_exec, log_level, reload, troubles, sockets } = options;
        let socket = bind_socket(&config.admin.socket, &sockets).await?;
        let log_lines_dropped = log_lines_dropped.unwrap_or_else(|| Arc::new(|| 0));
        let server = Server::start(&config, inherited)?;
        let started_with = config.admin.clone();
        let at = socket.as_ref().map(|(path, _)| path.clone());
        let options =
            KeptOptions { log_lines_dropped, allow_exec, log_level, reload, troubles, started_with, socket: at };
        let admin_at = RwLock::new(bound.as_ref().map(|(address, _)| *address));
        let admin = bound.map(|(address, admin)| options.listen(server.state(), address, admin));
        let socket = socket.map(|(path, admin)| {
            info!(path = %path.display(), "admin socket listening");
            options.serve(server.state(), admin)
        });
        Ok(Self { server, options, admin: Mutex::new(admin), admin_at, socket })
    }

    /// Puts a configuration in the place of the one in effect, all or nothing: listeners, pools and sessions that it does
    /// not name otherwise do not notice.
    ///
    /// # Errors
    /// Nothing has changed. It is counted, and shown by the API.
    ///
    /// # Cancel safety
    /// May be dropped: then it has happened, or not.
    pub async fn reload(&self, config: Config) -> Result<Applied, ReloadError> {
        let mut admin = self.admin.lock().await;
        let state = self.server.state();
        if let Err(error) = permit(&config, self.options.allow_exec) {
            self.refused(chain(&error));
            return Err(Box::new(error).into());
        }
        let moves = state.set().config.admin.bind != config.admin.bind;
        let bound = match moves {
            true => bind_admin(&config).await.map_err(|(address, source)| ReloadError::Admin { address, source }),
            false => Ok(None),
        };
        let applied = match bound {
            Ok(bound) => state.apply(&config).await.map(|applied| (bound, applied)).map_err(ReloadError::from),
            Err(error) => Err(error),
        };
        let (bound, applied) = applied.inspect_err(|error| self.refused(chain(error)))?;
        if moves {
            let address = bound.as_ref().map(|(address, _)| *address);
            *admin = bound.map(|(address, admin)| self.options.listen(state, address, admin));
            *self.admin_at.write().unwrap_or_else(PoisonError::into_inner) = address;
        }
        if applied.diff.is_empty() && applied.files.is_empty() {
            info!(generation = applied.generation, "the configuration is what it was");
            return Ok(applied);
        }
        if applied.diff.process.iter().any(|change| change.key == "log.level")
            && let Some(log_level) = &self.options.log_level
            && let Err(error) = (log_level.write)(&config.log.level)
        {
            warn!("log.level can't be changed: {error}");
        }
        self.tell(&config, &applied);
        Ok(applied)
    }

    /// Reads a file and does what it says; see [`Self::reload`].
    ///
    /// # Errors
    /// As [`Self::reload`], or the file is no configuration.
    ///
    /// # Cancel safety
    /// As [`Self::reload`].
    pub async fn reload_text(&self, path: &Path, text: &str) -> Result<Applied, ReloadError> {
        match config::parse_file(path, text) {
            Ok(config) => self.reload(config).await,
            Err(error) => Err(self.refuse(error)),
        }
    }

    /// Notes that there is no new configuration to apply.
    pub fn refuse(&self, error: ConfigError) -> ReloadError {
        self.refused(explained(&error));
        error.into()
    }

    fn refused(&self, why: String) {
        warn!("the new configuration is refused, what runs goes on: {why}");
        let state = self.server.state();
        state.events.tell(|| Happened::Reload { says: format!("refused: {why}") });
        state.reloads.refused(why);
    }

    fn tell(&self, config: &Config, applied: &Applied) {
        let (diff, generation) = (&applied.diff, applied.generation);
        let count = |all: &[NamedDifference], what: fn(&Difference) -> bool| {
            all.iter().filter(|named| what(&named.what)).count()
        };
        let all = [diff.listeners.as_slice(), diff.pools.as_slice()].concat();
        info!(
            generation,
            added = count(&all, |what| *what == Difference::Added),
            changed = count(&all, |what| matches!(what, Difference::Changed(_))),
            removed = count(&all, |what| *what == Difference::Removed),
            "the new configuration is in effect"
        );
        let lines = [applied.files.clone(), diff.lines()].concat();
        for line in lines.iter().take(MOST_CHANGES) {
            info!("changed: {line}");
        }
        if let more @ 1.. = lines.len().saturating_sub(MOST_CHANGES) {
            info!("changed: {more} more");
        }
        self.server.state().events.tell(|| Happened::Reload { says: format!("applied: generation {generation}") });
        for place in &applied.needs_restart {
            warn!("{place} is another one in the new configuration: that takes a restart");
        }
        for warning in config.warnings() {
            warn!("{warning}");
        }
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
        *self.admin_at.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What runs.
    pub fn state(&self) -> &Arc<ServerState> {
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
        let Shutdown { delay, timeout } = state.set().config.shutdown;
        let delay_first = (!delay.is_zero()).then_some(tracing::field::debug(delay));
        info!(sessions = state.sessions(), delay = delay_first, ?timeout, "stopping");
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
        self.close().await;
    }

    /// Ends the admin listener, and kills what still runs. When it returns, the admin socket's file is gone.
    pub async fn close(self) {
        for AdminTask { serving, stop } in self.admin.into_inner().into_iter().chain(self.socket) {
            drop(stop);
            // It can only have ended by itself.
            let _ = serving.await;
        }
    }
}

impl KeptOptions {
    fn listen(&self, state: &Arc<ServerState>, address: SocketAddr, admin: Admin) -> AdminTask {
        info!(%address, "admin listening");
        self.serve(state, admin)
    }

    fn serve(&self, state: &Arc<ServerState>, admin: Admin) -> AdminTask {
        let stop = CancellationToken::new();
        let view = admin::AdminView {
            state: Arc::clone(state),
            log_lines_dropped: Arc::clone(&self.log_lines_dropped),
            log_level: self.log_level.clone(),
            reload: self.reload.clone(),
            troubles: self.troubles.clone(),
            socket: self.socket.clone(),
        };
        let serving = tokio::spawn(admin.serve(view, self.started_with.clone(), stop.clone()));
        AdminTask { serving, stop: stop.drop_guard() }
    }
}

/// `None` = there is none.
async fn bind_socket(wanted: &AdminSocket, usual: &[PathBuf]) -> Result<Option<(PathBuf, Admin)>, StartError> {
    let mut admin = Admin::default();
    match wanted {
        AdminSocket::At(path) => {
            let bound = admin.bind_socket(path).await;
            bound.map_err(|source| StartError::AdminSocket { path: path.clone(), source })?;
            // For commands that run in another directory.
            Ok(Some((std::path::absolute(path).unwrap_or_else(|_| path.clone()), admin)))
        }
        AdminSocket::Usual if !usual.is_empty() => match admin.bind_usual_socket(usual).await {
            Ok(path) => Ok(Some((path, admin))),
            Err(why) => {
                warn!(
                    "no admin socket, so commands can change nothing here without an admin token: {why}; admin.socket says where it may be"
                );
                Ok(None)
            }
        },
        AdminSocket::Usual | AdminSocket::Off => Ok(None),
    }
}

/// `None` = it is off.
async fn bind_admin(config: &Config) -> Result<Option<(SocketAddr, Admin)>, (SocketAddr, std::io::Error)> {
    let Some(address) = config.admin.bind else { return Ok(None) };
    let mut admin = Admin::default();
    let bound = admin.bind(address).await.map_err(|source| (address, source))?;
    Ok(Some((bound, admin)))
}
