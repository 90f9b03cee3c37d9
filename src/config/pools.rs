//! `[pools.NAME]`: where the backends come from, and how they are picked, dialled and left alone.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use serde::Serialize;
use toml::Spanned;

use super::agents::AgentTable;
use super::checks::Checks;
use super::faults::{Complaint, Reading, Zero, shown};
use super::resilience::TIERS;
use super::shape::{BackendShape, ConsulShape, PoolShape, ResolveShape};
use super::values::{BackendEntry, Section, Strings, Text};
use super::{
    Balance, Consistency, ConsulSource, HostPort, Pool, Relay, SendProxy, Source, Warning, WhenAllDown, address,
    checks, closing, connect, proxy_protocol, resilience, sockets,
};

/// More often would be a load for the servers that know the names, and nobody would notice.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);

/// A few: what is kept is taken from the sessions.
const MOST_PRECONNECTED: i64 = 1_000;

/// One entry of `backends`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StaticBackend {
    /// Written, or else `address` as written.
    pub id: String,
    /// Where it listens.
    pub address: HostPort,
    /// 0 = nothing new.
    pub weight: u16,
    /// Its tier: 0 is used first.
    pub priority: u8,
    /// Sessions at once.
    pub max_sessions: Option<u32>,
}

/// `resolve = { … }`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Resolve {
    /// Between look-ups of a name while nothing speaks against its address.
    pub refresh: Duration,
}

impl Default for Resolve {
    fn default() -> Self {
        Self { refresh: Duration::from_secs(30) }
    }
}

pub(super) fn pool(
    name: &str,
    section: &Section<PoolShape>,
    checks: &Checks,
    agents: &mut AgentTable<'_>,
    reading: &mut Reading<'_>,
) -> Pool {
    let shape = &section.shape;
    let balances = [("round_robin", Balance::RoundRobin), ("least_connections", Balance::LeastConnections)];
    let relays =
        [("auto", Relay::Auto), ("copy", Relay::Copy), ("splice", Relay::Splice), ("io_uring", Relay::IoUring)];
    let send_proxy = proxy_protocol::send(shape.send_proxy.as_ref().map(|entry| &entry.0), reading);
    let version = send_proxy.as_ref().map(SendProxy::version);
    let sources = sources(shape.source.as_ref(), reading);
    let check = checks.of_pool(shape.check.as_ref(), version, &sources, reading);
    let queue = connect::queue(shape.queue.as_ref(), reading);
    Pool {
        name: name.to_owned(),
        balance: reading.word("balance", &shape.balance, &balances, Balance::RoundRobin),
        source: source(name, section, agents, reading),
        resolve: resolve(shape.resolve.as_ref(), reading),
        resilience: resilience::resilience(shape, check.fall, reading),
        check,
        agent: checks::adviser(shape.agent.as_ref(), &sources, reading),
        queue,
        connect: connect::connect(shape.connect.as_ref(), reading),
        timeouts: connect::timeouts(shape.timeouts.as_ref(), reading),
        replay: connect::replay(shape, reading),
        closing: closing::closing(shape, reading),
        preconnect: reading.number("preconnect", &shape.preconnect, 0..=MOST_PRECONNECTED).unwrap_or(0),
        sources,
        send_proxy,
        tcp: sockets::back(shape.tcp.as_ref().map(|section| &section.shape), reading),
        relay: reading.word("relay", &shape.relay, &relays, Relay::Auto),
        when_all_down: when_all_down(shape, reading),
        required: shape.required.unwrap_or(true),
    }
}

fn resolve(section: Option<&Section<ResolveShape>>, reading: &mut Reading<'_>) -> Resolve {
    let written = section.and_then(|section| reading.duration("refresh", &section.shape.refresh, Zero::Refused));
    let Some(refresh) = written else { return Resolve::default() };
    if refresh < SHORTEST_REFRESH
        && let Some(written) = section.and_then(|section| section.shape.refresh.as_ref())
    {
        let hint = "write at least \"1s\"; when an address fails its name is looked up at once, whatever this says";
        reading.refuse(written.span(), "refresh", &shown(&written.get_ref().0), Complaint::new("too often", hint));
    }
    Resolve { refresh }
}

fn when_all_down(shape: &PoolShape, reading: &mut Reading<'_>) -> WhenAllDown {
    let words = [("refuse", WhenAllDown::Refuse), ("any", WhenAllDown::Any), ("wait", WhenAllDown::Wait)];
    let word = reading.word("when_all_down", &shape.when_all_down, &words, WhenAllDown::Refuse);
    if let (WhenAllDown::Wait, None, Some(written)) = (word, &shape.queue, &shape.when_all_down) {
        let hint = "add queue = { max_length = 1000, timeout = \"10s\" }: how many may wait, and for how long";
        reading.fault(written.span(), "when_all_down \"wait\" without `queue`: there is nowhere to wait", hint);
    }
    word
}

