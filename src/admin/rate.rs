//! PURE. How many requests a second are answered: a token bucket.

use std::time::Instant;

#[derive(Debug)]
pub(super) struct Rate {
    per_second: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Rate {
    pub(super) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst);
        Self { per_second: f64::from(per_second), burst, left: burst, at: now }
    }

    /// Whether one more is answered.
    pub(super) fn allow(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.burst);
        self.at = self.at.max(now);
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut rate = Rate::new(10, 20, start);
        let count = |rate: &mut Rate, now| (0..100).filter(|_| rate.allow(now)).count();
        assert_eq!(count(&mut rate, start), 20);
        assert_eq!(count(&mut rate, start + Duration::from_millis(500)), 5);
        assert_eq!(count(&mut rate, start), 0, "a clock that goes back gives nothing");
        assert_eq!(count(&mut rate, start + Duration::from_secs(3_600)), 20);
    }
}
