//! The retry budget: how many attempts a pool may make beyond the first of each session.
//! Asked by sessions.
//! Each success pays for some attempts, and a few per second are free. So a pool that works at all has enough, and a dead
//! one is not flooded.
//!
//! Like gRPC's retry throttling and the retry quota of the AWS SDKs it counts successes, not sessions. With a share of the
//! sessions (20 % in Finagle and Envoy), two dead backends of three would make sessions fail.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::pace::Pace;

/// The time constant with which earned attempts fade. It covers attempts that come before the successes that pay for them,
/// and it bounds what a pool that has just died may spend.
const FADE_TIME: Duration = Duration::from_secs(2);

/// Free attempts per second: a pool with little traffic has earned nothing when a backend dies.
const FREE_PER_SECOND: f64 = 10.0;

/// Between two log lines about an empty budget.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The balance of a budget. Pure: it takes the time as an argument.
#[derive(Debug)]
pub struct RetryBudget {
    balance: f64,
    seen: u64,
    at: Instant,
}

impl RetryBudget {
    /// Begins with the free attempts.
    pub fn new(now: Instant) -> Self {
        Self { balance: FREE_PER_SECOND * FADE_TIME.as_secs_f64(), seen: 0, at: now }
    }

    /// Takes one attempt, if there is one. `successes` is the total; those since the last call have earned `percent` of an
    /// attempt each.
    pub fn take(&mut self, now: Instant, successes: u64, percent: u16) -> bool {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        let earned =
            f64::from(percent) / 100.0 * successes.saturating_sub(self.seen) as f64 + FREE_PER_SECOND * elapsed;
        let memory = FADE_TIME.as_secs_f64();
        let fade = (-elapsed / memory).exp();
        // Counts it as earned evenly since the last call.
        let kept = if elapsed > 0.0 { memory * (1.0 - fade) / elapsed } else { 1.0 };
        self.balance = self.balance * fade + earned * kept;
        (self.at, self.seen) = (now, successes);
        if self.balance < 1.0 {
            return false;
        }
        self.balance -= 1.0;
        true
    }
}

/// A pool's budget, shared by its sessions on all workers, and its counts. Relaxed: they are statistics.
#[derive(Debug)]
pub struct Allowance {
    successes: AtomicU64,
    granted: AtomicU64,
    held: AtomicU64,
    /// A lock: taken only when a connect failed or is slow.
    inner: Mutex<(RetryBudget, Pace)>,
}

/// The answer of an [`Allowance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// The attempt may be made.
    Granted,
    /// Not now. `Some` = a log line is due; it stands for so many others.
    Refused(Option<u64>),
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            successes: AtomicU64::new(0),
            granted: AtomicU64::new(0),
            held: AtomicU64::new(0),
            inner: Mutex::new((RetryBudget::new(now), Pace::new(LOG_INTERVAL))),
        }
    }

    /// Counts a success.
    pub fn succeeded(&self) {
        self.successes.fetch_add(1, Relaxed);
    }

    /// Asks for one more attempt; each success has earned `percent` of one.
    pub fn take(&self, now: Instant, percent: u16) -> Permit {
        let successes = self.successes.load(Relaxed);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (budget, pace) = &mut *inner;
        if budget.take(now, successes, percent) {
            self.granted.fetch_add(1, Relaxed);
            return Permit::Granted;
        }
        Permit::Refused(pace.allow(now))
    }

    /// Attempts granted.
    pub fn granted(&self) -> u64 {
        self.granted.load(Relaxed)
    }

    /// Counts an attempt that waits to be granted; call it once, also if it asks several times.
    pub fn hold(&self) {
        self.held.fetch_add(1, Relaxed);
    }

    /// Attempts that had to wait.
    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool with `dead` of `all` backends dead for `seconds`, 400 sessions a second, 3 attempts each, after 10 s of peace.
    /// Returns the attempts beyond the first that were granted and refused.
    fn run(percent: u16, dead: u64, all: u64, seconds: u64) -> (u64, u64) {
        let mut random = fastrand::Rng::with_seed(7);
        let start = Instant::now();
        let mut budget = RetryBudget::new(start);
        let (mut successes, mut granted, mut refused) = (0, 0, 0);
        for session in 0..400 * (10 + seconds) {
            let now = start + Duration::from_micros(2_500 * session);
            if session < 4_000 {
                successes += 1;
                continue;
            }
            for tried in 0..3 {
                if tried > 0 {
                    if !budget.take(now, successes, percent) {
                        refused += 1;
                        break;
                    }
                    granted += 1;
                }
                if random.u64(..all - tried.min(all - 1)) >= dead.saturating_sub(tried) {
                    successes += 1;
                    break;
                }
            }
        }
        (granted, refused)
    }

    #[test]
    fn no_session_fails_for_it_while_one_of_three_or_half_of_a_pool_is_dead() {
        assert_eq!(run(100, 1, 3, 600).1, 0);
        assert_eq!(run(100, 5, 10, 600).1, 0);
        // Two of three need one more attempt per session: as many as it earns. It may be short for a moment, no more.
        let (granted, refused) = run(100, 2, 3, 600);
        assert!(refused * 50 < granted, "{refused} of {granted}");
        // A share of 20 % would not do.
        assert!(run(20, 1, 3, 600).1 > 10_000);
    }

    #[test]
    fn a_dead_pool_is_not_hammered() {
        let (granted, _) = run(100, 3, 3, 60);
        // What was earned in the last two seconds, and 10 a second; without a budget it would be 48,000.
        assert!((600..=1_600).contains(&granted), "{granted}");
    }

    #[test]
    fn without_traffic_a_few_are_free() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(start);
        let taken = |budget: &mut RetryBudget, now| (0..1_000).filter(|_| budget.take(now, 0, 100)).count();
        assert_eq!(taken(&mut budget, start), 20);
        let after = |budget: &mut RetryBudget, seconds| taken(budget, start + Duration::from_secs(seconds));
        assert!((5..=10).contains(&after(&mut budget, 1)));
        assert!((18..=20).contains(&after(&mut budget, 3_600)), "they do not pile up");
        let mut none = RetryBudget::new(start);
        assert_eq!((0..100).filter(|_| none.take(start, 1_000_000, 0)).count(), 20);
    }

    #[test]
    fn an_allowance_counts_and_says_so_seldom() {
        let start = Instant::now();
        let allowance = Allowance::new(start);
        for _ in 0..20 {
            assert_eq!(allowance.take(start, 100), Permit::Granted);
        }
        assert_eq!(allowance.take(start, 100), Permit::Refused(Some(0)));
        assert_eq!(allowance.take(start, 100), Permit::Refused(None));
        allowance.succeeded();
        assert_eq!(allowance.take(start, 100), Permit::Granted);
        allowance.hold();
        assert_eq!((allowance.granted(), allowance.held()), (21, 1), "an attempt that asks twice waits once");
    }
}
