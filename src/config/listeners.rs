//! `[listeners.NAME]`, and which addresses of the file are taken.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::faults::Complaint;
use super::nearest::{nearest, suggest};
use super::table::Table;
use super::value::Value;
use super::{Accept, AcceptProxy, Host, HostPort, NetworkList, PerClient, Route, Sniff, TcpOptions, address};

/// `[listeners.NAME]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listener {
    /// The key in `[listeners]`.
    #[serde(skip)]
    pub name: String,
    /// At least one; no address twice in the file (port 0 excepted).
    pub bind: Vec<SocketAddr>,
    /// The name of the pool that sessions go to which no route takes; `None` = they are refused, and there are routes.
    pub pool: Option<String>,
    /// In their order: the first that holds decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// How clients are read; `None` where no route needs their bytes.
    pub sniff: Option<Sniff>,
    /// Sessions at once; `None` = only the process's limit.
    pub max_connections: Option<usize>,
    /// Which peers name their client in a PROXY header; `None` = none does.
    pub accept_proxy: Option<AcceptProxy>,
    /// Clients that may have a session; `None` = those that are not denied.
    pub allow: Option<NetworkList>,
    /// Clients that may not.
    pub deny: Option<NetworkList>,
    /// What one client may have; `None` = anything.
    pub per_client: Option<PerClient>,
    /// What all clients together may do; `None` = anything.
    pub accept: Option<Accept>,
    /// Options of the client sockets.
    pub tcp: TcpOptions,
    /// A client that came before may send its first bytes with its SYN (`TCP_FASTOPEN`, RFC 7413).
    pub fast_open: bool,
    /// A connection is accepted only once its client has sent something, or after this long (`TCP_DEFER_ACCEPT`, whole
    /// seconds); for protocols in which the client speaks first.
    pub defer_accept: Option<Duration>,
    /// Waiting connections that the kernel keeps per address (`listen(2)`; capped by `net.core.somaxconn`).
    pub backlog: u32,
}

impl Listener {
    /// The files of its lists of networks.
    pub fn list_files(&self) -> impl Iterator<Item = &Path> {
        [&self.allow, &self.deny].into_iter().filter_map(|list| list.as_ref()?.file())
    }

    /// `pools` are the names of those that there are; `hash_sni`: one of them hashes by server name.
    pub(super) fn read(
        name: &str,
        table: &Table<'_>,
        (pools, hash_sni): (&[&str], bool),
        taken: &mut TakenAddresses,
    ) -> Self {
        let (tcp, of_listening) = TcpOptions::front(&table.table("tcp"));
        let [allow, deny] = NetworkList::read_pair(table);
        let (routes, sniff) = Route::read_all(table, pools, hash_sni);
        Self {
            name: name.to_owned(),
            bind: binds(name, table, taken),
            pool: pool_name(name, table, pools),
            routes,
            sniff,
            max_connections: max_connections(table),
            accept_proxy: table.written_table("accept_proxy").map(|table| AcceptProxy::read(&table)),
            allow,
            deny,
            per_client: table.written_table("per_client").map(|table| PerClient::read(&table)),
            accept: table.written_table("accept").map(|table| Accept::read(&table)),
            tcp,
            fast_open: of_listening.fast_open,
            defer_accept: of_listening.defer_accept,
            backlog: of_listening.backlog,
        }
    }
}

impl Listener {
    /// The names of the pools that sessions may go to, each once.
    pub fn pools(&self) -> BTreeSet<&str> {
        let routed = self.routes.iter().flat_map(|route| route.target.pools()).map(|(pool, _)| pool);
        routed.chain(self.pool.as_deref()).collect()
    }

    /// The same for people, not endless.
    pub fn pools_shown(&self) -> String {
        shown_pools(&self.pools().into_iter().collect::<Vec<_>>())
    }
}

