//! PURE. Slow start: the part of its share that a backend gets, by its age.

use std::time::Duration;

/// The least part, in percent: enough that its failures show.
const LEAST: u32 = 10;

/// A backend counts as old as the oldest if it is younger by at most `slow_start` divided by this.
const AS_OLD: u32 = 10;

/// The whole share, in percent.
pub const FULL: u32 = 100;

/// Percent of its share for a backend that has been up for `age`, in a pool whose oldest has been up for `oldest`. The
/// oldest has the whole share; so where all are new, all have it.
pub fn percent(slow_start: Duration, age: Duration, oldest: Duration) -> u32 {
    let ramp = slow_start.min(oldest);
    if age >= ramp || oldest - age <= slow_start / AS_OLD {
        return FULL;
    }
    let grown = age.as_nanos() * u128::from(FULL) / ramp.as_nanos().max(1);
    u32::try_from(grown).unwrap_or(FULL).clamp(LEAST, FULL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_share_grows_with_age() {
        let at = |age| percent(seconds(30), seconds(age), seconds(1_000));
        assert_eq!([0, 1, 6, 15, 29, 30, 31].map(at), [10, 10, 20, 50, 96, 100, 100]);
    }

    #[test]
    fn where_all_are_new_nobody_is_held_back() {
        assert_eq!(percent(seconds(30), seconds(2), seconds(2)), FULL);
        assert_eq!(percent(seconds(30), seconds(0), seconds(3)), FULL, "they came together");
        assert_eq!(percent(seconds(30), Duration::ZERO, Duration::ZERO), FULL);
        assert_eq!(percent(seconds(30), seconds(5), seconds(10)), 50);
    }

    #[test]
    fn zero_is_off() {
        assert_eq!(percent(Duration::ZERO, Duration::ZERO, seconds(1_000)), FULL);
    }
}
