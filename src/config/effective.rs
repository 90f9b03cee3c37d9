//! A configuration as one JSON tree with the keys of `lb.toml`, defaults filled in: what the API shows and what a
//! difference is taken of. A key that is not set is absent. Made of the model by its derived `Serialize`, so that a new
//! key can't be forgotten.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::duration::written;
use super::{Config, HeaderWish, HostPort, Network, Pattern, RunAs, Secret, StatusSet};

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
        tidy(serde_json::to_value(self).unwrap_or_default())
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

/// From how the model is built to how the file is written.
fn tidy(tree: Value) -> Value {
    match tree {
        Value::Object(map) => match duration(&map) {
            Some(duration) => written(duration).into(),
            None => Value::Object(keys(map)),
        },
        Value::Array(list) => {
            let list: Vec<_> = list.into_iter().map(tidy).collect();
            by_name(list)
        }
        tree => tree,
    }
}

fn duration(map: &Map<String, Value>) -> Option<Duration> {
    let (seconds, nanoseconds) = (map.get("secs")?.as_u64()?, map.get("nanos")?.as_u64()?);
    (map.len() == 2).then(|| Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds))
}

fn keys(map: Map<String, Value>) -> Map<String, Value> {
    let mut tidied = Map::new();
    for (key, value) in map {
        match (key.as_str(), tidy(value)) {
            (_, Value::Null) => {}
            // `kind = "http"`, and what belongs to it beside it.
            // A protocol that is nothing but its name.
            ("kind", Value::Object(kind)) if kind.contains_key("protocol") => {
                let protocol = kind.into_iter().next().map(|(_, name)| name);
                tidied.extend(protocol.map(|name| ("kind".to_owned(), name)));
            }
            ("kind", Value::Object(kind)) => {
                for (name, values) in kind {
                    match values {
                        Value::Object(values) => tidied.extend(values),
                        Value::Null => {}
                        steps => drop(tidied.insert("steps".to_owned(), steps)),
                    }
                    tidied.insert("kind".to_owned(), name.into());
                }
            }
            (_, value) => drop(tidied.insert(key, value)),
        }
    }
    tidied
}

/// A list of what has a name, or an id, is a table.
fn by_name(list: Vec<Value>) -> Value {
    let name = |value: &Value| value.get("name").or_else(|| value.get("id"))?.as_str().map(str::to_owned);
    let names: Option<Vec<_>> = list.iter().map(name).collect();
    match names {
        Some(names) if !names.is_empty() => {
            let unnamed = list.into_iter().map(|mut value| {
                if let Some(map) = value.as_object_mut()
                    && map.remove("name").is_none()
                {
                    map.remove("id");
                }
                value
            });
            Value::Object(names.into_iter().zip(unnamed).collect())
        }
        _ => Value::Array(list),
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(SECRET, format!("{:016x}", KEY.hash_one(&self.0)))])
    }
}

impl Serialize for HostPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for StatusSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for RunAs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// As it is written.
impl Serialize for HeaderWish {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Present => serializer.serialize_bool(true),
            Self::Absent => serializer.serialize_bool(false),
            Self::Is(value) => serializer.serialize_str(value),
            Self::Matches(pattern) => serializer.collect_map([("regex", pattern)]),
        }
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.source())
    }
}
