//! `consul = { service = "…" }`: a pool follows a question that is asked for ever, with one blocking query at a time. Consul's
//! rules for it are in <https://developer.hashicorp.com/consul/api-docs/features/blocking>; what else agents do is said where
//! it is met.

mod filter;
mod index;
mod judge;
mod query;

use std::sync::Arc;

use ::consul::{Consistency, HealthQuery};

pub(super) use self::query::{Query, Question};
use super::Tuning;
use super::agents::Agent;
use super::feed::{Feed, Heard};
use super::outages::Outages;
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
    pub(super) fn new(agent: &Arc<Agent>, source: &ConsulSource, tuning: Tuning) -> Self {
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
        let mut news = self.query.begin();
        let now = news.borrow().clone();
        // Of what other pools met before, only what is wrong now matters here.
        let (mut answers, mut restarts) = (0, now.restarts);
        let mut failures = now.failures - u64::from(now.is_failing);
        loop {
            let now = news.borrow_and_update().clone();
            let failure = now.failure.filter(|_| now.failures != failures);
            let answer = now.answer.filter(|_| now.answers != answers);
            let restarted = now.restarts != restarts;
            (answers, restarts, failures) = (now.answers, now.restarts, now.failures);
            let (over, lasts) = if now.is_failing { (None, failure) } else { (failure, None) };
            if let Some(failure) = over {
                feed.failed(failure).await?;
            }
            if let Some(answer) = answer {
                let heard = Heard::Answer { restarted, filtered: answer.filtered };
                let instances = answer.instances(self.warning).to_vec();
                feed.put(instances, answer.refused.clone(), heard).await?;
            }
            if let Some(failure) = lasts {
                feed.failed(failure).await?;
            }
            if feed.until(news.changed()).await?.is_err() {
                return Ok(());
            }
        }
    }
}
