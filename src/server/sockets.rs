//! The listening sockets: bound here, or inherited from systemd and matched to listeners. All of them are at hand before
//! anything else starts, so that a port that is taken is an error and not half a balancer.

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

/// Why a socket can't be had.
#[derive(Debug, Error)]
pub enum SocketError {
    /// bind(2) or listen(2) said no.
    #[error("listener `{listener}` can't listen on {address}{}", hint(source))]
    Bind {
        /// Its name.
        listener: String,
        /// As written.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Another listener of this process has it, and frees it only with this change.
    #[error(
        "listener `{listener}` can't listen on {address}: listener `{other}` still has {taken}; \
         apply a file without that first, or restart"
    )]
    Overlap {
        /// Its name.
        listener: String,
        /// As written.
        address: SocketAddr,
        /// The other one's name.
        other: String,
        /// The other one's address.
        taken: SocketAddr,
    },
    /// Passed, but of no use.
    #[error("the socket `{name}` from systemd is of no use")]
    Inherited {
        /// `FileDescriptorName=`
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Passed, but no listener wants it.
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

/// What `bind(2)`'s error may mean, in brackets.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program listens there)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        _ => "",
    }
}

/// A listening socket that is not in use yet.
#[derive(Debug)]
pub(super) struct Opened {
    /// As the file has it; `None` = another one, from systemd.
    pub(super) written: Option<SocketAddr>,
    pub(super) fd: OwnedFd,
}

/// A listening socket in use.
#[derive(Debug)]
pub(super) struct BoundSocket {
    /// As the file has it; `None` = another one, from systemd.
    pub(super) written: Option<SocketAddr>,
    /// Port 0 resolved.
    pub(super) address: SocketAddr,
    /// The one who accepts owns it: it is closed when that one has taken the last who waited.
    pub(super) socket: Weak<OwnedFd>,
    /// Ends the accepting.
    pub(super) stop: CancellationToken,
}

/// What a listener is to listen on after a change.
#[derive(Debug, Default)]
pub(super) struct ListenPlan {
    /// The places, among those that it has, of the sockets that stay.
    pub(super) kept: Vec<usize>,
    pub(super) opened: Vec<Opened>,
}

/// As [`open`], for listeners of which some run: by name, what they have bound. A socket stays where it is as long as its
/// listener wants its address; one that only another listener wants is handed over with everybody who waits in it.
pub(super) fn reopen(
    listeners: &[config::Listener],
    running: &BTreeMap<String, Vec<BoundSocket>>,
) -> Result<Vec<ListenPlan>, SocketError> {
    let none = Vec::new();
    let mut all: Vec<ListenPlan> = Vec::new();
    for listener in listeners {
        let bound = running.get(&listener.name).unwrap_or(&none);
        let mut wanted = ListenPlan::default();
        // What came from systemd by name can't be had again.
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
                    .map_err(|source| refused(listener, address, source, running))?,
            };
            all[number].opened.push(Opened { written: Some(address), fd });
        }
    }
    Ok(all)
}

/// A second handle of the socket that has this address now. The file gives an address to one listener only, so whoever has
/// it and is not the one who asks does not want it any more.
fn released(address: SocketAddr, running: &BTreeMap<String, Vec<BoundSocket>>) -> Option<OwnedFd> {
    if address.port() == 0 {
        return None;
    }
    let same = running.values().flatten().filter(|bound| bound.written == Some(address));
    same.filter_map(|bound| bound.socket.upgrade()).find_map(|socket| socket.try_clone().ok())
}

fn refused(
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

/// The sockets of each listener, in the order of `listeners`. A listener that gets sockets from systemd binds none.
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
        // By name it may have got sockets on other addresses: those are its addresses then.
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

/// Where the listeners will listen with these sockets, port 0 resolved.
pub(super) fn fronts(
    listeners: &[config::Listener],
    sockets: &[ListenPlan],
    running: &BTreeMap<String, Vec<BoundSocket>>,
) -> Arc<[OwnAddress]> {
    let mut fronts = Vec::new();
    for (listener, wanted) in listeners.iter().zip(sockets) {
        let name: Arc<str> = listener.name.as_str().into();
        let mut add = |fd: &OwnedFd| {
            // It is listening: it has an address.
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

/// Backends that are written by the address of a listener, on this machine: one line each. What is certain from the file alone
/// is an error there already.
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

/// `[::]:port` takes IPv4 as well, unless the file gives IPv4 on that port to somebody.
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
