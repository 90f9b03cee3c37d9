//! Merges what discovery, probes and sessions say about a pool's backends. One task per pool, the only writer of its
//! membership and facts. The decisions are in `members`, which knows no clock and no channel; this file feeds it.

mod addresses;
mod agents;
mod aggregate;
mod departed;
mod guard;
mod member;
mod members;
mod outliers;
mod overrides;
mod reason;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::endpoint::Update;
use crate::health::ProbeReport;
use crate::pool::{PendingOverride, Pool, SessionReport};
use members::Members;

/// Starts the probe of a backend.
pub type ProbeHandle = Box<dyn Fn(&Arc<str>, SocketAddr) -> Box<dyn Probing> + Send>;

/// An interest in a probe, which ends when this is dropped.
pub trait Probing: Send {
    /// Nothing is probed until [`Self::resume`]; the backend's agent is still asked.
    fn pause(&mut self);

    /// It is probed again.
    fn resume(&mut self);
}

/// Of what is not probed.
impl Probing for () {
    fn pause(&mut self) {}

    fn resume(&mut self) {}
}

/// Asks for the addresses of a backend's name, because the one in use fails. How often is the other side's to bound.
pub type LookUp = Box<dyn Fn(&Arc<str>) + Send>;

/// A probe's report, and which backend it is about.
#[derive(Clone, Debug)]
pub struct Probed {
    /// The backend's identity.
    pub id: Arc<str>,
    /// What was probed for it; the backend may have another address by now.
    pub address: SocketAddr,
    /// What it found.
    pub report: ProbeReport,
}

/// The settings of the pool are other ones than before.
pub struct NewSettings {
    /// How to probe from now on, and where reports and advice then come from; `None` = as before.
    pub probes: Option<(ProbeHandle, mpsc::UnboundedReceiver<Probed>, mpsc::UnboundedReceiver<Advised>)>,
}

/// What became of a question to a backend's agent.
#[derive(Clone, Debug)]
pub struct Advised {
    /// The backend's identity.
    pub id: Arc<str>,
    /// Whose agent was asked; the backend may have another address by now.
    pub address: SocketAddr,
    /// All of its wishes, or why there are none.
    pub report: ProbeReport,
}

/// What a keeper listens to.
pub struct Inputs {
    /// Whole sets from discovery.
    pub updates: mpsc::Receiver<Update>,
    /// From the probes that it watches. Unbounded, because a lost report could be the one that flips a backend; their
    /// number is bounded by the probes' own pace.
    pub reports: mpsc::UnboundedReceiver<Probed>,
    /// From the agents that it watches. Unbounded for the same reason.
    pub advice: mpsc::UnboundedReceiver<Advised>,
    /// From sessions.
    pub observation: mpsc::Receiver<SessionReport>,
    /// From operators.
    pub overrides: mpsc::Receiver<PendingOverride>,
    /// From `server`, when the pool's settings have changed.
    pub changes: mpsc::UnboundedReceiver<NewSettings>,
}

/// Keeps a pool until its inputs are gone.
///
/// # Cancel safety
/// May be dropped at any time: what was applied stays, probes end.
pub async fn run(pool: Arc<Pool>, watch: ProbeHandle, look_up: LookUp, mut inputs: Inputs) {
    let mut members = Members::new(pool, watch, fastrand::Rng::new());
    members.look_up = look_up;
    loop {
        let deadline = members.next_deadline();
        tokio::select! {
            Some(NewSettings { probes }) = inputs.changes.recv() => {
                let watch = probes.map(|(watch, reports, advice)| {
                    // Reports of the old check that are still on their way say nothing about the new one.
                    (inputs.reports, inputs.advice) = (reports, advice);
                    watch
                });
                members.changed(Instant::now(), watch);
            }
            Some(update) = inputs.updates.recv() => members.update(Instant::now(), update),
            Some(probed) = inputs.reports.recv() => members.report(Instant::now(), probed),
            Some(advised) = inputs.advice.recv() => {
                members.hear_agent(Instant::now(), advised);
            }
            Some(report) = inputs.observation.recv() => members.observation(Instant::now(), &report),
            Some(given) = inputs.overrides.recv() => {
                let result = members.operate(Instant::now(), given.wanted);
                // The operator that gave it may have left.
                let _ = given.done.send(result);
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {
                members.tick(Instant::now());
            }
            else => return,
        }
    }
}
