//! `zone`: where this balancer is, and where a backend of a list is.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::ConsulAgent;
use super::agents::ConsulAgents;
use super::faults::Complaint;
use super::pools::plain;
use super::table::Table;
use super::value::Form;

/// In bytes: it is a label of metrics.
const LONGEST: usize = 64;

/// Where this balancer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnZone {
    /// Not said: zones do not count.
    None,
    /// Written.
    Named(Arc<str>),
    /// What the node of the agent of `[consul]` has under this key of its metadata.
    Consul {
        /// The key.
        key: String,
        /// The agent.
        agent: Arc<ConsulAgent>,
    },
}

impl OwnZone {
    pub(super) fn read(file: &Table<'_>, agents: &mut ConsulAgents<'_, '_>) -> Self {
        let Some(value) = file.value("zone") else { return Self::None };
        let zone = match value.form() {
            Form::Text => value.parsed(zone_name).map(|name| Self::Named(name.into())),
            Form::Table => value.table().and_then(|table| {
                if !table.has("consul") {
                    let hint = "add the key of the agent's node_meta: zone = { consul = \"zone\" }";
                    table.fault("`zone` without `consul`", hint);
                }
                let key = table.parsed("consul", plain)?;
                Some(Self::Consul { key, agent: agents.usual() })
            }),
            _ => value.wrong("a string, or a table { consul = \"zone\" }"),
        };
        zone.unwrap_or(Self::None)
    }
}

/// The name of a zone.
pub(super) fn zone_name(text: &str) -> Result<String, Complaint> {
    let name = plain(text)?;
    if name.len() > LONGEST {
        return Err(Complaint::new("too long", format!("write at most {LONGEST} bytes")));
    }
    Ok(name)
}

impl Serialize for OwnZone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            consul: &'a str,
        }
        match self {
            Self::None => serializer.serialize_none(),
            Self::Named(name) => serializer.serialize_str(name),
            Self::Consul { key, .. } => Written { consul: key }.serialize(serializer),
        }
    }
}
