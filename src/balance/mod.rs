//! PURE. Decides which backend gets the next session: one `&mut` state machine per pool over numbered slots.
//! Called by `pool`, which keeps it behind one short mutex.
//! It counts the sessions of every slot, also of slots that can't be picked, so that no change of membership loses a count.

mod affinity;
mod hashed;
mod heap;
mod last_resort;
mod least_connections;
mod random;
mod rebalance;
mod round_robin;
mod spill;
mod table;
#[cfg(test)]
mod tests;
mod tiers;

use std::sync::Arc;

use crate::config::{Balance, Hashing, Spill};
pub use affinity::Affinity;
use hashed::Hashed;
pub use last_resort::{LastResort, is_all_down};
use least_connections::LeastConnections;
use random::{PowerOfTwo, Random};
pub use rebalance::{LoadedBackend, PartRules, PoolShape, RebalanceEnd, RebalancePlan, Rebalancer, RunFacts};
use round_robin::RoundRobin;
use spill::Dead;
pub use spill::{Course, PickContext, Prospect, course};
pub use table::{HashMember, HashTable, TableKind, hash_of};
pub use tiers::{PICK_TIERS, TierHealth, first_alone, loads, pick_tier};

/// The slots of a pool, their sessions, and the order in which they are picked.
#[derive(Debug)]
pub struct Picker {
    tiers: [Tier; PICK_TIERS],
    /// Spreads the sessions over the tiers.
    tier_order: RoundRobin,
    rules: PickRules,
    /// The number of the change of members from which its tables follow; `None` = it has none.
    tables: Option<u64>,
    slots: Vec<PickSlot>,
}

/// The slots of one priority in one half of the zones; see [`pick_tier`].
#[derive(Debug)]
struct Tier {
    policy: Policy,
    /// Slots that may be picked now.
    running: usize,
    /// Slots that are at their cap.
    full: usize,
    /// Both of these, and slots with a cap of 0.
    members: usize,
    /// Its part of the sessions, in percent.
    load: u32,
    /// Whether `spill` decides if a session may go past it. A tier that has only last resorts lets every session pass.
    binds: bool,
}

#[derive(Debug)]
enum Policy {
    RoundRobin(RoundRobin),
    LeastConnections(LeastConnections),
    Random(Random),
    PowerOfTwo(PowerOfTwo),
    Hashed(Hashed, TableKind),
}

/// What decides about a slot's part of the sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worth {
    /// Its share relative to the others in its tier; 0 = nothing new.
    pub share: u32,
    /// The number of its tier, below [`PICK_TIERS`].
    pub tier: u8,
    /// Sessions at once; never exceeded.
    pub cap: Option<u32>,
    /// Whether it may be picked at all.
    pub eligible: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct PickSlot {
    worth: Worth,
    sessions: u32,
}

/// What a pool's settings say about its picks.
#[derive(Clone, Copy, Debug)]
pub struct PickRules {
    /// The policy.
    pub balance: Balance,
    /// What a policy that hashes goes by.
    pub hashing: Hashing,
    /// When one session may go to the next tier.
    pub spill: Spill,
    /// For the policies that draw.
    pub seed: u64,
}

impl PickSlot {
    fn has_room(self) -> bool {
        self.worth.share > 0 && self.worth.cap.is_none_or(|cap| self.sessions < cap)
    }

    fn is_member(self) -> bool {
        self.worth.eligible && self.worth.share > 0
    }

    fn runs(self) -> bool {
        self.worth.eligible && self.has_room()
    }

    /// A slot with a cap of 0 never gets room.
    fn is_full(self) -> bool {
        self.is_member() && self.worth.cap.is_some_and(|cap| cap > 0 && self.sessions >= cap)
    }

    fn tier(self) -> usize {
        usize::from(self.worth.tier).min(PICK_TIERS - 1)
    }
}

