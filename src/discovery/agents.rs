//! The clients of the agents: one, and so one set of connections, for all pools with equal settings.
//! What is in a CA file is read again at a reload; followers find the new client at their next question.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::consul::{Client, Settings};

use super::turns::{self, Taker, Turns};
use crate::config::{ConsulAgent, Secret};

/// A client that may be replaced.
#[derive(Clone)]
pub(super) struct Agent {
    /// A lock: touched once a question, and at reloads.
    client: Arc<Mutex<Client>>,
    turns: Arc<Turns>,
}

impl Agent {
    /// For the next question.
    pub(super) fn client(&self) -> Client {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For one more query.
    pub(super) fn join(&self) -> Taker {
        self.turns.join()
    }
}

pub(super) struct Agents {
    known: HashMap<Arc<ConsulAgent>, KnownAgent>,
    /// For an answer, beyond the wait.
    margin: Duration,
}

struct KnownAgent {
    agent: Agent,
    /// What was in its CA file, if that is used.
    authorities: Option<Vec<u8>>,
}

/// Clients that trust what the CA files say now.
#[derive(Default)]
pub struct Renewed {
    clients: Vec<(Arc<ConsulAgent>, Client, Option<Vec<u8>>)>,
}

/// Why an agent can't be asked by what is in its files now.
#[derive(Debug, thiserror::Error)]
#[error("can't use the consul agent {address} any more")]
pub struct AgentError {
    address: String,
    #[source]
    source: ::consul::Error,
}

impl Agents {
    pub(super) fn new(margin: Duration) -> Self {
        Self { known: HashMap::new(), margin }
    }

    /// The one for these settings.
    pub(super) fn of(&mut self, settings: &Arc<ConsulAgent>) -> Result<Agent, ::consul::Error> {
        if let Some(known) = self.known.get(settings) {
            return Ok(known.agent.clone());
        }
        // Also who comes with another token comes from this machine.
        let same = |known: &&Arc<ConsulAgent>| {
            known.address == settings.address && known.max_connections == settings.max_connections
        };
        let turns = match self.known.keys().find(same).and_then(|known| self.known.get(known)) {
            Some(known) => Arc::clone(&known.agent.turns),
            None => Turns::new(settings.max_connections),
        };
        let agent = Agent { client: Arc::new(Mutex::new(self.client(settings)?)), turns };
        let known = KnownAgent { agent: agent.clone(), authorities: authorities(settings) };
        self.known.insert(Arc::clone(settings), known);
        Ok(agent)
    }

    /// Forgets those that are not wanted; who still asks one keeps it.
    pub(super) fn retain(&mut self, wanted: impl Fn(&ConsulAgent) -> bool) {
        self.known.retain(|settings, _| wanted(settings));
    }

    /// New clients for those wanted whose CA file says something else than before. Changes nothing yet.
    pub(super) fn renewed(&self, wanted: impl Fn(&ConsulAgent) -> bool) -> Result<Renewed, AgentError> {
        let mut clients = Vec::new();
        for (settings, known) in self.known.iter().filter(|(settings, _)| wanted(settings)) {
            let now = authorities(settings);
            if now == known.authorities {
                continue;
            }
            let address = settings.address.clone();
            let client = self.client(settings).map_err(|source| AgentError { address, source })?;
            clients.push((Arc::clone(settings), client, now));
        }
        Ok(Renewed { clients })
    }

    /// These from now on; a question that is under way gets its answer from the old one.
    pub(super) fn renew(&mut self, renewed: Renewed) {
        for (settings, client, authorities) in renewed.clients {
            let Some(known) = self.known.get_mut(&settings) else { continue };
            if let Some(file) = &settings.ca_file {
                let (agent, file) = (&settings.address, file.display());
                tracing::info!(%agent, "{file} has changed: what it says is trusted from now on");
            }
            *known.agent.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
            known.authorities = authorities;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    fn client(&self, agent: &ConsulAgent) -> Result<Client, ::consul::Error> {
        let client = Client::new(&Settings {
            address: agent.address.clone(),
            token: agent.token.as_ref().map(|Secret(token)| token.clone()),
            token_file: agent.token_file.clone(),
            ca_file: agent.ca_file.clone(),
            most_idle: Some(turns::idle(agent.max_connections)),
        })?;
        Ok(client.with_margin(self.margin))
    }
}

/// `None` where no CA file is used, or none can be read: which of these is the client's to say.
fn authorities(agent: &ConsulAgent) -> Option<Vec<u8>> {
    let file = agent.ca_file.as_ref().filter(|_| agent.address.starts_with("https:"))?;
    std::fs::read(file).ok()
}
