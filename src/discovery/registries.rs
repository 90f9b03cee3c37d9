//! The registries, and what all pools share that ask one: its connections, their budget, its questions, what is known of it
//! and what the log says of it. What is in a file that a client reads once, such as the authorities, is read again at a
//! reload; the next question is asked by the new client.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::Tuning;
use super::outages::Outages;
use super::presence::{Presence, Sign};
use super::turns::{Share, Taker, Turns};
use crate::config::file;

/// How a registry of one kind is reached. Two that are equal are one, with one client.
pub(super) trait Reach: Clone + Eq + Hash + Send + Sync + 'static {
    /// What messages call it, such as `consul agent`.
    const KIND: &'static str;
    type Client: Clone + Send + 'static;
    type Error: Error + Send + Sync + 'static;
    /// What is asked. Equal questions are asked once.
    type Question: Clone + Eq + Hash + Send + 'static;
    /// What asks it.
    type Query: Send + Sync + 'static;

    /// What it is called, and what those have in common that share a budget.
    fn address(&self) -> String;

    /// The most at once.
    fn max_connections(&self) -> usize;

    /// Those that a client reads once.
    fn files(&self) -> Vec<&Path>;

    fn client(&self) -> Result<Self::Client, Self::Error>;

    /// Whether it is there; it takes no longer than that.
    fn look(client: Self::Client, limit: Duration) -> impl Future<Output = Sign> + Send + 'static;

    fn query(registry: &Arc<Registry<Self>>, question: Self::Question, tuning: Tuning) -> Self::Query;
}

/// One registry: a Consul agent, or an etcd cluster.
pub(super) struct Registry<R: Reach> {
    pub(super) address: String,
    pub(super) presence: Presence,
    pub(super) outages: Arc<Outages>,
    /// A lock: touched once a question, and at reloads, when it is replaced.
    client: Arc<Mutex<R::Client>>,
    share: Share,
    tuning: Tuning,
    queries: Mutex<HashMap<R::Question, Weak<R::Query>>>,
}

impl<R: Reach> Registry<R> {
    /// For the next question.
    pub(super) fn client(&self) -> R::Client {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One more query is asked from now on. Its place in the turns ends with the result.
    pub(super) fn begin(&self) -> Taker {
        let client = Arc::clone(&self.client);
        let look = move |limit| R::look(client.lock().unwrap_or_else(PoisonError::into_inner).clone(), limit);
        self.presence.begin(look, self.tuning.presence);
        self.share.turns().join()
    }

    /// The query that asks this: one that other pools follow already, or a new one.
    pub(super) fn query(self: &Arc<Self>, question: R::Question, tuning: Tuning) -> Arc<R::Query> {
        let mut queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(query) = queries.get(&question).and_then(Weak::upgrade) {
            return query;
        }
        queries.retain(|_, query| query.strong_count() > 0);
        let query = Arc::new(R::query(self, question.clone(), tuning));
        queries.insert(question, Arc::downgrade(&query));
        query
    }
}

/// All of one kind.
pub(super) struct Registries<R: Reach> {
    known: HashMap<R, Listed<R>>,
    tuning: Tuning,
}

struct Listed<R: Reach> {
    registry: Arc<Registry<R>>,
    contents: Contents,
}

/// What is in the files of a client; `None` = it can't be read, which is the client's to say.
type Contents = Vec<(PathBuf, Option<Vec<u8>>)>;

/// Clients that go by what the files say now.
pub(super) struct RenewedClients<R: Reach> {
    clients: Vec<(R, R::Client, Contents)>,
    /// A line for each file that says something else than before: which, and what of it.
    pub(super) changes: Vec<String>,
}

/// Why a registry can't be asked by what is in its files now.
#[derive(Debug, thiserror::Error)]
#[error("can't use the {kind} {address} any more")]
pub struct RegistryError {
    kind: &'static str,
    address: String,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

impl<R: Reach> Registries<R> {
    pub(super) fn new(tuning: Tuning) -> Self {
        Self { known: HashMap::new(), tuning }
    }