impl Picker {
    /// No slots; the first tier gets every session.
    pub fn new(rules: PickRules) -> Self {
        let tier = |number: usize| Tier {
            policy: Policy::new(&rules, number),
            running: 0,
            full: 0,
            members: 0,
            load: 0,
            binds: true,
        };
        let mut picker = Self {
            tiers: std::array::from_fn(tier),
            tier_order: RoundRobin::new(),
            rules,
            tables: None,
            slots: Vec::new(),
        };
        picker.set_loads(std::array::from_fn(|tier| if tier == 0 { 100 } else { 0 }));
        picker
    }

    /// Changes the rules; slots and counts stay.
    pub fn switch(&mut self, rules: PickRules) {
        let before = std::mem::replace(&mut self.rules, rules);
        if before.balance == rules.balance {
            for tier in &mut self.tiers {
                tier.policy.set_factor(rules.hashing.factor);
            }
            return;
        }
        self.tables = None;
        for (number, tier) in self.tiers.iter_mut().enumerate() {
            tier.policy = Policy::new(&rules, number);
        }
        for (number, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.runs()) {
            self.tiers[slot.tier()].policy.enter(number, *slot);
        }
    }

    /// Which kind of tables it needs, if those that it has do not follow from this change of members. Changes are numbered.
    pub fn wanted_tables(&self, change: u64) -> Option<TableKind> {
        match self.tiers[0].policy {
            Policy::Hashed(_, kind) => (self.tables < Some(change)).then_some(kind),
            Policy::RoundRobin(_) | Policy::LeastConnections(_) | Policy::Random(_) | Policy::PowerOfTwo(_) => None,
        }
    }

    /// Sets the table of each tier, if tables of this kind are wanted for this change.
    pub fn set_tables(&mut self, (kind, change): (TableKind, u64), tables: [Arc<HashTable>; PICK_TIERS]) {
        if self.wanted_tables(change) != Some(kind) {
            return;
        }
        self.tables = Some(change);
        for (tier, table) in self.tiers.iter_mut().zip(tables) {
            if let Policy::Hashed(policy, _) = &mut tier.policy {
                policy.set_table(table);
            }
        }
    }

