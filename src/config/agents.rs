//! `consul = { … }` of a pool, and how its agent is reached, from three layers, each key on its own: what is written in the
//! pool wins, then what is written in `[consul]`, then Consul's own variables.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::access::{path, token};
use super::faults::{Complaint, Reading};
use super::pools::plain;
use super::registry_address::RegistryAddress;
use super::secrets::without_userinfo;
use super::table::Table;
use super::value::Value;
use super::{Pool, Secret, Source};

const DEFAULT_ADDRESS: &str = "http://127.0.0.1:8500";
const AGENT: RegistryAddress = RegistryAddress {
    forms: "write \"http://127.0.0.1:8500\", \"https://consul.example:8501\" or \"unix:///path/to/socket\"",
    port: 8500,
};

/// `consul = { … }` of a pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConsulSource {
    /// The agent to ask; equal settings are one `Arc`, so that connections are shared.
    #[serde(flatten)]
    pub agent: Arc<ConsulAgent>,
    /// The service's name, not escaped.
    pub service: String,
    /// Asked of the agent's own datacenter if unset.
    pub datacenter: Option<String>,
    /// All of them must be on an instance.
    pub tags: Vec<String>,
    /// A Consul filter expression, handed on as it is.
    pub filter: Option<String>,
    /// What an instance with a warning check gets.
    pub warning: Warning,
    /// Which reads are good enough.
    pub consistency: Consistency,
}

/// `[consul]`: how an agent is reached. Values from `CONSUL_*` are already in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ConsulAgent {
    /// `http://host:port`, `https://host:port` or `unix:///path`.
    pub address: String,
    /// Sent as `X-Consul-Token`.
    pub token: Option<Secret>,
    /// Read before each request, so that a rotated token is picked up.
    pub token_file: Option<PathBuf>,
    /// PEM; added to the system's roots for https.
    pub ca_file: Option<PathBuf>,
    /// At once, of all pools that ask the same address.
    pub max_connections: usize,
}

words! {
    /// `warning`
    pub enum Warning {
        /// It gets sessions by `Weights.Warning`.
        Serve = "serve",
        /// It gets nothing new.
        Out = "out",
    }
}

words! {
    /// `consistency`
    pub enum Consistency {
        /// The leader answers, or a follower that the agent trusts (Consul's default).
        Default = "default",
        /// Any server answers, also without a leader.
        Stale = "stale",
        /// The leader answers after asking a quorum.
        Consistent = "consistent",
    }
}

/// The agents of a file; equal ones are one.
pub(super) struct ConsulAgents<'t, 'a> {
    /// `[consul]`
    file: &'t Table<'a>,
    datacenter: Option<String>,
    max_connections: usize,
    known: Vec<Arc<ConsulAgent>>,
}

impl<'t, 'a> ConsulAgents<'t, 'a> {
    pub(super) fn new(file: &'t Table<'a>) -> Self {
        // An agent takes 200 from one address, and there are others on this machine.
        let max_connections = file.number("max_connections", 4..=100_000).unwrap_or(128);
        let mut this = Self { file, datacenter: datacenter(file), max_connections, known: Vec::new() };
        // Also if no pool asks it, so that a fault in it is seen now; Consul's variables are for those that ask.
        if file.is_written() {
            this.reached_by(&[file]);
        }
        this
    }

    /// The one of `[consul]`.
    pub(super) fn usual(&mut self) -> Arc<ConsulAgent> {
        self.reached_by(&[self.file])
    }

