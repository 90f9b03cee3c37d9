//! The counts of one load thread: its results, which are merged at the end, and live counters, which the progress bar reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::operation_error::OperationError;

/// So many errors are reported in full; the others are only counted.
const EXAMPLES: usize = 5;

/// The longest timeout of the command line; longer latencies are recorded as this.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct ThreadResults {
    pub(crate) latency: Histogram<u64>,
    pub(crate) connect: Histogram<u64>,
    pub(crate) failures: BTreeMap<&'static str, u64>,
    pub(crate) mismatches: BTreeMap<&'static str, u64>,
    pub(crate) examples: Vec<String>,
    pub(crate) abandoned: u64,
    pub(crate) not_started: u64,
    pub(crate) last: Option<Instant>,
}

/// Live numbers of one thread, which is the only writer. Relaxed: the counts do not depend on each other.
#[derive(Debug, Default)]
pub(crate) struct LiveCounters {
    pub(crate) operations: AtomicU64,
    pub(crate) opened: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) errors: AtomicU64,
}

impl ThreadResults {
    pub(crate) fn new() -> Self {
        Self {
            latency: histogram(),
            connect: histogram(),
            failures: BTreeMap::new(),
            mismatches: BTreeMap::new(),
            examples: Vec::new(),
            abandoned: 0,
            not_started: 0,
            last: None,
        }
    }

    /// Records an operation that ended well; `intended` is its intended start.
    pub(crate) fn operation(&mut self, intended: Instant, ended: Instant) {
        record(&mut self.latency, ended.saturating_duration_since(intended));
        self.last = self.last.max(Some(ended));
    }

    pub(crate) fn connected(&mut self, took: Duration) {
        record(&mut self.connect, took);
    }

    pub(crate) fn record_error(&mut self, error: &OperationError) {
        let count = match error {
            OperationError::Failed { reason, .. } => self.failures.entry(reason.name()),
            OperationError::Wrong { mismatch, .. } => self.mismatches.entry(mismatch.name()),
        };
        *count.or_default() += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(error.to_string());
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        // Both have the same bounds, so adding can't fail.
        let _ = self.latency.add(&other.latency);
        let _ = self.connect.add(&other.connect);
        for (label, count) in other.failures {
            *self.failures.entry(label).or_default() += count;
        }
        for (label, count) in other.mismatches {
            *self.mismatches.entry(label).or_default() += count;
        }
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
        self.abandoned += other.abandoned;
        self.not_started += other.not_started;
        self.last = self.last.max(other.last);
    }
}

impl LiveCounters {
    pub(crate) fn add(count: &AtomicU64, by: u64) {
        count.fetch_add(by, Ordering::Relaxed);
    }
}

/// Nanoseconds with three digits, from 1 µs: about 200 KB each.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, LONGEST.as_nanos() as u64, 3).expect("the bounds are constant and valid")
}

fn record(histogram: &mut Histogram<u64>, duration: Duration) {
    histogram.saturating_record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
}
