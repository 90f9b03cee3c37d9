//! PURE. The documents that list backends, in a file or behind an URL: as `backends` of `lb.toml` has them, or in the shape that
//! Prometheus reads (`file_sd`, `http_sd`), so that one document can serve both. A bad entry is left out and said; a document
//! that is none, or has no good entry among bad ones, is an error.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::instance::Instance;
use super::outside::{bounded, identity, usable, zone};
use crate::config::{Host, HostPort, TIERS, nearest};
use crate::endpoint::{Registry, Rejected, Rejections};

/// Of an entry of our own shape.
const KEYS: [&str; 9] = ["address", "id", "weight", "priority", "backup", "zone", "max_sessions", "meta", "labels"];

/// Keys below `meta` and `labels` that mean something here; all others are for other programs.
const META: [&str; 4] = ["evenkeel_weight", "evenkeel_priority", "evenkeel_max_sessions", "evenkeel_zone"];

/// What the documents list together, each with the name that messages have for it.
pub(super) fn all(documents: &[(String, Value)]) -> Result<(Vec<Instance>, Rejections), String> {
    let mut listed = Listed::default();
    for (name, document) in documents {
        listed.document(document).map_err(|why| format!("{name}: {why}"))?;
    }
    let Listed { instances, refused, .. } = listed;
    match refused.first().filter(|_| instances.is_empty()) {
        // One bad entry is skipped; a list of nothing else is not the same as an empty one.
        Some(first) => {
            Err(format!("none of {} entries can be used, such as {}: {}", refused.count(), first.id, first.why))
        }
        None => Ok((instances, refused)),
    }
}

#[derive(Default)]
struct Listed {
    instances: Vec<Instance>,
    ids: HashSet<Arc<str>>,
    refused: Rejections,
}

/// What an entry says besides its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    weight: Option<u16>,
    priority: Option<u8>,
    zone: Option<Arc<str>>,
    max_sessions: Option<u32>,
}

impl Listed {
    fn document(&mut self, document: &Value) -> Result<(), String> {
        let entries = match document {
            Value::Object(table) => table.get("backends").ok_or("there is no list `backends` in it")?,
            list => list,
        };
        let entries = entries.as_array().ok_or("it must be a list of backends, or a table with a list `backends`")?;
        for (number, entry) in entries.iter().enumerate() {
            self.entry(number + 1, entry);
        }
        Ok(())
    }

    fn entry(&mut self, number: usize, entry: &Value) {
        let refusal = match entry {
            Value::String(address) => return self.backend(address, None, &Said::default()),
            Value::Object(table) if table.contains_key("targets") => self.group(table),
            Value::Object(table) => match written(table) {
                Ok((address, id, said)) => return self.backend(address, id, &said),
                Err(why) => Err((named(table), why)),
            },
            _ => Err((None, "it is neither a text nor a table".to_owned())),
        };
        if let Err((id, why)) = refusal {
            self.refuse(id.unwrap_or_else(|| format!("entry {number}")), why);
        }
    }

    /// `{ "targets": [ … ], "labels": { … } }`, of Prometheus.
    fn group(&mut self, table: &Map<String, Value>) -> Result<(), (Option<String>, String)> {
        let targets = table.get("targets").and_then(Value::as_array);
        let targets = targets.ok_or_else(|| (None, "`targets` must be a list of texts".to_owned()))?;
        let first = targets.first().and_then(Value::as_str).map(bounded);
        let said = Said::of_meta(table.get("labels")).map_err(|why| (first, why))?;
        for target in targets {
            match target.as_str() {
                Some(address) => self.backend(address, None, &said),
                None => self.refuse(bounded(&target.to_string()), "a target must be a text".to_owned()),
            }
        }
        Ok(())
    }

    fn backend(&mut self, address: &str, id: Option<&str>, said: &Said) {
        match instance(address, id, said) {
            Ok(instance) if self.ids.contains(&instance.id) => {
                self.refuse(instance.id.to_string(), "another backend before it has the same id".to_owned());
            }
            Ok(instance) => {
                self.ids.insert(Arc::clone(&instance.id));
                let position = self.instances.len() as u32;
                self.instances.push(Instance { position, ..instance });
            }
            Err(why) => self.refuse(bounded(id.unwrap_or(address)), why),
        }
    }

    fn refuse(&mut self, id: String, why: String) {
        self.refused.push(|| Rejected { id, why });
    }
}

