use super::*;
use crate::config::OutlierMode;
use crate::metrics::{ConnectFailure, EarlyEnd};

const REFUSED: Observation = Observation::ConnectFailed(ConnectFailure::Refused);
const TIMED_OUT: Observation = Observation::ConnectFailed(ConnectFailure::Timeout);
const CLOSED: Observation = Observation::EndedEarly(EarlyEnd::Closed);
const RESET: Observation = Observation::EndedEarly(EarlyEnd::Reset);
const UNASKED: Observation = Observation::EndedUnasked(EarlyEnd::Closed);
const SILENT: Observation = Observation::EndedEarly(EarlyEnd::Silent);

const RULES: Outliers = Outliers {
    mode: OutlierMode::Eject,
    consecutive: 3,
    percentage: 50,
    minimum_volume: 20,
    window: seconds(10),
    ejection: seconds(10),
    max_ejection: seconds(60),
    max_ejected: 67,
    trial: seconds(2),
    early_ends: true,
};

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

struct FakeClock {
    now: Instant,
    outlier: Outlier,
    tally: ObservationCounts,
    random: Rng,
}

impl FakeClock {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            outlier: Outlier::new(),
            tally: ObservationCounts::default(),
            random: Rng::with_seed(7),
        }
    }

    fn fail(&mut self) -> Option<Detection> {
        self.tally.connected += 1;
        self.tally.early_ends += 1;
        self.tally.early_in_a_row += 1;
        self.outlier.judge(&RULES, self.now, &self.tally)
    }

    fn succeed(&mut self, times: u64) {
        self.tally.connected += times;
        self.tally.answered += times;
        self.tally.early_in_a_row = 0;
    }

    fn eject(&mut self) -> Duration {
        self.outlier.eject(&RULES, self.now, CLOSED, false, &mut self.random);
        self.tally.early_in_a_row = 0;
        self.outlier.ejection().unwrap().until - self.now
    }

    fn release(&mut self, how: EjectionEnd) {
        self.outlier.release(self.now, how, &self.tally);
    }
}

#[test]
fn consecutive_failures_stand_out() {
    let mut clock = FakeClock::new();
    assert_eq!([clock.fail(), clock.fail(), clock.fail()], [None, None, Some(Detection::Consecutive)]);
}

#[test]
fn a_percentage_needs_its_volume_and_forgets_what_is_old() {
    let mut clock = FakeClock::new();
    for _ in 0..9 {
        assert_eq!(clock.fail(), None);
        clock.succeed(1);
        clock.now += Duration::from_millis(100);
    }
    clock.succeed(1);
    assert_eq!(clock.fail(), Some(Detection::Percentage), "10 of 20");
    // The same spread over more than the window is not enough.
    let mut clock = FakeClock::new();
    for _ in 0..100 {
        assert_eq!(clock.fail(), None);
        clock.succeed(1);
        clock.now += seconds(2);
    }
    // Nor is it where more go well.
    let mut clock = FakeClock::new();
    for _ in 0..1_000 {
        assert_eq!(clock.fail(), None);
        clock.succeed(2);
        clock.now += Duration::from_millis(10);
    }
}

#[test]
fn an_ejection_is_longer_each_time_up_to_its_cap_and_a_little_random() {
    let mut clock = FakeClock::new();
    let mut lengths = Vec::new();
    for n in 1..=9 {
        let lasts = clock.eject();
        let base = seconds(10 * n).min(RULES.max_ejection);
        assert!(lasts >= base && lasts <= base.mul_f64(1.2), "{n}: {lasts:?}");
        lengths.push(lasts);
        clock.release(EjectionEnd::Trial);
    }
    assert_ne!(lengths[7], lengths[8], "jitter");
    // Three times its length without trouble: three repetitions are forgotten.
    clock.now += 3 * RULES.ejection;
    clock.eject();
    assert_eq!(clock.outlier.strikes(), 9 - 3 + 1);
    clock.release(EjectionEnd::Trial);
    clock.now += seconds(3_600);
    clock.eject();
    assert_eq!(clock.outlier.strikes(), 1);
}

