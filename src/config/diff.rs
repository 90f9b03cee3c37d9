//! PURE. What is different between two configurations, by name: which listeners and pools come, go and change, key by
//! key, and what of it can't be changed while the process runs.

use serde::Serialize;
use serde_json::{Map, Value};

use super::effective::{MASK, is_secret, masked};

/// What is made of files at the start only.
const STARTS: [&str; 7] =
    ["workers", "log.format", "state_dir", "admin.socket", "admin.hosts", "admin.read_token", "admin.admin_token"];

/// A listener's socket options that can't be taken back on a socket that listens.
const STICKY: [&str; 2] = ["tcp.receive_buffer", "tcp.send_buffer"];

/// What is different, in the order of names and keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Keys outside of listeners and pools, such as `shutdown.timeout`.
    pub process: Vec<KeyChange>,
    /// Listeners that differ.
    pub listeners: Vec<NamedDifference>,
    /// Pools that differ.
    pub pools: Vec<NamedDifference>,
    /// The places, such as `pools.web.check.steps`, of secrets that are masked in one of the two: they may differ.
    pub not_compared: Vec<String>,
}

/// A listener or pool that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedDifference {
    /// Its name.
    pub name: String,
    /// How.
    #[serde(flatten)]
    pub what: Difference,
}

/// How a listener or pool differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", content = "keys", rename_all = "snake_case")]
pub enum Difference {
    /// It is new.
    Added,
    /// These keys of it are other ones.
    Changed(Vec<KeyChange>),
    /// It is gone.
    Removed,
}

/// A key with another value. Secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyChange {
    /// Dotted, below the listener or pool that it belongs to.
    pub key: String,
    /// `None` = not set.
    pub old: Option<String>,
    /// `None` = not set.
    pub new: Option<String>,
    /// Whether it takes a restart.
    pub needs_restart: bool,
}

/// The longest value in a line, in characters.
const SHORT: usize = 100;

impl Diff {
    /// Of two trees that [`super::Config::effective`] made; one may be masked.
    pub fn between(old: &Value, new: &Value) -> Self {
        let (mut old_rest, mut new_rest) = (table(Some(old)), table(Some(new)));
        let mut not_compared = Vec::new();
        let mut named = |key: &str| {
            let (old, new) = (table(old_rest.remove(key).as_ref()), table(new_rest.remove(key).as_ref()));
            let of = |(name, new): (&String, &Value)| {
                let (difference, unseen) = NamedDifference::of(name, old.get(name), new);
                not_compared.extend(unseen.iter().map(|place| format!("{key}.{name}.{place}")));
                difference
            };
            let mut named: Vec<_> = new.iter().filter_map(of).collect();
            let gone = old.keys().filter(|name| !new.contains_key(*name));
            named.extend(gone.map(|name| NamedDifference { name: name.clone(), what: Difference::Removed }));
            named.sort_by(|a, b| a.name.cmp(&b.name));
            named
        };
        let (listeners, pools) = (named("listeners"), named("pools"));
        let mut process = Vec::new();
        compare("", Some(&old_rest.into()), Some(&new_rest.into()), &mut process, &mut not_compared);
        for change in &mut process {
            change.needs_restart = STARTS.contains(&change.key.as_str());
        }
        not_compared.sort();
        let mut diff = Self { process, listeners, pools, not_compared };
        for (_, keys) in diff.listeners.iter_mut().filter_map(NamedDifference::changes_mut) {
            for change in keys {
                change.needs_restart = change.new.is_none() && STICKY.contains(&change.key.as_str());
            }
        }
        diff
    }

    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.process.is_empty() && self.listeners.is_empty() && self.pools.is_empty()
    }

    /// A line each, for people: `pools.web.balance: round_robin -> least_connections`, `pools.new: added`.
    pub fn lines(&self) -> Vec<String> {
        let of = |place: &str, changes: &[KeyChange]| -> Vec<String> {
            let word = |value: &Option<String>| value.as_deref().map_or_else(|| "none".to_owned(), short);
            let line =
                |change: &KeyChange| format!("{place}{}: {} -> {}", change.key, word(&change.old), word(&change.new));
            changes.iter().map(line).collect()
        };
        let mut lines = of("", &self.process);
        for (table, all) in [("listeners", &self.listeners), ("pools", &self.pools)] {
            for NamedDifference { name, what } in all {
                match what {
                    Difference::Added => lines.push(format!("{table}.{name}: added")),
                    Difference::Removed => lines.push(format!("{table}.{name}: removed")),
                    Difference::Changed(changes) => lines.extend(of(&format!("{table}.{name}."), changes)),
                }
            }
        }
        lines
    }

    /// The places, such as `workers` or `pools.web.relay`, of what takes a restart.
    pub fn needs_restart(&self) -> Vec<String> {
        let mut places: Vec<_> =
            self.process.iter().filter(|change| change.needs_restart).map(|change| change.key.clone()).collect();
        for (table, all) in [("listeners", &self.listeners), ("pools", &self.pools)] {
            for NamedDifference { name, what } in all {
                let Difference::Changed(keys) = what else { continue };
                let keys = keys.iter().filter(|change| change.needs_restart);
                places.extend(keys.map(|change| format!("{table}.{name}.{}", change.key)));
            }
        }
        places
    }
}

