//! `[pools.NAME]`: where the backends come from, and how they are picked, dialled and left alone.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::agents::ConsulAgents;
use super::checks::Checks;
use super::clusters::EtcdClusters;
use super::effective::{Named, by_name};
use super::faults::{Complaint, shown};
use super::listeners::refuse_loop;
use super::table::{Table, longer_than_zero};
use super::value::{Form, Value};
use super::zone::zone_name;
use super::{
    Bandwidth, Check, Closing, Connect, ConsulSource, DnsSource, EtcdSource, FileSource, Hashing, HostPort, HttpSource,
    Listener, Queue, Rebalance, Resilience, SendProxy, Sticky, TIERS, TcpOptions, Timeouts, address, connect,
};

/// `[pools.NAME]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pool {
    /// The key in `[pools]`.
    #[serde(skip)]
    pub name: String,
    /// How a backend is picked.
    pub balance: Balance,
    /// By what, where the policy hashes.
    #[serde(flatten)]
    pub hashing: Hashing,
    /// Whether clients come back to the backend that they had last; `None` = they do not.
    pub sticky: Option<Sticky>,
    /// Where the backends come from.
    #[serde(flatten)]
    pub source: Source,
    /// How host names are looked up.
    pub resolve: Resolve,
    /// The active health check.
    pub check: Arc<Check>,
    /// What asks each backend's own opinion beside it, always of kind `agent`; `None` = nothing does.
    pub agent: Option<Arc<Check>>,
    /// Where sessions wait while all backends are at their cap; `None` = nowhere.
    pub queue: Option<Queue>,
    /// How a backend is dialled.
    pub connect: Connect,
    /// When a session has been quiet for too long.
    pub timeouts: Timeouts,
    /// When sessions are ended that could go on.
    #[serde(flatten)]
    pub closing: Closing,
    /// When sessions leave backends that have more than their part; `None` = never.
    pub rebalance: Option<Rebalance>,
    /// How many bytes a second may be moved; `None` = any number.
    pub bandwidth: Option<Bandwidth>,
    /// How many of a client's bytes are kept, until the backend answers, to be sent to another one if it fails before;
    /// `None` = none.
    #[serde(rename = "replay_buffer")]
    pub replay: Option<usize>,
    /// Which way the bytes take.
    pub relay: Relay,
    /// The PROXY header that begins each connection to a backend.
    pub send_proxy: Option<SendProxy>,
    /// Options of the backend sockets.
    pub tcp: TcpOptions,
    /// Connections kept open ahead of time per backend; 0 = none.
    pub preconnect: usize,
    /// Local addresses to dial from, in turn; empty = the kernel chooses.
    #[serde(rename = "source")]
    pub sources: Vec<IpAddr>,
    /// What becomes of a session when no backend is up.
    pub when_all_down: WhenAllDown,
    /// The pool where its sessions go while it has nothing for them.
    pub fallback: Option<String>,
    /// `/ready` waits for this pool.
    pub required: bool,
    /// What follows from how its backends behave.
    #[serde(flatten)]
    pub resilience: Resilience,
}

words! {
    /// `balance`
    pub enum Balance {
        /// Each backend in turn, in proportion to its weight.
        RoundRobin = "round_robin",
        /// The backend with the lowest (sessions + 1) / weight.
        LeastConnections = "least_connections",
        /// The backend with the lowest time × (sessions + 1) / weight, by what connects and first bytes take.
        LeastTime = "least_time",
        /// One that is drawn, in proportion to its weight.
        Random = "random",
        /// Of two that are drawn, the one with the lower (sessions + 1) / weight.
        PowerOfTwo = "power_of_two",
        /// The first in order that is under its cap.
        First = "first",
        /// The one that the client's hash leads to, with even shares.
        Maglev = "maglev",
        /// The one that the client's hash leads to; when a backend leaves, only its clients move.
        RingHash = "ring_hash",
    }
}

words! {
    /// `relay`
    pub enum Relay {
        /// Copied through user space, and spliced in the kernel while a direction is bulk.
        Auto = "auto",
        /// Always copied.
        Copy = "copy",
        /// Always spliced, as long as the kernel gives pipes.
        Splice = "splice",
        /// Small messages on the worker's io_uring, bulk spliced; refused at the start where the kernel does not allow it.
        IoUring = "io_uring",
    }
}

words! {
    /// `when_all_down`
    pub enum WhenAllDown {
        /// Close the client's connection.
        Refuse = "refuse",
        /// Try any backend that is not drained, disabled, in maintenance or removed.
        Any = "any",
        /// Let sessions wait in the pool's queue, which it has then.
        Wait = "wait",
    }
}

/// The keys that say where backends come from.
const SOURCES: [&str; 6] = ["backends", "consul", "etcd", "file", "dns", "http"];