#[test]
fn who_comes_back_on_trust_has_one_try() {
    for how in [EjectionEnd::Time, EjectionEnd::Probe, EjectionEnd::LastOne] {
        let mut clock = FakeClock::new();
        clock.eject();
        clock.release(how);
        assert_eq!(clock.fail(), Some(Detection::Relapse), "{how:?}");
        let mut clock = FakeClock::new();
        clock.eject();
        clock.release(how);
        clock.succeed(1);
        assert_eq!(clock.fail(), None, "{how:?}: it has proved itself");
        let mut clock = FakeClock::new();
        clock.eject();
        clock.release(how);
        clock.now += RULES.ejection;
        assert_eq!(clock.fail(), None, "{how:?}: that was long ago");
    }
    let mut clock = FakeClock::new();
    clock.eject();
    clock.release(EjectionEnd::Trial);
    assert_eq!(clock.fail(), None, "a trial is a proof");
}

#[test]
fn a_probe_that_misled_is_not_trusted_in_the_next_ejection() {
    let mut clock = FakeClock::new();
    clock.eject();
    assert!(clock.outlier.ejection().unwrap().trusts_probes);
    clock.release(EjectionEnd::Probe);
    clock.eject();
    assert!(!clock.outlier.ejection().unwrap().trusts_probes);
    clock.release(EjectionEnd::Probe);
    clock.now += RULES.ejection;
    clock.eject();
    assert!(clock.outlier.ejection().unwrap().trusts_probes, "it was right for a while");
}

/// How long each trial is waited for, if every one fails after `takes`.
fn waits(observation: Observation, replays: bool, takes: Duration, times: usize) -> Vec<Duration> {
    let mut clock = FakeClock::new();
    clock.outlier.eject(&RULES, clock.now, observation, replays, &mut clock.random);
    let mut waits = Vec::new();
    for _ in 0..times {
        let ejection = *clock.outlier.ejection().unwrap();
        assert!(ejection.trial_at < ejection.until);
        waits.push(ejection.trial_at - clock.now);
        clock.now = ejection.trial_at + takes;
        clock.outlier.trial_failed(&RULES, clock.now, observation, replays, &mut clock.random);
    }
    waits
}

#[test]
fn trials_that_cost_nothing_are_steady() {
    for (observation, replays) in
        [(CLOSED, true), (RESET, true), (REFUSED, true), (REFUSED, false), (UNASKED, true), (UNASKED, false)]
    {
        let waits = waits(observation, replays, Duration::ZERO, 100);
        assert!(
            waits.iter().all(|wait| (CHEAP_TRIAL_INTERVAL..=CHEAP_TRIAL_INTERVAL.mul_f64(1.2)).contains(wait)),
            "{waits:?}"
        );
    }
}

#[test]
fn trials_grow_apart_where_a_client_pays_with_its_session() {
    for observation in [CLOSED, RESET, SILENT] {
        let waits = waits(observation, false, Duration::ZERO, 8);
        assert!(waits[0] >= seconds(2) && waits[1] >= seconds(8) && waits[7] >= seconds(30), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= TRIAL_INTERVAL_LIMIT.mul_f64(1.2)), "{waits:?}");
    }
}

#[test]
fn where_a_client_pays_with_time_the_wait_is_in_proportion_to_how_long_it_has_been_out() {
    for (observation, replays) in [(SILENT, true), (TIMED_OUT, false), (TIMED_OUT, true)] {
        let waits = waits(observation, replays, seconds(1), 400);
        assert!(waits[0] >= CHEAP_TRIAL_INTERVAL && waits[5] <= CHEAP_TRIAL_INTERVAL.mul_f64(1.3), "{waits:?}");
        let mut out = Duration::ZERO;
        for wait in &waits {
            let share = (out / RECOVERY_SHARE).clamp(CHEAP_TRIAL_INTERVAL, TRIAL_INTERVAL_LIMIT);
            assert!((share..=share.mul_f64(1.2)).contains(wait), "{wait:?} after {out:?}");
            out += *wait + seconds(1);
        }
        assert!(waits[399] >= TRIAL_INTERVAL_LIMIT, "{waits:?}");
    }
}

#[test]
fn at_least_one_may_be_ejected_where_there_is_another() {
    let most = |max_ejected, backends| most_ejected(&Outliers { max_ejected, ..RULES }, backends);
    assert_eq!([0, 1, 2, 3, 4, 6, 9].map(|backends| most(67, backends)), [0, 0, 1, 2, 2, 4, 6]);
    assert_eq!([1, 2, 3, 10].map(|backends| most(10, backends)), [0, 1, 1, 1]);
    assert_eq!([1, 2, 3, 10].map(|backends| most(100, backends)), [0, 1, 2, 9]);
}