    fn reached_by(&mut self, layers: &[&Table<'_>]) -> Arc<ConsulAgent> {
        let agent = ConsulAgent::read(layers, self.max_connections);
        if let Some(known) = self.known.iter().find(|known| ***known == agent) {
            return Arc::clone(known);
        }
        self.known.push(Arc::new(agent));
        Arc::clone(&self.known[self.known.len() - 1])
    }
}

impl ConsulSource {
    pub(super) fn read(pool: &str, table: &Table<'_>, agents: &mut ConsulAgents<'_, '_>) -> Self {
        if !table.has("service") {
            let hint = format!("add the name of the service: service = \"{}\"", pool.escape_debug());
            table.fault(format!("`consul` of pool `{pool}` has no `service`"), hint);
        }
        Self {
            service: table.parsed("service", service).unwrap_or_default(),
            datacenter: datacenter(table).or_else(|| agents.datacenter.clone()),
            tags: tags(table),
            filter: table.parsed("filter", plain),
            warning: table.word("warning").unwrap_or(Warning::Serve),
            consistency: table.word("consistency").unwrap_or(Consistency::Default),
            agent: agents.reached_by(&[table, agents.file]),
        }
    }
}

/// Those, and no single string.
fn tags(table: &Table<'_>) -> Vec<String> {
    let items = table.value("tags").and_then(|tags| tags.items());
    items.into_iter().flatten().filter_map(|tag| tag.parsed(plain)).collect()
}

impl ConsulAgent {
    /// Of several layers the first that has a key counts.
    fn read(layers: &[&Table<'_>], max_connections: usize) -> Self {
        let reading = layers[0].reading;
        let value = |key| layers.iter().find_map(|layer| layer.value(key));
        let (token, token_file) = credentials(layers);
        let ca_file = match value("ca_file") {
            Some(written) => written.parsed(path),
            None => reading.variable("CONSUL_CACERT").map(PathBuf::from),
        };
        Self { address: agent_address(value("address"), reading), token, token_file, ca_file, max_connections }
    }
}

fn agent_address(written: Option<Value<'_>>, reading: &Reading<'_>) -> String {
    let https = https_wanted(reading);
    if let Some(written) = written {
        return written.parsed(|text| AGENT.normal(text, https)).unwrap_or_default();
    }
    let with_tls = |address: &str| if https { address.replacen("http:", "https:", 1) } else { address.to_owned() };
    let Some(text) = reading.variable("CONSUL_HTTP_ADDR") else { return with_tls(DEFAULT_ADDRESS) };
    match AGENT.normal(&text, https) {
        // As Consul's own tools: TLS that one variable asks for is not lost by the other.
        Ok(address) => with_tls(&address),
        Err(complaint) => {
            let Complaint { what, hint } = complaint.about(&text);
            let text = without_userinfo(&text).escape_debug().to_string();
            reading.fault_at_large(format!("the environment variable CONSUL_HTTP_ADDR=\"{text}\": {what}"), hint);
            String::new()
        }
    }
}

fn https_wanted(reading: &Reading<'_>) -> bool {
    let Some(text) = reading.variable("CONSUL_HTTP_SSL") else { return false };
    if !is_true(&text) && !is_false(&text) {
        let text = text.escape_debug();
        let message = format!("the environment variable CONSUL_HTTP_SSL=\"{text}\" is neither true nor false");
        reading.fault_at_large(message, "set it to true or false, or unset it");
    }
    is_true(&text)
}

/// The token or the file that it is in; the first layer that has either has both.
fn credentials(layers: &[&Table<'_>]) -> (Option<Secret>, Option<PathBuf>) {
    let reading = layers[0].reading;
    let Some(layer) = layers.iter().find(|layer| layer.has("token") || layer.has("token_file")) else {
        // As Consul's own tools: the file wins.
        let file = reading.variable("CONSUL_HTTP_TOKEN_FILE").map(PathBuf::from);
        let token = if file.is_none() { variable_token(reading) } else { None };
        return (token, file);
    };
    layer.exclusive("token", "token_file");
    // An empty one is an anonymous request, also where a variable has a token.
    let token = layer.parsed("token", token).filter(|token| !token.0.is_empty());
    (token, layer.parsed("token_file", path))
}

fn variable_token(reading: &Reading<'_>) -> Option<Secret> {
    let text = reading.variable("CONSUL_HTTP_TOKEN")?;
    let token = token(&text);
    if token.is_err() {
        let message = "the environment variable CONSUL_HTTP_TOKEN holds a character that no header can carry";
        reading.fault_at_large(message, "a token is visible ASCII without spaces");
    }
    token.ok()
}

/// A name that can be asked for: Consul takes nearly any, but these two have no place in a URL.
fn service(text: &str) -> Result<String, Complaint> {
    if matches!(text, "." | "..") {
        return Err(Complaint::new("no service has such a name", "write the name under which the service registers"));
    }
    plain(text)
}

/// A name of a datacenter, as Consul takes them.
fn datacenter(table: &Table<'_>) -> Option<String> {
    table.parsed("datacenter", |text| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if text.is_empty() || !text.chars().all(allowed) {
            return Err(Complaint::new("no datacenter has such a name", "use letters, digits, `-` and `_`"));
        }
        Ok(text.to_owned())
    })
}

/// Variables of Consul's own tools that are set, and change nothing here; without a word they would be thought to.
pub(super) fn unsupported(pools: &[Pool], reading: &Reading<'_>) -> Vec<&'static str> {
    const ANY: [&str; 3] = ["CONSUL_HTTP_AUTH", "CONSUL_NAMESPACE", "CONSUL_PARTITION"];
    const HTTPS: [&str; 4] = ["CONSUL_CAPATH", "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY", "CONSUL_TLS_SERVER_NAME"];
    const VERIFY: &str = "CONSUL_HTTP_SSL_VERIFY";

    let mut addresses = pools.iter().filter_map(|pool| match &pool.source {
        Source::Consul(consul) => Some(&*consul.agent.address),
        _ => None,
    });
    let asks = addresses.clone().next().is_some();
    let https = addresses.any(|address| address.starts_with("https:"));
    let is_set = |name: &&str| reading.variable(name).is_some();
    let mut names: Vec<_> = ANY.into_iter().filter(|_| asks).filter(is_set).collect();
    names.extend(HTTPS.into_iter().filter(|_| https).filter(is_set));
    // To verify is what happens anyway.
    if https && reading.variable(VERIFY).is_some_and(|value| is_false(&value)) {
        names.push(VERIFY);
    }
    names
}

pub(super) fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "True" | "TRUE")
}

pub(super) fn is_false(text: &str) -> bool {
    matches!(text, "0" | "f" | "F" | "false" | "False" | "FALSE")
}
