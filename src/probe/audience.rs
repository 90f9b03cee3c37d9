//! Who hears a probe's reports, and the last report for whoever comes late.
//! Written by the probe's task and by subscribers; one lock makes the order the same for all: a late subscriber hears
//! the last report first and never an older one after a newer one.

use std::sync::Mutex;

use crate::health::Report;

use super::{ReportSink, locked};

/// The subscribers of one probe.
#[derive(Default)]
pub(super) struct Audience {
    /// A lock, as it is taken a few times per probe and held for a few channel sends.
    inner: Mutex<Inner>,
}

/// Names a sink within its audience.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

#[derive(Default)]
struct Inner {
    sinks: Vec<(Ticket, ReportSink)>,
    issued: u64,
    last: Option<Report>,
}

impl Audience {
    /// Adds a sink and tells it the last report, if there is one.
    pub(super) fn join(&self, sink: ReportSink) -> Ticket {
        let mut inner = locked(&self.inner);
        let ticket = Ticket(inner.issued);
        inner.issued += 1;
        if let Some(last) = &inner.last {
            sink(last);
        }
        inner.sinks.push((ticket, sink));
        ticket
    }

    /// Removes a sink and says how many are left.
    pub(super) fn leave(&self, ticket: Ticket) -> (Option<ReportSink>, usize) {
        let mut inner = locked(&self.inner);
        let sink = inner.sinks.iter().position(|(of, _)| *of == ticket).map(|at| inner.sinks.swap_remove(at).1);
        (sink, inner.sinks.len())
    }

    /// Tells every sink.
    pub(super) fn publish(&self, report: Report) {
        let mut inner = locked(&self.inner);
        for (_, sink) in &inner.sinks {
            sink(&report);
        }
        inner.last = Some(report);
    }
}
