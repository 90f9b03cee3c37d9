//! Asks a Consul agent for the zone of its node, which is this balancer's. An agent that does not answer, or refuses, changes
//! nothing: until it has answered there is no zone, and then its last answer holds.

use std::sync::Arc;
use std::time::Duration;

use ::consul::{AgentSelf, Error};
use tokio::time::sleep;
use tracing::{info, warn};

use super::Discovery;
use super::consul::AgentReach;
use super::outside::{bounded, zone};
use super::pace::Backoff;
use super::registries::Registry;
use crate::config::{ConsulAgent, Secret};
use crate::deadline::within;

/// For an answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Between two questions. The metadata of a node changes with a restart of its agent.
const INTERVAL: Duration = Duration::from_secs(60);

/// Why the agent can't be asked.
#[derive(Debug, thiserror::Error)]
#[error("can't ask the consul agent {address} for the zone of this balancer")]
pub struct ZoneError {
    address: String,
    #[source]
    source: Error,
}

/// What asks, once it is run.
pub struct ZoneFollower {
    agent: Arc<Registry<AgentReach>>,
    settings: Arc<ConsulAgent>,
    key: String,
    retry_first: Duration,
}

impl Discovery {
    /// What asks `agent` for the value of `key` in its node's metadata.
    ///
    /// # Errors
    /// Settings that can never work, such as a CA file that can't be read.
    pub fn zone(&mut self, key: &str, agent: &Arc<ConsulAgent>) -> Result<ZoneFollower, ZoneError> {
        let of = self
            .agents
            .of(AgentReach::of(agent))
            .map_err(|source| ZoneError { address: agent.address.clone(), source })?;
        let (settings, retry_first) = (Arc::clone(agent), self.tuning.retry_first);
        Ok(ZoneFollower { agent: of, settings, key: key.to_owned(), retry_first })
    }
}

impl ZoneFollower {
    /// Calls `found` with each answer. It never returns.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn run(self, mut found: impl FnMut(Option<Arc<str>>)) {
        let mut backoff = Backoff::new(self.retry_first, INTERVAL);
        let mut random = fastrand::Rng::new();
        // One line for each thing that is wrong, however long it is.
        let mut said = String::new();
        loop {
            let mut pause = INTERVAL;
            let trouble = match self.ask().await.map(|answer| self.judge(&answer)) {
                Ok((zone, trouble)) => {
                    backoff.reset();
                    found(zone);
                    trouble
                }
                Err(error) => {
                    pause = backoff.next(&mut random).max(self.retry_first);
                    let refused = error.status() == Some(403);
                    let why = if refused { "its token may not read the agent".to_owned() } else { error.to_string() };
                    Some(bounded(&why))
                }
            };
            let trouble = trouble.unwrap_or_default();
            if trouble != said {
                let agent = &self.agent.address;
                if trouble.is_empty() {
                    info!(agent, "the agent says the zone of this balancer again");
                } else {
                    warn!(agent, "the agent does not say the zone of this balancer: {trouble}");
                }
                said = trouble;
            }
            sleep(pause).await;
        }
    }

    async fn ask(&self) -> Result<AgentSelf, Error> {
        let token = self.settings.token.as_ref().map(|Secret(token)| token.as_str());
        let client = self.agent.client().with_token(token, self.settings.token_file.clone())?;
        within(LIMIT, client.agent_self()).await.unwrap_or(Err(Error::Timeout { after: LIMIT }))
    }

    /// The zone, and what is wrong with it.
    fn judge(&self, answer: &AgentSelf) -> (Option<Arc<str>>, Option<String>) {
        let Some(name) = answer.meta.get(&self.key) else {
            return (None, Some(format!("its node_meta has no `{}`", bounded(&self.key))));
        };
        match zone(name) {
            Ok(zone) => (Some(zone), None),
            Err(why) => (None, Some(format!("`{}` of its node_meta: {why}", bounded(&self.key)))),
        }
    }
}
