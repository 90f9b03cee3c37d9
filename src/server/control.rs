//! Joins the control plane of a pool: discovery → keeper ← probes. The three don't know each other; the channels between
//! them are made here.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::discovery::Follower;
use crate::keeper::{self, Inputs, Probed, Watch};
use crate::pool::{Pool, Testimony};
use crate::probe::Prober;

/// Whole sets that may wait for the keeper. One is enough: discovery then waits, and its next set says everything again.
const UPDATES_WAITING: usize = 1;

/// The tasks of one pool; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Control(Vec<AbortHandle>);

impl Drop for Control {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Starts them on the current runtime.
pub(super) fn start(
    pool: &Arc<Pool>,
    evidence: mpsc::Receiver<Testimony>,
    follower: Follower,
    prober: &Prober,
    closing: AbortHandle,
) -> Control {
    let (send_updates, updates) = mpsc::channel(UPDATES_WAITING);
    let (send_reports, reports) = mpsc::unbounded_channel();
    let watch = watch(pool, prober, send_reports);
    let keeper = tokio::spawn(keeper::run(
        Arc::clone(pool),
        watch,
        Inputs { updates, reports, evidence, commands: pool.orders.listen() },
    ));
    let discovery = tokio::spawn(follower.run(Arc::clone(&pool.source), send_updates));
    Control(vec![keeper.abort_handle(), discovery.abort_handle(), closing])
}

fn watch(pool: &Arc<Pool>, prober: &Prober, reports: mpsc::UnboundedSender<Probed>) -> Watch {
    let check = Arc::clone(&pool.settings().check);
    let prober = prober.clone();
    Box::new(move |id, address| {
        let (id, reports) = (Arc::clone(id), reports.clone());
        let sink = Box::new(move |report: &crate::health::Report| {
            // A keeper that is gone needs no reports.
            let _ = reports.send(Probed { id: Arc::clone(&id), address, report: report.clone() });
        });
        Box::new(prober.subscribe(address, &check, sink))
    })
}
