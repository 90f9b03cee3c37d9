//! Follows a pool's source and sends whole sets of endpoints; an error is never a set.
//! `server` starts one task per pool here and hands the sets to that pool's keeper; nothing else calls in.
//! One file per source, and what they share: names to addresses, pace, the way out, the state of the source.

mod consul;
mod dns;
mod document;
mod error;
mod etcd;
mod feed;
mod files;
mod fixed;
mod http;
mod instance;
mod names;
mod news;
mod outages;
mod outside;
mod own;
mod own_zone;
mod pace;
mod presence;
mod registries;
mod report;
mod resolver;
mod turns;
mod update_sender;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::{DnsRecords, DnsSource, OwnZone, Pool, Resolve, Source, StaticBackend};
use crate::endpoint::Update;
use crate::pool::SourceStatus;

use self::consul::{AgentReach, Catalog};
use self::dns::NameAnswers;
use self::etcd::{ClusterReach, Keys};
use self::feed::Feed;
use self::files::{FileSources, WatchedFiles};
use self::http::{HTTP_ERRORS, WebDocument};
use self::names::Names;
use self::outages::Outages;
pub use self::own::{Locals, OwnAddress, OwnAddresses};
pub use self::own_zone::{ZoneError, ZoneFollower};
use self::presence::PresenceTimes;
pub use self::registries::RegistryError;
use self::registries::{Reach as _, Registries, RenewedClients};
use self::report::SourceReport;
use self::resolver::Resolver;
use self::update_sender::UpdateSender;

/// Kinds of errors of a list that is written: only look-ups fail.
const WRITTEN_ERRORS: &[&str] = &["resolve"];

/// Kinds of errors with Consul.
const CONSUL_ERRORS: &[&str] = &kinds::<{ ::consul::Error::KINDS.len() + 2 }>(&::consul::Error::KINDS);

/// Kinds of errors with etcd.
const ETCD_ERRORS: &[&str] = &kinds::<{ ::etcd::Error::KINDS.len() + 2 }>(&::etcd::Error::KINDS);

/// With a registry: those of its client, an answer without a usable instance, and look-ups.
const fn kinds<const N: usize>(of_client: &[&'static str]) -> [&'static str; N] {
    let mut all = ["invalid"; N];
    all[0] = "resolve";
    let mut next = 0;
    while next < of_client.len() {
        all[next + 1] = of_client[next];
        next += 1;
    }
    all
}

/// Kinds of errors with a file, and look-ups.
const FILE_ERRORS: &[&str] = &["resolve", "missing", "unreadable", "invalid", "hung"];

/// Kinds of errors with DNS.
const DNS_ERRORS: &[&str] =
    &["resolve", "no_such_name", "empty", "timeout", "connect", "server_failure", "invalid", "no_resolver"];

/// The times of questions to a registry. Tests use shorter ones.
#[derive(Clone, Copy, Debug)]
struct Tuning {
    /// Asked of the agent.
    wait: Duration,
    /// For an answer, beyond the wait.
    margin: Duration,
    /// After the first error in a row.
    retry_first: Duration,
    /// After many.
    retry_last: Duration,
    /// Queries at once whose answers bring nothing new, however fast the agent answers. News are asked for without delay.
    burst: u32,
    /// Between queries after that.
    interval: Duration,
    presence: PresenceTimes,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(300),
            margin: Duration::from_secs(10),
            retry_first: Duration::from_millis(250),
            retry_last: Duration::from_secs(10),
            burst: 10,
            interval: Duration::from_secs(1),
            presence: PresenceTimes::default(),
        }
    }
}

/// Makes followers that share what can be shared: the connections to an agent, equal questions to it, and the bound on
/// look-ups at once.
pub struct Discovery {
    agents: Registries<AgentReach>,
    clusters: Registries<ClusterReach>,
    files: FileSources,
    /// Of the servers of names, by their addresses.
    unanswered: HashMap<Vec<SocketAddr>, Weak<Outages>>,
    resolver: Resolver,
    /// Of the resolver.
    unresolved: Arc<Outages>,
    fronts: OwnAddresses,
    tuning: Tuning,
}

impl Discovery {
    /// With the system's resolver; an instance at one of `fronts` is rejected. Connects to nothing.
    pub fn new(fronts: OwnAddresses) -> Self {
        Self::with(Resolver::system(), fronts, Tuning::default())
    }

