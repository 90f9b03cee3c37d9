//! PURE. At most one event in an interval, and a count of those left out. For log lines about what may happen a thousand
//! times a second.

use std::time::{Duration, Instant};

/// Lets one event pass in each interval.
#[derive(Debug)]
pub struct Pace {
    every: Duration,
    next: Option<Instant>,
    left_out: u64,
}

impl Pace {
    /// Lets one event pass in `every`.
    pub fn new(every: Duration) -> Self {
        Self { every, next: None, left_out: 0 }
    }

    /// `Some` = the event passes; the number is how many were left out since the last one.
    pub fn allow(&mut self, now: Instant) -> Option<u64> {
        if self.next.is_some_and(|next| now < next) {
            self.left_out += 1;
            return None;
        }
        self.next = Some(now + self.every);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_many_were_left_out() {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(5));
        assert_eq!(pace.allow(start), Some(0));
        assert_eq!(pace.allow(start), None);
        assert_eq!(pace.allow(start + Duration::from_secs(4)), None);
        assert_eq!(pace.allow(start + Duration::from_secs(5)), Some(2));
    }
}
