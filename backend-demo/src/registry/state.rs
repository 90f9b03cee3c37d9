//! The records of the registry, and the rules of its indexes. Pure: no I/O, and the caller gives the time.
//!
//! Every change takes the next number of one sequence, as in Consul's Raft log, and writes it to the changed record. So a query that
//! watches one service does not see changes of others.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::definition::{Definition, TtlCheck};

/// The status of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// The service works.
    Passing,
    /// The service works, with a problem.
    Warning,
    /// The service must not be used.
    Critical,
}

impl Status {
    /// Reads Consul's name of a status.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "passing" => Some(Self::Passing),
            "warning" => Some(Self::Warning),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }

    /// Consul's name of the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// The first index of a new agent, which has written some entries about itself before it answers.
pub(super) const BEGINNING: u64 = 11;

pub(super) const NODE_MAINTENANCE: &str = "_node_maintenance";

#[derive(Debug)]
pub(super) struct Service {
    pub(super) definition: Definition,
    pub(super) created: u64,
    pub(super) modified: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) notes: String,
    pub(super) output: String,
    pub(super) status: Status,
    /// Empty for a check of the node, which counts for every service.
    pub(super) service_id: String,
    ttl: Option<Duration>,
    expires: Option<Instant>,
    deregister_after: Option<Duration>,
    critical_since: Option<Instant>,
}

impl Check {
    /// A check without a TTL, which does not expire.
    fn standing(id: &str, name: &str, notes: &str, status: Status, service_id: &str) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            notes: notes.to_owned(),
            output: String::new(),
            status,
            service_id: service_id.to_owned(),
            ttl: None,
            expires: None,
            deregister_after: None,
            critical_since: None,
        }
    }

    fn is_maintenance(&self) -> bool {
        self.id == NODE_MAINTENANCE || self.id.starts_with("_service_maintenance:")
    }

    pub(super) fn kind(&self) -> &'static str {
        if self.ttl.is_some() { "ttl" } else { "" }
    }
}

#[derive(Debug)]
pub(super) struct KeyValue {
    pub(super) value: Vec<u8>,
    pub(super) created: u64,
    pub(super) modified: u64,
}

/// Instances that readers may not see.
#[derive(Clone, Debug)]
pub(super) struct HiddenInstances {
    /// Their ids; `None` = all.
    pub(super) ids: Option<BTreeSet<String>>,
    /// Whether answers say that ACLs filter them, as newer agents do.
    pub(super) announced: bool,
}

impl HiddenInstances {
    pub(super) fn hides(&self, id: &str) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.contains(id))
    }
}

#[derive(Debug)]
pub(super) struct Records {
    index: u64,
    /// Increases when the index goes back; then waiting queries are answered at once.
    pub(super) epoch: u64,
    pub(super) services: BTreeMap<String, Service>,
    pub(super) hidden: Option<HiddenInstances>,
    pub(super) checks: BTreeMap<String, Check>,
    /// By service name. Kept after the last instance has left, so that queries see the change.
    service_index: BTreeMap<String, u64>,
    catalog_index: u64,
    pub(super) keys: BTreeMap<String, KeyValue>,
    /// By key. Kept after a deletion.
    key_index: BTreeMap<String, u64>,
}

impl Records {
    pub(super) fn new() -> Self {
        let alive = Check {
            output: "Agent alive and reachable".to_owned(),
            ..Check::standing("serfHealth", "Serf Health Status", "", Status::Passing, "")
        };
        Self {
            index: BEGINNING,
            epoch: 0,
            services: BTreeMap::new(),
            hidden: None,
            checks: BTreeMap::from([(alive.id.clone(), alive)]),
            service_index: BTreeMap::new(),
            catalog_index: BEGINNING,
            keys: BTreeMap::new(),
            key_index: BTreeMap::new(),
        }
    }

    // --- indexes

    pub(super) fn index(&self) -> u64 {
        self.index
    }

    pub(super) fn service_index(&self, name: &str) -> u64 {
        self.service_index.get(name).copied().unwrap_or(1)
    }

    pub(super) fn catalog_index(&self) -> u64 {
        self.catalog_index
    }

    pub(super) fn key_index(&self, key: &str) -> u64 {
        self.key_index.get(key).copied().unwrap_or(1)
    }

    /// A new index for a service of which nothing changed: a real agent does that too.
    pub(super) fn touch(&mut self, name: &str) {
        self.index += 1;
        self.service_index.insert(name.to_owned(), self.index);
    }

