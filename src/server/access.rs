//! The lists of clients that may have a session: made of the configuration and of the files that it names, before anything
//! changes. Asked by `apply`, by the start and by `evenkeel check`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use thiserror::Error;

use super::Set;
use crate::config::{self, Config, ConfigError, Listener, Network, NetworkFileError, NetworkList, parse_networks};
use crate::route::{Access, AccessList, ListDifference};

/// Why a list can't be used.
#[derive(Debug, Error)]
pub enum AccessError {
    /// Its file can't be read.
    #[error("`{key}` of listener `{listener}` can't be used")]
    Read {
        /// Whose list.
        listener: String,
        /// Which list.
        key: &'static str,
        /// Why.
        source: ConfigError,
    },
    /// What is in its file.
    #[error("`{key}` of listener `{listener}` can't be used")]
    File {
        /// Whose list.
        listener: String,
        /// Which list.
        key: &'static str,
        /// Which lines, and why.
        source: NetworkFileError,
    },
    /// Its file has no network.
    #[error("{file} is `allow` of listener `{listener}` and has no network: it would let no client in")]
    Empty {
        /// Whose list.
        listener: String,
        /// Its path.
        file: String,
    },
    /// It is in both lists.
    #[error("{denied}: `allow` of listener `{listener}` has {network}, too ({allowed}); remove it from one of the two")]
    Both {
        /// Whose lists.
        listener: String,
        /// The network.
        network: Network,
        /// Where it is allowed.
        allowed: String,
        /// Where it is denied.
        denied: String,
    },
}

/// The lists by listener; those without lists are missing.
#[derive(Debug, Default)]
pub(super) struct AccessLists {
    by_listener: BTreeMap<String, Arc<Access>>,
    changes: Vec<String>,
}

impl AccessLists {
    /// Reads the files. A list that is what it was is shared with the running set.
    pub(super) fn read(config: &Config, running: &Set) -> Result<Self, AccessError> {
        let mut lists = Self::default();
        for listener in &config.listeners {
            let Some(mut access) = access(listener)?.map(Arc::new) else { continue };
            if let Some(before) = running_access(listener, running) {
                let changes = changes(listener, &access, &before);
                match changes.is_empty() {
                    true => access = before,
                    false => lists.changes.extend(changes),
                }
            }
            lists.by_listener.insert(listener.name.clone(), access);
        }
        lists.changes.sort();
        lists.changes.dedup();
        Ok(lists)
    }

    /// A line for each file that says something else than before.
    pub(super) fn changes(&self) -> &[String] {
        &self.changes
    }

    pub(super) fn of(&self, listener: &str) -> Option<Arc<Access>> {
        self.by_listener.get(listener).cloned()
    }
}

/// Whether the files can be used that the lists of a configuration name.
///
/// # Errors
/// The first that can't.
pub fn lists_ready(config: &Config) -> Result<(), AccessError> {
    config.listeners.iter().try_for_each(|listener| access(listener).map(|_| ()))
}

/// What the listener has now, if its keys are the same: then only files may have changed.
fn running_access(listener: &Listener, running: &Set) -> Option<Arc<Access>> {
    let known = running.listeners.iter().find(|known| *known.name == *listener.name)?.settings();
    let same = known.file.allow == listener.allow && known.file.deny == listener.deny;
    known.access.clone().filter(|_| same)
}

fn changes(listener: &Listener, access: &Access, before: &Access) -> Vec<String> {
    let change = |list| {
        let file = keys(listener, list)?.file()?;
        let ListDifference { new, gone, kept } = access.difference(before, list);
        let differs = new + gone > 0;
        differs.then(|| format!("{}: networks: {new} new, {gone} gone, {kept} kept", file.display()))
    };
    AccessList::ALL.into_iter().filter_map(change).collect()
}

/// `None` = it has no lists.
fn access(listener: &Listener) -> Result<Option<Access>, AccessError> {
    let (allow, deny) = (entries(listener, AccessList::Allow)?, entries(listener, AccessList::Deny)?);
    if allow.is_none() && deny.is_none() {
        return Ok(None);
    }
    if let (Some([]), Some(file)) = (allow.as_deref(), listener.allow.as_ref().and_then(NetworkList::file)) {
        return Err(AccessError::Empty { listener: listener.name.clone(), file: file.display().to_string() });
    }
    let deny = deny.unwrap_or_default();
    let allowed: HashMap<Network, u32> = allow.iter().flatten().copied().collect();
    let both = deny.iter().find_map(|(network, line)| Some((*network, *line, *allowed.get(network)?)));
    if let Some((network, denied, allowed)) = both {
        let place = |list, line| place(listener, list, line);
        let (denied, allowed) = (place(AccessList::Deny, denied), place(AccessList::Allow, allowed));
        return Err(AccessError::Both { listener: listener.name.clone(), network, allowed, denied });
    }
    let networks = |entries: Vec<(Network, u32)>| entries.into_iter().map(|(network, _)| network).collect();
    Ok(Some(Access::new(allow.map(networks), networks(deny))))
}

fn keys(listener: &Listener, list: AccessList) -> Option<&NetworkList> {
    match list {
        AccessList::Allow => listener.allow.as_ref(),
        AccessList::Deny => listener.deny.as_ref(),
    }
}

/// The networks of a list with their lines, which only a file has. `None` = there is no such list.
fn entries(listener: &Listener, list: AccessList) -> Result<Option<Vec<(Network, u32)>>, AccessError> {
    let file = match keys(listener, list) {
        None => return Ok(None),
        Some(NetworkList::Written(networks)) => return Ok(Some(networks.iter().map(|one| (*one, 0)).collect())),
        Some(NetworkList::File { file }) => file,
    };
    let (listener, key) = (listener.name.clone(), list.name());
    match config::read(file) {
        Ok(text) => match parse_networks(file, &text) {
            Ok(networks) => Ok(Some(networks)),
            Err(source) => Err(AccessError::File { listener, key, source }),
        },
        Err(source) => Err(AccessError::Read { listener, key, source }),
    }
}

fn place(listener: &Listener, list: AccessList, line: u32) -> String {
    match keys(listener, list).and_then(NetworkList::file) {
        Some(file) => format!("{}:{line}", file.display()),
        None => format!("listeners.{}.{}", listener.name, list.name()),
    }
}
