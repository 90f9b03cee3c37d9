//! Listening sockets: made, inherited, changed; and accepting from them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, SockRef, Socket as Raw, Type};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::{apply, option, watch};
use crate::config::{Listener, TcpOptions};

/// A listening socket; see [`listen`].
#[derive(Debug)]
pub(crate) struct Acceptor(AsyncFd<Arc<OwnedFd>>);

impl Acceptor {
    /// Takes over a listening, non-blocking socket; to be called on the worker that is going to accept.
    pub(in crate::proxy) fn new(fd: Arc<OwnedFd>) -> io::Result<Self> {
        watch(fd, Interest::READABLE).map(Acceptor)
    }

    /// Waits until a client may be waiting.
    ///
    /// # Cancel safety
    /// Safe: nothing is accepted.
    pub(in crate::proxy) async fn readable(&self) -> io::Result<Waiting<'_>> {
        self.0.readable().await.map(Waiting)
    }

    /// Accepts one connection, whatever the event loop knows; `None` = no client waits.
    pub(in crate::proxy) fn accept(&self) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
        accept(self.0.get_ref())
    }
}

/// Connections may be waiting. Remembers since when, so that an edge that comes meanwhile is not lost.
pub(in crate::proxy) struct Waiting<'a>(AsyncFdReadyGuard<'a, Arc<OwnedFd>>);

impl Waiting<'_> {
    /// Whether a client waits, without accepting.
    pub(in crate::proxy) fn somebody(&mut self) -> bool {
        let mut asked = [PollFd::new(self.0.get_inner(), PollFlags::IN)];
        // An error is for accept to show.
        let nobody = poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready == 0);
        if nobody {
            self.0.clear_ready();
        }
        !nobody
    }

    /// Accepts one connection; `None` = no client waits any more.
    pub(in crate::proxy) fn accept(&mut self) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
        let accepted = accept(self.0.get_inner())?;
        if accepted.is_none() {
            self.0.clear_ready();
        }
        Ok(accepted)
    }
}

fn accept(listening: &Arc<OwnedFd>) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
    loop {
        match rustix::net::acceptfrom_with(listening, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((fd, peer)) => {
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                let Some(peer) = peer else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
                return Ok(Some((fd, plain(peer))));
            }
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// IPv4 that came in on a socket of IPv6 is IPv4 again: from here on a client has one name, in logs, lists, headers and
/// rules.
pub(in crate::proxy) fn plain(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), peer.port()),
        IpAddr::V6(_) => peer,
    }
}

/// A bound socket that listens, non-blocking.
///
/// # Errors
/// As `bind(2)` and `listen(2)` say. No other process of this machine gets the address: no `SO_REUSEPORT`.
pub(crate) fn listen(address: SocketAddr, only_v6: bool, settings: &Listener) -> io::Result<OwnedFd> {
    let raw = Raw::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Only against TIME_WAIT of an earlier run; another listener on this port is still an error.
    raw.set_reuse_address(true)?;
    if address.is_ipv6() {
        raw.set_only_v6(only_v6)?;
    }
    prepare(&raw, address, settings)?;
    raw.bind(&address.into())?;
    raw.listen(i32::try_from(settings.backlog).unwrap_or(i32::MAX))?;
    Ok(raw.into())
}

/// Where a listening socket listens.
///
/// # Errors
/// If it is no TCP socket.
pub(crate) fn local_address(fd: &impl AsFd) -> io::Result<SocketAddr> {
    let raw = SockRef::from(fd);
    if raw.r#type()? != Type::STREAM {
        return Err(io::Error::other("not a stream socket"));
    }
    raw.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an internet socket"))
}

/// Whether clients may come over IPv4 to a socket of IPv6.
pub(crate) fn takes_ipv4(fd: &impl AsFd) -> bool {
    // That of IPv4 has no such option.
    SockRef::from(fd).only_v6().is_ok_and(|only| !only)
}

/// Makes an inherited socket one of ours.
///
/// # Errors
/// As `fcntl(2)` says, or if it does not listen.
pub(crate) fn adopt(fd: &OwnedFd, settings: &Listener) -> io::Result<()> {
    let raw = SockRef::from(fd);
    if !raw.is_listener()? {
        return Err(io::Error::other("not a listening socket"));
    }
    prepare(&raw, local_address(fd)?, settings)?;
    raw.set_nonblocking(true)
}

/// Gives a listening socket other options; those that wait keep theirs.
///
/// # Errors
/// As `setsockopt(2)` and `listen(2)` say.
pub(crate) fn change(fd: &OwnedFd, settings: &Listener) -> io::Result<()> {
    let raw = SockRef::from(fd);
    let address = local_address(fd)?;
    let TcpOptions { nodelay, keepalive, user_timeout, dscp, .. } = settings.tcp;
    // What is off is the kernel's default on a new socket, so that only here it is to be said.
    raw.set_tcp_nodelay(nodelay)?;
    raw.set_keepalive(keepalive.is_some())?;
    raw.set_tcp_user_timeout(user_timeout)?;
    if dscp.is_none() {
        apply(&raw, address, &TcpOptions { dscp: Some(0), ..settings.tcp })?;
    }
    if !settings.fast_open {
        option::fast_open(&raw, 0)?;
    }
    if settings.defer_accept.is_none() {
        option::defer_accept(&raw, Duration::ZERO)?;
    }
    prepare(&raw, address, settings)?;
    raw.listen(i32::try_from(settings.backlog).unwrap_or(i32::MAX))
}

/// Accepted sockets inherit the options of one side on Linux: no system call per connection.
fn prepare(raw: &Raw, address: SocketAddr, settings: &Listener) -> io::Result<()> {
    apply(raw, address, &settings.tcp)?;
    if settings.fast_open {
        option::fast_open(raw, settings.backlog)?;
    }
    if let Some(wait) = settings.defer_accept {
        option::defer_accept(raw, wait)?;
    }
    Ok(())
}
