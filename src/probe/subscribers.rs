//! The subscribers of one probe, and its last report for those that join late.
//! Called by the probe's task and by `Prober`.
//! One lock makes the order the same for all: a late subscriber gets the last report first, and never an older one after a
//! newer one.

use std::sync::Mutex;

use crate::health::ProbeReport;

use super::{ReportSink, locked};

/// The subscribers of one probe.
#[derive(Default)]
pub(super) struct Subscribers {
    /// A lock: it is taken a few times per attempt, and held for a few sends.
    inner: Mutex<SubscriberList>,
}

/// Identifies a sink within one [`Subscribers`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct SubscriberId(u64);

#[derive(Default)]
struct SubscriberList {
    sinks: Vec<(SubscriberId, ReportSink)>,
    issued: u64,
    last: Option<ProbeReport>,
}

impl Subscribers {
    /// Adds a sink, and sends it the last report if there is one.
    pub(super) fn join(&self, sink: ReportSink) -> SubscriberId {
        let mut inner = locked(&self.inner);
        let id = SubscriberId(inner.issued);
        inner.issued += 1;
        if let Some(last) = &inner.last {
            sink(last);
        }
        inner.sinks.push((id, sink));
        id
    }

    /// Removes a sink. Returns it, and how many are left.
    pub(super) fn leave(&self, id: SubscriberId) -> (Option<ReportSink>, usize) {
        let mut inner = locked(&self.inner);
        let sink = inner.sinks.iter().position(|(of, _)| *of == id).map(|at| inner.sinks.swap_remove(at).1);
        (sink, inner.sinks.len())
    }

    /// Sends a report to every sink.
    pub(super) fn publish(&self, report: ProbeReport) {
        let mut inner = locked(&self.inner);
        for (_, sink) in &inner.sinks {
            sink(&report);
        }
        inner.last = Some(report);
    }
}
