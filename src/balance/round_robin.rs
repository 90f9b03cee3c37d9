//! Weighted round robin, exact: a backend of weight w has a turn at the times (2k − 1) / 2w, k = 1, 2, 3 …, and turns are
//! taken in the order of time, then slot. Turns repeat every 1 / gcd of the weights, so *any* Σ(weights / gcd) turns in a
//! row hold each backend's share.
//! Only the position on that fixed timetable is kept. A backend that comes, leaves or changes its weight joins it at the
//! right place, and publishing the same set again changes nothing.

use std::cmp::Ordering;

use super::PickContext;
use super::heap::Heap;
use super::policy::PickOrder;

#[derive(Debug)]
pub(super) struct RoundRobin {
    turns: Heap<NextTurn>,
    /// The last turn taken in order.
    position: NextTurn,
}

/// At the time `odd / (2 * weight)`.
#[derive(Clone, Copy, Debug)]
struct NextTurn {
    odd: u64,
    weight: u32,
    slot: usize,
}

impl RoundRobin {
    pub(super) fn new() -> Self {
        Self { turns: Heap::new(), position: NextTurn { odd: 0, weight: 1, slot: 0 } }
    }

    /// `weight` > 0. Call it only when the slot enters or its weight changes.
    pub(super) fn enter(&mut self, slot: usize, weight: u32) {
        self.turns.put(slot, self.position.next_of(slot, weight));
    }

    pub(super) fn leave(&mut self, slot: usize) {
        self.turns.remove(slot);
    }

    /// Takes the next turn of a slot that is not in `tried`. A slot that is passed over keeps its turn.
    pub(super) fn next(&mut self, tried: &[usize]) -> Option<usize> {
        let (turn, slot) = self.turns.least_except(tried)?;
        let in_order = self.turns.least().is_some_and(|(_, least)| least == slot);
        if in_order {
            self.position = turn;
        }
        self.turns.put(slot, NextTurn { odd: turn.odd + 2, ..turn });
        Some(slot)
    }
}

impl PickOrder for RoundRobin {
    fn enter(&mut self, slot: usize, weight: u32, _sessions: u32) {
        self.enter(slot, weight);
    }

    fn leave(&mut self, slot: usize) {
        self.leave(slot);
    }

    fn pick(&mut self, context: &PickContext<'_, usize>) -> Option<usize> {
        self.next(context.tried)
    }

    fn says(&self, _slot: usize) -> String {
        "each in turn, by weight".to_owned()
    }
}

impl NextTurn {
    /// The first turn of `slot` after this one.
    fn next_of(self, slot: usize, weight: u32) -> Self {
        let scaled = u128::from(self.odd) * u128::from(weight);
        let divisor = u128::from(self.weight);
        let same_time = scaled % divisor == 0;
        let mut odd = scaled / divisor + u128::from(!same_time);
        if odd % 2 == 0 {
            odd += 1;
        } else if same_time && slot <= self.slot {
            odd += 2;
        }
        // It would take centuries of picks to get there.
        Self { odd: u64::try_from(odd).unwrap_or(u64::MAX), weight, slot }
    }
}

impl Ord for NextTurn {
    fn cmp(&self, other: &Self) -> Ordering {
        let mine = u128::from(self.odd) * u128::from(other.weight);
        let theirs = u128::from(other.odd) * u128::from(self.weight);
        mine.cmp(&theirs).then(self.slot.cmp(&other.slot))
    }
}

impl PartialOrd for NextTurn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for NextTurn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for NextTurn {}
