//! Slow start: how much of its share a backend gets by its age.

use std::time::Duration;

/// What the newest gets, in percent: enough that it is seen to work.
const LEAST: u32 = 10;

/// Who is younger than the oldest by no more than this part of `slow_start` is as old.
const AS_OLD: u32 = 10;

/// The whole share.
pub const FULL: u32 = 100;

/// Percent of its share for a backend that has been up for `age`, in a pool whose oldest has been up for `oldest`: who is
/// as old as the oldest has all of it, so where all are new nobody is held back.
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