    /// The one that is reached so.
    pub(super) fn of(&mut self, reached: R) -> Result<Arc<Registry<R>>, R::Error> {
        if let Some(listed) = self.known.get(&reached) {
            return Ok(Arc::clone(&listed.registry));
        }
        // Clients with other files connect from the same machine, and so share the budget.
        let (address, connections) = (reached.address(), reached.max_connections());
        let same = |known: &&R| known.address() == address && known.max_connections() == connections;
        let turns = match self.known.keys().find(same).and_then(|known| self.known.get(known)) {
            Some(listed) => Arc::clone(listed.registry.share.turns()),
            None => Turns::new(connections),
        };
        let registry = Arc::new(Registry {
            presence: Presence::new(),
            outages: Outages::of_source(&address),
            address,
            client: Arc::new(Mutex::new(reached.client()?)),
            share: turns.share(),
            tuning: self.tuning,
            queries: Mutex::default(),
        });
        let listed = Listed { registry: Arc::clone(&registry), contents: contents(&reached) };
        self.known.insert(reached, listed);
        Ok(registry)
    }

    /// Forgets those that are not wanted. A query that is still asked keeps its registry.
    pub(super) fn retain(&mut self, wanted: &HashSet<R>) {
        self.known.retain(|reached, _| wanted.contains(reached));
    }

    /// New clients for those wanted whose files say something else than before. Changes nothing yet.
    pub(super) fn renewed(&self, wanted: &HashSet<R>) -> Result<RenewedClients<R>, RegistryError> {
        let mut renewed = RenewedClients::default();
        for (reached, listed) in self.known.iter().filter(|(reached, _)| wanted.contains(reached)) {
            let now = contents(reached);
            if now == listed.contents {
                continue;
            }
            let address = reached.address();
            let client = reached.client().map_err(|source| RegistryError {
                kind: R::KIND,
                address: address.clone(),
                source: source.into(),
            })?;
            for ((path, before), (_, after)) in listed.contents.iter().zip(&now).filter(|(a, b)| a != b) {
                let what = difference(before.as_deref(), after.as_deref());
                renewed.changes.push(format!("{}: {what}; it is used for {address} from now on", path.display()));
            }
            renewed.clients.push((reached.clone(), client, now));
        }
        renewed.changes.sort_unstable();
        Ok(renewed)
    }

    /// These from now on; a question that is under way gets its answer from the old one.
    pub(super) fn renew(&mut self, renewed: RenewedClients<R>) {
        for (reached, client, contents) in renewed.clients {
            let Some(listed) = self.known.get_mut(&reached) else { continue };
            *listed.registry.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
            listed.contents = contents;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

impl<R: Reach> Default for RenewedClients<R> {
    fn default() -> Self {
        Self { clients: Vec::new(), changes: Vec::new() }
    }
}

impl<R: Reach> fmt::Debug for RenewedClients<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenewedClients").field("changes", &self.changes).finish_non_exhaustive()
    }
}

fn contents<R: Reach>(reached: &R) -> Contents {
    let read = |path: &Path| (path.to_owned(), file::small(path, file::LARGEST_CERTIFICATES).ok());
    reached.files().into_iter().map(read).collect()
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
        _ if kept + added + removed == 0 => "another key".to_owned(),
        (0, 0) => "the same certificates, written in another way".to_owned(),
        _ => format!("certificates: {added} new, {removed} gone, {kept} kept"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_changes_is_counted() {
        let one = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let (ab, bc) = (one("aa\nbb") + &one("cc"), one("cc") + &one("dd") + &one("ee"));
        let change = |before: &str, after: &str| difference(Some(before.as_bytes()), Some(after.as_bytes()));
        assert_eq!(change(&ab, &bc), "certificates: 2 new, 1 gone, 1 kept");
        assert_eq!(
            change(&ab, &(one("cc") + "# by hand\n" + &one("aabb"))),
            "the same certificates, written in another way"
        );
        assert_eq!(difference(None, Some(ab.as_bytes())), "certificates: 2 new, 0 gone, 0 kept");
        assert_eq!(change("-----BEGIN PRIVATE KEY-----", "-----BEGIN EC PRIVATE KEY-----"), "another key");
    }
}
