//! `consul = { service = "…" }`: a pool follows a question that is asked for ever, with one blocking query at a time. Consul's
//! rules for it are in <https://developer.hashicorp.com/consul/api-docs/features/blocking>; what else agents do is said where
//! it is met.

mod filter;
mod index;
mod judge;
mod query;
mod reach;

use std::sync::Arc;

use ::consul::{Consistency, HealthQuery};

use self::query::{Answered, Query, Question};
pub(super) use self::reach::AgentReach;
use super::Tuning;
use super::feed::Feed;
use super::news::{self, Set};
use super::outages::Outages;
use super::registries::Registry;
use super::update_sender::Closed;
use crate::config::{self, ConsulSource, Warning};

/// Service, datacenter, filter.
pub(super) type Subject = (String, Option<String>, Option<String>);

/// Follows a service in Consul's catalog.
pub(super) struct Catalog {
    query: Arc<Query>,
    subject: Subject,
    warning: Warning,
    outages: Arc<Outages>,
}

impl Catalog {
    pub(super) fn new(agent: &Arc<Registry<AgentReach>>, source: &ConsulSource, tuning: Tuning) -> Self {
        let consistency = match source.consistency {
            config::Consistency::Default => Consistency::Default,
            config::Consistency::Stale => Consistency::Stale,
            config::Consistency::Consistent => Consistency::Consistent,
        };
        let query = HealthQuery {
            datacenter: source.datacenter.clone(),
            filter: filter::expression(&source.tags, source.filter.as_deref()),
            consistency,
            ..HealthQuery::default()
        };
        let subject = (source.service.clone(), query.datacenter.clone(), query.filter.clone());
        // What another datacenter knows does not need the leader of this one.
        let needs_leader = consistency != Consistency::Stale && source.datacenter.is_none();
        let (settings, service) = (Arc::clone(&source.agent), source.service.clone());
        let query = agent.query(Question { settings, service, query, needs_leader }, tuning);
        Self { query, subject, warning: source.warning, outages: Arc::clone(&agent.outages) }
    }

    /// What is asked for. The agent and the token do not matter.
    pub(super) fn subject(&self) -> Subject {
        self.subject.clone()
    }

    /// Of all pools that ask this agent.
    pub(super) fn outages(&self) -> &Arc<Outages> {
        &self.outages
    }

    /// Until the receiver of the feed is gone.
    pub(super) async fn follow(self, feed: &mut Feed) -> Result<(), Closed> {
        let set = |answer: &Answered| Set {
            instances: answer.instances(self.warning).to_vec(),
            refused: answer.refused.clone(),
            filtered: answer.filtered,
        };
        news::follow(self.query.begin(), feed, set).await
    }
}