/// Where a pool's backends come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Source {
    /// `backends = [...]`; at least one, ids unique.
    #[serde(rename = "backends", serialize_with = "by_name")]
    Static(Vec<StaticBackend>),
    /// `consul = { service = "…" }`
    #[serde(rename = "consul")]
    Consul(ConsulSource),
    /// `etcd = { prefix = "…" }`
    #[serde(rename = "etcd")]
    Etcd(EtcdSource),
    /// `file = "backends.json"`
    #[serde(rename = "file")]
    File(FileSource),
    /// `dns = { name = "…" }`
    #[serde(rename = "dns")]
    Dns(DnsSource),
    /// `http = { url = "…" }`
    #[serde(rename = "http")]
    Http(HttpSource),
}

/// How the registries of a file are reached.
pub(super) struct Registries<'t, 'a> {
    pub(super) consul: ConsulAgents<'t, 'a>,
    pub(super) etcd: EtcdClusters<'t, 'a>,
}

/// One entry of `backends`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StaticBackend {
    /// Written, or else `address` as written.
    #[serde(skip)]
    pub id: String,
    /// Where it listens.
    pub address: HostPort,
    /// 0 = nothing new.
    pub weight: u16,
    /// Its tier: 0 is used first.
    pub priority: u8,
    /// Where it is.
    pub zone: Option<String>,
    /// Sessions at once.
    pub max_sessions: Option<u32>,
    /// Its place in the list, where the policy goes by that: a difference, then, although the entries are the same.
    pub position: Option<u32>,
}

/// `resolve = { … }`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Resolve {
    /// Between look-ups of a name while nothing speaks against its address.
    pub refresh: Duration,
}

impl Pool {
    pub(super) fn read(
        name: &str,
        table: &Table<'_>,
        listeners: &[Listener],
        checks: &Checks,
        registries: &mut Registries<'_, '_>,
    ) -> Self {
        let mut source = Source::read(name, table, listeners, registries);
        let sources = table.all_different("source", address::source).unwrap_or_default();
        let send_proxy = SendProxy::read(table);
        let check = checks.of_pool(table, send_proxy.as_ref().map(SendProxy::version), &sources);
        let balance = table.word("balance").unwrap_or(Balance::RoundRobin);
        if let (Balance::First, Source::Static(backends)) = (balance, &mut source) {
            (0..).zip(backends).for_each(|(position, backend)| backend.position = Some(position));
        }
        Self {
            name: name.to_owned(),
            balance,
            hashing: Hashing::read(table, balance),
            sticky: Sticky::read(table, balance),
            source,
            resolve: Resolve::read(&table.table("resolve")),
            resilience: Resilience::read(table, check.fall),
            check,
            agent: table.written_table("agent").map(|agent| Arc::new(Check::of_agent(&agent, &sources))),
            queue: table.written_table("queue").and_then(|queue| Queue::read(&queue)),
            connect: Connect::read(&table.table("connect")),
            timeouts: Timeouts::read(&table.table("timeouts")),
            replay: connect::replay(table),
            closing: Closing::read(table),
            rebalance: Rebalance::read(table, balance),
            bandwidth: Bandwidth::read(table),
            // A few: what is kept is taken from the sessions.
            preconnect: table.number("preconnect", 0..=1_000).unwrap_or(0),
            sources,
            send_proxy,
            tcp: TcpOptions::back(&table.table("tcp")),
            relay: table.word("relay").unwrap_or(Relay::Auto),
            when_all_down: WhenAllDown::read(table),
            fallback: None,
            required: table.switch("required").unwrap_or(true),
        }
    }
}

impl Balance {
    /// Whether a client meets the same backend each time.
    pub fn hashes(self) -> bool {
        match self {
            Self::Maglev | Self::RingHash => true,
            Self::RoundRobin
            | Self::LeastConnections
            | Self::LeastTime
            | Self::Random
            | Self::PowerOfTwo
            | Self::First => false,
        }
    }
}

impl WhenAllDown {
    fn read(pool: &Table<'_>) -> Self {
        let word = pool.word("when_all_down").unwrap_or(Self::Refuse);
        if let Some(value) = pool.value("when_all_down").filter(|_| word == Self::Wait && !pool.has("queue")) {
            let hint = "add queue = { max_length = 1000, timeout = \"10s\" }: how many may wait, and for how long";
            value.fault("when_all_down \"wait\" without `queue`: there is nowhere to wait", hint);
        }
        word
    }
}

impl Resolve {
    fn read(table: &Table<'_>) -> Self {
        let refresh = table.time_with("refresh", |time| {
            longer_than_zero(time)?;
            // More often would be a load for the servers that know the names, for nothing.
            if time < Duration::from_secs(1) {
                let hint =
                    "write at least \"1s\"; when an address fails its name is looked up at once, whatever this says";
                return Err(Complaint::new("too often", hint));
            }
            Ok(())
        });
        refresh.map_or_else(Self::default, |refresh| Self { refresh })
    }
}

impl Default for Resolve {
    fn default() -> Self {
        Self { refresh: Duration::from_secs(30) }
    }
}

