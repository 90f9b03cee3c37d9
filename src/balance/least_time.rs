//! Least time: picks the lowest time × (sessions + 1) / weight, where the time of a slot is its connect time plus the time to
//! its first byte, each a peak EWMA: it jumps up to a sample that is higher, comes down by [`DECAY`], and fades while nothing
//! is measured. So does Finagle (`PeakEwma`), and linkerd after it; nginx has the words (`least_time`).
//!
//! Finagle counts a slot without a sample as one that takes no time, and bounds what that does by drawing two. Here all slots
//! are compared, so a slot that was not measured for longer than [`DECAY`] counts as usual in its tier, from its first session
//! on and until it is measured: a newcomer, or one that is back, gets the part of a usual one, and not all at once.
//!
//! No clock: all fade alike, so what is compared is each cost as of one common moment, and time passes with the samples.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use super::PickContext;
use super::heap::Heap;
use super::least_connections::LeastConnections;
use super::policy::{PickOrder, Timed};

/// In this time a sample loses two thirds of its part: Finagle's and linkerd's default. In seconds.
const DECAY: f64 = 10.0;

/// No time is shorter. In seconds.
const LEAST: f64 = 1e-6;

#[derive(Debug)]
pub(super) struct LeastTime {
    /// By slot, also of those that may not be picked now.
    costs: Vec<Cost>,
    /// By slot, those that may be picked: weight and sessions.
    running: Vec<Option<(u32, u32)>>,
    /// Of those that may be picked, the measured ones.
    measured: Heap<TimeKey>,
    /// The others.
    unmeasured: LeastConnections,
    /// Of all slots that were measured lately.
    usual: Cost,
    /// Of the first sample.
    epoch: Option<Instant>,
    /// Of the newest sample, in seconds after that.
    now: f64,
    /// Counts picks. The stamp of a slot is this count at its last pick.
    picks: u64,
}

/// What a slot takes, by [`Timed`].
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    means: [Option<Mean>; 2],
    /// The logarithm of the sum of both, as of the epoch.
    log: f64,
    stamp: u64,
}

/// A mean that fades, in seconds as of `at`.
#[derive(Clone, Copy, Debug)]
struct Mean {
    value: f64,
    at: f64,
}

#[derive(Clone, Copy, Debug)]
struct TimeKey {
    /// The logarithm of time × (sessions + 1) / weight.
    load: f64,
    stamp: u64,
    slot: usize,
}

impl LeastTime {
    pub(super) fn new() -> Self {
        Self {
            costs: Vec::new(),
            running: Vec::new(),
            measured: Heap::new(),
            unmeasured: LeastConnections::new(),
            usual: Cost::default(),
            epoch: None,
            now: 0.0,
            picks: 0,
        }
    }

    /// Puts a slot among those with which it is compared.
    fn place(&mut self, slot: usize) {
        let Some((weight, sessions)) = self.running[slot] else { return };
        let cost = &self.costs[slot];
        if cost.is_measured() {
            self.unmeasured.leave(slot);
            let load = cost.log + relative(weight, sessions);
            self.measured.put(slot, TimeKey { load, stamp: cost.stamp, slot });
        } else {
            self.measured.remove(slot);
            self.unmeasured.enter(slot, weight, sessions);
        }
    }

    /// Forgets what it took, if that is too long ago.
    fn forget_old(&mut self, slot: usize) {
        if self.now - self.costs[slot].newest() > DECAY {
            self.costs[slot].means = [None; 2];
        }
    }
}

impl PickOrder for LeastTime {
    fn enter(&mut self, slot: usize, weight: u32, sessions: u32) {
        if self.running.len() <= slot {
            self.running.resize(slot + 1, None);
            self.costs.resize(slot + 1, Cost::default());
        }
        if self.running[slot].replace((weight, sessions)).is_none() {
            self.forget_old(slot);
        }
        self.place(slot);
    }

    fn leave(&mut self, slot: usize) {
        if let Some(running) = self.running.get_mut(slot) {
            *running = None;
            self.measured.remove(slot);
            self.unmeasured.leave(slot);
        }
    }

