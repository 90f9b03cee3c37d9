//! Random: each slot with the probability of its weight. Power of two: the less loaded of two that are drawn so.

use super::PickContext;
use super::policy::PickOrder;

/// Slots that may be drawn, by weight. A binary indexed tree: every change and every draw costs the logarithm of the number
/// of slots.
#[derive(Debug)]
struct Draws {
    random: fastrand::Rng,
    weights: Vec<u32>,
    /// `sums[i]` holds the weights of the slots from `i + 1 - lowbit(i + 1)` to `i`.
    sums: Vec<u64>,
}

impl Draws {
    fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), weights: Vec::new(), sums: Vec::new() }
    }

    fn enter(&mut self, slot: usize, weight: u32) {
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

    fn leave(&mut self, slot: usize) {
        self.enter(slot, 0);
    }

    /// A slot that is not in `tried`.
    fn draw(&mut self, tried: &[usize]) -> Option<usize> {
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

/// Draws a slot.
#[derive(Debug)]
pub(super) struct Random(Draws);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(Draws::new(seed))
    }
}

impl PickOrder for Random {
    fn enter(&mut self, slot: usize, weight: u32, _sessions: u32) {
        self.0.enter(slot, weight);
    }

    fn leave(&mut self, slot: usize) {
        self.0.leave(slot);
    }

    fn pick(&mut self, context: &PickContext<'_, usize>) -> Option<usize> {
        self.0.draw(context.tried)
    }

    fn says(&self, _slot: usize) -> String {
        "drawn, by weight".to_owned()
    }
}

/// Draws two slots and takes the one with fewer sessions for its weight.
#[derive(Debug)]
pub(super) struct PowerOfTwo {
    draws: Draws,
    sessions: Vec<u32>,
}

impl PowerOfTwo {
    pub(super) fn new(seed: u64) -> Self {
        Self { draws: Draws::new(seed), sessions: Vec::new() }
    }
}

impl PickOrder for PowerOfTwo {
    fn enter(&mut self, slot: usize, weight: u32, sessions: u32) {
        if self.draws.weight(slot) != weight {
            self.draws.enter(slot, weight);
        }
        if self.sessions.len() <= slot {
            self.sessions.resize(slot + 1, 0);
        }
        self.sessions[slot] = sessions;
    }

    fn leave(&mut self, slot: usize) {
        self.draws.leave(slot);
    }

    /// Of two that are loaded alike, the first that was drawn.
    fn pick(&mut self, context: &PickContext<'_, usize>) -> Option<usize> {
        let first = self.draws.draw(context.tried)?;
        let mut others = context.tried.to_vec();
        others.push(first);
        let Some(second) = self.draws.draw(&others) else { return Some(first) };
        let load =
            |slot: usize, other: usize| (u64::from(self.sessions[slot]) + 1) * u64::from(self.draws.weight(other));
        Some(if load(second, first) < load(first, second) { second } else { first })
    }

    fn says(&self, _slot: usize) -> String {
        "of two that are drawn by weight, the lower (sessions + 1) / weight".to_owned()
    }

    fn recount(&mut self, slot: usize, weight: u32, sessions: u32) {
        self.enter(slot, weight, sessions);
    }
}
