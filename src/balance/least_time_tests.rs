use super::*;

/// The policy with the sessions that its picker would count.
struct Tier {
    policy: LeastTime,
    start: Instant,
    weights: Vec<u32>,
    sessions: Vec<u32>,
}

impl Tier {
    fn new(weights: &[u32]) -> Self {
        let mut policy = LeastTime::new();
        weights.iter().enumerate().for_each(|(slot, weight)| policy.enter(slot, *weight, 0));
        Self { policy, start: Instant::now(), weights: weights.to_vec(), sessions: vec![0; weights.len()] }
    }

    /// `at`: seconds; `took`: milliseconds.
    fn timed(&mut self, slot: usize, what: Timed, took: u64, at: f64) {
        let now = self.start + Duration::from_secs_f64(at);
        self.policy.timed(slot, what, Duration::from_millis(took), now);
    }

    fn pick(&mut self) -> usize {
        let slot = self.policy.pick(&PickContext::FIRST).unwrap();
        self.count(slot, 1);
        slot
    }

    fn count(&mut self, slot: usize, by: i32) {
        self.sessions[slot] = self.sessions[slot].strict_add_signed(by);
        self.policy.recount(slot, self.weights[slot], self.sessions[slot]);
    }

    fn picks(&mut self, count: usize) -> Vec<usize> {
        let mut counts = vec![0; self.weights.len()];
        (0..count).for_each(|_| counts[self.pick()] += 1);
        counts
    }
}

#[test]
fn sessions_follow_from_times_and_weights() {
    let mut tier = Tier::new(&[1, 1, 2]);
    assert_eq!(tier.picks(400), [100, 100, 200], "nothing is known: as least connections");
    let mut tier = Tier::new(&[1, 1, 2]);
    for (slot, took) in [(0, 10), (1, 30), (2, 10)] {
        tier.timed(slot, Timed::Connect, took, 0.0);
    }
    assert_eq!(tier.picks(1_000), [300, 100, 600]);
    // The time to the first byte counts with that of the connect: 10 + 10, 30 + 10, 10 + 70.
    let mut tier = Tier::new(&[1, 1, 2]);
    for (slot, connect, first) in [(0, 10, 10), (1, 30, 10), (2, 10, 70)] {
        tier.timed(slot, Timed::Connect, connect, 0.0);
        tier.timed(slot, Timed::FirstByte, first, 0.0);
    }
    assert_eq!(tier.picks(1_000), [500, 250, 250]);
}

#[test]
fn a_peak_counts_at_once_and_is_forgotten_by_and_by() {
    let mut tier = Tier::new(&[1, 1]);
    let value = |tier: &Tier| tier.policy.costs[0].means[0].unwrap().value;
    tier.timed(0, Timed::Connect, 10, 0.0);
    tier.timed(0, Timed::Connect, 100, 0.1);
    assert!((value(&tier) - 0.1).abs() < 1e-9, "a slower one: all of it");
    tier.timed(0, Timed::Connect, 10, 0.1);
    assert!((value(&tier) - 0.1).abs() < 1e-9, "a faster one at the same time: nothing of it");
    tier.timed(0, Timed::Connect, 10, 0.1 + DECAY);
    let wanted = 0.01 + 0.09 * (-1.0_f64).exp();
    assert!((value(&tier) - wanted).abs() < 1e-9);
    for second in 1..100 {
        tier.timed(0, Timed::Connect, 10, DECAY + f64::from(second));
    }
    assert!((value(&tier) - 0.01).abs() < 1e-4);
}

/// One that was slow is tried again after a while, also if it is not measured meanwhile: a few sessions, not all.
#[test]
fn what_was_slow_is_tried_again() {
    let mut tier = Tier::new(&[1, 1]);
    tier.timed(0, Timed::Connect, 1_000, 0.0);
    let mut tried_at = None;
    for tenth in 0..2_000 {
        let at = f64::from(tenth) / 10.0;
        tier.timed(1, Timed::Connect, 10, at);
        let slot = tier.pick();
        tier.count(slot, -1);
        if slot == 0 && tried_at.is_none() {
            tried_at = Some(at);
            // Not measured yet: as a usual one.
            let counts = tier.picks(10);
            assert!((1..=6).contains(&counts[0]), "{counts:?}");
            break;
        }
    }
    // A hundredth of 1,000 ms after 4.6 × DECAY.
    assert!(tried_at.is_some_and(|at| (40.0..50.0).contains(&at)), "{tried_at:?}");
}

