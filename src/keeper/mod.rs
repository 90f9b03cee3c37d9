//! Merges what discovery, probes and sessions say about a pool's backends. One task per pool, the only writer of its
//! membership and facts. The decisions are in `members`, which knows no clock and no channel; this file feeds it.

mod members;
mod reason;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::endpoint::Update;
use crate::health::Report;
use crate::pool::{Evidence, Pool};
use members::Members;

/// Starts the probe of a backend; dropping what it returns ends the interest.
pub type Watch = Box<dyn Fn(&Arc<str>, SocketAddr) -> Box<dyn Send> + Send>;

/// A probe's report, and on whom.
#[derive(Clone, Debug)]
pub struct Probed {
    /// The backend's identity.
    pub id: Arc<str>,
    /// What was probed for it; the backend may have another address by now.
    pub address: SocketAddr,
    /// What it found.
    pub report: Report,
}

/// The settings of the pool are other ones than before.
pub struct Change {
    /// How to probe from now on, and where reports then come from; `None` = as before.
    pub probes: Option<(Watch, mpsc::UnboundedReceiver<Probed>)>,
}

/// What a keeper listens to.
pub struct Inputs {
    /// Whole sets from discovery.
    pub updates: mpsc::Receiver<Update>,
    /// From the probes that it watches. Unbounded, because a lost report could be the one that flips a backend; their
    /// number is bounded by the probes' own pace.
    pub reports: mpsc::UnboundedReceiver<Probed>,
    /// From sessions.
    pub evidence: mpsc::Receiver<Evidence>,
    /// From whoever changed the pool's settings.
    pub changes: mpsc::UnboundedReceiver<Change>,
}

/// Keeps a pool until its inputs are gone.
///
/// # Cancel safety
/// May be dropped at any time: what was applied stays, probes end.
pub async fn run(pool: Arc<Pool>, watch: Watch, mut inputs: Inputs) {
    let mut members = Members::new(pool, watch);
    loop {
        let deadline = members.next_deadline();
        tokio::select! {
            Some(Change { probes }) = inputs.changes.recv() => {
                let watch = probes.map(|(watch, reports)| {
                    // Reports of the old check that are still on their way say nothing about the new one.
                    inputs.reports = reports;
                    watch
                });
                members.changed(Instant::now(), watch);
            }
            Some(update) = inputs.updates.recv() => members.update(Instant::now(), update),
            Some(probed) = inputs.reports.recv() => members.report(Instant::now(), probed),
            Some(evidence) = inputs.evidence.recv() => members.evidence(Instant::now(), &evidence),
            () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {
                members.tick(Instant::now());
            }
            else => return,
        }
    }
}
