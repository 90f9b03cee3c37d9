//! What zones and tiers mean for the members: in which tier a backend is, and which backends the tiers before them relieve.

use std::sync::Arc;

use super::{MemberSlot, PoolState};
use crate::balance::{PICK_TIERS, pick_tier};
use crate::standing::Standing;

impl PoolState {
    /// A backend without a zone is elsewhere: what is not known to be near is not near. Without a zone of our own, all are near.
    pub(super) fn tier_of(&self, priority: u8, zone: Option<&Arc<str>>) -> u8 {
        pick_tier(priority, self.zone.is_some() && zone != self.zone.as_ref())
    }

    /// The balancer is in this zone from now on.
    pub(in crate::pool) fn set_zone(&mut self, zone: Option<Arc<str>>) {
        self.zone = zone;
        for number in 0..self.slots.len() {
            let Some(mut slot) = self.slots[number].take() else { continue };
            self.count(&slot, false);
            slot.tier = self.tier_of(slot.priority, slot.zone.as_ref());
            self.count(&slot, true);
            self.slots[number] = Some(slot);
            self.apply(number);
        }
        self.table_changes += 1;
        self.spread();
    }

    pub(in crate::pool) fn zone(&self) -> Option<Arc<str>> {
        self.zone.clone()
    }

    /// From which priority on backends are relieved by these loads.
    pub(super) fn relieved_by(&self, loads: &[u32; PICK_TIERS]) -> Option<u8> {
        let last = loads.iter().rposition(|load| *load > 0).map(|tier| (tier / 2) as u8)?;
        let grows = |slot: &MemberSlot| slot.priority <= last && slot.standing == Standing::Up && slot.grows;
        let is_settled = !self.open && !self.slots.iter().flatten().any(grows);
        is_settled.then_some(last + 1)
    }

    pub(in crate::pool) fn relieves(&self, priority: u8) -> bool {
        self.relieved_from.is_some_and(|from| priority >= from)
    }

    /// Places in the tiers that relieve others; `None` = without a limit.
    pub(in crate::pool) fn room_before_backups(&self) -> Option<u64> {
        let slots = self.slots.iter().enumerate().filter_map(|(number, slot)| Some((number, slot.as_ref()?)));
        let serves =
            |slot: &MemberSlot| slot.standing == Standing::Up && slot.share > 0 && !self.relieves(slot.priority);
        let mut room = 0;
        for (number, slot) in slots.filter(|(_, slot)| serves(slot)) {
            room += u64::from(slot.cap?.saturating_sub(self.picker.sessions(number)));
        }
        Some(room)
    }
}
