//! The tables of a policy that hashes: taken from the pool's members under its lock, built outside of it, which may take
//! milliseconds, and put back. Called by the keeper after a change, and by `server` when the policy is another one.

use std::sync::Arc;

use super::{Backend, Pool};
use crate::balance::{HashMember, HashTable, PICK_TIERS, TableKind};

/// Members as they are now.
pub(super) struct TableMembers {
    /// The construction, and the number of the last change of members, weights or tiers.
    pub(super) version: (TableKind, u64),
    /// With weight and tier.
    pub(super) members: Vec<(Arc<Backend>, u16, usize)>,
}

impl Pool {
    /// Builds the tables, if their policy or their members are other ones than when they were built.
    pub fn rebuild_tables(&self) {
        let wanted = self.inner().wanted_tables();
        if let Some(wanted) = wanted {
            let tables = wanted.build();
            self.inner().picker.set_tables(wanted.version, tables);
        }
    }
}

impl TableMembers {
    fn build(&self) -> [Arc<HashTable>; PICK_TIERS] {
        std::array::from_fn(|tier| {
            let of_tier = self.members.iter().filter(|(_, _, its)| *its == tier);
            let members =
                of_tier.map(|(backend, weight, _)| HashMember { slot: backend.slot, id: &backend.id, weight: *weight });
            Arc::new(HashTable::build(self.version.0, members.collect()))
        })
    }
}
