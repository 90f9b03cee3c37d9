//! `lb.toml`: from text to a [`Config`] in which everything is valid, or a [`ConfigError`] that says what is not. The text
//! becomes a tree with places (`toml`); each struct of the model reads its own table of it (`table`, `value`), so a key is
//! its field and its line in `read`. Not by serde, which stops at the first error and knows no variables and no places.

mod access;
mod address;
mod admission;
mod agents;
mod bandwidth;
mod check;
mod checks;
mod closing;
mod clusters;
mod connect;
mod diff;
mod dns;
mod duration;
mod effective;
mod error;
mod expand;
mod expectations;
mod fallback;
mod faults;
pub(crate) mod file;
mod file_source;
mod hashing;
mod hidden_routes;
mod http_source;
mod kinds;
mod listeners;
mod model;
mod names;
mod nearest;
mod network;
mod network_list;
mod place;
mod pools;
mod process;
mod proxy_protocol;
mod rebalance;
mod registry_address;
mod resilience;
mod routes;
mod secrets;
mod size;
mod sockets;
mod sticky;
mod syntax;
mod table;
mod value;
mod warnings;
mod whereabouts;
mod zone;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

pub use access::{AccessToken, Admin, AdminSocket};
pub(crate) use address::dialled;
pub use address::{Host, HostPort};
pub use admission::{Accept, ClientPrefix, LimitAction, LimitMode, PerClient, RateKeys, WaitKeys};
pub use agents::{Consistency, ConsulAgent, ConsulSource, Warning};
pub use bandwidth::{Bandwidth, BandwidthScope, ByteRate};
pub use check::*;
pub use closing::{ClosePolicy, Closing};
pub use clusters::{EtcdCluster, EtcdSource};
pub use connect::{Connect, Queue, Timeouts};
pub use diff::{Diff, Difference, KeyChange, NamedDifference};
pub use dns::{DnsRecords, DnsSource};
pub use effective::masked;
pub use error::{ConfigError, ConfigErrors};
pub use file_source::FileSource;
pub(crate) use file_source::{json_tree, toml_tree};
pub use hashing::{HashBy, Hashing, Prefix};
pub use http_source::HttpSource;
pub use kinds::{CheckKind, Proof};
pub use listeners::{Listener, shown_pools};
pub use model::Config;
pub use names::ServerName;
pub(crate) use nearest::nearest;
pub use network::{Network, first_address};
pub use network_list::{NetworkFileError, NetworkList, parse_networks};
pub use pools::{Balance, Pool, Relay, Resolve, Source, StaticBackend, WhenAllDown};
pub use process::{Log, LogFormat, Logged, Reload, SessionLog, Shutdown};
pub use proxy_protocol::{AcceptProxy, Authority, ProxyValues, ProxyVersion, SendProxy};
pub use rebalance::{Prefer, Rebalance};
pub use resilience::{Damping, GuardRules, OutlierMode, Outliers, Resilience, Spill, TIERS};
pub use routes::{HexBytes, Route, Sniff, Target};
pub use secrets::Secret;
pub use sockets::{Keepalive, TcpOptions};
pub use sticky::{Sticky, StickyBy};
pub use whereabouts::Whereabouts;
pub use zone::OwnZone;

use faults::{Complaint, Reading};
use table::Table;

/// Reads a file, with variables from the environment of the process.
///
/// # Errors
/// The file can't be read, is not valid UTF-8, or [`parse`] refuses it.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    parse_file(path, &read(path)?)
}

/// The text of a file.
///
/// # Errors
/// It can't be read, is no regular file, is larger than 16 MiB, or is not valid UTF-8.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    let read = file::open(path).and_then(|opened| file::text(&opened));
    read.map_err(|source| ConfigError::Read { path: path.display().to_string(), source })
}

/// Makes a configuration of the text that [`read`] gave, with variables from the environment of the process.
///
/// # Errors
/// As [`parse`].
pub fn parse_file(path: &Path, text: &str) -> Result<Config, ConfigError> {
    parse(text, &path.display().to_string(), &|name| std::env::var(name).ok())
}

/// Makes a configuration of the text of a file. `origin` is what errors call it, `env` what variables hold
/// (`None` = unset); nothing else is looked at.
///
/// # Errors
/// Everything that is wrong with keys and types, or else with the values; or the first thing that is wrong with TOML.
pub fn parse(text: &str, origin: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    // Also the tree of a broken file is wanted: it says in which table the fault is.
    let (table, errors) = DeTable::parse_recoverable(text);
    let refuse = |faults| Err(ConfigError::Invalid(ConfigErrors::new(faults, origin, text, table.get_ref())));
    if let Some(error) = errors.first() {
        return refuse(vec![syntax::fault(error, text)]);
    }
    let reading = Reading::new(env);
    let config = Config::read(&Table::new(&reading, table.span(), Some(table.get_ref())));
    match reading.into_faults() {
        faults if faults.is_empty() => Ok(config),
        faults => refuse(faults),
    }
}

/// Whether a text is a log level as `log.level` takes it.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn check_log_level(text: &str) -> Result<(), String> {
    process::log_level(text).map(|_| ()).map_err(Complaint::in_a_line)
}

/// A duration as the file has it: `500ms`, `5s`, `1h30m`, `1h 30m`; at most a year. The one grammar for every way in.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(Complaint::in_a_line)
}

/// A duration in the same grammar, as short as can be.
pub fn written_duration(duration: Duration) -> String {
    duration::written(duration)
}

/// The name of a server as a TLS client sends it: in lower case, encoded if it has letters beyond ASCII.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn parse_server_name(text: &str) -> Result<String, String> {
    match names::server_name(text).map_err(Complaint::in_a_line)? {
        ServerName::Exact(name) => Ok(name),
        ServerName::Wildcard(_) => Err("a client asks for one name; write it without `*`".to_owned()),
    }
}

/// `10.0.0.0/8`, or an address alone.
pub fn parse_network(text: &str) -> Option<Network> {
    network::parse(text).ok()
}
