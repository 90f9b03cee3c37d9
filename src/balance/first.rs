//! First: fills the backends in their order, each up to its cap, so that the last ones can be switched off. The order is that of
//! the written list; backends of a registry are in the order of their ids.

use std::sync::Arc;

use super::PickContext;
use super::heap::Heap;
use super::policy::PickOrder;
use super::table::{MemberTable, TableKind};

/// The place of a member that is not yet in the table: after all others.
const LAST: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct First {
    running: Heap<(u32, usize)>,
    /// By slot.
    places: Vec<u32>,
}

impl First {
    pub(super) fn new() -> Self {
        Self { running: Heap::new(), places: Vec::new() }
    }

    fn place(&self, slot: usize) -> u32 {
        self.places.get(slot).copied().unwrap_or(LAST)
    }
}

impl PickOrder for First {
    fn enter(&mut self, slot: usize, _weight: u32, _sessions: u32) {
        self.running.put(slot, (self.place(slot), slot));
    }

    fn leave(&mut self, slot: usize) {
        self.running.remove(slot);
    }

    fn pick(&mut self, context: &PickContext<'_, usize>) -> Option<usize> {
        Some(self.running.least_except(context.tried)?.1)
    }

    fn says(&self, slot: usize) -> String {
        match self.place(slot) {
            LAST => "the first in order with room; its place is not known yet".to_owned(),
            place => format!("the first in order with room; it is number {}", u64::from(place) + 1),
        }
    }

    fn forget(&mut self, slot: usize) {
        if let Some(place) = self.places.get_mut(slot) {
            *place = LAST;
        }
    }

    fn wants_table(&self) -> Option<TableKind> {
        Some(TableKind::List)
    }

    fn set_table(&mut self, table: Arc<MemberTable>) {
        self.places.fill(LAST);
        for (place, slot) in table.order(0).enumerate() {
            if self.places.len() <= slot {
                self.places.resize(slot + 1, LAST);
            }
            self.places[slot] = place as u32;
        }
        for slot in self.running.slots() {
            self.running.put(slot, (self.place(slot), slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::TableMember;
    use super::*;

    fn table(order: &[usize]) -> Arc<MemberTable> {
        let ids: Vec<String> = order.iter().map(usize::to_string).collect();
        let member = |(place, (slot, id)): (usize, (&usize, &'static str))| TableMember {
            slot: *slot,
            id,
            position: place as u32,
            weight: 1,
        };
        let ids = ids.into_iter().map(|id| &*id.leak());
        Arc::new(MemberTable::build(TableKind::List, order.iter().zip(ids).enumerate().map(member).collect()))
    }

    #[test]
    fn the_first_in_order_that_runs_and_was_not_tried() {
        let mut policy = First::new();
        (0..4).for_each(|slot| policy.enter(slot, 1, 0));
        policy.set_table(table(&[2, 0, 3, 1]));
        let mut pick = |tried: &[usize]| policy.pick(&PickContext::having_tried(tried));
        assert_eq!([pick(&[]), pick(&[2]), pick(&[2, 0]), pick(&[0, 1, 2, 3])], [Some(2), Some(0), Some(3), None]);
        policy.leave(2);
        assert_eq!(policy.pick(&PickContext::FIRST), Some(0));
        policy.enter(2, 1, 7);
        assert_eq!(policy.pick(&PickContext::FIRST), Some(2), "it has room again");
        policy.set_table(table(&[1, 2]));
        assert_eq!(policy.pick(&PickContext::FIRST), Some(1), "the list is another one");
        assert_eq!(policy.pick(&PickContext::having_tried(&[1, 2])), Some(0), "not in the table yet: after the others");
    }
}