/// Slots that are new, or were away for long, get no more than the others have, until they are measured.
#[test]
fn one_that_comes_is_not_run_over() {
    let busy = || {
        let mut tier = Tier::new(&[1; 11]);
        tier.policy.leave(10);
        for slot in 0..10 {
            tier.timed(slot, Timed::Connect, 10, 1_000.0);
            (0..5).for_each(|_| tier.count(slot, 1));
        }
        tier
    };
    let mut newcomer = busy();
    newcomer.policy.enter(10, 1, 0);
    assert_eq!(newcomer.picks(5)[10], 5, "it has fewer sessions than the others");
    assert!(newcomer.picks(110)[10] <= 11, "{:?}", newcomer.sessions);
    // It was fast, a long time ago.
    let mut back = Tier::new(&[1; 11]);
    back.timed(10, Timed::Connect, 1, 0.0);
    back.policy.leave(10);
    for slot in 0..10 {
        back.timed(slot, Timed::Connect, 10, 1_000.0);
        (0..5).for_each(|_| back.count(slot, 1));
    }
    back.policy.enter(10, 1, 0);
    assert!(back.picks(116)[10] <= 16, "{:?}", back.sessions);
    // It was at its cap for a moment: what it took is still known.
    let mut full = busy();
    full.policy.enter(10, 1, 0);
    full.timed(10, Timed::Connect, 1, 1_000.0);
    full.policy.leave(10);
    full.policy.enter(10, 1, 0);
    assert!(full.picks(40)[10] >= 39, "{:?}", full.sessions);
    // A number that is used again knows nothing of the one before.
    full.policy.leave(10);
    full.policy.forget(10);
    assert!(!full.policy.costs[10].is_measured());
}

#[test]
fn a_clock_that_goes_back_does_no_harm() {
    let mut tier = Tier::new(&[1, 1]);
    tier.timed(0, Timed::Connect, 10, 100.0);
    tier.timed(1, Timed::FirstByte, 10, 50.0);
    tier.timed(1, Timed::Connect, 0, 0.0);
    assert_eq!(tier.picks(10).into_iter().sum::<usize>(), 10);
    assert!(tier.policy.costs.iter().all(|cost| cost.log.is_finite()));
}

/// The heaps and the common moment give what a look at every slot now gives.
#[test]
fn it_is_the_least_of_all() {
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..100 {
        let weights: Vec<u32> = (0..random.usize(1..9)).map(|_| random.u32(1..5)).collect();
        let mut tier = Tier::new(&weights);
        let mut at = random.f64() * 1e6;
        for _ in 0..100 {
            at += random.f64() * 4.0;
            let slot = random.usize(..weights.len());
            match random.u8(..5) {
                0 => tier.policy.leave(slot),
                1 => tier.policy.enter(slot, weights[slot], tier.sessions[slot]),
                2 if tier.sessions[slot] > 0 && tier.policy.running[slot].is_some() => tier.count(slot, -1),
                _ => tier.timed(slot, [Timed::Connect, Timed::FirstByte][random.usize(..2)], random.u64(1..50), at),
            }
            let tried: Vec<usize> = (0..weights.len()).filter(|_| random.u8(..4) == 0).collect();
            let may = |slot: &usize| tier.policy.running[*slot].is_some() && !tried.contains(slot);
            let now = tier.policy.now;
            let load = |slot: usize| {
                let known = &tier.policy.costs[slot];
                let log = if known.is_measured() { known.log } else { tier.policy.usual.log };
                let cost = if log == 0.0 { 1.0 } else { (log - now / DECAY).exp() };
                cost * f64::from(tier.sessions[slot] + 1) / f64::from(weights[slot])
            };
            let least = (0..weights.len()).filter(may).map(load).fold(f64::INFINITY, f64::min);
            let loads: Vec<f64> = (0..weights.len()).map(load).collect();
            match tier.policy.pick(&PickContext::having_tried(&tried)) {
                Some(slot) => {
                    assert!(loads[slot] <= least * (1.0 + 1e-6), "{slot} of {loads:?}");
                    tier.count(slot, 1);
                }
                None => assert!(least.is_infinite()),
            }
        }
    }
}