    /// Sets what a slot is worth. A slot that was never set, or was cleared, is not eligible. Setting the same again changes
    /// nothing.
    pub fn set(&mut self, slot: usize, worth: Worth) {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, PickSlot::default());
        }
        self.change(slot, PickSlot { worth, ..self.slots[slot] });
    }

    /// Sets the percent of the sessions that each tier gets. The same again changes nothing.
    pub fn set_loads(&mut self, loads: [u32; PICK_TIERS]) {
        for (number, (tier, load)) in self.tiers.iter_mut().zip(loads).enumerate() {
            if tier.load == load {
                continue;
            }
            tier.load = load;
            if load == 0 {
                self.tier_order.leave(number);
            } else {
                self.tier_order.enter(number, load);
            }
        }
    }

    /// Sets which tiers have something better than a last resort.
    pub fn set_binding(&mut self, binding: [bool; PICK_TIERS]) {
        for (tier, binds) in self.tiers.iter_mut().zip(binding) {
            tier.binds = binds;
        }
    }

    /// Percent of the sessions that each tier gets.
    pub fn loads(&self) -> [u32; PICK_TIERS] {
        std::array::from_fn(|tier| self.tiers[tier].load)
    }

    /// Forgets a slot that has no sessions; its number may be used for another backend.
    pub fn clear(&mut self, slot: usize) {
        self.set(slot, Worth::default());
        debug_assert_eq!(self.slots[slot].sessions, 0);
        self.slots[slot] = PickSlot::default();
    }

    /// Picks an eligible slot that was not tried, and counts a session on it until [`Self::release`]. The tiers that have a
    /// load come first, by their loads; then the others in order, as far as `spill` lets the session go.
    pub fn pick(&mut self, context: &PickContext<'_, usize>) -> Option<usize> {
        let slot = self.pick_by_load(context).or_else(|| {
            let tier = self.next_tier(context)?;
            self.tiers[tier].policy.pick(context)
        })?;
        self.count(slot, 1);
        Some(slot)
    }

    fn pick_by_load(&mut self, context: &PickContext<'_, usize>) -> Option<usize> {
        let mut passed_over = Vec::new();
        loop {
            let tier = self.tier_order.pick(&passed_over)?;
            if let Some(slot) = self.tiers[tier].policy.pick(context) {
                return Some(slot);
            }
            passed_over.push(tier);
        }
    }

    /// The first tier that has a slot for the session, if the tiers before it let the session pass.
    fn next_tier(&self, context: &PickContext<'_, usize>) -> Option<usize> {
        (0..PICK_TIERS)
            .find(|&tier| !self.lets_pass(tier, context))
            .filter(|&tier| self.dead_end(tier, context).is_none())
    }

    /// Whether a tier has nothing for the session, and lets it go on to the next.
    fn lets_pass(&self, tier: usize, context: &PickContext<'_, usize>) -> bool {
        self.dead_end(tier, context)
            .is_some_and(|dead| dead.lets_pass(self.rules.spill, context.waits) || !self.tiers[tier].binds)
    }

    /// Why a session can get no slot from a tier; `None` = it can.
    fn dead_end(&self, number: usize, context: &PickContext<'_, usize>) -> Option<Dead> {
        let tier = &self.tiers[number];
        let of_tier = |slots: &[usize]| slots.iter().any(|&slot| self.slots[slot].tier() == number);
        let runs = |&&slot: &&usize| self.slots[slot].tier() == number && self.slots[slot].runs();
        if tier.running > context.tried.iter().filter(runs).count() {
            return None;
        }
        Some(match tier.members {
            0 => Dead::Empty,
            _ if of_tier(context.dialling) => Dead::Slow,
            _ if of_tier(context.tried) && tier.running == 0 => Dead::FailedAndFull,
            _ if of_tier(context.tried) => Dead::Failed,
            _ => Dead::Full,
        })
    }

    /// Whether [`Self::pick`] would return a slot.
    pub fn has_left(&self, context: &PickContext<'_, usize>) -> bool {
        let mut by_load = (0..PICK_TIERS).filter(|&tier| self.tiers[tier].load > 0);
        by_load.any(|tier| self.dead_end(tier, context).is_none()) || self.next_tier(context).is_some()
    }

    /// What there is for the session; last resorts count as any other slot.
    pub fn prospect(&self, context: &PickContext<'_, usize>) -> Prospect {
        if self.has_left(context) {
            Prospect::Serves
        } else if (0..PICK_TIERS).all(|tier| self.lets_pass(tier, context)) {
            Prospect::LetsPass
        } else {
            Prospect::Keeps
        }
    }

    /// Counts a session on a slot that is not eligible, if its cap allows one. Returns whether it does.
    pub fn claim(&mut self, slot: usize) -> bool {
        let room = self.slots[slot].has_room();
        if room {
            self.count(slot, 1);
        }
        room
    }

    /// Ends a session that [`Self::pick`] or [`Self::claim`] counted.
    pub fn release(&mut self, slot: usize) {
        debug_assert!(self.slots[slot].sessions > 0);
        self.count(slot, -1);
    }

    /// Sessions on a slot now.
    pub fn sessions(&self, slot: usize) -> u32 {
        self.slots.get(slot).map_or(0, |slot| slot.sessions)
    }

    /// What a slot has, and what it is worth.
    pub fn load(&self, slot: usize) -> LoadedBackend {
        let PickSlot { worth, sessions } = self.slots[slot];
        LoadedBackend { sessions, share: worth.share, tier: self.slots[slot].tier(), cap: worth.cap }
    }

    /// Slots that the first pick of a session could return now; `waits` as in [`PickContext`].
    pub fn eligible(&self, waits: bool) -> usize {
        match self.tiers.iter().filter(|tier| tier.load > 0).map(|tier| tier.running).sum() {
            0 => {
                self.next_tier(&PickContext { waits, ..PickContext::FIRST }).map_or(0, |tier| self.tiers[tier].running)
            }
            some => some,
        }
    }

    /// Whether the slot's tier is in use, or is before one that is.
    pub fn is_in_use(&self, slot: usize) -> bool {
        let last = self.tiers.iter().rposition(|tier| tier.load > 0);
        last.is_none_or(|last| self.slots[slot].tier() <= last)
    }

    /// Slots of the tiers in use that are at their cap.
    pub fn full(&self) -> usize {
        self.tiers.iter().filter(|tier| tier.load > 0).map(|tier| tier.full).sum()
    }

    fn count(&mut self, slot: usize, by: i32) {
        let before = self.slots[slot];
        let after = PickSlot { sessions: before.sessions.saturating_add_signed(by), ..before };
        if before.runs() && after.runs() {
            self.slots[slot] = after;
            self.tiers[after.tier()].policy.recount(slot, after);
        } else {
            self.change(slot, after);
        }
    }

    fn change(&mut self, slot: usize, after: PickSlot) {
        let before = std::mem::replace(&mut self.slots[slot], after);
        let moved = before.tier() != after.tier();
        self.tiers[before.tier()].full -= usize::from(before.is_full());
        self.tiers[after.tier()].full += usize::from(after.is_full());
        self.tiers[before.tier()].members -= usize::from(before.is_member());
        self.tiers[after.tier()].members += usize::from(after.is_member());
        if before.runs() && (!after.runs() || moved) {
            let tier = &mut self.tiers[before.tier()];
            tier.policy.leave(slot);
            tier.running -= 1;
        }
        if !after.runs() {
            return;
        }
        let tier = &mut self.tiers[after.tier()];
        if !before.runs() || moved {
            tier.running += 1;
        } else if before.worth.share == after.worth.share {
            return;
        }
        tier.policy.enter(slot, after);
    }
}

