//! Least connections: picks the lowest (sessions + 1) / weight; of equals, the one that was picked longest ago.

use std::cmp::Ordering;

use super::PickContext;
use super::heap::Heap;
use super::policy::PickOrder;

#[derive(Debug)]
pub(super) struct LeastConnections {
    loads: Heap<LoadKey>,
    /// Counts picks. The stamp of a slot is this count at its last pick.
    picks: u64,
    stamps: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct LoadKey {
    sessions: u32,
    weight: u32,
    stamp: u64,
    slot: usize,
}

impl LeastConnections {
    pub(super) fn new() -> Self {
        Self { loads: Heap::new(), picks: 0, stamps: Vec::new() }
    }

    /// The least loaded slot that is not in `tried`, with its weight and sessions.
    pub(super) fn least(&mut self, tried: &[usize]) -> Option<(usize, u32, u32)> {
        let (load, slot) = self.loads.least_except(tried)?;
        Some((slot, load.weight, load.sessions))
    }

    /// Of those that are loaded alike, it is the last one from now on.
    pub(super) fn picked(&mut self, slot: usize) {
        self.picks += 1;
        self.stamps[slot] = self.picks;
    }
}

impl PickOrder for LeastConnections {
    fn enter(&mut self, slot: usize, weight: u32, sessions: u32) {
        if self.stamps.len() <= slot {
            self.stamps.resize(slot + 1, 0);
        }
        self.loads.put(slot, LoadKey { sessions, weight, stamp: self.stamps[slot], slot });
    }

    fn leave(&mut self, slot: usize) {
        self.loads.remove(slot);
    }

    fn pick(&mut self, context: &PickContext<'_, usize>) -> Option<usize> {
        let (slot, ..) = self.least(context.tried)?;
        self.picked(slot);
        Some(slot)
    }

    fn says(&self, _slot: usize) -> String {
        "the lowest (sessions + 1) / weight".to_owned()
    }

    fn recount(&mut self, slot: usize, weight: u32, sessions: u32) {
        self.enter(slot, weight, sessions);
    }
}

impl Ord for LoadKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let mine = (u64::from(self.sessions) + 1) * u64::from(other.weight);
        let theirs = (u64::from(other.sessions) + 1) * u64::from(self.weight);
        mine.cmp(&theirs).then(self.stamp.cmp(&other.stamp)).then(self.slot.cmp(&other.slot))
    }
}

impl PartialOrd for LoadKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for LoadKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for LoadKey {}
