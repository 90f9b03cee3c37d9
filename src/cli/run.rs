//! `evenkeel run`: start, tell systemd, obey signals, stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tracing::{info, warn};

use super::watch::Watch;
use super::{Failure, logging, systemd};
use crate::balancer::{Balancer, StartError, Surroundings, permit};
use crate::config::{self, Config};
use crate::server;

/// Threads of the control plane and the admin side: two, so that a big scrape does not hold up the keepers.
const CONTROL_THREADS: usize = 2;

/// For the sessions of the other workers after one has died: they end at once, unless something else is wrong, too.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub(super) fn run(path: &Path, allow_exec: bool) -> Result<(), Failure> {
    let text = config::read(path)?;
    let config = config::parse_file(path, &text)?;
    permit(&config, allow_exec)?;
    let inherited = systemd::inherited().context("the sockets from systemd")?;
    let logging = logging::start(&config.log)?;
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let surroundings = Surroundings {
        inherited,
        log_lines_dropped: Some(Arc::new(logging.dropped())),
        log_level: Some(logging.level()),
        allow_exec,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("the control plane's event loop")?;
    let result = runtime.block_on(serve(path, text, config, surroundings));
    // A look-up or a read of a file that hangs holds a thread of the runtime; the end does not wait for it.
    runtime.shutdown_background();
    result
}

async fn serve(path: &Path, text: String, config: Config, surroundings: Surroundings) -> Result<(), Failure> {
    let mut signals = Signals::new().context("signals can't be caught")?;
    let balancer = Balancer::start_in(config, surroundings).await.map_err(|error| match error {
        StartError::Server(server::StartError::Limit(error)) => error.into(),
        error @ StartError::Server(server::StartError::Check { .. }) => error.into(),
        error => Failure::Runtime(error.into()),
    })?;
    systemd::ready();
    let stop = async {
        let reloading = keep_up(&balancer, path, text, &mut signals.hangup);
        tokio::select! {
            () = stop(&mut signals.terminate, &mut signals.interrupt) => {}
            () = reloading => {}
        }
        systemd::stopping();
        tokio::select! {
            () = balancer.drain() => {}
            () = stop(&mut signals.terminate, &mut signals.interrupt) => balancer.kill().await,
        }
    };
    tokio::select! {
        () = stop => Ok(()),
        died = balancer.failure() => {
            // So that no stream that the others carry reads as complete when the process ends.
            let _ = timeout(LAST_WORDS, balancer.kill()).await;
            Err(Failure::Runtime(died.into()))
        }
    }
}

/// Applies what the file says at SIGHUP and, unless it is switched off, whenever it says something else. Never ends.
///
/// Dropping it leaves a reload that is under way either done or not.
async fn keep_up(balancer: &Balancer, path: &Path, mut seen: String, hangup: &mut Signal) {
    let mut watch = Watch::default();
    loop {
        watch.turn(balancer.state().set().config.reload.watch, path);
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            () = watch.changed(path) => false,
        };
        let text = match config::read(path) {
            Ok(text) => text,
            // Away for a moment while it is replaced, or for longer: what runs needs no file.
            Err(_) if !asked => continue,
            Err(error) => {
                drop(balancer.refuse(error));
                continue;
            }
        };
        if !asked && text == seen {
            continue;
        }
        info!(file = %path.display(), "{}", if asked { "SIGHUP: reading the file" } else { "the file has changed" });
        systemd::reloading();
        // How it went is in the log, the metrics and the API.
        let _ = balancer.reload_text(path, &text).await;
        systemd::ready();
        seen = text;
    }
}

async fn stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
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
