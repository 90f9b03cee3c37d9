//! PURE. When the next probe is due.
//! Called by the probe's task.
//! Jitter only shortens a delay: a backend that dies is down within interval + fall × (fast_interval + timeout), and a late
//! probe would break that promise.

use std::time::Duration;

use crate::config::Check;
use crate::health::{ProbeState, RiseFall};

/// The largest part that jitter takes off a delay. It spreads probes that started together within a few rounds.
const JITTER: f64 = 0.2;

/// From the start of the last attempt to the start of the next one.
pub(super) fn next_delay(check: &Check, health: &RiseFall, rng: &mut fastrand::Rng) -> Duration {
    let delay = if health.in_doubt() {
        check.fast_interval
    } else if health.state() == ProbeState::Down {
        check.down_interval
    } else {
        check.interval
    };
    shortened(delay, rng)
}

/// `delay`, shortened by up to a fifth.
pub(super) fn shortened(delay: Duration, rng: &mut fastrand::Rng) -> Duration {
    delay.mul_f64(1.0 - JITTER * rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CheckKind;

    fn check() -> Check {
        Check {
            kind: CheckKind::Tcp,
            interval: Duration::from_secs(2),
            fast_interval: Duration::from_millis(500),
            down_interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            port: None,
            send_proxy: None,
            tls: None,
            linger: false,
            sources: Vec::new(),
        }
    }

    fn health(results: &[bool]) -> RiseFall {
        let mut health = RiseFall::new(2, 3);
        for &passed in results {
            health.record(passed);
        }
        health
    }

    #[test]
    fn the_state_chooses_the_interval_and_jitter_only_shortens_it() {
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        let check = check();
        for (results, base) in [
            (&[][..], check.fast_interval),
            (&[true], check.interval),
            (&[true, false], check.fast_interval),
            (&[true, false, false], check.fast_interval),
            (&[true, false, true], check.interval),
            (&[true, false, false, false], check.down_interval),
            (&[false], check.down_interval),
            (&[false, true], check.fast_interval),
            (&[false, true, false], check.down_interval),
            (&[false, true, true], check.interval),
        ] {
            let health = health(results);
            for _ in 0..1000 {
                let delay = next_delay(&check, &health, &mut rng);
                assert!(delay <= base && delay >= base.mul_f64(0.8), "SEED={seed} {results:?}: {delay:?} of {base:?}");
            }
        }
    }

    #[test]
    fn jitter_spreads_over_the_whole_fifth() {
        let mut rng = fastrand::Rng::with_seed(7);
        let delays: Vec<_> = (0..1000).map(|_| next_delay(&check(), &health(&[true]), &mut rng)).collect();
        let (low, high) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!(*low < Duration::from_millis(1620) && *high > Duration::from_millis(1980), "{low:?} to {high:?}");
    }

    #[test]
    fn a_backend_that_dies_is_down_within_the_promised_time() {
        for seed in 0..1000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let check = check();
            let mut health = health(&[true]);
            // It dies right after a probe has begun to pass, and each probe from then on takes its whole timeout.
            let mut start = next_delay(&check, &health, &mut rng);
            let down = loop {
                let end = start + check.timeout;
                health.record(false);
                if health.state() == ProbeState::Down {
                    break end;
                }
                start = end.max(start + next_delay(&check, &health, &mut rng));
            };
            assert!(
                down <= check.interval + check.fall * (check.fast_interval + check.timeout),
                "seed {seed}: {down:?}"
            );
        }
    }

    #[test]
    fn a_huge_delay_is_no_panic() {
        shortened(Duration::MAX, &mut fastrand::Rng::with_seed(1));
    }
}