impl NamedDifference {
    /// And the keys that can't be compared.
    fn of(name: &str, old: Option<&Value>, new: &Value) -> (Option<Self>, Vec<String>) {
        let name = name.to_owned();
        let Some(old) = old else { return (Some(Self { name, what: Difference::Added }), Vec::new()) };
        let (mut keys, mut not_compared) = (Vec::new(), Vec::new());
        compare("", Some(old), Some(new), &mut keys, &mut not_compared);
        ((!keys.is_empty()).then_some(Self { name, what: Difference::Changed(keys) }), not_compared)
    }

    /// Its name and the keys that change, if it stays.
    pub fn changes_mut(&mut self) -> Option<(&str, &mut Vec<KeyChange>)> {
        match &mut self.what {
            Difference::Changed(keys) => Some((&self.name, keys)),
            Difference::Added | Difference::Removed => None,
        }
    }

    /// Whether it stays, and a key that begins with this changes.
    pub fn changes(&self, prefix: &str) -> bool {
        match &self.what {
            Difference::Changed(keys) => keys.iter().any(|change| {
                change.key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }),
            Difference::Added | Difference::Removed => false,
        }
    }
}

fn table(value: Option<&Value>) -> Map<String, Value> {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}

fn compare(
    key: &str,
    old: Option<&Value>,
    new: Option<&Value>,
    changes: &mut Vec<KeyChange>,
    not_compared: &mut Vec<String>,
) {
    if let (Some(Value::Object(a)), Some(Value::Object(b))) = (old, new)
        && !old.is_some_and(is_secret)
        && !new.is_some_and(is_secret)
    {
        let below = |name: &String| if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        let mut names: Vec<_> = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))).collect();
        names.sort();
        for name in names {
            compare(&below(name), a.get(name), b.get(name), changes, not_compared);
        }
        return;
    }
    if is_alike(old, new) {
        if has_unknown(old, new) {
            not_compared.push(key.to_owned());
        }
        return;
    }
    changes.push(KeyChange { key: key.to_owned(), old: old.map(shown), new: new.map(shown), needs_restart: false });
}

/// Whether they are the same as far as can be seen, also in lists.
fn is_alike(old: Option<&Value>, new: Option<&Value>) -> bool {
    if old == new || is_unknown(old, new) {
        return true;
    }
    match (old, new) {
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_alike(Some(a), Some(b)))
        }
        (Some(a @ Value::Object(old)), Some(b @ Value::Object(new))) if !is_secret(a) && !is_secret(b) => {
            old.len() == new.len() && old.iter().all(|(key, value)| is_alike(Some(value), new.get(key)))
        }
        _ => false,
    }
}

/// Whether what is alike holds a secret that could not be compared.
fn has_unknown(old: Option<&Value>, new: Option<&Value>) -> bool {
    match (old, new) {
        _ if is_unknown(old, new) => true,
        (Some(Value::Array(a)), Some(Value::Array(b))) => a.iter().zip(b).any(|(a, b)| has_unknown(Some(a), Some(b))),
        (Some(Value::Object(a)), Some(Value::Object(b))) => a.iter().any(|(key, a)| has_unknown(Some(a), b.get(key))),
        _ => false,
    }
}

/// One of them is masked and the other is a secret, too.
fn is_unknown(old: Option<&Value>, new: Option<&Value>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return false };
    let is_masked = |value: &Value| value.as_str() == Some(MASK);
    (is_masked(old) && is_secret(new)) || (is_secret(old) && is_masked(new))
}

/// A value as a piece of a line.
fn short(value: &str) -> String {
    let more = if value.chars().nth(SHORT).is_some() { "…" } else { "" };
    let piece = value.chars().take(SHORT);
    let piece = piece.map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() });
    piece.collect::<String>() + more
}

fn shown(value: &Value) -> String {
    match masked(value.clone()) {
        Value::String(text) => text,
        value => value.to_string(),
    }
}
