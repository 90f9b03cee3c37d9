//! The agents, and what all pools share that ask one: its connections, their budget, its questions, what is known of it and
//! what the log says of it. What is in a CA file is read again at a reload; the next question is asked by the new client.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ::consul::{Client, Error, Settings};

use super::Tuning;
use super::consul::{Query, Question};
use super::outages::Outages;
use super::presence::Presence;
use super::turns::{Share, Taker, Turns};
use crate::config::{ConsulAgent, Pool, Secret, Source, file};

/// How an agent is reached. Tokens come with the questions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reached {
    address: String,
    ca_file: Option<PathBuf>,
    max_connections: usize,
}

impl Reached {
    fn of(settings: &ConsulAgent) -> Self {
        let ConsulAgent { address, ca_file, max_connections, .. } = settings.clone();
        Self { address, ca_file, max_connections }
    }

    /// The agents that these pools ask.
    pub(super) fn by(pools: &[Pool]) -> HashSet<Self> {
        let agent = |pool: &Pool| match &pool.source {
            Source::Consul(consul) => Some(Self::of(&consul.agent)),
            Source::Static(_) | Source::File(_) | Source::Dns(_) => None,
        };
        pools.iter().filter_map(agent).collect()
    }

    /// What is in its CA file. `None` where none is used, or none can be read: which of these is the client's to say.
    fn authorities(&self) -> Option<Vec<u8>> {
        let path = self.ca_file.as_ref().filter(|_| self.address.starts_with("https:"))?;
        file::small(path, file::LARGEST_CERTIFICATES).ok()
    }

    fn client(&self) -> Result<Client, Error> {
        let client = Client::new(&Settings {
            address: self.address.clone(),
            token: None,
            token_file: None,
            ca_file: self.ca_file.clone(),
        })?;
        // The deadlines are kept in this crate: see `deadline`.
        Ok(client.with_margin(std::time::Duration::MAX))
    }
}

/// One agent.
pub(super) struct Agent {
    pub(super) address: String,
    pub(super) presence: Presence,
    pub(super) outages: Arc<Outages>,
    /// A lock: touched once a question, and at reloads, when it is replaced.
    client: Arc<Mutex<Client>>,
    share: Share,
    tuning: Tuning,
    queries: Mutex<HashMap<Question, Weak<Query>>>,
}

impl Agent {
    /// For the next question, with the token of these settings.
    pub(super) fn client(&self, settings: &ConsulAgent) -> Result<Client, Error> {
        let token = settings.token.as_ref().map(|Secret(token)| token.as_str());
        self.client.lock().unwrap_or_else(PoisonError::into_inner).with_token(token, settings.token_file.clone())
    }

    /// One more query is asked from now on. Its place in the turns ends with the result.
    pub(super) fn begin(&self) -> Taker {
        self.presence.begin(&self.client, self.tuning.presence);
        self.share.turns().join()
    }

    /// The query that asks this: one that other pools follow already, or a new one.
    pub(super) fn query(self: &Arc<Self>, question: Question, tuning: Tuning) -> Arc<Query> {
        let mut queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(query) = queries.get(&question).and_then(Weak::upgrade) {
            return query;
        }
        queries.retain(|_, query| query.strong_count() > 0);
        let query = Arc::new(Query::new(self, question.clone(), tuning));
        queries.insert(question, Arc::downgrade(&query));
        query
    }
}

pub(super) struct Agents {
    known: HashMap<Reached, Listed>,
    tuning: Tuning,
}

struct Listed {
    agent: Arc<Agent>,
    /// What was in its CA file, if that is used.
    authorities: Option<Vec<u8>>,
}

/// Clients that trust what the CA files say now.
#[derive(Default)]
pub struct Renewed {
    clients: Vec<(Reached, Client, Option<Vec<u8>>)>,
    changes: Vec<String>,
}

impl Renewed {
    /// A line for each file that says something else than before: which, and what of it.
    pub fn changes(&self) -> &[String] {
        &self.changes
    }
}

/// Why an agent can't be asked by what is in its files now.
#[derive(Debug, thiserror::Error)]
#[error("can't use the consul agent {address} any more")]
pub struct AgentError {
    address: String,
    #[source]
    source: Error,
}

