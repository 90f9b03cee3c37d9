//! The progress of a run, and the progress bars.
//!
//! The only file that uses indicatif. The bars go to stderr, and only to a terminal, so that output can be piped.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::counters::LiveCounters;
use crate::plan::LoadPlan;

/// The live numbers of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunProgress {
    /// Time since all connections were open; `None` before.
    pub elapsed: Option<Duration>,
    /// Operations that ended well.
    pub operations: u64,
    /// Connections opened so far.
    pub opened: u64,
    /// Bytes that the kernel accepted, headers included.
    pub sent: u64,
    /// Bytes that were read.
    pub received: u64,
    /// Failures and mismatches.
    pub errors: u64,
}

impl RunProgress {
    pub(crate) fn of(counters: &[Arc<LiveCounters>], elapsed: Option<Duration>) -> Self {
        let sum = |field: fn(&LiveCounters) -> &AtomicU64| {
            counters.iter().map(|counters| field(counters).load(Ordering::Relaxed)).sum()
        };
        Self {
            elapsed,
            operations: sum(|counters| &counters.operations),
            opened: sum(|counters| &counters.opened),
            sent: sum(|counters| &counters.sent),
            received: sum(|counters| &counters.received),
            errors: sum(|counters| &counters.errors),
        }
    }
}

/// A progress bar for one run.
#[derive(Debug)]
pub struct RunBar {
    bar: ProgressBar,
    connections: u64,
    messages: Option<u64>,
}

impl RunBar {
    /// Hidden unless stderr is a terminal.
    pub fn new(plan: &LoadPlan) -> Self {
        let length = plan.messages.unwrap_or_else(|| millis(plan.duration.unwrap_or_default()));
        let bar = bar(length, "{bar:30} {percent:>3} %  {msg}  {eta} left");
        Self { bar, connections: plan.connections, messages: plan.messages }
    }

    /// Shows the progress.
    pub fn show(&self, now: &RunProgress) {
        let Some(elapsed) = now.elapsed else {
            self.bar.set_message(format!("{} of {} connections", now.opened, self.connections));
            return;
        };
        self.bar.set_position(if self.messages.is_some() { now.operations } else { millis(elapsed) });
        let rate = now.operations as f64 / elapsed.as_secs_f64().max(0.001);
        self.bar.set_message(format!("{} operations, {rate:.0}/s, {} errors", now.operations, now.errors));
    }

    /// Removes the bar.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// A progress bar for many steps of different lengths, with the time that is left.
#[derive(Debug)]
pub(crate) struct StepBar {
    bar: ProgressBar,
    begun: Instant,
}

impl StepBar {
    /// `estimate` is for all steps together; finished steps correct it.
    pub(crate) fn new(estimate: Duration) -> Self {
        let length = millis(estimate);
        let bar = bar(length, "{bar:30} {percent:>3} %  {prefix}  {msg}");
        Self { bar, begun: Instant::now() }
    }

    pub(crate) fn show(&self, step: &str) {
        self.bar.set_prefix(step.to_owned());
        self.estimate();
    }

    /// A step with this estimate is done.
    pub(crate) fn done(&self, estimate: Duration) {
        self.bar.inc(millis(estimate));
        self.estimate();
    }

    /// Prints a line above the bar. Without a terminal these lines are all output.
    pub(crate) fn line(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn estimate(&self) {
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let left = all.saturating_sub(done);
        let pace = if done == 0 { 1.0 } else { millis(self.begun.elapsed()) as f64 / done as f64 };
        let seconds = (left as f64 * pace / 1e3) as u64;
        self.bar.set_message(format!("{} min {:02} s left", seconds / 60, seconds % 60));
    }
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(length) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}
