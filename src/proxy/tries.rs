//! What one session has tried: which backends it does not get again, and what the log says about them.
//! Used by `upstream`.

use std::fmt;
use std::sync::Arc;

use crate::pool::{Backend, ChainPool, PickContext};

/// Different failures that a session keeps for its log line; the rest is counted.
const FAILURE_LIMIT: usize = 8;

#[derive(Debug)]
pub(super) struct Tries {
    /// Each backend once; those of the present round at the end.
    tried: Vec<Arc<Backend>>,
    /// How many belong to the present round. A round ends when all backends have been tried.
    round: usize,
    /// Those that have not answered yet.
    dialling: Vec<Arc<Backend>>,
    failures: Vec<FailedTry>,
    /// Failures that are not in `failures`.
    more: u32,
}

/// How a backend failed the session.
#[derive(Debug)]
struct FailedTry {
    backend: Arc<Backend>,
    reason: &'static str,
    times: u32,
}

impl Tries {
    pub(super) fn new() -> Self {
        let (tried, dialling, failures) = (Vec::new(), Vec::new(), Vec::new());
        Self { tried, round: 0, dialling, failures, more: 0 }
    }

    /// The context to pick a backend that was not tried at all.
    pub(super) fn untried(&self, of: &ChainPool, waits: bool) -> PickContext<'_> {
        PickContext { affinity: of.affinity, tried: &self.tried, dialling: &self.dialling, waits }
    }

    /// The context to pick one that was not tried in this round.
    pub(super) fn again(&self, of: &ChainPool, waits: bool) -> PickContext<'_> {
        PickContext { tried: &self.tried[self.tried.len() - self.round..], ..self.untried(of, waits) }
    }

    pub(super) fn is_first(&self) -> bool {
        self.tried.is_empty()
    }

    pub(super) fn is_new_round(&self) -> bool {
        self.round == 0
    }

    pub(super) fn begin_round(&mut self) {
        self.round = 0;
    }

    pub(super) fn dials(&mut self, backend: &Arc<Backend>) {
        self.add(backend);
        self.dialling.push(Arc::clone(backend));
    }

    pub(super) fn failed(&mut self, backend: &Arc<Backend>, reason: &'static str) {
        self.dialling.retain(|dialled| !Arc::ptr_eq(dialled, backend));
        let is_it = |failure: &&mut FailedTry| failure.reason == reason && Arc::ptr_eq(&failure.backend, backend);
        if let Some(known) = self.failures.iter_mut().find(is_it) {
            known.times += 1;
        } else if self.failures.len() < FAILURE_LIMIT {
            self.failures.push(FailedTry { backend: Arc::clone(backend), reason, times: 1 });
        } else {
            self.more += 1;
        }
    }

    /// One of them answered, or a preconnected connection was found; the others are too slow.
    pub(super) fn found(&mut self, backend: &Arc<Backend>) {
        self.add(backend);
        for slow in std::mem::take(&mut self.dialling) {
            if !Arc::ptr_eq(&slow, backend) {
                self.failed(&slow, "slow");
            }
        }
    }

    fn add(&mut self, backend: &Arc<Backend>) {
        let old = self.tried.len() - self.round;
        match self.tried.iter().position(|tried| Arc::ptr_eq(tried, backend)) {
            Some(place) if place >= old => return,
            Some(place) => drop(self.tried.remove(place)),
            None => {}
        }
        self.tried.push(Arc::clone(backend));
        self.round += 1;
    }

    /// The failures, for the log line; `None` = there were none.
    pub(super) fn failures(&self) -> Option<String> {
        (!self.failures.is_empty()).then(|| self.to_string())
    }
}

impl fmt::Display for Tries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, FailedTry { backend, reason, times }) in self.failures.iter().enumerate() {
            if number > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}: {reason}", backend.id)?;
            if *times > 1 {
                write!(f, " ×{times}")?;
            }
        }
        if self.more > 0 {
            write!(f, " and {} more", self.more)?;
        }
        Ok(())
    }
}
