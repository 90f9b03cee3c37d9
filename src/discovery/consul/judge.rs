//! PURE. What an instance's checks and weights mean for it. Judged here and not by `?passing`, because warning,
//! maintenance and absence are different things.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use consul::{CheckStatus, HealthCheck, RejectedEntry, ServiceEntry};

use crate::config::{TIERS, Warning};
use crate::discovery::instance::Instance;
use crate::discovery::outside::{LONGEST_ID, bounded, host, zone};
use crate::endpoint::{Registry, Rejected, Rejections};

/// Those that can be used and those that can't, each with its reason.
pub(super) fn all(
    entries: &[ServiceEntry],
    undecoded: &[RejectedEntry],
    warning: Warning,
) -> (Vec<Instance>, Rejections) {
    let undecoded = undecoded.iter().map(|entry| Rejected { id: bounded(&entry.id), why: bounded(&entry.why) });
    let mut rejected: Rejections = undecoded.collect();
    let mut instances = Vec::with_capacity(entries.len());
    let mut ids = HashSet::with_capacity(entries.len());
    for entry in in_order(entries) {
        match one(entry, warning) {
            Ok(instance) if !ids.insert(Arc::clone(&instance.id)) => {
                let why = "another instance has the same node and service id".to_owned();
                rejected.push(|| Rejected { id: instance.id.to_string(), why });
            }
            Ok(instance) => instances.push(instance),
            Err(why) => {
                rejected.push(|| Rejected { id: bounded(&format!("{}/{}", entry.node.node, entry.service.id)), why })
            }
        }
    }
    (instances, rejected)
}

/// Consul's order changes from answer to answer. Of two with one identity it must not decide which is the instance, else
/// that would have another address, and another health, each time.
fn in_order(entries: &[ServiceEntry]) -> Vec<&ServiceEntry> {
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by_key(|entry| (&entry.node.node, &entry.service.id, entry.address(), entry.service.port));
    sorted
}

fn one(entry: &ServiceEntry, warning: Warning) -> Result<Instance, String> {
    let id = identity(&entry.node.node, &entry.service.id)?;
    if entry.service.port == 0 {
        return Err("no port".to_owned());
    }
    let host = host(entry.address())?;
    let (registry, note) = status(&entry.checks, warning);
    let weights = entry.service.weights;
    let warns = match registry {
        Registry::Warning => true,
        // What has run still counts.
        Registry::Unknown => entry.checks.iter().any(|check| check.status == CheckStatus::Warning),
        _ => false,
    };
    let weight = if warns { weights.warning } else { weights.passing };
    Ok(Instance {
        id,
        host,
        candidates: Vec::new(),
        port: entry.service.port,
        // 0 is not "default" but "nothing new", and so is what is below.
        weight: u16::try_from(weight.max(0)).unwrap_or(u16::MAX),
        position: 0,
        priority: meta(entry, "evenkeel_priority", 0..TIERS as u64).unwrap_or(0),
        zone: zone_of(entry),
        max_sessions: meta(entry, "evenkeel_max_sessions", 1..1 << 32),
        registry,
        note,
    })
}

/// `node/service_id`, fit for log lines, labels and commands. A registered name must not be able to forge a log line.
fn identity(node: &str, service: &str) -> Result<Arc<str>, String> {
    if node.is_empty() || service.is_empty() {
        return Err("no node name or no service id".to_owned());
    }
    let id = format!("{node}/{service}");
    if id.chars().any(char::is_control) {
        return Err("a control character in the node name or the service id".to_owned());
    }
    if id.len() > LONGEST_ID {
        return Err(format!("node name and service id are longer than {LONGEST_ID} bytes"));
    }
    Ok(id.into())
}

/// A number from the service's metadata. One that can't be meant counts as absent: a slip in a label must not empty a pool.
fn meta<T: TryFrom<u64>>(entry: &ServiceEntry, key: &str, range: Range<u64>) -> Option<T> {
    let number: u64 = entry.service.meta.get(key)?.trim().parse().ok()?;
    T::try_from(number).ok().filter(|_| range.contains(&number))
}

/// Where it is: what its own registration says, or else what its node's does. A name that can't be one counts as absent.
fn zone_of(entry: &ServiceEntry) -> Option<Arc<str>> {
    let ServiceEntry { node, service, .. } = entry;
    let named = [
        service.meta.get("evenkeel_zone"),
        service.meta.get("zone"),
        service.locality.as_ref().map(|locality| &locality.zone),
        node.meta.get("zone"),
        node.locality.as_ref().map(|locality| &locality.zone),
    ];
    named.into_iter().flatten().find_map(|name| zone(name).ok())
}

/// The worst of the checks, and which that is.
fn status(checks: &[HealthCheck], warning: Warning) -> (Registry, Option<Arc<str>>) {
    if let Some(check) = checks.iter().find(|check| is_maintenance(check)) {
        // Its reason, or Consul's own words where none was given, are in the notes.
        let words = if check.notes.is_empty() { &check.output } else { &check.notes };
        return (Registry::Maintenance, Some(note(check, words)));
    }
    let worst = checks.iter().rev().filter(|check| has_run(check)).max_by_key(|check| check.status);
    let (registry, decides) = match (worst.map(|check| check.status), warning) {
        (None | Some(CheckStatus::Passing), _) => (Registry::Passing, None),
        (Some(CheckStatus::Warning), Warning::Serve) => (Registry::Warning, worst),
        (Some(CheckStatus::Warning), Warning::Out) | (Some(CheckStatus::Critical), _) => (Registry::Critical, worst),
    };
    match checks.iter().find(|check| !has_run(check)) {
        Some(waits) if registry != Registry::Critical => (Registry::Unknown, Some(note(waits, ""))),
        _ => (registry, decides.map(|check| note(check, &check.output))),
    }
}

/// After an agent's restart every check is critical until it has run once, or until the application reports; it has no
/// output as long (seen on 1.8.7 and 1.10.11). The node's own check is no such one: it always says what it found.
fn has_run(check: &HealthCheck) -> bool {
    check.status != CheckStatus::Critical || !check.output.is_empty() || check.check_id == "serfHealth"
}

fn is_maintenance(check: &HealthCheck) -> bool {
    check.check_id == "_node_maintenance" || check.check_id.starts_with("_service_maintenance:")
}

fn note(check: &HealthCheck, words: &str) -> Arc<str> {
    let name = if check.name.is_empty() { &check.check_id } else { &check.name };
    match words.trim() {
        "" => bounded(name),
        words => format!("{}: {}", bounded(name), bounded(words)),
    }
    .into()
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