/// `source = "address"` or several.
fn sources(written: Option<&Strings>, reading: &mut Reading<'_>) -> Vec<IpAddr> {
    let mut sources: Vec<IpAddr> = Vec::new();
    for item in written.iter().flat_map(|written| &written.items) {
        let Some(address) = reading.parsed_item("source", item, address::source) else { continue };
        if sources.contains(&address) {
            let complaint = Complaint::new("it is written twice", "remove one of them");
            reading.refuse(item.span(), "source", &shown(item.get_ref()), complaint);
        }
        sources.push(address);
    }
    sources
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

fn source(name: &str, section: &Section<PoolShape>, agents: &mut AgentTable<'_>, reading: &mut Reading<'_>) -> Source {
    let shape = &section.shape;
    if let (Some(_), Some(consul)) = (&shape.backends, &shape.consul) {
        let message = format!("pool `{name}` has both `backends` and `consul`");
        reading.fault(consul.span.clone(), message, "keep one of the two, or make two pools of it");
    }
    if let Some(consul) = &shape.consul {
        return Source::Consul(consul_source(name, consul, agents, reading));
    }
    if let Some(backends) = &shape.backends {
        return Source::Static(static_backends(backends, reading));
    }
    let message = format!("pool `{name}` has neither `backends` nor `consul`");
    let hint = format!("add backends = [\"10.0.0.1:9090\"] or consul = {{ service = \"{}\" }}", name.escape_debug());
    reading.fault(section.span.clone(), message, hint);
    Source::Static(Vec::new())
}

fn static_backends(entries: &Spanned<Vec<BackendEntry>>, reading: &mut Reading<'_>) -> Vec<StaticBackend> {
    if entries.get_ref().is_empty() {
        reading.fault(entries.span(), "`backends` is empty", "add at least one: backends = [\"10.0.0.1:9090\"]");
    }
    let mut backends: Vec<StaticBackend> = Vec::new();
    let mut ids = HashSet::new();
    for entry in entries.get_ref() {
        let Some((backend, id_span)) = static_backend(entry, reading) else { continue };
        if !ids.insert(backend.id.clone()) {
            let message = format!("a second backend with the id {}", shown(&backend.id));
            reading.fault(id_span, message, "remove it, or give it an id of its own: { address = …, id = \"…\" }");
        }
        backends.push(backend);
    }
    backends
}

/// The backend, and where its id is written.
fn static_backend(entry: &BackendEntry, reading: &mut Reading<'_>) -> Option<(StaticBackend, Range<usize>)> {
    let BackendEntry { span, shape } = entry;
    let Some(written) = &shape.address else {
        reading.fault(span.clone(), "a backend without `address`", "add it: { address = \"10.0.0.1:9090\" }");
        return None;
    };
    // Before the address, so that all that is wrong with the entry is said at once.
    let weight = reading.number("weight", &shape.weight, 0..=65_535).unwrap_or(1);
    let id = reading.parsed("id", &shape.id, plain);
    let priority = priority(shape, reading);
    let max_sessions = reading.number("max_sessions", &shape.max_sessions, 1..=i64::from(u32::MAX));
    let key = if written.span() == *span { "backends" } else { "address" };
    let parse = |text: &str| Ok((text.to_owned(), address::backend(text)?));
    let (text, address) = reading.parsed_item(key, written, parse)?;
    let id_span = shape.id.as_ref().map_or_else(|| written.span(), Spanned::span);
    Some((StaticBackend { id: id.unwrap_or(text), address, weight, priority, max_sessions }, id_span))
}

/// `priority`, or the short form `backup = true` of its most usual value.
fn priority(shape: &BackendShape, reading: &mut Reading<'_>) -> u8 {
    if let (Some(backup), Some(_)) = (&shape.backup, &shape.priority) {
        let hint = "keep one of the two; `backup = true` is `priority = 1`";
        reading.fault(backup.span(), "`backup` next to `priority`", hint);
    }
    let backup = shape.backup.as_ref().is_some_and(|backup| *backup.get_ref());
    reading.number("priority", &shape.priority, 0..=TIERS as i64 - 1).unwrap_or_else(|| u8::from(backup))
}

fn consul_source(
    name: &str,
    section: &Section<ConsulShape>,
    agents: &mut AgentTable<'_>,
    reading: &mut Reading<'_>,
) -> ConsulSource {
    let shape = &section.shape;
    if shape.service.is_none() {
        let message = format!("`consul` of pool `{name}` has no `service`");
        let hint = format!("add the name of the service: service = \"{}\"", name.escape_debug());
        reading.fault(section.span.clone(), message, hint);
    }
    let tags = shape.tags.iter().flatten().filter_map(|tag| reading.parsed_item("tags", tag, plain)).collect();
    let warnings = [("serve", Warning::Serve), ("out", Warning::Out)];
    let consistencies =
        [("default", Consistency::Default), ("stale", Consistency::Stale), ("consistent", Consistency::Consistent)];
    ConsulSource {
        agent: agents.of_pool(shape, reading),
        service: reading.parsed("service", &shape.service, service).unwrap_or_default(),
        datacenter: agents.datacenter(&shape.datacenter, reading),
        tags,
        filter: reading.parsed("filter", &shape.filter, plain),
        warning: reading.word("warning", &shape.warning, &warnings, Warning::Serve),
        consistency: reading.word("consistency", &shape.consistency, &consistencies, Consistency::Default),
    }
}

/// A name that can be asked for: Consul takes nearly any, but these two have no place in a URL.
fn service(text: &str) -> Result<String, Complaint> {
    if matches!(text, "." | "..") {
        return Err(Complaint::new("no service has such a name", "write the name under which the service registers"));
    }
    plain(text)
}

/// A name of a datacenter, as Consul takes them.
pub(super) fn datacenter(value: &Text, reading: &mut Reading<'_>) -> Option<String> {
    reading.parsed("datacenter", value, |text| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if text.is_empty() || !text.chars().all(allowed) {
            return Err(Complaint::new("no datacenter has such a name", "use letters, digits, `-` and `_`"));
        }
        Ok(text.to_owned())
    })
}
