//! PURE. So many a second, and some more after a pause: a token bucket, kept as the one time when it is full again (GCRA).

use std::time::Duration;

/// So many a second, and at most `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRate {
    /// Between two, in nanoseconds; at least 1.
    interval: u64,
    /// In which a bucket that is empty fills, but for one.
    tolerance: u64,
}

/// What is left of a rate: the time when all of it is there again, in nanoseconds of a clock that the caller has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionBucket(u64);

impl SessionRate {
    /// `per_second` is more than 0, `burst` at least 1.
    pub fn new(per_second: f64, burst: u32) -> Self {
        // A rate of less than one in centuries is none that anybody waits for.
        let interval = (Duration::from_secs(1).as_nanos() as f64 / per_second).clamp(1.0, 1e18) as u64;
        Self { interval, tolerance: interval.saturating_mul(u64::from(burst.max(1)) - 1) }
    }
}

impl SessionBucket {
    /// Takes one.
    ///
    /// # Errors
    /// None is there before this time.
    pub fn take(&mut self, rate: SessionRate, now: u64) -> Result<(), u64> {
        let since = self.0.saturating_sub(rate.tolerance);
        if now < since {
            return Err(since);
        }
        self.0 = self.0.max(now).saturating_add(rate.interval);
        Ok(())
    }

    /// Gives back one that was taken.
    pub fn give_back(&mut self, rate: SessionRate) {
        self.0 = self.0.saturating_sub(rate.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds::seeds;

    /// The same as a level that grows with time, in nanoseconds.
    struct Level {
        level: u64,
        at: u64,
    }

    #[test]
    fn it_is_a_level_that_grows_with_time() {
        for seed in seeds(20, 20) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (per_second, burst) = (f64::from(rng.u32(1..2_000)) / 10.0, rng.u32(1..20));
            let rate = SessionRate::new(per_second, burst);
            let (mut bucket, mut now) = (SessionBucket::default(), 0);
            let full = rate.interval * u64::from(burst);
            let mut model = Level { level: full, at: 0 };
            for _ in 0..2_000 {
                now += rng.u64(0..=2 * rate.interval);
                model.level = full.min(model.level + (now - model.at));
                model.at = now;
                match bucket.take(rate, now) {
                    Ok(()) => {
                        assert!(model.level >= rate.interval);
                        model.level -= rate.interval;
                    }
                    Err(at) => assert_eq!(at - now, rate.interval - model.level),
                }
            }
        }
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let (rate, mut bucket) = (SessionRate::new(10.0, 3), SessionBucket::default());
        let second = 1_000_000_000;
        let taken = |bucket: &mut SessionBucket, now| (0..10).take_while(|_| bucket.take(rate, now).is_ok()).count();
        assert_eq!(taken(&mut bucket, second), 3);
        assert_eq!(bucket.take(rate, second), Err(second + second / 10));
        assert_eq!(taken(&mut bucket, second + second / 10), 1);
        bucket.give_back(rate);
        assert_eq!(taken(&mut bucket, second + second / 10), 1);
        assert_eq!(taken(&mut bucket, 9 * second), 3);
    }
}
