//! Consistent hashing over the slots of one tier: a client gets the first slot of its order in the [`HashTable`] that runs,
//! was not tried, and is not above its part of the load.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::table::{HashTable, hash_of};
use crate::config::{HashBy, Hashing};

#[derive(Debug)]
pub(super) struct Hashed {
    rules: Hashing,
    table: Arc<HashTable>,
    /// By slot, those that run: weight and sessions.
    running: Vec<Option<(u32, u32)>>,
    /// Of those that run.
    weights: u64,
    sessions: u64,
}

impl Hashed {
    pub(super) fn new(rules: Hashing) -> Self {
        Self { rules, table: Arc::default(), running: Vec::new(), weights: 0, sessions: 0 }
    }

    pub(super) fn set_rules(&mut self, rules: Hashing) {
        self.rules = rules;
    }

    pub(super) fn set_table(&mut self, table: Arc<HashTable>) {
        self.table = table;
    }

    /// Also when its weight or its number of sessions changes.
    pub(super) fn enter(&mut self, slot: usize, weight: u32, sessions: u32) {
        self.leave(slot);
        if self.running.len() <= slot {
            self.running.resize(slot + 1, None);
        }
        self.running[slot] = Some((weight, sessions));
        self.weights += u64::from(weight);
        self.sessions += u64::from(sessions);
    }

    pub(super) fn leave(&mut self, slot: usize) {
        if let Some((weight, sessions)) = self.running.get_mut(slot).and_then(Option::take) {
            self.weights -= u64::from(weight);
            self.sessions -= u64::from(sessions);
        }
    }

    /// A slot that is not in `tried`. If all others are above their part of the load, the first of them in the order.
    pub(super) fn pick(&self, client: SocketAddr, tried: &[usize]) -> Option<usize> {
        let may_get = |slot: &usize| self.running.get(*slot).is_some_and(Option::is_some) && !tried.contains(slot);
        let mut order = self.table.order(key(self.rules.by, client)).filter(may_get);
        let first = order.next();
        if let Some(factor) = self.rules.factor
            && let Some(slot) = first.into_iter().chain(order).find(|slot| self.is_within(*slot, factor))
        {
            return Some(slot);
        }
        // A member that is not yet in the table is better than none.
        first.or_else(|| (0..self.running.len()).find(may_get))
    }

    /// Whether one more session leaves the slot within `factor` percent of its part of all sessions.
    fn is_within(&self, slot: usize, factor: u32) -> bool {
        let Some((weight, sessions)) = self.running[slot] else { return false };
        let most = u128::from(factor) * u128::from(self.sessions + 1) * u128::from(weight);
        // Rounded up: a part below one session is one.
        u128::from(sessions) < most.div_ceil(100 * u128::from(self.weights))
    }
}

/// What the pool's `hash` makes of a client. IPv4 addresses count as such in either notation.
fn key(by: HashBy, client: SocketAddr) -> u64 {
    match by {
        HashBy::ClientAddress { v4, v6 } => hash_of_network(client.ip(), v4, v6, &[]),
        HashBy::ClientAndPort => hash_of_network(client.ip(), 32, 128, &client.port().to_be_bytes()),
    }
}

fn hash_of_network(address: IpAddr, v4: u8, v6: u8, more: &[u8]) -> u64 {
    let (bits, length, bytes) = match address.to_canonical() {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, v4, 4),
        IpAddr::V6(address) => (address.to_bits(), v6, 16),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    hash_of(&[&(bits & mask).to_be_bytes()[..bytes], more].concat(), 0)
}

#[cfg(test)]
mod tests {
    use super::super::table::{HashMember, TableKind};
    use super::*;

    const WHOLE: HashBy = HashBy::ClientAddress { v4: 32, v6: 128 };

    fn at(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 4_000)
    }

    #[test]
    fn a_client_is_its_address_its_network_or_its_connection() {
        let same = |by, a, b| key(by, a) == key(by, b);
        assert!(same(WHOLE, at("10.0.0.1"), SocketAddr::new([10, 0, 0, 1].into(), 9)));
        assert!(same(WHOLE, at("10.0.0.1"), at("::ffff:10.0.0.1")));
        assert!(!same(WHOLE, at("10.0.0.1"), at("10.0.0.2")) && !same(WHOLE, at("10.0.0.1"), at("a00:1::")));
        let networks = HashBy::ClientAddress { v4: 24, v6: 56 };
        assert!(same(networks, at("10.0.0.1"), at("10.0.0.254")) && !same(networks, at("10.0.0.1"), at("10.0.1.1")));
        assert!(same(networks, at("2001:db8:0:12::1"), at("2001:db8:0:34::2")));
        assert!(!same(networks, at("2001:db8:0:112::1"), at("2001:db8:0:234::2")));
        let all = HashBy::ClientAddress { v4: 0, v6: 0 };
        assert!(same(all, at("10.0.0.1"), at("192.0.2.1")) && same(all, at("::1"), at("2001:db8::1")));
        assert!(!same(HashBy::ClientAndPort, at("10.0.0.1"), SocketAddr::new([10, 0, 0, 1].into(), 9)));
    }

    /// With `balance_factor` no slot gets more than that part of the mean, for any set of clients.
    #[test]
    fn the_factor_bounds_the_load() {
        let weights = [1_u32, 2, 3, 1];
        let ids: Vec<String> = (0..weights.len()).map(|slot| slot.to_string()).collect();
        let members = ids.iter().enumerate().map(|(slot, id)| HashMember { slot, id, weight: weights[slot] as u16 });
        let table = Arc::new(HashTable::build(TableKind::Ring, members.collect()));
        for factor in [100, 125, 200] {
            let mut policy = Hashed::new(Hashing { by: WHOLE, factor: Some(factor) });
            policy.set_table(Arc::clone(&table));
            let mut sessions = [0_u32; 4];
            (0..4).for_each(|slot| policy.enter(slot, weights[slot], 0));
            for total in 1..=700_u64 {
                // One client alone, which would always get the same.
                let slot = policy.pick(at("10.0.0.1"), &[]).unwrap();
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
        let members = || ids.iter().enumerate().map(|(slot, id)| HashMember { slot, id, weight: 1 });
        let mut policy = Hashed::new(Hashing { by: WHOLE, factor: None });
        policy.set_table(Arc::new(HashTable::build(TableKind::Maglev, members().collect())));
        (0..8).for_each(|slot| policy.enter(slot, 1, 0));
        for client in 0..200_u8 {
            let client = SocketAddr::new([192, 0, 2, client].into(), 1);
            let first = policy.pick(client, &[]).unwrap();
            let second = policy.pick(client, &[first]).unwrap();
            assert_ne!(first, second);
            policy.leave(first);
            assert_eq!(policy.pick(client, &[]), Some(second));
            policy.enter(first, 1, 5);
            assert_eq!(policy.pick(client, &[]), Some(first));
            assert_eq!(policy.pick(client, &[0, 1, 2, 3, 4, 5, 6, 7]), None);
        }
        // Not in the table yet.
        policy.enter(9, 1, 0);
        assert_eq!(policy.pick(at("10.0.0.1"), &[0, 1, 2, 3, 4, 5, 6, 7]), Some(9));
    }
}