    pub(super) fn rewind(&mut self, to: u64) {
        self.index = to.max(1);
        self.epoch += 1;
        let ceiling = self.index;
        let stamps = self.service_index.values_mut().chain(self.key_index.values_mut());
        stamps.chain([&mut self.catalog_index]).for_each(|stamp| *stamp = ceiling.min(*stamp));
        for service in self.services.values_mut() {
            service.created = ceiling.min(service.created);
            service.modified = ceiling.min(service.modified);
        }
        for entry in self.keys.values_mut() {
            entry.created = ceiling.min(entry.created);
            entry.modified = ceiling.min(entry.modified);
        }
    }

    /// Hides instances; `None` shows all.
    pub(super) fn set_hidden(&mut self, hidden: Option<HiddenInstances>) {
        self.hidden = hidden;
        self.touch_owner("");
    }

    /// As a restart of an agent with a data directory: indexes start again, and every check of a service is critical without output
    /// until it has run or, with a TTL, until the application reports. Maintenance is kept.
    pub(super) fn restart(&mut self, now: Instant) {
        self.rewind(BEGINNING);
        for check in self.checks.values_mut().filter(|check| !check.service_id.is_empty() && !check.is_maintenance()) {
            check.status = Status::Critical;
            check.output.clear();
            check.expires = check.ttl.map(|ttl| now + ttl);
            check.critical_since = Some(now);
        }
        // A restarted agent registers its services at its servers again.
        self.touch_owner("");
    }

    // --- services

    /// With `replace`, TTL checks that the new registration does not name are removed; maintenance stays.
    pub(super) fn register(&mut self, definition: Definition, checks: Vec<TtlCheck>, replace: bool, now: Instant) {
        let known = self.services.get(&definition.id);
        if known.is_none_or(|known| known.definition != definition) {
            let former = known.map(|known| (known.definition.name.clone(), known.created));
            self.touch(&definition.name);
            self.catalog_index = self.index;
            if let Some((name, _)) = former.as_ref().filter(|(name, _)| *name != definition.name) {
                self.touch(name);
            }
            let created = former.map_or(self.index, |(_, created)| created);
            let service = Service { definition: definition.clone(), created, modified: self.index };
            self.services.insert(definition.id.clone(), service);
        }
        let before = self.checks.len();
        let named = |id: &str| checks.iter().any(|check| check.id == id);
        self.checks
            .retain(|id, check| !replace || check.service_id != definition.id || check.ttl.is_none() || named(id));
        if self.checks.len() != before {
            self.touch(&definition.name);
        }
        for check in checks {
            self.add_check(&definition, check, now);
        }
    }

    fn add_check(&mut self, definition: &Definition, check: TtlCheck, now: Instant) {
        // As with an agent, a new registration keeps the status of the check.
        let known = self.checks.get(&check.id);
        let status = known.map_or(check.status, |known| known.status);
        let output = known.map_or_else(String::new, |known| known.output.clone());
        let critical_since = known.and_then(|known| known.critical_since);
        if known.is_none() {
            self.touch(&definition.name);
        }
        let check = Check {
            output,
            ttl: Some(check.ttl),
            expires: Some(now + check.ttl),
            deregister_after: check.deregister_after,
            critical_since: critical_since.or_else(|| (status == Status::Critical).then_some(now)),
            ..Check::standing(&check.id, &check.name, &check.notes, status, &definition.id)
        };
        self.checks.insert(check.id.clone(), check);
    }

    /// Returns false if there is no such service.
    pub(super) fn deregister(&mut self, id: &str) -> bool {
        let Some(service) = self.services.remove(id) else { return false };
        self.checks.retain(|_, check| check.service_id != id);
        self.touch(&service.definition.name);
        self.catalog_index = self.index;
        true
    }

    pub(super) fn instances<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Service> {
        self.services.values().filter(move |service| service.definition.name == name)
    }

    /// The checks of an instance: its own and the node's.
    pub(super) fn checks_of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Check> {
        self.checks.values().filter(move |check| check.service_id.is_empty() || check.service_id == id)
    }

    /// The worst status of an instance's checks.
    pub(super) fn status(&self, id: &str) -> Option<Status> {
        self.services.get(id)?;
        self.checks_of(id).map(|check| check.status).max()
    }

    // --- checks

    /// Returns false if there is no such TTL check.
    pub(super) fn update_check(&mut self, id: &str, status: Status, output: &str, now: Instant) -> bool {
        let Some(check) = self.checks.get_mut(id) else { return false };
        let Some(ttl) = check.ttl else { return false };
        check.expires = Some(now + ttl);
        check.output = output.to_owned();
        self.set_status(id, status, now);
        true
    }