impl Agents {
    pub(super) fn new(tuning: Tuning) -> Self {
        Self { known: HashMap::new(), tuning }
    }

    /// The one that is reached by these settings.
    pub(super) fn of(&mut self, settings: &ConsulAgent) -> Result<Arc<Agent>, Error> {
        let reached = Reached::of(settings);
        if let Some(listed) = self.known.get(&reached) {
            return Ok(Arc::clone(&listed.agent));
        }
        // Clients with another CA file connect from the same machine, and so share the budget.
        let same =
            |known: &&Reached| known.address == reached.address && known.max_connections == reached.max_connections;
        let turns = match self.known.keys().find(same).and_then(|known| self.known.get(known)) {
            Some(listed) => Arc::clone(listed.agent.share.turns()),
            None => Turns::new(reached.max_connections),
        };
        let agent = Arc::new(Agent {
            address: reached.address.clone(),
            presence: Presence::new(),
            outages: Outages::of_source(&reached.address),
            client: Arc::new(Mutex::new(reached.client()?)),
            share: turns.share(),
            tuning: self.tuning,
            queries: Mutex::default(),
        });
        let listed = Listed { agent: Arc::clone(&agent), authorities: reached.authorities() };
        self.known.insert(reached, listed);
        Ok(agent)
    }

    /// Forgets those that are not wanted. A query that is still asked keeps its agent.
    pub(super) fn retain(&mut self, wanted: &HashSet<Reached>) {
        self.known.retain(|reached, _| wanted.contains(reached));
    }

    /// New clients for those wanted whose CA file says something else than before. Changes nothing yet.
    pub(super) fn renewed(&self, wanted: &HashSet<Reached>) -> Result<Renewed, AgentError> {
        let mut renewed = Renewed::default();
        for (reached, listed) in self.known.iter().filter(|(reached, _)| wanted.contains(reached)) {
            let now = reached.authorities();
            if now == listed.authorities {
                continue;
            }
            let address = &reached.address;
            let client = reached.client().map_err(|source| AgentError { address: address.clone(), source })?;
            if let Some(file) = &reached.ca_file {
                let what = difference(listed.authorities.as_deref(), now.as_deref());
                renewed.changes.push(format!("{}: {what}; it is trusted for {address} from now on", file.display()));
            }
            renewed.clients.push((reached.clone(), client, now));
        }
        renewed.changes.sort_unstable();
        Ok(renewed)
    }

    /// These from now on; a question that is under way gets its answer from the old one.
    pub(super) fn renew(&mut self, renewed: Renewed) {
        for (reached, client, authorities) in renewed.clients {
            let Some(listed) = self.known.get_mut(&reached) else { continue };
            *listed.agent.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
            listed.authorities = authorities;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

/// How many certificates of a PEM file are new, gone and still there.
fn difference(before: Option<&[u8]>, after: Option<&[u8]>) -> String {
    fn certificates(file: Option<&[u8]>) -> BTreeSet<String> {
        let text = String::from_utf8_lossy(file.unwrap_or_default());
        let pieces = text.split("-----BEGIN CERTIFICATE-----").skip(1);
        let body = |piece: &str| piece.split("-----END").next().unwrap_or_default().split_whitespace().collect();
        pieces.map(body).collect()
    }
    let (before, after) = (certificates(before), certificates(after));
    let (added, removed) = (after.difference(&before).count(), before.difference(&after).count());
    let kept = after.len() - added;
    match (added, removed) {
        (0, 0) => "the same certificates, written in another way".to_owned(),
        _ => format!("certificates: {added} new, {removed} gone, {kept} kept"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_ca_file_changes_is_counted() {
        let one = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let (ab, bc) = (one("aa\nbb") + &one("cc"), one("cc") + &one("dd") + &one("ee"));
        let change = |before: &str, after: &str| difference(Some(before.as_bytes()), Some(after.as_bytes()));
        assert_eq!(change(&ab, &bc), "certificates: 2 new, 1 gone, 1 kept");
        assert_eq!(
            change(&ab, &(one("cc") + "# by hand\n" + &one("aabb"))),
            "the same certificates, written in another way"
        );
        assert_eq!(difference(None, Some(ab.as_bytes())), "certificates: 2 new, 0 gone, 0 kept");
    }
}