/// The names of a few pools, and how many more there are.
pub fn shown_pools(names: &[&str]) -> String {
    const MOST: usize = 4;
    let shown = names[..names.len().min(MOST)].join(", ");
    match names.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The key of a listener and of the whole process.
pub(super) fn max_connections(table: &Table<'_>) -> Option<usize> {
    if let Some(zero) = table.value("max_connections").filter(|value| value.whole_number() == Some(0)) {
        let hint = "leave it out for as many as there can be; to take no connections, remove the listener";
        return zero.refuse(Complaint::new("it would let no client in", hint));
    }
    table.number("max_connections", 1..=1_000_000_000)
}

fn binds(name: &str, table: &Table<'_>, taken: &mut TakenAddresses) -> Vec<SocketAddr> {
    let hint = "add where it listens: bind = \"0.0.0.0:8080\"";
    let Some(value) = table.value("bind") else {
        table.fault(format!("listener `{name}` has no `bind`"), hint);
        return Vec::new();
    };
    let mut addresses = Vec::new();
    for item in value.at_least_one(value.texts(), hint) {
        if let Some(address) = item.parsed(address::bind) {
            taken.take(address, &format!("listener `{name}`"), &item);
            addresses.push(address);
        }
    }
    addresses
}

fn pool_name(name: &str, table: &Table<'_>, pools: &[&str]) -> Option<String> {
    if !table.has("pool") && !table.has("routes") {
        let likely = nearest(name, pools.iter().copied()).or_else(|| pools.first().copied()).unwrap_or(name);
        let hint = format!("add the pool that its sessions go to: pool = \"{likely}\"");
        table.fault(format!("listener `{name}` has no `pool`"), hint);
    }
    table.parsed("pool", |pool| pool_named(pool, pools))
}

/// The name of one of these pools.
pub(super) fn pool_named(pool: &str, pools: &[&str]) -> Result<String, Complaint> {
    match pools {
        pools if pools.contains(&pool) => Ok(pool.to_owned()),
        [] => Err(Complaint::new("there is no such pool", format!("add a section [pools.{pool}]"))),
        pools => Err(Complaint::new("there is no such pool", suggest(pool, "pool", pools.iter().copied()))),
    }
}

/// The addresses that are taken in this file, each with what has it.
#[derive(Default)]
pub(super) struct TakenAddresses(Vec<(SocketAddr, String)>);

/// How the admin side is called among those that bind.
pub(super) const ADMIN: &str = "[admin]";

impl TakenAddresses {
    /// Complains of the value if the address is taken. Port 0 is a new port each time, so it never collides.
    pub(super) fn take(&mut self, address: SocketAddr, by: &str, written: &Value<'_>) {
        let overlaps = |(taken, first): &&(SocketAddr, String)| {
            let is_admin = [by, first].iter().any(|name| name.starts_with(ADMIN));
            taken.port() == address.port() && (covers(*taken, address, is_admin) || covers(address, *taken, is_admin))
        };
        if let Some((taken, first)) = self.0.iter().find(overlaps).filter(|_| address.port() != 0) {
            written.refuse::<()>(if *taken == address {
                Complaint::new(format!("{first} has this address already"), "give each its own address or port")
            } else {
                let hint = "the one is every address of this machine, the other among them: give each its own port, \
                            or write single addresses";
                Complaint::new(format!("{first} has {taken} already"), hint)
            });
        }
        self.add(address, by);
    }

    pub(super) fn add(&mut self, address: SocketAddr, by: &str) {
        self.0.push((address, by.to_owned()));
    }
}

/// Whether the kernel refuses the second address once the first is listened on, or the other way round. A listener's `[::]`
/// leaves IPv4 alone where the file gives that to another listener; between listeners and the admin side nothing does so.
fn covers(wide: SocketAddr, address: SocketAddr, is_admin: bool) -> bool {
    let same_family = wide.is_ipv4() == address.is_ipv4();
    wide == address || wide.ip().is_unspecified() && (same_family || is_admin && wide.is_ipv6())
}

/// Refuses a backend that is one of the file's own listeners: a session to it would come back and bring the next. What
/// only the kernel knows, such as the addresses of its interfaces, discovery finds out.
pub(super) fn refuse_loop(listeners: &[Listener], address: &HostPort) -> Result<(), Complaint> {
    let Host::Ip(ip) = address.host else { return Ok(()) };
    let Some(listener) = listener_at(listeners, SocketAddr::new(ip, address.port)) else { return Ok(()) };
    let what = format!("it is the file's own listener `{}`: its sessions would go round in a circle", listener.name);
    Err(Complaint::new(what, "write where the backend itself listens"))
}

/// The listener that certainly takes what goes to an address.
fn listener_at(listeners: &[Listener], address: SocketAddr) -> Option<&Listener> {
    let ip = address::dialled(address.ip());
    // `[::]` leaves IPv4 to others where the file gives it to one.
    let mut binds = listeners.iter().flat_map(|listener| &listener.bind);
    let v4_is_taken = binds.any(|bind| bind.is_ipv4() && bind.port() == address.port());
    listeners.iter().find(|listener| {
        listener.bind.iter().filter(|bind| bind.port() == address.port()).any(|bind| {
            let ours = bind.ip().to_canonical();
            let same_family = ours.is_ipv4() == ip.is_ipv4() || ours.is_ipv6() && !v4_is_taken;
            ours == ip || ours.is_unspecified() && same_family && ip.is_loopback()
        })
    })
}
