//! The listening sockets: opened here, or inherited from systemd and assigned to listeners.
//! Called by `Server::start` and `apply`.
//! All are opened before anything else starts, so that a port in use is an error and no half of a balancer.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Host, Source};
use crate::discovery::{Locals, OwnAddress};
use crate::proxy::{adopt, listen, local_address, takes_ipv4};

/// A socket that systemd passed (`sd_listen_fds(3)`).
#[derive(Debug)]
pub struct Inherited {
    /// `FileDescriptorName=`
    pub name: String,
    /// The socket.
    pub fd: OwnedFd,
}

/// Why a socket can't be opened.
#[derive(Debug, Error)]
pub enum SocketError {
    /// bind(2) or listen(2) failed.
    #[error("listener `{listener}` can't listen on {address}{}", hint(source))]
    Bind {
        /// Its name.
        listener: String,
        /// The configured address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Another listener of this process has the address, and gives it up only with this change.
    #[error(
        "listener `{listener}` can't listen on {address}: listener `{other}` still has {taken}; \
         apply a file without that first, or restart"
    )]
    Overlap {
        /// Its name.
        listener: String,
        /// The configured address.
        address: SocketAddr,
        /// The other one's name.
        other: String,
        /// The other one's address.
        taken: SocketAddr,
    },
    /// systemd passed it, but it can't be used.
    #[error("the socket `{name}` from systemd is of no use")]
    Inherited {
        /// `FileDescriptorName=`
        name: String,
        /// Why.
        source: io::Error,
    },
    /// systemd passed it, but no listener has its name or address.
    #[error(
        "no listener takes the socket `{name}` ({address}) from systemd: bind one to {address}, or say its name in \
         FileDescriptorName="
    )]
    Unmatched {
        /// `FileDescriptorName=`
        name: String,
        /// Where it listens.
        address: SocketAddr,
    },
}

/// The likely meaning of an error of bind(2), in brackets.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program listens there)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        _ => "",
    }
}

/// A listening socket that is not used yet.
#[derive(Debug)]
pub(super) struct Opened {
    /// Its address in the file; `None` = another one, from systemd.
    pub(super) written: Option<SocketAddr>,
    pub(super) fd: OwnedFd,
}

/// A listening socket in use.
#[derive(Debug)]
pub(super) struct BoundSocket {
    /// Its address in the file; `None` = another one, from systemd.
    pub(super) written: Option<SocketAddr>,
    /// Its real address, with the chosen port.
    pub(super) address: SocketAddr,
    /// The accept loop owns it. It is closed after the loop has accepted the last waiting client.
    pub(super) socket: Weak<OwnedFd>,
    /// Stops the accept loop.
    pub(super) stop: CancellationToken,
}

/// The sockets that a listener shall have.
#[derive(Debug, Default)]
pub(super) struct ListenPlan {
    /// Indexes of the sockets that stay, among those that it has.
    pub(super) kept: Vec<usize>,
    pub(super) opened: Vec<Opened>,
}

/// As [`open`], if some listeners run already; `running` has their sockets by name. A socket stays if its listener wants its
/// address. If only another listener wants it, that one gets it, with all clients that wait in it.
pub(super) fn reopen(
    listeners: &[config::Listener],
    running: &BTreeMap<String, Vec<BoundSocket>>,
) -> Result<Vec<ListenPlan>, SocketError> {
    let none = Vec::new();
    let mut all: Vec<ListenPlan> = Vec::new();
    for listener in listeners {
        let bound = running.get(&listener.name).unwrap_or(&none);
        let mut wanted = ListenPlan::default();
        // A socket from systemd can't be opened again.
        let listens = |bound: &BoundSocket| !bound.stop.is_cancelled();
        if bound.iter().any(|bound| bound.written.is_none() && listens(bound)) {
            wanted.kept = (0..bound.len()).collect();
        } else {
            for address in &listener.bind {
                let place = (0..bound.len())
                    .filter(|place| listens(&bound[*place]) && !wanted.kept.contains(place))
                    .find(|place| bound[*place].written == Some(*address));
                wanted.kept.extend(place);
            }
        }
        all.push(wanted);
    }
    let every: Vec<SocketAddr> = listeners.iter().flat_map(|listener| listener.bind.iter().copied()).collect();
    for (number, listener) in listeners.iter().enumerate() {
        let bound = running.get(&listener.name).unwrap_or(&none);
        if bound.iter().any(|bound| bound.written.is_none() && !bound.stop.is_cancelled()) {
            continue;
        }
        let mut kept: Vec<SocketAddr> = all[number].kept.iter().filter_map(|place| bound[*place].written).collect();
        for &address in &listener.bind {
            if let Some(at) = kept.iter().position(|kept| *kept == address) {
                kept.swap_remove(at);
                continue;
            }
            let fd = match released(address, running) {
                Some(fd) => fd,
                None => listen(address, only_v6(address, &every), listener)
                    .map_err(|source| bind_error(listener, address, source, running))?,
            };
            all[number].opened.push(Opened { written: Some(address), fd });
        }
    }
    Ok(all)
}

/// A second handle of the socket that has this address now. The file gives an address to one listener only, so the listener
/// that has it now does not want it any more.
fn released(address: SocketAddr, running: &BTreeMap<String, Vec<BoundSocket>>) -> Option<OwnedFd> {
    if address.port() == 0 {
        return None;
    }
    let same = running.values().flatten().filter(|bound| bound.written == Some(address));
    same.filter_map(|bound| bound.socket.upgrade()).find_map(|socket| socket.try_clone().ok())
}

