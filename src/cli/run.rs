//! `evenkeel run`: start, tell systemd, obey signals, stop.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::{Failure, logging, systemd};
use crate::balancer::{Balancer, StartError, Surroundings};
use crate::config::{self, Config};
use crate::server;

/// Threads of the control plane and the admin side: two, so that a big scrape does not hold up the keepers.
const CONTROL_THREADS: usize = 2;

pub(super) fn run(path: &Path) -> Result<(), Failure> {
    let config = config::load(path)?;
    let inherited = systemd::inherited().context("the sockets from systemd")?;
    let logging = logging::start(&config.log)?;
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let dropped = logging.dropped;
    let surroundings =
        Surroundings { inherited, log_lines_dropped: Some(Arc::new(move || dropped.dropped_lines() as u64)) };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("the control plane's event loop")?;
    runtime.block_on(serve(config, surroundings))
}

async fn serve(config: Config, surroundings: Surroundings) -> Result<(), Failure> {
    let mut signals = Signals::new().context("signals can't be caught")?;
    let mut balancer = Balancer::start_in(config, surroundings).await.map_err(|error| match error {
        StartError::Server(server::StartError::Limit(error)) => error.into(),
        error => Failure::Runtime(error.into()),
    })?;
    systemd::ready();
    tokio::select! {
        died = balancer.failure() => return Err(Failure::Runtime(died.into())),
        () = signals.stop() => {}
    }
    systemd::stopping();
    tokio::select! {
        () = balancer.drain() => {}
        () = signals.stop() => balancer.kill().await,
    }
    Ok(())
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
