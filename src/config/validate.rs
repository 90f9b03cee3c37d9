//! From the shape of the whole file to a [`Config`]. Each value is judged where it stands, and then how they fit
//! together; a fault takes the default's place, so what comes out counts only if there was none.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::agents::{self, AgentTable};
use super::checks::Checks;
use super::faults::{Complaint, Reading, Zero, shown};
use super::nearest::{nearest, suggest};
use super::shape::{AdminShape, FileShape, ListenerShape, LogShape, ReloadShape, ShutdownShape};
use super::values::{Number, Section, SessionLogEntry};
use super::{
    Admin, Config, Listener, Log, LogFormat, Logged, Pool, Reload, SessionLog, Shutdown, access, address, loops, pools,
    proxy_protocol, sockets, whereabouts,
};

const LONGEST_NAME: usize = 64;
const SMALLEST_FILE: &str = r#"the smallest useful file is

    [listeners.web]
    bind = "0.0.0.0:8080"
    pool = "web"

    [pools.web]
    backends = ["10.0.0.1:9090", "10.0.0.2:9090"]"#;

pub(super) fn file(shape: &FileShape, reading: &mut Reading<'_>) -> Config {
    let mut agents = AgentTable::new(shape.consul.as_ref().map(|section| &section.shape), reading);
    for (name, _) in shape.checks.iter().flat_map(|checks| &checks.shape) {
        check_name("check", name, reading);
    }
    let checks = Checks::new(shape.checks.as_ref(), reading);
    let mut all_pools = Vec::new();
    for (name, section) in shape.pools.iter().flat_map(|pools| &pools.shape) {
        check_name("pool", name, reading);
        all_pools.push(pools::pool(name.get_ref(), section, &checks, &mut agents, reading));
    }

    let mut bound = TakenAddresses::default();
    let admin = admin(shape.admin.as_ref(), &mut bound, reading);
    let mut sections: Vec<_> = shape.listeners.iter().flat_map(|listeners| &listeners.shape).collect();
    // In the order of the file, so that of two with one address the second is at fault.
    sections.sort_by_key(|(_, section)| section.span.start);
    let mut listeners = Vec::new();
    for (name, section) in sections {
        check_name("listener", name, reading);
        listeners.push(listener(name.get_ref(), section, &all_pools, &mut bound, reading));
    }
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    loops::refuse(shape, &listeners, reading);
    if listeners.is_empty() {
        reading.fault_at_large("there is no listener", SMALLEST_FILE);
    }

    Config {
        state_dir: reading.parsed("state_dir", &shape.state_dir, access::path),
        workers: reading.number("workers", &shape.workers, 0..=1024).filter(|workers| *workers > 0),
        max_connections: max_connections(&shape.max_connections, reading),
        admin,
        log: log(shape.log.as_ref(), reading),
        shutdown: shutdown(shape.shutdown.as_ref(), reading),
        reload: reload(shape.reload.as_ref(), reading),
        listeners,
        ignored_variables: agents::unsupported(&all_pools, reading),
        pools: all_pools,
    }
}

/// The addresses that are taken in this file, and by whom.
#[derive(Default)]
struct TakenAddresses(Vec<(SocketAddr, String)>);

impl TakenAddresses {
    /// Port 0 is a new port each time, so it never collides.
    fn take(&mut self, address: SocketAddr, who: &str, span: Range<usize>, reading: &mut Reading<'_>) {
        let overlaps = |(taken, first): &&(SocketAddr, String)| {
            let is_admin = [who, first].iter().any(|who| who.starts_with(ADMIN));
            taken.port() == address.port() && (covers(*taken, address, is_admin) || covers(address, *taken, is_admin))
        };
        if address.port() != 0
            && let Some((taken, first)) = self.0.iter().find(overlaps)
        {
            let complaint = if *taken == address {
                Complaint::new(format!("{first} has this address already"), "give each its own address or port")
            } else {
                let hint = "the one is every address of this machine, the other among them: give each its own port, \
                            or write single addresses";
                Complaint::new(format!("{first} has {taken} already"), hint)
            };
            reading.refuse(span, "bind", &shown(&address.to_string()), complaint);
        }
        self.0.push((address, who.to_owned()));
    }
}

