//! Random: each slot with the probability of its weight. Power of two: the less loaded of two that are drawn so.

/// Slots that may be drawn, by weight. A binary indexed tree: every change and every draw costs the logarithm of the number
/// of slots.
#[derive(Debug)]
pub(super) struct Random {
    random: fastrand::Rng,
    weights: Vec<u32>,
    /// `sums[i]` holds the weights of the slots from `i + 1 - lowbit(i + 1)` to `i`.
    sums: Vec<u64>,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), weights: Vec::new(), sums: Vec::new() }
    }

    pub(super) fn enter(&mut self, slot: usize, weight: u32) {
        if self.weights.len() <= slot {
            self.grow(slot + 1);
        }
        let before = std::mem::replace(&mut self.weights[slot], weight);
        let mut place = slot + 1;
        while place <= self.sums.len() {
            let sum = &mut self.sums[place - 1];
            *sum = *sum + u64::from(weight) - u64::from(before);
            place += lowbit(place);
        }
    }

    pub(super) fn leave(&mut self, slot: usize) {
        self.enter(slot, 0);
    }

    /// A slot that is not in `tried`.
    pub(super) fn pick(&mut self, tried: &[usize]) -> Option<usize> {
        let mut tried: Vec<usize> = tried.iter().copied().filter(|&slot| self.weight(slot) > 0).collect();
        tried.sort_unstable();
        tried.dedup();
        let taken: u64 = tried.iter().map(|&slot| u64::from(self.weight(slot))).sum();
        let left = self.before(self.weights.len()) - taken;
        if left == 0 {
            return None;
        }
        let mut at = self.random.u64(..left);
        // The tried ones are as if they were cut out.
        for slot in tried {
            if self.before(slot) <= at {
                at += u64::from(self.weight(slot));
            }
        }
        Some(self.find(at))
    }

    fn weight(&self, slot: usize) -> u32 {
        self.weights.get(slot).copied().unwrap_or(0)
    }

    fn grow(&mut self, slots: usize) {
        self.weights.resize(slots.next_power_of_two(), 0);
        self.sums = vec![0; self.weights.len()];
        for place in 1..=self.sums.len() {
            self.sums[place - 1] += u64::from(self.weights[place - 1]);
            let next = place + lowbit(place);
            if next <= self.sums.len() {
                self.sums[next - 1] += self.sums[place - 1];
            }
        }
    }

    /// The weights of all slots before this one.
    fn before(&self, slot: usize) -> u64 {
        let (mut place, mut sum) = (slot, 0);
        while place > 0 {
            sum += self.sums[place - 1];
            place -= lowbit(place);
        }
        sum
    }

    /// The slot with `before(slot) <= at < before(slot + 1)`.
    fn find(&self, mut at: u64) -> usize {
        let mut place = 0;
        let mut step = self.sums.len();
        while step > 0 {
            if place + step <= self.sums.len() && self.sums[place + step - 1] <= at {
                place += step;
                at -= self.sums[place - 1];
            }
            step /= 2;
        }
        place
    }
}

fn lowbit(place: usize) -> usize {
    place & place.wrapping_neg()
}

/// Draws two slots and takes the one with fewer sessions for its weight.
#[derive(Debug)]
pub(super) struct PowerOfTwo {
    draws: Random,
    sessions: Vec<u32>,
}

impl PowerOfTwo {
    pub(super) fn new(seed: u64) -> Self {
        Self { draws: Random::new(seed), sessions: Vec::new() }
    }

    /// Also when the number of sessions changes.
    pub(super) fn enter(&mut self, slot: usize, weight: u32, sessions: u32) {
        if self.draws.weight(slot) != weight {
            self.draws.enter(slot, weight);
        }
        if self.sessions.len() <= slot {
            self.sessions.resize(slot + 1, 0);
        }
        self.sessions[slot] = sessions;
    }

    pub(super) fn leave(&mut self, slot: usize) {
        self.draws.leave(slot);
    }

    /// A slot that is not in `tried`. Of two that are loaded alike, the first that was drawn.
    pub(super) fn pick(&mut self, tried: &[usize]) -> Option<usize> {
        let first = self.draws.pick(tried)?;
        let mut others = tried.to_vec();
        others.push(first);
        let Some(second) = self.draws.pick(&others) else { return Some(first) };
        let load =
            |slot: usize, other: usize| (u64::from(self.sessions[slot]) + 1) * u64::from(self.draws.weight(other));
        Some(if load(second, first) < load(first, second) { second } else { first })
    }
}
