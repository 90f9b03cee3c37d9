//! What one thread has counted: histograms and faults in its `Tally`, live numbers in its `Meter`.
//!
//! A `Tally` belongs to one thread and is merged at the end; a `Meter` has one writer and is read by the progress bar.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::fault::Fault;

/// How many faults are told in full; the rest is only counted.
const EXAMPLES: usize = 5;

/// Latencies above this are recorded as this: the command line allows no longer timeout.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct Tally {
    pub(crate) latency: Histogram<u64>,
    pub(crate) connect: Histogram<u64>,
    pub(crate) failures: BTreeMap<&'static str, u64>,
    pub(crate) mismatches: BTreeMap<&'static str, u64>,
    pub(crate) examples: Vec<String>,
    pub(crate) abandoned: u64,
    pub(crate) not_started: u64,
    pub(crate) last: Option<Instant>,
}

/// Live numbers of one thread. Relaxed everywhere: each is a count of its own, and nothing is read by way of it.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) operations: AtomicU64,
    pub(crate) opened: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) faults: AtomicU64,
}

impl Tally {
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

    /// An operation that was meant to start at `intended` has ended well.
    pub(crate) fn operation(&mut self, intended: Instant, ended: Instant) {
        record(&mut self.latency, ended.saturating_duration_since(intended));
        self.last = self.last.max(Some(ended));
    }

    pub(crate) fn connected(&mut self, took: Duration) {
        record(&mut self.connect, took);
    }

    pub(crate) fn fault(&mut self, fault: &Fault) {
        let count = match fault {
            Fault::Failed { reason, .. } => self.failures.entry(reason.label()),
            Fault::Wrong { mismatch, .. } => self.mismatches.entry(mismatch.label()),
        };
        *count.or_default() += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(fault.to_string());
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        // Both have the same bounds, so that adding can't fail.
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

impl Meter {
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
