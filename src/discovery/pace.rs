//! PURE. How often something may be tried: a back-off after failures, and a token bucket at all times.

use std::time::Duration;

use tokio::time::Instant;

/// Exponential with full jitter: the n-th delay in a row is at random between nothing and `first` × 2ⁿ⁻¹, or `last`
/// where that is less. All pools lose an agent at one moment; they must not all come back at one.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    last: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, failures: 0 }
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The delay after one more failure.
    pub(super) fn next(&mut self, random: &mut fastrand::Rng) -> Duration {
        let ceiling = self.first.saturating_mul(2u32.saturating_pow(self.failures)).min(self.last);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(random.f64())
    }
}

/// A token bucket: `burst` tries at once, then one per `interval`.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    burst: u32,
    interval: Duration,
    /// When the bucket is full again; each try puts that off by `interval`.
    full_at: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, full_at: None }
    }

    /// Takes a token, and says how long to wait until it is there.
    pub(super) fn take(&mut self, now: Instant) -> Duration {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + self.interval;
        self.full_at = Some(full_at);
        (full_at - now).saturating_sub(self.interval * self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_last_and_start_anew() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
        for ceiling in [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000] {
            let delay = backoff.next(&mut random);
            let ceiling = Duration::from_millis(ceiling);
            assert!(delay <= ceiling, "{delay:?} of {ceiling:?}");
        }
        let late: Vec<_> = (0..100).map(|_| backoff.next(&mut random)).collect();
        assert!(late.iter().all(|&delay| delay <= Duration::from_secs(10)));
        let seconds = late.iter().sum::<Duration>().as_secs();
        assert!((400..600).contains(&seconds), "{seconds}");
        backoff.reset();
        assert!(backoff.next(&mut random) <= Duration::from_millis(250));
    }

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(3, Duration::from_secs(1));
        let mut now = start;
        let waits: Vec<_> = (0..6)
            .map(|_| {
                let wait = bucket.take(now);
                now += wait;
                wait.as_secs()
            })
            .collect();
        assert_eq!(waits, [0, 0, 0, 1, 1, 1]);
        // Time that passes without a try fills it, but not beyond the burst.
        now += Duration::from_secs(100);
        let waits: Vec<_> = (0..4).map(|_| bucket.take(now).as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 1]);
    }
}
