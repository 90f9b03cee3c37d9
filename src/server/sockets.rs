//! The listening sockets: bound here, or inherited from systemd and matched to listeners. All of them are at hand before
//! anything else starts, so that a port that is taken is an error and not half a balancer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use thiserror::Error;

use crate::config;
use crate::proxy::{adopt, listen, local_address};

/// A socket that systemd passed (`sd_listen_fds(3)`).
#[derive(Debug)]
pub struct Inherited {
    /// `FileDescriptorName=`
    pub name: String,
    /// The socket.
    pub fd: OwnedFd,
}

/// Why a socket is not at hand.
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
        "no listener takes the socket `{name}` ({address}) from systemd: name a listener `{name}`, or bind one to {address}"
    )]
    Unmatched {
        /// `FileDescriptorName=`
        name: String,
        /// Where it listens.
        address: SocketAddr,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program listens there)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        _ => "",
    }
}

/// The sockets of each listener, in the order of `listeners`. A listener that gets sockets from systemd binds none.
pub(super) fn open(
    listeners: &[config::Listener],
    inherited: Vec<Inherited>,
) -> Result<Vec<Vec<OwnedFd>>, SocketError> {
    let mut sockets: Vec<Vec<OwnedFd>> = listeners.iter().map(|_| Vec::new()).collect();
    let mut bound: Vec<Vec<SocketAddr>> = listeners.iter().map(|_| Vec::new()).collect();
    for Inherited { name, fd } in inherited {
        let address = local_address(&fd).map_err(|source| SocketError::Inherited { name: name.clone(), source })?;
        let by_name = listeners.iter().position(|listener| listener.name == name);
        let by_address = || listeners.iter().position(|listener| listener.bind.contains(&address));
        let Some(place) = by_name.or_else(by_address) else { return Err(SocketError::Unmatched { name, address }) };
        adopt(&fd, &listeners[place]).map_err(|source| SocketError::Inherited { name, source })?;
        sockets[place].push(fd);
        bound[place].push(address);
    }
    let all: Vec<SocketAddr> = listeners.iter().flat_map(|listener| listener.bind.iter().copied()).collect();
    for (place, listener) in listeners.iter().enumerate() {
        // By name it may have got sockets on other addresses: those are its addresses then.
        if !bound[place].is_empty() && !listener.bind.iter().any(|address| bound[place].contains(address)) {
            continue;
        }
        for &address in listener.bind.iter().filter(|address| !bound[place].contains(address)) {
            let socket = listen(address, only_v6(address, &all), listener).map_err(|source| SocketError::Bind {
                listener: listener.name.clone(),
                address,
                source,
            })?;
            sockets[place].push(socket);
        }
    }
    Ok(sockets)
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
