//! What Consul sends, as far as a balancer needs it. Unknown fields are skipped, absent ones and `null` (which Consul
//! writes for empty lists and maps) are the default.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// One instance of a service, from `/v1/health/service`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceEntry {
    /// Where it runs.
    pub node: Node,
    /// What it is.
    pub service: Service,
    /// Its own checks and those of its node.
    #[serde(default, deserialize_with = "null_as_default")]
    pub checks: Vec<HealthCheck>,
}

impl ServiceEntry {
    /// The service's address, or where that is empty the node's: an IP address or a host name.
    pub fn address(&self) -> &str {
        match self.service.address.as_str() {
            "" => &self.node.address,
            address => address,
        }
    }
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node {
    /// A UUID; empty for external nodes.
    #[serde(rename = "ID", deserialize_with = "null_as_default")]
    pub id: String,
    /// Its name, unique in a datacenter.
    #[serde(deserialize_with = "null_as_default")]
    pub node: String,
    /// An IP address or a host name.
    #[serde(deserialize_with = "null_as_default")]
    pub address: String,
    /// Where the node is.
    #[serde(deserialize_with = "null_as_default")]
    pub datacenter: String,
    /// What its operator says of it.
    #[serde(deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    /// Where in the world it is, since Consul 1.16, if its agent's `locality` says so.
    pub locality: Option<Locality>,
}

/// A region and a zone in it. Empty = not said.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
pub struct Locality {
    /// Such as `us-east-1`.
    #[serde(deserialize_with = "null_as_default")]
    pub region: String,
    /// Such as `us-east-1a`.
    #[serde(deserialize_with = "null_as_default")]
    pub zone: String,
}

/// What an agent says of itself, from `/v1/agent/self`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentSelf {
    /// What its operator says of its node (`node_meta`).
    #[serde(deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
}

/// A registered instance.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
pub struct Service {
    /// Unique on its node only.
    #[serde(rename = "ID", deserialize_with = "null_as_default")]
    pub id: String,
    /// The service's name.
    #[serde(deserialize_with = "null_as_default")]
    pub service: String,
    /// As registered.
    #[serde(deserialize_with = "null_as_default")]
    pub tags: Vec<String>,
    /// Empty = the node's; see [`ServiceEntry::address`].
    #[serde(deserialize_with = "null_as_default")]
    pub address: String,
    /// 0 = none was registered.
    #[serde(deserialize_with = "null_as_default")]
    pub port: u16,
    /// As registered.
    #[serde(deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    /// Where in the world it is, if its registration says so; without that, its node's holds.
    pub locality: Option<Locality>,
    /// 1 and 1 if nothing was registered.
    #[serde(deserialize_with = "null_as_default")]
    pub weights: Weights,
}

/// An instance's share by its status. Wider than what Consul takes, so that a nonsense value is the reader's to judge.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
pub struct Weights {
    /// While all its checks pass.
    pub passing: i64,
    /// While one warns.
    pub warning: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// A check's last result.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthCheck {
    /// `_service_maintenance:ID` and `_node_maintenance` are how maintenance shows; `serfHealth` is the node's own.
    #[serde(rename = "CheckID", deserialize_with = "null_as_default")]
    pub check_id: String,
    /// For people.
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    /// The verdict.
    #[serde(deserialize_with = "null_as_default")]
    pub status: CheckStatus,
    /// What the check said; may be long.
    #[serde(deserialize_with = "null_as_default")]
    pub output: String,
    /// What the check's registration says of it; the reason of a maintenance is here.
    #[serde(deserialize_with = "null_as_default")]
    pub notes: String,
    /// Empty for a check of the node.
    #[serde(rename = "ServiceID", deserialize_with = "null_as_default")]
    pub service_id: String,
}

/// A check's verdict.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// All is well.
    Passing,
    /// Something is not.
    Warning,
    /// It does not work. Also what a status that this client does not know, or none, is read as.
    #[default]
    #[serde(other)]
    Critical,
}

impl CheckStatus {
    /// As Consul writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvPair {
    /// The whole key.
    pub key: String,
    /// Any bytes.
    pub value: Vec<u8>,
    /// The index of its last change, for check-and-set.
    pub modify_index: u64,
    /// The application's own.
    pub flags: u64,
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absent_are_the_default_and_unknown_is_skipped() {
        let entry: ServiceEntry = serde_json::from_str(
            r#"{"Node":{"ID":null,"Node":"n","Address":"10.0.0.1","Meta":null,"New":[1]},
                "Service":{"ID":"a","Tags":null,"Address":"","Port":80,"Weights":null},
                "Checks":[{"CheckID":"c","Status":"passing"},{"Status":"melting"},{"Status":null}],"Extra":{}}"#,
        )
        .unwrap();
        assert_eq!(entry.address(), "10.0.0.1");
        assert_eq!(entry.service.weights, Weights { passing: 1, warning: 1 });
        let statuses: Vec<_> = entry.checks.iter().map(|check| check.status).collect();
        assert_eq!(statuses, [CheckStatus::Passing, CheckStatus::Critical, CheckStatus::Critical]);
        let bare: ServiceEntry = serde_json::from_str(r#"{"Node":{},"Service":{},"Checks":null}"#).unwrap();
        assert!(bare.checks.is_empty());
    }
}
