//! `[consul]` and its overrides in pools: how an agent is reached, from three layers, each key on its own.
//! What is written in the pool wins, then what is written in `[consul]`, then Consul's own variables.

use std::path::PathBuf;
use std::sync::Arc;

use super::faults::{Complaint, Reading};
use super::pools::datacenter;
use super::secrets::without_userinfo;
use super::shape::{AgentShape, ConsulShape};
use super::values::Text;
use super::{ConsulAgent, Pool, Secret, Source, address};

/// An agent takes 200 from one address, and there are others on this machine.
const MAX_CONNECTIONS: usize = 128;

const DEFAULT_ADDRESS: &str = "http://127.0.0.1:8500";

/// The agents of a file; equal ones are one.
pub(super) struct AgentTable<'a> {
    file: Option<Layer<'a>>,
    datacenter: Option<String>,
    max_connections: usize,
    known: Vec<Arc<ConsulAgent>>,
}

/// The keys that both `[consul]` and a pool's `consul` have.
#[derive(Clone, Copy)]
struct Layer<'a> {
    address: &'a Text,
    token: &'a Text,
    token_file: &'a Text,
    ca_file: &'a Text,
}

impl<'a> AgentTable<'a> {
    pub(super) fn new(shape: Option<&'a AgentShape>, reading: &mut Reading<'_>) -> Self {
        let Some(shape) = shape else {
            return Self { file: None, datacenter: None, max_connections: MAX_CONNECTIONS, known: Vec::new() };
        };
        let AgentShape { address, token, token_file, ca_file, .. } = shape;
        let file = Layer { address, token, token_file, ca_file };
        let datacenter = datacenter(&shape.datacenter, reading);
        // Also if no pool asks for it, so that a fault in it is seen now.
        let max_connections = reading.number("max_connections", &shape.max_connections, 4..=100_000);
        let max_connections = max_connections.unwrap_or(MAX_CONNECTIONS);
        let agent = Arc::new(agent(&[file], max_connections, reading));
        Self { file: Some(file), datacenter, max_connections, known: vec![agent] }
    }

    /// The agent that a pool asks.
    pub(super) fn of_pool(&mut self, shape: &ConsulShape, reading: &mut Reading<'_>) -> Arc<ConsulAgent> {
        let ConsulShape { address, token, token_file, ca_file, .. } = shape;
        let pool = Layer { address, token, token_file, ca_file };
        let layers: Vec<Layer<'_>> = [Some(pool), self.file].into_iter().flatten().collect();
        let wanted = agent(&layers, self.max_connections, reading);
        if let Some(known) = self.known.iter().find(|known| ***known == wanted) {
            return Arc::clone(known);
        }
        let new = Arc::new(wanted);
        self.known.push(Arc::clone(&new));
        new
    }

    /// The datacenter that a pool asks for.
    pub(super) fn datacenter(&self, written: &Text, reading: &mut Reading<'_>) -> Option<String> {
        datacenter(written, reading).or_else(|| self.datacenter.clone())
    }
}

