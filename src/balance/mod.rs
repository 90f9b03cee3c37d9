//! PURE. Who gets the next session: one `&mut` state machine per pool over indexed slots, which `pool` keeps behind one
//! short mutex. Sessions are counted per slot here, whether or not the slot is in the running, so that no change of
//! membership loses a count.

mod heap;
mod least_connections;
mod round_robin;
#[cfg(test)]
mod tests;

use crate::config::Balance;
use least_connections::LeastConnections;
use round_robin::RoundRobin;

/// See the module.
#[derive(Debug)]
pub struct Balancer {
    policy: Policy,
    slots: Vec<Slot>,
}

#[derive(Debug)]
enum Policy {
    RoundRobin(RoundRobin),
    LeastConnections(LeastConnections),
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    weight: u16,
    eligible: bool,
    sessions: u32,
}

impl Slot {
    fn runs(self) -> bool {
        self.eligible && self.weight > 0
    }
}

impl Balancer {
    /// Without slots.
    pub fn new(balance: Balance) -> Self {
        Self { policy: Policy::new(balance), slots: Vec::new() }
    }

    /// Goes on with another policy: same slots, same counts.
    pub fn switch(&mut self, balance: Balance) {
        if self.policy.is(balance) {
            return;
        }
        self.policy = Policy::new(balance);
        for (number, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.runs()) {
            self.policy.enter(number, *slot);
        }
    }

    /// Says what a slot is worth now. A slot that was never set, or was cleared, is not eligible. Setting the same again
    /// changes nothing.
    pub fn set(&mut self, slot: usize, weight: u16, eligible: bool) {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, Slot::default());
        }
        let before = self.slots[slot];
        let after = Slot { weight, eligible, ..before };
        self.slots[slot] = after;
        match (before.runs(), after.runs()) {
            (false, false) => {}
            (true, false) => self.policy.leave(slot),
            (true, true) if before.weight == weight => {}
            (_, true) => self.policy.enter(slot, after),
        }
    }

    /// Forgets a slot that has no sessions; its number may be used for another backend.
    pub fn clear(&mut self, slot: usize) {
        self.set(slot, 0, false);
        debug_assert_eq!(self.slots[slot].sessions, 0);
        self.slots[slot] = Slot::default();
    }

    /// Picks an eligible slot that is not in `tried`, and counts a session on it until [`Self::release`].
    pub fn pick(&mut self, tried: &[usize]) -> Option<usize> {
        let slot = self.policy.pick(tried)?;
        self.slots[slot].sessions += 1;
        self.policy.recount(slot, self.slots[slot]);
        Some(slot)
    }

    /// Ends a session that [`Self::pick`] counted.
    pub fn release(&mut self, slot: usize) {
        debug_assert!(self.slots[slot].sessions > 0);
        self.slots[slot].sessions = self.slots[slot].sessions.saturating_sub(1);
        if self.slots[slot].runs() {
            self.policy.recount(slot, self.slots[slot]);
        }
    }

    /// Sessions on a slot now.
    pub fn sessions(&self, slot: usize) -> u32 {
        self.slots.get(slot).map_or(0, |slot| slot.sessions)
    }
}

impl Policy {
    fn new(balance: Balance) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(RoundRobin::new()),
            Balance::LeastConnections => Self::LeastConnections(LeastConnections::new()),
        }
    }

    fn is(&self, balance: Balance) -> bool {
        match (self, balance) {
            (Self::RoundRobin(_), Balance::RoundRobin) | (Self::LeastConnections(_), Balance::LeastConnections) => true,
            (Self::RoundRobin(_) | Self::LeastConnections(_), _) => false,
        }
    }

    fn enter(&mut self, slot: usize, value: Slot) {
        match self {
            Self::RoundRobin(policy) => policy.enter(slot, value.weight),
            Self::LeastConnections(policy) => policy.enter(slot, value.weight, value.sessions),
        }
    }

    fn leave(&mut self, slot: usize) {
        match self {
            Self::RoundRobin(policy) => policy.leave(slot),
            Self::LeastConnections(policy) => policy.leave(slot),
        }
    }

    fn pick(&mut self, tried: &[usize]) -> Option<usize> {
        match self {
            Self::RoundRobin(policy) => policy.pick(tried),
            Self::LeastConnections(policy) => policy.pick(tried),
        }
    }

    /// The number of sessions changed on a slot that runs.
    fn recount(&mut self, slot: usize, value: Slot) {
        match self {
            Self::RoundRobin(_) => {}
            Self::LeastConnections(policy) => policy.enter(slot, value.weight, value.sessions),
        }
    }
}