fn bind_error(
    listener: &config::Listener,
    address: SocketAddr,
    source: io::Error,
    running: &BTreeMap<String, Vec<BoundSocket>>,
) -> SocketError {
    let overlaps = |bound: &&BoundSocket| {
        let (a, b) = (bound.address.ip(), address.ip());
        bound.address.port() == address.port() && (a == b || a.is_unspecified() || b.is_unspecified())
    };
    let of_ours = running.iter().find_map(|(name, all)| Some((name, all.iter().find(overlaps)?)));
    let listener = listener.name.clone();
    match of_ours {
        Some((other, bound)) if source.kind() == io::ErrorKind::AddrInUse => {
            SocketError::Overlap { listener, address, other: other.clone(), taken: bound.address }
        }
        _ => SocketError::Bind { listener, address, source },
    }
}

/// Opens the sockets of each listener, in the order of `listeners`. A listener with sockets from systemd binds no others.
pub(super) fn open(listeners: &[config::Listener], inherited: Vec<Inherited>) -> Result<Vec<ListenPlan>, SocketError> {
    let mut sockets: Vec<ListenPlan> = listeners.iter().map(|_| ListenPlan::default()).collect();
    let mut bound: Vec<Vec<SocketAddr>> = listeners.iter().map(|_| Vec::new()).collect();
    for Inherited { name, fd } in inherited {
        let address = local_address(&fd).map_err(|source| SocketError::Inherited { name: name.clone(), source })?;
        let by_name = listeners.iter().position(|listener| listener.name == name);
        let by_address = || listeners.iter().position(|listener| listener.bind.contains(&address));
        let Some(place) = by_name.or_else(by_address) else { return Err(SocketError::Unmatched { name, address }) };
        adopt(&fd, &listeners[place]).map_err(|source| SocketError::Inherited { name, source })?;
        let written = listeners[place].bind.contains(&address).then_some(address);
        sockets[place].opened.push(Opened { written, fd });
        bound[place].push(address);
    }
    let all: Vec<SocketAddr> = listeners.iter().flat_map(|listener| listener.bind.iter().copied()).collect();
    for (place, listener) in listeners.iter().enumerate() {
        // Sockets that it got by name may have other addresses; then these are its addresses.
        if !bound[place].is_empty() && !listener.bind.iter().any(|address| bound[place].contains(address)) {
            continue;
        }
        for &address in listener.bind.iter().filter(|address| !bound[place].contains(address)) {
            let fd = listen(address, only_v6(address, &all), listener).map_err(|source| SocketError::Bind {
                listener: listener.name.clone(),
                address,
                source,
            })?;
            sockets[place].opened.push(Opened { written: Some(address), fd });
        }
    }
    Ok(sockets)
}

/// The addresses on which the listeners will listen with these sockets, with the chosen ports.
pub(super) fn fronts(
    listeners: &[config::Listener],
    sockets: &[ListenPlan],
    running: &BTreeMap<String, Vec<BoundSocket>>,
) -> Arc<[OwnAddress]> {
    let mut fronts = Vec::new();
    for (listener, wanted) in listeners.iter().zip(sockets) {
        let name: Arc<str> = listener.name.as_str().into();
        let mut add = |fd: &OwnedFd| {
            // A listening socket has an address.
            let Ok(address) = local_address(fd) else { return };
            fronts.push(OwnAddress { listener: Arc::clone(&name), address, takes_ipv4: takes_ipv4(fd) });
        };
        let bound = running.get(&listener.name).map_or(&[][..], Vec::as_slice);
        let kept = wanted.kept.iter().filter_map(|place| bound.get(*place)?.socket.upgrade());
        kept.for_each(|socket| add(&socket));
        wanted.opened.iter().for_each(|opened| add(&opened.fd));
    }
    fronts.into()
}

/// Configured backends that are listeners of this process: one line each. Cases that are certain from the file alone are
/// errors already.
pub fn loops(config: &config::Config) -> Vec<String> {
    let every: Vec<_> = config.listeners.iter().flat_map(|listener| listener.bind.iter().copied()).collect();
    let front = |listener: &config::Listener, address: SocketAddr| OwnAddress {
        listener: listener.name.as_str().into(),
        address,
        takes_ipv4: address.is_ipv6() && !only_v6(address, &every),
    };
    let mut fronts = Vec::new();
    for listener in &config.listeners {
        fronts.extend(listener.bind.iter().map(|address| front(listener, *address)));
    }
    let (locals, mut lines) = (Locals::default(), Vec::new());
    for pool in &config.pools {
        let Source::Static(backends) = &pool.source else { continue };
        for backend in backends {
            let Host::Ip(ip) = backend.address.host else { continue };
            let why = locals.loops(&fronts, SocketAddr::new(ip, backend.address.port));
            lines.extend(why.map(|why| format!("[pools.{}]: {why}; it is left out", pool.name)));
        }
    }
    lines
}

/// `[::]:port` accepts IPv4, too, unless the file has an IPv4 address with that port.
fn only_v6(address: SocketAddr, all: &[SocketAddr]) -> bool {
    let any_v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
    !address.ip().is_unspecified()
        || all.contains(&any_v4)
        || all.iter().any(|other| other.is_ipv4() && other.port() == address.port() && address.port() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v6_any_is_dual_stack_unless_v4_is_spoken_for() {
        let v6: SocketAddr = "[::]:80".parse().unwrap();
        assert!(!only_v6(v6, &[v6]));
        assert!(!only_v6(v6, &[v6, "0.0.0.0:81".parse().unwrap()]));
        assert!(only_v6(v6, &[v6, "0.0.0.0:80".parse().unwrap()]));
        assert!(only_v6(v6, &[v6, "127.0.0.1:80".parse().unwrap()]));
        assert!(only_v6("[::1]:80".parse().unwrap(), &[]));
    }
}
