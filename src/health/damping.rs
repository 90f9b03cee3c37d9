//! PURE. Flap damping for one backend: each time that it fails soon after it came up, it has to stay up for longer before it
//! gets sessions.
//! Called by `keeper`.
//! It takes the time as an argument, so tests and simulations replay exactly.

use std::time::{Duration, Instant};

use crate::config::Damping as Rules;

/// The flaps of one backend, and whether it is kept out now.
#[derive(Debug, Default)]
pub struct FlapDamping {
    /// Flaps that still count.
    flaps: u32,
    /// `None` = no state is known yet.
    is_up: Option<bool>,
    /// Since when it has counted as up again; `None` = it was never down.
    back_since: Option<Instant>,
    /// Until when it is kept out.
    until: Option<Instant>,
}

impl FlapDamping {
    /// No flaps, no state.
    pub fn new() -> Self {
        Self::default()
    }

    /// Flaps that still count.
    pub fn flaps(&self) -> u32 {
        self.flaps
    }

    /// Until when it is kept out; `None` = it is not.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Takes the present state. The first state ever, and an unchanged one, are no change.
    pub fn record(&mut self, rules: &Rules, now: Instant, up: bool) {
        let before = self.is_up.replace(up);
        if before.is_none_or(|before| before == up) {
            return;
        }
        self.until = None;
        if up {
            self.until = self.required(rules).map(|required| now + required);
            // While it is kept out it gets no sessions, so that time proves nothing.
            self.back_since = Some(self.until.unwrap_or(now));
        } else if let Some(since) = self.back_since {
            let lasted = now.saturating_duration_since(since);
            if lasted < rules.window {
                self.flaps = self.flaps.saturating_add(1);
            } else {
                self.forget(rules, lasted);
            }
        }
    }

    /// It is no longer kept out, because its time is over or because the pool needs it.
    pub fn lift(&mut self) {
        self.until = None;
    }

    /// How long it is kept out; `None` = not at all.
    fn required(&self, rules: &Rules) -> Option<Duration> {
        let doublings = self.flaps.checked_sub(1)?;
        let required = rules.stay_up.saturating_mul(2_u32.saturating_pow(doublings)).min(rules.max_stay_up);
        Some(required).filter(|required| !required.is_zero())
    }

    /// Forgets one flap for each window that it stayed up.
    fn forget(&mut self, rules: &Rules, lasted: Duration) {
        let windows = lasted.as_nanos() / rules.window.as_nanos().max(1);
        self.flaps = self.flaps.saturating_sub(u32::try_from(windows).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        window: Duration::from_secs(30),
        stay_up: Duration::from_millis(500),
        max_stay_up: Duration::from_secs(5),
    };

    struct FakeClock {
        now: Instant,
        damping: FlapDamping,
    }

    impl FakeClock {
        fn new() -> Self {
            Self { now: Instant::now(), damping: FlapDamping::new() }
        }

        /// Waits, then goes down and up. Returns for how long it is then kept out.
        fn flap(&mut self, after: Duration) -> Option<Duration> {
            self.now += after;
            self.damping.record(&RULES, self.now, false);
            assert_eq!(self.damping.until(), None, "who is down is not damped");
            self.now += Duration::from_secs(1);
            self.damping.record(&RULES, self.now, true);
            self.damping.until().map(|until| until - self.now)
        }
    }

    #[test]
    fn each_flap_doubles_the_wait_up_to_the_cap() {
        let mut clock = FakeClock::new();
        clock.damping.record(&RULES, clock.now, true);
        assert_eq!(clock.damping.until(), None, "the first time ever is no flap");
        assert_eq!(clock.flap(Duration::from_secs(2)), None, "nor is it to go down once");
        let waits: Vec<_> = (0..6).map(|_| clock.flap(Duration::from_secs(2)).unwrap().as_millis()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
    }

    #[test]
    fn who_stays_up_for_the_window_has_not_flapped() {
        let mut clock = FakeClock::new();
        clock.damping.record(&RULES, clock.now, true);
        for _ in 0..20 {
            assert_eq!(clock.flap(RULES.window), None);
        }
    }

    #[test]
    fn each_window_up_forgets_one_flap() {
        let mut clock = FakeClock::new();
        clock.damping.record(&RULES, clock.now, true);
        for _ in 0..4 {
            clock.flap(Duration::from_secs(2));
        }
        assert_eq!(clock.flap(2 * RULES.window + RULES.max_stay_up), Some(RULES.stay_up), "one of three is left");
        assert_eq!(clock.flap(2 * RULES.window), None);
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let mut clock = FakeClock::new();
        clock.damping.record(&RULES, clock.now, true);
        clock.flap(Duration::from_secs(2));
        clock.flap(Duration::from_secs(2));
        let until = clock.damping.until();
        assert!(until.is_some());
        for _ in 0..9 {
            clock.now += Duration::from_millis(10);
            clock.damping.record(&RULES, clock.now, true);
        }
        assert_eq!(clock.damping.until(), until);
        clock.damping.lift();
        clock.damping.record(&RULES, clock.now, true);
        assert_eq!(clock.damping.until(), None);
    }
}
