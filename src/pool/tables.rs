//! The tables of the policies that need some: taken from the pool's members under its lock, built outside of it, which may take
//! milliseconds, and put back. Called by the keeper after a change, and by `server` when the policy is another one.

use std::sync::Arc;

use super::{Backend, Pool};
use crate::balance::{MemberTable, PICK_TIERS, TableKind, TableMember};

/// Members as they are now.
pub(super) struct TableMembers {
    /// The construction, and the number of the last change of members, weights, tiers or places.
    pub(super) version: (TableKind, u64),
    pub(super) members: Vec<(Arc<Backend>, InTable)>,
}

/// What a member is in the tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct InTable {
    pub(super) weight: u16,
    pub(super) position: u32,
    pub(super) tier: usize,
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
    fn build(&self) -> [Arc<MemberTable>; PICK_TIERS] {
        std::array::from_fn(|tier| {
            let of_tier = self.members.iter().filter(|(_, its)| its.tier == tier);
            let members = of_tier.map(|(backend, InTable { weight, position, .. })| TableMember {
                slot: backend.slot,
                id: &backend.id,
                position: *position,
                weight: *weight,
            });
            Arc::new(MemberTable::build(self.version.0, members.collect()))
        })
    }
}
