//! `evenkeel run`: start, tell systemd, obey signals, stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Failure, logging, systemd};
use crate::balancer::{Balancer, StartError, Surroundings, permit};
use crate::config::{self, Config};
use crate::server;

/// Threads of the control plane and the admin side: two, so that a big scrape does not hold up the keepers.
const CONTROL_THREADS: usize = 2;

/// For the sessions of the other workers after one has died: they end at once, unless something else is wrong, too.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub(super) fn run(path: &Path, allow_exec: bool) -> Result<(), Failure> {
    let config = config::load(path)?;
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
    let result = runtime.block_on(serve(config, surroundings));
    // A look-up or a read of a file that hangs holds a thread of the runtime; the end does not wait for it.
    runtime.shutdown_background();
    result
}

async fn serve(config: Config, surroundings: Surroundings) -> Result<(), Failure> {
    let mut signals = Signals::new().context("signals can't be caught")?;
    let balancer = Balancer::start_in(config, surroundings).await.map_err(|error| match error {
        StartError::Server(server::StartError::Limit(error)) => error.into(),
        error @ StartError::Server(server::StartError::Check { .. }) => error.into(),
        error => Failure::Runtime(error.into()),
    })?;
    systemd::ready();
    let stop = async {
        signals.stop().await;
        systemd::stopping();
        tokio::select! {
            () = balancer.drain() => {}
            () = signals.stop() => balancer.kill().await,
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

    /// Waits for SIGTERM or SIGINT; answers SIGHUP meanwhile.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    info!("SIGHUP: this version does not reload; what runs goes on running");
                }
            }
        }
    }
}
