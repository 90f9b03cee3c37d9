//! What a balancer is told to do, after validation: every value here is usable as it stands.
//! Written by [`super::load`] alone; read by everybody. Durations are never zero unless a field says so.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::access::Admin;
use super::check::{Check, CheckKind};
use super::closing::Closing;
use super::connect::{Connect, Queue, Timeouts};
use super::pools::{Resolve, StaticBackend};
use super::process::{Log, Reload, Shutdown};
use super::proxy_protocol::{AcceptProxy, SendProxy};
use super::resilience::Resilience;

/// The whole of `lb.toml`, validated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Where what has to survive a restart is kept; `None` = nowhere.
    pub state_dir: Option<PathBuf>,
    /// Data-plane threads; `None` = one per CPU that this process may use.
    pub workers: Option<usize>,
    /// Sessions that the whole process takes at once; `None` = what the fd limit holds.
    pub max_connections: Option<usize>,
    /// The admin listener.
    pub admin: Admin,
    /// What is logged and how.
    pub log: Log,
    /// How a stop goes.
    pub shutdown: Shutdown,
    /// How a new configuration comes into effect.
    pub reload: Reload,
    /// In the order of their names.
    pub listeners: Vec<Listener>,
    /// In the order of their names. Every `Listener::pool` is the name of one of them.
    pub pools: Vec<Pool>,
    /// Variables of Consul's own tools that are set, would change how an agent is asked, and are not supported.
    #[serde(skip)]
    pub ignored_variables: Vec<&'static str>,
}

impl Config {
    /// The pool of that name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The pools whose checks run programs.
    pub fn pools_that_execute(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter().filter(|pool| matches!(pool.check.kind, CheckKind::Exec(_)))
    }
}

/// `[listeners.NAME]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listener {
    /// The key in `[listeners]`.
    pub name: String,
    /// At least one; no address twice in the file (port 0 excepted).
    pub bind: Vec<SocketAddr>,
    /// The name of the pool that its sessions go to.
    pub pool: String,
    /// Sessions at once; `None` = only the process's limit.
    pub max_connections: Option<usize>,
    /// Which peers name their client in a PROXY header; `None` = none does.
    pub accept_proxy: Option<AcceptProxy>,
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

/// `[pools.NAME]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pool {
    /// The key in `[pools]`.
    pub name: String,
    /// How a backend is picked.
    pub balance: Balance,
    /// Where the backends come from.
    #[serde(flatten)]
    pub source: Source,
    /// How host names are looked up.
    pub resolve: Resolve,
    /// The active health check.
    pub check: Arc<Check>,
    /// What asks each backend's own opinion beside it, always of kind `agent`; `None` = nobody does.
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
    /// `/ready` waits for this pool.
    pub required: bool,
    /// What follows from how its backends behave.
    #[serde(flatten)]
    pub resilience: Resilience,
}

/// `balance`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each backend in turn, in proportion to its weight.
    RoundRobin,
    /// The backend with the lowest (sessions + 1) / weight.
    LeastConnections,
}

impl Balance {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
        }
    }
}

/// `relay`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Relay {
    /// Copied through user space, and spliced in the kernel while a direction is bulk.
    Auto,
    /// Always copied.
    Copy,
    /// Always spliced, as long as the kernel gives pipes.
    Splice,
    /// Small messages on the worker's io_uring, bulk spliced; refused at the start where the kernel does not allow it.
    IoUring,
}

/// `when_all_down`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenAllDown {
    /// Close the client's connection.
    Refuse,
    /// Try any backend that is not drained, disabled, in maintenance or removed.
    Any,
    /// Let sessions wait in the pool's queue, which it has then.
    Wait,
}

impl WhenAllDown {
    /// The word for it in the configuration and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Any => "any",
            Self::Wait => "wait",
        }
    }
}

/// Where a pool's backends come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Source {
    /// `backends = [...]`; at least one, ids unique.
    #[serde(rename = "backends")]
    Static(Vec<StaticBackend>),
    /// `consul = { service = "…" }`
    #[serde(rename = "consul")]
    Consul(ConsulSource),
}

impl Source {
    /// The word for it in metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Static(_) => "static",
            Self::Consul(_) => "consul",
        }
    }
}

/// `host:port` where the host may be a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// An address, or a name for the resolver.
    pub host: Host,
    /// Never 0.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// The host part of a [`HostPort`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// No look-up needed.
    Ip(IpAddr),
    /// Looked up by the system's resolver.
    Name(String),
}

/// `consul = { … }` of a pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConsulSource {
    /// The agent to ask; equal settings are one `Arc`, so that connections are shared.
    #[serde(flatten)]
    pub agent: Arc<ConsulAgent>,
    /// The service's name, not escaped.
    pub service: String,
    /// Asked of the agent's own datacenter if unset.
    pub datacenter: Option<String>,
    /// All of them must be on an instance.
    pub tags: Vec<String>,
    /// A Consul filter expression, handed on as it is.
    pub filter: Option<String>,
    /// What an instance with a warning check gets.
    pub warning: Warning,
    /// Which reads are good enough.
    pub consistency: Consistency,
}

/// `[consul]`: how an agent is reached. Values from `CONSUL_*` are already in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ConsulAgent {
    /// `http://host:port`, `https://host:port` or `unix:///path`.
    pub address: String,
    /// Sent as `X-Consul-Token`.
    pub token: Option<Secret>,
    /// Read anew before each request, so that a rotated token is picked up.
    pub token_file: Option<PathBuf>,
    /// PEM; added to the system's roots for https.
    pub ca_file: Option<PathBuf>,
    /// At once, of all pools that ask the same address.
    pub max_connections: usize,
}

/// `warning`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Warning {
    /// It gets sessions by `Weights.Warning`.
    Serve,
    /// It gets nothing new.
    Out,
}

/// `consistency`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// The leader answers, or a follower that the agent trusts (Consul's default).
    Default,
    /// Any server answers, also without a leader.
    Stale,
    /// The leader answers after asking a quorum.
    Consistent,
}

/// A value that no log line and no error may show.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"***\"")
    }
}

/// `tcp = { … }`: options of one side's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TcpOptions {
    /// `TCP_NODELAY`
    pub nodelay: bool,
    /// `SO_KEEPALIVE` and its times; `None` = off.
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT`: unacknowledged data older than this breaks the connection; `None` = the kernel's way.
    pub user_timeout: Option<Duration>,
    /// `SO_RCVBUF` in bytes, which also ends the kernel's own tuning; `None` = that tuning.
    pub receive_buffer: Option<u32>,
    /// `SO_SNDBUF` in bytes; the same.
    pub send_buffer: Option<u32>,
    /// Differentiated services code point of what is sent (RFC 2474), 0 to 63.
    pub dscp: Option<u8>,
}

/// `keepalive = { … }`, whole seconds as the kernel has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Keepalive {
    /// Quiet time before the first probe (`TCP_KEEPIDLE`).
    pub idle: Duration,
    /// Between probes (`TCP_KEEPINTVL`).
    pub interval: Duration,
    /// Unanswered probes that break the connection (`TCP_KEEPCNT`).
    pub count: u32,
}
