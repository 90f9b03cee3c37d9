//! `etcd = { … }` of a pool, and how its cluster is reached, from three layers, as it is with Consul: what is written in the
//! pool wins, then what is written in `[etcd]`, then the variables of etcdctl. The user and its password come from one layer
//! together, and so do the certificate and its key.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::access::path;
use super::agents::{is_false, is_true};
use super::faults::{Complaint, Reading};
use super::pools::plain;
use super::registry_address::RegistryAddress;
use super::secrets::without_userinfo;
use super::table::Table;
use super::{Pool, Secret, Source};

const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:2379";
const ENDPOINT: RegistryAddress = RegistryAddress {
    forms: "write \"http://127.0.0.1:2379\", \"https://etcd.example:2379\" or \"unix:///path/to/socket\"",
    port: 2379,
};

/// `etcd = { … }` of a pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EtcdSource {
    /// The cluster to ask; equal settings are one `Arc`, so that connections are shared.
    #[serde(flatten)]
    pub cluster: Arc<EtcdCluster>,
    /// Never empty. The keys that begin with it are the backends.
    pub prefix: String,
}

/// `[etcd]`: how a cluster is reached. Values from `ETCDCTL_*` are already in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct EtcdCluster {
    /// `http://host:port`, `https://host:port` or `unix:///path` each; at least one, tried in this order.
    pub endpoints: Vec<String>,
    /// Whose token is asked for.
    pub user: Option<String>,
    /// The user's.
    pub password: Option<Secret>,
    /// Read each time a token is asked for, so that a new password is picked up.
    pub password_file: Option<PathBuf>,
    /// PEM; added to the system's roots for https.
    pub ca_file: Option<PathBuf>,
    /// PEM; our own certificate for https.
    pub cert_file: Option<PathBuf>,
    /// PEM; its key.
    pub key_file: Option<PathBuf>,
    /// At once, of all pools that ask the same endpoints.
    pub max_connections: usize,
}

/// The clusters of a file; equal ones are one.
pub(super) struct EtcdClusters<'t, 'a> {
    /// `[etcd]`
    file: &'t Table<'a>,
    max_connections: usize,
    known: Vec<Arc<EtcdCluster>>,
}

impl<'t, 'a> EtcdClusters<'t, 'a> {
    pub(super) fn new(file: &'t Table<'a>) -> Self {
        let max_connections = file.number("max_connections", 4..=100_000).unwrap_or(128);
        let mut this = Self { file, max_connections, known: Vec::new() };
        // Also if no pool asks it, so that a fault in it is seen now; the variables are for those that ask.
        if file.is_written() {
            this.reached_by(&[file]);
        }
        this
    }

