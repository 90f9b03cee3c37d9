//! Least connections: the lowest (sessions + 1) / weight, ties to the one that was picked longest ago.

use std::cmp::Ordering;

use super::heap::Heap;

#[derive(Debug)]
pub(super) struct LeastConnections {
    loads: Heap<LoadKey>,
    /// Counts picks; the stamp of a slot is the count at its last one.
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

    /// `weight` > 0. To be called when the slot enters, its weight or its number of sessions changes.
    pub(super) fn enter(&mut self, slot: usize, weight: u32, sessions: u32) {
        if self.stamps.len() <= slot {
            self.stamps.resize(slot + 1, 0);
        }
        self.loads.put(slot, LoadKey { sessions, weight, stamp: self.stamps[slot], slot });
    }

    pub(super) fn leave(&mut self, slot: usize) {
        self.loads.remove(slot);
    }

    /// The least loaded slot that is not in `tried`. The caller counts the session and enters it again.
    pub(super) fn pick(&mut self, tried: &[usize]) -> Option<usize> {
        let mut passed_over = Vec::new();
        let taken = loop {
            let Some((load, slot)) = self.loads.least() else { break None };
            if !tried.contains(&slot) {
                break Some(slot);
            }
            self.loads.remove(slot);
            passed_over.push(load);
        };
        for load in passed_over {
            self.loads.put(load.slot, load);
        }
        if let Some(slot) = taken {
            self.picks += 1;
            self.stamps[slot] = self.picks;
        }
        taken
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