/// How the admin side is named among those who bind.
const ADMIN: &str = "[admin]";

/// Whether the kernel refuses the second address once the first is listened on, or the other way round. A listener's `[::]`
/// leaves IPv4 alone where the file gives that to another listener; between listeners and the admin side nobody sees to it.
fn covers(wide: SocketAddr, address: SocketAddr, is_admin: bool) -> bool {
    let same_family = wide.is_ipv4() == address.is_ipv4();
    wide == address || wide.ip().is_unspecified() && (same_family || is_admin && wide.is_ipv6())
}

fn check_name(what: &str, name: &Spanned<String>, reading: &mut Reading<'_>) {
    let text = name.get_ref();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if text.is_empty() || text.len() > LONGEST_NAME || !text.chars().all(allowed) {
        let message = format!("{} is no name for a {what}", shown(text));
        let hint = format!("a name is 1 to {LONGEST_NAME} letters, digits, `_`, `.` and `-`");
        reading.fault(name.span(), message, hint);
    }
}

fn max_connections(value: &Number, reading: &mut Reading<'_>) -> Option<usize> {
    if let Some(zero) = value.as_ref().filter(|value| *value.get_ref() == 0) {
        let hint = "leave it out for as many as there can be; to take no connections, remove the listener";
        reading.refuse(zero.span(), "max_connections", "0", Complaint::new("it would let nobody in", hint));
        return None;
    }
    reading.number("max_connections", value, 1..=1_000_000_000)
}

fn admin(section: Option<&Section<AdminShape>>, bound: &mut TakenAddresses, reading: &mut Reading<'_>) -> Admin {
    let default = AdminShape::default();
    let shape = section.map_or(&default, |section| &section.shape);
    let parse = |text: &str| if text == "off" { Ok(None) } else { address::bind(text).map(Some) };
    let bind = match reading.parsed("bind", &shape.bind, parse) {
        Some(bind) => bind,
        None => Some(whereabouts::usual_bind()),
    };
    if let (Some(address), Some(written)) = (bind, &shape.bind) {
        bound.take(address, ADMIN, written.span(), reading);
    } else if let Some(address) = bind {
        // Not written, so a collision is the listener's to hear of.
        bound.0.push((address, format!("{ADMIN} by default")));
    }
    let histograms = reading.number("backend_histograms", &shape.backend_histograms, 0..=1_000_000);
    Admin {
        bind,
        socket: reading.parsed("socket", &shape.socket, access::socket).unwrap_or_default(),
        hosts: access::hosts(shape.hosts.as_ref(), reading),
        read_token: access::token(
            ["read_token", "read_token_file"],
            &shape.read_token,
            &shape.read_token_file,
            reading,
        ),
        admin_token: access::token(
            ["admin_token", "admin_token_file"],
            &shape.admin_token,
            &shape.admin_token_file,
            reading,
        ),
        backend_histograms: histograms.unwrap_or(50),
    }
}

fn log(section: Option<&Section<LogShape>>, reading: &mut Reading<'_>) -> Log {
    let default = LogShape::default();
    let shape = section.map_or(&default, |section| &section.shape);
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    Log {
        format: reading.word("format", &shape.format, &formats, LogFormat::Text),
        level: reading.parsed("level", &shape.level, log_level).unwrap_or_else(|| "info".to_owned()),
        sessions: session_log(shape.sessions.as_ref(), reading),
    }
}

fn session_log(entry: Option<&SessionLogEntry>, reading: &mut Reading<'_>) -> SessionLog {
    const WORDS: [(&str, Logged); 3] = [("all", Logged::All), ("failed", Logged::Failed), ("none", Logged::None)];
    let (outcome, skip_empty) = match entry {
        None | Some(SessionLogEntry::Switch(true)) => (Logged::All, false),
        Some(SessionLogEntry::Switch(false)) => (Logged::None, false),
        Some(SessionLogEntry::Word(text)) => {
            (reading.word("sessions", &Some(text.clone()), &WORDS, Logged::All), false)
        }
        Some(SessionLogEntry::Table(Section { shape, .. })) => {
            let outcome = reading.word("outcome", &shape.outcome, &WORDS, Logged::All);
            (outcome, shape.skip_empty.unwrap_or(false))
        }
    };
    SessionLog { outcome, skip_empty }
}

