//! Registrations: their JSON, and the definitions made from it.
//!
//! Parsed here once, so the records hold only valid definitions. Defaults and error texts are those of Consul's agent
//! (`/v1/agent/service/register`).

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::{state::Status, wire};
use crate::duration;

/// An instance of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Unique on this agent.
    pub id: String,
    /// The name of the service.
    pub name: String,
    /// A host name or an address; empty means the address of the agent.
    pub address: String,
    /// The port.
    pub port: u16,
    /// Words for selection.
    pub tags: Vec<String>,
    /// Pairs for selection.
    pub meta: BTreeMap<String, String>,
    /// Weight while all checks pass.
    pub passing_weight: u32,
    /// Weight while a check warns.
    pub warning_weight: u32,
}

impl Definition {
    /// An instance with the defaults of Consul: no tags, no meta, weights 1 and 1.
    pub fn new(name: &str, id: &str, address: &str, port: u16) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            address: address.to_owned(),
            port,
            tags: Vec::new(),
            meta: BTreeMap::new(),
            passing_weight: 1,
            warning_weight: 1,
        }
    }
}

/// A TTL check: critical unless its owner updates it in time.
#[derive(Clone, Debug)]
pub(super) struct TtlCheck {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) notes: String,
    pub(super) ttl: Duration,
    pub(super) status: Status,
    pub(super) deregister_after: Option<Duration>,
}

/// Reads the body of a registration. The error is the text of a 400.
pub(super) fn parse(body: &[u8]) -> Result<(Definition, Vec<TtlCheck>), String> {
    let wire: WireService = wire::read(body).map_err(|error| format!("Request decode failed: {error}"))?;
    if wire.name.is_empty() {
        return Err("Missing service name".to_owned());
    }
    let weights = wire.weights.unwrap_or_default();
    if weights.passing < 1 {
        return Err("Invalid Weights: Passing must be greater than 0".to_owned());
    }
    if weights.warning < 0 {
        return Err("Invalid Weights: Warning must be greater or equal than 0".to_owned());
    }
    let in_range = |weight: i64| u32::try_from(weight).ok().filter(|weight| *weight <= 65535);
    let (Some(passing_weight), Some(warning_weight)) = (in_range(weights.passing), in_range(weights.warning)) else {
        return Err("Invalid Weights: must be between 0 and 65535".to_owned());
    };

    let definition = Definition {
        id: if wire.id.is_empty() { wire.name.clone() } else { wire.id },
        name: wire.name,
        address: wire.address,
        port: wire.port,
        tags: wire.tags.unwrap_or_default(),
        meta: wire.meta.unwrap_or_default(),
        passing_weight,
        warning_weight,
    };
    let single = wire.check.into_iter();
    let wires: Vec<WireCheck> = single.chain(wire.checks.unwrap_or_default()).collect();
    let several = wires.len() > 1;
    let mut checks = Vec::with_capacity(wires.len());
    for (position, check) in wires.into_iter().enumerate() {
        let default_id = if several {
            format!("service:{}:{}", definition.id, position + 1)
        } else {
            format!("service:{}", definition.id)
        };
        checks.push(check.into_ttl(default_id, &definition.name)?);
    }
    Ok((definition, checks))
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
struct WireService {
    #[serde(default)]
    name: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: u16,
    tags: Option<Vec<String>>,
    meta: Option<BTreeMap<String, String>>,
    weights: Option<WireWeights>,
    check: Option<WireCheck>,
    checks: Option<Vec<WireCheck>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
struct WireWeights {
    passing: i64,
    warning: i64,
}

impl Default for WireWeights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
struct WireCheck {
    #[serde(default, rename = "checkid")]
    check_id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    notes: String,
    #[serde(default)]
    ttl: String,
    #[serde(default)]
    status: String,
    #[serde(default, rename = "deregistercriticalserviceafter")]
    deregister_critical_service_after: String,
}

impl WireCheck {
    fn into_ttl(self, default_id: String, service: &str) -> Result<TtlCheck, String> {
        if self.ttl.is_empty() {
            return Err("Invalid check: this development registry runs no checks itself, give a TTL".to_owned());
        }
        let ttl = duration::parse(&self.ttl)
            .filter(|ttl| !ttl.is_zero())
            .ok_or_else(|| format!("Invalid check: TTL {:?} is no duration", self.ttl))?;
        let status = match self.status.as_str() {
            "" => Status::Critical,
            text => Status::parse(text).ok_or_else(|| format!("Invalid check status: '{text}'"))?,
        };
        let deregister_after = match self.deregister_critical_service_after.as_str() {
            "" => None,
            text => Some(duration::parse(text).ok_or_else(|| format!("Invalid check: {text:?} is no duration"))?),
        };
        Ok(TtlCheck {
            id: if self.check_id.is_empty() { default_id } else { self.check_id },
            name: if self.name.is_empty() { format!("Service '{service}' check") } else { self.name },
            notes: self.notes,
            ttl,
            status,
            // Zero switches it off, as in Consul. Consul raises short times to a minute; tests need them.
            deregister_after: deregister_after.filter(|after| !after.is_zero()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_registrations_are_refused_with_a_reason() {
        let refusal = |body: &str| parse(body.as_bytes()).expect_err("refused");
        assert_eq!(refusal("{}"), "Missing service name");
        assert!(refusal("{").starts_with("Request decode failed"));
        assert!(refusal(r#"{"Name":"web","Weights":{"Passing":0,"Warning":1}}"#).contains("Passing"));
        assert!(refusal(r#"{"Name":"web","Check":{"HTTP":"http://x","Interval":"1s"}}"#).contains("TTL"));
        assert!(refusal(r#"{"Name":"web","Check":{"TTL":"soon"}}"#).contains("soon"));
    }

    #[test]
    fn names_are_read_as_go_reads_them() {
        let body = br#"{"name":"web","id":"web-1","Address":null,"tags":["A_b"],"meta":{"A_b":"C_d"},
                        "weights":{"passing":3,"warning":0},"check":{"check_id":"mine","ttl":"5s","status":"passing",
                        "deregister_critical_service_after":"1m"},"ENABLETAGOVERRIDE":true}"#;
        let (definition, checks) = parse(body).expect("valid");
        assert_eq!((definition.id.as_str(), definition.passing_weight, definition.warning_weight), ("web-1", 3, 0));
        assert_eq!((definition.tags[0].as_str(), definition.meta["A_b"].as_str()), ("A_b", "C_d"));
        assert_eq!((checks[0].id.as_str(), checks[0].deregister_after), ("mine", Some(Duration::from_secs(60))));
    }

    #[test]
    fn checks_are_named_as_the_agent_names_them() {
        let body = br#"{"Name":"web","ID":"web-1","Checks":[{"TTL":"5s"},{"TTL":"6s","CheckID":"mine"},{"TTL":"7s"}]}"#;
        let (_, checks) = parse(body).expect("valid");
        let ids: Vec<&str> = checks.iter().map(|check| check.id.as_str()).collect();
        assert_eq!(ids, ["service:web-1:1", "mine", "service:web-1:3"]);
        let (_, checks) = parse(br#"{"Name":"web","Check":{"TTL":"5s"}}"#).expect("valid");
        assert_eq!(checks[0].id, "service:web");
    }
}
