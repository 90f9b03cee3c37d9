//! Joins the control plane of a pool: discovery → keeper ← probes. The three don't know each other; the channels between
//! them are made here.

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

/// Whole sets that may wait for the keeper. One is enough: discovery then waits, and its next set says everything again.
const UPDATES_WAITING: usize = 1;

/// Backends whose address fails that may wait for discovery. One that finds no room fails again.
const FAILING_WAITING: usize = 64;

/// The tasks of one pool; they end when this is dropped.
pub(super) struct Control {
    tasks: [AbortHandle; 3],
    /// Unbounded: one message a reload.
    sources: UnboundedSender<Follower>,
    /// The same.
    changes: UnboundedSender<NewSettings>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    /// The pool's settings have changed: follows another source, if there is one, and probes by the check that is set now,
    /// if that is another one.
    pub(super) fn change(&self, pool: &Arc<Pool>, source: Option<Follower>, probe_anew: Option<&Prober>) {
        // Who does not listen any more has ended with the pool.
        let probes = probe_anew.map(|prober| {
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

/// Starts them on the current runtime.
pub(super) fn start(
    pool: &Arc<Pool>,
    observation: mpsc::Receiver<SessionReport>,
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
    let inputs = Inputs { updates, reports, advice, observation, overrides: pool.overrides.listen(), changes };
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
        let asking = agent.as_ref().map(|agent| ask(&prober, id, address, agent, advice.clone()));
        let mut watched = BackendProbes {
            prober: prober.clone(),
            check: Arc::clone(&check),
            id: Arc::clone(id),
            address,
            reports: reports.clone(),
            probe: None,
            _asking: asking,
        };
        watched.resume();
        Box::new(watched)
    })
}

/// The probe of a backend, and the questions to its agent.
struct BackendProbes {
    prober: Prober,
    check: Arc<Check>,
    id: Arc<str>,
    address: SocketAddr,
    reports: UnboundedSender<Probed>,
    /// `None` = it rests.
    probe: Option<Subscription>,
    _asking: Option<Subscription>,
}

impl Probing for BackendProbes {
    fn pause(&mut self) {
        self.probe = None;
    }

    fn resume(&mut self) {
        let (id, address, reports) = (Arc::clone(&self.id), self.address, self.reports.clone());
        let sink = Box::new(move |report: &ProbeReport| {
            // A keeper that is gone needs no reports.
            let _ = reports.send(Probed { id: Arc::clone(&id), address, report: report.clone() });
        });
        if self.probe.is_none() {
            self.probe = Some(self.prober.subscribe(address, &self.check, sink));
        }
    }
}

/// Of a backend's agent only the answers are wanted, and that there are none.
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
