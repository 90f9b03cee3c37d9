//! How far a run is: a snapshot of the live numbers, and the bar on a terminal that shows it.
//!
//! The one file that knows indicatif. The bar goes to stderr and only to a terminal, so that output can be piped.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::plan::Plan;
use crate::tally::Meter;

/// The state of a run at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Time since all connections were there; `None` while they are being opened.
    pub elapsed: Option<Duration>,
    /// Operations that ended well.
    pub operations: u64,
    /// Connections opened so far.
    pub opened: u64,
    /// Bytes that the kernel took from us, headers included.
    pub sent: u64,
    /// Bytes that arrived.
    pub received: u64,
    /// Failures and mismatches.
    pub faults: u64,
}

impl Snapshot {
    pub(crate) fn of(meters: &[Arc<Meter>], elapsed: Option<Duration>) -> Self {
        let sum =
            |field: fn(&Meter) -> &AtomicU64| meters.iter().map(|meter| field(meter).load(Ordering::Relaxed)).sum();
        Self {
            elapsed,
            operations: sum(|meter| &meter.operations),
            opened: sum(|meter| &meter.opened),
            sent: sum(|meter| &meter.sent),
            received: sum(|meter| &meter.received),
            faults: sum(|meter| &meter.faults),
        }
    }
}

/// A progress bar for one run.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    connections: u64,
    messages: Option<u64>,
}

impl Bar {
    /// Hidden unless stderr is a terminal.
    pub fn new(plan: &Plan) -> Self {
        let length = plan.messages.unwrap_or_else(|| millis(plan.duration.unwrap_or_default()));
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(length) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}  {eta} left") {
            bar.set_style(style);
        }
        Self { bar, connections: plan.connections, messages: plan.messages }
    }

    /// Shows where the run is.
    pub fn show(&self, now: &Snapshot) {
        let Some(elapsed) = now.elapsed else {
            self.bar.set_message(format!("{} of {} connections", now.opened, self.connections));
            return;
        };
        self.bar.set_position(if self.messages.is_some() { now.operations } else { millis(elapsed) });
        let rate = now.operations as f64 / elapsed.as_secs_f64().max(0.001);
        self.bar.set_message(format!("{} operations, {rate:.0}/s, {} faults", now.operations, now.faults));
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// A progress bar for a long course of steps of different lengths, with the time that is left.
#[derive(Debug)]
pub(crate) struct Course {
    bar: ProgressBar,
    begun: Instant,
}

impl Course {
    /// `estimate` is how long all steps will take, roughly; the bar learns from those that are done.
    pub(crate) fn new(estimate: Duration) -> Self {
        let length = millis(estimate);
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(length) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {prefix}  {msg}") {
            bar.set_style(style);
        }
        Self { bar, begun: Instant::now() }
    }

    /// Says what is being done.
    pub(crate) fn show(&self, step: &str) {
        self.bar.set_prefix(step.to_owned());
        self.estimate();
    }

    /// A step that was estimated so is done.
    pub(crate) fn done(&self, estimate: Duration) {
        self.bar.inc(millis(estimate));
        self.estimate();
    }

    /// A line that stays; without a terminal it is all that shows.
    pub(crate) fn line(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn estimate(&self) {
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let left = all.saturating_sub(done);
        // Before the first step there is only the estimate.
        let pace = if done == 0 { 1.0 } else { millis(self.begun.elapsed()) as f64 / done as f64 };
        let seconds = (left as f64 * pace / 1e3) as u64;
        self.bar.set_message(format!("{} min {:02} s left", seconds / 60, seconds % 60));
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}
