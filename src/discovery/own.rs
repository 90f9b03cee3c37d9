//! The addresses on which this process itself listens. An instance at one of them is none: its sessions would come back to
//! us, and each would bring the next. `server` says where we listen; every follower asks here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::dialled;

/// A listening socket of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The listener's name.
    pub listener: Arc<str>,
    /// Where it listens, port 0 resolved.
    pub address: SocketAddr,
    /// Whether an IPv6 socket takes IPv4 as well.
    pub takes_ipv4: bool,
}

/// All of them, as they are now.
pub type OwnAddresses = watch::Receiver<Arc<[OwnAddress]>>;

/// What the kernel has said of addresses, so that it is asked once about each.
#[derive(Debug, Default)]
pub struct Locals(RefCell<HashMap<IpAddr, bool>>);

impl Locals {
    /// Why nothing can be served at an address, if one of these listens there.
    pub fn loops(&self, fronts: &[OwnAddress], address: SocketAddr) -> Option<String> {
        let is_local = |ip| *self.0.borrow_mut().entry(ip).or_insert_with(|| is_local(ip));
        let front = fronts.iter().find(|front| front.is_at(address, is_local))?;
        let (listener, at) = (&front.listener, front.address);
        Some(format!("{address} is our own listener `{listener}` ({at}): its sessions would go round in a circle"))
    }
}

impl OwnAddress {
    fn is_at(&self, address: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
        let (ours, ip) = (self.address.ip().to_canonical(), dialled(address.ip()));
        if self.address.port() != address.port() {
            return false;
        }
        let same_family = ours.is_ipv4() == ip.is_ipv4() || self.takes_ipv4;
        ours == ip || ours.is_unspecified() && same_family && (ip.is_loopback() || is_local(ip))
    }
}

/// Whether it is an address of this machine. The kernel dials such an address from itself. (To bind it proves nothing where
/// `net.ipv4.ip_nonlocal_bind` is set.) No packet is sent.
fn is_local(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = || {
        let socket = UdpSocket::bind((any, 0))?;
        // Any port but 0 will do.
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    from().is_ok_and(|from| from.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front(address: &str, takes_ipv4: bool) -> OwnAddress {
        OwnAddress { listener: "web".into(), address: address.parse().unwrap(), takes_ipv4 }
    }

    #[test]
    fn an_address_is_ours_however_it_is_written() {
        let of_this_machine = |ip: IpAddr| ["10.0.0.1", "fd00::1"].contains(&ip.to_string().as_str());
        for (ours, takes_ipv4, yes, no) in [
            (
                "127.0.0.1:80",
                false,
                &["127.0.0.1:80", "[::ffff:127.0.0.1]:80"][..],
                &["127.0.0.2:80", "127.0.0.1:81"][..],
            ),
            (
                "0.0.0.0:80",
                false,
                &["127.0.0.1:80", "127.9.9.9:80", "0.0.0.0:80", "10.0.0.1:80", "[::ffff:10.0.0.1]:80"],
                &["10.0.0.2:80", "10.0.0.1:81", "[::1]:80", "[fd00::1]:80"],
            ),
            (
                "[::]:80",
                true,
                &["127.0.0.1:80", "10.0.0.1:80", "[::1]:80", "[fd00::1]:80", "[::ffff:10.0.0.1]:80"],
                &["10.0.0.2:80", "[fd00::2]:80"],
            ),
            ("[::]:80", false, &["[::1]:80", "[fd00::1]:80"], &["127.0.0.1:80", "10.0.0.1:80"]),
            ("[::ffff:10.0.0.1]:80", false, &["10.0.0.1:80"], &["10.0.0.2:80"]),
            ("[fd00::1]:80", false, &["[fd00::1]:80"], &["[fd00::2]:80"]),
        ] {
            let front = front(ours, takes_ipv4);
            for address in yes {
                assert!(front.is_at(address.parse().unwrap(), of_this_machine), "{address} is {ours}");
            }
            for address in no {
                assert!(!front.is_at(address.parse().unwrap(), of_this_machine), "{address} is not {ours}");
            }
        }
    }

    #[test]
    fn the_kernel_knows_which_addresses_are_of_this_machine() {
        assert!(is_local([127, 0, 0, 1].into()));
        // Reserved for documentation: no machine has it.
        assert!(!is_local([192, 0, 2, 1].into()));
        assert!(!is_local("2001:db8::1".parse().unwrap()));
    }
}
