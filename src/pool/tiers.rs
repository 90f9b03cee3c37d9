//! Where a pool's new sessions go, by priority and zone. Read by the admin side; `server` sets the own zone.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Backend, Pool};
use crate::balance::{LoadedBackend, PICK_TIERS};
use crate::config::TIERS;

/// Percent of the new sessions that the backends of a priority get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierLoad {
    /// Those in the balancer's own zone; all of them if it has none.
    pub near: u32,
    /// The others.
    pub elsewhere: u32,
}

impl TierLoad {
    /// Of both.
    pub fn percent(self) -> u32 {
        self.near + self.elsewhere
    }
}

/// How many members of a pool are in a zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneCounts {
    /// Not removed.
    pub backends: usize,
    /// Up, with a share.
    pub up: usize,
    /// Of these, under their cap.
    pub eligible: usize,
    /// Sessions on them, and on those that are removed.
    pub sessions: u32,
}

impl Pool {
    /// The part of the new sessions that each priority gets.
    pub fn tier_loads(&self) -> [TierLoad; TIERS] {
        let loads = self.pick_loads();
        std::array::from_fn(|priority| TierLoad { near: loads[2 * priority], elsewhere: loads[2 * priority + 1] })
    }

    /// The same by the tiers of the picker.
    pub fn pick_loads(&self) -> [u32; PICK_TIERS] {
        self.inner().picker.loads()
    }

    /// The backends that are up and have a share, with what is known of their sessions.
    pub fn loaded(&self) -> Vec<(Arc<Backend>, LoadedBackend)> {
        self.inner().loaded()
    }

    /// Whether all new sessions go to tiers before this backend's, and nothing there is in its slow start.
    pub fn is_relieved(&self, backend: &Backend) -> bool {
        self.inner().relieves(backend.view().priority)
    }

    /// How many sessions the tiers before such backends can take; `None` = any number.
    pub fn room_before_backups(&self) -> Option<u64> {
        self.inner().room_before_backups()
    }

    /// The zone of this balancer, as far as the pool goes by it.
    pub fn zone(&self) -> Option<Arc<str>> {
        self.inner().zone()
    }

    /// For `server`: the balancer is in this zone from now on. The same again changes nothing.
    pub fn set_zone(&self, zone: Option<&Arc<str>>) {
        if self.inner().zone().as_ref() == zone {
            return;
        }
        self.alter(|inner| inner.set_zone(zone.cloned()));
        self.rebuild_tables();
        // Which tiers are in use may be another thing now.
        self.standings.send_replace(());
    }

    /// Whether a backend is in another zone than this balancer, or in none although this balancer has one.
    pub fn is_elsewhere(&self, backend: &Backend) -> bool {
        self.zone().is_some_and(|own| backend.view().zone.as_ref() != Some(&own))
    }

    /// By zone, the one of those without a zone being empty; nothing if no member has a zone.
    pub fn zones(&self) -> BTreeMap<Arc<str>, ZoneCounts> {
        let members = self.members();
        let mut zones: BTreeMap<Arc<str>, ZoneCounts> = BTreeMap::new();
        if members.iter().all(|backend| backend.view().zone.is_none()) {
            return zones;
        }
        for backend in members.iter() {
            let (view, sessions) = (backend.view(), self.sessions_of(backend));
            let counts = zones.entry(view.zone.clone().unwrap_or_default()).or_default();
            let up = backend.wants_sessions();
            counts.backends += usize::from(view.standing != crate::standing::Standing::Removed);
            counts.up += usize::from(up);
            counts.eligible += usize::from(up && view.max_sessions.is_none_or(|cap| sessions < cap));
            counts.sessions += sessions;
        }
        zones
    }
}