    /// Sets the status of an instance's checks for good. Returns false if there is no such service.
    pub(super) fn pin_status(&mut self, service_id: &str, status: Status, now: Instant) -> bool {
        if !self.services.contains_key(service_id) {
            return false;
        }
        let own: Vec<String> =
            self.checks.values().filter(|c| c.service_id == service_id).map(|c| c.id.clone()).collect();
        if own.is_empty() {
            let id = format!("service:{service_id}");
            // A check that has run has an output, here an empty line.
            let output = "\n".to_owned();
            let check = Check { output, ..Check::standing(&id, "Pinned", "", Status::Passing, service_id) };
            self.checks.insert(id.clone(), check);
            self.set_status(&id, status, now);
            return true;
        }
        for id in own {
            if let Some(check) = self.checks.get_mut(&id) {
                check.expires = None;
                if check.output.is_empty() {
                    "\n".clone_into(&mut check.output);
                }
            }
            self.set_status(&id, status, now);
        }
        true
    }

    fn set_status(&mut self, id: &str, status: Status, now: Instant) {
        let Some(check) = self.checks.get_mut(id) else { return };
        // A new output alone is no change; an agent syncs outputs only every few minutes.
        if check.status == status {
            return;
        }
        check.status = status;
        check.critical_since = (status == Status::Critical).then_some(now);
        let service_id = check.service_id.clone();
        self.touch_owner(&service_id);
    }

    fn touch_owner(&mut self, service_id: &str) {
        let names: BTreeSet<String> = match self.services.get(service_id) {
            Some(service) => BTreeSet::from([service.definition.name.clone()]),
            None => self.services.values().map(|service| service.definition.name.clone()).collect(),
        };
        names.iter().for_each(|name| self.touch(name));
    }

    /// Starts the maintenance of a service, or with an empty id of the node; `None` ends it. Returns false if there is no such service.
    pub(super) fn maintenance(&mut self, service_id: &str, reason: Option<&str>) -> bool {
        let of_node = service_id.is_empty();
        if !of_node && !self.services.contains_key(service_id) {
            return false;
        }
        let id = if of_node { NODE_MAINTENANCE.to_owned() } else { format!("_service_maintenance:{service_id}") };
        let (name, noun) =
            if of_node { ("Node Maintenance Mode", "node") } else { ("Service Maintenance Mode", "service") };
        let changed = match reason {
            None => self.checks.remove(&id).is_some(),
            Some(_) if self.checks.contains_key(&id) => false,
            Some(reason) => {
                let default = format!(
                    "Maintenance mode is enabled for this {noun}, but no reason was provided. This is a default message."
                );
                let notes = if reason.is_empty() { &default } else { reason };
                self.checks.insert(id.clone(), Check::standing(&id, name, notes, Status::Critical, service_id));
                true
            }
        };
        if changed {
            self.touch_owner(service_id);
        }
        true
    }

    /// Applies the time: expired TTLs, and services that were critical for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        let late: Vec<String> =
            self.checks.values().filter(|c| c.expires.is_some_and(|at| at <= now)).map(|c| c.id.clone()).collect();
        for id in late {
            let Some(check) = self.checks.get_mut(&id) else { continue };
            check.expires = None;
            check.output = format!("TTL expired (last output before timeout follows): {}", check.output);
            self.set_status(&id, Status::Critical, now);
        }
        let gone: BTreeSet<String> = self
            .checks
            .values()
            .filter(|c| c.reaped_at().is_some_and(|at| at <= now))
            .map(|c| c.service_id.clone())
            .collect();
        for id in gone {
            self.deregister(&id);
        }
    }

    /// The next time at which [`Records::expire`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.checks.values().flat_map(|check| [check.expires, check.reaped_at()]).flatten().min()
    }

    // --- keys

    pub(super) fn put(&mut self, key: &str, value: Vec<u8>) {
        self.index += 1;
        let created = self.keys.get(key).map_or(self.index, |entry| entry.created);
        self.keys.insert(key.to_owned(), KeyValue { value, created, modified: self.index });
        self.key_index.insert(key.to_owned(), self.index);
    }

    pub(super) fn delete(&mut self, key: &str) {
        if self.keys.remove(key).is_none() {
            return;
        }
        self.index += 1;
        self.key_index.insert(key.to_owned(), self.index);
    }
}

impl Check {
    fn reaped_at(&self) -> Option<Instant> {
        self.critical_since?.checked_add(self.deregister_after?)
    }
}