impl Source {
    /// The word for it in metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Static(_) => "static",
            Self::Consul(_) => "consul",
            Self::Etcd(_) => "etcd",
            Self::File(_) => "file",
            Self::Dns(_) => "dns",
            Self::Http(_) => "http",
        }
    }

    fn read(name: &str, pool: &Table<'_>, listeners: &[Listener], registries: &mut Registries<'_, '_>) -> Self {
        let written: Vec<_> = SOURCES.into_iter().filter_map(|key| Some((key, pool.value(key)?))).collect();
        if let [(first, _), (second, value), ..] = &written[..] {
            let message = format!("pool `{name}` has both `{first}` and `{second}`");
            value.fault(message, "keep one of the two, or make two pools of it");
        }
        let Some((key, value)) = written.into_iter().next() else {
            let name_shown = name.escape_debug();
            let hint = format!("add backends = [\"10.0.0.1:9090\"] or consul = {{ service = \"{name_shown}\" }}");
            pool.fault(format!("pool `{name}` does not say where its backends come from"), hint);
            return Self::Static(Vec::new());
        };
        match key {
            "backends" => Self::Static(StaticBackend::read_all(&value, listeners)),
            "file" => Self::File(FileSource::read(&value)),
            _ => match value.table() {
                Some(table) if key == "http" => Self::Http(HttpSource::read(&table)),
                Some(table) if key == "dns" => Self::Dns(DnsSource::read(&table)),
                Some(table) if key == "etcd" => Self::Etcd(EtcdSource::read(name, &table, &mut registries.etcd)),
                Some(table) => Self::Consul(ConsulSource::read(name, &table, &mut registries.consul)),
                // What is written there is no table, which is noted.
                None => Self::Static(Vec::new()),
            },
        }
    }
}

impl StaticBackend {
    fn read_all(backends: &Value<'_>, listeners: &[Listener]) -> Vec<Self> {
        let hint = "add at least one: backends = [\"10.0.0.1:9090\"]";
        let (mut all, mut ids) = (Vec::new(), HashSet::new());
        for entry in backends.at_least_one(backends.items(), hint) {
            let Some((backend, id)) = Self::read(&entry, listeners) else { continue };
            if !ids.insert(backend.id.clone()) {
                let message = format!("a second backend with the id {}", shown(&backend.id));
                id.fault(message, "remove it, or give it an id of its own: { address = …, id = \"…\" }");
            }
            all.push(backend);
        }
        all
    }

    /// The backend, and what its id is taken from.
    fn read<'a>(entry: &Value<'a>, listeners: &[Listener]) -> Option<(Self, Value<'a>)> {
        let parse = |text: &str| {
            let address = address::backend(text)?;
            refuse_loop(listeners, &address)?;
            Ok((text.to_owned(), address))
        };
        match entry.form() {
            Form::Text => {
                let (id, address) = entry.parsed(parse)?;
                let backend =
                    Self { id, address, weight: 1, priority: 0, zone: None, max_sessions: None, position: None };
                Some((backend, *entry))
            }
            Form::Table => {
                let table = entry.table()?;
                if !table.has("address") {
                    table.fault("a backend without `address`", "add it: { address = \"10.0.0.1:9090\" }");
                }
                // Each key is read whatever becomes of the others, so that all that is wrong is said at once.
                let (address, id) = (table.parsed("address", parse), table.parsed("id", plain));
                let weight = table.number("weight", 0..=65_535).unwrap_or(1);
                let max_sessions = table.number("max_sessions", 1..=i64::from(u32::MAX));
                let (priority, zone) = (priority(&table), table.parsed("zone", zone_name));
                let (text, address) = address?;
                let id_from = table.value("id").or_else(|| table.value("address"))?;
                let id = id.unwrap_or(text);
                Some((Self { id, address, weight, priority, zone, max_sessions, position: None }, id_from))
            }
            _ => entry.wrong("a string \"host:port\" or a table { address = \"host:port\" }"),
        }
    }
}

impl Named for StaticBackend {
    fn name(&self) -> &str {
        &self.id
    }
}

/// `priority`, or the short form `backup = true` of its most usual value.
fn priority(backend: &Table<'_>) -> u8 {
    let (priority, backup) = (backend.number("priority", 0..=TIERS as i64 - 1), backend.switch("backup"));
    if let Some(value) = backend.value("backup").filter(|_| backend.has("priority")) {
        value.fault("`backup` next to `priority`", "keep one of the two; `backup = true` is `priority = 1`");
    }
    priority.unwrap_or_else(|| u8::from(backup == Some(true)))
}

/// A text that must not be empty and holds no control characters.
pub(super) fn plain(text: &str) -> Result<String, Complaint> {
    if text.trim().is_empty() {
        return Err(Complaint::new("it is empty", "write a value, or leave the key out"));
    }
    if text.chars().any(char::is_control) {
        return Err(Complaint::new("it has a control character", "remove it"));
    }
    Ok(text.to_owned())
}