/// What a table calls itself, for messages.
fn named(table: &Map<String, Value>) -> Option<String> {
    ["id", "address"].iter().find_map(|key| table.get(*key)?.as_str()).map(bounded)
}

/// The address, the id and the rest of an entry of our own shape.
fn written(table: &Map<String, Value>) -> Result<(&str, Option<&str>, Said), String> {
    // A key that is not known may be one that is misspelt, so that the backend is not what is meant.
    if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let meant = nearest(unknown, KEYS).map_or_else(String::new, |meant| format!("; is `{meant}` meant?"));
        return Err(format!("unknown key `{}`{meant}", bounded(unknown)));
    }
    let text = |key: &str| match table.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("`{key}` must be a text")),
    };
    let address = text("address")?.ok_or("there is neither `address` nor `targets`")?;
    let (meta, labels) = (Said::of_meta(table.get("meta"))?, Said::of_meta(table.get("labels"))?);
    let backup = match table.get("backup") {
        None => None,
        Some(Value::Bool(backup)) => Some(u8::from(*backup)),
        Some(_) => return Err("`backup` must be true or false".to_owned()),
    };
    if backup.is_some() && table.contains_key("priority") {
        return Err("`backup` next to `priority`: keep one of the two".to_owned());
    }
    let said = Said {
        weight: number(table, "weight", 0..1 << 16)?.or(meta.weight).or(labels.weight),
        priority: number(table, "priority", 0..TIERS as u64)?.or(backup).or(meta.priority).or(labels.priority),
        max_sessions: number(table, "max_sessions", 1..1 << 32)?.or(meta.max_sessions).or(labels.max_sessions),
        zone: zone_of(table, "zone")?.or(meta.zone).or(labels.zone),
    };
    Ok((address, text("id")?, said))
}

impl Said {
    /// `meta` and `labels` hold texts; what is for other programs is left alone.
    fn of_meta(meta: Option<&Value>) -> Result<Self, String> {
        let Some(meta) = meta else { return Ok(Self::default()) };
        let table = meta.as_object().ok_or("`meta` and `labels` must be tables")?;
        let [weight, priority, max_sessions, zone] = META;
        Ok(Self {
            weight: number(table, weight, 0..1 << 16)?,
            priority: number(table, priority, 0..TIERS as u64)?,
            max_sessions: number(table, max_sessions, 1..1 << 32)?,
            zone: zone_of(table, zone)?,
        })
    }
}

/// The name of a zone, fit for log lines and labels.
fn zone_of(table: &Map<String, Value>, key: &str) -> Result<Option<Arc<str>>, String> {
    let Some(value) = table.get(key) else { return Ok(None) };
    let text = value.as_str().ok_or_else(|| format!("`{key}` must be a text"))?;
    zone(text).map(Some).map_err(|why| format!("`{key} = {}`: {why}", bounded(text)))
}

/// A whole number, also as a text.
fn number<T: TryFrom<u64>>(table: &Map<String, Value>, key: &str, range: Range<u64>) -> Result<Option<T>, String> {
    let Some(value) = table.get(key) else { return Ok(None) };
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        value => value.as_u64(),
    };
    let fitting = number.filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
    let (least, most) = (range.start, range.end - 1);
    let why = || format!("`{key} = {}`: it must be a whole number from {least} to {most}", bounded(&value.to_string()));
    fitting.map(Some).ok_or_else(why)
}

fn instance(address: &str, id: Option<&str>, said: &Said) -> Result<Instance, String> {
    let HostPort { host, port } = HostPort::parse(address)?;
    if let Host::Ip(ip) = host {
        usable(ip)?;
    }
    Ok(Instance {
        id: identity(id.unwrap_or(address))?,
        host,
        candidates: Vec::new(),
        port,
        weight: said.weight.unwrap_or(1),
        priority: said.priority.unwrap_or(0),
        zone: said.zone.clone(),
        position: 0,
        max_sessions: said.max_sessions,
        registry: Registry::Passing,
        note: None,
    })
}

/// What a table of our own shape lists alone; called `id` where it does not say.
pub(super) fn entry(table: &Map<String, Value>, id: &str) -> Result<Instance, String> {
    let (address, own_id, said) = written(table)?;
    instance(address, Some(own_id.unwrap_or(id)), &said)
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