    fn with(resolver: Resolver, fronts: OwnAddresses, tuning: Tuning) -> Self {
        let (agents, clusters) = (Registries::new(tuning), Registries::new(tuning));
        let (files, unanswered, unresolved) = (FileSources::default(), HashMap::new(), Outages::of_resolver());
        Self { agents, clusters, files, unanswered, resolver, unresolved, fronts, tuning }
    }

    /// What follows `source` for `pool`, once it is run, and looks up names as `resolve` says.
    ///
    /// # Errors
    /// Settings that can never work, such as a CA file that can't be read. An agent that is not there is no error.
    pub fn source(&mut self, pool: &str, source: &Source, resolve: Resolve) -> Result<Follower, SourceError> {
        let followed = match source {
            Source::Static(backends) => Followed::Static(backends.clone()),
            Source::Consul(source) => {
                let agent = self.agents.of(AgentReach::of(&source.agent));
                let agent = agent.map_err(|error| SourceError::registry(pool, AgentReach::KIND, error))?;
                Followed::Consul(Box::new(Catalog::new(&agent, source, self.tuning)))
            }
            Source::Etcd(source) => {
                let cluster = self.clusters.of(ClusterReach::of(&source.cluster, self.tuning));
                let cluster = cluster.map_err(|error| SourceError::registry(pool, ClusterReach::KIND, error))?;
                Followed::Etcd(Keys::new(&cluster, source, self.tuning))
            }
            Source::File(source) => {
                let refused = |source| SourceError::Watch { pool: pool.to_owned(), source };
                Followed::File(self.files.of(&source.path).map_err(refused)?)
            }
            Source::Http(source) => {
                let document = WebDocument::new(source, self.tuning);
                let document = document.map_err(|error| SourceError::registry(pool, "URL of its backends", error))?;
                Followed::Http(Box::new(document))
            }
            Source::Dns(source) => {
                let answers = NameAnswers::new(source, self.tuning);
                Followed::Dns(Box::new(answers), self.unanswered(source))
            }
        };
        let (resolver, unresolved, fronts) = (self.resolver.clone(), Arc::clone(&self.unresolved), self.fronts.clone());
        Ok(Follower { pool: pool.into(), source: source.kind(), resolver, unresolved, fronts, resolve, followed })
    }

    /// Those of the pools that ask the same servers of names.
    fn unanswered(&mut self, source: &DnsSource) -> Arc<Outages> {
        self.unanswered.retain(|_, outages| outages.strong_count() > 0);
        if let Some(known) = self.unanswered.get(&source.resolvers).and_then(Weak::upgrade) {
            return known;
        }
        let names: Vec<_> = source.resolvers.iter().map(ToString::to_string).collect();
        let outages = Outages::of_source(&if names.is_empty() { "DNS".to_owned() } else { names.join(", ") });
        self.unanswered.insert(source.resolvers.clone(), Arc::downgrade(&outages));
        outages
    }

    /// Forgets the registries that neither one of these pools nor the zone of the balancer asks. A follower
    /// that still runs keeps its own.
    pub fn retain(&mut self, pools: &[Pool], zone: &OwnZone) {
        self.agents.retain(&AgentReach::by(pools, zone));
        self.clusters.retain(&ClusterReach::by(pools, self.tuning));
    }

    /// What differs for these pools and this zone because the files that they name say something else than before. Changes nothing yet.
    ///
    /// # Errors
    /// A file of certificates that can't be read, or is none.
    pub fn renewed(&self, pools: &[Pool], zone: &OwnZone) -> Result<Renewed, RegistryError> {
        let agents = self.agents.renewed(&AgentReach::by(pools, zone))?;
        Ok(Renewed { agents, clusters: self.clusters.renewed(&ClusterReach::by(pools, self.tuning))? })
    }

    /// Goes by these from now on.
    pub fn renew(&mut self, renewed: Renewed) {
        self.agents.renew(renewed.agents);
        self.clusters.renew(renewed.clusters);
    }
}

/// Clients that go by what the files say now.
#[derive(Debug, Default)]
pub struct Renewed {
    agents: RenewedClients<AgentReach>,
    clusters: RenewedClients<ClusterReach>,
}

impl Renewed {
    /// A line for each file that says something else than before: which, and what of it.
    pub fn changes(&self) -> Vec<String> {
        [&self.agents.changes[..], &self.clusters.changes[..]].concat()
    }
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").finish_non_exhaustive()
    }
}

