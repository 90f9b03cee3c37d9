//! PURE. The part of the sessions that each tier gets: a tier takes all that its working backends can carry, the next tier
//! takes the rest.
//! Called by `pool`.

use crate::config::TIERS;

/// Tiers of a picker: those of a priority in the balancer's own zone are a tier, those elsewhere are the next.
pub const PICK_TIERS: usize = 2 * TIERS;

/// The number of a backend's tier in a picker.
pub fn pick_tier(priority: u8, is_elsewhere: bool) -> u8 {
    let priority = priority.min(TIERS as u8 - 1);
    2 * priority + u8::from(is_elsewhere)
}

/// How many backends of a tier work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierHealth {
    /// Backends that were not taken out, and of which a probe has a result.
    pub backends: usize,
    /// How many of these work.
    pub working: usize,
}

impl TierHealth {
    /// The part of the sessions that it can carry, in percent; `overprovisioning` is in hundredths.
    fn capacity(self, overprovisioning: u32) -> u64 {
        let working = self.working as u64 * u64::from(overprovisioning);
        working.checked_div(self.backends as u64).unwrap_or(0).min(100)
    }
}

/// Percent of the sessions that each tier gets, as Envoy's priority levels do it. The sum is 100, or 0 if nothing works.
pub fn loads(tiers: &[TierHealth; PICK_TIERS], overprovisioning: u32) -> [u32; PICK_TIERS] {
    let capacities = tiers.map(|tier| tier.capacity(overprovisioning));
    let all = capacities.iter().sum::<u64>().min(100);
    let mut loads = [0; PICK_TIERS];
    if all == 0 {
        // Very few of very many work: the capacity rounds to 0, but there is nothing else.
        if let Some(tier) = tiers.iter().position(|tier| tier.working > 0) {
            loads[tier] = 100;
        }
        return loads;
    }
    let mut left: u64 = 100;
    for (load, capacity) in loads.iter_mut().zip(capacities) {
        let part = (capacity * 100 / all).min(left);
        *load = u32::try_from(part).unwrap_or(0);
        left -= part;
    }
    // What remains from rounding goes to the first tier in use.
    if let Some(first) = loads.iter_mut().find(|load| **load > 0) {
        *first += u32::try_from(left).unwrap_or(0);
    }
    loads
}

/// As [`loads`], for pools that use a tier only while nothing works in the tiers before it.
pub fn first_alone(tiers: &[TierHealth; PICK_TIERS]) -> [u32; PICK_TIERS] {
    let first = tiers.iter().position(|tier| tier.working > 0);
    std::array::from_fn(|tier| if Some(tier) == first { 100 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tiers: &[(usize, usize)], overprovisioning: u32) -> Vec<u32> {
        let mut all = [TierHealth::default(); PICK_TIERS];
        for (tier, &(working, backends)) in all.iter_mut().zip(tiers) {
            *tier = TierHealth { backends, working };
        }
        loads(&all, overprovisioning)[..tiers.len()].to_vec()
    }

    /// The table of Envoy's documentation on priority levels.
    #[test]
    fn as_envoy_documents_it() {
        for (working, wanted) in [
            ([100, 100], [100, 0]),
            ([72, 72], [100, 0]),
            ([71, 71], [99, 1]),
            ([50, 50], [70, 30]),
            ([25, 100], [35, 65]),
            ([25, 25], [50, 50]),
            ([0, 100], [0, 100]),
        ] {
            assert_eq!(of(&[(working[0], 100), (working[1], 100)], 140), wanted, "{working:?}");
        }
    }

    #[test]
    fn a_tier_without_backends_is_passed_over() {
        assert_eq!(of(&[(0, 0), (1, 1)], 140), [0, 100]);
        assert_eq!(of(&[(0, 0), (0, 3)], 140), [0, 0]);
        assert_eq!(of(&[(1, 1000), (0, 3)], 100), [100, 0]);
    }

    #[test]
    fn with_much_overprovisioning_the_next_tier_waits_for_the_last_one() {
        assert_eq!(of(&[(1, 10), (5, 5)], 100_000), [100, 0]);
        assert_eq!(of(&[(0, 10), (5, 5)], 100_000), [0, 100]);
    }

    #[test]
    fn they_add_up() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..5_000 {
            let tiers: Vec<_> = (0..random.usize(1..5))
                .map(|_| {
                    let backends = random.usize(..9);
                    (random.usize(..=backends), backends)
                })
                .collect();
            let sum: u32 = of(&tiers, random.u32(100..300)).iter().sum();
            assert_eq!(sum, if tiers.iter().any(|(working, _)| *working > 0) { 100 } else { 0 }, "{tiers:?}");
        }
    }
}
