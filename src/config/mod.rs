//! `lb.toml`: from text to a [`Config`] in which everything is valid, or a [`ConfigError`] that says what is not.
//! The text becomes a tree with places (`toml`), the tree becomes flat structs (`shape`), and `validate` makes
//! the closed enums of the model of them. Nothing here knows the rest of the balancer.

mod access;
mod address;
mod agents;
mod check;
mod checks;
mod closing;
mod connect;
mod diff;
mod duration;
mod effective;
mod error;
mod expand;
mod expectations;
mod explain;
mod faults;
pub(crate) mod file;
mod kinds;
mod loops;
mod model;
mod nearest;
mod place;
mod pools;
mod process;
mod proxy_protocol;
mod resilience;
mod secrets;
mod shape;
mod size;
mod sockets;
mod spill;
mod validate;
mod values;
mod warnings;
mod whereabouts;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use toml::de::{DeTable, Deserializer};

pub use access::{AccessToken, Admin, AdminSocket};
pub(crate) use address::dialled;
pub use check::*;
pub use closing::{ClosePolicy, Closing};
pub use connect::{Connect, Queue, Timeouts};
pub use diff::{Diff, Difference, KeyChange, NamedDifference};
pub use effective::masked;
pub use error::{ConfigError, ConfigErrors};
pub use model::*;
pub use pools::{Resolve, StaticBackend};
pub use process::{Log, LogFormat, Logged, Reload, SessionLog, Shutdown};
pub use proxy_protocol::{AcceptProxy, Authority, Network, ProxyValues, ProxyVersion, SendProxy};
pub use resilience::{Damping, GuardRules, OutlierMode, Outliers, Resilience, TIERS};
pub use spill::Spill;
pub use whereabouts::Whereabouts;

pub(crate) use nearest::nearest;

use faults::Reading;
use shape::FileShape;

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
/// Everything that is wrong with the values, or else the first thing that is wrong with TOML, keys or types.
pub fn parse(text: &str, origin: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    // Also the tree of a broken file is wanted: it says in which table the fault is.
    let (table, errors) = DeTable::parse_recoverable(text);
    let refuse = |faults| Err(ConfigError::Invalid(ConfigErrors::new(faults, origin, text, table.get_ref())));
    if let Some(error) = errors.first() {
        return refuse(vec![explain::syntax(error, text)]);
    }
    let shape = match FileShape::deserialize(Deserializer::from(table.clone())) {
        Ok(shape) => shape,
        Err(error) => return refuse(vec![explain::shape(&error, text, table.get_ref())]),
    };
    let mut reading = Reading::new(env);
    let config = validate::file(&shape, &mut reading);
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
    validate::log_level(text).map(|_| ()).map_err(|complaint| format!("{}; {}", complaint.what, complaint.hint))
}

/// A duration as the file has it: `500ms`, `5s`, `1h30m`, `1h 30m`; at most a year. The one grammar for every way in.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|complaint| format!("{}; {}", complaint.what, complaint.hint))
}

/// A duration in the same grammar, as short as can be.
pub fn written_duration(duration: Duration) -> String {
    duration::written(duration)
}

/// `10.0.0.0/8`, or an address alone.
pub fn parse_network(text: &str) -> Option<Network> {
    proxy_protocol::network(text).ok()
}
