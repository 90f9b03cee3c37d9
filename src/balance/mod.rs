//! PURE. Decides which backend gets the next session: one `&mut` state machine per pool over numbered slots.
//! Called by `pool`, which keeps it behind one short mutex.
//! It counts the sessions of every slot, also of slots that can't be picked, so that no change of membership loses a count.

mod affinity;
mod first;
mod hashed;
mod heap;
mod last_resort;
mod least_connections;
mod least_time;
mod policy;
mod random;
mod rebalance;
mod round_robin;
mod spill;
mod sticky;
mod table;
#[cfg(test)]
mod tests;
mod tiers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Balance, Hashing, Spill};
pub use affinity::Affinity;
pub use last_resort::{LastResort, is_all_down};
use policy::Policy;
pub use policy::Timed;
pub use rebalance::{LoadedBackend, PartRules, PoolShape, RebalanceEnd, RebalancePlan, Rebalancer, RunFacts};
use round_robin::RoundRobin;
use spill::Dead;
pub use spill::{Course, PickContext, Prospect, course};
pub use sticky::StickyTable;
pub use table::{MemberTable, TableKind, TableMember, hash_of};
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
                tier.policy.order_mut().set_rules(&rules);
            }
            return;
        }
        self.tables = None;
        for (number, tier) in self.tiers.iter_mut().enumerate() {
            tier.policy = Policy::new(&rules, number);
        }
        for (number, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.runs()) {
            self.tiers[slot.tier()].policy.order_mut().enter(number, slot.worth.share, slot.sessions);
        }
    }

    /// Which kind of tables it needs, if those that it has do not follow from this change of members. Changes are numbered.
    pub fn wanted_tables(&self, change: u64) -> Option<TableKind> {
        let kind = self.tiers[0].policy.order().wants_table()?;
        (self.tables < Some(change)).then_some(kind)
    }

    /// Sets the table of each tier, if tables of this kind are wanted for this change.
    pub fn set_tables(&mut self, (kind, change): (TableKind, u64), tables: [Arc<MemberTable>; PICK_TIERS]) {
        if self.wanted_tables(change) != Some(kind) {
            return;
        }
        self.tables = Some(change);
        for (tier, table) in self.tiers.iter_mut().zip(tables) {
            tier.policy.order_mut().set_table(table);
        }
    }

    /// How the policy chooses, and what it makes of a slot: for people.
    pub fn says(&self, slot: usize) -> String {
        let tier = self.slots.get(slot).map_or(0, |slot| slot.tier());
        self.tiers[tier].policy.order().says(slot)
    }

    /// Whether the policy goes by how long backends take, and is to be told with [`Self::timed`].
    pub fn wants_times(&self) -> bool {
        self.tiers[0].policy.order().wants_times()
    }

    /// A slot took so long for something.
    pub fn timed(&mut self, slot: usize, what: Timed, took: Duration, now: Instant) {
        let tier = self.slots[slot].tier();
        self.tiers[tier].policy.order_mut().timed(slot, what, took, now);
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
        for tier in &mut self.tiers {
            tier.policy.order_mut().forget(slot);
        }
    }

    /// Picks an eligible slot that was not tried, and counts a session on it until [`Self::release`]. The tiers that have a
    /// load come first, by their loads; then the others in order, as far as `spill` lets the session go.
    pub fn pick(&mut self, context: &PickContext<'_, usize>) -> Option<usize> {
        let slot = self.pick_by_load(context).or_else(|| {
            let tier = self.next_tier(context)?;
            self.tiers[tier].policy.order_mut().pick(context)
        })?;
        self.count(slot, 1);
        Some(slot)
    }

    /// Picks this slot, if the session could get it and its tier is in use, and counts a session on it.
    pub fn pick_this(&mut self, slot: usize, context: &PickContext<'_, usize>) -> bool {
        let is_good = self.slots.get(slot).is_some_and(|its| its.runs() && self.tiers[its.tier()].load > 0)
            && !context.tried.contains(&slot);
        if is_good {
            self.count(slot, 1);
        }
        is_good
    }

    /// Whether a slot could be picked but for its cap.
    pub fn is_only_full(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|its| its.is_full() && self.tiers[its.tier()].load > 0)
    }

    fn pick_by_load(&mut self, context: &PickContext<'_, usize>) -> Option<usize> {
        let mut passed_over = Vec::new();
        loop {
            let tier = self.tier_order.next(&passed_over)?;
            if let Some(slot) = self.tiers[tier].policy.order_mut().pick(context) {
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

    /// The slots of which a new session gets one, without picking any. The affinity is for policies that hash alone: then it is
    /// the one that the hash leads to.
    pub fn foreseen(&mut self, affinity: Option<Affinity>) -> Vec<usize> {
        let context = PickContext { affinity: affinity.unwrap_or(Affinity::NONE), ..PickContext::FIRST };
        let by_load =
            (0..PICK_TIERS).filter(|&tier| self.tiers[tier].load > 0 && self.dead_end(tier, &context).is_none());
        let mut tiers: Vec<_> = by_load.collect();
        if tiers.is_empty() {
            tiers.extend(self.next_tier(&context));
        }
        if affinity.is_some() {
            // A policy that hashes does not change by a pick; only what is counted does.
            return tiers.iter().filter_map(|&tier| self.tiers[tier].policy.order_mut().pick(&context)).collect();
        }
        let runs = |slot: &usize| tiers.contains(&self.slots[*slot].tier()) && self.slots[*slot].runs();
        (0..self.slots.len()).filter(runs).collect()
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
            self.tiers[after.tier()].policy.order_mut().recount(slot, after.worth.share, after.sessions);
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
            tier.policy.order_mut().leave(slot);
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
        tier.policy.order_mut().enter(slot, after.worth.share, after.sessions);
    }
}