    fn reached_by(&mut self, layers: &[&Table<'_>]) -> Arc<EtcdCluster> {
        let cluster = EtcdCluster::read(layers, self.max_connections);
        if let Some(known) = self.known.iter().find(|known| ***known == cluster) {
            return Arc::clone(known);
        }
        self.known.push(Arc::new(cluster));
        Arc::clone(&self.known[self.known.len() - 1])
    }
}

impl EtcdSource {
    pub(super) fn read(pool: &str, table: &Table<'_>, clusters: &mut EtcdClusters<'_, '_>) -> Self {
        if !table.has("prefix") {
            let hint = format!("add where its keys are: prefix = \"/services/{}/\"", pool.escape_debug());
            table.fault(format!("`etcd` of pool `{pool}` has no `prefix`"), hint);
        }
        Self {
            prefix: table.parsed("prefix", plain).unwrap_or_default(),
            cluster: clusters.reached_by(&[table, clusters.file]),
        }
    }
}

impl EtcdCluster {
    /// Of several layers the first that has a key counts.
    fn read(layers: &[&Table<'_>], max_connections: usize) -> Self {
        let reading = layers[0].reading;
        let (user, password, password_file) = user(layers);
        let ca_file = match layers.iter().find_map(|layer| layer.value("ca_file")) {
            Some(written) => written.parsed(path),
            None => file_variable(reading, "ETCDCTL_CACERT"),
        };
        let (cert_file, key_file) = certificate(layers);
        // As etcdctl: an address without a scheme is https where something is there for it.
        let https = ca_file.is_some()
            || cert_file.is_some()
            || reading.variable("ETCDCTL_INSECURE_TRANSPORT").is_some_and(|text| is_false(&text));
        let endpoints = endpoints(layers, https);
        Self { endpoints, user, password, password_file, ca_file, cert_file, key_file, max_connections }
    }
}

fn endpoints(layers: &[&Table<'_>], https: bool) -> Vec<String> {
    let reading = layers[0].reading;
    if let Some(layer) = layers.iter().find(|layer| layer.has("endpoints")) {
        let hint = "add at least one: endpoints = [\"http://127.0.0.1:2379\"]";
        if let Some(value) = layer.value("endpoints") {
            value.at_least_one(value.texts(), hint);
        }
        return layer.all_different("endpoints", |text| ENDPOINT.normal(text, https)).unwrap_or_default();
    }
    let Some(text) = reading.variable("ETCDCTL_ENDPOINTS") else {
        return vec![if https { DEFAULT_ENDPOINT.replacen("http:", "https:", 1) } else { DEFAULT_ENDPOINT.to_owned() }];
    };
    let mut endpoints = Vec::new();
    for part in text.split(',') {
        match ENDPOINT.normal(part.trim(), https) {
            Ok(endpoint) if !endpoints.contains(&endpoint) => endpoints.push(endpoint),
            Ok(_) => {}
            Err(complaint) => {
                let Complaint { what, hint } = complaint.about(part);
                let part = without_userinfo(part).escape_debug().to_string();
                let message = format!("the environment variable ETCDCTL_ENDPOINTS, \"{part}\": {what}");
                reading.fault_at_large(message, hint);
            }
        }
    }
    endpoints
}

/// The name, and the password or the file that it is in; the first layer that has any of them has all.
fn user(layers: &[&Table<'_>]) -> (Option<String>, Option<Secret>, Option<PathBuf>) {
    const KEYS: [&str; 3] = ["user", "password", "password_file"];
    layers.iter().for_each(|layer| layer.know(&KEYS));
    let Some(layer) = layers.iter().find(|layer| KEYS.iter().any(|key| layer.has(key))) else {
        let (user, password) = variable_user(layers[0].reading);
        return (user, password, None);
    };
    layer.exclusive("password", "password_file");
    let user = layer.parsed("user", plain);
    let password = layer.parsed("password", |text| match text {
        "" => Err(Complaint::new("empty", "no user of etcd has an empty password; leave `user` out to be none")),
        text => Ok(Secret(text.to_owned())),
    });
    let password_file = layer.parsed("password_file", path);
    let has_password = layer.has("password") || layer.has("password_file");
    if !layer.has("user") {
        layer.fault("a password without `user`", "add the name: user = \"balancer\"");
    } else if !has_password {
        layer.fault("`user` without a password", "add password_file = \"/run/etcd-password\", or password = \"${…}\"");
    }
    (user, password, password_file)
}

/// `name:password`, or the name alone where the password has a variable of its own.
fn variable_user(reading: &Reading<'_>) -> (Option<String>, Option<Secret>) {
    let Some(text) = reading.variable("ETCDCTL_USER") else { return (None, None) };
    if let Some(password) = reading.variable("ETCDCTL_PASSWORD") {
        return (Some(text), Some(Secret(password)));
    }
    match text.split_once(':') {
        Some((user, password)) if !user.is_empty() && !password.is_empty() => {
            (Some(user.to_owned()), Some(Secret(password.to_owned())))
        }
        _ => {
            // What etcdctl would ask for at a terminal. The value is not shown: a part of it may be the password.
            let message = "the environment variable ETCDCTL_USER has no password in it";
            reading.fault_at_large(message, "write it as name:password, or set ETCDCTL_PASSWORD, too");
            (None, None)
        }
    }
}

/// Our certificate and its key; the first layer that has either has both.
fn certificate(layers: &[&Table<'_>]) -> (Option<PathBuf>, Option<PathBuf>) {
    let reading = layers[0].reading;
    layers.iter().for_each(|layer| layer.know(&["cert_file", "key_file"]));
    let Some(layer) = layers.iter().find(|layer| layer.has("cert_file") || layer.has("key_file")) else {
        let (certificate, key) = (file_variable(reading, "ETCDCTL_CERT"), file_variable(reading, "ETCDCTL_KEY"));
        if certificate.is_some() != key.is_some() {
            let message = "of the environment variables ETCDCTL_CERT and ETCDCTL_KEY only one is set";
            reading.fault_at_large(message, "a certificate needs its key: set both, or neither");
        }
        return (certificate, key);
    };
    for (key, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if let Some(value) = layer.value(key).filter(|_| !layer.has(other)) {
            value.fault(format!("`{key}` without `{other}`"), "a certificate needs its key: write both");
        }
    }
    (layer.parsed("cert_file", path), layer.parsed("key_file", path))
}

fn file_variable(reading: &Reading<'_>, name: &str) -> Option<PathBuf> {
    reading.variable(name).map(PathBuf::from)
}

/// Variables of etcdctl that are set, and change nothing here; without a word they would be thought to.
pub(super) fn unsupported(pools: &[Pool], reading: &Reading<'_>) -> Vec<&'static str> {
    const ANY: [&str; 3] = ["ETCDCTL_AUTH_JWT_TOKEN", "ETCDCTL_DISCOVERY_SRV", "ETCDCTL_DISCOVERY_SRV_NAME"];
    const SKIP: &str = "ETCDCTL_INSECURE_SKIP_TLS_VERIFY";

    let mut endpoints = pools.iter().filter_map(|pool| match &pool.source {
        Source::Etcd(etcd) => Some(&etcd.cluster.endpoints),
        _ => None,
    });
    let asks = endpoints.clone().next().is_some();
    let https = endpoints.any(|endpoints| endpoints.iter().any(|endpoint| endpoint.starts_with("https:")));
    let is_set = |name: &&str| reading.variable(name).is_some();
    let mut names: Vec<_> = ANY.into_iter().filter(|_| asks).filter(is_set).collect();
    // Certificates are always verified.
    if https && reading.variable(SKIP).is_some_and(|value| is_true(&value)) {
        names.push(SKIP);
    }
    // The old interface has another store.
    if asks && reading.variable("ETCDCTL_API").is_some_and(|version| version == "2") {
        names.push("ETCDCTL_API");
    }
    names
}