    fn pick(&mut self, context: &PickContext<'_, usize>) -> Option<usize> {
        let measured = self.measured.least_except(context.tried);
        let unmeasured = self.unmeasured.least(context.tried);
        let usual = self.usual.log;
        let is_usual = |(_, weight, sessions): &(usize, u32, u32)| {
            measured.is_none_or(|(key, _)| usual + relative(*weight, *sessions) <= key.load)
        };
        if let Some((slot, ..)) = unmeasured.filter(is_usual) {
            self.unmeasured.picked(slot);
            return Some(slot);
        }
        let (_, slot) = measured?;
        self.picks += 1;
        self.costs[slot].stamp = self.picks;
        self.forget_old(slot);
        self.place(slot);
        Some(slot)
    }

    fn says(&self, slot: usize) -> String {
        let rule = "the lowest time × (sessions + 1) / weight";
        let cost = |cost: &Cost| format!("{:.1} ms", 1e3 * (cost.log - self.now / DECAY).exp());
        match self.costs.get(slot).filter(|cost| cost.is_measured()) {
            Some(measured) => format!("{rule}; it takes {}", cost(measured)),
            None if self.usual.is_measured() => {
                format!("{rule}; not measured, so as a usual one: {}", cost(&self.usual))
            }
            None => format!("{rule}; nothing is measured yet"),
        }
    }

    fn recount(&mut self, slot: usize, weight: u32, sessions: u32) {
        self.enter(slot, weight, sessions);
    }

    fn forget(&mut self, slot: usize) {
        if let Some(cost) = self.costs.get_mut(slot) {
            *cost = Cost::default();
        }
    }

    fn wants_times(&self) -> bool {
        true
    }

    fn timed(&mut self, slot: usize, what: Timed, took: Duration, now: Instant) {
        let epoch = *self.epoch.get_or_insert(now);
        self.now = self.now.max(now.saturating_duration_since(epoch).as_secs_f64());
        if self.costs.len() <= slot {
            self.running.resize(slot + 1, None);
            self.costs.resize(slot + 1, Cost::default());
        }
        let mean = &mut self.costs[slot].means[what as usize];
        let sample = took.as_secs_f64().max(LEAST);
        let value = mean.map_or(sample, |mean| mean.with(sample, self.now).max(sample));
        *mean = Some(Mean { value, at: self.now });
        let usual = &mut self.usual.means[what as usize];
        *usual = Some(Mean { value: usual.map_or(value, |usual| usual.with(value, self.now)), at: self.now });
        self.usual.log = log_of(self.usual.means);
        // What is not known of it is as usual.
        let means = self.costs[slot].means;
        self.costs[slot].log = log_of(std::array::from_fn(|what| means[what].or(self.usual.means[what])));
        self.place(slot);
    }
}

impl Cost {
    fn is_measured(&self) -> bool {
        self.means.iter().any(Option::is_some)
    }

    /// When it was measured last.
    fn newest(&self) -> f64 {
        self.means.iter().flatten().map(|mean| mean.at).fold(f64::NEG_INFINITY, f64::max)
    }
}

impl Mean {
    fn with(self, sample: f64, now: f64) -> f64 {
        let part = ((self.at - now) / DECAY).exp();
        self.value * part + sample * (1.0 - part)
    }
}

/// The logarithm of the sum, as of the epoch: `value × e^(at / DECAY)`, which would soon be too large a number.
fn log_of(means: [Option<Mean>; 2]) -> f64 {
    let newest = means.iter().flatten().map(|mean| mean.at).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = means.iter().flatten().map(|mean| mean.value * ((mean.at - newest) / DECAY).exp()).sum();
    newest / DECAY + sum.ln()
}

fn relative(weight: u32, sessions: u32) -> f64 {
    ((f64::from(sessions) + 1.0) / f64::from(weight)).ln()
}

impl Ord for TimeKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.load.total_cmp(&other.load).then(self.stamp.cmp(&other.stamp)).then(self.slot.cmp(&other.slot))
    }
}

impl PartialOrd for TimeKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for TimeKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for TimeKey {}

#[cfg(test)]
#[path = "least_time_tests.rs"]
mod tests;
