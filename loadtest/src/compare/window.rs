//! Computes rates from samples of a run, from the first to the last moment of full load. Pure.
//!
//! The time of opening and closing connections is left out: its CPU time would be charged to the messages.

use std::time::Duration;

use crate::harness::machine::CpuTime;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Time since the start of sampling.
    pub(super) at: Duration,
    /// Time since all connections were open; `None` before.
    pub(super) elapsed: Option<Duration>,
    pub(super) cpu: CpuTime,
    pub(super) units: f64,
}

/// Rates per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    /// CPU seconds per second, which is the number of CPUs in use.
    pub(super) busy: f64,
    /// CPU seconds that the host of a virtual machine took away.
    pub(super) stolen: f64,
    pub(super) units: f64,
}

impl Rates {
    /// The rates of a load that lasted `duration` from the moment when all connections were open.
    pub(super) fn of(samples: &[Sample], duration: Duration) -> Self {
        let full = |sample: &&Sample| sample.elapsed.is_some_and(|elapsed| elapsed <= duration);
        let first = samples.iter().find(full);
        let last = samples.iter().rev().find(full);
        let long_enough = |first: &Sample, last: &Sample| last.at.saturating_sub(first.at) >= duration / 2;
        match (first, last) {
            (Some(first), Some(last)) if long_enough(first, last) => Self::between(first, last),
            // Too short: use the whole run.
            _ => {
                samples.first().zip(samples.last()).map(|(first, last)| Self::between(first, last)).unwrap_or_default()
            }
        }
    }

    fn between(first: &Sample, last: &Sample) -> Self {
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        if seconds == 0.0 {
            return Self::default();
        }
        Self {
            busy: (last.cpu.busy - first.cpu.busy) / seconds,
            stolen: (last.cpu.stolen - first.cpu.stolen) / seconds,
            units: (last.units - first.units) / seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64, elapsed: Option<u64>, busy: f64, units: f64) -> Sample {
        let cpu = CpuTime { busy, stolen: busy / 10.0 };
        Sample { at: Duration::from_millis(at), elapsed: elapsed.map(Duration::from_millis), cpu, units }
    }

    #[test]
    fn opening_and_closing_are_left_out() {
        let samples = [
            sample(0, None, 0.0, 0.0),
            sample(500, None, 0.9, 0.0),
            sample(1_000, Some(100), 1.0, 50.0),
            sample(2_000, Some(1_100), 3.0, 550.0),
            sample(2_800, Some(1_900), 4.6, 950.0),
            sample(3_500, Some(2_600), 9.0, 960.0),
        ];
        let rates = Rates::of(&samples, Duration::from_secs(2));
        assert!((rates.busy - 2.0).abs() < 1e-9 && (rates.units - 500.0).abs() < 1e-9, "{rates:?}");
        assert!((rates.stolen - 0.2).abs() < 1e-9);
    }

    #[test]
    fn a_short_run_counts_as_a_whole() {
        let samples = [sample(0, None, 0.0, 0.0), sample(100, Some(90), 0.1, 10.0), sample(200, Some(190), 0.2, 30.0)];
        let rates = Rates::of(&samples, Duration::from_millis(100));
        assert!((rates.units - 150.0).abs() < 1e-9, "{rates:?}");
        assert_eq!(Rates::of(&[], Duration::ZERO), Rates::default());
        assert_eq!(Rates::of(&samples[..1], Duration::ZERO), Rates::default());
    }
}
