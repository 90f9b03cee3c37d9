//! A configuration as one JSON tree with the keys of `lb.toml`, defaults filled in: what the API shows and what a
//! difference is taken of. A key that is not set is absent. Made of the model by its `Serialize`, so that a new key can't be
//! forgotten.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::duration::written;
use super::{Config, Listener, Pool, Secret};

/// What a secret is in the tree, until it is [`masked`].
const SECRET: &str = "$secret";

/// What is shown of a secret.
pub(super) const MASK: &str = "***";

/// So that two secrets can be told apart in this process, and not guessed from outside.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Config {
    /// The tree. Secrets are in it as marks that only this process can compare; see [`masked`].
    pub fn effective(&self) -> Value {
        // Every key is a string and nothing in it fails to serialize.
        as_written(serde_json::to_value(self).unwrap_or_default())
    }
}

/// The tree as it may be shown.
pub fn masked(tree: Value) -> Value {
    match tree {
        tree if is_secret(&tree) => MASK.into(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, masked(value))).collect(),
        Value::Array(list) => list.into_iter().map(masked).collect(),
        tree => tree,
    }
}

/// Whether it is a secret, shown or not.
pub(super) fn is_secret(tree: &Value) -> bool {
    tree.as_object().is_some_and(|map| map.len() == 1 && map.contains_key(SECRET))
}

/// Without what is not set, and with durations as the file has them.
fn as_written(tree: Value) -> Value {
    match tree {
        // As serde has a `Duration`; no table of the model has such keys.
        Value::Object(map) if map.len() == 2 && map.contains_key("secs") && map.contains_key("nanos") => {
            Duration::deserialize(Value::Object(map)).map(written).unwrap_or_default().into()
        }
        Value::Object(map) => {
            let set = map.into_iter().filter(|(_, value)| !value.is_null());
            set.map(|(key, value)| (key, as_written(value))).collect()
        }
        Value::Array(list) => list.into_iter().map(as_written).collect(),
        tree => tree,
    }
}

/// What is a table of its own name in the file.
pub(super) trait Named: Serialize {
    fn name(&self) -> &str;
}

impl Named for Listener {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for Pool {
    fn name(&self) -> &str {
        &self.name
    }
}

/// A list as a table of tables.
pub(super) fn by_name<T: Named, S: Serializer>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(list.iter().map(|item| (item.name(), item)))
}

/// Bytes as text.
pub(super) fn escaped<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&bytes.escape_ascii())
}

/// Bytes that are sent: they may hold a password.
pub(super) fn sent<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    if bytes.is_empty() {
        return serializer.serialize_str("");
    }
    Secret(bytes.escape_ascii().to_string()).serialize(serializer)
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(SECRET, format!("{:016x}", KEY.hash_one(&self.0)))])
    }
}

macro_rules! serialized_as_shown {
    ($($name:ty),+) => {
        $(impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        })+
    };
}
serialized_as_shown!(
    super::HostPort,
    super::StatusSet,
    super::Network,
    super::RunAs,
    super::ClosePolicy,
    super::ServerName
);