/// Variables of Consul's own tools that are set, and change nothing here; without a word they would be thought to.
pub(super) fn unsupported(pools: &[Pool], reading: &Reading<'_>) -> Vec<&'static str> {
    const ANY: [&str; 3] = ["CONSUL_HTTP_AUTH", "CONSUL_NAMESPACE", "CONSUL_PARTITION"];
    const HTTPS: [&str; 4] = ["CONSUL_CAPATH", "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY", "CONSUL_TLS_SERVER_NAME"];
    const VERIFY: &str = "CONSUL_HTTP_SSL_VERIFY";

    let addresses: Vec<&str> = pools
        .iter()
        .filter_map(|pool| match &pool.source {
            Source::Consul(consul) => Some(&*consul.agent.address),
            Source::Static(_) => None,
        })
        .collect();
    let (asks, https) = (!addresses.is_empty(), addresses.iter().any(|address| address.starts_with("https:")));
    let is_set = |name: &&str| reading.variable(name).is_some();
    let mut names: Vec<_> = ANY.into_iter().filter(|_| asks).filter(is_set).collect();
    names.extend(HTTPS.into_iter().filter(|_| https).filter(is_set));
    // To verify is what happens anyway.
    let unverified = |value: String| matches!(value.as_str(), "0" | "f" | "F" | "false" | "False" | "FALSE");
    if https && reading.variable(VERIFY).is_some_and(unverified) {
        names.push(VERIFY);
    }
    names
}

fn agent(layers: &[Layer<'_>], max_connections: usize, reading: &mut Reading<'_>) -> ConsulAgent {
    let address = agent_address(layers, reading);
    let (token, token_file) = credentials(layers, reading);
    let ca_file = match layers.iter().find(|layer| layer.ca_file.is_some()) {
        Some(layer) => reading.parsed("ca_file", layer.ca_file, path),
        None => reading.variable("CONSUL_CACERT").map(PathBuf::from),
    };
    ConsulAgent { address, token, token_file, ca_file, max_connections }
}

fn agent_address(layers: &[Layer<'_>], reading: &mut Reading<'_>) -> String {
    let https = https_wanted(reading);
    if let Some(layer) = layers.iter().find(|layer| layer.address.is_some()) {
        return reading.parsed("address", layer.address, |text| normal(text, https)).unwrap_or_default();
    }
    let Some(text) = reading.variable("CONSUL_HTTP_ADDR") else {
        return if https { DEFAULT_ADDRESS.replacen("http", "https", 1) } else { DEFAULT_ADDRESS.to_owned() };
    };
    match normal(&text, https) {
        // As Consul's own tools: who asks for TLS by one variable doesn't lose it by the other.
        Ok(address) if https && address.starts_with("http:") => address.replacen("http", "https", 1),
        Ok(address) => address,
        Err(complaint) => {
            let Complaint { what, hint } = complaint.about(&text);
            let text = without_userinfo(&text).escape_debug().to_string();
            reading.fault_at_large(format!("the environment variable CONSUL_HTTP_ADDR=\"{text}\": {what}"), hint);
            String::new()
        }
    }
}

fn https_wanted(reading: &mut Reading<'_>) -> bool {
    let Some(text) = reading.variable("CONSUL_HTTP_SSL") else { return false };
    match text.as_str() {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => true,
        "0" | "f" | "F" | "false" | "False" | "FALSE" => false,
        _ => {
            let text = text.escape_debug();
            let message = format!("the environment variable CONSUL_HTTP_SSL=\"{text}\" is neither true nor false");
            reading.fault_at_large(message, "set it to true or false, or unset it");
            false
        }
    }
}

/// `http://host:port`, `https://host:port` or `unix:///path`.
fn normal(text: &str, https: bool) -> Result<String, Complaint> {
    const FORMS: &str =
        "write \"http://127.0.0.1:8500\", \"https://consul.example:8501\" or \"unix:///path/to/socket\"";
    if let Some(path) = text.strip_prefix("unix://") {
        if !path.starts_with('/') || path.chars().any(char::is_control) {
            return Err(Complaint::new("not an absolute path", FORMS));
        }
        return Ok(text.to_owned());
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some((scheme, _)) => {
            return Err(Complaint::new(format!("the scheme `{}` is not known", scheme.escape_debug()), FORMS));
        }
        None => {
            let parsed = address::agent(text)?;
            return Ok(format!("{}://{parsed}", if https { "https" } else { "http" }));
        }
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return Err(Complaint::new("only a host and a port may follow the scheme", FORMS));
    }
    // Without a port it is the scheme's own, 80 or 443.
    match address::agent(authority) {
        Ok(parsed) => Ok(format!("{scheme}://{parsed}")),
        Err(_) if !authority.contains(':') => address::host(authority).map(|_| format!("{scheme}://{authority}")),
        Err(complaint) => Err(complaint),
    }
}

/// The token or the file that it is in; the innermost layer that has either has both.
fn credentials(layers: &[Layer<'_>], reading: &mut Reading<'_>) -> (Option<Secret>, Option<PathBuf>) {
    let Some(layer) = layers.iter().find(|layer| layer.token.is_some() || layer.token_file.is_some()) else {
        // As Consul's own tools: the file wins.
        return match reading.variable("CONSUL_HTTP_TOKEN_FILE") {
            Some(file) => (None, Some(PathBuf::from(file))),
            None => (variable_token(reading), None),
        };
    };
    if let (Some(_), Some(file)) = (layer.token, layer.token_file) {
        reading.fault(file.span(), "`token_file` next to `token`", "keep one of the two");
    }
    (written_token(layer.token, reading), reading.parsed("token_file", layer.token_file, path))
}

fn variable_token(reading: &mut Reading<'_>) -> Option<Secret> {
    let token = reading.variable("CONSUL_HTTP_TOKEN")?;
    if !is_token(&token) {
        let message = "the environment variable CONSUL_HTTP_TOKEN holds a character that no header can carry";
        reading.fault_at_large(message, "a token is visible ASCII without spaces");
        return None;
    }
    Some(Secret(token))
}

/// An empty one is an anonymous request, also where a variable has a token.
fn written_token(written: &Text, reading: &mut Reading<'_>) -> Option<Secret> {
    let written = written.as_ref()?;
    let token = reading.text("token", written)?;
    if !is_token(&token) {
        // The value stays out of the message: it is a secret.
        let hint = "a token is visible ASCII without spaces";
        reading.fault(written.span(), "`token` with a character that no header can carry", hint);
        return None;
    }
    Some(Secret(token)).filter(|token| !token.0.is_empty())
}

fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The path of a file, which is not looked at here.
pub(super) fn path(text: &str) -> Result<PathBuf, Complaint> {
    if text.is_empty() || text.contains('\0') {
        return Err(Complaint::new("not a path", "write the path of a file, or leave the key out"));
    }
    Ok(PathBuf::from(text))
}
