//! Joins the control plane of a pool: discovery → keeper ← probes.
//! Called by `apply`.
//! The three modules do not know each other; the channels between them are made here.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::AbortHandle;

use crate::config::Check;
use crate::discovery::Follower;
use crate::health::ProbeReport;
use crate::keeper::{self, Advised, Inputs, NewSettings, ProbeHandle, Probed, Probing};
use crate::pool::{Pool, SessionReport};
use crate::probe::{Prober, Subscription};

/// Sets of endpoints that may wait for the keeper. One is enough: discovery waits then, and its next set is complete again.
const UPDATES_WAITING: usize = 1;

/// Reports of failing addresses that may wait for discovery. If there is no room, the address fails again and is reported
/// then.
const FAILING_WAITING: usize = 64;

/// The tasks of one pool. They end when this is dropped.
pub(super) struct Control {
    tasks: [AbortHandle; 3],
    /// Unbounded: one message for each reload.
    sources: UnboundedSender<Follower>,
    /// Unbounded: one message for each reload.
    changes: UnboundedSender<NewSettings>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    /// Applies changed settings of the pool: follows `source`, if that changed, and probes by the new check, if `new_probes`
    /// is there.
    pub(super) fn change(&self, pool: &Arc<Pool>, source: Option<Follower>, new_probes: Option<&Prober>) {
        // A task that does not receive any more has ended with the pool.
        let probes = new_probes.map(|prober| {
            let (send_reports, reports) = mpsc::unbounded_channel();
            let (send_advice, advice) = mpsc::unbounded_channel();
            (watch(pool, prober, send_reports, send_advice), reports, advice)
        });
        let _ = self.changes.send(NewSettings { probes });
        if let Some(source) = source {
            let _ = self.sources.send(source);
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Starts the tasks of a pool on the current runtime.
pub(super) fn start(
    pool: &Arc<Pool>,
    session_reports: mpsc::Receiver<SessionReport>,
    follower: Follower,
    prober: &Prober,
    closing: AbortHandle,
) -> Control {
    let (send_updates, updates) = mpsc::channel(UPDATES_WAITING);
    let (send_reports, reports) = mpsc::unbounded_channel();
    let (send_advice, advice) = mpsc::unbounded_channel();
    let (send_changes, changes) = mpsc::unbounded_channel();
    let (send_sources, sources) = mpsc::unbounded_channel();
    let watch = watch(pool, prober, send_reports, send_advice);
    let inputs =
        Inputs { updates, reports, advice, observation: session_reports, overrides: pool.overrides.listen(), changes };
    let (send_failing, failing) = mpsc::channel(FAILING_WAITING);
    let look_up = Box::new(move |id: &Arc<str>| drop(send_failing.try_send(Arc::clone(id))));
    let keeper = tokio::spawn(keeper::run(Arc::clone(pool), watch, look_up, inputs));
    let discovery = tokio::spawn(follower.run(Arc::clone(&pool.source), send_updates, sources, failing));
    Control {
        tasks: [keeper.abort_handle(), discovery.abort_handle(), closing],
        sources: send_sources,
        changes: send_changes,
    }
}

fn watch(
    pool: &Arc<Pool>,
    prober: &Prober,
    reports: UnboundedSender<Probed>,
    advice: UnboundedSender<Advised>,
) -> ProbeHandle {
    let (check, agent) = (Arc::clone(&pool.settings().check), pool.settings().agent.clone());
    let prober = prober.clone();
    Box::new(move |id, address| {
        let agent_check = agent.as_ref().map(|agent| ask(&prober, id, address, agent, advice.clone()));
        let mut watched = BackendProbes {
            prober: prober.clone(),
            check: Arc::clone(&check),
            id: Arc::clone(id),
            address,
            reports: reports.clone(),
            probe: None,
            _agent_check: agent_check,
        };
        watched.resume();
        Box::new(watched)
    })
}

/// The probe of a backend, and its agent check.
struct BackendProbes {
    prober: Prober,
    check: Arc<Check>,
    id: Arc<str>,
    address: SocketAddr,
    reports: UnboundedSender<Probed>,
    /// `None` = paused.
    probe: Option<Subscription>,
    _agent_check: Option<Subscription>,
}

impl Probing for BackendProbes {
    fn pause(&mut self) {
        self.probe = None;
    }

    fn resume(&mut self) {
        let (id, address, reports) = (Arc::clone(&self.id), self.address, self.reports.clone());
        let sink = Box::new(move |report: &ProbeReport| {
            // A keeper that has ended needs no reports.
            let _ = reports.send(Probed { id: Arc::clone(&id), address, report: report.clone() });
        });
        if self.probe.is_none() {
            self.probe = Some(self.prober.subscribe(address, &self.check, sink));
        }
    }
}

/// Runs the agent check. The keeper only wants its answers and failures to answer.
fn ask(
    prober: &Prober,
    id: &Arc<str>,
    address: SocketAddr,
    agent: &Arc<Check>,
    to: UnboundedSender<Advised>,
) -> Subscription {
    let id = Arc::clone(id);
    let sink = Box::new(move |report: &ProbeReport| {
        let _ = to.send(Advised { id: Arc::clone(&id), address, report: report.clone() });
    });
    prober.subscribe(address, agent, sink)
}
