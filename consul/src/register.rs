//! What a service says of itself when it registers with its agent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::model::{CheckStatus, Weights};

/// A service instance. `ServiceRegistration { name: …, ..Default::default() }` is enough for Consul.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceRegistration {
    /// The service's name.
    pub name: String,
    /// Unique on the agent; `None` = the name.
    #[serde(rename = "ID", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `None` = the agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Where it listens.
    pub port: u16,
    /// For filters.
    pub tags: Vec<String>,
    /// For people and programs.
    pub meta: BTreeMap<String, String>,
    /// `None` = 1 and 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// All of them count.
    pub checks: Vec<CheckRegistration>,
}

/// A TTL check: critical unless [`Client::update_ttl`](crate::Client::update_ttl) is called more often than `ttl`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CheckRegistration {
    /// Unique on the agent, what `update_ttl` names; `None` = `service:ID`, with `:N` where a service has several.
    #[serde(rename = "CheckID", skip_serializing_if = "Option::is_none")]
    pub check_id: Option<String>,
    /// For people; `None` = `Service 'NAME' check`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// To the millisecond.
    #[serde(rename = "TTL", serialize_with = "go_duration")]
    pub ttl: Duration,
    /// Until the first update; `None` = critical.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<CheckStatus>,
    /// The agent forgets the whole service after it has been critical for this long (at least a minute, looked at
    /// every 30 s); `None` = never.
    #[serde(serialize_with = "go_duration_or_none", skip_serializing_if = "Option::is_none")]
    pub deregister_critical_service_after: Option<Duration>,
}

impl CheckRegistration {
    /// A check with that `ttl` and otherwise Consul's defaults.
    pub fn ttl(ttl: Duration) -> Self {
        Self { check_id: None, name: None, ttl, status: None, deregister_critical_service_after: None }
    }
}

fn go_duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}ms", duration.as_millis()))
}

fn go_duration_or_none<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => go_duration(duration, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_consul_reads_it() {
        let service = ServiceRegistration {
            name: "web".to_owned(),
            id: Some("web-1".to_owned()),
            port: 9090,
            tags: vec!["a".to_owned()],
            weights: Some(Weights { passing: 3, warning: 1 }),
            checks: vec![CheckRegistration {
                check_id: Some("web-1-ttl".to_owned()),
                status: Some(CheckStatus::Passing),
                deregister_critical_service_after: Some(Duration::from_secs(60)),
                ..CheckRegistration::ttl(Duration::from_secs(10))
            }],
            ..ServiceRegistration::default()
        };
        assert_eq!(
            serde_json::to_string(&service).unwrap(),
            r#"{"Name":"web","ID":"web-1","Port":9090,"Tags":["a"],"Meta":{},"Weights":{"Passing":3,"Warning":1},"Checks":[{"CheckID":"web-1-ttl","TTL":"10000ms","Status":"passing","DeregisterCriticalServiceAfter":"60000ms"}]}"#
        );
    }
}
