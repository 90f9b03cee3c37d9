//! Consistent hashing over the slots of one tier: a client gets the first slot of its order in the [`MemberTable`] that runs,
//! was not tried, and is not above its part of the load.

use std::sync::Arc;

use super::policy::PickOrder;
use super::table::{MemberTable, TableKind};
use super::{PickContext, PickRules};

#[derive(Debug)]
pub(super) struct Hashed {
    kind: TableKind,
    /// The most that a slot may have, in percent of its part of the sessions; `None` = any number.
    factor: Option<u32>,
    table: Arc<MemberTable>,
    /// By slot, those that run: weight and sessions.
    running: Vec<Option<(u32, u32)>>,
    /// Of those that run.
    weights: u64,
    sessions: u64,
}

impl Hashed {
    pub(super) fn new(kind: TableKind, factor: Option<u32>) -> Self {
        Self { kind, factor, table: Arc::default(), running: Vec::new(), weights: 0, sessions: 0 }
    }

    /// Whether one more session leaves the slot within `factor` percent of its part of all sessions.
    fn is_within(&self, slot: usize, factor: u32) -> bool {
        let Some((weight, sessions)) = self.running[slot] else { return false };
        let most = u128::from(factor) * u128::from(self.sessions + 1) * u128::from(weight);
        // Rounded up: a part below one session is one.
        u128::from(sessions) < most.div_ceil(100 * u128::from(self.weights))
    }
}

impl PickOrder for Hashed {
    fn enter(&mut self, slot: usize, weight: u32, sessions: u32) {
        self.leave(slot);
        if self.running.len() <= slot {
            self.running.resize(slot + 1, None);
        }
        self.running[slot] = Some((weight, sessions));
        self.weights += u64::from(weight);
        self.sessions += u64::from(sessions);
    }

    fn leave(&mut self, slot: usize) {
        if let Some((weight, sessions)) = self.running.get_mut(slot).and_then(Option::take) {
            self.weights -= u64::from(weight);
            self.sessions -= u64::from(sessions);
        }
    }

    /// If all others are above their part of the load, the first of them in the order.
    fn pick(&mut self, context: &PickContext<'_, usize>) -> Option<usize> {
        let may_get =
            |slot: &usize| self.running.get(*slot).is_some_and(Option::is_some) && !context.tried.contains(slot);
        let mut order = self.table.order(context.affinity.hash).filter(may_get);
        let first = order.next();
        if let Some(factor) = self.factor
            && let Some(slot) = first.into_iter().chain(order).find(|slot| self.is_within(*slot, factor))
        {
            return Some(slot);
        }
        // A member that is not yet in the table is better than none.
        first.or_else(|| (0..self.running.len()).find(may_get))
    }

    fn says(&self, _slot: usize) -> String {
        let bound = self.factor.map_or_else(String::new, |factor| format!(", up to {factor} % of its part"));
        format!("the one that a client's hash leads to{bound}")
    }

    fn recount(&mut self, slot: usize, weight: u32, sessions: u32) {
        self.enter(slot, weight, sessions);
    }

    fn wants_table(&self) -> Option<TableKind> {
        Some(self.kind)
    }

    fn set_table(&mut self, table: Arc<MemberTable>) {
        self.table = table;
    }

    fn set_rules(&mut self, rules: &PickRules) {
        self.factor = rules.hashing.factor;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Affinity;
    use super::super::table::{TableMember, hash_of};
    use super::*;

    fn of(hash: u64, tried: &[usize]) -> PickContext<'_, usize> {
        PickContext { affinity: Affinity { hash, ..Affinity::NONE }, ..PickContext::having_tried(tried) }
    }

    /// With `balance_factor` no slot gets more than that part of the mean, for any set of clients.
    #[test]
    fn the_factor_bounds_the_load() {
        let weights = [1_u32, 2, 3, 1];
        let ids: Vec<String> = (0..weights.len()).map(|slot| slot.to_string()).collect();
        let members = ids.iter().enumerate().map(|(slot, id)| TableMember {
            slot,
            id,
            position: 0,
            weight: weights[slot] as u16,
        });
        let table = Arc::new(MemberTable::build(TableKind::Ring, members.collect()));
        for factor in [100, 125, 200] {
            let mut policy = Hashed::new(TableKind::Ring, Some(factor));
            policy.set_table(Arc::clone(&table));
            let mut sessions = [0_u32; 4];
            (0..4).for_each(|slot| policy.enter(slot, weights[slot], 0));
            for total in 1..=700_u64 {
                // One client alone, which would always get the same.
                let slot = policy.pick(&of(7, &[])).unwrap();
                sessions[slot] += 1;
                policy.enter(slot, weights[slot], sessions[slot]);
                let most = (u64::from(factor) * total * u64::from(weights[slot])).div_ceil(700);
                assert!(u64::from(sessions[slot]) <= most, "{factor} %, {total}: {sessions:?}");
            }
        }
    }

    #[test]
    fn a_tried_slot_and_one_that_does_not_run_are_passed_over_and_nothing_else_changes() {
        let ids: Vec<String> = (0..8).map(|slot| slot.to_string()).collect();
        let members = || ids.iter().enumerate().map(|(slot, id)| TableMember { slot, id, position: 0, weight: 1 });
        let mut policy = Hashed::new(TableKind::Maglev, None);
        policy.set_table(Arc::new(MemberTable::build(TableKind::Maglev, members().collect())));
        (0..8).for_each(|slot| policy.enter(slot, 1, 0));
        for client in 0..200_u8 {
            let client = hash_of(&[192, 0, 2, client], 0);
            let first = policy.pick(&of(client, &[])).unwrap();
            let second = policy.pick(&of(client, &[first])).unwrap();
            assert_ne!(first, second);
            policy.leave(first);
            assert_eq!(policy.pick(&of(client, &[])), Some(second));
            policy.enter(first, 1, 5);
            assert_eq!(policy.pick(&of(client, &[])), Some(first));
            assert_eq!(policy.pick(&of(client, &[0, 1, 2, 3, 4, 5, 6, 7])), None);
        }
        // Not in the table yet.
        policy.enter(9, 1, 0);
        assert_eq!(policy.pick(&of(7, &[0, 1, 2, 3, 4, 5, 6, 7])), Some(9));
    }
}
