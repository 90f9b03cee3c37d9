//! What others see of a live session: copies, and what is lent to choose some of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::pool::{Backend, Pool};
use crate::proxy::forced_end::ForcedEnd;
use crate::proxy::listener::Listener;
use crate::route::hello::ClientHello;

/// Identifies a live session. It is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    /// The number in the log.
    pub id: u64,
    pub(super) worker: u32,
    pub(super) place: u32,
}

impl SessionKey {
    /// The number of the worker that it lives on.
    pub fn worker(&self) -> usize {
        self.worker as usize
    }
}

words! {
    /// How far a session has come.
    #[repr(u8)]
    pub enum Phase {
        /// It waits for a PROXY header.
        Identifying = "identifying",
        /// It waits for the client's first bytes, which its route needs.
        Sniffing = "sniffing",
        /// It waits in the pool's queue.
        Queued = "queued",
        /// It connects to a backend.
        Connecting = "connecting",
        /// It is connected to a backend.
        Relaying = "relaying",
        /// One side has finished; the other one goes on.
        HalfClosed = "half_closed",
    }
}

/// A copy of what is known about a live session.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Its identity.
    pub key: SessionKey,
    /// Its listener.
    pub listener: Arc<Listener>,
    /// The pool that serves it, or that it is routed to; `None` = it has no route yet.
    pub pool: Option<Arc<Pool>>,
    /// The pool that it was routed to, if a fallback of that serves it.
    pub fallback_of: Option<Arc<Pool>>,
    /// What its route was decided by; `None` = its listener has no routes, or it has none yet.
    pub routed_by: Option<RoutedBy>,
    /// The client's address.
    pub client: SocketAddr,
    /// The peer's address: a proxy's, if its header names another client.
    pub peer: SocketAddr,
    /// How far it has come.
    pub phase: Phase,
    /// When it was accepted.
    pub began: Instant,
    /// Its backend side, once it is connected.
    pub leg: Option<LegView>,
    /// Backends that failed it, and how; `None` = none did.
    pub failed_attempts: Option<Box<str>>,
    /// Why it is being ended from outside, if it is.
    pub cut: Option<ForcedEnd>,
}

/// A session's backend side.
#[derive(Clone, Debug)]
pub struct LegView {
    /// The backend.
    pub backend: Arc<Backend>,
    /// The address that was dialled.
    pub address: SocketAddr,
    /// Our own address towards it.
    pub local: Option<SocketAddr>,
    /// When it was reached.
    pub connected: Instant,
    /// When a byte last moved, or a side last finished; to the millisecond.
    pub last_activity: Instant,
    /// Bytes to the backend.
    pub to_backend: u64,
    /// Bytes to the client.
    pub to_client: u64,
    /// Whether the client has finished, and whether the backend has: then no more bytes come from there.
    pub finished: [bool; 2],
    /// Whether its limit of bandwidth has held up bytes to the backend, and bytes to the client.
    pub throttled: [bool; 2],
}

/// What is needed to choose sessions. Borrowed, so that visiting many does not contend for reference counts that workers
/// use.
#[derive(Debug)]
pub struct SessionRef<'a> {
    /// Its identity.
    pub key: SessionKey,
    /// Its listener.
    pub listener: &'a Listener,
    /// The pool that serves it, or that it is routed to; `None` = it has no route yet.
    pub pool: Option<&'a Pool>,
    /// The pool that it was routed to, if a fallback of that serves it.
    pub fallback_of: Option<&'a Arc<Pool>>,
    /// Once it is connected: the backend, and the address that was dialled.
    pub backend: Option<(&'a Arc<Backend>, SocketAddr)>,
    /// When it was accepted.
    pub began: Instant,
    /// When bytes last moved.
    pub idle_since: Instant,
    /// Whether it was told to end.
    pub is_ending: bool,
}

/// What a route was decided by.
#[derive(Clone, Debug)]
pub struct RoutedBy {
    /// The number of the route; `None` = none took the session, and it is in the listener's own pool.
    pub route: Option<usize>,
    /// The client's ClientHello, if it was read.
    pub hello: Option<Arc<ClientHello>>,
    /// What the client sent first, as far as it is kept.
    pub first_bytes: Box<[u8]>,
    /// Whether that is all that the client had to say, and nothing more was read.
    pub is_all: bool,
    /// The random number of the session.
    pub lot: u64,
}

impl RoutedBy {
    /// The name of the server that the client asks for.
    pub fn server_name(&self) -> Option<&str> {
        self.hello.as_ref()?.server_name.as_deref()
    }

    /// The protocols that the client offers, printable.
    pub fn protocols(&self) -> Option<String> {
        let hello = self.hello.as_ref().filter(|hello| !hello.alpn.is_empty())?;
        let names: Vec<_> = hello.alpn.iter().map(|protocol| protocol.escape_ascii().to_string()).collect();
        Some(names.join(","))
    }
}