impl Policy {
    fn new(rules: &PickRules, tier: usize) -> Self {
        let (seed, hashed) = (rules.seed.wrapping_add(tier as u64), || Hashed::new(rules.hashing.factor));
        match rules.balance {
            Balance::RoundRobin => Self::RoundRobin(RoundRobin::new()),
            Balance::LeastConnections => Self::LeastConnections(LeastConnections::new()),
            Balance::Random => Self::Random(Random::new(seed)),
            Balance::PowerOfTwo => Self::PowerOfTwo(PowerOfTwo::new(seed)),
            Balance::Maglev => Self::Hashed(hashed(), TableKind::Maglev),
            Balance::RingHash => Self::Hashed(hashed(), TableKind::Ring),
        }
    }

    fn set_factor(&mut self, factor: Option<u32>) {
        if let Self::Hashed(policy, _) = self {
            policy.set_factor(factor);
        }
    }

    fn enter(&mut self, slot: usize, PickSlot { worth, sessions }: PickSlot) {
        match self {
            Self::RoundRobin(policy) => policy.enter(slot, worth.share),
            Self::LeastConnections(policy) => policy.enter(slot, worth.share, sessions),
            Self::Random(policy) => policy.enter(slot, worth.share),
            Self::PowerOfTwo(policy) => policy.enter(slot, worth.share, sessions),
            Self::Hashed(policy, _) => policy.enter(slot, worth.share, sessions),
        }
    }

    fn leave(&mut self, slot: usize) {
        match self {
            Self::RoundRobin(policy) => policy.leave(slot),
            Self::LeastConnections(policy) => policy.leave(slot),
            Self::Random(policy) => policy.leave(slot),
            Self::PowerOfTwo(policy) => policy.leave(slot),
            Self::Hashed(policy, _) => policy.leave(slot),
        }
    }

    fn pick(&mut self, context: &PickContext<'_, usize>) -> Option<usize> {
        let tried = context.tried;
        match self {
            Self::RoundRobin(policy) => policy.pick(tried),
            Self::LeastConnections(policy) => policy.pick(tried),
            Self::Random(policy) => policy.pick(tried),
            Self::PowerOfTwo(policy) => policy.pick(tried),
            Self::Hashed(policy, _) => policy.pick(context.affinity.hash, tried),
        }
    }

    /// The number of sessions changed on a slot that runs.
    fn recount(&mut self, slot: usize, value: PickSlot) {
        match self {
            Self::RoundRobin(_) | Self::Random(_) => {}
            Self::LeastConnections(_) | Self::PowerOfTwo(_) | Self::Hashed(..) => self.enter(slot, value),
        }
    }
}