/// The part of `tracing-subscriber`'s directives without spans and fields: `info,evenkeel::probe=debug`.
/// A word alone that is no level would be taken for a target there, and silence all the others.
pub(super) fn log_level(text: &str) -> Result<String, Complaint> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in text.split(',') {
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, directive),
        };
        if !LEVELS.contains(&level) {
            let what = format!("\"{}\" is no level", level.escape_debug());
            return Err(Complaint::new(what, suggest(level, "level", LEVELS)));
        }
        let is_target = |target: &str| {
            !target.is_empty() && target.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
        };
        if target.is_some_and(|target| !is_target(target)) {
            return Err(Complaint::new("a target is a module path", "write it like \"info,evenkeel::probe=debug\""));
        }
    }
    Ok(text.to_owned())
}

fn shutdown(section: Option<&Section<ShutdownShape>>, reading: &mut Reading<'_>) -> Shutdown {
    let default = ShutdownShape::default();
    let shape = section.map_or(&default, |section| &section.shape);
    Shutdown {
        delay: reading.duration("delay", &shape.delay, Zero::Allowed).unwrap_or(Duration::ZERO),
        timeout: reading.duration("timeout", &shape.timeout, Zero::Allowed).unwrap_or(Duration::from_secs(30)),
    }
}

fn reload(section: Option<&Section<ReloadShape>>, reading: &mut Reading<'_>) -> Reload {
    let default = ReloadShape::default();
    let shape = section.map_or(&default, |section| &section.shape);
    Reload {
        watch: shape.watch.unwrap_or(true),
        drain_timeout: reading.duration("drain_timeout", &shape.drain_timeout, Zero::Allowed),
    }
}

fn listener(
    name: &str,
    section: &Section<ListenerShape>,
    pools: &[Pool],
    bound: &mut TakenAddresses,
    reading: &mut Reading<'_>,
) -> Listener {
    let shape = &section.shape;
    let (tcp, front) = sockets::front(shape.tcp.as_ref().map(|section| &section.shape), reading);
    Listener {
        name: name.to_owned(),
        bind: binds(name, section, bound, reading),
        pool: pool_name(name, section, pools, reading),
        max_connections: max_connections(&shape.max_connections, reading),
        accept_proxy: proxy_protocol::accept(shape.accept_proxy.as_ref(), reading),
        tcp,
        fast_open: front.fast_open,
        defer_accept: front.defer_accept,
        backlog: front.backlog,
    }
}

fn binds(
    name: &str,
    section: &Section<ListenerShape>,
    bound: &mut TakenAddresses,
    reading: &mut Reading<'_>,
) -> Vec<SocketAddr> {
    let hint = "add where it listens: bind = \"0.0.0.0:8080\"";
    let Some(written) = &section.shape.bind else {
        reading.fault(section.span.clone(), format!("listener `{name}` has no `bind`"), hint);
        return Vec::new();
    };
    if written.items.is_empty() {
        reading.fault(written.span.clone(), "`bind` is empty", hint);
    }
    let mut addresses = Vec::new();
    for item in &written.items {
        if let Some(address) = reading.parsed_item("bind", item, address::bind) {
            bound.take(address, &format!("listener `{name}`"), item.span(), reading);
            addresses.push(address);
        }
    }
    addresses
}

fn pool_name(name: &str, section: &Section<ListenerShape>, pools: &[Pool], reading: &mut Reading<'_>) -> String {
    let known = pools.iter().map(|pool| pool.name.as_str());
    let Some(written) = &section.shape.pool else {
        let likely = nearest(name, known.clone()).or_else(|| known.clone().next()).unwrap_or(name);
        let hint = format!("add the pool that its sessions go to: pool = \"{likely}\"");
        reading.fault(section.span.clone(), format!("listener `{name}` has no `pool`"), hint);
        return String::new();
    };
    let Some(pool) = reading.text("pool", written) else {
        return String::new();
    };
    if !known.clone().any(|known| known == pool) {
        let hint = match pools {
            [] => format!("add a section [pools.{pool}]"),
            _ => suggest(&pool, "pool", known),
        };
        reading.refuse(written.span(), "pool", &shown(&pool), Complaint::new("there is no such pool", hint));
    }
    pool
}
