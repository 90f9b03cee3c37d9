//! The keys, their history, leases and tokens, and the answers about them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use registry_client::base64;
use serde_json::{Value, json};

use super::GatewayFault;

#[derive(Debug)]
pub(super) struct Store {
    pub(super) cluster: u64,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) keys: BTreeMap<Vec<u8>, Entry>,
    /// What happened: the revision, the key, and the event.
    history: Vec<(i64, Vec<u8>, Value)>,
    leases: BTreeMap<i64, Lease>,
    pub(super) user: Option<(String, String)>,
    /// The only valid one.
    pub(super) token: u64,
    pub(super) fault: Option<GatewayFault>,
    /// How often all connections were cut.
    pub(super) cuts: u64,
    /// The paths of all requests.
    pub(super) asked: Vec<String>,
    pub(super) full_ranges: usize,
    pub(super) connections: usize,
    pub(super) most_connections: usize,
    next_lease: i64,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) value: Vec<u8>,
    mod_revision: i64,
    lease: i64,
}

#[derive(Debug)]
struct Lease {
    time: Duration,
    until: Instant,
}

/// A refusal of gRPC: HTTP status, code, message.
pub(super) type Refusal = (u16, u16, &'static str);

const NO_LEASE: Refusal = (404, 5, "etcdserver: requested lease not found");

impl Store {
    pub(super) fn new() -> Self {
        Self {
            cluster: 7,
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            history: Vec::new(),
            leases: BTreeMap::new(),
            user: None,
            token: 1,
            fault: None,
            cuts: 0,
            asked: Vec::new(),
            full_ranges: 0,
            connections: 0,
            most_connections: 0,
            next_lease: 100,
        }
    }

    pub(super) fn lose(&mut self) {
        (self.revision, self.compacted) = (1, 0);
        self.keys.clear();
        self.history.clear();
        self.leases.clear();
    }

    pub(super) fn header(&self) -> Value {
        json!({ "cluster_id": self.cluster.to_string(), "member_id": "1", "revision": self.revision.to_string(), "raft_term": "2" })
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8], lease: i64) {
        self.revision += 1;
        let entry = Entry { value: value.to_vec(), mod_revision: self.revision, lease };
        let event = json!({ "kv": pair(key, &entry) });
        self.keys.insert(key.to_vec(), entry);
        self.history.push((self.revision, key.to_vec(), event));
    }

    /// All in one revision.
    pub(super) fn delete(&mut self, keys: &[Vec<u8>]) {
        let there: Vec<_> = keys.iter().filter(|key| self.keys.remove(*key).is_some()).collect();
        if there.is_empty() {
            return;
        }
        self.revision += 1;
        for key in there {
            let kv = json!({ "key": base64::encode(key), "mod_revision": self.revision.to_string() });
            self.history.push((self.revision, key.clone(), json!({ "type": "DELETE", "kv": kv })));
        }
    }

    /// The leases that are over after that much more time.
    pub(super) fn expire(&mut self, later: Duration) {
        let now = Instant::now();
        let is_over = |lease: &Lease| lease.until.saturating_duration_since(now) <= later;
        let over: Vec<i64> = self.leases.iter().filter(|(_, lease)| is_over(lease)).map(|(id, _)| *id).collect();
        for id in over {
            self.end(id);
        }
    }

    fn end(&mut self, lease: i64) -> bool {
        let keys: Vec<_> =
            self.keys.iter().filter(|(_, entry)| entry.lease == lease).map(|(key, _)| key.clone()).collect();
        self.delete(&keys);
        self.leases.remove(&lease).is_some()
    }

    pub(super) fn has_leases(&self) -> bool {
        !self.leases.is_empty()
    }

    /// Whether a request with this token is answered.
    pub(super) fn admit(&self, path: &str, token: Option<&str>) -> Result<(), Refusal> {
        if self.fault == Some(GatewayFault::Forbidden) {
            return Err((403, 7, "etcdserver: permission denied"));
        }
        match (&self.user, token) {
            (None, _) => Ok(()),
            _ if path == "/v3/auth/authenticate" => Ok(()),
            (Some(_), None) => Err((400, 3, "etcdserver: user name is empty")),
            (Some(_), Some(token)) if token == format!("token.{}", self.token) => Ok(()),
            _ => Err((401, 16, "etcdserver: invalid auth token")),
        }
    }

    pub(super) fn answer(&mut self, path: &str, body: &Value) -> Result<Value, Refusal> {
        let bytes = |name: &str| base64::decode(body[name].as_str().unwrap_or_default()).unwrap_or_default();
        let number = |name: &str| match &body[name] {
            Value::String(text) => text.parse().unwrap_or_default(),
            value => value.as_i64().unwrap_or_default(),
        };
        match path {
            "/v3/kv/range" => {
                let count_only = body["count_only"] == true;
                self.full_ranges += usize::from(!count_only);
                Ok(self.range(&bytes("key"), &bytes("range_end"), count_only))
            }
            "/v3/kv/put" => {
                let lease = number("lease");
                if lease != 0 && !self.leases.contains_key(&lease) {
                    return Err(NO_LEASE);
                }
                self.put(&bytes("key"), &bytes("value"), lease);
                Ok(json!({ "header": self.header() }))
            }
            "/v3/kv/deleterange" => {
                self.delete(&[bytes("key")]);
                Ok(json!({ "header": self.header() }))
            }
            "/v3/lease/grant" => {
                self.next_lease += 1;
                let time = Duration::from_secs(number("TTL").try_into().unwrap_or_default());
                self.leases.insert(self.next_lease, Lease { time, until: Instant::now() + time });
                Ok(
                    json!({ "header": self.header(), "ID": self.next_lease.to_string(), "TTL": time.as_secs().to_string() }),
                )
            }
            "/v3/lease/keepalive" => {
                let (header, id) = (self.header(), number("ID"));
                // As etcd says it: without a TTL it is over.
                let mut result = json!({ "header": header, "ID": id.to_string() });
                if let Some(lease) = self.leases.get_mut(&id) {
                    lease.until = Instant::now() + lease.time;
                    result["TTL"] = lease.time.as_secs().to_string().into();
                }
                Ok(json!({ "result": result }))
            }
            "/v3/lease/revoke" => {
                if self.end(number("ID")) {
                    Ok(json!({ "header": self.header() }))
                } else {
                    Err(NO_LEASE)
                }
            }
            "/v3/auth/authenticate" => self.authenticate(body),
            _ => Err((404, 5, "Not Found")),
        }
    }

    fn authenticate(&self, body: &Value) -> Result<Value, Refusal> {
        let Some((name, password)) = &self.user else {
            return Err((400, 9, "etcdserver: authentication is not enabled"));
        };
        if body["name"] != **name || body["password"] != **password {
            return Err((400, 3, "etcdserver: authentication failed, invalid user ID or password"));
        }
        Ok(json!({ "header": self.header(), "token": format!("token.{}", self.token) }))
    }

    fn range(&self, first: &[u8], end: &[u8], count_only: bool) -> Value {
        let is_in = |key: &[u8]| if end.is_empty() { key == first } else { key >= first && (end == [0] || key < end) };
        let found: Vec<_> =
            self.keys.iter().filter(|(key, _)| is_in(key)).map(|(key, entry)| pair(key, entry)).collect();
        let mut answer = json!({ "header": self.header() });
        if !found.is_empty() {
            answer["count"] = found.len().to_string().into();
            if !count_only {
                answer["kvs"] = found.into();
            }
        }
        answer
    }

    /// The next message of a watch: what has happened since `from`, and from where to go on.
    pub(super) fn since(&self, from: i64, first: &[u8], end: &[u8]) -> Option<(Value, i64)> {
        let is_in = |key: &[u8]| key >= first && (end == [0] || key < end);
        let is_new = |(revision, key, _): &&(i64, Vec<u8>, Value)| *revision >= from && is_in(key);
        let events: Vec<_> = self.history.iter().filter(is_new).map(|(.., event)| event.clone()).collect();
        let message = json!({ "result": { "header": self.header(), "events": events } });
        (!events.is_empty()).then_some((message, self.revision + 1))
    }
}

fn pair(key: &[u8], entry: &Entry) -> Value {
    let mut pair = json!({ "key": base64::encode(key), "mod_revision": entry.mod_revision.to_string() });
    if !entry.value.is_empty() {
        pair["value"] = base64::encode(&entry.value).into();
    }
    if entry.lease != 0 {
        pair["lease"] = entry.lease.to_string().into();
    }
    pair
}
