//! Measures one cell after another: shows the progress, and leaves out a system that has failed.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use super::process::ProcessGroup;
use crate::progress::StepBar;

/// Why a cell could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CellError {
    /// A namespace, a file or a process.
    #[error("could not set it up")]
    Setup(#[from] io::Error),
    /// The system ended, or did not serve in time.
    #[error("it did not serve: {0}")]
    Dead(String),
    #[error("the load could not be made")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the fault could not be made")]
    Fault(#[source] io::Error),
}

/// The cells of a run, in their order.
pub(crate) struct CellRunner {
    bar: StepBar,
    attempts: u32,
    failed: BTreeSet<String>,
}

impl CellRunner {
    /// Says how long `cells` cells take. `total` is the estimate for all of them.
    pub(crate) fn new(cells: &str, total: Duration, attempts: u32) -> Self {
        eprintln!("{cells}: about {:.1} minutes", total.as_secs_f64() / 60.0);
        Self { bar: StepBar::new(total), attempts, failed: BTreeSet::new() }
    }

    /// Measures one cell of `system`. `None` if the system fails now or has failed before; the reason goes to `missing`.
    pub(crate) fn run<T>(
        &mut self,
        (system, case, label): (&str, &str, &str),
        estimate: Duration,
        missing: &mut Vec<String>,
        measure: impl Fn() -> Result<T, CellError>,
    ) -> Option<T> {
        let mut measured = None;
        if !self.failed.contains(system) {
            self.bar.show(label);
            match self.measure(label, measure) {
                Ok(figures) => measured = Some(figures),
                Err(error) => {
                    let line = format!("{system}: {case}: {:#}", anyhow::Error::from(error));
                    self.bar.line(&format!("failed: {line}"));
                    missing.push(line);
                    self.failed.insert(system.to_owned());
                }
            }
        }
        self.bar.done(estimate);
        measured
    }

    /// A line that stays above the progress bar.
    pub(crate) fn line(&self, text: &str) {
        self.bar.line(text);
    }

    /// Removes the progress bar. Returns whether every system was measured.
    pub(crate) fn finish(self) -> bool {
        self.bar.clear();
        self.failed.is_empty()
    }

    fn measure<T>(&self, label: &str, measure: impl Fn() -> Result<T, CellError>) -> Result<T, CellError> {
        let mut result = measure();
        for _ in 1..self.attempts {
            if let Err(error) = result {
                self.bar.line(&format!("once more: {label}: {:#}", anyhow::Error::from(error)));
                result = measure();
            }
        }
        result
    }
}

/// The systems of one round. Each round begins with another system, so that what one system leaves in the kernel (TIME_WAIT,
/// dirty caches) does not always meet the same next one.
pub(crate) fn in_turn<T>(systems: impl Iterator<Item = T>, round: u32) -> Vec<T> {
    let mut systems: Vec<_> = systems.collect();
    let first = (round as usize - 1) % systems.len().max(1);
    systems.rotate_left(first);
    systems
}

/// Calls `serves` until it returns a value, the system ends, or `limit` is over. `Err` of `serves` is what it waits for.
pub(crate) fn wait_until_it_serves<T>(
    mut system: Option<&mut ProcessGroup>,
    limit: Duration,
    last_lines: impl Fn() -> String,
    mut serves: impl FnMut() -> Result<Result<T, String>, CellError>,
) -> Result<T, CellError> {
    let start = Instant::now();
    loop {
        if let Some(status) = system.as_deref_mut().map(ProcessGroup::ended).transpose()?.flatten() {
            return Err(CellError::Dead(format!("{status}; {}", last_lines())));
        }
        match serves()? {
            Ok(value) => return Ok(value),
            Err(waits_for) if start.elapsed() > limit => {
                return Err(CellError::Dead(format!("{waits_for}; {}", last_lines())));
            }
            Err(_) => {}
        }
    }
}

/// The last lines of a system's log.
pub(crate) fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() { "it said nothing".into() } else { lines[lines.len().saturating_sub(4)..].join(" | ") }
}
