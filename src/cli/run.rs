//! `evenkeel run`: start, tell systemd, obey signals, stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{info, warn};

use super::{CommandError, logging, systemd};
use crate::admin;
use crate::balancer::{Balancer, Options, StartError, permit};
use crate::config::{self, Config};
use crate::server;
use crate::watch::{FileWatch, ListWatches};

/// Threads of the control plane and the admin side: two, so that a big scrape does not hold up the keepers.
const CONTROL_THREADS: usize = 2;

/// Reloads that are asked for while one is under way; later ones wait in the API.
const RELOADS_WAITING: usize = 4;

type PendingReload = mpsc::Receiver<oneshot::Sender<()>>;

/// For the sessions of the other workers after one has died, and for the admin side at the end: they end at once, unless
/// something else is wrong, too.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub(super) fn run(path: &Path, allow_exec: bool) -> Result<(), CommandError> {
    let text = config::read(path)?;
    let config = config::parse_file(path, &text)?;
    permit(&config, allow_exec)?;
    let inherited = systemd::inherited().context("the sockets from systemd")?;
    let logging = logging::start(&config.log)?;
    for warning in config.warnings().into_iter().chain(super::check::shared_socket(&config)) {
        warn!("{warning}");
    }
    let (ask, asked) = mpsc::channel(RELOADS_WAITING);
    let watch = FileWatch::new(path, &text).context("the file can't be watched")?;
    let lists = ListWatches::default();
    let (shown, file_trouble, log_trouble) = (path.display().to_string(), watch.trouble(), logging.trouble());
    let list_troubles = lists.troubles();
    let troubles = move || {
        let of_file = file_trouble().map(|trouble| format!("{shown}: {trouble}"));
        of_file.into_iter().chain(list_troubles()).chain(log_trouble()).collect()
    };
    let options = Options {
        inherited,
        log_lines_dropped: Some(Arc::new(logging.dropped())),
        log_level: Some(logging.level()),
        reload: Some(ask),
        troubles: Some(Arc::new(troubles)),
        allow_exec,
        sockets: admin::usual_sockets(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("the control plane's event loop")?;
    let result = runtime.block_on(serve(path, (watch, lists), config, options, asked));
    // A look-up or a read of a file that hangs holds a thread of the runtime; the end does not wait for it.
    runtime.shutdown_background();
    result
}

async fn serve(
    path: &Path,
    (watch, mut lists): (FileWatch, ListWatches),
    config: Config,
    options: Options,
    mut asked: PendingReload,
) -> Result<(), CommandError> {
    let mut signals = Signals::new().context("signals can't be caught")?;
    // In a container: what lost its parent has no other one to wait for its end.
    if std::process::id() == 1 {
        tokio::spawn(server::reap_orphans());
    }
    lists.expect(&config);
    let balancer = Balancer::start_in(config, options).await.map_err(|error| match error {
        StartError::Server(server::ServerStartError::Limit(error)) => error.into(),
        error @ StartError::Server(server::ServerStartError::Check { .. } | server::ServerStartError::Access(_)) => {
            error.into()
        }
        error => CommandError::Runtime(error.into()),
    })?;
    systemd::ready();
    info!(version = env!("CARGO_PKG_VERSION"), file = %path.display(), pid = std::process::id(), "started");
    let stop = async {
        let reloading = keep_up(&balancer, path, (watch, lists), &mut signals.hangup, &mut asked);
        tokio::select! {
            signal = stop(&mut signals.terminate, &mut signals.interrupt) => {
                info!("{signal}: a stop begins; another one does not wait for sessions");
            }
            () = reloading => {}
        }
        systemd::stopping();
        tokio::select! {
            () = balancer.drain() => {}
            _ = stop(&mut signals.terminate, &mut signals.interrupt) => balancer.kill().await,
        }
    };
    let ended = tokio::select! {
        () = stop => Ok(()),
        died = balancer.failure() => {
            // So that no stream that the others carry reads as complete when the process ends.
            let _ = timeout(LAST_WORDS, balancer.kill()).await;
            Err(CommandError::Runtime(died.into()))
        }
    };
    // Else the process could be gone before the admin socket's file is.
    let _ = timeout(LAST_WORDS, balancer.close()).await;
    ended
}

/// Applies what the file says at SIGHUP, when the API asks for it and, unless it is switched off, whenever it, or a file that
/// it names, says something else. Never ends.
///
/// Dropping it leaves a reload that is under way either done or not.
async fn keep_up(
    balancer: &Balancer,
    path: &Path,
    (mut watch, mut lists): (FileWatch, ListWatches),
    hangup: &mut Signal,
    asked: &mut PendingReload,
) {
    // What the file said when it was refused: a list may have been at fault.
    let mut refused = None;
    loop {
        let config = Arc::clone(&balancer.state().set().config);
        watch.turn(config.reload.watch);
        lists.follow(&config);
        let (text, why, done) = tokio::select! {
            _ = hangup.recv() => (None, "SIGHUP: reading the file", None),
            Some(done) = asked.recv() => (None, "asked for: reading the file", Some(done)),
            text = watch.changed() => (Some(text), "the file has changed", None),
            changed = lists.changed() => {
                info!(file = %changed.display(), "a file of networks has changed");
                systemd::reloading();
                // The configuration in effect: its file may be half written just now.
                drop(balancer.reload(Config::clone(&config)).await);
                if let Some(text) = refused.take() {
                    refused = apply(balancer, path, text, &mut lists).await;
                }
                systemd::ready();
                continue;
            }
        };
        // Told when it is dropped, whatever came of it.
        let _done = ReloadDone(done);
        info!(file = %path.display(), "{why}");
        // Also where the file can't be read: who sent the signal waits for this.
        systemd::reloading();
        let text = match text {
            Some(text) => text,
            None => watch.read().await,
        };
        refused = match text {
            Ok(text) => apply(balancer, path, text, &mut lists).await,
            Err(error) => {
                drop(balancer.refuse(error));
                None
            }
        };
        systemd::ready();
    }
}

/// Returns the text if it is refused. How it went is in the log, the metrics and the API.
async fn apply(balancer: &Balancer, path: &Path, text: String, lists: &mut ListWatches) -> Option<String> {
    let applied = match config::parse_file(path, &text) {
        Ok(config) => {
            lists.expect(&config);
            balancer.reload(config).await
        }
        Err(error) => Err(balancer.refuse(error)),
    };
    applied.is_err().then_some(text)
}

/// One that waits for a reload to be over.
struct ReloadDone(Option<oneshot::Sender<()>>);

impl Drop for ReloadDone {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            // The one that asked may have left.
            let _ = done.send(());
        }
    }
}

/// The name of the signal.
async fn stop(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}
