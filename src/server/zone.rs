//! The zone of this balancer: written, or what a Consul agent says of its node; every pool goes by it.

use std::sync::{Arc, Weak};

use tokio::task::AbortHandle;
use tracing::info;

use super::ServerState;
use super::apply::Running;
use crate::config::OwnZone;
use crate::discovery::ZoneFollower;

/// What is followed now.
#[derive(Debug)]
pub(super) struct FollowedZone {
    written: OwnZone,
    /// What asks the agent, if one is asked.
    task: Option<AbortHandle>,
}

impl Default for FollowedZone {
    fn default() -> Self {
        Self { written: OwnZone::None, task: None }
    }
}

impl FollowedZone {
    pub(super) fn is(&self, zone: &OwnZone) -> bool {
        self.written == *zone
    }
}

impl Drop for FollowedZone {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl ServerState {
    /// The zone of this balancer, as far as it is known.
    pub fn zone(&self) -> Option<Arc<str>> {
        self.zone.load().as_deref().map(Arc::clone)
    }

    /// From now on the zone is what this says. `follower` asks the agent, if one is to be asked.
    pub(super) fn follow_zone(self: &Arc<Self>, running: &mut Running, zone: &OwnZone, follower: Option<ZoneFollower>) {
        if running.zone.is(zone) {
            return;
        }
        let task = follower.map(|follower| {
            let state: Weak<Self> = Arc::downgrade(self);
            let found = move |zone| {
                if let Some(state) = state.upgrade() {
                    // A lock: no configuration is applied meanwhile, so that no new pool misses it.
                    let _running = state.running();
                    state.set_zone(zone);
                }
            };
            tokio::spawn(follower.run(found)).abort_handle()
        });
        running.zone = FollowedZone { written: zone.clone(), task };
        // Another key or agent may say another zone; until it does, there is none.
        let OwnZone::Named(named) = zone else { return self.set_zone(None) };
        self.set_zone(Some(Arc::clone(named)));
    }

    fn set_zone(&self, zone: Option<Arc<str>>) {
        if self.zone() != zone {
            match &zone {
                Some(zone) => info!(%zone, "this balancer is in a zone: backends there come first"),
                None => info!("this balancer is in no zone"),
            }
        }
        self.zone.store(zone.clone().map(Arc::new));
        for pool in &self.set().pools {
            pool.set_zone(zone.as_ref());
        }
    }
}
