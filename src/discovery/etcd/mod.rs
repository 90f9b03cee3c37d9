//! `etcd = { prefix = "…" }`: the keys below a prefix are a pool's backends. They are read as a whole, and then watched from
//! that revision on; how a member, a cluster and a lease behave is said where it is met.

mod keys;
mod query;
mod reach;
mod value;

use std::sync::Arc;

use self::query::Query;
pub(super) use self::reach::ClusterReach;
use super::Tuning;
use super::feed::Feed;
use super::news::{self, Set};
use super::outages::Outages;
use super::registries::Registry;
use super::update_sender::Closed;
use crate::config::EtcdSource;

/// Follows the keys below a prefix.
pub(super) struct Keys {
    query: Arc<Query>,
    prefix: String,
    outages: Arc<Outages>,
}

impl Keys {
    pub(super) fn new(cluster: &Arc<Registry<ClusterReach>>, source: &EtcdSource, tuning: Tuning) -> Self {
        let query = cluster.query(source.prefix.clone(), tuning);
        Self { query, prefix: source.prefix.clone(), outages: Arc::clone(&cluster.outages) }
    }

    /// What is followed. The endpoints and the user do not matter.
    pub(super) fn subject(&self) -> &str {
        &self.prefix
    }

    /// Of all pools that ask this cluster.
    pub(super) fn outages(&self) -> &Arc<Outages> {
        &self.outages
    }

    /// Until the receiver of the feed is gone.
    pub(super) async fn follow(self, feed: &mut Feed) -> Result<(), Closed> {
        let set = |set: &keys::Listed| Set {
            instances: set.instances.clone(),
            refused: set.refused.clone(),
            filtered: false,
        };
        news::follow(self.query.begin(), feed, set).await
    }
}