/// Why a source can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The settings of its registry can't work.
    #[error("pool {pool}: can't use the {kind}")]
    Registry {
        /// The pool's name.
        pool: String,
        /// What kind of registry it is.
        kind: &'static str,
        /// What about the settings.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system gives no descriptor or no thread to watch its file.
    #[error("pool {pool}: can't watch its file")]
    Watch {
        /// The pool's name.
        pool: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl SourceError {
    fn registry(pool: &str, kind: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Registry { pool: pool.to_owned(), kind, source: error.into() }
    }
}

/// Follows one pool's source.
pub struct Follower {
    pool: Arc<str>,
    source: &'static str,
    resolver: Resolver,
    unresolved: Arc<Outages>,
    fronts: OwnAddresses,
    resolve: Resolve,
    followed: Followed,
}

enum Followed {
    Static(Vec<StaticBackend>),
    Consul(Box<Catalog>),
    File(Arc<WatchedFiles>),
    Etcd(Keys),
    Dns(Box<NameAnswers>, Arc<Outages>),
    Http(Box<WebDocument>),
}

/// What is followed of what: another one says other things, and not the same in another way.
#[derive(PartialEq, Eq)]
enum Subject {
    Consul(consul::Subject),
    Etcd(String),
    File(PathBuf),
    Dns(String, DnsRecords),
    Http(String),
}

impl Followed {
    /// What of a registry is followed; `None` = no registry.
    fn subject(&self) -> Option<Subject> {
        match self {
            Self::Static(_) => None,
            Self::Consul(catalog) => Some(Subject::Consul(catalog.subject())),
            Self::File(watched) => Some(Subject::File(watched.path.clone())),
            Self::Etcd(keys) => Some(Subject::Etcd(keys.subject().to_owned())),
            Self::Http(document) => Some(Subject::Http(document.subject().to_owned())),
            Self::Dns(answers, _) => {
                let (name, records) = answers.subject();
                Some(Subject::Dns(name, records))
            }
        }
    }

    /// From now on the report is about this source, called `name`.
    fn introduce(&self, name: &'static str, report: &mut SourceReport) {
        match self {
            Self::Static(_) => report.begin(name, None, WRITTEN_ERRORS),
            Self::Consul(catalog) => report.begin(name, Some(Arc::clone(catalog.outages())), CONSUL_ERRORS),
            Self::File(watched) => report.begin(name, Some(Arc::clone(&watched.outages)), FILE_ERRORS),
            Self::Etcd(keys) => report.begin(name, Some(Arc::clone(keys.outages())), ETCD_ERRORS),
            Self::Http(document) => report.begin(name, Some(Arc::clone(&document.outages)), HTTP_ERRORS),
            Self::Dns(_, outages) => report.begin(name, Some(Arc::clone(outages)), DNS_ERRORS),
        }
    }
}

impl Follower {
    /// Sends a set whenever it is another one than the last, or how far it is to be believed changes; the first as soon as
    /// anything is known. How it goes is in `status`. No error ends it and none is a set.
    ///
    /// What comes through `others` takes this one's place: what is known stays until the new source says otherwise, and
    /// names keep their addresses. An id that comes through `failing` has its name looked up soon.
    ///
    /// Returns once the receiver is gone. Cancel safe: dropping it aborts what is under way.
    pub async fn run(
        self,
        status: Arc<SourceStatus>,
        updates: mpsc::Sender<Update>,
        mut others: mpsc::UnboundedReceiver<Self>,
        failing: mpsc::Receiver<Arc<str>>,
    ) {
        let mut report = SourceReport::new(self.pool, status, self.unresolved);
        self.followed.introduce(self.source, &mut report);
        let mut feed = Feed::new(
            report,
            Names::new(self.resolver, self.resolve),
            self.fronts,
            UpdateSender::new(updates),
            failing,
        );
        let mut followed = self.followed;
        loop {
            let subject = followed.subject();
            // It stops only when the receiver is gone, so the error says nothing new.
            let follow = async {
                match followed {
                    Followed::Static(backends) => fixed::follow(&backends, &mut feed).await,
                    Followed::Consul(catalog) => catalog.follow(&mut feed).await,
                    Followed::File(watched) => files::follow(&watched, &mut feed).await,
                    Followed::Etcd(keys) => keys.follow(&mut feed).await,
                    Followed::Http(document) => document.follow(&mut feed).await,
                    Followed::Dns(answers, _) => answers.follow(&mut feed).await,
                }
            };
            let other = tokio::select! {
                biased;
                Some(other) = others.recv() => other,
                _gone = follow => return,
            };
            let is_another = subject.is_none() || subject != other.followed.subject();
            feed.begin_again(other.resolve, is_another);
            other.followed.introduce(other.source, feed.report());
            followed = other.followed;
        }
    }
}
