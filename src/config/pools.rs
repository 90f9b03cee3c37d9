//! `[pools.NAME]`: where the backends come from, and how they are picked, dialled and left alone.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::agents::Agents;
use super::faults::{Complaint, Reading, Zero, shown};
use super::shape::{ConnectShape, ConsulShape, PoolShape, TimeoutsShape};
use super::values::{BackendEntry, Section, Strings, Text};
use super::{
    Balance, Connect, Consistency, ConsulSource, Pool, Relay, SendProxy, Source, StaticBackend, Timeouts, Warning,
    WhenAllDown, address, checks, closing, header, size, sockets,
};

/// A few: what is kept is taken from the sessions.
const MOST_PRECONNECTED: i64 = 1_000;
/// In percent: more than any number of attempts could use.
const MOST_RETRIES: i64 = 10_000;
const DEFAULT_IDLE: Duration = Duration::from_secs(3600);
pub(super) const DEFAULT_HEDGE: Duration = Duration::from_millis(300);
const DEFAULT_REPLAY_BUFFER: usize = 64 << 10;

pub(super) fn pool(
    name: &str,
    section: &Section<PoolShape>,
    agents: &mut Agents<'_>,
    reading: &mut Reading<'_>,
) -> Pool {
    let shape = &section.shape;
    let balances = [("round_robin", Balance::RoundRobin), ("least_connections", Balance::LeastConnections)];
    let relays =
        [("auto", Relay::Auto), ("copy", Relay::Copy), ("splice", Relay::Splice), ("io_uring", Relay::IoUring)];
    let send_proxy = header::send(shape.send_proxy.as_ref().map(|entry| &entry.0), reading);
    let version = send_proxy.as_ref().map(SendProxy::version);
    let all_down = [("refuse", WhenAllDown::Refuse), ("any", WhenAllDown::Any)];
    Pool {
        name: name.to_owned(),
        balance: reading.word("balance", &shape.balance, &balances, Balance::RoundRobin),
        source: source(name, section, agents, reading),
        check: Arc::new(checks::check(shape.check.as_ref(), version, reading)),
        connect: connect(shape.connect.as_ref(), reading),
        timeouts: timeouts(shape.timeouts.as_ref(), reading),
        closing: closing::closing(shape, reading),
        replay: replay(shape, reading),
        preconnect: reading.number("preconnect", &shape.preconnect, 0..=MOST_PRECONNECTED).unwrap_or(0),
        sources: sources(shape.source.as_ref(), reading),
        send_proxy,
        tcp: sockets::back(shape.tcp.as_ref().map(|section| &section.shape), reading),
        relay: reading.word("relay", &shape.relay, &relays, Relay::Auto),
        when_all_down: reading.word("when_all_down", &shape.when_all_down, &all_down, WhenAllDown::Refuse),
        required: shape.required.unwrap_or(true),
    }
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

fn source(name: &str, section: &Section<PoolShape>, agents: &mut Agents<'_>, reading: &mut Reading<'_>) -> Source {
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
    for entry in entries.get_ref() {
        let Some((backend, id_span)) = static_backend(entry, reading) else { continue };
        if backends.iter().any(|earlier| earlier.id == backend.id) {
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
    let key = if written.span() == *span { "backends" } else { "address" };
    let parse = |text: &str| Ok((text.to_owned(), address::backend(text)?));
    let (text, address) = reading.parsed_item(key, written, parse)?;
    let id_span = shape.id.as_ref().map_or_else(|| written.span(), Spanned::span);
    Some((StaticBackend { id: id.unwrap_or(text), address, weight }, id_span))
}

fn consul_source(
    name: &str,
    section: &Section<ConsulShape>,
    agents: &mut Agents<'_>,
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
        service: reading.parsed("service", &shape.service, plain).unwrap_or_default(),
        datacenter: agents.datacenter(&shape.datacenter, reading),
        tags,
        filter: reading.parsed("filter", &shape.filter, plain),
        warning: reading.word("warning", &shape.warning, &warnings, Warning::Serve),
        consistency: reading.word("consistency", &shape.consistency, &consistencies, Consistency::Default),
    }
}

fn connect(section: Option<&Section<ConnectShape>>, reading: &mut Reading<'_>) -> Connect {
    let default = ConnectShape::default();
    let shape = section.map_or(&default, |section| &section.shape);
    Connect {
        timeout: reading.duration("timeout", &shape.timeout, Zero::Refused).unwrap_or(Duration::from_secs(1)),
        attempts: reading.number("attempts", &shape.attempts, 1..=1000).unwrap_or(3),
        deadline: reading.duration("deadline", &shape.deadline, Zero::Refused).unwrap_or(Duration::from_secs(5)),
        retry_delay: reading
            .duration("retry_delay", &shape.retry_delay, Zero::Allowed)
            .unwrap_or(Duration::from_millis(200)),
        retry_budget: reading.number("retry_budget", &shape.retry_budget, 0..=MOST_RETRIES).unwrap_or(100),
        hedge: Some(reading.duration("hedge", &shape.hedge, Zero::Allowed).unwrap_or(DEFAULT_HEDGE))
            .filter(|hedge| !hedge.is_zero()),
    }
}

fn timeouts(section: Option<&Section<TimeoutsShape>>, reading: &mut Reading<'_>) -> Timeouts {
    let default = TimeoutsShape::default();
    let shape = section.map_or(&default, |section| &section.shape);
    let idle = reading.duration("idle", &shape.idle, Zero::Allowed).unwrap_or(DEFAULT_IDLE);
    Timeouts {
        idle: Some(idle).filter(|idle| !idle.is_zero()),
        half_close: reading.duration("half_close", &shape.half_close, Zero::Refused),
        first_byte: reading.duration("first_byte", &shape.first_byte, Zero::Allowed).filter(|limit| !limit.is_zero()),
    }
}

/// `replay` and `replay_buffer`.
fn replay(shape: &PoolShape, reading: &mut Reading<'_>) -> Option<usize> {
    let is_on = reading.word("replay", &shape.replay, &[("off", false), ("until_response", true)], false);
    let buffer = reading.parsed("replay_buffer", &shape.replay_buffer, replay_buffer);
    if let (Some(written), false) = (&shape.replay_buffer, is_on) {
        let hint = "add replay = \"until_response\", or leave it out";
        reading.fault(written.span(), "`replay_buffer` without `replay`: nothing is kept", hint);
    }
    is_on.then(|| buffer.unwrap_or(DEFAULT_REPLAY_BUFFER))
}

/// Every session that waits for its answer may hold as much.
fn replay_buffer(text: &str) -> Result<usize, Complaint> {
    match usize::try_from(size::parse(text)?) {
        Ok(bytes) if (1_024..=16 << 20).contains(&bytes) => Ok(bytes),
        _ => Err(Complaint::new("out of range", "write a size from \"1KiB\" to \"16MiB\"")),
    }
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
