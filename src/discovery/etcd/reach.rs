//! How a cluster is reached, and whether it is there.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::etcd::{Client, Error, Settings, Tls};
use tokio::time::Instant;

use super::query::Query;
use crate::config::{EtcdCluster, Pool, Secret, Source};
use crate::discovery::Tuning;
use crate::discovery::error::AskError;
use crate::discovery::presence::Sign;
use crate::discovery::registries::{Reach, Registry};

/// How a cluster is reached. Its user is a part of that: the token is the client's.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(in crate::discovery) struct ClusterReach {
    settings: Arc<EtcdCluster>,
    patience: Duration,
}

impl ClusterReach {
    pub(in crate::discovery) fn of(settings: &Arc<EtcdCluster>, tuning: Tuning) -> Self {
        Self { settings: Arc::clone(settings), patience: tuning.presence.limit }
    }

    /// The clusters that these pools ask.
    pub(in crate::discovery) fn by(pools: &[Pool], tuning: Tuning) -> HashSet<Self> {
        let cluster = |pool: &Pool| match &pool.source {
            Source::Etcd(etcd) => Some(Self::of(&etcd.cluster, tuning)),
            _ => None,
        };
        pools.iter().filter_map(cluster).collect()
    }
}

impl Reach for ClusterReach {
    const KIND: &'static str = "etcd cluster";
    type Client = Client;
    type Error = Error;
    /// A prefix.
    type Question = String;
    type Query = Query;

    fn address(&self) -> String {
        self.settings.endpoints.join(", ")
    }

    fn max_connections(&self) -> usize {
        self.settings.max_connections
    }

    fn files(&self) -> Vec<&Path> {
        let EtcdCluster { endpoints, ca_file, cert_file, key_file, .. } = &*self.settings;
        let is_used = endpoints.iter().any(|endpoint| endpoint.starts_with("https:"));
        let files = [ca_file, cert_file, key_file].into_iter().flatten();
        files.filter(|_| is_used).map(PathBuf::as_path).collect()
    }

    fn client(&self) -> Result<Client, Error> {
        let EtcdCluster { endpoints, user, password, password_file, ca_file, cert_file, key_file, .. } =
            (*self.settings).clone();
        let settings = Settings {
            endpoints,
            user,
            password: password.map(|Secret(password)| password),
            password_file,
            tls: Tls { ca_file, cert_file, key_file },
        };
        Client::with_patience(&settings, self.patience)
    }

    /// Of several endpoints it looks for one that is there, beginning with the one that is asked.
    async fn look(client: Client, limit: Duration) -> Sign {
        let (began, first) = (Instant::now(), client.endpoint());
        loop {
            let endpoint = client.endpoint();
            let Err(error) = client.check(limit).await else { return Sign::Well { endpoint } };
            client.leave(endpoint);
            // All of them, each once.
            if client.endpoint() == first || began.elapsed() > limit * 10 {
                return Sign::Absent(AskError::of(error.kind(), &error));
            }
        }
    }

    fn query(registry: &Arc<Registry<Self>>, prefix: String, tuning: Tuning) -> Query {
        Query::new(registry, prefix, tuning)
    }
}
